/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-bitmap.c - persistent bitmaps: tracked, stored, found again, in use, resized, refused
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "q2lib.h"
#include "suite.h"

static struct tapimg_err err;

static void must(int ret)
{
	ck_assert_msg(!ret, "%d %s", ret, err.text);
}

static const struct tapimg_bitmap *find(struct tapimg *img, const char *name)
{
	const struct tapimg_info *info;

	must(tapimg_info(img, &info, &err));
	for (unsigned i = 0; i < info->nbitmaps; i++)
		if (!strcmp(info->bitmaps[i].name, name))
			return &info->bitmaps[i];
	return NULL;
}

static void expect(const char *name, uint64_t dirty, unsigned flags)
{
	struct tapimg *img = open_image(IMG, "qcow2", 0);
	const struct tapimg_bitmap *b = find(img, name);

	ck_assert_ptr_nonnull(b);
	ck_assert_msg(b->dirty == dirty && b->flags == flags, "%s: dirty %llu, flags %u", name,
		      (unsigned long long)b->dirty, b->flags);
	close_image(img);
}

/* flags of the first entry of the directory */
static uint64_t flags_at(void)
{
	for (uint64_t at = QH_V3_LEN; at < 2000; at += 8 + round_up(q2_peek(at + 4, 4), 8))
		if (q2_peek(at, 4) == QCOW2_EXT_BITMAPS)
			return q2_peek(at + 24, 8) + 12;
	ck_abort_msg("no directory");
	return 0;
}

static void make(const char *opts)
{
	struct tapimg *img;

	q2_make(IMG, DISK, opts);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_add(img, "on", 4096, false, &err));
	must(tapimg_bitmap_add(img, "off", 0, true, &err));
	close_image(img);
}

START_TEST(tracked)
{
	struct tapimg *img;
	uint8_t b[100] = {1};

	make(_i ? "cluster_size=512" : NULL);
	q2_clean(IMG);
	expect("on", 0, TAPIMG_BITMAP_AUTO);
	expect("off", 0, 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_pwrite(img, b, 100, 4090));		/* two granules */
	must(tapimg_zero(img, MiB, 8192, 0));
	must(tapimg_discard(img, 2 * MiB, 65536));
	must(tapimg_pread(img, b, 100, 3 * MiB));
	close_image(img);
	q2_clean(IMG);
	expect("on", 8192 + 8192 + 65536, TAPIMG_BITMAP_AUTO);
	expect("off", 0, 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_enable(img, "off", true, &err));
	must(tapimg_bitmap_enable(img, "on", false, &err));
	must(tapimg_pwrite(img, b, 100, 3 * MiB));
	close_image(img);
	expect("on", 8192 + 8192 + 65536, 0);
	expect("off", _i ? 4096 : 65536, TAPIMG_BITMAP_AUTO);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_clear(img, "on", &err));
	close_image(img);
	expect("on", 0, 0);
	q2_clean(IMG);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_remove(img, "on", &err));
	must(tapimg_bitmap_remove(img, "off", &err));
	ck_assert_int_eq(tapimg_bitmap_remove(img, "off", &err), -ENOENT);
	close_image(img);
	ck_assert_uint_eq(q2_peek(QH_AUTOCLEAR, 8), 0);
	q2_clean(IMG);
}
END_TEST

/* Enabled bitmaps are marked in use as long as the image is open for writing, disabled ones not. */
START_TEST(in_use)
{
	struct tapimg *img;

	make(NULL);
	ck_assert_uint_eq(q2_peek(flags_at(), 4), TAPIMG_BITMAP_AUTO);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_uint_eq(q2_peek(flags_at(), 4), TAPIMG_BITMAP_AUTO | TAPIMG_BITMAP_IN_USE);
	close_image(img);
	ck_assert_uint_eq(q2_peek(flags_at(), 4), TAPIMG_BITMAP_AUTO);
	/* as after a crash */
	q2_poke(flags_at(), TAPIMG_BITMAP_AUTO | TAPIMG_BITMAP_IN_USE, 4);
	expect("on", UINT64_MAX, TAPIMG_BITMAP_IN_USE | TAPIMG_BITMAP_AUTO);
	expect("off", 0, 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_bitmap_clear(img, "on", &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "inconsistent"), "%s", err.text);
	ck_assert_int_eq(tapimg_bitmap_enable(img, "on", false, &err), -EINVAL);
	ck_assert_int_eq(tapimg_resize(img, 2 * DISK, TAPIMG_PREALLOC_OFF, false, &err), -EBUSY);
	close_image(img);
	expect("on", UINT64_MAX, TAPIMG_BITMAP_IN_USE | TAPIMG_BITMAP_AUTO);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_remove(img, "on", &err));
	must(tapimg_resize(img, 2 * DISK, TAPIMG_PREALLOC_OFF, false, &err));
	close_image(img);
	q2_clean(IMG);
}
END_TEST

/* Software without knowledge of bitmaps clears the autoclear bit: none is believed any more. */
START_TEST(outdated)
{
	struct tapimg *img;

	make(NULL);
	q2_poke(QH_AUTOCLEAR, 0, 8);
	expect("on", UINT64_MAX, TAPIMG_BITMAP_IN_USE | TAPIMG_BITMAP_AUTO);
	expect("off", UINT64_MAX, TAPIMG_BITMAP_IN_USE);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	close_image(img);
	expect("on", UINT64_MAX, TAPIMG_BITMAP_IN_USE | TAPIMG_BITMAP_AUTO);
	q2_clean(IMG);
}
END_TEST

START_TEST(resized)
{
	struct tapimg *img;
	uint8_t b[512] = {1};

	q2_make(IMG, DISK, _i ? "cluster_size=512" : NULL);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_add(img, "on", 512, false, &err));
	must(tapimg_pwrite(img, b, 512, 0));
	must(tapimg_pwrite(img, b, 512, DISK - 512));
	must(tapimg_resize(img, 1 * GiB, TAPIMG_PREALLOC_OFF, false, &err));
	must(tapimg_pwrite(img, b, 512, GiB - 512));
	close_image(img);
	q2_clean(IMG);
	expect("on", 3 * 512, TAPIMG_BITMAP_AUTO);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_enable(img, "on", false, &err));
	close_image(img);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_resize(img, DISK - 512, TAPIMG_PREALLOC_OFF, true, &err));
	close_image(img);
	q2_clean(IMG);
	expect("on", 512, 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_resize(img, DISK, TAPIMG_PREALLOC_OFF, false, &err));
	close_image(img);
	expect("on", 512, 0);
	q2_clean(IMG);
	if (q2_have_peer())
		q2_shell("qemu-img bitmap --add " IMG " theirs");	/* loads all of them */
	q2_clean(IMG);
}
END_TEST

START_TEST(refused)
{
	struct tapimg *img;
	char name[1100];

	memset(name, 'n', sizeof(name));
	name[1024] = 0;
	make(NULL);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_bitmap_add(img, "on", 0, false, &err), -EEXIST);
	ck_assert_int_eq(tapimg_bitmap_add(img, name, 0, false, &err), -EINVAL);
	ck_assert_int_eq(tapimg_bitmap_add(img, "x", 1000, false, &err), -EINVAL);
	ck_assert_int_eq(tapimg_bitmap_add(img, "x", 256, false, &err), -EINVAL);
	ck_assert_int_eq(tapimg_bitmap_add(img, "x", 1ULL << 32, false, &err), -EINVAL);
	ck_assert_int_eq(tapimg_bitmap_clear(img, "x", &err), -ENOENT);
	name[1023] = 0;
	must(tapimg_bitmap_add(img, name, 0, false, &err));
	close_image(img);
	q2_clean(IMG);
	unlink(IMG);
	q2_make(IMG, DISK, "compat=0.10");
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_bitmap_add(img, "x", 0, false, &err), -ENOTSUP);
	close_image(img);
}
END_TEST

/* Granularities that differ; the target keeps what it had. */
START_TEST(merged)
{
	struct tapimg *img;
	uint8_t b[512] = {1};

	make(NULL);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	must(tapimg_pwrite(img, b, 512, 5 * 4096));
	must(tapimg_bitmap_add(img, "sum", 65536, true, &err));
	must(tapimg_bitmap_merge(img, "sum", img, "on", &err));
	must(tapimg_pwrite(img, b, 512, 2 * MiB));
	must(tapimg_bitmap_merge(img, "sum", img, "on", &err));
	ck_assert_int_eq(tapimg_bitmap_merge(img, "none", img, "on", &err), -ENOENT);
	close_image(img);
	expect("sum", 2 * 65536, 0);
	expect("on", 2 * 4096, TAPIMG_BITMAP_AUTO);
	q2_clean(IMG);
}
END_TEST

/* Bitmaps the peer has made and filled are read, and ours by the peer. */
START_TEST(peer)
{
	if (!q2_have_peer())
		return;
	q2_shell("qemu-img create -q -f qcow2 " IMG " 1G");
	q2_shell("qemu-img bitmap --add -g 4k " IMG " theirs");
	q2_shell("qemu-io -f qcow2 -c 'write 1M 64k' -c 'write 900M 4k' " IMG);
	expect("theirs", 65536 + 4096, TAPIMG_BITMAP_AUTO);
	q2_fill_file(IMG, 1, 1, 1);
	expect("theirs", 65536 * 2 + 4096, TAPIMG_BITMAP_AUTO);
	q2_shell("qemu-img bitmap --add -g 64k --disable " IMG " sum");
	q2_shell("qemu-img bitmap --merge theirs " IMG " sum");
	expect("sum", 65536 * 3, 0);
	q2_clean(IMG);
}
END_TEST

/* Each field of the directory, broken: opening to read goes on, the check says it. */
START_TEST(broken)
{
	static const struct {
		int at;
		unsigned bytes;
		uint64_t value;
	} harm[] = {
		{-12, 8, 0x12345}, {-12, 8, 0}, {-12, 8, 1ULL << 60}, {-4, 4, 0}, {-4, 4, UINT32_MAX},
		{0, 4, 0x80}, {4, 1, 9}, {5, 1, 63}, {5, 1, 1}, {6, 2, 0}, {6, 2, 2000},
		{8, 4, 1u << 31},
	};
	struct tapimg *img;

	make(NULL);
	q2_poke(flags_at() + harm[_i].at, harm[_i].value, harm[_i].bytes);
	ck_assert_uint_gt(q2_check(IMG, 0)->c.corruptions, 0);
	img = open_image(IMG, "qcow2", 0);
	find(img, "on");
	close_image(img);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2 bitmaps");
	TCase *t = tcase_create("bitmap");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, tracked, 0, 2);
	tcase_add_test(t, in_use);
	tcase_add_test(t, outdated);
	tcase_add_loop_test(t, resized, 0, 2);
	tcase_add_test(t, refused);
	tcase_add_test(t, merged);
	tcase_add_test(t, peer);
	tcase_add_loop_test(t, broken, 0, 12);
	suite_add_tcase(s, t);
	return suite_run(s);
}
