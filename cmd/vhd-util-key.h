/* SPDX-License-Identifier: BSD-2-Clause */
/* vhd-util-key.h - between vhd-util-key.c and vhd-util-copy.c */
#ifndef VHD_UTIL_KEY_H
#define VHD_UTIL_KEY_H

#include "crypt.h"
#include "vhd-util.h"

#define VU_KEY_MAX 64		/* bytes; 32 and 64 are in use */

/* The digest that a disk keeps of its key. */
int vu_key_hash(const uint8_t nonce[32], const uint8_t *key, size_t len, uint8_t hash[32],
		struct tapimg_err *err);

#endif
