/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * dring.h - the driver's side of a virtqueue, split or packed: what a guest's kernel does
 *
 * Everything lies in memory that the device sees as well; @host and @gpa name the same place.  The
 * layout is open to the tests, which break it on purpose.
 */
#ifndef DRING_H
#define DRING_H

#include <stdbool.h>
#include <stdint.h>

struct dseg {
	uint64_t gpa;
	uint32_t len;
	bool write;		/* by the device */
};

struct ddesc {			/* of a split ring; packed ones have id, flags in the last two */
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

#define DRING_INDIRECT 130	/* descriptors of one indirect table */

struct dring {
	bool packed, event_idx;
	unsigned num;
	uint8_t *host;
	uint64_t gpa;
	struct ddesc *desc;
	uint16_t *driver;	/* avail ring: flags, idx, ring[], used_event; packed: desc, flags */
	uint16_t *device;	/* used ring: flags, idx, {id, len}[] as 32-bit words, avail_event */
	unsigned driver_off, device_off, tables_off;	/* from host */
	struct ddesc *tables;	/* num tables of DRING_INDIRECT */

	uint16_t free_head, nfree;
	uint16_t *link;		/* free descriptors; packed: free ids */
	uint16_t *count;	/* by id: descriptors of the chain */
	void **cookie;		/* by id; NULL: not in flight */
	uint16_t avail, avail_kicked;	/* index, or position */
	uint16_t used;
	bool avail_wrap, kicked_wrap, used_wrap;
	unsigned added;		/* since the last publish */
	uint16_t first_flags;	/* packed: of the first one added */
	uint16_t first_pos;
};

unsigned dring_bytes(unsigned num);		/* of shared memory, page-aligned */
void dring_init(struct dring *d, bool packed, bool event_idx, unsigned num, uint8_t *host, uint64_t gpa);
void dring_exit(struct dring *d);

/* Adds a request; id, or -1: no room. Not visible before dring_publish(). */
int dring_add(struct dring *d, const struct dseg *seg, unsigned n, bool indirect, void *cookie);
/* Shows what was added. True: the device wants to be kicked. */
bool dring_publish(struct dring *d);
/* The next finished one's cookie, or NULL. An answer nobody waits for ends the program with a message. */
void *dring_get(struct dring *d, uint32_t *len);
/* Asks to be called at the next completion, or not. True: something is there already. */
bool dring_want_call(struct dring *d, bool on);
bool dring_has_used(const struct dring *d);

#endif
