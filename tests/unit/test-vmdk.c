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

#include "scratch.h"
#include "vmdk.h"

#define S 512

static uint8_t img[8 * MiB], buf[4 * MiB];

static bool is_byte(const uint8_t *p, size_t len, uint8_t v)
{
	while (len--)
		if (*p++ != v)
			return false;
	return true;
}

static void expect(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v)
{
	ck_assert_int_eq(tapimg_pread(t, buf, len, off), 0);
	ck_assert_msg(is_byte(buf, len, v), "byte 0x%x at 0x%llx, not 0x%x", buf[0],
		      (unsigned long long)off, v);
}

static void store(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v)
{
	memset(buf, v, len);
	ck_assert_int_eq(tapimg_pwrite(t, buf, len, off), 0);
}

static struct tapimg *open_err(const char *name, unsigned flags, const char *format,
			       struct tapimg_err *err)
{
	struct tapimg_open_opts o = { .format = format, .flags = flags };
	struct tapimg *t = NULL;

	memset(err, 0, sizeof(*err));
	tapimg_open(loop, name, &o, &t, err);
	return t;
}

static void fails(const char *name, unsigned flags, int code, const char *text)
{
	struct tapimg_err err;
	struct tapimg *t = open_err(name, flags, "vmdk", &err);

	ck_assert_msg(!t, "opened, though: %s", text);
	ck_assert_msg(err.code == code && strstr(err.text, text), "%d: %s", err.code, err.text);
}

static void check_clean(const char *name, uint64_t corruptions)
{
	struct tapimg *t = open_image(name, "vmdk", TAPIMG_CHECK | TAPIMG_NO_BACKING);
	struct tapimg_check c;

	ck_assert_int_eq(tapimg_check(t, 0, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.corruptions, corruptions);
	close_image(t);
}

static void repair(const char *name, uint64_t corruptions)
{
	struct tapimg *t = open_image(name, "vmdk", TAPIMG_CHECK | TAPIMG_NO_BACKING | TAPIMG_RDWR);
	struct tapimg_check c;

	ck_assert_int_eq(tapimg_check(t, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.corruptions, corruptions);
	ck_assert_uint_eq(c.corruptions_fixed, corruptions);
	close_image(t);
	check_clean(name, 0);
}

/* ------------------------------------------------------------------ building */

/*
 * A hosted sparse extent without a descriptor: header in sector 0; redundant directory in sector 1
 * and its table in 2 to 5; directory in 6 and its table in 7 to 10; grains from sector 16 on.
 */
static void sparse(uint64_t capacity, uint32_t grain, uint32_t flags, bool tables)
{
	memset(img, 0, sizeof(img));
	put_le32(img, 0x564d444b);
	put_le32(img + 4, flags & 4 ? 2 : 1);
	put_le32(img + 8, flags);
	put_le64(img + 12, capacity);
	put_le64(img + 20, grain);
	put_le32(img + 44, 512);
	put_le64(img + 48, 1);
	put_le64(img + 56, 6);
	put_le64(img + 64, 16);
	memcpy(img + 73, "\n \r\n", 4);
	if (tables) {
		put_le32(img + 1 * S, 2);
		put_le32(img + 6 * S, 7);
	}
}

/* entry @i of the tables, in one copy (1: redundant, 2: first) or both (3) */
static void gte(unsigned i, uint32_t sector, unsigned copies)
{
	if (copies & 1)
		put_le32(img + 2 * S + 4 * i, sector);
	if (copies & 2)
		put_le32(img + 7 * S + 4 * i, sector);
}

/* COWD: header in sectors 0 to 3, a directory of one entry in sector 4, nothing else. */
static void cowd(uint32_t sectors, uint32_t grain)
{
	memset(img, 0, sizeof(img));
	memcpy(img, "COWD", 4);
	put_le32(img + 4, 1);
	put_le32(img + 8, 3);
	put_le32(img + 12, sectors);
	put_le32(img + 16, grain);
	put_le32(img + 20, 4);
	put_le32(img + 24, 1);
	put_le32(img + 28, 5);
}

static uint32_t file_le32(const char *name, long at)
{
	uint8_t b[4];
	FILE *f = fopen(name, "r");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
	ck_assert_int_eq(fread(b, 1, 4, f), 4);
	fclose(f);
	return get_le32(b);
}

/* ------------------------------------------------------------------- reading */

START_TEST(entries)
{
	struct tapimg *t;

	sparse(64, 8, 7, true);		/* 8 grains of 4 KiB, zeroed ones allowed */
	memset(img + 16 * S, 0x11, 8 * S);
	memset(img + 24 * S, 0x22, 8 * S);
	gte(0, 24, 3);
	gte(2, 1, 3);			/* zeroes */
	gte(7, 16, 3);
	put_file("a.vmdk", img, 32 * S);
	t = open_image("a.vmdk", NULL, 0);
	ck_assert_str_eq(tapimg_format(t), "vmdk");
	ck_assert_uint_eq(tapimg_size(t), 64 * S);
	expect(t, 0, 8 * S, 0x22);
	expect(t, 8 * S, 48 * S, 0);
	expect(t, 56 * S, 8 * S, 0x11);
	close_image(t);
	check_clean("a.vmdk", 0);
}
END_TEST

/* Table entries that point nowhere are errors, each with its place; never somebody else's bytes. */
START_TEST(bad_entries)
{
	static const uint32_t bad[] = { 1, 3, 9, 32, 0xffffffff };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct tapimg *t;

		sparse(64, 8, 3, true);
		gte(1, bad[i], 3);
		gte(2, 24, 3);
		memset(img + 24 * S, 0x33, 8 * S);
		put_file("a.vmdk", img, 32 * S);
		t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
		ck_assert_int_eq(tapimg_pread(t, buf, S, 8 * S), -EUCLEAN);
		ck_assert_int_eq(tapimg_pwrite(t, buf, S, 8 * S), -EUCLEAN);
		tapimg_close(t, NULL);
		check_clean("a.vmdk", 1);
		repair("a.vmdk", 1);
		t = open_image("a.vmdk", "vmdk", 0);
		expect(t, 8 * S, 8 * S, 0);
		expect(t, 16 * S, 8 * S, 0x33);
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

		sparse(64, 8, 3, true);
		put_le64(b, v[i].value);
		memcpy(img + v[i].at, b, v[i].len);
		put_file("a.vmdk", img, 32 * S);
		fails("a.vmdk", 0, v[i].code, v[i].text);
	}
	put_file("a.vmdk", img, 100);
	fails("a.vmdk", 0, -EINVAL, "has only 100 bytes");
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
	sparse(64, 8, 3, true);
	put_file("s.vmdk", img, 16 * S);
	cowd(20, 1);
	put_file("c.vmdk", img, 5 * S);
	put_text("m.vmdk", text);
	t = open_image("m.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_uint_eq(tapimg_size(t), 155 * S);
	expect(t, 0, 63 * S, 0xf1);
	expect(t, 63 * S, 12 * S, 0);
	expect(t, 75 * S, 10 * S, 0xf2);
	expect(t, 85 * S, 70 * S, 0);
	store(t, 84 * S + 100 + S, 60 * S, 0x77);	/* over sparse and COWD, in the middle of sectors */
	expect(t, 85 * S, 100, 0);
	expect(t, 85 * S + 100, 60 * S, 0x77);
	expect(t, 145 * S + 100, 10 * S - 100, 0);
	store(t, 0, 63 * S, 0x10);
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 64 * S), -EROFS);	/* there is nothing to write to */
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 70 * S), -EROFS);
	ck_assert_int_eq(tapimg_pwrite(t, buf, S, 80 * S), -EROFS);
	ck_assert_int_eq(tapimg_zero(t, 63 * S, 5 * S, 0), 0);
	close_image(t);
	t = open_image("m.vmdk", NULL, 0);
	expect(t, 0, 63 * S, 0x10);
	expect(t, 75 * S, 10 * S, 0xf2);
	expect(t, 85 * S + 100, 60 * S, 0x77);
	expect(t, 145 * S + 100, 10 * S - 100, 0);
	close_image(t);
	check_clean("m.vmdk", 0);
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
		expect(t, 0, 4 * S, 0x5a);
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
	fails("in/a.vmdk", 0, -EPERM, "outside of its folder");
	fails("in/b.vmdk", 0, -EPERM, "outside of its folder");
	fails("in/c.vmdk", 0, -EPERM, "outside of its folder");
	t = open_err("in/d.vmdk", 0, "vmdk", &err);
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
	fails("a.vmdk", TAPIMG_RDWR, -EINVAL, "same part");
	put_text("b.vmdk", "version=1\nRW 5 FLAT \"f.bin\" 0\n");
	fails("b.vmdk", 0, -EINVAL, "has 2048 bytes");
	put_text("c.vmdk", "version=1\nCID=1\n");
	fails("c.vmdk", 0, -EINVAL, "no extent");
}
END_TEST

/* ------------------------------------------------------------------- writing */

/* Where a table is missing it is made, behind everything else; peers write over the header. */
START_TEST(absent_tables)
{
	struct tapimg *t;

	sparse(64, 8, 3, false);
	put_file("a.vmdk", img, 16 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	store(t, 20 * S, S, 0x44);
	close_image(t);
	ck_assert_uint_eq(file_le32("a.vmdk", 0), 0x564d444b);
	/* a chunk of one grain holds both tables, the grain comes behind it */
	ck_assert_uint_eq(file_le32("a.vmdk", 6 * S), 16);
	ck_assert_uint_eq(file_le32("a.vmdk", 1 * S), 20);
	ck_assert_uint_eq(file_le32("a.vmdk", 16 * S + 4 * 2), 24);
	ck_assert_uint_eq(file_le32("a.vmdk", 20 * S + 4 * 2), 24);
	t = open_image("a.vmdk", "vmdk", 0);
	expect(t, 0, 20 * S, 0);
	expect(t, 20 * S, S, 0x44);
	expect(t, 21 * S, 43 * S, 0);
	close_image(t);
	check_clean("a.vmdk", 0);

	cowd(100, 1);
	put_file("c.vmdk", img, 5 * S);
	t = open_image("c.vmdk", "vmdk", TAPIMG_RDWR);
	store(t, 20 * S, S, 0x45);
	close_image(t);
	/* header, directory in sector 4, table of 32 sectors from 5 on, the grain in 37, next free 38 */
	ck_assert_uint_eq(file_le32("c.vmdk", 0), 0x44574f43);
	ck_assert_uint_eq(file_le32("c.vmdk", 4 * S), 5);
	ck_assert_uint_eq(file_le32("c.vmdk", 5 * S + 4 * 20), 37);
	ck_assert_uint_eq(file_le32("c.vmdk", 28), 38);
	ck_assert_uint_eq(file_le32("c.vmdk", 1648), 0);
	t = open_image("c.vmdk", "vmdk", 0);
	expect(t, 0, 20 * S, 0);
	expect(t, 20 * S, S, 0x45);
	expect(t, 21 * S, 79 * S, 0);
	close_image(t);
	check_clean("c.vmdk", 0);
}
END_TEST

/* A directory entry of 1 stands for a whole table of zeroes; a new table says so for the others. */
START_TEST(zero_tables)
{
	struct tapimg *t;

	make_image("p.vmdk", "vmdk", 64 * S, NULL, NULL);
	t = open_image("p.vmdk", "vmdk", TAPIMG_RDWR);
	store(t, 0, 64 * S, 0x99);
	close_image(t);
	sparse(64, 8, 7, false);
	put_le32(img + 6 * S, 1);
	put_le32(img + 1 * S, 1);
	put_file("a.vmdk", img, 16 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	expect(t, 0, 64 * S, 0);
	store(t, 8 * S, S, 0x12);
	expect(t, 9 * S, 55 * S, 0);
	close_image(t);
	ck_assert_uint_eq(file_le32("a.vmdk", 16 * S), 1);
	ck_assert_uint_eq(file_le32("a.vmdk", 16 * S + 4), 24);
	ck_assert_uint_eq(file_le32("a.vmdk", 20 * S + 8), 1);
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
	ck_assert_uint_eq(file_le32("a.vmdk", 72) & 0xff, 0);
	store(t, 0, S, 1);
	ck_assert_uint_eq(file_le32("a.vmdk", 72) & 0xff, 1);
	ck_assert_uint_ne(vmdk_of(t)->desc.cid, cid);
	close_image(t);
	ck_assert_uint_eq(file_le32("a.vmdk", 72) & 0xff, 0);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	cid = vmdk_of(t)->desc.cid;
	expect(t, 0, S, 1);
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
	sparse(64, 8, 3, true);
	memset(img + 16 * S, 0x11, 8 * S);
	memset(img + 24 * S, 0x22, 8 * S);
	gte(0, 16, 1);
	gte(0, 5, 2);
	gte(1, 24, 2);
	gte(1, 0xffff0000, 1);
	gte(2, 24, 3);
	put_file("a.vmdk", img, 32 * S);
	check_clean("a.vmdk", 3);
	repair("a.vmdk", 3);
	t = open_image("a.vmdk", "vmdk", TAPIMG_RDWR);
	expect(t, 0, 8 * S, 0x11);
	expect(t, 8 * S, 16 * S, 0x22);
	store(t, 8 * S, 8 * S, 0x23);
	expect(t, 16 * S, 8 * S, 0x22);		/* its own now */
	close_image(t);

	sparse(64, 8, 3, true);			/* the first directory is gone */
	memset(img + 16 * S, 0x11, 8 * S);
	gte(0, 16, 3);
	put_le32(img + 6 * S, 0x7fffffff);
	put_file("b.vmdk", img, 24 * S);
	repair("b.vmdk", 1);
	t = open_image("b.vmdk", "vmdk", 0);
	expect(t, 0, 8 * S, 0x11);
	close_image(t);

	sparse(64, 8, 3, true);			/* and now the other one */
	memset(img + 16 * S, 0x11, 8 * S);
	gte(0, 16, 3);
	put_le32(img + 1 * S, 0);
	put_file("c.vmdk", img, 24 * S);
	repair("c.vmdk", 1);
	ck_assert_uint_ne(file_le32("c.vmdk", 1 * S), 0);

	sparse(64, 8, 3, true);			/* a writer was cut off: that the copies differ is no damage */
	img[72] = 1;
	gte(0, 16, 2);
	put_file("d.vmdk", img, 24 * S);
	check_clean("d.vmdk", 0);
	repair("d.vmdk", 0);
	ck_assert_uint_eq(file_le32("d.vmdk", 72) & 0xff, 0);
	ck_assert_uint_eq(file_le32("d.vmdk", 2 * S), 16);
}
END_TEST

START_TEST(leaks)
{
	struct tapimg_check c;
	struct tapimg *t;
	struct stat st;

	sparse(64, 8, 3, true);
	memset(img + 40 * S, 0x55, 8 * S);
	gte(3, 40, 3);
	put_file("a.vmdk", img, 56 * S);
	t = open_image("a.vmdk", "vmdk", TAPIMG_CHECK | TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_check(t, TAPIMG_FIX_LEAKS, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.leaks, 4);
	ck_assert_uint_eq(c.leaks_fixed, 4);
	close_image(t);
	ck_assert_int_eq(stat("a.vmdk", &st), 0);
	ck_assert_int_eq(st.st_size, 24 * S);
	t = open_image("a.vmdk", "vmdk", 0);
	expect(t, 24 * S, 8 * S, 0x55);
	close_image(t);
	check_clean("a.vmdk", 0);
}
END_TEST

/* COWD's next free sector is behind all that is in use, or other writers destroy it. */
START_TEST(free_sector)
{
	cowd(100, 1);
	put_le32(img + 4 * S, 5);
	put_le32(img + 5 * S, 37);
	put_le32(img + 28, 6);
	memset(img + 37 * S, 0x21, S);
	put_file("c.vmdk", img, 38 * S);
	repair("c.vmdk", 1);
	ck_assert_uint_eq(file_le32("c.vmdk", 28), 38);
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
	store(t, 0, 64 * KiB, 1);
	close_image(t);
	make_image("child.vmdk", "vmdk", 1 * MiB, "base.vmdk", "vmdk");
	make_image("other.vmdk", "vmdk", 1 * MiB, "base.vmdk", "vmdk");
	t = open_image("child.vmdk", "vmdk", TAPIMG_RDWR);
	store(t, 4096, 4096, 2);
	close_image(t);

	/* a commit keeps its child usable, and makes the other one stale */
	ck_assert_int_eq(tapimg_open(loop, "child.vmdk", &o, &t, &err), 0);
	ck_assert_msg(!tapimg_commit(t, 1, false, 0, NULL, NULL, &err), "%s", err.text);
	close_image(t);
	t = open_image("child.vmdk", "vmdk", 0);
	expect(t, 0, 4096, 1);
	expect(t, 4096, 4096, 2);
	expect(t, 64 * KiB, 64 * KiB, 0);
	close_image(t);
	fails("other.vmdk", 0, -ESTALE, "somebody has written to the parent");
	t = open_image("other.vmdk", "vmdk", TAPIMG_STALE_BACKING);
	expect(t, 4096, 4096, 2);
	close_image(t);
	t = open_image("other.vmdk", "vmdk", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	ck_assert_msg(!tapimg_set_backing(t, "base.vmdk", "vmdk", &err), "%s", err.text);
	close_image(t);
	t = open_image("other.vmdk", "vmdk", 0);
	expect(t, 4096, 4096, 2);
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
	SRunner *sr;
	int n;

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
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	n = srunner_ntests_failed(sr);
	srunner_free(sr);
	return n != 0;
}
