/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-file.c - opening for vhd-util: files to look at, images to change, new ones
 *
 * Devices are read past the page cache: other hosts write to them.
 */
#include <limits.h>
#include <sys/stat.h>

#include "vhd-util.h"

#define DEPTH_MAX 1000
#define MAX_BATMAP (512 * MiB)		/* a bit for each block that a BAT can have */

int vu_errno(int ret)
{
	switch (ret) {
	case -EUCLEAN:
	case -ENOTSUP:
	case -EFBIG:
	case -ENAMETOOLONG:
		return -EINVAL;
	default:
		return ret;
	}
}

static bool is_device(const char *name)
{
	struct stat st;

	return !stat(name, &st) && S_ISBLK(st.st_mode);
}

/*
 * The path whose folder names of parents are relative to: without links, and of a volume the one in
 * /dev/mapper.  One that does not exist yet stays as it is written.  malloc'd.
 */
char *vu_base(const char *name)
{
	char *path = vhd_device_path(name);

	return path ? path : strdup(name);
}

int vu_look_failed(const struct cli *c, const char *name, const struct tapimg_err *err, int ret)
{
	util_why(c, name, err, ret);
	return vu_errno(ret);
}

/* Whether the trailer is another than the copy at 0 that the library goes by. */
static bool trailer_differs(const struct vhd_look *l, unsigned flags)
{
	return !(flags & (VHD_LOOK_BACKUP | VHD_LOOK_HEAD)) && l->has_copy && l->has_primary &&
	       !vhd_footer_equal(&l->copy, &l->primary);
}

int vu_look(struct cli *c, const char *name, unsigned flags, struct vu_file *f)
{
	unsigned how = FILE_SHARE | (is_device(name) ? FILE_DIRECT : 0);
	struct tapimg_err err = { 0 };
	int ret;

	memset(f, 0, sizeof(*f));
	f->name = name;
	if (!cli_loop(c))
		return -ENOMEM;
	ret = file_open(c->loop, name, how, &f->file, &err);
	if (!ret)
		ret = vhd_look(f->file, flags, &f->look, &err);
	if (!ret && trailer_differs(&f->look, flags)) {
		vhd_look_free(&f->look);
		ret = vhd_look(f->file, flags | VHD_LOOK_PRIMARY, &f->look, &err);
	}
	return ret ? vu_look_failed(c, name, &err, ret) : 0;
}

void vu_close(struct vu_file *f)
{
	vhd_look_free(&f->look);
	file_close(f->file);
	free(f->bat);
	memset(f, 0, sizeof(*f));
}

int vu_bat(struct cli *c, struct vu_file *f)
{
	const struct vhd_header *h = &f->look.header;
	uint64_t blocks, len;
	int ret;

	if (f->bat)
		return 0;
	if (!vu_sparse(f) || !f->look.has_header)
		return -EINVAL;
	blocks = div_up(f->look.footer.cur_size, h->block_size);
	if (blocks > h->max_bat)
		return -EINVAL;
	len = round_up(MAX(4 * blocks, 1), VHD_SECTOR);
	f->bat = file_buf(len);
	if (!f->bat)
		return -ENOMEM;
	ret = file_pread(f->file, f->bat, 4 * blocks, h->table_off);
	if (ret) {
		struct tapimg_err err = { 0 };

		free(f->bat);
		f->bat = NULL;
		return vu_look_failed(c, f->name, &err, ret);
	}
	for (uint64_t i = 0; i < blocks; i++)
		f->bat[i] = get_be32(&f->bat[i]);
	f->entries = (uint32_t)blocks;
	return 0;
}

/* As Xen's tools count: blocks are of 2 MiB, and rounded down before the bytes are rounded up. */
uint64_t vu_batmap_summed(const struct vu_file *f)
{
	return round_up(MAX(f->look.footer.cur_size >> 24, 1), VHD_SECTOR);
}

int vu_batmap(const struct vu_file *f, uint8_t **map, uint64_t *len)
{
	const struct vhd_batmap_header *b = &f->look.batmap;
	int ret;

	*map = NULL;
	*len = (uint64_t)b->sectors * VHD_SECTOR;
	if (!f->look.has_batmap || !*len || *len > MAX_BATMAP ||
	    !checked_range(b->off, *len, f->look.eof))
		return -EINVAL;
	*map = file_buf(*len);
	if (!*map)
		return -ENOMEM;
	ret = file_pread(f->file, *map, *len, b->off);
	if (ret) {
		free(*map);
		*map = NULL;
	}
	return ret;
}

int vu_used(struct cli *c, const struct vu_file *f, uint64_t *bytes)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (!vu_sparse(f)) {
		*bytes = f->look.eof;
		return 0;
	}
	ret = vhd_look_end(&f->look, bytes, &err);
	if (ret)
		return vu_look_failed(c, f->name, &err, ret);
	*bytes += VHD_SECTOR;
	return 0;
}

/* ------------------------------------------------------------------- the chain */

int vu_parent(struct cli *c, const struct vu_file *f, char **path)
{
	char *base = vu_base(f->name);
	char *stored = base ? vhd_look_parent(&f->look, base, NULL, c->loop) : NULL;
	char *full = stored ? name_resolve(base, stored) : NULL;
	int ret = !base ? -ENOMEM : !stored ? -EINVAL : !full ? -ENOMEM : 0;

	*path = ret ? NULL : vhd_device_path(full);
	if (!ret && !*path)
		ret = -errno;
	free(base);
	free(stored);
	free(full);
	return ret;
}

int vu_depth(struct cli *c, const struct vu_file *f, unsigned *depth)
{
	struct vu_file below = { 0 };
	const struct vu_file *at = f;
	char *path, *held = NULL;
	int ret = 0;

	*depth = 1;
	while (at->look.footer.type == VHD_TYPE_DIFF && !ret) {
		if (++*depth > DEPTH_MAX)
			ret = -ELOOP;
		if (vu_parent_raw(at))
			break;
		if (!ret)
			ret = vu_parent(c, at, &path);
		if (ret)
			break;
		vu_close(&below);
		free(held);
		held = path;
		ret = vu_look(c, held, 0, &below);
		at = &below;
	}
	vu_close(&below);
	free(held);
	return ret;
}

/* --------------------------------------------------------------- whole images */

int vu_open(struct cli *c, const char *name, unsigned flags, struct tapimg **out)
{
	struct tapimg_open_opts opts = { .format = "vhd" };
	struct tapimg_err err = { 0 };
	char *path;
	int ret;

	*out = NULL;
	opts.flags = (flags & ~VU_CHAIN) | TAPIMG_CIPHERTEXT;
	opts.flags |= flags & VU_CHAIN ? TAPIMG_SHARE_BACKING : TAPIMG_NO_BACKING;
	if (!(flags & TAPIMG_RDWR))
		opts.flags |= TAPIMG_SHARE;
	if (is_device(name))
		opts.flags |= TAPIMG_DIRECT;
	path = cli_loop(c) ? vu_base(name) : NULL;
	if (!path)
		return -ENOMEM;
	ret = tapimg_open(c->loop, path, &opts, out, &err);
	free(path);
	return ret ? vu_look_failed(c, name, &err, ret) : 0;
}

int vu_close_image(struct cli *c, struct tapimg *img, int ret)
{
	struct tapimg_err err = { 0 };
	int closed;

	if (!img)
		return ret;
	closed = tapimg_close(img, &err);
	if (closed && !ret)
		ret = vu_look_failed(c, "closing", &err, closed);
	return ret;
}

static int write_new(struct cli *c, const char *path, const char *name,
		     const struct vhd_create *how, struct tapimg_err *err)
{
	unsigned flags = FILE_RDWR | FILE_CREATE | (is_device(path) ? FILE_DIRECT : 0);
	struct file *file;
	int ret = file_open(c->loop, path, flags, &file, err);

	if (ret)
		return ret;
	ret = vhd_write_new(file, name, how, err);
	if (!ret) {
		ret = file_flush(file);
		if (ret)
			err_errno(err, ret, "%s: flushing", name);
	}
	file_close(file);
	return ret;
}

int vu_make(struct cli *c, const char *name, const struct vhd_create *how,
	    int (*fill)(struct cli *c, const char *path, void *arg), void *arg)
{
	struct tapimg_err err = { 0 };
	struct tapimg_target *t;
	const char *path;
	int ret;

	if (!cli_loop(c))
		return -ENOMEM;
	ret = tapimg_target_begin(c->loop, name, 0, &t, &err);
	if (ret) {
		fprintf(stderr, "%s: failed to create: %d\n", name, ret);
		return vu_look_failed(c, name, &err, ret);
	}
	path = tapimg_target_path(t);
	ret = write_new(c, path, name, how, &err);
	if (!ret && fill)
		ret = fill(c, path, arg);
	if (ret)
		tapimg_target_abort(t);
	else
		ret = tapimg_target_commit(t, &err);
	return ret ? vu_look_failed(c, name, &err, ret) : 0;
}

const char *vu_number(bool hex, uint64_t n, char buf[24])
{
	snprintf(buf, 24, hex ? "%#llx" : "%llu", (unsigned long long)n);
	return buf;
}
