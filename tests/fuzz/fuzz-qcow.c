/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-qcow.c - a hostile QCOW image of version 1 is opened, described, mapped, read, written to,
 * resized, checked and repaired
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "endian.h"
#include "fuzz.h"
#include "qcow.h"

/* Whether every cluster has its space for itself: without refcounts only a check can tell. */
static bool is_sound(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "qcow", TAPIMG_CHECK | TAPIMG_NO_BACKING, NULL);
	struct tapimg_check c;
	int ret = -EIO;

	if (img)
		ret = tapimg_check(img, 0, &c, NULL, NULL, NULL);
	if (img)
		tapimg_close(img, NULL);
	return !ret && !c.corruptions && !c.check_errors;
}

static void write_some(struct tapimg *img, bool sound)
{
	static uint8_t buf[5000];

	if (sound) {
		fuzz_write_some(img);
		return;
	}
	for (uint64_t i = 0; i < 8; i++) {
		uint64_t off = tapimg_size(img) / 8 * i, len = MIN(sizeof(buf), tapimg_size(img) - off);

		if (i % 3 == 2)
			tapimg_zero(img, off, len, i & 1 ? TAPIMG_REQ_MAY_UNMAP : 0);
		else
			tapimg_pwrite(img, buf, len, off);
	}
	fuzz_look_status(img);
}

static void writing(struct fuzz *f)
{
	bool sound = is_sound(f);
	struct tapimg *img = fuzz_open(f, "qcow", TAPIMG_RDWR | TAPIMG_UNMAP, NULL);
	struct tapimg_err err = { 0 };
	uint64_t size;

	if (!img)
		return;
	size = tapimg_size(img);
	write_some(img, sound);
	if (size < GiB) {
		tapimg_resize(img, size + 70000, TAPIMG_PREALLOC_OFF, false, &err);
		write_some(img, sound);
	}
	if (size > 512)
		tapimg_resize(img, size / 2, TAPIMG_PREALLOC_OFF, true, &err);
	tapimg_close(img, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();
	struct tapimg *img;

	fuzz_put(f, data, size);
	img = fuzz_open(f, "qcow", 0, NULL);
	if (img) {
		fuzz_look_info(img);
		fuzz_look_status(img);
		for (unsigned i = 0; i < 8; i++)
			fuzz_look_read(img, i);
		tapimg_close(img, NULL);
	}
	fuzz_check(f, "qcow", false);
	fuzz_put(f, data, size);
	writing(f);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}

/* A value for a field that was @old: near it, out of the file, onto something else in it. */
static uint64_t interesting(struct rng *r, uint64_t old, size_t size)
{
	switch (rng_below(r, 8)) {
	case 0: return 0;
	case 1: return old + (1ULL << rng_below(r, 16));
	case 2: return old ^ (1ULL << rng_below(r, 64));
	case 3: return rng_below(r, size + 512) & ~511ULL;
	case 4: return rng_below(r, size + 512) | QCOW_CODED | rng_below(r, 512) << 54;
	case 5: return UINT64_MAX;
	case 6: return 1ULL << rng_below(r, 64);
	default: return rng_next(r);
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	static const uint8_t fields[] = { 8, 16, 24, 40, 48, 56 };
	struct rng r = { seed };
	uint64_t at;

	if (size < QCOW_HEADER + QCOW_XEN_HEADER || rng_pct(&r, 20))
		return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max) : size;
	if (rng_pct(&r, 4))
		return size - rng_below(&r, size / 2);
	if (rng_pct(&r, 15)) {
		data[QH1_CLUSTER_BITS + rng_below(&r, 2)] = rng_range(&r, 5, 17);
		return size;
	}
	at = fields[rng_below(&r, sizeof(fields))];
	if (rng_pct(&r, 70)) {
		at = get_be64(data + QH1_L1_OFF) + 8 * rng_below(&r, 4);
		if (rng_pct(&r, 60) && checked_range(at, 8, size))
			at = get_be64(data + at) + 8 * rng_below(&r, 64);
	}
	if (checked_range(at, 8, size))
		put_be64(data + at, interesting(&r, get_be64(data + at), size));
	return size;
}
