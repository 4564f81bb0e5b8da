/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * simdisk.h - a simulated disk: files behind "sim:NAME" that lose power
 *
 * A world (struct sim) holds named files and outlives the loops that use it.  Every file has
 * volatile contents (what reads see) and durable contents (what survives a power cut).  The rules:
 *   1. a completed flush makes durable exactly what had completed before it was submitted;
 *   2. at a cut each other write, completed or in flight, is lost, kept or torn by sectors;
 *   3. changes of a file's size survive as a prefix of their order, as under a journal;
 *   4. a transfer takes effect at some moment between its submission and its completion, and both
 *      moments are random; some transfers stay in flight for long;
 *   5. everything random comes from one seed.
 * Time is counted in ticks: one task of the loop, run again for as long as anything is in flight.
 * Creating, renaming and removing a name is durable at once.
 */
#ifndef SIMDISK_H
#define SIMDISK_H

#include "file.h"
#include "loop-impl.h"

struct rng {
	uint64_t s;
};
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n);			/* 0 .. n-1; n >= 1 */
uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi);	/* both ends included */
bool rng_pct(struct rng *r, unsigned pct);

struct sim_cfg {
	uint64_t seed;
	uint32_t sector;	/* lost and kept as one: 512 or 4096 */
	uint32_t align;		/* of transfers: 1 or a power of two */
	uint64_t max_io;	/* largest transfer; 0: 1 MiB */
	bool stale;		/* new space holds garbage: grows_clean is false */
	bool prealloc;		/* space can be preallocated */
	bool no_zero;		/* ZERO answers -ENOTSUP */
	bool late_reads;	/* reads take their data when they complete, never before */
	unsigned delay;		/* most transfers take up to so many ticks */
	unsigned slow_pct;	/* so many of a hundred take up to slow_delay ticks */
	unsigned slow_delay;
	uint64_t tick_ns;	/* by which the clock moves in a tick */
};

/* Kinds of I/O for faults: 1 << enum io_op, and these. */
enum { SIM_TRUNCATE = 1 << 8, SIM_PREALLOC = 1 << 9, SIM_RENAME = 1 << 10, SIM_OPEN = 1 << 11 };
#define SIM_SHORT 1		/* instead of an errno: the transfer ends half way */

struct sim_fault {
	unsigned kinds;		/* 0: none */
	uint64_t nth;		/* fails the so-manieth I/O of these kinds, 1 the first */
	int err;		/* negative errno, or SIM_SHORT */
	bool sticky;		/* and all after it */
	/* filled in by the simulation */
	uint64_t seen, hits;
	unsigned kind;		/* of the first hit */
	char file[64];
	uint64_t off, len;
};

struct sim_stats {
	uint64_t ios, ticks, cuts, kept, lost, torn;
};

struct sim;
struct sim *sim_new(const struct sim_cfg *cfg);
void sim_free(struct sim *s);
void sim_configure(struct sim *s, const struct sim_cfg *cfg);	/* between two loops; the seed stays */
void sim_attach(struct sim *s, struct tapimg_loop *loop);	/* registers "sim:", takes over the clock */
uint64_t sim_jumps(const struct sim *s);	/* times that the loop had nothing to do but wait for a timer */
void sim_detach(struct sim *s);		/* before the loop is freed; nothing is in flight */

/* Names here are without "sim:". */
int sim_make(struct sim *s, const char *name, uint64_t size, bool block_dev);
int sim_put(struct sim *s, const char *name, const void *data, uint64_t len);	/* durable */
int sim_delete(struct sim *s, const char *name);
bool sim_exists(const struct sim *s, const char *name);
uint64_t sim_size(const struct sim *s, const char *name);
int sim_get(struct sim *s, const char *name, void *buf, uint64_t len, uint64_t off);
int sim_dump(struct sim *s, const char *name, const char *path);	/* to a real file, sparse */
unsigned sim_nfiles(const struct sim *s);
void sim_names(const struct sim *s, void (*fn)(void *arg, const char *name), void *arg);
uint64_t sim_hash(struct sim *s);	/* of all names and contents */

/* Power goes at the n-th step from now (a submission, effect or completion); 0: call it off. */
void sim_plan_cut(struct sim *s, uint64_t n);
void sim_cut(struct sim *s);		/* now */
bool sim_dead(const struct sim *s);
uint64_t sim_steps(const struct sim *s);
void sim_power_on(struct sim *s);	/* volatile contents become the durable ones */

void sim_set_fault(struct sim *s, const struct sim_fault *f);	/* NULL: none */
const struct sim_fault *sim_get_fault(const struct sim *s);
const struct sim_stats *sim_get_stats(const struct sim *s);
unsigned sim_busy(const struct sim *s);		/* transfers in flight */
/* The first breach of the seam's contract by the code above (alignment, ranges), or NULL. */
const char *sim_breach(const struct sim *s);

#endif
