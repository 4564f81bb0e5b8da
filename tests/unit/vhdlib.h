/* SPDX-License-Identifier: BSD-2-Clause */
/* vhdlib.h - VHD images made, looked into and damaged by hand */
#ifndef VHDLIB_H
#define VHDLIB_H

#include "scratch.h"
#include "vhd.h"

#define IMG "t.vhd"
#define BLK (2 * MiB)

/* Options as "name=value,name=value"; NULL: none. */
void v_make(const char *name, uint64_t size, const char *opts, const char *parent,
	    const char *parent_format);
struct v_result {
	struct tapimg_check c;
	char text[16384];		/* lines of the report, each with its severity */
};
const struct v_result *v_check(const char *name, unsigned fix);
void v_clean(const char *name);

uint64_t v_peek(const char *name, uint64_t off, unsigned bytes);	/* big-endian */
void v_poke(const char *name, uint64_t off, uint64_t value, unsigned bytes);
void v_read(const char *name, void *buf, uint64_t len, uint64_t off);
void v_write(const char *name, const void *buf, uint64_t len, uint64_t off);
uint64_t v_size(const char *name);
void v_cut(const char *name, uint64_t size);
/* Puts the checksum right after a change: of the footer at @off, of the header at 512. */
void v_sum_footer(const char *name, uint64_t off);
void v_sum_header(const char *name);
uint64_t v_trailer(const char *name);		/* its offset */
uint64_t v_block(const char *name, unsigned blk);	/* offset of its bitmap; 0: none */

/* One byte over [off, off+len), through an image of its own. */
void v_fill(const char *name, uint8_t byte, uint64_t off, uint64_t len);
void v_expect(const char *name, uint8_t byte, uint64_t off, uint64_t len);

#endif
