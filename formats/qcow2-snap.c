/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-snap.c - internal snapshots: made, gone back to, deleted, listed, opened
 *
 * All three changes touch the counts of every cluster that a tree refers to.  They count the tree in
 * memory first (qcow2-walk.c), make sure that every refcount can take the change, and then pass once
 * over the refcount blocks and at most once over the L2 tables, with several transfers in flight.
 *
 * Create:
 *	1. copy the L1 to new clusters, without COPIED
 *	2. raise the count of all that the L1 refers to; clear COPIED in its L2 tables and in it
 *	3. flush; new snapshot table, switched to by one write (A1, A3, A4); the old one is freed
 *   A cut before 3 leaves counts that are too high, and COPIED where it was or cleared: leaks.
 * Apply:
 *	1. clear COPIED in the snapshot's L2 tables, where set; raise the counts of what the snapshot
 *	   has and the active tree has not
 *	2. write its L1, padded to the disk size it stores, to new clusters
 *	3. flush; size, L1 place and L1 length change by one write of one sector (A3): the active L1 is
 *	   never overwritten
 *	4. lower the counts of what only the old tree had
 * Delete:
 *	1. new snapshot table without it, switched to
 *	2. set COPIED in the active tree where one reference is left (A4), lower the counts (A2)
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "qcow2-adm.h"

/* what the operations have in common */
struct snap_op {
	struct q2 q;
	struct q2_snaps snaps;
	uint64_t *l1;			/* the active one */
	struct counts refs;		/* what one tree refers to */
	struct counts old;		/* apply: what the other does */
};

static int snap_begin(struct snap_op *o, struct tapimg *img, struct tapimg_err *err)
{
	int ret;

	memset(o, 0, sizeof(*o));
	counts_init(&o->refs, Q2_COUNT_MEMORY);
	counts_init(&o->old, Q2_COUNT_MEMORY);
	ret = q2_begin(&o->q, img, err);
	if (ret)
		return ret;
	if (o->q.data_file)
		return err_set(err, -ENOTSUP,
			       "%s: internal snapshots are not possible with an external data file",
			       img->name);
	ret = q2_load_rt(&o->q);
	if (!ret)
		ret = q2_snaps_load(&o->q, &o->snaps, false);
	if (!ret)
		ret = q2_read_l1(&o->q, o->q.l1_off, o->q.l1_size, &o->l1);
	return ret;
}

static int snap_end(struct snap_op *o, int ret)
{
	q2_snaps_free(&o->snaps);
	counts_free(&o->refs);
	counts_free(&o->old);
	free(o->l1);
	return q2_end(&o->q, ret, true);
}

static int find_entry(struct q2 *q, struct q2_snaps *t, const char *id, struct q2_snap **s)
{
	*s = q2_snaps_find(t, id);
	if (!*s)
		return err_set(q->err, -ENOENT, "%s: there is no snapshot '%s'", q->img->name, id);
	return 0;
}

/* one whose tables can be followed */
static int find(struct q2 *q, struct q2_snaps *t, const char *id, struct q2_snap **s)
{
	int ret = find_entry(q, t, id, s);

	if (ret)
		return ret;
	if ((*s)->l1_size > QCOW2_MAX_L1 / 8)
		return err_set(q->err, -EFBIG, "%s: snapshot '%s' has an L1 table of %u entries",
			       q->img->name, id, (*s)->l1_size);
	if (!q2_snap_l1_there(q, *s))
		return err_set(q->err, -EUCLEAN,
			       "%s: snapshot '%s': the L1 table of %u entries at 0x%llx is not aligned, or reaches beyond the end of the file",
			       q->img->name, id, (*s)->l1_size, (unsigned long long)(*s)->l1_off);
	return 0;
}

static uint64_t l1_bytes(const struct q2 *q, uint64_t entries)
{
	return round_up(entries * 8, q->csize);
}

/* the clusters of an L1 table itself */
static int count_l1_itself(struct q2 *q, struct counts *c, uint64_t off, uint64_t entries)
{
	if (!entries)
		return 0;
	return counts_add(c, off >> q->bits, l1_bytes(q, entries) >> q->bits, 1);
}

/* ----------------------------------------------------------------- create */

static int new_id(struct snap_op *o, char **id)
{
	unsigned long long max = 0;
	char text[24];

	for (uint32_t i = 0; i < o->snaps.n; i++) {
		unsigned long long v = strtoull(o->snaps.s[i].id, NULL, 10);

		if (v != UINT64_MAX)
			max = MAX(max, v);
	}
	snprintf(text, sizeof(text), "%llu", max + 1);
	*id = strdup(text);
	return *id ? 0 : -ENOMEM;
}

/* appends an entry for the present state, its L1 at @l1_off */
static int add_entry(struct snap_op *o, const char *name, uint64_t l1_off)
{
	struct q2_snap *t = realloc(o->snaps.s, (o->snaps.n + 1) * sizeof(*t)), *s;
	struct timespec now;

	if (!t)
		return err_errno(o->q.err, -ENOMEM, "%s", o->q.img->name);
	o->snaps.s = t;
	s = &t[o->snaps.n];
	memset(s, 0, sizeof(*s));
	clock_gettime(CLOCK_REALTIME, &now);
	s->l1_off = l1_off;
	s->l1_size = o->q.l1_size;
	s->sec = now.tv_sec;
	s->nsec = now.tv_nsec;
	s->disk_size = o->q.size;
	s->icount = -1;
	s->name = strdup(name);
	s->extra = malloc(1);
	if (new_id(o, &s->id) || !s->name || !s->extra) {
		q2_snap_clear(s);
		return err_errno(o->q.err, -ENOMEM, "%s", o->q.img->name);
	}
	o->snaps.n++;
	return 0;
}

/* step 1: the copy.  Nothing refers to it yet. */
static int copy_l1(struct snap_op *o, uint64_t *off)
{
	struct q2 *q = &o->q;
	uint64_t bytes = l1_bytes(q, q->l1_size);
	int ret;

	*off = 0;
	for (uint32_t i = 0; i < q->l1_size; i++)
		o->l1[i] &= ~QCOW2_COPIED;
	if (!bytes)
		return 0;
	ret = q2_alloc(q, bytes >> q->bits, off);
	return ret ? ret : q2_write_l1(q, *off, o->l1, q->l1_size, bytes);
}

/* step 2 */
static int share_tree(struct snap_op *o)
{
	struct q2 *q = &o->q;
	int ret = q2_apply(q, &o->refs, true);

	if (!ret)
		ret = q2_copied(q, o->l1, q->l1_size, NULL, false, true);
	if (!ret && q->l1_size)
		ret = q2_write_l1(q, q->l1_off, o->l1, q->l1_size, q->l1_size * 8ULL);
	return ret;
}

static int create(struct snap_op *o, const char *name)
{
	struct q2 *q = &o->q;
	uint64_t off;
	int ret;

	if (o->snaps.n >= QCOW2_MAX_SNAPSHOTS)
		return err_set(q->err, -EFBIG, "%s: there are %u snapshots already", q->img->name,
			       o->snaps.n);
	if (strlen(name) > UINT16_MAX)
		return err_set(q->err, -EINVAL, "%s: name of a snapshot: %zu bytes are too long",
			       q->img->name, strlen(name));
	ret = q2_count_l1_tree(q, o->l1, q->l1_size, &o->refs);
	if (!ret)
		ret = q2_verify(q, &o->refs, true);
	if (!ret)
		ret = copy_l1(o, &off);
	if (!ret)
		ret = add_entry(o, name, off);
	if (!ret)
		ret = share_tree(o);
	return ret ? ret : q2_snaps_store(q, &o->snaps);
}

int qcow2_snap_create(struct tapimg *img, const char *name, struct tapimg_err *err)
{
	struct snap_op o;
	int ret = snap_begin(&o, img, err);

	if (!ret)
		ret = create(&o, name);
	return snap_end(&o, ret);
}

/* ------------------------------------------------------------------ apply */

/* *l1: the snapshot's, padded with zeroes to what its disk needs and without COPIED */
static int target_l1(struct snap_op *o, const struct q2_snap *s, uint64_t **l1, uint64_t *n)
{
	struct q2 *q = &o->q;
	unsigned shift = q->bits + q->l2_bits;
	uint64_t need = (s->disk_size >> shift) + !is_aligned(s->disk_size, 1ULL << shift);
	uint64_t *t;
	int ret;

	*n = MAX(need, s->l1_size);
	if (*n > QCOW2_MAX_L1 / 8)
		return err_set(q->err, -EFBIG, "%s: snapshot '%s' has a disk of %llu bytes",
			       q->img->name, s->name, (unsigned long long)s->disk_size);
	ret = q2_read_l1(q, s->l1_off, s->l1_size, &t);
	if (!ret) {
		*l1 = calloc(MAX(*n, 1u), 8);
		if (!*l1)
			ret = err_errno(q->err, -ENOMEM, "%s", q->img->name);
	}
	for (uint64_t i = 0; !ret && i < s->l1_size; i++)
		(*l1)[i] = t[i] & ~QCOW2_COPIED;
	free(t);
	return ret;
}

/* step 3 */
static int switch_l1(struct q2 *q, uint64_t off, uint64_t n, uint64_t size)
{
	int ret;

	put_be64(q->head + QH_SIZE, size);
	put_be32(q->head + QH_L1_SIZE, n);
	put_be64(q->head + QH_L1_OFF, off);
	ret = q2_switch(q, QH_SIZE, QH_RT_OFF - QH_SIZE);
	return ret ? ret : q2_parse(q);
}

static int apply(struct snap_op *o, const struct q2_snap *s)
{
	struct q2 *q = &o->q;
	uint64_t *l1 = NULL, n = 0, off = 0;
	int ret = target_l1(o, s, &l1, &n);

	if (!ret)
		ret = q2_count_l1_tree(q, l1, n, &o->refs);
	if (!ret)
		ret = q2_count_l1_tree(q, o->l1, q->l1_size, &o->old);
	if (!ret)
		ret = counts_cancel(&o->refs, &o->old);
	if (!ret)
		ret = count_l1_itself(q, &o->old, q->l1_off, q->l1_size);
	if (!ret)
		ret = q2_verify(q, &o->refs, true);
	if (!ret)
		ret = q2_verify(q, &o->old, false);
	if (!ret && n)
		ret = q2_alloc(q, l1_bytes(q, n) >> q->bits, &off);
	if (!ret && n)
		ret = q2_write_l1(q, off, l1, n, l1_bytes(q, n));
	if (!ret)
		ret = q2_copied(q, l1, n, NULL, false, true);
	if (!ret)
		ret = q2_apply(q, &o->refs, true);
	if (!ret)
		ret = switch_l1(q, off, n, s->disk_size);
	if (!ret)
		ret = q2_apply(q, &o->old, false);
	if (!ret)
		ret = q2_flush(q);
	free(l1);
	return ret;
}

int qcow2_snap_apply(struct tapimg *img, const char *id, struct tapimg_err *err)
{
	struct snap_op o;
	struct q2_snap *s;
	struct q2_bdir d = {0};
	int ret = snap_begin(&o, img, err);

	if (!ret)
		ret = find(&o.q, &o.snaps, id, &s);
	if (!ret)
		ret = q2_bdir_load(&o.q, &d);
	if (!ret && d.n)	/* they could not follow the change */
		ret = err_set(err, -EBUSY, "%s: has bitmaps, which going back to a snapshot would make wrong",
			      img->name);
	q2_bdir_free(&d);
	if (!ret)
		ret = apply(&o, s);
	return snap_end(&o, ret);
}

/* ----------------------------------------------------------------- delete */

static int remove_entry(struct snap_op *o, struct q2_snap *s)
{
	q2_snap_clear(s);
	memmove(s, s + 1, (char *)(o->snaps.s + --o->snaps.n) - (char *)s);
	return q2_snaps_store(&o->q, &o->snaps);
}

/*
 * A snapshot whose L1 table is not there can only be struck off: what it referred to is not known,
 * so nothing is counted down, and check finds the rest as leaks.
 */
static int delete(struct snap_op *o, struct q2_snap *s)
{
	struct q2 *q = &o->q;
	uint64_t *l1 = NULL;
	struct counts *single = &o->old;
	int ret;

	if (!q2_snap_l1_there(q, s))
		return remove_entry(o, s);
	ret = q2_read_l1(q, s->l1_off, s->l1_size, &l1);
	if (!ret)
		ret = q2_count_l1_tree(q, l1, s->l1_size, &o->refs);
	free(l1);
	if (!ret)
		ret = count_l1_itself(q, &o->refs, s->l1_off, s->l1_size);
	if (!ret)
		ret = q2_verify(q, &o->refs, false);
	if (!ret)
		ret = q2_singles(q, &o->refs, single);
	if (ret)
		return ret;
	ret = remove_entry(o, s);
	if (!ret)
		ret = q2_copied(q, o->l1, q->l1_size, single, true, false);
	if (!ret && q->l1_size)
		ret = q2_write_l1(q, q->l1_off, o->l1, q->l1_size, q->l1_size * 8ULL);
	if (!ret)
		ret = q2_apply(q, &o->refs, false);
	return ret ? ret : q2_flush(q);
}

int qcow2_snap_delete(struct tapimg *img, const char *id, struct tapimg_err *err)
{
	struct snap_op o;
	struct q2_snap *s;
	int ret = snap_begin(&o, img, err);

	if (!ret)
		ret = find_entry(&o.q, &o.snaps, id, &s);
	if (!ret)
		ret = delete(&o, s);
	return snap_end(&o, ret);
}

/* --------------------------------------------------------- opening, listing */

int qcow2_snap_open(struct tapimg *img, const char *id, struct tapimg_err *err)
{
	struct qcow2 *st = qcow2_of(img);
	struct q2_snaps t = {0};
	struct q2_snap *s = NULL;
	struct q2 q;
	unsigned shift;
	uint64_t need;
	int ret = q2_begin(&q, img, err);

	if (!ret)
		ret = q2_snaps_load(&q, &t, false);
	if (!ret)
		ret = find(&q, &t, id, &s);
	if (!ret) {
		shift = q.bits + q.l2_bits;
		need = (s->disk_size >> shift) + !is_aligned(s->disk_size, 1ULL << shift);
		if (s->disk_size > INT64_MAX || need > s->l1_size)
			ret = err_set(err, -EUCLEAN,
				      "%s: snapshot '%s': disk of %llu bytes, L1 table of %u entries at 0x%llx",
				      img->name, id, (unsigned long long)s->disk_size, s->l1_size,
				      (unsigned long long)s->l1_off);
	}
	if (!ret) {
		st->l1_off = s->l1_off;
		st->l1_size = s->l1_size;
		st->snapshot = true;
		img->size = s->disk_size;
	}
	q2_snaps_free(&t);
	return q2_end(&q, ret, false);
}

int qcow2_snap_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct tapimg_snapshot *list;
	struct q2_snaps t = {0};
	struct q2 q;
	int ret;

	if (!qcow2_of(img)->h.nsnap)
		return 0;
	ret = q2_begin(&q, img, err);
	if (!ret)
		ret = q2_snaps_load(&q, &t, img->flags & TAPIMG_CHECK);
	list = ret || !t.n ? NULL : info_alloc(img, t.n * sizeof(*list));
	if (!ret && t.n && !list)
		ret = err_errno(err, -ENOMEM, "%s", img->name);
	for (uint32_t i = 0; !ret && i < t.n; i++) {
		const struct q2_snap *s = &t.s[i];

		list[i] = (struct tapimg_snapshot){
			.id = info_printf(img, "%s", s->id), .name = info_printf(img, "%s", s->name),
			.vm_state_size = s->vm_state, .disk_size = s->disk_size,
			.date_sec = s->sec, .date_nsec = s->nsec,
			.vm_clock_nsec = s->clock, .icount = s->icount,
		};
		if (!list[i].id || !list[i].name)
			ret = err_errno(err, -ENOMEM, "%s", img->name);
	}
	if (!ret) {
		out->snapshots = list;
		out->nsnapshots = t.n;
	}
	q2_snaps_free(&t);
	return q2_end(&q, ret, false);
}
