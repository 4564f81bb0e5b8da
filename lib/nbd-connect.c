/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-connect.c - connecting to an NBD server and agreeing with it
 *
 * Written as blocking code, but what blocks is the caller: while it waits for the server the loop
 * runs, so that everything else goes on.  Asked for, in this order: TLS if the name says so, extended
 * headers or else structured replies, base:allocation, and the export with its block sizes.  A server
 * that knows none of that is served with what is left; one that has no TLS where it was
 * asked for is not talked to.
 *
 * Left out: the protocol's old style without options.
 */
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "checked.h"
#include "endian.h"
#include "nbd-client.h"

#define PATIENCE_NS 30000000000ULL	/* for each answer */
#define REPLY_MAX (64 * KiB)		/* of an option's reply */
#define REPLIES_MAX 1000		/* to one option */
#define SOCKET_BUFFER (1 << 20)

struct dial {
	struct nbd_link *l;
	const char *name;
	struct tapimg_err *err;
	struct watch watch;
	struct timer timer;
	bool woken, late;
	uint8_t *reply;		/* data of the last option reply */
	uint32_t reply_len;
};

/* ------------------------------------------------------------------ waiting */

static void dial_ready(struct watch *w, uint32_t events)
{
	container_of(w, struct dial, watch)->woken = true;
}

static void dial_late(struct task *t)
{
	struct dial *d = container_of(t, struct dial, timer.task);

	d->woken = d->late = true;
}

static int dial_wait(struct dial *d, uint32_t events)
{
	struct tapimg_loop *loop = d->l->loop;
	int ret;

	d->woken = d->late = false;
	d->watch.fd = d->l->fd;
	d->watch.events = events;
	d->watch.fn = dial_ready;
	d->timer.task.fn = dial_late;
	ret = loop_watch(loop, &d->watch);
	if (ret < 0)
		return ret;
	loop_timer_arm(loop, &d->timer, loop_now(loop) + PATIENCE_NS);
	ret = loop_until(loop, &d->woken);
	loop_timer_cancel(&d->timer);
	loop_unwatch(loop, &d->watch);
	return ret < 0 ? ret : d->late ? -ETIMEDOUT : 0;
}

/* ------------------------------------------------------------------ bytes */

ssize_t nbd_link_recv(struct nbd_link *l, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t res;

	if (l->tls)
		return tls_recv(l->tls, iov[0].iov_base, iov[0].iov_len);
	do
		res = recvmsg(l->fd, &m, MSG_DONTWAIT);
	while (res < 0 && errno == EINTR);
	return res < 0 ? -errno : res;
}

ssize_t nbd_link_send(struct nbd_link *l, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t res;

	if (l->tls)
		return tls_sendv(l->tls, iov, n);
	do
		res = sendmsg(l->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (res < 0 && errno == EINTR);
	return res < 0 ? -errno : res;
}

static int dial_move(struct dial *d, bool out, void *buf, size_t len)
{
	while (len) {
		struct iovec iov = { buf, len };
		ssize_t res = out ? nbd_link_send(d->l, &iov, 1) : nbd_link_recv(d->l, &iov, 1);
		int ret;

		if (res > 0) {
			buf = (uint8_t *)buf + res;
			len -= res;
			continue;
		}
		if (res == -EAGAIN) {
			bool writes = d->l->tls && !out ? tls_wants_write(d->l->tls) : out;

			ret = dial_wait(d, writes ? EPOLLOUT : EPOLLIN);
			if (!ret)
				continue;
			if (ret == -ETIMEDOUT)
				return err_set(d->err, ret, "%s: the server does not answer", d->name);
			return err_errno(d->err, ret, "%s", d->name);
		}
		if (d->l->tls && res == -EIO)
			return err_set(d->err, -EIO, "%s: %s", d->name, tls_error(d->l->tls));
		if (!res)
			return err_set(d->err, -ECONNRESET, "%s: the server has closed the connection",
				       d->name);
		return err_errno(d->err, (int)res, "%s", d->name);
	}
	return 0;
}

static int dial_recv(struct dial *d, void *buf, size_t len)
{
	return dial_move(d, false, buf, len);
}

static int dial_send(struct dial *d, const void *buf, size_t len)
{
	return dial_move(d, true, (void *)buf, len);
}

/* ------------------------------------------------------------------ sockets */

static int dial_connect(struct dial *d, const struct sockaddr *addr, socklen_t addr_len)
{
	const int one = 1, size = SOCKET_BUFFER;
	socklen_t len = sizeof(int);
	int ret = 0;

	d->l->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->l->fd < 0)
		return -errno;
	if (connect(d->l->fd, addr, addr_len) < 0)
		ret = -errno;
	if (ret == -EINPROGRESS) {
		ret = dial_wait(d, EPOLLOUT);
		if (!ret && !getsockopt(d->l->fd, SOL_SOCKET, SO_ERROR, &ret, &len))
			ret = -ret;
	}
	if (ret) {
		close(d->l->fd);
		d->l->fd = -1;
		return ret;
	}
	setsockopt(d->l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(d->l->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(d->l->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return 0;
}

static int dial_unix(struct dial *d, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	return dial_connect(d, (struct sockaddr *)&addr, sizeof(addr));
}

static int dial_tcp(struct dial *d, const struct nbd_uri *u)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL;
	int ret = getaddrinfo(u->host, u->port, &hints, &list);

	if (ret)
		return err_set(d->err, -EHOSTUNREACH, "%s: %s:%s: %s", d->name, u->host, u->port,
			       gai_strerror(ret));
	ret = -EHOSTUNREACH;
	for (struct addrinfo *a = list; a && d->l->fd < 0; a = a->ai_next)
		ret = dial_connect(d, a->ai_addr, a->ai_addrlen);
	freeaddrinfo(list);
	return ret ? err_errno(d->err, ret, "%s: connecting to %s:%s", d->name, u->host, u->port) : 0;
}

static int dial_socket(struct dial *d, const struct nbd_uri *u)
{
	int ret;

	if (!u->socket)
		return dial_tcp(d, u);
	ret = dial_unix(d, u->socket);
	return ret ? err_errno(d->err, ret, "%s: connecting to %s", d->name, u->socket) : 0;
}

/* ------------------------------------------------------------------ options */

static int bad_server(struct dial *d, const char *what)
{
	return err_set(d->err, -EPROTO, "%s: not a usable NBD server: %s", d->name, what);
}

static int option_send(struct dial *d, uint32_t opt, const void *data, uint32_t len)
{
	uint8_t h[NBD_OPT_HEADER];
	int ret;

	put_be64(h, NBD_OPT_MAGIC);
	put_be32(h + 8, opt);
	put_be32(h + 12, len);
	ret = dial_send(d, h, sizeof(h));
	return ret ? ret : dial_send(d, data, len);
}

/* One reply; its data is in d->reply. */
static int option_reply(struct dial *d, uint32_t opt, uint32_t *type)
{
	uint8_t h[NBD_OPT_REPLY_HEADER];
	int ret = dial_recv(d, h, sizeof(h));

	if (ret)
		return ret;
	if (get_be64(h) != NBD_OPT_REPLY_MAGIC || get_be32(h + 8) != opt)
		return bad_server(d, "its reply belongs to no option");
	*type = get_be32(h + 12);
	d->reply_len = get_be32(h + 16);
	if (d->reply_len > REPLY_MAX)
		return bad_server(d, "its reply is too long");
	d->reply[d->reply_len] = 0;
	return dial_recv(d, d->reply, d->reply_len);
}

/* An option with nothing but yes or no for an answer: 1 or 0, or a negative errno. */
static int option_ask(struct dial *d, uint32_t opt)
{
	uint32_t type = 0;
	int ret = option_send(d, opt, NULL, 0);

	if (!ret)
		ret = option_reply(d, opt, &type);
	return ret ? ret : type == NBD_REP_ACK;
}

static int option_tls(struct dial *d, const struct nbd_uri *u)
{
	struct tls_params p = {
		.certs = u->certs, .psk_file = u->psk_file, .psk_user = u->user,
		.verify = u->verify && !u->psk_file,
	};
	const char *host = u->tls_host ? u->tls_host : u->host ? u->host : "localhost";
	int ret = tls_ctx_new(&p, &d->l->tls_ctx, d->err);

	if (ret)
		return err_prefix(d->err, ret, "%s", d->name);
	ret = option_ask(d, NBD_OPT_STARTTLS);
	if (ret < 0)
		return ret;
	if (!ret)
		return err_set(d->err, -ENOTSUP, "%s: the server does not do TLS%s%.200s", d->name,
			       d->reply_len ? ": " : "", (char *)d->reply);
	ret = tls_new(d->l->tls_ctx, d->l->fd, p.verify ? host : NULL, &d->l->tls, d->err);
	return ret ? err_prefix(d->err, ret, "%s", d->name) : 0;
}

static int option_context(struct dial *d, const char *export)
{
	static const char query[] = "base:allocation";
	uint32_t n = strlen(export), type = 0;
	uint8_t data[4 + NBD_STRING_MAX + 8 + sizeof(query)];
	int ret;

	put_be32(data, n);
	memcpy(data + 4, export, n);
	put_be32(data + 4 + n, 1);
	put_be32(data + 8 + n, strlen(query));
	memcpy(data + 12 + n, query, strlen(query));
	ret = option_send(d, NBD_OPT_SET_META_CONTEXT, data, 12 + n + strlen(query));
	for (unsigned i = 0; !ret && i < REPLIES_MAX; i++) {
		ret = option_reply(d, NBD_OPT_SET_META_CONTEXT, &type);
		if (ret || type != NBD_REP_META_CONTEXT)
			break;
		if (d->reply_len == 4 + strlen(query) &&
		    !memcmp(d->reply + 4, query, strlen(query))) {
			d->l->has_context = true;
			d->l->context = get_be32(d->reply);
		}
	}
	if (type != NBD_REP_ACK)
		d->l->has_context = false;
	return ret;
}

static int take_info(struct dial *d, bool *have_export)
{
	uint16_t type = d->reply_len >= 2 ? get_be16(d->reply) : UINT16_MAX;
	struct nbd_link *l = d->l;

	if (type == NBD_INFO_EXPORT) {
		if (d->reply_len != 12)
			return bad_server(d, "its description of the export has a wrong length");
		l->size = get_be64(d->reply + 2);
		l->flags = get_be16(d->reply + 10);
		*have_export = true;
	} else if (type == NBD_INFO_BLOCK_SIZE) {
		if (d->reply_len != 14)
			return bad_server(d, "its block sizes have a wrong length");
		l->min_block = get_be32(d->reply + 2);
		l->max_payload = get_be32(d->reply + 10);
		if (!is_pow2(l->min_block) || l->min_block > 64 * KiB ||
		    l->max_payload < MAX(l->min_block, 512U))
			return bad_server(d, "its block sizes are impossible");
	}
	return 0;
}

static int go_refused(struct dial *d, uint32_t type, const char *export)
{
	const char *why = (const char *)d->reply;

	if (type == NBD_REP_ERR_UNKNOWN)
		return err_set(d->err, -ENOENT, "%s: the server has no export '%s'", d->name, export);
	if (type == NBD_REP_ERR_TLS_REQD)
		return err_set(d->err, -EACCES, "%s: the server wants TLS (nbds: instead of nbd:)", d->name);
	return err_set(d->err, -EACCES, "%s: the server refuses (error %u)%s%.200s", d->name,
		       type & ~NBD_REP_ERROR, d->reply_len ? ": " : "", why);
}

/* 1: transmission; 0: the server does not know the option; or a negative errno. */
static int option_go(struct dial *d, const char *export)
{
	uint32_t n = strlen(export), type = 0;
	uint8_t data[4 + NBD_STRING_MAX + 4];
	bool have_export = false;
	int ret;

	put_be32(data, n);
	memcpy(data + 4, export, n);
	put_be16(data + 4 + n, 1);
	put_be16(data + 6 + n, NBD_INFO_BLOCK_SIZE);
	ret = option_send(d, NBD_OPT_GO, data, 8 + n);
	for (unsigned i = 0; !ret && i < REPLIES_MAX; i++) {
		ret = option_reply(d, NBD_OPT_GO, &type);
		if (ret || type != NBD_REP_INFO)
			break;
		ret = take_info(d, &have_export);
	}
	if (ret)
		return ret;
	if (type == NBD_REP_ERR_UNSUP)
		return 0;
	if (type != NBD_REP_ACK)
		return go_refused(d, type, export);
	return have_export ? 1 : bad_server(d, "it does not describe the export");
}

static int option_export_name(struct dial *d, const char *export, bool no_zeroes)
{
	uint8_t h[10 + 124];
	int ret = option_send(d, NBD_OPT_EXPORT_NAME, export, strlen(export));

	if (!ret)
		ret = dial_recv(d, h, no_zeroes ? 10 : sizeof(h));
	if (ret == -ECONNRESET)
		return err_set(d->err, -ENOENT, "%s: the server refuses export '%s'", d->name, export);
	if (ret)
		return ret;
	d->l->size = get_be64(h);
	d->l->flags = get_be16(h + 8);
	return 0;
}

static int agree(struct dial *d, const struct nbd_uri *u, bool no_zeroes)
{
	struct nbd_link *l = d->l;
	int ret = u->tls ? option_tls(d, u) : 0;

	if (ret)
		return ret;
	ret = option_ask(d, NBD_OPT_EXTENDED_HEADERS);
	l->extended = ret > 0;
	if (!ret) {
		ret = option_ask(d, NBD_OPT_STRUCTURED_REPLY);
		l->structured = ret > 0;
	}
	if (ret > 0)
		ret = option_context(d, u->export);
	if (ret >= 0)
		ret = option_go(d, u->export);
	if (!ret)
		return option_export_name(d, u->export, no_zeroes);
	return MIN(ret, 0);
}

static int handshake(struct dial *d, const struct nbd_uri *u)
{
	uint8_t h[18], flags[4];
	uint16_t offered;
	bool no_zeroes;
	int ret = dial_recv(d, h, sizeof(h));

	if (ret)
		return ret;
	if (get_be64(h) != NBD_MAGIC || get_be64(h + 8) != NBD_OPT_MAGIC)
		return bad_server(d, "its greeting is another one");
	offered = get_be16(h + 16);
	if (!(offered & NBD_FLAG_FIXED_NEWSTYLE))
		return bad_server(d, "it is too old");
	no_zeroes = offered & NBD_FLAG_NO_ZEROES;
	put_be32(flags, NBD_FLAG_FIXED_NEWSTYLE | (no_zeroes ? NBD_FLAG_NO_ZEROES : 0));
	ret = dial_send(d, flags, sizeof(flags));
	if (!ret)
		ret = agree(d, u, no_zeroes);
	if (!ret && !(d->l->flags & NBD_FLAG_HAS_FLAGS))
		return bad_server(d, "its export has no flags");
	if (!ret && d->l->size > INT64_MAX)
		return bad_server(d, "its export is too large");
	return ret;
}

void nbd_link_close(struct nbd_link *l)
{
	tls_free(l->tls);
	l->tls = NULL;
	tls_ctx_free(l->tls_ctx);
	l->tls_ctx = NULL;
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

int nbd_link_open(struct tapimg_loop *loop, const struct nbd_uri *u, const char *name,
		  struct nbd_link *l, struct tapimg_err *err)
{
	struct dial d = { .l = l, .name = name, .err = err };
	int ret;

	*l = (struct nbd_link){ .loop = loop, .fd = -1, .min_block = 1, .max_payload = 32 * MiB };
	d.reply = malloc(REPLY_MAX + 1);
	if (!d.reply)
		return err_errno(err, -ENOMEM, "%s", name);
	ret = dial_socket(&d, u);
	if (!ret)
		ret = handshake(&d, u);
	if (ret)
		nbd_link_close(l);
	free(d.reply);
	return ret;
}
