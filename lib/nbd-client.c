/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-client.c - a backend of the storage seam: an export of an NBD server
 *
 * Transfers are queued by submit() and go out together at the end of the turn, headers and data in
 * one call; replies are taken in as they come, data straight into the submitter's buffers.  A
 * transfer's state lies in its struct io, and a table of cookies finds it again: what a server says about
 * a cookie that is not in use, or about bytes outside the request, ends the connection.
 *
 * Block status.  Asked for a stretch of the disk at a time and remembered until something is written.
 * A question that the memory cannot answer parks its asker (see loop.h) until the server has answered;
 * where writes make every answer out of date at once, "data" is said, which is always true.
 *
 * When the connection is lost, everything in flight and all that follows fails with -EIO.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "checked.h"
#include "endian.h"
#include "loop-impl.h"
#include "nbd-client.h"

#define SLOTS 256
#define RX (64 * KiB)
#define SEND_IOVS 128
#define EFFECT_MAX (GiB)		/* of one zero or trim request; a multiple of every block size */
#define STATUS_SPAN (2 * GiB)
#define EXTENTS 2048

/* A transfer's part of struct io. */
struct nbd_op {
	struct list node;		/* waiting or sending; empty once it has gone out */
	uint8_t hdr[NBD_EXT_REQUEST_LEN];
	uint8_t hdr_len;
	int error;			/* the first one that was told */
	uint64_t off, len;		/* of the request now under way: zeroing goes in steps */
	uint64_t covered;		/* READ: bytes that have come */
	uint32_t slot;
};

_Static_assert(sizeof(struct nbd_op) <= sizeof(((struct io *)0)->priv), "struct io is too small");

struct nbd_extent {
	uint64_t end;			/* it begins where the one before ends */
	bool data;
};

enum rx_state { RX_HEADER, RX_CHUNK_HEAD, RX_DATA, RX_EXTENTS, RX_SKIP };

struct nbd_file {
	struct file *f;
	struct nbd_link link;
	struct watch watch;
	struct task flush;
	bool flushing, blocked, readable, lost;

	struct io *slot[SLOTS];
	uint32_t seq[SLOTS];		/* counts uses: an old cookie is no good */
	uint16_t free_slots[SLOTS];
	unsigned nfree;
	struct list waiting;		/* of nbd_op.node: for a slot */
	struct list sending;		/* of nbd_op.node: not gone out completely */
	uint64_t sent;			/* bytes of the first of these that are gone */

	/* in */
	enum rx_state state;
	uint32_t rpos, rend;
	uint64_t left;			/* bytes of the chunk still to come */
	uint64_t at;			/* RX_DATA: where they go, from the start of the buffers */
	struct io *rx_io;		/* what the chunk is about; NULL: block status */
	unsigned chunk_type;
	bool chunk_done;		/* it is the last of its reply */

	/* block status */
	struct io status_io;		/* its place in the table */
	bool asking;
	struct list askers;
	uint64_t st_start, st_seq;	/* of what is known; f->wseq when it was asked */
	unsigned n, stale;
	struct nbd_extent ext[EXTENTS];
	uint8_t rx[RX];
};

static struct nbd_op *op_of(struct io *io)
{
	return (struct nbd_op *)io->priv;
}

static struct io *io_of(struct list *node)
{
	struct nbd_op *op = list_entry(node, struct nbd_op, node);

	return container_of((void *)op, struct io, priv);
}

static bool is_status(const struct nbd_file *b, const struct io *io)
{
	return io == &b->status_io;
}

/* ------------------------------------------------------------------ the end of a transfer */

static void status_over(struct nbd_file *b, int ret)
{
	b->asking = false;
	if (ret)
		b->n = 0;
	waiters_wake(&b->askers, ret);
}

static void slot_release(struct nbd_file *b, struct io *io)
{
	struct nbd_op *op = op_of(io);

	b->slot[op->slot] = NULL;
	b->seq[op->slot]++;
	b->free_slots[b->nfree++] = op->slot;
}

static void start_waiting(struct nbd_file *b);
static void request_start(struct nbd_file *b, struct io *io);

static void op_over(struct nbd_file *b, struct io *io, int ret)
{
	if (is_status(b, io))
		status_over(b, ret);
	else
		io_complete(io, ret);
}

/* Everything fails: nobody knows what became of it. */
static void link_lost(struct nbd_file *b)
{
	struct list *n;

	if (b->lost)
		return;
	b->lost = true;
	loop_unwatch(b->f->loop, &b->watch);
	while (list_pop(&b->sending))
		;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct io *io = b->slot[i];

		if (!io)
			continue;
		slot_release(b, io);
		op_over(b, io, -EIO);
	}
	while ((n = list_pop(&b->waiting)))
		op_over(b, io_of(n), -EIO);
}

static int wire_error(uint32_t error)
{
	switch (error) {
	case NBD_EPERM:
		return -EPERM;
	case NBD_ENOMEM:
		return -ENOMEM;
	case NBD_EINVAL:
	case NBD_EOVERFLOW:
		return -EINVAL;
	case NBD_ENOSPC:
		return -ENOSPC;
	case NBD_ENOTSUP:
		return -ENOTSUP;
	default:
		return -EIO;
	}
}

/* A reply is complete. */
static void reply_over(struct nbd_file *b, struct io *io)
{
	struct nbd_op *op = op_of(io);
	bool effect = io->op == IO_ZERO || io->op == IO_DISCARD;
	int ret = op->error;

	if (!ret && !is_status(b, io) && io->op == IO_READ && op->covered != op->len)
		ret = -EIO;		/* the server has left something out */
	if (!ret && !is_status(b, io) && effect && op->off + op->len < io->off + io->len) {
		op->off += op->len;	/* the next step, on the same place in the table */
		request_start(b, io);
		return;
	}
	slot_release(b, io);
	op_over(b, io, ret);
	start_waiting(b);
}

/* ------------------------------------------------------------------ out */

static uint16_t effect_flags(const struct nbd_file *b, const struct io *io)
{
	uint16_t flags = 0;

	if (io->op != IO_ZERO)
		return 0;
	if (!(io->flags & IO_MAY_UNMAP))
		flags |= NBD_CMD_FLAG_NO_HOLE;
	if (io->flags & IO_NO_FALLBACK && b->link.flags & NBD_FLAG_SEND_FAST_ZERO)
		flags |= NBD_CMD_FLAG_FAST_ZERO;
	return flags;
}

static void flush_out(struct task *t);

static void queue_flush(struct nbd_file *b)
{
	if (b->flushing || b->blocked || b->lost)
		return;
	b->flushing = true;
	b->flush.fn = flush_out;
	loop_at_turn_end(b->f->loop, &b->flush);
}

/* Header and place in the queue, for the range in op. */
static void request_queue(struct nbd_file *b, struct io *io, uint16_t type, uint16_t flags)
{
	struct nbd_op *op = op_of(io);
	uint8_t *h = op->hdr;

	if (b->link.extended && type == NBD_CMD_WRITE)
		flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
	put_be32(h, b->link.extended ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	put_be16(h + 4, flags);
	put_be16(h + 6, type);
	put_be64(h + 8, (uint64_t)b->seq[op->slot] << 32 | op->slot);
	put_be64(h + 16, op->off);
	if (b->link.extended)
		put_be64(h + 24, op->len);
	else
		put_be32(h + 24, (uint32_t)op->len);
	op->hdr_len = b->link.extended ? NBD_EXT_REQUEST_LEN : NBD_REQUEST_LEN;
	op->covered = 0;
	op->error = 0;
	list_append(&b->sending, &op->node);
	queue_flush(b);
}

static void request_start(struct nbd_file *b, struct io *io)
{
	static const uint16_t types[] = {
		[IO_READ] = NBD_CMD_READ, [IO_WRITE] = NBD_CMD_WRITE,
		[IO_ZERO] = NBD_CMD_WRITE_ZEROES, [IO_DISCARD] = NBD_CMD_TRIM,
		[IO_FLUSH] = NBD_CMD_FLUSH,
	};
	struct nbd_op *op = op_of(io);

	if (is_status(b, io)) {
		request_queue(b, io, NBD_CMD_BLOCK_STATUS, 0);
		return;
	}
	op->len = io->len - (op->off - io->off);
	if (io->op == IO_ZERO || io->op == IO_DISCARD)
		op->len = MIN(op->len, EFFECT_MAX);
	if (io->op == IO_FLUSH)
		op->off = op->len = 0;
	request_queue(b, io, types[io->op], effect_flags(b, io));
}

static void slot_take(struct nbd_file *b, struct io *io)
{
	struct nbd_op *op = op_of(io);

	op->slot = b->free_slots[--b->nfree];
	b->slot[op->slot] = io;
	request_start(b, io);
}

static void start_waiting(struct nbd_file *b)
{
	while (b->nfree && !list_empty(&b->waiting)) {
		struct list *n = list_pop(&b->waiting);

		slot_take(b, io_of(n));
	}
}

static uint64_t payload_of(const struct nbd_file *b, const struct io *io)
{
	return !is_status(b, io) && io->op == IO_WRITE ? io->len : 0;
}

/* Slices of what is to be sent, from the byte @skip of the first request on. */
static int gather(struct nbd_file *b, struct iovec *iov)
{
	uint64_t skip = b->sent;
	struct list *pos;
	int n = 0;

	list_for_each(pos, &b->sending) {
		struct io *io = io_of(pos);
		struct nbd_op *op = op_of(io);
		uint64_t cut = MIN(skip, op->hdr_len);
		int cnt = payload_of(b, io) ? io->iovcnt : 0;

		if (n == SEND_IOVS)
			break;
		if (cut < op->hdr_len)
			iov[n++] = (struct iovec){ op->hdr + cut, op->hdr_len - cut };
		skip -= cut;
		for (int i = 0; i < cnt && n < SEND_IOVS; i++) {
			cut = MIN(skip, io->iov[i].iov_len);
			if (cut < io->iov[i].iov_len)
				iov[n++] = (struct iovec){ (uint8_t *)io->iov[i].iov_base + cut,
							   io->iov[i].iov_len - cut };
			skip -= cut;
		}
	}
	return n;
}

static void sent_bytes(struct nbd_file *b, uint64_t n)
{
	b->sent += n;
	while (!list_empty(&b->sending)) {
		struct io *io = io_of(b->sending.next);
		uint64_t total = op_of(io)->hdr_len + payload_of(b, io);

		if (b->sent < total)
			break;
		b->sent -= total;
		list_del(&op_of(io)->node);
	}
}

static void set_blocked(struct nbd_file *b, bool blocked)
{
	b->blocked = blocked;
	loop_watch_events(b->f->loop, &b->watch,
			  EPOLLIN | EPOLLRDHUP | EPOLLET | (blocked ? EPOLLOUT : 0));
}

static void flush_out(struct task *t)
{
	struct nbd_file *b = container_of(t, struct nbd_file, flush);
	struct iovec iov[SEND_IOVS];

	b->flushing = false;
	while (!b->lost && !b->blocked && !list_empty(&b->sending)) {
		ssize_t res = nbd_link_send(&b->link, iov, gather(b, iov));

		if (res == -EAGAIN)
			set_blocked(b, true);
		else if (res < 0)
			link_lost(b);
		else
			sent_bytes(b, res);
	}
}

/* ------------------------------------------------------------------ in */

/* The transfer that a cookie stands for, or NULL. */
static struct io *find_op(struct nbd_file *b, uint64_t cookie)
{
	uint32_t slot = (uint32_t)cookie;
	struct io *io = slot < SLOTS ? b->slot[slot] : NULL;

	/* its request has gone out: nobody answers before that */
	return io && cookie >> 32 == b->seq[slot] && list_empty(&op_of(io)->node) ? io : NULL;
}

static bool in_simple(struct nbd_file *b, const uint8_t *p)
{
	struct io *io = find_op(b, get_be64(p + 8));
	uint32_t error = get_be32(p + 4);

	if (!io || b->link.extended || (b->link.structured &&
					(is_status(b, io) || io->op == IO_READ)))
		return false;
	op_of(io)->error = error ? wire_error(error) : 0;
	if (error || io->op != IO_READ || is_status(b, io)) {
		reply_over(b, io);
		return true;
	}
	b->state = RX_DATA;
	b->rx_io = io;
	b->at = 0;
	b->left = op_of(io)->len;
	b->chunk_done = true;
	return true;
}

static bool in_chunk(struct nbd_file *b, const uint8_t *p)
{
	bool ext = b->link.extended;
	struct io *io = find_op(b, get_be64(p + 8));

	if (!io || (!ext && !b->link.structured))
		return false;
	b->rx_io = io;
	b->chunk_done = get_be16(p + 4) & NBD_CHUNK_DONE;
	b->chunk_type = get_be16(p + 6);
	b->left = ext ? get_be64(p + 24) : get_be32(p + 16);
	if (b->left > MAX(b->link.max_payload, 32 * MiB) + 64 * KiB)
		return false;
	b->state = RX_CHUNK_HEAD;
	return true;
}

static void chunk_over(struct nbd_file *b)
{
	b->state = RX_HEADER;
	if (b->chunk_done)
		reply_over(b, b->rx_io);
}

/* Bytes at the start of a chunk that are needed to know what the others are. */
static uint32_t chunk_head_len(const struct nbd_file *b)
{
	switch (b->chunk_type) {
	case NBD_CHUNK_OFFSET_DATA:
	case NBD_CHUNK_BLOCK_STATUS_EXT:
		return 8;
	case NBD_CHUNK_OFFSET_HOLE:
		return 12;
	case NBD_CHUNK_BLOCK_STATUS:
		return 4;
	default:
		return b->chunk_type & NBD_CHUNK_IS_ERROR ? 4 : 0;
	}
}

/* [off, off + len) of the disk, which a chunk says it has, lies inside the request. */
static bool inside(struct nbd_file *b, uint64_t off, uint64_t len)
{
	struct nbd_op *op = op_of(b->rx_io);

	return !is_status(b, b->rx_io) && b->rx_io->op == IO_READ && len && off >= op->off &&
	       checked_range(off - op->off, len, op->len);
}

static void fill_zero(const struct io *io, uint64_t at, uint64_t len)
{
	for (int i = 0; len; i++) {
		uint64_t here;

		if (at >= io->iov[i].iov_len) {
			at -= io->iov[i].iov_len;
			continue;
		}
		here = MIN(len, io->iov[i].iov_len - at);
		memset((uint8_t *)io->iov[i].iov_base + at, 0, here);
		len -= here;
		at = 0;
	}
}

static bool head_of_hole(struct nbd_file *b, const uint8_t *p)
{
	struct nbd_op *op = op_of(b->rx_io);
	uint64_t off = get_be64(p), len = get_be32(p + 8);

	if (b->left || !inside(b, off, len))
		return false;
	fill_zero(b->rx_io, off - op->off, len);
	op->covered += len;
	chunk_over(b);
	return true;
}

static bool head_of_status(struct nbd_file *b, const uint8_t *p)
{
	uint32_t size = b->link.extended ? 16 : 8;

	if (!is_status(b, b->rx_io) || !b->left || b->left % size ||
	    (b->chunk_type == NBD_CHUNK_BLOCK_STATUS_EXT) != b->link.extended)
		return false;
	b->state = get_be32(p) == b->link.context && !b->n ? RX_EXTENTS : RX_SKIP;
	return true;
}

static bool in_chunk_head(struct nbd_file *b, const uint8_t *p)
{
	struct nbd_op *op = op_of(b->rx_io);

	b->left -= chunk_head_len(b);
	switch (b->chunk_type) {
	case NBD_CHUNK_OFFSET_DATA:
		if (!inside(b, get_be64(p), b->left))
			return false;
		b->at = get_be64(p) - op->off;
		b->state = RX_DATA;
		return true;
	case NBD_CHUNK_OFFSET_HOLE:
		return head_of_hole(b, p);
	case NBD_CHUNK_BLOCK_STATUS:
	case NBD_CHUNK_BLOCK_STATUS_EXT:
		return head_of_status(b, p);
	case NBD_CHUNK_NONE:
		if (b->left || !b->chunk_done)
			return false;
		chunk_over(b);
		return true;
	default:
		if (!(b->chunk_type & NBD_CHUNK_IS_ERROR))
			return false;
		if (!op->error)
			op->error = wire_error(get_be32(p));
		b->state = RX_SKIP;	/* the text is for people */
		if (!b->left)
			chunk_over(b);
		return true;
	}
}

static bool in_extent(struct nbd_file *b, const uint8_t *p)
{
	bool ext = b->link.extended;
	uint64_t len = ext ? get_be64(p) : get_be32(p);
	uint64_t flags = ext ? get_be64(p + 8) : get_be32(p + 4);
	uint64_t start = b->n ? b->ext[b->n - 1].end : b->st_start;
	bool data = !(flags & NBD_STATE_ZERO);

	b->left -= ext ? 16 : 8;
	if (!len || len > UINT64_MAX - start)
		return false;
	if (b->n && b->ext[b->n - 1].data == data)
		b->ext[b->n - 1].end = start + len;
	else if (b->n < EXTENTS)
		b->ext[b->n++] = (struct nbd_extent){ start + len, data };
	else
		b->state = RX_SKIP;	/* asked for again when it is needed */
	if (!b->left)
		chunk_over(b);
	return true;
}

/* Bytes of data out of the buffer. */
static void in_data(struct nbd_file *b, const uint8_t *p, uint64_t n)
{
	const struct io *io = b->rx_io;
	uint64_t at = b->at, todo = n;

	for (int i = 0; todo; i++) {
		uint64_t here;

		if (at >= io->iov[i].iov_len) {
			at -= io->iov[i].iov_len;
			continue;
		}
		here = MIN(todo, io->iov[i].iov_len - at);
		memcpy((uint8_t *)io->iov[i].iov_base + at, p, here);
		p += here;
		todo -= here;
		at = 0;
	}
	b->at += n;
	b->left -= n;
	op_of(b->rx_io)->covered += n;
	if (!b->left)
		chunk_over(b);
}

static bool in_header(struct nbd_file *b, const uint8_t *p, uint32_t avail, uint32_t *used)
{
	uint32_t magic = get_be32(p);

	if (magic == NBD_SIMPLE_REPLY_MAGIC) {
		*used = NBD_SIMPLE_REPLY_LEN;
		return avail < *used || in_simple(b, p);
	}
	if (magic != (b->link.extended ? NBD_EXT_REPLY_MAGIC : NBD_STRUCT_REPLY_MAGIC))
		return false;
	*used = b->link.extended ? NBD_EXT_REPLY_LEN : NBD_STRUCT_REPLY_LEN;
	return avail < *used || in_chunk(b, p);
}

/* One step with the bytes that are there: false if the server talks nonsense; *used > avail: too few. */
static bool in_step(struct nbd_file *b, const uint8_t *p, uint32_t avail, uint32_t *used)
{
	switch (b->state) {
	case RX_HEADER:
		*used = 4;
		return avail < 4 || in_header(b, p, avail, used);
	case RX_CHUNK_HEAD:
		*used = chunk_head_len(b);
		if (b->left < *used)
			return false;
		return avail < *used || in_chunk_head(b, p);
	case RX_DATA:
		*used = (uint32_t)MIN(b->left, (uint64_t)avail);
		in_data(b, p, *used);
		return true;
	case RX_EXTENTS:
		*used = b->link.extended ? 16 : 8;
		return avail < *used || in_extent(b, p);
	default:
		*used = (uint32_t)MIN(b->left, (uint64_t)avail);
		b->left -= *used;
		if (!b->left)
			chunk_over(b);
		return true;
	}
}

static void parse(struct nbd_file *b)
{
	while (!b->lost) {
		uint32_t avail = b->rend - b->rpos, used = 0;
		bool empty_ok = b->state == RX_CHUNK_HEAD && !chunk_head_len(b);

		if (!avail && !empty_ok)
			break;
		if (!in_step(b, b->rx + b->rpos, avail, &used)) {
			link_lost(b);
			return;
		}
		if (used > avail)
			break;
		b->rpos += used;
	}
	if (b->rpos)
		memmove(b->rx, b->rx + b->rpos, b->rend - b->rpos);
	b->rend -= b->rpos;
	b->rpos = 0;
}

/* Where data goes straight to its place: slices of the buffers. */
static int direct_iov(struct nbd_file *b, struct iovec *iov, int max, uint64_t *total)
{
	const struct io *io = b->rx_io;
	uint64_t at = b->at, left = b->left;
	int n = 0;

	for (int i = 0; left && n < max; i++) {
		uint64_t here;

		if (at >= io->iov[i].iov_len) {
			at -= io->iov[i].iov_len;
			continue;
		}
		here = MIN(left, io->iov[i].iov_len - at);
		iov[n++] = (struct iovec){ (uint8_t *)io->iov[i].iov_base + at, here };
		*total += here;
		left -= here;
		at = 0;
	}
	return n;
}

static void got_direct(struct nbd_file *b, uint64_t n)
{
	b->at += n;
	b->left -= n;
	op_of(b->rx_io)->covered += n;
	if (!b->left)
		chunk_over(b);
}

/* One receiving call. False: nothing more for now. */
static bool fill(struct nbd_file *b)
{
	struct iovec iov[SEND_IOVS + 1];
	uint64_t direct = 0;
	ssize_t res;
	int n = 0;

	if (b->state == RX_DATA)
		n = direct_iov(b, iov, SEND_IOVS, &direct);
	/* what lies behind the data can only be taken in once all of the data has a place */
	if (!n || direct == b->left)
		iov[n++] = (struct iovec){ b->rx + b->rend, RX - b->rend };
	res = nbd_link_recv(&b->link, iov, n);
	if (res == -EAGAIN) {
		if (b->link.tls && tls_wants_write(b->link.tls))
			set_blocked(b, true);
		return false;
	}
	if (res <= 0) {
		link_lost(b);
		return false;
	}
	direct = MIN(direct, (uint64_t)res);
	b->rend += res - direct;
	if (direct)
		got_direct(b, direct);
	return true;
}

static void link_event(struct watch *w, uint32_t events)
{
	struct nbd_file *b = container_of(w, struct nbd_file, watch);

	if (b->blocked && events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		set_blocked(b, false);
		queue_flush(b);
	}
	while (!b->lost && fill(b))
		parse(b);
}

/* ------------------------------------------------------------------ the seam */

static void nbd_submit(struct io *io)
{
	struct nbd_file *b = io->file->priv;

	if (b->lost) {
		io_complete(io, -EIO);
	} else if (io->op == IO_FLUSH && !(b->link.flags & NBD_FLAG_SEND_FLUSH)) {
		io_complete(io, 0);
	} else if ((io->op == IO_ZERO && (!(b->link.flags & NBD_FLAG_SEND_WRITE_ZEROES) ||
					  (io->flags & IO_NO_FALLBACK &&
					   !(b->link.flags & NBD_FLAG_SEND_FAST_ZERO)))) ||
		   (io->op == IO_DISCARD && !(b->link.flags & NBD_FLAG_SEND_TRIM))) {
		io_complete(io, -ENOTSUP);
	} else {
		op_of(io)->off = io->off;
		list_append(&b->waiting, &op_of(io)->node);
		start_waiting(b);
	}
}

static void ask(struct nbd_file *b, uint64_t off)
{
	struct nbd_op *op = op_of(&b->status_io);

	b->asking = true;
	b->n = 0;
	b->st_start = off;
	b->st_seq = b->f->wseq;
	op->off = off;
	op->len = MIN(STATUS_SPAN, b->f->size - off);
	list_append(&b->waiting, &op->node);
	start_waiting(b);
}

/* What is known of @off: false, nothing. */
static bool status_known(const struct nbd_file *b, uint64_t off, uint64_t *len, bool *data)
{
	unsigned lo = 0, hi = b->n;

	if (b->asking || !b->n || off < b->st_start || off >= b->ext[b->n - 1].end)
		return false;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (off < b->ext[mid].end)
			hi = mid;
		else
			lo = mid + 1;
	}
	*len = MIN(*len, b->ext[lo].end - off);
	*data = b->ext[lo].data;
	return true;
}

static int nbd_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	struct nbd_file *b = f->priv;
	bool fresh = b->st_seq == f->wseq && list_empty(&f->writes);

	*data = true;
	if (!b->link.has_context || off >= f->size || b->lost)
		return 0;
	if (fresh && status_known(b, off, len, data)) {
		b->stale = 0;
		return 0;
	}
	if (!b->asking && b->n && !fresh && ++b->stale > 2) {
		b->stale = 0;
		*len = MIN(*len, 64 * KiB);
		return 0;		/* something is being written all the time */
	}
	if (!b->asking)
		ask(b, off);
	loop_set_park(f->loop, &b->askers);
	return -EAGAIN;
}

static int nbd_truncate(struct file *f, uint64_t size)
{
	return size == f->size ? 0 : -ENOTSUP;
}

static uint64_t nbd_allocated(struct file *f)
{
	return 0;			/* the server does not tell */
}

static void nbd_close(struct file *f)
{
	struct nbd_file *b = f->priv;
	uint8_t h[NBD_EXT_REQUEST_LEN] = { 0 };
	struct iovec iov = { h, b->link.extended ? NBD_EXT_REQUEST_LEN : NBD_REQUEST_LEN };

	if (!b->lost && b->link.fd >= 0) {
		loop_unwatch(f->loop, &b->watch);
		put_be32(h, b->link.extended ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
		put_be16(h + 6, NBD_CMD_DISC);
		/* a courtesy: the server sees the end in any case */
		if (list_empty(&b->sending))
			nbd_link_send(&b->link, &iov, 1);
	}
	list_del(&b->flush.node);
	nbd_link_close(&b->link);
	free(b);
}

static const struct file_ops nbd_ops = {
	.name = "nbd",
	.submit = nbd_submit,
	.truncate = nbd_truncate,
	.status = nbd_status,
	.allocated = nbd_allocated,
	.close = nbd_close,
};

/* ------------------------------------------------------------------ opening */

static struct nbd_file *nbd_file_new(void)
{
	struct nbd_file *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	list_init(&b->waiting);
	list_init(&b->sending);
	list_init(&b->askers);
	list_init(&b->flush.node);
	b->link.fd = -1;
	for (unsigned i = 0; i < SLOTS; i++)
		b->free_slots[b->nfree++] = SLOTS - 1 - i;
	return b;
}

static int nbd_settle(struct file *f, struct nbd_file *b, struct tapimg_err *err)
{
	const struct nbd_link *l = &b->link;
	int ret;

	if (f->flags & FILE_RDWR && l->flags & NBD_FLAG_READ_ONLY)
		return err_set(err, -EACCES, "%s: the server exports it read-only", f->name);
	f->size = l->size;
	f->block_dev = true;
	f->no_grow = true;
	f->align = l->min_block;
	f->discard_align = MAX(l->min_block, 512U);
	f->max_io = round_down(MIN((uint64_t)l->max_payload, 32 * MiB), l->min_block);
	b->watch.fd = l->fd;
	b->watch.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
	b->watch.fn = link_event;
	ret = loop_watch(f->loop, &b->watch);
	return ret < 0 ? err_errno(err, ret, "%s", f->name) : 0;
}

static int nbd_open(struct file_provider *p, struct tapimg_loop *loop, const char *name,
		    unsigned flags, struct file **out, struct tapimg_err *err)
{
	struct nbd_file *b = nbd_file_new();
	struct file *f = b ? file_alloc(loop, &nbd_ops, name, flags) : NULL;
	struct nbd_uri u;
	int ret;

	if (!f) {
		free(b);
		return err_errno(err, -ENOMEM, "%s", name);
	}
	f->priv = b;
	b->f = f;
	ret = nbd_uri_parse(name, &u, err);
	if (!ret) {
		ret = nbd_link_open(loop, &u, name, &b->link, err);
		nbd_uri_free(&u);
	}
	if (!ret)
		ret = nbd_settle(f, b, err);
	else
		b->lost = true;
	if (ret) {
		file_close(f);
		return ret;
	}
	*out = f;
	return 0;
}

const struct file_provider nbd_providers[] = {
	{ .scheme = "nbd:", .open = nbd_open },
	{ .scheme = "nbds:", .open = nbd_open },
	{ .scheme = "nbd+unix:", .open = nbd_open },
	{ .scheme = "nbds+unix:", .open = nbd_open },
	{ .scheme = NULL },
};
