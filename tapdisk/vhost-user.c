/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-user.c - the messages of a front end
 *
 * A message is a header of three 32-bit words in host order (request, flags, size) and a payload.
 * Each kind stands in a table with the payload it needs, how many descriptors it may bring, and which
 * queues have to be drained first (V2).  The functions of the table check their numbers and answer 0 or
 * a negative errno; what becomes of an error is decided in one place, obey().
 *
 * Not offered, hence unknown here: IOMMU, postcopy, in-band notifications, Xen mappings.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "log.h"
#include "sock.h"
#include "vhost.h"

#define HEADER 12
#define MESSAGES_FAIR 32	/* before others have their turn */
enum { FLAG_VERSION = 1, FLAG_VERSION_MASK = 3, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };
enum { BACKEND_CONFIG_CHANGE = 2 };
#define MEM_TABLE_REGIONS 8
#define VRING_NO_FD 0x100
#define CONFIG_SPACE 256	/* what may be asked for; zeroes beyond what there is */
#define CONFIG_WRITEBACK 32
#define INFLIGHT_ALIGN 64

/* ------------------------------------------------------------------ payloads */

static uint64_t get64(const struct vhost_msg *m, unsigned off)
{
	uint64_t v;

	memcpy(&v, m->payload + off, sizeof(v));
	return v;
}

static uint32_t get32(const struct vhost_msg *m, unsigned off)
{
	uint32_t v;

	memcpy(&v, m->payload + off, sizeof(v));
	return v;
}

static uint16_t get16(const struct vhost_msg *m, unsigned off)
{
	uint16_t v;

	memcpy(&v, m->payload + off, sizeof(v));
	return v;
}

static void put64(struct vhost_msg *m, unsigned off, uint64_t v)
{
	memcpy(m->payload + off, &v, sizeof(v));
}

static int take_fd(struct vhost_msg *m)
{
	int fd = m->fds[0];

	m->fds[0] = -1;
	return fd;
}

void vhost_msg_clear(struct vhost_msg *m)
{
	unsigned i;

	for (i = 0; i < m->nfds; i++)
		if (m->fds[i] >= 0)
			close(m->fds[i]);
	m->nfds = m->got = 0;
}

static bool has_protocol(const struct vhost *vh, unsigned bit)
{
	return vh->protocol & BIT(bit);
}

/* The answer to vh->msg: the same request number, the payload as it lies in the message now. */
static int reply(struct vhost *vh, uint32_t size, int fd)
{
	const uint32_t head[3] = { vh->msg.request, FLAG_VERSION | FLAG_REPLY, size };
	const struct iovec iov[2] = { { (void *)head, sizeof(head) }, { vh->msg.payload, size } };

	return sock_send_fds(vh->fd, iov, 2, &fd, fd >= 0);
}

static int reply64(struct vhost *vh, uint64_t v)
{
	put64(&vh->msg, 0, v);
	return reply(vh, sizeof(v), -1);
}

/* ------------------------------------------------------------------ features */

#define PROTOCOL_FEATURES                                                                          \
	(BIT(VHOST_PF_MQ) | BIT(VHOST_PF_LOG_SHMFD) | BIT(VHOST_PF_REPLY_ACK) |                    \
	 BIT(VHOST_PF_BACKEND_REQ) | BIT(VHOST_PF_CONFIG) | BIT(VHOST_PF_INFLIGHT_SHMFD) |         \
	 BIT(VHOST_PF_RESET_DEVICE) | BIT(VHOST_PF_CONFIGURE_MEM_SLOTS) | BIT(VHOST_PF_STATUS))

static int get_features(struct vhost *vh, struct vhost_msg *m)
{
	return reply64(vh, vh->offered);
}

static int set_features(struct vhost *vh, struct vhost_msg *m)
{
	uint64_t f = get64(m, 0);
	unsigned i;

	if (f & ~vh->offered)
		return -EINVAL;
	vh->features = f;
	vh->guest.log_on = f & BIT(VHOST_F_LOG_ALL);
	vhost_update_stable(vh);
	if (f & BIT(VHOST_USER_F_PROTOCOL_FEATURES))
		return 0;
	for (i = 0; i < vh->max_queues; i++) {
		if (vh->q[i]) {
			vh->q[i]->enabled = true;
			vqueue_activate(vh->q[i]);
		}
	}
	return 0;
}

static int get_protocol_features(struct vhost *vh, struct vhost_msg *m)
{
	return reply64(vh, PROTOCOL_FEATURES);
}

static int set_protocol_features(struct vhost *vh, struct vhost_msg *m)
{
	uint64_t f = get64(m, 0);

	if (f & ~PROTOCOL_FEATURES)
		return -EINVAL;
	vh->protocol = f;
	return 0;
}

static int nothing(struct vhost *vh, struct vhost_msg *m)
{
	return 0;
}

static int get_queue_num(struct vhost *vh, struct vhost_msg *m)
{
	return reply64(vh, vh->max_queues);
}

static int get_max_mem_slots(struct vhost *vh, struct vhost_msg *m)
{
	return reply64(vh, GUEST_REGIONS);
}

static int set_status(struct vhost *vh, struct vhost_msg *m)
{
	vh->status = get64(m, 0);
	return 0;
}

static int get_status(struct vhost *vh, struct vhost_msg *m)
{
	return reply64(vh, vh->status);
}

static int set_backend_fd(struct vhost *vh, struct vhost_msg *m)
{
	if (!has_protocol(vh, VHOST_PF_BACKEND_REQ) || m->nfds != 1)
		return -EINVAL;
	if (vh->backend_fd >= 0)
		close(vh->backend_fd);
	vh->backend_fd = take_fd(m);
	return 0;
}

void vhost_config_changed(struct vhost *vh)
{
	const uint32_t head[3] = { BACKEND_CONFIG_CHANGE, FLAG_VERSION, 0 };
	const struct iovec iov = { (void *)head, sizeof(head) };

	if (vh->backend_fd < 0 || !has_protocol(vh, VHOST_PF_CONFIG))
		return;
	if (sock_send_fds(vh->backend_fd, &iov, 1, NULL, 0) < 0)
		log_warn("%s: the front end could not be told of the new size", vh->name);
}

/* ------------------------------------------------------------------ memory */

/* All rings lie somewhere else now, or nowhere. */
static int remap_rings(struct vhost *vh)
{
	struct tapimg_err err;
	unsigned i;
	int ret = 0;

	for (i = 0; i < vh->max_queues; i++) {
		struct vqueue *q = vh->q[i];

		if (!q || !q->kicked)
			continue;
		if (q->ring.up && vring_remap(&q->ring, &err)) {
			log_warn("%s: queue %u: %s", vh->name, i, err.text);
			ret = -EINVAL;
		}
		vqueue_activate(q);
	}
	return ret;
}

static int map_region(struct vhost *vh, struct vhost_msg *m, unsigned at, int fd)
{
	struct tapimg_err err;
	int ret = guest_map(&vh->guest, get64(m, at), get64(m, at + 8), get64(m, at + 16),
			    get64(m, at + 24), fd, &err);

	if (ret)
		log_warn("%s: %s", vh->name, err.text);
	return ret;
}

static int set_mem_table(struct vhost *vh, struct vhost_msg *m)
{
	uint32_t i, n = get32(m, 0);
	int ret = 0;

	if (n > MEM_TABLE_REGIONS || n != m->nfds || m->size < 8 + n * 32)
		return -EINVAL;
	guest_unmap_all(&vh->guest);
	for (i = 0; i < n && !ret; i++)
		ret = map_region(vh, m, 8 + i * 32, m->fds[i]);
	if (ret)
		guest_unmap_all(&vh->guest);
	return remap_rings(vh) ? -EINVAL : ret;
}

static int add_mem_reg(struct vhost *vh, struct vhost_msg *m)
{
	unsigned i;
	int ret;

	if (m->nfds != 1)
		return -EINVAL;
	ret = map_region(vh, m, 8, m->fds[0]);
	for (i = 0; i < vh->max_queues && !ret; i++)
		if (vh->q[i])
			vqueue_activate(vh->q[i]);
	return ret;
}

static int rem_mem_reg(struct vhost *vh, struct vhost_msg *m)
{
	int ret = guest_unmap(&vh->guest, get64(m, 8), get64(m, 16), get64(m, 24));

	return ret ? ret : remap_rings(vh);
}

static int set_log_base(struct vhost *vh, struct vhost_msg *m)
{
	struct tapimg_err err;
	int ret;

	if (!has_protocol(vh, VHOST_PF_LOG_SHMFD) || m->nfds != 1)
		return -EINVAL;
	ret = guest_set_log(&vh->guest, m->fds[0], get64(m, 0), get64(m, 8), &err);
	if (ret) {
		log_warn("%s: %s", vh->name, err.text);
		return ret;
	}
	return reply(vh, 0, -1);
}

/* ------------------------------------------------------------------ in-flight area */

static uint64_t inflight_stride(unsigned num)
{
	return round_up(inflight_size(num), INFLIGHT_ALIGN);
}

void vhost_forget_inflight(struct vhost *vh)
{
	if (!vh->inf)
		return;
	journal_close(vh);
	guest_unprotect(vh->inf_slot);
	munmap(vh->inf_map, vh->inf_map_len);
	vh->inf = NULL;
}

static bool inflight_shape(const struct vhost *vh, unsigned queues, unsigned num)
{
	return has_protocol(vh, VHOST_PF_INFLIGHT_SHMFD) && queues && queues <= vh->max_queues &&
	       num && num <= VRING_MAX;
}

static int get_inflight_fd(struct vhost *vh, struct vhost_msg *m)
{
	unsigned queues = get16(m, 16), num = get16(m, 18);
	uint64_t size = inflight_stride(num) * queues + journal_size();
	int fd, ret;

	if (!inflight_shape(vh, queues, num))
		return -EINVAL;
	fd = memfd_create("tapdisk-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
		ret = -errno;
	} else {
		put64(m, 0, size);
		put64(m, 8, 0);
		ret = reply(vh, m->size, fd);
	}
	close(fd);
	return ret;
}

static bool any_ring_up(const struct vhost *vh)
{
	unsigned i;

	for (i = 0; i < vh->max_queues; i++)
		if (vh->q[i] && vh->q[i]->ring.up)
			return true;
	return false;
}

static int set_inflight_fd(struct vhost *vh, struct vhost_msg *m)
{
	uint64_t size = get64(m, 0), offset = get64(m, 8);
	unsigned queues = get16(m, 16), num = get16(m, 18);
	const struct inflight_head *h;
	struct stat st;
	void *map;
	int slot;

	if (m->nfds != 1 || !inflight_shape(vh, queues, num) || any_ring_up(vh) || vh->replay ||
	    fstat(m->fds[0], &st) < 0 || size < inflight_stride(num) * queues ||
	    size > INT64_MAX / 2 || offset > INT64_MAX / 2 || offset % sysconf(_SC_PAGESIZE) ||
	    (uint64_t)st.st_size < offset + size)
		return -EINVAL;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fds[0], offset);
	if (map == MAP_FAILED)
		return -errno;
	slot = guest_protect(map, size, &vh->guest.broken);
	if (slot < 0) {
		munmap(map, size);
		return slot;
	}
	vhost_forget_inflight(vh);
	vh->inf = vh->inf_map = map;
	vh->inf_map_len = size;
	vh->inf_queues = queues;
	vh->inf_num = num;
	vh->inf_slot = slot;
	h = map;
	if (h->version == 1)	/* what the guest had chosen before a kill */
		vhost_set_wce(vh, !(h->features & INFLIGHT_WRITETHROUGH));
	if (size < inflight_stride(num) * queues + journal_size())
		return 0;
	return journal_open(vh, vh->inf + inflight_stride(num) * queues);
}

/* ------------------------------------------------------------------ configuration space */

static int get_config(struct vhost *vh, struct vhost_msg *m)
{
	uint8_t space[CONFIG_SPACE] = { 0 };
	uint32_t offset = get32(m, 0), size = get32(m, 4);

	if (offset >= CONFIG_SPACE)	/* a front end that counts from the registers' start */
		offset -= CONFIG_SPACE;
	if (!checked_range(offset, size, CONFIG_SPACE) || m->size < 12 + size)
		return reply(vh, 0, -1);
	vhost_config(vh, space);
	memcpy(m->payload + 12, space + offset, size);
	return reply(vh, 12 + size, -1);
}

/* Only the switch of the cache is writable; a migrated guest brings the whole space with it. */
static int set_config(struct vhost *vh, struct vhost_msg *m)
{
	uint32_t offset = get32(m, 0), size = get32(m, 4), flags = get32(m, 8);

	if (offset >= CONFIG_SPACE)
		offset -= CONFIG_SPACE;
	if (!checked_range(offset, size, CONFIG_SPACE) || m->size < 12 + size || flags > 1)
		return -EINVAL;
	if (flags == 0 && (offset != CONFIG_WRITEBACK || size != 1))
		return -EINVAL;
	if (offset <= CONFIG_WRITEBACK && offset + size > CONFIG_WRITEBACK)
		vhost_set_wce(vh, m->payload[12 + CONFIG_WRITEBACK - offset]);
	return 0;
}

/* ------------------------------------------------------------------ rings */

static int set_vring_num(struct vhost *vh, struct vhost_msg *m)
{
	struct vqueue *q = vhost_queue(vh, get32(m, 0));
	uint32_t num = get32(m, 4);

	if (!q || !num || num > VRING_MAX || q->ring.up)
		return -EINVAL;
	q->num = num;
	return 0;
}

static int set_vring_addr(struct vhost *vh, struct vhost_msg *m)
{
	struct vqueue *q = vhost_queue(vh, get32(m, 0));
	struct vring_addr a;

	if (!q)
		return -EINVAL;
	a.log_used = get32(m, 4) & 1;
	a.desc = get64(m, 8);
	a.used = get64(m, 16);
	a.avail = get64(m, 24);
	a.log = get64(m, 32);
	/* a running ring can only have its logging switched */
	if (q->ring.up && (a.desc != q->addr.desc || a.used != q->addr.used || a.avail != q->addr.avail))
		return -EBUSY;
	q->addr = q->ring.addr = a;
	q->have_addr = true;
	vqueue_activate(q);
	return 0;
}

static int set_vring_base(struct vhost *vh, struct vhost_msg *m)
{
	struct vqueue *q = vhost_queue(vh, get32(m, 0));

	if (!q || q->ring.up)
		return -EINVAL;
	q->base = get32(m, 4);
	return 0;
}

static int get_vring_base(struct vhost *vh, struct vhost_msg *m)
{
	struct vqueue *q = vhost_queue(vh, get32(m, 0));
	uint32_t base;

	if (!q)
		return -EINVAL;
	if (q->ring.up) {
		q->base = vring_base(&q->ring);
		vring_settle(&q->ring);
	}
	base = q->base;
	vqueue_reset(q);
	q->base = base;
	memcpy(m->payload + 4, &base, sizeof(base));
	return reply(vh, 8, -1);
}

/* The descriptor of a kick, call or err message: in *@fd, -1 if there is none. */
static struct vqueue *vring_fd(struct vhost *vh, struct vhost_msg *m, int *fd)
{
	uint64_t v = get64(m, 0);
	struct vqueue *q = vhost_queue(vh, v & 0xff);
	bool none = v & VRING_NO_FD;
	struct stat st;

	if (!q || m->nfds != (none ? 0 : 1))
		return NULL;
	*fd = -1;
	if (none)
		return q;
	/* a write to what is meant to be an eventfd must not block, nor change a file */
	if (fstat(m->fds[0], &st) < 0 || S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
	    S_ISDIR(st.st_mode) || fcntl(m->fds[0], F_SETFL, O_NONBLOCK) < 0)
		return NULL;
	*fd = take_fd(m);
	return q;
}

static int set_vring_kick(struct vhost *vh, struct vhost_msg *m)
{
	int fd, ret = 0;
	struct vqueue *q = vring_fd(vh, m, &fd);

	if (!q)
		return -EINVAL;
	if (q->kick_fd >= 0) {
		loop_unwatch(vh->loop, &q->kick);
		close(q->kick_fd);
	}
	q->kick_fd = q->kick.fd = fd;
	if (fd >= 0)
		ret = loop_watch(vh->loop, &q->kick);
	if (ret) {
		close(fd);
		q->kick_fd = -1;
		return ret;
	}
	q->poll = fd < 0;
	q->kicked = true;
	vqueue_activate(q);
	return 0;
}

static int replace_fd(struct vqueue *q, int *old, int fd)
{
	if (!q)
		return -EINVAL;
	if (*old >= 0)
		close(*old);
	*old = fd;
	return 0;
}

static int set_vring_call(struct vhost *vh, struct vhost_msg *m)
{
	static const uint64_t one = 1;
	int fd;
	struct vqueue *q = vring_fd(vh, m, &fd);

	if (!q)
		return -EINVAL;
	replace_fd(q, &q->call_fd, fd);
	/* completions that were told of through the old one may not have been seen */
	if (q->ring.up && fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		log_debug("%s: queue %u: call: %s", vh->name, q->index, strerror(errno));
	return 0;
}

static int set_vring_err(struct vhost *vh, struct vhost_msg *m)
{
	int fd;
	struct vqueue *q = vring_fd(vh, m, &fd);

	return q ? replace_fd(q, &q->err_fd, fd) : -EINVAL;
}

static int set_vring_enable(struct vhost *vh, struct vhost_msg *m)
{
	struct vqueue *q = vhost_queue(vh, get32(m, 0));
	uint32_t on = get32(m, 4);

	if (!q || on > 1)
		return -EINVAL;
	q->enabled = on;
	vqueue_activate(q);
	return 0;
}

static int reset_device(struct vhost *vh, struct vhost_msg *m)
{
	unsigned i;

	if (!has_protocol(vh, VHOST_PF_RESET_DEVICE))
		return -EINVAL;
	for (i = 0; i < vh->max_queues; i++) {
		if (!vh->q[i])
			continue;
		vring_settle(&vh->q[i]->ring);
		vqueue_reset(vh->q[i]);
		vh->q[i]->enabled = false;
	}
	vh->features = 0;
	vh->guest.log_on = false;
	vh->status = 0;
	vhost_update_stable(vh);
	return 0;
}

/* ------------------------------------------------------------------ the table */

enum {
	REPLIES	= 1 << 0,	/* has an answer of its own */
	DRAIN	= 1 << 1,	/* all queues first */
	DRAIN1	= 1 << 2,	/* the queue that the first word names */
};

struct kind {
	const char *name;
	uint16_t size;		/* of the payload, at least */
	uint8_t fds;		/* at most */
	uint8_t flags;
	int (*fn)(struct vhost *vh, struct vhost_msg *m);
};

static const struct kind kinds[] = {
	[1] = { "GET_FEATURES", 0, 0, REPLIES, get_features },
	[2] = { "SET_FEATURES", 8, 0, 0, set_features },
	[3] = { "SET_OWNER", 0, 0, 0, nothing },
	[4] = { "RESET_OWNER", 0, 0, 0, nothing },
	[5] = { "SET_MEM_TABLE", 8, VHOST_FDS, DRAIN, set_mem_table },
	[6] = { "SET_LOG_BASE", 16, 1, REPLIES, set_log_base },
	[7] = { "SET_LOG_FD", 0, 1, 0, nothing },
	[8] = { "SET_VRING_NUM", 8, 0, 0, set_vring_num },
	[9] = { "SET_VRING_ADDR", 40, 0, 0, set_vring_addr },
	[10] = { "SET_VRING_BASE", 8, 0, 0, set_vring_base },
	[11] = { "GET_VRING_BASE", 8, 0, REPLIES | DRAIN1, get_vring_base },
	[12] = { "SET_VRING_KICK", 8, 1, 0, set_vring_kick },
	[13] = { "SET_VRING_CALL", 8, 1, 0, set_vring_call },
	[14] = { "SET_VRING_ERR", 8, 1, 0, set_vring_err },
	[15] = { "GET_PROTOCOL_FEATURES", 0, 0, REPLIES, get_protocol_features },
	[16] = { "SET_PROTOCOL_FEATURES", 8, 0, 0, set_protocol_features },
	[17] = { "GET_QUEUE_NUM", 0, 0, REPLIES, get_queue_num },
	[18] = { "SET_VRING_ENABLE", 8, 0, 0, set_vring_enable },
	[21] = { "SET_BACKEND_REQ_FD", 0, 1, 0, set_backend_fd },
	[24] = { "GET_CONFIG", 12, 0, REPLIES, get_config },
	[25] = { "SET_CONFIG", 12, 0, 0, set_config },
	[31] = { "GET_INFLIGHT_FD", 20, 0, REPLIES, get_inflight_fd },
	[32] = { "SET_INFLIGHT_FD", 20, 1, 0, set_inflight_fd },
	[34] = { "RESET_DEVICE", 0, 0, DRAIN, reset_device },
	[36] = { "GET_MAX_MEM_SLOTS", 0, 0, REPLIES, get_max_mem_slots },
	[37] = { "ADD_MEM_REG", 40, 1, 0, add_mem_reg },
	[38] = { "REM_MEM_REG", 40, 1, DRAIN, rem_mem_reg },
	[39] = { "SET_STATUS", 8, 0, 0, set_status },
	[40] = { "GET_STATUS", 0, 0, REPLIES, get_status },
};

static const struct kind *find_kind(uint32_t request)
{
	return request < ARRAY_SIZE(kinds) && kinds[request].fn ? &kinds[request] : NULL;
}

/* True: requests are still running that have to come back first. */
static bool must_wait(struct vhost *vh, const struct kind *k)
{
	struct vqueue *q = NULL;

	if (k->flags & DRAIN)
		return vhost_busy(vh) > 0;
	if (k->flags & DRAIN1)
		q = vhost_queue(vh, get32(&vh->msg, 0));
	return q && (q->busy || q->ring.pushed);
}

/* Does what the complete message says. Negative: the connection ends (V1). */
static int obey(struct vhost *vh)
{
	struct vhost_msg *m = &vh->msg;
	const struct kind *k = find_kind(m->request);
	bool ack = m->flags & FLAG_NEED_REPLY && has_protocol(vh, VHOST_PF_REPLY_ACK);
	int ret;

	if (!k) {
		log_debug("%s: message %u is unknown", vh->name, m->request);
		return ack ? reply64(vh, 1) : 0;
	}
	if (m->size < k->size || m->nfds > k->fds) {
		log_warn("%s: %s of %u bytes with %u descriptors", vh->name, k->name, m->size, m->nfds);
		return -EPROTO;
	}
	ret = k->fn(vh, m);
	if (ret)
		log_warn("%s: %s: %s", vh->name, k->name, strerror(-ret));
	if (k->flags & REPLIES || (ret && !ack))
		return ret;
	return ack ? reply64(vh, ret != 0) : 0;
}

/* The message is complete. 1: it waits for queues to drain. */
static int dispatch(struct vhost *vh)
{
	const struct kind *k = find_kind(vh->msg.request);
	int ret;

	if (k && vh->msg.size >= k->size && must_wait(vh, k)) {
		vh->waiting = vh->held = true;
		loop_watch_events(vh->loop, &vh->sock, 0);
		return 1;
	}
	ret = obey(vh);
	vhost_msg_clear(&vh->msg);
	return ret;
}

int vhost_drained(struct vhost *vh)
{
	const struct kind *k;
	int ret;

	if (!vh->waiting) {
		vh->held = vh->replay != NULL;
		return 0;
	}
	k = find_kind(vh->msg.request);
	if (k && must_wait(vh, k))
		return 0;
	vh->waiting = false;
	vh->held = vh->replay != NULL;
	ret = obey(vh);
	vhost_msg_clear(&vh->msg);
	if (!ret)
		ret = loop_watch_events(vh->loop, &vh->sock, EPOLLIN);
	return ret;
}

/* ------------------------------------------------------------------ reading */

/* Reads as much as belongs to this message. 1: it is complete; 0: there is no more for now. */
static int receive(struct vhost *vh)
{
	struct vhost_msg *m = &vh->msg;
	uint8_t *to = m->got < HEADER ? (uint8_t *)&m->request + m->got : m->payload + m->got - HEADER;
	size_t want = m->got < HEADER ? HEADER - m->got : HEADER + m->size - m->got;
	ssize_t n;

	_Static_assert(offsetof(struct vhost_msg, size) == 8, "the header lies as it is sent");
	n = sock_recv_fds(vh->fd, to, want, m->fds, &m->nfds, VHOST_FDS);
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	m->got += n;
	if (m->got < HEADER)
		return 0;
	if (m->got == HEADER && ((m->flags & (FLAG_VERSION_MASK | FLAG_REPLY)) != FLAG_VERSION ||
				 m->size > VHOST_PAYLOAD)) {
		log_warn("%s: message %u with flags %#x and %u bytes", vh->name, m->request, m->flags,
			 m->size);
		return -EPROTO;
	}
	return m->got == HEADER + m->size ? 1 : receive(vh);
}

int vhost_receive(struct vhost *vh)
{
	unsigned i;
	int ret = 0;

	for (i = 0; i < MESSAGES_FAIR && !vh->waiting; i++) {
		ret = receive(vh);
		if (ret <= 0)
			return ret;
		ret = dispatch(vh);
		if (ret < 0)
			return ret;
	}
	return 0;
}
