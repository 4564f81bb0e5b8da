/* SPDX-License-Identifier: BSD-2-Clause */
/* map.h - between map.c, which finds out, and map-draw.c and map-svg.c, which draw */
#ifndef MAP_H
#define MAP_H

#include "cmd.h"

/* A part of the guest's disk of which one thing is true; neighbours differ. */
struct map_row {
	uint64_t start, len, offset;
	unsigned depth;
	bool present, zero, data, compressed, has_offset;
	const char *filename;		/* of the file holding it, or NULL */
};

typedef int map_row_fn(void *arg, const struct map_row *row);	/* nonzero stops */

/* Calls @fn for all of [start, end) in order: 0, what @fn returned, or 1 after a message. */
int map_walk(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end, map_row_fn *fn,
	     void *arg);

struct draw_opts {
	unsigned width;			/* columns; 0: the terminal's */
	bool colour, unicode;
};

/* Which layer holds what, on stdout. */
int map_draw(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end,
	     const struct draw_opts *o);
/* The same as a picture; "-" is stdout. An existing file is replaced only by a complete one. */
int map_svg(struct cli *c, struct tapimg *img, uint64_t start, uint64_t end, const char *file);

/* A layer's colour, for 256-colour terminals and for pictures. */
struct map_colour {
	unsigned ansi;
	const char *hex;
};
const struct map_colour *map_colour(unsigned layer);
unsigned map_layers(struct tapimg *img);
/* The layer's file name without folders. */
const char *map_layer_name(struct tapimg *img, unsigned layer);

#endif
