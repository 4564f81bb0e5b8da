/* SPDX-License-Identifier: BSD-2-Clause */
/* vhdlib.h - VHD images made, looked into and damaged by hand */
#ifndef VHDLIB_H
#define VHDLIB_H

#include "imglib.h"
#include "vhd.h"

#define IMG "t.vhd"
#define BLK (2 * MiB)

/* Options as "name=value,name=value"; NULL: none. */
void v_make(const char *name, uint64_t size, const char *opts, const char *parent,
	    const char *parent_format);
#define v_result img_result
const struct v_result *v_check(const char *name, unsigned fix);
void v_clean(const char *name);

#define v_peek bytes_peek
#define v_poke bytes_poke
#define v_read bytes_read
#define v_write bytes_write
#define v_size bytes_size
#define v_cut bytes_cut
/* Puts the checksum right after a change: of the footer at @off, of the header at 512. */
void v_sum_footer(const char *name, uint64_t off);
void v_sum_header(const char *name);
uint64_t v_trailer(const char *name);		/* its offset */
uint64_t v_block(const char *name, unsigned blk);	/* offset of its bitmap; 0: none */

/* One byte over [off, off+len), through an image of its own. */
void v_fill(const char *name, uint8_t byte, uint64_t off, uint64_t len);
void v_expect(const char *name, uint8_t byte, uint64_t off, uint64_t len);

#endif
