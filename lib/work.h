/* SPDX-License-Identifier: BSD-2-Clause */
/* work.h - helper threads, for compression and for system calls that block */
#ifndef WORK_H
#define WORK_H

#include "loop.h"

struct work {
	struct task task;		/* task.fn runs on the loop when run() has returned */
	void (*run)(struct work *w);	/* on a helper thread */
	struct list node;		/* the pool's */
};

/* Queues w.  First come, first served. */
void work_submit(struct tapimg_loop *loop, struct work *w);

/*
 * The same for a job that mostly sleeps in a system call.  Such jobs have threads of their own, more
 * of them, so that they neither stand behind computations nor take their processors away.
 */
void work_submit_blocking(struct tapimg_loop *loop, struct work *w);

/* Number of helper threads for work_submit() that can run at once, at least 1. */
unsigned work_threads(const struct tapimg_loop *loop);

/*
 * A zeroed scratch slot of the calling helper thread (or of the loop's own thread), one for each
 * @key, for keeping codec state between jobs.  *@dtor is called on it when the thread ends.
 */
enum work_slot { WORK_SLOT_DEFLATE, WORK_SLOT_DEFLATER, WORK_SLOT_INFLATE, WORK_SLOT_ZSTD_C, WORK_SLOT_ZSTD_D,
		 WORK_SLOTS };
void **work_slot(enum work_slot key, void (*dtor)(void *));

#endif
