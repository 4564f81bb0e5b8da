/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guest.h - the memory that a front end shares with us: the only way to it
 *
 * A guest is a set of regions, each a mapping of a descriptor that the front end has sent.  Rings
 * and requests name memory by guest address (what the guest's driver wrote) or by user address (where
 * the front end has it mapped).  Every such name passes guest_at() or guest_user() once; what they
 * answer lies inside a region.
 *
 * G1 Neither the guest nor the front end is trusted: contents change at any moment.  What is decided on
 *    is copied first (guest_read(), or single loads) and only the copy is looked at.
 * G2 The front end may truncate what it shares.  An access beyond the new end raises SIGBUS; the handler
 *    puts zero pages where the region was and sets @broken: whoever uses the guest ends the
 *    connection when it sees that.  The kernel's own accesses (transfers) fail with -EFAULT instead.
 * G3 Addresses stay valid until the region goes: whoever removes one waits for its requests first.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "tapimg.h"

#define GUEST_REGIONS 256		/* DIMMs of a large VM, and buffers registered one by one */

struct guest_region {
	uint64_t gpa, size;		/* guest addresses [gpa, gpa+size) */
	uint64_t user;			/* the front end's address of the same */
	uint8_t *host;			/* ours */
	void *map;			/* what to unmap: host rounded down to the file's page size */
	uint64_t map_len;
	int slot;			/* in the table of the SIGBUS handler */
};

struct guest {
	struct guest_region *r;		/* by guest address */
	unsigned n;
	volatile bool broken;		/* G2 */
	/* dirty log for migration, one bit for each 4 KiB page; NULL: none */
	uint8_t *log;
	uint64_t log_pages;
	void *log_map;
	uint64_t log_map_len;
	int log_slot;
	bool log_on;			/* the front end has asked for it: VHOST_F_LOG_ALL */
};

void guest_init(struct guest *g);
void guest_clear(struct guest *g);	/* unmaps everything, the log as well */

/*
 * Maps [@offset, @offset+@size) of @fd, which stays the caller's, as that range of guest memory.
 * -EINVAL (nothing, not inside the file, wraps around, overlaps), -ENOSPC (too many regions), or what
 * the system says.
 */
int guest_map(struct guest *g, uint64_t gpa, uint64_t size, uint64_t user, uint64_t offset, int fd,
	      struct tapimg_err *err);
int guest_unmap(struct guest *g, uint64_t gpa, uint64_t size, uint64_t user);	/* -ENOENT */
void guest_unmap_all(struct guest *g);

const struct guest_region *guest_find(const struct guest *g, uint64_t gpa);

/*
 * Where guest address @gpa is, and in *@run how many of @len bytes from there lie together (at least
 * 1). NULL: nowhere.
 */
static inline void *guest_at(const struct guest *g, uint64_t gpa, uint64_t len, uint64_t *run)
{
	const struct guest_region *r = g->r;
	uint64_t off;

	if (g->n != 1) {
		r = guest_find(g, gpa);
		if (!r)
			return NULL;
	}
	off = gpa - r->gpa;
	if (off >= r->size)		/* a smaller gpa wraps around to more than any size */
		return NULL;
	*run = len < r->size - off ? len : r->size - off;
	return r->host + off;
}

/* The whole of [user, user+len), inside one region.  NULL: not there. */
void *guest_user(const struct guest *g, uint64_t user, uint64_t len);
/* Copies guest memory, which may cross regions. -EFAULT: not all of it is there. */
int guest_read(const struct guest *g, uint64_t gpa, void *buf, uint64_t len);

/* Maps a log of @size bytes at @offset of @fd in place of the one there is. */
int guest_set_log(struct guest *g, int fd, uint64_t size, uint64_t offset, struct tapimg_err *err);
void guest_drop_log(struct guest *g);
/* We have written here: by our address, inside a region; and by an address of the log itself. */
void guest_dirty_host(struct guest *g, const void *host, uint64_t len);
void guest_dirty_log(struct guest *g, uint64_t gpa, uint64_t len);

/*
 * Memory shared with others that may shrink under us: any access inside is safe from then on, and
 * *@broken says if it was needed.  A slot or -ENOSPC.
 */
int guest_protect(void *map, uint64_t len, volatile bool *broken);
void guest_unprotect(int slot);		/* before it is unmapped; negative is accepted */
/* Once in a process, before anything is mapped. */
int guest_catch_sigbus(void);

#endif
