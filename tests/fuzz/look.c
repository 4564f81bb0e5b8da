/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * look.c - what is asked of every hostile image, whatever its format
 *
 * Reading is the same twice and in pieces, block status covers the disk without gaps, and what is
 * written is read back while the image accepts it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "fuzz.h"

#define PART (64 * KiB)
#define MOST_STEPS 300

static uint8_t one[PART], two[PART];

/* Places worth looking at: the beginning, the end, and a few between. */
static uint64_t place(const struct tapimg *img, unsigned i)
{
	uint64_t size = tapimg_size(img);

	switch (i) {
	case 0: return 0;
	case 1: return size > PART ? size - PART : 0;
	case 2: return size / 2;
	default: return size ? (i * 0x9e3779b97f4a7c15ULL) % size : 0;
	}
}

void fuzz_look_status(struct tapimg *img)
{
	uint64_t size = tapimg_size(img), off = 0;
	unsigned n;

	for (n = 0; n < MOST_STEPS && off < size; n++) {
		struct tapimg_status st;

		if (tapimg_block_status(img, off, size - off, 0, &st))
			return;
		FUZZ_ASSERT(st.off == off && st.len >= 1 && st.len <= size - off);
		off += st.len;
	}
}

void fuzz_look_read(struct tapimg *img, unsigned where)
{
	uint64_t off = place(img, where), size = tapimg_size(img);
	uint64_t len = MIN(PART, size - off), half = len / 2;
	int ret;

	memset(one, 1, sizeof(one));
	memset(two, 2, sizeof(two));
	ret = tapimg_pread(img, one, len, off);
	if (ret)
		return;
	ret = tapimg_pread(img, two, half, off);
	if (!ret)
		ret = tapimg_pread(img, two + half, len - half, off + half);
	FUZZ_ASSERT(!ret && !memcmp(one, two, len));
}

void fuzz_look_info(struct tapimg *img)
{
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	unsigned i;

	if (tapimg_info(img, &info, &err)) {
		FUZZ_ASSERT(err.text[0]);
		return;
	}
	for (i = 0; i < info->nsnapshots; i++)
		FUZZ_ASSERT(info->snapshots[i].id && info->snapshots[i].name);
	for (i = 0; i < info->nbitmaps; i++)
		FUZZ_ASSERT(info->bitmaps[i].name);
	for (i = 0; i < info->nfacts; i++)
		FUZZ_ASSERT(info->facts[i].key);
}

void fuzz_write_some(struct tapimg *img)
{
	unsigned i;

	for (i = 0; i < 8; i++) {
		uint64_t off = place(img, i), len = MIN(1000 + 5000 * i, tapimg_size(img) - off);

		memset(one, 0xc0 + i, len);
		if (i == 4 || i == 6)
			tapimg_zero(img, off, len, i == 4 ? TAPIMG_REQ_MAY_UNMAP : 0);
		else if (i == 5)
			tapimg_discard(img, round_down(off, 4096), len);
		else if (!tapimg_pwrite(img, one, len, off) && !tapimg_pread(img, two, len, off))
			FUZZ_ASSERT(!memcmp(one, two, len));
		if (i == 3)
			tapimg_flush(img);
	}
}

/* ------------------------------------------------------------- check and repair */

static void line(void *arg, char severity, const char *text)
{
	FUZZ_ASSERT(strchr("ELRI", severity) && text[0]);
}

/* Returns false if it could not be checked. */
static bool check(struct fuzz *f, const char *format, unsigned fix, struct tapimg_check *c)
{
	unsigned flags = TAPIMG_CHECK | TAPIMG_NO_BACKING | (fix ? TAPIMG_RDWR : 0);
	struct tapimg *img = fuzz_open(f, format, flags, NULL);
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

void fuzz_check(struct fuzz *f, const char *format, bool leaks)
{
	uint64_t before = sim_hash(f->sim);
	struct tapimg_check c, again;

	check(f, format, 0, &c);
	FUZZ_ASSERT(sim_hash(f->sim) == before);
	check(f, format, TAPIMG_FIX_LEAKS, &c);
	if (check(f, format, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &c) && !c.check_errors &&
	    !c.corruptions && !c.leaks && check(f, format, 0, &again))
		FUZZ_ASSERT(!again.corruptions && (!again.leaks || !leaks));
}
