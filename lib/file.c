/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file.c - files as such: opening, names, sizes, growing ahead, blocking twins
 *
 * How transfers get to the backends is in file-io.c.
 *
 * Growing ahead.  An O_DIRECT write beyond the end of a file blocks its submitter while the file
 * system allocates; one into space allocated before does not.  file_grow_hint() therefore has a
 * helper thread allocate ahead of the writers, in steps that double.  What was not used is cut off
 * when the file is closed; after a crash it stays behind as zeroes beyond the last data.
 */
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <fcntl.h>

#include "checked.h"
#include "file.h"
#include "loop-impl.h"
#include "nbd-client.h"

#define GROW_MIN (8 * MiB)
#define GROW_MAX (256 * MiB)
#define BUF_ALIGN 4096

void *file_buf(uint64_t len)
{
	void *p;

	if (len > SIZE_MAX - BUF_ALIGN)
		return NULL;
	return posix_memalign(&p, BUF_ALIGN, MAX(round_up(len, BUF_ALIGN), BUF_ALIGN)) ? NULL : p;
}

/* ------------------------------------------------------------------ opening, closing */

struct file *file_alloc(struct tapimg_loop *loop, const struct file_ops *ops, const char *name,
			unsigned flags)
{
	struct file *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->name = strdup(name);
	if (!f->name) {
		free(f);
		return NULL;
	}
	f->ops = ops;
	f->loop = loop;
	f->flags = flags;
	f->unsafe = flags & FILE_UNSAFE;
	f->align = f->mem_align = f->discard_align = 1;
	f->max_io = GiB;
	list_init(&f->writes);
	list_init(&f->waiting);
	return f;
}

static struct file_provider *find_provider(struct tapimg_loop *loop, const char *name)
{
	struct list *pos;

	list_for_each(pos, &loop->providers) {
		struct file_provider *p = list_entry(pos, struct file_provider, node);

		if (!strncmp(name, p->scheme, strlen(p->scheme)))
			return p;
	}
	for (const struct file_provider *p = nbd_providers; p->scheme; p++)
		if (!strncmp(name, p->scheme, strlen(p->scheme)))
			return (struct file_provider *)p;	/* its node is not used */
	return NULL;
}

bool file_provided(struct tapimg_loop *loop, const char *name)
{
	return find_provider(loop, name);
}

static const char *plain_path(const char *name)
{
	return strncmp(name, "file:", 5) ? name : name + 5;
}

int file_open(struct tapimg_loop *loop, const char *name, unsigned flags, struct file **out,
	      struct tapimg_err *err)
{
	struct file_provider *p = find_provider(loop, name);
	int ret;

	if (p)
		ret = p->open(p, loop, name, flags, out, err);
	else if (flags & FILE_CREATE && file_is_pipe(plain_path(name)))
		ret = file_open_pipe(loop, plain_path(name), out, err);
	else
		ret = file_open_posix(loop, plain_path(name), flags, out, err);
	if (!ret)
		(*out)->logical_end = (*out)->size;
	return ret;
}

void file_close(struct file *f)
{
	if (!f)
		return;
	while (f->inflight || f->growing)
		if (tapimg_loop_run(f->loop, true) < 0)
			break;
	if (f->grow_to && f->logical_end < f->size)
		f->ops->truncate(f, f->logical_end);
	f->ops->close(f);
	free(f->name);
	free(f);
}

int file_finish(struct file *f, struct tapimg_err *err)
{
	return f->ops->finish ? f->ops->finish(f, err) : 0;
}

/* ------------------------------------------------------------------ names */

/* Makes a change in the directory of path durable. */
static int sync_dir_of(const char *path)
{
	char *copy = strdup(path);
	int fd, ret = 0;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(copy);
	if (fd < 0)
		return errno == EACCES ? 0 : -errno;	/* a directory one may write and not read */
	if (fsync(fd) < 0 && errno != EINVAL && errno != EROFS)
		ret = -errno;
	close(fd);
	return ret;
}

int file_remove(struct tapimg_loop *loop, const char *name)
{
	struct file_provider *p = find_provider(loop, name);

	if (p)
		return p->remove ? p->remove(p, name) : -ENOTSUP;
	return unlink(plain_path(name)) < 0 ? -errno : 0;
}

int file_rename(struct tapimg_loop *loop, const char *from, const char *to)
{
	struct file_provider *p = find_provider(loop, from);

	if (p != find_provider(loop, to))
		return -EXDEV;
	if (p)
		return p->rename ? p->rename(p, from, to) : -ENOTSUP;
	if (rename(plain_path(from), plain_path(to)) < 0)
		return -errno;
	return sync_dir_of(plain_path(to));
}

int file_sync_dir(struct tapimg_loop *loop, const char *name)
{
	return find_provider(loop, name) ? 0 : sync_dir_of(plain_path(name));
}

bool file_renames(struct tapimg_loop *loop, const char *name)
{
	struct file_provider *p = find_provider(loop, name);

	return !p || (p->rename && p->remove);
}

int file_exists(struct tapimg_loop *loop, const char *name)
{
	struct file_provider *p = find_provider(loop, name);
	struct file *f;
	int ret;

	if (!p)
		ret = access(plain_path(name), F_OK) < 0 ? -errno : 0;
	else
		ret = p->open(p, loop, name, FILE_NOLOCK, &f, NULL);
	if (p && !ret)
		file_close(f);
	if (ret == -ENOENT || ret == -ENOTDIR)
		return 0;
	return ret ? ret : 1;
}

/* ------------------------------------------------------------------ blocking twins */

struct sync_io {
	struct io io;
	bool done;
};

static void sync_done(struct io *io)
{
	container_of(io, struct sync_io, io)->done = true;
}

static int sync_io(struct file *f, enum io_op op, unsigned flags, uint64_t off, uint64_t len,
		   void *buf)
{
	struct sync_io s = {
		.io = { .file = f, .op = op, .flags = flags, .off = off, .len = len, .done = sync_done,
			.iov1 = { buf, len }, .iovcnt = 1 },
	};
	int ret;

	s.io.iov = &s.io.iov1;
	file_submit(&s.io);
	ret = loop_until(f->loop, &s.done);
	return ret < 0 ? ret : s.io.ret;
}

int file_pread(struct file *f, void *buf, uint64_t len, uint64_t off)
{
	return sync_io(f, IO_READ, 0, off, len, buf);
}

int file_pwrite(struct file *f, const void *buf, uint64_t len, uint64_t off)
{
	return sync_io(f, IO_WRITE, 0, off, len, (void *)buf);
}

int file_zero(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	return sync_io(f, IO_ZERO, flags, off, len, NULL);
}

int file_discard(struct file *f, uint64_t off, uint64_t len)
{
	return sync_io(f, IO_DISCARD, 0, off, len, NULL);
}

int file_flush(struct file *f)
{
	return sync_io(f, IO_FLUSH, 0, 0, 0, NULL);
}

/* ------------------------------------------------------------------ sizes and space */

/* Writes and growth in flight would race with a change of size. */
static void wait_idle(struct file *f)
{
	while (f->inflight || f->growing)
		if (tapimg_loop_run(f->loop, true) < 0)
			break;
}

int file_truncate(struct file *f, uint64_t size)
{
	int ret;

	if (!(f->flags & FILE_RDWR))
		return -EBADF;
	if (f->block_dev)
		return size <= f->size ? 0 : -ENOSPC;
	if (size > INT64_MAX)
		return -EFBIG;
	wait_idle(f);
	ret = f->ops->truncate(f, size);
	if (ret < 0)
		return ret;
	f->size = f->logical_end = size;
	f->grow_to = MIN(f->grow_to, size);
	f->wseq++;
	return 0;
}

int file_prealloc(struct file *f, uint64_t off, uint64_t len)
{
	int ret;

	if (!(f->flags & FILE_RDWR))
		return -EBADF;
	if (!f->ops->prealloc)
		return -ENOTSUP;
	if (!len)
		return 0;
	ret = f->ops->prealloc(f, off, len);
	if (!ret)
		file_written(f, off, len);
	else
		file_written(f, 0, 0);	/* part of it may be there */
	return ret;
}

int file_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	return f->ops->status(f, off, len, data);
}

uint64_t file_allocated(struct file *f)
{
	return f->ops->allocated(f);
}

int file_refresh(struct file *f)
{
	int ret;

	wait_idle(f);
	ret = f->ops->refresh ? f->ops->refresh(f) : 0;
	if (!ret)
		f->logical_end = f->size;
	return ret;
}

int file_fd(struct file *f)
{
	return f->ops->fd ? f->ops->fd(f) : -1;
}

void file_tune(struct file *f, bool nocow, uint32_t extent_size)
{
	if (f->ops->tune && (nocow || extent_size))
		f->ops->tune(f, nocow, extent_size);
}

/* ------------------------------------------------------------------ growing ahead */

struct grow {
	struct work work;
	struct file *f;
	uint64_t from, to;
	int ret;
};

static void grow_run(struct work *w)
{
	struct grow *g = container_of(w, struct grow, work);

	g->ret = g->f->ops->prealloc(g->f, g->from, g->to - g->from);
}

static void grow_done(struct task *t)
{
	struct grow *g = container_of(t, struct grow, work.task);
	struct file *f = g->f;

	f->growing = false;
	f->wseq++;
	if (!g->ret)
		f->size = MAX(f->size, g->to);
	else
		f->no_grow = true;	/* not supported, or the disk is nearly full */
	free(g);
	file_wake_writes(f);
}

void file_grow_hint(struct file *f, uint64_t end)
{
	uint64_t step, from;
	struct grow *g;

	if (f->growing || f->no_grow || f->block_dev || !f->ops->prealloc)
		return;
	if (f->nserial)
		return;			/* one of them may be setting the size */
	from = MAX(f->size, f->grow_to);
	/* half a step of lead is enough */
	step = MIN(MAX(f->grow_step, GROW_MIN), GROW_MAX);
	if (end + step / 2 <= from)
		return;
	g = malloc(sizeof(*g));
	if (!g)
		return;
	*g = (struct grow){ .f = f, .from = from };
	g->to = round_up(MAX(end, from) + step, MiB);
	g->work.run = grow_run;
	g->work.task.fn = grow_done;
	f->grow_step = step * 2;
	f->grow_to = g->to;
	f->growing = true;
	work_submit_blocking(f->loop, &g->work);
}
