/* SPDX-License-Identifier: BSD-2-Clause */
/* scratch.c - a folder of its own for each test */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"

struct tapimg_loop *loop;
static char folder[PATH_MAX];

void scratch_enter(void)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%s/tapimg-unit-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	ck_assert_int_eq(chdir(folder), 0);
	ck_assert_int_eq(tapimg_loop_new(1, &loop, NULL), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void scratch_leave(void)
{
	tapimg_loop_free(loop);
	loop = NULL;
	ck_assert_int_eq(chdir("/"), 0);
	nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void make_image(const char *name, const char *format, uint64_t size, const char *backing,
		const char *backing_format)
{
	struct tapimg_create_opts o = {
		.format = format, .size = size, .backing = backing, .backing_format = backing_format,
	};
	struct tapimg_err err = { 0 };
	int ret = tapimg_create(loop, name, &o, &err);

	ck_assert_msg(ret == 0, "create %s: %d %s", name, ret, err.text);
}

struct tapimg *open_image(const char *name, const char *format, unsigned flags)
{
	struct tapimg_open_opts o = { .format = format, .flags = flags };
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	int ret = tapimg_open(loop, name, &o, &img, &err);

	ck_assert_msg(ret == 0, "open %s: %d %s", name, ret, err.text);
	return img;
}

void close_image(struct tapimg *img)
{
	struct tapimg_err err = { 0 };
	int ret = tapimg_close(img, &err);

	ck_assert_msg(ret == 0, "close: %d %s", ret, err.text);
}

int open_fails(const char *name, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct tapimg *img = (void *)-1;
	int ret;

	memset(err, 0, sizeof(*err));
	ret = tapimg_open(loop, name, o, &img, err);
	ck_assert_msg(ret < 0, "%s could be opened", name);
	ck_assert_ptr_null(img);
	ck_assert_int_eq(err->code, ret);
	ck_assert_msg(err->text[0], "no explanation");
	return ret;
}

void put_file(const char *name, const void *data, size_t len)
{
	FILE *f = fopen(name, "wb");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, len, f), len);
	ck_assert_int_eq(fclose(f), 0);
}

void put_text(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

bool file_is(const char *name, const void *data, size_t len)
{
	char *have = malloc(len + 1);
	FILE *f = fopen(name, "rb");
	bool same;

	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(have);
	same = fread(have, 1, len + 1, f) == len && !memcmp(have, data, len);
	fclose(f);
	free(have);
	return same;
}

unsigned files_here(void)
{
	DIR *d = opendir(".");
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}
