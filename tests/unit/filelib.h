/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * filelib.h - what the tests of the front of the storage seam share: a model backend, single transfers
 *
 * The model backend completes in random order, moves the bytes at the moment of completion (so that
 * a read-modify-write that is not protected loses somebody's bytes), stops short, refuses ZERO, and
 * insists on its alignment.
 */
#ifndef FILELIB_H
#define FILELIB_H

#include "file.h"

/* Random numbers below n, the same ones after each rnd_start(). */
void rnd_start(void);
uint64_t rnd(uint64_t n);

#define HELD_MAX 512

/* f->priv of a model file */
struct model {
	uint8_t *disk;
	uint64_t size;
	struct io *held[HELD_MAX];
	unsigned nheld;
	struct task task;
	bool kicked;
	/* behaviour */
	bool hold;		/* nothing completes until model_release() */
	unsigned short_one_in;	/* of so many transfers stops short; 0: none */
	bool no_zero, no_discard;
	int fail_with;		/* next transfer */
	int fail_flush;
	bool fixed;		/* cannot grow */
	/* what was seen */
	unsigned ops[IO_FLUSH + 1];
	unsigned biggest_iovcnt;
	uint64_t biggest;
};

struct file *model_open(struct tapimg_loop *loop, uint32_t align, uint32_t mem_align, uint64_t size);
void model_do(struct file *f, struct io *io);	/* completes one that has been taken off held[] */
void model_release(struct file *f);		/* ends m->hold */

/* One transfer by itself, for tests that look at each step. */
struct one {
	struct io io;
	bool done;
};

void one_done(struct io *io);
void one_start(struct one *o, struct file *f, enum io_op op, uint64_t off, uint64_t len, void *buf);
int one_wait(struct one *o);

#endif
