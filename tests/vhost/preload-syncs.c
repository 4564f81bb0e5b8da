/* SPDX-License-Identifier: BSD-2-Clause */
/* preload-syncs.c - loaded into a server: adds one byte to the file "syncs" for each fsync or fdatasync */
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

static void count(void)
{
	int fd = open("syncs", O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "x", 1) != 1)
		_exit(99);
	close(fd);
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
	int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	int ret = next(fd);

	count();
	return ret;
}

__attribute__((visibility("default"))) int fsync(int fd)
{
	int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
	int ret = next(fd);

	count();
	return ret;
}
