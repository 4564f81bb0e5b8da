/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * format.h - what a format driver is: one const struct format at the end of its file
 *
 * Formats map, the engine moves data, meta.c orders metadata.  Hot operations work on cached blocks
 * only: they answer at once, or -EAGAIN after a meta_get that had nothing (see loop.h, Parking) and
 * before any change.  Administrative operations block, find the image idle and its metadata cache
 * settled, may do their own I/O with file_pread and so on, and explain failures.
 * Three operations make a read-only driver: probe, open, map.
 */
#ifndef FORMAT_H
#define FORMAT_H

#include "err.h"
#include "file.h"

enum ext_type {
	EXT_DATA,	/* stored plainly at file:host */
	EXT_ZERO,	/* reads as zeroes here */
	EXT_HOLE,	/* ask the layer below */
	EXT_CODED,	/* stored coded (compressed): @coded bytes at file:host hold the whole unit around off */
	EXT_NEW,	/* from reserve: a host range nobody else owns */
	EXT_LOST,	/* missing, and known to be: reads fail with -EIO */
};

enum {
	EXT_WRITABLE	= 1 << 0,	/* DATA: may be overwritten in place */
	EXT_CLEAN	= 1 << 1,	/* NEW: the host range already reads as zeroes */
	EXT_KEPT	= 1 << 2,	/* ZERO with space reserved behind it */
	EXT_EOF		= 1 << 3,	/* ZERO because the layer ends before here (chain_map) */
	EXT_NONE	= 1 << 4,	/* ZERO because no layer has anything there (chain_map) */
	EXT_WHOLE	= 1 << 5,	/* NEW: all of the range is zeroed in the file before it is committed */
};

/* The answer to "where are the bytes of [off, off+len)?" */
struct extent {
	uint64_t off, len;	/* guest range answered; off as asked (reserve: rounded out), len >= 1 */
	struct file *file;
	uint64_t host;		/* byte offset in file, of off (CODED: of the coded bytes) */
	uint32_t coded;		/* CODED: stored length */
	uint16_t type, flags;
	uint64_t unit_off;	/* CODED: guest offset where the decoded unit begins ... */
	uint32_t unit_len;	/* ... and its length */
	unsigned depth;		/* chain_map: which layer answered */
	uint64_t cookie;	/* the driver's own, handed back to commit and abort */
	/* RESERVE_CODED: bytes of the driver's that go before host in the same write; good until commit */
	const void *head;
	uint32_t head_len;
	struct tapimg *layer;	/* chain_map: the same, as pointer */
};

enum {
	MAP_WRITE	= 1 << 0,	/* only DATA|WRITABLE matters: do not look further than that */
	MAP_STATUS	= 1 << 1,	/* for block status: tell holes of raw files apart (may block briefly) */
	RESERVE_CODED	= 1 << 2,	/* ext->coded bytes are wanted for one coded unit */
	UNMAP_HOLE	= 1 << 3,	/* discard: the layer below may show through only where it reads the same */
	UNMAP_FREE	= 1 << 4,	/* the space is to be given back */
	UNMAP_EXPLICIT	= 1 << 5,	/* ZERO: said here, though what lies below now reads the same */
};

/* An answer of unmap besides 0 and -errno: these are plain bytes of a file, which does it itself. */
enum { UNMAP_PLAIN = 1 };

struct create {
	struct tapimg_loop *loop;
	struct file *file;		/* open for writing; a regular file is empty */
	const char *name;		/* the final name, for messages and for names stored inside */
	uint64_t size;
	const char *backing, *backing_format;	/* NULL: none */
	const struct tapimg_opt *opts;	/* names and syntax have been checked against the format's list */
	unsigned nopts;
	bool exclusive;			/* files made beside @file must not exist */
	/* @file is opened right after: what can only be appended to is left open-ended (format.streams) */
	bool unfinished;
	struct tapimg *backing_img;	/* open, or NULL */
	tapimg_secret *secret;		/* secret_ask() for the driver */
	void *secret_arg;
};
/* value of an option as given, or NULL */
const char *create_opt(const struct create *c, const char *name);
/* The secret of the new image, in @buf: its length or a negative errno, explained.  @id: may be NULL. */
int create_secret(const struct create *c, const char *format, const char *id, uint8_t *buf,
		  size_t size, struct tapimg_err *err);

struct format {
	const char *name;
	const char *alias;		/* another name, or NULL */
	const struct tapimg_opt_desc *opts;	/* ends with a NULL name */
	uint32_t state_size;		/* of img->fs, allocated zeroed before open */
	bool raw;			/* bytes are the guest's: never probed through a chain */
	bool streams;			/* can be written to a pipe (file->append): create says if with these options */

	/* --- administrative --- */
	/* 0: no; 100: certainly.  @head: the first @len bytes (up to 4096) */
	int (*probe)(const uint8_t *head, size_t len, uint64_t file_size, const char *name);
	/* The same for what only the end tells: @tail: the last 512 bytes.  Asked where no head bids. */
	int (*probe_tail)(const uint8_t *tail, uint64_t file_size);
	int (*create)(const struct create *c, struct tapimg_err *err);
	int (*measure)(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		       struct tapimg_err *err);
	/*
	 * Sets img->size, unit, cluster, backing_name, backing_fmt, meta, writable ...
	 * On failure leaves nothing behind but what close() frees: close is called for a failed open too.
	 */
	int (*open)(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err);
	/*
	 * Containers have this instead of open: the image is in a part of @file.  Sets *inner to that
	 * part, which owns @file then, and *format to its format.  On failure @file is still the caller's.
	 */
	int (*enter)(struct file *file, const struct tapimg_open_opts *o, struct file **inner,
		     const struct format **format, struct tapimg_err *err);
	/*
	 * Containers: compares what @file says of its parts with them; each that differs is reported ('E') and
	 * counted in *bad.
	 */
	int (*verify)(struct file *file, void (*report)(void *arg, char severity, const char *line), void *arg,
		      uint64_t *bad, struct tapimg_err *err);
	int (*close)(struct tapimg *img, struct tapimg_err *err);	/* frees; idle and settled unless failed */
	int (*info)(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err);
	int (*check)(struct tapimg *img, unsigned fix, struct tapimg_check *out,
		     void (*report)(void *arg, char severity, const char *line), void *arg,
		     struct tapimg_err *err);
	int (*resize)(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
		      struct tapimg_err *err);
	int (*set_backing)(struct tapimg *img, const char *name, const char *format,
			   struct tapimg_err *err);
	/*
	 * Of a format that remembers what its backing file was: img->backing, named by the image and not by
	 * the caller, is open: is it the right one?  (Of a changed one img->flags may say TAPIMG_STALE_BACKING.)
	 * And: it was changed through @img, so that it is right all the same.
	 */
	int (*backing_check)(struct tapimg *img, struct tapimg_err *err);
	int (*backing_changed)(struct tapimg *img, struct tapimg_err *err);
	int (*make_empty)(struct tapimg *img, struct tapimg_err *err);	/* drop all mappings */
	int (*amend)(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
		     struct tapimg_err *err);
	int (*snap_create)(struct tapimg *img, const char *name, struct tapimg_err *err);
	int (*snap_apply)(struct tapimg *img, const char *id, struct tapimg_err *err);
	int (*snap_delete)(struct tapimg *img, const char *id, struct tapimg_err *err);
	int (*bitmap_add)(struct tapimg *img, const char *name, uint64_t gran, bool disabled,
			  struct tapimg_err *err);
	int (*bitmap_remove)(struct tapimg *img, const char *name, struct tapimg_err *err);
	int (*bitmap_clear)(struct tapimg *img, const char *name, struct tapimg_err *err);
	int (*bitmap_enable)(struct tapimg *img, const char *name, bool on, struct tapimg_err *err);
	const char *(*bitmap_name)(struct tapimg *img, unsigned i);	/* NULL: no more */
	/* first dirty range at or after *off: sets *off, *len (0: none).  Any granularity. */
	int (*bitmap_next)(struct tapimg *img, const char *name, uint64_t *off, uint64_t *len,
			   struct tapimg_err *err);
	int (*bitmap_set)(struct tapimg *img, const char *name, uint64_t off, uint64_t len,
			  struct tapimg_err *err);

	/* --- hot: memory only, restartable --- */
	int (*map)(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		   struct extent *ext);
	int (*reserve)(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		       struct extent *ext);
	int (*commit)(struct tapimg *img, const struct extent *ext);
	void (*abort)(struct tapimg *img, const struct extent *ext);
	/*
	 * Drops whole units of [off, off+len) and sets *done to the bytes dealt with from off, 0 if the
	 * first unit cannot be expressed (the engine then writes zeroes, or ignores a discard).
	 */
	int (*unmap)(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done);
	int (*release)(struct tapimg *img, uint64_t host, uint64_t len);
	/*
	 * Rounds a range, which is not empty, out to whole units of reservation, where those are not just
	 * the multiples of img->unit.
	 */
	void (*round)(const struct tapimg *img, uint64_t *start, uint64_t *end);
	void (*dirtied)(struct tapimg *img, uint64_t off, uint64_t len);	/* guest contents changed */

	/* --- pure CPU, any thread --- */
	/* @off: guest offset of the unit.  Exactly dst_len bytes come out, or -EIO */
	int (*decode)(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		      void *dst, uint32_t dst_len);
	/* the coded length, at most dst_max, or 0 if it does not shrink to that, or negative errno */
	int (*encode)(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		      void *dst, uint32_t dst_max);
};

extern const struct format raw_format, qcow2_format;
extern const struct format qcow_format;
extern const struct format vhd_format, vhd_fixed_format;	/* one name, two kinds of it */
extern const struct format vmdk_format, ova_format;

const struct format *format_find(const char *name);	/* by name or alias, NULL: none */
const struct format *format_probe(struct file *f, struct tapimg_err *err);	/* raw if nothing else bids */

#endif
