/* SPDX-License-Identifier: BSD-2-Clause */
/* qcow2-check.h - what finding damage (qcow2-check*.c) and mending it (qcow2-repair.c) share */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "qcow2-adm.h"

/* a stretch of metadata, so that findings can name what a cluster holds */
struct area {
	uint64_t first, n;		/* clusters */
	const char *what;
};

struct check {
	struct q2 q;
	struct tapimg_check *out;
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	unsigned lines;			/* reported so far */

	struct counts refs;		/* references to each host cluster */
	struct counts meta;		/* of them, from the header: tables, L1s, bitmaps */
	struct counts l2;		/* of them, from L1 entries */
	struct counts l2_own;		/* ... of the active L1, where snapshots exist */
	struct counts *l2a;		/* that, or l2 */
	struct counts blocks;		/* refcount blocks named by the table */
	struct q2_snaps snaps;
	uint64_t *l1;			/* the active one, host order; NULL: cannot be read */
	struct l1_place {
		uint64_t cluster;
		uint32_t i;
	} *places;			/* its entries, sorted by L2 table; made when first wanted */
	uint32_t nplaces;
	struct area *areas;
	unsigned nareas, cap_areas;

	bool snaps_cut;			/* the snapshot table has extra data too long or too short */
	bool rt_broken;			/* refcount structures are to be rebuilt */
	bool raise, lower;		/* some counts are too low, too high */
	bool entries;			/* some L1 or L2 entry is to be mended */
	bool doubt;			/* COPIED has to be looked at entry by entry */
	bool copied;			/* some COPIED bit is wrong */
	bool copied_mended;		/* and some has been put right */
	bool overlap;			/* metadata that something else claims as well */
	bool incomplete;		/* something could not be followed: no count may be lowered */
	uint64_t last_used;		/* one past the last cluster with a count or a reference */
};

/* What is wrong with an entry, and what repair makes of it. */
struct verdict {
	const char *what;		/* NULL: nothing */
	bool counts;			/* the entry, once mended, refers to its clusters */
	bool copy;			/* its bytes have to be moved to a cluster of their own */
	bool hopeless;			/* repair leaves it alone */
	bool lost;			/* what it referred to does not exist: mending makes that zeroes */
	uint64_t entry, bitmap;		/* as mended (copy: with the old offset) */
};
/* @guest: of the cluster, or UINT64_MAX if not known (only images with data files need it) */
void check_judge(const struct q2 *q, uint64_t e, uint64_t bm, uint64_t guest, struct verdict *v);

void check_say(struct check *c, char severity, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Guest offset of entry @i of the L2 table at @l2_off, or UINT64_MAX. */
uint64_t check_guest(struct check *c, uint64_t l2_off, unsigned i);
/* The whole examination; findings in c->out and the flags above. */
int check_scan(struct check *c, struct tapimg *img, struct tapimg_err *err);
void check_free(struct check *c);

/* qcow2-check-refs.c */
int check_refcounts(struct check *c);	/* structures, then counts */
/* Streams over the refcount blocks, making counts right that are too low (or too high). */
int check_set_counts(struct check *c, bool raise);

/* qcow2-repair.c */
int check_repair(struct check *c, unsigned fix);
/*
 * Builds refcount table and blocks for @refs, of width 1 << order, at the end of the file, and
 * switches the header to them, its other sector-0 fields as they stand in q->head.  What holds the
 * old ones is free then: @refs must not count it.
 */
int q2_rebuild(struct q2 *q, struct counts *refs, unsigned order);

#endif
