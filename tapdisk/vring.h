/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vring.h - virtqueues: the device's side of split and packed rings
 *
 * A ring lives in guest memory.  vring_pop() takes the next request that the driver has made
 * available, vring_push() says that one is finished, vring_publish() shows the driver all that were
 * pushed, at once.  Requests may finish in any order.
 *
 * R1 Each field of a ring is loaded once, checked, and used from the copy (G1 in guest.h).  Indices are
 *    compared with the size of the ring or table, chains are bounded, so nothing loops.
 * R2 A ring whose driver breaks the rules is dead: vring_pop() answers with an error from then on, and
 *    vring.why says what was found.  Nothing else is affected.
 * R3 What is taken is entered in the in-flight area first, and stays there until after it has been
 *    published (inflight.h): a server that starts after a kill takes the same requests again.
 * R4 Wake-ups are not lost: we publish, then a full barrier, then read whether the driver wants to be
 *    called; to sleep we ask to be kicked, then a full barrier, then look at the ring once more.
 *
 * Layouts and rules: VIRTIO 1.2, 2.7 (split), 2.8 (packed).
 */
#ifndef VRING_H
#define VRING_H

#include "guest.h"
#include "inflight.h"

#define VRING_MAX 32768		/* entries of a ring */
#define VRING_MANY 16		/* published together, where it is not known how many are waited for */
#define VRING_DESCS 1024	/* descriptors, and buffers, of one request */

enum { VRING_F_NEXT = 1, VRING_F_WRITE = 2, VRING_F_INDIRECT = 4 };

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;		/* packed: id, flags */
	uint16_t next;
};

/* A request as it was taken: the buffers are in vring.iov, [0, nout) readable, then nin writable. */
struct vchain {
	uint16_t slot;		/* in the in-flight area; of a split ring: the head */
	uint16_t id;		/* packed: buffer id */
	uint16_t ndesc;		/* packed: ring entries it takes */
	uint16_t nout, nin;
	uint64_t out_len, in_len;
};

/* Where a ring is, in user addresses of the front end. */
struct vring_addr {
	uint64_t desc, used, avail;	/* packed: ring, device events, driver events */
	uint64_t log;			/* guest address for logging writes to used */
	bool log_used;
};

struct vring {
	struct guest *g;
	bool packed, event_idx, indirect;
	bool up;		/* addresses are translated */
	bool armed;		/* the driver has been asked to kick */
	bool called;		/* a call was made since the start: split, event_idx */
	uint16_t num, mask;	/* mask: split only */
	uint16_t avail_idx;	/* next to take. Packed: position */
	uint16_t avail_seen;	/* split: the driver's index as loaded last */
	uint16_t used_idx;	/* next to write */
	uint16_t published;	/* used_idx as the driver sees it */
	bool avail_wrap, used_wrap, published_wrap;	/* packed */
	uint16_t first_flags;	/* packed: of the first entry pushed, not yet written */
	unsigned pushed;	/* since the last publish */
	unsigned many;		/* of them, not to be kept back any longer: vring_push() */
	unsigned inflight;	/* taken and not pushed */
	const char *why;	/* R2, else NULL */

	volatile uint8_t *desc;		/* table, or packed ring */
	volatile uint8_t *avail;	/* or the driver's event structure */
	volatile uint8_t *used;		/* or the device's */
	struct inflight inf;
	/* requests of a former life: slots in the order they were taken; taken again before any other */
	uint16_t *again;
	unsigned nagain, again_at;

	struct vring_addr addr;
	unsigned niov;
	struct iovec iov[VRING_DESCS];
};

/* A ring's life: init; then inflight_start(&v->inf, ...) and start, stop, again and again; exit. */
void vring_init(struct vring *v, struct guest *g);
void vring_exit(struct vring *v);

/*
 * Brings it up: translates @addr, checks alignment, recovers what the in-flight area holds.  @base as in
 * SET_VRING_BASE; an area that was in use knows better.  -EINVAL or -EFAULT explained in @err.
 */
int vring_start(struct vring *v, uint16_t num, const struct vring_addr *addr, uint32_t base,
		struct tapimg_err *err);
/* Takes nothing any more.  Nothing is in flight; pushed ones have been published. */
void vring_stop(struct vring *v);
/* Before a stop that the front end has asked for: the area will not be recovered from. */
void vring_settle(struct vring *v);
uint32_t vring_base(const struct vring *v);	/* as GET_VRING_BASE answers */
/* Guest memory was mapped anew: translates again. Nothing is in flight. */
int vring_remap(struct vring *v, struct tapimg_err *err);

/* 1: a request in *@c and v->iov; 0: none; -EPROTO, -EFAULT: the ring is broken (R2). */
int vring_pop(struct vring *v, struct vchain *c);
/*
 * Finished; @len bytes were written into writable buffers.  When v->pushed has become v->many it should be
 * published soon: that is a quarter of what the driver waits for, so that it and the device work at
 * the same time, each on its part.
 */
void vring_push(struct vring *v, const struct vchain *c, uint32_t len);
/* True: the driver wants to be called. */
bool vring_publish(struct vring *v);
bool vring_has_work(struct vring *v);
/* The driver shall kick.  True: there is work already. */
bool vring_arm(struct vring *v);
/* It need not: we look by ourselves. */
void vring_disarm(struct vring *v);

/* ---- vring-packed.c, called by the above */
int packed_map(struct vring *v, struct tapimg_err *err);
int packed_recover(struct vring *v);
int packed_pop(struct vring *v, struct vchain *c);
int packed_pop_again(struct vring *v, struct vchain *c, unsigned slot);
void packed_push(struct vring *v, const struct vchain *c, uint32_t len);
bool packed_publish(struct vring *v);
bool packed_has_work(const struct vring *v);
bool packed_arm(struct vring *v);
void packed_disarm(struct vring *v);

/* ---- shared by both */
int vring_broken(struct vring *v, int ret, const char *why);
/* Adds a buffer to v->iov. 0, or the ring is broken. */
int vring_add(struct vring *v, struct vchain *c, uint64_t gpa, uint32_t len, bool write);
int vring_add_indirect(struct vring *v, struct vchain *c, uint64_t gpa, uint32_t len);

static inline uint16_t load16(const volatile uint8_t *p)
{
	return __atomic_load_n((const volatile uint16_t *)p, __ATOMIC_RELAXED);
}

static inline uint16_t load16_acquire(const volatile uint8_t *p)
{
	return __atomic_load_n((const volatile uint16_t *)p, __ATOMIC_ACQUIRE);
}

static inline void store16(volatile uint8_t *p, uint16_t v)
{
	__atomic_store_n((volatile uint16_t *)p, v, __ATOMIC_RELAXED);
}

static inline void store16_release(volatile uint8_t *p, uint16_t v)
{
	__atomic_store_n((volatile uint16_t *)p, v, __ATOMIC_RELEASE);
}

#endif
