/* SPDX-License-Identifier: BSD-2-Clause */
/* test-secret.c - secrets by name: lib/secret.c */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "scratch.h"
#include "secret.h"
#include "suite.h"

static struct secrets *list;

static void leave(void)
{
	secrets_free(&list);
	ck_assert_ptr_null(list);
	scratch_leave();
}

static void add(const char *text)
{
	struct tapimg_err err = { 0 };

	ck_assert_msg(!secrets_add(&list, text, &err), "%s: %s", text, err.text);
}

/* The secret as text, or the error's. */
static const char *give(const char *id, size_t size, int *code)
{
	static char buf[100];
	static struct tapimg_err err;
	struct tapimg_secret_ask ask = {
		.filename = "x", .format = "qcow", .id = id, .buf = (uint8_t *)buf, .size = size,
	};
	int ret = secrets_give(&list, &ask, &err);

	if (code)
		*code = ret;
	if (ret < 0)
		return err.text;
	buf[ret] = 0;
	return buf;
}

START_TEST(sources)
{
	int fds[2];
	char text[60];

	put_text("key", "from a file\n");
	add("secret,id=a,data=word");
	add("secret,file=key,id=b");
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(write(fds[1], "pi", 2), 2);
	ck_assert_int_eq(write(fds[1], "ped", 3), 3);
	close(fds[1]);
	snprintf(text, sizeof(text), "secret,id=c,fd=%d", fds[0]);
	add(text);
	add("qom-type=secret,id=d,format=base64,data=d29y ZA==");
	add("secret,id=e,format=raw,data=a,,b=c");
	put_text("key64", "d29y\nZGlz\n");
	add("secret,id=f,file=key64,format=base64");
	ck_assert_str_eq(give("a", 90, NULL), "word");
	ck_assert_str_eq(give("b", 90, NULL), "from a file\n");
	ck_assert_str_eq(give("c", 90, NULL), "piped");
	ck_assert_str_eq(give("d", 90, NULL), "word");
	ck_assert_str_eq(give("e", 90, NULL), "a,b=c");
	ck_assert_str_eq(give("f", 90, NULL), "wordis");
	close(fds[0]);
}
END_TEST

START_TEST(which_one)
{
	int code;

	ck_assert_ptr_nonnull(strstr(give(NULL, 90, &code), "no secret was given"));
	ck_assert_int_eq(code, -ENOKEY);
	add("secret,id=a,data=word");
	ck_assert_str_eq(give(NULL, 90, &code), "word");
	ck_assert_str_eq(give("b", 90, &code), "there is no secret 'b'");
	ck_assert_int_eq(code, -ENOKEY);
	ck_assert_ptr_nonnull(strstr(give("a", 3, &code), "4 bytes, more than 3"));
	ck_assert_int_eq(code, -E2BIG);
	add("secret,id=b,data=bird");
	ck_assert_ptr_nonnull(strstr(give(NULL, 90, &code), "which of the secrets"));
	ck_assert_int_eq(code, -ENOKEY);
	ck_assert_str_eq(give("b", 90, &code), "bird");
}
END_TEST

static const struct { const char *text; int code; const char *says; } bad[] = {
	{ "iothread,id=a", -EINVAL, "'secret'" },
	{ "", -EINVAL, "'secret'" },
	{ "secret,data=x", -EINVAL, "'id'" },
	{ "secret,id=,data=x", -EINVAL, "'id'" },
	{ "secret,id=a", -EINVAL, "'file'" },
	{ "secret,id=a,data=x,file=y", -EINVAL, "one of" },
	{ "secret,id=a,data=x,data=y", -EINVAL, "twice" },
	{ "secret,id=a,data=x,format=hex", -EINVAL, "hex" },
	{ "secret,id=a,data=x,keyid=b", -ENOTSUP, "keyid" },
	{ "secret,id=a,data=x,colour=b", -EINVAL, "colour" },
	{ "secret,id=a,file=none", -ENOENT, "none" },
	{ "secret,id=a,fd=x", -EINVAL, "'x'" },
	{ "secret,id=a,fd=1000", -EBADF, "1000" },
	{ "secret,id=a,file=large", -E2BIG, "large" },
	{ "secret,id=a,data=abc,format=base64", -EINVAL, "base64" },
	{ "secret,id=a,data=ab=c,format=base64", -EINVAL, "base64" },
	{ "secret,id=a,data=ab!c,format=base64", -EINVAL, "base64" },
	{ "secret,id=there,data=x", -EEXIST, "there" },
};

START_TEST(refuses)
{
	static const char large[70000];
	struct tapimg_err err = { 0 };
	int ret;

	put_file("large", large, sizeof(large));
	add("secret,id=there,data=x");
	ret = secrets_add(&list, bad[_i].text, &err);
	ck_assert_msg(ret == bad[_i].code, "%s: %d %s", bad[_i].text, ret, err.text);
	ck_assert_msg(strstr(err.text, bad[_i].says), "%s: %s", bad[_i].text, err.text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("secret");
	TCase *tc = tcase_create("all");

	tcase_add_checked_fixture(tc, scratch_enter, leave);
	tcase_add_test(tc, sources);
	tcase_add_test(tc, which_one);
	tcase_add_loop_test(tc, refuses, 0, ARRAY_SIZE(bad));
	suite_add_tcase(s, tc);
	return suite_run(s);
}
