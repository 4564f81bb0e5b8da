/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-live-commit.c - the power goes while a layer is committed and the disk is in use
 *
 * Each seed makes a chain of images on the simulated disk and lives through generations: the
 * server's disk on top of it is loaded at random, layers are committed meanwhile, some commits are
 * cancelled, and the power goes at a random step.  What a reader may see is the oracle's business;
 * it does not know of layers, so a commit must never change it.  The rules J1 to J4 are those of
 * tapdisk/job.c; for J1 to J3 there are mutants, which have to be caught.  J4 matters only where a
 * slow read, a freed cluster, a flush below and a new allocation meet; that is too rare to be asked for.
 *
 *	test-live-commit [--seeds A-B] [--mutant N]
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "control.h"
#include "image.h"
#include "log.h"
#include "oracle.h"
#include "simdisk.h"

#define GRAN 512
#define DEPTH 6
#define GENERATIONS 4
#define TICK_NS 10000

struct live;

struct lslot {
	struct live *l;
	struct disk_req r;
	struct iovec iov;
	uint8_t *buf;
	uint64_t id;
	uint32_t kind;
	bool busy;
};

struct live {
	uint64_t seed;
	struct rng rng;
	struct sim *sim;
	struct server s;
	struct control c;
	struct vbd v;
	struct oracle now;
	struct lslot slot[DEPTH];
	char top[16];
	unsigned layers, made;
	unsigned inflight, commits, concluded;
	unsigned left;			/* requests of this load */
	struct timer feeder;
	struct tapimg_req below;
	bool flushing;
	unsigned mutant;
	char fail[800];
};

struct sums {
	unsigned seeds, cuts, commits, concluded;
};

__attribute__((format(printf, 2, 3)))
static bool failed(struct live *l, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!l->fail[0])
		vsnprintf(l->fail, sizeof(l->fail), fmt, ap);
	va_end(ap);
	return false;
}

static bool over(const struct live *l)
{
	return sim_dead(l->sim) || l->fail[0];
}

/* ----------------------------------------------------------------- the machine */

static void nothing(struct task *t)
{
}

static bool up(struct live *l)
{
	struct tapimg_err err = { 0 };

	if (server_init(&l->s, &err))
		return failed(l, "no server: %s", err.text);
	sim_attach(l->sim, l->s.loop);
	memset(&l->c, 0, sizeof(l->c));
	memset(&l->v, 0, sizeof(l->v));
	list_init(&l->c.queue);
	list_init(&l->c.vbds);
	list_init(&l->c.conns);
	list_init(&l->c.jobs);
	list_init(&l->c.work.node);
	list_init(&l->c.job_task.node);
	l->c.work.fn = nothing;
	l->c.server = &l->s;
	l->c.mutant = l->mutant;
	l->v.server = &l->s;
	l->v.name = "disk";
	return true;
}

static void down(struct live *l)
{
	if (l->v.disk)
		disk_close(l->v.disk, true, NULL);
	job_free(&l->v);
	while (sim_busy(l->sim) || !list_empty(&l->c.work.node))
		tapimg_loop_run(l->s.loop, true);
	sim_detach(l->sim);
	server_exit(&l->s);
}

static bool open_top(struct live *l)
{
	struct tapimg_err err = { 0 };
	struct disk_config c;
	char text[64];
	int ret;

	disk_config_init(&c);
	snprintf(text, sizeof(text), "qcow2:sim:%s", l->top);
	ret = disk_config_parse(&c, text, &err);
	c.cache_size = rng_pct(&l->rng, 50);
	if (!ret)
		ret = disk_open(&l->s, &c, &l->v.disk, &err);
	disk_config_clear(&c);
	if (ret && !sim_dead(l->sim))
		return failed(l, "%s: %s", l->top, err.text);
	return !ret;
}

/* ------------------------------------------------------------------------ chains */

/* A layer more, the new top. */
static bool add_layer(struct live *l, uint64_t size)
{
	char name[24], backing[24], cluster[16];
	struct tapimg_opt opt = { "cluster_size", cluster };
	struct tapimg_create_opts o = { .format = "qcow2", .size = size, .opts = &opt, .nopts = 1 };
	struct tapimg_err err = { 0 };

	snprintf(cluster, sizeof(cluster), "%llu", 512ULL << rng_below(&l->rng, 8));
	snprintf(backing, sizeof(backing), "sim:%s", l->top);
	snprintf(name, sizeof(name), "sim:l%u", l->made);
	if (l->layers) {
		o.backing = backing;
		o.backing_format = "qcow2";
	}
	if (tapimg_create(l->s.loop, name, &o, &err))
		return sim_dead(l->sim) ? false : failed(l, "create: %s", err.text);
	snprintf(l->top, sizeof(l->top), "l%u", l->made++);
	l->layers++;
	return true;
}

static void coded_done(struct tapimg_req *req)
{
	*(bool *)req->opaque = true;
}

static int write_coded(struct live *l, struct tapimg *img, void *buf, uint64_t off, uint64_t len)
{
	struct iovec iov = { buf, len };
	bool done = false;
	struct tapimg_req req = { .op = TAPIMG_WRITE_COMPRESSED, .off = off, .len = len, .iov = &iov,
				  .iovcnt = 1, .done = coded_done, .opaque = &done };

	tapimg_submit(img, &req);
	return loop_until(l->s.loop, &done) ? -EIO : req.ret;
}

/* Compressed clusters, so that writes below free space (J4). */
static bool fill_coded(struct live *l)
{
	struct tapimg_open_opts o = { .format = "qcow2", .flags = TAPIMG_RDWR };
	struct tapimg_err err = { 0 };
	char name[24];
	struct tapimg *img;
	uint64_t cluster, off;
	uint8_t *buf;
	int ret = 0;

	snprintf(name, sizeof(name), "sim:%s", l->top);
	if (tapimg_open(l->s.loop, name, &o, &img, &err))
		return failed(l, "%s", err.text);
	cluster = img->cluster;
	buf = malloc(cluster);
	for (off = 0; off + cluster <= l->now.size && !ret; off += cluster) {
		uint64_t id = oracle_now(&l->now);

		oracle_begin(&l->now, id, off, cluster, 0);
		oracle_fill(&l->now, buf, id, off, cluster);
		ret = write_coded(l, img, buf, off, cluster);
		oracle_end(&l->now, id, off, cluster, 0);
	}
	free(buf);
	if (!ret)
		oracle_flushed(&l->now, oracle_now(&l->now));
	if (tapimg_close(img, &err) || ret)
		return failed(l, "fill: %s %s", err.text, strerror(-ret));
	return true;
}

/* -------------------------------------------------------------------------- load */

static void slot_done(struct disk_req *r)
{
	struct lslot *s = container_of(r, struct lslot, r);
	struct live *l = s->l;
	int ret = r->req.ret;

	s->busy = false;
	l->inflight--;
	if (ret && !sim_dead(l->sim))
		failed(l, "request failed: %s", strerror(-ret));
	if (r->req.op == TAPIMG_FLUSH) {
		if (!ret)
			oracle_flushed(&l->now, s->id);
	} else if (r->req.op != TAPIMG_READ) {
		oracle_end(&l->now, s->id, r->req.off, r->req.len, ret ? OREC_WEAK : 0);
	} else if (!ret && !oracle_check(&l->now, s->buf, r->req.off, r->req.len, ORACLE_LIVE, s->id)) {
		failed(l, "a read while in use: %s", l->now.why);
	}
}

static void draw_request(struct live *l, struct lslot *s)
{
	struct tapimg_req *req = &s->r.req;
	unsigned pct = (unsigned)rng_below(&l->rng, 100);

	req->op = pct < 45 ? TAPIMG_WRITE : pct < 55 ? TAPIMG_ZERO : pct < 90 ? TAPIMG_READ : TAPIMG_FLUSH;
	req->flags = req->op == TAPIMG_ZERO ? TAPIMG_REQ_MAY_UNMAP : 0;
	req->len = req->op == TAPIMG_FLUSH ? 0 : GRAN * rng_range(&l->rng, 1, 32);
	req->off = req->op == TAPIMG_FLUSH ? 0 :
		   GRAN * rng_below(&l->rng, (l->now.size - req->len) / GRAN + 1);
}

static void submit_one(struct live *l)
{
	struct lslot *s = NULL;

	for (unsigned i = 0; i < DEPTH && !s; i++)
		if (!l->slot[i].busy)
			s = &l->slot[i];
	if (!s)
		return;
	if (!s->buf)
		s->buf = malloc(32 * GRAN);
	draw_request(l, s);
	s->l = l;
	s->busy = true;
	s->id = oracle_now(&l->now);
	s->iov = (struct iovec){ s->buf, s->r.req.len };
	s->r.req.iov = &s->iov;
	s->r.req.iovcnt = 1;
	s->r.done = slot_done;
	if (s->r.req.op == TAPIMG_WRITE)
		oracle_fill(&l->now, s->buf, s->id, s->r.req.off, s->r.req.len);
	if (s->r.req.op == TAPIMG_WRITE || s->r.req.op == TAPIMG_ZERO)
		oracle_begin(&l->now, s->id, s->r.req.off, s->r.req.len,
			     s->r.req.op == TAPIMG_ZERO ? OREC_ZERO : 0);
	l->inflight++;
	disk_submit(l->v.disk, &s->r);
}

/* ----------------------------------------------------------------------- commits */

static void maybe_commit(struct live *l)
{
	struct tapimg *img = disk_image(l->v.disk);
	struct tapimg_err err = { 0 };
	unsigned n = 0;
	int ret;

	if (!img || (l->v.job && job_active(l->v.job)))
		return;
	for (struct tapimg *i = img; i; i = i->backing)
		n++;
	l->layers = n;
	if (n < 2)
		return;
	n = (unsigned)rng_below(&l->rng, n - 1);
	while (n--)
		img = img->backing;
	ret = job_start(&l->c, &l->v, img->path, &err);
	if (ret)
		failed(l, "commit: %s", err.text);
	l->commits++;
}

static void look_at_job(struct live *l)
{
	uint64_t done, total;
	const char *status;
	int error;

	if (!l->v.job)
		return;
	if (job_active(l->v.job) && !rng_below(&l->rng, 2000))
		job_cancel(l->v.job);
	if (job_active(l->v.job))
		return;
	job_query(&l->v, &done, &total, &status, &error);
	if (!error)
		l->concluded++;
	else if (error != -ECANCELED && !sim_dead(l->sim))
		failed(l, "the commit has failed: %s", strerror(-error));
}

static void below_flushed(struct tapimg_req *req)
{
	struct live *l = container_of(req, struct live, below);

	l->flushing = false;
	disk_unhold(l->v.disk);
}

/* What a dirty limit or the cache's timer may do at any time: then space that was freed is released (J4). */
static void flush_below(struct live *l)
{
	struct tapimg *img;

	if (l->flushing || !disk_hold(l->v.disk))	/* it may be closing */
		return;
	img = disk_image(l->v.disk);
	while (img && img->backing && (img->backing->flags & TAPIMG_RDWR))
		img = img->backing;
	if (!img || img == disk_image(l->v.disk)) {
		disk_unhold(l->v.disk);
		return;
	}
	l->flushing = true;
	l->below = (struct tapimg_req){ .op = TAPIMG_FLUSH, .done = below_flushed };
	tapimg_submit(img, &l->below);
}

static void feed_later(struct live *l)
{
	loop_timer_arm(l->s.loop, &l->feeder, loop_now(l->s.loop) + rng_range(&l->rng, 1, 3) * TICK_NS);
}

/* Fed by the loop's clock, which the disk drives, so that it goes on in the turns of a commit. */
static void feed(struct task *t)
{
	struct live *l = container_of(t, struct live, feeder.task);

	if (over(l) || !l->left)
		return;
	l->left--;
	if (rng_pct(&l->rng, 50))
		submit_one(l);
	if (rng_pct(&l->rng, 2))
		maybe_commit(l);
	if (rng_pct(&l->rng, 4))
		flush_below(l);
	look_at_job(l);
	feed_later(l);
}

static void load(struct live *l, unsigned n)
{
	l->left = n;
	l->flushing = false;
	list_init(&l->feeder.task.node);
	l->feeder.task.fn = feed;
	feed_later(l);
	while ((l->inflight || !list_empty(&l->feeder.task.node) || (l->v.job && job_active(l->v.job))) &&
	       !l->fail[0]) {
		if (sim_dead(l->sim))
			disk_give_up(l->v.disk);	/* it could not be opened again */
		tapimg_loop_run(l->s.loop, true);
	}
	if (!over(l))
		look_at_job(l);
}

/* ------------------------------------------------------------------ what is there */

/* The whole disk, read through the chain as it is in the files. */
static bool verify(struct live *l, enum oracle_when when)
{
	struct tapimg_open_opts o = { .format = "qcow2" };
	struct tapimg_err err = { 0 };
	uint64_t size = l->now.size;
	char name[24];
	struct tapimg *img;
	uint8_t *buf = malloc(size);
	int ret;

	snprintf(name, sizeof(name), "sim:%s", l->top);
	ret = tapimg_open(l->s.loop, name, &o, &img, &err);
	if (ret) {
		free(buf);
		return failed(l, "%s", err.text);
	}
	ret = tapimg_pread(img, buf, size, 0);
	tapimg_close(img, NULL);
	if (ret)
		failed(l, "reading: %s", strerror(-ret));
	else if (!oracle_check(&l->now, buf, 0, size, when, oracle_now(&l->now)))
		failed(l, "after the end: %s", l->now.why);
	else if (when == ORACLE_CRASH)
		oracle_collapse(&l->now, buf, 0, size);
	free(buf);
	return !l->fail[0];
}

static bool generation(struct live *l, bool crash)
{
	uint64_t size = l->now.size;

	if (!up(l))
		return false;
	if (verify(l, crash ? ORACLE_CRASH : ORACLE_LIVE)) {
		while (l->layers < 4 && rng_pct(&l->rng, 70) && add_layer(l, size))
			;
		sim_plan_cut(l->sim, rng_range(&l->rng, 1, 40ULL << rng_below(&l->rng, 10)));
		if (!l->fail[0] && open_top(l)) {
			load(l, (unsigned)rng_range(&l->rng, 50, 1500));
			if (!over(l)) {
				struct tapimg_err err = { 0 };

				if (disk_close(l->v.disk, false, &err) && !sim_dead(l->sim))
					failed(l, "close: %s", err.text);
				l->v.disk = NULL;
				if (!sim_dead(l->sim))
					oracle_flushed(&l->now, oracle_now(&l->now));
			}
		}
	}
	down(l);
	l->v.disk = NULL;
	return !sim_dead(l->sim);
}

static void draw_disk(struct rng *r, struct sim_cfg *c)
{
	*c = (struct sim_cfg){ .seed = rng_next(r), .sector = rng_pct(r, 60) ? 512 : 4096,
			       .align = rng_pct(r, 50) ? 1 : 512, .max_io = MiB, .stale = rng_pct(r, 30),
			       .no_zero = rng_pct(r, 30), .late_reads = rng_pct(r, 40),
			       .delay = (unsigned)rng_range(r, 0, 12),
			       .slow_pct = rng_pct(r, 50) ? 0 : (unsigned)rng_range(r, 2, 25),
			       .slow_delay = (unsigned)rng_range(r, 20, 200), .tick_ns = TICK_NS };
}

static bool run_seed(uint64_t seed, unsigned mutant, bool loud, struct sums *sums)
{
	struct live *l = calloc(1, sizeof(*l));
	struct sim_cfg cfg;
	bool crash = false, ok;

	l->seed = seed;
	l->mutant = mutant;
	l->rng.s = seed * 0x2545f4914f6cdd1dULL;
	draw_disk(&l->rng, &cfg);
	l->sim = sim_new(&cfg);
	oracle_init(&l->now, GRAN * rng_range(&l->rng, 200, 2000), GRAN);
	l->now.oldest = UINT64_MAX;
	if (up(l)) {
		if (add_layer(l, l->now.size) && rng_pct(&l->rng, 60))
			fill_coded(l);
		down(l);
	}
	for (unsigned i = 0; i < GENERATIONS && !l->fail[0]; i++) {
		crash = !generation(l, crash);
		sim_plan_cut(l->sim, 0);
		if (crash) {
			sim_power_on(l->sim);
			oracle_crash(&l->now);
			sums->cuts++;
		}
		l->inflight = 0;
	}
	if (!l->fail[0] && up(l)) {
		verify(l, crash ? ORACLE_CRASH : ORACLE_LIVE);
		down(l);
	}
	sums->seeds++;
	sums->commits += l->commits;
	sums->concluded += l->concluded;
	ok = !l->fail[0];
	if (!ok && loud)
		printf("seed %llu: %s\n", (unsigned long long)seed, l->fail);
	for (unsigned i = 0; i < DEPTH; i++)
		free(l->slot[i].buf);
	oracle_free(&l->now);
	sim_free(l->sim);
	free(l);
	return ok;
}

/* The mutant has to be caught by one of the seeds. */
static bool catches(unsigned mutant, unsigned limit)
{
	struct sums sums = { 0 };

	for (unsigned seed = 1; seed <= limit; seed++)
		if (!run_seed(seed, mutant, false, &sums))
			return true;
	printf("FAIL: mutant %u was not caught in %u seeds\n", mutant, limit);
	return false;
}

int main(int argc, char **argv)
{
	bool is_long = getenv("TAPIMG_LONG");
	unsigned long long from = 1, to = is_long ? 20000 : 120;
	unsigned mutant = 0, bad = 0;
	struct sums sums = { 0 };

	log_setup("live-commit", false, LOG_LVL_NONE);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--mutant"))
			mutant = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--seeds"))
			sscanf(argv[i + 1], "%llu-%llu", &from, &to);
	}
	for (unsigned long long seed = from; seed <= to && !bad; seed++)
		bad += !run_seed(seed, mutant, true, &sums);
	printf("live commit: %u seeds, %u cuts, %u commits, of which %u went to the end\n", sums.seeds,
	       sums.cuts, sums.commits, sums.concluded);
	if (argc > 1)
		return bad != 0;
	for (unsigned m = 1; m < JOB_MUTANTS; m++)
		bad += !catches(m, is_long ? 5000 : 600);
	printf("%u passed, %u failed, 0 skipped\n", JOB_MUTANTS - bad, bad);
	return bad != 0;
}
