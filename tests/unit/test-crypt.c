/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-crypt.c - ciphers of sectors and digests, against values made by other programs
 *
 * The ciphertexts' digests come from "openssl enc" and from Python's cryptography.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "suite.h"

static uint8_t plain[CRYPT_SECTOR], key[64];

static void setup(void)
{
	for (unsigned i = 0; i < sizeof(plain); i++)
		plain[i] = i % 251;
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = i;
}

static const char *hex(const uint8_t *p, int n)
{
	static char text[2 * CRYPT_DIGEST_MAX + 1];

	ck_assert_int_gt(n, 0);
	for (int i = 0; i < n; i++)
		snprintf(text + 2 * i, 3, "%02x", p[i]);
	return text;
}

static const char *digest(enum crypt_hash hash, const void *p, size_t len)
{
	uint8_t out[CRYPT_DIGEST_MAX];

	return hex(out, crypt_digest(hash, p, len, out, NULL));
}

static struct crypt *cipher(enum crypt_cipher which, const void *k, size_t len)
{
	struct tapimg_err err = { 0 };
	struct crypt *c;

	ck_assert_msg(!crypt_new(which, k, len, "x", &c, &err), "%s", err.text);
	return c;
}

static const struct {
	enum crypt_cipher cipher;
	size_t key_len;			/* 16: the key is text */
	uint64_t sector;
	const char *sha256;		/* of plain[] enciphered */
} vectors[] = {
	{ CRYPT_AES_CBC_PLAIN64, 16, 7,
	  "1c127498fb58e93507d6052c111b9c45b92eb36e3de079e572636d3e50842775" },
	{ CRYPT_AES_CBC_PLAIN64, 16, 0x100000007,
	  "200f5f9add853c83db06a281cc1cc9bc843b282c8954660775a022997ea093ea" },
	{ CRYPT_AES_XTS_PLAIN, 32, 7,
	  "5e6954d675754236edd41b6226f68ae065db692bfbea61e7a9057aaf2cb71dfe" },
	{ CRYPT_AES_XTS_PLAIN, 32, 0x100000007,
	  "5e6954d675754236edd41b6226f68ae065db692bfbea61e7a9057aaf2cb71dfe" },
	{ CRYPT_AES_XTS_PLAIN, 64, 7,
	  "44e40f108d23f6323640ac99c6e62cdabc482be946f5ea796812276b61dfcedc" },
	{ CRYPT_AES_XTS_PLAIN, 64, 0x100000007,
	  "44e40f108d23f6323640ac99c6e62cdabc482be946f5ea796812276b61dfcedc" },
};

START_TEST(known_sectors)
{
	const void *k = vectors[_i].key_len == 16 ? (const void *)"0123456789abcdef" : key;
	struct crypt *c = cipher(vectors[_i].cipher, k, vectors[_i].key_len);
	uint8_t out[CRYPT_SECTOR], back[CRYPT_SECTOR];

	ck_assert_int_eq(crypt_sectors(c, true, vectors[_i].sector, out, plain, sizeof(out)), 0);
	ck_assert_str_eq(digest(CRYPT_SHA256, out, sizeof(out)), vectors[_i].sha256);
	ck_assert_int_eq(crypt_sectors(c, false, vectors[_i].sector, back, out, sizeof(out)), 0);
	ck_assert(!memcmp(back, plain, sizeof(plain)));
	ck_assert_int_eq(crypt_sectors(c, false, vectors[_i].sector, back, out, 511), -EINVAL);
	crypt_free(c);
}
END_TEST

/* A run of sectors is the same as one after the other, and may be worked on in place. */
START_TEST(runs_of_sectors)
{
	struct crypt *c = cipher(vectors[_i].cipher, key, vectors[_i].key_len);
	uint8_t run[8 * CRYPT_SECTOR], one[8 * CRYPT_SECTOR];

	for (unsigned i = 0; i < 8; i++) {
		memcpy(run + i * CRYPT_SECTOR, plain, CRYPT_SECTOR);
		ck_assert_int_eq(crypt_sectors(c, true, 100 + i, one + i * CRYPT_SECTOR, plain,
					       CRYPT_SECTOR), 0);
	}
	ck_assert_int_eq(crypt_sectors(c, true, 100, run, run, sizeof(run)), 0);
	ck_assert(!memcmp(run, one, sizeof(run)));
	ck_assert(memcmp(run, run + CRYPT_SECTOR, CRYPT_SECTOR) != 0);
	crypt_free(c);
}
END_TEST

START_TEST(bad_keys)
{
	uint8_t same[32] = { 0 };
	struct tapimg_err err = { 0 };
	struct crypt *c;

	ck_assert_int_eq(crypt_new(CRYPT_AES_CBC_PLAIN64, key, 15, "x", &c, &err), -EINVAL);
	ck_assert_str_eq(err.text, "x: a key of 15 bytes does not fit the cipher");
	ck_assert_int_eq(crypt_new(CRYPT_AES_XTS_PLAIN, key, 16, "x", &c, &err), -EINVAL);
	ck_assert_int_eq(crypt_new(CRYPT_AES_XTS_PLAIN, same, 32, "x", &c, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "halves"));
	ck_assert_ptr_null(c);
	crypt_free(NULL);
}
END_TEST

static void *worker(void *arg)
{
	static const uint8_t zero[64 * CRYPT_SECTOR];
	struct crypt *c = arg;
	uint8_t *buf = malloc(sizeof(zero));
	intptr_t bad = 0;

	for (int i = 0; i < 200; i++) {
		bad |= crypt_sectors(c, true, i, buf, zero, sizeof(zero));
		bad |= crypt_sectors(c, false, i, buf, buf, sizeof(zero));
		bad |= memcmp(buf, zero, sizeof(zero));
	}
	free(buf);
	return (void *)bad;
}

START_TEST(many_threads)
{
	struct crypt *c = cipher(CRYPT_AES_XTS_PLAIN, key, 64);
	pthread_t t[4];
	void *bad;

	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(t + i, NULL, worker, c), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(pthread_join(t[i], &bad), 0);
		ck_assert_ptr_null(bad);
	}
	crypt_free(c);
}
END_TEST

START_TEST(digests)
{
	uint8_t out[CRYPT_DIGEST_MAX];
	struct crypt_digest *d;

	ck_assert_str_eq(digest(CRYPT_MD5, "abc", 3), "900150983cd24fb0d6963f7d28e17f72");
	ck_assert_str_eq(digest(CRYPT_SHA1, "abc", 3), "a9993e364706816aba3e25717850c26c9cd0d89d");
	ck_assert_str_eq(digest(CRYPT_SHA256, "abc", 3),
			 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	ck_assert_int_eq(crypt_digest_new(CRYPT_SHA1, &d, NULL), 0);
	ck_assert_int_eq(crypt_digest_add(d, "a", 1), 0);
	ck_assert_int_eq(crypt_digest_add(d, "bc", 2), 0);
	ck_assert_str_eq(hex(out, crypt_digest_end(d, out)), "a9993e364706816aba3e25717850c26c9cd0d89d");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("crypt");
	TCase *tc = tcase_create("all");

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, known_sectors, 0, ARRAY_SIZE(vectors));
	tcase_add_loop_test(tc, runs_of_sectors, 0, ARRAY_SIZE(vectors));
	tcase_add_test(tc, bad_keys);
	tcase_add_test(tc, many_threads);
	tcase_add_test(tc, digests);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
