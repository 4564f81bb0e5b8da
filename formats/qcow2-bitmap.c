/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-bitmap.c - persistent dirty bitmaps: loaded, kept up to date while the image is open, stored
 *
 * A bitmap is a table of clusters of bits.  In memory its clusters ("chunks") exist where bits are
 * set; a missing one is all zeroes.
 *
 *	B1  In the directory, an enabled bitmap is marked in use, durably, before the first guest write
 *	    can happen, and any other before its stored bits are changed.
 *	B2  While it is so marked, its clusters and table may be overwritten in place: what a power cut
 *	    leaves of them is never believed again.
 *	B3  The mark goes, in one write, when bits and table are durable.
 *	B4  The directory itself is never changed but for flags: adding, removing and resizing build a
 *	    new one, and the header switches to it.
 *
 * A bitmap found in use, or that does not fit its disk, is inconsistent: it is listed, stays as it
 * is, and can only be removed.  Disabled bitmaps are not touched by opening the image.
 */
#include <stdlib.h>

#include "qcow2-bitmap.h"

/* ----------------------------------------------------------------- memory */

void bm_unload(struct qcow2_bitmaps *s, struct bm *b)
{
	for (uint32_t i = 0; b->chunk && i < b->n; i++) {
		if (b->chunk[i])
			s->memory -= s->csize;
		free(b->chunk[i]);
	}
	if (b->tab)
		s->memory -= b->n * 17ULL;
	free(b->chunk);
	free(b->changed);
	free(b->tab);
	b->chunk = NULL;
	b->changed = NULL;
	b->tab = NULL;
}

static void set_free(struct qcow2_bitmaps *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->n; i++) {
		bm_unload(s, &s->v[i]);
		q2_bm_clear(&s->v[i].d);
	}
	free(s->v);
	free(s);
}

void qcow2_bitmaps_free(struct tapimg *img)
{
	struct qcow2 *st = qcow2_of(img);

	set_free(st->bitmaps);
	st->bitmaps = NULL;
}

uint64_t bm_bits(uint64_t size, unsigned gran_bits)
{
	return (size >> gran_bits) + !is_aligned(size, 1ULL << gran_bits);
}

uint32_t bm_chunks(uint64_t size, unsigned gran_bits, uint64_t csize)
{
	return div_up(q2_bm_bytes(size, gran_bits), csize);
}

static uint8_t *bm_chunk(struct qcow2_bitmaps *s, struct bm *b, uint32_t i)
{
	if (!b->chunk[i] && s->memory + s->csize <= MEMORY_MAX) {
		b->chunk[i] = calloc(1, s->csize);
		if (b->chunk[i])
			s->memory += s->csize;
	}
	return b->chunk[i];
}

/* sets bits [first, first+n) of one chunk; the caller knows they are in it */
static void chunk_set(uint8_t *p, uint64_t first, uint64_t n)
{
	for (; n && first & 7; first++, n--)
		p[first >> 3] |= 1u << (first & 7);
	memset(p + (first >> 3), 0xff, n >> 3);
	first += n & ~7ULL;
	for (n &= 7; n; first++, n--)
		p[first >> 3] |= 1u << (first & 7);
}

static int bm_set(struct qcow2_bitmaps *s, struct bm *b, uint64_t off, uint64_t len)
{
	uint64_t first = off >> b->d.gran_bits, last = (off + len - 1) >> b->d.gran_bits;
	uint64_t per = s->csize * 8;

	last = MIN(last, b->nbits - 1);
	while (first <= last && b->nbits) {
		uint64_t i = first / per, part = MIN(last + 1, (i + 1) * per) - first;
		uint8_t *p = bm_chunk(s, b, i);

		if (!p)
			return -ENOMEM;
		chunk_set(p, first % per, part);
		b->changed[i] = true;
		b->dirty = true;
		first += part;
	}
	return 0;
}

static bool zero_bytes(const uint8_t *p, uint64_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* ---------------------------------------------------------------- loading */

void bm_trim(const struct bm *b, uint32_t i, uint8_t *p, uint64_t csize)
{
	uint64_t per = csize * 8, end = b->nbits - MIN(b->nbits, i * per);

	if (end >= per)
		return;
	if (end & 7)
		p[end >> 3] &= (1u << (end & 7)) - 1;
	memset(p + div_up(end, 8), 0, csize - div_up(end, 8));
}

static int load_chunk(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b, uint32_t i)
{
	uint64_t off = b->tab[i] & QCOW2_OFF_MASK;
	uint8_t *p;
	int ret = 0;

	if (b->tab[i] & ~(QCOW2_OFF_MASK | 1) || (off && b->tab[i] & 1) ||
	    (off && (!q2_table_ok(q, off, q->csize) || off >= q->end)))
		return -EUCLEAN;
	if (!b->tab[i])
		return 0;
	p = bm_chunk(s, b, i);
	if (!p)
		return err_errno(q->err, -ENOMEM, "%s: bitmap '%s'", q->img->name, b->d.name);
	if (off)
		ret = q2_read(q, p, q->csize, off, "a bitmap");
	else
		memset(p, 0xff, q->csize);
	bm_trim(b, i, p, q->csize);
	return ret;
}

int bm_alloc_tables(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b)
{
	if (s->memory + b->n * 17ULL > MEMORY_MAX)
		return err_set(q->err, -ENOMEM, "%s: the bitmaps need more than %llu MiB of memory",
			       q->img->name, MEMORY_MAX / MiB);
	b->tab = calloc(b->n + 1ULL, 8);
	b->chunk = calloc(b->n + 1ULL, sizeof(*b->chunk));
	b->changed = calloc(b->n + 1ULL, 1);
	s->memory += b->n * 17ULL;
	if (b->tab && b->chunk && b->changed)
		return 0;
	return err_errno(q->err, -ENOMEM, "%s: bitmap '%s'", q->img->name, b->d.name);
}

int bm_load(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b)
{
	int ret;

	if (b->tab || b->inconsistent)
		return 0;
	ret = bm_alloc_tables(q, s, b);
	if (!ret)
		ret = q2_read(q, b->tab, b->n * 8ULL, b->d.table_off, "the table of a bitmap");
	for (uint32_t i = 0; !ret && i < b->n; i++) {
		b->tab[i] = get_be64(&b->tab[i]);
		ret = load_chunk(q, s, b, i);
	}
	if (ret)
		bm_unload(s, b);
	if (ret == -EUCLEAN) {
		b->inconsistent = true;
		ret = 0;
	}
	return ret;
}

/* takes over a directory entry */
static void bm_init(struct q2 *q, struct bm *b, struct q2_bm *d, bool valid)
{
	b->d = *d;
	memset(d, 0, sizeof(*d));
	b->nbits = bm_bits(q->size, b->d.gran_bits);
	b->n = bm_chunks(q->size, b->d.gran_bits, q->csize);
	if (!valid || b->d.flags & BITMAP_IN_USE || b->d.nextra || b->n != b->d.table_size)
		b->inconsistent = true;
}

static int set_flags(struct q2 *q, struct bm *b, uint32_t flags)
{
	uint8_t f[4];
	int ret;

	if (b->d.flags == flags)
		return 0;
	put_be32(f, flags);
	ret = q2_write(q, f, 4, b->d.entry_off + 12, "the bitmap directory");
	if (!ret)
		b->d.flags = flags;
	return ret;
}

/* B1.  Bitmaps that software without knowledge of them has outdated become inconsistent for good. */
static int mark_in_use(struct q2 *q, struct qcow2_bitmaps *s, bool valid)
{
	int ret = 0;

	for (uint32_t i = 0; i < s->n && !ret; i++) {
		struct bm *b = &s->v[i];

		if (!b->inconsistent && b->d.flags & BITMAP_AUTO)
			ret = bm_load(q, s, b);
		if (!ret && (!valid || (!b->inconsistent && b->d.flags & BITMAP_AUTO)))
			ret = set_flags(q, b, b->d.flags | BITMAP_IN_USE);
	}
	if (!ret)
		ret = q2_flush(q);
	if (!ret && !valid)
		ret = q2_set_feature(q, QH_AUTOCLEAR, 0, QCOW2_AUTO_BITMAPS);
	return ret;
}

static int load_set(struct q2 *q, struct qcow2_bitmaps **out, bool *valid)
{
	struct qcow2_bitmaps *s;
	struct q2_bdir d;
	int ret = q2_bdir_load(q, &d);

	*out = NULL;
	*valid = d.valid;
	if (ret || !d.n)
		return ret;
	s = calloc(1, sizeof(*s));
	if (s)
		s->v = calloc(d.n, sizeof(*s->v));
	if (!s || !s->v) {
		free(s);
		q2_bdir_free(&d);
		return err_errno(q->err, -ENOMEM, "%s: bitmaps", q->img->name);
	}
	s->csize = q->csize;
	s->dir_off = d.off;
	s->dir_bytes = d.bytes;
	for (; s->n < d.n; s->n++)
		bm_init(q, &s->v[s->n], &d.b[s->n], d.valid);
	q2_bdir_free(&d);
	*out = s;
	return 0;
}

int qcow2_bitmaps_load(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);
	bool valid;
	struct q2 q;
	int ret;

	if (st->bitmaps || img->flags & TAPIMG_CHECK || !qcow2_ext_find(&st->h, QCOW2_EXT_BITMAPS))
		return 0;
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = load_set(&q, &st->bitmaps, &valid);
	if (!ret && st->bitmaps && img->flags & TAPIMG_RDWR && !st->snapshot)
		ret = mark_in_use(&q, st->bitmaps, valid);
	if (!ret && q.autoclear != st->h.autoclear)
		st->h.autoclear = q.autoclear;
	if (ret && !(img->flags & TAPIMG_RDWR)) {	/* reading goes on without them */
		qcow2_bitmaps_free(img);
		ret = 0;
	}
	return q2_end(&q, ret, false);
}

/* ---------------------------------------------------------------- storing */

/* One chunk, of a bitmap marked in use (B2).  What it no longer needs goes to @freed. */
static int store_chunk(struct q2 *q, struct bm *b, uint32_t i, struct counts *freed)
{
	uint64_t off = b->tab[i] & QCOW2_OFF_MASK;
	int ret;

	if (!b->chunk[i] || zero_bytes(b->chunk[i], q->csize)) {
		b->tab[i] = 0;
		return off ? counts_add(freed, off >> q->bits, 1, 1) : 0;
	}
	ret = off ? 0 : q2_alloc(q, 1, &off);
	if (!ret)
		ret = q2_write(q, b->chunk[i], q->csize, off, "a bitmap");
	b->tab[i] = off;
	return ret;
}

int bm_store_table(struct q2 *q, const struct bm *b)
{
	return q2_write_l1(q, b->d.table_off, b->tab, b->n, round_up(b->n * 8ULL, q->csize));
}

static int bm_store(struct q2 *q, struct bm *b, struct counts *freed)
{
	int ret = 0;

	if (!b->dirty)
		return 0;
	for (uint32_t i = 0; i < b->n && !ret; i++)
		if (b->changed[i])
			ret = store_chunk(q, b, i, freed);
	if (!ret)
		ret = q2_flush(q);	/* A1: counts before the table */
	if (!ret)
		ret = bm_store_table(q, b);
	if (!ret) {
		memset(b->changed, 0, b->n);
		b->dirty = false;
	}
	return ret;
}

static int store_all(struct q2 *q, struct qcow2_bitmaps *s, struct counts *freed)
{
	int ret = 0;

	for (uint32_t i = 0; i < s->n && !ret; i++)	/* B1, those that administration changed */
		if (s->v[i].dirty)
			ret = set_flags(q, &s->v[i], s->v[i].d.flags | BITMAP_IN_USE);
	if (!ret)
		ret = q2_flush(q);
	for (uint32_t i = 0; i < s->n && !ret; i++)
		ret = bm_store(q, &s->v[i], freed);
	if (!ret)
		ret = q2_flush(q);
	for (uint32_t i = 0; i < s->n && !ret && !s->lost; i++)	/* B3 */
		if (!s->v[i].inconsistent)
			ret = set_flags(q, &s->v[i], s->v[i].d.flags & ~BITMAP_IN_USE);
	if (!ret)
		ret = q2_flush(q);
	return ret ? ret : q2_apply(q, freed, false);
}

int qcow2_bitmaps_store(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;
	struct counts freed;
	bool needed = false;
	struct q2 q;
	int ret;

	for (uint32_t i = 0; s && i < s->n; i++)
		needed |= !s->v[i].inconsistent &&
			  (s->v[i].dirty || s->v[i].d.flags & BITMAP_IN_USE);
	if (!needed)
		return 0;
	counts_init(&freed, Q2_COUNT_MEMORY);
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = store_all(&q, s, &freed);
	counts_free(&freed);
	return q2_end(&q, ret, false);
}

/* ------------------------------------------------------------- the engine */

void qcow2_bitmaps_dirtied(struct tapimg *img, uint64_t off, uint64_t len)
{
	struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;

	for (uint32_t i = 0; s && len && i < s->n; i++) {
		struct bm *b = &s->v[i];

		if (b->inconsistent || !(b->d.flags & BITMAP_AUTO))
			continue;
		if (!b->tab || bm_set(s, b, off, len))
			s->lost = true;
	}
}

/* --------------------------------------------------------- administration */

struct bm *bm_find(struct qcow2_bitmaps *s, const char *name)
{
	for (uint32_t i = 0; s && i < s->n; i++)
		if (!strcmp(s->v[i].d.name, name))
			return &s->v[i];
	return NULL;
}

/* a bitmap that can be used, with its bits in memory */
static int bm_get(struct tapimg *img, const char *name, struct bm **b, struct tapimg_err *err)
{
	struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;
	struct q2 q;
	int ret;

	*b = bm_find(s, name);
	if (!*b)
		return err_set(err, -ENOENT, "%s: there is no bitmap '%s'", img->name, name);
	if (!(*b)->inconsistent && !(*b)->tab) {
		ret = q2_begin(&q, img, err);
		if (!ret)
			ret = bm_load(&q, s, *b);
		ret = q2_end(&q, ret, false);
		if (ret)
			return ret;
	}
	if ((*b)->inconsistent)
		return err_set(err, -EINVAL,
			       "%s: bitmap '%s' is inconsistent (it was not stored properly) and can only be removed",
			       img->name, name);
	return 0;
}

int qcow2_bitmap_clear(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	struct bm *b;
	int ret = bm_get(img, name, &b, err);

	for (uint32_t i = 0; !ret && i < b->n; i++) {
		if (!b->chunk[i] && !b->tab[i])
			continue;
		if (b->chunk[i])
			memset(b->chunk[i], 0, qcow2_of(img)->bitmaps->csize);
		b->changed[i] = true;
		b->dirty = true;
	}
	return ret;
}

int qcow2_bitmap_enable(struct tapimg *img, const char *name, bool on, struct tapimg_err *err)
{
	struct bm *b;
	struct q2 q;
	int ret = bm_get(img, name, &b, err);

	if (ret)
		return ret;
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = set_flags(&q, b, on ? b->d.flags | BITMAP_AUTO | BITMAP_IN_USE
					  : b->d.flags & ~BITMAP_AUTO);
	if (!ret)
		ret = q2_flush(&q);
	return q2_end(&q, ret, false);
}

/* first bit from @from on that is @set, or nbits */
static uint64_t bm_bit(const struct qcow2_bitmaps *s, const struct bm *b, uint64_t from, bool set)
{
	uint64_t per = s->csize * 8;
	uint8_t skip = set ? 0 : 0xff;

	while (from < b->nbits) {
		const uint8_t *p = b->chunk[from / per];
		uint64_t i = from % per;

		if (!p) {
			if (!set)
				return from;
			from = (from / per + 1) * per;
		} else if (!(i & 7) && p[i >> 3] == skip) {
			from += 8;
		} else if ((p[i >> 3] >> (i & 7) & 1) == set) {
			return from;
		} else {
			from++;
		}
	}
	return b->nbits;
}

const char *qcow2_bitmap_name(struct tapimg *img, unsigned i)
{
	const struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;

	return s && i < s->n ? s->v[i].d.name : NULL;
}

int qcow2_bitmap_next(struct tapimg *img, const char *name, uint64_t *off, uint64_t *len,
		      struct tapimg_err *err)
{
	uint64_t first, end;
	struct bm *b;
	int ret = bm_get(img, name, &b, err);

	*len = 0;
	if (ret || *off >= img->size)
		return ret;
	first = bm_bit(qcow2_of(img)->bitmaps, b, *off >> b->d.gran_bits, true);
	if (first >= b->nbits)
		return 0;
	end = bm_bit(qcow2_of(img)->bitmaps, b, first, false);
	*off = MAX(*off, first << b->d.gran_bits);
	*len = MIN(end << b->d.gran_bits, img->size) - *off;
	return 0;
}

int qcow2_bitmap_set(struct tapimg *img, const char *name, uint64_t off, uint64_t len,
		     struct tapimg_err *err)
{
	struct bm *b;
	int ret = bm_get(img, name, &b, err);

	if (ret || !len)
		return ret;
	if (!checked_range(off, len, img->size))
		return err_set(err, -EINVAL, "%s: bitmap '%s': range past the end of the disk",
			       img->name, name);
	ret = bm_set(qcow2_of(img)->bitmaps, b, off, len);
	return ret ? err_errno(err, ret, "%s: bitmap '%s'", img->name, name) : 0;
}

static uint64_t bm_dirty_bytes(const struct bm *b, uint64_t csize, uint64_t size)
{
	uint64_t bits = 0, last = b->nbits - 1, w, per = csize * 8, bytes;

	for (uint32_t i = 0; i < b->n; i++)
		for (uint64_t k = 0; b->chunk[i] && k < csize; k += 8) {
			memcpy(&w, b->chunk[i] + k, 8);
			bits += __builtin_popcountll(w);
		}
	bytes = bits << b->d.gran_bits;
	if (b->n && b->chunk[last / per] &&
	    b->chunk[last / per][last % per >> 3] >> (last & 7) & 1)
		bytes -= (b->nbits << b->d.gran_bits) - size;	/* the last bit covers less */
	return bytes;
}

int qcow2_bitmaps_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct qcow2_bitmaps *s = qcow2_of(img)->bitmaps;
	struct tapimg_bitmap *list;
	struct tapimg_err ignored;
	struct bm *b;

	if (!s || !s->n)
		return 0;
	list = info_alloc(img, s->n * sizeof(*list));
	if (!list)
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (uint32_t i = 0; i < s->n; i++) {
		list[i].name = info_printf(img, "%s", s->v[i].d.name);
		if (!list[i].name)
			return err_errno(err, -ENOMEM, "%s", img->name);
		list[i].granularity = 1ULL << s->v[i].d.gran_bits;
		list[i].dirty = UINT64_MAX;
		if (!bm_get(img, s->v[i].d.name, &b, &ignored))
			list[i].dirty = bm_dirty_bytes(b, s->csize, img->size);
		list[i].flags = (s->v[i].inconsistent ? TAPIMG_BITMAP_IN_USE : 0) |
				(s->v[i].d.flags & BITMAP_AUTO ? TAPIMG_BITMAP_AUTO : 0);
	}
	out->bitmaps = list;
	out->nbitmaps = s->n;
	return 0;
}
