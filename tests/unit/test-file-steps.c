/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-file-steps.c - the front of the storage seam step by step, on the model backend of filelib.h
 *
 * What is split, widened, kept waiting, elided or refused, each by itself.  Random load is in
 * test-file-io.c.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "filelib.h"
#include "suite.h"

#define SPAN (1u << 20)

static struct tapimg_loop *loop;

static void setup(void)
{
	rnd_start();
	ck_assert_int_eq(tapimg_loop_new(2, &loop, NULL), 0);
}

static void teardown(void)
{
	tapimg_loop_free(loop);
}

static void turns(int n)
{
	while (n--)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
}
START_TEST(many_iovecs_and_large_transfers_are_split)
{
	enum { N = 3000 };
	struct file *f = model_open(loop, 512, 512, 0);
	struct model *m = f->priv;
	struct iovec *iov = calloc(N, sizeof(*iov));
	uint8_t *mem = file_buf(N * 512), *back = file_buf(N * 512);
	struct one o = { 0 };
	int i;

	for (i = 0; i < N * 512; i++)
		mem[i] = rnd(256);
	for (i = 0; i < N; i++)
		iov[i] = (struct iovec){ mem + i * 512, 512 };
	o.io = (struct io){ .file = f, .op = IO_WRITE, .off = 512, .len = N * 512, .iov = iov,
			    .iovcnt = N, .done = one_done };
	file_submit(&o.io);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_uint_eq(m->biggest_iovcnt, 1024);
	f->max_io = 64 * 1024;
	m->biggest = 0;
	ck_assert_int_eq(file_pread(f, back, N * 512, 512), 0);
	ck_assert(!memcmp(mem, back, N * 512));
	ck_assert_uint_eq(m->biggest, 64 * 1024);
	free(iov);
	free(mem);
	free(back);
	file_close(f);
}
END_TEST

/* Point 1 of file.h: a widened write waits for what overlaps it, and is waited for. */
START_TEST(widened_writes_own_their_range)
{
	struct file *f = model_open(loop, 4096, 1, 1 << 20);
	struct model *m = f->priv;
	struct one a, b, c, d;
	char *buf = file_buf(8192);

	memset(buf, 5, 8192);
	m->hold = true;
	one_start(&a, f, IO_WRITE, 0, 4096, buf);
	one_start(&b, f, IO_WRITE, 4000, 200, buf);	/* widened to 0..8192 */
	one_start(&c, f, IO_WRITE, 4096, 4096, buf);	/* overlaps what b waits for */
	one_start(&d, f, IO_WRITE, 8192, 4096, buf);	/* nobody's business */
	turns(3);
	ck_assert_uint_eq(m->nheld, 2);
	ck_assert_ptr_eq(m->held[0], &a.io);
	ck_assert_ptr_eq(m->held[1], &d.io);
	m->held[0] = m->held[1];
	m->nheld = 1;
	model_do(f, &a.io);
	turns(3);
	ck_assert(a.done && !b.done && !c.done);
	ck_assert_uint_eq(m->nheld, 2);			/* d, and b reading its first block */
	ck_assert_int_eq(m->held[1]->op, IO_READ);
	model_release(f);
	ck_assert_int_eq(one_wait(&b), 0);
	ck_assert_int_eq(one_wait(&c), 0);
	ck_assert_int_eq(one_wait(&d), 0);
	free(buf);
	file_close(f);
}
END_TEST

/* A ZERO that makes the file longer keeps later writes from being cut off. */
START_TEST(growing_zero_owns_the_end)
{
	struct file *f = model_open(loop, 1, 1, 1000);
	struct model *m = f->priv;
	struct one z, w, r;
	char buf[100] = "x";

	m->hold = true;
	one_start(&z, f, IO_ZERO, 2000, 1000, NULL);
	one_start(&w, f, IO_WRITE, 5000, 100, buf);
	one_start(&r, f, IO_WRITE, 0, 100, buf);
	turns(2);
	ck_assert_uint_eq(m->nheld, 2);
	ck_assert_ptr_eq(m->held[0], &z.io);
	ck_assert_ptr_eq(m->held[1], &r.io);
	model_release(f);
	ck_assert_int_eq(one_wait(&w), 0);
	ck_assert(z.done && f->size == 5100);
	file_close(f);
}
END_TEST

/* Nor is the size set while a helper thread moves the end. */
START_TEST(growing_zero_and_growing_ahead_exclude_each_other)
{
	struct file *f = model_open(loop, 1, 1, 1000);
	struct model *m = f->priv;
	struct one z;

	m->hold = true;
	file_grow_hint(f, 2000);
	ck_assert(f->growing);
	one_start(&z, f, IO_ZERO, 5000, 1000, NULL);
	turns(2);
	ck_assert_uint_eq(m->nheld, 0);
	while (f->growing)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_uint_gt(f->size, 1 << 20);
	ck_assert_uint_eq(m->nheld, 1);
	m->size = f->size;
	model_release(f);
	ck_assert_int_eq(one_wait(&z), 0);
	ck_assert_uint_eq(m->size, f->size);
	/* the other way round */
	m->hold = true;
	one_start(&z, f, IO_ZERO, f->size + 100, 10, NULL);
	file_grow_hint(f, f->size + 100);
	ck_assert(!f->growing);
	model_release(f);
	ck_assert_int_eq(one_wait(&z), 0);
	file_close(f);
}
END_TEST

START_TEST(a_widened_write_at_the_end_does_not_lengthen_the_file)
{
	struct file *f = model_open(loop, 512, 1, 1000);
	struct model *m = f->priv;
	char buf[700];

	memset(buf, 9, sizeof(buf));
	ck_assert_int_eq(file_pwrite(f, buf, 100, 950), 0);
	ck_assert_uint_eq(f->size, 1050);
	ck_assert_uint_eq(m->size, 1050);
	ck_assert_int_eq(file_pwrite(f, buf, 100, 100), 0);
	ck_assert_uint_eq(m->size, 1050);
	ck_assert_int_eq(file_pread(f, buf, 700, 1000), 0);
	ck_assert_int_eq(buf[49], 9);
	ck_assert_int_eq(buf[50], 0);
	ck_assert_int_eq(buf[699], 0);
	file_close(f);
}
END_TEST

START_TEST(flushes_are_elided_and_failures_stick)
{
	struct file *f = model_open(loop, 1, 1, 1000);
	struct model *m = f->priv;
	struct one w, fl;
	char c = 1;

	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 0);
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_int_eq(file_pread(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 1);
	ck_assert_int_eq(file_zero(f, 0, 10, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 2);
	/* a write that finishes while a flush runs is not covered by it */
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	m->hold = true;
	one_start(&fl, f, IO_FLUSH, 0, 0, NULL);
	one_start(&w, f, IO_WRITE, 0, 1, &c);
	turns(1);
	ck_assert_uint_eq(m->nheld, 2);
	model_release(f);
	ck_assert_int_eq(one_wait(&fl), 0);
	ck_assert_int_eq(one_wait(&w), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 4);
	/* a failed write may have written something */
	m->fail_with = -EIO;
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), -EIO);
	m->fail_flush = -EIO;
	ck_assert_int_eq(file_flush(f), -EIO);
	m->fail_flush = 0;
	ck_assert_int_eq(file_flush(f), -EIO);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 5);
	file_close(f);
}
END_TEST

START_TEST(unsafe_files_do_not_flush)
{
	struct file *f = model_open(loop, 1, 1, 1000);
	struct model *m = f->priv;
	char c = 1;

	f->unsafe = true;
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 0);
	file_close(f);
}
END_TEST

START_TEST(zero_falls_back_only_if_it_may)
{
	struct file *f = model_open(loop, 512, 1, SPAN);
	struct model *m = f->priv;
	uint8_t *buf = file_buf(SPAN);
	uint64_t i;

	f->discard_align = 4096;
	memset(buf, 1, SPAN);
	ck_assert_int_eq(file_pwrite(f, buf, SPAN, 0), 0);
	ck_assert_int_eq(file_zero(f, 1000, 20000, 0), 0);
	ck_assert_uint_eq(m->ops[IO_ZERO], 1);
	m->no_zero = true;
	ck_assert_int_eq(file_zero(f, 0, 8192, IO_NO_FALLBACK), -ENOTSUP);
	ck_assert_int_eq(file_zero(f, 40960, 4096, 0), 0);
	ck_assert_int_eq(file_zero(f, 50001, 30000, 0), 0);
	ck_assert_int_eq(file_pread(f, buf, SPAN, 0), 0);
	for (i = 0; i < SPAN; i++)
		if (buf[i] != !((i >= 1000 && i < 21000) || (i >= 40960 && i < 45056) ||
				(i >= 50001 && i < 80001)))
			ck_abort_msg("byte %llu is %d", (unsigned long long)i, buf[i]);
	free(buf);
	file_close(f);
}
END_TEST

START_TEST(discards_are_narrowed_and_never_fail_for_lack_of_support)
{
	struct file *f = model_open(loop, 512, 1, 10000);
	struct model *m = f->priv;
	struct one o;

	f->discard_align = 4096;
	ck_assert_int_eq(file_discard(f, 100, 3000), 0);
	ck_assert_int_eq(file_discard(f, 20000, 30000), 0);
	ck_assert_uint_eq(m->ops[IO_DISCARD], 0);
	one_start(&o, f, IO_DISCARD, 1, 1 << 20, NULL);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_uint_eq(m->ops[IO_DISCARD], 1);
	ck_assert_uint_eq(o.io.off, 4096);
	ck_assert_uint_eq(o.io.len, 10000 - 4096);
	ck_assert_uint_eq(f->size, 10000);
	m->no_discard = true;
	ck_assert_int_eq(file_discard(f, 0, 8192), 0);
	m->no_discard = false;
	m->fail_with = -EIO;
	ck_assert_int_eq(file_discard(f, 0, 8192), -EIO);
	file_close(f);
}
END_TEST

START_TEST(failures_belong_to_one_transfer)
{
	struct file *f = model_open(loop, 512, 512, SPAN);
	struct model *m = f->priv;
	char *buf = file_buf(65536);

	memset(buf, 0, 65536);
	m->fail_with = -ENOSPC;
	ck_assert_int_eq(file_pwrite(f, buf, 4096, 0), -ENOSPC);
	ck_assert_int_eq(file_pwrite(f, buf, 4096, 0), 0);
	m->fail_with = -EIO;		/* meets the read of a read-modify-write */
	ck_assert_int_eq(file_pwrite(f, buf, 100, 10), -EIO);
	ck_assert_int_eq(file_pwrite(f, buf, 100, 10), 0);
	m->fail_with = -EIO;
	ck_assert_int_eq(file_pread(f, buf, 100, 10), -EIO);
	ck_assert_int_eq(file_pread(f, buf, 100, 10), 0);
	ck_assert_int_eq(file_pwrite(f, buf, 10, UINT64_MAX - 4), -EFBIG);
	ck_assert_int_eq(file_pwrite(f, buf, 10, INT64_MAX), -EFBIG);
	f->flags &= ~FILE_RDWR;
	ck_assert_int_eq(file_pwrite(f, buf, 10, 0), -EBADF);
	ck_assert_int_eq(file_zero(f, 0, 10, 0), -EBADF);
	f->flags |= FILE_RDWR;
	ck_assert_uint_eq(f->nserial, 0);
	free(buf);
	file_close(f);
}
END_TEST

START_TEST(closing_waits)
{
	struct file *f = model_open(loop, 512, 512, SPAN);
	struct one o[20];
	char *buf = file_buf(4096);
	int i;

	for (i = 0; i < 20; i++)
		one_start(&o[i], f, IO_READ, i * 4096, 4096, buf);
	file_close(f);
	for (i = 0; i < 20; i++)
		ck_assert(o[i].done);
	free(buf);
}
END_TEST

START_TEST(the_null_file_answers_without_storing)
{
	struct file *f;
	struct one o;
	char c = 7;

	ck_assert_int_eq(file_open_null(loop, 1ULL << 40, &f), 0);
	one_start(&o, f, IO_READ, 1ULL << 39, 1, &c);
	ck_assert(!o.done);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_int_eq(file_pwrite(f, &c, 1, 5), 0);
	ck_assert_int_eq(file_flush(f), 0);
	file_close(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file-steps");
	TCase *tc = tcase_create("file-steps");

	tcase_set_timeout(tc, 300);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, many_iovecs_and_large_transfers_are_split);
	tcase_add_test(tc, widened_writes_own_their_range);
	tcase_add_test(tc, growing_zero_owns_the_end);
	tcase_add_test(tc, growing_zero_and_growing_ahead_exclude_each_other);
	tcase_add_test(tc, a_widened_write_at_the_end_does_not_lengthen_the_file);
	tcase_add_test(tc, flushes_are_elided_and_failures_stick);
	tcase_add_test(tc, unsafe_files_do_not_flush);
	tcase_add_test(tc, zero_falls_back_only_if_it_may);
	tcase_add_test(tc, discards_are_narrowed_and_never_fail_for_lack_of_support);
	tcase_add_test(tc, failures_belong_to_one_transfer);
	tcase_add_test(tc, closing_waits);
	tcase_add_test(tc, the_null_file_answers_without_storing);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
