/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-stream.c - compressed extents ("streamOptimized"): opening, look-ups, decoding
 *
 * The directory is kept in memory, tables come through the cache.  How long a coded grain is stands
 * before it, not in the tables; streams are written in ascending order, so the next grain's place
 * says it nearly always, and the decoder looks at the rest.
 *
 * An extent that was cut off is refused with a word on what is there; opened to be salvaged, what
 * is missing is EXT_LOST.  See vmdk-salvage.c.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "deflate.h"
#include "vmdk-stream.h"

#define FOOTER_BACK (64 * KiB)		/* so much may follow the end of a stream */

static struct vmdk_stream *stream_of(const struct vmdk_extent *x)
{
	return x->priv;
}

/* --------------------------------------------------------------------- headers */

static int header_check(struct vmdk_extent *x, struct vmdk_stream *s, const uint8_t *p,
			struct tapimg_err *err)
{
	uint32_t version = get_le32(p + VH_VERSION), flags = get_le32(p + VH_FLAGS);
	uint64_t capacity = get_le64(p + VH_CAPACITY), grain = get_le64(p + VH_GRAIN);
	uint32_t gtes = get_le32(p + VH_GTES), unknown;
	static const uint8_t newlines[4] = { 0x0a, 0x20, 0x0d, 0x0a };

	if (version < 1 || version > 3)
		return err_set(err, -ENOTSUP, "%s: compressed extents of version %u are not known here",
			       x->path, version);
	unknown = flags & VMDK_F_MUST_KNOW & ~(VMDK_F_COMPRESSED | VMDK_F_MARKERS);
	if (unknown)
		return err_set(err, -ENOTSUP, "%s: uses features that are not known here: flags 0x%08x",
			       x->path, unknown);
	if (flags & VMDK_F_NEWLINES && memcmp(p + VH_NEWLINES, newlines, 4) != 0)
		return err_set(err, -EINVAL, "%s: was damaged by a transfer in text mode: its line ends "
			       "have been changed", x->path);
	if (get_le16(p + VH_COMPRESSION) != 1)
		return err_set(err, -ENOTSUP, "%s: compressed by method %u, which is not known here", x->path,
			       get_le16(p + VH_COMPRESSION));
	/* smaller ones make no sense where each takes a sector of its own, larger ones only memory */
	if (!is_pow2(grain) || grain > 4096)
		return err_set(err, -EINVAL, "%s: header: grain size %" PRIu64 " is not valid", x->path, grain);
	if (!is_pow2(gtes) || gtes < 128 || gtes > VC_GTES)
		return err_set(err, -EINVAL, "%s: header: number of entries of a grain table %u is not valid",
			       x->path, gtes);
	if (capacity > INT64_MAX / VMDK_SECTOR || capacity / grain > UINT32_MAX)
		return err_set(err, -EINVAL, "%s: header: capacity %" PRIu64 " is not valid", x->path,
			       capacity);
	s->grain_bits = __builtin_ctzll(grain) + 9;
	s->gt_bits = __builtin_ctz(gtes);
	s->markers = flags & VMDK_F_MARKERS;
	s->mark = s->markers ? VMDK_GRAIN_MARK : 4;
	s->zeroed = flags & VMDK_F_ZEROED;
	s->capacity = capacity * VMDK_SECTOR;
	s->ngd = div_up(capacity, grain * gtes);
	s->data_min = VMDK_SECTOR;
	if (!checked_mul(get_le64(p + VH_GD), VMDK_SECTOR, &s->gd_off))
		s->gd_off = UINT64_MAX;
	if (s->ngd > VMDK_MAX_GD)
		return err_set(err, -EFBIG, "%s: a capacity of %" PRIu64 " sectors needs a grain directory of %u "
			       "entries, more than %" PRIu64, x->path, capacity, s->ngd,
			       (uint64_t)VMDK_MAX_GD);
	if (x->line && x->len > s->capacity)
		return err_set(err, -EINVAL, "%s: has %" PRIu64 " sectors, of which the descriptor wants %"
			       PRIu64, x->path, capacity, x->line->sectors);
	return 0;
}

/* Whether a footer is at @p, between its marker and the end marker, and is that of this header. */
static bool is_footer(const uint8_t *p, const uint8_t *head)
{
	const uint8_t *mark = p - VMDK_SECTOR;

	return get_le32(mark + 12) == VMDK_MARK_FOOTER && !get_le32(mark + 8) &&
	       get_le64(mark) == 1 && get_le32(p) == VMDK_MAGIC &&
	       !memcmp(p + VH_CAPACITY, head + VH_CAPACITY, 16) &&
	       get_le64(p + VH_GD) != VH_GD_AT_END;
}

/*
 * The footer is the last sector but one; but some transfers pad what they store, so it is looked for
 * a bit before as well.  @at: where it is, 0: nowhere.
 */
static int footer_find(struct vmdk_extent *x, const uint8_t *head, uint8_t footer[VMDK_SECTOR],
		       uint64_t *at, struct tapimg_err *err)
{
	uint64_t size = round_down(x->file->size, VMDK_SECTOR), len = MIN(size, FOOTER_BACK);
	uint8_t *buf = file_buf(len + 1);
	int ret = buf ? file_pread(x->file, buf, len, size - len) : -ENOMEM;

	*at = 0;
	for (uint64_t pos = len; !ret && pos >= 2 * VMDK_SECTOR; pos -= VMDK_SECTOR) {
		const uint8_t *p = buf + pos - VMDK_SECTOR;

		if (!is_footer(p, head))
			continue;
		memcpy(footer, p, VMDK_SECTOR);
		*at = size - len + pos - VMDK_SECTOR;
		break;
	}
	free(buf);
	return ret ? err_errno(err, ret, "%s: reading its end", x->path) : 0;
}

/* ----------------------------------------------------------- directory and state */

static int directory_read(struct vmdk_extent *x, struct vmdk_stream *s, struct tapimg_err *err)
{
	uint64_t len = s->ngd * 4ULL;
	int ret;

	if (!s->gd_off || !checked_range(s->gd_off, len, x->file->size))
		return err_set(err, -EUCLEAN, "%s: the grain directory of %u entries at 0x%" PRIx64
			       " is not inside the file", x->path, s->ngd, s->gd_off);
	s->gd = file_buf(len + 1);
	if (!s->gd)
		return err_errno(err, -ENOMEM, "%s", x->path);
	ret = file_pread(x->file, s->gd, len, s->gd_off);
	if (ret)
		return err_errno(err, ret, "%s: reading the grain directory", x->path);
	for (uint32_t i = 0; i < s->ngd; i++)
		s->gd[i] = get_le32((uint8_t *)(s->gd + i));
	return 0;
}

static int cut_off(const struct vmdk_extent *x, const struct vmdk_stream *s, const char *missing,
		   struct tapimg_err *err)
{
	return err_set(err, -EUCLEAN, "%s: the stream is cut off: %s; of the disk's %" PRIu64 " bytes the "
		       "first %" PRIu64 " are there (convert --salvage gets them out)", x->path, missing,
		       s->capacity, s->known);
}

static bool has_grains(const struct vmdk_stream *s)
{
	for (uint32_t i = 0; i < s->ngd; i++)
		if (s->gd[i] > VMDK_GTE_ZERO)
			return true;
	return false;
}

/* Without a directory: either it says what there is, or it is salvaged. */
static int open_scanned(struct tapimg *img, struct vmdk_extent *x, struct vmdk_stream *s,
			const char *missing, struct tapimg_err *err)
{
	int ret = s->markers ? vmdk_stream_scan(x, s, err) : 0;

	if (ret)
		return ret;
	if (!s->salvage)
		return cut_off(x, s, missing, err);
	return 0;
}

/* The tables are there: are the grains that they name? */
static int open_tables(struct tapimg *img, struct vmdk_extent *x, struct vmdk_stream *s,
		       struct tapimg_err *err)
{
	struct tapimg_err e = { 0 };
	int ret = directory_read(x, s, &e);

	if (ret && s->salvage && s->markers)
		return open_scanned(img, x, s, e.text, err);
	if (ret)
		return err_set(err, ret, "%s", e.text);
	ret = vmdk_stream_measure(x, s, err);
	if (!ret && s->known < s->capacity && !s->salvage)
		return cut_off(x, s, "grains that its tables name are missing", err);
	return ret;
}

static int open_header(struct tapimg *img, struct vmdk_extent *x, struct vmdk_stream *s,
		       struct tapimg_err *err)
{
	uint8_t head[VMDK_SECTOR], footer[VMDK_SECTOR];
	uint64_t at = 0, begin;
	int ret = file_pread(x->file, head, sizeof(head), 0);

	if (ret)
		return err_errno(err, ret, "%s: reading the header", x->path);
	ret = header_check(x, s, head, err);
	if (ret)
		return ret;
	begin = get_le64(head + VH_OVERHEAD);
	if (begin <= x->file->size / VMDK_SECTOR)
		s->data_min = MAX(begin * VMDK_SECTOR, VMDK_SECTOR);
	if (s->gd_off != UINT64_MAX)
		return open_tables(img, x, s, err);
	if (!x->writable || x->file->size > s->data_min)
		ret = footer_find(x, head, footer, &at, err);
	if (ret)
		return ret;
	if (at && !checked_mul(get_le64(footer + VH_GD), VMDK_SECTOR, &s->gd_off))
		s->gd_off = UINT64_MAX;
	if (at)
		return open_tables(img, x, s, err);
	if (x->writable && x->file->size == s->data_min)
		return 0;		/* just begun */
	return open_scanned(img, x, s, "its footer is missing", err);
}

static int stream_open(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	struct vmdk_stream *s = calloc(1, sizeof(*s));
	int ret;

	x->priv = s;
	if (!s)
		return err_errno(err, -ENOMEM, "%s", x->path);
	s->salvage = img->flags & TAPIMG_SALVAGE && !x->writable;
	ret = open_header(img, x, s, err);
	if (ret)
		return ret;
	if (!x->line || x->file == img->file)
		x->len = s->capacity;
	x->grain = 1U << s->grain_bits;
	if (!x->writable || img->flags & TAPIMG_CHECK)
		return 0;
	if (s->gd && has_grains(s))
		return err_set(err, -EROFS, "%s: is a stream, which is written from begin to end, once: it can "
			       "only be read", x->path);
	return vmdk_stream_write_open(img, x, s, img->opts.level, err);
}

static void stream_close(struct tapimg *img, struct vmdk_extent *x)
{
	struct vmdk_stream *s = x->priv;

	if (!s)
		return;
	vmdk_stream_write_close(s);
	free(s->gd);
	free(s->found);
	free(s);
	x->priv = NULL;
}

/* --------------------------------------------------------------------- look-ups */

static void answer(struct extent *ext, uint64_t off, uint64_t len, enum ext_type type)
{
	ext->off = off;
	ext->len = len;
	ext->type = type;
	ext->flags = 0;
}

/*
 * The grain that begins in @sector.  @next: the sector of the next one, or 0: nobody knows.  What
 * cannot be in the file is corruption, or lost.
 */
static int map_grain(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		     uint32_t sector, uint32_t next, struct extent *ext)
{
	struct vmdk_stream *s = x->priv;
	uint64_t host = sector * VMDK_SECTOR, grain = x->grain, most = vmdk_coded_most(s);

	len = MIN(len, grain - (off & (grain - 1)));
	if (!checked_range(host, s->mark + 1, x->file->size)) {
		if (s->salvage) {
			answer(ext, off, len, EXT_LOST);
			return 0;
		}
		return image_corrupt(img, "%s: the entry of the grain at 0x%" PRIx64 " points beyond the end of "
				     "the file: sector 0x%x", x->path, off, sector);
	}
	if (host < s->data_min && host < VMDK_SECTOR)
		return image_corrupt(img, "%s: the entry of the grain at 0x%" PRIx64 " points into the "
				     "metadata: sector 0x%x", x->path, off, sector);
	if (next > sector)
		most = MIN(most, (next - sector) * VMDK_SECTOR);
	answer(ext, off, len, EXT_CODED);
	ext->file = x->file;
	ext->host = host;
	ext->coded = MIN(most, x->file->size - host);
	ext->unit_off = round_down(off, grain);
	ext->unit_len = grain;
	return 0;
}

/* By what was found, not by tables. */
static int map_found(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		     struct extent *ext)
{
	struct vmdk_stream *s = x->priv;
	const struct vmdk_found *f, *end = s->found + s->nfound;
	uint32_t grain = off >> s->grain_bits;
	uint64_t stop;

	if (off >= s->known) {
		answer(ext, off, len, EXT_LOST);
		return 0;
	}
	len = MIN(len, s->known - off);
	f = vmdk_stream_find(s, grain);		/* it, or the next */
	if (f < end && f->grain == grain && f->sector)
		return map_grain(img, x, off, len, f->sector, 0, ext);
	if (f < end && f->grain == grain)
		f++;
	stop = f < end ? (uint64_t)f->grain << s->grain_bits : s->known;
	answer(ext, off, MIN(len, stop - off), f > s->found && !f[-1].sector ? EXT_LOST : EXT_HOLE);
	return 0;
}

/* The table's block with the entry of the grain at @off. */
static int table_block(struct tapimg *img, struct vmdk_extent *x, uint32_t table, uint64_t off,
		       struct mblk **b, uint32_t *at)
{
	struct vmdk_stream *s = x->priv;
	uint64_t pos = table * VMDK_SECTOR;

	if (!checked_range(pos, 4ULL << s->gt_bits, x->file->size))
		return image_corrupt(img, "%s: grain table %" PRIu64 " at sector 0x%x is not inside the file",
				     x->path, off >> (s->grain_bits + s->gt_bits), table);
	pos += (off >> s->grain_bits & ((1U << s->gt_bits) - 1)) * 4;
	*at = pos & (img->meta->bsize - 1);
	*b = meta_get(img->meta, x->meta + pos);
	return *b ? 0 : -EAGAIN;
}

static int stream_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, struct extent *ext)
{
	struct vmdk_stream *s = x->priv;
	uint64_t span = 1ULL << (s->grain_bits + s->gt_bits), got;
	uint32_t table, gte, next, at = 0, left;
	struct mblk *b = NULL;
	const uint8_t *p;
	int ret;

	if (s->w) {
		if (off < s->known && !(flags & MAP_WRITE))
			return -EOPNOTSUPP;	/* nobody remembers where it went */
		answer(ext, off, len, EXT_HOLE);
		return 0;
	}
	if (s->found || !s->gd)
		return map_found(img, x, off, len, ext);
	table = s->gd[off / span];
	len = MIN(len, span - (off & (span - 1)));
	if (table <= VMDK_GTE_ZERO && (!table || s->zeroed)) {
		answer(ext, off, len, table ? EXT_ZERO : EXT_HOLE);
		return 0;
	}
	if (s->salvage && !checked_range(table * VMDK_SECTOR, 4ULL << s->gt_bits, x->file->size)) {
		answer(ext, off, len, EXT_LOST);
		return 0;
	}
	ret = table_block(img, x, table, off, &b, &at);
	if (ret)
		return ret;
	p = b->data + at;
	gte = get_le32(p);
	left = MIN((img->meta->bsize - at) / 4, (1U << s->gt_bits) - ((off >> s->grain_bits) &
								    ((1U << s->gt_bits) - 1)));
	if (gte && !(gte == VMDK_GTE_ZERO && s->zeroed)) {
		for (next = 0; !next && --left;)
			next = get_le32(p += 4);
		return map_grain(img, x, off, len, gte, next, ext);
	}
	for (got = x->grain - (off & (x->grain - 1)); got < len && --left; got += x->grain)
		if (get_le32(p += 4) != gte)
			break;
	answer(ext, off, MIN(got, len), gte ? EXT_ZERO : EXT_HOLE);
	return 0;
}

/* -------------------------------------------------------------------- decoding */

static int stream_decode(const struct tapimg *img, const struct vmdk_extent *x, uint64_t off,
			 const void *src, uint32_t src_len, void *dst, uint32_t dst_len)
{
	const struct vmdk_stream *s = stream_of(x);
	struct libdeflate_decompressor *d = deflate_decompressor();
	const uint8_t *p = src;
	uint32_t len;
	size_t n = 0;

	if (!d)
		return -ENOMEM;
	if (src_len <= s->mark || (s->markers && get_le64(p) != off / VMDK_SECTOR))
		return -EIO;
	len = get_le32(p + s->mark - 4);
	if (!len || len > src_len - s->mark)
		return -EIO;
	if (libdeflate_zlib_decompress(d, p + s->mark, len, dst, dst_len, &n) != LIBDEFLATE_SUCCESS)
		return -EIO;
	/* only the disk's last grain may be a part of one */
	if (n < dst_len && off + n < s->capacity)
		return -EIO;
	memset((uint8_t *)dst + n, 0, dst_len - n);
	return 0;
}

const struct vmdk_kind vmdk_stream = {
	.name	= "SPARSE",
	.open	= stream_open,
	.close	= stream_close,
	.map	= stream_map,
	.reserve = vmdk_stream_reserve,
	.commit	= vmdk_stream_commit,
	.abort	= vmdk_stream_abort,
	.unmap	= vmdk_stream_unmap,
	.finish	= vmdk_stream_finish,
	.check	= vmdk_stream_check,
	.decode	= stream_decode,
	.encode	= vmdk_stream_encode,
	.compressed = true,
};
