/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vring-packed.c - packed rings
 *
 * One ring of descriptors serves both directions.  A descriptor is available when its AVAIL bit is the
 * driver's wrap counter and its USED bit is not; it is used when both are the device's.  Used
 * entries are written in the order of completion, so they overwrite descriptors of requests that
 * still run: those are kept in the in-flight area.
 *
 * A batch is published by one store: its first entry's flags are written last, and the driver
 * looks nowhere else before it has seen those.
 */
#include <errno.h>
#include <stdlib.h>

#include "checked.h"
#include "vring.h"

enum { F_AVAIL = 1 << 7, F_USED = 1 << 15 };
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

struct entry {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

static inline volatile uint8_t *entry_at(const struct vring *v, unsigned i)
{
	return v->desc + 16 * i;
}

static inline uint16_t entry_flags(const struct vring *v, unsigned i)
{
	return load16_acquire(entry_at(v, i) + 14);
}

static struct entry entry_load(const struct vring *v, unsigned i)
{
	const volatile uint64_t *w = (const volatile uint64_t *)entry_at(v, i);
	struct entry e;
	uint64_t rest;

	e.addr = __atomic_load_n(&w[0], __ATOMIC_RELAXED);
	rest = __atomic_load_n(&w[1], __ATOMIC_RELAXED);
	e.len = rest;
	e.id = rest >> 32;
	e.flags = rest >> 48;
	return e;
}

static bool is_available(uint16_t flags, bool wrap)
{
	return !!(flags & F_AVAIL) == wrap && !!(flags & F_USED) != wrap;
}

static void advance(const struct vring *v, uint16_t *idx, bool *wrap, unsigned n)
{
	unsigned to = *idx + n;

	if (to >= v->num) {
		to -= v->num;
		*wrap = !*wrap;
	}
	*idx = to;
}

/* ------------------------------------------------------------------ taking */

bool packed_has_work(const struct vring *v)
{
	return is_available(entry_flags(v, v->avail_idx), v->avail_wrap);
}

static int add_entry(struct vring *v, struct vchain *c, const struct entry *e)
{
	if (!(e->flags & VRING_F_INDIRECT))
		return vring_add(v, c, e->addr, e->len, e->flags & VRING_F_WRITE);
	if (e->flags & VRING_F_NEXT)
		return vring_broken(v, -EPROTO, "an indirect table with a successor");
	return vring_add_indirect(v, c, e->addr, e->len);
}

static void chain_init(struct vring *v, struct vchain *c)
{
	v->niov = 0;
	c->ndesc = c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
}

/* Length of the chain at avail_idx, in entries; the last one's id in *@id. */
static int chain_length(struct vring *v, uint16_t *id)
{
	unsigned i = v->avail_idx, n = 1;
	struct entry e;

	while ((e = entry_load(v, i)).flags & VRING_F_NEXT) {
		if (++n > v->num || n > VRING_DESCS)
			return vring_broken(v, -EPROTO, "a chain of more descriptors than the ring has");
		i = i + 1 == v->num ? 0 : i + 1;
	}
	if (n > v->inf.nfree)
		return vring_broken(v, -EPROTO, "more descriptors are available than the ring has");
	*id = e.id;
	return n;
}

int packed_pop(struct vring *v, struct vchain *c)
{
	unsigned i = v->avail_idx, slot, k;
	int n, ret = 0;

	if (!packed_has_work(v))
		return 0;
	chain_init(v, c);
	n = chain_length(v, &c->id);
	if (n < 0)
		return n;
	c->ndesc = n;
	slot = c->slot = inflight_alloc(&v->inf, n);
	for (k = 0; k < c->ndesc && !ret; k++) {
		struct inflight_slot *s = &v->inf.slots[slot];
		struct entry e = entry_load(v, i);

		s->addr = e.addr;
		s->len = e.len;
		s->id = c->id;
		s->flags = e.flags;
		s->ndesc = n;
		s->more = v->inf.more[slot];
		ret = add_entry(v, c, &e);
		slot = v->inf.more[slot];
		i = i + 1 == v->num ? 0 : i + 1;
	}
	if (ret)
		return ret;
	advance(v, &v->avail_idx, &v->avail_wrap, n);
	inflight_take(&v->inf, c->slot);
	v->inflight++;
	return 1;
}

int packed_pop_again(struct vring *v, struct vchain *c, unsigned slot)
{
	unsigned k;

	chain_init(v, c);
	c->slot = slot;
	c->id = v->inf.slots[slot].id;
	c->ndesc = v->inf.count[slot];
	for (k = 0; k < c->ndesc; k++) {
		const struct inflight_slot *s = &v->inf.slots[slot];
		struct entry e = { s->addr, s->len, s->id, s->flags };
		int ret = add_entry(v, c, &e);

		if (ret)
			return ret;
		slot = v->inf.more[slot];
	}
	return 0;
}

/* ------------------------------------------------------------------ giving back */

static uint16_t used_flags(const struct vring *v, uint32_t len, bool wrap)
{
	return (wrap ? F_AVAIL | F_USED : 0) | (len ? VRING_F_WRITE : 0);
}

static void dirty_entry(const struct vring *v, unsigned i)
{
	if (v->addr.log_used)
		guest_dirty_log(v->g, v->addr.log + 16 * i, 16);
}

void packed_push(struct vring *v, const struct vchain *c, uint32_t len)
{
	volatile uint8_t *e = entry_at(v, v->used_idx);

	/* the first of a batch keeps its flags, which say "available", until the end */
	store16(e + 12, c->id);
	__atomic_store_n((volatile uint32_t *)(e + 8), len, __ATOMIC_RELAXED);
	if (v->pushed)
		store16_release(e + 14, used_flags(v, len, v->used_wrap));
	else
		v->first_flags = used_flags(v, len, v->used_wrap);
	dirty_entry(v, v->used_idx);
	inflight_free_later(&v->inf, c->slot, c->ndesc);
	advance(v, &v->used_idx, &v->used_wrap, c->ndesc);
}

/* Whether [from, to) contains @at; positions with their laps. */
static bool passed(const struct vring *v, uint16_t from, bool from_wrap, uint16_t event)
{
	unsigned num = v->num, at = event & 0x7fff, begin = from, end = v->used_idx;

	if (from_wrap != v->used_wrap)
		end += num;
	if (at >= num)
		return true;		/* nonsense: better one call too many */
	if ((event >> 15) != from_wrap)
		at += num;
	return at >= begin && at < end;
}

static bool wants_call(const struct vring *v, uint16_t from, bool from_wrap)
{
	uint32_t e = __atomic_load_n((volatile uint32_t *)v->avail, __ATOMIC_RELAXED);
	uint16_t desc = e, flags = e >> 16 & 3;

	if (flags == EVENT_DISABLE)
		return false;
	if (flags == EVENT_DESC && v->event_idx)
		return passed(v, from, from_wrap, desc);
	return true;
}

bool packed_publish(struct vring *v)
{
	uint16_t from = v->published;
	bool wrap = v->published_wrap;

	v->inf.head->pending_used = v->used_idx | v->used_wrap << 15;
	__atomic_store_n(&v->inf.head->pending, v->pushed, __ATOMIC_RELEASE);
	store16_release(entry_at(v, from) + 14, v->first_flags);
	v->published = v->used_idx;
	v->published_wrap = v->used_wrap;
	inflight_clear_batch(&v->inf, v->pushed, v->used_idx | v->used_wrap << 15);
	__atomic_store_n(&v->inf.head->pending, 0, __ATOMIC_RELEASE);
	inflight_free_now(&v->inf);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);	/* R4 */
	return wants_call(v, from, wrap);
}

/* ------------------------------------------------------------------ kicks */

static void event_store(struct vring *v, uint16_t desc, uint16_t flags)
{
	__atomic_store_n((volatile uint32_t *)v->used, desc | (uint32_t)flags << 16, __ATOMIC_RELAXED);
}

bool packed_arm(struct vring *v)
{
	if (v->event_idx)
		event_store(v, v->avail_idx | v->avail_wrap << 15, EVENT_DESC);
	else
		event_store(v, 0, EVENT_ENABLE);
	return false;
}

void packed_disarm(struct vring *v)
{
	event_store(v, 0, EVENT_DISABLE);
}

/* ------------------------------------------------------------------ after a kill */

/* How many ring entries the chains take. -EUCLEAN: the area is damaged. */
static int chains_total(const struct vring *v)
{
	unsigned i, total = 0;

	for (i = 0; i < v->nagain; i++) {
		unsigned n = v->inf.count[v->again[i]];

		total += n;
		if (!n)
			return -EUCLEAN;
	}
	return total > v->num ? -EUCLEAN : (int)total;
}

/*
 * Of a batch that was not shown all entries but the first may say "used" already.  They lie where the
 * driver will look once we go on: take it back.
 */
static void hide_unshown(struct vring *v, unsigned n)
{
	uint16_t i = v->used_idx;
	bool wrap = v->used_wrap;

	for (; n; n--) {
		store16(entry_at(v, i) + 14, wrap ? F_AVAIL : F_USED);
		advance(v, &i, &wrap, 1);
	}
}

static int recover_chains(struct vring *v)
{
	struct inflight_head *h = v->inf.head;
	uint16_t at = h->used & 0x7fff;
	int n, ret;

	if (at >= v->num)
		return -EUCLEAN;
	/* was the newest batch shown?  Then its first entry is used, or available once more */
	if (h->pending && !!(entry_flags(v, at) & F_USED) == h->used >> 15)
		inflight_clear_batch(&v->inf, h->pending, h->pending_used);
	h->pending = 0;
	at = h->used & 0x7fff;
	if (at >= v->num)
		return -EUCLEAN;
	ret = inflight_find_chains(&v->inf);
	if (ret)
		return ret;
	n = inflight_list(&v->inf, &v->again);
	if (n < 0)
		return n;
	v->nagain = n;
	n = chains_total(v);
	if (n < 0)
		return n;
	v->used_idx = v->published = v->avail_idx = at;
	v->used_wrap = v->published_wrap = v->avail_wrap = h->used >> 15;
	hide_unshown(v, n);
	advance(v, &v->avail_idx, &v->avail_wrap, n);
	return 0;
}

int packed_recover(struct vring *v)
{
	int ret = 0;

	if (v->inf.used_before)
		ret = recover_chains(v);
	v->inf.head->used = v->used_idx | v->used_wrap << 15;
	return ret;
}
