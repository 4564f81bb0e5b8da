/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drive.c - one seed: an image made at random, loaded and cut, again and again
 *
 * Each seed makes a random image on a random simulated disk and lives through several generations:
 * open, load with administrative operations between, a cut at a random step (or a clean close),
 * and a look at what survived. Every run of a seed is the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "world.h"

/* When the power goes, in steps of the disk; often soon, sometimes late. */
static uint64_t draw_cut(struct world *w)
{
	return rng_range(&w->rng, 1, 20ULL << rng_range(&w->rng, 0, 8));
}

/* One life of the image between two starts.  false: the power has gone, or something is wrong. */
static bool live(struct world *w)
{
	unsigned bursts = rng_range(&w->rng, 1, 4);
	struct load l;

	while (bursts--) {
		load_draw(w, &l);
		if (!load_run(w, &l))
			return false;
		if (!w->o->mutant && rng_pct(&w->rng, 60) && !admin_run(w))
			return false;
		if (rng_pct(&w->rng, 15) && !world_verify(w, ORACLE_LIVE))
			return false;
	}
	return world_close(w);
}

/* The power has gone: what is left must be right. Returns false on a violation. */
static bool aftermath(struct world *w)
{
	world_down(w);
	sim_power_on(w->sim);
	oracle_crash(&w->now);
	return !w->fail[0];
}

static bool generation(struct world *w, bool crash)
{
	bool early = rng_pct(&w->rng, 12);

	if (early)	/* while opening, checking and repairing */
		sim_plan_cut(w->sim, draw_cut(w));
	if (!world_up(w) || !world_inspect(w, crash))
		return false;
	if (!world_open(w) || !world_verify(w, ORACLE_CRASH))
		return false;
	if (rng_pct(&w->rng, 90))
		sim_plan_cut(w->sim, draw_cut(w));
	return live(w);
}

/* Creation is cut as well: either there is no image or a whole one. */
static bool birth(struct world *w)
{
	if (!world_up(w))
		return false;
	if (rng_pct(&w->rng, 5) && !w->geo.below && !w->geo.block_dev && !w->geo.data_file)
		sim_plan_cut(w->sim, rng_range(&w->rng, 1, 60));
	if (world_create(w)) {
		world_down(w);
		sim_plan_cut(w->sim, 0);
		return true;
	}
	if (w->fail[0])
		return false;
	world_down(w);
	sim_power_on(w->sim);
	w->exists = sim_exists(w->sim, "top");
	return w->exists;
}

static void describe(const struct world *w)
{
	const struct geo *g = &w->geo;
	const struct sim_cfg *c = &w->cfg;

	if (g->format)
		printf("  %s variant %u;", g->format->name, g->variant);
	printf("  %s cluster %llu refcount_bits %u%s%s%s%s%s%s%s size %llu, %u below; disk: sector %u "
	       "align %u max_io %llu%s%s%s delay %u slow %u%% of %u; cache %llu%s\n",
	       g->raw_top ? "raw" : g->v2 ? "v2" : "v3", 1ULL << g->cluster_bits, g->refcount_bits,
	       g->ext_l2 ? " extended_l2" : "", g->lazy ? " lazy" : "",
	       g->data_file ? " data_file" : "", g->zstd ? " zstd" : "",
	       g->prealloc_meta ? " prealloc" : "", g->block_dev ? " block_dev" : "",
	       g->gran == 64 ? " gran64" : "", (unsigned long long)g->size, g->below, c->sector,
	       c->align, (unsigned long long)c->max_io, c->stale ? " stale" : "",
	       c->prealloc ? " prealloc" : "", c->no_zero ? " no_zero" : "", c->delay, c->slow_pct,
	       c->slow_delay, (unsigned long long)w->cache, w->cold ? " cold" : "");
}

/* Runs a seed.  false: a violation, reported. */
bool run_seed(uint64_t seed, const struct opts *o, struct totals *t)
{
	struct world *w = malloc(sizeof(*w));
	bool crash = false, ok;

	if (!w)
		abort();
	world_watch(60);
	world_init(w, seed, o);
	world_draw(w);
	if (o->verbose) {
		printf("seed %llu\n", (unsigned long long)seed);
		describe(w);
		fflush(stdout);
	}
	if (birth(w))
		for (w->generation = 1; w->generation <= o->cuts && !w->fail[0]; w->generation++) {
			bool clean = generation(w, crash);

			if (w->fail[0])
				break;
			crash = !clean;
			if (clean) {
				t->clean++;
				world_down(w);
				sim_plan_cut(w->sim, 0);
				/* whoever closed an image may pull the plug */
				if (rng_pct(&w->rng, 50))
					sim_power_on(w->sim);
			} else if (!aftermath(w)) {
				break;
			}
		}
	if (!w->fail[0] && w->exists && world_up(w) && world_inspect(w, crash) && world_open(w) &&
	    world_verify(w, ORACLE_CRASH))
		world_close(w);
	if (sim_breach(w->sim))
		wfail(w, "breach of the seam: %s", sim_breach(w->sim));
	ok = !w->fail[0];
	if (!ok && (!o->mutant || o->verbose)) {
		printf("VIOLATION seed %llu generation %u: %s\n", (unsigned long long)seed,
		       w->generation, w->fail);
		describe(w);
		printf("  again: test-power%s%s --seeds %llu --cuts %u --mutant %u%s --verbose\n",
		       o->format ? " --format " : "", o->format ? o->format : "",
		       (unsigned long long)seed, o->cuts, o->mutant, o->cold ? " --cold" : "");
		fflush(stdout);
	}
	if (!ok)
		snprintf(t->why, sizeof(t->why), "%.*s", (int)sizeof(t->why) - 1, w->fail);
	t->seeds++;
	t->cuts += sim_get_stats(w->sim)->cuts;
	t->requests += w->requests;
	t->admin += w->admin;
	t->journaled += w->journaled;
	t->undone += w->undone;
	t->refused += w->refused;
	t->qemu += w->qemu_runs;
	world_exit(w);
	free(w);
	world_watch(0);
	return ok;
}
