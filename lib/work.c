/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * work.c - helper threads
 *
 * Threads start when a job finds none idle, up to the limit, and live as long as the loop.  A job
 * that has run goes to the list of finished ones; the loop is woken only if it sleeps.  If not even
 * one thread can be had, the loop runs the job itself.
 *
 * The order that makes sure no wake-up is lost: a helper raises nfinished, then looks at sleeping;
 * the loop sets sleeping, then looks at nfinished (loop_sleep).  Both sequentially consistent.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "checked.h"
#include "loop-impl.h"

#define BLOCKING_MAX 16
#define WAKE_BATCH 8		/* finished jobs that wake the loop although others wait to be run */

struct work_slots {
	void *ptr[WORK_SLOTS];
	void (*dtor[WORK_SLOTS])(void *);
};

/* per thread, hence shared by nobody */
static __thread struct work_slots work_slots;

void **work_slot(enum work_slot key, void (*dtor)(void *))
{
	work_slots.dtor[key] = dtor;
	return &work_slots.ptr[key];
}

void work_slots_free(void)
{
	unsigned i;

	for (i = 0; i < WORK_SLOTS; i++) {
		if (work_slots.ptr[i] && work_slots.dtor[i])
			work_slots.dtor[i](work_slots.ptr[i]);
		work_slots.ptr[i] = NULL;
	}
}

unsigned work_threads(const struct tapimg_loop *loop)
{
	return loop->pool.crew[CREW_CPU].max;
}

/* with the lock held */
static void pool_finished(struct pool *p, struct work *w)
{
	list_append(&p->finished, &w->node);
	__atomic_add_fetch(&p->nfinished, 1, __ATOMIC_SEQ_CST);
}

static void pool_wake_loop(struct pool *p)
{
	struct tapimg_loop *loop = container_of(p, struct tapimg_loop, pool);
	const uint64_t one = 1;

	/* the eventfd can only refuse when it is already readable */
	if (__atomic_load_n(&loop->sleeping, __ATOMIC_SEQ_CST) &&
	    write(loop->wakefd, &one, sizeof(one)) < 0)
		return;
}

static void *crew_thread(void *arg)
{
	struct crew *c = arg;
	struct pool *p = c->pool;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct list *n = list_pop(&c->queue);
		struct work *w;

		if (!n) {
			c->idle++;
			pthread_cond_wait(&c->cond, &p->lock);
			c->idle--;
			continue;
		}
		c->nqueued--;
		pthread_mutex_unlock(&p->lock);
		w = list_entry(n, struct work, node);
		w->run(w);
		pthread_mutex_lock(&p->lock);
		pool_finished(p, w);
		/* with more to do here the loop may sleep on for a while: that wakes it less often */
		if (!list_empty(&c->queue) && p->nfinished < WAKE_BATCH)
			continue;
		pthread_mutex_unlock(&p->lock);
		pool_wake_loop(p);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	work_slots_free();
	return NULL;
}

/* One more thread, with all signals blocked: they are the program's. */
static int crew_start_thread(struct crew *c)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&c->threads[c->nthreads], NULL, crew_thread, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret)
		c->nthreads++;
	return -ret;
}

static void crew_submit(struct tapimg_loop *loop, struct crew *c, struct work *w)
{
	struct pool *p = &loop->pool;
	bool enough;

	p->outstanding++;
	if (loop->fake) {
		w->run(w);
		pool_finished(p, w);
		return;
	}
	pthread_mutex_lock(&p->lock);
	list_append(&c->queue, &w->node);
	enough = ++c->nqueued <= c->idle;
	if (c->idle)
		pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&p->lock);
	if (enough || c->nthreads == c->max || !crew_start_thread(c) || c->nthreads)
		return;
	/* no thread at all: nobody else can have taken it */
	c->nqueued--;
	list_del(&w->node);
	w->run(w);
	pthread_mutex_lock(&p->lock);
	pool_finished(p, w);
	pthread_mutex_unlock(&p->lock);
	loop_signal(loop);
}

void work_submit(struct tapimg_loop *loop, struct work *w)
{
	crew_submit(loop, &loop->pool.crew[CREW_CPU], w);
}

void work_submit_blocking(struct tapimg_loop *loop, struct work *w)
{
	crew_submit(loop, &loop->pool.crew[CREW_BLOCKING], w);
}

int pool_reap(struct tapimg_loop *loop)
{
	struct pool *p = &loop->pool;
	struct list *n;
	int done = 0;

	while (__atomic_load_n(&p->nfinished, __ATOMIC_SEQ_CST)) {
		struct work *w;

		pthread_mutex_lock(&p->lock);
		n = list_pop(&p->finished);
		__atomic_sub_fetch(&p->nfinished, 1, __ATOMIC_SEQ_CST);
		pthread_mutex_unlock(&p->lock);
		w = list_entry(n, struct work, node);
		p->outstanding--;
		w->task.fn(&w->task);
		done++;
	}
	return done;
}

void pool_init(struct tapimg_loop *loop, unsigned threads)
{
	struct pool *p = &loop->pool;
	unsigned i;

	if (!threads)
		threads = MAX(get_nprocs(), 2);
	list_init(&p->finished);
	pthread_mutex_init(&p->lock, NULL);
	for (i = 0; i < CREWS; i++) {
		p->crew[i].pool = p;
		p->crew[i].max = i == CREW_CPU ? MIN(threads, CREW_MAX) : BLOCKING_MAX;
		list_init(&p->crew[i].queue);
		pthread_cond_init(&p->crew[i].cond, NULL);
	}
}

void pool_exit(struct tapimg_loop *loop)
{
	struct pool *p = &loop->pool;
	unsigned i, k;

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	for (i = 0; i < CREWS; i++)
		pthread_cond_broadcast(&p->crew[i].cond);
	pthread_mutex_unlock(&p->lock);
	for (i = 0; i < CREWS; i++) {
		for (k = 0; k < p->crew[i].nthreads; k++)
			pthread_join(p->crew[i].threads[k], NULL);
		pthread_cond_destroy(&p->crew[i].cond);
	}
	pthread_mutex_destroy(&p->lock);
}
