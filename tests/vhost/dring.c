/* SPDX-License-Identifier: BSD-2-Clause */
/* dring.c - the driver's side of a virtqueue; VIRTIO 1.2, 2.7 and 2.8 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dring.h"

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, P_AVAIL = 1 << 7, P_USED = 1 << 15 };
enum { EV_ENABLE = 0, EV_DISABLE = 1, EV_DESC = 2 };
#define PAGE 4096u

static unsigned page_up(unsigned n)
{
	return (n + PAGE - 1) & ~(PAGE - 1);
}

unsigned dring_bytes(unsigned num)
{
	return page_up(16 * num) + page_up(6 + 2 * num) + page_up(6 + 8 * num) +
	       page_up(16 * DRING_INDIRECT * num);
}

void dring_init(struct dring *d, bool packed, bool event_idx, unsigned num, uint8_t *host, uint64_t gpa)
{
	unsigned i;

	memset(d, 0, sizeof(*d));
	memset(host, 0, dring_bytes(num));
	d->packed = packed;
	d->event_idx = event_idx;
	d->num = num;
	d->host = host;
	d->gpa = gpa;
	d->driver_off = page_up(16 * num);
	d->device_off = d->driver_off + page_up(6 + 2 * num);
	d->tables_off = d->device_off + page_up(6 + 8 * num);
	d->desc = (struct ddesc *)host;
	d->driver = (uint16_t *)(host + d->driver_off);
	d->device = (uint16_t *)(host + d->device_off);
	d->tables = (struct ddesc *)(host + d->tables_off);
	d->link = calloc(num, sizeof(*d->link));
	d->count = calloc(num, sizeof(*d->count));
	d->cookie = calloc(num, sizeof(*d->cookie));
	for (i = 0; i < num; i++)
		d->link[i] = i + 1;
	d->nfree = num;
	d->avail_wrap = d->kicked_wrap = d->used_wrap = true;
}

void dring_exit(struct dring *d)
{
	free(d->link);
	free(d->count);
	free(d->cookie);
}

static uint16_t load(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void store(uint16_t *p, uint16_t v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static void fill_table(struct dring *d, struct ddesc *t, const struct dseg *seg, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		uint16_t flags = (seg[i].write ? WRITE : 0) | (i + 1 < n && !d->packed ? NEXT : 0);

		t[i].addr = seg[i].gpa;
		t[i].len = seg[i].len;
		/* packed: the id comes first, and is of no meaning in tables */
		t[i].flags = d->packed ? 0 : flags;
		t[i].next = d->packed ? flags : i + 1;
	}
}

/* The one descriptor that stands for a table of them. */
static struct dseg use_table(struct dring *d, unsigned id, const struct dseg *seg, unsigned n)
{
	struct ddesc *t = d->tables + (size_t)id * DRING_INDIRECT;

	fill_table(d, t, seg, n);
	return (struct dseg){ d->gpa + d->tables_off + (uint64_t)id * DRING_INDIRECT * 16, n * 16, false };
}

static int split_add(struct dring *d, const struct dseg *seg, unsigned n, unsigned extra)
{
	unsigned head = d->free_head, i = head, k;

	for (k = 0; k < n; k++) {
		bool last = k + 1 == n;
		struct ddesc *e = &d->desc[i];

		e->addr = seg[k].gpa;
		e->len = seg[k].len;
		e->flags = (seg[k].write ? WRITE : 0) | (last ? 0 : NEXT) | extra;
		e->next = d->link[i];
		i = d->link[i];
	}
	d->free_head = i;
	d->driver[2 + (uint16_t)(d->avail + d->added) % d->num] = head;
	return head;
}

static int packed_add(struct dring *d, const struct dseg *seg, unsigned n, unsigned extra)
{
	unsigned id = d->free_head, k;
	uint16_t head_pos = d->avail, head_flags = 0;

	d->free_head = d->link[id];
	for (k = 0; k < n; k++) {
		struct ddesc *e = &d->desc[d->avail];
		uint16_t flags = (seg[k].write ? WRITE : 0) | (k + 1 < n ? NEXT : 0) | extra |
				 (d->avail_wrap ? P_AVAIL : P_USED);

		e->addr = seg[k].gpa;
		e->len = seg[k].len;
		e->flags = id;
		if (k)
			store(&e->next, flags);
		else
			head_flags = flags;
		if (++d->avail == d->num) {
			d->avail = 0;
			d->avail_wrap = !d->avail_wrap;
		}
	}
	/* the head's flags come last; those of the first request added when all are published */
	if (d->added) {
		store(&d->desc[head_pos].next, head_flags);
	} else {
		d->first_pos = head_pos;
		d->first_flags = head_flags;
	}
	return id;
}

int dring_add(struct dring *d, const struct dseg *seg, unsigned n, bool indirect, void *cookie)
{
	unsigned want = indirect ? 1 : n;
	struct dseg table;
	int id;

	if (d->nfree < want)
		return -1;
	if (indirect)
		table = use_table(d, d->free_head, seg, n);
	id = d->packed ? packed_add(d, indirect ? &table : seg, want, indirect ? INDIRECT : 0) :
			 split_add(d, indirect ? &table : seg, want, indirect ? INDIRECT : 0);
	d->nfree -= want;
	d->count[id] = want;
	d->cookie[id] = cookie;
	d->added++;
	return id;
}

static bool packed_wants_kick(const struct dring *d, uint16_t from, bool from_wrap)
{
	uint32_t ev = __atomic_load_n((const uint32_t *)d->device, __ATOMIC_RELAXED);
	unsigned at = ev & 0x7fff, begin = from, end = d->avail;
	bool wrap = ev >> 15 & 1;

	if ((ev >> 16 & 3) != EV_DESC)
		return (ev >> 16 & 3) == EV_ENABLE;
	if (from_wrap != d->avail_wrap)
		end += d->num;
	if (wrap != from_wrap)
		at += d->num;
	return at >= begin && at < end;
}

static bool split_publish(struct dring *d)
{
	uint16_t old = d->avail, event;

	d->avail += d->added;
	store(&d->driver[1], d->avail);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!d->event_idx)
		return !(load(&d->device[0]) & 1);
	event = load(&d->device[2 + 4 * d->num]);
	return (uint16_t)(d->avail - event - 1) < (uint16_t)(d->avail - old);
}

bool dring_publish(struct dring *d)
{
	bool kick;

	if (!d->added)
		return false;
	if (d->packed) {
		store(&d->desc[d->first_pos].next, d->first_flags);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		kick = packed_wants_kick(d, d->avail_kicked, d->kicked_wrap);
		d->avail_kicked = d->avail;
		d->kicked_wrap = d->avail_wrap;
	} else {
		kick = split_publish(d);
	}
	d->added = 0;
	return kick;
}

bool dring_has_used(const struct dring *d)
{
	uint16_t flags;

	if (!d->packed)
		return load(&d->device[1]) != d->used;
	flags = load(&d->desc[d->used].next);
	return !!(flags & P_AVAIL) == d->used_wrap && !!(flags & P_USED) == d->used_wrap;
}

static void fatal(const char *what, unsigned id)
{
	fprintf(stderr, "the device %s (%u)\n", what, id);
	abort();
}

void *dring_get(struct dring *d, uint32_t *len)
{
	unsigned id, k;
	void *cookie;

	if (!dring_has_used(d))
		return NULL;
	if (d->packed) {
		id = d->desc[d->used].flags;
		*len = d->desc[d->used].len;
	} else {
		const uint32_t *e = (const uint32_t *)(d->device + 2) + 2 * (d->used % d->num);

		id = e[0];
		*len = e[1];
	}
	if (id >= d->num || !d->cookie[id])
		fatal("answers what was not asked", id);
	cookie = d->cookie[id];
	d->cookie[id] = NULL;
	if (d->packed) {
		d->link[id] = d->free_head;
		d->free_head = id;
		d->used += d->count[id];
		if (d->used >= d->num) {
			d->used -= d->num;
			d->used_wrap = !d->used_wrap;
		}
	} else {
		unsigned i = id;

		for (k = 1; k < d->count[id]; k++)
			i = d->link[i];
		d->link[i] = d->free_head;
		d->free_head = id;
		d->used++;
	}
	d->nfree += d->count[id];
	return cookie;
}

bool dring_want_call(struct dring *d, bool on)
{
	if (d->packed) {
		uint32_t ev = on ? (d->event_idx ? d->used | d->used_wrap << 15 |
				    (uint32_t)EV_DESC << 16 : (uint32_t)EV_ENABLE << 16) :
				   (uint32_t)EV_DISABLE << 16;

		__atomic_store_n((uint32_t *)d->driver, ev, __ATOMIC_RELEASE);
	} else if (!d->event_idx) {
		store(&d->driver[0], !on);
	} else if (on) {
		store(&d->driver[2 + d->num], d->used);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return dring_has_used(d);
}
