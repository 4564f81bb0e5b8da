/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-query.c - vhd-util query: one value a line, always in the same order
 *
 * A value that cannot be had is reported in its place, and the others follow; the exit code is that of
 * the first failure.
 */
#include <sys/xattr.h>

#include "vhd-util.h"

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'v', NULL, NULL, "size of the disk in megabytes", NULL },
	{ 's', NULL, NULL, "bytes taken of the file or device", NULL },
	{ 'p', NULL, NULL, "path of the parent", NULL },
	{ 'f', NULL, NULL, "whether it is hidden", NULL },
	{ 'm', NULL, NULL, "the marker", NULL },
	{ 'd', NULL, NULL, "how many disks the chain has", NULL },
	{ 'a', NULL, NULL, "allocated blocks", NULL },
	{ 'S', NULL, NULL, "largest size in megabytes that resize -f can reach", NULL },
	{ 'u', NULL, NULL, "with -p: as it is stored in the image", NULL },
	{ 'b', NULL, NULL, "go by the copy of the footer at the beginning", NULL },
	{ 0 }
};

struct args {
	const char *name;
	bool size, used, parent, fields, marker, depth, blocks, fast, stored, backup;
};

static int print_used(struct cli *c, const struct vu_file *f)
{
	uint64_t bytes;
	int ret = vu_used(c, f, &bytes);

	if (ret)
		printf("failed to get physical size: %d\n", ret);
	else
		printf("%llu\n", (unsigned long long)bytes);
	return 0;		/* not a failure to clients */
}

static int print_stored_parent(const struct vu_file *f)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		if (f->look.loc_name[i]) {
			puts(f->look.loc_name[i]);
			return 0;
		}
	}
	printf("query failed\n");
	return -EINVAL;
}

static int print_parent(struct cli *c, const struct vu_file *f, bool stored)
{
	char *path;
	int ret;

	if (f->look.footer.type != VHD_TYPE_DIFF) {
		printf("%s has no parent\n", f->name);
		return 0;
	}
	if (stored)
		return print_stored_parent(f);
	ret = vu_parent(c, f, &path);
	if (ret)
		printf("query failed\n");
	else
		puts(path);
	free(path);
	return ret;
}

/* Images without a batmap keep it in an extended attribute. */
static void print_marker(const struct vu_file *f)
{
	uint8_t marker = 0;

	if (f->look.has_batmap)
		marker = f->look.batmap.marker;
	else if (getxattr(f->name, "user.com.citrix.xenclient.backend.marker", &marker, 1) != 1)
		marker = 0;
	printf("marker: %u\n", marker);
}

static int print_depth(struct cli *c, const struct vu_file *f)
{
	unsigned depth;
	int ret = vu_depth(c, f, &depth);

	if (ret)
		printf("error checking chain depth: %d\n", ret);
	else
		printf("chain depth: %u\n", depth);
	return ret;
}

static int print_blocks(struct cli *c, struct vu_file *f)
{
	uint32_t used = 0;
	int ret = vu_bat(c, f);

	if (ret) {
		printf("error reading bat: %d\n", ret);
		return ret;
	}
	for (uint32_t i = 0; i < f->entries; i++)
		used += f->bat[i] != VHD_UNUSED;
	printf("%u\n", used);
	return 0;
}

static void keep(int *first, int ret)
{
	if (!*first)
		*first = ret;
}

static int query(struct cli *c, struct vu_file *f, const struct args *a)
{
	const struct vhd_look *l = &f->look;
	int ret = 0;

	if (a->size)
		printf("%llu\n", (unsigned long long)(l->footer.cur_size >> 20));
	if (a->used)
		keep(&ret, print_used(c, f));
	if (a->parent)
		keep(&ret, print_parent(c, f, a->stored));
	if (a->fields)
		printf("hidden: %d\n", l->footer.hidden);
	if (a->marker)
		print_marker(f);
	if (a->depth)
		keep(&ret, print_depth(c, f));
	if (a->blocks)
		keep(&ret, print_blocks(c, f));
	if (a->fast)
		printf("%llu\n", (unsigned long long)l->header.max_bat * VHD_BLOCK_SIZE >> 20);
	return ret;
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			a->name = optarg;
		a->size |= val == 'v';
		a->used |= val == 's';
		a->parent |= val == 'p';
		a->fields |= val == 'f';
		a->marker |= val == 'm';
		a->depth |= val == 'd';
		a->blocks |= val == 'a';
		a->fast |= val == 'S';
		a->stored |= val == 'u';
		a->backup |= val == 'b';
	}
	return val;
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	struct vu_file f;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (!a.name)
		return util_usage(c, EINVAL);
	ret = vu_look(c, a.name, VHD_LOOK_POISON | (a.backup ? VHD_LOOK_BACKUP : 0), &f);
	if (ret)
		printf("error opening %s: %d\n", a.name, ret);
	else
		ret = query(c, &f, &a);
	vu_close(&f);
	return util_status(ret);
}

const struct command command_vhd_query = {
	.name = "query", .run = run, .flags = UTIL_HELP_OK,
	.usage = "-n NAME [-v] [-s] [-p [-u]] [-f] [-m] [-d] [-a] [-S] [-b] [-h]",
	.summary = "print facts about a disk", .options = options,
};
