/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * target.h - images of several files while they are being made
 *
 * The file that a target is made in is called ".NAME.tapimg-XXXXXX".  Files that belong to it (the
 * extents of a VMDK, the data file of a qcow2) carry the same mark: ".COMPANION.tapimg-XXXXXX" in the
 * folder where they will be.  They get their names, or go, together with it.  Where a target is made
 * in place, so are its companions.
 */
#ifndef TARGET_H
#define TARGET_H

#include "loop.h"

/* Whether @path is such a file, which nobody else knows yet. */
bool target_unfinished(const char *path);
/*
 * Where the file that will be @companion is to be made for the image that is being made at @path; NULL: no
 * memory.  malloc'd.  The loop remembers it until the target is finished or given up.
 */
char *target_companion(struct tapimg_loop *loop, const char *path, const char *companion);
void target_forget(struct tapimg_loop *loop, const char *path);	/* its companions; NULL: everybody's */
/*
 * Whether the old file @path has to be written in place, because no other can take its name: a
 * device, a mount of its own, a file of a provider.  One that is not there does not.
 */
bool target_keeps_file(struct tapimg_loop *loop, const char *path);
/* *@path, malloc'd: follows symbolic links, also one that leads to nothing yet.  0 or a negative errno. */
int target_follow_links(char **path);
/* Where it is now: there, or under its own name.  malloc'd; NULL: no memory. */
char *target_companion_found(struct tapimg_loop *loop, const char *path, const char *companion);

#endif
