/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbdwire.h - an NBD server's connection without a socket: bytes are put in, what it answers is there
 *
 * Everything goes through struct nbd_io, so it is the server's own code from the first byte to the
 * last, cut into pieces as the test wants it.
 */
#ifndef NBDWIRE_H
#define NBDWIRE_H

#include "nbd.h"

struct wire {
	struct nbd_conn *c;		/* NULL once it has gone away */
	struct nbd_front *front;
	uint8_t *in;
	size_t in_len, in_pos;
	bool eof;			/* the client has closed */
	bool gone;			/* and resets whatever is sent */
	size_t chunk;			/* most bytes that one recv brings; 0: any number */
	uint8_t *out;
	size_t out_len, out_pos;	/* received; looked at by the test */
	size_t window;			/* so many bytes may be sent before the client has to read */
};

/* A front end of @s with "key=value,..." beside a socket that nobody uses. NULL: err says why. */
struct nbd_front *wire_front(struct server *s, const char *opts, struct tapimg_err *err);
void wire_front_stop(struct nbd_front *f);	/* runs the loop until it has gone */

struct wire *wire_open(struct nbd_front *f);
void wire_close(struct wire *w);		/* the client vanishes; runs until the server has noticed */
/* Bytes from the client, handled as far as that goes without waiting for anybody else. */
void wire_put(struct wire *w, const void *p, size_t n);
void wire_run(struct wire *w);			/* until nothing of the connection runs */
void wire_step(struct wire *w);			/* as far as it goes at once */

/* ------------------------------------------------------------------ what clients say */

void wire_be16(struct wire *w, uint16_t v);	/* append; handled with the next wire_run() */
void wire_be32(struct wire *w, uint32_t v);
void wire_be64(struct wire *w, uint64_t v);
void wire_bytes(struct wire *w, const void *p, size_t n);
void wire_flags(struct wire *w, uint32_t flags);
void wire_option(struct wire *w, uint32_t opt, const void *p, uint32_t n);
void wire_request(struct wire *w, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint64_t len);		/* compact or extended, as agreed */

#endif
