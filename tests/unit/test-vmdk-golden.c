/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vmdk-golden.c - what VMware's products write and no peer here reads rightly: images made byte by byte,
 * their descriptors included, and what has become of those bytes
 *
 * The numbers are those of VMware's "Virtual Disk Format 5.0" and of libvmdk's documentation.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "suite.h"
#include "vmdk-stream.h"
#include "vmdklib.h"

static struct tapimg_err err;

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
}

static void put_byte(const char *name, uint8_t byte, unsigned sectors)
{
	memset(vm_bytes, byte, sectors * S);
	put_file(name, vm_bytes, sectors * S);
}

static void text_is(const char *name, const char *text)
{
	ck_assert_msg(file_is(name, text, strlen(text)), "%s is not:\n%s", name, text);
}

static const char *fact(struct tapimg *t, const char *key)
{
	const struct tapimg_info *info;

	ck_assert_int_eq(tapimg_info(t, &info, &err), 0);
	for (unsigned i = 0; i < info->nfacts; i++)
		if (!strcmp(info->facts[i].key, key))
			return info->facts[i].str;
	return NULL;
}

static const char *parent(struct tapimg *t)
{
	const struct tapimg_info *info;

	ck_assert_int_eq(tapimg_info(t, &info, &err), 0);
	return info->backing;
}

/* ------------------------------------------------------------------- headers */

/* Version 3 without compression has a file beside it in which changes are tracked: it is only read. */
START_TEST(version_3)
{
	struct tapimg *t;

	vm_sparse(64, 8, 3, true);
	put_le32(vm_bytes + 4, 3);
	memset(vm_bytes + 16 * S, 0x31, 8 * S);
	vm_gte(5, 16, 3);
	put_file("a.vmdk", vm_bytes, 24 * S);
	t = open_image("a.vmdk", NULL, 0);
	vm_expect(t, 0, 40 * S, 0);
	vm_expect(t, 40 * S, 8 * S, 0x31);
	vm_expect(t, 48 * S, 16 * S, 0);
	close_image(t);
	vm_fails("a.vmdk", TAPIMG_RDWR, -EROFS, "version 3");
	vm_clean("a.vmdk", 0);
}
END_TEST

/* An entry of 1 is a grain of zeroes by flag 2, whatever the version; without it is an error. */
START_TEST(zeroed_grains)
{
	static const struct { uint32_t version, flags; bool zeroes; } v[] = {
		{ 1, 3, false }, { 2, 3, false }, { 1, 7, true }, { 2, 7, true }, { 3, 7, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		struct tapimg *t;

		vm_sparse(64, 8, v[i].flags, true);
		put_le32(vm_bytes + 4, v[i].version);
		vm_gte(3, 1, 3);
		put_file("a.vmdk", vm_bytes, 16 * S);
		t = open_image("a.vmdk", NULL, 0);
		vm_expect(t, 0, 24 * S, 0);
		if (v[i].zeroes) {
			struct tapimg_status st;

			vm_expect(t, 24 * S, 8 * S, 0);
			ck_assert_int_eq(tapimg_block_status(t, 24 * S, 40 * S, 0, &st), 0);
			ck_assert_uint_eq(st.len, 8 * S);
			ck_assert(st.flags & TAPIMG_ST_ZERO);
		} else {
			char b[S];

			ck_assert_int_eq(tapimg_pread(t, b, S, 24 * S), -EUCLEAN);
		}
		tapimg_close(t, NULL);
	}
}
END_TEST

/* Without flag 1 there is no second directory, whatever stands in its field; without flag 0 no newlines. */
START_TEST(one_directory)
{
	struct tapimg *t;

	vm_sparse(64, 8, 0, true);
	put_le64(vm_bytes + 48, 0x123456789);
	memset(vm_bytes + 73, 0xee, 4);
	memset(vm_bytes + S, 0xee, 5 * S);	/* nobody's */
	put_file("a.vmdk", vm_bytes, 16 * S);
	t = open_image("a.vmdk", NULL, TAPIMG_RDWR);
	vm_store(t, 8 * S, S, 0x41);
	vm_expect(t, 9 * S, 55 * S, 0);
	close_image(t);
	ck_assert_uint_eq(vm_le32("a.vmdk", 7 * S + 4), 16);	/* in the only table */
	ck_assert_uint_eq(vm_le32("a.vmdk", 2 * S + 4), 0xeeeeeeee);
	vm_clean("a.vmdk", 0);
}
END_TEST

/* Grains of one sector: 512 of them are all that a table covers, and the disk has a second table. */
START_TEST(grains_of_one_sector)
{
	struct tapimg *t;

	vm_sparse(515, 1, 3, true);
	put_le32(vm_bytes + 1 * S + 4, 11);		/* the second tables share one place behind the first */
	put_le32(vm_bytes + 6 * S + 4, 11);
	put_le64(vm_bytes + 64, 15);			/* grains from sector 15 on: not all multiples of much */
	vm_gte(511, 15, 3);
	put_le32(vm_bytes + 11 * S + 8, 17);		/* sector 514 */
	memset(vm_bytes + 15 * S, 0x51, S);
	memset(vm_bytes + 17 * S, 0x53, S);
	put_file("a.vmdk", vm_bytes, 18 * S);
	t = open_image("a.vmdk", NULL, 0);
	ck_assert_uint_eq(tapimg_size(t), 515 * S);
	vm_expect(t, 0, 511 * S, 0);
	vm_expect(t, 511 * S, S, 0x51);
	vm_expect(t, 512 * S, 2 * S, 0);
	vm_expect(t, 514 * S, S, 0x53);
	close_image(t);
}
END_TEST

/* --------------------------------------------------------- descriptors inside */

/* In sectors 11 to 15, @len bytes of text and NULs behind it; padded by a comment if there is more room. */
static void put_inside(const char *text, size_t len)
{
	size_t n = strlen(text);

	vm_sparse(64, 8, 3, true);
	put_le64(vm_bytes + 28, 11);
	put_le64(vm_bytes + 36, 5);
	memcpy(vm_bytes + 11 * S, text, n);
	if (n < len) {
		memset(vm_bytes + 11 * S + n, '#', len - n);
		vm_bytes[11 * S + len - 1] = '\n';
	}
	put_file("a.vmdk", vm_bytes, 16 * S);
}

#define INSIDE "# Disk DescriptorFile\nversion=1\nCID=0000abcd\nparentCID=ffffffff\n" \
	       "createType=\"monolithicSparse\"\nRW 64 SPARSE \"a.vmdk\"\nddb.adapterType = \"ide\"\n"

START_TEST(descriptor_fills_its_place)
{
	static const size_t lens[] = { 0, 1000, 5 * S - 1, 5 * S };
	static uint8_t was[16 * S];

	make_image("p.vmdk", "vmdk", 64 * S, NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		struct tapimg *t;
		int ret;

		put_inside(INSIDE, lens[i]);
		t = open_image("a.vmdk", NULL, TAPIMG_RDWR);
		ck_assert_uint_eq(vmdk_of(t)->desc.cid, 0xabcd);
		vm_store(t, 0, S, 1);		/* another id, of the same length */
		close_image(t);
		t = open_image("a.vmdk", NULL, 0);
		ck_assert_uint_ne(vmdk_of(t)->desc.cid, 0xabcd);
		ck_assert_str_eq(fact(t, "adapter-type"), "ide");
		vm_expect(t, 0, S, 1);
		close_image(t);
		vm_clean("a.vmdk", 0);
		/* a parent's name only where there is room; else nothing has changed */
		put_inside(INSIDE, lens[i]);
		memcpy(was, vm_bytes, sizeof(was));
		t = open_image("a.vmdk", NULL, TAPIMG_RDWR | TAPIMG_NO_BACKING);
		ret = tapimg_set_backing(t, "p.vmdk", "vmdk", &err);
		ck_assert_int_eq(ret, lens[i] < 2000 ? 0 : -ENOSPC);
		ck_assert_int_eq(file_is("a.vmdk", was, sizeof(was)), ret != 0);
		vm_store(t, 0, S, 2);		/* what had no room stands in no one's way */
		close_image(t);
		t = open_image("a.vmdk", NULL, 0);
		ck_assert_int_eq(!!parent(t), !ret);
		vm_expect(t, 0, S, 2);
		close_image(t);
	}
	/* no room at all, more than there is, more than a descriptor can have */
	put_inside(INSIDE, 0);
	put_le64(vm_bytes + 36, 0);
	put_file("a.vmdk", vm_bytes, 16 * S);
	vm_fails("a.vmdk", 0, -EINVAL, "descriptor at sector 11 of 0 sectors");
	put_le64(vm_bytes + 36, 6);
	put_file("a.vmdk", vm_bytes, 16 * S);
	vm_fails("a.vmdk", 0, -EINVAL, "descriptor at sector 11 of 6 sectors");
	put_le64(vm_bytes + 36, 4 * MiB / S + 1);
	put_file("a.vmdk", vm_bytes, 5 * MiB);
	vm_fails("a.vmdk", 0, -EINVAL, "too large");
}
END_TEST

/* A header of capacity 0 only holds the descriptor; the extents are other files. */
START_TEST(holder)
{
	struct tapimg *t;

	put_byte("f.bin", 0x61, 8);
	put_inside("version=1\nCID=0000abcd\nparentCID=ffffffff\ncreateType=\"custom\"\n"
		   "RW 6 FLAT \"f.bin\" 2\nRW 2 ZERO\n", 0);
	put_le64(vm_bytes + 12, 0);
	put_file("a.vmdk", vm_bytes, 16 * S);
	t = open_image("a.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_uint_eq(tapimg_size(t), 8 * S);
	vm_expect(t, 0, 6 * S, 0x61);
	vm_expect(t, 6 * S, 2 * S, 0);
	vm_store(t, 5 * S, S, 0x62);
	close_image(t);
	t = open_image("a.vmdk", NULL, 0);
	ck_assert_uint_ne(vmdk_of(t)->desc.cid, 0xabcd);
	vm_expect(t, 0, 5 * S, 0x61);
	vm_expect(t, 5 * S, S, 0x62);
	close_image(t);
	ck_assert_uint_eq(vm_le32("a.vmdk", 12), 0);
	ck_assert_uint_eq(vm_le32("f.bin", 7 * S), 0x62626262);
}
END_TEST

/* -------------------------------------------------------------------- deltas */

/*
 * COWD of 8200 sectors, grains of one: a directory of 3 entries in sector 4; tables of 32 sectors in 5 to 36 and 38 to
 * 69, the second of the three is missing; grains in 37, 70 and 71.
 */
static void put_cowd(void)
{
	vm_cowd(8200, 1);
	put_le32(vm_bytes + 24, 3);
	put_le32(vm_bytes + 28, 72);
	put_le32(vm_bytes + 4 * S, 5);
	put_le32(vm_bytes + 4 * S + 8, 38);
	put_le32(vm_bytes + 5 * S, 37);			/* sector 0 */
	put_le32(vm_bytes + 5 * S + 4 * 4095, 70);	/* sector 4095 */
	put_le32(vm_bytes + 38 * S + 4 * 7, 71);	/* sector 8199, the last */
	memset(vm_bytes + 37 * S, 0xc0, S);
	memset(vm_bytes + 70 * S, 0xc1, S);
	memset(vm_bytes + 71 * S, 0xc2, S);
	put_file("x-delta.vmdk", vm_bytes, 72 * S);
}

START_TEST(cowd_over_flat)
{
	struct tapimg *t;

	put_cowd();
	vm_clean("x-delta.vmdk", 0);
	put_byte("base-flat.vmdk", 0xb0, 8200);
	put_text("base.vmdk", "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\n"
		 "createType=\"vmfs\"\nRW 8200 VMFS \"base-flat.vmdk\"\n");
	put_text("x.vmdk", "# Disk DescriptorFile\nversion=1\nCID=0000000b\nparentCID=0000000a\n"
		 "createType=\"vmfsSparse\"\nparentFileNameHint=\"base.vmdk\"\n"
		 "RW 8200 VMFSSPARSE \"x-delta.vmdk\"\n");
	t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
	vm_expect(t, 0, S, 0xc0);
	vm_expect(t, S, 4094 * S, 0xb0);
	vm_expect(t, 4095 * S, S, 0xc1);
	vm_expect(t, 4096 * S, 4103 * S, 0xb0);
	vm_expect(t, 8199 * S, S, 0xc2);
	/* a part of a sector that has no table: that and the grain come where the header says, filled from the base */
	vm_store(t, 5000 * S + 100, 10, 0x77);
	close_image(t);
	ck_assert_uint_eq(vm_le32("x-delta.vmdk", 4 * S + 4), 72);
	ck_assert_uint_eq(vm_le32("x-delta.vmdk", 72 * S + 4 * (5000 - 4096)), 104);
	ck_assert_uint_eq(vm_le32("x-delta.vmdk", 28), 105);
	ck_assert_uint_eq(vm_le32("x-delta.vmdk", 104 * S + 96), 0xb0b0b0b0);
	ck_assert_uint_eq(vm_le32("x-delta.vmdk", 104 * S + 100), 0x77777777);
	ck_assert_uint_eq(vm_le32("base-flat.vmdk", 5000 * S + 100), 0xb0b0b0b0);
	vm_clean("x.vmdk", 0);
}
END_TEST

/* A parent that is smaller ends before its child; one that is larger is seen as far as the child goes. */
START_TEST(sizes_in_a_chain)
{
	static const unsigned sizes[] = { 1, 13, 63, 64, 65, 200 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		unsigned n = MIN(sizes[i], 64U);
		char text[300];
		struct tapimg *t;

		vm_sparse(64, 8, 3, true);
		put_file("s.vmdk", vm_bytes, 16 * S);
		put_byte("f.bin", 0xb0, sizes[i]);
		snprintf(text, sizeof(text), "version=1\nCID=0000000a\nRW %u FLAT \"f.bin\" 0\n", sizes[i]);
		put_text("p.vmdk", text);
		put_text("c.vmdk", "version=1\nCID=0000000b\nparentCID=0000000a\nparentFileNameHint=\"p.vmdk\"\n"
			 "RW 64 SPARSE \"s.vmdk\"\n");
		t = open_image("c.vmdk", NULL, TAPIMG_RDWR);
		ck_assert_uint_eq(tapimg_size(t), 64 * S);
		vm_expect(t, 0, n * S, 0xb0);
		vm_expect(t, n * S, (64 - n) * S, 0);
		vm_store(t, 12 * S, S, 0x33);		/* the grain of sectors 8 to 15 is filled from both */
		vm_expect(t, 0, MIN(n, 12U) * S, 0xb0);
		vm_expect(t, 12 * S, S, 0x33);
		if (n > 13)
			vm_expect(t, 13 * S, (n - 13) * S, 0xb0);
		vm_expect(t, MAX(n, 13U) * S, (64 - MAX(n, 13U)) * S, 0);
		close_image(t);
	}
}
END_TEST

/* ------------------------------------------------------------------- streams */

/*
 * The layout of ovftool: the header says that the directory is at the end; grains, behind them their table, the
 * directory, the footer and the end marker; in front of each but the grains a sector that says what comes.
 *	0	header			26	marker: 4 sectors of a table
 *	8-16	grain 0			27-30	table
 *	17-25	grain 3			31	marker: 1 sector of directory
 *					32	directory
 *					33	marker: footer
 *					34	footer
 *					35	end of the stream: zeroes
 */
static void put_stream(uint32_t version)
{
	uint8_t data[8 * S], *p = vm_bytes;

	memset(p, 0, sizeof(vm_bytes));
	put_le32(p, 0x564d444b);
	put_le32(p + 4, version);
	put_le32(p + 8, 0x30001);
	put_le64(p + 12, 8 * 5);		/* five grains */
	put_le64(p + 20, 8);
	put_le32(p + 44, 512);
	put_le64(p + 56, UINT64_MAX);
	put_le64(p + 64, 8);
	memcpy(p + 73, "\n \r\n", 4);
	put_le16(p + 77, 1);
	memset(data, 0xa0, sizeof(data));
	ck_assert_uint_eq(vm_grain(p + 8 * S, 0, data, sizeof(data), true), 9 * S);
	memset(data, 0xa3, sizeof(data));
	ck_assert_uint_eq(vm_grain(p + 17 * S, 24, data, sizeof(data), true), 9 * S);
	put_le64(p + 26 * S, 4);
	put_le32(p + 26 * S + 12, 1);
	put_le32(p + 27 * S, 8);
	put_le32(p + 27 * S + 12, 17);
	put_le64(p + 31 * S, 1);
	put_le32(p + 31 * S + 12, 2);
	put_le32(p + 32 * S, 27);
	put_le64(p + 33 * S, 1);
	put_le32(p + 33 * S + 12, 3);
	memcpy(p + 34 * S, p, S);
	put_le64(p + 34 * S + 56, 32);
	put_file("a.vmdk", p, 36 * S);
}

static void stream_reads(const char *name, unsigned flags)
{
	struct tapimg *t = open_image(name, NULL, flags);

	ck_assert_uint_eq(tapimg_size(t), 40 * S);
	vm_expect(t, 0, 8 * S, 0xa0);
	vm_expect(t, 8 * S, 16 * S, 0);
	vm_expect(t, 24 * S, 8 * S, 0xa3);
	vm_expect(t, 32 * S, 8 * S, 0);
	close_image(t);
}

START_TEST(footers)
{
	for (uint32_t version = 1; version <= 3; version++) {
		put_stream(version);
		stream_reads("a.vmdk", 0);
		vm_clean("a.vmdk", 0);
	}
	/* each part of the end is missed, and found again by looking at the grains */
	for (unsigned cut = 35; cut > 26; cut--) {
		put_file("a.vmdk", vm_bytes, cut * S - 1);
		vm_fails("a.vmdk", 0, -EUCLEAN, "footer is missing");
		if (cut > 33)		/* the directory was seen: that is all of the disk */
			stream_reads("a.vmdk", TAPIMG_SALVAGE);
	}
	put_file("a.vmdk", vm_bytes, 25 * S);	/* grain 3 is cut, so all before it is known */
	vm_fails("a.vmdk", 0, -EUCLEAN, "of the disk's 20480 bytes the first 12288 are there");
}
END_TEST

/* ------------------------------------------------- extents of all types, their names */

/* As Workstation describes a disk of which the guest gets some partitions: the others are not there. */
START_TEST(partitioned_device)
{
	struct tapimg *t;

	put_byte("pt.vmdk", 0x70, 2);
	memset(vm_bytes, 0x71, 20 * S);
	memset(vm_bytes + 10 * S, 0x72, 10 * S);
	put_file("disk.bin", vm_bytes, 20 * S);
	put_text("a.vmdk", "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\n"
		 "createType=\"partitionedDevice\"\n\n# Extent description\n"
		 "RW 2 FLAT \"pt.vmdk\" 0\n"
		 "RW 8 FLAT \"disk.bin\" 2 Partition 3c0a-77f1 \\\\.\\PhysicalDrive0\n"
		 "NOACCESS 4 FLAT \"disk.bin\" 10\nRDONLY 3 FLAT \"disk.bin\" 14\nRDONLY 3 ZERO\n\n");
	t = open_image("a.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_uint_eq(tapimg_size(t), 20 * S);
	vm_expect(t, 0, 2 * S, 0x70);
	vm_expect(t, 2 * S, 8 * S, 0x71);
	vm_expect(t, 10 * S, 4 * S, 0);
	vm_expect(t, 14 * S, 3 * S, 0x72);
	vm_expect(t, 17 * S, 3 * S, 0);
	vm_store(t, 9 * S, S, 0x7f);
	close_image(t);
	ck_assert_uint_eq(vm_le32("disk.bin", 9 * S), 0x7f7f7f7f);
	ck_assert_uint_eq(vm_le32("disk.bin", 10 * S), 0x72727272);
}
END_TEST

/* ESX's types of extents that are plain bytes, and those of raw devices; a file may be longer than the extent. */
START_TEST(plain_types)
{
	static const struct { const char *type, *extent; } v[] = {
		{ "vmfs", "VMFS" }, { "vmfsPreallocated", "VMFS" }, { "vmfsThin", "VMFS" },
		{ "vmfsEagerZeroedThick", "VMFS" }, { "vmfsRDM", "VMFSRDM" },
		{ "vmfsRawDeviceMap", "VMFSRDM" }, { "vmfsRDMP", "VMFSRDM" },
		{ "vmfsPassthroughRawDeviceMap", "VMFSRDM" }, { "vmfsRaw", "VMFSRAW" },
		{ "fullDevice", "FLAT" }, { "custom", "FLAT" }, { "", "FLAT" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		char text[300];
		struct tapimg *t;

		put_byte("x.bin", 0x5a, 7);
		snprintf(text, sizeof(text), "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\n"
			 "createType=\"%s\"\nRW 6 %s \"x.bin\"%s\n", v[i].type, v[i].extent,
			 strcmp(v[i].extent, "FLAT") ? "" : " 0");
		put_text("x.vmdk", text);
		t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
		ck_assert_uint_eq(tapimg_size(t), 6 * S);
		vm_store(t, 5 * S, S, 0x5b);
		vm_expect(t, 0, 5 * S, 0x5a);
		ck_assert_msg(!*v[i].type || !strcmp(fact(t, "create-type"), v[i].type), "%s", v[i].type);
		close_image(t);
		ck_assert_uint_eq(vm_le32("x.bin", 5 * S), 0x5b5b5b5b);
		ck_assert_uint_eq(vm_le32("x.bin", 6 * S), 0x5a5a5a5a);
	}
}
END_TEST

/* What is written is missing in the file that tracks changes: its line ends with the first write, not before. */
START_TEST(tracked_changes)
{
	static const char text[] = "# Disk DescriptorFile\nversion=3\nCID=0000000a\nparentCID=ffffffff\n"
		"createType=\"vmfs\"\nRW 4 VMFS \"x-flat.vmdk\"\n\n# Change Tracking File\n"
		"changeTrackPath=\"x-ctk.vmdk\"\n";
	char now[sizeof(text)], id[9];
	struct tapimg *t;

	put_byte("x-flat.vmdk", 0, 4);
	put_text("x.vmdk", text);
	t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_str_eq(fact(t, "change-track-file"), "x-ctk.vmdk");
	close_image(t);
	text_is("x.vmdk", text);
	t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
	vm_store(t, 0, S, 9);
	snprintf(id, sizeof(id), "%08x", vmdk_of(t)->desc.cid);
	close_image(t);
	strcpy(now, text);
	memcpy(strstr(now, "0000000a"), id, 8);
	memcpy(strstr(now, "changeTrackPath"), "#tracking ended", 15);
	text_is("x.vmdk", now);
	t = open_image("x.vmdk", NULL, 0);
	ck_assert_ptr_null(fact(t, "change-track-file"));
	close_image(t);
}
END_TEST

/* Names are in the descriptor's encoding, also those that are written into it; files have them in UTF-8. */
START_TEST(encoded_names)
{
	struct tapimg *t;

	put_byte("\xc3\xbc-f001.vmdk", 1, 8);
	put_byte("\xc3\xbc-f002.vmdk", 2, 4);
	put_text("x.vmdk", "version=1\nencoding=\"windows-1252\"\nCID=0000000a\ncreateType=\"twoGbMaxExtentFlat\"\n"
		 "RW 8 FLAT \"\xfc-f001.vmdk\" 0\nRW 4 FLAT \"\xfc-f002.vmdk\" 0\n");
	t = open_image("x.vmdk", NULL, TAPIMG_RDWR);
	vm_expect(t, 8 * S, 4 * S, 2);
	ck_assert_msg(!tapimg_resize(t, 20 * S, TAPIMG_PREALLOC_OFF, false, &err), "%s", err.text);
	vm_store(t, 16 * S, 4 * S, 3);
	close_image(t);
	t = open_image("x.vmdk", NULL, 0);
	ck_assert_ptr_nonnull(strstr(vmdk_of(t)->desc.text, "RW 4 FLAT \"\xfc-f003.vmdk\" 0\n"));
	vm_expect(t, 12 * S, 4 * S, 0);
	vm_expect(t, 16 * S, 4 * S, 3);
	close_image(t);
	ck_assert_uint_eq(vm_le32("\xc3\xbc-f003.vmdk", 0), 0x03030303);

	/* a parent: in GBK, and one whose name that has not */
	make_image("\xe6\xb5\x8b.vmdk", "vmdk", 64 * S, NULL, NULL);
	make_image("\xd8\xb9.vmdk", "vmdk", 64 * S, NULL, NULL);
	vm_sparse(64, 8, 3, true);
	put_file("s.vmdk", vm_bytes, 16 * S);
	put_text("c.vmdk", "version=1\nencoding=\"GBK\"\nCID=0000000a\ncreateType=\"custom\"\nRW 64 SPARSE \"s.vmdk\"\n");
	t = open_image("c.vmdk", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_set_backing(t, "\xd8\xb9.vmdk", "vmdk", &err), -EILSEQ);
	ck_assert_msg(strstr(err.text, "c.vmdk: ") && strstr(err.text, "encoding, GBK"), "%s", err.text);
	ck_assert_msg(!tapimg_set_backing(t, "\xe6\xb5\x8b.vmdk", "vmdk", &err), "%s", err.text);
	close_image(t);
	t = open_image("c.vmdk", NULL, 0);
	ck_assert_ptr_nonnull(strstr(vmdk_of(t)->desc.text, "parentFileNameHint=\"\xb2\xe2.vmdk\"\n"));
	ck_assert_str_eq(parent(t), "\xe6\xb5\x8b.vmdk");
	close_image(t);
}
END_TEST

/* A name with a colon is no scheme; that of a Windows folder is looked for beside the child. */
START_TEST(names_that_look_like_more)
{
	struct tapimg *t;

	put_byte("old:disk-flat.vmdk", 0x6b, 4);
	put_text("old:disk.vmdk", "version=1\nCID=0000000a\nRW 4 FLAT \"old:disk-flat.vmdk\" 0\n");
	t = open_image("./old:disk.vmdk", "vmdk", 0);
	vm_expect(t, 0, 4 * S, 0x6b);
	close_image(t);
	vm_sparse(64, 8, 3, true);
	put_file("s.vmdk", vm_bytes, 16 * S);
	put_text("c.vmdk", "version=1\nCID=0000000b\nparentCID=0000000a\nparentFileNameHint=\"old:disk.vmdk\"\n"
		 "RW 64 SPARSE \"s.vmdk\"\n");
	t = open_image("c.vmdk", NULL, 0);
	vm_expect(t, 0, 4 * S, 0x6b);
	close_image(t);
	put_text("w.vmdk", "version=1\r\nCID=0000000b\r\nparentCID=0000000a\r\n"
		 "parentFileNameHint=\"C:\\VMs\\one\\base.vmdk\"\r\nRW 64 SPARSE \"s.vmdk\"\r\n");
	put_text("base.vmdk", "version=1\nCID=0000000a\nRW 4 FLAT \"old:disk-flat.vmdk\" 0\n");
	t = open_image("w.vmdk", NULL, 0);
	vm_expect(t, 0, 4 * S, 0x6b);
	close_image(t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmdk-golden");
	TCase *tc = tcase_create("all");

	tcase_add_checked_fixture(tc, setup, scratch_leave);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, version_3);
	tcase_add_test(tc, zeroed_grains);
	tcase_add_test(tc, one_directory);
	tcase_add_test(tc, grains_of_one_sector);
	tcase_add_test(tc, descriptor_fills_its_place);
	tcase_add_test(tc, holder);
	tcase_add_test(tc, cowd_over_flat);
	tcase_add_test(tc, sizes_in_a_chain);
	tcase_add_test(tc, footers);
	tcase_add_test(tc, partitioned_device);
	tcase_add_test(tc, plain_types);
	tcase_add_test(tc, tracked_changes);
	tcase_add_test(tc, encoded_names);
	tcase_add_test(tc, names_that_look_like_more);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
