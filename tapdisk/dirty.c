/* SPDX-License-Identifier: BSD-2-Clause */
/* dirty.c - a bitmap of changes; see dirty.h */
#include <errno.h>
#include <stdlib.h>

#include "checked.h"
#include "dirty.h"

int dirty_init(struct dirty *d, uint64_t size)
{
	*d = (struct dirty){ .size = size, .shift = 16 };
	while (size >> d->shift > 8 * MiB)
		d->shift++;
	d->nwords = div_up(div_up(size, 1ULL << d->shift), 64);
	d->words = calloc(MAX(d->nwords, 1), sizeof(*d->words));
	return d->words ? 0 : -ENOMEM;
}

void dirty_exit(struct dirty *d)
{
	free(d->words);
	d->words = NULL;
}

void dirty_mark(struct dirty *d, uint64_t off, uint64_t len)
{
	uint64_t bit, last;

	if (!len || !checked_range(off, len, d->size))
		return;
	last = (off + len - 1) >> d->shift;
	for (bit = off >> d->shift; bit <= last; bit++) {
		uint64_t mask = 1ULL << (bit % 64);

		d->nset += !(d->words[bit / 64] & mask);
		d->words[bit / 64] |= mask;
	}
}

static bool dirty_bit(const struct dirty *d, uint64_t bit)
{
	return bit / 64 < d->nwords && d->words[bit / 64] >> (bit % 64) & 1;
}

bool dirty_take(struct dirty *d, uint64_t from, uint64_t max, uint64_t *off, uint64_t *len)
{
	uint64_t bit = from >> d->shift, end;

	while (bit / 64 < d->nwords && !(d->words[bit / 64] >> (bit % 64)))
		bit = (bit / 64 + 1) * 64;
	if (bit / 64 >= d->nwords)
		return false;
	bit += (unsigned)__builtin_ctzll(d->words[bit / 64] >> (bit % 64));
	for (end = bit; dirty_bit(d, end) && (end == bit || (end + 1 - bit) << d->shift <= max); end++) {
		d->words[end / 64] &= ~(1ULL << (end % 64));
		d->nset--;
	}
	*off = bit << d->shift;
	*len = MIN((end - bit) << d->shift, d->size - *off);
	return true;
}
