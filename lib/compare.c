/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compare.c - whether two images hold the same
 *
 * Where both read as zeroes nothing is read, where one does the other is searched for data.  Pieces
 * are looked at in guest order, so that what is found first is what comes first.
 */
#include <string.h>

#include "checked.h"
#include "image.h"
#include "pump.h"

#define COMPARE_PIECE (512 * KiB)
#define COMPARE_DEPTH 8

struct comparer {
	struct pump p;
	struct tapimg *img[2];
	struct tapimg_status st[2];
	struct tapimg_compare *out;
	uint64_t pos;
	bool strict;
};

/* What image @i has at @off; behind its end zeroes. */
static int look(struct comparer *c, unsigned i, uint64_t off)
{
	struct tapimg *img = c->img[i];
	struct tapimg_status *st = &c->st[i];
	int ret;

	if (off - st->off < st->len)
		return 0;
	if (off >= img->size) {
		*st = (struct tapimg_status){ .off = off, .len = UINT64_MAX - off,
					      .flags = TAPIMG_ST_ZERO };
		return 0;
	}
	ret = tapimg_block_status(img, off, img->size - off, 0, st);
	if (!ret)
		return 0;
	st->len = 0;
	c->out->off = off;
	c->out->read_error = (int)i + 1;
	c->out->status_error = true;
	if (img->failure)
		return err_set(c->p.err, ret, "%s: looking up byte %llu: %s", img->name,
			       (unsigned long long)off, img->failure);
	return err_errno(c->p.err, ret, "%s: looking up byte %llu", img->name,
			 (unsigned long long)off);
}

static bool allocation_differs(const struct comparer *c)
{
	const unsigned which = TAPIMG_ST_DATA | TAPIMG_ST_ZERO | TAPIMG_ST_ALLOCATED;

	return (c->st[0].flags & which) != (c->st[1].flags & which);
}

static int compare_next(struct pump *p, struct pump_slot *s)
{
	struct comparer *c = container_of(p, struct comparer, p);

	while (c->pos < p->total) {
		uint64_t len = p->total - c->pos;
		bool zero[2];

		for (unsigned i = 0; i < 2; i++) {
			int ret = look(c, i, c->pos);

			if (ret)
				return ret;
			zero[i] = c->st[i].flags & TAPIMG_ST_ZERO;
			len = MIN(len, c->st[i].off + c->st[i].len - c->pos);
		}
		p->at = c->pos;
		if (c->strict && allocation_differs(c)) {
			/* unless contents before it differ */
			c->out->status_differs = true;
			c->out->off = c->pos;
			return 0;
		}
		if (zero[0] && zero[1]) {
			c->pos += len;
			p->at = c->pos;
			continue;
		}
		len = MIN(len, p->piece - c->pos % p->piece);
		s->off = c->pos;
		s->len = len;
		for (unsigned i = 0; i < 2; i++) {
			s->side[i].img = zero[i] ? NULL : c->img[i];
			s->side[i].off = c->pos;
			s->side[i].len = len;
		}
		c->pos += len;
		p->at = c->pos;
		return 1;
	}
	return 0;
}

static int compare_seg(struct pump *p, struct pump_slot *s, struct pump_seg *seg)
{
	struct comparer *c = container_of(p, struct comparer, p);
	const uint8_t *a = s->side[0].buf, *b = s->side[1].buf;
	uint64_t i = 0;

	seg->op = PUMP_SKIP;
	seg->len = s->len - s->pos;
	if (!memcmp(a, b, s->len))
		return 1;
	while (a[i] == b[i])
		i++;
	c->out->equal = false;
	c->out->status_differs = false;
	c->out->off = s->off + i;
	return 0;
}

static int compare_failed(struct pump *p, struct pump_slot *s, unsigned i)
{
	struct comparer *c = container_of(p, struct comparer, p);
	struct tapimg *img = c->img[i];

	c->out->status_differs = false;
	c->out->off = s->off;
	c->out->read_error = (int)i + 1;
	if (img->failure)
		return err_set(p->err, s->side[i].ret, "error while reading offset %llu of %s: %s",
			       (unsigned long long)s->off, img->name, img->failure);
	return err_errno(p->err, s->side[i].ret, "error while reading offset %llu of %s",
			 (unsigned long long)s->off, img->name);
}

static const struct pump_ops compare_ops = {
	.next = compare_next,
	.seg = compare_seg,
	.failed = compare_failed,
};

int tapimg_compare(struct tapimg *a, struct tapimg *b, bool strict, struct tapimg_compare *out,
		   tapimg_progress *progress, void *arg, struct tapimg_err *err)
{
	struct comparer c = {
		.img = { a, b }, .out = out, .strict = strict,
		.p = { .ops = &compare_ops, .loop = a->loop, .err = err, .depth = COMPARE_DEPTH,
		       .nbufs = 2, .piece = COMPARE_PIECE, .total = MAX(a->size, b->size),
		       .progress = progress, .arg = arg },
	};
	int ret;

	if (a->loop != b->loop)
		return err_set(err, -EINVAL, "the images belong to different loops");
	*out = (struct tapimg_compare){ .equal = true };
	if (strict && a->size != b->size) {
		out->equal = false;
		out->off = MIN(a->size, b->size);
		return 0;
	}
	ret = pump_run(&c.p);
	if (out->status_differs || ret)
		out->equal = false;
	return ret;
}
