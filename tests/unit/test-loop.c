/* SPDX-License-Identifier: BSD-2-Clause */
/* test-loop.c - turns, tasks, timers, parking, helper threads, the kernel I/O queue, embedding */
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
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
	loop = NULL;
}

/* ------------------------------------------------------------------ tasks */

struct step {
	struct task task;
	struct step *next;		/* deferred by this one */
	int order;
};

static int counter;

static void step_fn(struct task *t)
{
	struct step *s = container_of(t, struct step, task);

	s->order = ++counter;
	if (s->next)
		loop_defer(loop, &s->next->task);
}

START_TEST(tasks_run_in_order_and_in_the_same_turn)
{
	struct step c = { .task.fn = step_fn };
	struct step a = { .task.fn = step_fn, .next = &c }, b = { .task.fn = step_fn };

	counter = 0;
	loop_defer(loop, &a.task);
	loop_defer(loop, &b.task);
	ck_assert_int_eq(a.order, 0);		/* never from inside loop_defer */
	ck_assert_int_eq(tapimg_loop_run(loop, false), 3);
	ck_assert_int_eq(a.order, 1);
	ck_assert_int_eq(b.order, 2);
	ck_assert_int_eq(c.order, 3);
	ck_assert(list_empty(&a.task.node));
	ck_assert_int_eq(tapimg_loop_run(loop, false), 0);
}
END_TEST

START_TEST(a_task_that_repeats_itself_does_not_starve_the_loop)
{
	struct step a = { .task.fn = step_fn };
	int n;

	a.next = &a;
	loop_defer(loop, &a.task);
	n = tapimg_loop_run(loop, false);
	ck_assert_int_gt(n, 1);
	ck_assert_int_lt(n, 100000);
	a.next = NULL;
	ck_assert_int_eq(tapimg_loop_run(loop, false), 1);
}
END_TEST

START_TEST(waiting_for_nothing_is_told)
{
	bool never = false;

	ck_assert_int_eq(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(loop_until(loop, &never), -EDEADLK);
}
END_TEST

/* ------------------------------------------------------------------ timers */

struct alarm {
	struct timer timer;
	int order;
	uint64_t at;
};

static void alarm_fn(struct task *t)
{
	struct alarm *a = container_of(t, struct alarm, timer.task);

	a->order = ++counter;
	a->at = loop_now(loop);
}

START_TEST(timers_fire_in_order_of_time_and_not_before)
{
	static const int ms[] = { 12, 3, 8, 5 };
	struct alarm a[ARRAY_SIZE(ms)];
	uint64_t start = loop_now(loop);
	unsigned i;

	memset(a, 0, sizeof(a));
	counter = 0;
	for (i = 0; i < ARRAY_SIZE(ms); i++) {
		a[i].timer.task.fn = alarm_fn;
		loop_timer_arm(loop, &a[i].timer, start + ms[i] * 1000000);
	}
	loop_timer_cancel(&a[2].timer);
	loop_timer_cancel(&a[2].timer);		/* harmless */
	while (counter < 3)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(a[1].order, 1);
	ck_assert_int_eq(a[3].order, 2);
	ck_assert_int_eq(a[0].order, 3);
	ck_assert_int_eq(a[2].order, 0);
	for (i = 0; i < ARRAY_SIZE(ms); i++)
		if (a[i].order)
			ck_assert_uint_ge(a[i].at, start + ms[i] * 1000000);
	ck_assert(list_empty(&a[0].timer.task.node));
}
END_TEST

START_TEST(a_timer_of_the_past_fires_at_once)
{
	struct alarm a = { .timer.task.fn = alarm_fn };

	counter = 0;
	loop_timer_arm(loop, &a.timer, 0);
	ck_assert_int_eq(tapimg_loop_run(loop, false), 1);
	ck_assert_int_eq(counter, 1);
}
END_TEST

/* ------------------------------------------------------------------ parking */

static struct list again;

struct sleeper {
	struct waiter w;
	int woken, ret;
	bool repark;
};

static void sleeper_wake(struct waiter *w)
{
	struct sleeper *s = container_of(w, struct sleeper, w);

	s->woken++;
	s->ret = w->ret;
	if (s->repark) {
		loop_set_park(loop, &again);
		loop_park(loop, w);
	}
}

START_TEST(waking_empties_the_list_first)
{
	struct sleeper a = { .w.wake = sleeper_wake, .repark = true };
	struct sleeper b = { .w.wake = sleeper_wake };

	list_init(&again);
	loop_set_park(loop, &again);
	loop_park(loop, &a.w);
	loop_park(loop, &b.w);
	waiters_wake(&again, -EIO);
	ck_assert_int_eq(a.woken, 1);
	ck_assert_int_eq(b.woken, 1);
	ck_assert_int_eq(b.ret, -EIO);
	ck_assert(again.next == &a.w.node && again.prev == &a.w.node);
	a.repark = false;
	waiters_wake(&again, 0);
	ck_assert_int_eq(a.woken, 2);
	ck_assert_int_eq(a.ret, 0);
}
END_TEST

/* ------------------------------------------------------------------ helper threads */

struct job {
	struct work work;
	int usec;
	int fd;				/* written to when run, if not 0 */
	pthread_t thread;
	bool done;
};

static int jobs_done;

static void job_run(struct work *w)
{
	struct job *j = container_of(w, struct job, work);

	j->thread = pthread_self();
	if (j->usec)
		usleep(j->usec);
	if (j->fd)
		ck_assert_int_eq(write(j->fd, "x", 1), 1);
}

static void job_done(struct task *t)
{
	struct job *j = container_of(t, struct job, work.task);

	j->done = true;
	jobs_done++;
}

static void job_start(struct job *j)
{
	j->work.run = job_run;
	j->work.task.fn = job_done;
	work_submit(loop, &j->work);
}

START_TEST(jobs_run_elsewhere_and_complete_here)
{
	static struct job j[2000];
	pthread_t seen[4];
	unsigned i, k, n = 0;

	memset(j, 0, sizeof(j));
	jobs_done = 0;
	for (i = 0; i < ARRAY_SIZE(j); i++) {
		j[i].usec = i % 100 ? 0 : 500;
		job_start(&j[i]);
	}
	while (jobs_done < (int)ARRAY_SIZE(j))
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_uint_eq(work_threads(loop), 3);
	for (i = 0; i < ARRAY_SIZE(j); i++) {
		ck_assert(j[i].done);
		ck_assert(!pthread_equal(j[i].thread, pthread_self()));
		for (k = 0; k < n && !pthread_equal(seen[k], j[i].thread); k++)
			;
		ck_assert_uint_lt(k, 3);
		if (k == n)
			seen[n++] = j[i].thread;
	}
}
END_TEST

static void wait_run(struct work *w)
{
	struct job *j = container_of(w, struct job, work);
	char c;

	ck_assert_int_eq(read(j->fd, &c, 1), 1);
}

START_TEST(sleeping_jobs_do_not_stand_behind_computing_ones)
{
	struct job cpu[3] = { 0 }, io[12] = { 0 };
	unsigned i;
	int fds[2];

	jobs_done = 0;
	ck_assert_int_eq(pipe(fds), 0);
	for (i = 0; i < ARRAY_SIZE(cpu); i++) {
		cpu[i].work.run = wait_run;	/* "computes" until told to stop */
		cpu[i].work.task.fn = job_done;
		cpu[i].fd = fds[0];
		work_submit(loop, &cpu[i].work);
	}
	for (i = 0; i < ARRAY_SIZE(io); i++) {
		io[i].usec = 1000;
		io[i].work.run = job_run;
		io[i].work.task.fn = job_done;
		work_submit_blocking(loop, &io[i].work);
	}
	while (jobs_done < (int)ARRAY_SIZE(io))
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(write(fds[1], "xxx", 3), 3);
	while (jobs_done < (int)(ARRAY_SIZE(io) + ARRAY_SIZE(cpu)))
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

static int slots_freed;

static void slot_free(void *p)
{
	__atomic_add_fetch(&slots_freed, 1, __ATOMIC_SEQ_CST);
	free(p);
}

static void slot_run(struct work *w)
{
	void **slot = work_slot(WORK_SLOT_ZSTD_C, slot_free);

	if (!*slot)
		*slot = calloc(1, 100);
	usleep(1000);
}

START_TEST(slots_are_kept_for_each_thread_and_freed_with_it)
{
	struct job j[12] = { 0 };
	unsigned i, threads;

	jobs_done = slots_freed = 0;
	for (i = 0; i < ARRAY_SIZE(j); i++) {
		j[i].work.run = slot_run;
		j[i].work.task.fn = job_done;
		work_submit(loop, &j[i].work);
	}
	while (jobs_done < (int)ARRAY_SIZE(j))
		tapimg_loop_run(loop, true);
	threads = loop->pool.crew[CREW_CPU].nthreads;
	ck_assert_int_eq(slots_freed, 0);
	*work_slot(WORK_SLOT_ZSTD_C, slot_free) = malloc(1);	/* this thread's own */
	teardown();
	ck_assert_int_ge(slots_freed, 2);
	ck_assert_int_le(slots_freed, threads + 1);
	setup();
}
END_TEST

/* ------------------------------------------------------------------ the kernel's queue */

struct kio {
	struct aio_op op;
	long res;
	int done;
};

static int kio_count;

static void kio_done(struct aio_op *op, long res)
{
	struct kio *k = container_of(op, struct kio, op);

	k->res = res;
	k->done++;
	kio_count++;
}

static void kio_poll(struct kio *k, int fd)
{
	memset(k, 0, sizeof(*k));
	io_prep_poll(&k->op.iocb, fd, POLLIN);
	k->op.done = kio_done;
	loop_aio(loop, &k->op);
}

START_TEST(more_than_the_ring_holds)
{
	static struct kio k[5000];
	static char buf[512];
	char path[] = "kioXXXXXX";
	int fd = mkstemp(path);
	unsigned i;

	ck_assert_int_ge(fd, 0);
	unlink(path);
	ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	ck_assert_uint_lt(loop->aio.depth, ARRAY_SIZE(k));
	memset(k, 0, sizeof(k));
	kio_count = 0;
	for (i = 0; i < ARRAY_SIZE(k); i++) {
		/* every hundredth is refused by the kernel as it is submitted */
		io_prep_pread(&k[i].op.iocb, i % 100 ? fd : -1, buf, sizeof(buf), i % 2000 * 512);
		k[i].op.done = kio_done;
		loop_aio(loop, &k[i].op);
	}
	while (kio_count < (int)ARRAY_SIZE(k))
		ck_assert_int_gt(tapimg_loop_run(loop, true), 0);
	for (i = 0; i < ARRAY_SIZE(k); i++) {
		ck_assert_int_eq(k[i].done, 1);
		ck_assert_int_eq(k[i].res, i % 100 ? (int)sizeof(buf) : -EBADF);
	}
	ck_assert_uint_eq(loop->aio.inflight, 0);
	close(fd);
}
END_TEST

/* The loop sleeps for a transfer and for helpers at the same time; each has to wake it. */
START_TEST(either_a_helper_or_a_transfer_ends_the_sleep)
{
	struct job j = { .usec = 20000 }, k = { .usec = 20000 };
	struct kio io;
	int fds[2], round;

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	for (round = 0; round < 3; round++) {
		jobs_done = kio_count = 0;
		kio_poll(&io, fds[0]);
		job_start(&j);
		ck_assert_int_gt(tapimg_loop_run(loop, true), 0);
		while (!jobs_done)
			ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
		ck_assert_int_eq(kio_count, 0);
		/* a helper makes the pipe readable: the transfer completes */
		k.fd = fds[1];
		job_start(&k);
		while (!kio_count || jobs_done < 2)
			ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
		ck_assert_int_eq(read(fds[0], &(char){ 0 }, 1), 1);
	}
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(a_timer_ends_the_sleep_for_a_transfer)
{
	struct alarm a = { .timer.task.fn = alarm_fn };
	struct kio io;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	counter = kio_count = 0;
	kio_poll(&io, fds[0]);
	loop_timer_arm(loop, &a.timer, loop_now(loop) + 5000000);
	while (!counter)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(kio_count, 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	while (!kio_count)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* The ring is reaped without the kernel's help, or with it where its layout is not known. */
START_TEST(without_a_mapped_ring)
{
	struct kio io;
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	ck_assert_msg(loop->aio.ring, "the kernel's ring has an unknown layout");
	loop->aio.ring = NULL;
	kio_count = 0;
	kio_poll(&io, fds[0]);
	ck_assert_int_eq(tapimg_loop_run(loop, false), 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	while (!kio_count)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

/* ------------------------------------------------------------------ embedding */

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* Runs turns as an embedder does, until there is nothing to do. */
static void embed(int fd, int ms)
{
	while (readable(fd, ms))
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
}

START_TEST(the_descriptor_tells_of_everything)
{
	struct alarm a = { .timer.task.fn = alarm_fn };
	struct step s = { .task.fn = step_fn };
	struct job j = { .usec = 3000 };
	struct kio early, io;
	int fds[2], fd;

	counter = kio_count = jobs_done = 0;
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(aio_start(&loop->aio, NULL), 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	kio_poll(&early, fds[0]);		/* in flight when the mode changes */
	tapimg_loop_run(loop, false);
	fd = tapimg_loop_fd(loop);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(tapimg_loop_fd(loop), fd);
	embed(fd, 20);
	ck_assert_int_eq(kio_count, 1);
	ck_assert(!readable(fd, 0));

	loop_defer(loop, &s.task);
	embed(fd, 0);
	ck_assert_int_eq(counter, 1);

	job_start(&j);
	ck_assert(readable(fd, 1000));
	embed(fd, 20);
	ck_assert_int_eq(jobs_done, 1);

	loop_timer_arm(loop, &a.timer, loop_now(loop) + 5000000);
	ck_assert(readable(fd, 1000));
	embed(fd, 20);
	ck_assert_int_eq(a.order, 2);

	kio_poll(&io, fds[0]);			/* readable at once */
	ck_assert(readable(fd, 0));		/* it wants to be submitted */
	embed(fd, 20);
	ck_assert_int_eq(kio_count, 2);
	ck_assert(!readable(fd, 0));

	/* the blocking way still works */
	job_start(&j);
	while (jobs_done < 2)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("loop");
	TCase *tc = tcase_create("loop");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, tasks_run_in_order_and_in_the_same_turn);
	tcase_add_test(tc, a_task_that_repeats_itself_does_not_starve_the_loop);
	tcase_add_test(tc, waiting_for_nothing_is_told);
	tcase_add_test(tc, timers_fire_in_order_of_time_and_not_before);
	tcase_add_test(tc, a_timer_of_the_past_fires_at_once);
	tcase_add_test(tc, waking_empties_the_list_first);
	tcase_add_test(tc, jobs_run_elsewhere_and_complete_here);
	tcase_add_test(tc, sleeping_jobs_do_not_stand_behind_computing_ones);
	tcase_add_test(tc, slots_are_kept_for_each_thread_and_freed_with_it);
	tcase_add_test(tc, more_than_the_ring_holds);
	tcase_add_test(tc, either_a_helper_or_a_transfer_ends_the_sleep);
	tcase_add_test(tc, a_timer_ends_the_sleep_for_a_transfer);
	tcase_add_test(tc, without_a_mapped_ring);
	tcase_add_test(tc, the_descriptor_tells_of_everything);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
