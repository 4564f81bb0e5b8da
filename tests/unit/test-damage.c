/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-damage.c - damage in one place of an image, or no space left, and what has to go on working
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "q2lib.h"
#include "scratch.h"
#include "suite.h"

static uint8_t buf[CL], back[CL];

/* Damage met by a read does not lose what was written before: closing makes it durable. */
START_TEST(writes_survive_damage)
{
	struct tapimg *img;

	q2_make(IMG, 4 * MiB, NULL);
	q2_fill_file(IMG, 10, 1, 0);
	q2_poke(q2_l2(10 * CL), 0x8000000000000201ULL, 8);	/* not aligned */
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	memset(buf, 7, CL);
	ck_assert_int_eq(tapimg_pwrite(img, buf, CL, 0), 0);
	ck_assert_int_eq(tapimg_pread(img, back, 512, 10 * CL), -EUCLEAN);
	ck_assert_int_eq(tapimg_pwrite(img, buf, CL, CL), -EUCLEAN);
	ck_assert_int_eq(tapimg_close(img, NULL), -EUCLEAN);
	q2_expect(IMG, 0, 7);
}
END_TEST

/* A damaged entry two layers down does not hide its neighbours in the same 64 KiB. */
START_TEST(neighbours_of_damage)
{
	struct tapimg *img;

	q2_make(IMG, 4 * MiB, "cluster_size=4096");
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	memset(buf, 9, CL);
	ck_assert_int_eq(tapimg_pwrite(img, buf, CL, 0), 0);
	close_image(img);
	q2_poke((q2_peek(q2_l1(0), 8) & 0xfffffffffffe00ULL), 0x8000000000000201ULL, 8);
	make_image("b.qcow2", "qcow2", 4 * MiB, IMG, "qcow2");
	make_image("c.qcow2", "qcow2", 4 * MiB, "b.qcow2", "qcow2");
	img = open_image("c.qcow2", "qcow2", 0);
	ck_assert_int_eq(tapimg_pread(img, back, 4096, 0x8000), 0);
	ck_assert_int_eq(memcmp(back, buf, 4096), 0);
	ck_assert_int_eq(tapimg_pread(img, back, 4096, 0), -EUCLEAN);
	tapimg_close(img, NULL);
}
END_TEST

/* On a full device the space of a discard is there for the next write, without a flush between. */
START_TEST(freed_space_is_space)
{
	struct tapimg *img;
	unsigned n;
	int ret = 0;

	q2_make(IMG, 64 * MiB, NULL);
	ck_assert_int_eq(truncate(IMG, 8 * MiB), 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR | TAPIMG_UNMAP);
	img->file->block_dev = true;	/* as on a device: it cannot grow */
	memset(buf, 1, CL);
	for (n = 0; n < 1024 && !ret; n++)
		ret = tapimg_pwrite(img, buf, CL, (uint64_t)n * CL);
	ck_assert_int_eq(ret, -ENOSPC);
	ck_assert_uint_gt(n, 100);
	ck_assert_int_eq(tapimg_discard(img, 0, MiB), 0);
	for (n = 0; n < 16; n++)
		ck_assert_int_eq(tapimg_pwrite(img, buf, CL, (uint64_t)n * CL), 0);
	ck_assert_int_eq(tapimg_pwrite(img, buf, CL, 63 * MiB), -ENOSPC);
	close_image(img);
	q2_clean(IMG);
}
END_TEST

/* Space that is counted as free, but holds a table, is not written to: a repair loses nothing then. */
START_TEST(tables_are_not_free)
{
	static const struct { const char *opts, *says; } kinds[] = {
		{ NULL, "an L2 table at" }, { NULL, "the snapshot table at" },
		{ NULL, "the L1 table of a snapshot at" }, { NULL, "the L1 table at" },
		{ "cluster_size=512", "an L2 table at" },	/* a whole stretch without counts */
	};
	uint64_t at = 0, rt;
	struct tapimg_err err = {0};
	struct tapimg *img;

	q2_make(IMG, DISK, kinds[_i].opts);
	q2_fill_file(IMG, 0, 8, 1);
	q2_shell("qemu-img snapshot -c s " IMG);
	q2_fill_file(IMG, 4, 8, 2);
	q2_shell("cp " IMG " before");
	rt = q2_peek(QH_RT_OFF, 8);
	switch (_i) {
	case 0:
		at = q2_peek(q2_l1(0), 8) & 0xfffffffffffe00ULL;
		break;
	case 1:
		at = q2_peek(QH_SNAP_OFF, 8);
		break;
	case 2:
		at = q2_peek(q2_peek(QH_SNAP_OFF, 8), 8);
		break;
	case 3:
		at = q2_peek(QH_L1_OFF, 8);
		break;
	default:
		q2_poke(rt + 8, 0, 8);
	}
	if (at)
		q2_poke(q2_rc(at), 0, 2);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	memset(buf, 7, CL);
	ck_assert_int_eq(tapimg_pwrite(img, buf, CL, 20 * CL), -EUCLEAN);
	ck_assert_int_eq(tapimg_close(img, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, kinds[_i].says), "%s", err.text);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR | TAPIMG_CHECK);
	tapimg_close(img, NULL);
	q2_check(IMG, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS);
	q2_clean(IMG);
	q2_shell("qemu-img compare -q before " IMG);
	q2_shell("qemu-img snapshot -a s " IMG " && qemu-img snapshot -a s before");
	q2_shell("qemu-img compare -q before " IMG);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("damage");
	TCase *t = tcase_create("damage");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_add_test(t, writes_survive_damage);
	tcase_add_test(t, neighbours_of_damage);
	tcase_add_test(t, freed_space_is_space);
	if (q2_have_peer())
		tcase_add_loop_test(t, tables_are_not_free, 0, 5);
	suite_add_tcase(s, t);
	return suite_run(s);
}
