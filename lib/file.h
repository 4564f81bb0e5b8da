/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file.h - the storage seam: where bytes are kept
 *
 * Above it nothing knows of file descriptors.  A file is a backend (posix: regular files and block
 * devices; null; the simulated disk of the tests; network stores later) behind struct file_ops, and
 * a common front (file.c) that
 *   1. bounces what does not meet the backend's alignment: reads are widened, writes become
 *      read-modify-write.  A widened write waits for every write overlapping its widened range and
 *      is waited for by all of them;
 *   2. fills reads beyond the end with zeroes, and turns short transfers into -EIO;
 *   3. splits what exceeds the backend's largest transfer;
 *   4. falls back from ZERO that the backend cannot do to writing zeroes;
 *   5. answers a FLUSH at once if nothing was written since the last one;
 *   6. delivers completions from the loop only.
 */
#ifndef FILE_H
#define FILE_H

#include "loop.h"

enum io_op { IO_READ, IO_WRITE, IO_ZERO, IO_DISCARD, IO_FLUSH };

enum {
	IO_MAY_UNMAP	= 1 << 0,	/* ZERO: a hole will do */
	IO_NO_FALLBACK	= 1 << 1,	/* ZERO: -ENOTSUP rather than write zeroes */
};

/*
 * One transfer.  The submitter's memory, untouched until done() has run.  Public part first; the
 * rest belongs to file.c and the backend.
 */
struct io {
	struct task task;
	struct file *file;
	enum io_op op;
	unsigned flags;
	uint64_t off, len;		/* a DISCARD is narrowed to whole units: set anew for the next */
	const struct iovec *iov;	/* READ, WRITE: exactly len bytes */
	int iovcnt;
	int ret;			/* 0 or negative errno, for done() */
	void (*done)(struct io *io);

	struct list node;		/* file.c: queue of the file, or writes in flight */
	struct iovec iov1;		/* for the submitter's convenience */
	uint64_t priv[16];		/* backend: an iocb fits */
	uint64_t front[8];		/* file-io.c */
};

void file_submit(struct io *io);
void file_wake_writes(struct file *f);	/* file.c: starts what no longer has to wait */

enum {
	FILE_RDWR	= 1 << 0,
	FILE_DIRECT	= 1 << 1,
	FILE_CREATE	= 1 << 2,	/* with FILE_RDWR */
	FILE_EXCL	= 1 << 3,
	FILE_TRUNC	= 1 << 4,
	FILE_NOLOCK	= 1 << 5,
	FILE_SHARE	= 1 << 6,	/* lock for reading, and let others write */
	FILE_UNSAFE	= 1 << 7,	/* FLUSH does nothing */
};

/* What a backend is, filled in by its open; file.c reads it. */
struct file {
	const struct file_ops *ops;
	struct tapimg_loop *loop;
	char *name;
	unsigned flags;			/* FILE_* */
	uint32_t align;			/* power of two: offsets and lengths of transfers; >= 1 */
	uint32_t mem_align;		/* of buffers */
	uint32_t discard_align;		/* granularity of ZERO and DISCARD; >= 1 */
	uint64_t max_io;		/* largest transfer */
	uint64_t size;			/* current end, in bytes; kept up to date by file.c */
	bool block_dev;			/* cannot grow */
	bool grows_clean;		/* bytes beyond the end read as zeroes once it grows */
	bool unsafe;
	bool copies;			/* transfers are copies that a processor makes */
	struct file *around;		/* this is a part of it (file_open_window) */
	bool append;			/* a pipe: written once, from begin to end; only its head can be read back */
	/* file.c's */
	/* changes finished (what is remembered of the contents ends with each); of them, flushed */
	uint64_t wseq, fseq;
	uint64_t logical_end;		/* what trimming at close cuts to: the largest end written or set */
	struct list writes, waiting;
	unsigned nserial;
	uint64_t grow_to;		/* preallocation wanted or done up to here */
	uint64_t grow_step;
	bool growing, no_grow;		/* no_grow: backends for which it is of no use set it */
	unsigned inflight;
	int flush_err;			/* a flush has failed: so does every later one */
	void *priv;			/* the backend's */
};

/* a flush would find nothing to do */
static inline bool file_flushed(const struct file *f)
{
	return f->wseq == f->fseq && !f->flush_err;
}

/* Every member but those marked is required.  Blocking ones are for administrative use. */
struct file_ops {
	const char *name;
	/*
	 * Asynchronous; ends with io_complete().  Offsets, lengths and buffers are aligned; a READ ends
	 * at most at the size rounded up to align, and what lies beyond the size reads as zeroes.
	 */
	void (*submit)(struct io *io);
	/* READ inside of the file, at once: 0, or -EAGAIN where that might have to wait.  May be NULL. */
	int (*read_now)(struct file *f, void *buf, uint64_t len, uint64_t off);
	int (*truncate)(struct file *f, uint64_t size);			/* blocking */
	int (*refresh)(struct file *f);		/* rereads the size; may be NULL */
	int (*prealloc)(struct file *f, uint64_t off, uint64_t len);	/* blocking, thread-safe; may be NULL: -ENOTSUP */
	/* what lies at off: sets *len (in: at most, out: this far) and *data (false: a hole). Blocking, quick. */
	int (*status)(struct file *f, uint64_t off, uint64_t *len, bool *data);
	uint64_t (*allocated)(struct file *f);	/* bytes used on the host */
	int (*fd)(struct file *f);		/* -1: none; may be NULL */
	void (*tune)(struct file *f, bool nocow, uint32_t extent_size);	/* may be NULL */
	int (*lock)(struct file *f, bool write, bool share, struct tapimg_err *err);	/* may be NULL */
	int (*finish)(struct file *f, struct tapimg_err *err);	/* may be NULL; see file_finish() */
	void (*close)(struct file *f);
};

/*
 * A small READ without a transfer, of what is in memory: 0, or -EAGAIN: it has to be submitted.  Asking for
 * metadata in that way saves the turn of the loop, and the operation that wants them its restart.
 */
int file_read_now(struct file *f, void *buf, uint64_t len, uint64_t off);

/*
 * For backends: the transfer is over.  @ret: 0 all of it; n > 0 only the first n bytes of a READ or
 * WRITE (the front goes on from there); or a negative errno.  Callable from submit() as well:
 * completion is deferred.
 */
void io_complete(struct io *io, int ret);
/* The same at once: only from the loop, outermost (a finished helper job or iocb). */
void io_complete_now(struct io *io, int ret);

/*
 * Opens by path or provider scheme.  Sizes, alignment and locks are settled on return.
 * @err names the file and what failed.
 */
int file_open(struct tapimg_loop *loop, const char *name, unsigned flags, struct file **out,
	      struct tapimg_err *err);
/* Makes a file around a backend: allocates, initialises the front; the backend fills in the rest. */
struct file *file_alloc(struct tapimg_loop *loop, const struct file_ops *ops, const char *name,
			unsigned flags);
/* A file of @size bytes that answers without I/O: reads are zeroes that are not even stored. */
int file_open_null(struct tapimg_loop *loop, uint64_t size, struct file **out);
/* The posix backend: a regular file or a block device. file_open() calls it. */
int file_open_posix(struct tapimg_loop *loop, const char *name, unsigned flags, struct file **out,
		    struct tapimg_err *err);
/* Pipes, sockets, character devices: appended to, in order (file-pipe.c). */
int file_open_pipe(struct tapimg_loop *loop, const char *name, struct file **out,
		   struct tapimg_err *err);
bool file_is_pipe(const char *name);

/* Who made a window, and is told of its end. */
struct window_owner {
	/* all has been written to the window, @len bytes: completes what lies around it */
	int (*finish)(void *arg, struct file *around, uint64_t len, struct tapimg_err *err);
	void (*free)(void *arg);	/* may be NULL */
};
/*
 * The part of @around from @start on, @len bytes (for writing: so far), as a file of its own, which
 * owns @around from now on, and @arg.  @owner may be NULL.  On failure nothing is owned.
 */
int file_open_window(struct file *around, uint64_t start, uint64_t len,
		     const struct window_owner *owner, void *arg, struct file **out);
/* Closes a window, and not the file around it. */
void file_window_leave(struct file *f);
/* After the last write of an image that was closed without an error: completes what lies around the file. */
int file_finish(struct file *f, struct tapimg_err *err);

/* Waits for transfers in flight, trims what was grown ahead, closes.  No flush. NULL is accepted. */
void file_close(struct file *f);

int file_remove(struct tapimg_loop *loop, const char *name);
int file_rename(struct tapimg_loop *loop, const char *from, const char *to);	/* durable on return */
int file_sync_dir(struct tapimg_loop *loop, const char *name);	/* makes the name itself durable */
bool file_renames(struct tapimg_loop *loop, const char *name);	/* false: its provider cannot */
/*
 * 1: it is there, 0: it is not, or why that cannot be said (a negative errno). Whoever would remove
 * what was not there before must not take doubt for absence.
 */
int file_exists(struct tapimg_loop *loop, const char *name);
/* Whether a provider answers for that name; else it is a path. */
bool file_provided(struct tapimg_loop *loop, const char *name);

/* Blocking twins, for administrative code on an idle file; any alignment. */
int file_pread(struct file *f, void *buf, uint64_t len, uint64_t off);
int file_pwrite(struct file *f, const void *buf, uint64_t len, uint64_t off);
int file_zero(struct file *f, uint64_t off, uint64_t len, unsigned flags);
int file_discard(struct file *f, uint64_t off, uint64_t len);
int file_flush(struct file *f);
/* For programs, at their start: as many open files as the system lets them have.  A disk may have thousands. */
void file_raise_limit(void);
int file_truncate(struct file *f, uint64_t size);	/* sets size and logical_end */
int file_prealloc(struct file *f, uint64_t off, uint64_t len);	/* -ENOTSUP: write zeroes instead */
int file_status(struct file *f, uint64_t off, uint64_t *len, bool *data);
uint64_t file_allocated(struct file *f);
int file_refresh(struct file *f);	/* the size may have changed outside */
int file_fd(struct file *f);		/* the descriptor behind it, or -1; not to be closed */
/* Wishes for a new, empty file: no copy-on-write, size of extents (0: any).  Only where known. */
void file_tune(struct file *f, bool nocow, uint32_t extent_size);
/*
 * Something has been written past the front, through file_fd(): counts for flushes, sizes and status.
 * To be called on the loop when that is over; with 0, 0 if it failed, since part may have been written.
 */
void file_written(struct file *f, uint64_t off, uint64_t len);

/*
 * Growing ahead: says that space up to @end will be written soon.  Starts a background
 * preallocation in steps (8 MiB, doubling up to 256 MiB) when the end comes near; never fails, and nothing depends on it.
 */
void file_grow_hint(struct file *f, uint64_t end);

/* Aligned memory for I/O (mem_align of any file, at least 4096). Freed with free(). NULL: no memory. */
void *file_buf(uint64_t len);

#endif
