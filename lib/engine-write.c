/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine-write.c - writing, zeroing and discarding; see engine.h for the states and the rules
 *
 * A write into space that is already there goes straight to it. Anything else takes the lock of its
 * units (E1), reserves space, fills what lies beside the data in the same unit with what can be read
 * there now, so that shared, compressed and backed units need no code of their own, writes all of
 * that in one transfer, and publishes it (E2).
 */
#include <assert.h>
#include <stdlib.h>

#include "checked.h"
#include "crypt.h"
#include "engine.h"

#define SPACE_TRIES 8			/* epochs that a request without space waits for */
#define ZERO_BY_WRITING (256 * KiB)	/* up to here zeroes are written rather than asked for */

static void copyup_step(struct piece *p);
static void write_map(struct piece *p);

/* --------------------------------------------------------------------- locks */

void image_round_out(const struct tapimg *img, uint64_t *start, uint64_t *end)
{
	if (img->fmt->round) {
		img->fmt->round(img, start, end);
		return;
	}
	*start = round_down(*start, img->unit);
	*end = round_up(*end, img->unit);
}

static bool overlap(const struct piece *p, uint64_t off, uint64_t end)
{
	return p->lock_off < end && off < p->lock_end;
}

static void lock_wake(struct tapimg *img, uint64_t off, uint64_t end)
{
	struct list *n, *tmp;

	list_for_each_safe(n, tmp, &img->eng.unit_wait) {
		struct piece *p = list_entry(n, struct piece, node);

		if (overlap(p, off, end)) {
			list_del(&p->node);
			piece_ready(p);
		}
	}
}

static bool lock_range(struct piece *p, uint64_t off, uint64_t end)
{
	struct tapimg *img = p->img;
	struct list *n;

	p->lock_off = off;
	p->lock_end = end;
	list_for_each(n, &img->eng.locked) {
		struct piece *q = list_entry(n, struct piece, lnode);

		if (overlap(q, p->lock_off, p->lock_end)) {
			p->state = PS_MAP;
			list_append(&img->eng.unit_wait, &p->node);
			return false;
		}
	}
	p->lock_held = true;
	list_append(&img->eng.locked, &p->lnode);
	return true;
}

bool piece_lock(struct piece *p, uint64_t off, uint64_t end)
{
	if (p->lock_held)
		return true;
	image_round_out(p->img, &off, &end);
	return lock_range(p, off, end);
}

/* keeps the lock only up to @end */
static void lock_shrink(struct piece *p, uint64_t end)
{
	uint64_t old = p->lock_end, start = p->lock_off;

	if (!p->lock_held)
		return;
	image_round_out(p->img, &start, &end);
	if (end >= old)
		return;
	p->lock_end = end;
	lock_wake(p->img, end, old);
}

void piece_unlock(struct piece *p)
{
	if (!p->lock_held)
		return;
	p->lock_held = false;
	list_del(&p->lnode);
	lock_wake(p->img, p->lock_off, p->lock_end);
}

bool piece_slow(struct piece *p)
{
	struct engine *e = &p->img->eng;

	if (p->slow_held)
		return true;
	if (e->nslow >= e->max_slow) {
		list_append(&e->slow, &p->node);
		return false;
	}
	p->slow_held = true;
	e->nslow++;
	return true;
}

static void piece_unslow(struct piece *p)
{
	struct engine *e = &p->img->eng;
	struct list *n;

	if (!p->slow_held)
		return;
	p->slow_held = false;
	e->nslow--;
	n = list_pop(&e->slow);
	if (n)
		piece_ready(list_entry(n, struct piece, node));
}

static void copyup_free(struct piece *p)
{
	if (!p->up)
		return;
	free(p->up->side[0].buf);
	free(p->up->side[1].buf);
	free(p->up);
	p->up = NULL;
}

/* Everything that a piece holds goes back, and the piece is over. */
static void piece_end(struct piece *p, int ret)
{
	struct tapimg *img = p->img;
	bool turn = img->eng.turn == p;

	copyup_free(p);
	piece_unlock(p);
	piece_unslow(p);
	if (turn)
		img->eng.turn = NULL;
	piece_done(p, ret);
	if (turn)
		coded_pump(img);
}

void piece_abort(struct piece *p, int ret)
{
	if (p->reserved) {
		p->reserved = false;
		p->img->fmt->abort(p->img, &p->ext);
	}
	list_del(&p->node);	/* a compressed write may still be in its queue */
	piece_end(p, ret);
}

/* Splits off what lies after @len; false: no memory, the piece is over. */
static bool split_ready(struct piece *p, uint64_t len)
{
	struct piece *rest;

	if (len >= p->len)
		return true;
	rest = piece_split(p, len);
	if (!rest) {
		piece_abort(p, -ENOMEM);
		return false;
	}
	piece_ready(rest);
	return true;
}

/*
 * No space is left, but some has been freed that waits for its epoch, for requests under way, or for
 * being discarded. The waiting is bounded: requests may be waiting for each other's end.
 */
static bool space_wait(struct piece *p)
{
	struct meta *m = p->img->meta;

	if (!m || m->failed || p->img->failed || p->nospace == SPACE_TRIES ||
	    (!m->nfreed && list_empty(&m->punching)))
		return false;
	p->nospace++;
	req_reenter(p->req);
	p->wait.ret = 0;
	meta_sync(m, &p->wait);
	return true;
}

bool piece_answered(struct piece *p, int ret)
{
	if (ret == -EAGAIN) {
		piece_park(p, p->img->loop);
		return false;
	}
	meta_op_done(p->img->meta);
	if (ret == -ENOSPC && space_wait(p))
		return false;
	if (ret)
		piece_abort(p, ret);
	return !ret;
}

/* ------------------------------------------------------------------ in place */

void piece_inplace_done(struct io *io)
{
	struct piece *p = container_of(io, struct piece, io);
	struct tapimg *img = p->img;

	piece_end(p, io->ret);
	engine_pump(img);
}

static void write_inplace(struct piece *p)
{
	struct engine *e = &p->img->eng;
	const struct iovec *iov;
	int n;

	piece_unlock(p);
	if (p->zero) {
		bool big = p->len > ZERO_BY_WRITING;

		p->iov[0] = (struct iovec){ e->zeroes, p->len };
		piece_io(p, big ? IO_ZERO : IO_WRITE, p->ext.file, p->ext.host, p->len, p->iov,
			 big ? 0 : 1, piece_inplace_done);
		return;
	}
	n = piece_buffers(p, &iov);
	if (n < 0) {
		piece_abort(p, n);
		return;
	}
	piece_io(p, IO_WRITE, p->ext.file, p->ext.host, p->len, iov, n, piece_inplace_done);
}

/* -------------------------------------------------------------------- commit */

static void write_commit(struct piece *p)
{
	struct tapimg *img = p->img;
	int ret;

	p->state = PS_COMMIT;
	meta_op_begin(img->meta);
	ret = img->failed ? img->failed : img->fmt->commit(img, &p->ext);
	if (ret == -EAGAIN) {
		piece_park(p, img->loop);
		return;
	}
	meta_op_done(img->meta);
	if (ret) {
		piece_abort(p, ret);
		return;
	}
	p->reserved = false;
	p->req->flags |= REQ_REMAPPED;
	if (p->early) {		/* a broken variant that the power tests must catch */
		copyup_step(p);
		return;
	}
	piece_end(p, 0);
}

void piece_new_done(struct io *io)
{
	struct piece *p = container_of(io, struct piece, io);
	struct tapimg *img = p->img;

	if (io->ret)
		piece_abort(p, io->ret);
	else if (p->early)
		piece_end(p, 0);
	else
		write_commit(p);	/* E2 */
	engine_pump(img);
}

/* ----------------------------------------------------------- filling of units */

/* One transfer for what is to be written of the reserved range. */
static void write_new(struct piece *p)
{
	struct side *head = p->up ? &p->up->side[0] : NULL, *tail = p->up ? &p->up->side[1] : NULL;
	uint64_t start = p->off, len = p->len;
	struct iovec *v = p->iov;
	int n = 0, need;

	if (p->img->crypt) {
		cipher_write(p);
		return;
	}
	if (p->zero && !head) {
		uint64_t end = p->ext.host + p->ext.len;

		/* what is referred to must lie inside the file, also after a crash */
		if (p->ext.flags & EXT_CLEAN && end <= p->ext.file->logical_end) {
			write_commit(p);
			return;
		}
		piece_io(p, IO_ZERO, p->ext.file, p->ext.host + (p->off - p->ext.off), p->len, NULL, 0,
			 piece_new_done);
		return;
	}
	need = 2 + (p->zero ? 1 : piece_iov(p, p->off, p->len, NULL, 0));
	if (need > PIECE_IOV) {
		v = p->viov = malloc(need * sizeof(*v));
		if (!v) {
			piece_abort(p, -ENOMEM);
			return;
		}
	}
	if (head && head->len && head->fill != FILL_SKIP) {
		start -= head->len;
		len += head->len;
		v[n++] = (struct iovec){ head->iov.iov_base, head->len };
	}
	if (p->zero)
		v[n++] = (struct iovec){ p->img->eng.zeroes, p->len };
	else
		n += piece_iov(p, p->off, p->len, v + n, need - n);
	if (tail && tail->len && tail->fill != FILL_SKIP) {
		len += tail->len;
		v[n++] = (struct iovec){ tail->iov.iov_base, tail->len };
	}
	piece_io(p, IO_WRITE, p->ext.file, p->ext.host + (start - p->ext.off), len, v, n,
		 piece_new_done);
}

static void side_read_done(struct tapimg_req *req)
{
	struct copyup *up = req->opaque;
	struct piece *p = up->p;
	struct tapimg *img = p->img;

	if (req->ret && !up->ret)
		up->ret = req->ret;
	if (--up->reading)
		return;
	if (up->ret)
		piece_abort(p, up->ret);
	else
		write_new(p);
	engine_pump(img);
}

/* Finds out how a side is to be filled; -EAGAIN to try again. */
static int side_probe(struct piece *p, struct side *s)
{
	struct tapimg *img = p->img;
	uint64_t off = s->off, end = s->off + s->len;
	struct extent ext;
	int ret;

	while (off < end) {
		ret = chain_map(img, off, end - off, 0, 0, &ext);
		if (ret)
			return ret;
		if (ext.type != EXT_ZERO) {
			s->fill = FILL_COPY;
			return 0;
		}
		off += ext.len;
	}
	s->fill = p->ext.flags & EXT_CLEAN ? FILL_SKIP : FILL_ZERO;
	s->iov = (struct iovec){ img->eng.zeroes, s->len };
	return 0;
}

static int side_read(struct piece *p, struct side *s)
{
	/* the last unit may reach beyond the end of the disk */
	uint64_t len = MIN(s->len, p->img->size - s->off);

	s->buf = file_buf(s->len);
	if (!s->buf)
		return -ENOMEM;
	if (len < s->len)
		memset((char *)s->buf + len, 0, s->len - len);
	s->iov = (struct iovec){ s->buf, len };
	s->req = (struct tapimg_req){ .op = TAPIMG_READ, .off = s->off, .len = len, .iov = &s->iov,
				      .iovcnt = 1, .done = side_read_done, .opaque = p->up };
	p->up->reading++;
	tapimg_submit(p->img, &s->req);
	return 0;
}

static void sides_read(struct piece *p)
{
	struct copyup *up = p->up;
	int i, ret;

	p->state = PS_COPYING;
	up->reading = 1;	/* ours */
	for (i = 0; i < 2; i++) {
		struct side *s = &up->side[i];

		if (!s->len || s->fill != FILL_COPY)
			continue;
		ret = side_read(p, s);
		if (ret && !up->ret)
			up->ret = ret;
	}
	if (--up->reading)
		return;
	if (up->ret)
		piece_abort(p, up->ret);
	else
		write_new(p);
}

static void copyup_step(struct piece *p)
{
	uint64_t end = p->off + p->len, xend = p->ext.off + p->ext.len;
	struct copyup *up = p->up;
	int i, ret;

	p->state = PS_COPYUP;
	if (p->ext.off == p->off && xend == end) {
		write_new(p);
		return;
	}
	if (!up) {
		up = p->up = calloc(1, sizeof(*up));
		if (!up) {
			piece_abort(p, -ENOMEM);
			return;
		}
		up->p = p;
		up->side[0].off = p->ext.off;
		up->side[0].len = p->off - p->ext.off;
		up->side[1].off = end;
		up->side[1].len = xend - end;
	}
	meta_op_begin(p->img->meta);
	for (i = 0; i < 2; i++) {
		if (!up->side[i].len || up->side[i].fill != FILL_UNKNOWN)
			continue;
		ret = side_probe(p, &up->side[i]);
		if (ret == -EAGAIN) {
			piece_park(p, p->img->loop);
			return;
		}
		if (ret) {
			piece_abort(p, ret);
			return;
		}
	}
	meta_op_done(p->img->meta);
	sides_read(p);
}

/* A range that is larger than what is written of it, and has to lie inside the file as zeroes. */
static void whole_done(struct io *io)
{
	struct piece *p = container_of(io, struct piece, io);
	struct tapimg *img = p->img;

	p->ext.flags = (p->ext.flags & ~EXT_WHOLE) | EXT_CLEAN;
	if (io->ret)
		piece_abort(p, io->ret);
	else
		copyup_step(p);
	engine_pump(img);
}

void piece_reserved(struct piece *p)
{
	if (p->ext.flags & EXT_WHOLE && (p->ext.off < p->off || p->ext.len > p->len)) {
		piece_io(p, IO_ZERO, p->ext.file, p->ext.host, p->ext.len, NULL, 0, whole_done);
		return;
	}
	if (p->img->meta && p->img->meta->mutant == META_MUTANT_EARLY_COMMIT) {
		p->early = true;
		write_commit(p);
		return;
	}
	copyup_step(p);
}

/* ------------------------------------------------------------------- reserve */

static void write_reserve(struct piece *p)
{
	struct tapimg *img = p->img;
	uint64_t end;
	int ret;

	p->state = PS_RESERVE;
	if (!piece_slow(p))
		return;
	memset(&p->ext, 0, sizeof(p->ext));
	meta_op_begin(img->meta);
	ret = img->failed ? img->failed : img->fmt->reserve(img, p->off, p->len, 0, &p->ext);
	if (!piece_answered(p, ret))
		return;
	p->reserved = true;
	if (img->crypt)
		p->ext.flags &= ~EXT_CLEAN;	/* zeroes in the file are not the disk's */
	if (img->eng.turn == p) {
		img->eng.turn = NULL;
		coded_pump(img);
	}
	end = p->ext.off + p->ext.len;
	if (end < p->off + p->len) {
		if (!split_ready(p, end - p->off))
			return;
		lock_shrink(p, end);
	}
	piece_reserved(p);
}

/* Into space that is there: sectors of it, which become the range to be filled and written. */
static void write_ciphered(struct piece *p)
{
	uint64_t off = round_down(p->off, CRYPT_SECTOR);
	uint64_t end = round_up(p->off + p->len, CRYPT_SECTOR);

	if (!p->lock_held && !lock_range(p, off, end))
		return;
	p->ext.host -= p->off - off;
	p->ext.off = off;
	p->ext.len = end - off;
	copyup_step(p);
}

/* A ZERO that has to be written: is there nothing to do, because zeroes are read there anyway? */
static int reads_zero(struct piece *p)
{
	struct extent ext;
	int ret = chain_map(p->img, p->off, p->len, 0, 0, &ext);

	if (ret)
		return ret;
	p->ext.len = MIN(p->ext.len, ext.len);
	return ext.type == EXT_ZERO;
}

static void write_map(struct piece *p)
{
	struct tapimg *img = p->img;
	bool nothing = false;
	int ret;

	meta_op_begin(img->meta);
	ret = img->fmt->map(img, p->off, p->len, MAP_WRITE, &p->ext);
	if (!ret && p->rewrite && p->ext.type != EXT_DATA && !(p->req->flags & REQ_EXPLICIT)) {
		ret = reads_zero(p);
		nothing = ret > 0;
		ret = MIN(ret, 0);
	}
	if (ret == -EAGAIN) {
		piece_park(p, img->loop);
		return;
	}
	meta_op_done(img->meta);
	if (ret) {
		piece_abort(p, ret);
		return;
	}
	if (img->crypt && !nothing)
		p->ext.len = cipher_limit(p, p->ext.len);
	else if (p->zero && p->ext.type != EXT_DATA && !nothing)
		p->ext.len = MIN(p->ext.len, LOOP_ZEROES);
	if (!split_ready(p, p->ext.len))
		return;
	if (nothing) {
		piece_end(p, 0);
	} else if (p->ext.type == EXT_DATA && p->ext.flags & EXT_WRITABLE) {
		if (img->crypt)
			write_ciphered(p);
		else
			write_inplace(p);
	} else if (!img->fmt->reserve) {
		piece_abort(p, -EROFS);
	} else if (piece_lock(p, p->off, p->off + p->len)) {
		/* what map said still holds: nothing has happened between the two */
		write_reserve(p);
	}
}

/* ---------------------------------------------------------- zero and discard */

static void zero_rewrite(struct piece *p)
{
	piece_unlock(p);
	if (p->op == TAPIMG_DISCARD) {
		piece_end(p, 0);
	} else if (p->req->flags & TAPIMG_REQ_NO_FALLBACK) {
		piece_end(p, -ENOTSUP);
	} else {
		p->zero = p->rewrite = true;
		p->state = PS_MAP;
		write_map(p);
	}
}

/* For plain bytes: the file does it. */
static void zero_plain(struct piece *p)
{
	struct tapimg *img = p->img;
	int ret = img->fmt->map(img, p->off, p->len, MAP_WRITE, &p->ext);

	if (ret == -EAGAIN) {
		piece_park(p, img->loop);
		return;
	}
	if (!ret && (p->ext.type != EXT_DATA || !(p->ext.flags & EXT_WRITABLE)))
		ret = -EROFS;
	if (ret) {
		piece_abort(p, ret);
		return;
	}
	if (!split_ready(p, p->ext.len))
		return;
	if (p->op == TAPIMG_DISCARD) {
		piece_io(p, IO_DISCARD, p->ext.file, p->ext.host, p->len, NULL, 0, piece_inplace_done);
		return;
	}
	p->state = PS_IO;
	p->io.file = p->ext.file;
	p->io.op = IO_ZERO;
	p->io.flags = (p->req->flags & TAPIMG_REQ_MAY_UNMAP ? IO_MAY_UNMAP : 0) |
		      (p->req->flags & TAPIMG_REQ_NO_FALLBACK ? IO_NO_FALLBACK : 0);
	p->io.off = p->ext.host;
	p->io.len = p->len;
	p->io.iovcnt = 0;
	p->io.done = piece_inplace_done;
	file_submit(&p->io);
}

static void unmap_step(struct piece *p)
{
	struct tapimg *img = p->img;
	unsigned flags = 0;

	p->state = PS_UNMAP;
	if (p->op == TAPIMG_DISCARD)
		flags = UNMAP_HOLE | UNMAP_FREE;
	else if (p->req->flags & TAPIMG_REQ_MAY_UNMAP)
		flags = UNMAP_FREE;
	if (p->req->flags & REQ_EXPLICIT)
		flags |= UNMAP_EXPLICIT;
	while (p->len) {
		uint64_t done = 0;
		int ret;

		meta_op_begin(img->meta);
		ret = img->failed ? img->failed
				  : img->fmt->unmap(img, p->off, p->len, flags, &done);
		if (ret == UNMAP_PLAIN) {
			meta_op_done(img->meta);
			zero_plain(p);
			return;
		}
		if (!piece_answered(p, ret))
			return;
		if (!done) {
			zero_rewrite(p);
			return;
		}
		p->req->flags |= REQ_REMAPPED;
		p->off += done;
		p->len -= done;
	}
	piece_end(p, 0);
}

/* The units that lie inside [off, end) as a whole: [first, last), if first is smaller. */
static void whole_units(const struct tapimg *img, uint64_t off, uint64_t end, uint64_t *first,
			uint64_t *last)
{
	uint64_t start = off, stop = off + 1;

	if (img->unmap_unit) {
		*first = round_up(off, img->unmap_unit);
		*last = end == img->size ? end : round_down(end, img->unmap_unit);
		return;
	}
	image_round_out(img, &start, &stop);
	*first = start == off ? off : stop;
	start = end - 1;
	stop = end;
	image_round_out(img, &start, &stop);
	*last = stop == end || end == img->size ? end : start;
}

static void zero_step(struct piece *p)
{
	struct tapimg *img = p->img;
	uint64_t end = p->off + p->len, first, last;

	if (p->op == TAPIMG_DISCARD && !(img->flags & TAPIMG_UNMAP)) {
		piece_end(p, 0);
		return;
	}
	if (!img->fmt->unmap) {
		zero_plain(p);
		return;
	}
	whole_units(img, p->off, end, &first, &last);
	/* parts of units at both ends cannot be unmapped: they become pieces of their own */
	if (p->off < first && first < end) {
		if (!split_ready(p, first - p->off))
			return;
		zero_rewrite(p);
	} else if (first >= last) {
		zero_rewrite(p);
	} else {
		if (!split_ready(p, last - p->off))
			return;
		if (piece_lock(p, p->off, p->off + p->len))
			unmap_step(p);
	}
}

void write_step(struct piece *p)
{
	switch (p->state) {
	case PS_RESERVE:
		write_reserve(p);
		break;
	case PS_COPYUP:
		copyup_step(p);
		break;
	case PS_COMMIT:
		write_commit(p);
		break;
	case PS_UNMAP:
		unmap_step(p);
		break;
	default:
		if (p->op == TAPIMG_WRITE || p->rewrite)
			write_map(p);
		else
			zero_step(p);
	}
}
