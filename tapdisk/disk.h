/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk.h - a served disk: what lies between front ends and images
 *
 * A disk has a name, a driver and options.  Front ends hand it requests with disk_submit(); it
 * counts them, holds them back while it is paused or over its rate, and passes them to the
 * image (or answers itself, for ram and null).  The image may be closed and another one opened
 * behind it while clients stay connected: pausing drains, later requests wait.
 *
 * D1 done() may run from inside disk_submit(), so a front end only queues its answer there.
 * D2 While a disk is paused its image is closed: nobody keeps what disk_image() answered.
 * D3 A user (connection, device) keeps the disk alive until it calls disk_detach(); it is asked to
 *    by gone().
 * D4 Functions marked "blocking" run the loop while they wait: they are called from control
 *    commands and main() only, never from a front end's callbacks.
 */
#ifndef DISK_H
#define DISK_H

#include "list.h"
#include "loop.h"
#include "tapimg.h"

struct disk;
struct server;

/* ------------------------------------------------------------------ requests */

/* The front end's memory, untouched from submit to done(); zeroed once, then used again and again. */
struct disk_req {
	struct tapimg_req req;	/* the front end's: op, flags, off, len, iov, iovcnt; and the result in ret */
	void (*done)(struct disk_req *r);
	/* the disk's */
	struct disk *disk;
	struct list node;
	uint64_t start_ns;
	struct disk_req *mirror;	/* the copy that goes to the secondary image */
	int mirror_ret;
	uint8_t legs;
};

/*
 * Any alignment; a range beyond the end is -EINVAL, changing a read-only disk -EROFS.  A DISCARD of
 * a disk that has it switched off is answered 0 and nothing happens.
 */
void disk_submit(struct disk *d, struct disk_req *r);

/* --------------------------------------------------------------- what it is */

/* Stays where it is; changes only before the events that say so. */
struct disk_props {
	const char *name;		/* unique in the process; the NBD export's name */
	const char *id;			/* serial number: at most 20 bytes are seen by a guest */
	uint64_t size;			/* bytes */
	bool read_only;
	bool writeback;			/* completed writes need a flush to be durable */
	bool discard;
	uint32_t block_size;		/* logical: 512 or 4096 */
	uint32_t opt_size;		/* what is allocated at once; power of two, at least block_size */
	bool blank_reads;		/* null: a read leaves the buffer as it is */
};
const struct disk_props *disk_props(const struct disk *d);
struct tapimg *disk_image(struct disk *d);	/* NULL: ram, null, or paused (D2) */
bool disk_paused(const struct disk *d);
/*
 * For other work on disk_image() than requests: false while the disk is paused or about to be;
 * else it counts as a request in flight until disk_unhold().
 */
bool disk_hold(struct disk *d);
void disk_unhold(struct disk *d);
struct tapimg_loop *disk_loop(const struct disk *d);
/* A guest switches its write cache: without, every write and zero is durable when it completes. */
void disk_set_writeback(struct disk *d, bool on);

/* -------------------------------------------------------------------- users */

enum disk_event {
	DISK_RESIZED,		/* props->size is new */
	DISK_PAUSED,		/* requests wait, the image is closed */
	DISK_RESUMED,		/* the image is open again, perhaps another one */
	DISK_SETTLED,		/* all that was done is durable; where its bytes lie may change next */
};

struct disk_user;
struct disk_user_ops {
	void (*changed)(struct disk_user *u, enum disk_event ev);	/* may be NULL */
	/* The disk is to be closed: end the clients, finish what runs, then disk_detach(), now or later. */
	void (*gone)(struct disk_user *u);
};
struct disk_user {
	struct list node;
	const struct disk_user_ops *ops;	/* set before disk_attach() */
	struct disk *disk;
};
void disk_attach(struct disk *d, struct disk_user *u);
void disk_detach(struct disk_user *u);		/* no request of its own is in flight */

/* --------------------------------------------------- opening, closing, changing */

/* Options of a disk, all of them: for parsing, --help, completion and the manual's test. */
extern const struct tapimg_opt_desc disk_opt_descs[];

/* NULL-terminated list of driver names. */
const char *const *disk_drivers(void);

#define DISK_KEY_MAX 64

struct disk_config {
	char *name;			/* NULL: one is made up */
	char *driver, *path;		/* of "DRIVER:PATH" */
	char *serial;
	bool read_only, direct, discard, writethrough, unsafe;
	bool probe_read_only;		/* fall back to read-only where the file cannot be written */
	uint32_t block_size;
	uint64_t size;			/* ram, null */
	uint64_t cache_size;		/* metadata cache of each layer; 0: the default */
	uint64_t rate_bytes, rate_reqs;	/* a second; 0: no limit */
	bool stop_on_enospc;		/* requests wait for space instead of failing */
	char *secondary;		/* "DRIVER:PATH" of the mirror or standby; NULL: none */
	bool standby;			/* the secondary takes over on ENOSPC */
	char *signal_file;		/* made when that has happened; NULL: none */
	uint8_t key[DISK_KEY_MAX];	/* of enciphered images, for all layers that are */
	unsigned key_len;		/* 0: there is none */
	bool share_backing;		/* others may write to layers below, as a manager that merges them does */
	bool keep_size;			/* unpausing: an image of another size is refused */
};
void disk_config_init(struct disk_config *c);
void disk_config_clear(struct disk_config *c);
int disk_config_copy(struct disk_config *dst, const struct disk_config *src);
/* "[tap:]DRIVER:PATH": 0, -EINVAL, -ENOENT (no such driver), -ENOMEM. */
int disk_config_target(struct disk_config *c, const char *text, struct tapimg_err *err);
int disk_config_opt(struct disk_config *c, const char *name, const char *value, struct tapimg_err *err);
/* "[NAME=][tap:]DRIVER:PATH[,key=value...]"; a comma in a value is doubled. */
int disk_config_parse(struct disk_config *c, const char *text, struct tapimg_err *err);

/*
 * Opens; blocking.  The disk belongs to the server's list from then on.  @c is copied.  0 or a
 * negative errno with name and reason in @err.
 */
int disk_open(struct server *s, const struct disk_config *c, struct disk **out, struct tapimg_err *err);
/*
 * Sends users away, drains, flushes, closes; blocking.  @force: held-back requests fail instead of
 * being carried out.  The disk is gone afterwards; the result says whether everything was written.
 */
int disk_close(struct disk *d, bool force, struct tapimg_err *err);

/* Of a paused disk: what is held back fails, and so does all that follows; before its end. */
void disk_give_up(struct disk *d);

/* Drains and closes the image; blocking.  0 if it is paused already. */
int disk_pause(struct disk *d, struct tapimg_err *err);
/*
 * Opens the image again, or that of @target ("DRIVER:PATH", may be NULL) and @secondary; blocking.  On
 * failure the disk stays paused.  -EINVAL: it is not paused.
 */
int disk_resume(struct disk *d, const char *target, const char *secondary, struct tapimg_err *err);
/*
 * Closes the image and opens it again with @rdwr_layers layers below it open for writing; blocking.
 * If that fails it is opened as it was before, and if even that fails the disk is paused.
 */
int disk_reopen(struct disk *d, unsigned rdwr_layers, struct tapimg_err *err);
/* Grows or shrinks the image; blocking. Users are told. */
int disk_resize(struct disk *d, uint64_t size, struct tapimg_err *err);

/*
 * Holds new requests back and waits for those that run, for what wants the disk to itself for a
 * moment; blocking.  They nest; each disk_quiesce() wants its disk_unquiesce().
 */
void disk_quiesce(struct disk *d);
void disk_unquiesce(struct disk *d);

/*
 * Whoever wants to know of changes: a bitmap, and a log of changed blocks.  Both may be NULL; they are
 * marked when a change is submitted.  The disk does not own them.
 */
struct dirty;
struct cbt;
struct stats_page;
void disk_follow(struct disk *d, struct dirty *dirty);
void disk_set_log(struct disk *d, struct cbt *log);
void disk_set_page(struct disk *d, struct stats_page *page);	/* kept up to date from now on */

/* Tells users DISK_SETTLED: by who has quiesced and flushed it, before data are moved. */
void disk_settled(struct disk *d);

const struct disk_config *disk_config(const struct disk *d);
struct disk_stats;
const struct disk_stats *disk_stats(const struct disk *d);

#endif
