/* SPDX-License-Identifier: BSD-2-Clause */
/* endian.h - integers in byte arrays, of any alignment; on-disk structures are read with these */
#ifndef TAPIMG_ENDIAN_H
#define TAPIMG_ENDIAN_H

#include <stdint.h>
#include <string.h>

#define ENDIAN_GET(name, type, swap)                                                               \
	static inline type name(const void *p)                                                     \
	{                                                                                          \
		type v;                                                                            \
		memcpy(&v, p, sizeof(v));                                                          \
		return swap(v);                                                                    \
	}
#define ENDIAN_PUT(name, type, swap)                                                               \
	static inline void name(void *p, type v)                                                   \
	{                                                                                          \
		v = swap(v);                                                                       \
		memcpy(p, &v, sizeof(v));                                                          \
	}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ENDIAN_BE16(v) __builtin_bswap16(v)
#define ENDIAN_BE32(v) __builtin_bswap32(v)
#define ENDIAN_BE64(v) __builtin_bswap64(v)
#define ENDIAN_LE16(v) (v)
#define ENDIAN_LE32(v) (v)
#define ENDIAN_LE64(v) (v)
#else
#define ENDIAN_BE16(v) (v)
#define ENDIAN_BE32(v) (v)
#define ENDIAN_BE64(v) (v)
#define ENDIAN_LE16(v) __builtin_bswap16(v)
#define ENDIAN_LE32(v) __builtin_bswap32(v)
#define ENDIAN_LE64(v) __builtin_bswap64(v)
#endif

ENDIAN_GET(get_be16, uint16_t, ENDIAN_BE16)
ENDIAN_GET(get_be32, uint32_t, ENDIAN_BE32)
ENDIAN_GET(get_be64, uint64_t, ENDIAN_BE64)
ENDIAN_GET(get_le16, uint16_t, ENDIAN_LE16)
ENDIAN_GET(get_le32, uint32_t, ENDIAN_LE32)
ENDIAN_GET(get_le64, uint64_t, ENDIAN_LE64)
ENDIAN_PUT(put_be16, uint16_t, ENDIAN_BE16)
ENDIAN_PUT(put_be32, uint32_t, ENDIAN_BE32)
ENDIAN_PUT(put_be64, uint64_t, ENDIAN_BE64)
ENDIAN_PUT(put_le16, uint16_t, ENDIAN_LE16)
ENDIAN_PUT(put_le32, uint32_t, ENDIAN_LE32)
ENDIAN_PUT(put_le64, uint64_t, ENDIAN_LE64)

#endif
