/* SPDX-License-Identifier: BSD-2-Clause */
/* nbd-io.c - what carries a connection's bytes: a socket, bare or with TLS */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd.h"
#include "tls.h"

static ssize_t socket_recv(struct nbd_conn *c, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t res;

	do
		res = n == 1 ? recv(c->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT)
			     : recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (res < 0 && errno == EINTR);
	return res < 0 ? -errno : res;
}

static ssize_t socket_send(struct nbd_conn *c, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	ssize_t res;

	do
		res = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (res < 0 && errno == EINTR);
	return res < 0 ? -errno : res;
}

static void socket_close(struct nbd_conn *c)
{
	close(c->fd);
}

const struct nbd_io nbd_io_socket = {
	.recv = socket_recv,
	.send = socket_send,
	.close = socket_close,
};

/* ------------------------------------------------------------------ TLS */

static ssize_t tls_io_recv(struct nbd_conn *c, const struct iovec *iov, int n)
{
	return tls_recv(c->tls, iov[0].iov_base, iov[0].iov_len);
}

static ssize_t tls_io_send(struct nbd_conn *c, const struct iovec *iov, int n)
{
	return tls_sendv(c->tls, iov, n);
}

static void tls_io_close(struct nbd_conn *c)
{
	tls_free(c->tls);
	c->tls = NULL;
	close(c->fd);
}

const struct nbd_io nbd_io_tls = {
	.recv = tls_io_recv,
	.send = tls_io_send,
	.close = tls_io_close,
};
