/* SPDX-License-Identifier: BSD-2-Clause */
/* vmdklib.h - VMDKs built sector by sector, and looks at what became of them */
#ifndef VMDKLIB_H
#define VMDKLIB_H

#include "checked.h"
#include "scratch.h"

#define S 512

extern uint8_t vm_bytes[8 * MiB];	/* where they are built */

/*
 * A hosted sparse extent without a descriptor: header in sector 0; redundant directory in sector 1
 * and its table in 2 to 5; directory in 6 and its table in 7 to 10; grains from sector 16 on.
 */
void vm_sparse(uint64_t capacity, uint32_t grain, uint32_t flags, bool tables);
/* entry @i of the tables, in one copy (1: redundant, 2: first) or both (3) */
void vm_gte(unsigned i, uint32_t sector, unsigned copies);
/* COWD: header in sectors 0 to 3, a directory of one entry in sector 4, nothing else. */
void vm_cowd(uint32_t sectors, uint32_t grain);
/* A grain as level 0 has it, of stored blocks, up to a whole sector: its length.  @marks: with its sector in front. */
size_t vm_grain(uint8_t *p, uint64_t lba, const uint8_t *data, uint32_t len, bool marks);

/* One byte over [off, off+len) of the disk. */
void vm_expect(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v);
void vm_store(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v);
uint32_t vm_le32(const char *name, long at);

/* NULL: it fails, as *err says. */
struct tapimg *vm_open(const char *name, unsigned flags, const char *format, struct tapimg_err *err);
/* It does not open, with that code and that in the message. */
void vm_fails(const char *name, unsigned flags, int code, const char *text);
/* What a check finds; what a repair finds and mends, and a check nothing afterwards. */
void vm_clean(const char *name, uint64_t corruptions);
void vm_repair(const char *name, uint64_t corruptions);

#endif
