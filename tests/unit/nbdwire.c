/* SPDX-License-Identifier: BSD-2-Clause */
/* nbdwire.c - see nbdwire.h */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "nbdwire.h"

/* Powers of two: a long conversation is not copied with each answer. */
static size_t room(size_t len)
{
	size_t n = 256;

	while (n <= len)
		n *= 2;
	return n;
}

static void grow(uint8_t **buf, size_t have, size_t more)
{
	if (*buf && room(have) == room(have + more))
		return;
	*buf = realloc(*buf, room(have + more));
	if (!*buf)
		abort();
}

/* ------------------------------------------------------------------ the wire */

static ssize_t wire_recv(struct nbd_conn *c, const struct iovec *iov, int n)
{
	struct wire *w = c->io_arg;
	size_t left = w->in_len - w->in_pos, done = 0;

	if (!left)
		return w->eof ? 0 : -EAGAIN;
	if (w->chunk)
		left = MIN(left, w->chunk);
	for (int i = 0; i < n && left; i++) {
		size_t here = MIN(left, iov[i].iov_len);

		memcpy(iov[i].iov_base, w->in + w->in_pos, here);
		w->in_pos += here;
		left -= here;
		done += here;
	}
	return done;
}

static ssize_t wire_send(struct nbd_conn *c, const struct iovec *iov, int n)
{
	struct wire *w = c->io_arg;
	size_t done = 0;

	if (w->gone)
		return -EPIPE;
	for (int i = 0; i < n; i++) {
		size_t here = MIN(iov[i].iov_len, w->window);

		if (w->chunk && done + here > w->chunk)
			here = w->chunk - done;
		grow(&w->out, w->out_len, here);
		memcpy(w->out + w->out_len, iov[i].iov_base, here);
		w->out_len += here;
		w->window -= here;
		done += here;
	}
	return done ? (ssize_t)done : -EAGAIN;
}

static void wire_closed(struct nbd_conn *c)
{
	((struct wire *)c->io_arg)->c = NULL;
}

static const struct nbd_io wire_io = { wire_recv, wire_send, wire_closed };

/* ------------------------------------------------------------------ server and client */

struct nbd_front *wire_front(struct server *s, const char *opts, struct tapimg_err *err)
{
	struct front *f = NULL;
	char text[500];

	snprintf(text, sizeof(text), "socket=wire.sock%s%s", opts ? "," : "", opts ? opts : "");
	if (server_front(s, "nbd", text, &f, err))
		return NULL;
	return container_of(f, struct nbd_front, front);
}

void wire_front_stop(struct nbd_front *f)
{
	struct server *s = f->front.server;

	f->front.kind->stop(&f->front);
	while (!list_empty(&s->fronts))
		if (tapimg_loop_run(s->loop, true) < 0)
			abort();
}

struct wire *wire_open(struct nbd_front *f)
{
	struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		abort();
	w->front = f;
	w->window = SIZE_MAX;
	w->c = nbd_conn_new(f, -1, &wire_io);
	if (!w->c)
		abort();
	w->c->io_arg = w;
	snprintf(w->c->peer, sizeof(w->c->peer), "test");
	return w;
}

static bool busy(const struct wire *w)
{
	const struct nbd_conn *c = w->c;

	return c && (c->running || c->tasked || c->flushing);
}

static void wake(struct wire *w)
{
	if (w->c) {
		w->c->readable = true;
		if (w->c->blocked && w->window) {
			w->c->blocked = false;
			nbd_conn_send(w->c, NULL);
		}
		nbd_conn_kick(w->c);
	}
}

void wire_step(struct wire *w)
{
	wake(w);
	while (tapimg_loop_run(w->front->front.server->loop, false) > 0)
		;
}

void wire_run(struct wire *w)
{
	struct tapimg_loop *loop = w->front->front.server->loop;

	wake(w);
	while (tapimg_loop_run(loop, busy(w)) > 0 || busy(w))
		;
}

void wire_put(struct wire *w, const void *p, size_t n)
{
	wire_bytes(w, p, n);
	wire_run(w);
}

void wire_close(struct wire *w)
{
	w->eof = w->gone = true;
	wire_run(w);
	if (w->c) {
		/* what a socket would tell by EPOLLHUP */
		w->c->busy++;
		nbd_conn_kill(w->c);
		w->c->busy--;
		nbd_conn_put(w->c);
		wire_run(w);
	}
	if (w->c)
		abort();
	free(w->in);
	free(w->out);
	free(w);
}

/* ------------------------------------------------------------------ what clients say */

void wire_bytes(struct wire *w, const void *p, size_t n)
{
	grow(&w->in, w->in_len, n);
	if (n)
		memcpy(w->in + w->in_len, p, n);
	w->in_len += n;
}

void wire_be16(struct wire *w, uint16_t v)
{
	uint8_t b[2];

	put_be16(b, v);
	wire_bytes(w, b, 2);
}

void wire_be32(struct wire *w, uint32_t v)
{
	uint8_t b[4];

	put_be32(b, v);
	wire_bytes(w, b, 4);
}

void wire_be64(struct wire *w, uint64_t v)
{
	uint8_t b[8];

	put_be64(b, v);
	wire_bytes(w, b, 8);
}

void wire_flags(struct wire *w, uint32_t flags)
{
	wire_be32(w, flags);
}

void wire_option(struct wire *w, uint32_t opt, const void *p, uint32_t n)
{
	wire_be64(w, NBD_OPT_MAGIC);
	wire_be32(w, opt);
	wire_be32(w, n);
	wire_bytes(w, p, n);
}

void wire_request(struct wire *w, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint64_t len)
{
	bool ext = w->c && w->c->extended;

	wire_be32(w, ext ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	wire_be16(w, flags);
	wire_be16(w, type);
	wire_be64(w, cookie);
	wire_be64(w, off);
	if (ext)
		wire_be64(w, len);
	else
		wire_be32(w, (uint32_t)len);
}
