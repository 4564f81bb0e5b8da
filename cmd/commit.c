/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * commit.c - tapimg commit: moves what an image holds into the image below it
 *
 * How deep the base lies is found out first, with the chain open for reading only; then it is
 * opened again with exactly the layers writable that have to be.
 */
#include "image.h"
#include "job.h"
#include "open.h"

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	OPT_CACHE('t', "cache mode (default: writeback)"),
	{ 'b', "base", "FILE", "commit down to this layer of the chain; implies -d", "FILE" },
	{ 'd', "drop", NULL, "leave the image as it is, for it will be dropped", NULL },
	{ 'r', "rate-limit", "RATE", "bytes a second at most", NULL },
	OPT_PROGRESS, OPT_QUIET, OPT_OUTPUT,
	{ 0 }
};

struct args {
	struct cli_common common;
	const char *base;
	enum progress_mode progress;
	uint64_t rate;
	unsigned flags;
	bool keep;
};

static int take(struct cli *c, int val, struct args *a)
{
	switch (val) {
	case 't':
		return cli_cache(c, "cache", optarg, &a->flags);
	case 'b':
		a->base = optarg;
		a->keep = true;
		return 0;
	case 'd':
		a->keep = true;
		return 0;
	case 'r':
		return cli_size(c, "rate limit", optarg, 1, INT64_MAX, &a->rate);
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

/* Is @img's backing file what the user calls @base? */
static bool is_base(const struct tapimg *img, const char *base)
{
	const struct tapimg *below = img->backing;
	struct file_id id = file_id_path(base), have = file_id_path(below->path);

	if (img->backing_name && !strcmp(img->backing_name, base))
		return true;
	return !strcmp(below->name, base) || !strcmp(below->path, base) ||
	       (id.known && file_id_same(&id, base, &have, below->path));
}

/* How many layers down; 0 after a message. */
static unsigned find_base(struct cli *c, const char *name, const struct args *a)
{
	struct tapimg *img, *l;
	unsigned depth = 0, found = 0;

	if (cli_open(c, name, &a->common.how, TAPIMG_NO_IO, &img))
		return 0;
	for (l = img; l->backing && !found; l = l->backing) {
		depth++;
		if (!a->base || is_base(l, a->base))
			found = depth;
	}
	if (!img->backing)
		cli_error(c, "%s: Image does not have a backing file", name);
	else if (!found)
		cli_error(c, "Did not find '%s' in the backing chain of '%s'", a->base, name);
	cli_close(c, img);
	return found;
}

static int report(struct cli *c, const struct args *a, struct tapimg *img, const char *base)
{
	json_t *obj;

	if (!a->common.json) {
		if (!a->common.quiet)
			puts("Image committed.");
		return 0;
	}
	obj = json_object();
	json_add_str(obj, "filename", tapimg_filename(img));
	json_add_str(obj, "base", base);
	json_add_int(obj, "bytes-committed", tapimg_committed(img));
	json_add_bool(obj, "emptied", !a->keep);
	return json_print(c, obj) ? 1 : 0;
}

static int commit(struct cli *c, const char *name, const struct args *a, struct tapimg *img,
		  unsigned depth)
{
	struct tapimg_err err = { 0 };
	struct tapimg *base = img;
	struct job job;
	int ret;

	for (unsigned i = 0; i < depth; i++)
		base = base->backing;
	job_start(&job, c, a->common.quiet ? PROGRESS_OFF : a->progress);
	ret = tapimg_commit(img, depth, !a->keep, a->rate, job_report, &job, &err);
	job_end(&job, !ret);
	if (ret)
		return cli_failed(c, name, &err, ret);
	return report(c, a, img, tapimg_filename(base));
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	struct tapimg *img;
	const char *name;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (cli_expect(c, 1, 1))
		return 1;
	name = cli_operand(c);
	a.common.how.rdwr_layers = find_base(c, name, &a);
	if (!a.common.how.rdwr_layers ||
	    cli_open(c, name, &a.common.how, a.flags | TAPIMG_RDWR, &img))
		return 1;
	ret = commit(c, name, &a, img, a.common.how.rdwr_layers);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_commit = {
	.name = "commit",
	.run = run,
	.usage = "[-f FORMAT] [-b FILE] [-d] [-r RATE] [-p] [-q] [--output=KIND] FILE",
	.summary = "move an image's contents into its backing file",
	.options = options,
};
