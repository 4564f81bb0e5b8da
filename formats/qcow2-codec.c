/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-codec.c - compressed clusters: deflate (lib/deflate.c) and zstd
 *
 * Contexts are made once for each thread and reused.
 */
#include <stdlib.h>

#include <zstd.h>

#include "deflate.h"
#include "qcow2.h"
#include "work.h"

#define ZSTD_WINDOW_MAX 25	/* log2: what a frame may make the decoder allocate */

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
