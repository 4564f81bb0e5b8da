/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-check.c - a hostile qcow2 image is checked and repaired
 *
 * A check must change nothing; a repair that says that nothing is left to repair must leave an
 * image in which the next check finds nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static void line(void *arg, char severity, const char *text)
{
	FUZZ_ASSERT(strchr("ELRI", severity) && text[0]);
}

/* Returns false if it could not be checked. */
static bool check(struct fuzz *f, unsigned fix, struct tapimg_check *c)
{
	unsigned flags = TAPIMG_CHECK | TAPIMG_NO_BACKING | (fix ? TAPIMG_RDWR : 0);
	struct tapimg *img = fuzz_open(f, "qcow2", flags, NULL);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();
	struct tapimg_check c, again;
	uint64_t before;

	fuzz_put(f, data, size);
	before = sim_hash(f->sim);
	check(f, 0, &c);
	FUZZ_ASSERT(sim_hash(f->sim) == before);
	check(f, TAPIMG_FIX_LEAKS, &c);
	if (check(f, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &c) && !c.check_errors &&
	    !c.corruptions && !c.leaks && check(f, 0, &again))
		FUZZ_ASSERT(!again.corruptions && !again.leaks);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return fuzz_mutate_qcow2(data, size, max, seed);
}
