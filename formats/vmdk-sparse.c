/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-sparse.c - sparse extents: headers, directories, look-ups
 *
 *	hosted ("KDMV")				ESX copy-on-write ("COWD")
 *	sector 0	header			sectors 0-3	header
 *	then		descriptor, maybe	sector 4	grain directory
 *			second directory with	behind it	grain tables and grains as they
 *			its tables, directory			come
 *			with its tables
 *	overHead	grains, in multiples of their size
 *
 * A directory entry is the sector of a grain table, a table entry that of a grain; 0: none.  Directories
 * are kept in memory, tables come through the cache.  Tables may be anywhere in the file.
 *
 * The disk's last grain may be cut short in the file.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "vmdk.h"

#define FRONT_ALIGN 4096	/* parts of the front may be aligned to that */
#define FRONT_PASSES 8		/* so many until all are found; the usual order takes two */

/* ------------------------------------------------------------------- headers */

struct head {
	uint64_t capacity, grain, gd, rgd, overhead;
	uint32_t gtes, flags, version;
	uint64_t ngd, free;
};

static int bad_head(const struct vmdk_extent *x, const char *what, uint64_t value,
		    struct tapimg_err *err)
{
	return err_set(err, -EINVAL, "%s: header: %s %" PRIu64 " is not valid", x->path, what, value);
}

static int hosted_head(const struct vmdk_extent *x, const uint8_t *p, bool write, struct head *h,
		       struct tapimg_err *err)
{
	static const uint8_t newlines[4] = { 0x0a, 0x20, 0x0d, 0x0a };
	uint32_t flags = get_le32(p + VH_FLAGS), unknown;

	h->version = get_le32(p + VH_VERSION);
	h->flags = flags;
	h->capacity = get_le64(p + VH_CAPACITY);
	h->grain = get_le64(p + VH_GRAIN);
	h->gtes = get_le32(p + VH_GTES);
	h->gd = get_le64(p + VH_GD);
	h->rgd = flags & VMDK_F_REDUNDANT ? get_le64(p + VH_RGD) : 0;
	h->overhead = get_le64(p + VH_OVERHEAD);
	if (h->version < 1 || h->version > 3)
		return err_set(err, -ENOTSUP, "%s: sparse extents of version %u are not known here",
			       x->path, h->version);
	unknown = flags & VMDK_F_MUST_KNOW & ~(VMDK_F_COMPRESSED | VMDK_F_MARKERS);
	if (unknown)
		return err_set(err, -ENOTSUP, "%s: uses features that are not known here: flags 0x%08x",
			       x->path, unknown);
	if (flags & VMDK_F_NEWLINES && memcmp(p + VH_NEWLINES, newlines, 4) != 0)
		return err_set(err, -EINVAL, "%s: was damaged by a transfer in text mode: its line ends "
			       "have been changed", x->path);
	if (h->gd == VH_GD_AT_END)
		return err_set(err, -EINVAL, "%s: header: the grain directory is said to be at the end, "
			       "which is only for compressed extents", x->path);
	if (h->version == 3 && write)
		return err_set(err, -EROFS, "%s: is of version 3, for which changes are tracked in a file "
			       "beside it: it can only be read", x->path);
	return 0;
}

static void cowd_head(const uint8_t *p, struct head *h)
{
	h->version = get_le32(p + VC_VERSION);
	h->capacity = get_le32(p + VC_SECTORS);
	h->grain = get_le32(p + VC_GRAIN);
	h->gd = get_le32(p + VC_GD);
	h->ngd = get_le32(p + VC_NGD);
	h->gtes = VC_GTES;
	h->free = get_le32(p + VC_FREE);
	/* a directory that had to grow lies among the grains */
	h->overhead = VC_LEN / VMDK_SECTOR;
	if (h->gd == h->overhead)
		h->overhead += div_up(h->ngd * 4, VMDK_SECTOR);
}

/* @inside: the descriptor is in this file, whose header says how large the disk is. */
static int head_check(struct vmdk_extent *x, struct head *h, bool cowd, bool inside,
		      struct tapimg_err *err)
{
	uint64_t span, need;

	if (cowd && h->version != 1)
		return err_set(err, -ENOTSUP, "%s: COWD extents of version %u are not known here", x->path,
			       h->version);
	if (!is_pow2(h->grain) || h->grain > VMDK_MAX_GRAIN)
		return bad_head(x, "grain size", h->grain, err);
	if (!is_pow2(h->gtes) || h->gtes < 128 || h->gtes > VC_GTES)
		return bad_head(x, "number of entries of a grain table", h->gtes, err);
	if (h->capacity > INT64_MAX / VMDK_SECTOR)
		return bad_head(x, "capacity", h->capacity, err);
	span = h->grain * h->gtes;
	need = div_up(h->capacity, span);
	if (need > VMDK_MAX_GD)
		return err_set(err, -EFBIG, "%s: a capacity of %" PRIu64 " sectors needs a grain directory of "
			       "%" PRIu64 " entries, more than %" PRIu64, x->path, h->capacity, need,
			       (uint64_t)VMDK_MAX_GD);
	if (cowd && h->ngd < need)
		return bad_head(x, "number of entries of the grain directory", h->ngd, err);
	h->ngd = need;
	if (x->line && !inside && x->len > h->capacity * VMDK_SECTOR)
		return err_set(err, -EINVAL, "%s: has %" PRIu64 " sectors, of which the descriptor wants %"
			       PRIu64, x->path, h->capacity, x->line->sectors);
	return 0;
}

/* ----------------------------------------------------------------- directories */

/* @off: in sectors.  *@gd is malloc'd, in the processor's byte order; NULL if there are no entries. */
static int directory_read(struct vmdk_extent *x, uint64_t off, uint32_t n, const char *what,
			  uint32_t **gd, struct tapimg_err *err)
{
	uint64_t len = n * 4ULL;
	int ret;

	if (!off || !checked_mul(off, VMDK_SECTOR, &off) || !checked_range(off, len, x->file->size))
		return err_set(err, -EUCLEAN, "%s: the %s of %u entries at 0x%" PRIx64 " is not inside the "
			       "file", x->path, what, n, off);
	*gd = file_buf(len + 1);
	if (!*gd)
		return err_errno(err, -ENOMEM, "%s", x->path);
	ret = file_pread(x->file, *gd, len, off);
	if (ret) {
		free(*gd);
		*gd = NULL;
		return err_errno(err, ret, "%s: reading the %s", x->path, what);
	}
	for (uint32_t i = 0; i < n; i++)
		(*gd)[i] = get_le32((uint8_t *)(*gd + i));
	return 0;
}

/*
 * Grains lie behind what is in front of the file: header, descriptor, directories and tables, one after
 * the other as far as overHead.  What of them is elsewhere lies among the grains.
 */
static uint64_t part_end(const struct vmdk_sparse *s, uint64_t off, uint64_t len, uint64_t end)
{
	return off <= round_up(end, FRONT_ALIGN) && off + len <= s->overhead ? MAX(end, off + len) : end;
}

static uint64_t tables_end(const struct vmdk_sparse *s, const uint32_t *gd, uint64_t end)
{
	for (uint32_t i = 0; gd && i < s->ngd; i++)
		if (gd[i] > VMDK_GTE_ZERO)
			end = part_end(s, gd[i] * VMDK_SECTOR, 4ULL << s->gt_bits, end);
	return end;
}

static uint64_t front_end(const struct vmdk_sparse *s, uint64_t desc_off, uint64_t desc_len)
{
	uint64_t end = s->cowd ? VC_LEN : VMDK_SECTOR, was;
	unsigned n = 0;

	do {		/* in whatever order they come */
		was = end;
		if (desc_len)
			end = part_end(s, desc_off, desc_len, end);
		if (s->rgd)
			end = part_end(s, s->rgd_off, 4ULL * s->ngd, end);
		end = tables_end(s, s->rgd, end);
		end = part_end(s, s->gd_off, 4ULL * s->ngd, end);
		end = tables_end(s, s->gd, end);
	} while (end != was && ++n < FRONT_PASSES);
	return end;
}

static void set_layout(struct tapimg *img, struct vmdk_extent *x, const struct head *h)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_sparse *s = x->priv;
	uint64_t align = MAX(x->grain, VMDK_SECTOR);
	bool inside = x->file == img->file && v->desc_max;

	s->overhead = MIN(h->overhead, x->file->size / VMDK_SECTOR) * VMDK_SECTOR;
	s->data_min = front_end(s, v->desc_off, inside ? v->desc_max : 0);
	/* the last grain may be cut short in the file; its place is taken all the same */
	s->end = round_up(MAX(x->file->size, s->overhead), s->cowd ? VMDK_SECTOR : align);
	if (s->cowd)
		s->end = MAX(s->end, MIN(h->free * VMDK_SECTOR, s->end + x->grain));
	else if (!is_aligned(s->overhead, align))	/* grains may lie anywhere */
		s->end += align;
	s->clean = x->file->grows_clean && !x->file->block_dev ? MAX(x->file->size, s->end) : UINT64_MAX;
}

static int load(struct tapimg *img, struct vmdk_extent *x, const struct head *h, bool cowd,
		struct tapimg_err *err)
{
	struct vmdk_sparse *s = x->priv;
	int ret;

	s->cowd = cowd;
	s->grain_bits = __builtin_ctzll(h->grain) + 9;
	s->gt_bits = __builtin_ctz(h->gtes);
	s->ngd = h->ngd;
	s->capacity = h->capacity;
	s->zeroed = !cowd && h->flags & VMDK_F_ZEROED;
	s->gd_off = h->gd * VMDK_SECTOR;
	s->rgd_off = h->rgd * VMDK_SECTOR;
	if (!x->line || (x->file == img->file && vmdk_of(img)->desc_max))
		x->len = h->capacity * VMDK_SECTOR;
	x->grain = 1U << s->grain_bits;
	if (!s->ngd && !h->gd)		/* an empty disk needs no directory */
		s->gd = NULL;
	else {
		ret = directory_read(x, h->gd, s->ngd, "grain directory", &s->gd, err);
		if (ret)
			return ret;
	}
	if (h->rgd) {
		ret = directory_read(x, h->rgd, s->ngd, "redundant grain directory", &s->rgd, err);
		if (ret)
			return ret;
	}
	if (s->rgd && s->rgd_off != s->gd_off && s->rgd_off < s->gd_off + 4ULL * s->ngd &&
	    s->gd_off < s->rgd_off + 4ULL * s->ngd)
		return err_set(err, -EUCLEAN, "%s: the two grain directories, at 0x%" PRIx64 " and 0x%" PRIx64
			       ", overlap: the capacity in the header is too large", x->path, s->gd_off,
			       s->rgd_off);
	set_layout(img, x, h);
	return 0;
}

int vmdk_sparse_load(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	bool cowd = x->kind == &vmdk_cowd;
	struct head h = { 0 };
	uint8_t p[VC_LEN];
	uint32_t len = cowd ? VC_LEN : VMDK_SECTOR;
	int ret;

	if (x->file->size < len)
		return err_set(err, -EINVAL, "%s: the header is cut off: the file has only %" PRIu64
			       " bytes", x->path, x->file->size);
	ret = file_pread(x->file, p, len, 0);
	if (ret)
		return err_errno(err, ret, "%s: reading the header", x->path);
	if (cowd)
		cowd_head(p, &h);
	else
		ret = hosted_head(x, p, x->writable && !(img->flags & TAPIMG_CHECK), &h, err);
	if (!ret && x->grow_to)
		h.capacity = x->grow_to / VMDK_SECTOR;
	if (!ret)
		ret = head_check(x, &h, cowd, x->file == img->file && vmdk_of(img)->desc_max, err);
	if (ret)
		return ret;
	x->dirty_found = p[x->kind->unclean_at];
	if (x->writable && h.grain * VMDK_SECTOR > 2 * MiB)
		return err_set(err, -ENOTSUP, "%s: grains of %" PRIu64 " sectors are too large to be "
			       "written here", x->path, h.grain);
	vmdk_sparse_close(img, x);
	x->priv = calloc(1, sizeof(struct vmdk_sparse));
	if (!x->priv)
		return err_errno(err, -ENOMEM, "%s", x->path);
	/* blocks of one sector: tables, directories and grains may touch each other anywhere */
	x->block = x->writable ? VMDK_SECTOR : 0;
	return load(img, x, &h, cowd, err);
}

void vmdk_sparse_close(struct tapimg *img, struct vmdk_extent *x)
{
	struct vmdk_sparse *s = x->priv;

	if (!s)
		return;
	free(s->gd);
	free(s->rgd);
	free(s->free);
	free(s);
	x->priv = NULL;
}

/* --------------------------------------------------------------------- look-ups */

const char *vmdk_gte_check(const struct vmdk_sparse *s, uint32_t gte)
{
	uint64_t at = gte * VMDK_SECTOR;

	if (!gte || (gte == VMDK_GTE_ZERO && s->zeroed))
		return NULL;
	if (at < s->data_min)
		return "points into the metadata";
	if (at >= s->end)
		return "points beyond the end of the file";
	return NULL;
}

static int bad_gte(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint32_t gte,
		   const char *what)
{
	return image_corrupt(img, "%s: the entry of the grain at 0x%" PRIx64 " %s: sector 0x%x", x->path,
			     off, what, gte);
}

/* The cached block with the entry of the grain at @off, and where in it. */
static int gte_block(struct tapimg *img, struct vmdk_extent *x, uint32_t table, uint64_t off,
		     struct mblk **b, uint32_t *at)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t index = off >> s->grain_bits & ((1U << s->gt_bits) - 1);
	uint64_t pos = table * VMDK_SECTOR;

	if (!checked_range(pos, 4ULL << s->gt_bits, round_up(s->end, VMDK_SECTOR)))
		return image_corrupt(img, "%s: grain table %" PRIu64 " at sector 0x%x is not inside the file",
				     x->path, off >> (s->grain_bits + s->gt_bits), table);
	pos += index * 4;
	*at = pos & (img->meta->bsize - 1);
	*b = meta_get(img->meta, x->meta + pos);
	return *b ? 0 : -EAGAIN;
}

enum kind { HOLE, ZEROES, DATA };

static enum kind gte_kind(const struct vmdk_sparse *s, uint32_t gte)
{
	return !gte ? HOLE : gte == VMDK_GTE_ZERO && s->zeroed ? ZEROES : DATA;
}

static void fill(const struct vmdk_extent *x, enum kind k, uint64_t off, uint64_t len, uint64_t host,
		 struct extent *ext)
{
	static const uint16_t types[] = { EXT_HOLE, EXT_ZERO, EXT_DATA };

	ext->off = off;
	ext->len = len;
	ext->file = x->file;
	ext->host = host;
	ext->type = types[k];
	ext->flags = k == DATA && x->writable ? EXT_WRITABLE : 0;
}

int vmdk_sparse_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		    unsigned flags, struct extent *ext)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t span = vmdk_span(s), in = off & (x->grain - 1), got, next;
	uint32_t table, gte, at = 0, left;
	const uint8_t *p;
	const char *what;
	struct mblk *b = NULL;
	enum kind k;
	int ret;

	table = s->gd[off / span];
	len = MIN(len, span - (off & (span - 1)));
	if (table <= VMDK_GTE_ZERO && (!table || s->zeroed)) {
		fill(x, table ? ZEROES : HOLE, off, len, 0, ext);
		return 0;
	}
	ret = gte_block(img, x, table, off, &b, &at);
	if (ret)
		return ret;
	p = b->data + at;
	gte = get_le32(p);
	what = vmdk_gte_check(s, gte);
	if (what)
		return bad_gte(img, x, off, gte, what);
	k = gte_kind(s, gte);
	next = gte;
	left = MIN((img->meta->bsize - at) / 4, (1U << s->gt_bits) - ((off >> s->grain_bits) &
								    ((1U << s->gt_bits) - 1)));
	for (got = x->grain - in; got < len && --left; got += x->grain) {
		p += 4;
		next += k == DATA ? x->grain / VMDK_SECTOR : 0;
		if (get_le32(p) != next || (k == DATA && next * VMDK_SECTOR >= s->end))
			break;
	}
	fill(x, k, off, MIN(got, len), gte * VMDK_SECTOR + in, ext);
	return 0;
}

static int sparse_open(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	return vmdk_sparse_load(img, x, err);
}

const struct vmdk_kind vmdk_sparse = {
	.name	= "SPARSE",
	.open	= sparse_open,
	.close	= vmdk_sparse_close,
	.map	= vmdk_sparse_map,
	.reserve = vmdk_sparse_reserve,
	.commit	= vmdk_sparse_commit,
	.abort	= vmdk_sparse_abort,
	.unmap	= vmdk_sparse_unmap,
	.release = vmdk_sparse_release,
	.finish	= vmdk_sparse_finish,
	.check	= vmdk_sparse_check,
	.unclean_at = VH_UNCLEAN,
};

const struct vmdk_kind vmdk_cowd = {
	.name	= "VMFSSPARSE",
	.open	= sparse_open,
	.close	= vmdk_sparse_close,
	.map	= vmdk_sparse_map,
	.reserve = vmdk_sparse_reserve,
	.commit	= vmdk_sparse_commit,
	.abort	= vmdk_sparse_abort,
	.unmap	= vmdk_sparse_unmap,
	.release = vmdk_sparse_release,
	.finish	= vmdk_sparse_finish,
	.check	= vmdk_sparse_check,
	.unclean_at = VC_UNCLEAN,
};
