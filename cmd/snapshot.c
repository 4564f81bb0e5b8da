/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * snapshot.c - tapimg snapshot: lists, makes, applies and deletes snapshots inside an image
 */
#include "cmd.h"
#include "snapshot-list.h"

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ 'l', "list", NULL, "list the snapshots (this is what is done by default)", NULL },
	{ 'c', "create", "NAME", "make a snapshot", NULL },
	{ 'a', "apply", "SNAPSHOT", "go back to what a snapshot holds", NULL },
	{ 'd', "delete", "SNAPSHOT", "delete a snapshot", NULL },
	OPT_SHARE, OPT_QUIET,
	{ 0 }
};

struct args {
	struct cli_common common;
	int action;			/* 'l', 'c', 'a', 'd' or 0 */
	const char *snapshot;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (strchr("lcad", val)) {
			if (a->action) {
				c->status = cli_usage_error(c, "Cannot mix '-l', '-a', '-c', '-d'");
				return -1;
			}
			a->action = val;
			a->snapshot = optarg;
		} else if (cli_common(c, val, &a->common) < 0) {
			c->status = 1;
			return -1;
		}
	}
	return val;
}

static int act(struct cli *c, const char *name, const struct args *a, struct tapimg *img)
{
	struct tapimg_err err = { 0 };
	const char *verb;
	int ret;

	switch (a->action) {
	case 'c':
		verb = "create";
		ret = tapimg_snapshot_create(img, a->snapshot, &err);
		break;
	case 'a':
		verb = "apply";
		ret = tapimg_snapshot_apply(img, a->snapshot, &err);
		break;
	default:
		verb = "delete";
		ret = tapimg_snapshot_delete(img, a->snapshot, &err);
		break;
	}
	if (!ret)
		return 0;
	cli_error(c, "%s: Could not %s snapshot '%s': %s", name, verb, a->snapshot,
		  cli_why(name, &err, ret));
	return 1;
}

static int list(struct cli *c, const char *name, struct tapimg *img)
{
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	int ret = tapimg_info(img, &info, &err);

	if (ret)
		return cli_failed(c, name, &err, ret);
	if (info->nsnapshots)
		print_snapshots(info);
	return 0;
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
	if (cli_expect(c, 1, 1))
		return 1;
	name = cli_operand(c);
	if (!a.action)
		a.action = 'l';
	flags = a.action == 'l' ? TAPIMG_NO_IO | TAPIMG_NO_BACKING : TAPIMG_RDWR | TAPIMG_NO_BACKING;
	if (cli_open(c, name, &a.common.how, flags, &img))
		return 1;
	ret = a.action == 'l' ? list(c, name, img) : act(c, name, &a, img);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_snapshot = {
	.name = "snapshot",
	.run = run,
	.usage = "[-f FORMAT] [-l | -c NAME | -a SNAPSHOT | -d SNAPSHOT] [-U] [-q] FILE",
	.summary = "list, make, apply or delete snapshots inside an image",
	.options = options,
};
