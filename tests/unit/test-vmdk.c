/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vmdk.c - VMDKs built byte by byte: what no peer reads or writes rightly
 *
 * Each image is made here sector by sector; the numbers are those of VMware's "Virtual Disk Format
 * 5.0" for hosted sparse extents, and of libvmdk's documentation for COWD.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "suite.h"
#include "vmdk.h"
#include "vmdklib.h"

static uint8_t buf[4 * MiB];

/* ------------------------------------------------------------------- reading */

START_TEST(entries)
{
	struct tapimg *t;

	vm_sparse(64, 8, 7, true);		/* 8 grains of 4 KiB, zeroed ones allowed */
	memset(vm_bytes + 16 * S, 0x11, 8 * S);
	memset(vm_bytes + 24 * S, 0x22, 8 * S);
	vm_gte(0, 24, 3);
	vm_gte(2, 1, 3);			/* zeroes */
	vm_gte(7, 16, 3);
	put_file("a.vmdk", vm_bytes, 32 * S);
	t = open_image("a.vmdk", NULL, 0);
	ck_assert_str_eq(tapimg_format(t), "vmdk");
	ck_assert_uint_eq(tapimg_size(t), 64 * S);
	vm_expect(t, 0, 8 * S, 0x22);
	vm_expect(t, 8 * S, 48 * S, 0);
	vm_expect(t, 56 * S, 8 * S, 0x11);
	close_image(t);
	vm_clean("a.vmdk", 0);
}
END_TEST

/* Table entries that point nowhere are errors, each with its place; never somebody else's bytes. */
START_TEST(bad_entries)
{
	static const uint32_t bad[] = { 1, 3, 9, 32, 0xffffffff };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct tapimg *t;

		vm_sparse(64, 8, 3, true);
		vm_gte(1, bad[i], 3);
		vm_gte(2, 24, 3);
		memset(vm_bytes + 24 * S, 0x33, 8 * S);
		put_file("a.vmdk", vm_bytes, 32 * S);
		t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
		ck_assert_int_eq(tapimg_pread(t, buf, S, 8 * S), -EUCLEAN);
		ck_assert_int_eq(tapimg_pwrite(t, buf, S, 8 * S), -EUCLEAN);
		tapimg_close(t, NULL);
		vm_clean("a.vmdk", 1);
		vm_repair("a.vmdk", 1);
		t = open_image("a.vmdk", "vmdk", 0);
		vm_expect(t, 8 * S, 8 * S, 0);
		vm_expect(t, 16 * S, 8 * S, 0x33);
		close_image(t);
	}
}
END_TEST

START_TEST(headers)
{
	static const struct {
		unsigned at, len;
		uint64_t value;
		int code;
		const char *text;
	} v[] = {
		{ 4, 4, 4, -ENOTSUP, "version 4" }, { 8, 4, 1 << 20, -ENOTSUP, "flags 0x00100000" },
		{ 73, 4, 0x0a0a200a, -EINVAL, "text mode" }, { 20, 8, 0, -EINVAL, "grain size 0" },
		{ 20, 8, 3, -EINVAL, "grain size 3" }, { 44, 4, 0, -EINVAL, "grain table 0" },
		{ 12, 8, UINT64_MAX, -EINVAL, "capacity" }, { 12, 8, 1ULL << 50, -EFBIG, "grain directory" },
		{ 56, 8, 1000000, -EUCLEAN, "is not inside the file" },
		{ 56, 8, UINT64_MAX, -EINVAL, "at the end" },
		{ 48, 8, UINT64_MAX / 2, -EUCLEAN, "redundant grain directory" },
		{ 28, 8, 1ULL << 60, -EINVAL, "descriptor at sector" },
		{ 0, 4, 0x6b646d76, -EINVAL, "is unfinished" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		uint8_t b[8];

		vm_sparse(64, 8, 3, true);
		put_le64(b, v[i].value);
		memcpy(vm_bytes + v[i].at, b, v[i].len);
		put_file("a.vmdk", vm_bytes, 32 * S);
		vm_fails("a.vmdk", 0, v[i].code, v[i].text);
	}
	put_file("a.vmdk", vm_bytes, 100);
	vm_fails("a.vmdk", 0, -EINVAL, "has only 100 bytes");
}
END_TEST

/* ZERO, RDONLY and NOACCESS extents, extents of odd lengths and different grains, one after the other. */
START_TEST(mixture)
{
	static const char text[] =
		"version=1\n\nrw 63 flat \"f.bin\" 2\nRW 5 ZERO\n\nNOACCESS 7 FLAT \"nowhere.bin\" 0\n"
		"RDONLY 10 FLAT \"f.bin\" 65\nRW 50 SPARSE \"s.vmdk\"\nRW 20 VMFSSPARSE \"c.vmdk\"\n";
	struct tapimg *t;

	memset(buf, 0xf1, 65 * S);
	memset(buf + 65 * S, 0xf2, 10 * S);
	put_file("f.bin", buf, 75 * S);
	vm_sparse(64, 8, 3, true);
	put_file("s.vmdk", vm_bytes, 16 * S);
	vm_cowd(20, 1);
	put_file("c.vmdk", vm_bytes, 5 * S);
	put_text("m.vmdk", text);
	t = open_image("m.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_uint_eq(tapimg_size(t), 155 * S);
	vm_expect(t, 0, 63 * S, 0xf1);
	vm_expect(t, 63 * S, 12 * S, 0);
	vm_expect(t, 75 * S, 10 * S, 0xf2);
	vm_expect(t, 85 * S, 70 * S, 0);
	vm_store(t, 84 * S + 100 + S, 60 * S, 0x77);	/* over sparse and COWD, in the middle of sectors */
	vm_expect(t, 85 * S, 100, 0);
	vm_expect(t, 85 * S + 100, 60 * S, 0x77);
	vm_expect(t, 145 * S + 100, 10 * S - 100, 0);
	vm_store(t, 0, 63 * S, 0x10);
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 64 * S), -EROFS);	/* there is nothing to write to */
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 70 * S), -EROFS);
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 80 * S), -EROFS);
	ck_assert_int_eq(tapimg_zero(t, 63 * S, 5 * S, 0), 0);
	close_image(t);
	t = open_image("m.vmdk", NULL, 0);
	vm_expect(t, 0, 63 * S, 0x10);
	vm_expect(t, 75 * S, 10 * S, 0xf2);
	vm_expect(t, 85 * S + 100, 60 * S, 0x77);
	vm_expect(t, 145 * S + 100, 10 * S - 100, 0);
	close_image(t);
	vm_clean("m.vmdk", 0);
}
END_TEST

/* Names that every product uses, in any case; the descriptor's own case does not matter either. */
START_TEST(create_types)
{
	static const char *const types[] = {
		"monolithicFlat", "MONOLITHICFLAT", "twoGbMaxExtentFlat", "2GbMaxExtentFlat", "vmfs",
		"vmfsThin", "vmfsPreallocated", "vmfsEagerZeroedThick", "vmfsThick", "custom",
		"fullDevice", "partitionedDevice", "vmfsRaw",
	};

	memset(buf, 0x5a, 4 * S);
	put_file("x-flat.vmdk", buf, 4 * S);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		char text[300];
		struct tapimg *t;

		snprintf(text, sizeof(text), "# Disk DescriptorFile\nVersion=1\nCID=1\nCreateType=\"%s\"\n\n"
			 "RW 2 %s \"x-flat.vmdk\" 0\nRW 2 FLAT \"x-flat.vmdk\" 2\n", types[i],
			 i % 2 ? "VMFS" : "Flat");
		put_text("x.vmdk", text);
		t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
		ck_assert_uint_eq(tapimg_size(t), 4 * S);
		vm_expect(t, 0, 4 * S, 0x5a);
		close_image(t);
	}
}
END_TEST

START_TEST(gate)
{
	struct tapimg_err err;
	struct tapimg *t;

	memset(buf, 1, S);
	ck_assert_int_eq(mkdir("in", 0777), 0);
	ck_assert_int_eq(mkdir("in/deep", 0777), 0);
	put_file("out.bin", buf, S);
	put_file("in/deep/ok.bin", buf, S);
	put_text("in/a.vmdk", "version=1\nRW 1 FLAT \"../out.bin\" 0\n");
	put_text("in/b.vmdk", "version=1\nRW 1 FLAT \"/etc/passwd\" 0\n");
	put_text("in/c.vmdk", "version=1\nRW 1 FLAT \"deep/../../out.bin\" 0\n");
	put_text("in/d.vmdk", "version=1\nRW 1 FLAT \"deep/ok.bin\" 0\n");
	vm_fails("in/a.vmdk", 0, -EPERM, "outside of its folder");
	vm_fails("in/b.vmdk", 0, -EPERM, "outside of its folder");
	vm_fails("in/c.vmdk", 0, -EPERM, "outside of its folder");
	t = vm_open("in/d.vmdk", 0, "vmdk", &err);
	ck_assert_msg(t, "%s", err.text);
	close_image(t);
}
END_TEST

/* Two extents in the same place of a file: reading is harmless, writing is not. */
START_TEST(shared_places)
{
	memset(buf, 1, 4 * S);
	put_file("f.bin", buf, 4 * S);
	put_text("a.vmdk", "version=1\nRW 2 FLAT \"f.bin\" 0\nRW 2 FLAT \"f.bin\" 1\n");
	close_image(open_image("a.vmdk", "vmdk", 0));
	vm_fails("a.vmdk", TAPIMG_RDWR, -EINVAL, "same part");
	put_text("b.vmdk", "version=1\nRW 5 FLAT \"f.bin\" 0\n");
	vm_fails("b.vmdk", 0, -EINVAL, "has 2048 bytes");
	put_text("c.vmdk", "version=1\nCID=1\n");
	vm_fails("c.vmdk", 0, -EINVAL, "no extent");
}
END_TEST

/* ------------------------------------------------------------------- writing */

/* Where a table is missing it is made, behind everything else; peers write over the header. */
START_TEST(absent_tables)
{
	struct tapimg *t;

	vm_sparse(64, 8, 3, false);
	put_file("a.vmdk", vm_bytes, 16 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	vm_store(t, 20 * S, S, 0x44);
	close_image(t);
	ck_assert_uint_eq(vm_le32("a.vmdk", 0), 0x564d444b);
	/* a chunk of one grain holds both tables, the grain comes behind it */
	ck_assert_uint_eq(vm_le32("a.vmdk", 6 * S), 16);
	ck_assert_uint_eq(vm_le32("a.vmdk", 1 * S), 20);
	ck_assert_uint_eq(vm_le32("a.vmdk", 16 * S + 4 * 2), 24);
	ck_assert_uint_eq(vm_le32("a.vmdk", 20 * S + 4 * 2), 24);
	t = open_image("a.vmdk", "vmdk", 0);
	vm_expect(t, 0, 20 * S, 0);
	vm_expect(t, 20 * S, S, 0x44);
	vm_expect(t, 21 * S, 43 * S, 0);
	close_image(t);
	vm_clean("a.vmdk", 0);

	vm_cowd(100, 1);
	put_file("c.vmdk", vm_bytes, 5 * S);
	t = open_image("c.vmdk", "vmdk", TAPIMG_RDWR);
	vm_store(t, 20 * S, S, 0x45);
	close_image(t);
	/* header, directory in sector 4, table of 32 sectors from 5 on, the grain in 37, next free 38 */
	ck_assert_uint_eq(vm_le32("c.vmdk", 0), 0x44574f43);
	ck_assert_uint_eq(vm_le32("c.vmdk", 4 * S), 5);
	ck_assert_uint_eq(vm_le32("c.vmdk", 5 * S + 4 * 20), 37);
	ck_assert_uint_eq(vm_le32("c.vmdk", 28), 38);
	ck_assert_uint_eq(vm_le32("c.vmdk", 1648), 0);
	t = open_image("c.vmdk", "vmdk", 0);
	vm_expect(t, 0, 20 * S, 0);
	vm_expect(t, 20 * S, S, 0x45);
	vm_expect(t, 21 * S, 79 * S, 0);
	close_image(t);
	vm_clean("c.vmdk", 0);
}
END_TEST

/* A directory entry of 1 stands for a whole table of zeroes; a new table says so for the others. */
START_TEST(zero_tables)
{
	struct tapimg *t;

	make_image("p.vmdk", "vmdk", 64 * S, NULL, NULL);
	t = open_image("p.vmdk", "vmdk", TAPIMG_RDWR);
	vm_store(t, 0, 64 * S, 0x99);
	close_image(t);
	vm_sparse(64, 8, 7, false);
	put_le32(vm_bytes + 6 * S, 1);
	put_le32(vm_bytes + 1 * S, 1);
	put_file("a.vmdk", vm_bytes, 16 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	vm_expect(t, 0, 64 * S, 0);
	vm_store(t, 8 * S, S, 0x12);
	vm_expect(t, 9 * S, 55 * S, 0);
	close_image(t);
	ck_assert_uint_eq(vm_le32("a.vmdk", 16 * S), 1);
	ck_assert_uint_eq(vm_le32("a.vmdk", 16 * S + 4), 24);
	ck_assert_uint_eq(vm_le32("a.vmdk", 20 * S + 8), 1);
}
END_TEST

/* Marked while it is open and written to, not when it is only opened. */
START_TEST(marks)
{
	struct tapimg *t;
	uint32_t cid;

	make_image("a.vmdk", "vmdk", 1 * MiB, NULL, NULL);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	cid = vmdk_of(t)->desc.cid;
	ck_assert_uint_eq(vm_le32("a.vmdk", 72) & 0xff, 0);
	vm_store(t, 0, S, 1);
	ck_assert_uint_eq(vm_le32("a.vmdk", 72) & 0xff, 1);
	ck_assert_uint_ne(vmdk_of(t)->desc.cid, cid);
	close_image(t);
	ck_assert_uint_eq(vm_le32("a.vmdk", 72) & 0xff, 0);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	cid = vmdk_of(t)->desc.cid;
	vm_expect(t, 0, S, 1);
	close_image(t);
	t = open_image("a.vmdk", "vmdk", 0);
	ck_assert_uint_eq(vmdk_of(t)->desc.cid, cid);
	close_image(t);
}
END_TEST

/* ------------------------------------------------------------- check and repair */

START_TEST(copies)
{
	struct tapimg *t;

	/* one copy is sound, the other is not; both are, and differ; a grain is used twice */
	vm_sparse(64, 8, 3, true);
	memset(vm_bytes + 16 * S, 0x11, 8 * S);
	memset(vm_bytes + 24 * S, 0x22, 8 * S);
	vm_gte(0, 16, 1);
	vm_gte(0, 5, 2);
	vm_gte(1, 24, 2);
	vm_gte(1, 0xffff0000, 1);
	vm_gte(2, 24, 3);
	put_file("a.vmdk", vm_bytes, 32 * S);
	vm_clean("a.vmdk", 3);
	vm_repair("a.vmdk", 3);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	vm_expect(t, 0, 8 * S, 0x11);
	vm_expect(t, 8 * S, 16 * S, 0x22);
	vm_store(t, 8 * S, 8 * S, 0x23);
	vm_expect(t, 16 * S, 8 * S, 0x22);		/* its own now */
	close_image(t);

	vm_sparse(64, 8, 3, true);			/* the first directory is gone */
	memset(vm_bytes + 16 * S, 0x11, 8 * S);
	vm_gte(0, 16, 3);
	put_le32(vm_bytes + 6 * S, 0x7fffffff);
	put_file("b.vmdk", vm_bytes, 24 * S);
	vm_repair("b.vmdk", 1);
	t = open_image("b.vmdk", "vmdk", 0);
	vm_expect(t, 0, 8 * S, 0x11);
	close_image(t);

	vm_sparse(64, 8, 3, true);			/* and now the other one */
	memset(vm_bytes + 16 * S, 0x11, 8 * S);
	vm_gte(0, 16, 3);
	put_le32(vm_bytes + 1 * S, 0);
	put_file("c.vmdk", vm_bytes, 24 * S);
	vm_repair("c.vmdk", 1);
	ck_assert_uint_ne(vm_le32("c.vmdk", 1 * S), 0);

	vm_sparse(64, 8, 3, true);			/* a writer was cut off: that the copies differ is no damage */
	vm_bytes[72] = 1;
	vm_gte(0, 16, 2);
	put_file("d.vmdk", vm_bytes, 24 * S);
	vm_clean("d.vmdk", 0);
	vm_repair("d.vmdk", 0);
	ck_assert_uint_eq(vm_le32("d.vmdk", 72) & 0xff, 0);
	ck_assert_uint_eq(vm_le32("d.vmdk", 2 * S), 16);
}
END_TEST

START_TEST(leaks)
{
	struct tapimg_check c;
	struct tapimg *t;
	struct stat st;

	vm_sparse(64, 8, 3, true);
	memset(vm_bytes + 40 * S, 0x55, 8 * S);
	vm_gte(3, 40, 3);
	put_file("a.vmdk", vm_bytes, 56 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_CHECK | TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_check(t, TAPIMG_FIX_LEAKS, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.leaks, 4);
	ck_assert_uint_eq(c.leaks_fixed, 4);
	close_image(t);
	ck_assert_int_eq(stat("a.vmdk", &st), 0);
	ck_assert_int_eq(st.st_size, 24 * S);
	t = open_image("a.vmdk", "vmdk", 0);
	vm_expect(t, 24 * S, 8 * S, 0x55);
	close_image(t);
	vm_clean("a.vmdk", 0);
}
END_TEST

/* COWD's next free sector is behind all that is in use, or other writers destroy it. */
START_TEST(free_sector)
{
	vm_cowd(100, 1);
	put_le32(vm_bytes + 4 * S, 5);
	put_le32(vm_bytes + 5 * S, 37);
	put_le32(vm_bytes + 28, 6);
	memset(vm_bytes + 37 * S, 0x21, S);
	put_file("c.vmdk", vm_bytes, 38 * S);
	vm_repair("c.vmdk", 1);
	ck_assert_uint_eq(vm_le32("c.vmdk", 28), 38);
}
END_TEST

/* --------------------------------------------------------------------- chains */

START_TEST(chain)
{
	struct tapimg_open_opts o = { .format = "vmdk", .flags = TAPIMG_RDWR, .rdwr_layers = 1 };
	struct tapimg_err err = { 0 };
	struct tapimg *t;

	make_image("base.vmdk", "vmdk", 1 * MiB, NULL, NULL);
	t = open_image("base.vmdk", "vmdk", TAPIMG_RDWR);
	vm_store(t, 0, 64 * KiB, 1);
	close_image(t);
	make_image("child.vmdk", "vmdk", 1 * MiB, "base.vmdk", "vmdk");
	make_image("other.vmdk", "vmdk", 1 * MiB, "base.vmdk", "vmdk");
	t = open_image("child.vmdk", "vmdk", TAPIMG_RDWR);
	vm_store(t, 4096, 4096, 2);
	close_image(t);

	/* a commit keeps its child usable, and makes the other one stale */
	ck_assert_int_eq(tapimg_open(loop, "child.vmdk", &o, &t, &err), 0);
	ck_assert_msg(!tapimg_commit(t, 1, false, 0, NULL, NULL, &err), "%s", err.text);
	close_image(t);
	t = open_image("child.vmdk", "vmdk", 0);
	vm_expect(t, 0, 4096, 1);
	vm_expect(t, 4096, 4096, 2);
	vm_expect(t, 64 * KiB, 64 * KiB, 0);
	close_image(t);
	vm_fails("other.vmdk", 0, -ESTALE, "somebody has written to the parent");
	t = open_image("other.vmdk", "vmdk", TAPIMG_STALE_BACKING);
	vm_expect(t, 4096, 4096, 2);
	close_image(t);
	t = open_image("other.vmdk", "vmdk", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	ck_assert_msg(!tapimg_set_backing(t, "base.vmdk", "vmdk", &err), "%s", err.text);
	close_image(t);
	t = open_image("other.vmdk", "vmdk", 0);
	vm_expect(t, 4096, 4096, 2);
	close_image(t);
}
END_TEST

START_TEST(too_large)
{
	struct tapimg_opt opts[] = { { "subformat", "monolithicSparse" } };
	struct tapimg_create_opts c = { .format = "vmdk", .size = 3 * TiB, .opts = opts, .nopts = 1 };
	struct tapimg_err err = { 0 };

	ck_assert_int_eq(tapimg_create(loop, "a.vmdk", &c, &err), -EFBIG);
	ck_assert_msg(strstr(err.text, "twoGbMaxExtentSparse"), "%s", err.text);
	c.size = 300 * TiB;
	ck_assert_int_eq(tapimg_create(loop, "a.vmdk", &c, &err), -EFBIG);
	ck_assert_uint_eq(files_here(), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmdk");
	TCase *tc = tcase_create("all");

	tcase_add_checked_fixture(tc, scratch_enter, scratch_leave);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, entries);
	tcase_add_test(tc, bad_entries);
	tcase_add_test(tc, headers);
	tcase_add_test(tc, mixture);
	tcase_add_test(tc, create_types);
	tcase_add_test(tc, gate);
	tcase_add_test(tc, shared_places);
	tcase_add_test(tc, absent_tables);
	tcase_add_test(tc, zero_tables);
	tcase_add_test(tc, marks);
	tcase_add_test(tc, copies);
	tcase_add_test(tc, leaks);
	tcase_add_test(tc, free_sector);
	tcase_add_test(tc, chain);
	tcase_add_test(tc, too_large);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
