/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * map.c - tapimg map: where the bytes of the guest's disk are
 *
 * The table for people lists what is stored as plain bytes somewhere; JSON lists everything.
 */
#include <inttypes.h>
#include <unistd.h>

#include "map.h"

enum { VAL_DRAW = OPT_LONG, VAL_SVG, VAL_WIDTH, VAL_COLOUR };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ 's', "start-offset", "SIZE", "begin there", NULL },
	{ 'l', "max-length", "SIZE", "stop after so many bytes", NULL },
	OPT_OUTPUT,
	{ VAL_DRAW, "draw", NULL, "draw which layer of the chain holds what", NULL },
	{ VAL_SVG, "svg", "FILE", "draw it as a picture; '-' is standard output", "FILE" },
	{ VAL_WIDTH, "width", "COLUMNS", "of the drawing (default: the terminal's)", NULL },
	{ VAL_COLOUR, "color", "WHEN", "colours in the drawing: auto, always or never",
	  "auto|always|never" },
	{ VAL_COLOUR, "colour", "WHEN", NULL, "auto|always|never" },
	OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	uint64_t start, max;
	bool draw;
	const char *svg;
	struct draw_opts how;
};

/* ------------------------------------------------------------------- walk */

static void make_row(struct map_row *row, const struct tapimg_status *st)
{
	row->start = st->off;
	row->len = st->len;
	/* where a layer ends early, what lies beyond is the doing of the one above it */
	row->depth = st->depth - (st->flags & TAPIMG_ST_EOF && st->depth);
	row->present = st->flags & TAPIMG_ST_ALLOCATED;
	row->zero = st->flags & TAPIMG_ST_ZERO;
	row->data = st->flags & TAPIMG_ST_DATA;
	row->compressed = st->flags & TAPIMG_ST_COMPRESSED;
	row->has_offset = st->flags & TAPIMG_ST_OFFSET;
	row->offset = st->host;
	row->filename = st->filename;
}

static bool same_file(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool goes_on(const struct map_row *a, const struct map_row *b)
{
	return a->depth == b->depth && a->present == b->present && a->zero == b->zero &&
		a->data == b->data && a->compressed == b->compressed &&
		a->has_offset == b->has_offset &&
		(!a->has_offset || (a->offset + a->len == b->offset &&
				    same_file(a->filename, b->filename)));
}

int map_walk(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end, map_row_fn *fn,
	     void *arg)
{
	struct map_row row = { 0 }, next;
	struct tapimg_status st;
	int ret;

	for (uint64_t off = start; off < end; off += st.len) {
		ret = tapimg_block_status(img, off, end - off, 0, &st);
		if (!ret && !st.len)
			ret = -EIO;
		if (ret) {
			cli_error(c, "%s: The map at offset %" PRIu64 " could not be read: %s",
				  tapimg_filename(img), off, strerror(-ret));
			return 1;
		}
		make_row(&next, &st);
		if (row.len && goes_on(&row, &next)) {
			row.len += next.len;
			continue;
		}
		ret = row.len ? fn(arg, &row) : 0;
		if (ret)
			return ret;
		row = next;
	}
	return row.len ? fn(arg, &row) : 0;
}

/* ------------------------------------------------------------- the two lists */

static int print_human(void *arg, const struct map_row *row)
{
	const struct cli *c = arg;

	if (!row->data || row->zero)
		return 0;
	if (!row->has_offset) {
		cli_error(c, "File contains external, encrypted or compressed clusters: there are some "
			  "at offset %" PRIu64 ", for which --output=json is needed.", row->start);
		return 1;
	}
	printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64, row->start, row->len, row->offset);
	print_text(stdout, row->filename ? row->filename : "");
	putchar('\n');
	return 0;
}

static int print_json(void *arg, const struct map_row *row)
{
	bool *first = arg;

	printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, "
	       "\"present\": %s, \"zero\": %s, \"data\": %s, \"compressed\": %s",
	       *first ? "" : ",\n", row->start, row->len, row->depth,
	       row->present ? "true" : "false", row->zero ? "true" : "false",
	       row->data ? "true" : "false", row->compressed ? "true" : "false");
	if (row->has_offset)
		printf(", \"offset\": %" PRIu64, row->offset);
	putchar('}');
	*first = false;
	return 0;
}

static int list(struct cli *c, struct tapimg *img, const struct args *a, uint64_t end)
{
	bool first = true;
	int ret;

	if (!a->common.json) {
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
		return map_walk(c, img, a->start, end, print_human, c);
	}
	putchar('[');
	ret = map_walk(c, img, a->start, end, print_json, &first);
	puts("]");
	return ret;
}

/* ----------------------------------------------------------------- options */

static int take_colour(struct cli *c, const char *text, struct draw_opts *how)
{
	const char *term = getenv("TERM"), *none = getenv("NO_COLOR");

	how->colour = !strcmp(text, "always");
	if (how->colour || !strcmp(text, "never"))
		return 0;
	if (strcmp(text, "auto") != 0)
		return cli_usage_error(c, "--color wants auto, always or never, not '%s'", text);
	how->colour = isatty(STDOUT_FILENO) && !(none && *none) && term &&
		strcmp(term, "dumb") != 0;
	return 0;
}

/* The locale's own answer would cost loading it. */
static bool utf8_wanted(void)
{
	static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		const char *v = getenv(names[i]);

		if (v && *v)
			return strstr(v, "UTF-8") || strstr(v, "utf8") || strstr(v, "UTF8") ||
				strstr(v, "utf-8");
	}
	return false;
}

static int take(struct cli *c, int val, struct args *a)
{
	uint64_t num;

	switch (val) {
	case 's':
		return cli_size(c, "start offset", optarg, 0, INT64_MAX, &a->start);
	case 'l':
		return cli_size(c, "max length", optarg, 0, INT64_MAX, &a->max);
	case VAL_DRAW:
		a->draw = true;
		return 0;
	case VAL_SVG:
		a->svg = optarg;
		return 0;
	case VAL_WIDTH:
		if (cli_number(c, "width", optarg, 20, 1000, &num))
			return -1;
		a->how.width = (unsigned)num;
		return 0;
	case VAL_COLOUR:
		return take_colour(c, optarg, &a->how);
	default:
		return cli_common(c, val, &a->common) < 0 ? -1 : 0;
	}
}

static int run(struct cli *c)
{
	struct args a = { .max = INT64_MAX };
	struct tapimg *img;
	uint64_t end;
	int val, ret;

	take_colour(c, "auto", &a.how);
	a.how.unicode = utf8_wanted() && isatty(STDOUT_FILENO);
	while ((val = cli_getopt(c)) > 0) {
		if (take(c, val, &a))
			return 1;
	}
	if (val < 0)
		return c->status;
	if (cli_expect(c, 1, 1))
		return 1;
	if (cli_open(c, cli_operand(c), &a.common.how, 0, &img))
		return 1;
	a.how.unicode |= a.how.colour && utf8_wanted();
	end = tapimg_size(img);
	a.start = MIN(a.start, end);
	end = MIN(end, a.start + a.max);
	ret = 0;
	if (a.svg)
		ret = map_svg(c, img, a.start, end, a.svg);
	if (!ret && a.draw)
		ret = map_draw(c, img, a.start, end, &a.how);
	if (!a.svg && !a.draw)
		ret = list(c, img, &a, end);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_map = {
	.name = "map",
	.run = run,
	.usage = "[-f FORMAT] [--start-offset=SIZE] [--max-length=SIZE] [--output=KIND | --draw | "
		 "--svg=FILE] [-U] FILE",
	.summary = "show where the bytes of a disk are, and in which layer",
	.options = options,
};
