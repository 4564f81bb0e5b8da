/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-map.c - where the bytes of a disk are: L1, L2, and runs of entries that continue each other
 */
#include <inttypes.h>

#include "checked.h"
#include "qcow.h"

static uint64_t limit_of(const struct qcow *q)
{
	return q->end == UINT64_MAX ? q->limit : MAX(q->limit, q->end);
}

/* The header or the L1 table lies there. */
static bool hits_tables(const struct qcow *q, uint64_t off, uint64_t len)
{
	return off < QCOW_HEADER || (off < q->l1_off + q->l1_entries * 8 && q->l1_off < off + len);
}

const char *qcow_l2_bad(const struct tapimg *img, uint64_t off, bool writing)
{
	const struct qcow *q = qcow_of(img);

	if (!is_aligned(off, writing ? img->meta->bsize : 8))
		return "is not aligned";
	if (!checked_range(off, q->l2_bytes, limit_of(q)))
		return "lies beyond the end of the file";
	return hits_tables(q, off, q->l2_bytes) ? "lies in the header or the L1 table" : NULL;
}

const char *qcow_entry_bad(const struct qcow *q, uint64_t entry)
{
	uint64_t off = entry, len = q->cluster;

	if (entry & QCOW_CODED) {
		off = qcow_coded_off(q, entry);
		len = qcow_coded_len(q, entry);
		if (!len)
			return "has no length";
	}
	if (!checked_range(off, len, limit_of(q)))
		return "lies beyond the end of the file";
	return hits_tables(q, off, len) ? "lies in the header or the L1 table" : NULL;
}

static int entry_corrupt(struct tapimg *img, uint64_t guest, uint64_t entry, const char *bad)
{
	return image_corrupt(img, "the %s of offset 0x%" PRIx64 ", at 0x%" PRIx64 ", %s",
			     entry & QCOW_CODED ? "compressed cluster" : "cluster", guest,
			     entry & QCOW_CODED ? qcow_coded_off(qcow_of(img), entry) : entry, bad);
}

int qcow_l1_get(struct tapimg *img, uint64_t off, bool writing, struct qcow_l1ref *r)
{
	struct qcow *q = qcow_of(img);
	uint64_t i = off >> q->l1_shift;
	const char *bad;

	r->at = q->l1_off + i * 8;
	r->b = meta_get(img->meta, r->at);
	if (!r->b)
		return -EAGAIN;
	r->l2 = qcow_l1_load(q, r->b->data + (r->at & (img->meta->bsize - 1)));
	bad = r->l2 ? qcow_l2_bad(img, r->l2, writing) : NULL;
	if (bad)
		return image_corrupt(img, "L2 table %" PRIu64 " at 0x%" PRIx64 " %s", i, r->l2, bad);
	return 0;
}

/* ------------------------------------------------------------------------ runs */

/* What begins at a cluster and goes on in the same way: holes, or data that lies in one piece. */
struct run {
	bool data;
	uint64_t host, len, want;
	bool open;		/* its end has not been seen */
};

/* Lengthens the run by entries at @p; a bad or a compressed one ends it. */
static void run_entries(const struct qcow *q, struct run *r, const uint8_t *p, unsigned n)
{
	for (; n && r->len < r->want; n--, p += 8) {
		uint64_t entry = get_be64(p);

		if (r->data ? entry != r->host + r->len || qcow_entry_bad(q, entry) : entry != 0) {
			r->open = false;
			return;
		}
		r->len += q->cluster;
	}
}

static unsigned entries_left(const struct tapimg *img, uint64_t at)
{
	return (img->meta->bsize - (at & (img->meta->bsize - 1))) / 8;
}

static uint64_t l2_at(const struct qcow *q, uint64_t l2, uint64_t guest)
{
	return l2 + ((guest >> q->cluster_bits) & ((1ULL << q->l2_bits) - 1)) * 8;
}

/* Goes on while what is needed is in memory. */
static void run_further(struct tapimg *img, struct run *r, uint64_t start)
{
	struct qcow *q = qcow_of(img);
	uint32_t mask = img->meta->bsize - 1;

	while (r->open && r->len < r->want && start + r->len < img->size) {
		uint64_t guest = start + r->len, at = q->l1_off + (guest >> q->l1_shift) * 8, l2;
		struct mblk *b = meta_peek(img->meta, at);

		if (!b)
			return;
		l2 = qcow_l1_load(q, b->data + (at & mask));
		if (!l2) {
			if (r->data)
				return;
			r->len = ((guest >> q->l1_shift) + 1) << q->l1_shift;
			r->len -= start;
			continue;
		}
		if (qcow_l2_bad(img, l2, false))
			return;
		at = l2_at(q, l2, guest);
		b = meta_peek(img->meta, at);
		if (!b)
			return;
		run_entries(q, r, b->data + (at & mask), entries_left(img, at));
	}
}

static int map_coded(struct tapimg *img, uint64_t entry, uint64_t guest, uint64_t in,
		     struct extent *ext)
{
	struct qcow *q = qcow_of(img);

	ext->type = EXT_CODED;
	ext->flags = 0;
	ext->host = qcow_coded_off(q, entry);
	ext->coded = qcow_coded_len(q, entry);
	ext->unit_off = guest;
	ext->unit_len = q->cluster;
	ext->len = MIN(ext->len, q->cluster - in);
	return 0;
}

int qcow_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct qcow *q = qcow_of(img);
	uint64_t in = off & (q->cluster - 1), start = off - in, entry = 0, at = 0;
	struct run r = { .want = in + len, .open = true };
	struct qcow_l1ref l1;
	struct mblk *b = NULL;
	const char *bad;
	int ret;

	if (q->encrypted && !img->crypt && !(flags & MAP_STATUS))
		return -ENOKEY;
	ret = qcow_l1_get(img, off, flags & MAP_WRITE, &l1);
	if (ret)
		return ret;
	ext->off = off;
	ext->len = len;
	ext->file = img->file;
	if (l1.l2) {
		at = l2_at(q, l1.l2, off);
		b = meta_get(img->meta, at);
		if (!b)
			return -EAGAIN;
		entry = get_be64(b->data + (at & (img->meta->bsize - 1)));
		bad = entry ? qcow_entry_bad(q, entry) : NULL;
		if (bad)
			return entry_corrupt(img, start, entry, bad);
		if (entry & QCOW_CODED)
			return map_coded(img, entry, start, in, ext);
		r.data = entry;
		r.host = entry;
		run_entries(q, &r, b->data + (at & (img->meta->bsize - 1)), entries_left(img, at));
	} else {
		r.len = (((off >> q->l1_shift) + 1) << q->l1_shift) - start;
	}
	if (r.open && r.len < r.want)
		run_further(img, &r, start);
	ext->len = MIN(r.len - in, len);
	ext->type = r.data ? EXT_DATA : EXT_HOLE;
	ext->flags = r.data ? EXT_WRITABLE : 0;
	ext->host = r.host + in;
	return 0;
}
