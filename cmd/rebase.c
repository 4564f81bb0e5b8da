/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * rebase.c - tapimg rebase: gives an image another backing file
 *
 * Without -u the image reads afterwards what it read before.  Relative names are looked up from
 * the image's own folder, where they will be looked up ever after.
 */
#include "image.h"
#include "job.h"
#include "open.h"

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	OPT_CACHE('t', "cache mode of the image (default: writeback)"),
	{ 'T', "backing-cache", "MODE", "cache mode of the backing files (default: writeback)", "CACHE" },
	{ 'b', "backing", "FILE", "the new backing file; '' for none", "FILE" },
	{ 'F', "backing-format", "FORMAT", "its format", "FORMAT" },
	{ 'B', NULL, "FORMAT", NULL, "FORMAT" },
	{ 'u', "backing-unsafe", NULL, "only write the name: the new file holds the same as the old",
	  NULL },
	{ 'c', "compress", NULL, "write compressed clusters", NULL },
	OPT_PROGRESS, OPT_QUIET, OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	const char *backing, *backing_format;
	enum progress_mode progress;
	unsigned flags, backing_flags;
	bool unsafe, compress;
};

static int take(struct cli *c, int val, struct args *a)
{
	switch (val) {
	case 't':
		return cli_cache(c, "cache", optarg, &a->flags);
	case 'T':
		return cli_cache(c, "source cache", optarg, &a->backing_flags);
	case 'b':
		a->backing = optarg;
		return 0;
	case 'F':
	case 'B':
		a->backing_format = optarg;
		return 0;
	case 'u':
		a->unsafe = true;
		return 0;
	case 'c':
		a->compress = true;
		return 0;
	case 'p':
		return cli_progress_mode(c, optarg, &a->progress);
	default:
		return MIN(cli_common(c, val, &a->common), 0);
	}
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (take(c, val, a)) {
			c->status = 1;
			return -1;
		}
	}
	return val;
}

static int verify(struct cli *c, struct args *a)
{
	if (!a->backing && !a->unsafe) {
		cli_usage_error(c, "Must specify backing file (-b) or use unsafe mode (-u)");
		return -1;
	}
	if (a->backing && !*a->backing)
		a->backing = NULL;
	if (a->backing && !a->backing_format) {
		cli_error(c, "Could not change the backing file to '%s': backing format must be "
			  "specified", a->backing);
		return -1;
	}
	if (a->unsafe && a->compress) {
		cli_error(c, "-c is of no use with -u: nothing is copied");
		return -1;
	}
	return a->backing_format ? cli_known_format(c, a->backing_format) : 0;
}

/* The new backing file and its chain; *@out stays NULL if there shall be none. */
static int open_backing(struct cli *c, const char *name, const struct args *a, struct tapimg *img,
			struct tapimg **out)
{
	struct cli_image how = { .format = a->backing_format, .share = a->common.how.share };
	struct file_id id = file_id_path(img->path), below;
	char *path;
	int ret = -1;

	if (!a->backing)
		return 0;
	path = name_resolve(img->path, a->backing);
	if (!path) {
		cli_error(c, "no memory");
		return -1;
	}
	/* the image itself is locked: say what is wrong rather than that */
	below = file_id_path(path);
	if (file_id_same(&id, img->path, &below, path))
		cli_error(c, "%s: an image cannot be its own backing file", name);
	else
		ret = cli_open(c, path, &how, a->backing_flags, out);
	if (!ret && chain_find_file(*out, &id, img->path)) {
		cli_error(c, "%s: its new backing file '%s' has the image itself in its chain", name,
			  a->backing);
		cli_close(c, *out);
		*out = NULL;
		ret = -1;
	}
	free(path);
	return ret ? -1 : 0;
}

static int rebase(struct cli *c, const char *name, const struct args *a, struct tapimg *img)
{
	struct tapimg *backing = NULL;
	struct tapimg_err err = { 0 };
	struct job job;
	int ret;

	if (!img->fmt->set_backing) {
		cli_error(c, "%s: Could not change the backing file to '%s': the %s format has none",
			  name, a->backing ? a->backing : "", tapimg_format(img));
		return 1;
	}
	if (a->unsafe) {
		ret = tapimg_set_backing(img, a->backing, a->backing_format, &err);
		return ret ? cli_failed(c, name, &err, ret) : 0;
	}
	if (open_backing(c, name, a, img, &backing))
		return 1;
	job_start(&job, c, a->common.quiet ? PROGRESS_OFF : a->progress);
	ret = tapimg_rebase(img, backing, a->backing, a->backing_format, a->compress, job_report, &job,
			    &err);
	job_end(&job, !ret);
	cli_close(c, backing);
	return ret ? cli_failed(c, name, &err, ret) : 0;
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	struct tapimg *img;
	const char *name;
	unsigned flags;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (cli_expect(c, 1, 1) || verify(c, &a))
		return 1;
	name = cli_operand(c);
	flags = a.flags | TAPIMG_RDWR | (a.unsafe ? TAPIMG_NO_BACKING : 0);
	if (cli_open(c, name, &a.common.how, flags, &img))
		return 1;
	ret = rebase(c, name, &a, img);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_rebase = {
	.name = "rebase",
	.run = run,
	.usage = "[-f FORMAT] [-u] [-c] [-p] [-q] [-U] -b FILE [-F FORMAT] FILE",
	.summary = "give an image another backing file",
	.options = options,
};
