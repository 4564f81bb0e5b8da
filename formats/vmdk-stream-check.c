/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-stream-check.c - checking compressed extents
 *
 * The tables are read one by one; each entry has to name a place in the file where that very grain
 * begins, no byte may belong to two grains, and all data have to come out whole, for a stream is what travels.
 * There is nothing to repair in one: what is left of a damaged stream, convert --salvage gets out.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmdk-stream.h"

#define CHECK_PIECE MiB

struct place {
	uint32_t sector, sectors, grain;
};

struct chk {
	struct tapimg *img;
	struct vmdk_extent *x;
	struct vmdk_stream *s;
	struct tapimg_check *out;
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	struct tapimg_err *err;
	struct place *place;		/* of all grains whose mark is right */
	uint64_t n, cap;
};

static void corrupt(struct chk *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void corrupt(struct chk *c, const char *fmt, ...)
{
	char line[300];
	va_list ap;

	c->out->corruptions++;
	if (!c->report)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->report(c->arg, 'E', line);
}

static uint64_t guest(const struct chk *c, uint32_t grain)
{
	return c->x->start + ((uint64_t)grain << c->s->grain_bits);
}

static int place_add(struct chk *c, uint32_t sector, uint32_t sectors, uint32_t grain)
{
	if (c->n == c->cap) {
		uint64_t cap = MAX(2 * c->cap, 1024ULL);
		struct place *p = realloc(c->place, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		c->place = p;
		c->cap = cap;
	}
	c->place[c->n++] = (struct place){ sector, sectors, grain };
	return 0;
}

static int entry_check(struct chk *c, uint32_t sector, uint32_t grain)
{
	const struct vmdk_stream *s = c->s;
	uint64_t host = sector * VMDK_SECTOR, size = c->x->file->size;
	uint8_t p[VMDK_GRAIN_MARK];
	uint32_t len;
	int ret;

	c->out->allocated_clusters++;
	c->out->compressed_clusters++;
	if (!checked_range(host, s->mark, size) || host < VMDK_SECTOR) {
		corrupt(c, "the entry of the grain at 0x%" PRIx64 " points %s: sector 0x%x", guest(c, grain),
			host < VMDK_SECTOR ? "into the metadata" : "beyond the end of the file", sector);
		return 0;
	}
	ret = file_pread(c->x->file, p, s->mark, host);
	if (ret)
		return ret;
	len = get_le32(p + s->mark - 4);
	if (s->markers && get_le64(p) != (uint64_t)grain << (s->grain_bits - 9))
		corrupt(c, "the entry of the grain at 0x%" PRIx64 " points to sector 0x%x, where the grain of "
			"sector 0x%" PRIx64 " lies", guest(c, grain), sector, get_le64(p));
	else if (!len || len > vmdk_coded_most(s) - s->mark || !checked_range(host + s->mark, len, size))
		corrupt(c, "the grain at 0x%" PRIx64 ", in sector 0x%x, claims to have %u bytes", guest(c, grain),
			sector, len);
	else
		return place_add(c, sector, (s->mark + len + VMDK_SECTOR - 1) / VMDK_SECTOR, grain);
	return 0;
}

static int table_check(struct chk *c, uint32_t i, uint8_t *gt)
{
	const struct vmdk_stream *s = c->s;
	uint64_t len = 4ULL << s->gt_bits, grains = div_up(s->capacity, c->x->grain);
	int ret;

	if (!s->gd[i] || (s->gd[i] == VMDK_GTE_ZERO && s->zeroed))
		return 0;
	if (!checked_range(s->gd[i] * VMDK_SECTOR, len, c->x->file->size)) {
		corrupt(c, "grain table %u at sector 0x%x is not inside the file", i, s->gd[i]);
		return 0;
	}
	ret = file_pread(c->x->file, gt, len, s->gd[i] * VMDK_SECTOR);
	for (uint32_t k = 0; !ret && k < 1U << s->gt_bits; k++) {
		uint64_t grain = ((uint64_t)i << s->gt_bits) + k;
		uint32_t sector = get_le32(gt + 4 * k);

		if (grain < grains && sector && !(sector == VMDK_GTE_ZERO && s->zeroed))
			ret = entry_check(c, sector, grain);
	}
	return ret;
}

static int by_sector(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	return x->sector < y->sector ? -1 : x->sector > y->sector;
}

static void overlaps_check(struct chk *c)
{
	if (c->n)
		qsort(c->place, c->n, sizeof(*c->place), by_sector);
	for (uint64_t i = 1; i < c->n; i++) {
		const struct place *a = c->place + i - 1, *b = c->place + i;

		if (b->sector - a->sector < a->sectors)
			corrupt(c, "the grains at 0x%" PRIx64 " and 0x%" PRIx64 " use the same place, sector 0x%x",
				guest(c, a->grain), guest(c, b->grain), b->sector);
	}
}

/* All of a piece is read at once, so that it is decoded by all helper threads; then what was wrong with it. */
static int data_check(struct chk *c)
{
	uint64_t end = c->x->start + c->x->len, n, off;
	uint8_t *buf = file_buf(CHECK_PIECE);

	if (!buf)
		return -ENOMEM;
	for (off = c->x->start; off < end; off += n) {
		struct tapimg_status st;
		int ret = tapimg_block_status(c->img, off, end - off, 1, &st);

		n = MIN(ret ? c->x->grain : st.len, CHECK_PIECE);
		n = MIN(n, end - off);
		if (ret || !(st.flags & TAPIMG_ST_COMPRESSED))
			continue;	/* its entry has been complained about */
		if (!tapimg_pread(c->img, buf, n, off))
			continue;
		for (uint64_t at = off; at < off + n; at += c->x->grain)
			if (tapimg_pread(c->img, buf, MIN(c->x->grain, off + n - at), at))
				corrupt(c, "the data of the grain at 0x%" PRIx64 " are damaged", at);
	}
	free(buf);
	return 0;
}

int vmdk_stream_check(struct tapimg *img, struct vmdk_extent *x, unsigned fix,
		      struct tapimg_check *out,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err)
{
	struct vmdk_stream *s = x->priv;
	struct chk c = { .img = img, .x = x, .s = s, .out = out, .report = report, .arg = arg, .err = err };
	uint8_t *gt = file_buf(4ULL << s->gt_bits);
	int ret = gt ? 0 : -ENOMEM;

	out->has_clusters = true;
	out->total_clusters += div_up(x->len, x->grain);
	out->image_end = MAX(out->image_end, x->file->size);
	for (uint32_t i = 0; !ret && s->gd && i < s->ngd; i++)
		ret = table_check(&c, i, gt);
	overlaps_check(&c);
	if (!ret)
		ret = data_check(&c);
	free(gt);
	free(c.place);
	return ret ? err_errno(err, ret, "%s: checking it", x->path) : 0;
}
