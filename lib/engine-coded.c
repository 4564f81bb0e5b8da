/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine-coded.c - compressed units: reading, with a small cache of decoded ones, and writing
 *
 * Coding runs on helper threads. Compressed writes are encoded in any order, but reserve their space
 * in the order in which they were submitted, one at a time (engine.turn), so that what a copy
 * produces does not depend on timing. A unit that does not shrink is written like any other data.
 *
 * A read of a whole unit is decoded straight into the caller's buffer; one of a part leaves the
 * whole in the cache. Cached units are known by layer and host offset, and are of no use once that
 * layer has released any space.
 */
#include <assert.h>
#include <stdlib.h>

#include "checked.h"
#include "engine.h"

#define DECODED_UNITS 8

enum unit_state { UNIT_EMPTY, UNIT_BUSY, UNIT_READY };

struct decoded_unit {
	const struct tapimg *layer;
	uint64_t host, released, used;
	enum unit_state state;
	uint8_t *data;
	uint32_t cap;
	struct list waiters;
};

struct decoded {
	struct decoded_unit unit[DECODED_UNITS];
	uint64_t clock;
};

static uint64_t layer_released(const struct tapimg *layer)
{
	return layer->meta ? layer->meta->released : 0;
}

static struct decoded_unit *unit_find(struct decoded *d, const struct extent *ext)
{
	unsigned i;

	for (i = 0; i < DECODED_UNITS; i++) {
		struct decoded_unit *u = &d->unit[i];

		if (u->state != UNIT_EMPTY && u->layer == ext->layer && u->host == ext->host &&
		    u->released == layer_released(ext->layer))
			return u;
	}
	return NULL;
}

/* The unit used longest ago, emptied; NULL if all are being decoded, or memory is short. */
static struct decoded_unit *unit_take(struct decoded *d, const struct extent *ext)
{
	struct decoded_unit *u = NULL;
	unsigned i;

	for (i = 0; i < DECODED_UNITS; i++)
		if (d->unit[i].state != UNIT_BUSY && (!u || d->unit[i].used < u->used))
			u = &d->unit[i];
	if (!u)
		return NULL;
	u->state = UNIT_EMPTY;
	if (u->cap < ext->unit_len) {
		free(u->data);
		u->data = malloc(ext->unit_len);
		u->cap = u->data ? ext->unit_len : 0;
		if (!u->data)
			return NULL;
	}
	u->layer = ext->layer;
	u->host = ext->host;
	u->released = layer_released(ext->layer);
	return u;
}

static void *decode_target(const struct piece *p)
{
	if (p->unit)
		return p->unit->data;
	if (p->out)
		return p->out;
	return (char *)p->req->iov[0].iov_base + (p->off - p->req->off);
}

static void decode_run(struct work *w)
{
	struct piece *p = container_of(w, struct piece, work);

	p->work_ret = p->ext.layer->fmt->decode(p->ext.layer, p->ext.unit_off, p->buf,
						p->ext.coded, decode_target(p), p->ext.unit_len);
}

static void coded_finish(struct piece *p, int ret)
{
	struct tapimg *img = p->img;
	struct decoded_unit *u = p->unit;
	struct list waiters = LIST_INIT(waiters);
	const char *from = u ? (const char *)u->data : p->out;

	if (!ret && from)
		piece_copy_out(p, from + (p->off - p->ext.unit_off));
	if (u) {
		u->state = ret ? UNIT_EMPTY : UNIT_READY;
		list_splice(&waiters, &u->waiters);
		p->unit = NULL;
	}
	piece_done(p, ret);
	waiters_wake(&waiters, 0);	/* after an error they try for themselves */
	engine_pump(img);
}

static void decode_done(struct task *t)
{
	struct piece *p = container_of(t, struct piece, work.task);

	coded_finish(p, p->work_ret);
}

static void coded_read_done(struct io *io)
{
	struct piece *p = container_of(io, struct piece, io);

	if (io->ret) {
		coded_finish(p, io->ret);
		return;
	}
	p->state = PS_DECODE;
	p->work.task.fn = decode_done;
	p->work.run = decode_run;
	work_submit(p->img->loop, &p->work);
}

/* Can the whole unit be decoded into the caller's buffer? */
static bool decodes_in_place(const struct piece *p)
{
	return p->len == p->ext.unit_len && p->req->iovcnt == 1;
}

void coded_read(struct piece *p)
{
	struct decoded *d = p->img->eng.decoded;
	struct decoded_unit *u = unit_find(d, &p->ext);

	p->state = PS_CODED_READ;
	if (u && u->state == UNIT_READY) {
		u->used = ++d->clock;
		piece_copy_out(p, u->data + (p->off - p->ext.unit_off));
		piece_done(p, 0);
		return;
	}
	if (u) {
		list_append(&u->waiters, &p->wait.node);
		return;
	}
	if (p->len < p->ext.unit_len)
		p->unit = unit_take(d, &p->ext);
	if (p->unit) {
		p->unit->state = UNIT_BUSY;
		p->unit->used = ++d->clock;
	} else if (!decodes_in_place(p)) {
		p->out = malloc(p->ext.unit_len);
		if (!p->out) {
			piece_done(p, -ENOMEM);
			return;
		}
	}
	p->buf = file_buf(p->ext.coded);
	if (!p->buf) {
		coded_finish(p, -ENOMEM);
		return;
	}
	p->iov[0] = (struct iovec){ p->buf, p->ext.coded };
	piece_io(p, IO_READ, p->ext.file, p->ext.host, p->ext.coded, p->iov, 1, coded_read_done);
}

/* ------------------------------------------------------------------- writing */

static uint32_t coded_max(const struct tapimg *img)
{
	return img->coded_max ? img->coded_max : img->cluster - 1;
}

static void encode_run(struct work *w)
{
	struct piece *p = container_of(w, struct piece, work);
	const void *src = p->buf ? p->buf : p->req->iov[0].iov_base;

	p->work_ret = p->img->fmt->encode(p->img, p->off, src, p->img->cluster, p->out,
					  coded_max(p->img));
}

static bool encodes_in_place(const struct piece *p)
{
	return p->len == p->img->cluster && p->req->iovcnt == 1;
}

/* The data in one piece, and a shorter last unit filled up with zeroes. */
static bool encode_gather(struct piece *p)
{
	const struct iovec *v = p->req->iov;
	uint64_t done = 0;

	p->buf = calloc(1, p->img->cluster);
	for (; p->buf && done < p->len; v++) {
		memcpy((char *)p->buf + done, v->iov_base, v->iov_len);
		done += v->iov_len;
	}
	return p->buf;
}

static void coded_reserve(struct piece *p)
{
	struct tapimg *img = p->img;
	struct extent *ext = &p->ext;
	int ret, n = 0;

	p->state = PS_RESERVE;
	if (!piece_lock(p, p->off, p->off + p->len) || !piece_slow(p))
		return;
	memset(&p->ext, 0, sizeof(p->ext));
	p->ext.coded = p->work_ret;
	meta_op_begin(img->meta);
	ret = img->failed ? img->failed
			  : img->fmt->reserve(img, p->off, p->len, RESERVE_CODED, &p->ext);
	if (!piece_answered(p, ret))
		return;
	p->reserved = true;
	img->eng.turn = NULL;
	if (ext->head_len)
		p->iov[n++] = (struct iovec){ (void *)ext->head, ext->head_len };
	p->iov[n++] = (struct iovec){ p->out, ext->coded };
	piece_io(p, IO_WRITE, ext->file, ext->host - ext->head_len, ext->head_len + ext->coded, p->iov,
		 n, piece_new_done);
}

void coded_pump(struct tapimg *img)
{
	struct engine *e = &img->eng;

	if (e->coded_pumping)
		return;
	e->coded_pumping = true;
	while (!e->turn && !list_empty(&e->coded)) {
		struct piece *p = list_first(&e->coded, struct piece, node);

		if (!p->encoded)
			break;
		list_del(&p->node);
		e->turn = p;
		if (p->work_ret < 0) {
			piece_abort(p, p->work_ret);
		} else if (!p->work_ret) {
			p->op = TAPIMG_WRITE;
			p->state = PS_MAP;
			write_step(p);
		} else {
			coded_reserve(p);
		}
	}
	e->coded_pumping = false;
}

static void encode_done(struct task *t)
{
	struct piece *p = container_of(t, struct piece, work.task);
	struct tapimg *img = p->img;

	p->encoded = true;
	coded_pump(img);
	engine_pump(img);
}

void coded_write_start(struct piece *p)
{
	struct tapimg *img = p->img;
	uint64_t unit = img->cluster;

	if (!img->fmt->encode || !img->fmt->reserve || img->crypt) {
		piece_done(p, -ENOTSUP);
		return;
	}
	if (!is_aligned(p->off, unit) || p->len > unit ||
	    (p->len < unit && p->off + p->len != img->size)) {
		piece_done(p, -EINVAL);
		return;
	}
	p->out = file_buf(coded_max(img));
	if (!p->out || (!encodes_in_place(p) && !encode_gather(p))) {
		piece_done(p, -ENOMEM);
		return;
	}
	p->state = PS_ENCODE;
	list_append(&img->eng.coded, &p->node);
	p->work.task.fn = encode_done;
	p->work.run = encode_run;
	work_submit(img->loop, &p->work);
}

void coded_write_step(struct piece *p)
{
	struct tapimg *img = p->img;

	if (p->state == PS_COMMIT) {
		write_step(p);
		return;
	}
	coded_reserve(p);
	coded_pump(img);
}

int coded_init(struct tapimg *img)
{
	struct decoded *d = calloc(1, sizeof(*d));
	unsigned i;

	if (!d)
		return -ENOMEM;
	for (i = 0; i < DECODED_UNITS; i++)
		list_init(&d->unit[i].waiters);
	img->eng.decoded = d;
	return 0;
}

void coded_exit(struct tapimg *img)
{
	struct decoded *d = img->eng.decoded;
	unsigned i;

	for (i = 0; d && i < DECODED_UNITS; i++)
		free(d->unit[i].data);
	free(d);
	img->eng.decoded = NULL;
}
