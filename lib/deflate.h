/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * deflate.h - raw deflate streams of whole units, as QCOW images of both versions hold them
 *
 * Distances stay within 4 KiB, because other readers inflate with a window of that size.  On any
 * thread; contexts are made once for each thread and reused.
 */
#ifndef DEFLATE_H
#define DEFLATE_H

#include <stdint.h>

#include <libdeflate.h>

/* The coded length, or 0 if that is more than dst_max, or a negative errno. */
int deflate_encode(const void *src, uint32_t src_len, void *dst, uint32_t dst_max);
/* Exactly dst_len bytes come out, or -EIO; the stream need not end there.  -ENOMEM. */
int deflate_decode(const void *src, uint32_t src_len, void *dst, uint32_t dst_len);

/* libdeflate's own, of this thread, for other streams.  NULL: no memory. */
struct libdeflate_decompressor *deflate_decompressor(void);
/* @level: 1 to 12.  A thread keeps the one it asked for last. */
struct libdeflate_compressor *deflate_compressor(int level);

#endif
