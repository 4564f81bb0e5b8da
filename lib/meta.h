/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * meta.h - cached metadata blocks, and the only place that knows the order they are written in
 *
 * The rules are numbered in meta.c (M1 to M9); the tests that prove them cite the numbers.
 *
 * For a driver:
 *	b = meta_get(m, off);		the block, or NULL: return -EAGAIN
 *	if (!meta_room(m, n))		n blocks can be made or changed without waiting; else return -EAGAIN
 *	p = meta_dirty(m, b, rank);	before changing it; change it through p, in this call
 *	p = meta_fresh(m, off, rank);	a block whose old contents do not matter: zeroes, already dirty
 *	meta_free(m, off, len);		host space that the changes just made no longer refer to
 * Where an image has its blocks in more than one file, "off" is meta_addr(), with the index that
 * meta_add_file() gave; everywhere else it is the offset in the only file.
 * Gather, then change: no -EAGAIN after the first meta_dirty, meta_fresh or meta_free of a call.
 * A block pointer is good until the driver call returns; p until then as well.
 */
#ifndef META_H
#define META_H

#include "file.h"

#define META_RANKS 6
#define META_FLUSHES 4		/* files flushed at the same time */
#define META_FILE_SHIFT 48	/* of the file's index in a block's address, see meta_addr() */

enum mblk_state { MBLK_READING, MBLK_VALID };

struct mblk {
	uint64_t off;			/* in the file (meta_addr); multiple of the block size */
	struct mblk *hnext;		/* hash chain */
	uint8_t *data;			/* current contents */
	uint8_t *frozen;		/* contents as of the closing epoch, while they differ */
	uint8_t state, rank;
	bool ref;			/* CLOCK: used since the hand last passed */
	bool dirty;			/* in the open epoch */
	bool closing;			/* in the closing epoch and not yet durable there */
	bool reading;			/* a read is in flight; if VALID all the same, it is of no interest any more */
	uint32_t warm;			/* cold mode: the operation count when it was last answered */
	unsigned slot;			/* in the CLOCK ring */
	struct list dnode;		/* in dirty[rank] */
	struct list cnode;		/* in closing[crank] */
	uint8_t crank;			/* its rank when the epoch closed */
	struct list waiters;		/* for the read */
};

/* A request that holds host addresses it got from map: what it uses is not released meanwhile. */
struct meta_user {
	struct list node;
	uint64_t gen;
};

struct meta_ops {
	/* Lowers counts or forgets grains. May answer -EAGAIN before it has changed anything. */
	int (*release)(void *arg, uint64_t off, uint64_t len);
	/* The image can no longer be trusted to be written: called once, with the cause. */
	void (*failed)(void *arg, int err, uint64_t off, const char *what);
};

struct meta_file {
	struct file *file;
	bool wrote;			/* blocks of the rank that is being written went there */
};

struct meta {
	struct tapimg_loop *loop;
	struct meta_file *files;	/* all that a flush must cover; the blocks live in the first, */
	unsigned nfiles;
	unsigned fshift;		/* or META_FILE_SHIFT: where their addresses say; 0: in the first */
	unsigned flush_next;		/* the file that the running flush takes next */
	const struct meta_ops *ops;
	void *arg;
	uint32_t bsize;
	unsigned bshift;
	struct mblk **hash;
	unsigned hmask;
	struct mblk **ring;		/* CLOCK */
	unsigned nblk, maxblk, ringsize, hand;
	unsigned ndirty, nclosing, nreading;
	struct mblk *spare;		/* blocks without use, by hnext: meta_room() sees to it that they suffice */
	unsigned nspare;
	void **slab;			/* memory of all blocks, */
	unsigned nslab;
	uint8_t *slab_at, *slab_end;	/* what of the last one was never used, */
	uint8_t *bufs;			/* and what was given back */
	struct list dirty[META_RANKS], closing[META_RANKS];

	struct list sync_next;		/* waiters for an epoch that is still to close */
	struct list sync_now;		/* waiters for the one that is being written */
	bool running;			/* an epoch is being written */
	bool flushing;			/* its current step is the flush */
	int step;			/* rank that is being written or flushed */
	unsigned writes;		/* transfers of this step in flight */
	int werr;
	uint64_t werr_off;
	struct io flush_io[META_FLUSHES];
	struct list room;		/* waiters for blocks that can be evicted */

	struct list users;		/* struct meta_user, oldest first */
	uint64_t gen;
	struct list freed_open, freed_closing, freed_ready;	/* of struct meta_freed */
	unsigned nfreed;
	bool releasing;			/* a release is parked */
	bool punch;			/* wanted: free space is discarded in the file (meta_punch) */
	uint32_t free_align;		/* freed ranges that touch here may be released as one; 0: never */
	uint64_t released;		/* counts releases; caches of host addresses compare it */
	struct list punching;		/* struct punch in flight */
	struct waiter rel_wait;
	struct list cold_wait;
	struct task kick;
	struct timer timer;

	int failed;			/* negative errno: read-only from now on */
	bool changed;			/* the running driver call has changed something */
	bool cold;			/* tests: see meta_op_done() */
	uint32_t ops_done;
	unsigned mutant;		/* tests: one broken rule (META_MUTANT_*), 0 none */
};

/* Each breaks one rule; the power tests must catch every one of them. */
enum {
	META_MUTANT_NONE,
	META_MUTANT_NO_FIRST_FLUSH,	/* no flush before rank 1 */
	META_MUTANT_NO_RANK_FLUSH,	/* none between ranks */
	META_MUTANT_REVERSED,		/* ranks written from the top */
	META_MUTANT_EARLY_RELEASE,	/* freed space released before its epoch is durable */
	META_MUTANT_NO_GENERATION,	/* released although requests mapped earlier are in flight */
	META_MUTANT_NO_FROZEN,		/* what is written may be newer than what was closed */
	META_MUTANT_EARLY_COMMIT,	/* engine: the mapping is published before the data is written */
	META_MUTANT_JOIN_EPOCH,		/* a flush is content with the epoch already running */
	META_MUTANTS
};

/*
 * @bsize: power of two, 512 to 65536.  @cache: bytes, raised to a workable minimum.
 * The files stay the caller's.
 */
int meta_new(struct file *file, uint32_t bsize, uint64_t cache, const struct meta_ops *ops,
	     void *arg, struct meta **out);
/*
 * A flush covers @f too.  Returns its index, which is 1 or more, or -ENOMEM.  @blocks: it has blocks as
 * well: from now on all addresses are taken for meta_addr() ones, and offsets end at 1 << META_FILE_SHIFT.
 */
int meta_add_file(struct meta *m, struct file *f, bool blocks);
void meta_drop_file(struct meta *m, unsigned index);	/* the last one added; it has no blocks in the cache */
void meta_destroy(struct meta *m);	/* dirty blocks are lost: meta_sync first */

/* For -EAGAIN of a call that has worked long enough: it is woken when others have had their turn. */
void meta_yield(struct meta *m);
struct mblk *meta_get_slow(struct meta *m, uint64_t off);
bool meta_room(struct meta *m, unsigned nblocks);
uint8_t *meta_dirty(struct meta *m, struct mblk *b, unsigned rank);
uint8_t *meta_fresh(struct meta *m, uint64_t off, unsigned rank);
void meta_free(struct meta *m, uint64_t off, uint64_t len);
/* space that was reserved and never referred to: released as soon as nobody can use it */
void meta_free_unused(struct meta *m, uint64_t off, uint64_t len);
/*
 * Called by release for space that nothing uses any more: with m->punch it is discarded in the file.
 * An allocator passes over ranges that are still being discarded.
 */
void meta_punch(struct meta *m, uint64_t off, uint64_t len);
bool meta_punching(const struct meta *m, uint64_t off, uint64_t len);
/*
 * For space that has to read as zeroes before anything refers to it: meta_wipe_start() zeroes it in the
 * file.  meta_wipe_wait(): 0 once that is done, -EAGAIN (parked) until then, or why it failed; then the
 * taker ends it.  NULL: no memory.
 */
struct meta_wipe;
struct meta_wipe *meta_wipe_start(struct meta *m, uint64_t off, uint64_t len);
int meta_wipe_wait(struct meta_wipe *w);
void meta_wipe_end(struct meta_wipe *w);	/* NULL is accepted; not while it is under way */
/* drops cached blocks in a range that holds metadata no more */
void meta_forget(struct meta *m, uint64_t off, uint64_t len);

static inline uint64_t meta_addr(unsigned index, uint64_t off)
{
	return (uint64_t)index << META_FILE_SHIFT | off;
}

static inline unsigned meta_index(const struct meta *m, uint64_t addr)
{
	return m->fshift ? addr >> m->fshift : 0;
}

static inline uint64_t meta_offset(const struct meta *m, uint64_t addr)
{
	return m->fshift ? addr & ((1ULL << m->fshift) - 1) : addr;
}

static inline unsigned meta_hash(const struct meta *m, uint64_t off)
{
	return (unsigned)(((off >> m->bshift) * 0x9e3779b97f4a7c15ULL) >> 40) & m->hmask;
}

/* @off: any offset inside the block.  The offset has passed the driver's range check. */
static inline struct mblk *meta_get(struct meta *m, uint64_t off)
{
	struct mblk *b;

	off &= ~(uint64_t)(m->bsize - 1);
	for (b = m->hash[meta_hash(m, off)]; b; b = b->hnext)
		if (b->off == off && b->state == MBLK_VALID && !m->cold) {
			b->ref = true;
			return b;
		}
	return meta_get_slow(m, off);
}

/* The block if it happens to be there; never starts a read.  For answers that may stop short. */
static inline struct mblk *meta_peek(struct meta *m, uint64_t off)
{
	struct mblk *b;

	off &= ~(uint64_t)(m->bsize - 1);
	for (b = m->hash[meta_hash(m, off)]; b; b = b->hnext)
		if (b->off == off)
			return b->state == MBLK_VALID && !m->cold ? b : NULL;
	return NULL;
}

/* The engine brackets every hot driver call with these. */
static inline void meta_op_begin(struct meta *m)
{
	if (m)
		m->changed = false;
}
void meta_op_done(struct meta *m);	/* cold mode: the next meta_get of each block says NULL first */

static inline void meta_enter(struct meta *m, struct meta_user *u)
{
	u->gen = m->gen;
	list_append(&m->users, &u->node);
}
void meta_leave(struct meta *m, struct meta_user *u);

/*
 * Wakes w (w->ret: 0 or negative errno) once everything changed, and every data write finished,
 * before this call is durable.
 */
void meta_sync(struct meta *m, struct waiter *w);

/* Blocking, for administrative calls: nothing dirty, nothing waiting to be released. */
int meta_settle(struct meta *m);
/* Waits until none of its I/O runs any more, also after a failure: what was dirty stays so. */
void meta_quiet(struct meta *m);
/* Forgets all blocks, after administrative code has changed the file underneath. Must be settled. */
void meta_drop(struct meta *m);

#endif
