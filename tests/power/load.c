/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * load.c - random requests through the asynchronous interface, many in flight
 *
 * Every result is believed, also one that arrives after the power has gone: a flush that reported
 * success must have been durable by then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "world.h"

#define MAX_REQ (2 * MiB)

static const struct load loads[] = {
	{ .name = "mixed", .read = 20, .write = 50, .zero = 6, .discard = 8, .flush = 8, .coded = 3,
	  .fua_pct = 5, .whole_pct = 30 },
	{ .name = "writes", .read = 5, .write = 85, .zero = 2, .discard = 2, .flush = 6,
	  .fua_pct = 3, .whole_pct = 15 },
	{ .name = "reuse", .read = 15, .write = 40, .zero = 10, .discard = 25, .flush = 8,
	  .coded = 2, .fua_pct = 2, .whole_pct = 70, .window = 12 },
	{ .name = "flushes", .read = 5, .write = 55, .zero = 5, .discard = 5, .flush = 30,
	  .fua_pct = 10, .whole_pct = 30, .window = 40 },
	{ .name = "coded", .read = 20, .write = 25, .zero = 4, .discard = 8, .flush = 6,
	  .coded = 40, .fua_pct = 2, .whole_pct = 40 },
	{ .name = "zeroes", .read = 15, .write = 35, .zero = 30, .discard = 12, .flush = 8,
	  .fua_pct = 5, .whole_pct = 40, .window = 30 },
};

static void oldest_read(struct world *w)
{
	unsigned i;

	w->now.oldest = UINT64_MAX;
	for (i = 0; i < MAX_SLOTS; i++) {
		const struct slot *s = &w->slot[i];

		if (s->busy && s->req.op == TAPIMG_READ && s->id < w->now.oldest)
			w->now.oldest = s->id;
	}
}

static bool may_fail(const struct world *w, const struct slot *s)
{
	if (wdead(w) || wexcused(w))
		return true;
	if (s->req.ret == -ENOSPC && w->geo.block_dev)
		return true;
	/* a cluster that is in use is not compressed over */
	return s->req.op == TAPIMG_WRITE_COMPRESSED;
}

static const char *op_name(enum tapimg_op op)
{
	static const char *const names[] = { "read", "write", "zero", "discard", "flush",
					     "write_compressed" };

	return names[op];
}

static void slot_done(struct tapimg_req *req)
{
	struct slot *s = container_of(req, struct slot, req);
	struct world *w = s->w;
	bool durable = req->flags & TAPIMG_REQ_FUA || w->open_flags & TAPIMG_WRITETHROUGH;

	s->busy = false;
	w->inflight--;
	if (req->ret) {
		w->errors++;
		if (!may_fail(w, s))
			wfail(w, "%s of 0x%llx length 0x%llx failed: %s", op_name(req->op),
			      (unsigned long long)req->off, (unsigned long long)req->len,
			      strerror(-req->ret));
		if (req->op != TAPIMG_READ && req->op != TAPIMG_FLUSH && !sim_dead(w->sim))
			oracle_end(&w->now, s->id, req->off, req->len, OREC_WEAK);
		if (req->op == TAPIMG_READ)
			oldest_read(w);
		return;
	}
	switch (req->op) {
	case TAPIMG_READ:
		if (!oracle_check(&w->now, s->buf, req->off, req->len, ORACLE_LIVE, s->id))
			wfail(w, "read of 0x%llx length 0x%llx: %s", (unsigned long long)req->off,
			      (unsigned long long)req->len, w->now.why);
		w->reads++;
		oldest_read(w);
		break;
	case TAPIMG_FLUSH:
		oracle_flushed(&w->now, s->id);
		break;
	default:
		oracle_end(&w->now, s->id, req->off, req->len, durable ? OREC_DURABLE : 0);
	}
}

static enum tapimg_op draw_op(struct world *w, const struct load *l)
{
	unsigned sum = l->read + l->write + l->zero + l->discard + l->flush + l->coded;
	unsigned x = rng_below(&w->rng, sum);

	if (x < l->read)
		return TAPIMG_READ;
	x -= l->read;
	if (x < l->write)
		return TAPIMG_WRITE;
	x -= l->write;
	if (x < l->zero)
		return TAPIMG_ZERO;
	x -= l->zero;
	if (x < l->discard)
		return TAPIMG_DISCARD;
	x -= l->discard;
	return x < l->flush ? TAPIMG_FLUSH : TAPIMG_WRITE_COMPRESSED;
}

static void draw_range(struct world *w, const struct load *l, enum tapimg_op op, uint64_t *off,
		       uint64_t *len)
{
	uint64_t cs = 1ULL << w->geo.cluster_bits, size = w->now.size, gran = w->geo.gran;
	uint64_t clusters = div_up(size, cs), c;
	bool whole = op == TAPIMG_WRITE_COMPRESSED || rng_pct(&w->rng, l->whole_pct);

	c = rng_below(&w->rng, l->window && rng_pct(&w->rng, 80) ? MIN(clusters, l->window) :
		      clusters);
	*off = c * cs;
	if (whole) {
		*len = cs;
		if (op != TAPIMG_WRITE_COMPRESSED && rng_pct(&w->rng, 20))
			*len = cs * rng_range(&w->rng, 1, 6);
	} else {
		uint64_t most = rng_pct(&w->rng, 80) ? MIN(cs, 64 * KiB) : 3 * cs;

		*off += rng_below(&w->rng, cs / gran) * gran;
		if (rng_pct(&w->rng, 60))
			most = MIN(most, 8 * KiB);
		*len = rng_range(&w->rng, 1, most / gran) * gran;
	}
	if (*off >= size)
		*off = size - gran;
	*len = MIN(MIN(*len, MAX(MAX_REQ, cs)), size - *off);
}

static bool overlaps(const struct world *w, uint64_t off, uint64_t len)
{
	unsigned i;

	for (i = 0; i < MAX_SLOTS; i++) {
		const struct slot *s = &w->slot[i];

		if (s->busy && s->req.op != TAPIMG_READ && s->req.op != TAPIMG_FLUSH &&
		    s->req.off < off + len && off < s->req.off + s->req.len)
			return true;
	}
	return false;
}

static void slot_vectors(struct world *w, struct slot *s)
{
	uint64_t a, b;

	s->iov[0].iov_base = s->buf;
	s->iov[0].iov_len = s->req.len;
	s->req.iov = s->iov;
	s->req.iovcnt = 1;
	if (s->req.len < 64 || rng_pct(&w->rng, 60))
		return;
	a = rng_below(&w->rng, s->req.len);
	b = rng_range(&w->rng, a, s->req.len);
	if (rng_pct(&w->rng, 50)) {
		a &= ~511ULL;
		b &= ~511ULL;
	}
	s->iov[0].iov_len = a;
	s->iov[1] = (struct iovec){ s->buf + a, b - a };
	s->iov[2] = (struct iovec){ s->buf + b, s->req.len - b };
	s->req.iovcnt = 3;
}

static void slot_start(struct world *w, struct slot *s, const struct load *l)
{
	struct tapimg_req *req = &s->req;
	enum tapimg_op op = draw_op(w, l);
	uint64_t off = 0, len = 0;
	unsigned tries = 0;

	if (op == TAPIMG_WRITE_COMPRESSED && (w->geo.data_file || w->geo.raw_top))
		op = TAPIMG_WRITE;
	if (op != TAPIMG_FLUSH)
		do
			draw_range(w, l, op, &off, &len);
		while (op != TAPIMG_READ && overlaps(w, off, len) && ++tries < 4 &&
		       !rng_pct(&w->rng, 5));
	memset(req, 0, sizeof(*req));
	req->op = op;
	req->off = off;
	req->len = len;
	req->done = slot_done;
	s->w = w;
	s->id = oracle_now(&w->now);
	s->busy = true;
	if (!s->buf && op != TAPIMG_FLUSH) {
		s->buf = file_buf(MAX(MAX_REQ, 1ULL << w->geo.cluster_bits));
		if (!s->buf)
			abort();
	}
	switch (op) {
	case TAPIMG_READ:
		memset(s->buf, 0x5a, len);
		slot_vectors(w, s);
		oldest_read(w);
		break;
	case TAPIMG_WRITE:
	case TAPIMG_WRITE_COMPRESSED:
		oracle_fill(&w->now, s->buf, s->id, off, len);
		slot_vectors(w, s);
		s->kind = 0;
		break;
	case TAPIMG_ZERO:
		s->kind = OREC_ZERO;
		if (rng_pct(&w->rng, 60))
			req->flags |= TAPIMG_REQ_MAY_UNMAP;
		break;
	case TAPIMG_DISCARD:
		s->kind = OREC_ZERO | OREC_WEAK;
		break;
	case TAPIMG_FLUSH:
		break;
	}
	if ((op == TAPIMG_WRITE || op == TAPIMG_ZERO) && rng_pct(&w->rng, l->fua_pct))
		req->flags |= TAPIMG_REQ_FUA;
	if (op != TAPIMG_READ && op != TAPIMG_FLUSH)
		oracle_begin(&w->now, s->id, off, len, s->kind);
	w->inflight++;
	w->requests++;
	tapimg_submit(w->img, req);
}

/* One turn.  With requests in flight there is always something to do but wait for a timer. */
static bool turn(struct world *w)
{
	uint64_t jumps = sim_jumps(w->sim);

	if (tapimg_loop_run(w->loop, true) < 0)
		return wfail(w, "the loop failed");
	if (sim_jumps(w->sim) > jumps && ++w->stalls > 3)
		return wfail(w, "%u requests in flight and nothing happens until a timer", w->inflight);
	return true;
}

void load_drain(struct world *w)
{
	while (w->inflight && turn(w))
		;
}

void load_draw(struct world *w, struct load *l)
{
	unsigned i;

	*l = loads[rng_below(&w->rng, ARRAY_SIZE(loads))];
	if (w->o->profile)
		for (i = 0; i < ARRAY_SIZE(loads); i++)
			if (!strcmp(loads[i].name, w->o->profile))
				*l = loads[i];
	l->depth = rng_pct(&w->rng, 20) ? 1 : rng_range(&w->rng, 2, MAX_SLOTS);
	l->count = rng_range(&w->rng, 10, rng_pct(&w->rng, 20) ? 500 : 150);
	if (w->geo.cluster_bits >= 18)
		l->count /= 3;
	if (rng_pct(&w->rng, 30))
		l->window = rng_range(&w->rng, 2, 20);
}

bool load_run(struct world *w, const struct load *l)
{
	unsigned started = 0, i;

	while (!wdead(w) && (started < l->count || w->inflight)) {
		unsigned batch = rng_range(&w->rng, 1, l->depth);

		for (i = 0; i < l->depth && batch && started < l->count; i++)
			if (!w->slot[i].busy) {
				slot_start(w, &w->slot[i], l);
				started++;
				batch--;
			}
		if (!turn(w))
			return false;
	}
	load_drain(w);
	return !wdead(w);
}
