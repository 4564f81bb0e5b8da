/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-pace.c - how often a busy connection is looked at
 *
 * A client that sends its requests one by one wakes the server for each of them, and is woken by each
 * reply: most of the time of a small request goes there.  So a busy connection is not watched; it is
 * read every so many microseconds, and all that has come meanwhile is handled, and answered, at once.
 *
 * Whether that helps cannot be known beforehand: a client that waits for each reply before it sends the
 * next request would only be slowed down.  So it is tried: windows of requests with a pause after each
 * turn and without take turns, and if requests came no more slowly with it (then nor is any of them late, for
 * as many are in flight) the pause stays, and one of twice the length is tried.  Where even the shortest
 * does harm, the next attempt comes after a rest that doubles each time, so that what such clients lose
 * is soon too little to be measured.
 *
 * P1 A pause never begins with something half received, nor while the connection may not read.
 * P2 A pause in which nothing came is the last: the connection is watched again, and an idle one costs
 *    nothing.
 */
#include "nbd.h"

#define WINDOW 128			/* requests for which the time is taken */
#define WINDOW_NS 200000000ULL		/* one that takes longer says that there is no need */
#define PHASES 8			/* windows of an attempt, without the pause and with it in turn */
#define SHORTEST_NS 10000u
#define LONGEST_NS 320000u
#define NEEDED_NS 100000u		/* for each request: where they come more slowly, pauses save nothing */
#define REST_FIRST 16			/* windows until the next attempt */
#define REST_LONGEST 8192
#define STEADY 1024			/* windows until what was found is looked into again */

void nbd_pace_init(struct nbd_pace *p)
{
	*p = (struct nbd_pace){ .rest = REST_FIRST, .wait = 1 };
}

static void attempt(struct nbd_pace *p, uint64_t pause)
{
	p->wait = p->phase = 0;
	p->sum[0] = p->sum[1] = 0;
	p->pause = 0;
	p->next = pause;
}

static void settle(struct nbd_pace *p, uint64_t pause)
{
	p->pause = p->good = pause;
	if (pause) {
		p->wait = STEADY;
		p->rest = REST_FIRST;
	} else {
		p->wait = p->rest;
		p->rest = MIN(2 * p->rest, (unsigned)REST_LONGEST);
	}
}

/* A window is over; each of its requests took @each ns. */
static void pace_decide(struct nbd_pace *p, uint64_t each)
{
	if (each > NEEDED_NS) {
		p->pause = p->good = 0;
		p->wait = MAX(p->wait, (unsigned)REST_FIRST);
	} else if (p->wait) {
		if (!--p->wait)
			attempt(p, MAX(p->good, (uint64_t)SHORTEST_NS));
	} else {
		p->sum[p->phase++ % 2] += each;
		p->pause = p->phase % 2 ? p->next : 0;
		if (p->phase < PHASES)
			return;
		/* a twentieth is less than what windows differ by themselves */
		if (p->sum[1] > p->sum[0] + p->sum[0] / 20)
			settle(p, p->next > p->good ? p->good : 0);
		else if (p->next >= LONGEST_NS)
			settle(p, p->next);
		else
			attempt(p, 2 * (p->good = p->next));
	}
}

static void begin_window(struct nbd_pace *p, uint64_t now)
{
	p->began = now;
	p->n = 0;
}

void nbd_pace_count(struct nbd_pace *p, unsigned requests, uint64_t now)
{
	uint64_t took = now - p->began;

	if (took > WINDOW_NS) {		/* it was idle */
		begin_window(p, now);
		return;
	}
	p->n += requests;
	if (p->n < WINDOW)
		return;
	pace_decide(p, took / p->n);
	begin_window(p, now);
}

/* ------------------------------------------------------------------ connections */

static void pause_over(struct task *t)
{
	struct nbd_conn *c = container_of(t, struct nbd_conn, pace.timer.task);

	c->busy++;
	c->pace.paused = false;
	c->readable = true;
	nbd_conn_run(c);
	if (!c->flushing)	/* else that does it */
		nbd_pace_turn(c);
	c->busy--;
	nbd_conn_put(c);
}

void nbd_pace_turn(struct nbd_conn *c)
{
	struct nbd_pace *p = &c->pace;
	unsigned requests = p->taken - p->counted;

	if (p->paused || c->fd < 0)
		return;
	if (requests) {
		p->counted = p->taken;
		nbd_pace_count(p, requests, loop_now(c->loop));
	}
	if (!p->pause || !requests /* P2 */ || c->ended || c->readable || c->tasked || c->want ||
	    c->skip || c->rpos < c->rend /* P1 */) {
		nbd_conn_watch(c, true);
		return;
	}
	p->paused = true;
	p->timer.task.fn = pause_over;
	nbd_conn_watch(c, false);
	loop_timer_arm(c->loop, &p->timer, loop_now(c->loop) + p->pause);
}

void nbd_pace_stop(struct nbd_conn *c)
{
	loop_timer_cancel(&c->pace.timer);
	c->pace.paused = false;
}
