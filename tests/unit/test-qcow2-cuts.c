/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-qcow2-cuts.c - administrative operations cut short at each of their writes
 *
 * The image lies in memory and every write, truncation and flush of an operation is recorded.  Then,
 * for every point of the record, the disk is made that a power cut there may leave: what was
 * flushed, and of the rest nothing, all, or some sectors by chance.  Each such disk must have no
 * damage but leaks, must hold the old contents or the new, and must be clean once leaks are
 * repaired.  The same goes for the disk that an operation leaves of which one write failed.
 * Rules A1 to A4 of qcow2-adm.h.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "q2lib.h"
#include "suite.h"

#define SECTOR 512
#define NAME "mem:disk"

/* ------------------------------------------------------------ disk in memory */

struct rec {
	enum { REC_WRITE, REC_TRUNCATE, REC_FLUSH } what;
	uint64_t off, len;
	uint8_t *data;
};

struct disk {
	uint8_t *data;
	uint64_t size, cap;
};

static struct disk disk;
static struct rec *recs;
static unsigned nrecs;
static bool recording;
static unsigned fail_at;	/* the how manieth write or flush from here fails; 0: none */
static bool faulty, failed;	/* operations may fail; one has */

static void disk_size(struct disk *d, uint64_t size)
{
	if (size > d->cap) {
		uint64_t cap = MAX(size, d->cap * 2);

		d->data = realloc(d->data, cap);
		ck_assert_ptr_nonnull(d->data);
		d->cap = cap;
	}
	if (size > d->size)
		memset(d->data + d->size, 0, size - d->size);
	d->size = size;
}

static void disk_copy(struct disk *to, const struct disk *from)
{
	to->size = 0;
	disk_size(to, from->size);
	memcpy(to->data, from->data, from->size);
}

static void record(int what, uint64_t off, uint64_t len, const void *data)
{
	if (!recording)
		return;
	if (!(nrecs & (nrecs - 1)))
		recs = realloc(recs, MAX(nrecs * 2, 16u) * sizeof(*recs));
	recs[nrecs] = (struct rec){what, off, len, NULL};
	if (what == REC_WRITE) {
		recs[nrecs].data = malloc(len);
		memcpy(recs[nrecs].data, data, len);
	}
	nrecs++;
}

static void mem_write(struct io *io)
{
	uint64_t off = io->off;

	disk_size(&disk, MAX(disk.size, io->off + io->len));
	for (int i = 0; i < io->iovcnt; i++) {
		memcpy(disk.data + off, io->iov[i].iov_base, io->iov[i].iov_len);
		off += io->iov[i].iov_len;
	}
	record(REC_WRITE, io->off, io->len, disk.data + io->off);
}

static unsigned head_reads, head_fail;	/* reads of the header; the one that fails, 0: none */

static void mem_submit(struct io *io)
{
	uint64_t off = io->off;
	int ret = 0;

	bool head = io->op == IO_READ && !io->off && ++head_reads == head_fail;

	if (head || (fail_at && io->op != IO_READ && !--fail_at)) {
		io_complete(io, -EIO);
		return;
	}
	switch (io->op) {
	case IO_READ:
		for (int i = 0; i < io->iovcnt; off += io->iov[i++].iov_len)
			memcpy(io->iov[i].iov_base, disk.data + off, io->iov[i].iov_len);
		break;
	case IO_WRITE:
		mem_write(io);
		break;
	case IO_FLUSH:
		record(REC_FLUSH, 0, 0, NULL);
		break;
	case IO_DISCARD:
		break;
	default:
		ret = -ENOTSUP;
	}
	io_complete(io, ret);
}

static int mem_truncate(struct file *f, uint64_t size)
{
	disk_size(&disk, size);
	record(REC_TRUNCATE, size, 0, NULL);
	return 0;
}

static int mem_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t mem_allocated(struct file *f)
{
	return disk.size;
}

static void mem_close(struct file *f)
{
}

static const struct file_ops mem_ops = {
	.name = "mem", .submit = mem_submit, .truncate = mem_truncate, .status = mem_status,
	.allocated = mem_allocated, .close = mem_close,
};

static int mem_open(struct file_provider *p, struct tapimg_loop *l, const char *name, unsigned flags,
		    struct file **out, struct tapimg_err *err)
{
	struct file *f = file_alloc(l, &mem_ops, name, flags);

	f->align = f->mem_align = f->discard_align = SECTOR;
	f->max_io = MiB;
	f->size = f->logical_end = round_up(disk.size, SECTOR);
	f->grows_clean = true;
	disk_size(&disk, f->size);
	*out = f;
	return 0;
}

static struct file_provider provider = {.scheme = "mem:", .open = mem_open};

static void load(const char *path)
{
	uint64_t size = q2_file_size(path);
	int fd = open(path, O_RDONLY);

	disk.size = 0;
	disk_size(&disk, round_up(size, SECTOR));
	ck_assert_int_eq(pread(fd, disk.data, size, 0), size);
	close(fd);
}

/* ----------------------------------------------------------------- contents */

struct state {
	uint64_t size, sum;
	char backing[1100];
	unsigned nsnap;
	uint64_t snap_sum[4];
	char snap_id[4][12];
	uint64_t marked;		/* bytes in bitmap "b"; UINT64_MAX: inconsistent or none */
};

static uint64_t sum_of(struct tapimg *img)
{
	static uint8_t buf[65536];
	uint64_t sum = 1469598103934665603ULL, size = tapimg_size(img), w;

	for (uint64_t off = 0; off < size; off += sizeof(buf)) {
		uint64_t n = MIN(size - off, sizeof(buf));

		ck_assert_int_eq(tapimg_pread(img, buf, n, off), 0);
		memset(buf + n, 0, sizeof(buf) - n);
		for (unsigned i = 0; i < sizeof(buf); i += 8) {	/* zeroes at the end count for nothing */
			memcpy(&w, buf + i, 8);
			if (w)
				sum = (sum ^ w ^ (off + i)) * 1099511628211ULL;
		}
	}
	return sum;
}

static void look(struct state *s, unsigned flags)
{
	struct tapimg_open_opts o = {.format = "qcow2", .flags = TAPIMG_NO_BACKING};
	struct tapimg *img = open_image(NAME, "qcow2", TAPIMG_NO_BACKING | flags), *at;
	const struct tapimg_info *info;
	struct tapimg_err err;

	memset(s, 0, sizeof(*s));
	ck_assert_int_eq(tapimg_info(img, &info, &err), 0);
	s->size = tapimg_size(img);
	s->sum = sum_of(img);
	snprintf(s->backing, sizeof(s->backing), "%s", info->backing ? info->backing : "");
	s->nsnap = info->nsnapshots;
	s->marked = UINT64_MAX;
	for (unsigned i = 0; i < info->nbitmaps; i++)
		if (!strcmp(info->bitmaps[i].name, "b"))
			s->marked = info->bitmaps[i].dirty;
	ck_assert_uint_le(s->nsnap, 4);
	for (unsigned i = 0; i < s->nsnap; i++)
		snprintf(s->snap_id[i], sizeof(s->snap_id[i]), "%s", info->snapshots[i].id);
	close_image(img);
	for (unsigned i = 0; i < s->nsnap; i++) {
		o.snapshot = s->snap_id[i];
		ck_assert_int_eq(tapimg_open(loop, NAME, &o, &at, &err), 0);
		s->snap_sum[i] = sum_of(at);
		close_image(at);
	}
}

static bool same_snaps(const struct state *a, const struct state *b)
{
	return a->nsnap == b->nsnap && !memcmp(a->snap_sum, b->snap_sum, sizeof(a->snap_sum)) &&
	       !memcmp(a->snap_id, b->snap_id, sizeof(a->snap_id));
}

static bool same_disk(const struct state *a, const struct state *b)
{
	return a->size == b->size && a->sum == b->sum;
}

/* --------------------------------------------------------------------- cuts */

static void apply(struct disk *d, const struct rec *r, int how)
{
	if (r->what == REC_TRUNCATE) {
		if (how < 2 || rand() & 1)
			disk_size(d, r->off);
	} else if (r->what == REC_WRITE) {
		for (uint64_t at = 0; at < r->len; at += SECTOR) {
			if (how == 2 && rand() & 1)
				continue;
			disk_size(d, MAX(d->size, r->off + at + SECTOR));
			memcpy(d->data + r->off + at, r->data + at, SECTOR);
		}
	}
}

static const char *what;
static int kind_no;
static bool tracking;	/* the operation writes as a guest: any part of it may be there */

static void judge(unsigned cut, int how, const struct state *old, const struct state *new)
{
	const struct q2_result *r = q2_check(NAME, 0);
	struct state s;

	ck_assert_msg(!r->c.corruptions, "%s, kind %d, cut at %u of %u (%d):\n%s", what, kind_no, cut,
		      nrecs, how, r->text);
	look(&s, 0);
	ck_assert_msg(tracking || same_disk(&s, old) || same_disk(&s, new),
		      "%s, kind %d, cut at %u of %u (%d): contents", what, kind_no, cut, nrecs, how);
	ck_assert_msg(same_snaps(&s, old) || same_snaps(&s, new),
		      "%s, kind %d, cut at %u of %u (%d): snapshots", what, kind_no, cut, nrecs, how);
	ck_assert_msg(!strcmp(s.backing, old->backing) || !strcmp(s.backing, new->backing),
		      "%s, kind %d, cut at %u of %u (%d): backing file '%s'", what, kind_no, cut,
		      nrecs, how, s.backing);
	/* a bitmap that is believed has the old state of an old disk, or the new of a new one */
	ck_assert_msg(s.marked == UINT64_MAX || s.marked == new->marked ||
		      (s.marked == old->marked && same_disk(&s, old)),
		      "%s, kind %d, cut at %u of %u (%d): bitmap has %llu bytes", what, kind_no, cut,
		      nrecs, how, (unsigned long long)s.marked);
	if (r->c.leaks) {
		q2_check(NAME, TAPIMG_FIX_LEAKS);
		r = q2_check(NAME, 0);
		ck_assert_msg(!r->c.corruptions && !r->c.leaks, "%s, kind %d, cut at %u: left:\n%s",
			      what, kind_no, cut, r->text);
	}
	look(&s, TAPIMG_RDWR);
	ck_assert_msg(tracking || same_disk(&s, old) || same_disk(&s, new), "%s: after repair", what);
}

static void all_cuts(const struct disk *base, const struct state *old, const struct state *new)
{
	struct disk durable = {0};

	disk_copy(&durable, base);
	for (unsigned k = 0, from = 0; k <= nrecs; k++) {
		for (int how = 0; how < 5; how++) {
			disk_copy(&disk, &durable);
			for (unsigned i = from; how && i < k; i++)
				apply(&disk, &recs[i], MIN(how, 2));
			if (how || from == k)
				judge(k, how, old, new);
		}
		if (k < nrecs && recs[k].what == REC_FLUSH)
			for (; from <= k; from++)
				apply(&durable, &recs[from], 1);
	}
	free(durable.data);
}

/* Each write and flush in turn fails, once. */
static void all_faults(const struct disk *base, const struct state *old, const struct state *new,
		       void (*op)(struct tapimg *img))
{
	struct tapimg_open_opts o = {.format = "qcow2", .flags = TAPIMG_RDWR | TAPIMG_NO_BACKING};
	struct tapimg *img;

	faulty = true;
	for (unsigned k = 1; ; k++) {
		bool met;

		disk_copy(&disk, base);
		fail_at = k;
		failed = tapimg_open(loop, NAME, &o, &img, NULL);
		if (!failed) {
			op(img);
			if (tapimg_close(img, NULL))
				failed = true;
		}
		met = !fail_at;
		fail_at = 0;
		if (!met)
			break;
		ck_assert_msg(failed, "%s, kind %d: a failure of write %u goes unnoticed", what, kind_no,
			      k);
		judge(k, -1, old, new);
	}
	faulty = false;
}

static void cut_everywhere(const char *name, void (*op)(struct tapimg *img))
{
	struct disk base = {0};
	struct state old, new;
	struct tapimg *img;

	what = name;
	look(&old, 0);
	disk_copy(&base, &disk);
	nrecs = 0;
	recording = true;
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	op(img);
	close_image(img);
	recording = false;
	look(&new, 0);
	all_cuts(&base, &old, &new);
	all_faults(&base, &old, &new, op);
	disk_copy(&disk, &base);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	op(img);
	close_image(img);
	for (unsigned i = 0; i < nrecs; i++)
		free(recs[i].data);
	free(recs);
	recs = NULL;
	nrecs = 0;
	free(base.data);
}

/* --------------------------------------------------------------- operations */

static struct tapimg_err err;

static void must(int ret)
{
	failed |= ret != 0;
	ck_assert_msg(faulty || !ret, "%s: %d %s", what, ret, err.text);
}

static void op_create(struct tapimg *img)
{
	must(tapimg_snapshot_create(img, "new", &err));
}

static void op_apply(struct tapimg *img)
{
	must(tapimg_snapshot_apply(img, "first", &err));
}

static void op_delete(struct tapimg *img)
{
	must(tapimg_snapshot_delete(img, "first", &err));
}

static void op_grow(struct tapimg *img)
{
	must(tapimg_resize(img, tapimg_size(img) * 3, TAPIMG_PREALLOC_OFF, false, &err));
}

static void op_grow_prealloc(struct tapimg *img)
{
	must(tapimg_resize(img, tapimg_size(img) + 65536, TAPIMG_PREALLOC_METADATA, false, &err));
}

static void op_shrink(struct tapimg *img)
{
	must(tapimg_resize(img, tapimg_size(img) / 3 / SECTOR * SECTOR, TAPIMG_PREALLOC_OFF, true, &err));
}

static void backing(struct tapimg *img, unsigned len)
{
	char name[1100];

	memset(name, 'y', len);
	name[len] = 0;
	must(tapimg_set_backing(img, name, "raw", &err));
}

static void op_backing(struct tapimg *img)
{
	backing(img, 40);
}

static void op_long_backing(struct tapimg *img)
{
	backing(img, 1000);
}

static void op_no_backing(struct tapimg *img)
{
	must(tapimg_set_backing(img, NULL, NULL, &err));
}

static void amend(struct tapimg *img, const char *name, const char *value)
{
	struct tapimg_opt o = {name, value};

	must(tapimg_amend(img, &o, 1, &err));
}

static void op_wide(struct tapimg *img)
{
	amend(img, "refcount_bits", "64");
}

static void op_old(struct tapimg *img)
{
	amend(img, "compat", "0.10");
}

static void op_new(struct tapimg *img)
{
	amend(img, "compat", "1.1");
}

static void op_bitmaps(struct tapimg *img)
{
	must(tapimg_bitmap_add(img, "x", 512, true, &err));
	must(tapimg_bitmap_add(img, "y", 4096, true, &err));
	must(tapimg_bitmap_remove(img, "x", &err));
}

static void op_track(struct tapimg *img)
{
	uint8_t b[512];

	memset(b, 200, sizeof(b));
	for (uint64_t off = 0; off < tapimg_size(img); off += 10240)
		must(tapimg_pwrite(img, b, sizeof(b), off));
	must(tapimg_flush(img));
}

static void op_mark(struct tapimg *img)
{
	must(tapimg_bitmap_clear(img, "b", &err));
	must(tapimg_bitmap_merge(img, "b", img, "c", &err));
}

static const struct {
	const char *opts;
	uint64_t size;
	bool v2;
} kinds[] = {
	{"cluster_size=512", 200 * 1024, false},
	{"cluster_size=4096", MiB, false},
	{"cluster_size=4096,compat=0.10", MiB, true},
	{"cluster_size=16k,extended_l2=on", 2 * MiB, false},
	{"cluster_size=2048,refcount_bits=64", 512 * 1024, false},
};

/* Under the sanitizers the smallest clusters are enough. */
#ifdef __SANITIZE_ADDRESS__
#define KINDS 1
#else
#define KINDS ARRAY_SIZE(kinds)
#endif

static void fill(struct tapimg *img, uint64_t from, uint64_t to, unsigned byte)
{
	uint8_t buf[1500];

	for (uint64_t off = from; off < to; off += sizeof(buf)) {
		memset(buf, byte + off / 4096, sizeof(buf));
		must(tapimg_pwrite(img, buf, MIN(sizeof(buf), to - off), off));
	}
}

/* data, zeroes, holes; one snapshot; changes after it */
static void build(int kind, bool with_snapshot)
{
	uint64_t size = kinds[kind].size;
	struct tapimg *img;

	what = "build";
	kind_no = kind;
	q2_make("base.qcow2", size, kinds[kind].opts);
	load("base.qcow2");
	img = open_image(NAME, "qcow2", TAPIMG_RDWR);
	fill(img, 0, size / 2, 1);
	must(tapimg_zero(img, size / 8, size / 8, TAPIMG_REQ_MAY_UNMAP));
	if (with_snapshot)
		must(tapimg_snapshot_create(img, "first", &err));
	fill(img, size / 4, size * 3 / 4, 91);
	must(tapimg_zero(img, size / 2, size / 16, 0));
	close_image(img);
	unlink("base.qcow2");
}

START_TEST(snapshots)
{
	build(_i, true);
	cut_everywhere("create", op_create);
	build(_i, true);
	cut_everywhere("apply", op_apply);
	build(_i, true);
	cut_everywhere("delete", op_delete);
}
END_TEST

START_TEST(sizes)
{
	bool snap = !kinds[_i].v2;

	build(_i, snap);
	cut_everywhere("grow", op_grow);
	build(_i, snap);
	cut_everywhere("grow, preallocated", op_grow_prealloc);
	build(_i, snap);
	cut_everywhere("shrink", op_shrink);
	build(_i, false);
	cut_everywhere("shrink without snapshots", op_shrink);
}
END_TEST

START_TEST(headers)
{
	struct tapimg *img;

	build(_i, true);
	cut_everywhere("backing file", op_backing);
	if (strstr(kinds[_i].opts, "=512") || strstr(kinds[_i].opts, "=2048"))
		return;
	cut_everywhere("longer backing file", op_long_backing);
	cut_everywhere("shorter backing file", op_backing);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	op_long_backing(img);
	close_image(img);
	cut_everywhere("no backing file", op_no_backing);
}
END_TEST

START_TEST(amended)
{
	build(_i, true);
	if (!kinds[_i].v2 && !strstr(kinds[_i].opts, "=64")) {
		cut_everywhere("refcount_bits", op_wide);
		build(_i, true);
		if (!strstr(kinds[_i].opts, "extended"))
			cut_everywhere("compat=0.10", op_old);
	} else if (kinds[_i].v2) {
		cut_everywhere("compat=1.1", op_new);
	}
	if (!kinds[_i].v2) {
		build(_i, true);
		cut_everywhere("bitmaps", op_bitmaps);
	}
}
END_TEST

/* Bitmaps: tracked while written to, changed by hand, grown and cut with the disk. */
START_TEST(bitmaps)
{
	struct tapimg *img;

	build(_i, false);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_add(img, "b", 512, false, &err));
	must(tapimg_bitmap_add(img, "c", 4096, true, &err));
	close_image(img);
	tracking = true;
	cut_everywhere("write with a bitmap", op_track);
	tracking = false;
	cut_everywhere("grow with bitmaps", op_grow);
	cut_everywhere("shrink with bitmaps", op_shrink);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR);
	must(tapimg_bitmap_enable(img, "b", false, &err));
	must(tapimg_bitmap_enable(img, "c", true, &err));
	fill(img, 0, 20000, 7);
	close_image(img);
	cut_everywhere("mark by hand", op_mark);
	cut_everywhere("grow with a disabled bitmap", op_grow);
	cut_everywhere("shrink with a disabled bitmap", op_shrink);
}
END_TEST

/* Appending many clusters makes the refcount table grow. */
START_TEST(table_grows)
{
	uint64_t size = 12 * MiB;
	struct tapimg *img;
	struct state s;

	what = "table grows";
	q2_make("base.qcow2", size, "cluster_size=512");
	load("base.qcow2");
	unlink("base.qcow2");
	put_text("y", "something");
	ck_assert_int_eq(truncate("y", size), 0);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR);
	backing(img, 1);
	close_image(img);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR);
	must(tapimg_zero(img, 0, size, TAPIMG_REQ_MAY_UNMAP));
	close_image(img);
	ck_assert_uint_eq(get_be32(disk.data + QH_RT_CLUSTERS), 1);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	op_old(img);
	close_image(img);
	ck_assert_uint_gt(get_be32(disk.data + QH_RT_CLUSTERS), 1);
	ck_assert_uint_gt(disk.size, size);
	ck_assert_uint_eq(q2_check(NAME, 0)->c.corruptions, 0);
	ck_assert_uint_eq(q2_check(NAME, 0)->c.leaks, 0);
	look(&s, 0);
	ck_assert_uint_eq(s.sum, 1469598103934665603ULL);
}
END_TEST

/* version 2 with something below: zero clusters become clusters of zeroes */
START_TEST(downgrade_backed)
{
	struct tapimg *img;

	build(1, true);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	op_backing(img);
	close_image(img);
	cut_everywhere("compat=0.10 with a backing file", op_old);
}
END_TEST

static const struct {
	const char *name;
	void (*op)(struct tapimg *img);
} changes[] = {
	{"create", op_create}, {"apply", op_apply}, {"delete", op_delete}, {"grow", op_grow},
	{"shrink", op_shrink}, {"backing file", op_backing}, {"refcount_bits=64", op_wide},
};

/*
 * The header cannot be read again after a change: what is in memory leads to space that has been
 * freed, and nothing is written through it any more.
 */
START_TEST(header_unreadable)
{
	struct disk base = {0};
	struct state old, new;
	struct tapimg *img;
	unsigned n;

	build(1, true);
	what = changes[_i].name;
	look(&old, 0);
	disk_copy(&base, &disk);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	head_reads = 0;
	changes[_i].op(img);
	n = head_reads;
	close_image(img);
	look(&new, 0);
	faulty = true;
	for (unsigned last = 0; last < 2; last++) {	/* its beginning, then all of it */
		disk_copy(&disk, &base);
		img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
		failed = false;
		head_reads = 0;
		head_fail = n - last;
		changes[_i].op(img);
		ck_assert_msg(failed, "%s: %u", what, last);
		for (uint64_t off = 0; off < old.size / 3; off += 65536)
			ck_assert_msg(tapimg_pwrite(img, "x", 1, off), "%s: written at %llu", what,
				      (unsigned long long)off);
		tapimg_close(img, NULL);
		head_fail = 0;
		judge(last, -1, &old, &new);
	}
	faulty = false;
	free(base.data);
}
END_TEST

/* An operation that is refused before it has written leaves the image writable all the same. */
START_TEST(header_unreadable_unchanged)
{
	struct tapimg *img;

	build(1, true);
	img = open_image(NAME, "qcow2", TAPIMG_RDWR | TAPIMG_NO_BACKING);
	head_reads = 0;
	ck_assert_int_eq(tapimg_snapshot_apply(img, "none", &err), -ENOENT);
	head_fail = head_reads;
	head_reads = 0;
	ck_assert_int_eq(tapimg_snapshot_apply(img, "none", &err), -ENOENT);
	head_fail = 0;
	must(tapimg_pwrite(img, "x", 1, 0));
	close_image(img);
	ck_assert_uint_eq(q2_check(NAME, 0)->c.corruptions, 0);
}
END_TEST

static void enter(void)
{
	scratch_enter();
	loop_add_provider(loop, &provider);
	srand(1);
}

static void leave(void)
{
	free(disk.data);
	memset(&disk, 0, sizeof(disk));
	scratch_leave();
}

int main(void)
{
	Suite *s = suite_create("qcow2 cuts");
	TCase *t = tcase_create("cuts");

	tcase_add_checked_fixture(t, enter, leave);
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, snapshots, 0, KINDS);
	tcase_add_loop_test(t, sizes, 0, KINDS);
	tcase_add_loop_test(t, headers, 0, KINDS);
	tcase_add_loop_test(t, amended, 0, KINDS);
	tcase_add_loop_test(t, bitmaps, 0, 2);
	tcase_add_test(t, table_grows);
	tcase_add_test(t, downgrade_backed);
	tcase_add_loop_test(t, header_unreadable, 0, ARRAY_SIZE(changes));
	tcase_add_test(t, header_unreadable_unchanged);
	suite_add_tcase(s, t);
	return suite_run(s);
}
