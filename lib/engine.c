/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine.c - requests, their pieces, and reading
 *
 * The states and the rules E1 to E4 are in engine.h. Writing is in engine-write.c, compressed units
 * are in engine-coded.c.
 */
#include <assert.h>
#include <stdlib.h>

#include "checked.h"
#include "engine.h"

#define FREE_PIECES 256		/* kept for reuse */

/* -------------------------------------------------------------------- pieces */

static void piece_wake(struct waiter *w)
{
	struct piece *p = container_of(w, struct piece, wait);

	if (w->ret) {
		piece_abort(p, w->ret);
		engine_pump(p->img);
		return;
	}
	piece_ready(p);
	engine_pump(p->img);
}

static struct piece *piece_alloc(struct tapimg *img, struct tapimg_req *req)
{
	struct engine *e = &img->eng;
	struct list *n = list_pop(&e->free);
	struct piece *p;

	if (n) {
		p = list_entry(n, struct piece, node);
		e->nfree--;
	} else {
		p = calloc(1, sizeof(*p));
		if (!p)
			return NULL;
		list_init(&p->node);
		list_init(&p->lnode);
		list_init(&p->wait.node);
		list_init(&p->io.task.node);
		p->wait.wake = piece_wake;
		p->img = img;
	}
	p->req = req;
	p->state = PS_MAP;
	p->op = req->op;
	p->off = req->off;
	p->len = req->len;
	return p;
}

/* What a piece may own beside its memory has been given back, all flags are down. */
static void piece_free(struct piece *p)
{
	struct engine *e = &p->img->eng;

	assert(!p->lock_held && !p->reserved && !p->up && !p->unit);
	free(p->viov);
	free(p->buf);
	free(p->out);
	p->viov = NULL;
	p->buf = p->out = NULL;
	p->zero = p->encoded = p->rewrite = p->early = false;
	p->nospace = 0;
	if (e->nfree < FREE_PIECES) {
		list_push(&e->free, &p->node);
		e->nfree++;
	} else {
		free(p);
	}
}

void piece_ready(struct piece *p)
{
	list_append(&p->img->eng.runq, &p->node);
}

void engine_pump(struct tapimg *img)
{
	struct engine *e = &img->eng;
	struct list *n;

	if (e->pumping)
		return;
	e->pumping = true;
	while ((n = list_pop(&e->runq)))
		piece_step(list_entry(n, struct piece, node));
	e->pumping = false;
}

void piece_park(struct piece *p, struct tapimg_loop *loop)
{
	loop_park(loop, &p->wait);
}

struct piece *piece_split(struct piece *p, uint64_t len)
{
	struct piece *rest = piece_alloc(p->img, p->req);

	if (!rest)
		return NULL;
	rest->op = p->op;
	rest->zero = p->zero;
	rest->rewrite = p->rewrite;
	rest->off = p->off + len;
	rest->len = p->len - len;
	p->len = len;
	req_priv(p->req)->pieces++;
	return rest;
}

int piece_iov(struct piece *p, uint64_t off, uint64_t len, struct iovec *out, int max)
{
	const struct iovec *v = p->req->iov;
	uint64_t skip = off - p->req->off;
	int n = 0;

	while (skip >= v->iov_len) {
		skip -= v->iov_len;
		v++;
	}
	for (; len; v++, skip = 0) {
		size_t take = MIN(len, v->iov_len - skip);

		if (!take)
			continue;
		if (n < max) {
			out[n].iov_base = (char *)v->iov_base + skip;
			out[n].iov_len = take;
		}
		n++;
		len -= take;
	}
	return n;
}

int piece_buffers(struct piece *p, const struct iovec **iov)
{
	int n;

	if (p->len == p->req->len) {
		*iov = p->req->iov;
		return p->req->iovcnt;
	}
	*iov = p->iov;
	n = piece_iov(p, p->off, p->len, p->iov, PIECE_IOV);
	if (n > PIECE_IOV) {
		p->viov = malloc(n * sizeof(*p->viov));
		if (!p->viov)
			return -ENOMEM;
		piece_iov(p, p->off, p->len, p->viov, n);
		*iov = p->viov;
	}
	return n;
}

/* One way or the other; *@at moves on. */
static void copy_part(void *part, uint8_t **at, size_t len, bool out)
{
	if (!*at) {
		memset(part, 0, len);
		return;
	}
	memcpy(out ? part : *at, out ? *at : part, len);
	*at += len;
}

static void piece_copy(struct piece *p, uint8_t *buf, bool out)
{
	const struct iovec *v = p->req->iov;
	uint64_t skip = p->off - p->req->off, len = p->len;

	for (; len; v++) {
		size_t take;

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		take = MIN(len, v->iov_len - skip);
		copy_part((char *)v->iov_base + skip, &buf, take, out);
		len -= take;
		skip = 0;
	}
}

void piece_copy_out(struct piece *p, const void *src)
{
	piece_copy(p, (uint8_t *)src, true);
}

void piece_copy_in(struct piece *p, void *dst)
{
	piece_copy(p, dst, false);
}

void piece_io(struct piece *p, enum io_op op, struct file *file, uint64_t host, uint64_t len,
	      const struct iovec *iov, int iovcnt, void (*done)(struct io *))
{
	p->state = PS_IO;
	p->io.file = file;
	p->io.op = op;
	p->io.flags = 0;
	p->io.off = host;
	p->io.len = len;
	p->io.iov = iov;
	p->io.iovcnt = iovcnt;
	p->io.done = done;
	file_submit(&p->io);
}

/* ------------------------------------------------------------------ requests */

static void req_callback(struct task *t)
{
	struct req_priv *r = container_of(t, struct req_priv, task);
	struct tapimg_req *req = container_of(r, struct tapimg_req, priv);

	req->ret = r->ret;
	r->img->eng.inflight--;
	req->done(req);
}

static void req_defer(struct req_priv *r)
{
	r->task.fn = req_callback;
	loop_defer(r->img->loop, &r->task);
}

static void req_finish(struct tapimg_req *req)
{
	struct req_priv *r = req_priv(req);
	const struct engine *e = &r->img->eng;

	/* E4; and whoever is called may run the loop, for which the pumps must not be in the way */
	if (e->submitting || e->pumping || e->coded_pumping)
		req_defer(r);
	else
		req_callback(&r->task);
}

static void req_synced(struct waiter *w)
{
	struct req_priv *r = container_of(w, struct req_priv, wait);

	r->ret = w->ret;
	req_defer(r);
}

static void sync_done(struct io *io)
{
	piece_done(container_of(io, struct piece, io), io->ret);
}

static void req_leave(struct req_priv *r)
{
	if (r->user_held) {
		r->user_held = false;
		meta_leave(r->img->meta, &r->user);
	}
}

void req_reenter(struct tapimg_req *req)
{
	struct req_priv *r = req_priv(req);

	if (r->user_held && r->pieces == 1) {
		meta_leave(r->img->meta, &r->user);
		meta_enter(r->img->meta, &r->user);
	}
}

/* Waits for what the request changed to be durable: DURABLE in the picture of engine.h. */
static void req_sync(struct tapimg_req *req)
{
	struct req_priv *r = req_priv(req);
	struct piece *p;

	r->synced = true;
	if (r->img->meta) {
		list_init(&r->wait.node);
		r->wait.ret = 0;
		r->wait.wake = req_synced;
		meta_sync(r->img->meta, &r->wait);
		return;
	}
	p = piece_alloc(r->img, req);
	if (!p) {
		r->ret = -ENOMEM;
		req_finish(req);
		return;
	}
	r->pieces = 1;
	p->state = PS_SYNC;
	piece_io(p, IO_FLUSH, r->img->file, 0, 0, NULL, 0, sync_done);
}

static bool req_wants_sync(const struct tapimg_req *req, const struct tapimg *img)
{
	switch (req->op) {
	case TAPIMG_FLUSH:
		return true;
	case TAPIMG_WRITE:
	case TAPIMG_ZERO:
	case TAPIMG_WRITE_COMPRESSED:
		return req->flags & TAPIMG_REQ_FUA || img->flags & TAPIMG_WRITETHROUGH;
	default:
		return false;
	}
}

static void req_pieces_done(struct tapimg_req *req)
{
	struct req_priv *r = req_priv(req);

	req_leave(r);
	if (!r->ret && !r->synced && req_wants_sync(req, r->img))
		req_sync(req);
	else
		req_finish(req);
}

void piece_done(struct piece *p, int ret)
{
	struct tapimg_req *req = p->req;
	struct req_priv *r = req_priv(req);

	if (ret && !r->ret)
		r->ret = ret;
	piece_free(p);
	if (!--r->pieces)
		req_pieces_done(req);
}

/* What can be said about a request before anything is looked up. */
#define REQ_FLAGS (TAPIMG_REQ_FUA | TAPIMG_REQ_MAY_UNMAP | TAPIMG_REQ_NO_FALLBACK | \
		   TAPIMG_REQ_REGISTERED | REQ_EXPLICIT | REQ_REMAPPED)

static int req_check(const struct tapimg *img, const struct tapimg_req *req)
{
	uint64_t sum = 0;
	int i;

	if ((unsigned)req->op > TAPIMG_WRITE_COMPRESSED || req->flags & ~REQ_FLAGS)
		return -EINVAL;
	if (req->op == TAPIMG_FLUSH)
		return 0;
	if (!checked_range(req->off, req->len, img->size))
		return -EINVAL;
	if (req->op != TAPIMG_READ && !img->writable)
		return img->failed ? img->failed : -EROFS;
	if (req->op == TAPIMG_ZERO || req->op == TAPIMG_DISCARD)
		return 0;
	for (i = 0; i < req->iovcnt; i++)
		if (!checked_add(sum, req->iov[i].iov_len, &sum))
			return -EINVAL;
	return sum == req->len ? 0 : -EINVAL;
}

static void req_start(struct tapimg *img, struct tapimg_req *req)
{
	struct req_priv *r = req_priv(req);
	struct piece *p;

	r->ret = req_check(img, req);
	if (r->ret || (!req->len && req->op != TAPIMG_FLUSH)) {
		req_finish(req);
		return;
	}
	if (req->op == TAPIMG_FLUSH) {
		if (img->flags & TAPIMG_RDWR && !(img->flags & TAPIMG_UNSAFE))
			req_sync(req);
		else
			req_finish(req);
		return;
	}
	p = piece_alloc(img, req);
	if (!p) {
		r->ret = -ENOMEM;
		req_finish(req);
		return;
	}
	r->pieces = 1;
	if (img->meta && img->writable) {	/* E3 */
		r->user_held = true;
		meta_enter(img->meta, &r->user);
	}
	if (req->op != TAPIMG_READ && img->fmt->dirtied)
		img->fmt->dirtied(img, req->off, req->len);
	if (req->op == TAPIMG_WRITE_COMPRESSED)
		coded_write_start(p);
	else
		piece_step(p);
}

void tapimg_submit(struct tapimg *img, struct tapimg_req *req)
{
	struct engine *e = &img->eng;
	struct req_priv *r = req_priv(req);

	list_init(&r->task.node);
	r->img = img;
	r->pieces = 0;
	r->user_held = r->synced = false;
	e->inflight++;
	e->submitting++;
	req_start(img, req);
	if (!list_empty(&e->runq))
		engine_pump(img);
	e->submitting--;
}

/* ------------------------------------------------------------------- reading */

static void read_done(struct io *io)
{
	piece_done(container_of(io, struct piece, io), io->ret);
}

static void read_step(struct piece *p)
{
	struct tapimg *img = p->img;
	const struct iovec *iov;
	struct piece *rest;
	int ret;

	meta_op_begin(img->meta);
	ret = chain_map(img, p->off, p->len, 0, 0, &p->ext);
	if (ret == -EAGAIN) {
		piece_park(p, img->loop);
		return;
	}
	meta_op_done(img->meta);
	if (ret)
		goto out;
	if (p->ext.len < p->len) {
		rest = piece_split(p, p->ext.len);
		if (!rest) {
			ret = -ENOMEM;
			goto out;
		}
		piece_ready(rest);
	}
	switch (p->ext.type) {
	case EXT_DATA:
		if (p->ext.layer->crypt) {
			cipher_read(p);
			return;
		}
		ret = piece_buffers(p, &iov);
		if (ret < 0)
			goto out;
		piece_io(p, IO_READ, p->ext.file, p->ext.host, p->len, iov, ret, read_done);
		return;
	case EXT_CODED:
		coded_read(p);
		return;
	case EXT_LOST:
		ret = -EIO;
		goto out;
	default:
		piece_copy_out(p, NULL);
		ret = 0;
	}
out:
	piece_done(p, ret);
}

void piece_step(struct piece *p)
{
	if (p->state == PS_CODED_READ)
		coded_read(p);
	else if (p->op == TAPIMG_READ)
		read_step(p);
	else if (p->op == TAPIMG_WRITE_COMPRESSED)
		coded_write_step(p);
	else
		write_step(p);
}

/* -------------------------------------------------------------- life of one */

int engine_init(struct tapimg *img)
{
	struct engine *e = &img->eng;

	list_init(&e->runq);
	list_init(&e->locked);
	list_init(&e->unit_wait);
	list_init(&e->slow);
	list_init(&e->coded);
	list_init(&e->free);
	e->max_slow = 64;
	if (img->meta) {
		/* so many operations can gather all they need at the same time */
		unsigned each = 8 + img->cluster / img->meta->bsize;

		e->max_slow = MAX(1U, MIN(64U, img->meta->maxblk / each));
	}
	if (img->fmt->reserve || img->fmt->unmap) {
		e->zeroes = loop_zeroes(img->loop);
		if (!e->zeroes)
			return -ENOMEM;
	}
	return coded_init(img);
}

void engine_exit(struct tapimg *img)
{
	struct engine *e = &img->eng;
	struct list *n;

	if (!e->free.next)
		return;		/* never initialised */
	assert(!e->inflight);
	while ((n = list_pop(&e->free)))
		free(list_entry(n, struct piece, node));
	coded_exit(img);
	chain_forget(img);
}

void engine_drain(struct tapimg *img)
{
	while (img->eng.inflight && tapimg_loop_run(img->loop, true) >= 0)
		;
}
