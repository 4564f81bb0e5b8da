/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-alloc.c - refcounts: finding free clusters, giving them back, growing the tables
 *
 *	header -> refcount table (one contiguous array) -> refcount blocks -> one count per cluster
 *
 * Clusters are handed out in ascending order from q->scan on, so that the same writes make the
 * same file.  A stretch of clusters whose table entry is 0 is wholly free; the first use of it puts
 * its refcount block into its own first cluster, where it counts itself.
 *
 * When the table is full, new blocks and a larger table go to the first stretch it could not name,
 * and 12 bytes of the header switch over.  Order: blocks (rank 0), the new table (1), the header
 * (2), and only then L2 entries that refer to what the new blocks count (3).  A crash in between
 * leaves the old table, for which nothing new is in use.
 *
 * Left out: lazy refcounts. Ordering makes exact ones cheap, so the dirty bit is never set.
 */
#include <inttypes.h>

#include "qcow2.h"

#define LOOK_BLOCKS 32		/* looked through at once; then others get their turn */
#define READ_AHEAD 16		/* refcount blocks asked for at once while looking for free space */

/* ---------------------------------------------------------------- one count */

/* *off: of the refcount block for @index; 0: there is none.  The one check of table entries. */
static int rt_entry(struct tapimg *img, uint64_t index, uint64_t *off)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t at, entry;
	struct mblk *b;

	if (q->rb_off && q->rb_index == index) {
		*off = q->rb_off;
		return 0;
	}
	if (index >= q->rt_entries) {
		*off = 0;
		return 0;
	}
	at = q->rt_off + index * 8;
	b = meta_get(img->meta, at);
	if (!b)
		return -EAGAIN;
	entry = get_be64(b->data + (at & (img->meta->bsize - 1)));
	if (entry & q->cluster_mask || (entry && entry < q->cluster) || entry >= q->host_limit)
		return image_corrupt(img, "refcount table entry %" PRIu64 " (0x%" PRIx64 ") is not valid",
				     index, entry);
	if (entry && entry == q->rb_off)
		return image_corrupt(img, "refcount table entries %" PRIu64 " and %" PRIu64
				     " name the same block (0x%" PRIx64 ")", q->rb_index, index, entry);
	*off = entry;
	if (entry) {
		q->rb_index = index;
		q->rb_off = entry;
	}
	return 0;
}

/* host offset of the cached block that holds the count of @cluster, which is in the block at @rb */
static uint64_t count_off(const struct qcow2 *q, uint64_t rb, uint64_t cluster)
{
	uint64_t in = cluster & ((1ULL << q->rb_bits) - 1);

	return rb + (q->rc_order >= 3 ? in << (q->rc_order - 3) : in >> (3 - q->rc_order));
}

static uint64_t count_index(const struct qcow2 *q, uint64_t cluster)
{
	return cluster & ((1ULL << q->mb_bits) - 1);
}

int qcow2_count_block(struct tapimg *img, uint64_t cluster, struct mblk **b)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t rb;
	int ret = rt_entry(img, cluster >> q->rb_bits, &rb);

	*b = NULL;
	if (ret || !rb)
		return ret;
	*b = meta_get(img->meta, count_off(q, rb, cluster));
	return *b ? 0 : -EAGAIN;
}

uint64_t qcow2_count(const struct tapimg *img, const struct mblk *b, uint64_t cluster)
{
	const struct qcow2 *q = qcow2_of(img);

	return b ? qcow2_rc_get(b->data, count_index(q, cluster), q->rc_order) : 0;
}

void qcow2_count_set(struct tapimg *img, struct mblk *b, uint64_t cluster, uint64_t count)
{
	struct qcow2 *q = qcow2_of(img);
	uint8_t *p = meta_dirty(img->meta, b, QCOW2_RANK_REFBLOCK);

	qcow2_rc_set(p, count_index(q, cluster), q->rc_order, count);
}

/* ---------------------------------------------------------------- looking */

/* First cluster in [at, end) whose count is 0, all of them counted in @p; end if none. */
static uint64_t find_free(const struct qcow2 *q, const uint8_t *p, uint64_t at, uint64_t end)
{
	if (q->rc_order == 4) {
		const uint8_t *e = p + 2 * count_index(q, at);

		for (; at < end; at++, e += 2)
			if (!e[0] && !e[1])
				return at;
		return end;
	}
	while (at < end && qcow2_rc_get(p, count_index(q, at), q->rc_order))
		at++;
	return at;
}

static uint64_t count_free(const struct qcow2 *q, const uint8_t *p, uint64_t at, uint64_t end)
{
	uint64_t n = 0;

	while (at + n < end && !qcow2_rc_get(p, count_index(q, at + n), q->rc_order))
		n++;
	return n;
}

/* Free space must not lie where the tables are: then the counts are wrong. */
static int check_free(struct tapimg *img, uint64_t first, uint64_t n)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t off = first << q->cluster_bits, len = n << q->cluster_bits;

	if (!first)
		return image_corrupt(img, "the header's cluster has refcount 0");
	if (off < q->rt_off + q->rt_entries * 8 && q->rt_off < off + len)
		return image_corrupt(img, "the refcount table at 0x%" PRIx64 " has refcount 0",
				     q->rt_off);
	if (q->rb_off && off < q->rb_off + q->cluster && q->rb_off < off + len)
		return image_corrupt(img, "the refcount block at 0x%" PRIx64 " has refcount 0",
				     q->rb_off);
	return qcow2_guard_check(img, first, n);
}

/* How far clusters can go at all. */
static uint64_t last_cluster(const struct tapimg *img)
{
	const struct qcow2 *q = qcow2_of(img);
	uint64_t limit = img->file->block_dev ? img->file->size : QCOW2_HOST_MAX;

	return limit >> q->cluster_bits;
}

/* Asks for the next refcount blocks, so that a search through a large image is not one read at a time. */
static void read_ahead(struct tapimg *img, uint64_t cluster)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t rb, left, off;
	int n;

	if (rt_entry(img, cluster >> q->rb_bits, &rb) || !rb)
		return;
	off = count_off(q, rb, cluster) & ~(uint64_t)(img->meta->bsize - 1);
	left = (rb + q->cluster - off) / img->meta->bsize;
	for (n = MIN(left, READ_AHEAD) - 1; n >= 0; n--)	/* the first one names the list to wait on */
		meta_get(img->meta, off + (uint64_t)n * img->meta->bsize);
}

/* Looks in the cached block of @at. *n 0: nothing there that is long enough. */
static int look_in_block(struct tapimg *img, const struct mblk *b, uint64_t *at, uint64_t min,
			 uint64_t max, uint64_t *n)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t end = (*at | ((1ULL << q->mb_bits) - 1)) + 1;

	while ((*at = find_free(q, b->data, *at, end)) < end) {
		*n = count_free(q, b->data, *at, MIN(end, *at + max));
		if (*n >= min && !meta_punching(img->meta, *at << q->cluster_bits,
						*n << q->cluster_bits))
			return check_free(img, *at, *n);
		*at += *n;
	}
	*n = 0;
	return 0;
}

/* Where the search that is broken off here goes on: nothing in front has room for @min clusters. */
static void look_later(struct qcow2 *q, uint64_t at, uint64_t min)
{
	q->paused = at;
	q->paused_min = min;
}

static uint64_t look_from(struct qcow2 *q, uint64_t min)
{
	uint64_t at = q->paused;

	if (min < q->paused_min)
		return q->scan;
	q->paused = 0;
	return MAX(at, q->scan);
}

/*
 * There are no more refcount blocks than clusters in the file: a table that goes on naming blocks, all
 * full, for what lies beyond the end names some of them again and again.  (Clusters beyond the end
 * may well be counted: those of a writer that was cut off.)
 */
static bool beyond_reason(const struct qcow2 *q, uint64_t at)
{
	return at > q->end && (at >> q->rb_bits) - (q->end >> q->rb_bits) > q->end;
}

/* ------------------------------------------------------------------ the plan */

/* The table has no entry @index: where new blocks and a larger one go, and the run behind them. */
static int plan_growth(struct tapimg *img, uint64_t index, uint64_t min, uint64_t max,
		       struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t counts = 1ULL << q->mb_bits, limit = QCOW2_MAX_RT >> q->cluster_bits, at;

	p->grow_clusters = MAX(div_up((index + 1) * 8, q->cluster), q->h.rt_clusters * 3ULL / 2);
	if (p->grow_clusters > limit && (index + 1) * 8 <= QCOW2_MAX_RT)
		p->grow_clusters = limit;
	if (p->grow_clusters > limit)
		return -EFBIG;
	p->grow_at = q->rt_entries << q->rb_bits;
	/* each block counts itself; one cached block's worth is left over for the run */
	p->grow_blocks = div_up(p->grow_clusters + 2 * counts, (1ULL << q->rb_bits) - 1);
	at = p->grow_at + p->grow_blocks + p->grow_clusters;
	if (counts - (at & (counts - 1)) < min)
		at = round_up(at, counts);
	p->first = at;
	p->n = MIN(max, counts - (at & (counts - 1)));
	return check_free(img, p->grow_at, (QCOW2_HOST_MAX >> q->cluster_bits) - p->grow_at);
}

/* Nothing is counted in this stretch yet, so no table can be in it. */
static int plan_new_block(struct tapimg *img, uint64_t at, uint64_t max, struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t counts = 1ULL << q->mb_bits;

	p->new_block = round_down(at, 1ULL << q->rb_bits);
	p->first = p->new_block + 1;
	p->n = MIN(max, counts - 1);
	return check_free(img, p->new_block, 1ULL << q->rb_bits);
}

static int plan_run(struct tapimg *img, uint64_t min, uint64_t max, struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t at = look_from(q, min), last = last_cluster(img), from;
	bool skipped = false;		/* free space that is too short for this one */
	unsigned looked = 0;
	struct mblk *b;
	int ret;

	memset(p, 0, sizeof(*p));
	if (!q->rt_entries)
		return image_corrupt(img, "there is no refcount table");
	while (at < last) {
		if (at >> q->rb_bits >= q->rt_entries)
			return plan_growth(img, at >> q->rb_bits, min, max, p);
		ret = qcow2_count_block(img, at, &b);
		if (ret) {
			if (ret == -EAGAIN) {
				look_later(q, at, min);
				read_ahead(img, at);
			}
			return ret;
		}
		if (b && beyond_reason(q, at))
			return image_corrupt(img, "the refcount table names more blocks than fit the file");
		if (b && looked++ == LOOK_BLOCKS) {
			look_later(q, at, min);
			meta_yield(img->meta);
			return -EAGAIN;
		}
		if (!b) {
			if (at < 1ULL << q->rb_bits)
				return check_free(img, 0, 1);
			return plan_new_block(img, at, max, p);
		}
		from = at;
		ret = look_in_block(img, b, &at, min, max, &p->n);
		p->first = at;
		if (ret || p->n)
			return ret;
		/* remembering how far all is full also makes a restart short */
		skipped |= qcow2_of(img)->scan != from ||
			   find_free(q, b->data, from, at) != at;
		if (!skipped)
			q->scan = at;
	}
	return -ENOSPC;
}

/* Old table blocks and the header, all at once so that their reads overlap. */
static int gather_growth(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t off, end = q->rt_off + q->rt_entries * 8;
	bool all = meta_get(img->meta, 0);

	for (off = q->rt_off; off < end; off += img->meta->bsize)
		all &= meta_get(img->meta, off) != NULL;
	return all ? 0 : -EAGAIN;
}

static int plan_room(struct tapimg *img, const struct qcow2_plan *p, unsigned room)
{
	struct qcow2 *q = qcow2_of(img);
	struct meta *m = img->meta;
	unsigned per = q->cluster >> m->bshift;

	room += 1;				/* the block of counts */
	if (p->new_block)
		room += per + 1;
	if (p->grow_at) {
		room += (p->grow_blocks + p->grow_clusters) * per + 1;
		/* old table, new table and blocks have to be in the cache together */
		m->maxblk = MAX(m->maxblk, 2 * (room + q->h.rt_clusters * per));
	}
	return meta_room(m, room) ? 0 : -EAGAIN;
}

int qcow2_plan(struct tapimg *img, uint64_t min, uint64_t max, unsigned room,
	       struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);
	struct mblk *b;
	int ret = plan_run(img, min, max, p);

	if (ret)
		return ret;
	if (p->first + p->n > last_cluster(img)) {
		if (p->first + min > last_cluster(img))
			return -ENOSPC;
		p->n = last_cluster(img) - p->first;
	}
	ret = plan_room(img, p, room);
	if (ret)
		return ret;
	if (p->grow_at)
		return gather_growth(img);
	/* making room may have dropped what was looked at */
	if (p->new_block)
		return meta_get(img->meta, q->rt_off + (p->new_block >> q->rb_bits) * 8) ? 0
										       : -EAGAIN;
	return qcow2_count_block(img, p->first, &b);
}

/* ---------------------------------------------------------------- the change */

static void mark_used(struct tapimg *img, uint64_t first, uint64_t n)
{
	struct qcow2 *q = qcow2_of(img);

	q->end = MAX(q->end, first + n);
	q->host_limit = MAX(q->host_limit, q->end << q->cluster_bits);
	q->clean = MAX(q->clean, q->host_limit);
	if (!img->file->block_dev)
		file_grow_hint(img->file, q->end << q->cluster_bits);
}

static void block_fresh(struct tapimg *img, uint64_t cluster)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t off = cluster << q->cluster_bits, end = off + q->cluster;

	for (; off < end; off += img->meta->bsize)
		meta_fresh(img->meta, off, QCOW2_RANK_REFBLOCK);
}

/* counts that are 0 in blocks that are cached become 1 */
static void counts_one(struct tapimg *img, uint64_t first, uint64_t n)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t end = first + n;

	while (first < end) {
		uint64_t stop = MIN(end, (first | ((1ULL << q->mb_bits) - 1)) + 1);
		struct mblk *b;
		uint8_t *p;

		if (qcow2_count_block(img, first, &b) || !b) {
			image_fail(img, -EIO, "a refcount block fell out of the cache");
			return;
		}
		p = meta_dirty(img->meta, b, QCOW2_RANK_REFBLOCK);
		for (; first < stop; first++)
			qcow2_rc_set(p, count_index(q, first), q->rc_order, 1);
	}
}

static void table_set(struct tapimg *img, uint64_t index, uint64_t rb)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t at = q->rt_off + index * 8;
	uint8_t *p = meta_dirty(img->meta, meta_get(img->meta, at), QCOW2_RANK_REFTABLE);

	put_be64(p + (at & (img->meta->bsize - 1)), rb);
	q->rb_index = index;
	q->rb_off = rb;
}

static void take_new_block(struct tapimg *img, uint64_t cluster)
{
	struct qcow2 *q = qcow2_of(img);

	block_fresh(img, cluster);
	table_set(img, cluster >> q->rb_bits, cluster << q->cluster_bits);
	counts_one(img, cluster, 1);
}

static void table_copy(struct tapimg *img, uint64_t to)
{
	struct qcow2 *q = qcow2_of(img);
	struct meta *m = img->meta;
	uint64_t len = q->rt_entries * 8, off;

	for (off = 0; off < len; off += m->bsize) {
		uint8_t *p = meta_fresh(m, to + off, QCOW2_RANK_REFTABLE);

		memcpy(p, meta_get(m, q->rt_off + off)->data, m->bsize);
	}
}

static void take_growth(struct tapimg *img, const struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);
	struct meta *m = img->meta;
	uint64_t rt = (p->grow_at + p->grow_blocks) << q->cluster_bits, old = q->rt_off, i;
	uint64_t old_len = q->rt_entries * 8, len = p->grow_clusters << q->cluster_bits;
	uint8_t *head;

	for (i = 0; i < p->grow_blocks; i++)
		block_fresh(img, p->grow_at + i);
	table_copy(img, rt);
	for (i = old_len; i < len; i += m->bsize)
		meta_fresh(m, rt + i, QCOW2_RANK_REFTABLE);
	q->h.rt_off = q->rt_off = rt;
	q->h.rt_clusters = p->grow_clusters;
	q->rt_entries = len / 8;
	mark_used(img, p->grow_at, p->grow_blocks + p->grow_clusters);
	for (i = 0; i < p->grow_blocks; i++)
		table_set(img, (p->grow_at >> q->rb_bits) + i, (p->grow_at + i) << q->cluster_bits);
	counts_one(img, p->grow_at, p->grow_blocks + p->grow_clusters);
	head = meta_dirty(m, meta_get(m, 0), QCOW2_RANK_HEADER);
	put_be64(head + QH_RT_OFF, rt);
	put_be32(head + QH_RT_CLUSTERS, q->h.rt_clusters);
	meta_free(m, old, old_len);
}

uint64_t qcow2_take(struct tapimg *img, const struct qcow2_plan *p)
{
	struct qcow2 *q = qcow2_of(img);

	mark_used(img, p->first, p->n);
	if (p->grow_at)
		take_growth(img, p);
	if (p->new_block)
		take_new_block(img, p->new_block);
	counts_one(img, p->first, p->n);
	if (q->scan == p->first || (p->grow_at && q->scan >= p->grow_at) ||
	    (p->new_block && q->scan >= p->new_block))
		q->scan = p->first + p->n;
	return p->first << q->cluster_bits;
}

/* ------------------------------------------------------------------- release */

static void cluster_freed(struct tapimg *img, uint64_t first, uint64_t n)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t off = first << q->cluster_bits, len = n << q->cluster_bits;

	if (!n)
		return;
	qcow2_guard_drop(img, first, n);
	meta_forget(img->meta, off, len);
	meta_punch(img->meta, off, len);
	q->scan = MIN(q->scan, first);
	q->paused = MIN(q->paused, round_down(first, 1ULL << q->mb_bits));
	if (q->rb_off >= off && q->rb_off < off + len)
		q->rb_off = 0;
	if (q->coded_next >= off && q->coded_next < off + len)
		q->coded_next = 0;
}

/* One cached block of counts at a time; the rest is queued again. */
int qcow2_release(struct tapimg *img, uint64_t host, uint64_t len)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t at = host >> q->cluster_bits, last = (host + len - 1) >> q->cluster_bits;
	uint64_t stop = MIN(last + 1, (at | ((1ULL << q->mb_bits) - 1)) + 1), run = at;
	uint64_t own;			/* cluster of the block of counts */
	struct mblk *b;
	uint8_t *p;
	int ret;

	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	ret = qcow2_count_block(img, at, &b);
	if (ret)
		return ret;
	if (!b)
		return image_corrupt(img, "cluster 0x%" PRIx64 " is in use without being counted",
				     at << q->cluster_bits);
	own = q->rb_off >> q->cluster_bits;
	p = meta_dirty(img->meta, b, QCOW2_RANK_REFBLOCK);
	for (; at < stop; at++) {
		uint64_t count = qcow2_rc_get(p, count_index(q, at), q->rc_order);

		if (count == 1 && at == own) {	/* freeing it would take @p away as well */
			image_corrupt(img, "the refcount block at 0x%" PRIx64 " is in use as data",
				      at << q->cluster_bits);
			cluster_freed(img, run, at - run);
			run = at + 1;
			continue;
		}
		if (count)
			qcow2_rc_set(p, count_index(q, at), q->rc_order, count - 1);
		if (count == 1)
			continue;
		cluster_freed(img, run, at - run);
		run = at + 1;
		if (!count)
			image_corrupt(img, "cluster 0x%" PRIx64 " is in use with refcount 0",
				      at << q->cluster_bits);
	}
	cluster_freed(img, run, at - run);
	if (stop <= last)
		meta_free_unused(img->meta, stop << q->cluster_bits,
				 host + len - (stop << q->cluster_bits));
	return 0;
}

void qcow2_alloc_reset(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);

	q->scan = 0;
	q->paused = 0;
	q->rb_off = 0;
	q->coded_next = 0;
	q->end = div_up(img->file->size, q->cluster);
	q->clean = img->file->grows_clean && !img->file->block_dev ? q->end << q->cluster_bits
								   : UINT64_MAX;
	q->host_limit = q->end << q->cluster_bits;
}
