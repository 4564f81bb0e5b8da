/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-status.c - block status: what is where, for each context that a client has chosen
 *
 * The image is asked piece by piece without waiting; where metadata has to be read first, the walk
 * parks, like a piece of the engine, and goes on when it is there.  Reads and writes go
 * on meanwhile.  While a walk is under way it holds the disk, so that a pause waits for it; while the
 * disk is paused, walks wait.
 *
 * An answer may be shorter than what was asked about, but never empty: it ends after EXTENTS_MAX
 * extents, or WALK_NS of work, so that one client's question about a large disk does not keep the
 * others waiting.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "endian.h"
#include "image.h"
#include "nbd.h"

#define EXTENTS_MAX 16384
#define WALK_NS 2000000

struct nbd_status {
	struct nbd_req *r;
	struct waiter w;
	struct task task;
	struct list held;		/* c->held, while the disk is paused */
	uint32_t which;			/* contexts still to be answered, the current one included */
	unsigned ctx;			/* the current one */
	uint64_t pos;			/* how far it has got */
	size_t chunk;			/* where its chunk begins in out */
	uint32_t n;			/* its extents so far; the last one is ... */
	uint64_t len, flags;		/* ... this, and not in out yet */
	uint8_t *out;
	size_t size, cap;
};

void nbd_status_free(struct nbd_status *s)
{
	if (!s)
		return;
	free(s->out);
	free(s);
}

/* ------------------------------------------------------------------ the answer */

static uint8_t *out_room(struct nbd_status *s, size_t n)
{
	if (s->size + n > s->cap) {
		size_t cap = MAX(s->cap * 2, s->size + n + 512);
		uint8_t *bigger = realloc(s->out, cap);

		if (!bigger)
			return NULL;
		s->out = bigger;
		s->cap = cap;
	}
	s->size += n;
	return s->out + s->size - n;
}

static size_t chunk_head(const struct nbd_conn *c)
{
	return c->extended ? NBD_EXT_REPLY_LEN + 8 : NBD_STRUCT_REPLY_LEN + 4;
}

static bool chunk_begin(struct nbd_status *s)
{
	s->ctx = __builtin_ctz(s->which);
	s->pos = s->r->off;
	s->chunk = s->size;
	s->n = 0;
	s->len = 0;
	return out_room(s, chunk_head(s->r->conn));
}

/* Writes down the extent that could not grow any more. */
static bool extent_out(struct nbd_status *s)
{
	bool ext = s->r->conn->extended;
	uint8_t *p;

	if (!s->len)
		return true;
	p = out_room(s, ext ? 16 : 8);
	if (!p)
		return false;
	if (ext) {
		put_be64(p, s->len);
		put_be64(p + 8, s->flags);
	} else {
		put_be32(p, s->len);
		put_be32(p + 4, s->flags);
	}
	s->n++;
	s->len = 0;
	return true;
}

static bool chunk_end(struct nbd_status *s)
{
	struct nbd_conn *c = s->r->conn;
	bool last = !(s->which & (s->which - 1));
	size_t head = chunk_head(c);
	uint8_t *p;

	if (!extent_out(s))
		return false;
	p = s->out + s->chunk;
	if (c->extended) {
		nbd_put_chunk(c, p, s->r, last ? NBD_CHUNK_DONE : 0, NBD_CHUNK_BLOCK_STATUS_EXT,
			      8 + 16 * (uint64_t)s->n);
		put_be32(p + head - 8, s->ctx);
		put_be32(p + head - 4, s->n);
	} else {
		nbd_put_chunk(c, p, s->r, last ? NBD_CHUNK_DONE : 0, NBD_CHUNK_BLOCK_STATUS,
			      4 + 8 * (uint64_t)s->n);
		put_be32(p + head - 4, s->ctx);
	}
	s->which &= s->which - 1;
	return true;
}

/* ------------------------------------------------------------------ the questions */

/* The next extent of the current context: 0, -EAGAIN, or another negative errno. */
static int ask(struct nbd_status *s, struct tapimg *img, uint64_t left, uint64_t *len,
	       uint64_t *flags)
{
	const struct nbd_context *x = &s->r->conn->ctx[s->ctx];
	struct tapimg_status st;
	uint64_t off = s->pos, n;
	int ret;

	*len = left;
	*flags = x->kind == NBD_CTX_DEPTH;
	if (!img)
		return x->kind == NBD_CTX_BITMAP ? -EIO : 0;	/* ram, null: all data */
	if (x->kind == NBD_CTX_BITMAP) {
		ret = image_bitmap_next(img, x->bitmap, &off, &n, NULL);
		if (ret)
			return -EIO;	/* gone with another image: "clean" would be a lie */
		*flags = n && off == s->pos;
		if (n)
			*len = MIN(left, *flags ? n : off - s->pos);
		return 0;
	}
	ret = status_try(img, s->pos, left, 0, &st);
	if (ret)
		return ret;
	if (!st.len)
		return -EIO;		/* the disk has become smaller */
	*len = st.len;
	if (x->kind == NBD_CTX_DEPTH)
		/* where a layer ends, it is that layer which says zero, not "nobody" */
		*flags = st.flags & (TAPIMG_ST_ALLOCATED | TAPIMG_ST_EOF) ? st.depth + 1 : 0;
	else
		*flags = (st.flags & TAPIMG_ST_DATA ? 0 : NBD_STATE_HOLE) |
			 (st.flags & TAPIMG_ST_ZERO ? NBD_STATE_ZERO : 0);
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* One context, from s->pos on: 0, -EAGAIN or a negative errno. */
static int walk(struct nbd_status *s, struct tapimg *img)
{
	uint64_t end = s->r->off + s->r->len, start = now_ns();
	bool one = s->r->flags & NBD_CMD_FLAG_REQ_ONE;

	for (unsigned steps = 0; s->pos < end; steps++) {
		uint64_t len, flags;
		int ret = ask(s, img, end - s->pos, &len, &flags);

		if (ret)
			return ret;
		if (s->len && flags != s->flags) {
			if (one || s->n + 1 >= EXTENTS_MAX)
				break;
			if (!extent_out(s))
				return -ENOMEM;
		}
		s->flags = flags;
		s->len += len;
		s->pos += len;
		if (steps % 16 == 15 && now_ns() - start > WALK_NS)
			break;
	}
	return 0;
}

static void status_end(struct nbd_status *s, int ret)
{
	struct nbd_req *r = s->r;

	if (ret) {
		nbd_reply(r, ret);
		return;
	}
	r->hdr_len = 0;			/* the chunks bring their own */
	r->payload = s->out;
	r->payload_len = s->size;
	nbd_conn_send(r->conn, r);
}

static void status_wake(struct waiter *w);

/* 0: done, -EAGAIN: parked. */
static int status_step(struct nbd_status *s)
{
	struct nbd_conn *c = s->r->conn;
	struct tapimg *img = disk_image(c->disk);

	while (s->which) {
		int ret = walk(s, img);

		if (ret == -EAGAIN) {
			s->w.wake = status_wake;
			loop_park(c->loop, &s->w);
		}
		if (ret)
			return ret;
		if (!chunk_end(s) || (s->which && !chunk_begin(s)))
			return -ENOMEM;
	}
	return 0;
}

static void status_go(struct nbd_status *s)
{
	struct nbd_conn *c = s->r->conn;
	int ret;

	if (c->dead || c->shutdown) {
		status_end(s, -ESHUTDOWN);
		return;
	}
	if (!disk_hold(c->disk)) {
		list_append(&c->held, &s->held);
		return;
	}
	c->running++;
	ret = status_step(s);
	if (ret == -EAGAIN)
		return;
	c->running--;
	disk_unhold(c->disk);
	status_end(s, ret);
}

/* What it waited for is there, or could not be read. */
static void status_again(struct task *t)
{
	struct nbd_status *s = container_of(t, struct nbd_status, task);
	struct nbd_conn *c = s->r->conn;
	int ret = s->w.ret;

	if (!ret && !c->dead)
		ret = status_step(s);
	if (ret == -EAGAIN)
		return;
	c->running--;
	disk_unhold(c->disk);
	status_end(s, ret);
}

static void status_wake(struct waiter *w)
{
	struct nbd_status *s = container_of(w, struct nbd_status, w);

	s->task.fn = status_again;
	loop_defer(s->r->conn->loop, &s->task);
}

void nbd_status_resume(struct nbd_conn *c)
{
	struct list mine, *n;

	list_init(&mine);
	list_splice(&mine, &c->held);
	while ((n = list_pop(&mine)))
		status_go(list_entry(n, struct nbd_status, held));
}

void nbd_status_start(struct nbd_req *r, uint32_t which)
{
	struct nbd_status *s = calloc(1, sizeof(*s));

	r->status = s;
	if (s) {
		s->r = r;
		s->which = which;
		list_init(&s->held);
	}
	if (!s || !chunk_begin(s))
		nbd_reply(r, -ENOMEM);
	else
		status_go(s);
}
