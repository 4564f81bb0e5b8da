/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * measure.c - tapimg measure: the file size that an image will need
 */
#include <inttypes.h>

#include "cmd.h"

enum { VAL_SIZE = OPT_LONG };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ 'l', "snapshot", "SNAPSHOT", "measure what a snapshot of the source holds", NULL },
	{ 'O', "target-format", "FORMAT", "the new image's format (default: raw)", "FORMAT" },
	{ 'o', "target-format-options", "LIST", "the new image's options, as for create", NULL },
	{ VAL_SIZE, "size", "SIZE", "an empty disk of that size instead of FILE", NULL },
	{ 's', NULL, "SIZE", NULL, NULL },
	OPT_OUTPUT, OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	struct tapimg_create_opts opts;
	struct cli_opts list;
	char *snapshot;
	bool have_size;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		c->status = 1;
		switch (val) {
		case 'O':
			a->opts.format = optarg;
			break;
		case 'o':
			if (cli_opts_add(c, &a->list, optarg))
				return -1;
			break;
		case 'l':
			free(a->snapshot);
			a->snapshot = cli_snapshot_param(c, optarg);
			if (!a->snapshot)
				return -1;
			break;
		case 's':
		case VAL_SIZE:
			if (cli_size(c, "image size", optarg, 0, INT64_MAX, &a->opts.size))
				return -1;
			a->have_size = true;
			break;
		default:
			if (cli_common(c, val, &a->common) < 0)
				return -1;
		}
	}
	return val;
}

static int verify(struct cli *c, const struct args *a)
{
	const struct cli_image *how = &a->common.how;

	if (cli_operands(c) > 1)
		return cli_usage_error(c, "At most one filename argument is allowed.");
	if (a->have_size && (how->format || how->image_opts || a->snapshot))
		return cli_usage_error(c, "--image-opts, -f, and -l cannot be used with --size.");
	if (a->have_size && cli_operands(c))
		return cli_usage_error(c, "--size N cannot be used together with a filename.");
	if (!a->have_size && !cli_operands(c))
		return cli_usage_error(c, "Either --size N or one filename must be specified.");
	return cli_known_format(c, a->opts.format) ||
		cli_opts_verify(c, &a->list, a->opts.format, TAPIMG_OPT_CREATE);
}

static int print_result(const struct cli *c, const struct args *a, const struct tapimg_measure *m)
{
	bool bitmaps = m->bitmaps != UINT64_MAX;
	json_t *obj;

	if (!a->common.json) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", m->required,
		       m->fully_allocated);
		if (bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", m->bitmaps);
		return 0;
	}
	obj = json_object();
	if (bitmaps)
		json_add_int(obj, "bitmaps", m->bitmaps);
	json_add_int(obj, "required", m->required);
	json_add_int(obj, "fully-allocated", m->fully_allocated);
	return json_print(c, obj) ? 1 : 0;
}

static int measure(struct cli *c, struct args *a)
{
	const char *name = cli_operand(c);
	struct tapimg *src = NULL;
	struct tapimg_err err = { 0 };
	struct tapimg_measure m = { 0 };
	char *backing, *backing_format;
	int ret;

	a->common.how.snapshot = a->snapshot;
	if (!cli_loop(c) || (name && cli_open(c, name, &a->common.how, 0, &src)))
		return 1;
	backing = cli_opts_take(&a->list, "backing_file");
	backing_format = cli_opts_take(&a->list, "backing_fmt");
	a->opts.backing = backing;
	a->opts.backing_format = backing_format;
	a->opts.opts = a->list.v;
	a->opts.nopts = a->list.n;
	ret = tapimg_measure(c->loop, src, &a->opts, &m, &err);
	if (ret)
		cli_failed(c, name ? name : a->opts.format, &err, ret);
	free(backing);
	free(backing_format);
	if (cli_close(c, src) || ret)
		return 1;
	return print_result(c, a, &m);
}

static int run(struct cli *c)
{
	struct args a = { .opts.format = "raw" };
	int ret = 1;

	if (parse(c, &a)) {
		ret = c->status;
	} else if (a.list.help) {
		if (!cli_known_format(c, a.opts.format)) {
			cli_opts_print_help(a.opts.format, TAPIMG_OPT_CREATE);
			ret = 0;
		}
	} else if (!verify(c, &a)) {
		ret = measure(c, &a);
	}
	cli_opts_free(&a.list);
	free(a.snapshot);
	return ret;
}

const struct command command_measure = {
	.name = "measure",
	.run = run,
	.usage = "[-O FORMAT] [-o LIST] [--output=KIND] (--size SIZE | [-f FORMAT] [-l SNAPSHOT] FILE)",
	.summary = "say how large a file a new image will need",
	.options = options,
};
