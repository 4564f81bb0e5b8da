/* SPDX-License-Identifier: BSD-2-Clause */
/* qcow2-bitmap.h - bitmaps in memory: what using them (qcow2-bitmap.c) and rebuilding their directory share */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "qcow2-adm.h"

#define MEMORY_MAX GiB		/* of all bitmaps of an image, in memory */

struct bm {
	struct q2_bm d;
	uint64_t *tab;		/* as on disk; NULL: not loaded */
	uint8_t **chunk;	/* NULL: zeroes */
	bool *changed;		/* a chunk, since it was stored */
	uint32_t n;		/* chunks; entries of the table */
	uint64_t nbits;
	bool inconsistent;
	bool dirty;		/* some chunk has changed */
};

struct qcow2_bitmaps {
	struct bm *v;
	uint32_t n;
	uint64_t memory;
	uint64_t csize;
	uint64_t dir_off, dir_bytes;
	bool lost;		/* no memory for a bit: no bitmap may be stored as consistent */
	/* while a resize is under way: what its end frees, one way or the other */
	struct bm *resized;
	uint64_t new_dir_off, new_dir_bytes;
};

struct bm *bm_find(struct qcow2_bitmaps *s, const char *name);
void bm_unload(struct qcow2_bitmaps *s, struct bm *b);
int bm_alloc_tables(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b);
/* Damage makes a bitmap inconsistent; only failures to read are failures. */
int bm_load(struct q2 *q, struct qcow2_bitmaps *s, struct bm *b);
int bm_store_table(struct q2 *q, const struct bm *b);
/* clears what chunk @i, at @p, has behind the last bit */
void bm_trim(const struct bm *b, uint32_t i, uint8_t *p, uint64_t csize);
uint64_t bm_bits(uint64_t size, unsigned gran_bits);
uint32_t bm_chunks(uint64_t size, unsigned gran_bits, uint64_t csize);

#endif
