/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd.c - the VHD driver: opening, closing, describing
 *
 *	fixed		the disk, then the footer
 *	dynamic and	copy of the footer | header | block table | (Xen: batmap) | (names of the parent) |
 *	differencing	blocks, each a bitmap of sectors and then its data | footer
 *
 * Order of writing (meta.h): bitmaps, then the block table.  The trailer moves behind the blocks
 * when the image is closed; until then, and after a crash, the copy at 0 counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "crypt.h"
#include "vhd.h"

static int vhd_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	struct vhd_footer f;

	if (len < VHD_SECTOR)
		return 0;
	vhd_footer_parse(&f, head);
	return vhd_footer_plausible(&f) && vhd_type_sparse(f.type) ? 100 : 0;
}

/* Fixed disks have nothing but a trailer. */
static int vhd_probe_tail(const uint8_t *tail, uint64_t file_size)
{
	struct vhd_footer f;

	for (unsigned i = 0; i < 2; i++) {	/* 512 bytes, or 511 */
		uint8_t buf[VHD_SECTOR] = { 0 };

		memcpy(buf, tail + i, VHD_SECTOR - i);
		vhd_footer_parse(&f, buf);
		if (vhd_footer_plausible(&f) && (f.type == VHD_TYPE_FIXED || vhd_type_sparse(f.type)))
			return 100;
	}
	return 0;
}

/* ------------------------------------------------------------------- opening */

/* The size that the footer means, if that much is there. */
static int set_size(struct tapimg *img, uint64_t room, struct tapimg_err *err)
{
	const struct vhd_footer *f = &vhd_of(img)->look.footer;
	uint64_t size = round_down(vhd_footer_size(f), VHD_SECTOR);

	if (size > room)
		size = round_down(f->cur_size, VHD_SECTOR);
	if (size > room)
		return err_set(err, -EUCLEAN, "%s: the disk has %" PRIu64 " bytes, but there is room for "
			       "%" PRIu64 " only", img->name, size, room);
	img->size = size;
	return 0;
}

int vhd_geometry_set(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	const struct vhd_look *l = &v->look;
	const struct vhd_header *h = &l->header;
	int ret;

	v->fixed = l->footer.type == VHD_TYPE_FIXED;
	v->diff = l->footer.type == VHD_TYPE_DIFF;
	if (v->fixed)
		return set_size(img, l->primary_off, err);
	v->header_off = l->footer.data_off;
	v->table_off = h->table_off;
	v->table_end = h->table_off + 4ULL * h->max_bat;
	v->block = h->block_size;
	v->block_bits = __builtin_ctz(h->block_size);
	v->bitmap_len = vhd_bitmap_len(h->block_size);
	ret = set_size(img, (uint64_t)h->max_bat << v->block_bits, err);
	if (ret)
		return err_set(err, ret, "%s: VHD size (%" PRIu64 " blocks) exceeds BAT size (%u)",
			       img->name, div_up(l->footer.cur_size, v->block), h->max_bat);
	v->entries = div_up(img->size, v->block);
	return 0;
}

static int release_op(void *arg, uint64_t off, uint64_t len)
{
	return vhd_release(arg, off, len);
}

static void failed_op(void *arg, int err, uint64_t off, const char *what)
{
	image_fail(arg, err, "%s at 0x%" PRIx64 ": %s", what, off, strerror(-err));
}

static int cache_open(struct tapimg *img, struct tapimg_err *err)
{
	static const struct meta_ops ops = { .release = release_op, .failed = failed_op };
	struct vhd *v = vhd_of(img);
	uint64_t total = (uint64_t)v->entries * (4 + v->bitmap_len);
	int ret = meta_new(img->file, VHD_SECTOR, image_cache_size(img, total), &ops, img, &img->meta);

	if (ret)
		return err_errno(err, ret, "%s: metadata cache", img->name);
	img->meta->punch = img->flags & TAPIMG_UNMAP;
	return 0;
}

static int set_parent(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	const char *fmt = vhd_look_parent_format(&v->look);

	if (!v->diff)
		return 0;
	img->backing_name = vhd_look_parent(&v->look, img->path, &img->opts, img->loop);
	if (!img->backing_name)
		return err_set(err, -EUCLEAN, "%s: is a differencing disk, but names no parent that can be "
			       "understood", img->name);
	img->backing_fmt = strdup(fmt);
	return img->backing_fmt ? 0 : err_errno(err, -ENOMEM, "%s", img->name);
}

int vhd_key_hash(const uint8_t nonce[32], const uint8_t *key, size_t len, uint8_t hash[32],
		 struct tapimg_err *err)
{
	uint8_t buf[32 + VHD_KEY_MAX];
	int ret;

	if (len != 32 && len != VHD_KEY_MAX)
		return err_set(err, -EINVAL, "a key of %zu bytes: AES-XTS takes 32 or 64", len);
	memcpy(buf, nonce, 32);
	memcpy(buf + 32, key, len);
	ret = crypt_digest(CRYPT_SHA256, buf, 32 + len, hash, err);
	crypt_wipe(buf, sizeof(buf));
	return ret < 0 ? ret : 0;
}

/* Xen's tools keep a hash of the key in the batmap's header: SHA-256 of the nonce and the key. */
static int check_key(struct tapimg *img, const uint8_t *key, size_t len, struct tapimg_err *err)
{
	const struct vhd_batmap_header *b = &vhd_of(img)->look.batmap;
	uint8_t hash[CRYPT_DIGEST_MAX];
	int ret = vhd_key_hash(b->nonce, key, len, hash, err);

	if (ret)
		return ret;
	if (memcmp(hash, b->hash, sizeof(b->hash)))
		return err_set(err, -EACCES, "%s: the key is not the one that the image is enciphered with",
			       img->name);
	return 0;
}

static int key_open(struct tapimg *img, struct tapimg_err *err)
{
	uint8_t key[VHD_KEY_MAX + 1];
	int n, ret;

	if (!vhd_enciphered(vhd_of(img)) ||
	    img->flags & (TAPIMG_NO_IO | TAPIMG_CHECK | TAPIMG_CIPHERTEXT))
		return 0;
	n = image_secret(img, key, sizeof(key), err);
	if (n < 0)
		return n;
	ret = check_key(img, key, n, err);
	if (!ret)
		ret = crypt_new(CRYPT_AES_XTS_PLAIN, key, n, img->name, &img->crypt, err);
	crypt_wipe(key, sizeof(key));
	return ret;
}

static int vhd_open(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	int ret = vhd_look(img->file, 0, &v->look, err);

	list_init(&v->pending);
	if (!ret)
		ret = vhd_geometry_set(img, err);
	if (ret)
		return ret;
	if (v->fixed) {
		img->fmt = &vhd_fixed_format;
		return 0;
	}
	img->unit = VHD_SECTOR;
	img->cluster = VHD_BLOCK_MIN;
	img->unmap_unit = v->block;
	ret = set_parent(img, err);
	if (!ret)
		ret = cache_open(img, err);
	if (!ret && !(img->flags & TAPIMG_NO_IO))
		ret = vhd_batmap_load(img, err);
	if (!ret)
		ret = key_open(img, err);
	if (!ret && img->flags & TAPIMG_RDWR && !(img->flags & TAPIMG_CHECK))
		ret = vhd_space_scan(img, err);
	/* a trailer that a crash has left behind is made good */
	v->footer_moved = !v->look.has_primary;
	return ret;
}

/* What lies below is open: is it what the image was made over? */
static int vhd_backing_check(struct tapimg *img, struct tapimg_err *err)
{
	const uint8_t *want = vhd_of(img)->look.header.parent_uuid, *have;
	char a[VHD_UUID_TEXT], b[VHD_UUID_TEXT];

	if (img->backing->fmt != &vhd_format && img->backing->fmt != &vhd_fixed_format)
		return 0;
	have = vhd_of(img->backing)->look.footer.uuid;
	if (!memcmp(want, have, 16))
		return 0;
	vhd_uuid_text(want, a);
	vhd_uuid_text(have, b);
	return err_set(err, -EINVAL, "%s: its parent '%s' has the UUID %s, but it was made over %s",
		       img->name, img->backing->name, b, a);
}

static int vhd_close(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	int ret = 0;

	if (img->meta && img->writable && !img->failed && !(img->flags & TAPIMG_CHECK)) {
		ret = vhd_batmap_store(img, err);
		if (!ret)
			ret = vhd_space_end(img, err);
	}
	vhd_pending_end(img);
	meta_destroy(img->meta);
	img->meta = NULL;
	free(v->batmap);
	free(v->free);
	vhd_look_free(&v->look);
	return ret;
}

/* ---------------------------------------------------------------------- info */

struct facts {
	struct tapimg_fact *f;
	unsigned n;
};

static void fact_str(struct facts *f, const char *key, const char *value)
{
	if (value)
		f->f[f->n++] = (struct tapimg_fact){ .key = key, .type = TAPIMG_FACT_STR, .str = value };
}

static void fact_int(struct facts *f, const char *key, int64_t num)
{
	f->f[f->n++] = (struct tapimg_fact){ .key = key, .type = TAPIMG_FACT_INT, .num = num };
}

static const char *info_uuid(struct tapimg *img, const uint8_t uuid[16])
{
	char text[VHD_UUID_TEXT];

	vhd_uuid_text(uuid, text);
	return info_printf(img, "%s", text);
}

/* Four characters of the creator as text: what cannot be printed is left out. */
static const char *info_creator(struct tapimg *img, const char c[4])
{
	char text[5] = "";
	unsigned n = 0;

	for (unsigned i = 0; i < 4; i++)
		if (c[i] > ' ' && c[i] < 127)
			text[n++] = c[i];
	text[n] = 0;
	return info_printf(img, "%s", text);
}

static void info_footer(struct tapimg *img, struct facts *f)
{
	const struct vhd_look *l = &vhd_of(img)->look;
	const struct vhd_footer *ft = &l->footer;

	fact_str(f, "subformat", ft->type == VHD_TYPE_FIXED ? "fixed" :
		 ft->type == VHD_TYPE_DIFF ? "differencing" : "dynamic");
	fact_str(f, "uuid", info_uuid(img, ft->uuid));
	fact_str(f, "creator", info_creator(img, ft->creator));
	fact_str(f, "creator-version", info_printf(img, "%u.%u", ft->creator_version >> 16,
						   ft->creator_version & 0xffff));
	fact_str(f, "geometry", info_printf(img, "%u/%u/%u", ft->geo.cyls, ft->geo.heads, ft->geo.spt));
	fact_int(f, "current-size", ft->cur_size);
	fact_int(f, "original-size", ft->orig_size);
	fact_int(f, "created", (int64_t)ft->timestamp + VHD_EPOCH);
	fact_int(f, "hidden", ft->hidden);
	if (!l->has_primary)
		fact_str(f, "footer", "missing at the end: the copy counts");
}

static void info_sparse(struct tapimg *img, struct facts *f)
{
	const struct vhd_look *l = &vhd_of(img)->look;

	fact_int(f, "block-size", l->header.block_size);
	fact_int(f, "max-blocks", l->header.max_bat);
	if (l->has_batmap) {
		fact_int(f, "marker", l->batmap.marker);
		f->f[f->n++] = (struct tapimg_fact){ .key = "encrypted", .type = TAPIMG_FACT_BOOL,
						     .num = l->batmap.has_key };
	}
	if (l->footer.type != VHD_TYPE_DIFF)
		return;
	fact_str(f, "parent-uuid", info_uuid(img, l->header.parent_uuid));
	fact_int(f, "parent-time", (int64_t)l->header.parent_time + VHD_EPOCH);
	fact_str(f, "parent-name", l->parent_name);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const char *code = vhd_locator_code_name(l->header.loc[i].code);

		if (l->header.loc[i].code && l->loc_name[i])
			fact_str(f, info_printf(img, "locator-%u-%s", i, code ? code + 10 : "unknown"),
				 l->loc_name[i]);
	}
}

static int vhd_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct facts f = { .f = info_alloc(img, 32 * sizeof(*f.f)) };

	if (!f.f)
		return err_errno(err, -ENOMEM, "%s", img->name);
	info_footer(img, &f);
	if (!vhd_of(img)->fixed) {
		info_sparse(img, &f);
		out->cluster_size = vhd_of(img)->block;
		out->encrypted = vhd_enciphered(vhd_of(img));
	}
	out->facts = f.f;
	out->nfacts = f.n;
	return 0;
}

static int fixed_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		     struct extent *ext)
{
	bool data = true;
	int ret;

	*ext = (struct extent){ .off = off, .len = len, .file = img->file, .host = off,
				.type = EXT_DATA, .flags = EXT_WRITABLE };
	if (!(flags & MAP_STATUS))
		return 0;
	ret = file_status(img->file, off, &ext->len, &data);
	if (!ret && !data) {
		ext->type = EXT_ZERO;
		ext->flags = EXT_KEPT;
	}
	return ret;
}

/* Takes the place of vhd_format in an image that turns out to be a fixed disk. */
const struct format vhd_fixed_format = {
	.name		= "vpc",
	.alias		= "vhd",
	.state_size	= sizeof(struct vhd),
	.open		= vhd_open,
	.close		= vhd_close,
	.info		= vhd_info,
	.check		= vhd_check,
	.resize		= vhd_resize,
	.map		= fixed_map,
};

const struct format vhd_format = {
	.name		= "vpc",
	.alias		= "vhd",
	.state_size	= sizeof(struct vhd),
	.opts		= vhd_opts,
	.probe		= vhd_probe,
	.probe_tail	= vhd_probe_tail,
	.create		= vhd_create,
	.measure	= vhd_measure,
	.open		= vhd_open,
	.backing_check	= vhd_backing_check,
	.close		= vhd_close,
	.info		= vhd_info,
	.check		= vhd_check,
	.resize		= vhd_resize,
	.set_backing	= vhd_set_backing,
	.make_empty	= vhd_make_empty,
	.map		= vhd_map,
	.reserve	= vhd_reserve,
	.commit		= vhd_commit,
	.abort		= vhd_abort,
	.unmap		= vhd_unmap,
	.release	= vhd_release,
};
