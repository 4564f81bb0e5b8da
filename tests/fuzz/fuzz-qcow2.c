/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-qcow2.c - a hostile qcow2 image is opened, described, mapped, read and written to
 *
 * Beyond not crashing: reading is the same twice and in pieces, block status covers the disk
 * without gaps, and what is written is read back while the image accepts it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "fuzz.h"

static void read_only(struct fuzz *f, const char *snapshot, char *first_snap, size_t snap_size)
{
	struct tapimg *img = fuzz_open(f, "qcow2", 0, snapshot);
	const struct tapimg_info *info;
	unsigned i;

	if (!img)
		return;
	fuzz_look_info(img);
	if (first_snap && !tapimg_info(img, &info, NULL) && info->nsnapshots)
		snprintf(first_snap, snap_size, "%s", info->snapshots[0].id);
	fuzz_look_status(img);
	for (i = 0; i < 8; i++)
		fuzz_look_read(img, i);
	tapimg_close(img, NULL);
}

static void writing(struct fuzz *f)
{
	struct tapimg *img = fuzz_open(f, "qcow2", TAPIMG_RDWR | TAPIMG_UNMAP, NULL);
	struct tapimg_err err = { 0 };

	if (!img)
		return;
	fuzz_write_some(img);
	fuzz_look_status(img);
	switch (tapimg_size(img) % 7) {
	case 0: case 1:
		tapimg_snapshot_create(img, "new", &err);
		fuzz_write_some(img);
		tapimg_snapshot_apply(img, "new", &err);
		tapimg_snapshot_delete(img, "1", &err);
		break;
	case 2: case 3:
		if (tapimg_size(img) < GiB)
			tapimg_resize(img, tapimg_size(img) + 70000, TAPIMG_PREALLOC_OFF, false, &err);
		fuzz_write_some(img);
		break;
	case 4: case 5:
		tapimg_bitmap_add(img, "new", 0, false, &err);
		tapimg_bitmap_clear(img, "b0", &err);
		tapimg_bitmap_remove(img, "b1", &err);
		break;
	}
	tapimg_close(img, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();
	char snap[300] = "";

	fuzz_put(f, data, size);
	read_only(f, NULL, snap, sizeof(snap));
	if (snap[0])
		read_only(f, snap, NULL, 0);
	writing(f);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return fuzz_mutate_qcow2(data, size, max, seed);
}
