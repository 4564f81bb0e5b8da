/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-count.h - a number for each host cluster, in as little memory as the numbers need
 *
 * A sparse array of counters.  Chunks of COUNT_CHUNK counters come into being when first counted
 * in; all counters of a chunk have the same width, which starts at 2 bits and doubles when one of
 * them would overflow.  A file in which each cluster is used once or twice costs 2 bits a cluster;
 * memory follows what is referred to, not the length of the file.
 */
#ifndef QCOW2_COUNT_H
#define QCOW2_COUNT_H

#include <stdbool.h>
#include <stdint.h>

#define COUNT_CHUNK_BITS 12
#define COUNT_CHUNK (1u << COUNT_CHUNK_BITS)
#define COUNT_LIMIT (1ULL << 47)	/* counters: host offsets below 2^56, clusters of 512 bytes */
#define COUNT_END UINT64_MAX

struct count_chunk;

struct counts {
	void *top;
	struct count_chunk *last;	/* the chunk looked at last */
	uint64_t last_no;
	uint64_t bytes, max_bytes;	/* memory used, and how much may be */
	uint64_t end;			/* one past the last counter ever raised */
	bool multi;			/* some counter has been above 1 */
};

void counts_init(struct counts *c, uint64_t max_bytes);
void counts_free(struct counts *c);

/* Adds @weight to the @n counters from @idx.  -ENOMEM: memory or the limit; counters stop at 2^64-1. */
int counts_add(struct counts *c, uint64_t idx, uint64_t n, uint64_t weight);
uint64_t counts_get(struct counts *c, uint64_t idx);
int counts_set(struct counts *c, uint64_t idx, uint64_t value);
/* The first counter at or after @idx that is not 0, or COUNT_END. */
uint64_t counts_next(struct counts *c, uint64_t idx);
/* Any of @n counters from @idx not 0? */
bool counts_any(struct counts *c, uint64_t idx, uint64_t n);

/*
 * Values of the chunk around counter @idx.  Returns false, and leaves @out alone, if none of them
 * was ever raised.
 */
bool counts_expand(struct counts *c, uint64_t idx, uint64_t out[COUNT_CHUNK]);
/* All counters of the chunk around @idx are @value (0 or 1): told without expanding; false: perhaps. */
bool counts_all(struct counts *c, uint64_t idx, unsigned value);
/* Lowers both by what they have in common. */
int counts_cancel(struct counts *a, struct counts *b);

#endif
