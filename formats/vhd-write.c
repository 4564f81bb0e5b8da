/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-write.c - changing the mapping: reserve, commit, abort, unmap
 *
 * The unit is a sector.  A write to sectors that are not here yet goes to their place in the block; when
 * the data are written, commit sets their bits.  A block that has no place yet gets one first:
 *
 * V1. It is pending, in memory only, until the first commit in it publishes table entry and bitmap
 *     together; so no crash shows a block without a bitmap, and what was never written leaves no trace.
 * V2. Its data read as zeroes on the disk before anything refers to it: it lies where the file has grown
 *     cleanly, or it is wiped, or one write fills it as a whole.  So neither old bytes of a device nor those
 *     of a block that was there before appear, not even to readers that do not look at bitmaps.
 * V3. Bits of a block on the disk are only ever set.  A block is dropped as a whole, where no parent can
 *     show through; less than that is overwritten with zeroes.
 * V4. Its data begin at a multiple of 4096.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

struct vhd_pending {
	struct list node;
	uint32_t blk;
	uint64_t host;
	unsigned users;			/* extents reserved in it and neither committed nor given back */
	bool zero;			/* V2 holds */
	struct meta_wipe *wipe;		/* it is being made to hold */
};

static uint64_t block_total(const struct vhd *v)
{
	return (uint64_t)v->bitmap_len + v->block;
}

/* --------------------------------------------------------------------- places */

uint64_t vhd_place(const struct vhd *v, uint64_t from)
{
	return round_up(from + v->bitmap_len, VHD_ALIGN) - v->bitmap_len;	/* V4 */
}

bool vhd_place_push(struct vhd *v, uint64_t host)
{
	if (v->nfree == v->free_size) {
		uint32_t size = MAX(2 * v->free_size, 64U);
		uint64_t *p = realloc(v->free, size * sizeof(*p));

		if (!p)
			return false;	/* leaked until the image is opened again */
		v->free = p;
		v->free_size = size;
	}
	v->free[v->nfree++] = host;
	return true;
}

/* One that was given back, and that the file is done discarding. */
static bool place_reuse(struct tapimg *img, uint64_t *host)
{
	struct vhd *v = vhd_of(img);

	for (uint32_t i = v->nfree; i-- > 0;) {
		if (meta_punching(img->meta, v->free[i], block_total(v)))
			continue;
		*host = v->free[i];
		v->free[i] = v->free[--v->nfree];
		return true;
	}
	return false;
}

static int place_take(struct tapimg *img, uint32_t blk, uint64_t *host, bool *zero)
{
	struct vhd *v = vhd_of(img);
	uint64_t end;

	*zero = false;
	if (place_reuse(img, host))
		return 0;
	*host = vhd_place(v, v->end);
	end = *host + block_total(v);
	if (*host / VHD_SECTOR >= VHD_UNUSED || end > v->limit)
		return -ENOSPC;
	v->end = end;
	*zero = *host + v->bitmap_len >= v->clean;
	v->clean = MAX(v->clean, end);
	/* a stream fills its blocks; scattered writes leave most of theirs as holes of the file */
	if (blk == v->last_blk + 1)
		file_grow_hint(img->file, end);
	v->last_blk = blk;
	return 0;
}

/* -------------------------------------------------------------------- pending */

static struct vhd_pending *pending_find(const struct vhd *v, uint32_t blk)
{
	struct list *n;

	list_for_each(n, &v->pending) {
		struct vhd_pending *p = list_entry(n, struct vhd_pending, node);

		if (p->blk == blk)
			return p;
	}
	return NULL;
}

static void pending_free(struct vhd_pending *p)
{
	list_del(&p->node);
	meta_wipe_end(p->wipe);
	free(p);
}

static void pending_drop(struct tapimg *img, struct vhd_pending *p)
{
	meta_free_unused(img->meta, p->host, block_total(vhd_of(img)));
	pending_free(p);
}

void vhd_pending_end(struct tapimg *img)
{
	struct vhd *v = vhd_of(img);

	while (v->pending.next && !list_empty(&v->pending))
		pending_free(list_first(&v->pending, struct vhd_pending, node));
}

static int pending_get(struct tapimg *img, uint32_t blk, struct vhd_pending **out)
{
	struct vhd *v = vhd_of(img);
	struct vhd_pending *p = pending_find(v, blk);
	int ret;

	*out = p;
	if (p)
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	ret = place_take(img, blk, &p->host, &p->zero);
	if (ret) {
		free(p);
		return ret;
	}
	p->blk = blk;
	list_append(&v->pending, &p->node);
	*out = p;
	return 0;
}

/* V2.  @whole: this write fills the block, and has it for itself. */
static int pending_ready(struct tapimg *img, struct vhd_pending *p, bool whole)
{
	struct vhd *v = vhd_of(img);
	int ret;

	if (p->zero || whole)
		return 0;
	if (!p->wipe)
		p->wipe = meta_wipe_start(img->meta, p->host + v->bitmap_len, v->block);
	ret = p->wipe ? meta_wipe_wait(p->wipe) : -ENOMEM;
	if (ret == -EAGAIN)
		return ret;
	meta_wipe_end(p->wipe);
	p->wipe = NULL;
	p->zero = !ret;
	if (ret && !p->users)
		pending_drop(img, p);
	return ret;
}

/* ------------------------------------------------------------------- reserve */

static void fill_new(struct tapimg *img, uint64_t host, uint64_t off, uint64_t end, bool pending,
		     struct extent *ext)
{
	struct vhd *v = vhd_of(img);

	ext->type = EXT_NEW;
	ext->flags = 0;
	ext->file = img->file;
	ext->off = round_down(off, VHD_SECTOR);
	ext->len = round_up(end, VHD_SECTOR) - ext->off;
	ext->host = host + v->bitmap_len + (ext->off & (v->block - 1));
	ext->cookie = pending;
}

/* Sectors of a block that is there: as many as lack their bit. */
static int reserve_there(struct tapimg *img, uint32_t entry, uint64_t off, uint64_t end,
			 struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	uint64_t host = (uint64_t)entry * VHD_SECTOR;
	uint64_t sector = (off & (v->block - 1)) / VHD_SECTOR;
	const char *bad = vhd_entry_check(v, entry, img->file->size);
	const struct mblk *b;
	unsigned bit = sector % (VHD_SECTOR * 8), n;
	bool set;

	if (bad)
		return image_corrupt(img, "block %" PRIu64 " is said to be at 0x%" PRIx64 ": %s",
				     off >> v->block_bits, host, bad);
	b = meta_get(img->meta, host + sector / 8);
	if (!b)
		return -EAGAIN;
	n = (round_up(end, VHD_SECTOR) - round_down(off, VHD_SECTOR)) / VHD_SECTOR;
	n = vhd_bits_run(b->data, bit, n, &set);
	if (set)	/* cannot be: it is asked for what is not data */
		return -EIO;
	end = MIN(end, round_down(off, VHD_SECTOR) + (uint64_t)n * VHD_SECTOR);
	fill_new(img, host, off, end, false, ext);
	return 0;
}

int vhd_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	uint64_t at = v->table_off + 4 * (off >> v->block_bits), end;
	/* one sector of bitmap at a time */
	uint64_t piece = MIN((uint64_t)v->block, VHD_SECTOR * 8ULL * VHD_SECTOR);
	struct vhd_pending *p;
	const struct mblk *b = meta_get(img->meta, at);
	uint32_t entry;
	int ret;

	if (!b)
		return -EAGAIN;
	end = MIN(off + len, round_down(off, piece) + piece);
	entry = get_be32(b->data + (at & (VHD_SECTOR - 1)));
	if (entry != VHD_UNUSED)
		return reserve_there(img, entry, off, end, ext);
	ret = pending_get(img, off >> v->block_bits, &p);
	if (!ret)
		ret = pending_ready(img, p, end - off == v->block);
	if (ret)
		return ret;
	p->users++;
	fill_new(img, p->host, off, end, true, ext);
	return 0;
}

/* -------------------------------------------------------------- commit, abort */

static void set_bits(uint8_t *map, unsigned bit, unsigned n)
{
	for (; n && bit & 7; n--)
		vhd_bit_set(map, bit++, true);
	memset(map + bit / 8, 0xff, n / 8);
	bit += n & ~7U;
	for (n &= 7; n; n--)
		vhd_bit_set(map, bit++, true);
}

/* All bits of the block are set: the batmap may say so. */
static void note_full(struct vhd *v, uint32_t blk, const uint8_t *map)
{
	unsigned n = v->block / VHD_SECTOR;
	bool set;

	if (!v->batmap || v->bitmap_len > VHD_SECTOR || vhd_bit(v->batmap, blk))
		return;
	if (vhd_bits_run(map, 0, n, &set) < n || !set)
		return;
	vhd_bit_set(v->batmap, blk, true);
	v->batmap_dirty = true;
}

/* V1: bitmap and table entry, in one epoch, in this order. */
static uint8_t *publish(struct tapimg *img, struct vhd_pending *p, struct mblk *table,
			uint64_t map_off)
{
	struct vhd *v = vhd_of(img);
	uint8_t *map = NULL, *t;

	for (uint32_t i = 0; i < v->bitmap_len; i += VHD_SECTOR) {
		uint8_t *m = meta_fresh(img->meta, p->host + i, VHD_RANK_BITMAP);

		if (i == map_off)
			map = m;
	}
	t = meta_dirty(img->meta, table, VHD_RANK_BAT);
	put_be32(t + ((v->table_off + 4ULL * p->blk) & (VHD_SECTOR - 1)), p->host / VHD_SECTOR);
	v->footer_moved = true;
	pending_free(p);
	return map;
}

int vhd_commit(struct tapimg *img, const struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	uint32_t blk = ext->off >> v->block_bits, entry;
	uint64_t at = v->table_off + 4ULL * blk;
	uint64_t sector = (ext->off & (v->block - 1)) / VHD_SECTOR;
	uint64_t map_off = round_down(sector / 8, VHD_SECTOR);
	struct vhd_pending *p;
	struct mblk *table, *b;
	uint8_t *map;

	if (!meta_room(img->meta, 1 + v->bitmap_len / VHD_SECTOR))
		return -EAGAIN;
	table = meta_get(img->meta, at);
	if (!table)
		return -EAGAIN;
	entry = get_be32(table->data + (at & (VHD_SECTOR - 1)));
	p = ext->cookie ? pending_find(v, blk) : NULL;
	if (entry == VHD_UNUSED) {
		if (!p)
			return -EIO;		/* cannot be: the block is locked */
		map = publish(img, p, table, map_off);
	} else {
		b = meta_get(img->meta, (uint64_t)entry * VHD_SECTOR + map_off);
		if (!b)
			return -EAGAIN;
		map = meta_dirty(img->meta, b, VHD_RANK_BITMAP);
	}
	set_bits(map, sector % (VHD_SECTOR * 8), ext->len / VHD_SECTOR);
	note_full(v, blk, map);
	return 0;
}

void vhd_abort(struct tapimg *img, const struct extent *ext)
{
	struct vhd *v = vhd_of(img);
	struct vhd_pending *p = ext->cookie ? pending_find(v, ext->off >> v->block_bits) : NULL;

	if (p && !--p->users)
		pending_drop(img, p);
}

/* ------------------------------------------------------------ unmap, release */

/* Entries from @p on that are unused, up to the end of their cached block. */
static uint64_t unused_run(const struct vhd *v, const uint8_t *p, const uint8_t *end, uint64_t len)
{
	uint64_t n = v->block;

	while (n < len && (p += 4) < end && get_be32(p) == VHD_UNUSED)
		n += v->block;
	return MIN(n, len);
}

int vhd_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done)
{
	struct vhd *v = vhd_of(img);
	uint64_t blk = off >> v->block_bits, at = v->table_off + 4 * blk;
	struct mblk *b;
	const uint8_t *p;
	uint32_t entry;

	*done = 0;
	/* over something nothing can be said but by data, also when it is no longer the stored parent */
	if (v->diff || img->backing || flags & UNMAP_EXPLICIT || off & (v->block - 1) ||
	    (len < v->block && off + len != img->size))
		return 0;
	if (!meta_room(img->meta, 1))
		return -EAGAIN;
	b = meta_get(img->meta, at);
	if (!b)
		return -EAGAIN;
	p = b->data + (at & (VHD_SECTOR - 1));
	entry = get_be32(p);
	if (entry == VHD_UNUSED) {
		*done = unused_run(v, p, b->data + VHD_SECTOR, len);
		return 0;
	}
	if (!(flags & UNMAP_FREE) || vhd_entry_check(v, entry, img->file->size))
		return 0;
	put_be32(meta_dirty(img->meta, b, VHD_RANK_BAT) + (at & (VHD_SECTOR - 1)), VHD_UNUSED);
	meta_free(img->meta, (uint64_t)entry * VHD_SECTOR, block_total(v));
	vhd_batmap_clear(v, blk);
	v->footer_moved = true;
	*done = MIN(len, v->block);
	return 0;
}

int vhd_release(struct tapimg *img, uint64_t host, uint64_t len)
{
	struct vhd *v = vhd_of(img);

	meta_forget(img->meta, host, v->bitmap_len);
	/* places as we choose them only: others would not do for a block with aligned data */
	if (vhd_place(v, host) == host) {
		meta_punch(img->meta, host, len);
		vhd_place_push(v, host);
	}
	return 0;
}
