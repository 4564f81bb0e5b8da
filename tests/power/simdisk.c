/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * simdisk.c - the simulated disk; the rules are in simdisk.h
 *
 * A file is two flat, sparse mappings of memory: what reads see, and what is durable. Between them
 * stands a log of events (writes, changes of size) in the order in which they took effect, each
 * with the moment of its completion. A flush moves events to the durable side; a cut decides the
 * fate of those that are left.
 *
 * Left out: bad sectors that stay bad, and reordering of directory operations.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "endian.h"
#include "simdisk-impl.h"

/* ------------------------------------------------------------------ randomness */

uint64_t rng_next(struct rng *r)
{
	uint64_t z = (r->s += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi)
{
	return lo + rng_below(r, hi - lo + 1);
}

bool rng_pct(struct rng *r, unsigned pct)
{
	return rng_below(r, 100) < pct;
}

/* ----------------------------------------------------------------------- nodes */

struct sim_node *node_find(const struct sim *s, const char *name)
{
	struct list *l;

	list_for_each(l, &s->nodes) {
		struct sim_node *n = list_entry(l, struct sim_node, node);

		if (!strcmp(n->name, name))
			return n;
	}
	return NULL;
}

static void *span_new(void)
{
	void *p = mmap(NULL, SPAN, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

struct sim_node *node_new(struct sim *s, const char *name)
{
	struct sim_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->sim = s;
	n->name = strdup(name);
	n->vol = span_new();
	n->dur = span_new();
	n->stale = s->cfg.stale;
	list_init(&n->log);
	if (!n->name || !n->vol || !n->dur) {
		fprintf(stderr, "simdisk: no memory\n");
		abort();
	}
	list_append(&s->nodes, &n->node);
	return n;
}

void ev_free(struct sim_ev *ev)
{
	free(ev->data);
	free(ev);
}

static void log_clear(struct sim_node *n)
{
	struct list *l;

	while ((l = list_pop(&n->log)))
		ev_free(list_entry(l, struct sim_ev, node));
}

void node_free(struct sim_node *n)
{
	assert(!n->opens);
	list_del(&n->node);
	log_clear(n);
	munmap(n->vol, SPAN);
	munmap(n->dur, SPAN);
	free(n->touched);
	free(n->name);
	free(n);
}

/* Garbage that depends only on the seed, the file and the place. */
static void garbage(struct sim_node *n, uint64_t page)
{
	struct rng r = { n->sim->cfg.seed ^ (page * 0x51ed2701) ^ (uint8_t)n->name[0] };
	uint64_t *v = (uint64_t *)(n->vol + page * PAGE);
	unsigned i, kind = rng_below(&r, 4);

	for (i = 0; i < PAGE / 8; i++)
		v[i] = kind == 0 ? UINT64_MAX : rng_next(&r);
	if (kind == 1)	/* looks like a table: big-endian multiples of 512, some of them small */
		for (i = 0; i < PAGE / 8; i++)
			v[i] = ENDIAN_BE64((v[i] & 0x1fffe00ULL) | (v[i] & 1ULL << 63));
	memcpy(n->dur + page * PAGE, v, PAGE);
}

bool page_touched(const struct sim_node *n, uint64_t page)
{
	return page < n->touched_pages && n->touched[page / 64] >> (page % 64) & 1;
}

void node_touch(struct sim_node *n, uint64_t off, uint64_t len)
{
	uint64_t first = off / PAGE, last = (off + len - 1) / PAGE, p;

	if (!len)
		return;
	if (off + len > n->hi)
		n->hi = off + len;
	if (last >= n->touched_pages) {
		uint64_t pages = round_up(MAX(last + 1, 2 * n->touched_pages), 64);
		uint64_t *v = realloc(n->touched, pages / 8);

		if (!v)
			abort();
		memset((uint8_t *)v + n->touched_pages / 8, 0, (pages - n->touched_pages) / 8);
		n->touched = v;
		n->touched_pages = pages;
	}
	for (p = first; p <= last; p++) {
		if (page_touched(n, p))
			continue;
		n->touched[p / 64] |= 1ULL << (p % 64);
		if (n->stale)
			garbage(n, p);
	}
}

static void span_copy(uint8_t *span, uint64_t off, const uint8_t *data, uint64_t len)
{
	if (data)
		memcpy(span + off, data, len);
	else
		memset(span + off, 0, len);
}

/* What lies beyond a new, smaller end reads as zeroes when the file grows again, or stays (stale). */
static void span_cut(struct sim_node *n, uint8_t *span, uint64_t size)
{
	if (!n->stale && n->hi > size)
		memset(span + size, 0, n->hi - size);
}

/* ---------------------------------------------------------------------- events */

static void ev_persist(struct sim_node *n, struct sim_ev *ev)
{
	if (ev->size != NO_SIZE) {
		if (ev->trunc && ev->size < n->dsize)
			span_cut(n, n->dur, ev->size);
		if (ev->trunc || ev->size > n->dsize)
			n->dsize = ev->size;
	}
	if (!ev->trunc && ev->off < n->dsize)
		span_copy(n->dur, ev->off, ev->data, MIN(ev->len, n->dsize - ev->off));
}

/* Flushed bytes are inside the file, even if the transfer that made it so long is still in flight. */
static void ev_flush(struct sim_node *n, struct sim_ev *ev)
{
	if (!ev->trunc && ev->off + ev->len > n->dsize)
		n->dsize = ev->off + ev->len;
	ev_persist(n, ev);
}

static bool ev_overlap(const struct sim_ev *a, const struct sim_ev *b)
{
	return a->trunc || b->trunc || (a->off < b->off + b->len && b->off < a->off + a->len);
}

/*
 * Makes an event durable.  Earlier ones that it overlaps are taken along, and those that they overlap
 * in turn, so that order is kept.
 */
static void ev_settle(struct sim_node *n, struct sim_ev *ev)
{
	struct list *l = n->log.next;

	while (l != &ev->node) {
		struct sim_ev *below = list_entry(l, struct sim_ev, node);

		l = l->next;
		if (ev_overlap(below, ev)) {
			ev_settle(n, below);
			l = n->log.next;	/* neighbours may be gone: from the front again */
		}
	}
	ev_flush(n, ev);
	list_del(&ev->node);		/* reads as empty: see op_finish, which frees it then */
	if (ev->done)
		ev_free(ev);
}

/* Rule 1 */
void node_flush(struct sim_node *n, uint64_t seq)
{
	struct list *l = n->log.next;

	while (l != &n->log) {
		struct sim_ev *ev = list_entry(l, struct sim_ev, node);

		l = l->next;
		if (ev->done && ev->done <= seq) {
			ev_settle(n, ev);
			l = n->log.next;
		}
	}
}

/* Changes what reads see, and logs it. */
struct sim_ev *node_effect(struct sim_node *n, uint64_t off, uint64_t len, uint8_t *data,
				  uint64_t size, bool trunc)
{
	struct sim_ev *ev = calloc(1, sizeof(*ev));

	if (!ev)
		abort();
	*ev = (struct sim_ev){ .off = off, .len = len, .data = data, .size = NO_SIZE,
			       .trunc = trunc };
	if (trunc) {
		if (size < n->vsize)
			span_cut(n, n->vol, size);
		ev->size = n->vsize = size;
	} else {
		node_touch(n, off, len);
		if (off + len > n->vsize)
			ev->size = n->vsize = off + len;
		span_copy(n->vol, off, data, len);
	}
	list_append(&n->log, &ev->node);
	return ev;
}

/* ------------------------------------------------------------------------- cut */

struct fate {
	unsigned keep, tear;	/* of a hundred events: kept whole; torn */
};

static void ev_tear(struct sim *s, struct sim_node *n, struct sim_ev *ev)
{
	uint64_t o = ev->off, end = MIN(ev->off + ev->len, n->dsize);
	unsigned pct = rng_below(&s->rng, 101);

	while (o < end) {
		uint64_t next = MIN(round_down(o, s->cfg.sector) + s->cfg.sector, end);

		if (rng_pct(&s->rng, pct))
			span_copy(n->dur, o, ev->data ? ev->data + (o - ev->off) : NULL, next - o);
		o = next;
	}
}

static void ev_decide(struct sim *s, struct sim_node *n, struct sim_ev *ev, const struct fate *f,
		      bool size_kept)
{
	uint64_t roll = rng_below(&s->rng, 100);

	if (!size_kept)
		ev->size = NO_SIZE;
	if (ev->trunc) {
		if (size_kept)
			ev_persist(n, ev);
	} else if (roll < f->keep) {
		s->stats.kept++;
		ev_persist(n, ev);
	} else {
		if (ev->size != NO_SIZE && ev->size > n->dsize)
			n->dsize = ev->size;
		if (roll < f->keep + f->tear) {
			s->stats.torn++;
			ev_tear(s, n, ev);
		} else {
			s->stats.lost++;
		}
	}
}

static void node_cut(struct sim *s, struct sim_node *n, const struct fate *f)
{
	struct list *l;
	unsigned nev = 0, sizes, i = 0;

	list_for_each(l, &n->log)
		nev++;
	/* rule 3; often all or none */
	sizes = rng_pct(&s->rng, 40) ? nev : rng_pct(&s->rng, 20) ? 0 : rng_below(&s->rng, nev + 1);
	list_for_each(l, &n->log)
		ev_decide(s, n, list_entry(l, struct sim_ev, node), f, i++ < sizes);
}

static void ops_effect(struct sim *s, struct list *ops)
{
	struct list *l;

	list_for_each(l, ops) {
		struct sim_op *op = list_entry(l, struct sim_op, node);

		if (!op->effected && op->io->op != IO_READ && op->io->op != IO_FLUSH)
			op_effect(s, op);
	}
}

void sim_cut(struct sim *s)
{
	static const struct fate fates[] = { { 0, 0 }, { 100, 0 }, { 50, 25 }, { 10, 20 },
					     { 85, 10 }, { 33, 33 }, { 0, 100 }, { 50, 0 } };
	const struct fate *f = &fates[rng_below(&s->rng, ARRAY_SIZE(fates))];
	struct list *l;

	if (s->dead)
		return;
	s->cut_at = 0;
	/* what the disk had received may have had its effect */
	ops_effect(s, &s->ops);
	ops_effect(s, &s->due);
	list_for_each(l, &s->nodes)
		node_cut(s, list_entry(l, struct sim_node, node), f);
	s->dead = true;
	s->stats.cuts++;
}

void sim_step(struct sim *s)
{
	s->steps++;
	if (s->cut_at && s->steps >= s->cut_at && !s->dead)
		sim_cut(s);
}

void sim_plan_cut(struct sim *s, uint64_t n)
{
	s->cut_at = n ? s->steps + n : 0;
}

static void node_power_on(struct sim_node *n)
{
	struct list *l;
	uint64_t end = n->hi;

	list_for_each(l, &n->log) {
		struct sim_ev *ev = list_entry(l, struct sim_ev, node);

		if (!ev->trunc)
			memcpy(n->vol + ev->off, n->dur + ev->off, ev->len);
		if (ev->size != NO_SIZE || ev->trunc)	/* what was cut away may be back */
			memcpy(n->vol + MIN(ev->off, end), n->dur + MIN(ev->off, end),
			       end - MIN(ev->off, end));
	}
	log_clear(n);
	span_cut(n, n->vol, n->dsize);
	span_cut(n, n->dur, n->dsize);
	n->vsize = n->dsize;
}

void sim_power_on(struct sim *s)
{
	struct list *l;

	assert(!s->busy && !s->loop);
	if (!s->dead)
		sim_cut(s);
	list_for_each(l, &s->nodes)
		node_power_on(list_entry(l, struct sim_node, node));
	s->dead = false;
	s->cut_at = 0;
}

/* ------------------------------------------------------------------- the world */

void sim_configure(struct sim *s, const struct sim_cfg *cfg)
{
	uint64_t seed = s->cfg.seed;

	s->cfg = *cfg;
	s->cfg.seed = seed;
}

struct sim *sim_new(const struct sim_cfg *cfg)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->cfg = *cfg;
	s->rng.s = cfg->seed ^ 0x73696d6469736bULL;
	list_init(&s->nodes);
	list_init(&s->ops);
	list_init(&s->due);
	list_init(&s->tick.node);
	s->tick.fn = sim_tick;
	list_init(&s->prov.node);
	s->prov.scheme = "sim:";
	s->prov.open = sim_prov_open;
	s->prov.remove = sim_prov_remove;
	s->prov.rename = sim_prov_rename;
	s->seq = 1;
	s->fake.now = 1000000000;
	return s;
}

void sim_free(struct sim *s)
{
	if (!s)
		return;
	assert(!s->busy);
	while (!list_empty(&s->nodes))
		node_free(list_first(&s->nodes, struct sim_node, node));
	free(s);
}

void sim_attach(struct sim *s, struct tapimg_loop *loop)
{
	s->loop = loop;
	loop->fake = &s->fake;
	loop_add_provider(loop, &s->prov);
}

void sim_detach(struct sim *s)
{
	assert(!s->busy);
	list_del(&s->tick.node);
	list_del(&s->prov.node);
	s->loop->fake = NULL;
	s->loop = NULL;
}

int sim_make(struct sim *s, const char *name, uint64_t size, bool block_dev)
{
	struct sim_node *n;

	if (node_find(s, name))
		return -EEXIST;
	n = node_new(s, name);
	n->block_dev = block_dev;
	if (block_dev)
		n->stale = true;
	n->vsize = n->dsize = size;
	return 0;
}

int sim_put(struct sim *s, const char *name, const void *data, uint64_t len)
{
	struct sim_node *n = node_find(s, name);

	if (n)
		node_free(n);
	if (len > SPAN)
		return -EFBIG;
	n = node_new(s, name);
	n->vsize = n->dsize = len;
	node_touch(n, 0, len);
	memcpy(n->vol, data, len);
	memcpy(n->dur, data, len);
	return 0;
}

int sim_delete(struct sim *s, const char *name)
{
	struct sim_node *n = node_find(s, name);

	if (!n)
		return -ENOENT;
	if (n->opens)
		return -EBUSY;
	node_free(n);
	return 0;
}

bool sim_exists(const struct sim *s, const char *name)
{
	return node_find(s, name);
}

uint64_t sim_size(const struct sim *s, const char *name)
{
	const struct sim_node *n = node_find(s, name);

	return n ? n->vsize : 0;
}

int sim_get(struct sim *s, const char *name, void *buf, uint64_t len, uint64_t off)
{
	struct sim_node *n = node_find(s, name);

	if (!n || !checked_range(off, len, n->vsize))
		return -EINVAL;
	node_touch(n, off, len);
	memcpy(buf, n->vol + off, len);
	return 0;
}

int sim_dump(struct sim *s, const char *name, const char *path)
{
	struct sim_node *n = node_find(s, name);
	FILE *f = n ? fopen(path, "wb") : NULL;
	uint64_t o;
	int ret = 0;

	if (!f)
		return -ENOENT;
	if (n->stale)
		node_touch(n, 0, n->vsize);
	for (o = 0; o < n->vsize && !ret; o += PAGE) {
		uint64_t part = MIN(PAGE, n->vsize - o);

		if (page_touched(n, o / PAGE) &&
		    (fseeko(f, o, SEEK_SET) || fwrite(n->vol + o, part, 1, f) != 1))
			ret = -EIO;
	}
	if (fflush(f) || ftruncate(fileno(f), n->vsize))
		ret = -EIO;
	return fclose(f) || ret ? -EIO : 0;
}

unsigned sim_nfiles(const struct sim *s)
{
	struct list *l;
	unsigned n = 0;

	list_for_each(l, &s->nodes)
		n++;
	return n;
}

void sim_names(const struct sim *s, void (*fn)(void *arg, const char *name), void *arg)
{
	struct list *l;

	list_for_each(l, &s->nodes)
		fn(arg, list_entry(l, struct sim_node, node)->name);
}

uint64_t sim_hash(struct sim *s)
{
	uint64_t h = 0xcbf29ce484222325ULL;
	struct list *l;

	list_for_each(l, &s->nodes) {
		struct sim_node *n = list_entry(l, struct sim_node, node);
		uint64_t i, end = MIN(n->vsize, n->hi);
		const char *c;

		for (c = n->name; *c; c++)
			h = (h ^ (uint8_t)*c) * 0x100000001b3ULL;
		for (i = 0; i < end; i += 8)	/* beyond the end there are zeroes */
			h = (h ^ *(uint64_t *)(n->vol + i)) * 0x9e3779b97f4a7c15ULL;
		h ^= n->vsize;
	}
	return h;
}

bool sim_dead(const struct sim *s)
{
	return s->dead;
}

uint64_t sim_steps(const struct sim *s)
{
	return s->steps;
}

void sim_set_fault(struct sim *s, const struct sim_fault *f)
{
	s->fault = f ? *f : (struct sim_fault){ 0 };
}

const struct sim_fault *sim_get_fault(const struct sim *s)
{
	return &s->fault;
}

const struct sim_stats *sim_get_stats(const struct sim *s)
{
	return &s->stats;
}

uint64_t sim_jumps(const struct sim *s)
{
	return s->fake.jumps;
}

unsigned sim_busy(const struct sim *s)
{
	return s->busy;
}

const char *sim_breach(const struct sim *s)
{
	return s->breach[0] ? s->breach : NULL;
}
