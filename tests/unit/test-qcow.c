/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow.c - QCOW version 1: what is written byte by byte, old and foreign images, damage, sizes
 *
 * Offsets are those of qcow.h: QEMU's header of 48 bytes, Xen's extension behind it.  The numbers that
 * are compared with were worked out by hand, or observed in images that Xen's tools made.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "imglib.h"
#include "qcow.h"
#include "suite.h"

#define IMG "t.qcow"

static struct tapimg_err err;

static void make(uint64_t size, const char *opts)
{
	img_make(IMG, "qcow", size, opts, NULL, NULL);
}

static void fill(uint8_t byte, uint64_t off, uint64_t len)
{
	img_fill(IMG, "qcow", byte, off, len);
}

static void expect(uint8_t byte, uint64_t off, uint64_t len)
{
	img_expect(IMG, "qcow", byte, off, len);
}

static uint64_t peek(uint64_t off, unsigned bytes)
{
	return bytes_peek(IMG, off, bytes);
}

static void poke(uint64_t off, uint64_t value, unsigned bytes)
{
	bytes_poke(IMG, off, value, bytes);
}

static uint64_t l1_at(unsigned i)
{
	return peek(QH1_L1_OFF, 8) + 8ULL * i;
}

static uint64_t l2_at(unsigned i)	/* of the first table */
{
	return peek(l1_at(0), 8) + 8ULL * i;
}

/* What the checksum has to be: MD5 of the table in big-endian order, its first four bytes backwards. */
static uint32_t sum_of_l1(bool little)
{
	unsigned shift = (unsigned)peek(QH1_CLUSTER_BITS, 1) + (unsigned)peek(QH1_L2_BITS, 1);
	uint64_t n = div_up(peek(QH1_SIZE, 8), 1ULL << shift);
	uint8_t table[4096], out[CRYPT_DIGEST_MAX];

	ck_assert_uint_le(n * 8, sizeof(table));
	bytes_read(IMG, table, n * 8, l1_at(0));
	for (uint64_t i = 0; little && i < n; i++)
		put_be64(table + 8 * i, get_le64(table + 8 * i));
	ck_assert_int_eq(crypt_digest(CRYPT_MD5, table, n * 8, out, &err), 16);
	return (uint32_t)out[3] << 24 | out[2] << 16 | out[1] << 8 | out[0];
}

static void sum_fits(void)
{
	ck_assert_uint_eq(peek(QH1_XEN_SUM, 4), sum_of_l1(false));
}

/* ---------------------------------------------------------------------- layouts */

START_TEST(qemus_layout)
{
	make(10 * MiB, NULL);
	ck_assert_uint_eq(bytes_size(IMG), 512);
	ck_assert_uint_eq(peek(QH1_MAGIC, 8), 0x514649fb00000001);
	ck_assert_uint_eq(peek(QH1_BACKING_OFF, 8), 0);
	ck_assert_uint_eq(peek(QH1_BACKING_LEN, 8), 0);
	ck_assert_uint_eq(peek(QH1_SIZE, 8), 10 * MiB);
	ck_assert_uint_eq(peek(QH1_CLUSTER_BITS, 8), 0x0c09000000000000);
	ck_assert_uint_eq(peek(QH1_L1_OFF, 8), 48);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_uint_eq(peek(l1_at(i), 8), 0);
	fill(0x11, 4 * MiB + 8192, 4096);
	ck_assert_uint_eq(peek(l1_at(2), 8), 4096);
	ck_assert_uint_eq(peek(4096 + 16, 8), 8192);
	ck_assert_uint_eq(peek(4096 + 8, 8), 0);
	ck_assert_uint_eq(peek(8192, 1), 0x11);
	ck_assert_uint_eq(bytes_size(IMG), 12288);
	img_clean(IMG, "qcow");
}
END_TEST

START_TEST(with_a_backing_file)
{
	make_image("base.raw", "raw", 8 * MiB, NULL, NULL);
	img_fill("base.raw", "raw", 0x77, 0, 8 * MiB);
	img_make(IMG, "qcow", 8 * MiB, NULL, "base.raw", "raw");
	ck_assert_uint_eq(peek(QH1_BACKING_OFF, 8), 48);
	ck_assert_uint_eq(peek(QH1_BACKING_LEN, 4), 8);
	ck_assert_uint_eq(peek(48, 8), 0x626173652e726177);	/* base.raw */
	ck_assert_uint_eq(peek(QH1_CLUSTER_BITS, 2), 0x090c);
	ck_assert_uint_eq(peek(QH1_L1_OFF, 8), 56);
	fill(0x11, 512, 512);		/* a cluster: nothing is copied */
	ck_assert_uint_eq(bytes_size(IMG), 512 + 32768 + 512);
	expect(0x77, 0, 512);
	expect(0x11, 512, 512);
	expect(0x77, 1024, 8 * MiB - 1024);
	img_clean(IMG, "qcow");
}
END_TEST

/* 10 MiB by qcow-create: observed bytes. */
START_TEST(xens_layout)
{
	make(10 * MiB, "layout=xen");
	ck_assert_uint_eq(bytes_size(IMG), 8192);
	ck_assert_uint_eq(peek(QH1_XEN_MAGIC, 4), 0x58454efb);
	ck_assert_uint_eq(peek(QH1_XEN_SUM, 4), 0xe9384bfd);
	ck_assert_uint_eq(peek(QH1_XEN_ALLOC, 4), 512);
	ck_assert_uint_eq(peek(QH1_XEN_FLAGS, 4), 3);
	ck_assert_uint_eq(peek(QH1_L1_OFF, 8), 4096);
	sum_fits();
}
END_TEST

/* 4 MiB by img2qcow: two regions, each a table and 512 clusters in order; observed bytes. */
START_TEST(xens_regions)
{
	make(4 * MiB, "layout=xen");
	fill(0x22, 1 * MiB, 4096);
	fill(0x33, 3 * MiB + 512, 512);
	ck_assert_uint_eq(peek(l1_at(0), 8), 0x2000);
	ck_assert_uint_eq(peek(l1_at(1), 8), 0x203000);
	ck_assert_uint_eq(peek(QH1_XEN_SUM, 4), 0xb9f9833d);
	sum_fits();
	for (unsigned i = 0; i < 512; i++) {
		ck_assert_uint_eq(peek(0x2000 + 8 * i, 8), 0x3000 + 4096ULL * i);
		ck_assert_uint_eq(peek(0x203000 + 8 * i, 8), 0x204000 + 4096ULL * i);
	}
	ck_assert_uint_eq(peek(0x3000 + MiB, 1), 0x22);
	ck_assert_uint_eq(peek(0x204000 + MiB + 512, 1), 0x33);
	ck_assert_uint_eq(bytes_size(IMG), 0x404000);
	img_clean(IMG, "qcow");
	expect(0, 0, MiB);
	expect(0x33, 3 * MiB + 512, 512);
	expect(0, 3 * MiB + 1024, MiB - 1024);
}
END_TEST

START_TEST(a_whole_region_can_be_given_back)
{
	struct tapimg *img;

	make(6 * MiB, "layout=xen");
	fill(0x22, 0, 6 * MiB);
	img = open_image(IMG, "qcow", TAPIMG_RDWR | TAPIMG_UNMAP);
	/* the middle one, and a part of the last one, which keeps its place */
	ck_assert_int_eq(tapimg_zero(img, 2 * MiB, 3 * MiB, TAPIMG_REQ_MAY_UNMAP), 0);
	close_image(img);
	ck_assert_uint_eq(peek(l1_at(1), 8), 0);
	ck_assert_uint_ne(peek(l1_at(2), 8), 0);
	sum_fits();
	expect(0x22, 0, 2 * MiB);
	expect(0, 2 * MiB, 3 * MiB);
	expect(0x22, 5 * MiB, MiB);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 0);
	fill(0x44, 2 * MiB, 512);
	expect(0, 2 * MiB + 512, 2 * MiB);	/* nothing of what was there before */
	sum_fits();
}
END_TEST

static const char *const kinds[] = {
	"cluster_size=64k,l2_entries=8192", "cluster_size=512,l2_entries=64", "cluster_size=4k,l2_entries=512",
	"layout=xen", "layout=xen,cluster_size=1k,l2_entries=1024", "cluster_size=512,l2_entries=8192",
	"cluster_size=64k,l2_entries=64", "layout=xen,cluster_size=64k,l2_entries=64",
	"preallocation=metadata", "preallocation=falloc,cluster_size=512,l2_entries=64",
	"preallocation=full,layout=xen",
};

START_TEST(all_sizes_of_clusters_and_tables)
{
	make(5 * MiB + 512, kinds[_i]);
	fill(1, 0, 1);
	fill(2, 65535, 2);
	fill(3, 2 * MiB - 700, 70000);
	fill(4, 5 * MiB + 511, 1);
	expect(1, 0, 1);
	expect(0, 1, 65534);
	expect(2, 65535, 2);
	expect(0, 65537, 2 * MiB - 700 - 65537);
	expect(3, 2 * MiB - 700, 70000);
	expect(0, 2 * MiB - 700 + 70000, 3 * MiB + 511 + 700 - 70000);
	expect(4, 5 * MiB + 511, 1);
	img_clean(IMG, "qcow");
}
END_TEST

/* ---------------------------------------------------------- what others wrote */

/* An old image of Xen: the L1 table in the machine's order, its checksum that of the other one. */
static void make_old(void)
{
	make(6 * MiB, "layout=xen");
	fill(0x22, 0, 3 * MiB);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t v = peek(l1_at(i), 8);

		poke(l1_at(i), __builtin_bswap64(v), 8);
	}
	poke(QH1_XEN_FLAGS, QCOW_XEN_SPARSE, 4);
}

START_TEST(little_endian_tables)
{
	make_old();
	expect(0x22, 0, 3 * MiB);
	expect(0, 3 * MiB, 3 * MiB);
	img_clean(IMG, "qcow");
	fill(0x33, 5 * MiB, 4096);	/* in the order it has */
	ck_assert_uint_eq(__builtin_bswap64(peek(l1_at(2), 8)), 0x404000);
	ck_assert_uint_eq(peek(QH1_XEN_SUM, 4), sum_of_l1(true));
	ck_assert_uint_eq(peek(QH1_XEN_FLAGS, 4), QCOW_XEN_SPARSE);
	expect(0x33, 5 * MiB, 4096);
	img_clean(IMG, "qcow");
}
END_TEST

/* QEMU gives an L2 entry another cluster, and a table of its own to another region; the sum lapses. */
START_TEST(qemu_has_written_to_it)
{
	uint64_t end;

	make(6 * MiB, "layout=xen");
	fill(0x22, 0, 2 * MiB);
	end = bytes_size(IMG);
	bytes_cut(IMG, end + 8192);
	poke(l1_at(1), end, 8);
	poke(end + 8, end + 4096, 8);
	poke(end + 4096, 0x55, 1);
	expect(0x55, 2 * MiB + 4096, 1);
	expect(0, 2 * MiB, 4096);
	/* nobody may look for clusters by their place any more, whatever the sum says later */
	fill(0x33, 2 * MiB + 8192, 4096);
	expect(0x33, 2 * MiB + 8192, 4096);
	expect(0x55, 2 * MiB + 4096, 1);
	expect(0x22, 0, 2 * MiB);
	ck_assert_uint_ne(peek(QH1_XEN_SUM, 4), sum_of_l1(false));
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 0);
	ck_assert_ptr_nonnull(strstr(img_check(IMG, "qcow", 0)->text, "checksum"));
}
END_TEST

/* An extension whose minimum we do not keep to is changed before the first write. */
START_TEST(an_allocation_of_another_number)
{
	make(6 * MiB, "layout=xen");
	poke(QH1_XEN_ALLOC, 16, 4);
	fill(0x22, 2 * MiB, 4096);
	ck_assert_uint_eq(peek(QH1_XEN_ALLOC, 4), 1);
	sum_fits();
	ck_assert_uint_eq(peek(l1_at(1), 8) + 4096, peek(peek(l1_at(1), 8), 8));
	ck_assert_uint_lt(bytes_size(IMG), MiB);
	expect(0x22, 2 * MiB, 4096);
}
END_TEST

/* The last cluster of a file that ends inside it: QEMU writes so; the rest reads as zeroes. */
START_TEST(a_file_that_ends_in_a_cluster)
{
	make(1 * MiB, "cluster_size=64k");
	fill(0x22, 64 * KiB, 512);
	bytes_cut(IMG, peek(l2_at(1), 8) + 512);
	expect(0x22, 64 * KiB, 512);
	expect(0, 64 * KiB + 512, 65536 - 512);
	img_clean(IMG, "qcow");
	fill(0x33, 256 * KiB, 512);	/* behind the whole of it */
	expect(0, 64 * KiB + 512, 65536 - 512);
	expect(0x33, 256 * KiB, 512);
	img_clean(IMG, "qcow");
}
END_TEST

/* A size that is no multiple of a sector: QEMU has such images, and reads whole sectors. */
START_TEST(an_odd_size)
{
	struct tapimg *img;

	make(1 * MiB, NULL);
	poke(QH1_SIZE, MiB + 300, 8);
	img = open_image(IMG, "qcow", 0);
	ck_assert_uint_eq(tapimg_size(img), MiB);
	close_image(img);
}
END_TEST

/* -------------------------------------------------------------------- compressed */

/* 4096 bytes of 0x5a and of 0xa7 as raw deflate, by zlib */
static const uint8_t coded[2][22] = {
	{ 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0x9e, 0xef, 0x1f, 0xc4, 0x1e, 0x0e, 0x28,
	  0x00, 0x00, 0x00, 0xe0, 0xdd, 0x00 },
	{ 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00, 0xc2, 0xa0, 0xfe, 0x49, 0x5e, 0xd3, 0x1e, 0x0e, 0x28,
	  0x00, 0x00, 0x00, 0xe0, 0xdd, 0x00 },
};

/* Two compressed clusters behind each other in a third of the file's. */
static void make_coded(void)
{
	make(1 * MiB, NULL);
	fill(0x11, 0, 4096);		/* table at 4096, cluster at 8192 */
	bytes_cut(IMG, 12288 + 44);
	for (unsigned i = 0; i < 2; i++) {
		bytes_write(IMG, coded[i], 22, 12288 + 22 * i);
		poke(4096 + 8 + 8 * i, 1ULL << 63 | 22ULL << (63 - 12) | (12288 + 22 * i), 8);
	}
}

START_TEST(compressed_clusters)
{
	make_coded();
	expect(0x11, 0, 4096);
	expect(0x5a, 4096, 4096);
	expect(0xa7, 8192, 4096);
	expect(0, 12288, MiB - 12288);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.compressed_clusters, 2);
	img_clean(IMG, "qcow");
	fill(0x33, 4096 + 1000, 10);	/* the others stay; the rest of this one as it was */
	expect(0x5a, 4096, 1000);
	expect(0x33, 4096 + 1000, 10);
	expect(0x5a, 4096 + 1010, 4096 - 1010);
	expect(0xa7, 8192, 4096);
	ck_assert_uint_eq(peek(l2_at(1), 8) & QCOW_CODED, 0);
	img_clean(IMG, "qcow");
}
END_TEST

START_TEST(damaged_compressed_clusters)
{
	static const struct { uint64_t entry; const char *text; } bad[] = {
		{ 1ULL << 63 | 12288, "has no length" },
		{ 1ULL << 63 | 22ULL << 51 | 0x100000, "beyond the end" },
		{ 1ULL << 63 | 22ULL << 51 | 16, "header" },
		{ 1ULL << 63 | 22ULL << 51 | 0x7ffffffffffff, "beyond the end" },
	};
	struct tapimg *img;
	uint8_t b[512];

	make_coded();
	poke(4096 + 8, bad[_i].entry, 8);
	ck_assert_ptr_nonnull(strstr(img_check(IMG, "qcow", 0)->text, bad[_i].text));
	img = open_image(IMG, "qcow", 0);
	ck_assert_int_eq(tapimg_pread(img, b, sizeof(b), 4096), -EUCLEAN);
	ck_assert_int_eq(tapimg_pread(img, b, sizeof(b), 8192), 0);
	close_image(img);
	ck_assert_uint_eq(img_check(IMG, "qcow", TAPIMG_FIX_ERRORS)->c.corruptions_fixed, 1);
	img_clean(IMG, "qcow");
	expect(0, 4096, 4096);
	expect(0xa7, 8192, 4096);
}
END_TEST

START_TEST(bytes_that_cannot_be_decompressed)
{
	struct tapimg *img;
	uint8_t b[512];

	make_coded();
	poke(12288, 0xff, 1);
	img = open_image(IMG, "qcow", 0);
	ck_assert_int_eq(tapimg_pread(img, b, sizeof(b), 4096), -EIO);
	close_image(img);
	expect(0xa7, 8192, 4096);
}
END_TEST

/* ------------------------------------------------------------------- enciphered */

static const char *passphrase = "secret";

static int give(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *e)
{
	size_t n = strlen(passphrase);

	ck_assert_str_eq(ask->format, "qcow");
	ck_assert_uint_le(n, ask->size);
	memcpy(ask->buf, passphrase, n);
	return (int)n;
}

static struct tapimg *open_secret(unsigned flags)
{
	struct tapimg_open_opts o = { .format = "qcow", .flags = flags, .secret = give };
	struct tapimg *img;
	int ret = tapimg_open(loop, IMG, &o, &img, &err);

	ck_assert_msg(!ret, "%s", err.text);
	return img;
}

static void make_secret(uint64_t size)
{
	struct tapimg_opt opt = { "encrypt.format", "aes" };
	struct tapimg_create_opts o = { .format = "qcow", .size = size, .opts = &opt, .nopts = 1,
					.secret = give };
	int ret = tapimg_create(loop, IMG, &o, &err);

	ck_assert_msg(!ret, "%s", err.text);
}

static void secret_expect(uint8_t byte, uint64_t off, uint64_t len, bool same)
{
	struct tapimg *img = open_secret(0);
	uint8_t *b = malloc(len), *want = malloc(len);

	memset(want, byte, len);
	ck_assert_int_eq(tapimg_pread(img, b, len, off), 0);
	ck_assert_int_eq(!memcmp(b, want, len), same);
	free(b);
	free(want);
	close_image(img);
}

/* "openssl enc -aes-128-cbc -nopad -K 736563726574...00 -iv N000..." of 512 zeroes: how it begins */
START_TEST(bytes_of_the_cipher)
{
	static const struct { unsigned sector; uint8_t b[16]; } want[] = {
		{ 0, { 0x4e, 0x3d, 0xe5, 0x86, 0x24, 0xce, 0x6b, 0xd8, 0xae, 0xf1, 0x6f, 0x21, 0x24, 0x40,
		       0x88, 0x0b } },
		{ 1, { 0x9e, 0x36, 0x17, 0xfc, 0x26, 0x91, 0x08, 0xb4, 0xd0, 0x1a, 0x5e, 0x5d, 0x53, 0x67,
		       0x62, 0x88 } },
		{ 258, { 0xa8, 0x8a, 0x0b, 0xca, 0x6f, 0x88, 0x9d, 0x6a, 0x2e, 0x34, 0x21, 0x85, 0xe8, 0x23,
			 0xe9, 0xcc } },
	};
	struct tapimg *img;
	uint8_t zero[4096] = { 0 }, b[16];

	make_secret(1 * MiB);
	ck_assert_uint_eq(peek(QH1_CRYPT, 4), 1);
	img = open_secret(TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, zero, 4096, 0), 0);
	ck_assert_int_eq(tapimg_pwrite(img, zero, 4096, 32 * 4096), 0);
	close_image(img);
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		uint64_t cluster = peek(l2_at(want[i].sector / 8), 8);

		bytes_read(IMG, b, 16, cluster + want[i].sector % 8 * 512);
		ck_assert_int_eq(memcmp(b, want[i].b, 16), 0);
	}
	secret_expect(0, 0, 4096, true);
}
END_TEST

START_TEST(parts_of_enciphered_clusters)
{
	struct tapimg *img;
	uint8_t b[1000];

	make_secret(1 * MiB);
	img = open_secret(TAPIMG_RDWR);
	memset(b, 0x66, sizeof(b));
	ck_assert_int_eq(tapimg_pwrite(img, b, 1000, 4000), 0);
	ck_assert_int_eq(tapimg_zero(img, 4100, 100, 0), 0);
	close_image(img);
	secret_expect(0, 0, 4000, true);
	secret_expect(0x66, 4000, 100, true);
	secret_expect(0, 4100, 100, true);
	secret_expect(0x66, 4200, 800, true);
	secret_expect(0, 5000, 3192, true);
	img_clean(IMG, "qcow");		/* needs no secret */
}
END_TEST

/* The first 16 bytes of a passphrase are the key; nothing tells a wrong one. */
START_TEST(passphrases)
{
	struct tapimg_open_opts o = { .format = "qcow" };
	struct tapimg *img;
	uint8_t b[512];

	passphrase = "0123456789abcdefXYZ";
	make_secret(1 * MiB);
	img = open_secret(TAPIMG_RDWR);
	memset(b, 0x66, sizeof(b));
	ck_assert_int_eq(tapimg_pwrite(img, b, 512, 0), 0);
	close_image(img);
	passphrase = "0123456789abcdef";
	secret_expect(0x66, 0, 512, true);
	passphrase = "0123456789abcdeF";
	secret_expect(0x66, 0, 512, false);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -ENOKEY);
	ck_assert_ptr_nonnull(strstr(err.text, "no secret"));
}
END_TEST

/* -------------------------------------------------------------------- bad headers */

static const struct bad_header {
	unsigned off, bytes;
	uint64_t value;
	int code;
	const char *text;
} bad_headers[] = {
	{ QH1_MAGIC, 4, 0x514649fc, -EINVAL, "not a QCOW image" },
	{ QH1_VERSION, 4, 2, -EINVAL, "version 1" },
	{ QH1_CLUSTER_BITS, 1, 8, -EUCLEAN, "cluster bits 8" },
	{ QH1_CLUSTER_BITS, 1, 17, -EUCLEAN, "cluster bits 17" },
	{ QH1_CLUSTER_BITS, 1, 255, -EUCLEAN, "cluster bits 255" },
	{ QH1_L2_BITS, 1, 5, -EUCLEAN, "L2 bits 5" },
	{ QH1_L2_BITS, 1, 14, -EUCLEAN, "L2 bits 14" },
	{ QH1_L2_BITS, 1, 64, -EUCLEAN, "L2 bits 64" },
	{ QH1_CRYPT, 4, 2, -ENOTSUP, "encryption method 2" },
	{ QH1_SIZE, 8, 511, -EUCLEAN, "size 0" },
	{ QH1_SIZE, 8, 1ULL << 63, -EUCLEAN, "size 9223372036854775808" },
	{ QH1_SIZE, 8, INT64_MAX, -EFBIG, "too large" },
	{ QH1_SIZE, 8, 1ULL << 40, -EUCLEAN, "L1 table at 0x30, of 524288 entries" },
	{ QH1_L1_OFF, 8, 49, -EUCLEAN, "L1 offset 49" },
	{ QH1_L1_OFF, 8, 40, -EUCLEAN, "L1 offset 40" },
	{ QH1_L1_OFF, 8, 0x100000, -EUCLEAN, "L1 table at 0x100000" },
	{ QH1_L1_OFF, 8, 0xfffffffffffffff8, -EUCLEAN, "beyond the end of the file" },
	{ QH1_BACKING_OFF, 8, 0x100000, -EUCLEAN, "offset of the backing file's name 1048576" },
	{ QH1_BACKING_LEN, 4, 1024, -EUCLEAN, "length of the backing file's name 1024" },
	{ QH1_BACKING_LEN, 4, 0xffffffff, -EUCLEAN, "length of the backing file's name 4294967295" },
};

START_TEST(headers_that_cannot_be)
{
	const struct bad_header *b = &bad_headers[_i];
	struct tapimg_open_opts o = { .format = "qcow", .flags = TAPIMG_RDWR };
	uint64_t size;
	uint8_t *old;
	bool same;

	put_text("base", "");
	bytes_cut("base", MiB);
	img_make(IMG, "qcow", 1 * MiB, NULL, "base", "raw");
	poke(QH1_CLUSTER_BITS, 0x0c09, 2);
	poke(QH1_L1_OFF, 48, 8);
	poke(QH1_BACKING_OFF, 100, 8);
	poke(b->off, b->value, b->bytes);
	old = bytes_all(IMG, &size);
	ck_assert_int_eq(open_fails(IMG, &o, &err), b->code);
	ck_assert_msg(strstr(err.text, b->text), "%s", err.text);
	same = file_is(IMG, old, size);
	free(old);
	ck_assert(same);
}
END_TEST

START_TEST(files_that_are_too_short)
{
	struct tapimg_open_opts o = { .format = "qcow" };

	make(1 * MiB, NULL);
	bytes_cut(IMG, 47);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "too short"));
	bytes_cut(IMG, 0);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
}
END_TEST

/* ---------------------------------------------------------------------- bad tables */

/*
 * The first three clusters of a disk in QEMU's layout: L1 at 48, table at 4096, clusters at 8192 and on.
 * Each entry that cannot be: reading and writing are refused, and change nothing; check finds it.
 */
static const struct bad_entry {
	uint64_t at, value;
	const char *text;
} bad_entries[] = {
	{ 48, 0x1001, "is not aligned" },
	{ 48, 0x10000000, "beyond the end" },
	{ 48, 0xfffffffffffff000, "beyond the end" },
	{ 48, 0x8000000000001000, "beyond the end" },
	{ 4096, 0x10000000, "beyond the end" },
	{ 4096, 0x7ffffffffffffe00, "beyond the end" },
	{ 4096, 16, "lies in the header" },
};

START_TEST(entries_that_cannot_be)
{
	const struct bad_entry *b = &bad_entries[_i];
	struct tapimg *img;
	uint8_t buf[512] = { 1 }, *old;
	uint64_t size;
	bool same;

	make(4 * MiB, NULL);
	fill(0x11, 0, 3 * 4096);
	poke(b->at, b->value, 8);
	old = bytes_all(IMG, &size);
	img = open_image(IMG, "qcow", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pread(img, buf, sizeof(buf), 0), -EUCLEAN);
	tapimg_close(img, NULL);
	img = open_image(IMG, "qcow", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, buf, sizeof(buf), 0), -EUCLEAN);
	tapimg_close(img, NULL);
	same = file_is(IMG, old, size);
	free(old);
	ck_assert(same);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 1);
	ck_assert_msg(strstr(img_check(IMG, "qcow", 0)->text, b->text), "%s", img_check(IMG, "qcow", 0)->text);
	ck_assert_uint_eq(img_check(IMG, "qcow", TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS)->c.corruptions_fixed, 1);
	img_clean(IMG, "qcow");
	expect(0, 0, 4096);
	expect(b->at == 48 ? 0 : 0x11, 4096, 8192);
}
END_TEST

START_TEST(shared_clusters_are_taken_apart)
{
	make(4 * MiB, NULL);
	fill(0x11, 0, 4096);
	fill(0x22, 4096, 4096);
	poke(4096 + 8, 8192, 8);	/* both are the first */
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 1);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.leaks, 1);
	img_check(IMG, "qcow", TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	img_clean(IMG, "qcow");
	expect(0x11, 0, 8192);
	fill(0x33, 0, 4096);
	expect(0x11, 4096, 4096);
}
END_TEST

START_TEST(shared_tables_are_taken_apart)
{
	make(4 * MiB, NULL);
	fill(0x11, 0, 4096);
	poke(48 + 8, 4096, 8);
	ck_assert_uint_ge(img_check(IMG, "qcow", 0)->c.corruptions, 1);
	img_check(IMG, "qcow", TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	img_clean(IMG, "qcow");
	expect(0x11, 0, 4096);
	expect(0x11, 2 * MiB, 4096);
	fill(0x33, 2 * MiB, 4096);
	expect(0x11, 0, 4096);
}
END_TEST

START_TEST(repairs_keep_xens_checksum)
{
	make(4 * MiB, "layout=xen");
	fill(0x11, 0, 4 * MiB);
	poke(l1_at(1), 0x70000000, 8);
	poke(QH1_XEN_SUM, sum_of_l1(false), 4);
	ck_assert_uint_eq(img_check(IMG, "qcow", TAPIMG_FIX_ERRORS)->c.corruptions_fixed, 1);
	ck_assert_uint_eq(peek(l1_at(1), 8), 0);
	sum_fits();
	expect(0x11, 0, 2 * MiB);
	expect(0, 2 * MiB, 2 * MiB);
}
END_TEST

/* ------------------------------------------------------------------------- sizes */

static void resize(uint64_t size, enum tapimg_prealloc how)
{
	struct tapimg *img = open_image(IMG, "qcow", TAPIMG_RDWR);
	int ret = tapimg_resize(img, size, how, true, &err);

	ck_assert_msg(!ret, "resize: %s", err.text);
	ck_assert_uint_eq(tapimg_size(img), size);
	close_image(img);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 0);
	if (peek(QH1_XEN_MAGIC, 4) == QCOW_XEN_MAGIC)
		sum_fits();
}

START_TEST(sizes_change_both_ways)
{
	make(4 * MiB, kinds[_i]);
	fill(1, 0, 4 * MiB);
	resize(13 * MiB, TAPIMG_PREALLOC_OFF);
	expect(1, 0, 4 * MiB);
	expect(0, 4 * MiB, 9 * MiB);
	fill(2, 12 * MiB, MiB);
	resize(3 * MiB + 512, TAPIMG_PREALLOC_OFF);
	expect(1, 0, 3 * MiB + 512);
	resize(13 * MiB, TAPIMG_PREALLOC_OFF);		/* nothing of what was cut off comes back */
	expect(1, 0, 3 * MiB + 512);
	expect(0, 3 * MiB + 512, 10 * MiB - 512);
	fill(3, 3 * MiB, 10 * MiB);
	expect(3, 3 * MiB, 10 * MiB);
	expect(1, 0, 3 * MiB);
}
END_TEST

static const enum tapimg_prealloc preallocs[] = {
	TAPIMG_PREALLOC_METADATA, TAPIMG_PREALLOC_FALLOC, TAPIMG_PREALLOC_FULL,
};

START_TEST(growth_can_be_preallocated)
{
	enum tapimg_prealloc how = preallocs[_i % 3];
	struct tapimg_check c;
	uint64_t size;

	make(3 * MiB + 512, kinds[_i / 3]);
	fill(1, 512, 2 * MiB + 1024);
	resize(11 * MiB, how);
	c = img_check(IMG, "qcow", 0)->c;
	/* no cluster after the old end has to be found space for any more */
	ck_assert_uint_ge(c.allocated_clusters, (8 * MiB - 65536) >> peek(QH1_CLUSTER_BITS, 1));
	expect(0, 0, 512);
	expect(1, 512, 2 * MiB + 1024);
	expect(0, 2 * MiB + 1536, 9 * MiB - 1536);
	size = bytes_size(IMG);
	fill(2, 4 * MiB, 7 * MiB);
	ck_assert_uint_eq(bytes_size(IMG), size);
	expect(2, 4 * MiB, 7 * MiB);
	expect(1, 512, 2 * MiB + 1024);
}
END_TEST

START_TEST(preallocated_growth_hides_nothing_below)
{
	img_make("base.raw", "raw", 6 * MiB, NULL, NULL, NULL);
	img_fill("base.raw", "raw", 7, 0, 6 * MiB);
	img_make(IMG, "qcow", 1 * MiB + 1536, _i ? "cluster_size=64k,l2_entries=64" : NULL, "base.raw", "raw");
	resize(8 * MiB, TAPIMG_PREALLOC_METADATA);
	expect(7, 0, 1 * MiB + 1536);
	expect(0, 1 * MiB + 1536, 7 * MiB - 1536);
	img_clean(IMG, "qcow");
}
END_TEST

START_TEST(growing_hides_a_longer_backing_file)
{
	img_make("base.raw", "raw", 6 * MiB, NULL, NULL, NULL);
	img_fill("base.raw", "raw", 7, 0, 6 * MiB);
	img_make(IMG, "qcow", 1 * MiB, NULL, "base.raw", "raw");
	resize(8 * MiB, TAPIMG_PREALLOC_OFF);
	expect(7, 0, 1 * MiB);
	expect(0, 1 * MiB, 7 * MiB);
	img_clean(IMG, "qcow");
}
END_TEST

START_TEST(sizes_that_cannot_be)
{
	struct tapimg *img;
	uint64_t size;
	uint8_t *old;
	bool same;

	make(4 * MiB, "cluster_size=512,l2_entries=64");
	fill(1, 0, MiB);
	old = bytes_all(IMG, &size);
	img = open_image(IMG, "qcow", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_resize(img, 0, TAPIMG_PREALLOC_OFF, true, &err), -EINVAL);
	ck_assert_int_eq(tapimg_resize(img, 16 * TiB, TAPIMG_PREALLOC_OFF, true, &err), -EFBIG);
	ck_assert_ptr_nonnull(strstr(err.text, "too large for clusters of 512"));
	ck_assert_int_eq(tapimg_resize(img, MiB, TAPIMG_PREALLOC_OFF, false, &err), -EINVAL);
	close_image(img);
	same = file_is(IMG, old, size);
	free(old);
	ck_assert(same);
	make_secret(1 * MiB);
	img = open_secret(TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_resize(img, 2 * MiB, TAPIMG_PREALLOC_FULL, false, &err), -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(err.text, "key"));
	ck_assert_int_eq(tapimg_resize(img, 2 * MiB, TAPIMG_PREALLOC_OFF, false, &err), 0);
	close_image(img);
	secret_expect(0, 0, 2 * MiB, true);
}
END_TEST

/* ------------------------------------------------------------------------ backing */

START_TEST(another_backing_file)
{
	struct tapimg *img;

	img_make("a.raw", "raw", 2 * MiB, NULL, NULL, NULL);
	img_make("a-longer-name-than-there-is-space-for.raw", "raw", 2 * MiB, NULL, NULL, NULL);
	img_fill("a-longer-name-than-there-is-space-for.raw", "raw", 5, 0, 2 * MiB);
	img_make(IMG, "qcow", 2 * MiB, _i ? "layout=xen" : NULL, "a.raw", "raw");
	fill(1, MiB, 512);
	img = open_image(IMG, "qcow", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_set_backing(img, "a-longer-name-than-there-is-space-for.raw", "raw", &err), 0);
	close_image(img);
	expect(5, 0, MiB);
	expect(1, MiB, 512);
	expect(5, MiB + 512, MiB - 512);
	img = open_image(IMG, "qcow", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_set_backing(img, NULL, NULL, &err), 0);
	close_image(img);
	expect(0, 0, MiB);
	expect(1, MiB, 512);
	ck_assert_uint_eq(peek(QH1_BACKING_LEN, 4), 0);
	ck_assert_uint_eq(img_check(IMG, "qcow", 0)->c.corruptions, 0);
	if (_i)
		sum_fits();
}
END_TEST

/* ------------------------------------------------------------------------- suites */

static void add_layouts(TCase *tc)
{
	tcase_add_test(tc, qemus_layout);
	tcase_add_test(tc, with_a_backing_file);
	tcase_add_test(tc, xens_layout);
	tcase_add_test(tc, xens_regions);
	tcase_add_test(tc, a_whole_region_can_be_given_back);
	tcase_add_loop_test(tc, all_sizes_of_clusters_and_tables, 0, ARRAY_SIZE(kinds));
	tcase_add_test(tc, little_endian_tables);
	tcase_add_test(tc, qemu_has_written_to_it);
	tcase_add_test(tc, an_allocation_of_another_number);
	tcase_add_test(tc, a_file_that_ends_in_a_cluster);
	tcase_add_test(tc, an_odd_size);
	tcase_add_test(tc, compressed_clusters);
	tcase_add_loop_test(tc, damaged_compressed_clusters, 0, 4);
	tcase_add_test(tc, bytes_that_cannot_be_decompressed);
	tcase_add_test(tc, bytes_of_the_cipher);
	tcase_add_test(tc, parts_of_enciphered_clusters);
	tcase_add_test(tc, passphrases);
}

static void add_changes(TCase *tc)
{
	tcase_add_loop_test(tc, headers_that_cannot_be, 0, ARRAY_SIZE(bad_headers));
	tcase_add_test(tc, files_that_are_too_short);
	tcase_add_loop_test(tc, entries_that_cannot_be, 0, ARRAY_SIZE(bad_entries));
	tcase_add_test(tc, shared_clusters_are_taken_apart);
	tcase_add_test(tc, shared_tables_are_taken_apart);
	tcase_add_test(tc, repairs_keep_xens_checksum);
	tcase_add_loop_test(tc, sizes_change_both_ways, 0, ARRAY_SIZE(kinds));
	tcase_add_loop_test(tc, growth_can_be_preallocated, 0, 3 * 5);
	tcase_add_loop_test(tc, preallocated_growth_hides_nothing_below, 0, 2);
	tcase_add_test(tc, growing_hides_a_longer_backing_file);
	tcase_add_test(tc, sizes_that_cannot_be);
	tcase_add_loop_test(tc, another_backing_file, 0, 2);
}

int main(void)
{
	Suite *s = suite_create("qcow");
	TCase *tc = tcase_create("qcow");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, scratch_enter, scratch_leave);
	add_layouts(tc);
	add_changes(tc);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
