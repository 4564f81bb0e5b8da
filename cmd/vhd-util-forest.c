/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-forest.c - scan -p: images under their parents
 *
 * Roots that are hidden come first, then the others, then what hangs in a loop; each sorted by path.  Of
 * the children of one image the hidden ones come last.
 */
#include "vhd-util-scan.h"

#define INDENT 3

static int by_name(const void *a, const void *b)
{
	const struct scan_image *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static void drop_twins(struct scan *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->images; i++) {
		if (n && !strcmp(s->image[n - 1].name, s->image[i].name))
			scan_image_free(&s->image[i]);
		else
			s->image[n++] = s->image[i];
	}
	s->images = n;
}

static void link_images(struct scan *s)
{
	for (size_t i = 0; i < s->images; i++)
		s->image[i].last_child = &s->image[i].child;
	for (size_t i = 0; i < s->images; i++) {
		struct scan_image *image = &s->image[i];
		struct scan_image key = { .name = image->parent };

		if (!image->parent)
			continue;
		image->above = bsearch(&key, s->image, s->images, sizeof(key), by_name);
		if (!image->above)
			continue;
		*image->above->last_child = image;
		image->above->last_child = &image->next;
	}
}

/*
 * @image and all below it.  Depth first with the next to be drawn found from the one drawn last: chains can be
 * longer than a stack is deep.  What has been drawn loses its name.
 */
static struct scan_image *next_child(struct scan_image *parent, bool hidden)
{
	for (struct scan_image *i = parent->child; i; i = i->next) {
		if (i->name && !!i->hidden == hidden)
			return i;
	}
	return NULL;
}

static void draw_tree(struct scan *s, struct scan_image *root)
{
	struct scan_image *at = root, *next;
	unsigned depth = 0;

	for (;;) {
		if (at->name) {
			scan_print(s, at, depth * INDENT, at->parent && !at->above);
			free(at->name);
			at->name = NULL;
		}
		next = next_child(at, false);
		if (!next)
			next = next_child(at, true);
		if (next) {
			at = next;
			depth++;
		} else if (at == root) {
			return;
		} else {
			at = at->above;
			depth--;
		}
	}
}

void scan_draw(struct scan *s)
{
	if (!s->images)
		return;
	qsort(s->image, s->images, sizeof(*s->image), by_name);
	drop_twins(s);
	link_images(s);
	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < s->images; i++) {
			struct scan_image *image = &s->image[i];

			if (!image->name || (round < 2 && image->above) ||
			    (round == 0 && !image->hidden))
				continue;
			draw_tree(s, image);
		}
	}
}
