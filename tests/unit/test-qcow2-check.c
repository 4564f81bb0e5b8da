/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-check.c - each kind of damage, made by hand, found, mended, and what the guest then sees
 *
 * After a repair the image must be clean for this library and for qemu-img, and its contents must be
 * what they were, but where the table of damages says otherwise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "q2lib.h"
#include "suite.h"

#define FILLED 16	/* clusters 0 to 15 hold 1 to 16 */
#define ALL (TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS)

/* Entry of guest cluster @i. */
static uint64_t entry(unsigned i)
{
	return q2_peek(q2_l2(i * CL), 8);
}

static void set_entry(unsigned i, uint64_t e)
{
	q2_poke(q2_l2(i * CL), e, 8);
}

static uint64_t host(unsigned i)
{
	return entry(i) & QCOW2_OFF_MASK;
}

/* -------------------------------------------------------------- the damages */

static void leak(void)
{
	set_entry(15, 0);
}

static void leak_counted_twice(void)
{
	q2_poke(q2_rc(host(3)), 2, 2);	/* COPIED is set: that is the truth */
}

static void low_count(void)
{
	q2_poke(q2_rc(host(3)), 0, 2);
}

static void copied_missing(void)
{
	set_entry(3, entry(3) & ~QCOW2_COPIED);
}

static void copied_missing_l1(void)
{
	q2_poke(q2_l1(0), q2_peek(q2_l1(0), 8) & ~QCOW2_COPIED, 8);
}

static void shared_cluster(void)
{
	set_entry(4, entry(3));
}

static void reserved_l2(void)
{
	set_entry(3, entry(3) | 1ULL << 57);
}

static void reserved_l1(void)
{
	q2_poke(q2_l1(0), q2_peek(q2_l1(0), 8) | 1ULL << 60, 8);
}

static void copied_without_place(void)
{
	set_entry(20, QCOW2_COPIED);
}

/* half a cluster further on: cluster 3 then reads half 4, half 5 */
static void unaligned(void)
{
	set_entry(3, QCOW2_COPIED | (host(3) + CL / 2));
}

static void unaligned_zero(void)
{
	set_entry(3, QCOW2_COPIED | (host(3) + CL / 2) | QCOW2_ZERO);
}

static void past_end(void)
{
	set_entry(20, QCOW2_COPIED | (1ULL << 40));
}

static void past_end_l1(void)
{
	q2_poke(q2_l1(1), QCOW2_COPIED | 1ULL << 40, 8);	/* beyond the disk, in the table */
}

static void overlap(void)
{
	set_entry(20, QCOW2_COPIED | round_down(q2_l2(0), CL));
}

static void coded_past_end(void)
{
	set_entry(20, QCOW2_CODED | 1ULL << 40);
}

static void rt_unaligned(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8), q2_peek(q2_peek(QH_RT_OFF, 8), 8) + 512, 8);
}

static void rt_reserved(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8), q2_peek(q2_peek(QH_RT_OFF, 8), 8) + 1, 8);
}

static void rt_past_end(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8), 1ULL << 40, 8);
}

static void rt_twice(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8) + 8, q2_peek(q2_peek(QH_RT_OFF, 8), 8), 8);
}

static void rt_lost(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8), 0, 8);
}

static void rt_is_data(void)
{
	q2_poke(q2_peek(QH_RT_OFF, 8), host(3), 8);
}

static void rt_elsewhere(void)
{
	q2_poke(QH_RT_OFF, 1ULL << 40, 8);
}

static void rt_crooked(void)
{
	q2_poke(QH_RT_OFF, q2_peek(QH_RT_OFF, 8) + 512, 8);
}

static void rt_none(void)
{
	q2_poke(QH_RT_CLUSTERS, 0, 4);
}

static bool submitted;

static void submit_done(struct tapimg_req *req)
{
	submitted = true;
}

static void submit_wait(struct tapimg *img, struct tapimg_req *req)
{
	submitted = false;
	req->done = submit_done;
	tapimg_submit(img, req);
	while (!submitted)
		ck_assert_int_ge(tapimg_loop_run(loop, true), 0);
	ck_assert_int_eq(req->ret, 0);
}

static void coded_copied(void)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	static uint8_t buf[CL];
	struct iovec iov = {buf, CL};
	struct tapimg_req req = {.op = TAPIMG_WRITE_COMPRESSED, .off = 30 * CL, .len = CL,
				 .iov = &iov, .iovcnt = 1};

	memset(buf, 77, CL);
	submit_wait(img, &req);
	close_image(img);
	ck_assert_uint_eq(entry(30) >> 62, 1);
	set_entry(30, entry(30) | QCOW2_COPIED);
}

static void sub_both(void)
{
	uint64_t at = q2_l2(3 * CL) + 8;

	q2_poke(at, q2_peek(at, 8) | 1ULL << 33, 8);
}

static void sub_nowhere(void)
{
	q2_poke(q2_l2(20 * CL) + 8, 0xff, 8);
}

static void snapshot_extra(void)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	uint64_t at;

	ck_assert_int_eq(tapimg_snapshot_create(img, "one", NULL), 0);
	close_image(img);
	at = q2_peek(QH_SNAP_OFF, 8);
	/* id and name move to behind 2000 bytes of extra data */
	q2_poke(at + 40 + 2000, 0x316f6e65, 4);
	q2_poke(at + 36, 2000, 4);
}

static void snapshot_short_extra(void)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	uint64_t at;

	ck_assert_int_eq(tapimg_snapshot_create(img, "one", NULL), 0);
	close_image(img);
	at = q2_peek(QH_SNAP_OFF, 8);
	q2_poke(at + 40 + 8, 0x316f6e65, 4);
	q2_poke(at + 36, 8, 4);
}

static void rt_huge(void)
{
	q2_poke(QH_RT_CLUSTERS, 0xfffffff0, 4);
}

static void rt_far(void)
{
	q2_poke(QH_RT_OFF, 1ULL << 50, 8);
}

static void copied_shared(void)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);

	ck_assert_int_eq(tapimg_snapshot_create(img, "one", NULL), 0);
	close_image(img);
	set_entry(3, entry(3) | QCOW2_COPIED);
}

static void bitmap_reserved(void)
{
	struct tapimg *img = open_image(IMG, "qcow2", TAPIMG_RDWR);

	ck_assert_int_eq(tapimg_bitmap_add(img, "b", 0, true, NULL), 0);
	close_image(img);
	q2_poke(q2_rc(q2_file_size(IMG) - CL), 7, 2);
}

struct damage {
	const char *name;
	void (*harm)(void);
	const char *opts;
	unsigned corruptions, leaks;	/* found, exactly */
	const char *says;		/* in the report */
	int peer;			/* qemu-img's exit status; -1: whatever */
	int changed;			/* guest cluster whose contents the repair may define, ... */
	int byte;			/* ... and as what; -1: not looked at */
};

static const struct damage damages[] = {
	{"leak", leak, NULL, 0, 1, "Leaked cluster", 3, 15, 0},
	{"counted twice", leak_counted_twice, NULL, 0, 1, "refcount=2 reference=1", 2, -1, 0},
	{"low count", low_count, NULL, 1, 0, "refcount=0 reference=1", 2, -1, 0},
	{"COPIED missing", copied_missing, NULL, 0, 1, "not marked COPIED", 2, -1, 0},
	{"COPIED missing in L1", copied_missing_l1, NULL, 0, 1, "active L1 table", 2, -1, 0},
	{"one cluster twice", shared_cluster, NULL, 3, 1, "has 2 references", 2, 4, 4},
	{"reserved bits, L2", reserved_l2, NULL, 1, 0, "reserved bits", 2, -1, 0},
	{"reserved bits, L1", reserved_l1, NULL, 1, 0, "reserved bits", 2, -1, 0},
	{"COPIED without place", copied_without_place, NULL, 1, 0, "has no place", 0, -1, 0},
	{"not aligned", unaligned, NULL, 3, 0, "not aligned", -1, 3, -1},
	{"not aligned, zero", unaligned_zero, NULL, 1, 1, "not aligned", -1, 3, 0},
	{"past the end", past_end, NULL, 1, 0, "past the end", -1, 20, 0},
	{"L1 past the end", past_end_l1, "size=1G", 1, 0, "past the end", -1, -1, 0},
	{"data on an L2 table", overlap, NULL, 4, 0, "holds metadata (L2 table)", -1, 20, -1},
	{"compressed, past the end", coded_past_end, NULL, 1, 0, "past the end", -1, 20, 0},
	{"compressed, COPIED", coded_copied, NULL, 1, 0, "COPIED", -1, 30, 77},
	{"table entry not aligned", rt_unaligned, NULL, 21, 0, "not aligned", -1, -1, 0},
	{"table entry with reserved bits", rt_reserved, NULL, 21, 0, "reserved bits", -1, -1, 0},
	{"table entry past the end", rt_past_end, NULL, 21, 0, "past the end", -1, -1, 0},
	{"a block named twice", rt_twice, NULL, 1, 0, "another entry", -1, -1, 0},
	{"a block lost", rt_lost, NULL, 20, 0, "refcount=0", -1, -1, 0},
	{"a block that is data", rt_is_data, NULL, 21, 0, "something else", -1, -1, 0},
	{"table past the end", rt_elsewhere, NULL, 20, 0, "no place in the file", -1, -1, 0},
	{"table not aligned", rt_crooked, NULL, 20, 0, "no place in the file", -1, -1, 0},
	{"no table", rt_none, NULL, 20, 0, "no place in the file", -1, -1, 0},
	{"subclusters both", sub_both, "extended_l2=on", 1, 0, "both allocated and zero", -1, -1, 0},
	{"subclusters nowhere", sub_nowhere, "extended_l2=on", 1, 0, "no place", -1, 20, 0},
	{"long extra data", snapshot_extra, NULL, 1, 0, "extra data", -1, -1, 0},
	{"short extra data", snapshot_short_extra, NULL, 1, 0, "no disk size", 2, -1, 0},
	{"table too long", rt_huge, NULL, 20, 0, "no place in the file", -1, -1, 0},
	{"table far past the end", rt_far, NULL, 20, 0, "no place in the file", -1, -1, 0},
	{"COPIED though shared", copied_shared, NULL, 1, 0, "2 references", 2, -1, 0},
	{"bitmap counted too often", bitmap_reserved, NULL, 0, 1, "Leaked", 3, -1, 0},
};

static void contents(const struct damage *d)
{
	for (int i = 0; i < 64; i++) {
		if (i == d->changed && d->byte < 0)
			continue;
		q2_expect(IMG, i, i == d->changed ? d->byte : i < FILLED ? i + 1 : 0);
	}
}

START_TEST(damage)
{
	const struct damage *d = &damages[_i];
	const struct q2_result *r;
	bool big = d->opts && strstr(d->opts, "size");

	q2_make(IMG, big ? GiB : DISK, big ? NULL : d->opts);
	q2_fill_file(IMG, 0, FILLED, 1);
	q2_clean(IMG);
	d->harm();
	r = q2_check(IMG, 0);
	ck_assert_msg(r->c.corruptions == d->corruptions && r->c.leaks == d->leaks,
		      "%s: %llu corruptions, %llu leaks:\n%s", d->name,
		      (unsigned long long)r->c.corruptions, (unsigned long long)r->c.leaks, r->text);
	ck_assert_msg(strstr(r->text, d->says), "%s: not said: %s\n%s", d->name, d->says, r->text);
	if (d->peer >= 0)
		ck_assert_msg(q2_peer_check(IMG, d->peer) == d->peer, "%s: qemu-img differs", d->name);
	r = q2_check(IMG, ALL);
	ck_assert_msg(!r->c.corruptions && !r->c.leaks, "%s: left over:\n%s", d->name, r->text);
	ck_assert_msg(r->c.corruptions_fixed == d->corruptions && r->c.leaks_fixed == d->leaks,
		      "%s: fixed %llu and %llu", d->name, (unsigned long long)r->c.corruptions_fixed,
		      (unsigned long long)r->c.leaks_fixed);
	q2_clean(IMG);
	contents(d);
}
END_TEST

/* Repairing leaks alone touches no corruption, and what it leaves is no worse. */
START_TEST(leaks_only)
{
	const struct q2_result *r;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, FILLED, 1);
	leak();
	copied_missing();
	reserved_l2();
	r = q2_check(IMG, TAPIMG_FIX_LEAKS);
	ck_assert_msg(r->c.corruptions == 1 && !r->c.leaks && r->c.leaks_fixed == 2, "%s", r->text);
	ck_assert_uint_eq(r->c.corruptions_fixed, 0);
	q2_check(IMG, ALL);
	q2_clean(IMG);
}
END_TEST

/* A cluster that begins in the middle of another: its bytes are kept. */
START_TEST(unaligned_keeps_bytes)
{
	struct tapimg *img;
	static uint8_t buf[CL];

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, FILLED, 1);
	unaligned();
	q2_check(IMG, ALL);
	q2_clean(IMG);
	img = open_image(IMG, "qcow2", 0);
	ck_assert_int_eq(tapimg_pread(img, buf, CL, 3 * CL), 0);
	close_image(img);
	ck_assert_uint_eq(buf[0], 4);
	ck_assert_uint_eq(buf[CL / 2 - 1], 4);
	ck_assert_uint_eq(buf[CL / 2], 5);
	ck_assert_uint_eq(buf[CL - 1], 5);
}
END_TEST

/* A dirty image is put right by opening it for writing. */
START_TEST(dirty)
{
	struct tapimg *img;

	q2_make(IMG, DISK, "lazy_refcounts=on");
	q2_fill_file(IMG, 0, FILLED, 1);
	q2_poke(QH_INCOMPAT, QCOW2_INCOMPAT_DIRTY, 8);
	for (unsigned i = 0; i < FILLED; i++)
		q2_poke(q2_rc(host(i)), 0, 2);
	img = open_image(IMG, "qcow2", TAPIMG_RDWR);
	q2_fill(img, 20, 4, 100);
	close_image(img);
	ck_assert_uint_eq(q2_peek(QH_INCOMPAT, 8), 0);
	q2_clean(IMG);
	for (unsigned i = 0; i < FILLED; i++)
		q2_expect(IMG, i, i + 1);
	q2_expect(IMG, 23, 123);
}
END_TEST

START_TEST(corrupt_mark)
{
	struct tapimg_open_opts o = {.format = "qcow2", .flags = TAPIMG_RDWR};
	struct tapimg_err err;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, FILLED, 1);
	low_count();
	q2_poke(QH_INCOMPAT, QCOW2_INCOMPAT_CORRUPT, 8);
	ck_assert_int_lt(open_fails(IMG, &o, &err), 0);
	q2_check(IMG, ALL);
	ck_assert_uint_eq(q2_peek(QH_INCOMPAT, 8), 0);
	q2_clean(IMG);
}
END_TEST

/* An L1 of the largest size in which every entry names one L2 table that is full. */
START_TEST(hostile_l1)
{
	const struct q2_result *r;
	struct rusage before, after;
	uint64_t l2, at;
	uint8_t *tab;
	clock_t t;
	FILE *f;

	q2_make(IMG, DISK, NULL);
	q2_fill_file(IMG, 0, FILLED, 1);
	l2 = round_down(q2_l2(0), CL) | QCOW2_COPIED;
	at = round_up(q2_file_size(IMG), CL);
	tab = malloc(QCOW2_MAX_L1);
	for (uint64_t i = 0; i < QCOW2_MAX_L1; i += 8)
		put_be64(tab + i, l2);
	f = fopen(IMG, "r+");
	ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
	ck_assert_uint_eq(fwrite(tab, 1, QCOW2_MAX_L1, f), QCOW2_MAX_L1);
	fclose(f);
	free(tab);
	q2_poke(QH_L1_SIZE, QCOW2_MAX_L1 / 8, 4);
	q2_poke(QH_L1_OFF, at, 8);
	getrusage(RUSAGE_SELF, &before);
	t = clock();
	r = q2_check(IMG, 0);
	getrusage(RUSAGE_SELF, &after);
	ck_assert_uint_gt(r->c.corruptions, 1000);
	ck_assert_msg((clock() - t) / CLOCKS_PER_SEC < 20, "takes too long");
	ck_assert_msg(after.ru_maxrss - before.ru_maxrss < 512 * 1024, "takes %ld KiB",
		      after.ru_maxrss - before.ru_maxrss);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2 check");
	TCase *t = tcase_create("check");

	tcase_add_checked_fixture(t, scratch_enter, scratch_leave);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, damage, 0, ARRAY_SIZE(damages));
	tcase_add_test(t, leaks_only);
	tcase_add_test(t, unaligned_keeps_bytes);
	tcase_add_test(t, dirty);
	tcase_add_test(t, corrupt_mark);
	tcase_add_test(t, hostile_l1);
	suite_add_tcase(s, t);
	return suite_run(s);
}
