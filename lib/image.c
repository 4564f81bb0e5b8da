/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image.c - an open image: what callers and drivers ask of it, its failures, its end
 *
 * Opening is in open.c, creating in create.c, changing in admin.c.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "image.h"
#include "open.h"

#define CACHE_DEFAULT_MAX (32 * MiB)

uint64_t tapimg_size(const struct tapimg *img)
{
	return img->size;
}

const char *tapimg_format(const struct tapimg *img)
{
	return img->container ? img->container->name : img->fmt->name;
}

const char *tapimg_filename(const struct tapimg *img)
{
	return img->name;
}

struct tapimg *tapimg_backing(const struct tapimg *img)
{
	return img->backing;
}

unsigned tapimg_inflight(const struct tapimg *img)
{
	return img->eng.inflight;
}

unsigned image_file_flags(unsigned flags)
{
	unsigned f = 0;

	if (flags & TAPIMG_RDWR)
		f |= FILE_RDWR;
	if (flags & TAPIMG_DIRECT)
		f |= FILE_DIRECT;
	if (flags & TAPIMG_SHARE)
		f |= FILE_SHARE;
	if (flags & TAPIMG_UNSAFE)
		f |= FILE_UNSAFE;
	return f;
}

uint64_t image_cache_size(const struct tapimg *img, uint64_t total)
{
	if (img->opts.cache_size)
		return img->opts.cache_size;
	return MIN(total, CACHE_DEFAULT_MAX);
}

int image_secret(const struct tapimg *img, uint8_t *buf, size_t size, struct tapimg_err *err)
{
	struct tapimg_secret_ask ask = {
		.filename = img->path, .format = img->fmt->name, .id = img->opts.key_secret,
		.buf = buf, .size = size,
	};
	int ret;

	if (!img->opts.secret)
		return err_set(err, -ENOKEY, "%s: it is enciphered, and no secret was given", img->name);
	ret = img->opts.secret(img->opts.secret_arg, &ask, err);
	return ret < 0 ? err_prefix(err, ret, "%s", img->name) : ret;
}

/* ------------------------------------------------------------------- failures */

__attribute__((format(printf, 2, 0)))
static void fail_text(struct tapimg *img, const char *fmt, va_list ap)
{
	if (!img->failure && vasprintf(&img->failure, fmt, ap) < 0)
		img->failure = NULL;
}

void image_fail(struct tapimg *img, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail_text(img, fmt, ap);
	va_end(ap);
	if (!img->failed)
		img->failed = code;
	img->writable = false;
}

int image_corrupt(struct tapimg *img, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fail_text(img, fmt, ap);
	va_end(ap);
	img->corrupt = true;
	if (img->flags & TAPIMG_RDWR) {
		if (!img->failed)
			img->failed = -EUCLEAN;
		img->writable = false;
	}
	return -EUCLEAN;
}

int image_settle(struct tapimg *img)
{
	int ret = 0, r;

	engine_drain(img);
	if (!(img->flags & TAPIMG_RDWR))
		return 0;
	if (img->meta) {
		/* damage met in an image does not end the writes that were made before */
		ret = meta_settle(img->meta);
		for (unsigned i = 0; i < img->meta->nfiles; i++) {
			r = file_flush(img->meta->files[i].file);
			ret = ret ? ret : r;
		}
	} else {
		ret = file_flush(img->file);
	}
	return img->failed ? img->failed : ret;
}

/* ------------------------------------------------- memory that lives with info */

struct arena {
	struct arena *next;
	size_t used, size;
	_Alignas(max_align_t) char data[];
};

void *info_alloc(struct tapimg *img, size_t size)
{
	struct arena *a = img->info_mem;
	size_t need = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
	void *p;

	if (need < size)
		return NULL;
	if (!a || a->size - a->used < need) {
		size_t cap = MAX(need, (size_t)4000);

		a = calloc(1, sizeof(*a) + cap);
		if (!a)
			return NULL;
		a->size = cap;
		a->next = img->info_mem;
		img->info_mem = a;
	}
	p = a->data + a->used;
	a->used += need;
	return p;
}

char *info_printf(struct tapimg *img, const char *fmt, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	p = n < 0 ? NULL : info_alloc(img, (size_t)n + 1);
	if (!p)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}

void info_free(struct tapimg *img)
{
	struct arena *a = img->info_mem, *next;

	for (; a; a = next) {
		next = a->next;
		free(a);
	}
	img->info_mem = NULL;
}

/* --------------------------------------------------------------------- the end */

/* Keeps the first failure and its text. */
static int first_error(int have, int now, struct tapimg *img, const char *what,
		       struct tapimg_err *err)
{
	if (have || !now)
		return have;
	if (img->failure)
		return err_set(err, now, "%s: %s", img->name, img->failure);
	return err_errno(err, now, "%s: %s", img->name, what);
}

void image_free(struct tapimg *img)
{
	chain_forget(img);
	info_free(img);
	free(img->fs);
	free(img->name);
	free(img->path);
	free(img->backing_name);
	free(img->backing_fmt);
	free(img->backing_path);
	free((char *)img->opts.snapshot);
	free((char *)img->opts.data_file);
	free((char *)img->opts.disk);
	free((char *)img->opts.key_secret);
	crypt_free(img->crypt);
	free(img->failure);
	free(img);
}

static int layer_close(struct tapimg *img, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = 0, r;

	r = image_settle(img);
	ret = first_error(ret, r, img, "writing what was left to be written", err);
	r = img->fmt->close ? img->fmt->close(img, &e) : 0;
	if (r && !ret)
		ret = err_set(err, r, "%s", e.text[0] ? e.text : strerror(-r));
	engine_exit(img);
	if (img->flags & TAPIMG_RDWR) {
		r = file_flush(img->file);
		ret = first_error(ret, r, img, "flushing", err);
		if (!ret)
			ret = file_finish(img->file, err);
	}
	file_close(img->file);
	image_free(img);
	return ret;
}

int tapimg_close(struct tapimg *img, struct tapimg_err *err)
{
	int ret = 0;

	/* a request on the top may be using the layers below */
	if (img)
		engine_drain(img);
	while (img) {
		struct tapimg *below = img->backing;
		int r = layer_close(img, ret ? NULL : err);

		ret = ret ? ret : r;
		img = below;
	}
	return ret;
}
