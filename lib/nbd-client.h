/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-client.h - files on NBD servers: what the client's parts share
 *
 *	nbd-uri.c	names taken apart
 *	nbd-connect.c	connecting and the handshake
 *	nbd-client.c	transfers, replies, block status: the backend of the storage seam
 */
#ifndef NBD_CLIENT_H
#define NBD_CLIENT_H

#include "file.h"
#include "nbd-proto.h"
#include "tls.h"

/* ------------------------------------------------------------------ names */

/*
 * "nbd://host[:port]/export", "nbd+unix:///export?socket=path", the same with "nbds" for TLS, and
 * QEMU's older "nbd:host:port[:exportname=name]" and "nbd:unix:path[:exportname=name]".
 */
struct nbd_uri {
	char *socket;		/* Unix; or ... */
	char *host, *port;
	char *export;		/* "" is the server's default */
	bool tls;
	char *certs, *psk_file, *user, *tls_host;	/* NULL: not given */
	bool verify;
};
/* 0 or -EINVAL, -ENOMEM; on failure nothing needs freeing. */
int nbd_uri_parse(const char *text, struct nbd_uri *u, struct tapimg_err *err);
void nbd_uri_free(struct nbd_uri *u);

/* ------------------------------------------------------------------ connections */

/* What a handshake has led to. */
struct nbd_link {
	struct tapimg_loop *loop;
	int fd;			/* does not block */
	struct tls_ctx *tls_ctx;
	struct tls *tls;	/* or NULL */
	bool structured, extended;
	bool has_context;	/* base:allocation has been agreed on */
	uint32_t context;	/* its id */
	uint64_t size;
	uint16_t flags;		/* NBD_FLAG_* */
	uint32_t min_block, max_payload;
};
/* Runs the loop while it waits.  0, or a negative errno explained. */
int nbd_link_open(struct tapimg_loop *loop, const struct nbd_uri *u, const char *name,
		  struct nbd_link *l, struct tapimg_err *err);
void nbd_link_close(struct nbd_link *l);
/* Bytes moved, 0 at the end, -EAGAIN or another negative errno. */
ssize_t nbd_link_recv(struct nbd_link *l, const struct iovec *iov, int n);
ssize_t nbd_link_send(struct nbd_link *l, const struct iovec *iov, int n);

/* ------------------------------------------------------------------ the provider */

/* Built in: every loop has them.  Ends with a NULL scheme. */
extern const struct file_provider nbd_providers[];

#endif
