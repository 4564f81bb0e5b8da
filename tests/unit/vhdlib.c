/* SPDX-License-Identifier: BSD-2-Clause */
/* vhdlib.c - VHD images made, looked into and damaged by hand */
#include <string.h>

#include "vhdlib.h"

void v_make(const char *name, uint64_t size, const char *opts, const char *parent,
	    const char *parent_format)
{
	img_make(name, "vhd", size, opts, parent, parent_format);
}

const struct v_result *v_check(const char *name, unsigned fix)
{
	return img_check(name, "vhd", fix);
}

void v_clean(const char *name)
{
	img_clean(name, "vhd");
}

static void sum(const char *name, uint64_t off, unsigned len, unsigned at)
{
	uint8_t b[VHD_HEADER_SIZE];
	uint32_t s = 0;

	v_read(name, b, len, off);
	memset(b + at, 0, 4);
	for (unsigned i = 0; i < len; i++)
		s += b[i];
	v_poke(name, off + at, (uint32_t)~s, 4);
}

void v_sum_footer(const char *name, uint64_t off)
{
	sum(name, off, VHD_SECTOR, 64);
}

void v_sum_header(const char *name)
{
	sum(name, 512, VHD_HEADER_SIZE, 36);
}

uint64_t v_trailer(const char *name)
{
	return v_size(name) - VHD_SECTOR;
}

uint64_t v_block(const char *name, unsigned blk)
{
	uint32_t e = v_peek(name, 1536 + 4ULL * blk, 4);

	return e == VHD_UNUSED ? 0 : (uint64_t)e * VHD_SECTOR;
}

void v_fill(const char *name, uint8_t byte, uint64_t off, uint64_t len)
{
	img_fill(name, "vhd", byte, off, len);
}

void v_expect(const char *name, uint8_t byte, uint64_t off, uint64_t len)
{
	img_expect(name, "vhd", byte, off, len);
}
