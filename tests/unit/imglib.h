/* SPDX-License-Identifier: BSD-2-Clause */
/* imglib.h - images of any format made, filled, judged, looked into and damaged by hand */
#ifndef IMGLIB_H
#define IMGLIB_H

#include "scratch.h"

/* Options as "name=value,name=value"; NULL: none. */
void img_make(const char *name, const char *format, uint64_t size, const char *opts,
	      const char *parent, const char *parent_format);
struct img_result {
	struct tapimg_check c;
	char text[16384];		/* lines of the report, each with its severity */
};
const struct img_result *img_check(const char *name, const char *format, unsigned fix);
void img_clean(const char *name, const char *format);	/* no finding of any kind */

/* One byte over [off, off+len), through an image of its own. */
void img_fill(const char *name, const char *format, uint8_t byte, uint64_t off, uint64_t len);
void img_expect(const char *name, const char *format, uint8_t byte, uint64_t off, uint64_t len);

/* Bytes of a file. */
void bytes_read(const char *name, void *buf, uint64_t len, uint64_t off);
void bytes_write(const char *name, const void *buf, uint64_t len, uint64_t off);
uint64_t bytes_peek(const char *name, uint64_t off, unsigned bytes);	/* big-endian */
void bytes_poke(const char *name, uint64_t off, uint64_t value, unsigned bytes);
uint64_t bytes_size(const char *name);
void bytes_cut(const char *name, uint64_t size);
uint8_t *bytes_all(const char *name, uint64_t *size);	/* the whole file, malloc'd */

#endif
