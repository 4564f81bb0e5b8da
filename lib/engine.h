/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine.h - the request engine, shared by engine.c, engine-write.c, engine-coded.c and engine-cipher.c
 *
 *	MAP --readable or writable in place--> IO --> DONE
 *	 | `-- write to anything else --> LOCK --> RESERVE --> COPYUP --> IO --> COMMIT --> DONE
 *	 `---- zero, discard -----------> LOCK --> UNMAP ------------------------------> DONE
 *
 * A request is a set of pieces; a piece is a guest range in one of these states. It starts as the
 * whole request and is split when an answer covers only its beginning; the rest becomes a piece of
 * its own. When a driver answers -EAGAIN the piece is parked and the same state is tried again.
 * DURABLE (waiting for an epoch) belongs to the request, when all its pieces are done.
 *
 * E1 A piece that reserves or unmaps first locks the units it touches; the others wait, and map
 *    again once they have the lock, for what they were told before may be outdated.
 * E2 The mapping is published (commit) only when the data it refers to has been written.
 * E3 A request enters the top image's list of users before its first look-up and leaves it after
 *    its last transfer, so that nothing it was told of is reused meanwhile (meta.c, M7).
 * E4 Callbacks never run from inside tapimg_submit(), nor from inside the engine's own queues: they may
 *    submit, and run the loop.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "image.h"
#include "loop.h"
#include "work.h"

#define PIECE_IOV 4

enum piece_state {
	PS_MAP, PS_LOCK, PS_RESERVE, PS_COPYUP, PS_COPYING, PS_IO, PS_COMMIT, PS_UNMAP,
	PS_ENCODE, PS_CODED_READ, PS_DECODE, PS_CIPHER, PS_SYNC,
};

/* How the part of a unit beside the data is filled when it is written for the first time. */
enum fill { FILL_UNKNOWN, FILL_SKIP, FILL_ZERO, FILL_COPY };

struct side {			/* the part before (0) or after (1) the data */
	uint64_t off, len;
	enum fill fill;
	void *buf;
	struct iovec iov;
	struct tapimg_req req;	/* reads what is there now */
};

struct copyup {
	struct piece *p;
	unsigned reading;
	int ret;
	struct side side[2];
};

struct piece {
	struct io io;
	struct list node;		/* runq, unit_wait, slow, coded or free */
	struct list lnode;		/* locked */
	struct waiter wait;
	struct tapimg *img;
	struct tapimg_req *req;
	enum piece_state state;
	enum tapimg_op op;		/* ZERO becomes WRITE with zero set where it has to be written */
	bool zero;			/* the data are zeroes */
	bool lock_held, slow_held, reserved, encoded;
	uint8_t nospace;		/* so often it has waited for freed space to be released */
	bool early;			/* META_MUTANT_EARLY_COMMIT: published already */
	bool rewrite;			/* a ZERO that has to be written as data */
	uint64_t off, len;		/* guest range */
	uint64_t lock_off, lock_end;
	struct extent ext;
	struct iovec iov[PIECE_IOV];
	struct iovec *viov;		/* malloc'd, when iov does not suffice */
	struct copyup *up;
	/* coded units */
	struct work work;
	void *buf;			/* coded bytes, or the bytes to be coded */
	void *out;			/* where they go, when that is not the caller's buffer; enciphered bytes */
	uint32_t buf_len;
	int work_ret;
	struct decoded_unit *unit;
};

struct req_priv {
	struct list node;
	struct tapimg *img;
	unsigned pieces;
	int ret;
	bool user_held, synced;
	struct meta_user user;
	struct task task;
	struct waiter wait;
};
_Static_assert(sizeof(struct req_priv) <= sizeof(((struct tapimg_req *)0)->priv), "priv too small");

static inline struct req_priv *req_priv(struct tapimg_req *req)
{
	return (struct req_priv *)req->priv;
}

/* engine.c */
void piece_step(struct piece *p);
void piece_ready(struct piece *p);			/* puts it on the run queue */
void engine_pump(struct tapimg *img);			/* runs what is on it */
void piece_park(struct piece *p, struct tapimg_loop *loop);
struct piece *piece_split(struct piece *p, uint64_t len);	/* p keeps len; the rest is returned, state MAP, not queued */
void piece_done(struct piece *p, int ret);
/* the part of the request's buffers that belongs to [off, off+len), as iovecs; count or -ENOMEM */
int piece_iov(struct piece *p, uint64_t off, uint64_t len, struct iovec *out, int max);
/* the request's buffers for all of this piece, as *iov; their number or -ENOMEM */
int piece_buffers(struct piece *p, const struct iovec **iov);
void piece_copy_out(struct piece *p, const void *src);	/* into the request's buffers; NULL: zeroes */
void piece_copy_in(struct piece *p, void *dst);		/* out of them */
void piece_io(struct piece *p, enum io_op op, struct file *file, uint64_t host, uint64_t len,
	      const struct iovec *iov, int iovcnt, void (*done)(struct io *));

/* what a request of one piece was told so far no longer matters: freed space need not wait for it */
void req_reenter(struct tapimg_req *req);

/* engine-write.c */
/* after a driver call that takes space: true to go on; else the piece waits to try again, or is over */
bool piece_answered(struct piece *p, int ret);
void write_step(struct piece *p);
bool piece_lock(struct piece *p, uint64_t off, uint64_t end);	/* false: it waits */
void piece_unlock(struct piece *p);
bool piece_slow(struct piece *p);				/* false: it waits */
void piece_reserved(struct piece *p);				/* ext is an EXT_NEW: go on with COPYUP */
void piece_new_done(struct io *io);				/* its data are written: go on with COMMIT */
void piece_inplace_done(struct io *io);				/* the same where there is nothing to commit */
void piece_abort(struct piece *p, int ret);			/* gives back what was reserved, done */

/* engine-cipher.c: layers with img->crypt */
uint64_t cipher_limit(const struct piece *p, uint64_t len);	/* so much of it as one piece */
void cipher_read(struct piece *p);			/* ext is DATA */
void cipher_write(struct piece *p);			/* all of ext: the data, and the sides of p->up */

/* engine-coded.c */
int coded_init(struct tapimg *img);
void coded_exit(struct tapimg *img);
void coded_read(struct piece *p);			/* ext is CODED */
void coded_write_start(struct piece *p);
void coded_write_step(struct piece *p);
void coded_pump(struct tapimg *img);			/* next compressed write, if it is its turn */

#endif
