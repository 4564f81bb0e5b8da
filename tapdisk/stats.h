/* SPDX-License-Identifier: BSD-2-Clause */
/* stats.h - what a disk counts, and the page of it that others can map */
#ifndef STATS_H
#define STATS_H

#include <stdint.h>

#include "tapimg.h"

#define STATS_OPS (TAPIMG_WRITE_COMPRESSED + 1)

/* Since the disk was opened. Times are of the loop's clock, which stands still within a turn. */
struct disk_stats {
	struct {
		uint64_t submitted, completed;	/* requests; completed: failed ones as well */
		uint64_t failed;
		uint64_t bytes;			/* asked for by those submitted */
		uint64_t ns;			/* from submission to completion, of all of them together */
	} op[STATS_OPS];			/* by enum tapimg_op */
	uint64_t held;				/* requests that had to wait: paused, rate, space */
};

/*
 * A page of shared memory as blktap's tapdisk publishes it (tapdisk-metrics-stats.h): numbers of
 * requests, of 512-byte sectors, and microseconds ("ticks").
 */
struct stats_page {
	uint32_t version, pad;
	uint64_t oo_reqs;
	uint64_t read_reqs_submitted, read_reqs_completed, read_sectors, read_total_ticks;
	uint64_t write_reqs_submitted, write_reqs_completed, write_sectors, write_total_ticks;
	uint64_t io_errors;
	uint64_t flags;
};

#endif
