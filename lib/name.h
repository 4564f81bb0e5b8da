/* SPDX-License-Identifier: BSD-2-Clause */
/* name.h - names of images as people and images write them, taken apart */
#ifndef NAME_H
#define NAME_H

#include "tapimg.h"

enum name_backing {
	NAME_BACKING_STORED,	/* not mentioned: what the image says */
	NAME_BACKING_NONE,	/* null: none, whatever the image says */
	NAME_BACKING_GIVEN,	/* another name */
};

/* All strings are malloc'd; NULL: not mentioned. */
struct name {
	char *path;		/* for file_open: a path, or a provider's scheme and what follows */
	char *format;
	uint64_t offset, size;	/* raw: a window; size 0: to the end */
	char *data_file;
	char *disk;		/* of a container, by name or number */
	char *key_secret;	/* id of the secret that it is enciphered with */
	enum name_backing backing_kind;
	char *backing;		/* with NAME_BACKING_GIVEN: a name, maybe "json:..." */
};

/*
 * Takes apart a path, "file:path" or "json:{...}".  0; -EINVAL for a syntax error or a key that is
 * not known; -ENOMEM.  On failure nothing needs freeing.
 */
int name_parse(const char *text, struct name *out, struct tapimg_err *err);
void name_free(struct name *n);

/* Whether @name begins with a scheme: a letter, then letters, digits and "+-.", then a colon. */
bool name_has_scheme(const char *name);

#endif
