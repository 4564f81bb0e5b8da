/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-snaptab.c - the table of internal snapshots: read, looked up, written
 *
 *	entry:	0 L1 offset | 8 L1 entries | 12 id length | 14 name length | 16 seconds | 20 ns
 *		24 run time | 32 VM state, 32 bits | 36 extra data length | extra data | id | name | pad
 *	extra:	0 VM state, 64 bits | 8 disk size | 16 icount | what others may have added, kept
 *
 * The table is never changed in place: a new one is written to new clusters, and one write of 12
 * bytes in the header (count and place) switches to it (A3).
 */
#include <stdlib.h>

#include "qcow2-adm.h"

#define FIXED 40
#define EXTRA_USUAL 24u

/* ---------------------------------------------------------------- reading */

/* the table as far as it has been read */
struct reader {
	struct q2 *q;
	uint8_t *buf;
	uint64_t have, cap, at;
};

/* makes the next @n bytes available at *p */
static int want(struct reader *r, uint64_t n, const uint8_t **p)
{
	struct q2 *q = r->q;
	uint64_t need = r->at + n;
	int ret;

	if (need > QCOW2_MAX_SNAP_TABLE || need > q->end - MIN(q->end, q->snap_off))
		return err_set(q->err, -EUCLEAN, "%s: snapshot table at 0x%llx runs past %s",
			       q->img->name, (unsigned long long)q->snap_off,
			       need > QCOW2_MAX_SNAP_TABLE ? "64 MiB" : "the end of the file");
	if (need > r->have) {
		uint64_t cap = MAX(round_up(need, 64 * KiB), MIN(r->cap * 2, QCOW2_MAX_SNAP_TABLE));
		uint8_t *b = realloc(r->buf, cap);

		if (!b)
			return err_errno(q->err, -ENOMEM, "%s: snapshot table", q->img->name);
		r->buf = b;
		r->cap = cap;
		ret = q2_read(q, b + r->have, cap - r->have, q->snap_off + r->have,
			      "the snapshot table");
		if (ret)
			return ret;
		r->have = cap;
	}
	*p = r->buf + r->at;
	r->at = need;
	return 0;
}

static char *dup_text(const uint8_t *p, size_t n)
{
	char *s = malloc(n + 1);

	if (s) {
		memcpy(s, p, n);
		s[n] = 0;
	}
	return s;
}

static int read_extra(struct q2 *q, struct q2_snap *s, const uint8_t *p)
{
	s->nextra = MIN(s->stored_extra, QCOW2_MAX_SNAP_EXTRA);
	s->extra = malloc(MAX(s->nextra, 1u));
	if (!s->extra)
		return err_errno(q->err, -ENOMEM, "%s: snapshot table", q->img->name);
	memcpy(s->extra, p, s->nextra);
	if (s->nextra >= 8)
		s->vm_state = get_be64(p);
	s->size_known = s->nextra >= 16;
	s->disk_size = s->size_known ? get_be64(p + 8) : q->size;
	s->icount = s->nextra >= 24 ? (int64_t)get_be64(p + 16) : -1;
	return 0;
}

static int read_entry(struct reader *r, struct q2_snap *s, uint32_t i, bool lax)
{
	struct q2 *q = r->q;
	const uint8_t *p;
	unsigned nid, nname;
	int ret = want(r, FIXED, &p);

	if (ret)
		return ret;
	s->l1_off = get_be64(p);
	s->l1_size = get_be32(p + 8);
	nid = get_be16(p + 12);
	nname = get_be16(p + 14);
	s->sec = get_be32(p + 16);
	s->nsec = get_be32(p + 20);
	s->clock = get_be64(p + 24);
	s->vm_state = get_be32(p + 32);
	s->stored_extra = get_be32(p + 36);
	if (s->stored_extra > QCOW2_MAX_SNAP_EXTRA && !lax)
		return err_set(q->err, -EUCLEAN,
			       "%s: snapshot %u has %u bytes of extra data (at most %u)",
			       q->img->name, i, s->stored_extra, QCOW2_MAX_SNAP_EXTRA);
	ret = want(r, s->stored_extra, &p);
	if (!ret)
		ret = read_extra(q, s, p);
	if (!ret)
		ret = want(r, nid + nname, &p);
	if (ret)
		return ret;
	s->id = dup_text(p, nid);
	s->name = dup_text(p + nid, nname);
	if (!s->id || !s->name)
		return err_errno(q->err, -ENOMEM, "%s: snapshot table", q->img->name);
	return want(r, -r->at & 7, &p) && i + 1 < q->nsnap ? -EUCLEAN : 0;
}

int q2_snaps_load(struct q2 *q, struct q2_snaps *t, bool lax)
{
	struct reader r = {.q = q};
	int ret = 0;

	memset(t, 0, sizeof(*t));
	if (!q->nsnap)
		return 0;
	if (q->nsnap > QCOW2_MAX_SNAPSHOTS)
		return err_set(q->err, -EUCLEAN, "%s: %u snapshots", q->img->name, q->nsnap);
	if (!q2_table_ok(q, q->snap_off, 1))
		return err_set(q->err, -EUCLEAN, "%s: snapshot table at 0x%llx: not a place for it",
			       q->img->name, (unsigned long long)q->snap_off);
	t->s = calloc(q->nsnap, sizeof(*t->s));
	if (!t->s)
		return err_errno(q->err, -ENOMEM, "%s: snapshot table", q->img->name);
	for (; !ret && t->n < q->nsnap; t->n++)
		ret = read_entry(&r, &t->s[t->n], t->n, lax);
	t->bytes = r.at;
	free(r.buf);
	if (ret)
		q2_snaps_free(t);
	return ret;
}

void q2_snap_clear(struct q2_snap *s)
{
	free(s->id);
	free(s->name);
	free(s->extra);
	memset(s, 0, sizeof(*s));
}

void q2_snaps_free(struct q2_snaps *t)
{
	for (uint32_t i = 0; i < t->n; i++)
		q2_snap_clear(&t->s[i]);
	free(t->s);
	memset(t, 0, sizeof(*t));
}

bool q2_snap_l1_there(const struct q2 *q, const struct q2_snap *s)
{
	return !s->l1_size || (s->l1_size <= QCOW2_MAX_L1 / 8 &&
			       q2_table_there(q, s->l1_off, s->l1_size * 8ULL));
}

struct q2_snap *q2_snaps_find(struct q2_snaps *t, const char *id)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (!strcmp(t->s[i].id, id))
			return &t->s[i];
	for (uint32_t i = 0; i < t->n; i++)
		if (!strcmp(t->s[i].name, id))
			return &t->s[i];
	return NULL;
}

/* ---------------------------------------------------------------- writing */

/* v2 entries without extra data stay so unless the VM state needs it */
static uint32_t extra_len(const struct q2_snaps *t, const struct q2_snap *s)
{
	if (t->full || s->vm_state > UINT32_MAX)
		return MAX(s->nextra, EXTRA_USUAL);
	return s->nextra;
}

static uint64_t entry_len(const struct q2_snaps *t, const struct q2_snap *s)
{
	return round_up(FIXED + extra_len(t, s) + strlen(s->id) + strlen(s->name), 8);
}

static void build_entry(const struct q2_snaps *t, const struct q2_snap *s, uint8_t *p)
{
	uint32_t extra = extra_len(t, s);

	put_be64(p, s->l1_off);
	put_be32(p + 8, s->l1_size);
	put_be16(p + 12, strlen(s->id));
	put_be16(p + 14, strlen(s->name));
	put_be32(p + 16, s->sec);
	put_be32(p + 20, s->nsec);
	put_be64(p + 24, s->clock);
	put_be32(p + 32, s->vm_state > UINT32_MAX ? 0 : s->vm_state);
	put_be32(p + 36, extra);
	p += FIXED;
	memcpy(p, s->extra, s->nextra);
	if (extra >= 8)
		put_be64(p, s->vm_state);
	if (extra >= 16)
		put_be64(p + 8, s->disk_size);
	if (extra >= 24)
		put_be64(p + 16, s->icount);
	memcpy(p + extra, s->id, strlen(s->id));
	memcpy(p + extra + strlen(s->id), s->name, strlen(s->name));
}

int q2_snaps_store(struct q2 *q, struct q2_snaps *t)
{
	uint64_t bytes = 0, off = 0, at = 0, old_off = q->snap_off, old_bytes = t->bytes;
	uint8_t *buf = NULL;
	int ret = 0;

	t->full |= q->version >= 3;
	for (uint32_t i = 0; i < t->n; i++)
		bytes += entry_len(t, &t->s[i]);
	if (bytes > QCOW2_MAX_SNAP_TABLE || t->n > QCOW2_MAX_SNAPSHOTS)
		return err_set(q->err, -EFBIG, "%s: the snapshot table would become too large",
			       q->img->name);
	if (bytes) {
		buf = calloc(1, round_up(bytes, q->csize));
		if (!buf)
			return err_errno(q->err, -ENOMEM, "%s: snapshot table", q->img->name);
		for (uint32_t i = 0; i < t->n; at += entry_len(t, &t->s[i++]))
			build_entry(t, &t->s[i], buf + at);
		ret = q2_alloc(q, div_up(bytes, q->csize), &off);
		if (!ret)
			ret = q2_write(q, buf, round_up(bytes, q->csize), off, "the snapshot table");
		free(buf);
	}
	if (!ret) {
		put_be32(q->head + QH_NSNAP, t->n);
		put_be64(q->head + QH_SNAP_OFF, off);
		ret = q2_switch(q, QH_NSNAP, 12);
	}
	if (!ret)
		ret = q2_parse(q);
	if (!ret) {
		t->bytes = bytes;
		ret = q2_free(q, old_off, old_bytes);
	}
	return ret;
}
