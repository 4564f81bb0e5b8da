/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-map.c - qcow2 on images: looking up, space, growth, damage, random operations
 *
 * The driver is called by itself where its answers matter, through the library where contents do.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2.h"
#include "scratch.h"
#include "suite.h"

#define K 1024ULL
#define M (K * K)

static void make(const char *name, uint64_t size, const char *opts)
{
	char *copy = strdup(opts), *save = NULL, *o;
	struct tapimg_opt v[8];
	struct tapimg_create_opts c = { .format = "qcow2", .size = size, .opts = v };
	struct tapimg_err err = { 0 };

	for (o = strtok_r(copy, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(o, '=');

		*eq = 0;
		v[c.nopts++] = (struct tapimg_opt){ o, eq + 1 };
	}
	ck_assert_msg(!tapimg_create(loop, name, &c, &err), "create: %s", err.text);
	free(copy);
}

static struct tapimg *made(uint64_t size, const char *opts)
{
	make("a", size, opts);
	return open_image("a", "qcow2", TAPIMG_RDWR);
}

static void check_clean(const char *name, uint64_t leaks)
{
	struct tapimg *img = open_image(name, "qcow2", TAPIMG_CHECK);
	struct tapimg_check c;

	ck_assert_int_eq(tapimg_check(img, 0, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.corruptions, 0);
	ck_assert_uint_eq(c.leaks, leaks);
	close_image(img);
}

/* ------------------------------------------------------- calls of the driver alone */

struct call {
	struct tapimg *img;
	uint64_t off, len, done;
	unsigned flags;
	struct extent *ext;
};

static int do_map(void *arg)
{
	struct call *c = arg;

	return qcow2_map(c->img, c->off, c->len, c->flags, c->ext);
}

static int do_reserve(void *arg)
{
	struct call *c = arg;

	return qcow2_reserve(c->img, c->off, c->len, c->flags, c->ext);
}

static int do_commit(void *arg)
{
	struct call *c = arg;

	return qcow2_commit(c->img, c->ext);
}

static struct extent map(struct tapimg *img, uint64_t off, uint64_t len)
{
	struct extent ext = { 0 };
	struct call c = { .img = img, .off = off, .len = len, .ext = &ext };

	ck_assert_int_eq(sync_retry(img, do_map, &c), 0);
	ck_assert_uint_eq(ext.off, off);
	ck_assert_uint_ge(ext.len, 1);
	ck_assert_uint_le(ext.len, len);
	return ext;
}

static struct extent reserve(struct tapimg *img, uint64_t off, uint64_t len)
{
	struct extent ext = { 0 };
	struct call c = { .img = img, .off = off, .len = len, .ext = &ext };

	ck_assert_int_eq(sync_retry(img, do_reserve, &c), 0);
	ck_assert_int_eq(ext.type, EXT_NEW);
	ck_assert_uint_le(ext.off, off);
	ck_assert_uint_gt(ext.off + ext.len, off);
	return ext;
}

static void commit(struct tapimg *img, struct extent *ext)
{
	struct call c = { .img = img, .ext = ext };

	ck_assert_int_eq(sync_retry(img, do_commit, &c), 0);
}

static void put(struct tapimg *img, uint64_t off, uint64_t len, int byte)
{
	void *buf = malloc(len);

	memset(buf, byte, len);
	ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
	free(buf);
}

/* --------------------------------------------------------------------- tests */

START_TEST(an_empty_image_is_one_hole)
{
	struct tapimg *img = made(300 * 1024 * M, "cluster_size=65536");
	struct extent e = map(img, 12345, 300 * 1024 * M - 12345);

	/* across the L1 entries of a cached block, without one L2 table */
	ck_assert_int_eq(e.type, EXT_HOLE);
	ck_assert_uint_ge(e.len, 200 * 1024 * M);
	close_image(img);
}
END_TEST

START_TEST(neighbours_merge)
{
	struct tapimg *img = made(64 * M, "cluster_size=4096");
	struct extent e, f;

	put(img, 0, 10 * M, 1);
	e = map(img, 0, 64 * M);
	ck_assert_int_eq(e.type, EXT_DATA);
	ck_assert_int_eq(e.flags, EXT_WRITABLE);
	ck_assert_uint_ge(e.len, 1 * M);
	/* any place in it is where the whole says */
	f = map(img, 777777, 5000);
	ck_assert_uint_eq(f.len, 5000);
	ck_assert_uint_eq(f.host, e.host + 777777);
	/* a break in the host addresses ends the run */
	put(img, 20 * M, 4096, 1);
	put(img, 20 * M + 8192, 4096, 1);
	put(img, 20 * M + 4096, 4096, 1);
	ck_assert_uint_eq(map(img, 20 * M, 64 * K).len, 4096);
	e = map(img, 30 * M, 34 * M);
	ck_assert_int_eq(e.type, EXT_HOLE);
	ck_assert_uint_eq(e.len, 34 * M);
	close_image(img);
}
END_TEST

START_TEST(zeroes_and_holes)
{
	struct tapimg *img;
	struct extent e;

	make_image("base", "raw", 1 * M, NULL, NULL);
	make_image("a", "qcow2", 1 * M, "base", "raw");
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	put(img, 0, 256 * K, 1);
	ck_assert_int_eq(tapimg_zero(img, 64 * K, 128 * K, 0), 0);
	e = map(img, 64 * K, 1 * M - 64 * K);
	ck_assert_int_eq(e.type, EXT_ZERO);
	ck_assert_int_eq(e.flags, EXT_KEPT);
	ck_assert_uint_eq(e.len, 128 * K);
	ck_assert_int_eq(tapimg_zero(img, 64 * K, 64 * K, TAPIMG_REQ_MAY_UNMAP), 0);
	e = map(img, 64 * K, 1 * M - 64 * K);
	ck_assert_int_eq(e.type, EXT_ZERO);
	ck_assert_int_eq(e.flags, 0);
	ck_assert_uint_eq(e.len, 64 * K);
	ck_assert_int_eq(map(img, 256 * K, 4096).type, EXT_HOLE);
	/* the space that was kept is used again, in place */
	e = reserve(img, 128 * K + 5, 10);
	ck_assert_uint_eq(e.off, 128 * K);
	ck_assert_uint_eq(e.len, 64 * K);
	ck_assert_uint_eq(e.host, map(img, 0, 1).host + 128 * K);
	qcow2_abort(img, &e);
	ck_assert_int_eq(map(img, 128 * K, 1).type, EXT_ZERO);
	close_image(img);
	check_clean("a", 0);
}
END_TEST

START_TEST(subclusters)
{
	struct tapimg *img = made(1 * M, "extended_l2=on,cluster_size=65536");
	struct extent e;

	put(img, 2 * K, 2 * K, 1);
	put(img, 10 * K, 4 * K, 1);
	e = map(img, 0, 1 * M);
	ck_assert_int_eq(e.type, EXT_HOLE);
	ck_assert_uint_eq(e.len, 2 * K);
	e = map(img, 2 * K, 1 * M - 2 * K);
	ck_assert_int_eq(e.type, EXT_DATA);
	ck_assert_uint_eq(e.len, 2 * K);
	ck_assert_uint_eq(map(img, 11 * K, 1 * M - 11 * K).len, 3 * K);
	/* only what is not there yet is asked for, in the same cluster */
	e = reserve(img, 4 * K + 100, 60 * K - 100);
	ck_assert_uint_eq(e.off, 4 * K);
	ck_assert_uint_eq(e.len, 6 * K);
	ck_assert_uint_eq(e.host, map(img, 2 * K, 1).host + 2 * K);
	qcow2_abort(img, &e);
	close_image(img);
	check_clean("a", 0);
}
END_TEST

START_TEST(reserved_space_is_nobody_elses)
{
	struct tapimg *img = made(64 * M, "cluster_size=4096");
	struct extent a = reserve(img, 1 * M, 100 * K), b = reserve(img, 5 * M, 100 * K);

	ck_assert_uint_eq(a.len, 100 * K);
	ck_assert(a.host + a.len <= b.host || b.host + b.len <= a.host);
	ck_assert(a.flags & EXT_CLEAN);
	/* nothing is to be seen before it is published */
	ck_assert_int_eq(map(img, 1 * M, 4096).type, EXT_HOLE);
	put(img, 9 * M, 4096, 1);
	commit(img, &b);
	ck_assert_uint_eq(map(img, 5 * M, 100 * K).host, b.host);
	ck_assert_uint_eq(map(img, 5 * M, 100 * K).len, 100 * K);
	qcow2_abort(img, &a);
	ck_assert_int_eq(image_settle(img), 0);
	/* what was given back comes again, but is not taken for untouched */
	b = reserve(img, 20 * M, 4096);
	ck_assert_uint_eq(b.host, a.host + 4096);	/* its L2 table is in front */
	ck_assert(!(b.flags & EXT_CLEAN));
	qcow2_abort(img, &b);
	ck_assert_int_eq(image_settle(img), 0);
	/* the clusters mapped without having been written lie inside the file all the same */
	put(img, 60 * M, 64 * K, 1);
	close_image(img);
	check_clean("a", 0);
}
END_TEST

START_TEST(a_shared_table_is_copied)
{
	struct tapimg *img = made(64 * M, "cluster_size=4096");
	uint8_t buf[4096];
	struct extent e;

	put(img, 0, 64 * K, 1);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", NULL), 0);
	e = map(img, 0, 64 * K);
	ck_assert_int_eq(e.type, EXT_DATA);
	ck_assert_int_eq(e.flags, 0);
	put(img, 8 * K, 4096, 2);
	ck_assert_int_eq(map(img, 0, 4096).flags, 0);
	ck_assert_int_eq(map(img, 8 * K, 4096).flags, EXT_WRITABLE);
	ck_assert_int_eq(tapimg_snapshot_apply(img, "s", NULL), 0);
	ck_assert_int_eq(tapimg_pread(img, buf, sizeof(buf), 8 * K), 0);
	ck_assert_int_eq(buf[77], 1);
	ck_assert_int_eq(tapimg_snapshot_delete(img, "s", NULL), 0);
	close_image(img);
	check_clean("a", 0);
}
END_TEST

/* The table of 64 entries covers 2 MiB only: it grows again and again. */
START_TEST(the_refcount_table_grows)
{
	struct tapimg *img = made(16 * M, "cluster_size=512,refcount_bits=64");
	uint64_t rt = qcow2_of(img)->rt_off, i;

	for (i = 0; i < 16 * M; i += 64 * K)
		put(img, i, 64 * K, i >> 16);
	ck_assert_uint_ne(qcow2_of(img)->rt_off, rt);
	close_image(img);
	check_clean("a", 0);
	img = open_image("a", "qcow2", 0);
	for (i = 0; i < 16 * M; i += 64 * K) {
		uint8_t c;

		ck_assert_int_eq(tapimg_pread(img, &c, 1, i + 100), 0);
		ck_assert_int_eq(c, (i >> 16) & 0xff);
	}
	close_image(img);
}
END_TEST

/* Freed space is found again, so that the file does not grow. */
START_TEST(space_is_used_again)
{
	struct tapimg *img = made(64 * M, "cluster_size=4096");
	uint64_t end;
	int i;

	put(img, 0, 4 * M, 1);
	ck_assert_int_eq(tapimg_flush(img), 0);
	end = qcow2_of(img)->end;
	for (i = 0; i < 5; i++) {
		ck_assert_int_eq(tapimg_zero(img, 0, 4 * M, TAPIMG_REQ_MAY_UNMAP), 0);
		ck_assert_int_eq(image_settle(img), 0);
		put(img, 8 * M + i * 5 * M, 4 * M, 1);
		ck_assert_int_eq(tapimg_zero(img, 8 * M + i * 5 * M, 4 * M, TAPIMG_REQ_MAY_UNMAP), 0);
		ck_assert_int_eq(image_settle(img), 0);
		put(img, 0, 4 * M, 1);
	}
	ck_assert_uint_le(qcow2_of(img)->end, end + 16);
	close_image(img);
	check_clean("a", 0);
}
END_TEST

/* ------------------------------------------------------------ damage, refusals */

static void poke(const char *name, uint64_t off, const void *data, size_t len)
{
	int fd = open(name, O_RDWR);

	ck_assert_int_eq(pwrite(fd, data, len, off), (ssize_t)len);
	close(fd);
}

static void poke64(const char *name, uint64_t off, uint64_t v)
{
	uint8_t b[8];

	put_be64(b, v);
	poke(name, off, b, 8);
}

START_TEST(damage_is_named_and_marked)
{
	struct tapimg *img = made(64 * M, "cluster_size=65536");
	struct tapimg_open_opts o = { .format = "qcow2", .flags = TAPIMG_RDWR };
	struct tapimg_err err = { 0 };
	uint64_t l2;
	char c;

	put(img, 0, 200 * K, 1);
	close_image(img);
	img = open_image("a", "qcow2", 0);
	l2 = map(img, 0, 1).host - 65536;	/* the table comes before the data */
	close_image(img);
	poke64("a", l2 + 8, 0x12345600 | QCOW2_COPIED);
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pread(img, &c, 1, 5), 0);
	ck_assert_int_eq(tapimg_pread(img, &c, 1, 65536), -EUCLEAN);
	ck_assert_int_ne(tapimg_pwrite(img, &c, 1, 65536), 0);
	ck_assert_int_ne(tapimg_pwrite(img, &c, 1, 5), 0);	/* nothing is written any more */
	ck_assert_int_ne(tapimg_close(img, &err), 0);
	ck_assert_ptr_nonnull(strstr(err.text, "0x10000"));
	ck_assert_ptr_nonnull(strstr(err.text, "not aligned"));
	ck_assert_int_eq(open_fails("a", &o, &err), -EUCLEAN);
	img = open_image("a", "qcow2", 0);		/* but it can be read */
	ck_assert_int_eq(tapimg_pread(img, &c, 1, 5), 0);
	ck_assert_int_eq(c, 1);
	close_image(img);
}
END_TEST

/* Counts that call tables free must not make anybody write into them. */
START_TEST(tables_are_never_handed_out)
{
	struct tapimg *img = made(1 * M, "cluster_size=65536");
	static const uint8_t zero[8];

	close_image(img);
	poke("a", 0x20000, zero, 8);	/* counts of the first four clusters */
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 0), -EUCLEAN);
	tapimg_close(img, NULL);
}
END_TEST

/* Entries that lead a guest's write into the L1 or the refcount table are not followed. */
START_TEST(tables_are_never_written_as_data)
{
	struct tapimg *img = made(64 * M, "cluster_size=65536");
	uint64_t table[] = { qcow2_of(img)->rt_off, qcow2_of(img)->l1_off }, l2;
	uint8_t before[65536], after[65536];
	int fd;

	put(img, 0, 3 * 65536, 1);
	l2 = map(img, 0, 1).host - 65536;
	close_image(img);
	poke64("a", l2 + 8 * _i, table[_i] | QCOW2_COPIED);
	fd = open("a", O_RDONLY);
	ck_assert_int_gt(pread(fd, before, sizeof(before), table[_i]), 0);
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 65536 * _i + 77), -EUCLEAN);
	tapimg_close(img, NULL);
	ck_assert_int_gt(pread(fd, after, sizeof(after), table[_i]), 0);
	ck_assert_int_eq(memcmp(before, after, sizeof(after)), 0);
	close(fd);
}
END_TEST

/* An image of 64 KiB clusters, counts of one bit: @n table entries for @blocks full blocks in turn. */
static void full_counts(uint64_t n, unsigned blocks)
{
	static const uint8_t head[] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
	uint64_t s = 65536, rt = 2 * s, rb = rt + 128 * s, l1 = rb + blocks * s;
	uint8_t *t = calloc(n, 8), *full = malloc(s);

	memset(full, 0xff, s);
	put_text("a", "");
	poke("a", 0, head, sizeof(head));
	poke64("a", QH_CLUSTER_BITS, 16ULL << 32);
	poke64("a", QH_SIZE, 1ULL << 30);
	poke64("a", QH_CRYPT, 2);
	poke64("a", QH_L1_OFF, l1);
	poke64("a", QH_RT_OFF, rt);
	poke64("a", QH_RT_CLUSTERS, 128ULL << 32);
	poke64("a", QH_REFCOUNT_ORDER, QH_V3_LEN);
	for (uint64_t i = 0; i < n; i++)
		put_be64(t + 8 * i, rb + i % blocks * s);
	poke("a", rt, t, n * 8);
	for (unsigned i = 0; i < blocks; i++)
		poke("a", rb + i * s, full, s);
	ck_assert_int_eq(truncate("a", l1 + s), 0);
	free(full);
	free(t);
}

/* A table that names full blocks over and over ends a search for space, however it does so. */
START_TEST(endless_counts)
{
	struct tapimg_opt o = { "refcount_bits", "16" };
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	full_counts(MiB, _i + 1);
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_amend(img, &o, 1, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, "twice"), "%s", err.text);
	ck_assert_int_eq(tapimg_snapshot_create(img, "one", &err), -EUCLEAN);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 0), -EUCLEAN);
	tapimg_close(img, NULL);
}
END_TEST

static void count_turn(struct task *t)
{
	struct { struct task t; unsigned n; } *c = (void *)t;

	c->n++;
	loop_defer(loop, t);
}

/* A long search gives others their turn, and is not begun again. Clusters beyond the end are no damage. */
START_TEST(long_search)
{
	struct { struct task t; unsigned n; } turns = { .t.fn = count_turn };
	struct tapimg *img;

	full_counts(20, 20);
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	list_init(&turns.t.node);
	loop_defer(loop, &turns.t);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 0), 0);
	list_del(&turns.t.node);
	ck_assert_uint_ge(qcow2_of(img)->scan, 20ULL << 19);
	ck_assert_uint_ge(turns.n, 20 * 16 / 32);
	close_image(img);
}
END_TEST

/*
 * A mapping leads to the block that counts its own cluster: that is not given back, nor handed out
 * when its count is 0.
 */
START_TEST(counts_of_the_counts)
{
	struct tapimg *img = made(64 * M, "cluster_size=65536");
	struct tapimg_err err = { 0 };
	uint64_t rb, rt = qcow2_of(img)->rt_off, l2;
	uint8_t buf[8];
	int fd;

	put(img, 0, 3 * 65536, 1);
	l2 = map(img, 0, 1).host - 65536;
	close_image(img);
	fd = open("a", O_RDONLY);
	ck_assert_int_eq(pread(fd, buf, 8, rt), 8);
	close(fd);
	rb = get_be64(buf);
	if (_i)
		poke("a", rb + (rb >> 16) * 2, "\0\0", 2);
	else
		poke64("a", l2 + 8, rb);	/* not COPIED: copied before it is written, then given back */
	img = open_image("a", "qcow2", TAPIMG_RDWR);
	for (int i = 0; i < 8; i++)	/* a piece of it, then new clusters */
		if (tapimg_pwrite(img, "x", 1, (1 + i * 3) * 65536) || tapimg_flush(img))
			break;
	ck_assert_int_ne(tapimg_close(img, &err), 0);
	ck_assert_msg(strstr(err.text, "refcount block"), "%s", err.text);
	fd = open("a", O_RDONLY);
	ck_assert_int_eq(pread(fd, buf, 2, rb + (rb >> 16) * 2), 2);
	ck_assert_int_eq(get_be16(buf), !_i);
	close(fd);
}
END_TEST

START_TEST(refusals)
{
	struct tapimg_open_opts o = { .format = "qcow2", .flags = TAPIMG_RDWR };
	struct tapimg_err err;

	make("a", 1 * M, "cluster_size=65536");
	poke64("a", QH_INCOMPAT, 1ULL << 33);
	ck_assert_int_eq(open_fails("a", &o, &err), -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(err.text, "bit 33"));
	poke64("a", QH_INCOMPAT, 0);
	poke("a", QH_CRYPT, "\0\0\0\2", 4);
	ck_assert_int_eq(open_fails("a", &o, &err), -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(err.text, "LUKS"));
	poke("a", QH_CRYPT, "\0\0\0\0", 4);
	poke("a", QH_L1_SIZE, "\0\0\0\0", 4);
	ck_assert_int_eq(open_fails("a", &o, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "L1 table"));
	poke("a", QH_L1_SIZE, "\0\0\0\1", 4);
	poke64("a", QH_L1_OFF, 1 << 30);
	ck_assert_int_eq(open_fails("a", &o, &err), -EUCLEAN);
}
END_TEST

START_TEST(unknown_autoclear_bits_go_with_the_first_writer)
{
	uint8_t b[8];
	int fd;

	make("a", 1 * M, "cluster_size=65536");
	poke64("a", QH_AUTOCLEAR, 1ULL << 60);
	close_image(open_image("a", "qcow2", 0));
	fd = open("a", O_RDONLY);
	ck_assert_int_eq(pread(fd, b, 8, QH_AUTOCLEAR), 8);
	ck_assert_uint_eq(get_be64(b), 1ULL << 60);
	close_image(open_image("a", "qcow2", TAPIMG_RDWR));
	ck_assert_int_eq(pread(fd, b, 8, QH_AUTOCLEAR), 8);
	ck_assert_uint_eq(get_be64(b), 0);
	close(fd);
}
END_TEST

static const char *const bad_options[] = {
	"cluster_size=256", "cluster_size=4194304", "cluster_size=5000", "refcount_bits=3",
	"refcount_bits=128", "compat=0.10,refcount_bits=1", "compat=0.10,lazy_refcounts=on",
	"compat=0.10,compression_type=zstd", "compat=0.10,extended_l2=on",
	"extended_l2=on,cluster_size=8192", "data_file_raw=on", "encryption=on",
	"encrypt.format=luks", "compat=0.10,data_file=d",
};

START_TEST(options_that_cannot_be)
{
	char name[64], *eq, *comma;
	struct tapimg_opt v[2];
	struct tapimg_create_opts c = { .format = "qcow2", .size = M, .opts = v, .nopts = 1 };
	struct tapimg_err err = { 0 };

	snprintf(name, sizeof(name), "%s", bad_options[_i]);
	comma = strchr(name, ',');
	if (comma) {
		*comma++ = 0;
		eq = strchr(comma, '=');
		*eq = 0;
		v[c.nopts++] = (struct tapimg_opt){ comma, eq + 1 };
	}
	eq = strchr(name, '=');
	*eq = 0;
	v[0] = (struct tapimg_opt){ name, eq + 1 };
	ck_assert_int_lt(tapimg_create(loop, "a", &c, &err), 0);
	ck_assert(err.text[0]);
	ck_assert_uint_eq(files_here(), 0);
}
END_TEST

/* ---------------------------------------------------------- random operations */

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void coded_done(struct tapimg_req *req)
{
	*(bool *)req->opaque = true;
}

static int write_coded(struct tapimg *img, void *buf, uint64_t off, uint64_t len)
{
	struct iovec iov = { buf, len };
	bool done = false;
	struct tapimg_req req = { .op = TAPIMG_WRITE_COMPRESSED, .off = off, .len = len, .iov = &iov,
				  .iovcnt = 1, .done = coded_done, .opaque = &done };

	tapimg_submit(img, &req);
	while (!done)
		tapimg_loop_run(loop, true);
	return req.ret;
}

static void scribble(uint8_t *buf, uint64_t len)
{
	unsigned step = 1 + rnd() % 64;
	uint64_t i;

	memset(buf, rnd(), len);
	for (i = 0; i < len; i += step)
		buf[i] = rnd();
}

/* One operation on the image and on its shadow. */
static void random_op(struct tapimg *img, uint8_t *shadow, uint8_t *buf, bool coded)
{
	uint64_t size = img->size, cluster = img->cluster, off = rnd() % size, len;

	len = rnd() % 4 ? rnd() % (3 * cluster) + 1 : rnd() % (size / 4) + 1;
	if (!(rnd() % 3))
		off -= off % cluster;
	len = MIN(len, size - off);
	switch (rnd() % 8) {
	case 0:
		ck_assert_int_eq(tapimg_zero(img, off, len, rnd() & 1 ? TAPIMG_REQ_MAY_UNMAP : 0), 0);
		memset(shadow + off, 0, len);
		break;
	case 1:
		off -= off % cluster;
		len = MIN(cluster, size - off);
		scribble(buf, len);
		if (coded)
			ck_assert_int_eq(write_coded(img, buf, off, len), 0);
		else
			ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
		memcpy(shadow + off, buf, len);
		break;
	case 2:
		ck_assert_int_eq(tapimg_flush(img), 0);
		break;
	case 3:
	case 4:
		ck_assert_int_eq(tapimg_pread(img, buf, len, off), 0);
		ck_assert_int_eq(memcmp(buf, shadow + off, len), 0);
		break;
	default:
		scribble(buf, len);
		ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
		memcpy(shadow + off, buf, len);
	}
}

static const struct {
	const char *opts;
	bool coded;
} variants[] = {
	{ "cluster_size=65536", true },
	{ "cluster_size=512", true },
	{ "cluster_size=512,refcount_bits=64", true },
	{ "cluster_size=2097152", true },
	{ "cluster_size=4096,refcount_bits=1", true },
	{ "cluster_size=4096,refcount_bits=2", true },
	{ "cluster_size=4096,refcount_bits=4", true },
	{ "cluster_size=4096,refcount_bits=8", true },
	{ "cluster_size=4096,refcount_bits=32", true },
	{ "compat=0.10,cluster_size=4096", true },
	{ "extended_l2=on,cluster_size=16384", true },
	{ "extended_l2=on,cluster_size=65536,compression_type=zstd", true },
	{ "data_file=d,cluster_size=4096", false },
	{ "data_file=d,data_file_raw=on,cluster_size=4096", false },
	{ "preallocation=metadata,cluster_size=4096", true },
	{ "preallocation=falloc,extended_l2=on,cluster_size=16384", true },
};

/* Even rounds warm, odd rounds in cold mode: every first look at a block has to wait. */
START_TEST(random_operations)
{
	uint64_t size = 3 * M + 4096 + 512;
	uint8_t *shadow = calloc(1, size), *buf = malloc(size);
	struct tapimg *img;
	int round, i;

	seed = 0x9e3779b97f4a7c15ULL * (_i + 1);
	make("a", size, variants[_i].opts);
	for (round = 0; round < 2; round++) {
		img = open_image("a", "qcow2", TAPIMG_RDWR);
		img->meta->cold = round & 1;
		for (i = 0; i < 120; i++)
			random_op(img, shadow, buf, variants[_i].coded);
		close_image(img);
		check_clean("a", 0);
	}
	img = open_image("a", "qcow2", 0);
	ck_assert_int_eq(tapimg_pread(img, buf, size, 0), 0);
	ck_assert_int_eq(memcmp(buf, shadow, size), 0);
	close_image(img);
	free(shadow);
	free(buf);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2 on images");
	TCase *t = tcase_create("map");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_add_test(t, an_empty_image_is_one_hole);
	tcase_add_test(t, neighbours_merge);
	tcase_add_test(t, zeroes_and_holes);
	tcase_add_test(t, subclusters);
	tcase_add_test(t, reserved_space_is_nobody_elses);
	tcase_add_test(t, a_shared_table_is_copied);
	tcase_add_test(t, the_refcount_table_grows);
	tcase_add_test(t, space_is_used_again);
	tcase_add_test(t, damage_is_named_and_marked);
	tcase_add_test(t, tables_are_never_handed_out);
	tcase_add_loop_test(t, tables_are_never_written_as_data, 0, 2);
	tcase_add_loop_test(t, endless_counts, 0, 3);
	tcase_add_test(t, long_search);
	tcase_add_loop_test(t, counts_of_the_counts, 0, 2);
	tcase_add_test(t, refusals);
	tcase_add_test(t, unknown_autoclear_bits_go_with_the_first_writer);
	tcase_add_loop_test(t, options_that_cannot_be, 0, ARRAY_SIZE(bad_options));
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	t = tcase_create("random");
	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_add_loop_test(t, random_operations, 0, ARRAY_SIZE(variants));
	tcase_set_timeout(t, 120);
	suite_add_tcase(s, t);
	return suite_run(s);
}
