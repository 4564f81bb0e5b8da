/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vring.c - rings without sockets: the driver's side (dring.c) against the device's (vring.c)
 *
 * Both lie in one memfd, which the device sees through its translation.  Each test runs with split
 * and packed rings, with and without event indices.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checked.h"
#include "dring.h"
#include "suite.h"
#include "vring.h"

#define MEM (8 * MiB)
#define GPA 0x40000000ull
#define DATA (4 * MiB)		/* buffers lie from here on */
#define NUM 16

/* Rounds of random work: fewer under the sanitizers, which see a fault the first time. */
#ifdef __SANITIZE_ADDRESS__
#define ROUNDS(n) ((n) / 4)
#else
#define ROUNDS(n) (n)
#endif

static const struct { bool packed, event; } modes[] = {
	{ false, false }, { false, true }, { true, false }, { true, true },
};

static int memfd;
static uint8_t *mem;
static struct guest guest;
static struct dring d;
static struct vring v;
static void *area;

static struct vring_addr addresses(void)
{
	return (struct vring_addr){ .desc = (uintptr_t)d.desc, .avail = (uintptr_t)d.driver,
				    .used = (uintptr_t)d.device };
}

static int device_start(unsigned num, uint32_t base)
{
	struct vring_addr a = addresses();
	struct tapimg_err err;

	ck_assert_int_eq(inflight_start(&v.inf, area, num, v.packed), 0);
	return vring_start(&v, num, &a, base, &err);
}

static void setup_ring(int mode, unsigned num)
{
	struct tapimg_err err;

	memfd = memfd_create("guest", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(memfd, MEM), 0);
	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	ck_assert(mem != MAP_FAILED);
	ck_assert_int_eq(guest_catch_sigbus(), 0);
	guest_init(&guest);
	ck_assert_int_eq(guest_map(&guest, GPA, MEM, (uintptr_t)mem, 0, memfd, &err), 0);
	dring_init(&d, modes[mode].packed, modes[mode].event, num, mem, GPA);
	vring_init(&v, &guest);
	v.packed = modes[mode].packed;
	v.event_idx = modes[mode].event;
	v.indirect = true;
	area = aligned_alloc(64, round_up(inflight_size(num), 64));
	memset(area, 0, inflight_size(num));
	ck_assert_int_eq(device_start(num, v.packed ? 0x80008000 : 0), 0);
}

static void teardown_ring(void)
{
	vring_exit(&v);
	guest_clear(&guest);
	dring_exit(&d);
	munmap(mem, MEM);
	close(memfd);
	free(area);
}

/* A request of a header, @data bytes of room for an answer, and a status. */
static int add(unsigned tag, unsigned data, bool indirect)
{
	uint64_t at = GPA + DATA + tag * 8192ull;
	struct dseg seg[3] = { { at, 16, false }, { at + 16, data, true }, { at + 16 + data, 1, true } };

	memcpy(mem + DATA + tag * 8192ull, &tag, sizeof(tag));
	return dring_add(&d, seg, 3, indirect, (void *)(uintptr_t)(tag + 1));
}

static unsigned tag_of(const struct vring *r)
{
	unsigned tag;

	memcpy(&tag, r->iov[0].iov_base, sizeof(tag));
	return tag;
}

START_TEST(requests_go_there_and_back)
{
	unsigned round, i, tag = 0, done = 0;
	bool called = false;
	struct vchain c;
	uint32_t len;

	setup_ring(_i, NUM);
	for (round = 0; round < 200; round++) {
		unsigned n = 1 + round % 5, got = 0;
		bool ind = round & 1;
		struct vchain all[8];

		if (!ind)
			n = MIN(n, NUM / 3);
		for (i = 0; i < n; i++)
			ck_assert_int_ge(add((tag + i) % 100, 100, ind), 0);
		ck_assert(dring_publish(&d));		/* it is armed */
		ck_assert(vring_has_work(&v));
		while (vring_pop(&v, &c) == 1) {
			ck_assert_uint_eq(tag_of(&v), (tag + got) % 100);
			ck_assert_uint_eq(c.nout, 1);
			ck_assert_uint_eq(c.nin, 2);
			ck_assert_uint_eq(c.out_len, 16);
			ck_assert_uint_eq(c.in_len, 101);
			ck_assert_ptr_eq(v.iov[1].iov_base, (uint8_t *)v.iov[0].iov_base + 16);
			all[got++] = c;
		}
		vring_disarm(&v);
		ck_assert_uint_eq(got, n);
		ck_assert_uint_eq(v.inflight, n);
		dring_want_call(&d, true);
		for (i = n; i--;)		/* the last one first */
			vring_push(&v, &all[i], 100 + i);
		ck_assert(!dring_has_used(&d));	/* not before it is published */
		called |= vring_publish(&v);
		ck_assert(called);
		called = false;
		for (i = n; i--;) {
			void *cookie = dring_get(&d, &len);

			ck_assert_uint_eq((uintptr_t)cookie, (tag + i) % 100 + 1);
			ck_assert_uint_eq(len, 100 + i);
			done++;
		}
		ck_assert_ptr_null(dring_get(&d, &len));
		ck_assert(!vring_arm(&v));
		tag += n;
	}
	ck_assert_uint_eq(done, tag);
	ck_assert_uint_eq(v.inflight, 0);
	ck_assert_uint_eq(d.nfree, NUM);
	teardown_ring();
}
END_TEST

/* A quarter of what the driver waits for: those it has been shown already count no more. */
START_TEST(answers_are_not_kept_back_while_the_driver_waits)
{
	struct vchain c;
	unsigned i;

	setup_ring(_i, 64);
	for (i = 0; i < 48; i++)
		ck_assert_int_ge(add(i, 100, true), 0);
	dring_publish(&d);
	for (i = 0; i < 47; i++)
		ck_assert_int_eq(vring_pop(&v, &c), 1);
	ck_assert_uint_eq(v.many, v.packed ? VRING_MANY : 12);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	for (i = 0; i < 44; i++)
		vring_push(&v, &c, 0);
	vring_publish(&v);
	ck_assert_int_eq(vring_pop(&v, &c), 0);
	ck_assert_uint_eq(v.many, v.packed ? VRING_MANY : 1);	/* four are left */
	teardown_ring();
}
END_TEST

START_TEST(nobody_is_called_or_kicked_who_does_not_want_it)
{
	struct vchain c;
	uint32_t len;
	unsigned i;

	setup_ring(_i, NUM);
	/* while the device looks by itself it need not be kicked */
	add(0, 100, true);
	ck_assert(dring_publish(&d));
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	vring_disarm(&v);
	add(1, 100, true);
	ck_assert(!dring_publish(&d));
	ck_assert(vring_arm(&v));		/* but arming tells of what came meanwhile */
	dring_want_call(&d, true);
	vring_push(&v, &c, 1);
	ck_assert(vring_publish(&v));
	ck_assert_ptr_nonnull(dring_get(&d, &len));
	/* the driver polls: without event indices it says so, with them the event stays behind */
	dring_want_call(&d, false);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	vring_push(&v, &c, 1);
	ck_assert(!vring_publish(&v));
	ck_assert_ptr_nonnull(dring_get(&d, &len));
	for (i = 0; i < 3; i++) {
		add(i, 100, true);
		dring_publish(&d);
		ck_assert_int_eq(vring_pop(&v, &c), 1);
		vring_push(&v, &c, 1);
		ck_assert(!vring_publish(&v));
		ck_assert_ptr_nonnull(dring_get(&d, &len));
	}
	add(7, 100, true);
	dring_publish(&d);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	dring_want_call(&d, true);
	vring_push(&v, &c, 1);
	ck_assert(vring_publish(&v));
	ck_assert(!vring_publish(&v));		/* nothing new */
	teardown_ring();
}
END_TEST

START_TEST(indices_wrap_around)
{
	struct vchain c;
	uint32_t len;
	unsigned i;

	setup_ring(_i, NUM);
	for (i = 0; i < 70000; i++) {
		ck_assert_int_ge(add(i % 100, 10, i % 3 == 0), 0);
		dring_publish(&d);
		ck_assert_int_eq(vring_pop(&v, &c), 1);
		vring_push(&v, &c, 11);
		vring_publish(&v);
		ck_assert_uint_eq((uintptr_t)dring_get(&d, &len), i % 100 + 1);
	}
	teardown_ring();
}
END_TEST

START_TEST(buffers_may_cross_regions)
{
	struct tapimg_err err;
	struct dseg seg[2] = { { GPA + MEM - 8, 16, false }, { GPA + DATA, 1, true } };
	struct vchain c;

	setup_ring(_i, NUM);
	/* a second region follows the first in the guest, somewhere else in the file */
	ck_assert_int_eq(guest_map(&guest, GPA + MEM, 65536, 0x7000000000, DATA, memfd, &err), 0);
	memcpy(mem + MEM - 8, "01234567", 8);
	memcpy(mem + DATA, "89abcdef", 8);
	dring_add(&d, seg, 2, false, mem);
	dring_publish(&d);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	ck_assert_uint_eq(c.nout, 2);
	ck_assert_uint_eq(c.out_len, 16);
	ck_assert_mem_eq(v.iov[0].iov_base, "01234567", 8);
	ck_assert_mem_eq(v.iov[1].iov_base, "89abcdef", 8);
	teardown_ring();
}
END_TEST

/* ------------------------------------------------------------------ what a hostile driver does */

static void expect_broken(const char *why)
{
	struct vchain c;
	int i, ret = 0;

	for (i = 0; i < 2 * NUM && ret >= 0; i++)
		ret = vring_pop(&v, &c);
	ck_assert_msg(ret < 0, "accepted: %s", why);
	ck_assert_ptr_nonnull(v.why);
	ck_assert_msg(strstr(v.why, why), "%s, not %s", v.why, why);
	ck_assert_int_lt(vring_pop(&v, &c), 0);		/* and stays so */
	ck_assert(!vring_has_work(&v));
}

START_TEST(wild_addresses_are_found)
{
	static const uint64_t wild[] = { 0, GPA - 1, GPA + MEM - 15, GPA + MEM, ~0ull, ~0ull - 15,
					 1ull << 63 };
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(wild); i++) {
		struct dseg seg = { wild[i], 16, false };

		setup_ring(_i, NUM);
		dring_add(&d, &seg, 1, i & 1, mem);
		dring_publish(&d);
		expect_broken("not in guest memory");
		teardown_ring();
		setup_ring(_i, NUM);
		seg.gpa = GPA + MEM - 16;
		dring_add(&d, &seg, 1, true, mem);
		d.desc[0].addr = wild[i];		/* the table itself */
		dring_publish(&d);
		expect_broken("not in guest memory");
		teardown_ring();
	}
}
END_TEST

START_TEST(bad_tables_are_found)
{
	struct dseg seg[2] = { { GPA + DATA, 16, false }, { GPA + DATA, 1, true } };

	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	d.desc[0].len = 0;
	dring_publish(&d);
	expect_broken("wrong size");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	d.desc[0].len = 24;
	dring_publish(&d);
	expect_broken("wrong size");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	d.desc[0].len = 16 * (VRING_DESCS + 1);
	dring_publish(&d);
	expect_broken("wrong size");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	if (d.packed)
		d.tables[0].next |= VRING_F_INDIRECT;
	else
		d.tables[0].flags |= VRING_F_INDIRECT;
	dring_publish(&d);
	expect_broken("inside another");
	teardown_ring();
	setup_ring(_i, NUM);
	v.indirect = false;
	dring_add(&d, seg, 2, true, mem);
	dring_publish(&d);
	expect_broken("not negotiated");
	teardown_ring();
	setup_ring(_i, NUM);
	seg[0].write = true;
	seg[1].write = false;
	dring_add(&d, seg, 2, _i & 1, mem);
	dring_publish(&d);
	expect_broken("follows a writable");
	teardown_ring();
}
END_TEST

START_TEST(split_loops_and_bad_indices_are_found)
{
	struct dseg seg[2] = { { GPA + DATA, 16, false }, { GPA + DATA, 1, false } };

	setup_ring(_i, NUM);			/* a loop in the ring */
	dring_add(&d, seg, 2, false, mem);
	d.desc[1].flags |= VRING_F_NEXT;
	d.desc[1].next = 0;
	dring_publish(&d);
	expect_broken("loop");
	teardown_ring();
	setup_ring(_i, NUM);			/* in a table */
	dring_add(&d, seg, 2, true, mem);
	d.tables[1].flags |= VRING_F_NEXT;
	d.tables[1].next = 0;
	dring_publish(&d);
	expect_broken("loop");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, false, mem);
	d.desc[0].next = NUM;
	dring_publish(&d);
	expect_broken("out of the descriptor table");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	d.tables[0].next = 2;
	dring_publish(&d);
	expect_broken("out of an indirect table");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, false, mem);
	d.driver[2] = NUM;
	dring_publish(&d);
	expect_broken("outside of the descriptor table");
	teardown_ring();
	setup_ring(_i, NUM);
	d.driver[1] = NUM + 1;
	expect_broken("than the ring holds");
	teardown_ring();
	setup_ring(_i, NUM);			/* the same one twice */
	dring_add(&d, seg, 2, false, mem);
	d.driver[3] = d.driver[2];
	d.added = 2;
	dring_publish(&d);
	expect_broken("twice");
	teardown_ring();
	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, true, mem);
	d.desc[0].flags |= VRING_F_NEXT;
	dring_publish(&d);
	expect_broken("successor");
	teardown_ring();
}
END_TEST

START_TEST(packed_loops_are_found)
{
	struct dseg seg[2] = { { GPA + DATA, 16, false }, { GPA + DATA, 1, false } };
	unsigned i;

	setup_ring(_i, NUM);
	dring_add(&d, seg, 2, false, mem);
	dring_publish(&d);
	for (i = 0; i < NUM; i++)		/* all claim to have a successor */
		d.desc[i].next = VRING_F_NEXT | 1 << 7;
	expect_broken("than the ring has");
	teardown_ring();
	setup_ring(_i, NUM);			/* what is in flight is offered again and again */
	for (i = 0; i < NUM; i++) {
		d.desc[i] = (struct ddesc){ GPA + DATA, 16, i, 1 << 7 };
		ck_assert_int_eq(vring_pop(&v, &(struct vchain){ 0 }), 1);
	}
	for (i = 0; i < NUM; i++)
		d.desc[i].next = 1 << 15;
	expect_broken("than the ring has");
	teardown_ring();
}
END_TEST

START_TEST(rings_outside_of_memory_are_refused)
{
	struct vring_addr a;
	struct tapimg_err err;
	unsigned i;

	setup_ring(_i, NUM);
	for (i = 0; i < 3; i++) {
		uint64_t *field[] = { &a.desc, &a.used, &a.avail };

		a = addresses();
		*field[i] = (uintptr_t)mem + MEM - 2;
		err.text[0] = 0;
		ck_assert_int_eq(vring_start(&v, NUM, &a, 0, &err), -EFAULT);
		ck_assert_ptr_nonnull(strstr(err.text, "not in the memory"));
		a = addresses();
		*field[i] += 1;
		ck_assert_int_eq(vring_start(&v, NUM, &a, 0, &err), -EINVAL);
		ck_assert_ptr_nonnull(strstr(err.text, "not aligned"));
	}
	a = addresses();
	if (!v.packed)
		ck_assert_int_eq(vring_start(&v, NUM - 1, &a, 0, &err), -EINVAL);
	else
		ck_assert_int_eq(vring_start(&v, NUM, &a, NUM, &err), -EINVAL);
	teardown_ring();
}
END_TEST

START_TEST(memory_that_shrinks_is_survived)
{
	struct vchain c;

	setup_ring(_i, NUM);
	add(1, 100, false);
	dring_publish(&d);
	ck_assert_int_eq(ftruncate(memfd, 0), 0);
	vring_pop(&v, &c);		/* zeroes, whatever they mean */
	ck_assert(guest.broken);
	teardown_ring();
}
END_TEST

/* ------------------------------------------------------------------ killed and started again */

/* What the server remembers by itself is lost; the area and the guest's memory stay. */
static void crash(void)
{
	struct vring_addr a = addresses();
	bool packed = v.packed, event = v.event_idx;
	struct tapimg_err err;

	free(v.again);
	free(v.inf.free);
	free(v.inf.more);
	free(v.inf.count);
	free(v.inf.done);
	vring_init(&v, &guest);
	v.packed = packed;
	v.event_idx = event;
	v.indirect = true;
	ck_assert_int_eq(inflight_start(&v.inf, area, NUM, packed), 0);
	/* what a front end says of the base is stale, or a guess */
	ck_assert_int_eq(vring_start(&v, NUM, &a, packed ? 0x80008000 : 5, &err), 0);
}

enum cut { BEFORE_PUSH, PUSHED, SHOWN, HALF_CLEARED, PUBLISHED, CUTS };

/* Publishing, stopped on the way; the area's fields as they are at that moment. */
static void publish_until(enum cut cut, unsigned n)
{
	struct inflight_head *h = area;
	struct inflight_slot *s = (struct inflight_slot *)(h + 1);
	struct inflight_head before = *h;
	uint8_t was[NUM];
	unsigned i;

	if (cut < SHOWN)
		return;
	for (i = 0; i < NUM; i++)
		was[i] = s[i].inflight;
	vring_publish(&v);
	if (cut == PUBLISHED)
		return;
	h->used = before.used;
	h->pending = n;
	h->pending_used = v.used_idx | (v.packed ? v.used_wrap << 15 : 0);
	for (i = 0; i < NUM; i++)
		if (cut == SHOWN || i != h->batch)
			s[i].inflight = was[i];
}

START_TEST(after_a_kill_nothing_is_lost_or_doubled)
{
	unsigned cut, seed, i, k, taken, shown;
	unsigned state[100];		/* by tag: 0 unknown, 1 asked, 2 answered */
	struct vchain all[NUM], c;
	uint32_t len;
	void *cookie;

	for (cut = 0; cut < CUTS; cut++) {
		setup_ring(_i, NUM);
		srand(cut);
		memset(state, 0, sizeof(state));
		for (seed = 0; seed < ROUNDS(300); seed++) {
			unsigned room = d.nfree / 3;

			for (i = 0, k = 0; i < 100 && k < room; i++) {
				if (state[i] == 1)
					continue;
				ck_assert_int_ge(add(i, 10, false), 0);
				state[i] = 1;
				k++;
				if (rand() % 3 == 0)
					break;
			}
			dring_publish(&d);
			for (taken = 0; taken < NUM && vring_pop(&v, &c) == 1;)
				all[taken++] = c;
			/* some of them are finished, in any order */
			shown = cut == BEFORE_PUSH ? 0 : taken ? rand() % (taken + 1) : 0;
			for (i = 0; i < shown; i++) {
				k = i + rand() % (taken - i);
				c = all[k];
				all[k] = all[i];
				vring_push(&v, &c, 11);
			}
			publish_until(cut, shown);
			if (seed & 1)			/* the driver may look now, or later */
				while ((cookie = dring_get(&d, &len)))
					state[(uintptr_t)cookie - 1] = 2;
			crash();
			while ((cookie = dring_get(&d, &len)))
				state[(uintptr_t)cookie - 1] = 2;
			/* everything asked and not answered comes once, in the order it was taken */
			for (taken = 0; vring_pop(&v, &c) == 1;) {
				unsigned tag = tag_of(&v);

				ck_assert_uint_lt(tag, 100);
				ck_assert_uint_eq(state[tag], 1);
				state[tag] = 3;
				ck_assert_uint_lt(taken, NUM);
				all[taken++] = c;
			}
			for (i = 0; i < 100; i++) {
				ck_assert_uint_ne(state[i], 1);	/* lost */
				if (state[i] == 3)
					state[i] = 1;
			}
			/* half of them are answered, the others survive one more kill */
			for (i = 0; i < taken; i += 2)
				vring_push(&v, &all[i], 11);
			vring_publish(&v);
			while ((cookie = dring_get(&d, &len)))	/* doubled: dring_get() aborts */
				state[(uintptr_t)cookie - 1] = 2;
			crash();
			for (taken = 0; vring_pop(&v, &c) == 1;)
				all[taken++] = c;
			for (i = 0; i < taken; i++)
				vring_push(&v, &all[i], 11);
			vring_publish(&v);
			while ((cookie = dring_get(&d, &len)))
				state[(uintptr_t)cookie - 1] = 2;
			ck_assert_uint_eq(d.nfree, NUM);
		}
		teardown_ring();
	}
}
END_TEST

START_TEST(a_ring_stopped_in_order_starts_where_it_is_told)
{
	struct vchain c;
	uint32_t base, len;
	unsigned i;

	setup_ring(_i, NUM);
	for (i = 0; i < 5; i++) {
		add(i, 10, true);
		dring_publish(&d);
		ck_assert_int_eq(vring_pop(&v, &c), 1);
		vring_push(&v, &c, 1);
		vring_publish(&v);
		ck_assert_ptr_nonnull(dring_get(&d, &len));
	}
	base = vring_base(&v);
	vring_settle(&v);
	vring_stop(&v);
	ck_assert_int_eq(device_start(NUM, base), 0);	/* moved on, as in a migration */
	add(9, 10, true);
	dring_publish(&d);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	ck_assert_uint_eq(tag_of(&v), 9);
	vring_push(&v, &c, 1);
	vring_publish(&v);
	ck_assert_ptr_nonnull(dring_get(&d, &len));
	/* the guest starts again: a fresh ring, though the area remembers the old one */
	vring_settle(&v);
	vring_stop(&v);
	dring_exit(&d);
	dring_init(&d, v.packed, v.event_idx, NUM, mem, GPA);
	ck_assert_int_eq(device_start(NUM, v.packed ? 0x80008000 : 0), 0);
	add(3, 10, true);
	dring_publish(&d);
	ck_assert_int_eq(vring_pop(&v, &c), 1);
	ck_assert_uint_eq(tag_of(&v), 3);
	teardown_ring();
}
END_TEST

START_TEST(a_damaged_area_is_survived)
{
	unsigned seed, i;
	struct vchain c;

	for (seed = 0; seed < ROUNDS(2000); seed++) {
		struct vring_addr a;
		struct tapimg_err err;
		uint8_t *raw;

		setup_ring(_i, NUM);
		for (i = 0; i < 3; i++)
			add(i, 10, i & 1);
		dring_publish(&d);
		while (vring_pop(&v, &c) == 1)
			;
		vring_stop(&v);
		srand(seed);
		raw = area;
		for (i = 0; i < 1 + seed % 40; i++)
			raw[rand() % inflight_size(NUM)] = rand();
		((struct inflight_head *)area)->version = 1;
		((struct inflight_head *)area)->num = NUM;
		((struct inflight_head *)area)->features = INFLIGHT_RUNNING | v.packed;
		ck_assert_int_eq(inflight_start(&v.inf, area, NUM, v.packed), 0);
		a = addresses();
		if (vring_start(&v, NUM, &a, 0, &err) == 0) {
			for (i = 0; i < 4 * NUM && vring_pop(&v, &c) == 1; i++) {
				vring_push(&v, &c, 1);
				vring_publish(&v);
			}
		}
		teardown_ring();
	}
}
END_TEST

/* ------------------------------------------------------------------ memory */

START_TEST(regions_are_checked)
{
	int fd = memfd_create("m", MFD_CLOEXEC);
	struct tapimg_err err;
	struct guest g;
	uint64_t run;
	unsigned i;

	guest_init(&g);
	ck_assert_int_eq(ftruncate(fd, MEM), 0);
	ck_assert_int_eq(guest_map(&g, 0, 0, 0, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0, MEM + 1, 0, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0, MEM, 0, 4096, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, ~0ull - 4095, MEM, 0, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0, MEM, ~0ull - 4095, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0, MEM, 0, ~0ull, fd, &err), -EINVAL);
	ck_assert_int_lt(guest_map(&g, 0, 4096, 0, 0, -1, &err), 0);
	ck_assert_int_eq(guest_map(&g, 0x10000, 0x4000, 0x70000, 0x800, fd, &err), 0);	/* not a page */
	ck_assert_int_eq(guest_map(&g, 0x13fff, 0x1000, 0, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0xf000, 0x1001, 0, 0, fd, &err), -EINVAL);
	ck_assert_int_eq(guest_map(&g, 0xf000, 0x1000, 0x1000, 0, fd, &err), 0);
	ck_assert_int_eq(guest_map(&g, 0x14000, 0x1000, 0x5000, 0x2000, fd, &err), 0);
	ck_assert_uint_eq(g.n, 3);
	ck_assert_ptr_eq(guest_at(&g, 0x10000, 0x10000, &run), g.r[1].host);
	ck_assert_uint_eq(run, 0x4000);
	ck_assert_ptr_eq(guest_at(&g, 0x13fff, 1, &run), g.r[1].host + 0x3fff);
	ck_assert_ptr_null(guest_at(&g, 0x15000, 1, &run));
	ck_assert_ptr_null(guest_at(&g, 0xefff, 1, &run));
	ck_assert_ptr_eq(guest_user(&g, 0x70000, 0x4000), g.r[1].host);
	ck_assert_ptr_null(guest_user(&g, 0x70000, 0x4001));
	ck_assert_ptr_null(guest_user(&g, 0x6ffff, 1));
	ck_assert_int_eq(guest_unmap(&g, 0x10000, 0x3000, 0x70000), -ENOENT);
	ck_assert_int_eq(guest_unmap(&g, 0x10000, 0x4000, 0x70000), 0);
	ck_assert_ptr_null(guest_at(&g, 0x10000, 1, &run));
	for (i = g.n; i < GUEST_REGIONS; i++)
		ck_assert_int_eq(guest_map(&g, (i + 1) * MEM, 4096, i * MEM, 0, fd, &err), 0);
	ck_assert_int_eq(guest_map(&g, 1 * TiB, 4096, 1 * TiB, 0, fd, &err), -ENOSPC);
	guest_clear(&g);
	close(fd);
}
END_TEST

START_TEST(writes_are_logged_for_migration)
{
	int fd = memfd_create("m", MFD_CLOEXEC), logfd = memfd_create("l", MFD_CLOEXEC);
	struct tapimg_err err;
	struct guest g;
	uint8_t log[4];

	guest_init(&g);
	ck_assert_int_eq(ftruncate(fd, MEM), 0);
	ck_assert_int_eq(ftruncate(logfd, 8192), 0);
	ck_assert_int_eq(guest_map(&g, 0x10000, 0x8000, 0, 0, fd, &err), 0);
	ck_assert_int_eq(guest_set_log(&g, logfd, 8192, 4096, &err), -EINVAL);
	ck_assert_int_eq(guest_set_log(&g, logfd, 4, 0, &err), 0);
	guest_dirty_host(&g, g.r[0].host, 1);		/* not asked for yet */
	ck_assert_int_eq(pread(logfd, log, 4, 0), 4);
	ck_assert_mem_eq(log, "\0\0\0\0", 4);
	g.log_on = true;
	guest_dirty_host(&g, g.r[0].host + 4095, 2);	/* pages 16 and 17 */
	guest_dirty_log(&g, 0x1fffc, 100);		/* page 31, and one beyond the log */
	guest_dirty_log(&g, ~0ull, 1);
	ck_assert_int_eq(pread(logfd, log, 4, 0), 4);
	ck_assert_mem_eq(log, "\0\0\3\200", 4);
	guest_clear(&g);
	close(fd);
	close(logfd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vring");
	TCase *tc = tcase_create("vring");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, requests_go_there_and_back, 0, 4);
	tcase_add_loop_test(tc, answers_are_not_kept_back_while_the_driver_waits, 0, 4);
	tcase_add_loop_test(tc, nobody_is_called_or_kicked_who_does_not_want_it, 0, 4);
	tcase_add_loop_test(tc, indices_wrap_around, 0, 4);
	tcase_add_loop_test(tc, buffers_may_cross_regions, 0, 4);
	tcase_add_loop_test(tc, wild_addresses_are_found, 0, 4);
	tcase_add_loop_test(tc, bad_tables_are_found, 0, 4);
	tcase_add_loop_test(tc, split_loops_and_bad_indices_are_found, 0, 2);
	tcase_add_loop_test(tc, packed_loops_are_found, 2, 4);
	tcase_add_loop_test(tc, rings_outside_of_memory_are_refused, 0, 4);
	tcase_add_loop_test(tc, memory_that_shrinks_is_survived, 0, 4);
	tcase_add_loop_test(tc, after_a_kill_nothing_is_lost_or_doubled, 0, 4);
	tcase_add_loop_test(tc, a_ring_stopped_in_order_starts_where_it_is_told, 0, 4);
	tcase_add_loop_test(tc, a_damaged_area_is_survived, 0, 4);
	tcase_add_test(tc, regions_are_checked);
	tcase_add_test(tc, writes_are_logged_for_migration);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
