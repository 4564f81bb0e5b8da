/* SPDX-License-Identifier: BSD-2-Clause */
/* test-qcow2.c - what of qcow2 is pure: header, entries, counts, coding */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2.h"
#include "scratch.h"
#include "suite.h"

/* -------------------------------------------------------------------- header */

#define HLEN 65536

static uint8_t head[HLEN], again[HLEN];

static size_t put_ext(uint8_t *p, uint32_t type, const void *data, uint32_t len)
{
	put_be32(p, type);
	put_be32(p + 4, len);
	memcpy(p + 8, data, len);
	return 8 + (len + 7) / 8 * 8;
}

/* A version 3 header with 16 bytes past the known fields, known and unknown extensions, a name. */
static void sample(void)
{
	size_t at = QH_V3_LEN + 16;

	memset(head, 0, HLEN);
	put_be32(head + QH_MAGIC, QCOW2_MAGIC);
	put_be32(head + QH_VERSION, 3);
	put_be32(head + QH_CLUSTER_BITS, 16);
	put_be64(head + QH_SIZE, 1 << 30);
	put_be32(head + QH_L1_SIZE, 2);
	put_be64(head + QH_L1_OFF, 0x30000);
	put_be64(head + QH_RT_OFF, 0x10000);
	put_be32(head + QH_RT_CLUSTERS, 1);
	put_be64(head + QH_COMPAT, 1ULL << 40 | QCOW2_COMPAT_LAZY);
	put_be64(head + QH_AUTOCLEAR, 1ULL << 50);
	put_be32(head + QH_REFCOUNT_ORDER, 4);
	put_be32(head + QH_HEADER_LEN, at);
	memcpy(head + QH_V3_LEN, "sixteen bytes ..", 16);
	at += put_ext(head + at, 0x76617465, "\1hidden\0", 8);
	at += put_ext(head + at, QCOW2_EXT_BACKING_FMT, "raw", 3);
	at += put_ext(head + at, 0x12345678, "twelve bytes", 12);
	at += put_ext(head + at, 0x9abcdef0, "", 0);
	at += 8;
	memcpy(head + at, "base.raw", 8);
	put_be64(head + QH_BACKING_OFF, at);
	put_be32(head + QH_BACKING_LEN, 8);
}

static int parse(struct qcow2_header *h)
{
	struct tapimg_err err = { 0 };
	int ret = qcow2_header_parse(h, head, HLEN, false, "x", &err);

	ck_assert_msg(!ret || err.text[0], "a failure without a text");
	return ret;
}

START_TEST(header_is_given_back_byte_for_byte)
{
	struct qcow2_header h;

	sample();
	ck_assert_int_eq(parse(&h), 0);
	ck_assert_str_eq(h.backing, "base.raw");
	ck_assert_uint_eq(h.next, 4);
	ck_assert_uint_eq(h.nextra, 16);
	ck_assert_int_eq(qcow2_header_build(&h, again, HLEN, "x", NULL), 0);
	ck_assert_int_eq(memcmp(head, again, HLEN), 0);
	qcow2_header_free(&h);
}
END_TEST

START_TEST(header_of_version_2)
{
	struct qcow2_header h;

	sample();
	memset(head + QH_V2_LEN, 0, HLEN - QH_V2_LEN);
	put_be32(head + QH_VERSION, 2);
	put_ext(head + QH_V2_LEN, QCOW2_EXT_BACKING_FMT, "qcow2", 5);
	put_be64(head + QH_BACKING_OFF, QH_V2_LEN + 24);
	memcpy(head + QH_V2_LEN + 24, "../base!", 8);
	ck_assert_int_eq(parse(&h), 0);
	ck_assert_uint_eq(h.refcount_order, 4);
	ck_assert_str_eq(h.backing, "../base!");
	ck_assert_int_eq(qcow2_header_build(&h, again, HLEN, "x", NULL), 0);
	ck_assert_int_eq(memcmp(head, again, HLEN), 0);
	qcow2_header_free(&h);
}
END_TEST

START_TEST(extensions_are_changed_one_by_one)
{
	struct qcow2_header h;

	sample();
	ck_assert_int_eq(parse(&h), 0);
	ck_assert_int_eq(qcow2_ext_set(&h, QCOW2_EXT_BACKING_FMT, "qcow2", 5), 0);
	ck_assert_uint_eq(h.next, 4);
	ck_assert_uint_eq(h.ext[1].type, QCOW2_EXT_BACKING_FMT);
	ck_assert_str_eq((char *)h.ext[1].data, "qcow2");
	ck_assert_int_eq(qcow2_ext_set(&h, 0x12345678, NULL, 0), 0);
	ck_assert_ptr_null(qcow2_ext_find(&h, 0x12345678));
	ck_assert_uint_eq(h.next, 3);
	ck_assert_int_eq(qcow2_features_add(&h), 0);
	ck_assert_uint_eq(qcow2_ext_find(&h, QCOW2_EXT_FEATURES)->len, 384);
	ck_assert_uint_eq(h.ext[h.next - 1].type, 0x9abcdef0);
	qcow2_header_free(&h);
}
END_TEST

START_TEST(names_of_features_come_from_the_image)
{
	struct qcow2_header h;
	uint8_t tab[48] = { 0, 17, 'w', 'a', 'r', 'p' };
	char *name;

	sample();
	ck_assert_int_eq(parse(&h), 0);
	ck_assert_int_eq(qcow2_ext_set(&h, QCOW2_EXT_FEATURES, tab, sizeof(tab)), 0);
	name = qcow2_feature_name(&h, 0, 17);
	ck_assert_str_eq(name, "warp");
	free(name);
	ck_assert_ptr_null(qcow2_feature_name(&h, 1, 17));
	qcow2_header_free(&h);
}
END_TEST

START_TEST(header_that_does_not_fit)
{
	struct qcow2_header h;
	static uint8_t big[HLEN];
	struct tapimg_err err = { 0 };

	sample();
	ck_assert_int_eq(parse(&h), 0);
	ck_assert_int_eq(qcow2_ext_set(&h, 0x1111, big, HLEN - 180), 0);
	ck_assert_int_eq(qcow2_header_build(&h, again, HLEN, "x", &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.text, "first cluster"));
	qcow2_header_free(&h);
}
END_TEST

static const struct bad {
	unsigned off, size;
	uint64_t value;
	int code;
} bad_fields[] = {
	{ QH_MAGIC, 4, 0x514649fa, -EINVAL },
	{ QH_VERSION, 4, 1, -ENOTSUP },
	{ QH_VERSION, 4, 4, -ENOTSUP },
	{ QH_CLUSTER_BITS, 4, 8, -EINVAL },
	{ QH_CLUSTER_BITS, 4, 22, -EINVAL },
	{ QH_CLUSTER_BITS, 4, 0xffffffff, -EINVAL },
	{ QH_SIZE, 8, 1ULL << 63, -EINVAL },
	{ QH_L1_SIZE, 4, 4194305, -EFBIG },
	{ QH_L1_OFF, 8, 0x30001, -EINVAL },
	{ QH_L1_OFF, 8, 0, -EINVAL },
	{ QH_L1_OFF, 8, 0xffffffffffff0000, -EINVAL },
	{ QH_RT_OFF, 8, 0x10008, -EINVAL },
	{ QH_RT_OFF, 8, 0, -EINVAL },
	{ QH_RT_OFF, 8, 0xffffffffffff0000, -EINVAL },
	{ QH_RT_CLUSTERS, 4, 0, -EINVAL },
	{ QH_RT_CLUSTERS, 4, 129, -EINVAL },
	{ QH_NSNAP, 4, 65537, -EINVAL },
	{ QH_NSNAP, 4, 1, -EINVAL },
	{ QH_REFCOUNT_ORDER, 4, 7, -EINVAL },
	{ QH_HEADER_LEN, 4, 96, -EINVAL },
	{ QH_HEADER_LEN, 4, 106, -EINVAL },
	{ QH_HEADER_LEN, 4, 65544, -EINVAL },
	{ QH_INCOMPAT, 8, QCOW2_INCOMPAT_COMP, -EINVAL },
	{ QH_COMPRESSION, 1, 1, -EINVAL },
	{ QH_COMPRESSION, 1, 2, -ENOTSUP },
	{ QH_AUTOCLEAR, 8, QCOW2_AUTO_RAW, -EINVAL },
	{ QH_BACKING_LEN, 4, 1024, -EINVAL },
	{ QH_BACKING_OFF, 8, 65530, -EINVAL },
	{ QH_BACKING_OFF, 8, 0xfffffffffffffff8, -EINVAL },
	{ QH_V3_LEN + 16 + 4, 4, 0xfffffff0, -EINVAL },		/* length of the first extension */
	{ QH_V3_LEN + 16 + 16, 4, QCOW2_EXT_BITMAPS, -EINVAL },	/* its length is wrong for that */
};

START_TEST(bad_fields_are_refused)
{
	const struct bad *b = &bad_fields[_i];
	struct qcow2_header h;

	sample();
	if (b->size == 1)
		head[b->off] = b->value;
	else if (b->size == 4)
		put_be32(head + b->off, b->value);
	else
		put_be64(head + b->off, b->value);
	ck_assert_int_eq(parse(&h), b->code);
}
END_TEST

/* Whatever is cut off, nothing outside of the buffer is touched (sanitizers look). */
START_TEST(header_cut_off_anywhere)
{
	size_t len;

	sample();
	for (len = 0; len < 300; len++) {
		uint8_t *part = malloc(len + 1);
		struct qcow2_header h;

		memcpy(part, head, len);
		if (!qcow2_header_parse(&h, part, len, false, "x", NULL))
			qcow2_header_free(&h);
		free(part);
	}
}
END_TEST

/* ------------------------------------------------------------------- entries */

static void geometry(struct qcow2 *q, unsigned version, unsigned bits, uint64_t incompat)
{
	memset(q, 0, sizeof(*q));
	q->h.version = version;
	q->h.cluster_bits = bits;
	q->h.incompat = incompat;
	q->h.refcount_order = 4;
	q->h.l1_size = 1;
	q->h.rt_clusters = 1;
	qcow2_geometry(q);
	q->host_limit = 1ULL << 40;
}

START_TEST(entries_of_each_kind)
{
	struct qcow2_entry e;
	struct qcow2 q;

	geometry(&q, 3, 16, 0);
	ck_assert_ptr_null(qcow2_entry_check(&q, 0, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_HOLE);
	ck_assert(!e.kept);
	ck_assert_ptr_null(qcow2_entry_check(&q, 1, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_ZERO);
	ck_assert(!e.kept);
	ck_assert_ptr_null(qcow2_entry_check(&q, 0x50001 | QCOW2_COPIED, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_ZERO);
	ck_assert(e.kept && e.copied);
	ck_assert_uint_eq(e.host, 0x50000);
	ck_assert_ptr_null(qcow2_entry_check(&q, 0x50000, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_DATA);
	ck_assert(!e.copied);
}
END_TEST

static const struct {
	unsigned version, bits;
	uint64_t incompat, entry, bitmap;
} bad_entries[] = {
	{ 3, 16, 0, 0x50002, 0 },
	{ 3, 16, 0, 0x50000 | 1ULL << 56, 0 },
	{ 3, 16, 0, 0x50200, 0 },				/* not aligned */
	{ 3, 16, 0, 1ULL << 40, 0 },				/* beyond the end */
	{ 2, 16, 0, 0x50001, 0 },				/* no zero clusters in version 2 */
	{ 2, 16, 0, 1, 0 },
	{ 3, 16, 0, QCOW2_CODED | 0x100, 0 },			/* into the header */
	{ 3, 16, 0, QCOW2_CODED | 1ULL << 41, 0 },
	{ 3, 9, 0, QCOW2_CODED | 1ULL << 57, 0 },		/* bits above 55 */
	{ 3, 16, QCOW2_INCOMPAT_EXTL2, 0x50001, 0 },
	{ 3, 16, QCOW2_INCOMPAT_EXTL2, 0x50000, 0x0000000100000001 },
	{ 3, 16, QCOW2_INCOMPAT_EXTL2, 0, 1 },
	{ 3, 16, QCOW2_INCOMPAT_EXTL2, QCOW2_CODED | 0x50000, 1 },
	{ 3, 16, QCOW2_INCOMPAT_DATA, QCOW2_COPIED | 0x50000, 0 },	/* not its own place, 0x70000 */
	{ 3, 16, QCOW2_INCOMPAT_DATA, QCOW2_CODED | 0x70000, 0 },
};

START_TEST(bad_entries_are_named)
{
	struct qcow2_entry e;
	struct qcow2 q;

	geometry(&q, bad_entries[_i].version, bad_entries[_i].bits, bad_entries[_i].incompat);
	ck_assert_ptr_nonnull(qcow2_entry_check(&q, bad_entries[_i].entry, bad_entries[_i].bitmap,
						0x70000, &e));
}
END_TEST

START_TEST(data_file_entries)
{
	struct qcow2_entry e;
	struct qcow2 q;

	geometry(&q, 3, 16, QCOW2_INCOMPAT_DATA);
	ck_assert_ptr_null(qcow2_entry_check(&q, QCOW2_COPIED, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_DATA);
	ck_assert_ptr_null(qcow2_entry_check(&q, 0, 0, 0, &e));
	ck_assert_int_eq(e.kind, QCOW2_K_HOLE);
	ck_assert_ptr_null(qcow2_entry_check(&q, QCOW2_COPIED | 0x70000, 0, 0x70000, &e));
	ck_assert_uint_eq(e.host, 0x70000);
}
END_TEST

/* What a compressed entry says is what was put in, for all cluster sizes and all places in a sector. */
START_TEST(compressed_entries)
{
	static const unsigned in[] = { 0, 1, 255, 510, 511 };
	struct qcow2_entry e;
	struct qcow2 q;
	unsigned i, k;

	geometry(&q, 3, _i, 0);
	for (i = 0; i < ARRAY_SIZE(in); i++) {
		uint32_t lens[] = { 1, 2, 511, q.cluster / 2, q.cluster - 1 };

		for (k = 0; k < ARRAY_SIZE(lens); k++) {
			uint64_t host = (1ULL << 39) + in[i], end = host + lens[k];
			uint64_t entry = qcow2_coded_entry(&q, host, lens[k]);

			ck_assert_ptr_null(qcow2_entry_check(&q, entry, 0, 0, &e));
			ck_assert_int_eq(e.kind, QCOW2_K_CODED);
			ck_assert_uint_eq(e.host, host);
			ck_assert_uint_eq(host + e.coded, round_up(end, 512));
		}
	}
}
END_TEST

START_TEST(l1_entries)
{
	struct qcow2 q;
	uint64_t off;

	geometry(&q, 3, 16, 0);
	ck_assert_ptr_null(qcow2_l1_check(&q, 0, &off));
	ck_assert_uint_eq(off, 0);
	ck_assert_ptr_null(qcow2_l1_check(&q, QCOW2_COPIED | 0x40000, &off));
	ck_assert_uint_eq(off, 0x40000);
	ck_assert_ptr_nonnull(qcow2_l1_check(&q, 0x40200, &off));
	ck_assert_ptr_nonnull(qcow2_l1_check(&q, 0x40001, &off));
	ck_assert_ptr_nonnull(qcow2_l1_check(&q, 1ULL << 62 | 0x40000, &off));
	ck_assert_ptr_nonnull(qcow2_l1_check(&q, 1ULL << 40, &off));
}
END_TEST

/* -------------------------------------------------------------------- counts */

START_TEST(counts_of_each_width)
{
	unsigned order = _i;
	uint64_t max = order == 6 ? UINT64_MAX : (1ULL << (1U << order)) - 1;
	uint64_t want[64], i, k;
	uint8_t p[512] = { 0 };

	for (i = 0; i < 64; i++)
		want[i] = (i * 0x9e3779b97f4a7c15ULL) >> 7 & max;
	for (i = 0; i < 64; i++)
		qcow2_rc_set(p, i, order, max);
	for (i = 0; i < 64; i++) {
		qcow2_rc_set(p, i, order, want[i]);
		for (k = 0; k < 64; k++)
			ck_assert_uint_eq(qcow2_rc_get(p, k, order), k <= i ? want[k] : max);
	}
}
END_TEST

START_TEST(counts_lie_as_the_format_says)
{
	uint8_t p[8] = { 0 };

	qcow2_rc_set(p, 0, 0, 1);
	qcow2_rc_set(p, 9, 0, 1);
	ck_assert_int_eq(p[0], 1);
	ck_assert_int_eq(p[1], 2);
	qcow2_rc_set(p + 2, 1, 2, 0xa);
	ck_assert_int_eq(p[2], 0xa0);
	qcow2_rc_set(p + 4, 1, 4, 0x1234);
	ck_assert_int_eq(p[6], 0x12);
}
END_TEST

/* -------------------------------------------------------------------- coding */

static void fill(uint8_t *p, size_t n, int how)
{
	uint32_t x = 1;
	size_t i;

	for (i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = how == 0 ? 0 : how == 1 ? (x >> 24) & 3 : how == 2 ? i % 6 : x >> 24;
	}
}

/* @_i: type and kind of contents.  What is decoded may be followed by bytes of others. */
START_TEST(coding_round_trip)
{
	static const uint32_t sizes[] = { 512, 4096, 65536, 2 * 1024 * 1024 };
	uint32_t type = _i & 1, how = _i >> 1, s;

	for (s = 0; s < ARRAY_SIZE(sizes); s++) {
		uint32_t n = sizes[s];
		uint8_t *src = malloc(n), *coded = malloc(n + 600), *out = malloc(n);
		struct qcow2 q = { .h.compression = type };
		struct tapimg img = { .fs = &q };
		int len;

		fill(src, n, how);
		len = qcow2_encode(&img, 0, src, n, coded, n - 1);
		ck_assert_int_ge(len, 0);
		ck_assert_int_lt(len, (int)n);
		if (how == 3)
			ck_assert_int_eq(len, 0);
		else if (n > 512)
			ck_assert_int_gt(len, 0);
		if (len) {
			fill(coded + len, 512, 3);
			memset(out, 0xee, n);
			ck_assert_int_eq(qcow2_decode(&img, 0, coded, len + 511, out, n), 0);
			ck_assert_int_eq(memcmp(src, out, n), 0);
			/* cut short, it is an error and not half a cluster */
			ck_assert_int_eq(qcow2_decode(&img, 0, coded, len / 2, out, n), -EIO);
		}
		free(src);
		free(coded);
		free(out);
	}
}
END_TEST

START_TEST(coding_does_not_overrun)
{
	uint8_t src[65536], coded[65536];
	struct qcow2 q = { .h.compression = _i };
	struct tapimg img = { .fs = &q };
	int full;

	fill(src, sizeof(src), 1);
	full = qcow2_encode(&img, 0, src, sizeof(src), coded, sizeof(coded));
	ck_assert_int_gt(full, 100);
	memset(coded, 0x55, sizeof(coded));
	ck_assert_int_eq(qcow2_encode(&img, 0, src, sizeof(src), coded, full - 1), 0);
	ck_assert_int_eq(coded[full - 1], 0x55);
}
END_TEST

/* Distances of more than 4 KiB would be lost on other readers. */
START_TEST(deflate_keeps_to_its_window)
{
	uint8_t src[65536], coded[65536];
	struct qcow2 q = { 0 };
	struct tapimg img = { .fs = &q };

	fill(src, 8192, 3);
	memcpy(src + 8192, src, 8192);	/* only worth something with a window of 8 KiB */
	ck_assert_int_eq(qcow2_encode(&img, 0, src, 16384, coded, 16383), 0);
	fill(src, 2048, 3);
	memcpy(src + 2048, src, 2048);
	ck_assert_int_gt(qcow2_encode(&img, 0, src, 4096, coded, 4095), 2000);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2");
	TCase *t = tcase_create("header");

	tcase_add_test(t, header_is_given_back_byte_for_byte);
	tcase_add_test(t, header_of_version_2);
	tcase_add_test(t, extensions_are_changed_one_by_one);
	tcase_add_test(t, names_of_features_come_from_the_image);
	tcase_add_test(t, header_that_does_not_fit);
	tcase_add_loop_test(t, bad_fields_are_refused, 0, ARRAY_SIZE(bad_fields));
	tcase_add_test(t, header_cut_off_anywhere);
	suite_add_tcase(s, t);
	t = tcase_create("entries");
	tcase_add_test(t, entries_of_each_kind);
	tcase_add_loop_test(t, bad_entries_are_named, 0, ARRAY_SIZE(bad_entries));
	tcase_add_test(t, data_file_entries);
	tcase_add_loop_test(t, compressed_entries, QCOW2_MIN_BITS, QCOW2_MAX_BITS + 1);
	tcase_add_test(t, l1_entries);
	tcase_add_loop_test(t, counts_of_each_width, 0, 7);
	tcase_add_test(t, counts_lie_as_the_format_says);
	suite_add_tcase(s, t);
	t = tcase_create("coding");
	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_add_loop_test(t, coding_round_trip, 0, 8);
	tcase_add_loop_test(t, coding_does_not_overrun, 0, 2);
	tcase_add_test(t, deflate_keeps_to_its_window);
	suite_add_tcase(s, t);
	return suite_run(s);
}
