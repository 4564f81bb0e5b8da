/* SPDX-License-Identifier: BSD-2-Clause */
/* vu.c - a front end for vhost-user-blk */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vu.h"

#define HEADER 12
#define SLOT 64			/* header, status */
#define STATUS_AT 32
enum { VERSION = 1, REPLY = 4, NEED_REPLY = 8 };
#define PF_ALL (VU_BIT(0) | VU_BIT(1) | VU_BIT(3) | VU_BIT(5) | VU_BIT(9) | VU_BIT(12) |          \
		VU_BIT(13) | VU_BIT(15) | VU_BIT(16))
enum { PF_REPLY_ACK = 3, PF_BACKEND_REQ = 5, PF_INFLIGHT = 12 };

void vu_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* ------------------------------------------------------------------ memory */

void vu_init(struct vu *v, const char *path, uint64_t mem, unsigned nq, unsigned num)
{
	unsigned i, k;

	memset(v, 0, sizeof(*v));
	v->path = path;
	v->fd = v->inflight_fd = v->backend_fd = -1;
	v->size = mem;
	v->nq = nq;
	v->num = num;
	v->want = ~VU_F_LOG_ALL;
	v->want_protocol = PF_ALL;
	v->memfd = memfd_create("guest", MFD_CLOEXEC);
	if (v->memfd < 0 || ftruncate(v->memfd, mem) < 0)
		vu_die("guest memory: %s", strerror(errno));
	v->mem = mmap(NULL, mem, PROT_READ | PROT_WRITE, MAP_SHARED, v->memfd, 0);
	if (v->mem == MAP_FAILED)
		vu_die("guest memory: %s", strerror(errno));
	for (i = 0; i < nq; i++) {
		struct vu_queue *q = &v->q[i];

		q->num = num;
		q->ring_off = vu_alloc(v, dring_bytes(num));
		q->slots_off = vu_alloc(v, (uint64_t)num * SLOT);
		q->req = calloc(num, sizeof(*q->req));
		q->free = calloc(num, sizeof(*q->free));
		for (k = 0; k < num; k++) {
			q->req[k].slot = k;
			q->free[q->nfree++] = num - 1 - k;
		}
		q->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		q->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
}

void vu_exit(struct vu *v)
{
	unsigned i;

	for (i = 0; i < v->nq; i++) {
		if (v->q[i].ring.cookie)
			dring_exit(&v->q[i].ring);
		free(v->q[i].req);
		free(v->q[i].free);
		close(v->q[i].kick);
		close(v->q[i].call);
	}
	if (v->fd >= 0)
		close(v->fd);
	if (v->backend_fd >= 0)
		close(v->backend_fd);
	if (v->inflight_fd >= 0)
		close(v->inflight_fd);
	munmap(v->mem, v->size);
	close(v->memfd);
}

uint64_t vu_alloc(struct vu *v, uint64_t len)
{
	uint64_t at = v->top;

	v->top += (len + 4095) & ~4095ull;
	if (v->top > v->size)
		vu_die("guest memory is used up");
	return at;
}

/* ------------------------------------------------------------------ messages */

int vu_send(struct vu *v, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	    const int *fds, unsigned nfds)
{
	const uint32_t head[3] = { request, flags | VERSION, size };
	struct iovec iov[2] = { { (void *)head, HEADER }, { (void *)payload, size } };
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(64 * sizeof(int))];
	} control;
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	struct cmsghdr *c;

	if (nfds) {
		memset(&control, 0, sizeof(control));
		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	return sendmsg(v->fd, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Reads all of it; a descriptor that comes along goes to *@fd. */
static int read_all(int from, void *buf, size_t len, int *fd)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;

	while (len) {
		struct iovec iov = { buf, len };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				     .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(from, &mh, MSG_CMSG_CLOEXEC);
		struct cmsghdr *c;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		c = CMSG_FIRSTHDR(&mh);
		if (c && c->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(c), sizeof(int));
		buf = (uint8_t *)buf + n;
		len -= n;
	}
	return 0;
}

int vu_recv(struct vu *v, struct vu_msg *m)
{
	int ret;

	m->fd = -1;
	ret = read_all(v->fd, m, HEADER, &m->fd);
	if (ret)
		return ret;
	if (m->size > sizeof(m->payload) || !(m->flags & REPLY))
		return -EPROTO;
	return read_all(v->fd, m->payload, m->size, &m->fd);
}

void vu_tell(struct vu *v, uint32_t request, const void *payload, uint32_t size, int fd)
{
	int ret = vu_send(v, request, 0, payload, size, &fd, fd >= 0);

	if (ret)
		vu_die("message %u: %s", request, strerror(-ret));
}

int64_t vu_tell_ack(struct vu *v, uint32_t request, const void *payload, uint32_t size, int fd)
{
	struct vu_msg m;
	uint64_t value;
	int ret = vu_send(v, request, NEED_REPLY, payload, size, &fd, fd >= 0);

	if (!ret)
		ret = vu_recv(v, &m);
	if (ret)
		return ret;
	if (m.request != request || m.size != 8)
		vu_die("message %u: the answer is to %u, %u bytes", request, m.request, m.size);
	memcpy(&value, m.payload, 8);
	return value;
}

uint64_t vu_ask64(struct vu *v, uint32_t request)
{
	struct vu_msg m;
	uint64_t value;
	int ret;

	vu_tell(v, request, NULL, 0, -1);
	ret = vu_recv(v, &m);
	if (ret || m.request != request || m.size != 8)
		vu_die("message %u is not answered: %s", request, strerror(-ret));
	memcpy(&value, m.payload, 8);
	return value;
}

/* Acknowledged where that was negotiated: a refusal ends the program. */
static void tell_checked(struct vu *v, uint32_t request, const void *payload, uint32_t size, int fd)
{
	int64_t ret;

	if (!(v->protocol & VU_BIT(PF_REPLY_ACK))) {
		vu_tell(v, request, payload, size, fd);
		return;
	}
	ret = vu_tell_ack(v, request, payload, size, fd);
	if (ret)
		vu_die("message %u is refused: %lld", request, (long long)ret);
}

int vu_get_config(struct vu *v, uint32_t offset, uint32_t size, uint8_t *out)
{
	uint8_t payload[512] = { 0 };
	uint32_t head[3] = { offset, size, 0 };
	struct vu_msg m;
	int ret;

	memcpy(payload, head, 12);
	vu_tell(v, VU_GET_CONFIG, payload, 12 + size, -1);
	ret = vu_recv(v, &m);
	if (ret)
		return ret;
	if (m.request != VU_GET_CONFIG || m.size != 12 + size)
		return -EINVAL;
	memcpy(out, m.payload + 12, size);
	return 0;
}

int64_t vu_set_wce(struct vu *v, uint8_t on)
{
	uint32_t head[3] = { 32, 1, 0 };
	uint8_t payload[13];

	memcpy(payload, head, 12);
	payload[12] = on;
	return vu_tell_ack(v, VU_SET_CONFIG, payload, 13, -1);
}

/* ------------------------------------------------------------------ starting */

static int try_connect(struct vu *v)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	strncpy(sa.sun_path, v->path, sizeof(sa.sun_path) - 1);
	v->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (v->fd < 0)
		vu_die("socket: %s", strerror(errno));
	if (connect(v->fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return 0;
	close(v->fd);
	v->fd = -1;
	return -errno;
}

int vu_dial(struct vu *v, unsigned ms)
{
	const struct timespec wait = { .tv_nsec = 1000000 };
	int ret;

	while ((ret = try_connect(v)) && ms--)
		nanosleep(&wait, NULL);
	return ret;
}

void vu_negotiate(struct vu *v)
{
	int pair[2];

	v->offered = vu_ask64(v, VU_GET_FEATURES);
	v->features = v->offered & v->want;
	if (v->features & VU_F_PROTOCOL) {
		v->protocol = vu_ask64(v, VU_GET_PROTOCOL_FEATURES) & v->want_protocol;
		vu_tell(v, VU_SET_PROTOCOL_FEATURES, &v->protocol, 8, -1);
	}
	vu_tell(v, VU_SET_OWNER, NULL, 0, -1);
	if (v->protocol & VU_BIT(PF_BACKEND_REQ)) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			vu_die("socketpair: %s", strerror(errno));
		tell_checked(v, VU_SET_BACKEND_REQ_FD, NULL, 0, pair[1]);
		close(pair[1]);
		if (v->backend_fd >= 0)
			close(v->backend_fd);
		v->backend_fd = pair[0];
	}
	tell_checked(v, VU_SET_FEATURES, &v->features, 8, -1);
	if (v->protocol & VU_BIT(9) && vu_get_config(v, 0, 60, v->config))
		vu_die("no configuration");
}

void vu_share_memory(struct vu *v)
{
	uint64_t table[5] = { 1, VU_GPA, v->size, (uintptr_t)v->mem, 0 };

	tell_checked(v, VU_SET_MEM_TABLE, table, sizeof(table), v->memfd);
}

/* Asks for an area, or hands back the one there is. */
static void share_inflight(struct vu *v)
{
	struct { uint64_t size, offset; uint16_t queues, num; uint32_t pad; } p = { 0 };
	struct vu_msg m;
	int ret;

	if (!(v->protocol & VU_BIT(PF_INFLIGHT)))
		return;
	p.queues = v->nq;
	p.num = v->num;
	if (v->inflight_fd < 0) {
		vu_tell(v, VU_GET_INFLIGHT_FD, &p, sizeof(p), -1);
		ret = vu_recv(v, &m);
		if (ret || m.fd < 0)
			vu_die("no in-flight area: %s", strerror(-ret));
		v->inflight_fd = m.fd;
		memcpy(&v->inflight_size, m.payload, 8);
	}
	p.size = v->inflight_size;
	tell_checked(v, VU_SET_INFLIGHT_FD, &p, sizeof(p), v->inflight_fd);
}

void vu_start_queue(struct vu *v, unsigned i, uint32_t base)
{
	struct vu_queue *q = &v->q[i];
	uint64_t addr[5] = { i, (uintptr_t)q->ring.desc, (uintptr_t)q->ring.device,
			     (uintptr_t)q->ring.driver, 0 };
	uint32_t pair[2] = { i, q->num };
	uint64_t index = i;

	tell_checked(v, VU_SET_VRING_NUM, pair, 8, -1);
	pair[1] = base;
	tell_checked(v, VU_SET_VRING_BASE, pair, 8, -1);
	tell_checked(v, VU_SET_VRING_ADDR, addr, sizeof(addr), -1);
	tell_checked(v, VU_SET_VRING_CALL, &index, 8, q->call);
	tell_checked(v, VU_SET_VRING_KICK, &index, 8, q->kick);
	pair[1] = 1;
	if (v->features & VU_F_PROTOCOL)
		tell_checked(v, VU_SET_VRING_ENABLE, pair, 8, -1);
	q->started = true;
}

uint32_t vu_stop_queue(struct vu *v, unsigned i)
{
	uint32_t pair[2] = { i, 0 };
	struct vu_msg m;
	int ret;

	vu_tell(v, VU_GET_VRING_BASE, pair, 8, -1);
	ret = vu_recv(v, &m);
	if (ret || m.request != VU_GET_VRING_BASE || m.size != 8)
		vu_die("queue %u does not stop: %s", i, strerror(-ret));
	v->q[i].started = false;
	memcpy(pair, m.payload, 8);
	return pair[1];
}

static void start_all(struct vu *v, bool fresh)
{
	unsigned i;

	vu_negotiate(v);
	share_inflight(v);
	vu_share_memory(v);
	for (i = 0; i < v->nq; i++) {
		struct vu_queue *q = &v->q[i];
		bool packed = v->features & VU_F_PACKED;
		uint32_t base = packed ? 0x80008000 : 0;

		if (fresh)
			dring_init(&q->ring, packed, v->features & VU_F_EVENT_IDX, q->num,
				   v->mem + q->ring_off, VU_GPA + q->ring_off);
		else if (!packed)
			base = q->ring.device[1];	/* as QEMU guesses it: the used index */
		vu_start_queue(v, i, base);
		dring_want_call(&q->ring, !v->poll);
	}
}

void vu_start(struct vu *v)
{
	start_all(v, true);
}

int vu_reconnect(struct vu *v, unsigned ms)
{
	int ret;

	if (v->fd >= 0)
		close(v->fd);
	v->fd = -1;
	ret = vu_dial(v, ms);
	if (!ret)
		start_all(v, false);
	return ret;
}

/* ------------------------------------------------------------------ requests */

struct vu_req *vu_submit(struct vu *v, unsigned qi, uint32_t type, uint64_t sector, uint64_t data,
			 uint32_t len, void *opaque)
{
	struct vu_queue *q = &v->q[qi];
	bool write = type == VU_OUT || type == VU_DISCARD || type == VU_WRITE_ZEROES;
	struct dseg seg[3];
	struct vu_req *r;
	uint64_t at;
	unsigned n = 0;
	uint8_t *header;

	if (!q->nfree)
		return NULL;
	r = &q->req[q->free[q->nfree - 1]];
	at = q->slots_off + (uint64_t)r->slot * SLOT;
	header = v->mem + at;
	memcpy(header, &type, 4);
	memset(header + 4, 0, 4);
	memcpy(header + 8, &sector, 8);
	header[STATUS_AT] = 0xff;
	seg[n++] = (struct dseg){ VU_GPA + at, 16, false };
	if (len)
		seg[n++] = (struct dseg){ VU_GPA + data, len, !write };
	seg[n++] = (struct dseg){ VU_GPA + at + STATUS_AT, 1, true };
	if (dring_add(&q->ring, seg, n, v->features & VU_F_INDIRECT, r) < 0)
		return NULL;
	q->nfree--;
	r->type = type;
	r->sector = sector;
	r->data = data;
	r->len = len;
	r->opaque = opaque;
	r->busy = true;
	return r;
}

void vu_kick(struct vu *v, unsigned qi)
{
	static const uint64_t one = 1;

	if (dring_publish(&v->q[qi].ring) && write(v->q[qi].kick, &one, 8) < 0)
		vu_die("kick: %s", strerror(errno));
}

struct vu_req *vu_poll(struct vu *v, unsigned qi)
{
	struct vu_queue *q = &v->q[qi];
	uint32_t len;
	struct vu_req *r = dring_get(&q->ring, &len);

	if (!r)
		return NULL;
	r->used_len = len;
	r->status = v->mem[q->slots_off + (uint64_t)r->slot * SLOT + STATUS_AT];
	r->busy = false;
	q->free[q->nfree++] = r->slot;
	return r;
}

struct vu_req *vu_wait(struct vu *v, unsigned qi, int ms)
{
	struct vu_queue *q = &v->q[qi];
	struct pollfd p = { .fd = q->call, .events = POLLIN };
	struct vu_req *r;
	uint64_t n;

	while (!(r = vu_poll(v, qi))) {
		if (dring_want_call(&q->ring, true))
			continue;
		if (poll(&p, 1, ms) == 0)
			return vu_poll(v, qi);
		if (read(q->call, &n, 8) < 0)
			continue;
	}
	return r;
}

int vu_do(struct vu *v, unsigned qi, uint32_t type, uint64_t sector, uint64_t data, uint32_t len)
{
	struct vu_req *r = vu_submit(v, qi, type, sector, data, len, NULL);

	if (!r)
		return -ENOSPC;
	vu_kick(v, qi);
	r = vu_wait(v, qi, 10000);
	return r ? r->status : -ETIMEDOUT;
}
