/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * inflight.h - which requests of a ring are being carried out, in memory that outlives the process
 *
 * The front end keeps the memory (GET/SET_INFLIGHT_FD) and gives it to the server that comes after a
 * kill.  Nobody else reads it, so the layout is ours; it has to stay what it is, for the next
 * server may be a newer one.  Without that memory a private area serves, since packed rings want it.
 *
 * An area is a header and one slot for each ring entry.  A request owns a slot from taking to
 * publishing; requests of split rings the one of their head, those of packed rings any.
 *
 *	take		fill the slot, then inflight = 1
 *	push		slot.next = header.batch, header.batch = slot
 *	publish		header.pending and .pending_used; show the driver; then inflight = 0 for the
 *			batch, header.used = used index, pending = 0
 *
 * After a kill: if the newest batch was shown (the ring tells: its used index is no longer
 * header.used) it may not have been cleared: clear it.  What has inflight = 1 then was taken and
 * never shown: it is done again, in the order of its counters.  Whatever was taken stands in the
 * area or has been shown, so the index for taking is the used index plus what the area holds.
 *
 * A ring that was stopped in order leaves an area that is not RUNNING: its contents mean nothing.
 *
 * Requests can be done twice without harm (reads, writes of the same data, zeroes, discards, flushes) as long as
 * the former server is gone, with its transfers: it holds the image's lock until then.
 *
 * The memory is the front end's: each number in it is checked before use.
 */
#ifndef INFLIGHT_H
#define INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct inflight_slot {		/* 32 bytes */
	uint8_t inflight;
	uint8_t pad;
	uint16_t next;		/* the one pushed before */
	uint16_t more;		/* packed: slot with the next descriptor of the chain */
	uint16_t ndesc;		/* packed: descriptors in the chain */
	uint64_t counter;	/* order of taking */
	/* packed: the descriptor, since used entries overwrite those in the ring */
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};
_Static_assert(sizeof(struct inflight_slot) == 32, "layout of the in-flight area");

struct inflight_head {		/* 64 bytes */
	uint64_t features;	/* INFLIGHT_* */
	uint16_t version;	/* 0: fresh memory, 1 */
	uint16_t num;		/* slots */
	uint16_t batch;		/* slot pushed last */
	uint16_t used;		/* split: index; packed: position, bit 15 the wrap counter */
	uint16_t pending;	/* packed: entries of a batch that is about to be shown */
	uint16_t pending_used;	/* and used after that */
	uint8_t pad[44];
};
_Static_assert(sizeof(struct inflight_head) == 64, "layout of the in-flight area");

enum { INFLIGHT_PACKED = 1, INFLIGHT_WRITETHROUGH = 2, INFLIGHT_RUNNING = 4 };

struct inflight {
	struct inflight_head *head;	/* NULL: none */
	struct inflight_slot *slots;
	bool own;			/* private memory: to be freed */
	bool used_before;		/* what it holds is of a former life */
	unsigned num;			/* slots */
	uint64_t counter;
	/*
	 * packed, in our own memory, so that nobody else changes it: unused slots, links of chains, and
	 * by their first slots how many each has (0: not a chain that was found whole)
	 */
	uint16_t *free, *more, *count;
	unsigned nfree;
	struct inflight_run {		/* chains pushed and not yet published */
		uint16_t slot, n;
	} *done;
	unsigned ndone;
};

/* Bytes for a ring of @num entries. */
static inline uint64_t inflight_size(unsigned num)
{
	return sizeof(struct inflight_head) + (uint64_t)num * sizeof(struct inflight_slot);
}

/*
 * Readies it for a ring of @num entries: @mem (inflight_size(num) bytes, aligned; stays the caller's)
 * or, if NULL, memory of its own.  Fresh memory, or what was of another kind or size, is cleared.
 */
int inflight_start(struct inflight *f, void *mem, unsigned num, bool packed);
void inflight_idle(struct inflight *f);		/* stopped in order: nothing is in flight */
void inflight_stop(struct inflight *f);

/* The newest @count that were pushed are cleared: they have been published up to @used. */
void inflight_clear_batch(struct inflight *f, unsigned count, uint16_t used);
/* packed: finds chains and unused slots anew. 0 or -ENOMEM. */
int inflight_find_chains(struct inflight *f);
/* Slots in flight in the order they were taken: malloc'd in *@list; their number or -ENOMEM. */
int inflight_list(struct inflight *f, uint16_t **list);

/* packed: slots for @n descriptors, linked by more[]. The ring is not overfull, so they are there. */
static inline unsigned inflight_alloc(struct inflight *f, unsigned n)
{
	unsigned first = f->free[f->nfree - 1], slot = first;

	for (f->nfree--; --n; f->nfree--) {
		f->more[slot] = f->free[f->nfree - 1];
		slot = f->more[slot];
	}
	return first;
}

/* The chain's slots stay what they are until the batch has been published, and cleared. */
static inline void inflight_free_later(struct inflight *f, unsigned slot, unsigned n)
{
	f->done[f->ndone++] = (struct inflight_run){ slot, n };
}

static inline void inflight_free_now(struct inflight *f)
{
	while (f->ndone) {
		struct inflight_run r = f->done[--f->ndone];

		for (; r.n; r.n--, r.slot = f->more[r.slot])
			f->free[f->nfree++] = r.slot;
	}
}

static inline void inflight_take(struct inflight *f, unsigned slot)
{
	f->slots[slot].counter = f->counter++;
	__atomic_store_n(&f->slots[slot].inflight, 1, __ATOMIC_RELEASE);
}

static inline void inflight_push(struct inflight *f, unsigned slot)
{
	f->slots[slot].next = f->head->batch;
	__atomic_store_n(&f->head->batch, slot, __ATOMIC_RELEASE);
}

#endif
