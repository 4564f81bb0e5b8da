/* SPDX-License-Identifier: BSD-2-Clause */
/* test-name.c - names of images, lists of driver options, values of options */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "name.h"
#include "opt.h"
#include "suite.h"

static bool same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

struct good {
	const char *text, *path, *format;
	uint64_t offset, size;
	const char *data_file;
	enum name_backing kind;
	const char *backing;
};

static const struct good good[] = {
	{ .text = "a.qcow2", .path = "a.qcow2" },
	{ .text = "/x/a:b.img", .path = "/x/a:b.img" },
	{ .text = "file:dir/a", .path = "dir/a" },
	{ .text = "sim:disk", .path = "sim:disk" },
	{ .text = "json", .path = "json" },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/a b\"}}",
	  .path = "/a b", .format = "qcow2" },
	{ .text = "json:{\"driver\":\"qcow2\",\"file.filename\":\"x\"}", .path = "x",
	  .format = "qcow2" },
	{ .text = "json:{\"file.driver\":\"file\",\"file.filename\":\"x\"}", .path = "x" },
	{ .text = "json:{\"file\":{\"driver\":\"file\"},\"file.filename\":\"x\"}", .path = "x" },
	{ .text = "json:{\"file.filename\":\"x\",\"file\":{\"driver\":\"file\"}}", .path = "x" },
	{ .text = "json:{\"file\":\"file:x\"}", .path = "x" },
	{ .text = "json:{\"filename\":\"x\"}", .path = "x" },
	{ .text = "json:{\"driver\":\"file\",\"filename\":\"x\"}", .path = "x", .format = "raw" },
	{ .text = "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"/a b/s\"},"
		  "\"export\":\"x&y\"}", .path = "nbd+unix:///x%26y?socket=/a%20b/s", .format = "raw" },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"nbd\",\"server.type\":\"inet\","
		  "\"server.host\":\"h\",\"server.port\":\"99\"}}", .path = "nbd://h:99/", .format = "qcow2" },
	{ .text = "json:{\"driver\":\"nbd\",\"host\":\"::1\",\"export\":\"e\",\"reconnect-delay\":5}",
	  .path = "nbd://[::1]:10809/e", .format = "raw" },
	{ .text = "json:{\"driver\":\"nbd\",\"path\":\"s\",\"discard\":\"unmap\"}",
	  .path = "nbd+unix:///?socket=s", .format = "raw" },
	{ .text = "json:{\"driver\":\"host_device\",\"filename\":\"/dev/x\"}", .path = "/dev/x",
	  .format = "raw" },
	{ .text = "json:{\"driver\":\"raw\",\"offset\":512,\"size\":\"4k\",\"file.filename\":\"x\"}",
	  .path = "x", .format = "raw", .offset = 512, .size = 4096 },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":\"x\",\"backing\":null}", .path = "x",
	  .format = "qcow2", .kind = NAME_BACKING_NONE },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":\"x\",\"backing\":\"b\"}", .path = "x",
	  .format = "qcow2", .kind = NAME_BACKING_GIVEN, .backing = "b" },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":\"x\",\"backing.driver\":\"raw\","
		  "\"backing.file.filename\":\"b\"}",
	  .path = "x", .format = "qcow2", .kind = NAME_BACKING_GIVEN,
	  .backing = "json:{\"driver\":\"raw\",\"file\":{\"filename\":\"b\"}}" },
	{ .text = "json:{\"driver\":\"qcow2\",\"file\":\"x\",\"data-file\":{\"driver\":\"file\","
		  "\"filename\":\"d\"}}",
	  .path = "x", .format = "qcow2", .data_file = "d" },
	{ .text = "json:{\"driver\":\"qcow2\",\"node-name\":\"n\",\"read-only\":true,"
		  "\"cache\":{\"direct\":true},\"file\":{\"filename\":\"x\",\"locking\":\"auto\"}}",
	  .path = "x", .format = "qcow2" },
};

START_TEST(parses)
{
	const struct good *g = &good[_i];
	struct tapimg_err err = { 0 };
	struct name n;
	int ret = name_parse(g->text, &n, &err);

	ck_assert_msg(ret == 0, "%s: %s", g->text, err.text);
	ck_assert_msg(same(n.path, g->path), "%s: path %s", g->text, n.path);
	ck_assert_msg(same(n.format, g->format), "%s: format %s", g->text, n.format);
	ck_assert_uint_eq(n.offset, g->offset);
	ck_assert_uint_eq(n.size, g->size);
	ck_assert_msg(same(n.data_file, g->data_file), "%s: data file %s", g->text, n.data_file);
	ck_assert_int_eq(n.backing_kind, g->kind);
	ck_assert_msg(same(n.backing, g->backing), "%s: backing %s", g->text, n.backing);
	name_free(&n);
}
END_TEST

static const struct { const char *text; int code; const char *says; } bad[] = {
	{ "", -EINVAL, "empty" },
	{ "file:", -EINVAL, "empty" },
	{ "json:", -EINVAL, "json:" },
	{ "json:{", -EINVAL, "json:" },
	{ "json:[]", -EINVAL, "object" },
	{ "json:{}", -EINVAL, "names no file" },
	{ "json:{\"driver\":\"qcow2\"}", -EINVAL, "names no file" },
	{ "json:{\"file\":{}}", -EINVAL, "file.filename" },
	{ "json:{\"file\":7}", -EINVAL, "'file'" },
	{ "json:{\"file\":{\"driver\":\"http\",\"filename\":\"x\"}}", -ENOTSUP, "http" },
	{ "json:{\"file\":{\"driver\":\"raw\",\"file\":{\"filename\":\"x\"}}}", -ENOTSUP, "raw" },
	{ "json:{\"file.filename\":\"x\",\"file.filename\":\"y\"}", -EINVAL, "" },
	{ "json:{\"file\":{\"filename\":\"x\"},\"file.filename\":\"y\"}", -EINVAL, "contradict" },
	{ "json:{\"file\":\"x\",\"file.filename\":\"y\"}", -EINVAL, "contradict" },
	{ "json:{\"filename\":\"x\",\"file\":\"y\"}", -EINVAL, "twice" },
	{ "json:{\"filename\":\"\"}", -EINVAL, "empty" },
	{ "json:{\"filename\":\"x\",\"colour\":\"red\"}", -EINVAL, "colour" },
	{ "json:{\"filename\":\"x\",\"encrypt.format\":\"luks\"}", -ENOTSUP, "encrypt" },
	{ "json:{\"filename\":\"x\",\"encrypt\":\"s\"}", -EINVAL, "encrypt" },
	{ "json:{\"filename\":\"x\",\"encrypt.key-secret\":\"a\",\"key-secret\":\"b\"}", -EINVAL, "twice" },
	{ "json:{\"filename\":\"x\",\"encrypt.hash\":\"b\"}", -EINVAL, "encrypt.hash" },
	{ "json:{\"filename\":\"x\",\"offset\":1}", -EINVAL, "raw" },
	{ "json:{\"driver\":\"raw\",\"filename\":\"x\",\"offset\":-1}", -EINVAL, "offset" },
	{ "json:{\"driver\":\"raw\",\"filename\":\"x\",\"size\":\"many\"}", -EINVAL, "size" },
	{ "json:{\"filename\":\"json:{}\"}", -EINVAL, "json:" },
	{ "json:{\"driver\":\"nbd\"}", -EINVAL, "path or by host" },
	{ "json:{\"driver\":\"nbd\",\"path\":\"s\",\"host\":\"h\"}", -EINVAL, "path or by host" },
	{ "json:{\"driver\":\"nbd\",\"path\":\"s\",\"x-dirty-bitmap\":\"b\"}", -EINVAL, "x-dirty-bitmap" },
	{ "json:{\"driver\":\"nbd\",\"path\":\"s\",\"tls-creds\":\"t\"}", -EINVAL, "tls-creds" },
	{ "json:{\"driver\":\"nbd\",\"path\":7}", -EINVAL, "path" },
	{ "json:{\"driver\":\"nbd\",\"server\":7}", -EINVAL, "server" },
	{ "json:{\"driver\":\"nbd\",\"server\":{\"path\":\"s\"}}", -EINVAL, "server.type" },
	{ "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"vsock\",\"cid\":\"3\"}}", -EINVAL, "server.cid" },
	{ "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"fd\",\"path\":\"s\"}}", -ENOTSUP, "fd" },
	{ "json:{\"driver\":\"nbd\",\"server\":{\"type\":\"inet\",\"path\":\"s\"}}", -EINVAL, "server.host" },
	{ "json:{\"filename\":\"x\",\"backing\":7}", -EINVAL, "backing" },
	{ "json:{\"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a."
	  "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a\":1}", -EINVAL, "" },
};

START_TEST(refuses)
{
	struct tapimg_err err = { 0 };
	struct name n;
	int ret = name_parse(bad[_i].text, &n, &err);

	ck_assert_msg(ret == bad[_i].code, "%s: %d %s", bad[_i].text, ret, err.text);
	ck_assert_msg(strstr(err.text, bad[_i].says), "%s: %s", bad[_i].text, err.text);
}
END_TEST

static const struct { const char *base, *rel, *is; } resolved[] = {
	{ "a.qcow2", "b", "b" },
	{ "/x/y/a.qcow2", "b", "/x/y/b" },
	{ "x/a", "../b", "x/../b" },
	{ "x/a", "/b", "/b" },
	{ "file:x/a", "b", "x/b" },
	{ "sim:a", "b", "sim:b" },
	{ "sim:x/a", "b", "sim:x/b" },
	{ "/x/a", "sim:b", "sim:b" },
	{ "/x/a", "json:{\"filename\":\"b\"}", "json:{\"filename\":\"b\"}" },
	{ "/x/a", "./q:b", "/x/./q:b" },
};

START_TEST(resolves)
{
	char *got = name_resolve(resolved[_i].base, resolved[_i].rel);

	ck_assert_str_eq(got, resolved[_i].is);
	free(got);
}
END_TEST

static const struct { const char *text, *is; } lists[] = {
	{ "driver=qcow2,file.filename=x", "json:{\"driver\":\"qcow2\",\"file.filename\":\"x\"}" },
	{ "file.filename=a,,b", "json:{\"file.filename\":\"a,b\"}" },
	{ "a.img,driver=raw", "json:{\"file\":\"a.img\",\"driver\":\"raw\"}" },
	{ "driver=raw,file.filename=a=b", "json:{\"driver\":\"raw\",\"file.filename\":\"a=b\"}" },
	{ "file.filename=\"", "json:{\"file.filename\":\"\\\"\"}" },
	{ "driver=raw,novalue", NULL },
	{ "=x", NULL },
	{ "driver=raw,driver=qcow2", NULL },
	{ "file.filename=\xff", NULL },
};

START_TEST(option_lists)
{
	struct tapimg_err err = { 0 };
	char *got;
	int ret = tapimg_name_from_opts(lists[_i].text, &got, &err);

	if (!lists[_i].is) {
		ck_assert_int_eq(ret, -EINVAL);
		ck_assert_ptr_null(got);
		ck_assert_msg(err.text[0], "no text");
		return;
	}
	ck_assert_int_eq(ret, 0);
	ck_assert_str_eq(got, lists[_i].is);
	free(got);
}
END_TEST

static const struct { const char *text; int ret; uint64_t is; } sizes[] = {
	{ "0", 0, 0 },
	{ "512", 0, 512 },
	{ "512b", 0, 512 },
	{ "64k", 0, 65536 },
	{ "64K", 0, 65536 },
	{ "1M", 0, 1 << 20 },
	{ "1.5G", 0, 3ULL << 29 },
	{ "0.5k", 0, 512 },
	{ "2T", 0, 2ULL << 40 },
	{ "1P", 0, 1ULL << 50 },
	{ "15E", 0, 15ULL << 60 },
	{ "0x200", 0, 512 },
	{ "18446744073709551615", 0, UINT64_MAX },
	{ "18446744073709551616", -ERANGE, 0 },
	{ "16E", -ERANGE, 0 },
	{ "0x10000000000000000", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "k", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "+1", -EINVAL, 0 },
	{ " 1", -EINVAL, 0 },
	{ "1 ", -EINVAL, 0 },
	{ "1kb", -EINVAL, 0 },
	{ "1x", -EINVAL, 0 },
	{ "1.k", -EINVAL, 0 },
	{ "1.5", -EINVAL, 0 },
	{ "0x", -EINVAL, 0 },
	{ "0xg", -EINVAL, 0 },
};

START_TEST(size_values)
{
	uint64_t v = 0;
	int ret = opt_size(sizes[_i].text, &v);

	ck_assert_msg(ret == sizes[_i].ret, "'%s': %d", sizes[_i].text, ret);
	ck_assert_msg(v == sizes[_i].is, "'%s': %llu", sizes[_i].text, (unsigned long long)v);
}
END_TEST

START_TEST(other_values)
{
	bool b = false;

	ck_assert_int_eq(opt_bool("on", &b), 0);
	ck_assert(b);
	ck_assert_int_eq(opt_bool("off", &b), 0);
	ck_assert(!b);
	ck_assert_int_eq(opt_bool("", &b), -EINVAL);
	ck_assert_int_eq(opt_bool("ON!", &b), -EINVAL);
	ck_assert_int_eq(opt_enum("off", "off|metadata|full"), 0);
	ck_assert_int_eq(opt_enum("full", "off|metadata|full"), 2);
	ck_assert_int_eq(opt_enum("meta", "off|metadata|full"), -EINVAL);
	ck_assert_int_eq(opt_enum("off|metadata", "off|metadata|full"), -EINVAL);
	ck_assert_int_eq(opt_enum("", "off|metadata|full"), -EINVAL);
}
END_TEST

static const struct tapimg_opt_desc descs[] = {
	{ "grain", "size", "64k", "", TAPIMG_OPT_CREATE },
	{ "lazy", "on|off", "off", "", TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "mode", "a|b|c", "b", "", TAPIMG_OPT_CREATE },
	{ "label", "str", NULL, "", TAPIMG_OPT_CREATE },
	{ 0 },
};
static const struct format toy = { .name = "toy", .opts = descs };

static const struct { const char *name, *value; unsigned where; const char *says; } checked[] = {
	{ "grain", "4k", TAPIMG_OPT_CREATE, NULL },
	{ "grain", "big", TAPIMG_OPT_CREATE, "toy: option 'grain': 'big' is not a size" },
	{ "grain", "99E", TAPIMG_OPT_CREATE, "toy: option 'grain': '99E' is too large" },
	{ "grain", "4k", TAPIMG_OPT_AMEND, "cannot be changed" },
	{ "lazy", "on", TAPIMG_OPT_AMEND, NULL },
	{ "lazy", "maybe", TAPIMG_OPT_CREATE, "'maybe' is neither on nor off" },
	{ "mode", "c", TAPIMG_OPT_CREATE, NULL },
	{ "mode", "d", TAPIMG_OPT_CREATE, "'d' is not one of a|b|c" },
	{ "label", "anything, at all", TAPIMG_OPT_CREATE, NULL },
	{ "label", NULL, TAPIMG_OPT_CREATE, "needs a value" },
	{ "gain", "4k", TAPIMG_OPT_CREATE, "the toy format has no option 'gain'" },
};

START_TEST(option_checks)
{
	struct tapimg_opt opt = { checked[_i].name, checked[_i].value };
	struct tapimg_err err = { 0 };
	int ret = opts_check(&toy, &opt, 1, checked[_i].where, &err);

	if (!checked[_i].says) {
		ck_assert_msg(ret == 0, "%s", err.text);
		return;
	}
	ck_assert_int_lt(ret, 0);
	ck_assert_msg(strstr(err.text, checked[_i].says), "%s", err.text);
}
END_TEST

START_TEST(option_defaults)
{
	struct tapimg_opt given[] = { { "grain", "4k" }, { "mode", "c" }, { "grain", "8k" } };
	struct create none = { 0 }, some = { .opts = given, .nopts = 3 };

	ck_assert_uint_eq(create_opt_size(&none, &toy, "grain"), 65536);
	ck_assert_uint_eq(create_opt_size(&some, &toy, "grain"), 8192);	/* the last one counts */
	ck_assert_int_eq(create_opt_enum(&none, &toy, "mode"), 1);
	ck_assert_int_eq(create_opt_enum(&some, &toy, "mode"), 2);
	ck_assert(!create_opt_bool(&none, &toy, "lazy"));
	ck_assert_ptr_null(create_opt(&some, "lazy"));
	ck_assert_str_eq(create_opt(&some, "mode"), "c");
}
END_TEST

#define add_all(tcase, test, array)                                                                \
	tcase_add_loop_test(tcase, test, 0, (int)(sizeof(array) / sizeof((array)[0])))

int main(void)
{
	Suite *s = suite_create("name");
	TCase *t = tcase_create("names");

	add_all(t, parses, good);
	add_all(t, refuses, bad);
	add_all(t, resolves, resolved);
	add_all(t, option_lists, lists);
	suite_add_tcase(s, t);
	t = tcase_create("values");
	add_all(t, size_values, sizes);
	tcase_add_test(t, other_values);
	add_all(t, option_checks, checked);
	tcase_add_test(t, option_defaults);
	suite_add_tcase(s, t);
	return suite_run(s);
}
