/* SPDX-License-Identifier: BSD-2-Clause */
/* image.h - an open image: one layer, its format's state, the engine's, and what lies below */
#ifndef IMAGE_H
#define IMAGE_H

#include "format.h"
#include "meta.h"

#define CHAIN_MAX 200		/* layers; deeper chains are refused with -ELOOP */

struct below;			/* chain.c: what lies below the top layer, cached */
struct piece;

struct engine {			/* engine.h says more */
	struct list runq;		/* pieces that can go on */
	struct list locked;		/* pieces owning a range of units */
	struct list unit_wait;		/* pieces waiting for one of those */
	struct list slow;		/* pieces waiting for one of the max_slow places */
	struct list coded;		/* compressed writes in submission order */
	struct piece *turn;		/* the one of them that is reserving now */
	bool coded_pumping;
	struct list free;		/* unused pieces */
	unsigned nslow, max_slow;	/* pieces between RESERVE and COMMIT */
	unsigned nfree;
	unsigned inflight;		/* requests */
	unsigned submitting;		/* inside tapimg_submit(): callbacks have to wait */
	bool pumping;
	void *zeroes;			/* LOOP_ZEROES bytes of them */
	struct decoded *decoded;	/* recently decoded units */
};

struct tapimg {
	/* hot first */
	const struct format *fmt;
	void *fs;			/* the format's state */
	struct file *file;		/* what the image lives in */
	struct meta *meta;		/* NULL: the format has no cached metadata */
	struct tapimg *backing;		/* layer below, or NULL */
	struct crypt *crypt;		/* what its data are enciphered with (crypt.h), or NULL; set by open, freed here */
	struct tapimg_loop *loop;
	uint64_t size;			/* virtual, bytes */
	uint32_t unit;			/* engine: reservations exclude each other by this, power of two; 1: never reserves */
	uint32_t unmap_unit;		/* engine: what unmap drops at least, a multiple of unit; 0: unit */
	uint32_t cluster;		/* for info and copying: allocation unit, 0: none */
	uint32_t coded_max;		/* largest coded unit that the format takes; 0: one byte less than a cluster */
	bool plain_only;		/* takes no coded units, though others of its format do */
	bool append_only;		/* takes nothing but whole coded units in ascending order */
	unsigned flags;			/* TAPIMG_* of the open */
	bool writable;			/* opened for writing, and nothing has gone wrong */
	int failed;			/* negative errno once the image can no longer be written */
	bool corrupt;			/* corruption was found while running */
	bool rechained;			/* the backing file that is stored is not the one that is open */
	struct engine eng;
	struct below *below;

	/* cold */
	const struct format *container;	/* what the image is a part of (OVA), or NULL */
	char *name;			/* as opened */
	char *path;			/* the file's own name: of file.filename for json: names */
	char *backing_name;		/* as stored in the image, or NULL */
	char *backing_fmt;		/* as stored, or NULL */
	char *backing_path;		/* resolved against the image's own path */
	struct tapimg_open_opts opts;	/* strings copied */
	struct tapimg_info info;	/* last tapimg_info() */
	void *info_mem;			/* its strings, an arena: info_alloc() */
	uint64_t committed;		/* bytes moved by the last tapimg_commit() */
	char *failure;			/* place and value of the first run-time failure, or NULL */
};

/* image.c */
/* Like tapimg_open for a file already open, which the image then owns, also on failure. */
int image_open_file(struct tapimg_loop *loop, struct file *file, const struct tapimg_open_opts *opts,
		    struct tapimg **out, struct tapimg_err *err);
/*
 * Asks the gate whether @img may have @path (resolved) opened as @role.  0 or -EPERM, explained.
 * Every file that an image names passes here, once, before it is opened.
 */
int image_gate(const struct tapimg_open_opts *opts, enum tapimg_role role, const char *referrer,
	       const char *path, struct tapimg_err *err);
/*
 * For a driver's open: the secret of the layer, in @buf; its length or a negative errno, explained.
 * To be wiped (crypt_wipe) after use.  Not to be asked for with TAPIMG_NO_IO or TAPIMG_CHECK.
 */
int image_secret(const struct tapimg *img, uint8_t *buf, size_t size, struct tapimg_err *err);
/* How a file of an image opened with TAPIMG_* @flags is opened: FILE_*.  Data files as well. */
unsigned image_file_flags(unsigned flags);
/*
 * Bytes of metadata cache for a layer whose mapping metadata is @total bytes: what the caller of
 * tapimg_open wanted, else all of it up to 32 MiB.
 */
uint64_t image_cache_size(const struct tapimg *img, uint64_t total);
/* Marks the image unusable for writing and keeps the first explanation. Any hot code may call it. */
void image_fail(struct tapimg *img, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Corruption met in hot code: marks, keeps the text, returns -EUCLEAN. */
int image_corrupt(struct tapimg *img, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* For what would take the open chain for the stored one: -ESTALE, explained. */
int image_rechained(const struct tapimg *img, struct tapimg_err *err);
/* Idle, everything durable, nothing waiting for release. For administrative calls. */
int image_settle(struct tapimg *img);
/*
 * For a driver's resize, when it grows: its tables reach @size, but the size on disk is still the
 * old one.  Makes what becomes visible read as zeroes, durably, though backing files may be longer
 * and the last cluster may hold old bytes; so no crash can show them.  img->size is @size on return.
 */
int image_grow_zero(struct tapimg *img, uint64_t size, struct tapimg_err *err);
/* Memory and strings that live as long as img->info. NULL: no memory. */
void *info_alloc(struct tapimg *img, size_t size);
void info_free(struct tapimg *img);
char *info_printf(struct tapimg *img, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* name.c: names as people and images write them */
/* Resolves @rel as the image @base stores it: absolute, with a scheme, or relative to base's folder. malloc'd. */
char *name_resolve(const char *base, const char *rel);

/* Rounds out to whole units, what a write reserves at once; the range is not empty. (engine-write.c) */
void image_round_out(const struct tapimg *img, uint64_t *start, uint64_t *end);

/* status.c */
enum image_place { PLACE_PLAIN, PLACE_NONE, PLACE_OTHER };
/*
 * Where this layer keeps [off, off+len), without waiting: PLACE_PLAIN, from *@host on in img->file
 * itself; PLACE_NONE, nowhere (holes, zeroes); PLACE_OTHER, elsewhere, coded, enciphered, or not
 * known at once.  *@run is how many bytes that is true of.
 */
enum image_place image_place(struct tapimg *img, uint64_t off, uint64_t len, uint64_t *host,
			     uint64_t *run);

/* chain.c */
/*
 * Where the bytes of [off, off+len) come from, through all layers: never EXT_HOLE.  -EAGAIN as map.
 * @layers: look through at most so many (0: all); what would come from further down is EXT_HOLE.
 */
int chain_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, unsigned layers,
	      struct extent *ext);
int chain_map_sync(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, unsigned layers,
		   struct extent *ext);		/* runs the loop while it says -EAGAIN */
void chain_forget(struct tapimg *img);		/* drops the cache of what lies below */

/* status.c */
/*
 * tapimg_block_status() for those who must not wait: -EAGAIN after having named, with
 * loop_set_park(), what it waits for; then it is called again.
 */
int status_try(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
	       struct tapimg_status *st);

/* admin.c: dirty bitmaps of an image in use; unlike the public calls these leave its requests alone */
/* The @i'th bitmap's name, the image's own; NULL: there are no more. */
const char *image_bitmap_name(struct tapimg *img, unsigned i);
/*
 * First dirty range at or after *@off: sets *@off and *@len (0: none).  Blocks the first time that
 * a bitmap is asked for, unless it is loaded already.  -ENOENT, -EINVAL (inconsistent).
 */
int image_bitmap_next(struct tapimg *img, const char *name, uint64_t *off, uint64_t *len,
		      struct tapimg_err *err);

/* engine.c */
/* A flag of ZERO, for rebasing: it is written down in this layer, whatever the chain reads now. */
enum { REQ_EXPLICIT = 1 << 16 };
/* Set by the engine: the request has changed where bytes lie, which so far only the metadata cache knows. */
enum { REQ_REMAPPED = 1 << 17 };
int engine_init(struct tapimg *img);
void engine_exit(struct tapimg *img);
void engine_drain(struct tapimg *img);		/* runs the loop until nothing is in flight */

/* sync.c */
/* Calls fn(arg) until it answers other than -EAGAIN, running the loop between: for single driver calls. */
int sync_retry(struct tapimg *img, int (*fn)(void *arg), void *arg);

#endif
