/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * oracle.h - what a guest may read: a model of a disk's contents that knows about crashes
 *
 * The disk is seen as granules. Every granule has a short history of the writes that may still be
 * seen, each with the moments of its submission and completion; the moment of submission is also
 * the write's name and is stamped, with the granule's number, into its bytes. So bytes read tell
 * which write they come from. A value v is gone
 *	for a reader, once a write w that began after v had ended was over before the read began;
 *	for a crash, once such a w is durable: flushed after it was over, or durable by itself.
 * Weak entries (discards, failed writes) may be seen but replace nothing.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	OREC_ZERO	= 1 << 0,	/* zeroes were written */
	OREC_WEAK	= 1 << 1,	/* replaces nothing */
	OREC_DURABLE	= 1 << 2,	/* needs no flush */
};
#define OREC_OPEN UINT64_MAX		/* not completed yet */

struct orec {
	uint64_t id, done;
	uint32_t flags;
};

struct ogran {
	struct orec *v;
	uint32_t n, cap;
};

struct oracle {
	uint64_t size;			/* bytes, a multiple of 512 */
	uint32_t gran;			/* bytes: 64, 512 ... */
	uint64_t n, cap;		/* granules */
	struct ogran *g;
	uint64_t seq;			/* the moments */
	uint64_t flushed;		/* what was over before this moment is durable */
	uint64_t oldest;		/* no read under way began before this moment */
	char why[600];			/* the first contradiction */
};

void oracle_init(struct oracle *o, uint64_t size, uint32_t gran);
void oracle_free(struct oracle *o);
void oracle_copy(struct oracle *dst, const struct oracle *src);
/* New space reads as zeroes; space cut away is forgotten. */
void oracle_resize(struct oracle *o, uint64_t size);

uint64_t oracle_now(struct oracle *o);	/* a new moment */
/* A write, zero or discard of whole granules begins at moment @id. */
void oracle_begin(struct oracle *o, uint64_t id, uint64_t off, uint64_t len, uint32_t flags);
/* It is over. @add: OREC_DURABLE or OREC_WEAK (it failed). */
void oracle_end(struct oracle *o, uint64_t id, uint64_t off, uint64_t len, uint32_t add);
/* It never happened (refused before anything was done). */
void oracle_undo(struct oracle *o, uint64_t id, uint64_t off, uint64_t len);
/* A flush that began at @id has succeeded. */
void oracle_flushed(struct oracle *o, uint64_t id);
/* The power has gone: whatever was under way is over, and may or may not be seen. */
void oracle_crash(struct oracle *o);

/* The bytes that write @id puts into [off, off+len). */
void oracle_fill(const struct oracle *o, void *buf, uint64_t id, uint64_t off, uint64_t len);

enum oracle_when {
	ORACLE_LIVE,	/* a read that began at @began */
	ORACLE_CRASH,	/* the first look after a crash */
};
/* Are these bytes possible?  false: o->why says what is wrong. */
bool oracle_check(struct oracle *o, const void *buf, uint64_t off, uint64_t len,
		  enum oracle_when when, uint64_t began);
/* Only these bytes are right from now on, and they are durable. They have been checked. */
void oracle_collapse(struct oracle *o, const void *buf, uint64_t off, uint64_t len);

#endif
