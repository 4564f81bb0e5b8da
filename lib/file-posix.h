/* SPDX-License-Identifier: BSD-2-Clause */
/* file-posix.h - between file-posix.c and file-lock.c */
#ifndef FILE_POSIX_H
#define FILE_POSIX_H

#include "err.h"
#include "file.h"

/*
 * Locks an open descriptor until it is closed.  @write: for writing; @share: others may write.
 * 0 (also where the file system has no locks), or -EBUSY, explained.
 */
int file_lock_fd(int fd, const char *name, bool write, bool share, struct tapimg_err *err);

#endif
