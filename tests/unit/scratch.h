/* SPDX-License-Identifier: BSD-2-Clause */
/* scratch.h - a folder of its own for each test, as current folder, with a loop */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <check.h>

#include "tapimg.h"

extern struct tapimg_loop *loop;	/* between scratch_enter() and scratch_leave() */

void scratch_enter(void);		/* a checked fixture */
void scratch_leave(void);

/* Images, made and opened; the test fails with the library's own words if that cannot be done. */
void make_image(const char *name, const char *format, uint64_t size, const char *backing,
		const char *backing_format);
struct tapimg *open_image(const char *name, const char *format, unsigned flags);
void close_image(struct tapimg *img);
/* The code of a failing open; its text in err->text. The test fails if it succeeds. */
int open_fails(const char *name, const struct tapimg_open_opts *o, struct tapimg_err *err);

void put_file(const char *name, const void *data, size_t len);
void put_text(const char *name, const char *text);
/* Whether the file holds exactly that. */
bool file_is(const char *name, const void *data, size_t len);
unsigned files_here(void);		/* entries of the current folder */

#endif
