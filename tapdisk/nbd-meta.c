/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-meta.c - which metadata contexts a client may have, and which it takes
 *
 * base:allocation, qemu:allocation-depth, and qemu:dirty-bitmap:NAME for each bitmap of the image
 * that is consistent.  Listing with "base:", "qemu:" or "qemu:dirty-bitmap:" shows all of that kind;
 * selecting wants full names.  What is not known is passed over, as the protocol wants it.
 *
 * A bitmap is loaded here, when it is first asked for, so that block status finds it in memory.
 * While a disk is paused its image cannot be asked, and no bitmaps are offered.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "image.h"
#include "nbd.h"

#define BASE_ALLOCATION	"base:allocation"
#define QEMU_DEPTH	"qemu:allocation-depth"
#define QEMU_BITMAP	"qemu:dirty-bitmap:"

struct query {
	struct nbd_conn *c;
	struct disk *disk;
	uint32_t opt;
	bool set;
	bool all;		/* a LIST without any query */
	const char *text;
	uint32_t len;
};

void nbd_meta_clear(struct nbd_conn *c)
{
	for (unsigned i = 0; i < c->nctx; i++)
		free(c->ctx[i].bitmap);
	c->nctx = 0;
	c->ctx_disk = NULL;
}

static bool text_is(const struct query *q, const char *text)
{
	return q->len == strlen(text) && !memcmp(q->text, text, q->len);
}

static bool chosen(const struct nbd_conn *c, enum nbd_context_kind kind, const char *bitmap)
{
	for (unsigned i = 0; i < c->nctx; i++)
		if (c->ctx[i].kind == kind && (!bitmap || !strcmp(c->ctx[i].bitmap, bitmap)))
			return true;
	return false;
}

/* One context of the answer; with SET it is the connection's from here on. */
static bool offer(struct query *q, enum nbd_context_kind kind, const char *bitmap)
{
	static const char *const names[] = { BASE_ALLOCATION, QEMU_DEPTH, QEMU_BITMAP };
	uint8_t reply[4 + sizeof(QEMU_BITMAP) + 1024];
	struct nbd_conn *c = q->c;
	int n = snprintf((char *)reply + 4, sizeof(reply) - 4, "%s%s", names[kind],
			 bitmap ? bitmap : "");

	if (n < 0 || (size_t)n >= sizeof(reply) - 4)
		return true;		/* longer than the format allows names to be */
	put_be32(reply, 0);
	if (q->set) {
		char *copy;

		if (c->nctx == NBD_CONTEXTS || chosen(c, kind, bitmap))
			return true;
		copy = bitmap ? strdup(bitmap) : NULL;
		if (bitmap && !copy)
			return true;
		put_be32(reply, c->nctx);
		c->ctx[c->nctx++] = (struct nbd_context){ kind, copy };
	}
	return nbd_option_reply(c, q->opt, NBD_REP_META_CONTEXT, reply, 4 + n);
}

/* Bitmaps whose name is asked for, or all of them. */
static bool offer_bitmaps(struct query *q, bool all)
{
	struct tapimg *img = disk_image(q->disk);
	const size_t prefix = strlen(QEMU_BITMAP);
	const char *name;

	for (unsigned i = 0; img && (name = image_bitmap_name(img, i)); i++) {
		uint64_t off = 0, len;

		if (!all && (q->len - prefix != strlen(name) ||
			     memcmp(q->text + prefix, name, q->len - prefix) != 0))
			continue;
		/* an inconsistent one would tell lies */
		if (!image_bitmap_next(img, name, &off, &len, NULL) &&
		    !offer(q, NBD_CTX_BITMAP, name))
			return false;
		img = disk_image(q->disk);	/* it may have been loaded just now, with turns between */
	}
	return true;
}

static bool one_query(struct query *q)
{
	bool list = !q->set;
	const size_t prefix = strlen(QEMU_BITMAP);

	if ((q->all || text_is(q, BASE_ALLOCATION) || (list && text_is(q, "base:"))) &&
	    !offer(q, NBD_CTX_ALLOCATION, NULL))
		return false;
	if ((q->all || text_is(q, QEMU_DEPTH) || (list && text_is(q, "qemu:"))) &&
	    !offer(q, NBD_CTX_DEPTH, NULL))
		return false;
	if (q->all || (list && (text_is(q, "qemu:") || text_is(q, QEMU_BITMAP))))
		return offer_bitmaps(q, true);
	if (q->len > prefix && !memcmp(q->text, QEMU_BITMAP, prefix))
		return offer_bitmaps(q, false);
	return true;
}

/* The lengths inside fit the option exactly. */
static bool layout_ok(const uint8_t *p, size_t n, uint32_t *name_len, uint32_t *nqueries)
{
	size_t at;

	if (n < 8)
		return false;
	*name_len = get_be32(p);
	if (*name_len > NBD_STRING_MAX || *name_len > n - 8)
		return false;
	*nqueries = get_be32(p + 4 + *name_len);
	at = 8 + *name_len;
	for (uint32_t i = 0; i < *nqueries; i++) {
		uint32_t len = n - at >= 4 ? get_be32(p + at) : UINT32_MAX;

		if (len > NBD_STRING_MAX || len > n - at - 4)
			return false;
		at += 4 + len;
	}
	return at == n;
}

void nbd_meta_option(struct nbd_conn *c, uint32_t opt, const uint8_t *p, size_t n)
{
	struct query q = { .c = c, .opt = opt, .set = opt == NBD_OPT_SET_META_CONTEXT };
	uint32_t name_len, nqueries;
	struct nbd_export e;

	/* a failed attempt leaves none chosen */
	if (q.set)
		nbd_meta_clear(c);
	if (!layout_ok(p, n, &name_len, &nqueries)) {
		nbd_option_error(c, opt, NBD_REP_ERR_INVALID, "lengths inside the option do not add up");
		return;
	}
	if (q.set && !c->structured && !c->extended) {
		nbd_option_error(c, opt, NBD_REP_ERR_INVALID, "structured replies are wanted first");
		return;
	}
	if (!nbd_export_find(c->front, (const char *)p + 4, name_len, &e)) {
		nbd_option_error(c, opt, NBD_REP_ERR_UNKNOWN, "there is no export '%.*s'",
				 (int)MIN(name_len, 200U), (const char *)p + 4);
		return;
	}
	q.disk = e.disk;
	if (q.set)
		c->ctx_disk = e.disk;
	q.all = !q.set && !nqueries;
	if (q.all && !one_query(&q))
		return;
	p += 8 + name_len;
	for (uint32_t i = 0; i < nqueries; i++) {
		q.len = get_be32(p);
		q.text = (const char *)p + 4;
		p += 4 + q.len;
		/* the same question over and over */
		if (c->out_len - c->out_sent > 4 * NBD_HELLO_OUT)
			break;
		if (!one_query(&q))
			return;
	}
	nbd_option_reply(c, opt, NBD_REP_ACK, NULL, 0);
}
