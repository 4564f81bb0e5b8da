/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pump.c - many reads at once, looked at in guest order, and the writes that follow from them
 *
 * The rules are in pump.h.  What it leaves out: where the pieces lie and what becomes of them.
 */
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "image.h"
#include "pump.h"

#define PUMP_WRITES 128		/* write requests in flight; one piece may need many */

#define RATE_SLACK_NS 50000000ULL
#define RATE_NAP_NS 100000000ULL

struct pump_write {
	struct list node;
	struct tapimg_req req;
	struct iovec iov;
	struct pump_slot *slot;
};

/* ------------------------------------------------------------- looking for zeroes */

typedef uint64_t vec __attribute__((vector_size(32), aligned(1), may_alias));

bool pump_is_zero(const void *buf, uint64_t len)
{
	const uint8_t *p = buf;
	uint64_t w;

	/* data mostly shows at once */
	for (; len && (uintptr_t)p % 8; p++, len--)
		if (*p)
			return false;
	if (len >= 8) {
		memcpy(&w, p, 8);
		if (w)
			return false;
	}
	for (; len >= 128; p += 128, len -= 128) {
		const vec *v = (const vec *)p;
		vec any = (v[0] | v[1]) | (v[2] | v[3]);

		if (any[0] | any[1] | any[2] | any[3])
			return false;
	}
	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&w, p, 8);
		if (w)
			return false;
	}
	for (; len; p++, len--)
		if (*p)
			return false;
	return true;
}

static uint64_t run_len(const uint8_t *buf, uint64_t len, uint64_t off, uint64_t gran, bool zero)
{
	uint64_t pos = 0;

	while (pos < len) {
		uint64_t n = MIN(gran - (off + pos) % gran, len - pos);

		if (pump_is_zero(buf + pos, n) != zero)
			break;
		pos += n;
	}
	return pos;
}

uint64_t pump_zero_len(const uint8_t *buf, uint64_t len, uint64_t off, uint64_t gran)
{
	return run_len(buf, len, off, gran, true);
}

uint64_t pump_data_len(const uint8_t *buf, uint64_t len, uint64_t off, uint64_t gran)
{
	return run_len(buf, len, off, gran, false);
}

/* --------------------------------------------------------------------- requests */

static void pump_stop(struct pump *p, int ret)
{
	if (!p->ret)
		p->ret = ret;
	p->stopped = true;
}

static void slot_event(struct pump_slot *s)
{
	s->pending--;
	s->p->pending--;
	s->p->events++;
}

static void read_done(struct tapimg_req *req)
{
	struct pump_side *side = req->opaque;

	side->ret = req->ret;
	side->slot->reads--;
	slot_event(side->slot);
}

static void write_done(struct tapimg_req *req)
{
	struct pump_write *w = req->opaque;
	struct pump_slot *s = w->slot;
	struct pump *p = s->p;

	if (req->ret && !p->stopped) {
		const char *why = p->dst->failure;

		if (why)
			err_set(p->err, req->ret, "error while writing at byte %llu of %s: %s",
				(unsigned long long)req->off, tapimg_filename(p->dst), why);
		else
			err_errno(p->err, req->ret, "error while writing at byte %llu of %s",
				  (unsigned long long)req->off, tapimg_filename(p->dst));
		pump_stop(p, req->ret);
	}
	list_append(&p->free_writes, &w->node);
	slot_event(s);
}

static void side_read(struct pump_slot *s, struct pump_side *side)
{
	if (side->len < s->len)
		memset(side->buf + side->len, 0, s->len - side->len);
	side->iov = (struct iovec){ side->buf, side->len };
	side->req.op = TAPIMG_READ;
	side->req.flags = 0;
	side->req.off = side->off;
	side->req.len = side->len;
	side->req.iov = &side->iov;
	side->req.iovcnt = 1;
	side->req.done = read_done;
	side->req.opaque = side;
	s->reads++;
	s->pending++;
	s->p->pending++;
	tapimg_submit(side->img, &side->req);
}

static void slot_read(struct pump_slot *s)
{
	for (unsigned i = 0; i < s->p->nbufs; i++) {
		struct pump_side *side = &s->side[i];

		side->ret = 0;
		if (side->img && side->len && !s->filled)
			side_read(s, side);
		else if (!s->zero && !s->filled)
			memset(side->buf, 0, s->len);
	}
}

static void job_run(struct work *w)
{
	struct pump_slot *s = container_of(w, struct pump_slot, work);

	s->job(s);
}

static void job_done(struct task *t)
{
	struct pump_slot *s = container_of(t, struct pump_slot, work.task);

	s->p->ops->job_over(s);
	if (!s->job_ret)
		s->pos = s->len;
	else
		slot_read(s);	/* the long way */
	s->job = NULL;
	s->reads--;
	slot_event(s);
}

static void slot_write(struct pump_slot *s, const struct pump_seg *seg)
{
	static const enum tapimg_op ops[] = {
		[PUMP_WRITE] = TAPIMG_WRITE,
		[PUMP_ZERO] = TAPIMG_ZERO,
		[PUMP_COMPRESSED] = TAPIMG_WRITE_COMPRESSED,
	};
	struct pump *p = s->p;
	struct pump_write *w = container_of(list_pop(&p->free_writes), struct pump_write, node);

	w->slot = s;
	w->req.op = ops[seg->op];
	w->req.flags = seg->flags;
	w->req.off = s->off + s->pos;
	w->req.len = seg->len;
	w->iov = (struct iovec){ seg->op == PUMP_ZERO ? NULL : s->side[0].buf + s->pos, seg->len };
	w->req.iov = &w->iov;
	w->req.iovcnt = seg->op == PUMP_ZERO ? 0 : 1;
	w->req.done = write_done;
	w->req.opaque = w;
	s->pending++;
	p->pending++;
	tapimg_submit(p->dst, &w->req);
}

/* ------------------------------------------------------------------- the movement */

/* Reads have come in: are the sides usable? */
static int slot_check(struct pump_slot *s)
{
	for (unsigned i = 0; i < s->p->nbufs; i++) {
		struct pump_side *side = &s->side[i];
		int ret;

		if (!side->ret)
			continue;
		ret = s->p->ops->failed(s->p, s, i);
		if (ret)
			return ret;
		side->ret = 0;
	}
	return 0;
}

/* Writes what the slot's contents ask for; leaves off where no write request is free. */
static void slot_advance(struct pump_slot *s)
{
	struct pump *p = s->p;
	int ret;

	if (!s->checked) {
		s->checked = true;
		ret = slot_check(s);
		if (ret) {
			pump_stop(p, ret);
			return;
		}
	}
	while (s->pos < s->len && !p->stopped && (!p->dst || !list_empty(&p->free_writes))) {
		struct pump_seg seg = { .op = PUMP_SKIP };

		ret = p->ops->seg(p, s, &seg);
		if (ret <= 0) {
			pump_stop(p, ret);
			return;
		}
		if (seg.op != PUMP_SKIP)
			slot_write(s, &seg);
		s->pos += seg.len;
	}
}

static void slot_free(struct pump_slot *s)
{
	if (!s->zero)
		s->p->moved += s->len;
	list_del(&s->node);
	list_push(&s->p->free, &s->node);
}

/* P2: from the front of the queue up to the first slot that is still being read or written from. */
static void pump_advance(struct pump *p)
{
	struct list *n, *tmp;
	bool in_order = true;

	list_for_each_safe(n, tmp, &p->queue) {
		struct pump_slot *s = list_entry(n, struct pump_slot, node);

		if (in_order && !p->stopped && s->pos < s->len && !s->reads)
			slot_advance(s);
		if (s->pos < s->len)
			in_order = false;
		if (!s->pending && (s->pos == s->len || p->stopped))
			slot_free(s);
	}
}

/* Whether a piece may be read now; otherwise sees that the loop wakes up when it may. */
static bool rate_allows(struct pump *p)
{
	uint64_t now;

	if (!p->rate)
		return true;
	now = loop_now(p->loop);
	if (now >= p->allowed_ns)
		return true;
	if (list_empty(&p->timer.task.node)) {
		p->pending++;
		/* never long, so that who reports progress can cancel */
		loop_timer_arm(p->loop, &p->timer, MIN(p->allowed_ns, now + RATE_NAP_NS));
	}
	return false;
}

static void rate_wake(struct task *t)
{
	struct pump *p = container_of(t, struct pump, timer.task);

	p->pending--;
	p->events++;
}

static void rate_charge(struct pump *p, uint64_t bytes)
{
	uint64_t now = loop_now(p->loop);

	/* what was not used is lost, but for a moment's worth: being late must not add up */
	if (p->allowed_ns + RATE_SLACK_NS < now)
		p->allowed_ns = now - RATE_SLACK_NS;
	p->allowed_ns += (uint64_t)((double)bytes * 1e9 / (double)p->rate);
}

static void slot_start(struct pump_slot *s)
{
	struct pump *p = s->p;

	list_append(&p->queue, &s->node);
	if (p->rate && !s->zero)
		rate_charge(p, s->len);
	if (s->job) {
		s->work.run = job_run;
		s->work.task.fn = job_done;
		s->reads++;
		s->pending++;
		p->pending++;
		work_submit(p->loop, &s->work);
	} else {
		slot_read(s);
	}
}

/* P1: starts pieces while there are free slots. */
static void pump_fill(struct pump *p)
{
	unsigned events = p->events;

	while (!p->end && !p->stopped && !list_empty(&p->free) && p->events == events &&
	       rate_allows(p)) {
		struct pump_slot *s = list_first(&p->free, struct pump_slot, node);
		int ret;

		s->pos = 0;
		s->zero = s->filled = s->checked = false;
		s->kind = 0;
		s->job = NULL;
		s->side[0].img = s->side[1].img = NULL;
		ret = p->ops->next(p, s);
		if (ret < 0)
			pump_stop(p, ret);
		if (ret == 0)
			p->end = true;
		if (ret <= 0)
			break;
		list_del(&s->node);
		slot_start(s);
	}
}

static void pump_progress(struct pump *p)
{
	uint64_t at = p->at;

	if (!list_empty(&p->queue))
		at = list_first(&p->queue, struct pump_slot, node)->off;
	if (!p->progress || p->stopped)
		return;
	if (p->progress(p->arg, MIN(at, p->total), p->total)) {
		err_set(p->err, -ECANCELED, "cancelled");
		pump_stop(p, -ECANCELED);
	}
}

static int pump_init(struct pump *p)
{
	size_t each = round_up(p->piece, 4096);

	list_init(&p->free);
	list_init(&p->queue);
	list_init(&p->free_writes);
	list_init(&p->timer.task.node);
	p->timer.task.fn = rate_wake;
	p->slots = calloc(p->depth, sizeof(*p->slots));
	p->bufs = file_buf(each * p->nbufs * p->depth);
	p->writes = p->dst ? calloc(PUMP_WRITES, sizeof(*p->writes)) : NULL;
	if (!p->slots || !p->bufs || (p->dst && !p->writes))
		return err_set(p->err, -ENOMEM, "no memory for buffers");
	for (unsigned i = 0; i < p->depth; i++) {
		struct pump_slot *s = &p->slots[i];

		s->p = p;
		list_init(&s->work.task.node);
		list_init(&s->work.node);
		for (unsigned k = 0; k < p->nbufs; k++) {
			s->side[k].buf = p->bufs + (i * p->nbufs + k) * each;
			s->side[k].slot = s;
		}
		list_append(&p->free, &s->node);
	}
	for (unsigned i = 0; p->dst && i < PUMP_WRITES; i++)
		list_append(&p->free_writes, &p->writes[i].node);
	return 0;
}

int pump_run(struct pump *p)
{
	int ret = pump_init(p);

	while (!ret) {
		unsigned events = p->events;

		pump_advance(p);
		pump_fill(p);
		pump_progress(p);
		if (!p->pending && list_empty(&p->queue) && (p->end || p->stopped))
			break;
		if (p->events != events || !p->pending)
			continue;
		ret = tapimg_loop_run(p->loop, true);
		if (ret > 0)
			ret = 0;
		else if (ret < 0)
			err_errno(p->err, ret, "event loop");
	}
	free(p->slots);
	free(p->bufs);
	free(p->writes);
	return p->ret ? p->ret : ret;
}
