/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd.h - the NBD server: what its files share
 *
 *	nbd.c		the front end: options, listening, accepting, its end
 *	nbd-conn.c	a connection: bytes in, bytes out, how much may be in flight, its end
 *	nbd-io.c	what carries the bytes: a socket, with or without TLS
 *	nbd-hello.c	the handshake's options
 *	nbd-meta.c	the handshake's metadata contexts
 *	nbd-req.c	requests taken apart and handed to the disk, replies put together
 *	nbd-pace.c	how often a busy connection is looked at
 *	nbd-status.c	block status
 *	nbd-pool.c	buffers
 *
 * N1 Numbers from the wire are looked at in one place each: nbd_hello_input() and
 *    nbd_req_input(); what lies behind those counts on them.
 * N2 Nothing is allocated by a length that was not compared with a limit.
 * N3 A connection's memory: its requests (front->max_reqs), buffers up to front->max_bytes and one
 *    request more, handshake replies up to NBD_HELLO_OUT and one option's more.
 * N4 A connection goes away only when nothing of it is in flight and nobody is inside it (busy).
 * N5 Completions and disk callbacks only queue; sockets are written at the end of the turn.
 */
#ifndef NBD_H
#define NBD_H

#include "checked.h"
#include "frontend.h"
#include "loop.h"
#include "nbd-proto.h"
#include "server.h"

#define NBD_RX		(64 * KiB)	/* of what is received at once; small requests share it */
#define NBD_OPT_MAX	(32 * KiB)	/* data of an option; longer ones are refused */
#define NBD_OPTS_MAX	1024		/* options of a handshake */
#define NBD_HELLO_OUT	(64 * KiB)	/* unsent handshake replies beyond which no option is taken */
#define NBD_MAX_PAYLOAD	(32 * MiB)	/* of a read or write */
#define NBD_SWALLOW	(64 * MiB)	/* a payload that is refused is read up to here, else: close */
#define NBD_CONTEXTS	32		/* metadata contexts of a connection */
#define NBD_BURST	(512 * KiB)	/* of reads handed over before replies are sent again */
#define NBD_FREE_MAX	(8 * MiB)	/* unused buffers kept while there is work */

struct nbd_conn;
struct nbd_front;
struct tls;
struct tls_ctx;

/* ------------------------------------------------------------------ buffers */

#define NBD_POOL_MIN_SHIFT 12
#define NBD_POOL_CLASSES 14		/* 4 KiB to 32 MiB */

/* Buffers by powers of two, the one used last first. */
struct nbd_pool {
	void *free[NBD_POOL_CLASSES];
	uint64_t kept;			/* bytes in free[] */
};
/* At least @len bytes (up to 32 MiB), aligned to 4096.  NULL: no memory. */
void *nbd_pool_get(struct nbd_pool *p, uint64_t len);
void nbd_pool_put(struct nbd_pool *p, void *buf, uint64_t len);	/* @len: as asked for */
uint64_t nbd_pool_size(uint64_t len);				/* what is taken for it */
void nbd_pool_trim(struct nbd_pool *p);				/* gives all unused back */

/* ------------------------------------------------------------------ the front end */

enum nbd_tls_mode { NBD_TLS_OFF, NBD_TLS_ON, NBD_TLS_REQUIRE };

struct nbd_front {
	struct front front;		/* first */
	char *disk_name;		/* only this disk; NULL: all of them */
	char *export_name;		/* under this name; NULL: the disk's */
	char *description;
	bool read_only;
	enum nbd_tls_mode tls_mode;
	struct tls_ctx *tls;
	unsigned max_conns, max_reqs;
	uint64_t max_bytes;		/* buffers of a connection; of all: four times that */
	uint64_t handshake_ns;
	struct nbd_listener {
		struct watch watch;
		struct nbd_front *front;
	} listeners[8];
	unsigned nlisteners;
	char *unix_path;		/* to be unlinked in the end */
	bool once;			/* serves the one connection it was given, then ends */

	struct list conns;
	unsigned nconns;
	uint64_t bytes;			/* buffers in use */
	struct list hungry;		/* connections waiting for bytes of others */
	struct nbd_pool pool;
	struct nbd_req *free_reqs;
	unsigned nfree_reqs;
	struct timer idle, stop;
	uint64_t active_ns;		/* when a request arrived last */
	bool idling;			/* the idle timer is armed */
	uint8_t *zeroes;		/* NBD_MAX_PAYLOAD of them */
	bool accept_failed;		/* said once */
	/* counted */
	uint64_t accepted, refused, handshakes_failed;
};

/* One that a client may ask for; of a list that disks give. */
struct nbd_export {
	struct disk *disk;
	const char *name;
	const char *description;
};
/* By name, "" is the first.  False: there is none. */
bool nbd_export_find(struct nbd_front *f, const char *name, size_t len, struct nbd_export *out);
/* The @i'th. */
bool nbd_export_nth(struct nbd_front *f, unsigned i, struct nbd_export *out);
/* A connection's socket, which is the front end's from here on. */
int nbd_front_adopt(struct nbd_front *f, int fd);
void nbd_front_conn_gone(struct nbd_front *f);
void nbd_front_active(struct nbd_front *f);	/* a request has arrived: memory is kept for the next */

/* ------------------------------------------------------------------ requests */

struct nbd_status;

struct nbd_req {
	struct disk_req dr;		/* first */
	struct nbd_conn *conn;
	struct nbd_req *next;		/* free, or waiting to be sent */
	uint64_t cookie, off, len;
	uint16_t type, flags;
	uint16_t error;			/* NBD_E*, found before the disk was asked */
	bool flushing;			/* a trim with FUA: its second half */
	uint8_t hdr_len;
	uint8_t hdr[64];		/* the reply's header, and what is short behind it */
	uint8_t *buf;			/* from the pool, or NULL */
	uint64_t buf_len;
	struct iovec iov;
	const void *payload;		/* of the reply, behind hdr */
	uint64_t payload_len;
	struct nbd_status *status;
};

/*
 * One request header at @p: the bytes consumed, 0 if there are too few, negative: the connection
 * cannot go on.  A payload that follows is announced in c->want or c->skip.
 */
int nbd_req_input(struct nbd_conn *c, const uint8_t *p, size_t n);
void nbd_req_payload_done(struct nbd_conn *c);	/* c->want has arrived */
void nbd_req_skipped(struct nbd_conn *c);	/* c->skip is 0 again: c->late is answered */
void nbd_req_free(struct nbd_req *r);
/* Puts a reply's header together and queues it.  @ret: 0 or a negative errno. */
void nbd_reply(struct nbd_req *r, int ret);
/* The same with text for people. @error: NBD_E*; @text: static. */
void nbd_reply_error(struct nbd_req *r, uint32_t error, const char *text);
/* A header of a chunk; returns its length. */
size_t nbd_put_chunk(const struct nbd_conn *c, uint8_t *p, const struct nbd_req *r, unsigned flags,
		     unsigned type, uint64_t len);
uint32_t nbd_errno(int ret);		/* negative errno to the wire's */

/* ------------------------------------------------------------------ block status */

enum nbd_context_kind { NBD_CTX_ALLOCATION, NBD_CTX_DEPTH, NBD_CTX_BITMAP };
struct nbd_context {
	enum nbd_context_kind kind;
	char *bitmap;			/* its name */
};
/* Carries out r, whose range has been checked. @which: bits of c->ctx that are wanted. */
void nbd_status_start(struct nbd_req *r, uint32_t which);
/* The disk can be asked again: those that waited go on. */
void nbd_status_resume(struct nbd_conn *c);
void nbd_status_free(struct nbd_status *s);

/* ------------------------------------------------------------------ connections */

/* What carries the bytes.  Both: bytes moved, 0 (recv: the end), -EAGAIN or another negative errno. */
struct nbd_io {
	ssize_t (*recv)(struct nbd_conn *c, const struct iovec *iov, int n);
	ssize_t (*send)(struct nbd_conn *c, const struct iovec *iov, int n);
	void (*close)(struct nbd_conn *c);
};
extern const struct nbd_io nbd_io_socket, nbd_io_tls;

/* How long a connection is left alone after a turn. */
struct nbd_pace {
	struct timer timer;
	bool paused;			/* the timer is armed, the socket not watched for input */
	unsigned taken, counted;	/* requests, modulo 2^32: received; of them, in windows */
	uint64_t pause;			/* ns: in use */
	uint64_t good, next;		/* the longest that did no harm; that of the attempt */
	uint64_t sum[2];		/* its times for a request: without the pause, with it */
	unsigned phase;
	uint64_t began;			/* the window */
	unsigned n;
	unsigned wait, rest;		/* windows until the next attempt; the same, should that fail */
};
void nbd_pace_init(struct nbd_pace *p);
/* @requests more have been received; @now: ns of a steady clock.  May change p->pause. */
void nbd_pace_count(struct nbd_pace *p, unsigned requests, uint64_t now);
void nbd_pace_turn(struct nbd_conn *c);	/* at the end of a turn */
void nbd_pace_stop(struct nbd_conn *c);

enum nbd_state { NBD_HELLO, NBD_OPTIONS, NBD_TLS_HANDSHAKE, NBD_TRANSMIT };

struct nbd_conn {
	struct list node;
	struct list starving;		/* on the front end's hungry list, or empty */
	struct nbd_front *front;
	struct tapimg_loop *loop;
	const struct nbd_io *io;
	struct tls *tls;
	void *io_arg;			/* tests: the io's own */
	int fd;				/* -1: tests */
	struct watch watch;
	struct task task;		/* goes on reading */
	struct task flush;		/* at the end of the turn */
	struct timer deadline;		/* of the handshake */
	unsigned busy;			/* N4 */
	enum nbd_state state;
	bool tasked, flushing;
	bool inside;			/* nbd_conn_run(): a nested turn does not enter it again */
	bool readable;			/* the socket may have more */
	bool blocked;			/* the socket takes no more */
	bool deaf;			/* the socket is not watched for input */
	bool ended;			/* nothing more is read; what is in flight is answered, then closed */
	bool dead;			/* nothing is sent any more either */
	bool shutdown;			/* new requests get ESHUTDOWN */
	bool hup;			/* the peer has closed: short reads do not mean that all is read */
	char peer[64];			/* for the log */

	/* in */
	uint8_t *rx;			/* NBD_RX bytes while something is in it */
	uint32_t rpos, rend;
	uint64_t skip;			/* bytes to be thrown away */
	struct nbd_req *want;		/* its payload is being received */
	struct nbd_req *late;		/* refused, to be answered when its payload has been thrown away */
	uint64_t got;			/* so much of it is there */
	uint64_t burst;			/* see NBD_BURST */
	struct nbd_pace pace;

	/* out */
	uint8_t *out;			/* handshake replies */
	uint32_t out_len, out_sent, out_cap;
	struct nbd_req *first, **last;	/* replies */
	uint64_t sent;			/* bytes of the first that are gone */

	/* handshake */
	bool fixed, no_zeroes, structured, extended;
	unsigned nopts;
	uint32_t refused_opt;		/* too long: answered once c->skip is 0 */
	bool tls_next;			/* the answer to STARTTLS is on its way: then TLS */
	struct nbd_context ctx[NBD_CONTEXTS];
	unsigned nctx;
	struct disk *ctx_disk;		/* what they were chosen for */

	/* transmission */
	struct disk *disk;
	struct disk_user user;
	bool read_only;
	uint16_t eflags;		/* transmission flags as sent */
	unsigned nreqs;			/* requests not yet answered completely */
	unsigned running;		/* of those, with the disk */
	uint64_t bytes;			/* their buffers */
	struct list held;		/* status requests waiting for the disk to be resumed */
};

/* @fd: a socket that does not block, the connection's on success; -1 for tests, with @io. */
struct nbd_conn *nbd_conn_new(struct nbd_front *f, int fd, const struct nbd_io *io);
void nbd_conn_send(struct nbd_conn *c, struct nbd_req *r);	/* queues a reply */
void nbd_conn_kick(struct nbd_conn *c);		/* reads on, on the loop */
void nbd_conn_kill(struct nbd_conn *c);		/* at once */
void nbd_conn_end(struct nbd_conn *c);		/* in an orderly way: answers what is in flight */
void nbd_conn_shutdown(struct nbd_conn *c);	/* the disk or the server goes */
void nbd_conn_put(struct nbd_conn *c);		/* looks whether it can go away; last thing a caller does */
void nbd_conn_run(struct nbd_conn *c);		/* reads and handles what is there */
void nbd_conn_watch(struct nbd_conn *c, bool input);	/* whether input ends a sleep; the end always does */
/* For watches: what epoll says. */
void nbd_conn_event(struct watch *w, uint32_t events);

/* Handshake output.  False: no memory, and the connection is dead. */
bool nbd_out(struct nbd_conn *c, const void *p, size_t n);

/* One step of the handshake with the bytes at @p: as nbd_req_input(). */
int nbd_hello_input(struct nbd_conn *c, const uint8_t *p, size_t n);
void nbd_hello_start(struct nbd_conn *c);
void nbd_hello_skipped(struct nbd_conn *c);	/* c->skip is 0 again */
bool nbd_option_reply(struct nbd_conn *c, uint32_t opt, uint32_t type, const void *p, size_t n);
bool nbd_option_error(struct nbd_conn *c, uint32_t opt, uint32_t type, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* LIST_ and SET_META_CONTEXT. */
void nbd_meta_option(struct nbd_conn *c, uint32_t opt, const uint8_t *p, size_t n);
void nbd_meta_clear(struct nbd_conn *c);

#endif
