/* SPDX-License-Identifier: BSD-2-Clause */
/* err.h - explaining failures; see struct tapimg_err in tapimg.h */
#ifndef ERR_H
#define ERR_H

#include <errno.h>

#include "tapimg.h"

/* Sets code and text, and returns @code (a negative errno).  @e may be NULL. */
int err_set(struct tapimg_err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, with ": " and the errno's text appended. */
int err_errno(struct tapimg_err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before a text that is there already; returns e->code (@code when e is NULL). */
int err_prefix(struct tapimg_err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
