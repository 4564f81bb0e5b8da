/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * meta.c - the metadata cache, and the order in which metadata reaches the disk
 *
 * M1 Rank.     A block refers only to data or to blocks of lower rank; rank 0 refers to nothing.
 * M2 Epoch.    On a flush, a dirty limit or a timer all dirty blocks close together as one epoch;
 *              later changes belong to the next one.
 * M3 Frozen.   Changing a block of a closing epoch first puts its closing contents aside; what is
 *              written is what was closed.
 * M4 Sequence. Rank 0 is written, then everything is flushed, which also covers all data writes that
 *              finished before the epoch closed; then each rank that is not empty, in ascending
 *              order, a flush after each.
 * M5 Sync.     A guest's flush waits for an epoch that closes after it arrived, never for one that
 *              is already being written.
 * M6 Release.  Space freed in an epoch is released once that epoch is durable,
 * M7 Users.    and all requests that were mapped before the freeing have finished.
 * M8 Failure.  After a failed metadata write or flush nothing more is written: the image is
 *              read-only and every later sync fails.
 * M9 Gather, then change.  A driver call answers -EAGAIN only before its first change.
 *
 * Why this is enough: whatever the disk holds after a crash, each block holds its contents of some
 * closed epoch (an entry is right in its old and in its new state, so that torn blocks are mixtures
 * of right entries), and a reference is on disk only if what it refers to, at every lower rank, was
 * flushed before. What an old reference refers to is intact as long as it can be on disk (M6).
 * So a crash can leak space but never show wrong bytes.
 *
 * Left out: journalling, and pinning of blocks across restarts. The cache is larger than what all
 * operations that the engine lets run at once can gather together, so that they cannot thrash.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "checked.h"
#include "err.h"
#include "meta-impl.h"

#define MIN_BLOCKS 512
#define TIMER_NS (5ULL * 1000 * 1000 * 1000)
#define WRITE_BLOCKS 256	/* neighbours written in one transfer */
#define SLAB (256 * KiB)
#define HUGE_SLAB (2 * MiB)
#define SMALL_SLABS 4
#define SPARE_BLOCKS 64		/* unused ones kept for the next use */

struct meta_read {
	struct io io;
	struct meta *m;
	struct mblk *b;
};

struct meta_write {
	struct io io;
	struct meta *m;
	struct iovec iov[];
};

static void epoch_step(struct meta *m);

/* ------------------------------------------------------------------- blocks */

static struct mblk **hash_slot(struct meta *m, uint64_t off)
{
	struct mblk **pp = &m->hash[meta_hash(m, off)];

	while (*pp && (*pp)->off != off)
		pp = &(*pp)->hnext;
	return pp;
}

/*
 * Buffers come out of slabs: one by one they would each take two pages, and lie on so many of them
 * that finding the page costs as much as a look-up. The first slabs are small, for small images;
 * the others can be huge pages. What is given back is used again; memory goes with the cache.
 */
static bool slab_new(struct meta *m)
{
	size_t size = m->nslab < SMALL_SLABS ? SLAB : HUGE_SLAB;
	void **v = realloc(m->slab, (m->nslab + 1) * sizeof(*v)), *p;

	if (!v)
		return false;
	m->slab = v;
	if (posix_memalign(&p, size == HUGE_SLAB ? size : 4096, size))
		return false;
	if (size == HUGE_SLAB)
		madvise(p, size, MADV_HUGEPAGE);
	v[m->nslab++] = p;
	m->slab_at = p;
	m->slab_end = m->slab_at + size;
	return true;
}

static uint8_t *buf_get(struct meta *m)
{
	uint8_t *p = m->bufs;

	if (p) {
		memcpy(&m->bufs, p, sizeof(m->bufs));
		return p;
	}
	if (m->slab_at == m->slab_end && !slab_new(m))
		return NULL;
	p = m->slab_at;
	m->slab_at += m->bsize;
	return p;
}

static void buf_put(struct meta *m, uint8_t *p)
{
	if (!p)
		return;
	memcpy(p, &m->bufs, sizeof(m->bufs));
	m->bufs = p;
}

static void blk_free(struct meta *m, struct mblk *b)
{
	buf_put(m, b->data);
	buf_put(m, b->frozen);
	free(b);
}

static void blk_put(struct meta *m, struct mblk *b)
{
	if (m->nspare >= SPARE_BLOCKS) {
		blk_free(m, b);
		return;
	}
	b->hnext = m->spare;
	m->spare = b;
	m->nspare++;
}

/* at least @n spare blocks, and places in the ring for them */
static bool blk_spares(struct meta *m, unsigned n)
{
	while (m->ringsize < m->nblk + n) {
		unsigned size = MAX(2 * m->ringsize, 64U);
		struct mblk **ring = realloc(m->ring, size * sizeof(*ring));

		if (!ring)
			return false;
		m->ring = ring;
		m->ringsize = size;
	}
	while (m->nspare < n) {
		struct mblk *b = calloc(1, sizeof(*b));

		if (b)
			b->data = buf_get(m);
		if (!b || !b->data) {
			free(b);
			return false;
		}
		b->hnext = m->spare;
		m->spare = b;
		m->nspare++;
	}
	return true;
}

static void blk_remove(struct meta *m, struct mblk *b)
{
	struct mblk **pp = hash_slot(m, b->off);

	assert(*pp == b && !b->dirty && !b->closing);
	*pp = b->hnext;
	m->ring[b->slot] = m->ring[--m->nblk];
	m->ring[b->slot]->slot = b->slot;
	blk_put(m, b);
}

/* CLOCK: one clean block that was not used lately goes; false if there is none */
static bool blk_evict(struct meta *m)
{
	unsigned n;

	for (n = 0; n < 2 * m->nblk; n++) {
		struct mblk *b;

		if (m->hand >= m->nblk)
			m->hand = 0;
		b = m->ring[m->hand];
		if (b->reading || b->dirty || b->closing) {
			m->hand++;
		} else if (b->ref) {
			b->ref = false;
			m->hand++;
		} else {
			blk_remove(m, b);
			return true;
		}
	}
	return false;
}

/* from the spare ones */
static struct mblk *blk_new(struct meta *m, uint64_t off)
{
	struct mblk *b = m->spare, **slot = &m->hash[meta_hash(m, off)];
	uint8_t *data;

	assert(b && m->nblk < m->ringsize);
	m->spare = b->hnext;
	m->nspare--;
	data = b->data;
	buf_put(m, b->frozen);
	*b = (struct mblk){ .off = off, .data = data, .state = MBLK_VALID, .slot = m->nblk,
			    .hnext = *slot, .warm = m->ops_done };
	list_init(&b->dnode);
	list_init(&b->cnode);
	list_init(&b->waiters);
	m->ring[m->nblk++] = b;
	*slot = b;
	return b;
}

static void kick_fn(struct task *t)
{
	struct meta *m = container_of(t, struct meta, kick);
	struct list cold = LIST_INIT(cold);

	list_splice(&cold, &m->cold_wait);
	waiters_wake(&cold, 0);
	if (m->failed) {
		waiters_wake(&m->sync_next, m->failed);
		waiters_wake(&m->room, m->failed);
		return;
	}
	if (!m->running && (!list_empty(&m->sync_next) || !list_empty(&m->room) ||
			    m->ndirty > m->maxblk / 2))
		epoch_step(m);
	meta_release_run(m);
}

void meta_kick(struct meta *m)
{
	if (list_empty(&m->kick.node))
		loop_defer(m->loop, &m->kick);
}

/* The driver call cannot go on: it must not have changed anything yet (M9). */
static void meta_wait(struct meta *m, struct list *waiters)
{
	assert(!m->changed);
	loop_set_park(m->loop, waiters);
}

static void meta_fail(struct meta *m, int err, uint64_t off, const char *what)
{
	if (m->failed)
		return;
	m->failed = err;
	m->ops->failed(m->arg, err, off, what);
	meta_kick(m);
}

/* --------------------------------------------------------------------- reads */

static void read_done(struct io *io)
{
	struct meta_read *r = container_of(io, struct meta_read, io);
	struct meta *m = r->m;
	struct mblk *b = r->b;
	struct list waiters = LIST_INIT(waiters);
	bool superseded = b->state == MBLK_VALID;	/* by meta_fresh() */
	int ret = superseded ? 0 : io->ret;

	if (superseded)
		buf_put(m, io->iov1.iov_base);
	free(r);
	m->nreading--;
	list_splice(&waiters, &b->waiters);
	b->reading = false;
	b->state = MBLK_VALID;
	b->ref = true;
	b->warm = m->ops_done;
	if (ret)
		blk_remove(m, b);
	waiters_wake(&waiters, ret);
	if (!list_empty(&m->room))
		meta_kick(m);
}

static void read_start(struct meta *m, struct mblk *b, struct meta_read *r)
{
	r->m = m;
	r->b = b;
	b->state = MBLK_READING;
	b->reading = true;
	m->nreading++;
	r->io.file = m->files[meta_index(m, b->off)].file;
	r->io.op = IO_READ;
	r->io.off = meta_offset(m, b->off);
	r->io.len = m->bsize;
	r->io.iov1.iov_base = b->data;
	r->io.iov1.iov_len = m->bsize;
	r->io.iov = &r->io.iov1;
	r->io.iovcnt = 1;
	r->io.done = read_done;
	file_submit(&r->io);
}

void meta_yield(struct meta *m)
{
	meta_wait(m, &m->cold_wait);
	meta_kick(m);
}

/* Makes place for @n more blocks; false: wait for m->room. */
static bool make_room(struct meta *m, unsigned n)
{
	while (m->nblk + n > m->maxblk && blk_evict(m))
		;
	/* Blocks of operations under way may exceed the limit for a while, so that they can end. */
	if (m->nblk + n <= 2 * m->maxblk && blk_spares(m, n))
		return true;
	meta_kick(m);
	return false;
}

struct mblk *meta_get_slow(struct meta *m, uint64_t off)
{
	struct mblk *b = *hash_slot(m, off);
	struct meta_read *r;

	if (b && b->state == MBLK_VALID) {
		if (!m->cold || b->warm == m->ops_done) {
			b->ref = true;
			return b;
		}
		b->warm = m->ops_done;
		meta_wait(m, &m->cold_wait);
		meta_kick(m);
		return NULL;
	}
	if (!b) {
		if (!make_room(m, 1)) {
			meta_wait(m, &m->room);
			return NULL;
		}
		b = blk_new(m, off);
		if (!m->cold && !file_read_now(m->files[meta_index(m, off)].file, b->data, m->bsize,
					       meta_offset(m, off))) {
			b->ref = true;
			return b;
		}
		r = calloc(1, sizeof(*r));
		if (!r) {	/* others will give some memory back */
			blk_remove(m, b);
			meta_wait(m, &m->room);
			meta_kick(m);
			return NULL;
		}
		read_start(m, b, r);
	}
	meta_wait(m, &b->waiters);
	return NULL;
}

/* ------------------------------------------------------------------- changes */

bool meta_room(struct meta *m, unsigned n)
{
	/* on a failed image the caller's write has failed already: let it come to that */
	if (make_room(m, n) && (m->ndirty + m->nclosing + n <= 2 * m->maxblk || m->failed))
		return true;
	meta_wait(m, &m->room);
	meta_kick(m);
	return false;
}

static void timer_fn(struct task *t)
{
	struct meta *m = container_of(t, struct meta, timer.task);

	if (!m->running && !m->failed && m->ndirty)
		epoch_step(m);
}

uint8_t *meta_dirty(struct meta *m, struct mblk *b, unsigned rank)
{
	assert(b->state == MBLK_VALID && rank < META_RANKS);
	m->changed = true;
	if (b->closing && !b->frozen && m->mutant != META_MUTANT_NO_FROZEN) {	/* M3 */
		uint8_t *copy = buf_get(m);

		if (copy) {
			memcpy(copy, b->data, m->bsize);
			b->frozen = b->data;
			b->data = copy;
		} else {
			m->werr = -ENOMEM;	/* ends the epoch before anything wrong is written */
			m->werr_off = b->off;
		}
	}
	if (!b->dirty) {
		b->dirty = true;
		b->rank = rank;
		list_append(&m->dirty[rank], &b->dnode);
		if (!m->ndirty++ && list_empty(&m->timer.task.node))
			loop_timer_arm(m->loop, &m->timer, loop_now(m->loop) + TIMER_NS);
		if (m->ndirty > m->maxblk / 2 && !m->running)
			meta_kick(m);
	}
	b->ref = true;
	return b->data;
}

uint8_t *meta_fresh(struct meta *m, uint64_t off, unsigned rank)
{
	struct mblk *b = *hash_slot(m, off);

	if (!b)
		b = blk_new(m, off);
	if (b->state == MBLK_READING) {
		/* The read is of contents that do not matter any more: it keeps its buffer. */
		struct mblk *spare = m->spare;

		assert(spare);
		m->spare = spare->hnext;
		m->nspare--;
		b->data = spare->data;
		free(spare);
		b->state = MBLK_VALID;
	}
	b->warm = m->ops_done;
	return memset(meta_dirty(m, b, rank), 0, m->bsize);
}

void meta_op_done(struct meta *m)
{
	if (!m)
		return;
	m->changed = false;	/* the next look may come through a layer above, which begins its own */
	if (m->cold)
		m->ops_done++;
}

void meta_forget(struct meta *m, uint64_t off, uint64_t len)
{
	uint64_t end = round_up(off + len, m->bsize), o;

	for (o = round_down(off, m->bsize); o < end; o += m->bsize) {
		struct mblk *b = *hash_slot(m, o);

		if (!b || b->state != MBLK_VALID)
			continue;
		if (b->dirty) {
			list_del(&b->dnode);
			b->dirty = false;
			m->ndirty--;
		}
		if (!b->closing && !b->reading)
			blk_remove(m, b);
	}
}

/* -------------------------------------------------------------------- epochs */

static void epoch_close(struct meta *m)
{
	int r;

	for (r = 0; r < META_RANKS; r++) {
		struct list *n;

		while ((n = list_pop(&m->dirty[r]))) {
			struct mblk *b = list_entry(n, struct mblk, dnode);

			b->dirty = false;
			b->closing = true;
			b->crank = r;
			list_append(&m->closing[r], &b->cnode);
		}
	}
	m->nclosing = m->ndirty;
	m->ndirty = 0;
	list_splice(&m->sync_now, &m->sync_next);
	list_splice(&m->freed_closing, &m->freed_open);
	loop_timer_cancel(&m->timer);
	m->running = true;
	m->flushing = false;
	m->step = -1;
	m->writes = 0;
}

static void epoch_end(struct meta *m)
{
	struct list waiters = LIST_INIT(waiters);
	int r;

	if (m->werr)
		meta_fail(m, m->werr, m->werr_off, "metadata could not be written");
	for (r = 0; r < META_RANKS; r++) {
		struct list *n;

		while ((n = list_pop(&m->closing[r]))) {
			struct mblk *b = list_entry(n, struct mblk, cnode);

			b->closing = false;
			buf_put(m, b->frozen);
			b->frozen = NULL;
			/* what did not reach the disk must not be dropped from the cache */
			if (m->failed && !b->dirty) {
				b->dirty = true;
				list_append(&m->dirty[b->crank], &b->dnode);
				m->ndirty++;
			}
		}
	}
	m->nclosing = 0;
	m->running = false;
	list_splice(&waiters, &m->sync_now);
	if (!m->failed)
		list_splice(&m->freed_ready, &m->freed_closing);
	waiters_wake(&waiters, m->failed);
	list_splice(&waiters, &m->room);
	waiters_wake(&waiters, m->failed);
	meta_kick(m);
	if (m->ndirty && !m->failed && list_empty(&m->timer.task.node))
		loop_timer_arm(m->loop, &m->timer, loop_now(m->loop) + TIMER_NS);
}

static void flush_done(struct io *io);

/* Flushes the next file that needs it; false: there is none. */
static bool flush_next(struct meta *m, struct io *io)
{
	while (m->flush_next < m->nfiles) {
		struct meta_file *f = &m->files[m->flush_next++];
		/* the first flush has data to cover as well, in any file */
		bool wanted = (m->step <= 0 || f->wrote) && !file_flushed(f->file);

		f->wrote = false;
		if (!wanted)
			continue;
		*io = (struct io){ .file = f->file, .op = IO_FLUSH, .done = flush_done,
				   .iov1 = { .iov_base = m } };
		m->writes++;
		file_submit(io);
		return true;
	}
	return false;
}

static void flush_done(struct io *io)
{
	struct meta *m = *(struct meta **)&io->iov1.iov_base;

	if (io->ret && !m->werr) {
		m->werr = io->ret;
		m->werr_off = 0;
	}
	m->writes--;
	if (!flush_next(m, io) && !m->writes)
		epoch_step(m);
}

/* false: there was nothing to flush */
static bool epoch_flush(struct meta *m)
{
	unsigned i;

	m->flushing = true;
	m->flush_next = 0;
	for (i = 0; i < META_FLUSHES && flush_next(m, &m->flush_io[i]); i++)
		;
	return m->writes > 0;
}

static void write_done(struct io *io)
{
	struct meta_write *w = container_of(io, struct meta_write, io);
	struct meta *m = w->m;

	if (io->ret && !m->werr) {
		m->werr = io->ret;
		m->werr_off = io->off;
	}
	free(w);
	if (!--m->writes)
		epoch_step(m);
}

static int by_off(const void *a, const void *b)
{
	const struct mblk *x = *(struct mblk *const *)a, *y = *(struct mblk *const *)b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static int write_run(struct meta *m, struct mblk **v, unsigned n)
{
	struct meta_write *w = calloc(1, sizeof(*w) + n * sizeof(w->iov[0]));
	unsigned i;

	if (!w)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		w->iov[i].iov_base = v[i]->frozen ? v[i]->frozen : v[i]->data;
		w->iov[i].iov_len = m->bsize;
	}
	w->m = m;
	w->io = (struct io){ .file = m->files[meta_index(m, v[0]->off)].file, .op = IO_WRITE,
			     .off = meta_offset(m, v[0]->off), .len = (uint64_t)n * m->bsize,
			     .iov = w->iov, .iovcnt = n, .done = write_done };
	m->files[meta_index(m, v[0]->off)].wrote = true;
	m->writes++;
	file_submit(&w->io);
	return 0;
}

/* Starts the writes of one rank, neighbours together. The blocks keep still until epoch_end (M3). */
static void epoch_write(struct meta *m, int rank)
{
	struct mblk **v;
	struct list *n;
	unsigned count = 0, i, j;

	list_for_each(n, &m->closing[rank])
		count++;
	if (!count)
		return;
	v = malloc(count * sizeof(*v));
	if (!v) {
		m->werr = -ENOMEM;
		m->werr_off = list_first(&m->closing[rank], struct mblk, cnode)->off;
		return;
	}
	i = 0;
	list_for_each(n, &m->closing[rank])
		v[i++] = list_entry(n, struct mblk, cnode);
	qsort(v, count, sizeof(*v), by_off);
	for (i = 0; i < count && !m->werr; i = j) {
		for (j = i + 1; j < count && j - i < WRITE_BLOCKS; j++)
			if (v[j]->off != v[j - 1]->off + m->bsize ||
			    meta_index(m, v[j]->off) != meta_index(m, v[i]->off))
				break;
		m->werr = write_run(m, v + i, j - i);
		m->werr_off = v[i]->off;
	}
	free(v);
}

static bool step_has_flush(const struct meta *m, int rank)
{
	switch (m->mutant) {
	case META_MUTANT_NO_FIRST_FLUSH:
		if (!rank)
			return false;
		break;
	case META_MUTANT_NO_RANK_FLUSH:
		if (rank && rank < META_RANKS - 1)
			return false;
		break;
	}
	return true;
}

/* The rank written at step s; with a mutant the other way round. */
static int step_rank(const struct meta *m, int s)
{
	return m->mutant == META_MUTANT_REVERSED ? META_RANKS - 1 - s : s;
}

/* Takes an epoch further when nothing of it is in flight; closes one if none is running (M2, M4). */
static void epoch_step(struct meta *m)
{
	if (!m->running)
		epoch_close(m);
	for (;;) {
		bool wrote;

		if (m->werr)
			break;
		/* the writes of this step are over */
		if (m->step >= 0 && !m->flushing && step_has_flush(m, m->step) && epoch_flush(m))
			return;
		m->flushing = false;
		do {
			if (++m->step == META_RANKS)
				goto end;
			epoch_write(m, step_rank(m, m->step));
			wrote = m->writes > 0;
		} while (!wrote && m->step && !m->werr);
		if (wrote)
			return;
		/* rank 0 was empty: its flush is needed all the same */
	}
end:
	if (!m->writes)
		epoch_end(m);
}

void meta_sync(struct meta *m, struct waiter *w)
{
	if (m->mutant == META_MUTANT_JOIN_EPOCH && m->running)
		list_append(&m->sync_now, &w->node);
	else
		list_append(&m->sync_next, &w->node);	/* M5 */
	meta_kick(m);
}

/* --------------------------------------------------------------- life of one */

int meta_new(struct file *file, uint32_t bsize, uint64_t cache, const struct meta_ops *ops,
	     void *arg, struct meta **out)
{
	struct meta *m = calloc(1, sizeof(*m));
	unsigned hsize = 256;
	int r;

	if (!m)
		return -ENOMEM;
	m->loop = file->loop;
	m->nfiles = 1;
	m->ops = ops;
	m->arg = arg;
	m->bsize = bsize;
	m->bshift = __builtin_ctz(bsize);
	m->maxblk = MAX(cache / bsize, MIN_BLOCKS);
	while (hsize < m->maxblk && hsize < (1U << 20))
		hsize *= 2;
	m->hash = calloc(hsize, sizeof(*m->hash));
	m->hmask = hsize - 1;
	m->files = calloc(1, sizeof(*m->files));
	if (!m->hash || !m->files) {
		free(m->files);
		free(m->hash);
		free(m);
		return -ENOMEM;
	}
	m->files[0].file = file;
	for (r = 0; r < META_RANKS; r++) {
		list_init(&m->dirty[r]);
		list_init(&m->closing[r]);
	}
	list_init(&m->sync_next);
	list_init(&m->sync_now);
	list_init(&m->room);
	meta_release_init(m);
	list_init(&m->cold_wait);
	list_init(&m->kick.node);
	m->kick.fn = kick_fn;
	list_init(&m->timer.task.node);
	m->timer.task.fn = timer_fn;
	*out = m;
	return 0;
}

int meta_add_file(struct meta *m, struct file *f, bool blocks)
{
	struct meta_file *v;

	assert(!m->nblk && m->nfiles < 1U << (64 - META_FILE_SHIFT));
	v = realloc(m->files, (m->nfiles + 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	m->files = v;
	v[m->nfiles] = (struct meta_file){ .file = f };
	if (blocks)
		m->fshift = META_FILE_SHIFT;
	return (int)m->nfiles++;
}

void meta_drop_file(struct meta *m, unsigned index)
{
	assert(index && index == m->nfiles - 1 && !m->running);
	m->nfiles--;
}

static bool meta_busy(const struct meta *m)
{
	return m->running || m->nreading || !list_empty(&m->punching) || !list_empty(&m->kick.node);
}

void meta_quiet(struct meta *m)
{
	while (meta_busy(m) && tapimg_loop_run(m->loop, true) >= 0)
		;
}

void meta_destroy(struct meta *m)
{
	if (!m)
		return;
	meta_quiet(m);
	loop_timer_cancel(&m->timer);
	meta_release_end(m);
	while (m->nblk) {
		struct mblk *b = m->ring[m->nblk - 1];

		b->dirty = b->closing = false;
		blk_remove(m, b);
	}
	while (m->spare) {
		struct mblk *b = m->spare;

		m->spare = b->hnext;
		blk_free(m, b);
	}
	while (m->nslab)
		free(m->slab[--m->nslab]);
	free(m->slab);
	free(m->ring);
	free(m->hash);
	free(m->files);
	free(m);
}

struct settle {
	struct waiter w;
	bool done;
};

static void settle_wake(struct waiter *w)
{
	container_of(w, struct settle, w)->done = true;
}

int meta_settle(struct meta *m)
{
	do {
		struct settle s = { .w = { .wake = settle_wake } };
		int ret;

		list_init(&s.w.node);
		meta_sync(m, &s.w);
		ret = loop_until(m->loop, &s.done);
		if (ret || s.w.ret)
			return ret ? ret : s.w.ret;
		while ((!list_empty(&m->freed_ready) || meta_busy(m)) && !m->failed) {
			ret = tapimg_loop_run(m->loop, true);
			if (ret < 0)
				return ret;
		}
	} while (!m->failed && (m->ndirty || m->nfreed));
	return m->failed;
}

void meta_drop(struct meta *m)
{
	assert(!m->running && !m->nreading && !m->ndirty);
	while (m->nblk)
		blk_remove(m, m->ring[m->nblk - 1]);
	m->released++;
}
