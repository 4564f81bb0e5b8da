/* SPDX-License-Identifier: BSD-2-Clause */
/* test-vmdk-desc.c - descriptors of VMDKs: any case, line end, spacing and encoding; and changing them */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "suite.h"
#include "vmdk.h"

static struct vmdk_desc d;
static struct tapimg_err err;

static int parse_len(const char *text, size_t len)
{
	char *copy = malloc(len + 1);

	memcpy(copy, text, len);
	copy[len] = 0;
	memset(&err, 0, sizeof(err));
	return vmdk_desc_parse(&d, copy, len, "x.vmdk", &err);
}

static int parse(const char *text)
{
	return parse_len(text, strlen(text));
}

static void extent(unsigned i, enum vmdk_access access, uint64_t sectors, enum vmdk_type type,
		   const char *file, uint64_t offset)
{
	ck_assert_uint_lt(i, d.nlines);
	ck_assert_int_eq(d.line[i].access, access);
	ck_assert_uint_eq(d.line[i].sectors, sectors);
	ck_assert_int_eq(d.line[i].type, type);
	if (file)
		ck_assert_str_eq(d.line[i].file, file);
	else
		ck_assert_ptr_null(d.line[i].file);
	ck_assert_uint_eq(d.line[i].offset, offset);
}

START_TEST(usual)
{
	ck_assert_int_eq(parse("# Disk DescriptorFile\nversion=1\nCID=7b3b9f10\nparentCID=0fFfffFe\n"
			       "createType=\"custom\"\nparentFileNameHint=\"../b a.vmdk\"\n"
			       "# Extent description\nRW 63 FLAT \"a-flat.vmdk\" 7\nRDONLY 10 ZERO\n"
			       "NOACCESS 4192256 SPARSE \"a-s001.vmdk\"\nRW 8 VMFS \"a.vmdk\"\n"
			       "RW 9 VMFSSPARSE \"d\"\nRW 1 SESPARSE \"e\"\nRW 2 VMFSRDM \"f\"\n"
			       "#DDB\nddb.adapterType = \"lsilogic\"\n"), 0);
	ck_assert(d.has_cid);
	ck_assert_uint_eq(d.cid, 0x7b3b9f10);
	ck_assert_uint_eq(d.parent_cid, 0x0ffffffe);
	ck_assert_str_eq(d.create_type, "custom");
	ck_assert_str_eq(d.parent, "../b a.vmdk");
	ck_assert_uint_eq(d.nlines, 7);
	extent(0, VMDK_RW, 63, VMDK_FLAT, "a-flat.vmdk", 7);
	extent(1, VMDK_RDONLY, 10, VMDK_ZERO, NULL, 0);
	extent(2, VMDK_NOACCESS, 4192256, VMDK_SPARSE, "a-s001.vmdk", 0);
	extent(3, VMDK_RW, 8, VMDK_VMFS, "a.vmdk", 0);
	extent(4, VMDK_RW, 9, VMDK_VMFSSPARSE, "d", 0);
	extent(5, VMDK_RW, 1, VMDK_SESPARSE, "e", 0);
	extent(6, VMDK_RW, 2, VMDK_VMFSRDM, "f", 0);
	vmdk_desc_free(&d);
}
END_TEST

/* Each of these is what somebody's writer makes; all say the same. */
START_TEST(odd)
{
	static const char *const texts[] = {
		"version=1\r\ncid=0000000a\r\nPARENTCID=ffffffff\r\nCREATETYPE=\"MonolithicFlat\"\r\n"
		"rw 100 flat \"a b.vmdk\" 0\r\n",
		"VERSION = 1\r  CID =\ta\rparentCid=FFFFFFFF\rcreatetype = \"MonolithicFlat\"\r"
		"Rw\t100   Flat    \"a b.vmdk\"\t0",
		"\xef\xbb\xbf# Disk DescriptorFile\n\n\nversion=1\n\n   CID=0000000a   \n\n"
		"createType=\"MonolithicFlat\"\n\n\n   RW 100 FLAT \"a b.vmdk\" 0 partitionUUID dev-id\n\n",
		"# Disk DescriptorFile\nversion=1\nCID=0000000a\nCID=0000000b\n"
		"createType=\"MonolithicFlat\"\nRW 100 FLAT \"a b.vmdk\" 0\nunknown words\nnew.key=1\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		ck_assert_msg(vmdk_desc_probe((const uint8_t *)texts[i], strlen(texts[i])), "%zu", i);
		ck_assert_msg(!parse(texts[i]), "%zu: %s", i, err.text);
		ck_assert_uint_eq(d.cid, 10);
		ck_assert_uint_eq(d.parent_cid, VMDK_CID_NONE);
		ck_assert_str_eq(d.create_type, "MonolithicFlat");
		ck_assert_uint_eq(d.nlines, 1);
		extent(0, VMDK_RW, 100, VMDK_FLAT, "a b.vmdk", 0);
		vmdk_desc_free(&d);
	}
}
END_TEST

START_TEST(not_one)
{
	static const char *const texts[] = {
		"", "\n\n", "version\n", "version=one\n", "# something else\n", "#!/bin/sh\nversion=1x\n",
		"key=1\nversion=1\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		ck_assert_msg(!vmdk_desc_probe((const uint8_t *)texts[i], strlen(texts[i])), "%zu", i);
}
END_TEST

START_TEST(wrong)
{
	static const struct {
		const char *text, *what;
	} v[] = {
		{ "version=1\nRW x FLAT \"a\" 0\n", "line 2: the number of sectors" },
		{ "version=1\nRW 99999999999999999999 FLAT \"a\" 0\n", "the number of sectors" },
		{ "version=1\nRW 18446744073709551615 ZERO\n", "the number of sectors" },
		{ "version=1\nRW -1 FLAT \"a\" 0\n", "the number of sectors" },
		{ "version=1\nRW 1\n", "type of the extent is missing" },
		{ "version=1\n\nRW 1 FLOT \"a\" 0\n", "line 3: unknown type" },
		{ "version=1\nRW 1 FLAT \"a 0\n", "a quote is missing" },
		{ "version=1\nRW 1 FLAT \"a\" z\n", "the offset in the file" },
		{ "version=1\nCID=123456789\n", "8 hexadecimal digits" },
		{ "version=1\nCID=\n", "8 hexadecimal digits" },
		{ "version=1\nparentCID=xyz\n", "8 hexadecimal digits" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		ck_assert_msg(parse(v[i].text) == -EINVAL, "%zu", i);
		ck_assert_msg(!strncmp(err.text, "x.vmdk: ", 8) && strstr(err.text, v[i].what), "%zu: %s", i,
			      err.text);
	}
}
END_TEST

START_TEST(encodings)
{
	/* u-umlaut in windows-1252; the two characters of "test" in GBK; and UTF-8 under a wrong flag */
	ck_assert_int_eq(parse("version=1\nencoding=\"windows-1252\"\nRW 1 FLAT \"\xfc.vmdk\" 0\n"), 0);
	extent(0, VMDK_RW, 1, VMDK_FLAT, "\xc3\xbc.vmdk", 0);
	vmdk_desc_free(&d);
	ck_assert_int_eq(parse("version=1\nENCODING=\"GBK\"\nRW 1 FLAT \"\xb2\xe2\xca\xd4.vmdk\" 0\n"), 0);
	extent(0, VMDK_RW, 1, VMDK_FLAT, "\xe6\xb5\x8b\xe8\xaf\x95.vmdk", 0);
	vmdk_desc_free(&d);
	ck_assert_int_eq(parse("version=1\nencoding=\"GBK\"\nRW 1 FLAT \"\xc3\xbc.vmdk\" 0\n"), 0);
	extent(0, VMDK_RW, 1, VMDK_FLAT, "\xc3\xbc.vmdk", 0);
	vmdk_desc_free(&d);
	/* none is named, or one that nobody knows */
	ck_assert_int_eq(parse("version=1\nRW 1 FLAT \"\xfc.vmdk\" 0\n"), 0);
	extent(0, VMDK_RW, 1, VMDK_FLAT, "\xc3\xbc.vmdk", 0);
	vmdk_desc_free(&d);
	ck_assert_int_eq(parse("version=1\nencoding=\"klingon\"\nRW 1 FLAT \"\xfc.vmdk\" 0\n"), 0);
	extent(0, VMDK_RW, 1, VMDK_FLAT, "\xfc.vmdk", 0);
	vmdk_desc_free(&d);
}
END_TEST

START_TEST(changing)
{
	char *v;

	ck_assert_int_eq(parse("version=1\r\nCID=00000001\r\nparentCID=ffffffff\r\n"
			       "createType = \"x\"\r\n\r\nRW 5 FLAT \"a\" 0\r\nRW 6 FLAT \"b\" 0\r\n"
			       "ddb.uuid = \"q\"\r\n"), 0);
	ck_assert_int_eq(vmdk_desc_set(&d, "cid", "00000002", false, NULL), 0);
	ck_assert_int_eq(vmdk_desc_set(&d, "parentFileNameHint", "p", true, "createType"), 0);
	ck_assert_int_eq(vmdk_desc_set(&d, "ddb.adapterType", "ide", true, NULL), 0);
	ck_assert_int_eq(vmdk_desc_set(&d, "parentCID", NULL, false, NULL), 0);
	ck_assert_int_eq(vmdk_desc_set_sectors(&d, d.line[0].number, 1234567), 0);
	ck_assert_str_eq(d.text, "version=1\r\nCID=00000002\r\ncreateType = \"x\"\r\n"
			 "parentFileNameHint=\"p\"\r\n\r\nRW 1234567 FLAT \"a\" 0\r\nRW 6 FLAT \"b\" 0\r\n"
			 "ddb.uuid = \"q\"\r\nddb.adapterType = \"ide\"\r\n");
	v = vmdk_desc_get(&d, "DDB.UUID");
	ck_assert_str_eq(v, "q");
	free(v);
	ck_assert_ptr_null(vmdk_desc_get(&d, "nothing"));
	vmdk_desc_free(&d);
}
END_TEST

START_TEST(lines)
{
	ck_assert_int_eq(parse("version=1\nRW 5 FLAT \"a-f001\" 0\nx=1"), 0);
	ck_assert_int_eq(vmdk_desc_add_extent(&d, 2, "RW 6 FLAT \"a-f002\" 0"), 0);
	ck_assert_int_eq(vmdk_desc_add_extent(&d, 4, "RW 7 ZERO"), 0);
	ck_assert_str_eq(d.text, "version=1\nRW 5 FLAT \"a-f001\" 0\nRW 6 FLAT \"a-f002\" 0\nx=1\n"
			 "RW 7 ZERO\n");
	ck_assert_int_eq(vmdk_desc_remove(&d, 3), 0);
	ck_assert_int_eq(vmdk_desc_remove(&d, 9), -EINVAL);
	ck_assert_str_eq(d.text, "version=1\nRW 5 FLAT \"a-f001\" 0\nx=1\nRW 7 ZERO\n");
	vmdk_desc_free(&d);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmdk-desc");
	TCase *tc = tcase_create("all");

	tcase_add_test(tc, usual);
	tcase_add_test(tc, odd);
	tcase_add_test(tc, not_one);
	tcase_add_test(tc, wrong);
	tcase_add_test(tc, encodings);
	tcase_add_test(tc, changing);
	tcase_add_test(tc, lines);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
