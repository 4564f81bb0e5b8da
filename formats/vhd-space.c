/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-space.c - what of a file is in use: found out when an image is opened for writing, put in
 * order when it is closed
 *
 * The block table is the only record of space.  Gaps between blocks, as discarding leaves them, are
 * looked for only if the sums say that there are any.  At the close the trailer goes behind the last
 * block and the file is cut there; on a device the trailer stays in the last sector.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

int vhd_table_read(const struct vhd_look *l, struct vhd_table *t, struct tapimg_err *err)
{
	uint64_t len = round_up(4ULL * l->header.max_bat, VHD_SECTOR);
	int ret;

	t->n = l->header.max_bat;
	t->entry = file_buf(len);
	if (!t->entry)
		return err_errno(err, -ENOMEM, "%s: reading the block table", l->file->name);
	ret = file_pread(l->file, t->entry, 4ULL * t->n, l->header.table_off);
	if (ret)
		return err_errno(err, ret, "%s: reading the block table at %" PRIu64, l->file->name,
				 l->header.table_off);
	for (uint32_t i = 0; i < t->n; i++)
		t->entry[i] = get_be32(&t->entry[i]);
	return 0;
}

/* Places between the blocks, the lowest on top of the stack. @e is sorted. */
static void gaps_find(struct vhd *v, const uint32_t *e, uint32_t n, uint64_t first)
{
	uint64_t total = (uint64_t)v->bitmap_len + v->block, stride = round_up(total, VHD_ALIGN);

	while (n--) {
		uint64_t start = (uint64_t)e[n] * VHD_SECTOR;
		uint64_t below = n ? (uint64_t)e[n - 1] * VHD_SECTOR + total : first;
		uint64_t place = vhd_place(v, below), k;

		if (place + total > start)
			continue;
		for (k = (start - place - total) / stride + 1; k-- > 0;)
			if (!vhd_look_overlaps(&v->look, place + k * stride, total) &&
			    !vhd_place_push(v, place + k * stride))
				return;
	}
}

uint64_t vhd_space_limit(const struct file *f)
{
	return f->block_dev ? f->size - VHD_SECTOR : INT64_MAX;
}

int vhd_space_scan(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t total = (uint64_t)v->bitmap_len + v->block, first = vhd_look_tables_end(&v->look);
	struct vhd_table t = { 0 };
	uint32_t n = 0;
	int ret = vhd_table_read(&v->look, &t, err);

	v->end = first;
	v->nfree = 0;
	v->last_blk = UINT32_MAX;
	for (uint32_t i = 0; i < t.n && !ret; i++) {
		uint32_t e = t.entry[i];
		const char *bad;

		if (e == VHD_UNUSED) {
			vhd_batmap_clear(v, i);
			continue;
		}
		bad = vhd_entry_check(v, e, img->file->size);
		/* it would be written over the guest's data */
		if (!bad && v->batmap && vhd_look_batmap(&v->look, (uint64_t)e * VHD_SECTOR, total))
			bad = "the block lies over the batmap";
		if (bad)
			ret = err_set(err, -EUCLEAN, "%s: block %u is said to be at sector 0x%x: %s: it can be "
				      "read, or repaired with a check, but not written", img->name, i, e, bad);
		v->end = MAX(v->end, (uint64_t)e * VHD_SECTOR + total);
		t.entry[n++] = e;
	}
	if (!ret && v->end > first && v->end - first >= (n + 1) * (total + VHD_ALIGN)) {
		qsort(t.entry, n, sizeof(*t.entry), by_value);
		gaps_find(v, t.entry, n, first);
	}
	free(t.entry);
	v->limit = vhd_space_limit(img->file);
	v->clean = !img->file->block_dev && img->file->grows_clean ?
		   MAX(round_up(img->file->size, VHD_ALIGN), v->end) : UINT64_MAX - VHD_BLOCK_MAX;
	return ret;
}

int vhd_space_end(struct tapimg *img, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	uint8_t buf[VHD_SECTOR];
	uint64_t off;
	int ret;

	if (!v->footer_moved)
		return 0;
	if (v->nfree && !img->file->block_dev) {	/* some may have been the last ones */
		ret = vhd_look_end(&v->look, &v->end, err);
		if (ret)
			return ret;
	}
	off = img->file->block_dev ? round_down(img->file->size, VHD_SECTOR) - VHD_SECTOR :
				     round_up(v->end, VHD_SECTOR);
	vhd_footer_build(&v->look.footer, buf);
	ret = file_pwrite(img->file, buf, VHD_SECTOR, off);
	if (!ret && !img->file->block_dev)
		ret = file_truncate(img->file, off + VHD_SECTOR);
	if (ret)
		return err_errno(err, ret, "%s: writing the footer at %" PRIu64, img->name, off);
	v->footer_moved = false;
	v->look.primary = v->look.footer;
	v->look.has_primary = true;
	v->look.primary_off = off;
	v->look.eof = img->file->size;
	return 0;
}
