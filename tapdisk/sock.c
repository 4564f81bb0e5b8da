/* SPDX-License-Identifier: BSD-2-Clause */
/* sock.c - sockets of front ends */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "err.h"
#include "sock.h"

#define FDS_MAX 32

/* Whether what lies at the address is a socket nobody listens at any more. */
static int stale(const struct sockaddr_un *sa)
{
	struct stat st;
	int fd, ret;

	if (lstat(sa->sun_path, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	ret = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 && errno == ECONNREFUSED ?
		0 : -EADDRINUSE;
	close(fd);
	return ret;
}

static int bind_path(int fd, const struct sockaddr_un *sa)
{
	int ret;

	if (bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	ret = stale(sa);
	if (ret)
		return ret;
	if (unlink(sa->sun_path) < 0 && errno != ENOENT)
		return -errno;
	return bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? -errno : 0;
}

int sock_listen_unix(const char *path, struct tapimg_err *err)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd, ret;

	if (!path[0] || strlen(path) >= sizeof(sa.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: a socket's path has 1 to %zu bytes", path,
			       sizeof(sa.sun_path) - 1);
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	ret = bind_path(fd, &sa);
	if (!ret && listen(fd, 128) < 0)
		ret = -errno;
	if (!ret)
		return fd;
	close(fd);
	if (ret == -EADDRINUSE)
		return err_set(err, ret, "%s: another process listens there", path);
	if (ret == -EEXIST)
		return err_set(err, ret, "%s: exists, and is not a socket", path);
	return err_errno(err, ret, "%s", path);
}

int sock_accept(int fd)
{
	int ret = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	return ret < 0 ? -errno : ret;
}

/* Takes what has arrived; too many are closed, for they would be lost otherwise. */
static int take_fds(struct msghdr *mh, int *fds, unsigned *nfds, unsigned max)
{
	struct cmsghdr *c;
	int ret = mh->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		unsigned i, n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fd;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (*nfds < max) {
				fds[(*nfds)++] = fd;
			} else {
				close(fd);
				ret = -EPROTO;
			}
		}
	}
	return ret;
}

ssize_t sock_recv_fds(int fd, void *buf, size_t len, int *fds, unsigned *nfds, unsigned max)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { buf, len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			     .msg_controllen = sizeof(control) };
	ssize_t n;
	int ret;

	if (!len)
		return 0;
	n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
	ret = take_fds(&mh, fds, nfds, max);
	if (ret)
		return ret;
	return n ? n : -EPIPE;
}

int sock_send_fds(int fd, const struct iovec *iov, unsigned n, const int *fds, unsigned nfds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct msghdr mh = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
	struct cmsghdr *c;
	size_t len = 0;
	ssize_t sent;
	unsigned i;

	for (i = 0; i < n; i++)
		len += iov[i].iov_len;
	if (nfds) {
		memset(&control, 0, sizeof(control));
		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	sent = sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return -errno;
	return (size_t)sent == len ? 0 : -EAGAIN;
}
