/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bitmap.c - tapimg bitmap: makes and changes the persistent bitmaps of an image
 *
 * Several actions may be given; they are done in their order, and the first that fails ends it.
 */
#include "cmd.h"

#define MAX_ACTIONS 64

enum { VAL_ADD = OPT_LONG, VAL_REMOVE, VAL_CLEAR, VAL_ENABLE, VAL_DISABLE, VAL_MERGE };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ VAL_ADD, "add", NULL, "make a bitmap", NULL },
	{ 'g', "granularity", "SIZE", "bytes that one bit of a new bitmap stands for", NULL },
	{ VAL_REMOVE, "remove", NULL, "delete a bitmap", NULL },
	{ VAL_CLEAR, "clear", NULL, "mark everything as unchanged", NULL },
	{ VAL_ENABLE, "enable", NULL, "let it record from now on", NULL },
	{ VAL_DISABLE, "disable", NULL, "let it record no longer", NULL },
	{ VAL_MERGE, "merge", "SOURCE", "add what another bitmap has marked", NULL },
	{ 'b', "source-file", "FILE", "the other bitmap is in that image", "FILE" },
	{ 'F', "source-format", "FORMAT", "that image's format", "FORMAT" },
	OPT_QUIET,
	{ 0 }
};

struct action {
	int val;
	const char *source;		/* of --merge */
};

struct args {
	struct cli_common common;
	struct action actions[MAX_ACTIONS];
	unsigned n;
	uint64_t granularity;
	const char *src_name, *src_format;
	bool add, merge;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		c->status = 1;
		if (val >= VAL_ADD && val <= VAL_MERGE) {
			if (a->n == MAX_ACTIONS) {
				cli_error(c, "More than %d actions", MAX_ACTIONS);
				return -1;
			}
			a->actions[a->n++] = (struct action){ val, val == VAL_MERGE ? optarg : NULL };
			a->add |= val == VAL_ADD;
			a->merge |= val == VAL_MERGE;
		} else if (val == 'g') {
			if (cli_size(c, "granularity", optarg, 1, UINT32_MAX, &a->granularity))
				return -1;
		} else if (val == 'b') {
			a->src_name = optarg;
		} else if (val == 'F') {
			a->src_format = optarg;
		} else if (cli_common(c, val, &a->common) < 0) {
			return -1;
		}
	}
	return val;
}

static int verify(struct cli *c, const struct args *a)
{
	if (cli_operands(c) != 2)
		return cli_usage_error(c, "Expecting filename and bitmap name");
	if (!a->n)
		return cli_usage_error(c, "Need at least one of --add, --remove, --clear, --enable, "
				       "--disable, or --merge");
	if (a->granularity && !a->add)
		return cli_usage_error(c, "granularity only supported with --add");
	if (a->src_format && !a->src_name)
		return cli_usage_error(c, "-F only supported with -b");
	if (a->src_name && !a->merge)
		return cli_usage_error(c, "Merge bitmap source file only supported with --merge");
	return 0;
}

static int act(const struct args *a, const struct action *act, struct tapimg *img,
	       struct tapimg *src, const char *bitmap, struct tapimg_err *err)
{
	switch (act->val) {
	case VAL_ADD:
		return tapimg_bitmap_add(img, bitmap, a->granularity, false, err);
	case VAL_REMOVE:
		return tapimg_bitmap_remove(img, bitmap, err);
	case VAL_CLEAR:
		return tapimg_bitmap_clear(img, bitmap, err);
	case VAL_ENABLE:
		return tapimg_bitmap_enable(img, bitmap, true, err);
	case VAL_DISABLE:
		return tapimg_bitmap_enable(img, bitmap, false, err);
	default:
		return tapimg_bitmap_merge(img, bitmap, src ? src : img, act->source, err);
	}
}

static int act_all(struct cli *c, const char *name, const struct args *a, struct tapimg *img,
		   struct tapimg *src, const char *bitmap)
{
	static const char *const words[] = { "add", "remove", "clear", "enable", "disable", "merge" };
	struct tapimg_err err = { 0 };
	int ret;

	for (unsigned i = 0; i < a->n; i++) {
		ret = act(a, a->actions + i, img, src, bitmap, &err);
		if (!ret)
			continue;
		cli_error(c, "%s: Operation %s on bitmap %s failed: %s", name,
			  words[a->actions[i].val - VAL_ADD], bitmap, cli_why(name, &err, ret));
		return 1;
	}
	return 0;
}

static int run(struct cli *c)
{
	struct tapimg *img = NULL, *src = NULL;
	struct cli_image src_how = { 0 };
	struct args a = { 0 };
	const char *name;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (verify(c, &a))
		return 1;
	name = cli_operand(c);
	src_how.format = a.src_format;
	if (a.src_name && cli_open(c, a.src_name, &src_how, TAPIMG_NO_BACKING | TAPIMG_NO_IO, &src))
		return 1;
	ret = cli_open(c, name, &a.common.how, TAPIMG_RDWR | TAPIMG_NO_BACKING, &img) ? 1 :
		act_all(c, name, &a, img, src, cli_operand(c));
	if (cli_close(c, img))
		ret = 1;
	cli_close(c, src);
	return ret;
}

const struct command command_bitmap = {
	.name = "bitmap",
	.run = run,
	.usage = "(--add [-g SIZE] | --remove | --clear | --enable | --disable | "
		 "--merge SOURCE [-b FILE [-F FORMAT]])... [-f FORMAT] FILE BITMAP",
	.summary = "make and change persistent bitmaps",
	.options = options,
};
