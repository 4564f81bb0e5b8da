/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-write.c - sparse extents: taking space, publishing and dropping grains
 *
 * New space is behind the end of the file, whole grains in a run; what was freed since the image was
 * opened is used again.  Nothing on the disk says which grains are free: what a crash leaves behind
 * is found by a check.
 *
 * Both copies of a table change in the same epoch, at the same rank: each is right in its old and in
 * its new state, and a check that finds them different after a crash may take either.  A new table
 * is written, empty, before the directories that name it.  COWD keeps the next free sector in its
 * header; it is on disk before any entry that refers to space below it (rank 0).
 */
#include <stdlib.h>

#include "vmdk.h"

#define RUNS_MAX 4096		/* of freed grains that are remembered; others leak */

/* -------------------------------------------------------------------- space */

static void space_give(struct vmdk_sparse *s, uint64_t host, uint64_t len)
{
	struct vmdk_run *v = s->free;

	if (s->nfree && v[s->nfree - 1].host + v[s->nfree - 1].len == host) {
		v[s->nfree - 1].len += len;
		return;
	}
	if (s->nfree == RUNS_MAX)
		return;
	if (!(s->nfree & (s->nfree - 1))) {	/* by powers of two */
		v = realloc(v, MAX(2 * s->nfree, 1U) * sizeof(*v));
		if (!v)
			return;		/* leaked in the file, which is allowed at any time */
		s->free = v;
	}
	v[s->nfree++] = (struct vmdk_run){ host, len };
}

/* A run of freed grains, of at most @len bytes; 0: there is none. */
static uint64_t space_again(struct tapimg *img, struct vmdk_extent *x, uint64_t len, uint64_t *host)
{
	struct vmdk_sparse *s = x->priv;

	for (unsigned i = s->nfree; i--;) {
		struct vmdk_run *r = &s->free[i];
		uint64_t n = MIN(r->len, len);

		if (meta_punching(img->meta, x->meta + r->host, n))
			continue;
		*host = r->host;
		r->host += n;
		r->len -= n;
		if (!r->len)
			*r = s->free[--s->nfree];
		return n;
	}
	return 0;
}

/* Whether @len more bytes can follow the end: how many of them, in units of @unit. */
static uint64_t space_left(const struct vmdk_extent *x, uint64_t len, uint64_t unit)
{
	const struct vmdk_sparse *s = x->priv;
	uint64_t limit = x->file->block_dev ? x->file->size : VMDK_MAX_FILE;

	if (s->end >= limit)
		return 0;
	return MIN(len, round_down(limit - s->end, unit));
}

static uint64_t space_take(struct vmdk_extent *x, uint64_t len)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t host = s->end;

	s->end += len;
	file_grow_hint(x->file, s->end);
	return host;
}

/* ------------------------------------------------------------------- tables */

static bool table_is(const struct vmdk_sparse *s, uint32_t gde)
{
	return gde > VMDK_GTE_ZERO || (gde && !s->zeroed);
}

/* The next free sector of a COWD extent; NULL if it is not cached. Hosted extents have none. */
static bool free_block(struct tapimg *img, struct vmdk_extent *x, struct mblk **b)
{
	const struct vmdk_sparse *s = x->priv;

	*b = s->cowd ? meta_get(img->meta, x->meta) : NULL;
	return *b || !s->cowd;
}

static void free_update(struct tapimg *img, struct vmdk_extent *x, struct mblk *b)
{
	struct vmdk_sparse *s = x->priv;

	if (b && get_le32(b->data + VC_FREE) < s->end / VMDK_SECTOR)
		put_le32(meta_dirty(img->meta, b, VMDK_RANK_FREE) + VC_FREE, s->end / VMDK_SECTOR);
}

static void table_write(struct tapimg *img, struct vmdk_extent *x, uint64_t at, bool zeroes)
{
	struct vmdk_sparse *s = x->priv;
	uint32_t len = 4U << s->gt_bits, bsize = img->meta->bsize;

	for (uint32_t pos = 0; pos < len; pos += bsize) {
		uint8_t *p = meta_fresh(img->meta, x->meta + at + pos, VMDK_RANK_GT);

		for (uint32_t i = 0; zeroes && i < bsize; i += 4)
			put_le32(p + i, VMDK_GTE_ZERO);
	}
}

/*
 * Makes the table of directory entry @i, in both copies, and names it: empty it is harmless.  Its caller is
 * promised @room changes more.  Tables come out of chunks of whole grains, so that grains stay where they
 * have to be.
 */
static int table_make(struct tapimg *img, struct vmdk_extent *x, uint32_t i, unsigned room)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t len = 4ULL << s->gt_bits, need = s->rgd ? 2 * len : len, at, chunk;
	bool zeroes = s->gd[i];
	struct mblk *gd, *rgd = NULL, *head;

	if (!meta_room(img->meta, need / img->meta->bsize + 3 + room))
		return -EAGAIN;
	gd = meta_get(img->meta, x->meta + s->gd_off + i * 4ULL);
	if (s->rgd)
		rgd = meta_get(img->meta, x->meta + s->rgd_off + i * 4ULL);
	if (!gd || (s->rgd && !rgd) || !free_block(img, x, &head))
		return -EAGAIN;
	if (s->tables_end - s->tables_at < need) {
		chunk = s->cowd ? need : round_up(need, x->grain);
		if (space_left(x, chunk, chunk) < chunk)
			return -EFBIG;
		s->tables_at = space_take(x, chunk);
		s->tables_end = s->tables_at + chunk;
	}
	at = s->tables_at;
	s->tables_at += need;
	free_update(img, x, head);
	table_write(img, x, at, zeroes);
	put_le32(meta_dirty(img->meta, gd, VMDK_RANK_GD) + (s->gd_off + i * 4ULL) % img->meta->bsize,
		 at / VMDK_SECTOR);
	s->gd[i] = at / VMDK_SECTOR;
	if (!s->rgd)
		return 0;
	at += len;
	table_write(img, x, at, zeroes);
	put_le32(meta_dirty(img->meta, rgd, VMDK_RANK_GD) + (s->rgd_off + i * 4ULL) % img->meta->bsize,
		 at / VMDK_SECTOR);
	s->rgd[i] = at / VMDK_SECTOR;
	return 0;
}

/* Entries from that of @off on, in one cached block of each copy. */
struct entries {
	struct mblk *b, *rb;		/* rb NULL: there is no second copy */
	uint32_t at, rat;		/* bytes into the blocks */
	uint32_t n;			/* so many are in both */
};

static int entries_in(struct tapimg *img, struct vmdk_extent *x, uint32_t table, uint32_t index,
		      struct mblk **b, uint32_t *at, uint32_t *n)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t pos = table * VMDK_SECTOR;

	if (!checked_range(pos, 4ULL << s->gt_bits, round_up(s->end, VMDK_SECTOR)) ||
	    pos + (4ULL << s->gt_bits) <= VMDK_SECTOR)
		return image_corrupt(img, "%s: grain table at sector 0x%x is not inside the file", x->path,
				     table);
	pos += index * 4ULL;
	*b = meta_get(img->meta, x->meta + pos);
	*at = pos & (img->meta->bsize - 1);
	*n = MIN(*n, (img->meta->bsize - *at) / 4);
	return *b ? 0 : -EAGAIN;
}

static int entries_get(struct tapimg *img, struct vmdk_extent *x, uint64_t off, struct entries *e)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t i = off >> (s->grain_bits + s->gt_bits);
	uint32_t mask = (1U << s->gt_bits) - 1, index = (off >> s->grain_bits) & mask;
	int ret, r = 0;

	e->rb = NULL;
	e->n = mask + 1 - index;
	ret = entries_in(img, x, s->gd[i], index, &e->b, &e->at, &e->n);
	/* a second copy that is the first one again, or is not there, is none */
	if (s->rgd && table_is(s, s->rgd[i]) && s->rgd[i] != s->gd[i])
		r = entries_in(img, x, s->rgd[i], index, &e->rb, &e->rat, &e->n);
	return ret && ret != -EAGAIN ? ret : r ? r : ret;
}

static const char *entry_look(const struct vmdk_sparse *s, const struct entries *e, uint32_t k,
			      uint32_t *gte, bool *data)
{
	*gte = get_le32(e->b->data + e->at + 4 * k);
	*data = *gte && !(*gte == VMDK_GTE_ZERO && s->zeroed);
	return vmdk_gte_check(s, *gte);
}

static int entry_bad(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint32_t gte,
		     const char *what)
{
	return image_corrupt(img, "%s: the entry of the grain at 0x%llx %s: sector 0x%x", x->path,
			     (unsigned long long)off, what, gte);
}

/* The blocks can be changed; they are dirty from here on. */
struct change {
	uint8_t *p, *rp;
};

static struct change entries_dirty(struct tapimg *img, const struct entries *e)
{
	struct change c = { .rp = NULL };

	c.p = meta_dirty(img->meta, e->b, VMDK_RANK_GT) + e->at;
	if (e->rb)
		c.rp = meta_dirty(img->meta, e->rb, VMDK_RANK_GT) + e->rat;
	return c;
}

static void entry_set(const struct change *c, uint32_t k, uint32_t gte)
{
	put_le32(c->p + 4 * k, gte);
	if (c->rp)
		put_le32(c->rp + 4 * k, gte);
}

/* ------------------------------------------------------------------- reserve */

/* Grains from @off on that hold no data, up to @end, with entries in one block. */
static int count_new(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t end,
		     uint32_t *n)
{
	struct vmdk_sparse *s = x->priv;
	struct entries e;
	int ret = entries_get(img, x, off, &e);

	if (ret)
		return ret;
	for (*n = 0; *n < e.n && off + ((uint64_t)*n << s->grain_bits) < end; ++*n) {
		uint32_t gte;
		bool data;
		const char *what = entry_look(s, &e, *n, &gte, &data);

		if (what && !*n)
			return entry_bad(img, x, off, gte, what);
		if (what || data)
			break;
	}
	/* a grain with data is written in place: this is not asked for */
	return *n ? 0 : -EIO;
}

int vmdk_sparse_reserve(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
			unsigned flags, struct extent *ext)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t start = round_down(off, x->grain), end = off + len, want, got, host = 0;
	uint64_t i = off >> (s->grain_bits + s->gt_bits);
	uint32_t n;
	int ret;

	/* a table just made is cached, and everything that follows is found there */
	ret = table_is(s, s->gd[i]) ? 0 : table_make(img, x, i, 0);
	if (ret)
		return ret;
	ret = count_new(img, x, start, end, &n);
	if (ret)
		return ret;
	want = (uint64_t)n << s->grain_bits;
	got = space_again(img, x, want, &host);
	ext->flags = 0;
	if (!got) {
		got = space_left(x, want, x->grain);
		if (!got)
			return x->file->block_dev ? -ENOSPC : -EFBIG;
		host = space_take(x, got);
		if (host >= s->clean)
			ext->flags = EXT_CLEAN;
	}
	ext->type = EXT_NEW;
	ext->file = x->file;
	ext->off = start;
	ext->len = MIN(got, x->len - start);
	ext->host = host;
	ext->cookie = got;
	return 0;
}

/* -------------------------------------------------------------------- commit */

/* What was freed at the end of the file goes. */
static void space_cut(struct vmdk_sparse *s)
{
	for (unsigned i = 0; i < s->nfree; i++) {
		if (s->free[i].host + s->free[i].len != s->end)
			continue;
		s->end = s->free[i].host;
		s->free[i] = s->free[--s->nfree];
		i = -1U;	/* from the start: another one may be the last now */
	}
}

int vmdk_sparse_finish(struct tapimg *img, struct vmdk_extent *x)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t end = s->end;

	space_cut(s);
	if (s->end < end && !x->file->block_dev)
		return file_truncate(x->file, s->end);
	return x->file->block_dev || x->file->size >= s->end ? 0 : file_truncate(x->file, s->end);
}

int vmdk_sparse_commit(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t sector = ext->host / VMDK_SECTOR;
	uint32_t n = ext->cookie >> s->grain_bits;
	struct entries e;
	struct change c;
	struct mblk *head;
	int ret;

	if (!meta_room(img->meta, 3))
		return -EAGAIN;
	ret = entries_get(img, x, ext->off, &e);
	if (ret)
		return ret;
	if (!free_block(img, x, &head))
		return -EAGAIN;
	free_update(img, x, head);
	c = entries_dirty(img, &e);
	for (uint32_t k = 0; k < n; k++, sector += x->grain / VMDK_SECTOR)
		entry_set(&c, k, sector);
	return 0;
}

void vmdk_sparse_abort(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext)
{
	struct vmdk_sparse *s = x->priv;

	s->clean = MAX(s->clean, ext->host + ext->cookie);
	space_give(s, ext->host, ext->cookie);
}

/* Nothing refers to it any more. */
int vmdk_sparse_release(struct tapimg *img, struct vmdk_extent *x, uint64_t host, uint64_t len)
{
	meta_punch(img->meta, x->meta + host, len);
	space_give(x->priv, host, len);
	return 0;
}

/* --------------------------------------------------------------------- unmap */

/* What becomes of an entry; false: it cannot be said, zeroes have to be written. */
static bool unmap_entry(const struct vmdk_sparse *s, uint32_t gte, bool data, bool below,
			unsigned flags, uint32_t *now)
{
	*now = gte;
	if (!data && (gte || !below || flags & UNMAP_HOLE))
		return true;
	if (data && !(flags & UNMAP_FREE))
		return false;
	*now = below ? VMDK_GTE_ZERO : 0;
	return !below || s->zeroed;
}

static int unmap_block(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint32_t n,
		       bool below, unsigned flags, uint32_t *k)
{
	struct vmdk_sparse *s = x->priv;
	struct change c = { NULL, NULL };
	struct entries e;
	int ret;

	ret = entries_get(img, x, off, &e);
	if (ret)
		return ret;
	for (*k = 0; *k < MIN(n, e.n); ++*k) {
		uint32_t gte, now;
		bool data;
		const char *what = entry_look(s, &e, *k, &gte, &data);

		if (what && !*k)
			return entry_bad(img, x, off, gte, what);
		if (what || !unmap_entry(s, gte, data, below, flags, &now))
			break;
		if (now == gte)
			continue;
		if (!c.p)
			c = entries_dirty(img, &e);
		entry_set(&c, *k, now);
		if (data)
			meta_free(img->meta, x->meta + gte * VMDK_SECTOR, x->grain);
	}
	return 0;
}

int vmdk_sparse_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done)
{
	struct vmdk_sparse *s = x->priv;
	bool below = img->backing || img->backing_name || flags & UNMAP_EXPLICIT;
	bool table;
	uint64_t i = off >> (s->grain_bits + s->gt_bits), n = len >> s->grain_bits;
	uint64_t room = vmdk_span(s) - (off & (vmdk_span(s) - 1));
	uint32_t k;
	int ret;

	if (off + len == x->len)
		n = div_up(len, x->grain);
	if (off & (x->grain - 1) || !n)
		return 0;
	table = table_is(s, s->gd[i]);
	if (table && !meta_room(img->meta, 2))
		return -EAGAIN;
	if (!table) {
		if (s->gd[i] || !below || flags & UNMAP_HOLE) {
			*done = MIN(len, room);
			return 0;
		}
		if (!s->zeroed)
			return 0;
		ret = table_make(img, x, i, 2);
		if (ret)
			return ret;
	}
	ret = unmap_block(img, x, off, n, below, flags, &k);
	if (!ret)
		*done = MIN(len, (uint64_t)k << s->grain_bits);
	return ret;
}
