/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-blk.c - virtio-blk: requests from a ring to the disk and back, and the device's configuration
 *
 * Buffers are handed to the disk as they lie in the guest's memory.  What is decided on (header,
 * ranges to discard) is copied first.  Framing is free (VIRTIO 1.2, 5.2.6): the header is the first 16
 * readable bytes, the status the last writable one, however they are spread over descriptors.
 *
 * Not offered: secure erase, lifetime, zones.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "endian.h"
#include "vhost.h"

#define SECTOR 512
#define RUN_FAIR 128		/* requests taken from one ring before others have their turn */
#define MAX_RANGE_SECTORS (1u << 22)	/* 2 GiB: of one discarded or zeroed range */
#define BLOCK_REQS 32

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_FLUSH_OUT = 5, T_GET_ID = 8, T_DISCARD = 11,
       T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define WZ_UNMAP 1
#define HEADER 16
#define ID_BYTES 20

/* ------------------------------------------------------------------ memory for requests */

struct vreq_block {
	struct vreq_block *next;
	struct vreq req[BLOCK_REQS];
};

/* The ring bounds how many there are at once. */
static struct vreq *vreq_get(struct vqueue *q)
{
	struct vreq *r = q->free;

	if (!r) {
		struct vreq_block *b = calloc(1, sizeof(*b));
		unsigned i;

		if (!b)
			return NULL;
		b->next = q->blocks;
		q->blocks = b;
		for (i = 0; i < BLOCK_REQS; i++) {
			b->req[i].q = q;
			b->req[i].next = r;
			r = &b->req[i];
		}
	}
	q->free = r->next;
	return r;
}

static void vreq_put(struct vreq *r)
{
	if (__builtin_expect(r->viov != NULL, false)) {
		free(r->viov);
		r->viov = NULL;
	}
	if (__builtin_expect(r->segs != NULL, false)) {
		free(r->segs);
		r->segs = NULL;
	}
	r->next = r->q->free;
	r->q->free = r;
}

void vqueue_free_requests(struct vqueue *q)
{
	struct vreq_block *b;

	while ((b = q->blocks)) {
		q->blocks = b->next;
		free(b);
	}
	q->free = NULL;
}

/* ------------------------------------------------------------------ answering */

void vqueue_publish(struct vqueue *q)
{
	static const uint64_t one = 1;

	if (!vring_publish(&q->ring) || q->call_fd < 0)
		return;
	q->vh->ncalls++;
	/* it does not block; a full counter has a wake-up pending */
	if (write(q->call_fd, &one, sizeof(one)) < 0)
		return;
}

static void publish_task(struct task *t)
{
	struct vqueue *q = container_of(t, struct vqueue, publish);
	struct vhost *vh = q->vh;

	vqueue_publish(q);
	if (__builtin_expect(vh->guest.broken, false))
		vqueue_fail(q);
	if (__builtin_expect(!q->busy && (vh->waiting || !vh->connected), false))
		vhost_go_on(vh);
}

static void queue_publish(struct vqueue *q)
{
	if (q->ring.pushed >= q->ring.many)
		vqueue_publish(q);
	if (list_empty(&q->publish.node)) {
		q->publish.fn = publish_task;
		loop_at_turn_end(q->vh->loop, &q->publish);
	}
}

static void dirty_request(struct vreq *r)
{
	struct guest *g = &r->q->vh->guest;
	const struct tapimg_req *req = &r->dr.req;
	int i;

	guest_dirty_host(g, (const void *)r->status, 1);
	if (r->reads_guest)
		return;
	/* a read that has failed may have changed some of it */
	for (i = 0; i < req->iovcnt; i++)
		guest_dirty_host(g, req->iov[i].iov_base, req->iov[i].iov_len);
}

static void vreq_finish(struct vreq *r, uint8_t status)
{
	struct vqueue *q = r->q;

	*r->status = status;
	if (status != S_OK)
		r->written = 0;
	if (__builtin_expect(q->vh->guest.log_on, false))
		dirty_request(r);
	vring_push(&q->ring, &r->c, r->written + 1);
	vreq_put(r);
	q->busy--;
	queue_publish(q);
}

static void vreq_durable(struct disk_req *dr)
{
	vreq_finish(container_of(dr, struct vreq, dr), dr->req.ret ? S_IOERR : S_OK);
}

/* The answer waits until all that was done so far is durable. */
static void vreq_make_durable(struct vreq *r)
{
	r->dr.req.op = TAPIMG_FLUSH;
	r->dr.req.flags = 0;
	r->dr.req.off = r->dr.req.len = 0;
	r->dr.done = vreq_durable;
	disk_submit(r->q->vh->disk, &r->dr);
}

/* V5: a change succeeded. Answers now, or once it is durable. */
static void vreq_changed(struct vreq *r)
{
	struct vhost *vh = r->q->vh;

	if (!journal_note(vh, &r->dr.req)) {
		vreq_make_durable(r);
		return;
	}
	if (journal_is_long(vh))
		vhost_sync(vh);
	vreq_finish(r, S_OK);
}

static void vreq_done(struct disk_req *dr)
{
	struct vreq *r = container_of(dr, struct vreq, dr);

	if (dr->req.ret)
		vreq_finish(r, S_IOERR);
	else if (__builtin_expect(dr->req.op == TAPIMG_WRITE && r->q->vh->journal != NULL, false))
		vreq_changed(r);
	else
		vreq_finish(r, S_OK);
}

static void flush_done(struct disk_req *dr)
{
	struct vreq *r = container_of(dr, struct vreq, dr);

	if (!dr->req.ret)
		journal_drop(r->q->vh, r->mark);
	vreq_finish(r, dr->req.ret ? S_IOERR : S_OK);
}

/* ------------------------------------------------------------------ looking at a request */

/* Copies the first @len bytes of @iov and takes them off it; they are there. */
static void iov_take(struct iovec **iov, unsigned *n, void *buf, size_t len)
{
	while (len) {
		size_t part = MIN(len, (*iov)->iov_len);

		memcpy(buf, (*iov)->iov_base, part);
		buf = (uint8_t *)buf + part;
		len -= part;
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
		(*iov)->iov_len -= part;
		if (!(*iov)->iov_len) {
			(*iov)++;
			(*n)--;
		}
	}
	__asm__ volatile("" ::: "memory");	/* G1 */
}

/* The request's own copy of the list: the ring's is for the next one. */
static int vreq_buffers(struct vreq *r, const struct iovec *iov, unsigned n)
{
	struct iovec *to = r->iov;

	if (n > VREQ_IOV) {
		to = r->viov = malloc(n * sizeof(*to));
		if (!to)
			return -ENOMEM;
	}
	memcpy(to, iov, n * sizeof(*to));
	r->dr.req.iov = to;
	r->dr.req.iovcnt = n;
	return 0;
}

static void vreq_submit(struct vreq *r, enum tapimg_op op, unsigned flags, uint64_t off, uint64_t len,
			void (*done)(struct disk_req *))
{
	r->dr.req.op = op;
	r->dr.req.flags = flags;
	r->dr.req.off = off;
	r->dr.req.len = len;
	r->dr.done = done;
	disk_submit(r->q->vh->disk, &r->dr);
}

static void vreq_transfer(struct vreq *r, bool write, uint64_t sector, const struct iovec *iov,
			  unsigned n, uint64_t len)
{
	struct vhost *vh = r->q->vh;

	if (len % SECTOR || len > UINT32_MAX - 1 || sector > UINT64_MAX / SECTOR ||
	    vreq_buffers(r, iov, n)) {
		vreq_finish(r, S_IOERR);
		return;
	}
	if (!len) {
		vreq_finish(r, S_OK);
		return;
	}
	r->reads_guest = write;
	if (!write)
		r->written = len;
	vreq_submit(r, write ? TAPIMG_WRITE : TAPIMG_READ,
		    write && vh->stable ? TAPIMG_REQ_FUA : 0, sector * SECTOR, len, vreq_done);
}

static void vreq_get_id(struct vreq *r, const struct iovec *iov, unsigned n, uint64_t len)
{
	char id[ID_BYTES] = { 0 };
	size_t done = 0;

	if (vreq_buffers(r, iov, n)) {
		vreq_finish(r, S_IOERR);
		return;
	}
	/* no terminator when it fills the field */
	memcpy(id, disk_props(r->q->vh->disk)->id, strnlen(disk_props(r->q->vh->disk)->id, ID_BYTES));
	for (; n && done < ID_BYTES; n--, iov++) {
		size_t part = MIN(iov->iov_len, ID_BYTES - done);

		memcpy(iov->iov_base, id + done, part);
		done += part;
	}
	r->written = done;
	vreq_finish(r, S_OK);
}

/* ---- discarding and zeroing: ranges, one after the other */

static void range_submit(struct vreq *r);

static void range_done(struct disk_req *dr)
{
	struct vreq *r = container_of(dr, struct vreq, dr);

	r->unnoted |= !dr->req.ret && !journal_note(r->q->vh, &dr->req);
	if (dr->req.ret)
		vreq_finish(r, S_IOERR);
	else if (++r->seg < r->nsegs)
		range_submit(r);
	else if (r->unnoted)
		vreq_make_durable(r);
	else
		vreq_finish(r, S_OK);
}

static void range_submit(struct vreq *r)
{
	const struct vseg *s = &r->segs[r->seg];

	r->dr.req.off = s->off;
	r->dr.req.len = s->len;
	r->dr.req.flags = s->flags;
	r->dr.done = range_done;
	disk_submit(r->q->vh->disk, &r->dr);
}

/* One range as the guest has written it. A status other than OK: what is wrong with it. */
static uint8_t range_parse(const uint8_t raw[16], bool zero, bool stable, struct vseg *s)
{
	uint64_t sector = get_le64(raw);
	uint32_t count = get_le32(raw + 8), flags = get_le32(raw + 12);

	if (flags & ~(uint32_t)(zero ? WZ_UNMAP : 0))
		return S_UNSUPP;
	if (count > MAX_RANGE_SECTORS || sector > UINT64_MAX / SECTOR)
		return S_IOERR;
	s->off = sector * SECTOR;
	s->len = (uint64_t)count * SECTOR;
	s->flags = (flags & WZ_UNMAP ? TAPIMG_REQ_MAY_UNMAP : 0) | (zero && stable ? TAPIMG_REQ_FUA : 0);
	return S_OK;
}

static uint8_t ranges_parse(struct vreq *r, bool zero, struct iovec *iov, unsigned n)
{
	uint64_t size = disk_props(r->q->vh->disk)->size;
	uint8_t raw[16], status = S_OK;
	unsigned i;

	for (i = 0; i < r->nsegs && status == S_OK; i++) {
		iov_take(&iov, &n, raw, sizeof(raw));
		status = range_parse(raw, zero, r->q->vh->stable, &r->segs[i]);
		if (status == S_OK && !checked_range(r->segs[i].off, r->segs[i].len, size))
			status = S_IOERR;
	}
	return status;
}

static void vreq_ranges(struct vreq *r, bool zero, struct iovec *iov, unsigned n, uint64_t len)
{
	uint64_t bit = zero ? BIT(VIRTIO_BLK_F_WRITE_ZEROES) : BIT(VIRTIO_BLK_F_DISCARD);
	uint8_t status;

	if (!(r->q->vh->offered & bit)) {
		vreq_finish(r, S_UNSUPP);
		return;
	}
	if (!len || len % 16 || len / 16 > VHOST_SEGS) {
		vreq_finish(r, S_IOERR);
		return;
	}
	r->nsegs = len / 16;
	r->seg = 0;
	r->unnoted = false;
	r->segs = calloc(r->nsegs, sizeof(*r->segs));
	status = r->segs ? ranges_parse(r, zero, iov, n) : S_IOERR;
	if (status != S_OK) {
		vreq_finish(r, status);
		return;
	}
	r->dr.req.op = zero ? TAPIMG_ZERO : TAPIMG_DISCARD;
	r->dr.req.iov = NULL;
	range_submit(r);
}

static void vreq_start(struct vreq *r, struct iovec *out, unsigned nout, uint64_t out_len,
		       struct iovec *in, unsigned nin, uint64_t in_len)
{
	uint8_t header[HEADER];
	uint64_t sector;

	iov_take(&out, &nout, header, HEADER);
	out_len -= HEADER;
	sector = get_le64(header + 8);
	switch (get_le32(header)) {
	case T_IN:
		vreq_transfer(r, false, sector, in, nin, in_len);
		break;
	case T_OUT:
		vreq_transfer(r, true, sector, out, nout, out_len);
		break;
	case T_FLUSH:
	case T_FLUSH_OUT:
		r->mark = journal_mark(r->q->vh);
		vreq_submit(r, TAPIMG_FLUSH, 0, 0, 0, flush_done);
		break;
	case T_GET_ID:
		vreq_get_id(r, in, nin, in_len);
		break;
	case T_DISCARD:
		vreq_ranges(r, false, out, nout, out_len);
		break;
	case T_WRITE_ZEROES:
		vreq_ranges(r, true, out, nout, out_len);
		break;
	default:
		vreq_finish(r, S_UNSUPP);
	}
}

/* 0, or the ring is broken: there is no place for the status. */
static int vqueue_take(struct vqueue *q, const struct vchain *c)
{
	struct iovec *out = q->ring.iov, *in = out + c->nout;
	unsigned nin = c->nin;
	struct iovec *last = in + nin - 1;
	struct vreq *r;

	if (!nin)
		return vring_broken(&q->ring, -EPROTO, "a request without a place for its status");
	r = vreq_get(q);
	if (!r)
		return vring_broken(&q->ring, -ENOMEM, "no memory for a request");
	q->busy++;
	q->vh->nreqs++;
	r->c = *c;
	r->written = 0;
	r->reads_guest = false;
	r->dr.req.iovcnt = 0;
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	if (!--last->iov_len)
		nin--;
	if (c->out_len < HEADER) {
		vreq_finish(r, S_IOERR);
		return 0;
	}
	vreq_start(r, out, c->nout, c->out_len, in, nin, c->in_len - 1);
	return 0;
}

bool vqueue_run(struct vqueue *q)
{
	struct vchain c;
	unsigned n = 0;
	int ret = 0;

	if (!q->active || q->vh->held)
		return false;
	while (n < RUN_FAIR && ret >= 0) {
		ret = vring_pop(&q->ring, &c);
		if (ret > 0) {
			n++;
			ret = vqueue_take(q, &c);
		} else if (!ret) {
			if (!q->ring.pushed)
				break;
			vqueue_publish(q);	/* answered at once: by now the driver may have more */
		}
	}
	if (n)
		vring_disarm(&q->ring);
	if (__builtin_expect(ret < 0 || q->vh->guest.broken, false)) {
		vqueue_fail(q);
		return true;
	}
	return n > 0;
}

/* ------------------------------------------------------------------ what the device is */

uint64_t vhost_features(const struct vhost *vh)
{
	const struct disk_props *p = disk_props(vh->disk);
	uint64_t f = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |
		     BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VHOST_F_LOG_ALL) | BIT(VIRTIO_F_INDIRECT_DESC) |
		     BIT(VIRTIO_F_EVENT_IDX) | BIT(VHOST_USER_F_PROTOCOL_FEATURES) |
		     BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED);

	if (vh->max_queues > 1)
		f |= BIT(VIRTIO_BLK_F_MQ);
	if (p->read_only)
		return f | BIT(VIRTIO_BLK_F_RO);
	f |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	if (p->discard)
		f |= BIT(VIRTIO_BLK_F_DISCARD);
	if (p->writeback)
		f |= BIT(VIRTIO_BLK_F_CONFIG_WCE);
	return f;
}

static unsigned log2_of(uint64_t v)
{
	return 63 - __builtin_clzll(v);
}

void vhost_config(const struct vhost *vh, uint8_t out[VHOST_CONFIG_SIZE])
{
	const struct disk_props *p = disk_props(vh->disk);
	uint32_t bs = p->block_size, phys = MAX(bs, 4096u);
	uint32_t opt = MAX(p->opt_size, phys);

	memset(out, 0, VHOST_CONFIG_SIZE);
	put_le64(out, p->size / SECTOR);
	put_le32(out + 12, vh->seg_max);
	put_le32(out + 20, bs);
	out[24] = log2_of(phys / bs);		/* physical blocks in logical ones, as an exponent */
	put_le16(out + 26, phys / bs);		/* smallest I/O without penalty */
	put_le32(out + 28, opt / bs);		/* optimal */
	out[32] = vh->wce && p->writeback;
	put_le16(out + 34, vh->max_queues);
	if (vh->offered & BIT(VIRTIO_BLK_F_DISCARD)) {
		put_le32(out + 36, MAX_RANGE_SECTORS);
		put_le32(out + 40, VHOST_SEGS);
		put_le32(out + 44, opt / SECTOR);
	}
	if (vh->offered & BIT(VIRTIO_BLK_F_WRITE_ZEROES)) {
		put_le32(out + 48, MAX_RANGE_SECTORS);
		put_le32(out + 52, VHOST_SEGS);
		out[56] = 1;			/* may deallocate if the guest says so */
	}
}

/*
 * A driver that neither flushes nor switches the cache (a BIOS) takes a completed write for a durable one.
 */
void vhost_update_stable(struct vhost *vh)
{
	bool flushes = vh->features & (BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE));

	vh->stable = !vh->wce || !flushes;
}

static void sync_done(struct disk_req *dr)
{
	struct vhost *vh = container_of(dr, struct vhost, sync);

	vh->syncing = false;
	if (!dr->req.ret)
		journal_drop(vh, vh->sync_mark);
	else if (!vh->connected)
		journal_close(vh);	/* it has been said elsewhere that the disk fails */
	vhost_go_on(vh);
}

void vhost_set_wce(struct vhost *vh, bool on)
{
	bool stricter = vh->wce && !on;

	vh->wce = on;
	vhost_update_stable(vh);
	if (vh->inf) {		/* for a server that starts after a kill */
		struct inflight_head *h = (struct inflight_head *)vh->inf;

		if (on)
			h->features &= ~(uint64_t)INFLIGHT_WRITETHROUGH;
		else
			h->features |= INFLIGHT_WRITETHROUGH;
	}
	if (stricter)		/* what was written before becomes durable as well */
		vhost_sync(vh);
}

void vhost_sync(struct vhost *vh)
{
	if (vh->syncing)
		return;
	vh->syncing = true;
	vh->sync_mark = journal_mark(vh);
	memset(&vh->sync, 0, sizeof(vh->sync));
	vh->sync.req.op = TAPIMG_FLUSH;
	vh->sync.done = sync_done;
	disk_submit(vh->disk, &vh->sync);
}
