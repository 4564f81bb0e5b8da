/* SPDX-License-Identifier: BSD-2-Clause */
/* open.h - what opening and closing images share; not for drivers */
#ifndef OPEN_H
#define OPEN_H

#include "image.h"

/* Which file or device something is, whatever its name. */
struct file_id {
	bool known;		/* dev and ino are valid; else only the name counts */
	bool block;
	uint64_t dev, ino;	/* of a block device: 0 and its number */
};
struct file_id file_id_path(const char *path);	/* a path, not a provider's name */
bool file_id_same(const struct file_id *a, const char *a_name, const struct file_id *b,
		  const char *b_name);
/* the layer of @img's chain that lives in it, or NULL */
struct tapimg *chain_find_file(struct tapimg *img, const struct file_id *id, const char *name);

void image_free(struct tapimg *img);	/* memory only */

#endif
