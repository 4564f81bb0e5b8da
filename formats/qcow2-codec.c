/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-codec.c - compressed clusters: deflate and zstd
 *
 * Deflate clusters are raw streams whose distances stay within 4 KiB, because other readers inflate
 * with a window of that size.  So they are written with zlib, which can be told; reading uses
 * libdeflate, which is faster, and zlib for the streams libdeflate does not take: those that
 * have filled the cluster but want to go on.
 *
 * Contexts are made once for each thread and reused.
 */
#include <stdlib.h>

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include "qcow2.h"
#include "work.h"

#define WINDOW_BITS (-12)
/*
 * A window of 4 KiB leaves little for a longer search to find: on 64 KiB units of a system's files level 5 is
 * half a percent larger than zlib's default of 6 and takes two thirds of its time. A larger hash
 * table (memLevel 9) costs more to clear for each unit than it saves.
 */
#define DEFLATE_LEVEL 5
#define DEFLATE_MEM 8
#define ZSTD_WINDOW_MAX 25	/* log2: what a frame may make the decoder allocate */

/* ------------------------------------------------------------------- deflate */

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

static int deflate_encode(const void *src, uint32_t src_len, void *dst, uint32_t dst_max)
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

static int deflate_decode(const void *src, uint32_t src_len, void *dst, uint32_t dst_len)
{
	void **slot = work_slot(WORK_SLOT_INFLATE, inflate_dtor);

	if (slot && !*slot)
		*slot = libdeflate_alloc_decompressor();
	if (!slot || !*slot)
		return zlib_decode(src, src_len, dst, dst_len);
	if (libdeflate_deflate_decompress(*slot, src, src_len, dst, dst_len, NULL) ==
	    LIBDEFLATE_SUCCESS)
		return 0;
	return zlib_decode(src, src_len, dst, dst_len);
}

/* ---------------------------------------------------------------------- zstd */

static void zstd_c_dtor(void *p)
{
	ZSTD_freeCCtx(p);
}

static void zstd_d_dtor(void *p)
{
	ZSTD_freeDCtx(p);
}

static int zstd_encode(const void *src, uint32_t src_len, void *dst, uint32_t dst_max)
{
	void **slot = work_slot(WORK_SLOT_ZSTD_C, zstd_c_dtor);
	size_t n;

	if (slot && !*slot)
		*slot = ZSTD_createCCtx();
	if (!slot || !*slot)
		return -ENOMEM;
	n = ZSTD_compressCCtx(*slot, dst, dst_max, src, src_len, ZSTD_CLEVEL_DEFAULT);
	return ZSTD_isError(n) ? 0 : (int)n;	/* the only error possible: dst is too small */
}

static ZSTD_DCtx *zstd_d_get(void)
{
	void **slot = work_slot(WORK_SLOT_ZSTD_D, zstd_d_dtor);

	if (!slot)
		return NULL;
	if (!*slot) {
		*slot = ZSTD_createDCtx();
		if (*slot)
			ZSTD_DCtx_setParameter(*slot, ZSTD_d_windowLogMax, ZSTD_WINDOW_MAX);
	}
	return *slot;
}

/* Several frames, or one without a size: they have to fill the cluster exactly. */
static int zstd_stream(ZSTD_DCtx *d, const void *src, uint32_t src_len, void *dst,
		       uint32_t dst_len)
{
	ZSTD_inBuffer in = { .src = src, .size = src_len };
	ZSTD_outBuffer out = { .dst = dst, .size = dst_len };
	size_t ret, in_was, out_was;

	ZSTD_DCtx_reset(d, ZSTD_reset_session_only);
	do {
		in_was = in.pos;
		out_was = out.pos;
		ret = ZSTD_decompressStream(d, &out, &in);
		if (ZSTD_isError(ret))
			return -EIO;
	} while ((out.pos < out.size || ret) && (in.pos > in_was || out.pos > out_was));
	return out.pos == out.size && !ret ? 0 : -EIO;
}

static int zstd_decode(const void *src, uint32_t src_len, void *dst, uint32_t dst_len)
{
	ZSTD_DCtx *d = zstd_d_get();
	size_t n;

	if (!d)
		return -ENOMEM;
	/* what follows the frame in its last sector belongs to somebody else */
	n = ZSTD_findFrameCompressedSize(src, src_len);
	if (!ZSTD_isError(n) && ZSTD_decompressDCtx(d, dst, dst_len, src, n) == dst_len)
		return 0;
	return zstd_stream(d, src, src_len, dst, dst_len);
}

/* ---------------------------------------------------------------------- both */

int qcow2_decode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		 void *dst, uint32_t dst_len)
{
	if (qcow2_of(img)->h.compression)
		return zstd_decode(src, src_len, dst, dst_len);
	return deflate_decode(src, src_len, dst, dst_len);
}

int qcow2_encode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		 void *dst, uint32_t dst_max)
{
	if (qcow2_of(img)->h.compression)
		return zstd_encode(src, src_len, dst, dst_max);
	return deflate_encode(src, src_len, dst, dst_max);
}
