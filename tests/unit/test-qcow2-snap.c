/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-snap.c - internal snapshots: contents after each step, counts and COPIED, the table
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "q2lib.h"
#include "suite.h"

static struct tapimg_err err;

static void snap(const char *op, const char *name, int want)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	int ret;

	memset(&err, 0, sizeof(err));
	ret = !strcmp(op, "create") ? tapimg_snapshot_create(img, name, &err) :
	      !strcmp(op, "apply") ? tapimg_snapshot_apply(img, name, &err) :
				     tapimg_snapshot_delete(img, name, &err);
	ck_assert_msg(ret == want, "%s %s: %d %s", op, name, ret, err.text);
	close_image(img);
}

static unsigned snaps(void)
{
	return q2_peek(QH_NSNAP, 4);
}

static const char *const kinds[] = {
	"", "compat=0.10", "cluster_size=512", "cluster_size=4096", "cluster_size=2M",
	"extended_l2=on", "refcount_bits=2", "refcount_bits=8", "refcount_bits=64",
	"lazy_refcounts=on,cluster_size=65536",
};

/* Two snapshots, writes between, back and forth; every state is clean and holds what it should. */
START_TEST(life)
{
	q2_make(IMG, DISK, *kinds[_i] ? kinds[_i] : NULL);
	q2_fill_file(IMG, 0, 16, 1);
	snap("create", "one", 0);
	q2_clean(IMG);
	q2_expect(IMG, 5, 6);
	q2_fill_file(IMG, 8, 16, 101);
	q2_clean(IMG);
	snap("create", "two", 0);
	q2_clean(IMG);
	q2_fill_file(IMG, 0, 4, 201);
	q2_clean(IMG);
	snap("apply", "one", 0);
	q2_clean(IMG);
	for (unsigned i = 0; i < 24; i++)
		q2_expect(IMG, i, i < 16 ? i + 1 : 0);
	q2_fill_file(IMG, 1, 1, 250);
	snap("apply", "2", 0);
	q2_clean(IMG);
	for (unsigned i = 0; i < 24; i++)
		q2_expect(IMG, i, i < 8 ? i + 1 : i + 101);
	snap("delete", "one", 0);
	q2_clean(IMG);
	q2_fill_file(IMG, 2, 1, 33);
	q2_clean(IMG);
	snap("delete", "two", 0);
	q2_clean(IMG);
	ck_assert_uint_eq(snaps(), 0);
	for (unsigned i = 0; i < 24; i++)
		q2_expect(IMG, i, i == 2 ? 35 : i < 8 ? i + 1 : i + 101);
	ck_assert_uint_eq(q2_peek(q2_l2(0), 8) >> 63, 1);	/* writable in place again */
}
END_TEST

/* An image opened at a snapshot reads what it held, and refuses writes. */
START_TEST(open_snapshot)
{
	struct tapimg_open_opts o = {.format = "qcow2", .snapshot = "one"};
	struct tapimg *img;
	uint8_t buf[512];

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 4, 1);
	snap("create", "one", 0);
	q2_fill_file(IMG, 0, 4, 50);
	ck_assert_int_eq(tapimg_open(loop, IMG, &o, &img, &err), 0);
	ck_assert_int_eq(tapimg_pread(img, buf, 512, 2 * CL), 0);
	ck_assert_uint_eq(buf[0], 3);
	ck_assert_int_lt(tapimg_pwrite(img, buf, 512, 0), 0);
	close_image(img);
	o.snapshot = "none";
	ck_assert_int_eq(open_fails(IMG, &o, &err), -ENOENT);
	ck_assert_msg(strstr(err.text, "none"), "%s", err.text);
}
END_TEST

/* Going back to a snapshot gives the disk the size it had. */
START_TEST(sizes)
{
	struct tapimg *img;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 4, 1);
	snap("create", "small", 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_resize(img, 4 * GiB, TAPIMG_PREALLOC_OFF, false, &err), 0);
	close_image(img);
	snap("create", "large", 0);
	snap("apply", "small", 0);
	q2_clean(IMG);
	img = open_image(IMG, "qcow2", 0);
	ck_assert_uint_eq(tapimg_size(img), DISK);
	close_image(img);
	snap("apply", "large", 0);
	q2_clean(IMG);
	img = open_image(IMG, "qcow2", 0);
	ck_assert_uint_eq(tapimg_size(img), 4 * GiB);
	close_image(img);
	q2_expect(IMG, 2, 3);
}
END_TEST

/* A name that is another snapshot's id means that one; new ids are one above the largest. */
START_TEST(names)
{
	const struct tapimg_info *info;
	struct tapimg *img;

	q2_make(IMG, DISK, NULL);
	snap("create", "2", 0);		/* id 1 */
	snap("create", "x", 0);		/* id 2 */
	snap("delete", "2", 0);		/* the id comes first: x */
	snap("create", "y", 0);
	img = open_image(IMG, "qcow2", 0);
	ck_assert_int_eq(tapimg_info(img, &info, &err), 0);
	ck_assert_uint_eq(info->nsnapshots, 2);
	ck_assert_str_eq(info->snapshots[0].id, "1");
	ck_assert_str_eq(info->snapshots[0].name, "2");
	ck_assert_str_eq(info->snapshots[1].id, "2");
	ck_assert_str_eq(info->snapshots[1].name, "y");
	ck_assert_uint_eq(info->snapshots[1].disk_size, DISK);
	ck_assert_int_eq(info->snapshots[1].icount, -1);
	close_image(img);
	snap("apply", "nothing", -ENOENT);
	snap("delete", "nothing", -ENOENT);
}
END_TEST

/* What cannot be: counts without room, an external data file, bitmaps that could not follow. */
START_TEST(refused)
{
	struct tapimg *img;

	q2_make(IMG, DISK, "refcount_bits=1");
	q2_fill_file(IMG, 0, 4, 1);
	snap("create", "one", -E2BIG);
	q2_clean(IMG);
	unlink(IMG);
	q2_make(IMG, DISK, "refcount_bits=2");
	q2_fill_file(IMG, 0, 4, 1);
	snap("create", "one", 0);
	snap("create", "two", 0);
	snap("create", "three", -E2BIG);
	ck_assert_uint_eq(snaps(), 2);
	q2_clean(IMG);
	unlink(IMG);
	q2_make(IMG, DISK, "data_file=d.raw");
	snap("create", "one", -ENOTSUP);
	unlink(IMG);
	q2_make(IMG, DISK, NULL);
	snap("create", "one", 0);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_bitmap_add(img, "b", 0, false, &err), 0);
	close_image(img);
	snap("apply", "one", -EBUSY);
	q2_clean(IMG);
}
END_TEST

/* Extra data that is not known here, and the VM state, survive changes of the table. */
START_TEST(kept_bytes)
{
	const struct tapimg_info *info;
	struct tapimg *img;
	uint64_t at;

	q2_make(IMG, DISK, NULL);
	snap("create", "ab", 0);
	at = q2_peek(QH_SNAP_OFF, 8);
	ck_assert_uint_eq(q2_peek(at + 36, 4), 24);
	q2_poke(at + 36, 32, 4);
	q2_poke(at + 40, 0x500000001, 8);	/* VM state */
	q2_poke(at + 40 + 24, 0x1122334455667788, 8);
	q2_poke(at + 40 + 32, 0x316162, 3);
	snap("create", "second", 0);
	at = q2_peek(QH_SNAP_OFF, 8);
	ck_assert_uint_eq(q2_peek(at + 36, 4), 32);
	ck_assert_uint_eq(q2_peek(at + 40, 8), 0x500000001);
	ck_assert_uint_eq(q2_peek(at + 40 + 24, 8), 0x1122334455667788);
	ck_assert_uint_eq(q2_peek(at + 40 + 32, 3), 0x316162);
	img = open_image(IMG, "qcow2", 0);
	ck_assert_int_eq(tapimg_info(img, &info, &err), 0);
	ck_assert_str_eq(info->snapshots[0].name, "ab");
	ck_assert_uint_eq(info->snapshots[0].vm_state_size, 0x500000001);
	close_image(img);
	q2_clean(IMG);
}
END_TEST

/* Compressed clusters share host clusters: their counts move by more than one. */
START_TEST(compressed)
{
	if (!q2_have_peer())
		return;
	q2_make("a.qcow2", DISK, NULL);
	q2_fill_file("a.qcow2", 0, 64, 1);
	q2_shell("qemu-img convert -c -O qcow2 a.qcow2 " IMG);
	snap("create", "one", 0);
	q2_clean(IMG);
	q2_fill_file(IMG, 3, 7, 90);
	q2_clean(IMG);
	snap("apply", "one", 0);
	q2_clean(IMG);
	snap("delete", "one", 0);
	q2_clean(IMG);
	for (unsigned i = 0; i < 64; i++)
		q2_expect(IMG, i, i + 1);
}
END_TEST

/* The peer lists ours, goes back to ours; we go back to the peer's. */
START_TEST(peer)
{
	if (!q2_have_peer())
		return;
	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 16, 1);
	snap("create", "ours", 0);
	ck_assert_ptr_nonnull(strstr(q2_shell("qemu-img snapshot -l " IMG), "ours"));
	q2_fill_file(IMG, 0, 16, 101);
	q2_shell("qemu-img snapshot -c theirs " IMG);
	q2_fill_file(IMG, 8, 16, 51);
	q2_shell("qemu-img snapshot -a ours " IMG);
	q2_clean(IMG);
	for (unsigned i = 0; i < 16; i++)
		q2_expect(IMG, i, i + 1);
	snap("apply", "theirs", 0);
	q2_clean(IMG);
	for (unsigned i = 0; i < 16; i++)
		q2_expect(IMG, i, i + 101);
	snap("delete", "theirs", 0);
	q2_shell("qemu-img snapshot -d ours " IMG);
	q2_clean(IMG);
}
END_TEST

/* Damage in a tree ends an operation before it has changed anything. */
START_TEST(damaged)
{
	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 16, 1);
	q2_poke(q2_l2(3 * CL), q2_peek(q2_l2(3 * CL), 8) + 512, 8);
	snap("create", "one", -EUCLEAN);
	ck_assert_uint_eq(snaps(), 0);
	ck_assert_msg(strstr(err.text, "repair"), "%s", err.text);
	q2_check(IMG, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	snap("create", "one", 0);
	q2_clean(IMG);
}
END_TEST

/* The L1 of a snapshot beyond the end of the file is not a disk of zeroes. */
START_TEST(beyond_the_end)
{
	struct tapimg_open_opts o = {.format = "qcow2", .snapshot = "one"};
	uint64_t size, table, l1;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 16, 1);
	snap("create", "one", 0);
	size = q2_file_size(IMG);
	table = q2_peek(QH_SNAP_OFF, 8);
	l1 = q2_peek(table, 8);
	for (unsigned i = 0; i < 3; i++) {
		static const uint64_t far[] = {0, 1ULL << 30, 1ULL << 55};
		uint64_t off = i ? far[i] : round_up(size, CL);

		q2_poke(table, off, 8);
		ck_assert_int_eq(open_fails(IMG, &o, &err), -EUCLEAN);
		ck_assert_msg(strstr(err.text, "'one'") && strstr(err.text, "0x"), "%s", err.text);
		snap("apply", "one", -EUCLEAN);
		ck_assert_msg(strstr(err.text, "'one'") && strstr(err.text, "0x"), "%s", err.text);
		ck_assert_uint_eq(q2_file_size(IMG), size);
		for (unsigned k = 0; k < 16; k++)
			q2_expect(IMG, k, k + 1);
	}
	q2_poke(table, l1, 8);
	snap("apply", "one", 0);
	q2_expect(IMG, 5, 6);
	q2_clean(IMG);
}
END_TEST

/* One whose L1 table is gone: check says so and mends nothing, deleting it leaves leaks, and no more. */
START_TEST(lost)
{
	const struct q2_result *r;
	bool big = _i;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, 16, 1);
	snap("create", "one", 0);
	snap("create", "two", 0);
	q2_fill_file(IMG, 0, 4, 50);
	if (big)
		q2_poke(q2_peek(QH_SNAP_OFF, 8) + 8, 1u << 30, 4);
	else
		q2_poke(q2_peek(QH_SNAP_OFF, 8), 1ULL << 40 | 512, 8);
	r = q2_check(IMG, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	ck_assert_msg(strstr(r->text, "Snapshot 1 is lost"), "%s", r->text);
	ck_assert_msg(!strstr(r->text, "have been"), "%s", r->text);
	ck_assert_uint_gt(r->c.corruptions, 0);
	snap("delete", "one", 0);
	ck_assert_uint_eq(snaps(), 1);
	r = q2_check(IMG, 0);
	ck_assert_uint_eq(r->c.corruptions, 0);
	ck_assert_uint_gt(r->c.leaks, 0);
	q2_check(IMG, TAPIMG_FIX_LEAKS);
	q2_clean(IMG);
	q2_expect(IMG, 0, 50);
	q2_expect(IMG, 5, 6);
	snap("apply", "two", 0);
	q2_expect(IMG, 0, 1);
	q2_clean(IMG);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2 snapshots");
	TCase *t = tcase_create("snap");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, life, 0, ARRAY_SIZE(kinds));
	tcase_add_test(t, open_snapshot);
	tcase_add_test(t, sizes);
	tcase_add_test(t, names);
	tcase_add_test(t, refused);
	tcase_add_test(t, kept_bytes);
	tcase_add_test(t, compressed);
	tcase_add_test(t, peer);
	tcase_add_test(t, damaged);
	tcase_add_test(t, beyond_the_end);
	tcase_add_loop_test(t, lost, 0, 2);
	suite_add_tcase(s, t);
	return suite_run(s);
}
