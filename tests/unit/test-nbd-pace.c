/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-nbd-pace.c - pauses between the turns of a busy NBD connection: clients in a model of time
 */
#include <check.h>
#include <stdlib.h>

#include "nbd.h"
#include "suite.h"

/* A client with @depth requests in flight that takes @own ns for each; the server takes @turn ns for a turn. */
struct client {
	unsigned depth;
	uint64_t own, turn;
	struct nbd_pace p;
	uint64_t now, requests, paused;
};

static void start(struct client *c, unsigned depth, uint64_t own, uint64_t turn)
{
	*c = (struct client){.depth = depth, .own = own, .turn = turn, .now = 1};
	nbd_pace_init(&c->p);
}

/* One turn: what the client could send since the last one, as far as its depth goes. */
static void turn(struct client *c)
{
	uint64_t took = c->turn + c->p.pause, n = took / c->own;

	if (c->depth == 1)
		took += c->own;		/* it sends nothing before it has its reply */
	n = n < 1 ? 1 : n > c->depth ? c->depth : n;
	if (took < c->own)
		took = c->own;
	c->now += took;
	c->requests += n;
	c->paused += c->p.pause ? n : 0;
	nbd_pace_count(&c->p, n, c->now);
}

static void run(struct client *c, uint64_t requests)
{
	for (uint64_t end = c->requests + requests; c->requests < end;)
		turn(c);
}

START_TEST(one_at_a_time)
{
	struct client c;

	start(&c, 1, 10000, 6000);
	run(&c, 1000000);
	ck_assert_uint_lt(c.now / c.requests, 16000 * 101 / 100);
	ck_assert_uint_gt(c.paused, 0);		/* it was tried */
	ck_assert_uint_lt(c.paused, c.requests / 50);
}
END_TEST

START_TEST(many_at_once)
{
	struct client c;

	start(&c, 32, 5000, 5000);
	run(&c, 100000);
	ck_assert_uint_ge(c.p.pause, 40000);
	ck_assert_uint_gt(c.paused, c.requests * 9 / 10);
	ck_assert_uint_lt(c.now / c.requests, 5300);
	/* the same client begins to wait for each reply */
	c.depth = 1;
	run(&c, 2000);
	ck_assert_uint_eq(c.p.pause, 0);
	run(&c, 100000);
	/* and is a fast one again */
	c.depth = 32;
	run(&c, 2000000);
	ck_assert_uint_ge(c.p.pause, 40000);
}
END_TEST

/* Two in flight: a pause would keep both waiting. */
START_TEST(a_few)
{
	struct client c;

	start(&c, 2, 5000, 5000);
	run(&c, 1000000);
	ck_assert_uint_lt(c.now / c.requests, 5100);
}
END_TEST

START_TEST(slow_ones)
{
	struct client c;

	start(&c, 1, 150000, 6000);
	run(&c, 100000);
	ck_assert_uint_eq(c.paused, 0);
	start(&c, 32, 150000, 6000);
	run(&c, 100000);
	ck_assert_uint_eq(c.paused, 0);
}
END_TEST

/* A client that comes and goes: what lies between is no part of a window. */
START_TEST(idle_times)
{
	struct client c;

	start(&c, 32, 5000, 5000);
	for (unsigned i = 0; i < 300; i++) {
		run(&c, 1000);
		c.now += 1000000000;
	}
	ck_assert_uint_gt(c.paused, c.requests / 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("nbd-pace");
	TCase *t = tcase_create("pace");

	tcase_add_test(t, one_at_a_time);
	tcase_add_test(t, many_at_once);
	tcase_add_test(t, a_few);
	tcase_add_test(t, slow_ones);
	tcase_add_test(t, idle_times);
	suite_add_tcase(s, t);
	return suite_run(s);
}
