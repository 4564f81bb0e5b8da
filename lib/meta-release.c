/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * meta-release.c - freed space: kept until nothing can refer to it any more (rules M6 and M7 of
 * meta.c), then released to the driver, and discarded in the file if that is wanted
 *
 * What cannot be released, because memory is short or its counts cannot be read, stays leaked in
 * the image, which is allowed at any time.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "checked.h"
#include "meta-impl.h"

struct meta_freed {
	struct list node;
	uint64_t off, len, gen;
};

struct punch {
	struct io io;
	struct meta *m;
	struct list node;
};

static void freed_add(struct meta *m, struct list *list, uint64_t off, uint64_t len)
{
	struct meta_freed *f;

	if (!list_empty(list)) {
		f = list_entry(list->prev, struct meta_freed, node);
		if (m->free_align && f->off + f->len == off && is_aligned(off, m->free_align)) {
			f->len += len;
			f->gen = m->gen++;
			return;
		}
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return;		/* leaked in the image, which is allowed at any time */
	f->off = off;
	f->len = len;
	f->gen = m->gen++;
	m->nfreed++;
	list_append(list, &f->node);
}

void meta_free(struct meta *m, uint64_t off, uint64_t len)
{
	bool early = m->mutant == META_MUTANT_EARLY_RELEASE;

	m->changed = true;
	freed_add(m, early ? &m->freed_ready : &m->freed_open, off, len);
	if (early)
		meta_kick(m);
}

void meta_free_unused(struct meta *m, uint64_t off, uint64_t len)
{
	freed_add(m, &m->freed_ready, off, len);
	meta_kick(m);
}

static void release_wake(struct waiter *w)
{
	struct meta *m = container_of(w, struct meta, rel_wait);

	m->releasing = false;
	if (w->ret) {		/* its counts cannot be read: the space stays leaked */
		struct list *n = list_pop(&m->freed_ready);

		if (n) {
			m->nfreed--;
			free(list_entry(n, struct meta_freed, node));
		}
	}
	meta_release_run(m);
}

static bool release_may(const struct meta *m, const struct meta_freed *f)
{
	if (m->mutant == META_MUTANT_NO_GENERATION || list_empty(&m->users))
		return true;
	return list_first(&m->users, struct meta_user, node)->gen > f->gen;	/* M7 */
}

void meta_release_run(struct meta *m)
{
	while (!m->releasing && !m->failed && !list_empty(&m->freed_ready)) {
		struct meta_freed *f = list_first(&m->freed_ready, struct meta_freed, node);
		int ret;

		if (!release_may(m, f))
			return;
		meta_op_begin(m);
		ret = m->ops->release(m->arg, f->off, f->len);
		if (ret == -EAGAIN) {
			m->releasing = true;
			loop_park(m->loop, &m->rel_wait);
			return;
		}
		meta_op_done(m);
		m->released++;
		list_del(&f->node);
		m->nfreed--;
		free(f);
	}
}

void meta_leave(struct meta *m, struct meta_user *u)
{
	list_del(&u->node);
	if (!list_empty(&m->freed_ready))
		meta_kick(m);
}

static void punch_done(struct io *io)
{
	struct punch *p = container_of(io, struct punch, io);

	list_del(&p->node);
	free(p);
}

void meta_punch(struct meta *m, uint64_t off, uint64_t len)
{
	struct punch *p;

	if (!m->punch)
		return;
	p = calloc(1, sizeof(*p));
	if (!p)
		return;
	p->m = m;
	p->io = (struct io){ .file = m->files[meta_index(m, off)].file, .op = IO_DISCARD,
			     .off = meta_offset(m, off), .len = len, .done = punch_done };
	list_append(&m->punching, &p->node);
	file_submit(&p->io);
}

bool meta_punching(const struct meta *m, uint64_t off, uint64_t len)
{
	const struct file *f = m->files[meta_index(m, off)].file;
	struct list *n;

	off = meta_offset(m, off);
	list_for_each(n, &m->punching) {
		struct punch *p = list_entry(n, struct punch, node);

		if (p->io.file == f && p->io.off < off + len && off < p->io.off + p->io.len)
			return true;
	}
	return false;
}

struct meta_wipe {
	struct io io;
	struct meta *m;
	struct list waiters;
	bool done;
};

static void wipe_done(struct io *io)
{
	struct meta_wipe *w = container_of(io, struct meta_wipe, io);
	struct list waiters = LIST_INIT(waiters);

	w->done = true;
	list_splice(&waiters, &w->waiters);
	waiters_wake(&waiters, 0);	/* they ask how it went; w may be gone after this */
}

struct meta_wipe *meta_wipe_start(struct meta *m, uint64_t off, uint64_t len)
{
	struct meta_wipe *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->m = m;
	list_init(&w->waiters);
	w->io = (struct io){ .file = m->files[meta_index(m, off)].file, .op = IO_ZERO,
			     .flags = IO_MAY_UNMAP, .off = meta_offset(m, off), .len = len,
			     .done = wipe_done };
	file_submit(&w->io);
	return w;
}

int meta_wipe_wait(struct meta_wipe *w)
{
	if (w->done)
		return w->io.ret;
	assert(!w->m->changed);		/* M9 */
	loop_set_park(w->m->loop, &w->waiters);
	return -EAGAIN;
}

void meta_wipe_end(struct meta_wipe *w)
{
	assert(!w || w->done);
	free(w);
}

void meta_release_init(struct meta *m)
{
	list_init(&m->users);
	list_init(&m->freed_open);
	list_init(&m->freed_closing);
	list_init(&m->freed_ready);
	list_init(&m->punching);
	list_init(&m->rel_wait.node);
	m->rel_wait.wake = release_wake;
}

static void freed_discard(struct list *l)
{
	struct list *n;

	while ((n = list_pop(l)))
		free(list_entry(n, struct meta_freed, node));
}

void meta_release_end(struct meta *m)
{
	list_del(&m->rel_wait.node);
	freed_discard(&m->freed_open);
	freed_discard(&m->freed_closing);
	freed_discard(&m->freed_ready);
}
