/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * copy.c - copying images: the walk over the sources' extents and what is made of them
 *
 * Only metadata is asked where data lies; what reads as zeroes is never read.  What is read is
 * searched for zeroes, so that the target becomes no larger than it must be.
 *
 * C1. A piece begins and ends at multiples of the copying unit in the target where it can: a unit
 *     that holds any data is copied in one go, and small gaps are read over rather than left out.
 * C2. Zeroes are left out when the target reads as zeroes there already; otherwise they are asked
 *     for with one ZERO for the whole range.
 * C3. Writes go out in guest order (see pump.h), so that the result does not depend on timing:
 *     TAPIMG_COPY_UNORDERED finds nothing to lift.
 * C4. Whole compressed clusters only. One that straddles sources is put together first, since what is
 *     written as a stream takes nothing else.
 *
 * It leaves out creating the target, and flushing it.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "checked.h"
#include "image.h"
#include "pump.h"

#define COPY_DEPTH 8
#define COPY_MAX_DEPTH 64
#define COPY_PIECE MiB
#define COPY_PIECE_MAX (16 * MiB)
#define COPY_IN_FLIGHT (32 * MiB)
#define COPY_UNIT (64 * KiB)		/* gaps below this are read over */
#define COPY_ZERO_MAX GiB		/* one ZERO request */
#define OFFLOAD_PIECE (16 * MiB)
#define SECTOR 512

enum kind { KIND_SKIP, KIND_ZERO, KIND_DATA, KIND_LOST };

struct bad {
	uint64_t off, len;
};

struct copier {
	struct pump p;
	const struct tapimg_copy_opts *o;
	struct tapimg *const *srcs;
	unsigned n, cur;
	uint64_t base;			/* target offset of the current source's start (wraps) */
	uint64_t pos;			/* in the current source: all before it is handed out */
	uint64_t total;			/* of all sources, padded to whole sectors if the target is */
	struct tapimg_status st;	/* last answer about the current source */
	uint64_t unit;			/* C1 */
	uint64_t gran;			/* zeroes are looked for in blocks of this */
	bool target_zero;
	bool compress, changed;
	bool exact;			/* nothing of skipped layers is read, not even small gaps */
	bool offload;
	int fd_in, fd_out;		/* offload: of the current source and the target */
	struct tapimg_status dst_st;	/* last answer about the target */
	struct bad lost;		/* salvage: what the source says is missing */
};

/* --------------------------------------------------------------------- the sources */

/* Where the current source ends, for us. */
static uint64_t source_end(const struct copier *c, unsigned i)
{
	uint64_t size = c->srcs[i]->size;

	if (!c->o->src_len)
		return size;
	return c->o->src_off + c->o->src_len;	/* has been checked */
}

/* Reports ranges that could not be read, neighbours as one; the last one with @len 0. */
static void bad_add(struct copier *c, struct bad *bad, uint64_t off, uint64_t len)
{
	if (bad->len && bad->off + bad->len == off) {
		bad->len += len;
		return;
	}
	if (bad->len && c->o->salvaged)
		c->o->salvaged(c->o->arg, bad->off, bad->len);
	*bad = (struct bad){ off, len };
}

/* What the source has at @off (relative to it), and how far that goes. */
static int kind_at(struct copier *c, uint64_t off, enum kind *kind, uint64_t *len)
{
	struct tapimg *src = c->srcs[c->cur];
	struct tapimg_status *st = &c->st;

	if (!(off - st->off < st->len)) {
		int ret = tapimg_block_status(src, off, src->size - off, c->o->skip_layers, st);

		if (ret && c->o->flags & TAPIMG_COPY_SALVAGE) {
			/* unknown: try to read it */
			*st = (struct tapimg_status){
				.off = off, .len = MIN(COPY_UNIT, src->size - off),
				.flags = TAPIMG_ST_DATA
			};
		} else if (ret) {
			st->len = 0;
			if (src->failure)
				return err_set(c->p.err, ret,
					       "error while looking up byte %llu of %s: %s",
					       (unsigned long long)off, src->name, src->failure);
			return err_errno(c->p.err, ret, "error while looking up byte %llu of %s",
					 (unsigned long long)off, src->name);
		}
	}
	*len = MIN(st->off + st->len, source_end(c, c->cur)) - off;
	if (st->flags & TAPIMG_ST_ZERO)
		*kind = KIND_ZERO;
	else if (st->flags & TAPIMG_ST_LOST && c->o->flags & TAPIMG_COPY_SALVAGE)
		*kind = KIND_LOST;
	else
		*kind = st->flags & TAPIMG_ST_DATA ? KIND_DATA : KIND_SKIP;
	return 0;
}

/*
 * The same, with neighbours of one kind taken together: answers may be split by where data lies.
 * Of data no more than one piece, so that nothing is looked up again and again.
 */
static int kind_run(struct copier *c, uint64_t off, enum kind *kind, uint64_t *len)
{
	uint64_t size = source_end(c, c->cur), more;
	enum kind k;
	int ret = kind_at(c, off, kind, len);

	while (!ret && *len < (*kind == KIND_DATA ? c->p.piece : COPY_ZERO_MAX) &&
	       off + *len < size) {
		ret = kind_at(c, off + *len, &k, &more);
		if (ret || k != *kind)
			break;
		*len += more;
	}
	return ret;
}

/* On to the next source that has anything left; false at the end. */
static bool source_left(struct copier *c)
{
	while (c->cur < c->n && c->pos == source_end(c, c->cur)) {
		c->base += c->pos;
		c->pos = 0;
		c->cur++;
		c->st.len = 0;
	}
	return c->cur < c->n;
}

/* C4: where in the current source the cluster begins that it shares with the next one; else its end. */
static uint64_t joint_at(const struct copier *c)
{
	uint64_t size = source_end(c, c->cur), end = c->base + size, start = round_down(end, c->unit);

	if (!c->compress || c->changed || c->cur + 1 == c->n || start == end)
		return size;
	return MAX(start - c->base, c->pos);
}

/* C1: the data piece from c->pos on; @len: of data known to be there. */
static int data_len(struct copier *c, uint64_t *len)
{
	uint64_t at = c->base + c->pos, run;
	uint64_t limit = MIN(round_down(at, c->p.piece) + c->p.piece, c->base + joint_at(c));
	uint64_t end = at + *len;
	enum kind kind;

	while (end < limit) {
		uint64_t whole;
		int ret = kind_run(c, end - c->base, &kind, &run);

		if (ret)
			return ret;
		if (kind == KIND_SKIP && c->exact)
			break;
		whole = round_up(end, c->unit);
		if (kind != KIND_DATA && end + run >= whole + c->unit) {
			end = whole;
			break;
		}
		end += run;
	}
	*len = MIN(end, limit) - at;
	return 0;
}

/* ---------------------------------------------------------------------- the target */

/* Bytes at @off that the target reads as zeroes already; 0: it holds something. */
static uint64_t target_zero_len(struct copier *c, uint64_t off, uint64_t len, uint64_t *other)
{
	struct tapimg_status *st = &c->dst_st;

	*other = len;
	if (c->target_zero)
		return len;
	if (!(off - st->off < st->len) && tapimg_block_status(c->p.dst, off, len, 0, st)) {
		st->len = 0;	/* no harm: zeroes are asked for */
		return 0;
	}
	*other = MIN(len, st->off + st->len - off);
	if (!st->len || !(st->flags & TAPIMG_ST_ZERO))
		return 0;
	return *other;
}

/* --------------------------------------------------------------------- offloading */

static int plain_fd(const struct tapimg *img)
{
	if (!img->fmt->raw || img->opts.offset || img->opts.size || img->file->block_dev ||
	    img->backing || !img->file->ops->fd)
		return -1;
	return img->file->ops->fd(img->file);
}

static void offload_job(struct pump_slot *s)
{
	struct copier *c = container_of(s->p, struct copier, p);
	uint64_t done = 0;

	s->job_ret = 0;
	while (done < s->len) {
		off_t in = (off_t)(s->side[0].off + done), out = (off_t)(s->off + done);
		ssize_t n = copy_file_range(c->fd_in, &in, c->fd_out, &out, s->len - done, 0);

		if (n <= 0) {
			s->job_ret = n ? -errno : -EIO;	/* it is then copied the long way */
			return;
		}
		done += (uint64_t)n;
	}
}

static void offload_over(struct pump_slot *s)
{
	if (s->job_ret)
		file_written(s->p->dst->file, 0, 0);
	else
		file_written(s->p->dst->file, s->off, s->len);
}

/* One file as another's copy, sharing its blocks where the file system can.  Holes stay holes. */
static bool clone_whole(struct copier *c)
{
	struct tapimg *src = c->srcs[0], *dst = c->p.dst;
	int fd_in = plain_fd(src), fd_out = plain_fd(dst);

	if (c->n != 1 || !c->target_zero || !c->o->sparse_size || c->o->skip_layers || c->o->src_off ||
	    c->o->src_len || c->o->flags & TAPIMG_COPY_SALVAGE || fd_in < 0 || fd_out < 0 || dst->size < src->size)
		return false;
	if (ioctl(fd_out, FICLONE, fd_in))
		return false;
	file_written(dst->file, 0, src->file->size);
	return true;
}

/* Hands the piece to the kernel if both ends are plain files. */
static void offload_piece(struct copier *c, struct pump_slot *s)
{
	c->fd_in = plain_fd(c->srcs[c->cur]);
	if (c->fd_in < 0 || s->side[0].len != s->len)
		return;
	s->job = offload_job;
}

/* ------------------------------------------------------------------------- salvage */

/* Reads again in ever smaller parts; single sectors that cannot be read become zeroes. */
static void salvage_range(struct copier *c, struct pump_slot *s, uint64_t pos, uint64_t len,
			  struct bad *bad)
{
	struct pump_side *side = &s->side[0];
	uint64_t at = side->off + pos, half;

	if (!tapimg_pread(side->img, side->buf + pos, len, at))
		return;
	if (len <= SECTOR) {
		memset(side->buf + pos, 0, len);
		bad_add(c, bad, s->off + pos, len);
		return;
	}
	half = MAX(round_down(len / 2, SECTOR), (uint64_t)SECTOR);
	salvage_range(c, s, pos, half, bad);
	salvage_range(c, s, pos + half, len - half, bad);
}

/* Where in the side's range the trouble begins: the first part that cannot be read. */
static uint64_t first_bad(const struct pump_side *side)
{
	uint64_t pos = 0, n;

	for (uint64_t step = COPY_UNIT; step >= SECTOR; step /= 128) {
		for (; pos < side->len; pos += n) {
			n = MIN(step, side->len - pos);
			if (tapimg_pread(side->img, side->buf + pos, n, side->off + pos))
				break;
		}
		if (pos == side->len)
			return side->off;	/* now all of it could be read */
	}
	return side->off + pos;
}

static int read_failed(struct copier *c, struct pump_side *side)
{
	uint64_t at = first_bad(side);

	if (side->img->failure)
		return err_set(c->p.err, side->ret, "error while reading at byte %llu of %s: %s",
			       (unsigned long long)at, side->img->name, side->img->failure);
	return err_errno(c->p.err, side->ret, "error while reading at byte %llu of %s",
			 (unsigned long long)at, side->img->name);
}

/* ------------------------------------------------------------------- the pump's calls */

static void set_side(struct pump_slot *s, unsigned i, struct tapimg *img, uint64_t off, uint64_t len)
{
	s->side[i].img = img;
	s->side[i].off = off;
	s->side[i].len = len;
}

static int next_zero(struct copier *c, struct pump_slot *s, uint64_t len)
{
	uint64_t other, at = c->base + c->pos, done;

	if (!c->o->sparse_size && !c->changed) {
		len = MIN(len, c->p.piece);
		set_side(s, 0, NULL, 0, 0);	/* the pump fills it with zeroes */
	} else {
		done = target_zero_len(c, at, len, &other);
		if (done) {
			c->pos += done;
			return 0;
		}
		len = MIN(other, COPY_ZERO_MAX);
		s->zero = true;
	}
	s->off = at;
	s->len = len;
	c->pos += len;
	return 1;
}

static int next_data(struct copier *c, struct pump_slot *s, uint64_t len)
{
	struct tapimg *src = c->srcs[c->cur];
	int ret = data_len(c, &len);

	if (ret)
		return ret;
	s->off = c->base + c->pos;
	s->len = len;
	set_side(s, 0, src, c->pos, len);
	/* the last sector of a source that does not fill it */
	if (c->cur + 1 == c->n && c->pos + len == source_end(c, c->cur) &&
	    c->total > s->off + len)
		s->len = MIN(c->total - s->off, c->p.piece);
	if (c->changed)
		set_side(s, 1, c->p.dst, s->off, s->len);
	else if (c->offload)
		offload_piece(c, s);
	c->pos += len;
	return 1;
}

/* C4: a cluster whose bytes come from more than one source. */
static int next_joint(struct copier *c, struct pump_slot *s)
{
	struct pump_side *side = &s->side[0];
	uint64_t done = 0, n;

	s->off = c->base + c->pos;
	s->len = MIN(c->unit, c->total - s->off);
	s->filled = true;
	for (; done < s->len && source_left(c); done += n, c->pos += n) {
		n = MIN(s->len - done, source_end(c, c->cur) - c->pos);
		if (c->o->flags & TAPIMG_COPY_SALVAGE) {
			set_side(s, 0, c->srcs[c->cur], c->pos - done, done + n);
			salvage_range(c, s, done, n, &c->lost);
			continue;
		}
		side->ret = tapimg_pread(c->srcs[c->cur], side->buf + done, n, c->pos);
		if (side->ret) {
			set_side(s, 0, c->srcs[c->cur], c->pos, n);
			return read_failed(c, side);
		}
	}
	memset(side->buf + done, 0, s->len - done);
	set_side(s, 0, NULL, 0, 0);
	return 1;
}

static int copy_next(struct pump *p, struct pump_slot *s)
{
	struct copier *c = container_of(p, struct copier, p);

	while (source_left(c)) {
		uint64_t size = joint_at(c), at = c->base + c->pos, len, end;
		enum kind kind;
		int ret;

		if (c->pos == size) {
			ret = next_joint(c, s);
			p->at = c->base + c->pos;
			return ret;
		}
		ret = kind_run(c, c->pos, &kind, &len);
		len = MIN(len, size - c->pos);

		if (ret)
			return ret;
		p->at = at;
		end = at + len;
		if (kind != KIND_DATA && c->pos + len < size && !c->exact)
			end = MAX(round_down(end, c->unit), at);
		if (kind == KIND_DATA || end == at) {
			ret = next_data(c, s, len);
		} else if (kind == KIND_ZERO || kind == KIND_LOST) {
			ret = next_zero(c, s, end - at);
			if (kind == KIND_LOST)
				bad_add(c, &c->lost, at, c->base + c->pos - at);
		} else {
			c->pos += end - at;
			ret = 0;
		}
		p->at = c->base + c->pos;
		if (ret)
			return ret;
	}
	return 0;
}

static int seg_zero(struct copier *c, struct pump_seg *seg, uint64_t len)
{
	seg->op = c->target_zero ? PUMP_SKIP : PUMP_ZERO;
	seg->flags = TAPIMG_REQ_MAY_UNMAP;
	seg->len = len;
	return 1;
}

static bool whole_cluster(const struct copier *c, uint64_t off, uint64_t len)
{
	return off % c->unit == 0 && (len == c->unit || off + len == c->p.dst->size);
}

/* Whole clusters, each by itself. */
static int seg_compressed(struct copier *c, struct pump_slot *s, struct pump_seg *seg)
{
	uint64_t at = s->off + s->pos, left = s->len - s->pos;
	const uint8_t *buf = s->side[0].buf + s->pos;
	uint64_t len = MIN(c->unit - at % c->unit, left), zero = 0;

	while (c->o->sparse_size && zero < left) {
		uint64_t n = MIN(c->unit - (at + zero) % c->unit, left - zero);

		if (!pump_is_zero(buf + zero, n))
			break;
		zero += n;
	}
	if (zero)
		return seg_zero(c, seg, zero);
	seg->len = len;
	seg->op = whole_cluster(c, at, len) ? PUMP_COMPRESSED : PUMP_WRITE;	/* C4 */
	return 1;
}

/* Length of data from the slot's position on: up to zeroes worth leaving out. */
static uint64_t seg_data_len(struct copier *c, struct pump_slot *s)
{
	const uint8_t *buf = s->side[0].buf;
	uint64_t pos = s->pos, zero;

	while (pos < s->len) {
		pos += pump_data_len(buf + pos, s->len - pos, s->off + pos, c->gran);
		zero = pump_zero_len(buf + pos, s->len - pos, s->off + pos, c->gran);
		if (zero >= MIN(c->o->sparse_size, s->len - pos))
			break;
		pos += zero;
	}
	return pos - s->pos;
}

/* Only what the target does not read as already, cluster by cluster. */
static int seg_changed(struct copier *c, struct pump_slot *s, struct pump_seg *seg)
{
	const uint8_t *want = s->side[0].buf, *have = s->side[1].buf;
	uint64_t pos = s->pos, n;
	bool differs, first = true;

	for (; pos < s->len; pos += n, first = false) {
		n = MIN(c->unit - (s->off + pos) % c->unit, s->len - pos);
		differs = memcmp(want + pos, have + pos, n);
		if (!first && (c->compress || differs != (seg->op != PUMP_SKIP)))
			break;
		seg->op = PUMP_SKIP;
		if (differs)
			seg->op = c->compress && whole_cluster(c, s->off + pos, n)
					  ? PUMP_COMPRESSED : PUMP_WRITE;
	}
	seg->len = pos - s->pos;
	return 1;
}

static int copy_seg(struct pump *p, struct pump_slot *s, struct pump_seg *seg)
{
	struct copier *c = container_of(p, struct copier, p);
	uint64_t len;

	if (s->zero)
		return seg_zero(c, seg, s->len);
	if (c->changed)
		return seg_changed(c, s, seg);
	if (c->compress)
		return seg_compressed(c, s, seg);
	seg->op = PUMP_WRITE;
	seg->len = s->len - s->pos;
	if (!c->o->sparse_size)
		return 1;
	len = seg_data_len(c, s);
	if (!len)
		return seg_zero(c, seg, pump_zero_len(s->side[0].buf + s->pos, s->len - s->pos,
						      s->off + s->pos, c->gran));
	seg->len = len;
	return 1;
}

static int copy_failed(struct pump *p, struct pump_slot *s, unsigned i)
{
	struct copier *c = container_of(p, struct copier, p);
	struct pump_side *side = &s->side[i];
	struct bad bad = { 0 };

	if (i == 0 && c->o->flags & TAPIMG_COPY_SALVAGE) {
		salvage_range(c, s, 0, side->len, &bad);
		bad_add(c, &bad, 0, 0);
		return 0;
	}
	return read_failed(c, side);
}

static const struct pump_ops copy_ops = {
	.next = copy_next,
	.seg = copy_seg,
	.failed = copy_failed,
	.job_over = offload_over,
};

/* ------------------------------------------------------------------------- setting up */

static uint64_t pow2_floor(uint64_t v)
{
	return v ? 1ULL << (63 - __builtin_clzll(v)) : 1;
}

static void copy_sizes(struct copier *c)
{
	const struct tapimg_copy_opts *o = c->o;
	struct tapimg *dst = c->p.dst;
	uint64_t cluster = dst->cluster, piece = COPY_PIECE;

	c->gran = MAX(pow2_floor(o->sparse_size), (uint64_t)SECTOR);
	c->unit = MIN(MAX(cluster, 4 * KiB), COPY_UNIT);
	if (!cluster)
		c->unit = COPY_UNIT;
	if (c->changed || o->skip_layers)
		c->unit = MAX(cluster, 4 * KiB);
	if (c->compress)
		c->unit = cluster;		/* C4: one cluster is compressed at a time */
	if (c->offload)
		c->unit = 4 * KiB;
	/* a zero range smaller than a cluster costs more than it gains where it must be written */
	if (!c->target_zero)
		c->gran = MAX(c->gran, MIN(cluster, COPY_UNIT));
	if (c->offload)
		piece = OFFLOAD_PIECE;
	c->p.piece = MIN(MAX(MAX(piece, c->unit), c->gran), COPY_PIECE_MAX);
	c->p.depth = MIN(o->depth ? o->depth : COPY_DEPTH, COPY_MAX_DEPTH);
	/* bytes in flight stay bounded, but for two pieces of whatever size */
	c->p.depth = MIN(c->p.depth, MAX(COPY_IN_FLIGHT / c->p.piece, 2));
	/* where the processor moves the bytes, more pieces than processors only push each other out */
	if (dst->file->copies && c->srcs[0]->file->copies && !c->compress)
		c->p.depth = MIN(c->p.depth, work_threads(dst->loop) + 1);
}

static int copy_check(struct copier *c, uint64_t *total)
{
	struct tapimg *dst = c->p.dst;

	for (unsigned i = 0; i < c->n; i++)
		if (c->srcs[i]->loop != dst->loop)
			return err_set(c->p.err, -EINVAL, "the images belong to different loops");
	if (!dst->writable)
		return err_set(c->p.err, -EROFS, "%s: not open for writing", dst->name);
	if ((c->o->src_off || c->o->src_len) &&
	    (c->n != 1 || !checked_range(c->o->src_off, c->o->src_len, c->srcs[0]->size)))
		return err_set(c->p.err, -EINVAL, "the window lies outside of the source");
	*total = 0;
	for (unsigned i = 0; i < c->n; i++)
		if (!checked_add(*total, c->srcs[i]->size, total))
			return err_set(c->p.err, -EFBIG, "the sources are too large together");
	*total = c->o->src_len ? c->o->src_len : *total - c->o->src_off;
	if (*total > dst->size)
		return err_set(c->p.err, -ENOSPC, "%s is too small: %llu bytes for %llu", dst->name,
			       (unsigned long long)dst->size, (unsigned long long)*total);
	if (c->compress && (!dst->fmt->encode || !dst->cluster || dst->plain_only))
		return err_set(c->p.err, -ENOTSUP, "%s: the %s format cannot hold compressed data",
			       dst->name, dst->fmt->name);
	return 0;
}

int copy_images(struct tapimg *const *srcs, unsigned n, struct tapimg *dst,
		const struct tapimg_copy_opts *opts, uint64_t *moved, struct tapimg_err *err)
{
	struct copier c = {
		.o = opts, .srcs = srcs, .n = n,
		.target_zero = opts->flags & TAPIMG_COPY_TARGET_ZERO,
		.compress = opts->flags & TAPIMG_COPY_COMPRESS || dst->append_only,
		.changed = opts->flags & TAPIMG_COPY_CHANGED,
		.exact = opts->flags & COPY_EXACT,
		.base = -opts->src_off, .pos = opts->src_off,
		.p = { .ops = &copy_ops, .loop = dst->loop, .dst = dst, .err = err,
		       .rate = opts->rate, .progress = opts->progress, .arg = opts->arg },
	};
	uint64_t total = 0;
	int ret = copy_check(&c, &total);

	if (ret)
		return ret;
	c.total = c.p.total = MIN(round_up(total, SECTOR), dst->size);
	c.p.nbufs = c.changed ? 2 : 1;
	if (clone_whole(&c))
		return 0;
	c.fd_out = plain_fd(dst);
	c.offload = c.fd_out >= 0 && opts->flags & TAPIMG_COPY_OFFLOAD && !c.changed;
	copy_sizes(&c);
	ret = pump_run(&c.p);
	bad_add(&c, &c.lost, 0, 0);
	/* closing it would put an end there, which says that all is well */
	if (ret && dst->append_only)
		image_fail(dst, ret, "not all has been copied");
	if (moved)
		*moved = c.p.moved;
	return ret;
}

int tapimg_copy(struct tapimg *const *srcs, unsigned n, struct tapimg *dst,
		const struct tapimg_copy_opts *opts, struct tapimg_err *err)
{
	return copy_images(srcs, n, dst, opts, NULL, err);
}
