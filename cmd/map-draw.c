/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * map-draw.c - which layer of a chain holds what, drawn with characters
 *
 * The disk is cut into cells of equal size, row by row.  A cell shows the layer that most of its
 * stored bytes come from, and how full it is.  Without colours the layer is a letter: 0 is the
 * image itself.  Zeroes are shown where they hide a layer below; those of the last layer are as
 * good as nothing.  The legend counts exactly.
 */
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "map.h"

#define MAX_ROWS 16
#define LABEL 11			/* columns for the offset before each row */
#define NOTHING UINT32_MAX

static const struct map_colour colours[] = {
	{ 39, "#1f9bde" }, { 208, "#f28e2b" }, { 76, "#59a14f" }, { 170, "#b65fcf" },
	{ 220, "#d9b310" }, { 44, "#17a5a5" }, { 203, "#e15759" }, { 147, "#8f9bd4" },
	{ 173, "#b07a5a" }, { 250, "#8a8a8a" },
};

const struct map_colour *map_colour(unsigned layer)
{
	return colours + layer % ARRAY_SIZE(colours);
}

static struct tapimg *layer_at(struct tapimg *img, unsigned layer)
{
	while (img && layer--)
		img = tapimg_backing(img);
	return img;
}

unsigned map_layers(struct tapimg *img)
{
	unsigned n = 0;

	for (; img; img = tapimg_backing(img))
		n++;
	return n;
}

const char *map_layer_name(struct tapimg *img, unsigned layer)
{
	struct tapimg *at = layer_at(img, layer);
	const char *name = at ? tapimg_filename(at) : "?";
	const char *slash = strrchr(name, '/');

	return slash && slash[1] ? slash + 1 : name;
}

struct cell {
	uint32_t layer;			/* NOTHING: no layer stores anything */
	uint8_t fill;			/* eighths of the cell that are stored, at least 1 if anything */
	bool zero;			/* nothing stored, but marked as zeroes */
};

struct layer_sum {
	uint64_t data, zero, compressed;
	uint64_t here;			/* data in the cell being filled */
};

struct drawing {
	uint64_t start, end, cell_size;
	unsigned columns, cells, layers;
	struct cell *cell;
	struct layer_sum *sum;
	uint64_t nothing;
	unsigned at;			/* cell being filled */
	uint64_t here_zero;		/* explicit zeroes in it */
};

static void finish_cell(struct drawing *d)
{
	struct cell *cell = d->cell + d->at;
	uint64_t total = 0, best = 0;

	cell->layer = NOTHING;
	for (unsigned i = 0; i < d->layers; i++) {
		total += d->sum[i].here;
		if (d->sum[i].here > best) {
			best = d->sum[i].here;
			cell->layer = i;
		}
		d->sum[i].here = 0;
	}
	cell->zero = d->here_zero;
	cell->fill = total ? (uint8_t)MAX(1, MIN(8, div_up(total * 8, d->cell_size))) : 0;
	d->here_zero = 0;
	d->at++;
}

static void add_to_cell(struct drawing *d, const struct map_row *row, uint64_t len)
{
	struct layer_sum *sum = d->sum + MIN(row->depth, d->layers - 1);

	if (row->data && !row->zero) {
		sum->data += len;
		sum->here += len;
		if (row->compressed)
			sum->compressed += len;
	} else if (row->present && row->depth + 1 < d->layers) {
		sum->zero += len;
		d->here_zero += len;
	} else {
		d->nothing += len;
	}
}

static int add_row(void *arg, const struct map_row *row)
{
	struct drawing *d = arg;
	uint64_t off = row->start, end = row->start + row->len;

	while (off < end) {
		uint64_t cell_end = d->start + (d->at + 1) * d->cell_size;
		uint64_t len = MIN(end, cell_end) - off;

		add_to_cell(d, row, len);
		off += len;
		if (off == cell_end)
			finish_cell(d);
	}
	return 0;
}

/* Whole powers of two make offsets that people can read. */
static void choose_cells(struct drawing *d, const struct draw_opts *o)
{
	uint64_t bytes = d->end - d->start;
	struct winsize ws;
	unsigned width = o->width;

	if (!width)
		width = !ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) && ws.ws_col ? ws.ws_col : 80;
	d->columns = width > LABEL + 9 ? width - LABEL - 1 : 8;
	while (d->columns & (d->columns - 1))
		d->columns &= d->columns - 1;
	d->cell_size = 512;
	while (div_up(bytes, d->cell_size) > (uint64_t)d->columns * MAX_ROWS)
		d->cell_size *= 2;
	d->cells = (unsigned)div_up(bytes, d->cell_size);
}

static char plain_letter(unsigned layer)
{
	static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	return layer < sizeof(letters) - 1 ? letters[layer] : '*';
}

/* An escape sequence only where the colour changes. */
static void set_colour(uint32_t *now, uint32_t layer, const struct draw_opts *o)
{
	if (!o->colour || *now == layer)
		return;
	if (layer == NOTHING)
		fputs("\033[0m", stdout);
	else
		printf("\033[38;5;%um", map_colour(layer)->ansi);
	*now = layer;
}

static void print_cell(const struct cell *cell, const struct draw_opts *o)
{
	static const char *const shades[9] = { "·", "░", "░", "▒", "▒", "▓", "▓", "▓", "█" };

	if (cell->layer == NOTHING && o->unicode)
		fputs(cell->zero ? "◦" : "·", stdout);
	else if (cell->layer == NOTHING)
		putchar(cell->zero ? '-' : '.');
	else if (o->colour && o->unicode)
		fputs(shades[cell->fill], stdout);
	else
		putchar(plain_letter(cell->layer));
}

static void print_cells(const struct drawing *d, const struct draw_opts *o)
{
	uint32_t colour = NOTHING;
	char size[32];

	for (unsigned i = 0; i < d->cells; i++) {
		if (i % d->columns == 0)
			printf("%*s ", LABEL - 1, print_size(size, d->start + i * d->cell_size));
		set_colour(&colour, d->cell[i].layer, o);
		print_cell(d->cell + i, o);
		if (i % d->columns == d->columns - 1 || i == d->cells - 1) {
			set_colour(&colour, NOTHING, o);
			putchar('\n');
		}
	}
}

static void print_mark(unsigned layer, const struct draw_opts *o)
{
	if (o->colour)
		printf("  \033[38;5;%um%s\033[0m %-3u", map_colour(layer)->ansi,
		       o->unicode ? "██" : "##", layer);
	else
		printf("  %c     ", plain_letter(layer));
}

static void print_legend(const struct drawing *d, struct tapimg *img, const struct draw_opts *o)
{
	uint64_t bytes = d->end - d->start;
	char size[32];

	putchar('\n');
	for (unsigned i = 0; i < d->layers; i++) {
		const struct layer_sum *s = d->sum + i;
		int n;

		print_mark(i, o);
		n = print_text(stdout, map_layer_name(img, i));
		printf("%*s%10s %5.1f%%", n < 29 ? 29 - n : 1, "", print_size(size, s->data), bytes ? 100.0 * (double)s->data / (double)bytes : 0);
		if (s->compressed)
			printf(", %s compressed", print_size(size, s->compressed));
		if (s->zero)
			printf(", %s of zeroes", print_size(size, s->zero));
		putchar('\n');
	}
	printf("  %s     %-28s %10s %5.1f%%\n", o->unicode ? "·" : ".", "in no layer: reads as zeroes",
	       print_size(size, d->nothing), bytes ? 100.0 * (double)d->nothing / (double)bytes : 0);
}

int map_draw(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end,
	     const struct draw_opts *o)
{
	struct drawing d = { .start = start, .end = end, .layers = map_layers(img) };
	char total[32], cell[32];
	int ret = 1;

	choose_cells(&d, o);
	d.cell = calloc(d.cells + 1, sizeof(*d.cell));
	d.sum = calloc(d.layers + 1, sizeof(*d.sum));
	if (!d.cell || !d.sum) {
		cli_error(c, "%s: no memory for the drawing", tapimg_filename(img));
		goto out;
	}
	ret = map_walk(c, img, start, end, add_row, &d);
	if (ret)
		goto out;
	if (d.at < d.cells)
		finish_cell(&d);
	print_text(stdout, map_layer_name(img, 0));
	printf(": %s in %u layer%s, %s a character\n\n", print_size(total, end - start), d.layers, d.layers == 1 ? "" : "s",
	       print_size(cell, d.cell_size));
	print_cells(&d, o);
	print_legend(&d, img, o);
out:
	free(d.cell);
	free(d.sum);
	return ret;
}
