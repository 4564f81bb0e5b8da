/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * chain.c - looking through the layers of a copy-on-write chain
 *
 * Only the top layer changes, so what lies below it is remembered: a read through a chain of any
 * depth costs two look-ups, one in the top layer and one here. Answers are remembered by the
 * 64 KiB piece of the disk they are about; a piece that falls apart remembers what was asked last.
 * Nothing is remembered about compressed units: their decoding costs more than any look-up.
 */
#include <stdlib.h>

#include "checked.h"
#include "image.h"

#define BELOW_SHIFT 16
#define BELOW_SLOTS 16384

struct below {
	unsigned mask;
	struct extent slot[];	/* len 0: empty */
};

/* @img and what is below it; @depth is img's. */
static int layers_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		      unsigned depth, unsigned layers, struct extent *ext)
{
	for (;;) {
		if (off < img->size) {
			uint64_t clip = MIN(len, img->size - off);
			int ret = img->fmt->map(img, off, clip, flags, ext);

			if (ret)
				return ret;
			len = MIN(ext->len, clip);
			if (ext->type != EXT_HOLE)
				break;
			ext->flags = EXT_NONE;
		} else {
			ext->flags = EXT_EOF;
			ext->type = EXT_ZERO;
			break;
		}
		if (layers && depth + 1 >= layers && img->backing)
			break;		/* a hole, as far as was asked */
		if (!img->backing) {
			ext->type = EXT_ZERO;
			break;
		}
		img = img->backing;
		depth++;
	}
	ext->off = off;
	ext->len = len;
	ext->depth = depth;
	ext->layer = img;
	return 0;
}

static struct below *below_get(struct tapimg *img)
{
	unsigned slots = 64;

	while (slots < BELOW_SLOTS && (uint64_t)slots << BELOW_SHIFT < img->size)
		slots *= 2;
	img->below = calloc(1, sizeof(*img->below) + slots * sizeof(struct extent));
	if (img->below)
		img->below->mask = slots - 1;
	return img->below;
}

static int below_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		     struct extent *ext)
{
	struct below *b = img->below ? img->below : below_get(img);
	uint64_t start = round_down(off, 1ULL << BELOW_SHIFT), skip;
	struct extent *e;
	int ret;

	if (!b)
		return layers_map(img->backing, off, len, flags, 1, 0, ext);
	e = &b->slot[(off >> BELOW_SHIFT) & b->mask];
	if (off - e->off >= e->len) {
		/* from the start of the piece, so that its other parts find the answer as well */
		ret = layers_map(img->backing, start, off - start + len, flags, 1, 0, ext);
		if (ret == -EAGAIN)
			return ret;
		/* what is wrong with its neighbours is not this part's business */
		if (ret && start != off)
			return layers_map(img->backing, off, len, flags, 1, 0, ext);
		if (!ret && ext->off + ext->len <= off)
			ret = layers_map(img->backing, off, len, flags, 1, 0, ext);
		if (ret)
			return ret;
		if (ext->type == EXT_CODED) {
			if (ext->off == off)
				return 0;
			return layers_map(img->backing, off, len, flags, 1, 0, ext);
		}
		*e = *ext;
	}
	*ext = *e;
	skip = off - ext->off;
	ext->off = off;
	ext->len = MIN(ext->len - skip, len);
	if (ext->type == EXT_DATA)
		ext->host += skip;
	return 0;
}

int chain_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, unsigned layers,
	      struct extent *ext)
{
	int ret;

	/* worth it from three layers on */
	if (!img->backing || !img->backing->backing || layers || flags & MAP_STATUS ||
	    off >= img->size)
		return layers_map(img, off, len, flags, 0, layers, ext);
	len = MIN(len, img->size - off);
	ret = img->fmt->map(img, off, len, flags, ext);
	if (ret || ext->type != EXT_HOLE) {
		ext->depth = 0;
		ext->layer = img;
		return ret;
	}
	return below_map(img, off, MIN(len, ext->len), flags, ext);
}

void chain_forget(struct tapimg *img)
{
	free(img->below);
	img->below = NULL;
}

struct map_call {
	struct tapimg *img;
	uint64_t off, len;
	unsigned flags, layers;
	struct extent *ext;
};

static int map_call(void *arg)
{
	struct map_call *c = arg;

	return chain_map(c->img, c->off, c->len, c->flags, c->layers, c->ext);
}

int chain_map_sync(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, unsigned layers,
		   struct extent *ext)
{
	struct map_call c = { img, off, len, flags, layers, ext };

	return sync_retry(img, map_call, &c);
}
