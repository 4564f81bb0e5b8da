/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw.c - plain images: the bytes of the file, or of a window of it, are the bytes of the disk
 *
 * The virtual size is the file's length rounded up to 512.  A file whose length is no multiple of
 * that keeps its length until its last sector is written.
 *
 * Holes are found only for block status (MAP_STATUS); reading one costs no more than asking.
 * There is no metadata, so nothing is ever reserved; zeroing and discarding are the file's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "image.h"
#include "opt.h"

#define SECTOR 512
#define FILL (2 * MiB)		/* of zeroes, written at a time */

struct raw {
	uint64_t start;		/* of the window */
	bool fixed;		/* a size was given: the image cannot be resized */
};

static int raw_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	return 1;
}

/* ------------------------------------------------------------------ space */

static int fill_zeroes(struct file *f, uint64_t off, uint64_t end)
{
	void *buf = file_buf(FILL);
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, FILL);
	while (off < end && !ret) {
		uint64_t n = MIN(end - off, FILL);

		ret = file_pwrite(f, buf, n, off);
		off += n;
	}
	free(buf);
	return ret;
}

/* The file ends at `end`, which is beyond `from`, with space for all between them as wanted. */
static int extend(struct file *f, uint64_t from, uint64_t end, enum tapimg_prealloc prealloc)
{
	int ret = -ENOTSUP;

	if (f->block_dev) {
		if (end > f->size)
			return -ENOSPC;
		return prealloc == TAPIMG_PREALLOC_FULL ? fill_zeroes(f, from, end) : 0;
	}
	if (prealloc == TAPIMG_PREALLOC_FALLOC)
		ret = end > from ? file_prealloc(f, from, end - from) : 0;
	if (prealloc == TAPIMG_PREALLOC_OFF || !ret)
		return f->size == end ? 0 : file_truncate(f, end);
	if (prealloc == TAPIMG_PREALLOC_FALLOC && ret != -ENOTSUP)
		return ret;
	return fill_zeroes(f, from, end);
}

static const char *size_text(uint64_t size, char *buf, size_t len)
{
	snprintf(buf, len, "%llu bytes", (unsigned long long)size);
	return buf;
}

static int extend_failed(struct file *f, const char *name, uint64_t size, int ret,
			 struct tapimg_err *err)
{
	char text[40];

	if (f->block_dev && ret == -ENOSPC)
		return err_set(err, ret, "%s: the device has %llu bytes, fewer than the %s wanted",
			       name, (unsigned long long)f->size, size_text(size, text, sizeof(text)));
	return err_errno(err, ret, "%s: setting the size to %s", name,
			 size_text(size, text, sizeof(text)));
}

/* ------------------------------------------------------------------ creating */

static const struct tapimg_opt_desc raw_opts[] = {
	{ "size", "size", NULL, "virtual size", TAPIMG_OPT_CREATE },
	{ "preallocation", "off|falloc|full", "off", "allocate space, or write zeroes, in advance",
	  TAPIMG_OPT_CREATE },
	{ "nocow", "on|off", "off", "no copy-on-write in the file system (btrfs)", TAPIMG_OPT_CREATE },
	{ "extent_size_hint", "size", NULL, "wanted size of the file's extents (xfs); 0: none",
	  TAPIMG_OPT_CREATE },
	{ 0 },
};

/* the format's list has no "metadata" */
static enum tapimg_prealloc raw_prealloc(const struct create *c)
{
	static const enum tapimg_prealloc modes[] = {
		TAPIMG_PREALLOC_OFF, TAPIMG_PREALLOC_FALLOC, TAPIMG_PREALLOC_FULL,
	};

	return modes[create_opt_enum(c, &raw_format, "preallocation")];
}

static int raw_check_size(const struct create *c, struct tapimg_err *err)
{
	if (c->size > INT64_MAX - SECTOR)
		return err_set(err, -EFBIG, "%s: a size of %llu bytes is too large", c->name,
			       (unsigned long long)c->size);
	return 0;
}

static int raw_create(const struct create *c, struct tapimg_err *err)
{
	uint64_t hint = create_opt_size(c, &raw_format, "extent_size_hint");
	uint64_t size = round_up(c->size, SECTOR);
	int ret;

	if (c->backing)
		return err_set(err, -ENOTSUP, "%s: a raw image cannot have a backing file", c->name);
	ret = raw_check_size(c, err);
	if (ret)
		return ret;
	if (hint > UINT32_MAX)
		return err_set(err, -EINVAL, "%s: extent_size_hint %llu is larger than 4 GiB - 1",
			       c->name, (unsigned long long)hint);
	file_tune(c->file, create_opt_bool(c, &raw_format, "nocow"), hint);
	ret = extend(c->file, 0, size, raw_prealloc(c));
	return ret ? extend_failed(c->file, c->name, size, ret, err) : 0;
}

static int raw_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		       struct tapimg_err *err)
{
	int ret = raw_check_size(c, err);

	if (ret)
		return ret;
	out->required = out->fully_allocated = round_up(c->size, SECTOR);
	out->bitmaps = UINT64_MAX;
	return 0;
}

/* ------------------------------------------------------------------ open images */

static int raw_open(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct raw *raw = img->fs;
	uint64_t end = img->file->size;

	if (o->offset > end)
		return err_set(err, -EINVAL, "%s: offset %llu is beyond the end of the file (%llu)",
			       img->name, (unsigned long long)o->offset, (unsigned long long)end);
	if (o->size % SECTOR)
		return err_set(err, -EINVAL, "%s: size %llu is not a multiple of 512", img->name,
			       (unsigned long long)o->size);
	if (!checked_range(o->offset, o->size, end))
		return err_set(err, -EINVAL, "%s: offset %llu and size %llu reach beyond the end of the "
			       "file (%llu)", img->name, (unsigned long long)o->offset,
			       (unsigned long long)o->size, (unsigned long long)end);
	if (end > INT64_MAX - SECTOR)
		return err_set(err, -EFBIG, "%s: is too large", img->name);
	raw->start = o->offset;
	raw->fixed = o->size;
	img->size = o->size ? o->size : round_up(end - o->offset, SECTOR);
	return 0;
}

static int raw_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		      struct tapimg_err *err)
{
	struct raw *raw = img->fs;
	struct file *f = img->file;
	uint64_t old = f->size, end;
	int ret;

	if (raw->fixed)
		return err_set(err, -ENOTSUP, "%s: a raw image opened with a fixed size cannot be resized",
			       img->name);
	if (prealloc == TAPIMG_PREALLOC_METADATA)
		return err_set(err, -ENOTSUP, "%s: raw images have no metadata to preallocate",
			       img->name);
	if (!checked_add(raw->start, size, &end) || end > INT64_MAX - SECTOR)
		return err_set(err, -EFBIG, "%s: a size of %llu bytes is too large", img->name,
			       (unsigned long long)size);
	if (f->block_dev && end < f->size)
		return err_set(err, -ENOTSUP, "%s: is a block device, which cannot be made smaller",
			       img->name);
	if (prealloc != TAPIMG_PREALLOC_OFF && end < old)
		return err_set(err, -EINVAL, "%s: preallocation is only for growing", img->name);
	ret = end < old ? file_truncate(f, end) : extend(f, old, end, prealloc);
	if (!ret)
		ret = file_flush(f);
	if (ret) {
		if (!f->block_dev && f->size != old)
			file_truncate(f, old);
		return extend_failed(f, img->name, end, ret, err);
	}
	img->size = round_up(size, SECTOR);
	return 0;
}

static int raw_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		   struct extent *ext)
{
	struct raw *raw = img->fs;
	bool data;
	int ret;

	ext->off = off;
	ext->len = len;
	ext->file = img->file;
	ext->host = raw->start + off;
	ext->type = EXT_DATA;
	ext->flags = EXT_WRITABLE;
	if (!(flags & MAP_STATUS))
		return 0;
	ret = file_status(img->file, ext->host, &ext->len, &data);
	if (ret)
		return ret;
	if (!data) {
		ext->type = EXT_ZERO;
		ext->flags = EXT_KEPT;		/* as far as the guest can tell */
	}
	return 0;
}

const struct format raw_format = {
	.name = "raw",
	.opts = raw_opts,
	.state_size = sizeof(struct raw),
	.raw = true,
	.probe = raw_probe,
	.create = raw_create,
	.measure = raw_measure,
	.open = raw_open,
	.resize = raw_resize,
	.map = raw_map,
};
