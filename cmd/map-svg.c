/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * map-svg.c - which layer of a chain holds what, as a picture
 *
 * One lane for each layer, the image itself on top, and below them what the guest sees.  A lane is
 * as wide as the disk; a column's opacity says how much of it comes from that layer.  A line at the
 * foot of a lane is where zeroes hide what lies below.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map.h"
#include "open.h"

#define COLUMNS 1000U			/* of the picture's plot; a unit each */
#define LEFT 20U
#define LANE 34U
#define GAP 24U
#define TOP 64U

struct lane {
	uint64_t data, zero;
	uint64_t columns[COLUMNS];	/* bytes from this layer */
	uint64_t zeroes[COLUMNS];	/* bytes that it hides behind zeroes */
};

struct picture {
	uint64_t start, end;
	unsigned layers;
	struct lane *lane;
	uint64_t nothing;
};

/* Where column @i begins: start + bytes * i / COLUMNS without overflow. */
static uint64_t column_start(const struct picture *p, unsigned i)
{
	uint64_t bytes = p->end - p->start;

	return p->start + bytes / COLUMNS * i + bytes % COLUMNS * i / COLUMNS;
}

static unsigned column_of(const struct picture *p, uint64_t off)
{
	unsigned lo = 0, hi = COLUMNS;	/* lo begins at or before off, hi after it */

	while (hi - lo > 1) {
		unsigned mid = (lo + hi) / 2;

		if (column_start(p, mid) <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static int add_row(void *arg, const struct map_row *row)
{
	struct picture *p = arg;
	struct lane *lane = p->lane + MIN(row->depth, p->layers - 1);
	uint64_t off = row->start, end = row->start + row->len, *columns = lane->columns;

	if (!row->data || row->zero) {
		if (!row->present || row->depth + 1 >= p->layers) {
			p->nothing += row->len;
			return 0;
		}
		lane->zero += row->len;
		columns = lane->zeroes;
	} else {
		lane->data += row->len;
	}
	for (unsigned i = column_of(p, off); off < end; i++) {
		uint64_t stop = i + 1 < COLUMNS ? MIN(end, column_start(p, i + 1)) : end;

		columns[MIN(i, COLUMNS - 1)] += stop - off;
		off = stop;
	}
	return 0;
}

static void put_text(FILE *f, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '&': fputs("&amp;", f); break;
		case '<': fputs("&lt;", f); break;
		case '>': fputs("&gt;", f); break;
		case '"': fputs("&quot;", f); break;
		default: fputc((unsigned char)*text < 0x20 ? '?' : *text, f);
		}
	}
}

/* How full a column is, in eighths; anything at all is at least one. */
static unsigned level(const struct picture *p, const uint64_t *columns, unsigned i)
{
	uint64_t next = i + 1 < COLUMNS ? column_start(p, i + 1) : p->end;
	uint64_t width = next - column_start(p, i);
	uint64_t have = columns[i];

	if (!have || !width)
		return 0;
	return (unsigned)MAX(1, MIN(8, div_up(have, div_up(width, 8))));
}

/* Neighbours of one level are one rectangle. */
static void put_columns(FILE *f, const struct picture *p, const uint64_t *columns,
			const char *colour, unsigned y, unsigned height)
{
	for (unsigned i = 0, n; i < COLUMNS; i += n) {
		unsigned l = level(p, columns, i);

		for (n = 1; i + n < COLUMNS && level(p, columns, i + n) == l; n++)
			;
		if (l)
			fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" fill=\"%s\" "
				"fill-opacity=\"%.2f\"/>\n", LEFT + i, y, n, height, colour,
				0.3 + 0.7 * l / 8);
	}
}

static void put_lane_label(FILE *f, const char *name, unsigned layer, const struct lane *lane,
			   const struct picture *p, unsigned y)
{
	uint64_t bytes = p->end - p->start;
	char size[32];

	fprintf(f, "<text x=\"%u\" y=\"%u\">", LEFT, y - 6);
	fprintf(f, "%u: ", layer);
	put_text(f, name);
	fprintf(f, " &#8212; %s (%.1f %%)", print_size(size, lane->data),
		bytes ? 100.0 * (double)lane->data / (double)bytes : 0);
	if (lane->zero)
		fprintf(f, ", %s of zeroes", print_size(size, lane->zero));
	fprintf(f, "</text>\n<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" class=\"lane\"/>\n", LEFT,
		y, COLUMNS, LANE);
}

static void put_axis(FILE *f, const struct picture *p, unsigned y)
{
	char size[32];

	for (unsigned i = 0; i <= 4; i++) {
		unsigned x = LEFT + COLUMNS * i / 4;

		fprintf(f, "<line x1=\"%u\" y1=\"%u\" x2=\"%u\" y2=\"%u\" stroke=\"#888\"/>\n"
			"<text x=\"%u\" y=\"%u\" text-anchor=\"%s\">%s</text>\n", x, y, x, y + 6, x,
			y + 20, i == 0 ? "start" : i == 4 ? "end" : "middle",
			print_size(size, i == 4 ? p->end : column_start(p, COLUMNS / 4 * i)));
	}
}

static void put_picture(FILE *f, const struct picture *p, struct tapimg *img)
{
	unsigned bottom = TOP + p->layers * (LANE + GAP), height = bottom + LANE + 64;
	char size[32];

	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" width=\"%u\" "
		"height=\"%u\" font-family=\"sans-serif\" font-size=\"12\">\n"
		"<style>.lane{fill:#eee;stroke:#bbb}text{fill:#222}</style>\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
		"<text x=\"%u\" y=\"26\" font-size=\"16\">", COLUMNS + 2 * LEFT, height,
		COLUMNS + 2 * LEFT, height, LEFT);
	put_text(f, map_layer_name(img, 0));
	fprintf(f, ": %s in %u layer%s</text>\n", print_size(size, p->end - p->start), p->layers,
		p->layers == 1 ? "" : "s");
	for (unsigned i = 0; i < p->layers; i++) {
		unsigned y = TOP + i * (LANE + GAP);

		put_lane_label(f, map_layer_name(img, i), i, p->lane + i, p, y);
		put_columns(f, p, p->lane[i].columns, map_colour(i)->hex, y, LANE);
		put_columns(f, p, p->lane[i].zeroes, map_colour(i)->hex, y + LANE - 4, 4);
	}
	fprintf(f, "<text x=\"%u\" y=\"%u\">what the guest sees &#8212; %s in no layer: reads as "
		"zeroes</text>\n<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" class=\"lane\"/>\n",
		LEFT, bottom - 6, print_size(size, p->nothing), LEFT, bottom, COLUMNS, LANE);
	for (unsigned i = 0; i < p->layers; i++)
		put_columns(f, p, p->lane[i].columns, map_colour(i)->hex, bottom, LANE);
	put_axis(f, p, bottom + LANE);
	fputs("</svg>\n", f);
}

/* Whether @id is the data file of one of @img's layers. */
static bool is_data_file(struct tapimg *img, const struct file_id *id, const char *file)
{
	for (; img; img = tapimg_backing(img)) {
		const struct tapimg_info *info;
		struct file_id stored, given;
		char *path;
		bool same;

		if (tapimg_info(img, &info, NULL) || !info->data_file)
			continue;
		path = name_resolve(img->path, info->data_file);
		if (!path)
			return true;	/* no memory to rule it out */
		stored = file_id_path(path);
		given = file_id_path(img->opts.data_file ? img->opts.data_file : path);
		same = file_id_same(id, file, &stored, path) || file_id_same(id, file, &given, path);
		free(path);
		if (same)
			return true;
	}
	return false;
}

static bool is_picture(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char head[5] = "";
	ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);

	if (fd >= 0)
		close(fd);
	return (n >= 4 && !memcmp(head, "<svg", 4)) || (n == 5 && !memcmp(head, "<?xml", 5));
}

/* Only a picture is replaced, and never a file that the image lives in. */
static int may_replace(struct cli *c, const char *file, struct tapimg *img)
{
	struct file_id id;
	struct stat st;

	if (stat(file, &st))
		return 0;	/* nothing is lost; whatever else is wrong shows when it is written */
	id = file_id_path(file);
	if (chain_find_file(img, &id, file) || is_data_file(img, &id, file)) {
		cli_error(c, "%s: is a file of the image itself; a picture would destroy it", file);
		return -1;
	}
	if (!S_ISREG(st.st_mode) || !is_picture(file)) {
		cli_error(c, "%s: exists and is not a picture (SVG); it is not replaced", file);
		return -1;
	}
	return 0;
}

/* Under a temporary name first, so that what was there stays until the picture is whole. */
static int save(struct cli *c, const char *file, const struct picture *p, struct tapimg *img)
{
	char *temp = NULL;
	mode_t mask = umask(0);
	FILE *f = NULL;
	int fd = -1, ret = 1;

	umask(mask);
	if (asprintf(&temp, "%s.XXXXXX", file) >= 0)
		fd = mkstemp(temp);
	if (fd >= 0)
		f = fdopen(fd, "w");
	if (f) {
		put_picture(f, p, img);
		fchmod(fd, 0666 & ~mask);
		ret = fflush(f) || ferror(f) || fsync(fd);
		ret |= fclose(f) != 0;
		ret = ret || rename(temp, file);
	}
	if (ret)
		cli_error(c, "%s: the picture could not be written: %s", file, strerror(errno));
	if (ret && fd >= 0)
		unlink(temp);
	free(temp);
	return ret ? 1 : 0;
}

int map_svg(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end, const char *file)
{
	struct picture p = { .start = start, .end = end, .layers = map_layers(img) };
	int ret;

	if (strcmp(file, "-") && may_replace(c, file, img))
		return 1;
	p.lane = calloc(p.layers + 1, sizeof(*p.lane));
	if (!p.lane) {
		cli_error(c, "%s: no memory for the drawing", tapimg_filename(img));
		return 1;
	}
	ret = map_walk(c, img, start, end, add_row, &p);
	if (!ret && !strcmp(file, "-"))
		put_picture(stdout, &p, img);
	else if (!ret)
		ret = save(c, file, &p, img);
	free(p.lane);
	return ret;
}
