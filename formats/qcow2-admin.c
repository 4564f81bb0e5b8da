/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-admin.c - size, backing file, and emptying
 *
 * Growing:
 *	1. a longer L1 where needed, without entries behind the old end of the disk (what is left
 *	   of a VM state there must not become disk contents), switched to by one write
 *	2. what the new space would show (a longer backing file, stale clusters) becomes zeroes, and
 *	   clusters are preallocated; all of it still lies behind the end
 *	3. the header gets the new size, and bitmaps that fit it, at once
 * Shrinking:
 *	1. the header gets the new size, a shorter L1 (the same place, fewer entries) and bitmaps
 *	2. entries behind the new end go, in place: nobody can see them any more
 *	3. counts of what they referred to go down (A2); the file is cut after its last used cluster
 * A cut leaves the old size with all its contents, or the new one and leaks.
 */
#include <stdlib.h>

#include "qcow2-adm.h"

static uint64_t l1_needed(const struct q2 *q, uint64_t size)
{
	return div_up(size, 1ULL << (q->bits + q->l2_bits));
}

static uint64_t l1_clusters(const struct q2 *q, uint64_t entries)
{
	return div_up(entries * 8, q->csize);
}

/* writes an L1 of @n entries to new clusters and switches to it; the old one's clusters go to @freed */
static int replace_l1(struct q2 *q, const uint64_t *l1, uint64_t n, struct counts *freed)
{
	uint64_t off = 0, old_off = q->l1_off, old_n = q->l1_size;
	int ret = n ? q2_alloc(q, l1_clusters(q, n), &off) : 0;

	if (!ret && n)
		ret = q2_write_l1(q, off, l1, n, l1_clusters(q, n) << q->bits);
	if (!ret) {
		put_be32(q->head + QH_L1_SIZE, n);
		put_be64(q->head + QH_L1_OFF, off);
		ret = q2_switch(q, QH_L1_SIZE, 12);
	}
	if (!ret)
		ret = q2_parse(q);
	if (!ret && old_n)
		ret = counts_add(freed, old_off >> q->bits, l1_clusters(q, old_n), 1);
	return ret;
}

/* ---------------------------------------------------------------- growing */

/* step 1 */
static int grow_l1(struct q2 *q, uint64_t size)
{
	uint64_t keep = l1_needed(q, q->size), need = l1_needed(q, size), n = q->l1_size;
	struct counts freed;
	uint64_t *l1 = NULL, *new = NULL;
	bool stale = false;
	int ret;

	if (need > QCOW2_MAX_L1 / 8)
		return err_set(q->err, -EFBIG, "%s: a disk of %llu bytes is too large for clusters of %llu",
			       q->img->name, (unsigned long long)size,
			       (unsigned long long)q->csize);
	counts_init(&freed, Q2_COUNT_MEMORY);
	ret = q2_read_l1(q, q->l1_off, n, &l1);
	for (uint64_t i = keep; !ret && i < n; i++)
		stale |= l1[i] != 0;
	if (!ret && stale)
		ret = q2_count_l1_tree(q, l1 + keep, n - keep, &freed);
	new = calloc(MAX(need, 1u), 8);
	if (!ret && !new)
		ret = err_errno(q->err, -ENOMEM, "%s: L1 table", q->img->name);
	if (!ret && (need > n || stale)) {
		memcpy(new, l1, MIN(keep, n) * 8);
		ret = replace_l1(q, new, MAX(need, keep), &freed);
		if (!ret)
			ret = q2_apply(q, &freed, false);
	}
	free(l1);
	free(new);
	counts_free(&freed);
	return ret;
}

/* Clusters that are mapped behind the old end, in the L2 table around it. img->size is the new one. */
static int clear_stale(struct tapimg *img, uint64_t old, uint64_t size)
{
	uint64_t end = MIN(size, round_up(old, 1ULL << qcow2_of(img)->l1_shift));
	uint64_t off = round_up(old, img->cluster);

	while (off < end) {
		struct extent ext = {0};
		int ret = chain_map_sync(img, off, end - off, 0, 0, &ext);

		if (!ret && ext.type != EXT_ZERO && ext.type != EXT_HOLE)
			ret = tapimg_zero(img, off, MIN(ext.len, end - off), TAPIMG_REQ_MAY_UNMAP);
		if (ret)
			return ret;
		off += MIN(ext.len, end - off);
	}
	return 0;
}

/* step 2 */
static int fill_new_space(struct tapimg *img, uint64_t size, enum tapimg_prealloc how,
			  struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);
	uint64_t old = img->size;
	int ret;

	if (st->data_file && !st->data_file->block_dev && st->data_file->size < size) {
		ret = file_truncate(st->data_file, size);
		if (ret)
			return err_errno(err, ret, "%s: growing its data file", img->name);
	}
	ret = image_grow_zero(img, size, err);
	if (ret)
		return ret;
	img->size = size;
	ret = clear_stale(img, old, size);
	if (ret)
		err_errno(err, ret, "%s: zeroing the new space", img->name);
	if (!ret && st->raw_data && how == TAPIMG_PREALLOC_OFF)
		how = TAPIMG_PREALLOC_METADATA;
	if (!ret && how != TAPIMG_PREALLOC_OFF)
		ret = qcow2_preallocate(img, old, size - old, how, err);
	if (!ret) {
		ret = image_settle(img);
		if (ret)
			err_errno(err, ret, "%s", img->name);
	}
	if (ret)
		img->size = old;
	return ret;
}

/* step 3, and step 1 of shrinking */
static int put_size(struct q2 *q, uint64_t size, uint64_t l1_size)
{
	struct qcow2_header h;
	int ret = q2_header_get(q, &h);

	if (ret)
		return ret;
	h.size = size;
	h.l1_size = l1_size;
	ret = qcow2_bitmaps_resize(q, &h, size);
	if (!ret)
		ret = qcow2_bitmaps_resized(q, q2_header_put(q, &h));
	qcow2_header_free(&h);
	return ret;
}

static int grow(struct tapimg *img, uint64_t size, enum tapimg_prealloc how, struct tapimg_err *err)
{
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = grow_l1(&q, size);
	ret = q2_end(&q, ret, true);
	if (!ret)
		ret = fill_new_space(img, size, how, err);
	if (ret)
		return ret;
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = put_size(&q, size, q.l1_size);
	return q2_end(&q, ret, true);
}

/* -------------------------------------------------------------- shrinking */

/*
 * Entries behind @size in the L2 table around it.  A table shared with a snapshot stays as it is:
 * it is copied when it is next written, and growing again zeroes what lies behind the end.
 */
static int cut_l2(struct q2 *q, uint64_t l1_entry, uint64_t size, struct counts *freed)
{
	uint64_t off = l1_entry & QCOW2_OFF_MASK, from = div_up(size, q->csize);
	unsigned step = q->ext_l2 ? 16 : 8;
	uint64_t i = from & ((1ULL << q->l2_bits) - 1), len;
	uint8_t *t;
	int ret;

	if (!off || !i || !(l1_entry & QCOW2_COPIED))
		return 0;
	t = file_buf(q->csize);
	if (!t)
		return err_errno(q->err, -ENOMEM, "%s: L2 table", q->img->name);
	ret = q2_read(q, t, q->csize, off, "an L2 table");
	for (; !ret && i < 1ULL << q->l2_bits; i++) {
		uint64_t e = get_be64(t + i * step), at = e & QCOW2_OFF_MASK;

		memset(t + i * step, 0, step);
		if (q->data_file)
			continue;
		if (e & QCOW2_CODED) {
			q2_coded_range(q, e, &at, &len);
			ret = counts_add(freed, at >> q->bits,
					 ((at + len - 1) >> q->bits) - (at >> q->bits) + 1, 1);
		} else if (at) {
			ret = counts_add(freed, at >> q->bits, 1, 1);
		}
	}
	if (!ret)
		ret = q2_write(q, t, q->csize, off, "an L2 table");
	free(t);
	return ret;
}

/* cuts the file after the last cluster with a count */
static int trim_file(struct q2 *q)
{
	uint64_t end;
	int ret;

	if (q->f->block_dev)
		return 0;
	ret = q2_used_end(q, &end);
	if (!ret && end << q->bits < q->f->size) {
		ret = file_truncate(q->f, end << q->bits);
		if (ret)
			err_errno(q->err, ret, "%s: cutting the file", q->img->name);
	}
	return ret;
}

/* step 2 */
static int cut_tables(struct q2 *q, uint64_t *l1, uint64_t n, uint64_t need, uint64_t size,
		      struct counts *freed)
{
	int ret = need ? cut_l2(q, l1[need - 1], size, freed) : 0;

	for (uint64_t i = need; i < n && !ret; i++)
		l1[i] = 0;
	if (!ret && need < n)
		ret = q2_write_l1(q, q->l1_off, l1, n, n * 8);
	return ret ? ret : q2_flush(q);
}

static int shrink_tables(struct q2 *q, uint64_t size)
{
	uint64_t need = l1_needed(q, size), old_n = q->l1_size, n = MAX(need, 1u);
	struct counts freed;
	uint64_t *l1 = NULL;
	int ret;

	n = MIN(n, old_n);
	counts_init(&freed, Q2_COUNT_MEMORY);
	ret = q2_read_l1(q, q->l1_off, old_n, &l1);
	if (!ret && need < old_n)
		ret = q2_count_l1_tree(q, l1 + need, old_n - need, &freed);
	if (!ret && l1_clusters(q, n) < l1_clusters(q, old_n))
		ret = counts_add(&freed, (q->l1_off >> q->bits) + l1_clusters(q, n),
				 l1_clusters(q, old_n) - l1_clusters(q, n), 1);
	if (!ret)
		ret = q2_verify(q, &freed, false);
	if (!ret)
		ret = put_size(q, size, n);
	if (!ret)
		ret = cut_tables(q, l1, n, need, size, &freed);
	if (!ret)
		ret = q2_apply(q, &freed, false);
	if (!ret)
		ret = q2_flush(q);
	if (!ret)
		ret = trim_file(q);
	free(l1);
	counts_free(&freed);
	return ret;
}

static int shrink(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = shrink_tables(&q, size);
	ret = q2_end(&q, ret, true);
	if (!ret && st->data_file && !st->data_file->block_dev) {
		ret = file_truncate(st->data_file, size);
		if (ret)
			err_errno(err, ret, "%s: cutting its data file", img->name);
	}
	return ret;
}

int qcow2_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		 struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);

	if (!is_aligned(size, 512))
		return err_set(err, -EINVAL, "%s: the size must be a multiple of 512, %llu is not",
			       img->name, (unsigned long long)size);
	if (st->h.nsnap && !st->v3)
		return err_set(err, -ENOTSUP,
			       "%s: has snapshots, which in version 2 do not know their size: it cannot be resized",
			       img->name);
	if (st->raw_data && prealloc == TAPIMG_PREALLOC_OFF && size > img->size)
		prealloc = TAPIMG_PREALLOC_METADATA;
	return size > img->size ? grow(img, size, prealloc, err) : shrink(img, size, err);
}

/* ----------------------------------------------------------- backing file */

static int set_string(char **to, const char *from)
{
	char *s = from ? strdup(from) : NULL;

	if (from && !s)
		return -ENOMEM;
	free(*to);
	*to = s;
	return 0;
}

static int edit_backing(struct qcow2_header *h, const char *name, const char *format)
{
	int ret = set_string(&h->backing, name);

	return ret ? ret : qcow2_ext_set(h, QCOW2_EXT_BACKING_FMT, format,
					 format ? strlen(format) : 0);
}

int qcow2_set_backing(struct tapimg *img, const char *name, const char *format,
		      struct tapimg_err *err)
{
	struct qcow2_header h;
	struct q2 q;
	int ret;

	if (name && qcow2_of(img)->raw_data)
		return err_set(err, -EINVAL, "%s: has a raw data file, which excludes a backing file",
			       img->name);
	if (name && strlen(name) > QCOW2_MAX_NAME)
		return err_set(err, -EINVAL,
			       "%s: name of the backing file: %zu bytes are more than %u", img->name,
			       strlen(name), QCOW2_MAX_NAME);
	if (format && strlen(format) > QCOW2_MAX_FORMAT)
		return err_set(err, -EINVAL, "%s: name of the backing format '%s' is too long",
			       img->name, format);
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_header_get(&q, &h);
	if (!ret) {
		ret = edit_backing(&h, name, name ? format : NULL);
		if (!ret)
			ret = q2_header_put(&q, &h);
		qcow2_header_free(&h);
	}
	ret = q2_end(&q, ret, true);
	if (!ret)
		ret = set_string(&img->backing_name, name);
	if (!ret)
		ret = set_string(&img->backing_fmt, name ? format : NULL);
	return ret;
}

/* --------------------------------------------------------------- emptying */

static int empty(struct q2 *q)
{
	uint64_t n = MAX(l1_needed(q, q->size), 1u);
	struct counts freed;
	uint64_t *l1 = NULL, *none = calloc(n, 8);
	int ret = none ? 0 : err_errno(q->err, -ENOMEM, "%s: L1 table", q->img->name);

	counts_init(&freed, Q2_COUNT_MEMORY);
	if (!ret)
		ret = q2_read_l1(q, q->l1_off, q->l1_size, &l1);
	if (!ret)
		ret = q2_count_l1_tree(q, l1, q->l1_size, &freed);
	if (!ret)
		ret = q2_verify(q, &freed, false);
	/* the first new L1 lies behind what is freed with the old one; the second in front */
	for (int i = 0; i < 2 && !ret; i++) {
		ret = replace_l1(q, none, n, &freed);
		if (!ret)
			ret = q2_apply(q, &freed, false);
		counts_free(&freed);
	}
	if (!ret)
		ret = q2_flush(q);
	if (!ret)
		ret = trim_file(q);
	free(none);
	free(l1);
	counts_free(&freed);
	return ret;
}

int qcow2_make_empty(struct tapimg *img, struct tapimg_err *err)
{
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret && qcow2_of(img)->raw_data)
		ret = err_set(err, -ENOTSUP, "%s: has a raw data file and cannot be emptied", img->name);
	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret) {
		qcow2_bitmaps_dirtied(img, 0, img->size);
		ret = empty(&q);
	}
	return q2_end(&q, ret, true);
}
