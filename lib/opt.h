/* SPDX-License-Identifier: BSD-2-Clause */
/* opt.h - values of options, as text */
#ifndef OPT_H
#define OPT_H

#include "format.h"

/* "4096", "64k", "1.5G": suffixes b k K M G T P E are powers of 1024.  0, -EINVAL or -ERANGE. */
int opt_size(const char *text, uint64_t *out);
/* "on" or "off" (also yes, no, true, false).  0 or -EINVAL. */
int opt_bool(const char *text, bool *out);
/* Index of @text in @alternatives ("off|metadata|full"), or -EINVAL. */
int opt_enum(const char *text, const char *alternatives);

/* Whether option lists are understood by @fmt for @where (TAPIMG_OPT_*): names and syntax. */
int opts_check(const struct format *fmt, const struct tapimg_opt *opts, unsigned nopts,
	       unsigned where, struct tapimg_err *err);
/* The value given last for @name, or NULL. */
const char *opts_get(const struct tapimg_opt *opts, unsigned nopts, const char *name);

/*
 * For drivers, whose options have passed opts_check(): the value given, or the default of the
 * format's list.  A name that is not in the list, or without any default, gives 0 (false).
 */
uint64_t create_opt_size(const struct create *c, const struct format *fmt, const char *name);
bool create_opt_bool(const struct create *c, const struct format *fmt, const char *name);
int create_opt_enum(const struct create *c, const struct format *fmt, const char *name);

#endif
