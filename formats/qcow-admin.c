/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-admin.c - resize, backing name, emptying
 *
 * The order in each: what is new is written where nobody reads it and flushed; then the header changes
 * in one write of one sector; then what is old is dropped.  So a cut at any point leaves the
 * old image or the new one.
 *
 * Growing: what is preallocated is mapped while the size is the old one.  Entries beyond the old end, which another program may have left, are cleared first.
 * Shrinking: they are cleared last; what a cut leaves of them is the next growth's business.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "qcow.h"

#define CHUNK (64 * 1024U)

static int admin_failed(struct tapimg *img, int ret, const char *what, struct tapimg_err *err)
{
	return ret ? err_errno(err, ret, "%s: %s", img->name, what) : 0;
}

static uint32_t table_align(const struct tapimg *img)
{
	const struct qcow *q = qcow_of(img);

	return MAX(MAX(q->cluster, img->meta->bsize), q->xen ? QCOW_XEN_ALIGN : 512U);
}

int qcow_append(struct tapimg *img, uint64_t len, uint64_t *off, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);

	*off = round_up(q->end, table_align(img));
	if (img->file->block_dev && *off + len > img->file->size)
		return err_set(err, -ENOSPC, "%s: the device is full", img->name);
	q->end = *off + len;
	return 0;
}

/* ---------------------------------------------------------------------- resize */

/* The L1 table, @entries long, at a new place; durable. */
static int l1_move(struct tapimg *img, uint64_t entries, uint64_t *off, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t keep = MIN(entries, q->l1_entries) * 8, len = round_up(entries * 8, 512), done;
	uint8_t *buf = malloc(CHUNK);
	int ret = buf ? qcow_append(img, len, off, err) : err_errno(err, -ENOMEM, "%s", img->name);

	for (done = 0; !ret && done < len; done += CHUNK) {
		uint64_t n = MIN(len - done, CHUNK), old = done < keep ? MIN(n, keep - done) : 0;

		memset(buf, 0, CHUNK);
		if (old)
			ret = file_pread(img->file, buf, old, q->l1_off + done);
		if (!ret)
			ret = file_pwrite(img->file, buf, n, *off + done);
		admin_failed(img, ret, "moving the L1 table", err);
	}
	free(buf);
	if (!ret)
		ret = admin_failed(img, file_flush(img->file), "moving the L1 table", err);
	return ret;
}

/*
 * Clears the entries of the last L2 table that belongs to a disk of @size bytes, beyond its end.  The
 * clusters they refer to are given back.
 */
static int clear_tail(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t first = div_up(size, q->cluster), i = first & ((1ULL << q->l2_bits) - 1), l2;
	uint64_t l1_at = q->l1_off + (first >> q->l2_bits) * 8;
	uint8_t b[8], *t;
	int ret;

	if (!i || q->regions)
		return 0;	/* the table ends there; or clusters have their place, and are zeroed */
	ret = file_pread(img->file, b, 8, l1_at);
	if (ret)
		return admin_failed(img, ret, "reading the L1 table", err);
	l2 = qcow_l1_load(q, b);
	if (!l2 || qcow_l2_bad(img, l2, true))
		return 0;
	t = malloc(q->l2_bytes);
	if (!t)
		return admin_failed(img, -ENOMEM, "reading an L2 table", err);
	ret = file_pread(img->file, t, q->l2_bytes, l2);
	for (; !ret && i < 1ULL << q->l2_bits; i++) {
		uint64_t entry = get_be64(t + 8 * i);

		if (entry && !(entry & QCOW_CODED) && !qcow_entry_bad(q, entry))
			qcow_space_add(&q->space, entry, q->cluster);
		put_be64(t + 8 * i, 0);
	}
	i = first & ((1ULL << q->l2_bits) - 1);
	if (!ret)
		ret = file_pwrite(img->file, t + 8 * i, q->l2_bytes - 8 * i, l2 + 8 * i);
	if (!ret)
		ret = file_flush(img->file);
	free(t);
	meta_drop(img->meta);
	return admin_failed(img, ret, "clearing entries beyond the end", err);
}

/* Everything below the L1 entry @i belongs to nobody any more. */
static void forget_table(struct tapimg *img, uint64_t l2)
{
	struct qcow *q = qcow_of(img);
	uint8_t *t;

	if (!l2 || qcow_l2_bad(img, l2, true))
		return;
	if (q->regions) {
		uint64_t len = q->l2_bytes + (1ULL << q->l1_shift);

		if (checked_range(l2, len, q->end))
			qcow_space_add(&q->space, l2, len);
		return;
	}
	t = malloc(q->l2_bytes);
	if (t && !file_pread(img->file, t, q->l2_bytes, l2)) {
		for (uint64_t i = 0; i < q->l2_bytes; i += 8) {
			uint64_t entry = get_be64(t + i);

			if (entry && !(entry & QCOW_CODED) && !qcow_entry_bad(q, entry))
				qcow_space_add(&q->space, entry, q->cluster);
		}
		qcow_space_add(&q->space, l2, q->l2_bytes);
	}
	free(t);
}

/* L1 entries that the disk does not reach any more: [from, to) of the table at @l1. */
static int clear_l1(struct tapimg *img, uint64_t from, uint64_t to, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint8_t buf[512];
	int ret = 0;

	while (!ret && from < to) {
		uint64_t n = MIN(to - from, sizeof(buf) / 8), at = q->l1_off + from * 8;

		ret = file_pread(img->file, buf, n * 8, at);
		for (uint64_t i = 0; !ret && i < n; i++)
			forget_table(img, qcow_l1_load(q, buf + 8 * i));
		memset(buf, 0, sizeof(buf));
		if (!ret)
			ret = file_pwrite(img->file, buf, n * 8, at);
		from += n;
	}
	meta_drop(img->meta);
	return admin_failed(img, ret, "clearing L1 entries beyond the end", err);
}

static int write_size(struct tapimg *img, uint64_t size, uint64_t l1_off, uint64_t entries,
		      struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img), old = *q;
	int ret;

	q->size = size;
	q->l1_off = l1_off;
	q->l1_entries = entries;
	ret = q->xen_valid ? qcow_l1_sum(img, &q->xen_sum, err) : 0;
	if (!ret)
		ret = qcow_write_header(img, err);
	if (ret) {
		q->size = old.size;
		q->l1_off = old.l1_off;
		q->l1_entries = old.l1_entries;
		q->xen_sum = old.xen_sum;
	}
	return ret;
}

/* Free space at the end goes back to the file system. */
static int trim(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct qcow_range *last = q->space.n ? q->space.v + q->space.n - 1 : NULL;

	if (!last || img->file->block_dev || last->off + last->len < img->file->size)
		return 0;
	q->end = last->off;
	if (q->clean != UINT64_MAX)	/* where new space holds anything, what is cut off does, too */
		q->clean = q->end;
	q->space.n--;
	q->limit = round_up(q->end, q->cluster);
	return admin_failed(img, file_truncate(img->file, q->end), "making the file shorter", err);
}

static int shrink(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t entries = qcow_l1_count(size, q->l1_shift), old = q->l1_entries;
	int ret = write_size(img, size, q->l1_off, entries, err);

	if (ret)
		return ret;
	img->size = size;
	ret = clear_l1(img, entries, old, err);
	if (!ret)
		ret = clear_tail(img, size, err);
	return ret ? ret : trim(img, err);
}

/* In a region every cluster has its place, and what an earlier, larger disk left there is still there. */
static int zero_region_tail(struct tapimg *img, uint64_t old, uint64_t size, struct tapimg_err *err)
{
	uint64_t end = MIN(size, round_up(old, 1ULL << qcow_of(img)->l1_shift));
	int ret = end > old ? tapimg_zero(img, old, end - old, 0) : 0;

	if (!ret)
		ret = image_settle(img);
	return admin_failed(img, ret, "zeroing the rest of a region", err);
}

static int grow(struct tapimg *img, uint64_t size, enum tapimg_prealloc how, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t entries = qcow_l1_count(size, q->l1_shift), l1 = q->l1_off;
	uint64_t old_l1 = q->l1_off, old_bytes = q->l1_entries * 8;
	int ret = clear_tail(img, q->size, err);

	/* the new table first, with the old size: then the space to come can be zeroed */
	if (!ret && entries > q->l1_entries) {
		ret = l1_move(img, entries, &l1, err);
		if (!ret)
			ret = write_size(img, q->size, l1, q->l1_entries, err);
		if (!ret && old_l1 >= QH1_SECTOR) {
			qcow_space_add(&q->space, old_l1, old_bytes);
			ret = file_zero(img->file, old_l1, old_bytes, IO_MAY_UNMAP | IO_NO_FALLBACK);
			ret = ret == -ENOTSUP ? 0 : admin_failed(img, ret, "giving back the old L1 table", err);
		}
		if (!ret)
			q->l1_entries = entries;
	}
	if (!ret)
		ret = image_grow_zero(img, size, err);
	if (!ret && q->regions)
		ret = zero_region_tail(img, q->size, size, err);
	if (!ret && how != TAPIMG_PREALLOC_OFF)
		ret = qcow_preallocate(img, q->size, size, how, err);
	return ret ? ret : write_size(img, size, l1, entries, err);
}

int qcow_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);

	if (prealloc != TAPIMG_PREALLOC_OFF && q->encrypted)
		return err_set(err, -ENOTSUP, "%s: an enciphered image cannot be preallocated: its zeroes have "
			       "to be written with the key", img->name);
	if (!size)
		return err_set(err, -EINVAL, "%s: a size of 0 bytes cannot be", img->name);
	size = round_up(size, 512);
	if (qcow_l1_count(size, q->l1_shift) > QCOW_L1_MAX / 8)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is too large for clusters of %u "
			       "bytes", img->name, size, q->cluster);
	return size < q->size ? shrink(img, size, err) : grow(img, size, prealloc, err);
}

/* --------------------------------------------------------------- backing file */

int qcow_set_backing(struct tapimg *img, const char *name, const char *format,
		     struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img), old = *q;
	size_t len = name ? strlen(name) : 0;
	char *copy = NULL;
	uint64_t off = 0;
	int ret = 0;

	if (len > QCOW_NAME_MAX)
		return err_set(err, -EINVAL, "%s: the backing file's name has %zu bytes, more than %d",
			       img->name, len, QCOW_NAME_MAX);
	if (name) {
		ret = qcow_backing_format(img->loop, img->path, name, format, err);
		copy = ret ? NULL : strdup(name);
		if (!ret && !copy)
			ret = err_errno(err, -ENOMEM, "%s", img->name);
		if (!ret)
			ret = qcow_append(img, round_up(len, 512), &off, err);
		if (!ret) {
			uint8_t pad[QCOW_NAME_MAX + 1] = { 0 };

			memcpy(pad, name, len);
			ret = file_pwrite(img->file, pad, round_up(len, 512), off);
			if (!ret)
				ret = file_flush(img->file);
			admin_failed(img, ret, "writing the name of the backing file", err);
		}
	}
	if (!ret) {
		q->backing_off = off;
		q->backing_len = len;
		q->mtime = 0;
		/* holes between regions are Xen's only without a backing file */
		if (name && q->xen)
			q->xen_alloc = 1;
		ret = qcow_write_header(img, err);
	}
	if (ret) {
		q->backing_off = old.backing_off;
		q->backing_len = old.backing_len;
		q->mtime = old.mtime;
		q->xen_alloc = old.xen_alloc;
		free(copy);
		return ret;
	}
	free(img->backing_name);
	img->backing_name = copy;
	return 0;
}

/* ------------------------------------------------------------------- emptying */

/* The L1 table, an entry at a time if it comes to that; then the file ends behind it. */
int qcow_make_empty(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t end = q->l1_off + q->l1_entries * 8;
	int ret = file_zero(img->file, q->l1_off, q->l1_entries * 8, 0);

	if (!ret)
		ret = file_flush(img->file);
	if (ret)
		return admin_failed(img, ret, "clearing the L1 table", err);
	meta_drop(img->meta);
	q->l1_changed = true;
	if (q->backing_off)
		end = MAX(end, q->backing_off + q->backing_len);
	return qcow_set_end(img, round_up(end, table_align(img)), err);
}
