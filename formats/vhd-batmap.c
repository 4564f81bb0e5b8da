/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-batmap.c - the batmap of Xen's tools: which blocks have all their sectors
 *
 * It lives in memory and is written when the image is closed, with its checksum in the header before
 * it.  A bit that is missing costs a look at the bitmap; one that is wrong would show sectors that are
 * not there, so a map is used only if its sum is right, and a bit only for a block that the table has.
 * Bits are never taken back while the block stays: its sectors stay.  An image whose map shares bytes
 * with a block is not opened for writing, for they may be the guest's; check puts the map elsewhere.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

#define MAP_MAX 32768		/* sectors: 128 million blocks */

static uint64_t map_bytes(const struct vhd *v)
{
	return div_up(v->entries, 8);
}

uint64_t vhd_batmap_summed(const struct vhd_footer *f, const struct vhd_batmap_header *b)
{
	uint64_t len = MAX(div_up(f->cur_size >> 24, VHD_SECTOR), 1) * VHD_SECTOR;

	return MIN(len, (uint64_t)b->sectors * VHD_SECTOR);
}

/* The map's place, as far as it is one. */
static bool map_placed(const struct vhd *v, const struct vhd_look *l)
{
	const struct vhd_batmap_header *b = &l->batmap;
	uint64_t len = (uint64_t)b->sectors * VHD_SECTOR;

	return (b->version == VHD_BATMAP_VERSION || b->version == VHD_BATMAP_V1) &&
	       b->off % VHD_SECTOR == 0 && b->off >= VHD_SECTOR && len >= map_bytes(v) &&
	       checked_range(b->off, len, l->eof) && !vhd_look_heads(l, b->off, len) &&
	       (b->off >= l->batmap_header_off + VHD_SECTOR || b->off + len <= l->batmap_header_off);
}

void vhd_batmap_clear(struct vhd *v, uint32_t blk)
{
	if (!v->batmap || blk >= (uint64_t)v->look.batmap.sectors * VHD_SECTOR * 8 ||
	    !vhd_bit(v->batmap, blk))
		return;
	vhd_bit_set(v->batmap, blk, false);
	v->batmap_dirty = true;
}

void vhd_batmap_drop(struct vhd *v)
{
	free(v->batmap);
	v->batmap = NULL;
	v->batmap_dirty = false;
}

const char *vhd_batmap_bad(const struct vhd *v)
{
	const struct vhd_batmap_header *b = &v->look.batmap;

	if (v->batmap || !v->look.has_batmap)
		return NULL;
	if (b->version != VHD_BATMAP_VERSION && b->version != VHD_BATMAP_V1)
		return "unsupported batmap version";
	if ((uint64_t)b->sectors * VHD_SECTOR < map_bytes(v))
		return "batmap-BAT size mismatch";
	return map_placed(v, &v->look) ? "invalid checksum" : "invalid batmap offset";
}

bool vhd_batmap_renew(struct tapimg *img)
{
	struct vhd *v = vhd_of(img);
	const struct vhd_batmap_header *b = &v->look.batmap;
	bool behind = b->off == v->look.batmap_header_off + VHD_SECTOR && b->sectors <= MAP_MAX &&
		      (uint64_t)b->sectors * VHD_SECTOR >= map_bytes(v) &&
		      (b->version == VHD_BATMAP_VERSION || b->version == VHD_BATMAP_V1);

	/* a file that was cut inside of it is made longer */
	if (!v->look.has_batmap || !(behind || map_placed(v, &v->look)))
		return false;
	free(v->batmap);
	v->batmap = calloc(v->look.batmap.sectors, VHD_SECTOR);
	v->batmap_dirty = v->batmap != NULL;
	return v->batmap_dirty;
}

int vhd_batmap_load(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct vhd_look *l = &v->look;
	uint64_t len;
	uint8_t *map;
	int ret;

	vhd_batmap_drop(v);
	if (!l->has_batmap || !map_placed(v, l))
		return 0;
	len = (uint64_t)l->batmap.sectors * VHD_SECTOR;
	map = file_buf(len);
	if (!map)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = file_pread(img->file, map, len, l->batmap.off);
	if (!ret && vhd_batmap_sum(map, vhd_batmap_summed(&l->footer, &l->batmap),
				   l->batmap.version) == l->batmap.checksum) {
		v->batmap = map;
	} else {
		free(map);
		if (!ret && img->flags & TAPIMG_RDWR && !(img->flags & TAPIMG_CHECK))
			vhd_batmap_renew(img);
	}
	return ret ? err_errno(err, ret, "%s: reading the batmap at %" PRIu64, img->name, l->batmap.off)
		   : 0;
}

int vhd_batmap_store(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct vhd_batmap_header *h = &v->look.batmap;
	uint64_t len = (uint64_t)h->sectors * VHD_SECTOR;
	uint8_t *buf;
	int ret;

	if (!v->batmap || !v->batmap_dirty)
		return 0;
	h->checksum = vhd_batmap_sum(v->batmap, vhd_batmap_summed(&v->look.footer, h), h->version);
	/* one write where they lie together, as they do in images of all known writers */
	buf = file_buf(VHD_SECTOR + len);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", img->name);
	vhd_batmap_build(h, buf);
	memcpy(buf + VHD_SECTOR, v->batmap, len);
	if (h->off - v->look.batmap_header_off == VHD_SECTOR) {
		ret = file_pwrite(img->file, buf, VHD_SECTOR + len, v->look.batmap_header_off);
	} else {
		ret = file_pwrite(img->file, buf + VHD_SECTOR, len, h->off);
		if (!ret)
			ret = file_pwrite(img->file, buf, VHD_SECTOR, v->look.batmap_header_off);
	}
	free(buf);
	if (ret)
		return err_errno(err, ret, "%s: writing the batmap", img->name);
	v->batmap_dirty = false;
	return 0;
}
