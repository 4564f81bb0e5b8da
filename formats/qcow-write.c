/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-write.c - changing the mapping: reserve, commit, abort, unmap
 *
 * The usual layout: a new L2 table is made and published by reserve, since it says nothing; data are
 * put in by commit.  Both work inside one cached block of entries, so a long write is answered in
 * parts, each of which gets its space in one piece.
 *
 * Xen's layout (q->regions): a region is an L2 table and behind it all of its clusters.  It is taken
 * as a whole, zeroed in the file (EXT_WHOLE), and published by commit with all its entries set.  So
 * whoever looks for a cluster by its place finds it, and later writes need no metadata.
 *
 * Order: L2 (rank 1) refers to data, L1 (rank 2) to L2 tables.  Space that is not referred to any
 * more is known only in memory (qcow-space.c); a crash leaks it.
 */
#include "checked.h"
#include "qcow.h"

enum { COOKIE_CLUSTERS, COOKIE_CODED, COOKIE_REGION };

static uint64_t region_bytes(const struct qcow *q)
{
	return 1ULL << q->l1_shift;
}

/* ---------------------------------------------------------------------- space */

/*
 * @len bytes at a multiple of @align, from the end of the file; -ENOSPC on a full device.  *clean: they
 * read as zeroes.
 */
static int take_end(struct tapimg *img, uint64_t len, uint64_t align, uint64_t *off, bool *clean)
{
	struct qcow *q = qcow_of(img);
	uint64_t start = round_up(q->end, align);

	if (start + len > 1ULL << (63 - q->cluster_bits))
		return -EFBIG;
	if (img->file->block_dev && start + len > img->file->size)
		return -ENOSPC;
	*off = start;
	*clean = start >= q->clean;
	q->end = start + len;
	file_grow_hint(img->file, q->end);
	return 0;
}

/* Clusters from anywhere; *len may come out smaller. */
static int take_clusters(struct tapimg *img, uint64_t *len, uint64_t *off, bool *clean)
{
	struct qcow *q = qcow_of(img);
	uint64_t got = qcow_space_take(&q->space, img->meta, *len, q->cluster, off);

	if (!got)
		return take_end(img, *len, q->cluster, off, clean);
	*len = got;
	*clean = false;
	return 0;
}

int qcow_release(struct tapimg *img, uint64_t host, uint64_t len)
{
	meta_forget(img->meta, host, len);
	qcow_space_add(&qcow_of(img)->space, host, len);
	meta_punch(img->meta, host, len);
	return 0;
}

/* ------------------------------------------------------------------------ tables */

static unsigned l2_blocks(const struct tapimg *img)
{
	return qcow_of(img)->l2_bytes / img->meta->bsize;
}

static void l1_publish(struct tapimg *img, struct qcow_l1ref *l1, uint64_t l2)
{
	uint8_t *p = meta_dirty(img->meta, l1->b, QCOW_RANK_L1);

	qcow_of(img)->l1_changed = true;
	qcow_l1_store(qcow_of(img), p + (l1->at & (img->meta->bsize - 1)), l2);
	l1->l2 = l2;
}

/* An L2 table without entries, where the L1 table has none yet. */
static int table_make(struct tapimg *img, uint64_t off, struct qcow_l1ref *l1)
{
	struct qcow *q = qcow_of(img);
	uint64_t l2;
	bool clean;
	int ret;

	if (!meta_room(img->meta, l2_blocks(img) + 1))
		return -EAGAIN;
	ret = qcow_l1_get(img, off, true, l1);	/* again: making room may have dropped its block */
	if (ret)
		return ret;
	ret = take_end(img, q->l2_bytes, MAX(q->cluster, img->meta->bsize), &l2, &clean);
	if (ret)
		return ret;
	for (uint64_t i = 0; i < q->l2_bytes; i += img->meta->bsize)
		meta_fresh(img->meta, l2 + i, QCOW_RANK_L2);
	l1_publish(img, l1, l2);
	return 0;
}

static uint64_t entry_index(const struct qcow *q, uint64_t off)
{
	return (off >> q->cluster_bits) & ((1ULL << q->l2_bits) - 1);
}

/* -------------------------------------------------------------------- reserve */

static int reserve_region(struct tapimg *img, uint64_t off, struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t len = q->l2_bytes + region_bytes(q), host;
	bool clean;
	int ret = take_end(img, len, QCOW_XEN_ALIGN, &host, &clean);

	if (ret)
		return ret;
	ext->off = round_down(off, region_bytes(q));
	ext->len = region_bytes(q);
	ext->host = host + q->l2_bytes;
	ext->flags = EXT_WHOLE;
	ext->cookie = COOKIE_REGION;
	return 0;
}

/* How many clusters from that entry on have no data that could be overwritten where they are. */
static uint64_t count_new(const uint8_t *p, uint64_t n)
{
	uint64_t i = 1;

	while (i < n) {
		uint64_t entry = get_be64(p + 8 * i);

		if (entry && !(entry & QCOW_CODED))
			break;
		i++;
	}
	return i;
}

static int reserve_coded(struct tapimg *img, struct extent *ext)
{
	uint64_t len = ext->coded;
	bool clean;

	ext->cookie = COOKIE_CODED;
	return take_end(img, len, 1, &ext->host, &clean);
}

static int reserve_clusters(struct tapimg *img, uint64_t n, struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t len = n << q->cluster_bits;
	bool clean = false;
	int ret = take_clusters(img, &len, &ext->host, &clean);

	ext->len = len;
	ext->flags = clean ? EXT_CLEAN : 0;
	ext->cookie = COOKIE_CLUSTERS;
	return ret;
}

int qcow_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t start = round_down(off, q->cluster), index = entry_index(q, off), at, n;
	struct mblk *b;
	struct qcow_l1ref l1;
	int ret = qcow_l1_get(img, off, true, &l1);

	if (ret)
		return ret;
	ext->type = EXT_NEW;
	ext->file = img->file;
	ext->off = start;
	ext->len = q->cluster;
	if (!l1.l2 && q->regions)
		return reserve_region(img, off, ext);
	n = MIN(div_up(off + len - start, q->cluster), (1ULL << q->l2_bits) - index);
	if (l1.l2) {
		at = l1.l2 + index * 8;
		b = meta_get(img->meta, at);
		if (!b)
			return -EAGAIN;
		at &= img->meta->bsize - 1;
		n = count_new(b->data + at, MIN(n, (img->meta->bsize - at) / 8));
	} else {
		n = MIN(n, (img->meta->bsize - (index * 8 & (img->meta->bsize - 1))) / 8);
		ret = table_make(img, off, &l1);
		if (ret)
			return ret;
	}
	if (q->regions) {	/* its place is given, whoever made the table */
		ext->host = l1.l2 + q->l2_bytes + index * q->cluster;
		ext->cookie = COOKIE_CLUSTERS;
		return qcow_entry_bad(q, ext->host) ? image_corrupt(img, "the region of the L2 table at 0x%llx "
				     "reaches beyond the end of the file", (unsigned long long)l1.l2) : 0;
	}
	return flags & RESERVE_CODED ? reserve_coded(img, ext) : reserve_clusters(img, n, ext);
}

/* --------------------------------------------------------------------- commit */

static int commit_region(struct tapimg *img, const struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t l2 = ext->host - q->l2_bytes, host = ext->host;
	struct qcow_l1ref l1;
	int ret;

	if (!meta_room(img->meta, l2_blocks(img) + 1))
		return -EAGAIN;
	ret = qcow_l1_get(img, ext->off, true, &l1);
	if (ret)
		return ret;
	for (uint64_t i = 0; i < q->l2_bytes; i += img->meta->bsize) {
		uint8_t *p = meta_fresh(img->meta, l2 + i, QCOW_RANK_L2);

		for (uint32_t k = 0; k < img->meta->bsize; k += 8, host += q->cluster)
			put_be64(p + k, host);
	}
	l1_publish(img, &l1, l2);
	return 0;
}

/* The space of an entry that is no longer there. */
static void entry_drop(struct tapimg *img, uint64_t entry)
{
	const struct qcow *q = qcow_of(img);

	if (!entry || qcow_entry_bad(q, entry))
		return;
	if (entry & QCOW_CODED)
		meta_free(img->meta, qcow_coded_off(q, entry), qcow_coded_len(q, entry));
	else if (!q->regions)		/* there the space belongs to its place */
		meta_free(img->meta, entry, q->cluster);
}

int qcow_commit(struct tapimg *img, const struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t n = ext->len >> q->cluster_bits, entry = ext->host, step = q->cluster;
	struct qcow_l1ref l1;
	struct mblk *b;
	uint64_t at;
	uint8_t *p;
	int ret;

	if (ext->cookie == COOKIE_REGION)
		return commit_region(img, ext);
	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	ret = qcow_l1_get(img, ext->off, true, &l1);
	if (ret)
		return ret;
	at = l1.l2 + entry_index(q, ext->off) * 8;
	b = l1.l2 ? meta_get(img->meta, at) : NULL;
	if (!l1.l2)
		return image_corrupt(img, "the L2 table of offset 0x%llx has vanished",
				     (unsigned long long)ext->off);
	if (!b)
		return -EAGAIN;
	if (ext->cookie == COOKIE_CODED) {
		entry |= QCOW_CODED | (uint64_t)ext->coded << (63 - q->cluster_bits);
		step = 0;
	}
	p = meta_dirty(img->meta, b, QCOW_RANK_L2) + (at & (img->meta->bsize - 1));
	for (; n; n--, p += 8, entry += step) {
		uint64_t was = get_be64(p);

		put_be64(p, entry);
		if (was != entry)
			entry_drop(img, was);
	}
	return 0;
}

void qcow_abort(struct tapimg *img, const struct extent *ext)
{
	struct qcow *q = qcow_of(img);

	if (ext->cookie == COOKIE_REGION)
		meta_free_unused(img->meta, ext->host - q->l2_bytes, ext->len + q->l2_bytes);
	else if (!q->regions)
		meta_free_unused(img->meta, ext->host,
				 ext->cookie == COOKIE_CODED ? ext->coded : ext->len);
}

/* ---------------------------------------------------------------------- unmap */

struct unmap {
	unsigned flags;
	bool below;		/* a hole would show what lies below */
};

/* Holes are zeroes if nothing is below, and good enough for a discard. */
static bool hole_will_do(const struct unmap *u)
{
	return !u->below || u->flags & UNMAP_HOLE;
}

/* What is there can be dropped: there is no other way to say "zeroes" than a hole. */
static bool can_drop(const struct unmap *u)
{
	return !u->below && u->flags & UNMAP_FREE;
}

/* A region without its table is a hole; parts of it have their place in any case. */
static int unmap_region(struct tapimg *img, struct qcow_l1ref *l1, uint64_t off, uint64_t len,
			const struct unmap *u, uint64_t *done)
{
	struct qcow *q = qcow_of(img);
	uint64_t l2 = l1->l2, whole = MIN(region_bytes(q), img->size - off);

	if (!is_aligned(off, region_bytes(q)) || len < whole || !can_drop(u))
		return 0;
	if (!checked_range(l2, q->l2_bytes + region_bytes(q), q->end))
		return 0;
	l1_publish(img, l1, 0);
	meta_free(img->meta, l2, q->l2_bytes + region_bytes(q));
	*done = whole;
	return 0;
}

/* How many of @n entries at @p can be dealt with, and whether that changes any. */
static uint64_t unmap_look(const uint8_t *p, uint64_t n, const struct unmap *u, bool *change)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry = get_be64(p + 8 * i);

		if (entry ? !can_drop(u) : !hole_will_do(u))
			return i;
		*change |= entry != 0;
	}
	return n;
}

int qcow_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done)
{
	struct qcow *q = qcow_of(img);
	struct unmap u = {
		.flags = flags,
		.below = img->backing || img->backing_name || flags & UNMAP_EXPLICIT,
	};
	uint64_t at, n, in = off & (region_bytes(q) - 1);
	struct qcow_l1ref l1;
	bool change = false;
	struct mblk *b;
	uint8_t *p;
	int ret;

	*done = 0;
	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	ret = qcow_l1_get(img, off, true, &l1);
	if (ret)
		return ret;
	if (!l1.l2) {
		if (hole_will_do(&u))
			*done = MIN(len, region_bytes(q) - in);
		return 0;
	}
	if (q->regions)
		return unmap_region(img, &l1, off, len, &u, done);
	at = l1.l2 + entry_index(q, off) * 8;
	b = meta_get(img->meta, at);
	if (!b)
		return -EAGAIN;
	n = (img->meta->bsize - (at & (img->meta->bsize - 1))) / 8;
	n = MIN(n, div_up(len, q->cluster));
	n = unmap_look(b->data + (at & (img->meta->bsize - 1)), n, &u, &change);
	if (change) {
		p = meta_dirty(img->meta, b, QCOW_RANK_L2) + (at & (img->meta->bsize - 1));
		for (uint64_t i = 0; i < n; i++, p += 8) {
			entry_drop(img, get_be64(p));
			put_be64(p, 0);
		}
	}
	*done = MIN(len, n << q->cluster_bits);
	return 0;
}
