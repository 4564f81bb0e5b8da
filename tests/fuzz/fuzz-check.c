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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = fuzz_world();

	fuzz_put(f, data, size);
	fuzz_check(f, "qcow2", true);
	FUZZ_ASSERT(!sim_busy(f->sim));
	FUZZ_ASSERT(!sim_breach(f->sim));
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return fuzz_mutate_qcow2(data, size, max, seed);
}
