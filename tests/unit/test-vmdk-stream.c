/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vmdk-stream.c - compressed VMDK extents: writing them, reading all shapes, damage; seSparse
 *
 * What products wrote is read by tests/interop; here are the shapes and the damage that none of them
 * provides, made byte by byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "suite.h"
#include "vmdk-stream.h"
#include "vmdklib.h"

#define GRAIN (64 * KiB)
#define SPAN (512 * GRAIN)		/* of a grain table */

static struct tapimg_err err;
static uint8_t one[GRAIN], two[GRAIN], img_bytes[4 * MiB];

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
}

/* Text that shrinks by half or so, another one for each seed. */
static void fill(uint8_t *p, size_t len, unsigned seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ULL + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = 'a' + (x & 15);
	}
}

static struct tapimg *begin(const char *name, uint64_t size, const char *level)
{
	struct tapimg_opt opts[2] = { { "subformat", "streamOptimized" }, { "compression_level", level } };
	struct tapimg_create_opts o = { .format = "vmdk", .size = size, .opts = opts,
					.nopts = level ? 2 : 1 };
	struct tapimg_open_opts how = { .flags = TAPIMG_UNSAFE };
	struct tapimg *img = NULL;

	ck_assert_msg(!tapimg_create_open(loop, name, &o, &how, &img, &err), "%s", err.text);
	return img;
}

struct coded {
	struct tapimg_req req;
	struct iovec iov;
	bool done;
};

static void coded_done(struct tapimg_req *req)
{
	((struct coded *)req->opaque)->done = true;
}

static void coded_start(struct coded *c, struct tapimg *img, void *buf, uint64_t len, uint64_t off)
{
	*c = (struct coded){ .iov = { buf, len } };
	c->req = (struct tapimg_req){ .op = TAPIMG_WRITE_COMPRESSED, .off = off, .len = len, .iov = &c->iov,
				      .iovcnt = 1, .done = coded_done, .opaque = c };
	tapimg_submit(img, &c->req);
}

static int coded(struct tapimg *img, void *buf, uint64_t len, uint64_t off)
{
	struct coded c;

	coded_start(&c, img, buf, len, off);
	while (!c.done)
		tapimg_loop_run(loop, true);
	return c.req.ret;
}

static size_t load(const char *name)
{
	FILE *f = fopen(name, "rb");
	size_t n;

	ck_assert_ptr_nonnull(f);
	n = fread(img_bytes, 1, sizeof(img_bytes), f);
	ck_assert_uint_lt(n, sizeof(img_bytes));
	fclose(f);
	return n;
}

static void reads(struct tapimg *img, uint64_t off, unsigned seed, uint64_t len)
{
	if (seed)
		fill(one, len, seed);
	else
		memset(one, 0, len);
	memset(two, 0xee, len);
	ck_assert_int_eq(tapimg_pread(img, two, len, off), 0);
	ck_assert_msg(!memcmp(one, two, len), "wrong at 0x%llx", (unsigned long long)off);
}

/* Grains 0, 1, 5, one in the third table, and the last, which is cut to 3 sectors: 1 to 5 are their seeds. */
#define LAST (5 * SPAN + GRAIN)
static const uint64_t sample_off[] = { 0, GRAIN, 5 * GRAIN, 2 * SPAN + 7 * GRAIN, LAST };

static void write_sample(const char *name, const char *level)
{
	struct tapimg *img = begin(name, LAST + 1536, level);

	for (unsigned i = 0; i < 5; i++) {
		uint64_t len = i == 4 ? 1536 : GRAIN;

		fill(one, len, i + 1);
		ck_assert_int_eq(coded(img, one, len, sample_off[i]), 0);
	}
	close_image(img);
}

static void check_sample(struct tapimg *img)
{
	ck_assert_uint_eq(tapimg_size(img), LAST + 1536);
	for (unsigned i = 0; i < 5; i++)
		reads(img, sample_off[i], i + 1, i == 4 ? 1536 : GRAIN);
	reads(img, 2 * GRAIN, 0, GRAIN);
	reads(img, SPAN, 0, GRAIN);
	reads(img, 5 * SPAN, 0, GRAIN);
}

/* --------------------------------------------------------------------- writing */

START_TEST(what_is_written_is_read)
{
	static const char *const levels[] = { NULL, "1", "9", "12" };
	struct tapimg *img;

	write_sample("a", levels[_i]);
	img = open_image("a", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "vmdk");
	check_sample(img);
	/* parts, across grains, and from the middle */
	fill(one, GRAIN, 2);
	ck_assert_int_eq(tapimg_pread(img, two, 2000, GRAIN + 100), 0);
	ck_assert_int_eq(memcmp(one + 100, two, 2000), 0);
	close_image(img);
}
END_TEST

/* All that stands at a fixed place, as the specification and ESX want it. */
START_TEST(the_layout)
{
	static const uint8_t newlines[] = { 0x0a, 0x20, 0x0d, 0x0a };
	size_t size;
	uint8_t *p = img_bytes, *f;
	uint64_t pos = 128 * 512;
	unsigned grains = 0, tables = 0;

	write_sample("a", NULL);
	size = load("a");
	ck_assert_uint_eq(size % 512, 0);
	ck_assert_uint_eq(get_le32(p), 0x564d444b);
	ck_assert_uint_eq(get_le32(p + 4), 3);
	ck_assert_uint_eq(get_le32(p + 8), 0x30001);
	ck_assert_uint_eq(get_le64(p + 12), (LAST + 1536) / 512);
	ck_assert_uint_eq(get_le64(p + 20), 128);
	ck_assert_uint_eq(get_le64(p + 28), 1);
	ck_assert_uint_eq(get_le64(p + 36), 20);
	ck_assert_uint_eq(get_le32(p + 44), 512);
	ck_assert_uint_eq(get_le64(p + 48), 0);
	ck_assert_uint_eq(get_le64(p + 56), UINT64_MAX);
	ck_assert_uint_eq(get_le64(p + 64), 128);
	ck_assert_uint_eq(p[72], 0);
	ck_assert_int_eq(memcmp(p + 73, newlines, 4), 0);
	ck_assert_uint_eq(get_le16(p + 77), 1);
	ck_assert_ptr_nonnull(strstr((char *)p + 512, "createType=\"streamOptimized\""));
	ck_assert_ptr_nonnull(strstr((char *)p + 512, "ddb.adapterType = \"lsilogic\""));
	ck_assert_ptr_nonnull(strstr((char *)p + 512, "ddb.longContentID = \""));
	/* from the end: footer marker, footer, end of stream */
	f = p + size - 1024;
	ck_assert_uint_eq(get_le64(f - 512), 1);
	ck_assert_uint_eq(get_le32(f - 512 + 12), 3);
	ck_assert_int_eq(memcmp(f, p, 56), 0);
	ck_assert_int_eq(memcmp(f + 64, p + 64, 448), 0);
	ck_assert_uint_eq(get_le64(f + 512) | get_le32(f + 520) | get_le32(f + 524), 0);
	/* grains in order, the table of each behind it, then the directory */
	while (get_le32(p + pos + 8) || get_le32(p + pos + 12) != 2) {
		uint32_t len = get_le32(p + pos + 8);

		if (len) {
			ck_assert_uint_eq(get_le64(p + pos) * 512, sample_off[grains]);
			pos += round_up(12 + len, 512);
			grains++;
		} else {
			ck_assert_uint_eq(get_le32(p + pos + 12), 1);
			ck_assert_uint_eq(get_le64(p + pos), 4);
			pos += 512 + 2048;
			tables++;
			ck_assert_uint_eq(grains, tables == 1 ? 3 : tables == 2 ? 4 : 5);
		}
	}
	ck_assert_uint_eq(grains, 5);
	ck_assert_uint_eq(tables, 3);
	ck_assert_uint_eq(get_le64(f + 56) * 512, pos + 512);
	/* of six tables three are there */
	for (unsigned i = 0; i < 6; i++)
		ck_assert_int_eq(!get_le32(p + pos + 512 + 4 * i), i == 1 || i == 3 || i == 4);
}
END_TEST

START_TEST(the_same_copy_makes_the_same_stream)
{
	size_t size;
	uint8_t *first;

	write_sample("a", NULL);
	write_sample("other-name", NULL);
	size = load("a");
	first = malloc(size);
	memcpy(first, img_bytes, size);
	ck_assert(file_is("other-name", first, size));
	/* also when many are under way, coded in any order */
	for (unsigned round = 0; round < 3; round++) {
		static uint8_t bufs[5][GRAIN];
		struct coded c[5];
		struct tapimg *img = begin("b", LAST + 1536, NULL);

		for (unsigned i = 0; i < 5; i++) {
			uint64_t len = i == 4 ? 1536 : GRAIN;

			fill(bufs[i], len, i + 1);
			coded_start(&c[i], img, bufs[i], len, sample_off[i]);
		}
		for (unsigned i = 0; i < 5; i++)
			while (!c[i].done)
				tapimg_loop_run(loop, true);
		close_image(img);
		ck_assert(file_is("b", first, size));
	}
	free(first);
}
END_TEST

START_TEST(only_from_begin_to_end)
{
	struct tapimg *img = begin("a", LAST, NULL);

	fill(one, GRAIN, 1);
	ck_assert_int_eq(tapimg_pwrite(img, one, GRAIN, 0), -ENOTSUP);
	ck_assert_int_eq(coded(img, one, GRAIN, 3 * GRAIN), 0);
	ck_assert_int_eq(coded(img, one, GRAIN, 3 * GRAIN), -ENOTSUP);
	ck_assert_int_eq(coded(img, one, GRAIN, 0), -ENOTSUP);
	ck_assert_int_eq(coded(img, one, GRAIN, 5 * GRAIN + 512), -EINVAL);
	ck_assert_int_eq(coded(img, one, 1000, 5 * GRAIN), -EINVAL);
	/* zeroes need nothing; those that are too late cannot be had */
	ck_assert_int_eq(tapimg_zero(img, 4 * GRAIN, 2 * GRAIN, 0), 0);
	ck_assert_int_eq(tapimg_zero(img, 3 * GRAIN, GRAIN, 0), -ENOTSUP);
	ck_assert_int_eq(tapimg_pread(img, two, GRAIN, 0), -EOPNOTSUPP);
	ck_assert_int_eq(coded(img, one, GRAIN, 4 * GRAIN), 0);
	close_image(img);
	img = open_image("a", "vmdk", 0);
	reads(img, 3 * GRAIN, 1, GRAIN);
	reads(img, 4 * GRAIN, 1, GRAIN);
	reads(img, 0, 0, GRAIN);
	ck_assert_int_eq(tapimg_pwrite(img, one, GRAIN, 0), -EROFS);
	close_image(img);
	/* one that has data is finished for good; an empty one can still be filled */
	ck_assert_int_eq(open_fails("a", &(struct tapimg_open_opts){ .flags = TAPIMG_RDWR }, &err), -EROFS);
	ck_assert_ptr_nonnull(strstr(err.text, "can only be read"));
	close_image(begin("empty", LAST, NULL));
	img = open_image("empty", NULL, TAPIMG_RDWR);
	fill(one, GRAIN, 1);
	ck_assert_int_eq(coded(img, one, GRAIN, SPAN), 0);
	close_image(img);
	img = open_image("empty", NULL, 0);
	reads(img, SPAN, 1, GRAIN);
	reads(img, 0, 0, GRAIN);
	close_image(img);
}
END_TEST

/* What is noise has more bytes coded than plain. */
START_TEST(what_does_not_shrink_is_kept_too)
{
	static uint8_t noise[GRAIN];
	struct tapimg *img = begin("a", 2 * GRAIN, "1");
	uint64_t x = 88172645463325252ULL;

	for (unsigned i = 0; i < GRAIN; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		noise[i] = x >> 24;
	}
	ck_assert_int_eq(coded(img, noise, GRAIN, 0), 0);
	ck_assert_int_eq(coded(img, noise, GRAIN, GRAIN), 0);
	close_image(img);
	img = open_image("a", NULL, 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(tapimg_pread(img, two, GRAIN, i * GRAIN), 0);
		ck_assert_int_eq(memcmp(noise, two, GRAIN), 0);
	}
	close_image(img);
}
END_TEST

START_TEST(options_that_make_no_sense)
{
	static const struct { struct tapimg_opt opt; const char *text; } bad[] = {
		{ { "compression_level", "0" }, "compression_level" },
		{ { "compression_level", "13" }, "compression_level" },
		{ { "compression_level", "x" }, "compression_level" },
		{ { "grain_size", "4k" }, "64k" },
		{ { "zeroed_grain", "on" }, "zeroed" },
		{ { "preallocation", "full" }, "preallocation" },
	};
	struct tapimg_opt opts[2] = { { "subformat", "streamOptimized" } };
	struct tapimg_create_opts o = { .format = "vmdk", .size = MiB, .opts = opts, .nopts = 2 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		opts[1] = bad[i].opt;
		ck_assert_int_lt(tapimg_create(loop, "a", &o, &err), 0);
		ck_assert_msg(strstr(err.text, bad[i].text), "%s", err.text);
	}
	opts[0] = (struct tapimg_opt){ "subformat", "monolithicSparse" };
	opts[1] = (struct tapimg_opt){ "compression_level", "3" };
	ck_assert_int_lt(tapimg_create(loop, "a", &o, &err), 0);
	o.nopts = 1;
	opts[0] = (struct tapimg_opt){ "subformat", "streamOptimized" };
	o.size = 300 * TiB;
	ck_assert_int_eq(tapimg_create(loop, "a", &o, &err), -EFBIG);
	ck_assert_uint_eq(files_here(), 0);
}
END_TEST

/* ----------------------------------------------------------- other shapes, by hand */

enum { SHAPE_MARKS = 1, SHAPE_V1 = 2, SHAPE_EOS = 4, SHAPE_ZEROED = 8, SHAPE_BIG = 16 };

/*
 * Tables in front: header, directory at sector 1, table at sector 2, grains from 16 (or 1100) on.  The
 * disk has 10 grains of 4 KiB: 0, 2 and 9 hold seeds 1 to 3, 9 being cut to 512 bytes.
 */
static size_t put_front(unsigned shape, size_t *last)
{
	uint8_t *p = img_bytes;
	uint32_t pos = 16, grains[] = { 0, 2, 9 };

	memset(p, 0, sizeof(img_bytes));
	put_le32(p, VMDK_MAGIC);
	put_le32(p + VH_VERSION, shape & SHAPE_V1 ? 1 : shape & SHAPE_ZEROED ? 2 : 3);
	put_le32(p + VH_FLAGS, VMDK_F_COMPRESSED | (shape & SHAPE_MARKS ? VMDK_F_MARKERS : 0) |
		 (shape & SHAPE_ZEROED ? VMDK_F_ZEROED : 0));
	put_le64(p + VH_CAPACITY, 73);
	put_le64(p + VH_GRAIN, 8);
	put_le32(p + VH_GTES, 512);
	put_le64(p + VH_GD, 1);
	put_le64(p + VH_OVERHEAD, 16);
	put_le16(p + VH_COMPRESSION, 1);
	put_le32(p + 512, 2);
	for (unsigned i = 0; i < 3; i++) {
		*last = pos * 512;
		put_le32(p + 1024 + 4 * grains[i], pos);
		fill(one, 4096, i + 1);
		pos += vm_grain(p + pos * 512, grains[i] * 8, one, i == 2 ? 512 : 4096,
				 shape & SHAPE_MARKS) / 512;
	}
	if (shape & SHAPE_ZEROED)
		put_le32(p + 1024 + 4 * 4, 1);
	return pos * 512 + (shape & SHAPE_EOS ? 512 : 0);
}

static void check_front(struct tapimg *img)
{
	ck_assert_uint_eq(tapimg_size(img), 73 * 512);
	reads(img, 0, 1, 4096);
	reads(img, 4096, 0, 4096);
	reads(img, 8192, 2, 4096);
	reads(img, 4 * 4096, 0, 4096);
	reads(img, 9 * 4096, 3, 512);
}

START_TEST(tables_in_front)
{
	static const unsigned shapes[] = {
		SHAPE_MARKS, SHAPE_MARKS | SHAPE_V1 | SHAPE_EOS, 0, SHAPE_V1, SHAPE_MARKS | SHAPE_ZEROED,
	};
	struct tapimg *img;
	size_t last, size = put_front(shapes[_i], &last);

	put_file("a", img_bytes, size);
	img = open_image("a", NULL, 0);
	check_front(img);
	close_image(img);
}
END_TEST

/* Bytes behind the end do not matter, as some transfers add them. */
START_TEST(bytes_behind_the_end)
{
	static const size_t more[] = { 1, 511, 512, 10240, 60000 };
	struct tapimg *img;
	size_t size;

	write_sample("a", NULL);
	size = load("a");
	memset(img_bytes + size, _i & 1 ? 0 : 0xaa, more[_i]);
	put_file("b", img_bytes, size + more[_i]);
	img = open_image("b", NULL, 0);
	check_sample(img);
	close_image(img);
}
END_TEST

static void bad_read(struct tapimg *img, uint64_t off, int want)
{
	ck_assert_int_eq(tapimg_pread(img, two, 512, off), want);
}

START_TEST(damage_is_an_error_of_its_place)
{
	static const struct { int where; uint32_t value; int want; } damage[] = {
		{ 0, 7, -EIO },			/* the mark names another grain */
		{ 8, 0, -EIO },			/* no length */
		{ 8, 0x7fffffff, -EIO },	/* a length beyond all */
		{ 8, 100, -EIO },		/* one that cuts the data */
		{ 12, 0x00ffff78, -EIO },	/* no such block */
		{ 12 + 2 + 5 + 4096, 0, -EIO },	/* the check sum */
		{ -1, 5, -EIO },		/* the entry points to nothing sensible */
		{ -1, 99999, -EUCLEAN },	/* ... beyond the end */
		{ -2, 99999, -EUCLEAN },	/* a table beyond the end */
	};
	struct tapimg *img;
	struct tapimg_check check = { 0 };
	size_t last, size = put_front(SHAPE_MARKS, &last);

	/* of grain 2, so that the last one does not show it at once */
	size_t at = get_le32(img_bytes + 1024 + 8) * 512;

	if (damage[_i].where >= 0)
		put_le32(img_bytes + at + damage[_i].where, damage[_i].value);
	else if (damage[_i].where == -1)
		put_le32(img_bytes + 1024 + 8, damage[_i].value);
	else
		put_le32(img_bytes + 512, damage[_i].value);
	put_file("a", img_bytes, size);
	if (damage[_i].where == -2) {
		ck_assert_int_eq(open_fails("a", NULL, &err), -EUCLEAN);
		return;
	}
	img = open_image("a", NULL, 0);
	bad_read(img, 8192, damage[_i].want);
	reads(img, 0, 1, 4096);
	reads(img, 9 * 4096, 3, 512);
	close_image(img);
	img = open_image("a", NULL, TAPIMG_CHECK);
	ck_assert_msg(!tapimg_check(img, 0, &check, NULL, NULL, &err), "%s", err.text);
	ck_assert_uint_ge(check.corruptions, 1);
	close_image(img);
}
END_TEST

START_TEST(a_sound_one_checks_out)
{
	struct tapimg_check check = { 0 };
	struct tapimg *img;

	write_sample("a", NULL);
	img = open_image("a", NULL, TAPIMG_CHECK);
	ck_assert_msg(!tapimg_check(img, 0, &check, NULL, NULL, &err), "%s", err.text);
	ck_assert_uint_eq(check.corruptions, 0);
	ck_assert_uint_eq(check.allocated_clusters, 5);
	ck_assert_uint_eq(check.compressed_clusters, 5);
	close_image(img);
}
END_TEST

START_TEST(headers_that_are_refused)
{
	static const struct { int at; uint64_t value; unsigned bytes; int code; const char *text; } bad[] = {
		{ VH_VERSION, 4, 4, -ENOTSUP, "version 4" },
		{ VH_VERSION, 0, 4, -ENOTSUP, "version 0" },
		{ VH_FLAGS, 0x70000, 4, -ENOTSUP, "flags 0x" },
		{ VH_FLAGS, 0x30001, 4, -EINVAL, "text mode" },
		{ VH_COMPRESSION, 2, 2, -ENOTSUP, "method 2" },
		{ VH_GRAIN, 0, 8, -EINVAL, "grain size 0" },
		{ VH_GRAIN, 12, 8, -EINVAL, "grain size 12" },
		{ VH_GRAIN, 1ULL << 40, 8, -EINVAL, "grain size" },
		{ VH_GTES, 7, 4, -EINVAL, "entries of a grain table 7" },
		{ VH_GTES, 1 << 30, 4, -EINVAL, "entries of a grain table" },
		{ VH_CAPACITY, UINT64_MAX, 8, -EINVAL, "capacity" },
		{ VH_CAPACITY, 1ULL << 50, 8, -EINVAL, "capacity" },
		{ VH_CAPACITY, 1ULL << 34, 8, -EUCLEAN, "grain directory" },
		{ VH_GD, 1ULL << 40, 8, -EUCLEAN, "grain directory" },
		{ VH_GD, UINT64_MAX / 512, 8, -EUCLEAN, "grain directory" },
		{ VH_GD, UINT64_MAX, 8, -EUCLEAN, "footer is missing" },
	};
	size_t last, size = put_front(SHAPE_MARKS, &last);

	if (bad[_i].bytes == 2)
		put_le16(img_bytes + bad[_i].at, bad[_i].value);
	else if (bad[_i].bytes == 4)
		put_le32(img_bytes + bad[_i].at, bad[_i].value);
	else
		put_le64(img_bytes + bad[_i].at, bad[_i].value);
	put_file("a", img_bytes, size);
	ck_assert_int_eq(open_fails("a", NULL, &err), bad[_i].code);
	ck_assert_msg(strstr(err.text, bad[_i].text) && !strncmp(err.text, "a: ", 3), "%s", err.text);
}
END_TEST

/* -------------------------------------------------------------------- cut off */

static struct tapimg *salvage(const char *name)
{
	return open_image(name, "vmdk", TAPIMG_SALVAGE);
}

/* The first @known bytes are right, the rest is said to be lost. */
static void check_salvaged(struct tapimg *img, uint64_t known, const uint64_t *off, unsigned n,
			   uint64_t grain)
{
	struct tapimg_status st;
	uint64_t size = tapimg_size(img);

	for (unsigned i = 0; i < n; i++) {
		uint64_t len = MIN(grain, size - off[i]);

		if (off[i] + len <= known)
			reads(img, off[i], i + 1, len);
		else
			bad_read(img, off[i], -EIO);
	}
	if (known < size) {
		ck_assert_int_eq(tapimg_block_status(img, known, size - known, 0, &st), 0);
		ck_assert(st.flags & TAPIMG_ST_LOST);
		bad_read(img, size - 512, -EIO);
	}
}

static uint64_t said_to_be_there(const char *text)
{
	const char *at = strstr(text, "the first ");

	ck_assert_msg(at && strstr(text, "cut off") && strstr(text, "--salvage"), "%s", text);
	return strtoull(at + 10, NULL, 10);
}

START_TEST(a_stream_that_was_cut)
{
	size_t size, cut, ends[5], pos = 128 * 512;
	struct tapimg *img;
	unsigned n = 0;

	write_sample("a", NULL);
	size = load("a");
	while (n < 5) {
		uint32_t len = get_le32(img_bytes + pos + 8);

		pos += len ? round_up(12 + len, 512) : 512 + 2048;
		if (len)
			ends[n++] = pos;
	}
	for (cut = 128 * 512 + _i * 512; cut < size - 1024; cut += 4 * 512) {
		unsigned there = 0;
		uint64_t known, least = 0;

		for (; there < 5 && ends[there] <= cut; there++)
			least = MIN(sample_off[there] + GRAIN, LAST + 1536ULL);
		put_file("b", img_bytes, cut - (cut / 512 % 3 == 1 ? 100 : 0));
		ck_assert_int_eq(open_fails("b", NULL, &err), -EUCLEAN);
		known = said_to_be_there(err.text);
		if (cut / 512 % 3 != 1)		/* cutting the padding takes nothing away */
			ck_assert_uint_ge(known, least);
		img = salvage("b");
		check_salvaged(img, known, sample_off, 5, GRAIN);
		close_image(img);
	}
}
END_TEST

START_TEST(tables_in_front_that_were_cut)
{
	static const uint64_t off[] = { 0, 8192, 9 * 4096 };
	size_t last, size = put_front(SHAPE_MARKS, &last), cut;
	struct tapimg *img;

	for (cut = 1536; cut < last + 500; cut += 300) {
		uint64_t known;

		put_file("b", img_bytes, cut);
		ck_assert_int_eq(open_fails("b", NULL, &err), -EUCLEAN);
		known = said_to_be_there(err.text);
		ck_assert_uint_le(known, 9 * 4096);
		img = salvage("b");
		for (unsigned i = 0; i < 3; i++)
			if (off[i] + 512 <= known)
				reads(img, off[i], i + 1, i == 2 ? 512 : 4096);
		/* here the tables still say what is a hole, wherever the data were cut */
		if (cut >= 1024 + 2048)
			reads(img, 3 * 4096, 0, 4096);
		bad_read(img, 9 * 4096, -EIO);
		close_image(img);
	}
	put_file("b", img_bytes, size);
	close_image(open_image("b", NULL, 0));
}
END_TEST

/* The directory is damaged, the grains are not. */
START_TEST(without_a_directory)
{
	struct tapimg *img;
	size_t size;
	uint8_t *footer;

	write_sample("a", NULL);
	size = load("a");
	footer = img_bytes + size - 1024;
	put_le64(footer + VH_GD, 1ULL << 40);
	put_file("b", img_bytes, size);
	ck_assert_int_eq(open_fails("b", NULL, &err), -EUCLEAN);
	img = salvage("b");
	check_sample(img);		/* all: the end was seen */
	close_image(img);
	/* and a hole torn into the middle costs what was there */
	memset(img_bytes + 128 * 512, 0xff, 2000);
	put_file("b", img_bytes, size);
	img = salvage("b");
	bad_read(img, 0, -EIO);
	reads(img, GRAIN, 2, GRAIN);
	reads(img, 2 * GRAIN, 0, GRAIN);
	reads(img, LAST, 5, 1536);
	close_image(img);
	/* what lay between those that are left is unknown, not empty */
	memset(img_bytes + 128 * 512, 0, 2 * GRAIN);
	put_file("b", img_bytes, size);
	img = salvage("b");
	bad_read(img, 0, -EIO);
	bad_read(img, 3 * GRAIN, -EIO);
	bad_read(img, LAST - GRAIN, -EIO);
	reads(img, LAST, 5, 1536);
	close_image(img);
}
END_TEST

static uint64_t lost_off, lost_len;
static unsigned lost_calls;

static void lost(void *arg, uint64_t off, uint64_t len)
{
	lost_off = off;
	lost_len = len;
	lost_calls++;
}

START_TEST(copying_with_salvage_says_what_is_lost_once)
{
	struct tapimg_copy_opts o = { .sparse_size = 4096, .salvaged = lost };
	struct tapimg *src, *dst;

	write_sample("a", NULL);
	load("a");
	put_file("b", img_bytes, 130 * 512 + 40000);	/* grain 0 and a part of grain 1 */
	make_image("d", "raw", LAST + 1536, NULL, NULL);
	src = salvage("b");
	dst = open_image("d", "raw", TAPIMG_RDWR);
	o.flags = TAPIMG_COPY_TARGET_ZERO;
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -EIO);
	lost_calls = 0;
	o.flags |= TAPIMG_COPY_SALVAGE;
	ck_assert_msg(!tapimg_copy(&src, 1, dst, &o, &err), "%s", err.text);
	ck_assert_uint_eq(lost_calls, 1);
	ck_assert_uint_eq(lost_off, GRAIN);
	ck_assert_uint_eq(lost_len, LAST + 1536 - GRAIN);
	reads(dst, 0, 1, GRAIN);
	reads(dst, GRAIN, 0, GRAIN);
	close_image(src);
	close_image(dst);
}
END_TEST

/* A stream whose copy failed must not look like a whole one. */
START_TEST(no_end_for_a_copy_that_failed)
{
	struct tapimg_copy_opts o = { .sparse_size = 4096, .flags = TAPIMG_COPY_TARGET_ZERO };
	struct tapimg *src, *dst;

	size_t size;

	write_sample("a", NULL);
	size = load("a");
	img_bytes[128 * 512 + 2000] ^= 0xff;
	put_file("b", img_bytes, size);
	src = open_image("b", NULL, 0);
	dst = begin("c", LAST + 1536, NULL);
	ck_assert_int_eq(tapimg_copy(&src, 1, dst, &o, &err), -EIO);
	ck_assert_int_ne(tapimg_close(dst, &err), 0);
	close_image(src);
	ck_assert_int_eq(open_fails("c", NULL, &err), -EUCLEAN);
	ck_assert_uint_eq(said_to_be_there(err.text), 0);
}
END_TEST

/* -------------------------------------------------------------------- seSparse */

/*
 * As ESXi lays it out, in sectors: constant header 0, volatile header 1, directory 2, tables 8 to 135,
 * grains from 136 on.  A disk of 32 MiB and 8 KiB: three tables' worth, the second one missing.  Grains, as table entries:
 *	0 data, grain 1	1 data, grain 2	2 unmapped	3 zeroes	4 none		5 data, grain 0
 *	8192 (third table, entry 0) data, grain 3	8193 data, grain 4
 */
static size_t put_sesparse(void)
{
	static const struct { unsigned at; uint64_t entry; } entries[] = {
		{ 0, 0x3001000000000000 }, { 1, 0x3002000000000000 }, { 2, 0x1000000000000000 },
		{ 3, 0x2000000000000000 }, { 5, 0x3000000000000000 },
		{ 4096, 0x3003000000000000 }, { 4097, 0x3004000000000000 },
	};
	uint8_t *p = img_bytes;
	static const uint64_t head[] = {
		0xcafebabe, 0x0000000200000001, 65552, 8, 64, 0, 0, 0, 0, 0,
		1, 1, 3, 1, 4, 1, 2, 1, 8, 128, 5, 1, 6, 1, 136, 40,
	};

	memset(p, 0, sizeof(img_bytes));
	for (unsigned i = 0; i < ARRAY_SIZE(head); i++)
		put_le64(p + 8 * i, head[i]);
	put_le64(p + 512, 0xcafecafe);
	put_le64(p + 1024, 0x1000000000000000);		/* table 0 */
	put_le64(p + 1024 + 16, 0x1000000000000001);	/* table 1 */
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		put_le64(p + 8 * 512 + 8 * entries[i].at, entries[i].entry);
	for (unsigned i = 0; i < 5; i++)
		fill(p + 136 * 512 + 4096 * i, 4096, 10 + i);
	return (136 + 40) * 512;
}

START_TEST(sesparse_is_read)
{
	struct tapimg *img;
	struct tapimg_status st;

	put_file("a", img_bytes, put_sesparse());
	img = open_image("a", NULL, 0);
	ck_assert_uint_eq(tapimg_size(img), 65552 * 512);
	reads(img, 0, 11, 4096);
	reads(img, 4096, 12, 4096);
	reads(img, 8192, 0, 3 * 4096);
	reads(img, 5 * 4096, 10, 4096);
	reads(img, 16 * MiB, 0, GRAIN);
	reads(img, 32 * MiB, 13, 4096);
	reads(img, 32 * MiB + 4096, 14, 4096);
	/* neighbours in the file are one piece */
	ck_assert_int_eq(tapimg_block_status(img, 0, GRAIN, 0, &st), 0);
	ck_assert_uint_eq(st.len, 8192);
	ck_assert_uint_eq(st.host, 136 * 512 + 4096);
	close_image(img);
	ck_assert_int_eq(open_fails("a", &(struct tapimg_open_opts){ .flags = TAPIMG_RDWR }, &err), -EROFS);
}
END_TEST

/* The number of a grain has its lowest 12 bits at the top of the entry. */
START_TEST(sesparse_grain_numbers)
{
	struct tapimg *img;

	put_sesparse();
	put_le64(img_bytes + 192 + 8, 8 * 4097);	/* so many grains */
	put_le64(img_bytes + 8 * 512, 0x3000000000000001);	/* number 4096 */
	put_file("a", img_bytes, (136 + 40) * 512);
	fill(one, 4096, 77);
	{
		FILE *f = fopen("a", "r+b");

		ck_assert_int_eq(fseek(f, 136 * 512 + 4096L * 4096, SEEK_SET), 0);
		ck_assert_uint_eq(fwrite(one, 1, 4096, f), 4096);
		fclose(f);
	}
	img = open_image("a", NULL, 0);
	reads(img, 0, 77, 4096);
	close_image(img);
}
END_TEST

/* A journal that is still to be replayed: what there is can be had knowingly. */
START_TEST(sesparse_with_a_journal)
{
	size_t size = put_sesparse();
	struct tapimg *img;

	put_le64(img_bytes + 512 + 24, 1);
	put_file("a", img_bytes, size);
	ck_assert_int_eq(open_fails("a", NULL, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, "journal") && strstr(err.text, "--salvage"), "%s", err.text);
	img = salvage("a");
	reads(img, 0, 11, 4096);
	reads(img, 32 * MiB, 13, 4096);
	close_image(img);
}
END_TEST

START_TEST(sesparse_refused)
{
	static const struct { unsigned at; uint64_t value; const char *text; } bad[] = {
		{ 8, 1, "version" }, { 24, 16, "grain size" }, { 32, 32, "grain table" }, { 40, 1, "flags" },
		{ 16, UINT64_MAX, "capacity" }, { 16, 1ULL << 36, "grain directory" },
		{ 80, 1ULL << 60, "volatile" }, { 512, 5, "volatile" }, { 536, 1, "journal" },
		{ 128, UINT64_MAX, "directory" }, { 136, 0, "directory" }, { 144, UINT64_MAX, "tables" },
		{ 192, 1ULL << 58, "grains" },
	};
	static const struct { unsigned at; uint64_t value; } damage[] = {
		{ 1024, 0x2000000000000000 }, { 1024, 0x1000000000000005 }, { 8 * 512, 0x4000000000000000 },
		{ 8 * 512, 1 }, { 8 * 512, 0x3000ffffffffffff }, { 8 * 512, 0x3005000000000000 },
	};
	struct tapimg *img;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		size_t size = put_sesparse();

		put_le64(img_bytes + bad[i].at, bad[i].value);
		put_file("a", img_bytes, size);
		ck_assert_int_lt(open_fails("a", NULL, &err), 0);
		ck_assert_msg(strstr(err.text, bad[i].text), "%u: %s", i, err.text);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
		size_t size = put_sesparse();

		put_le64(img_bytes + damage[i].at, damage[i].value);
		put_file("a", img_bytes, size);
		img = open_image("a", NULL, 0);
		bad_read(img, 0, -EUCLEAN);
		reads(img, 32 * MiB, 13, 4096);
		close_image(img);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmdk-stream");
	TCase *tc = tcase_create("vmdk-stream");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, scratch_leave);
	tcase_add_loop_test(tc, what_is_written_is_read, 0, 4);
	tcase_add_test(tc, the_layout);
	tcase_add_test(tc, the_same_copy_makes_the_same_stream);
	tcase_add_test(tc, only_from_begin_to_end);
	tcase_add_test(tc, what_does_not_shrink_is_kept_too);
	tcase_add_test(tc, options_that_make_no_sense);
	tcase_add_loop_test(tc, tables_in_front, 0, 5);
	tcase_add_loop_test(tc, bytes_behind_the_end, 0, 5);
	tcase_add_loop_test(tc, damage_is_an_error_of_its_place, 0, 9);
	tcase_add_test(tc, a_sound_one_checks_out);
	tcase_add_loop_test(tc, headers_that_are_refused, 0, 16);
	tcase_add_loop_test(tc, a_stream_that_was_cut, 0, 4);
	tcase_add_test(tc, tables_in_front_that_were_cut);
	tcase_add_test(tc, without_a_directory);
	tcase_add_test(tc, copying_with_salvage_says_what_is_lost_once);
	tcase_add_test(tc, no_end_for_a_copy_that_failed);
	tcase_add_test(tc, sesparse_is_read);
	tcase_add_test(tc, sesparse_grain_numbers);
	tcase_add_test(tc, sesparse_with_a_journal);
	tcase_add_test(tc, sesparse_refused);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
