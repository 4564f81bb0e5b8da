/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-sesparse.c - space-efficient sparse extents, the snapshots of ESXi 6.5 and later: reading
 *
 *	constant header | volatile header | journal | directory | tables | free bitmap | back map | grains
 *
 * Grains have 4 KiB, tables 4096 entries, entries 64 bits.  A directory entry says which table of the
 * area of tables it is; a table entry, in its highest four bits, what is there, and for data the
 * grain's number in the area of grains, its lowest 12 bits in front of the others.
 *
 * The format is not documented.  Sources: qemu's and dissect's readers.  Writing is left out: what journal,
 * bitmap and back map have to say then nobody outside of VMware knows.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vmdk.h"

/* constant header, u64 each */
#define SE_VERSION	8
#define SE_CAPACITY	16
#define SE_GRAIN	24
#define SE_TABLE	32
#define SE_FLAGS	40
#define SE_VOLATILE	80		/* offset and size, as all that follow, in sectors */
#define SE_GD		128
#define SE_TABLES	144
#define SE_GRAINS	192

#define SE_VERSION_2_1		0x0000000200000001ULL
#define SE_VOLATILE_MAGIC	0x00000000cafecafeULL
#define SE_VOLATILE_REPLAY	24

#define SE_GRAIN_BITS	12
#define SE_GT_BITS	12
#define SE_GT_LEN	(8ULL << SE_GT_BITS)
#define SE_SPAN		(1ULL << (SE_GRAIN_BITS + SE_GT_BITS))
#define SE_MAX_CAPACITY	((64 * TiB) / VMDK_SECTOR)

#define SE_GDE_MASK	0xffffffff00000000ULL
#define SE_GDE_TABLE	0x1000000000000000ULL

enum { SE_NONE, SE_UNMAPPED, SE_ZEROED, SE_DATA };	/* the highest bits of an entry */

struct sesparse {
	uint64_t *gd;			/* as on disk */
	uint64_t ngd;
	uint64_t tables, tables_len, grains, grains_len;	/* bytes */
};

static int bad(const struct vmdk_extent *x, const char *what, uint64_t value, struct tapimg_err *err)
{
	return err_set(err, -EINVAL, "%s: seSparse header: %s 0x%" PRIx64 " is not valid", x->path, what,
		       value);
}

static int fixed_fields(const struct vmdk_extent *x, const uint8_t *p, struct tapimg_err *err)
{
	if (get_le64(p) != VMDK_SE_MAGIC)
		return bad(x, "magic", get_le64(p), err);
	if (get_le64(p + SE_VERSION) != SE_VERSION_2_1)
		return err_set(err, -ENOTSUP, "%s: seSparse extents of version 0x%" PRIx64 " are not known here",
			       x->path, get_le64(p + SE_VERSION));
	if (get_le64(p + SE_GRAIN) != (1U << SE_GRAIN_BITS) / VMDK_SECTOR)
		return bad(x, "grain size", get_le64(p + SE_GRAIN), err);
	if (get_le64(p + SE_TABLE) != SE_GT_LEN / VMDK_SECTOR)
		return bad(x, "size of a grain table", get_le64(p + SE_TABLE), err);
	if (get_le64(p + SE_FLAGS))
		return err_set(err, -ENOTSUP, "%s: uses features that are not known here: flags 0x%" PRIx64,
			       x->path, get_le64(p + SE_FLAGS));
	if (get_le64(p + SE_CAPACITY) > SE_MAX_CAPACITY)
		return bad(x, "capacity", get_le64(p + SE_CAPACITY), err);
	return 0;
}

/* An area's place and length, in bytes.  @cut: it may reach beyond the end of the file. */
static int area(const struct vmdk_extent *x, const uint8_t *p, uint32_t at, const char *what, bool cut,
		uint64_t *off, uint64_t *len, struct tapimg_err *err)
{
	if (!checked_mul(get_le64(p + at), VMDK_SECTOR, off) ||
	    !checked_mul(get_le64(p + at + 8), VMDK_SECTOR, len) ||
	    !checked_range(*off, cut ? 0 : *len, x->file->size))
		return err_set(err, -EINVAL, "%s: the %s at sector 0x%" PRIx64 " of 0x%" PRIx64 " sectors is not "
			       "inside the file", x->path, what, get_le64(p + at), get_le64(p + at + 8));
	*len = MIN(*len, x->file->size - *off);
	return 0;
}

static int volatile_header(struct tapimg *img, struct vmdk_extent *x, uint64_t off,
			   struct tapimg_err *err)
{
	uint8_t p[VMDK_SECTOR];
	int ret = file_pread(x->file, p, sizeof(p), off);

	if (ret)
		return err_errno(err, ret, "%s: reading the volatile header", x->path);
	if (get_le64(p) != SE_VOLATILE_MAGIC)
		return bad(x, "magic of the volatile part", get_le64(p), err);
	if (!p[SE_VOLATILE_REPLAY] || img->flags & TAPIMG_SALVAGE)
		return 0;
	return err_set(err, -EUCLEAN, "%s: its journal has not been replayed, since ESXi was stopped while it "
		       "wrote: open it there once (or read what there is, with convert --salvage)", x->path);
}

static int directory(struct vmdk_extent *x, struct sesparse *s, uint64_t off, uint64_t len,
		     struct tapimg_err *err)
{
	int ret;

	if (s->ngd * 8 > len)
		return err_set(err, -EINVAL, "%s: the grain directory of %" PRIu64 " bytes is too short for %"
			       PRIu64 " entries", x->path, len, s->ngd);
	s->gd = file_buf(s->ngd * 8 + 1);
	ret = s->gd ? file_pread(x->file, s->gd, s->ngd * 8, off) : -ENOMEM;
	return ret ? err_errno(err, ret, "%s: reading the grain directory", x->path) : 0;
}

static int se_open(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	struct sesparse *s = calloc(1, sizeof(*s));
	uint64_t off, len, capacity;
	uint8_t p[VMDK_SECTOR];
	int ret;

	x->priv = s;
	ret = s ? file_pread(x->file, p, sizeof(p), 0) : -ENOMEM;
	if (ret)
		return err_errno(err, ret, "%s: reading the header", x->path);
	ret = fixed_fields(x, p, err);
	if (!ret)
		ret = area(x, p, SE_VOLATILE, "volatile header", false, &off, &len, err);
	if (!ret)
		ret = volatile_header(img, x, off, err);
	if (!ret)
		ret = area(x, p, SE_TABLES, "area of grain tables", true, &s->tables, &s->tables_len, err);
	if (!ret)
		ret = area(x, p, SE_GRAINS, "area of grains", true, &s->grains, &s->grains_len, err);
	if (!ret)
		ret = area(x, p, SE_GD, "grain directory", false, &off, &len, err);
	if (ret)
		return ret;
	capacity = get_le64(p + SE_CAPACITY) * VMDK_SECTOR;
	if (x->line && x->len > capacity)
		return err_set(err, -EINVAL, "%s: has %" PRIu64 " bytes, of which the descriptor wants %" PRIu64,
			       x->path, capacity, x->len);
	if (!x->line)
		x->len = capacity;
	s->ngd = div_up(capacity, SE_SPAN);
	x->grain = 1U << SE_GRAIN_BITS;
	return directory(x, s, off, len, err);
}

static void se_close(struct tapimg *img, struct vmdk_extent *x)
{
	struct sesparse *s = x->priv;

	if (s)
		free(s->gd);
	free(s);
	x->priv = NULL;
}

/* Where the table of @off begins, in bytes; 0: there is none. */
static int table_at(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t *at)
{
	struct sesparse *s = x->priv;
	uint64_t entry = get_le64(s->gd + off / SE_SPAN), in;

	*at = 0;
	if (!entry)
		return 0;
	in = (entry & ~SE_GDE_MASK) * SE_GT_LEN;
	if ((entry & SE_GDE_MASK) != SE_GDE_TABLE || !checked_range(in, SE_GT_LEN, s->tables_len))
		return image_corrupt(img, "%s: entry %" PRIu64 " of the grain directory is damaged: 0x%" PRIx64,
				     x->path, (uint64_t)(off / SE_SPAN), entry);
	*at = s->tables + in;
	return 0;
}

static uint64_t grain_number(uint64_t entry)
{
	return (entry & 0x0000ffffffffffffULL) << 12 | (entry >> 48 & 0xfff);
}

/* What the entry stands for, and where its data are; false: it is damaged. */
static bool entry_read(const struct sesparse *s, uint64_t entry, enum ext_type *type, uint64_t *host)
{
	uint64_t in;

	*host = 0;
	switch (entry >> 60) {
	case SE_NONE:
		*type = EXT_HOLE;
		return !entry;
	case SE_UNMAPPED:
	case SE_ZEROED:
		*type = EXT_ZERO;
		return true;
	case SE_DATA:
		*type = EXT_DATA;
		return checked_mul(grain_number(entry), 1ULL << SE_GRAIN_BITS, &in) &&
		       checked_range(in, 1U << SE_GRAIN_BITS, s->grains_len) && (*host = s->grains + in);
	default:
		return false;
	}
}

static int se_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len, unsigned flags,
		  struct extent *ext)
{
	struct sesparse *s = x->priv;
	uint64_t in = off & (x->grain - 1), at, host, next_host, got, entry;
	enum ext_type type, next;
	struct mblk *b;
	uint32_t pos;
	int ret = table_at(img, x, off, &at);

	if (ret)
		return ret;
	ext->off = off;
	ext->file = x->file;
	ext->flags = 0;
	len = MIN(len, SE_SPAN - (off & (SE_SPAN - 1)));
	if (!at) {
		ext->type = EXT_HOLE;
		ext->len = len;
		return 0;
	}
	at += (off >> SE_GRAIN_BITS & ((1U << SE_GT_BITS) - 1)) * 8;
	b = meta_get(img->meta, x->meta + at);
	if (!b)
		return -EAGAIN;
	pos = at & (img->meta->bsize - 1);
	entry = get_le64(b->data + pos);
	if (!entry_read(s, entry, &type, &host))
		return image_corrupt(img, "%s: the entry of the grain at 0x%" PRIx64 " is damaged: 0x%" PRIx64,
				     x->path, off, entry);
	for (got = x->grain - in; got < len && (pos += 8) < img->meta->bsize; got += x->grain)
		if (!entry_read(s, get_le64(b->data + pos), &next, &next_host) || next != type ||
		    (type == EXT_DATA && next_host != host + in + got))
			break;
	ext->type = type;
	ext->host = host + in;
	ext->len = MIN(got, len);
	return 0;
}

const struct vmdk_kind vmdk_sesparse = {
	.name	= "SESPARSE",
	.open	= se_open,
	.close	= se_close,
	.map	= se_map,
};
