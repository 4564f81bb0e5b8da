/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * bench.c - tapimg bench: many requests of one size, and how long they take
 *
 * It measures the engine, so its own share is kept small: all requests and buffers are made
 * beforehand, and a completion does no more than to work out the next offset and submit.
 */
#include <sys/resource.h>
#include <time.h>

#include "cmd.h"
#include "file.h"
#include "opt.h"

enum { VAL_PATTERN = OPT_LONG, VAL_FLUSH, VAL_NO_DRAIN, VAL_RANDOM };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	OPT_CACHE('t', "cache mode (default: writeback)"),
	{ 'c', "count", "N", "number of requests (default: 75000)", NULL },
	{ 'd', "depth", "N", "requests in flight (default: 64)", NULL },
	{ 's', "buffer-size", "SIZE", "bytes of a request (default: 4k)", NULL },
	{ 'S', "step-size", "SIZE", "from one request's offset to the next one's (default: the size)",
	  NULL },
	{ 'o', "offset", "SIZE", "offset of the first request", NULL },
	{ VAL_RANDOM, "random", "SEED", "random offsets, multiples of the size, instead of steps", NULL },
	{ 'w', "write", NULL, "write instead of reading: what the image holds is lost", NULL },
	{ VAL_PATTERN, "pattern", "BYTE", "byte that is written (default: 0)", NULL },
	{ VAL_FLUSH, "flush-interval", "N", "flush after every N writes", NULL },
	{ VAL_NO_DRAIN, "no-drain", NULL, "go on writing while a flush is under way", NULL },
	{ 'i', "aio", "KIND", "threads, native or io_uring: accepted, one way fits all", NULL },
	{ 'n', "native", NULL, "the same as --aio=native", NULL },
	OPT_QUIET, OPT_SHARE, OPT_OUTPUT,
	{ 0 }
};

struct args {
	struct cli_common common;
	unsigned flags;
	uint64_t count, depth, size, step, offset, pattern, flush, seed;
	bool write, no_drain, random;
};

struct bench;

struct slot {
	struct tapimg_req req;
	struct iovec iov;
	struct bench *b;
};

struct bench {
	const struct args *a;
	struct tapimg *img;
	uint64_t left;			/* still to be submitted */
	uint64_t next;			/* offset */
	uint64_t limit;			/* offsets are below this: image size - request size + 1 */
	uint64_t blocks, random;	/* --random */
	uint64_t until_flush;
	unsigned inflight, nidle;
	bool flushing;
	int ret;
	struct slot *slots, **idle;
	struct slot flush;
	void *bufs;
};

/* --------------------------------------------------------------------- options */

static int take_aio(struct cli *c, const char *text)
{
	if (!strcmp(text, "threads") || !strcmp(text, "native") || !strcmp(text, "io_uring"))
		return 0;
	cli_error(c, "Invalid aio option: %s", text);
	return -1;
}

static int take(struct cli *c, int val, struct args *a)
{
	switch (val) {
	case 't':
		return cli_cache(c, "cache", optarg, &a->flags);
	case 'c':
		return cli_size(c, "request count", optarg, 1, INT32_MAX, &a->count);
	case 'd':
		return cli_size(c, "queue depth", optarg, 1, 65536, &a->depth);
	case 's':
		return cli_size(c, "buffer size", optarg, 1, 1 * GiB, &a->size);
	case 'S':
		return cli_size(c, "step size", optarg, 0, INT64_MAX, &a->step);
	case 'o':
		return cli_size(c, "offset", optarg, 0, INT64_MAX, &a->offset);
	case VAL_RANDOM:
		a->random = true;
		return cli_size(c, "seed", optarg, 0, INT64_MAX, &a->seed);
	case 'w':
		a->write = true;
		return 0;
	case VAL_PATTERN:
		return cli_size(c, "pattern byte", optarg, 0, 0xff, &a->pattern);
	case VAL_FLUSH:
		return cli_size(c, "flush interval", optarg, 0, INT32_MAX, &a->flush);
	case VAL_NO_DRAIN:
		a->no_drain = true;
		return 0;
	case 'i':
		return take_aio(c, optarg);
	case 'n':
		return 0;
	default:
		return MIN(cli_common(c, val, &a->common), 0);
	}
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (take(c, val, a)) {
			c->status = 1;
			return -1;
		}
	}
	if (!a->step)
		a->step = a->size;
	return val;
}

static int verify(struct cli *c, const struct args *a)
{
	const char *why = NULL;

	if (!a->write && a->flush)
		why = "--flush-interval is only available in write tests";
	else if (!a->write && a->pattern)
		why = "--pattern is only available in write tests";
	else if (a->no_drain && !a->flush)
		why = "--no-drain is only of use with --flush-interval";
	else if (a->flush && a->flush < a->depth)
		why = "Flush interval can't be smaller than depth";
	if (why)
		cli_error(c, "%s", why);
	return why ? -1 : 0;
}

/* ---------------------------------------------------------------------- running */

static void submit_more(struct bench *b);

static uint64_t next_offset(struct bench *b)
{
	uint64_t off = b->next;

	if (b->a->random) {
		/* xorshift64*, the high half spread over the blocks */
		b->random ^= b->random >> 12;
		b->random ^= b->random << 25;
		b->random ^= b->random >> 27;
		return (uint64_t)(((unsigned __int128)(b->random * 0x2545f4914f6cdd1dULL) *
				   b->blocks) >> 64) * b->a->size;
	}
	b->next += b->a->step;
	/* around the whole image, so that aligned steps stay aligned */
	if (b->next >= b->limit) {
		b->next %= tapimg_size(b->img);
		if (b->next >= b->limit)
			b->next = 0;
	}
	return off;
}

static void flush_done(struct tapimg_req *req)
{
	struct bench *b = req->opaque;

	b->inflight--;
	b->flushing = false;
	if (req->ret && !b->ret)
		b->ret = req->ret;
	submit_more(b);
}

/* True if nothing may be written until the flush is done. */
static bool flush_due(struct bench *b)
{
	if (!b->a->flush)
		return false;
	if (b->flushing)
		return !b->a->no_drain;
	if (b->until_flush)
		return false;
	if (!b->a->no_drain && b->inflight)
		return true;
	b->until_flush = b->a->flush;
	b->flushing = true;
	b->inflight++;
	tapimg_submit(b->img, &b->flush.req);
	return !b->a->no_drain;
}

static void submit_more(struct bench *b)
{
	while (b->nidle && b->left && !b->ret) {
		struct slot *s;

		if (flush_due(b))
			return;
		s = b->idle[--b->nidle];
		s->req.off = next_offset(b);
		b->left--;
		b->inflight++;
		if (b->until_flush)
			b->until_flush--;
		tapimg_submit(b->img, &s->req);
	}
}

static void request_done(struct tapimg_req *req)
{
	struct slot *s = container_of(req, struct slot, req);
	struct bench *b = s->b;

	b->inflight--;
	b->idle[b->nidle++] = s;
	if (req->ret && !b->ret)
		b->ret = req->ret;
	submit_more(b);
}

static int bench_init(struct bench *b)
{
	const struct args *a = b->a;
	uint64_t each = round_up(a->size, 4096);

	b->slots = calloc(a->depth, sizeof(*b->slots));
	b->idle = calloc(a->depth, sizeof(*b->idle));
	b->bufs = file_buf(each * a->depth);
	if (!b->slots || !b->idle || !b->bufs)
		return -ENOMEM;
	memset(b->bufs, (int)a->pattern, each * a->depth);
	for (uint64_t i = 0; i < a->depth; i++) {
		struct slot *s = &b->slots[a->depth - 1 - i];

		s->b = b;
		s->iov = (struct iovec){ (char *)b->bufs + i * each, a->size };
		s->req.op = a->write ? TAPIMG_WRITE : TAPIMG_READ;
		s->req.len = a->size;
		s->req.iov = &s->iov;
		s->req.iovcnt = 1;
		s->req.done = request_done;
		b->idle[b->nidle++] = s;
	}
	b->flush.req.op = TAPIMG_FLUSH;
	b->flush.req.done = flush_done;
	b->flush.req.opaque = b;
	b->left = a->count;
	b->limit = tapimg_size(b->img) - a->size + 1;
	b->next = a->offset;
	b->blocks = tapimg_size(b->img) / a->size;
	b->random = a->seed * 0x9e3779b97f4a7c15ULL + 1;
	b->until_flush = a->flush;
	return 0;
}

/* ---------------------------------------------------------------------- results */

struct times {
	double wall, user, sys;
};

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static struct times times_now(void)
{
	struct timespec ts;
	struct rusage ru;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	getrusage(RUSAGE_SELF, &ru);
	return (struct times){ (double)ts.tv_sec + (double)ts.tv_nsec / 1e9, seconds(ru.ru_utime),
			       seconds(ru.ru_stime) };
}

static void add_real(json_t *obj, const char *key, double v)
{
	json_object_set_new(obj, key, json_real(v));
}

static int report_json(const struct cli *c, const struct args *a, const struct times *t)
{
	json_t *obj = json_object();
	double wall = t->wall > 1e-9 ? t->wall : 1e-9;

	json_add_str(obj, "operation", a->write ? "write" : "read");
	json_add_int(obj, "requests", a->count);
	json_add_int(obj, "request-size", a->size);
	json_add_int(obj, "depth", a->depth);
	add_real(obj, "seconds", t->wall);
	add_real(obj, "user-seconds", t->user);
	add_real(obj, "system-seconds", t->sys);
	add_real(obj, "requests-per-second", (double)a->count / wall);
	add_real(obj, "bytes-per-second", (double)a->count * (double)a->size / wall);
	add_real(obj, "cpu-microseconds-per-request", (t->user + t->sys) * 1e6 / (double)a->count);
	return json_print(c, obj) ? 1 : 0;
}

static void announce(const struct args *a)
{
	if (a->common.quiet || a->common.json)
		return;
	printf("Sending %llu %s requests, %llu bytes each, %llu in parallel (starting at offset %llu, "
	       "step size %llu)\n", (unsigned long long)a->count, a->write ? "write" : "read",
	       (unsigned long long)a->size, (unsigned long long)a->depth,
	       (unsigned long long)a->offset, (unsigned long long)a->step);
	if (a->flush)
		printf("Sending flush every %llu requests\n",
		       (unsigned long long)a->flush);
	fflush(stdout);
}

static int bench(struct cli *c, const char *name, const struct args *a, struct tapimg *img)
{
	struct bench b = { .a = a, .img = img };
	struct times from, t;
	int ret;

	if (tapimg_size(img) < a->size || a->offset > tapimg_size(img) - a->size) {
		cli_error(c, "%s: a request of %llu bytes at offset %llu does not fit into %llu bytes",
			  name, (unsigned long long)a->size, (unsigned long long)a->offset,
			  (unsigned long long)tapimg_size(img));
		return 1;
	}
	ret = bench_init(&b);
	if (!ret) {
		announce(a);
		from = times_now();
		submit_more(&b);
		while (b.inflight && ret >= 0)
			ret = tapimg_loop_run(c->loop, true);
		t = times_now();
		t.wall -= from.wall;
		t.user -= from.user;
		t.sys -= from.sys;
		ret = b.ret ? b.ret : MIN(ret, 0);
	}
	if (ret)
		cli_error(c, "%s: Failed request: %s", name, strerror(-ret));
	else if (a->common.json)
		ret = report_json(c, a, &t);
	else if (!a->common.quiet)
		printf("Run completed in %.3f seconds.\n", t.wall);
	free(b.slots);
	free(b.idle);
	free(b.bufs);
	return ret ? 1 : 0;
}

static int run(struct cli *c)
{
	struct args a = { .count = 75000, .depth = 64, .size = 4096 };
	struct tapimg *img;
	const char *name;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (cli_expect(c, 1, 1) || verify(c, &a))
		return 1;
	name = cli_operand(c);
	if (cli_open(c, name, &a.common.how, a.flags | (a.write ? TAPIMG_RDWR : 0), &img))
		return 1;
	ret = bench(c, name, &a, img);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_bench = {
	.name = "bench",
	.run = run,
	.usage = "[-c N] [-d N] [-s SIZE] [-S SIZE] [-w] [-t MODE] [OPTION...] FILE",
	.summary = "measure requests to an image",
	.options = options,
};
