/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-stats.c - what check -s counts: sectors allocated, written, and new against what lies below
 *
 * The images of the chain are walked together, a window of the disk at a time, so that the memory it
 * takes does not depend on their size.
 */
#include "vhd-util-check.h"

#define WINDOW VHD_BLOCK_MAX
#define WINDOW_BITS (WINDOW / VHD_SECTOR)

struct layer {
	struct vu_file f;
	uint64_t allocated, written, not_in_parent, not_below;
	uint64_t bits[WINDOW_BITS / 64];	/* of the window, in the order of the bitmaps' bytes */
};

struct walk {
	struct layer *layer;		/* the lowest first */
	unsigned n;
	uint8_t *buf;			/* a bitmap */
	uint64_t below[WINDOW_BITS / 64];
};

int vu_stats_add(struct vu_stats *s, const char *name)
{
	if (s->n == VU_STATS_MAX)
		return -ELOOP;
	s->name[s->n] = strdup(name);
	return s->name[s->n++] ? 0 : -ENOMEM;
}

void vu_stats_free(struct vu_stats *s)
{
	while (s->n)
		free(s->name[--s->n]);
}

static int load_block(struct walk *w, struct layer *l, uint64_t window, uint64_t block)
{
	uint32_t size = l->f.look.header.block_size, bits = size / VHD_SECTOR;
	uint64_t first = (block * size - window) / VHD_SECTOR;
	int ret;

	if (l->f.bat[block] == VHD_UNUSED)
		return 0;
	l->allocated += bits;
	ret = file_pread(l->f.file, w->buf, vhd_bitmap_len(size),
			 (uint64_t)l->f.bat[block] * VHD_SECTOR);
	if (ret)
		return ret;
	/* blocks are a multiple of 4 KiB, so their bits are whole bytes of the window's */
	memcpy((uint8_t *)l->bits + first / 8, w->buf, bits / 8);
	return 0;
}

static int load_window(struct walk *w, struct layer *l, uint64_t window)
{
	uint32_t size = l->f.look.header.block_size;
	uint64_t block = window / size, end = MIN((window + WINDOW) / size, l->f.entries);
	int ret = 0;

	memset(l->bits, 0, sizeof(l->bits));
	for (; block < end && !ret; block++)
		ret = load_block(w, l, window, block);
	return ret;
}

static void count_window(struct walk *w)
{
	memset(w->below, 0, sizeof(w->below));
	for (unsigned n = 0; n < w->n; n++) {
		struct layer *l = &w->layer[n];

		for (unsigned i = 0; i < ARRAY_SIZE(l->bits); i++) {
			uint64_t here = l->bits[i], parent = n ? w->layer[n - 1].bits[i] : 0;

			l->written += __builtin_popcountll(here);
			l->not_in_parent += __builtin_popcountll(here & ~parent);
			l->not_below += __builtin_popcountll(here & ~w->below[i]);
			w->below[i] |= here;
		}
	}
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole * 100.0 : 0.0;
}

static void print_layer(const struct layer *l, bool lowest)
{
	const char *slash = strrchr(l->f.name, '/');

	printf("%s: secs allocated: 0x%llx secs written: 0x%llx (%.2f%%)",
	       slash && slash[1] ? slash + 1 : l->f.name, (unsigned long long)l->allocated,
	       (unsigned long long)l->written, percent(l->written, l->allocated));
	if (!lowest)
		printf(" secs not in parent: 0x%llx (%.2f%%) secs not in ancestors: 0x%llx (%.2f%%)",
		       (unsigned long long)l->not_in_parent, percent(l->not_in_parent, l->written),
		       (unsigned long long)l->not_below, percent(l->not_below, l->written));
	putchar('\n');
}

static int open_layers(struct cli *c, struct walk *w, const struct vu_stats *s, uint64_t *size)
{
	int ret = 0;

	for (; w->n < s->n && !ret; w->n++) {
		struct layer *l = &w->layer[w->n];

		ret = vu_look(c, s->name[s->n - 1 - w->n], VHD_LOOK_POISON, &l->f);
		if (!ret && vu_sparse(&l->f))
			ret = vu_bat(c, &l->f);
		if (!ret)
			*size = MAX(*size, l->f.look.footer.cur_size);
	}
	return ret;
}

int vu_stats_print(struct cli *c, struct vu_stats *s)
{
	struct walk *w = calloc(1, sizeof(*w));
	uint64_t size = 0;
	int ret = -ENOMEM;

	if (w) {
		w->layer = calloc(s->n, sizeof(*w->layer));
		w->buf = file_buf(vhd_bitmap_len(VHD_BLOCK_MAX));
	}
	if (w && w->layer && w->buf)
		ret = open_layers(c, w, s, &size);
	for (uint64_t at = 0; at < size && !ret; at += WINDOW) {
		for (unsigned n = 0; n < w->n && !ret; n++)
			ret = vu_sparse(&w->layer[n].f) ? load_window(w, &w->layer[n], at) : 0;
		if (!ret)
			count_window(w);
	}
	for (unsigned n = 0; w && n < w->n; n++) {
		if (!ret)
			print_layer(&w->layer[n], !n);
		vu_close(&w->layer[n].f);
	}
	if (w) {
		free(w->layer);
		free(w->buf);
	}
	free(w);
	return ret;
}
