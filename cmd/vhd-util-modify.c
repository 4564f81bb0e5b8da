/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-modify.c - vhd-util modify and fill
 */
#include <inttypes.h>
#include <sys/stat.h>

#include "vhd-util.h"

static int failed(struct cli *c, const char *name, const struct tapimg_err *err, int ret)
{
	return ret ? vu_look_failed(c, name, err, ret) : 0;
}

/* ------------------------------------------------------------------ modify */

static const struct option_desc modify_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'p', NULL, "PARENT", "another parent", "FILE" },
	{ 'm', NULL, NULL, "which is a raw image", NULL },
	{ 's', NULL, "BYTES", "where the file is to end: the footer goes there", NULL },
	{ 'z', NULL, NULL, "drop all data", NULL },
	{ 0 }
};

struct modify {
	const char *name, *parent;
	bool raw, zero, sized;
	uint64_t size;
};

/* A device keeps what lies behind the footer; a file ends there. */
static int set_end(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct vhd_look *l = &vhd_of(img)->look;
	uint64_t least = l->eof - VHD_SECTOR;
	uint8_t *buf;
	int ret = 0;

	if (!vhd_of(img)->fixed)
		ret = vhd_look_end(l, &least, err);
	if (!ret && (size < VHD_SECTOR || size - VHD_SECTOR < least || size % VHD_SECTOR))
		ret = err_set(err, -EINVAL, "%s: data end at %" PRIu64, img->name, least);
	buf = ret ? NULL : file_buf(VHD_SECTOR);
	if (!buf)
		return ret ? ret : -ENOMEM;
	vhd_footer_build(&l->footer, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, size - VHD_SECTOR);
	free(buf);
	if (!ret)
		ret = file_flush(img->file);
	if (!ret && !img->file->block_dev && img->file->size > size)
		ret = file_truncate(img->file, size);
	return ret ? ret : vhd_reload(img, err);
}

static void stop_at(struct cli *c, struct tapimg *img, const char *where)
{
	if (!getenv(where))
		return;
	printf("Failing at %s\n", where);
	fflush(stdout);
	vu_close_image(c, img, 0);
	exit(EINVAL);
}

/* What the new parent is called and what it is. */
static int find_parent(struct cli *c, const struct modify *m, char **path, uint8_t uuid[16],
		       uint32_t *time)
{
	struct vu_file f = { 0 };
	struct stat st;
	int ret = 0;

	*path = vhd_device_path(m->parent);
	if (!*path || stat(*path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EINVAL;
	*time = (uint32_t)(st.st_mtime - VHD_EPOCH);
	memset(uuid, 0, 16);
	if (m->raw)
		return 0;
	ret = vu_look(c, *path, 0, &f);
	if (!ret)
		memcpy(uuid, f.look.footer.uuid, 16);
	vu_close(&f);
	return ret;
}

static int set_parent(struct cli *c, struct tapimg *img, const struct modify *m)
{
	char *base = vu_base(m->name), *path = NULL, *stored = NULL;
	struct tapimg_err err = { 0 };
	uint8_t uuid[16];
	uint32_t time = 0;
	int ret = vhd_of(img)->diff ? find_parent(c, m, &path, uuid, &time) : -EINVAL;

	if (!ret) {
		stored = base ? vhd_relative_path(base, path) : NULL;
		ret = stored ? failed(c, m->name, &err, vhd_set_parent(img, stored, uuid, time, &err))
			     : -ENOMEM;
	}
	free(base);
	free(stored);
	free(path);
	if (ret)
		printf("failed to set parent to '%s': %d\n", m->parent, ret);
	return ret;
}

static int modify_image(struct cli *c, struct tapimg *img, const struct modify *m)
{
	struct tapimg_err err = { 0 };
	int ret = 0;

	if (m->zero) {
		ret = vhd_of(img)->fixed ? -ENOSYS : failed(c, m->name, &err, vhd_make_empty(img, &err));
		if (ret)
			printf("failed to zero VHD: %d\n", ret);
	}
	if (m->sized) {
		ret = failed(c, m->name, &err, set_end(img, m->size, &err));
		if (ret)
			printf("failed to set physical size to %" PRIu64 ": %d\n", m->size, ret);
	}
	if (m->parent) {
		/* nothing that is read changes before it changes at once, so two of these are one */
		stop_at(c, img, "VHD_UTIL_TEST_FAIL_REPARENT_BEGIN");
		stop_at(c, img, "VHD_UTIL_TEST_FAIL_REPARENT_LOCATOR");
		ret = set_parent(c, img, m);
		if (!ret)
			stop_at(c, img, "VHD_UTIL_TEST_FAIL_REPARENT_END");
	}
	return ret;
}

static int modify_usage(const struct cli *c)
{
	printf("*** Dangerous operations, use with care ***\n");
	return util_usage(c, EINVAL);
}

static int run_modify(struct cli *c)
{
	struct modify m = { 0 };
	struct tapimg *img;
	char *end;
	int val, ret;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			m.name = optarg;
		else if (val == 'p')
			m.parent = optarg;
		else if (val == 's')
			m.size = strtoull(optarg, &end, 10);
		if (val == 's' && (end == optarg || *end || m.size > INT64_MAX)) {
			fprintf(stderr, "Invalid size '%s'\n", optarg);
			return modify_usage(c);
		}
		m.sized |= val == 's';
		m.raw |= val == 'm';
		m.zero |= val == 'z';
	}
	if (val < 0)
		return c->status;
	if (!m.name)
		return modify_usage(c);
	ret = vu_open(c, m.name, TAPIMG_RDWR, &img);
	if (ret) {
		printf("error opening %s: %d\n", m.name, ret);
		return util_status(ret);
	}
	ret = modify_image(c, img, &m);
	return util_status(vu_close_image(c, img, ret));
}

const struct command command_vhd_modify = {
	.name = "modify", .run = run_modify,
	.usage = "-n NAME [-p PARENT [-m]] [-s BYTES] [-z] [-h]",
	.summary = "change the parent, the end or drop the data of a disk", .options = modify_options,
};

/* -------------------------------------------------------------------- fill */

static const struct option_desc fill_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'b', NULL, NULL, "table and bitmaps only: the data stay what the space holds", NULL },
	{ 'f', NULL, "SECTOR", "with -b: from this sector on", NULL },
	{ 't', NULL, "SECTOR", "with -b: up to this sector", NULL },
	{ 'B', NULL, NULL, "with -b: go beyond 2 TB", NULL },
	{ 0 }
};

struct fill {
	const char *name;
	bool bitmaps, from_given, to_given, beyond;
	uint64_t from, to;
};

static int fill(struct cli *c, struct tapimg *img, const struct fill *a)
{
	const struct vhd *v = vhd_of(img);
	uint64_t per_block = v->block / VHD_SECTOR, first, last;
	struct tapimg_err err = { 0 };

	if (v->fixed)
		return -EINVAL;
	for (const struct tapimg *l = img; l && !a->bitmaps; l = l->backing)
		if (l->fmt == &vhd_format && vhd_enciphered(vhd_of(l)))
			return failed(c, a->name, &err, err_set(&err, -ENOTSUP, "%s: is enciphered: what is "
				      "not there would have to be filled with enciphered zeroes", l->name));
	if (!v->entries)
		return 0;
	first = a->from_given ? a->from / per_block : 0;
	last = a->to_given ? a->to / per_block : v->entries - 1;
	if (first > last || last >= v->entries)
		return failed(c, a->name, &err, err_set(&err, -EINVAL, "%s: the disk has only %u blocks",
						       a->name, v->entries));
	return failed(c, a->name, &err, vhd_fill(img, a->bitmaps, (uint32_t)first,
						 (uint32_t)(last - first + 1), &err));
}

static int fill_args(struct cli *c, struct fill *a)
{
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			a->name = optarg;
		else if (val == 'f')
			a->from = strtoull(optarg, NULL, 10);
		else if (val == 't')
			a->to = strtoull(optarg, NULL, 10);
		a->from_given |= val == 'f';
		a->to_given |= val == 't';
		a->bitmaps |= val == 'b';
		a->beyond |= val == 'B';
	}
	if (val < 0)
		return -1;
	c->status = EINVAL;
	if (!a->name)
		return util_usage(c, -1);
	if ((a->from_given || a->to_given) && !a->bitmaps) {
		printf("-f/-t can only be used with -b\n");
		return util_usage(c, -1);
	}
	if (a->from_given && a->to_given && a->to < a->from) {
		printf("invalid sector range %" PRIu64 "-%" PRIu64 "\n", a->from, a->to);
		return util_usage(c, -1);
	}
	if (a->beyond && !a->bitmaps) {
		printf("-B can only be used with -b\n");
		return util_usage(c, -1);
	}
	return 0;
}

static int run_fill(struct cli *c)
{
	struct fill a = { 0 };
	struct tapimg *img;
	int ret;

	if (fill_args(c, &a))
		return c->status;
	ret = vu_open(c, a.name, TAPIMG_RDWR | (a.bitmaps ? 0 : VU_CHAIN), &img);
	if (ret) {
		printf("error opening %s: %d\n", a.name, ret);
		return util_status(ret);
	}
	ret = fill(c, img, &a);
	return util_status(vu_close_image(c, img, ret));
}

const struct command command_vhd_fill = {
	.name = "fill", .run = run_fill, .usage = "-n NAME [-b [-f SECTOR] [-t SECTOR] [-B]] [-h]",
	.summary = "allocate all blocks of a disk", .options = fill_options,
};
