/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow.h - QCOW version 1: the layout, and what its driver's files share
 *
 * All integers are big-endian.
 *
 *	header 48 bytes | Xen's extended header, 16 bytes, in its images | name of the backing file
 *	L1 table, 8 bytes for each 2^(cluster bits + L2 bits) bytes of the disk
 *	L2 tables, 2^L2 bits entries of 8 bytes; clusters
 *
 * An entry is a byte offset, 0: nothing is here, what lies below is read.  In L2 tables bit 63 marks a
 * compressed cluster: its length stands in the cluster-bits bits below, its offset in the others.
 * Nothing counts references, so free space is not known: it is what nothing refers to.
 *
 * Xen's extension (magic "XEN" 0xfb, L1 at a multiple of 4096) is believed only while a checksum of
 * the L1 table is right, which is written at close: so it lapses when QEMU has allocated something.
 * "Minimum allocation" of as many clusters as an L2 table has entries then says that the clusters lie
 * behind their table, in order, and Xen's driver reads them there without looking into the table.
 *
 * Sources: docs/interop and block/qcow.c of QEMU 7.2 for facts of the format, block-qcow.c of
 * Xen 4.12's blktap2 for those of the extension.
 */
#ifndef QCOW_H
#define QCOW_H

#include "endian.h"
#include "image.h"

#define QCOW_MAGIC 0x514649fbU
#define QCOW_HEADER 48
#define QCOW_XEN_MAGIC 0x58454efbU
#define QCOW_XEN_HEADER 16
#define QCOW_XEN_ALIGN 4096		/* of the L1 table in Xen's images */
#define QCOW_NAME_MAX 1023		/* of the backing file, as QEMU reads it */
#define QCOW_L1_MAX ((uint64_t)INT32_MAX)	/* bytes */
#define QCOW_CODED (1ULL << 63)

enum {	/* offsets in the header */
	QH1_MAGIC = 0, QH1_VERSION = 4, QH1_BACKING_OFF = 8, QH1_BACKING_LEN = 16, QH1_MTIME = 20,
	QH1_SIZE = 24, QH1_CLUSTER_BITS = 32, QH1_L2_BITS = 33, QH1_CRYPT = 36, QH1_L1_OFF = 40,
	QH1_XEN_MAGIC = 48, QH1_XEN_SUM = 52, QH1_XEN_ALLOC = 56, QH1_XEN_FLAGS = 60,
	QH1_SECTOR = 512,	/* all of it is inside this, and is changed by writes of it */
};
enum { QCOW_XEN_SPARSE = 1, QCOW_XEN_L1_BE = 2 };

enum { QCOW_RANK_L2 = 1, QCOW_RANK_L1 = 2 };

/* Free ranges of the file, known only while the image is open: ascending, never touching. */
struct qcow_range {
	uint64_t off, len;
};
struct qcow_space {
	struct qcow_range *v;
	unsigned n, room;
};

struct qcow {
	uint64_t size;			/* as in the header */
	uint64_t l1_off, l1_entries;
	uint64_t backing_off;
	uint32_t backing_len;
	uint32_t cluster, l2_bytes;
	uint32_t mtime;
	uint8_t cluster_bits, l2_bits;
	uint8_t l1_shift;		/* bytes of the disk for each L1 entry, log2 */
	bool encrypted;
	bool l1_le;			/* an old Xen image: the L1 table is in little-endian order */
	bool xen;			/* has the extended header, */
	bool xen_valid;			/* and its checksum was right, or is not known (read-only) */
	bool regions;			/* clusters lie behind their L2 table, in order */
	uint32_t xen_alloc, xen_flags, xen_sum;

	uint64_t limit;			/* entries refer to what is below this or s->end */
	uint64_t end;			/* space is taken from here on; UINT64_MAX: not known yet */
	uint64_t clean;			/* from here on the file has never been written */
	struct qcow_space space;
	bool l1_changed;
	uint64_t wseq;			/* the file's at open: nothing is written to a file that was not */
};

static inline struct qcow *qcow_of(const struct tapimg *img)
{
	return img->fs;
}

/* The number of L1 entries for a disk of that size. */
static inline uint64_t qcow_l1_count(uint64_t size, unsigned l1_shift)
{
	return (size >> l1_shift) + !is_aligned(size, 1ULL << l1_shift);
}

static inline uint32_t qcow_coded_len(const struct qcow *q, uint64_t entry)
{
	return (entry >> (63 - q->cluster_bits)) & (q->cluster - 1);
}

static inline uint64_t qcow_coded_off(const struct qcow *q, uint64_t entry)
{
	return entry & ((1ULL << (63 - q->cluster_bits)) - 1);
}

static inline uint64_t qcow_l1_load(const struct qcow *q, const uint8_t *p)
{
	return q->l1_le ? get_le64(p) : get_be64(p);
}

static inline void qcow_l1_store(const struct qcow *q, uint8_t *p, uint64_t entry)
{
	if (q->l1_le)
		put_le64(p, entry);
	else
		put_be64(p, entry);
}

/* What is wrong with an L2 table at @off (not 0), or NULL. @writing: it has to lie in whole blocks. */
const char *qcow_l2_bad(const struct tapimg *img, uint64_t off, bool writing);
/* What is wrong with an L2 entry (not 0), or NULL. */
const char *qcow_entry_bad(const struct qcow *q, uint64_t entry);

/* qcow.c */
int qcow_read_header(struct tapimg *img, struct tapimg_err *err);
/*
 * Writes the header's fields anew, in one sector, durably: size, L1, backing name, what Xen's
 * extension says.  The metadata cache is empty on return.
 */
int qcow_write_header(struct tapimg *img, struct tapimg_err *err);
/* MD5 of the big-endian L1 table as Xen's header holds it. */
int qcow_l1_sum(struct tapimg *img, uint32_t *sum, struct tapimg_err *err);
/* Where space is taken from now on, after administrative changes: @end, cut off behind it. */
int qcow_set_end(struct tapimg *img, uint64_t end, struct tapimg_err *err);

/* qcow-space.c */
void qcow_space_add(struct qcow_space *s, uint64_t off, uint64_t len);
/* takes up to @len bytes (at least @align, in multiples of it) beginning at a multiple of @align; 0: none */
uint64_t qcow_space_take(struct qcow_space *s, struct meta *m, uint64_t len, uint64_t align,
			 uint64_t *off);
void qcow_space_free(struct qcow_space *s);

/* qcow-map.c, qcow-write.c */
struct qcow_l1ref {
	struct mblk *b;
	uint64_t at;		/* file offset of the entry */
	uint64_t l2;		/* 0: none */
};
int qcow_l1_get(struct tapimg *img, uint64_t off, bool writing, struct qcow_l1ref *r);
int qcow_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext);
int qcow_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext);
int qcow_commit(struct tapimg *img, const struct extent *ext);
void qcow_abort(struct tapimg *img, const struct extent *ext);
int qcow_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done);
int qcow_release(struct tapimg *img, uint64_t host, uint64_t len);

/* qcow-create.c */
extern const struct tapimg_opt_desc qcow_opts[];
int qcow_create(const struct create *c, struct tapimg_err *err);
int qcow_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		 struct tapimg_err *err);
/* The format of a backing file cannot be stored: 0 if looking at the file will say @format again. */
int qcow_backing_format(struct tapimg_loop *loop, const char *referrer, const char *name,
			const char *format, struct tapimg_err *err);

/* qcow-prealloc.c */
/* @off, @len: become space that reads as zeroes, as far as @how demands more than that. */
int qcow_make_space(struct file *f, enum tapimg_prealloc how, uint64_t off, uint64_t len);
/* An L2 table at @at with all its clusters behind it.  Nothing is flushed. */
int qcow_make_region(struct file *f, uint64_t at, unsigned cluster_bits, unsigned l2_bits,
		     enum tapimg_prealloc how);
/*
 * Maps all clusters from @from (the size so far) to @size that are not mapped yet; the L1 table reaches
 * that far already.  Durable on return.  Nothing is in the metadata cache, before and after.
 */
int qcow_preallocate(struct tapimg *img, uint64_t from, uint64_t size, enum tapimg_prealloc how,
		     struct tapimg_err *err);

/* qcow-admin.c */
/* Space of @len bytes at the end of the file for something administrative, where a table can be. */
int qcow_append(struct tapimg *img, uint64_t len, uint64_t *off, struct tapimg_err *err);
int qcow_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		struct tapimg_err *err);
int qcow_set_backing(struct tapimg *img, const char *name, const char *format,
		     struct tapimg_err *err);
int qcow_make_empty(struct tapimg *img, struct tapimg_err *err);

/* qcow-check.c */
int qcow_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	       void (*report)(void *arg, char severity, const char *line), void *arg,
	       struct tapimg_err *err);
/*
 * For devices, which have no end of their own: that of the last thing that is referred to.  What is free
 * before goes into q->space.
 */
int qcow_find_end(struct tapimg *img, uint64_t *end, struct tapimg_err *err);

#endif
