/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2.h - the qcow2 driver's parts as they see each other
 *
 * qcow2.c opens and describes, qcow2-header.c knows the header, qcow2-map.c looks up, qcow2-write.c
 * reserves and publishes, qcow2-alloc.c keeps refcounts, qcow2-create.c makes images, qcow2-codec.c
 * compresses.
 * qcow2-check*.c, qcow2-snap.c, qcow2-bitmap.c, qcow2-admin.c and qcow2-amend.c are administrative.
 *
 * Hot code goes through the metadata cache. Administrative code finds the image idle and the cache
 * settled, reads and writes the file itself (qcow2-adm.h), and calls qcow2_reload() when it is done.
 */
#ifndef QCOW2_H
#define QCOW2_H

#include "checked.h"
#include "endian.h"
#include "image.h"

/* --------------------------------------------------------------- on the disk */

#define QCOW2_MAGIC 0x514649fbU

/* offsets in the header */
#define QH_MAGIC		0
#define QH_VERSION		4
#define QH_BACKING_OFF		8
#define QH_BACKING_LEN		16
#define QH_CLUSTER_BITS		20
#define QH_SIZE			24
#define QH_CRYPT		32
#define QH_L1_SIZE		36
#define QH_L1_OFF		40
#define QH_RT_OFF		48
#define QH_RT_CLUSTERS		56
#define QH_NSNAP		60
#define QH_SNAP_OFF		64
#define QH_V2_LEN		72
#define QH_INCOMPAT		72
#define QH_COMPAT		80
#define QH_AUTOCLEAR		88
#define QH_REFCOUNT_ORDER	96
#define QH_HEADER_LEN		100
#define QH_COMPRESSION		104
#define QH_V3_MIN		104
#define QH_V3_LEN		112	/* what is written */

#define QCOW2_INCOMPAT_DIRTY	(1ULL << 0)
#define QCOW2_INCOMPAT_CORRUPT	(1ULL << 1)
#define QCOW2_INCOMPAT_DATA	(1ULL << 2)
#define QCOW2_INCOMPAT_COMP	(1ULL << 3)
#define QCOW2_INCOMPAT_EXTL2	(1ULL << 4)
#define QCOW2_INCOMPAT_KNOWN	0x1fULL
#define QCOW2_COMPAT_LAZY	(1ULL << 0)
#define QCOW2_AUTO_BITMAPS	(1ULL << 0)
#define QCOW2_AUTO_RAW		(1ULL << 1)
#define QCOW2_AUTO_KNOWN	3ULL

#define QCOW2_EXT_END		0x00000000U
#define QCOW2_EXT_BACKING_FMT	0xe2792acaU
#define QCOW2_EXT_FEATURES	0x6803f857U
#define QCOW2_EXT_BITMAPS	0x23852875U
#define QCOW2_EXT_CRYPT		0x0537be77U
#define QCOW2_EXT_DATA_FILE	0x44415441U

#define QCOW2_COPIED		(1ULL << 63)
#define QCOW2_CODED		(1ULL << 62)
#define QCOW2_ZERO		1ULL
#define QCOW2_L1_RESERVED	0x7f000000000001ffULL
#define QCOW2_L2_RESERVED	0x3f000000000001feULL	/* plain entries; bit 0 too in v2 and with subclusters */
#define QCOW2_OFF_MASK		0x00fffffffffffe00ULL	/* of L1 and plain L2 entries */
#define QCOW2_RT_RESERVED	0x1ffULL
#define QCOW2_HOST_MAX		(1ULL << 56)		/* host offsets are below */

#define QCOW2_SUBCLUSTERS	32
#define QCOW2_SUB_ALLOC		0x00000000ffffffffULL
#define QCOW2_SUB_ZERO		0xffffffff00000000ULL

#define QCOW2_MIN_BITS		9
#define QCOW2_MAX_BITS		21
#define QCOW2_MAX_L1		(32 * MiB)		/* bytes */
#define QCOW2_MAX_RT		(8 * MiB)
#define QCOW2_MAX_SNAPSHOTS	65536
#define QCOW2_MAX_SNAP_TABLE	(64 * MiB)
#define QCOW2_MAX_SNAP_EXTRA	1024
#define QCOW2_MAX_NAME		1023			/* of backing and data files */
#define QCOW2_MAX_FORMAT	15

/*
 * The ranks of meta.h: what is written before what.  The refcount table pointer in the header goes
 * before the L2 tables, because an L2 entry must not be on disk while the count of its cluster can be
 * found only through a table that the header does not name yet.
 */
enum {
	QCOW2_RANK_REFBLOCK,
	QCOW2_RANK_REFTABLE,
	QCOW2_RANK_HEADER,
	QCOW2_RANK_L2,
	QCOW2_RANK_L1,
};

/* ------------------------------------------------------------------- header */

struct qcow2_ext {
	uint32_t type, len;
	uint8_t *data;
};

/* The header and its extensions as parsed.  Everything is kept that a rewrite must give back. */
struct qcow2_header {
	unsigned version;		/* 2 or 3 */
	unsigned cluster_bits;
	uint64_t size;
	uint32_t crypt_method;
	uint32_t l1_size;
	uint64_t l1_off;
	uint64_t rt_off;
	uint32_t rt_clusters;
	uint32_t nsnap;
	uint64_t snap_off;
	uint64_t incompat, compat, autoclear;
	unsigned refcount_order;
	unsigned compression;		/* 0 deflate, 1 zstd */
	uint8_t *extra;			/* header bytes from QH_V3_LEN on, kept as they were */
	uint32_t nextra;
	char *backing;			/* NULL: none */
	struct qcow2_ext *ext;		/* all but the end marker, in order */
	unsigned next;
};

/*
 * Parses and checks a header.  @buf: the first @len bytes of the file: the first cluster, or what the
 * file has of it.  Everything that can be judged without reading more is judged here, but unknown
 * incompatible features and encryption are the caller's.  @lax: for check: damaged table
 * pointers are let pass.  On failure nothing needs to be freed.
 */
int qcow2_header_parse(struct qcow2_header *h, const uint8_t *buf, size_t len, bool lax,
		       const char *name, struct tapimg_err *err);
/* Writes it out; zeroes the rest of @buf.  @len: the cluster.  -ENOSPC: does not fit. */
int qcow2_header_build(const struct qcow2_header *h, uint8_t *buf, size_t len, const char *name,
		       struct tapimg_err *err);
void qcow2_header_free(struct qcow2_header *h);

/* An extension of that type, or NULL. */
struct qcow2_ext *qcow2_ext_find(const struct qcow2_header *h, uint32_t type);
/* Adds, replaces in place, or (data NULL) removes.  Copies @data.  -ENOMEM. */
int qcow2_ext_set(struct qcow2_header *h, uint32_t type, const void *data, uint32_t len);
/* The name of an incompatible feature from the table in the image, or NULL: malloc'd. */
char *qcow2_feature_name(const struct qcow2_header *h, unsigned set, unsigned bit);
/* Puts the usual feature name table in, unless the cluster is too small for it. */
int qcow2_features_add(struct qcow2_header *h);

/* Blocking: changes q->h and the disk alike, flushed. */
/* v3 only: the three feature fields in one write */
int qcow2_header_set_features(struct tapimg *img, uint64_t incompat, uint64_t compat,
			      uint64_t autoclear, struct tapimg_err *err);

/* -------------------------------------------------------------------- state */

struct qcow2_bitmaps;			/* qcow2-bitmap.c */

struct qcow2 {
	/* mapping: shifts and masks, computed at open from what follows */
	uint64_t l1_off;		/* of the L1 in use: the active one, or a snapshot's */
	uint32_t l1_size;		/* entries */
	uint32_t cluster;		/* bytes */
	uint8_t cluster_bits;
	uint8_t entry_bits;		/* log2 of the size of an L2 entry: 3 or 4 */
	uint8_t l2_bits;		/* log2 of entries per L2 table */
	uint8_t l1_shift;		/* cluster_bits + l2_bits */
	uint8_t blk_bits;		/* log2 of L2 entries per cached block */
	uint8_t sub_bits;		/* log2 of the copy-on-write unit: cluster, or subcluster */
	uint8_t coded_shift;		/* compressed entries: where the sector count begins */
	bool extl2, v3, has_data;
	bool raw_data;			/* external data file that must stay readable as raw */
	uint64_t cluster_mask;		/* cluster - 1 */
	uint64_t l2_reserved;		/* bits that must be 0 in a plain entry */
	uint64_t host_limit;		/* references at or above are corrupt; moved up by the allocator */
	struct file *data;		/* where guest clusters live: img->file, or the data file */

	/* refcounts */
	uint64_t rt_off;
	uint64_t rt_entries;		/* that the table has room for */
	uint8_t rc_order;		/* log2 of the width in bits */
	uint8_t rb_bits;		/* log2 of counts per refcount block */
	uint64_t rc_max;
	uint8_t mb_bits;		/* log2 of counts per cached block */
	uint64_t scan;			/* no free cluster below this number is known of */
	uint64_t paused, paused_min;	/* where a search for that many clusters goes on */
	uint64_t end;			/* nothing from this number on was handed out, or in the file at open */
	uint64_t clean;			/* host bytes from here on were never used: they read as zeroes */
	uint64_t rb_index, rb_off;	/* last refcount block looked up; rb_off 0: none */
	uint64_t *guard;		/* sorted: tables that no free space may cover (qcow2-guard.c) */
	size_t nguard;
	uint64_t coded_next;		/* where the next compressed cluster may begin; 0: in a new cluster */

	struct qcow2_header h;
	bool snapshot;			/* one is open: l1_* are not the header's */
	struct file *data_file;		/* the external one, if open: to be closed */
	char *data_name;		/* as stored, or NULL */
	struct qcow2_bitmaps *bitmaps;
};

static inline struct qcow2 *qcow2_of(const struct tapimg *img)
{
	return img->fs;
}

/* Shifts, masks and limits from q->h.  Pure. */
void qcow2_geometry(struct qcow2 *q);
/* L1 entries that a disk of @size needs */
uint64_t qcow2_l1_needed(const struct qcow2 *q, uint64_t size);
/* Rereads the header; cache dropped, allocator starts anew. Admin. */
int qcow2_reload(struct tapimg *img, struct tapimg_err *err);

/* ------------------------------------------------------- entries (qcow2-map.c) */

enum qcow2_kind { QCOW2_K_HOLE, QCOW2_K_ZERO, QCOW2_K_DATA, QCOW2_K_CODED };

struct qcow2_entry {
	enum qcow2_kind kind;		/* of the whole cluster; with subclusters see @sub */
	bool copied;
	bool kept;			/* ZERO or HOLE with a host cluster behind it */
	uint64_t host;			/* 0: none (but see data files) */
	uint32_t coded;			/* CODED: bytes up to the end of the last sector */
	uint64_t sub;			/* subcluster bitmap; 0 without extended L2 */
};

/*
 * The one check of L2 entries: alignment, reserved bits, range.  @guest: guest offset of the
 * cluster.  @bitmap: second word of an extended entry, else 0.  Returns NULL, or what is wrong.
 */
const char *qcow2_entry_check(const struct qcow2 *q, uint64_t entry, uint64_t bitmap,
			      uint64_t guest, struct qcow2_entry *e);
/* The same for L1 entries: *off 0: no table. */
const char *qcow2_l1_check(const struct qcow2 *q, uint64_t entry, uint64_t *off);
/* A compressed entry for bytes [host, host+len). */
uint64_t qcow2_coded_entry(const struct qcow2 *q, uint64_t host, uint32_t len);

int qcow2_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext);
int qcow2_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		  struct extent *ext);
int qcow2_commit(struct tapimg *img, const struct extent *ext);
void qcow2_abort(struct tapimg *img, const struct extent *ext);
int qcow2_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done);

/* ------------------------------------------------------ refcounts (qcow2-alloc.c) */

/* Counts in a packed array of width 1 << order. */
static inline uint64_t qcow2_rc_get(const uint8_t *p, uint64_t i, unsigned order)
{
	switch (order) {
	case 4:
		return get_be16(p + 2 * i);
	case 3:
		return p[i];
	case 5:
		return get_be32(p + 4 * i);
	case 6:
		return get_be64(p + 8 * i);
	default:
		return p[i >> (3 - order)] >> ((i & ((8U >> order) - 1)) << order) &
		       ((1U << (1U << order)) - 1);
	}
}

static inline void qcow2_rc_set(uint8_t *p, uint64_t i, unsigned order, uint64_t v)
{
	unsigned shift, mask;

	switch (order) {
	case 4:
		put_be16(p + 2 * i, v);
		return;
	case 3:
		p[i] = v;
		return;
	case 5:
		put_be32(p + 4 * i, v);
		return;
	case 6:
		put_be64(p + 8 * i, v);
		return;
	}
	shift = (i & ((8U >> order) - 1)) << order;
	mask = ((1U << (1U << order)) - 1) << shift;
	p += i >> (3 - order);
	*p = (*p & ~mask) | (unsigned)v << shift;
}

/*
 * Hot: space is taken in two steps.  The plan gathers, promises the room that the change needs and
 * @room blocks more to its caller, and changes nothing.  After it the caller gets its own
 * blocks again (making room may have dropped them), and if it has them all the plan is carried out,
 * which cannot fail.
 */
struct qcow2_plan {
	uint64_t first, n;		/* clusters that get count 1 */
	uint64_t new_block;		/* cluster number of a new refcount block; 0: none needed */
	uint64_t grow_at;		/* new refcount blocks and table from here on; 0: no growth */
	uint64_t grow_blocks, grow_clusters;	/* how many blocks; size of the table */
};

/* a run of at least @min and at most @max free clusters, all counted in one cached block */
int qcow2_plan(struct tapimg *img, uint64_t min, uint64_t max, unsigned room,
	       struct qcow2_plan *plan);
/* The host offset of the run. */
uint64_t qcow2_take(struct tapimg *img, const struct qcow2_plan *plan);
/* The cached block with a cluster's count, for looking; -EAGAIN, -EUCLEAN; *b NULL: no block, 0. */
int qcow2_count_block(struct tapimg *img, uint64_t cluster, struct mblk **b);
/* A cluster's count in that block. */
uint64_t qcow2_count(const struct tapimg *img, const struct mblk *b, uint64_t cluster);
void qcow2_count_set(struct tapimg *img, struct mblk *b, uint64_t cluster, uint64_t count);
int qcow2_release(struct tapimg *img, uint64_t host, uint64_t len);
/* Starts the allocator anew: everything may have changed. */
void qcow2_alloc_reset(struct tapimg *img);

/* -------------------------------------------------- tables guarded (qcow2-guard.c) */

void qcow2_guard_load(struct tapimg *img);	/* blocking; does what it can */
void qcow2_guard_free(struct tapimg *img);
/* Whether no known table lies in a run of clusters that is said to be free; else -EUCLEAN. */
int qcow2_guard_check(struct tapimg *img, uint64_t first, uint64_t n);
void qcow2_guard_drop(struct tapimg *img, uint64_t first, uint64_t n);	/* these have been freed */

/* ------------------------------------------------------ creating (qcow2-create.c) */

extern const struct tapimg_opt_desc qcow2_opts[];
int qcow2_create(const struct create *c, struct tapimg_err *err);
int qcow2_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		  struct tapimg_err *err);
/*
 * Allocates every cluster of [off, off+len) of an open image that has none yet; for create and
 * resize.  METADATA maps, FALLOC also reserves space on the host, FULL writes zeroes. Settles.
 */
int qcow2_preallocate(struct tapimg *img, uint64_t off, uint64_t len, enum tapimg_prealloc how,
		      struct tapimg_err *err);

/* -------------------------------------------------------- codec (qcow2-codec.c) */

int qcow2_decode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		 void *dst, uint32_t dst_len);
int qcow2_encode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		 void *dst, uint32_t dst_max);

/* --------------------------------------- administrative, each in its own file */

/* qcow2-check.c */
int qcow2_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
		void (*report)(void *arg, char severity, const char *line), void *arg,
		struct tapimg_err *err);
/* For open: makes all refcounts and COPIED bits right and clears the dirty bit. */
int qcow2_rebuild_refcounts(struct tapimg *img, struct tapimg_err *err);

/* qcow2-snap.c */
int qcow2_snap_create(struct tapimg *img, const char *name, struct tapimg_err *err);
int qcow2_snap_apply(struct tapimg *img, const char *id, struct tapimg_err *err);
int qcow2_snap_delete(struct tapimg *img, const char *id, struct tapimg_err *err);
/* For open: points l1_off, l1_size and img->size at a snapshot's. */
int qcow2_snap_open(struct tapimg *img, const char *id, struct tapimg_err *err);
int qcow2_snap_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err);

/* qcow2-bitmap.c: load at open (marks in use when writable), store at close */
int qcow2_bitmaps_load(struct tapimg *img, struct tapimg_err *err);
int qcow2_bitmaps_store(struct tapimg *img, struct tapimg_err *err);
void qcow2_bitmaps_free(struct tapimg *img);
int qcow2_bitmaps_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err);
void qcow2_bitmaps_dirtied(struct tapimg *img, uint64_t off, uint64_t len);
int qcow2_bitmap_add(struct tapimg *img, const char *name, uint64_t gran, bool disabled,
		     struct tapimg_err *err);
int qcow2_bitmap_remove(struct tapimg *img, const char *name, struct tapimg_err *err);
int qcow2_bitmap_clear(struct tapimg *img, const char *name, struct tapimg_err *err);
int qcow2_bitmap_enable(struct tapimg *img, const char *name, bool on, struct tapimg_err *err);
const char *qcow2_bitmap_name(struct tapimg *img, unsigned i);
int qcow2_bitmap_next(struct tapimg *img, const char *name, uint64_t *off, uint64_t *len,
		      struct tapimg_err *err);
int qcow2_bitmap_set(struct tapimg *img, const char *name, uint64_t off, uint64_t len,
		     struct tapimg_err *err);

/* qcow2-admin.c */
int qcow2_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		 struct tapimg_err *err);
int qcow2_set_backing(struct tapimg *img, const char *name, const char *format,
		      struct tapimg_err *err);
int qcow2_make_empty(struct tapimg *img, struct tapimg_err *err);

/* qcow2-amend.c */
int qcow2_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
		struct tapimg_err *err);

#endif
