/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-create.c - making VMDKs, and measuring what one would need
 *
 * One sparse extent with the descriptor inside, or a descriptor beside extents of its name:
 *	monolithicSparse	X.vmdk
 *	monolithicFlat, vmfs	X.vmdk, X-flat.vmdk
 *	twoGbMaxExtentSparse	X.vmdk, X-s001.vmdk, ...
 *	twoGbMaxExtentFlat	X.vmdk, X-f001.vmdk, ...
 *	vmfsSparse		X.vmdk, X-delta.vmdk
 *	streamOptimized		X.vmdk: see vmdk-stream-write.c
 *
 * A sparse extent gets all its grain tables at once, in both copies, as VMware's products want them;
 * being zeroes they take no space in the file.  COWD gets them when they are needed.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "name.h"
#include "opt.h"
#include "target.h"
#include "vmdk-make.h"
#include "vmdk-stream.h"

#define SPLIT_SIZE (2 * GiB)
#define GTES 512U
#define FILL (2 * MiB)

#define SUBFORMATS "monolithicSparse|monolithicFlat|twoGbMaxExtentSparse|twoGbMaxExtentFlat|" \
		   "vmfs|vmfsSparse|streamOptimized"
#define ADAPTERS "ide|lsilogic|buslogic|legacyESX|pvscsi"

const struct tapimg_opt_desc vmdk_opts[] = {
	{ "size", "size", NULL, "virtual size", TAPIMG_OPT_CREATE },
	{ "backing_file", "str", NULL, "the parent's name", TAPIMG_OPT_CREATE },
	{ "backing_fmt", "str", NULL, "has to be vmdk", TAPIMG_OPT_CREATE },
	{ "subformat", SUBFORMATS, "monolithicSparse", "files and layout", TAPIMG_OPT_CREATE },
	{ "adapter_type", ADAPTERS, NULL, "disk adapter of the machine: ide, of ESX types lsilogic",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "hwversion", "str", NULL, "version of the virtual hardware: 4, with compat6 6",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "compat6", "on|off", "off", "hardware version 6", TAPIMG_OPT_CREATE },
	{ "toolsversion", "str", "2147483647", "version of the guest's tools",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "geometry", "str", NULL, "cylinders/heads/sectors: as the adapter and the size have it",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "uuid", "str", NULL, "of the disk: 32 hexadecimal digits, blanks and dashes as you like",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "long_content_id", "str", NULL, "32 hexadecimal digits, the last 8 are the content id",
	  TAPIMG_OPT_CREATE },
	{ "zeroed_grain", "on|off", "off", "zeroes take no space (sparse types, version 2)",
	  TAPIMG_OPT_CREATE },
	{ "grain_size", "size", NULL, "of sparse types: 64k, of vmfsSparse 512", TAPIMG_OPT_CREATE },
	{ "extent_size", "size", NULL, "of split types: 2G", TAPIMG_OPT_CREATE },
	{ "compression_level", "str", "6", "of streamOptimized: 1 (fast) to 12 (small)",
	  TAPIMG_OPT_CREATE },
	{ "preallocation", "off|falloc|full", "off", "of flat types: allocate, or write zeroes",
	  TAPIMG_OPT_CREATE },
	{ "nocow", "on|off", "off", "no copy-on-write in the file system (btrfs)",
	  TAPIMG_OPT_CREATE },
	{ 0 },
};

/* How the sub-formats differ; in the order of SUBFORMATS. */
static const struct vmdk_subformat subformats[] = {
	{ "monolithicSparse", VMDK_SPARSE, NULL, 0, false, false },
	{ "monolithicFlat", VMDK_FLAT, "-flat", 0, false, false },
	{ "twoGbMaxExtentSparse", VMDK_SPARSE, "-s%03u", SPLIT_SIZE, false, false },
	{ "twoGbMaxExtentFlat", VMDK_FLAT, "-f%03u", SPLIT_SIZE, false, false },
	{ "vmfs", VMDK_VMFS, "-flat", 0, true, false },
	{ "vmfsSparse", VMDK_VMFSSPARSE, "-delta", 0, true, false },
	{ "streamOptimized", VMDK_SPARSE, NULL, 0, true, true },
};

/* --------------------------------------------------------------------- options */

/* 32 hexadecimal digits, with blanks, dashes and the like between them. */
static int parse_hex16(const char *text, uint8_t out[16])
{
	unsigned n = 0;

	for (; *text; text++) {
		int c = tolower((unsigned char)*text);

		if (strchr(" -{}:", c))
			continue;
		if (!isxdigit(c) || n == 32)
			return -EINVAL;
		c = c <= '9' ? c - '0' : c - 'a' + 10;
		out[n / 2] = n % 2 ? out[n / 2] | c : c << 4;
		n++;
	}
	return n == 32 ? 0 : -EINVAL;
}

int vmdk_uuid_text(const char *text, char out[VMDK_UUID_LEN])
{
	uint8_t b[16];
	size_t n = 0;

	if (parse_hex16(text, b))
		return -EINVAL;
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(out + n, VMDK_UUID_LEN - n, "%02x%s", b[i], i == 7 ? "-" : i == 15 ? "" : " ");
	return 0;
}

void vmdk_geometry(struct vmdk_params *p)
{
	bool ide = !strcmp(p->adapter, "ide");

	if (p->geometry)
		return;
	p->heads = ide ? 16 : 255;
	p->sectors = 63;
	p->cylinders = MIN(p->size / VMDK_SECTOR / (p->heads * p->sectors), ide ? 16383U : 65535U);
}

int vmdk_parse_geometry(const char *text, struct vmdk_params *p)
{
	char end;

	if (sscanf(text, "%u/%u/%u%c", &p->cylinders, &p->heads, &p->sectors, &end) != 3 ||
	    !p->cylinders || !p->heads || p->heads > 255 || !p->sectors || p->sectors > 255)
		return -EINVAL;
	p->geometry = true;
	return 0;
}

/* Digits only: the text goes into a descriptor. */
static bool is_number(const char *s)
{
	size_t n = strspn(s, "0123456789");

	return n && n <= 10 && !s[n];
}

/*
 * A stream's id is at its front, before a byte of the contents is known, and the same copy has to make
 * the same stream: so it comes from what the disk looks like.
 */
static void stream_ids(struct vmdk_params *p)
{
	uint64_t h = 0xcbf29ce484222325ULL;
	char text[200];
	int n = snprintf(text, sizeof(text), "%" PRIu64 "/%s/%s/%s/%s", p->size, p->adapter, p->hw, p->tools,
			 p->uuid);
	uint32_t v[4];

	for (unsigned k = 0; k < 4; k++) {
		for (int i = 0; i < n; i++)
			h = (h ^ (uint8_t)text[i]) * 0x100000001b3ULL;
		v[k] = h >> 32;
	}
	p->cid = v[3] >= VMDK_CID_NEVER ? 1 : v[3];
	snprintf(p->long_id, sizeof(p->long_id), "%08x%08x%08x%08x", v[0], v[1], v[2], p->cid);
}

static int parse_ids(struct vmdk_params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	const char *uuid = create_opt(c, "uuid"), *id = create_opt(c, "long_content_id");
	uint8_t b[16];

	p->cid = vmdk_new_cid(0);
	if (uuid && vmdk_uuid_text(uuid, p->uuid))
		return err_set(err, -EINVAL, "%s: uuid '%s' does not have 32 hexadecimal digits", c->name,
			       uuid);
	if (!id && p->sub->stream)
		stream_ids(p);
	if (!id)
		return 0;
	if (parse_hex16(id, b) || get_be32(b + 12) >= VMDK_CID_NEVER)
		return err_set(err, -EINVAL, "%s: long_content_id '%s' is not made of 32 hexadecimal digits, "
			       "of which the last 8 are a content id", c->name, id);
	for (unsigned i = 0; i < 16; i++)
		snprintf(p->long_id + 2 * i, 3, "%02x", b[i]);
	p->cid = get_be32(b + 12);
	return 0;
}

int vmdk_params_parse(const struct create *c, struct vmdk_params *p, struct tapimg_err *err)
{
	const char *adapter = create_opt(c, "adapter_type"), *geometry = create_opt(c, "geometry");
	const char *level = create_opt(c, "compression_level");
	bool compat6 = create_opt_bool(c, &vmdk_format, "compat6");

	memset(p, 0, sizeof(*p));
	p->c = c;
	p->sub = &subformats[create_opt_enum(c, &vmdk_format, "subformat")];
	p->size = round_up(c->size, VMDK_SECTOR);
	p->adapter = adapter ? adapter : p->sub->esx ? "lsilogic" : "ide";
	p->hw = create_opt(c, "hwversion");
	p->tools = create_opt(c, "toolsversion");
	p->hw = p->hw ? p->hw : compat6 ? "6" : "4";
	p->tools = p->tools ? p->tools : "2147483647";
	p->prealloc = create_opt_enum(c, &vmdk_format, "preallocation");
	p->zeroed = create_opt_bool(c, &vmdk_format, "zeroed_grain");
	p->level = level ? strtoul(level, NULL, 10) : VMDK_STREAM_LEVEL;
	if (level && (!is_number(level) || p->level < 1 || p->level > 12))
		return err_set(err, -EINVAL, "%s: compression_level '%s' is not a number from 1 to 12", c->name,
			       level);
	if (create_opt(c, "hwversion") && compat6)
		return err_set(err, -EINVAL, "%s: compat6 and hwversion exclude each other", c->name);
	if (!is_number(p->hw) || !is_number(p->tools))
		return err_set(err, -EINVAL, "%s: hwversion and toolsversion are numbers", c->name);
	if (geometry && vmdk_parse_geometry(geometry, p))
		return err_set(err, -EINVAL, "%s: geometry '%s' is not cylinders/heads/sectors", c->name,
			       geometry);
	vmdk_geometry(p);
	return parse_ids(p, err);
}

static int check_stream(struct vmdk_params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	uint64_t max = VMDK_MAX_GD * VMDK_STREAM_GTES * VMDK_STREAM_GRAIN;

	if (p->grain != VMDK_STREAM_GRAIN || p->zeroed || p->prealloc)
		return err_set(err, -ENOTSUP, "%s: streamOptimized has grains of 64k, no zeroed ones, and no "
			       "preallocation", c->name);
	if (c->backing)
		return err_set(err, -ENOTSUP, "%s: streamOptimized cannot have a backing file", c->name);
	if (p->size > max)
		return err_set(err, -EFBIG, "%s: a disk of %" PRIu64 " bytes is too large for streamOptimized, "
			       "which stops at %" PRIu64, c->name, p->size, max);
	if (c->file && c->file->block_dev)
		return err_set(err, -ENOTSUP, "%s: streamOptimized has its footer at the end of the file, and a "
			       "device ends elsewhere", c->name);
	return 0;
}

static bool sub_sparse(const struct vmdk_params *p)
{
	return p->sub->type == VMDK_SPARSE || p->sub->type == VMDK_VMFSSPARSE;
}

static int check_sparse(struct vmdk_params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	uint64_t max = 2 * TiB - 64 * MiB;	/* sector numbers have 32 bits, and the tables take some */

	if (!p->sub->split && p->size > max)
		return err_set(err, -EFBIG, "%s: a disk of %" PRIu64 " bytes is too large for %s, which "
			       "stops at %" PRIu64 ": use twoGbMaxExtentSparse or a flat type", c->name,
			       p->size, p->sub->name, max);
	/* one directory stays within what is read in one piece */
	if (!p->sub->split && div_up(p->size, p->grain * GTES) > VMDK_MAX_GD)
		return err_set(err, -EFBIG, "%s: grains of %" PRIu64 " bytes are too small for a disk of %"
			       PRIu64 " bytes", c->name, p->grain, p->size);
	return 0;
}

static int check(struct vmdk_params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	bool sparse = sub_sparse(p), cowd = p->sub->type == VMDK_VMFSSPARSE;

	p->grain = create_opt_size(c, &vmdk_format, "grain_size");
	if (create_opt(c, "grain_size") && !sparse)
		return err_set(err, -EINVAL, "%s: %s has no grains", c->name, p->sub->name);
	if (!p->grain)
		p->grain = cowd || !sparse ? VMDK_SECTOR : 64 * KiB;
	if (sparse && (p->grain < VMDK_SECTOR || !is_pow2(p->grain) || p->grain > 2 * MiB))
		return err_set(err, -EINVAL, "%s: a grain size of %" PRIu64 " bytes is not a power of two "
			       "between 512 and 2M", c->name, p->grain);
	if (p->sub->stream)
		return check_stream(p, err);
	if (create_opt(c, "compression_level"))
		return err_set(err, -EINVAL, "%s: %s is not compressed", c->name, p->sub->name);
	if (c->file && c->file->append)
		return err_set(err, -ESPIPE, "%s: only streamOptimized can be written to a pipe", c->name);
	if (p->zeroed && p->sub->type != VMDK_SPARSE)
		return err_set(err, -EINVAL, "%s: %s cannot have zeroed grains", c->name, p->sub->name);
	if (p->prealloc && sparse)
		return err_set(err, -ENOTSUP, "%s: %s cannot be preallocated", c->name, p->sub->name);
	if (c->backing && !sparse)
		return err_set(err, -ENOTSUP, "%s: %s cannot have a backing file", c->name, p->sub->name);
	if (c->backing && strcmp(c->backing_format, "vmdk") != 0)
		return err_set(err, -ENOTSUP, "%s: the backing file of a VMDK has to be one as well, not %s",
			       c->name, c->backing_format);
	if (c->backing && strpbrk(c->backing, "\"\r\n"))
		return err_set(err, -EINVAL, "%s: the name of the backing file has a quote or a line break "
			       "in it", c->name);
	if (p->sub->suffix && c->file && c->file->block_dev)
		return err_set(err, -ENOTSUP, "%s: %s needs files beside it, a device has none", c->name,
			       p->sub->name);
	p->split = create_opt_size(c, &vmdk_format, "extent_size");
	if (p->split && !p->sub->split)
		return err_set(err, -EINVAL, "%s: %s is not split", c->name, p->sub->name);
	p->split = p->split ? p->split : p->sub->split;
	if (p->sub->split && (p->split < p->grain || p->split % p->grain || p->split > 2 * TiB - 64 * MiB))
		return err_set(err, -EINVAL, "%s: extents of %" PRIu64 " bytes are not whole grains, or too "
			       "large", c->name, p->split);
	if (p->sub->split && div_up(p->size, p->split) > VMDK_MAX_EXTENTS)
		return err_set(err, -EFBIG, "%s: a disk of %" PRIu64 " bytes would have more than %u extents",
			       c->name, p->size, VMDK_MAX_EXTENTS);
	return sparse ? check_sparse(p, err) : 0;
}

/* The content id of what the image is made on. */
static int parent_cid(struct vmdk_params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	const struct vmdk *v;

	p->parent_cid = VMDK_CID_NONE;
	if (!c->backing)
		return 0;
	if (!c->backing_img)
		return err_set(err, -EINVAL, "%s: the content id of the backing file '%s' goes into the "
			       "image, so that file has to be looked at", c->name, c->backing);
	v = vmdk_of(c->backing_img);
	if (!v->desc.text || !v->desc.has_cid)
		return err_set(err, -EINVAL, "%s: the backing file '%s' has no descriptor with a content id",
			       c->name, c->backing);
	p->parent_cid = v->desc.cid;
	return 0;
}

/* ------------------------------------------------------------------ descriptor */

static void add(struct vmdk_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct vmdk_text *t, const char *fmt, ...)
{
	va_list ap;
	char *p;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	p = t->failed ? NULL : realloc(t->p, t->len + n + 1);
	if (!p) {
		t->failed = true;
		return;
	}
	t->p = p;
	va_start(ap, fmt);
	vsnprintf(p + t->len, n + 1, fmt, ap);
	va_end(ap);
	t->len += n;
}

void vmdk_text_head(struct vmdk_text *t, const struct vmdk_params *p, const char *type)
{
	add(t, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%08x\nparentCID=%08x\n"
	    "createType=\"%s\"\n", p->cid, p->parent_cid, type);
	if (p->c->backing)
		add(t, "parentFileNameHint=\"%s\"\n", p->c->backing);
	add(t, "\n# Extent description\n");
}

void vmdk_text_extent(struct vmdk_text *t, uint64_t len, enum vmdk_type type, const char *file)
{
	add(t, "RW %" PRIu64 " %s \"%s\"%s\n", (uint64_t)(len / VMDK_SECTOR), vmdk_type_names[type], file,
	    type == VMDK_FLAT ? " 0" : "");
}

void vmdk_text_tail(struct vmdk_text *t, const struct vmdk_params *p)
{
	add(t, "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n"
	    "ddb.geometry.cylinders = \"%u\"\nddb.geometry.heads = \"%u\"\n"
	    "ddb.geometry.sectors = \"%u\"\nddb.adapterType = \"%s\"\nddb.toolsVersion = \"%s\"\n",
	    p->hw, p->cylinders, p->heads, p->sectors, p->adapter, p->tools);
	if (p->uuid[0])
		add(t, "ddb.uuid = \"%s\"\n", p->uuid);
	if (p->long_id[0])
		add(t, "ddb.longContentID = \"%s\"\n", p->long_id);
}

/* --------------------------------------------------------------- sparse extents */

/* What lies where in a sparse extent; all in sectors. */
struct layout {
	uint64_t capacity, grain, ngd, gd_len, desc_len;
	uint64_t desc, rgd, rgts, gd, gts, data;
};

static void layout_make(struct layout *l, uint64_t len, uint64_t grain, uint64_t desc_len)
{
	uint64_t gts;

	l->capacity = len / VMDK_SECTOR;
	l->grain = grain / VMDK_SECTOR;
	l->ngd = div_up(l->capacity, l->grain * GTES);
	l->gd_len = div_up(l->ngd * 4, VMDK_SECTOR);
	gts = l->ngd * (GTES * 4 / VMDK_SECTOR);
	l->desc_len = desc_len;
	l->desc = desc_len ? 1 : 0;
	l->rgd = 1 + desc_len;
	l->rgts = l->rgd + l->gd_len;
	l->gd = l->rgts + gts;
	l->gts = l->gd + l->gd_len;
	l->data = round_up(MAX(l->gts + gts, l->gd + 1), l->grain);
}

static void header_fill(uint8_t *b, const struct layout *l, bool zeroed)
{
	memset(b, 0, VMDK_SECTOR);
	put_le32(b, VMDK_MAGIC);
	put_le32(b + VH_VERSION, zeroed ? 2 : 1);
	put_le32(b + VH_FLAGS, VMDK_F_NEWLINES | VMDK_F_REDUNDANT | (zeroed ? VMDK_F_ZEROED : 0));
	put_le64(b + VH_CAPACITY, l->capacity);
	put_le64(b + VH_GRAIN, l->grain);
	put_le64(b + VH_DESC_OFF, l->desc);
	put_le64(b + VH_DESC_SIZE, l->desc_len);
	put_le32(b + VH_GTES, GTES);
	put_le64(b + VH_RGD, l->rgd);
	put_le64(b + VH_GD, l->gd);
	put_le64(b + VH_OVERHEAD, l->data);
	memcpy(b + VH_NEWLINES, "\n \r\n", 4);
}

/* A directory whose tables follow each other from sector @gts on. */
static int directory_write(struct file *f, const struct layout *l, uint64_t at, uint64_t gts)
{
	uint64_t size = l->gd_len * VMDK_SECTOR;
	uint8_t *b = file_buf(MAX(size, VMDK_SECTOR));
	int ret;

	if (!b)
		return -ENOMEM;
	memset(b, 0, size);
	for (uint64_t i = 0; i < l->ngd; i++)
		put_le32(b + 4 * i, gts + i * (GTES * 4 / VMDK_SECTOR));
	ret = file_pwrite(f, b, size, at * VMDK_SECTOR);
	free(b);
	return ret;
}

static int zero_fill(struct file *f, uint64_t off, uint64_t end)
{
	void *buf = file_buf(FILL);
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, FILL);
	for (; off < end && !ret; off += MIN(end - off, FILL))
		ret = file_pwrite(f, buf, MIN(end - off, FILL), off);
	free(buf);
	return ret;
}

/* The file has @end bytes, which read as zeroes; a new file grows to that. */
static int space_zeroed(struct file *f, uint64_t end)
{
	int ret = 0;

	if (!f->block_dev)
		ret = file_truncate(f, end);
	else if (f->size < end)
		ret = -ENOSPC;
	if (!ret && (f->block_dev || !f->grows_clean))
		ret = zero_fill(f, 0, end);
	return ret;
}

/* @text: the descriptor inside, or NULL. */
static int sparse_write(struct vmdk_params *p, struct file *f, uint64_t len, const struct vmdk_text *text)
{
	uint64_t desc_len = text ? MAX(div_up(text->len, VMDK_SECTOR), (uint64_t)VMDK_DESC_SECTORS) : 0;
	uint8_t head[VMDK_SECTOR];
	struct layout l;
	int ret;

	layout_make(&l, len, p->grain, desc_len);
	ret = space_zeroed(f, l.data * VMDK_SECTOR);
	header_fill(head, &l, p->zeroed);
	if (!ret)
		ret = directory_write(f, &l, l.rgd, l.rgts);
	if (!ret)
		ret = directory_write(f, &l, l.gd, l.gts);
	if (!ret && text)
		ret = file_pwrite(f, text->p, text->len, l.desc * VMDK_SECTOR);
	return ret ? ret : file_pwrite(f, head, sizeof(head), 0);
}

static int cowd_write(struct vmdk_params *p, struct file *f, uint64_t len)
{
	uint64_t grain = p->grain / VMDK_SECTOR, capacity = len / VMDK_SECTOR;
	uint64_t ngd = div_up(capacity, grain * VC_GTES);
	uint64_t end = VC_LEN / VMDK_SECTOR + div_up(ngd * 4, VMDK_SECTOR);
	uint8_t b[VC_LEN] = { 0 };
	int ret;

	put_le32(b, VMDK_COWD_MAGIC);
	put_le32(b + VC_VERSION, 1);
	put_le32(b + VC_FLAGS, 3);
	put_le32(b + VC_SECTORS, capacity);
	put_le32(b + VC_GRAIN, grain);
	put_le32(b + VC_GD, VC_LEN / VMDK_SECTOR);
	put_le32(b + VC_NGD, ngd);
	put_le32(b + VC_FREE, end);
	if (p->c->backing) {
		strncpy((char *)b + VC_CYLINDERS, p->c->backing, 1023);
	} else {
		put_le32(b + VC_CYLINDERS, p->cylinders);
		put_le32(b + VC_CYLINDERS + 4, p->heads);
		put_le32(b + VC_CYLINDERS + 8, p->sectors);
	}
	ret = space_zeroed(f, MAX(end * VMDK_SECTOR, (uint64_t)VC_LEN));
	return ret ? ret : file_pwrite(f, b, sizeof(b), 0);
}

static int flat_write(struct vmdk_params *p, struct file *f, uint64_t len)
{
	int ret = file_truncate(f, len);

	if (!ret && p->prealloc == VMDK_FALLOC && len) {
		ret = file_prealloc(f, 0, len);
		if (ret != -ENOTSUP)
			return ret;
	}
	if (!ret && (p->prealloc != VMDK_PREALLOC_OFF || !f->grows_clean))
		ret = zero_fill(f, 0, len);
	return ret;
}

/* ------------------------------------------------------------- files beside it */

static const char *base_name(const char *name)
{
	const char *slash = strrchr(name, '/');

	if (slash)
		return slash + 1;
	return name_has_scheme(name) ? strchr(name, ':') + 1 : name;
}

/* X.vmdk and a suffix make X-suffix.vmdk, in the same folder; malloc'd. */
static char *extent_name(const struct vmdk_params *p, unsigned i)
{
	const char *base = base_name(p->c->name);
	const char *dot = strrchr(base, '.'), *end = dot && dot > base ? dot : base + strlen(base);
	char suffix[24], *out;

	if (strstr(p->sub->suffix, "%03u"))
		snprintf(suffix, sizeof(suffix), "-%c%03u", p->sub->suffix[1], i + 1);
	else
		snprintf(suffix, sizeof(suffix), "%s", p->sub->suffix);
	if (asprintf(&out, "%.*s%s%s", (int)(end - base), base, suffix, end) < 0)
		return NULL;
	return out;
}

static int extent_write(struct vmdk_params *p, struct file *f, uint64_t len)
{
	switch (p->sub->type) {
	case VMDK_SPARSE:
		return sparse_write(p, f, len, NULL);
	case VMDK_VMFSSPARSE:
		return cowd_write(p, f, len);
	default:
		return flat_write(p, f, len);
	}
}

static int extent_create(struct vmdk_params *p, const char *name, uint64_t len, struct tapimg_err *err)
{
	const struct create *c = p->c;
	char *path = vmdk_name_resolve(c->loop, c->name, name), *made = NULL;
	struct file *f;
	bool existed;
	int ret;

	if (path)
		made = target_companion(c->loop, c->file->name, path);
	if (!made) {
		free(path);
		return err_errno(err, -ENOMEM, "%s", c->name);
	}
	existed = file_exists(c->loop, made);
	ret = c->exclusive && file_exists(c->loop, path) ?
	      err_errno(err, -EEXIST, "%s: extent '%s'", c->name, path) : 0;
	if (!ret)
		ret = file_open(c->loop, made, FILE_RDWR | FILE_CREATE, &f, err);
	if (!ret) {
		file_tune(f, create_opt_bool(c, &vmdk_format, "nocow"), 0);
		ret = file_truncate(f, 0);
		if (!ret)
			ret = extent_write(p, f, len);
		if (!ret)
			ret = file_flush(f);
		file_close(f);
		if (ret) {
			err_errno(err, ret, "%s: making the extent '%s'", c->name, path);
			if (!existed)
				file_remove(c->loop, made);
		}
	}
	free(made);
	free(path);
	return ret;
}

int vmdk_extent_make(struct tapimg *img, const struct vmdk_extent *like, const char *name,
		     uint64_t len, struct tapimg_err *err)
{
	struct create c = { .loop = img->loop, .name = img->path, .file = img->file, .exclusive = true };
	struct vmdk_subformat sub = { .type = like->line->type };
	struct vmdk_params p = { .c = &c, .sub = &sub, .size = len, .grain = like->grain };

	if (like->kind == &vmdk_sparse)
		p.zeroed = vmdk_sparse_of(like)->zeroed;
	return extent_create(&p, name, len, err);
}

/* Those that were made go again. */
static void extents_remove(struct vmdk_params *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char *name = extent_name(p, i);
		char *path = name ? vmdk_name_resolve(p->c->loop, p->c->name, name) : NULL;
		char *made = path ? target_companion(p->c->loop, p->c->file->name, path) : NULL;

		if (made)
			file_remove(p->c->loop, made);
		free(name);
		free(path);
		free(made);
	}
}

static int create_beside(struct vmdk_params *p, struct tapimg_err *err)
{
	uint64_t split = p->split ? p->split : MAX(p->size, 1ULL);
	unsigned n = MAX(div_up(p->size, split), 1ULL), i;
	struct vmdk_text t = { 0 };
	int ret = 0;

	vmdk_text_head(&t, p, p->sub->name);
	for (i = 0; i < n && !ret; i++) {
		uint64_t len = MIN(split, p->size - i * split);
		char *name = extent_name(p, i);

		if (!name) {
			ret = err_errno(err, -ENOMEM, "%s", p->c->name);
			break;
		}
		if (strpbrk(name, "\"\r\n"))
			ret = err_set(err, -EINVAL, "%s: the name of an extent must not have a quote or a line "
				      "break in it", p->c->name);
		if (!ret)
			ret = extent_create(p, name, len, err);
		vmdk_text_extent(&t, len, p->sub->type, name);
		free(name);
	}
	vmdk_text_tail(&t, p);
	if (!ret && t.failed)
		ret = err_errno(err, -ENOMEM, "%s", p->c->name);
	if (!ret)
		ret = file_pwrite(p->c->file, t.p, t.len, 0);
	if (ret)
		extents_remove(p, i ? i - 1 : 0);
	free(t.p);
	return ret;
}

static int create_inside(struct vmdk_params *p, struct tapimg_err *err)
{
	const char *base = base_name(p->c->name);
	struct vmdk_text t = { 0 };
	int ret;

	if (strpbrk(base, "\"\r\n"))
		base = "disk.vmdk";	/* nobody looks the name of this extent up */
	if (p->sub->stream)
		base = "generated-stream.vmdk";
	vmdk_text_head(&t, p, p->sub->name);
	vmdk_text_extent(&t, p->size, p->sub->type, base);
	vmdk_text_tail(&t, p);
	if (t.failed)
		ret = -ENOMEM;
	else if (p->sub->stream)
		ret = vmdk_stream_create(p->c, p->size, t.p, t.len);
	else
		ret = sparse_write(p, p->c->file, p->size, &t);
	free(t.p);
	return ret ? err_errno(err, ret, "%s: writing the header and the tables", p->c->name) : 0;
}

int vmdk_create(const struct create *c, struct tapimg_err *err)
{
	struct vmdk_params p;
	int ret = vmdk_params_parse(c, &p, err);

	if (!ret)
		ret = check(&p, err);
	if (!ret)
		ret = parent_cid(&p, err);
	if (ret)
		return ret;
	file_tune(c->file, create_opt_bool(c, &vmdk_format, "nocow"), 0);
	return p.sub->suffix ? create_beside(&p, err) : create_inside(&p, err);
}

/* --------------------------------------------------------------------- measuring */

/* Bytes of whole grains that hold data of @src. */
static int count_grains(const struct vmdk_params *p, struct tapimg *src, uint64_t *bytes,
			struct tapimg_err *err)
{
	uint64_t off = 0, done = 0;	/* grains before @done are counted */
	struct tapimg_status st;

	while (off < src->size) {
		int ret = tapimg_block_status(src, off, src->size - off, 0, &st);

		if (ret)
			return err_errno(err, ret, "%s: looking up byte %" PRIu64, src->name, off);
		off = st.off + st.len;
		if (st.flags & TAPIMG_ST_ZERO || !(st.flags & TAPIMG_ST_DATA))
			continue;
		done = MAX(done, round_down(st.off, p->grain));
		if (off > done) {
			*bytes += round_up(off, p->grain) - done;
			done = round_up(off, p->grain);
		}
	}
	return 0;
}

static uint64_t overhead(const struct vmdk_params *p)
{
	uint64_t split = p->split ? p->split : MAX(p->size, 1ULL), sum = 0;
	struct layout l;

	if (p->sub->type == VMDK_VMFSSPARSE)
		return VC_LEN + round_up(div_up(p->size, p->grain * VC_GTES) * 4, VMDK_SECTOR);
	for (uint64_t off = 0; off < MAX(p->size, 1ULL); off += split) {
		layout_make(&l, MIN(split, p->size - off), p->grain,
			    p->sub->suffix ? 0 : VMDK_DESC_SECTORS);
		sum += l.data * VMDK_SECTOR;
	}
	return sum;
}

int vmdk_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		 struct tapimg_err *err)
{
	struct vmdk_params p;
	uint64_t data = 0, head;
	int ret = vmdk_params_parse(c, &p, err);

	if (!ret)
		ret = check(&p, err);
	if (ret)
		return ret;
	out->bitmaps = UINT64_MAX;
	if (!sub_sparse(&p)) {
		out->required = out->fully_allocated = p.size;
		return 0;
	}
	if (src)
		ret = count_grains(&p, src, &data, err);
	if (p.sub->stream) {		/* if nothing shrinks */
		out->required = vmdk_stream_size(p.size, data / p.grain);
		out->fully_allocated = vmdk_stream_size(p.size, div_up(p.size, p.grain));
		return ret;
	}
	head = overhead(&p);
	out->required = head + data;
	out->fully_allocated = head + round_up(p.size, p.grain);
	if (p.sub->type == VMDK_VMFSSPARSE) {	/* its tables come with the data */
		uint64_t all = div_up(p.size, p.grain * VC_GTES) * VC_GTES * 4;

		out->required += MIN(all, div_up(data, p.grain) * VC_GTES * 4);
		out->fully_allocated += all;
	}
	return ret;
}
