/* SPDX-License-Identifier: BSD-2-Clause */
/* tar.h - the members of a tar archive: which there are, and the headers of those that we write */
#ifndef TAPIMG_TAR_H
#define TAPIMG_TAR_H

#include "err.h"
#include "file.h"

#define TAR_BLOCK 512U
#define TAR_NAME_MAX 100	/* bytes, in a header of its own */

struct tar_member {
	char *name;		/* as it is in the archive */
	uint64_t off, size;	/* of the contents */
	uint64_t there;		/* bytes of them that are in the file */
	bool plain;		/* a regular file, stored as it is */
};

struct tar {
	struct tar_member *member;
	unsigned n;
};

/*
 * Whether a header block is valid, and what it says: *size of the contents, *type, and the name (up to
 * 256 bytes and a NUL).
 */
bool tar_header_get(const uint8_t *block, char name[257], uint64_t *size, char *type);
/* A regular file's.  @name: at most TAR_NAME_MAX bytes. */
void tar_header_put(uint8_t *block, const char *name, uint64_t size);

/*
 * Reads all headers of @f.  0; -EINVAL: damaged, or not a tar archive; -EFBIG: more members than
 * anyone needs.  An archive that was cut off has a last member with there < size.
 */
int tar_read(struct file *f, struct tar *out, struct tapimg_err *err);
void tar_free(struct tar *t);
const struct tar_member *tar_find(const struct tar *t, const char *name);

#endif
