/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-adm.h - what the administrative half of the qcow2 driver shares
 *
 * Administrative operations find the image idle and its metadata cache settled.  They work on the
 * file itself: a struct q2 is the image as the file says it is, read afresh by q2_begin(); q2_end()
 * makes the driver's in-memory state follow what was changed.  The order of writes is explicit:
 * what must not be overtaken is followed by q2_flush().
 *
 * The rules, cited by number in the code and in tests:
 *   A1  counts go up, durably, before anything refers to what is counted;
 *   A2  what referred to a cluster is gone, durably, before its count goes down;
 *   A3  a change of state is one write inside one 512-byte sector of the header (or of a table whose
 *       entries are each right before and after), made after everything it refers to is durable;
 *   A4  COPIED is cleared before a second reference can exist, and set only when the last but one
 *       is durably gone.
 */
#ifndef QCOW2_ADM_H
#define QCOW2_ADM_H

#include "checked.h"
#include "endian.h"
#include "image.h"
#include "qcow2-count.h"
#include "qcow2.h"

#define Q2_COUNT_MEMORY (2 * GiB)	/* bound on counters, for hostile files */

struct q2 {
	struct tapimg *img;
	struct file *f;
	struct tapimg_err *err;
	uint8_t *head;			/* the first cluster */
	unsigned bits;			/* cluster_bits */
	uint64_t csize;
	unsigned version;
	unsigned order;			/* refcounts of 2^order bits */
	unsigned rb_bits;		/* a refcount block has 2^rb_bits entries */
	unsigned l2_bits;		/* an L2 table has 2^l2_bits entries */
	bool ext_l2, data_file;
	uint64_t incompat, compat, autoclear;
	uint64_t size;
	uint64_t l1_off, rt_off, snap_off;
	uint32_t l1_size, nsnap;
	uint32_t rt_size;		/* entries */
	uint64_t *rt;			/* refcount table, host order; offsets only, reserved bits kept */
	uint64_t end;			/* length of the file in bytes */
	uint64_t wseq;			/* writes to the file before this operation */
	uint64_t hint;			/* no free cluster below this one */
};

/* ---- qcow2-bulk.c: state, big I/O, counts ---- */
int q2_begin(struct q2 *q, struct tapimg *img, struct tapimg_err *err);
/*
 * Frees; if @changed the driver's state is read again, whatever @ret.  If that fails after something
 * was written, nobody may write through the old state: image_fail().  Returns @ret or that failure.
 */
int q2_end(struct q2 *q, int ret, bool changed);
int q2_load_rt(struct q2 *q);		/* checks every entry; -EUCLEAN names the first bad one */
int q2_parse(struct q2 *q);		/* fields from head */

int q2_read(struct q2 *q, void *buf, uint64_t len, uint64_t off, const char *what);
int q2_write(struct q2 *q, const void *buf, uint64_t len, uint64_t off, const char *what);
int q2_flush(struct q2 *q);
/* Writes head[off..off+len), which lies in one sector, and flushes before and after (A3). */
int q2_switch(struct q2 *q, unsigned off, unsigned len);
int q2_set_feature(struct q2 *q, unsigned field, uint64_t clear, uint64_t set);	/* and q2_switch */

/* an aligned range of whole clusters that may hold metadata */
bool q2_table_ok(const struct q2 *q, uint64_t off, uint64_t bytes);
/* The same, and the file reaches that far: what is read there is not zeroes from beyond its end. */
bool q2_table_there(const struct q2 *q, uint64_t off, uint64_t bytes);

uint64_t q2_ref_max(unsigned order);
int q2_refcount(struct q2 *q, uint64_t cluster, uint64_t *value);

/* @n adjacent clusters with count 1, not flushed. */
int q2_alloc(struct q2 *q, uint64_t n, uint64_t *off);
/* The same at the end of what is used, for many clusters; grows the refcount structures. */
int q2_append(struct q2 *q, uint64_t n, uint64_t *off);
/* Would q2_apply() with these be possible?  @up: raise.  -EUCLEAN, -E2BIG with text. */
int q2_verify(struct q2 *q, struct counts *d, bool up);
int q2_apply(struct q2 *q, struct counts *d, bool up);
/* Sets to 1 in @single each cluster whose count will be 1 once @d has been taken off. */
int q2_singles(struct q2 *q, struct counts *d, struct counts *single);
int q2_free(struct q2 *q, uint64_t off, uint64_t bytes);
int q2_used_end(struct q2 *q, uint64_t *end);	/* one past the last cluster with a count */

/*
 * Streams: reads what next() names, several reads in flight, and hands each to work() in order.
 * work() returns 0, 1 to have the buffer written back, or a negative errno.
 */
struct q2_item {
	uint64_t off;
	uint64_t len;			/* at most the stream's maximum */
	uint64_t tag;
};
struct q2_stream {
	bool (*next)(struct q2_stream *s, struct q2_item *item);	/* false: no more */
	int (*work)(struct q2_stream *s, const struct q2_item *item, uint8_t *buf);
	void *arg;
	bool skip_holes;		/* items that lie in holes of the file are passed over */
	uint64_t hole_off, hole_end;	/* last answer of the file, and ... */
	bool hole;			/* ... whether it was a hole */
};
int q2_stream_run(struct q2 *q, struct q2_stream *s);

/* ---- qcow2-walk.c: L1 and L2 tables ---- */
struct q2_l1 {
	uint64_t off;
	uint32_t size;
	uint64_t weight;		/* snapshots sharing it */
};

/* the host bytes of a compressed cluster */
void q2_coded_range(const struct q2 *q, uint64_t entry, uint64_t *off, uint64_t *len);
int q2_read_l1(struct q2 *q, uint64_t off, uint64_t n, uint64_t **l1);	/* host order; malloc'd */
int q2_write_l1(struct q2 *q, uint64_t off, const uint64_t *l1, uint64_t n, uint64_t padded);
/* Counts references from an L1 to its L2 tables into @l2s; a bad entry is -EUCLEAN. */
int q2_count_l1(struct q2 *q, const uint64_t *l1, uint64_t n, struct counts *l2s);
/*
 * Adds to @refs what the L2 tables counted in @l2s, as often as they are counted there, and the
 * tables themselves.  Anything that is not as it should be is -EUCLEAN: the image needs a check.
 */
int q2_count_tree(struct q2 *q, struct counts *l2s, struct counts *refs);
/* Both at once for one L1 on disk. */
int q2_count_l1_tree(struct q2 *q, const uint64_t *l1, uint64_t n, struct counts *refs);
/*
 * Rewrites COPIED in the L2 tables of an L1 and in @l1 itself (in memory).  @single: counters; an
 * entry whose cluster has exactly 1 there gets the bit, if @set; all others lose it, if @clear.
 */
int q2_copied(struct q2 *q, uint64_t *l1, uint64_t n, struct counts *single, bool set, bool clear);
/* ---- qcow2-snaptab.c: the snapshot table ---- */
struct q2_snap {
	uint64_t l1_off;
	uint32_t l1_size;
	char *id, *name;
	uint32_t sec, nsec;
	uint64_t clock;			/* guest run time, ns */
	uint64_t vm_state;		/* bytes */
	uint64_t disk_size;		/* valid if known (extra data of 16 bytes or more) */
	bool size_known;
	int64_t icount;			/* -1: none */
	uint8_t *extra;			/* extra data as stored, cut to 1024 bytes */
	uint32_t nextra;
	uint32_t stored_extra;		/* what the table says: more than 1024 is damage */
};
struct q2_snaps {
	struct q2_snap *s;
	uint32_t n;
	uint64_t bytes;			/* length of the table */
	bool full;			/* write sizes whatever the version of the image is */
};
/* @lax: extra data that is too long is cut rather than refused. */
int q2_snaps_load(struct q2 *q, struct q2_snaps *t, bool lax);
void q2_snap_clear(struct q2_snap *s);
void q2_snaps_free(struct q2_snaps *t);
/* Whether its L1 table, if it has one, is of a size and at a place where it can be read. */
bool q2_snap_l1_there(const struct q2 *q, const struct q2_snap *s);
struct q2_snap *q2_snaps_find(struct q2_snaps *t, const char *id);	/* by id, then by name */
/*
 * Writes the table to new clusters and switches the header to it; the old one is freed.  Whatever
 * else must be durable before has been written.  Rewrites extra data to what fields say.
 */
int q2_snaps_store(struct q2 *q, struct q2_snaps *t);

/* ---- qcow2-bitdir.c: the directory of bitmaps ---- */
#define BITMAP_IN_USE	1u
#define BITMAP_AUTO	2u
#define BITMAP_EXTRA_OK	4u
#define BITMAP_TABLE_MAX (1u << 27)
#define BITMAP_BYTES_MAX (512 * MiB)
#define BITMAPS_MAX 65535u
#define BITMAP_DIR_MAX (BITMAPS_MAX * 1024ULL)

struct q2_bm {
	uint64_t table_off;
	uint32_t table_size;		/* entries */
	uint32_t flags;
	uint8_t type, gran_bits;
	uint32_t nextra;
	uint8_t *extra;
	char *name;
	uint64_t entry_off;		/* of the directory entry, in the file */
};
struct q2_bdir {
	struct q2_bm *b;
	uint32_t n;
	uint64_t off, bytes;
	bool valid;			/* the autoclear bit is set: bitmaps follow the data */
};
/* The data of a header extension within head, or NULL. */
uint8_t *q2_ext(struct q2 *q, uint32_t type, uint32_t *len);
/* No extension: 0 and n == 0. */
int q2_bdir_load(struct q2 *q, struct q2_bdir *d);
void q2_bm_clear(struct q2_bm *b);
void q2_bdir_free(struct q2_bdir *d);
/* bytes of bitmap data that cover @size */
uint64_t q2_bm_bytes(uint64_t size, unsigned gran_bits);
/* Directory as bytes, malloc'd. */
int q2_bdir_build(struct q2 *q, const struct q2_bdir *d, uint8_t **buf, uint64_t *bytes);

/* ---- qcow2-switch.c: the whole header, atomically ---- */
int q2_header_get(struct q2 *q, struct qcow2_header *h);	/* from q->head; qcow2_header_free() it */
/* Makes @h the header on disk: a power cut leaves the old or the new one.  Flushes before and after. */
int q2_header_put(struct q2 *q, struct qcow2_header *h);

/* ---- qcow2-bitmap.c ---- */
/*
 * Makes room in the directory for a disk of @size: new tables and a new directory, which nothing
 * refers to before the caller's q2_header_put() of @h, whose extension is changed here.
 * qcow2_bitmaps_resized() frees the old ones afterwards.  -EBUSY: one is inconsistent.
 */
int qcow2_bitmaps_resize(struct q2 *q, struct qcow2_header *h, uint64_t size);
int qcow2_bitmaps_resized(struct q2 *q, int ret);

/* next item of a stream over the L2 tables counted in s->... */
struct q2_l2_walk {
	struct q2 *q;
	struct counts *l2s;
	uint64_t next;			/* cluster to look at */
};
bool q2_l2_next(struct q2_l2_walk *w, struct q2_item *item);

#endif
