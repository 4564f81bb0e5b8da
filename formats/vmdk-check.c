/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-check.c - checking sparse extents, and repairing them
 *
 * Every table is read in both copies.  Wrong are: directory entries outside the file, table entries
 * that point into the metadata or beyond the end, grains used twice, and copies that differ.  Grains of
 * the file that nobody refers to are leaked: no product uses them again.
 *
 * Repairing: a copy that is sound replaces one that is not; where both are, the first directory's
 * counts, which is what everybody reads.  The second user of a grain gets one of its own, with the
 * same contents.  Leaks go by moving the last grains into them and cutting the file off.
 *
 * Where a writer was cut off, as the header's mark says, the copies may differ, and either of two sound
 * entries is right: that is only noted, and put right by any repair.
 *
 * R1. What an entry is to refer to is flushed before the entry is written.
 * R2. A leaked grain that becomes a copy of another is referred to only after it was flushed; the place
 *     it came from stays as it is until the end.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-count.h"
#include "vmdk.h"

#define COUNT_MEMORY (1 * GiB)
#define MOVES 3

struct chk {
	struct tapimg *img;
	struct vmdk_extent *x;
	struct vmdk_sparse *s;
	unsigned fix;
	struct tapimg_check *out;
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	struct tapimg_err *err;
	uint64_t unit;			/* grains are multiples of it in the file, in bytes */
	uint64_t start;			/* data may be from here on */
	uint64_t end;			/* of the file; grows when something is put behind it */
	struct counts data, meta;	/* users of each unit */
	uint64_t ndata, nmeta;		/* units with users */
	uint32_t *t, *r;		/* a table in both copies, in the processor's byte order */
	uint8_t *raw, *grain;
	uint64_t last;			/* grain in front, for fragments */
	/* moving grains down */
	uint64_t limit, hole, table_hole;	/* units */
	uint64_t table_at, table_end;	/* a place for tables, bytes */
	uint64_t kept;			/* end of what could not be moved */
};

static void say(struct chk *c, char severity, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void say(struct chk *c, char severity, const char *fmt, ...)
{
	char line[700];
	int n = snprintf(line, sizeof(line), "%.300s: ", c->x->path);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	c->report(c->arg, severity, line);
}

static uint32_t table_len(const struct chk *c)
{
	return 4U << c->s->gt_bits;
}

static bool table_sound(const struct chk *c, uint32_t gde)
{
	return gde > VMDK_GTE_ZERO && gde * VMDK_SECTOR >= (c->s->cowd ? VC_LEN : VMDK_SECTOR) &&
	       checked_range(gde * VMDK_SECTOR, table_len(c), round_up(c->end, VMDK_SECTOR));
}

/* none, or a whole table of zeroes */
static bool table_none(const struct chk *c, uint32_t gde)
{
	return !gde || (gde == VMDK_GTE_ZERO && c->s->zeroed);
}

static int failed(struct chk *c, int ret, const char *what, uint64_t at)
{
	return err_errno(c->err, ret, "%s: %s at 0x%" PRIx64, c->x->path, what, at);
}

static int table_read(struct chk *c, uint32_t gde, uint32_t *out)
{
	uint64_t at = gde * VMDK_SECTOR;
	int ret = file_pread(c->x->file, c->raw, table_len(c), at);

	if (ret) {
		c->out->check_errors++;
		return failed(c, ret, "reading the grain table", at);
	}
	for (uint32_t i = 0; i < 1U << c->s->gt_bits; i++)
		out[i] = get_le32(c->raw + 4 * i);
	return 0;
}

static int table_write(struct chk *c, uint32_t gde, const uint32_t *in)
{
	uint64_t at = gde * VMDK_SECTOR;
	int ret;

	for (uint32_t i = 0; i < 1U << c->s->gt_bits; i++)
		put_le32(c->raw + 4 * i, in[i]);
	ret = file_pwrite(c->x->file, c->raw, table_len(c), at);
	return ret ? failed(c, ret, "writing the grain table", at) : 0;
}

static int flush(struct chk *c)
{
	int ret = file_flush(c->x->file);

	return ret ? err_errno(c->err, ret, "%s: flushing", c->x->path) : 0;
}

/* ------------------------------------------------------------- directories */

static int gde_write(struct chk *c, bool second, uint32_t i, uint32_t gde)
{
	struct vmdk_sparse *s = c->s;
	uint64_t at = (second ? s->rgd_off : s->gd_off) + i * 4ULL;
	uint8_t b[4];
	int ret = flush(c);	/* R1 */

	if (ret)
		return ret;
	put_le32(b, gde);
	ret = file_pwrite(c->x->file, b, 4, at);
	if (ret)
		return failed(c, ret, "writing the grain directory", at);
	(second ? s->rgd : s->gd)[i] = gde;
	return 0;
}

/* Space behind the end for @len bytes: its offset. */
static uint64_t space_new(struct chk *c, uint64_t len)
{
	uint64_t at = c->s->cowd ? round_up(c->end, VMDK_SECTOR) : round_up(c->end, c->x->grain);

	c->end = at + len;
	c->s->end = MAX(c->s->end, c->end);
	return at;
}

/* Directory entry @i of one copy is made anew out of the table @from of the other one; 0: an empty one. */
static int gde_repair(struct chk *c, bool second, uint32_t i, uint32_t from)
{
	uint64_t at;
	int ret = 0;

	if (!from)
		return gde_write(c, second, i, 0);
	ret = table_read(c, from, c->t);
	if (ret)
		return ret;
	at = space_new(c, c->s->cowd ? table_len(c) : round_up(table_len(c), c->x->grain));
	ret = table_write(c, at / VMDK_SECTOR, c->t);
	return ret ? ret : gde_write(c, second, i, at / VMDK_SECTOR);
}

/*
 * Two copies that are both sound differ: noted (@expected), or an error.  Returns whether to put it right;
 * counts what is wrong.
 */
static bool differ(struct chk *c, bool unsound, bool expected)
{
	if (expected && !unsound)
		return c->fix;
	c->out->corruptions++;
	if (!(c->fix & TAPIMG_FIX_ERRORS))
		return false;
	c->out->corruptions_fixed++;
	return true;
}

static int gde_check(struct chk *c, uint32_t i)
{
	struct vmdk_sparse *s = c->s;
	bool ok = table_none(c, s->gd[i]) || table_sound(c, s->gd[i]);
	bool rok = !s->rgd || table_none(c, s->rgd[i]) || table_sound(c, s->rgd[i]);
	bool lost = ok && rok && s->rgd && table_none(c, s->gd[i]) != table_none(c, s->rgd[i]);
	uint32_t good;
	int ret;

	if (ok && rok && !lost)
		return 0;
	if (!ok)
		say(c, 'E', "entry %u of the grain directory is no table inside the file: sector 0x%x", i,
		    s->gd[i]);
	if (!rok)
		say(c, 'E', "entry %u of the redundant grain directory is no table inside the file: sector "
		    "0x%x", i, s->rgd[i]);
	if (lost)
		say(c, c->x->dirty_found ? 'I' : 'E', "table %u is in only one of the directories: sectors "
		    "0x%x and 0x%x", i, s->gd[i], s->rgd[i]);
	if (!differ(c, !ok || !rok, c->x->dirty_found))
		return 0;
	good = s->rgd && rok && (!ok || table_none(c, s->gd[i])) ? s->rgd[i] : ok ? s->gd[i] : 0;
	good = table_none(c, good) ? 0 : good;
	ret = good && good == s->gd[i] ? 0 : gde_repair(c, false, i, good);
	if (!ret && s->rgd && (!good || good != s->rgd[i]))
		ret = gde_repair(c, true, i, good);
	if (ret)
		return ret;
	say(c, 'R', good ? "table %u is in both directories again" : "table %u is lost, nothing was to be "
	    "found of it", i);
	return 0;
}

/* ------------------------------------------------------------------ tables */

/* Sectors that grains may lie at, as everything refers to them. */
static int find_unit(struct chk *c)
{
	uint32_t bits = c->x->grain / VMDK_SECTOR;

	for (uint32_t i = 0; i < c->s->ngd; i++) {
		int ret;

		if (!table_sound(c, c->s->gd[i]))
			continue;
		ret = table_read(c, c->s->gd[i], c->t);
		if (ret)
			return ret;
		for (uint32_t k = 0; k < 1U << c->s->gt_bits; k++)
			if (!vmdk_gte_check(c->s, c->t[k]))
				bits |= c->t[k] > VMDK_GTE_ZERO || !c->s->zeroed ? c->t[k] : 0;
		bits |= c->s->cowd ? c->s->gd[i] : 0;
	}
	c->unit = (uint64_t)(bits & -bits) * VMDK_SECTOR;
	return 0;
}

static int count(struct chk *c, struct counts *in, uint64_t *n, uint64_t at, uint64_t len)
{
	for (uint64_t u = at / c->unit; u * c->unit < at + len; u++) {
		*n += !counts_get(in, u);
		if (counts_add(in, u, 1, 1))
			return err_errno(c->err, -ENOMEM, "%s: counting grains", c->x->path);
	}
	return 0;
}

static bool is_data(const struct chk *c, uint32_t gte)
{
	return gte && !(gte == VMDK_GTE_ZERO && c->s->zeroed);
}

/* A copy of the grain at sector @gte behind the end. */
static int grain_copy(struct chk *c, uint32_t gte, uint64_t at)
{
	int ret = file_pread(c->x->file, c->grain, c->x->grain, gte * VMDK_SECTOR);

	if (ret)
		return failed(c, ret, "reading the grain", gte * VMDK_SECTOR);
	ret = file_pwrite(c->x->file, c->grain, c->x->grain, at);
	return ret ? failed(c, ret, "writing a copy of a grain", at) : 0;
}

static uint64_t guest(const struct chk *c, uint32_t i, uint32_t k)
{
	return c->x->start + (((uint64_t)i << c->s->gt_bits) + k) * c->x->grain;
}

/* A sound entry: is its grain its own?  May change it. */
static int entry_count(struct chk *c, uint32_t i, uint32_t k, bool *changed)
{
	uint64_t at = c->t[k] * VMDK_SECTOR;
	int ret;

	if (counts_any(&c->meta, at / c->unit, c->x->grain / c->unit) ||
	    counts_any(&c->data, at / c->unit, c->x->grain / c->unit)) {
		say(c, 'E', "the grain of offset 0x%" PRIx64 ", at sector 0x%x, is used for something else "
		    "as well", guest(c, i, k), c->t[k]);
		c->out->corruptions++;
		if (!(c->fix & TAPIMG_FIX_ERRORS))
			return 0;
		at = space_new(c, c->x->grain);
		ret = grain_copy(c, c->t[k], at);
		if (ret)
			return ret;
		c->t[k] = at / VMDK_SECTOR;
		*changed = true;
		c->out->corruptions_fixed++;
		say(c, 'R', "the grain of offset 0x%" PRIx64 " has a place of its own", guest(c, i, k));
	}
	c->out->allocated_clusters++;
	c->out->fragmented_clusters += c->last && at != c->last + c->x->grain;
	c->last = at;
	return count(c, &c->data, &c->ndata, at, c->x->grain);
}

/* Entry @k in both copies; @two: there are two. */
static int entry_check(struct chk *c, uint32_t i, uint32_t k, bool two, bool *changed)
{
	const char *what = vmdk_gte_check(c->s, c->t[k]);
	const char *rwhat = two ? vmdk_gte_check(c->s, c->r[k]) : NULL;
	/* nobody reads what a shrinking that was cut off has left behind the end, and growing clears it */
	bool expected = c->x->dirty_found || guest(c, i, k) >= c->x->start + c->x->len;

	if (what)
		say(c, 'E', "the entry of offset 0x%" PRIx64 " %s: sector 0x%x", guest(c, i, k), what,
		    c->t[k]);
	if (rwhat)
		say(c, 'E', "the redundant entry of offset 0x%" PRIx64 " %s: sector 0x%x", guest(c, i, k),
		    rwhat, c->r[k]);
	if (!what && !rwhat && two && c->t[k] != c->r[k])
		say(c, expected ? 'I' : 'E', "the entries of offset 0x%" PRIx64 " differ: sectors "
		    "0x%x and 0x%x", guest(c, i, k), c->t[k], c->r[k]);
	if (what || rwhat || (two && c->t[k] != c->r[k])) {
		if (differ(c, what || rwhat, expected)) {
			if (what)
				c->t[k] = two && !rwhat ? c->r[k] : 0;
			*changed = true;
			if (!c->t[k])
				say(c, 'R', "the entry of offset 0x%" PRIx64 " is empty now%s", guest(c, i, k),
				    what ? ": what was there is lost" : "");
			else
				say(c, 'R', "the entries of offset 0x%" PRIx64 " agree on sector 0x%x",
				    guest(c, i, k), c->t[k]);
		} else if (what) {
			return 0;
		}
	}
	return is_data(c, c->t[k]) ? entry_count(c, i, k, changed) : 0;
}

static uint32_t second_table(const struct chk *c, uint32_t i)
{
	const struct vmdk_sparse *s = c->s;

	return s->rgd && table_sound(c, s->rgd[i]) && s->rgd[i] != s->gd[i] ? s->rgd[i] : 0;
}

static int tables_write(struct chk *c, uint32_t i)
{
	uint32_t second = second_table(c, i);
	int ret = flush(c);	/* R1, R2 */

	if (!ret && second)
		ret = table_write(c, second, c->t);
	return ret ? ret : table_write(c, c->s->gd[i], c->t);
}

static int table_check(struct chk *c, uint32_t i)
{
	uint32_t second = second_table(c, i), n = 1U << c->s->gt_bits;
	bool changed = false;
	int ret;

	if (!table_sound(c, c->s->gd[i]))
		return 0;
	ret = table_read(c, c->s->gd[i], c->t);
	if (!ret && second)
		ret = table_read(c, second, c->r);
	for (uint32_t k = 0; k < n && !ret; k++) {
		/* what lies behind the end of the disk is never read, but stays allocated */
		if (!c->t[k] && (!second || !c->r[k]))
			continue;
		ret = entry_check(c, i, k, second, &changed);
	}
	return !ret && changed ? tables_write(c, i) : ret;
}

/* A directory may lie behind the front as well, when the disk has grown. */
static int count_directory(struct chk *c, const uint32_t *gd, uint64_t at)
{
	uint64_t len = c->s->ngd * 4ULL;

	if (!gd || at < c->start)
		return 0;
	return count(c, &c->meta, &c->nmeta, at, len);
}

static int count_tables(struct chk *c)
{
	const struct vmdk_sparse *s = c->s;
	int ret = count_directory(c, s->gd, s->gd_off);

	if (!ret && s->rgd_off != s->gd_off)
		ret = count_directory(c, s->rgd, s->rgd_off);

	for (uint32_t i = 0; i < s->ngd && !ret; i++) {
		uint64_t at = s->gd[i] * VMDK_SECTOR, second = second_table(c, i) * VMDK_SECTOR;

		if (table_sound(c, s->gd[i]) && at >= c->start)
			ret = count(c, &c->meta, &c->nmeta, at, table_len(c));
		if (!ret && second >= c->start)
			ret = count(c, &c->meta, &c->nmeta, second, table_len(c));
	}
	return ret;
}

/* -------------------------------------------------------------------- leaks */

static bool unit_free(struct chk *c, uint64_t u)
{
	return !counts_get(&c->data, u) && !counts_get(&c->meta, u);
}

/* @n units in a row without a user below the limit, from *@at on; false: there are none. */
static bool hole_next(struct chk *c, uint64_t n, uint64_t *at, uint64_t *out)
{
	uint64_t run = 0;

	for (; *at < c->limit; ++*at) {
		run = unit_free(c, *at) ? run + 1 : 0;
		if (run < n)
			continue;
		*out = ++*at - n;
		return !counts_add(&c->data, *out, n, 1);
	}
	return false;
}

/* Where a table goes that has to move: several share the place of a grain.  0: nowhere. */
static uint64_t table_place(struct chk *c)
{
	uint64_t n = div_up(MAX(table_len(c), c->x->grain), c->unit), hole;

	if (c->table_end - c->table_at < table_len(c)) {
		if (!hole_next(c, n, &c->table_hole, &hole))
			return 0;
		c->table_at = hole * c->unit;
		c->table_end = c->table_at + n * c->unit;
	}
	c->table_at += table_len(c);
	return c->table_at - table_len(c);
}

/* A directory that lies behind the limit moves, and the header with it. */
static int directory_move(struct chk *c, const uint32_t *gd, uint64_t *off, uint32_t field)
{
	uint64_t len = c->s->ngd * 4ULL, hole;
	uint8_t *b, head[8];
	int ret;

	if (!gd || *off < c->start || *off + len <= c->limit * c->unit)
		return 0;
	if (!hole_next(c, div_up(len, c->unit), &c->table_hole, &hole)) {
		c->kept = MAX(c->kept, *off + len);
		return 0;
	}
	b = file_buf(len);
	if (!b)
		return err_errno(c->err, -ENOMEM, "%s", c->x->path);
	for (uint32_t i = 0; i < c->s->ngd; i++)
		put_le32(b + 4ULL * i, gd[i]);
	hole *= c->unit;
	ret = file_pwrite(c->x->file, b, len, hole);
	free(b);
	if (ret)
		return failed(c, ret, "writing the grain directory", hole);
	ret = flush(c);		/* R1 */
	if (ret)
		return ret;
	put_le64(head, hole / VMDK_SECTOR);
	ret = file_pwrite(c->x->file, head, c->s->cowd ? 4 : 8, field);
	if (ret)
		return failed(c, ret, "writing the header", 0);
	*off = hole;
	return 0;
}

static int table_move(struct chk *c, bool second, uint32_t i)
{
	uint32_t *gd = second ? c->s->rgd : c->s->gd;
	uint64_t at = gd[i] * VMDK_SECTOR, to;
	int ret;

	if (!table_sound(c, gd[i]) || at + table_len(c) <= c->limit * c->unit)
		return 0;
	to = table_place(c);
	if (!to) {
		c->kept = MAX(c->kept, at + table_len(c));
		return 0;
	}
	ret = table_read(c, gd[i], c->t);
	if (!ret)
		ret = table_write(c, to / VMDK_SECTOR, c->t);
	return ret ? ret : gde_write(c, second, i, to / VMDK_SECTOR);
}

static int grains_move(struct chk *c, uint32_t i)
{
	bool changed = false;
	int ret;

	if (!table_sound(c, c->s->gd[i]))
		return 0;
	ret = table_read(c, c->s->gd[i], c->t);
	for (uint32_t k = 0; k < 1U << c->s->gt_bits && !ret; k++) {
		uint64_t at = c->t[k] * VMDK_SECTOR, to;

		if (!is_data(c, c->t[k]) || vmdk_gte_check(c->s, c->t[k]) ||
		    at + c->x->grain <= c->limit * c->unit)
			continue;
		if (!hole_next(c, c->x->grain / c->unit, &c->hole, &to)) {
			c->kept = MAX(c->kept, at + c->x->grain);
			continue;
		}
		to *= c->unit;
		ret = grain_copy(c, c->t[k], to);
		c->t[k] = to / VMDK_SECTOR;
		changed = true;
	}
	return !ret && changed ? tables_write(c, i) : ret;
}

/* Whole grains that fit between what is used. */
static uint64_t leaks_count(struct chk *c)
{
	uint64_t u = c->start / c->unit, end = c->end / c->unit, n = 0, next;

	while (u < end) {
		next = MIN(counts_next(&c->data, u), counts_next(&c->meta, u));
		next = MIN(next, end);
		n += (next - u) / (c->x->grain / c->unit);
		for (u = next; u < end && !unit_free(c, u); u++)
			;
	}
	return n;
}

/* All moves once.  c->kept is 0 afterwards if everything has found a place. */
static int move_down(struct chk *c)
{
	int ret = 0;

	c->limit = c->start / c->unit + c->ndata + c->nmeta;
	c->hole = c->table_hole = c->start / c->unit;
	c->table_at = c->table_end = c->kept = 0;
	if (c->s->rgd_off != c->s->gd_off)
		ret = directory_move(c, c->s->rgd, &c->s->rgd_off, VH_RGD);
	if (!ret && c->s->rgd_off != c->s->gd_off)
		ret = directory_move(c, c->s->gd, &c->s->gd_off, c->s->cowd ? VC_GD : VH_GD);
	for (uint32_t i = 0; i < c->s->ngd && !ret; i++) {
		ret = table_move(c, false, i);
		if (!ret && c->s->rgd && c->s->rgd[i] != c->s->gd[i])
			ret = table_move(c, true, i);
	}
	for (uint32_t i = 0; i < c->s->ngd && !ret; i++)
		ret = grains_move(c, i);
	return ret;
}

/* Counts anew who uses what, all of it being sound. */
static int recount(struct chk *c)
{
	int ret;

	counts_free(&c->data);
	counts_free(&c->meta);
	counts_init(&c->data, COUNT_MEMORY);
	counts_init(&c->meta, COUNT_MEMORY);
	c->ndata = c->nmeta = 0;
	ret = count_tables(c);
	for (uint32_t i = 0; i < c->s->ngd && !ret; i++) {
		if (!table_sound(c, c->s->gd[i]))
			continue;
		ret = table_read(c, c->s->gd[i], c->t);
		for (uint32_t k = 0; k < 1U << c->s->gt_bits && !ret; k++)
			if (is_data(c, c->t[k]))
				ret = count(c, &c->data, &c->ndata, c->t[k] * VMDK_SECTOR, c->x->grain);
	}
	return ret;
}

static int leaks_repair(struct chk *c, uint64_t leaks)
{
	uint64_t end;
	int ret = move_down(c);

	/* tables that were moved may need more units than before, so that others did not find a place */
	for (unsigned i = 0; i < MOVES && !ret && c->kept; i++) {
		ret = recount(c);
		if (!ret)
			ret = move_down(c);
	}
	if (ret)
		return ret;
	end = round_up(MAX(c->limit * c->unit, c->kept), c->unit);
	if (end >= c->end)
		return 0;
	ret = flush(c);
	if (!ret)
		ret = file_truncate(c->x->file, end);
	if (!ret && c->s->cowd) {
		uint8_t b[4];

		put_le32(b, end / VMDK_SECTOR);
		ret = file_pwrite(c->x->file, b, 4, VC_FREE);
	}
	if (ret)
		return failed(c, ret, "cutting the file off", end);
	c->end = end;
	c->out->leaks_fixed += leaks;
	say(c, 'R', "leaked grains are given back: the file ends at 0x%" PRIx64, end);
	return 0;
}

static int leaks_check(struct chk *c)
{
	uint64_t leaks = c->x->file->block_dev ? 0 : leaks_count(c);

	if (!leaks)
		return 0;
	c->out->leaks += leaks;
	say(c, 'L', "%" PRIu64 " grains of the file are not referred to", leaks);
	return c->fix & TAPIMG_FIX_LEAKS && c->out->corruptions == c->out->corruptions_fixed ?
	       leaks_repair(c, leaks) : 0;
}

/* ------------------------------------------------------------------- headers */

/* Other writers of COWD put the next grain where the header says. */
static int free_check(struct chk *c)
{
	uint64_t end = MAX(c->data.end, c->meta.end) * c->unit / VMDK_SECTOR;
	uint8_t b[4];
	int ret = c->s->cowd ? file_pread(c->x->file, b, 4, VC_FREE) : 0;

	if (ret)
		return failed(c, ret, "reading the header", 0);
	if (!c->s->cowd || get_le32(b) >= end)
		return 0;
	say(c, 'E', "the header says that sector 0x%x is free, but sectors below 0x%" PRIx64 " are in use",
	    get_le32(b), end);
	c->out->corruptions++;
	if (!(c->fix & TAPIMG_FIX_ERRORS))
		return 0;
	put_le32(b, end);
	ret = file_pwrite(c->x->file, b, 4, VC_FREE);
	if (ret)
		return failed(c, ret, "writing the header", 0);
	c->out->corruptions_fixed++;
	return 0;
}

static int mark_check(struct chk *c)
{
	static const uint8_t clean;
	int ret;

	if (!c->x->dirty_found)
		return 0;
	say(c, 'I', "is marked as open: a writer did not close it, or has it open now");
	if (!c->fix || c->out->corruptions > c->out->corruptions_fixed)
		return 0;
	ret = flush(c);
	if (!ret)
		ret = file_pwrite(c->x->file, &clean, 1, c->x->kind->unclean_at);
	if (ret)
		return failed(c, ret, "writing the header", 0);
	c->x->dirty_found = false;
	say(c, 'R', "the mark is taken away");
	return 0;
}

static int check_all(struct chk *c)
{
	int ret = 0;

	for (uint32_t i = 0; i < c->s->ngd && !ret; i++)
		ret = gde_check(c, i);
	if (!ret)
		ret = find_unit(c);
	if (ret)
		return ret;
	c->start = round_up(MAX(c->s->data_min, c->s->overhead), c->unit);
	ret = count_tables(c);
	for (uint32_t i = 0; i < c->s->ngd && !ret; i++)
		ret = table_check(c, i);
	if (!ret)
		ret = free_check(c);
	if (!ret)
		ret = leaks_check(c);
	return ret ? ret : mark_check(c);
}

int vmdk_sparse_check(struct tapimg *img, struct vmdk_extent *x, unsigned fix,
		      struct tapimg_check *out,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err)
{
	struct chk c = {
		.img = img, .x = x, .s = x->priv, .fix = x->access == VMDK_RW ? fix : 0, .out = out,
		.report = report, .arg = arg, .err = err, .end = x->file->size,
	};
	uint32_t n = 1U << c.s->gt_bits;
	int ret = 0;

	counts_init(&c.data, COUNT_MEMORY);
	counts_init(&c.meta, COUNT_MEMORY);
	c.t = calloc(n, sizeof(*c.t));
	c.r = calloc(n, sizeof(*c.r));
	c.raw = file_buf(4 * n);
	c.grain = file_buf(x->grain);
	if (!c.t || !c.r || !c.raw || !c.grain)
		ret = err_errno(err, -ENOMEM, "%s", x->path);
	if (!ret)
		ret = check_all(&c);
	if (!ret && fix)
		ret = flush(&c);
	out->has_clusters = true;
	out->total_clusters += div_up(x->len, x->grain);
	out->image_end = MAX(out->image_end, c.end);
	counts_free(&c.data);
	counts_free(&c.meta);
	free(c.t);
	free(c.r);
	free(c.raw);
	free(c.grain);
	return ret;
}

/* The size in the header counts; a resize that was cut off leaves another one in the descriptor inside. */
static int size_check(struct tapimg *img, unsigned fix,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *x = v->x;
	int ret;

	if (!x->line || x->file != img->file || !v->desc_max || x->line->sectors * VMDK_SECTOR == x->len)
		return 0;
	report(arg, 'I', "the descriptor has an older size than the header");
	if (!fix)
		return 0;
	ret = vmdk_desc_set_sectors(&v->desc, x->line->number, x->len / VMDK_SECTOR);
	return ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_write(img, err);
}

int vmdk_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	       void (*report)(void *arg, char severity, const char *line), void *arg,
	       struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	int ret = 0;

	for (unsigned i = 0; i < v->nx && !ret; i++) {
		struct vmdk_extent *x = v->x + i;

		if (x->kind->check)
			ret = x->kind->check(img, x, fix, out, report, arg, err);
		if (!ret && fix && x->writable && (x->kind == &vmdk_sparse || x->kind == &vmdk_cowd))
			ret = vmdk_sparse_load(img, x, err);
	}
	if (!ret)
		ret = size_check(img, fix, report, arg, err);
	meta_drop(img->meta);
	return ret;
}
