/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-create.c - making images: nothing new remains of a failure, and what was there stays
 *
 * The rules T1 to T3 are in lib/target.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"
#include "suite.h"

#define has(err, what) ck_assert_msg(strstr((err).text, what), "'%s' lacks '%s'", (err).text, what)
#define OLD "the old contents"

static int make(const char *name, struct tapimg_create_opts o, const char *opt, const char *value,
		struct tapimg_err *err)
{
	struct tapimg_opt v = { opt, value };

	if (!o.format)
		o.format = "raw";
	if (!o.size)
		o.size = 1 << 20;
	if (opt) {
		o.opts = &v;
		o.nopts = 1;
	}
	memset(err, 0, sizeof(*err));
	return tapimg_create(loop, name, &o, err);
}
#define CREATE(...) ((struct tapimg_create_opts){ __VA_ARGS__ })

static off_t size_of(const char *name)
{
	struct stat st;

	return stat(name, &st) ? -1 : st.st_size;
}

static ino_t inode_of(const char *name)
{
	struct stat st;

	return stat(name, &st) ? 0 : st.st_ino;
}

/* ------------------------------------------------------------------ bad requests */

static const struct {
	struct tapimg_create_opts o;
	const char *opt, *value;
	int code;
	const char *says;
} bad[] = {
	{ { .format = "vdi" }, NULL, NULL, -ENOTSUP, "a: unknown format 'vdi'" },
	{ { .format = "" }, NULL, NULL, -ENOTSUP, "unknown format" },
	{ { .format = "raw" }, "colour", "red", -EINVAL, "a: the raw format has no option 'colour'" },
	{ { .format = "raw" }, "preallocation", "some", -EINVAL, "'some' is not one of" },
	{ { .format = "qcow2" }, "cluster_size", "64z", -EINVAL,
	  "a: qcow2: option 'cluster_size': '64z' is not a size" },
	{ { .format = "qcow2" }, "cluster_size", "100000", -EINVAL, "cluster" },
	{ { .format = "qcow2" }, "lazy_refcounts", "perhaps", -EINVAL, "neither on nor off" },
	{ { .format = "raw", .backing = "b", .backing_format = "raw" }, NULL, NULL, -ENOTSUP,
	  "a: the raw format has no backing files" },
	{ { .format = "qcow2", .backing = "b" }, NULL, NULL, -EINVAL, "'b' must be given" },
	{ { .format = "qcow2", .backing_format = "raw" }, NULL, NULL, -EINVAL,
	  "without a backing file" },
	{ { .format = "qcow2", .backing = "b", .backing_format = "vdi" }, NULL, NULL, -ENOTSUP,
	  "'vdi'" },
	{ { .format = "qcow2", .backing = "", .backing_format = "raw" }, NULL, NULL, -EINVAL,
	  "empty" },
	{ { .format = "qcow2", .backing = "b", .backing_format = "raw" }, NULL, NULL, -ENOENT,
	  "a: backing file 'b': " },
	{ { .format = "raw", .size = TAPIMG_SIZE_BACKING }, NULL, NULL, -EINVAL, "a size is needed" },
	{ { .format = "qcow2", .size = TAPIMG_SIZE_BACKING, .backing = "b", .backing_format = "raw",
	    .no_backing_check = true }, NULL, NULL, -EINVAL, "a size is needed" },
	{ { .format = "raw", .size = 1ULL << 63 }, NULL, NULL, -EFBIG, "too large" },
};

START_TEST(bad_requests)
{
	struct tapimg_err err;
	ino_t was;

	ck_assert_int_eq(make("a", bad[_i].o, bad[_i].opt, bad[_i].value, &err), bad[_i].code);
	has(err, bad[_i].says);
	ck_assert_uint_eq(files_here(), 0);
	put_text("a", OLD);
	was = inode_of("a");
	ck_assert_int_eq(make("a", bad[_i].o, bad[_i].opt, bad[_i].value, &err), bad[_i].code);
	ck_assert_uint_eq(files_here(), 1);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert(inode_of("a") == was);
}
END_TEST

START_TEST(no_folder)
{
	struct tapimg_err err;

	ck_assert_int_eq(make("none/a", CREATE(0), NULL, NULL, &err), -ENOENT);
	has(err, "none/a");
	ck_assert_int_eq(mkdir("d", 0777), 0);
	ck_assert_int_eq(make("d", CREATE(0), NULL, NULL, &err), -EISDIR);
	has(err, "d: ");
	put_text("f", OLD);
	ck_assert_int_eq(make("f/a", CREATE(0), NULL, NULL, &err), -ENOTDIR);
}
END_TEST

/* ------------------------------------------------------------ failure on the way */

static const char *const all_formats[] = { "raw", "qcow2" };

/* A limit on file sizes stands for a disk that becomes full. */
START_TEST(limit_reached)
{
	struct rlimit small = { 256 << 10, RLIM_INFINITY };
	struct tapimg_err err;
	int ret;

	signal(SIGXFSZ, SIG_IGN);
	put_text("a", OLD);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	ret = make("a", CREATE(.format = all_formats[_i], .size = 8 << 20), "preallocation", "full",
		   &err);
	ck_assert_msg(ret == -EFBIG || ret == -ENOSPC, "%d %s", ret, err.text);
	has(err, "a");
	ck_assert_uint_eq(files_here(), 1);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ret = make("b", CREATE(.format = all_formats[_i], .size = 8 << 20), "preallocation", "full",
		   &err);
	ck_assert_int_lt(ret, 0);
	ck_assert_uint_eq(files_here(), 1);
	/* in place and new: removed as well */
	ret = make("b", CREATE(.format = all_formats[_i], .size = 8 << 20, .in_place = true),
		   "preallocation", "full", &err);
	ck_assert_int_lt(ret, 0);
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

START_TEST(disk_full)
{
	struct tapimg_err err;
	int ret;

	ck_assert_int_eq(mkdir("m", 0777), 0);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", "m", "tmpfs", 0, "size=1m")) {
		fprintf(stderr, "SKIP disk_full: may not mount a small file system: %s\n",
			strerror(errno));
		return;
	}
	put_text("m/a", OLD);
	ret = make("m/a", CREATE(.format = all_formats[_i], .size = 8 << 20), "preallocation",
		   "full", &err);
	ck_assert_int_eq(ret, -ENOSPC);
	has(err, "No space left");
	ck_assert_int_eq(chdir("m"), 0);
	ck_assert_uint_eq(files_here(), 1);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_int_eq(chdir(".."), 0);
	ck_assert_int_eq(umount2("m", MNT_DETACH), 0);
}
END_TEST

/* ---------------------------------------------------------------------- replacing */

START_TEST(replaces)
{
	struct tapimg_err err;
	struct stat st;
	ino_t was;

	put_text("a", OLD);
	ck_assert_int_eq(chmod("a", 0640), 0);
	was = inode_of("a");
	ck_assert_int_eq(make("a", CREATE(0), NULL, NULL, &err), 0);
	ck_assert(inode_of("a") != was);
	ck_assert_int_eq(stat("a", &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0640);
	ck_assert_int_eq(st.st_size, 1 << 20);
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

START_TEST(new_file_mode)
{
	struct tapimg_err err;
	struct stat st;

	umask(027);
	ck_assert_int_eq(make("a", CREATE(0), NULL, NULL, &err), 0);
	ck_assert_int_eq(stat("a", &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0640);
}
END_TEST

START_TEST(keeps_the_owner)
{
	struct tapimg_err err;
	struct stat st;

	put_text("a", OLD);
	if (geteuid() || chown("a", 1234, 5678)) {
		fprintf(stderr, "SKIP keeps_the_owner: wants to be root\n");
		return;
	}
	ck_assert_int_eq(make("a", CREATE(0), NULL, NULL, &err), 0);
	ck_assert_int_eq(stat("a", &st), 0);
	ck_assert_uint_eq(st.st_uid, 1234);
	ck_assert_uint_eq(st.st_gid, 5678);
}
END_TEST

START_TEST(exclusive)
{
	struct tapimg_err err;

	put_text("a", OLD);
	ck_assert_int_eq(make("a", CREATE(.exclusive = true), NULL, NULL, &err), -EEXIST);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_int_eq(make("a", CREATE(.exclusive = true, .in_place = true), NULL, NULL, &err),
			 -EEXIST);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_int_eq(make("b", CREATE(.exclusive = true), NULL, NULL, &err), 0);
	ck_assert_int_eq(make("c", CREATE(.exclusive = true, .in_place = true), NULL, NULL, &err), 0);
	ck_assert_int_eq(size_of("c"), 1 << 20);
}
END_TEST

START_TEST(in_place)
{
	struct tapimg_err err;
	ino_t was;

	put_text("a", OLD);
	was = inode_of("a");
	ck_assert_int_eq(make("a", CREATE(.in_place = true), NULL, NULL, &err), 0);
	ck_assert(inode_of("a") == was);
	ck_assert_int_eq(size_of("a"), 1 << 20);
}
END_TEST

/* T2: also in place. */
START_TEST(in_use)
{
	struct tapimg_err err;
	struct tapimg *img;
	ino_t was;

	make_image("a", "raw", 1 << 20, NULL, NULL);
	was = inode_of("a");
	for (int writing = 0; writing < 2; writing++) {
		img = open_image("a", "raw", writing ? TAPIMG_RDWR : 0);
		ck_assert_int_eq(make("a", CREATE(.size = 4096), NULL, NULL, &err), -EBUSY);
		has(err, "a");
		ck_assert_int_eq(make("a", CREATE(.size = 4096, .in_place = true), NULL, NULL, &err),
				 -EBUSY);
		ck_assert_int_eq(size_of("a"), 1 << 20);
		ck_assert(inode_of("a") == was);
		ck_assert_uint_eq(files_here(), 1);
		close_image(img);
	}
	ck_assert_int_eq(make("a", CREATE(.size = 4096), NULL, NULL, &err), 0);
}
END_TEST

/* T3 */
START_TEST(links)
{
	struct tapimg_err err;
	struct stat st;

	ck_assert_int_eq(mkdir("d", 0777), 0);
	put_text("d/real", OLD);
	ck_assert_int_eq(symlink("real", "d/mid"), 0);
	ck_assert_int_eq(symlink("d/mid", "a"), 0);
	ck_assert_int_eq(make("a", CREATE(0), NULL, NULL, &err), 0);
	ck_assert_int_eq(lstat("a", &st), 0);
	ck_assert(S_ISLNK(st.st_mode));
	ck_assert_int_eq(lstat("d/real", &st), 0);
	ck_assert(S_ISREG(st.st_mode));
	ck_assert_int_eq(st.st_size, 1 << 20);
	/* one that leads to nothing yet */
	ck_assert_int_eq(symlink("d/later", "b"), 0);
	ck_assert_int_eq(make("b", CREATE(0), NULL, NULL, &err), 0);
	ck_assert_int_eq(size_of("d/later"), 1 << 20);
	ck_assert_int_eq(symlink("round", "round"), 0);
	ck_assert_int_eq(make("round", CREATE(0), NULL, NULL, &err), -ELOOP);
	ck_assert_uint_eq(files_here(), 4);
}
END_TEST

START_TEST(descriptors)
{
	struct tapimg_err err;
	char name[64];
	int fd = open("a", O_RDWR | O_CREAT, 0666);
	ino_t was = inode_of("a");

	ck_assert_int_ge(fd, 0);
	snprintf(name, sizeof(name), "/dev/fd/%d", fd);
	ck_assert_int_eq(make(name, CREATE(0), NULL, NULL, &err), 0);
	close(fd);
	ck_assert(inode_of("a") == was);
	ck_assert_int_eq(size_of("a"), 1 << 20);
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

START_TEST(longest_names)
{
	struct tapimg_err err;
	char name[256];

	memset(name, 'n', 255);
	name[255] = 0;
	ck_assert_int_eq(make(name, CREATE(0), NULL, NULL, &err), 0);
	ck_assert_int_eq(make(name, CREATE(.size = 4096), NULL, NULL, &err), 0);
	ck_assert_int_eq(size_of(name), 4096);
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

/* ------------------------------------------------------------------ backing files */

START_TEST(size_of_backing)
{
	struct tapimg_err err;
	struct tapimg *img;

	make_image("base", "raw", 5 << 20, NULL, NULL);
	/* although somebody is writing to it: nothing is read but its size */
	struct tapimg *busy = open_image("base", "raw", TAPIMG_RDWR);
	ck_assert_msg(!make("a", CREATE(.format = "qcow2", .size = TAPIMG_SIZE_BACKING,
					.backing = "base", .backing_format = "raw"), NULL, NULL, &err),
		      "%s", err.text);
	close_image(busy);
	img = open_image("a", "qcow2", 0);
	ck_assert_uint_eq(tapimg_size(img), 5 << 20);
	close_image(img);
}
END_TEST

START_TEST(own_backing)
{
	struct tapimg_create_opts o = { .format = "qcow2", .size = TAPIMG_SIZE_BACKING,
					.backing_format = "qcow2" };
	struct tapimg_err err;
	ino_t was;

	make_image("a", "qcow2", 1 << 20, NULL, NULL);
	was = inode_of("a");
	o.backing = "a";
	ck_assert_int_eq(make("a", o, NULL, NULL, &err), -ELOOP);
	has(err, "a: the image would be its own backing file");
	/* further down the chain, under another name */
	make_image("b", "qcow2", TAPIMG_SIZE_BACKING, "a", "qcow2");
	ck_assert_int_eq(symlink("a", "s"), 0);
	o.backing = "b";
	ck_assert_int_eq(make("s", o, NULL, NULL, &err), -ELOOP);
	ck_assert(inode_of("a") == was);
	ck_assert_uint_eq(files_here(), 3);
}
END_TEST

/* ------------------------------------------------------------- targets of callers */

START_TEST(target_commit)
{
	struct tapimg_target *t;
	struct tapimg_err err;

	put_text("a", OLD);
	ck_assert_int_eq(tapimg_target_begin(loop, "a", 0, &t, NULL), 0);
	ck_assert(!tapimg_target_in_place(t));
	ck_assert_str_ne(tapimg_target_path(t), "a");
	put_text(tapimg_target_path(t), "new");
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_int_eq(make("a", CREATE(0), NULL, NULL, &err), -EBUSY);	/* T2 */
	ck_assert_int_eq(tapimg_target_commit(t, NULL), 0);
	ck_assert(file_is("a", "new", 3));
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

START_TEST(target_abort)
{
	struct tapimg_target *t;

	put_text("a", OLD);
	ck_assert_int_eq(tapimg_target_begin(loop, "a", 0, &t, NULL), 0);
	put_text(tapimg_target_path(t), "new");
	tapimg_target_abort(t);
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_int_eq(tapimg_target_begin(loop, "b", TAPIMG_TARGET_IN_PLACE, &t, NULL), 0);
	ck_assert(tapimg_target_in_place(t));
	ck_assert_str_eq(tapimg_target_path(t), "b");
	put_text("b", "new");
	tapimg_target_abort(t);
	tapimg_target_abort(NULL);
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

/* The name appears while the file is being made. */
START_TEST(target_exclusive_race)
{
	struct tapimg_target *t;
	struct tapimg_err err;

	ck_assert_int_eq(tapimg_target_begin(loop, "a", TAPIMG_TARGET_EXCLUSIVE, &t, NULL), 0);
	put_text("a", OLD);
	ck_assert_int_eq(tapimg_target_commit(t, &err), -EEXIST);
	has(err, "a: ");
	ck_assert(file_is("a", OLD, strlen(OLD)));
	ck_assert_uint_eq(files_here(), 1);
}
END_TEST

/* ---------------------------------------------------------------------- measuring */

START_TEST(measure)
{
	struct tapimg_opt bad_opt = { "cluster_size", "x" };
	struct tapimg_create_opts o = { .format = "raw", .size = 1 << 20 };
	struct tapimg_measure m;
	struct tapimg_err err;

	ck_assert_int_eq(tapimg_measure(loop, NULL, &o, &m, NULL), 0);
	ck_assert_uint_eq(m.required, 1 << 20);
	ck_assert_uint_eq(m.fully_allocated, 1 << 20);
	o.format = "qcow2";
	ck_assert_int_eq(tapimg_measure(loop, NULL, &o, &m, NULL), 0);
	ck_assert_uint_lt(m.required, m.fully_allocated);
	o.opts = &bad_opt;
	o.nopts = 1;
	ck_assert_int_eq(tapimg_measure(loop, NULL, &o, &m, &err), -EINVAL);
	has(err, "'x' is not a size");
	o = (struct tapimg_create_opts){ .format = "vdi", .size = 1 };
	ck_assert_int_eq(tapimg_measure(loop, NULL, &o, &m, &err), -ENOTSUP);
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
	Suite *s = suite_create("create");
	TCase *t = tcase(s, "failures");

	tcase_add_loop_test(t, bad_requests, 0, (int)(sizeof(bad) / sizeof(bad[0])));
	tcase_add_test(t, no_folder);
	tcase_add_loop_test(t, limit_reached, 0, 2);
	tcase_add_loop_test(t, disk_full, 0, 2);
	t = tcase(s, "replacing");
	tcase_add_test(t, replaces);
	tcase_add_test(t, new_file_mode);
	tcase_add_test(t, keeps_the_owner);
	tcase_add_test(t, exclusive);
	tcase_add_test(t, in_place);
	tcase_add_test(t, in_use);
	tcase_add_test(t, links);
	tcase_add_test(t, descriptors);
	tcase_add_test(t, longest_names);
	t = tcase(s, "backing");
	tcase_add_test(t, size_of_backing);
	tcase_add_test(t, own_backing);
	t = tcase(s, "targets");
	tcase_add_test(t, target_commit);
	tcase_add_test(t, target_abort);
	tcase_add_test(t, target_exclusive_race);
	t = tcase(s, "measuring");
	tcase_add_test(t, measure);
	return suite_run(s);
}
