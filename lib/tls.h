/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tls.h - TLS over a socket that does not block, for NBD's server and client
 *
 * OpenSSL does the work.  It is loaded when a context is first made, so that programs which never
 * need it neither load it nor depend on it.
 */
#ifndef TLS_H
#define TLS_H

#include <sys/types.h>
#include <sys/uio.h>

#include "err.h"

struct tls_ctx;
struct tls;

/*
 * Files as QEMU, nbdkit and libnbd lay them out.  In @certs (a folder): ca-cert.pem, and
 * server-cert.pem with server-key.pem, or client-cert.pem with client-key.pem.  In @psk_file: lines
 * "user:key", the key in hexadecimal.
 */
struct tls_params {
	const char *certs;		/* NULL: no certificates */
	const char *psk_file;		/* NULL: no pre-shared keys */
	const char *psk_user;		/* client: which of them */
	bool server;
	bool verify;			/* the peer has to have a certificate that ca-cert.pem vouches for */
};

/* 0 or a negative errno: -ENOENT (a file is missing), -ENOSYS (no OpenSSL), -EINVAL (its contents). */
int tls_ctx_new(const struct tls_params *p, struct tls_ctx **out, struct tapimg_err *err);
void tls_ctx_free(struct tls_ctx *ctx);		/* NULL is accepted; its connections are gone */

/*
 * A connection over @fd, which stays the caller's.  The handshake happens with the first transfers.
 * @host: client: the name that the server's certificate has to be for; NULL: any.
 */
int tls_new(struct tls_ctx *ctx, int fd, const char *host, struct tls **out, struct tapimg_err *err);
void tls_free(struct tls *t);			/* says goodbye, without waiting. NULL is accepted */

/* Bytes, 0: the peer has said goodbye or hung up, -EAGAIN, or -EIO: tls_error() says what. */
ssize_t tls_recv(struct tls *t, void *buf, size_t len);
ssize_t tls_sendv(struct tls *t, const struct iovec *iov, int n);
bool tls_wants_write(const struct tls *t);	/* after -EAGAIN of tls_recv() */
const char *tls_error(const struct tls *t);	/* of the last failure, for people */

#endif
