/* SPDX-License-Identifier: BSD-2-Clause */
/* sock.h - sockets of front ends: listening at a path, passing descriptors */
#ifndef SOCK_H
#define SOCK_H

#include <sys/types.h>
#include <sys/uio.h>

#include "tapimg.h"

/*
 * A listening stream socket at @path, non-blocking.  What a dead server has left there is replaced;
 * -EADDRINUSE if somebody listens, -EEXIST if it is no socket.  Descriptor or negative errno,
 * explained with the path.
 */
int sock_listen_unix(const char *path, struct tapimg_err *err);
/* The next connection, non-blocking. -EAGAIN: nobody is there. */
int sock_accept(int fd);

/*
 * Reads up to @len bytes.  Descriptors that come along are appended to @fds (their number in *@nfds,
 * at most @max), close-on-exec.  Bytes read; -EAGAIN: none for now; -EPIPE: the end;
 * -EPROTO: too many descriptors (all are closed then).
 */
ssize_t sock_recv_fds(int fd, void *buf, size_t len, int *fds, unsigned *nfds, unsigned max);
/* Sends all of it at once, or -EAGAIN and others: a peer that does not read is of no use. */
int sock_send_fds(int fd, const struct iovec *iov, unsigned n, const int *fds, unsigned nfds);

#endif
