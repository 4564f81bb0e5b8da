/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-salvage.c - what is left of a compressed extent that was cut off or damaged
 *
 * A stream can be read without its tables: each grain says which one it is, and how long.  The walk
 * goes from one to the next.  When salvaging it goes on after a damaged place, sector by sector,
 * until something looks like a grain again; else it ends there.
 *
 * What is known of the disk ends where the first grain that is not wholly there begins, or behind
 * the last one; up to there, what has no grain is zeroes.  Where the directory comes next, that is
 * all of the disk; an end marker says nothing, for a hole torn by a transfer looks the same.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vmdk-stream.h"

struct scan {
	struct vmdk_extent *x;
	struct vmdk_stream *s;
	uint64_t pos;			/* in the file */
	uint32_t cap;
	uint64_t next;			/* guest bytes: behind the last grain */
	bool lost;			/* behind a damaged place, nothing known seen since */
	bool complete;
};

enum step { STEP_ON, STEP_BAD, STEP_END };

static int add(struct scan *c, uint32_t grain, uint32_t sector)
{
	struct vmdk_stream *s = c->s;

	if (s->nfound == c->cap) {
		uint32_t cap = MAX(2 * c->cap, 256U);
		struct vmdk_found *f = realloc(s->found, cap * sizeof(*f));

		if (!f)
			return -ENOMEM;
		s->found = f;
		c->cap = cap;
	}
	s->found[s->nfound++] = (struct vmdk_found){ grain, sector };
	return 0;
}

/* At a sector that is not a grain's. */
static enum step metadata(struct scan *c, const uint8_t *p)
{
	uint64_t sectors = get_le64(p), skip;
	uint32_t kind = get_le32(p + 12);

	if (kind == VMDK_MARK_EOS || kind > VMDK_MARK_FOOTER + 1 || c->lost || !checked_mul(sectors, VMDK_SECTOR, &skip) ||
	    !checked_range(c->pos + VMDK_SECTOR, skip, c->x->file->size))
		return STEP_BAD;
	if (kind == VMDK_MARK_GD && skip >= c->s->ngd * 4ULL)
		c->complete = true;
	c->pos += VMDK_SECTOR + skip;
	return STEP_ON;
}

static enum step grain(struct scan *c, const uint8_t *p, int *ret)
{
	struct vmdk_stream *s = c->s;
	uint64_t lba = get_le64(p), grain = 1ULL << s->grain_bits;
	uint32_t len = get_le32(p + 8);

	if (lba >= s->capacity / VMDK_SECTOR || !is_aligned(lba * VMDK_SECTOR, grain) ||
	    len > vmdk_coded_most(s) - s->mark ||
	    (p[12] & 15) != 8 || (p[12] << 8 | p[13]) % 31)
		return STEP_BAD;
	if (!checked_range(c->pos, s->mark + (uint64_t)len, c->x->file->size)) {
		c->next = MAX(c->next, lba * VMDK_SECTOR);	/* it is cut */
		return STEP_END;
	}
	/* what there was between the last one and this nobody can tell */
	if (c->lost && c->next < lba * VMDK_SECTOR)
		*ret = add(c, c->next >> s->grain_bits, 0);
	if (!*ret)
		*ret = add(c, lba * VMDK_SECTOR >> s->grain_bits, c->pos / VMDK_SECTOR);
	c->next = MAX(c->next, lba * VMDK_SECTOR + grain);
	c->pos += round_up(s->mark + (uint64_t)len, VMDK_SECTOR);
	return *ret ? STEP_END : STEP_ON;
}

static int by_grain(const void *a, const void *b)
{
	const struct vmdk_found *x = a, *y = b;

	if (x->grain != y->grain)
		return x->grain < y->grain ? -1 : 1;
	return x->sector < y->sector ? -1 : x->sector > y->sector;
}

int vmdk_stream_scan(struct vmdk_extent *x, struct vmdk_stream *s, struct tapimg_err *err)
{
	struct scan c = { .x = x, .s = s, .pos = s->data_min };
	uint64_t end = MIN(x->file->size, VMDK_MAX_FILE);
	uint8_t p[VMDK_SECTOR];
	enum step step = STEP_ON;
	int ret = 0;

	free(s->gd);
	s->gd = NULL;
	while (step != STEP_END && c.pos + 16 <= end) {
		ret = file_pread(x->file, p, MIN(sizeof(p), end - c.pos), c.pos);
		if (ret) {
			err_errno(err, ret, "%s: reading at 0x%" PRIx64, x->path, c.pos);
			break;
		}
		step = get_le32(p + 8) ? grain(&c, p, &ret) : metadata(&c, p);
		c.lost = step == STEP_BAD;
		if (step == STEP_BAD && s->salvage)
			c.pos += VMDK_SECTOR;
		else if (step == STEP_BAD)
			break;
	}
	if (ret)
		return err && err->text[0] ? ret : err_errno(err, ret, "%s", x->path);
	/* of two that claim the same place the first one counts: look-ups find that */
	if (s->nfound)
		qsort(s->found, s->nfound, sizeof(*s->found), by_grain);
	s->known = c.complete ? s->capacity : MIN(c.next, s->capacity);
	return 0;
}

const struct vmdk_found *vmdk_stream_find(const struct vmdk_stream *s, uint32_t grain)
{
	uint32_t lo = 0, hi = s->nfound;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (s->found[mid].grain < grain)
			lo = mid + 1;
		else
			hi = mid;
	}
	return s->found + lo;
}

/* ---------------------------------------------------------------- by the tables */

/* Whether all of a grain is in the file. */
static int is_there(struct vmdk_extent *x, const struct vmdk_stream *s, uint32_t sector, bool *there)
{
	uint64_t host = sector * VMDK_SECTOR;
	uint8_t p[VMDK_GRAIN_MARK];
	int ret;

	*there = checked_range(host, s->mark, x->file->size);
	if (!*there)
		return 0;
	ret = file_pread(x->file, p, s->mark, host);
	if (!ret)
		*there = checked_range(host + s->mark, get_le32(p + s->mark - 4), x->file->size);
	return ret;
}

/* One table into @gt; *inside: it is in the file. */
static int table_read(struct vmdk_extent *x, const struct vmdk_stream *s, uint32_t table, uint8_t *gt,
		      bool *inside)
{
	uint64_t len = 4ULL << s->gt_bits;

	*inside = checked_range(table * VMDK_SECTOR, len, x->file->size);
	return *inside ? file_pread(x->file, gt, len, table * VMDK_SECTOR) : 0;
}

static bool is_grain(const struct vmdk_stream *s, uint32_t entry)
{
	return entry > VMDK_GTE_ZERO || (entry && !s->zeroed);
}

/* Whether the last grain that the tables name is there: then, written in order, all are. */
static int last_there(struct vmdk_extent *x, const struct vmdk_stream *s, uint8_t *gt, bool *there)
{
	*there = true;
	for (uint32_t i = s->ngd; i-- > 0;) {
		int ret;

		if (!is_grain(s, s->gd[i]))
			continue;
		ret = table_read(x, s, s->gd[i], gt, there);
		if (ret || !*there)
			return ret;
		for (uint32_t k = 1U << s->gt_bits; k-- > 0;)
			if (is_grain(s, get_le32(gt + 4 * k)))
				return is_there(x, s, get_le32(gt + 4 * k), there);
	}
	return 0;
}

static int first_missing(struct vmdk_extent *x, struct vmdk_stream *s, uint8_t *gt)
{
	uint64_t off = 0, span = 1ULL << (s->grain_bits + s->gt_bits);
	bool there;
	int ret;

	for (uint32_t i = 0; i < s->ngd; i++, off += span) {
		if (!is_grain(s, s->gd[i]))
			continue;
		s->known = off;
		ret = table_read(x, s, s->gd[i], gt, &there);
		for (uint32_t k = 0; !ret && there && k < 1U << s->gt_bits; k++) {
			uint32_t entry = get_le32(gt + 4 * k);

			s->known = off + ((uint64_t)k << s->grain_bits);
			if (is_grain(s, entry))
				ret = is_there(x, s, entry, &there);
		}
		if (ret || !there)
			return ret;
	}
	s->known = s->capacity;
	return 0;
}

int vmdk_stream_measure(struct vmdk_extent *x, struct vmdk_stream *s, struct tapimg_err *err)
{
	uint8_t *gt = file_buf(4ULL << s->gt_bits);
	bool there = true;
	int ret = gt ? last_there(x, s, gt, &there) : -ENOMEM;

	s->known = s->capacity;
	if (!ret && !there)
		ret = first_missing(x, s, gt);
	free(gt);
	return ret ? err_errno(err, ret, "%s: reading the grain tables", x->path) : 0;
}
