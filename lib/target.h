/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * target.h - images of several files while they are being made
 *
 * The file that a target is made in is called ".NAME.tapimg-XXXXXX".  Files that belong to it (the
 * extents of a VMDK) carry the same mark: ".COMPANION.tapimg-XXXXXX" in the same folder.  They get
 * their names, or go, together with it.  Where a target is made in place, so are its companions.
 */
#ifndef TARGET_H
#define TARGET_H

#include "loop.h"

/* Whether @path is such a file, which nobody else knows yet. */
bool target_unfinished(const char *path);
/*
 * Where the file that will be @companion is to be made for the image that is being made at @path; NULL: no
 * memory.  malloc'd.
 */
char *target_companion(const char *path, const char *companion);
/* Where it is now: there, or under its own name.  malloc'd; NULL: no memory. */
char *target_companion_found(struct tapimg_loop *loop, const char *path, const char *companion);

#endif
