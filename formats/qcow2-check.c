/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-check.c - finding out what is wrong with an image
 *
 * Everything that refers to host clusters is walked and counted: header, snapshot table, bitmaps,
 * the active L1 and those of snapshots, then each L2 table once, in file order, weighted by the
 * number of L1 entries that name it (see qcow2-walk.c), then the refcount structures themselves.
 * The counts are compared with the refcounts in one stream (qcow2-check-refs.c).  Only where COPIED
 * bits cannot all be right is the active tree read a second time.
 *
 * What counts as what.  A leak is a state that costs space or a copy and nothing else:
 *	refcount above the number of references;
 *	COPIED missing although there is one reference (the next write copies the cluster once).
 * A corruption is everything else.  COPIED is compared with the references, not with the refcount:
 * a leaked count does not make a bit wrong that says the truth.  So the states that a power cut
 * during a snapshot operation may leave are leaks.
 *
 * Memory: 2 bits for each cluster near a reference, wider only where clusters are shared more than
 * three times.  Time: one read of all tables, whatever refers to them.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2-check.h"

#define LINES_MAX 10000
#define AREAS_MAX 200000

/* -------------------------------------------------------------- reporting */

void check_say(struct check *c, char severity, const char *fmt, ...)
{
	char line[600];
	va_list ap;

	if (severity == 'E')
		c->out->corruptions++;
	else if (severity == 'L')
		c->out->leaks++;
	if (!c->report || c->lines > LINES_MAX)
		return;
	if (c->lines++ == LINES_MAX) {
		c->report(c->arg, 'I', "Further findings are counted, not listed.");
		return;
	}
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->report(c->arg, severity, line);
}

static int place_cmp(const void *a, const void *b)
{
	const struct l1_place *x = a, *y = b;

	return x->cluster < y->cluster ? -1 : x->cluster > y->cluster;
}

static void make_places(struct check *c)
{
	uint32_t n = 0;

	c->places = malloc((c->q.l1_size + 1) * sizeof(*c->places));
	if (!c->places)
		return;
	for (uint32_t i = 0; i < c->q.l1_size; i++)
		if (c->l1[i] & QCOW2_OFF_MASK)
			c->places[n++] = (struct l1_place){
				(c->l1[i] & QCOW2_OFF_MASK) >> c->q.bits, i};
	c->nplaces = n;
	qsort(c->places, n, sizeof(*c->places), place_cmp);
}

uint64_t check_guest(struct check *c, uint64_t l2_off, unsigned i)
{
	struct l1_place key = {.cluster = l2_off >> c->q.bits}, *p;

	if (!c->l1)
		return UINT64_MAX;
	if (!c->places)
		make_places(c);
	p = c->places ? bsearch(&key, c->places, c->nplaces, sizeof(key), place_cmp) : NULL;
	if (!p)
		return UINT64_MAX;
	return (((uint64_t)p->i << c->q.l2_bits) + i) << c->q.bits;
}

static void bad_entry(struct check *c, uint64_t l2_off, unsigned i, uint64_t e,
		      const struct verdict *v)
{
	uint64_t guest = check_guest(c, l2_off, i);
	char at[40] = "";

	if (guest != UINT64_MAX)
		snprintf(at, sizeof(at), ", guest offset 0x%llx", (unsigned long long)guest);
	check_say(c, 'E', "ERROR L2 table at 0x%llx, entry %u%s: 0x%llx: %s",
		  (unsigned long long)l2_off, i, at, (unsigned long long)e, v->what);
	if (!v->hopeless)
		c->entries = true;
	else
		c->incomplete = true;
}

/* ---------------------------------------------------------------- claiming */

static void add_area(struct check *c, uint64_t first, uint64_t n, const char *what)
{
	if (c->nareas == c->cap_areas) {
		unsigned cap = c->cap_areas ? c->cap_areas * 2 : 64;
		struct area *a = cap > AREAS_MAX ? NULL : realloc(c->areas, cap * sizeof(*a));

		if (!a)
			return;	/* names only */
		c->areas = a;
		c->cap_areas = cap;
	}
	c->areas[c->nareas++] = (struct area){first, n, what};
}

/*
 * Something that the header, or a table it leads to, says is at [off, off+bytes).  @id: which of
 * them; NULL: there is only one.  *ok: it can be read.  Returns -ENOMEM.
 */
static int claim(struct check *c, uint64_t off, uint64_t bytes, const char *what, const char *id,
		 bool *ok)
{
	struct q2 *q = &c->q;
	uint64_t first = off >> q->bits, n = div_up(bytes, q->csize);
	char which[80] = "";
	int ret;

	if (id)
		snprintf(which, sizeof(which), " '%.64s'", id);
	*ok = q2_table_there(q, off, bytes);
	if (!*ok) {
		check_say(c, 'E', "ERROR %s%s: 0x%llx, %llu bytes: %s", what, which,
			  (unsigned long long)off, (unsigned long long)bytes,
			  !off || !is_aligned(off, q->csize) ? "not aligned to a cluster"
							      : "runs past the end of the file");
		c->incomplete = true;
		return 0;
	}
	if (counts_any(&c->meta, first, n)) {
		check_say(c, 'E', "ERROR %s%s at 0x%llx, %llu bytes, overlaps other metadata", what,
			  which, (unsigned long long)off, (unsigned long long)bytes);
		c->overlap = true;
	}
	add_area(c, first, n, what);
	ret = counts_add(&c->meta, first, n, 1);
	return ret ? ret : counts_add(&c->refs, first, n, 1);
}

static int check_header(struct check *c)
{
	struct q2 *q = &c->q;
	uint32_t len = 0;
	const uint8_t *x;
	bool ok;
	int ret;

	add_area(c, 0, 1, "header");
	ret = counts_add(&c->meta, 0, 1, 1);
	if (!ret)
		ret = counts_add(&c->refs, 0, 1, 1);
	if (q->incompat & QCOW2_INCOMPAT_DIRTY)
		check_say(c, 'I', "The image is marked dirty: refcounts may lag behind the tables");
	if (q->incompat & QCOW2_INCOMPAT_CORRUPT)
		check_say(c, 'I', "The image is marked corrupt");
	x = q2_ext(q, QCOW2_EXT_CRYPT, &len);
	if (!ret && x && len == 16 && get_be64(x + 8))
		ret = claim(c, get_be64(x), get_be64(x + 8), "encryption header", NULL, &ok);
	return ret;
}

/* ---------------------------------------------------------------------- L1 */

static int collect_l1(struct check *c, const uint64_t *l1, uint64_t n, uint64_t weight,
		      const char *whose, bool active)
{
	struct q2 *q = &c->q;
	int ret = 0;

	for (uint64_t i = 0; i < n && !ret; i++) {
		uint64_t e = l1[i], off = e & QCOW2_OFF_MASK;
		const char *what = NULL;

		if (!e)
			continue;
		if (!off || !is_aligned(off, q->csize))
			what = "names no cluster";
		else if (off >= q->end)
			what = "is past the end of the file";
		else if (e & QCOW2_L1_RESERVED)
			what = "has reserved bits set";
		if (what)
			check_say(c, 'E', "ERROR %s, entry %llu: 0x%llx: %s", whose,
				  (unsigned long long)i, (unsigned long long)e, what);
		c->entries |= what != NULL;
		if (!off || !is_aligned(off, q->csize))
			c->incomplete |= off != 0;
		else if (off < q->end)
			ret = counts_add(&c->l2, off >> q->bits, 1, weight);
		else
			continue;
		if (!ret && active && c->l2a != &c->l2 && is_aligned(off, q->csize) && off)
			ret = counts_add(c->l2a, off >> q->bits, 1, 1);
		if (active && !(e & QCOW2_COPIED))
			c->doubt = true;
	}
	return ret;
}

static int check_active_l1(struct check *c)
{
	struct q2 *q = &c->q;
	bool ok = false;
	int ret;

	if (!q->l1_size)
		return 0;
	ret = claim(c, q->l1_off, q->l1_size * 8ULL, "active L1 table", NULL, &ok);
	if (ret || !ok)
		return ret;
	ret = q2_read_l1(q, q->l1_off, q->l1_size, &c->l1);
	return ret ? ret : collect_l1(c, c->l1, q->l1_size, 1, "active L1 table", true);
}

static int snap_cmp(const void *a, const void *b)
{
	const struct q2_snap *x = *(const struct q2_snap *const *)a;
	const struct q2_snap *y = *(const struct q2_snap *const *)b;

	if (x->l1_off != y->l1_off)
		return x->l1_off < y->l1_off ? -1 : 1;
	return x->l1_size < y->l1_size ? -1 : x->l1_size > y->l1_size;
}

/* What it held cannot be told any more, and only its owner may say that it is given up. */
static void lost_snapshot(struct check *c, const struct q2_snap *s)
{
	check_say(c, 'I', "Snapshot %.32s is lost; once it is deleted, what it held are leaks, which can be freed",
		  s->id);
}

/* L1 of a snapshot; @times snapshots name the very same one, which is damage, but is walked once */
static int check_snap_l1(struct check *c, const struct q2_snap *s, uint64_t times, bool overlaps)
{
	char whose[120];
	uint64_t *l1 = NULL;
	bool ok = false;
	int ret = 0;

	if (!s->l1_size)
		return 0;
	for (uint64_t i = 0; i < times && !ret; i++)
		ret = claim(c, s->l1_off, s->l1_size * 8ULL, "L1 table of snapshot",
			    s->id, &ok);
	if (!ret && !ok)
		lost_snapshot(c, s);
	if (ret || !ok)
		return ret;
	if (overlaps) {
		c->incomplete = true;
		return 0;
	}
	snprintf(whose, sizeof(whose), "L1 table of snapshot %.32s", s->id);
	ret = q2_read_l1(&c->q, s->l1_off, s->l1_size, &l1);
	if (!ret)
		ret = collect_l1(c, l1, s->l1_size, times, whose, false);
	free(l1);
	return ret;
}

static int walk_snapshots(struct check *c, struct q2_snap **by)
{
	uint32_t n = c->snaps.n;
	uint64_t last_end = 0;
	int ret = 0;

	for (uint32_t i = 0; i < n; i++)
		by[i] = &c->snaps.s[i];
	qsort(by, n, sizeof(*by), snap_cmp);
	for (uint32_t i = 0, k; i < n && !ret; i = k) {
		bool overlaps = by[i]->l1_size && by[i]->l1_off < last_end;

		for (k = i + 1; k < n && !snap_cmp(&by[i], &by[k]); k++)
			;
		if (by[i]->l1_size > QCOW2_MAX_L1 / 8) {
			check_say(c, 'E', "ERROR snapshot %.32s: L1 table of %u entries", by[i]->id,
				  by[i]->l1_size);
			c->incomplete = true;
			lost_snapshot(c, by[i]);
			continue;
		}
		ret = check_snap_l1(c, by[i], k - i, overlaps);
		last_end = MAX(last_end, by[i]->l1_off + by[i]->l1_size * 8ULL);
	}
	return ret;
}

static void check_extra(struct check *c, const struct q2_snap *s)
{
	if (s->stored_extra > QCOW2_MAX_SNAP_EXTRA)
		check_say(c, 'E', "ERROR snapshot %.32s has %u bytes of extra data (at most %u)", s->id,
			  s->stored_extra, QCOW2_MAX_SNAP_EXTRA);
	else if (c->q.version >= 3 && !s->size_known)
		check_say(c, 'E', "ERROR snapshot %.32s has %u bytes of extra data, which tell no disk size",
			  s->id, s->stored_extra);
	else
		return;
	c->snaps_cut = true;
}

static int check_snapshots(struct check *c)
{
	struct q2 *q = &c->q;
	struct tapimg_err err, *saved = q->err;
	struct q2_snap **by;
	bool ok;
	int ret;

	if (!q->nsnap)
		return 0;
	q->err = &err;
	ret = q2_snaps_load(q, &c->snaps, true);
	q->err = saved;
	if (ret == -EUCLEAN) {
		check_say(c, 'E', "ERROR %s", err.text);
		c->incomplete = true;
		return 0;
	}
	if (ret)
		return err_set(saved, ret, "%s", err.text);
	if (q->data_file)
		check_say(c, 'E', "ERROR internal snapshots in an image with an external data file");
	for (uint32_t i = 0; i < c->snaps.n; i++)
		check_extra(c, &c->snaps.s[i]);
	ret = claim(c, q->snap_off, c->snaps.bytes, "snapshot table", NULL, &ok);
	by = malloc(c->snaps.n * sizeof(*by));
	if (!by)
		ret = -ENOMEM;
	if (!ret)
		ret = walk_snapshots(c, by);
	free(by);
	return ret;
}

/* ------------------------------------------------------------- L2 entries */

static void make_zero(const struct q2 *q, struct verdict *v)
{
	v->counts = false;
	if (q->ext_l2) {
		v->entry = 0;
		v->bitmap = (v->bitmap & QCOW2_SUB_ZERO) | v->bitmap << 32;
	} else if (q->version >= 3) {
		v->entry = QCOW2_ZERO;
	} else if (q->img->backing_name) {
		v->copy = true;		/* version 2 has no zero clusters */
	} else {
		v->entry = 0;
	}
}

static void judge_coded(const struct q2 *q, uint64_t e, struct verdict *v)
{
	uint64_t off, len;

	q2_coded_range(q, e, &off, &len);
	v->counts = true;
	if (q->data_file) {
		v->what = "a compressed cluster in an image with an external data file";
		v->hopeless = true;
		v->counts = false;
	} else if (off < q->csize || off >= q->end || off >= QCOW2_HOST_MAX) {
		v->what = "a compressed cluster that lies past the end of the file";
		v->lost = true;
		v->entry = 0;
		v->bitmap = 0xffffffff;
		make_zero(q, v);
	} else if (e & QCOW2_COPIED) {
		v->what = "a compressed cluster marked COPIED";
		v->entry = e & ~QCOW2_COPIED;
	}
	if (v->bitmap && !v->lost) {
		v->what = "a compressed cluster with a subcluster bitmap";
		v->bitmap = 0;
	}
}

static void judge_data_file(uint64_t e, uint64_t guest, struct verdict *v)
{
	uint64_t off = e & QCOW2_OFF_MASK;

	if (off && guest != UINT64_MAX && off != guest) {
		v->what = "differs from the guest offset, as no entry may with an external data file";
		v->hopeless = true;
	} else if (off && !(e & QCOW2_COPIED)) {
		v->what = "not marked COPIED, as all entries must be with an external data file";
		v->entry |= QCOW2_COPIED;
	}
}

/* Bytes of the header or the refcount table are no guest's data, whatever an entry says. */
static bool never_data(const struct q2 *q, uint64_t off)
{
	uint64_t end = off + q->csize;

	return off < q->csize || (off < q->rt_off + q->rt_size * 8ULL && q->rt_off < end);
}

static void judge_place(const struct q2 *q, uint64_t off, struct verdict *v)
{
	bool zero = !q->ext_l2 && v->entry & QCOW2_ZERO && q->version >= 3;

	v->counts = true;
	if (!is_aligned(off, q->csize) && never_data(q, off)) {
		v->what = "points into the header or the refcount table";
		v->counts = false;
		v->lost = !zero;
		make_zero(q, v);
	} else if (off >= q->end) {
		v->what = "lies past the end of the file";
		v->lost = !zero;
		make_zero(q, v);
	} else if (!is_aligned(off, q->csize)) {
		v->what = "is not aligned to a cluster";
		v->counts = false;
		if (zero)
			v->entry = QCOW2_ZERO;
		else
			v->copy = true;
	}
}

void check_judge(const struct q2 *q, uint64_t e, uint64_t bm, uint64_t guest, struct verdict *v)
{
	uint64_t off = e & QCOW2_OFF_MASK;
	uint64_t reserved = QCOW2_L2_RESERVED |
			    (q->version < 3 || q->ext_l2 ? QCOW2_ZERO : 0);

	memset(v, 0, sizeof(*v));
	v->entry = e;
	v->bitmap = bm;
	if (e & QCOW2_CODED) {
		judge_coded(q, e, v);
		return;
	}
	if (e & reserved) {
		v->what = "has reserved bits set";
		v->entry &= ~reserved;
	}
	if (bm & bm >> 32 & QCOW2_SUB_ALLOC) {
		v->what = "has subclusters both allocated and zero";
		v->bitmap &= ~(bm << 32);	/* what is stored is kept */
	}
	if (q->data_file) {
		judge_data_file(e, guest, v);
		return;
	}
	if (!off && v->bitmap & QCOW2_SUB_ALLOC) {
		v->what = "has allocated subclusters, but no place for them";
		v->lost = true;
		make_zero(q, v);
	} else if (!off && e & QCOW2_COPIED) {
		v->what = "is marked COPIED, but has no place";
		v->entry &= ~QCOW2_COPIED;
	}
	if (off)
		judge_place(q, off, v);
}

/* ---------------------------------------------------------------- L2 scan */

struct scan {
	struct q2_l2_walk walk;		/* first */
	struct check *c;
	uint64_t plain_bits;		/* an entry without any of these outside its offset is sound */
};

static bool scan_next(struct q2_stream *s, struct q2_item *item)
{
	return q2_l2_next(s->arg, item);
}

/* an entry that the fast loop does not take */
static int scan_entry(struct scan *s, const uint8_t *p, uint64_t l2_off, unsigned i,
		      uint64_t weight, bool active, uint64_t *contig)
{
	struct check *c = s->c;
	struct q2 *q = &c->q;
	uint64_t e = get_be64(p), bm = q->ext_l2 ? get_be64(p + 8) : 0, off, len;
	uint64_t guest = q->data_file ? check_guest(c, l2_off, i) : UINT64_MAX;
	struct verdict v;

	check_judge(q, e, bm, guest, &v);
	if (v.what)
		bad_entry(c, l2_off, i, e, &v);
	off = v.entry & QCOW2_OFF_MASK;
	if (v.entry & QCOW2_CODED) {
		c->out->compressed_clusters += active;
		c->out->allocated_clusters += active;
		c->out->fragmented_clusters += active;
		q2_coded_range(q, v.entry, &off, &len);
		len = ((off + len - 1) >> q->bits) - (off >> q->bits) + 1;
		return v.counts ? counts_add(&c->refs, off >> q->bits, len, weight) : 0;
	}
	if (active && (off || (q->data_file && v.entry & QCOW2_COPIED))) {
		c->out->allocated_clusters++;
		c->out->fragmented_clusters += *contig && *contig != off;
		*contig = off + q->csize;
		c->doubt |= !(v.entry & QCOW2_COPIED);
	}
	if (v.copy && off < q->end)	/* it uses parts of two clusters until it has been moved */
		return counts_add(&c->refs, off >> q->bits, 2, weight);
	return v.counts ? counts_add(&c->refs, off >> q->bits, 1, weight) : 0;
}

static inline unsigned plain_run(const uint8_t *p, unsigned max, uint64_t e, uint64_t csize)
{
	unsigned n = 1;

	while (n < max && get_be64(p + 8 * n) == e + n * csize)
		n++;
	return n;
}

static int scan_table(struct scan *s, const uint8_t *buf, uint64_t l2_off)
{
	struct check *c = s->c;
	struct q2 *q = &c->q;
	unsigned n = 1u << q->l2_bits, step = q->ext_l2 ? 16 : 8, run;
	uint64_t weight = counts_get(&c->l2, l2_off >> q->bits), contig = 0;
	bool active = c->l2a == &c->l2 || counts_get(c->l2a, l2_off >> q->bits);
	int ret = counts_add(&c->refs, l2_off >> q->bits, 1, weight);

	for (unsigned i = 0; i < n && !ret; i += run) {
		const uint8_t *p = buf + i * step;
		uint64_t e = get_be64(p), off = e & QCOW2_OFF_MASK;

		run = 1;
		if (!e && !q->ext_l2)
			continue;
		if (q->ext_l2 || q->data_file || !off || e & s->plain_bits || off >= q->end) {
			ret = scan_entry(s, p, l2_off, i, weight, active, &contig);
			continue;
		}
		run = plain_run(p, n - i, e, q->csize);
		if ((q->end - 1 - off) >> q->bits < run - 1)
			run = ((q->end - 1 - off) >> q->bits) + 1;
		if (active) {
			c->out->allocated_clusters += run;
			c->out->fragmented_clusters += contig && contig != off;
			contig = off + run * q->csize;
			c->doubt |= !(e & QCOW2_COPIED);
		}
		ret = counts_add(&c->refs, off >> q->bits, run, weight);
	}
	return ret;
}

static int scan_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct scan *t = s->arg;
	int ret = 0;

	for (uint64_t at = 0; at < item->len && !ret; at += t->c->q.csize)
		ret = scan_table(t, buf + at, item->off + at);
	return ret;
}

static int scan_l2(struct check *c)
{
	struct q2 *q = &c->q;
	struct scan t = {.walk = {.q = q, .l2s = &c->l2}, .c = c};
	struct q2_stream s = {.next = scan_next, .work = scan_work,
			      .arg = &t, .skip_holes = true};
	uint64_t cl = 0;
	int ret;

	t.plain_bits = QCOW2_CODED | QCOW2_L2_RESERVED | (QCOW2_OFF_MASK & (q->csize - 1)) |
		       (q->version < 3 ? QCOW2_ZERO : 0);
	ret = q2_stream_run(q, &s);
	/* tables in holes of the file were passed over: they refer to nothing, but are there */
	while (!ret && (cl = counts_next(&c->l2, cl)) != COUNT_END) {
		if (!counts_get(&c->refs, cl))
			ret = counts_add(&c->refs, cl, 1, counts_get(&c->l2, cl));
		cl++;
	}
	return ret;
}

/* ---------------------------------------------------------------- bitmaps */

static int check_bitmap(struct check *c, const struct q2_bm *b)
{
	struct q2 *q = &c->q;
	uint64_t *tab = NULL;
	bool ok;
	int ret;

	ret = claim(c, b->table_off, b->table_size * 8ULL, "table of bitmap", b->name, &ok);
	if (ret || !ok)
		return ret;
	ret = q2_read_l1(q, b->table_off, b->table_size, &tab);
	for (uint32_t k = 0; !ret && k < b->table_size; k++) {
		uint64_t off = tab[k] & QCOW2_OFF_MASK;

		if (tab[k] & ~QCOW2_OFF_MASK & ~1ULL || (off && tab[k] & 1))
			check_say(c, 'E', "ERROR table of bitmap '%.64s', entry %u: 0x%llx has reserved bits set",
				  b->name, k, (unsigned long long)tab[k]);
		if (off)
			ret = claim(c, off, q->csize, "data of bitmap", b->name, &ok);
	}
	free(tab);
	return ret;
}

static int check_bitmaps(struct check *c)
{
	struct q2 *q = &c->q;
	struct tapimg_err err, *saved = q->err;
	struct q2_bdir d;
	bool ok;
	int ret;

	q->err = &err;
	ret = q2_bdir_load(q, &d);
	q->err = saved;
	if (ret == -EUCLEAN) {
		check_say(c, d.valid ? 'E' : 'I', "%s%s", d.valid ? "ERROR " : "", err.text);
		c->incomplete |= d.valid;
		return 0;
	}
	if (ret)
		return err_set(saved, ret, "%s", err.text);
	if (d.valid && !d.n)
		check_say(c, 'E', "ERROR bitmaps are marked consistent, but there are none");
	if (d.n)
		ret = claim(c, d.off, d.bytes, "bitmap directory", NULL, &ok);
	for (uint32_t i = 0; i < d.n && !ret; i++)
		ret = check_bitmap(c, &d.b[i]);
	q2_bdir_free(&d);
	return ret;
}

/* ----------------------------------------------------------------- COPIED */

static void copied_finding(struct check *c, uint64_t entry, uint64_t refs, const char *where,
			   uint64_t place, unsigned i)
{
	bool set = entry & QCOW2_COPIED;

	if (set == (refs == 1))
		return;
	c->copied = true;
	if (set)
		check_say(c, 'E',
			  "ERROR %s 0x%llx, entry %u: 0x%llx is marked COPIED, but has %llu references",
			  where, (unsigned long long)place, i, (unsigned long long)entry,
			  (unsigned long long)refs);
	else
		check_say(c, 'L',
			  "%s 0x%llx, entry %u: 0x%llx is not marked COPIED: the next write copies it needlessly",
			  where, (unsigned long long)place, i, (unsigned long long)entry);
}

static int copied_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct scan *t = s->arg;
	struct check *c = t->c;
	struct q2 *q = &c->q;
	unsigned step = q->ext_l2 ? 16 : 8;

	for (uint64_t at = 0; at < item->len; at += step) {
		uint64_t e = get_be64(buf + at), off = e & QCOW2_OFF_MASK;
		uint64_t table = round_down(item->off + at, q->csize);

		if (!e || e & QCOW2_CODED || !off || !is_aligned(off, q->csize) || off >= q->end)
			continue;
		copied_finding(c, e, counts_get(&c->refs, off >> q->bits), "L2 table at", table,
			       (item->off + at - table) / step);
	}
	return 0;
}

static int check_copied(struct check *c)
{
	struct q2 *q = &c->q;
	struct scan t = {.walk = {.q = q, .l2s = c->l2a}, .c = c};
	struct q2_stream s = {.next = scan_next, .work = copied_work,
			      .arg = &t, .skip_holes = true};

	for (uint32_t i = 0; c->l1 && i < q->l1_size; i++) {
		uint64_t off = c->l1[i] & QCOW2_OFF_MASK;

		if (off && is_aligned(off, q->csize) && off < q->end)
			copied_finding(c, c->l1[i], counts_get(&c->refs, off >> q->bits),
				       "active L1 table at", q->l1_off, i);
	}
	return q->data_file ? 0 : q2_stream_run(q, &s);
}

/* --------------------------------------------------------------- the whole */

int check_scan(struct check *c, struct tapimg *img, struct tapimg_err *err)
{
	struct q2 *q = &c->q;
	int ret;

	counts_init(&c->refs, Q2_COUNT_MEMORY);
	counts_init(&c->meta, Q2_COUNT_MEMORY);
	counts_init(&c->l2, Q2_COUNT_MEMORY);
	counts_init(&c->l2_own, Q2_COUNT_MEMORY);
	counts_init(&c->blocks, Q2_COUNT_MEMORY);
	ret = q2_begin(q, img, err);
	if (ret)
		return ret;
	q->end = MIN(q->end, QCOW2_HOST_MAX);
	c->l2a = q->nsnap ? &c->l2_own : &c->l2;
	c->out->has_clusters = true;
	c->out->total_clusters = div_up(q->size, q->csize);
	ret = check_header(c);
	if (!ret)
		ret = check_active_l1(c);
	if (!ret)
		ret = check_snapshots(c);
	if (!ret)
		ret = check_bitmaps(c);
	if (!ret)
		ret = scan_l2(c);
	if (!ret)
		ret = check_refcounts(c);
	if (!ret && (c->doubt || c->refs.multi))
		ret = check_copied(c);
	c->out->image_end = c->last_used << q->bits;
	if (ret == -ENOMEM)
		err_errno(err, ret, "%s: counting references", img->name);
	return ret;
}

void check_free(struct check *c)
{
	q2_snaps_free(&c->snaps);
	counts_free(&c->refs);
	counts_free(&c->meta);
	counts_free(&c->l2);
	counts_free(&c->l2_own);
	counts_free(&c->blocks);
	free(c->l1);
	free(c->places);
	free(c->areas);
	q2_end(&c->q, 0, false);
}

static bool wants_repair(const struct check *c, unsigned fix)
{
	return (fix & TAPIMG_FIX_LEAKS && c->out->leaks) ||
	       (fix & TAPIMG_FIX_ERRORS && c->out->corruptions);
}

int qcow2_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
		void (*report)(void *arg, char severity, const char *line), void *arg,
		struct tapimg_err *err)
{
	struct check *c = calloc(1, sizeof(*c));
	struct tapimg_check before;
	uint64_t marks;
	bool changed = false;
	int ret;

	if (!c)
		return err_errno(err, -ENOMEM, "%s", img->name);
	memset(out, 0, sizeof(*out));
	*c = (struct check){.out = out, .report = report, .arg = arg};
	ret = check_scan(c, img, err);
	marks = c->q.incompat & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	before = *out;
	/* moving a misplaced cluster leaves its old place for the second round to free */
	for (int round = 0; !ret && round < 2 && wants_repair(c, fix); round++) {
		ret = check_repair(c, fix);
		check_free(c);
		memset(out, 0, sizeof(*out));
		*c = (struct check){.out = out};
		if (!ret)
			ret = check_scan(c, img, err);
		changed = true;
	}
	out->corruptions_fixed = before.corruptions - MIN(out->corruptions, before.corruptions);
	out->leaks_fixed = before.leaks - MIN(out->leaks, before.leaks);
	if (!ret && fix & TAPIMG_FIX_ERRORS && !out->corruptions && marks) {
		ret = q2_set_feature(&c->q, QH_INCOMPAT, marks, 0);
		changed = true;
	}
	if (changed) {
		int r2 = qcow2_reload(img, ret ? NULL : err);

		if (r2)
			image_fail(img, r2, "reading the header after a repair: %s", strerror(-r2));
		ret = ret ? ret : r2;
	}
	check_free(c);
	free(c);
	return ret;
}

static void first_finding(void *arg, char severity, const char *line)
{
	char *text = arg;

	if (severity == 'E' && !*text)
		snprintf(text, 600, "%s", line);
}

int qcow2_rebuild_refcounts(struct tapimg *img, struct tapimg_err *err)
{
	struct tapimg_check res;
	char text[600] = "";
	int ret;

	ret = qcow2_check(img, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS, &res, first_finding, text, err);
	if (!ret && res.corruptions)
		ret = err_set(err, -EUCLEAN,
			      "%s: not closed properly, and not all of its damage can be mended: %s",
			      img->name, text);
	return ret;
}
