/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-admin.c - administrative operations: marks, parent, emptying, filling
 *
 * The image is idle and settled.  What fits into one sector is one write; all else goes the way of
 * vhd-switch.c.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

int vhd_reload(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct vhd_look l;
	int ret = v->fixed ? 0 : vhd_batmap_store(img, err);

	if (ret)
		return ret;
	ret = file_refresh(img->file);
	if (ret)
		return err_errno(err, ret, "%s", img->name);
	ret = vhd_look(img->file, v->poisoned ? VHD_LOOK_POISON : 0, &l, err);
	if (ret) {
		vhd_look_free(&l);
		return ret;
	}
	vhd_look_free(&v->look);
	v->look = l;
	if (img->meta)
		meta_drop(img->meta);
	ret = vhd_geometry_set(img, err);
	if (!ret && !v->fixed)
		ret = vhd_batmap_load(img, err);
	if (!ret && !v->fixed && !(img->flags & TAPIMG_CHECK))
		ret = vhd_space_scan(img, err);
	v->footer_moved = !v->fixed && !v->look.has_primary;
	return ret;
}

/* ------------------------------------------------------------------- footers */

/* The copy at 0, or the only one of a fixed disk. */
static int write_first(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint8_t buf[VHD_SECTOR];
	int ret;

	if (vhd_uuid_zero(v->look.footer.uuid))
		vhd_uuid_new(v->look.footer.uuid);
	vhd_footer_build(&v->look.footer, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, v->fixed ? v->look.primary_off : 0);
	if (!ret)
		ret = file_flush(img->file);
	if (ret)
		return err_errno(err, ret, "%s: writing the footers", img->name);
	if (!v->fixed) {
		v->look.copy = v->look.footer;
		v->look.has_copy = true;
		v->footer_moved = true;
	}
	return 0;
}

static int write_second(struct tapimg *img, struct tapimg_err *err)
{
	int ret = vhd_of(img)->fixed ? 0 : vhd_space_end(img, err);

	if (ret)
		return ret;
	ret = file_flush(img->file);
	return ret ? err_errno(err, ret, "%s: writing the footers", img->name) : 0;
}

int vhd_write_footers(struct tapimg *img, struct tapimg_err *err)
{
	int ret = write_first(img, err);

	return ret ? ret : write_second(img, err);
}

int vhd_set_hidden(struct tapimg *img, uint8_t value, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct tapimg_err full = { 0 };
	int ret;

	v->look.footer.hidden = value;
	ret = write_first(img, err);
	if (ret)
		return ret;
	ret = write_second(img, &full);
	if (ret == -ENOSPC && value && !v->fixed) {
		/* a full volume can be marked all the same, for that is how it gets deleted */
		v->footer_moved = false;
		return 0;
	}
	return ret ? err_set(err, ret, "%s", full.text) : 0;
}

/* -------------------------------------------------------------------- batmap */

static int write_batmap_header(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint8_t buf[VHD_SECTOR];
	int ret;

	vhd_batmap_build(&v->look.batmap, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, v->look.batmap_header_off);
	if (!ret)
		ret = file_flush(img->file);
	return ret ? err_errno(err, ret, "%s: writing the batmap's header", img->name) : 0;
}

static int want_batmap(struct tapimg *img, const char *what, struct tapimg_err *err)
{
	if (!vhd_of(img)->fixed && vhd_of(img)->look.has_batmap)
		return 0;
	return err_set(err, -ENOTSUP, "%s: has no batmap, whose header would hold the %s", img->name,
		       what);
}

int vhd_set_marker(struct tapimg *img, uint8_t value, struct tapimg_err *err)
{
	int ret = want_batmap(img, "marker", err);

	if (ret)
		return ret;
	vhd_of(img)->look.batmap.marker = value;
	return write_batmap_header(img, err);
}

int vhd_set_key_hash(struct tapimg *img, const uint8_t nonce[32], const uint8_t hash[32],
		     struct tapimg_err *err)
{
	struct vhd_batmap_header *b = &vhd_of(img)->look.batmap;
	int ret = want_batmap(img, "key hash", err);

	if (ret)
		return ret;
	b->has_key = 1;
	memcpy(b->nonce, nonce, 32);
	memcpy(b->hash, hash, 32);
	return write_batmap_header(img, err);
}

/* -------------------------------------------------------------------- parent */

static int next_parent(struct vhd_next *n, const char *name, const char *path,
		       const uint8_t uuid[16], uint32_t time, struct tapimg_err *err)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		free(n->bytes[i]);
		n->bytes[i] = NULL;
	}
	memset(n->header.loc, 0, sizeof(n->header.loc));
	memset(n->header.parent_name, 0, sizeof(n->header.parent_name));
	memset(n->header.parent_uuid, 0, 16);
	n->header.parent_time = 0;
	n->footer.type = path ? VHD_TYPE_DIFF : VHD_TYPE_DYNAMIC;
	if (!path)
		return 0;
	memcpy(n->header.parent_uuid, uuid, 16);
	n->header.parent_time = time;
	return vhd_locators_build(&n->header, path, 0, name, n->bytes, err);
}

int vhd_set_parent(struct tapimg *img, const char *path, const uint8_t uuid[16], uint32_t time,
		   struct tapimg_err *err)
{
	struct vhd_next n;
	int ret;

	if (vhd_of(img)->fixed)
		return err_set(err, -ENOTSUP, "%s: a fixed image has no parent", img->name);
	ret = vhd_next_load(img, &n, err);
	if (!ret)
		ret = next_parent(&n, img->name, path, uuid, time, err);
	if (!ret)
		ret = vhd_switch(img, &n, err);
	vhd_next_free(&n);
	return ret;
}

/* The parent's UUID and time are its file's to say. */
static int look_at_parent(struct tapimg *img, const char *path, const char *format,
			  uint8_t uuid[16], uint32_t *time, struct tapimg_err *err)
{
	struct tapimg_open_opts o = {
		.format = format, .flags = TAPIMG_SHARE | TAPIMG_NO_IO | TAPIMG_NO_BACKING,
		.gate = img->opts.gate, .gate_arg = img->opts.gate_arg,
	};
	struct tapimg *parent = NULL;
	char *full = name_resolve(img->path, path);
	int ret = full ? 0 : err_errno(err, -ENOMEM, "%s", img->name);

	if (!ret)
		ret = image_gate(&o, TAPIMG_ROLE_BACKING, img->path, full, err);
	if (!ret) {
		ret = tapimg_open(img->loop, full, &o, &parent, err);
		if (ret)
			err_prefix(err, ret, "%s: its new parent", img->name);
	}
	if (!ret)
		ret = vhd_parent_identity(img->name, format, parent, uuid, time, err);
	tapimg_close(parent, NULL);
	free(full);
	return ret;
}

int vhd_set_backing(struct tapimg *img, const char *name, const char *format,
		    struct tapimg_err *err)
{
	uint8_t uuid[16] = { 0 };
	uint32_t time = 0;
	char *path = NULL, *copy = NULL, *fmt = NULL;
	int ret = 0;

	if (name) {
		path = vhd_stored_path(name);
		ret = path ? look_at_parent(img, path, format, uuid, &time, err) :
			     err_errno(err, -ENOMEM, "%s", img->name);
	}
	if (!ret)
		ret = vhd_set_parent(img, path, uuid, time, err);
	if (!ret && name) {
		copy = strdup(path);
		fmt = strdup(vhd_look_parent_format(&vhd_of(img)->look));
	}
	if (!ret) {
		free(img->backing_name);
		free(img->backing_fmt);
		img->backing_name = copy;
		img->backing_fmt = fmt;
	}
	free(path);
	return ret;
}

/* -------------------------------------------------------- all blocks, or none */

int vhd_make_empty(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t len = 4ULL * v->look.header.max_bat;
	uint8_t *buf;
	int ret;

	if (v->fixed)
		return err_set(err, -ENOTSUP, "%s: a fixed image cannot be emptied", img->name);
	buf = file_buf(len);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", img->name);
	/* first the hints, then what they are about; a part of the table is as good as all of it */
	if (v->batmap) {
		memset(v->batmap, 0, (uint64_t)v->look.batmap.sectors * VHD_SECTOR);
		v->batmap_dirty = true;
	}
	ret = vhd_batmap_store(img, err);
	if (!ret) {
		memset(buf, 0xff, len);
		ret = file_pwrite(img->file, buf, len, v->table_off);
		if (!ret)
			ret = file_flush(img->file);
		if (ret)
			err_errno(err, ret, "%s: emptying the block table", img->name);
	}
	free(buf);
	if (!ret)
		ret = vhd_reload(img, err);
	v->footer_moved = true;
	if (!ret)
		ret = vhd_space_end(img, err);
	return ret ? ret : file_flush(img->file);
}

int vhd_count_blocks(struct tapimg *img, uint32_t *n, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct vhd_table t = { 0 };
	int ret;

	*n = 0;
	if (v->fixed)
		return 0;
	ret = vhd_table_read(&v->look, &t, err);
	for (uint32_t i = 0; i < MIN(t.n, v->entries) && !ret; i++)
		*n += t.entry[i] != VHD_UNUSED;
	free(t.entry);
	return ret;
}

/* What is read there now becomes this image's own. */
static int fill_block(struct tapimg *img, uint64_t off, uint64_t len, void *buf)
{
	int ret = tapimg_pread(img, buf, len, off);

	return ret ? ret : tapimg_pwrite(img, buf, len, off);
}

/* A place with a full bitmap, of zeroes. */
static int fill_place(struct tapimg *img, uint32_t *entry, uint8_t *buf)
{
	struct vhd *v = vhd_of(img);
	uint64_t host = vhd_place(v, v->end), end = host + v->bitmap_len + v->block;
	int ret;

	if (end > v->limit || host / VHD_SECTOR >= VHD_UNUSED)
		return -ENOSPC;
	/* where the file has never been it reads as zeroes as soon as it is so long */
	ret = host + v->bitmap_len >= v->clean ? 0 :
	      file_zero(img->file, host + v->bitmap_len, v->block, IO_MAY_UNMAP);
	if (!ret)
		ret = file_pwrite(img->file, buf, v->bitmap_len, host);
	if (ret)
		return ret;
	v->end = end;
	v->clean = MAX(v->clean, end);
	*entry = host / VHD_SECTOR;
	return 0;
}

static int fill_places(struct tapimg *img, uint32_t first, uint32_t end, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint8_t *buf = file_buf(v->bitmap_len);
	struct vhd_next n = { 0 };
	int ret = buf ? vhd_next_load(img, &n, err) : err_errno(err, -ENOMEM, "%s", img->name);

	if (buf) {
		memset(buf, 0, v->bitmap_len);
		memset(buf, 0xff, MAX(v->block / VHD_SECTOR / 8, 1U));
	}
	for (uint32_t i = first; i < end && !ret; i++) {
		if (n.table.entry[i] != VHD_UNUSED)
			continue;
		ret = fill_place(img, &n.table.entry[i], buf);
		if (ret)
			err_errno(err, ret, "%s: allocating block %u", img->name, i);
		else if (n.has_batmap)
			vhd_bit_set(n.map, i, true);
	}
	if (!ret) {
		ret = file_flush(img->file);
		ret = ret ? err_errno(err, ret, "%s: flushing", img->name) : vhd_switch(img, &n, err);
	}
	vhd_next_free(&n);
	free(buf);
	return ret;
}

int vhd_fill(struct tapimg *img, bool bitmaps, uint32_t first, uint32_t count,
	     struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint32_t end = v->entries - first < count ? v->entries : first + count;
	void *buf;
	int ret = 0;

	if (v->fixed || first >= v->entries)
		return 0;
	if (bitmaps)
		return fill_places(img, first, end, err);
	buf = file_buf(v->block);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (uint64_t i = first; i < end && !ret; i++) {
		uint64_t off = i << v->block_bits;

		ret = fill_block(img, off, MIN((uint64_t)v->block, img->size - off), buf);
		if (ret)
			err_errno(err, ret, "%s: filling block %" PRIu64, img->name, i);
	}
	free(buf);
	if (!ret)
		ret = image_settle(img);
	return ret;
}
