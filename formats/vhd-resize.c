/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-resize.c - another size, in either direction
 *
 * Growing: where the table has no room it is made larger first (vhd-switch.c), with the old size; table
 * entries and sectors that an earlier, larger size left behind are dropped; what becomes visible of a longer
 * parent is covered with zeroes; then the footers change, the copy first, in one sector each.
 * Shrinking: first the footers, then what lies beyond is dropped.  After a crash between the two there are
 * blocks that no offset reaches, until the image grows, which drops them.
 *
 * Fixed: the trailer is where the file ends.  Growing writes the new one, durably, before the old one is
 * overwritten with zeroes.  Shrinking writes the new one over guest bytes that are beyond the new end,
 * then cuts the file.  Where a host keeps a file's new length over a crash, but not the bytes that made
 * it so long, growing can leave no trailer at the end: only a journal undoes that (vhd-journal.c).
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

/* Products that go by the geometry are told otherwise where it cannot express the size. */
static void footer_resize(struct vhd_footer *f, uint64_t size)
{
	f->cur_size = size;
	f->geo = vhd_geometry(size / VHD_SECTOR);
	if (vhd_footer_size(f) != size)
		memcpy(f->creator, "qem2", 4);
}

/* ---------------------------------------------------------------------- fixed */

static int fixed_grow(struct tapimg *img, uint64_t size)
{
	struct vhd *v = vhd_of(img);
	uint64_t old = v->look.primary_off;
	uint8_t buf[VHD_SECTOR];
	int ret;

	vhd_footer_build(&v->look.footer, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, size);
	if (!ret)
		ret = file_flush(img->file);
	if (!ret)
		ret = file_zero(img->file, old, MIN(VHD_SECTOR, size - old), 0);
	if (!ret && img->file->block_dev && size > old + VHD_SECTOR)
		ret = file_zero(img->file, old, size - old, IO_MAY_UNMAP);
	return ret;
}

static int fixed_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
			struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint8_t buf[VHD_SECTOR];
	uint64_t old = img->size;
	int ret;

	if (img->file->block_dev && size + VHD_SECTOR > img->file->size)
		return err_set(err, -ENOSPC, "%s: the device has %" PRIu64 " bytes, but %" PRIu64
			       " are needed", img->name, img->file->size, size + VHD_SECTOR);
	footer_resize(&v->look.footer, size);
	if (size > old) {
		ret = fixed_grow(img, size);
	} else {
		vhd_footer_build(&v->look.footer, buf);
		ret = file_pwrite(img->file, buf, VHD_SECTOR, size);
		if (!ret)
			ret = file_flush(img->file);
		if (!ret && !img->file->block_dev)
			ret = file_truncate(img->file, size + VHD_SECTOR);
	}
	if (!ret && prealloc == TAPIMG_PREALLOC_FALLOC)
		ret = file_prealloc(img->file, old, size - old);
	if (!ret)
		ret = file_flush(img->file);
	if (ret)
		return err_errno(err, ret, "%s: resizing", img->name);
	v->look.primary_off = img->size = size;
	if (prealloc == TAPIMG_PREALLOC_FULL && size > old)
		ret = vhd_zero_fill(img->file, old, size);
	return ret ? err_errno(err, ret, "%s: writing zeroes", img->name) : 0;
}

/* --------------------------------------------------------------------- sparse */

/* Drops blocks [first, end) of the table, which no offset of the disk reaches. */
static int drop_blocks(struct tapimg *img, uint32_t first, uint32_t end, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t len = 4ULL * (end - first);
	uint8_t *buf;
	bool any = false;
	int ret;

	if (first >= end)
		return 0;
	buf = file_buf(len);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = file_pread(img->file, buf, len, v->table_off + 4ULL * first);
	for (uint64_t i = 0; i < len && !ret; i += 4)
		any |= get_be32(buf + i) != VHD_UNUSED;
	for (uint32_t i = first; i < end && !ret; i++)
		vhd_batmap_clear(v, i);
	if (!ret && any) {
		memset(buf, 0xff, len);
		ret = file_pwrite(img->file, buf, len, v->table_off + 4ULL * first);
		if (!ret)
			ret = file_flush(img->file);
		v->footer_moved = true;
	}
	free(buf);
	return ret ? err_errno(err, ret, "%s: dropping blocks beyond the end", img->name) : 0;
}

static int write_copy(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);

	footer_resize(&v->look.footer, size);
	return vhd_write_footers(img, err);
}

static int sparse_shrink(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	int ret = write_copy(img, size, err);

	if (!ret)
		ret = vhd_reload(img, err);
	if (!ret)
		ret = drop_blocks(img, v->entries, v->look.header.max_bat, err);
	v->batmap_dirty |= v->batmap != NULL;	/* what is summed has changed */
	if (!ret)
		ret = vhd_reload(img, err);	/* finds the new end */
	v->footer_moved = true;
	return ret;
}

/* A table with room for @blocks. */
static int more_room(struct tapimg *img, uint64_t blocks, struct tapimg_err *err)
{
	struct vhd_next n;
	int ret = vhd_next_load(img, &n, err);
	uint64_t sectors = MAX(div_up(div_up(blocks, 8), VHD_SECTOR), 1);

	if (!ret && n.has_batmap && sectors > n.batmap.sectors) {
		uint8_t *map = realloc(n.map, sectors * VHD_SECTOR);

		if (map) {
			memset(map + (uint64_t)n.batmap.sectors * VHD_SECTOR, 0,
			       (sectors - n.batmap.sectors) * VHD_SECTOR);
			n.map = map;
			n.batmap.sectors = sectors;
		} else {
			ret = err_errno(err, -ENOMEM, "%s", img->name);
		}
	}
	n.header.max_bat = blocks;
	if (!ret)
		ret = vhd_switch(img, &n, err);
	vhd_next_free(&n);
	return ret;
}

static int sparse_grow(struct tapimg *img, uint64_t size, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t blocks = div_up(size, v->block);
	uint32_t cluster = img->cluster;
	int ret = 0;

	if (blocks > v->look.header.max_bat)
		ret = more_room(img, blocks, err);
	if (!ret)
		ret = drop_blocks(img, v->entries, blocks, err);
	if (ret)
		return ret;
	meta_drop(img->meta);
	img->cluster = v->block;	/* the last block may have bytes beyond the old end */
	ret = image_grow_zero(img, size, err);
	img->cluster = cluster;
	if (!ret)
		ret = write_copy(img, size, err);
	v->batmap_dirty |= v->batmap != NULL;	/* what is summed has changed */
	return ret ? ret : vhd_reload(img, err);
}

int vhd_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
	       struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t old = img->size;
	int ret;

	size = round_up(size, VHD_SECTOR);
	if (size > VHD_MAX_SIZE && size > old)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is more than a VHD can have (2040 "
			       "GiB)", img->name, size);
	if (v->fixed)
		return prealloc == TAPIMG_PREALLOC_METADATA ?
		       err_set(err, -ENOTSUP, "%s: fixed images have no metadata to preallocate", img->name) :
		       fixed_resize(img, size, prealloc, err);
	if (size > old && vhd_enciphered(v) && !img->crypt && img->backing && img->backing->size > old)
		return err_set(err, -ENOTSUP, "%s: its parent is longer, and what would show of that has to be "
			       "hidden by enciphered zeroes: the key is needed", img->name);
	if (prealloc != TAPIMG_PREALLOC_OFF)
		return err_set(err, -ENOTSUP, "%s: preallocation is for fixed images", img->name);
	ret = size < old ? sparse_shrink(img, size, err) : sparse_grow(img, size, err);
	if (!ret)
		ret = vhd_batmap_store(img, err);
	if (!ret)
		ret = vhd_space_end(img, err);
	if (!ret) {
		ret = file_flush(img->file);
		ret = ret ? err_errno(err, ret, "%s: flushing", img->name) : 0;
	}
	return ret;
}
