/* SPDX-License-Identifier: BSD-2-Clause */
/* simdisk-impl.h - what the two halves of the simulated disk share */
#ifndef SIMDISK_IMPL_H
#define SIMDISK_IMPL_H

#include "checked.h"
#include "err.h"
#include "simdisk.h"

#ifndef SPAN
#define SPAN (16 * GiB)		/* address space of a file; nothing may grow beyond */
#endif
#define PAGE 4096ULL
#define NO_SIZE UINT64_MAX

struct sim_node {
	struct list node;
	struct sim *sim;
	char *name;
	uint8_t *vol, *dur;
	uint64_t vsize, dsize;
	uint64_t hi;			/* no byte at or beyond it was ever touched */
	uint64_t *touched;		/* a bit for each page; grown as needed */
	uint64_t touched_pages;		/* pages that @touched has room for */
	bool block_dev, stale;
	unsigned opens;
	bool gone;			/* it has no name any more */
	struct list log;		/* of struct sim_ev */
};

/* Something that took effect and is not durable yet. */
struct sim_ev {
	struct list node;
	uint64_t off, len;
	uint8_t *data;			/* NULL: zeroes */
	uint64_t size;			/* the file's size from now on, or NO_SIZE */
	bool trunc;			/* only the size changes */
	uint64_t done;			/* when it completed; 0: in flight */
};

struct sim_op {
	struct list node;
	struct sim_node *n;
	struct io *io;
	uint64_t effect, due;		/* ticks */
	bool effected;
	struct sim_ev *ev;
	uint64_t flush_seq;
	int ret;
};

struct sim {
	struct sim_cfg cfg;
	struct rng rng;
	struct list nodes, ops;
	struct list due;		/* of ops: being completed in this tick */
	struct file_provider prov;
	struct tapimg_loop *loop;
	struct loop_fake fake;
	struct task tick;
	uint64_t now;			/* ticks */
	uint64_t seq;			/* completions and submissions of flushes */
	uint64_t steps, cut_at;
	bool dead;
	unsigned busy;
	struct sim_fault fault;
	struct sim_stats stats;
	char breach[200];
};

/* simdisk.c */
struct sim_node *node_find(const struct sim *s, const char *name);
struct sim_node *node_new(struct sim *s, const char *name);
void node_free(struct sim_node *n);
void node_touch(struct sim_node *n, uint64_t off, uint64_t len);
bool page_touched(const struct sim_node *n, uint64_t page);
/* Changes what reads see, and logs it. @data becomes the event's. */
struct sim_ev *node_effect(struct sim_node *n, uint64_t off, uint64_t len, uint8_t *data,
			   uint64_t size, bool trunc);
void node_flush(struct sim_node *n, uint64_t seq);	/* rule 1 */
void ev_free(struct sim_ev *ev);
void sim_step(struct sim *s);		/* the power may go here */

/* simdisk-file.c */
void op_effect(struct sim *s, struct sim_op *op);
void sim_tick(struct task *t);
int sim_prov_open(struct file_provider *p, struct tapimg_loop *loop, const char *name,
		  unsigned flags, struct file **out, struct tapimg_err *err);
int sim_prov_remove(struct file_provider *p, const char *name);
int sim_prov_rename(struct file_provider *p, const char *from, const char *to);

#endif
