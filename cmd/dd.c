/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * dd.c - tapimg dd: copies a part of an image into a new one
 *
 * Operands are name=value as dd(1) has them.  The target is as long as the part: count blocks from
 * block skip on, or what there is of them.
 */
#include "image.h"
#include "job.h"
#include "opt.h"

static const struct option_desc options[] = {
	{ 'f', "format", "FORMAT", "the input's format (default: look at it)", "FORMAT" },
	OPT_IMAGE_OPTS,
	{ 'O', "output-format", "FORMAT", "the output's format (default: raw)", "FORMAT" },
	OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	const char *format;		/* of the output */
	const char *in, *out;
	uint64_t bs, count, skip;
	bool count_given;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (val == 'O')
			a->format = optarg;
		else if (cli_common(c, val, &a->common) < 0) {
			c->status = 1;
			return -1;
		}
	}
	return val;
}

static int take_operand(struct cli *c, const char *text, struct args *a)
{
	if (!strncmp(text, "if=", 3)) {
		a->in = text + 3;
		return 0;
	}
	if (!strncmp(text, "of=", 3)) {
		a->out = text + 3;
		return 0;
	}
	if (!strncmp(text, "bs=", 3))
		return cli_size(c, "bs", text + 3, 1, INT32_MAX, &a->bs);
	if (!strncmp(text, "count=", 6)) {
		a->count_given = true;
		return cli_size(c, "count", text + 6, 0, INT64_MAX, &a->count);
	}
	if (!strncmp(text, "skip=", 5))
		return cli_size(c, "skip", text + 5, 0, INT64_MAX, &a->skip);
	cli_error(c, "unrecognized operand %.*s", (int)strcspn(text, "="), text);
	return -1;
}

/* The part of @size bytes that is wanted. */
static void window(const struct args *a, uint64_t size, uint64_t *off, uint64_t *len)
{
	uint64_t want;

	if (!checked_mul(a->skip, a->bs, off) || *off > size)
		*off = size;
	*len = size - *off;
	if (a->count_given && checked_mul(a->count, a->bs, &want))
		*len = MIN(*len, want);
}

/* Blocks of the output hold whole sectors; what they hold more than asked for is zeroes. */
static int dd(struct cli *c, const struct args *a, struct tapimg *src)
{
	struct tapimg_copy_opts copy = { .sparse_size = 4096 };
	struct tapimg_create_opts create = { .format = a->format };
	struct tapimg_err err = { 0 };
	struct output out;
	struct job job;
	int ret;

	window(a, tapimg_size(src), &copy.src_off, &copy.src_len);
	if (a->skip && copy.src_off == tapimg_size(src) && tapimg_size(src))
		cli_error(c, "%s: cannot skip to specified offset", a->in);
	create.size = round_up(copy.src_len, 512);
	job_start(&job, c, PROGRESS_OFF);
	copy.progress = job_report;
	copy.arg = &job;
	ret = output_create(c, a->out, &create, 0, &out);
	if (!ret) {
		copy.flags = out.zero ? TAPIMG_COPY_TARGET_ZERO : 0;
		if (copy.src_len)
			ret = tapimg_copy(&src, 1, out.img, &copy, &err);
		if (ret)
			cli_failed(c, a->out, &err, ret);
		ret = output_finish(c, a->out, &out, !ret);
	}
	job_end(&job, !ret);
	return ret ? 1 : 0;
}

static int run(struct cli *c)
{
	struct args a = { .format = "raw", .bs = 512 };
	struct tapimg *src;
	const char *text;
	int ret;

	if (parse(c, &a))
		return c->status;
	while ((text = cli_operand(c)))
		if (take_operand(c, text, &a))
			return 1;
	if (!a.in || !a.out) {
		cli_error(c, "Must specify both input and output files");
		return 1;
	}
	if (cli_known_format(c, a.format))
		return 1;
	if (cli_open(c, a.in, &a.common.how, 0, &src))
		return 1;
	ret = output_apart(c, a.out, src) ? 1 : dd(c, &a, src);
	if (cli_close(c, src))
		ret = 1;
	return ret;
}

const struct command command_dd = {
	.name = "dd",
	.run = run,
	.usage = "[-f FORMAT] [-O FORMAT] [-U] [bs=SIZE] [count=N] [skip=N] if=FILE of=FILE",
	.summary = "copy a part of an image into a new one",
	.options = options,
};
