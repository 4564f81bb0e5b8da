/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-vmdk.c - a hostile VMDK: descriptors, hosted sparse and COWD extents, opened, read, written,
 * checked, repaired and resized
 *
 * Images whose tables lie inside each other cannot be repaired by writing to them; so all that is
 * asked of a repair is that the image can be looked at again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "fuzz.h"

static void reading(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "vmdk", 0, NULL);

	if (!img)
		return;
	fuzz_look_info(img);
	fuzz_look_status(img);
	for (unsigned i = 0; i < 8; i++)
		fuzz_look_read(img, i);
	tapimg_close(img, NULL);
}

static void writing(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "vmdk", TAPIMG_RDWR | TAPIMG_UNMAP, NULL);
	struct tapimg_err err = { 0 };

	if (!img)
		return;
	fuzz_write_some(img);
	fuzz_look_status(img);
	if (tapimg_size(img) < GiB) {
		uint64_t size = tapimg_size(img) % 3 ? tapimg_size(img) + 70144 : tapimg_size(img) / 1024 * 512;

		tapimg_resize(img, size, TAPIMG_PREALLOC_OFF, true, &err);
		if (tapimg_size(img) >= 64 * KiB)
			fuzz_write_some(img);
	}
	tapimg_close(img, NULL);
}

static bool checking(struct fuzz *f, unsigned fix, struct tapimg_check *c)
{
	struct tapimg *img = fuzz_open(f, "vmdk", TAPIMG_CHECK | TAPIMG_NO_BACKING |
				       (fix ? TAPIMG_RDWR : 0), NULL);
	struct tapimg_err err = { 0 };
	int ret;

	if (!img)
		return false;
	ret = tapimg_check(img, fix, c, NULL, NULL, &err);
	FUZZ_ASSERT(!ret || err.text[0]);
	tapimg_close(img, NULL);
	return !ret;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();
	struct tapimg_check c = { 0 };

	fuzz_put(f, data, size);
	reading(f);
	if (checking(f, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &c))
		FUZZ_ASSERT(checking(f, 0, &c));
	reading(f);
	fuzz_put(f, data, size);
	writing(f);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}
