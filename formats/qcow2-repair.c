/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-repair.c - mending what qcow2-check.c found
 *
 * The order keeps every state in between no worse than the one before:
 *	1. counts that are too low go up (A1); or, where the refcount structures themselves are
 *	   damaged, new ones are built at the end of the file and the header switched to them (A3);
 *	2. counts that are too high go down: nothing refers to those clusters;
 *	3. entries of L1 and L2 tables are mended, each right before and after;
 *	4. the snapshot table is written anew where its extra data was too long or too short.
 * Nothing is lowered, and no COPIED set, while a part of the image could not be followed.
 *
 * What happens to an L2 entry that cannot be right:
 *	reserved bits set			cleared; the data stays
 *	offset not aligned			the cluster's bytes are copied to a new one
 *	place that holds a table		the same: a later write must not reach the table
 *	place past the end of the file		there is no data: becomes a zero cluster
 *	allocated and zero subclusters at once	allocated wins: the data stays
 * Each is reported, with the guest offset where it is known.
 */
#include <stdio.h>
#include <stdlib.h>

#include "qcow2-check.h"

/* -------------------------------------------------------- rebuilding counts */

struct rebuild {
	struct q2 *q;
	struct counts *refs;
	unsigned order, rb_bits;
	uint64_t *blocks;		/* numbers of the blocks that are wanted, ascending */
	uint64_t n, cap;
	uint64_t start, table;		/* clusters: where the blocks begin; length of the table */
	uint64_t values[COUNT_CHUNK];
	uint64_t values_no;
};

static int want_block(struct rebuild *r, uint64_t b)
{
	if (r->n && r->blocks[r->n - 1] >= b)
		return 0;
	if (r->n == r->cap) {
		uint64_t cap = r->cap ? r->cap * 2 : 64;
		uint64_t *t = realloc(r->blocks, cap * sizeof(*t));

		if (!t)
			return -ENOMEM;
		r->blocks = t;
		r->cap = cap;
	}
	if (b >= QCOW2_MAX_RT / 8)
		return -EFBIG;
	r->blocks[r->n++] = b;
	return 0;
}

/* behind all that is used, and behind the structures that are replaced */
static uint64_t rebuild_start(struct rebuild *r)
{
	struct q2 *q = r->q;
	uint64_t start = r->refs->end, table = q->rt_size * 8ULL;

	/* where they claim to be is believed only inside the file */
	if (checked_range(q->rt_off, table, round_up(q->end, q->csize)))
		start = MAX(start, (q->rt_off + table) >> q->bits);
	for (uint64_t i = 0; q->rt && i < q->rt_size; i++)
		if (q->rt[i] < q->end)
			start = MAX(start, (q->rt[i] >> q->bits) + 1);
	return q->f->block_dev ? start : MAX(start, div_up(q->end, q->csize));
}

static int rebuild_plan(struct rebuild *r)
{
	struct q2 *q = r->q;
	uint64_t c = 0, total = 0, base_n, last;
	int ret = 0;

	while (!ret && (c = counts_next(r->refs, c)) != COUNT_END) {
		ret = want_block(r, c >> r->rb_bits);
		c = ((c >> r->rb_bits) + 1) << r->rb_bits;
	}
	r->start = rebuild_start(r);
	base_n = r->n;
	while (!ret) {
		r->n = base_n;
		last = (r->start + total) >> r->rb_bits;
		for (uint64_t b = r->start >> r->rb_bits; !ret && b <= last; b++)
			ret = want_block(r, b);
		r->table = div_up((last + 1) * 8, q->csize);
		if (r->n + r->table <= total)
			break;
		total = r->n + r->table;
	}
	if (ret)
		return err_errno(q->err, ret, "%s: new refcount table", q->img->name);
	if (q->f->block_dev && (r->start + total) << q->bits > q->f->size)
		return err_errno(q->err, -ENOSPC, "%s: new refcount table", q->img->name);
	ret = counts_add(r->refs, r->start, r->n + r->table, 1);
	return ret ? err_errno(q->err, ret, "%s: new refcount table", q->img->name) : 0;
}

static int rebuild_block(struct rebuild *r, uint64_t b, uint8_t *buf)
{
	struct q2 *q = r->q;
	uint64_t max = q2_ref_max(r->order);

	memset(buf, 0, q->csize);
	for (uint64_t i = 0; i < 1ULL << r->rb_bits; i++) {
		uint64_t c = (b << r->rb_bits) + i, no = c >> COUNT_CHUNK_BITS, v;

		if (no != r->values_no) {
			if (!counts_expand(r->refs, c, r->values))
				memset(r->values, 0, sizeof(r->values));
			r->values_no = no;
		}
		v = r->values[c & (COUNT_CHUNK - 1)];
		if (v > max && r->order == q->order)
			v = max;	/* repair goes as far as the width allows */
		if (v > max)
			return err_set(q->err, -E2BIG,
				       "%s: cluster at 0x%llx has %llu references, which %u bits cannot hold",
				       q->img->name, (unsigned long long)(c << q->bits),
				       (unsigned long long)v, 1u << r->order);
		if (v)
			qcow2_rc_set(buf, i, r->order, v);
	}
	return 0;
}

static int rebuild_write(struct rebuild *r, uint8_t *buf)
{
	struct q2 *q = r->q;
	uint64_t per = q->csize / 8, k = 0;
	int ret = 0;

	for (uint64_t i = 0; i < r->n && !ret; i++) {
		ret = rebuild_block(r, r->blocks[i], buf);
		if (!ret)
			ret = q2_write(q, buf, q->csize, (r->start + i) << q->bits,
				       "a refcount block");
	}
	for (uint64_t t = 0; t < r->table && !ret; t++) {
		memset(buf, 0, q->csize);
		for (; k < r->n && r->blocks[k] < (t + 1) * per; k++)
			put_be64(buf + 8 * (r->blocks[k] - t * per), (r->start + k) << q->bits);
		ret = q2_write(q, buf, q->csize, (r->start + r->n + t) << q->bits,
			       "the refcount table");
	}
	return ret;
}

int q2_rebuild(struct q2 *q, struct counts *refs, unsigned order)
{
	struct rebuild *r = calloc(1, sizeof(*r));
	uint8_t *buf = file_buf(q->csize);
	int ret = r && buf ? 0 : err_errno(q->err, -ENOMEM, "%s: new refcount table", q->img->name);

	if (!ret) {
		*r = (struct rebuild){.q = q, .refs = refs, .order = order,
				      .rb_bits = q->bits + 3 - order, .values_no = UINT64_MAX};
		ret = rebuild_plan(r);
	}
	if (!ret)
		ret = rebuild_write(r, buf);
	if (!ret) {
		put_be64(q->head + QH_RT_OFF, (r->start + r->n) << q->bits);
		put_be32(q->head + QH_RT_CLUSTERS, r->table);
		if (q->version >= 3)
			put_be32(q->head + QH_REFCOUNT_ORDER, order);
		ret = q2_switch(q, QH_RT_OFF, QH_HEADER_LEN - QH_RT_OFF);
	}
	if (!ret)
		ret = q2_parse(q);
	if (!ret)
		ret = q2_load_rt(q);
	if (r)
		free(r->blocks);
	free(r);
	free(buf);
	return ret;
}

/* the counts of blocks that can still be read, where they are above the references found */
static int keep_counts(struct check *c)
{
	struct q2 *q = &c->q;
	uint8_t *buf = file_buf(q->csize);
	int ret = buf ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < q->rt_size && !ret; b++) {
		if (!q->rt[b])
			continue;
		ret = q2_read(q, buf, q->csize, q->rt[b], "a refcount block");
		for (uint64_t i = 0; i < 1ULL << q->rb_bits && !ret; i++) {
			uint64_t cl = (b << q->rb_bits) + i;
			uint64_t v = qcow2_rc_get(buf, i, q->order);

			if (v > counts_get(&c->refs, cl))
				ret = counts_set(&c->refs, cl, v);
		}
	}
	free(buf);
	return ret;
}

static int uncount(struct check *c, uint64_t cl)
{
	uint64_t v = counts_get(&c->refs, cl);

	return v ? counts_set(&c->refs, cl, v - 1) : 0;
}

static int rebuild_counts(struct check *c)
{
	struct q2 *q = &c->q;
	uint64_t first = q->rt_off >> q->bits;
	int ret = c->incomplete ? keep_counts(c) : 0;

	for (uint64_t b = 0; !ret && (b = counts_next(&c->blocks, b)) != COUNT_END; b++)
		ret = uncount(c, b);
	for (uint64_t i = 0; !ret && i < q->rt_size * 8ULL >> q->bits; i++)
		ret = uncount(c, first + i);
	if (!ret)
		ret = q2_rebuild(q, &c->refs, q->order);
	if (!ret)
		check_say(c, 'R', "Refcount table and blocks have been rebuilt at 0x%llx",
			  (unsigned long long)q->rt_off);
	return ret;
}

/* ---------------------------------------------------------------- entries */

struct mend {
	struct q2_l2_walk walk;		/* first */
	struct check *c;
	unsigned fix;
	uint8_t *buf;			/* one cluster */
};

static bool mend_next(struct q2_stream *s, struct q2_item *item)
{
	return q2_l2_next(s->arg, item);
}

/* moves the bytes at a place that is not aligned to a cluster of their own */
static int move_cluster(struct mend *m, struct verdict *v, uint64_t weight)
{
	struct check *c = m->c;
	struct q2 *q = &c->q;
	uint64_t from = v->entry & QCOW2_OFF_MASK, to = 0;
	int ret = q2_read(q, m->buf, q->csize, from, "a misplaced cluster");

	if (!ret)
		ret = q2_alloc(q, 1, &to);
	if (!ret)
		ret = q2_write(q, m->buf, q->csize, to, "a misplaced cluster");
	if (!ret && weight > 1) {
		struct counts d;

		counts_init(&d, Q2_COUNT_MEMORY);
		ret = counts_add(&d, to >> q->bits, 1, weight - 1);
		if (!ret)
			ret = q2_apply(q, &d, true);
		counts_free(&d);
	}
	if (!ret)
		ret = q2_flush(q);
	if (!ret)
		ret = counts_set(&c->refs, to >> q->bits, weight);
	v->entry = (v->entry & ~QCOW2_OFF_MASK) | to;
	return ret;
}

static void say_mended(struct check *c, uint64_t l2_off, unsigned i, uint64_t old,
		       const struct verdict *v)
{
	uint64_t guest = check_guest(c, l2_off, i);
	char at[40] = "in a snapshot";

	if (guest != UINT64_MAX)
		snprintf(at, sizeof(at), "guest offset 0x%llx", (unsigned long long)guest);
	check_say(c, 'R', "L2 table at 0x%llx, entry %u (%s): 0x%llx is now 0x%llx%s",
		  (unsigned long long)l2_off, i, at, (unsigned long long)old,
		  (unsigned long long)v->entry,
		  v->lost ? ": there was no data at its place, it reads as zeroes"
			  : v->copy ? ": its data has been copied there" : "");
}

/* COPIED as the references say it should be */
static uint64_t mend_copied(struct mend *m, uint64_t e)
{
	struct check *c = m->c;
	uint64_t off = e & QCOW2_OFF_MASK, refs;

	if (e & QCOW2_CODED || !off || !is_aligned(off, c->q.csize) || off >= c->q.end)
		return e;
	refs = counts_get(&c->refs, off >> c->q.bits);
	if (refs == 1)
		return c->incomplete ? e : e | QCOW2_COPIED;
	return m->fix & TAPIMG_FIX_ERRORS ? e & ~QCOW2_COPIED : e;
}

/* Guest data in a cluster that holds a table: writing there would destroy that. */
static bool on_metadata(struct check *c, uint64_t e)
{
	uint64_t cl = (e & QCOW2_OFF_MASK) >> c->q.bits;

	if (!c->overlap || e & QCOW2_CODED || !cl || c->q.data_file)
		return false;
	return counts_get(&c->meta, cl) || counts_get(&c->l2, cl);
}

static int mend_entry(struct mend *m, uint8_t *p, uint64_t l2_off, unsigned i, uint64_t weight,
		      bool active)
{
	struct check *c = m->c;
	struct q2 *q = &c->q;
	uint64_t e = get_be64(p), bm = q->ext_l2 ? get_be64(p + 8) : 0, new;
	uint64_t guest = q->data_file ? check_guest(c, l2_off, i) : UINT64_MAX;
	struct verdict v;
	int ret;

	check_judge(q, e, bm, guest, &v);
	if (v.hopeless || !(m->fix & TAPIMG_FIX_ERRORS))
		v = (struct verdict){.entry = e, .bitmap = bm};
	else if (on_metadata(c, v.entry)) {
		v.what = "lies on metadata";
		v.copy = true;
	}
	if (v.copy) {
		ret = move_cluster(m, &v, weight);
		if (ret)
			return ret;
	}
	if (v.what)
		say_mended(c, l2_off, i, e, &v);
	new = active && !q->data_file ? mend_copied(m, v.entry) : v.entry;
	c->copied_mended |= (new ^ v.entry) & QCOW2_COPIED;
	if (new == e && v.bitmap == bm)
		return 0;
	put_be64(p, new);
	if (q->ext_l2)
		put_be64(p + 8, v.bitmap);
	return 1;
}

static int mend_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct mend *m = s->arg;
	struct check *c = m->c;
	unsigned step = c->q.ext_l2 ? 16 : 8;
	int changed = 0, ret;

	for (uint64_t at = 0; at < item->len; at += step) {
		uint64_t table = round_down(item->off + at, c->q.csize);
		uint64_t weight = counts_get(&c->l2, table >> c->q.bits);
		bool active = c->l2a == &c->l2 || counts_get(c->l2a, table >> c->q.bits);

		if (!get_be64(buf + at) && step == 8)
			continue;
		ret = mend_entry(m, buf + at, table, (item->off + at - table) / step, weight,
				 active);
		if (ret < 0)
			return ret;
		changed |= ret;
	}
	return changed;
}

static int mend_l2(struct check *c, unsigned fix)
{
	struct mend m = {.walk = {.q = &c->q, .l2s = &c->l2}, .c = c, .fix = fix};
	struct q2_stream s = {.next = mend_next, .work = mend_work,
			      .arg = &m, .skip_holes = true};
	int ret;

	m.buf = file_buf(c->q.csize);
	if (!m.buf)
		return err_errno(c->q.err, -ENOMEM, "%s", c->q.img->name);
	ret = q2_stream_run(&c->q, &s);
	free(m.buf);
	return ret;
}

static int mend_l1_table(struct check *c, uint64_t off, uint64_t *l1, uint64_t n, bool active,
			 unsigned fix)
{
	struct mend m = {.c = c, .fix = fix};
	struct q2 *q = &c->q;
	bool changed = false;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t e = l1[i], at = e & QCOW2_OFF_MASK;

		if (fix & TAPIMG_FIX_ERRORS) {
			if (!at || (is_aligned(at, q->csize) && at >= q->end))
				l1[i] = 0;
			else if (is_aligned(at, q->csize))
				l1[i] &= ~QCOW2_L1_RESERVED;
		}
		if (active) {
			uint64_t old = l1[i];

			l1[i] = mend_copied(&m, old);
			c->copied_mended |= l1[i] != old;
		}
		if (l1[i] == e)
			continue;
		changed = true;
		if ((e ^ l1[i]) & ~QCOW2_COPIED)
			check_say(c, 'R', "L1 table at 0x%llx, entry %llu: 0x%llx is now 0x%llx",
				  (unsigned long long)off, (unsigned long long)i,
				  (unsigned long long)e, (unsigned long long)l1[i]);
	}
	return changed ? q2_write_l1(q, off, l1, n, n * 8) : 0;
}

static int mend_l1s(struct check *c, unsigned fix)
{
	struct q2 *q = &c->q;
	int ret = 0;

	if (c->l1)
		ret = mend_l1_table(c, q->l1_off, c->l1, q->l1_size, true, fix);
	for (uint32_t i = 0; !ret && i < c->snaps.n && fix & TAPIMG_FIX_ERRORS; i++) {
		const struct q2_snap *s = &c->snaps.s[i];
		uint64_t *l1 = NULL;

		if (!q2_snap_l1_there(q, s) || c->overlap)
			continue;
		ret = q2_read_l1(q, s->l1_off, s->l1_size, &l1);
		if (!ret)
			ret = mend_l1_table(c, s->l1_off, l1, s->l1_size, false, fix);
		free(l1);
	}
	return ret;
}

/* --------------------------------------------------------------- the whole */

static int lower_counts(struct check *c)
{
	int ret;

	if (c->incomplete) {
		check_say(c, 'I', "Leaked clusters stay as they are: parts of the image could not be followed");
		return 0;
	}
	ret = check_set_counts(c, false);
	if (!ret)
		ret = q2_flush(&c->q);
	if (!ret)
		check_say(c, 'R', "Leaked clusters have been freed");
	return ret;
}

int check_repair(struct check *c, unsigned fix)
{
	bool errors = fix & TAPIMG_FIX_ERRORS;
	int ret = 0;

	if (errors && c->rt_broken) {
		ret = rebuild_counts(c);
	} else {
		if (errors && c->raise) {
			ret = check_set_counts(c, true);
			if (!ret)
				ret = q2_flush(&c->q);
			if (!ret)
				check_say(c, 'R', "Refcounts that were too low have been raised");
		}
		/* where structures are doubtful, or counts too low, nothing is given away */
		if (!ret && fix & TAPIMG_FIX_LEAKS && c->lower && !c->rt_broken)
			ret = lower_counts(c);
	}
	if (!ret && ((errors && (c->entries || c->overlap)) || c->copied)) {
		ret = mend_l2(c, fix);
		if (!ret)
			ret = q2_flush(&c->q);
		if (!ret)
			ret = mend_l1s(c, fix);
		if (!ret)
			ret = q2_flush(&c->q);
		if (!ret && c->copied_mended)
			check_say(c, 'R', "COPIED marks have been made to agree with the references");
	}
	if (!ret && errors && c->snaps_cut) {
		ret = q2_snaps_store(&c->q, &c->snaps);
		if (!ret)
			check_say(c, 'R', "The snapshot table has been written anew, with extra data of a valid length");
	}
	return ret;
}
