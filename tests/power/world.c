/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * world.c - images on the simulated disk: making, opening, and what must hold of them
 *
 * After a cut: the image opens; every granule reads as something the oracle allows; check finds no
 * corruption, and after leaks are repaired nothing at all; qemu-img agrees. Snapshots read as they
 * did when they were made.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "checked.h"
#include "world.h"

bool wfail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->fail[0])
		return false;
	va_start(ap, fmt);
	vsnprintf(w->fail, sizeof(w->fail), fmt, ap);
	va_end(ap);
	return false;
}

/* Whatever hangs spins, for time does not pass otherwise; the alarm is for a machine in trouble. */
void world_watch(unsigned seconds)
{
	struct itimerval t = { .it_value = { .tv_sec = seconds } };

	setitimer(ITIMER_PROF, &t, NULL);
	alarm(20 * seconds);
}

bool wexcused(const struct world *w)
{
	return sim_dead(w->sim) || sim_get_fault(w->sim)->hits;
}

bool wdead(const struct world *w)
{
	return sim_dead(w->sim) || w->fail[0];
}

/* -------------------------------------------------------------------- drawing */

static unsigned draw_cluster_bits(struct rng *r)
{
	unsigned x = rng_below(r, 100);

	if (x < 40)
		return 9 + rng_below(r, 3);
	if (x < 75)
		return 12 + rng_below(r, 3);
	if (x < 95)
		return 15 + rng_below(r, 2);
	return 17 + rng_below(r, 5);
}

static uint64_t draw_size(struct rng *r, unsigned cluster_bits)
{
	uint64_t cs = 1ULL << cluster_bits, clusters, size;

	if (cluster_bits >= 18)
		clusters = rng_range(r, 3, 8);
	else if (cluster_bits >= 15)
		clusters = rng_range(r, 4, 40);
	else
		clusters = rng_range(r, 8, rng_pct(r, 15) ? 3000 : 400);
	size = MIN(clusters * cs, 16 * MiB);
	return rng_pct(r, 30) ? size - rng_range(r, 1, cs / 512) * 512 + 512 : size;
}

static void draw_geo(struct world *w)
{
	struct rng *r = &w->rng;
	struct geo *g = &w->geo;
	unsigned i;

	g->cluster_bits = draw_cluster_bits(r);
	g->v2 = rng_pct(r, 12);
	g->refcount_bits = g->v2 || rng_pct(r, 50) ? 16 : 1U << rng_below(r, 7);
	if (!g->v2) {
		g->ext_l2 = g->cluster_bits >= 14 && rng_pct(r, 35);
		g->lazy = rng_pct(r, 8);
		g->data_file = rng_pct(r, 8);
		g->zstd = rng_pct(r, 30);
	}
	g->raw_top = rng_pct(r, 2);
	g->prealloc_meta = rng_pct(r, 8);
	g->block_dev = !g->raw_top && rng_pct(r, 12);
	g->size = draw_size(r, g->cluster_bits);
	g->gran = g->size <= 256 * KiB && rng_pct(r, 25) ? 64 : 512;
	g->below = g->raw_top || rng_pct(r, 45) ? 0 : rng_range(r, 1, 3);
	for (i = 0; i < g->below; i++) {
		g->layer[i].raw = !i && rng_pct(r, 35);
		g->layer[i].cluster_bits = rng_pct(r, 50) ? g->cluster_bits : draw_cluster_bits(r);
		g->layer[i].size = g->size;
		if (rng_pct(r, 40))
			g->layer[i].size = rng_range(r, 1, g->size / 256) * 512;
	}
}

static void draw_disk(struct world *w)
{
	struct rng *r = &w->rng;
	struct sim_cfg *c = &w->cfg;

	c->sector = rng_pct(r, 60) ? 512 : 4096;
	c->align = rng_pct(r, 35) ? 1 : rng_pct(r, 60) ? 512 : 4096;
	c->max_io = rng_pct(r, 70) ? MiB : 16 * KiB << rng_below(r, 4);
	c->stale = rng_pct(r, 30);
	c->prealloc = !c->stale && rng_pct(r, 40);
	c->no_zero = rng_pct(r, 30);
	c->late_reads = rng_pct(r, 30);
	c->delay = rng_pct(r, 15) ? 0 : rng_range(r, 1, 12);
	c->slow_pct = rng_pct(r, 50) ? 0 : rng_range(r, 2, 25);
	c->slow_delay = rng_range(r, 20, 200);
	c->tick_ns = rng_pct(r, 60) ? 10000 : rng_pct(r, 50) ? 1000000 : 50000000;
}

void world_draw(struct world *w)
{
	draw_disk(w);
	draw_geo(w);
	if (w->o->format) {
		w->geo.format = wformat_find(w->o->format);
		w->geo.format->draw(w);
	}
	if (w->geo.block_dev && w->cfg.align == 1)
		w->cfg.align = 512;
	w->cold = w->o->cold || rng_pct(&w->rng, 10);
	w->cache = rng_pct(&w->rng, 60) ? 1 : 0;
	sim_configure(w->sim, &w->cfg);
}

/* -------------------------------------------------------------- life of a world */

void world_init(struct world *w, uint64_t seed, const struct opts *o)
{
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	w->o = o;
	w->rng.s = seed * 0x2545f4914f6cdd1dULL;
	w->cfg.seed = rng_next(&w->rng);
	w->cfg.sector = 512;
	w->cfg.align = 1;
	w->sim = sim_new(&w->cfg);
}

void world_exit(struct world *w)
{
	unsigned i;

	world_down(w);
	for (i = 0; i < MAX_SNAPS; i++)
		if (w->snaps[i].used)
			oracle_free(&w->snaps[i].o);
	for (i = 0; i < MAX_SLOTS; i++)
		free(w->slot[i].buf);
	oracle_free(&w->now);
	sim_free(w->sim);
}

bool world_up(struct world *w)
{
	struct tapimg_err err = { 0 };

	if (tapimg_loop_new(1, &w->loop, &err))
		return wfail(w, "no loop: %s", err.text);
	sim_attach(w->sim, w->loop);
	return true;
}

void world_down(struct world *w)
{
	if (w->img)
		tapimg_close(w->img, NULL);
	w->img = NULL;
	if (!w->loop)
		return;
	while (sim_busy(w->sim))
		tapimg_loop_run(w->loop, true);
	sim_detach(w->sim);
	tapimg_loop_free(w->loop);
	w->loop = NULL;
}

/* of what is not raw */
static const char *main_format(const struct world *w)
{
	return w->geo.format ? w->geo.format->name : "qcow2";
}

static const char *top_format(const struct world *w)
{
	return w->geo.raw_top ? "raw" : main_format(w);
}

static void set_meta(struct world *w, struct tapimg *img)
{
	struct tapimg *i;

	for (i = img; i; i = i->backing)
		if (i->meta)
			i->meta->cold = w->cold;
	if (img->meta)
		img->meta->mutant = w->o->mutant;
}

int world_secret(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	memcpy(ask->buf, "power", 5);
	return 5;
}

bool world_open(struct world *w)
{
	struct tapimg_err err = { 0 };
	struct tapimg_open_opts oo = { .format = top_format(w), .cache_size = w->cache,
				       .secret = world_secret };
	int ret;

	w->open_flags = TAPIMG_RDWR;
	if (rng_pct(&w->rng, 75))
		w->open_flags |= TAPIMG_UNMAP;
	if (rng_pct(&w->rng, 8))
		w->open_flags |= TAPIMG_WRITETHROUGH;
	if (w->stale)
		w->open_flags |= TAPIMG_STALE_BACKING;
	oo.flags = w->open_flags;
	w->rdwr_layers = oo.rdwr_layers = rng_pct(&w->rng, 50) ? w->geo.below : 0;
	ret = tapimg_open(w->loop, "sim:top", &oo, &w->img, &err);
	if (ret) {
		w->img = NULL;
		return wexcused(w) ? false : wfail(w, "open: %s (%s)", err.text, strerror(-ret));
	}
	set_meta(w, w->img);
	return true;
}

bool world_close(struct world *w)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (!w->img)
		return !wdead(w);
	ret = tapimg_close(w->img, &err);
	w->img = NULL;
	if (ret && wexcused(w)) {
		w->errors++;
		return false;
	}
	if (sim_dead(w->sim))
		return false;
	if (ret)
		return wfail(w, "close: %s (%s)", err.text, strerror(-ret));
	oracle_flushed(&w->now, oracle_now(&w->now));
	return true;
}

/* ------------------------------------------------------------------- creating */

static bool create_one(struct world *w, const char *name, const char *format, uint64_t size,
		       unsigned level, const struct tapimg_opt *opts, unsigned nopts, bool in_place)
{
	struct tapimg_err err = { 0 };
	char backing[16];
	struct tapimg_create_opts c = { .format = format, .size = size, .opts = opts,
					.nopts = nopts, .in_place = in_place,
					.secret = world_secret };
	struct sim_cfg cfg = w->cfg;
	int ret;

	if (!strcmp(format, "raw") || (w->geo.format && w->geo.format->plain(w, level)))	/* its contents are the guest's: it needs files that grow clean */
		cfg.stale = false;
	sim_configure(w->sim, &cfg);
	if (level) {
		snprintf(backing, sizeof(backing), "sim:l%u", level - 1);
		c.backing = backing;
		c.backing_format = level == 1 && w->geo.layer[0].raw ? "raw" : main_format(w);
	}
	ret = tapimg_create(w->loop, name, &c, &err);
	sim_configure(w->sim, &w->cfg);
	if (ret && !wexcused(w))
		return wfail(w, "create %s: %s (%s)", name, err.text, strerror(-ret));
	return !ret && !sim_dead(w->sim);
}

/* Puts something into a layer, through an image of its own. */
static bool fill_layer(struct world *w, const char *name, const char *format)
{
	struct tapimg_open_opts oo = { .format = format, .flags = TAPIMG_RDWR,
				       .secret = world_secret };
	struct tapimg_err err = { 0 };
	unsigned n = rng_range(&w->rng, 0, 25);
	uint8_t *buf = file_buf(256 * KiB);
	int ret;

	ret = tapimg_open(w->loop, name, &oo, &w->img, &err);
	if (ret) {
		free(buf);
		w->img = NULL;
		return wfail(w, "open layer: %s", err.text);
	}
	while (buf && n-- && !wdead(w)) {
		uint64_t g = w->geo.gran, id = oracle_now(&w->now);
		uint64_t off = rng_below(&w->rng, w->now.size / g) * g;
		uint64_t len = rng_range(&w->rng, 1, 256 * KiB / g) * g;
		bool zero = rng_pct(&w->rng, 15);

		len = MIN(len, w->now.size - off);
		oracle_begin(&w->now, id, off, len, zero ? OREC_ZERO : 0);
		oracle_fill(&w->now, buf, id, off, len);
		ret = zero ? tapimg_zero(w->img, off, len, 0) : tapimg_pwrite(w->img, buf, len, off);
		oracle_end(&w->now, id, off, len, OREC_DURABLE);
		if (ret)
			wfail(w, "filling %s: %s", name, strerror(-ret));
	}
	free(buf);
	return world_close(w);
}

static unsigned top_options(const struct world *w, struct tapimg_opt *opts, char text[4][16])
{
	const struct geo *g = &w->geo;
	unsigned n = 0;

	if (g->raw_top)
		return 0;
	if (g->format)
		return g->format->options(w, g->below, opts, text);
	snprintf(text[0], 16, "%u", 1U << g->cluster_bits);
	opts[n++] = (struct tapimg_opt){ "cluster_size", text[0] };
	opts[n++] = (struct tapimg_opt){ "compat", g->v2 ? "0.10" : "1.1" };
	if (!g->v2) {
		snprintf(text[1], 16, "%u", g->refcount_bits);
		opts[n++] = (struct tapimg_opt){ "refcount_bits", text[1] };
		opts[n++] = (struct tapimg_opt){ "lazy_refcounts", g->lazy ? "on" : "off" };
		opts[n++] = (struct tapimg_opt){ "extended_l2", g->ext_l2 ? "on" : "off" };
		opts[n++] = (struct tapimg_opt){ "compression_type", g->zstd ? "zstd" : "zlib" };
		if (g->data_file)
			opts[n++] = (struct tapimg_opt){ "data_file", "sim:data" };
	}
	if (g->prealloc_meta && (!g->below || g->ext_l2))
		opts[n++] = (struct tapimg_opt){ "preallocation", "metadata" };
	return n;
}

bool world_create(struct world *w)
{
	const struct geo *g = &w->geo;
	struct tapimg_opt opts[10];
	char text[4][16];
	char name[16];
	unsigned i, n;

	oracle_init(&w->now, g->below ? g->layer[0].size : g->size, g->gran);
	for (i = 0; i < g->below; i++) {
		const char *format = g->layer[i].raw ? "raw" : main_format(w);

		snprintf(name, sizeof(name), "sim:l%u", i);
		snprintf(text[0], 16, "%u", 1U << g->layer[i].cluster_bits);
		opts[0] = (struct tapimg_opt){ "cluster_size", text[0] };
		n = !g->layer[i].raw;
		if (n && g->format)
			n = g->format->options(w, i, opts, text);
		oracle_resize(&w->now, g->layer[i].size);
		if (!create_one(w, name, format, g->layer[i].size, i, opts, n, false) ||
		    !fill_layer(w, name, format))
			return false;
	}
	oracle_resize(&w->now, g->size);
	if (g->block_dev)
		sim_make(w->sim, "top", 8 * g->size + 8 * MiB, true);
	n = top_options(w, opts, text);
	if (!create_one(w, "sim:top", top_format(w), g->size, g->below, opts, n, g->block_dev))
		return false;
	w->exists = true;
	return true;
}

/* ------------------------------------------------------------------- contents */

static bool verify_image(struct world *w, struct tapimg *img, struct oracle *o,
			 enum oracle_when when, const char *what)
{
	uint64_t off, step = rng_pct(&w->rng, 70) ? 256 * KiB : 24 * KiB, len;
	uint8_t *buf = file_buf(step);
	uint64_t now = oracle_now(o);
	int ret;

	if (!buf)
		abort();
	for (off = 0; off < o->size; off += len) {
		len = MIN(step, o->size - off);
		ret = tapimg_pread(img, buf, len, off);
		if (ret && wexcused(w)) {
			w->errors++;
			break;
		}
		if (ret) {
			wfail(w, "%s: reading at 0x%llx: %s", what, (unsigned long long)off,
			      strerror(-ret));
			break;
		}
		if (!oracle_check(o, buf, off, len, when, now)) {
			wfail(w, "%s: %s", what, o->why);
			break;
		}
		if (when == ORACLE_CRASH)
			oracle_collapse(o, buf, off, len);
	}
	free(buf);
	return !wdead(w);
}

static bool oracle_matches(struct world *w, struct oracle *o)
{
	struct oracle tmp;
	uint8_t *buf = file_buf(64 * KiB);
	uint64_t off, len, n = 0;
	bool same = tapimg_size(w->img) == o->size;

	if (!buf)
		abort();
	oracle_copy(&tmp, o);
	for (off = 0; same && off < o->size; off += len) {
		len = MIN(64 * KiB, o->size - off);
		same = !tapimg_pread(w->img, buf, len, off) &&
		       oracle_check(&tmp, buf, off, len, ORACLE_CRASH, n);
	}
	free(buf);
	oracle_free(&tmp);
	return same;
}

/* Settles what an interrupted operation may have left: it has happened, or it has not. */
static bool settle_pending(struct world *w)
{
	uint64_t size = tapimg_size(w->img), id, old = w->now.size, seq, flushed;
	enum pending pend = w->pend;

	w->pend = PEND_NONE;
	switch (pend) {
	case PEND_RESIZE:
		if (size == w->pend_size) {
			oracle_resize(&w->now, size);
		} else if (size == old && w->pend_size < old) {
			/* the part to be cut off may have been emptied */
			uint64_t from = round_down(w->pend_size, w->now.gran);

			id = oracle_now(&w->now);
			oracle_begin(&w->now, id, from, old - from, OREC_ZERO | OREC_WEAK);
			oracle_end(&w->now, id, from, old - from, 0);
		}
		break;
	case PEND_SNAP_APPLY:
		if (oracle_matches(w, &w->now) || wdead(w))
			break;
		/* all of the snapshot then, never a mixture */
		seq = w->now.seq;
		flushed = w->now.flushed;
		oracle_free(&w->now);
		oracle_copy(&w->now, &w->pend_snap->o);
		w->now.seq = seq;
		w->now.flushed = flushed;
		w->now.oldest = UINT64_MAX;
		w->now.why[0] = 0;
		break;
	default:
		break;
	}
	return true;
}

bool world_verify(struct world *w, enum oracle_when when)
{
	if (when == ORACLE_CRASH && w->pend != PEND_NONE) {
		enum pending pend = w->pend;

		settle_pending(w);
		if (sim_dead(w->sim)) {		/* it stays unsettled */
			w->pend = pend;
			return false;
		}
	}
	/* the last sector of a raw file cannot be written alone: it may have been made whole */
	if (w->geo.raw_top && when == ORACLE_CRASH &&
	    tapimg_size(w->img) == round_up(w->now.size, w->cfg.align))
		oracle_resize(&w->now, tapimg_size(w->img));
	if (tapimg_size(w->img) != w->now.size)
		return wfail(w, "the size is %llu instead of %llu",
			     (unsigned long long)tapimg_size(w->img),
			     (unsigned long long)w->now.size);
	return verify_image(w, w->img, &w->now, when, "image");
}

/* Makes one value of every granule the right one: what a snapshot will hold. */
bool world_pin(struct world *w)
{
	uint64_t id = oracle_now(&w->now);
	int ret = tapimg_flush(w->img);

	if (wdead(w))
		return false;
	if (ret) {
		w->errors++;
		return wexcused(w) ? false : wfail(w, "flush: %s", strerror(-ret));
	}
	oracle_flushed(&w->now, id);
	return verify_image(w, w->img, &w->now, ORACLE_CRASH, "image before a snapshot");
}

static bool snap_listed(const struct tapimg_info *info, const char *name)
{
	unsigned i;

	for (i = 0; i < info->nsnapshots; i++)
		if (!strcmp(info->snapshots[i].name, name))
			return true;
	return false;
}

static bool verify_snap(struct world *w, struct wsnap *s)
{
	struct tapimg_open_opts oo = { .format = "qcow2", .snapshot = s->name,
				       .cache_size = w->cache };
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	bool ok = true;
	int ret;

	ret = tapimg_open(w->loop, "sim:top", &oo, &img, &err);
	if (ret)
		return wexcused(w) ? false : wfail(w, "opening snapshot %s: %s", s->name, err.text);
	if (tapimg_size(img) != s->o.size && !w->geo.v2)
		ok = wfail(w, "snapshot %s has size %llu instead of %llu", s->name,
			   (unsigned long long)tapimg_size(img), (unsigned long long)s->o.size);
	ok = ok && verify_image(w, img, &s->o, ORACLE_CRASH, s->name);
	tapimg_close(img, NULL);
	return ok;
}

/* The image is closed. */
bool world_verify_snaps(struct world *w)
{
	struct tapimg_open_opts oo = { .format = top_format(w), .flags = TAPIMG_NO_BACKING,
				       .secret = world_secret };
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	unsigned i, listed, known = 0;

	if (tapimg_open(w->loop, "sim:top", &oo, &img, &err))
		return wexcused(w) ? false : wfail(w, "open for reading: %s", err.text);
	if (tapimg_info(img, &info, &err)) {
		tapimg_close(img, NULL);
		return wexcused(w) ? false : wfail(w, "info: %s", err.text);
	}
	listed = info->nsnapshots;
	for (i = 0; i < MAX_SNAPS; i++) {
		struct wsnap *s = &w->snaps[i];

		if (!s->used)
			continue;
		if (snap_listed(info, s->name)) {
			s->maybe = false;
			known++;
		} else if (s->maybe) {
			oracle_free(&s->o);
			s->used = s->maybe = false;
		} else {
			wfail(w, "snapshot %s is gone", s->name);
		}
	}
	tapimg_close(img, NULL);
	if (listed != known)
		return wfail(w, "%u snapshots listed, %u known", listed, known);
	for (i = 0; i < MAX_SNAPS && !wdead(w); i++)
		if (w->snaps[i].used)
			verify_snap(w, &w->snaps[i]);
	return !wdead(w);
}

/* ---------------------------------------------------------------------- check */

struct finding {
	char severity;
	char text[400];
};

static void finding_fn(void *arg, char severity, const char *line)
{
	struct finding *f = arg;

	if (f->text[0] && (f->severity == 'E' || severity != 'E'))
		return;
	f->severity = severity;
	snprintf(f->text, sizeof(f->text), "%c: %s", severity, line);
}

static bool check_layer(struct world *w, const char *name, unsigned fix, bool leaks_allowed,
			struct tapimg_check *c)
{
	struct tapimg_open_opts oo = { .format = main_format(w), .cache_size = w->cache,
				       .flags = TAPIMG_CHECK | TAPIMG_NO_BACKING |
						(fix ? TAPIMG_RDWR : 0) };
	struct tapimg_err err = { 0 };
	struct finding first = { 0 };
	struct tapimg *img;
	int ret;

	memset(c, 0, sizeof(*c));
	ret = tapimg_open(w->loop, name, &oo, &img, &err);
	if (ret)
		return wexcused(w) ? false : wfail(w, "open for check: %s", err.text);
	if (img->meta)
		img->meta->cold = w->cold;
	ret = tapimg_check(img, fix, c, finding_fn, &first, &err);
	if (ret && !wexcused(w))
		wfail(w, "check of %s: %s", name, err.text);
	ret = tapimg_close(img, &err);
	if (wexcused(w))
		return false;
	if (ret)
		wfail(w, "close after check: %s", err.text);
	if (c->corruptions || c->check_errors)
		return wfail(w, "check of %s: %llu corruptions, %llu errors: %s", name,
			     (unsigned long long)c->corruptions,
			     (unsigned long long)c->check_errors, first.text);
	if (c->leaks && !leaks_allowed)
		return wfail(w, "check of %s: %llu leaks: %s", name, (unsigned long long)c->leaks,
			     first.text);
	return !wdead(w);
}

bool world_check(struct world *w, unsigned fix, bool leaks_allowed)
{
	struct tapimg_check c;
	char name[16];
	unsigned i;

	if (!w->geo.raw_top) {
		const struct wformat *f = w->geo.format;

		leaks_allowed = leaks_allowed || (f && f->leaks(w, false));
		if (!check_layer(w, "sim:top", fix, leaks_allowed || fix, &c))
			return false;
		if (c.leaks && rng_pct(&w->rng, 50)) {
			if (!check_layer(w, "sim:top", TAPIMG_FIX_LEAKS, true, &c) ||
			    !check_layer(w, "sim:top", 0, f && f->leaks(w, true), &c))
				return false;
			w->leaky = false;
		}
	}
	for (i = 0; i < w->geo.below; i++) {
		snprintf(name, sizeof(name), "sim:l%u", i);
		if (!w->geo.layer[i].raw && !check_layer(w, name, 0, true, &c))
			return false;
	}
	return true;
}

/* Lets qemu-img check the top image, alone. */
bool world_qemu(struct world *w, bool leaks_allowed)
{
	char top[200], data[200], cmd[1200], line[200], all[900] = "";
	FILE *p;
	int st;

	if (w->geo.raw_top || w->geo.format || w->o->no_qemu)
		return true;
	snprintf(top, sizeof(top), "%s/power-%d.qcow2", w->o->tmp, (int)getpid());
	snprintf(data, sizeof(data), "%s/power-%d.data", w->o->tmp, (int)getpid());
	if (sim_dump(w->sim, "top", top) || (w->geo.data_file && sim_dump(w->sim, "data", data)))
		return wfail(w, "cannot write %s", top);
	if (w->geo.data_file)
		snprintf(cmd, sizeof(cmd), "qemu-img check 'json:{\"driver\":\"qcow2\",\"backing\":null,"
			 "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"},\"data-file\":"
			 "{\"driver\":\"file\",\"filename\":\"%s\"}}' 2>&1", top, data);
	else
		snprintf(cmd, sizeof(cmd), "qemu-img check 'json:{\"driver\":\"qcow2\",\"backing\":null,"
			 "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}' 2>&1", top);
	w->qemu_runs++;
	p = popen(cmd, "r");
	if (!p)
		return wfail(w, "cannot run qemu-img");
	while (fgets(line, sizeof(line), p))
		if (strlen(all) + strlen(line) < sizeof(all))
			strcat(all, line);
	st = pclose(p);
	st = WEXITSTATUS(st);
	if (st == 0 || (st == 3 && leaks_allowed)) {
		unlink(top);
		unlink(data);
		return true;
	}
	return wfail(w, "qemu-img check says (%d, image kept as %s): %s", st, top, all);
}

bool world_inspect(struct world *w, bool crash)
{
	bool leaks = crash || w->leaky;

	if (sim_exists(w->sim, "journal") && !w->geo.format->undo(w))
		return false;
	if (crash)
		w->leaky = true;
	if (crash && w->geo.lazy && !w->geo.raw_top) {	/* the first writer rebuilds the counts */
		uint64_t flushed = w->now.flushed;

		if (!world_open(w) || !world_close(w))
			return false;
		w->now.flushed = flushed;	/* says nothing about what was before the crash */
	}
	if (!world_check(w, 0, leaks))
		return false;
	if ((w->o->qemu || rng_pct(&w->rng, 1)) && !world_qemu(w, leaks))
		return false;
	if (w->geo.raw_top || (w->geo.format && !w->geo.format->snapshots))
		return true;
	return world_verify_snaps(w);
}
