/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * amend.c - tapimg amend: changes format options of an existing image
 */
#include "cmd.h"

enum { VAL_FORCE = OPT_LONG };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ 'o', "options", "LIST", "name=value,...; 'help' lists what can be changed", NULL },
	OPT_CACHE('t', "cache mode: none, writeback, writethrough, directsync, unsafe"),
	{ VAL_FORCE, "force", NULL, "taken for compatibility; nothing here needs it", NULL },
	OPT_PROGRESS, OPT_QUIET,
	{ 0 }
};

struct args {
	struct cli_common common;
	struct cli_opts list;
	enum progress_mode mode;
	unsigned flags;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		c->status = 1;
		if (val == 'o' && cli_opts_add(c, &a->list, optarg))
			return -1;
		if (val == 't' && cli_cache(c, "cache", optarg, &a->flags))
			return -1;
		if (val == 'p' && cli_progress_mode(c, optarg, &a->mode))
			return -1;
		if (cli_common(c, val, &a->common) < 0)
			return -1;
	}
	return val;
}

static int amend(struct cli *c, const char *name, const struct args *a)
{
	struct tapimg_err err = { 0 };
	struct progress p;
	struct tapimg *img;
	int ret;

	progress_start(&p, c, a->mode);
	if (cli_open(c, name, &a->common.how, a->flags | TAPIMG_RDWR, &img))
		return 1;
	ret = cli_opts_verify(c, &a->list, tapimg_format(img), TAPIMG_OPT_AMEND);
	if (!ret) {
		progress_report(&p, 0, 1);
		ret = tapimg_amend(img, a->list.v, a->list.n, &err);
		progress_end(&p, !ret);
		if (ret)
			cli_failed(c, name, &err, ret);
	}
	if (cli_close(c, img))
		ret = 1;
	return ret ? 1 : 0;
}

/* The format comes from -f, or from the image if one is named. */
static int help(struct cli *c, const struct args *a)
{
	const char *format = a->common.how.format;
	struct tapimg *img = NULL;
	int ret = 0;

	if (!format && cli_operands(c) == 1) {
		if (cli_open(c, cli_operand(c), &a->common.how, TAPIMG_NO_BACKING | TAPIMG_NO_IO,
			     &img))
			return 1;
		format = tapimg_format(img);
	}
	if (!format)
		return cli_usage_error(c, "-o help wants a format (-f) or an image");
	if (cli_known_format(c, format))
		return 1;
	if (cli_opts_any(format, TAPIMG_OPT_AMEND)) {
		cli_opts_print_help(format, TAPIMG_OPT_AMEND);
	} else {
		cli_error(c, "the %s format has no options to amend", format);
		ret = 1;
	}
	return cli_close(c, img) ? 1 : ret;
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	int ret;

	if (parse(c, &a))
		ret = c->status;
	else if (a.list.help)
		ret = help(c, &a);
	else if (!a.list.n)
		ret = cli_usage_error(c, "Must specify options (-o)");
	else if (cli_expect(c, 1, 1))
		ret = 1;
	else
		ret = amend(c, cli_operand(c), &a);
	cli_opts_free(&a.list);
	return ret;
}

const struct command command_amend = {
	.name = "amend",
	.run = run,
	.usage = "[-f FORMAT] [-t MODE] [--force] [-p] [-q] -o LIST FILE",
	.summary = "change the options of an image",
	.options = options,
};
