/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-vhd.c - a hostile VHD is read, written, resized, checked and repaired
 *
 * Each input is tried as it is and with its checksums put right, so that what they guard is reached.
 * Reading and checking change nothing; a repair that says that nothing is left must leave an image in
 * which the next check finds nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "vhd.h"

#define MOST (4 * MiB)		/* of a disk is looked at */

static void line(void *arg, char severity, const char *text)
{
	FUZZ_ASSERT(strchr("ELRI", severity) && text[0]);
}

static bool check(struct fuzz *f, unsigned fix, struct tapimg_check *c)
{
	unsigned flags = TAPIMG_CHECK | TAPIMG_NO_BACKING | (fix ? TAPIMG_RDWR : 0);
	struct tapimg *img = fuzz_open(f, "vhd", flags, NULL);
	struct tapimg_err err = { 0 };
	int ret;

	memset(c, 0, sizeof(*c));
	if (!img)
		return false;
	ret = tapimg_check(img, fix, c, line, NULL, &err);
	FUZZ_ASSERT(!ret || err.text[0]);
	if (tapimg_close(img, &err) && !ret)
		ret = -EIO;
	return !ret;
}

static void read_all(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "vhd", TAPIMG_NO_BACKING, NULL);
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	uint8_t *buf;

	if (!img)
		return;
	tapimg_info(img, &info, &err);
	buf = file_buf(64 * KiB);
	for (uint64_t off = 0; buf && off < MIN(tapimg_size(img), MOST); off += 64 * KiB)
		tapimg_pread(img, buf, MIN(64 * KiB, tapimg_size(img) - off), off);
	free(buf);
	tapimg_close(img, NULL);
}

static void write_some(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "vhd", TAPIMG_NO_BACKING | TAPIMG_RDWR | TAPIMG_UNMAP, NULL);
	uint8_t want[3000], have[3000];
	struct tapimg_err err = { 0 };
	uint64_t size, off;

	if (!img)
		return;
	size = tapimg_size(img);
	off = size > sizeof(want) ? MIN((size - sizeof(want)) / 2, MOST) : 0;
	memset(want, 0x5a, sizeof(want));
	if (size >= sizeof(want) && !tapimg_pwrite(img, want, sizeof(want), off))
		FUZZ_ASSERT(!tapimg_pread(img, have, sizeof(have), off) &&
			    !memcmp(want, have, sizeof(have)));
	tapimg_discard(img, 0, MIN(size, MOST));
	if (size < 16 * MiB)
		tapimg_resize(img, size + MiB, TAPIMG_PREALLOC_OFF, false, &err);
	tapimg_close(img, NULL);
}

static void once(struct fuzz *f, const uint8_t *data, size_t size)
{
	struct tapimg_check c, again;
	uint64_t before;

	fuzz_put(f, data, size);
	before = sim_hash(f->sim);
	read_all(f);
	check(f, 0, &c);
	FUZZ_ASSERT(sim_hash(f->sim) == before);
	if (check(f, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &c) && c.corruptions == c.corruptions_fixed &&
	    c.leaks == c.leaks_fixed && check(f, 0, &again))
		FUZZ_ASSERT(!again.corruptions && !again.leaks);
	fuzz_put(f, data, size);
	write_some(f);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
}

static void sum_right(uint8_t *p, size_t len, size_t at)
{
	uint32_t sum = 0;

	put_be32(p + at, 0);
	for (size_t i = 0; i < len; i++)
		sum += p[i];
	put_be32(p + at, ~sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();
	uint8_t *copy;

	once(f, data, size);
	if (size < 2048)
		return 0;
	copy = malloc(size);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	sum_right(copy, VHD_SECTOR, 64);
	sum_right(copy + 512, VHD_HEADER_SIZE, 36);
	sum_right(copy + size - VHD_SECTOR, VHD_SECTOR, 64);
	once(f, copy, size);
	free(copy);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max) : size;
}
