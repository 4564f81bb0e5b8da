/* SPDX-License-Identifier: BSD-2-Clause */
/* vmdklib.c - see vmdklib.h */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmdk-stream.h"
#include "vmdklib.h"

uint8_t vm_bytes[8 * MiB];
static uint8_t buf[4 * MiB];

static bool is_byte(const uint8_t *p, size_t len, uint8_t v)
{
	while (len--)
		if (*p++ != v)
			return false;
	return true;
}

void vm_expect(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v)
{
	ck_assert_int_eq(tapimg_pread(t, buf, len, off), 0);
	ck_assert_msg(is_byte(buf, len, v), "byte 0x%x at 0x%llx, not 0x%x", buf[0],
		      (unsigned long long)off, v);
}

void vm_store(struct tapimg *t, uint64_t off, uint64_t len, uint8_t v)
{
	memset(buf, v, len);
	ck_assert_int_eq(tapimg_pwrite(t, buf, len, off), 0);
}

struct tapimg *vm_open(const char *name, unsigned flags, const char *format,
			       struct tapimg_err *err)
{
	struct tapimg_open_opts o = { .format = format, .flags = flags };
	struct tapimg *t = NULL;

	memset(err, 0, sizeof(*err));
	tapimg_open(loop, name, &o, &t, err);
	return t;
}

void vm_fails(const char *name, unsigned flags, int code, const char *text)
{
	struct tapimg_err err;
	struct tapimg *t = vm_open(name, flags, "vmdk", &err);

	ck_assert_msg(!t, "opened, though: %s", text);
	ck_assert_msg(err.code == code && strstr(err.text, text), "%d: %s", err.code, err.text);
}

void vm_clean(const char *name, uint64_t corruptions)
{
	struct tapimg *t = open_image(name, "vmdk", TAPIMG_CHECK | TAPIMG_NO_BACKING);
	struct tapimg_check c;

	ck_assert_int_eq(tapimg_check(t, 0, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.corruptions, corruptions);
	close_image(t);
}

void vm_repair(const char *name, uint64_t corruptions)
{
	struct tapimg *t = open_image(name, "vmdk", TAPIMG_CHECK | TAPIMG_NO_BACKING | TAPIMG_RDWR);
	struct tapimg_check c;

	ck_assert_int_eq(tapimg_check(t, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS, &c, NULL, NULL, NULL), 0);
	ck_assert_uint_eq(c.corruptions, corruptions);
	ck_assert_uint_eq(c.corruptions_fixed, corruptions);
	close_image(t);
	vm_clean(name, 0);
}

/* ------------------------------------------------------------------ building */

void vm_sparse(uint64_t capacity, uint32_t grain, uint32_t flags, bool tables)
{
	memset(vm_bytes, 0, sizeof(vm_bytes));
	put_le32(vm_bytes, 0x564d444b);
	put_le32(vm_bytes + 4, flags & 4 ? 2 : 1);
	put_le32(vm_bytes + 8, flags);
	put_le64(vm_bytes + 12, capacity);
	put_le64(vm_bytes + 20, grain);
	put_le32(vm_bytes + 44, 512);
	put_le64(vm_bytes + 48, 1);
	put_le64(vm_bytes + 56, 6);
	put_le64(vm_bytes + 64, 16);
	memcpy(vm_bytes + 73, "\n \r\n", 4);
	if (tables) {
		put_le32(vm_bytes + 1 * S, 2);
		put_le32(vm_bytes + 6 * S, 7);
	}
}

void vm_gte(unsigned i, uint32_t sector, unsigned copies)
{
	if (copies & 1)
		put_le32(vm_bytes + 2 * S + 4 * i, sector);
	if (copies & 2)
		put_le32(vm_bytes + 7 * S + 4 * i, sector);
}

void vm_cowd(uint32_t sectors, uint32_t grain)
{
	memset(vm_bytes, 0, sizeof(vm_bytes));
	memcpy(vm_bytes, "COWD", 4);
	put_le32(vm_bytes + 4, 1);
	put_le32(vm_bytes + 8, 3);
	put_le32(vm_bytes + 12, sectors);
	put_le32(vm_bytes + 16, grain);
	put_le32(vm_bytes + 20, 4);
	put_le32(vm_bytes + 24, 1);
	put_le32(vm_bytes + 28, 5);
}

uint32_t vm_le32(const char *name, long at)
{
	uint8_t b[4];
	FILE *f = fopen(name, "r");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
	ck_assert_int_eq(fread(b, 1, 4, f), 4);
	fclose(f);
	return get_le32(b);
}

size_t vm_grain(uint8_t *p, uint64_t lba, const uint8_t *data, uint32_t len, bool marks)
{
	uint8_t *z = p + (marks ? 12 : 4);
	uint32_t a = 1, b = 0, n = 2;

	if (marks)
		put_le64(p, lba);
	z[0] = 0x78;
	z[1] = 0x01;
	for (uint32_t at = 0; at < len;) {
		uint32_t part = MIN(len - at, 40000U);

		z[n] = at + part == len;
		put_le16(z + n + 1, part);
		put_le16(z + n + 3, ~part);
		memcpy(z + n + 5, data + at, part);
		n += 5 + part;
		at += part;
	}
	for (uint32_t i = 0; i < len; i++) {
		a = (a + data[i]) % 65521;
		b = (b + a) % 65521;
	}
	put_be32(z + n, b << 16 | a);
	n += 4;
	put_le32(z - 4, n);
	return round_up((z - p) + n, 512);
}

