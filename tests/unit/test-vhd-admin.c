/* SPDX-License-Identifier: BSD-2-Clause */
/* test-vhd-admin.c - VHD: resize with and without a journal, parents, marks, filling, check and repair */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "suite.h"
#include "vhdlib.h"

static struct tapimg_err err;

static void resize(const char *name, uint64_t size)
{
	struct tapimg *img = open_image(name, "vhd", TAPIMG_RDWR);
	int ret = tapimg_resize(img, size, TAPIMG_PREALLOC_OFF, true, &err);

	ck_assert_msg(!ret, "resize: %s", err.text);
	ck_assert_uint_eq(tapimg_size(img), size);
	close_image(img);
	v_clean(name);
}

static const char *const kinds[] = { "", "block_size=4096", "subformat=fixed", "batmap=off" };

START_TEST(sizes_change_both_ways)
{
	v_make(IMG, 4 * MiB, kinds[_i], NULL, NULL);
	v_fill(IMG, 1, 0, 4 * MiB);
	resize(IMG, 40 * MiB);
	v_expect(IMG, 1, 0, 4 * MiB);
	v_expect(IMG, 0, 4 * MiB, 36 * MiB);
	v_fill(IMG, 2, 39 * MiB, MiB);
	resize(IMG, 3 * MiB + 512);
	v_expect(IMG, 1, 0, 3 * MiB + 512);
	resize(IMG, 40 * MiB);		/* nothing of what was cut off comes back */
	v_expect(IMG, 1, 0, 3 * MiB + 512);
	v_expect(IMG, 0, 3 * MiB + 512, 37 * MiB - 512);
}
END_TEST

START_TEST(tables_grow_over_blocks)
{
	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 4 * MiB);
	resize(IMG, 2000 * GiB);		/* 4 MiB of table: both blocks are in its way */
	v_expect(IMG, 1, 0, 4 * MiB);
	v_expect(IMG, 0, 4 * MiB, MiB);
	ck_assert_uint_eq(v_peek(IMG, 16, 8), 512);
	ck_assert_uint_eq(v_peek(IMG, 512 + 16, 8), 1536);
	ck_assert_uint_ge(v_block(IMG, 0), 1536 + 4 * 1024000);
	v_fill(IMG, 3, 1999 * GiB, 512);
	v_expect(IMG, 3, 1999 * GiB, 512);
}
END_TEST

START_TEST(reserved_room_is_used)
{
	uint64_t size;

	v_make(IMG, 4 * MiB, "reserve_size=1T", NULL, NULL);
	ck_assert_uint_eq(v_peek(IMG, 512 + 28, 4), 524288);
	v_fill(IMG, 1, 0, 512);
	size = v_size(IMG);
	resize(IMG, 1 * TiB);
	ck_assert_uint_eq(v_size(IMG), size);
	v_expect(IMG, 1, 0, 512);
}
END_TEST

START_TEST(growing_hides_a_longer_parent)
{
	v_make("a.vhd", 8 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, 8 * MiB);
	v_make(IMG, 3 * MiB, NULL, "a.vhd", "vhd");
	resize(IMG, 7 * MiB);
	v_expect(IMG, 5, 0, 3 * MiB);
	v_expect(IMG, 0, 3 * MiB, 4 * MiB);
}
END_TEST

/* -------------------------------------------------------------------- journal */

static uint8_t *whole(const char *name, uint64_t *size)
{
	uint8_t *p;

	*size = v_size(name);
	p = malloc(*size);
	v_read(name, p, *size, 0);
	return p;
}

static int journaled(uint64_t size, enum vhd_stop stop)
{
	struct tapimg *img = open_image(IMG, "vhd", TAPIMG_RDWR);
	int ret = vhd_resize_journal(img, size, "j", stop, &err);

	tapimg_close(img, NULL);
	return ret;
}

static int revert(void)
{
	struct file *f;
	int ret = file_open(loop, IMG, FILE_RDWR, &f, &err);

	ck_assert_int_eq(ret, 0);
	ret = vhd_revert(f, IMG, "j", &err);
	file_close(f);
	return ret;
}

/* Where an entry says that its bytes come from. */
struct kept {
	uint32_t type, len;
	uint64_t off;
};

static uint8_t *journal_entry(uint8_t *at, const struct kept *k, const uint8_t *image)
{
	uint32_t sum = 0;

	put_be64(at, 0xaaaa12344321aaaaULL);
	put_be32(at + 8, k->type);
	put_be32(at + 12, k->len);
	put_be64(at + 16, k->off);
	put_be64(at + 24, 0);
	memcpy(at + 32, image + k->off, k->len);
	for (uint32_t i = 0; i < 32 + k->len; i++)
		sum += at[i];
	put_be32(at + 24, ~sum);
	return at + 32 + k->len;
}

/* Every byte of a journal: header, tables, and what a larger table overwrites. */
START_TEST(journals_byte_by_byte)
{
	static const struct kept tables[] = {
		{ 1, 512, 2105344 }, { 2, 512, 0 }, { 3, 1024, 512 }, { 4, 512, 3072 }, { 4, 512, 3584 },
		{ 4, 512, 4096 }, { 5, 512, 1536 }, { 6, 512, 2048 }, { 7, 512, 2560 },
	};
	static const struct kept data[] = { { 8, 2097152, 512 }, { 8, 8192, 2097664 } };
	static const uint8_t head[] = {
		0, 0, 0, 0, 0, 0x20, 0x20, 0, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x17, 0x20,
		0, 0, 0, 0, 0, 0, 2, 0,
	};
	uint8_t *old, *have, *want, *at;
	uint64_t size, js;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	v_fill(IMG, 1, 0, 2 * MiB);
	old = whole(IMG, &size);
	ck_assert_uint_eq(size, 2105856);
	ck_assert_int_eq(journaled(8 * MiB, VHD_STOP_BEGIN), -EINVAL);
	/* the image has lost nothing but its footers' cookies */
	ck_assert_uint_eq(v_peek(IMG, 0, 8), 0x765f706f69736f6eULL);
	ck_assert_uint_eq(v_peek(IMG, 2105344, 8), 0x765f706f69736f6eULL);
	have = whole("j", &js);
	want = calloc(1, js + 4 * MiB);
	memcpy(want, "vjournal", 8);
	memcpy(want + 8, old + 68, 16);
	memcpy(want + 24, head, sizeof(head));
	at = want + 512;
	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++)
		at = journal_entry(at, &tables[i], old);
	ck_assert_uint_eq(at - want, 0x1720);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		at = journal_entry(at, &data[i], old);
	size = at - want;
	memcpy(want + 56, &size, 8);	/* in the host's order */
	ck_assert_uint_eq(js, size);
	for (uint64_t i = 0; i < size; i++)
		ck_assert_msg(have[i] == want[i], "byte %llu is %02x, not %02x", (unsigned long long)i,
			      have[i], want[i]);
	free(old);
	free(have);
	free(want);
}
END_TEST

START_TEST(a_journal_takes_everything_back)
{
	struct tapimg_open_opts o = { .format = "vhd" };
	uint64_t size;
	uint8_t *old;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_make(IMG, 4 * MiB, NULL, _i % 2 ? "a.vhd" : NULL, _i % 2 ? "vhd" : NULL);
	v_fill(IMG, 1, 0, 3 * MiB);
	old = whole(IMG, &size);
	ck_assert_int_eq(journaled(100 * GiB, VHD_STOP_BEGIN + _i / 2), -EINVAL);
	ck_assert_int_eq(access("j", F_OK), 0);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "disabled"), "%s", err.text);
	ck_assert_msg(!revert(), "%s", err.text);
	ck_assert_int_ne(access("j", F_OK), 0);
	ck_assert(file_is(IMG, old, size));
	free(old);
	v_clean(IMG);
}
END_TEST

START_TEST(a_journal_is_gone_in_the_end)
{
	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 3 * MiB);
	put_text("j", "");
	put_text("j", "x");
	ck_assert_int_eq(journaled(100 * GiB, VHD_STOP_NONE), -EEXIST);
	unlink("j");
	ck_assert_msg(!journaled(100 * GiB, VHD_STOP_NONE), "%s", err.text);
	ck_assert_int_ne(access("j", F_OK), 0);
	v_clean(IMG);
	v_expect(IMG, 1, 0, 3 * MiB);
}
END_TEST

/* J4: what came after a resize that was finished stays, if the journal was left behind. */
START_TEST(an_old_journal_undoes_nothing)
{
	uint64_t size;
	uint8_t *j;

	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 3 * MiB);
	ck_assert_int_eq(journaled(100 * GiB, VHD_STOP_METADATA), -EINVAL);
	j = whole("j", &size);
	ck_assert_int_eq(revert(), 0);
	ck_assert_int_eq(journaled(100 * GiB, VHD_STOP_NONE), 0);
	v_fill(IMG, 2, MiB, 3 * MiB);
	put_file("j", j, size);
	free(j);
	ck_assert_msg(!revert(), "%s", err.text);
	ck_assert_int_ne(access("j", F_OK), 0);
	v_expect(IMG, 1, 0, MiB);
	v_expect(IMG, 2, MiB, 3 * MiB);
	v_clean(IMG);
}
END_TEST

/* A journal that is damaged, or another image's, changes nothing. */
START_TEST(bad_journals_are_refused)
{
	uint64_t size, js;
	uint8_t *old, *j;

	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 3 * MiB);
	ck_assert_int_eq(journaled(100 * GiB, VHD_STOP_METADATA), -EINVAL);
	old = whole(IMG, &size);
	j = whole("j", &js);
	switch (_i) {
	case 0: v_poke("j", 0, 0, 1); break;
	case 1: v_poke("j", 8, 0, 8); break;			/* UUID */
	case 2: v_poke("j", 512, 0, 1); break;			/* an entry's magic */
	case 3: v_poke("j", 512 + 40, 0x55, 1); break;		/* its bytes */
	case 4: v_poke("j", 512 + 12, 0xffffffff, 4); break;	/* its length */
	case 5: v_poke("j", 32, 0xffffffff, 4); break;		/* their number */
	case 6: v_cut("j", js / 2); break;
	}
	ck_assert_int_lt(revert(), 0);
	ck_assert_msg(strstr(err.text, "j: "), "%s", err.text);
	ck_assert(file_is(IMG, old, size));
	put_file("j", j, js);
	ck_assert_int_eq(revert(), 0);
	v_clean(IMG);
	free(old);
	free(j);
}
END_TEST

/* --------------------------------------------------------------- parents, marks */

START_TEST(another_parent)
{
	struct tapimg *img;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, MiB);
	v_make("b.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("b.vhd", 6, 0, MiB);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	v_fill(IMG, 1, 3 * MiB, 512);
	img = open_image(IMG, "vhd", TAPIMG_RDWR);
	ck_assert_msg(!tapimg_set_backing(img, "./b.vhd", "vhd", &err), "%s", err.text);
	close_image(img);
	v_expect(IMG, 6, 0, MiB);
	v_expect(IMG, 1, 3 * MiB, 512);
	v_clean(IMG);
	img = open_image(IMG, "vhd", TAPIMG_RDWR);
	ck_assert_msg(!tapimg_set_backing(img, NULL, NULL, &err), "%s", err.text);
	close_image(img);
	v_expect(IMG, 0, 0, MiB);
	ck_assert_uint_eq(v_peek(IMG, 60, 4), VHD_TYPE_DYNAMIC);
	v_clean(IMG);
}
END_TEST

START_TEST(commit_empties)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR, .rdwr_layers = 1 };
	struct tapimg *img;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, MiB);
	v_make(IMG, 6 * MiB, NULL, "a.vhd", "vhd");
	for (unsigned i = 0; i < 20; i++)
		v_fill(IMG, 1, i * 65536, 512);
	ck_assert_int_eq(tapimg_open(loop, IMG, &o, &img, &err), 0);
	ck_assert_msg(!tapimg_commit(img, 1, true, 0, NULL, NULL, &err), "%s", err.text);
	close_image(img);
	v_expect("a.vhd", 1, 65536, 512);
	v_expect("a.vhd", 5, 65536 + 512, 65536 - 512);
	v_expect(IMG, 1, 65536, 512);
	ck_assert_uint_eq(v_block(IMG, 0), 0);
	v_clean(IMG);
	v_clean("a.vhd");
}
END_TEST

START_TEST(marks)
{
	uint8_t nonce[32] = { 0 }, hash[32], key[64];
	struct tapimg *img;

	nonce[31] = 1;
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = i;
	/* as Xen's key command says for this key and nonce */
	ck_assert_msg(!vhd_key_hash(nonce, key, 64, hash, &err), "%s", err.text);
	ck_assert_uint_eq(get_be64(hash), 0xd30a6cb4cbfe213dULL);
	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	img = open_image(IMG, "vhd", TAPIMG_RDWR);
	ck_assert_int_eq(vhd_set_hidden(img, 1, &err), 0);
	ck_assert_int_eq(vhd_set_marker(img, 77, &err), 0);
	ck_assert_int_eq(vhd_set_key_hash(img, nonce, hash, &err), 0);
	close_image(img);
	ck_assert_uint_eq(v_peek(IMG, 85, 1), 1);
	ck_assert_uint_eq(v_peek(IMG, v_trailer(IMG) + 85, 1), 1);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 28, 2), 77 << 8 | 1);
	v_clean(IMG);
}
END_TEST

START_TEST(filling)
{
	struct tapimg *img;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, MiB);
	v_make(IMG, 4 * MiB, NULL, _i ? NULL : "a.vhd", _i ? NULL : "vhd");
	img = open_image(IMG, "vhd", TAPIMG_RDWR);
	ck_assert_msg(!vhd_fill(img, _i, 0, UINT32_MAX, &err), "%s", err.text);
	close_image(img);
	ck_assert_uint_ne(v_block(IMG, 0), 0);
	ck_assert_uint_ne(v_block(IMG, 1), 0);
	ck_assert_uint_eq(v_peek(IMG, v_block(IMG, 1), 8), UINT64_MAX);
	v_expect(IMG, _i ? 0 : 5, 0, MiB);
	v_expect(IMG, 0, MiB, 3 * MiB);
	v_clean(IMG);
}
END_TEST

/* ---------------------------------------------------------------------- check */

START_TEST(footers_are_written_from_each_other)
{
	v_make(IMG, 4 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 4096);
	v_poke(IMG, _i ? v_trailer(IMG) : 0, 0, 8);
	ck_assert_uint_eq(_i ? v_check(IMG, 0)->c.leaks : v_check(IMG, 0)->c.corruptions, 1);
	v_check(IMG, TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS);
	v_clean(IMG);
	v_expect(IMG, 1, 0, 4096);
}
END_TEST

START_TEST(overlapping_blocks_are_taken_apart)
{
	v_make(IMG, 8 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, BLK);
	v_fill(IMG, 2, BLK, BLK);
	v_poke(IMG, 1536 + 8, v_block(IMG, 1) / 512, 4);	/* block 2 is block 1 as well */
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 1);
	ck_assert(strstr(v_check(IMG, 0)->text, "clobbers block"));
	ck_assert_uint_eq(v_check(IMG, TAPIMG_FIX_ERRORS)->c.corruptions_fixed, 1);
	v_clean(IMG);
	v_expect(IMG, 1, 0, BLK);
	v_expect(IMG, 2, BLK, 2 * BLK);
	v_fill(IMG, 3, 2 * BLK, 512);
	v_expect(IMG, 2, BLK, BLK);
}
END_TEST

START_TEST(a_lost_tail_costs_what_is_lost)
{
	struct tapimg *img;
	uint8_t b[512];

	v_make(IMG, 8 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, 2 * BLK);
	v_cut(IMG, v_block(IMG, 1) + 512 + MiB);
	img = open_image(IMG, "vhd", 0);
	ck_assert_int_eq(tapimg_pread(img, b, 512, BLK + MiB), -EUCLEAN);
	close_image(img);
	ck_assert(strstr(v_check(IMG, 0)->text, "has lost 2048 sectors"));
	v_check(IMG, TAPIMG_FIX_ERRORS | TAPIMG_FIX_LEAKS);
	v_clean(IMG);
	v_expect(IMG, 1, 0, BLK + MiB);
	v_expect(IMG, 0, BLK + MiB, MiB);
}
END_TEST

/* The batmap is said to be where a block has its data: the block's bytes are the guest's. */
START_TEST(a_batmap_over_a_block_is_not_written)
{
	struct tapimg_open_opts o = { .format = "vhd", .flags = TAPIMG_RDWR };
	const char *text;

	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_make(IMG, 8 * MiB, NULL, "a.vhd", "vhd");
	v_fill(IMG, 0, 0, BLK);
	v_fill(IMG, 2, BLK, BLK - 512);
	/* with the right sum, for an empty map, or with a wrong one */
	v_poke(IMG, 2048 + 8, v_block(IMG, 0) + 512 + 4096, 8);
	v_poke(IMG, 2048 + 24, _i ? 0x12345678 : 0xffffffff, 4);
	v_expect(IMG, 0, 0, BLK);
	ck_assert_int_eq(open_fails(IMG, &o, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, "the block lies over the batmap"), "%s", err.text);
	text = v_check(IMG, 0)->text;
	ck_assert_msg(strstr(text, "block 0 (offset 0x1e00): the block lies over the batmap"), "%s", text);
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 1);
	ck_assert_uint_eq(v_check(IMG, TAPIMG_FIX_ERRORS)->c.corruptions_fixed, 1);
	v_clean(IMG);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 8, 8), 2560);
	v_fill(IMG, 2, 2 * BLK - 512, 512);
	ck_assert_uint_eq(v_peek(IMG, 2560, 1), 0x40);
	v_expect(IMG, 0, 0, BLK);
	v_expect(IMG, 2, BLK, BLK);
	v_clean(IMG);
}
END_TEST

/* A block over the names of the parent keeps its bytes, and they get a place of their own. */
START_TEST(a_block_over_the_names_moves)
{
	v_make("a.vhd", 4 * MiB, NULL, NULL, NULL);
	v_fill("a.vhd", 5, 0, 4 * MiB);
	v_make(IMG, 4 * MiB, NULL, "a.vhd", "vhd");
	v_fill(IMG, 1, 0, BLK);
	v_poke(IMG, 512 + 576 + 24 + 16, v_block(IMG, 0) + 512 + 65536, 8);	/* of the second one */
	v_sum_header(IMG);
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 1);
	ck_assert_uint_eq(v_check(IMG, TAPIMG_FIX_ERRORS)->c.corruptions_fixed, 1);
	v_clean(IMG);
	ck_assert_uint_eq(v_peek(IMG, 512 + 576 + 24 + 16, 8), 3584);
	v_expect(IMG, 1, 0, BLK);
	v_expect(IMG, 5, BLK, BLK);
}
END_TEST

/* One that is nowhere gets its place; what else the header holds stays. */
START_TEST(a_lost_batmap_is_put_back)
{
	static const struct { unsigned off; uint64_t value; unsigned bytes; const char *says; } lost[] = {
		{ 8, 512, 8, "invalid batmap offset" }, { 8, 2561, 8, "invalid batmap offset" },
		{ 8, 1ULL << 40, 8, "invalid batmap offset" }, { 16, 0, 4, "batmap-BAT size mismatch" },
		{ 20, 0x00010007, 4, "unsupported batmap version" },
		{ 24, 7, 4, "invalid checksum" },
	};

	v_make(IMG, 8 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, BLK + 512);
	v_poke(IMG, 2048 + 28, 77, 1);
	v_poke(IMG, 2048 + lost[_i].off, lost[_i].value, lost[_i].bytes);
	ck_assert_uint_eq(v_check(IMG, 0)->c.leaks, 1);
	ck_assert_msg(strstr(v_check(IMG, 0)->text, lost[_i].says), "%s", v_check(IMG, 0)->text);
	ck_assert_uint_eq(v_check(IMG, TAPIMG_FIX_LEAKS)->c.leaks_fixed, 1);
	v_clean(IMG);
	ck_assert_uint_eq(v_peek(IMG, 2048, 8), 0x74646261746d6170ULL);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 8, 8), 2560);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 16, 8), 0x0000000100010002ULL);
	ck_assert_uint_eq(v_peek(IMG, 2048 + 28, 1), 77);
	v_expect(IMG, 1, 0, BLK + 512);
	v_fill(IMG, 1, BLK + 512, BLK - 512);	/* and it is kept again */
	ck_assert_uint_eq(v_peek(IMG, 2560, 1), 0x40);
	v_clean(IMG);
}
END_TEST

/* What can be repaired is, beside what may not be touched. */
START_TEST(leaks_alone_are_mended)
{
	v_make(IMG, 8 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, BLK);
	v_poke(IMG, 1536 + 4, 2, 4);			/* over the header */
	v_poke(IMG, v_trailer(IMG), 0, 8);
	ck_assert_uint_eq(v_check(IMG, TAPIMG_FIX_LEAKS)->c.leaks_fixed, 1);
	ck_assert_uint_eq(v_check(IMG, 0)->c.leaks, 0);
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 1);
	v_check(IMG, TAPIMG_FIX_ERRORS);
	v_clean(IMG);
	v_expect(IMG, 1, 0, BLK);
}
END_TEST

START_TEST(unused_space_is_cut_off)
{
	v_make(IMG, 8 * MiB, NULL, NULL, NULL);
	v_fill(IMG, 1, 0, BLK);
	v_cut(IMG, v_size(IMG) + 10 * MiB);
	ck_assert_uint_ge(v_check(IMG, 0)->c.leaks, 5);
	ck_assert_uint_eq(v_check(IMG, 0)->c.corruptions, 0);
	v_check(IMG, TAPIMG_FIX_LEAKS);
	v_clean(IMG);
	ck_assert_uint_lt(v_size(IMG), 3 * MiB);
	v_expect(IMG, 1, 0, BLK);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vhd-admin");
	TCase *tc = tcase_create("vhd-admin");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, scratch_enter, scratch_leave);
	tcase_add_loop_test(tc, sizes_change_both_ways, 0, ARRAY_SIZE(kinds));
	tcase_add_test(tc, tables_grow_over_blocks);
	tcase_add_test(tc, reserved_room_is_used);
	tcase_add_test(tc, growing_hides_a_longer_parent);
	tcase_add_test(tc, journals_byte_by_byte);
	tcase_add_loop_test(tc, a_journal_takes_everything_back, 0, 8);
	tcase_add_test(tc, a_journal_is_gone_in_the_end);
	tcase_add_test(tc, an_old_journal_undoes_nothing);
	tcase_add_loop_test(tc, bad_journals_are_refused, 0, 7);
	tcase_add_test(tc, another_parent);
	tcase_add_test(tc, commit_empties);
	tcase_add_test(tc, marks);
	tcase_add_loop_test(tc, filling, 0, 2);
	tcase_add_loop_test(tc, footers_are_written_from_each_other, 0, 2);
	tcase_add_test(tc, overlapping_blocks_are_taken_apart);
	tcase_add_test(tc, a_lost_tail_costs_what_is_lost);
	tcase_add_loop_test(tc, a_batmap_over_a_block_is_not_written, 0, 2);
	tcase_add_test(tc, a_block_over_the_names_moves);
	tcase_add_loop_test(tc, a_lost_batmap_is_put_back, 0, 6);
	tcase_add_test(tc, leaks_alone_are_mended);
	tcase_add_test(tc, unused_space_is_cut_off);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
