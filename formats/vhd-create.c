/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-create.c - making images, and measuring what one would need
 *
 *	copy of the footer | header | block table | batmap header | batmap | names of the parent | footer
 *
 * in this order, all of it written at once; fixed images are the disk and the footer.  On a device
 * the footer is its last sector.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "crypt.h"
#include "opt.h"
#include "vhd.h"

#define FILL (2 * MiB)

/* Slots and codes as Xen's tools fill them. */
static const uint32_t locator_codes[VHD_LOCATORS_WRITTEN] = { VHD_LOC_MACX, VHD_LOC_W2KU, VHD_LOC_W2RU };

/* -------------------------------------------------------------------- layout */

struct layout {
	struct vhd_footer footer;
	struct vhd_header header;
	struct vhd_batmap_header batmap;
	bool has_batmap;
	uint64_t batmap_header_off, batmap_off, end;
	uint8_t *loc[ARRAY_SIZE(locator_codes)];
	size_t loc_len[ARRAY_SIZE(locator_codes)];
};

static void layout_free(struct layout *y)
{
	for (unsigned i = 0; i < ARRAY_SIZE(locator_codes); i++)
		free(y->loc[i]);
}

static void make_footer(struct vhd_footer *f, const struct vhd_create *c)
{
	memcpy(f->cookie, VHD_COOKIE, 8);
	f->features = VHD_FEATURE_RESERVED;
	f->version = VHD_VERSION;
	f->data_off = c->type == VHD_TYPE_FIXED ? VHD_NO_OFFSET : VHD_SECTOR;
	f->timestamp = vhd_time_now();
	memcpy(f->creator, c->chs ? "qemu" : VHD_CREATOR_TAP, 4);
	f->creator_version = c->chs ? 0x00050003 : VHD_TAP_VERSION;
	if (c->chs)
		memcpy(f->creator_os, "Wi2k", 4);
	f->orig_size = f->cur_size = c->size;
	f->geo = vhd_geometry(c->size / VHD_SECTOR);
	f->type = c->type;
	vhd_uuid_new(f->uuid);
}

/* The last part of the parent's path, as the header has it. */
static int make_parent_name(struct vhd_header *h, const char *path, const char *name,
			    struct tapimg_err *err)
{
	const char *slash = strrchr(path, '/');
	size_t len;
	uint8_t *text = vhd_utf16_encode(slash ? slash + 1 : path, true, &len);

	if (!text || len > sizeof(h->parent_name)) {
		free(text);
		return err_set(err, -EINVAL, "%s: the parent's name '%s' is %s", name, path,
			       text ? "too long for a VHD: 256 characters are allowed" :
			       "not UTF-8, which a VHD cannot store");
	}
	memset(h->parent_name, 0, sizeof(h->parent_name));
	memcpy(h->parent_name, text, len);
	free(text);
	return 0;
}

int vhd_locators_build(struct vhd_header *h, const char *path, uint64_t off, const char *name,
		       uint8_t *bytes[VHD_LOCATORS_WRITTEN], struct tapimg_err *err)
{
	int ret = make_parent_name(h, path, name, err);

	memset(h->loc, 0, sizeof(h->loc));
	for (unsigned i = 0; i < ARRAY_SIZE(locator_codes) && !ret; i++) {
		size_t len = 0, space;
		uint8_t *b = vhd_locator_encode(locator_codes[i], path, &len);

		space = round_up(MAX(len, (size_t)1), VHD_SECTOR);
		bytes[i] = b ? calloc(1, space) : NULL;
		if (bytes[i])
			memcpy(bytes[i], b, len);
		else
			ret = err_set(err, -EINVAL, "%s: the parent's name '%s' cannot be encoded", name,
				      path);
		free(b);
		h->loc[i] = (struct vhd_locator){ locator_codes[i], space, len, 0, off };
		off += space;
	}
	return ret;
}

static int make_layout(struct layout *y, const struct vhd_create *c, const char *name,
		       struct tapimg_err *err)
{
	uint32_t block = c->block_size ? c->block_size : VHD_BLOCK_SIZE;
	struct vhd_header *h = &y->header;
	int ret = 0;

	memset(y, 0, sizeof(*y));
	make_footer(&y->footer, c);
	y->end = c->size;
	if (c->type == VHD_TYPE_FIXED)
		return 0;
	memcpy(h->cookie, VHD_HEADER_COOKIE, 8);
	h->data_off = VHD_NO_OFFSET;
	h->table_off = VHD_SECTOR + VHD_HEADER_SIZE;
	h->version = VHD_HEADER_VERSION;
	h->block_size = block;
	h->max_bat = div_up(MAX(c->size, c->reserve), block);
	y->batmap_header_off = y->end = round_up(h->table_off + 4ULL * h->max_bat, VHD_SECTOR);
	y->has_batmap = !c->no_batmap && !c->chs && block <= VHD_BLOCK_SIZE;
	if (y->has_batmap) {
		memcpy(y->batmap.cookie, VHD_BATMAP_COOKIE, 8);
		y->batmap.off = y->batmap_header_off + VHD_SECTOR;
		y->batmap.sectors = MAX(div_up(div_up(h->max_bat, 8), VHD_SECTOR), 1);
		y->batmap.version = VHD_BATMAP_VERSION;
		y->batmap.checksum = vhd_batmap_sum(NULL, 0, VHD_BATMAP_VERSION);
		y->end = y->batmap.off + (uint64_t)y->batmap.sectors * VHD_SECTOR;
	}
	if (c->hash) {
		y->batmap.has_key = 1;
		memcpy(y->batmap.hash, c->hash, 32);
		if (c->nonce)
			memcpy(y->batmap.nonce, c->nonce, 32);
	}
	if (c->type == VHD_TYPE_DIFF) {
		memcpy(h->parent_uuid, c->parent_uuid, 16);
		h->parent_time = c->parent_time;
		ret = vhd_locators_build(h, c->parent, y->end, name, y->loc, err);
		for (unsigned i = 0; i < ARRAY_SIZE(locator_codes); i++)
			y->end += h->loc[i].space;
	}
	return ret;
}

/* ------------------------------------------------------------------- writing */

static int check_create(const struct file *f, const char *name, const struct vhd_create *c,
			struct tapimg_err *err)
{
	uint32_t block = c->block_size ? c->block_size : VHD_BLOCK_SIZE;

	if (MAX(c->size, c->reserve) > VHD_MAX_SIZE)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is more than a VHD can have (2040 "
			       "GiB)", name, MAX(c->size, c->reserve));
	if (!is_pow2(block) || block < VHD_BLOCK_MIN || block > VHD_BLOCK_MAX)
		return err_set(err, -EINVAL, "%s: a block size of %u is not a power of two from 4096 to 64M",
			       name, block);
	if (c->type != VHD_TYPE_FIXED &&
	    div_up(MAX(c->size, c->reserve), block) > VHD_MAX_SIZE / VHD_BLOCK_SIZE * 16)
		return err_set(err, -EINVAL, "%s: with a block size of %u the table of a disk of this size "
			       "would be too large", name, block);
	if (c->hash && (c->no_batmap || c->chs || block > VHD_BLOCK_SIZE || c->type == VHD_TYPE_FIXED))
		return err_set(err, -EINVAL, "%s: a key hash needs a batmap", name);
	return 0;
}

/* Table, batmap and names in one buffer; then header and copy of the footer, which make it an image. */
static int write_tables(struct file *f, struct layout *y)
{
	const struct vhd_header *h = &y->header;
	uint64_t start = h->table_off, len = y->end - start;
	uint8_t *buf = file_buf(len), head[VHD_SECTOR + VHD_HEADER_SIZE];
	int ret;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, len);
	memset(buf, 0xff, y->batmap_header_off - start);
	if (y->has_batmap)
		vhd_batmap_build(&y->batmap, buf + (y->batmap_header_off - start));
	for (unsigned i = 0; i < ARRAY_SIZE(locator_codes); i++)
		if (y->loc[i])
			memcpy(buf + (h->loc[i].off - start), y->loc[i], h->loc[i].space);
	ret = file_pwrite(f, buf, len, start);
	free(buf);
	if (ret)
		return ret;
	vhd_footer_build(&y->footer, head);
	vhd_header_build(&y->header, head + VHD_SECTOR);
	return file_pwrite(f, head, sizeof(head), 0);
}

int vhd_zero_fill(struct file *f, uint64_t off, uint64_t end)
{
	uint8_t *buf = file_buf(FILL);
	int ret = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, 0, FILL);
	for (; off < end && !ret; off += FILL)
		ret = file_pwrite(f, buf, MIN(FILL, end - off), off);
	free(buf);
	return ret;
}

static int write_fixed(struct file *f, const struct vhd_create *c)
{
	if (c->zero)
		return vhd_zero_fill(f, 0, c->size);
	if (c->falloc && c->size)
		return file_prealloc(f, 0, c->size);
	/* no bytes that a device held before */
	return f->block_dev ? file_zero(f, 0, c->size, IO_MAY_UNMAP) : 0;
}

int vhd_write_new(struct file *f, const char *name, const struct vhd_create *c,
		  struct tapimg_err *err)
{
	uint8_t buf[VHD_SECTOR];
	struct layout y;
	uint64_t off;
	int ret = check_create(f, name, c, err);

	if (ret)
		return ret;
	ret = make_layout(&y, c, name, err);
	if (ret)
		goto out;
	off = f->block_dev ? round_down(f->size, VHD_SECTOR) - VHD_SECTOR : y.end;
	if (f->block_dev && f->size < y.end + VHD_SECTOR) {
		ret = err_set(err, -ENOSPC, "%s: the device has %" PRIu64 " bytes, but %" PRIu64
			      " are needed", name, f->size, y.end + VHD_SECTOR);
		goto out;
	}
	ret = c->type == VHD_TYPE_FIXED ? write_fixed(f, c) : write_tables(f, &y);
	if (!ret) {
		vhd_footer_build(&y.footer, buf);
		ret = file_pwrite(f, buf, VHD_SECTOR, off);
	}
	if (ret)
		err_errno(err, ret, "%s: writing the new image", name);
out:
	layout_free(&y);
	return ret;
}

/* --------------------------------------------------------- the driver's create */

const struct tapimg_opt_desc vhd_opts[] = {
	{ "size", "size", NULL, "virtual size", TAPIMG_OPT_CREATE },
	{ "backing_file", "str", NULL, "parent of a differencing image, as it is stored",
	  TAPIMG_OPT_CREATE },
	{ "backing_fmt", "str", NULL, "format of the parent", TAPIMG_OPT_CREATE },
	{ "subformat", "dynamic|fixed", "dynamic", "grow with the data, or hold all of the disk",
	  TAPIMG_OPT_CREATE },
	{ "block_size", "size", "2M", "unit of allocation, a power of two", TAPIMG_OPT_CREATE },
	{ "force_size", "on|off", "on", "exactly this size; off: rounded up to one that the geometry "
	  "can express, for Virtual PC", TAPIMG_OPT_CREATE },
	{ "reserve_size", "size", NULL, "room in the tables for growing up to this size",
	  TAPIMG_OPT_CREATE },
	{ "batmap", "on|off", "on", "the map of full blocks that Xen's tools keep", TAPIMG_OPT_CREATE },
	{ "encrypt.key-secret", "str", NULL, "encipher with AES-XTS: id of the key of 32 or 64 bytes (see "
	  "--object)", TAPIMG_OPT_CREATE },
	{ "preallocation", "off|falloc|full", "off", "fixed: allocate space, or write zeroes, in advance",
	  TAPIMG_OPT_CREATE },
	{ 0 },
};

static int create_params(const struct create *c, struct vhd_create *p, struct tapimg_err *err)
{
	uint64_t block = create_opt_size(c, &vhd_format, "block_size");
	int prealloc = create_opt_enum(c, &vhd_format, "preallocation");

	memset(p, 0, sizeof(*p));
	p->type = create_opt_enum(c, &vhd_format, "subformat") ? VHD_TYPE_FIXED : VHD_TYPE_DYNAMIC;
	p->chs = !create_opt_bool(c, &vhd_format, "force_size");
	p->size = p->chs ? vhd_geometry_size(c->size) : round_up(c->size, VHD_SECTOR);
	p->reserve = create_opt_size(c, &vhd_format, "reserve_size");
	p->no_batmap = !create_opt_bool(c, &vhd_format, "batmap");
	p->block_size = MIN(block, UINT32_MAX);
	p->falloc = prealloc == 1;
	p->zero = prealloc == 2;
	if (!block)
		return err_set(err, -EINVAL, "%s: a block size of 0 is not a power of two from 4096 to 64M",
			       c->name);
	if (p->type != VHD_TYPE_FIXED && prealloc)
		return err_set(err, -ENOTSUP, "%s: preallocation is for fixed images", c->name);
	if (p->type == VHD_TYPE_FIXED && (c->backing || p->reserve ||
					  create_opt(c, "block_size")))
		return err_set(err, -EINVAL, "%s: a fixed image has no %s", c->name,
			       c->backing ? "backing file" : "blocks");
	if (p->reserve && p->reserve < p->size)
		return err_set(err, -EINVAL, "%s: reserve_size is smaller than the size", c->name);
	if (c->backing && c->backing_img && p->chs)
		p->size = MAX(p->size, c->size);
	return 0;
}

/* Whom the new image is a child of: what is asked for when it is opened. */
static int create_parent(const struct create *c, struct vhd_create *p, struct tapimg_err *err)
{
	p->type = VHD_TYPE_DIFF;
	return vhd_parent_identity(c->name, c->backing_format, c->backing_img, p->parent_uuid,
				   &p->parent_time, err);
}

int vhd_parent_identity(const char *name, const char *format, struct tapimg *parent,
			uint8_t uuid[16], uint32_t *time, struct tapimg_err *err)
{
	struct stat st;

	*time = 0;
	if (parent && !stat(parent->path, &st) && st.st_mtime > VHD_EPOCH)
		*time = st.st_mtime - VHD_EPOCH;
	if (parent)
		format = parent->fmt->name;
	if (!format)
		return err_set(err, -EINVAL, "%s: the parent's format must be given", name);
	if (strcmp(format, "vhd") && strcmp(format, "vpc"))
		return vhd_parent_uuid_of(format, uuid) ?
		       err_set(err, -EINVAL, "%s: a parent of format %s cannot be named", name, format) : 0;
	if (!parent)
		return err_set(err, -EINVAL, "%s: a VHD keeps the UUID of its parent, which therefore has to "
			       "be looked at", name);
	memcpy(uuid, vhd_of(parent)->look.footer.uuid, 16);
	return 0;
}

struct key {
	uint8_t nonce[32], hash[32];
};

/* The hash of the key that the data will be enciphered with; the key itself is not stored. */
static int create_key(const struct create *c, struct vhd_create *p, struct key *k,
		      struct tapimg_err *err)
{
	uint8_t key[VHD_KEY_MAX + 1];
	int ret, n;

	if (!create_opt(c, "encrypt.key-secret"))
		return 0;
	n = create_secret(c, "vhd", create_opt(c, "encrypt.key-secret"), key, sizeof(key), err);
	if (n < 0)
		return n;
	vhd_uuid_new(k->nonce);
	vhd_uuid_new(k->nonce + 16);
	ret = vhd_key_hash(k->nonce, key, n, k->hash, err);
	crypt_wipe(key, sizeof(key));
	p->nonce = k->nonce;
	p->hash = k->hash;
	return ret ? err_prefix(err, ret, "%s", c->name) : 0;
}

int vhd_create(const struct create *c, struct tapimg_err *err)
{
	struct vhd_create p;
	char *path = NULL;
	struct key k;
	int ret = create_params(c, &p, err);

	if (!ret)
		ret = create_key(c, &p, &k, err);

	if (!ret && c->backing) {
		ret = create_parent(c, &p, err);
		path = vhd_stored_path(c->backing);
		p.parent = path;
		if (!ret && !path)
			ret = err_errno(err, -ENOMEM, "%s", c->name);
	}
	if (!ret)
		ret = vhd_write_new(c->file, c->name, &p, err);
	free(path);
	return ret;
}

/* ------------------------------------------------------------------- measure */

/* Blocks of @src that hold anything but zeroes. */
static int count_blocks(struct tapimg *src, uint32_t block, uint64_t *n)
{
	uint64_t off = 0, last = UINT64_MAX;

	while (off < src->size) {
		struct tapimg_status st;
		int ret = tapimg_block_status(src, off, src->size - off, 0, &st);

		if (ret)
			return ret;
		if (st.flags & TAPIMG_ST_DATA && !(st.flags & TAPIMG_ST_ZERO)) {
			uint64_t a = off / block, b = (off + st.len - 1) / block;

			*n += b - a + (a != last);
			last = b;
		}
		off += st.len;
	}
	return 0;
}

/* Of the file, with @n blocks in it. */
static uint64_t image_end(const struct layout *y, uint64_t n)
{
	uint64_t bitmap = vhd_bitmap_len(y->header.block_size), block = y->header.block_size;
	uint64_t data = round_up(y->end + bitmap, VHD_ALIGN);

	if (!n)
		return y->end + VHD_SECTOR;
	return data + (n - 1) * round_up(bitmap + block, VHD_ALIGN) + block + VHD_SECTOR;
}

int vhd_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		struct tapimg_err *err)
{
	struct vhd_create p;
	struct layout y;
	uint64_t blocks = 0;
	int ret = create_params(c, &p, err);

	if (!ret)
		ret = check_create(NULL, c->name, &p, err);
	if (!ret)
		ret = make_layout(&y, &p, c->name, err);
	if (ret)
		return ret;
	out->bitmaps = UINT64_MAX;
	out->required = out->fully_allocated = y.end + VHD_SECTOR;
	if (p.type == VHD_TYPE_FIXED)
		return 0;
	if (src)
		ret = count_blocks(src, p.block_size, &blocks);
	if (ret)
		return err_errno(err, ret, "%s: looking for its data", src->name);
	out->required = image_end(&y, blocks);
	out->fully_allocated = image_end(&y, div_up(p.size, p.block_size));
	return 0;
}
