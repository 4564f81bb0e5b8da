/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compare.c - tapimg compare: whether two images hold the same
 *
 * Exit codes, which scripts look at: 0 the same, 1 different, 2 an image cannot be opened, 3 an
 * image's allocation cannot be read, 4 its contents cannot be read.  A wrong command line is 1 as
 * with the other verbs, and as qemu-img has it; a wrong cache mode or --object is 2 there.
 */
#include "job.h"

enum { EXIT_SAME, EXIT_DIFFERENT, EXIT_USAGE = 1, EXIT_OPEN, EXIT_STATUS, EXIT_READ };

static const struct option_desc options[] = {
	{ 'f', "a-format", "FORMAT", "the first image's format (default: look at it)", "FORMAT" },
	{ 'f', "format", "FORMAT", NULL, "FORMAT" },
	{ 'F', "b-format", "FORMAT", "the second image's format (default: look at it)", "FORMAT" },
	OPT_IMAGE_OPTS,
	{ 'T', "cache", "MODE", "cache mode for reading (default: writeback)", "CACHE" },
	{ 's', "strict", NULL, "sizes and allocation must be the same too", NULL },
	OPT_PROGRESS, OPT_QUIET, OPT_SHARE, OPT_OUTPUT,
	{ 0 }
};

struct args {
	struct cli_common common;
	const char *second_format;
	enum progress_mode progress;
	unsigned flags;
	bool strict;
};

static int parse(struct cli *c, struct args *a)
{
	int val, ret;

	while ((val = cli_getopt(c)) > 0) {
		ret = 0;
		switch (val) {
		case 'F':
			a->second_format = optarg;
			break;
		case 'T':
			ret = cli_cache(c, "source cache", optarg, &a->flags);
			break;
		case 's':
			a->strict = true;
			break;
		case 'p':
			ret = cli_progress_mode(c, optarg, &a->progress);
			break;
		default:
			ret = MIN(cli_common(c, val, &a->common), 0);
		}
		if (ret) {
			c->status = val == 'T' ? EXIT_OPEN : EXIT_USAGE;
			return -1;
		}
	}
	if (val < 0 && c->status && optarg)	/* an --object: only its argument can be wrong */
		c->status = EXIT_OPEN;
	return val;
}

static int report_json(struct cli *c, struct tapimg *const *img, const struct tapimg_compare *r,
		       bool same_size, int status)
{
	json_t *obj = json_object();

	json_add_bool(obj, "identical", status == EXIT_SAME);
	json_add_bool(obj, "same-size", same_size);
	json_add_int(obj, "virtual-size-a", tapimg_size(img[0]));
	json_add_int(obj, "virtual-size-b", tapimg_size(img[1]));
	if (status == EXIT_DIFFERENT && !r->equal) {
		json_add_str(obj, "difference", r->status_differs ? "allocation" : "content");
		json_add_int(obj, "offset", r->off);
	}
	return json_print(c, obj) ? EXIT_OPEN : status;
}

static void report(const struct args *a, const struct tapimg_compare *r, uint64_t shorter,
		   bool same_size)
{
	uint64_t sector = round_down(r->off, 512);

	if (a->strict && !same_size) {
		puts("Strict mode: Image size mismatch!");
		return;
	}
	if (!same_size && (r->equal || r->off >= shorter))
		puts("Warning: Image size mismatch!");
	if (r->equal)
		puts("Images are identical.");
	else if (r->status_differs)
		printf("Strict mode: Offset %llu block status mismatch!\n",
		       (unsigned long long)r->off);
	else
		printf("Content mismatch at offset %llu!\n", (unsigned long long)sector);
}

static int compare(struct cli *c, const struct args *a, struct tapimg *const *img)
{
	struct tapimg_compare r;
	struct tapimg_err err = { 0 };
	bool same_size = tapimg_size(img[0]) == tapimg_size(img[1]);
	struct job job;
	int ret, status;

	job_start(&job, c, a->common.quiet ? PROGRESS_OFF : a->progress);
	ret = tapimg_compare(img[0], img[1], a->strict, &r, job_report, &job, &err);
	job_end(&job, !ret && r.equal);
	if (ret) {
		cli_error(c, "%s", err.text);
		return r.status_error ? EXIT_STATUS : EXIT_READ;
	}
	status = r.equal ? EXIT_SAME : EXIT_DIFFERENT;
	if (a->common.json)
		return report_json(c, img, &r, same_size, status);
	if (!a->common.quiet)
		report(a, &r, MIN(tapimg_size(img[0]), tapimg_size(img[1])), same_size);
	return status;
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	struct tapimg *img[2] = { NULL, NULL };
	struct cli_image second;
	int status = EXIT_OPEN;

	if (parse(c, &a))
		return c->status;
	if (cli_operands(c) != 2) {
		cli_usage_error(c, "Expecting two image file names");
		return EXIT_USAGE;
	}
	second = a.common.how;
	second.format = a.second_format;
	if (!cli_open(c, cli_operand(c), &a.common.how, a.flags, &img[0]) &&
	    !cli_open(c, cli_operand(c), &second, a.flags, &img[1]))
		status = compare(c, &a, img);
	cli_close(c, img[1]);
	cli_close(c, img[0]);
	return status;
}

const struct command command_compare = {
	.name = "compare",
	.run = run,
	.usage = "[-f FORMAT] [-F FORMAT] [-s] [-p] [-q] [-U] [OPTION...] FILE1 FILE2",
	.summary = "check whether two images hold the same",
	.options = options,
	.notes = "Exit codes: 0 the same, 1 different, 2 cannot be opened, 3 and 4 cannot be read.",
};
