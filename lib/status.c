/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * status.c - block status for callers
 *
 * The first answer waits for metadata that is not cached; it is then lengthened by neighbours of
 * the same kind only as long as their metadata is in memory.
 */
#include <string.h>

#include "checked.h"
#include "image.h"

/* Neighbours looked at in one call: bounds the time, callers merge what they want longer. */
#define MERGE_MAX 4096

static void status_from_extent(const struct extent *e, struct tapimg_status *st)
{
	memset(st, 0, sizeof(*st));
	st->off = e->off;
	st->len = e->len;
	st->depth = e->depth;
	switch (e->type) {
	case EXT_DATA:
		st->flags = TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED;
		st->filename = e->file->name;
		if (e->layer->crypt)
			break;		/* what lies there is not what is read */
		st->flags |= TAPIMG_ST_OFFSET;
		st->host = e->host;
		break;
	case EXT_CODED:
		st->flags = TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED | TAPIMG_ST_COMPRESSED;
		st->filename = e->file->name;
		break;
	case EXT_ZERO:
		st->flags = TAPIMG_ST_ZERO;
		if (e->flags & EXT_EOF)
			st->flags |= TAPIMG_ST_EOF;
		else if (!(e->flags & EXT_NONE))
			st->flags |= TAPIMG_ST_ALLOCATED;
		break;
	case EXT_LOST:
		st->flags = TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED | TAPIMG_ST_LOST;
		break;
	default:
		break;		/* a hole as far as was asked */
	}
	if (e->type == EXT_ZERO && e->flags & EXT_KEPT && e->file) {
		st->flags |= TAPIMG_ST_OFFSET;
		st->host = e->host;
		st->filename = e->file->name;
	}
}

/*
 * Space that a format has mapped, but that nobody has written, is a hole of the file and reads as
 * zeroes: preallocated images are full of it. Only asked of files that do not change meanwhile.
 */
static void extent_refine(struct extent *e, bool *unwritten)
{
	uint64_t n = e->len;
	bool data;

	*unwritten = false;
	if (e->type != EXT_DATA || e->layer->crypt || e->layer->writable || e->layer->fmt->raw ||
	    e->file->block_dev ||
	    /* sectors here and there of a large block (VHD): to ask costs more than to read them */
	    e->len < MAX(e->layer->cluster, e->layer->unmap_unit) / 32 ||
	    file_status(e->file, e->host, &n, &data) || !n)
		return;
	/* by whole clusters: the rest of one that was written in part is as much in use as that part */
	if (n < e->len) {
		uint64_t cluster = MAX(e->layer->cluster, 1U), end = e->off + n;

		end = data ? round_up(end, cluster) : round_down(end, cluster);
		if (end <= e->off) {
			data = true;
			end = round_up(e->off + 1, cluster);
		}
		e->len = MIN(e->len, end - e->off);
	}
	if (!data) {
		e->type = EXT_ZERO;
		e->flags = EXT_KEPT;
		*unwritten = true;
	}
}

static void status_of(struct extent *e, struct tapimg_status *st)
{
	bool unwritten;

	extent_refine(e, &unwritten);
	status_from_extent(e, st);
	if (unwritten)
		st->flags |= TAPIMG_ST_DATA;	/* stored, as zeroes */
}

static bool status_joins(const struct tapimg_status *a, const struct tapimg_status *b)
{
	return a->flags == b->flags && a->depth == b->depth && a->filename == b->filename &&
	       (!(a->flags & TAPIMG_ST_OFFSET) || a->host + a->len == b->host);
}

/* chain_map once, bracketed as metadata wants it */
static int map_now(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, unsigned layers,
		   struct extent *e)
{
	struct tapimg *l;
	int ret;

	for (l = img; l; l = l->backing)
		meta_op_begin(l->meta);
	ret = chain_map(img, off, len, flags, layers, e);
	for (l = img; l && ret != -EAGAIN; l = l->backing)
		meta_op_done(l->meta);
	return ret;
}

/* @first: how the first answer is had; the others are only looked for in memory. */
static int status_with(int (*first)(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
				    unsigned layers, struct extent *ext),
		       struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
		       struct tapimg_status *st)
{
	struct extent e = { 0 };
	int ret;

	memset(st, 0, sizeof(*st));
	st->off = off;
	if (off > img->size)
		return -EINVAL;
	len = MIN(len, img->size - off);
	if (!len)
		return 0;
	ret = first(img, off, len, MAP_STATUS, layers, &e);
	if (ret)
		return ret;
	status_of(&e, st);
	st->len = MIN(st->len, len);
	for (unsigned i = 0; i < MERGE_MAX && st->len < len; i++) {
		struct tapimg_status next;

		memset(&e, 0, sizeof(e));
		if (map_now(img, off + st->len, len - st->len, MAP_STATUS, layers, &e))
			break;
		status_of(&e, &next);
		if (!status_joins(st, &next))
			break;
		st->len += MIN(next.len, len - st->len);
	}
	return 0;
}

int tapimg_block_status(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
			struct tapimg_status *st)
{
	return status_with(chain_map_sync, img, off, len, layers, st);
}

int status_try(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
	       struct tapimg_status *st)
{
	return status_with(map_now, img, off, len, layers, st);
}

enum image_place image_place(struct tapimg *img, uint64_t off, uint64_t len, uint64_t *host,
			     uint64_t *run)
{
	struct extent e = { 0 };

	*run = len;
	if (map_now(img, off, len, 0, 1, &e))
		return PLACE_OTHER;
	*run = MIN(len, e.len);
	*host = e.host;
	if (e.type == EXT_ZERO || e.type == EXT_HOLE)
		return PLACE_NONE;
	return e.type == EXT_DATA && e.file == img->file && !img->crypt ? PLACE_PLAIN : PLACE_OTHER;
}
