/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-bitdir.c - the directory of persistent bitmaps: read and built
 *
 *	entry:	0 table offset | 8 table entries | 12 flags | 16 type | 17 granularity bits
 *		18 name length | 20 extra data length | extra data | name | zeroes up to 8
 */
#include <stdlib.h>

#include "qcow2-adm.h"

#define FIXED 24u

uint8_t *q2_ext(struct q2 *q, uint32_t type, uint32_t *len)
{
	uint64_t at = q->version >= 3 ? get_be32(q->head + QH_HEADER_LEN) : QH_V2_LEN;
	uint64_t end = get_be64(q->head + QH_BACKING_OFF);

	if (!end || end > q->csize)
		end = q->csize;
	while (checked_range(at, 8, end)) {
		uint32_t t = get_be32(q->head + at), n = get_be32(q->head + at + 4);

		at += 8;
		if (t == QCOW2_EXT_END || n > end - at)
			break;
		if (t == type) {
			*len = n;
			return q->head + at;
		}
		at += round_up(n, 8);
	}
	return NULL;
}

uint64_t q2_bm_bytes(uint64_t size, unsigned gran_bits)
{
	uint64_t bits = (size >> gran_bits) + !is_aligned(size, 1ULL << gran_bits);

	return div_up(bits, 8);
}

static int dir_bad(struct q2 *q, uint32_t i, const char *what, uint64_t value)
{
	return err_set(q->err, -EUCLEAN, "%s: bitmap directory entry %u: %s 0x%llx", q->img->name, i,
		       what, (unsigned long long)value);
}

/* one entry at @p of @left bytes; *used: its length */
static int dir_entry(struct q2 *q, struct q2_bm *b, uint32_t i, const uint8_t *p, uint64_t left,
		     uint64_t *used)
{
	unsigned nname;

	if (left < FIXED)
		return dir_bad(q, i, "past the end, bytes left:", left);
	b->table_off = get_be64(p);
	b->table_size = get_be32(p + 8);
	b->flags = get_be32(p + 12);
	b->type = p[16];
	b->gran_bits = p[17];
	nname = get_be16(p + 18);
	b->nextra = get_be32(p + 20);
	*used = round_up(FIXED + (uint64_t)b->nextra + nname, 8);
	if (*used > left)
		return dir_bad(q, i, "past the end, length", *used);
	if (b->flags & ~(BITMAP_IN_USE | BITMAP_AUTO | BITMAP_EXTRA_OK))
		return dir_bad(q, i, "unknown flags", b->flags);
	if (b->type != 1)
		return dir_bad(q, i, "unknown type", b->type);
	if (b->gran_bits < 9 || b->gran_bits > 31)
		return dir_bad(q, i, "granularity bits", b->gran_bits);
	if (!nname || nname > 1023)
		return dir_bad(q, i, "name length", nname);
	if (!b->table_size || b->table_size > BITMAP_TABLE_MAX)
		return dir_bad(q, i, "table entries", b->table_size);
	if ((uint64_t)b->table_size << q->bits > round_up(BITMAP_BYTES_MAX, q->csize))
		return dir_bad(q, i, "too much data, bytes", (uint64_t)b->table_size << q->bits);
	if (!q2_table_ok(q, b->table_off, b->table_size * 8ULL))
		return dir_bad(q, i, "table offset", b->table_off);
	b->name = strndup((const char *)p + FIXED + b->nextra, nname);
	b->extra = malloc(MAX(b->nextra, 1u));
	if (!b->name || !b->extra)
		return err_errno(q->err, -ENOMEM, "%s: bitmap directory", q->img->name);
	memcpy(b->extra, p + FIXED, b->nextra);
	return 0;
}

static int dir_parse(struct q2 *q, struct q2_bdir *d, uint32_t n, const uint8_t *buf)
{
	uint64_t at = 0, used = 0;

	for (; d->n < n; d->n++) {
		struct q2_bm *b = &d->b[d->n];
		int ret = dir_entry(q, b, d->n, buf + at, d->bytes - at, &used);

		if (ret) {
			q2_bm_clear(b);
			return ret;
		}
		b->entry_off = d->off + at;
		at += used;
	}
	return at == d->bytes ? 0 : err_set(q->err, -EUCLEAN,
					    "%s: %llu bytes too many in the bitmap directory",
					    q->img->name, (unsigned long long)(d->bytes - at));
}

int q2_bdir_load(struct q2 *q, struct q2_bdir *d)
{
	uint32_t len = 0, n;
	const uint8_t *x = q2_ext(q, QCOW2_EXT_BITMAPS, &len);
	uint8_t *buf;
	int ret;

	memset(d, 0, sizeof(*d));
	d->valid = q->autoclear & QCOW2_AUTO_BITMAPS;
	if (!x)
		return 0;
	if (len != 24 || get_be32(x + 4))
		return err_set(q->err, -EUCLEAN, "%s: bitmaps extension of %u bytes, reserved field 0x%x",
			       q->img->name, len, len >= 8 ? get_be32(x + 4) : 0);
	n = get_be32(x);
	d->bytes = get_be64(x + 8);
	d->off = get_be64(x + 16);
	if (!n || n > BITMAPS_MAX || !d->bytes || d->bytes > BITMAP_DIR_MAX ||
	    d->bytes < (uint64_t)n * (FIXED + 1) || !q2_table_ok(q, d->off, d->bytes) ||
	    !checked_range(d->off, d->bytes, round_up(q->end, q->csize)))
		return err_set(q->err, -EUCLEAN,
			       "%s: bitmap directory of %u bitmaps in %llu bytes at 0x%llx",
			       q->img->name, n, (unsigned long long)d->bytes,
			       (unsigned long long)d->off);
	buf = malloc(d->bytes);
	d->b = calloc(n, sizeof(*d->b));
	if (!buf || !d->b)
		ret = err_errno(q->err, -ENOMEM, "%s: bitmap directory", q->img->name);
	else
		ret = q2_read(q, buf, d->bytes, d->off, "the bitmap directory");
	if (!ret)
		ret = dir_parse(q, d, n, buf);
	free(buf);
	if (ret)
		q2_bdir_free(d);
	return ret;
}

void q2_bm_clear(struct q2_bm *b)
{
	free(b->name);
	free(b->extra);
	memset(b, 0, sizeof(*b));
}

void q2_bdir_free(struct q2_bdir *d)
{
	for (uint32_t i = 0; i < d->n; i++)
		q2_bm_clear(&d->b[i]);
	free(d->b);
	d->b = NULL;
	d->n = 0;
}

int q2_bdir_build(struct q2 *q, const struct q2_bdir *d, uint8_t **buf, uint64_t *bytes)
{
	uint64_t len = 0;
	uint8_t *p;

	for (uint32_t i = 0; i < d->n; i++)
		len += round_up(FIXED + (uint64_t)d->b[i].nextra + strlen(d->b[i].name), 8);
	if (d->n > BITMAPS_MAX || len > BITMAP_DIR_MAX)
		return err_set(q->err, -EFBIG, "%s: too many bitmaps", q->img->name);
	*bytes = len;
	*buf = p = calloc(1, round_up(len, q->csize) + 8);
	if (!p)
		return err_errno(q->err, -ENOMEM, "%s: bitmap directory", q->img->name);
	for (uint32_t i = 0; i < d->n; i++) {
		const struct q2_bm *b = &d->b[i];
		unsigned nname = strlen(b->name);

		put_be64(p, b->table_off);
		put_be32(p + 8, b->table_size);
		put_be32(p + 12, b->flags);
		p[16] = b->type;
		p[17] = b->gran_bits;
		put_be16(p + 18, nname);
		put_be32(p + 20, b->nextra);
		memcpy(p + FIXED, b->extra, b->nextra);
		memcpy(p + FIXED + b->nextra, b->name, nname);
		p += round_up(FIXED + (uint64_t)b->nextra + nname, 8);
	}
	return 0;
}
