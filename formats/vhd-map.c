/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-map.c - looking up: block table, batmap, sector bitmaps
 *
 * A sector is in this image if its block is in the table and its bit is set in the block's bitmap;
 * a bit in the batmap says that all bits of a block are set, which saves the look at the bitmap.
 * What is not here is a hole: the parent's sector, or zeroes.
 */
#include <inttypes.h>

#include "vhd.h"

static bool overlaps(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a < b_end && b < a_end;
}

const char *vhd_entry_check(const struct vhd *v, uint32_t entry, uint64_t limit)
{
	uint64_t host = (uint64_t)entry * VHD_SECTOR, end = host + v->bitmap_len + v->block;

	if (host < VHD_SECTOR)
		return "the block lies over the copy of the footer";
	if (overlaps(host, end, v->header_off, v->header_off + VHD_HEADER_SIZE))
		return "the block lies over the header";
	if (overlaps(host, end, v->table_off, v->table_end))
		return "the block lies over the block table";
	if (!checked_range(host, v->bitmap_len, limit))
		return "the block lies beyond the end of the file";
	return NULL;
}

unsigned vhd_bits_run(const uint8_t *map, unsigned bit, unsigned max, bool *set)
{
	bool first = vhd_bit(map, bit);
	uint64_t same = first ? UINT64_MAX : 0;
	unsigned n = 0;

	*set = first;
	while (n < max) {
		uint64_t diff;
		unsigned at = bit + n, skip = at & 63;

		/* bits before and behind those of interest are found equal and cut off by the sums */
		diff = (get_be64(map + (at >> 6) * 8) ^ same) << skip;
		if (diff)
			return MIN(n + __builtin_clzll(diff), max);
		n += 64 - skip;
	}
	return max;
}

static int map_block(struct tapimg *img, uint64_t off, uint64_t len, uint32_t entry,
		     struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	uint64_t host = (uint64_t)entry * VHD_SECTOR, inside = off & (v->block - 1);
	uint64_t blk = off >> v->block_bits, sector = inside / VHD_SECTOR, skip = off % VHD_SECTOR;
	const char *bad = vhd_entry_check(v, entry, img->file->size);
	bool set = true;

	if (bad)
		return image_corrupt(img, "block %" PRIu64 " is said to be at 0x%" PRIx64 ": %s", blk,
				     host, bad);
	ext->len = MIN(len, v->block - inside);
	if (!v->batmap || !vhd_bit(v->batmap, blk)) {
		const struct mblk *b = meta_get(img->meta, host + sector / 8);
		unsigned bit = sector % (VHD_SECTOR * 8), max = VHD_SECTOR * 8 - bit;

		if (!b)
			return -EAGAIN;
		max = MIN(max, (ext->len + skip + VHD_SECTOR - 1) / VHD_SECTOR);
		max = vhd_bits_run(b->data, bit, max, &set);
		ext->len = MIN(ext->len, (uint64_t)max * VHD_SECTOR - skip);
	}
	if (!set) {
		ext->type = EXT_HOLE;
		return 0;
	}
	ext->type = EXT_DATA;
	ext->flags = EXT_WRITABLE;
	ext->host = host + v->bitmap_len + inside;
	if (!checked_range(ext->host, ext->len, img->file->size))
		return image_corrupt(img, "block %" PRIu64 " at 0x%" PRIx64 " reaches beyond the end of the "
				     "file", blk, host);
	return 0;
}

int vhd_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	uint64_t blk = off >> v->block_bits, at = v->table_off + 4 * blk;
	const struct mblk *b = meta_get(img->meta, at);
	const uint8_t *p, *end;
	uint32_t entry;

	if (!b)
		return -EAGAIN;
	p = b->data + (at & (VHD_SECTOR - 1));
	entry = get_be32(p);
	ext->off = off;
	ext->file = img->file;
	ext->flags = 0;
	if (entry != VHD_UNUSED)
		return map_block(img, off, len, entry, ext);
	ext->type = EXT_HOLE;
	ext->len = v->block - (off & (v->block - 1));
	for (end = b->data + VHD_SECTOR; ext->len < len; ext->len += v->block)
		if ((p += 4) == end || get_be32(p) != VHD_UNUSED)
			break;
	ext->len = MIN(ext->len, len);
	return 0;
}
