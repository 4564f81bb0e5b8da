/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-switch.c - another header, table, batmap or name of the parent, so that a crash at any moment
 * leaves either all of the old or all of the new
 *
 * A sector is written as a whole or not at all, and the copy of the footer is one that says where the
 * header is. So:
 *
 * S1. Blocks that lie where the new tables will be are copied behind all others; then, when the copies
 *     are durable, the table is pointed to them. Both places read the same.
 * S2. All tables are written behind the blocks as they will be, and are durable.
 * S3. The copy of the footer is pointed there: from here on the image is the new one.
 * S4. They are written at their proper place behind the copy of the footer, which nothing uses now.
 * S5. The copy of the footer is pointed back; the trailer is written and the file is cut behind it.
 *
 * Where a device has no room for S2 the proper place is overwritten at once.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

#define HOME VHD_SECTOR		/* where the header belongs */

void vhd_next_free(struct vhd_next *n)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		free(n->bytes[i]);
	free(n->table.entry);
	free(n->map);
	memset(n, 0, sizeof(*n));
}

static uint64_t table_bytes(const struct vhd_next *n)
{
	return round_up(4ULL * n->header.max_bat, VHD_SECTOR);
}

static uint64_t next_bytes(const struct vhd_next *n)
{
	uint64_t len = VHD_HEADER_SIZE + table_bytes(n);

	if (n->has_batmap)
		len += VHD_SECTOR + (uint64_t)n->batmap.sectors * VHD_SECTOR;
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (n->bytes[i])
			len += round_up(vhd_locator_space(&n->header.loc[i]), VHD_SECTOR);
	return len;
}

/* One that cannot be trusted begins anew: its bits are hints, what else its header holds is kept. */
static int batmap_load(const struct vhd *v, struct vhd_next *n)
{
	n->batmap = v->look.batmap;
	n->has_batmap = v->look.has_batmap;
	if (!n->has_batmap)
		return 0;
	if (!v->batmap) {
		n->batmap.version = VHD_BATMAP_VERSION;
		n->batmap.sectors = MAX(div_up(div_up(n->header.max_bat, 8), VHD_SECTOR), 1);
	}
	n->map = calloc(n->batmap.sectors, VHD_SECTOR);
	if (n->map && v->batmap)
		memcpy(n->map, v->batmap, (uint64_t)n->batmap.sectors * VHD_SECTOR);
	return n->map ? 0 : -ENOMEM;
}

int vhd_next_load(struct tapimg *img, struct vhd_next *n, struct tapimg_err *err)
{
	const struct vhd_look *l = &vhd_of(img)->look;
	int ret;

	memset(n, 0, sizeof(*n));
	n->footer = l->footer;
	n->header = l->header;
	ret = vhd_table_read(l, &n->table, err);
	if (!ret) {
		ret = batmap_load(vhd_of(img), n);
		if (ret)
			err_errno(err, ret, "%s", img->name);
	}
	for (unsigned i = 0; i < VHD_LOCATORS && !ret; i++) {
		const struct vhd_locator *loc = &l->header.loc[i];
		uint64_t space = vhd_locator_space(loc);

		if (!space || space > MiB || !checked_range(loc->off, space, l->eof))
			continue;
		n->bytes[i] = calloc(1, round_up(space, VHD_SECTOR));
		ret = n->bytes[i] ? file_pread(img->file, n->bytes[i], space, loc->off) : -ENOMEM;
		if (ret)
			err_errno(err, ret, "%s: reading parent locator %u", img->name, i);
	}
	return ret;
}

/* All tables as they are when the header is at @base. */
static uint8_t *next_build(const struct vhd_next *n, uint64_t base)
{
	uint64_t len = next_bytes(n), at = VHD_HEADER_SIZE;
	struct vhd_header h = n->header;
	uint8_t *buf = file_buf(len);

	if (!buf)
		return NULL;
	memset(buf, 0, len);
	h.table_off = base + at;
	memset(buf + at, 0xff, table_bytes(n));
	for (uint32_t i = 0; i < MIN(n->table.n, h.max_bat); i++)
		put_be32(buf + at + 4ULL * i, n->table.entry[i]);
	at += table_bytes(n);
	if (n->has_batmap) {
		struct vhd_batmap_header b = n->batmap;

		b.off = base + at + VHD_SECTOR;
		b.checksum = vhd_batmap_sum(n->map, vhd_batmap_summed(&n->footer, &b), b.version);
		vhd_batmap_build(&b, buf + at);
		memcpy(buf + at + VHD_SECTOR, n->map, (uint64_t)b.sectors * VHD_SECTOR);
		at += VHD_SECTOR + (uint64_t)b.sectors * VHD_SECTOR;
	}
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		uint64_t space = vhd_locator_space(&h.loc[i]);

		if (!n->bytes[i]) {
			memset(&h.loc[i], 0, sizeof(h.loc[i]));
			continue;
		}
		h.loc[i].off = base + at;
		memcpy(buf + at, n->bytes[i], space);
		at += round_up(space, VHD_SECTOR);
	}
	vhd_header_build(&h, buf);
	return buf;
}

static int write_footer_at(struct tapimg *img, const struct vhd_footer *footer, uint64_t data_off,
			   uint64_t off)
{
	struct vhd_footer f = *footer;
	uint8_t buf[VHD_SECTOR];
	int ret;

	f.data_off = data_off;
	vhd_footer_build(&f, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, off);
	return ret;
}

static int write_next(struct tapimg *img, const struct vhd_next *n, uint64_t base)
{
	uint8_t *buf = next_build(n, base);
	int ret = buf ? file_pwrite(img->file, buf, next_bytes(n), base) : -ENOMEM;

	free(buf);
	return ret;
}

int vhd_barrier(struct tapimg *img, enum vhd_mutant unless)
{
	return vhd_of(img)->mutant == unless ? 0 : file_flush(img->file);
}

/* ------------------------------------------------------------------ S1: blocks */

static int copy_block(struct tapimg *img, uint64_t from, uint64_t to, uint8_t *buf, uint64_t total)
{
	uint64_t have = from < img->file->size ? MIN(total, img->file->size - from) : 0;
	int ret = file_pread(img->file, buf, have, from);

	memset(buf + have, 0, total - have);
	return ret ? ret : file_pwrite(img->file, buf, total, to);
}

/* Writes what lies in sector @sector of the table. */
static int write_table_sector(struct tapimg *img, const struct vhd_table *t, uint64_t sector)
{
	const uint64_t per = VHD_SECTOR / 4;
	uint64_t n = MIN(per, t->n - sector * per);
	uint8_t buf[VHD_SECTOR];

	for (uint64_t i = 0; i < n; i++)
		put_be32(buf + 4 * i, t->entry[sector * per + i]);
	return file_pwrite(img->file, buf, 4 * n, vhd_of(img)->table_off + sector * VHD_SECTOR);
}

int vhd_move_blocks(struct tapimg *img, struct vhd_table *t, const uint32_t *blk, uint32_t n,
		    struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t total = (uint64_t)v->bitmap_len + v->block;
	uint8_t *buf = n ? file_buf(total) : NULL;
	int ret = n && !buf ? -ENOMEM : 0;

	for (uint32_t i = 0; i < n && !ret; i++) {
		uint64_t to = vhd_place(v, v->end);

		if (to + total > v->limit || to / VHD_SECTOR >= VHD_UNUSED) {
			ret = -ENOSPC;
			break;
		}
		ret = copy_block(img, (uint64_t)t->entry[blk[i]] * VHD_SECTOR, to, buf, total);
		if (!ret) {
			t->entry[blk[i]] = to / VHD_SECTOR;
			v->end = to + total;
			v->clean = MAX(v->clean, v->end);
		}
	}
	if (!ret && n)
		ret = vhd_barrier(img, VHD_MUTANT_MOVE);
	for (uint32_t i = 0; i < n && !ret; i++)
		ret = write_table_sector(img, t, blk[i] / (VHD_SECTOR / 4));
	if (!ret && n)
		ret = file_flush(img->file);
	v->footer_moved |= n > 0;
	free(buf);
	return ret ? err_errno(err, ret, "%s: moving blocks", img->name) : 0;
}

/* Blocks before @end, in the way of tables. */
static int clear_the_way(struct tapimg *img, struct vhd_table *t, uint64_t end,
			 struct tapimg_err *err)
{
	uint32_t *blk = malloc(((size_t)t->n + 1) * sizeof(*blk)), n = 0;
	int ret;

	if (!blk)
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (uint32_t i = 0; i < t->n; i++)
		if (t->entry[i] != VHD_UNUSED && (uint64_t)t->entry[i] * VHD_SECTOR < end)
			blk[n++] = i;
	ret = vhd_move_blocks(img, t, blk, n, err);
	free(blk);
	return ret;
}

/* ------------------------------------------------------------------ S2 to S5 */

static int detour(struct tapimg *img, const struct vhd_next *n, uint64_t far, uint64_t len)
{
	int ret = write_next(img, n, far);				/* S2 */

	if (!ret && !img->file->block_dev)
		ret = write_footer_at(img, &n->footer, far, far + len);
	if (!ret && !img->file->block_dev && img->file->size > far + len + VHD_SECTOR)
		ret = file_truncate(img->file, far + len + VHD_SECTOR);
	if (!ret)
		ret = vhd_barrier(img, VHD_MUTANT_DETOUR);
	if (!ret)
		ret = write_footer_at(img, &n->footer, far, 0);		/* S3 */
	return ret ? ret : vhd_barrier(img, VHD_MUTANT_HOME);
}

static int come_home(struct tapimg *img, const struct vhd_next *n)
{
	struct vhd *v = vhd_of(img);
	uint64_t end = round_up(v->end, VHD_SECTOR);
	int ret = write_next(img, n, HOME);				/* S4 */

	if (!ret)
		ret = vhd_barrier(img, VHD_MUTANT_BACK);
	if (!ret)
		ret = write_footer_at(img, &n->footer, HOME, 0);		/* S5 */
	if (!ret)
		ret = file_flush(img->file);
	if (img->file->block_dev)
		end = round_down(img->file->size, VHD_SECTOR) - VHD_SECTOR;
	if (!ret)
		ret = write_footer_at(img, &n->footer, HOME, end);
	if (!ret && !img->file->block_dev)
		ret = file_truncate(img->file, end + VHD_SECTOR);
	return ret ? ret : file_flush(img->file);
}

int vhd_switch(struct tapimg *img, struct vhd_next *n, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t len = next_bytes(n), far;
	int ret;

	v->end = MAX(v->end, HOME + len);	/* what is moved does not end up in the way again */
	ret = clear_the_way(img, &n->table, HOME + len, err);
	if (!ret)
		ret = vhd_stop_here(img, VHD_STOP_DATA, err);
	if (ret)
		return ret;
	far = round_up(MAX(v->end, img->file->block_dev ? 0 : img->file->size), VHD_ALIGN);
	if (far + len <= v->limit)
		ret = detour(img, n, far, len);
	if (!ret)
		ret = come_home(img, n);
	if (ret)
		return err_errno(err, ret, "%s: writing the tables", img->name);
	v->batmap_dirty = false;	/* it was part of that */
	return vhd_reload(img, err);
}
