/* SPDX-License-Identifier: BSD-2-Clause */
/* imglib.c - images of any format made, filled, judged, looked into and damaged by hand */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "endian.h"
#include "imglib.h"

void img_make(const char *name, const char *format, uint64_t size, const char *opts,
	      const char *parent, const char *parent_format)
{
	struct tapimg_opt opt[8];
	struct tapimg_create_opts o = {
		.format = format, .size = size, .opts = opt, .backing = parent,
		.backing_format = parent_format,
	};
	struct tapimg_err err = { 0 };
	char *copy = strdup(opts ? opts : ""), *save = NULL, *p;
	int ret;

	for (p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		char *eq = strchr(p, '=');

		*eq = 0;
		opt[o.nopts++] = (struct tapimg_opt){ p, eq + 1 };
	}
	ret = tapimg_create(loop, name, &o, &err);
	ck_assert_msg(!ret, "create %s: %d %s", name, ret, err.text);
	free(copy);
}

static void add_line(void *arg, char severity, const char *line)
{
	struct img_result *r = arg;
	size_t len = strlen(r->text);

	snprintf(r->text + len, sizeof(r->text) - len, "%c %s\n", severity, line);
}

const struct img_result *img_check(const char *name, const char *format, unsigned fix)
{
	static struct img_result r;
	struct tapimg_err err = { 0 };
	struct tapimg *img = open_image(name, format, TAPIMG_CHECK | TAPIMG_NO_BACKING |
					(fix ? TAPIMG_RDWR : 0));
	int ret;

	memset(&r, 0, sizeof(r));
	ret = tapimg_check(img, fix, &r.c, add_line, &r, &err);
	ck_assert_msg(!ret, "check: %d %s", ret, err.text);
	close_image(img);
	return &r;
}

void img_clean(const char *name, const char *format)
{
	const struct img_result *r = img_check(name, format, 0);

	ck_assert_msg(!r->c.corruptions && !r->c.leaks && !r->c.check_errors, "%s", r->text);
}

/* ---------------------------------------------------------------------- bytes */

static int file(const char *name)
{
	int fd = open(name, O_RDWR);

	ck_assert_int_ge(fd, 0);
	return fd;
}

void bytes_read(const char *name, void *buf, uint64_t len, uint64_t off)
{
	int fd = file(name);

	ck_assert_int_eq(pread(fd, buf, len, off), len);
	close(fd);
}

void bytes_write(const char *name, const void *buf, uint64_t len, uint64_t off)
{
	int fd = file(name);

	ck_assert_int_eq(pwrite(fd, buf, len, off), len);
	close(fd);
}

uint64_t bytes_peek(const char *name, uint64_t off, unsigned bytes)
{
	uint8_t b[8] = { 0 };

	bytes_read(name, b + 8 - bytes, bytes, off);
	return get_be64(b);
}

void bytes_poke(const char *name, uint64_t off, uint64_t value, unsigned bytes)
{
	uint8_t b[8];

	put_be64(b, value);
	bytes_write(name, b + 8 - bytes, bytes, off);
}

uint64_t bytes_size(const char *name)
{
	struct stat st;

	ck_assert_int_eq(stat(name, &st), 0);
	return st.st_size;
}

void bytes_cut(const char *name, uint64_t size)
{
	ck_assert_int_eq(truncate(name, size), 0);
}

uint8_t *bytes_all(const char *name, uint64_t *size)
{
	uint8_t *p;

	*size = bytes_size(name);
	p = malloc(*size + 1);
	ck_assert_ptr_nonnull(p);
	bytes_read(name, p, *size, 0);
	return p;
}

/* ------------------------------------------------------------------- contents */

void img_fill(const char *name, const char *format, uint8_t byte, uint64_t off, uint64_t len)
{
	struct tapimg *img = open_image(name, format, TAPIMG_RDWR);
	uint8_t *buf = malloc(len);

	ck_assert_ptr_nonnull(buf);
	memset(buf, byte, len);
	ck_assert_int_eq(tapimg_pwrite(img, buf, len, off), 0);
	free(buf);
	close_image(img);
}

void img_expect(const char *name, const char *format, uint8_t byte, uint64_t off, uint64_t len)
{
	struct tapimg *img = open_image(name, format, 0);
	uint8_t *buf = malloc(len);

	ck_assert_ptr_nonnull(buf);
	memset(buf, ~byte, len);
	ck_assert_int_eq(tapimg_pread(img, buf, len, off), 0);
	for (uint64_t i = 0; i < len; i++)	/* an assertion is a system call: not for each byte */
		if (buf[i] != byte)
			ck_abort_msg("%s: %02x at %llu, not %02x", name, buf[i],
				     (unsigned long long)(off + i), byte);
	free(buf);
	close_image(img);
}
