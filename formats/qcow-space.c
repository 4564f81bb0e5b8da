/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-space.c - space that was given back while the image is open
 *
 * Kept as an array of ranges.  What does not fit into it is forgotten, that is leaked in the image
 * until it is checked.
 */
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "qcow.h"

#define RANGES_MAX 65536

/* The first range that ends at or after @off. */
static unsigned space_find(const struct qcow_space *s, uint64_t off)
{
	unsigned lo = 0, hi = s->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (s->v[mid].off + s->v[mid].len < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool space_grow(struct qcow_space *s)
{
	unsigned room = s->room ? s->room * 2 : 64;
	struct qcow_range *v;

	if (s->n < s->room)
		return true;
	if (room > RANGES_MAX)
		return false;
	v = realloc(s->v, room * sizeof(*v));
	if (!v)
		return false;
	s->v = v;
	s->room = room;
	return true;
}

static void space_remove(struct qcow_space *s, unsigned i)
{
	s->n--;
	memmove(s->v + i, s->v + i + 1, (s->n - i) * sizeof(*s->v));
}

void qcow_space_add(struct qcow_space *s, uint64_t off, uint64_t len)
{
	unsigned i = space_find(s, off);
	struct qcow_range *r = s->v ? s->v + i : NULL;

	if (i < s->n && r->off + r->len == off) {
		r->len += len;
		if (i + 1 < s->n && r->off + r->len == r[1].off) {
			r->len += r[1].len;
			space_remove(s, i + 1);
		}
	} else if (i < s->n && off + len == r->off) {
		r->off = off;
		r->len += len;
	} else if (space_grow(s)) {
		memmove(s->v + i + 1, s->v + i, (s->n - i) * sizeof(*s->v));
		s->v[i] = (struct qcow_range){ off, len };
		s->n++;
	}
}

uint64_t qcow_space_take(struct qcow_space *s, struct meta *m, uint64_t len, uint64_t align,
			 uint64_t *off)
{
	for (unsigned i = 0; i < s->n; i++) {
		struct qcow_range r = s->v[i];
		uint64_t start = round_up(r.off, align), end = r.off + r.len, take;

		if (start >= end || end - start < align)
			continue;
		take = MIN(len, round_down(end - start, align));
		if (m && meta_punching(m, start, take))
			continue;
		s->v[i].len = start - r.off;
		if (!s->v[i].len)
			space_remove(s, i);
		if (start + take < end)
			qcow_space_add(s, start + take, end - start - take);
		*off = start;
		return take;
	}
	return 0;
}

void qcow_space_free(struct qcow_space *s)
{
	free(s->v);
	memset(s, 0, sizeof(*s));
}
