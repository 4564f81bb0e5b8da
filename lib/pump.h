/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pump.h - many reads at once, looked at in guest order, and the writes that follow from them
 *
 * Copying, comparing, committing and rebasing are the same movement with other decisions.  The
 * decisions are behind struct pump_ops; the pump owns the buffers, keeps several pieces in flight,
 * limits the rate, reports progress and stops in an orderly way.
 *
 * P1. next() is asked for pieces in ascending guest order.
 * P2. seg() sees the pieces in that order too, each when its reads have finished, whatever the
 *     order in which those did; its writes are submitted at once, so they are submitted in
 *     guest order and the result does not depend on timing.
 * P3. Both are called from pump_run() only, never from a completion, so that they may block.
 * P4. After the first failure nothing new is started; pump_run() returns when all is back.
 */
#ifndef PUMP_H
#define PUMP_H

#include "err.h"
#include "list.h"
#include "loop.h"
#include "work.h"

struct pump;
struct pump_slot;

/* What one side of a piece is read from. */
struct pump_side {
	struct tapimg *img;		/* NULL: not read */
	uint64_t off, len;		/* what is missing up to the slot's len reads as zeroes */
	uint8_t *buf;
	int ret;
	struct tapimg_req req;
	struct iovec iov;
	struct pump_slot *slot;
};

struct pump_slot {
	struct list node;		/* free, or in flight in guest order */
	struct pump *p;
	uint64_t off, len;		/* guest range; at most p->piece if anything is read or written */
	bool zero;			/* next(): no side is read, for decisions like "zero this" */
	bool filled;			/* next() has put the bytes into side[0].buf: nothing is read */
	unsigned kind;			/* next()'s own, for seg() */
	struct pump_side side[2];
	/* next(): to be run on a helper thread instead of reading; when ret is 0 the piece is done */
	void (*job)(struct pump_slot *s);
	int job_ret;
	struct work work;

	uint64_t pos;			/* seg() has dealt with so much */
	unsigned reads;			/* reads and jobs under way */
	unsigned pending;		/* writes as well */
	bool checked;
};

enum pump_op { PUMP_SKIP, PUMP_WRITE, PUMP_ZERO, PUMP_COMPRESSED };

struct pump_seg {
	enum pump_op op;
	uint64_t len;			/* from the position asked about, at least 1 */
	unsigned flags;			/* TAPIMG_REQ_* */
};

struct pump_ops {
	/* Describes the next piece: 1, 0 at the end, or a negative errno after p->err has been set. */
	int (*next)(struct pump *p, struct pump_slot *s);
	/* What to do with s from s->pos on: 1, 0 to stop here, or a negative errno after p->err ... */
	int (*seg)(struct pump *p, struct pump_slot *s, struct pump_seg *seg);
	/* Side @i could not be read (its ret says why): 0 when the buffer is good all the same. */
	int (*failed)(struct pump *p, struct pump_slot *s, unsigned i);
	/* A job has ended, well or not: on the loop, before anything else. Only where there are jobs. */
	void (*job_over)(struct pump_slot *s);
};

struct pump_write;

struct pump {
	/* the user fills in, before pump_run() */
	const struct pump_ops *ops;
	struct tapimg_loop *loop;
	struct tapimg *dst;		/* NULL: nothing is written */
	struct tapimg_err *err;
	unsigned depth;			/* pieces in flight, at least 1 */
	unsigned nbufs;			/* sides that are read: 1 or 2 */
	uint64_t piece;			/* bytes of a buffer */
	uint64_t rate;			/* bytes read a second; 0: no limit */
	uint64_t total;			/* for progress */
	tapimg_progress *progress;
	void *arg;

	/* the pump's */
	uint64_t moved;			/* bytes that were read and dealt with */
	struct pump_slot *slots;
	struct pump_write *writes;
	uint8_t *bufs;
	struct list free, queue, free_writes;
	unsigned events;		/* counts completions */
	unsigned pending;
	bool end;			/* next() has said so */
	bool stopped;			/* after a failure, or because seg() wanted it */
	int ret;
	uint64_t at;			/* next(): keeps it at the offset all before which was handed out */
	uint64_t allowed_ns;		/* rate: no read before */
	struct timer timer;
};

/* copy.c: tapimg_copy(), and how many bytes were read (may be NULL) */
enum { COPY_EXACT = 1 << 16 };		/* never reads what the skipped layers hold */
int copy_images(struct tapimg *const *srcs, unsigned n, struct tapimg *dst,
		const struct tapimg_copy_opts *opts, uint64_t *moved, struct tapimg_err *err);

/* 0, or the first negative errno.  Frees everything it allocated. */
int pump_run(struct pump *p);

/* Bytes at the start of @buf, in whole blocks of @gran (the last may be short), that are zero ... */
uint64_t pump_zero_len(const uint8_t *buf, uint64_t len, uint64_t off, uint64_t gran);
/* ... and that are not.  @off: guest offset of @buf; blocks are aligned to @gran there. */
uint64_t pump_data_len(const uint8_t *buf, uint64_t len, uint64_t off, uint64_t gran);
bool pump_is_zero(const void *buf, uint64_t len);

#endif
