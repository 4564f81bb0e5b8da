/* SPDX-License-Identifier: BSD-2-Clause */
/* oracle.c - which bytes a guest may read; see oracle.h */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "oracle.h"

#define VALUE_ZERO UINT64_MAX		/* what granule_value() says of zeroes ... */
#define VALUE_JUNK (UINT64_MAX - 1)	/* ... and of bytes that nobody wrote here */

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

static void gran_add(struct ogran *g, uint64_t id, uint64_t done, uint32_t flags)
{
	if (g->n == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 2;
		g->v = must(realloc(g->v, g->cap * sizeof(*g->v)));
	}
	g->v[g->n++] = (struct orec){ .id = id, .done = done, .flags = flags };
}

static void gran_reset(struct ogran *g, uint64_t id, uint64_t done, uint32_t flags)
{
	g->n = 0;
	gran_add(g, id, done, flags);
}

void oracle_init(struct oracle *o, uint64_t size, uint32_t gran)
{
	*o = (struct oracle){ .gran = gran, .seq = 1, .flushed = 1, .oldest = UINT64_MAX };
	oracle_resize(o, size);
}

void oracle_free(struct oracle *o)
{
	uint64_t i;

	for (i = 0; i < o->cap; i++)
		free(o->g[i].v);
	free(o->g);
	*o = (struct oracle){ 0 };
}

void oracle_copy(struct oracle *dst, const struct oracle *src)
{
	uint64_t i;

	*dst = *src;
	dst->cap = src->n;
	dst->g = must(calloc(MAX(src->n, 1ULL), sizeof(*dst->g)));
	for (i = 0; i < src->n; i++) {
		const struct ogran *s = &src->g[i];

		dst->g[i] = (struct ogran){ .n = s->n, .cap = s->n };
		dst->g[i].v = must(malloc(s->n * sizeof(*s->v)));
		memcpy(dst->g[i].v, s->v, s->n * sizeof(*s->v));
	}
}

void oracle_resize(struct oracle *o, uint64_t size)
{
	uint64_t n = div_up(size, o->gran), i;

	if (n > o->cap) {
		o->g = must(realloc(o->g, n * sizeof(*o->g)));
		memset(o->g + o->cap, 0, (n - o->cap) * sizeof(*o->g));
		o->cap = n;
	}
	for (i = o->n; i < n; i++)
		gran_reset(&o->g[i], 0, 0, OREC_ZERO | OREC_DURABLE);
	o->n = n;
	o->size = size;
}

uint64_t oracle_now(struct oracle *o)
{
	return ++o->seq;
}

static bool rec_durable(const struct oracle *o, const struct orec *r)
{
	return r->done != OREC_OPEN && (r->flags & OREC_DURABLE || r->done < o->flushed);
}

/* Is @v gone for good, for readers under way and for a crash? */
static bool rec_buried(const struct oracle *o, const struct ogran *g, const struct orec *v)
{
	uint32_t i;

	for (i = 0; i < g->n; i++) {
		const struct orec *w = &g->v[i];

		if (!(w->flags & OREC_WEAK) && v->done < w->id && rec_durable(o, w) &&
		    w->done < o->oldest)
			return true;
	}
	return false;
}

static void gran_trim(const struct oracle *o, struct ogran *g)
{
	uint32_t i;

	for (i = 0; i < g->n;) {
		if (rec_buried(o, g, &g->v[i]))
			g->v[i] = g->v[--g->n];
		else
			i++;
	}
}

void oracle_begin(struct oracle *o, uint64_t id, uint64_t off, uint64_t len, uint32_t flags)
{
	uint64_t i;

	for (i = off / o->gran; i < div_up(off + len, o->gran); i++) {
		if (o->g[i].n >= 4)
			gran_trim(o, &o->g[i]);
		gran_add(&o->g[i], id, OREC_OPEN, flags);
	}
}

static struct orec *gran_find(struct ogran *g, uint64_t id)
{
	uint32_t i;

	for (i = g->n; i-- > 0;)
		if (g->v[i].id == id)
			return &g->v[i];
	return NULL;
}

void oracle_end(struct oracle *o, uint64_t id, uint64_t off, uint64_t len, uint32_t add)
{
	uint64_t now = oracle_now(o), i;

	for (i = off / o->gran; i < div_up(off + len, o->gran); i++) {
		struct orec *r = gran_find(&o->g[i], id);

		r->done = now;
		r->flags |= add;
	}
}

void oracle_undo(struct oracle *o, uint64_t id, uint64_t off, uint64_t len)
{
	uint64_t i;

	for (i = off / o->gran; i < div_up(off + len, o->gran); i++) {
		struct orec *r = gran_find(&o->g[i], id);

		*r = o->g[i].v[--o->g[i].n];
	}
}

void oracle_flushed(struct oracle *o, uint64_t id)
{
	if (id > o->flushed)
		o->flushed = id;
}

void oracle_crash(struct oracle *o)
{
	uint64_t now = oracle_now(o), i;
	uint32_t k;

	for (i = 0; i < o->n; i++)
		for (k = 0; k < o->g[i].n; k++)
			if (o->g[i].v[k].done == OREC_OPEN) {
				o->g[i].v[k].done = now;
				o->g[i].v[k].flags |= OREC_WEAK;
			}
}

/* ------------------------------------------------------------------------ bytes */

static uint64_t filler(uint64_t id, uint64_t granule)
{
	uint64_t z = (id * 0x9e3779b97f4a7c15ULL) ^ (granule * 0xd6e8feb86659fd93ULL);

	z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93ULL;
	return z ^ (z >> 32);
}

void oracle_fill(const struct oracle *o, void *buf, uint64_t id, uint64_t off, uint64_t len)
{
	uint64_t *w = buf, words = o->gran / 8, i, k;

	for (i = 0; i < len / o->gran; i++, w += words) {
		uint64_t granule = off / o->gran + i, f = filler(id, granule);

		w[0] = id;
		w[1] = granule;
		for (k = 2; k < words; k++)
			w[k] = f;
	}
}

static uint64_t granule_value(const struct oracle *o, const uint64_t *w, uint64_t granule)
{
	uint64_t k, words = o->gran / 8, f = w[0] ? filler(w[0], granule) : 0;

	for (k = 2; k < words; k++)
		if (w[k] != f)
			return VALUE_JUNK;
	if (!w[0])
		return w[1] ? VALUE_JUNK : VALUE_ZERO;
	return w[1] == granule ? w[0] : VALUE_JUNK;
}

static bool rec_gone(const struct oracle *o, const struct ogran *g, const struct orec *v,
		     enum oracle_when when, uint64_t began)
{
	uint32_t i;

	for (i = 0; i < g->n; i++) {
		const struct orec *w = &g->v[i];

		if (w->flags & OREC_WEAK || v->done >= w->id)
			continue;
		if (when == ORACLE_LIVE ? w->done < began : rec_durable(o, w))
			return true;
	}
	return false;
}

static bool gran_allows(const struct oracle *o, const struct ogran *g, uint64_t value,
			enum oracle_when when, uint64_t began)
{
	uint32_t i;

	for (i = 0; i < g->n; i++) {
		uint64_t v = g->v[i].flags & OREC_ZERO ? VALUE_ZERO : g->v[i].id;

		if (v == value && !rec_gone(o, g, &g->v[i], when, began))
			return true;
	}
	return false;
}

static void value_text(char *buf, size_t size, const uint64_t *w, uint64_t value)
{
	if (value == VALUE_ZERO)
		snprintf(buf, size, "zeroes");
	else if (value == VALUE_JUNK)
		snprintf(buf, size, "junk (%016llx %016llx %016llx)", (unsigned long long)w[0],
			 (unsigned long long)w[1], (unsigned long long)w[2]);
	else
		snprintf(buf, size, "write %llu", (unsigned long long)value);
}

static void explain(struct oracle *o, uint64_t granule, const uint64_t *w, uint64_t value,
		    enum oracle_when when, uint64_t began)
{
	const struct ogran *g = &o->g[granule];
	char text[100];
	size_t n;
	uint32_t i;

	if (o->why[0])
		return;
	value_text(text, sizeof(text), w, value);
	n = snprintf(o->why, sizeof(o->why), "guest 0x%llx reads %s (%s read at %llu, flushed %llu); known:",
		     (unsigned long long)granule * o->gran, text,
		     when == ORACLE_CRASH ? "crash" : "live",
		     (unsigned long long)began, (unsigned long long)o->flushed);
	for (i = 0; i < g->n && n + 80 < sizeof(o->why); i++)
		n += snprintf(o->why + n, sizeof(o->why) - n, " %llu%s..%lld%s%s%s",
			      (unsigned long long)g->v[i].id, g->v[i].flags & OREC_ZERO ? "=0" : "",
			      (long long)g->v[i].done, g->v[i].flags & OREC_WEAK ? " weak" : "",
			      g->v[i].flags & OREC_DURABLE ? " durable" : "",
			      rec_gone(o, g, &g->v[i], when, began) ? " gone" : "");
}

bool oracle_check(struct oracle *o, const void *buf, uint64_t off, uint64_t len,
		  enum oracle_when when, uint64_t began)
{
	const uint8_t *p = buf;
	uint64_t o1;

	for (o1 = off; o1 < off + len; o1 += o->gran, p += o->gran) {
		const uint64_t *w = (const uint64_t *)p;
		uint64_t granule = o1 / o->gran, value = granule_value(o, w, granule);

		if (!gran_allows(o, &o->g[granule], value, when, began)) {
			explain(o, granule, w, value, when, began);
			return false;
		}
	}
	return true;
}

void oracle_collapse(struct oracle *o, const void *buf, uint64_t off, uint64_t len)
{
	const uint8_t *p = buf;
	uint64_t o1;

	for (o1 = off; o1 < off + len; o1 += o->gran, p += o->gran) {
		uint64_t granule = o1 / o->gran;
		uint64_t value = granule_value(o, (const uint64_t *)p, granule);

		value = value == VALUE_ZERO ? 0 : value;
		gran_reset(&o->g[granule], value, value,
			   OREC_DURABLE | (value ? 0 : OREC_ZERO));
	}
}
