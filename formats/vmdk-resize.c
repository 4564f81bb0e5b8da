/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-resize.c - making a disk larger or smaller
 *
 * The last extent grows; of split types up to the size that its first extent has, and further ones
 * follow as new files.  A sparse extent gets new directories at its end with room for the new
 * tables, which are made at once; the old ones stay behind as unused space.
 *
 * S1 Growing: everything that the new size needs is durable, and reads as zeroes, before the size is
 *    changed; that is one write: of the descriptor, or of the header where the descriptor is inside.
 * S2 Shrinking: the size is changed first, what lies beyond goes afterwards.
 * S3 Entries of tables beyond the end of the disk are cleared, so that nothing comes back.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "vmdk-make.h"

#define GROW_FILL (2 * MiB)

static bool is_sparse(const struct vmdk_extent *x)
{
	return x->kind == &vmdk_sparse || x->kind == &vmdk_cowd;
}

/* Its header says how large the disk is. */
static bool header_rules(const struct tapimg *img, const struct vmdk_extent *x)
{
	const struct vmdk *v = vmdk_of(img);

	return !x->line || (x->file == img->file && v->desc_max);
}

static int put(struct vmdk_extent *x, const void *buf, uint64_t len, uint64_t at,
	       struct tapimg_err *err)
{
	int ret = file_pwrite(x->file, buf, len, at);

	if (!ret)
		ret = file_flush(x->file);
	return ret ? err_errno(err, ret, "%s: writing at 0x%" PRIx64, x->path, at) : 0;
}

static int set_capacity(struct vmdk_extent *x, uint64_t len, struct tapimg_err *err)
{
	uint8_t b[8];

	put_le64(b, len / VMDK_SECTOR);
	return x->kind == &vmdk_cowd ? put(x, b, 4, VC_SECTORS, err) : put(x, b, 8, VH_CAPACITY, err);
}

/* ------------------------------------------------------------ sparse extents */

static int zero_space(struct vmdk_extent *x, uint64_t at, uint64_t len)
{
	int ret = 0;

	if (!x->file->block_dev && x->file->size < at + len)
		ret = file_truncate(x->file, at + len);
	return ret ? ret : file_zero(x->file, at, len, 0);
}

/* S3: the table that the end of the disk is in. */
static int clear_behind(struct vmdk_extent *x, uint64_t len, struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	uint32_t first = div_up(len, x->grain) & ((1U << s->gt_bits) - 1), n = (1U << s->gt_bits) - first;
	uint64_t i = div_up(len, x->grain) >> s->gt_bits;
	int ret = 0;

	for (; i < s->ngd && !ret; i++, first = 0, n = 1U << s->gt_bits) {
		if (s->gd[i] > VMDK_GTE_ZERO)
			ret = file_zero(x->file, s->gd[i] * VMDK_SECTOR + first * 4ULL, n * 4ULL, 0);
		if (!ret && s->rgd && s->rgd[i] > VMDK_GTE_ZERO)
			ret = file_zero(x->file, s->rgd[i] * VMDK_SECTOR + first * 4ULL, n * 4ULL, 0);
	}
	if (!ret)
		ret = file_flush(x->file);
	return ret ? err_errno(err, ret, "%s: clearing tables", x->path) : 0;
}

/* A directory with the old entries, and new tables from sector @table on; none if that is 0. */
static int directory_make(struct vmdk_extent *x, const uint32_t *old, uint32_t n, uint64_t at,
			  uint64_t table, struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t len = round_up(n * 4ULL, VMDK_SECTOR);
	uint8_t *b = file_buf(len);
	int ret;

	if (!b)
		return err_errno(err, -ENOMEM, "%s", x->path);
	memset(b, 0, len);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t entry = i < s->ngd ? old[i] : table ? table + (uint64_t)(i - s->ngd) *
				 ((4U << s->gt_bits) / VMDK_SECTOR) : 0;

		put_le32(b + 4ULL * i, entry);
	}
	ret = put(x, b, len, at, err);
	free(b);
	return ret;
}

static int hosted_directories(struct vmdk_extent *x, uint32_t n, struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t gd_len = round_up(n * 4ULL, VMDK_SECTOR), gts = (uint64_t)(n - s->ngd) * (4U << s->gt_bits);
	uint64_t at = round_up(MAX(s->end, x->file->size), x->grain), rgd = at + gd_len + gts;
	uint64_t len = (gd_len + gts) * (s->rgd ? 2 : 1);
	uint8_t b[16];
	int ret;

	if (at + len > VMDK_MAX_FILE || (x->file->block_dev && at + len > x->file->size))
		return err_set(err, x->file->block_dev ? -ENOSPC : -EFBIG, "%s: there is no room for the tables "
			       "of the larger disk", x->path);
	ret = zero_space(x, at, round_up(len, x->grain));
	if (ret)
		return err_errno(err, ret, "%s: space for tables", x->path);
	ret = directory_make(x, s->gd, n, at, (at + gd_len) / VMDK_SECTOR, err);
	if (!ret && s->rgd)
		ret = directory_make(x, s->rgd, n, rgd, (rgd + gd_len) / VMDK_SECTOR, err);
	put_le64(b, (s->rgd ? rgd : 0) / VMDK_SECTOR);
	put_le64(b + 8, at / VMDK_SECTOR);
	if (!ret && s->rgd)
		return put(x, b, 16, VH_RGD, err);
	return ret ? ret : put(x, b + 8, 8, VH_GD, err);
}

static int cowd_directory(struct vmdk_extent *x, uint32_t n, struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t at = round_up(MAX(s->end, x->file->size), VMDK_SECTOR);
	uint64_t len = round_up(n * 4ULL, VMDK_SECTOR);
	uint8_t b[12];
	int ret;

	if (at + len > VMDK_MAX_FILE)
		return err_set(err, -EFBIG, "%s: there is no room for a larger grain directory", x->path);
	ret = zero_space(x, at, len);
	if (ret)
		return err_errno(err, ret, "%s: space for the grain directory", x->path);
	ret = directory_make(x, s->gd, n, at, 0, err);
	put_le32(b, at / VMDK_SECTOR);
	put_le32(b + 4, n);
	put_le32(b + 8, (at + len) / VMDK_SECTOR);
	return ret ? ret : put(x, b, sizeof(b), VC_GD, err);	/* one write inside a sector */
}

static int sparse_grow(struct tapimg *img, struct vmdk_extent *x, uint64_t len, struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t n = div_up(len, vmdk_span(s));
	int ret;

	if (n > VMDK_MAX_GD || len / VMDK_SECTOR > UINT32_MAX)
		return err_set(err, -EFBIG, "%s: an extent of %" PRIu64 " bytes is too large for its type",
			       x->path, len);
	ret = clear_behind(x, x->len, err);
	if (!ret && n > s->ngd)
		ret = s->cowd ? cowd_directory(x, n, err) : hosted_directories(x, n, err);
	if (!ret && !header_rules(img, x))
		ret = set_capacity(x, len, err);
	if (ret)
		return ret;
	x->grow_to = len;
	return vmdk_sparse_load(img, x, err);
}

static int flat_grow(struct vmdk_extent *x, uint64_t len, enum tapimg_prealloc prealloc,
		     struct tapimg_err *err)
{
	uint64_t from = x->offset + x->len, end = x->offset + len;
	int ret = 0;

	if (x->file->block_dev)
		return end <= x->file->size ? 0 : err_set(err, -ENOSPC, "%s: the device has only %" PRIu64
							  " bytes", x->path, x->file->size);
	if (x->file->size > from)	/* what was never part of the disk */
		ret = file_truncate(x->file, from);
	if (!ret)
		ret = file_truncate(x->file, end);
	if (!ret && prealloc == TAPIMG_PREALLOC_FALLOC) {
		ret = file_prealloc(x->file, from, end - from);
		if (ret == -ENOTSUP)
			prealloc = TAPIMG_PREALLOC_FULL, ret = 0;
	}
	if (!ret && (prealloc == TAPIMG_PREALLOC_FULL || !x->file->grows_clean))
		ret = file_zero(x->file, from, end - from, 0);
	if (!ret)
		ret = file_flush(x->file);
	return ret ? err_errno(err, ret, "%s: growing to %" PRIu64 " bytes", x->path, end) : 0;
}

/* ---------------------------------------------------------------- new extents */

/* "disk-s001.vmdk" makes "disk-s002.vmdk"; NULL: there is no number in it, or no memory. */
static char *next_name(const char *name)
{
	const char *dot = strrchr(name, '.'), *end = dot ? dot : name + strlen(name), *p = end;
	char *out;
	unsigned n;

	while (p > name && p[-1] >= '0' && p[-1] <= '9' && end - p < 6)
		p--;
	if (p == end)
		return NULL;
	n = strtoul(p, NULL, 10) + 1;
	if (asprintf(&out, "%.*s%0*u%s", (int)(p - name), name, (int)(end - p), n, end) < 0)
		return NULL;
	return out;
}

static int extent_add(struct tapimg *img, uint64_t len, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	const struct vmdk_extent *last = &v->x[v->nx - 1];
	const struct vmdk_line *l = last->line;
	char *name = l && l->file ? next_name(l->file) : NULL, *text = NULL, *line = NULL;
	int ret;

	if (!name)
		return err_set(err, -ENOTSUP, "%s: the name of the last extent has no number, so that of "
			       "another one is not known", img->name);
	ret = vmdk_desc_name(&v->desc, name, &text, err);
	ret = ret ? err_prefix(err, ret, "%s", img->name) : vmdk_extent_make(img, last, name, len, err);
	if (!ret && asprintf(&line, "RW %" PRIu64 " %s \"%s\"%s", (uint64_t)(len / VMDK_SECTOR),
			     vmdk_type_names[l->type], text, l->type == VMDK_FLAT ? " 0" : "") < 0) {
		line = NULL;
		ret = err_errno(err, -ENOMEM, "%s", img->name);
	}
	if (!ret) {
		ret = vmdk_desc_add_extent(&v->desc, v->desc.line[v->desc.nlines - 1].number, line);
		ret = ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_again(img, err);
	}
	if (!ret)
		ret = vmdk_extent_append(img, err);
	free(name);
	free(text);
	free(line);
	return ret;
}

/* ----------------------------------------------------------------------- both */

/* Extents that were cut off, or did not come to be, go with their files. */
static void extents_drop(struct tapimg *img, unsigned from)
{
	struct vmdk *v = vmdk_of(img);

	while (v->nx > from) {
		struct vmdk_extent *x = &v->x[--v->nx];

		if (x->kind && x->kind->close)
			x->kind->close(img, x);
		/* a file that another extent uses as well stays */
		if (v->nfiles && v->files[v->nfiles - 1].file == x->file && x->file) {
			struct vmdk_file *f = &v->files[--v->nfiles];

			if (f->index)	/* else its opening failed before */
				meta_drop_file(img->meta, f->index);
			file_close(f->file);
			file_remove(img->loop, x->path);
			free(f->path);
		}
		free(x->path);
	}
}

static int set_cylinders(struct tapimg *img, uint64_t size)
{
	struct vmdk_desc *d = &vmdk_of(img)->desc;
	char *h = vmdk_desc_get(d, "ddb.geometry.heads"), *s = vmdk_desc_get(d, "ddb.geometry.sectors");
	uint64_t track = (h ? strtoul(h, NULL, 10) : 0) * (s ? strtoul(s, NULL, 10) : 0);
	char text[24];
	int ret = 0;

	if (track && track < 65536) {
		snprintf(text, sizeof(text), "%llu", MIN(size / VMDK_SECTOR / track, 65535ULL));
		ret = vmdk_desc_set(d, "ddb.geometry.cylinders", text, true, NULL);
	}
	free(h);
	free(s);
	return ret;
}

/* The size of the disk becomes what the extents in memory say: the one write of S1 and S2. */
static int size_write(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *x = &v->x[v->nx - 1];
	uint64_t size = x->start + x->len;
	int ret = 0;

	if (is_sparse(x) && header_rules(img, x))
		ret = set_capacity(x, x->len, err);
	if (ret || !v->desc.text)
		return ret;
	for (unsigned i = 0; i < v->nx && v->x[i].line && !ret; i++)
		ret = vmdk_desc_set_sectors(&v->desc, v->x[i].line->number, v->x[i].len / VMDK_SECTOR);
	if (!ret)
		ret = set_cylinders(img, size);
	return ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_write(img, err);
}

static uint64_t split_size(struct vmdk *v)
{
	if (strncasecmp(v->desc.create_type ? v->desc.create_type : "", "twoGbMaxExtent", 14) &&
	    strncasecmp(v->desc.create_type ? v->desc.create_type : "", "2GbMaxExtent", 12))
		return UINT64_MAX;
	return v->nx > 1 ? v->x[0].len : 2 * GiB;
}

static int extent_grow(struct tapimg *img, struct vmdk_extent *x, uint64_t len,
		       enum tapimg_prealloc prealloc, struct tapimg_err *err)
{
	int ret = 0;

	if (x->kind == &vmdk_flat)
		ret = flat_grow(x, len, prealloc, err);
	else if (is_sparse(x))
		ret = sparse_grow(img, x, len, err);
	if (!ret)
		x->len = len;
	return ret;
}

static int grow(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	uint64_t old = img->size, had = v->x[v->nx - 1].len, max = split_size(v), tail;
	struct vmdk_extent *x = &v->x[v->nx - 1];
	unsigned n = v->nx;
	int ret;

	tail = x->grain ? MIN(x->start + round_up(had, x->grain), size) : old;
	max = MAX(max, had);
	ret = extent_grow(img, x, MIN(size - x->start, max), prealloc, err);
	for (uint64_t end = x->start + x->len; !ret && end < size; end += MIN(max, size - end))
		ret = extent_add(img, MIN(max, size - end), err);
	vmdk_geometry_changed(img);
	if (!ret && tail > old) {	/* the rest of the last grain */
		img->size = size;
		ret = tapimg_zero(img, old, tail - old, 0);
		img->size = old;
		if (ret)
			err_errno(err, ret, "%s: zeroing the last grain", img->name);
	}
	if (!ret)
		ret = image_grow_zero(img, size, err);
	if (!ret)
		ret = image_settle(img);
	if (!ret)
		ret = size_write(img, err);
	if (!ret) {
		img->size = size;
		return 0;
	}
	/* the old size holds: what was made for the new one goes again */
	img->size = old;
	if (v->nx > n) {
		image_settle(img);
		meta_quiet(img->meta);	/* it does not wait for what runs on after a failure */
		extents_drop(img, n);
		vmdk_desc_truncate(img, n);
	}
	v->x[n - 1].len = had;
	vmdk_geometry_changed(img);
	return ret;
}

static int shrink(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *x;
	unsigned k = 0, all = v->nx;
	int ret;

	while (k + 1 < v->nx && v->x[k].start + v->x[k].len < size)
		k++;
	x = &v->x[k];
	for (unsigned i = k; i < v->nx; i++)
		if (!v->x[i].writable && v->x[i].kind != &vmdk_zero)
			return err_set(err, -EROFS, "%s: extent '%s' may not be changed", img->name,
				       v->x[i].path);
	x->len = size - x->start;
	if (k + 1 < all) {
		v->nx = k + 1;		/* as it is to be written down */
		ret = vmdk_desc_truncate(img, k + 1);
		if (!ret)
			ret = size_write(img, err);
		v->nx = all;
	} else {
		ret = size_write(img, err);
	}
	img->size = size;
	meta_drop(img->meta);
	if (ret)
		return ret;
	extents_drop(img, k + 1);
	if (is_sparse(x)) {
		ret = clear_behind(x, x->len, err);
		if (!ret && !header_rules(img, x))
			ret = set_capacity(x, x->len, err);
		if (!ret)
			ret = vmdk_sparse_load(img, x, err);
	} else if (x->kind == &vmdk_flat && !x->file->block_dev) {
		ret = file_truncate(x->file, x->offset + x->len);
		if (ret)
			err_errno(err, ret, "%s: cutting it off", x->path);
	}
	vmdk_geometry_changed(img);
	return ret;
}

int vmdk_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *x = &v->x[v->nx - 1];
	int ret;

	if (!is_aligned(size, VMDK_SECTOR))
		return err_set(err, -EINVAL, "%s: the size must be a multiple of 512, %" PRIu64 " is not",
			       img->name, size);
	if (x->kind != &vmdk_zero && x->kind != &vmdk_flat && !is_sparse(x))
		return err_set(err, -ENOTSUP, "%s: extents of the type %s cannot be resized", img->name,
			       x->kind->name);
	if (x->kind != &vmdk_zero && !x->writable)
		return err_set(err, -EROFS, "%s: extent '%s' may not be changed", img->name, x->path);
	if (prealloc == TAPIMG_PREALLOC_METADATA || (prealloc != TAPIMG_PREALLOC_OFF &&
						     x->kind != &vmdk_flat))
		return err_set(err, -ENOTSUP, "%s: only flat extents can be preallocated", img->name);
	ret = vmdk_gate_cid(img, err);
	if (ret)
		return ret;
	meta_drop(img->meta);
	ret = size > img->size ? grow(img, size, prealloc, err) : shrink(img, size, err);
	for (unsigned i = 0; i < v->nx; i++)
		v->x[i].grow_to = 0;
	return ret;
}
