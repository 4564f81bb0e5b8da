/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-hello.c - the handshake: fixed newstyle, one option after the other
 *
 * An option is looked at when all of its data has arrived, which NBD_OPT_MAX bounds; data of a longer
 * one is thrown away and the option refused.  Replies collect in c->out; no option is taken
 * while more than NBD_HELLO_OUT of them wait to be sent, so that a client that only asks
 * costs no memory.  After STARTTLS nothing that came in clear is looked at any more, and all that
 * was agreed before is forgotten.
 *
 * Left out: the old style without options, and PEEK_EXPORT, which the protocol has withdrawn.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "log.h"
#include "nbd.h"

/* ------------------------------------------------------------------ replies */

bool nbd_out(struct nbd_conn *c, const void *p, size_t n)
{
	if (c->dead)
		return false;
	if (c->out_len + n > c->out_cap) {
		uint32_t cap = MAX(c->out_cap * 2, (uint32_t)(c->out_len + n + 256));
		uint8_t *bigger = realloc(c->out, cap);

		if (!bigger) {
			nbd_conn_kill(c);
			return false;
		}
		c->out = bigger;
		c->out_cap = cap;
	}
	if (n)
		memcpy(c->out + c->out_len, p, n);
	c->out_len += n;
	nbd_conn_send(c, NULL);
	return true;
}

static bool reply_header(struct nbd_conn *c, uint32_t opt, uint32_t type, size_t n)
{
	uint8_t h[NBD_OPT_REPLY_HEADER];

	put_be64(h, NBD_OPT_REPLY_MAGIC);
	put_be32(h + 8, opt);
	put_be32(h + 12, type);
	put_be32(h + 16, n);
	return nbd_out(c, h, sizeof(h));
}

bool nbd_option_reply(struct nbd_conn *c, uint32_t opt, uint32_t type, const void *p, size_t n)
{
	return reply_header(c, opt, type, n) && nbd_out(c, p, n);
}

bool nbd_option_error(struct nbd_conn *c, uint32_t opt, uint32_t type, const char *fmt, ...)
{
	char text[300];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = MIN(MAX(n, 0), (int)sizeof(text) - 1);
	log_debug("nbd: %s: option %u refused: %s", c->peer, opt, text);
	return nbd_option_reply(c, opt, type, text, n);
}

/* ------------------------------------------------------------------ the disk's side */

static void user_changed(struct disk_user *u, enum disk_event ev)
{
	struct nbd_conn *c = container_of(u, struct nbd_conn, user);

	if (ev == DISK_RESUMED)
		nbd_status_resume(c);
}

static void user_gone(struct disk_user *u)
{
	struct nbd_conn *c = container_of(u, struct nbd_conn, user);

	c->busy++;
	nbd_conn_shutdown(c);
	c->busy--;
	nbd_conn_put(c);
}

static const struct disk_user_ops user_ops = {
	.changed = user_changed,
	.gone = user_gone,
};

/* ------------------------------------------------------------------ one option each */

/* The transmission flags, and what is remembered of them. */
static uint16_t export_flags(struct nbd_conn *c, const struct nbd_export *e)
{
	const struct disk_props *p = disk_props(e->disk);
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
			 NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;

	if (p->read_only || c->front->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO |
			 (p->discard ? NBD_FLAG_SEND_TRIM : 0);
	if (c->structured || c->extended)
		flags |= NBD_FLAG_SEND_DF;
	if (c->extended && c->nctx && c->ctx_disk == e->disk)
		flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
	return flags;
}

/* The connection is the disk's from here on. */
static void begin_transmission(struct nbd_conn *c, const struct nbd_export *e)
{
	if (c->ctx_disk != e->disk)
		nbd_meta_clear(c);	/* they belong to the export they were chosen for */
	c->eflags = export_flags(c, e);
	c->read_only = c->eflags & NBD_FLAG_READ_ONLY;
	c->disk = e->disk;
	c->user.ops = &user_ops;
	disk_attach(e->disk, &c->user);
	c->state = NBD_TRANSMIT;
	loop_timer_cancel(&c->deadline);
	log_debug("nbd: %s: serves '%s'%s%s", c->peer, e->name, c->read_only ? ", read-only" : "",
		  c->tls ? ", with TLS" : "");
}

static int opt_export_name(struct nbd_conn *c, const uint8_t *p, uint32_t n)
{
	uint8_t h[10 + 124] = { 0 };
	struct nbd_export e;

	/* this option has no way to say what is wrong */
	if ((c->front->tls_mode == NBD_TLS_REQUIRE && !c->tls) ||
	    !nbd_export_find(c->front, (const char *)p, n, &e))
		return -ENOENT;
	put_be64(h, disk_props(e.disk)->size);
	put_be16(h + 8, export_flags(c, &e));
	if (!nbd_out(c, h, c->no_zeroes ? 10 : sizeof(h)))
		return -ENOMEM;
	begin_transmission(c, &e);
	return 0;
}

static void opt_list(struct nbd_conn *c, uint32_t n)
{
	struct nbd_export e;

	if (n) {
		nbd_option_error(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "LIST takes no data");
		return;
	}
	for (unsigned i = 0; nbd_export_nth(c->front, i, &e); i++) {
		size_t len = strlen(e.name), dlen = e.description ? strlen(e.description) : 0;
		uint8_t be[4];

		put_be32(be, len);
		if (!reply_header(c, NBD_OPT_LIST, NBD_REP_SERVER, 4 + len + dlen) ||
		    !nbd_out(c, be, 4) || !nbd_out(c, e.name, len) ||
		    !nbd_out(c, e.description, dlen))
			return;
	}
	nbd_option_reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static void opt_starttls(struct nbd_conn *c, uint32_t n)
{
	if (n)
		nbd_option_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "STARTTLS takes no data");
	else if (c->tls)
		nbd_option_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS is on already");
	else if (c->front->tls_mode == NBD_TLS_OFF)
		nbd_option_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "TLS is not configured");
	else if (nbd_option_reply(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0))
		c->tls_next = true;
}

static bool info_text(struct nbd_conn *c, uint32_t opt, uint16_t type, const char *text)
{
	uint8_t be[2];

	if (!text)
		return true;
	put_be16(be, type);
	return reply_header(c, opt, NBD_REP_INFO, 2 + strlen(text)) && nbd_out(c, be, 2) &&
	       nbd_out(c, text, strlen(text));
}

static uint32_t preferred_size(const struct disk_props *p)
{
	return MIN(MAX(p->opt_size, 4096U), 64 * (uint32_t)KiB);
}

static bool send_infos(struct nbd_conn *c, uint32_t opt, const struct nbd_export *e,
		       const uint8_t *ids, unsigned n)
{
	const struct disk_props *props = disk_props(e->disk);
	uint8_t info[14];

	put_be16(info, NBD_INFO_EXPORT);
	put_be64(info + 2, props->size);
	put_be16(info + 10, export_flags(c, e));
	if (!nbd_option_reply(c, opt, NBD_REP_INFO, info, 12))
		return false;
	for (unsigned i = 0; i < n; i++) {
		uint16_t id = get_be16(ids + 2 * i);

		if (id == NBD_INFO_NAME && !info_text(c, opt, id, e->name))
			return false;
		if (id == NBD_INFO_DESCRIPTION && !info_text(c, opt, id, e->description))
			return false;
		/* a name may be asked for a thousand times in one option */
		if (c->out_len - c->out_sent > NBD_HELLO_OUT)
			break;
	}
	put_be16(info, NBD_INFO_BLOCK_SIZE);
	put_be32(info + 2, 1);
	put_be32(info + 6, preferred_size(props));
	put_be32(info + 10, NBD_MAX_PAYLOAD);
	return nbd_option_reply(c, opt, NBD_REP_INFO, info, 14);
}

static void opt_info(struct nbd_conn *c, uint32_t opt, const uint8_t *p, uint32_t n)
{
	uint32_t len = n >= 6 ? get_be32(p) : UINT32_MAX;
	struct nbd_export e;
	uint16_t nids;

	if (len > NBD_STRING_MAX || len > n - 6 ||
	    (nids = get_be16(p + 4 + len), 6 + len + 2 * (uint32_t)nids != n)) {
		nbd_option_error(c, opt, NBD_REP_ERR_INVALID, "lengths inside the option do not add up");
		return;
	}
	if (!nbd_export_find(c->front, (const char *)p + 4, len, &e)) {
		nbd_option_error(c, opt, NBD_REP_ERR_UNKNOWN, "there is no export '%.*s'",
				 (int)MIN(len, 200U), (const char *)p + 4);
		return;
	}
	if (opt == NBD_OPT_GO && c->ctx_disk && c->ctx_disk != e.disk)
		nbd_meta_clear(c);
	if (!send_infos(c, opt, &e, p + 6 + len, nids) ||
	    !nbd_option_reply(c, opt, NBD_REP_ACK, NULL, 0))
		return;
	if (opt == NBD_OPT_GO)
		begin_transmission(c, &e);
}

static void opt_style(struct nbd_conn *c, uint32_t opt, uint32_t n)
{
	bool ext = opt == NBD_OPT_EXTENDED_HEADERS;

	if (n) {
		nbd_option_error(c, opt, NBD_REP_ERR_INVALID, "the option takes no data");
	} else if (ext ? c->extended : c->structured || c->extended) {
		nbd_option_error(c, opt, c->extended && !ext ? NBD_REP_ERR_EXT_HEADER_REQD
							     : NBD_REP_ERR_INVALID,
				 "%s have been agreed on already",
				 c->extended ? "extended headers" : "structured replies");
	} else {
		nbd_option_reply(c, opt, NBD_REP_ACK, NULL, 0);
		c->extended |= ext;
		c->structured |= !ext;
	}
}

/* 0, or negative: the connection ends. */
static int option(struct nbd_conn *c, uint32_t opt, const uint8_t *p, uint32_t n)
{
	if (!c->fixed && opt != NBD_OPT_EXPORT_NAME)
		return -EPROTO;
	if (c->front->tls_mode == NBD_TLS_REQUIRE && !c->tls && opt != NBD_OPT_STARTTLS &&
	    opt != NBD_OPT_ABORT && opt != NBD_OPT_EXPORT_NAME) {
		nbd_option_error(c, opt, NBD_REP_ERR_TLS_REQD, "TLS is wanted first");
		return 0;
	}
	switch (opt) {
	case NBD_OPT_EXPORT_NAME:
		return opt_export_name(c, p, n);
	case NBD_OPT_ABORT:
		nbd_option_reply(c, opt, NBD_REP_ACK, NULL, 0);
		nbd_conn_end(c);
		return 0;
	case NBD_OPT_LIST:
		opt_list(c, n);
		return 0;
	case NBD_OPT_STARTTLS:
		opt_starttls(c, n);
		return 0;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		opt_info(c, opt, p, n);
		return 0;
	case NBD_OPT_STRUCTURED_REPLY:
	case NBD_OPT_EXTENDED_HEADERS:
		opt_style(c, opt, n);
		return 0;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		nbd_meta_option(c, opt, p, n);
		return 0;
	default:
		nbd_option_error(c, opt, NBD_REP_ERR_UNSUP, "option %" PRIu32 " is not known", opt);
		return 0;
	}
}

/* ------------------------------------------------------------------ bytes */

void nbd_hello_start(struct nbd_conn *c)
{
	uint8_t h[18];

	put_be64(h, NBD_MAGIC);
	put_be64(h + 8, NBD_OPT_MAGIC);
	put_be16(h + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	nbd_out(c, h, sizeof(h));
}

static int client_flags(struct nbd_conn *c, uint32_t flags)
{
	if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
		return -EPROTO;
	c->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
	c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	c->state = NBD_OPTIONS;
	return 4;
}

void nbd_hello_skipped(struct nbd_conn *c)
{
	uint32_t opt = c->refused_opt;

	c->refused_opt = 0;
	if (opt)
		nbd_option_error(c, opt, NBD_REP_ERR_TOO_BIG, "more than %u bytes of data",
				 (unsigned)NBD_OPT_MAX);
}

static const struct tls_ctx *needs_tls(const struct nbd_conn *c)
{
	return c->tls_next ? c->front->tls : NULL;
}

int nbd_hello_input(struct nbd_conn *c, const uint8_t *p, size_t n)
{
	uint32_t opt, len;
	int ret;

	if (c->state == NBD_HELLO)
		return n < 4 ? 0 : client_flags(c, get_be32(p));
	if (n < NBD_OPT_HEADER)
		return 0;
	if (get_be64(p) != NBD_OPT_MAGIC || c->nopts >= NBD_OPTS_MAX)
		return -EPROTO;
	opt = get_be32(p + 8);
	len = get_be32(p + 12);
	if (len > NBD_OPT_MAX) {
		/* a name that long is none; and more than what could be meant is not read */
		if (opt == NBD_OPT_EXPORT_NAME || !c->fixed || len > NBD_SWALLOW || !opt)
			return -EPROTO;
		c->nopts++;
		c->skip = len;
		c->refused_opt = opt;
		return NBD_OPT_HEADER;
	}
	if (n - NBD_OPT_HEADER < len)
		return 0;
	c->nopts++;
	ret = option(c, opt, p + NBD_OPT_HEADER, len);
	if (ret < 0)
		return ret;
	/* what was sent in clear behind STARTTLS would be taken for part of the protected stream */
	if (needs_tls(c) && n > NBD_OPT_HEADER + len)
		return -EPROTO;
	return NBD_OPT_HEADER + len;
}
