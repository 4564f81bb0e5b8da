/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-bulk.c - the ground under administrative operations: the header as it is on disk, streams
 * with several transfers in flight, and changes of many refcounts at once
 *
 * New space is found in the last refcount block first, which keeps the search short on large
 * images, then anywhere, then by appending.  Appending builds, in this order in the file,
 *
 *	new refcount blocks | a new refcount table if the old one is too short | what was asked for
 *
 * where the blocks count themselves and everything after them.  A1 and A3 hold: blocks are durable
 * before a table entry names them, the table before the header does.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2-adm.h"

#define STREAM_DEPTH 4

/* ------------------------------------------------------------------ state */

int q2_parse(struct q2 *q)
{
	const uint8_t *h = q->head;
	const char *name = q->img->name;
	bool lax = q->img->flags & TAPIMG_CHECK;	/* what is wrong is a finding there, no failure */

	q->version = get_be32(h + 4);
	q->bits = get_be32(h + 20);
	if (get_be32(h) != QCOW2_MAGIC || q->version < 2 || q->version > 3 || q->bits < 9 ||
	    q->bits > 21 || q->csize != 1ULL << q->bits)
		return err_set(q->err, -EUCLEAN, "%s: the header has changed while the image was open",
			       name);
	q->size = get_be64(h + 24);
	q->l1_size = get_be32(h + 36);
	q->l1_off = get_be64(h + 40);
	q->rt_off = get_be64(h + 48);
	q->nsnap = get_be32(h + 60);
	q->snap_off = get_be64(h + 64);
	q->incompat = q->version >= 3 ? get_be64(h + 72) : 0;
	q->compat = q->version >= 3 ? get_be64(h + 80) : 0;
	q->autoclear = q->version >= 3 ? get_be64(h + 88) : 0;
	q->order = q->version >= 3 ? get_be32(h + 96) : 4;
	q->ext_l2 = q->incompat & 1 << 4;
	q->data_file = q->incompat & 1 << 2;
	if (q->order > 6)
		return err_set(q->err, -EUCLEAN, "%s: refcount order %u", name, q->order);
	if (q->l1_size > QCOW2_MAX_L1 / 8)
		return err_set(q->err, -EUCLEAN, "%s: L1 table of %u entries", name, q->l1_size);
	q->rt_size = get_be32(h + 56) << (q->bits - 3);
	if (get_be32(h + 56) > QCOW2_MAX_RT >> q->bits) {
		q->rt_size = 0;
		if (!lax)
			return err_set(q->err, -EUCLEAN, "%s: refcount table of %u clusters", name,
				       get_be32(h + 56));
	}
	if (q->nsnap > QCOW2_MAX_SNAPSHOTS && !lax)
		return err_set(q->err, -EUCLEAN, "%s: %u snapshots", name, q->nsnap);
	q->rb_bits = q->bits + 3 - q->order;
	q->l2_bits = q->bits - (q->ext_l2 ? 4 : 3);
	return 0;
}

int q2_begin(struct q2 *q, struct tapimg *img, struct tapimg_err *err)
{
	uint8_t small[24];
	int ret;

	memset(q, 0, sizeof(*q));
	q->img = img;
	q->f = img->file;
	q->err = err;
	q->end = q->f->size;
	q->wseq = q->f->wseq;
	ret = q2_read(q, small, sizeof(small), 0, "the header");
	if (ret)
		return ret;
	q->bits = get_be32(small + 20);
	if (q->bits < 9 || q->bits > 21)
		return err_set(err, -EUCLEAN, "%s: cluster size of 2^%u bytes", img->name, q->bits);
	q->csize = 1ULL << q->bits;
	q->head = file_buf(q->csize);
	if (!q->head)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = q2_read(q, q->head, q->csize, 0, "the header");
	return ret ? ret : q2_parse(q);
}

bool q2_table_ok(const struct q2 *q, uint64_t off, uint64_t bytes)
{
	return off && is_aligned(off, q->csize) && off < 1ULL << 56 &&
	       checked_range(off, bytes, 1ULL << 56);
}

bool q2_table_there(const struct q2 *q, uint64_t off, uint64_t bytes)
{
	return q2_table_ok(q, off, bytes) && checked_range(off, bytes, round_up(q->end, q->csize));
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Each block has one entry: a few blocks named a million times would be read as often. */
static int rt_distinct(struct q2 *q)
{
	uint64_t *t = file_buf(q->rt_size * 8ULL);
	uint32_t n = 0, i;
	int ret = 0;

	if (!t)
		return err_errno(q->err, -ENOMEM, "%s: refcount table", q->img->name);
	for (i = 0; i < q->rt_size; i++)
		if (q->rt[i])
			t[n++] = q->rt[i];
	qsort(t, n, sizeof(*t), by_value);
	for (i = 1; i < n && t[i] != t[i - 1]; i++)
		;
	if (i < n)
		ret = err_set(q->err, -EUCLEAN, "%s: the refcount table names the block at 0x%llx twice",
			      q->img->name, (unsigned long long)t[i]);
	free(t);
	return ret;
}

int q2_load_rt(struct q2 *q)
{
	uint64_t bytes = (uint64_t)q->rt_size * 8;
	int ret;

	if (!bytes || !q2_table_there(q, q->rt_off, bytes))
		return err_set(q->err, -EUCLEAN, "%s: refcount table of %llu bytes at 0x%llx",
			       q->img->name, (unsigned long long)bytes,
			       (unsigned long long)q->rt_off);
	free(q->rt);
	q->rt = file_buf(bytes);
	if (!q->rt)
		return err_errno(q->err, -ENOMEM, "%s: refcount table", q->img->name);
	ret = q2_read(q, q->rt, bytes, q->rt_off, "the refcount table");
	if (ret)
		return ret;
	for (uint32_t i = 0; i < q->rt_size; i++) {
		uint64_t e = get_be64(&q->rt[i]);

		q->rt[i] = e;
		if (e && (!q2_table_ok(q, e, q->csize) || e >= q->end))
			return err_set(q->err, -EUCLEAN,
				       "%s: refcount table entry %u is 0x%llx, which is no cluster of the file",
				       q->img->name, i, (unsigned long long)e);
	}
	return rt_distinct(q);
}

int q2_end(struct q2 *q, int ret, bool changed)
{
	free(q->head);
	free(q->rt);
	q->head = NULL;
	q->rt = NULL;
	if (changed) {
		int r2 = qcow2_reload(q->img, ret ? NULL : q->err);

		/* what is in memory may lead to clusters that have just been freed */
		if (r2 && q->f->wseq != q->wseq)
			image_fail(q->img, r2, "reading the changed header: %s", strerror(-r2));
		if (!ret)
			ret = r2;
	}
	return ret;
}

int q2_read(struct q2 *q, void *buf, uint64_t len, uint64_t off, const char *what)
{
	int ret = file_pread(q->f, buf, len, off);

	if (ret)
		err_errno(q->err, ret, "%s: reading %s at 0x%llx", q->img->name, what,
			  (unsigned long long)off);
	return ret;
}

int q2_write(struct q2 *q, const void *buf, uint64_t len, uint64_t off, const char *what)
{
	int ret = file_pwrite(q->f, buf, len, off);

	if (ret)
		err_errno(q->err, ret, "%s: writing %s at 0x%llx", q->img->name, what,
			  (unsigned long long)off);
	if (q->f->size > q->end)
		q->end = q->f->size;
	return ret;
}

int q2_flush(struct q2 *q)
{
	int ret = file_flush(q->f);

	return ret ? err_errno(q->err, ret, "%s: flushing", q->img->name) : 0;
}

int q2_switch(struct q2 *q, unsigned off, unsigned len)
{
	unsigned first = round_down(off, 512), last = round_up(off + len, 512);
	int ret = q2_flush(q);

	if (!ret)
		ret = q2_write(q, q->head + first, last - first, first, "the header");
	return ret ? ret : q2_flush(q);
}

int q2_set_feature(struct q2 *q, unsigned field, uint64_t clear, uint64_t set)
{
	uint64_t old = get_be64(q->head + field), new = (old & ~clear) | set;
	int ret;

	if (q->version < 3 || old == new)
		return 0;
	put_be64(q->head + field, new);
	ret = q2_switch(q, field, 8);
	return ret ? ret : q2_parse(q);
}

/* ---------------------------------------------------------------- streams */

struct slot {
	struct io io;
	struct q2_item item;
	uint8_t *buf;
	uint64_t room;		/* bytes in buf */
	bool busy, done;
};

static void slot_done(struct io *io)
{
	container_of(io, struct slot, io)->done = true;
}

static void slot_submit(struct q2 *q, struct slot *s, enum io_op op)
{
	memset(&s->io, 0, sizeof(s->io));
	s->io.file = q->f;
	s->io.op = op;
	s->io.off = s->item.off;
	s->io.len = s->item.len;
	s->io.iov1.iov_base = s->buf;
	s->io.iov1.iov_len = s->item.len;
	s->io.iov = &s->io.iov1;
	s->io.iovcnt = 1;
	s->io.done = slot_done;
	list_init(&s->io.task.node);
	list_init(&s->io.node);
	s->busy = true;
	s->done = false;
	file_submit(&s->io);
}

/* Room for the item: no more than it needs, for most tables are small. */
static int slot_fit(struct q2 *q, struct slot *s)
{
	if (s->room >= s->item.len)
		return 0;
	free(s->buf);
	s->buf = file_buf(s->item.len);
	s->room = s->buf ? s->item.len : 0;
	return s->buf ? 0 : err_errno(q->err, -ENOMEM, "%s", q->img->name);
}

/* waits for what the slot is doing; names the place of a failure */
static int slot_wait(struct q2 *q, struct slot *s)
{
	int ret;

	if (!s->busy)
		return 0;
	ret = loop_until(q->f->loop, &s->done);
	if (ret)
		return err_errno(q->err, ret, "%s: event loop", q->img->name);
	s->busy = false;
	if (s->io.ret)
		err_errno(q->err, s->io.ret, "%s: %s metadata at 0x%llx", q->img->name,
			  s->io.op == IO_READ ? "reading" : "writing",
			  (unsigned long long)s->item.off);
	return s->io.ret;
}

static bool in_hole(struct q2 *q, struct q2_stream *s, const struct q2_item *item)
{
	if (item->off < s->hole_off || item->off >= s->hole_end) {
		uint64_t len = q->f->size - item->off;
		bool data = true;

		if (item->off >= q->f->size)
			return true;
		if (file_status(q->f, item->off, &len, &data) || !len)
			return false;
		s->hole_off = item->off;
		s->hole_end = item->off + len;
		s->hole = !data;
	}
	return s->hole && item->len <= s->hole_end - item->off;
}

static bool stream_next(struct q2 *q, struct q2_stream *s, struct q2_item *item)
{
	do {
		if (!s->next(s, item))
			return false;
	} while (s->skip_holes && in_hole(q, s, item));
	return true;
}

static int stream_loop(struct q2 *q, struct q2_stream *s, struct slot *slots)
{
	unsigned head = 0, tail = 0;	/* slots [head, tail) are being read; counted modulo depth */
	bool more = true;
	int ret;

	for (;;) {
		while (more && tail - head < STREAM_DEPTH) {
			struct slot *t = &slots[tail % STREAM_DEPTH];

			ret = slot_wait(q, t);	/* for its write */
			if (ret)
				return ret;
			more = stream_next(q, s, &t->item);
			if (!more)
				break;
			ret = slot_fit(q, t);
			if (ret)
				return ret;
			slot_submit(q, t, IO_READ);
			tail++;
		}
		if (head == tail)
			return 0;
		struct slot *h = &slots[head++ % STREAM_DEPTH];

		ret = slot_wait(q, h);
		if (!ret)
			ret = s->work(s, &h->item, h->buf);
		if (ret < 0)
			return ret;
		if (ret)
			slot_submit(q, h, IO_WRITE);
	}
}

int q2_stream_run(struct q2 *q, struct q2_stream *s)
{
	struct slot slots[STREAM_DEPTH];
	int ret, r2;

	memset(slots, 0, sizeof(slots));
	ret = stream_loop(q, s, slots);
	for (unsigned i = 0; i < STREAM_DEPTH; i++) {
		r2 = slot_wait(q, &slots[i]);
		if (!ret)
			ret = r2;
		free(slots[i].buf);
	}
	return ret;
}

/* -------------------------------------------------------------- refcounts */

uint64_t q2_ref_max(unsigned order)
{
	return order == 6 ? UINT64_MAX : (1ULL << (1u << order)) - 1;
}

int q2_refcount(struct q2 *q, uint64_t cluster, uint64_t *value)
{
	uint64_t b = cluster >> q->rb_bits, i = cluster & ((1ULL << q->rb_bits) - 1);
	uint64_t byte = i << q->order >> 3;
	uint8_t v[8];
	int ret;

	*value = 0;
	if (b >= q->rt_size || !q->rt[b])
		return 0;
	ret = q2_read(q, v, MAX(1u, 1u << q->order >> 3), q->rt[b] + byte, "a refcount");
	if (!ret)
		*value = qcow2_rc_get(v, q->order < 3 ? i & ((8u >> q->order) - 1) : 0, q->order);
	return ret;
}

/* one run through the refcount blocks that some counters concern */
struct apply {
	struct q2 *q;
	struct counts *d;
	bool up, dry;
	struct counts *single;		/* dry: which ones would come down to 1 */
	uint64_t next;			/* cluster to go on from */
	uint64_t values[COUNT_CHUNK];	/* expanded chunk, and which */
	uint64_t values_no;
};

static bool apply_next(struct q2_stream *s, struct q2_item *item)
{
	struct apply *a = s->arg;
	struct q2 *q = a->q;
	uint64_t c = counts_next(a->d, a->next), b = c >> q->rb_bits;

	if (c == COUNT_END || b >= q->rt_size || !q->rt[b])
		return false;	/* the caller looks whether something is left */
	item->off = q->rt[b];
	item->len = q->csize;
	item->tag = b;
	a->next = (b + 1) << q->rb_bits;
	return true;
}

static int apply_bad(struct apply *a, uint64_t cluster, uint64_t have, uint64_t delta)
{
	struct q2 *q = a->q;

	if (!a->up || have == 0)
		return err_set(q->err, -EUCLEAN,
			       "%s: cluster 0x%llx has refcount %llu, but is referred to more often: the image needs repair",
			       q->img->name, (unsigned long long)(cluster << q->bits),
			       (unsigned long long)have);
	return err_set(q->err, -E2BIG,
		       "%s: cluster 0x%llx has refcount %llu and needs %llu more, which %u bits cannot hold",
		       q->img->name, (unsigned long long)(cluster << q->bits),
		       (unsigned long long)have, (unsigned long long)delta, 1u << q->order);
}

static int apply_part(struct apply *a, uint8_t *buf, uint64_t cluster, uint64_t n)
{
	struct q2 *q = a->q;
	uint64_t base = cluster & ((1ULL << q->rb_bits) - 1), max = q2_ref_max(q->order);
	const uint64_t *v = a->values + (cluster & (COUNT_CHUNK - 1));

	for (uint64_t i = 0; i < n; i++) {
		uint64_t have;

		if (!v[i])
			continue;
		have = qcow2_rc_get(buf, base + i, q->order);
		if (a->up ? have == 0 || v[i] > max - have : v[i] > have)
			return apply_bad(a, cluster + i, have, v[i]);
		if (a->single && have - v[i] == 1 && counts_set(a->single, cluster + i, 1))
			return err_errno(q->err, -ENOMEM, "%s", q->img->name);
		if (!a->dry)
			qcow2_rc_set(buf, base + i, q->order, a->up ? have + v[i] : have - v[i]);
	}
	return 0;
}

static int apply_work(struct q2_stream *s, const struct q2_item *item, uint8_t *buf)
{
	struct apply *a = s->arg;
	uint64_t c = item->tag << a->q->rb_bits, end = (item->tag + 1) << a->q->rb_bits;
	int ret;

	while (c < end) {
		uint64_t no = c >> COUNT_CHUNK_BITS, n = MIN(end, (no + 1) << COUNT_CHUNK_BITS) - c;

		if (no != a->values_no) {
			if (!counts_expand(a->d, c, a->values))
				memset(a->values, 0, sizeof(a->values));
			a->values_no = no;
		}
		ret = apply_part(a, buf, c, n);
		if (ret)
			return ret;
		c += n;
	}
	return !a->dry;
}

static int apply_run(struct q2 *q, struct counts *d, bool up, bool dry, struct counts *single)
{
	struct apply *a = calloc(1, sizeof(*a));
	struct q2_stream s = {.next = apply_next, .work = apply_work, .arg = a};
	uint64_t rest;
	int ret;

	if (!a)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	*a = (struct apply){.q = q, .d = d, .up = up, .dry = dry, .single = single,
			    .values_no = UINT64_MAX};
	ret = q2_stream_run(q, &s);
	rest = counts_next(d, a->next);
	if (!ret && rest != COUNT_END)
		ret = apply_bad(a, rest, 0, counts_get(d, rest));
	if (!up && !dry && !ret)
		q->hint = 0;
	free(a);
	return ret;
}

int q2_verify(struct q2 *q, struct counts *d, bool up)
{
	return apply_run(q, d, up, true, NULL);
}

int q2_apply(struct q2 *q, struct counts *d, bool up)
{
	return apply_run(q, d, up, false, NULL);
}

int q2_singles(struct q2 *q, struct counts *d, struct counts *single)
{
	return apply_run(q, d, false, true, single);
}

int q2_free(struct q2 *q, uint64_t off, uint64_t bytes)
{
	struct counts d;
	int ret;

	if (!off || !bytes)
		return 0;
	counts_init(&d, Q2_COUNT_MEMORY);
	ret = counts_add(&d, off >> q->bits, div_up(bytes, q->csize), 1);
	if (!ret)
		ret = q2_apply(q, &d, false);
	counts_free(&d);
	return ret;
}

/* ------------------------------------------------------------- allocation */

static int block_read(struct q2 *q, uint64_t b, uint8_t *buf)
{
	return q2_read(q, buf, q->csize, q->rt[b], "a refcount block");
}

/* index of the first zero count at or after @i; fast over full stretches of the usual width */
static uint64_t block_zero(const struct q2 *q, const uint8_t *buf, uint64_t i)
{
	uint64_t n = 1ULL << q->rb_bits;

	while (i < n) {
		if (q->order == 4 && is_aligned(i, 4)) {
			uint64_t w = get_be64(buf + 2 * i);

			if (!((w - 0x0001000100010001ULL) & ~w & 0x8000800080008000ULL)) {
				i += 4;
				continue;
			}
		}
		if (!qcow2_rc_get(buf, i, q->order))
			return i;
		i++;
	}
	return n;
}

/* marks [c, c+n), which are free, as used once, in blocks that exist */
static int mark_used(struct q2 *q, uint64_t c, uint64_t n, uint8_t *buf)
{
	int ret;

	while (n) {
		uint64_t b = c >> q->rb_bits, i = c & ((1ULL << q->rb_bits) - 1);
		uint64_t part = MIN(n, (1ULL << q->rb_bits) - i), first, last;

		ret = block_read(q, b, buf);
		if (ret)
			return ret;
		for (uint64_t k = 0; k < part; k++)
			qcow2_rc_set(buf, i + k, q->order, 1);
		first = round_down(i << q->order >> 3, 512);
		last = round_up(div_up((i + part) << q->order, 8), 512);
		ret = q2_write(q, buf + first, last - first, q->rt[b] + first, "a refcount block");
		if (ret)
			return ret;
		c += part;
		n -= part;
	}
	return 0;
}

/* first run of @n free clusters in blocks [from, to); COUNT_END: none */
static int find_run(struct q2 *q, uint64_t from, uint64_t to, uint64_t n, uint64_t *found,
		    uint8_t *buf)
{
	uint64_t run = 0, per = 1ULL << q->rb_bits;
	uint64_t limit = q->f->block_dev ? q->f->size >> q->bits : COUNT_LIMIT;

	*found = COUNT_END;
	for (uint64_t b = from; b < to; b++) {
		uint64_t i = 0;
		int ret;

		if (!q->rt[b]) {
			run = 0;
			continue;
		}
		ret = block_read(q, b, buf);
		if (ret)
			return ret;
		for (; i < per && run < n; i++) {
			uint64_t z = run ? i : block_zero(q, buf, i);

			i = z;
			if (z == per)
				break;
			run = qcow2_rc_get(buf, i, q->order) ? 0 : run + 1;
		}
		if (run >= n) {
			*found = b * per + i - n;
			if (*found + n > limit)
				*found = COUNT_END;
			return 0;
		}
	}
	return 0;
}

static int64_t last_block(const struct q2 *q)
{
	int64_t b = q->rt_size;

	while (--b >= 0 && !q->rt[b])
		;
	return b;
}

int q2_alloc(struct q2 *q, uint64_t n, uint64_t *off)
{
	int64_t last = last_block(q);
	uint8_t *buf = file_buf(q->csize);
	uint64_t c = COUNT_END;
	int ret = 0;

	if (!buf)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	if (last >= 0)
		ret = find_run(q, last, last + 1, n, &c, buf);
	if (!ret && c == COUNT_END && last > 0) {
		ret = find_run(q, q->hint >> q->rb_bits, last + 1, n, &c, buf);
		if (!ret && c == COUNT_END && n == 1)
			q->hint = (uint64_t)last << q->rb_bits;
	}
	if (!ret && c != COUNT_END) {
		ret = mark_used(q, c, n, buf);
		*off = c << q->bits;
	}
	free(buf);
	if (!ret && c == COUNT_END)
		ret = q2_append(q, n, off);
	return ret;
}

/* one past the last cluster with a count */
static int find_used_end(struct q2 *q, uint64_t *end, uint8_t *buf)
{
	int ret;

	for (int64_t b = last_block(q); b >= 0; b--) {
		if (!q->rt[b])
			continue;
		ret = block_read(q, b, buf);
		if (ret)
			return ret;
		for (uint64_t i = 1ULL << q->rb_bits; i--;)
			if (qcow2_rc_get(buf, i, q->order)) {
				*end = ((uint64_t)b << q->rb_bits) + i + 1;
				return 0;
			}
	}
	*end = 1;
	return 0;
}

int q2_used_end(struct q2 *q, uint64_t *end)
{
	uint8_t *buf = file_buf(q->csize);
	int ret = buf ? find_used_end(q, end, buf) : err_errno(q->err, -ENOMEM, "%s", q->img->name);

	free(buf);
	return ret;
}

/* what an append is made of, in clusters */
struct plan {
	uint64_t start, blocks, table, n;	/* in this order in the file */
	uint64_t first_block;			/* number of the first new one */
	uint64_t rt_entries;			/* of the table afterwards */
};

static int plan_append(struct q2 *q, uint64_t n, struct plan *p)
{
	uint64_t total = n, last;

	p->n = n;
	p->first_block = last_block(q) + 1;
	for (;;) {
		last = (p->start + total - 1) >> q->rb_bits;
		p->blocks = last >= p->first_block ? last + 1 - p->first_block : 0;
		p->rt_entries = q->rt_size;
		p->table = 0;
		if (last >= q->rt_size) {
			p->table = div_up((last + 1) * 8, q->csize);
			p->table = MIN(p->table + p->table / 2, QCOW2_MAX_RT >> q->bits);
			p->rt_entries = p->table << (q->bits - 3);
		}
		if (last >= p->rt_entries)
			return err_set(q->err, -EFBIG,
				       "%s: the refcount table cannot become large enough",
				       q->img->name);
		if (total == n + p->blocks + p->table)
			break;
		total = n + p->blocks + p->table;
	}
	if (q->f->block_dev && (p->start + total) << q->bits > q->f->size)
		return err_errno(q->err, -ENOSPC, "%s", q->img->name);
	return 0;
}

/* the new blocks, counting [start, end of the plan) */
static int write_blocks(struct q2 *q, const struct plan *p, uint8_t *buf)
{
	uint64_t end = p->start + p->blocks + p->table + p->n;
	int ret;

	for (uint64_t k = 0; k < p->blocks; k++) {
		uint64_t base = (p->first_block + k) << q->rb_bits;
		uint64_t lo = MAX(p->start, base), hi = MIN(end, base + (1ULL << q->rb_bits));

		memset(buf, 0, q->csize);
		for (uint64_t c = lo; c < hi; c++)
			qcow2_rc_set(buf, c - base, q->order, 1);
		ret = q2_write(q, buf, q->csize, (p->start + k) << q->bits, "a refcount block");
		if (ret)
			return ret;
	}
	return 0;
}

/* names the new blocks in the table: in place, or in a longer one that the header then names */
static int publish_blocks(struct q2 *q, const struct plan *p)
{
	uint64_t old_off = q->rt_off, old_bytes = (uint64_t)q->rt_size * 8;
	uint64_t bytes = p->rt_entries * 8, at = p->first_block * 8;
	uint8_t *t;
	int ret;

	if (!p->blocks)
		return 0;
	t = calloc(1, bytes);
	if (!t)
		return err_errno(q->err, -ENOMEM, "%s: refcount table", q->img->name);
	for (uint64_t i = 0; i < q->rt_size; i++)
		put_be64(t + 8 * i, q->rt[i]);
	for (uint64_t k = 0; k < p->blocks; k++)
		put_be64(t + at + 8 * k, (p->start + k) << q->bits);
	if (!p->table) {
		ret = q2_write(q, t + at, p->blocks * 8, q->rt_off + at, "the refcount table");
		if (!ret)
			ret = q2_flush(q);
	} else {
		uint64_t off = (p->start + p->blocks) << q->bits;

		ret = q2_write(q, t, bytes, off, "the refcount table");
		if (!ret) {
			put_be64(q->head + 48, off);
			put_be32(q->head + 56, p->table);
			ret = q2_switch(q, 48, 12);
		}
	}
	free(t);
	if (!ret)
		ret = q2_parse(q);
	if (!ret)
		ret = q2_load_rt(q);
	if (!ret && p->table)
		ret = q2_free(q, old_off, old_bytes);
	return ret;
}

int q2_append(struct q2 *q, uint64_t n, uint64_t *off)
{
	struct plan p = {0};
	uint8_t *buf = file_buf(q->csize);
	uint64_t covered;
	int ret;

	if (!buf)
		return err_errno(q->err, -ENOMEM, "%s", q->img->name);
	ret = find_used_end(q, &p.start, buf);
	if (!ret)
		ret = plan_append(q, n, &p);
	covered = p.first_block << q->rb_bits;
	if (!ret && covered > p.start)
		ret = mark_used(q, p.start, MIN(covered - p.start, p.blocks + p.table + n), buf);
	if (!ret)
		ret = write_blocks(q, &p, buf);
	if (!ret)
		ret = q2_flush(q);
	if (!ret)
		ret = publish_blocks(q, &p);
	*off = (p.start + p.blocks + p.table) << q->bits;
	free(buf);
	return ret;
}
