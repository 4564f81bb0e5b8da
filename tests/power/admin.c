/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * admin.c - administrative operations between bursts of load, and what they do to the oracle
 *
 * They block, so a cut that falls into one is made by the simulated disk while they run. What may
 * be found afterwards is noted in world.pend before the call.
 */
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "vhd.h"
#include "world.h"

/* An operation may be refused for a reason, with an explanation; it has changed nothing then. */
static bool refused(struct world *w, const char *what, int ret, const struct tapimg_err *err)
{
	w->pend = PEND_NONE;
	w->refused++;
	switch (ret) {
	case -ENOTSUP: case -EINVAL: case -EBUSY: case -EEXIST: case -ENOENT: case -ERANGE:
	case -EOVERFLOW: case -EFBIG: case -E2BIG: case -EPERM: case -ESTALE:
		if (err->text[0]) {
			if (w->o->verbose)
				printf("  %s refused: %s\n", what, err->text);
			return true;
		}
		return wfail(w, "%s refused with %s and no explanation", what, strerror(-ret));
	}
	if (ret == -ENOSPC && w->geo.block_dev) {
		w->leaky = true;
		return true;
	}
	return wfail(w, "%s failed with %s: %s", what, strerror(-ret), err->text);
}

/* The power has gone, or a fault was met: what the operation has done is seen at the next open. */
static bool interrupted(struct world *w, const char *what, int ret, const struct tapimg_err *err)
{
	if (wdead(w))
		return true;
	if (!ret || !wexcused(w))
		return false;
	w->errors++;
	if (!strstr(err->text, "sim:"))
		wfail(w, "%s failed with %s, and the message names no file: '%s'", what,
		      strerror(-ret), err->text);
	return true;
}

static struct wsnap *snap_free_slot(struct world *w)
{
	unsigned i;

	for (i = 0; i < MAX_SNAPS; i++)
		if (!w->snaps[i].used)
			return &w->snaps[i];
	return NULL;
}

static struct wsnap *snap_any(struct world *w)
{
	unsigned i, k = rng_below(&w->rng, MAX_SNAPS);

	for (i = 0; i < MAX_SNAPS; i++) {
		struct wsnap *s = &w->snaps[(i + k) % MAX_SNAPS];

		if (s->used && !s->maybe)
			return s;
	}
	return NULL;
}

static bool have_snaps(const struct world *w)
{
	unsigned i;

	for (i = 0; i < MAX_SNAPS; i++)
		if (w->snaps[i].used)
			return true;
	return false;
}

static void snap_drop(struct wsnap *s)
{
	oracle_free(&s->o);
	s->used = s->maybe = false;
}

/* What vhd-util does: the image is disabled until it is over, and the journal can undo it. */
static int resize_journaled(struct world *w, uint64_t size, struct tapimg_err *err)
{
	int ret = tapimg_flush(w->img);

	if (ret)
		return err_errno(err, ret, "sim:top: flushing");
	w->journaled++;
	return vhd_resize_journal(w->img, size, "sim:journal", VHD_STOP_NONE, err);
}

static bool do_resize(struct world *w)
{
	struct tapimg_err err = { 0 };
	uint64_t cs = 1ULL << w->geo.cluster_bits, most = 2 * w->geo.size + cs, size;
	int ret;

	size = round_down(rng_range(&w->rng, 512, most), rng_pct(&w->rng, 40) ? cs : 512);
	if (size < cs)
		size = cs;
	w->pend = PEND_RESIZE;
	w->pend_size = size;
	if (w->geo.format && w->geo.format->undo && size > w->now.size && rng_pct(&w->rng, 70))
		ret = resize_journaled(w, size, &err);
	else
		ret = tapimg_resize(w->img, size, rng_pct(&w->rng, 15) ? TAPIMG_PREALLOC_METADATA :
				    TAPIMG_PREALLOC_OFF, size < w->now.size, &err);
	if (interrupted(w, "resize", ret, &err))
		return false;
	if (ret)
		return refused(w, "resize", ret, &err);
	w->pend = PEND_NONE;
	if (tapimg_size(w->img) != size)
		return wfail(w, "resize to %llu, but the size is %llu", (unsigned long long)size,
			     (unsigned long long)tapimg_size(w->img));
	oracle_resize(&w->now, size);
	return true;
}

static bool do_snap_create(struct world *w)
{
	struct wsnap *s = snap_free_slot(w);
	struct tapimg_err err = { 0 };
	int ret;

	if (!s)
		return true;
	if (!world_pin(w))
		return false;
	snprintf(s->name, sizeof(s->name), "s%llu", (unsigned long long)w->now.seq);
	oracle_copy(&s->o, &w->now);
	s->used = s->maybe = true;
	w->pend = PEND_SNAP_CREATE;
	w->pend_snap = s;
	ret = tapimg_snapshot_create(w->img, s->name, &err);
	if (interrupted(w, "snapshot create", ret, &err))
		return false;
	if (ret) {
		snap_drop(s);
		return refused(w, "snapshot create", ret, &err);
	}
	s->maybe = false;
	w->pend = PEND_NONE;
	return true;
}

static bool do_snap_apply(struct world *w)
{
	struct wsnap *s = snap_any(w);
	struct tapimg_err err = { 0 };
	uint64_t seq = w->now.seq, flushed;
	int ret;

	if (!s)
		return true;
	w->pend = PEND_SNAP_APPLY;
	w->pend_snap = s;
	ret = tapimg_snapshot_apply(w->img, s->name, &err);
	if (interrupted(w, "snapshot apply", ret, &err))
		return false;
	if (ret)
		return refused(w, "snapshot apply", ret, &err);
	w->pend = PEND_NONE;
	flushed = w->now.flushed;
	oracle_free(&w->now);
	oracle_copy(&w->now, &s->o);
	w->now.seq = seq;
	w->now.flushed = flushed;
	w->now.oldest = UINT64_MAX;
	return true;
}

static bool do_snap_delete(struct world *w)
{
	struct wsnap *s = snap_any(w);
	struct tapimg_err err = { 0 };
	int ret;

	if (!s)
		return true;
	w->pend = PEND_SNAP_DELETE;
	w->pend_snap = s;
	s->maybe = true;
	ret = tapimg_snapshot_delete(w->img, s->name, &err);
	if (interrupted(w, "snapshot delete", ret, &err))
		return false;
	if (ret) {
		s->maybe = false;
		return refused(w, "snapshot delete", ret, &err);
	}
	snap_drop(s);
	w->pend = PEND_NONE;
	return true;
}

static bool do_commit(struct world *w)
{
	struct tapimg_err err = { 0 };
	unsigned base;
	bool empty;
	int ret;

	/* snapshots see the backing file through their holes: it must not change under them */
	if (!w->rdwr_layers || have_snaps(w))
		return true;
	base = rng_range(&w->rng, 1, w->geo.below);
	empty = base == 1 && rng_pct(&w->rng, 60);
	w->pend = PEND_OTHER;
	ret = tapimg_commit(w->img, base, empty, 0, NULL, NULL, &err);
	if (interrupted(w, "commit", ret, &err)) {
		w->stale = true;
		return false;
	}
	if (ret)
		return refused(w, "commit", ret, &err);
	w->pend = PEND_NONE;
	return true;
}

static bool do_bitmap(struct world *w)
{
	struct tapimg_err err = { 0 };
	char name[8], other[8];
	unsigned what = rng_below(&w->rng, 10);
	int ret;

	snprintf(name, sizeof(name), "b%u", (unsigned)rng_below(&w->rng, 3));
	snprintf(other, sizeof(other), "b%u", (unsigned)rng_below(&w->rng, 3));
	w->pend = PEND_OTHER;
	if (what < 4)
		ret = tapimg_bitmap_add(w->img, name, 512ULL << rng_range(&w->rng, 0, 8),
					rng_pct(&w->rng, 30), &err);
	else if (what < 6)
		ret = tapimg_bitmap_remove(w->img, name, &err);
	else if (what < 7)
		ret = tapimg_bitmap_clear(w->img, name, &err);
	else if (what < 9)
		ret = tapimg_bitmap_enable(w->img, name, rng_pct(&w->rng, 50), &err);
	else
		ret = tapimg_bitmap_merge(w->img, name, w->img, other, &err);
	if (interrupted(w, "bitmap", ret, &err))
		return false;
	w->pend = PEND_NONE;
	return ret ? refused(w, "bitmap", ret, &err) : true;
}

static bool do_amend(struct world *w)
{
	static const struct tapimg_opt all[] = {
		{ "lazy_refcounts", "on" }, { "lazy_refcounts", "off" }, { "compat", "1.1" },
		{ "compat", "0.10" }, { "refcount_bits", "16" }, { "refcount_bits", "64" },
		{ "refcount_bits", "8" },
	};
	const struct tapimg_opt *opt = &all[rng_below(&w->rng, ARRAY_SIZE(all))];
	struct tapimg_err err = { 0 };
	int ret;

	w->pend = PEND_OTHER;
	/* may have become so, whatever comes */
	if (!strcmp(opt->value, "on"))
		w->geo.lazy = true;
	if (!strcmp(opt->value, "0.10"))
		w->geo.v2 = true;
	ret = tapimg_amend(w->img, opt, 1, &err);
	if (interrupted(w, "amend", ret, &err))
		return false;
	w->pend = PEND_NONE;
	return ret ? refused(w, "amend", ret, &err) : true;
}

/* Takes over what comes from below, and stands alone from then on. */
static bool do_rebase(struct world *w)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (!w->geo.below || have_snaps(w))
		return true;
	w->pend = PEND_OTHER;
	ret = tapimg_rebase(w->img, NULL, NULL, NULL, rng_pct(&w->rng, 20), NULL, NULL, &err);
	if (interrupted(w, "rebase", ret, &err))
		return false;
	w->pend = PEND_NONE;
	return ret ? refused(w, "rebase", ret, &err) : true;
}

bool admin_do(struct world *w, enum admin what)
{
	w->admin++;
	switch (what) {
	case ADMIN_RESIZE: return do_resize(w);
	case ADMIN_SNAP_CREATE: return do_snap_create(w);
	case ADMIN_SNAP_APPLY: return do_snap_apply(w);
	case ADMIN_SNAP_DELETE: return do_snap_delete(w);
	case ADMIN_COMMIT: return do_commit(w);
	case ADMIN_BITMAP: return do_bitmap(w);
	case ADMIN_AMEND: return do_amend(w);
	case ADMIN_REBASE: return do_rebase(w);
	}
	return true;
}

bool admin_run(struct world *w)
{
	static const unsigned weights[] = { 23, 20, 12, 13, 12, 12, 5, 3 };
	unsigned x = rng_below(&w->rng, 100), what = 0;

	while (x >= weights[what])
		x -= weights[what++];
	return admin_do(w, w->geo.raw_top ? ADMIN_RESIZE : (enum admin)what);
}
