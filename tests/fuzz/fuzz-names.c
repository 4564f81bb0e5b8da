/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-names.c - hostile names and contents of unknown format
 *
 * Input beginning with "json:" or "{" is opened as a name; everything else is probed as an image
 * without a format. Nothing outside the simulated disk may be opened on the way.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "fuzz.h"

static bool refuse(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	return !strncmp(path, "sim:", 4);
}

static void look(struct tapimg *img)
{
	const struct tapimg_info *info;
	uint8_t buf[512];

	tapimg_info(img, &info, NULL);
	tapimg_pread(img, buf, MIN(sizeof(buf), tapimg_size(img)), 0);
	tapimg_close(img, NULL);
}

static void as_name(struct fuzz *f, const uint8_t *data, size_t size)
{
	struct tapimg_open_opts o = { .gate = refuse };
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	char *name = malloc(size + 6);
	size_t i;

	if (!name)
		return;
	sprintf(name, "%s", data[0] == '{' ? "json:" : "");
	i = strlen(name);
	memcpy(name + i, data, size);
	name[i + size] = 0;
	/* real paths are none of its business */
	if (!strstr(name, "/") && !strstr(name, "file:")) {
		if (!tapimg_open(f->loop, name, &o, &img, &err))
			look(img);
		else
			FUZZ_ASSERT(err.text[0]);
	}
	free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t some[4096] = "some bytes";
	struct fuzz *f = fuzz_world();
	struct tapimg *img;

	if (size && (data[0] == '{' || (size > 5 && !memcmp(data, "json:", 5)))) {
		fuzz_put(f, some, sizeof(some));
		as_name(f, data, size);
	} else {
		fuzz_put(f, data, size);
		img = fuzz_open(f, NULL, 0, NULL);
		if (img)
			look(img);
	}
	FUZZ_ASSERT(!sim_busy(f->sim));
	return 0;
}
