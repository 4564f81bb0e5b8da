/* SPDX-License-Identifier: BSD-2-Clause */
/* test-disk.c - disks of the server: drivers, holding requests back, pausing, limits, users */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "disk.h"
#include "log.h"
#include "scratch.h"
#include "server.h"
#include "simdisk.h"
#include "stats.h"
#include "suite.h"

static struct server s;
static struct tapimg_err err;

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(server_init(&s, &err), 0);
}

static void teardown(void)
{
	struct disk *d;

	while ((d = server_next_disk(&s, NULL)))
		disk_close(d, true, NULL);
	server_exit(&s);
	scratch_leave();
}

static int try_open(const char *text, struct disk **d)
{
	struct disk_config c;
	int ret;

	disk_config_init(&c);
	ret = disk_config_parse(&c, text, &err);
	if (!ret)
		ret = disk_open(&s, &c, d, &err);
	disk_config_clear(&c);
	return ret;
}

static struct disk *open_disk(const char *text)
{
	struct disk *d = NULL;
	int ret = try_open(text, &d);

	ck_assert_msg(!ret, "%s: %s", text, err.text);
	return d;
}

/* --------------------------------------------------------------------- requests */

struct one {
	struct disk_req r;
	struct iovec iov;
	bool done;
};

static void one_done(struct disk_req *r)
{
	container_of(r, struct one, r)->done = true;
}

static void start(struct disk *d, struct one *o, enum tapimg_op op, void *buf, uint64_t len, uint64_t off)
{
	memset(o, 0, sizeof(*o));
	o->iov = (struct iovec){ buf, len };
	o->r.req = (struct tapimg_req){ .op = op, .off = off, .len = len, .iov = &o->iov, .iovcnt = 1 };
	o->r.done = one_done;
	disk_submit(d, &o->r);
}

static int finish(struct one *o)
{
	ck_assert_int_eq(loop_until(s.loop, &o->done), 0);
	return o->r.req.ret;
}

static int io(struct disk *d, enum tapimg_op op, void *buf, uint64_t len, uint64_t off)
{
	struct one o;

	start(d, &o, op, buf, len, off);
	return finish(&o);
}

static bool filled(const uint8_t *buf, uint8_t value, size_t len)
{
	return buf[0] == value && !memcmp(buf, buf + 1, len - 1);
}

/* ---------------------------------------------------------------------- drivers */

START_TEST(null_answers_at_once_and_checks_ranges)
{
	struct disk *d = open_disk("null:1M");
	uint8_t buf[512];
	struct one o;

	start(d, &o, TAPIMG_READ, buf, sizeof(buf), 0);
	ck_assert(o.done);			/* D1 */
	ck_assert_int_eq(o.r.req.ret, 0);
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, 512, MiB - 511), -EINVAL);
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, 512, UINT64_MAX - 100), -EINVAL);
	ck_assert_int_eq(io(d, TAPIMG_WRITE, buf, 512, 0), 0);
	ck_assert_int_eq(io(d, TAPIMG_FLUSH, NULL, 0, 0), 0);
	ck_assert_uint_eq(disk_props(d)->size, MiB);
	ck_assert(disk_props(d)->blank_reads);
	ck_assert_uint_eq(disk_stats(d)->op[TAPIMG_READ].submitted, 3);
	ck_assert_uint_eq(disk_stats(d)->op[TAPIMG_READ].failed, 2);
}
END_TEST

START_TEST(read_only_is_refused_before_anything_changes)
{
	struct disk *d = open_disk("ram:1M,read-only");
	uint8_t buf[512] = { 1 };

	ck_assert_int_eq(io(d, TAPIMG_WRITE, buf, 512, 0), -EROFS);
	ck_assert_int_eq(io(d, TAPIMG_ZERO, NULL, 512, 0), -EROFS);
	ck_assert_int_eq(io(d, TAPIMG_DISCARD, NULL, 512, 0), -EROFS);
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, 512, 0), 0);
	ck_assert(filled(buf, 0, 512));
}
END_TEST

START_TEST(ram_holds_what_was_written)
{
	struct disk *d = open_disk("ram:4M");
	static uint8_t a[200000], b[200000];

	memset(a, 0x5a, sizeof(a));
	ck_assert_int_eq(io(d, TAPIMG_WRITE, a, sizeof(a), 1001), 0);
	ck_assert_int_eq(io(d, TAPIMG_READ, b, sizeof(b), 1001), 0);
	ck_assert_mem_eq(a, b, sizeof(a));
	/* neither end on a page */
	ck_assert_int_eq(io(d, TAPIMG_ZERO, NULL, 100000, 2000), 0);
	ck_assert_int_eq(io(d, TAPIMG_READ, b, sizeof(b), 1001), 0);
	ck_assert(filled(b, 0x5a, 999));
	ck_assert(filled(b + 999, 0, 100000));
	ck_assert(filled(b + 100999, 0x5a, sizeof(b) - 100999));
	ck_assert_int_eq(disk_resize(d, 8 * MiB, &err), 0);
	ck_assert_int_eq(io(d, TAPIMG_READ, b, 512, 8 * MiB - 512), 0);
	ck_assert(filled(b, 0, 512));
}
END_TEST

START_TEST(named_ram_is_one_memory_for_all)
{
	struct disk *a, *b;
	char text[100], name[64];
	uint8_t buf[512];

	snprintf(name, sizeof(name), "tapimg-test-%d", getpid());
	snprintf(text, sizeof(text), "ram:%s", name);
	ck_assert_int_eq(try_open(text, &a), -ENOENT);
	snprintf(text, sizeof(text), "one=ram:%s,size=1M", name);
	a = open_disk(text);
	snprintf(text, sizeof(text), "two=ram:%s", name);
	b = open_disk(text);
	ck_assert_uint_eq(disk_props(b)->size, MiB);
	memset(buf, 7, sizeof(buf));
	ck_assert_int_eq(io(a, TAPIMG_WRITE, buf, 512, 4096), 0);
	memset(buf, 0, sizeof(buf));
	ck_assert_int_eq(io(b, TAPIMG_READ, buf, 512, 4096), 0);
	ck_assert(filled(buf, 7, 512));
	snprintf(text, sizeof(text), "/dev/shm/%s", name);
	ck_assert_int_eq(unlink(text), 0);
}
END_TEST

START_TEST(every_image_driver_of_the_library_serves)
{
	static const char *const kinds[][2] = { { "raw", "aio" }, { "raw", "raw" }, { "qcow2", "qcow2" },
						{ "vpc", "vhd" }, { "qcow", "qcow" }, { "vmdk", "vmdk" } };
	char text[64];
	uint8_t buf[4096];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct disk *d;

		if (!tapimg_format_opts(kinds[i][0]))
			continue;		/* not built in */
		make_image("a.img", kinds[i][0], 8 * MiB, NULL, NULL);
		snprintf(text, sizeof(text), "tap:%s:a.img", kinds[i][1]);
		d = open_disk(text);
		memset(buf, 0x11, sizeof(buf));
		ck_assert_int_eq(io(d, TAPIMG_WRITE, buf, sizeof(buf), 65536), 0);
		ck_assert_int_eq(io(d, TAPIMG_FLUSH, NULL, 0, 0), 0);
		ck_assert_int_eq(disk_close(d, false, &err), 0);
		d = open_disk(text);
		memset(buf, 0, sizeof(buf));
		ck_assert_int_eq(io(d, TAPIMG_READ, buf, sizeof(buf), 65536), 0);
		ck_assert(filled(buf, 0x11, sizeof(buf)));
		ck_assert_int_eq(disk_close(d, false, &err), 0);
	}
}
END_TEST

START_TEST(what_cannot_be_opened_is_named)
{
	struct disk *d;

	ck_assert_int_eq(try_open("qcow2:missing.img", &d), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err.text, "missing.img"));
	ck_assert_int_eq(try_open("nosuch:x", &d), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err.text, "nosuch"));
	ck_assert_int_eq(try_open("qcow2", &d), -EINVAL);
	ck_assert_int_eq(try_open("null:0", &d), -EINVAL);
	ck_assert_int_eq(try_open("null:1M,cache=maybe", &d), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "maybe"));
	ck_assert_int_eq(try_open("null:1M,colour=red", &d), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "colour"));
	open_disk("x=null:1M");
	ck_assert_int_eq(try_open("x=null:1M", &d), -EEXIST);
	make_image("a,b=c.img", "raw", MiB, NULL, NULL);
	ck_assert_str_eq(disk_props(open_disk("y=raw:a,,b=c.img,serial=s,,1"))->id, "s,1");
}
END_TEST

/* ---------------------------------------------------------------------- pausing */

START_TEST(paused_requests_wait_for_the_next_image)
{
	struct disk *d;
	uint8_t buf[512];
	struct one o[3];

	make_image("a.qcow2", "qcow2", MiB, NULL, NULL);
	make_image("b.qcow2", "qcow2", MiB, "a.qcow2", "qcow2");
	make_image("c.qcow2", "qcow2", 2 * MiB, NULL, NULL);
	d = open_disk("qcow2:a.qcow2");
	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(io(d, TAPIMG_WRITE, buf, 512, 0), 0);
	ck_assert_int_eq(disk_resume(d, NULL, NULL, &err), -EINVAL);
	ck_assert_int_eq(disk_pause(d, &err), 0);
	ck_assert_int_eq(disk_pause(d, &err), 0);
	ck_assert(disk_paused(d));
	ck_assert_ptr_null(disk_image(d));
	ck_assert(!disk_hold(d));
	start(d, &o[0], TAPIMG_WRITE, buf, 512, 512);
	start(d, &o[1], TAPIMG_FLUSH, NULL, 0, 0);
	start(d, &o[2], TAPIMG_READ, buf, 512, MiB);
	tapimg_loop_run(s.loop, false);
	ck_assert(!o[0].done && !o[1].done && !o[2].done);
	ck_assert_int_eq(disk_resume(d, "qcow2:missing", NULL, &err), -ENOENT);
	ck_assert(disk_paused(d));
	ck_assert_int_eq(disk_resume(d, "qcow2:b.qcow2", NULL, &err), 0);
	ck_assert_int_eq(finish(&o[0]), 0);
	ck_assert_int_eq(finish(&o[1]), 0);
	ck_assert_int_eq(finish(&o[2]), -EINVAL);
	ck_assert_str_eq(tapimg_filename(disk_image(d)), "b.qcow2");
	ck_assert_uint_eq(disk_stats(d)->held, 3);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
}
END_TEST

START_TEST(another_size_is_told_or_refused)
{
	struct disk_config c;
	struct disk *d;

	make_image("a.qcow2", "qcow2", MiB, NULL, NULL);
	make_image("c.qcow2", "qcow2", 2 * MiB, NULL, NULL);
	disk_config_init(&c);
	ck_assert_int_eq(disk_config_parse(&c, "qcow2:a.qcow2", &err), 0);
	c.keep_size = true;
	ck_assert_int_eq(disk_open(&s, &c, &d, &err), 0);
	disk_config_clear(&c);
	ck_assert_int_eq(disk_pause(d, &err), 0);
	ck_assert_int_eq(disk_resume(d, "qcow2:c.qcow2", NULL, &err), -EMEDIUMTYPE);
	ck_assert_uint_eq(disk_props(d)->size, MiB);
	ck_assert_int_eq(disk_resume(d, NULL, NULL, &err), 0);
	ck_assert_uint_eq(disk_props(d)->size, MiB);
}
END_TEST

START_TEST(a_hold_keeps_the_image_open)
{
	struct disk *d = open_disk("null:1M");
	uint8_t buf[512];
	struct one o;

	ck_assert(disk_hold(d));
	disk_unhold(d);
	disk_quiesce(d);
	ck_assert(!disk_hold(d));
	start(d, &o, TAPIMG_READ, buf, 512, 0);
	ck_assert(!o.done);
	disk_quiesce(d);
	disk_unquiesce(d);
	ck_assert(!o.done);
	disk_unquiesce(d);
	ck_assert(o.done);
}
END_TEST

/* ----------------------------------------------------------------------- limits */

START_TEST(limits_are_kept)
{
	struct disk *d = open_disk("null:1M,iops=100");
	static struct one o[60];
	uint8_t buf[512];
	uint64_t begin, ns;

	begin = loop_now(s.loop);
	for (size_t i = 0; i < ARRAY_SIZE(o); i++)
		start(d, &o[i], TAPIMG_READ, buf, 512, 0);
	ck_assert(o[0].done);
	ck_assert(!o[59].done);
	for (size_t i = 0; i < ARRAY_SIZE(o); i++)
		ck_assert_int_eq(finish(&o[i]), 0);
	ns = loop_now(s.loop) - begin;
	/* 60 at 100 a second, of which at most a tenth of a second's worth at once */
	ck_assert_uint_ge(ns, 450000000);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	d = open_disk("null:1M,bps=1M");
	begin = loop_now(s.loop);
	for (size_t i = 0; i < 3; i++)
		start(d, &o[i], TAPIMG_READ, buf, 256 * KiB, 0);
	ck_assert_int_eq(finish(&o[2]), 0);
	ck_assert_uint_ge(loop_now(s.loop) - begin, 400000000);
}
END_TEST

/* ------------------------------------------------------------------------ users */

struct user {
	struct disk_user u;
	unsigned resized, paused, resumed, gone;
};

static void user_changed(struct disk_user *du, enum disk_event ev)
{
	struct user *u = container_of(du, struct user, u);

	u->resized += ev == DISK_RESIZED;
	u->paused += ev == DISK_PAUSED;
	u->resumed += ev == DISK_RESUMED;
}

static void user_gone(struct disk_user *du)
{
	container_of(du, struct user, u)->gone++;
	disk_detach(du);
}

START_TEST(users_are_told)
{
	static const struct disk_user_ops ops = { user_changed, user_gone };
	struct user a = { .u.ops = &ops }, b = { .u.ops = &ops };
	struct disk *d = open_disk("null:1M");

	disk_attach(d, &a.u);
	disk_attach(d, &b.u);
	ck_assert_int_eq(disk_resize(d, 2 * MiB, &err), 0);
	ck_assert_int_eq(disk_resize(d, 2 * MiB, &err), 0);
	ck_assert_int_eq(disk_resize(d, 1000, &err), -EINVAL);
	ck_assert_int_eq(disk_pause(d, &err), 0);
	ck_assert_int_eq(disk_resume(d, "null:3M", NULL, &err), 0);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	ck_assert_uint_eq(a.resized, 2);
	ck_assert_uint_eq(a.paused, 1);
	ck_assert_uint_eq(a.resumed, 1);
	ck_assert_uint_eq(a.gone, 1);
	ck_assert_uint_eq(b.gone, 1);
	ck_assert_ptr_null(server_disk(&s, NULL));
}
END_TEST

/* -------------------------------------------------------------------- secondary */

START_TEST(a_mirror_gets_every_change)
{
	struct disk *d;
	static uint8_t buf[65536], got[65536];

	make_image("a.qcow2", "qcow2", MiB, NULL, NULL);
	make_image("b.raw", "raw", MiB, NULL, NULL);
	make_image("c.raw", "raw", 2 * MiB, NULL, NULL);
	ck_assert_int_eq(try_open("qcow2:a.qcow2,secondary=raw:c.raw", &d), -EINVAL);
	d = open_disk("qcow2:a.qcow2,secondary=raw:b.raw");
	memset(buf, 3, sizeof(buf));
	ck_assert_int_eq(io(d, TAPIMG_WRITE, buf, sizeof(buf), 5000), 0);
	ck_assert_int_eq(io(d, TAPIMG_ZERO, NULL, 4096, 8192), 0);
	ck_assert_int_eq(io(d, TAPIMG_FLUSH, NULL, 0, 0), 0);
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, sizeof(buf), 4096), 0);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	d = open_disk("raw:b.raw");
	ck_assert_int_eq(io(d, TAPIMG_READ, got, sizeof(got), 4096), 0);
	ck_assert_mem_eq(buf, got, sizeof(got));
	ck_assert_int_eq(got[4096], 0);
}
END_TEST

/* ------------------------------------------------------------------- no space */

/* A qcow2 image on a device that is nearly full. */
static struct sim *small_device(void)
{
	struct sim_cfg cfg = { .seed = 1, .sector = 512, .align = 1, .tick_ns = 1000 };
	struct tapimg_create_opts o = { .format = "qcow2", .size = 4 * MiB, .in_place = true };
	struct sim *sim = sim_new(&cfg);

	sim_attach(sim, s.loop);
	ck_assert_int_eq(sim_make(sim, "full", MiB, true), 0);
	ck_assert_msg(!tapimg_create(s.loop, "sim:full", &o, &err), "%s", err.text);
	return sim;
}

/* Writes until there is no space, or all of it is written; where it ended. */
static uint64_t fill(struct disk *d, int *ret)
{
	static uint8_t buf[65536];
	uint64_t off;

	*ret = 0;
	for (off = 0; off < 4 * MiB && !*ret; off += sizeof(buf)) {
		memset(buf, (int)(1 + off / sizeof(buf)), sizeof(buf));
		*ret = io(d, TAPIMG_WRITE, buf, sizeof(buf), off);
	}
	return off;
}

START_TEST(no_space_is_reported_or_waited_for)
{
	struct sim *sim = small_device();
	struct disk *d = open_disk("qcow2:sim:full");
	uint8_t buf[65536] = { 9 };
	struct one o;
	int ret;

	ck_assert_uint_lt(fill(d, &ret), 2 * MiB);
	ck_assert_int_eq(ret, -ENOSPC);
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, 512, 0), 0);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	d = open_disk("qcow2:sim:full,on-enospc=stop");
	start(d, &o, TAPIMG_WRITE, buf, sizeof(buf), 3 * MiB);
	for (int i = 0; i < 50; i++)
		tapimg_loop_run(s.loop, true);
	ck_assert(!o.done);
	/* a client that goes away does not wait for ever */
	ck_assert_int_eq(disk_close(d, true, &err), 0);
	ck_assert(o.done);
	ck_assert_int_ne(o.r.req.ret, 0);
	sim_detach(sim);
	sim_free(sim);
}
END_TEST

START_TEST(the_standby_takes_over_without_space)
{
	struct sim *sim = small_device();
	struct disk *d;
	static uint8_t buf[65536];
	int ret;

	make_image("standby.qcow2", "qcow2", 4 * MiB, NULL, NULL);
	d = open_disk("qcow2:sim:full,secondary=qcow2:standby.qcow2,standby");
	ck_assert_uint_eq(fill(d, &ret), 4 * MiB);
	ck_assert_int_eq(ret, 0);
	ck_assert_str_eq(tapimg_filename(disk_image(d)), "standby.qcow2");
	ck_assert_ptr_nonnull(tapimg_backing(disk_image(d)));
	for (uint64_t off = 0; off < 4 * MiB; off += sizeof(buf)) {
		ck_assert_int_eq(io(d, TAPIMG_READ, buf, sizeof(buf), off), 0);
		ck_assert(filled(buf, (uint8_t)(1 + off / sizeof(buf)), sizeof(buf)));
	}
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	/* what came before is not in the standby */
	d = open_disk("qcow2:standby.qcow2");
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, sizeof(buf), 0), 0);
	ck_assert(filled(buf, 0, sizeof(buf)));
	ck_assert_int_eq(io(d, TAPIMG_READ, buf, sizeof(buf), 4 * MiB - sizeof(buf)), 0);
	ck_assert(filled(buf, 64, sizeof(buf)));
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	sim_detach(sim);
	sim_free(sim);
}
END_TEST

START_TEST(a_mirror_that_fails_is_dropped)
{
	struct sim *sim = small_device();
	struct disk *d;
	int ret;

	make_image("a.raw", "raw", 4 * MiB, NULL, NULL);
	d = open_disk("raw:a.raw,secondary=qcow2:sim:full");
	ck_assert_uint_eq(fill(d, &ret), 4 * MiB);
	ck_assert_int_eq(ret, 0);
	ck_assert_int_eq(disk_close(d, false, &err), 0);
	sim_detach(sim);
	sim_free(sim);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("disk");
	TCase *tc = tcase_create("disk");

	log_setup("test-disk", false, LOG_LVL_NONE);
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, null_answers_at_once_and_checks_ranges);
	tcase_add_test(tc, read_only_is_refused_before_anything_changes);
	tcase_add_test(tc, ram_holds_what_was_written);
	tcase_add_test(tc, named_ram_is_one_memory_for_all);
	tcase_add_test(tc, every_image_driver_of_the_library_serves);
	tcase_add_test(tc, what_cannot_be_opened_is_named);
	tcase_add_test(tc, paused_requests_wait_for_the_next_image);
	tcase_add_test(tc, another_size_is_told_or_refused);
	tcase_add_test(tc, a_hold_keeps_the_image_open);
	tcase_add_test(tc, limits_are_kept);
	tcase_add_test(tc, users_are_told);
	tcase_add_test(tc, a_mirror_gets_every_change);
	tcase_add_test(tc, no_space_is_reported_or_waited_for);
	tcase_add_test(tc, the_standby_takes_over_without_space);
	tcase_add_test(tc, a_mirror_that_fails_is_dropped);
	suite_add_tcase(suite, tc);
	return suite_run(suite);
}
