/* SPDX-License-Identifier: BSD-2-Clause */
/* dirty.h - which parts of a disk were changed, while something follows its changes */
#ifndef DIRTY_H
#define DIRTY_H

#include <stdbool.h>
#include <stdint.h>

struct dirty {
	uint64_t size;		/* bytes of the disk */
	unsigned shift;		/* of the granularity */
	uint64_t nset;		/* bits that are set */
	uint64_t nwords;
	uint64_t *words;
};

/* 0 or -ENOMEM. The granularity is chosen so that memory stays below 1 MiB for 8 TiB. */
int dirty_init(struct dirty *d, uint64_t size);
void dirty_exit(struct dirty *d);
void dirty_mark(struct dirty *d, uint64_t off, uint64_t len);
/* Takes the first run at or after @from that is marked: clears it.  False: nothing is left. */
bool dirty_take(struct dirty *d, uint64_t from, uint64_t max, uint64_t *off, uint64_t *len);

#endif
