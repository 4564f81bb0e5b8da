/* SPDX-License-Identifier: BSD-2-Clause */
/* proto.c - names of the control protocol, and the files by which minor numbers are given out */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "proto.h"

const char *proto_name(unsigned type)
{
	static const char *const names[PROTO_TYPES] = {
		[PROTO_ERROR] = "error",
		[PROTO_PID] = "pid", [PROTO_PID_RSP] = "pid response",
		[PROTO_ATTACH] = "attach", [PROTO_ATTACH_RSP] = "attach response",
		[PROTO_OPEN] = "open", [PROTO_OPEN_RSP] = "open response",
		[PROTO_PAUSE] = "pause", [PROTO_PAUSE_RSP] = "pause response",
		[PROTO_RESUME] = "resume", [PROTO_RESUME_RSP] = "resume response",
		[PROTO_CLOSE] = "close", [PROTO_CLOSE_RSP] = "close response",
		[PROTO_DETACH] = "detach", [PROTO_DETACH_RSP] = "detach response",
		[PROTO_LIST_MINORS] = "list minors", [PROTO_LIST_MINORS_RSP] = "list minors response",
		[PROTO_LIST] = "list", [PROTO_LIST_RSP] = "list response",
		[PROTO_STATS] = "stats", [PROTO_STATS_RSP] = "stats response",
		[PROTO_FORCE_SHUTDOWN] = "force shutdown",
		[PROTO_XENBLKIF_CONNECT] = "sring connect",
		[PROTO_XENBLKIF_CONNECT_RSP] = "sring connect rsp",
		[PROTO_XENBLKIF_DISCONNECT] = "sring disconnect",
		[PROTO_XENBLKIF_DISCONNECT_RSP] = "sring disconnect rsp",
		[PROTO_DISK_INFO] = "disk info", [PROTO_DISK_INFO_RSP] = "disk info rsp",
		[PROTO_EXIT] = "exit",
		[PROTO_COMMIT] = "commit", [PROTO_COMMIT_RSP] = "commit response",
		[PROTO_QUERY] = "query commit job", [PROTO_QUERY_RSP] = "query commit job response",
		[PROTO_CANCEL] = "cancel commit job", [PROTO_CANCEL_RSP] = "cancel commit job response",
	};

	return type < PROTO_TYPES && names[type] ? names[type] : "unknown";
}

int proto_number(const char *text)
{
	long n = strtol(text, NULL, 10);

	return (int)MAX(MIN(n, INT_MAX), INT_MIN);
}

const char *run_dir(void)
{
	const char *dir = getenv("TAPDISK_RUN_DIR");

	return dir && *dir ? dir : "/run/blktap-control";
}

char *run_socket(int pid)
{
	char *name;

	return asprintf(&name, "%s/ctl%d", run_dir(), pid) < 0 ? NULL : name;
}

char *run_marker(int minor)
{
	char *name;

	return asprintf(&name, "%s/tapdisk/tapdisk-%d", run_dir(), minor) < 0 ? NULL : name;
}

static int make_dirs(char *path)
{
	for (char *p = path + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = c;
		if (!c)
			return 0;
	}
}

int run_prepare(void)
{
	char *path;
	int ret;

	if (asprintf(&path, "%s/tapdisk", run_dir()) < 0)
		return -ENOMEM;
	ret = make_dirs(path);
	free(path);
	return ret;
}

/* One at a time may give out and take back numbers: a lock on the folder. */
static int lock_dir(void)
{
	char *path;
	int fd;

	if (asprintf(&path, "%s/tapdisk", run_dir()) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(path);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX) < 0) {
		int ret = -errno;

		close(fd);
		return ret;
	}
	return fd;
}

int run_allocate(int *minor)
{
	int ret = run_prepare(), dir;

	if (ret)
		return ret;
	dir = lock_dir();
	if (dir < 0)
		return dir;
	ret = -ENOSPC;
	for (int id = 0; id < PROTO_MAX_MINOR; id++) {
		char *path = run_marker(id);
		int fd = path ? open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) : -1;

		free(path);
		if (fd >= 0) {
			close(fd);
			*minor = id;
			ret = 0;
			break;
		}
		if (!path || errno != EEXIST) {
			ret = path ? -errno : -ENOMEM;
			break;
		}
	}
	close(dir);
	return ret;
}

int run_lock(int minor)
{
	char *path = run_marker(minor);
	int fd, ret;

	if (!path)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	free(path);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		ret = errno == EWOULDBLOCK ? -EBUSY : -errno;
		close(fd);
		return ret;
	}
	return fd;
}

int run_free(int minor)
{
	int dir = lock_dir(), fd;
	char *path;

	if (dir < 0)
		return dir;
	fd = run_lock(minor);
	path = fd < 0 ? NULL : run_marker(minor);
	if (path)
		unlink(path);
	free(path);
	if (fd >= 0)
		close(fd);
	close(dir);
	return fd == -EBUSY ? -EAGAIN : MIN(fd, 0);
}
