/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * admin.c - administrative calls: what is common before and after the driver's part
 *
 * Before: the format can do it, the image is open for it and sound, no request is in flight,
 * nothing is dirty.  After: what was remembered of the chain is forgotten.
 */
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "image.h"
#include "opt.h"

enum { ADMIN_READ, ADMIN_WRITE };

int image_rechained(const struct tapimg *img, struct tapimg_err *err)
{
	return err_set(err, -ESTALE, "%s: its backing file has been changed: it has to be closed and "
		       "opened again first", img->name);
}

static int admin_begin(struct tapimg *img, bool able, const char *what, int mode,
		       struct tapimg_err *err)
{
	int ret;

	if (!able)
		return err_set(err, -ENOTSUP, "%s: the %s format has no %s", img->name, img->fmt->name,
			       what);
	if (mode == ADMIN_WRITE && img->failed)
		return err_set(err, img->failed, "%s: no longer writable: %s", img->name,
			       img->failure ? img->failure : strerror(-img->failed));
	if (mode == ADMIN_WRITE && !img->writable)
		return err_set(err, -EROFS, "%s: is not open for writing", img->name);
	if (mode == ADMIN_WRITE && img->rechained)
		return image_rechained(img, err);
	ret = image_settle(img);
	if (ret && mode == ADMIN_WRITE)
		return err_errno(err, ret, "%s: writing what was left to be written", img->name);
	return 0;
}

/* @e: what the driver said, if anything */
static int admin_end(struct tapimg *img, int ret, const struct tapimg_err *e,
		     struct tapimg_err *err)
{
	chain_forget(img);
	if (!ret)
		return 0;
	if (e->text[0])
		return err_set(err, ret, "%s", e->text);
	return err_errno(err, ret, "%s", img->name);
}

/* --------------------------------------------------------------------- looking */

int tapimg_info(struct tapimg *img, const struct tapimg_info **out, struct tapimg_err *err)
{
	struct tapimg_info *i = &img->info;
	struct tapimg_err e = { 0 };
	int ret;

	*out = NULL;
	ret = admin_begin(img, true, NULL, ADMIN_READ, err);
	if (ret)
		return ret;
	info_free(img);
	memset(i, 0, sizeof(*i));
	i->filename = img->path;
	i->format = tapimg_format(img);
	i->virtual_size = img->size;
	i->actual_size = file_allocated(img->file);
	i->cluster_size = img->cluster;
	i->corrupt = img->corrupt;
	i->backing = img->backing_name;
	i->backing_full = img->backing_path;
	i->backing_format = img->backing_fmt;
	ret = img->fmt->info ? img->fmt->info(img, i, &e) : 0;
	if (!ret)
		*out = i;
	return admin_end(img, ret, &e, err);
}

static void report_nobody(void *arg, char severity, const char *line)
{
}

int tapimg_verify(struct tapimg *img, void (*report)(void *arg, char severity, const char *line), void *arg,
		  uint64_t *bad, struct tapimg_err *err)
{
	*bad = 0;
	if (!img->container || !img->container->verify || img->file->append || !img->file->around)
		return 0;
	return img->container->verify(img->file->around, report ? report : report_nobody, arg, bad, err);
}

int tapimg_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
		 void (*report)(void *arg, char severity, const char *line), void *arg,
		 struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret;

	memset(out, 0, sizeof(*out));
	ret = admin_begin(img, img->fmt->check, "check", ADMIN_READ, err);
	if (ret)
		return ret;
	if (!(img->flags & TAPIMG_CHECK))
		return err_set(err, -EINVAL, "%s: is not open for checking", img->name);
	if (fix && !(img->flags & TAPIMG_RDWR))
		return err_set(err, -EROFS, "%s: is not open for writing, so nothing can be repaired",
			       img->name);
	ret = img->fmt->check(img, fix, out, report ? report : report_nobody, arg, &e);
	if (!ret) {
		uint64_t bad;

		ret = tapimg_verify(img, report, arg, &bad, &e);
		out->corruptions += bad;
	}
	return admin_end(img, ret, &e, err);
}

/* ---------------------------------------------------------------------- resizing */

/* Zeroes what of [off, end) does not read as zeroes already. */
static int zero_visible(struct tapimg *img, uint64_t off, uint64_t end)
{
	while (off < end) {
		struct extent ext = { 0 };
		int ret = chain_map_sync(img, off, end - off, 0, 0, &ext);

		if (!ret && ext.type != EXT_ZERO)
			ret = tapimg_zero(img, off, MIN(ext.len, end - off), 0);
		if (ret)
			return ret;
		off += MIN(ext.len, end - off);
	}
	return 0;
}

int image_grow_zero(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	uint64_t old = img->size, end = old;
	int ret;

	if (size <= old)
		return 0;
	if (img->backing)
		end = MAX(end, MIN(size, img->backing->size));
	if (img->cluster)
		end = MAX(end, MIN(size, round_up(old, img->cluster)));
	chain_forget(img);
	img->size = size;
	ret = zero_visible(img, old, end);
	if (!ret)
		ret = image_settle(img);
	if (ret) {
		img->size = old;
		return err_errno(err, ret, "%s: zeroing the space from %llu to %llu", img->name,
				 (unsigned long long)old, (unsigned long long)end);
	}
	return 0;
}

int tapimg_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc, bool shrink,
		  struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = admin_begin(img, img->fmt->resize, "way to be resized", ADMIN_WRITE, err);

	if (ret)
		return ret;
	if (size > INT64_MAX)
		return err_set(err, -EFBIG, "%s: a size of %llu bytes is too large", img->name,
			       (unsigned long long)size);
	if (size < img->size && !shrink)
		return err_set(err, -EINVAL, "%s: shrinking from %llu to %llu bytes would lose what "
			       "lies beyond, and was not asked for", img->name,
			       (unsigned long long)img->size, (unsigned long long)size);
	if (size < img->size && prealloc != TAPIMG_PREALLOC_OFF)
		return err_set(err, -EINVAL, "%s: preallocation is only for growing", img->name);
	if (size > img->size && img->backing_name && !img->backing)
		return err_set(err, -EINVAL, "%s: to grow it its backing file '%s' must be open, for "
			       "that may be longer", img->name, img->backing_name);
	if (size == img->size)
		return 0;
	ret = img->fmt->resize(img, size, prealloc, &e);
	return admin_end(img, ret, &e, err);
}

/* ---------------------------------------------------------------------- changing */

int tapimg_set_backing(struct tapimg *img, const char *name, const char *format,
		       struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = admin_begin(img, img->fmt->set_backing, "backing files", ADMIN_WRITE, err);
	char *path = NULL;

	if (ret)
		return ret;
	if (name && !*name)
		name = NULL;
	if (name && format) {
		const struct format *fmt = format_find(format);

		if (!fmt)
			return err_set(err, -ENOTSUP, "%s: unknown format '%s' of the backing file",
				       img->name, format);
		format = fmt->name;	/* the one that other products know */
	}
	if (name) {
		path = name_resolve(img->path, name);
		if (!path)
			return err_set(err, -ENOMEM, "no memory");
	}
	ret = img->fmt->set_backing(img, name, name ? format : NULL, &e);
	if (ret) {
		free(path);
	} else {
		free(img->backing_path);
		img->backing_path = path;
		img->rechained = true;
	}
	return admin_end(img, ret, &e, err);
}

int tapimg_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
		 struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = admin_begin(img, img->fmt->amend, "options that can be changed", ADMIN_WRITE, err);

	if (ret)
		return ret;
	ret = opts_check(img->fmt, opts, nopts, TAPIMG_OPT_AMEND, &e);
	if (ret)
		return err_set(err, ret, "%s: %s", img->name, e.text);
	ret = img->fmt->amend(img, opts, nopts, &e);
	for (unsigned i = 0; i < nopts; i++)
		img->rechained |= !ret && !strcmp(opts[i].name, "backing_file");
	return admin_end(img, ret, &e, err);
}

/* -------------------------------------------------------------------- snapshots */

typedef int snap_fn(struct tapimg *img, const char *name, struct tapimg_err *err);

static int snap_call(struct tapimg *img, snap_fn *fn, const char *name, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = admin_begin(img, fn, "internal snapshots", ADMIN_WRITE, err);

	if (ret)
		return ret;
	if (!name || !*name)
		return err_set(err, -EINVAL, "%s: the name of the snapshot is empty", img->name);
	ret = fn(img, name, &e);
	return admin_end(img, ret, &e, err);
}

int tapimg_snapshot_create(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	return snap_call(img, img->fmt->snap_create, name, err);
}

int tapimg_snapshot_apply(struct tapimg *img, const char *id_or_name, struct tapimg_err *err)
{
	return snap_call(img, img->fmt->snap_apply, id_or_name, err);
}

int tapimg_snapshot_delete(struct tapimg *img, const char *id_or_name, struct tapimg_err *err)
{
	return snap_call(img, img->fmt->snap_delete, id_or_name, err);
}

/* ---------------------------------------------------------------------- bitmaps */

static int bitmap_begin(struct tapimg *img, bool able, const char *name, int mode,
			struct tapimg_err *err)
{
	int ret = admin_begin(img, able, "bitmaps", mode, err);

	if (!ret && (!name || !*name))
		ret = err_set(err, -EINVAL, "%s: the name of the bitmap is empty", img->name);
	return ret;
}

int tapimg_bitmap_add(struct tapimg *img, const char *name, uint64_t granularity, bool disabled,
		      struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = bitmap_begin(img, img->fmt->bitmap_add, name, ADMIN_WRITE, err);

	if (ret)
		return ret;
	return admin_end(img, img->fmt->bitmap_add(img, name, granularity, disabled, &e), &e, err);
}

int tapimg_bitmap_remove(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = bitmap_begin(img, img->fmt->bitmap_remove, name, ADMIN_WRITE, err);

	return ret ? ret : admin_end(img, img->fmt->bitmap_remove(img, name, &e), &e, err);
}

int tapimg_bitmap_clear(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = bitmap_begin(img, img->fmt->bitmap_clear, name, ADMIN_WRITE, err);

	return ret ? ret : admin_end(img, img->fmt->bitmap_clear(img, name, &e), &e, err);
}

int tapimg_bitmap_enable(struct tapimg *img, const char *name, bool on, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = bitmap_begin(img, img->fmt->bitmap_enable, name, ADMIN_WRITE, err);

	return ret ? ret : admin_end(img, img->fmt->bitmap_enable(img, name, on, &e), &e, err);
}

const char *image_bitmap_name(struct tapimg *img, unsigned i)
{
	return img->fmt->bitmap_name ? img->fmt->bitmap_name(img, i) : NULL;
}

int image_bitmap_next(struct tapimg *img, const char *name, uint64_t *off, uint64_t *len,
		      struct tapimg_err *err)
{
	if (!img->fmt->bitmap_next)
		return err_set(err, -ENOENT, "%s: there is no bitmap '%s'", img->name, name);
	return img->fmt->bitmap_next(img, name, off, len, err);
}

static int merge_ranges(struct tapimg *img, const char *name, struct tapimg *src,
			const char *src_name, struct tapimg_err *err)
{
	uint64_t off = 0, len = 0, probe = 0;
	int ret;

	/* the target's name is looked up first: an empty source must not hide that it is missing */
	ret = img->fmt->bitmap_next(img, name, &probe, &len, err);
	while (!ret) {
		len = 0;
		ret = src->fmt->bitmap_next(src, src_name, &off, &len, err);
		if (ret || !len || off >= img->size)
			break;
		len = MIN(len, img->size - off);
		ret = img->fmt->bitmap_set(img, name, off, len, err);
		off += len;
	}
	return ret;
}

int tapimg_bitmap_merge(struct tapimg *img, const char *name, struct tapimg *src,
			const char *src_name, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = bitmap_begin(img, img->fmt->bitmap_set && img->fmt->bitmap_next, name,
			       ADMIN_WRITE, err);

	if (!ret)
		ret = bitmap_begin(src, src->fmt->bitmap_next, src_name, ADMIN_READ, err);
	return ret ? ret : admin_end(img, merge_ranges(img, name, src, src_name, &e), &e, err);
}
