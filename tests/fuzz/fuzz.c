/* SPDX-License-Identifier: BSD-2-Clause */
/* fuzz.c - hostile images on the simulated disk */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

struct fuzz *fuzz_world(void)
{
	static const struct sim_cfg cfg = { .seed = 1, .sector = 512, .align = 1, .tick_ns = 1000 };
	static struct fuzz f;	/* libFuzzer hands nothing from input to input */

	if (!f.sim) {
		f.sim = sim_new(&cfg);
		if (tapimg_loop_new(1, &f.loop, NULL))
			abort();
		sim_attach(f.sim, f.loop);
	}
	return &f;
}

void fuzz_put(struct fuzz *f, const uint8_t *data, size_t size)
{
	static const uint8_t some[4096] = { 0x5a };

	sim_put(f->sim, "a", data, size);
	sim_put(f->sim, "data", some, sizeof(some));
}

static bool refuse(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	return (role == TAPIMG_ROLE_DATA || role == TAPIMG_ROLE_EXTENT) && !strcmp(path, "sim:data");
}

struct tapimg *fuzz_open(struct fuzz *f, const char *format, unsigned flags, const char *snapshot)
{
	struct tapimg_open_opts o = { .format = format, .flags = flags, .snapshot = snapshot,
				      .gate = refuse };
	struct tapimg *img = NULL;
	unsigned i;

	for (i = 0; i < 4; i++) {
		struct tapimg_err err = { 0 };
		int ret;

		o.flags = flags | (i & 1 ? TAPIMG_NO_BACKING : 0);
		o.data_file = i & 2 ? "sim:data" : NULL;
		ret = tapimg_open(f->loop, "sim:a", &o, &img, &err);
		if (!ret)
			return img;
		FUZZ_ASSERT(err.text[0] && err.code == ret);
		FUZZ_ASSERT(!sim_busy(f->sim));
	}
	return NULL;
}
