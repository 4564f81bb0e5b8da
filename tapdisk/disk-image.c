/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk-image.c - a disk whose contents are in an image of the library; the secondary image
 *
 * The secondary is a second image of the same size.  As a mirror it gets every change that the first
 * one gets; when it fails, it is dropped, and the disk goes on without.  As a standby it gets
 * nothing, until the first image has no space left: then it becomes the layer above, and all further
 * changes go there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "disk-impl.h"
#include "err.h"
#include "format.h"
#include "image.h"
#include "log.h"

#define RETRY_NS 1000000000ULL		/* no space: so long until the next try */
#define TELL_NS (600 * RETRY_NS)		/* and so long until it is said again */
#define LEGS_AGAIN 255			/* in disk_req.legs: this is the second try */

/* -------------------------------------------------------------------- requests */

static void image_done(struct tapimg_req *req)
{
	struct disk_req *r = container_of(req, struct disk_req, req);

	disk_complete(r->disk, r, req->ret);
}

/* One of two images has answered. */
static void leg_done(struct disk_req *r)
{
	struct disk *d = r->disk;
	struct disk_req *m = r->mirror;

	if (--r->legs)
		return;
	list_push(&d->copies, &m->node);
	r->mirror = NULL;
	if (r->mirror_ret && d->mirrored) {
		log_error("%s: the secondary image failed and is not used any more: %s", d->props.name,
			  strerror(-r->mirror_ret));
		d->mirrored = false;
		d->mirror_failed = true;
	}
	disk_complete(d, r, r->req.ret);
}

static void first_done(struct tapimg_req *req)
{
	leg_done(container_of(req, struct disk_req, req));
}

static void second_done(struct tapimg_req *req)
{
	struct disk_req *m = container_of(req, struct disk_req, req);

	m->mirror->mirror_ret = req->ret;
	leg_done(m->mirror);
}

static struct disk_req *copy_get(struct disk *d)
{
	struct list *n = list_pop(&d->copies);

	return n ? list_entry(n, struct disk_req, node) : calloc(1, sizeof(struct disk_req));
}

static bool mirror_submit(struct disk *d, struct disk_req *r)
{
	struct disk_req *m = copy_get(d);

	if (!m)
		return false;
	m->mirror = r;
	m->req.op = r->req.op;
	m->req.flags = r->req.flags;
	m->req.off = r->req.off;
	m->req.len = r->req.len;
	m->req.iov = r->req.iov;
	m->req.iovcnt = r->req.iovcnt;
	m->req.done = second_done;
	r->mirror = m;
	r->mirror_ret = 0;
	r->legs = 2;
	r->req.done = first_done;
	tapimg_submit(d->img, &r->req);
	tapimg_submit(d->img2, &m->req);
	return true;
}

void image_submit(struct disk *d, struct disk_req *r)
{
	if (r->req.op == TAPIMG_DISCARD && !d->props.discard) {
		disk_complete(d, r, 0);
		return;
	}
	if (d->mirrored && r->req.op != TAPIMG_READ) {
		if (!mirror_submit(d, r))
			disk_complete(d, r, -ENOMEM);
		return;
	}
	if (d->standby_used && r->req.op == TAPIMG_WRITE)
		d->redirected += r->req.len >> 9;
	r->req.done = image_done;
	tapimg_submit(d->img, &r->req);
}

/* -------------------------------------------------------------------- no space */

/*
 * The standby becomes the top layer.  What is in flight below it has no part in this: it ends in
 * the first image, where later changes do not go.
 */
static void use_standby(struct disk *d)
{
	log_warn("%s: no space left: changes go to the secondary image %s", d->props.name,
		 d->cfg.secondary);
	d->img2->backing = d->img;
	d->img2->rechained = true;
	chain_forget(d->img2);
	d->img = d->img2;
	d->img2 = NULL;
	d->standby_used = true;
	if (d->cfg.signal_file) {
		int fd = open(d->cfg.signal_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		if (fd >= 0)
			close(fd);
	}
}

/* The request is put back, to be submitted again. */
static void wait_for_space(struct disk *d, struct disk_req *r)
{
	uint64_t now = loop_now(d->loop);

	if (!d->nospace_ns || now - d->nospace_ns > TELL_NS) {
		log_warn("%s: no space left: requests wait for it", d->props.name);
		d->nospace_ns = now;
	}
	d->st.op[r->req.op].submitted--;
	d->st.op[r->req.op].bytes -= r->req.len;
	d->inflight--;
	list_push(&d->waiting, &r->node);
	disk_bar(d, HELD_NOSPACE);
	loop_timer_cancel(&d->timer);
	loop_timer_arm(d->loop, &d->timer, now + RETRY_NS);
}

bool disk_nospace(struct disk *d, struct disk_req *r)
{
	if (d->img2 && !d->mirrored)
		use_standby(d);
	if (d->standby_used && r->legs != LEGS_AGAIN) {
		/* it was meant for the first image: once more */
		r->legs = LEGS_AGAIN;
		image_submit(d, r);
		return true;
	}
	if (!d->cfg.stop_on_enospc || d->closing)
		return false;
	wait_for_space(d, r);
	return true;
}

/* --------------------------------------------------------------- opening, closing */

static unsigned open_flags(const struct disk_config *c)
{
	unsigned flags = 0;

	if (!c->read_only)
		flags |= TAPIMG_RDWR;
	if (c->direct)
		flags |= TAPIMG_DIRECT;
	if (c->unsafe)
		flags |= TAPIMG_UNSAFE;
	if (c->discard)
		flags |= TAPIMG_UNMAP;
	if (c->share_backing)
		flags |= TAPIMG_SHARE_BACKING;
	return flags;
}

/* An NBD server is named "nbd:HOST:PORT" or by its URI, whether or not the driver stands before it. */
static char *image_name(const struct disk_config *c)
{
	char *name;

	if (strcmp(c->driver, "nbd") != 0 || !strncmp(c->path, "nbd", 3))
		return strdup(c->path);
	return asprintf(&name, "nbd:%s%s", c->path[0] == '/' ? "unix:" : "", c->path) < 0 ? NULL : name;
}

/* The key that the disk was opened with is tried on every layer that is enciphered. */
static int disk_key(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	const struct disk_config *c = &((const struct disk *)arg)->cfg;

	if (!c->key_len)
		return err_set(err, -ENOKEY, "%s: it is enciphered, and no key was given", ask->filename);
	if (c->key_len > ask->size)
		return err_set(err, -E2BIG, "%s: the key is too long", ask->filename);
	memcpy(ask->buf, c->key, c->key_len);
	return (int)c->key_len;
}

static int open_one(struct disk *d, const struct disk_config *c, unsigned flags, struct tapimg **out,
		    struct tapimg_err *err)
{
	struct tapimg_open_opts opts = {
		.format = disk_driver(c->driver)->format, .flags = flags, .cache_size = c->cache_size,
		.rdwr_layers = flags & TAPIMG_RDWR ? d->rdwr_layers : 0,
		.secret = disk_key, .secret_arg = d,
	};
	char *name;
	int ret;

	if (!format_find(opts.format))
		return err_set(err, -ENOTSUP, "%s: the format %s is not built in", c->path, opts.format);
	name = image_name(c);
	if (!name)
		return err_errno(err, -ENOMEM, "%s", c->path);
	ret = tapimg_open(d->loop, name, &opts, out, err);
	free(name);
	return ret;
}

static int open_secondary(struct disk *d, const struct disk_config *c, struct tapimg_err *err)
{
	struct disk_config c2;
	int ret;

	disk_config_init(&c2);
	ret = disk_config_target(&c2, c->secondary, err);
	if (!ret && !disk_driver(c2.driver)->format)
		ret = err_set(err, -EINVAL, "%s: a secondary has to be an image", c->secondary);
	if (!ret)
		ret = open_one(d, &c2, open_flags(c) | (c->standby ? TAPIMG_NO_BACKING : 0), &d->img2, err);
	disk_config_clear(&c2);
	if (!ret && tapimg_size(d->img2) != d->props.size) {
		ret = err_set(err, -EINVAL, "%s: its size is %llu bytes, that of the disk %llu",
			      c->secondary, (unsigned long long)tapimg_size(d->img2),
			      (unsigned long long)d->props.size);
		tapimg_close(d->img2, NULL);
		d->img2 = NULL;
	}
	return ret;
}

int disk_image_open(struct disk *d, const struct disk_config *c, struct tapimg_err *err)
{
	struct disk_config rw = *c;
	int ret;

	ret = open_one(d, &rw, open_flags(&rw), &d->img, err);
	if (c->probe_read_only && !c->read_only && (ret == -EROFS || ret == -EACCES)) {
		rw.read_only = true;
		ret = open_one(d, &rw, open_flags(&rw), &d->img, err);
	}
	if (ret)
		return ret;
	d->props.read_only = rw.read_only;
	d->props.size = tapimg_size(d->img);
	d->props.opt_size = is_pow2(d->img->cluster) ? MAX(d->img->cluster, 4096U) : 4096;
	d->mirror_failed = d->standby_used = false;
	if (c->secondary && strcmp(c->secondary, "null") != 0 && !c->read_only) {
		ret = open_secondary(d, c, err);
		if (ret) {
			tapimg_close(d->img, NULL);
			d->img = NULL;
			return ret;
		}
	}
	d->mirrored = d->img2 && !c->standby;
	d->catches_nospace = (d->img2 && c->standby) || c->stop_on_enospc;
	return 0;
}

int disk_image_resize(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	int ret;

	if (d->img2)
		return err_set(err, -EBUSY, "%s: it has a secondary image", d->props.name);
	ret = tapimg_resize(d->img, size, TAPIMG_PREALLOC_OFF, size < d->props.size, err);
	d->props.size = tapimg_size(d->img);
	return ret;
}

int disk_image_close(struct disk *d, struct tapimg_err *err)
{
	struct tapimg_err ignored;
	int ret;

	if (d->img2)
		tapimg_close(d->img2, &ignored);
	d->img2 = NULL;
	d->mirrored = false;
	ret = tapimg_close(d->img, err);
	d->img = NULL;
	return ret;
}

void disk_image_exit(struct disk *d)
{
	struct list *n;

	while ((n = list_pop(&d->copies)))
		free(list_entry(n, struct disk_req, node));
}
