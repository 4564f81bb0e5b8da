/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-faults.c - every I/O fails in turn
 *
 *	test-faults [--all] [--script NAME] [--geo N] [--kind N] [--format NAME]
 *
 * A script (writes, a snapshot, a resize, ...) runs on a fixed image with the first I/O of a kind
 * failing, then with the second, and so on until it does not meet the fault any more (without --all
 * or TAPIMG_LONG some of the later ones are left out); with an I/O error, a full disk and short
 * transfers; with one failure and with all failing from there on.
 * Whatever happens: no crash, no hang, no wrong byte; a failed write or flush is reported to
 * somebody, with a message that names the file; afterwards the image opens, holds what was flushed,
 * and check finds at most leaks. A short transfer alone is no error: it is continued.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "world.h"

struct script {
	const char *name;
	bool (*prepare)(struct world *w);	/* without faults; the image is closed before and after */
	void (*run)(struct world *w);		/* with them; the image is closed */
	bool internal;		/* needs snapshots or bitmaps inside the image */
};

struct kind {
	const char *name;
	unsigned kinds;
	int err;
	bool must_tell;		/* somebody has to be told of such a failure */
};

static const struct kind kinds[] = {
	{ "read EIO", 1 << IO_READ, -EIO, false },
	{ "write EIO", 1 << IO_WRITE, -EIO, true },
	{ "flush EIO", 1 << IO_FLUSH, -EIO, true },
	{ "write ENOSPC", 1 << IO_WRITE, -ENOSPC, true },
	{ "zero EIO", 1 << IO_ZERO, -EIO, true },
	{ "zero ENOSPC", 1 << IO_ZERO, -ENOSPC, true },
	{ "discard EIO", 1 << IO_DISCARD, -EIO, false },
	{ "truncate EIO", SIM_TRUNCATE, -EIO, false },
	{ "truncate ENOSPC", SIM_TRUNCATE, -ENOSPC, false },
	{ "prealloc ENOSPC", SIM_PREALLOC, -ENOSPC, false },
	{ "rename EIO", SIM_RENAME, -EIO, true },
	{ "open EIO", SIM_OPEN, -EIO, false },
	{ "short read", 1 << IO_READ, SIM_SHORT, false },
	{ "short write", 1 << IO_WRITE, SIM_SHORT, false },
};

/* What is fixed of an image, and in what format. */
struct layout {
	const char *format;	/* NULL: qcow2; else one of formats.c, which knows the variants */
	bool always;		/* else in check only some of the scripts run on it */
	bool rare;		/* in check not at all */
	bool no_zero;		/* a disk without an operation for zeroes */
	bool no_create;		/* made anew in place: an image of several files, or a large head on a device */
	struct geo geo;
};

static const struct layout layouts[] = {
	{ .always = true, .geo = {
	  .cluster_bits = 12, .refcount_bits = 16, .size = 300 * KiB, .gran = 512, .below = 1,
	  .layer = { { .raw = false, .cluster_bits = 12, .size = 200 * KiB } } } },
	{ .always = true, .geo = {
	  .cluster_bits = 9, .refcount_bits = 64, .size = 200 * KiB, .gran = 512 } },
	{ .always = true, .geo = {
	  .cluster_bits = 16, .refcount_bits = 16, .size = 1 * MiB, .gran = 512, .ext_l2 = true,
	  .below = 2, .layer = { { .raw = true, .size = 1 * MiB },
				 { .cluster_bits = 16, .size = 1 * MiB } } } },
	{ .no_zero = true, .geo = {
	  .cluster_bits = 12, .v2 = true, .refcount_bits = 16, .size = 200 * KiB, .gran = 512 } },
	{ .geo = { .cluster_bits = 12, .refcount_bits = 16, .size = 200 * KiB, .gran = 512,
		   .data_file = true } },
	{ .geo = { .cluster_bits = 12, .refcount_bits = 16, .size = 200 * KiB, .gran = 512,
		   .lazy = true } },
	{ .format = "vhd", .always = true, .geo = {
	  .cluster_bits = 14, .size = 300 * KiB, .gran = 512, .below = 1,
	  .layer = { { .cluster_bits = 13, .size = 200 * KiB } } } },
	{ .format = "vhd", .no_zero = true, .geo = {
	  .cluster_bits = 13, .size = 200 * KiB + 512, .gran = 512, .below = 2,
	  .layer = { { .raw = true, .size = 200 * KiB }, { .cluster_bits = 15, .size = 150 * KiB } } } },
	{ .format = "vhd", .geo = {
	  .cluster_bits = 12, .size = 200 * KiB, .gran = 512, .block_dev = true } },
	{ .format = "qcow", .always = true, .geo = {
	  .variant = 6, .cluster_bits = 9, .size = 200 * KiB, .gran = 512, .below = 1,
	  .layer = { { .variant = 9, .cluster_bits = 12, .size = 150 * KiB } } } },
	{ .format = "qcow", .rare = true, .geo = {
	  .variant = 9 | QCOW_XEN_LAYOUT, .cluster_bits = 9, .size = 600 * KiB, .gran = 512 } },
	{ .format = "qcow", .no_zero = true, .geo = {
	  .variant = 6 | QCOW_ENCIPHERED, .cluster_bits = 12, .size = 300 * KiB, .gran = 512, .below = 1,
	  .layer = { { .variant = 6 | QCOW_ENCIPHERED, .cluster_bits = 9, .size = 150 * KiB } } } },
	{ .format = "qcow", .rare = true, .geo = {
	  .variant = 7, .cluster_bits = 10, .size = 200 * KiB, .gran = 512, .block_dev = true } },
	{ .format = "vmdk", .always = true, .geo = {
	  .variant = VMDK_SPARSE, .cluster_bits = 12, .size = 300 * KiB, .gran = 512, .below = 1,
	  .layer = { { .variant = VMDK_COWD, .cluster_bits = 9, .size = 200 * KiB } } } },
	{ .format = "vmdk", .no_zero = true, .no_create = true, .geo = {
	  .variant = VMDK_SPLIT_ZEROED, .cluster_bits = 12, .size = 300 * KiB, .gran = 512 } },
	{ .format = "vmdk", .rare = true, .no_create = true, .geo = {
	  .variant = VMDK_COWD, .cluster_bits = 9, .size = 100 * KiB, .gran = 512, .below = 1,
	  .layer = { { .variant = VMDK_SPLIT, .cluster_bits = 12, .size = 100 * KiB } } } },
	{ .format = "vmdk", .rare = true, .no_create = true, .geo = {
	  .variant = VMDK_SPLIT_FLAT, .cluster_bits = 12, .size = 200 * KiB, .gran = 512 } },
	{ .format = "vmdk", .rare = true, .no_create = true, .geo = {
	  .variant = VMDK_SPARSE, .cluster_bits = 13, .size = 200 * KiB, .gran = 512, .block_dev = true } },
};

/* --------------------------------------------------------------------- scripts */

/* The fault hit @what, which returned @ret: there must be a message, and it must name a file. */
static void told(struct world *w, const char *what, int ret, const struct tapimg_err *err)
{
	if (!ret)
		return;
	w->errors++;
	if (!wexcused(w))
		wfail(w, "%s failed without a fault: %s (%s)", what, err->text, strerror(-ret));
	else if (!strstr(err->text, "sim:"))
		wfail(w, "%s failed with %s, and the message names no file: '%s'", what,
		      strerror(-ret), err->text);
}

static const char *format_of(const struct world *w)
{
	return w->geo.format ? w->geo.format->name : "qcow2";
}

static bool open_top(struct world *w)
{
	struct tapimg_open_opts oo = { .format = format_of(w), .flags = TAPIMG_RDWR | TAPIMG_UNMAP,
				       .rdwr_layers = w->geo.below, .secret = world_secret };
	struct tapimg_err err = { 0 };
	int ret = tapimg_open(w->loop, "sim:top", &oo, &w->img, &err);

	w->open_flags = oo.flags;
	w->rdwr_layers = oo.rdwr_layers;
	if (ret)
		w->img = NULL;
	told(w, "open", ret, &err);
	return !ret;
}

static void close_top(struct world *w)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (!w->img)
		return;
	ret = tapimg_close(w->img, &err);
	w->img = NULL;
	told(w, "close", ret, &err);
	if (!ret)
		oracle_flushed(&w->now, oracle_now(&w->now));
}

static void some_load(struct world *w, unsigned count)
{
	struct load l = { .read = 20, .write = 45, .zero = 10, .discard = 10, .flush = 8,
			  .coded = 7, .fua_pct = 5, .whole_pct = 40, .depth = 6, .count = count };

	load_run(w, &l);
}

static bool no_preparation(struct world *w)
{
	return true;
}

static bool prepare_data(struct world *w)
{
	if (!world_open(w))
		return false;
	some_load(w, 60);
	return world_close(w);
}

static bool prepare_snap(struct world *w)
{
	if (!world_open(w))
		return false;
	some_load(w, 40);
	admin_do(w, ADMIN_SNAP_CREATE);
	some_load(w, 40);
	return world_close(w);
}

static void run_load(struct world *w)
{
	if (open_top(w)) {
		some_load(w, 80);
		world_verify(w, ORACLE_LIVE);
	}
	close_top(w);
}

static void run_admin(struct world *w, enum admin what)
{
	if (open_top(w)) {
		some_load(w, 10);
		if (!w->errors)		/* what comes after an error is seen at the next open */
			admin_do(w, what);
		if (!w->errors)
			some_load(w, 10);
	}
	close_top(w);
}

static void run_resize(struct world *w)
{
	run_admin(w, ADMIN_RESIZE);
}

static void run_snap_create(struct world *w)
{
	run_admin(w, ADMIN_SNAP_CREATE);
}

static void run_snap_apply(struct world *w)
{
	run_admin(w, ADMIN_SNAP_APPLY);
}

static void run_snap_delete(struct world *w)
{
	run_admin(w, ADMIN_SNAP_DELETE);
}

static void run_commit(struct world *w)
{
	run_admin(w, ADMIN_COMMIT);
}

static void run_bitmap(struct world *w)
{
	unsigned i;

	if (open_top(w))
		for (i = 0; i < 6 && !w->errors && !w->fail[0]; i++) {
			admin_do(w, ADMIN_BITMAP);
			if (!w->errors)
				some_load(w, 5);
		}
	close_top(w);
}

static void run_check(struct world *w)
{
	struct tapimg_open_opts oo = { .format = format_of(w), .flags = TAPIMG_RDWR | TAPIMG_CHECK,
				       .secret = world_secret };
	struct tapimg_err err = { 0 };
	struct tapimg_check c = { 0 };
	struct tapimg *img;
	int ret = tapimg_open(w->loop, "sim:top", &oo, &img, &err);

	told(w, "open for check", ret, &err);
	if (ret)
		return;
	ret = tapimg_check(img, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &c, NULL, NULL, &err);
	if (ret || !c.check_errors)
		told(w, "check", ret, &err);
	else
		w->errors++;
	ret = tapimg_close(img, &err);
	told(w, "close after check", ret, &err);
}

struct left {
	unsigned unknown;
};

static void count_unknown(void *arg, const char *name)
{
	struct left *l = arg;

	size_t n = strcspn(name, "-");	/* "l0-delta" is a part of "l0" */

	if (strstr(name, ".tapimg-") ||
	    (strncmp(name, "top", n) && strcmp(name, "data") && strncmp(name, "l0", n) &&
	     strncmp(name, "l1", n)))
		l->unknown++;
}

/* Over an existing image: it is the new one or the old one, and nothing else is left behind. */
static void run_create(struct world *w)
{
	struct tapimg_opt opts[10] = { { "cluster_size", "4096" }, { "preallocation", "metadata" } };
	struct tapimg_create_opts c = { .format = format_of(w), .size = w->now.size, .opts = opts,
					.nopts = 2, .in_place = w->geo.block_dev,
					.secret = world_secret };
	const struct wformat *format = w->geo.format;
	struct tapimg_err err = { 0 };
	struct left left = { 0 };
	char text[4][16];
	int ret;

	if (format)
		c.nopts = format->options(w, w->geo.below, opts, text);
	ret = tapimg_create(w->loop, "sim:top", &c, &err);
	told(w, "create", ret, &err);
	sim_names(w->sim, count_unknown, &left);
	if (left.unknown)
		wfail(w, "create left %u files behind", left.unknown);
	if (!ret) {
		uint64_t size = w->now.size;

		w->geo = (struct geo){ .format = format, .variant = w->geo.variant,
				       .cluster_bits = format ? w->geo.cluster_bits : 12,
				       .refcount_bits = 16, .size = size, .gran = w->geo.gran,
				       .block_dev = w->geo.block_dev };
		oracle_free(&w->now);
		oracle_init(&w->now, size, w->geo.gran);
	}
}

/* Copies the image into a new one; the image itself must not notice. */
static void run_copy(struct world *w)
{
	struct tapimg_create_opts c = { .format = format_of(w), .size = w->now.size };
	struct tapimg_open_opts ro = { .format = format_of(w), .secret = world_secret };
	struct tapimg_open_opts rw = { .format = format_of(w), .flags = TAPIMG_RDWR };
	struct tapimg_copy_opts co = { .flags = TAPIMG_COPY_TARGET_ZERO, .sparse_size = 4096 };
	struct tapimg_err err = { 0 };
	struct tapimg *src = NULL, *dst = NULL;
	struct tapimg_compare cmp = { 0 };
	int ret = tapimg_create(w->loop, "sim:copy", &c, &err);

	told(w, "create", ret, &err);
	if (ret)
		return;
	ret = tapimg_open(w->loop, "sim:top", &ro, &src, &err);
	told(w, "open source", ret, &err);
	if (!ret) {
		ret = tapimg_open(w->loop, "sim:copy", &rw, &dst, &err);
		told(w, "open target", ret, &err);
	}
	if (!ret) {
		ret = tapimg_copy(&src, 1, dst, &co, &err);
		told(w, "copy", ret, &err);
	}
	if (!ret) {
		ret = tapimg_compare(src, dst, false, &cmp, NULL, NULL, &err);
		told(w, "compare", ret, &err);
		if (cmp.read_error)
			w->errors++;
		else if (!ret && !cmp.equal)
			wfail(w, "the copy differs at 0x%llx", (unsigned long long)cmp.off);
	}
	if (dst) {
		ret = tapimg_close(dst, &err);
		told(w, "close target", ret, &err);
	}
	if (src)
		tapimg_close(src, NULL);
}

static void run_rebase(struct world *w)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (open_top(w)) {
		some_load(w, 5);
		if (!w->errors) {
			ret = tapimg_rebase(w->img, NULL, NULL, NULL, false, NULL, NULL, &err);
			told(w, "rebase", ret, &err);
		}
	}
	close_top(w);
}

static const struct script scripts[] = {
	{ "create", no_preparation, run_create, false },
	{ "load", no_preparation, run_load, false },
	{ "rewrite", prepare_snap, run_load, false },
	{ "resize", prepare_data, run_resize, false },
	{ "snapshot-create", prepare_data, run_snap_create, true },
	{ "snapshot-apply", prepare_snap, run_snap_apply, true },
	{ "snapshot-delete", prepare_snap, run_snap_delete, true },
	{ "commit", prepare_data, run_commit, false },
	{ "rebase", prepare_data, run_rebase, false },
	{ "bitmap", prepare_data, run_bitmap, true },
	{ "check", prepare_snap, run_check, false },
	{ "copy", prepare_data, run_copy, false },
};

/* ---------------------------------------------------------------------- running */

struct run {
	const struct script *s;
	const struct kind *k;
	unsigned geo;
	bool sticky;
	bool all;		/* every position, else fewer and fewer of the later ones */
	uint64_t nth;
};

static void configure(struct world *w, unsigned geo)
{
	const struct layout *l = &layouts[geo];

	w->geo = l->geo;
	if (l->format)
		w->geo.format = wformat_find(l->format);
	w->cfg.sector = 512;
	w->cfg.align = geo & 1 || l->geo.block_dev ? 512 : 1;
	w->cfg.delay = 2;
	w->cfg.prealloc = geo == 0;
	w->cfg.no_zero = l->no_zero;
	w->cfg.tick_ns = 10000;
	sim_configure(w->sim, &w->cfg);
}

/* What the disk holds now must be as good as after a crash. */
static void afterwards(struct world *w)
{
	oracle_crash(&w->now);
	w->leaky = true;
	if (!world_up(w) || !world_inspect(w, true) || !world_open(w) ||
	    !world_verify(w, ORACLE_CRASH))
		return;
	some_load(w, 20);
	if (world_close(w))
		world_check(w, 0, true);
}

/* Returns whether the fault was met. */
static bool run_one(const struct run *r, char *why, size_t size)
{
	static const struct opts o = { .tmp = "/dev/shm", .no_qemu = true };
	struct sim_fault f = { .kinds = r->k->kinds, .nth = r->nth, .err = r->k->err,
			       .sticky = r->sticky };
	struct world *w = malloc(sizeof(*w));
	bool met = false;

	if (!w)
		abort();
	world_watch(60);
	world_init(w, 77 + r->geo, &o);
	configure(w, r->geo);
	if (world_up(w) && world_create(w) && r->s->prepare(w)) {
		w->errors = 0;
		sim_set_fault(w->sim, &f);
		r->s->run(w);
		world_down(w);
		f = *sim_get_fault(w->sim);
		met = f.hits;
		sim_set_fault(w->sim, NULL);
		/* space that is being freed is waited for, and then it goes well */
		if (met && r->k->must_tell && !w->errors &&
		    (r->sticky || r->k->err != -ENOSPC || !w->geo.format))
			wfail(w, "nobody was told that %s at 0x%llx length 0x%llx of %s failed",
			      r->k->name, (unsigned long long)f.off, (unsigned long long)f.len, f.file);
		if (!w->fail[0])
			afterwards(w);
	} else {
		wfail(w, "the preparation failed");
	}
	if (sim_breach(w->sim))
		wfail(w, "breach of the seam: %s", sim_breach(w->sim));
	snprintf(why, size, "%s", w->fail);
	if (w->fail[0])
		snprintf(why + strlen(why), size - strlen(why), " [fault hit 0x%llx+0x%llx of %s]",
			 (unsigned long long)f.off, (unsigned long long)f.len, f.file);
	world_exit(w);
	free(w);
	world_watch(0);
	return met;
}

/* One kind of fault in one script, at all positions or many. Returns the number of violations. */
static unsigned run_kind(struct run *r, uint64_t *runs)
{
	unsigned bad = 0;
	char why[2000];
	bool met = true;
	uint64_t step;

	for (r->nth = 1, step = 0; met && bad < 3; r->nth += 1 + step) {
		met = run_one(r, why, sizeof(why));
		step = r->all ? 0 : layouts[r->geo].format ? 2 * r->nth : r->nth;
		++*runs;
		if (why[0]) {
			bad++;
			printf("VIOLATION script %s geo %u, %s number %llu%s: %s\n", r->s->name,
			       r->geo, r->k->name, (unsigned long long)r->nth,
			       r->sticky ? " and all after it" : "", why);
			fflush(stdout);
		}
	}
	return bad;
}

static bool wanted(const struct run *r, int geo, const char *format)
{
	const struct layout *l = &layouts[r->geo];

	if (r->s->internal && l->format)
		return false;
	if (r->s->run == run_create && l->no_create)
		return false;
	if (geo >= 0)
		return geo == (int)r->geo;
	if (format)
		return !strcmp(format, l->format ? l->format : "qcow2");
	return r->all || l->always || (!l->rare && r->s - scripts < 3);
}

/* All kinds of faults, or the one that was asked for. */
static unsigned run_kinds(struct run *r, int only, uint64_t *runs)
{
	unsigned bad = 0, k;

	for (k = 0; k < 2 * ARRAY_SIZE(kinds); k++)
		if (only < 0 || only == (int)k / 2) {
			r->k = &kinds[k / 2];
			r->sticky = k & 1;
			bad += run_kind(r, runs);
		}
	return bad;
}

int main(int argc, char **argv)
{
	const char *script = NULL, *format = NULL;
	bool all = getenv("TAPIMG_LONG");
	int geo = -1, only = -1, i;
	unsigned s, passed = 0, failed = 0;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--script") && i + 1 < argc)
			script = argv[++i];
		else if (!strcmp(argv[i], "--geo") && i + 1 < argc)
			geo = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--kind") && i + 1 < argc)
			only = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--format") && i + 1 < argc)
			format = argv[++i];
		else if (!strcmp(argv[i], "--all"))
			all = true;
	}
	for (s = 0; s < ARRAY_SIZE(scripts); s++) {
		uint64_t runs = 0;
		unsigned bad = 0, g;

		if (script && strcmp(script, scripts[s].name))
			continue;
		for (g = 0; g < ARRAY_SIZE(layouts); g++) {
			struct run r = { .s = &scripts[s], .geo = g, .all = all };

			if (wanted(&r, geo, format))
				bad += run_kinds(&r, only, &runs);
		}
		if (!runs)
			continue;
		printf("%-16s %llu faults, %u violations\n", scripts[s].name,
		       (unsigned long long)runs, bad);
		fflush(stdout);
		if (bad)
			failed++;
		else
			passed++;
	}
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	return failed != 0;
}
