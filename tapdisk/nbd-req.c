/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-req.c - requests taken apart and handed to the disk, replies put together
 *
 * A request passes decode() (where its header's numbers are), refuse() (whether it may be carried
 * out: the one place that compares them with anything) and carry_out().  What is wrong with a request
 * is answered, and the connection goes on, as long as it is clear where the next one begins.
 *
 * Simple replies for clients that agreed on nothing else; with structured replies those that carry
 * data or an explanation are chunks; with extended headers all are.
 *
 * Left out: RESIZE, an experiment that clients do not use, is answered like any unknown command; reads
 * are answered in one chunk, which is a hole if all of it is known to be zero.
 */
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "image.h"
#include "nbd.h"

#define HOLE_MIN 16384		/* shorter ones are sent sooner than found */

/* ------------------------------------------------------------------ memory */

static struct nbd_req *req_new(struct nbd_conn *c)
{
	struct nbd_front *f = c->front;
	struct nbd_req *r = f->free_reqs;

	if (r) {
		f->free_reqs = r->next;
		f->nfree_reqs--;
	} else {
		r = calloc(1, sizeof(*r));
		if (!r)
			return NULL;
	}
	r->conn = c;
	r->next = NULL;
	r->error = 0;
	r->flushing = false;
	r->hdr_len = 0;
	r->buf = NULL;
	r->payload = NULL;
	r->payload_len = 0;
	r->status = NULL;
	c->nreqs++;
	c->pace.taken++;
	return r;
}

static bool req_buffer(struct nbd_req *r, uint64_t len)
{
	struct nbd_conn *c = r->conn;

	r->buf = nbd_pool_get(&c->front->pool, len);
	if (!r->buf)
		return false;
	r->buf_len = len;
	c->bytes += nbd_pool_size(len);
	c->front->bytes += nbd_pool_size(len);
	return true;
}

/* Those that waited for buffers of others. */
static void feed_hungry(struct nbd_front *f)
{
	struct list *n;

	while ((n = list_pop(&f->hungry)))
		nbd_conn_kick(list_entry(n, struct nbd_conn, starving));
}

void nbd_req_free(struct nbd_req *r)
{
	struct nbd_conn *c = r->conn;
	struct nbd_front *f = c->front;

	if (r->buf) {
		uint64_t size = nbd_pool_size(r->buf_len);

		nbd_pool_put(&f->pool, r->buf, r->buf_len);
		c->bytes -= size;
		f->bytes -= size;
		if (!list_empty(&f->hungry) && f->bytes < 4 * f->max_bytes)
			feed_hungry(f);
	}
	nbd_status_free(r->status);
	c->nreqs--;
	if (f->nfree_reqs < 2 * f->max_reqs) {
		r->next = f->free_reqs;
		f->free_reqs = r;
		f->nfree_reqs++;
	} else {
		free(r);
	}
}

/* ------------------------------------------------------------------ replies */

uint32_t nbd_errno(int ret)
{
	switch (-ret) {
	case 0:
		return 0;
	case EPERM:
	case EROFS:
	case EACCES:
	case EBADF:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case ENOTSUP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

size_t nbd_put_chunk(const struct nbd_conn *c, uint8_t *p, const struct nbd_req *r, unsigned flags,
		     unsigned type, uint64_t len)
{
	put_be32(p, c->extended ? NBD_EXT_REPLY_MAGIC : NBD_STRUCT_REPLY_MAGIC);
	put_be16(p + 4, flags);
	put_be16(p + 6, type);
	put_be64(p + 8, r->cookie);
	if (!c->extended) {
		put_be32(p + 16, len);
		return NBD_STRUCT_REPLY_LEN;
	}
	put_be64(p + 16, r->off);
	put_be64(p + 24, len);
	return NBD_EXT_REPLY_LEN;
}

static void put_simple(struct nbd_req *r, uint32_t error)
{
	put_be32(r->hdr, NBD_SIMPLE_REPLY_MAGIC);
	put_be32(r->hdr + 4, error);
	put_be64(r->hdr + 8, r->cookie);
	r->hdr_len = NBD_SIMPLE_REPLY_LEN;
}

static bool wants_chunks(const struct nbd_conn *c)
{
	return c->structured || c->extended;
}

void nbd_reply_error(struct nbd_req *r, uint32_t error, const char *text)
{
	struct nbd_conn *c = r->conn;
	size_t n = text ? strlen(text) : 0;

	if (!wants_chunks(c)) {
		put_simple(r, error);
		r->payload_len = 0;
	} else {
		r->hdr_len = nbd_put_chunk(c, r->hdr, r, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, 6 + n);
		put_be32(r->hdr + r->hdr_len, error);
		put_be16(r->hdr + r->hdr_len + 4, n);
		r->hdr_len += 6;
		r->payload = text;
		r->payload_len = n;
	}
	nbd_conn_send(c, r);
}

static const char *error_text(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return "the export cannot be written";
	case NBD_ENOMEM:
		return "the server has no memory";
	case NBD_EINVAL:
		return "the disk refuses the request";
	case NBD_ENOSPC:
		return "no space is left on the server";
	case NBD_ENOTSUP:
		return "this would not be faster than writing";
	case NBD_ESHUTDOWN:
		return "the server is going away";
	default:
		return "input/output error on the server";
	}
}

void nbd_reply(struct nbd_req *r, int ret)
{
	struct nbd_conn *c = r->conn;

	if (ret) {
		uint32_t error = nbd_errno(ret);

		nbd_reply_error(r, error, error_text(error));
		return;
	}
	if (r->type == NBD_CMD_READ && wants_chunks(c) && r->len) {
		r->hdr_len = nbd_put_chunk(c, r->hdr, r, NBD_CHUNK_DONE, NBD_CHUNK_OFFSET_DATA,
					   8 + r->len);
		put_be64(r->hdr + r->hdr_len, r->off);
		r->hdr_len += 8;
	} else if (c->extended || (wants_chunks(c) && r->type == NBD_CMD_READ)) {
		r->hdr_len = nbd_put_chunk(c, r->hdr, r, NBD_CHUNK_DONE, NBD_CHUNK_NONE, 0);
	} else {
		put_simple(r, 0);
	}
	if (r->type == NBD_CMD_READ) {
		r->payload = disk_props(c->disk)->blank_reads ? c->front->zeroes : r->buf;
		r->payload_len = r->len;
	}
	nbd_conn_send(c, r);
}

/*
 * A READ of nothing but zeroes, as far as is known without waiting: one chunk without them, which
 * DF allows as well.
 */
static bool reply_hole(struct nbd_req *r)
{
	struct nbd_conn *c = r->conn;
	struct tapimg_status st;
	struct tapimg *img;
	bool hole = false;

	if (r->type != NBD_CMD_READ || !wants_chunks(c) || r->len < HOLE_MIN || !disk_hold(c->disk))
		return false;
	img = disk_image(c->disk);
	if (img && !status_try(img, r->off, r->len, 0, &st))
		hole = st.flags & TAPIMG_ST_ZERO && st.len >= r->len;
	disk_unhold(c->disk);
	if (!hole)
		return false;
	r->hdr_len = nbd_put_chunk(c, r->hdr, r, NBD_CHUNK_DONE, NBD_CHUNK_OFFSET_HOLE, 12);
	put_be64(r->hdr + r->hdr_len, r->off);
	put_be32(r->hdr + r->hdr_len + 8, r->len);
	r->hdr_len += 12;
	nbd_conn_send(c, r);
	return true;
}

/* ------------------------------------------------------------------ carrying out */

static void req_submit(struct nbd_req *r, enum tapimg_op op, unsigned flags)
{
	struct tapimg_req *q = &r->dr.req;

	q->op = op;
	q->flags = flags;
	q->off = r->off;
	q->len = r->len;
	r->conn->running++;
	disk_submit(r->conn->disk, &r->dr);
}

static void req_done(struct disk_req *dr)
{
	struct nbd_req *r = container_of(dr, struct nbd_req, dr);
	struct nbd_conn *c = r->conn;
	int ret = dr->req.ret;

	c->running--;
	if (!ret && r->type == NBD_CMD_TRIM && r->flags & NBD_CMD_FLAG_FUA && !r->flushing) {
		r->flushing = true;
		req_submit(r, TAPIMG_FLUSH, 0);
		return;
	}
	nbd_reply(r, r->type == NBD_CMD_CACHE ? 0 : ret);
}

static void carry_out(struct nbd_req *r)
{
	unsigned fua = r->flags & NBD_CMD_FLAG_FUA ? TAPIMG_REQ_FUA : 0;
	struct nbd_conn *c = r->conn;

	r->dr.done = req_done;
	if (r->buf) {
		r->iov.iov_base = r->buf;
		r->iov.iov_len = r->len;
		r->dr.req.iov = &r->iov;
		r->dr.req.iovcnt = 1;
	}
	switch (r->type) {
	case NBD_CMD_READ:
	case NBD_CMD_CACHE:
		c->burst += r->len;
		req_submit(r, TAPIMG_READ, 0);
		break;
	case NBD_CMD_WRITE:
		req_submit(r, TAPIMG_WRITE, fua);
		break;
	case NBD_CMD_FLUSH:
		r->off = r->len = 0;
		req_submit(r, TAPIMG_FLUSH, 0);
		break;
	case NBD_CMD_TRIM:
		req_submit(r, TAPIMG_DISCARD, 0);
		break;
	default:
		req_submit(r, TAPIMG_ZERO, fua |
			   (r->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : TAPIMG_REQ_MAY_UNMAP) |
			   (r->flags & NBD_CMD_FLAG_FAST_ZERO ? TAPIMG_REQ_NO_FALLBACK : 0));
	}
}

/* ------------------------------------------------------------------ what may not be */

static unsigned flags_allowed(const struct nbd_conn *c, uint16_t type)
{
	unsigned payload = c->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;

	switch (type) {
	case NBD_CMD_READ:
		return NBD_CMD_FLAG_FUA | (wants_chunks(c) ? NBD_CMD_FLAG_DF : 0);
	case NBD_CMD_WRITE:
		return NBD_CMD_FLAG_FUA | payload;
	case NBD_CMD_WRITE_ZEROES:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
	case NBD_CMD_BLOCK_STATUS:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE |
		       (c->eflags & NBD_FLAG_BLOCK_STAT_PAYLOAD ? payload : 0);
	default:
		return NBD_CMD_FLAG_FUA;
	}
}

/* Remembers the first thing that is wrong. */
static bool wrong(struct nbd_req *r, uint32_t error, const char *text)
{
	r->error = error;
	r->payload = text;
	return true;
}

/* Whether the request is refused, before anything is allocated for it. */
static bool refuse(struct nbd_req *r)
{
	const struct nbd_conn *c = r->conn;
	bool writes = r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES;

	if (c->shutdown)
		return wrong(r, NBD_ESHUTDOWN, "the server is going away");
	if (r->type > NBD_CMD_BLOCK_STATUS)
		return wrong(r, NBD_EINVAL, "unknown command");
	if (r->flags & ~flags_allowed(c, r->type))
		return wrong(r, NBD_EINVAL, "a flag that the command does not have");
	if (r->type == NBD_CMD_FLUSH)
		return false;
	if (c->read_only && (writes || r->type == NBD_CMD_TRIM))
		return wrong(r, NBD_EPERM, "the export is read-only");
	if (!checked_range(r->off, r->len, disk_props(c->disk)->size))
		return wrong(r, writes ? NBD_ENOSPC : NBD_EINVAL, "beyond the end of the export");
	if ((r->type == NBD_CMD_READ || r->type == NBD_CMD_WRITE) && r->len > NBD_MAX_PAYLOAD)
		return wrong(r, NBD_EINVAL, "more than 32 MiB at once");
	if (r->type == NBD_CMD_BLOCK_STATUS && (!wants_chunks(c) || !c->nctx))
		return wrong(r, NBD_EINVAL, "no metadata context has been agreed on");
	if (r->type == NBD_CMD_BLOCK_STATUS && !r->len)
		return wrong(r, NBD_EINVAL, "block status of nothing");
	return false;
}

static uint32_t all_contexts(const struct nbd_conn *c)
{
	return c->nctx == NBD_CONTEXTS ? UINT32_MAX : (1U << c->nctx) - 1;
}

/* The request has all that belongs to it. */
static void begin(struct nbd_req *r)
{
	struct nbd_conn *c = r->conn;
	bool reads = r->type == NBD_CMD_READ || r->type == NBD_CMD_CACHE;

	if (r->error || refuse(r)) {
		nbd_reply_error(r, r->error, r->payload);
	} else if (r->type == NBD_CMD_BLOCK_STATUS) {
		nbd_status_start(r, all_contexts(c));
	} else if ((!r->len && r->type != NBD_CMD_FLUSH) ||
		   (r->type == NBD_CMD_CACHE && r->len > NBD_MAX_PAYLOAD)) {
		nbd_reply(r, 0);	/* nothing to be done, or a hint too large to follow */
	} else if (reply_hole(r)) {
		return;
	} else if (reads && !req_buffer(r, r->len)) {
		nbd_reply(r, -ENOMEM);
	} else {
		carry_out(r);
	}
}

/* ------------------------------------------------------------------ payloads */

/* Block status with a payload: how far it goes, and which contexts are wanted. */
static void begin_status_payload(struct nbd_req *r, uint64_t n)
{
	const struct nbd_conn *c = r->conn;
	uint32_t which = 0;
	bool good = n >= 8 && (n - 8) % 4 == 0;

	if (good)
		r->len = get_be64(r->buf);
	for (uint64_t at = 8; good && at < n; at += 4) {
		uint32_t id = get_be32(r->buf + at);

		good = id < c->nctx;
		if (good)
			which |= 1U << id;
	}
	if (!good)
		wrong(r, NBD_EINVAL, "a context that has not been agreed on");
	if (!r->error && !refuse(r) && which)
		nbd_status_start(r, which);
	else if (r->error)
		nbd_reply_error(r, r->error, r->payload);
	else
		nbd_reply_error(r, NBD_EINVAL, "no context is asked for");
}

void nbd_req_payload_done(struct nbd_conn *c)
{
	struct nbd_req *r = c->want;

	c->want = NULL;
	if (r->type == NBD_CMD_BLOCK_STATUS)
		begin_status_payload(r, r->len);
	else
		carry_out(r);
}

void nbd_req_skipped(struct nbd_conn *c)
{
	struct nbd_req *r = c->late;

	c->late = NULL;
	if (r)
		begin(r);
}

/*
 * A request with @n bytes behind its header.  They are received if it will be carried out, or
 * thrown away.  False: so many that nobody waits for them.
 */
static bool expect_payload(struct nbd_conn *c, struct nbd_req *r, uint64_t n)
{
	bool status = r->type == NBD_CMD_BLOCK_STATUS;
	uint64_t len = r->len;

	if (n > NBD_SWALLOW)
		return false;
	if (status && !(r->flags & ~flags_allowed(c, r->type)) && n <= 8 + 4 * NBD_CONTEXTS)
		r->len = n;		/* what is asked about stands in the payload */
	else if (status || r->type != NBD_CMD_WRITE)
		wrong(r, NBD_EINVAL, "a payload that the command does not have");
	else
		refuse(r);
	if (!r->error && n && !req_buffer(r, n))
		wrong(r, NBD_ENOMEM, "the server has no memory");
	if (!n) {
		begin(r);
	} else if (r->error) {
		/* answered only then: a client that is still sending does not expect it */
		r->len = len;
		c->skip = n;
		c->late = r;
	} else {
		c->want = r;
		c->got = 0;
	}
	return true;
}

/* ------------------------------------------------------------------ headers */

int nbd_req_input(struct nbd_conn *c, const uint8_t *p, size_t n)
{
	size_t size = c->extended ? NBD_EXT_REQUEST_LEN : NBD_REQUEST_LEN;
	struct nbd_req *r;
	bool payload;

	if (n < 4)
		return 0;
	if (get_be32(p) != (c->extended ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC))
		return -EPROTO;		/* no telling where the next one begins */
	if (n < size)
		return 0;
	if (get_be16(p + 6) == NBD_CMD_DISC) {
		nbd_conn_end(c);
		return size;
	}
	r = req_new(c);
	if (!r)
		return -ENOMEM;
	r->flags = get_be16(p + 4);
	r->type = get_be16(p + 6);
	r->cookie = get_be64(p + 8);
	r->off = get_be64(p + 16);
	r->len = c->extended ? get_be64(p + 24) : get_be32(p + 24);
	nbd_front_active(c->front);
	payload = c->extended ? r->flags & NBD_CMD_FLAG_PAYLOAD_LEN : r->type == NBD_CMD_WRITE;
	if (!payload) {
		/* an extended write has to say that there is one */
		if (r->type == NBD_CMD_WRITE)
			wrong(r, NBD_EINVAL, "a write without payload");
		begin(r);
	} else if (!expect_payload(c, r, r->len)) {
		nbd_req_free(r);
		return -EPROTO;
	}
	return size;
}
