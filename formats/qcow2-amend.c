/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-amend.c - options of an existing image changed
 *
 * What is asked for is judged as a whole before anything is changed.  Then, in this order, each step
 * complete and durable before the next: upgrade to version 3; width of refcounts; data
 * file and lazy refcounts (one change of the header); size; downgrade to version 2.
 *
 * Width: the counts are built anew behind the end of the file, and one write of the first sector
 * switches place, length and width of the table (A3).
 *
 * Downgrade: version 2 has no zero clusters.  Each becomes unallocated if nothing lies below, else a
 * cluster full of zeroes; either reads the same, so every state in between is right.
 */
#include <stdlib.h>

#include "opt.h"
#include "qcow2-check.h"

struct wishes {
	int version;			/* 0: as it is */
	int order;			/* -1 */
	int lazy;			/* -1 */
	bool raw_off;
	bool resize;
	uint64_t size;
	const char *backing, *backing_fmt, *data_file;
};

/* ---------------------------------------------------------------- judging */

static int parse_width(struct tapimg *img, const char *text, int *order, struct tapimg_err *err)
{
	uint64_t bits;

	if (opt_size(text, &bits) || !is_pow2(bits) || bits > 64)
		return err_set(err, -EINVAL, "%s: refcount_bits '%s' is not a power of two up to 64",
			       img->name, text);
	*order = __builtin_ctzll(bits);
	return 0;
}

static int parse_raw(struct tapimg *img, const char *text, bool *off, struct tapimg_err *err)
{
	const struct qcow2 *st = qcow2_of(img);
	bool on = false;

	if (opt_bool(text, &on))
		return err_set(err, -EINVAL, "%s: data_file_raw '%s'", img->name, text);
	if (on && !st->raw_data)
		return err_set(err, -ENOTSUP, "%s: data_file_raw cannot be set on an existing image",
			       img->name);
	*off = !on;
	return 0;
}

static int parse_one(struct tapimg *img, const struct tapimg_opt *o, struct wishes *w,
		     struct tapimg_err *err)
{
	const char *v = o->value;
	bool on;

	if (!strcmp(o->name, "compat")) {
		w->version = !strcmp(v, "0.10") || !strcmp(v, "v2") ? 2 : 3;
	} else if (!strcmp(o->name, "refcount_bits")) {
		return parse_width(img, v, &w->order, err);
	} else if (!strcmp(o->name, "lazy_refcounts")) {
		if (opt_bool(v, &on))
			return err_set(err, -EINVAL, "%s: lazy_refcounts '%s'", img->name, v);
		w->lazy = on;
	} else if (!strcmp(o->name, "size")) {
		if (opt_size(v, &w->size))
			return err_set(err, -EINVAL, "%s: size '%s'", img->name, v);
		w->resize = true;
	} else if (!strcmp(o->name, "backing_file")) {
		w->backing = v;
	} else if (!strcmp(o->name, "backing_fmt")) {
		w->backing_fmt = v;
	} else if (!strcmp(o->name, "data_file")) {
		w->data_file = v;
	} else if (!strcmp(o->name, "data_file_raw")) {
		return parse_raw(img, v, &w->raw_off, err);
	} else {
		return err_set(err, -ENOTSUP, "%s: option '%s' cannot be changed in an existing image",
			       img->name, o->name);
	}
	return 0;
}

/* what version 2 cannot hold */
static int judge_v2(struct tapimg *img, const struct wishes *w, struct tapimg_err *err)
{
	const struct qcow2_header *h = &qcow2_of(img)->h;
	const char *what = NULL;

	if (h->incompat & QCOW2_INCOMPAT_DATA)
		what = "an external data file";
	else if (h->incompat & QCOW2_INCOMPAT_EXTL2)
		what = "extended L2 entries";
	else if (h->incompat & QCOW2_INCOMPAT_COMP)
		what = "zstd compression";
	else if (h->incompat)
		what = "damage marks";
	else if (qcow2_ext_find(h, QCOW2_EXT_BITMAPS))
		what = "bitmaps";
	else if (w->lazy > 0)
		what = "lazy refcounts";
	else if ((w->order >= 0 ? (unsigned)w->order : h->refcount_order) != 4)
		what = "refcounts of another width than 16 bits";
	if (what)
		return err_set(err, -ENOTSUP, "%s: version 2 (compat=0.10) cannot have %s", img->name,
			       what);
	return 0;
}

static int judge(struct tapimg *img, const struct wishes *w, struct tapimg_err *err)
{
	const struct qcow2 *st = qcow2_of(img);
	bool v3 = w->version ? w->version == 3 : st->v3;

	if (!v3) {
		if (!st->v3 && w->order >= 0 && w->order != 4)
			return err_set(err, -ENOTSUP, "%s: refcounts in version 2 have 16 bits",
				       img->name);
		if (!st->v3 && w->lazy > 0)
			return err_set(err, -ENOTSUP, "%s: lazy refcounts need version 3 (compat=1.1)",
				       img->name);
		if (st->v3)
			return judge_v2(img, w, err);
	}
	if (w->data_file && !st->data_name && !(st->h.incompat & QCOW2_INCOMPAT_DATA))
		return err_set(err, -EINVAL, "%s: has its data inside, so it cannot name a data file",
			       img->name);
	if (w->data_file && strlen(w->data_file) > QCOW2_MAX_NAME)
		return err_set(err, -EINVAL, "%s: the name of the data file is too long", img->name);
	/* what the disk holds stays the same: another backing file is for rebase, which looks at both */
	if ((w->backing && strcmp(w->backing, img->backing_name ? img->backing_name : "") != 0) ||
	    (w->backing_fmt && strcmp(w->backing_fmt, img->backing_fmt ? img->backing_fmt : "") != 0))
		return err_set(err, -EINVAL, "%s: Cannot amend the backing file; rebase does that",
			       img->name);
	if (w->resize && !is_aligned(w->size, 512))
		return err_set(err, -EINVAL, "%s: the size must be a multiple of 512, %llu is not",
			       img->name, (unsigned long long)w->size);
	return 0;
}

/* ---------------------------------------------------------------- upgrade */

static int upgrade(struct tapimg *img, struct tapimg_err *err)
{
	struct q2_snaps snaps = {0};
	struct qcow2_header h;
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = q2_snaps_load(&q, &snaps, false);
	snaps.full = true;	/* version 3 wants sizes in the snapshot table */
	if (!ret && snaps.n)
		ret = q2_snaps_store(&q, &snaps);
	if (!ret)
		ret = q2_header_get(&q, &h);
	if (!ret) {
		h.version = 3;
		h.refcount_order = 4;
		h.incompat = h.compat = h.autoclear = 0;
		ret = qcow2_features_add(&h);
		if (!ret)
			ret = q2_header_put(&q, &h);
		if (ret == -ENOSPC) {	/* perhaps only the names of features have no room */
			qcow2_ext_set(&h, QCOW2_EXT_FEATURES, NULL, 0);
			ret = q2_header_put(&q, &h);
		}
		qcow2_header_free(&h);
	}
	q2_snaps_free(&snaps);
	return q2_end(&q, ret, true);
}

/* ------------------------------------------------------------------ width */

struct gather {
	struct q2 *q;
	struct counts *refs;
	uint64_t block;
};

static bool gather_next(struct q2_stream *s, struct q2_item *item)
{
	struct gather *g = s->arg;

	while (g->block < g->q->rt_size && !g->q->rt[g->block])
		g->block++;
	if (g->block >= g->q->rt_size)
		return false;
	*item = (struct q2_item){g->q->rt[g->block], g->q->csize, g->block};
	g->block++;
	return true;
}

static int gather_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct gather *g = s->arg;
	uint64_t base = item->tag << g->q->rb_bits;
	int ret = 0;

	for (uint64_t i = 0; i < 1ULL << g->q->rb_bits && !ret; i++) {
		uint64_t v = qcow2_rc_get(buf, i, g->q->order);

		if (v)
			ret = counts_set(g->refs, base + i, v);
	}
	return ret;
}

static int uncount(struct counts *refs, uint64_t cl)
{
	uint64_t v = counts_get(refs, cl);

	return v ? counts_set(refs, cl, v - 1) : 0;
}

/* counts as stored, without those of the structures that hold them */
static int gather_counts(struct q2 *q, struct counts *refs)
{
	struct gather g = {.q = q, .refs = refs};
	struct q2_stream s = {.next = gather_next, .work = gather_work, .arg = &g};
	int ret = q2_stream_run(q, &s);

	for (uint64_t i = 0; i < q->rt_size && !ret; i++)
		if (q->rt[i])
			ret = uncount(refs, q->rt[i] >> q->bits);
	for (uint64_t i = 0; i < q->rt_size * 8ULL >> q->bits && !ret; i++)
		ret = uncount(refs, (q->rt_off >> q->bits) + i);
	return ret;
}

static int set_width(struct tapimg *img, unsigned order, struct tapimg_err *err)
{
	uint64_t old_end = img->file->size;
	struct counts refs;
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	counts_init(&refs, Q2_COUNT_MEMORY);
	if (!ret && q.order != order) {
		ret = q2_load_rt(&q);
		if (!ret)
			ret = gather_counts(&q, &refs);
		if (!ret)
			ret = q2_rebuild(&q, &refs, order);
		if (ret == -E2BIG && !img->file->block_dev)
			file_truncate(img->file, old_end);	/* nothing refers to what was written */
	}
	counts_free(&refs);
	return q2_end(&q, ret, true);
}

/* ----------------------------------------------------------------- header */

static int edit_header(struct tapimg *img, const struct wishes *w, struct tapimg_err *err)
{
	struct qcow2_header h;
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_header_get(&q, &h);
	if (ret)
		return q2_end(&q, ret, false);
	if (w->lazy >= 0)
		h.compat = (h.compat & ~QCOW2_COMPAT_LAZY) | (w->lazy ? QCOW2_COMPAT_LAZY : 0);
	if (w->raw_off)
		h.autoclear &= ~QCOW2_AUTO_RAW;
	if (w->data_file)
		ret = qcow2_ext_set(&h, QCOW2_EXT_DATA_FILE, *w->data_file ? w->data_file : NULL,
				    strlen(w->data_file));
	if (!ret)
		ret = q2_header_put(&q, &h);
	qcow2_header_free(&h);
	ret = q2_end(&q, ret, true);
	if (!ret && w->data_file) {
		free(qcow2_of(img)->data_name);
		qcow2_of(img)->data_name = *w->data_file ? strdup(w->data_file) : NULL;
	}
	return ret;
}

/* -------------------------------------------------------------- downgrade */

struct expand {
	struct q2_l2_walk walk;		/* first */
	struct counts freed;		/* space behind zero clusters */
	bool backed;
};

static bool expand_next(struct q2_stream *s, struct q2_item *item)
{
	return q2_l2_next(s->arg, item);
}

static bool is_zero_entry(const uint8_t *p)
{
	uint64_t e = get_be64(p);

	return !(e & QCOW2_CODED) && e & QCOW2_ZERO;
}

/* @n clusters of zeroes, each used @weight times; durable */
static int zero_clusters(struct q2 *q, uint64_t n, uint64_t weight, uint64_t *off)
{
	struct counts more;
	int ret = q2_alloc(q, n, off);

	if (!ret) {
		ret = file_zero(q->f, *off, n << q->bits, 0);
		if (ret)
			err_errno(q->err, ret, "%s: writing zeroes at 0x%llx", q->img->name,
				  (unsigned long long)*off);
	}
	if (!ret && weight > 1) {
		counts_init(&more, Q2_COUNT_MEMORY);
		ret = counts_add(&more, *off >> q->bits, n, weight - 1);
		if (!ret)
			ret = q2_apply(q, &more, true);
		counts_free(&more);
	}
	return ret ? ret : q2_flush(q);
}

static int expand_table(struct expand *x, uint8_t *t, uint64_t weight)
{
	struct q2 *q = x->walk.q;
	uint64_t n = 0, at = 0, len = 1ULL << q->l2_bits;
	int ret = 0;

	for (uint64_t i = 0; i < len; i++)
		n += is_zero_entry(t + 8 * i);
	if (n && x->backed)
		ret = zero_clusters(q, n, weight, &at);
	for (uint64_t i = 0; i < len && n && !ret; i++) {
		uint64_t old = get_be64(t + 8 * i) & QCOW2_OFF_MASK, new = 0;

		if (!is_zero_entry(t + 8 * i))
			continue;
		if (old)
			ret = counts_add(&x->freed, old >> q->bits, 1, weight);
		if (x->backed) {
			new = at | (weight == 1 ? QCOW2_COPIED : 0);
			at += q->csize;
		}
		put_be64(t + 8 * i, new);
	}
	return ret ? ret : n != 0;
}

static int expand_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct expand *x = s->arg;
	uint64_t csize = x->walk.q->csize;
	int changed = 0;

	for (uint64_t at = 0; at < item->len; at += csize) {
		uint64_t weight = counts_get(x->walk.l2s, (item->off + at) / csize);
		int ret = expand_table(x, buf + at, weight);

		if (ret < 0)
			return ret;
		changed |= ret;
	}
	return changed;
}

static int collect_l2s(struct q2 *q, const struct q2_snaps *snaps, struct counts *l2s)
{
	uint64_t *l1 = NULL;
	int ret = q2_read_l1(q, q->l1_off, q->l1_size, &l1);

	if (!ret)
		ret = q2_count_l1(q, l1, q->l1_size, l2s);
	for (uint32_t i = 0; i < snaps->n && !ret; i++) {
		free(l1);
		l1 = NULL;
		ret = q2_read_l1(q, snaps->s[i].l1_off, snaps->s[i].l1_size, &l1);
		if (!ret)
			ret = q2_count_l1(q, l1, snaps->s[i].l1_size, l2s);
	}
	free(l1);
	return ret;
}

static int expand_zeroes(struct q2 *q, const struct q2_snaps *snaps)
{
	struct counts l2s;
	struct expand x = {.walk = {.q = q, .l2s = &l2s}, .backed = q->img->backing_name};
	struct q2_stream s = {.next = expand_next, .work = expand_work,
			      .arg = &x, .skip_holes = true};
	int ret;

	counts_init(&l2s, Q2_COUNT_MEMORY);
	counts_init(&x.freed, Q2_COUNT_MEMORY);
	ret = collect_l2s(q, snaps, &l2s);
	if (!ret)
		ret = q2_stream_run(q, &s);
	if (!ret)
		ret = q2_flush(q);
	if (!ret)
		ret = q2_apply(q, &x.freed, false);
	counts_free(&l2s);
	counts_free(&x.freed);
	return ret;
}

static int check_snaps_v2(struct q2 *q, const struct q2_snaps *snaps)
{
	for (uint32_t i = 0; i < snaps->n; i++) {
		const struct q2_snap *s = &snaps->s[i];

		if (s->disk_size != q->size)
			return err_set(q->err, -ENOTSUP,
				       "%s: snapshot '%s' has a disk of another size, which version 2 cannot express",
				       q->img->name, s->name);
		if (s->vm_state > UINT32_MAX)
			return err_set(q->err, -ENOTSUP,
				       "%s: the VM state of snapshot '%s' is too large for version 2",
				       q->img->name, s->name);
	}
	return 0;
}

static int downgrade(struct tapimg *img, struct tapimg_err *err)
{
	struct q2_snaps snaps = {0};
	struct qcow2_header h;
	struct q2 q;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_load_rt(&q);
	if (!ret)
		ret = q2_snaps_load(&q, &snaps, false);
	if (!ret)
		ret = check_snaps_v2(&q, &snaps);
	if (!ret)
		ret = expand_zeroes(&q, &snaps);
	if (!ret)
		ret = q2_header_get(&q, &h);
	if (!ret) {
		h.version = 2;
		h.incompat = h.compat = h.autoclear = 0;
		free(h.extra);
		h.extra = NULL;
		h.nextra = 0;
		qcow2_ext_set(&h, QCOW2_EXT_FEATURES, NULL, 0);
		ret = q2_header_put(&q, &h);
		qcow2_header_free(&h);
	}
	q2_snaps_free(&snaps);
	return q2_end(&q, ret, true);
}

/* -------------------------------------------------------------- the whole */

int qcow2_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
		struct tapimg_err *err)
{
	struct wishes w = {.order = -1, .lazy = -1};
	bool was_v3 = qcow2_of(img)->v3;
	int ret = 0;

	for (unsigned i = 0; i < nopts && !ret; i++)
		ret = parse_one(img, &opts[i], &w, err);
	if (!ret)
		ret = judge(img, &w, err);
	if (!ret && w.version == 3 && !was_v3)
		ret = upgrade(img, err);
	if (!ret && w.order >= 0)
		ret = set_width(img, w.order, err);
	if (!ret && (w.data_file || w.raw_off || (w.lazy >= 0 && qcow2_of(img)->v3)))
		ret = edit_header(img, &w, err);
	if (!ret && w.resize && w.size != img->size)
		ret = qcow2_resize(img, w.size, TAPIMG_PREALLOC_OFF, err);
	if (!ret && w.version == 2 && was_v3)
		ret = downgrade(img, err);
	return ret;
}
