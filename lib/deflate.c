/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * deflate.c - deflate streams of whole units
 *
 * Written with zlib, which can be told how far distances may reach; reading uses libdeflate, which is
 * faster, and zlib for the streams libdeflate does not take: those that have filled the unit but
 * want to go on.
 */
#include <errno.h>
#include <stdlib.h>

#include <libdeflate.h>
#include <zlib.h>

#include "deflate.h"
#include "work.h"

#define WINDOW_BITS (-12)
/*
 * A window of 4 KiB leaves little for a longer search to find: on 64 KiB units of a system's files level 5 is
 * half a percent larger than zlib's default of 6 and takes two thirds of its time. A larger hash
 * table (memLevel 9) costs more to clear for each unit than it saves.
 */
#define DEFLATE_LEVEL 5
#define DEFLATE_MEM 8

static void deflate_dtor(void *p)
{
	deflateEnd(p);
	free(p);
}

static z_stream *deflate_get(void)
{
	void **slot = work_slot(WORK_SLOT_DEFLATE, deflate_dtor);
	z_stream *z;

	if (!slot)
		return NULL;
	if (*slot)
		return deflateReset(*slot) == Z_OK ? *slot : NULL;
	z = calloc(1, sizeof(*z));
	if (!z)
		return NULL;
	if (deflateInit2(z, DEFLATE_LEVEL, Z_DEFLATED, WINDOW_BITS, DEFLATE_MEM,
			 Z_DEFAULT_STRATEGY) != Z_OK) {
		free(z);
		return NULL;
	}
	*slot = z;
	return z;
}

int deflate_encode(const void *src, uint32_t src_len, void *dst, uint32_t dst_max)
{
	z_stream *z = deflate_get();
	int ret;

	if (!z)
		return -ENOMEM;
	z->next_in = (void *)src;
	z->avail_in = src_len;
	z->next_out = dst;
	z->avail_out = dst_max;
	ret = deflate(z, Z_FINISH);
	if (ret == Z_STREAM_END)
		return dst_max - z->avail_out;
	return ret == Z_OK || ret == Z_BUF_ERROR ? 0 : -EIO;
}

/* What counts is that the cluster gets full, not that the stream ends. */
static int zlib_decode(const void *src, uint32_t src_len, void *dst, uint32_t dst_len)
{
	z_stream z = { .next_in = (void *)src, .avail_in = src_len, .next_out = dst,
		       .avail_out = dst_len };
	int ret;

	if (inflateInit2(&z, -15) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (z.avail_out || (ret != Z_STREAM_END && ret != Z_OK && ret != Z_BUF_ERROR))
		return -EIO;
	return 0;
}

static void inflate_dtor(void *p)
{
	libdeflate_free_decompressor(p);
}

struct libdeflate_decompressor *deflate_decompressor(void)
{
	void **slot = work_slot(WORK_SLOT_INFLATE, inflate_dtor);

	if (slot && !*slot)
		*slot = libdeflate_alloc_decompressor();
	return slot ? *slot : NULL;
}

int deflate_decode(const void *src, uint32_t src_len, void *dst, uint32_t dst_len)
{
	struct libdeflate_decompressor *d = deflate_decompressor();

	if (d && libdeflate_deflate_decompress(d, src, src_len, dst, dst_len, NULL) ==
	    LIBDEFLATE_SUCCESS)
		return 0;
	return zlib_decode(src, src_len, dst, dst_len);
}

/* ------------------------------------------------------ libdeflate's compressors */

struct keeper {
	struct libdeflate_compressor *c;
	int level;
};

static void keeper_dtor(void *p)
{
	struct keeper *k = p;

	libdeflate_free_compressor(k->c);
	free(k);
}

struct libdeflate_compressor *deflate_compressor(int level)
{
	void **slot = work_slot(WORK_SLOT_DEFLATER, keeper_dtor);
	struct keeper *k;

	if (slot && !*slot)
		*slot = calloc(1, sizeof(*k));
	if (!slot || !*slot)
		return NULL;
	k = *slot;
	if (!k->c || k->level != level) {
		libdeflate_free_compressor(k->c);
		k->c = libdeflate_alloc_compressor(level);
		k->level = level;
	}
	return k->c;
}
