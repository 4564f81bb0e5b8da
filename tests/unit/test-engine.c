/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-engine.c - the request engine over a toy format: rules E1 to E4 of lib/engine.h, restarts at
 * every driver call, filling of units, splitting, errors
 *
 * The toy keeps its map in memory: 16 units of 4 KiB, each HOLE, ZERO, DATA or SHARED at some host
 * unit. Transfers stay in flight until the test lets them go. What happens is noted in order.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "checked.h"
#include "crypt.h"
#include "engine.h"
#include "suite.h"

#define UNIT 4096
#define UNITS 16
#define DISK (UNIT * UNITS)

enum { T_HOLE, T_ZERO, T_DATA, T_SHARED };

struct toy {
	struct { int type; unsigned host; } map[UNITS];
	unsigned next;			/* host unit */
	bool clean;			/* what reserve gives reads as zeroes */
	unsigned again;			/* so many calls answer -EAGAIN first, each time */
	unsigned tried[UNITS];
	struct list waiters;
	bool no_unmap;
};

static struct tapimg_loop *loop;
static struct file *file;
static struct tapimg img, below;
static struct toy toy, toy_below;
static uint8_t store[4 * DISK];
static struct io *held[512];
static unsigned nheld;
static bool hold;
static int fail_write;
static char events[2048];

static void note(const char *what, int unit)
{
	size_t n = strlen(events);

	snprintf(events + n, sizeof(events) - n, "%s%d ", what, unit);
}

static void io_carry_out(struct io *io)
{
	uint64_t off = io->off;
	int i;

	for (i = 0; i < io->iovcnt; i++) {
		if (io->op == IO_READ)
			memcpy(io->iov[i].iov_base, store + off, io->iov[i].iov_len);
		else if (!fail_write)
			memcpy(store + off, io->iov[i].iov_base, io->iov[i].iov_len);
		off += io->iov[i].iov_len;
	}
	if (io->op == IO_ZERO || io->op == IO_DISCARD)
		memset(store + io->off, 0, io->len);
	if (io->op == IO_WRITE)
		note("written", (int)(io->off / UNIT));
	io_complete(io, io->op == IO_WRITE ? fail_write : 0);
}

static void store_submit(struct io *io)
{
	if (hold)
		held[nheld++] = io;
	else
		io_carry_out(io);
}

static bool let_go(void)
{
	struct io *io = held[0];

	if (!nheld)
		return false;
	memmove(held, held + 1, --nheld * sizeof(held[0]));
	io_carry_out(io);
	return true;
}

static int store_truncate(struct file *f, uint64_t size)
{
	return 0;
}

static int store_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t store_allocated(struct file *f)
{
	return 0;
}

static void store_close(struct file *f)
{
}

static const struct file_ops store_ops = {
	.name = "store", .submit = store_submit, .truncate = store_truncate,
	.status = store_status, .allocated = store_allocated, .close = store_close,
};

/* ------------------------------------------------------------------- the toy */

static struct toy *toy_of(struct tapimg *i)
{
	return i->fs;
}

static void kick(struct task *t);
static struct task kicker = { .fn = kick };

static void kick(struct task *t)
{
	struct list l = LIST_INIT(l);

	list_splice(&l, &toy.waiters);
	waiters_wake(&l, 0);
}

/* Says -EAGAIN as often as the test wants, for each unit anew after it has changed. */
static bool toy_again(struct tapimg *i, uint64_t off)
{
	struct toy *t = toy_of(i);

	if (t != &toy || t->tried[off / UNIT] == t->again)
		return false;
	t->tried[off / UNIT]++;
	loop_set_park(loop, &toy.waiters);
	if (list_empty(&kicker.node))
		loop_defer(loop, &kicker);
	return true;
}

static int toy_map(struct tapimg *i, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct toy *t = toy_of(i);
	unsigned u = off / UNIT;

	if (toy_again(i, off))
		return -EAGAIN;
	*ext = (struct extent){ .off = off, .len = MIN(len, UNIT - off % UNIT), .file = i->file };
	switch (t->map[u].type) {
	case T_HOLE:
		ext->type = EXT_HOLE;
		break;
	case T_ZERO:
		ext->type = EXT_ZERO;
		break;
	default:
		ext->type = EXT_DATA;
		ext->host = t->map[u].host * UNIT + off % UNIT;
		ext->flags = t->map[u].type == T_DATA ? EXT_WRITABLE : 0;
	}
	return 0;
}

static int toy_reserve(struct tapimg *i, uint64_t off, uint64_t len, unsigned flags,
		       struct extent *ext)
{
	struct toy *t = toy_of(i);

	if (toy_again(i, off))
		return -EAGAIN;
	t->tried[off / UNIT] = 0;
	note("reserve", (int)(off / UNIT));
	*ext = (struct extent){ .off = round_down(off, UNIT), .len = UNIT, .file = i->file,
				.type = EXT_NEW, .host = t->next++ * UNIT,
				.flags = t->clean ? EXT_CLEAN : 0 };
	return 0;
}

static int toy_commit(struct tapimg *i, const struct extent *ext)
{
	struct toy *t = toy_of(i);

	if (toy_again(i, ext->off))
		return -EAGAIN;
	t->tried[ext->off / UNIT] = 0;
	note("commit", (int)(ext->off / UNIT));
	t->map[ext->off / UNIT].type = T_DATA;
	t->map[ext->off / UNIT].host = ext->host / UNIT;
	return 0;
}

static void toy_abort(struct tapimg *i, const struct extent *ext)
{
	note("abort", (int)(ext->off / UNIT));
}

static int toy_unmap(struct tapimg *i, uint64_t off, uint64_t len, unsigned flags, uint64_t *done)
{
	struct toy *t = toy_of(i);

	if (toy_again(i, off))
		return -EAGAIN;
	if (t->no_unmap)
		return 0;
	if (flags & UNMAP_HOLE)
		note("drop", (int)(off / UNIT));
	else
		note("zero", (int)(off / UNIT));
	t->tried[off / UNIT] = 0;
	t->map[off / UNIT].type = T_ZERO;
	*done = UNIT;
	return 0;
}

static const struct format toy_format = {
	.name = "toy", .map = toy_map, .reserve = toy_reserve, .commit = toy_commit,
	.abort = toy_abort, .unmap = toy_unmap,
};

/* -------------------------------------------------------------------- harness */

struct call {
	struct tapimg_req req;
	struct iovec iov[3];
	bool done;
	bool in_submit;
};

static bool submitting;

static void call_done(struct tapimg_req *req)
{
	struct call *c = container_of(req, struct call, req);

	c->done = true;
	c->in_submit = submitting;
}

static void start(struct call *c, enum tapimg_op op, void *buf, uint64_t off, uint64_t len)
{
	memset(c, 0, sizeof(*c));
	c->iov[0] = (struct iovec){ buf, len };
	c->req = (struct tapimg_req){ .op = op, .off = off, .len = len, .iov = c->iov, .iovcnt = 1,
				      .done = call_done };
	submitting = true;
	tapimg_submit(&img, &c->req);
	submitting = false;
}

static void turn(void)
{
	int i;

	for (i = 0; i < 20; i++)
		ck_assert_int_ge(tapimg_loop_run(loop, false), 0);
}

static void run_dry(void)
{
	int tries = 1000;

	do
		turn();
	while (let_go() || (tapimg_inflight(&img) && tries--));
	turn();
}

static int run(enum tapimg_op op, void *buf, uint64_t off, uint64_t len)
{
	struct call c;

	start(&c, op, buf, off, len);
	run_dry();
	ck_assert(c.done);
	return c.req.ret;
}

static void image_setup(struct tapimg *i, struct toy *t, unsigned first)
{
	*t = (struct toy){ .next = first };
	*i = (struct tapimg){ .fmt = &toy_format, .fs = t, .file = file, .loop = loop, .size = DISK,
			      .unit = UNIT, .cluster = UNIT, .flags = TAPIMG_RDWR | TAPIMG_UNMAP,
			      .writable = true };
	ck_assert_int_eq(engine_init(i), 0);
}

static void setup(void)
{
	ck_assert_int_eq(tapimg_loop_new(1, &loop, NULL), 0);
	file = file_alloc(loop, &store_ops, "store", FILE_RDWR);
	file->align = file->mem_align = file->discard_align = 1;
	file->max_io = 1 << 20;
	file->size = file->logical_end = sizeof(store);
	memset(store, 0xee, sizeof(store));	/* stale bytes everywhere */
	hold = false;
	nheld = 0;
	fail_write = 0;
	list_init(&kicker.node);
	image_setup(&below, &toy_below, 2 * UNITS);
	image_setup(&img, &toy, 0);
	list_init(&toy.waiters);
	img.backing = &below;
	events[0] = 0;
}

static void teardown(void)
{
	engine_drain(&img);
	engine_exit(&img);
	engine_exit(&below);
	file_close(file);
	tapimg_loop_free(loop);
}

static bool all(const uint8_t *p, uint8_t v, size_t n)
{
	while (n--)
		if (*p++ != v)
			return false;
	return true;
}

/* ---------------------------------------------------------------------- tests */

static uint8_t buf[DISK], back[DISK];

START_TEST(publish_after_data)	/* E2 */
{
	struct call c;

	hold = true;
	memset(buf, 7, UNIT);
	start(&c, TAPIMG_WRITE, buf, 3 * UNIT, UNIT);
	turn();
	ck_assert_str_eq(events, "reserve3 ");
	ck_assert_int_eq(toy.map[3].type, T_HOLE);
	run_dry();
	ck_assert_str_eq(events, "reserve3 written0 commit3 ");
	ck_assert(c.done && !c.req.ret);
}
END_TEST

START_TEST(one_reservation_per_unit)	/* E1 */
{
	struct call a, b, c;

	hold = true;
	start(&a, TAPIMG_WRITE, memset(buf, 1, 512), 0, 512);
	start(&b, TAPIMG_WRITE, memset(buf + 512, 2, 512), 512, 512);
	start(&c, TAPIMG_WRITE, memset(buf + 1024, 3, 512), UNIT, 512);
	turn();
	ck_assert_str_eq(events, "reserve0 reserve1 ");	/* other units do not wait */
	run_dry();
	ck_assert(a.done && b.done && c.done);
	ck_assert_ptr_null(strstr(strstr(events, "reserve0") + 1, "reserve0"));
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, UNIT), 0);
	ck_assert(all(back, 1, 512) && all(back + 512, 2, 512) && all(back + 1024, 0, UNIT - 1024));
}
END_TEST

START_TEST(never_from_submit)	/* E4 */
{
	struct call c;
	enum tapimg_op op;

	for (op = TAPIMG_READ; op <= TAPIMG_FLUSH; op++) {
		start(&c, op, buf, 0, op == TAPIMG_FLUSH ? 0 : UNIT);
		run_dry();
		ck_assert(c.done && !c.in_submit);
	}
	start(&c, TAPIMG_READ, buf, DISK, 512);
	ck_assert(!c.done);
	run_dry();
	ck_assert(c.done);
	ck_assert_int_eq(c.req.ret, -EINVAL);
}
END_TEST

static int nested_ret;

static void nested_done(struct tapimg_req *req)
{
	nested_ret = tapimg_pread(&img, back, 512, 9 * UNIT);
	call_done(req);
}

START_TEST(callback_may_run_the_loop)	/* E4 */
{
	struct call c;

	/* both reads wait for metadata, and are answered from the engine's queue */
	toy.again = 1;
	nested_ret = 1;
	memset(&c, 0, sizeof(c));
	c.iov[0] = (struct iovec){ buf, 512 };
	c.req = (struct tapimg_req){ .op = TAPIMG_READ, .len = 512, .iov = c.iov, .iovcnt = 1,
				     .done = nested_done };
	tapimg_submit(&img, &c.req);
	run_dry();
	ck_assert(c.done);
	ck_assert_int_eq(nested_ret, 0);
}
END_TEST

START_TEST(fill_from_below)
{
	memset(store + 40 * UNIT, 0x42, UNIT);
	toy_below.map[5].type = T_DATA;
	toy_below.map[5].host = 40;
	memset(buf, 9, 1024);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 5 * UNIT + 1024, 1024), 0);
	ck_assert_int_eq(run(TAPIMG_READ, back, 5 * UNIT, UNIT), 0);
	ck_assert(all(back, 0x42, 1024) && all(back + 1024, 9, 1024) &&
		  all(back + 2048, 0x42, 2048));
	ck_assert(all(store + 40 * UNIT, 0x42, UNIT));
	/* one transfer, not three */
	ck_assert_str_eq(events, "reserve5 written0 commit5 ");
}
END_TEST

START_TEST(fill_with_zeroes)
{
	memset(buf, 9, 1024);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 1024, 1024), 0);
	ck_assert(all(store, 0, 1024) && all(store + 1024, 9, 1024) && all(store + 2048, 0, 2048));
}
END_TEST

START_TEST(clean_is_not_filled)
{
	toy.clean = true;
	memset(store, 0, sizeof(store));
	memset(store + 100, 0x55, 1);	/* would be overwritten by filling */
	memset(buf, 9, 1024);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 1024, 1024), 0);
	ck_assert_int_eq(store[100], 0x55);
	ck_assert(all(store + 1024, 9, 1024));
}
END_TEST

START_TEST(shared_is_copied)
{
	memset(store + 9 * UNIT, 0x33, UNIT);
	toy.map[1].type = T_SHARED;
	toy.map[1].host = 9;
	memset(buf, 4, 512);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, UNIT, 512), 0);
	ck_assert(all(store + 9 * UNIT, 0x33, UNIT));
	ck_assert_int_eq(run(TAPIMG_READ, back, UNIT, UNIT), 0);
	ck_assert(all(back, 4, 512) && all(back + 512, 0x33, UNIT - 512));
}
END_TEST

START_TEST(in_place)
{
	toy.map[1].type = T_DATA;
	toy.map[1].host = 9;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, UNIT + 512, 512), 0);
	ck_assert_str_eq(events, "written9 ");
}
END_TEST

START_TEST(write_error_gives_back)
{
	fail_write = -EIO;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, UNIT), -EIO);
	ck_assert_str_eq(events, "reserve0 written0 abort0 ");
	ck_assert_int_eq(toy.map[0].type, T_HOLE);
	fail_write = 0;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, UNIT), 0);	/* the lock is free again */
}
END_TEST

/* Everything gives the same result whatever answers -EAGAIN first, and how often. */
START_TEST(restarts)
{
	struct call c[8];
	unsigned i;

	toy.again = _i;
	memset(store + 40 * UNIT, 0x42, UNIT);
	toy_below.map[2].type = T_DATA;
	toy_below.map[2].host = 40;
	hold = true;
	for (i = 0; i < 8; i++)
		memset(buf + i * 3000, i + 1, 3000);
	for (i = 0; i < 8; i++)
		start(&c[i], TAPIMG_WRITE, buf + i * 3000, 500 + i * 3000, 3000);
	run_dry();
	for (i = 0; i < 8; i++)
		ck_assert(c[i].done && !c[i].req.ret);
	ck_assert_int_eq(run(TAPIMG_ZERO, NULL, 6 * UNIT - 100, 3 * UNIT), 0);
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(all(back, 0, 500));
	ck_assert(!memcmp(back + 500, buf, 6 * UNIT - 600));
	ck_assert(all(back + 6 * UNIT - 100, 0, DISK - 6 * UNIT + 100));
}
END_TEST

START_TEST(zero_splits)
{
	memset(buf, 1, DISK);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, DISK), 0);
	events[0] = 0;
	ck_assert_int_eq(run(TAPIMG_ZERO, NULL, 512, 3 * UNIT), 0);
	/* whole units are unmapped, the ends written */
	ck_assert_ptr_nonnull(strstr(events, "zero1 zero2 "));
	ck_assert_ptr_null(strstr(events, "zero0"));
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(all(back, 1, 512) && all(back + 512, 0, 3 * UNIT) &&
		  all(back + 512 + 3 * UNIT, 1, DISK - 512 - 3 * UNIT));
}
END_TEST

START_TEST(zero_without_unmap)
{
	memset(buf, 1, DISK);
	toy.no_unmap = true;
	toy.map[1].type = T_SHARED;
	toy.map[1].host = 60;
	ck_assert_int_eq(run(TAPIMG_ZERO, NULL, 0, DISK), 0);
	/* only what did not read as zeroes was written */
	ck_assert_ptr_nonnull(strstr(events, "reserve1 "));
	ck_assert_ptr_null(strstr(events, "reserve0 "));
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(all(back, 0, DISK));
}
END_TEST

START_TEST(zero_no_fallback)
{
	struct call c;

	toy.no_unmap = true;
	memset(&c, 0, sizeof(c));
	c.req = (struct tapimg_req){ .op = TAPIMG_ZERO, .len = UNIT, .done = call_done,
				     .flags = TAPIMG_REQ_NO_FALLBACK };
	tapimg_submit(&img, &c.req);
	run_dry();
	ck_assert_int_eq(c.req.ret, -ENOTSUP);
}
END_TEST

START_TEST(discard_needs_unmap)
{
	toy.map[1].type = T_DATA;
	img.flags &= ~TAPIMG_UNMAP;
	ck_assert_int_eq(run(TAPIMG_DISCARD, NULL, UNIT, UNIT), 0);
	ck_assert_str_eq(events, "");
	img.flags |= TAPIMG_UNMAP;
	ck_assert_int_eq(run(TAPIMG_DISCARD, NULL, UNIT - 1, UNIT), 0);
	ck_assert_str_eq(events, "");	/* no whole unit */
	ck_assert_int_eq(run(TAPIMG_DISCARD, NULL, UNIT - 1, UNIT + 1), 0);
	ck_assert_str_eq(events, "drop1 ");
}
END_TEST

START_TEST(scattered_buffers)
{
	struct call c;

	memset(&c, 0, sizeof(c));
	memset(buf, 1, 1000);
	memset(buf + 1000, 2, 5000);
	memset(buf + 6000, 3, 3000);
	c.iov[0] = (struct iovec){ buf, 1000 };
	c.iov[1] = (struct iovec){ buf + 1000, 5000 };
	c.iov[2] = (struct iovec){ buf + 6000, 3000 };
	c.req = (struct tapimg_req){ .op = TAPIMG_WRITE, .off = 700, .len = 9000, .iov = c.iov,
				     .iovcnt = 3, .done = call_done };
	tapimg_submit(&img, &c.req);
	run_dry();
	ck_assert(c.done && !c.req.ret);
	ck_assert_int_eq(run(TAPIMG_READ, back, 700, 9000), 0);
	ck_assert(!memcmp(back, buf, 9000));
	c.req.op = TAPIMG_READ;
	memset(buf, 0, 9000);
	tapimg_submit(&img, &c.req);
	run_dry();
	ck_assert(!memcmp(back, buf, 9000));
}
END_TEST

START_TEST(bad_requests)
{
	ck_assert_int_eq(run(TAPIMG_READ, buf, DISK - 1, 2), -EINVAL);
	ck_assert_int_eq(run(TAPIMG_READ, buf, UINT64_MAX, 2), -EINVAL);
	ck_assert_int_eq(run(99, buf, 0, 2), -EINVAL);
	ck_assert_int_eq(run(TAPIMG_READ, buf, DISK, 0), 0);
	img.writable = false;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, 1), -EROFS);
	img.failed = -EUCLEAN;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, 1), -EUCLEAN);
}
END_TEST

START_TEST(shorter_layer_below)
{
	below.size = 2 * UNIT + 512;
	memset(store + 40 * UNIT, 0x42, UNIT);
	toy_below.map[2].type = T_DATA;
	toy_below.map[2].host = 40;
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(all(back + 2 * UNIT, 0x42, 512));
	ck_assert(all(back + 2 * UNIT + 512, 0, DISK - 2 * UNIT - 512));
	memset(buf, 9, 512);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 2 * UNIT + 1024, 512), 0);
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(all(back + 2 * UNIT, 0x42, 512) && all(back + 2 * UNIT + 512, 0, 512) &&
		  all(back + 2 * UNIT + 1024, 9, 512) && all(back + 2 * UNIT + 1536, 0, 2560));
}
END_TEST

/* ------------------------------------------------------------------- enciphered */

static struct crypt *key_new(uint8_t byte)
{
	uint8_t key[32];
	struct crypt *c;

	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = byte + i;
	ck_assert_int_eq(crypt_new(CRYPT_AES_XTS_PLAIN, key, sizeof(key), "toy", &c, NULL), 0);
	return c;
}

static void cipher_setup(void)
{
	setup();
	img.crypt = key_new(1);
}

static void cipher_teardown(void)
{
	struct crypt *a = img.crypt, *b = below.crypt;

	teardown();
	crypt_free(a);
	crypt_free(b);
}

/* What the file holds for a unit, deciphered here. */
static const uint8_t *stored(struct crypt *c, unsigned unit, unsigned host)
{
	static uint8_t out[UNIT];

	ck_assert_int_eq(crypt_sectors(c, false, unit * UNIT / CRYPT_SECTOR, out, store + host * UNIT,
				       UNIT), 0);
	return out;
}

/* A new unit: what lies below is deciphered with its own key, and zeroes are enciphered too. */
START_TEST(cipher_new_unit)
{
	uint8_t *lower = store + 40 * UNIT;

	below.crypt = key_new(99);
	memset(buf, 0x42, UNIT);
	ck_assert_int_eq(crypt_sectors(below.crypt, true, 2 * UNIT / CRYPT_SECTOR, lower, buf, UNIT), 0);
	toy_below.map[2].type = T_DATA;
	toy_below.map[2].host = 40;
	toy.clean = _i;
	memset(store, 0, 4 * UNIT);
	memset(buf, 7, UNIT);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 2 * UNIT + 100, 300), 0);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 5 * UNIT + 1000, 1), 0);
	ck_assert(all(stored(img.crypt, 2, 0), 0x42, 100) && all(stored(img.crypt, 2, 0) + 100, 7, 300) &&
		  all(stored(img.crypt, 2, 0) + 400, 0x42, UNIT - 400));
	ck_assert(all(stored(img.crypt, 5, 1), 0, 1000) && stored(img.crypt, 5, 1)[1000] == 7 &&
		  all(stored(img.crypt, 5, 1) + 1001, 0, UNIT - 1001));
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, DISK), 0);
	ck_assert(!memcmp(back + 2 * UNIT, stored(img.crypt, 2, 0), UNIT) && all(back, 0, 2 * UNIT));
	ck_assert(!memcmp(back + 5 * UNIT, stored(img.crypt, 5, 1), UNIT));
	ck_assert(all(buf, 7, UNIT));	/* the caller's bytes are not touched */
	/* zeroes that have to be written are */
	toy.no_unmap = true;
	ck_assert_int_eq(run(TAPIMG_ZERO, NULL, 2 * UNIT, UNIT), 0);
	ck_assert(all(stored(img.crypt, 2, 0), 0, UNIT));
	ck_assert(!all(store, 0, UNIT));
}
END_TEST

/*
 * Random requests at random alignments, up to six at once, over the same units; requests that
 * overlap are never in flight together, those that only share a sector are.
 */
START_TEST(cipher_random)
{
	static uint8_t want[DISK], data[6][3 * UNIT];
	struct call c[6];
	unsigned seed = _i;

	img.size = DISK - 700;		/* ends inside a sector */
	for (int round = 0; round < 300; round++) {
		uint64_t at = rand_r(&seed) % 2000;
		int n = 0;

		if (toy.next > 40) {	/* the store is full: all over again */
			toy = (struct toy){ .no_unmap = rand_r(&seed) % 2 };
			list_init(&toy.waiters);
			memset(want, 0, sizeof(want));
		}
		hold = true;
		memset(c, 0, sizeof(c));
		for (; n < 6 && at < img.size; n++) {
			uint64_t len = 1 + rand_r(&seed) % (rand_r(&seed) % 2 ? 700 : 3 * UNIT), cut;
			int op = rand_r(&seed) % 4;

			if (rand_r(&seed) % 3 == 0) {
				at = round_up(at, CRYPT_SECTOR);
				len = round_up(len, CRYPT_SECTOR);
			}
			if (at >= img.size)
				break;
			len = MIN(MIN(len, img.size - at), sizeof(data[0]));
			cut = len / 3;
			for (uint64_t i = 0; i < len; i++)
				data[n][i] = rand_r(&seed);
			start(c + n, op == 3 ? TAPIMG_ZERO : op ? TAPIMG_WRITE : TAPIMG_READ, data[n], at, len);
			if (op == 3)
				memset(want + at, 0, len);
			else if (op)
				memcpy(want + at, data[n], len);
			at += len + (rand_r(&seed) % 2 ? 0 : cut);
		}
		run_dry();
		for (int i = 0; i < n; i++) {
			ck_assert(c[i].done && !c[i].req.ret);
			if (c[i].req.op == TAPIMG_READ)
				ck_assert(!memcmp(data[i], want + c[i].req.off, c[i].req.len));
		}
		hold = false;
		ck_assert_int_eq(run(TAPIMG_READ, back, 0, img.size), 0);
		ck_assert(!memcmp(back, want, img.size));
	}
	for (unsigned u = 0; u < UNITS - 1; u++)
		if (toy.map[u].type == T_DATA)
			ck_assert(!memcmp(stored(img.crypt, u, toy.map[u].host), want + u * UNIT, UNIT));
}
END_TEST

/* A whole sector and a part of it at the same time: the part must not bring back the rest. */
START_TEST(cipher_sector_is_locked)
{
	struct call a, b;

	ck_assert_int_eq(run(TAPIMG_WRITE, memset(buf, 1, UNIT), 0, UNIT), 0);
	hold = true;
	start(&a, TAPIMG_WRITE, memset(back, 3, 16), 0, 16);
	turn();
	start(&b, TAPIMG_WRITE, memset(buf, 2, 512), 0, 512);
	run_dry();
	ck_assert(a.done && b.done);
	hold = false;
	ck_assert_int_eq(run(TAPIMG_READ, back, 0, UNIT), 0);
	ck_assert(all(back + 16, 2, 496) && all(back + 512, 1, UNIT - 512));
}
END_TEST

static int toy_encode(const struct tapimg *i, uint64_t off, const void *src, uint32_t src_len,
		      void *dst, uint32_t dst_max)
{
	return 1;
}

/* Compressed bytes would go out in the clear. */
START_TEST(cipher_not_compressed)
{
	struct format f = toy_format;

	f.encode = toy_encode;
	img.fmt = &f;
	memset(buf, 1, UNIT);
	ck_assert_int_eq(run(TAPIMG_WRITE_COMPRESSED, buf, 0, UNIT), -ENOTSUP);
}
END_TEST

/* More than one is worked on at once, scattered so that it cannot be deciphered in place. */
START_TEST(cipher_scattered)
{
	struct call c;
	struct iovec iov[3];

	for (unsigned i = 0; i < DISK; i++)
		buf[i] = i * 7 + i / 512;
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, DISK), 0);
	ck_assert_int_eq(run(TAPIMG_WRITE, buf, 0, DISK), 0);	/* in place */
	memset(&c, 0, sizeof(c));
	iov[0] = (struct iovec){ back, 512 };
	iov[1] = (struct iovec){ back + 512, 100 };
	iov[2] = (struct iovec){ back + 612, DISK - 612 };
	c.req = (struct tapimg_req){ .op = TAPIMG_READ, .len = DISK, .iov = iov, .iovcnt = 3,
				     .done = call_done };
	tapimg_submit(&img, &c.req);
	run_dry();
	ck_assert(c.done && !c.req.ret);
	ck_assert(!memcmp(buf, back, DISK));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine");
	TCase *tc = tcase_create("requests");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, publish_after_data);
	tcase_add_test(tc, one_reservation_per_unit);
	tcase_add_test(tc, never_from_submit);
	tcase_add_test(tc, callback_may_run_the_loop);
	tcase_add_test(tc, fill_from_below);
	tcase_add_test(tc, fill_with_zeroes);
	tcase_add_test(tc, clean_is_not_filled);
	tcase_add_test(tc, shared_is_copied);
	tcase_add_test(tc, in_place);
	tcase_add_test(tc, write_error_gives_back);
	tcase_add_loop_test(tc, restarts, 0, 4);
	tcase_add_test(tc, zero_splits);
	tcase_add_test(tc, zero_without_unmap);
	tcase_add_test(tc, zero_no_fallback);
	tcase_add_test(tc, discard_needs_unmap);
	tcase_add_test(tc, scattered_buffers);
	tcase_add_test(tc, bad_requests);
	tcase_add_test(tc, shorter_layer_below);
	suite_add_tcase(s, tc);
	tc = tcase_create("enciphered");
	tcase_add_checked_fixture(tc, cipher_setup, cipher_teardown);
	tcase_add_loop_test(tc, cipher_new_unit, 0, 2);
	tcase_add_loop_test(tc, cipher_random, 0, 3);
	tcase_add_test(tc, cipher_sector_is_locked);
	tcase_add_test(tc, cipher_not_compressed);
	tcase_add_test(tc, cipher_scattered);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
