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
		st->flags = TAPIMG_ST_DATA | TAPIMG_ST_ALLOCATED | TAPIMG_ST_OFFSET;
		st->host = e->host;
		st->filename = e->file->name;
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
	default:
		break;		/* a hole as far as was asked */
	}
	if (e->type == EXT_ZERO && e->flags & EXT_KEPT && e->file) {
		st->flags |= TAPIMG_ST_OFFSET;
		st->host = e->host;
		st->filename = e->file->name;
	}
}

static bool status_joins(const struct tapimg_status *a, const struct tapimg_status *b)
{
	return a->flags == b->flags && a->depth == b->depth && a->filename == b->filename &&
	       (!(a->flags & TAPIMG_ST_OFFSET) || a->host + a->len == b->host);
}

/* chain_map once, bracketed as metadata wants it */
static int map_now(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
		   struct extent *e)
{
	struct tapimg *l;
	int ret;

	for (l = img; l; l = l->backing)
		meta_op_begin(l->meta);
	ret = chain_map(img, off, len, MAP_STATUS, layers, e);
	for (l = img; l && ret != -EAGAIN; l = l->backing)
		meta_op_done(l->meta);
	return ret;
}

int tapimg_block_status(struct tapimg *img, uint64_t off, uint64_t len, unsigned layers,
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
	ret = chain_map_sync(img, off, len, MAP_STATUS, layers, &e);
	if (ret)
		return ret;
	status_from_extent(&e, st);
	st->len = MIN(st->len, len);
	for (unsigned i = 0; i < MERGE_MAX && st->len < len; i++) {
		struct tapimg_status next;

		memset(&e, 0, sizeof(e));
		if (map_now(img, off + st->len, len - st->len, layers, &e))
			break;
		status_from_extent(&e, &next);
		if (!status_joins(st, &next))
			break;
		st->len += MIN(next.len, len - st->len);
	}
	return 0;
}
