/* SPDX-License-Identifier: BSD-2-Clause */
/* test-raw.c - the raw format through the public interface, requests in flight included */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "suite.h"
#include "tapimg.h"

static struct tapimg_loop *loop;
static struct tapimg_err err;
static char dir[32];

static void setup(void)
{
	strcpy(dir, "test-raw.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(tapimg_loop_new(1, &loop, NULL), 0);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	tapimg_loop_free(loop);
	unlink("f");
	ck_assert_int_eq(chdir(".."), 0);
	ck_assert_int_eq(rmdir(dir), 0);
}

static int create(uint64_t size, const char *prealloc)
{
	struct tapimg_opt opt = { "preallocation", prealloc };
	struct tapimg_create_opts o = {
		.format = "raw", .size = size, .opts = &opt, .nopts = prealloc ? 1 : 0,
	};

	return tapimg_create(loop, "f", &o, &err);
}

static struct tapimg *must_open(const struct tapimg_open_opts *o)
{
	struct tapimg *img;

	ck_assert_msg(!tapimg_open(loop, "f", o, &img, &err), "%s", err.text);
	return img;
}

static struct tapimg *open_raw(unsigned flags)
{
	struct tapimg_open_opts o = { .format = "raw", .flags = flags };

	return must_open(&o);
}

static void must_close(struct tapimg *img)
{
	ck_assert_msg(!tapimg_close(img, &err), "%s", err.text);
}

static struct stat file_stat(void)
{
	struct stat st;

	ck_assert_int_eq(stat("f", &st), 0);
	return st;
}

/* A file of that many bytes 1, 2, 3, ... 251, 1, 2, ... */
static void make_bytes(unsigned n)
{
	int fd = open("f", O_WRONLY | O_CREAT | O_TRUNC, 0666);
	unsigned i;

	for (i = 0; i < n; i++)
		ck_assert_int_eq(write(fd, &(char){ 1 + i % 251 }, 1), 1);
	close(fd);
}

/* ------------------------------------------------------------------ creating */

START_TEST(created_files_have_the_size_wanted)
{
	ck_assert_int_eq(create(1000, NULL), 0);
	ck_assert_int_eq(file_stat().st_size, 1024);
	ck_assert_int_eq(create(3 << 20, "off"), 0);
	ck_assert_int_eq(file_stat().st_size, 3 << 20);
	ck_assert_int_lt(file_stat().st_blocks, 64);
	ck_assert_int_eq(create(3 << 20, "falloc"), 0);
	ck_assert_int_eq(file_stat().st_size, 3 << 20);
	ck_assert_int_ge(file_stat().st_blocks, 6 << 10);
	ck_assert_int_eq(create(3 << 20, "full"), 0);
	ck_assert_int_eq(file_stat().st_size, 3 << 20);
	ck_assert_int_ge(file_stat().st_blocks, 6 << 10);
	ck_assert_int_eq(create(0, "full"), 0);
	ck_assert_int_eq(file_stat().st_size, 0);
}
END_TEST

START_TEST(bad_options_leave_the_file_alone)
{
	struct tapimg_create_opts o = { .format = "raw", .size = 4096, .backing = "g",
					.backing_format = "raw", .no_backing_check = true };

	make_bytes(77);
	ck_assert_int_eq(create(4096, "metadata"), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "metadata"));
	ck_assert_int_lt(create(INT64_MAX, NULL), 0);
	ck_assert_ptr_nonnull(strstr(err.text, "f:"));
	ck_assert_int_lt(tapimg_create(loop, "f", &o, &err), 0);
	ck_assert_int_eq(file_stat().st_size, 77);
}
END_TEST

START_TEST(measuring)
{
	struct tapimg_create_opts o = { .format = "raw", .size = 1001 };
	struct tapimg_measure m = { 0 };

	ck_assert_msg(!tapimg_measure(loop, NULL, &o, &m, &err), "%s", err.text);
	ck_assert_uint_eq(m.required, 1024);
	ck_assert_uint_eq(m.fully_allocated, 1024);
	ck_assert_uint_eq(m.bitmaps, UINT64_MAX);
}
END_TEST

/* ------------------------------------------------------------------ odd sizes, windows */

START_TEST(the_last_sector_is_filled_up_with_zeroes)
{
	static const unsigned flags[] = { 0, TAPIMG_DIRECT };
	struct tapimg *img;
	uint8_t buf[1024];
	unsigned i;

	make_bytes(1000);
	img = open_raw(TAPIMG_RDWR | flags[_i]);
	ck_assert_uint_eq(tapimg_size(img), 1024);
	ck_assert_int_eq(tapimg_pread(img, buf, 1024, 0), 0);
	for (i = 0; i < 1024; i++)
		ck_assert_int_eq(buf[i], i < 1000 ? 1 + i % 251 : 0);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 5), 0);
	ck_assert_int_eq(tapimg_pread(img, buf, 1, 1024), -EINVAL);
	must_close(img);
	ck_assert_int_eq(file_stat().st_size, 1000);	/* as long as it was */
	img = open_raw(TAPIMG_RDWR | flags[_i]);
	ck_assert_int_eq(tapimg_pwrite(img, "y", 1, 1010), 0);
	must_close(img);
	ck_assert_int_eq(file_stat().st_size, 1011);
	img = open_raw(flags[_i]);
	ck_assert_uint_eq(tapimg_size(img), 1024);
	ck_assert_int_eq(tapimg_pread(img, buf, 1024, 0), 0);
	ck_assert_int_eq(buf[5], 'x');
	ck_assert_int_eq(buf[6], 7);
	ck_assert_int_eq(buf[1009], 0);
	ck_assert_int_eq(buf[1010], 'y');
	ck_assert_int_eq(tapimg_pwrite(img, "y", 1, 0), -EROFS);
	must_close(img);
}
END_TEST

START_TEST(windows)
{
	struct tapimg_open_opts o = { .format = "raw", .flags = TAPIMG_RDWR, .offset = 700,
				      .size = 1024 };
	struct tapimg *img;
	uint8_t c;
	int fd;

	make_bytes(3000);
	img = must_open(&o);
	ck_assert_uint_eq(tapimg_size(img), 1024);
	ck_assert_int_eq(tapimg_pread(img, &c, 1, 0), 0);
	ck_assert_int_eq(c, 1 + 700 % 251);
	ck_assert_int_eq(tapimg_pwrite(img, "w", 1, 1023), 0);
	ck_assert_int_eq(tapimg_pwrite(img, "w", 1, 1024), -EINVAL);
	ck_assert_int_lt(tapimg_resize(img, 2048, TAPIMG_PREALLOC_OFF, false, &err), 0);
	must_close(img);
	fd = open("f", O_RDONLY);
	ck_assert_int_eq(pread(fd, &c, 1, 1723), 1);
	ck_assert_int_eq(c, 'w');
	close(fd);
	o.size = 0;
	img = must_open(&o);
	ck_assert_uint_eq(tapimg_size(img), 2560);	/* 2300 rounded up */
	must_close(img);
}
END_TEST

START_TEST(windows_that_do_not_fit)
{
	static const struct { uint64_t off, size; } bad[] = {
		{ 3001, 0 }, { 0, 3072 }, { 2500, 1024 }, { 0, 1000 }, { UINT64_MAX, 512 },
		{ 512, UINT64_MAX - 511 },
	};
	struct tapimg_open_opts o = { .format = "raw", .offset = bad[_i].off,
				      .size = bad[_i].size };
	struct tapimg *img;

	make_bytes(3000);
	ck_assert_int_eq(tapimg_open(loop, "f", &o, &img, &err), -EINVAL);
	ck_assert_int_eq(strncmp(err.text, "f: ", 3), 0);
}
END_TEST

/* ------------------------------------------------------------------ resizing */

START_TEST(resizing)
{
	struct tapimg *img;
	char c;

	ck_assert_int_eq(create(1 << 20, NULL), 0);
	img = open_raw(TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 5000), 0);
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, TAPIMG_PREALLOC_FALLOC, false, &err), 0);
	ck_assert_uint_eq(tapimg_size(img), 2 << 20);
	ck_assert_int_ge(file_stat().st_blocks, 2 << 10);
	ck_assert_int_eq(tapimg_resize(img, 3 << 20, TAPIMG_PREALLOC_FULL, false, &err), 0);
	ck_assert_int_ge(file_stat().st_blocks, 4 << 10);
	ck_assert_int_eq(tapimg_resize(img, 4 << 20, TAPIMG_PREALLOC_METADATA, false, &err), -ENOTSUP);
	ck_assert_int_lt(tapimg_resize(img, 4096, TAPIMG_PREALLOC_OFF, false, &err), 0);
	ck_assert_uint_eq(tapimg_size(img), 3 << 20);
	ck_assert_int_lt(tapimg_resize(img, 4096, TAPIMG_PREALLOC_FALLOC, true, &err), 0);
	ck_assert_int_eq(file_stat().st_size, 3 << 20);
	/* what is cut off does not come back */
	ck_assert_int_eq(tapimg_resize(img, 4096, TAPIMG_PREALLOC_OFF, true, &err), 0);
	ck_assert_int_eq(file_stat().st_size, 4096);
	ck_assert_int_eq(tapimg_resize(img, 8192, TAPIMG_PREALLOC_OFF, false, &err), 0);
	ck_assert_int_eq(tapimg_pread(img, &c, 1, 5000), 0);
	ck_assert_int_eq(c, 0);
	ck_assert_int_lt(tapimg_resize(img, INT64_MAX, TAPIMG_PREALLOC_OFF, false, &err), 0);
	ck_assert_uint_eq(tapimg_size(img), 8192);
	must_close(img);
	ck_assert_int_eq(file_stat().st_size, 8192);
}
END_TEST

/* ------------------------------------------------------------------ data */

START_TEST(holes_in_block_status)
{
	struct tapimg_status st;
	struct tapimg *img;
	uint64_t pos, data = 0;
	char *buf = calloc(1, 65536);

	ck_assert_int_eq(create(8 << 20, NULL), 0);
	img = open_raw(TAPIMG_RDWR | TAPIMG_UNMAP);
	ck_assert_int_eq(tapimg_pwrite(img, buf, 65536, 1 << 20), 0);
	ck_assert_int_eq(tapimg_pwrite(img, buf, 65536, 4 << 20), 0);
	ck_assert_int_eq(tapimg_discard(img, 1 << 20, 65536), 0);
	for (pos = 0; pos < 8 << 20; pos += st.len) {
		ck_assert_int_eq(tapimg_block_status(img, pos, UINT64_MAX, 0, &st), 0);
		ck_assert_uint_eq(st.off, pos);
		ck_assert_uint_eq(st.host, pos);
		ck_assert_uint_eq(st.depth, 0);
		ck_assert_uint_gt(st.len, 0);
		ck_assert(st.flags & TAPIMG_ST_OFFSET && st.flags & TAPIMG_ST_ALLOCATED);
		ck_assert(!(st.flags & TAPIMG_ST_DATA) != !(st.flags & TAPIMG_ST_ZERO));
		if (st.flags & TAPIMG_ST_DATA)
			data += st.len;
	}
	ck_assert_uint_eq(pos, 8 << 20);
	ck_assert_uint_eq(data, 65536);
	must_close(img);
	free(buf);
}
END_TEST

static bool zero_at(struct tapimg *img, uint64_t off)
{
	struct tapimg_status st;

	ck_assert_int_eq(tapimg_block_status(img, off, UINT64_MAX, 0, &st), 0);
	return st.flags & TAPIMG_ST_ZERO;
}

static void count_done(struct tapimg_req *req)
{
	ck_assert_int_eq(req->ret, 0);
	++*(unsigned *)req->opaque;
}

/* What is asked while a write or zeroing is on its way is not remembered beyond its end. */
START_TEST(block_status_beside_writes_in_flight)
{
	static const unsigned flags[] = { 0, TAPIMG_DIRECT };
	enum { N = 8 };
	struct tapimg_req req[N];
	struct iovec iov = { NULL, 1 << 20 };
	struct tapimg *img;
	unsigned i, finished = 0;

	ck_assert_int_eq(posix_memalign(&iov.iov_base, 4096, 1 << 20), 0);
	memset(iov.iov_base, 1, 1 << 20);
	ck_assert_int_eq(create(64 << 20, NULL), 0);
	img = open_raw(TAPIMG_RDWR | flags[_i]);
	for (i = 0; i < N; i++) {
		req[i] = (struct tapimg_req){
			.op = TAPIMG_WRITE, .off = (1 + 2 * i) << 20, .len = 1 << 20, .iov = &iov,
			.iovcnt = 1, .done = count_done, .opaque = &finished,
		};
		tapimg_submit(img, &req[i]);
	}
	do		/* asked at every stage */
		ck_assert(zero_at(img, 0) && zero_at(img, 40 << 20));
	while (finished < N && tapimg_loop_run(loop, true) >= 0);
	for (i = 0; i < N; i++) {
		ck_assert(zero_at(img, 2 * i << 20));
		ck_assert(!zero_at(img, (1 + 2 * i) << 20));
	}
	/* data that has just been seen becomes a hole */
	req[0].op = TAPIMG_ZERO;
	req[0].flags = TAPIMG_REQ_MAY_UNMAP;
	req[0].iovcnt = 0;
	tapimg_submit(img, &req[0]);
	do
		zero_at(img, 1 << 20);
	while (finished == N && tapimg_loop_run(loop, true) >= 0);
	ck_assert(zero_at(img, 1 << 20));
	must_close(img);
	free(iov.iov_base);
}
END_TEST

/* Nor is what was known before the kernel copied or cloned into the file. */
START_TEST(block_status_after_offloaded_copies)
{
	struct tapimg_copy_opts o = { .flags = TAPIMG_COPY_OFFLOAD | TAPIMG_COPY_TARGET_ZERO,
				      .sparse_size = _i ? 4096 : 0 };
	struct tapimg_create_opts to = { .format = "raw", .size = 8 << 20 };
	struct tapimg_open_opts oo = { .format = "raw", .flags = TAPIMG_RDWR };
	struct tapimg *src, *dst;
	char *buf = malloc(1 << 20);

	memset(buf, 1, 1 << 20);
	ck_assert_int_eq(create(8 << 20, NULL), 0);
	src = open_raw(TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(src, buf, 1 << 20, 2 << 20), 0);
	ck_assert_msg(!tapimg_create(loop, "g", &to, &err), "%s", err.text);
	ck_assert_msg(!tapimg_open(loop, "g", &oo, &dst, &err), "%s", err.text);
	ck_assert(zero_at(dst, 0) && zero_at(dst, 2 << 20));
	ck_assert_msg(!tapimg_copy(&src, 1, dst, &o, &err), "%s", err.text);
	ck_assert(!zero_at(dst, 2 << 20));
	must_close(src);
	must_close(dst);
	unlink("g");
	free(buf);
}
END_TEST

struct slot {
	struct tapimg_req req;
	struct iovec iov;
	uint8_t mem[6000], expect[6000];
	bool busy;
};

static void slot_done(struct tapimg_req *req)
{
	struct slot *s = req->opaque;

	ck_assert_int_eq(req->ret, 0);
	if (req->op == TAPIMG_READ)
		ck_assert(!memcmp(s->mem, s->expect, req->len));
	s->busy = false;
}

/* Random requests in flight against an oracle; overlapping ones are not made. */
START_TEST(random_requests)
{
	enum { N = 16, SIZE = 300 * 512 };
	static const unsigned flags[] = { 0, TAPIMG_DIRECT, TAPIMG_WRITETHROUGH,
					  TAPIMG_DIRECT | TAPIMG_UNMAP };
	static uint8_t oracle[SIZE], back[SIZE];
	struct slot *slots = calloc(N, sizeof(*slots));
	struct tapimg *img;
	int step, i;

	srand(_i + 1);
	memset(oracle, 0, SIZE);
	ck_assert_int_eq(create(SIZE, NULL), 0);
	img = open_raw(TAPIMG_RDWR | flags[_i]);
	for (step = 0; step < 4000; step++) {
		struct slot *s = &slots[rand() % N];
		uint64_t len = 1 + rand() % 6000, off = rand() % (SIZE - len);
		bool clash = s->busy;

		if (rand() % 2) {
			off &= ~511ULL;
			len = MAX(len & ~511ULL, 512);
		}
		for (i = 0; i < N; i++)
			if (slots[i].busy && slots[i].req.off < off + len &&
			    off < slots[i].req.off + slots[i].req.len)
				clash = true;
		if (!clash) {
			s->req.op = rand() % 3;		/* READ, WRITE, ZERO */
			s->req.flags = rand() % 2 ? TAPIMG_REQ_MAY_UNMAP : 0;
			s->req.off = off;
			s->req.len = len;
			s->iov = (struct iovec){ s->mem, len };
			s->req.iov = &s->iov;
			s->req.iovcnt = 1;
			s->req.done = slot_done;
			s->req.opaque = s;
			s->busy = true;
			if (s->req.op == TAPIMG_READ)
				memcpy(s->expect, oracle + off, len);
			else if (s->req.op == TAPIMG_WRITE)
				memcpy(oracle + off, memset(s->mem, rand(), len), len);
			else
				memset(oracle + off, 0, len);
			tapimg_submit(img, &s->req);
			ck_assert(s->busy);
		}
		if (!(rand() % 4))
			ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
	}
	while (tapimg_inflight(img))
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(tapimg_pread(img, back, SIZE, 0), 0);
	ck_assert(!memcmp(back, oracle, SIZE));
	must_close(img);
	ck_assert_int_eq(file_stat().st_size, SIZE);
	free(slots);
}
END_TEST

START_TEST(anything_else_is_raw_and_nothing_overrides_that)
{
	struct tapimg *img;
	struct tapimg_check c;

	make_bytes(2000);
	img = must_open(NULL);
	ck_assert_str_eq(tapimg_format(img), "raw");
	ck_assert_ptr_null(tapimg_backing(img));
	ck_assert_int_eq(tapimg_check(img, 0, &c, NULL, NULL, &err), -ENOTSUP);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), -ENOTSUP);
	must_close(img);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("raw");
	TCase *tc = tcase_create("raw");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, created_files_have_the_size_wanted);
	tcase_add_test(tc, bad_options_leave_the_file_alone);
	tcase_add_test(tc, measuring);
	tcase_add_loop_test(tc, the_last_sector_is_filled_up_with_zeroes, 0, 2);
	tcase_add_test(tc, windows);
	tcase_add_loop_test(tc, windows_that_do_not_fit, 0, 6);
	tcase_add_test(tc, resizing);
	tcase_add_test(tc, holes_in_block_status);
	tcase_add_loop_test(tc, block_status_beside_writes_in_flight, 0, 2);
	tcase_add_loop_test(tc, block_status_after_offloaded_copies, 0, 2);
	tcase_add_loop_test(tc, random_requests, 0, 4);
	tcase_add_test(tc, anything_else_is_raw_and_nothing_overrides_that);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
