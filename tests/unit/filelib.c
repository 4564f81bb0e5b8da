/* SPDX-License-Identifier: BSD-2-Clause */
/* filelib.c - a model backend and single transfers, for the tests of the storage seam's front */
#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "filelib.h"
#include "loop.h"

static uint64_t rng;

void rnd_start(void)
{
	rng = 88172645463325252ULL;
}

uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

/* ------------------------------------------------------------------ the model backend */

#define MODEL_MAX (32u << 20)

static void model_move(struct file *f, struct io *io, uint64_t len)
{
	struct model *m = f->priv;
	uint64_t off = io->off;
	int i;

	for (i = 0; i < io->iovcnt && len; i++) {
		uint64_t n = MIN(len, io->iov[i].iov_len);

		if (io->op == IO_WRITE)
			memcpy(m->disk + off, io->iov[i].iov_base, n);
		else
			memcpy(io->iov[i].iov_base, m->disk + off, n);
		off += n;
		len -= n;
	}
	if (io->op == IO_WRITE)
		m->size = MAX(m->size, off);
}

void model_do(struct file *f, struct io *io)
{
	struct model *m = f->priv;
	uint64_t len = io->len;
	int ret = 0;

	if (m->fail_with) {
		ret = m->fail_with;
		m->fail_with = 0;
	} else if (io->op == IO_READ || io->op == IO_WRITE) {
		if (m->short_one_in && io->len > f->align && !rnd(m->short_one_in))
			ret = len = f->align + rnd(io->len - f->align);
		model_move(f, io, len);
	} else if (io->op == IO_ZERO) {
		memset(m->disk + io->off, 0, io->len);
		m->size = MAX(m->size, io->off + io->len);
	} else if (io->op == IO_FLUSH) {
		ret = m->fail_flush;
	}
	io_complete(io, ret);
}

static void model_kick(struct file *f);

static void model_task(struct task *t)
{
	struct model *m = container_of(t, struct model, task);
	unsigned n = m->nheld ? 1 + rnd(m->nheld) : 0;
	struct file *f = n ? m->held[0]->file : NULL;

	m->kicked = false;
	while (n--) {
		unsigned i = rnd(m->nheld);
		struct io *io = m->held[i];

		m->held[i] = m->held[--m->nheld];
		model_do(f, io);
	}
	if (m->nheld)
		model_kick(f);
}

static void model_kick(struct file *f)
{
	struct model *m = f->priv;

	if (m->kicked || m->hold)
		return;
	m->kicked = true;
	m->task.fn = model_task;
	loop_defer(f->loop, &m->task);
}

static void model_check(struct file *f, const struct io *io)
{
	struct model *m = f->priv;
	uint64_t sum = 0;
	int i;

	if (io->op == IO_FLUSH)
		return;
	if (io->op == IO_ZERO || io->op == IO_DISCARD) {
		ck_assert(is_aligned(io->off, f->discard_align));
		ck_assert(is_aligned(io->off + io->len, f->discard_align) ||
			  (!f->block_dev && io->off + io->len >= f->size));
		return;
	}
	ck_assert(io->len > 0 && io->len <= f->max_io);
	ck_assert(is_aligned(io->off | io->len, f->align));
	ck_assert_int_le(io->iovcnt, IOV_MAX);
	for (i = 0; i < io->iovcnt; i++) {
		ck_assert(is_aligned((uintptr_t)io->iov[i].iov_base, f->mem_align));
		ck_assert(is_aligned(io->iov[i].iov_len, f->align));
		sum += io->iov[i].iov_len;
	}
	ck_assert_uint_eq(sum, io->len);
	if (io->op == IO_READ)
		ck_assert_uint_le(io->off + io->len, round_up(f->size, f->align));
	else
		ck_assert(!m->fixed || io->off + io->len <= m->size);
	m->biggest = MAX(m->biggest, io->len);
	m->biggest_iovcnt = MAX(m->biggest_iovcnt, (unsigned)io->iovcnt);
}

static void model_submit(struct io *io)
{
	struct model *m = io->file->priv;

	model_check(io->file, io);
	m->ops[io->op]++;
	if ((io->op == IO_ZERO && m->no_zero) || (io->op == IO_DISCARD && m->no_discard)) {
		io_complete(io, -ENOTSUP);
		return;
	}
	ck_assert_uint_lt(m->nheld, HELD_MAX);
	m->held[m->nheld++] = io;
	model_kick(io->file);
}

void model_release(struct file *f)
{
	struct model *m = f->priv;

	m->hold = false;
	model_kick(f);
}

static int model_truncate(struct file *f, uint64_t size)
{
	struct model *m = f->priv;

	if (size < m->size)
		memset(m->disk + size, 0, m->size - size);
	m->size = size;
	return 0;
}

static int model_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t model_allocated(struct file *f)
{
	return 0;
}

/* Takes its time, on a helper thread. */
static int model_prealloc(struct file *f, uint64_t off, uint64_t len)
{
	usleep(20000);
	return 0;
}

static void model_close(struct file *f)
{
	struct model *m = f->priv;

	free(m->disk);
	free(m);
}

static const struct file_ops model_ops = {
	.name = "model",
	.submit = model_submit,
	.truncate = model_truncate,
	.prealloc = model_prealloc,
	.status = model_status,
	.allocated = model_allocated,
	.close = model_close,
};

struct file *model_open(struct tapimg_loop *loop, uint32_t align, uint32_t mem_align, uint64_t size)
{
	struct file *f = file_alloc(loop, &model_ops, "model", FILE_RDWR);
	struct model *m = calloc(1, sizeof(*m));

	m->disk = calloc(1, MODEL_MAX);
	m->size = size;
	f->priv = m;
	f->align = align;
	f->mem_align = mem_align;
	f->discard_align = align;
	f->size = f->logical_end = size;
	return f;
}

/* ------------------------------------------------------------------ single transfers */

void one_done(struct io *io)
{
	container_of(io, struct one, io)->done = true;
}

void one_start(struct one *o, struct file *f, enum io_op op, uint64_t off, uint64_t len, void *buf)
{
	memset(o, 0, sizeof(*o));
	o->io.file = f;
	o->io.op = op;
	o->io.off = off;
	o->io.len = len;
	o->io.iov1 = (struct iovec){ buf, len };
	o->io.iov = &o->io.iov1;
	o->io.iovcnt = 1;
	o->io.done = one_done;
	file_submit(&o->io);
}

int one_wait(struct one *o)
{
	ck_assert_int_eq(loop_until(o->io.file->loop, &o->done), 0);
	return o->io.ret;
}
