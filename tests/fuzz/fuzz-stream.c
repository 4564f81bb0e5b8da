/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-stream.c - a hostile compressed VMDK, seSparse extent or OVA: opened, read, checked, salvaged
 *
 * What could be read before an image was opened to be salvaged reads the same then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "fuzz.h"

static void look(struct tapimg *img)
{
	struct tapimg_check c = { 0 };
	struct tapimg_err err = { 0 };

	fuzz_look_info(img);
	fuzz_look_status(img);
	for (unsigned i = 0; i < 8; i++)
		fuzz_look_read(img, i);
	if (tapimg_size(img) < 64 * MiB)
		FUZZ_ASSERT(!tapimg_check(img, 0, &c, NULL, NULL, &err) || err.text[0]);
}

static void reading(struct fuzz *f, const char *format)
{
	static uint8_t one[4096], two[4096];
	struct tapimg *img = fuzz_open(f, format, 0, NULL);
	uint64_t len = 0;
	bool read = false;

	if (img) {
		len = MIN(tapimg_size(img), (uint64_t)sizeof(one));
		look(img);
		read = !tapimg_pread(img, one, len, 0);
		tapimg_close(img, NULL);
	}
	img = fuzz_open(f, format, TAPIMG_SALVAGE, NULL);
	FUZZ_ASSERT(img || !read);
	if (!img)
		return;
	look(img);
	if (read) {
		FUZZ_ASSERT(!tapimg_pread(img, two, len, 0));
		FUZZ_ASSERT(!memcmp(one, two, len));
	}
	tapimg_close(img, NULL);
}

/* The second disk of an archive, which has to be asked for. */
static void second_disk(struct fuzz *f)
{
	struct tapimg_open_opts o = { .format = "ova", .disk = "2" };
	struct tapimg_err err = { 0 };
	struct tapimg *img = NULL;

	if (tapimg_open(f->loop, "sim:a", &o, &img, &err)) {
		FUZZ_ASSERT(err.text[0]);
		return;
	}
	look(img);
	tapimg_close(img, NULL);
}

static void writing(struct fuzz *f, const char *format)
{
	struct tapimg *img = fuzz_open(f, format, TAPIMG_RDWR, NULL);

	if (!img)
		return;
	fuzz_write_some(img);
	tapimg_close(img, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();

	fuzz_put(f, data, size);
	reading(f, "vmdk");
	reading(f, "ova");
	second_disk(f);
	writing(f, "vmdk");
	fuzz_put(f, data, size);
	writing(f, "ova");
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}
