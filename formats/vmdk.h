/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk.h - the VMDK driver's parts as they see each other
 *
 * A VMDK is a descriptor (a text, in a file of its own or inside the first sparse extent) and a list
 * of extents that lie one after the other on the disk.  vmdk.c opens, dispatches by extent and
 * describes; vmdk-desc.c knows the text; each kind of extent is a const struct vmdk_kind:
 *	vmdk-sparse.c	hosted sparse ("KDMV") and ESX copy-on-write ("COWD"); writing: vmdk-write.c
 *	vmdk-flat.c	plain bytes, and none at all
 *	vmdk-stream.c	compressed ("streamOptimized"); writing: vmdk-stream-write.c; damaged ones: vmdk-salvage.c
 *	vmdk-sesparse.c	ESXi's later snapshots, for reading
 * vmdk-gate.c holds back the first write until the content id has changed.  vmdk-create.c,
 * vmdk-admin.c and vmdk-check.c are administrative.
 *
 * On disk all integers are little-endian, and offsets are in sectors of 512 bytes.  Sources: VMware
 * "Virtual Disk Format 5.0"; documentation of libvmdk; what products write.
 */
#ifndef VMDK_H
#define VMDK_H

#include "checked.h"
#include "endian.h"
#include "image.h"

#define VMDK_SECTOR 512ULL

/* --------------------------------------------------------------- on the disk */

#define VMDK_MAGIC		0x564d444bU	/* "KDMV" */
#define VMDK_MAGIC_UNFINISHED	0x6b646d76U	/* "vmdk": what some writers put there until they are done */
#define VMDK_COWD_MAGIC		0x44574f43U	/* "COWD" */
#define VMDK_SE_MAGIC		0x00000000cafebabeULL

/* hosted sparse header */
#define VH_VERSION		4
#define VH_FLAGS		8
#define VH_CAPACITY		12
#define VH_GRAIN		20
#define VH_DESC_OFF		28
#define VH_DESC_SIZE		36
#define VH_GTES			44
#define VH_RGD			48
#define VH_GD			56
#define VH_OVERHEAD		64
#define VH_UNCLEAN		72
#define VH_NEWLINES		73		/* 0a 20 0d 0a */
#define VH_COMPRESSION		77
#define VH_GD_AT_END		UINT64_MAX

#define VMDK_F_NEWLINES		(1U << 0)
#define VMDK_F_REDUNDANT	(1U << 1)
#define VMDK_F_ZEROED		(1U << 2)	/* a GT entry of 1: zeroes */
#define VMDK_F_COMPRESSED	(1U << 16)
#define VMDK_F_MARKERS		(1U << 17)
#define VMDK_F_MUST_KNOW	0xffff0000U

/* COWD header, of 4 sectors */
#define VC_VERSION		4
#define VC_FLAGS		8
#define VC_SECTORS		12
#define VC_GRAIN		16
#define VC_GD			20
#define VC_NGD			24
#define VC_FREE			28
#define VC_CYLINDERS		32		/* of a root; else the parent's name, 1024 bytes */
#define VC_GENERATION		1060
#define VC_SAVED_GENERATION	1636
#define VC_UNCLEAN		1648
#define VC_LEN			2048
#define VC_GTES			4096U

#define VMDK_GTE_ZERO		1U

#define VMDK_MAX_DESC		(4 * MiB)	/* bytes of descriptor */
#define VMDK_MAX_EXTENTS	16384
#define VMDK_MAX_GRAIN		65536ULL	/* sectors */
#define VMDK_MAX_GD		(8 * MiB)	/* entries */
#define VMDK_DESC_SECTORS	20		/* of an embedded descriptor that we make */
#define VMDK_MAX_FILE		((1ULL << 32) * VMDK_SECTOR)	/* sector numbers have 32 bits */

#define VMDK_CID_NONE		0xffffffffU	/* as parentCID: no parent */
#define VMDK_CID_NEVER		0xfffffffeU	/* of a disk that was never written */

/* The ranks of meta.h.  Both copies of a grain table have the same. */
enum {
	VMDK_RANK_FREE,			/* COWD: the next free sector, in the header */
	VMDK_RANK_GT,
	VMDK_RANK_GD,
};

/* ------------------------------------------------- descriptor (vmdk-desc.c) */

enum vmdk_access { VMDK_RW, VMDK_RDONLY, VMDK_NOACCESS };
enum vmdk_type {
	VMDK_FLAT, VMDK_SPARSE, VMDK_ZERO, VMDK_VMFS, VMDK_VMFSSPARSE, VMDK_VMFSRDM, VMDK_VMFSRAW,
	VMDK_SESPARSE,
};

/* An extent line. */
struct vmdk_line {
	enum vmdk_access access;
	enum vmdk_type type;
	uint64_t sectors;
	uint64_t offset;		/* in the file, sectors */
	char *file;			/* as UTF-8; NULL: none */
	unsigned number;		/* of the line in the text, from 1 */
};

struct vmdk_desc {
	char *text;			/* as it is on disk, without padding; ends with a NUL */
	size_t len;
	uint32_t cid, parent_cid;	/* parent_cid: VMDK_CID_NONE if there is no such line */
	bool has_cid;
	char *create_type;		/* "" if there is none */
	char *parent;			/* parentFileNameHint as UTF-8, or NULL */
	struct vmdk_line *line;
	unsigned nlines;
};

/* Whether the first @len bytes of a file look like a descriptor. */
bool vmdk_desc_probe(const uint8_t *head, size_t len);
/* Takes @text (malloc'd, a NUL after @len bytes) over, also on failure.  @name is for messages. */
int vmdk_desc_parse(struct vmdk_desc *d, char *text, size_t len, const char *name,
		    struct tapimg_err *err);
void vmdk_desc_free(struct vmdk_desc *d);
/* The value of a key, in any case, without quotes, as it is in the text: malloc'd; NULL: none. */
char *vmdk_desc_get(const struct vmdk_desc *d, const char *key);
/*
 * Sets a key (value NULL: removes its line), leaving all else as it is: in its place, or in a new line
 * after that of @after (NULL: at the end).  @quote: the value gets quotes.  d->text changes, the parsed members
 * do not.  -ENOMEM.
 */
int vmdk_desc_set(struct vmdk_desc *d, const char *key, const char *value, bool quote,
		  const char *after);
/*
 * @name (UTF-8) as it has to stand in the text, in the encoding of that: malloc'd.  -EILSEQ: it cannot be; @err then
 * says so, without the image's name.
 */
int vmdk_desc_name(const struct vmdk_desc *d, const char *name, char **out, struct tapimg_err *err);
/* The line that names the file of a change tracking becomes a comment of the same length. */
void vmdk_desc_end_tracking(struct vmdk_desc *d);
/* Sets the number of sectors in the extent line of that number. -ENOMEM, -EINVAL. */
int vmdk_desc_set_sectors(struct vmdk_desc *d, unsigned line, uint64_t sectors);
/* Puts a line (without its end) behind line @after; removes one.  -ENOMEM, -EINVAL. */
int vmdk_desc_add_extent(struct vmdk_desc *d, unsigned after, const char *line);
int vmdk_desc_remove(struct vmdk_desc *d, unsigned line);
/* The name of an access, of an extent type */
extern const char *const vmdk_access_names[], *const vmdk_type_names[];

/* ----------------------------------------------------------------- extents */

struct vmdk_extent;

/*
 * What a kind of extent can do.  Offsets are bytes inside the extent; so are ext->off and
 * ext->unit_off, which vmdk.c turns into those of the disk.  map, reserve, commit, abort, unmap and
 * release have the contracts of format.h; a kind without reserve cannot be written.
 */
struct vmdk_kind {
	const char *name;		/* as qemu calls the type: "SPARSE", "FLAT", ... */
	/*
	 * x->file is open, x->len is what the descriptor says, 0 if there is none: then the kind sets it.
	 * Sets x->grain (0: none), x->block, x->priv.  Reads with file_pread: the cache comes later.
	 */
	int (*open)(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err);
	void (*close)(struct tapimg *img, struct vmdk_extent *x);	/* frees priv, may be NULL */
	int (*map)(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		   unsigned flags, struct extent *ext);
	int (*reserve)(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		       unsigned flags, struct extent *ext);
	int (*commit)(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
	void (*abort)(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
	int (*unmap)(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		     unsigned flags, uint64_t *done);
	int (*release)(struct tapimg *img, struct vmdk_extent *x, uint64_t host, uint64_t len);
	int (*finish)(struct tapimg *img, struct vmdk_extent *x);	/* at close, if it was written */
	/* adds to @out and reports; repairs as @fix says */
	int (*check)(struct tapimg *img, struct vmdk_extent *x, unsigned fix, struct tapimg_check *out,
		     void (*report)(void *arg, char severity, const char *line), void *arg,
		     struct tapimg_err *err);
	/* where the byte of the file's header lies that says it is open for writing; 0: nowhere */
	uint32_t unclean_at;
	bool compressed;		/* for info */
	/* EXT_CODED: as struct format's; @off is inside the extent */
	int (*decode)(const struct tapimg *img, const struct vmdk_extent *x, uint64_t off,
		      const void *src, uint32_t src_len, void *dst, uint32_t dst_len);
	int (*encode)(const struct tapimg *img, const struct vmdk_extent *x, uint64_t off,
		      const void *src, uint32_t src_len, void *dst, uint32_t dst_max);
};

extern const struct vmdk_kind vmdk_sparse, vmdk_cowd, vmdk_flat, vmdk_zero;
/* in files of their own: vmdk-stream.c, vmdk-sesparse.c */
extern const struct vmdk_kind vmdk_stream, vmdk_sesparse;

struct vmdk_extent {
	const struct vmdk_kind *kind;
	uint64_t start, len;		/* on the disk, bytes */
	struct file *file;		/* NULL: none; may be img->file, or another extent's */
	uint64_t meta;			/* add the offset in the file: address for meta.h */
	void *priv;			/* the kind's */
	uint32_t grain;			/* bytes, power of two; 0: none */
	uint32_t block;			/* largest block that its metadata can be cached in; 0: any */
	enum vmdk_access access;
	bool writable;
	bool marked;			/* vmdk-gate.c: may be written now */
	uint64_t grow_to;		/* vmdk-resize.c: it has tables for so many bytes; 0: as the header says */
	bool dirty_found;		/* its header said that a writer did not close it */
	uint64_t offset;		/* FLAT: bytes */
	const struct vmdk_line *line;	/* NULL: there is no descriptor */
	char *path;			/* of its file, for messages */
};

struct vmdk_file {
	struct file *file;
	char *path;
	unsigned index;			/* meta.h */
	bool blocks;			/* metadata lives there too */
};

/* ------------------------------------------------------------- first writes */

struct vmdk_gate {
	struct tapimg *img;
	struct list waiters;
	struct io io;
	uint8_t *buf;			/* sectors on their way */
	struct vmdk_extent *x;		/* the extent that is being marked; NULL: idle */
	int step;
	bool cid_done;
};

/* -------------------------------------------------------------------- state */

struct vmdk {
	struct vmdk_extent *x;
	unsigned nx;
	bool uniform;			/* all but the last have the same length: */
	uint64_t each;
	struct vmdk_file *files;	/* those beside img->file, to be closed */
	unsigned nfiles;
	struct vmdk_desc desc;		/* text NULL: none */
	uint64_t desc_off, desc_max;	/* in img->file; room for it: 0: a file of its own */
	bool unfinished;		/* a target without its final name: nobody knows its content id yet */
	struct vmdk_gate gate;
};

static inline struct vmdk *vmdk_of(const struct tapimg *img)
{
	return img->fs;
}

/* the extent at that offset of the disk, which is inside the disk */
struct vmdk_extent *vmdk_extent_at(struct vmdk *v, uint64_t off);

/*
 * Names in descriptors are those of files: what only looks like a scheme ("a:b.vmdk") is a part of the name.  malloc'd,
 * NULL: no memory.
 */
char *vmdk_name(struct tapimg_loop *loop, const char *name);
char *vmdk_name_resolve(struct tapimg_loop *loop, const char *base, const char *name);
/* Reads the descriptor that lies in [off, off+len) of @f. */
int vmdk_desc_read(struct file *f, uint64_t off, uint64_t len, struct vmdk_desc *d,
		   const char *name, struct tapimg_err *err);
/*
 * Writes v->desc.text to where it came from, in one write, flushed, and parses it again.  -ENOSPC: it does not fit
 * into its place in the sparse extent.  After a failure v->desc is what it was on the disk before.
 */
int vmdk_desc_write(struct tapimg *img, struct tapimg_err *err);
/* v->desc.text was changed: parses it again, in memory only. */
int vmdk_desc_again(struct tapimg *img, struct tapimg_err *err);
/* Only the first @n extent lines stay; the text in memory. */
int vmdk_desc_truncate(struct tapimg *img, unsigned n);
/* Opens the extent of the last line as one more; the cache is empty. */
int vmdk_extent_append(struct tapimg *img, struct tapimg_err *err);
/* After lengths have changed: what is derived from them. */
void vmdk_geometry_changed(struct tapimg *img);
/* A new random content id, neither @old nor one of the special ones. */
uint32_t vmdk_new_cid(uint32_t old);

/* --------------------------------------------------------- gate (vmdk-gate.c) */

/*
 * Called by hot operations before anything of @x is written.  0, -EAGAIN (it is being prepared: the
 * content id is changed, and @x marked as open, durably), or what went wrong.
 */
int vmdk_gate_start(struct tapimg *img, struct vmdk_extent *x);
static inline int vmdk_gate(struct tapimg *img, struct vmdk_extent *x)
{
	return x->marked ? 0 : vmdk_gate_start(img, x);
}
/*
 * Blocking: the content id changes now.  For what changes the descriptor's text in memory and writes to the disk
 * before the text goes out: the gate would write it too early.
 */
int vmdk_gate_cid(struct tapimg *img, struct tapimg_err *err);
void vmdk_gate_init(struct tapimg *img);
/* Everything is durable: takes the marks away. */
int vmdk_gate_close(struct tapimg *img);

/* ------------------------------------------- sparse extents, both sorts of them */

struct vmdk_run {
	uint64_t host, len;
};

/* x->priv of sparse and COWD extents */
struct vmdk_sparse {
	uint8_t grain_bits;		/* log2 of bytes */
	uint8_t gt_bits;		/* log2 of entries of a table */
	bool zeroed;			/* an entry of 1 means zeroes */
	bool cowd;
	uint32_t ngd;
	uint32_t *gd, *rgd;		/* sectors of the tables; rgd NULL: no second copy */
	uint64_t gd_off, rgd_off;	/* bytes in the file */
	uint64_t data_min;		/* grains lie behind the metadata in front */
	uint64_t end;			/* nothing lies behind: the next grain goes there */
	uint64_t clean;			/* bytes from here on were never used: they read as zeroes */
	uint64_t tables_at, tables_end;	/* a chunk that new tables come out of */
	struct vmdk_run *free;		/* grains that were given back since the image was opened */
	unsigned nfree;
	uint64_t capacity;		/* sectors, as the header says */
	uint64_t overhead;		/* bytes */
};

static inline struct vmdk_sparse *vmdk_sparse_of(const struct vmdk_extent *x)
{
	return x->priv;
}

/* bytes of the disk that a grain table covers */
static inline uint64_t vmdk_span(const struct vmdk_sparse *s)
{
	return 1ULL << (s->grain_bits + s->gt_bits);
}

int vmdk_sparse_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		    unsigned flags, struct extent *ext);
/* NULL: a sound entry for a grain (0 and zeroes are); else what is wrong with it */
const char *vmdk_gte_check(const struct vmdk_sparse *s, uint32_t gte);
/* (Re)reads header and directories.  For open, and after administrative changes. */
int vmdk_sparse_load(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err);
void vmdk_sparse_close(struct tapimg *img, struct vmdk_extent *x);

/* vmdk-write.c */
int vmdk_sparse_reserve(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
			unsigned flags, struct extent *ext);
int vmdk_sparse_commit(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
void vmdk_sparse_abort(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
int vmdk_sparse_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done);
int vmdk_sparse_release(struct tapimg *img, struct vmdk_extent *x, uint64_t host, uint64_t len);
/* the last grain becomes a whole one in the file, as other readers want it */
int vmdk_sparse_finish(struct tapimg *img, struct vmdk_extent *x);

/* vmdk-check.c */
int vmdk_sparse_check(struct tapimg *img, struct vmdk_extent *x, unsigned fix,
		      struct tapimg_check *out,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err);
int vmdk_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	       void (*report)(void *arg, char severity, const char *line), void *arg,
	       struct tapimg_err *err);

/* ------------------------------------------------------ administrative */

/* vmdk-create.c */
extern const struct tapimg_opt_desc vmdk_opts[];
int vmdk_create(const struct create *c, struct tapimg_err *err);
int vmdk_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		 struct tapimg_err *err);

/* Makes the file of another extent like @like, called @name, of @len bytes. */
int vmdk_extent_make(struct tapimg *img, const struct vmdk_extent *like, const char *name,
		     uint64_t len, struct tapimg_err *err);

/* vmdk-resize.c */
int vmdk_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		struct tapimg_err *err);

/* vmdk-admin.c */
int vmdk_set_backing(struct tapimg *img, const char *name, const char *format,
		     struct tapimg_err *err);
int vmdk_make_empty(struct tapimg *img, struct tapimg_err *err);
int vmdk_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
	       struct tapimg_err *err);
/* the image below was opened: is it the one that @img was made on? */
int vmdk_backing_check(struct tapimg *img, struct tapimg_err *err);
/* the image below was changed through @img: it is the right one all the same */
int vmdk_backing_changed(struct tapimg *img, struct tapimg_err *err);
int vmdk_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err);

#endif
