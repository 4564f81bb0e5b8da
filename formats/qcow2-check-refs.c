/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-check-refs.c - the refcount structures, and counts against references
 *
 * The table and the blocks come last in the walk: a block is believed only if nothing else claims
 * its cluster.  If one cannot be believed the structures are to be rebuilt as a whole.
 */
#include <stdlib.h>

#include "qcow2-check.h"

static int broken(struct check *c, uint32_t i, const char *what)
{
	check_say(c, 'E', "ERROR refcount table, entry %u: 0x%llx %s", i,
		  (unsigned long long)c->q.rt[i], what);
	c->rt_broken = true;
	c->q.rt[i] = 0;
	return 0;
}

static int claim_block(struct check *c, uint32_t i)
{
	struct q2 *q = &c->q;
	uint64_t off = q->rt[i], cl = off >> q->bits;
	int ret;

	if (off & QCOW2_RT_RESERVED)
		return broken(c, i, "has reserved bits set");
	if (!q2_table_ok(q, off, q->csize))
		return broken(c, i, "is not aligned to a cluster");
	if (off >= q->end)
		return broken(c, i, "lies past the end of the file");
	if (counts_get(&c->blocks, cl))
		return broken(c, i, "names a block that another entry names");
	if (counts_get(&c->refs, cl))
		return broken(c, i, "names a cluster that holds something else");
	ret = counts_add(&c->blocks, cl, 1, 1);
	return ret ? ret : counts_add(&c->refs, cl, 1, 1);
}

static int check_structures(struct check *c)
{
	struct q2 *q = &c->q;
	uint64_t bytes = (uint64_t)q->rt_size * 8;
	uint64_t first = q->rt_off >> q->bits, n = bytes >> q->bits;
	int ret;

	if (!bytes || !q2_table_there(q, q->rt_off, bytes)) {
		check_say(c, 'E', "ERROR refcount table of %llu bytes at 0x%llx: no place in the file",
			  (unsigned long long)bytes, (unsigned long long)q->rt_off);
		c->rt_broken = true;
		q->rt_size = 0;
		return 0;
	}
	if (counts_any(&c->refs, first, n)) {
		check_say(c, 'E', "ERROR refcount table at 0x%llx overlaps something else",
			  (unsigned long long)q->rt_off);
		c->rt_broken = true;
	}
	ret = counts_add(&c->meta, first, n, 1);
	if (!ret)
		ret = counts_add(&c->refs, first, n, 1);
	if (!ret)
		ret = q2_read_l1(q, q->rt_off, q->rt_size, &q->rt);
	for (uint32_t i = 0; i < q->rt_size && !ret; i++)
		if (q->rt[i])
			ret = claim_block(c, i);
	return ret;
}

/* ---------------------------------------------------------------- overlap */

static const char *area_name(struct check *c, uint64_t cl)
{
	uint64_t rt = c->q.rt_off >> c->q.bits;

	if (counts_get(&c->blocks, cl))
		return "refcount block";
	if (cl >= rt && cl - rt < c->q.rt_size * 8ULL >> c->q.bits)
		return "refcount table";
	for (unsigned i = 0; i < c->nareas; i++)
		if (cl >= c->areas[i].first && cl - c->areas[i].first < c->areas[i].n)
			return c->areas[i].what;
	return counts_get(&c->l2, cl) ? "L2 table" : NULL;
}

/* metadata clusters that have references of another kind as well */
static void check_overlap(struct check *c, struct counts *kind)
{
	for (uint64_t cl = 0; (cl = counts_next(kind, cl)) != COUNT_END; cl++) {
		uint64_t own = counts_get(kind, cl), all = counts_get(&c->refs, cl);

		if (all == own)
			continue;
		if (kind == &c->l2 && counts_get(&c->meta, cl))
			continue;	/* said when meta was looked at */
		check_say(c, 'E', "ERROR cluster at 0x%llx holds metadata (%s) and is used as something else too",
			  (unsigned long long)(cl << c->q.bits), area_name(c, cl));
		c->overlap = true;
	}
}

/* -------------------------------------------------------------- comparing */

enum pass { COMPARE, RAISE, LOWER };

struct compare {
	struct check *c;
	enum pass pass;
	uint64_t block;			/* next one to look at */
	uint64_t values_no;
	uint64_t values[COUNT_CHUNK];
};

static void mismatch(struct check *c, uint64_t cl, uint64_t have, uint64_t want)
{
	const char *what = area_name(c, cl);
	bool leak = have > want;

	if (leak)
		c->lower = true;
	else
		c->raise = true;
	check_say(c, leak ? 'L' : 'E', "%s cluster %llu refcount=%llu reference=%llu (%s%s0x%llx)",
		  leak ? "Leaked" : "ERROR", (unsigned long long)cl, (unsigned long long)have,
		  (unsigned long long)want, what ? what : "", what ? " at " : "at ",
		  (unsigned long long)(cl << c->q.bits));
}

/* clusters [from, to) lie in no refcount block: their counts are 0 */
static void uncounted(struct check *c, uint64_t from, uint64_t to)
{
	while ((from = counts_next(&c->refs, from)) < to) {
		mismatch(c, from, 0, counts_get(&c->refs, from));
		c->rt_broken = true;	/* a block is missing */
		from++;
	}
}

static bool compare_next(struct q2_stream *s, struct q2_item *item)
{
	struct compare *k = s->arg;
	struct q2 *q = &k->c->q;
	uint64_t gap = k->block;

	while (k->block < q->rt_size && !q->rt[k->block])
		k->block++;
	if (k->pass == COMPARE && gap < k->block)
		uncounted(k->c, gap << q->rb_bits, k->block << q->rb_bits);
	if (k->block >= q->rt_size)
		return false;
	item->off = q->rt[k->block];
	item->len = q->csize;
	item->tag = k->block++;
	return true;
}

/* the usual width against all ones or all zeroes: true if all @n counts are that */
static bool same16(const uint8_t *p, uint64_t n, unsigned value)
{
	uint64_t want, w, diff = 0;
	uint8_t one[8] = {0, value, 0, value, 0, value, 0, value};

	memcpy(&want, one, 8);
	for (uint64_t i = 0; i < n / 4; i++) {
		memcpy(&w, p + 8 * i, 8);
		diff |= w ^ want;
	}
	return !diff && !(n & 3);
}

static bool compare_part(struct compare *k, uint8_t *buf, uint64_t cl, uint64_t n)
{
	struct check *c = k->c;
	unsigned order = c->q.order;
	uint64_t base = cl & ((1ULL << c->q.rb_bits) - 1), max = q2_ref_max(order);
	const uint64_t *v;
	bool changed = false;

	for (unsigned value = 0; order == 4 && value < 2; value++)
		if (counts_all(&c->refs, cl, value) && same16(buf + 2 * base, n, value)) {
			if (value)
				c->last_used = MAX(c->last_used, cl + n);
			return false;
		}
	if (cl >> COUNT_CHUNK_BITS != k->values_no) {
		if (!counts_expand(&c->refs, cl, k->values))
			memset(k->values, 0, sizeof(k->values));
		k->values_no = cl >> COUNT_CHUNK_BITS;
	}
	v = k->values + (cl & (COUNT_CHUNK - 1));
	for (uint64_t i = 0; i < n; i++) {
		uint64_t have = qcow2_rc_get(buf, base + i, order), want = v[i];

		if (have | want)
			c->last_used = MAX(c->last_used, cl + i + 1);
		if (have == want)
			continue;
		if (k->pass == COMPARE) {
			mismatch(c, cl + i, have, want);
		} else if ((k->pass == RAISE) == (have < want) && want <= max) {
			qcow2_rc_set(buf, base + i, order, want);
			changed = true;
		}
	}
	return changed;
}

static int compare_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct compare *k = s->arg;
	struct q2 *q = &k->c->q;
	uint64_t cl = item->tag << q->rb_bits, end = (item->tag + 1) << q->rb_bits;
	bool changed = false;

	while (cl < end) {
		uint64_t n = MIN(end, ((cl >> COUNT_CHUNK_BITS) + 1) << COUNT_CHUNK_BITS) - cl;

		changed |= compare_part(k, buf, cl, n);
		cl += n;
	}
	return changed;
}

static int compare_run(struct check *c, enum pass pass)
{
	struct compare *k = calloc(1, sizeof(*k));
	struct q2_stream s = {.next = compare_next, .work = compare_work,
			      .arg = k};
	int ret;

	if (!k)
		return -ENOMEM;
	k->c = c;
	k->pass = pass;
	k->values_no = UINT64_MAX;
	ret = q2_stream_run(&c->q, &s);
	if (!ret && pass == COMPARE)
		uncounted(c, (uint64_t)c->q.rt_size << c->q.rb_bits, COUNT_END);
	free(k);
	return ret;
}

int check_set_counts(struct check *c, bool raise)
{
	return compare_run(c, raise ? RAISE : LOWER);
}

int check_refcounts(struct check *c)
{
	int ret = check_structures(c);

	if (ret)
		return ret;
	check_overlap(c, &c->meta);
	check_overlap(c, &c->l2);
	c->last_used = c->refs.end;
	return compare_run(c, COMPARE);
}
