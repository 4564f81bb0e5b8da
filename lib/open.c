/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * open.c - opening an image and the chain below it
 *
 * One layer after the other, top first, without recursion: a layer says what lies below it, the
 * gate is asked, the loop test is made, then that file is opened.  When a layer fails, those above
 * it are closed again and the explanation names each of them.
 *
 * Which format a layer has: what the caller or the layer above says, and no bytes are looked at;
 * only where nothing is said the contents are probed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "checked.h"
#include "name.h"
#include "open.h"

/* What is known of a layer before it is open. */
struct spec {
	struct name n;
	const char *text;		/* the name as written */
	const char *format;		/* NULL: n.format, else probe */
	struct tapimg_open_opts o;
	bool by_caller;			/* named by the caller, not by an image */
};

/* ------------------------------------------------------------- identity of files */

static struct file_id id_from_stat(const struct stat *st)
{
	struct file_id id = { .known = true, .dev = st->st_dev, .ino = st->st_ino };

	if (S_ISBLK(st->st_mode)) {
		id.block = true;
		id.dev = 0;
		id.ino = st->st_rdev;
	}
	return id;
}

struct file_id file_id_path(const char *path)
{
	struct file_id none = { 0 };
	struct stat st;

	return stat(path, &st) ? none : id_from_stat(&st);
}

static struct file_id file_id_open(struct file *f)
{
	struct file_id none = { 0 };
	struct stat st;
	int fd;

	while (f->around)
		f = f->around;
	fd = f->ops->fd ? f->ops->fd(f) : -1;
	return fd < 0 || fstat(fd, &st) ? none : id_from_stat(&st);
}

bool file_id_same(const struct file_id *a, const char *a_name, const struct file_id *b,
		  const char *b_name)
{
	if (a->known && b->known)
		return a->block == b->block && a->dev == b->dev && a->ino == b->ino;
	return a->known == b->known && !strcmp(a_name, b_name);
}

struct tapimg *chain_find_file(struct tapimg *img, const struct file_id *id, const char *name)
{
	for (; img; img = img->backing) {
		struct file_id have = file_id_open(img->file);

		if (file_id_same(&have, img->path, id, name))
			return img;
	}
	return NULL;
}

/* ------------------------------------------------------------------- one layer */

bool tapimg_path_inside(const char *referrer, const char *path)
{
	const char *end = strrchr(referrer, '/');
	size_t len;

	if (!end && name_has_scheme(referrer))
		end = strchr(referrer, ':');
	len = end ? (size_t)(end + 1 - referrer) : 0;
	if (strncmp(referrer, path, len) != 0)
		return false;
	path += len;
	if (*path == '/' || (!len && name_has_scheme(path)))
		return false;
	for (; path; path = strchr(path, '/'), path = path ? path + 1 : NULL)
		if (!strncmp(path, "..", 2) && (!path[2] || path[2] == '/'))
			return false;
	return true;
}

/* The gate of an image inside of an archive: it is all in there. */
static bool container_gate(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	return false;
}

int image_gate(const struct tapimg_open_opts *opts, enum tapimg_role role, const char *referrer,
	       const char *path, struct tapimg_err *err)
{
	static const char *const what[] = {
		[TAPIMG_ROLE_IMAGE] = "image", [TAPIMG_ROLE_BACKING] = "backing file",
		[TAPIMG_ROLE_DATA] = "data file", [TAPIMG_ROLE_EXTENT] = "extent",
	};

	if (opts && opts->gate) {
		if (opts->gate(opts->gate_arg, role, referrer, path))
			return 0;
	} else if (role != TAPIMG_ROLE_EXTENT || tapimg_path_inside(referrer, path)) {
		return 0;
	} else {
		return err_set(err, -EPERM, "%s: its extent '%s' lies outside of its folder, and may not "
			       "be opened unless that is allowed", referrer, path);
	}
	return err_set(err, -EPERM, "%s: its %s '%s' may not be opened: %s", referrer, what[role], path,
		       opts->gate == container_gate ? "it is in an archive, and so should that be"
						    : "refused by the caller");
}

static int spec_format(const struct spec *s, struct file *file, const struct format **fmt,
		       struct tapimg_err *err)
{
	const char *name = s->format ? s->format : s->n.format;

	if (!name) {
		*fmt = format_probe(file, err);
		return *fmt ? 0 : err->code;
	}
	/* a bare file stands for its bytes */
	if (!strcmp(name, "file") || !strcmp(name, "host_device"))
		name = "raw";
	*fmt = format_find(name);
	return *fmt ? 0 : err_set(err, -ENOTSUP, "%s: unknown format '%s'", s->text, name);
}

static int spec_check(const struct spec *s, const struct format *fmt, struct tapimg_err *err)
{
	if (s->o.snapshot && s->o.flags & TAPIMG_RDWR)
		return err_set(err, -EINVAL, "%s: an internal snapshot can only be read", s->text);
	if (s->o.snapshot && !fmt->snap_create)
		return err_set(err, -ENOTSUP, "%s: the %s format has no internal snapshots", s->text,
			       fmt->name);
	if ((s->o.offset || s->o.size) && !fmt->raw)
		return err_set(err, -EINVAL, "%s: offset and size are only for raw images", s->text);
	return 0;
}

static char *copy_string(const char *s, bool *failed)
{
	char *copy = s ? strdup(s) : NULL;

	if (s && !copy)
		*failed = true;
	return copy;
}

/* The image around an open file, nothing of its contents looked at. */
static struct tapimg *image_new(struct tapimg_loop *loop, struct file *file,
				const struct format *fmt, const struct spec *s)
{
	struct tapimg *img = calloc(1, sizeof(*img));
	bool failed = false;

	if (!img)
		return NULL;
	img->fmt = fmt;
	img->file = file;
	img->loop = loop;
	img->unit = 1;
	img->flags = s->o.flags;
	img->writable = s->o.flags & TAPIMG_RDWR;
	img->opts = s->o;
	img->opts.format = fmt->name;
	img->opts.snapshot = copy_string(s->o.snapshot, &failed);
	img->opts.data_file = copy_string(s->o.data_file, &failed);
	img->opts.disk = copy_string(s->o.disk, &failed);
	img->opts.key_secret = copy_string(s->o.key_secret, &failed);
	img->name = copy_string(s->text, &failed);
	img->path = copy_string(s->n.path ? s->n.path : s->text, &failed);
	if (fmt->state_size)
		img->fs = calloc(1, fmt->state_size);
	if (failed || (fmt->state_size && !img->fs)) {
		image_free(img);
		return NULL;
	}
	return img;
}

/* On to the file that the image fills, if *@file is a container. */
static int enter_container(const struct spec *s, struct file **file, const struct format **fmt,
			   const struct format **container, struct tapimg_err *err)
{
	if ((*fmt)->enter) {
		*container = *fmt;
		return (*fmt)->enter(*file, &s->o, file, fmt, err);
	}
	if (!s->o.disk)
		return 0;
	return err_set(err, -EINVAL, "%s: disk '%s' was asked for, but the %s format holds only one",
		       s->text, s->o.disk, (*fmt)->name);
}

/* @file is the image's, also on failure. */
static int layer_open_file(struct tapimg_loop *loop, struct file *file, const struct spec *s,
			   struct tapimg **out, struct tapimg_err *err)
{
	const struct format *fmt = NULL, *container = NULL;
	struct tapimg *img = NULL;
	int ret = spec_format(s, file, &fmt, err);

	if (!ret)
		ret = enter_container(s, &file, &fmt, &container, err);
	if (!ret)
		ret = spec_check(s, fmt, err);
	if (ret)
		goto fail;
	img = image_new(loop, file, fmt, s);
	if (!img) {
		ret = err_set(err, -ENOMEM, "no memory");
		goto fail;
	}
	img->container = container;
	if (container)
		img->opts.gate = container_gate;
	ret = fmt->open(img, &img->opts, err);
	if (!ret && img->backing_name) {
		img->backing_path = name_resolve(img->path, img->backing_name);
		if (!img->backing_path)
			ret = err_set(err, -ENOMEM, "no memory");
	}
	if (!ret) {
		ret = engine_init(img);
		if (ret)
			err_errno(err, ret, "%s: preparing for requests", img->name);
	}
	if (!ret) {
		*out = img;
		return 0;
	}
	if (!err->text[0])
		err_errno(err, ret, "%s", img->name);
	if (fmt->close)
		fmt->close(img, NULL);
	engine_exit(img);
fail:
	file_close(file);
	if (img)
		image_free(img);
	return ret ? ret : -EINVAL;
}

/* The names the spec's text stands for; what it says itself overrides nothing the caller said. */
static int spec_parse(struct spec *s, struct tapimg_err *err)
{
	int ret = name_parse(s->text, &s->n, err);

	if (ret)
		return ret;
	if (s->by_caller && s->format && s->n.format && strcmp(s->format, s->n.format) != 0) {
		ret = err_set(err, -EINVAL, "%s: the name says format %s, but %s was asked for",
			      s->text, s->n.format, s->format);
		name_free(&s->n);
		return ret;
	}
	if (!s->o.offset)
		s->o.offset = s->n.offset;
	if (!s->o.size)
		s->o.size = s->n.size;
	if (!s->o.data_file)
		s->o.data_file = s->n.data_file;
	if (!s->o.disk)
		s->o.disk = s->n.disk;
	if (!s->o.key_secret)
		s->o.key_secret = s->n.key_secret;
	return 0;
}

static int layer_open(struct tapimg_loop *loop, const struct spec *s, struct tapimg **out,
		      struct tapimg_err *err)
{
	struct file *file;
	int ret = file_open(loop, s->n.path, image_file_flags(s->o.flags), &file, err);

	return ret ? ret : layer_open_file(loop, file, s, out, err);
}

/* ------------------------------------------------------------------- the chain */

/* What lies below @img.  False: nothing, or it stays closed. */
static bool spec_below(struct tapimg *top, struct tapimg *img, const struct spec *above,
		       unsigned depth, struct spec *s)
{
	const unsigned inherited = TAPIMG_DIRECT | TAPIMG_SHARE | TAPIMG_NO_IO | TAPIMG_SALVAGE |
				   TAPIMG_STALE_BACKING | TAPIMG_SHARE_BACKING | TAPIMG_CIPHERTEXT;
	const unsigned writing = TAPIMG_RDWR | TAPIMG_WRITETHROUGH | TAPIMG_UNSAFE | TAPIMG_UNMAP;

	memset(s, 0, sizeof(*s));
	if (top->flags & TAPIMG_NO_BACKING || above->n.backing_kind == NAME_BACKING_NONE)
		return false;
	if (above->n.backing_kind == NAME_BACKING_GIVEN) {
		s->text = above->n.backing;
		s->by_caller = above->by_caller;
	} else {
		s->text = img->backing_path;
		s->format = img->backing_fmt;
	}
	s->o.flags = top->flags & inherited;
	if (depth <= top->opts.rdwr_layers)
		s->o.flags |= top->flags & writing;
	else if (top->flags & TAPIMG_SHARE_BACKING)
		s->o.flags |= TAPIMG_SHARE;
	s->o.cache_size = top->opts.cache_size;
	s->o.gate = img->opts.gate;
	s->o.gate_arg = img->opts.gate_arg;
	s->o.secret = top->opts.secret;
	s->o.secret_arg = top->opts.secret_arg;
	return s->text;
}

static int below_allowed(struct tapimg *img, const struct spec *s, struct tapimg_err *err)
{
	int ret = 0;

	if (s->by_caller)
		return 0;
	ret = image_gate(&s->o, TAPIMG_ROLE_BACKING, img->path, s->n.path, err);
	if (!ret && s->n.data_file)
		ret = image_gate(&s->o, TAPIMG_ROLE_DATA, img->path, s->n.data_file, err);
	return ret;
}

static int below_no_loop(struct tapimg *top, const struct spec *s, unsigned depth,
			 struct tapimg_err *err)
{
	struct file_id none = { 0 };
	struct file_id id = file_provided(top->loop, s->n.path) ? none : file_id_path(s->n.path);
	struct tapimg *twin;

	if (depth >= CHAIN_MAX)
		return err_set(err, -ELOOP, "the chain is deeper than %u layers", CHAIN_MAX);
	twin = chain_find_file(top, &id, s->n.path);
	if (twin)
		return err_set(err, -ELOOP, "the chain loops: that is %s again", twin->name);
	return 0;
}

/* Text builder that never runs over, and keeps long names readable by their ends. */
struct text {
	char *buf;
	size_t len, size;
};

static void text_add(struct text *t, const char *s, size_t max)
{
	size_t n = strlen(s);
	int w;

	if (t->len >= t->size)
		return;
	w = n <= max ? snprintf(t->buf + t->len, t->size - t->len, "%s", s)
		     : snprintf(t->buf + t->len, t->size - t->len, "...%s", s + n - max);
	t->len = MIN(t->len + (size_t)MAX(w, 0), t->size);
}

static void text_layer(struct text *t, const char *below, const char *above, size_t max)
{
	text_add(t, ": backing file '", SIZE_MAX);
	text_add(t, below, max);
	text_add(t, "' (of ", SIZE_MAX);
	text_add(t, above, max);
	text_add(t, ")", SIZE_MAX);
}

/* How @img calls the layer below it: as it is written there. */
static const char *below_called(struct tapimg *img, const char *otherwise)
{
	return img->backing_name ? img->backing_name : otherwise;
}

/*
 * "a: backing file 'b' (of a): backing file 'c' (of b): cause".  Of more than six layers the middle
 * is only counted, and names are cut so that the cause is always there.
 */
static void chain_explain(struct tapimg *top, struct tapimg *last, const char *missing,
			  const char *path, struct tapimg_err *err)
{
	const char *cause = err->text;
	struct tapimg_err e = { .code = err->code };
	struct text t = { e.text, 0, sizeof(e.text) - MIN(strlen(cause) + 3, (size_t)700) };
	unsigned depth = 0, i = 0;
	struct tapimg *img;
	char count[64];
	size_t max;

	if (path && !strncmp(cause, path, strlen(path)) &&
	    !strncmp(cause + strlen(path), ": ", 2))
		cause += strlen(path) + 2;	/* named already */
	for (img = top; img != last; img = img->backing)
		depth++;
	max = depth < 2 ? 300 : 70;
	text_add(&t, top->name, max);
	for (img = top;; img = img->backing, i++) {
		const char *below = img == last ? missing : img->backing->name;

		if (depth > 5 && i >= 2 && i + 2 < depth) {
			if (i == 2) {
				snprintf(count, sizeof(count), ": ... %u more ...", depth - 4);
				text_add(&t, count, SIZE_MAX);
			}
		} else {
			text_layer(&t, below_called(img, below), img->name, max);
		}
		if (img == last)
			break;
	}
	t.size = sizeof(e.text);
	text_add(&t, ": ", SIZE_MAX);
	text_add(&t, cause, SIZE_MAX);
	*err = e;
}

/* Opens what lies below @top.  On failure @top is closed with all that was opened. */
static int chain_open(struct tapimg *top, struct spec *above, struct tapimg_err *err)
{
	struct tapimg *img = top;
	struct spec s;
	int ret = 0;

	for (unsigned depth = 1; spec_below(top, img, above, depth, &s); depth++) {
		struct tapimg *next = NULL;

		ret = spec_parse(&s, err);
		if (!ret)
			ret = below_allowed(img, &s, err);
		if (!ret)
			ret = below_no_loop(top, &s, depth, err);
		if (!ret)
			ret = layer_open(top->loop, &s, &next, err);
		if (ret) {
			chain_explain(top, img, s.text, s.n.path, err);
			name_free(&s.n);
			break;
		}
		img->backing = next;
		if (img->fmt->backing_check && !s.by_caller)
			ret = img->fmt->backing_check(img, err);
		if (ret) {
			name_free(&s.n);
			break;
		}
		img = next;
		name_free(&above->n);
		*above = s;
	}
	name_free(&above->n);
	if (ret)
		tapimg_close(top, NULL);
	return ret;
}

static int report(const struct tapimg_err *e, int ret, struct tapimg_err *err)
{
	return ret && err ? err_set(err, ret, "%s", e->text) : ret;
}

int tapimg_open(struct tapimg_loop *loop, const char *name, const struct tapimg_open_opts *opts,
		struct tapimg **out, struct tapimg_err *err)
{
	struct spec s = { .text = name, .by_caller = true };
	struct tapimg_err e = { 0 };
	struct tapimg *img = NULL;
	int ret;

	*out = NULL;
	if (opts) {
		s.o = *opts;
		s.format = opts->format;
	}
	ret = spec_parse(&s, &e);
	if (ret)
		return report(&e, ret, err);
	ret = layer_open(loop, &s, &img, &e);
	if (ret)
		name_free(&s.n);
	else
		ret = chain_open(img, &s, &e);
	if (!ret)
		*out = img;
	return report(&e, ret, err);
}

int image_open_file(struct tapimg_loop *loop, struct file *file,
		    const struct tapimg_open_opts *opts, struct tapimg **out,
		    struct tapimg_err *err)
{
	struct spec s = { .text = file->name, .by_caller = true };
	struct tapimg_err e = { 0 };
	struct tapimg *img = NULL;
	int ret;

	*out = NULL;
	if (opts) {
		s.o = *opts;
		s.format = opts->format;
	}
	ret = layer_open_file(loop, file, &s, &img, &e);
	if (!ret)
		ret = chain_open(img, &s, &e);
	if (!ret)
		*out = img;
	return report(&e, ret, err);
}
