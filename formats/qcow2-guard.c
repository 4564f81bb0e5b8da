/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-guard.c - where tables lie that the allocator must not hand out
 *
 * Where counts are right, free space and tables never meet.  An image whose counts are wrong has to
 * be repaired, and must not lose a table to the first write before that: so the places of the L1
 * table, of the L2 tables in use, of the snapshot table and of the snapshots' L1 tables are noted when
 * an image is opened for writing (and anew after each administrative change), and each run of clusters
 * is held against them before it is taken.  Tables that are made later are counted by us; a table
 * that is freed is no longer guarded.
 *
 * As much as that is known at little cost: what cannot be read is left out, and so are the L2 tables
 * of an L1 table of more than 1 MiB.  Left out: L2 tables of snapshots only, bitmaps.  The refcount table
 * and blocks are looked at in qcow2-alloc.c.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "qcow2-adm.h"

#define MOST_L1 MiB			/* bytes of an L1 table whose L2 tables are noted */
#define MOST_PLACES (256 * KiB)		/* clusters in all: 2 MiB of memory */

enum { IS_L1, IS_L2, IS_SNAPSHOTS, IS_SNAPSHOT_L1 };

static const char *const what_is[] = {
	[IS_L1] = "the L1 table", [IS_L2] = "an L2 table", [IS_SNAPSHOTS] = "the snapshot table",
	[IS_SNAPSHOT_L1] = "the L1 table of a snapshot",
};

/* one cluster: number << 3 | gone << 2 | what */
#define GONE 4U

static void note(struct qcow2 *q, uint64_t off, uint64_t bytes, unsigned what)
{
	uint64_t at = off >> q->cluster_bits, end;

	if (!bytes || !checked_range(off, bytes, q->host_limit))
		return;
	for (end = (off + bytes - 1) >> q->cluster_bits; at <= end && q->nguard < MOST_PLACES; at++) {
		if (!(q->nguard & (q->nguard - 1))) {
			uint64_t *p = realloc(q->guard, MAX(q->nguard * 2, 64) * sizeof(*p));

			if (!p)
				return;
			q->guard = p;
		}
		q->guard[q->nguard++] = at << 3 | what;
	}
}

static int by_place(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void note_l2(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t bytes = q->h.l1_size * 8ULL, off;
	uint8_t *l1;

	if (!bytes || bytes > MOST_L1)
		return;
	l1 = file_buf(bytes);
	if (l1 && !file_pread(img->file, l1, bytes, q->h.l1_off))
		for (uint64_t i = 0; i < bytes; i += 8)
			if (!qcow2_l1_check(q, get_be64(l1 + i), &off) && off)
				note(q, off, q->cluster, IS_L2);
	free(l1);
}

static void note_snapshots(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);
	struct tapimg_err err;
	struct q2_snaps t;
	struct q2 adm = {	/* the header has just been read */
		.img = img, .f = img->file, .err = &err, .end = img->file->size, .bits = q->cluster_bits,
		.csize = q->cluster, .version = q->h.version, .size = q->h.size,
		.snap_off = q->h.snap_off, .nsnap = q->h.nsnap,
	};

	if (!q->h.nsnap || q2_snaps_load(&adm, &t, true))
		return;
	note(q, q->h.snap_off, t.bytes, IS_SNAPSHOTS);
	for (uint32_t i = 0; i < t.n; i++)
		note(q, t.s[i].l1_off, t.s[i].l1_size * 8ULL, IS_SNAPSHOT_L1);
	q2_snaps_free(&t);
}

void qcow2_guard_load(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);

	qcow2_guard_free(img);
	if (!img->writable || img->flags & TAPIMG_CHECK)
		return;
	note(q, q->h.l1_off, q->h.l1_size * 8ULL, IS_L1);
	note_snapshots(img);
	note_l2(img);
	if (q->nguard)
		qsort(q->guard, q->nguard, sizeof(*q->guard), by_place);
}

void qcow2_guard_free(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);

	free(q->guard);
	q->guard = NULL;
	q->nguard = 0;
}

/* index of the first place at or behind @cluster */
static size_t first_from(const struct qcow2 *q, uint64_t cluster)
{
	size_t lo = 0, hi = q->nguard;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (q->guard[mid] >> 3 < cluster)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int qcow2_guard_check(struct tapimg *img, uint64_t first, uint64_t n)
{
	const struct qcow2 *q = qcow2_of(img);

	for (size_t i = first_from(q, first); i < q->nguard && q->guard[i] >> 3 < first + n; i++)
		if (!(q->guard[i] & GONE))
			return image_corrupt(img, "%s at 0x%" PRIx64 " has refcount 0",
					     what_is[q->guard[i] & 3],
					     q->guard[i] >> 3 << q->cluster_bits);
	return 0;
}

void qcow2_guard_drop(struct tapimg *img, uint64_t first, uint64_t n)
{
	struct qcow2 *q = qcow2_of(img);

	for (size_t i = first_from(q, first); i < q->nguard && q->guard[i] >> 3 < first + n; i++)
		q->guard[i] |= GONE;
}
