/* SPDX-License-Identifier: BSD-2-Clause */
/* loop-impl.h - what a loop consists of; for loop.c, work.c and the storage seam only */
#ifndef LOOP_IMPL_H
#define LOOP_IMPL_H

#include <pthread.h>
#include <sys/epoll.h>

#include "aio.h"
#include "loop.h"
#include "work.h"

enum crew_kind { CREW_CPU, CREW_BLOCKING, CREWS };

#define CREW_MAX 64

/* Threads of one kind, all under the pool's lock. */
struct crew {
	struct pool *pool;
	struct list queue;		/* of struct work.node */
	pthread_cond_t cond;
	unsigned nqueued, idle;
	unsigned nthreads, max;		/* the loop's */
	pthread_t threads[CREW_MAX];
};

struct pool {
	pthread_mutex_t lock;
	struct crew crew[CREWS];
	struct list finished;		/* of struct work.node, under lock */
	unsigned nfinished;		/* atomic: so that a turn need not take the lock */
	bool stop;
	unsigned outstanding;		/* the loop's: submitted and not called back */
};

#define WATCH_BATCH 16

struct loop_watches {
	int epfd;			/* -1: nothing was ever watched */
	unsigned count;
	unsigned busy_turns;		/* since the descriptors were asked */
	bool hot;			/* the last answer had something */
	bool coarse;			/* no epoll_pwait2(): timeouts in milliseconds */
	bool woken;			/* the next one will */
	int at, n;			/* fetched events: delivered, all */
	struct watch_call *calls;	/* of fn() that are running, innermost first */
	struct epoll_event ev[WATCH_BATCH];
};

struct tapimg_loop {
	struct list ready;
	struct list late;		/* for the end of the turn */
	struct list timers;		/* by time */
	struct list *park;
	struct list providers;
	struct list idlers;
	struct list companions;		/* of targets that are being made: target.c */
	uint64_t spin, spin_max;	/* ns */
	unsigned spin_misses, spin_rest;	/* sleeps to let go by after a miss, and still */
	struct loop_watches watch;
	struct aio aio;
	struct pool pool;
	uint64_t now;			/* 0: not read in this turn */
	unsigned depth;			/* turns running, one inside the other */
	int wakefd;			/* eventfd: helpers, and in fd mode everything */
	int epfd, timerfd;		/* fd mode; else -1 */
	bool signalled;			/* fd mode: wakefd was written by the loop itself */
	bool sleeping;			/* atomic: a helper that finishes must write to wakefd */
	void *zeroes;			/* LOOP_ZEROES bytes, or NULL: not yet asked for */
	struct loop_fake *fake;		/* tests, or NULL */
};

/*
 * For tests that must run the same every time: helper jobs are run at once by the loop itself, the
 * clock is @now, and where the loop would sleep until a timer the clock jumps there.
 */
struct loop_fake {
	uint64_t now;			/* ns; not 0 */
	uint64_t jumps;
};

/* Queues an iocb for the end of the turn. The context has been started. */
void loop_aio(struct tapimg_loop *loop, struct aio_op *op);

/* fd mode: makes the descriptor readable when something was left to do outside a turn. */
void loop_signal_slow(struct tapimg_loop *loop);
static inline void loop_signal(struct tapimg_loop *loop)
{
	if (loop->epfd >= 0 && !loop->depth && !loop->signalled)
		loop_signal_slow(loop);
}

/* watch.c: negative errno, or the number of callbacks run */
int watch_collect(struct tapimg_loop *loop, int64_t timeout_ns);	/* negative: no limit */
/* While there is other work: descriptors and idlers are looked at now and then. */
int watch_glance(struct tapimg_loop *loop);
static inline bool watch_pending(const struct tapimg_loop *loop)
{
	return loop->watch.woken || loop->watch.at < loop->watch.n;
}
void watch_stop(struct tapimg_loop *loop);
bool idlers_found(struct tapimg_loop *loop);	/* before a sleep: true, do not */

/* work.c */
void pool_init(struct tapimg_loop *loop, unsigned threads);
void pool_exit(struct tapimg_loop *loop);
int pool_reap(struct tapimg_loop *loop);	/* runs task.fn of finished jobs; how many */
void work_slots_free(void);			/* of the calling thread */

#endif
