/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-ova.c - tar archives, OVF envelopes, and OVAs: read in all shapes, refused when hostile, written
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "ovf.h"
#include "scratch.h"
#include "suite.h"
#include "tar.h"

static struct tapimg_err err;
static uint8_t ar[4 * MiB];	/* an archive in the making */
static size_t at;
static uint8_t disk[64 * KiB], two[64 * KiB];

static void setup(void)
{
	scratch_enter();
	memset(&err, 0, sizeof(err));
	memset(ar, 0, sizeof(ar));
	at = 0;
	for (size_t i = 0; i < sizeof(disk); i++)
		disk[i] = (i * i >> 7) % 251 + 1;
}

static void checksum_again(uint8_t *h)
{
	unsigned sum = 0;

	memset(h + 148, ' ', 8);
	for (unsigned i = 0; i < 512; i++)
		sum += h[i];
	sprintf((char *)h + 148, "%06o", sum);
}

/* One member with its contents; @type: of tar. */
static uint8_t *put(const char *name, char type, const void *data, size_t len)
{
	uint8_t *h = ar + at;

	tar_header_put(h, name, len);
	h[156] = type;
	checksum_again(h);
	memcpy(h + 512, data, len);
	at += 512 + round_up(len, 512);
	return h;
}

static void end(const char *name)
{
	at += 1024;
	put_file(name, ar, at);
}

/* ------------------------------------------------------------------------ tar */

START_TEST(headers_of_all_sizes)
{
	static const uint64_t sizes[] = { 0, 1, 511, 0777777, (1ULL << 33) - 1, 1ULL << 33, 1ULL << 40,
					  INT64_MAX };
	uint8_t h[512];
	char name[257], type;
	uint64_t size;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		tar_header_put(h, "a-name.vmdk", sizes[i]);
		ck_assert(tar_header_get(h, name, &size, &type));
		ck_assert_str_eq(name, "a-name.vmdk");
		ck_assert_uint_eq(size, sizes[i]);
		ck_assert_int_eq(type, '0');
		h[3] ^= 1;
		ck_assert(!tar_header_get(h, name, &size, &type));
	}
}
END_TEST

static int read_tar(const char *name, struct tar *t)
{
	struct file *f;
	int ret;

	ck_assert_int_eq(file_open(loop, name, 0, &f, &err), 0);
	ret = tar_read(f, t, &err);
	file_close(f);
	return ret;
}

START_TEST(names_and_sizes_of_all_kinds)
{
	char longname[300], pax[400];
	struct tar t;
	uint8_t *h;

	memset(longname, 'n', 250);
	strcpy(longname + 250, ".vmdk");
	put("./plain", '0', "12345", 5);
	put("old", 0, "x", 1);
	put("././@LongLink", 'L', longname, strlen(longname) + 1);
	put("short", '0', "abc", 3);
	sprintf(pax, "30 mtime=1350244992.023960108\n%d path=%s\n", (int)strlen(longname) + 10, longname);
	put("PaxHeader", 'x', pax, strlen(pax));
	put("short", '0', "defg", 4);
	put("global", 'g', "16 comment=abcd\n", 16);
	h = put("prefixed", '0', "y", 1);
	strcpy((char *)h + 345, "folder/in");
	checksum_again(h);
	put("link", '2', "", 0);
	end("a.tar");
	ck_assert_msg(!read_tar("a.tar", &t), "%s", err.text);
	ck_assert_uint_eq(t.n, 6);
	ck_assert_str_eq(t.member[2].name, longname);
	ck_assert_uint_eq(t.member[2].size, 3);
	ck_assert_str_eq(t.member[3].name, longname);
	ck_assert_uint_eq(t.member[3].size, 4);
	ck_assert_str_eq(t.member[4].name, "folder/in/prefixed");
	ck_assert(t.member[0].plain && t.member[1].plain && !t.member[5].plain);
	ck_assert_ptr_eq(tar_find(&t, "plain"), t.member);
	ck_assert_ptr_null(tar_find(&t, "nothing"));
	tar_free(&t);
}
END_TEST

START_TEST(hostile_archives)
{
	struct tar t;
	uint8_t *h;

	switch (_i) {
	case 0:			/* a size beyond all numbers */
		h = put("a", '0', "", 0);
		memset(h + 124, 0xff, 12);
		checksum_again(h);
		break;
	case 1:			/* a damaged header behind a good one */
		put("a", '0', "x", 1);
		memset(ar + at, 'x', 512);
		at += 512;
		break;
	case 2:			/* a long name that is too long */
		h = put("a", 'L', "", 0);
		memcpy(h + 124, "77777777777", 12);
		checksum_again(h);
		break;
	case 3:			/* records that do not add up */
		put("a", 'x', "99 path=x\n", 10);
		put("b", '0', "", 0);
		break;
	case 4:
		put("a", 'x', "10 pathxxy\n", 11);
		put("b", '0', "", 0);
		break;
	case 5:			/* 2^63 - 1, so that the next header would be before this one */
		h = put("a", '0', "", 0);
		h[124] = 0x80;
		memset(h + 125, 0, 3);
		h[128] = 0x7f;
		memset(h + 129, 0xff, 7);
		checksum_again(h);
		break;
	case 6:			/* more members than anybody needs */
		for (unsigned i = 0; i < 4200; i++)
			put("a", '0', "", 0);
		break;
	case 7:			/* a size of pax, huge */
		put("a", 'x', "29 size=18446744073709551615\n", 29);
		put("b", '0', "", 0);
		break;
	}
	end("a.tar");
	ck_assert_int_lt(read_tar("a.tar", &t), 0);
	ck_assert_msg(!strncmp(err.text, "a.tar: ", 7), "%s", err.text);
	ck_assert_ptr_null(t.member);
}
END_TEST

/* ------------------------------------------------------------------- envelopes */

#define HEAD "<?xml version='1.0'?><Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' " \
	     "xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'>"
#define FILE1(href) "<References><File ovf:id='f1' ovf:href='" href "'/></References>"
#define DISK1(more) "<DiskSection><Info/><Disk ovf:diskId='d1' ovf:fileRef='f1' ovf:capacity='64' " \
		    "ovf:capacityAllocationUnits='byte * 2^10' " more "/></DiskSection>"
#define TAIL "</Envelope>"

START_TEST(envelopes)
{
	static const char text[] = HEAD "<References><File ovf:id='f1' ovf:href='a&amp;b.vmdk'/>"
		"<File ovf:id='f2' ovf:href='c' ovf:compression='gzip' ovf:chunkSize='5'/></References>"
		"<DiskSection><Disk ovf:diskId='d0' ovf:capacity='1'/>"
		"<Disk ovf:diskId='d2' ovf:fileRef='f2' ovf:capacity='7' "
		"ovf:capacityAllocationUnits='byte * 2^30'/>"
		"<Disk ovf:diskId='d1' ovf:fileRef='f1' ovf:capacity='1000' ovf:format='uri'/>"
		"</DiskSection>" TAIL;
	struct ovf o;

	ck_assert_msg(!ovf_parse(text, strlen(text), "x", &o, &err), "%s", err.text);
	ck_assert_uint_eq(o.n, 2);
	ck_assert_str_eq(o.disk[0].file, "c");
	ck_assert_str_eq(o.disk[0].compression, "gzip");
	ck_assert(o.disk[0].chunked && !o.disk[1].chunked);
	ck_assert_uint_eq(o.disk[0].capacity, 7ULL << 30);
	ck_assert_str_eq(o.disk[1].file, "a&b.vmdk");
	ck_assert_str_eq(o.disk[1].id, "d1");
	ck_assert_str_eq(o.disk[1].format, "uri");
	ck_assert_uint_eq(o.disk[1].capacity, 1000);
	ovf_free(&o);
}
END_TEST

START_TEST(envelopes_that_are_refused)
{
	static const struct { const char *text, *why; } bad[] = {
		{ "", "no element" },
		{ "<a/>", "no OVF envelope" },
		{ HEAD, "no element" },
		{ HEAD "<References></Envelope>", "mismatched tag" },
		{ "<!DOCTYPE a [<!ENTITY b 'c'>]>" HEAD TAIL, "document type" },
		{ "<!DOCTYPE Envelope SYSTEM 'file:///etc/passwd'>" HEAD TAIL, "document type" },
		{ "\xff\xfe\x01", "" },
	};
	struct ovf o;

	ck_assert_int_eq(ovf_parse(bad[_i].text, strlen(bad[_i].text), "x", &o, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, bad[_i].why) && !strncmp(err.text, "x, line ", 8), "%s", err.text);
	ck_assert_uint_eq(o.n, 0);
}
END_TEST

START_TEST(our_own_envelope)
{
	struct ovf_machine m = { .name = "a <\"&> b\x01", .os = "otherGuest64", .file = "d&.vmdk",
				 .adapter = "lsilogic", .hw = 10, .cpus = 2, .memory = 512,
				 .capacity = 12345678 * 512ULL };
	char *text = ovf_text(&m);
	size_t len = strlen(text);
	struct ovf o;

	ck_assert_ptr_nonnull(text);
	ck_assert(ovf_set_size(text, UINT64_MAX));
	ck_assert_uint_eq(strlen(text), len);
	ck_assert_ptr_nonnull(strstr(text, "ovf:size=\"18446744073709551615\" "));
	ck_assert_msg(!ovf_parse(text, len, "x", &o, &err), "%s", err.text);
	ck_assert(ovf_set_size(text, 77));
	ck_assert_uint_eq(strlen(text), len);
	ck_assert_ptr_nonnull(strstr(text, "ovf:size=\"77\" "));
	ck_assert_ptr_nonnull(strstr(text, "<Name>a &lt;&quot;&amp;&gt; b </Name>"));
	ck_assert_uint_eq(o.n, 1);
	ck_assert_str_eq(o.disk[0].file, "d&.vmdk");
	ck_assert_uint_eq(o.disk[0].capacity, m.capacity);
	ovf_free(&o);
	free(text);
	text = strdup("<no place/>");
	ck_assert(!ovf_set_size(text, 1));
	free(text);
}
END_TEST

/* ---------------------------------------------------------------------- reading */

/* A qcow2 in here[0..len): a disk whose format is easily made. */
static size_t make_qcow2(const char *backing, uint8_t *here, size_t max)
{
	struct tapimg *img;
	size_t len;
	FILE *f;

	if (backing)
		put_file(backing, disk, sizeof(disk));
	make_image("tmp.qcow2", "qcow2", 64 * KiB, backing, backing ? "raw" : NULL);
	if (!backing) {
		img = open_image("tmp.qcow2", "qcow2", TAPIMG_RDWR);
		ck_assert_int_eq(tapimg_pwrite(img, disk, sizeof(disk), 0), 0);
		close_image(img);
	}
	f = fopen("tmp.qcow2", "rb");
	len = fread(here, 1, max, f);
	fclose(f);
	return len;
}

static void reads(struct tapimg *img)
{
	ck_assert_uint_ge(tapimg_size(img), sizeof(disk));
	ck_assert_int_eq(tapimg_pread(img, two, sizeof(two), 0), 0);
	ck_assert_int_eq(memcmp(two, disk, sizeof(disk)), 0);
}

START_TEST(an_ova_opens_as_its_disk)
{
	static uint8_t q[MiB];
	size_t n = make_qcow2(NULL, q, sizeof(q));
	struct tapimg_open_opts o = { .format = "ova" };
	struct tapimg *img;

	put("m.ovf", '0', HEAD FILE1("d.qcow2") DISK1("ovf:format='http://qcow-image-format'") TAIL,
	    strlen(HEAD FILE1("d.qcow2") DISK1("ovf:format='http://qcow-image-format'") TAIL));
	put("m.mf", '0', "x", 1);
	put("./d.qcow2", '0', q, n);
	end("a.ova");
	img = open_image("a.ova", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "ova");
	reads(img);
	close_image(img);
	img = open_image("a.ova", NULL, TAPIMG_DIRECT);
	reads(img);
	close_image(img);
	o.disk = "1";
	ck_assert_msg(!tapimg_open(loop, "a.ova", &o, &img, &err), "%s", err.text);
	close_image(img);
	ck_assert_msg(!tapimg_open(loop, "json:{\"driver\":\"ova\",\"disk\":\"d1\",\"file\":{\"driver\":\"file\","
				   "\"filename\":\"a.ova\"}}", NULL, &img, &err), "%s", err.text);
	reads(img);
	close_image(img);
	o.disk = "2";
	ck_assert_int_eq(open_fails("a.ova", &o, &err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err.text, "'d.qcow2'"));
	o.disk = NULL;
	o.flags = TAPIMG_RDWR;
	ck_assert_int_eq(open_fails("a.ova", &o, &err), -EROFS);
	/* as the base of an image */
	make_image("child", "qcow2", 64 * KiB, "a.ova", "ova");
	img = open_image("child", NULL, 0);
	reads(img);
	close_image(img);
	/* what is no container has no disks to choose from */
	o = (struct tapimg_open_opts){ .format = "qcow2", .disk = "1" };
	ck_assert_int_eq(open_fails("tmp.qcow2", &o, &err), -EINVAL);
}
END_TEST

static void put_envelope(const char *text)
{
	put("m.ovf", '0', text, strlen(text));
}

START_TEST(several_disks)
{
	static uint8_t q[MiB];
	size_t n = make_qcow2(NULL, q, sizeof(q));
	struct tapimg_open_opts o = { .format = "ova" };
	struct tapimg *img;

	put_envelope(HEAD "<References><File ovf:id='f1' ovf:href='one.img'/>"
		     "<File ovf:id='f2' ovf:href='two.qcow2'/></References><DiskSection>"
		     "<Disk ovf:diskId='x' ovf:fileRef='f1'/><Disk ovf:diskId='y' ovf:fileRef='f2'/>"
		     "</DiskSection>" TAIL);
	put("one.img", '0', "only a few bytes", 16);
	put("two.qcow2", '0', q, n);
	end("a.ova");
	ck_assert_int_eq(open_fails("a.ova", NULL, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "has 2 disks") && strstr(err.text, "'one.img'") &&
		      strstr(err.text, "'two.qcow2'"), "%s", err.text);
	for (unsigned i = 0; i < 3; i++) {
		o.disk = i == 0 ? "2" : i == 1 ? "y" : "two.qcow2";
		ck_assert_msg(!tapimg_open(loop, "a.ova", &o, &img, &err), "%s", err.text);
		reads(img);
		close_image(img);
	}
	o.disk = "one.img";
	ck_assert_msg(!tapimg_open(loop, "a.ova", &o, &img, &err), "%s", err.text);
	ck_assert_uint_eq(tapimg_size(img), 512);
	close_image(img);
}
END_TEST

START_TEST(ovas_that_are_refused)
{
	static const struct { const char *envelope, *member, *why; char type; } bad[] = {
		{ HEAD TAIL, NULL, "no disk in it", '0' },
		{ HEAD FILE1("d") DISK1("") TAIL, NULL, "'d' is not in the archive", '0' },
		{ HEAD FILE1("d") DISK1("") TAIL, "d", "not a plain file", '2' },
		{ HEAD FILE1("../../etc/passwd") DISK1("") TAIL, "d", "not in the archive", '0' },
		{ HEAD "<References><File ovf:id='f1' ovf:href='d' ovf:chunkSize='7'/></References>" DISK1("")
		  TAIL, "d", "in pieces", '0' },
		{ HEAD "<References><File ovf:id='f1' ovf:href='d' ovf:compression='gzip'/></References>"
		  DISK1("") TAIL, "d", "packed by gzip", '0' },
		{ "<nonsense", NULL, "line 1", '0' },
	};
	struct tapimg_open_opts o = { .format = "ova" };

	put_envelope(bad[_i].envelope);
	if (bad[_i].member)
		put(bad[_i].member, bad[_i].type, disk, 1000);
	end("a.ova");
	ck_assert_int_lt(open_fails("a.ova", &o, &err), 0);
	ck_assert_msg(strstr(err.text, bad[_i].why) && !strncmp(err.text, "a.ova: ", 7), "%s", err.text);
}
END_TEST

/* An image in an archive cannot lead out of it, neither at the top nor below something. */
START_TEST(an_archive_names_no_files)
{
	static uint8_t q[MiB];
	size_t n = make_qcow2("secret", q, sizeof(q));

	put_envelope(HEAD FILE1("d.qcow2") DISK1("ovf:format='qcow'") TAIL);
	put("d.qcow2", '0', q, n);
	end("a.ova");
	ck_assert_int_eq(open_fails("a.ova", NULL, &err), -EPERM);
	ck_assert_msg(strstr(err.text, "in an archive"), "%s", err.text);
	{
		struct tapimg_create_opts c = { .format = "qcow2", .size = 64 * KiB, .backing = "a.ova",
						.backing_format = "ova", .no_backing_check = true };

		ck_assert_int_eq(tapimg_create(loop, "child", &c, &err), 0);
	}
	ck_assert_int_eq(open_fails("child", NULL, &err), -EPERM);
	/* an archive in an archive is not gone into */
	at = 0;
	put_envelope(HEAD FILE1("in.ova") DISK1("") TAIL);
	{
		size_t keep = at;

		put_envelope(HEAD TAIL);
		memmove(ar + keep + 512, ar + keep, at - keep);
		tar_header_put(ar + keep, "in.ova", at - keep);
		at += 512;
	}
	end("b.ova");
	ck_assert_int_eq(open_fails("b.ova", NULL, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "archive again"), "%s", err.text);
}
END_TEST

/* As an archiver puts them that goes by the alphabet. */
START_TEST(an_envelope_that_is_not_the_first)
{
	static uint8_t q[MiB];
	size_t n = make_qcow2(NULL, q, sizeof(q));
	struct tapimg *img;

	put("d.qcow2", '0', q, n);
	put_envelope(HEAD FILE1("d.qcow2") DISK1("") TAIL);
	end("a.OVA");
	img = open_image("a.OVA", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "ova");
	reads(img);
	close_image(img);
	at = 0;
	put("readme", '0', "x", 1);
	end("b.ova");
	ck_assert_int_eq(open_fails("b.ova", NULL, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "no OVF envelope"), "%s", err.text);
}
END_TEST

START_TEST(only_archives_with_an_envelope_are_taken_for_one)
{
	struct tapimg *img;

	put("readme", '0', "x", 1);
	end("a.tar");
	img = open_image("a.tar", NULL, 0);
	ck_assert_str_eq(tapimg_format(img), "raw");
	close_image(img);
	at = 0;
	put("pax", 'x', "16 comment=abcd\n", 16);
	put("M.OVF", '0', HEAD TAIL, strlen(HEAD TAIL));
	end("b.ova");
	ck_assert_int_eq(open_fails("b.ova", NULL, &err), -EINVAL);
	ck_assert_msg(strstr(err.text, "no disk in it"), "%s", err.text);
}
END_TEST

/* ---------------------------------------------------------------------- writing */

static void coded_done(struct tapimg_req *req)
{
	*(bool *)req->opaque = true;
}

static void make_ova(const char *name, const struct tapimg_opt *opts, unsigned nopts, uint64_t size)
{
	struct tapimg_create_opts o = { .format = "ova", .size = size, .opts = opts, .nopts = nopts };
	struct tapimg_open_opts how = { .flags = TAPIMG_UNSAFE };
	struct iovec iov = { disk, sizeof(disk) };
	bool done = false;
	struct tapimg_req req = { .op = TAPIMG_WRITE_COMPRESSED, .len = sizeof(disk), .iov = &iov, .iovcnt = 1,
				  .done = coded_done, .opaque = &done };
	struct tapimg *img;

	ck_assert_msg(!tapimg_create_open(loop, name, &o, &how, &img, &err), "%s", err.text);
	ck_assert_str_eq(tapimg_format(img), "ova");
	tapimg_submit(img, &req);
	while (!done)
		tapimg_loop_run(loop, true);
	ck_assert_int_eq(req.ret, 0);
	close_image(img);
}

static size_t load(const char *name)
{
	FILE *f = fopen(name, "rb");
	size_t n = fread(ar, 1, sizeof(ar), f);

	fclose(f);
	return n;
}

static void digest_is(const struct tar_member *mf, const struct tar_member *m, enum crypt_hash hash,
		      const char *what)
{
	uint8_t out[CRYPT_DIGEST_MAX];
	char line[300], *text = strndup((char *)ar + mf->off, mf->size);
	int n = crypt_digest(hash, ar + m->off, m->size, out, NULL), k;

	k = sprintf(line, "%s(%s)= ", what, m->name);
	for (int i = 0; i < n; i++)
		k += sprintf(line + k, "%02x", out[i]);
	sprintf(line + k, "\n");
	ck_assert_msg(strstr(text, line), "%s is not in %s", line, text);
	free(text);
}

START_TEST(an_ova_is_written)
{
	static const struct tapimg_opt all[] = {
		{ "vm_name", "Ma<chine>" }, { "cpus", "3" }, { "memory", "2G" }, { "os_type", "ubuntu64Guest" },
		{ "adapter_type", "pvscsi" }, { "hwversion", "13" }, { "manifest", "sha1" },
		{ "compression_level", "9" },
	};
	static const struct tapimg_opt none[] = { { "manifest", "none" } };
	const struct tapimg_opt *opts = _i == 1 ? all : none;
	unsigned nopts = _i == 0 ? 0 : _i == 1 ? ARRAY_SIZE(all) : 1;
	const struct tar_member *ovf, *d;
	struct tapimg *img;
	struct tar t;
	char *text;
	size_t n;

	make_ova("My disk.OVA", opts, nopts, 3 * MiB);
	n = load("My disk.OVA");
	ck_assert_uint_eq(n % 512, 0);
	ck_assert_msg(!read_tar("My disk.OVA", &t), "%s", err.text);
	ck_assert_uint_eq(t.n, _i == 2 ? 2 : 3);
	ovf = t.member;
	d = t.member + t.n - 1;
	ck_assert_str_eq(ovf->name, "My-disk.ovf");
	ck_assert_str_eq(d->name, "My-disk-disk1.vmdk");
	ck_assert_uint_eq(round_up(d->off + d->size, 512) + 1024, n);
	if (t.n == 3) {
		const struct tar_member *mf = t.member + 1;

		ck_assert_str_eq(mf->name, "My-disk.mf");
		digest_is(mf, ovf, _i ? CRYPT_SHA1 : CRYPT_SHA256, _i ? "SHA1" : "SHA256");
		digest_is(mf, d, _i ? CRYPT_SHA1 : CRYPT_SHA256, _i ? "SHA1" : "SHA256");
	}
	text = strndup((char *)ar + ovf->off, ovf->size);
	{
		char want[80];

		sprintf(want, "ovf:size=\"%llu\"", (unsigned long long)d->size);
		ck_assert_ptr_nonnull(strstr(text, want));
	}
	ck_assert_ptr_nonnull(strstr(text, "ovf:capacity=\"3145728\""));
	if (_i == 1) {
		ck_assert_ptr_nonnull(strstr(text, "<Name>Ma&lt;chine&gt;</Name>"));
		ck_assert_ptr_nonnull(strstr(text, "<rasd:VirtualQuantity>3<"));
		ck_assert_ptr_nonnull(strstr(text, "<rasd:VirtualQuantity>2048<"));
		ck_assert_ptr_nonnull(strstr(text, "vmw:osType=\"ubuntu64Guest\""));
		ck_assert_ptr_nonnull(strstr(text, "VirtualSCSI"));
		ck_assert_ptr_nonnull(strstr(text, "vmx-13"));
	}
	free(text);
	tar_free(&t);
	img = open_image("My disk.OVA", NULL, 0);
	ck_assert_uint_eq(tapimg_size(img), 3 * MiB);
	reads(img);
	close_image(img);
	make_ova("other.ova", opts, nopts, 3 * MiB);
	make_ova("My disk.OVA", opts, nopts, 3 * MiB);
	ck_assert(file_is("My disk.OVA", ar, n));	/* the same again */
}
END_TEST

START_TEST(an_ova_that_was_cut)
{
	struct tapimg_open_opts o = { .flags = TAPIMG_SALVAGE };
	struct tapimg *img;
	size_t n;

	make_ova("a.ova", NULL, 0, 3 * MiB);
	n = load("a.ova");
	put_file("b.ova", ar, n - 1024 - 1000);
	ck_assert_int_eq(open_fails("b.ova", NULL, &err), -EUCLEAN);
	ck_assert_msg(strstr(err.text, "archive is cut off") && strstr(err.text, "--salvage"), "%s", err.text);
	ck_assert_msg(!tapimg_open(loop, "b.ova", &o, &img, &err), "%s", err.text);
	reads(img);
	close_image(img);
	/* only the end of the archive is missing */
	put_file("c.ova", ar, n - 1024);
	img = open_image("c.ova", NULL, 0);
	reads(img);
	close_image(img);
}
END_TEST

START_TEST(an_ova_with_nothing_in_it)
{
	struct tapimg_measure m;
	struct tapimg_create_opts o = { .format = "ova", .size = GiB };
	struct tapimg *img;

	make_image("e.ova", "ova", GiB, NULL, NULL);
	img = open_image("e.ova", NULL, 0);
	ck_assert_uint_eq(tapimg_size(img), GiB);
	close_image(img);
	ck_assert_msg(!tapimg_measure(loop, NULL, &o, &m, &err), "%s", err.text);
	ck_assert_uint_eq(m.required, load("e.ova"));
	ck_assert_uint_ge(m.fully_allocated, GiB);
}
END_TEST

START_TEST(options_that_make_no_sense)
{
	static const struct tapimg_opt bad[] = {
		{ "cpus", "0" }, { "cpus", "5000" }, { "hwversion", "x" }, { "compression_level", "13" },
		{ "memory", "lots" }, { "manifest", "md5" }, { "vm_name", "\xff\xfe" }, { "adapter_type", "usb" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct tapimg_create_opts o = { .format = "ova", .size = MiB, .opts = bad + i, .nopts = 1 };

		ck_assert_msg(tapimg_create(loop, "a.ova", &o, &err) < 0, "%s=%s", bad[i].name, bad[i].value);
		ck_assert_msg(strstr(err.text, bad[i].name), "%s", err.text);
	}
	ck_assert_uint_eq(files_here(), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ova");
	TCase *tc = tcase_create("ova");

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, scratch_leave);
	tcase_add_test(tc, headers_of_all_sizes);
	tcase_add_test(tc, names_and_sizes_of_all_kinds);
	tcase_add_loop_test(tc, hostile_archives, 0, 8);
	tcase_add_test(tc, envelopes);
	tcase_add_loop_test(tc, envelopes_that_are_refused, 0, 7);
	tcase_add_test(tc, our_own_envelope);
	tcase_add_test(tc, an_ova_opens_as_its_disk);
	tcase_add_test(tc, several_disks);
	tcase_add_loop_test(tc, ovas_that_are_refused, 0, 7);
	tcase_add_test(tc, an_archive_names_no_files);
	tcase_add_test(tc, an_envelope_that_is_not_the_first);
	tcase_add_test(tc, only_archives_with_an_envelope_are_taken_for_one);
	tcase_add_loop_test(tc, an_ova_is_written, 0, 3);
	tcase_add_test(tc, an_ova_that_was_cut);
	tcase_add_test(tc, an_ova_with_nothing_in_it);
	tcase_add_test(tc, options_that_make_no_sense);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
