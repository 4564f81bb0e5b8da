/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * loop.h - the event loop, seen from inside the library
 *
 * A turn (tapimg_loop_run): submit the iocbs queued since the last one in one io_submit; reap
 * completions from the mapped aio ring (no system call when some are there); take finished helper
 * jobs; run the tasks that are ready, including those they make ready, up to a fair limit; submit
 * again.  Sleep only if nothing at all was ready.  Servers add watched descriptors (watch.c).
 */
#ifndef LOOP_H
#define LOOP_H

#include "list.h"
#include "tapimg.h"

struct file;
struct file_provider;

/* A callback to be run by the loop. Embedded in what it is about; idle when node is empty. */
struct task {
	struct list node;
	void (*fn)(struct task *t);
};

/* Runs t->fn on this or the next turn, never from inside this call.  t->fn is set. */
void loop_defer(struct tapimg_loop *loop, struct task *t);

/* Runs t->fn once, at the end of this turn, before what was queued is submitted. */
void loop_at_turn_end(struct tapimg_loop *loop, struct task *t);

/* A task to be run at a time. Not armed when task.node is empty. */
struct timer {
	struct task task;
	uint64_t when_ns;	/* CLOCK_MONOTONIC */
};
uint64_t loop_now(struct tapimg_loop *loop);	/* ns, CLOCK_MONOTONIC, cached for the turn */
void loop_timer_arm(struct tapimg_loop *loop, struct timer *t, uint64_t when_ns);
void loop_timer_cancel(struct timer *t);

#define LOOP_ZEROES (2u << 20)

/* LOOP_ZEROES bytes of zeroes for writing out, page-aligned, read-only. NULL: no memory. */
void *loop_zeroes(struct tapimg_loop *loop);

/* Runs turns until *done.  0, or a negative errno if the loop itself fails. */
int loop_until(struct tapimg_loop *loop, const bool *done);

/*
 * Parking.  A hot driver call that cannot go on answers -EAGAIN after having named, with
 * loop_set_park(), the list of those who wait for the same thing.  Whoever called it puts a waiter
 * there and tries again from the start when woken.  @ret of a waiter is 0 or the negative errno of
 * what was waited for (a metadata block that could not be read); the operation then fails with it.
 */
struct waiter {
	struct list node;
	int ret;
	void (*wake)(struct waiter *w);
};
void loop_set_park(struct tapimg_loop *loop, struct list *waiters);
void loop_park(struct tapimg_loop *loop, struct waiter *w);	/* on the list named last */
void waiters_wake(struct list *waiters, int ret);	/* empties the list first; runs each wake() */

/*
 * A descriptor that the loop watches; level-triggered unless EPOLLET is among the events. Embedded.
 * tapimg_loop_run() with @wait then sleeps until one is ready, too.  fn may remove and free any
 * watch, and run the loop; what it does with the descriptor must not block, and nothing to read
 * there is no error.
 */
struct watch {
	int fd;
	uint32_t events;	/* EPOLLIN and so on; 0: only errors */
	void (*fn)(struct watch *w, uint32_t events);
	bool on;		/* the loop's */
	bool inside;		/* fn is running: a turn within it does not call it again */
};
int loop_watch(struct tapimg_loop *loop, struct watch *w);		/* fd, events and fn are set */
int loop_watch_events(struct tapimg_loop *loop, struct watch *w, uint32_t events);
void loop_unwatch(struct tapimg_loop *loop, struct watch *w);	/* before the descriptor is closed */

/*
 * Asked when a turn has found nothing to do.  With @sleeping the loop goes to sleep unless one
 * answers true: whoever is told of new work only on demand demands it now, and looks once more.
 * Without, the loop is spinning: just look.  An idler may remove itself, and no other.
 */
struct idler {
	struct list node;
	bool (*fn)(struct idler *i, bool sleeping);
};
void loop_add_idler(struct tapimg_loop *loop, struct idler *i);
void loop_remove_idler(struct idler *i);
/* Before a sleep look for work so long, adapting below @max_ns to how often that helps; 0: do not. */
void loop_set_spin(struct tapimg_loop *loop, uint64_t max_ns);
uint64_t loop_spin(const struct tapimg_loop *loop);	/* as it was set */

/*
 * Providers open what is not a plain path: "sim:..." in tests, network stores later.  The first
 * whose scheme (with its colon) the name begins with is asked.  The loop keeps the pointer.
 */
struct file_provider {
	struct list node;
	const char *scheme;
	int (*open)(struct file_provider *p, struct tapimg_loop *loop, const char *name,
		    unsigned flags, struct file **out, struct tapimg_err *err);	/* FILE_* of file.h */
	int (*remove)(struct file_provider *p, const char *name);		/* may be NULL */
	int (*rename)(struct file_provider *p, const char *from, const char *to);	/* may be NULL */
};
void loop_add_provider(struct tapimg_loop *loop, struct file_provider *p);

#endif
