/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-journal.c - resizing with an undo log, as Xen's storage managers know it
 *
 * Resizing is crash-safe without one (vhd-switch.c).  Where a journal is asked for, the image is disabled
 * while it is being changed, and whoever finds both can go back:
 *
 * J1. All that will be overwritten is in the journal, durably, before the image is touched.
 * J2. Then the footers are poisoned, and stay so until the end; nobody opens such an image.
 * J3. Going back writes everything as it was, the footers last, cuts the file, and may be repeated.
 * J4. An image that opens has not been touched yet, or all of it is done: a journal that was left beside
 *     it is only removed, for what has been written since would be lost.
 *
 *	header | entries of tables | entries of data, each an entry header and its bytes
 *
 * Bytes of an entry are whole sectors; Xen's tools take no others.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vhd.h"

#define J_COOKIE "vjournal"
#define J_MAGIC 0xaaaa12344321aaaaULL
#define J_ENTRY 32			/* header of an entry */
#define J_CHUNK (2 * MiB)
#define J_MAX_ENTRY (256 * MiB)		/* larger than any table */

enum { J_FOOTER = 1, J_FOOTER_COPY, J_HEADER, J_LOCATOR, J_BAT, J_BATMAP_HEADER, J_BATMAP, J_DATA };

struct journal {
	struct file *file;		/* the journal */
	struct file *vhd;
	const char *name;
	uint64_t at;
	uint32_t tables, data;		/* entries written */
	uint64_t data_off;
	struct tapimg_err *err;
	enum vhd_mutant mutant;
};

static uint32_t entry_sum(const uint8_t *p, size_t len)
{
	return vhd_batmap_sum(p, len, VHD_BATMAP_VERSION);	/* the same kind of sum */
}

/* ------------------------------------------------------------------- writing */

/* Bytes of the image, as they are now. */
static int save(struct journal *j, uint32_t type, uint64_t off, uint64_t len)
{
	uint64_t total = J_ENTRY + len;
	uint8_t *buf = file_buf(total);
	int ret = buf ? 0 : -ENOMEM;

	if (buf) {
		memset(buf, 0, total);
		ret = file_pread(j->vhd, buf + J_ENTRY, len, off);
		put_be64(buf, J_MAGIC);
		put_be32(buf + 8, type);
		put_be32(buf + 12, len);
		put_be64(buf + 16, off);
		put_be32(buf + 24, entry_sum(buf, J_ENTRY + len));
	}
	if (!ret)
		ret = file_pwrite(j->file, buf, total, j->at);
	free(buf);
	j->at += total;
	if (type == J_DATA)
		j->data++;
	else
		j->tables++;
	return ret;
}

static int save_tables(struct journal *j, const struct vhd_look *l)
{
	const struct vhd_header *h = &l->header;
	int ret = save(j, J_FOOTER, l->primary_off, MIN(VHD_SECTOR, l->eof - l->primary_off));

	if (l->footer.type == VHD_TYPE_FIXED)
		return ret;
	if (!ret)
		ret = save(j, J_FOOTER_COPY, 0, VHD_SECTOR);
	if (!ret)
		ret = save(j, J_HEADER, l->footer.data_off, VHD_HEADER_SIZE);
	for (unsigned i = 0; i < VHD_LOCATORS && !ret; i++) {
		uint64_t space = vhd_locator_space(&h->loc[i]);

		if (space && space <= J_MAX_ENTRY && checked_range(h->loc[i].off, space, l->eof))
			ret = save(j, J_LOCATOR, h->loc[i].off, space);
	}
	if (!ret)
		ret = save(j, J_BAT, h->table_off, round_up(4ULL * h->max_bat, VHD_SECTOR));
	if (ret || !l->has_batmap)
		return ret;
	ret = save(j, J_BATMAP_HEADER, l->batmap_header_off, VHD_SECTOR);
	if (!ret && checked_range(l->batmap.off, (uint64_t)l->batmap.sectors * VHD_SECTOR, l->eof))
		ret = save(j, J_BATMAP, l->batmap.off, (uint64_t)l->batmap.sectors * VHD_SECTOR);
	return ret;
}

static int write_header(struct journal *j, const struct vhd_look *l)
{
	uint8_t buf[VHD_SECTOR] = { 0 };
	uint64_t end = j->at;

	memcpy(buf, J_COOKIE, 8);
	memcpy(buf + 8, l->footer.uuid, 16);
	put_be64(buf + 24, l->primary_off);
	put_be32(buf + 32, j->data);
	put_be32(buf + 36, j->tables);
	put_be64(buf + 40, j->data_off);
	put_be64(buf + 48, VHD_SECTOR);
	memcpy(buf + 56, &end, 8);	/* in the host's order, as all known readers have it */
	return file_pwrite(j->file, buf, VHD_SECTOR, 0);
}

static int barrier(struct journal *j)
{
	return j->mutant == VHD_MUTANT_JOURNAL ? 0 : file_flush(j->file);
}

/* J1.  @end: of what will be overwritten. */
static int journal_write(struct journal *j, const struct vhd_look *l, uint64_t end)
{
	uint64_t off = VHD_SECTOR;
	int ret;

	j->at = VHD_SECTOR;
	ret = save_tables(j, l);
	j->data_off = j->at;
	end = MIN(round_up(end, VHD_SECTOR), l->eof);
	for (; off < end && !ret; off += J_CHUNK)
		ret = save(j, J_DATA, off, MIN(J_CHUNK, end - off));
	if (!ret)
		ret = barrier(j);
	if (!ret)
		ret = write_header(j, l);
	return ret ? ret : barrier(j);
}

static int journal_open(struct tapimg *img, const char *path, struct file **out,
			struct tapimg_err *err)
{
	struct file *f;
	int ret;

	ret = file_open(img->loop, path, FILE_RDWR | FILE_CREATE, &f, err);
	if (ret)
		return ret;
	if (!f->block_dev && f->size) {
		file_close(f);
		return err_set(err, -EEXIST, "%s: the journal exists already", path);
	}
	*out = f;
	return 0;
}

static int poison(struct tapimg *img, bool on, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);

	int ret;

	memcpy(v->look.footer.cookie, on ? VHD_COOKIE_POISON : VHD_COOKIE, 8);
	v->poisoned = true;
	ret = vhd_write_footers(img, err);
	v->poisoned = on || ret;
	return ret;
}

int vhd_stop_here(struct tapimg *img, enum vhd_stop at, struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);

	if (!v->stop || v->stop != at)
		return 0;
	v->footer_moved = v->batmap_dirty = false;	/* nothing more is written */
	return err_set(err, -EINVAL, "%s: stopped as asked for", img->name);
}

/* Where the tables end that a disk of @size needs, at most: with room for a parent's names. */
static uint64_t tables_room(const struct vhd *v, uint64_t size)
{
	uint64_t blocks = MAX(div_up(size, v->block), v->look.header.max_bat);

	return vhd_look_tables_end(&v->look) + 4 * blocks + blocks / 8 + 64 * KiB + v->bitmap_len +
	       v->block;
}

static int resize_journaled(struct tapimg *img, uint64_t size, struct journal *j,
			    struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	bool room = v->fixed || div_up(size, v->block) <= v->look.header.max_bat;
	/* what has been written since the image was opened ends where the trailer is to be */
	int ret = vhd_batmap_store(img, err);

	if (!ret)
		ret = vhd_space_end(img, err);
	if (ret)
		return ret;
	ret = journal_write(j, &v->look, room ? 0 : tables_room(v, size));
	if (!ret)
		ret = file_sync_dir(img->loop, j->file->name);		/* J1 */
	if (ret)
		return err_errno(err, ret, "%s: writing the journal", j->file->name);
	ret = poison(img, true, err);					/* J2 */
	if (!ret)
		ret = vhd_stop_here(img, VHD_STOP_BEGIN, err);
	if (!ret)
		ret = vhd_resize(img, size, TAPIMG_PREALLOC_OFF, err);
	if (!ret)
		ret = vhd_stop_here(img, VHD_STOP_METADATA, err);
	if (!ret)
		ret = vhd_stop_here(img, VHD_STOP_END, err);
	return ret ? ret : poison(img, false, err);
}

int vhd_resize_journal(struct tapimg *img, uint64_t size, const char *journal, enum vhd_stop stop,
		       struct tapimg_err *err)
{
	struct vhd *v = vhd_of(img);
	struct journal j = { .vhd = img->file, .name = img->name, .err = err, .mutant = v->mutant };
	bool device;
	int ret;

	if (!journal)
		return vhd_resize(img, size, TAPIMG_PREALLOC_OFF, err);
	if (size < img->size && !v->fixed)
		return err_set(err, -ENOSYS, "%s: blocks that are dropped cannot be brought back by a journal: "
			       "only growing can", img->name);
	ret = journal_open(img, journal, &j.file, err);
	if (ret)
		return ret;
	v->stop = stop;
	ret = resize_journaled(img, size, &j, err);
	v->stop = VHD_STOP_NONE;
	device = j.file->block_dev;
	if (!ret && device) {
		uint8_t zero[VHD_SECTOR] = { 0 };

		ret = file_pwrite(j.file, zero, VHD_SECTOR, 0);
	}
	file_close(j.file);
	if (!ret && !device)
		ret = file_remove(img->loop, journal);
	/* an image that has not been touched needs no journal */
	if (ret && !v->poisoned && !device)
		file_remove(img->loop, journal);
	return ret;
}

/* ----------------------------------------------------------------- going back */

struct entry {
	uint32_t type, len;
	uint64_t off;
	uint8_t *buf;			/* entry header and bytes */
};

static int bad_journal(struct journal *j, const char *what)
{
	return err_set(j->err, -EINVAL, "%s: %s at %" PRIu64, j->file->name, what, j->at);
}

/* The entry at j->at, which is moved on. */
static int load(struct journal *j, struct entry *e)
{
	uint8_t head[J_ENTRY];
	uint32_t sum;
	int ret;

	e->buf = NULL;
	if (!checked_range(j->at, J_ENTRY, j->file->size))
		return bad_journal(j, "the journal ends");
	ret = file_pread(j->file, head, J_ENTRY, j->at);
	if (ret)
		return err_errno(j->err, ret, "%s: reading", j->file->name);
	e->type = get_be32(head + 8);
	e->len = get_be32(head + 12);
	e->off = get_be64(head + 16);
	sum = get_be32(head + 24);
	if (get_be64(head) != J_MAGIC || e->type < J_FOOTER || e->type > J_DATA ||
	    e->len > J_MAX_ENTRY || !checked_range(e->off, e->len, INT64_MAX))
		return bad_journal(j, "an entry is damaged");
	if (!checked_range(j->at, (uint64_t)J_ENTRY + e->len, j->file->size))
		return bad_journal(j, "the journal ends inside of an entry");
	e->buf = file_buf((uint64_t)J_ENTRY + e->len);
	if (!e->buf)
		return err_errno(j->err, -ENOMEM, "%s", j->file->name);
	ret = file_pread(j->file, e->buf, (uint64_t)J_ENTRY + e->len, j->at);
	if (ret)
		return err_errno(j->err, ret, "%s: reading", j->file->name);
	put_be32(e->buf + 24, 0);
	if (entry_sum(e->buf, J_ENTRY + e->len) != sum)
		return bad_journal(j, "an entry has a wrong checksum");
	j->at += (uint64_t)J_ENTRY + e->len;
	return 0;
}

enum pass { PASS_LOOK, PASS_TABLES, PASS_FOOTERS };

static int apply(struct journal *j, uint64_t at, uint32_t n, enum pass pass)
{
	int ret = 0;

	j->at = at;
	while (n-- && !ret) {
		struct entry e = { 0 };

		ret = load(j, &e);
		if (!ret && pass != PASS_LOOK &&
		    (e.type == J_FOOTER || e.type == J_FOOTER_COPY) == (pass == PASS_FOOTERS)) {
			ret = file_pwrite(j->vhd, e.buf + J_ENTRY, e.len, e.off);
			if (ret)
				err_errno(j->err, ret, "%s: writing at %" PRIu64, j->name, e.off);
		}
		free(e.buf);
	}
	return ret;
}

static int revert_all(struct journal *j, const uint8_t *head)
{
	uint32_t ndata = get_be32(head + 32), ntables = get_be32(head + 36);
	uint64_t data = get_be64(head + 40), tables = get_be64(head + 48);
	uint64_t footer = get_be64(head + 24);
	int ret = apply(j, tables, ntables, PASS_LOOK);

	/* nothing is touched before all of it has been found sound */
	if (!ret)
		ret = apply(j, data, ndata, PASS_LOOK);
	if (!ret && (footer > INT64_MAX - VHD_SECTOR || !ntables))
		ret = err_set(j->err, -EINVAL, "%s: says that the footer was at %" PRIu64, j->file->name,
			      footer);
	if (!ret && j->mutant == VHD_MUTANT_REVERT)
		ret = apply(j, tables, ntables, PASS_FOOTERS);
	if (!ret)
		ret = apply(j, tables, ntables, PASS_TABLES);
	if (!ret)
		ret = apply(j, data, ndata, PASS_TABLES);
	if (!ret)
		ret = file_flush(j->vhd);
	if (!ret)
		ret = apply(j, tables, ntables, PASS_FOOTERS);			/* J3 */
	if (!ret && !j->vhd->block_dev)
		ret = file_truncate(j->vhd, footer + VHD_SECTOR);
	if (!ret)
		ret = file_flush(j->vhd);
	return ret && !(j->err && j->err->text[0]) ?
	       err_errno(j->err, ret, "%s: going back", j->name) : ret;
}

/* The image that the journal is of; @opens: J4. */
static int whose(struct journal *j, const uint8_t *head, bool *opens)
{
	struct vhd_look l;
	int ret = 0;

	*opens = !vhd_look(j->vhd, 0, &l, NULL);
	if ((l.has_copy || l.has_primary) &&
	    memcmp(l.has_copy ? l.copy.uuid : l.primary.uuid, head + 8, 16))
		ret = err_set(j->err, -EINVAL, "%s: is the journal of another image", j->file->name);
	vhd_look_free(&l);
	return ret;
}

int vhd_revert(struct file *file, const char *name, const char *journal, struct tapimg_err *err)
{
	return vhd_revert_mutant(file, name, journal, VHD_MUTANT_NONE, err);
}

int vhd_revert_mutant(struct file *file, const char *name, const char *journal,
		      enum vhd_mutant mutant, struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	struct journal j = { .vhd = file, .name = name, .err = &e, .mutant = mutant };
	uint8_t head[VHD_SECTOR];
	bool device, opens = false;
	int ret = file_open(file->loop, journal, FILE_RDWR, &j.file, &e);

	if (ret)
		return err_set(err, ret, "%s", e.text);
	device = j.file->block_dev;
	ret = j.file->size < VHD_SECTOR ? -EINVAL : file_pread(j.file, head, VHD_SECTOR, 0);
	if (ret || memcmp(head, J_COOKIE, 8))
		ret = err_set(&e, ret ? ret : -EINVAL, "%s: is not a journal", journal);
	if (!ret)
		ret = whose(&j, head, &opens);
	if (!ret && !opens)
		ret = revert_all(&j, head);
	if (!ret && device) {
		memset(head, 0, sizeof(head));
		ret = file_pwrite(j.file, head, VHD_SECTOR, 0);
	}
	file_close(j.file);
	if (!ret && !device)
		ret = file_remove(file->loop, journal);
	return ret ? err_set(err, ret, "%s", e.text[0] ? e.text : strerror(-ret)) : 0;
}
