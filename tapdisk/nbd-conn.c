/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-conn.c - a connection: bytes in, bytes out, how much may be in flight, its end
 *
 * In.  Many small requests come with one recv().  The payload of a large write is received
 * straight into the buffer it is written from, and the same call takes in the requests behind it.
 * A connection stops reading when it has as many requests or bytes in flight as it may; and after
 * each NBD_BURST of reads, until the end of the turn, so that buffers are sent and used again while
 * they are in the processor's cache.
 *
 * Out.  Whatever has been answered in a turn goes out with one sendmsg() at its end.  Then a busy
 * connection may be left alone for a while (nbd-pace.c), so that the next turn has more to do.
 *
 * The descriptor is watched edge-triggered: what may still be there to read is in c->readable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "log.h"
#include "nbd.h"
#include "tls.h"

#define SEND_IOVS 256
#define SEND_BYTES (2 * MiB)		/* in one call */
#define READ_ROUNDS 32			/* calls, before others have their turn */
#define GRACE_NS 5000000000ULL		/* for a peer to take its last replies */

static const uint32_t watched = EPOLLIN | EPOLLRDHUP | EPOLLET;

/* ------------------------------------------------------------------ its end */

static bool all_sent(const struct nbd_conn *c)
{
	return !c->first && c->out_sent == c->out_len;
}

static void conn_free(struct nbd_conn *c)
{
	struct nbd_front *f = c->front;

	loop_timer_cancel(&c->deadline);
	nbd_pace_stop(c);
	if (c->fd >= 0)
		loop_unwatch(c->loop, &c->watch);
	c->io->close(c);
	if (c->disk)
		disk_detach(&c->user);
	nbd_meta_clear(c);
	nbd_pool_put(&f->pool, c->rx, NBD_RX);
	free(c->out);
	list_del(&c->starving);
	list_del(&c->node);
	free(c);
	nbd_front_conn_gone(f);
}

void nbd_conn_put(struct nbd_conn *c)
{
	if (c->busy || c->tasked || c->flushing || c->running)
		return;		/* N4 */
	if (c->dead || (c->ended && !c->nreqs && all_sent(c)))
		conn_free(c);
}

static void drop_want(struct nbd_conn *c)
{
	if (c->want)
		nbd_req_free(c->want);
	if (c->late)
		nbd_req_free(c->late);
	c->want = c->late = NULL;
	c->skip = 0;
}

void nbd_conn_end(struct nbd_conn *c)
{
	c->ended = true;
	drop_want(c);
}

void nbd_conn_kill(struct nbd_conn *c)
{
	struct nbd_req *r;

	if (c->dead)
		return;
	nbd_conn_end(c);
	c->dead = true;
	while ((r = c->first)) {
		c->first = r->next;
		nbd_req_free(r);
	}
	c->last = &c->first;
	nbd_status_resume(c);		/* those that waited see that it is over */
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
}

static void deadline_over(struct task *t)
{
	struct nbd_conn *c = container_of(t, struct nbd_conn, deadline.task);

	if (c->state != NBD_TRANSMIT) {
		log_info("nbd: %s: the handshake takes too long", c->peer);
		c->front->handshakes_failed++;
	}
	nbd_conn_kill(c);
	nbd_conn_put(c);
}

static void arm_deadline(struct nbd_conn *c, uint64_t ns)
{
	loop_timer_cancel(&c->deadline);
	c->deadline.task.fn = deadline_over;
	loop_timer_arm(c->loop, &c->deadline, loop_now(c->loop) + ns);
}

void nbd_conn_shutdown(struct nbd_conn *c)
{
	if (c->shutdown)
		return;
	c->shutdown = true;
	arm_deadline(c, GRACE_NS);
	c->readable |= c->deaf;
	if (c->state == NBD_TRANSMIT)
		nbd_conn_run(c);	/* what has arrived is answered with ESHUTDOWN */
	nbd_status_resume(c);
	nbd_conn_end(c);
}

/* ------------------------------------------------------------------ out */

static void watch_anew(struct nbd_conn *c)
{
	if (c->fd >= 0)
		loop_watch_events(c->loop, &c->watch, (c->deaf ? watched & ~EPOLLIN : watched) |
						      (c->blocked ? EPOLLOUT : 0));
}

static void conn_blocked(struct nbd_conn *c, bool blocked)
{
	if (c->blocked == blocked)
		return;
	c->blocked = blocked;
	watch_anew(c);
}

/* Changing an edge-triggered watch tells of what is there already. */
void nbd_conn_watch(struct nbd_conn *c, bool input)
{
	if (c->deaf == !input)
		return;
	c->deaf = !input;
	watch_anew(c);
}

static void iov_rest(struct iovec *iov, const void *p, uint64_t len, uint64_t *skip)
{
	uint64_t cut = MIN(*skip, len);

	iov->iov_base = (uint8_t *)p + cut;
	iov->iov_len = len - cut;
	*skip -= cut;
}

static int gather(struct nbd_conn *c, struct iovec *iov)
{
	uint64_t skip = c->sent, total = 0;
	int n = 0;

	if (c->out_sent < c->out_len) {
		iov[n].iov_base = c->out + c->out_sent;
		iov[n].iov_len = c->out_len - c->out_sent;
		n++;
	}
	for (struct nbd_req *r = c->first; r && n + 2 <= SEND_IOVS && total < SEND_BYTES;
	     r = r->next) {
		iov_rest(&iov[n], r->hdr, r->hdr_len, &skip);
		n += iov[n].iov_len != 0;
		iov_rest(&iov[n], r->payload, r->payload_len, &skip);
		n += iov[n].iov_len != 0;
		total += r->payload_len;
	}
	return n;
}

static void sent_bytes(struct nbd_conn *c, uint64_t n)
{
	uint64_t hello = MIN(n, (uint64_t)(c->out_len - c->out_sent));
	struct nbd_req *r;

	c->out_sent += hello;
	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;
	c->sent += n - hello;
	while ((r = c->first) && c->sent >= r->hdr_len + r->payload_len) {
		c->sent -= r->hdr_len + r->payload_len;
		c->first = r->next;
		if (!c->first)
			c->last = &c->first;
		nbd_req_free(r);
	}
}

/* The answer to STARTTLS has gone out in clear: from here on nothing is. */
static void begin_tls(struct nbd_conn *c)
{
	struct tapimg_err err;

	c->tls_next = false;
	if (c->rpos != c->rend || tls_new(c->front->tls, c->fd, NULL, &c->tls, &err)) {
		nbd_conn_kill(c);
		return;
	}
	c->io = &nbd_io_tls;
	c->structured = c->extended = false;
	nbd_meta_clear(c);
	c->readable = true;
}

static void conn_write(struct nbd_conn *c)
{
	struct iovec iov[SEND_IOVS];

	while (!c->blocked && !c->dead && !all_sent(c)) {
		ssize_t res = c->io->send(c, iov, gather(c, iov));

		if (res == -EAGAIN)
			conn_blocked(c, true);
		else if (res < 0)
			nbd_conn_kill(c);
		else
			sent_bytes(c, res);
	}
	if (c->tls_next && all_sent(c) && !c->dead)
		begin_tls(c);
	if (c->state == NBD_TRANSMIT && !c->out_len && c->out) {
		free(c->out);
		c->out = NULL;
		c->out_cap = 0;
	}
}

static bool may_go_on(struct nbd_conn *c);

static void flush_task(struct task *t)
{
	struct nbd_conn *c = container_of(t, struct nbd_conn, flush);

	c->flushing = false;
	c->busy++;
	c->burst = 0;
	conn_write(c);
	if (!c->ended && (c->readable || c->rpos < c->rend) && may_go_on(c))
		nbd_conn_kick(c);
	nbd_pace_turn(c);
	c->busy--;
	nbd_conn_put(c);
}

static void queue_flush(struct nbd_conn *c)
{
	if (c->flushing)
		return;
	c->flushing = true;
	c->flush.fn = flush_task;
	loop_at_turn_end(c->loop, &c->flush);
}

void nbd_conn_send(struct nbd_conn *c, struct nbd_req *r)
{
	if (c->dead) {
		if (r)
			nbd_req_free(r);
		queue_flush(c);		/* which looks whether it was the last one */
		return;
	}
	if (r) {
		r->next = NULL;
		*c->last = r;
		c->last = &r->next;
	}
	if (!c->blocked)
		queue_flush(c);
}

/* ------------------------------------------------------------------ in */

/* Another request may be taken. */
static bool may_go_on(struct nbd_conn *c)
{
	struct nbd_front *f = c->front;

	if (c->state != NBD_TRANSMIT)
		return !c->tls_next && c->out_len - c->out_sent <= NBD_HELLO_OUT;
	if (c->burst >= NBD_BURST) {
		queue_flush(c);
		return false;
	}
	if (c->nreqs >= f->max_reqs || c->bytes >= f->max_bytes)
		return false;
	/* who has nothing in flight cannot wait for others for ever */
	if (f->bytes >= 4 * f->max_bytes && c->bytes) {
		if (list_empty(&c->starving))
			list_append(&f->hungry, &c->starving);
		return false;
	}
	return true;
}

static void payload_complete(struct nbd_conn *c)
{
	if (c->want && c->got == c->want->len)
		nbd_req_payload_done(c);
}

static void take_payload(struct nbd_conn *c)
{
	uint64_t n = MIN(c->want->len - c->got, (uint64_t)(c->rend - c->rpos));

	memcpy(c->want->buf + c->got, c->rx + c->rpos, n);
	c->rpos += n;
	c->got += n;
	payload_complete(c);
}

static void take_skip(struct nbd_conn *c)
{
	uint64_t n = MIN(c->skip, (uint64_t)(c->rend - c->rpos));

	c->rpos += n;
	c->skip -= n;
	if (!c->skip)
		(c->state == NBD_TRANSMIT ? nbd_req_skipped : nbd_hello_skipped)(c);
}

static void protocol_error(struct nbd_conn *c)
{
	if (c->state == NBD_TRANSMIT) {
		log_info("nbd: %s: does not keep to the protocol: closed", c->peer);
	} else {
		log_debug("nbd: %s: handshake given up", c->peer);
		c->front->handshakes_failed++;
	}
	nbd_conn_kill(c);
}

/* Handles what has been received, as far as it goes. */
static void conn_parse(struct nbd_conn *c)
{
	while (c->rpos < c->rend && !c->ended) {
		int n;

		if (c->skip) {
			take_skip(c);
		} else if (c->want) {
			take_payload(c);
		} else if (!c->shutdown && !may_go_on(c)) {
			return;
		} else {
			n = (c->state == NBD_TRANSMIT ? nbd_req_input : nbd_hello_input)
				(c, c->rx + c->rpos, c->rend - c->rpos);
			if (n < 0)
				protocol_error(c);
			if (n <= 0)
				return;
			c->rpos += n;
		}
	}
}

static bool rx_ready(struct nbd_conn *c)
{
	if (!c->rx) {
		c->rx = nbd_pool_get(&c->front->pool, NBD_RX);
		c->rpos = c->rend = 0;
	}
	if (c->rpos == c->rend)
		c->rpos = c->rend = 0;
	if (c->rpos && c->rx) {
		memmove(c->rx, c->rx + c->rpos, c->rend - c->rpos);
		c->rend -= c->rpos;
		c->rpos = 0;
	}
	return c->rx;
}

static void rx_release(struct nbd_conn *c)
{
	if (!c->rx || c->rpos < c->rend)
		return;
	nbd_pool_put(&c->front->pool, c->rx, NBD_RX);
	c->rx = NULL;
	c->rpos = c->rend = 0;
}

static void got_bytes(struct nbd_conn *c, uint64_t n)
{
	if (c->want) {
		uint64_t mine = MIN(n, c->want->len - c->got);

		c->got += mine;
		n -= mine;
	}
	c->rend += n;
	payload_complete(c);
}

/* One receiving call. False: nothing came. */
static bool conn_fill(struct nbd_conn *c)
{
	struct iovec iov[2];
	uint64_t room = 0;
	ssize_t res;
	int n = 0;

	if (!rx_ready(c)) {
		nbd_conn_kill(c);
		return false;
	}
	if (c->want) {
		iov[n].iov_base = c->want->buf + c->got;
		iov[n++].iov_len = room = c->want->len - c->got;
	}
	iov[n].iov_base = c->rx + c->rend;
	iov[n++].iov_len = NBD_RX - c->rend;
	room += NBD_RX - c->rend;
	res = c->io->recv(c, iov, n);
	if (res > 0) {
		if ((uint64_t)res < room && c->io == &nbd_io_socket && !c->hup)
			c->readable = false;
		got_bytes(c, res);
		return true;
	}
	c->readable = false;
	if (!res)
		nbd_conn_end(c);
	else if (res != -EAGAIN)
		nbd_conn_kill(c);
	else if (c->tls && tls_wants_write(c->tls))
		conn_blocked(c, true);
	return false;
}

void nbd_conn_run(struct nbd_conn *c)
{
	if (c->inside)
		return;		/* who is there goes on */
	c->inside = true;
	c->busy++;
	for (unsigned rounds = 0; !c->ended; rounds++) {
		conn_parse(c);
		if (c->ended || !c->readable || (!c->want && !c->skip && !may_go_on(c)))
			break;
		if (rounds == READ_ROUNDS) {
			nbd_conn_kick(c);
			break;
		}
		if (!conn_fill(c))
			break;
	}
	if (c->ended)
		c->rpos = c->rend;
	rx_release(c);
	c->busy--;
	c->inside = false;
}

static void run_task(struct task *t)
{
	struct nbd_conn *c = container_of(t, struct nbd_conn, task);

	c->tasked = false;
	nbd_conn_run(c);
	nbd_conn_put(c);
}

void nbd_conn_kick(struct nbd_conn *c)
{
	if (c->tasked || c->ended)
		return;
	c->tasked = true;
	c->task.fn = run_task;
	loop_defer(c->loop, &c->task);
}

void nbd_conn_event(struct watch *w, uint32_t events)
{
	struct nbd_conn *c = container_of(w, struct nbd_conn, watch);

	c->busy++;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->hup = true;
	if (c->blocked && events & (EPOLLHUP | EPOLLERR)) {
		nbd_conn_kill(c);
	} else if (c->blocked && events & EPOLLOUT) {
		conn_blocked(c, false);
		c->readable |= c->tls != NULL;
		queue_flush(c);
	}
	nbd_conn_run(c);
	c->busy--;
	nbd_conn_put(c);
}

/* ------------------------------------------------------------------ its beginning */

struct nbd_conn *nbd_conn_new(struct nbd_front *f, int fd, const struct nbd_io *io)
{
	struct nbd_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->front = f;
	c->loop = f->front.server->loop;
	c->io = io;
	c->fd = fd;
	c->last = &c->first;
	nbd_pace_init(&c->pace);
	list_init(&c->held);
	list_init(&c->starving);
	if (fd >= 0) {
		c->watch.fd = fd;
		c->watch.events = watched;
		c->watch.fn = nbd_conn_event;
		if (loop_watch(c->loop, &c->watch) < 0) {
			free(c);
			return NULL;
		}
	}
	list_append(&f->conns, &c->node);
	f->nconns++;
	arm_deadline(c, f->handshake_ns);
	nbd_hello_start(c);
	return c;
}
