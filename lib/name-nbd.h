/* SPDX-License-Identifier: BSD-2-Clause */
/* name-nbd.h - for name.c: keeps jansson out of name.h */
#ifndef NAME_NBD_H
#define NAME_NBD_H

#include <jansson.h>
#include <stdbool.h>

#include "tapimg.h"

/*
 * The node of the driver "nbd", as a malloc'd URI in *@path; of keys that are none of its own
 * @is_tuning says which may be ignored.  0 or a negative errno, explained.
 */
int name_nbd_node(json_t *node, bool (*is_tuning)(const char *key), char **path, struct tapimg_err *err);

#endif
