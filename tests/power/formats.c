/* SPDX-License-Identifier: BSD-2-Clause */
/* formats.c - the formats besides qcow2 that the power tests make their images of */
#include <stdio.h>
#include <string.h>

#include "checked.h"
#include "vhd.h"
#include "world.h"

/* ------------------------------------------------------------------------ VMDK */

static const char *const vmdk_subformats[] = {
	"monolithicSparse", "monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentSparse",
	"vmfsSparse", "monolithicFlat", "twoGbMaxExtentFlat",
};

static unsigned vmdk_bits(struct rng *r, unsigned variant)
{
	if (variant == VMDK_COWD)
		return rng_pct(r, 60) ? 9 : 9 + rng_below(r, 4);
	return 9 + rng_below(r, 8);
}

static void vmdk_draw(struct world *w)
{
	struct rng *r = &w->rng;
	struct geo *g = &w->geo;

	g->raw_top = g->v2 = g->ext_l2 = g->lazy = g->data_file = g->prealloc_meta = false;
	g->variant = rng_below(r, g->below ? VMDK_FLAT : VMDK_KINDS);
	g->cluster_bits = vmdk_bits(r, g->variant);
	g->block_dev = g->variant <= VMDK_ZEROED && rng_pct(r, 10);
	g->gran = 512;
	/* few grains and many, but never more tables than the disk has place for */
	g->size = MIN(rng_range(r, 3, rng_pct(r, 15) ? 3000 : 300) << g->cluster_bits, 16 * MiB);
	if (rng_pct(r, 40))
		g->size += rng_range(r, 1, 64) * 512;
	for (unsigned i = 0; i < g->below; i++) {
		g->layer[i].raw = false;
		g->layer[i].variant = rng_below(r, i ? VMDK_FLAT : VMDK_KINDS);
		g->layer[i].cluster_bits = vmdk_bits(r, g->layer[i].variant);
		g->layer[i].size = rng_pct(r, 40) ? rng_range(r, 1, g->size / 512) * 512 : g->size;
		w->cfg.stale = w->cfg.stale && g->layer[i].variant < VMDK_FLAT;
	}
	/* the contents of plain files are the guest's: they need files that grow clean */
	w->cfg.stale = w->cfg.stale && g->variant < VMDK_FLAT;
}

static unsigned vmdk_options(const struct world *w, unsigned i, struct tapimg_opt *opts,
			     char text[4][16])
{
	const struct geo *g = &w->geo;
	unsigned variant = i < g->below ? g->layer[i].variant : g->variant, n = 0;
	unsigned bits = i < g->below ? g->layer[i].cluster_bits : g->cluster_bits;
	uint64_t size = i < g->below ? g->layer[i].size : g->size;

	opts[n++] = (struct tapimg_opt){ "subformat", vmdk_subformats[variant] };
	if (variant < VMDK_FLAT) {
		snprintf(text[0], 16, "%u", 1U << bits);
		opts[n++] = (struct tapimg_opt){ "grain_size", text[0] };
	}
	if (variant == VMDK_ZEROED || variant == VMDK_SPLIT_ZEROED)
		opts[n++] = (struct tapimg_opt){ "zeroed_grain", "on" };
	if (variant == VMDK_SPLIT || variant == VMDK_SPLIT_ZEROED || variant == VMDK_SPLIT_FLAT) {
		snprintf(text[1], 16, "%llu", round_up(size / 3, 1ULL << bits) + (1ULL << bits));
		opts[n++] = (struct tapimg_opt){ "extent_size", text[1] };
	}
	return n;
}

static bool vmdk_plain(const struct world *w, unsigned i)
{
	return (i < w->geo.below ? w->geo.layer[i].variant : w->geo.variant) >= VMDK_FLAT;
}

/* Freed grains stay in the file; not every table finds a place when the others are moved together. */
static bool vmdk_leaks(const struct world *w, bool repaired)
{
	return !repaired || w->geo.variant == VMDK_COWD || w->geo.cluster_bits < 11;
}

/* ------------------------------------------------------------------------ QCOW */

/* The number of L2 bits is drawn with the size of the clusters. */
static void qcow_draw(struct world *w)
{
	struct rng *r = &w->rng;
	struct geo *g = &w->geo;
	bool xen = rng_pct(r, 30);

	g->raw_top = g->v2 = g->ext_l2 = g->lazy = g->data_file = false;
	g->cluster_bits = 9 + rng_below(r, xen || rng_pct(r, 60) ? 4 : 8);
	g->variant = xen ? 9 | QCOW_XEN_LAYOUT : rng_pct(r, 50) ? 6 : 6 + rng_below(r, 8);
	if (!xen && rng_pct(r, 25))
		g->variant |= QCOW_ENCIPHERED;
	g->size = MIN(rng_range(r, 3, rng_pct(r, 15) ? 3000 : 300) << g->cluster_bits, 16 * MiB);
	if (rng_pct(r, 40))
		g->size += rng_range(r, 1, 64) * 512;
	g->prealloc_meta &= !g->below && !(g->variant & QCOW_ENCIPHERED);
	for (unsigned i = 0; i < g->below; i++) {
		g->layer[i].cluster_bits = 9 + rng_below(r, 8);
		g->layer[i].variant = (6 + rng_below(r, 8)) | (rng_pct(r, 20) ? QCOW_ENCIPHERED : 0);
		g->layer[i].size = rng_pct(r, 40) ? rng_range(r, 1, g->size / 512) * 512 : g->size;
	}
}

static unsigned qcow_options(const struct world *w, unsigned i, struct tapimg_opt *opts,
			     char text[4][16])
{
	const struct geo *g = &w->geo;
	unsigned variant = i < g->below ? g->layer[i].variant : g->variant, n = 0;

	snprintf(text[0], 16, "%u", 1U << (i < g->below ? g->layer[i].cluster_bits : g->cluster_bits));
	snprintf(text[1], 16, "%u", 1U << (variant & 15));
	opts[n++] = (struct tapimg_opt){ "cluster_size", text[0] };
	opts[n++] = (struct tapimg_opt){ "l2_entries", text[1] };
	if (variant & QCOW_XEN_LAYOUT)
		opts[n++] = (struct tapimg_opt){ "layout", "xen" };
	if (variant & QCOW_ENCIPHERED)
		opts[n++] = (struct tapimg_opt){ "encrypt.format", "aes" };
	if (i == g->below && g->prealloc_meta)
		opts[n++] = (struct tapimg_opt){ "preallocation", "metadata" };
	return n;
}

static bool never_plain(const struct world *w, unsigned i)
{
	return false;
}

/* What is freed is known only until the image is closed, and this disk makes no holes of it. */
static bool qcow_leaks(const struct world *w, bool repaired)
{
	return true;
}

/* ------------------------------------------------------------------------- VHD */

static unsigned vhd_bits(struct rng *r)
{
	return rng_pct(r, 70) ? 12 + rng_below(r, 3) : 15 + rng_below(r, 5);
}

static void vhd_draw(struct world *w)
{
	struct rng *r = &w->rng;
	struct geo *g = &w->geo;

	g->raw_top = g->v2 = g->ext_l2 = g->lazy = g->data_file = g->prealloc_meta = false;
	g->variant = 0;
	g->cluster_bits = vhd_bits(r);
	g->block_dev = rng_pct(r, 20);
	g->gran = 512;
	g->size = MIN(rng_range(r, 2, rng_pct(r, 15) ? 1000 : 60) << g->cluster_bits, 8 * MiB);
	if (rng_pct(r, 40))
		g->size += rng_range(r, 1, 64) * 512;
	for (unsigned i = 0; i < g->below; i++) {
		g->layer[i].cluster_bits = vhd_bits(r);
		g->layer[i].size = rng_pct(r, 40) ? rng_range(r, 1, g->size / 512) * 512 : g->size;
	}
}

static unsigned vhd_options(const struct world *w, unsigned i, struct tapimg_opt *opts,
			    char text[4][16])
{
	const struct geo *g = &w->geo;

	snprintf(text[0], 16, "%u", 1U << (i < g->below ? g->layer[i].cluster_bits : g->cluster_bits));
	opts[0] = (struct tapimg_opt){ "block_size", text[0] };
	return 1;
}

/* A journal that is not whole yet is of an image that has not been touched. */
static bool vhd_undo(struct world *w)
{
	struct tapimg_open_opts oo = { .format = "vhd" };
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	struct file *f;
	int ret = file_open(w->loop, "sim:top", FILE_RDWR, &f, &err);

	if (!ret) {
		ret = vhd_revert(f, "sim:top", "sim:journal", &err);
		file_close(f);
	}
	if (ret == -EINVAL && strstr(err.text, "is not a journal") &&
	    !tapimg_open(w->loop, "sim:top", &oo, &img, NULL)) {
		tapimg_close(img, NULL);
		ret = file_remove(w->loop, "sim:journal");
	}
	if (ret && !wexcused(w))
		wfail(w, "going back: %s", err.text);
	w->undone += !ret;
	return !ret;
}

static bool vhd_leaks(const struct world *w, bool repaired)
{
	return false;
}

static const struct wformat formats[] = {
	{ .name = "vhd", .draw = vhd_draw, .options = vhd_options, .plain = never_plain,
	  .leaks = vhd_leaks, .undo = vhd_undo },
	{ .name = "qcow", .draw = qcow_draw, .options = qcow_options, .plain = never_plain,
	  .leaks = qcow_leaks },
	{ .name = "vmdk", .draw = vmdk_draw, .options = vmdk_options, .plain = vmdk_plain,
	  .leaks = vmdk_leaks },
};

const struct wformat *wformat_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].name, name))
			return &formats[i];
	return NULL;
}
