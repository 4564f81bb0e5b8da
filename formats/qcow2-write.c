/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-write.c - changing the mapping: reserve, commit, abort, unmap
 *
 * reserve counts host clusters (rank 0) and sees to it that the L2 table is there and belongs to the
 * active L1 alone; a new table is published at once, for it says the same as what it replaces.
 * commit puts the data clusters in and queues what they replace. Both work inside one cached block
 * of L2 entries, so a long write is answered in parts.
 *
 * A cluster that is mapped, owned, but not readable as data (zero flag, or a subcluster without its
 * bit) is taken over in place.  In an external data file every cluster has its fixed place.
 *
 * Compressed clusters are packed by bytes.  Each host cluster that one touches counts one more.
 */
#include <inttypes.h>

#include "qcow2.h"
#include "qcow2-tab.h"

enum { COOKIE_IN_PLACE, COOKIE_NEW, COOKIE_CODED };

/* ----------------------------------------------------------------- L2 tables */

struct table {
	struct qcow2_l1ref l1;
	bool make;		/* a new one is needed: there is none, or a snapshot has it as well */
	uint64_t l2;
};

static unsigned blocks_per_cluster(const struct tapimg *img)
{
	return qcow2_of(img)->cluster >> img->meta->bshift;
}

/* All blocks of a table that is going to be copied, asked for at once. */
static int table_gather(struct tapimg *img, uint64_t l2)
{
	unsigned n = blocks_per_cluster(img);
	bool all = true;

	while (n--)
		all &= meta_get(img->meta, l2 + (uint64_t)n * img->meta->bsize) != NULL;
	return all ? 0 : -EAGAIN;
}

static int table_look(struct tapimg *img, uint64_t off, struct table *t)
{
	int ret = qcow2_l1_get(img, off, &t->l1);

	if (ret)
		return ret;
	t->l2 = t->l1.l2;
	t->make = !t->l2 || !(t->l1.entry & QCOW2_COPIED);
	return t->l2 && t->make ? table_gather(img, t->l2) : 0;
}

/* What both tables refer to is shared: the copy owns none of it.  In a data file nothing is counted. */
static void table_copy(const struct qcow2 *q, uint8_t *to, const uint8_t *from, uint32_t len)
{
	uint64_t clear = q->has_data ? 0 : QCOW2_COPIED;
	uint32_t i;

	memcpy(to, from, len);
	for (i = 0; i < len; i += 1U << q->entry_bits)
		put_be64(to + i, get_be64(from + i) & ~clear);
}

static void table_make(struct tapimg *img, struct table *t, uint64_t host)
{
	struct qcow2 *q = qcow2_of(img);
	struct meta *m = img->meta;
	uint64_t i;
	uint8_t *p;

	for (i = 0; i < q->cluster; i += m->bsize) {
		p = meta_fresh(m, host + i, QCOW2_RANK_L2);
		if (t->l2)
			table_copy(q, p, meta_get(m, t->l2 + i)->data, m->bsize);
	}
	p = meta_dirty(m, t->l1.b, QCOW2_RANK_L1);
	put_be64(p + (t->l1.at & (m->bsize - 1)), host | QCOW2_COPIED);
	if (t->l2)
		meta_free(m, t->l2, q->cluster);
	t->l2 = host;
	t->make = false;
}

/* ------------------------------------------------------------------- reserve */

static unsigned entry_index(const struct qcow2 *q, uint64_t off)
{
	return (off >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
}

/* entries from that for @off to the end of its cached block */
static unsigned block_left(const struct qcow2 *q, uint64_t off)
{
	return (1U << q->blk_bits) - (entry_index(q, off) & ((1U << q->blk_bits) - 1));
}

static uint64_t entry_at(const struct qcow2 *q, uint64_t l2, uint64_t off)
{
	return l2 + ((uint64_t)entry_index(q, off) << q->entry_bits);
}

static const char *entry_load(const struct qcow2 *q, const uint8_t *p, uint64_t guest,
			      struct qcow2_entry *e)
{
	return qcow2_entry_check(q, get_be64(p), q->extl2 ? get_be64(p + 8) : 0, guest, e);
}

/* Space there that is nobody else's and may be written to in place once it is published. */
static bool owned(const struct qcow2_entry *e)
{
	return e->kind != QCOW2_K_CODED && e->copied && (e->kept || e->kind == QCOW2_K_DATA);
}

/* What is there has to move as a whole when a part of it is written. */
static bool moves_whole(const struct qcow2 *q, const struct qcow2_entry *e)
{
	return !q->extl2 || e->kind == QCOW2_K_CODED || e->sub & QCOW2_SUB_ALLOC;
}

/* What is wanted, before space is looked for. */
struct want {
	uint64_t cluster;	/* guest offset of the first cluster */
	unsigned n;		/* clusters that need new space, at most */
	bool in_place;		/* the first one has its own space already: */
	uint64_t host;
	uint64_t start, end;	/* guest range to be written, rounded out */
};

/* Subclusters from that of @off on that do not hold data, up to @end, in a cluster that is owned. */
static void want_subs(const struct qcow2 *q, const struct qcow2_entry *e, uint64_t off,
		      uint64_t end, struct want *w)
{
	unsigned s = (off & q->cluster_mask) >> q->sub_bits, stop = s + 1;

	while (stop < QCOW2_SUBCLUSTERS && !(e->sub >> stop & 1) &&
	       w->cluster + ((uint64_t)stop << q->sub_bits) < end)
		stop++;
	w->start = w->cluster + ((uint64_t)s << q->sub_bits);
	w->end = w->cluster + ((uint64_t)stop << q->sub_bits);
}

/* Clusters that are mapped to space of their own one after the other, none of them readable. */
static void want_kept(const struct qcow2 *q, const uint8_t *p, unsigned n, uint64_t end,
		      struct want *w)
{
	uint64_t entry = get_be64(p);
	unsigned k = 1;

	while (k < n && w->cluster + ((uint64_t)k << q->cluster_bits) < end &&
	       get_be64(p + 8 * (size_t)k) == entry + ((uint64_t)k << q->cluster_bits))
		k++;
	w->start = w->cluster;
	w->end = w->cluster + ((uint64_t)k << q->cluster_bits);
}

static int want_in_place(struct tapimg *img, const struct qcow2_entry *e, const uint8_t *p,
			 unsigned n, uint64_t off, uint64_t end, struct want *w)
{
	struct qcow2 *q = qcow2_of(img);

	w->in_place = true;
	w->host = e->host;
	if (q->extl2)
		want_subs(q, e, off, end, w);
	else
		want_kept(q, p, n, end, w);
	return 0;
}

/* @p: the entries, NULL: no table. @own: the table is not shared. */
static int want_look(struct tapimg *img, const uint8_t *p, bool own, uint64_t off, uint64_t len,
		     struct want *w)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t end = off + len, guest;
	unsigned n = block_left(q, off), size = 1U << q->entry_bits;
	struct qcow2_entry e = { .kind = QCOW2_K_HOLE }, first;
	const char *bad;

	memset(w, 0, sizeof(*w));
	guest = w->cluster = off & ~q->cluster_mask;
	bad = p ? entry_load(q, p, guest, &e) : NULL;
	if (bad)
		return qcow2_entry_bad(img, guest, get_be64(p), bad);
	first = e;
	/* a cluster that is plain data and owned is not asked for: it would be written in place */
	if (own && owned(&e) && (q->extl2 || e.kind != QCOW2_K_DATA))
		return want_in_place(img, &e, p, n, off, end, w);
	for (w->n = 1; w->n < n; w->n++) {
		struct qcow2_entry next = { .kind = QCOW2_K_HOLE };

		guest += q->cluster;
		if (guest >= end)
			break;
		if (p && (entry_load(q, p + w->n * (size_t)size, guest, &next) ||
			  (own && owned(&next))))
			break;
		e = next;
	}
	guest = w->cluster + ((uint64_t)w->n << q->cluster_bits);
	w->start = moves_whole(q, &first) ? w->cluster : round_down(off, 1ULL << q->sub_bits);
	w->end = end >= guest || moves_whole(q, &e) ? guest : round_up(end, 1ULL << q->sub_bits);
	return 0;
}

static void fill_new(struct tapimg *img, const struct want *w, uint64_t host, bool clean,
		     int cookie, struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);

	ext->type = EXT_NEW;
	ext->flags = clean ? EXT_CLEAN : 0;
	ext->file = q->data;
	ext->off = w->start;
	ext->len = w->end - w->start;
	ext->host = host + (w->start - w->cluster);
	ext->cookie = cookie;
}

/*
 * Space for @n clusters, and for the table if one has to be made, in one run: the table comes first.
 * -EAGAIN, or *host and *n are set.  @n may be 0 on entry.
 */
static int take_space(struct tapimg *img, uint64_t off, struct table *t, uint64_t *n,
		      uint64_t *host, bool *clean)
{
	struct qcow2 *q = qcow2_of(img);
	unsigned table = t->make, room = table ? blocks_per_cluster(img) + 1 : 0;
	struct qcow2_plan plan;
	int ret;

	if (!table && !*n)
		return 0;
	ret = qcow2_plan(img, table + (*n != 0), table + *n, room + 1, &plan);
	if (!ret)
		ret = table_look(img, off, t);	/* again: making room may have dropped it */
	if (ret)
		return ret;
	*clean = plan.first << q->cluster_bits >= q->clean;
	*host = qcow2_take(img, &plan);
	*n = plan.n - table;
	if (table) {
		table_make(img, t, *host);
		*host += q->cluster;
	}
	return 0;
}

static int reserve_coded(struct tapimg *img, uint64_t off, uint64_t len, struct extent *ext);

int qcow2_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		  struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	const uint8_t *p = NULL;
	uint64_t host = 0, n;
	struct table t;
	struct want w;
	bool clean = false;
	int ret;

	if (flags & RESERVE_CODED)
		return reserve_coded(img, off, len, ext);
	ret = table_look(img, off, &t);
	if (ret)
		return ret;
	if (t.l2) {
		uint64_t at = entry_at(q, t.l2, off);
		struct mblk *b = meta_get(img->meta, at);

		if (!b)
			return -EAGAIN;
		p = b->data + (at & (img->meta->bsize - 1));
	}
	ret = want_look(img, p, !t.make, off, len, &w);
	if (ret)
		return ret;
	if (w.in_place) {
		fill_new(img, &w, w.host, false, COOKIE_IN_PLACE, ext);
		return 0;
	}
	n = q->has_data ? 0 : w.n;
	ret = take_space(img, off, &t, &n, &host, &clean);
	if (ret)
		return ret;
	if (q->has_data) {
		fill_new(img, &w, w.cluster, false, COOKIE_IN_PLACE, ext);
		return 0;
	}
	w.end = MIN(w.end, w.cluster + (n << q->cluster_bits));
	fill_new(img, &w, host, clean, COOKIE_NEW, ext);
	return 0;
}

/* ------------------------------------------------------- compressed clusters */

/*
 * Where the bytes go: behind the last ones if they fit there, or reach over into the next cluster
 * when that is free; else into a new cluster.  The cluster of the last ones counts one more.
 */
struct coded_want {
	struct mblk *b;		/* counts of the cluster that is partly full; NULL: start a new one */
	uint64_t cluster, count;
	uint64_t left;		/* bytes in it */
};

static int coded_look(struct tapimg *img, struct coded_want *w)
{
	struct qcow2 *q = qcow2_of(img);
	int ret;

	memset(w, 0, sizeof(*w));
	if (!q->coded_next)
		return 0;
	w->cluster = q->coded_next >> q->cluster_bits;
	ret = qcow2_count_block(img, w->cluster, &w->b);
	if (ret)
		return ret;
	w->count = qcow2_count(img, w->b, w->cluster);
	if (!w->count || w->count == q->rc_max)
		w->b = NULL;
	w->left = q->cluster - (q->coded_next & q->cluster_mask);
	return 0;
}

static void coded_fill(struct tapimg *img, uint64_t off, uint64_t len, uint64_t host,
		       struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t next = host + ext->coded;

	q->coded_next = next & q->cluster_mask ? next : 0;
	ext->type = EXT_NEW;
	ext->flags = 0;
	ext->file = img->file;
	ext->off = off;
	ext->len = len;
	ext->host = host;
	ext->cookie = COOKIE_CODED;
}

static int reserve_coded(struct tapimg *img, uint64_t off, uint64_t len, struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t limit = MIN(QCOW2_HOST_MAX, 1ULL << q->coded_shift);
	struct coded_want w;
	struct qcow2_plan plan = { 0 };
	struct table t;
	uint64_t host;
	bool fits;
	int ret;

	if (q->has_data)
		return -ENOTSUP;
	if (!ext->coded || ext->coded >= q->cluster || off & q->cluster_mask)
		return -EINVAL;
	ret = table_look(img, off, &t);
	if (!ret)
		ret = coded_look(img, &w);
	if (ret)
		return ret;
	fits = w.b && ext->coded <= w.left;
	if (!fits || t.make)
		ret = qcow2_plan(img, t.make + !fits, t.make + !fits,
				 blocks_per_cluster(img) + 3, &plan);
	else if (!meta_room(img->meta, 2))
		ret = -EAGAIN;
	if (!ret)
		ret = table_look(img, off, &t);
	if (!ret)
		ret = coded_look(img, &w);
	if (ret)
		return ret;
	host = q->coded_next;
	if (plan.n) {
		uint64_t got = ((plan.first + plan.n) << q->cluster_bits);

		if (got > limit)
			return -EFBIG;
		/* a new cluster that follows the last one: the bytes may reach over */
		if (!fits && (t.make || !w.b || plan.first != w.cluster + 1)) {
			host = got - q->cluster;
			w.b = NULL;
		}
		qcow2_take(img, &plan);
		if (t.make)
			table_make(img, &t, plan.first << q->cluster_bits);
	}
	if (w.b)
		qcow2_count_set(img, w.b, w.cluster, qcow2_count(img, w.b, w.cluster) + 1);
	coded_fill(img, off, len, host, ext);
	return 0;
}

/* -------------------------------------------------------------------- commit */

/* What an entry refers to is referred to no more. */
static void entry_drop(struct tapimg *img, const struct qcow2_entry *e)
{
	struct qcow2 *q = qcow2_of(img);

	if (e->kind == QCOW2_K_CODED)
		meta_free(img->meta, e->host, e->coded);
	else if (e->host && !q->has_data)
		meta_free(img->meta, e->host, q->cluster);
}

/* Subcluster bits after [start, end) of the cluster at @guest has been written to @host. */
static uint64_t sub_written(const struct qcow2 *q, const struct qcow2_entry *old, uint64_t guest,
			    uint64_t start, uint64_t end)
{
	unsigned from = start > guest ? (start - guest) >> q->sub_bits : 0;
	unsigned to = end >= guest + q->cluster ? QCOW2_SUBCLUSTERS
						: (end - guest + (1ULL << q->sub_bits) - 1) >> q->sub_bits;
	uint64_t mask = to - from == 32 ? QCOW2_SUB_ALLOC : ((1ULL << (to - from)) - 1) << from;
	uint64_t sub = old->kind == QCOW2_K_CODED ? 0 : old->sub;

	return (sub | mask) & ~(mask << 32);
}

static void commit_entry(struct tapimg *img, uint8_t *p, uint64_t guest, uint64_t host,
			 const struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	struct qcow2_entry old;

	entry_load(q, p, guest, &old);
	if (ext->cookie == COOKIE_CODED) {
		put_be64(p, qcow2_coded_entry(q, ext->host, ext->coded));
		if (q->extl2)
			put_be64(p + 8, 0);
		entry_drop(img, &old);
		return;
	}
	put_be64(p, host | QCOW2_COPIED);
	if (q->extl2)
		put_be64(p + 8, sub_written(q, &old, guest, ext->off, ext->off + ext->len));
	if (old.kind == QCOW2_K_CODED || old.host != host)
		entry_drop(img, &old);
}

/* The L2 entries for an extent that was reserved, in a table that is owned. */
static int commit_block(struct tapimg *img, const struct extent *ext, struct mblk **b, uint64_t *at)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t guest = ext->off & ~q->cluster_mask, end = ext->off + ext->len;
	struct qcow2_l1ref l1;
	const uint8_t *p;
	int ret;

	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	ret = qcow2_l1_get(img, ext->off, &l1);
	if (ret)
		return ret;
	if (!l1.l2 || !(l1.entry & QCOW2_COPIED))
		return image_corrupt(img, "the L2 table for offset 0x%" PRIx64 " went away", ext->off);
	*at = entry_at(q, l1.l2, ext->off);
	*b = meta_get(img->meta, *at);
	if (!*b)
		return -EAGAIN;
	*at &= img->meta->bsize - 1;
	for (p = (*b)->data + *at; guest < end; guest += q->cluster, p += 1U << q->entry_bits) {
		struct qcow2_entry e;
		const char *bad = entry_load(q, p, guest, &e);

		if (bad)
			return qcow2_entry_bad(img, guest, get_be64(p), bad);
	}
	return 0;
}

int qcow2_commit(struct tapimg *img, const struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t guest = ext->off & ~q->cluster_mask, end = ext->off + ext->len, at = 0;
	uint64_t host = ext->host - (ext->off - guest);
	struct mblk *b = NULL;
	uint8_t *p;
	int ret = commit_block(img, ext, &b, &at);

	if (ret)
		return ret;
	p = meta_dirty(img->meta, b, QCOW2_RANK_L2) + at;
	for (; guest < end; guest += q->cluster, host += q->cluster, p += 1U << q->entry_bits)
		commit_entry(img, p, guest, host, ext);
	return 0;
}

void qcow2_abort(struct tapimg *img, const struct extent *ext)
{
	if (ext->cookie == COOKIE_NEW)
		meta_free_unused(img->meta, ext->host, ext->len);
	else if (ext->cookie == COOKIE_CODED)
		meta_free_unused(img->meta, ext->host, ext->coded);
}

/* --------------------------------------------------------------------- unmap */

struct unmap {
	unsigned flags;
	bool below;		/* a hole would show what lies below */
};

/* The entry for a cluster that is to read as zeroes; false: cannot be said.  *drop: e's space goes. */
static bool unmap_entry(const struct qcow2 *q, const struct unmap *u, const struct qcow2_entry *e,
			uint64_t *entry, uint64_t *sub, bool *drop)
{
	bool space = e->kind == QCOW2_K_CODED || e->kind == QCOW2_K_DATA || e->kept;

	*drop = false;
	if (!space && e->kind == QCOW2_K_HOLE && (!u->below || u->flags & UNMAP_HOLE))
		return true;			/* stays as it is */
	if (!space && e->kind == QCOW2_K_ZERO && (!q->extl2 || e->sub == QCOW2_SUB_ZERO))
		return true;
	if (!q->v3 && (u->below || !(u->flags & UNMAP_FREE)))
		return false;
	if (!(u->flags & UNMAP_FREE) && owned(e)) {
		*entry = e->host | QCOW2_COPIED | (q->extl2 ? 0 : QCOW2_ZERO);
		*sub = QCOW2_SUB_ZERO;
		return true;
	}
	*entry = u->below && !q->extl2 ? QCOW2_ZERO : 0;
	*sub = u->below ? QCOW2_SUB_ZERO : 0;
	*drop = space;
	return true;
}

/* Goes through the entries of one cached block; returns how many were dealt with. */
static int unmap_block(struct tapimg *img, const struct unmap *u, struct mblk *b, uint64_t at,
		       uint64_t guest, unsigned n)
{
	struct qcow2 *q = qcow2_of(img);
	uint8_t *p = b->data + at;
	bool dirty = false;
	unsigned k;

	for (k = 0; k < n; k++, guest += q->cluster, p += 1U << q->entry_bits) {
		uint64_t was = get_be64(p), entry = was, sub, was_sub = 0;
		struct qcow2_entry e;
		const char *bad = entry_load(q, p, guest, &e);
		bool drop;

		if (bad)
			return k ? (int)k : qcow2_entry_bad(img, guest, was, bad);
		if (q->extl2)
			was_sub = get_be64(p + 8);
		sub = was_sub;
		if (!unmap_entry(q, u, &e, &entry, &sub, &drop))
			break;
		if (!q->extl2)
			sub = 0;
		if (entry == was && sub == was_sub)
			continue;
		if (!dirty) {
			dirty = true;
			p = meta_dirty(img->meta, b, QCOW2_RANK_L2) + at +
			    ((size_t)k << q->entry_bits);
		}
		put_be64(p, entry);
		if (q->extl2)
			put_be64(p + 8, sub);
		if (drop)
			entry_drop(img, &e);
	}
	return k;
}

int qcow2_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done)
{
	struct qcow2 *q = qcow2_of(img);
	struct unmap u = {
		.flags = flags,
		.below = img->backing || img->backing_name || flags & UNMAP_EXPLICIT,
	};
	uint64_t n = len >> q->cluster_bits, none = 0, host, at, room;
	struct table t;
	struct mblk *b;
	bool clean;
	int ret;

	*done = 0;
	if (off + len == img->size)
		n = div_up(len, q->cluster);
	if (off & q->cluster_mask || !n || q->raw_data || (u.below && !q->v3))
		return 0;
	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	ret = table_look(img, off, &t);
	if (ret)
		return ret;
	if (!t.l2 && (!u.below || flags & UNMAP_HOLE)) {
		room = (1ULL << q->l1_shift) - (off & ((1ULL << q->l1_shift) - 1));
		*done = MIN(len, room);
		return 0;
	}
	ret = take_space(img, off, &t, &none, &host, &clean);
	if (ret)
		return ret;
	at = entry_at(q, t.l2, off);
	b = meta_get(img->meta, at);
	if (!b)
		return -EAGAIN;
	ret = unmap_block(img, &u, b, at & (img->meta->bsize - 1), off,
			  MIN(n, block_left(q, off)));
	if (ret < 0)
		return ret;
	*done = MIN(len, (uint64_t)ret << q->cluster_bits);
	return 0;
}
