/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-window.c - a part of a file as a file of its own
 *
 * Transfers go on to the file around it, moved by the window's start; that file's own front does
 * what alignment and size ask for, so a window may begin at any byte.  A window for writing has no
 * end: it grows, and the file around it with it.
 */
#include <stdlib.h>

#include "checked.h"
#include "err.h"
#include "file.h"

struct window {
	uint64_t start;
	const struct window_owner *owner;
	void *arg;
};

struct window_io {
	struct io io;		/* the file's around */
	struct io *inner;
};

static void window_done(struct io *io)
{
	struct window_io *w = container_of(io, struct window_io, io);
	struct io *inner = w->inner;
	int ret = io->ret;

	free(w);
	io_complete_now(inner, ret);
}

static void window_submit(struct io *io)
{
	struct window *win = io->file->priv;
	struct window_io *w = malloc(sizeof(*w));

	if (!w) {
		io_complete(io, -ENOMEM);
		return;
	}
	w->inner = io;
	w->io.file = io->file->around;
	w->io.op = io->op;
	w->io.flags = io->flags;
	w->io.off = io->off + win->start;
	w->io.len = io->len;
	w->io.iov = io->iov;
	w->io.iovcnt = io->iovcnt;
	w->io.done = window_done;
	file_submit(&w->io);
}

static int window_truncate(struct file *f, uint64_t size)
{
	struct window *win = f->priv;

	return file_truncate(f->around, win->start + size);
}

static int window_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	struct window *win = f->priv;

	return file_status(f->around, win->start + off, len, data);
}

static uint64_t window_allocated(struct file *f)
{
	return file_allocated(f->around);
}

static int window_finish(struct file *f, struct tapimg_err *err)
{
	struct window *win = f->priv;

	if (!win->owner || !win->owner->finish)
		return 0;
	return win->owner->finish(win->arg, f->around, f->size, err);
}

static void window_close(struct file *f)
{
	struct window *win = f->priv;

	if (win->owner && win->owner->free)
		win->owner->free(win->arg);
	file_close(f->around);
	free(win);
}

static const struct file_ops window_ops = {
	.name = "window",
	.submit = window_submit,
	.truncate = window_truncate,
	.status = window_status,
	.allocated = window_allocated,
	.finish = window_finish,
	.close = window_close,
};

void file_window_leave(struct file *f)
{
	f->around = NULL;
	file_close(f);
}

int file_open_window(struct file *around, uint64_t start, uint64_t len,
		     const struct window_owner *owner, void *arg, struct file **out)
{
	struct window *win = calloc(1, sizeof(*win));
	struct file *f = win ? file_alloc(around->loop, &window_ops, around->name, around->flags) : NULL;

	if (!f) {
		free(win);
		return -ENOMEM;
	}
	*win = (struct window){ .start = start, .owner = owner, .arg = arg };
	f->priv = win;
	f->around = around;
	f->size = f->logical_end = len;
	f->no_grow = true;
	f->grows_clean = around->grows_clean;
	f->append = around->append;
	f->copies = around->copies;
	f->discard_align = around->discard_align;
	*out = f;
	return 0;
}
