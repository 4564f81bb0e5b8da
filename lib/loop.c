/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * loop.c - the event loop: turns, tasks, timers, parking, providers
 *
 * One turn: submit, reap the ring, take finished helper jobs, fire timers, run tasks, submit again.
 * A turn that found nothing to run asks the idlers, and may then sleep, in exactly one place
 * (loop_sleep), where watched descriptors (watch.c) take the place of the eventfd:
 *	- in io_getevents when transfers are in flight; if helpers are busy too, a poll on the wake-up
 *	  eventfd is in the ring as well, so that either ends the sleep;
 *	- in poll() on the eventfd when only helpers are busy, or only timers are armed.
 * In fd mode (tapimg_loop_fd) iocbs carry the same eventfd, timers go to a timerfd, both are in one
 * epoll descriptor, and poll() on that is the sleep.
 *
 * Turns nest: a callback may call a blocking function, which runs turns of its own.  Every list is
 * taken apart one element at a time, so that an inner turn leaves the outer one consistent.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "checked.h"
#include "loop-impl.h"
#include "target.h"

#define LOOP_FAIR 4096		/* tasks run in one turn before the ring is looked at again */

void *loop_zeroes(struct tapimg_loop *loop)
{
	if (!loop->zeroes) {
		loop->zeroes = mmap(NULL, LOOP_ZEROES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (loop->zeroes == MAP_FAILED)
			loop->zeroes = NULL;
	}
	return loop->zeroes;
}

/* ------------------------------------------------------------------ tasks and parking */

void loop_signal_slow(struct tapimg_loop *loop)
{
	const uint64_t one = 1;

	loop->signalled = write(loop->wakefd, &one, sizeof(one)) == sizeof(one);
}

void loop_defer(struct tapimg_loop *loop, struct task *t)
{
	list_append(&loop->ready, &t->node);
	loop_signal(loop);
}

void loop_at_turn_end(struct tapimg_loop *loop, struct task *t)
{
	list_append(&loop->late, &t->node);
	loop_signal(loop);
}

static int loop_run_late(struct tapimg_loop *loop)
{
	struct list mine;
	struct list *n;
	int done = 0;

	list_init(&mine);
	list_splice(&mine, &loop->late);
	while ((n = list_pop(&mine))) {
		struct task *t = list_entry(n, struct task, node);

		t->fn(t);
		done++;
	}
	return done;
}

void loop_aio(struct tapimg_loop *loop, struct aio_op *op)
{
	aio_queue(&loop->aio, op);
	loop_signal(loop);
}

void loop_set_park(struct tapimg_loop *loop, struct list *waiters)
{
	loop->park = waiters;
}

void loop_park(struct tapimg_loop *loop, struct waiter *w)
{
	list_append(loop->park, &w->node);
}

void waiters_wake(struct list *waiters, int ret)
{
	struct list mine;
	struct list *n;

	list_init(&mine);
	list_splice(&mine, waiters);
	while ((n = list_pop(&mine))) {
		struct waiter *w = list_entry(n, struct waiter, node);

		w->ret = ret;
		w->wake(w);
	}
}

void loop_add_provider(struct tapimg_loop *loop, struct file_provider *p)
{
	list_append(&loop->providers, &p->node);
}

/* ------------------------------------------------------------------ timers */

uint64_t loop_now(struct tapimg_loop *loop)
{
	struct timespec ts;

	if (loop->fake)
		return loop->fake->now;
	if (!loop->now || !loop->depth) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		loop->now = (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	}
	return loop->now;
}

static struct timer *first_timer(struct tapimg_loop *loop)
{
	return list_empty(&loop->timers) ? NULL : list_first(&loop->timers, struct timer, task.node);
}

/* fd mode: the timerfd follows the first timer */
static void loop_set_timerfd(struct tapimg_loop *loop)
{
	struct timer *t = first_timer(loop);
	struct itimerspec its = { 0 };

	if (t) {
		its.it_value.tv_sec = t->when_ns / 1000000000;
		its.it_value.tv_nsec = t->when_ns % 1000000000;
		if (!t->when_ns)
			its.it_value.tv_nsec = 1;	/* zero would disarm it */
	}
	timerfd_settime(loop->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

void loop_timer_arm(struct tapimg_loop *loop, struct timer *t, uint64_t when_ns)
{
	struct list *pos;

	t->when_ns = when_ns;
	for (pos = loop->timers.prev; pos != &loop->timers; pos = pos->prev)
		if (list_entry(pos, struct timer, task.node)->when_ns <= when_ns)
			break;
	list_insert(&t->task.node, pos, pos->next);
	if (loop->epfd >= 0 && first_timer(loop) == t)
		loop_set_timerfd(loop);
}

void loop_timer_cancel(struct timer *t)
{
	if (t->task.node.next && !list_empty(&t->task.node))
		list_del(&t->task.node);
}

/* Makes the tasks of expired timers ready. */
static void loop_expire(struct tapimg_loop *loop)
{
	struct timer *t;

	while ((t = first_timer(loop)) && t->when_ns <= loop_now(loop)) {
		list_del(&t->task.node);
		list_append(&loop->ready, &t->task.node);
	}
}

/* ------------------------------------------------------------------ sleeping */

static void drain_fd(int fd)
{
	uint64_t v;

	/* both descriptors do not block; nothing to read is fine */
	if (read(fd, &v, sizeof(v)) < 0)
		return;
}

static void loop_woken(struct aio_op *op, long res)
{
	struct aio *aio = container_of(op, struct aio, wake);
	struct tapimg_loop *loop = container_of(aio, struct tapimg_loop, aio);

	aio->wake_armed = false;
	if (loop->watch.epfd >= 0)
		loop->watch.woken = true;
	else
		drain_fd(loop->wakefd);
}

/* ns until the first timer; negative: none */
static int64_t loop_timeout(struct tapimg_loop *loop)
{
	struct timer *t = first_timer(loop);
	uint64_t now;

	if (!t)
		return -1;
	loop->now = 0;
	now = loop_now(loop);
	return t->when_ns <= now ? 0 : (int64_t)MIN(t->when_ns - now, (uint64_t)INT64_MAX);
}

static int loop_poll(struct tapimg_loop *loop, int fd, int64_t timeout_ns)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct timespec ts = { timeout_ns / 1000000000, timeout_ns % 1000000000 };
	int ret = ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, NULL);

	if (ret < 0)
		return errno == EINTR ? 0 : -errno;
	if (ret > 0 && fd == loop->wakefd)
		drain_fd(loop->wakefd);
	return 0;
}

/* Something is outstanding that can end a sleep. */
static bool loop_pending(struct tapimg_loop *loop)
{
	return loop->aio.inflight || loop->aio.head || loop->pool.outstanding || loop->watch.count ||
	       !list_empty(&loop->timers) || !list_empty(&loop->ready) || !list_empty(&loop->late);
}

static int loop_do_sleep(struct tapimg_loop *loop, int64_t timeout)
{
	struct aio *aio = &loop->aio;
	bool watching = loop->watch.epfd >= 0;
	int wakefd = watching ? loop->watch.epfd : loop->wakefd;

	if (loop->epfd >= 0)
		return loop_poll(loop, loop->epfd, timeout);
	if (!aio->inflight)
		return watching ? watch_collect(loop, timeout) : loop_poll(loop, wakefd, timeout);
	/* without the poll, look after the others every millisecond */
	if ((loop->pool.outstanding || watching) && aio_arm_wake(aio, wakefd, loop_woken) < 0) {
		timeout = timeout < 0 ? 1000000 : MIN(timeout, 1000000);
		loop->watch.woken = true;
	}
	return aio_wait(aio, timeout);
}

/* Returns the number of callbacks run, or a negative errno. */
static int loop_sleep(struct tapimg_loop *loop)
{
	int64_t timeout;
	int ret = 0;

	if (!loop_pending(loop) || !list_empty(&loop->ready) || !list_empty(&loop->late))
		return 0;
	if (loop->aio.head && !loop->aio.inflight)
		return 0;		/* the kernel took nothing; try again */
	if (idlers_found(loop))
		return watch_glance(loop);
	timeout = loop_timeout(loop);
	if (loop->fake && timeout >= 0) {
		loop->fake->now += timeout;
		loop->fake->jumps++;
		return 0;
	}
	__atomic_store_n(&loop->sleeping, true, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&loop->pool.nfinished, __ATOMIC_SEQ_CST))
		ret = loop_do_sleep(loop, timeout);
	__atomic_store_n(&loop->sleeping, loop->epfd >= 0, __ATOMIC_SEQ_CST);
	loop->now = 0;
	return ret;
}

/* ------------------------------------------------------------------ turns */

static int loop_run_tasks(struct tapimg_loop *loop)
{
	struct list *n;
	int done = 0;

	while (done < LOOP_FAIR && (n = list_pop(&loop->ready))) {
		struct task *t = list_entry(n, struct task, node);

		t->fn(t);
		done++;
	}
	return done;
}

static int loop_collect(struct tapimg_loop *loop)
{
	int n, done = 0;

	if (loop->epfd >= 0) {
		drain_fd(loop->wakefd);
		drain_fd(loop->timerfd);
		loop->signalled = false;
	}
	if (loop->aio.ctx) {
		n = aio_reap(&loop->aio);
		if (n < 0)
			return n;
		done += n;
	}
	if (loop->pool.outstanding)
		done += pool_reap(loop);
	if (!list_empty(&loop->timers))
		loop_expire(loop);
	return done + loop_run_tasks(loop);
}

static int loop_turn(struct tapimg_loop *loop, bool wait)
{
	int ret, done = 0;

	if (loop->aio.head)
		done += aio_submit(&loop->aio);
	ret = loop_collect(loop);
	if (ret >= 0 && (ret || done || !wait || watch_pending(loop))) {
		int n = watch_glance(loop);

		if (n)
			ret = n < 0 ? n : ret + n + loop_run_tasks(loop);
	}
	if (ret == 0 && !done && wait) {
		ret = loop_sleep(loop);
		if (ret < 0)
			return ret;
		done += ret;
		ret = loop_collect(loop);
	}
	if (!list_empty(&loop->late))
		done += loop_run_late(loop);
	if (loop->aio.head)
		done += aio_submit(&loop->aio);
	return ret < 0 ? ret : ret + done;
}

int tapimg_loop_run(struct tapimg_loop *loop, bool wait)
{
	int ret;

	loop->now = 0;
	loop->depth++;
	ret = loop_turn(loop, wait);
	loop->depth--;
	if (loop->epfd >= 0 && !loop->depth) {
		loop_set_timerfd(loop);
		if (!list_empty(&loop->ready) || !list_empty(&loop->late) || (loop->aio.head && !loop->aio.inflight))
			loop_signal(loop);
	}
	return ret;
}

int loop_until(struct tapimg_loop *loop, const bool *done)
{
	int ret;

	while (!*(const volatile bool *)done) {
		ret = tapimg_loop_run(loop, true);
		if (ret < 0)
			return ret;
		if (!ret && !*(const volatile bool *)done && !loop_pending(loop))
			return -EDEADLK;	/* nothing is left that could ever set it */
	}
	return 0;
}

/* ------------------------------------------------------------------ fd mode */

static int loop_epoll_add(int epfd, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };

	return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* Transfers submitted before the switch do not notify: let them finish. */
static int loop_settle_aio(struct tapimg_loop *loop)
{
	int ret = 0;

	while (loop->aio.inflight && ret >= 0)
		ret = aio_wait(&loop->aio, -1);
	return ret < 0 ? ret : 0;
}

int tapimg_loop_fd(struct tapimg_loop *loop)
{
	int epfd, tfd, ret;

	if (loop->epfd >= 0)
		return loop->epfd;
	tfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (tfd < 0)
		return -errno;
	epfd = epoll_create1(EPOLL_CLOEXEC);
	ret = epfd < 0 ? -errno : loop_epoll_add(epfd, tfd);
	if (!ret)
		ret = loop_epoll_add(epfd, loop->wakefd);
	if (!ret && loop->watch.epfd >= 0)
		ret = loop_epoll_add(epfd, loop->watch.epfd);
	if (!ret)
		ret = loop_settle_aio(loop);
	if (ret < 0) {
		if (epfd >= 0)
			close(epfd);
		close(tfd);
		return ret;
	}
	loop->epfd = epfd;
	loop->timerfd = tfd;
	loop->aio.resfd = loop->wakefd;
	__atomic_store_n(&loop->sleeping, true, __ATOMIC_SEQ_CST);
	loop_set_timerfd(loop);
	loop_signal_slow(loop);		/* whatever there is already */
	return epfd;
}

/* ------------------------------------------------------------------ life */

int tapimg_loop_new(unsigned threads, struct tapimg_loop **out, struct tapimg_err *err)
{
	struct tapimg_loop *loop = calloc(1, sizeof(*loop));
	int ret;

	if (!loop)
		return err_errno(err, -ENOMEM, "event loop");
	list_init(&loop->ready);
	list_init(&loop->late);
	list_init(&loop->timers);
	list_init(&loop->providers);
	list_init(&loop->idlers);
	list_init(&loop->companions);
	aio_init(&loop->aio);
	loop->epfd = loop->timerfd = loop->watch.epfd = -1;
	loop->wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->wakefd < 0) {
		ret = err_errno(err, -errno, "event loop");
		free(loop);
		return ret;
	}
	pool_init(loop, threads);
	*out = loop;
	return 0;
}

void tapimg_loop_free(struct tapimg_loop *loop)
{
	if (!loop)
		return;
	pool_exit(loop);
	work_slots_free();
	target_forget(loop, NULL);
	aio_stop(&loop->aio);
	watch_stop(loop);
	if (loop->epfd >= 0) {
		close(loop->epfd);
		close(loop->timerfd);
	}
	close(loop->wakefd);
	if (loop->zeroes)
		munmap(loop->zeroes, LOOP_ZEROES);
	free(loop);
}
