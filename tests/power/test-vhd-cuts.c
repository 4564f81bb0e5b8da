/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-vhd-cuts.c - VHD: administrative operations cut short at each step of the simulated disk
 *
 *	test-vhd-cuts [NAME]
 *
 * Each operation is run on the same files again and again, and each time the power goes one step later.
 * What is left must be an image without damage (after going back, if a journal is left) that holds the old
 * contents or the new, is clean once it is repaired, and still holds them then.  The rules S1 to S5
 * of vhd-switch.c and J1 to J3 of vhd-journal.c: each of them broken (enum vhd_mutant) has to be found out.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "simdisk.h"
#include "vhd.h"

#define TOP "sim:top"
#define BLOCK 4096
#define SIZE (40 * BLOCK)
#define LARGE (300 * BLOCK)	/* its table needs the place of some blocks */
#define MAX_FILES 4

/* What may be read after a cut, beside all of the old contents or all of the new. */
enum { MIXED = 1, DAMAGED = 2, PARENT = 4, FIXED = 8 };

struct test {
	const char *name;
	int (*build)(void);
	int (*run)(void);
	unsigned flags;
	int (*broken)(void);		/* what makes the files that run() finds, after build() */
};

struct disk {
	uint8_t *data;
	uint64_t size;
};

static struct sim *sim;
static struct tapimg_loop *loop;
static struct tapimg_err err;
static enum vhd_mutant mutant;
static char why[700];

/* ------------------------------------------------------------------- the disk */

static struct kept {
	char name[16];
	struct disk d;
} kept[MAX_FILES];
static unsigned nkept;

static void up(uint64_t seed)
{
	struct sim_cfg cfg = { .seed = seed, .sector = 512, .align = 1, .delay = seed % 5 };

	sim = sim_new(&cfg);
	for (unsigned i = 0; i < nkept; i++)
		sim_put(sim, kept[i].name, kept[i].d.data, kept[i].d.size);
	if (tapimg_loop_new(1, &loop, &err))
		abort();
	sim_attach(sim, loop);
}

/* A new start with what is on the disk. */
static void again(void)
{
	while (sim_busy(sim))
		tapimg_loop_run(loop, true);
	sim_detach(sim);
	tapimg_loop_free(loop);
	sim_plan_cut(sim, 0);
	sim_power_on(sim);
	if (tapimg_loop_new(1, &loop, &err))
		abort();
	sim_attach(sim, loop);
}

static void down(void)
{
	while (sim_busy(sim))
		tapimg_loop_run(loop, true);
	sim_detach(sim);
	tapimg_loop_free(loop);
	sim_free(sim);
}

static void keep_one(void *arg, const char *name)
{
	struct kept *k = &kept[nkept++];

	if (nkept > MAX_FILES)
		abort();
	snprintf(k->name, sizeof(k->name), "%s", name);
	k->d.size = sim_size(sim, name);
	k->d.data = malloc(k->d.size + 1);
	sim_get(sim, name, k->d.data, k->d.size, 0);
}

static void forget(void)
{
	while (nkept)
		free(kept[--nkept].d.data);
}

/* ------------------------------------------------------------------- contents */

static int contents(const char *name, struct disk *d)
{
	struct tapimg_open_opts o = { .format = "vhd" };
	struct tapimg *img;
	int ret = tapimg_open(loop, name, &o, &img, &err);

	*d = (struct disk){ 0 };
	if (ret)
		return ret;
	d->size = tapimg_size(img);
	d->data = malloc(d->size + 1);
	ret = tapimg_pread(img, d->data, d->size, 0);
	tapimg_close(img, NULL);
	return ret ? err_errno(&err, ret, "reading") : 0;
}

static bool same(const struct disk *a, const struct disk *b)
{
	return a->size == b->size && !memcmp(a->data, b->data, a->size);
}

/* Each sector as it was, or as it was to become. */
static bool mixture(const struct disk *d, const struct disk *a, const struct disk *b)
{
	if (d->size != a->size || d->size != b->size)
		return false;
	for (uint64_t i = 0; i < d->size; i += 512)
		if (memcmp(d->data + i, a->data + i, 512) && memcmp(d->data + i, b->data + i, 512))
			return false;
	return true;
}

/* Only a trailer tells where a fixed disk ends: one lies beyond what both have in common. */
static bool common(const struct disk *d, const struct disk *a, const struct disk *b)
{
	return (d->size == a->size || d->size == b->size) &&
	       !memcmp(d->data, a->data, MIN(a->size, b->size));
}

static void line(void *arg, char severity, const char *text)
{
	char *first = arg;

	if (!*first && severity != 'I')
		snprintf(first, 200, "%c: %s", severity, text);
}

static int check(unsigned fix, struct tapimg_check *c, char *text)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_CHECK | TAPIMG_NO_BACKING |
				      (fix ? TAPIMG_RDWR : 0) };
	struct tapimg *img;
	int ret = tapimg_open(loop, TOP, &o, &img, &err);

	memset(c, 0, sizeof(*c));
	*text = 0;
	if (ret)
		return ret;
	ret = tapimg_check(img, fix, c, line, text, &err);
	if (tapimg_close(img, ret ? NULL : &err) && !ret)
		ret = -EIO;
	return ret;
}

/* ----------------------------------------------------------------- judgement */

__attribute__((format(printf, 1, 2)))
static bool wrong(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return false;
}

/* A journal that is not whole yet is of an image that has not been touched. */
static bool undo(void)
{
	struct tapimg_open_opts o = { .format = "vhd" };
	struct tapimg *img;
	struct file *f;
	int ret;

	if (!sim_exists(sim, "journal"))
		return true;
	ret = file_open(loop, TOP, FILE_RDWR, &f, &err);
	if (ret)
		return wrong("%s", err.text);
	ret = vhd_revert(f, TOP, "sim:journal", &err);
	file_close(f);
	if (ret == -EINVAL && strstr(err.text, "is not a journal") &&
	    !tapimg_open(loop, TOP, &o, &img, NULL)) {
		tapimg_close(img, NULL);
		ret = file_remove(loop, "sim:journal");
	}
	return ret ? wrong("going back: %s", err.text) : true;
}

static bool allowed(const char *when, const char *name, const struct test *t, const struct disk *old,
		    const struct disk *new)
{
	struct disk d;
	int ret = contents(name, &d);
	bool ok = !ret && (same(&d, old) || same(&d, new) || (t->flags & MIXED && mixture(&d, old, new)) ||
			   (t->flags & FIXED && common(&d, old, new)));

	free(d.data);
	return ok ? true : wrong("%s: %s", when, ret ? err.text : "other contents");
}

static bool judge(const struct test *t, const struct disk *old, const struct disk *new)
{
	struct tapimg_check c;
	char text[200];

	if (!undo())
		return false;
	if (check(0, &c, text))
		return wrong("check: %s", err.text);
	if (c.corruptions && !(t->flags & DAMAGED))
		return wrong("damaged: %s", text);
	if (!allowed("after the cut", TOP, t, old, new))
		return false;
	if (check(TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS, &c, text))
		return wrong("repair: %s", err.text);
	if (check(0, &c, text) || c.corruptions || c.leaks)
		return wrong("not repaired: %s", text[0] ? text : err.text);
	if (sim_exists(sim, "child") && !allowed("the snapshot", "sim:child", t, old, new))
		return false;
	return allowed("after repair", TOP, t, old, new);
}

/* --------------------------------------------------------------- one operation */

static bool finished(const struct test *t, struct disk *new)
{
	struct tapimg_check c;
	char text[200];
	struct disk base;
	bool ok;

	if (t->run())
		return wrong("without a cut: %s", err.text);
	again();		/* durable as well */
	if (contents(TOP, new))
		return wrong("when it is done: %s", err.text);
	if (check(0, &c, text) || c.corruptions || c.leaks)
		return wrong("when it is done: %s", text[0] ? text : err.text);
	if (!(t->flags & PARENT))
		return true;
	ok = !contents("sim:base", &base) && same(new, &base);
	free(base.data);
	return ok ? true : wrong("the parent alone does not read the same");
}

/* Both contents; the files as they are before the operation are kept. */
static bool prepare(const struct test *t, struct disk *old, struct disk *new, uint64_t *steps)
{
	uint64_t from;
	bool ok;

	forget();
	up(1);
	ok = !t->build() || wrong("build: %s", err.text);
	if (ok)
		ok = !contents(TOP, old) || wrong("before: %s", err.text);
	if (ok && t->broken)
		ok = !t->broken() || wrong("broken: %s", err.text);
	again();
	sim_names(sim, keep_one, NULL);
	from = sim_steps(sim);
	ok = ok && finished(t, new);
	*steps = sim_steps(sim) - from;
	down();
	return ok;
}

static bool cut_at(const struct test *t, uint64_t step, uint64_t seed, const struct disk *old,
		   const struct disk *new, unsigned *cuts)
{
	bool ok = true;

	up(seed);
	sim_plan_cut(sim, step);
	t->run();
	if (sim_dead(sim)) {
		++*cuts;
		again();
		ok = judge(t, old, new);
	}
	down();
	if (!ok) {
		size_t len = strlen(why);

		snprintf(why + len, sizeof(why) - len, " (step %llu, seed %llu)", (unsigned long long)step,
			 (unsigned long long)seed);
	}
	return ok;
}

struct cut {
	uint64_t step, seed;
};

/* In each round at most @most steps, the others another time; @first: before all.  False: a violation. */
static bool cut_everywhere(const struct test *t, unsigned rounds, unsigned most,
			   const struct cut *first, unsigned *cuts)
{
	struct disk old = { 0 }, new = { 0 };
	uint64_t steps = 0, seed = 1;
	bool ok = prepare(t, &old, &new, &steps);

	if (ok && first)
		ok = cut_at(t, first->step, first->seed, &old, &new, cuts);
	for (unsigned r = 0; ok && r < rounds; r++) {
		uint64_t stride = MAX(steps / most, 1);

		for (uint64_t n = 1 + r % stride; ok && n <= steps; n += stride)
			ok = cut_at(t, n, seed++, &old, &new, cuts);
	}
	free(old.data);
	free(new.data);
	forget();
	return ok;
}

/* ------------------------------------------------------------------ what is built */

static int make(const char *name, uint64_t size, const char *parent, const char *option,
		const char *value)
{
	struct tapimg_opt opt[2] = { { "block_size", "4096" }, { option, value } };
	struct tapimg_create_opts c = { .format = "vhd", .size = size, .opts = opt,
					.nopts = option ? 2 : 1, .backing = parent,
					.backing_format = parent ? "vhd" : NULL };

	return tapimg_create(loop, name, &c, &err);
}

static int fill(const char *name, unsigned byte, uint64_t from, uint64_t to, uint64_t step,
		uint64_t len)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR };
	uint8_t buf[2 * BLOCK];
	struct tapimg *img;
	int ret = tapimg_open(loop, name, &o, &img, &err);

	if (ret)
		return ret;
	for (; from < to && !ret; from += step) {
		memset(buf, (int)(byte + from / step), len);
		ret = tapimg_pwrite(img, buf, len, from);
	}
	return tapimg_close(img, &err) || ret ? -EIO : 0;
}

static int build_single(void)
{
	int ret = make(TOP, SIZE, NULL, NULL, NULL);

	return ret ? ret : fill(TOP, 1, 0, SIZE, 2 * BLOCK, BLOCK + 1024);
}

static int build_room(void)
{
	int ret = make(TOP, SIZE, NULL, "reserve_size", "4M");

	return ret ? ret : fill(TOP, 1, 0, SIZE, 2 * BLOCK, BLOCK + 1024);
}

static int build_fixed(void)
{
	struct tapimg_opt opt = { "subformat", "fixed" };
	struct tapimg_create_opts c = { .format = "vhd", .size = SIZE, .opts = &opt, .nopts = 1 };
	int ret = tapimg_create(loop, TOP, &c, &err);

	return ret ? ret : fill(TOP, 1, 0, SIZE, 2 * BLOCK, BLOCK + 1024);
}

static int build_child(void)
{
	int ret = make("sim:base", SIZE, NULL, NULL, NULL);

	if (!ret)
		ret = make("sim:other", SIZE, NULL, NULL, NULL);
	if (!ret)
		ret = fill("sim:base", 50, 0, SIZE / 2, BLOCK, BLOCK);
	if (!ret)
		ret = fill("sim:other", 90, SIZE / 4, SIZE, BLOCK, 512);
	if (!ret)
		ret = make(TOP, SIZE, "sim:base", NULL, NULL);
	return ret ? ret : fill(TOP, 1, BLOCK, SIZE, 3 * BLOCK, BLOCK + 1024);
}

/* --------------------------------------------------------------- what is done */

static int with(int (*fn)(struct tapimg *img), unsigned flags)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR | flags };
	struct tapimg *img;
	int ret = tapimg_open(loop, TOP, &o, &img, &err);

	if (ret)
		return ret;
	vhd_of(img)->mutant = mutant;
	ret = fn(img);
	return tapimg_close(img, ret ? NULL : &err) || ret ? -EIO : 0;
}

static int grow(struct tapimg *img)
{
	return tapimg_resize(img, LARGE, TAPIMG_PREALLOC_OFF, false, &err);
}

static int grow_some(struct tapimg *img)
{
	return tapimg_resize(img, SIZE + 7 * BLOCK + 512, TAPIMG_PREALLOC_OFF, false, &err);
}

static int shrink(struct tapimg *img)
{
	return tapimg_resize(img, SIZE / 2 + 512, TAPIMG_PREALLOC_OFF, true, &err);
}

static int grow_journal(struct tapimg *img)
{
	return vhd_resize_journal(img, LARGE, "sim:journal", VHD_STOP_NONE, &err);
}

static int grow_stopped(struct tapimg *img)
{
	return vhd_resize_journal(img, LARGE, "sim:journal", VHD_STOP_METADATA, &err);
}

static int other_parent(struct tapimg *img)
{
	return tapimg_set_backing(img, "sim:other", "vhd", &err);
}

static int no_parent(struct tapimg *img)
{
	return tapimg_set_backing(img, NULL, NULL, &err);
}

static int empty(struct tapimg *img)
{
	return vhd_make_empty(img, &err);
}

static int hide(struct tapimg *img)
{
	int ret = vhd_set_hidden(img, 1, &err);

	return ret ? ret : vhd_set_marker(img, 7, &err);
}

static int places(struct tapimg *img)
{
	return vhd_fill(img, true, 0, UINT32_MAX, &err);
}

static int all_blocks(struct tapimg *img)
{
	return vhd_fill(img, false, 0, UINT32_MAX, &err);
}

static int run_grow(void)
{
	return with(grow, 0);
}

static int run_grow_some(void)
{
	return with(grow_some, TAPIMG_NO_BACKING);
}

static int run_shrink(void)
{
	return with(shrink, TAPIMG_NO_BACKING);
}

static int run_journal(void)
{
	return with(grow_journal, 0);
}

static int run_other_parent(void)
{
	return with(other_parent, TAPIMG_NO_BACKING);
}

static int run_no_parent(void)
{
	return with(no_parent, TAPIMG_NO_BACKING);
}

static int run_empty(void)
{
	return with(empty, TAPIMG_NO_BACKING);
}

static int run_hide(void)
{
	return with(hide, TAPIMG_NO_BACKING);
}

static int run_places(void)
{
	return with(places, TAPIMG_NO_BACKING);
}

static int run_all_blocks(void)
{
	return with(all_blocks, 0);
}

static int stop_resize(void)
{
	int ret = with(grow_stopped, 0);

	return ret && sim_exists(sim, "journal") ? 0 : -EIO;
}

static int run_revert(void)
{
	struct file *f;
	int ret = file_open(loop, TOP, FILE_RDWR, &f, &err);

	if (ret)
		return ret;
	ret = vhd_revert_mutant(f, TOP, "sim:journal", mutant, &err);
	file_close(f);
	return ret;
}

static int run_snapshot(void)
{
	return make("sim:child", SIZE, TOP, NULL, NULL);
}

/* As vhd-util does: the child is only read. */
static int run_coalesce(void)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR };
	struct tapimg *child, *parent;
	int ret = tapimg_open(loop, "sim:base", &o, &parent, &err);

	if (ret)
		return ret;
	o.flags = TAPIMG_NO_BACKING;
	ret = tapimg_open(loop, TOP, &o, &child, &err);
	if (ret) {
		tapimg_close(parent, NULL);
		return ret;
	}
	child->backing = parent;
	ret = tapimg_commit(child, 1, false, 0, NULL, NULL, &err);
	return tapimg_close(child, ret ? NULL : &err) || ret ? -EIO : 0;
}

/* The batmap is said to be where a block has its data, and two blocks are in one place. */
static int damage(void)
{
	struct file *f;
	uint8_t b[8];
	int ret = file_open(loop, TOP, FILE_RDWR, &f, &err);

	if (ret)
		return ret;
	ret = file_pread(f, b, 4, 1536);
	if (!ret)
		ret = file_pwrite(f, b, 4, 1536 + 4 * 39);
	put_be64(b, (uint64_t)get_be32(b) * 512 + 512);
	if (!ret)
		ret = file_pwrite(f, b, 8, 2048 + 8);
	if (!ret)
		ret = file_flush(f);
	file_close(f);
	return ret;
}

static int build_damaged(void)
{
	int ret = build_single();

	return ret ? ret : damage();
}

static int run_repair(void)
{
	struct tapimg_check c;
	char text[200];

	return check(TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS, &c, text);
}

static const struct test tests[] = {
	{ "grow", build_single, run_grow, 0, NULL },
	{ "grow a child", build_child, run_grow, 0, NULL },
	{ "grow in the room there is", build_room, run_grow_some, 0, NULL },
	{ "shrink", build_single, run_shrink, 0, NULL },
	{ "grow with a journal", build_child, run_journal, 0, NULL },
	{ "revert", build_child, run_revert, 0, stop_resize },
	{ "grow fixed with a journal", build_fixed, run_journal, FIXED, NULL },
	{ "shrink fixed", build_fixed, run_shrink, FIXED, NULL },
	{ "another parent", build_child, run_other_parent, 0, NULL },
	{ "no parent", build_child, run_no_parent, 0, NULL },
	{ "empty", build_child, run_empty, MIXED, NULL },
	{ "hide", build_single, run_hide, 0, NULL },
	{ "fill with places", build_child, run_places, 0, NULL },
	{ "fill", build_child, run_all_blocks, 0, NULL },
	{ "snapshot", build_child, run_snapshot, 0, NULL },
	{ "coalesce", build_child, run_coalesce, PARENT, NULL },
	{ "repair", build_damaged, run_repair, DAMAGED, NULL },
};

/* A cut that is known to show it comes first, to win time; should it miss, all others are tried. */
static const struct {
	enum vhd_mutant mutant;
	const char *name, *test;
	struct cut first;
} mutants[] = {
	{ VHD_MUTANT_MOVE, "blocks moved too early", "grow", { 29, 127 } },
	{ VHD_MUTANT_DETOUR, "tables not durable", "grow", { 47, 133 } },
	/* with sectors of the header that are not the same before and after */
	{ VHD_MUTANT_HOME, "overwritten too early", "grow a child", { 68, 2141 } },
	{ VHD_MUTANT_BACK, "back too early", "grow a child", { 77, 2541 } },
	{ VHD_MUTANT_JOURNAL, "journal not durable", "grow with a journal", { 109, 28 } },
	{ VHD_MUTANT_REVERT, "footers first", "revert", { 151, 31 } },
};

_Static_assert(ARRAY_SIZE(mutants) == VHD_MUTANTS - 1, "each broken rule has to be found out");

static const struct test *find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
		if (!strcmp(tests[i].name, name))
			return &tests[i];
	abort();
}

static bool sound(const struct test *t, bool is_long)
{
	unsigned cuts = 0;
	bool ok = is_long ? cut_everywhere(t, 40, UINT32_MAX, NULL, &cuts) :
			    cut_everywhere(t, 1, 60, NULL, &cuts);

	if (!ok)
		printf("VIOLATION %s: %s\n", t->name, why);
	else
		printf("%-28s %u cuts\n", t->name, cuts);
	fflush(stdout);
	return ok;
}

static bool caught(unsigned i)
{
	unsigned cuts = 0;
	bool ok;

	mutant = mutants[i].mutant;
	ok = cut_everywhere(find(mutants[i].test), 40, 100, &mutants[i].first, &cuts);
	mutant = VHD_MUTANT_NONE;
	if (ok)
		printf("%-28s SURVIVED %u cuts\n", mutants[i].name, cuts);
	else
		printf("%-28s caught after %u cuts: %s\n", mutants[i].name, cuts, why);
	fflush(stdout);
	return !ok;
}

/* No space for the trailer: the copy is marked, for a full volume has to be one that can be deleted. */
static bool full_volume(uint8_t value, int want)
{
	struct sim_fault fault = { .kinds = 1 << IO_WRITE, .nth = 2, .err = -ENOSPC, .sticky = true };
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR };
	struct tapimg *img = NULL;
	uint8_t footer[512];
	int ret, last;
	bool ok;

	forget();
	up(1);
	ret = build_single();
	if (!ret)
		ret = tapimg_open(loop, TOP, &o, &img, &err);
	if (ret) {
		down();
		return wrong("full: %s", err.text);
	}
	sim_set_fault(sim, &fault);
	ret = vhd_set_hidden(img, value, &err);
	last = tapimg_close(img, NULL);
	sim_set_fault(sim, NULL);
	again();
	sim_get(sim, "top", footer, sizeof(footer), 0);
	ok = (ret == want && (want || !last) && footer[85] == value) ||
	     wrong("full: %d, closed %d, hidden %u", ret, last, footer[85]);
	down();
	return ok;
}

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0;
	const char *only = argc > 1 ? argv[1] : NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
		if (!only || !strcmp(only, tests[i].name))
			*(sound(&tests[i], getenv("TAPIMG_LONG")) ? &passed : &failed) += 1;
	for (unsigned i = 0; i < ARRAY_SIZE(mutants); i++)
		if (!only || !strcmp(only, mutants[i].name))
			*(caught(i) ? &passed : &failed) += 1;
	if (!only || !strcmp(only, "full volume")) {
		bool ok = full_volume(1, 0) && full_volume(0, -ENOSPC);

		printf("%-28s %s\n", "full volume", ok ? "marked" : why);
		*(ok ? &passed : &failed) += 1;
	}
	printf("%u passed, %u failed, 0 skipped\n", passed, failed);
	return failed || !passed;
}
