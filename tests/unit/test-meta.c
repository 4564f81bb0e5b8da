/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-meta.c - the rules M1 to M9 of lib/meta.c, one by one
 *
 * The file under the cache is a recorder: transfers stay in flight until the test lets them go, and
 * what reaches it is noted in order. Whether the rules together survive crashes is the business of
 * tests/power.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "checked.h"
#include "meta.h"
#include "suite.h"

#define BS 512
#define DISK (64 * 1024)

struct recorder {
	char log[4096];
	uint8_t disk[2][DISK];
	int fail_write;		/* errno for writes from now on */
	unsigned nheld;
	struct io *io[256];
};

static struct tapimg_loop *loop;
static struct recorder *rec;
static struct file *file, *other;
static struct meta *meta;
static char released[256];
static int failed_with;

static void note(const char *what, uint64_t off)
{
	size_t n = strlen(rec->log);

	snprintf(rec->log + n, sizeof(rec->log) - n, "%s%d ", what, (int)(off / BS));
}

/* What happens to the second file is noted in small letters. */
static void note_io(const struct io *io, const char *what, const char *small, uint64_t off)
{
	note(io->file == file ? what : small, off);
}

static void rec_submit(struct io *io)
{
	int i;

	if (io->op == IO_WRITE) {
		uint64_t off = io->off;

		for (i = 0; i < io->iovcnt; i++) {
			size_t o;

			for (o = 0; o < io->iov[i].iov_len; o += BS)
				note_io(io, "W", "w", off + o);
			off += io->iov[i].iov_len;
		}
	} else if (io->op == IO_FLUSH) {
		note_io(io, "F", "f", 0);
	} else if (io->op == IO_DISCARD) {
		note_io(io, "D", "d", io->off);
	}
	rec->io[rec->nheld++] = io;
}

/* Ends the oldest transfer in flight; false if there is none. */
static bool let_go(void)
{
	struct io *io;
	uint8_t *disk;
	uint64_t off;
	int i;

	if (!rec->nheld)
		return false;
	io = rec->io[0];
	memmove(rec->io, rec->io + 1, --rec->nheld * sizeof(rec->io[0]));
	off = io->off;
	disk = rec->disk[io->file != file];
	for (i = 0; i < io->iovcnt && (io->op == IO_READ || io->op == IO_WRITE); i++) {
		if (io->op == IO_READ)
			memcpy(io->iov[i].iov_base, disk + off, io->iov[i].iov_len);
		else if (!rec->fail_write)
			memcpy(disk + off, io->iov[i].iov_base, io->iov[i].iov_len);
		off += io->iov[i].iov_len;
	}
	io_complete(io, io->op == IO_WRITE ? rec->fail_write : 0);
	return true;
}

static void turn(void)
{
	int i;

	for (i = 0; i < 10; i++)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
}

static void run_dry(void)
{
	do
		turn();
	while (let_go());
	turn();
}

static int rec_truncate(struct file *f, uint64_t size)
{
	return 0;
}

static int rec_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t rec_allocated(struct file *f)
{
	return 0;
}

static void rec_close(struct file *f)
{
}

static const struct file_ops rec_ops = {
	.name = "recorder",
	.submit = rec_submit,
	.truncate = rec_truncate,
	.status = rec_status,
	.allocated = rec_allocated,
	.close = rec_close,
};

static int on_release(void *arg, uint64_t off, uint64_t len)
{
	size_t n = strlen(released);

	snprintf(released + n, sizeof(released) - n, "%d+%d ", (int)(off / BS), (int)(len / BS));
	return 0;
}

static void on_failed(void *arg, int err, uint64_t off, const char *what)
{
	failed_with = err;
}

static const struct meta_ops ops = { .release = on_release, .failed = on_failed };

static struct file *rec_open(const char *name)
{
	struct file *f = file_alloc(loop, &rec_ops, name, FILE_RDWR);

	f->align = f->mem_align = f->discard_align = 1;
	f->max_io = 1 << 20;
	f->size = f->logical_end = DISK;
	return f;
}

static void setup(void)
{
	int i;

	ck_assert_int_eq(tapimg_loop_new(1, &loop, NULL), 0);
	rec = calloc(1, sizeof(*rec));
	for (i = 0; i < DISK; i++) {
		rec->disk[0][i] = i / BS;
		rec->disk[1][i] = 100 + i / BS;
	}
	file = rec_open("recorder");
	other = rec_open("other");
	ck_assert_int_eq(meta_new(file, BS, 0, &ops, NULL, &meta), 0);
	released[0] = 0;
	failed_with = 0;
}

static void teardown(void)
{
	rec->fail_write = 0;
	run_dry();
	meta_destroy(meta);
	file_close(file);
	file_close(other);
	tapimg_loop_free(loop);
	free(rec);
}

/* the block, read if need be */
static struct mblk *get(int n)
{
	struct mblk *b = meta_get(meta, n * BS);

	if (!b) {
		run_dry();
		b = meta_get(meta, n * BS);
	}
	ck_assert_ptr_nonnull(b);
	return b;
}

static void change(int n, unsigned rank, uint8_t v)
{
	struct mblk *b = get(n);

	meta_dirty(meta, b, rank)[0] = v;
	meta_op_begin(meta);
}

struct sync {
	struct waiter w;
	bool done;
};

static void sync_wake(struct waiter *w)
{
	container_of(w, struct sync, w)->done = true;
}

static void sync_start(struct sync *s)
{
	*s = (struct sync){ .w = { .wake = sync_wake } };
	list_init(&s->w.node);
	meta_sync(meta, &s->w);
}

START_TEST(sequence)	/* M1, M2, M4 */
{
	struct sync s;

	change(9, 3, 1);
	change(5, 2, 1);
	change(7, 0, 1);
	change(6, 0, 1);
	rec->log[0] = 0;
	sync_start(&s);
	run_dry();
	ck_assert(s.done && !s.w.ret);
	/* neighbours in one transfer, rank by rank, a flush after each, none for empty ranks */
	ck_assert_str_eq(rec->log, "W6 W7 F0 W5 F0 W9 F0 ");
}
END_TEST

START_TEST(nothing_before_flush)	/* M4: a rank waits for the flush before it */
{
	struct sync s;

	change(1, 0, 1);
	change(2, 2, 1);
	rec->log[0] = 0;
	sync_start(&s);
	turn();
	ck_assert_str_eq(rec->log, "W1 ");
	let_go();
	turn();
	ck_assert_str_eq(rec->log, "W1 F0 ");
	turn();
	ck_assert_str_eq(rec->log, "W1 F0 ");
	let_go();
	turn();
	ck_assert_str_eq(rec->log, "W1 F0 W2 ");
	ck_assert(!s.done);
	run_dry();
	ck_assert(s.done);
}
END_TEST

START_TEST(frozen)	/* M3 */
{
	struct sync s;

	change(1, 0, 0x11);
	change(2, 2, 0x22);
	sync_start(&s);
	turn();
	change(2, 2, 0x33);	/* rank 2 of the epoch that is closing: not yet written */
	run_dry();
	ck_assert(s.done);
	ck_assert_int_eq(rec->disk[0][2 * BS], 0x22);
	ck_assert_int_eq(get(2)->data[0], 0x33);
	sync_start(&s);
	run_dry();
	ck_assert_int_eq(rec->disk[0][2 * BS], 0x33);
}
END_TEST

START_TEST(sync_waits_for_later_epoch)	/* M5 */
{
	struct sync a, b;

	change(1, 0, 1);
	sync_start(&a);
	turn();
	change(3, 0, 3);
	sync_start(&b);
	while (!a.done) {
		ck_assert(!b.done);
		ck_assert(let_go());
		turn();
	}
	ck_assert(!b.done);
	run_dry();
	ck_assert(b.done);
	ck_assert_int_eq(rec->disk[0][3 * BS], 3);
}
END_TEST

START_TEST(release_after_durable)	/* M6 */
{
	struct sync s;

	change(2, 2, 1);
	meta_free(meta, 40 * BS, 2 * BS);
	meta_op_begin(meta);
	run_dry();
	ck_assert_str_eq(released, "");
	sync_start(&s);
	turn();
	while (!s.done) {
		ck_assert_str_eq(released, "");
		ck_assert(let_go());
		turn();
	}
	run_dry();
	ck_assert_str_eq(released, "40+2 ");
}
END_TEST

START_TEST(release_after_users)	/* M7 */
{
	struct meta_user before, after;
	struct sync s;

	meta_enter(meta, &before);
	change(2, 2, 1);
	meta_free(meta, 40 * BS, BS);
	meta_op_begin(meta);
	meta_enter(meta, &after);
	sync_start(&s);
	run_dry();
	ck_assert(s.done);
	ck_assert_str_eq(released, "");
	meta_leave(meta, &before);
	run_dry();
	ck_assert_str_eq(released, "40+1 ");	/* who came later does not matter */
	meta_leave(meta, &after);
}
END_TEST

START_TEST(failure)	/* M8 */
{
	struct sync a, b;

	change(1, 0, 1);
	change(2, 2, 1);
	rec->fail_write = -EIO;
	rec->log[0] = 0;
	sync_start(&a);
	run_dry();
	ck_assert(a.done);
	ck_assert_int_eq(a.w.ret, -EIO);
	ck_assert_int_eq(failed_with, -EIO);
	ck_assert_str_eq(rec->log, "W1 ");	/* nothing of higher rank, not even a flush */
	rec->fail_write = 0;
	sync_start(&b);
	run_dry();
	ck_assert_int_eq(b.w.ret, -EIO);
	ck_assert_str_eq(rec->log, "W1 ");
	ck_assert_int_eq(get(1)->data[0], 1);	/* what was changed stays readable */
}
END_TEST

START_TEST(gather_then_change)	/* M9 */
{
	change(1, 0, 1);
	meta_dirty(meta, get(1), 0);
	meta_get(meta, 100 * BS);	/* not cached: -EAGAIN after a change */
}
END_TEST

START_TEST(cold)
{
	get(1);
	meta->cold = true;
	ck_assert_ptr_nonnull(meta_get(meta, 1 * BS));
	meta_op_done(meta);
	ck_assert_ptr_null(meta_get(meta, 1 * BS));	/* first answer of the next operation */
	ck_assert_ptr_nonnull(meta_get(meta, 1 * BS));
}
END_TEST

START_TEST(eviction)
{
	int i;

	/* more blocks than fit */
	meta->maxblk = 16;
	for (i = 0; i < 2000; i++) {
		struct mblk *b = get(i % (DISK / BS));

		ck_assert_int_eq(b->data[0], (uint8_t)(i % (DISK / BS)));
		ck_assert_uint_le(meta->nblk, 2 * 16);
	}
}
END_TEST

START_TEST(fresh_over_read)
{
	uint8_t *p;

	ck_assert_ptr_null(meta_get(meta, 8 * BS));	/* in flight */
	ck_assert(meta_room(meta, 2));
	p = meta_fresh(meta, 8 * BS, 2);
	p[0] = 0x77;
	meta_op_begin(meta);
	run_dry();
	ck_assert_int_eq(get(8)->data[0], 0x77);
	ck_assert_int_eq(get(8)->data[1], 0);
}
END_TEST

START_TEST(forget)
{
	struct sync s;

	change(4, 2, 0x55);
	meta_forget(meta, 4 * BS, BS);
	rec->log[0] = 0;
	sync_start(&s);
	run_dry();
	ck_assert(s.done);
	ck_assert_ptr_null(strchr(rec->log, 'W'));
	ck_assert_int_eq(get(4)->data[0], 4);
}
END_TEST

static struct mblk *get_at(uint64_t addr)
{
	struct mblk *b = meta_get(meta, addr);

	if (!b) {
		run_dry();
		b = meta_get(meta, addr);
	}
	ck_assert_ptr_nonnull(b);
	return b;
}

/* Blocks of the same offset in two files are two blocks; each rank flushes the files it was written to. */
START_TEST(two_files)
{
	struct sync s;

	ck_assert_int_eq(meta_add_file(meta, other, true), 1);
	ck_assert_int_eq(get_at(meta_addr(0, 3 * BS))->data[0], 3);
	ck_assert_int_eq(get_at(meta_addr(1, 3 * BS))->data[0], 103);
	rec->log[0] = 0;
	meta_dirty(meta, get_at(meta_addr(1, 3 * BS)), 1)[0] = 0x11;
	meta_op_begin(meta);
	meta_dirty(meta, get_at(meta_addr(1, 4 * BS)), 2)[0] = 0x12;
	meta_op_begin(meta);
	meta_dirty(meta, get_at(meta_addr(0, 5 * BS)), 2)[0] = 0x13;
	meta_op_begin(meta);
	sync_start(&s);
	run_dry();
	ck_assert(s.done && !s.w.ret);
	ck_assert_str_eq(rec->log, "w3 f0 W5 w4 F0 f0 ");
	ck_assert_int_eq(rec->disk[1][3 * BS], 0x11);
	ck_assert_int_eq(rec->disk[1][4 * BS], 0x12);
	ck_assert_int_eq(rec->disk[0][5 * BS], 0x13);
	ck_assert_int_eq(rec->disk[0][3 * BS], 3);
}
END_TEST

/* The data that a file got are covered by the first flush, although it holds no blocks. */
START_TEST(many_files)
{
	struct file *f[META_FLUSHES + 3];
	struct sync s;
	unsigned i, n = 0;
	const char *p;

	for (i = 0; i < ARRAY_SIZE(f); i++) {
		f[i] = rec_open("more");
		ck_assert_int_eq(meta_add_file(meta, f[i], false), (int)i + 1);
		if (i != 2)
			file_written(f[i], 0, BS);
	}
	change(4, 1, 0x44);
	rec->log[0] = 0;
	sync_start(&s);
	turn();
	ck_assert_uint_eq(rec->nheld, META_FLUSHES);
	ck_assert_ptr_null(strchr(rec->log, 'W'));
	run_dry();
	ck_assert(s.done && !s.w.ret);
	for (p = rec->log; (p = strchr(p, 'f')); p++)
		n++;
	ck_assert_uint_eq(n, ARRAY_SIZE(f) - 1);
	ck_assert_str_eq(strchr(rec->log, 'W'), "W4 F0 ");
	meta_destroy(meta);
	for (i = 0; i < ARRAY_SIZE(f); i++)
		file_close(f[i]);
	ck_assert_int_eq(meta_new(file, BS, 0, &ops, NULL, &meta), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("meta");
	TCase *tc = tcase_create("rules");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, sequence);
	tcase_add_test(tc, nothing_before_flush);
	tcase_add_test(tc, frozen);
	tcase_add_test(tc, sync_waits_for_later_epoch);
	tcase_add_test(tc, release_after_durable);
	tcase_add_test(tc, release_after_users);
	tcase_add_test(tc, failure);
	tcase_add_test_raise_signal(tc, gather_then_change, 6);
	tcase_add_test(tc, cold);
	tcase_add_test(tc, eviction);
	tcase_add_test(tc, fresh_over_read);
	tcase_add_test(tc, forget);
	tcase_add_test(tc, two_files);
	tcase_add_test(tc, many_files);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
