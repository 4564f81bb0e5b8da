/* SPDX-License-Identifier: BSD-2-Clause */
/* test-vhd.c - VHD: layout byte by byte, names of parents, opening, reading and writing */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "suite.h"
#include "vhdlib.h"

static struct tapimg_err err;

/* --------------------------------------------------------------------- layout */

/* Every byte of a new image: what is not listed is zero; times and UUIDs are looked at apart. */
struct golden {
	uint64_t off;
	const char *hex;	/* "..": any byte */
};

static void golden_check(const char *name, const struct golden *g, unsigned n, uint64_t size)
{
	uint8_t *want = calloc(1, size), *any = calloc(1, size), *have = malloc(size);

	ck_assert_uint_eq(v_size(name), size);
	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; g[i].hex[2 * k]; k++) {
			char b[3] = { g[i].hex[2 * k], g[i].hex[2 * k + 1] };

			any[g[i].off + k] = b[0] == '.';
			want[g[i].off + k] = b[0] == '.' ? 0 : strtoul(b, NULL, 16);
		}
	v_read(name, have, size, 0);
	for (uint64_t i = 0; i < size; i++)
		if (!any[i] && have[i] != want[i])
			ck_abort_msg("%s: byte %llu is %02x, not %02x", name, (unsigned long long)i,
				     have[i], want[i]);
	free(want);
	free(any);
	free(have);
}

#define ANY4 "........"
#define ANY16 ANY4 ANY4 ANY4 ANY4
/* cookie, features, version, header at 512, time, "tap", 1.3, OS, 10 MiB twice, 301/4/17, type, sum, UUID */
#define FOOTER(type) "636f6e65637469780000000200010000000000000000""0200" ANY4 \
	"746170000001000300000000" "0000000000a000000000000000a00000" "012d0411" type ANY4 ANY16
#define HEADER "6378737061727365ffffffffffffffff0000000000000600000100000000000500200000" ANY4
#define BATMAP "7464626174""6d617000000000000""00a00" "00000001" "00010002" "ffffffff"

START_TEST(new_images_byte_by_byte)
{
	const struct golden dynamic[] = {
		{ 0, FOOTER("00000003") }, { 512, HEADER },
		{ 1536, "ffffffffffffffffffffffffffffffffffffffff" }, { 2048, BATMAP },
		{ 3072, FOOTER("00000003") },
	};
	char ff[2 * 492 + 1];
	struct golden g[6];

	memset(ff, 'f', sizeof(ff) - 1);
	ff[sizeof(ff) - 1] = 0;
	memcpy(g, dynamic, sizeof(dynamic));
	g[5] = (struct golden){ 1556, ff };
	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	golden_check(IMG, g, 6, 3584);
	/* sums as the specification has them */
	ck_assert_uint_eq(v_peek(IMG, 64, 4), v_peek(IMG, 3072 + 64, 4));
	v_sum_footer(IMG, 0);
	ck_assert_uint_eq(v_peek(IMG, 64, 4), v_peek(IMG, 3072 + 64, 4));
	ck_assert_uint_ne(v_peek(IMG, 68, 8), 0);
	ck_assert_uint_eq(v_peek(IMG, 74, 1) >> 4, 4);
}
END_TEST

START_TEST(new_fixed_images_byte_by_byte)
{
	const struct golden fixed[] = {
		{ 10 * MiB, "636f6e65637469780000000200010000ffffffffffffffff" ANY4 "746170000001000300000000"
		  "0000000000a000000000000000a00000" "012d0411" "00000002" ANY4 ANY16 },
	};

	v_make(IMG, 10 * MiB, "subformat=fixed", NULL, NULL);
	golden_check(IMG, fixed, 1, 10 * MiB + 512);
}
END_TEST

/* UUID and time of the parent, then its name; three locators; their bytes behind the batmap. */
START_TEST(new_children_byte_by_byte)
{
	const struct golden child[] = {
		{ 0, FOOTER("00000004") }, { 512, HEADER ANY16 ANY4 },
		{ 512 + 64, "0061002e007600680064" },
		{ 512 + 576, "4d616358" "00000200" "0000000e" "00000000" "0000000000000c00"
			     "57326b75" "00000200" "0000000e" "00000000" "0000000000000e00"
			     "57327275" "00000200" "0000000e" "00000000" "0000000000001000" },
		{ 2048, BATMAP },
		{ 3072, "66696c653a2f2f2e2f612e766864" }, { 3584, "2e005c0061002e00760068006400" },
		{ 4096, "2e005c0061002e00760068006400" }, { 4608, FOOTER("00000004") },
	};
	char ff[2 * 512 + 1];
	struct golden g[ARRAY_SIZE(child) + 1];

	memset(ff, 'f', sizeof(ff) - 1);
	ff[sizeof(ff) - 1] = 0;
	memcpy(g, child, sizeof(child));
	g[ARRAY_SIZE(child)] = (struct golden){ 1536, ff };
	v_make("a.vhd", 10 * MiB, NULL, NULL, NULL);
	v_make(IMG, 10 * MiB, NULL, "a.vhd", "vhd");
	golden_check(IMG, g, ARRAY_SIZE(g), 5120);
}
END_TEST

START_TEST(locators_byte_by_byte)
{
	/* "file://./a.vhd", ".\a.vhd" in UTF-16LE twice, the name in UTF-16BE */
	const char *macx = "66696c653a2f2f2e2f612e766864", *w2 = "2e005c0061002e00760068006400";
	char hex[64];
	uint8_t b[64];

	v_make("a.vhd", 10 * MiB, NULL, NULL, NULL);
	v_make(IMG, 10 * MiB, NULL, "a.vhd", "vhd");
	ck_assert_uint_eq(v_size(IMG), 3072 + 3 * 512 + 512);
	ck_assert_uint_eq(v_peek(IMG, 60, 4), VHD_TYPE_DIFF);
	for (unsigned i = 0; i < 3; i++) {
		static const uint32_t codes[] = { 0x4d616358, 0x57326b75, 0x57327275 };
		uint64_t l = 512 + 576 + 24 * i;
		const char *want = i ? w2 : macx;

		ck_assert_uint_eq(v_peek(IMG, l, 4), codes[i]);
		ck_assert_uint_eq(v_peek(IMG, l + 4, 4), 512);
		ck_assert_uint_eq(v_peek(IMG, l + 8, 4), 14);
		ck_assert_uint_eq(v_peek(IMG, l + 16, 8), 3072 + 512 * i);
		v_read(IMG, b, 14, 3072 + 512 * i);
		for (unsigned k = 0; k < 14; k++)
			snprintf(hex + 2 * k, 3, "%02x", b[k]);
		ck_assert_str_eq(hex, want);
	}
	v_read(IMG, b, 12, 512 + 64);
	ck_assert(!memcmp(b, "\0a\0.\0v\0h\0d\0\0", 12));
	/* the parent is meant by its UUID */
	ck_assert_uint_eq(v_peek(IMG, 512 + 40, 8), v_peek("a.vhd", 68, 8));
	ck_assert_uint_eq(v_peek(IMG, 512 + 48, 8), v_peek("a.vhd", 76, 8));
}
END_TEST

/* Sizes that QEMU makes of sizes asked for, and geometries of well-known disks. */
START_TEST(geometry)
{
	static const struct { uint64_t ask, get; } sizes[] = {
		{ 1 * MiB, 1079296 }, { 10 * MiB, 10514432 }, { 100 * MiB, 104865792 },
		{ 1 * GiB, 1073995776 }, { 4 * GiB, 4295467008 }, { 10 * GiB, 10737893376 },
		{ 100 * GiB, 107374632960 }, { 127 * GiB, 136365219840 },
		{ 136899993600, 136899993600 }, { 136899994112, 136899994112 }, { 1 * TiB, 1 * TiB },
	};
	static const struct { uint64_t size; struct vhd_geometry g; } disks[] = {
		{ 10485760, { 301, 4, 17 } }, { 536870912, { 1040, 16, 63 } },
		{ 136365211648, { 65278, 16, 255 } }, { 104448, { 3, 4, 17 } },
		{ 2 * TiB, { 65535, 16, 255 } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		ck_assert_uint_eq(vhd_geometry_size(sizes[i].ask), sizes[i].get);
	for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
		struct vhd_geometry g = vhd_geometry(disks[i].size / 512);

		ck_assert(g.cyls == disks[i].g.cyls && g.heads == disks[i].g.heads &&
			  g.spt == disks[i].g.spt);
	}
}
END_TEST

START_TEST(names)
{
	static const char *const good[] = { "./a.vhd", "/x/y.vhd", "../\xc3\xa4\xf0\x9f\x92\xbe.vhd" };
	static const char *const bad[] = { "\xc3", "\xff", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80" };
	static const uint32_t codes[] = { VHD_LOC_MACX, VHD_LOC_W2KU, VHD_LOC_W2RU };
	static const uint8_t lone[] = { 0x00, 0xd8, 'a', 0 };
	size_t len;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		for (unsigned k = 0; k < 3; k++) {
			uint8_t *b = vhd_locator_encode(codes[k], good[i], &len);
			char *s = vhd_locator_decode(codes[k], b, len);

			ck_assert_str_eq(s, good[i]);
			free(s);
			free(b);
		}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_ptr_null(vhd_utf16_encode(bad[i], true, &len));
	ck_assert_ptr_null(vhd_utf16_decode(lone, sizeof(lone), false));
	ck_assert_ptr_null(vhd_locator_decode(VHD_LOC_MAC, lone, 4));
	ck_assert_ptr_null(vhd_locator_decode(VHD_LOC_MACX, (const uint8_t *)"http://a", 8));
}
END_TEST

/* Nothing that an image says is taken for more than a path. */
START_TEST(names_stay_paths)
{
	static const struct { const char *stored, *want; } n[] = {
		{ "a.vhd", "./a.vhd" }, { "C:\\x\\a.vhd", "./C:/x/a.vhd" }, { "json:{}", "./json:{}" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(n); i++) {
		size_t len;
		uint8_t *b = vhd_utf16_encode(n[i].stored, false, &len);
		char *s = vhd_locator_decode(VHD_LOC_W2KU, b, len);

		ck_assert_str_eq(s, n[i].want);
		free(s);
		free(b);
	}
}
END_TEST

START_TEST(relative_paths)
{
	static const struct { const char *from, *path, *want; } n[] = {
		{ "d/c.vhd", "d/a.vhd", "./a.vhd" }, { "d/e/c.vhd", "d/a.vhd", "../a.vhd" },
		{ "d/c.vhd", "d/e/a.vhd", "./e/a.vhd" }, { "c.vhd", "d/e/a.vhd", "./d/e/a.vhd" },
		{ "d/e/c.vhd", "a.vhd", "../../a.vhd" }, { "d/c.vhd", "dd/a.vhd", "../dd/a.vhd" },
	};

	ck_assert_int_eq(system("mkdir -p d/e dd"), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++) {
		char *s = vhd_relative_path(n[i].from, n[i].path);

		ck_assert_str_eq(s, n[i].want);
		free(s);
	}
}
END_TEST

/* -------------------------------------------------------------------- opening */

static const struct {
	uint64_t off, value;
	unsigned bytes;
	bool header, footer;	/* whose sum is put right */
	const char *says;
	int code;
} broken[] = {
	{ 512, 0, 1, false, false, "header is invalid: invalid cookie", -EUCLEAN },
	{ 512 + 36, 0, 4, false, false, "header is invalid: invalid checksum", -EUCLEAN },
	{ 512 + 24, 0x00020000, 4, true, false, "header is invalid: invalid header version", -EUCLEAN },
	{ 512 + 16, 1537, 8, true, false, "header is invalid: invalid table offset", -EUCLEAN },
	{ 512 + 16, 0, 8, true, false, "header is invalid: invalid table offset", -EUCLEAN },
	{ 512 + 16, 512, 8, true, false, "header is invalid: invalid table offset", -EUCLEAN },
	{ 512 + 16, 1024, 8, true, false, "header is invalid: invalid table offset", -EUCLEAN },
	{ 512 + 16, 1ULL << 40, 8, true, false, "not inside the file", -EUCLEAN },
	{ 512 + 32, 0x200001, 4, true, false, "header is invalid: invalid block size", -EUCLEAN },
	{ 512 + 32, 512, 4, true, false, "header is invalid: invalid block size", -EUCLEAN },
	{ 512 + 32, 0x80000000, 4, true, false, "header is invalid: invalid block size", -EUCLEAN },
	{ 512 + 28, 4, 4, true, false, "VHD size (5 blocks) exceeds BAT size (4)", -EUCLEAN },
	{ 512 + 28, 0xffffffff, 4, true, false, "not inside the file", -EUCLEAN },
	{ 16, 1ULL << 60, 8, false, true, "not inside the file", -EUCLEAN },
	{ 16, 513, 8, false, true, "not inside the file", -EUCLEAN },
	{ 12, 0x00020000, 4, false, true, "footer version 0x20000", -ENOTSUP },
	{ 32, 1, 4, false, true, "version 0.1", -ENOTSUP },
	{ 48, 1ULL << 63, 8, false, true, "too large", -EFBIG },
	{ 0, 0x765f706f69736f6eULL, 8, false, true, "disabled", -EINVAL },
};

START_TEST(damage_is_named)
{
	struct tapimg_open_opts o = { .format = "vhd" };

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_poke(IMG, broken[_i].off, broken[_i].value, broken[_i].bytes);
	if (broken[_i].header)
		v_sum_header(IMG);
	if (broken[_i].footer)
		v_sum_footer(IMG, 0);
	ck_assert_int_eq(open_fails(IMG, &o, &err), broken[_i].code);
	ck_assert_msg(strstr(err.text, broken[_i].says), "%s", err.text);
	ck_assert_msg(strstr(err.text, IMG), "%s", err.text);
}
END_TEST

START_TEST(not_a_vhd)
{
	struct tapimg_open_opts o = { .format = "vhd" };
	char text[2000] = "nothing";

	put_text(IMG, "short");
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
	ck_assert(strstr(err.text, "only 5 bytes"));
	put_file(IMG, text, sizeof(text));
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
	ck_assert(strstr(err.text, "no valid footer"));
}
END_TEST

/* Either footer will do; and what the file is called by nobody decides nothing. */
START_TEST(one_footer_is_enough)
{
	struct tapimg *img;

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 7, 0, 4096);
	v_poke(IMG, v_trailer(IMG), 0xc7c7c7c7, 4);	/* as tapdisk leaves it while it writes */
	v_expect(IMG, 7, 0, 4096);
	img = open_image(IMG, NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "vpc");
	close_image(img);
	/* opened for writing, it is made good */
	close_image(open_image(IMG, "vhd", TAPIMG_RDWR));
	v_clean(IMG);
	v_poke(IMG, 0, 0, 8);
	img = open_image(IMG, NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "vpc");
	close_image(img);
	v_expect(IMG, 7, 0, 4096);
}
END_TEST

START_TEST(trailers_of_511_bytes)
{
	uint64_t end;

	v_make(IMG, 1 * MiB, "subformat=fixed", NULL, NULL);
	v_fill(IMG, 9, 1 * MiB - 512, 512);
	end = v_size(IMG);
	v_cut(IMG, end - 1);
	v_expect(IMG, 9, 1 * MiB - 512, 512);
	close_image(open_image(IMG, NULL, 0));
}
END_TEST

/* A guest that writes the head of a differencing image into its first sectors gets no other file. */
START_TEST(fixed_disks_stay_fixed)
{
	struct tapimg *img;
	uint8_t head[4096];

	put_text("secret", "what only the host may read");
	truncate("secret", 1 * MiB);
	v_make("evil.vhd", 1 * MiB, NULL, "secret", "raw");
	v_make(IMG, 1 * MiB, "subformat=fixed", NULL, NULL);
	v_read("evil.vhd", head, sizeof(head), 0);
	v_write(IMG, head, sizeof(head), 0);
	img = open_image(IMG, "vhd", 0);
	ck_assert_ptr_null(tapimg_backing(img));
	ck_assert_uint_eq(tapimg_size(img), 1 * MiB);
	close_image(img);
}
END_TEST

START_TEST(sizes_by_creator)
{
	static const struct { const char *creator; uint64_t size; } c[] = {
		{ "vpc ", 301ULL * 4 * 17 * 512 }, { "qemu", 301ULL * 4 * 17 * 512 },
		{ "qem2", 10 * MiB }, { "win ", 10 * MiB }, { "d2v ", 10 * MiB }, { "?   ", 10 * MiB },
	};
	struct tapimg *img;

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_write(IMG, c[_i].creator, 4, 28);
	v_sum_footer(IMG, 0);
	img = open_image(IMG, NULL, 0);
	ck_assert_uint_eq(tapimg_size(img), c[_i].size);
	close_image(img);
}
END_TEST

/* -------------------------------------------------------------------- parents */

START_TEST(parents_are_told_by_their_uuid)
{
	struct tapimg_open_opts o = { .format = "vhd" };

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);	/* another disk under the same name */
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "UUID"), "%s", err.text);
}
END_TEST

START_TEST(the_first_locator_that_exists_counts)
{
	static const struct { unsigned dead; } n[] = { { 0 }, { 1 }, { 2 }, { 3 } };
	uint8_t x[512] = "file://./gone";

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, 512);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	for (unsigned i = 0; i < n[_i].dead; i++) {
		uint64_t off = v_peek(IMG, 512 + 576 + 24 * i + 16, 8);

		v_write(IMG, x, 14, off);	/* in W2ku no name at all */
	}
	v_expect(IMG, 5, 0, 512);		/* last: the bare name of the header */
}
END_TEST

START_TEST(parents_of_other_formats)
{
	static const char *const fmt[] = { "raw", "qcow2", "vpc" };
	struct tapimg *img;
	char name[16];

	snprintf(name, sizeof(name), "p.%s", fmt[_i]);
	make_image(name, fmt[_i], 3 * MiB, NULL, NULL);
	img = open_image(name, fmt[_i], TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, "abc", 3, 100), 0);
	close_image(img);
	v_make(IMG, 5 * MiB, NULL, name, fmt[_i]);
	v_expect(IMG, 'b', 101, 1);
	v_fill(IMG, 'x', 100, 1);		/* one byte: the rest of the sector is copied up */
	v_expect(IMG, 'x', 100, 1);
	v_expect(IMG, 'b', 101, 1);
	v_expect(IMG, 0, 3 * MiB, 2 * MiB);
	img = open_image(IMG, NULL, 0);
	ck_assert_str_eq(tapimg_format(tapimg_backing(img)), fmt[_i]);
	close_image(img);
	v_clean(IMG);
}
END_TEST

/* -------------------------------------------------------------------- writing */

START_TEST(data_are_aligned_and_bits_are_exact)
{
	uint64_t b;

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, BLK + 1024, 512);
	v_fill(IMG, 2, 3 * BLK, 4096);
	b = v_block(IMG, 1);
	ck_assert_uint_eq((b + 512) % 4096, 0);
	ck_assert_uint_eq(v_peek(IMG, b, 8), 0x20ULL << 56);
	ck_assert_uint_eq(v_peek(IMG, b + 512 + 1024, 4), 0x01010101);
	ck_assert_uint_eq(v_block(IMG, 3), b + BLK + 4096);
	ck_assert_uint_eq(v_peek(IMG, v_block(IMG, 3), 2), 0xff00);
	ck_assert_uint_eq(v_size(IMG), v_block(IMG, 3) + 512 + BLK + 512);
	v_clean(IMG);
}
END_TEST

START_TEST(the_batmap_is_kept)
{
	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 2 * BLK);
	v_fill(IMG, 1, 2 * BLK, BLK - 512);
	ck_assert_uint_eq(v_peek(IMG, 2560, 1), 0xc0);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 24, 4), (uint32_t)~0xc0);
	v_fill(IMG, 1, 3 * BLK - 512, 512);
	ck_assert_uint_eq(v_peek(IMG, 2560, 1), 0xe0);
	/* one that is wrong is not believed */
	v_poke(IMG, 2560, 0xf8, 1);
	v_expect(IMG, 0, 3 * BLK, BLK);
	ck_assert_uint_eq(v_check(IMG, 0)->c.leaks, 1);
	v_fill(IMG, 1, 4 * BLK, 512);
	v_clean(IMG);
}
END_TEST

START_TEST(discarding_gives_space_back)
{
	struct tapimg *img;
	uint64_t full, three;

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 10 * MiB);
	full = v_size(IMG);
	img = open_image(IMG, NULL, TAPIMG_RDWR | TAPIMG_UNMAP);
	ck_assert_int_eq(tapimg_discard(img, BLK - 512, 2 * BLK + 512), 0);
	ck_assert_int_eq(tapimg_discard(img, 4 * BLK, BLK), 0);
	close_image(img);
	ck_assert_uint_eq(v_block(IMG, 1), 0);
	ck_assert_uint_eq(v_block(IMG, 2), 0);
	ck_assert_uint_ne(v_block(IMG, 0), 0);
	three = v_size(IMG);
	ck_assert_uint_lt(three, full);
	v_clean(IMG);
	v_expect(IMG, 0, BLK, 2 * BLK);
	v_expect(IMG, 1, 0, BLK - 512);
	/* the gaps are found again, and no old byte with them */
	v_fill(IMG, 2, BLK + 4096, 512);
	ck_assert_uint_eq(v_size(IMG), three);
	v_expect(IMG, 0, BLK, 4096);
	v_expect(IMG, 0, BLK + 4096 + 512, 65536);
	ck_assert_uint_eq(v_peek(IMG, v_block(IMG, 1) + 512, 8), 0);	/* not even behind the map */
	v_clean(IMG);
}
END_TEST

START_TEST(a_child_hides_its_parent)
{
	struct tapimg *img;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, 4 * MiB);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	img = open_image(IMG, NULL, TAPIMG_RDWR | TAPIMG_UNMAP);
	ck_assert_int_eq(tapimg_zero(img, 4096, 3 * MiB, TAPIMG_REQ_MAY_UNMAP), 0);
	ck_assert_int_eq(tapimg_discard(img, 0, 4 * MiB), 0);
	close_image(img);
	v_expect(IMG, 5, 0, 4096);
	v_expect(IMG, 0, 4096, 3 * MiB);
	v_expect(IMG, 5, 4096 + 3 * MiB, MiB - 4096);
	v_clean(IMG);
}
END_TEST

static const char *const random_opts[] = {
	"", "block_size=4096", "block_size=65536", "block_size=8M", "batmap=off", "subformat=fixed",
};

START_TEST(random_requests)
{
	const uint64_t size = 9 * MiB + 512;
	uint8_t *want = calloc(1, size), *buf = malloc(size);
	struct tapimg *img;

	srand(_i);
	v_make("p.vhd", size, NULL, NULL, NULL);
	v_fill("p.vhd", 3, 1 * MiB, 2 * MiB);
	if (_i % 2) {
		v_make(IMG, size, random_opts[_i / 2], NULL, NULL);
	} else {
		if (!strcmp(random_opts[_i / 2], "subformat=fixed"))
			goto out;
		v_make(IMG, size, random_opts[_i / 2], "p.vhd", "vhd");
		memset(want + 1 * MiB, 3, 2 * MiB);
	}
	for (unsigned round = 0; round < 2; round++) {
		img = open_image(IMG, NULL, TAPIMG_RDWR | TAPIMG_UNMAP);
		for (unsigned k = 0; k < 50; k++) {
			uint64_t off = rand() % size, len = rand() % (rand() % 4 ? 20000 : 5 * MiB);
			int what = rand() % 10;

			len = MIN(len, size - off);
			if (what < 8) {
				memset(buf, rand(), len);
				ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
				memcpy(want + off, buf, len);
			} else {
				ck_assert_int_eq(tapimg_zero(img, off, len, what == 8 ?
							     TAPIMG_REQ_MAY_UNMAP : 0), 0);
				memset(want + off, 0, len);
			}
		}
		ck_assert_int_eq(tapimg_pread(img, buf, size, 0), 0);
		ck_assert(!memcmp(buf, want, size));
		close_image(img);
		v_clean(IMG);
		img = open_image(IMG, NULL, 0);
		ck_assert_int_eq(tapimg_pread(img, buf, size, 0), 0);
		ck_assert(!memcmp(buf, want, size));
		close_image(img);
	}
out:
	free(want);
	free(buf);
}
END_TEST

START_TEST(entries_that_lie_are_met)
{
	static const struct { uint32_t entry; const char *says; } e[] = {
		{ 0, "copy of the footer" }, { 1, "header" }, { 3, "block table" },
		{ 0x7fffffff, "beyond the end" },
	};
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR };
	struct tapimg *img;
	uint8_t b[512];

	v_make(IMG, 10 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 512);
	v_poke(IMG, 1536 + 8, e[_i].entry, 4);
	img = open_image(IMG, NULL, 0);
	ck_assert_int_eq(tapimg_pread(img, b, 512, 0), 0);
	ck_assert_int_eq(tapimg_pread(img, b, 512, 2 * BLK), -EUCLEAN);
	close_image(img);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, e[_i].says) && strstr(err.text, "block 2"), "%s", err.text);
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 1);
	v_check(IMG, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	v_clean(IMG);
	v_expect(IMG, 1, 0, 512);
}
END_TEST

START_TEST(bad_options)
{
	static const struct { const char *name, *value, *says; uint64_t size; } bad[] = {
		{ "block_size", "3M", "power of two", MiB }, { "block_size", "0", "power of two", MiB },
		{ "block_size", "512", "power of two", MiB }, { "block_size", "128M", "power of two", MiB },
		{ "subformat", "sparse", "subformat", MiB }, { "size", "2041G", "2040", 2041 * GiB },
		{ "reserve_size", "512k", "reserve_size", MiB }, { "preallocation", "full", "fixed", MiB },
	};
	struct tapimg_opt opt = { bad[_i].name, bad[_i].value };
	struct tapimg_create_opts o = { .format = "vhd", .size = bad[_i].size, .opts = &opt, .nopts = 1 };

	memset(&err, 0, sizeof(err));
	ck_assert_int_lt(tapimg_create(loop, IMG, &o, &err), 0);
	ck_assert_msg(strstr(err.text, bad[_i].says), "%s", err.text);
	ck_assert_uint_eq(files_here(), 0);
}
END_TEST

START_TEST(measured_sizes_are_right)
{
	static const char *const opts[] = { NULL, "block_size=65536", "subformat=fixed", "batmap=off" };
	struct tapimg_opt opt[1] = { { "size", "9M" } };
	struct tapimg_create_opts o = { .format = "vhd", .size = 9 * MiB, .opts = opt, .nopts = 1 };
	struct tapimg_measure m;
	char *copy = opts[_i] ? strdup(opts[_i]) : NULL, *eq = copy ? strchr(copy, '=') : NULL;

	if (copy) {
		*eq = 0;
		opt[0] = (struct tapimg_opt){ copy, eq + 1 };
	}
	ck_assert_int_eq(tapimg_measure(loop, NULL, &o, &m, &err), 0);
	v_make(IMG, 9 * MiB, opts[_i], NULL, NULL);
	ck_assert_uint_eq(v_size(IMG), m.required);
	v_fill(IMG, 1, 0, 9 * MiB);
	ck_assert_uint_eq(v_size(IMG), m.fully_allocated);
	free(copy);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vhd");
	TCase *tc = tcase_create("vhd");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, scratch_enter, scratch_leave);
	tcase_add_test(tc, new_images_byte_by_byte);
	tcase_add_test(tc, new_fixed_images_byte_by_byte);
	tcase_add_test(tc, new_children_byte_by_byte);
	tcase_add_test(tc, locators_byte_by_byte);
	tcase_add_test(tc, geometry);
	tcase_add_test(tc, names);
	tcase_add_test(tc, names_stay_paths);
	tcase_add_test(tc, relative_paths);
	tcase_add_loop_test(tc, damage_is_named, 0, ARRAY_SIZE(broken));
	tcase_add_test(tc, not_a_vhd);
	tcase_add_test(tc, one_footer_is_enough);
	tcase_add_test(tc, trailers_of_511_bytes);
	tcase_add_test(tc, fixed_disks_stay_fixed);
	tcase_add_loop_test(tc, sizes_by_creator, 0, 6);
	tcase_add_test(tc, parents_are_told_by_their_uuid);
	tcase_add_loop_test(tc, the_first_locator_that_exists_counts, 0, 4);
	tcase_add_loop_test(tc, parents_of_other_formats, 0, 3);
	tcase_add_test(tc, data_are_aligned_and_bits_are_exact);
	tcase_add_test(tc, the_batmap_is_kept);
	tcase_add_test(tc, discarding_gives_space_back);
	tcase_add_test(tc, a_child_hides_its_parent);
	tcase_add_loop_test(tc, random_requests, 0, 2 * ARRAY_SIZE(random_opts));
	tcase_add_loop_test(tc, entries_that_lie_are_met, 0, 4);
	tcase_add_loop_test(tc, bad_options, 0, 8);
	tcase_add_loop_test(tc, measured_sizes_are_right, 0, 4);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
