/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * rebase.c - giving an image another backing file without changing what it reads
 *
 * Where the image itself holds nothing, what it reads now is compared with what it would read above
 * the new backing file, and clusters that differ are copied into it.  Until the name is switched,
 * after a flush, those copies change nothing; afterwards they are what keeps the contents.  So it
 * is safe at any crash.
 *
 * R1. Zeroes that the new backing file would not show are made explicit, whatever the old one shows.
 * R2. What both chains read from the same place of the same file is not read.
 */
#include <string.h>

#include "checked.h"
#include "image.h"
#include "pump.h"

#define REBASE_PIECE (512 * KiB)
#define REBASE_DEPTH 8

struct rebaser {
	struct pump p;
	struct tapimg *img, *below;	/* below: the new backing file or NULL */
	uint64_t pos, unit;
	bool compress;
	struct tapimg_status top;	/* the image's own layer */
	struct tapimg_status have;	/* through the old chain */
	struct tapimg_status want;	/* through the new one */
};

static int look(struct rebaser *r, struct tapimg *img, uint64_t off, unsigned layers,
		struct tapimg_status *st)
{
	int ret;

	if (off - st->off < st->len)
		return 0;
	if (!img || off >= img->size) {
		*st = (struct tapimg_status){ .off = off, .len = UINT64_MAX - off,
					      .flags = TAPIMG_ST_ZERO };
		return 0;
	}
	ret = tapimg_block_status(img, off, img->size - off, layers, st);
	if (!ret)
		return 0;
	st->len = 0;
	if (img->failure)
		return err_set(r->p.err, ret, "%s: looking up byte %llu: %s", img->name,
			       (unsigned long long)off, img->failure);
	return err_errno(r->p.err, ret, "%s: looking up byte %llu", img->name,
			 (unsigned long long)off);
}

/* R2 */
static bool same_place(const struct tapimg_status *a, const struct tapimg_status *b, uint64_t off)
{
	if (a->flags & b->flags & TAPIMG_ST_ZERO)
		return true;
	return a->flags & b->flags & TAPIMG_ST_OFFSET && !((a->flags | b->flags) & TAPIMG_ST_ZERO) &&
	       a->host + (off - a->off) == b->host + (off - b->off) && a->filename && b->filename &&
	       !strcmp(a->filename, b->filename);
}

static void set_side(struct pump_slot *s, unsigned i, struct tapimg *img, bool zero)
{
	s->side[i].img = zero ? NULL : img;
	s->side[i].off = s->off;
	s->side[i].len = zero ? 0 : MIN(s->len, img->size - s->off);
}

static int rebase_next(struct pump *p, struct pump_slot *s)
{
	struct rebaser *r = container_of(p, struct rebaser, p);

	while (r->pos < r->img->size) {
		uint64_t end = r->img->size;
		int ret = look(r, r->img, r->pos, 1, &r->top);

		p->at = r->pos;
		if (ret)
			return ret;
		end = MIN(end, r->top.off + r->top.len);
		if (r->top.flags & (TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED)) {
			r->pos = end;
			continue;
		}
		ret = look(r, r->img, r->pos, 0, &r->have);
		if (!ret)
			ret = look(r, r->below, r->pos, 0, &r->want);
		if (ret)
			return ret;
		end = MIN(end, r->have.off + r->have.len);
		end = MIN(end, r->want.off + r->want.len);
		if (same_place(&r->have, &r->want, r->pos)) {
			r->pos = end;
			continue;
		}
		s->off = r->pos;
		s->len = MIN(end - r->pos, p->piece - r->pos % p->piece);
		set_side(s, 0, r->img, r->have.flags & TAPIMG_ST_ZERO);
		set_side(s, 1, r->below, r->want.flags & TAPIMG_ST_ZERO);
		r->pos += s->len;
		p->at = r->pos;
		return 1;
	}
	return 0;
}

static bool whole_cluster(const struct rebaser *r, uint64_t off, uint64_t len)
{
	return off % r->unit == 0 && (len == r->unit || off + len == r->img->size);
}

/* What one cluster needs. */
static enum pump_op cluster_op(const struct rebaser *r, const struct pump_slot *s, uint64_t pos,
			       uint64_t len)
{
	const uint8_t *have = s->side[0].buf + pos, *want = s->side[1].buf + pos;

	if (!memcmp(have, want, len))
		return PUMP_SKIP;
	if (!s->side[0].img || pump_is_zero(have, len))
		return PUMP_ZERO;
	return r->compress && whole_cluster(r, s->off + pos, len) ? PUMP_COMPRESSED : PUMP_WRITE;
}

static int rebase_seg(struct pump *p, struct pump_slot *s, struct pump_seg *seg)
{
	struct rebaser *r = container_of(p, struct rebaser, p);
	uint64_t pos = s->pos, n;
	bool first = true;

	for (; pos < s->len; pos += n, first = false) {
		enum pump_op op;

		n = MIN(r->unit - (s->off + pos) % r->unit, s->len - pos);
		op = cluster_op(r, s, pos, n);
		if (!first && (op != seg->op || op == PUMP_COMPRESSED))
			break;
		seg->op = op;
	}
	seg->len = pos - s->pos;
	seg->flags = seg->op == PUMP_ZERO ? REQ_EXPLICIT : 0;	/* R1 */
	return 1;
}

static int rebase_failed(struct pump *p, struct pump_slot *s, unsigned i)
{
	struct tapimg *img = s->side[i].img;

	if (img->failure)
		return err_set(p->err, s->side[i].ret, "error while reading at byte %llu of %s: %s",
			       (unsigned long long)s->off, img->name, img->failure);
	return err_errno(p->err, s->side[i].ret, "error while reading at byte %llu of %s",
			 (unsigned long long)s->off, img->name);
}

static const struct pump_ops rebase_ops = {
	.next = rebase_next,
	.seg = rebase_seg,
	.failed = rebase_failed,
};

int tapimg_rebase(struct tapimg *img, struct tapimg *new_backing, const char *name, const char *format,
		  bool compress, tapimg_progress *progress, void *arg, struct tapimg_err *err)
{
	struct rebaser r = {
		.img = img, .below = new_backing, .compress = compress,
		.unit = MAX(img->cluster, (uint32_t)512),
		.p = { .ops = &rebase_ops, .loop = img->loop, .dst = img, .err = err,
		       .depth = REBASE_DEPTH, .nbufs = 2, .total = img->size,
		       .progress = progress, .arg = arg },
	};
	int ret;

	if (!img->fmt->set_backing)
		return err_set(err, -ENOTSUP, "%s: the %s format has no backing files", img->name,
			       img->fmt->name);
	if (compress && (!img->fmt->encode || img->plain_only))
		return err_set(err, -ENOTSUP, "%s: the %s format cannot hold compressed data",
			       img->name, img->fmt->name);
	if (new_backing && new_backing->loop != img->loop)
		return err_set(err, -EINVAL, "the images belong to different loops");
	if (!img->writable)
		return err_set(err, -EROFS, "%s: not open for writing", img->name);
	if (img->rechained)
		return image_rechained(img, err);
	r.p.piece = MAX(REBASE_PIECE, r.unit);
	ret = pump_run(&r.p);
	if (ret)
		return ret;
	ret = tapimg_flush(img);
	if (ret)
		return err_errno(err, ret, "%s: flushing", img->name);
	return tapimg_set_backing(img, name, format, err);
}
