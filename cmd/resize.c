/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * resize.c - tapimg resize: changes the virtual size
 */
#include "cmd.h"

enum { VAL_PREALLOCATION = OPT_LONG, VAL_SHRINK };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ VAL_PREALLOCATION, "preallocation", "MODE", "for the new space: off, metadata, falloc, full",
	  "off|metadata|falloc|full" },
	{ VAL_SHRINK, "shrink", NULL, "allow to make it smaller; what lies beyond is lost", NULL },
	OPT_QUIET,
	{ 0 }
};

struct args {
	struct cli_common common;
	enum tapimg_prealloc prealloc;
	bool shrink;
	const char *size;		/* "10G", "+1G", "-1G" */
};

static int take_prealloc(struct cli *c, const char *text, enum tapimg_prealloc *out)
{
	static const char *const names[] = {
		[TAPIMG_PREALLOC_OFF] = "off", [TAPIMG_PREALLOC_METADATA] = "metadata",
		[TAPIMG_PREALLOC_FALLOC] = "falloc", [TAPIMG_PREALLOC_FULL] = "full",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(names[i], text)) {
			*out = i;
			return 0;
		}
	}
	cli_error(c, "Invalid preallocation mode '%s' (one of off, metadata, falloc, full)", text);
	return -1;
}

/* "-1G" is a size, not an option: it comes off the end before options are looked for. */
static int take_size(struct cli *c, struct args *a)
{
	if (c->argc < 3 || !strcmp(c->argv[c->argc - 1], "--help") ||
	    !strcmp(c->argv[c->argc - 1], "-h"))
		return 0;
	a->size = c->argv[--c->argc];
	return 0;
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		c->status = 1;
		if (val == VAL_SHRINK)
			a->shrink = true;
		else if (val == VAL_PREALLOCATION && take_prealloc(c, optarg, &a->prealloc))
			return -1;
		else if (cli_common(c, val, &a->common) < 0)
			return -1;
	}
	return val;
}

static int new_size(struct cli *c, const char *name, const struct args *a, uint64_t old,
		    uint64_t *out)
{
	char sign = a->size[0] == '+' || a->size[0] == '-' ? a->size[0] : 0;
	uint64_t v;

	if (cli_size(c, "size", a->size + !!sign, 0, INT64_MAX, &v))
		return -1;
	if (sign == '-')
		v = v < old ? old - v : 0;
	else if (sign == '+')
		v += old;
	if (!v) {
		cli_error(c, "%s: New image size must be positive ('%s', and it has %llu bytes now)",
			  name, a->size, (unsigned long long)old);
		return -1;
	}
	if (v > INT64_MAX) {
		cli_error(c, "%s: New image size of %llu bytes is too large", name,
			  (unsigned long long)v);
		return -1;
	}
	*out = v;
	return 0;
}

static int resize(struct cli *c, const char *name, const struct args *a, struct tapimg *img)
{
	struct tapimg_err err = { 0 };
	uint64_t old = tapimg_size(img), size;
	int ret;

	if (new_size(c, name, a, old, &size))
		return 1;
	if (size < old && !a->shrink) {
		cli_error(c, "%s: Use the --shrink option to perform a shrink operation.", name);
		cli_warn(c, "Shrinking from %llu to %llu bytes deletes all data beyond the new end.",
			 (unsigned long long)old, (unsigned long long)size);
		return 1;
	}
	if (size < old && a->prealloc != TAPIMG_PREALLOC_OFF) {
		cli_error(c, "%s: Preallocation can only be used for growing images", name);
		return 1;
	}
	ret = tapimg_resize(img, size, a->prealloc, a->shrink, &err);
	if (ret)
		return cli_failed(c, name, &err, ret);
	return 0;
}

static int run(struct cli *c)
{
	struct args a = { .prealloc = TAPIMG_PREALLOC_OFF };
	struct tapimg *img;
	const char *name;
	int ret;

	if (take_size(c, &a) || parse(c, &a))
		return c->status;
	if (!a.size || cli_operands(c) < 1)
		return cli_usage_error(c, "Expecting image file name and size");
	if (cli_expect(c, 1, 1))
		return 1;
	name = cli_operand(c);
	if (cli_open(c, name, &a.common.how, TAPIMG_RDWR, &img))
		return 1;
	ret = resize(c, name, &a, img);
	if (cli_close(c, img))
		ret = 1;
	if (!ret && !a.common.quiet)
		puts("Image resized.");
	return ret;
}

const struct command command_resize = {
	.name = "resize",
	.run = run,
	.usage = "[-f FORMAT] [--preallocation=MODE] [--shrink] [-q] FILE [+|-]SIZE",
	.summary = "change the virtual size of an image",
	.options = options,
};
