/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-create.c - vhd-util create and snapshot
 */
#include <sys/stat.h>

#include "vhd-util.h"

#define NAME_MAX_LEN 1022

/* Megabytes as bytes, whole blocks; -EFBIG beyond all bounds. */
static int disk_size(uint64_t mb, uint64_t *bytes)
{
	if (mb > (UINT64_MAX >> 21))
		return -EFBIG;
	*bytes = round_up(mb * MiB, VHD_BLOCK_SIZE);
	return 0;
}

/* ------------------------------------------------------------------ create */

static const struct option_desc create_options[] = {
	{ 'n', NULL, "NAME", "the image to make", "FILE" },
	{ 's', NULL, "MB", "size of the disk in megabytes", NULL },
	{ 'S', NULL, "MB", "size that it can be grown to with resize -f", NULL },
	{ 'r', NULL, NULL, "fixed: take all the space at once", NULL },
	{ 0 }
};

int vu_create(struct cli *c, const char *name, uint64_t mb, uint64_t reserve_mb, bool fixed)
{
	struct vhd_create how = { .type = fixed ? VHD_TYPE_FIXED : VHD_TYPE_DYNAMIC, .zero = fixed };
	int ret = disk_size(mb, &how.size);

	if (!ret)
		ret = disk_size(reserve_mb, &how.reserve);
	if (ret)
		return -EINVAL;
	if (strlen(name) > NAME_MAX_LEN)
		return -ENAMETOOLONG;
	return vu_make(c, name, &how, NULL, NULL);
}

static int run_create(struct cli *c)
{
	const char *name = NULL;
	uint64_t mb = 0, reserve = 0;
	bool sized = false, fixed = false;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else if (val == 'r')
			fixed = true;
		else if (val == 's')
			mb = strtoull(optarg, NULL, 10);
		else
			reserve = strtoull(optarg, NULL, 10);
		sized |= val == 's' || val == 'S';
	}
	if (val < 0)
		return c->status;
	if (!name || !sized)
		return util_usage(c, EINVAL);
	if (reserve && reserve < mb) {
		printf("Error: <-S size> must be greater than <-s size>\n");
		return EINVAL;
	}
	return util_status(vu_create(c, name, mb, reserve, fixed));
}

const struct command command_vhd_create = {
	.name = "create", .run = run_create, .usage = "-n NAME -s MB [-S MB] [-r] [-h]",
	.summary = "make an empty disk", .options = create_options,
};

/* ---------------------------------------------------------------- snapshot */

static const struct option_desc snapshot_options[] = {
	{ 'n', NULL, "NAME", "the image to make", "FILE" },
	{ 'p', NULL, "PARENT", "what it is a snapshot of", "FILE" },
	{ 'S', NULL, "MB", "size that it can be grown to with resize -f", NULL },
	{ 'l', NULL, "DEPTH", "refuse if the chain would be longer than this", NULL },
	{ 'm', NULL, NULL, "the parent is a raw image", NULL },
	{ 'e', NULL, NULL, "link to the parent even if it is empty", NULL },
	{ 0 }
};

/* What the snapshot is linked to. */
struct target {
	char *path;			/* absolute */
	bool raw;
	uint64_t size;			/* the supplied parent's; 0: that of the target */
};

static int is_empty(struct cli *c, struct vu_file *f, bool *empty)
{
	int ret = vu_bat(c, f);

	*empty = !ret;
	for (uint32_t i = 0; i < f->entries && *empty; i++)
		*empty = f->bat[i] == VHD_UNUSED;
	return ret;
}

/*
 * The first image from t->path down that is not an empty differencing disk: an empty one adds nothing
 * to the chain but its size.
 */
static int skip_empty(struct cli *c, struct target *t)
{
	bool first = true, empty = true;
	struct vu_file f;
	char *below;
	int ret;

	for (;; first = false) {
		ret = vu_look(c, t->path, 0, &f);
		if (!ret && first)
			t->size = f.look.footer.cur_size;
		if (!ret && f.look.footer.type != VHD_TYPE_DIFF)
			empty = false;
		else if (!ret)
			ret = is_empty(c, &f, &empty);
		if (ret || !empty)
			break;
		ret = vu_parent(c, &f, &below);
		if (ret)
			break;
		free(t->path);
		t->path = below;
		t->raw = vu_parent_raw(&f);
		vu_close(&f);
		if (t->raw)
			return 0;
	}
	vu_close(&f);
	return ret;
}

static int check_depth(struct cli *c, const char *path, unsigned limit)
{
	unsigned depth = 0;
	struct vu_file f;
	int ret = vu_look(c, path, 0, &f);

	if (!ret)
		ret = vu_depth(c, &f, &depth);
	vu_close(&f);
	if (ret) {
		printf("error checking snapshot depth: %d\n", ret);
		return ret;
	}
	if (depth + 1 <= limit)
		return 0;
	printf("snapshot depth exceeded: current depth: %u, limit: %u\n", depth, limit);
	return -ENOSPC;
}

static int raw_size(struct cli *c, const char *path, uint64_t *size)
{
	struct tapimg_err err = { 0 };
	struct file *file;
	int ret = file_open(c->loop, path, FILE_SHARE, &file, &err);

	if (ret)
		return vu_look_failed(c, path, &err, ret);
	*size = file->size;
	file_close(file);
	return 0;
}

/* Size, identity and key of what is below. @f: looked at unless the target is raw. */
static int inherit(struct cli *c, const struct target *t, const struct vu_file *f,
		   struct vhd_create *how)
{
	uint64_t below = f->look.footer.cur_size;
	struct stat st;
	int ret = 0;

	if (stat(t->path, &st))
		return -errno;
	how->parent_time = (uint32_t)(st.st_mtime - VHD_EPOCH);
	if (t->raw)
		ret = raw_size(c, t->path, &below);
	else if (vhd_uuid_zero(f->look.footer.uuid))
		ret = -EINVAL;		/* it would be taken for raw */
	if (ret)
		return ret;
	memcpy(how->parent_uuid, f->look.footer.uuid, 16);
	how->size = t->size ? t->size : below;
	if (how->size < below || (how->reserve && how->reserve < how->size))
		return -EINVAL;
	if (f->look.has_batmap && f->look.batmap.has_key == 1) {
		how->nonce = f->look.batmap.nonce;
		how->hash = f->look.batmap.hash;
	}
	return 0;
}

static int make_snapshot(struct cli *c, const struct vu_snapshot *s, const struct target *t)
{
	struct vhd_create how = { .type = VHD_TYPE_DIFF };
	struct vu_file f = { 0 };
	char *base = vu_base(s->name), *stored = NULL;
	int ret = disk_size(s->reserve_mb, &how.reserve);

	if (!ret && !t->raw)
		ret = vu_look(c, t->path, 0, &f);
	if (!ret)
		ret = inherit(c, t, &f, &how);
	if (!ret) {
		stored = base ? vhd_relative_path(base, t->path) : NULL;
		how.parent = stored;
		ret = stored ? vu_make(c, s->name, &how, NULL, NULL) : -ENOMEM;
	}
	free(base);
	free(stored);
	vu_close(&f);
	return ret;
}

int vu_snapshot(struct cli *c, const struct vu_snapshot *s)
{
	struct target t = { .path = vhd_device_path(s->parent), .raw = s->raw };
	int ret = 0;

	if (!t.path)
		return -errno;
	if (strlen(s->name) > NAME_MAX_LEN)
		ret = -ENAMETOOLONG;
	else if (!cli_loop(c))
		ret = -ENOMEM;
	if (!ret && !t.raw && !s->keep_empty)
		ret = skip_empty(c, &t);
	if (!ret && s->limit && !t.raw)
		ret = check_depth(c, t.path, s->limit);
	if (!ret)
		ret = make_snapshot(c, s, &t);
	free(t.path);
	return ret;
}

static int run_snapshot(struct cli *c)
{
	struct vu_snapshot s = { 0 };
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			s.name = optarg;
		else if (val == 'p')
			s.parent = optarg;
		else if (val == 'S')
			s.reserve_mb = strtoull(optarg, NULL, 10);
		else if (val == 'l')
			s.limit = (unsigned)MAX(strtol(optarg, NULL, 10), 0);
		else if (val == 'm')
			s.raw = true;
		else
			s.keep_empty = true;
	}
	if (val < 0)
		return c->status;
	if (!s.name || !s.parent)
		return util_usage(c, EINVAL);
	return util_status(vu_snapshot(c, &s));
}

const struct command command_vhd_snapshot = {
	.name = "snapshot", .run = run_snapshot, .flags = UTIL_HELP_OK,
	.usage = "-n NAME -p PARENT [-l DEPTH] [-m] [-S MB] [-e] [-h]",
	.summary = "make a disk that holds what changes from now on", .options = snapshot_options,
};
