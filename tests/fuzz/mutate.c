/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mutate.c - changes to qcow2 images that keep most of their structure
 *
 * Finds the tables that the header points to and puts an interesting value into one of their
 * entries: off by one, out of the file, onto other tables, flags that do not go together.
 */
#include <string.h>

#include "checked.h"
#include "endian.h"
#include "fuzz.h"

struct field {
	uint16_t off, len;
};

static const struct field header[] = {
	{ 4, 4 }, { 8, 8 }, { 16, 4 }, { 20, 4 }, { 24, 8 }, { 32, 4 }, { 36, 4 }, { 40, 8 },
	{ 48, 8 }, { 56, 4 }, { 60, 4 }, { 64, 8 }, { 72, 8 }, { 80, 8 }, { 88, 8 }, { 96, 4 },
	{ 100, 4 }, { 104, 1 }, { 112, 4 }, { 116, 4 }, { 120, 8 }, { 128, 8 }, { 136, 8 },
};

static uint64_t interesting(struct rng *r, const uint8_t *data, size_t size, unsigned cbits,
			    uint64_t old)
{
	uint64_t cs = 1ULL << cbits;

	switch (rng_below(r, 16)) {
	case 0: return 0;
	case 1: return old + 1;
	case 2: return old - 1;
	case 3: return old ^ (1ULL << rng_below(r, 64));
	case 4: return rng_below(r, size / cs + 2) * cs;
	case 5: return rng_below(r, size / cs + 2) * cs | 1ULL << 63;
	case 6: return rng_below(r, size / cs + 2) * cs | 1ULL << 62 | rng_next(r) << 40;
	case 7: return rng_below(r, size + 512);
	case 8: return UINT64_MAX;
	case 9: return 1ULL << rng_below(r, 64);
	case 10: return (1ULL << rng_below(r, 64)) - 1;
	case 11: return rng_next(r);
	case 12: return old | 1;
	case 13: return old ^ 3ULL << 62;
	case 14: return old + cs;
	default: return size >= 8 ? get_be64(data + rng_below(r, size - 7)) : 0;
	}
}

static void put(uint8_t *p, unsigned len, uint64_t v)
{
	switch (len) {
	case 1: *p = v; break;
	case 2: put_be16(p, v); break;
	case 4: put_be32(p, v); break;
	default: put_be64(p, v);
	}
}

/* A place in one of the tables, or 0. */
static uint64_t table_entry(struct rng *r, const uint8_t *d, size_t size, unsigned cbits)
{
	uint64_t cs = 1ULL << cbits, mask = 0x00fffffffffffe00ULL, base;
	uint64_t l1 = get_be64(d + 40), rt = get_be64(d + 48), snap = get_be64(d + 64);
	unsigned nl1 = get_be32(d + 36);

	switch (rng_below(r, 8)) {
	case 0:
		base = l1 + 8 * rng_below(r, nl1 < 64 ? nl1 + 1 : 64);
		break;
	case 1: case 2: case 3:
		base = l1 + 8 * rng_below(r, nl1 < 64 ? nl1 + 1 : 64);
		if (!checked_range(base, 8, size))
			return 0;
		base = (get_be64(d + base) & mask) + 8 * rng_below(r, cs / 8);
		break;
	case 4:
		base = rt + 8 * rng_below(r, 8);
		break;
	case 5:
		if (!checked_range(rt, 8, size))
			return 0;
		base = (get_be64(d + rt) & mask) + 2 * rng_below(r, 40);
		break;
	case 6:
		base = snap + 4 * rng_below(r, 20);
		break;
	default:
		if (size < 160)
			return 0;
		base = 104 + 4 * rng_below(r, (size < 600 ? size - 110 : 490) / 4);
	}
	return base;
}

static size_t mutate_structure(uint8_t *d, size_t size, struct rng *r)
{
	unsigned cbits = get_be32(d + 20), len;
	uint64_t at;

	if (cbits < 9 || cbits > 21)
		cbits = 9;
	if (rng_pct(r, 35)) {
		const struct field *f = &header[rng_below(r, sizeof(header) / sizeof(header[0]))];

		at = f->off;
		len = f->len;
	} else {
		at = table_entry(r, d, size, cbits);
		len = rng_pct(r, 80) ? 8 : rng_pct(r, 50) ? 4 : 2;
	}
	if (at < size && size - at >= len) {
		uint64_t old = len == 8 ? get_be64(d + at) : len == 4 ? get_be32(d + at) :
			       len == 2 ? get_be16(d + at) : d[at];

		put(d + at, len, interesting(r, d, size, cbits, old));
	}
	return size;
}

size_t fuzz_mutate_qcow2(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct rng r = { seed };
	unsigned n = 1 + rng_below(&r, 3);

	if (size < 112 || rng_pct(&r, 20))
		return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max) : size;
	if (rng_pct(&r, 3))
		return size - rng_below(&r, size / 2);
	if (rng_pct(&r, 3) && size + 512 <= max) {
		memset(data + size, 0, 512);
		return size + 512;
	}
	if (rng_pct(&r, 10))
		memcpy(data, "QFI\xfb\0\0\0\3", 8);
	while (n--)
		size = mutate_structure(data, size, &r);
	return size;
}
