/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-count.c - counters for host clusters, see qcow2-count.h
 *
 * A radix tree of three levels leads to the chunks.  Runs are added a machine word at a time: with
 * counters of w bits, folding a word onto itself (x &= x >> 1, x >> 2, ... x >> w/2) leaves the
 * lowest bit of each counter set exactly where all its bits are, that is, where adding one would
 * overflow.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "qcow2-count.h"

#define RADIX_BITS 12
#define RADIX (1u << RADIX_BITS)
#define CHUNK_NONE UINT64_MAX

struct count_chunk {
	uint8_t wlog;		/* counters of 2^wlog bits, 1..6 */
	uint64_t w[];
};

struct radix {
	void *p[RADIX];
};

/* the lowest bit of every counter in a word */
static const uint64_t lsb[7] = {
	~0ULL, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
	0x0001000100010001, 0x0000000100000001, 1,
};

static inline unsigned chunk_words(unsigned wlog)
{
	return COUNT_CHUNK >> (6 - wlog);
}

void counts_init(struct counts *c, uint64_t max_bytes)
{
	memset(c, 0, sizeof(*c));
	c->max_bytes = max_bytes;
	c->last_no = CHUNK_NONE;
}

static void radix_free(void *node, unsigned level)
{
	struct radix *r = node;

	if (!node)
		return;
	if (level)
		for (unsigned i = 0; i < RADIX; i++)
			radix_free(r->p[i], level - 1);
	free(node);
}

void counts_free(struct counts *c)
{
	radix_free(c->top, 3);
	counts_init(c, c->max_bytes);
}

static void *charge(struct counts *c, size_t size)
{
	void *p;

	if (c->bytes + size > c->max_bytes)
		return NULL;
	p = calloc(1, size);
	if (p)
		c->bytes += size;
	return p;
}

/* where the pointer to chunk @no is kept; NULL: not there (or, making it, no memory) */
static struct count_chunk **chunk_slot(struct counts *c, uint64_t no, bool make)
{
	void **slot = &c->top;

	for (int level = 2; level >= 0; level--) {
		if (!*slot && (!make || !(*slot = charge(c, sizeof(struct radix)))))
			return NULL;
		slot = &((struct radix *)*slot)->p[no >> level * RADIX_BITS & (RADIX - 1)];
	}
	return (struct count_chunk **)slot;
}

static struct count_chunk *chunk_find(struct counts *c, uint64_t no)
{
	struct count_chunk **slot;

	if (no == c->last_no)
		return c->last;
	slot = no < COUNT_LIMIT >> COUNT_CHUNK_BITS ? chunk_slot(c, no, false) : NULL;
	if (!slot || !*slot)
		return NULL;
	c->last_no = no;
	c->last = *slot;
	return *slot;
}

static struct count_chunk *chunk_make(struct counts *c, uint64_t no)
{
	struct count_chunk *k = chunk_find(c, no), **slot;

	if (k)
		return k;
	slot = chunk_slot(c, no, true);
	if (!slot)
		return NULL;
	k = charge(c, sizeof(*k) + chunk_words(1) * 8);
	if (!k)
		return NULL;
	k->wlog = 1;
	*slot = k;
	c->last_no = no;
	c->last = k;
	return k;
}

static inline uint64_t width_max(unsigned wlog)
{
	return wlog == 6 ? UINT64_MAX : (1ULL << (1u << wlog)) - 1;
}

static inline uint64_t chunk_get(const struct count_chunk *k, unsigned i)
{
	unsigned per = 6 - k->wlog, sh = (i & ((1u << per) - 1)) << k->wlog;

	return k->w[i >> per] >> sh & width_max(k->wlog);
}

static inline void chunk_put(struct count_chunk *k, unsigned i, uint64_t v)
{
	unsigned per = 6 - k->wlog, sh = (i & ((1u << per) - 1)) << k->wlog;
	uint64_t *w = &k->w[i >> per];

	*w = (*w & ~(width_max(k->wlog) << sh)) | v << sh;
}

/* makes room for @value in every counter of the chunk */
static struct count_chunk *chunk_widen(struct counts *c, uint64_t no, uint64_t value)
{
	struct count_chunk *old = chunk_find(c, no), *k;
	unsigned wlog = old->wlog;

	while (value > width_max(wlog))
		wlog++;
	k = charge(c, sizeof(*k) + chunk_words(wlog) * 8);
	if (!k)
		return NULL;
	k->wlog = wlog;
	for (unsigned i = 0; i < COUNT_CHUNK; i++)
		chunk_put(k, i, chunk_get(old, i));
	*chunk_slot(c, no, false) = k;
	c->last = k;
	c->last_no = no;
	c->bytes -= sizeof(*old) + chunk_words(old->wlog) * 8;
	free(old);
	return k;
}

static int add_slow(struct counts *c, uint64_t no, unsigned i, unsigned n, uint64_t weight)
{
	struct count_chunk *k = chunk_find(c, no);

	for (; n; i++, n--) {
		uint64_t v = chunk_get(k, i);

		v = v > UINT64_MAX - weight ? UINT64_MAX : v + weight;
		if (v > 1)
			c->multi = true;
		if (v > width_max(k->wlog) && !(k = chunk_widen(c, no, v)))
			return -ENOMEM;
		chunk_put(k, i, v);
	}
	return 0;
}

/* one to each of the counters [i, i+n) of one word; false if one of them is full */
static inline bool add_word(struct counts *c, struct count_chunk *k, unsigned i, unsigned n)
{
	unsigned per = 6 - k->wlog, sh = (i & ((1u << per) - 1)) << k->wlog, bits = n << k->wlog;
	uint64_t mask = (bits == 64 ? ~0ULL : (1ULL << bits) - 1) << sh;
	uint64_t *w = &k->w[i >> per], full = *w;

	for (unsigned s = 1; s < 1u << k->wlog; s <<= 1)
		full &= full >> s;
	if (full & lsb[k->wlog] & mask)
		return false;
	if (*w & mask)
		c->multi = true;
	*w += lsb[k->wlog] & mask;
	return true;
}

static int add_ones(struct counts *c, uint64_t no, unsigned i, unsigned n)
{
	struct count_chunk *k = chunk_find(c, no);

	while (n) {
		unsigned per = 1u << (6 - k->wlog), part = MIN(per - (i & (per - 1)), n);
		int ret;

		if (!add_word(c, k, i, part)) {
			ret = add_slow(c, no, i, part, 1);
			if (ret)
				return ret;
			k = chunk_find(c, no);
		}
		i += part;
		n -= part;
	}
	return 0;
}

int counts_add(struct counts *c, uint64_t idx, uint64_t n, uint64_t weight)
{
	if (!checked_range(idx, n, COUNT_LIMIT))
		return -ENOMEM;
	if (idx + n > c->end)
		c->end = idx + n;
	while (n) {
		uint64_t no = idx >> COUNT_CHUNK_BITS;
		unsigned i = idx & (COUNT_CHUNK - 1), part = MIN(COUNT_CHUNK - i, n);
		int ret;

		if (!chunk_make(c, no))
			return -ENOMEM;
		ret = weight == 1 ? add_ones(c, no, i, part) : add_slow(c, no, i, part, weight);
		if (ret)
			return ret;
		idx += part;
		n -= part;
	}
	return 0;
}

uint64_t counts_get(struct counts *c, uint64_t idx)
{
	struct count_chunk *k = chunk_find(c, idx >> COUNT_CHUNK_BITS);

	return k ? chunk_get(k, idx & (COUNT_CHUNK - 1)) : 0;
}

int counts_set(struct counts *c, uint64_t idx, uint64_t value)
{
	uint64_t no = idx >> COUNT_CHUNK_BITS;
	struct count_chunk *k;

	if (idx >= COUNT_LIMIT)
		return -ENOMEM;
	k = chunk_make(c, no);
	if (k && value > width_max(k->wlog))
		k = chunk_widen(c, no, value);
	if (!k)
		return -ENOMEM;
	if (value > 1)
		c->multi = true;
	if (value && idx >= c->end)
		c->end = idx + 1;
	chunk_put(k, idx & (COUNT_CHUNK - 1), value);
	return 0;
}

/* number of the first existing chunk at or after @no */
static uint64_t chunk_next(struct counts *c, uint64_t no)
{
	uint64_t end = (c->end + COUNT_CHUNK - 1) >> COUNT_CHUNK_BITS;

	while (no < end) {
		void *node = c->top;
		int level = 2;

		for (; node && level >= 0; level--)
			node = ((struct radix *)node)->p[no >> level * RADIX_BITS & (RADIX - 1)];
		if (node)
			return no;
		level++;	/* the level whose slot was empty: skip all of it */
		no = ((no >> level * RADIX_BITS) + 1) << level * RADIX_BITS;
	}
	return CHUNK_NONE;
}

uint64_t counts_next(struct counts *c, uint64_t idx)
{
	uint64_t no = chunk_next(c, idx >> COUNT_CHUNK_BITS);

	if (no != idx >> COUNT_CHUNK_BITS)
		idx = no << COUNT_CHUNK_BITS;
	while (no != CHUNK_NONE) {
		const struct count_chunk *k = chunk_find(c, no);
		unsigned i = idx & (COUNT_CHUNK - 1), per = 6 - k->wlog;

		while (i < COUNT_CHUNK) {
			uint64_t w = k->w[i >> per] >> ((i & ((1u << per) - 1)) << k->wlog);

			if (w)
				return (no << COUNT_CHUNK_BITS) + i +
				       ((unsigned)__builtin_ctzll(w) >> k->wlog);
			i = ((i >> per) + 1) << per;
		}
		no = chunk_next(c, no + 1);
		idx = no << COUNT_CHUNK_BITS;
	}
	return COUNT_END;
}

bool counts_any(struct counts *c, uint64_t idx, uint64_t n)
{
	uint64_t next;

	if (idx >= c->end)
		return false;
	next = counts_next(c, idx);
	return next != COUNT_END && next - idx < n;
}

bool counts_expand(struct counts *c, uint64_t idx, uint64_t out[COUNT_CHUNK])
{
	const struct count_chunk *k = chunk_find(c, idx >> COUNT_CHUNK_BITS);
	uint64_t mask;
	unsigned bits;

	if (!k)
		return false;
	mask = width_max(k->wlog);
	bits = 1u << k->wlog;
	for (unsigned i = 0, j = 0; i < chunk_words(k->wlog); i++) {
		uint64_t w = k->w[i];

		for (unsigned sh = 0; sh < 64; sh += bits)
			out[j++] = w >> sh & mask;
	}
	return true;
}

bool counts_all(struct counts *c, uint64_t idx, unsigned value)
{
	const struct count_chunk *k = chunk_find(c, idx >> COUNT_CHUNK_BITS);
	uint64_t want;

	if (!k)
		return value == 0;
	want = value ? lsb[k->wlog] : 0;
	for (unsigned i = 0; i < chunk_words(k->wlog); i++)
		if (k->w[i] != want)
			return false;
	return true;
}

int counts_cancel(struct counts *a, struct counts *b)
{
	uint64_t no;

	for (no = chunk_next(a, 0); no != CHUNK_NONE; no = chunk_next(a, no + 1)) {
		struct count_chunk *x = chunk_find(a, no), *y = chunk_find(b, no);

		for (unsigned i = 0; y && i < COUNT_CHUNK; i++) {
			uint64_t u = chunk_get(x, i), v = chunk_get(y, i), both = MIN(u, v);

			if (both) {
				chunk_put(x, i, u - both);
				chunk_put(y, i, v - both);
			}
		}
	}
	return 0;
}
