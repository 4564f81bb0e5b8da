/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sync.c - blocking twins: the asynchronous request, then the loop until it is done
 *
 * They may be used inside callbacks: turns of the loop nest.
 */
#include "checked.h"
#include "image.h"

struct call {
	struct tapimg_req req;
	bool done;
};

static void call_done(struct tapimg_req *req)
{
	container_of(req, struct call, req)->done = true;
}

static int call_run(struct tapimg *img, struct call *c)
{
	int ret;

	c->req.done = call_done;
	tapimg_submit(img, &c->req);
	ret = loop_until(img->loop, &c->done);
	return ret ? ret : c->req.ret;
}

static int call_rw(struct tapimg *img, enum tapimg_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off)
{
	struct call c = { .req = { .op = op, .off = off, .iov = iov, .iovcnt = iovcnt } };

	if (iovcnt < 0)
		return -EINVAL;
	for (int i = 0; i < iovcnt; i++)
		if (!checked_add(c.req.len, iov[i].iov_len, &c.req.len))
			return -EINVAL;
	return call_run(img, &c);
}

int tapimg_preadv(struct tapimg *img, const struct iovec *iov, int iovcnt, uint64_t off)
{
	return call_rw(img, TAPIMG_READ, iov, iovcnt, off);
}

int tapimg_pwritev(struct tapimg *img, const struct iovec *iov, int iovcnt, uint64_t off)
{
	return call_rw(img, TAPIMG_WRITE, iov, iovcnt, off);
}

int tapimg_pread(struct tapimg *img, void *buf, uint64_t len, uint64_t off)
{
	struct iovec iov = { buf, len };

	return call_rw(img, TAPIMG_READ, &iov, 1, off);
}

int tapimg_pwrite(struct tapimg *img, const void *buf, uint64_t len, uint64_t off)
{
	struct iovec iov = { (void *)buf, len };

	return call_rw(img, TAPIMG_WRITE, &iov, 1, off);
}

int tapimg_zero(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags)
{
	struct call c = { .req = { .op = TAPIMG_ZERO, .flags = flags, .off = off, .len = len } };

	return call_run(img, &c);
}

int tapimg_discard(struct tapimg *img, uint64_t off, uint64_t len)
{
	struct call c = { .req = { .op = TAPIMG_DISCARD, .off = off, .len = len } };

	return call_run(img, &c);
}

int tapimg_flush(struct tapimg *img)
{
	struct call c = { .req = { .op = TAPIMG_FLUSH } };

	return call_run(img, &c);
}

/* -------------------------------------------------------- single driver calls */

struct parked {
	struct waiter w;
	bool woken;
};

static void parked_wake(struct waiter *w)
{
	container_of(w, struct parked, w)->woken = true;
}

/* One try, bracketed as metadata wants it in every layer that it may look at. */
static int try_once(struct tapimg *l, int (*fn)(void *arg), void *arg)
{
	struct tapimg *top = l;
	int ret;

	for (; l; l = l->backing)
		meta_op_begin(l->meta);
	ret = fn(arg);
	for (l = top; l && ret != -EAGAIN; l = l->backing)
		meta_op_done(l->meta);
	return ret;
}

int sync_retry(struct tapimg *img, int (*fn)(void *arg), void *arg)
{
	for (;;) {
		struct parked p = { .w = { .wake = parked_wake } };
		int ret = try_once(img, fn, arg);

		if (ret != -EAGAIN)
			return ret;
		list_init(&p.w.node);
		loop_park(img->loop, &p.w);
		ret = loop_until(img->loop, &p.woken);
		if (ret)
			list_del(&p.w.node);
		if (ret || p.w.ret)
			return ret ? ret : p.w.ret;
	}
}
