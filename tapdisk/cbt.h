/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cbt.h - a log of changed blocks, as cbt-util makes it: a header and a bit for each 64 KiB
 *
 * The file is mapped and its bits are set as changes are submitted.  The header's mark
 * "consistent" belongs to whoever takes the log in and out of use (cbt-util).
 */
#ifndef CBT_H
#define CBT_H

#include <stdint.h>

#include "tapimg.h"

struct cbt;

/* @size: of the disk; a log that is too short for it is refused. */
int cbt_open(const char *path, uint64_t size, struct cbt **out, struct tapimg_err *err);
void cbt_mark(struct cbt *log, uint64_t off, uint64_t len);
void cbt_close(struct cbt *log);	/* writes it back; NULL is accepted */

#endif
