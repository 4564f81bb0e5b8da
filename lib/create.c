/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * create.c - making images, and measuring what one would need
 *
 * What is common to all formats: options and size are checked, the backing file is looked at, and
 * the file is made where target.c says.  The bytes are the driver's.
 */
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "name.h"
#include "open.h"
#include "opt.h"

static int create_check(const struct format *fmt, const char *name,
			const struct tapimg_create_opts *o, struct tapimg_err *err)
{
	int ret;

	if (!fmt->create)
		return err_set(err, -ENOTSUP, "%s: images of the %s format cannot be made", name,
			       fmt->name);
	ret = opts_check(fmt, o->opts, o->nopts, TAPIMG_OPT_CREATE, err);
	if (ret)
		return err_prefix(err, ret, "%s", name);
	if (o->backing && !*o->backing)
		return err_set(err, -EINVAL, "%s: the name of the backing file is empty", name);
	if (o->backing && fmt->raw)
		return err_set(err, -ENOTSUP, "%s: the %s format has no backing files", name, fmt->name);
	if (!o->backing && o->backing_format)
		return err_set(err, -EINVAL, "%s: a backing format without a backing file", name);
	if (o->backing && !o->backing_format)
		return err_set(err, -EINVAL, "%s: the format of the backing file '%s' must be given",
			       name, o->backing);
	if (o->backing && !format_find(o->backing_format))
		return err_set(err, -ENOTSUP, "%s: unknown format '%s' of the backing file", name,
			       o->backing_format);
	if (o->size == TAPIMG_SIZE_BACKING && (!o->backing || o->no_backing_check))
		return err_set(err, -EINVAL, "%s: a size is needed%s", name,
			       o->backing ? ", as the backing file is not looked at" : "");
	if (o->size != TAPIMG_SIZE_BACKING && o->size > INT64_MAX)
		return err_set(err, -EFBIG, "%s: a size of %llu bytes is too large", name,
			       (unsigned long long)o->size);
	return 0;
}

/* The backing chain, opened only to look at; refuses one that would hold the new image itself. */
static int open_backing(struct tapimg_loop *loop, const char *name,
			const struct tapimg_create_opts *o, struct tapimg **out,
			struct tapimg_err *err)
{
	struct tapimg_open_opts opts = {
		.format = o->backing_format, .flags = TAPIMG_SHARE | TAPIMG_NO_IO,
		.gate = o->gate, .gate_arg = o->gate_arg,
	};
	struct file_id id = { 0 };
	struct name n = { 0 }, self = { 0 };
	char *path = NULL;
	int ret = name_parse(name, &self, err);

	if (!ret)
		path = name_resolve(self.path, o->backing);
	if (!ret && !path)
		ret = err_set(err, -ENOMEM, "no memory");
	if (!ret)
		ret = name_parse(path, &n, err);
	if (ret)
		goto out;
	ret = image_gate(&opts, TAPIMG_ROLE_BACKING, name, n.path, err);
	if (ret)
		goto out;
	ret = tapimg_open(loop, path, &opts, out, err);
	if (ret) {
		err_prefix(err, ret, "%s: backing file '%s'", name, o->backing);
		goto out;
	}
	if (!file_provided(loop, self.path))
		id = file_id_path(self.path);
	if ((id.known || file_provided(loop, self.path)) &&
	    chain_find_file(*out, &id, self.path)) {
		ret = err_set(err, -ELOOP, "%s: the image would be its own backing file", name);
		tapimg_close(*out, NULL);
		*out = NULL;
	}
out:
	free(path);
	name_free(&n);
	name_free(&self);
	return ret;
}

int create_secret(const struct create *c, const char *format, const char *id, uint8_t *buf,
		  size_t size, struct tapimg_err *err)
{
	struct tapimg_secret_ask ask = {
		.filename = c->name, .format = format, .id = id, .create = true, .buf = buf, .size = size,
	};
	int ret;

	if (!c->secret)
		return err_set(err, -ENOKEY, "%s: to be enciphered it needs a secret, and none was given",
			       c->name);
	ret = c->secret(c->secret_arg, &ask, err);
	return ret < 0 ? err_prefix(err, ret, "%s", c->name) : ret;
}

/* @flags: FILE_*.  With c->unfinished the file stays open, in c->file. */
static int create_file(const struct format *fmt, struct create *c, const char *path,
		       unsigned flags, struct tapimg_err *err)
{
	int ret = file_open(c->loop, path, flags | FILE_RDWR | FILE_CREATE, &c->file, err), r;

	if (ret)
		return ret;
	if (c->file->append && !fmt->streams)
		ret = err_set(err, -ESPIPE, "%s: a pipe takes only what is written from begin to end, "
			      "which the %s format is not; a regular file is needed", c->name, fmt->name);
	if (!ret && !c->file->block_dev) {
		ret = file_truncate(c->file, 0);
		if (ret)
			err_errno(err, ret, "%s: emptying it", c->name);
	}
	if (!ret)
		ret = fmt->create(c, err);
	if (ret && !err->text[0])
		err_errno(err, ret, "%s", c->name);
	if (!ret && c->unfinished)
		return 0;
	if (!ret) {
		r = file_flush(c->file);
		if (r)
			ret = err_errno(err, r, "%s: flushing", c->name);
	}
	file_close(c->file);
	c->file = NULL;
	return ret;
}

/* Members that are not set may stand among the options. */
static void fill_in(struct tapimg_create_opts *o)
{
	const char *size = opts_get(o->opts, o->nopts, "size");

	if (size && !o->size)
		opt_size(size, &o->size);
	if (!o->backing)
		o->backing = opts_get(o->opts, o->nopts, "backing_file");
	if (!o->backing_format)
		o->backing_format = opts_get(o->opts, o->nopts, "backing_fmt");
}

/* @out: not NULL: the file, still open, for who goes on with it; @flags: FILE_*, to open it with. */
static int create_image(struct tapimg_loop *loop, const char *name, struct tapimg_create_opts *o,
			unsigned flags, struct file **out, struct tapimg_err *err)
{
	const struct format *fmt = o->format ? format_find(o->format) : NULL;
	struct create c = { .loop = loop, .name = o->final_name ? o->final_name : name };
	struct tapimg_target *t = NULL;
	int ret;

	if (!fmt)
		return err_set(err, -ENOTSUP, "%s: unknown format '%s'", name,
			       o->format ? o->format : "");
	fill_in(o);
	ret = create_check(fmt, name, o, err);
	if (!ret && o->backing && !o->no_backing_check)
		ret = open_backing(loop, name, o, &c.backing_img, err);
	if (ret)
		return ret;
	c.size = o->size;
	c.backing = o->backing;
	/* by the name that other products know, whatever it was called here */
	c.backing_format = o->backing ? format_find(o->backing_format)->name : NULL;
	c.opts = o->opts;
	c.nopts = o->nopts;
	c.exclusive = o->exclusive;
	c.unfinished = out;
	c.secret = o->secret;
	c.secret_arg = o->secret_arg;
	if (o->size == TAPIMG_SIZE_BACKING && c.backing_img)
		c.size = c.backing_img->size;
	ret = tapimg_target_begin(loop, name, (o->exclusive ? TAPIMG_TARGET_EXCLUSIVE : 0) |
				  (o->in_place ? TAPIMG_TARGET_IN_PLACE : 0), &t, err);
	if (!ret)
		ret = create_file(fmt, &c, tapimg_target_path(t), flags, err);
	if (!ret)
		ret = tapimg_target_commit(t, err);
	else
		tapimg_target_abort(t);
	if (!ret && out)
		*out = c.file;
	else
		file_close(c.file);
	if (c.backing_img)
		tapimg_close(c.backing_img, NULL);
	return ret;
}

int tapimg_create(struct tapimg_loop *loop, const char *name, const struct tapimg_create_opts *opts,
		  struct tapimg_err *err)
{
	struct tapimg_create_opts o = *opts;
	struct tapimg_err e = { 0 };
	int ret = create_image(loop, name, &o, 0, NULL, &e);

	return ret ? err_set(err, ret, "%s", e.text) : 0;
}

/* It is no part of the image, so who goes on writing must be told.  Drivers check the option. */
static unsigned compression_level(const struct tapimg_create_opts *o)
{
	const char *text = opts_get(o->opts, o->nopts, "compression_level");

	return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

int tapimg_create_open(struct tapimg_loop *loop, const char *name,
		       const struct tapimg_create_opts *opts,
		       const struct tapimg_open_opts *open_opts, struct tapimg **out,
		       struct tapimg_err *err)
{
	struct tapimg_create_opts o = *opts;
	struct tapimg_open_opts how = *open_opts;
	struct tapimg_err e = { 0 };
	struct file *file = NULL;
	int ret;

	*out = NULL;
	o.in_place = true;
	how.format = o.format;
	how.flags |= TAPIMG_RDWR;
	how.level = compression_level(&o);
	ret = create_image(loop, name, &o, image_file_flags(how.flags), &file, &e);
	if (!ret)
		ret = image_open_file(loop, file, &how, out, &e);
	if (!ret && o.final_name) {	/* what goes wrong is told of the name that people know */
		char *shown = strdup(o.final_name);

		if (shown) {
			free((*out)->name);
			(*out)->name = shown;
		}
	}
	return ret ? err_set(err, ret, "%s", e.text) : 0;
}

int tapimg_measure(struct tapimg_loop *loop, struct tapimg *src,
		   const struct tapimg_create_opts *opts, struct tapimg_measure *out,
		   struct tapimg_err *err)
{
	const struct format *fmt = opts->format ? format_find(opts->format) : NULL;
	struct create c = {
		.loop = loop, .name = opts->format, .size = src ? src->size : opts->size,
		.backing = opts->backing, .backing_format = opts->backing_format,
		.opts = opts->opts, .nopts = opts->nopts,
	};
	struct tapimg_err e = { 0 };
	int ret;

	memset(out, 0, sizeof(*out));
	if (!fmt)
		return err_set(err, -ENOTSUP, "unknown format '%s'", opts->format ? opts->format : "");
	if (!fmt->measure)
		return err_set(err, -ENOTSUP, "the %s format cannot be measured", fmt->name);
	ret = opts_check(fmt, opts->opts, opts->nopts, TAPIMG_OPT_CREATE, err);
	if (ret)
		return ret;
	if (c.size > INT64_MAX)
		return err_set(err, -EFBIG, "a size of %llu bytes is too large",
			       (unsigned long long)c.size);
	ret = src ? image_settle(src) : 0;
	if (ret)
		return err_errno(err, ret, "%s: writing what was left to be written", src->name);
	ret = fmt->measure(&c, src, out, &e);
	if (!ret)
		return 0;
	return e.text[0] ? err_set(err, ret, "%s", e.text) : err_errno(err, ret, "%s", fmt->name);
}
