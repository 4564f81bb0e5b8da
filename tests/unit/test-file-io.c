/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-file-io.c - the front of the storage seam against a model of memory
 *
 * Random transfers, many in flight, are made on a file and on a plain array; every read is compared.
 * The same load runs on the model backend (filelib.h) and on real files of several kinds.  Single
 * steps are looked at in test-file-steps.c.
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
#include "filelib.h"
#include "loop-impl.h"
#include "suite.h"

static struct tapimg_loop *loop;

static void setup(void)
{
	rnd_start();
	ck_assert_int_eq(tapimg_loop_new(2, &loop, NULL), 0);
}

static void teardown(void)
{
	tapimg_loop_free(loop);
}

/* ------------------------------------------------------------------ the load */

#define SLOTS 24
#define SPAN (1u << 20)

/* Rounds of random work: fewer under the sanitizers, which see a fault the first time. */
#ifdef __SANITIZE_ADDRESS__
#define ROUNDS(n) ((n) / 4)
#else
#define ROUNDS(n) (n)
#endif

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
	struct file *f = model_open(loop, aligns[_i].align, aligns[_i].mem, 300 * 1000);
	struct model *m = f->priv;

	load_run(f, SPAN, ROUNDS(20000));
	ck_assert_uint_eq(m->size, f->size);
	file_close(f);
}
END_TEST

START_TEST(model_short_transfers)
{
	struct file *f = model_open(loop, aligns[_i].align, aligns[_i].mem, SPAN);
	struct model *m = f->priv;

	m->short_one_in = 3;
	f->max_io = 16384;
	load_run(f, SPAN, ROUNDS(10000));
	ck_assert_uint_le(m->biggest, 16384);
	file_close(f);
}
END_TEST

START_TEST(model_fixed_size_without_zero)
{
	struct file *f = model_open(loop, aligns[_i].align, aligns[_i].mem, SPAN);
	struct model *m = f->priv;

	m->fixed = f->block_dev = true;
	m->no_zero = true;
	load_run(f, SPAN, ROUNDS(10000));
	ck_assert_uint_eq(m->size, SPAN);
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

	load_run(f, span, ROUNDS(4000));
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

/* Where direct transfers are copies all the same, small ones wait for each other: one system call. */
START_TEST(small_direct_transfers_on_tmpfs_share_a_call)
{
	enum { N = 8, LEN = 4096, LARGE = 65536 };
	const bool direct = _i;
	uint8_t *buf = file_buf(N * LEN + LARGE);
	char name[PATH_MAX];
	struct aio_op *op;
	struct one o[N + 1];
	int i, queued = 0;
	struct file *f;

	snprintf(name, sizeof(name), "/dev/shm/test-file-io.%d", getpid());
	f = open_real(name, FILE_RDWR | FILE_CREATE | FILE_EXCL | (direct ? FILE_DIRECT : 0));
	memset(buf, 'x', N * LEN + LARGE);
	ck_assert_int_eq(file_pwrite(f, buf, N * LEN + LARGE, 0), 0);
	memset(buf, 0, N * LEN + LARGE);
	memset(o, 0, sizeof(o));
	for (i = 0; i < N; i++)
		one_start(&o[i], f, IO_READ, i * LEN, LEN, buf + i * LEN);
	for (op = loop->aio.head; op; op = op->next)
		queued++;
	ck_assert_int_eq(queued, direct ? N : 0);
	one_start(&o[N], f, IO_READ, N * LEN, LARGE, buf + N * LEN);
	ck_assert_int_eq(buf[N * LEN], 'x');		/* this one did not wait */
	for (i = 0; i <= N; i++)
		ck_assert_int_eq(one_wait(&o[i]), 0);
	for (i = 0; i < N * LEN; i++)
		ck_assert_int_eq(buf[i], 'x');
	file_close(f);
	unlink(name);
	free(buf);
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
	int n = ARRAY_SIZE(aligns);
	struct statfs fs;

	tcase_set_timeout(tc, 300);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, model_any_alignment, 0, n);
	tcase_add_loop_test(tc, model_short_transfers, 0, n);
	tcase_add_loop_test(tc, model_fixed_size_without_zero, 0, n);
	tcase_add_test(tc, real_file_buffered);
	tcase_add_test(tc, real_file_direct);
	tcase_add_test(tc, growing_among_other_writes);
	tcase_add_test(tc, real_file_on_tmpfs);
	if (!statfs("/dev/shm", &fs) && fs.f_type == 0x01021994)
		tcase_add_loop_test(tc, small_direct_transfers_on_tmpfs_share_a_call, 0, 2);
	tcase_add_loop_test(tc, real_device, 0, 2);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
