/* SPDX-License-Identifier: BSD-2-Clause */
/* test-watch.c - watched descriptors and idlers beside tasks, timers, helpers and transfers */
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "checked.h"
#include "loop-impl.h"
#include "suite.h"

static struct tapimg_loop *loop;

static void setup(void)
{
	ck_assert_int_eq(tapimg_loop_new(3, &loop, NULL), 0);
}

static void teardown(void)
{
	tapimg_loop_free(loop);
}

struct bell {
	struct watch w;
	unsigned rung;
	bool keep;			/* does not take the event away */
	struct bell *other;		/* to be removed when this one rings */
	bool nest;			/* run a turn from inside */
};

static struct bell *removed;		/* the last one; what is there must not be looked at again */

static void bell_fn(struct watch *w, uint32_t events)
{
	struct bell *b = container_of(w, struct bell, w);
	uint64_t v;

	ck_assert(events & EPOLLIN);
	b->rung++;
	if (!b->keep)
		ck_assert_int_eq(read(w->fd, &v, sizeof(v)), sizeof(v));
	if (b->other && b->other != removed) {
		loop_unwatch(loop, &b->other->w);
		close(b->other->w.fd);
		memset(b->other, 0xa5, sizeof(*b->other));
		removed = b->other;
	}
	if (b->nest) {
		b->nest = false;
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	}
}

static void bell_init(struct bell *b)
{
	memset(b, 0, sizeof(*b));
	b->w.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ck_assert_int_ge(b->w.fd, 0);
	b->w.events = EPOLLIN;
	b->w.fn = bell_fn;
	ck_assert_int_eq(loop_watch(loop, &b->w), 0);
}

static void ring(int fd)
{
	const uint64_t one = 1;

	ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

static void bell_exit(struct bell *b)
{
	loop_unwatch(loop, &b->w);
	loop_unwatch(loop, &b->w);	/* harmless */
	close(b->w.fd);
}

START_TEST(a_descriptor_ends_the_sleep)
{
	struct bell b;

	bell_init(&b);
	ring(b.w.fd);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 1);
	ck_assert_uint_eq(b.rung, 1);
	ck_assert_int_eq(tapimg_loop_run(loop, false), 0);
	ck_assert_int_eq(loop_watch_events(loop, &b.w, 0), 0);
	ring(b.w.fd);
	ck_assert_int_eq(tapimg_loop_run(loop, false), 0);
	ck_assert_int_eq(loop_watch_events(loop, &b.w, EPOLLIN), 0);
	while (b.rung < 2)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
	bell_exit(&b);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 0);	/* nothing is left to wait for */
}
END_TEST

START_TEST(a_removed_descriptor_is_not_called)
{
	struct bell a, *b = malloc(sizeof(*b)), *c = malloc(sizeof(*c));

	/* all are fetched in one go, and whichever comes first takes one of the others away */
	bell_init(&a);
	bell_init(b);
	bell_init(c);
	a.other = b;
	b->other = c;
	c->other = b;
	ring(a.w.fd);
	ring(b->w.fd);
	ring(c->w.fd);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 2);
	ck_assert_uint_eq(a.rung, 1);
	free(b);
	bell_exit(&a);
	if (c->rung == 1)
		bell_exit(c);
	free(c);
}
END_TEST

START_TEST(an_inner_turn_goes_on_with_what_was_fetched)
{
	struct bell a, b;

	bell_init(&a);
	bell_init(&b);
	a.nest = b.nest = true;
	ring(a.w.fd);
	ring(b.w.fd);
	a.nest = true;
	b.nest = false;
	while (!a.rung || !b.rung)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_uint_eq(a.rung, 1);
	ck_assert_uint_eq(b.rung, 1);
	bell_exit(&a);
	bell_exit(&b);
}
END_TEST

struct busy {
	struct task task;
	unsigned ran;
};

static void busy_fn(struct task *t)
{
	container_of(t, struct busy, task)->ran++;
}

START_TEST(a_busy_loop_still_looks_at_descriptors)
{
	struct busy t = { .task.fn = busy_fn };
	struct bell b;

	bell_init(&b);
	while (t.ran < 100) {	/* cold */
		loop_defer(loop, &t.task);
		ck_assert_int_eq(tapimg_loop_run(loop, true), 1);
	}
	ring(b.w.fd);
	while (!b.rung) {
		loop_defer(loop, &t.task);
		ck_assert_int_ge(tapimg_loop_run(loop, true), 1);
		ck_assert_uint_lt(t.ran, 200);
	}
	bell_exit(&b);
}
END_TEST

/* ------------------------------------------------ beside the other reasons to wake up */

struct alarm {
	struct timer timer;
	int fd;
	bool fired;
};

static void alarm_fn(struct task *t)
{
	struct alarm *a = container_of(t, struct alarm, timer.task);

	a->fired = true;
	if (a->fd >= 0)
		ring(a->fd);
}

static void arm(struct alarm *a, int fd, unsigned ms)
{
	memset(a, 0, sizeof(*a));
	a->fd = fd;
	a->timer.task.fn = alarm_fn;
	loop_timer_arm(loop, &a->timer, loop_now(loop) + ms * 1000000ull);
}

START_TEST(a_timer_ends_the_sleep_on_descriptors)
{
	struct alarm a;
	struct bell b;

	bell_init(&b);
	arm(&a, -1, 3);
	while (!a.fired)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	arm(&a, b.w.fd, 1);
	while (!b.rung)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	bell_exit(&b);
}
END_TEST

struct job {
	struct work work;
	int ring_fd;
	bool done;
};

static void job_run(struct work *w)
{
	struct job *j = container_of(w, struct job, work);

	usleep(20000);
	if (j->ring_fd >= 0)
		ring(j->ring_fd);
}

static void job_done(struct task *t)
{
	container_of(t, struct job, work.task)->done = true;
}

static void job_start(struct job *j, int ring_fd)
{
	memset(j, 0, sizeof(*j));
	j->ring_fd = ring_fd;
	j->work.run = job_run;
	j->work.task.fn = job_done;
	work_submit_blocking(loop, &j->work);
}

START_TEST(a_helper_ends_the_sleep_on_descriptors)
{
	struct bell b;
	struct job j;

	bell_init(&b);
	job_start(&j, -1);
	while (!j.done)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	bell_exit(&b);
}
END_TEST

/* A transfer that does not finish by itself: a poll for a descriptor nobody writes to. */
static bool stuck_done;

static void stuck_fn(struct aio_op *op, long res)
{
	stuck_done = true;
}

START_TEST(a_descriptor_ends_the_sleep_for_a_transfer)
{
	struct aio_op op = { .done = stuck_fn };
	int round, never = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct alarm a;
	struct bell b;
	struct job j;

	stuck_done = false;
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	io_prep_poll(&op.iocb, never, POLLIN);
	loop_aio(loop, &op);
	/* the poll for helpers is waiting already when the first descriptor comes */
	job_start(&j, -1);
	while (!j.done)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	bell_init(&b);
	for (round = 0; round < 3; round++) {
		job_start(&j, b.w.fd);
		b.rung = 0;
		while (!b.rung || !j.done)
			ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
		arm(&a, b.w.fd, 1);
		while (b.rung < 2)
			ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	}
	ck_assert(!stuck_done);
	ring(never);
	while (!stuck_done)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	bell_exit(&b);
	close(never);
}
END_TEST

START_TEST(embedding_tells_of_watched_descriptors)
{
	int first, fd;

	for (first = 0; first < 2; first++) {
		struct pollfd p = { .events = POLLIN };
		struct bell b;

		teardown();
		setup();
		if (first)
			bell_init(&b);
		fd = tapimg_loop_fd(loop);
		if (!first)
			bell_init(&b);
		p.fd = fd;
		while (poll(&p, 1, 0) > 0)
			ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
		ring(b.w.fd);
		while (!b.rung) {
			ck_assert_int_eq(poll(&p, 1, 2000), 1);
			ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
		}
		bell_exit(&b);
	}
}
END_TEST

/* ------------------------------------------------------------------ idlers */

struct pond {
	struct idler idler;
	int looks, sleeps;
	int fish;			/* found when so many looks were taken; negative: never */
};

static bool pond_fn(struct idler *i, bool sleeping)
{
	struct pond *p = container_of(i, struct pond, idler);

	p->sleeps += sleeping;
	return ++p->looks == p->fish;
}

START_TEST(an_idler_is_asked_before_each_sleep)
{
	struct pond p = { .idler.fn = pond_fn, .fish = 2 };
	struct busy t = { .task.fn = busy_fn };
	struct bell b;

	bell_init(&b);
	loop_add_idler(loop, &p.idler);
	loop_defer(loop, &t.task);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 1);
	ck_assert_int_eq(p.looks, 0);			/* there was something to do */
	ring(b.w.fd);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 1);
	ck_assert_int_eq(p.sleeps, 1);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 0);	/* else this would sleep for ever */
	ck_assert_int_eq(p.sleeps, 2);
	loop_remove_idler(&p.idler);
	loop_remove_idler(&p.idler);
	bell_exit(&b);
}
END_TEST

START_TEST(spinning_looks_without_sleeping)
{
	struct pond p = { .idler.fn = pond_fn, .fish = 5 };
	struct bell b;

	bell_init(&b);
	loop_add_idler(loop, &p.idler);
	loop_set_spin(loop, 1000000000);
	loop->spin = 1000000000;
	ck_assert_int_eq(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(p.looks, 5);
	ck_assert_int_eq(p.sleeps, 0);
	p.fish = -1;
	loop_set_spin(loop, 1000);
	ring(b.w.fd);
	ck_assert_int_eq(tapimg_loop_run(loop, true), 1);	/* nothing found: it sleeps after all */
	ck_assert_int_eq(p.sleeps, 1);
	ck_assert_int_gt(p.looks, 6);
	loop_remove_idler(&p.idler);
	bell_exit(&b);
}
END_TEST

/* Where looking never helps it is given up before most sleeps; once it has helped it is done again. */
START_TEST(looking_in_vain_is_done_seldom)
{
	struct pond p = { .idler.fn = pond_fn, .fish = -1 };
	int i, spun = 0, sleeps = 400;
	struct bell b;

	bell_init(&b);
	loop_add_idler(loop, &p.idler);
	loop_set_spin(loop, 2000);
	ck_assert_uint_eq(loop_spin(loop), 2000);
	for (i = 0; i < sleeps; i++) {
		p.looks = p.sleeps = 0;
		ring(b.w.fd);
		tapimg_loop_run(loop, true);
		ck_assert_int_eq(p.sleeps, 1);
		spun += p.looks > 1;
	}
	ck_assert_int_ge(spun, sleeps / 64);
	ck_assert_int_le(spun, sleeps / 64 + 7);
	p.fish = 1;
	for (i = 0; i < 64 && loop->spin_misses; i++) {	/* until it looks the next time */
		p.looks = 0;
		ring(b.w.fd);
		tapimg_loop_run(loop, true);
	}
	ck_assert_uint_eq(loop->spin_misses, 0);
	p.looks = p.sleeps = 0;
	ck_assert_int_eq(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(p.looks, 1);
	ck_assert_int_eq(p.sleeps, 0);
	loop_remove_idler(&p.idler);
	bell_exit(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("watch");
	TCase *tc = tcase_create("watch");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_descriptor_ends_the_sleep);
	tcase_add_test(tc, a_removed_descriptor_is_not_called);
	tcase_add_test(tc, an_inner_turn_goes_on_with_what_was_fetched);
	tcase_add_test(tc, a_busy_loop_still_looks_at_descriptors);
	tcase_add_test(tc, a_timer_ends_the_sleep_on_descriptors);
	tcase_add_test(tc, a_helper_ends_the_sleep_on_descriptors);
	tcase_add_test(tc, a_descriptor_ends_the_sleep_for_a_transfer);
	tcase_add_test(tc, embedding_tells_of_watched_descriptors);
	tcase_add_test(tc, an_idler_is_asked_before_each_sleep);
	tcase_add_test(tc, spinning_looks_without_sleeping);
	tcase_add_test(tc, looking_in_vain_is_done_seldom);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
