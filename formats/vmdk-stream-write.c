/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-stream-write.c - writing compressed extents, from begin to end
 *
 * Grains are coded by helper threads in any order; the engine reserves their space in the order in
 * which they were submitted, which has to be that of the disk.  So the same data makes the same file,
 * and nothing that was written is ever touched again: the extent can go to a pipe.
 *
 * When the first grain of another table comes, the table that is done goes out in front of it, in the
 * same write (extent.head).  Only the directory and one table are kept.
 *
 * Levels are libdeflate's, 1 to 12; 1 to 9 take up less time than zlib's of the same number and
 * make no larger files.
 */
#include <stdlib.h>

#include "deflate.h"
#include "vmdk-stream.h"

#define VERSION 3		/* what ESX wants; there is no change tracking in streams */
#define TABLE_LEN (VMDK_SECTOR + VMDK_STREAM_GTES * 4)	/* with its marker */

struct vmdk_stream_writer {
	int level;
	uint64_t pos;			/* the file's end so far */
	uint32_t table;			/* the one that is being filled */
	uint32_t used;			/* its grains */
	uint8_t gt[VMDK_STREAM_GTES * 4];
	bool done;			/* the end has been written */
};

/* -------------------------------------------------------------------- pictures */

static uint8_t *marker(uint8_t *p, uint64_t sectors, enum vmdk_marker kind)
{
	memset(p, 0, VMDK_SECTOR);
	put_le64(p, sectors);
	put_le32(p + 12, kind);
	return p + VMDK_SECTOR;
}

static void header(uint8_t *p, uint64_t size, uint64_t desc_len, uint64_t data, uint64_t gd)
{
	memset(p, 0, VMDK_SECTOR);
	put_le32(p, VMDK_MAGIC);
	put_le32(p + VH_VERSION, VERSION);
	put_le32(p + VH_FLAGS, VMDK_F_NEWLINES | VMDK_F_COMPRESSED | VMDK_F_MARKERS);
	put_le64(p + VH_CAPACITY, size / VMDK_SECTOR);
	put_le64(p + VH_GRAIN, VMDK_STREAM_GRAIN / VMDK_SECTOR);
	put_le64(p + VH_DESC_OFF, 1);
	put_le64(p + VH_DESC_SIZE, desc_len);
	put_le32(p + VH_GTES, VMDK_STREAM_GTES);
	put_le64(p + VH_GD, gd);
	put_le64(p + VH_OVERHEAD, data);
	memcpy(p + VH_NEWLINES, "\n \r\n", 4);
	put_le16(p + VH_COMPRESSION, 1);
}

static uint64_t desc_sectors(size_t len)
{
	return MAX(div_up(len, VMDK_SECTOR), (uint64_t)VMDK_DESC_SECTORS);
}

static uint64_t data_begin(uint64_t desc_len)
{
	return MAX(round_up(1 + desc_len, VMDK_STREAM_GRAIN / VMDK_SECTOR), VMDK_STREAM_DATA);
}

static uint64_t tables_of(uint64_t size)
{
	return div_up(size, VMDK_STREAM_GRAIN * VMDK_STREAM_GTES);
}

static uint64_t directory_len(uint64_t ngd)
{
	return MAX(round_up(ngd * 4, VMDK_SECTOR), VMDK_SECTOR);
}

/* Bytes of directory, footer and end marker. */
static uint64_t tail_len(uint64_t ngd)
{
	return VMDK_SECTOR + directory_len(ngd) + 3 * VMDK_SECTOR;
}

/* They go to @pos.  malloc'd, *@len bytes. */
static uint8_t *tail(const uint8_t *head, const uint32_t *gd, uint64_t ngd, uint64_t pos, uint64_t *len)
{
	uint64_t gd_len = directory_len(ngd);
	uint8_t *buf, *p;

	*len = tail_len(ngd);
	buf = p = file_buf(*len);
	if (!buf)
		return NULL;
	memset(p, 0, *len);
	p = marker(p, gd_len / VMDK_SECTOR, VMDK_MARK_GD);
	for (uint64_t i = 0; gd && i < ngd; i++)
		put_le32(p + 4 * i, gd[i]);
	p = marker(p + gd_len, 1, VMDK_MARK_FOOTER);
	memcpy(p, head, VMDK_SECTOR);
	put_le64(p + VH_GD, pos / VMDK_SECTOR + 1);
	marker(p + VMDK_SECTOR, 0, VMDK_MARK_EOS);
	return buf;
}

uint64_t vmdk_stream_size(uint64_t size, uint64_t grains)
{
	uint64_t ngd = tables_of(size), tables = MIN(ngd, grains);
	uint64_t each = libdeflate_zlib_compress_bound(NULL, VMDK_STREAM_GRAIN);

	return data_begin(VMDK_DESC_SECTORS) * VMDK_SECTOR + tables * TABLE_LEN +
	       grains * round_up(VMDK_GRAIN_MARK + each, VMDK_SECTOR) + tail_len(ngd);
}

/* -------------------------------------------------------------------- creating */

int vmdk_stream_create(const struct create *c, uint64_t size, const char *text, size_t len)
{
	uint64_t desc = desc_sectors(len), data = data_begin(desc) * VMDK_SECTOR, n;
	uint8_t *buf = file_buf(data), *end;
	int ret;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, data);
	header(buf, size, desc, data / VMDK_SECTOR, VH_GD_AT_END);
	memcpy(buf + VMDK_SECTOR, text, len);
	ret = file_pwrite(c->file, buf, data, 0);
	if (!ret && !c->unfinished) {
		end = tail(buf, NULL, tables_of(size), data, &n);
		ret = end ? file_pwrite(c->file, end, n, data) : -ENOMEM;
		free(end);
	}
	free(buf);
	return ret;
}

/* --------------------------------------------------------------------- writing */

static bool ours(const struct vmdk_stream *s)
{
	return s->markers && 1ULL << s->grain_bits == VMDK_STREAM_GRAIN &&
	       1U << s->gt_bits == VMDK_STREAM_GTES;
}

int vmdk_stream_write_open(struct tapimg *img, struct vmdk_extent *x, struct vmdk_stream *s,
			   unsigned level, struct tapimg_err *err)
{
	int ret;

	if (x->file != img->file || !ours(s) || level > 12)
		return err_set(err, -EROFS, "%s: a compressed extent of this shape can only be read", x->path);
	if (!s->gd)
		s->gd = calloc(s->ngd + 1, 4);
	s->w = calloc(1, sizeof(*s->w));
	if (!s->gd || !s->w)
		return err_errno(err, -ENOMEM, "%s", x->path);
	memset(s->gd, 0, s->ngd * 4ULL);
	s->w->level = level ? level : VMDK_STREAM_LEVEL;
	s->w->pos = s->data_min;
	s->known = 0;
	/* an end that says there is nothing */
	ret = x->file->size > s->data_min ? file_truncate(x->file, s->data_min) : 0;
	if (ret)
		return err_errno(err, ret, "%s: taking its end away", x->path);
	x->marked = true;		/* vmdk-gate.c: its content id is that of what is being written */
	img->append_only = true;
	img->coded_max = round_up(vmdk_coded_most(s), VMDK_SECTOR);
	return 0;
}

void vmdk_stream_write_close(struct vmdk_stream *s)
{
	free(s->w);
	s->w = NULL;
}

/* The table with its marker, malloc'd; the next one is empty. */
static uint8_t *table_out(struct vmdk_stream *s)
{
	struct vmdk_stream_writer *w = s->w;
	uint8_t *p = malloc(TABLE_LEN);

	if (!p)
		return NULL;
	memcpy(marker(p, sizeof(w->gt) / VMDK_SECTOR, VMDK_MARK_GT), w->gt, sizeof(w->gt));
	s->gd[w->table] = w->pos / VMDK_SECTOR + 1;
	memset(w->gt, 0, sizeof(w->gt));
	w->used = 0;
	w->pos += TABLE_LEN;
	return p;
}

int vmdk_stream_reserve(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
			unsigned flags, struct extent *ext)
{
	struct vmdk_stream *s = x->priv;
	struct vmdk_stream_writer *w = s->w;
	uint32_t grain = off >> s->grain_bits;
	uint8_t *head = NULL;

	if (!w)
		return -EROFS;
	/* in order, and nothing twice */
	if (!(flags & RESERVE_CODED) || off < s->known || off & (x->grain - 1))
		return -ENOTSUP;
	if (w->pos + TABLE_LEN + ext->coded + tail_len(s->ngd) + TABLE_LEN > VMDK_MAX_FILE)
		return -EFBIG;
	if (w->used && grain / VMDK_STREAM_GTES != w->table) {
		head = table_out(s);
		if (!head)
			return -ENOMEM;
		ext->head_len = TABLE_LEN;
	}
	ext->head = head;
	ext->cookie = (uintptr_t)head;
	ext->off = off;
	ext->len = len;
	ext->file = x->file;
	ext->host = w->pos;
	ext->type = EXT_NEW;
	ext->flags = 0;
	w->table = grain / VMDK_STREAM_GTES;
	put_le32(w->gt + 4 * (grain % VMDK_STREAM_GTES), w->pos / VMDK_SECTOR);
	w->used++;
	w->pos += ext->coded;
	s->known = ((uint64_t)grain + 1) << s->grain_bits;
	return 0;
}

int vmdk_stream_commit(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext)
{
	free((void *)(uintptr_t)ext->cookie);
	return 0;
}

/* What was given out cannot be taken back: there is a gap now.  Why, the write that failed says. */
void vmdk_stream_abort(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext)
{
	free((void *)(uintptr_t)ext->cookie);
	if (!img->failed)
		img->failed = -EIO;
	img->writable = false;
}

/* What has not been written yet reads as zeroes anyway. */
int vmdk_stream_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done)
{
	const struct vmdk_stream *s = x->priv;

	*done = s->w && off >= s->known ? len : 0;
	return 0;
}

int vmdk_stream_finish(struct tapimg *img, struct vmdk_extent *x)
{
	struct vmdk_stream *s = x->priv;
	struct vmdk_stream_writer *w = s->w;
	uint8_t head[VMDK_SECTOR], *p;
	uint64_t len, at;
	int ret;

	if (!w || w->done)
		return 0;
	if (w->used) {
		at = w->pos;
		p = table_out(s);
		ret = p ? file_pwrite(x->file, p, TABLE_LEN, at) : -ENOMEM;
		free(p);
		if (ret)
			return ret;
	}
	/* a pipe gives its head back */
	ret = file_pread(x->file, head, sizeof(head), 0);
	if (ret)
		return ret;
	p = tail(head, s->gd, s->ngd, w->pos, &len);
	ret = p ? file_pwrite(x->file, p, len, w->pos) : -ENOMEM;
	free(p);
	w->done = !ret;
	return ret;
}

/* With its mark in front and zeroes behind, up to a sector. */
int vmdk_stream_encode(const struct tapimg *img, const struct vmdk_extent *x, uint64_t off,
		       const void *src, uint32_t src_len, void *dst, uint32_t dst_max)
{
	const struct vmdk_stream *s = x->priv;
	struct libdeflate_compressor *c = deflate_compressor(s->w->level);
	uint8_t *p = dst;
	uint32_t len;
	size_t n;

	if (!c)
		return -ENOMEM;
	n = libdeflate_zlib_compress(c, src, src_len, p + s->mark, dst_max - s->mark);
	if (!n)
		return -EIO;	/* there is room for what does not shrink */
	put_le64(p, off / VMDK_SECTOR);
	put_le32(p + 8, n);
	len = round_up(s->mark + n, VMDK_SECTOR);
	memset(p + s->mark + n, 0, len - s->mark - n);
	return len;
}
