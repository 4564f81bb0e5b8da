/* SPDX-License-Identifier: BSD-2-Clause */
/* fuzz.h - shared by the fuzz targets: an image from hostile bytes on a simulated disk */
#ifndef FUZZ_H
#define FUZZ_H

#include "image.h"
#include "simdisk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
/* libFuzzer's own, NULL when the target runs over a corpus */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max) __attribute__((weak));

/* One loop and one world for all inputs of a process. */
struct fuzz {
	struct sim *sim;
	struct tapimg_loop *loop;
};
struct fuzz *fuzz_world(void);
/* The input becomes "sim:a"; "sim:data" stands ready as external data file. */
void fuzz_put(struct fuzz *f, const uint8_t *data, size_t size);
/*
 * Opens it with whatever helps: without its backing file, with the data file offered.  NULL if it
 * cannot be opened; the failure must have come with an explanation.
 */
struct tapimg *fuzz_open(struct fuzz *f, const char *format, unsigned flags, const char *snapshot);

/* look.c: what must hold of an image that could be opened; @where: one of several places */
void fuzz_look_info(struct tapimg *img);
void fuzz_look_status(struct tapimg *img);
void fuzz_look_read(struct tapimg *img, unsigned where);
void fuzz_write_some(struct tapimg *img);
/*
 * A check changes nothing; after a repair that says that all is well the next check finds nothing
 * (@leaks: no leaks either).
 */
void fuzz_check(struct fuzz *f, const char *format, bool leaks);

/* Changes a field that means something in a qcow2 image: header, tables, counts. */
size_t fuzz_mutate_qcow2(uint8_t *data, size_t size, size_t max, unsigned seed);

#define FUZZ_ASSERT(cond)                                                                          \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #cond);   \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
