/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-image.c - opening chains: names, formats, the gate, loops, depth, missing files, locks; and
 * what administrative calls have in common
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image.h"
#include "scratch.h"
#include "suite.h"

#define has(err, what) ck_assert_msg(strstr((err).text, what), "'%s' lacks '%s'", (err).text, what)

static void fill(void *buf, size_t len, unsigned seed)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)(seed + i / 512 + 1);
}

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Overlays without looking at what is below: name, its backing file, and that one's format. */
static void make_overlay(const char *name, const char *backing, const char *format)
{
	struct tapimg_create_opts o = {
		.format = "qcow2", .size = 1 << 20, .backing = backing, .backing_format = format,
		.no_backing_check = true,
	};
	struct tapimg_err err = { 0 };
	int ret = tapimg_create(loop, name, &o, &err);

	ck_assert_msg(ret == 0, "create %s: %d %s", name, ret, err.text);
}

/* --------------------------------------------------------------- names, formats */

START_TEST(plain)
{
	struct tapimg *img;

	make_image("a.raw", "raw", 3 << 20, NULL, NULL);
	img = open_image("a.raw", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "raw");
	ck_assert_str_eq(tapimg_filename(img), "a.raw");
	ck_assert_uint_eq(tapimg_size(img), 3 << 20);
	ck_assert_ptr_null(tapimg_backing(img));
	close_image(img);
	img = open_image("file:a.raw", "raw", TAPIMG_RDWR);
	close_image(img);
}
END_TEST

START_TEST(unknown)
{
	struct tapimg_open_opts o = { .format = "vdi" };
	struct tapimg_err err;

	ck_assert_int_eq(open_fails("none.raw", NULL, &err), -ENOENT);
	has(err, "none.raw");
	put_text("a", "hello");
	ck_assert_int_eq(open_fails("a", &o, &err), -ENOTSUP);
	has(err, "'vdi'");
	o.format = "qcow2";
	ck_assert_int_lt(open_fails("a", &o, &err), 0);
	has(err, "a");
	o = (struct tapimg_open_opts){ .format = "qcow2" };
	ck_assert_int_eq(open_fails("json:{\"driver\":\"raw\",\"file\":\"a\"}", &o, &err), -EINVAL);
	has(err, "qcow2");
	o = (struct tapimg_open_opts){ .format = "raw", .snapshot = "s" };
	ck_assert_int_eq(open_fails("a", &o, &err), -ENOTSUP);
	has(err, "the raw format has no internal snapshots");
	/* no text wanted: nothing to write to */
	struct tapimg *img;
	ck_assert_int_eq(tapimg_open(loop, "none.raw", NULL, &img, NULL), -ENOENT);
}
END_TEST

START_TEST(formats)
{
	const char *const *f = tapimg_formats();
	unsigned n = 0;

	for (; f[n]; n++) {
		ck_assert_ptr_nonnull(tapimg_format_opts(f[n]));
		ck_assert_str_eq(format_find(f[n])->name, f[n]);
	}
	ck_assert_uint_ge(n, 2);
	ck_assert_ptr_null(tapimg_format_opts("no-such-format"));
	ck_assert_str_eq(tapimg_version(), TAPIMG_VERSION);
}
END_TEST

/* Where a format is given, or stored, contents decide nothing. */
START_TEST(no_probe_where_given)
{
	struct tapimg *img;

	make_image("q", "qcow2", 1 << 20, NULL, NULL);
	img = open_image("q", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "qcow2");
	close_image(img);
	img = open_image("q", "raw", 0);
	ck_assert_str_eq(tapimg_format(img), "raw");
	ck_assert_uint_ne(tapimg_size(img), 1 << 20);
	close_image(img);
	make_overlay("top", "q", "raw");
	img = open_image("top", NULL, 0);
	ck_assert_str_eq(tapimg_format(tapimg_backing(img)), "raw");
	ck_assert_ptr_null(tapimg_backing(tapimg_backing(img)));
	close_image(img);
	img = open_image("json:{\"file\":{\"driver\":\"file\",\"filename\":\"q\"}}", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "qcow2");
	close_image(img);
	img = open_image("json:{\"driver\":\"file\",\"filename\":\"q\"}", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "raw");
	close_image(img);
}
END_TEST

START_TEST(json_backing)
{
	struct tapimg *img, *b;
	struct stat st;

	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("other.raw", "raw", 2 << 20, NULL, NULL);
	make_image("top", "qcow2", TAPIMG_SIZE_BACKING, "base.raw", "raw");
	img = open_image("json:{\"driver\":\"qcow2\",\"file\":\"top\",\"backing\":null}", NULL, 0);
	ck_assert_ptr_null(tapimg_backing(img));
	close_image(img);
	img = open_image("json:{\"driver\":\"qcow2\",\"file.filename\":\"top\","
			 "\"backing.driver\":\"raw\",\"backing.file.filename\":\"other.raw\"}", NULL, 0);
	b = tapimg_backing(img);
	ck_assert_uint_eq(tapimg_size(b), 2 << 20);
	ck_assert_ptr_null(tapimg_backing(b));
	close_image(img);
	/* and as it may be stored in an image */
	make_overlay("deep", "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
			     "\"filename\":\"top\"}}", "qcow2");
	img = open_image("deep", NULL, 0);
	ck_assert_str_eq(tapimg_format(tapimg_backing(img)), "qcow2");
	ck_assert_str_eq(tapimg_filename(tapimg_backing(tapimg_backing(img))), "base.raw");
	close_image(img);
	ck_assert_int_eq(stat("top", &st), 0);
}
END_TEST

START_TEST(backing_beside_the_image)
{
	struct tapimg *img;

	ck_assert_int_eq(mkdir("sub", 0777), 0);
	make_image("sub/base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("sub/top", "qcow2", TAPIMG_SIZE_BACKING, "base.raw", "raw");
	img = open_image("sub/top", NULL, 0);
	ck_assert_str_eq(tapimg_filename(tapimg_backing(img)), "sub/base.raw");
	ck_assert_uint_eq(tapimg_size(img), 1 << 20);
	close_image(img);
	img = open_image("sub/top", NULL, TAPIMG_NO_BACKING);
	ck_assert_ptr_null(tapimg_backing(img));
	close_image(img);
}
END_TEST

START_TEST(window)
{
	struct tapimg_open_opts o = { .format = "raw", .offset = 1024, .size = 2048 };
	unsigned char data[4096], got[2048];
	struct tapimg_err err;
	struct tapimg *img;

	fill(data, sizeof(data), 0);
	put_file("a", data, sizeof(data));
	ck_assert_int_eq(tapimg_open(loop, "a", &o, &img, NULL), 0);
	ck_assert_uint_eq(tapimg_size(img), 2048);
	ck_assert_int_eq(tapimg_pread(img, got, sizeof(got), 0), 0);
	ck_assert_mem_eq(got, data + 1024, sizeof(got));
	close_image(img);
	img = open_image("json:{\"driver\":\"raw\",\"offset\":3072,\"file\":\"a\"}", NULL, 0);
	ck_assert_uint_eq(tapimg_size(img), 1024);
	close_image(img);
	make_image("q", "qcow2", 1 << 20, NULL, NULL);
	o.format = "qcow2";
	ck_assert_int_eq(open_fails("q", &o, &err), -EINVAL);
	has(err, "only for raw");
}
END_TEST

/* --------------------------------------------------------------------- the gate */

struct gate_log {
	unsigned n;
	enum tapimg_role role[8];
	char line[8][200];
	const char *refuse;
};

static bool gate(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	struct gate_log *g = arg;

	if (g->n < 8) {
		g->role[g->n] = role;
		snprintf(g->line[g->n], sizeof(g->line[0]), "%s>%s", referrer, path);
	}
	g->n++;
	return !g->refuse || strcmp(g->refuse, path);
}

START_TEST(gate_asked_once)
{
	struct gate_log log = { 0 };
	struct tapimg_open_opts o = { .gate = gate, .gate_arg = &log };
	struct tapimg *img;

	make_image("c.raw", "raw", 1 << 20, NULL, NULL);
	make_image("b", "qcow2", TAPIMG_SIZE_BACKING, "c.raw", "raw");
	make_image("a", "qcow2", TAPIMG_SIZE_BACKING, "b", "qcow2");
	ck_assert_int_eq(tapimg_open(loop, "a", &o, &img, NULL), 0);
	close_image(img);
	ck_assert_uint_eq(log.n, 2);
	ck_assert_str_eq(log.line[0], "a>b");
	ck_assert_str_eq(log.line[1], "b>c.raw");
	ck_assert_int_eq(log.role[0], TAPIMG_ROLE_BACKING);
	ck_assert_int_eq(log.role[1], TAPIMG_ROLE_BACKING);
}
END_TEST

START_TEST(gate_refuses)
{
	struct gate_log log = { .refuse = "secret" };
	struct tapimg_open_opts o = { .gate = gate, .gate_arg = &log };
	struct tapimg_create_opts c = {
		.format = "qcow2", .size = TAPIMG_SIZE_BACKING, .backing = "secret",
		.backing_format = "raw", .gate = gate, .gate_arg = &log,
	};
	struct tapimg_err err;
	struct tapimg *img;
	unsigned files = open_files();

	put_text("secret", "not for you");
	make_overlay("b", "secret", "raw");
	make_overlay("a", "json:{\"driver\":\"qcow2\",\"file\":\"b\"}", "qcow2");
	ck_assert_int_eq(open_fails("a", &o, &err), -EPERM);
	has(err, "secret");
	has(err, "refused");
	ck_assert_uint_eq(log.n, 2);
	ck_assert_str_eq(log.line[0], "a>b");	/* what a json: name stands for, not its text */
	ck_assert_uint_eq(open_files(), files);
	/* without the chain there is nothing to be asked */
	log.n = 0;
	o.flags = TAPIMG_NO_BACKING;
	ck_assert_int_eq(tapimg_open(loop, "a", &o, &img, NULL), 0);
	close_image(img);
	ck_assert_uint_eq(log.n, 0);
	ck_assert_int_eq(tapimg_create(loop, "new", &c, &err), -EPERM);
	ck_assert_int_ne(access("new", F_OK), 0);
}
END_TEST

START_TEST(gate_data_file)
{
	struct tapimg_opt opt = { "data_file", "a.data" };
	struct tapimg_create_opts c = {
		.format = "qcow2", .size = 1 << 20, .opts = &opt, .nopts = 1,
	};
	struct gate_log log = { 0 };
	struct tapimg_open_opts o = { .gate = gate, .gate_arg = &log };
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	ck_assert_msg(!tapimg_create(loop, "a", &c, &err), "%s", err.text);
	ck_assert_int_eq(tapimg_open(loop, "a", &o, &img, NULL), 0);
	close_image(img);
	ck_assert_uint_eq(log.n, 1);
	ck_assert_int_eq(log.role[0], TAPIMG_ROLE_DATA);
	ck_assert_str_eq(log.line[0], "a>a.data");
	log.refuse = "a.data";
	ck_assert_int_eq(open_fails("a", &o, &err), -EPERM);
	/* a json: name stored in an image names a data file too */
	make_overlay("top", "json:{\"driver\":\"qcow2\",\"file\":\"a\",\"data-file\":\"b.data\"}",
		     "qcow2");
	put_text("b.data", "");
	log.refuse = "b.data";
	ck_assert_int_eq(open_fails("top", &o, &err), -EPERM);
	has(err, "b.data");
}
END_TEST

/* ------------------------------------------------------------ loops, depth, gaps */

START_TEST(missing_is_explained)
{
	struct tapimg_err err;

	make_overlay("b.qcow2", "c.raw", "raw");
	make_overlay("a.qcow2", "b.qcow2", "qcow2");
	ck_assert_int_eq(open_fails("a.qcow2", NULL, &err), -ENOENT);
	ck_assert_str_eq(err.text, "a.qcow2: backing file 'b.qcow2' (of a.qcow2): backing file 'c.raw' "
				   "(of b.qcow2): No such file or directory");
	ck_assert_int_eq(open_fails("b.qcow2", NULL, &err), -ENOENT);
	ck_assert_str_eq(err.text, "b.qcow2: backing file 'c.raw' (of b.qcow2): "
				   "No such file or directory");
}
END_TEST

START_TEST(damaged_layer_is_explained)
{
	struct tapimg_err err;

	put_text("b", "this is no qcow2 image");
	make_overlay("a", "b", "qcow2");
	ck_assert_int_lt(open_fails("a", NULL, &err), 0);
	ck_assert_int_eq(strncmp(err.text, "a: backing file 'b' (of a): ", 28), 0);
	make_overlay("a", "b", "raw");
	close_image(open_image("a", NULL, 0));
}
END_TEST

START_TEST(loops)
{
	struct tapimg_err err;
	struct tapimg *img;

	make_overlay("a", "b", "qcow2");
	make_overlay("b", "c", "qcow2");
	make_overlay("c", "a", "qcow2");
	ck_assert_int_eq(open_fails("a", NULL, &err), -ELOOP);
	ck_assert_str_eq(err.text, "a: backing file 'b' (of a): backing file 'c' (of b): "
				   "backing file 'a' (of c): the chain loops: that is a again");
	/* for writing as well, where locks would be in the way */
	ck_assert_int_eq(open_fails("a", &(struct tapimg_open_opts){ .flags = TAPIMG_RDWR }, &err),
			 -ELOOP);
	/* under other names */
	ck_assert_int_eq(symlink("a", "s"), 0);
	make_overlay("c", "s", "qcow2");
	ck_assert_int_eq(open_fails("a", NULL, &err), -ELOOP);
	ck_assert_int_eq(link("b", "h"), 0);
	make_overlay("c", "./h", "raw");
	ck_assert_int_eq(open_fails("b", NULL, &err), -ELOOP);
	/* itself */
	make_overlay("self", "self", "qcow2");
	ck_assert_int_eq(open_fails("self", NULL, &err), -ELOOP);
	img = open_image("self", NULL, TAPIMG_NO_BACKING);
	close_image(img);
}
END_TEST

START_TEST(deep)
{
	unsigned files = open_files();
	struct tapimg_err err;
	struct tapimg *img, *l;
	char name[32], below[32];
	unsigned n = 0;

	make_image("l0", "raw", 1 << 20, NULL, NULL);
	for (int i = 1; i <= CHAIN_MAX; i++) {
		snprintf(name, sizeof(name), "l%d", i);
		snprintf(below, sizeof(below), "l%d", i - 1);
		make_overlay(name, below, i == 1 ? "raw" : "qcow2");
	}
	snprintf(name, sizeof(name), "l%d", CHAIN_MAX - 1);
	img = open_image(name, NULL, 0);
	for (l = img; l; l = tapimg_backing(l))
		n++;
	ck_assert_uint_eq(n, CHAIN_MAX);
	close_image(img);
	ck_assert_uint_eq(open_files(), files);
	snprintf(name, sizeof(name), "l%d", CHAIN_MAX);
	ck_assert_int_eq(open_fails(name, NULL, &err), -ELOOP);
	has(err, "deeper than 200 layers");
	has(err, "l200: backing file 'l199' (of l200): backing file 'l198' (of l199): ... ");
	has(err, "backing file 'l0' (of l1): ");
	/* and a hole far down: everything above it is closed again */
	ck_assert_int_eq(unlink("l60"), 0);
	ck_assert_int_eq(open_fails(name, NULL, &err), -ENOENT);
	has(err, "backing file 'l60' (of l61): No such file or directory");
	ck_assert_uint_eq(open_files(), files);
}
END_TEST

/* Whatever the names, the cause is in the text. */
START_TEST(long_names_keep_the_cause)
{
	char name[260], below[260];
	struct tapimg_err err;

	for (int i = 0; i < 20; i++) {
		memset(name, 'a' + i, 230);
		name[230] = 0;
		memset(below, 'a' + i + 1, 230);
		below[230] = 0;
		make_overlay(name, below, "qcow2");
	}
	memset(name, 'a', 230);
	ck_assert_int_eq(open_fails(name, NULL, &err), -ENOENT);
	has(err, "No such file or directory");
	has(err, "... 15 more ...");
}
END_TEST

/* ------------------------------------------------------------------------ locks */

START_TEST(locks)
{
	struct tapimg_open_opts rw = { .flags = TAPIMG_RDWR };
	struct tapimg_err err;
	struct tapimg *a, *b;

	make_image("a", "raw", 1 << 20, NULL, NULL);
	a = open_image("a", "raw", TAPIMG_RDWR);
	ck_assert_int_eq(open_fails("a", NULL, &err), -EBUSY);
	has(err, "a");
	ck_assert_int_eq(open_fails("a", &rw, &err), -EBUSY);
	b = open_image("a", "raw", TAPIMG_SHARE);
	close_image(b);
	close_image(a);
	a = open_image("a", "raw", 0);
	b = open_image("a", "raw", 0);
	ck_assert_int_eq(open_fails("a", &rw, &err), -EBUSY);
	close_image(a);
	close_image(b);
	close_image(open_image("a", "raw", TAPIMG_RDWR));
}
END_TEST

START_TEST(backing_locks)
{
	struct tapimg_open_opts rw = { .flags = TAPIMG_RDWR };
	struct tapimg_err err;
	struct tapimg *a, *b;

	make_image("base", "raw", 1 << 20, NULL, NULL);
	make_image("a", "qcow2", TAPIMG_SIZE_BACKING, "base", "raw");
	make_image("b", "qcow2", TAPIMG_SIZE_BACKING, "base", "raw");
	/* two machines share a base ... */
	a = open_image("a", NULL, TAPIMG_RDWR);
	b = open_image("b", NULL, TAPIMG_RDWR);
	/* ... which nobody may write to */
	ck_assert_int_eq(open_fails("base", &rw, &err), -EBUSY);
	ck_assert_int_eq(tapimg_pwrite(tapimg_backing(a), "x", 1, 0), -EROFS);
	close_image(b);
	close_image(a);
	/* unless it was asked for */
	rw.rdwr_layers = 1;
	ck_assert_int_eq(tapimg_open(loop, "a", &rw, &a, NULL), 0);
	ck_assert_int_eq(tapimg_pwrite(tapimg_backing(a), "x", 1, 0), 0);
	ck_assert_int_eq(open_fails("b", NULL, &err), -EBUSY);
	has(err, "b: backing file 'base' (of b): ");
	close_image(a);
}
END_TEST

/* --------------------------------------------------------------- administration */

START_TEST(plainly_not_able)
{
	struct tapimg_err err = { 0 };
	struct tapimg_check check;
	struct tapimg *img;

	make_image("a.raw", "raw", 1 << 20, NULL, NULL);
	img = open_image("a.raw", "raw", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), -ENOTSUP);
	ck_assert_str_eq(err.text, "a.raw: the raw format has no internal snapshots");
	ck_assert_int_eq(tapimg_snapshot_apply(img, "s", NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_snapshot_delete(img, "s", NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_bitmap_add(img, "b", 0, false, &err), -ENOTSUP);
	ck_assert_str_eq(err.text, "a.raw: the raw format has no bitmaps");
	ck_assert_int_eq(tapimg_bitmap_remove(img, "b", NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_bitmap_clear(img, "b", NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_bitmap_enable(img, "b", true, NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_bitmap_merge(img, "b", img, "c", NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_set_backing(img, "b", "raw", &err), -ENOTSUP);
	ck_assert_str_eq(err.text, "a.raw: the raw format has no backing files");
	ck_assert_int_eq(tapimg_amend(img, NULL, 0, NULL), -ENOTSUP);
	ck_assert_int_eq(tapimg_check(img, 0, &check, NULL, NULL, &err), -ENOTSUP);
	ck_assert_str_eq(err.text, "a.raw: the raw format has no check");
	close_image(img);
}
END_TEST

START_TEST(not_while_read_only)
{
	struct tapimg_err err = { 0 };
	struct tapimg_check check;
	struct tapimg *img;

	make_image("a", "qcow2", 1 << 20, NULL, NULL);
	img = open_image("a", NULL, 0);
	ck_assert_int_eq(tapimg_snapshot_create(img, "s", &err), -EROFS);
	has(err, "a: is not open for writing");
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, 0, false, &err), -EROFS);
	ck_assert_int_eq(tapimg_set_backing(img, "b", "raw", &err), -EROFS);
	ck_assert_int_eq(tapimg_check(img, 0, &check, NULL, NULL, &err), -EINVAL);
	close_image(img);
	img = open_image("a", NULL, TAPIMG_CHECK);
	ck_assert_int_eq(tapimg_check(img, TAPIMG_FIX_LEAKS, &check, NULL, NULL, &err), -EROFS);
	ck_assert_int_eq(tapimg_check(img, 0, &check, NULL, NULL, &err), 0);
	ck_assert_uint_eq(check.corruptions + check.leaks + check.check_errors, 0);
	close_image(img);
}
END_TEST

START_TEST(info_common)
{
	const struct tapimg_info *i;
	struct tapimg *img;

	ck_assert_int_eq(mkdir("d", 0777), 0);
	make_image("d/base", "raw", 1 << 20, NULL, NULL);
	make_image("d/a", "qcow2", TAPIMG_SIZE_BACKING, "base", "raw");
	img = open_image("d/a", NULL, 0);
	for (int round = 0; round < 3; round++) {
		ck_assert_int_eq(tapimg_info(img, &i, NULL), 0);
		ck_assert_str_eq(i->filename, "d/a");
		ck_assert_str_eq(i->format, "qcow2");
		ck_assert_uint_eq(i->virtual_size, 1 << 20);
		ck_assert_uint_eq(i->cluster_size, 65536);
		ck_assert_str_eq(i->backing, "base");
		ck_assert_str_eq(i->backing_full, "d/base");
		ck_assert_str_eq(i->backing_format, "raw");
		ck_assert_uint_gt(i->actual_size, 0);
	}
	ck_assert_int_eq(tapimg_info(tapimg_backing(img), &i, NULL), 0);
	ck_assert_str_eq(i->format, "raw");
	ck_assert_ptr_null(i->backing);
	close_image(img);
}
END_TEST

/* Memory for info is one arena whatever is asked of it. */
START_TEST(info_memory)
{
	struct tapimg *img;
	char *p[100];

	make_image("a", "raw", 512, NULL, NULL);
	img = open_image("a", "raw", 0);
	for (int i = 0; i < 100; i++) {
		p[i] = info_alloc(img, 1 + 97 * (size_t)i);
		ck_assert_ptr_nonnull(p[i]);
		ck_assert_uint_eq((uintptr_t)p[i] % _Alignof(max_align_t), 0);
		memset(p[i], i, 1 + 97 * (size_t)i);
	}
	for (int i = 0; i < 100; i++)
		for (int j = 0; j < 1 + 97 * i; j++)
			ck_assert_int_eq(p[i][j], i);
	ck_assert_str_eq(info_printf(img, "%s-%d", "x", 7), "x-7");
	ck_assert_ptr_null(info_alloc(img, SIZE_MAX));
	close_image(img);
}
END_TEST

START_TEST(resize_rules)
{
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	make_image("a", "raw", 1 << 20, NULL, NULL);
	img = open_image("a", "raw", TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_resize(img, 4096, 0, false, &err), -EINVAL);
	has(err, "shrinking from 1048576 to 4096");
	ck_assert_uint_eq(tapimg_size(img), 1 << 20);
	ck_assert_int_eq(tapimg_resize(img, UINT64_MAX, 0, false, &err), -EFBIG);
	ck_assert_int_eq(tapimg_resize(img, 4096, TAPIMG_PREALLOC_FULL, true, &err), -EINVAL);
	ck_assert_int_eq(tapimg_resize(img, 4096, 0, true, &err), 0);
	ck_assert_uint_eq(tapimg_size(img), 4096);
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, 0, false, &err), 0);
	ck_assert_uint_eq(tapimg_size(img), 2 << 20);
	close_image(img);
}
END_TEST

/* What a longer backing file holds beyond the old end stays hidden when the image grows. */
START_TEST(growing_hides_longer_backing)
{
	static unsigned char data[1 << 20], got[1 << 20], zero[1 << 20];
	struct tapimg_create_opts o = {
		.format = "qcow2", .size = 200000 / 512 * 512, .backing = "base",
		.backing_format = "raw",
	};
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	memset(data, 0x55, sizeof(data));
	put_file("base", data, sizeof(data));
	ck_assert_int_eq(tapimg_create(loop, "a", &o, NULL), 0);
	img = open_image("a", NULL, TAPIMG_RDWR | TAPIMG_NO_BACKING);
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, 0, false, &err), -EINVAL);
	has(err, "backing file 'base' must be open");
	close_image(img);
	img = open_image("a", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, 0, false, &err), 0);
	for (int round = 0; round < 2; round++) {
		ck_assert_uint_eq(tapimg_size(img), 2 << 20);
		ck_assert_int_eq(tapimg_pread(img, got, sizeof(got), 0), 0);
		ck_assert_mem_eq(got, data, o.size);
		ck_assert_mem_eq(got + o.size, zero, sizeof(got) - o.size);
		close_image(img);
		img = open_image("a", NULL, 0);
	}
	close_image(img);
}
END_TEST

START_TEST(bitmaps_merge)
{
	static char buf[65536];
	struct tapimg_err err = { 0 };
	const struct tapimg_info *i;
	struct tapimg *a, *b;

	make_image("a", "qcow2", 16 << 20, NULL, NULL);
	make_image("b", "qcow2", 32 << 20, NULL, NULL);
	a = open_image("a", NULL, TAPIMG_RDWR);
	b = open_image("b", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_bitmap_add(a, "coarse", 1 << 20, false, NULL), 0);
	ck_assert_int_eq(tapimg_bitmap_add(b, "fine", 65536, false, NULL), 0);
	ck_assert_int_eq(tapimg_pwrite(b, buf, sizeof(buf), 3 << 20), 0);
	ck_assert_int_eq(tapimg_pwrite(b, buf, sizeof(buf), 5 << 20), 0);
	ck_assert_int_eq(tapimg_pwrite(b, buf, sizeof(buf), 20 << 20), 0);	/* beyond a's end */
	ck_assert_int_eq(tapimg_bitmap_merge(a, "none", b, "fine", &err), -ENOENT);
	ck_assert_int_eq(tapimg_bitmap_merge(a, "coarse", b, "none", &err), -ENOENT);
	ck_assert_int_eq(tapimg_bitmap_merge(a, "coarse", b, "fine", &err), 0);
	ck_assert_int_eq(tapimg_info(a, &i, NULL), 0);
	ck_assert_uint_eq(i->nbitmaps, 1);
	ck_assert_uint_eq(i->bitmaps[0].dirty, 2 << 20);
	close_image(a);
	close_image(b);
}
END_TEST

/* Once something is wrong, nothing is written any more, and the end says what it was. */
START_TEST(failures_are_kept)
{
	struct tapimg_err err = { 0 };
	struct tapimg *img;

	make_image("a", "qcow2", 1 << 20, NULL, NULL);
	img = open_image("a", NULL, TAPIMG_RDWR);
	ck_assert_int_eq(tapimg_pwrite(img, "x", 1, 0), 0);
	image_fail(img, -EIO, "L2 table 7 at 0x%x: gone", 4096);
	image_fail(img, -ENOSPC, "later");
	ck_assert_int_lt(tapimg_pwrite(img, "x", 1, 0), 0);
	ck_assert_int_eq(tapimg_resize(img, 2 << 20, 0, false, &err), -EIO);
	has(err, "L2 table 7 at 0x1000: gone");
	err.text[0] = 0;
	ck_assert_int_eq(tapimg_close(img, &err), -EIO);
	ck_assert_str_eq(err.text, "a: L2 table 7 at 0x1000: gone");
}
END_TEST

static TCase *tcase(Suite *s, const char *name)
{
	TCase *t = tcase_create(name);

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	return t;
}

int main(void)
{
	Suite *s = suite_create("image");
	TCase *t = tcase(s, "names");

	tcase_add_test(t, plain);
	tcase_add_test(t, unknown);
	tcase_add_test(t, formats);
	tcase_add_test(t, no_probe_where_given);
	tcase_add_test(t, json_backing);
	tcase_add_test(t, backing_beside_the_image);
	tcase_add_test(t, window);
	t = tcase(s, "gate");
	tcase_add_test(t, gate_asked_once);
	tcase_add_test(t, gate_refuses);
	tcase_add_test(t, gate_data_file);
	t = tcase(s, "chains");
	tcase_add_test(t, missing_is_explained);
	tcase_add_test(t, damaged_layer_is_explained);
	tcase_add_test(t, loops);
	tcase_add_test(t, deep);
	tcase_add_test(t, long_names_keep_the_cause);
	t = tcase(s, "locks");
	tcase_add_test(t, locks);
	tcase_add_test(t, backing_locks);
	t = tcase(s, "administration");
	tcase_add_test(t, plainly_not_able);
	tcase_add_test(t, not_while_read_only);
	tcase_add_test(t, info_common);
	tcase_add_test(t, info_memory);
	tcase_add_test(t, resize_rules);
	tcase_add_test(t, growing_hides_longer_backing);
	tcase_add_test(t, bitmaps_merge);
	tcase_add_test(t, failures_are_kept);
	return suite_run(s);
}
