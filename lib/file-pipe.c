/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-pipe.c - pipes, sockets and terminals as files that can only be appended to
 *
 * What comes next in the stream is written by one helper thread at a time; a write that lies
 * further on waits until the one before it is out.  The first PIPE_HEAD bytes are remembered, so
 * that an image just made can be opened: its header is read back from memory.  All other reads, and
 * writes to what has gone out already, are -ESPIPE.
 *
 * A reader that goes away shows as -EPIPE: helper threads have all signals blocked.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "file.h"
#include "work.h"

#define PIPE_HEAD (256 * KiB)
#define PIPE_IOV 64

struct pipe_end {
	int fd;
	struct file *f;
	uint64_t pos;		/* all before it has been written */
	uint8_t *head;		/* of it, the first PIPE_HEAD bytes */
	int failed;		/* negative errno: so does everything later */
	bool busy;
	struct work work;
	struct io *now;		/* what the helper thread writes */
	int ret;
	struct list later;	/* struct io by io.node: writes beyond pos */
};

static void pipe_next(struct pipe_end *p);

/* All of it, though the pipe takes less at a time; on a helper thread. */
static int write_all(int fd, const struct iovec *iov, int iovcnt)
{
	size_t skip = 0;
	int i = 0;

	while (i < iovcnt) {
		struct iovec v[PIPE_IOV];
		int n = MIN(iovcnt - i, PIPE_IOV);
		ssize_t done;

		memcpy(v, iov + i, n * sizeof(*v));
		v[0].iov_base = (char *)v[0].iov_base + skip;
		v[0].iov_len -= skip;
		done = writev(fd, v, n);
		if (done < 0 && errno != EINTR)
			return -errno;
		for (skip += MAX(done, 0); i < iovcnt && skip >= iov[i].iov_len; i++)
			skip -= iov[i].iov_len;
	}
	return 0;
}

static void pipe_run(struct work *w)
{
	struct pipe_end *p = container_of(w, struct pipe_end, work);

	p->ret = write_all(p->fd, p->now->iov, p->now->iovcnt);
}

static void remember(struct pipe_end *p, const struct io *io)
{
	uint64_t at = io->off;

	for (int i = 0; i < io->iovcnt && at < PIPE_HEAD; i++) {
		uint64_t n = MIN(io->iov[i].iov_len, PIPE_HEAD - at);

		memcpy(p->head + at, io->iov[i].iov_base, n);
		at += n;
	}
}

static void pipe_done(struct task *t)
{
	struct pipe_end *p = container_of(t, struct pipe_end, work.task);
	struct io *io = p->now;

	p->busy = false;
	if (p->ret) {
		p->failed = p->ret;
	} else {
		remember(p, io);
		p->pos += io->len;
	}
	io_complete(io, p->ret);
	pipe_next(p);
}

static void pipe_start(struct pipe_end *p, struct io *io)
{
	p->busy = true;
	p->now = io;
	p->work.run = pipe_run;
	p->work.task.fn = pipe_done;
	work_submit_blocking(p->f->loop, &p->work);
}

/* Starts the write that continues the stream, if it is there. */
static void pipe_next(struct pipe_end *p)
{
	struct list *n, *tmp;

	list_for_each_safe(n, tmp, &p->later) {
		struct io *io = list_entry(n, struct io, task.node);

		if (!p->failed && (p->busy || io->off != p->pos))
			continue;
		list_del(&io->task.node);
		if (p->failed)
			io_complete(io, p->failed);
		else
			pipe_start(p, io);
	}
}

static int pipe_read(struct pipe_end *p, struct io *io)
{
	uint64_t at = io->off;

	if (!checked_range(io->off, io->len, MIN(p->pos, PIPE_HEAD)))
		return -ESPIPE;
	for (int i = 0; i < io->iovcnt; i++) {
		memcpy(io->iov[i].iov_base, p->head + at, io->iov[i].iov_len);
		at += io->iov[i].iov_len;
	}
	return 0;
}

static void pipe_submit(struct io *io)
{
	struct pipe_end *p = io->file->priv;

	switch (io->op) {
	case IO_WRITE:
		if (p->failed || io->off < p->pos || (p->busy && io->off == p->pos)) {
			io_complete(io, p->failed ? p->failed : -ESPIPE);
			return;
		}
		list_append(&p->later, &io->task.node);
		pipe_next(p);
		return;
	case IO_READ:
		io_complete(io, pipe_read(p, io));
		return;
	case IO_FLUSH:
		io_complete(io, p->failed);
		return;
	default:
		io_complete(io, -ENOTSUP);
	}
}

/* Nothing can be cut, and only zeroes could be added, which no format needs here. */
static int pipe_truncate(struct file *f, uint64_t size)
{
	struct pipe_end *p = f->priv;

	return size == p->pos ? 0 : -ESPIPE;
}

static int pipe_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t pipe_allocated(struct file *f)
{
	return 0;
}

static void pipe_close(struct file *f)
{
	struct pipe_end *p = f->priv;

	if (p->fd >= 0)
		close(p->fd);
	free(p->head);
	free(p);
}

static const struct file_ops pipe_ops = {
	.name = "pipe",
	.submit = pipe_submit,
	.truncate = pipe_truncate,
	.status = pipe_status,
	.allocated = pipe_allocated,
	.close = pipe_close,
};

/* "/dev/stdout" and the like cannot be opened again if they are sockets: the descriptor itself. */
static int descriptor_of(const char *name)
{
	static const char *const dirs[] = { "/dev/fd/", "/proc/self/fd/" };
	char *end;
	long fd;

	if (!strcmp(name, "/dev/stdout"))
		return STDOUT_FILENO;
	if (!strcmp(name, "/dev/stderr"))
		return STDERR_FILENO;
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		size_t n = strlen(dirs[i]);

		if (strncmp(name, dirs[i], n))
			continue;
		fd = strtol(name + n, &end, 10);
		return name[n] >= '0' && name[n] <= '9' && !*end && fd <= INT_MAX ? (int)fd : -1;
	}
	return -1;
}

bool file_is_pipe(const char *name)
{
	struct stat st;

	return !stat(name, &st) &&
	       (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISCHR(st.st_mode));
}

int file_open_pipe(struct tapimg_loop *loop, const char *name, struct file **out,
		   struct tapimg_err *err)
{
	struct pipe_end *p = calloc(1, sizeof(*p));
	struct file *f = p ? file_alloc(loop, &pipe_ops, name, FILE_RDWR) : NULL;
	int fd = descriptor_of(name), ret = 0;

	if (!f) {
		free(p);
		return err_errno(err, -ENOMEM, "%s", name);
	}
	f->priv = p;
	f->append = f->no_grow = f->grows_clean = true;
	p->f = f;
	list_init(&p->later);
	list_init(&p->work.task.node);
	list_init(&p->work.node);
	p->head = malloc(PIPE_HEAD);
	p->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : open(name, O_WRONLY | O_CLOEXEC);
	if (p->fd < 0)
		ret = err_errno(err, -errno, "%s", name);
	else if (!p->head)
		ret = err_set(err, -ENOMEM, "no memory");
	if (ret) {
		file_close(f);
		return ret;
	}
	*out = f;
	return 0;
}
