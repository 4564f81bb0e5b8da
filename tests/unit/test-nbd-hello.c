/* SPDX-License-Identifier: BSD-2-Clause */
/* test-nbd-hello.c - the NBD server's handshake: every option, and what hostile clients make of them */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "endian.h"
#include "nbdwire.h"
#include "scratch.h"
#include "suite.h"

#define BOTH (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

static struct server s;
static struct tapimg_err err;
static struct nbd_front *f;
static struct wire *w;

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

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
	ck_assert_int_eq(server_init(&s, &err), 0);
	make_image("a.img", "raw", MiB, NULL, NULL);
	make_image("b.img", "raw", 3 * MiB, NULL, NULL);
	open_disk("a=raw:a.img");
	open_disk("second=raw:b.img,read-only=on");
	f = wire_front(&s, NULL, &err);
	ck_assert_msg(f != NULL, "%s", err.text);
	w = wire_open(f);
}

static void teardown(void)
{
	struct disk *d;

	wire_close(w);
	ck_assert_uint_eq(f->nconns, 0);
	ck_assert_uint_eq(f->bytes, 0);
	wire_front_stop(f);
	while ((d = server_next_disk(&s, NULL)))
		disk_close(d, true, NULL);
	server_exit(&s);
	scratch_leave();
}

/* ------------------------------------------------------------------ what the server says */

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

static void closed(void)
{
	ck_assert_ptr_null(w->c);
}

/* One reply to @opt: its type; data and length. */
static uint32_t reply(uint32_t opt, const uint8_t **data, uint32_t *len)
{
	const uint8_t *h = got(NBD_OPT_REPLY_HEADER);

	ck_assert(get_be64(h) == NBD_OPT_REPLY_MAGIC);
	ck_assert_uint_eq(get_be32(h + 8), opt);
	*len = get_be32(h + 16);
	*data = got(*len);
	return get_be32(h + 12);
}

static void expect(uint32_t opt, uint32_t type)
{
	const uint8_t *data;
	uint32_t len;

	ck_assert_uint_eq(reply(opt, &data, &len), type);
	/* refusals explain themselves */
	ck_assert(!(type & NBD_REP_ERROR) || len > 0);
}

static void hello(void)
{
	const uint8_t *h;

	wire_run(w);
	h = got(18);
	ck_assert(get_be64(h) == NBD_MAGIC);
	ck_assert(get_be64(h + 8) == NBD_OPT_MAGIC);
	ck_assert_uint_eq(get_be16(h + 16), BOTH);
	wire_flags(w, BOTH);
}

static void ask(uint32_t opt, const void *p, uint32_t n)
{
	wire_option(w, opt, p, n);
	wire_run(w);
}

/* INFO and GO: u32 length, name, u16 count, ids */
static uint32_t go_data(uint8_t *out, const char *name, unsigned nids, const uint16_t *ids)
{
	uint32_t n = strlen(name);

	put_be32(out, n);
	memcpy(out + 4, name, n);
	put_be16(out + 4 + n, nids);
	for (unsigned i = 0; i < nids; i++)
		put_be16(out + 6 + n + 2 * i, ids[i]);
	return 6 + n + 2 * nids;
}

static void go(uint32_t opt, const char *name)
{
	uint8_t data[300];

	ask(opt, data, go_data(data, name, 0, NULL));
}

/* The export's size and flags out of the INFO replies of a GO or INFO. */
static uint16_t infos(uint32_t opt, uint64_t *size)
{
	uint16_t flags = 0;
	const uint8_t *data;
	uint32_t len, type;

	while ((type = reply(opt, &data, &len)) == NBD_REP_INFO) {
		if (get_be16(data) == NBD_INFO_EXPORT) {
			ck_assert_uint_eq(len, 12);
			*size = get_be64(data + 2);
			flags = get_be16(data + 10);
		}
	}
	ck_assert_uint_eq(type, NBD_REP_ACK);
	return flags;
}

/* SET and LIST: export, queries */
static uint32_t meta_data(uint8_t *out, const char *export, unsigned n, const char *const *queries)
{
	uint32_t at = 8 + strlen(export);

	put_be32(out, strlen(export));
	memcpy(out + 4, export, strlen(export));
	put_be32(out + 4 + strlen(export), n);
	for (unsigned i = 0; i < n; i++) {
		put_be32(out + at, strlen(queries[i]));
		memcpy(out + at + 4, queries[i], strlen(queries[i]));
		at += 4 + strlen(queries[i]);
	}
	return at;
}

static void meta(uint32_t opt, const char *export, unsigned n, const char *const *queries)
{
	uint8_t data[2000];

	ask(opt, data, meta_data(data, export, n, queries));
}

/* ------------------------------------------------------------------ tests */

START_TEST(unknown_client_flag)
{
	wire_flags(w, BOTH | 4);
	wire_run(w);
	closed();
}
END_TEST

START_TEST(without_fixed_only_export_name)
{
	wire_flags(w, 0);
	ask(NBD_OPT_LIST, NULL, 0);
	closed();
	wire_close(w);
	w = wire_open(f);
	wire_flags(w, 0);
	wire_run(w);
	got(18);
	ask(NBD_OPT_EXPORT_NAME, "second", 6);
	ck_assert(get_be64(got(10)) == 3 * MiB);
	got(124);		/* no NO_ZEROES */
	nothing_more();
}
END_TEST

START_TEST(export_name_without_zeroes)
{
	const uint8_t *p;

	hello();
	ask(NBD_OPT_EXPORT_NAME, "", 0);
	p = got(10);
	ck_assert(get_be64(p) == MiB);
	ck_assert_uint_eq(get_be16(p + 8) & (NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY),
			  NBD_FLAG_HAS_FLAGS);
	nothing_more();
	ck_assert_int_eq(w->c->state, NBD_TRANSMIT);
}
END_TEST

START_TEST(unknown_export_name_closes)
{
	hello();
	ask(NBD_OPT_EXPORT_NAME, "nobody", 6);
	closed();
}
END_TEST

START_TEST(list)
{
	const uint8_t *data;
	uint32_t len;

	hello();
	ask(NBD_OPT_LIST, NULL, 0);
	ck_assert_uint_eq(reply(NBD_OPT_LIST, &data, &len), NBD_REP_SERVER);
	ck_assert_uint_eq(len, 5);
	ck_assert_mem_eq(data, "\0\0\0\1a", 5);
	ck_assert_uint_eq(reply(NBD_OPT_LIST, &data, &len), NBD_REP_SERVER);
	ck_assert_mem_eq(data, "\0\0\0\6second", 10);
	expect(NBD_OPT_LIST, NBD_REP_ACK);
	ask(NBD_OPT_LIST, "x", 1);
	expect(NBD_OPT_LIST, NBD_REP_ERR_INVALID);
	nothing_more();
}
END_TEST

START_TEST(abort_acknowledges_and_closes)
{
	hello();
	ask(NBD_OPT_ABORT, NULL, 0);
	expect(NBD_OPT_ABORT, NBD_REP_ACK);
	nothing_more();
	closed();
}
END_TEST

START_TEST(what_is_not_known)
{
	static const uint32_t opts[] = { 0, NBD_OPT_PEEK_EXPORT, 12, 99, 0x80000001, UINT32_MAX };

	hello();
	for (size_t i = 0; i < ARRAY_SIZE(opts); i++) {
		ask(opts[i], "data", 4);
		expect(opts[i], NBD_REP_ERR_UNSUP);
	}
	go(NBD_OPT_INFO, "a");
	ck_assert_uint_ne(w->out_len, w->out_pos);
}
END_TEST

START_TEST(starttls_without_keys)
{
	hello();
	ask(NBD_OPT_STARTTLS, NULL, 0);
	expect(NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY);
	ask(NBD_OPT_STARTTLS, "x", 1);
	expect(NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID);
	nothing_more();
}
END_TEST

START_TEST(info_and_go)
{
	static const uint16_t ids[] = { NBD_INFO_NAME, 77, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };
	const uint8_t *data;
	uint8_t buf[100];
	uint64_t size = 0;
	uint32_t len;

	hello();
	ask(NBD_OPT_INFO, buf, go_data(buf, "second", 4, ids));
	ck_assert_uint_eq(reply(NBD_OPT_INFO, &data, &len), NBD_REP_INFO);
	ck_assert_uint_eq(get_be16(data), NBD_INFO_EXPORT);
	ck_assert(get_be64(data + 2) == 3 * MiB);
	ck_assert_uint_eq(get_be16(data + 10) &
			  (NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_DF |
			   NBD_FLAG_CAN_MULTI_CONN), NBD_FLAG_READ_ONLY | NBD_FLAG_CAN_MULTI_CONN);
	ck_assert_uint_eq(reply(NBD_OPT_INFO, &data, &len), NBD_REP_INFO);
	ck_assert_uint_eq(len, 8);
	ck_assert_mem_eq(data, "\0\1second", 8);
	ck_assert_uint_eq(reply(NBD_OPT_INFO, &data, &len), NBD_REP_INFO);
	ck_assert_uint_eq(len, 14);
	ck_assert_uint_eq(get_be16(data), NBD_INFO_BLOCK_SIZE);
	ck_assert_uint_eq(get_be32(data + 2), 1);
	ck_assert(is_pow2(get_be32(data + 6)) && get_be32(data + 6) >= 512);
	ck_assert_uint_eq(get_be32(data + 10), 32 * MiB);
	expect(NBD_OPT_INFO, NBD_REP_ACK);
	nothing_more();
	/* GO gives the same answers, and transmission begins at once */
	go(NBD_OPT_GO, "a");
	ck_assert_uint_eq(infos(NBD_OPT_GO, &size) &
			  (NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_WRITE_ZEROES),
			  NBD_FLAG_SEND_WRITE_ZEROES);
	ck_assert(size == MiB);
	nothing_more();
	ck_assert_int_eq(w->c->state, NBD_TRANSMIT);
}
END_TEST

START_TEST(info_that_does_not_add_up)
{
	static const uint8_t bad[][12] = {
		{ 0 }, { 0, 0, 0, 1, 'a' }, { 0, 0, 0, 1, 'a', 0, 2, 0, 0 },
		{ 0xff, 0xff, 0xff, 0xff, 'a', 0, 0 }, { 0, 0, 0, 7, 'a', 0, 0 },
		{ 0, 0, 0, 1, 'a', 0, 0, 0 }, { 0xff, 0xff, 0xff, 0xfa, 'a', 0, 0 },
	};
	static const uint32_t len[] = { 3, 5, 9, 7, 7, 8, 7 };

	hello();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ask(NBD_OPT_INFO, bad[i], len[i]);
		expect(NBD_OPT_INFO, NBD_REP_ERR_INVALID);
		ask(NBD_OPT_GO, bad[i], len[i]);
		expect(NBD_OPT_GO, NBD_REP_ERR_INVALID);
	}
	go(NBD_OPT_GO, "nobody");
	expect(NBD_OPT_GO, NBD_REP_ERR_UNKNOWN);
	nothing_more();
}
END_TEST

START_TEST(styles)
{
	hello();
	ask(NBD_OPT_STRUCTURED_REPLY, "x", 1);
	expect(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	ask(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
	ask(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID);
	ask(NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	expect(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
	ask(NBD_OPT_EXTENDED_HEADERS, NULL, 0);
	expect(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_INVALID);
	ask(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
	nothing_more();
}
END_TEST

START_TEST(too_long_an_option)
{
	static uint8_t big[NBD_OPT_MAX + 100];

	hello();
	ask(NBD_OPT_LIST, big, sizeof(big));
	expect(NBD_OPT_LIST, NBD_REP_ERR_TOO_BIG);
	ask(NBD_OPT_LIST_META_CONTEXT, big, sizeof(big));
	expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_TOO_BIG);
	/* and the next one is understood */
	go(NBD_OPT_INFO, "a");
	ck_assert_uint_gt(w->out_len, w->out_pos);
	wire_be64(w, NBD_OPT_MAGIC);
	wire_be32(w, NBD_OPT_LIST);
	wire_be32(w, UINT32_MAX);
	wire_run(w);
	closed();
}
END_TEST

START_TEST(too_many_options)
{
	hello();
	for (unsigned i = 0; i <= NBD_OPTS_MAX; i++)
		wire_option(w, NBD_OPT_LIST, NULL, 0);
	wire_run(w);
	closed();
}
END_TEST

START_TEST(asking_without_reading)
{
	size_t least;

	hello();
	wire_run(w);
	w->window = 0;
	for (unsigned i = 0; i < NBD_OPTS_MAX; i++)
		wire_option(w, NBD_OPT_LIST, NULL, 0);
	wire_run(w);
	/* it stops taking options when their replies are not taken */
	least = w->c->out_len;
	ck_assert_uint_le(least, NBD_HELLO_OUT + 1000);
	w->window = SIZE_MAX;
	wire_run(w);
	ck_assert_uint_gt(w->out_len, NBD_OPTS_MAX * 20);
}
END_TEST

START_TEST(bad_magic)
{
	hello();
	wire_be64(w, NBD_OPT_MAGIC + 1);
	wire_be64(w, 0);
	wire_run(w);
	closed();
}
END_TEST

START_TEST(contexts_listed)
{
	static const char *const base[] = { "base:" }, *const other[] = { "other:x", "nocolon" };
	const uint8_t *data;
	uint32_t len;

	hello();
	meta(NBD_OPT_LIST_META_CONTEXT, "a", 0, NULL);
	ck_assert_uint_eq(reply(NBD_OPT_LIST_META_CONTEXT, &data, &len), NBD_REP_META_CONTEXT);
	ck_assert_uint_eq(len, 4 + strlen("base:allocation"));
	ck_assert_mem_eq(data, "\0\0\0\0base:allocation", len);
	ck_assert_uint_eq(reply(NBD_OPT_LIST_META_CONTEXT, &data, &len), NBD_REP_META_CONTEXT);
	ck_assert_mem_eq(data, "\0\0\0\0qemu:allocation-depth", len);
	expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
	meta(NBD_OPT_LIST_META_CONTEXT, "a", 1, base);
	ck_assert_uint_eq(reply(NBD_OPT_LIST_META_CONTEXT, &data, &len), NBD_REP_META_CONTEXT);
	expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
	meta(NBD_OPT_LIST_META_CONTEXT, "a", 2, other);
	expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK);
	meta(NBD_OPT_LIST_META_CONTEXT, "nobody", 0, NULL);
	expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	nothing_more();
}
END_TEST

START_TEST(contexts_chosen)
{
	static const char *const both[] = { "base:allocation", "qemu:allocation-depth",
					    "base:allocation", "base:" };
	const uint8_t *data;
	uint32_t len;

	hello();
	meta(NBD_OPT_SET_META_CONTEXT, "a", 1, both);
	expect(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);	/* no structured replies yet */
	ask(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	expect(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
	meta(NBD_OPT_SET_META_CONTEXT, "a", 4, both);
	ck_assert_uint_eq(reply(NBD_OPT_SET_META_CONTEXT, &data, &len), NBD_REP_META_CONTEXT);
	ck_assert_uint_eq(reply(NBD_OPT_SET_META_CONTEXT, &data, &len), NBD_REP_META_CONTEXT);
	ck_assert_uint_ne(get_be32(data), 0);
	expect(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
	ck_assert_uint_eq(w->c->nctx, 2);
	/* the last choice counts, even if it fails */
	meta(NBD_OPT_SET_META_CONTEXT, "nobody", 1, both);
	expect(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNKNOWN);
	ck_assert_uint_eq(w->c->nctx, 0);
	meta(NBD_OPT_SET_META_CONTEXT, "a", 1, both);
	reply(NBD_OPT_SET_META_CONTEXT, &data, &len);
	expect(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
	ask(NBD_OPT_SET_META_CONTEXT, "\0\0\0\1a\0\0\0\1\0\0\0\7base:", 18);
	expect(NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_INVALID);
	ck_assert_uint_eq(w->c->nctx, 0);
	nothing_more();
}
END_TEST

START_TEST(contexts_belong_to_their_export)
{
	static const char *const base[] = { "base:allocation" };
	uint64_t size;

	hello();
	ask(NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	meta(NBD_OPT_SET_META_CONTEXT, "second", 1, base);
	ck_assert_uint_eq(w->c->nctx, 1);
	w->out_pos = w->out_len;
	go(NBD_OPT_GO, "a");
	ck_assert(infos(NBD_OPT_GO, &size) & NBD_FLAG_SEND_DF);
	ck_assert_uint_eq(w->c->nctx, 0);
}
END_TEST

START_TEST(meta_that_does_not_add_up)
{
	static const uint8_t bad[][20] = {
		{ 0 }, { 0, 0, 0, 9, 'a', 0, 0, 0, 0 }, { 0, 0, 0, 1, 'a', 0, 0, 0, 1 },
		{ 0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0 },
		{ 0, 0, 0, 1, 'a', 0, 0, 0, 0, 'x' },
		{ 0, 0, 0, 1, 'a', 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff },
		{ 0xff, 0xff, 0xff, 0xf8, 'a', 0, 0, 0, 0 },
	};
	static const uint32_t len[] = { 7, 9, 9, 13, 10, 13, 9 };

	hello();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ask(NBD_OPT_LIST_META_CONTEXT, bad[i], len[i]);
		expect(NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_INVALID);
	}
	nothing_more();
}
END_TEST

/* The same conversation in pieces of every size gives the same bytes. */
START_TEST(any_pieces)
{
	static const char *const base[] = { "base:allocation" };
	uint8_t *whole = NULL;
	size_t whole_len = 0;

	for (size_t chunk = 0; chunk < 40; chunk++) {
		wire_close(w);
		w = wire_open(f);
		w->chunk = chunk;
		wire_flags(w, BOTH);
		wire_option(w, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		wire_option(w, NBD_OPT_LIST, NULL, 0);
		meta(NBD_OPT_SET_META_CONTEXT, "second", 1, base);
		go(NBD_OPT_GO, "second");
		ck_assert_int_eq(w->c->state, NBD_TRANSMIT);
		if (!chunk) {
			whole_len = w->out_len;
			whole = malloc(whole_len);
			memcpy(whole, w->out, whole_len);
		}
		ck_assert_uint_eq(w->out_len, whole_len);
		ck_assert_mem_eq(w->out, whole, whole_len);
	}
	free(whole);
}
END_TEST

START_TEST(one_disk_under_another_name)
{
	struct nbd_export e;

	wire_close(w);
	wire_front_stop(f);
	f = wire_front(&s, "disk=second,export=other,description=text", &err);
	ck_assert_msg(f != NULL, "%s", err.text);
	w = wire_open(f);
	ck_assert(nbd_export_find(f, "other", 5, &e));
	ck_assert_str_eq(e.description, "text");
	ck_assert(nbd_export_find(f, "", 0, &e));
	ck_assert_str_eq(disk_props(e.disk)->name, "second");
	ck_assert(!nbd_export_find(f, "second", 6, &e));
	ck_assert(!nbd_export_nth(f, 1, &e));
}
END_TEST

START_TEST(options_that_cannot_be)
{
	static const char *const bad[][2] = {
		{ "listen=:1", "one of socket" }, { "disk=zz", "no disk 'zz'" },
		{ "tls=on", "tls-certificates" }, { "tls=perhaps", "off, on or require" },
		{ "max-requests=0", "max-requests" }, { "max-memory=x", "max-memory" },
		{ "read-only=maybe", "read-only" }, { "handshake-timeout=0", "handshake-timeout" },
		{ "tls-psk-file=missing", "missing" }, { "tls-certificates=nowhere", "nowhere" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&err, 0, sizeof(err));
		ck_assert_ptr_null(wire_front(&s, bad[i][0], &err));
		ck_assert_msg(strstr(err.text, bad[i][1]) != NULL, "%s: %s", bad[i][0], err.text);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("nbd-hello");
	TCase *t = tcase_create("all");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, unknown_client_flag);
	tcase_add_test(t, without_fixed_only_export_name);
	tcase_add_test(t, export_name_without_zeroes);
	tcase_add_test(t, unknown_export_name_closes);
	tcase_add_test(t, list);
	tcase_add_test(t, abort_acknowledges_and_closes);
	tcase_add_test(t, what_is_not_known);
	tcase_add_test(t, starttls_without_keys);
	tcase_add_test(t, info_and_go);
	tcase_add_test(t, info_that_does_not_add_up);
	tcase_add_test(t, styles);
	tcase_add_test(t, too_long_an_option);
	tcase_add_test(t, too_many_options);
	tcase_add_test(t, asking_without_reading);
	tcase_add_test(t, bad_magic);
	tcase_add_test(t, contexts_listed);
	tcase_add_test(t, contexts_chosen);
	tcase_add_test(t, contexts_belong_to_their_export);
	tcase_add_test(t, meta_that_does_not_add_up);
	tcase_add_test(t, any_pieces);
	tcase_add_test(t, one_disk_under_another_name);
	tcase_add_test(t, options_that_cannot_be);
	suite_add_tcase(suite, t);
	return suite_run(suite);
}
