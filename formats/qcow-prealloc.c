/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-prealloc.c - clusters that are mapped before anything is written to them: regions, each an L2
 * table and its clusters behind it, in either layout
 *
 * Order when an image grows: space and the entries of new tables, which nothing refers to yet; a flush; the
 * entries of the table that exists already, and the L1 entries; a flush; then the caller changes the size.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "qcow.h"

/* A device holds old bytes where nothing was written, and so does space that was used before. */
static bool reads_as_zeroes(const struct file *f, uint64_t off)
{
	return f->grows_clean && !f->block_dev && off >= f->logical_end;
}

int qcow_make_space(struct file *f, enum tapimg_prealloc how, uint64_t off, uint64_t len)
{
	bool clean = reads_as_zeroes(f, off);

	if (how == TAPIMG_PREALLOC_FALLOC) {
		int ret = file_prealloc(f, off, len);

		if (ret != -ENOTSUP && (ret || clean))
			return ret;
	}
	if (how == TAPIMG_PREALLOC_METADATA && clean)
		return 0;
	return file_zero(f, off, len, 0);
}

static void put_entries(uint8_t *table, uint64_t first, uint64_t n, uint64_t host, unsigned cluster_bits)
{
	for (uint64_t i = 0; i < n; i++)
		put_be64(table + 8 * (first + i), host + (i << cluster_bits));
}

int qcow_make_region(struct file *f, uint64_t at, unsigned cluster_bits, unsigned l2_bits,
		     enum tapimg_prealloc how)
{
	uint64_t n = 1ULL << l2_bits, l2 = round_up(8 * n, 1ULL << cluster_bits);
	uint8_t *table = calloc(1, l2);
	int ret = table ? 0 : -ENOMEM;

	if (!ret)
		ret = qcow_make_space(f, how, at, l2 + (n << cluster_bits));
	if (!ret) {
		put_entries(table, 0, n, at + l2, cluster_bits);
		ret = file_pwrite(f, table, l2, at);
	}
	free(table);
	return ret;
}

/* The table that the disk ends in has entries for what comes next; those that are free get clusters. */
static int fill_table(struct tapimg *img, uint64_t l2, uint64_t first, enum tapimg_prealloc how,
		      struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t n = 1ULL << q->l2_bits, host, i = first;
	uint8_t *t = malloc(q->l2_bytes);
	int ret = t ? file_pread(img->file, t, q->l2_bytes, l2) : -ENOMEM;

	if (ret)
		err_errno(err, ret, "%s: reading the L2 table at 0x%" PRIx64, img->name, l2);
	while (!ret && i < n) {
		uint64_t run = 0;

		while (i + run < n && !get_be64(t + 8 * (i + run)))
			run++;
		if (!run) {
			i++;
			continue;
		}
		ret = qcow_append(img, run << q->cluster_bits, &host, err);
		if (!ret) {
			ret = qcow_make_space(img->file, how, host, run << q->cluster_bits);
			if (ret)
				err_errno(err, ret, "%s: preallocating", img->name);
		}
		put_entries(t, i, run, host, q->cluster_bits);
		i += run;
	}
	if (!ret) {
		ret = file_flush(img->file);
		if (!ret)
			ret = file_pwrite(img->file, t, q->l2_bytes, l2);
		if (ret)
			err_errno(err, ret, "%s: writing the L2 table at 0x%" PRIx64, img->name, l2);
	}
	free(t);
	return ret;
}

/* The L1 entry @l2 of a region of which the disk has a part already, the clusters before @first. */
static int fill_part(struct tapimg *img, uint64_t *l2, uint64_t first, enum tapimg_prealloc how,
		     struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	int ret;

	if (*l2 && qcow_l2_bad(img, *l2, true))
		return err_set(err, -EUCLEAN, "%s: the L2 table at 0x%" PRIx64 " %s", img->name, *l2,
			       qcow_l2_bad(img, *l2, true));
	if (*l2 && q->regions) {	/* its clusters are there, as zeroes, though perhaps not in the file */
		ret = how == TAPIMG_PREALLOC_METADATA ? 0 :
		      qcow_make_space(img->file, how, *l2 + q->l2_bytes + (first << q->cluster_bits),
				      (1ULL << q->l1_shift) - (first << q->cluster_bits));
		return ret ? err_errno(err, ret, "%s: preallocating", img->name) : 0;
	}
	if (!*l2) {	/* what lies below must not be hidden before @first */
		ret = qcow_append(img, q->l2_bytes, l2, err);
		if (ret)
			return ret;
		ret = file_zero(img->file, *l2, q->l2_bytes, 0);
		if (ret)
			return err_errno(err, ret, "%s: making an L2 table", img->name);
	}
	return fill_table(img, *l2, first, how, err);
}

static int add_region(struct tapimg *img, uint64_t *l2, enum tapimg_prealloc how, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t len = round_up(q->l2_bytes, q->cluster) + (1ULL << q->l1_shift);
	int ret = qcow_append(img, len, l2, err);

	if (ret)
		return ret;
	ret = qcow_make_region(img->file, *l2, q->cluster_bits, q->l2_bits, how);
	return ret ? err_errno(err, ret, "%s: preallocating", img->name) : 0;
}

/* A piece of the L1 table, its entries [i, i + n), by way of @buf. */
static int fill_l1(struct tapimg *img, uint64_t i, uint64_t n, uint64_t from, enum tapimg_prealloc how,
		   uint8_t *buf, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t first = div_up(from, q->cluster), at = q->l1_off + i * 8;
	int ret = file_pread(img->file, buf, n * 8, at);

	if (ret)
		return err_errno(err, ret, "%s: reading the L1 table", img->name);
	for (uint64_t k = 0; !ret && k < n; k++) {
		uint64_t begin = (i + k) << q->l2_bits, l2 = qcow_l1_load(q, buf + 8 * k);

		if (l2 || (begin < first && !q->regions))
			ret = fill_part(img, &l2, first > begin ? first - begin : 0, how, err);
		else
			ret = add_region(img, &l2, how, err);
		qcow_l1_store(q, buf + 8 * k, l2);
	}
	if (ret)
		return ret;
	ret = file_flush(img->file);
	if (!ret)
		ret = file_pwrite(img->file, buf, n * 8, at);
	q->l1_changed = true;
	return ret ? err_errno(err, ret, "%s: writing the L1 table", img->name) : 0;
}

int qcow_preallocate(struct tapimg *img, uint64_t from, uint64_t size, enum tapimg_prealloc how,
		     struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t i = from >> q->l1_shift, end = qcow_l1_count(size, q->l1_shift);
	uint8_t *buf = malloc(512);
	int ret = buf ? 0 : err_errno(err, -ENOMEM, "%s", img->name);

	for (uint64_t n; !ret && i < end; i += n) {
		n = MIN(end - i, 64);
		ret = fill_l1(img, i, n, from, how, buf, err);
	}
	free(buf);
	if (!ret && !img->file->block_dev) {
		ret = file_truncate(img->file, round_up(q->end, q->cluster));
		if (ret)
			err_errno(err, ret, "%s: setting the file's size", img->name);
	}
	if (!ret) {
		ret = file_flush(img->file);
		if (ret)
			err_errno(err, ret, "%s: flushing", img->name);
	}
	q->limit = MAX(q->limit, round_up(q->end, q->cluster));
	meta_drop(img->meta);
	return ret;
}
