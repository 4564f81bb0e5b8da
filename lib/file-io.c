/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-io.c - transfers: the front between those who submit and the backends
 *
 * What a backend can take as it is goes straight to it (the fast path: no memory is allocated).
 * Everything else is a walk (struct walk): piece after piece of the range goes to the backend, each
 * either as a slice of the submitter's buffers or through a bounce buffer.  A walk also goes on
 * where a backend stopped short.
 *
 * Overlaps.  Transfers in flight that overlap are the submitter's affair, with one exception: a
 * widened write touches bytes that nobody asked it to touch.  So it owns its widened range: it waits
 * for all writes that overlap it, and they for it.  A ZERO that makes the file longer owns all from
 * its offset upwards, since the backend may set the size, and waits for growing ahead to end.  Waiting
 * writes start in order of submission wherever they overlap.  f->writes holds those started, f->waiting the others.
 *
 * Sizes.  f->size is the end of the file as the host has it, f->logical_end the end that somebody
 * wrote or set; they differ by what was grown ahead.  Both are raised when a write has finished.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "file.h"
#include "loop-impl.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

#define BOUNCE_MAX (1u << 20)

struct walk;

/* The front's part of struct io. */
struct front {
	void (*fin)(struct io *io);	/* when the backend is finished; io->ret as it said */
	uint64_t lo, hi;		/* what a write owns or touches */
	uint64_t seq;			/* FLUSH: f->wseq at submission */
	struct walk *walk;		/* pieces: the walk they belong to */
	bool serial;			/* owns lo..hi */
};

_Static_assert(sizeof(struct front) <= sizeof(((struct io *)0)->front), "struct io is too small");

struct walk {
	struct io io;			/* the piece with the backend */
	struct io *parent;
	void (*end)(struct io *io);	/* parent's finish; parent->ret is set */
	uint64_t pos, stop;		/* still to do */
	uint64_t n;			/* bytes of the parent in the running piece */
	uint64_t lo, hi;		/* the running piece, widened */
	uint64_t zero_lo, zero_hi;	/* ZERO: the part for the backend's own ZERO */
	uint64_t widest;		/* the largest end written so far */
	uint8_t *buf;			/* BOUNCE_MAX, or NULL */
	int i;				/* pos in the parent's iovecs */
	size_t skip;
	int maxiov;
	struct iovec iov[];		/* slice */
};

static struct front *front(struct io *io)
{
	return (struct front *)io->front;
}

static void io_task(struct task *t)
{
	struct io *io = container_of(t, struct io, task);

	front(io)->fin(io);
}

void io_complete(struct io *io, int ret)
{
	io->ret = ret;
	io->task.fn = io_task;
	loop_defer(io->file->loop, &io->task);
}

void io_complete_now(struct io *io, int ret)
{
	io->ret = ret;
	front(io)->fin(io);
}

/* The submitter's turn.  io may be gone afterwards. */
static void io_finish(struct io *io)
{
	io->file->inflight--;
	io->done(io);
}

/* Ends an io that has not been to a backend, from inside file_submit. */
static void io_answer(struct io *io, int ret)
{
	front(io)->fin = io_finish;
	io_complete(io, ret);
}

static void backend_submit(struct io *io, void (*fin)(struct io *io))
{
	front(io)->fin = fin;
	io->file->ops->submit(io);
}

/* The backend can take the buffers as they are. */
static bool iov_fits(const struct file *f, const struct iovec *iov, int cnt)
{
	uintptr_t bits = 0;
	int i;

	if (cnt > IOV_MAX)
		return false;
	for (i = 0; i < cnt; i++)
		bits |= ((uintptr_t)iov[i].iov_base & (f->mem_align - 1)) |
			(iov[i].iov_len & (f->align - 1));
	return !bits;
}

static bool io_fits(const struct io *io)
{
	const struct file *f = io->file;

	return !((io->off | io->len) & (f->align - 1)) && io->len <= f->max_io &&
	       iov_fits(f, io->iov, io->iovcnt);
}

/* ------------------------------------------------------------------ walks */

static void walk_next(struct walk *w);

/*
 * A widened write has made the file longer than anybody asked: cut it again, unless another write
 * in flight reaches that far anyway.
 */
static void walk_trim(struct walk *w)
{
	struct file *f = w->parent->file;
	uint64_t end = MAX(f->size, w->pos);
	struct list *pos;

	/* growing ahead may just have made it longer still: what is too much is cut at close */
	if (w->widest <= end || f->block_dev || f->growing)
		return;
	list_for_each(pos, &f->writes) {
		struct io *other = list_entry(pos, struct io, node);

		if (other != w->parent && front(other)->hi > end)
			return;
	}
	f->ops->truncate(f, end);
}

static void walk_end(struct walk *w, int ret)
{
	struct io *io = w->parent;
	void (*end)(struct io *io) = w->end;

	io->ret = ret;
	walk_trim(w);
	free(w->buf);
	free(w);
	end(io);
}

/* Where `bytes` further on is. */
static void walk_skip(struct walk *w, uint64_t bytes)
{
	const struct iovec *iov = w->parent->iov;

	w->pos += bytes;
	if (w->parent->op != IO_READ && w->parent->op != IO_WRITE)
		return;
	while (bytes) {
		size_t here = MIN(bytes, iov[w->i].iov_len - w->skip);

		w->skip += here;
		bytes -= here;
		if (w->skip == iov[w->i].iov_len) {
			w->i++;
			w->skip = 0;
		}
	}
}

enum copy_dir { COPY_IN, COPY_OUT, COPY_ZERO };

/* Copies between the parent's buffers at pos (which stays) and p. */
static void walk_copy(struct walk *w, uint8_t *p, uint64_t n, enum copy_dir dir)
{
	const struct iovec *iov = w->parent->iov;
	size_t skip = w->skip;
	int i = w->i;

	while (n) {
		size_t here = MIN(n, iov[i].iov_len - skip);
		uint8_t *q = (uint8_t *)iov[i].iov_base + skip;

		if (dir == COPY_IN)
			memcpy(p, q, here);
		else if (dir == COPY_OUT)
			memcpy(q, p, here);
		else
			memset(q, 0, here);
		if (dir != COPY_ZERO)
			p += here;
		n -= here;
		skip = 0;
		i++;
	}
}

static void walk_submit(struct walk *w, enum io_op op, uint64_t off, uint64_t len, void *buf,
			void (*fin)(struct io *io))
{
	struct io *io = &w->io;

	io->op = op;
	io->off = off;
	io->len = len;
	if (buf) {
		io->iov1.iov_base = buf;
		io->iov1.iov_len = len;
		io->iov = &io->iov1;
		io->iovcnt = 1;
	}
	backend_submit(io, fin);
}

/*
 * Tries to hand over a slice of the parent's own buffers, from pos up to limit.  Sets w->n and
 * w->iov, or returns false if not even one aligned unit is there.
 */
static bool walk_slice(struct walk *w, uint64_t limit)
{
	const struct file *f = w->parent->file;
	const struct iovec *src = w->parent->iov;
	uint64_t left = round_down(MIN(limit - w->pos, f->max_io), f->align), n = 0;
	size_t skip = w->skip;
	int i = w->i, cnt = 0;

	if (!is_aligned(w->pos, f->align))
		return false;
	while (left && cnt < w->maxiov) {
		uint8_t *p = (uint8_t *)src[i].iov_base + skip;
		size_t here = MIN(left, src[i].iov_len - skip);
		size_t use = round_down(here, f->align);

		if (here && (!is_aligned((uintptr_t)p, f->mem_align) || !use))
			break;
		if (use)
			w->iov[cnt++] = (struct iovec){ p, use };
		n += use;
		left -= use;
		if (use < here)
			break;
		skip = 0;
		i++;
	}
	w->n = n;
	w->io.iov = w->iov;
	w->io.iovcnt = cnt;
	return n != 0;
}

/* Sets up a bounced piece from pos up to limit: w->n, lo, hi, buf.  False: no memory. */
static bool walk_bounce(struct walk *w, uint64_t limit)
{
	const struct file *f = w->parent->file;
	uint64_t end = limit;

	w->lo = round_down(w->pos, f->align);
	if (end - w->lo > MIN(BOUNCE_MAX, f->max_io))
		end = w->lo + MIN(BOUNCE_MAX, f->max_io);
	w->hi = round_up(end, f->align);
	w->n = end - w->pos;
	if (!w->buf)
		w->buf = file_buf(MIN(BOUNCE_MAX, round_up(w->stop - w->lo, f->align)));
	return w->buf;
}

/* Bytes of the piece (which began at lo) that a finished transfer brought. */
static uint64_t walk_got(const struct walk *w)
{
	return w->io.ret ? (uint64_t)w->io.ret : w->io.len;
}

static void walk_read_fin(struct io *io)
{
	struct walk *w = front(io)->walk;
	bool bounced = io->iov == &io->iov1;
	uint64_t got;

	if (io->ret < 0) {
		walk_end(w, io->ret);
		return;
	}
	got = walk_got(w);
	if (bounced) {
		got = got > w->pos - w->lo ? MIN(got - (w->pos - w->lo), w->n) : 0;
		walk_copy(w, w->buf + (w->pos - w->lo), got, COPY_OUT);
	}
	if (!got) {
		walk_end(w, -EIO);
		return;
	}
	walk_skip(w, got);
	walk_next(w);
}

static void walk_read(struct walk *w)
{
	struct file *f = w->parent->file;
	uint64_t limit = MIN(w->stop, f->size);

	if (w->pos >= limit) {
		walk_copy(w, NULL, w->stop - w->pos, COPY_ZERO);
		walk_end(w, 0);
	} else if (walk_slice(w, limit)) {
		walk_submit(w, IO_READ, w->pos, w->n, NULL, walk_read_fin);
	} else if (walk_bounce(w, limit)) {
		walk_submit(w, IO_READ, w->lo, w->hi - w->lo, w->buf, walk_read_fin);
	} else {
		walk_end(w, -ENOMEM);
	}
}

static void walk_write_fin(struct io *io)
{
	struct walk *w = front(io)->walk;
	struct file *f = io->file;
	uint64_t got, end;

	if (io->ret < 0) {
		walk_end(w, io->ret);
		return;
	}
	/* what a short transfer left half written is written again */
	got = walk_got(w);
	end = got == io->len ? w->pos + w->n : round_down(io->off + got, f->align);
	if (end <= w->pos) {
		walk_end(w, -EIO);
		return;
	}
	w->widest = MAX(w->widest, io->off + io->len);
	walk_skip(w, MIN(end - w->pos, w->n));
	walk_next(w);
}

/* The bytes of a bounced write, or zeroes, into the buffer that holds their surroundings. */
static void walk_write_bounced(struct walk *w)
{
	uint8_t *p = w->buf + (w->pos - w->lo);

	if (w->parent->op == IO_WRITE)
		walk_copy(w, p, w->n, COPY_IN);
	else
		memset(p, 0, w->n);
	walk_submit(w, IO_WRITE, w->lo, w->hi - w->lo, w->buf, walk_write_fin);
}

static void walk_tail_fin(struct io *io)
{
	struct walk *w = front(io)->walk;

	if (io->ret)
		walk_end(w, io->ret < 0 ? io->ret : -EIO);
	else
		walk_write_bounced(w);
}

/* Last unit of a widened write, unless it was read as the first one. */
static void walk_read_tail(struct walk *w)
{
	struct file *f = w->parent->file;
	uint64_t last = w->hi - f->align;
	bool is_head = last == w->lo && w->pos > w->lo;

	if (w->pos + w->n == w->hi || is_head) {
		walk_write_bounced(w);
	} else if (last >= f->size) {
		memset(w->buf + (last - w->lo), 0, f->align);
		walk_write_bounced(w);
	} else {
		walk_submit(w, IO_READ, last, f->align, w->buf + (last - w->lo), walk_tail_fin);
	}
}

static void walk_head_fin(struct io *io)
{
	struct walk *w = front(io)->walk;

	if (io->ret)
		walk_end(w, io->ret < 0 ? io->ret : -EIO);
	else
		walk_read_tail(w);
}

static void walk_write_piece(struct walk *w, uint64_t limit)
{
	struct file *f = w->parent->file;

	if (!walk_bounce(w, limit)) {
		walk_end(w, -ENOMEM);
	} else if (w->pos == w->lo) {
		walk_read_tail(w);
	} else if (w->lo >= f->size) {
		memset(w->buf, 0, f->align);
		walk_read_tail(w);
	} else {
		walk_submit(w, IO_READ, w->lo, f->align, w->buf, walk_head_fin);
	}
}

/* ZERO by writing zeroes, up to limit. */
static void walk_write_zeroes(struct walk *w, uint64_t limit)
{
	const struct file *f = w->parent->file;
	void *zeroes = loop_zeroes(f->loop);
	uint64_t n = round_down(MIN(MIN(limit - w->pos, LOOP_ZEROES), f->max_io), f->align);

	if (!zeroes) {
		walk_end(w, -ENOMEM);
	} else if (is_aligned(w->pos, f->align) && n) {
		w->n = n;
		w->lo = w->pos;
		walk_submit(w, IO_WRITE, w->pos, n, zeroes, walk_write_fin);
	} else {
		/* one unit with something to keep in it */
		limit = MIN(limit, round_down(w->pos, f->align) + f->align);
		walk_write_piece(w, limit);
	}
}

static bool is_notsup(int ret)
{
	return ret == -ENOTSUP || ret == -EOPNOTSUPP;
}

static void walk_zero_fin(struct io *io)
{
	struct walk *w = front(io)->walk;

	if (!io->ret) {
		w->pos = w->zero_hi;
	} else if (is_notsup(io->ret) && !(w->parent->flags & IO_NO_FALLBACK)) {
		w->zero_lo = w->zero_hi = w->stop;	/* written instead */
	} else {
		walk_end(w, io->ret);
		return;
	}
	walk_next(w);
}

static void walk_zero(struct walk *w)
{
	if (w->pos < w->zero_lo) {
		walk_write_zeroes(w, w->zero_lo);
	} else if (w->pos == w->zero_lo && w->pos < w->zero_hi) {
		w->io.flags = w->parent->flags;
		walk_submit(w, IO_ZERO, w->zero_lo, w->zero_hi - w->zero_lo, NULL, walk_zero_fin);
	} else {
		walk_write_zeroes(w, w->stop);
	}
}

static void walk_write(struct walk *w)
{
	if (walk_slice(w, w->stop)) {
		w->lo = w->pos;
		walk_submit(w, IO_WRITE, w->pos, w->n, NULL, walk_write_fin);
	} else {
		walk_write_piece(w, w->stop);
	}
}

static void walk_next(struct walk *w)
{
	if (w->pos == w->stop)
		walk_end(w, 0);
	else if (w->parent->op == IO_READ)
		walk_read(w);
	else if (w->parent->op == IO_WRITE)
		walk_write(w);
	else
		walk_zero(w);
}

/* ZERO: which part is for the backend. Without any, zeroes are written. */
static void walk_split_zero(struct walk *w)
{
	const struct file *f = w->parent->file;
	uint64_t lo = round_up(w->pos, f->discard_align);
	uint64_t hi = round_down(w->stop, f->discard_align);

	if (!f->block_dev && w->stop >= f->size)
		hi = w->stop;
	w->zero_lo = lo < hi ? lo : w->stop;
	w->zero_hi = lo < hi ? hi : w->stop;
}

/* From inside a completion: walks the rest of io, from `done` bytes on, and ends with end(io). */
static void walk_start(struct io *io, uint64_t done, void (*end)(struct io *io))
{
	int maxiov = MIN(io->iovcnt, IOV_MAX);
	struct walk *w;

	if (io->op != IO_READ && io->op != IO_WRITE)
		maxiov = 0;
	w = calloc(1, sizeof(*w) + maxiov * sizeof(w->iov[0]));
	if (!w) {
		io->ret = -ENOMEM;
		end(io);
		return;
	}
	w->parent = io;
	w->end = end;
	w->io.file = io->file;
	front(&w->io)->walk = w;
	w->maxiov = maxiov;
	w->pos = io->off;
	w->stop = io->off + io->len;
	walk_skip(w, done);
	if (io->op == IO_ZERO)
		walk_split_zero(w);
	walk_next(w);
}

/* The same from file_submit: the walk begins on the loop. */
static void read_walk_fin(struct io *io)
{
	walk_start(io, 0, io_finish);
}

/* ------------------------------------------------------------------ reads */

static void read_fin(struct io *io)
{
	if (io->ret > 0 && (uint64_t)io->ret < io->len) {
		walk_start(io, round_down(io->ret, io->file->align), io_finish);
		return;
	}
	if (io->ret > 0)
		io->ret = 0;
	io_finish(io);
}

static void submit_read(struct io *io)
{
	struct file *f = io->file;
	bool inside = checked_range(io->off, io->len, f->size);

	/* who writes to it meanwhile may have made it longer */
	if (!inside && (f->flags & (FILE_SHARE | FILE_RDWR)) == FILE_SHARE && f->ops->refresh) {
		f->ops->refresh(f);
		inside = checked_range(io->off, io->len, f->size);
	}
	if (inside && io_fits(io)) {
		backend_submit(io, read_fin);
	} else {
		front(io)->fin = read_walk_fin;
		io_complete(io, 0);
	}
}

/* ------------------------------------------------------------------ writes */

static bool overlaps(const struct front *a, const struct front *b)
{
	return a->lo < b->hi && b->lo < a->hi;
}

/* A write on the list, up to `until`, excludes io. */
static bool excluded(struct io *io, struct list *head, struct list *until)
{
	struct list *pos;

	/* the size is not set while a helper thread moves the end ahead */
	if (io->file->growing && front(io)->hi == UINT64_MAX)
		return true;
	for (pos = head->next; pos != until; pos = pos->next) {
		struct front *other = front(list_entry(pos, struct io, node));

		if ((other->serial || front(io)->serial) && overlaps(other, front(io)))
			return true;
	}
	return false;
}

static void write_go(struct io *io);

void file_wake_writes(struct file *f)
{
	struct list *pos, *tmp;

	list_for_each_safe(pos, tmp, &f->waiting) {
		struct io *io = list_entry(pos, struct io, node);

		if (excluded(io, &f->writes, &f->writes) || excluded(io, &f->waiting, pos))
			continue;
		list_del(pos);
		list_append(&f->writes, pos);
		write_go(io);
	}
}

/* However a write went, part of it may be on the disk. */
static void write_end(struct io *io)
{
	struct file *f = io->file;
	uint64_t end = io->off + io->len;

	list_del(&io->node);
	f->wseq++;
	if (!io->ret && io->op != IO_DISCARD) {
		f->size = MAX(f->size, end);
		f->logical_end = MAX(f->logical_end, end);
	}
	if (front(io)->serial)
		f->nserial--;
	if (!list_empty(&f->waiting))
		file_wake_writes(f);
	io_finish(io);
}

static void write_fin(struct io *io)
{
	if (io->ret > 0 && (uint64_t)io->ret < io->len) {
		walk_start(io, round_down(io->ret, io->file->align), write_end);
		return;
	}
	if (io->ret > 0)
		io->ret = 0;
	write_end(io);
}

static void zero_fin(struct io *io)
{
	if (is_notsup(io->ret) && !(io->flags & IO_NO_FALLBACK)) {
		/* the walk would ask the backend again, and be told the same, cheaply */
		walk_start(io, 0, write_end);
		return;
	}
	write_end(io);
}

static void discard_fin(struct io *io)
{
	if (is_notsup(io->ret))
		io->ret = 0;		/* it was a hint */
	write_end(io);
}

static void write_walk_fin(struct io *io)
{
	walk_start(io, 0, write_end);
}

/* Begins the walk of a write on the loop, not from inside file_submit. */
static void write_walk(struct io *io)
{
	front(io)->fin = write_walk_fin;
	io_complete(io, 0);
}

static bool zero_fits(const struct io *io)
{
	const struct file *f = io->file;
	uint64_t end = io->off + io->len;

	return is_aligned(io->off, f->discard_align) &&
	       (is_aligned(end, f->discard_align) || (!f->block_dev && end >= f->size));
}

static void write_go(struct io *io)
{
	if (io->op == IO_WRITE) {
		if (io_fits(io))
			backend_submit(io, write_fin);
		else
			write_walk(io);
	} else if (io->op == IO_ZERO) {
		if (zero_fits(io))
			backend_submit(io, zero_fin);
		else
			write_walk(io);
	} else {
		backend_submit(io, discard_fin);
	}
}

/* What the write touches, and whether it must have that for itself. */
static void write_claim(struct io *io)
{
	struct file *f = io->file;
	struct front *fr = front(io);
	uint64_t end = io->off + io->len;

	fr->lo = io->off;
	fr->hi = end;
	fr->serial = false;
	if (((io->off | io->len) & (f->align - 1)) && io->op != IO_DISCARD) {
		fr->lo = round_down(io->off, f->align);
		fr->hi = round_up(end, f->align);
		fr->serial = true;
	}
	if (io->op == IO_ZERO && end > f->size && !f->block_dev) {
		fr->hi = UINT64_MAX;
		fr->serial = true;
	}
}

static void submit_write(struct io *io)
{
	struct file *f = io->file;

	if (io->off + io->len < io->off || io->off + io->len > INT64_MAX) {
		io_answer(io, -EFBIG);
		return;
	}
	write_claim(io);
	f->nserial += front(io)->serial;
	if (f->nserial && (excluded(io, &f->writes, &f->writes) ||
			   excluded(io, &f->waiting, &f->waiting))) {
		list_append(&f->waiting, &io->node);
		return;
	}
	list_append(&f->writes, &io->node);
	write_go(io);
}

/*
 * A hint, so only whole units inside the file.  The submitter's range is narrowed: nobody looks at
 * it afterwards but the submitter, who is told so in file.h.
 */
static void submit_discard(struct io *io)
{
	struct file *f = io->file;
	uint64_t end = MIN(io->off + io->len, f->size);
	uint64_t lo = round_up(io->off, f->discard_align);
	uint64_t hi = end == f->size && !f->block_dev ? end : round_down(end, f->discard_align);

	if (io->off + io->len < io->off || io->off >= f->size || lo >= hi) {
		io_answer(io, 0);
		return;
	}
	io->off = lo;
	io->len = hi - lo;
	submit_write(io);
}

/* ------------------------------------------------------------------ flushes */

static void flush_fin(struct io *io)
{
	struct file *f = io->file;

	if (io->ret < 0)
		f->flush_err = io->ret;	/* what was lost may not be noticed a second time */
	else if (f->flush_err)
		io->ret = f->flush_err;
	else
		f->fseq = MAX(f->fseq, front(io)->seq);
	io_finish(io);
}

static void submit_flush(struct io *io)
{
	struct file *f = io->file;

	if (f->unsafe)
		io_answer(io, 0);
	else if (f->flush_err)
		io_answer(io, f->flush_err);
	else if (f->wseq == f->fseq)
		io_answer(io, 0);
	else {
		front(io)->seq = f->wseq;
		backend_submit(io, flush_fin);
	}
}

void file_submit(struct io *io)
{
	struct file *f = io->file;

	f->inflight++;
	if (io->op == IO_FLUSH)
		submit_flush(io);
	else if (!io->len)
		io_answer(io, 0);
	else if (io->op == IO_READ)
		submit_read(io);
	else if (!(f->flags & FILE_RDWR))
		io_answer(io, -EBADF);
	else if (io->op == IO_DISCARD)
		submit_discard(io);
	else
		submit_write(io);
}

int file_read_now(struct file *f, void *buf, uint64_t len, uint64_t off)
{
	if (!f->ops->read_now || (off | len) & (f->align - 1) || off > f->size || len > f->size - off)
		return -EAGAIN;
	return f->ops->read_now(f, buf, len, off);
}

void file_written(struct file *f, uint64_t off, uint64_t len)
{
	f->wseq++;
	f->size = MAX(f->size, off + len);
	f->logical_end = MAX(f->logical_end, off + len);
}
