/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tapimg.h - the public interface of libtapimg, and its reference.
 *
 * libtapimg reads and writes virtual disk images: raw, VHD, QCOW (version 1), qcow2 (versions 2 and
 * 3) and VMDK, in copy-on-write chains of up to 200 layers and any mix of formats.
 *
 * The model in five sentences.  A struct tapimg_loop is an event loop: it owns asynchronous I/O,
 * helper threads and the images opened on it, and is used by one thread at a time.  A struct tapimg
 * is an open image together with its chain of backing images.  A struct tapimg_req is one request
 * against an image: fill it, submit it, and its callback runs from tapimg_loop_run() once it is
 * done.  The blocking calls (tapimg_pread and the like) are the same requests followed by running
 * the loop until they are done.  Administrative calls (create, check, resize, snapshot, ...) block,
 * want an idle image, and explain failures in a struct tapimg_err.
 *
 * Conventions.  Sizes and offsets are bytes (uint64_t).  Functions that can fail return 0 or a
 * negative errno.  The library never prints and never exits.  Strings are UTF-8 as the file system
 * has them.  Every pointer handed in stays the caller's unless its description says otherwise.
 *
 * Durability.  A completed write is visible to later reads, and durable after the next successful
 * flush (at once with TAPIMG_WRITETHROUGH).  After a crash at any point an image holds everything
 * that was flushed; space may be leaked, data never is.
 */
#ifndef TAPIMG_H
#define TAPIMG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define TAPIMG_VERSION "0.1.0"

/** The version of the library that is running, e.g. "0.1.0". */
const char *tapimg_version(void);

/* ------------------------------------------------------------------ errors */

/**
 * What went wrong, for a person.  Lives in the caller's memory; every call that takes one accepts
 * NULL.  It is written only on failure.
 */
struct tapimg_err {
	int code;		/**< negative errno, as the call returned it */
	char text[1500];	/**< one line without newline: "a.qcow2: L2 table 7 at 0x2000001f is not aligned" */
};

/* -------------------------------------------------------------- event loop */

struct tapimg_loop;

/**
 * Makes an event loop.  @threads: helper threads for compression and blocking system calls; 0
 * chooses by the number of processors.  They start when first needed.
 * Returns 0 and the loop in *@out, or -ENOMEM, -EAGAIN (no asynchronous I/O contexts left: see
 * /proc/sys/fs/aio-max-nr).
 */
int tapimg_loop_new(unsigned threads, struct tapimg_loop **out, struct tapimg_err *err);

/** Ends a loop.  All its images must have been closed. NULL is accepted. */
void tapimg_loop_free(struct tapimg_loop *loop);

/**
 * One turn: submits what was queued, reaps what has finished, runs callbacks.
 * @wait: sleep until there is something to do; otherwise return at once.
 * Returns the number of callbacks run, or a negative errno.
 */
int tapimg_loop_run(struct tapimg_loop *loop, bool wait);

/**
 * A file descriptor that polls readable when tapimg_loop_run(loop, false) has work: for embedding
 * into another event loop.  Owned by the loop.  Asking for it switches completions to eventfd
 * notification.  Returns the descriptor or a negative errno.
 */
int tapimg_loop_fd(struct tapimg_loop *loop);

/* ------------------------------------------------------- opening and closing */

struct tapimg;

enum {
	TAPIMG_RDWR		= 1 << 0,	/**< for writing as well */
	TAPIMG_DIRECT		= 1 << 1,	/**< O_DIRECT: past the host's page cache */
	TAPIMG_WRITETHROUGH	= 1 << 2,	/**< a write completes when it is durable */
	TAPIMG_UNSAFE		= 1 << 3,	/**< flushes do nothing: for targets thrown away on failure */
	TAPIMG_SHARE		= 1 << 4,	/**< read although another process has the image open for writing */
	TAPIMG_NO_BACKING	= 1 << 5,	/**< leave the backing chain closed; holes read as zeroes */
	TAPIMG_NO_IO		= 1 << 6,	/**< only metadata will be looked at: data files may stay closed */
	TAPIMG_CHECK		= 1 << 7,	/**< for check and repair: tolerate damage, leave dirty marks alone */
	TAPIMG_UNMAP		= 1 << 8,	/**< discards free space in the file (else they are ignored) */
	TAPIMG_SALVAGE		= 1 << 9,	/**< for reading: open what is damaged as far as it goes; the rest is TAPIMG_ST_LOST */
	TAPIMG_STALE_BACKING	= 1 << 10,	/**< also above a backing file that was changed since (VMDK) */
	TAPIMG_SHARE_BACKING	= 1 << 11,	/**< layers below the top, read only, as with TAPIMG_SHARE: whoever
						 *   writes there changes what others do not see through the chain */
	TAPIMG_CIPHERTEXT	= 1 << 12,	/**< data of enciphered layers as they are stored: no secret is asked for */
};

/** What a file is to be opened for, asked of the gate. */
enum tapimg_role { TAPIMG_ROLE_IMAGE, TAPIMG_ROLE_BACKING, TAPIMG_ROLE_DATA, TAPIMG_ROLE_EXTENT };

/** An image's secret is wanted: a passphrase, or the bytes of a key. */
struct tapimg_secret_ask {
	const char *filename;		/**< of the image */
	const char *format;		/**< its format */
	const char *id;			/**< what the name of the image calls it (encrypt.key-secret), or NULL */
	bool create;			/**< for an image that is being made: who types it should do so twice */
	uint8_t *buf;			/**< where it goes: at most @size bytes, wiped by the library */
	size_t size;
};

/**
 * Gives a secret: returns its length in bytes (what is longer than asked for: -E2BIG), or a negative
 * errno (-ENOKEY: there is none), explained in @err.  Called from opening and creating.
 */
typedef int tapimg_secret(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *err);

struct tapimg_open_opts {
	const char *format;		/**< "raw", "qcow2", ...; NULL: probe the contents */
	unsigned flags;			/**< TAPIMG_* */
	const char *snapshot;		/**< open this internal snapshot (id or name) read-only; may be NULL */
	uint64_t cache_size;		/**< metadata cache in bytes for each layer; 0: the default */
	uint64_t offset, size;		/**< raw only: a window of the file; size 0: to its end */
	const char *data_file;		/**< overrides the external data file's name; may be NULL */
	unsigned level;			/**< of compression, where the format has levels (VMDK streams: 1 to 12); 0: chooses */
	const char *disk;		/**< containers (OVA): which of its disks, by name or number; NULL: the only one */
	/**
	 * Asked before any file that an image names (backing file, data file, extent) is opened.
	 * @referrer: the file naming it.  Return false to refuse.  NULL: every file is allowed, but of
	 * extents only those in the folder of the file that names them, or below it.
	 */
	bool (*gate)(void *arg, enum tapimg_role role, const char *referrer, const char *path);
	void *gate_arg;
	/**
	 * With TAPIMG_RDWR: so many layers below the image are opened for writing as well, as
	 * tapimg_commit() needs it (1: its backing file).  All others are opened read-only.
	 */
	unsigned rdwr_layers;
	/**
	 * Asked for the secret of each enciphered layer, unless only its metadata will be looked at
	 * (TAPIMG_NO_IO, TAPIMG_CHECK).  NULL: such images are refused with -ENOKEY.
	 */
	tapimg_secret *secret;
	void *secret_arg;
	const char *key_secret;		/**< the id to ask for the image itself; NULL: its name says, or nobody */
};

/**
 * Opens an image and its chain.  @name: a path, or "json:{...}" in QEMU's syntax (driver, file,
 * backing, offset, size, data-file, encrypt.key-secret), or an export of an NBD server
 * ("nbd://host/export", "nbd+unix:///export?socket=path", with "nbds" for TLS).  @opts may be NULL.
 * Returns 0 and the image in *@out; -ENOENT, -EACCES, -EBUSY (locked by another process),
 * -EINVAL (not such an image), -EUCLEAN (damaged), -ENOTSUP (feature unknown or refused),
 * -ELOOP (chain loops or is too deep), -EPERM (the gate refused), -ENOKEY (no secret was given),
 * -ESTALE (the backing file is not what it was when the image was made on it).
 */
int tapimg_open(struct tapimg_loop *loop, const char *name, const struct tapimg_open_opts *opts,
		struct tapimg **out, struct tapimg_err *err);

/**
 * Flushes (unless TAPIMG_UNSAFE) and closes, chain included.  The image is gone afterwards even
 * on failure; the return value says whether everything reached the disk.
 */
int tapimg_close(struct tapimg *img, struct tapimg_err *err);

/**
 * Makes a "json:{...}" name of "key=value,key=value" (a first word without "=" is the file; ",,"
 * is a comma), for tapimg_open().  The name in *@out is freed with free().
 */
int tapimg_name_from_opts(const char *text, char **out, struct tapimg_err *err);

uint64_t tapimg_size(const struct tapimg *img);		/**< virtual size in bytes */
const char *tapimg_format(const struct tapimg *img);	/**< "raw", "qcow2", ... */
const char *tapimg_filename(const struct tapimg *img);
struct tapimg *tapimg_backing(const struct tapimg *img);	/**< next layer, or NULL; owned by img */

/* ---------------------------------------------------------------- requests */

enum tapimg_op {
	TAPIMG_READ,
	TAPIMG_WRITE,
	TAPIMG_ZERO,		/**< make the range read as zeroes, by the cheapest means */
	TAPIMG_DISCARD,		/**< the contents no longer matter; a hint */
	TAPIMG_FLUSH,		/**< everything completed before this was submitted becomes durable */
	TAPIMG_WRITE_COMPRESSED,	/**< one whole cluster (the last of a disk may be shorter) */
};

enum {
	TAPIMG_REQ_FUA		= 1 << 0,	/**< WRITE, ZERO: durable on completion */
	TAPIMG_REQ_MAY_UNMAP	= 1 << 1,	/**< ZERO: space may be given back */
	TAPIMG_REQ_NO_FALLBACK	= 1 << 2,	/**< ZERO: fail with -ENOTSUP rather than write zeroes */
	TAPIMG_REQ_REGISTERED	= 1 << 3,	/**< reserved */
};

/**
 * One request.  The caller's memory; it and the buffers stay untouched until the callback runs.
 * Zero it once (or use designated initialisers), fill the first part, submit, reuse.
 * Overlapping requests in flight at the same time complete in no particular order.
 * The callback never runs from inside tapimg_submit().
 */
struct tapimg_req {
	enum tapimg_op op;
	unsigned flags;
	uint64_t off, len;		/**< guest range, any alignment */
	const struct iovec *iov;	/**< READ, WRITE*: @len bytes of buffers */
	int iovcnt;
	void (*done)(struct tapimg_req *req);
	void *opaque;			/**< the caller's own */
	int ret;			/**< for the callback: 0, -EIO, -ENOSPC, -EINVAL (range), -EROFS, -EUCLEAN, ... */
	uint64_t priv[24];		/**< the library's */
};

/** Starts a request.  Failures arrive in the callback like all results. */
void tapimg_submit(struct tapimg *img, struct tapimg_req *req);

/** Number of requests submitted and not called back. */
unsigned tapimg_inflight(const struct tapimg *img);

/* Blocking twins: submit, then run the loop until done. Ranges past the end are -EINVAL. */
int tapimg_pread(struct tapimg *img, void *buf, uint64_t len, uint64_t off);
int tapimg_pwrite(struct tapimg *img, const void *buf, uint64_t len, uint64_t off);
int tapimg_preadv(struct tapimg *img, const struct iovec *iov, int iovcnt, uint64_t off);
int tapimg_pwritev(struct tapimg *img, const struct iovec *iov, int iovcnt, uint64_t off);
int tapimg_zero(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags);
int tapimg_discard(struct tapimg *img, uint64_t off, uint64_t len);
int tapimg_flush(struct tapimg *img);

/* -------------------------------------------------------------- block status */

enum {
	TAPIMG_ST_DATA		= 1 << 0,	/**< reads come from stored bytes */
	TAPIMG_ST_ZERO		= 1 << 1,	/**< reads as zeroes */
	TAPIMG_ST_ALLOCATED	= 1 << 2,	/**< decided by this chain's layer @depth, not by "nothing anywhere" */
	TAPIMG_ST_OFFSET	= 1 << 3,	/**< @host is valid: plain bytes at that offset of @filename */
	TAPIMG_ST_COMPRESSED	= 1 << 4,
	TAPIMG_ST_EOF		= 1 << 5,	/**< zero because a lower layer ends before here */
	TAPIMG_ST_LOST		= 1 << 6,	/**< with DATA: missing from a damaged image; reads fail (-EIO) */
};

struct tapimg_status {
	uint64_t off, len;	/**< guest range this is true of; len >= 1 unless at the end of the disk */
	unsigned flags;		/**< TAPIMG_ST_* */
	unsigned depth;		/**< 0: the image itself, 1: its backing file, ... */
	uint64_t host;		/**< with TAPIMG_ST_OFFSET */
	const char *filename;	/**< file holding the bytes, or NULL; owned by the image */
};

/**
 * What is at @off, merged as far as cached metadata allows and at most @len bytes; looks through
 * at most @layers layers (0: the whole chain).  Blocking; reads metadata only.
 */
int tapimg_block_status(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
			struct tapimg_status *st);

/* ------------------------------------------------------------------ creating */

/** A format's option as text: name and value, e.g. {"cluster_size", "64k"}. */
struct tapimg_opt {
	const char *name, *value;
};

/** Describes an option that a format understands. */
struct tapimg_opt_desc {
	const char *name;
	const char *arg;	/**< "size", "on|off", "str" or alternatives "off|metadata|falloc|full" */
	const char *def;	/**< default as text, or NULL */
	const char *help;	/**< one line */
	unsigned where;		/**< TAPIMG_OPT_* */
};
enum { TAPIMG_OPT_CREATE = 1, TAPIMG_OPT_AMEND = 2 };

/** NULL-terminated list of the formats built in: "raw", "qcow2", ... */
const char *const *tapimg_formats(void);

/** Options of a format, ending with a NULL name; NULL if there is no such format. */
const struct tapimg_opt_desc *tapimg_format_opts(const char *format);

struct tapimg_create_opts {
	const char *format;		/**< required */
	uint64_t size;			/**< virtual size; TAPIMG_SIZE_BACKING: the backing file's */
	const char *backing;		/**< as it will be stored in the image; NULL: none */
	const char *backing_format;	/**< required with @backing */
	/** Format options.  size, backing_file and backing_fmt among them stand for members not set. */
	const struct tapimg_opt *opts;
	unsigned nopts;
	bool no_backing_check;		/**< do not open the backing file (then @size is required) */
	bool exclusive;			/**< fail with -EEXIST instead of replacing a file */
	bool in_place;			/**< write into the existing file or device rather than replacing it */
	const char *final_name;		/**< of what is made in place: the name it will have; NULL: the same */
	/** As in struct tapimg_open_opts: asked before the backing file's chain is opened. */
	bool (*gate)(void *arg, enum tapimg_role role, const char *referrer, const char *path);
	void *gate_arg;
	/** As in struct tapimg_open_opts: asked for the secret of the new image if it is to be enciphered. */
	tapimg_secret *secret;
	void *secret_arg;
};
#define TAPIMG_SIZE_BACKING UINT64_MAX

/**
 * Creates an image.  On failure nothing new remains, and a file that existed before is as it was
 * (a regular file is made under a temporary name beside the target and renamed).  On success it
 * is on stable storage.
 */
int tapimg_create(struct tapimg_loop *loop, const char *name, const struct tapimg_create_opts *opts,
		  struct tapimg_err *err);

/**
 * Creates an image, always in place, and opens it for writing with the very same file: a pipe
 * could not be opened twice, and what is written as a stream (streamOptimized VMDK, OVA) is open-ended
 * until the image is closed.  @open_opts: flags and gate as for tapimg_open().  On failure *@out is
 * NULL, and what was made stays behind for tapimg_target_abort().
 */
int tapimg_create_open(struct tapimg_loop *loop, const char *name,
		       const struct tapimg_create_opts *opts,
		       const struct tapimg_open_opts *open_opts, struct tapimg **out,
		       struct tapimg_err *err);

/**
 * Whether @path lies in the folder of the file @referrer, or below it: what a gate may ask.
 */
bool tapimg_path_inside(const char *referrer, const char *path);

/**
 * A file that is being made, and takes its final name only once it is complete.
 *
 *	tapimg_target_begin(loop, "a.qcow2", 0, &t, err);
 *	make, fill and close tapimg_target_path(t);
 *	tapimg_target_commit(t, err), or tapimg_target_abort(t)
 *
 * A regular file (or none yet) gets a temporary name beside it; its mode and owner are kept.  What
 * cannot be replaced (block devices, pipes, mounts, /dev/fd/N, names of providers, a
 * file in a folder where no other can be made) is written in place:
 * then the path is the name itself.  A file that is in use is refused with -EBUSY, and stays
 * locked until the end.
 */
struct tapimg_target;
enum {
	TAPIMG_TARGET_EXCLUSIVE	= 1 << 0,	/**< -EEXIST if the name exists */
	TAPIMG_TARGET_IN_PLACE	= 1 << 1,	/**< never a temporary file */
};
int tapimg_target_begin(struct tapimg_loop *loop, const char *name, unsigned flags,
			struct tapimg_target **out, struct tapimg_err *err);
/** Where to make it; owned by @t. */
const char *tapimg_target_path(const struct tapimg_target *t);
/** The name that it will have; owned by @t. */
const char *tapimg_target_name(const struct tapimg_target *t);
/** Whether that is the name itself, so that tapimg_create() wants in_place. */
bool tapimg_target_in_place(const struct tapimg_target *t);
/** Durably gives the finished file its name.  @t is gone afterwards; on failure as after abort. */
int tapimg_target_commit(struct tapimg_target *t, struct tapimg_err *err);
/** Removes what was made; an old file stays as it was.  NULL is accepted. */
void tapimg_target_abort(struct tapimg_target *t);

/* ----------------------------------------------------------------- inspecting */

struct tapimg_snapshot {
	const char *id, *name;
	uint64_t vm_state_size, disk_size;
	uint64_t date_sec; uint32_t date_nsec;
	uint64_t vm_clock_nsec;
	int64_t icount;			/**< -1: none */
};

enum { TAPIMG_BITMAP_IN_USE = 1, TAPIMG_BITMAP_AUTO = 2 };	/* as in the qcow2 directory */
struct tapimg_bitmap {
	const char *name;
	uint64_t granularity;
	unsigned flags;			/**< TAPIMG_BITMAP_* */
	uint64_t dirty;			/**< bytes marked; UINT64_MAX when inconsistent */
};

/**
 * A fact particular to the format, e.g. {"refcount-bits", TAPIMG_FACT_INT, 16}.
 * TAPIMG_FACT_HEX: a number that people know by its eight hexadecimal digits.
 */
enum tapimg_fact_type { TAPIMG_FACT_STR, TAPIMG_FACT_INT, TAPIMG_FACT_BOOL, TAPIMG_FACT_HEX };
struct tapimg_fact {
	const char *key;
	enum tapimg_fact_type type;
	const char *str;
	int64_t num;
};

/** A part of the disk, of formats that are made of several files. */
struct tapimg_extent_info {
	const char *filename;		/**< NULL: none */
	const char *format;		/**< "SPARSE", "FLAT", ... */
	uint64_t virtual_size;
	uint64_t cluster_size;		/**< 0: none */
	bool compressed;
};

struct tapimg_info {
	const char *filename, *format;
	uint64_t virtual_size;
	uint64_t actual_size;		/**< allocated on the host */
	uint64_t cluster_size;		/**< 0: none */
	bool dirty, corrupt, encrypted, compressed;
	const char *backing, *backing_full, *backing_format;	/**< NULL: none */
	const char *data_file;
	const struct tapimg_snapshot *snapshots; unsigned nsnapshots;
	const struct tapimg_bitmap *bitmaps; unsigned nbitmaps;
	const struct tapimg_fact *facts; unsigned nfacts;
	const struct tapimg_extent_info *extents; unsigned nextents;
};

/** Describes one layer.  *@out lives until the next call on this image, or its close. */
int tapimg_info(struct tapimg *img, const struct tapimg_info **out, struct tapimg_err *err);

enum { TAPIMG_FIX_LEAKS = 1, TAPIMG_FIX_ERRORS = 2 };
struct tapimg_check {
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end, total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	bool has_clusters;		/**< the cluster counts are meaningful */
};

/**
 * Checks an image opened with TAPIMG_CHECK.  @fix: TAPIMG_FIX_*.  @report is called with each
 * finding as one line (severity 'E' corruption, 'L' leak, 'R' repaired, 'I' note); may be NULL.
 * Returns 0 if the check could be made (findings are in *@out), -ENOTSUP if the format has none.
 */
int tapimg_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
		 void (*report)(void *arg, char severity, const char *line), void *arg,
		 struct tapimg_err *err);

/**
 * Of an image that was found in a container (OVA): whether the container's parts are what its manifest
 * says, by their digests; this reads all of it.  @report as for tapimg_check(); *@bad: how many are not.
 * Returns 0, also where there is no container or no manifest, or a negative errno.  tapimg_check() does
 * it as well.
 */
int tapimg_verify(struct tapimg *img, void (*report)(void *arg, char severity, const char *line), void *arg,
		  uint64_t *bad, struct tapimg_err *err);

struct tapimg_measure {
	uint64_t required;		/**< file size when converted with these options */
	uint64_t fully_allocated;	/**< and when every cluster is written */
	uint64_t bitmaps;		/**< for its bitmaps; UINT64_MAX: cannot hold any */
};

/** Space that an image of @opts would need; @src (may be NULL: opts->size) gives the data. */
int tapimg_measure(struct tapimg_loop *loop, struct tapimg *src, const struct tapimg_create_opts *opts,
		   struct tapimg_measure *out, struct tapimg_err *err);

/* ------------------------------------------------------------------- changing */

enum tapimg_prealloc { TAPIMG_PREALLOC_OFF, TAPIMG_PREALLOC_METADATA, TAPIMG_PREALLOC_FALLOC,
		       TAPIMG_PREALLOC_FULL };

/** Changes the virtual size.  @shrink must be set to make it smaller. New space reads as zeroes. */
int tapimg_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc, bool shrink,
		  struct tapimg_err *err);

/**
 * Rewrites only the name and format of the backing file (NULL: none).  The chain that is open stays
 * as it is, and serves requests; what else would change the image is refused with -ESTALE until it
 * is opened again.
 */
int tapimg_set_backing(struct tapimg *img, const char *name, const char *format,
		       struct tapimg_err *err);

int tapimg_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
		 struct tapimg_err *err);

int tapimg_snapshot_create(struct tapimg *img, const char *name, struct tapimg_err *err);
int tapimg_snapshot_apply(struct tapimg *img, const char *id_or_name, struct tapimg_err *err);
int tapimg_snapshot_delete(struct tapimg *img, const char *id_or_name, struct tapimg_err *err);

int tapimg_bitmap_add(struct tapimg *img, const char *name, uint64_t granularity, bool disabled,
		      struct tapimg_err *err);		/* granularity 0: default */
int tapimg_bitmap_remove(struct tapimg *img, const char *name, struct tapimg_err *err);
int tapimg_bitmap_clear(struct tapimg *img, const char *name, struct tapimg_err *err);
int tapimg_bitmap_enable(struct tapimg *img, const char *name, bool on, struct tapimg_err *err);
/** Ors bitmap @src_name of @src (may be @img itself) into bitmap @name; granularities may differ. */
int tapimg_bitmap_merge(struct tapimg *img, const char *name, struct tapimg *src,
			const char *src_name, struct tapimg_err *err);

/* -------------------------------------------------------------------- copying */

/**
 * Told how far a long operation is.  @done and @total in bytes.  Returning nonzero cancels with
 * -ECANCELED.
 */
typedef int tapimg_progress(void *arg, uint64_t done, uint64_t total);

enum {
	TAPIMG_COPY_COMPRESS	= 1 << 0,	/**< write compressed clusters */
	TAPIMG_COPY_TARGET_ZERO	= 1 << 1,	/**< the target already reads as zeroes */
	TAPIMG_COPY_UNORDERED	= 1 << 2,	/**< writes may go out in any order */
	TAPIMG_COPY_OFFLOAD	= 1 << 3,	/**< use reflinks or copy_file_range where possible */
	TAPIMG_COPY_SALVAGE	= 1 << 4,	/**< unreadable sectors become zeroes */
	TAPIMG_COPY_CHANGED	= 1 << 5,	/**< write only what the target does not read as already */
};

struct tapimg_copy_opts {
	unsigned flags;			/**< TAPIMG_COPY_* */
	unsigned depth;			/**< requests in flight; 0: default */
	uint64_t sparse_size;		/**< zero runs at least this long become holes; 0: write everything */
	uint64_t rate;			/**< bytes a second; 0: no limit */
	unsigned skip_layers;		/**< target's backing file is the source's layer this deep: copy only above it; 0: copy all */
	uint64_t src_off, src_len;	/**< with one source only: copy this window of it; len 0: to its end */
	tapimg_progress *progress;
	void *arg;
	void (*salvaged)(void *arg, uint64_t off, uint64_t len);
};

/** Copies srcs[0..n), one after the other, into @dst from offset 0. The target is not flushed. */
int tapimg_copy(struct tapimg *const *srcs, unsigned n, struct tapimg *dst,
		const struct tapimg_copy_opts *opts, struct tapimg_err *err);

/** Result of a comparison. */
struct tapimg_compare {
	bool equal;
	uint64_t off;			/**< first byte that differs */
	int read_error;			/**< 0, 1: the first image could not be read at off, 2: the second */
	bool status_differs;		/**< strict only: allocation differs at off */
	bool status_error;		/**< with read_error: its metadata could not be read */
};
/** Compares contents; the longer one's tail must be zero. @strict: sizes and allocation too. */
int tapimg_compare(struct tapimg *a, struct tapimg *b, bool strict, struct tapimg_compare *out,
		   tapimg_progress *progress, void *arg, struct tapimg_err *err);

/**
 * Moves what the layers above @base hold into @base (layer number counted from @img = 0; at least
 * 1; all of them must have been opened with TAPIMG_RDWR).  @base grows if img is larger.  With
 * @empty the top layer is emptied afterwards, once the base is durable (base 1 only).
 */
int tapimg_commit(struct tapimg *img, unsigned base, bool empty, uint64_t rate,
		  tapimg_progress *progress, void *arg, struct tapimg_err *err);
/** Bytes of data that the last tapimg_commit() of this image moved. */
uint64_t tapimg_committed(const struct tapimg *img);

/**
 * Makes @img a child of @new_backing (opened read-only; NULL: none) without changing what it
 * reads: clusters that would differ are copied into it, then the name is switched, as by
 * tapimg_set_backing().
 */
int tapimg_rebase(struct tapimg *img, struct tapimg *new_backing, const char *name, const char *format,
		  bool compress, tapimg_progress *progress, void *arg, struct tapimg_err *err);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
