/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-look.c - finding the structures of a VHD: which footer counts, header, batmap, names of the parent
 *
 * A sound trailer of a fixed disk counts whatever lies at offset 0, for those are bytes of the guest, who
 * must not be able to turn its disk into one that names other files.  For all others the copy at 0
 * counts before the trailer: writers keep it right at every moment, while the trailer may be missing
 * after a crash, or be marked dead for the time of writing (0xC7).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "vhd.h"

#define LOCATOR_MAX (64 * KiB)		/* bytes of a parent's name that are looked at */
#define BAT_PIECE (256 * KiB)

/* ------------------------------------------------------------------- footers */

static int read_at(const struct vhd_look *l, void *buf, uint64_t len, uint64_t off,
		   const char *what, struct tapimg_err *err)
{
	int ret = file_pread(l->file, buf, len, off);

	return ret ? err_errno(err, ret, "%s: reading %s at %" PRIu64, l->file->name, what, off) : 0;
}

static int read_copy(struct vhd_look *l, struct tapimg_err *err)
{
	uint8_t *buf = file_buf(VHD_SECTOR);
	int ret = buf ? read_at(l, buf, VHD_SECTOR, 0, "the first sector", err) : -ENOMEM;

	if (!ret) {
		vhd_footer_parse(&l->copy, buf);
		l->has_copy = vhd_footer_plausible(&l->copy);
	}
	free(buf);
	return ret;
}

/* The last 512 bytes, or as Virtual PC before 2004 wrote it the last 511, which lack a reserved byte. */
static int read_primary(struct vhd_look *l, struct tapimg_err *err)
{
	uint8_t *buf = file_buf(2 * VHD_SECTOR);
	int ret;

	if (!buf)
		return -ENOMEM;
	l->primary_off = l->eof - VHD_SECTOR;
	ret = read_at(l, buf, VHD_SECTOR, l->primary_off, "the last sector", err);
	if (!ret) {
		buf[VHD_SECTOR] = 0;
		vhd_footer_parse(&l->primary, buf);
		l->has_primary = vhd_footer_plausible(&l->primary);
		if (!l->has_primary && !memcmp(buf + 1, VHD_COOKIE, 8)) {
			struct vhd_footer f;

			vhd_footer_parse(&f, buf + 1);
			if (vhd_footer_plausible(&f)) {
				l->primary = f;
				l->has_primary = true;
				l->primary_off++;
			}
		}
	}
	free(buf);
	return ret;
}

static bool poisoned(const struct vhd_footer *f)
{
	return !memcmp(f->cookie, VHD_COOKIE_POISON, 8);
}

static int choose(struct vhd_look *l, unsigned flags, struct tapimg_err *err)
{
	bool copy = l->has_copy && vhd_type_sparse(l->copy.type);

	if (flags & VHD_LOOK_BACKUP || flags & VHD_LOOK_HEAD)
		l->has_primary &= l->primary.type == VHD_TYPE_FIXED;
	if (l->has_primary && (l->primary.type == VHD_TYPE_FIXED || !copy ||
			       flags & VHD_LOOK_PRIMARY))
		l->footer = l->primary;
	else if (copy && !(flags & VHD_LOOK_PRIMARY))
		l->footer = l->copy;
	else
		return err_set(err, -EINVAL, "%s: is not a VHD: no valid footer at its end%s",
			       l->file->name, flags & VHD_LOOK_PRIMARY ? "" : ", no copy at its beginning");
	if (poisoned(&l->footer) && !(flags & VHD_LOOK_POISON))
		return err_set(err, -EINVAL, "%s: is disabled, because a resize of it was broken off: revert "
			       "that first, with its journal", l->file->name);
	return 0;
}

/* What nobody could read; other flaws of a footer are for check to report. */
static int footer_check(const struct vhd_look *l, struct tapimg_err *err)
{
	const struct vhd_footer *f = &l->footer;
	const char *name = l->file->name;

	if (f->version >> 16 != VHD_VERSION >> 16)
		return err_set(err, -ENOTSUP, "%s: footer version 0x%x is not known", name, f->version);
	if (f->type != VHD_TYPE_FIXED && !vhd_type_sparse(f->type))
		return err_set(err, -ENOTSUP, "%s: disk type %u is not known", name, f->type);
	if (vhd_footer_is_tap(f) && f->creator_version <= VHD_TAP_OLD && vhd_type_sparse(f->type))
		return err_set(err, -ENOTSUP, "%s: was made by version 0.1 of Xen's tools, whose bitmaps run "
			       "the other way", name);
	if (f->cur_size > INT64_MAX)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is too large", name,
			       f->cur_size);
	return 0;
}

/* -------------------------------------------------------------------- header */

static int read_header(struct vhd_look *l, struct tapimg_err *err)
{
	uint64_t off = l->footer.data_off;
	const char *bad = "invalid data offset";
	uint8_t *buf;
	int ret;

	if (off < VHD_SECTOR || off % VHD_SECTOR || !checked_range(off, VHD_HEADER_SIZE, l->eof))
		return err_set(err, -EUCLEAN, "%s: the footer says that the header is at %" PRIu64
			       ", which is not inside the file", l->file->name, off);
	buf = file_buf(VHD_HEADER_SIZE);
	if (!buf)
		return -ENOMEM;
	ret = read_at(l, buf, VHD_HEADER_SIZE, off, "the header", err);
	if (!ret) {
		vhd_header_parse(&l->header, buf);
		bad = vhd_header_bad(&l->header, false);
		l->has_header = !bad;
	}
	free(buf);
	if (!ret && bad)
		ret = err_set(err, -EUCLEAN, "%s: header is invalid: %s", l->file->name, bad);
	return ret;
}

static bool meets(uint64_t off, uint64_t len, uint64_t at, uint64_t n)
{
	return n && checked_range(at, n, INT64_MAX) && off < at + n && at < off + len;
}

static int table_check(const struct vhd_look *l, struct tapimg_err *err)
{
	const struct vhd_header *h = &l->header;

	if (!checked_range(h->table_off, 4ULL * h->max_bat, l->eof))
		return err_set(err, -EUCLEAN, "%s: the block table at %" PRIu64 " with %u entries is not "
			       "inside the file", l->file->name, h->table_off, h->max_bat);
	if (meets(h->table_off, 4ULL * h->max_bat, l->footer.data_off, VHD_HEADER_SIZE))
		return err_set(err, -EUCLEAN, "%s: header is invalid: invalid table offset: %" PRIu64 ", and "
			       "the header is at %" PRIu64, l->file->name, h->table_off,
			       l->footer.data_off);
	return 0;
}

/* Xen's tools put it right behind the table, and one knows by the cookie that it is there. */
static int read_batmap_header(struct vhd_look *l, struct tapimg_err *err)
{
	uint8_t *buf;
	int ret;

	l->batmap_header_off = round_up(l->header.table_off + 4ULL * l->header.max_bat, VHD_SECTOR);
	if (!vhd_footer_is_tap(&l->footer) || l->footer.creator_version < VHD_TAP_BATMAP ||
	    !checked_range(l->batmap_header_off, VHD_SECTOR, l->eof))
		return 0;
	buf = file_buf(VHD_SECTOR);
	if (!buf)
		return -ENOMEM;
	ret = read_at(l, buf, VHD_SECTOR, l->batmap_header_off, "the batmap's header", err);
	if (!ret && !memcmp(buf, VHD_BATMAP_COOKIE, 8)) {
		vhd_batmap_parse(&l->batmap, buf);
		l->has_batmap = true;
	}
	free(buf);
	return ret;
}

static int read_locators(struct vhd_look *l, struct tapimg_err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < VHD_LOCATORS && !ret; i++) {
		const struct vhd_locator *loc = &l->header.loc[i];
		uint8_t *buf;

		if (!loc->len || loc->len > LOCATOR_MAX || loc->len > vhd_locator_space(loc) ||
		    !checked_range(loc->off, loc->len, l->eof))
			continue;	/* for check to report; others may do */
		buf = file_buf(loc->len);
		if (!buf)
			return -ENOMEM;
		ret = read_at(l, buf, loc->len, loc->off, "a parent locator", err);
		if (!ret)
			l->loc_name[i] = vhd_locator_decode(loc->code, buf, loc->len);
		free(buf);
	}
	if (!ret)
		l->parent_name = vhd_utf16_decode(l->header.parent_name, sizeof(l->header.parent_name),
						  true);
	return ret;
}

int vhd_look(struct file *file, unsigned flags, struct vhd_look *l, struct tapimg_err *err)
{
	int ret;

	memset(l, 0, sizeof(*l));
	l->file = file;
	l->eof = file->size;
	if (l->eof < VHD_SECTOR)
		return err_set(err, -EINVAL, "%s: is not a VHD: it has only %" PRIu64 " bytes", file->name,
			       l->eof);
	ret = read_copy(l, err);
	if (!ret && !(flags & VHD_LOOK_HEAD && l->has_copy && vhd_type_sparse(l->copy.type)))
		ret = read_primary(l, err);
	if (!ret)
		ret = choose(l, flags, err);
	if (!ret)
		ret = footer_check(l, err);
	if (ret || !vhd_type_sparse(l->footer.type))
		return ret;
	ret = read_header(l, err);
	if (!ret)
		ret = table_check(l, err);
	if (!ret)
		ret = read_batmap_header(l, err);
	if (!ret && l->footer.type == VHD_TYPE_DIFF)
		ret = read_locators(l, err);
	return ret;
}

void vhd_look_free(struct vhd_look *l)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		free(l->loc_name[i]);
	free(l->parent_name);
	memset(l, 0, sizeof(*l));
}

/* ------------------------------------------------------------ the end of it all */

uint64_t vhd_look_tables_end(const struct vhd_look *l)
{
	const struct vhd_header *h = &l->header;
	uint64_t end = MAX(l->footer.data_off + VHD_HEADER_SIZE, l->batmap_header_off);

	if (l->has_batmap && l->batmap.off < l->eof) {
		end = MAX(end, l->batmap_header_off + VHD_SECTOR);
		end = MAX(end, l->batmap.off + (uint64_t)l->batmap.sectors * VHD_SECTOR);
	}
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (h->loc[i].code && checked_range(h->loc[i].off, vhd_locator_space(&h->loc[i]),
						    INT64_MAX))
			end = MAX(end, h->loc[i].off + vhd_locator_space(&h->loc[i]));
	return end;
}

bool vhd_look_heads(const struct vhd_look *l, uint64_t off, uint64_t len)
{
	return meets(off, len, 0, VHD_SECTOR) || meets(off, len, l->footer.data_off, VHD_HEADER_SIZE) ||
	       meets(off, len, l->header.table_off, 4ULL * l->header.max_bat);
}

bool vhd_look_batmap(const struct vhd_look *l, uint64_t off, uint64_t len)
{
	return l->has_batmap &&
	       (meets(off, len, l->batmap_header_off, VHD_SECTOR) ||
		meets(off, len, l->batmap.off, (uint64_t)l->batmap.sectors * VHD_SECTOR));
}

bool vhd_look_overlaps(const struct vhd_look *l, uint64_t off, uint64_t len)
{
	const struct vhd_header *h = &l->header;

	if (vhd_look_heads(l, off, len) || vhd_look_batmap(l, off, len))
		return true;
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (meets(off, len, h->loc[i].off, vhd_locator_space(&h->loc[i])))
			return true;
	return false;
}

int vhd_look_end(const struct vhd_look *l, uint64_t *end, struct tapimg_err *err)
{
	uint64_t off = l->header.table_off, left = 4ULL * l->header.max_bat, n;
	uint64_t total = vhd_bitmap_len(l->header.block_size) + (uint64_t)l->header.block_size;
	uint8_t *buf;
	int ret = 0;

	*end = vhd_look_tables_end(l);
	buf = file_buf(BAT_PIECE);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", l->file->name);
	for (; left && !ret; off += n, left -= n) {
		n = MIN(left, BAT_PIECE);
		ret = read_at(l, buf, n, off, "the block table", err);
		for (uint64_t i = 0; i < n && !ret; i += 4) {
			uint32_t e = get_be32(buf + i);

			if (e != VHD_UNUSED)
				*end = MAX(*end, (uint64_t)e * VHD_SECTOR + total);
		}
	}
	free(buf);
	return ret;
}

/* ------------------------------------------------------------------- the parent */

/* Files that locators name are looked for only where the caller lets images open files. */
static bool parent_there(const char *path, const char *name, const struct tapimg_open_opts *opts,
			 struct tapimg_loop *loop)
{
	char *full = name_resolve(path, name);
	bool there = full && !image_gate(opts, TAPIMG_ROLE_BACKING, path, full, NULL) &&
		     file_exists(loop, full) > 0;

	free(full);
	return there;
}

char *vhd_look_parent(const struct vhd_look *l, const char *path,
		      const struct tapimg_open_opts *opts, struct tapimg_loop *loop)
{
	const char *first = NULL, *slash;
	char *base = NULL;

	if (l->footer.type != VHD_TYPE_DIFF)
		return NULL;
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		if (!l->loc_name[i])
			continue;
		if (!first)
			first = l->loc_name[i];
		if (parent_there(path, l->loc_name[i], opts, loop))
			return strdup(l->loc_name[i]);
	}
	if (!l->parent_name || !*l->parent_name)
		return first ? strdup(first) : NULL;
	/* the bare name beside the image: chains that were copied here as a whole */
	slash = MAX(strrchr(l->parent_name, '/'), strrchr(l->parent_name, '\\'));
	if (asprintf(&base, "./%s", slash ? slash + 1 : l->parent_name) < 0)
		return NULL;
	if (first && !parent_there(path, base, opts, loop)) {
		free(base);
		return strdup(first);
	}
	return base;
}

/* Parents that are neither VHD nor raw have a UUID that says what they are: "tapimg:" and the format. */
#define FORMAT_UUID "tapimg:"
#define FORMAT_MAX (16 - (sizeof(FORMAT_UUID) - 1))

int vhd_parent_uuid_of(const char *format, uint8_t uuid[16])
{
	size_t len = strlen(format);

	memset(uuid, 0, 16);
	if (!strcmp(format, "raw"))
		return 0;
	if (len > FORMAT_MAX)
		return -EINVAL;
	memcpy(uuid, FORMAT_UUID, sizeof(FORMAT_UUID) - 1);
	memcpy(uuid + sizeof(FORMAT_UUID) - 1, format, len);
	return 0;
}

const char *vhd_look_parent_format(const struct vhd_look *l)
{
	const uint8_t *uuid = l->header.parent_uuid;
	char name[FORMAT_MAX + 1] = "";
	const struct format *fmt;

	if (l->footer.type != VHD_TYPE_DIFF)
		return NULL;
	if (vhd_uuid_zero(uuid))
		return "raw";
	if (memcmp(uuid, FORMAT_UUID, sizeof(FORMAT_UUID) - 1))
		return "vpc";
	memcpy(name, uuid + sizeof(FORMAT_UUID) - 1, FORMAT_MAX);
	fmt = format_find(name);
	return fmt ? fmt->name : "vpc";
}
