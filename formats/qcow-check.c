/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-check.c - check and repair: whether every table and every cluster is inside the file and has its
 * space for itself, and what space belongs to nobody
 *
 * Two passes over the L1 table: the first one marks all tables, so that data which overlap a table are
 * what is found to be wrong, the second one what the tables refer to.  Space is marked by blocks, two
 * bits each, in pages that exist only where something was marked.
 *
 * Repairs: what points outside is dropped, and reads as what lies below; what shares its space with
 * something else gets a copy of its own at the end of the file, written and flushed before the entry
 * changes. Leaked space is punched out of the file, and cut off at its end.
 *
 * Left out: whether compressed data can be decoded; space that two compressed clusters share.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "qcow.h"

#define PAGE_BYTES 4096
#define PAGE_UNITS (PAGE_BYTES * 4)	/* two bits each */
#define PAGES_MAX (256 * 1024)		/* 1 GiB of memory */
#define TOP_MAX (16 * 1024 * 1024)	/* pages that could be */
#define L1_CHUNK 8192			/* entries */
#define HOLE 4096			/* the smallest that a file can have */

enum mark { MARK_FREE, MARK_ALONE, MARK_SHARED };

struct usage {
	uint8_t **page;
	uint64_t npages, used, units;
	unsigned shift;			/* bytes of a unit, log2 */
};

struct walk {
	struct tapimg *img;
	struct qcow *q;
	struct tapimg_err *err;
	struct tapimg_check *out;	/* NULL: only w->end is wanted */
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	bool fix, fix_leaks;
	struct usage use;
	uint64_t end;			/* of what is referred to */
	uint64_t file_end;		/* where copies go */
	uint64_t old_size;		/* of the file, before them */
	uint64_t next_host;		/* of a cluster that would continue the last one */
	uint8_t *l1, *l2, *copy;
	bool changed;
};

__attribute__((format(printf, 3, 4)))
static void say(struct walk *w, char severity, const char *fmt, ...)
{
	char line[200];
	va_list ap;

	if (!w->out)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	w->report(w->arg, severity, line);
}

/* ------------------------------------------------------------------- marking */

static int usage_init(struct walk *w)
{
	struct usage *u = &w->use;

	u->shift = w->img->meta->bshift;
	w->old_size = w->img->file->size;
	u->units = (round_up(w->old_size, w->q->cluster) >> u->shift) + 1;
	u->npages = div_up(u->units, PAGE_UNITS);
	if (u->npages > TOP_MAX)
		return err_set(w->err, -EFBIG, "%s: the file is too large to be checked: %" PRIu64 " bytes",
			       w->img->name, w->img->file->size);
	u->page = calloc(u->npages, sizeof(*u->page));
	return u->page ? 0 : err_errno(w->err, -ENOMEM, "%s", w->img->name);
}

static void usage_exit(struct usage *u)
{
	for (uint64_t i = 0; u->page && i < u->npages; i++)
		free(u->page[i]);
	free(u->page);
}

static enum mark mark_get(const struct usage *u, uint64_t unit)
{
	const uint8_t *p = u->page[unit / PAGE_UNITS];
	unsigned i = unit % PAGE_UNITS;

	return p ? (enum mark)(p[i / 4] >> (i % 4 * 2) & 3) : MARK_FREE;
}

static int mark_set(struct walk *w, uint64_t unit, enum mark m)
{
	struct usage *u = &w->use;
	uint8_t **p = &u->page[unit / PAGE_UNITS];
	unsigned i = unit % PAGE_UNITS;

	if (!*p && u->used < PAGES_MAX) {
		*p = calloc(1, PAGE_BYTES);
		u->used++;
	}
	if (!*p)
		return err_set(w->err, -ENOMEM, "%s: no memory to check an image of this size", w->img->name);
	(*p)[i / 4] |= (unsigned)m << (i % 4 * 2);
	return 0;
}

/*
 * 1: something else is there.  Units that are covered only in part, as compressed data do, may be shared
 * with others of that kind.
 */
static int mark_range(struct walk *w, uint64_t off, uint64_t len, bool alone)
{
	struct usage *u = &w->use;
	uint64_t size = 1ULL << u->shift, end = off + len;
	bool clash = false;

	w->end = MAX(w->end, end);
	if (!u->page)
		return 0;
	for (uint64_t i = off >> u->shift; i <= (end - 1) >> u->shift && i < u->units; i++) {
		bool whole = alone && i * size >= off && (i + 1) * size <= end;
		enum mark now = mark_get(u, i);

		if (now == MARK_ALONE || (now == MARK_SHARED && whole)) {
			clash = true;
		} else if (now == MARK_FREE) {
			int ret = mark_set(w, i, whole ? MARK_ALONE : MARK_SHARED);

			if (ret)
				return ret;
		}
	}
	return clash;
}

/* ------------------------------------------------------------------ repairing */

static int walk_failed(struct walk *w, int ret, const char *what, uint64_t at)
{
	return ret ? err_errno(w->err, ret, "%s: %s at 0x%" PRIx64, w->img->name, what, at) : 0;
}

/* @len bytes of @from at the end of the file, durable: *to is where. */
static int make_copy(struct walk *w, uint64_t from, uint64_t len, uint64_t *to)
{
	uint64_t align = MAX(w->q->cluster, w->img->meta->bsize), off = round_up(w->file_end, align);
	int ret = file_pread(w->img->file, w->copy, len, from);

	if (ret)
		return walk_failed(w, ret, "reading what has to be copied", from);
	if (w->img->file->block_dev && off + len > w->img->file->size)
		return err_set(w->err, -ENOSPC, "%s: the device is full", w->img->name);
	ret = file_pwrite(w->img->file, w->copy, len, off);
	if (!ret)
		ret = file_flush(w->img->file);
	if (ret)
		return walk_failed(w, ret, "writing a copy", off);
	w->file_end = off + len;
	w->end = MAX(w->end, w->file_end);
	*to = off;
	return 0;
}

/* A finding about an entry: counted and told.  True: it is to be repaired. */
static bool finding(struct walk *w, const char *what, uint64_t guest, uint64_t entry,
		    const char *bad)
{
	if (!w->out)
		return false;
	if (w->fix)
		w->out->corruptions_fixed++;
	else
		w->out->corruptions++;
	say(w, 'E', "%s of offset 0x%" PRIx64 ", at 0x%" PRIx64 ", %s", what, guest,
	    entry & QCOW_CODED ? qcow_coded_off(w->q, entry) : entry, bad);
	return w->fix;
}

/* ----------------------------------------------------------------- L2 tables */

static void count_entry(struct walk *w, uint64_t entry)
{
	if (!w->out)
		return;
	w->out->allocated_clusters++;
	if (entry & QCOW_CODED) {
		w->out->compressed_clusters++;
		w->out->fragmented_clusters++;
		return;
	}
	if (w->next_host && entry != w->next_host)
		w->out->fragmented_clusters++;
	w->next_host = entry + w->q->cluster;
}

/* The entry as it should be, in *entry. */
static int check_entry(struct walk *w, uint64_t guest, uint64_t *entry)
{
	const struct qcow *q = w->q;
	bool coded = *entry & QCOW_CODED;
	uint64_t off = coded ? qcow_coded_off(q, *entry) : *entry, to;
	uint64_t len = coded ? qcow_coded_len(q, *entry) : q->cluster;
	const char *what = coded ? "the compressed cluster" : "the cluster";
	const char *bad = qcow_entry_bad(q, *entry);
	int ret;

	if (bad) {
		if (finding(w, what, guest, *entry, bad)) {
			*entry = 0;
			say(w, 'R', "it is dropped");
		}
		return 0;
	}
	count_entry(w, *entry);
	ret = mark_range(w, off, len, !coded);
	if (ret <= 0 || !finding(w, what, guest, *entry, "shares its space with something else"))
		return MIN(ret, 0);
	ret = make_copy(w, off, len, &to);
	if (ret)
		return ret;
	*entry = to | (*entry & ~((1ULL << (63 - q->cluster_bits)) - 1) & (coded ? UINT64_MAX : 0));
	say(w, 'R', "it has a copy of its own at 0x%" PRIx64, to);
	return 0;
}

static int check_l2(struct walk *w, uint64_t index, uint64_t l2)
{
	const struct qcow *q = w->q;
	uint64_t guest = index << q->l1_shift;
	bool dirty = false;
	int ret = file_pread(w->img->file, w->l2, q->l2_bytes, l2);

	if (ret && w->out) {
		w->out->check_errors++;
		say(w, 'E', "L2 table %" PRIu64 " at 0x%" PRIx64 " cannot be read: %s", index, l2,
		    strerror(-ret));
		return 0;
	}
	for (uint32_t i = 0; !ret && i < q->l2_bytes; i += 8, guest += q->cluster) {
		uint64_t was = get_be64(w->l2 + i), entry = was;

		if (!was)
			continue;
		ret = check_entry(w, guest, &entry);
		if (entry != was) {
			put_be64(w->l2 + i, entry);
			dirty = true;
		}
	}
	if (!ret && dirty)
		ret = walk_failed(w, file_pwrite(w->img->file, w->l2, q->l2_bytes, l2),
				  "writing an L2 table", l2);
	w->changed |= dirty;
	return ret;
}

/* ------------------------------------------------------------------ L1 table */

/* The first pass: the table's own space.  *entry as it should be. */
static int check_table(struct walk *w, uint64_t index, uint64_t *entry)
{
	const struct qcow *q = w->q;
	const char *bad = qcow_l2_bad(w->img, *entry, true);
	uint64_t guest = index << q->l1_shift, to;
	int ret;

	if (bad) {
		if (finding(w, "the L2 table", guest, *entry, bad)) {
			*entry = 0;
			say(w, 'R', "it is dropped");
		}
		return 0;
	}
	ret = mark_range(w, *entry, q->l2_bytes, true);
	if (ret <= 0 || !finding(w, "the L2 table", guest, *entry, "shares its space with another table"))
		return MIN(ret, 0);
	ret = make_copy(w, *entry, q->l2_bytes, &to);
	if (ret)
		return ret;
	*entry = to;
	say(w, 'R', "it has a copy of its own at 0x%" PRIx64, to);
	return 0;
}

/* One pass: @tables: over the L2 tables themselves, else over what they hold. */
static int walk_l1(struct walk *w, bool tables)
{
	struct qcow *q = w->q;
	int ret = 0;

	for (uint64_t i = 0; !ret && i < q->l1_entries; i += L1_CHUNK) {
		uint64_t n = MIN(q->l1_entries - i, L1_CHUNK), at = q->l1_off + i * 8;
		bool dirty = false;

		ret = walk_failed(w, file_pread(w->img->file, w->l1, n * 8, at), "reading the L1 table", at);
		for (uint64_t k = 0; !ret && k < n; k++) {
			uint64_t was = qcow_l1_load(q, w->l1 + 8 * k), entry = was;

			if (!was)
				continue;
			if (tables)
				ret = check_table(w, i + k, &entry);
			else if (w->fix || !qcow_l2_bad(w->img, entry, true))
				ret = check_l2(w, i + k, entry);
			if (entry != was) {
				qcow_l1_store(q, w->l1 + 8 * k, entry);
				dirty = true;
			}
		}
		if (!ret && dirty)
			ret = walk_failed(w, file_pwrite(w->img->file, w->l1, n * 8, at),
					  "writing the L1 table", at);
		w->changed |= dirty;
	}
	return ret;
}

static int walk_run(struct walk *w)
{
	struct qcow *q = w->q;
	uint64_t l1_end = q->l1_off + q->l1_entries * 8;
	int ret = 0;

	w->l1 = malloc(8 * L1_CHUNK);
	w->l2 = malloc(q->l2_bytes);
	w->copy = malloc(MAX(q->l2_bytes, q->cluster));
	if (!w->l1 || !w->l2 || !w->copy)
		ret = err_errno(w->err, -ENOMEM, "%s", w->img->name);
	if (!ret)
		ret = mark_range(w, 0, QCOW_HEADER, false);
	if (!ret && q->backing_off && q->backing_len)
		ret = MIN(mark_range(w, q->backing_off, q->backing_len, false), 0);
	if (!ret)
		ret = MIN(mark_range(w, q->l1_off, l1_end - q->l1_off, false), 0);
	if (!ret)
		ret = walk_l1(w, true);
	/* what is repaired has good tables only, some of them behind the old end; entries never lie there */
	if (!ret)
		ret = walk_l1(w, false);
	q->limit = MAX(q->limit, round_up(w->file_end, q->cluster));
	return ret;
}

static void walk_end(struct walk *w)
{
	usage_exit(&w->use);
	free(w->l1);
	free(w->l2);
	free(w->copy);
}

/* --------------------------------------------------------------------- leaks */

/* Bytes of [off, end) that are stored in the file: holes cost nothing. */
static int stored_bytes(struct walk *w, uint64_t off, uint64_t end, uint64_t *bytes)
{
	while (off < end) {
		uint64_t n = end - off;
		bool data;
		int ret = file_status(w->img->file, off, &n, &data);

		if (ret || !n)
			return ret;
		n = MIN(n, end - off);
		*bytes += data ? n : 0;
		off += n;
	}
	return 0;
}

static int leak(struct walk *w, uint64_t off, uint64_t end)
{
	uint64_t bytes = 0, n;
	int ret;

	/* file systems keep what is less than a page */
	off = round_up(off, HOLE);
	end = round_down(end, HOLE);
	if (off >= end)
		return 0;
	ret = stored_bytes(w, off, end, &bytes);
	n = div_up(bytes, w->q->cluster);
	if (ret || !n)
		return walk_failed(w, ret, "looking for leaked space", off);
	say(w, 'L', "%" PRIu64 " clusters from 0x%" PRIx64 " to 0x%" PRIx64 " belong to nothing", n,
	    off, end);
	ret = -ENOTSUP;
	if (w->fix_leaks)
		ret = file_zero(w->img->file, off, end - off, IO_MAY_UNMAP | IO_NO_FALLBACK);
	if (ret) {
		w->out->leaks += n;
		return ret == -ENOTSUP ? 0 : walk_failed(w, ret, "giving back leaked space", off);
	}
	w->out->leaks_fixed += n;
	say(w, 'R', "they are given back");
	return 0;
}

static int space(struct walk *w, uint64_t off, uint64_t end)
{
	qcow_space_add(&w->q->space, off, end - off);
	return 0;
}

/* Calls fn() for whole clusters that nothing is in, between two things that are referred to. */
static int for_each_free(struct walk *w, int (*fn)(struct walk *w, uint64_t off, uint64_t end))
{
	struct usage *u = &w->use;
	/* what repairs have added since is in use */
	uint64_t stop = MIN(w->end, w->old_size) >> u->shift, start = 0, off, end;
	int ret = 0;

	for (uint64_t i = 0; !ret && i <= stop; i++) {
		if (i < stop && !u->page[i / PAGE_UNITS] && !(i % PAGE_UNITS)) {
			i = MIN(i + PAGE_UNITS, stop) - 1;	/* a page of nothing */
			continue;
		}
		if (i < stop && mark_get(u, i) == MARK_FREE)
			continue;
		off = round_up(start << u->shift, w->q->cluster);
		end = round_down(i << u->shift, w->q->cluster);
		if (off < end)
			ret = fn(w, off, end);
		start = i + 1;
	}
	return ret;
}

/* On a device nothing is wasted: who writes next finds it (qcow_find_end). */
static int find_leaks(struct walk *w)
{
	struct file *f = w->img->file;
	uint64_t end = round_up(w->end, w->q->cluster);
	int ret = f->block_dev ? 0 : for_each_free(w, leak);

	if (ret || f->block_dev || w->end >= f->size)
		return ret;
	if (end < f->size)
		ret = leak(w, end, f->size);
	if (!ret && w->fix_leaks)
		ret = walk_failed(w, file_truncate(f, round_up(w->end, 512)), "making the file shorter",
				  w->end);
	return ret;
}

/* --------------------------------------------------------------------- whole */

/* What was repaired may be part of what Xen's checksum covers. */
static int after_repair(struct walk *w)
{
	int ret = walk_failed(w, file_flush(w->img->file), "flushing", 0);

	if (!ret && w->q->xen_valid) {
		ret = qcow_l1_sum(w->img, &w->q->xen_sum, w->err);
		if (!ret)
			ret = qcow_write_header(w->img, w->err);
	}
	meta_drop(w->img->meta);
	return ret;
}

int qcow_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	       void (*report)(void *arg, char severity, const char *line), void *arg,
	       struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct walk w = {
		.img = img, .q = q, .err = err, .out = out, .report = report, .arg = arg,
		.fix = fix & TAPIMG_FIX_ERRORS, .file_end = img->file->size,
	};
	int ret = usage_init(&w);

	out->has_clusters = true;
	out->total_clusters = div_up(q->size, q->cluster);
	if (q->xen && !q->xen_valid)
		say(&w, 'I', "Xen's checksum of the L1 table does not fit: its extension is ignored");
	if (!ret)
		ret = walk_run(&w);
	/* what cannot be trusted must not make space look free */
	if (!ret)
		w.fix_leaks = fix & TAPIMG_FIX_LEAKS && !out->check_errors && !out->corruptions;
	if (!ret)
		ret = find_leaks(&w);
	out->image_end = w.end;
	if (!ret && (w.changed || out->leaks_fixed))
		ret = after_repair(&w);
	walk_end(&w);
	return ret;
}

int qcow_find_end(struct tapimg *img, uint64_t *end, struct tapimg_err *err)
{
	struct walk w = { .img = img, .q = qcow_of(img), .err = err };
	int ret = usage_init(&w);

	if (!ret)
		ret = walk_run(&w);
	if (!ret)
		ret = for_each_free(&w, space);
	*end = w.end;
	walk_end(&w);
	return ret;
}
