/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * aio.c - kernel asynchronous I/O for the loop
 *
 * Submission: one io_submit for everything queued in a turn.  The kernel may take fewer (the ring
 * is full, no memory): the rest stays queued, in order, for the next turn.  An iocb that the
 * kernel refuses by itself (a bad descriptor) completes with that error.
 *
 * Reaping: the completion ring is mapped into the process at the address that is the context.  Only
 * we move its head, only the kernel its tail; head is published with release after the event has
 * been copied, tail is read with acquire before.  A kernel with another layout (the magic differs)
 * is served by io_getevents.
 *
 * A callback may queue, submit, and even reap from inside: nothing is kept across a call of done().
 */
#include <string.h>
#include <time.h>

#include "aio.h"
#include "checked.h"
#include "list.h"

#define AIO_RING_MAGIC	0xa10a10a1
#define AIO_DEPTH	1024	/* wanted */
#define AIO_MIN_DEPTH	32
#define AIO_BATCH	256
#define AIO_REFUSALS	2000	/* 1 ms each, with nothing in flight */
#define AIO_RESFD_FLAG	(1 << 0)	/* IOCB_FLAG_RESFD */

struct aio_ring {
	unsigned id, nr;
	unsigned head, tail;
	unsigned magic, compat, incompat, header_len;
	struct io_event events[];
};

void aio_init(struct aio *aio)
{
	memset(aio, 0, sizeof(*aio));
	aio->tail = &aio->head;
	aio->resfd = -1;
}

int aio_start(struct aio *aio, struct tapimg_err *err)
{
	unsigned depth;
	int ret = -EAGAIN;

	if (aio->ctx)
		return 0;
	for (depth = AIO_DEPTH; depth >= AIO_MIN_DEPTH; depth /= 2) {
		ret = io_setup(depth, &aio->ctx);
		if (ret != -EAGAIN && ret != -ENOMEM)
			break;
	}
	if (ret == -EAGAIN)
		return err_set(err, ret, "no asynchronous I/O contexts are left on this system "
			       "(raise /proc/sys/fs/aio-max-nr)");
	if (ret < 0)
		return err_errno(err, ret, "asynchronous I/O cannot be set up");
	aio->depth = depth;
	aio->ring = (struct aio_ring *)aio->ctx;
	if (aio->ring->magic != AIO_RING_MAGIC || aio->ring->incompat ||
	    aio->ring->header_len != sizeof(struct aio_ring))
		aio->ring = NULL;
	return 0;
}

void aio_stop(struct aio *aio)
{
	if (aio->ctx)
		io_destroy(aio->ctx);
	aio_init(aio);
}

static void aio_fail_first(struct aio *aio, int ret)
{
	struct aio_op *op = aio->head;

	aio->head = op->next;
	if (!aio->head)
		aio->tail = &aio->head;
	op->done(op, ret);
}

/* Takes the first n off the queue: the kernel has them. */
static void aio_taken(struct aio *aio, struct iocb **list, int n)
{
	struct aio_op *last = container_of(list[n - 1], struct aio_op, iocb);

	aio->head = last->next;
	if (!aio->head)
		aio->tail = &aio->head;
	aio->inflight += n;
	aio->refused = 0;
}

/*
 * Nothing was taken.  With transfers in flight there will be room when they have finished; with
 * none the system is short of memory, so give it a little time, but not for ever.
 */
static bool aio_give_up(struct aio *aio)
{
	const struct timespec ms = { .tv_nsec = 1000000 };

	if (aio->inflight)
		return false;
	if (++aio->refused > AIO_REFUSALS)
		return true;
	nanosleep(&ms, NULL);
	return false;
}

int aio_submit(struct aio *aio)
{
	struct iocb *list[AIO_BATCH];
	struct aio_op *op;
	int n, ret, failed = 0;

	while (aio->head && aio->inflight < aio->depth) {
		for (n = 0, op = aio->head; op && n < AIO_BATCH; op = op->next) {
			if (aio->resfd >= 0) {
				op->iocb.u.c.flags |= AIO_RESFD_FLAG;
				op->iocb.u.c.resfd = aio->resfd;
			}
			list[n++] = &op->iocb;
		}
		ret = io_submit(aio->ctx, MIN((unsigned)n, aio->depth - aio->inflight), list);
		if (ret > 0) {
			aio_taken(aio, list, ret);
			if (ret < n)
				continue;	/* either full now, or the next one tells why */
		} else if (ret != -EAGAIN && ret != -EINTR && ret != 0) {
			aio_fail_first(aio, ret);
			failed++;
		} else {
			if (!aio_give_up(aio))
				break;
			aio_fail_first(aio, -EIO);
			failed++;
		}
	}
	return failed;
}

static void aio_done(struct aio *aio, const struct io_event *ev)
{
	struct aio_op *op = container_of(ev->obj, struct aio_op, iocb);

	if (op != &aio->wake)
		aio->inflight--;
	op->done(op, (long)ev->res);
}

static int aio_getevents(struct aio *aio, int min, struct timespec *timeout)
{
	struct io_event ev[64];
	int i, ret;

	ret = io_getevents(aio->ctx, min, aio->ring ? 1 : ARRAY_SIZE(ev), ev, timeout);
	if (ret < 0)
		return ret == -EINTR ? 0 : ret;
	for (i = 0; i < ret; i++)
		aio_done(aio, &ev[i]);
	return ret;
}

int aio_reap(struct aio *aio)
{
	struct timespec none = { 0 };
	struct aio_ring *ring = aio->ring;
	struct io_event ev;
	unsigned head;
	int n = 0;

	if (!aio->inflight && !aio->wake_armed)
		return 0;
	if (!ring)
		return aio_getevents(aio, 0, &none);
	while (n < AIO_DEPTH) {
		head = ring->head;
		if (head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE))
			break;
		ev = ring->events[head];
		__atomic_store_n(&ring->head, head + 1 == ring->nr ? 0 : head + 1,
				 __ATOMIC_RELEASE);
		aio_done(aio, &ev);
		n++;
	}
	return n;
}

bool aio_ready(const struct aio *aio)
{
	return aio->ring && aio->ring->head != __atomic_load_n(&aio->ring->tail, __ATOMIC_ACQUIRE);
}

int aio_wait(struct aio *aio, int64_t timeout_ns)
{
	struct timespec ts;

	if (timeout_ns < 0)
		return aio_getevents(aio, 1, NULL);
	ts.tv_sec = timeout_ns / 1000000000;
	ts.tv_nsec = timeout_ns % 1000000000;
	return aio_getevents(aio, 1, &ts);
}

int aio_arm_wake(struct aio *aio, int fd, void (*done)(struct aio_op *op, long res))
{
	struct iocb *list[1] = { &aio->wake.iocb };
	int ret;

	if (aio->wake_armed)
		return 0;
	if (aio->no_poll)
		return -EINVAL;
	io_prep_poll(&aio->wake.iocb, fd, 1 /* POLLIN */);
	aio->wake.done = done;
	ret = io_submit(aio->ctx, 1, list);
	if (ret == 1) {
		aio->wake_armed = true;
		return 0;
	}
	if (ret == -EINVAL)
		aio->no_poll = true;
	return ret < 0 ? ret : -EAGAIN;
}
