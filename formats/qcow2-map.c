/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-map.c - looking up guest addresses: entries, and map
 *
 *	L1 (one contiguous array) -> L2 tables (one cluster each) -> entries of 8 bytes, or of 16 with
 *	extended L2: the second word has two bits for each of 32 subclusters
 *
 * Every offset that an image gives is judged in qcow2_l1_check() or qcow2_entry_check() before it is
 * used. A run of entries is judged by its first one: the others have to continue it exactly, and
 * the room below the limit is computed once for all of them.
 *
 * Changing the tables is in qcow2-write.c.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "qcow2.h"
#include "qcow2-tab.h"

/* ------------------------------------------------------------------- entries */

const char *qcow2_l1_check(const struct qcow2 *q, uint64_t entry, uint64_t *off)
{
	*off = entry & QCOW2_OFF_MASK;
	if (entry & QCOW2_L1_RESERVED)
		return "has reserved bits set";
	if (*off & q->cluster_mask)
		return "is not aligned";
	if (*off >= q->host_limit)
		return "points beyond the end of the file";
	if (*off && *off < q->cluster)
		return "points into the header";
	return NULL;
}

static const char *check_coded(const struct qcow2 *q, uint64_t entry, uint64_t bitmap,
			       struct qcow2_entry *e)
{
	uint64_t sectors = (entry & ~(QCOW2_COPIED | QCOW2_CODED)) >> q->coded_shift;

	e->kind = QCOW2_K_CODED;
	e->host = entry & ((1ULL << q->coded_shift) - 1);
	e->coded = (sectors + 1) * 512 - (e->host & 511);
	if (q->has_data)
		return "is compressed, though there is a data file";
	if (bitmap)
		return "is compressed and has subclusters";
	if (e->host >= QCOW2_HOST_MAX)
		return "has reserved bits set";
	if (e->host < q->cluster)
		return "points into the header";
	if (e->host >= q->host_limit)
		return "points beyond the end of the file";
	return NULL;
}

const char *qcow2_entry_check(const struct qcow2 *q, uint64_t entry, uint64_t bitmap,
			      uint64_t guest, struct qcow2_entry *e)
{
	bool has_host;

	*e = (struct qcow2_entry){ .sub = bitmap };
	if (entry & QCOW2_CODED)
		return check_coded(q, entry, bitmap, e);
	e->host = entry & QCOW2_OFF_MASK;
	e->copied = entry & QCOW2_COPIED;
	if (entry & q->l2_reserved)
		return "has reserved bits set";
	if (e->host & q->cluster_mask)
		return "is not aligned";
	has_host = e->host || (q->has_data && e->copied);
	if (has_host && q->has_data && e->host != guest)
		return "does not point to its own place in the data file";
	if (!q->has_data && e->host >= q->host_limit)
		return "points beyond the end of the file";
	if (q->extl2) {
		if (bitmap & bitmap << 32)
			return "has subclusters that are both data and zero";
		if (bitmap & QCOW2_SUB_ALLOC && !has_host)
			return "has subclusters without space";
		e->kind = bitmap & QCOW2_SUB_ALLOC ? QCOW2_K_DATA
			: bitmap ? QCOW2_K_ZERO : QCOW2_K_HOLE;
		e->kept = has_host && e->kind != QCOW2_K_DATA;
	} else if (entry & QCOW2_ZERO) {
		e->kind = QCOW2_K_ZERO;
		e->kept = has_host;
	} else {
		e->kind = has_host ? QCOW2_K_DATA : QCOW2_K_HOLE;
	}
	return NULL;
}

uint64_t qcow2_coded_entry(const struct qcow2 *q, uint64_t host, uint32_t len)
{
	uint64_t sectors = ((host & 511) + len - 1) / 512;

	return QCOW2_CODED | sectors << q->coded_shift | host;
}

/* ------------------------------------------------------------------- look-up */

int qcow2_l1_get(struct tapimg *img, uint64_t off, struct qcow2_l1ref *r)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t index = off >> q->l1_shift;
	const char *bad;

	if (index >= q->l1_size)
		return image_corrupt(img, "L1 table of %u entries is too small for offset 0x%" PRIx64,
				     q->l1_size, off);
	r->at = q->l1_off + index * 8;
	r->b = meta_get(img->meta, r->at);
	if (!r->b)
		return -EAGAIN;
	r->entry = get_be64(r->b->data + (r->at & (img->meta->bsize - 1)));
	bad = qcow2_l1_check(q, r->entry, &r->l2);
	if (bad)
		return image_corrupt(img, "L1 entry %" PRIu64 " (0x%" PRIx64 ") %s", index, r->entry,
				     bad);
	return 0;
}

int qcow2_entry_bad(struct tapimg *img, uint64_t guest, uint64_t entry, const char *bad)
{
	return image_corrupt(img, "L2 entry 0x%" PRIx64 " for offset 0x%" PRIx64 " %s", entry, guest,
			     bad);
}

/* ---------------------------------------------------------------------- map */

/* One answer being put together. */
struct run {
	uint64_t len;		/* so far, from the start of the first cluster */
	uint64_t want;
	uint64_t host;		/* of that start */
	uint16_t type, flags;
	bool open;		/* may go on in the next cluster */
};

/*
 * Entries that continue the first one of a block: @n at most.  Ones without space repeat it, others
 * go up by a cluster, flags alike.
 */
static unsigned run_entries(const struct qcow2 *q, const uint8_t *p, unsigned n, uint64_t first,
			    bool has_host)
{
	uint64_t step = has_host ? q->cluster : 0, expect = first;
	unsigned k;

	if (has_host && !q->has_data) {
		uint64_t room = (q->host_limit - (first & QCOW2_OFF_MASK) + q->cluster_mask) >>
				q->cluster_bits;

		n = MIN(n, room);
	}
	for (k = 1; k < n; k++) {
		expect += step;
		if (get_be64(p + 8 * (size_t)k) != expect)
			break;
	}
	return k;
}

static const uint16_t kind_type[] = {
	[QCOW2_K_HOLE] = EXT_HOLE, [QCOW2_K_ZERO] = EXT_ZERO,
	[QCOW2_K_DATA] = EXT_DATA, [QCOW2_K_CODED] = EXT_CODED,
};

static uint16_t ext_flags(enum ext_type type, bool has_host, bool writable)
{
	if (type == EXT_DATA)
		return writable ? EXT_WRITABLE : 0;
	return type == EXT_ZERO && has_host ? EXT_KEPT : 0;
}

/* Does what is at @host, of this kind, go on where the run ends? */
static bool run_fits(struct run *r, uint16_t type, uint16_t flags, uint64_t host, bool has_host)
{
	if (!r->len) {
		r->type = type;
		r->flags = flags;
		r->host = has_host ? host : 0;
		return true;
	}
	return r->type == type && r->flags == flags &&
	       (!has_host || type == EXT_HOLE || r->host + r->len == host);
}

/* Plain entries in one cached block: extends the run as far as they go. */
static int map_block(struct tapimg *img, struct run *r, const uint8_t *p, unsigned n,
		     uint64_t guest, bool l2_copied)
{
	struct qcow2 *q = qcow2_of(img);

	r->open = true;
	while (n && r->len < r->want) {
		uint64_t entry = get_be64(p);
		struct qcow2_entry e;
		bool has_host;
		const char *bad = qcow2_entry_check(q, entry, 0, guest, &e);
		uint16_t type, flags;
		unsigned k;

		if (bad)
			return r->len ? (r->open = false, 0) : qcow2_entry_bad(img, guest, entry, bad);
		type = kind_type[e.kind];
		has_host = e.kept || e.kind == QCOW2_K_DATA;
		flags = ext_flags(type, has_host, e.copied && l2_copied);
		r->open = type != EXT_CODED && run_fits(r, type, flags, e.host, has_host);
		if (!r->open)
			return 0;
		k = run_entries(q, p, MIN(n, (r->want - r->len + q->cluster_mask) >> q->cluster_bits),
				entry, has_host);
		r->len += (uint64_t)k << q->cluster_bits;
		guest += (uint64_t)k << q->cluster_bits;
		p += 8 * (size_t)k;
		n -= k;
	}
	return 0;
}

/* How far subclusters from @s on are like that one. */
static unsigned sub_run(uint64_t sub, unsigned s, uint16_t *type)
{
	uint32_t alloc = (uint32_t)sub, zero = sub >> 32, same;

	if (alloc >> s & 1) {
		*type = EXT_DATA;
		same = alloc;
	} else if (zero >> s & 1) {
		*type = EXT_ZERO;
		same = zero;
	} else {
		*type = EXT_HOLE;
		same = ~(alloc | zero);
	}
	same = ~(same >> s);
	if (s)
		same |= ~0U << (32 - s);
	return same ? (unsigned)__builtin_ctz(same) : 32;
}

/* Extended entries: the same, subcluster by subcluster.  The run starts at subcluster @s. */
static int map_block_sub(struct tapimg *img, struct run *r, const uint8_t *p, unsigned n,
			 unsigned s, uint64_t guest, bool l2_copied)
{
	struct qcow2 *q = qcow2_of(img);

	for (r->open = true; n && r->len < r->want; n--, p += 16, guest += q->cluster, s = 0) {
		uint64_t entry = get_be64(p);
		struct qcow2_entry e;
		const char *bad = qcow2_entry_check(q, entry, get_be64(p + 8), guest, &e);
		bool has_host = e.kept || e.kind == QCOW2_K_DATA;

		if (bad)
			return r->len ? (r->open = false, 0) : qcow2_entry_bad(img, guest, entry, bad);
		if (e.kind == QCOW2_K_CODED) {
			r->open = false;
			return 0;
		}
		while (s < QCOW2_SUBCLUSTERS) {
			uint16_t type, flags;
			unsigned k = sub_run(e.sub, s, &type);

			flags = ext_flags(type, has_host, e.copied && l2_copied);
			r->open = run_fits(r, type, flags, e.host + ((uint64_t)s << q->sub_bits),
					   has_host);
			if (!r->open)
				return 0;
			r->len += (uint64_t)k << q->sub_bits;
			s += k;
		}
	}
	return 0;
}

/* No L2 table: as many L1 entries as say so in this cached block. */
static void map_no_l2(struct qcow2 *q, struct run *r, const struct meta *m,
		      const struct qcow2_l1ref *l1, uint64_t in)
{
	const uint8_t *p = l1->b->data + (l1->at & (m->bsize - 1));
	unsigned n = (m->bsize - (l1->at & (m->bsize - 1))) / 8;

	/* entries past the end of the table do not matter: the caller clips to the disk */
	for (; n && r->len < r->want && !get_be64(p); n--, p += 8) {
		r->len += (1ULL << q->l1_shift) - in;
		in = 0;
	}
	r->open = !n;
}

/*
 * Goes on in further cached blocks, without reading any: fine-grained images would otherwise be walked
 * in small steps.
 */
static void map_further(struct tapimg *img, struct run *r, uint64_t start)
{
	struct qcow2 *q = qcow2_of(img);
	struct meta *m = img->meta;

	while (r->open && r->len < r->want) {
		uint64_t guest = start + r->len, l1_at = q->l1_off + (guest >> q->l1_shift) * 8, l2, in;
		struct mblk *b = meta_peek(m, l1_at);
		uint64_t entry, index;
		unsigned n;

		if (!b || guest >= img->size)
			return;
		entry = get_be64(b->data + (l1_at & (m->bsize - 1)));
		if (!entry) {
			struct qcow2_l1ref l1 = { .b = b, .at = l1_at };

			if (r->type != EXT_HOLE)
				return;
			map_no_l2(q, r, m, &l1, guest & ((1ULL << q->l1_shift) - 1));
			continue;
		}
		if (qcow2_l1_check(q, entry, &l2) || !l2)
			return;
		index = (guest >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
		in = l2 + (index << q->entry_bits);
		b = meta_peek(m, in);
		if (!b)
			return;
		n = (1U << q->blk_bits) - (index & ((1U << q->blk_bits) - 1));
		in &= m->bsize - 1;
		if (q->extl2)
			map_block_sub(img, r, b->data + in, n, 0, guest, entry & QCOW2_COPIED);
		else
			map_block(img, r, b->data + in, n, guest, entry & QCOW2_COPIED);
	}
}

static int map_coded(struct tapimg *img, const uint8_t *p, uint64_t cluster, uint64_t in,
		     struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t entry = get_be64(p);
	struct qcow2_entry e;
	const char *bad = qcow2_entry_check(q, entry, q->extl2 ? get_be64(p + 8) : 0, cluster, &e);

	if (bad)
		return qcow2_entry_bad(img, cluster, entry, bad);
	ext->type = EXT_CODED;
	ext->flags = 0;
	ext->file = img->file;
	ext->host = e.host;
	ext->coded = e.coded;
	ext->unit_off = cluster;
	ext->unit_len = q->cluster;
	ext->len = MIN(ext->len, q->cluster - in);
	return 0;
}

/* A guest's write there would hit a table: the entry is wrong, whatever else it looks like. */
static bool hits_table(const struct qcow2 *q, uint64_t host, uint64_t len)
{
	uint64_t end = host + len, l1_end = q->h.l1_off + round_up(q->h.l1_size * 8ULL, q->cluster);

	if (q->has_data)
		return false;
	return (host < l1_end && q->h.l1_off < end) ||
	       (host < q->rt_off + q->rt_entries * 8 && q->rt_off < end);
}

/*
 * The usual case by itself: plain data, owned or not, that goes on for as long as was asked.  Whatever
 * is in the least unusual is left to the long way.  True: answered.
 */
static bool map_data(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		     struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	const uint64_t unusual = QCOW2_L2_RESERVED | QCOW2_CODED | QCOW2_ZERO | q->cluster_mask;
	uint64_t in = off & q->cluster_mask, bmask = img->meta->bsize - 1, at, l1, entry, host, n;
	unsigned index, left;
	struct mblk *b;

	if (q->extl2 || q->has_data || off >> q->l1_shift >= q->l1_size)
		return false;
	at = q->l1_off + (off >> q->l1_shift) * 8;
	b = meta_peek(img->meta, at);
	if (!b)
		return false;
	b->ref = true;
	l1 = get_be64(b->data + (at & bmask));
	if ((l1 & ~QCOW2_COPIED) - q->cluster >= q->host_limit - q->cluster || l1 & q->cluster_mask)
		return false;
	index = (off >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
	at = (l1 & QCOW2_OFF_MASK) + index * 8ULL;
	b = meta_peek(img->meta, at);
	if (!b)
		return false;
	b->ref = true;
	entry = get_be64(b->data + (at & bmask));
	host = entry & QCOW2_OFF_MASK;
	if (entry & unusual || !host || host >= q->host_limit)
		return false;
	n = (in + len + q->cluster_mask) >> q->cluster_bits;
	left = (1U << q->blk_bits) - (index & ((1U << q->blk_bits) - 1));
	if (n > left || (n > 1 && run_entries(q, b->data + (at & bmask), n, entry, true) < n))
		return false;
	if (flags & MAP_WRITE && hits_table(q, host, in + len))
		return false;
	ext->off = off;
	ext->len = len;
	ext->type = EXT_DATA;
	ext->flags = (l1 & entry) >> 63 ? EXT_WRITABLE : 0;
	ext->file = q->data;
	ext->host = host + in;
	return true;
}

int qcow2_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t in = off & q->cluster_mask, index, at;
	struct qcow2_l1ref l1;
	struct run r = { 0 };
	struct mblk *b;
	unsigned n;
	int ret;

	if (map_data(img, off, len, flags, ext))
		return 0;
	ret = qcow2_l1_get(img, off, &l1);
	if (ret)
		return ret;
	ext->off = off;
	ext->len = len;
	if (!l1.l2) {
		in = off & ((1ULL << q->l1_shift) - 1);
		r.type = EXT_HOLE;
		r.want = len;
		map_no_l2(q, &r, img->meta, &l1, in);
		if (!r.len)	/* COPIED without an offset */
			r.len = (1ULL << q->l1_shift) - in;
		map_further(img, &r, off);
		in = 0;
		goto out;
	}
	index = (off >> q->cluster_bits) & ((1U << q->l2_bits) - 1);
	at = l1.l2 + (index << q->entry_bits);
	b = meta_get(img->meta, at);
	if (!b)
		return -EAGAIN;
	at &= img->meta->bsize - 1;
	n = (1U << q->blk_bits) - (index & ((1U << q->blk_bits) - 1));
	if (q->extl2) {
		unsigned s = in >> q->sub_bits;

		in &= (1U << q->sub_bits) - 1;
		r.want = in + len;
		ret = map_block_sub(img, &r, b->data + at, n, s, off & ~q->cluster_mask,
				    l1.entry & QCOW2_COPIED);
	} else {
		r.want = in + len;
		ret = map_block(img, &r, b->data + at, n, off - in, l1.entry & QCOW2_COPIED);
	}
	if (ret)
		return ret;
	if (!r.len)
		return map_coded(img, b->data + at, off & ~q->cluster_mask, off & q->cluster_mask, ext);
	if (r.open && r.len < r.want)
		map_further(img, &r, off - in);
out:
	ext->len = MIN(r.len - in, len);
	ext->type = r.type;
	ext->flags = r.flags;
	ext->file = q->data;
	ext->host = r.host + in;
	if (flags & MAP_WRITE && r.type == EXT_DATA && r.flags & EXT_WRITABLE &&
	    hits_table(q, ext->host, ext->len))
		return image_corrupt(img, "the data of offset 0x%" PRIx64 " lies in a table, at 0x%" PRIx64,
				     off, ext->host);
	return 0;
}
