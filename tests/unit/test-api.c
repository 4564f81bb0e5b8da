/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-api.c - the public interface as a caller sees it: requests in flight, the loop inside another
 * loop, blocking twins, block status
 *
 * Nothing but <tapimg.h> is used.  Every test runs on raw, on qcow2, and on a chain of both.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"
#include "suite.h"

#define SIZE (8u << 20)
#define NREQ 64

enum { RAW, QCOW2, CHAIN, KINDS };

static struct tapimg *kind_open(int kind, unsigned flags)
{
	switch (kind) {
	case RAW:
		make_image("a", "raw", SIZE, NULL, NULL);
		return open_image("a", "raw", flags | TAPIMG_RDWR);
	case QCOW2:
		make_image("a", "qcow2", SIZE, NULL, NULL);
		return open_image("a", "qcow2", flags | TAPIMG_RDWR);
	default:
		make_image("base", "raw", SIZE, NULL, NULL);
		make_image("mid", "qcow2", SIZE, "base", "raw");
		make_image("a", "qcow2", SIZE, "mid", "qcow2");
		return open_image("a", "qcow2", flags | TAPIMG_RDWR);
	}
}

static struct tapimg *again(struct tapimg *img, int kind, unsigned flags)
{
	close_image(img);
	return open_image("a", kind == RAW ? "raw" : "qcow2", flags);
}

/* ------------------------------------------------------------ requests in flight */

struct job {
	struct tapimg_req req;
	struct iovec iov[2];
	unsigned char *buf;
	unsigned calls;
};

static bool submitting;
static unsigned done;

static void job_done(struct tapimg_req *req)
{
	struct job *j = req->opaque;

	ck_assert_msg(!submitting, "a callback from inside tapimg_submit()");
	j->calls++;
	done++;
}

static void job_submit(struct tapimg *img, struct job *j)
{
	j->req.done = job_done;
	j->req.opaque = j;
	submitting = true;
	tapimg_submit(img, &j->req);
	submitting = false;
}

/* Piece i of the disk: odd lengths at odd places, so that pieces share sectors and clusters. */
static uint64_t piece_off(unsigned i)
{
	return (uint64_t)i * 40001;
}

static void job_rw(struct tapimg *img, struct job *j, enum tapimg_op op, unsigned i)
{
	size_t len = 40001, split = 1 + i * 577 % (len - 1);

	j->buf = malloc(len);
	ck_assert_ptr_nonnull(j->buf);
	memset(j->buf, op == TAPIMG_WRITE ? (int)i + 1 : 0xee, len);
	j->iov[0] = (struct iovec){ j->buf, split };
	j->iov[1] = (struct iovec){ j->buf + split, len - split };
	j->req = (struct tapimg_req){
		.op = op, .off = piece_off(i), .len = len, .iov = j->iov, .iovcnt = 2,
	};
	job_submit(img, j);
}

static void turn_until(unsigned n)
{
	while (done < n)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
}

static void jobs_end(struct job *jobs, bool check)
{
	for (unsigned i = 0; i < NREQ; i++) {
		ck_assert_uint_eq(jobs[i].calls, 1);
		ck_assert_int_eq(jobs[i].req.ret, 0);
		/* all bytes are the same, and the right one */
		ck_assert(!check || (jobs[i].buf[0] == i + 1 &&
				     !memcmp(jobs[i].buf, jobs[i].buf + 1, 40000)));
		free(jobs[i].buf);
	}
	memset(jobs, 0, NREQ * sizeof(*jobs));
	done = 0;
}

START_TEST(many_in_flight)
{
	static struct job jobs[NREQ], flush;
	struct tapimg *img = kind_open(_i, 0);

	for (unsigned i = 0; i < NREQ; i++)
		job_rw(img, &jobs[i], TAPIMG_WRITE, i);
	ck_assert_uint_eq(tapimg_inflight(img), NREQ);
	ck_assert_uint_eq(done, 0);
	turn_until(NREQ);
	ck_assert_uint_eq(tapimg_inflight(img), 0);
	jobs_end(jobs, false);
	flush.req.op = TAPIMG_FLUSH;
	job_submit(img, &flush);
	turn_until(1);
	ck_assert_int_eq(flush.req.ret, 0);
	done = 0;
	for (int round = 0; round < 2; round++) {
		for (unsigned i = NREQ; i-- > 0;)
			job_rw(img, &jobs[i], TAPIMG_READ, i);
		turn_until(NREQ);
		jobs_end(jobs, true);
		img = again(img, _i, 0);
	}
	close_image(img);
}
END_TEST

/* Closing waits for what is in flight, and calls back. */
START_TEST(close_waits)
{
	static struct job jobs[NREQ];
	struct tapimg *img = kind_open(_i, 0);

	for (unsigned i = 0; i < NREQ; i++)
		job_rw(img, &jobs[i], TAPIMG_WRITE, i);
	close_image(img);
	ck_assert_uint_eq(done, NREQ);
	jobs_end(jobs, false);
	img = open_image("a", _i == RAW ? "raw" : "qcow2", 0);
	for (unsigned i = 0; i < NREQ; i++)
		job_rw(img, &jobs[i], TAPIMG_READ, i);
	turn_until(NREQ);
	jobs_end(jobs, true);
	close_image(img);
}
END_TEST

/* Two images on one loop do not wait for each other. */
START_TEST(two_images)
{
	static struct job a[NREQ], b[NREQ];
	struct tapimg *x = kind_open(_i, 0), *y;

	make_image("second", "qcow2", SIZE, NULL, NULL);
	y = open_image("second", NULL, TAPIMG_RDWR);
	for (unsigned i = 0; i < NREQ; i++) {
		job_rw(x, &a[i], TAPIMG_WRITE, i);
		job_rw(y, &b[i], TAPIMG_WRITE, i);
	}
	turn_until(2 * NREQ);
	jobs_end(a, false);
	jobs_end(b, false);
	close_image(x);
	close_image(y);
}
END_TEST

/* A callback submits the next request, as front ends do. */
struct relay {
	struct tapimg_req req;
	struct iovec iov;
	struct tapimg *img;
	unsigned left;
	unsigned char buf[4096];
};

static void relay_next(struct tapimg_req *req)
{
	struct relay *r = req->opaque;

	ck_assert_int_eq(req->ret, 0);
	if (!--r->left)
		return;
	req->off += 4096;
	tapimg_submit(r->img, req);
}

START_TEST(submit_from_callback)
{
	static struct relay r;
	struct tapimg *img = kind_open(_i, 0);

	r.img = img;
	r.left = 500;
	memset(r.buf, 0x5a, sizeof(r.buf));
	r.iov = (struct iovec){ r.buf, sizeof(r.buf) };
	r.req = (struct tapimg_req){
		.op = TAPIMG_WRITE, .len = 4096, .iov = &r.iov, .iovcnt = 1,
		.done = relay_next, .opaque = &r,
	};
	tapimg_submit(img, &r.req);
	while (r.left)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(tapimg_pread(img, r.buf, 4096, 499 * 4096), 0);
	ck_assert_uint_eq(r.buf[4095], 0x5a);
	ck_assert_int_eq(tapimg_pread(img, r.buf, 4096, 500 * 4096), 0);
	ck_assert_uint_eq(r.buf[0], 0);
	close_image(img);
}
END_TEST

/* --------------------------------------------------------- inside another's loop */

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

START_TEST(embedded)
{
	static struct job jobs[NREQ];
	struct tapimg *img = kind_open(_i, _i == RAW ? TAPIMG_DIRECT : 0);
	int fd = tapimg_loop_fd(loop);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(tapimg_loop_fd(loop), fd);
	for (enum tapimg_op op = TAPIMG_READ; op <= TAPIMG_WRITE; op++) {
		for (unsigned i = 0; i < NREQ; i++)
			job_rw(img, &jobs[i], op, i);
		/* only poll() decides when the loop runs, and it never has to sleep */
		while (done < NREQ) {
			ck_assert_msg(readable(fd, 10000), "%u of %d done, and nothing to wake up for",
				      done, NREQ);
			ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
		}
		jobs_end(jobs, false);
	}
	/* blocking calls go on working */
	ck_assert_int_eq(tapimg_flush(img), 0);
	/* and nothing is left over that would keep the outer loop busy for ever */
	for (int i = 0; i < 1000 && readable(fd, 0); i++)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
	ck_assert(!readable(fd, 0));
	close_image(img);
}
END_TEST

/* With nothing to do the loop does not sleep unless told to, and says so. */
START_TEST(idle_turn)
{
	struct tapimg *img = kind_open(_i, 0);

	while (tapimg_loop_run(loop, false) > 0)
		;
	ck_assert_int_eq(tapimg_loop_run(loop, false), 0);
	close_image(img);
}
END_TEST

/* ------------------------------------------------------------------ blocking twins */

START_TEST(ranges)
{
	struct tapimg *img = kind_open(_i, 0);
	char buf[1024] = { 0 };
	struct iovec iov[2] = { { buf, SIZE_MAX }, { buf, 2 } };

	ck_assert_int_eq(tapimg_pread(img, buf, 512, SIZE - 512), 0);
	ck_assert_int_eq(tapimg_pread(img, buf, 513, SIZE - 512), -EINVAL);
	ck_assert_int_eq(tapimg_pwrite(img, buf, 513, SIZE - 512), -EINVAL);
	ck_assert_int_eq(tapimg_pread(img, buf, 1, SIZE), -EINVAL);
	ck_assert_int_eq(tapimg_pread(img, buf, 1, UINT64_MAX), -EINVAL);
	ck_assert_int_eq(tapimg_pread(img, buf, 1024, UINT64_MAX - 512), -EINVAL);
	ck_assert_int_eq(tapimg_zero(img, SIZE - 512, 513, 0), -EINVAL);
	ck_assert_int_eq(tapimg_discard(img, SIZE, 1), -EINVAL);
	ck_assert_int_eq(tapimg_pread(img, buf, 0, 0), 0);
	ck_assert_int_eq(tapimg_pread(img, buf, 0, SIZE), 0);
	ck_assert_int_eq(tapimg_preadv(img, iov, 2, 0), -EINVAL);
	ck_assert_int_eq(tapimg_preadv(img, iov, -1, 0), -EINVAL);
	img = again(img, _i, 0);
	ck_assert_int_eq(tapimg_pwrite(img, buf, 1, 0), -EROFS);
	ck_assert_int_eq(tapimg_zero(img, 0, 512, 0), -EROFS);
	ck_assert_int_eq(tapimg_discard(img, 0, 65536), -EROFS);
	ck_assert_int_eq(tapimg_flush(img), 0);
	close_image(img);
}
END_TEST

/* A random walk against an array. */
START_TEST(walk)
{
	static const unsigned flags[] = { 0, TAPIMG_DIRECT, TAPIMG_WRITETHROUGH, TAPIMG_UNMAP,
					  TAPIMG_UNSAFE };
	unsigned char *model = calloc(1, SIZE), *got = malloc(SIZE);
	struct tapimg *img = kind_open(_i % KINDS, flags[_i / KINDS]);
	unsigned seed = 7 + (unsigned)_i;
	unsigned steps = flags[_i / KINDS] & TAPIMG_WRITETHROUGH ? 100 : 400;

	ck_assert(model && got);
	for (unsigned step = 0; step < steps; step++) {
		uint64_t off = (uint64_t)rand_r(&seed) % SIZE;
		uint64_t len = (uint64_t)rand_r(&seed) % (step % 8 ? 9000 : 300000);
		unsigned what = (unsigned)rand_r(&seed) % 8;

		if (what & 1) {
			off &= ~511ULL;
			len &= ~511ULL;
		}
		if (len > SIZE - off)
			len = SIZE - off;
		if (what < 4) {
			memset(model + off, (int)step, len);
			ck_assert_int_eq(tapimg_pwrite(img, model + off, len, off), 0);
		} else if (what < 6) {
			memset(model + off, 0, len);
			ck_assert_int_eq(tapimg_zero(img, off, len,
						     what == 5 ? TAPIMG_REQ_MAY_UNMAP : 0), 0);
		} else if (what == 6) {
			ck_assert_int_eq(tapimg_pread(img, got, len, off), 0);
			ck_assert(!memcmp(got, model + off, len));
		} else if (step % 5 == 0) {
			ck_assert_int_eq(tapimg_flush(img), 0);
		}
	}
	for (int round = 0; round < 2; round++) {
		ck_assert_int_eq(tapimg_pread(img, got, SIZE, 0), 0);
		ck_assert(!memcmp(got, model, SIZE));
		img = again(img, _i % KINDS, 0);
	}
	close_image(img);
	free(model);
	free(got);
}
END_TEST

/* -------------------------------------------------------------------- block status */

/* What status says of every byte, checked for holes and overlaps, then asked for with @want. */
static uint64_t status_sum(struct tapimg *img, unsigned layers, unsigned mask, unsigned want)
{
	uint64_t off = 0, sum = 0;
	struct tapimg_status st;

	while (off < tapimg_size(img)) {
		ck_assert_int_eq(tapimg_block_status(img, off, UINT64_MAX, layers, &st), 0);
		ck_assert_uint_eq(st.off, off);
		ck_assert_uint_ge(st.len, 1);
		ck_assert_uint_le(st.len, tapimg_size(img) - off);
		ck_assert(!(st.flags & TAPIMG_ST_OFFSET) || st.filename);
		if ((st.flags & mask) == want)
			sum += st.len;
		off += st.len;
	}
	return sum;
}

START_TEST(status)
{
	static unsigned char data[1 << 20];
	struct tapimg *img = kind_open(_i, 0);
	struct tapimg_status st;

	memset(data, 1, sizeof(data));
	ck_assert_uint_eq(status_sum(img, 0, TAPIMG_ST_DATA, TAPIMG_ST_DATA), 0);
	ck_assert_int_eq(tapimg_pwrite(img, data, sizeof(data), 1 << 20), 0);
	ck_assert_int_eq(tapimg_flush(img), 0);
	ck_assert_uint_eq(status_sum(img, 0, TAPIMG_ST_DATA, TAPIMG_ST_DATA), sizeof(data));
	ck_assert_uint_eq(status_sum(img, 0, TAPIMG_ST_ZERO, TAPIMG_ST_ZERO), SIZE - sizeof(data));
	ck_assert_int_eq(tapimg_block_status(img, (1 << 20) + 100, 1000, 0, &st), 0);
	ck_assert_uint_eq(st.len, 1000);
	ck_assert_uint_eq(st.depth, 0);
	ck_assert_uint_eq(st.flags, TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED | TAPIMG_ST_OFFSET);
	ck_assert_str_eq(st.filename, "a");
	/* one answer for what lies together, in the guest and in the file */
	ck_assert_int_eq(tapimg_block_status(img, 1 << 20, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.len, 1 << 20);
	/* the end */
	ck_assert_int_eq(tapimg_block_status(img, SIZE, 1, 0, &st), 0);
	ck_assert_uint_eq(st.len, 0);
	ck_assert_int_eq(tapimg_block_status(img, SIZE + 1, 1, 0, &st), -EINVAL);
	close_image(img);
}
END_TEST

START_TEST(status_of_layers)
{
	static unsigned char data[3 << 20];
	struct tapimg *img;
	struct tapimg_status st;

	memset(data, 1, sizeof(data));
	put_file("base", data, sizeof(data));
	make_image("mid", "qcow2", 4 << 20, "base", "raw");
	make_image("top", "qcow2", 4 << 20, "mid", "qcow2");
	img = open_image("mid", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, data, 65536, 1 << 20), 0);
	ck_assert_int_eq(tapimg_zero(img, 2 << 20, 65536, 0), 0);
	close_image(img);
	img = open_image("top", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, data, 65536, 0), 0);
	ck_assert_int_eq(tapimg_block_status(img, 0, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.depth, 0);
	ck_assert_uint_eq(st.len, 65536);
	ck_assert_int_eq(tapimg_block_status(img, 65536, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.depth, 2);
	ck_assert_uint_eq(st.len, (1 << 20) - 65536);
	ck_assert_uint_eq(st.host, 65536);
	ck_assert_str_eq(st.filename, "base");
	ck_assert_int_eq(tapimg_block_status(img, 1 << 20, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.depth, 1);
	ck_assert_int_eq(tapimg_block_status(img, 2 << 20, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.depth, 1);
	ck_assert_uint_eq(st.flags & (TAPIMG_ST_ZERO | TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED),
			  TAPIMG_ST_ZERO | TAPIMG_ST_ALLOCATED);
	/* the base ends before here */
	ck_assert_int_eq(tapimg_block_status(img, 3 << 20, SIZE, 0, &st), 0);
	ck_assert_uint_eq(st.len, 1 << 20);
	ck_assert_uint_eq(st.flags, TAPIMG_ST_ZERO | TAPIMG_ST_EOF);
	/* only the top layer, or two of them */
	ck_assert_uint_eq(status_sum(img, 1, TAPIMG_ST_ALLOCATED, TAPIMG_ST_ALLOCATED), 65536);
	ck_assert_uint_eq(status_sum(img, 1, ~0U, 0), (4 << 20) - 65536);
	ck_assert_uint_eq(status_sum(img, 2, TAPIMG_ST_ALLOCATED, TAPIMG_ST_ALLOCATED), 3 * 65536);
	close_image(img);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("api");
	TCase *t = tcase_create("kinds");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, many_in_flight, 0, KINDS);
	tcase_add_loop_test(t, close_waits, 0, KINDS);
	tcase_add_loop_test(t, two_images, 0, KINDS);
	tcase_add_loop_test(t, submit_from_callback, 0, KINDS);
	tcase_add_loop_test(t, embedded, 0, KINDS);
	tcase_add_loop_test(t, idle_turn, 0, KINDS);
	tcase_add_loop_test(t, ranges, 0, KINDS);
	tcase_add_loop_test(t, walk, 0, 5 * KINDS);
	tcase_add_loop_test(t, status, 0, KINDS);
	tcase_add_test(t, status_of_layers);
	suite_add_tcase(s, t);
	return suite_run(s);
}
