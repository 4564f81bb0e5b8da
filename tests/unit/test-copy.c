/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-copy.c - copying, comparing, committing and rebasing through the library: what the command
 * does not reach, or reaches only by chance
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pump.h"
#include "scratch.h"
#include "suite.h"

#define SIZE (4u << 20)

/* ------------------------------------------------------------ looking for zeroes */

/* One byte that is not zero is found wherever it lies, at any alignment of the buffer. */
START_TEST(zero_any_place)
{
	static unsigned char mem[1024 + 64];
	size_t off, len, pos;

	for (off = 0; off < 33; off++) {
		for (len = 0; len < 600; len += len < 300 ? 1 : 37) {
			ck_assert(pump_is_zero(mem + off, len));
			mem[off + len] = 1;	/* just behind */
			if (off)
				mem[off - 1] = 1;
			ck_assert(pump_is_zero(mem + off, len));
			mem[off + len] = 0;
			if (off)
				mem[off - 1] = 0;
		}
		for (pos = 0; pos < 600; pos++) {
			mem[off + pos] = 0x80;
			ck_assert(!pump_is_zero(mem + off, 600));
			mem[off + pos] = 0;
		}
	}
}
END_TEST

/* Blocks are aligned in the guest's address space, the last may be short. */
START_TEST(zero_runs)
{
	unsigned char *mem = calloc(1, 16384);

	mem[5000] = 1;
	ck_assert_uint_eq(pump_zero_len(mem, 16384, 0, 4096), 4096);
	ck_assert_uint_eq(pump_data_len(mem, 16384, 0, 4096), 0);
	ck_assert_uint_eq(pump_data_len(mem + 4096, 12288, 4096, 4096), 4096);
	ck_assert_uint_eq(pump_zero_len(mem + 8192, 8000, 8192, 4096), 8000);
	/* the same bytes at guest offset 512: the byte is in the block that ends at 8192 */
	ck_assert_uint_eq(pump_zero_len(mem, 16384, 512, 4096), 3584);
	ck_assert_uint_eq(pump_data_len(mem + 3584, 12800, 4096, 4096), 4096);
	ck_assert_uint_eq(pump_zero_len(mem, 0, 0, 4096), 0);
	free(mem);
}
END_TEST

/* --------------------------------------------------------------------- copying */

static void fill(struct tapimg *img, unsigned char byte, uint64_t off, uint64_t len)
{
	void *buf = malloc(len);

	memset(buf, byte, len);
	ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
	free(buf);
}

static unsigned char byte_at(struct tapimg *img, uint64_t off)
{
	unsigned char b = 0xee;

	ck_assert_int_eq(tapimg_pread(img, &b, 1, off), 0);
	return b;
}

struct seen {
	uint64_t last, total;
	unsigned calls, stop_at;
};

static int watch(void *arg, uint64_t at, uint64_t total)
{
	struct seen *s = arg;

	ck_assert_uint_ge(at, s->last);		/* never backwards */
	ck_assert_uint_le(at, total);
	s->last = at;
	s->total = total;
	return ++s->calls == s->stop_at;
}

static struct tapimg *two(struct tapimg **dst, const char *format)
{
	make_image("src", "qcow2", SIZE, NULL, NULL);
	make_image("dst", format, SIZE, NULL, NULL);
	*dst = open_image("dst", format, TAPIMG_RDWR);
	return open_image("src", "qcow2", TAPIMG_RDWR);
}

START_TEST(copy_progress)
{
	struct seen seen = { 0 };
	struct tapimg_copy_opts o = { .sparse_size = 4096, .progress = watch, .arg = &seen };
	struct tapimg *dst, *src = two(&dst, "qcow2");
	struct tapimg_compare cmp;
	struct tapimg_err err = { 0 };

	fill(src, 1, 0, SIZE / 2);
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), 0);
	ck_assert_uint_eq(seen.total, SIZE);
	ck_assert_uint_eq(seen.last, SIZE);
	ck_assert_int_eq(tapimg_compare(src, dst, false, &cmp, NULL, NULL, &err), 0);
	ck_assert(cmp.equal);
	/* stopped from outside */
	seen = (struct seen){ .stop_at = 1 };
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -ECANCELED);
	ck_assert_uint_eq(tapimg_inflight(src), 0);
	ck_assert_uint_eq(tapimg_inflight(dst), 0);
	close_image(src);
	close_image(dst);
}
END_TEST

/* A part of the source, its ends anywhere. */
START_TEST(copy_window)
{
	struct tapimg_copy_opts o = { .sparse_size = 4096, .src_off = 70001, .src_len = 300003 };
	struct tapimg *dst, *src = two(&dst, "raw");
	struct tapimg_err err = { 0 };

	fill(src, 1, 70000, 2);
	fill(src, 2, 370002, 3);
	fill(src, 3, 200000, 5000);
	fill(dst, 9, 0, SIZE);
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), 0);
	ck_assert_uint_eq(byte_at(dst, 0), 1);
	ck_assert_uint_eq(byte_at(dst, 1), 0);
	ck_assert_uint_eq(byte_at(dst, 200000 - 70001), 3);
	ck_assert_uint_eq(byte_at(dst, 300001), 2);
	ck_assert_uint_eq(byte_at(dst, 300002), 2);
	ck_assert_uint_eq(byte_at(dst, 301000), 9);
	o.src_len = SIZE;
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -EINVAL);
	close_image(src);
	close_image(dst);
}
END_TEST

/* Only what differs is written: what the target holds elsewhere stays as it is stored. */
START_TEST(copy_changed)
{
	struct tapimg_copy_opts o = { .sparse_size = 4096, .flags = TAPIMG_COPY_CHANGED };
	struct tapimg *dst, *src = two(&dst, "qcow2");
	struct tapimg_status st;
	struct tapimg_err err = { 0 };

	fill(src, 1, 0, 65536);
	fill(src, 0, 1 << 20, 65536);	/* stored zeroes: the target reads as zeroes anyway */
	fill(dst, 7, 2 << 20, 65536);
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), 0);
	ck_assert_uint_eq(byte_at(dst, 65535), 1);
	ck_assert_uint_eq(byte_at(dst, 2 << 20), 0);
	ck_assert_int_eq(tapimg_block_status(dst, 1 << 20, 65536, 0, &st), 0);
	ck_assert(!(st.flags & TAPIMG_ST_DATA));
	close_image(src);
	close_image(dst);
}
END_TEST

START_TEST(copy_refused)
{
	struct tapimg_copy_opts o = { .sparse_size = 4096 };
	struct tapimg_err err = { 0 };
	struct tapimg *src, *dst;

	make_image("src", "raw", SIZE, NULL, NULL);
	make_image("dst", "raw", SIZE / 2, NULL, NULL);
	src = open_image("src", "raw", 0);
	dst = open_image("dst", "raw", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -ENOSPC);
	ck_assert(strstr(err.text, "dst"));
	ck_assert_int_eq(tapimg_copy(&dst, 1, src, &o, &err), -EROFS);
	o.flags = TAPIMG_COPY_COMPRESS;
	o.src_len = 512;
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -ENOTSUP);
	close_image(src);
	close_image(dst);
}
END_TEST

/* ------------------------------------------------------------------- comparing */

START_TEST(compare_first)
{
	struct tapimg *dst, *src = two(&dst, "raw");
	struct tapimg_compare cmp;
	struct tapimg_err err = { 0 };

	fill(src, 1, 0, SIZE);
	fill(dst, 1, 0, SIZE);
	ck_assert_int_eq(tapimg_compare(src, dst, false, &cmp, NULL, NULL, &err), 0);
	ck_assert(cmp.equal);
	fill(dst, 2, SIZE - 1, 1);
	fill(dst, 2, 3000001, 1);
	fill(dst, 2, 1500000, 1);
	ck_assert_int_eq(tapimg_compare(src, dst, true, &cmp, NULL, NULL, &err), 0);
	ck_assert(!cmp.equal && !cmp.status_differs);
	ck_assert_uint_eq(cmp.off, 1500000);
	ck_assert_int_eq(tapimg_compare(dst, src, false, &cmp, NULL, NULL, &err), 0);
	ck_assert_uint_eq(cmp.off, 1500000);
	close_image(src);
	close_image(dst);
}
END_TEST

/* ------------------------------------------------------------- commit and rebase */

START_TEST(commit_refused)
{
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	make_image("base", "raw", SIZE, NULL, NULL);
	make_image("mid", "qcow2", SIZE, "base", "raw");
	make_image("top", "qcow2", SIZE, "mid", "qcow2");
	img = open_image("top", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_commit(img, 0, false, 0, NULL, NULL, &err), -EINVAL);
	ck_assert_int_eq(tapimg_commit(img, 3, false, 0, NULL, NULL, &err), -EINVAL);
	ck_assert_int_eq(tapimg_commit(img, 1, false, 0, NULL, NULL, &err), -EROFS);
	ck_assert(strstr(err.text, "mid"));
	ck_assert_int_eq(tapimg_commit(img, 2, true, 0, NULL, NULL, &err), -EROFS);
	close_image(img);
}
END_TEST

/* A stop in the middle leaves an image that reads the same and still names its old backing file. */
START_TEST(rebase_cancelled)
{
	struct seen seen = { .stop_at = 1 };
	struct tapimg_err err = { 0 };
	struct tapimg *img, *other;

	make_image("old", "raw", SIZE, NULL, NULL);
	make_image("new", "raw", SIZE, NULL, NULL);
	other = open_image("new", "raw", TAPIMG_RDWR);
	fill(other, 5, 0, SIZE);
	close_image(other);
	other = open_image("new", "raw", 0);
	make_image("top", "qcow2", SIZE, "old", "raw");
	img = open_image("top", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_rebase(img, other, "new", "raw", false, watch, &seen, &err), -ECANCELED);
	close_image(img);
	img = open_image("top", "qcow2", TAPIMG_RDWR);
	ck_assert_ptr_nonnull(strstr(tapimg_filename(tapimg_backing(img)), "old"));
	ck_assert_uint_eq(byte_at(img, 100), 0);
	ck_assert_int_eq(tapimg_rebase(img, other, "new", "raw", false, NULL, NULL, &err), 0);
	close_image(img);
	img = open_image("top", "qcow2", 0);
	ck_assert_ptr_nonnull(strstr(tapimg_filename(tapimg_backing(img)), "new"));
	ck_assert_uint_eq(byte_at(img, 100), 0);
	ck_assert_uint_eq(byte_at(img, SIZE - 1), 0);
	close_image(img);
	close_image(other);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("copy");
	TCase *tc = tcase_create("copy");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, scratch_enter, scratch_leave);
	tcase_add_test(tc, zero_any_place);
	tcase_add_test(tc, zero_runs);
	tcase_add_test(tc, copy_progress);
	tcase_add_test(tc, copy_window);
	tcase_add_test(tc, copy_changed);
	tcase_add_test(tc, copy_refused);
	tcase_add_test(tc, compare_first);
	tcase_add_test(tc, commit_refused);
	tcase_add_test(tc, rebase_cancelled);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
