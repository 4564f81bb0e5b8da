/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * watch.c - descriptors that a loop watches, and what it asks before it sleeps
 *
 * All watched descriptors are in one epoll descriptor, together with the loop's own eventfd.  When
 * the loop sleeps, it sleeps on that (or in io_getevents with a poll on it).  While the loop is busy
 * it is asked now and then: at every turn as long as the last answer had something, else once in
 * WATCH_SELDOM turns, for a ring in memory that is busy needs no descriptors at all.  Idlers are asked
 * so seldom, too.
 *
 * Events that were fetched and not yet delivered lie in the loop.  A turn inside a callback goes on
 * with them, and loop_unwatch() takes its own out, so a watch can be freed as soon as it is removed.
 */
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "checked.h"
#include "loop-impl.h"

#define WATCH_SELDOM 16

static int watch_start(struct tapimg_loop *loop)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int fd, ret;

	if (loop->watch.epfd >= 0)
		return 0;
	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, loop->wakefd, &ev) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	if (loop->epfd >= 0 && epoll_ctl(loop->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	loop->watch.epfd = fd;
	loop_signal_slow(loop);		/* ends a poll that waits for the eventfd alone */
	return 0;
}

int loop_watch(struct tapimg_loop *loop, struct watch *w)
{
	struct epoll_event ev = { .events = w->events, .data.ptr = w };
	int ret = watch_start(loop);

	if (ret < 0)
		return ret;
	if (epoll_ctl(loop->watch.epfd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		return -errno;
	w->on = true;
	loop->watch.count++;
	return 0;
}

int loop_watch_events(struct tapimg_loop *loop, struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (events == w->events)
		return 0;
	if (epoll_ctl(loop->watch.epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
		return -errno;
	w->events = events;
	return 0;
}

/* One fn() that is running.  Its watch may be gone when it returns: then w is NULL. */
struct watch_call {
	struct watch *w;
	struct watch_call *outer;
};

static void watch_call(struct tapimg_loop *loop, struct watch *w, uint32_t events)
{
	struct watch_call call = { w, loop->watch.calls };

	loop->watch.calls = &call;
	w->inside = true;
	w->fn(w, events);
	if (call.w)
		w->inside = false;
	loop->watch.calls = call.outer;
}

void loop_unwatch(struct tapimg_loop *loop, struct watch *w)
{
	struct loop_watches *lw = &loop->watch;
	struct watch_call *c;
	int i;

	if (!w->on)
		return;
	for (c = lw->calls; c; c = c->outer)
		if (c->w == w)
			c->w = NULL;
	w->inside = false;
	w->on = false;
	lw->count--;
	epoll_ctl(lw->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	for (i = lw->at; i < lw->n; i++)
		if (lw->ev[i].data.ptr == w)
			lw->ev[i].data.ptr = NULL;
}

/* Delivers what has been fetched; how many. */
static int watch_deliver(struct tapimg_loop *loop)
{
	struct loop_watches *lw = &loop->watch;
	int done = 0;

	while (lw->at < lw->n) {
		struct epoll_event *ev = &lw->ev[lw->at++];
		struct watch *w = ev->data.ptr;
		uint64_t v;

		if (w) {
			if (w->inside && !(w->events & EPOLLET))
				continue;	/* it comes again */
			watch_call(loop, w, ev->events);
			done++;
		} else if (read(loop->wakefd, &v, sizeof(v)) < 0) {
			continue;	/* a watch removed meanwhile, or emptied already */
		}
	}
	return done;
}

#define WATCH_FINE_NS 10000000		/* up to here a millisecond more is much */

static int watch_wait(struct loop_watches *lw, int64_t timeout_ns)
{
	int64_t ms = timeout_ns < 0 ? -1 : (int64_t)MIN(div_up(timeout_ns, 1000000), INT32_MAX);
	struct timespec ts = { .tv_nsec = timeout_ns };
	int n;

	if (timeout_ns > 0 && timeout_ns < WATCH_FINE_NS && !lw->coarse) {
		n = epoll_pwait2(lw->epfd, lw->ev, ARRAY_SIZE(lw->ev), &ts, NULL);
		if (n >= 0 || errno != ENOSYS)
			return n;
		lw->coarse = true;	/* a kernel before 5.11 */
	}
	return epoll_wait(lw->epfd, lw->ev, ARRAY_SIZE(lw->ev), ms);
}

int watch_collect(struct tapimg_loop *loop, int64_t timeout_ns)
{
	struct loop_watches *lw = &loop->watch;
	int n, done = watch_deliver(loop);

	if (done)
		return done;
	lw->busy_turns = 0;
	lw->woken = false;
	n = watch_wait(lw, timeout_ns);
	lw->hot = n > 0;
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	lw->at = 0;
	lw->n = n;
	return watch_deliver(loop);
}

static bool idlers_ask(struct tapimg_loop *loop, bool sleeping);

int watch_glance(struct tapimg_loop *loop)
{
	struct loop_watches *lw = &loop->watch;

	if (lw->epfd < 0 || (!lw->hot && !watch_pending(loop) && ++lw->busy_turns < WATCH_SELDOM))
		return 0;
	/* a ring nobody kicks for must not wait for a loop that is never idle */
	if (lw->busy_turns >= WATCH_SELDOM)
		idlers_ask(loop, false);
	return watch_collect(loop, 0);
}

void watch_stop(struct tapimg_loop *loop)
{
	if (loop->watch.epfd >= 0)
		close(loop->watch.epfd);
}

/* ------------------------------------------------------------------ idlers */

void loop_add_idler(struct tapimg_loop *loop, struct idler *i)
{
	list_append(&loop->idlers, &i->node);
}

void loop_remove_idler(struct idler *i)
{
	if (i->node.next && !list_empty(&i->node))
		list_del(&i->node);
}

void loop_set_spin(struct tapimg_loop *loop, uint64_t max_ns)
{
	loop->spin_max = max_ns;
	loop->spin = 0;
	loop->spin_misses = loop->spin_rest = 0;
}

uint64_t loop_spin(const struct tapimg_loop *loop)
{
	return loop->spin_max;
}

/* Asks all of them, so that before a sleep every one has been told. */
static bool idlers_ask(struct tapimg_loop *loop, bool sleeping)
{
	struct list *pos, *tmp;
	bool found = false;

	list_for_each_safe(pos, tmp, &loop->idlers)
		found |= list_entry(pos, struct idler, node)->fn(
			list_entry(pos, struct idler, node), sleeping);
	return found;
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static bool spin_look(struct tapimg_loop *loop)
{
	return idlers_ask(loop, false) || aio_ready(&loop->aio) ||
	       __atomic_load_n(&loop->pool.nfinished, __ATOMIC_ACQUIRE);
}

#define SPIN_FIRST 4000		/* ns */
#define SPIN_REST 63		/* sleeps */

/*
 * Looks for work a little longer than last time if that found some, a little shorter if not.  Where even
 * the shortest look finds nothing more and more sleeps go by until the next one; the first that helps
 * ends that.  (How long a sleep lasts does not tell whether looking would have helped: waking up may
 * take longer than all the rest.)
 */
static bool idlers_spin(struct tapimg_loop *loop)
{
	uint64_t first = MIN((uint64_t)SPIN_FIRST, loop->spin_max), end;

	if (!loop->spin_max)
		return false;
	if (loop->spin_rest) {
		loop->spin_rest--;
		return false;
	}
	loop->spin = MAX(loop->spin, first);
	end = clock_ns() + loop->spin;
	do {
		if (spin_look(loop)) {
			loop->spin = MIN(2 * loop->spin, loop->spin_max);
			loop->spin_misses = 0;
			return true;
		}
		cpu_relax();
	} while (clock_ns() < end);
	if (loop->spin == first)
		loop->spin_misses = MIN(2 * loop->spin_misses + 1, (unsigned)SPIN_REST);
	loop->spin_rest = loop->spin_misses;
	loop->spin /= 2;
	return false;
}

bool idlers_found(struct tapimg_loop *loop)
{
	if (list_empty(&loop->idlers))
		return false;
	return idlers_spin(loop) || idlers_ask(loop, true);
}
