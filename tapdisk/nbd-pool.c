/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-pool.c - buffers for payloads, used again while they are warm
 *
 * A buffer fresh from the kernel costs a page fault for each 4 KiB, more than filling it.  So unused
 * ones are kept, up to a limit while there is work, none of them when it is quiet.  The last one
 * that came back is the first to go out, since it is still in the processor's cache.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "nbd.h"

#define MAPPED_SHIFT 16			/* from 64 KiB on: straight from the kernel, and back to it */

static unsigned class_of(uint64_t len)
{
	unsigned shift = NBD_POOL_MIN_SHIFT;

	while (len > 1ULL << shift)
		shift++;
	return shift - NBD_POOL_MIN_SHIFT;
}

uint64_t nbd_pool_size(uint64_t len)
{
	return 1ULL << (class_of(len) + NBD_POOL_MIN_SHIFT);
}

static void *buf_new(unsigned shift)
{
	void *p;

	if (shift < MAPPED_SHIFT)
		return posix_memalign(&p, 4096, 1ULL << shift) ? NULL : p;
	p = mmap(NULL, 1ULL << shift, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void buf_delete(void *p, unsigned shift)
{
	if (shift < MAPPED_SHIFT)
		free(p);
	else
		munmap(p, 1ULL << shift);
}

void *nbd_pool_get(struct nbd_pool *p, uint64_t len)
{
	unsigned c = class_of(len);
	void *buf;

	if (c >= NBD_POOL_CLASSES)
		return NULL;
	buf = p->free[c];
	if (!buf)
		return buf_new(c + NBD_POOL_MIN_SHIFT);
	p->free[c] = *(void **)buf;
	p->kept -= 1ULL << (c + NBD_POOL_MIN_SHIFT);
	return buf;
}

void nbd_pool_put(struct nbd_pool *p, void *buf, uint64_t len)
{
	unsigned c = class_of(len), shift = c + NBD_POOL_MIN_SHIFT;

	if (!buf)
		return;
	if (p->kept + (1ULL << shift) > NBD_FREE_MAX) {
		buf_delete(buf, shift);
		return;
	}
	*(void **)buf = p->free[c];
	p->free[c] = buf;
	p->kept += 1ULL << shift;
}

void nbd_pool_trim(struct nbd_pool *p)
{
	for (unsigned c = 0; c < NBD_POOL_CLASSES; c++) {
		void *buf;

		while ((buf = p->free[c])) {
			p->free[c] = *(void **)buf;
			buf_delete(buf, c + NBD_POOL_MIN_SHIFT);
		}
	}
	p->kept = 0;
}
