/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-nbd-req.c - the NBD server's transmission phase: every command in the three styles of reply,
 * requests that must be refused, many at once, connections that end at any byte
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "image.h"
#include "nbdwire.h"
#include "scratch.h"
#include "suite.h"

enum style { SIMPLE, STRUCTURED, EXTENDED, STYLES };

static struct server s;
static struct tapimg_err err;
static struct nbd_front *f;
static struct wire *w;
static struct disk *disk;
static enum style style;

static struct disk *open_disk(const char *text)
{
	struct disk_config c;
	struct disk *d = NULL;

	disk_config_init(&c);
	ck_assert_msg(!disk_config_parse(&c, text, &err), "%s: %s", text, err.text);
	ck_assert_msg(!disk_open(&s, &c, &d, &err), "%s: %s", text, err.text);
	disk_config_clear(&c);
	return d;
}

/* An image with data, zeroes and a bitmap, so that block status has something to tell. */
static void make_disk(void)
{
	static uint8_t data[64 * 1024];
	struct tapimg *img;

	make_image("a.qcow2", "qcow2", 4 * MiB, NULL, NULL);
	img = open_image("a.qcow2", "qcow2", TAPIMG_RDWR);
	memset(data, 0x11, sizeof(data));
	ck_assert_int_eq(tapimg_pwrite(img, data, sizeof(data), 128 * 1024), 0);
	ck_assert_int_eq(tapimg_bitmap_add(img, "changes", 65536, false, &err), 0);
	ck_assert_int_eq(tapimg_pwrite(img, data, 4096, MiB), 0);
	ck_assert_int_eq(tapimg_zero(img, 2 * MiB, 65536, 0), 0);
	close_image(img);
}

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(server_init(&s, &err), 0);
	make_disk();
	make_image("r.img", "raw", MiB, NULL, NULL);
	disk = open_disk("a=qcow2:a.qcow2");
	open_disk("ro=raw:r.img,read-only=on");
	f = wire_front(&s, "max-requests=64,max-memory=64M", &err);
	ck_assert_msg(f != NULL, "%s", err.text);
	w = NULL;
}

static void teardown(void)
{
	struct disk *d;

	if (w)
		wire_close(w);
	ck_assert_uint_eq(f->nconns, 0);
	ck_assert_uint_eq(f->bytes, 0);
	wire_front_stop(f);
	while ((d = server_next_disk(&s, NULL)))
		disk_close(d, true, NULL);
	server_exit(&s);
	scratch_leave();
}

/* ------------------------------------------------------------------ a client */

static const char *const contexts[] = { "base:allocation", "qemu:allocation-depth",
					"qemu:dirty-bitmap:changes" };

static void put_meta(const char *export)
{
	uint8_t data[300];
	uint32_t n = strlen(export), at = 8 + n;

	put_be32(data, n);
	memcpy(data + 4, export, n);
	put_be32(data + 4 + n, ARRAY_SIZE(contexts));
	for (size_t i = 0; i < ARRAY_SIZE(contexts); i++) {
		put_be32(data + at, strlen(contexts[i]));
		memcpy(data + at + 4, contexts[i], strlen(contexts[i]));
		at += 4 + strlen(contexts[i]);
	}
	wire_option(w, NBD_OPT_SET_META_CONTEXT, data, at);
}

static void put_hello(enum style st, const char *export)
{
	uint8_t data[100];

	wire_flags(w, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	if (st == STRUCTURED)
		wire_option(w, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	if (st == EXTENDED)
		wire_option(w, NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	if (st != SIMPLE)
		put_meta(export);
	put_be32(data, strlen(export));
	memcpy(data + 4, export, strlen(export));
	put_be16(data + 4 + strlen(export), 0);
	wire_option(w, NBD_OPT_GO, data, 6 + strlen(export));
}

static void connect_to(const char *export, enum style st)
{
	if (w)
		wire_close(w);
	w = wire_open(f);
	style = st;
	put_hello(st, export);
	wire_run(w);
	ck_assert_ptr_nonnull(w->c);
	ck_assert_int_eq(w->c->state, NBD_TRANSMIT);
	if (st != SIMPLE)
		ck_assert_uint_eq(w->c->nctx, !strcmp(export, "a") ? 3 : 2);
	w->out_pos = w->out_len;
}

static const uint8_t *got(size_t n)
{
	const uint8_t *p = w->out + w->out_pos;

	ck_assert_msg(w->out_len - w->out_pos >= n, "%zu bytes are there, %zu wanted",
		      w->out_len - w->out_pos, n);
	w->out_pos += n;
	return p;
}

static void nothing_more(void)
{
	ck_assert_uint_eq(w->out_len, w->out_pos);
}

/* One reply of whatever kind, gathered. */
struct answer {
	uint64_t cookie;
	uint32_t error;
	const uint8_t *data;		/* READ */
	uint64_t data_len, hole;
	struct { uint64_t n, len[64], flags[64]; bool seen; } ctx[3];
};

static void take_status(struct answer *a, const uint8_t *p, uint64_t len, bool ext)
{
	uint32_t id = get_be32(p), head = ext ? 8 : 4, size = ext ? 16 : 8;

	ck_assert_uint_lt(id, 3);
	ck_assert(!a->ctx[id].seen);
	a->ctx[id].seen = true;
	a->ctx[id].n = (len - head) / size;
	ck_assert_uint_eq((len - head) % size, 0);
	ck_assert(!ext || get_be32(p + 4) == a->ctx[id].n);
	ck_assert(a->ctx[id].n >= 1 && a->ctx[id].n <= 64);
	for (uint64_t i = 0; i < a->ctx[id].n; i++) {
		const uint8_t *q = p + head + i * size;

		a->ctx[id].len[i] = ext ? get_be64(q) : get_be32(q);
		a->ctx[id].flags[i] = ext ? get_be64(q + 8) : get_be32(q + 4);
		ck_assert(a->ctx[id].len[i] > 0);
	}
}

static bool take_chunk(struct answer *a, uint64_t off)
{
	bool ext = style == EXTENDED;
	const uint8_t *h = got(ext ? NBD_EXT_REPLY_LEN : NBD_STRUCT_REPLY_LEN), *p;
	uint64_t len = ext ? get_be64(h + 24) : get_be32(h + 16);
	unsigned type = get_be16(h + 6);

	ck_assert_uint_eq(get_be32(h), ext ? NBD_EXT_REPLY_MAGIC : NBD_STRUCT_REPLY_MAGIC);
	a->cookie = get_be64(h + 8);
	p = got(len);
	if (type == NBD_CHUNK_ERROR) {
		a->error = get_be32(p);
		ck_assert_uint_eq(len, 6 + get_be16(p + 4));
		ck_assert_uint_gt(len, 6);	/* says why */
	} else if (type == NBD_CHUNK_OFFSET_DATA) {
		ck_assert(get_be64(p) == off && len > 8);
		a->data = p + 8;
		a->data_len = len - 8;
	} else if (type == NBD_CHUNK_OFFSET_HOLE) {
		ck_assert(get_be64(p) == off && len == 12);
		a->hole = get_be32(p + 8);
	} else if (type == NBD_CHUNK_BLOCK_STATUS || type == NBD_CHUNK_BLOCK_STATUS_EXT) {
		ck_assert(ext == (type == NBD_CHUNK_BLOCK_STATUS_EXT));
		take_status(a, p, len, ext);
	} else {
		ck_assert_uint_eq(type, NBD_CHUNK_NONE);
		ck_assert_uint_eq(len, 0);
	}
	return get_be16(h + 4) & NBD_CHUNK_DONE;
}

/* The next reply; @off, @len: of the READ it would be for, 0 otherwise. */
static struct answer answer(uint64_t off, uint64_t len)
{
	struct answer a = { 0 };
	const uint8_t *h = w->out + w->out_pos;

	if (get_be32(h) == NBD_SIMPLE_REPLY_MAGIC) {
		ck_assert(style != EXTENDED && !(style == STRUCTURED && len));
		h = got(NBD_SIMPLE_REPLY_LEN);
		a.cookie = get_be64(h + 8);
		a.error = get_be32(h + 4);
		if (!a.error && len) {
			a.data = got(len);
			a.data_len = len;
		}
		return a;
	}
	ck_assert_int_ne(style, SIMPLE);
	while (!take_chunk(&a, off))
		;
	return a;
}

static struct answer call(uint16_t flags, uint16_t type, uint64_t off, uint64_t len)
{
	struct answer a;

	wire_request(w, flags, type, 0x1122334455667788, off, len);
	wire_run(w);
	ck_assert_msg(w->c != NULL, "command %u ended the connection", type);
	a = answer(off, type == NBD_CMD_READ ? len : 0);
	ck_assert(a.cookie == 0x1122334455667788);
	nothing_more();
	return a;
}

static uint32_t write_call(uint16_t flags, uint64_t off, const void *p, uint64_t len)
{
	struct answer a;

	wire_request(w, flags | (style == EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0), NBD_CMD_WRITE, 5,
		     off, len);
	wire_bytes(w, p, len);
	wire_run(w);
	ck_assert_ptr_nonnull(w->c);
	a = answer(0, 0);
	ck_assert(a.cookie == 5);
	nothing_more();
	return a.error;
}

/* ------------------------------------------------------------------ tests, for each style */

START_TEST(data_goes_and_comes)
{
	uint8_t data[10000], zero[10000] = { 0 };
	struct answer a;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = i * 7;
	connect_to("a", _i);
	ck_assert_uint_eq(write_call(0, 333, data, sizeof(data)), 0);
	ck_assert_uint_eq(write_call(NBD_CMD_FLAG_FUA, 3 * MiB + 1, data, 1), 0);
	a = call(0, NBD_CMD_READ, 333, sizeof(data));
	ck_assert(!a.error && a.data_len == sizeof(data) && !memcmp(a.data, data, sizeof(data)));
	a = call(NBD_CMD_FLAG_FUA | (_i ? NBD_CMD_FLAG_DF : 0), NBD_CMD_READ, 3 * MiB + 1, 1);
	ck_assert(!a.error && a.data[0] == data[0]);
	a = call(0, NBD_CMD_FLUSH, 0, 0);
	ck_assert_uint_eq(a.error, 0);
	ck_assert_uint_eq(call(0, NBD_CMD_CACHE, 0, MiB).error, 0);
	ck_assert_uint_eq(call(NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE_ZEROES, 400, 2000).error, 0);
	a = call(0, NBD_CMD_READ, 333, sizeof(data));
	ck_assert(!memcmp(a.data, data, 67) && !memcmp(a.data + 67, zero, 2000) &&
		  !memcmp(a.data + 2067, data + 2067, 100));
	ck_assert_uint_eq(call(NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 0, MiB).error, 0);
	a = call(0, NBD_CMD_READ, 128 * 1024, 4096);
	ck_assert(!memcmp(a.data, zero, 4096));
	ck_assert_uint_eq(call(NBD_CMD_FLAG_FUA, NBD_CMD_TRIM, MiB, MiB).error, 0);
	a = call(0, NBD_CMD_READ, MiB, 8192);
	ck_assert(!a.error && !memcmp(a.data, zero, 8192));
}
END_TEST

/* Zeroes that need not be read are not sent, where the client can be told so; what is data stays that. */
START_TEST(zeroes_are_told_rather_than_sent)
{
	static const uint8_t zero[65536];
	struct answer a;

	connect_to("a", _i);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 3 * MiB, 512).error, 0);	/* now its metadata are cached */
	a = call(0, NBD_CMD_READ, 3 * MiB, 65536);
	if (_i == SIMPLE)
		ck_assert(a.data_len == 65536 && !memcmp(a.data, zero, 65536));
	else
		ck_assert(!a.data && a.hole == 65536);
	a = call(_i ? NBD_CMD_FLAG_DF : 0, NBD_CMD_READ, 2 * MiB + 1, 40001);
	ck_assert(a.data_len == (_i ? 0 : 40001) && a.hole == (_i ? 40001 : 0));
	a = call(0, NBD_CMD_READ, 3 * MiB, 4096);		/* too short to be worth it */
	ck_assert(a.data_len == 4096 && !a.hole && !memcmp(a.data, zero, 4096));
	/* the last byte is data */
	ck_assert_uint_eq(write_call(0, 3 * MiB + 65535, "x", 1), 0);
	a = call(0, NBD_CMD_READ, 3 * MiB, 65536);
	ck_assert(a.data_len == 65536 && !a.hole && !memcmp(a.data, zero, 65535) && a.data[65535] == 'x');
	/* the first one is */
	a = call(0, NBD_CMD_READ, 192 * 1024 - 1, 65536);
	ck_assert(a.data_len == 65536 && !a.hole && a.data[0] == 0x11 && !memcmp(a.data + 1, zero, 65535));
	/* beyond the end is an error, whatever would be there */
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 4 * MiB - 32768, 65536).error, NBD_EINVAL);
}
END_TEST

START_TEST(nothing_is_done_with_nothing)
{
	connect_to("a", _i);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 5, 0).error, 0);
	ck_assert_uint_eq(call(0, NBD_CMD_TRIM, 5, 0).error, 0);
	ck_assert_uint_eq(call(0, NBD_CMD_WRITE_ZEROES, 4 * MiB, 0).error, 0);
	ck_assert_uint_eq(call(0, NBD_CMD_CACHE, 5, 0).error, 0);
	ck_assert_uint_eq(write_call(0, 5, NULL, 0), 0);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 4 * MiB + 1, 0).error, NBD_EINVAL);
}
END_TEST

START_TEST(what_is_refused)
{
	static uint8_t data[8192];
	static const uint16_t bad_flags[][2] = {
		{ NBD_CMD_READ, NBD_CMD_FLAG_NO_HOLE }, { NBD_CMD_READ, 1 << 9 },
		{ NBD_CMD_FLUSH, NBD_CMD_FLAG_DF }, { NBD_CMD_TRIM, NBD_CMD_FLAG_FAST_ZERO },
		{ NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_REQ_ONE }, { NBD_CMD_CACHE, NBD_CMD_FLAG_DF },
	};
	static const uint16_t unknown[] = { NBD_CMD_RESIZE, 9, 77, UINT16_MAX };

	connect_to("a", _i);
	for (size_t i = 0; i < ARRAY_SIZE(bad_flags); i++)
		ck_assert_uint_eq(call(bad_flags[i][1], bad_flags[i][0], 0, 512).error, NBD_EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
		ck_assert_uint_eq(call(0, unknown[i], 0, 512).error, NBD_EINVAL);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 4 * MiB - 511, 512).error, NBD_EINVAL);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, UINT64_MAX - 100, 512).error, NBD_EINVAL);
	ck_assert_uint_eq(call(0, NBD_CMD_TRIM, 4 * MiB, 512).error, NBD_EINVAL);
	ck_assert_uint_eq(call(0, NBD_CMD_WRITE_ZEROES, 4 * MiB - 1, 2).error, NBD_ENOSPC);
	ck_assert_uint_eq(write_call(0, 4 * MiB - 8191, data, 8192), NBD_ENOSPC);
	ck_assert_uint_eq(write_call(NBD_CMD_FLAG_DF, 0, data, 8192), NBD_EINVAL);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 0, 33 * MiB).error, NBD_EINVAL);
	if (_i == SIMPLE)
		ck_assert_uint_eq(call(0, NBD_CMD_BLOCK_STATUS, 0, 512).error, NBD_EINVAL);
	else
		ck_assert_uint_eq(call(0, NBD_CMD_BLOCK_STATUS, 0, 0).error, NBD_EINVAL);
	if (_i == SIMPLE)
		ck_assert_uint_eq(call(NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512).error, NBD_EINVAL);
	if (_i != EXTENDED)
		ck_assert_uint_eq(call(NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_READ, 0, 512).error,
				  NBD_EINVAL);
	/* and nothing has gone out of step */
	ck_assert_uint_eq(write_call(0, 0, data, 8192), 0);
}
END_TEST

START_TEST(read_only)
{
	uint8_t data[512] = { 1 };

	connect_to("ro", _i);
	ck_assert_uint_eq(write_call(0, 0, data, 512), NBD_EPERM);
	ck_assert_uint_eq(call(0, NBD_CMD_TRIM, 0, 512).error, NBD_EPERM);
	ck_assert_uint_eq(call(0, NBD_CMD_WRITE_ZEROES, 0, 512).error, NBD_EPERM);
	ck_assert_uint_eq(call(0, NBD_CMD_FLUSH, 0, 0).error, 0);
	ck_assert_uint_eq(call(0, NBD_CMD_READ, 0, 512).error, 0);
}
END_TEST

START_TEST(too_long_a_write)
{
	uint8_t *big = calloc(1, 40 * MiB);
	uint8_t small[512] = { 7 };

	connect_to("a", _i);
	ck_assert_uint_ne(write_call(0, 0, big, 40 * MiB), 0);
	ck_assert_uint_eq(w->c->bytes, 0);
	ck_assert_uint_eq(write_call(0, 0, small, 512), 0);	/* still in step */
	/* more than anybody would wait for */
	wire_request(w, _i == EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0, NBD_CMD_WRITE, 1, 0, 3 * GiB);
	wire_run(w);
	ck_assert_ptr_null(w->c);
	free(big);
}
END_TEST

START_TEST(wrong_magic_ends_it)
{
	connect_to("a", _i);
	wire_be32(w, NBD_REQUEST_MAGIC ^ 1);
	wire_run(w);
	ck_assert_ptr_null(w->c);
	connect_to("a", _i);
	/* of the other style */
	wire_be32(w, _i == EXTENDED ? NBD_REQUEST_MAGIC : NBD_EXT_REQUEST_MAGIC);
	wire_run(w);
	ck_assert_ptr_null(w->c);
}
END_TEST

START_TEST(disconnect_answers_what_runs)
{
	connect_to("a", _i);
	wire_request(w, 0, NBD_CMD_READ, 1, 0, 65536);
	wire_request(w, 0, NBD_CMD_FLUSH, 2, 0, 0);
	wire_request(w, 0, NBD_CMD_DISC, 3, 0, 0);
	wire_request(w, 0, NBD_CMD_FLUSH, 4, 0, 0);
	wire_run(w);
	ck_assert_ptr_null(w->c);
	for (int i = 0; i < 2; i++) {
		const uint8_t *h = w->out + w->out_pos;
		bool data = get_be64(h + 8) == 1;

		ck_assert_uint_eq(answer(0, data ? 65536 : 0).error, 0);
	}
	nothing_more();		/* no reply to the end, none to what follows, no new greeting */
}
END_TEST

START_TEST(many_at_once)
{
	unsigned seen[300] = { 0 };

	connect_to("a", _i);
	for (unsigned i = 0; i < 300; i++)
		wire_request(w, 0, NBD_CMD_READ, i, i * 4096 % (4 * MiB - 5000), 5000);
	wire_run(w);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t cookie = get_be64(w->out + w->out_pos + 8);
		struct answer a = answer(cookie * 4096 % (4 * MiB - 5000), 5000);

		ck_assert_uint_lt(cookie, 300);
		ck_assert(!a.error && a.data_len == 5000);
		seen[cookie]++;
		ck_assert_uint_eq(seen[cookie], 1);
	}
	nothing_more();
	ck_assert_uint_eq(w->c->nreqs, 0);
}
END_TEST

/* The client reads nothing: the server stops taking requests, within its limits. */
START_TEST(who_does_not_read_is_not_served)
{
	connect_to("a", _i);
	w->window = 0;
	for (unsigned i = 0; i < 2000; i++)
		wire_request(w, 0, NBD_CMD_READ, i, 0, MiB);
	wire_run(w);
	ck_assert_uint_le(w->c->nreqs, f->max_reqs);
	ck_assert_uint_le(w->c->bytes, f->max_bytes + 32 * MiB);
	w->window = 100 * MiB;
	wire_run(w);
	ck_assert_uint_le(w->c->bytes, f->max_bytes + 32 * MiB);
	ck_assert_uint_eq(w->out_len - w->out_pos, 100 * MiB);
}
END_TEST

/* A conversation cut off at any byte leaves nothing behind, and what was answered was done. */
START_TEST(cut_anywhere)
{
	uint8_t data[600];
	size_t total;

	memset(data, 0x77, sizeof(data));
	connect_to("a", _i);
	for (size_t cut = 0, done = 0; !done; cut++) {
		wire_close(w);
		w = wire_open(f);
		w->chunk = cut % 3 ? 0 : 1 + cut % 40;
		put_hello(_i, "a");
		/* extended headers are agreed on only when that has been handled: say it as they are */
		for (int k = 0; k < 3; k++) {
			wire_be32(w, _i == EXTENDED ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
			wire_be16(w, _i == EXTENDED && !k ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
			wire_be16(w, k == 0 ? NBD_CMD_WRITE : k == 1 ? NBD_CMD_FLUSH : NBD_CMD_READ);
			wire_be64(w, k);
			wire_be64(w, 0);
			if (_i == EXTENDED)
				wire_be32(w, 0);
			wire_be32(w, k == 1 ? 0 : sizeof(data));
			if (!k)
				wire_bytes(w, data, sizeof(data));
		}
		total = w->in_len;
		done = cut >= total;
		w->in_len = MIN(cut, total);
		w->eof = cut & 1;
		w->gone = cut & 2;
		wire_run(w);
		if (cut > total - 100 && cut % 3)
			cut += 1;
		else if (cut > 300 && cut < total - 100)
			cut += 37;
		ck_assert(done || !w->c || w->c->nreqs <= 1);
	}
	wire_close(w);
	ck_assert_uint_eq(f->nconns, 0);
	ck_assert_uint_eq(f->bytes, 0);
	w = NULL;
	connect_to("a", _i);
	ck_assert(!memcmp(call(0, NBD_CMD_READ, 0, sizeof(data)).data, data, sizeof(data)));
}
END_TEST

/* ------------------------------------------------------------------ block status */

static void ctx_is(const struct answer *a, unsigned id, unsigned n, const uint64_t (*want)[2])
{
	ck_assert(a->ctx[id].seen);
	ck_assert_uint_eq(a->ctx[id].n, n);
	for (unsigned i = 0; i < n; i++) {
		ck_assert_uint_eq(a->ctx[id].len[i], want[i][0]);
		ck_assert_uint_eq(a->ctx[id].flags[i], want[i][1]);
	}
}

static const uint64_t allocation[][2] = { { 0x20000, 3 }, { 0x10000, 0 }, { 0xd0000, 3 },
					  { 0x10000, 0 }, { 0x2f0000, 3 } };
static const uint64_t depth[][2] = { { 0x20000, 0 }, { 0x10000, 1 }, { 0xd0000, 0 },
				     { 0x10000, 1 }, { 0x2f0000, 0 } };
static const uint64_t changes[][2] = { { 0x100000, 0 }, { 0x10000, 1 }, { 0xf0000, 0 },
				       { 0x10000, 1 }, { 0x1f0000, 0 } };

START_TEST(status_of_everything)
{
	struct answer a;

	connect_to("a", _i);
	a = call(0, NBD_CMD_BLOCK_STATUS, 0, 4 * MiB);
	ck_assert_uint_eq(a.error, 0);
	ctx_is(&a, 0, ARRAY_SIZE(allocation), allocation);
	ctx_is(&a, 1, ARRAY_SIZE(depth), depth);
	ctx_is(&a, 2, ARRAY_SIZE(changes), changes);
}
END_TEST

START_TEST(status_of_one)
{
	static const uint64_t first[][2] = { { 0x10000 - 5, 0 } };
	struct answer a;

	connect_to("a", _i);
	a = call(NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 0x20005, MiB);
	ctx_is(&a, 0, 1, first);
	ck_assert_uint_eq(a.ctx[1].n, 1);
	ck_assert_uint_eq(a.ctx[2].n, 1);
}
END_TEST

/* With every metadata block missing at first, walks park; reads run among them. */
START_TEST(status_parks)
{
	struct tapimg *img = disk_image(disk);
	struct answer a;

	connect_to("a", _i);
	img->meta->cold = true;
	wire_request(w, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * MiB);
	wire_request(w, 0, NBD_CMD_READ, 2, 0x20000, 512);
	wire_request(w, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * MiB);
	wire_run(w);
	img->meta->cold = false;
	for (int i = 0; i < 3; i++) {
		bool read = get_be64(w->out + w->out_pos + 8) == 2;

		a = answer(0x20000, read ? 512 : 0);
		ck_assert_uint_eq(a.error, 0);
		if (!read)
			ck_assert_uint_gt(a.ctx[1].n, 0);
	}
	nothing_more();
}
END_TEST

/* The client vanishes while its walk is parked or its read runs: the last of them ends the connection. */
START_TEST(who_vanishes_is_not_waited_for)
{
	struct tapimg *img = disk_image(disk);

	connect_to("a", _i);
	img->meta->cold = true;
	wire_request(w, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * MiB);
	wire_request(w, 0, NBD_CMD_READ, 2, 0x20000, 512);
	w->c->readable = true;
	w->c->busy++;
	nbd_conn_run(w->c);
	ck_assert_uint_gt(w->c->running, 0);
	nbd_conn_kill(w->c);
	w->c->busy--;
	nbd_conn_put(w->c);
	ck_assert_ptr_nonnull(w->c);
	wire_run(w);
	img->meta->cold = false;
	ck_assert_ptr_null(w->c);
	ck_assert_uint_eq(f->nconns, 0);
}
END_TEST

START_TEST(status_waits_while_paused)
{
	struct answer a;

	connect_to("a", _i);
	ck_assert_int_eq(disk_pause(disk, &err), 0);
	wire_request(w, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * MiB);
	wire_run(w);
	nothing_more();
	ck_assert_int_eq(disk_resume(disk, NULL, NULL, &err), 0);
	wire_run(w);
	a = answer(0, 0);
	ck_assert_uint_eq(a.error, 0);
	ctx_is(&a, 0, ARRAY_SIZE(allocation), allocation);
	/* and who goes away meanwhile is not missed */
	ck_assert_int_eq(disk_pause(disk, &err), 0);
	wire_request(w, 0, NBD_CMD_BLOCK_STATUS, 1, 0, 4 * MiB);
	wire_run(w);
	wire_close(w);
	w = NULL;
	ck_assert_int_eq(disk_resume(disk, NULL, NULL, &err), 0);
}
END_TEST

START_TEST(status_of_some_contexts)
{
	static const uint8_t none[400];
	struct answer a;

	connect_to("a", EXTENDED);
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 12);
	wire_be64(w, 4 * MiB);
	wire_be32(w, 2);
	wire_run(w);
	a = answer(0, 0);
	ck_assert(!a.error && !a.ctx[0].seen && !a.ctx[1].seen);
	ctx_is(&a, 2, ARRAY_SIZE(changes), changes);
	/* an id that was never given, a length that is none, more than there can be, no context at all */
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 12);
	wire_be64(w, 4 * MiB);
	wire_be32(w, 3);
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 11);
	wire_bytes(w, "01234567890", 11);
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 400);
	wire_bytes(w, none, sizeof(none));
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 8);
	wire_be64(w, 4 * MiB);
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 9, 0, 12);
	wire_be64(w, 5 * MiB);
	wire_be32(w, 1);
	wire_request(w, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_FLUSH, 9, 0, 3);
	wire_bytes(w, "abc", 3);
	wire_request(w, 0, NBD_CMD_WRITE, 9, 0, 512);		/* says nothing of a payload */
	wire_run(w);
	for (int i = 0; i < 7; i++)
		ck_assert_uint_eq(answer(0, 0).error, NBD_EINVAL);
	nothing_more();
	ck_assert_uint_eq(call(0, NBD_CMD_FLUSH, 0, 0).error, 0);
}
END_TEST

/* ------------------------------------------------------------------ the disk goes */

START_TEST(closing_the_disk_ends_its_clients)
{
	connect_to("a", _i);
	wire_request(w, 0, NBD_CMD_READ, 1, 0, 4096);
	wire_run(w);
	ck_assert_int_eq(disk_close(disk, false, &err), 0);
	ck_assert_ptr_null(w->c);
	ck_assert_uint_eq(answer(0, 4096).error, 0);
	nothing_more();
}
END_TEST

START_TEST(stopping_answers_what_runs)
{
	connect_to("a", _i);
	ck_assert_int_eq(disk_pause(disk, &err), 0);
	wire_request(w, 0, NBD_CMD_READ, 1, 0, 4096);
	wire_step(w);
	nothing_more();
	wire_request(w, 0, NBD_CMD_READ, 2, 0, 4096);
	w->c->readable = true;
	nbd_conn_shutdown(w->c);
	ck_assert_int_eq(disk_resume(disk, NULL, NULL, &err), 0);
	wire_run(w);
	ck_assert_ptr_null(w->c);
	for (int i = 0; i < 2; i++) {
		bool first = get_be64(w->out + w->out_pos + 8) == 1;

		ck_assert_uint_eq(answer(0, first ? 4096 : 0).error, first ? 0 : NBD_ESHUTDOWN);
	}
	nothing_more();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("nbd-req");
	TCase *t = tcase_create("all");

	tcase_set_timeout(t, 120);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, data_goes_and_comes, SIMPLE, STYLES);
	tcase_add_loop_test(t, zeroes_are_told_rather_than_sent, SIMPLE, STYLES);
	tcase_add_loop_test(t, nothing_is_done_with_nothing, SIMPLE, STYLES);
	tcase_add_loop_test(t, what_is_refused, SIMPLE, STYLES);
	tcase_add_loop_test(t, read_only, SIMPLE, STYLES);
	tcase_add_loop_test(t, too_long_a_write, SIMPLE, STYLES);
	tcase_add_loop_test(t, wrong_magic_ends_it, SIMPLE, STYLES);
	tcase_add_loop_test(t, disconnect_answers_what_runs, SIMPLE, STYLES);
	tcase_add_loop_test(t, many_at_once, SIMPLE, STYLES);
	tcase_add_loop_test(t, who_does_not_read_is_not_served, SIMPLE, STYLES);
	tcase_add_loop_test(t, cut_anywhere, SIMPLE, STYLES);
	tcase_add_loop_test(t, status_of_everything, STRUCTURED, STYLES);
	tcase_add_loop_test(t, status_of_one, STRUCTURED, STYLES);
	tcase_add_loop_test(t, status_parks, STRUCTURED, STYLES);
	tcase_add_loop_test(t, who_vanishes_is_not_waited_for, STRUCTURED, STYLES);
	tcase_add_loop_test(t, status_waits_while_paused, STRUCTURED, STYLES);
	tcase_add_test(t, status_of_some_contexts);
	tcase_add_loop_test(t, closing_the_disk_ends_its_clients, SIMPLE, STYLES);
	tcase_add_loop_test(t, stopping_answers_what_runs, SIMPLE, STYLES);
	suite_add_tcase(suite, t);
	return suite_run(suite);
}
