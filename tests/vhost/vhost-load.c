/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-load.c - load for a vhost-user-blk server, and what it costs that server
 *
 *	vhost-load [options] SOCKET
 *	  -p PID	of the server: its processor time for each request is measured
 *	  -d DEPTH	requests in flight in each queue (32)
 *	  -b BYTES	of a request (4096)
 *	  -q QUEUES	(1)
 *	  -t SECONDS	how long (2)
 *	  -n COUNT	stop after so many requests
 *	  -w PERCENT	of writes (0)
 *	  -s		sequential offsets, each once, to the end of the disk: first writes
 *	  -f N		a flush after every N requests of a queue
 *	  -r BYTES	use only so much of the disk
 *	  -i		sleep until called; else look at the rings without end, as a busy guest does
 *	  -P		packed rings, -E without event indices
 *
 * Buffers are aligned to 4096.  Prints one line of JSON: requests, seconds, iops, cpu_us (of the
 * server for each request, with -p), p50_us, p99_us, errors.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vu.h"

#define NSEC 1000000000ull
#define SHOWN 4			/* requests made visible at once, at most; Linux shows each by itself */
#define BUCKETS 4096		/* of a quarter of a microsecond */

struct load {
	struct vu v;
	int pid;
	unsigned depth, bytes, queues, writes, flush_every;
	double seconds;
	uint64_t count, range;
	bool sequential, sleepy;
	uint64_t blocks, next, rnd;
	uint64_t issued, done, errors;
	uint64_t data[VU_QUEUES];
	uint64_t since_flush[VU_QUEUES];
	unsigned sample;
	unsigned long hist[BUCKETS + 1];
	uint64_t stamp[VU_QUEUES][1024];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NSEC + t.tv_nsec;
}

/* ns of processor time that a process has used, all its threads, by the scheduler's own count */
static uint64_t cpu_ns(int pid)
{
	struct timespec t;
	clockid_t clock;

	if (!pid || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
		return 0;
	return t.tv_sec * NSEC + t.tv_nsec;
}

static uint64_t next_block(struct load *l)
{
	if (l->sequential)
		return l->next++;
	l->rnd ^= l->rnd << 13;
	l->rnd ^= l->rnd >> 7;
	l->rnd ^= l->rnd << 17;
	return (l->rnd >> 11) % l->blocks;
}

static bool issue(struct load *l, unsigned qi)
{
	bool flush = l->flush_every && ++l->since_flush[qi] > l->flush_every;
	bool write = !flush && l->writes && (l->rnd >> 40) % 100 < l->writes;
	struct vu_req *r;
	uint64_t slot;

	if ((l->count && l->issued >= l->count) || (l->sequential && l->next >= l->blocks))
		return false;
	if (flush)
		l->since_flush[qi] = 0;
	/* the slot that is about to be used decides which buffer */
	slot = l->v.q[qi].free[l->v.q[qi].nfree - 1];
	r = vu_submit(&l->v, qi, flush ? VU_FLUSH : write ? VU_OUT : VU_IN,
		      flush ? 0 : next_block(l) * (l->bytes / 512), l->data[qi] + slot * l->bytes,
		      flush ? 0 : l->bytes, NULL);
	if (!r)
		vu_die("no room in the ring");
	l->issued++;
	/* every sixteenth is timed */
	l->stamp[qi][r->slot] = l->sample++ % 16 ? 0 : now_ns();
	return true;
}

static void reaped(struct load *l, unsigned qi, const struct vu_req *r)
{
	uint64_t at = l->stamp[qi][r->slot], b;

	l->done++;
	l->errors += r->status != 0;
	if (!at)
		return;
	b = (now_ns() - at) / 250;
	l->hist[b < BUCKETS ? b : BUCKETS]++;
}

/* Answers to requests of one queue, as many as are there, each followed by the next request. */
static unsigned turn(struct load *l, unsigned qi, bool more)
{
	struct vu_req *r;
	unsigned n = 0;

	while ((r = vu_poll(&l->v, qi))) {
		reaped(l, qi, r);
		n++;
		if (more)
			issue(l, qi);
		if (n % SHOWN == 0)
			vu_kick(&l->v, qi);
	}
	if (n % SHOWN)
		vu_kick(&l->v, qi);
	return n;
}

static void run(struct load *l, double seconds)
{
	uint64_t start = now_ns(), end = start + seconds * NSEC;
	unsigned qi, k, idle = 0;
	bool more = true;

	for (qi = 0; qi < l->queues; qi++) {
		for (k = 0; k < l->depth; k++)
			issue(l, qi);
		vu_kick(&l->v, qi);
	}
	while (l->done < l->issued) {
		unsigned n = 0;

		for (qi = 0; qi < l->queues; qi++)
			n += turn(l, qi, more);
		if (more && now_ns() > end)
			more = false;
		if (n) {
			idle = 0;
			continue;
		}
		if (l->sleepy && l->queues == 1) {
			struct vu_req *r = vu_wait(&l->v, 0, 10000);

			if (!r)
				vu_die("no answer within 10 s");
			reaped(l, 0, r);
			if (more)
				issue(l, 0);
			vu_kick(&l->v, 0);
		} else if (++idle % 1000000 == 0 && now_ns() > end + 10 * NSEC) {
			vu_die("no answer within 10 s");
		}
	}
}

static double percentile(const struct load *l, double part)
{
	unsigned long total = 0, sum = 0;
	unsigned i;

	for (i = 0; i <= BUCKETS; i++)
		total += l->hist[i];
	for (i = 0; i <= BUCKETS; i++) {
		sum += l->hist[i];
		if (sum >= part * total)
			break;
	}
	return i * 0.25;
}

static void options(struct load *l, int argc, char **argv)
{
	int c;

	l->depth = 32;
	l->bytes = 4096;
	l->queues = 1;
	l->seconds = 2;
	l->rnd = 88172645463325252ull;
	while ((c = getopt(argc, argv, "p:d:b:q:t:n:w:sf:r:iPE")) != -1) {
		switch (c) {
		case 'p': l->pid = atoi(optarg); break;
		case 'd': l->depth = atoi(optarg); break;
		case 'b': l->bytes = atoi(optarg); break;
		case 'q': l->queues = atoi(optarg); break;
		case 't': l->seconds = atof(optarg); break;
		case 'n': l->count = strtoull(optarg, NULL, 0); break;
		case 'w': l->writes = atoi(optarg); break;
		case 's': l->sequential = true; break;
		case 'f': l->flush_every = atoi(optarg); break;
		case 'r': l->range = strtoull(optarg, NULL, 0); break;
		case 'i': l->sleepy = true; break;
		default: break;
		}
	}
	if (optind + 1 != argc || !l->depth || l->depth > 1024 || !l->queues ||
	    l->queues > VU_QUEUES || l->bytes % 512 || !l->bytes)
		vu_die("usage: vhost-load [options] SOCKET; the head of its source tells of them");
}

static unsigned ring_size(unsigned depth)
{
	unsigned n = 128;

	while (n < depth)
		n *= 2;
	return n;
}

int main(int argc, char **argv)
{
	static struct load l;
	uint64_t size, cpu, start, took;
	unsigned i, num;
	bool packed = false, no_event = false;
	double us;
	int c, ret;

	options(&l, argc, argv);
	optind = 1;
	while ((c = getopt(argc, argv, "p:d:b:q:t:n:w:sf:r:iPE")) != -1) {
		packed |= c == 'P';
		no_event |= c == 'E';
	}
	num = ring_size(l.depth);
	vu_init(&l.v, argv[argc - 1], (uint64_t)l.queues * (num * (uint64_t)l.bytes + dring_bytes(num) +
		num * 64 + 8192) + (1 << 20), l.queues, num);
	l.v.want &= ~((packed ? 0 : VU_F_PACKED) | (no_event ? VU_F_EVENT_IDX : 0));
	l.v.poll = !l.sleepy;
	ret = vu_dial(&l.v, 3000);
	if (ret)
		vu_die("%s: %s", argv[argc - 1], strerror(-ret));
	vu_start(&l.v);
	for (i = 0; i < l.queues; i++)
		l.data[i] = vu_alloc(&l.v, num * (uint64_t)l.bytes);
	memcpy(&size, l.v.config, 8);
	size *= 512;
	if (l.range && l.range < size)
		size = l.range;
	l.blocks = size / l.bytes;
	if (!l.blocks)
		vu_die("the disk is smaller than a request");
	if (!l.sequential && !l.count) {
		run(&l, l.seconds / 10);	/* warm */
		l.issued = l.done = 0;
		memset(l.hist, 0, sizeof(l.hist));
	}
	cpu = cpu_ns(l.pid);
	start = now_ns();
	run(&l, l.seconds);
	took = now_ns() - start;
	cpu = cpu_ns(l.pid) - cpu;
	us = l.pid ? cpu / 1000.0 / l.done : 0;
	printf("{\"requests\": %" PRIu64 ", \"seconds\": %.3f, \"iops\": %.0f, \"cpu_us\": %.3f, "
	       "\"p50_us\": %.2f, \"p99_us\": %.2f, \"errors\": %" PRIu64 "}\n", l.done,
	       took / (double)NSEC, l.done * (double)NSEC / took, us, percentile(&l, 0.5),
	       percentile(&l, 0.99), l.errors);
	vu_exit(&l.v);
	return l.errors != 0;
}
