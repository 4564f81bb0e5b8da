/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-kill.c - kill -9 under a load of writes, again and again; the guest goes on with the next server
 *
 * An oracle knows for every block which generation was acknowledged last.  After each kill the image
 * is checked (clean or leaks only), a new server takes over the same guest with its in-flight area,
 * and at the end, and now and then, everything is read back: no acknowledged write is lost.  A request
 * that is answered twice ends the program (dring.c).
 *
 * Each format that can be created is tried, with split and packed rings in turn.  TAPIMG_LONG: 100 kills of
 * each, with both kinds of ring; TAPIMG_FORMAT: this format only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "served.h"
#include "vu.h"

#define SIZE_MIB 24
#define BLOCK 4096u
#define BLOCKS (SIZE_MIB * 256u)
#define NUM 64
#define DEPTH 32

struct oracle {
	uint32_t acked[BLOCKS];		/* generation; 0: never written */
	uint32_t asked[BLOCKS];		/* being written: newer than acked */
	bool busy[BLOCKS];
};

struct run {
	struct vu v;
	struct served s;
	struct oracle o;
	char disk[100], file[60];
	const char *format;
	uint64_t data;
	uint32_t generation;
	unsigned inflight;
	unsigned long writes, flushes;
};

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

/* Every 8 bytes tell block and generation, so that a torn or misplaced one is seen. */
static void stamp(uint8_t *p, uint32_t block, uint32_t generation)
{
	uint32_t w[2] = { block, generation };
	unsigned i;

	for (i = 0; i < BLOCK; i += 8)
		memcpy(p + i, w, 8);
}

static uint32_t generation_of(const uint8_t *p, uint32_t block)
{
	uint32_t w[2];
	unsigned i;

	memcpy(w, p, 8);
	for (i = 8; i < BLOCK; i += 8)
		if (memcmp(p + i, p, 8))
			vu_die("block %u is torn at byte %u", block, i);
	if (w[1] && w[0] != block)
		vu_die("block %u holds block %u", block, w[0]);
	return w[1];
}

/* A write of one to four blocks nobody else is writing, or a flush. False: nothing fits now. */
static bool issue(struct run *r)
{
	unsigned n = 1 + rand() % 4, block = rand() % (BLOCKS - 4), i;
	struct vu_queue *q = &r->v.q[0];
	struct vu_req *req;
	uint64_t at;

	if (r->inflight == DEPTH || !q->nfree)
		return false;
	at = r->data + q->free[q->nfree - 1] * 4 * BLOCK;
	if (rand() % 50 == 0) {
		req = vu_submit(&r->v, 0, VU_FLUSH, 0, 0, 0, NULL);
		r->inflight += req != NULL;
		return req;
	}
	for (i = 0; i < n; i++)
		if (r->o.busy[block + i])
			return true;	/* another time */
	r->generation++;
	for (i = 0; i < n; i++)
		stamp(r->v.mem + at + i * BLOCK, block + i, r->generation);
	req = vu_submit(&r->v, 0, VU_OUT, block * 8, at, n * BLOCK, NULL);
	if (!req)
		return false;
	for (i = 0; i < n; i++) {
		r->o.busy[block + i] = true;
		r->o.asked[block + i] = r->generation;
	}
	r->inflight++;
	return true;
}

static void reap(struct run *r)
{
	struct vu_req *req;
	unsigned i;

	while ((req = vu_poll(&r->v, 0))) {
		if (req->status)
			vu_die("%s: request %u at %llu: status %u", r->format, req->type,
			       (unsigned long long)req->sector, req->status);
		r->inflight--;
		if (req->type == VU_FLUSH)
			r->flushes++;
		if (req->type != VU_OUT)
			continue;
		r->writes++;
		for (i = 0; i < req->len / BLOCK; i++) {
			unsigned b = req->sector / 8 + i;

			r->o.busy[b] = false;
			r->o.acked[b] = r->o.asked[b];
		}
	}
}

static void load_until(struct run *r, uint64_t end)
{
	while (now_us() < end) {
		while (issue(r) && rand() % 8)
			;
		vu_kick(&r->v, 0);
		reap(r);
	}
}

/* Everything asked comes back. */
static void settle(struct run *r)
{
	uint64_t end = now_us() + 60000000;

	while (r->inflight) {
		reap(r);
		if (now_us() > end)
			vu_die("%s: %u requests are never answered", r->format, r->inflight);
	}
}

static void verify(struct run *r)
{
	unsigned b;

	for (b = 0; b < BLOCKS; b++) {
		uint32_t got;

		if (vu_do(&r->v, 0, VU_IN, b * 8, r->data, BLOCK))
			vu_die("%s: block %u cannot be read", r->format, b);
		got = generation_of(r->v.mem + r->data, b);
		if (got != r->o.acked[b])
			vu_die("%s: block %u holds generation %u, %u was acknowledged", r->format, b, got,
			       r->o.acked[b]);
	}
}

/* Clean, or leaks only. Formats without a check have nothing that could be wrong. */
static void check_image(struct run *r)
{
	char cmd[300];
	int rc;

	snprintf(cmd, sizeof(cmd), "%s check -q -f %s %s >check.log 2>&1", served_tool("tapimg"), r->format,
		 r->file);
	rc = system(cmd);
	rc = WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
	if (rc != 0 && rc != 3 && rc != 63) {
		served_run("cat check.log");
		vu_die("%s: after a kill, check says %d", r->format, rc);
	}
}

static void one_kill(struct run *r)
{
	load_until(r, now_us() + 2000 + rand() % 60000);
	served_kill(&r->s);
	load_until(r, now_us() + 1000);		/* the guest does not know yet */
	check_image(r);
	served_start(&r->s, r->disk, "");
	if (vu_reconnect(&r->v, 20000))
		vu_die("%s: no server any more", r->format);
}

static bool create(struct run *r)
{
	char cmd[300];

	snprintf(cmd, sizeof(cmd), "%s create -q -f %s %s %uM >create.log 2>&1", served_tool("tapimg"),
		 r->format, r->file, SIZE_MIB);
	return system(cmd) == 0;
}

/* False: there is no such format. */
static bool run_format(const char *format, bool packed, unsigned kills)
{
	static struct run r;
	unsigned i;

	memset(&r, 0, sizeof(r));
	r.format = format;
	snprintf(r.file, sizeof(r.file), "disk.%s", format);
	snprintf(r.disk, sizeof(r.disk), "%s:%s", format, r.file);
	if (!create(&r))
		return false;
	served_init(&r.s);
	served_start(&r.s, r.disk, "");
	vu_init(&r.v, r.s.socket, 8ull << 20, 1, NUM);
	r.v.want &= packed ? ~0ull : ~VU_F_PACKED;
	r.v.poll = true;
	if (vu_dial(&r.v, 20000))
		vu_die("%s: nobody listens", format);
	r.data = vu_alloc(&r.v, NUM * 4 * BLOCK);
	vu_start(&r.v);
	for (i = 1; i <= kills; i++) {
		one_kill(&r);
		if (i % 5 == 0 || i == kills) {
			settle(&r);
			verify(&r);
		}
	}
	vu_exit(&r.v);
	if (served_stop(&r.s))
		vu_die("%s: the last server does not end well", format);
	check_image(&r);
	printf("%s, %s ring: %u kills, %lu writes and %lu flushes acknowledged\n", format,
	       packed ? "packed" : "split", kills, r.writes, r.flushes);
	return true;
}

int main(void)
{
	static const char *const formats[] = { "raw", "qcow2", "vhd", "qcow", "vmdk" };
	const char *only = getenv("TAPIMG_FORMAT");
	bool all = getenv("TAPIMG_LONG");
	unsigned i, passed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	srand(all ? time(NULL) : 1);
	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		unsigned packed;

		if (only && strcmp(only, formats[i]))
			continue;
		for (packed = 0; packed < 2; packed++) {
			if (!all && packed != i % 2)
				continue;
			passed += run_format(formats[i], packed, all ? 100 : 5);
		}
	}
	printf("%u passed, 0 failed, 0 skipped\n", passed);
	return 0;
}
