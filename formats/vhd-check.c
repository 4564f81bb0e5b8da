/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-check.c - checking and repairing
 *
 * What is looked at: both footers, the header's fields, the block table (each entry by itself, then
 * all of them sorted, so that the time is linear where blocks lie in order), what blocks at the end of
 * a cut file have lost, the batmap, the locators, and what lies unused behind the last block.
 *
 * Repairing never makes a sector read differently that could be read before:
 * R1. A footer is written anew from the other one.
 * R2. A block that shares bytes with another gets its own copy of all that is read there now.
 * R3. A block whose bitmap cannot be where it is said to be is dropped.  Sectors beyond the end of the file
 *     are lost; their bits are cleared and the file is made long enough, so that the others can be used.
 * R4. The batmap is begun anew where its sum is wrong; bits of blocks that are not there are cleared.
 * R5. Where a block lies over the batmap or a name of the parent, or the batmap is nowhere, all tables are
 *     written anew (vhd-switch.c): they go to their proper places, and what is in the way moves.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vhd.h"

struct check {
	struct tapimg *img;
	struct vhd *v;
	unsigned fix;
	struct tapimg_check *out;
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	struct tapimg_err *err;
	struct vhd_table t;
	uint64_t end;		/* of blocks and tables */
	uint64_t *by_host;	/* sector << 32 | block, of entries that can be, in this order */
	uint32_t nhost;
	uint32_t *move;		/* blocks to be given a copy of their own */
	uint32_t nmove;
	bool footers;		/* have to be written */
	bool over_batmap;	/* a block lies there */
	bool tables;		/* R5 */
	bool table_changed;
};

__attribute__((format(printf, 3, 4)))
static void say(struct check *c, char severity, const char *fmt, ...)
{
	char line[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->report(c->arg, severity, line);
}

/* A finding: counted, and counted as repaired if it is going to be.  True: repair it. */
static bool found(struct check *c, char severity)
{
	bool leak = severity == 'L';
	bool fix = c->fix & (leak ? TAPIMG_FIX_LEAKS : TAPIMG_FIX_ERRORS);

	if (leak) {
		c->out->leaks++;
		c->out->leaks_fixed += fix;
	} else {
		c->out->corruptions++;
		c->out->corruptions_fixed += fix;
	}
	return fix;
}

/* ------------------------------------------------------------------- footers */

static void check_footer(struct check *c, const struct vhd_footer *f, const char *which)
{
	const char *bad = vhd_footer_bad(f, vhd_time_now());

	if (bad)
		say(c, 'I', "%s footer: %s", which, bad);
}

static void check_footers(struct check *c)
{
	const struct vhd_look *l = &c->v->look;

	check_footer(c, &l->footer, l->has_primary ? "primary" : "backup");
	if (!c->v->fixed && !l->has_copy) {	/* R1 */
		say(c, 'E', "the copy of the footer at 0 is damaged");
		c->footers |= found(c, 'E');
	}
	if (!l->has_primary) {
		say(c, 'L', "there is no footer at the end, as after a crash: the copy at 0 counts");
		c->footers |= found(c, 'L');
	} else if (!c->v->fixed && l->has_copy && !vhd_footer_equal(&l->copy, &l->primary)) {
		say(c, 'L', "primary and backup footers do not match, as after a crash: the copy at 0 counts");
		c->footers |= found(c, 'L');
	}
}

static void check_header(struct check *c)
{
	const struct vhd_look *l = &c->v->look;
	const char *bad = vhd_header_bad(&l->header, true);
	uint32_t seen[VHD_LOCATORS];

	if (bad)
		say(c, 'I', "header: %s", bad);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *loc = &l->header.loc[i];

		seen[i] = loc->code;
		if (!loc->code)
			continue;
		if (c->v->diff && !vhd_locator_code_name(loc->code))
			say(c, 'I', "invalid  platform code for locator %u", i);
		else if (!checked_range(loc->off, vhd_locator_space(loc), l->eof) ||
			 loc->off < VHD_SECTOR)
			say(c, 'I', "invalid parent locator %u: invalid data offset", i);
		else if (loc->len > vhd_locator_space(loc))
			say(c, 'I', "invalid parent locator %u: invalid data length", i);
		for (unsigned k = 0; k < i; k++)
			if (seen[k] == loc->code)
				say(c, 'I', "duplicate platform code in locator %u: 0x%x", i, loc->code);
	}
}

/* --------------------------------------------------------------------- blocks */

static int by_host(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* R3, R5 */
static void check_entry(struct check *c, uint32_t i)
{
	struct vhd *v = c->v;
	uint64_t total = (uint64_t)v->bitmap_len + v->block;
	uint64_t host = (uint64_t)c->t.entry[i] * VHD_SECTOR;
	const char *bad = vhd_entry_check(v, c->t.entry[i], c->img->file->size);

	if (bad) {
		say(c, 'E', "block %u (offset 0x%" PRIx64 "): %s", i, host, bad);
		if (found(c, 'E')) {
			c->t.entry[i] = VHD_UNUSED;
			c->table_changed = true;
		}
		return;
	}
	c->by_host[c->nhost++] = (uint64_t)c->t.entry[i] << 32 | i;
	c->end = MAX(c->end, host + total);
	if (vhd_look_overlaps(&v->look, host, total)) {
		say(c, 'E', "block %u (offset 0x%" PRIx64 "): the block lies over the batmap or the parent's "
		    "name", i, host);
		c->over_batmap |= vhd_look_batmap(&v->look, host, total);
		c->tables |= found(c, 'E');
	}
}

static void check_beyond(struct check *c)
{
	struct vhd *v = c->v;
	uint64_t n = 0;

	for (uint32_t i = v->entries; i < c->t.n; i++) {
		if (c->t.entry[i] == VHD_UNUSED)
			continue;
		n++;
		if (c->fix & TAPIMG_FIX_LEAKS) {
			c->t.entry[i] = VHD_UNUSED;
			c->table_changed = true;
		}
	}
	if (!n)
		return;
	say(c, 'L', "%" PRIu64 " blocks lie beyond the end of the disk", n);
	c->out->leaks += n;
	c->out->leaks_fixed += c->fix & TAPIMG_FIX_LEAKS ? n : 0;
}

static void check_overlaps(struct check *c)
{
	uint64_t total = (uint64_t)c->v->bitmap_len + c->v->block, end = 0, stride;
	bool sorted = true;
	uint32_t last = 0;

	stride = round_up(total, VHD_ALIGN) / VHD_SECTOR;
	for (uint32_t k = 1; k < c->nhost && sorted; k++)
		sorted = c->by_host[k - 1] < c->by_host[k];
	for (uint32_t k = 1; k < c->nhost; k++)
		c->out->fragmented_clusters += (c->by_host[k] >> 32) - (c->by_host[k - 1] >> 32) != stride;
	if (!sorted)
		qsort(c->by_host, c->nhost, sizeof(*c->by_host), by_host);
	for (uint32_t k = 0; k < c->nhost; k++) {
		uint64_t host = (c->by_host[k] >> 32) * VHD_SECTOR;
		uint32_t blk = (uint32_t)c->by_host[k];

		if (host < end) {	/* R2 */
			say(c, 'E', "block %u (offset 0x%" PRIx64 ") clobbers block %u", blk, host, last);
			if (found(c, 'E'))
				c->move[c->nmove++] = blk;
			continue;
		}
		end = host + total;
		last = blk;
	}
}

static int check_table(struct check *c)
{
	int ret = vhd_table_read(&c->v->look, &c->t, c->err);

	if (ret)
		return ret;
	c->by_host = malloc((c->v->entries + 1ULL) * sizeof(*c->by_host));
	c->move = malloc((c->v->entries + 1ULL) * sizeof(*c->move));
	if (!c->by_host || !c->move)
		return err_errno(c->err, -ENOMEM, "%s", c->img->name);
	c->end = vhd_look_tables_end(&c->v->look);
	for (uint32_t i = 0; i < c->v->entries; i++)
		if (c->t.entry[i] != VHD_UNUSED)
			check_entry(c, i);
	check_beyond(c);
	c->out->has_clusters = true;
	c->out->total_clusters = c->v->entries;
	c->out->allocated_clusters = c->nhost;
	check_overlaps(c);
	return 0;
}

/* ------------------------------------------------------------------ lost tails */

/* Sectors of the block's bitmap from @first on that have bits; with @clear they lose them. */
static int tail_bits(struct check *c, uint64_t host, uint64_t first, bool clear, uint64_t *n)
{
	uint64_t bits = c->v->block / VHD_SECTOR;
	uint8_t *map = file_buf(c->v->bitmap_len);
	int ret = map ? file_pread(c->img->file, map, c->v->bitmap_len, host) : -ENOMEM;

	*n = 0;
	for (uint64_t i = first; i < bits && !ret; i++) {
		*n += vhd_bit(map, i);
		vhd_bit_set(map, i, false);
	}
	if (!ret && clear && *n)
		ret = file_pwrite(c->img->file, map, c->v->bitmap_len, host);
	free(map);
	return ret ? err_errno(c->err, ret, "%s: the bitmap at 0x%" PRIx64, c->img->name, host) : 0;
}

/* Blocks that reach beyond the file: those at its end. */
static int check_tails(struct check *c)
{
	struct vhd *v = c->v;
	uint64_t eof = round_down(v->look.has_primary ? v->look.primary_off : v->look.eof, VHD_SECTOR);
	uint64_t total = (uint64_t)v->bitmap_len + v->block;
	int ret = 0;

	for (uint32_t k = c->nhost; k-- > 0 && !ret;) {
		uint64_t host = (c->by_host[k] >> 32) * VHD_SECTOR, n, first, off;
		uint32_t blk = (uint32_t)c->by_host[k];

		if (host + total <= eof)
			break;
		first = eof > host + v->bitmap_len ? (eof - host - v->bitmap_len) / VHD_SECTOR : 0;
		off = (uint64_t)blk << v->block_bits;
		/* what lies beyond the end of the disk is of no interest */
		if (off + first * VHD_SECTOR >= c->img->size)
			continue;
		ret = tail_bits(c, host, first, false, &n);
		if (ret || !n)
			continue;
		say(c, 'E', "block %u (offset 0x%" PRIx64 ") has lost %" PRIu64 " sectors beyond the end of the "
		    "file", blk, host, n);
		if (found(c, 'E'))
			ret = tail_bits(c, host, first, true, &n);
		if (!ret && c->fix & TAPIMG_FIX_ERRORS)
			vhd_batmap_clear(v, blk);
		c->footers |= !!(c->fix & TAPIMG_FIX_ERRORS);
	}
	return ret;
}

/* --------------------------------------------------------------------- batmap */

static void check_batmap(struct check *c)
{
	struct vhd *v = c->v;
	const struct vhd_batmap_header *b = &v->look.batmap;
	uint64_t bits = (uint64_t)b->sectors * VHD_SECTOR * 8, stale = 0;
	const char *bad = vhd_batmap_bad(v);

	if (c->over_batmap) {		/* was said, and becomes a new one */
		vhd_batmap_drop(v);
		return;
	}
	if (bad) {
		say(c, 'L', "batmap is invalid: %s", bad);
		c->out->leaks++;
		if (!(c->fix & TAPIMG_FIX_LEAKS))
			return;
		if (!vhd_batmap_renew(c->img)) {
			/* not while blocks are where nothing can be */
			if (c->out->corruptions != c->out->corruptions_fixed)
				return;
			c->tables = true;
		}
		c->out->leaks_fixed++;
		return;
	}
	if (!v->batmap)
		return;
	for (uint32_t i = 0; i < MIN(v->entries, bits); i++) {
		if (c->t.entry[i] != VHD_UNUSED || !vhd_bit(v->batmap, i))
			continue;
		if (!stale++)
			say(c, 'L', "batmap shows unallocated block %u full", i);
		if (c->fix & TAPIMG_FIX_LEAKS)
			vhd_batmap_clear(v, i);
	}
	c->out->leaks += stale;
	c->out->leaks_fixed += c->fix & TAPIMG_FIX_LEAKS ? stale : 0;
}

/* What nobody uses behind the last block, in blocks. */
static void check_rest(struct check *c)
{
	const struct vhd_look *l = &c->v->look;
	uint64_t end = round_up(c->end, VHD_SECTOR) + VHD_SECTOR, n;

	c->out->image_end = end;
	if (c->img->file->block_dev || l->eof < end + c->v->block)
		return;
	n = (l->eof - end) / c->v->block;
	say(c, 'L', "%" PRIu64 " bytes behind the last block are not in use", l->eof - end);
	c->out->leaks += n;
	if (c->fix & TAPIMG_FIX_LEAKS) {
		c->out->leaks_fixed += n;
		c->footers = true;
	}
}

/* ------------------------------------------------------------------ repairing */

static int write_table(struct check *c)
{
	uint64_t len = 4ULL * c->t.n;
	uint8_t *buf = file_buf(len);
	int ret = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < c->t.n && buf; i++)
		put_be32(buf + 4ULL * i, c->t.entry[i]);
	if (!ret)
		ret = file_pwrite(c->img->file, buf, len, c->v->table_off);
	if (!ret)
		ret = file_flush(c->img->file);
	free(buf);
	return ret ? err_errno(c->err, ret, "%s: writing the block table", c->img->name) : 0;
}

/* R5 */
static int write_tables(struct check *c)
{
	struct vhd_next n = { 0 };
	int ret;

	if (c->over_batmap)
		vhd_batmap_drop(c->v);
	ret = vhd_space_scan(c->img, c->err);
	if (!ret)
		ret = vhd_next_load(c->img, &n, c->err);
	if (!ret)
		ret = vhd_switch(c->img, &n, c->err);
	vhd_next_free(&n);
	return ret;
}

static int repair(struct check *c)
{
	struct vhd *v = c->v;
	int ret = c->table_changed ? write_table(c) : 0;

	v->end = c->end;
	v->limit = vhd_space_limit(c->img->file);
	if (!ret && c->nmove)
		ret = vhd_move_blocks(c->img, &c->t, c->move, c->nmove, c->err);
	if (!ret)
		ret = vhd_batmap_store(c->img, c->err);
	if (!ret && (c->footers || c->nmove))
		ret = vhd_write_footers(c->img, c->err);
	if (!ret)
		ret = vhd_reload(c->img, c->err);
	return ret || !c->tables ? ret : write_tables(c);
}

int vhd_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	      void (*report)(void *arg, char severity, const char *line), void *arg,
	      struct tapimg_err *err)
{
	struct check c = { .img = img, .v = vhd_of(img), .fix = fix, .out = out, .report = report,
			   .arg = arg, .err = err };
	int ret = 0;

	check_footers(&c);
	out->image_end = img->file->size;
	if (c.v->fixed) {
		if (fix && c.footers)
			ret = vhd_write_footers(img, err);
		return ret;
	}
	check_header(&c);
	ret = check_table(&c);
	if (!ret)
		ret = check_tails(&c);
	if (!ret) {
		check_batmap(&c);
		check_rest(&c);
	}
	if (!ret && fix && (out->leaks_fixed || out->corruptions_fixed))
		ret = repair(&c);
	free(c.t.entry);
	free(c.by_host);
	free(c.move);
	return ret;
}
