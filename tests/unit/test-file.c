/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-file.c - files as such: opening and its refusals, names, providers, holes, space, locks
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "file.h"
#include "suite.h"

static struct tapimg_loop *loop;
static struct tapimg_err err;
static char dir[] = "test-file.XXXXXX";

static void setup(void)
{
	strcpy(dir, "test-file.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(tapimg_loop_new(1, &loop, NULL), 0);
	memset(&err, 0, sizeof(err));
}

static void teardown(void)
{
	tapimg_loop_free(loop);
	ck_assert_int_eq(chdir(".."), 0);
	ck_assert_int_eq(rmdir(dir), 0);	/* every test removes what it made */
}

static struct file *must_open(const char *name, unsigned flags)
{
	struct file *f;

	ck_assert_msg(!file_open(loop, name, flags, &f, &err), "%s", err.text);
	return f;
}

static void make(const char *name, const char *text, uint64_t size)
{
	struct file *f = must_open(name, FILE_RDWR | FILE_CREATE | FILE_EXCL);

	ck_assert_int_eq(file_pwrite(f, text, strlen(text), 0), 0);
	ck_assert_int_eq(file_truncate(f, size), 0);
	file_close(f);
}

static void refuse(const char *name, unsigned flags, int code, const char *text)
{
	struct file *f = NULL;

	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(file_open(loop, name, flags, &f, &err), code);
	ck_assert_int_eq(err.code, code);
	ck_assert_str_eq(err.text, text);
}

/* ------------------------------------------------------------------ errors */

START_TEST(texts_are_one_line)
{
	struct tapimg_err e = { 0 };
	char huge[4000];

	ck_assert_int_eq(err_set(&e, -EINVAL, "a\nb\x01%s", "c\td"), -EINVAL);
	ck_assert_str_eq(e.text, "a?b?c?d");
	ck_assert_int_eq(err_errno(&e, -ENOENT, "x%d", 1), -ENOENT);
	ck_assert_str_eq(e.text, "x1: No such file or directory");
	ck_assert_int_eq(err_prefix(&e, -EIO, "%s", "y"), -ENOENT);
	ck_assert_str_eq(e.text, "y: x1: No such file or directory");
	ck_assert_int_eq(err_set(NULL, -EPERM, "z"), -EPERM);
	ck_assert_int_eq(err_errno(NULL, -EPERM, "z"), -EPERM);
	ck_assert_int_eq(err_prefix(NULL, -EPERM, "z"), -EPERM);
	memset(huge, 'h', sizeof(huge));
	huge[sizeof(huge) - 1] = 0;
	err_set(&e, -EIO, "%s", huge);
	err_prefix(&e, -EIO, "%s", huge);
	err_errno(&e, -EIO, "%s", huge);
	ck_assert_uint_eq(strlen(e.text), sizeof(e.text) - 1);
}
END_TEST

START_TEST(opening_is_refused_with_reasons)
{
	refuse("none", 0, -ENOENT, "none: No such file or directory");
	ck_assert_int_eq(mkdir("d", 0777), 0);
	refuse("d", 0, -EISDIR, "d: Is a directory");
	refuse("d", FILE_RDWR, -EISDIR, "d: Is a directory");
	ck_assert_int_eq(mkfifo("p", 0666), 0);
	refuse("p", 0, -EINVAL, "p: is neither a regular file nor a block device");
	refuse("/dev/null", FILE_RDWR, -EINVAL,
	       "/dev/null: is neither a regular file nor a block device");
	make("f", "hello", 5);
	refuse("f", FILE_RDWR | FILE_CREATE | FILE_EXCL, -EEXIST, "f: File exists");
	refuse("none/f", FILE_RDWR | FILE_CREATE, -ENOENT, "none/f: No such file or directory");
	ck_assert_int_eq(rmdir("d"), 0);
	ck_assert_int_eq(unlink("p"), 0);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

START_TEST(creating_and_emptying)
{
	struct file *f;
	char buf[8] = "";

	make("f", "hello", 5);
	f = must_open("f", FILE_RDWR | FILE_CREATE);
	ck_assert_uint_eq(f->size, 5);
	file_close(f);
	f = must_open("f", FILE_RDWR | FILE_CREATE | FILE_TRUNC);
	ck_assert_uint_eq(f->size, 0);
	ck_assert_int_eq(file_pwrite(f, "abc", 3, 0), 0);
	file_close(f);
	f = must_open("file:f", 0);
	ck_assert_uint_eq(f->size, 3);
	ck_assert_int_eq(file_pread(f, buf, 5, 0), 0);
	ck_assert_int_eq(memcmp(buf, "abc\0\0", 5), 0);
	ck_assert_int_eq(file_pwrite(f, "x", 1, 0), -EBADF);
	ck_assert_int_eq(file_truncate(f, 0), -EBADF);
	ck_assert_int_eq(file_prealloc(f, 0, 4096), -EBADF);
	file_close(f);
	ck_assert_int_eq(file_remove(loop, "f"), 0);
	ck_assert_int_eq(file_remove(loop, "f"), -ENOENT);
}
END_TEST

START_TEST(descriptors_by_name)
{
	struct file *f;
	char name[32], c = 0;
	int fd;

	make("f", "hello", 5);
	fd = open("f", O_RDONLY);
	snprintf(name, sizeof(name), "/dev/fd/%d", fd);
	f = must_open(name, 0);
	ck_assert_int_eq(file_pread(f, &c, 1, 1), 0);
	ck_assert_int_eq(c, 'e');
	file_close(f);
	close(fd);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

START_TEST(a_file_cut_by_somebody_else)
{
	struct file *f;
	char buf[100];

	make("f", "hello", 5000);
	f = must_open("f", FILE_NOLOCK);
	ck_assert_int_eq(truncate("f", 50), 0);
	ck_assert_int_eq(file_pread(f, buf, 100, 0), -EIO);
	ck_assert_int_eq(file_pread(f, buf, 100, 4000), -EIO);
	ck_assert_int_eq(file_refresh(f), 0);
	ck_assert_uint_eq(f->size, 50);
	ck_assert_int_eq(file_pread(f, buf, 100, 0), 0);
	file_close(f);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

START_TEST(a_shared_file_grows_under_its_reader)
{
	struct file *w, *r;
	char buf[4] = "";

	make("f", "hello", 5);
	w = must_open("f", FILE_RDWR);
	r = must_open("f", FILE_SHARE);
	ck_assert_int_eq(file_pread(r, buf, 4, 5000), 0);
	ck_assert_int_eq(buf[0], 0);
	ck_assert_int_eq(file_pwrite(w, "abc", 3, 5000), 0);
	ck_assert_int_eq(file_pread(r, buf, 4, 5000), 0);
	ck_assert_int_eq(memcmp(buf, "abc", 4), 0);
	file_close(r);
	file_close(w);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

/* ------------------------------------------------------------------ names */

/* What is cached is there at once; what is not inside of the file, or may have to wait, is submitted. */
START_TEST(cached_bytes_are_read_at_once)
{
	uint8_t buf[4096];
	struct file *f;
	int ret;

	make("f", "hello", 10000);
	f = must_open("f", 0);
	ck_assert_int_eq(file_pread(f, buf, sizeof(buf), 0), 0);
	memset(buf, 0, sizeof(buf));
	ret = file_read_now(f, buf, sizeof(buf), 0);
	/* a kernel or file system that cannot tell may say no */
	ck_assert(ret == -EAGAIN || (!ret && !memcmp(buf, "hello\0", 6)));
	ck_assert_int_eq(file_read_now(f, buf, sizeof(buf), 8192), -EAGAIN);
	ck_assert_int_eq(file_read_now(f, buf, 1, UINT64_MAX), -EAGAIN);
	file_close(f);
	ck_assert_int_eq(file_open_null(loop, 10000, &f), 0);
	ck_assert_int_eq(file_read_now(f, buf, sizeof(buf), 0), -EAGAIN);
	file_close(f);
	unlink("f");
}
END_TEST

START_TEST(renaming_replaces)
{
	struct file *f;
	char c;

	make("a", "A", 1);
	make("b", "B", 1);
	ck_assert_int_eq(file_rename(loop, "a", "file:b"), 0);
	ck_assert(!file_exists(loop, "a"));
	ck_assert(file_exists(loop, "b") == 1);
	f = must_open("b", 0);
	ck_assert_int_eq(file_pread(f, &c, 1, 0), 0);
	ck_assert_int_eq(c, 'A');
	file_close(f);
	ck_assert_int_eq(file_rename(loop, "a", "b"), -ENOENT);
	ck_assert_int_eq(unlink("b"), 0);
}
END_TEST

static int odd_open(struct file_provider *p, struct tapimg_loop *l, const char *name,
		    unsigned flags, struct file **out, struct tapimg_err *e)
{
	if (!strcmp(name, "odd:sick"))
		return err_set(e, -EIO, "%s: nobody knows", name);
	if (strcmp(name, "odd:x"))
		return err_set(e, -ENOENT, "%s: no such odd file", name);
	return file_open_null(l, 777, out);
}

static int odd_remove(struct file_provider *p, const char *name)
{
	return -EROFS;
}

START_TEST(providers_are_asked_by_scheme)
{
	struct file_provider odd = { .scheme = "odd:", .open = odd_open, .remove = odd_remove };
	struct file *f;

	loop_add_provider(loop, &odd);
	f = must_open("odd:x", 0);
	ck_assert_uint_eq(f->size, 777);
	ck_assert_uint_eq(f->logical_end, 777);
	file_close(f);
	refuse("odd:y", 0, -ENOENT, "odd:y: no such odd file");
	refuse("even:y", 0, -ENOENT, "even:y: No such file or directory");
	ck_assert(file_exists(loop, "odd:x") == 1 && !file_exists(loop, "odd:y") &&
		      file_exists(loop, "odd:sick") == -EIO);
	ck_assert_int_eq(file_remove(loop, "odd:x"), -EROFS);
	ck_assert_int_eq(file_rename(loop, "odd:x", "odd:z"), -ENOTSUP);
	ck_assert_int_eq(file_rename(loop, "odd:x", "x"), -EXDEV);
}
END_TEST

/* ------------------------------------------------------------------ space */

static bool fs_is(long type)
{
	struct statfs fs;

	return !statfs(".", &fs) && fs.f_type == type;
}

START_TEST(holes_are_found)
{
	struct file *f = must_open("f", FILE_RDWR | FILE_CREATE);
	uint64_t len, pos, data_bytes = 0;
	char *buf = file_buf(65536);
	bool data;
	int i;

	memset(buf, 1, 65536);
	ck_assert_int_eq(file_truncate(f, 10 << 20), 0);
	ck_assert_int_eq(file_pwrite(f, buf, 65536, 1 << 20), 0);
	ck_assert_int_eq(file_pwrite(f, buf, 65536, 9 << 20), 0);
	for (i = 0; i < 2; i++) {		/* the second time from the cached answer */
		len = 64 << 20;
		ck_assert_int_eq(file_status(f, 1 << 20, &len, &data), 0);
		ck_assert(data);
		if (len != 65536)
			printf("SKIP test-file: this file system does not tell of holes\n");
	}
	for (pos = 0; pos < f->size; pos += len) {
		len = 64 << 20;
		ck_assert_int_eq(file_status(f, pos, &len, &data), 0);
		ck_assert_uint_gt(len, 0);
		data_bytes += data ? len : 0;
	}
	ck_assert_uint_eq(pos, f->size);
	ck_assert_uint_ge(data_bytes, 131072);
	/* what is written in a hole is seen: the cached answer is dropped */
	len = 4096;
	ck_assert_int_eq(file_status(f, 0, &len, &data), 0);
	ck_assert(!data);
	ck_assert_int_eq(file_pwrite(f, buf, 65536, 0), 0);
	len = 4096;
	ck_assert_int_eq(file_status(f, 0, &len, &data), 0);
	ck_assert(data);
	ck_assert_int_eq(file_zero(f, 0, 65536, IO_MAY_UNMAP), 0);
	len = 4096;
	ck_assert_int_eq(file_status(f, 0, &len, &data), 0);
	ck_assert(!data);
	len = 100;
	ck_assert_int_eq(file_status(f, 20 << 20, &len, &data), 0);
	ck_assert(!data && len == 100);
	free(buf);
	file_close(f);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

START_TEST(space_is_allocated_and_given_back)
{
	struct file *f = must_open("f", FILE_RDWR | FILE_CREATE);
	int ret = file_prealloc(f, 0, 4 << 20);

	if (ret == -ENOTSUP) {
		printf("SKIP test-file: this file system cannot allocate in advance\n");
	} else {
		ck_assert_int_eq(ret, 0);
		ck_assert_uint_eq(f->size, 4 << 20);
		ck_assert_uint_ge(file_allocated(f), 4 << 20);
		ck_assert_int_eq(file_discard(f, 0, 2 << 20), 0);
		ck_assert_uint_lt(file_allocated(f), 3 << 20);
		ck_assert_uint_eq(f->size, 4 << 20);
		ck_assert_int_eq(file_zero(f, 0, 1 << 20, 0), 0);
		ck_assert_uint_ge(file_allocated(f), 3 << 20);
		ck_assert_int_eq(file_flush(f), 0);
	}
	ck_assert_int_eq(file_truncate(f, 100), 0);
	ck_assert_uint_eq(f->size, 100);
	file_close(f);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

START_TEST(growing_ahead_leaves_nothing_behind)
{
	struct file *f = must_open("f", FILE_RDWR | FILE_CREATE | FILE_DIRECT);
	char *buf = file_buf(65536);
	struct stat st;
	uint64_t end;

	memset(buf, 3, 65536);
	if (f->no_grow || !fs_is(0xef53))
		printf("SKIP test-file: files of this file system are not grown ahead\n");
	for (end = 0; end < 40 << 20; end += 65536) {
		file_grow_hint(f, end + 65536);
		ck_assert_int_eq(file_pwrite(f, buf, 65536, end), 0);
	}
	while (f->growing)
		tapimg_loop_run(loop, true);
	if (!f->no_grow)
		ck_assert_uint_gt(f->size, end);
	ck_assert_uint_eq(f->logical_end, end);
	ck_assert_int_eq(file_pread(f, buf, 65536, end), 0);	/* zeroes, grown or not */
	ck_assert_int_eq(buf[0] | buf[65535], 0);
	file_close(f);
	ck_assert_int_eq(stat("f", &st), 0);
	ck_assert_uint_eq(st.st_size, end);
	free(buf);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

/* ------------------------------------------------------------------ locks */

enum { R, W, RS, WS };
static const unsigned mode_flags[] = { 0, FILE_RDWR, FILE_SHARE, FILE_RDWR | FILE_SHARE };

START_TEST(who_excludes_whom)
{
	static const int both[4][4] = {		/* first, second */
		[R] = { 1, 0, 1, 0 },
		[W] = { 0, 0, 1, 0 },
		[RS] = { 1, 1, 1, 1 },
		[WS] = { 0, 0, 1, 1 },
	};
	struct file *a, *b;
	int i, j, ret;

	make("f", "hello", 5);
	for (i = 0; i < 4; i++)
		for (j = 0; j < 4; j++) {
			a = must_open("f", mode_flags[i]);
			ret = file_open(loop, "f", mode_flags[j], &b, &err);
			ck_assert_msg(ret == (both[i][j] ? 0 : -EBUSY), "%d then %d: %d", i, j, ret);
			if (!ret)
				file_close(b);
			/* one that was refused has left no lock behind */
			file_close(a);
			a = must_open("f", FILE_RDWR);
			file_close(a);
		}
	a = must_open("f", FILE_RDWR);
	refuse("f", 0, -EBUSY, "f: is in use for writing by another process");
	refuse("f", FILE_RDWR | FILE_TRUNC, -EBUSY, "f: is in use for writing by another process");
	ck_assert_uint_eq(a->size, 5);
	b = must_open("f", FILE_RDWR | FILE_NOLOCK);
	ck_assert_uint_eq(b->size, 5);		/* FILE_TRUNC came too late to do harm */
	file_close(b);
	file_close(a);
	a = must_open("f", 0);
	refuse("f", FILE_RDWR, -EBUSY, "f: is in use by another process, so it cannot be written");
	file_close(a);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

/* Exit status of qemu-io on "f", which either reads or writes it. */
static int qemu_io(bool write)
{
	int ret = system(write ? "qemu-io -f qcow2 -c 'write 0 512' f >/dev/null 2>&1"
			       : "qemu-io -r -f qcow2 -c 'read 0 512' f >/dev/null 2>&1");

	return WIFEXITED(ret) ? WEXITSTATUS(ret) : -1;
}

/* Starts a qemu-io that keeps "f" open until its input ends. */
static FILE *qemu_hold(bool write)
{
	FILE *p = popen(write ? "qemu-io -f qcow2 f >out" : "qemu-io -r -f qcow2 f >out", "w");
	struct stat st;
	int i;

	ck_assert_ptr_nonnull(p);
	fputs("length\n", p);
	fflush(p);
	for (i = 0; i < 1000 && (stat("out", &st) || !st.st_size); i++)
		usleep(10000);
	return p;
}

START_TEST(qemu_and_we_see_each_other)
{
	struct file *f;
	FILE *p;

	if (system("qemu-io --version >/dev/null 2>&1") ||
	    system("qemu-img create -q -f qcow2 f 1M >/dev/null 2>&1")) {
		printf("SKIP test-file: locks against QEMU: qemu-io and qemu-img are not installed\n");
		return;
	}
	ck_assert_int_eq(qemu_io(true), 0);
	f = must_open("f", FILE_RDWR);
	ck_assert_int_ne(qemu_io(true), 0);
	ck_assert_int_ne(qemu_io(false), 0);
	file_close(f);
	f = must_open("f", 0);
	ck_assert_int_ne(qemu_io(true), 0);
	ck_assert_int_eq(qemu_io(false), 0);
	file_close(f);
	f = must_open("f", FILE_SHARE);
	ck_assert_int_eq(qemu_io(true), 0);
	file_close(f);

	p = qemu_hold(true);
	refuse("f", 0, -EBUSY, "f: is in use for writing by another process");
	refuse("f", FILE_RDWR, -EBUSY, "f: is in use for writing by another process");
	file_close(must_open("f", FILE_SHARE));
	pclose(p);
	ck_assert_int_eq(unlink("out"), 0);
	p = qemu_hold(false);
	refuse("f", FILE_RDWR, -EBUSY, "f: is in use by another process, so it cannot be written");
	file_close(must_open("f", 0));
	pclose(p);
	ck_assert_int_eq(unlink("out"), 0);
	ck_assert_int_eq(unlink("f"), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file");
	TCase *tc = tcase_create("file");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, texts_are_one_line);
	tcase_add_test(tc, opening_is_refused_with_reasons);
	tcase_add_test(tc, creating_and_emptying);
	tcase_add_test(tc, descriptors_by_name);
	tcase_add_test(tc, a_file_cut_by_somebody_else);
	tcase_add_test(tc, a_shared_file_grows_under_its_reader);
	tcase_add_test(tc, cached_bytes_are_read_at_once);
	tcase_add_test(tc, renaming_replaces);
	tcase_add_test(tc, providers_are_asked_by_scheme);
	tcase_add_test(tc, holes_are_found);
	tcase_add_test(tc, space_is_allocated_and_given_back);
	tcase_add_test(tc, growing_ahead_leaves_nothing_behind);
	tcase_add_test(tc, who_excludes_whom);
	tcase_add_test(tc, qemu_and_we_see_each_other);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
