/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-file-io.c - the front of the storage seam against a model of memory
 *
 * Random transfers, many in flight, are made on a file and on a plain array; every read is compared.
 * The model backend completes in random order, moves the bytes at the moment of completion (so that
 * a read-modify-write that is not protected loses somebody's bytes), stops short, refuses ZERO, and
 * insists on its alignment.  The same load runs on real files of several kinds.
 *
 * The submitter's part of the bargain is kept: no two transfers in flight overlap if one writes.
 */
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "file.h"

static struct tapimg_loop *loop;
static uint64_t rng;

static uint64_t rnd(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % n;
}

static void setup(void)
{
	rng = 88172645463325252ULL;
	ck_assert_int_eq(tapimg_loop_new(2, &loop, NULL), 0);
}

static void teardown(void)
{
	tapimg_loop_free(loop);
}

/* ------------------------------------------------------------------ the model backend */

#define MODEL_MAX (32u << 20)
#define HELD_MAX 512

struct model {
	uint8_t *disk;
	uint64_t size;
	struct io *held[HELD_MAX];
	unsigned nheld;
	struct task task;
	bool kicked;
	/* behaviour */
	bool hold;		/* nothing completes until model_release() */
	unsigned short_one_in;	/* of so many transfers stops short; 0: none */
	bool no_zero, no_discard;
	int fail_with;		/* next transfer */
	int fail_flush;
	bool fixed;		/* cannot grow */
	/* what was seen */
	unsigned ops[IO_FLUSH + 1];
	unsigned biggest_iovcnt;
	uint64_t biggest;
};

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

static void model_do(struct file *f, struct io *io)
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

static void model_release(struct file *f)
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

static struct file *model_open(uint32_t align, uint32_t mem_align, uint64_t size)
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

/* ------------------------------------------------------------------ the load */

#define SLOTS 24
#define SPAN (1u << 20)

struct slot {
	struct io io;
	bool busy;
	uint64_t off, len;
	uint8_t *mem, *expect;
	struct iovec iov[8];
};

struct load {
	struct file *f;
	uint8_t *oracle;
	uint64_t size, span;
	bool grows;
	struct slot slot[SLOTS];
	unsigned busy;
};

static void slot_done(struct io *io)
{
	struct slot *s = container_of(io, struct slot, io);
	uint8_t *p = s->expect;
	int i;

	ck_assert_msg(io->ret == 0, "op %d at %llu+%llu: %d", io->op, (unsigned long long)s->off,
		      (unsigned long long)s->len, io->ret);
	if (io->op == IO_READ)
		for (i = 0; i < io->iovcnt; i++) {
			ck_assert_msg(!memcmp(io->iov[i].iov_base, p, io->iov[i].iov_len),
				      "wrong data reading %llu+%llu", (unsigned long long)s->off,
				      (unsigned long long)s->len);
			p += io->iov[i].iov_len;
		}
	s->busy = false;
}

static bool collides(const struct load *l, uint64_t off, uint64_t len, bool write)
{
	unsigned i;

	for (i = 0; i < SLOTS; i++) {
		const struct slot *s = &l->slot[i];

		if (s->busy && s->off < off + len && off < s->off + s->len &&
		    (write || s->io.op != IO_READ))
			return true;
	}
	return false;
}

/* Cuts the slot's memory into iovecs, some of them oddly placed. */
static void slot_iov(struct slot *s)
{
	uint64_t left = s->len;
	uint8_t *p = s->mem;
	int n = 0, want = 1 + rnd(ARRAY_SIZE(s->iov));

	if (!rnd(3))
		p += rnd(600);
	while (left) {
		uint64_t len = n + 1 == want ? left : rnd(left + 1);

		if (rnd(2) && n + 1 < want)
			len &= ~(uint64_t)511;
		s->iov[n++] = (struct iovec){ p, len };
		p += len;
		left -= len;
	}
	s->io.iov = s->iov;
	s->io.iovcnt = n;
}

static void slot_start(struct load *l, struct slot *s)
{
	static const enum io_op ops[] = { IO_READ, IO_READ, IO_WRITE, IO_WRITE, IO_WRITE, IO_ZERO };
	uint64_t len = 1 + rnd(rnd(8) ? 9000 : 70000), off = rnd(l->span - len);
	enum io_op op = ops[rnd(ARRAY_SIZE(ops))];
	int i;

	if (!rnd(3)) {
		off &= ~(uint64_t)4095;
		len = round_up(len, rnd(2) ? 512 : 4096);
	}
	if (off + len > l->span || collides(l, off, len, op != IO_READ))
		return;
	s->off = off;
	s->len = len;
	s->busy = true;
	slot_iov(s);
	if (op == IO_WRITE) {
		for (i = 0; i < s->io.iovcnt; i++) {
			memset(s->iov[i].iov_base, 1 + rnd(255), s->iov[i].iov_len);
			memcpy(l->oracle + off, s->iov[i].iov_base, s->iov[i].iov_len);
			off += s->iov[i].iov_len;
		}
	} else if (op == IO_ZERO) {
		memset(l->oracle + off, 0, len);
	} else {
		memcpy(s->expect, l->oracle + off, len);
		memset(s->mem, 0xdb, 80000);
	}
	if (op != IO_READ)
		l->size = MAX(l->size, s->off + len);
	s->io.file = l->f;
	s->io.op = op;
	s->io.flags = op == IO_ZERO && rnd(2) ? IO_MAY_UNMAP : 0;
	s->io.off = s->off;
	s->io.len = len;
	s->io.done = slot_done;
	file_submit(&s->io);
	ck_assert(s->busy);		/* never completes inside */
}

static void load_run(struct file *f, uint64_t span, unsigned steps)
{
	struct load *l = calloc(1, sizeof(*l));
	unsigned i, step;

	l->f = f;
	l->span = span;
	l->size = f->size;
	l->oracle = calloc(1, span);
	ck_assert_int_eq(file_pread(f, l->oracle, span, 0), 0);
	for (i = 0; i < SLOTS; i++) {
		l->slot[i].mem = file_buf(81920);
		l->slot[i].expect = malloc(81920);
	}
	for (step = 0; step < steps; step++) {
		struct slot *s = &l->slot[rnd(SLOTS)];

		if (!s->busy)
			slot_start(l, s);
		if (!rnd(3))
			ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
	}
	while (f->inflight)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	for (i = 0; i < SLOTS; i++) {
		ck_assert(!l->slot[i].busy);
		free(l->slot[i].mem);
		free(l->slot[i].expect);
	}
	ck_assert_uint_eq(f->size, l->size);
	ck_assert_uint_eq(f->nserial, 0);
	ck_assert(list_empty(&f->writes) && list_empty(&f->waiting));
	for (i = 0; i < span; i += 4096) {
		uint8_t buf[4096];
		unsigned n = MIN(4096, span - i);

		ck_assert_int_eq(file_pread(f, buf, n, i), 0);
		ck_assert(!memcmp(buf, l->oracle + i, n));
	}
	free(l->oracle);
	free(l);
}

/* ------------------------------------------------------------------ with the model */

static const struct { uint32_t align, mem; } aligns[] = {
	{ 1, 1 }, { 512, 1 }, { 512, 512 }, { 4096, 4 }, { 4096, 4096 },
};

START_TEST(model_any_alignment)
{
	struct file *f = model_open(aligns[_i].align, aligns[_i].mem, 300 * 1000);
	struct model *m = f->priv;

	load_run(f, SPAN, 20000);
	ck_assert_uint_eq(m->size, f->size);
	file_close(f);
}
END_TEST

START_TEST(model_short_transfers)
{
	struct file *f = model_open(aligns[_i].align, aligns[_i].mem, SPAN);
	struct model *m = f->priv;

	m->short_one_in = 3;
	f->max_io = 16384;
	load_run(f, SPAN, 10000);
	ck_assert_uint_le(m->biggest, 16384);
	file_close(f);
}
END_TEST

START_TEST(model_fixed_size_without_zero)
{
	struct file *f = model_open(aligns[_i].align, aligns[_i].mem, SPAN);
	struct model *m = f->priv;

	m->fixed = f->block_dev = true;
	m->no_zero = true;
	load_run(f, SPAN, 10000);
	ck_assert_uint_eq(m->size, SPAN);
	file_close(f);
}
END_TEST

/* One transfer by itself, for tests that look at each step. */
struct one {
	struct io io;
	bool done;
};

static void one_done(struct io *io)
{
	container_of(io, struct one, io)->done = true;
}

static void one_start(struct one *o, struct file *f, enum io_op op, uint64_t off, uint64_t len,
		      void *buf)
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

static int one_wait(struct one *o)
{
	ck_assert_int_eq(loop_until(loop, &o->done), 0);
	return o->io.ret;
}

static void turns(int n)
{
	while (n--)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
}

START_TEST(many_iovecs_and_large_transfers_are_split)
{
	enum { N = 3000 };
	struct file *f = model_open(512, 512, 0);
	struct model *m = f->priv;
	struct iovec *iov = calloc(N, sizeof(*iov));
	uint8_t *mem = file_buf(N * 512), *back = file_buf(N * 512);
	struct one o = { 0 };
	int i;

	for (i = 0; i < N * 512; i++)
		mem[i] = rnd(256);
	for (i = 0; i < N; i++)
		iov[i] = (struct iovec){ mem + i * 512, 512 };
	o.io = (struct io){ .file = f, .op = IO_WRITE, .off = 512, .len = N * 512, .iov = iov,
			    .iovcnt = N, .done = one_done };
	file_submit(&o.io);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_uint_eq(m->biggest_iovcnt, 1024);
	f->max_io = 64 * 1024;
	m->biggest = 0;
	ck_assert_int_eq(file_pread(f, back, N * 512, 512), 0);
	ck_assert(!memcmp(mem, back, N * 512));
	ck_assert_uint_eq(m->biggest, 64 * 1024);
	free(iov);
	free(mem);
	free(back);
	file_close(f);
}
END_TEST

/* Point 1 of file.h: a widened write waits for what overlaps it, and is waited for. */
START_TEST(widened_writes_own_their_range)
{
	struct file *f = model_open(4096, 1, 1 << 20);
	struct model *m = f->priv;
	struct one a, b, c, d;
	char *buf = file_buf(8192);

	memset(buf, 5, 8192);
	m->hold = true;
	one_start(&a, f, IO_WRITE, 0, 4096, buf);
	one_start(&b, f, IO_WRITE, 4000, 200, buf);	/* widened to 0..8192 */
	one_start(&c, f, IO_WRITE, 4096, 4096, buf);	/* overlaps what b waits for */
	one_start(&d, f, IO_WRITE, 8192, 4096, buf);	/* nobody's business */
	turns(3);
	ck_assert_uint_eq(m->nheld, 2);
	ck_assert_ptr_eq(m->held[0], &a.io);
	ck_assert_ptr_eq(m->held[1], &d.io);
	m->held[0] = m->held[1];
	m->nheld = 1;
	model_do(f, &a.io);
	turns(3);
	ck_assert(a.done && !b.done && !c.done);
	ck_assert_uint_eq(m->nheld, 2);			/* d, and b reading its first block */
	ck_assert_int_eq(m->held[1]->op, IO_READ);
	model_release(f);
	ck_assert_int_eq(one_wait(&b), 0);
	ck_assert_int_eq(one_wait(&c), 0);
	ck_assert_int_eq(one_wait(&d), 0);
	free(buf);
	file_close(f);
}
END_TEST

/* A ZERO that makes the file longer keeps later writes from being cut off. */
START_TEST(growing_zero_owns_the_end)
{
	struct file *f = model_open(1, 1, 1000);
	struct model *m = f->priv;
	struct one z, w, r;
	char buf[100] = "x";

	m->hold = true;
	one_start(&z, f, IO_ZERO, 2000, 1000, NULL);
	one_start(&w, f, IO_WRITE, 5000, 100, buf);
	one_start(&r, f, IO_WRITE, 0, 100, buf);
	turns(2);
	ck_assert_uint_eq(m->nheld, 2);
	ck_assert_ptr_eq(m->held[0], &z.io);
	ck_assert_ptr_eq(m->held[1], &r.io);
	model_release(f);
	ck_assert_int_eq(one_wait(&w), 0);
	ck_assert(z.done && f->size == 5100);
	file_close(f);
}
END_TEST

/* Nor is the size set while a helper thread moves the end. */
START_TEST(growing_zero_and_growing_ahead_exclude_each_other)
{
	struct file *f = model_open(1, 1, 1000);
	struct model *m = f->priv;
	struct one z;

	m->hold = true;
	file_grow_hint(f, 2000);
	ck_assert(f->growing);
	one_start(&z, f, IO_ZERO, 5000, 1000, NULL);
	turns(2);
	ck_assert_uint_eq(m->nheld, 0);
	while (f->growing)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_uint_gt(f->size, 1 << 20);
	ck_assert_uint_eq(m->nheld, 1);
	m->size = f->size;
	model_release(f);
	ck_assert_int_eq(one_wait(&z), 0);
	ck_assert_uint_eq(m->size, f->size);
	/* the other way round */
	m->hold = true;
	one_start(&z, f, IO_ZERO, f->size + 100, 10, NULL);
	file_grow_hint(f, f->size + 100);
	ck_assert(!f->growing);
	model_release(f);
	ck_assert_int_eq(one_wait(&z), 0);
	file_close(f);
}
END_TEST

START_TEST(a_widened_write_at_the_end_does_not_lengthen_the_file)
{
	struct file *f = model_open(512, 1, 1000);
	struct model *m = f->priv;
	char buf[700];

	memset(buf, 9, sizeof(buf));
	ck_assert_int_eq(file_pwrite(f, buf, 100, 950), 0);
	ck_assert_uint_eq(f->size, 1050);
	ck_assert_uint_eq(m->size, 1050);
	ck_assert_int_eq(file_pwrite(f, buf, 100, 100), 0);
	ck_assert_uint_eq(m->size, 1050);
	ck_assert_int_eq(file_pread(f, buf, 700, 1000), 0);
	ck_assert_int_eq(buf[49], 9);
	ck_assert_int_eq(buf[50], 0);
	ck_assert_int_eq(buf[699], 0);
	file_close(f);
}
END_TEST

START_TEST(flushes_are_elided_and_failures_stick)
{
	struct file *f = model_open(1, 1, 1000);
	struct model *m = f->priv;
	struct one w, fl;
	char c = 1;

	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 0);
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_int_eq(file_pread(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 1);
	ck_assert_int_eq(file_zero(f, 0, 10, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 2);
	/* a write that finishes while a flush runs is not covered by it */
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	m->hold = true;
	one_start(&fl, f, IO_FLUSH, 0, 0, NULL);
	one_start(&w, f, IO_WRITE, 0, 1, &c);
	turns(1);
	ck_assert_uint_eq(m->nheld, 2);
	model_release(f);
	ck_assert_int_eq(one_wait(&fl), 0);
	ck_assert_int_eq(one_wait(&w), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 4);
	/* a failed write may have written something */
	m->fail_with = -EIO;
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), -EIO);
	m->fail_flush = -EIO;
	ck_assert_int_eq(file_flush(f), -EIO);
	m->fail_flush = 0;
	ck_assert_int_eq(file_flush(f), -EIO);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 5);
	file_close(f);
}
END_TEST

START_TEST(unsafe_files_do_not_flush)
{
	struct file *f = model_open(1, 1, 1000);
	struct model *m = f->priv;
	char c = 1;

	f->unsafe = true;
	ck_assert_int_eq(file_pwrite(f, &c, 1, 0), 0);
	ck_assert_int_eq(file_flush(f), 0);
	ck_assert_uint_eq(m->ops[IO_FLUSH], 0);
	file_close(f);
}
END_TEST

START_TEST(zero_falls_back_only_if_it_may)
{
	struct file *f = model_open(512, 1, SPAN);
	struct model *m = f->priv;
	uint8_t *buf = file_buf(SPAN);
	uint64_t i;

	f->discard_align = 4096;
	memset(buf, 1, SPAN);
	ck_assert_int_eq(file_pwrite(f, buf, SPAN, 0), 0);
	ck_assert_int_eq(file_zero(f, 1000, 20000, 0), 0);
	ck_assert_uint_eq(m->ops[IO_ZERO], 1);
	m->no_zero = true;
	ck_assert_int_eq(file_zero(f, 0, 8192, IO_NO_FALLBACK), -ENOTSUP);
	ck_assert_int_eq(file_zero(f, 40960, 4096, 0), 0);
	ck_assert_int_eq(file_zero(f, 50001, 30000, 0), 0);
	ck_assert_int_eq(file_pread(f, buf, SPAN, 0), 0);
	for (i = 0; i < SPAN; i++)
		if (buf[i] != !((i >= 1000 && i < 21000) || (i >= 40960 && i < 45056) ||
				(i >= 50001 && i < 80001)))
			ck_abort_msg("byte %llu is %d", (unsigned long long)i, buf[i]);
	free(buf);
	file_close(f);
}
END_TEST

START_TEST(discards_are_narrowed_and_never_fail_for_lack_of_support)
{
	struct file *f = model_open(512, 1, 10000);
	struct model *m = f->priv;
	struct one o;

	f->discard_align = 4096;
	ck_assert_int_eq(file_discard(f, 100, 3000), 0);
	ck_assert_int_eq(file_discard(f, 20000, 30000), 0);
	ck_assert_uint_eq(m->ops[IO_DISCARD], 0);
	one_start(&o, f, IO_DISCARD, 1, 1 << 20, NULL);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_uint_eq(m->ops[IO_DISCARD], 1);
	ck_assert_uint_eq(o.io.off, 4096);
	ck_assert_uint_eq(o.io.len, 10000 - 4096);
	ck_assert_uint_eq(f->size, 10000);
	m->no_discard = true;
	ck_assert_int_eq(file_discard(f, 0, 8192), 0);
	m->no_discard = false;
	m->fail_with = -EIO;
	ck_assert_int_eq(file_discard(f, 0, 8192), -EIO);
	file_close(f);
}
END_TEST

START_TEST(failures_belong_to_one_transfer)
{
	struct file *f = model_open(512, 512, SPAN);
	struct model *m = f->priv;
	char *buf = file_buf(65536);

	memset(buf, 0, 65536);
	m->fail_with = -ENOSPC;
	ck_assert_int_eq(file_pwrite(f, buf, 4096, 0), -ENOSPC);
	ck_assert_int_eq(file_pwrite(f, buf, 4096, 0), 0);
	m->fail_with = -EIO;		/* meets the read of a read-modify-write */
	ck_assert_int_eq(file_pwrite(f, buf, 100, 10), -EIO);
	ck_assert_int_eq(file_pwrite(f, buf, 100, 10), 0);
	m->fail_with = -EIO;
	ck_assert_int_eq(file_pread(f, buf, 100, 10), -EIO);
	ck_assert_int_eq(file_pread(f, buf, 100, 10), 0);
	ck_assert_int_eq(file_pwrite(f, buf, 10, UINT64_MAX - 4), -EFBIG);
	ck_assert_int_eq(file_pwrite(f, buf, 10, INT64_MAX), -EFBIG);
	f->flags &= ~FILE_RDWR;
	ck_assert_int_eq(file_pwrite(f, buf, 10, 0), -EBADF);
	ck_assert_int_eq(file_zero(f, 0, 10, 0), -EBADF);
	f->flags |= FILE_RDWR;
	ck_assert_uint_eq(f->nserial, 0);
	free(buf);
	file_close(f);
}
END_TEST

START_TEST(closing_waits)
{
	struct file *f = model_open(512, 512, SPAN);
	struct one o[20];
	char *buf = file_buf(4096);
	int i;

	for (i = 0; i < 20; i++)
		one_start(&o[i], f, IO_READ, i * 4096, 4096, buf);
	file_close(f);
	for (i = 0; i < 20; i++)
		ck_assert(o[i].done);
	free(buf);
}
END_TEST

START_TEST(the_null_file_answers_without_storing)
{
	struct file *f;
	struct one o;
	char c = 7;

	ck_assert_int_eq(file_open_null(loop, 1ULL << 40, &f), 0);
	one_start(&o, f, IO_READ, 1ULL << 39, 1, &c);
	ck_assert(!o.done);
	ck_assert_int_eq(one_wait(&o), 0);
	ck_assert_int_eq(file_pwrite(f, &c, 1, 5), 0);
	ck_assert_int_eq(file_flush(f), 0);
	file_close(f);
}
END_TEST

/* ------------------------------------------------------------------ on real files */

static struct file *open_real(const char *name, unsigned flags)
{
	struct tapimg_err err;
	struct file *f;

	ck_assert_msg(!file_open(loop, name, flags, &f, &err), "%s", err.text);
	return f;
}

static void real_load(const char *name, unsigned flags, uint64_t span)
{
	struct file *f = open_real(name, FILE_RDWR | flags);
	struct stat st;
	uint64_t size;

	load_run(f, span, 4000);
	ck_assert_int_eq(file_flush(f), 0);
	size = f->size;
	file_close(f);
	if (!stat(name, &st) && S_ISREG(st.st_mode))
		ck_assert_uint_eq(st.st_size, size);
}

static void folder_load(const char *dir, unsigned flags)
{
	char name[PATH_MAX];

	snprintf(name, sizeof(name), "%s/test-file-io.%d", dir, getpid());
	real_load(name, FILE_CREATE | FILE_EXCL | flags, 999999);
	unlink(name);
}

START_TEST(real_file_buffered)
{
	folder_load(".", 0);
}
END_TEST

START_TEST(real_file_direct)
{
	folder_load(".", FILE_DIRECT);
}
END_TEST

/* Growing ahead on a helper thread, among writes and zeroes that make the file longer. */
START_TEST(growing_among_other_writes)
{
	struct file *f = open_real("grow", FILE_RDWR | FILE_CREATE | FILE_DIRECT);
	enum { N = 8, STEPS = 3000 };
	struct one o[N];
	uint8_t *buf = file_buf(65536), *back = file_buf(65536);
	uint64_t end = 0, pos;
	int i;

	memset(o, 0, sizeof(o));
	memset(buf, 7, 65536);
	for (i = 0; i < N; i++)
		o[i].done = true;
	for (i = 0; i < STEPS; i++) {
		struct one *s = &o[i % N];
		uint64_t len = 1 + rnd(12000);

		if (!s->done)
			ck_assert_int_eq(one_wait(s), 0);
		ck_assert_int_eq(s->io.ret, 0);
		file_grow_hint(f, end + len);
		one_start(s, f, i % 3 ? IO_WRITE : IO_ZERO, end, len, buf);
		end += len;
	}
	for (i = 0; i < N; i++)
		ck_assert_int_eq(one_wait(&o[i]), 0);
	ck_assert_uint_eq(f->logical_end, end);
	for (pos = 0; pos < f->size; pos += 65536)
		ck_assert_int_eq(file_pread(f, back, MIN(65536, f->size - pos), pos), 0);
	file_close(f);
	f = open_real("grow", 0);
	ck_assert_uint_eq(f->size, end);
	file_close(f);
	unlink("grow");
	free(buf);
	free(back);
}
END_TEST

START_TEST(real_file_on_tmpfs)
{
	struct statfs fs;

	if (statfs("/dev/shm", &fs) || fs.f_type != 0x01021994) {
		printf("SKIP test-file-io: /dev/shm is not tmpfs\n");
		return;
	}
	folder_load("/dev/shm", 0);
	folder_load("/dev/shm", FILE_DIRECT);
}
END_TEST

/*
 * A loop device over a file, with a block size; it goes away when the descriptor returned is closed.
 * Or a negative errno.
 */
static int loop_attach(const char *backing, uint32_t block, char *name, size_t len)
{
	struct loop_config cfg = { .block_size = block, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n, fd, ret = 0;

	if (ctl < 0)
		return -errno;
	n = ioctl(ctl, LOOP_CTL_GET_FREE);
	ret = n < 0 ? -errno : 0;
	close(ctl);
	if (ret)
		return ret;
	snprintf(name, len, "/dev/loop%d", n);
	fd = open(name, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	cfg.fd = open(backing, O_RDWR | O_CLOEXEC);
	if (ioctl(fd, LOOP_CONFIGURE, &cfg) < 0)
		ret = -errno;
	close(cfg.fd);
	if (ret)
		close(fd);
	return ret ? ret : fd;
}

START_TEST(real_device)
{
	const uint32_t block = _i ? 4096 : 512;
	char dev[64], backing[] = "deviceXXXXXX";
	struct file *f;
	int fd = mkstemp(backing), ret;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
	close(fd);
	ret = loop_attach(backing, block, dev, sizeof(dev));
	if (ret < 0) {
		printf("SKIP test-file-io: no loop device of %u-byte blocks: %s\n", block,
		       strerror(-ret));
		unlink(backing);
		return;
	}
	f = open_real(dev, FILE_RDWR | FILE_DIRECT);
	ck_assert(f->block_dev);
	ck_assert_uint_eq(f->align, block);
	ck_assert_uint_eq(f->size, 1 << 20);
	ck_assert_int_eq(file_truncate(f, 2 << 20), -ENOSPC);
	ck_assert_int_eq(file_pwrite(f, dev, 10, (1 << 20) - 5), -ENOSPC);
	file_close(f);
	real_load(dev, FILE_DIRECT, 1 << 20);
	real_load(dev, 0, 1 << 20);
	close(ret);
	unlink(backing);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file-io");
	TCase *tc = tcase_create("file-io");
	SRunner *sr;
	int failed, n = ARRAY_SIZE(aligns);

	tcase_set_timeout(tc, 300);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, model_any_alignment, 0, n);
	tcase_add_loop_test(tc, model_short_transfers, 0, n);
	tcase_add_loop_test(tc, model_fixed_size_without_zero, 0, n);
	tcase_add_test(tc, many_iovecs_and_large_transfers_are_split);
	tcase_add_test(tc, widened_writes_own_their_range);
	tcase_add_test(tc, growing_zero_owns_the_end);
	tcase_add_test(tc, growing_zero_and_growing_ahead_exclude_each_other);
	tcase_add_test(tc, a_widened_write_at_the_end_does_not_lengthen_the_file);
	tcase_add_test(tc, flushes_are_elided_and_failures_stick);
	tcase_add_test(tc, unsafe_files_do_not_flush);
	tcase_add_test(tc, zero_falls_back_only_if_it_may);
	tcase_add_test(tc, discards_are_narrowed_and_never_fail_for_lack_of_support);
	tcase_add_test(tc, failures_belong_to_one_transfer);
	tcase_add_test(tc, closing_waits);
	tcase_add_test(tc, the_null_file_answers_without_storing);
	tcase_add_test(tc, real_file_buffered);
	tcase_add_test(tc, real_file_direct);
	tcase_add_test(tc, growing_among_other_writes);
	tcase_add_test(tc, real_file_on_tmpfs);
	tcase_add_loop_test(tc, real_device, 0, 2);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
