/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-file-parts.c - files that are not what lies under their name: parts of files, and pipes
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "filelib.h"
#include "scratch.h"
#include "suite.h"

static struct tapimg_err err;
static uint8_t buf[2 * MiB], back[2 * MiB];

static void setup(void)
{
	scratch_enter();
	rnd_start();
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = rnd(256);
	memset(&err, 0, sizeof(err));
}

/* ------------------------------------------------------------------- windows */

static struct file *open_around(const char *name, unsigned flags)
{
	struct file *f;

	ck_assert_msg(!file_open(loop, name, flags, &f, &err), "%s", err.text);
	return f;
}

START_TEST(a_window_ends_where_it_ends)
{
	struct file *f, *around;
	uint64_t len = 100000;
	bool data;

	put_file("a", buf, sizeof(buf));
	around = open_around("a", _i ? FILE_DIRECT : 0);
	ck_assert_int_eq(file_open_window(around, 12345, 1000, NULL, NULL, &f), 0);
	ck_assert_uint_eq(f->size, 1000);
	memset(back, 0xee, 2000);
	ck_assert_int_eq(file_pread(f, back, 1500, 0), 0);
	ck_assert_int_eq(memcmp(back, buf + 12345, 1000), 0);
	for (unsigned i = 1000; i < 1500; i++)
		ck_assert_uint_eq(back[i], 0);		/* and nothing of what lies behind it */
	ck_assert_uint_eq(back[1500], 0xee);
	ck_assert_int_eq(file_pread(f, back, 10, 990), 0);
	ck_assert_int_eq(memcmp(back, buf + 12345 + 990, 10), 0);
	ck_assert_int_eq(file_status(f, 0, &len, &data), 0);
	ck_assert(data);
	ck_assert_int_eq(file_pwrite(f, buf, 10, 0), -EBADF);
	file_close(f);
}
END_TEST

struct ending {
	int finished, freed;
	uint64_t len;
	int answer;
};

static int on_finish(void *arg, struct file *around, uint64_t len, struct tapimg_err *e)
{
	struct ending *end = arg;

	end->finished++;
	end->len = len;
	ck_assert_str_eq(around->name, "w");
	return end->answer ? err_set(e, end->answer, "no end") : file_pwrite(around, "end", 3, 512 + len);
}

static void on_free(void *arg)
{
	((struct ending *)arg)->freed++;
}

START_TEST(a_window_grows_and_its_owner_ends_it)
{
	static const struct window_owner owner = { on_finish, on_free };
	struct ending end = { .answer = _i ? -EDOM : 0 };
	struct file *f, *around = open_around("w", FILE_RDWR | FILE_CREATE);

	ck_assert_int_eq(file_pwrite(around, buf, 512, 0), 0);
	ck_assert_int_eq(file_open_window(around, 512, 0, &owner, &end, &f), 0);
	ck_assert_uint_eq(f->size, 0);
	ck_assert_int_eq(file_pwrite(f, buf + 1000, 70000, 0), 0);
	ck_assert_uint_eq(f->size, 70000);
	ck_assert_int_eq(file_truncate(f, 60000), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_int_eq(file_finish(f, &err), _i ? -EDOM : 0);
	ck_assert_int_eq(end.finished, 1);
	ck_assert_uint_eq(end.len, 60000);
	file_close(f);
	ck_assert_int_eq(end.freed, 1);
	memcpy(back, buf, 512);
	memcpy(back + 512, buf + 1000, 60000);
	memcpy(back + 60512, "end", 3);
	ck_assert(file_is("w", back, _i ? 60512 : 60515));
}
END_TEST

/* --------------------------------------------------------------------- pipes */

/* A child that copies the pipe into the file "got", at its own pace. */
static pid_t reader(const char *pipe)
{
	pid_t pid = fork();

	if (!pid) {
		int in = open(pipe, O_RDONLY), out = open("got", O_WRONLY | O_CREAT, 0600);
		char part[5000];
		ssize_t n;

		while ((n = read(in, part, sizeof(part))) > 0)
			if (write(out, part, n) != n)
				_exit(1);
		_exit(n < 0);
	}
	return pid;
}

START_TEST(a_pipe_gets_everything_in_order)
{
	struct one w[64];
	struct file *f;
	pid_t pid;
	int status;

	ck_assert_int_eq(mkfifo("p", 0600), 0);
	pid = reader("p");
	f = open_around("p", FILE_RDWR | FILE_CREATE);
	ck_assert(f->append);
	/* from the last to the first: each waits for the one before it */
	for (unsigned i = 64; i-- > 0;)
		one_start(&w[i], f, IO_WRITE, i * 32 * KiB, 32 * KiB, buf + i * 32 * KiB);
	for (unsigned i = 0; i < 64; i++)
		ck_assert_int_eq(one_wait(&w[i]), 0);
	ck_assert_uint_eq(f->size, sizeof(buf));
	ck_assert_int_eq(file_flush(f), 0);
	/* only the head can be read back, and nothing can be taken back */
	ck_assert_int_eq(file_pread(f, back, 100000, 1000), 0);
	ck_assert_int_eq(memcmp(back, buf + 1000, 100000), 0);
	ck_assert_int_eq(file_pread(f, back, 1000, MiB), -ESPIPE);
	ck_assert_int_eq(file_pwrite(f, buf, 10, 0), -ESPIPE);
	ck_assert_int_eq(file_truncate(f, 0), -ESPIPE);
	ck_assert_int_eq(file_truncate(f, sizeof(buf)), 0);
	file_close(f);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert(file_is("got", buf, sizeof(buf)));
}
END_TEST

START_TEST(a_reader_that_leaves_is_an_error)
{
	struct one a, b;
	struct file *f;
	int fd;

	ck_assert_int_eq(mkfifo("p", 0600), 0);
	fd = open("p", O_RDONLY | O_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	f = open_around("p", FILE_RDWR | FILE_CREATE);
	ck_assert_int_eq(file_pwrite(f, buf, 1000, 0), 0);
	close(fd);
	one_start(&b, f, IO_WRITE, 2000, 1000, buf);
	one_start(&a, f, IO_WRITE, 1000, 1000, buf);
	ck_assert_int_eq(one_wait(&a), -EPIPE);
	ck_assert_int_eq(one_wait(&b), -EPIPE);
	ck_assert_int_eq(file_flush(f), -EPIPE);
	ck_assert_int_eq(file_pwrite(f, buf, 1000, 1000), -EPIPE);
	file_close(f);
}
END_TEST

START_TEST(what_is_no_stream_does_not_go_to_a_pipe)
{
	struct tapimg_create_opts o = { .format = _i ? "qcow2" : "raw", .size = MiB, .in_place = true };
	int fd;

	ck_assert_int_eq(mkfifo("p", 0600), 0);
	fd = open("p", O_RDONLY | O_NONBLOCK);
	ck_assert_int_eq(tapimg_create(loop, "p", &o, &err), -ESPIPE);
	ck_assert_ptr_nonnull(strstr(err.text, "pipe"));
	ck_assert_int_eq(read(fd, back, 1), 0);		/* not a byte */
	close(fd);
	/* and one is not for reading from, nor opened without the wish to make something */
	ck_assert_int_eq(open_fails("p", NULL, &err), -EINVAL);
}
END_TEST

START_TEST(made_and_opened_at_once)
{
	struct tapimg_create_opts o = { .format = _i ? "qcow2" : "raw", .size = MiB };
	struct tapimg_open_opts how = { .flags = TAPIMG_UNSAFE };
	struct tapimg *img;

	ck_assert_msg(!tapimg_create_open(loop, "a", &o, &how, &img, &err), "%s", err.text);
	ck_assert_str_eq(tapimg_format(img), o.format);
	ck_assert_int_eq(tapimg_pwrite(img, buf, 100000, 4321), 0);
	close_image(img);
	img = open_image("a", o.format, 0);
	ck_assert_int_eq(tapimg_pread(img, back, 100000, 4321), 0);
	ck_assert_int_eq(memcmp(buf, back, 100000), 0);
	close_image(img);
	o.format = "nonsense";
	ck_assert_int_eq(tapimg_create_open(loop, "b", &o, &how, &img, &err), -ENOTSUP);
	ck_assert_ptr_null(img);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file-parts");
	TCase *tc = tcase_create("file-parts");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, scratch_leave);
	tcase_add_loop_test(tc, a_window_ends_where_it_ends, 0, 2);
	tcase_add_loop_test(tc, a_window_grows_and_its_owner_ends_it, 0, 2);
	tcase_add_test(tc, a_pipe_gets_everything_in_order);
	tcase_add_test(tc, a_reader_that_leaves_is_an_error);
	tcase_add_loop_test(tc, what_is_no_stream_does_not_go_to_a_pipe, 0, 2);
	tcase_add_loop_test(tc, made_and_opened_at_once, 0, 2);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
