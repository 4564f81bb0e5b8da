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

#define POOL_MAX 64

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
	return loop->pool.max;
}

/* with the lock held */
static void pool_finished(struct pool *p, struct work *w)
{
	list_append(&p->finished, &w->node);
	__atomic_add_fetch(&p->nfinished, 1, __ATOMIC_SEQ_CST);
}

static void pool_wake_loop(struct tapimg_loop *loop)
{
	const uint64_t one = 1;

	/* the eventfd can only refuse when it is already readable */
	if (__atomic_load_n(&loop->sleeping, __ATOMIC_SEQ_CST) &&
	    write(loop->wakefd, &one, sizeof(one)) < 0)
		return;
}

static void *pool_thread(void *arg)
{
	struct tapimg_loop *loop = arg;
	struct pool *p = &loop->pool;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct list *n = list_pop(&p->queue);
		struct work *w;

		if (!n) {
			p->idle++;
			pthread_cond_wait(&p->cond, &p->lock);
			p->idle--;
			continue;
		}
		p->nqueued--;
		pthread_mutex_unlock(&p->lock);
		w = list_entry(n, struct work, node);
		w->run(w);
		pthread_mutex_lock(&p->lock);
		pool_finished(p, w);
		pool_wake_loop(loop);
	}
	pthread_mutex_unlock(&p->lock);
	work_slots_free();
	return NULL;
}

/* One more thread, with all signals blocked: they are the program's. */
static int pool_start_thread(struct tapimg_loop *loop)
{
	struct pool *p = &loop->pool;
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&p->threads[p->nthreads], NULL, pool_thread, loop);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ret)
		p->nthreads++;
	return -ret;
}

void work_submit(struct tapimg_loop *loop, struct work *w)
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
	list_append(&p->queue, &w->node);
	enough = ++p->nqueued <= p->idle;
	if (p->idle)
		pthread_cond_signal(&p->cond);
	pthread_mutex_unlock(&p->lock);
	if (enough || p->nthreads == p->max || !pool_start_thread(loop) || p->nthreads)
		return;
	/* no thread at all: nobody else can have taken it */
	p->nqueued--;
	list_del(&w->node);
	w->run(w);
	pool_finished(p, w);
	loop_signal(loop);
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

int pool_init(struct tapimg_loop *loop, unsigned threads)
{
	struct pool *p = &loop->pool;

	if (!threads)
		threads = MAX(get_nprocs(), 2);
	p->max = MIN(threads, POOL_MAX);
	p->threads = calloc(p->max, sizeof(*p->threads));
	if (!p->threads)
		return -ENOMEM;
	list_init(&p->queue);
	list_init(&p->finished);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	return 0;
}

void pool_exit(struct tapimg_loop *loop)
{
	struct pool *p = &loop->pool;
	unsigned i;

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	for (i = 0; i < p->nthreads; i++)
		pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p->threads);
}
