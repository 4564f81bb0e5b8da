/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-bitmap-adm.c - bitmaps added, removed, and made to fit a resized disk
 *
 * Each builds a new directory, which one change of the header makes valid (B4 of qcow2-bitmap.c).
 * A resize hands that change to its caller, so that size, L1 and bitmaps become new together.
 */
#include <stdlib.h>

#include "qcow2-bitmap.h"

/* Builds the directory of @s in new clusters; nothing refers to it yet. */
static int write_dir(struct q2 *q, const struct qcow2_bitmaps *s, const struct bm *v, uint32_t n,
		     uint64_t *off, uint64_t *bytes)
{
	struct q2_bdir d = {.n = n};
	uint8_t *buf = NULL;
	int ret;

	d.b = calloc(n + 1ULL, sizeof(*d.b));
	if (!d.b)
		return err_errno(q->err, -ENOMEM, "%s: bitmap directory", q->img->name);
	for (uint32_t i = 0; i < n; i++)
		d.b[i] = v[i].d;
	ret = q2_bdir_build(q, &d, &buf, bytes);
	if (!ret)
		ret = q2_alloc(q, div_up(*bytes, q->csize), off);
	if (!ret)
		ret = q2_write(q, buf, round_up(*bytes, q->csize), *off, "the bitmap directory");
	free(buf);
	free(d.b);
	return ret;
}

static int set_ext(struct qcow2_header *h, uint32_t n, uint64_t off, uint64_t bytes)
{
	uint8_t x[24] = {0};

	put_be32(x, n);
	put_be64(x + 8, bytes);
	put_be64(x + 16, off);
	if (n)
		h->autoclear |= QCOW2_AUTO_BITMAPS;
	else
		h->autoclear &= ~QCOW2_AUTO_BITMAPS;
	return qcow2_ext_set(h, QCOW2_EXT_BITMAPS, n ? x : NULL, sizeof(x));
}

/* where the entries of a directory just written lie */
static void place_entries(struct bm *v, uint32_t n, uint64_t off)
{
	for (uint32_t i = 0; i < n; i++) {
		v[i].d.entry_off = off;
		off += round_up(24 + (uint64_t)v[i].d.nextra + strlen(v[i].d.name), 8);
	}
}

/* The directory on disk becomes what @s holds: B4. */
static int switch_dir(struct q2 *q, struct qcow2_bitmaps *s)
{
	uint64_t off = 0, bytes = 0, old_off = s->dir_off, old_bytes = s->dir_bytes;
	struct qcow2_header h;
	int ret = s->n ? write_dir(q, s, s->v, s->n, &off, &bytes) : 0;

	if (!ret)
		ret = q2_header_get(q, &h);
	if (ret)
		return ret;
	ret = set_ext(&h, s->n, off, bytes);
	if (!ret)
		ret = q2_header_put(q, &h);
	qcow2_header_free(&h);
	if (ret)
		return ret;
	s->dir_off = off;
	s->dir_bytes = bytes;
	place_entries(s->v, s->n, off);
	return q2_free(q, old_off, old_bytes);
}

static int check_new(struct tapimg *img, const char *name, uint64_t gran, struct tapimg_err *err)
{
	const struct qcow2 *st = qcow2_of(img);

	if (!st->v3)
		return err_set(err, -ENOTSUP, "%s: bitmaps need version 3 (compat=1.1)", img->name);
	if (!is_pow2(gran) || gran < 512 || gran > 1ULL << 31)
		return err_set(err, -EINVAL,
			       "%s: granularity %llu is not a power of two from 512 to 2 GiB",
			       img->name, (unsigned long long)gran);
	if (strlen(name) > 1023)
		return err_set(err, -EINVAL, "%s: name of a bitmap: %zu bytes are too long",
			       img->name, strlen(name));
	if (q2_bm_bytes(img->size, __builtin_ctzll(gran)) > BITMAP_BYTES_MAX)
		return err_set(err, -EFBIG, "%s: a bitmap of granularity %llu would be too large",
			       img->name, (unsigned long long)gran);
	if (bm_find(st->bitmaps, name))
		return err_set(err, -EEXIST, "%s: there is a bitmap '%s' already", img->name, name);
	if (st->bitmaps && st->bitmaps->n >= BITMAPS_MAX)
		return err_set(err, -EFBIG, "%s: there are too many bitmaps", img->name);
	return 0;
}

/* one more place at the end of the set, not counted yet */
static struct bm *bm_append(struct qcow2 *st, uint64_t csize)
{
	struct qcow2_bitmaps *s = st->bitmaps;
	struct bm *v;

	if (!s) {
		s = st->bitmaps = calloc(1, sizeof(*s));
		if (!s)
			return NULL;
		s->csize = csize;
	}
	v = realloc(s->v, (s->n + 1) * sizeof(*v));
	if (!v)
		return NULL;
	s->v = v;
	memset(&v[s->n], 0, sizeof(*v));
	return &v[s->n];
}

static int add(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b, const char *name,
	       uint64_t gran, bool disabled)
{
	uint64_t bytes;
	int ret;

	b->d.name = strdup(name);
	b->d.extra = calloc(1, 1);
	b->d.type = 1;
	b->d.gran_bits = __builtin_ctzll(gran);
	b->d.flags = disabled ? 0 : BITMAP_AUTO | BITMAP_IN_USE;
	b->nbits = bm_bits(q->size, b->d.gran_bits);
	b->n = bm_chunks(q->size, b->d.gran_bits, q->csize);
	b->d.table_size = b->n;
	if (!b->d.name || !b->d.extra)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	if (!b->n)
		return err_set(q->err, -EINVAL, "%s: a disk of 0 bytes has no bitmaps", q->img->name);
	ret = bm_alloc_tables(q, s, b);
	bytes = round_up(b->n * 8ULL, q->csize);
	if (!ret)
		ret = q2_alloc(q, bytes >> q->bits, &b->d.table_off);
	if (!ret)
		ret = bm_store_table(q, b);
	if (ret)
		return ret;
	s->n++;
	ret = switch_dir(q, s);
	if (ret)
		s->n--;
	return ret;
}

int qcow2_bitmap_add(struct tapimg *img, const char *name, uint64_t gran, bool disabled,
		     struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);
	struct bm *b;
	struct q2 q;
	int ret;

	if (!gran)
		gran = MIN(MAX(st->cluster, 4 * KiB), 64 * KiB);
	ret = check_new(img, name, gran, err);
	if (ret)
		return ret;
	b = bm_append(st, st->cluster);
	if (!b)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = add(&q, st->bitmaps, b, name, gran, disabled);
	if (ret) {
		bm_unload(st->bitmaps, b);
		q2_bm_clear(&b->d);
	}
	return q2_end(&q, ret, true);
}

/* counts the clusters of a bitmap, table included */
static int count_bm(struct q2 *q, const struct bm *b, struct counts *c)
{
	uint64_t *tab = NULL;
	int ret = q2_read_l1(q, b->d.table_off, b->d.table_size, &tab);

	for (uint32_t i = 0; !ret && i < b->d.table_size; i++) {
		uint64_t off = tab[i] & QCOW2_OFF_MASK;

		if (off && q2_table_ok(q, off, q->csize))
			ret = counts_add(c, off >> q->bits, 1, 1);
	}
	if (!ret)
		ret = counts_add(c, b->d.table_off >> q->bits,
				 div_up(b->d.table_size * 8ULL, q->csize), 1);
	free(tab);
	return ret;
}

static int remove_bm(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b)
{
	struct bm gone = *b;
	uint32_t at = b - s->v;
	struct counts c;
	int ret;

	counts_init(&c, Q2_COUNT_MEMORY);
	ret = count_bm(q, b, &c);
	if (!ret)
		ret = q2_verify(q, &c, false);
	if (!ret) {
		memmove(b, b + 1, (s->n - at - 1) * sizeof(*b));
		s->n--;
		ret = switch_dir(q, s);
		if (ret) {	/* as it was */
			memmove(b + 1, b, (s->n - at) * sizeof(*b));
			*b = gone;
			s->n++;
		} else {
			bm_unload(s, &gone);
			q2_bm_clear(&gone.d);
			ret = q2_apply(q, &c, false);
		}
	}
	counts_free(&c);
	return ret ? ret : q2_flush(q);
}

int qcow2_bitmap_remove(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;
	struct bm *b = bm_find(s, name);
	struct q2 q;
	int ret;

	if (!b)
		return err_set(err, -ENOENT, "%s: there is no bitmap '%s'", img->name, name);
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = remove_bm(&q, s, b);
	return q2_end(&q, ret, true);
}

/* ---------------------------------------------------------------- resizing */

static void drop_resized(struct qcow2_bitmaps *s)
{
	for (uint32_t i = 0; s->resized && i < s->n; i++)
		free(s->resized[i].tab);
	free(s->resized);
	s->resized = NULL;
}

/* A shorter disk may end inside a cluster of bits: that is copied, with zeroes behind the end. */
static int cut_chunk(struct q2 *q, const struct bm *b, struct bm *r)
{
	uint32_t i = r->n - 1;
	uint8_t *p;
	uint64_t off;
	int ret;

	if (!r->tab[i] || r->nbits >= b->nbits || is_aligned(r->nbits, q->csize * 8))
		return 0;
	p = file_buf(q->csize);
	if (!p)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	if (b->chunk[i])
		memcpy(p, b->chunk[i], q->csize);
	else
		memset(p, 0, q->csize);
	bm_trim(r, i, p, q->csize);
	ret = q2_alloc(q, 1, &off);
	if (!ret)
		ret = q2_write(q, p, q->csize, off, "a bitmap");
	r->tab[i] = off;
	free(p);
	return ret;
}

/* @r: @b as it is to be for a disk of @size; on disk, but not referred to */
static int resize_bm(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b, struct bm *r,
		     uint64_t size)
{
	int ret;

	if (!b->inconsistent) {
		ret = bm_load(q, s, b);
		if (ret)
			return ret;
	}
	if (b->inconsistent)
		return err_set(q->err, -EBUSY,
			       "%s: bitmap '%s' is inconsistent: it must be removed before the disk is resized",
			       q->img->name, b->d.name);
	if (!size || q2_bm_bytes(size, b->d.gran_bits) > BITMAP_BYTES_MAX)
		return err_set(q->err, -EFBIG, "%s: bitmap '%s' cannot be made to fit %llu bytes",
			       q->img->name, b->d.name, (unsigned long long)size);
	r->d = b->d;
	r->nbits = bm_bits(size, b->d.gran_bits);
	r->n = bm_chunks(size, b->d.gran_bits, q->csize);
	r->d.table_size = r->n;
	r->tab = calloc(r->n, 8);
	if (!r->tab)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	memcpy(r->tab, b->tab, MIN(r->n, b->n) * 8ULL);
	ret = cut_chunk(q, b, r);
	if (!ret)
		ret = q2_alloc(q, div_up(r->n * 8ULL, q->csize), &r->d.table_off);
	return ret ? ret : bm_store_table(q, r);
}

int qcow2_bitmaps_resize(struct q2 *q, struct qcow2_header *h, uint64_t size)
{
	struct qcow2_bitmaps *s = qcow2_of(q->img)->bitmaps;
	int ret = 0;

	if (!s || !s->n)
		return 0;
	s->resized = calloc(s->n, sizeof(*s->resized));
	if (!s->resized)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	for (uint32_t i = 0; i < s->n && !ret; i++)
		ret = resize_bm(q, s, &s->v[i], &s->resized[i], size);
	if (!ret)
		ret = write_dir(q, s, s->resized, s->n, &s->new_dir_off, &s->new_dir_bytes);
	if (!ret)
		ret = set_ext(h, s->n, s->new_dir_off, s->new_dir_bytes);
	if (ret)
		drop_resized(s);
	return ret;
}

/* what the old state of a bitmap has and the new one has not */
static int count_replaced(struct q2 *q, const struct bm *b, const struct bm *r, struct counts *c)
{
	int ret = counts_add(c, b->d.table_off >> q->bits,
			     div_up(b->d.table_size * 8ULL, q->csize), 1);

	for (uint32_t i = 0; i < b->n && !ret; i++) {
		uint64_t off = b->tab[i] & QCOW2_OFF_MASK;

		if (off && (i >= r->n || (r->tab[i] & QCOW2_OFF_MASK) != off))
			ret = counts_add(c, off >> q->bits, 1, 1);
	}
	return ret;
}

/* the bitmap in memory follows */
static int adopt(struct qcow2_bitmaps *s, struct bm *b, struct bm *r)
{
	uint8_t **chunk = calloc(r->n, sizeof(*chunk));
	bool *changed = calloc(r->n, 1);
	uint32_t keep = MIN(b->n, r->n);

	if (!chunk || !changed) {
		free(chunk);
		free(changed);
		return -ENOMEM;
	}
	memcpy(chunk, b->chunk, keep * sizeof(*chunk));
	memcpy(changed, b->changed, keep);
	for (uint32_t i = keep; i < b->n; i++) {
		s->memory -= b->chunk[i] ? s->csize : 0;
		free(b->chunk[i]);
	}
	s->memory += (r->n - (uint64_t)b->n) * 17;
	free(b->chunk);
	free(b->changed);
	free(b->tab);
	b->chunk = chunk;
	b->changed = changed;
	b->tab = r->tab;
	r->tab = NULL;
	b->n = r->n;
	b->nbits = r->nbits;
	b->d.table_off = r->d.table_off;
	b->d.table_size = r->d.table_size;
	if (b->chunk[b->n - 1])
		bm_trim(b, b->n - 1, b->chunk[b->n - 1], s->csize);
	return 0;
}

int qcow2_bitmaps_resized(struct q2 *q, int ret)
{
	struct qcow2_bitmaps *s = qcow2_of(q->img)->bitmaps;
	struct counts c;

	if (!s || !s->resized)
		return ret;
	counts_init(&c, Q2_COUNT_MEMORY);
	for (uint32_t i = 0; i < s->n && !ret; i++)
		ret = count_replaced(q, &s->v[i], &s->resized[i], &c);
	if (!ret)
		ret = counts_add(&c, s->dir_off >> q->bits, div_up(s->dir_bytes, q->csize), 1);
	for (uint32_t i = 0; i < s->n && !ret; i++)
		ret = adopt(s, &s->v[i], &s->resized[i]);
	if (!ret) {
		s->dir_off = s->new_dir_off;
		s->dir_bytes = s->new_dir_bytes;
		place_entries(s->v, s->n, s->dir_off);
		ret = q2_apply(q, &c, false);
	}
	counts_free(&c);
	drop_resized(s);
	return ret;
}
