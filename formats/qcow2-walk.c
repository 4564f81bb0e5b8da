/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-walk.c - L1 and L2 tables in bulk, for administrative operations
 *
 * A tree is walked in two steps.  First the L1 entries are counted for each L2 table they point to;
 * then every L2 table is read exactly once, in file order, and what it refers to counts as often as
 * the table does.  Thus tables shared by snapshots, and hostile L1 tables that name one L2 table a
 * million times, cost one read.
 *
 * The functions here take a sound image: whatever is not as it should be ends them with -EUCLEAN.
 * Finding out what is wrong is the business of qcow2-check.c.
 */
#include <stdlib.h>

#include "qcow2-adm.h"

void q2_coded_range(const struct q2 *q, uint64_t entry, uint64_t *off, uint64_t *len)
{
	unsigned x = 62 - (q->bits - 8);
	uint64_t sectors = entry >> x & ((1ULL << (q->bits - 8)) - 1);

	*off = entry & ((1ULL << x) - 1);
	*len = (sectors + 1) * 512 - (*off & 511);
}

int q2_read_l1(struct q2 *q, uint64_t off, uint64_t n, uint64_t **l1)
{
	uint64_t *t;
	int ret;

	*l1 = t = file_buf(MAX(n, 1u) * 8);
	if (!t)
		return err_errno(q->err, -ENOMEM, "%s: L1 table", q->img->name);
	if (!n)
		return 0;
	if (!q2_table_there(q, off, n * 8))
		return err_set(q->err, -EUCLEAN,
			       "%s: a table of %llu bytes at 0x%llx is not aligned, or not in the file",
			       q->img->name, (unsigned long long)n * 8, (unsigned long long)off);
	ret = q2_read(q, t, n * 8, off, "an L1 table");
	for (uint64_t i = 0; !ret && i < n; i++)
		t[i] = get_be64(&t[i]);
	return ret;
}

int q2_write_l1(struct q2 *q, uint64_t off, const uint64_t *l1, uint64_t n, uint64_t padded)
{
	uint8_t *t = file_buf(padded);
	int ret;

	if (!t)
		return err_errno(q->err, -ENOMEM, "%s: L1 table", q->img->name);
	memset(t, 0, padded);
	for (uint64_t i = 0; i < n; i++)
		put_be64(t + 8 * i, l1[i]);
	ret = q2_write(q, t, padded, off, "an L1 table");
	free(t);
	return ret;
}

static int tree_bad(struct q2 *q, const char *what, uint64_t value, uint64_t where)
{
	return err_set(q->err, -EUCLEAN, "%s: %s 0x%llx at 0x%llx is damaged: the image needs repair",
		       q->img->name, what, (unsigned long long)value, (unsigned long long)where);
}

int q2_count_l1(struct q2 *q, const uint64_t *l1, uint64_t n, struct counts *l2s)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t off = l1[i] & QCOW2_OFF_MASK;

		if (!l1[i])
			continue;
		if (l1[i] & QCOW2_L1_RESERVED || !q2_table_ok(q, off, q->csize) || off >= q->end)
			return err_set(q->err, -EUCLEAN,
				       "%s: L1 entry %llu is 0x%llx, which names no L2 table: the image needs repair",
				       q->img->name, (unsigned long long)i,
				       (unsigned long long)l1[i]);
		if (counts_add(l2s, off >> q->bits, 1, 1))
			return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	}
	return 0;
}

#define L2_PIECE MiB	/* tables that lie side by side are read at once, so much of them */

bool q2_l2_next(struct q2_l2_walk *w, struct q2_item *item)
{
	unsigned bits = w->q->bits;
	uint64_t c = counts_next(w->l2s, w->next), n = 1, max = MAX(w->q->csize, L2_PIECE);

	if (c == COUNT_END)
		return false;
	while ((n + 1) << bits <= max && counts_get(w->l2s, c + n))
		n++;
	item->off = c << bits;
	item->len = n << bits;
	item->tag = c;
	w->next = c + n;
	return true;
}

struct tree {
	struct q2_l2_walk walk;		/* first */
	struct counts *refs;
	struct counts *single;		/* q2_copied() */
	bool set, clear;
};

static bool tree_next(struct q2_stream *s, struct q2_item *item)
{
	return q2_l2_next(s->arg, item);
}

/* how many entries from the one at @p, of @max, continue it cluster by cluster */
static inline unsigned entry_run(const uint8_t *p, unsigned max, uint64_t e, uint64_t csize)
{
	unsigned n = 1;

	while (n < max && get_be64(p + 8 * n) == e + n * csize)
		n++;
	return n;
}

static int count_table(struct tree *t, const uint8_t *buf, uint64_t where, uint64_t weight)
{
	struct q2 *q = t->walk.q;
	unsigned n = 1u << q->l2_bits, step = q->ext_l2 ? 16 : 8, run;
	int ret = counts_add(t->refs, where >> q->bits, 1, weight);

	for (unsigned i = 0; i < n && !ret; i += run) {
		uint64_t e = get_be64(buf + i * step), off = e & QCOW2_OFF_MASK, len;

		run = 1;
		if (e & QCOW2_CODED) {
			q2_coded_range(q, e, &off, &len);
			if (off < q->csize || off >= q->end || q->data_file)
				return tree_bad(q, "compressed cluster", e, where + i * step);
			len = ((off + len - 1) >> q->bits) - (off >> q->bits) + 1;
			ret = counts_add(t->refs, off >> q->bits, len, weight);
		} else if (off && !q->data_file) {
			if (e & QCOW2_L2_RESERVED || !is_aligned(off, q->csize) || off >= q->end)
				return tree_bad(q, "L2 entry", e, where + i * step);
			if (!q->ext_l2)
				run = entry_run(buf + i * 8, n - i, e, q->csize);
			ret = counts_add(t->refs, off >> q->bits, run, weight);
		}
	}
	return ret ? err_errno(q->err, ret, "%s: counting references", q->img->name) : 0;
}

static int count_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct tree *t = s->arg;
	uint64_t csize = t->walk.q->csize;

	for (uint64_t at = 0; at < item->len; at += csize) {
		uint64_t weight = counts_get(t->walk.l2s, (item->off + at) / csize);
		int ret = count_table(t, buf + at, item->off + at, weight);

		if (ret)
			return ret;
	}
	return 0;
}

int q2_count_tree(struct q2 *q, struct counts *l2s, struct counts *refs)
{
	struct tree t = {.walk = {.q = q, .l2s = l2s}, .refs = refs};
	struct q2_stream s = {.next = tree_next, .work = count_work,
			      .arg = &t};

	return q2_stream_run(q, &s);
}

int q2_count_l1_tree(struct q2 *q, const uint64_t *l1, uint64_t n, struct counts *refs)
{
	struct counts l2s;
	int ret;

	counts_init(&l2s, Q2_COUNT_MEMORY);
	ret = q2_count_l1(q, l1, n, &l2s);
	if (!ret)
		ret = q2_count_tree(q, &l2s, refs);
	counts_free(&l2s);
	return ret;
}

/* ---------------------------------------------------------------- COPIED */

/* clears all of them: a loop the compiler makes wide */
static bool clear_all(uint8_t *buf, uint64_t len)
{
	uint64_t *v = (uint64_t *)buf, any = 0, mask, bit;

	put_be64(&bit, QCOW2_COPIED);
	mask = ~bit;
	for (uint64_t i = 0; i < len / 8; i++) {
		any |= v[i];
		v[i] &= mask;
	}
	return any & bit;
}

static inline bool copied_entry(const struct tree *t, uint8_t *p, unsigned bits)
{
	uint64_t e = get_be64(p), off = e & QCOW2_OFF_MASK, new = e;

	if (e & QCOW2_CODED || !off)
		new = e & ~QCOW2_COPIED;
	else if (t->single && counts_get(t->single, off >> bits) == 1)
		new = t->set ? e | QCOW2_COPIED : e;
	else if (t->clear)
		new = e & ~QCOW2_COPIED;
	if (new == e)
		return false;
	put_be64(p, new);
	return true;
}

static int copied_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct tree *t = s->arg;
	struct q2 *q = t->walk.q;
	unsigned step = q->ext_l2 ? 16 : 8;
	bool changed = false;

	if (t->clear && !t->single && !q->ext_l2)
		return clear_all(buf, item->len);
	for (uint64_t at = 0; at < item->len; at += step)
		changed |= copied_entry(t, buf + at, q->bits);
	return changed;
}

int q2_copied(struct q2 *q, uint64_t *l1, uint64_t n, struct counts *single, bool set, bool clear)
{
	struct counts l2s;
	struct tree t = {.walk = {.q = q, .l2s = &l2s}, .single = single, .set = set,
			 .clear = clear};
	struct q2_stream s = {.next = tree_next, .work = copied_work,
			      .arg = &t};
	int ret;

	if (q->data_file)	/* there COPIED has a meaning of its own, and nothing is shared */
		return 0;
	counts_init(&l2s, Q2_COUNT_MEMORY);
	ret = q2_count_l1(q, l1, n, &l2s);
	if (!ret)
		ret = q2_stream_run(q, &s);
	counts_free(&l2s);
	for (uint64_t i = 0; !ret && i < n; i++) {
		uint64_t off = l1[i] & QCOW2_OFF_MASK;

		if (off && single && counts_get(single, off >> q->bits) == 1)
			l1[i] |= set ? QCOW2_COPIED : 0;
		else if (clear)
			l1[i] &= ~QCOW2_COPIED;
	}
	return ret;
}
