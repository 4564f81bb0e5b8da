/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vhost.c - the vhost-user-blk front end as virtual machine monitors use it, and as they should not
 *
 * A tapdisk of this build for each test, our own front end (vu.c) on the other side.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "checked.h"
#include "endian.h"
#include "served.h"
#include "suite.h"
#include "vu.h"

static struct served s;
static struct vu v;
static uint64_t buf;		/* 1 MiB of the guest's memory */

static void begin_with(const char *disk, const char *more, unsigned nq, uint64_t without)
{
	served_init(&s);
	served_start(&s, disk, more);
	vu_init(&v, s.socket, 16 * MiB, nq, 128);
	v.want &= ~without;
	ck_assert_int_eq(vu_dial(&v, 10000), 0);
	buf = vu_alloc(&v, MiB);
}

/* Modes of the ring, for loop tests. */
static const uint64_t without[] = { VU_F_PACKED, VU_F_PACKED | VU_F_EVENT_IDX, 0, VU_F_EVENT_IDX,
				    VU_F_PACKED | VU_F_INDIRECT, VU_F_INDIRECT };

static void begin(int mode)
{
	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, without[mode]);
	vu_start(&v);
}

static void end(void)
{
	vu_exit(&v);
	ck_assert_int_eq(served_stop(&s), 0);
	ck_assert_int_ne(access(s.socket, F_OK), 0);	/* it tidies up */
}

static void fill(uint64_t at, uint64_t len, unsigned seed)
{
	uint64_t i;

	for (i = 0; i < len; i++)
		v.mem[at + i] = seed + i * 7 + (i >> 8);
}

static void expect_file(const char *path, uint64_t off, uint64_t at, uint64_t len)
{
	uint8_t *got = malloc(len);
	int fd = open(path, O_RDONLY);

	ck_assert_int_eq(pread(fd, got, len, off), len);
	ck_assert_mem_eq(got, v.mem + at, len);
	close(fd);
	free(got);
}

/* ------------------------------------------------------------------ requests */

START_TEST(what_is_written_is_read_and_lies_in_the_file)
{
	begin(_i);
	ck_assert_uint_eq(get_le64(v.config), 8 * MiB / 512);
	fill(buf, 64 * KiB, 3);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 8, buf, 64 * KiB), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_FLUSH, 0, 0, 0), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 8, buf + 128 * KiB, 64 * KiB), 0);
	ck_assert_mem_eq(v.mem + buf, v.mem + buf + 128 * KiB, 64 * KiB);
	expect_file("a.raw", 4096, buf, 64 * KiB);
	end();
}
END_TEST

START_TEST(many_requests_at_once)
{
	unsigned round, i, n = _i >= 4 ? 42 : 128, busy, done;
	struct vu_req *r;

	begin(_i);
	for (round = 0; round < 60; round++) {
		for (i = 0; i < n; i++) {
			fill(buf + i * 4096, 4096, round + i);
			ck_assert_ptr_nonnull(vu_submit(&v, 0, round & 1 ? VU_IN : VU_OUT, i * 8,
							buf + i * 4096 + (round & 1) * 512 * KiB, 4096, NULL));
			if (i % 7 == 0)
				vu_kick(&v, 0);
		}
		vu_kick(&v, 0);
		for (busy = n, done = 0; busy; busy--, done++) {
			r = vu_wait(&v, 0, 10000);
			ck_assert_ptr_nonnull(r);
			ck_assert_uint_eq(r->status, 0);
			ck_assert_uint_eq(r->used_len, r->type == VU_IN ? 4097 : 1);
		}
		if (round & 1) {
			for (i = 0; i < n; i++)
				fill(buf + i * 4096, 4096, round - 1 + i);
			ck_assert_mem_eq(v.mem + buf, v.mem + buf + 512 * KiB, n * 4096);
		}
	}
	end();
}
END_TEST

START_TEST(wrong_requests_are_answered_with_errors)
{
	begin(_i);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf, 511), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 8 * MiB / 512, buf, 512), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 8 * MiB / 512 - 1, buf, 1024), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, ~0ull, buf, 512), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, ~0ull / 512, buf, 1024), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 1ull << 55, buf, 512), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf, 0), 0);
	ck_assert_int_eq(vu_do(&v, 0, 14, 0, buf, 16), 2);	/* secure erase */
	ck_assert_int_eq(vu_do(&v, 0, 2, 0, buf, 512), 2);
	ck_assert_int_eq(vu_do(&v, 0, 0x80000000, 0, 0, 0), 2);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf, 512), 0);	/* it goes on */
	end();
}
END_TEST

/* Header, data and status wherever the driver likes to have them; addresses count from buf. */
static int odd(const struct dseg *where, unsigned n)
{
	static const uint64_t one = 1;
	static struct vu_req *r;
	struct dseg seg[8];
	unsigned ms = 0, i;
	uint32_t len;

	for (i = 0; i < n; i++) {
		seg[i] = where[i];
		seg[i].gpa += VU_GPA + buf;
	}

	ck_assert_int_ge(dring_add(&v.q[0].ring, seg, n, v.features & VU_F_INDIRECT, &r), 0);
	if (dring_publish(&v.q[0].ring))
		ck_assert_int_eq(write(v.q[0].kick, &one, 8), 8);
	while (!dring_get(&v.q[0].ring, &len)) {
		if (ms++ > 5000)
			return -ETIMEDOUT;
		usleep(1000);
	}
	return len;
}

START_TEST(framing_is_free)
{
	static const struct dseg split_header[] = {
		{ 0, 3, false }, { 3, 13, false }, { 4096, 512, true }, { 8192, 0, true },
		{ 12288, 512, true }, { 100, 1, true } };
	static const struct dseg shared[] = { { 0, 16 + 512, false }, { 600, 1, true } };
	static const struct dseg status_in_data[] = { { 0, 16, false }, { 4096, 513, true } };
	static const struct dseg short_header[] = { { 0, 15, false }, { 600, 1, true } };
	uint32_t type = VU_OUT;

	begin(_i);
	/* write: the header and its data in one buffer */
	fill(buf, 600, 9);
	memcpy(v.mem + buf, &type, 4);
	memset(v.mem + buf + 4, 0, 12);
	v.mem[buf + 600] = 0xff;
	ck_assert_int_eq(odd(shared, 2), 1);
	ck_assert_uint_eq(v.mem[buf + 600], 0);
	expect_file("a.raw", 0, buf + 16, 512);
	/* read: the status is the last byte of the data's buffer */
	type = VU_IN;
	memcpy(v.mem + buf, &type, 4);
	v.mem[buf + 4096 + 512] = 0xff;
	ck_assert_int_eq(odd(status_in_data, 2), 513);
	ck_assert_uint_eq(v.mem[buf + 4096 + 512], 0);
	ck_assert_mem_eq(v.mem + buf + 16, v.mem + buf + 4096, 512);
	/* read: a header in two pieces, an empty buffer, data in two places */
	v.mem[buf + 100] = 0xff;
	ck_assert_int_eq(odd(split_header, 6), 1025);
	ck_assert_uint_eq(v.mem[buf + 100], 0);
	expect_file("a.raw", 0, buf + 4096, 512);
	expect_file("a.raw", 512, buf + 12288, 512);
	/* less than a header, but a place to say so */
	v.mem[buf + 600] = 0xff;
	ck_assert_int_eq(odd(short_header, 2), 1);
	ck_assert_uint_eq(v.mem[buf + 600], 1);
	end();
}
END_TEST

static void range(unsigned i, uint64_t sector, uint32_t count, uint32_t flags)
{
	put_le64(v.mem + buf + i * 16, sector);
	put_le32(v.mem + buf + i * 16 + 8, count);
	put_le32(v.mem + buf + i * 16 + 12, flags);
}

START_TEST(ranges_are_discarded_and_zeroed)
{
	static const uint8_t zeroes[64 * KiB];
	unsigned i;

	begin(_i);
	ck_assert_uint_eq(get_le32(v.config + 40), 32);
	ck_assert_uint_eq(get_le32(v.config + 52), 32);
	fill(buf + 64 * KiB, 512 * KiB, 5);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf + 64 * KiB, 512 * KiB), 0);
	range(0, 0, 8, 0);
	range(1, 64, 16, 1);
	range(2, 128, 0, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 48), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf + 64 * KiB, 64 * KiB), 0);
	ck_assert_mem_eq(v.mem + buf + 64 * KiB, zeroes, 4096);
	ck_assert_mem_eq(v.mem + buf + 64 * KiB + 64 * 512, zeroes, 16 * 512);
	ck_assert_uint_eq(v.mem[buf + 64 * KiB + 4096], (uint8_t)(5 + 4096 * 7 + 16));
	range(0, 256, 256, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 16), 0);
	/* what is not allowed */
	range(0, 0, 8, 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 16), 2);
	range(0, 0, 8, 2);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 16), 2);
	range(0, 8 * MiB / 512 - 1, 2, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 16), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 16), 1);
	range(0, ~0ull - 3, 8, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 16), 1);
	range(0, 0, ~0u, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 16), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 15), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 0), 1);
	for (i = 0; i < 33; i++)
		range(i, i * 8, 8, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 33 * 16), 1);
	/* one bad range: nothing of the request is done */
	fill(buf + 64 * KiB, 4096, 6);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf + 64 * KiB, 4096), 0);
	range(0, 0, 8, 0);
	range(1, 8 * MiB / 512, 8, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 32), 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf + 68 * KiB, 4096), 0);
	ck_assert_mem_eq(v.mem + buf + 64 * KiB, v.mem + buf + 68 * KiB, 4096);
	end();
}
END_TEST

START_TEST(the_serial_number_is_told)
{
	char id[24];

	served_run("%s create -q -f raw a.raw 1M", served_tool("tapimg"));
	begin_with("raw:a.raw,serial=0123456789abcdefghijklmn", "", 1, without[_i]);
	vu_start(&v);
	memset(v.mem + buf, 0xee, 64);
	ck_assert_int_eq(vu_do(&v, 0, VU_GET_ID, 0, buf, 20), 0);
	ck_assert_mem_eq(v.mem + buf, "0123456789abcdefghij\xee", 21);
	memset(id, 0xee, sizeof(id));
	memset(v.mem + buf, 0xee, 64);
	ck_assert_int_eq(vu_do(&v, 0, VU_GET_ID, 0, buf, 5), 0);
	ck_assert_mem_eq(v.mem + buf, "01234\xee", 6);
	end();
}
END_TEST

START_TEST(a_read_only_disk_stays_as_it_is)
{
	served_run("%s create -q -f raw a.raw 1M", served_tool("tapimg"));
	begin_with("raw:a.raw,read-only=on", "", 1, without[_i]);
	vu_start(&v);
	ck_assert(v.offered & VU_BIT(5));
	ck_assert(!(v.offered & (VU_BIT(13) | VU_BIT(14))));
	fill(buf, 4096, 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf, 4096), 1);
	range(0, 0, 8, 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_WRITE_ZEROES, 0, buf, 16), 2);
	ck_assert_int_eq(vu_do(&v, 0, VU_DISCARD, 0, buf, 16), 2);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf, 4096), 0);
	ck_assert_uint_eq(v.mem[buf], 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_FLUSH, 0, 0, 0), 0);
	end();
}
END_TEST

/* ------------------------------------------------------------------ flushing */

static unsigned syncs(void)
{
	char n[32] = { 0 };
	int fd = open("syncs", O_RDONLY);
	ssize_t got = fd < 0 ? 0 : read(fd, n, sizeof(n) - 1);

	if (fd >= 0)
		close(fd);
	return got > 0 ? strlen(n) : 0;
}

static void begin_counting(const char *disk, uint64_t not)
{
	served_run("%s create -q -f raw a.raw 8M; : >syncs", served_tool("tapimg"));
	served_init(&s);
	s.preload = served_tool("tests/vhost/count-syncs.so");
	served_start(&s, disk, "");
	vu_init(&v, s.socket, 16 * MiB, 1, 128);
	v.want &= ~not;
	ck_assert_int_eq(vu_dial(&v, 10000), 0);
	buf = vu_alloc(&v, MiB);
	vu_start(&v);
}

START_TEST(flushed_means_flushed)
{
	unsigned before;

	begin_counting("raw:a.raw", 0);
	ck_assert(v.offered & VU_BIT(9));
	ck_assert(v.offered & VU_BIT(11));
	ck_assert_uint_eq(v.config[32], 1);	/* so the guest does flush */
	before = syncs();
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf, 4096), 0);
	ck_assert_uint_eq(syncs(), before);
	ck_assert_int_eq(vu_do(&v, 0, VU_FLUSH, 0, 0, 0), 0);
	ck_assert_uint_eq(syncs(), before + 1);
	/* the guest switches its cache off: writes are durable from then on, earlier ones too */
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 8, buf, 4096), 0);
	ck_assert_int_eq(vu_set_wce(&v, 0), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 8, buf, 4096), 0);
	usleep(300000);
	ck_assert_uint_eq(syncs(), before + 2);
	ck_assert_int_eq(vu_get_config(&v, 0, 60, v.config), 0);
	ck_assert_uint_eq(v.config[32], 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 8, buf, 4096), 0);
	ck_assert_uint_eq(syncs(), before + 3);
	ck_assert_int_eq(vu_set_wce(&v, 1), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 8, buf, 4096), 0);
	ck_assert_uint_eq(syncs(), before + 3);
	end();
}
END_TEST

START_TEST(a_driver_that_cannot_flush_gets_durable_writes)
{
	unsigned before;

	begin_counting("raw:a.raw", VU_BIT(9) | VU_BIT(11));
	before = syncs();
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf, 4096), 0);
	ck_assert_uint_eq(syncs(), before + 1);
	end();
}
END_TEST

START_TEST(a_disk_opened_write_through_says_so)
{
	begin_counting("raw:a.raw,cache=writethrough", 0);
	ck_assert(v.offered & VU_BIT(9));
	ck_assert(!(v.offered & VU_BIT(11)));
	ck_assert_uint_eq(v.config[32], 0);
	end();
}
END_TEST

/* ------------------------------------------------------------------ front ends, their ways */

static void expect_service(void)
{
	fill(buf, 4096, 77);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 16, buf, 4096), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 16, buf + 4096, 4096), 0);
	ck_assert_mem_eq(v.mem + buf, v.mem + buf + 4096, 4096);
}

static void init_ring(void)
{
	struct vu_queue *q = &v.q[0];

	dring_init(&q->ring, v.features & VU_F_PACKED, v.features & VU_F_EVENT_IDX, q->num,
		   v.mem + q->ring_off, VU_GPA + q->ring_off);
	dring_want_call(&q->ring, true);
}

START_TEST(features_before_protocol_features_and_enable_before_addresses)
{
	uint8_t space[256];
	uint32_t pair[2] = { 0, 1 };
	uint64_t f;
	unsigned i;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, VU_F_PACKED);
	vu_tell(&v, VU_SET_OWNER, NULL, 0, -1);
	v.features = vu_ask64(&v, VU_GET_FEATURES) & v.want;
	vu_tell(&v, VU_SET_FEATURES, &v.features, 8, -1);
	f = vu_ask64(&v, VU_GET_PROTOCOL_FEATURES);
	ck_assert_uint_eq(f & 0x201, 0x201);
	v.protocol = 0x201;
	vu_tell(&v, VU_SET_PROTOCOL_FEATURES, &v.protocol, 8, -1);
	ck_assert_uint_eq(vu_ask64(&v, VU_GET_QUEUE_NUM), 128);
	memset(space, 0xee, sizeof(space));
	ck_assert_int_eq(vu_get_config(&v, 0, 256, space), 0);
	ck_assert_uint_eq(get_le64(space), 8 * MiB / 512);
	for (i = 60; i < 256; i++)
		ck_assert_uint_eq(space[i], 0);
	vu_tell(&v, VU_SET_VRING_ENABLE, pair, 8, -1);
	vu_share_memory(&v);
	vu_ask64(&v, VU_GET_FEATURES);
	init_ring();
	vu_start_queue(&v, 0, 0);
	expect_service();
	end();
}
END_TEST

START_TEST(everything_wants_an_answer_and_configuration_lies_at_0x100)
{
	uint8_t a[60], b[60];
	uint32_t pair[2] = { 0, 0 };
	uint64_t seven = 7, status;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, VU_F_PACKED);
	vu_start(&v);
	ck_assert_int_eq(vu_get_config(&v, 0, 60, a), 0);
	ck_assert_int_eq(vu_get_config(&v, 0x100, 60, b), 0);
	ck_assert_mem_eq(a, b, 60);
	ck_assert_int_eq(vu_get_config(&v, 0, 57, b), 0);
	ck_assert_mem_eq(a, b, 57);
	ck_assert_int_eq(vu_get_config(&v, 8, 4, b), 0);
	ck_assert_int_eq(vu_get_config(&v, 255, 2, b), -EINVAL);
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_OWNER, NULL, 0, -1), 0);
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_STATUS, &seven, 8, -1), 0);
	status = vu_ask64(&v, VU_GET_STATUS);
	ck_assert_uint_eq(status, 7);
	ck_assert_int_ne(vu_tell_ack(&v, 77, NULL, 0, -1), 0);	/* unknown: refused */
	vu_tell(&v, 77, &seven, 8, -1);				/* and ignored */
	expect_service();
	/* paused: taken up again when it is enabled, without a kick */
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_VRING_ENABLE, pair, 8, -1), 0);
	ck_assert_ptr_nonnull(vu_submit(&v, 0, VU_IN, 0, buf, 4096, NULL));
	vu_kick(&v, 0);
	ck_assert_ptr_null(vu_wait(&v, 0, 100));
	pair[1] = 1;
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_VRING_ENABLE, pair, 8, -1), 0);
	ck_assert_ptr_nonnull(vu_wait(&v, 0, 5000));
	end();
}
END_TEST

START_TEST(without_protocol_features_rings_are_enabled)
{
	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, VU_F_PROTOCOL | without[_i]);
	v.config[0] = 0;
	vu_start(&v);
	expect_service();
	end();
}
END_TEST

START_TEST(a_bios_first_then_the_system)
{
	uint64_t all;
	uint32_t base;
	unsigned round;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, ~0x140000046ull);
	vu_start(&v);
	for (round = 0; round < 3; round++) {
		expect_service();
		base = vu_stop_queue(&v, 0);
		ck_assert_uint_eq(base & 0x7fff, (round == 2 ? v.q[0].ring.avail : 2));
		/* the same ring goes on from there */
		vu_start_queue(&v, 0, base);
		expect_service();
		vu_stop_queue(&v, 0);
		dring_exit(&v.q[0].ring);
		/* a new driver, with other features and a fresh ring */
		v.features = all = vu_ask64(&v, VU_GET_FEATURES) & ~(without[round] | VU_F_LOG_ALL);
		vu_tell(&v, VU_SET_FEATURES, &all, 8, -1);
		init_ring();
		vu_start_queue(&v, 0, all & VU_F_PACKED ? 0x80008000 : 0);
	}
	end();
}
END_TEST

START_TEST(several_queues)
{
	struct vu_req *r;
	unsigned i, k;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", ",queues=4", 4, without[_i]);
	vu_start(&v);
	ck_assert(v.offered & VU_BIT(12));
	ck_assert_uint_eq(vu_ask64(&v, VU_GET_QUEUE_NUM), 4);
	for (i = 0; i < 4; i++)
		for (k = 0; k < 30; k++)
			ck_assert_ptr_nonnull(vu_submit(&v, i, VU_OUT, (i * 30 + k) * 8,
							buf + (i * 30 + k) * 4096, 4096, NULL));
	for (i = 0; i < 4; i++)
		vu_kick(&v, i);
	for (i = 0; i < 4; i++) {
		for (k = 0; k < 30; k++) {
			r = vu_wait(&v, i, 5000);
			ck_assert_ptr_nonnull(r);
			ck_assert_uint_eq(r->status, 0);
		}
	}
	end();
}
END_TEST

START_TEST(one_after_the_other)
{
	unsigned i;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", "", 1, without[_i]);
	vu_start(&v);
	for (i = 0; i < 20; i++) {
		expect_service();
		/* gone without a word, sometimes with requests running */
		if (i & 1) {
			vu_submit(&v, 0, VU_OUT, 0, buf, MiB / 2, NULL);
			vu_kick(&v, 0);
		}
		vu_exit(&v);
		vu_init(&v, s.socket, 16 * MiB, 1, 128);
		v.want &= ~without[_i];
		ck_assert_int_eq(vu_dial(&v, 10000), 0);
		buf = vu_alloc(&v, MiB);
		vu_start(&v);
	}
	end();
}
END_TEST

START_TEST(an_inherited_socket_is_served)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "inherited" };
	unsigned round;
	int pair[2];

	for (round = 0; round < 2; round++) {
		served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
		served_init(&s);
		vu_init(&v, s.socket, 16 * MiB, 1, 128);
		if (round) {
			ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
			fcntl(pair[0], F_SETFD, FD_CLOEXEC);
			s.fd = pair[1];
			v.fd = pair[0];
		} else {
			s.fd = socket(AF_UNIX, SOCK_STREAM, 0);
			ck_assert_int_eq(bind(s.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
			ck_assert_int_eq(listen(s.fd, 1), 0);
			v.path = "inherited";
			ck_assert_int_eq(vu_dial(&v, 10000), 0);
		}
		served_start(&s, "raw:a.raw", "");
		close(s.fd);
		buf = vu_alloc(&v, MiB);
		vu_start(&v);
		expect_service();
		vu_exit(&v);
		ck_assert_int_eq(served_stop(&s), 0);
	}
}
END_TEST

START_TEST(a_socket_in_use_is_left_alone_a_stale_one_is_replaced)
{
	struct served other;
	int fd;

	begin(0);
	other = s;
	snprintf(other.log, sizeof(other.log), "other.log");
	served_run("%s create -q -f raw b.raw 1M", served_tool("tapimg"));
	served_start(&other, "raw:b.raw", "");
	while (served_alive(&other))
		usleep(1000);
	ck_assert(served_log_has(&other, "another process listens there"));
	expect_service();
	vu_exit(&v);
	served_kill(&s);
	ck_assert_int_eq(access(s.socket, F_OK), 0);
	served_start(&s, "raw:a.raw", "");
	vu_init(&v, s.socket, 16 * MiB, 1, 128);
	ck_assert_int_eq(vu_dial(&v, 10000), 0);
	buf = vu_alloc(&v, MiB);
	vu_start(&v);
	expect_service();
	end();
	fd = open(s.socket, O_CREAT | O_WRONLY, 0600);	/* no socket: never removed */
	close(fd);
	served_start(&s, "raw:a.raw", "");
	while (served_alive(&s))
		usleep(1000);
	ck_assert(served_log_has(&s, "is not a socket"));
	ck_assert_int_eq(access(s.socket, F_OK), 0);
}
END_TEST

START_TEST(a_disk_that_grows_is_told_to_the_guest)
{
	uint32_t head[3];
	char cwd[1000];

	ck_assert_ptr_nonnull(getcwd(cwd, sizeof(cwd)));
	setenv("TAPDISK_RUN_DIR", cwd, 1);	/* sockets of tap-ctl */
	setenv("TAPDISK_SHM_DIR", cwd, 1);
	served_run("%s create -q -f qcow2 a.qcow2 8M", served_tool("tapimg"));
	served_init(&s);
	s.control = true;
	served_start(&s, "qcow2:a.qcow2", "");
	vu_init(&v, s.socket, 16 * MiB, 1, 128);
	ck_assert_int_eq(vu_dial(&v, 10000), 0);
	buf = vu_alloc(&v, MiB);
	vu_start(&v);
	fill(buf, 4096, 1);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf, 4096), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 12 * MiB / 512, buf, 4096), 1);
	served_run("%s pause -p %d -m 0", served_tool("tap-ctl"), s.pid);
	/* a request that comes meanwhile waits */
	ck_assert_ptr_nonnull(vu_submit(&v, 0, VU_IN, 0, buf + 4096, 4096, NULL));
	vu_kick(&v, 0);
	ck_assert_ptr_null(vu_wait(&v, 0, 100));
	served_run("%s resize -q -f qcow2 a.qcow2 16M", served_tool("tapimg"));
	served_run("%s unpause -p %d -m 0", served_tool("tap-ctl"), s.pid);
	ck_assert_ptr_nonnull(vu_wait(&v, 0, 10000));
	ck_assert_mem_eq(v.mem + buf, v.mem + buf + 4096, 4096);
	ck_assert_int_eq(recv(v.backend_fd, head, 12, MSG_WAITALL), 12);
	ck_assert_uint_eq(head[0], 2);		/* the configuration has changed */
	ck_assert_uint_eq(head[2], 0);
	ck_assert_int_eq(vu_get_config(&v, 0, 60, v.config), 0);
	ck_assert_uint_eq(get_le64(v.config), 16 * MiB / 512);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 12 * MiB / 512, buf, 4096), 0);
	end();
}
END_TEST

/* ------------------------------------------------------------------ memory, logs, broken things */

static void expect_closed(void)
{
	struct pollfd p = { .fd = v.fd, .events = POLLIN };
	char c;

	ck_assert_int_eq(poll(&p, 1, 10000), 1);
	ck_assert_int_le(recv(v.fd, &c, 1, MSG_DONTWAIT), 0);
}

START_TEST(memory_comes_and_goes_under_load)
{
	uint64_t table[5] = { 1, VU_GPA, 0, 0, 0 }, region[5] = { 0, VU_GPA, 0, 0, 0 };
	struct vu_req *r;
	unsigned i, k;

	begin(_i);
	table[2] = region[2] = v.size;
	table[3] = region[3] = (uintptr_t)v.mem;
	for (i = 0; i < 60; i++) {
		for (k = 0; k < 20; k++)
			ck_assert_ptr_nonnull(vu_submit(&v, 0, i & 1 ? VU_OUT : VU_IN, k * 80,
							buf + k * 40 * KiB, 40 * KiB, NULL));
		vu_kick(&v, 0);
		if (i % 3) {
			ck_assert_int_eq(vu_tell_ack(&v, VU_SET_MEM_TABLE, table, 40, v.memfd), 0);
		} else {
			/* for a moment there is none: the ring stops, and goes on */
			ck_assert_int_ne(vu_tell_ack(&v, VU_REM_MEM_REG, region, 40, -1), 0);
			ck_assert_int_ne(vu_tell_ack(&v, VU_REM_MEM_REG, region, 40, -1), 0);
			ck_assert_int_eq(vu_tell_ack(&v, VU_ADD_MEM_REG, region, 40, v.memfd), 0);
			ck_assert_int_ne(vu_tell_ack(&v, VU_ADD_MEM_REG, region, 40, v.memfd), 0);
		}
		for (k = 0; k < 20; k++) {
			r = vu_wait(&v, 0, 5000);
			ck_assert_ptr_nonnull(r);
			ck_assert_uint_eq(r->status, 0);
		}
	}
	ck_assert_uint_eq(vu_ask64(&v, VU_GET_MAX_MEM_SLOTS), 256);
	end();
}
END_TEST

START_TEST(a_broken_ring_stops_alone)
{
	uint64_t index = 0, n;
	int errfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd p = { .fd = errfd, .events = POLLIN };
	struct dseg wild = { 0x10, 16, false };
	static const uint64_t one = 1;

	served_run("%s create -q -f raw a.raw 8M", served_tool("tapimg"));
	begin_with("raw:a.raw", ",queues=2", 2, without[_i]);
	vu_start(&v);
	vu_tell(&v, VU_SET_VRING_ERR, &index, 8, errfd);
	dring_add(&v.q[0].ring, &wild, 1, false, &wild);
	dring_publish(&v.q[0].ring);
	ck_assert_int_eq(write(v.q[0].kick, &one, 8), 8);
	ck_assert_int_eq(poll(&p, 1, 5000), 1);
	ck_assert_int_eq(read(errfd, &n, 8), 8);
	ck_assert(served_log_has(&s, "queue 0 is stopped: a buffer is not in guest memory"));
	fill(buf, 4096, 1);
	ck_assert_int_eq(vu_do(&v, 1, VU_OUT, 0, buf, 4096), 0);
	/* the driver resets its device, and all is well */
	vu_stop_queue(&v, 0);
	dring_exit(&v.q[0].ring);
	init_ring();
	vu_start_queue(&v, 0, v.features & VU_F_PACKED ? 0x80008000 : 0);
	expect_service();
	close(errfd);
	end();
}
END_TEST

START_TEST(truncated_memory_ends_the_connection)
{
	begin(_i);
	expect_service();
	vu_submit(&v, 0, VU_IN, 0, buf, 4096, NULL);
	ck_assert_int_eq(ftruncate(v.memfd, 0), 0);
	v.q[0].ring.added = 0;
	ck_assert_int_eq(write(v.q[0].kick, &(uint64_t){ 1 }, 8), 8);
	expect_closed();
	ck_assert(served_alive(&s));
	close(v.fd);
	vu_init(&v, s.socket, 16 * MiB, 1, 128);	/* the next one is served */
	ck_assert_int_eq(vu_dial(&v, 10000), 0);
	buf = vu_alloc(&v, MiB);
	vu_start(&v);
	expect_service();
	end();
}
END_TEST

START_TEST(writes_to_memory_are_logged_on_demand)
{
	int logfd = memfd_create("log", MFD_CLOEXEC);
	uint64_t base[2] = { 1 * MiB, 0 }, f, addr[5] = { 0 }, page;
	struct vu_msg m;
	uint8_t *bits;

	ck_assert_int_eq(ftruncate(logfd, MiB), 0);
	bits = mmap(NULL, MiB, PROT_READ | PROT_WRITE, MAP_SHARED, logfd, 0);
	begin(_i);
	vu_tell(&v, VU_SET_LOG_BASE, base, 16, logfd);
	ck_assert_int_eq(vu_recv(&v, &m), 0);
	ck_assert_uint_eq(m.size, 0);
	f = v.features | VU_F_LOG_ALL;
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_FEATURES, &f, 8, -1), 0);
	addr[0] = 1ull << 32;		/* index 0, flags 1: the used ring as well */
	addr[1] = (uintptr_t)v.q[0].ring.desc;
	addr[2] = (uintptr_t)v.q[0].ring.device;
	addr[3] = (uintptr_t)v.q[0].ring.driver;
	addr[4] = VU_GPA + v.q[0].ring_off + (v.features & VU_F_PACKED ? 0 : v.q[0].ring.device_off);
	ck_assert_int_eq(vu_tell_ack(&v, VU_SET_VRING_ADDR, addr, 40, -1), 0);
	ck_assert_int_eq(vu_do(&v, 0, VU_OUT, 0, buf + 4096, 4096), 0);
	page = (VU_GPA + buf + 4096) / 4096;
	ck_assert(!(bits[page / 8] & 1 << page % 8));		/* only read by the device */
	ck_assert_int_eq(vu_do(&v, 0, VU_IN, 0, buf + 4096, 8192), 0);
	ck_assert(bits[page / 8] & 1 << page % 8);
	page++;
	ck_assert(bits[page / 8] & 1 << page % 8);
	page++;
	ck_assert(!(bits[page / 8] & 1 << page % 8));
	page = (VU_GPA + v.q[0].slots_off) / 4096;		/* the status */
	ck_assert(bits[page / 8] & 1 << page % 8);
	page = addr[4] / 4096;
	ck_assert(bits[page / 8] & 1 << page % 8);
	munmap(bits, MiB);
	close(logfd);
	end();
}
END_TEST

START_TEST(refusals)
{
	uint64_t bad = ~0ull, table[5] = { 1, VU_GPA, 0, 0, 0 };
	uint32_t pair[2] = { 200, 16 };

	begin(0);
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_FEATURES, &bad, 8, -1), 0);
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_PROTOCOL_FEATURES, &bad, 8, -1), 0);
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_NUM, pair, 8, -1), 0);
	pair[0] = 1;
	pair[1] = 0;
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_NUM, pair, 8, -1), 0);
	pair[1] = 32769;
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_NUM, pair, 8, -1), 0);
	pair[0] = 0;
	pair[1] = 64;
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_NUM, pair, 8, -1), 0);	/* it runs */
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_BASE, pair, 8, -1), 0);
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_VRING_KICK, table, 8, -1), 0);
	ck_assert_int_ne(vu_tell_ack(&v, VU_SET_MEM_TABLE, table, 40, -1), 0);
	expect_service();
	/* without acknowledgements the connection is all that can tell of it */
	v.protocol = 0x200;
	vu_tell(&v, VU_SET_PROTOCOL_FEATURES, &v.protocol, 8, -1);
	vu_tell(&v, VU_SET_FEATURES, &bad, 8, -1);
	expect_closed();
	end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vhost");
	TCase *tc = tcase_create("vhost");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, what_is_written_is_read_and_lies_in_the_file, 0, 6);
	tcase_add_loop_test(tc, many_requests_at_once, 0, 6);
	tcase_add_loop_test(tc, wrong_requests_are_answered_with_errors, 0, 3);
	tcase_add_loop_test(tc, framing_is_free, 0, 6);
	tcase_add_loop_test(tc, ranges_are_discarded_and_zeroed, 1, 3);
	tcase_add_loop_test(tc, the_serial_number_is_told, 0, 1);
	tcase_add_loop_test(tc, a_read_only_disk_stays_as_it_is, 2, 3);
	tcase_add_test(tc, flushed_means_flushed);
	tcase_add_test(tc, a_driver_that_cannot_flush_gets_durable_writes);
	tcase_add_test(tc, a_disk_opened_write_through_says_so);
	tcase_add_test(tc, features_before_protocol_features_and_enable_before_addresses);
	tcase_add_test(tc, everything_wants_an_answer_and_configuration_lies_at_0x100);
	tcase_add_loop_test(tc, without_protocol_features_rings_are_enabled, 0, 3);
	tcase_add_test(tc, a_bios_first_then_the_system);
	tcase_add_loop_test(tc, several_queues, 1, 3);
	tcase_add_loop_test(tc, one_after_the_other, 0, 3);
	tcase_add_test(tc, an_inherited_socket_is_served);
	tcase_add_test(tc, a_socket_in_use_is_left_alone_a_stale_one_is_replaced);
	tcase_add_test(tc, a_disk_that_grows_is_told_to_the_guest);
	tcase_add_loop_test(tc, memory_comes_and_goes_under_load, 0, 4);
	tcase_add_loop_test(tc, a_broken_ring_stops_alone, 0, 4);
	tcase_add_loop_test(tc, truncated_memory_ends_the_connection, 0, 3);
	tcase_add_loop_test(tc, writes_to_memory_are_logged_on_demand, 0, 4);
	tcase_add_test(tc, refusals);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
