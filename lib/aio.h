/* SPDX-License-Identifier: BSD-2-Clause */
/* aio.h - the loop's kernel I/O context: iocbs queued in a turn, submitted at its end */
#ifndef AIO_H
#define AIO_H

#include <libaio.h>

#include "err.h"

struct aio_ring;

/* One iocb. Embedded in what it is about; untouched by its owner until done() has run. */
struct aio_op {
	struct iocb iocb;		/* first: events point to it */
	struct aio_op *next;
	void (*done)(struct aio_op *op, long res);	/* from the loop; bytes or negative errno */
};

struct aio {
	io_context_t ctx;		/* NULL: not started */
	struct aio_ring *ring;		/* mapped by the kernel; NULL: of an unknown layout */
	unsigned depth;
	unsigned inflight;		/* submitted and not reaped, the wake-up poll apart */
	unsigned refused;		/* times in a row that nothing was taken */
	struct aio_op *head, **tail;	/* queued */
	struct aio_op wake;		/* the poll on the loop's eventfd */
	bool wake_armed, no_poll;
	int resfd;			/* eventfd to be notified, or -1 */
};

void aio_init(struct aio *aio);
/* Makes the context unless there is one. -EAGAIN, explained, if the system has none left. */
int aio_start(struct aio *aio, struct tapimg_err *err);
void aio_stop(struct aio *aio);

static inline void aio_queue(struct aio *aio, struct aio_op *op)
{
	op->next = NULL;
	*aio->tail = op;
	aio->tail = &op->next;
}

/* Hands the queue to the kernel, as far as it takes it. Returns how many failed at once. */
int aio_submit(struct aio *aio);
/* Runs done() of what has finished. Returns how many; no system call with a mapped ring. */
int aio_reap(struct aio *aio);
/* Whether aio_reap() would find something, as far as can be seen without a system call. */
bool aio_ready(const struct aio *aio);
/* Sleeps for a completion, at most @timeout_ns (negative: for ever), and runs it. */
int aio_wait(struct aio *aio, int64_t timeout_ns);
/* Lets aio_wait return when @fd becomes readable: @done runs, once. -EINVAL: no such kernel. */
int aio_arm_wake(struct aio *aio, int fd, void (*done)(struct aio_op *op, long res));

#endif
