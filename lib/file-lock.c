/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-lock.c - locks on images, which QEMU's programs see and whose locks we see
 *
 * Open file description locks on single bytes, all of them shared ones.  Who uses permission n locks
 * byte 100 + n; who does not let others use it locks byte 200 + n.  Having locked, one asks for
 * each permission whether somebody holds the opposite byte.  Two that start at the same time may
 * both be refused, never both be let in.
 */
#include <fcntl.h>

#include "checked.h"
#include "file-posix.h"

enum { PERM_READ = 1 << 0, PERM_WRITE = 1 << 1, PERM_RESIZE = 1 << 3, PERMS = 4 };

#define LOCK_USES 100
#define LOCK_DENIES 200

/* F_OFD_SETLK or F_OFD_GETLK of one byte; GETLK: 1 if somebody holds it. */
static int byte_lock(int fd, int cmd, short type, uint64_t byte)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int ret;

	do
		ret = fcntl(fd, cmd, &fl);
	while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return -errno;
	return cmd == F_OFD_GETLK && fl.l_type != F_UNLCK;
}

static int take(int fd, unsigned perms, uint64_t base)
{
	unsigned i;
	int ret = 0;

	for (i = 0; i < PERMS && !ret; i++)
		if (perms & (1u << i))
			ret = byte_lock(fd, F_OFD_SETLK, F_RDLCK, base + i);
	return ret;
}

/* The permissions among perms whose byte another holds. */
static unsigned held(int fd, unsigned perms, uint64_t base)
{
	unsigned i, found = 0;

	for (i = 0; i < PERMS; i++)
		if ((perms & (1u << i)) && byte_lock(fd, F_OFD_GETLK, F_WRLCK, base + i) == 1)
			found |= 1u << i;
	return found;
}

static void drop(int fd)
{
	unsigned i;

	for (i = 0; i < PERMS; i++) {
		byte_lock(fd, F_OFD_SETLK, F_UNLCK, LOCK_USES + i);
		byte_lock(fd, F_OFD_SETLK, F_UNLCK, LOCK_DENIES + i);
	}
}

int file_lock_fd(int fd, const char *name, bool write, bool share, struct tapimg_err *err)
{
	unsigned use = PERM_READ, deny = 0, denied;
	int ret;

	if (write)
		use |= PERM_WRITE | PERM_RESIZE;
	if (!share)
		deny = PERM_WRITE | PERM_RESIZE;
	ret = take(fd, use, LOCK_USES);
	if (!ret)
		ret = take(fd, deny, LOCK_DENIES);
	if (ret == -EAGAIN || ret == -EACCES) {
		drop(fd);
		return err_set(err, -EBUSY, "%s: is locked by another process", name);
	}
	if (ret < 0)
		return 0;		/* no locks here: ENOLCK, EOPNOTSUPP, EINVAL, ... */
	if (held(fd, deny, LOCK_USES)) {
		drop(fd);
		return err_set(err, -EBUSY, "%s: is in use for writing by another process", name);
	}
	denied = held(fd, use, LOCK_DENIES);
	if (denied) {
		drop(fd);
		return err_set(err, -EBUSY, denied & PERM_READ ?
			       "%s: is in use by another process that lets nobody read it" :
			       "%s: is in use by another process, so it cannot be written", name);
	}
	return 0;
}
