/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-admin.c - size, backing file, emptying, amended options, and the header rewritten for it
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "q2lib.h"
#include "suite.h"

static struct tapimg_err err;

static int resize(uint64_t size, enum tapimg_prealloc how)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	int ret;

	memset(&err, 0, sizeof(err));
	ret = tapimg_resize(img, size, how, true, &err);
	close_image(img);
	return ret;
}

static void must_resize(uint64_t size, enum tapimg_prealloc how)
{
	int ret = resize(size, how);

	ck_assert_msg(!ret, "%d %s", ret, err.text);
	q2_clean(IMG);
}

static int amend(const char *name, const char *value)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	struct tapimg_opt o = {name, value};
	int ret;

	memset(&err, 0, sizeof(err));
	ret = tapimg_amend(img, &o, 1, &err);
	close_image(img);
	return ret;
}

static void must_amend(const char *name, const char *value)
{
	int ret = amend(name, value);

	ck_assert_msg(!ret, "%s=%s: %d %s", name, value, ret, err.text);
	q2_clean(IMG);
}

static int set_backing(const char *name, const char *format)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	int ret;

	memset(&err, 0, sizeof(err));
	ret = tapimg_set_backing(img, name, format, &err);
	close_image(img);
	return ret;
}

static void expect_backing(const char *name, const char *format)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_NO_BACKING);
	const struct tapimg_info *info;

	ck_assert_int_eq(tapimg_info(img, &info, &err), 0);
	ck_assert_str_eq(info->backing ? info->backing : "", name);
	ck_assert_str_eq(info->backing_format ? info->backing_format : "", format);
	close_image(img);
}

static void expect_zero(uint64_t off, uint64_t len)
{
	struct tapimg *img = open_image(IMG, "qcow2", 0);
	uint8_t *buf = malloc(len);

	ck_assert_int_eq(tapimg_pread(img, buf, len, off), 0);
	for (uint64_t i = 0; i < len; i++)
		if (buf[i])
			ck_abort_msg("byte at 0x%llx is %u", (unsigned long long)(off + i), buf[i]);
	free(buf);
	close_image(img);
}

/* ---------------------------------------------------------------------- size */

static const char *const kinds[] = {
	NULL, "compat=0.10", "cluster_size=512", "cluster_size=4096,refcount_bits=1",
	"cluster_size=2M", "extended_l2=on", "refcount_bits=64",
};

/*
 * The file was grown ahead of writes, and is cut at close to what was used: what is only mapped counts.
 */
START_TEST(mapped_where_grown_ahead)
{
	struct tapimg *img;

	q2_make(IMG, DISK, NULL);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	q2_fill(img, 0, 8, 1);
	img->file->no_grow = false;	/* as with O_DIRECT */
	file_grow_hint(img->file, img->file->size);
	while (img->file->growing)
		ck_assert_int_ge(tapimg_loop_run(img->loop, true), 0);
	ck_assert_uint_gt(img->file->size, img->file->logical_end + DISK);
	ck_assert_int_eq(qcow2_preallocate(img, DISK / 2, DISK / 2, TAPIMG_PREALLOC_METADATA,
					   &err), 0);
	close_image(img);
	q2_clean(IMG);
	expect_zero(DISK / 2, DISK / 2);
}
END_TEST

START_TEST(there_and_back)
{
	q2_make(IMG, DISK, kinds[_i]);
	q2_fill_file(IMG, 0, 64, 1);
	must_resize(40 * MiB, TAPIMG_PREALLOC_OFF);
	expect_zero(DISK, 36 * MiB);
	must_resize(41 * MiB, TAPIMG_PREALLOC_METADATA);
	expect_zero(DISK, 37 * MiB);
	must_resize(42 * MiB, TAPIMG_PREALLOC_FALLOC);
	must_resize(43 * MiB, TAPIMG_PREALLOC_FULL);
	expect_zero(DISK, 39 * MiB);
	for (unsigned i = 0; i < 64; i++)
		q2_expect(IMG, i, i + 1);
	must_resize(MiB + 512, TAPIMG_PREALLOC_OFF);
	ck_assert_uint_lt(q2_file_size(IMG), 13 * MiB);
	must_resize(DISK, TAPIMG_PREALLOC_OFF);
	for (unsigned i = 0; i < 16; i++)
		q2_expect(IMG, i, i + 1);
	expect_zero(MiB + 512, DISK - MiB - 512);
	must_resize(0, TAPIMG_PREALLOC_OFF);
	must_resize(DISK, TAPIMG_PREALLOC_OFF);
	expect_zero(0, DISK);
}
END_TEST

/* What the tables hold behind the end of a disk never shows when it grows. */
START_TEST(stale)
{
	uint64_t far = 600 * MiB;
	struct tapimg *img;
	uint8_t b[512] = {7};

	q2_make(IMG, GiB, NULL);	/* an L1 of two entries */
	q2_fill_file(IMG, 0, 6, 1);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, b, 512, far), 0);
	close_image(img);
	q2_poke(QH_SIZE, 3 * CL, 8);
	q2_clean(IMG);
	must_resize(GiB, TAPIMG_PREALLOC_OFF);
	q2_expect(IMG, 2, 3);
	expect_zero(3 * CL, 3 * CL);
	expect_zero(far, 512);
}
END_TEST

START_TEST(shared_with_snapshot)
{
	struct tapimg *img;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 64, 1);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), 0);
	close_image(img);
	must_resize(MiB, TAPIMG_PREALLOC_OFF);
	must_resize(DISK, TAPIMG_PREALLOC_OFF);
	expect_zero(MiB, 3 * MiB);
	q2_clean(IMG);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_snapshot_apply(img, "s", &err), 0);
	close_image(img);
	q2_clean(IMG);
	for (unsigned i = 0; i < 64; i++)
		q2_expect(IMG, i, i + 1);
}
END_TEST

START_TEST(size_refused)
{
	struct tapimg *img;

	q2_make(IMG, DISK, "compat=0.10");
	ck_assert_int_eq(resize(DISK + 100, TAPIMG_PREALLOC_OFF), -EINVAL);
	ck_assert_int_eq(resize(1ULL << 60, TAPIMG_PREALLOC_OFF), -EFBIG);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), 0);
	close_image(img);
	ck_assert_int_eq(resize(2 * DISK, TAPIMG_PREALLOC_OFF), -ENOTSUP);
	q2_clean(IMG);
}
END_TEST

START_TEST(data_file)
{
	q2_make(IMG, DISK, "data_file=d.raw");
	q2_fill_file(IMG, 0, 4, 1);
	must_resize(2 * DISK, TAPIMG_PREALLOC_OFF);
	ck_assert_uint_eq(q2_file_size("d.raw"), 2 * DISK);
	must_resize(MiB, TAPIMG_PREALLOC_OFF);
	ck_assert_uint_eq(q2_file_size("d.raw"), MiB);
	q2_expect(IMG, 3, 4);
	must_amend("lazy_refcounts", "on");
	ck_assert_int_eq(rename("d.raw", "e.raw"), 0);
	ck_assert_int_eq(q2_peek(QH_VERSION, 4), 3);
	{
		struct tapimg_open_opts o = {.flags = TAPIMG_RDWR | TAPIMG_NO_IO};
		struct tapimg_opt a = {"data_file", "e.raw"};
		struct tapimg *img;

		ck_assert_int_eq(tapimg_open(loop, IMG, &o, &img, &err), 0);
		ck_assert_int_eq(tapimg_amend(img, &a, 1, &err), 0);
		close_image(img);
	}
	q2_expect(IMG, 3, 4);
	q2_clean(IMG);
	ck_assert_int_eq(amend("compat", "0.10"), -ENOTSUP);
}
END_TEST

/* A longer file below does not show through where the disk has grown. */
START_TEST(longer_below)
{
	struct tapimg_create_opts o = {.format = "qcow2", .size = MiB, .backing = "below",
				       .backing_format = "raw"};
	static char text[2 * MiB];

	memset(text, 'x', sizeof(text));
	put_file("below", text, sizeof(text));
	ck_assert_int_eq(tapimg_create(loop, IMG, &o, &err), 0);
	must_resize(3 * MiB, TAPIMG_PREALLOC_OFF);
	q2_expect(IMG, 15, 'x');
	expect_zero(MiB, 2 * MiB);
}
END_TEST

/* ------------------------------------------------------------------- backing */

/* Offset of the extension of that type, or 0. */
static uint64_t ext_at(uint32_t type)
{
	uint64_t at = q2_peek(QH_HEADER_LEN, 4), end = q2_peek(QH_BACKING_OFF, 8);

	while (at + 8 <= (end ? end : CL)) {
		if (q2_peek(at, 4) == type)
			return at;
		if (!q2_peek(at, 4))
			return 0;
		at += 8 + round_up(q2_peek(at + 4, 4), 8);
	}
	return 0;
}

/* XCP-ng's storage manager keeps 8 bytes of its own; others may keep what they like. */
START_TEST(unknown_extension)
{
	uint64_t at, next;

	q2_make(IMG, DISK, NULL);
	at = ext_at(QCOW2_EXT_FEATURES);
	next = at + 8 + q2_peek(at + 4, 4);
	q2_poke(next, 0x76617465, 4);
	q2_poke(next + 4, 8, 4);
	q2_poke(next + 8, 0x0102030405060708, 8);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(set_backing(i & 1 ? "a" : "a-longer-name/than/before.raw", "raw"), 0);
		at = ext_at(0x76617465);
		ck_assert_uint_ne(at, 0);
		ck_assert_uint_eq(q2_peek(at + 4, 4), 8);
		ck_assert_uint_eq(q2_peek(at + 8, 8), 0x0102030405060708);
		ck_assert_uint_eq(ext_at(0x746a6d70), 0);	/* no filler is left */
		expect_backing(i & 1 ? "a" : "a-longer-name/than/before.raw", "raw");
	}
	ck_assert_int_eq(set_backing(NULL, NULL), 0);
	expect_backing("", "");
	ck_assert_uint_ne(ext_at(0x76617465), 0);
	q2_clean(IMG);
}
END_TEST

START_TEST(backing_refused)
{
	char name[1100];

	memset(name, 'n', sizeof(name));
	name[1024] = 0;
	put_text("short", "");
	q2_make(IMG, DISK, "cluster_size=512");
	ck_assert_int_eq(set_backing("short", "raw"), 0);
	ck_assert_int_eq(set_backing(name, "raw"), -EINVAL);
	name[500] = 0;
	ck_assert_int_eq(set_backing(name, "raw"), -ENOSPC);
	expect_backing("short", "raw");
	q2_clean(IMG);
	unlink(IMG);
	q2_make(IMG, DISK, NULL);
	name[500] = 'n';
	name[1023] = 0;
	ck_assert_int_eq(set_backing(name, "qcow2"), 0);
	expect_backing(name, "qcow2");
	unlink(IMG);
	q2_make(IMG, DISK, "data_file=d.raw,data_file_raw=on");
	ck_assert_int_eq(set_backing("x", "raw"), -EINVAL);
}
END_TEST

/* Committing empties the upper image: nothing mapped, and little left of the file. */
START_TEST(emptied)
{
	struct tapimg_create_opts o = {.format = "qcow2", .size = DISK, .backing = "below",
				       .backing_format = "qcow2"};
	struct tapimg *img;

	q2_make("below", DISK, NULL);
	ck_assert_int_eq(tapimg_create(loop, IMG, &o, &err), 0);
	q2_fill_file(IMG, 0, 32, 1);
	{
		struct tapimg_open_opts rw = {.flags = TAPIMG_RDWR, .format = "qcow2"};

		ck_assert_int_eq(tapimg_open(loop, IMG, &rw, &img, &err), 0);
	}
	if (qcow2_make_empty(img, &err))
		ck_abort_msg("%s", err.text);
	close_image(img);
	ck_assert_uint_lt(q2_file_size(IMG), 8 * CL);
	q2_clean(IMG);
	expect_zero(0, DISK);
}
END_TEST

/* --------------------------------------------------------------------- amend */

static void filled(void)
{
	for (unsigned i = 0; i < 64; i++)
		q2_expect(IMG, i, i < 16 || i >= 32 ? i + 1 : 0);
}

static void build(const char *opts, bool snap)
{
	struct tapimg *img;

	q2_make(IMG, DISK, opts);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	q2_fill(img, 0, 64, 1);
	if (snap)
		ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), 0);
	ck_assert_int_eq(tapimg_zero(img, MiB, MiB, TAPIMG_REQ_MAY_UNMAP), 0);
	close_image(img);
}

START_TEST(versions)
{
	build(NULL, _i);
	must_amend("compat", "0.10");
	ck_assert_uint_eq(q2_peek(QH_VERSION, 4), 2);
	filled();
	must_amend("compat", "1.1");
	ck_assert_uint_eq(q2_peek(QH_VERSION, 4), 3);
	filled();
	must_amend("compat", "v2");
	must_amend("compat", "v3");
	filled();
	if (q2_have_peer()) {
		q2_shell("qemu-img amend -o compat=0.10 " IMG);
		q2_clean(IMG);
		filled();
	}
}
END_TEST

START_TEST(widths)
{
	static const char *const bits[] = {"1", "64", "2", "8", "32", "4", "16"};

	build(NULL, false);
	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		must_amend("refcount_bits", bits[i]);
		ck_assert_uint_eq(1ULL << q2_peek(QH_REFCOUNT_ORDER, 4), strtoul(bits[i], NULL, 10));
		filled();
	}
	unlink(IMG);
	build(NULL, true);
	ck_assert_int_eq(amend("refcount_bits", "1"), -E2BIG);
	ck_assert_uint_eq(q2_peek(QH_REFCOUNT_ORDER, 4), 4);
	q2_clean(IMG);
	filled();
	ck_assert_int_eq(amend("refcount_bits", "3"), -EINVAL);
	ck_assert_int_eq(amend("refcount_bits", "128"), -EINVAL);
}
END_TEST

START_TEST(others)
{
	build(NULL, false);
	must_amend("lazy_refcounts", "on");
	ck_assert_uint_eq(q2_peek(QH_COMPAT, 8), QCOW2_COMPAT_LAZY);
	must_amend("lazy_refcounts", "off");
	ck_assert_uint_eq(q2_peek(QH_COMPAT, 8), 0);
	must_amend("size", "8M");
	expect_zero(DISK, DISK);
	must_amend("size", "4M");
	filled();
	/* what the disk holds stays the same: only what is so already */
	ck_assert_int_eq(amend("backing_file", "below.raw"), -EINVAL);
	must_amend("backing_file", "");
	ck_assert_int_eq(system("truncate -s 4M below.raw"), 0);
	ck_assert_int_eq(set_backing("below.raw", "raw"), 0);
	must_amend("backing_file", "below.raw");
	must_amend("backing_fmt", "raw");
	ck_assert_int_eq(amend("backing_file", "other.raw"), -EINVAL);
	ck_assert_int_eq(amend("backing_file", ""), -EINVAL);
	ck_assert_int_eq(amend("backing_fmt", "qcow2"), -EINVAL);
	expect_backing("below.raw", "raw");
	ck_assert_int_eq(set_backing(NULL, NULL), 0);
	filled();
	ck_assert_int_eq(amend("backing_fmt", "raw"), -EINVAL);
	ck_assert_int_lt(amend("cluster_size", "4096"), 0);
	ck_assert_int_lt(amend("compression_type", "zstd"), 0);
	ck_assert_int_lt(amend("extended_l2", "on"), 0);
	ck_assert_int_lt(amend("preallocation", "full"), 0);
	ck_assert_int_lt(amend("data_file", "x"), 0);
	ck_assert_int_lt(amend("data_file_raw", "on"), 0);
	ck_assert_int_lt(amend("nonsense", "on"), 0);
	ck_assert_int_lt(amend("lazy_refcounts", "perhaps"), 0);
	ck_assert_int_lt(amend("size", "-5"), 0);
	q2_clean(IMG);
	filled();
}
END_TEST

/* What version 2 cannot hold is refused before anything changes. */
START_TEST(no_downgrade)
{
	static const char *const opts[] = {"extended_l2=on", "compression_type=zstd",
					   "refcount_bits=32"};
	struct tapimg *img;

	for (unsigned i = 0; i < ARRAY_SIZE(opts); i++) {
		q2_make(IMG, DISK, opts[i]);
		ck_assert_int_eq(amend("compat", "0.10"), -ENOTSUP);
		ck_assert_uint_eq(q2_peek(QH_VERSION, 4), 3);
		unlink(IMG);
	}
	q2_make(IMG, DISK, NULL);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), 0);
	ck_assert_int_eq(tapimg_resize(img, 2 * DISK, TAPIMG_PREALLOC_OFF, false, &err), 0);
	close_image(img);
	ck_assert_int_eq(amend("compat", "0.10"), -ENOTSUP);
	ck_assert_msg(strstr(err.text, "another size"), "%s", err.text);
	unlink(IMG);
	q2_make(IMG, DISK, "compat=0.10");
	ck_assert_int_eq(amend("refcount_bits", "8"), -ENOTSUP);
	ck_assert_int_eq(amend("lazy_refcounts", "on"), -ENOTSUP);
	q2_clean(IMG);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2 admin");
	TCase *t = tcase_create("admin");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, there_and_back, 0, ARRAY_SIZE(kinds));
	tcase_add_test(t, mapped_where_grown_ahead);
	tcase_add_test(t, stale);
	tcase_add_test(t, shared_with_snapshot);
	tcase_add_test(t, size_refused);
	tcase_add_test(t, data_file);
	tcase_add_test(t, longer_below);
	tcase_add_test(t, unknown_extension);
	tcase_add_test(t, backing_refused);
	tcase_add_test(t, emptied);
	tcase_add_loop_test(t, versions, 0, 2);
	tcase_add_test(t, widths);
	tcase_add_test(t, others);
	tcase_add_test(t, no_downgrade);
	suite_add_tcase(s, t);
	return suite_run(s);
}
