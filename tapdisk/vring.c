/* SPDX-License-Identifier: BSD-2-Clause */
/* vring.c - split rings, and what both kinds share; the rules R1 to R4 are in vring.h */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "err.h"
#include "vring.h"

enum { AVAIL_NO_CALL = 1, USED_NO_KICK = 1 };

/* Offsets inside the two rings of a split queue. */
static inline volatile uint8_t *avail_entry(const struct vring *v, unsigned i)
{
	return v->avail + 4 + 2 * i;
}

static inline volatile uint8_t *used_event(const struct vring *v)
{
	return v->avail + 4 + 2 * v->num;
}

static inline volatile uint8_t *used_entry(const struct vring *v, unsigned i)
{
	return v->used + 4 + 8 * i;
}

static inline volatile uint8_t *avail_event(const struct vring *v)
{
	return v->used + 4 + 8 * v->num;
}

int vring_broken(struct vring *v, int ret, const char *why)
{
	if (!v->why)
		v->why = why;
	return ret;
}

/* ------------------------------------------------------------------ descriptors */

/* Two loads, so that one descriptor is read once (R1). */
static struct vring_desc desc_load(const volatile void *p)
{
	const volatile uint64_t *w = p;
	struct vring_desc d;
	uint64_t rest;

	d.addr = __atomic_load_n(&w[0], __ATOMIC_RELAXED);
	rest = __atomic_load_n(&w[1], __ATOMIC_RELAXED);
	d.len = rest;
	d.flags = rest >> 32;
	d.next = rest >> 48;
	return d;
}

int vring_add(struct vring *v, struct vchain *c, uint64_t gpa, uint32_t len, bool write)
{
	uint64_t left = len, run;

	if (!write && c->nin)
		return vring_broken(v, -EPROTO, "a readable buffer follows a writable one");
	if (write)
		c->in_len += len;
	else
		c->out_len += len;
	while (left) {
		void *p = guest_at(v->g, gpa, left, &run);

		if (!p)
			return vring_broken(v, -EFAULT, "a buffer is not in guest memory");
		if (v->niov == VRING_DESCS)
			return vring_broken(v, -EPROTO, "a request has too many buffers");
		v->iov[v->niov].iov_base = p;
		v->iov[v->niov++].iov_len = run;
		if (write)
			c->nin++;
		else
			c->nout++;
		gpa += run;
		left -= run;
	}
	return 0;
}

/*
 * A table of descriptors elsewhere.  Tables of split rings are chained by next, those of packed rings
 * are used from start to end.
 */
int vring_add_indirect(struct vring *v, struct vchain *c, uint64_t gpa, uint32_t len)
{
	unsigned i = 0, steps, n = len / sizeof(struct vring_desc);
	const struct vring_desc *table;
	struct vring_desc d;
	uint64_t run = 0;
	int ret;

	if (!v->indirect)
		return vring_broken(v, -EPROTO, "an indirect table, which was not negotiated");
	if (!n || len % sizeof(d) || n > VRING_DESCS)
		return vring_broken(v, -EPROTO, "an indirect table of a wrong size");
	table = guest_at(v->g, gpa, len, &run);
	if (!table)
		return vring_broken(v, -EFAULT, "an indirect table is not in guest memory");
	if (!is_aligned((uintptr_t)table, sizeof(uint64_t)))
		run = 0;
	for (steps = 0; steps < n; steps++) {
		if (run >= (i + 1) * sizeof(d))
			d = desc_load(&table[i]);
		else if (guest_read(v->g, gpa + i * sizeof(d), &d, sizeof(d)))
			return vring_broken(v, -EFAULT, "an indirect table is not in guest memory");
		if (v->packed)
			d.flags = d.next;	/* id, flags */
		if (d.flags & VRING_F_INDIRECT)
			return vring_broken(v, -EPROTO, "an indirect table inside another");
		ret = vring_add(v, c, d.addr, d.len, d.flags & VRING_F_WRITE);
		if (ret)
			return ret;
		if (v->packed) {
			i++;
			continue;
		}
		if (!(d.flags & VRING_F_NEXT))
			return 0;
		i = d.next;
		if (i >= n)
			return vring_broken(v, -EPROTO, "a link out of an indirect table");
	}
	return v->packed ? 0 : vring_broken(v, -EPROTO, "descriptors linked in a loop");
}

/* ------------------------------------------------------------------ split: taking */

static int split_walk(struct vring *v, struct vchain *c, unsigned head)
{
	unsigned i = head, steps;

	v->niov = 0;
	c->slot = head;
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	for (steps = 0; steps < v->num; steps++) {
		struct vring_desc d = desc_load(v->desc + 16 * i);
		int ret;

		if (d.flags & VRING_F_INDIRECT) {
			if (d.flags & VRING_F_NEXT)
				return vring_broken(v, -EPROTO, "an indirect table with a successor");
			return vring_add_indirect(v, c, d.addr, d.len);
		}
		ret = vring_add(v, c, d.addr, d.len, d.flags & VRING_F_WRITE);
		if (ret)
			return ret;
		if (!(d.flags & VRING_F_NEXT))
			return 0;
		i = d.next;
		if (i >= v->num)
			return vring_broken(v, -EPROTO, "a link out of the descriptor table");
	}
	return vring_broken(v, -EPROTO, "descriptors linked in a loop");
}

/* So many answers are shown together when the driver waits for @waiting (vring_push()). */
#define MANY(waiting) MIN(MAX((waiting) / 4u, 1u), 64u)

/* How many requests are there, as far as was seen; looks again when that was all. */
static int split_available(struct vring *v)
{
	uint16_t n = v->avail_seen - v->avail_idx;

	if (n)
		return n;
	v->avail_seen = load16_acquire(v->avail + 2);
	n = v->avail_seen - v->avail_idx;
	if (n <= v->num) {
		v->many = MANY((uint16_t)(v->avail_seen - v->published));
		return n;
	}
	v->avail_seen = v->avail_idx;
	return vring_broken(v, -EPROTO, "more requests are available than the ring holds");
}

static int split_pop(struct vring *v, struct vchain *c)
{
	int ret = split_available(v);
	uint16_t head;

	if (ret <= 0)
		return ret;
	head = load16(avail_entry(v, v->avail_idx & v->mask));
	if (head >= v->num)
		return vring_broken(v, -EPROTO, "a request begins outside of the descriptor table");
	if (v->inf.slots[head].inflight || v->inflight >= v->num)
		return vring_broken(v, -EPROTO, "a request is made available twice");
	ret = split_walk(v, c, head);
	if (ret)
		return ret;
	v->avail_idx++;
	inflight_take(&v->inf, head);
	v->inflight++;
	return 1;
}

/* The next one of a former life: it owns its slot already. */
static int pop_again(struct vring *v, struct vchain *c)
{
	unsigned slot = v->again[v->again_at++];
	int ret = v->packed ? packed_pop_again(v, c, slot) : split_walk(v, c, slot);

	if (v->again_at == v->nagain) {
		free(v->again);
		v->again = NULL;
		v->nagain = v->again_at = 0;
	}
	if (ret)
		return ret;
	v->inflight++;
	return 1;
}

int vring_pop(struct vring *v, struct vchain *c)
{
	if (v->why)
		return -EPROTO;
	if (v->nagain)
		return pop_again(v, c);
	return v->packed ? packed_pop(v, c) : split_pop(v, c);
}

/* ------------------------------------------------------------------ split: giving back */

void vring_push(struct vring *v, const struct vchain *c, uint32_t len)
{
	inflight_push(&v->inf, c->slot);
	if (v->packed) {
		packed_push(v, c, len);
	} else {
		volatile uint8_t *e = used_entry(v, v->used_idx & v->mask);

		__atomic_store_n((volatile uint32_t *)e, c->slot, __ATOMIC_RELAXED);
		__atomic_store_n((volatile uint32_t *)(e + 4), len, __ATOMIC_RELAXED);
		if (v->addr.log_used)
			guest_dirty_log(v->g, v->addr.log + (e - v->used), 8);
		v->used_idx++;
	}
	v->pushed++;
	v->inflight--;
}

static bool split_wants_call(struct vring *v, uint16_t before)
{
	bool first = !v->called;

	if (!v->event_idx)
		return !(load16(v->avail) & AVAIL_NO_CALL);
	v->called = true;
	return first || (uint16_t)(v->used_idx - load16(used_event(v)) - 1) <
			(uint16_t)(v->used_idx - before);
}

static bool split_publish(struct vring *v)
{
	uint16_t before = v->published;

	store16_release(v->used + 2, v->used_idx);
	if (v->addr.log_used)
		guest_dirty_log(v->g, v->addr.log + 2, 2);
	v->published = v->used_idx;
	inflight_clear_batch(&v->inf, v->pushed, v->used_idx);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);	/* R4 */
	return split_wants_call(v, before);
}

bool vring_publish(struct vring *v)
{
	bool call;

	if (!v->pushed)
		return false;
	call = v->packed ? packed_publish(v) : split_publish(v);
	v->pushed = 0;
	return call;
}

/* ------------------------------------------------------------------ kicks */

bool vring_has_work(struct vring *v)
{
	if (!v->up || v->why)
		return false;
	if (v->nagain)
		return true;
	return v->packed ? packed_has_work(v) :
			   load16(v->avail + 2) != v->avail_idx;
}

bool vring_arm(struct vring *v)
{
	if (!v->armed) {
		v->armed = true;
		if (v->packed) {
			if (packed_arm(v))
				return true;
		} else if (v->event_idx) {
			store16(avail_event(v), v->avail_idx);
		} else {
			store16(v->used, 0);
		}
		__atomic_thread_fence(__ATOMIC_SEQ_CST);	/* R4 */
	}
	return vring_has_work(v);
}

void vring_disarm(struct vring *v)
{
	if (!v->armed)
		return;
	v->armed = false;
	if (v->packed)
		packed_disarm(v);
	else if (!v->event_idx)		/* else the event stays behind, and no kick comes */
		store16(v->used, USED_NO_KICK);
}

/* ------------------------------------------------------------------ life */

void vring_init(struct vring *v, struct guest *g)
{
	memset(v, 0, offsetof(struct vring, iov));
	v->g = g;
}

void vring_exit(struct vring *v)
{
	vring_stop(v);
}

/* A part of the ring: translated as a whole, and aligned as the standard wants it. */
static int map_part(struct vring *v, const char *what, uint64_t user, uint64_t len, unsigned align,
		    volatile uint8_t **out, struct tapimg_err *err)
{
	void *p = guest_user(v->g, user, len);

	if (!p)
		return err_set(err, -EFAULT, "%s ring at %#jx, %ju bytes, is not in the memory of the guest",
			       what, (uintmax_t)user, (uintmax_t)len);
	if (!is_aligned((uintptr_t)p, align))
		return err_set(err, -EINVAL, "%s ring at %#jx is not aligned to %u bytes", what,
			       (uintmax_t)user, align);
	*out = p;
	return 0;
}

static int split_map(struct vring *v, struct tapimg_err *err)
{
	const uint64_t num = v->num, event = v->event_idx ? 2 : 0;
	int ret;

	if (!is_pow2(num))
		return err_set(err, -EINVAL, "ring size %u is not a power of two", v->num);
	v->mask = num - 1;
	ret = map_part(v, "descriptor", v->addr.desc, 16 * num, 16, &v->desc, err);
	if (!ret)
		ret = map_part(v, "available", v->addr.avail, 4 + 2 * num + event, 2, &v->avail, err);
	if (!ret)
		ret = map_part(v, "used", v->addr.used, 4 + 8 * num + event, 4, &v->used, err);
	return ret;
}

int packed_map(struct vring *v, struct tapimg_err *err)
{
	int ret;

	ret = map_part(v, "descriptor", v->addr.desc, 16 * (uint64_t)v->num, 16, &v->desc, err);
	if (!ret)
		ret = map_part(v, "driver event", v->addr.avail, 4, 4, &v->avail, err);
	if (!ret)
		ret = map_part(v, "device event", v->addr.used, 4, 4, &v->used, err);
	return ret;
}

int vring_remap(struct vring *v, struct tapimg_err *err)
{
	int ret = v->packed ? packed_map(v, err) : split_map(v, err);

	v->armed = false;
	if (ret)
		v->up = false;
	return ret;
}

/* R3: what a former server left. The ring's own used index says what the driver has been shown. */
static int split_recover(struct vring *v, uint32_t base)
{
	uint16_t used = load16_acquire(v->used + 2);
	int n;

	v->used_idx = v->published = used;
	v->avail_idx = base;
	if (v->inf.used_before) {
		inflight_clear_batch(&v->inf, (uint16_t)(used - v->inf.head->used), used);
		n = inflight_list(&v->inf, &v->again);
		if (n < 0)
			return n;
		v->nagain = n;
		v->avail_idx = used + n;
	}
	v->inf.head->used = used;
	v->avail_seen = v->avail_idx;
	return 0;
}

int vring_start(struct vring *v, uint16_t num, const struct vring_addr *addr, uint32_t base,
		struct tapimg_err *err)
{
	int ret;

	v->num = num;
	v->addr = *addr;
	v->why = NULL;
	v->armed = v->called = false;
	v->pushed = v->inflight = 0;
	v->many = VRING_MANY;
	ret = vring_remap(v, err);
	if (ret)
		return ret;
	if (v->packed) {
		v->avail_idx = base & 0x7fff;
		v->avail_wrap = base >> 15 & 1;
		v->used_idx = v->published = base >> 16 & 0x7fff;
		v->used_wrap = v->published_wrap = base >> 31;
		if (v->avail_idx >= num || v->used_idx >= num)
			return err_set(err, -EINVAL, "base %#x is outside of the ring", base);
		ret = packed_recover(v);
	} else {
		ret = split_recover(v, base);
	}
	if (ret)
		return err_errno(err, ret, "requests in flight");
	if (!v->nagain) {
		free(v->again);
		v->again = NULL;
	}
	v->again_at = 0;
	v->up = true;
	vring_arm(v);		/* as a driver expects it of a ring that nobody looks at yet */
	return 0;
}

void vring_settle(struct vring *v)
{
	inflight_idle(&v->inf);
}

void vring_stop(struct vring *v)
{
	v->up = false;
	free(v->again);
	v->again = NULL;
	v->nagain = v->again_at = 0;
	inflight_stop(&v->inf);
}

uint32_t vring_base(const struct vring *v)
{
	if (!v->packed)
		return v->avail_idx;
	return v->avail_idx | v->avail_wrap << 15 | (uint32_t)v->used_idx << 16 |
	       (uint32_t)v->used_wrap << 31;
}
