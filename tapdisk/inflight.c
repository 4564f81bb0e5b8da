/* SPDX-License-Identifier: BSD-2-Clause */
/* inflight.c - the in-flight area of a ring; inflight.h tells how it works */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inflight.h"

static int private_alloc(struct inflight *f)
{
	f->free = malloc(f->num * sizeof(*f->free));
	f->more = malloc(f->num * sizeof(*f->more));
	f->count = malloc(f->num * sizeof(*f->count));
	f->done = malloc(f->num * sizeof(*f->done));
	return f->free && f->more && f->count && f->done ? 0 : -ENOMEM;
}

/* Follows the chain from @head as far as its slots belong to no other one. */
static void find_chain(struct inflight *f, unsigned head, uint8_t *taken)
{
	unsigned want = f->slots[head].ndesc, slot = head, n;

	for (n = 0; n < want && slot < f->num && !taken[slot]; n++) {
		taken[slot] = 1;
		f->more[slot] = f->slots[slot].more;
		slot = f->more[slot];
	}
	f->count[head] = n == want ? n : 0;
}

int inflight_find_chains(struct inflight *f)
{
	uint8_t *taken = calloc(1, f->num);
	unsigned i;

	if (!taken)
		return -ENOMEM;
	memset(f->count, 0, f->num * sizeof(*f->count));
	f->nfree = f->ndone = 0;
	for (i = 0; i < f->num; i++)
		if (f->slots[i].inflight)
			find_chain(f, i, taken);
	for (i = f->num; i-- > 0;)
		if (!taken[i])
			f->free[f->nfree++] = i;
	free(taken);
	return 0;
}

int inflight_start(struct inflight *f, void *mem, unsigned num, bool packed)
{
	uint64_t kind = packed ? INFLIGHT_PACKED : 0;
	struct inflight_head *h;
	uint64_t kept;

	memset(f, 0, sizeof(*f));
	f->own = !mem;
	f->num = num;
	if (!mem)
		mem = calloc(1, inflight_size(num));
	if (!mem)
		return -ENOMEM;
	f->head = h = mem;
	f->slots = (struct inflight_slot *)(h + 1);
	kept = h->version == 1 ? h->features & INFLIGHT_WRITETHROUGH : 0;
	f->used_before = h->version == 1 && h->num == num && h->features & INFLIGHT_RUNNING &&
			 (h->features & INFLIGHT_PACKED) == kind;
	if (!f->used_before) {
		h->version = 0;
		memset(f->slots, 0, num * sizeof(*f->slots));
		h->features = kind | kept | INFLIGHT_RUNNING;
		h->num = num;
		h->batch = h->used = h->pending = 0;
		__atomic_store_n(&h->version, 1, __ATOMIC_RELEASE);
	}
	if (!packed)
		return 0;
	return private_alloc(f) ? -ENOMEM : inflight_find_chains(f);
}

void inflight_idle(struct inflight *f)
{
	if (f->head)
		f->head->features &= ~(uint64_t)INFLIGHT_RUNNING;
}

void inflight_stop(struct inflight *f)
{
	free(f->free);
	free(f->more);
	free(f->count);
	free(f->done);
	if (f->own)
		free(f->head);
	memset(f, 0, sizeof(*f));
}

void inflight_clear_batch(struct inflight *f, unsigned count, uint16_t used)
{
	unsigned slot = f->head->batch;

	for (; count && slot < f->num; count--) {
		__atomic_store_n(&f->slots[slot].inflight, 0, __ATOMIC_RELEASE);
		slot = f->slots[slot].next;
	}
	__atomic_store_n(&f->head->used, used, __ATOMIC_RELEASE);
}

struct order {
	uint64_t counter;
	uint16_t slot;
};

static int by_counter(const void *a, const void *b)
{
	uint64_t x = ((const struct order *)a)->counter, y = ((const struct order *)b)->counter;

	return x < y ? -1 : x > y;
}

int inflight_list(struct inflight *f, uint16_t **list)
{
	unsigned i, n = 0, num = f->num;
	struct order *o = malloc(num * sizeof(*o));
	uint16_t *out = malloc(num * sizeof(*out));

	if (!o || !out) {
		free(o);
		free(out);
		return -ENOMEM;
	}
	for (i = 0; i < num; i++) {
		if (!f->slots[i].inflight)
			continue;
		o[n].counter = f->slots[i].counter;
		o[n++].slot = i;
		if (f->slots[i].counter >= f->counter)
			f->counter = f->slots[i].counter + 1;
	}
	qsort(o, n, sizeof(*o), by_counter);
	for (i = 0; i < n; i++)
		out[i] = o[i].slot;
	free(o);
	*list = out;
	return n;
}
