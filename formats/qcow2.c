/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2.c - the qcow2 driver: opening, closing, describing
 *
 *	cluster 0	header, extensions, name of the backing file	(qcow2-header.c)
 *	anywhere	refcount table and blocks			(qcow2-alloc.c)
 *			L1 and L2 tables				(qcow2-map.c, qcow2-write.c)
 *			snapshots, bitmaps				(qcow2-snap.c, qcow2-bitmap.c)
 *			guest data, compressed or plain			(qcow2-codec.c)
 *
 * Versions 2 and 3.  Encrypted images are refused.
 *
 * Order of writing (meta.h): refcount blocks, refcount table, header (only its pointer to that
 * table), L2 tables, L1.  Everything else in the header changes on an idle image.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2.h"
#include "target.h"

#define BLOCK_MAX 4096		/* of the metadata cache */

static int qcow2_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	uint32_t version;

	if (len < QH_V2_LEN || get_be32(head) != QCOW2_MAGIC)
		return 0;
	version = get_be32(head + QH_VERSION);
	return version >= 2 ? 100 : 0;
}

/* ------------------------------------------------------------------ geometry */

static uint32_t block_size(const struct qcow2 *q)
{
	return MIN(q->cluster, BLOCK_MAX);
}

void qcow2_geometry(struct qcow2 *q)
{
	const struct qcow2_header *h = &q->h;
	unsigned blk_bits;

	q->cluster_bits = h->cluster_bits;
	q->cluster = 1U << h->cluster_bits;
	q->cluster_mask = q->cluster - 1;
	q->v3 = h->version >= 3;
	q->extl2 = h->incompat & QCOW2_INCOMPAT_EXTL2;
	q->has_data = h->incompat & QCOW2_INCOMPAT_DATA;
	q->raw_data = q->has_data && h->autoclear & QCOW2_AUTO_RAW;
	q->entry_bits = q->extl2 ? 4 : 3;
	q->l2_bits = q->cluster_bits - q->entry_bits;
	q->l1_shift = q->cluster_bits + q->l2_bits;
	q->sub_bits = q->extl2 ? q->cluster_bits - 5 : q->cluster_bits;
	q->coded_shift = 62 - (q->cluster_bits - 8);
	q->l2_reserved = QCOW2_L2_RESERVED | (q->v3 && !q->extl2 ? 0 : QCOW2_ZERO);
	if (!q->snapshot) {
		/* an unaligned table is only let in for a check: then nothing can be mapped */
		q->l1_off = h->l1_off;
		q->l1_size = is_aligned(h->l1_off, q->cluster) ? h->l1_size : 0;
	}
	blk_bits = __builtin_ctz(block_size(q)) + 3;	/* bits in a cached block */
	q->blk_bits = blk_bits - 3 - q->entry_bits;
	q->rc_order = h->refcount_order;
	q->rb_bits = q->cluster_bits + 3 - q->rc_order;
	q->mb_bits = blk_bits - q->rc_order;
	q->rc_max = q->rc_order == 6 ? UINT64_MAX : (1ULL << (1U << q->rc_order)) - 1;
	q->rt_off = h->rt_off;
	q->rt_entries = (uint64_t)h->rt_clusters << (q->cluster_bits - 3);
	if (!is_aligned(h->rt_off, q->cluster) || h->rt_clusters > QCOW2_MAX_RT >> q->cluster_bits)
		q->rt_entries = 0;
}

uint64_t qcow2_l1_needed(const struct qcow2 *q, uint64_t size)
{
	return div_up(size, 1ULL << q->l1_shift);
}

/* ------------------------------------------------------------------- opening */

static int header_read(struct tapimg *img, struct qcow2_header *h, struct tapimg_err *err)
{
	uint8_t first[QH_V2_LEN], *buf;
	uint64_t size = img->file->size, len;
	uint32_t bits;
	int ret;

	if (size < sizeof(first))
		return err_set(err, -EINVAL, "%s: not a qcow2 image: it has only %" PRIu64 " bytes",
			       img->name, size);
	ret = file_pread(img->file, first, sizeof(first), 0);
	if (ret)
		return err_errno(err, ret, "%s: reading the header", img->name);
	bits = get_be32(first + QH_CLUSTER_BITS);
	bits = MIN(MAX(bits, (uint32_t)QCOW2_MIN_BITS), (uint32_t)QCOW2_MAX_BITS);
	len = MIN(size, 1ULL << bits);
	buf = file_buf(len);
	if (!buf)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = file_pread(img->file, buf, len, 0);
	if (ret)
		err_errno(err, ret, "%s: reading the header", img->name);
	else
		ret = qcow2_header_parse(h, buf, len, img->flags & TAPIMG_CHECK, img->name, err);
	free(buf);
	return ret;
}

/* Whatever must be understood to read the image is, or it is named. */
static int refuse_unknown(struct tapimg *img, struct tapimg_err *err)
{
	const struct qcow2_header *h = &qcow2_of(img)->h;
	uint64_t unknown = h->incompat & ~QCOW2_INCOMPAT_KNOWN;
	char list[600] = "", *name;
	unsigned bit;
	size_t len = 0;

	if (h->crypt_method)
		return err_set(err, -ENOTSUP, "%s: encrypted images are not supported (%s)", img->name,
			       h->crypt_method == 1 ? "AES" :
			       h->crypt_method == 2 ? "LUKS" : "unknown method");
	for (bit = 0; bit < 64 && unknown; bit++) {
		if (!(unknown >> bit & 1))
			continue;
		name = qcow2_feature_name(h, 0, bit);
		if (name && *name)
			len += snprintf(list + len, sizeof(list) - len, "%s%s", len ? ", " : "", name);
		else
			len += snprintf(list + len, sizeof(list) - len, "%sbit %u", len ? ", " : "", bit);
		len = MIN(len, sizeof(list) - 1);
		free(name);
	}
	if (unknown)
		return err_set(err, -ENOTSUP, "%s: uses features that are not known here: %s", img->name,
			       list);
	return 0;
}

static int check_header(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t need = qcow2_l1_needed(q, q->h.size);
	uint64_t end = round_up(img->file->size, q->cluster);

	if (q->raw_data && q->h.backing)
		return err_set(err, -EINVAL, "%s: has a raw data file and a backing file, which excludes "
			       "each other", img->name);
	if (img->flags & TAPIMG_CHECK)
		return 0;
	if (q->h.l1_size < need)
		return err_set(err, -EINVAL, "%s: the L1 table has %u entries, a disk of %" PRIu64
			       " bytes needs %" PRIu64, img->name, q->h.l1_size, q->h.size, need);
	if (!checked_range(q->h.l1_off, q->h.l1_size * 8ULL, end))
		return err_set(err, -EUCLEAN, "%s: the L1 table at 0x%" PRIx64 " reaches beyond the end "
			       "of the file", img->name, q->h.l1_off);
	if (!checked_range(q->rt_off, q->rt_entries * 8, end))
		return err_set(err, -EUCLEAN, "%s: the refcount table at 0x%" PRIx64 " reaches beyond "
			       "the end of the file", img->name, q->rt_off);
	if ((q->h.incompat & QCOW2_INCOMPAT_CORRUPT) && (img->flags & TAPIMG_RDWR))
		return err_set(err, -EUCLEAN, "%s: is marked corrupt: it can be read, or repaired with a "
			       "check, but not written", img->name);
	return 0;
}

static char *ext_string(const struct qcow2_header *h, uint32_t type)
{
	const struct qcow2_ext *e = qcow2_ext_find(h, type);

	return e ? strndup((const char *)e->data, e->len) : NULL;
}

static int set_names(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);

	if (q->h.backing) {
		img->backing_name = strdup(q->h.backing);
		if (!img->backing_name)
			return err_errno(err, -ENOMEM, "%s", img->name);
		img->backing_fmt = ext_string(&q->h, QCOW2_EXT_BACKING_FMT);
		if (img->backing_fmt && !*img->backing_fmt) {
			free(img->backing_fmt);
			img->backing_fmt = NULL;
		}
	}
	if (q->has_data)
		q->data_name = ext_string(&q->h, QCOW2_EXT_DATA_FILE);
	return 0;
}

/* *@path: where the data file is while the image itself is being made. */
static int data_file_made(struct tapimg *img, char **path, struct tapimg_err *err)
{
	char *made;
	int ret = target_follow_links(path);

	if (ret)
		return err_errno(err, ret, "%s: data file '%s'", img->name, *path);
	made = target_companion_found(img->loop, img->path, *path);
	if (!made)
		return err_errno(err, -ENOMEM, "%s", img->name);
	free(*path);
	*path = made;
	return 0;
}

static int data_file_open(struct tapimg *img, const struct tapimg_open_opts *o,
			  struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	char *path;
	int ret = 0;

	q->data = img->file;
	if (!q->has_data)
		return o->data_file ? err_set(err, -EINVAL, "%s: has no data file, but one was given",
					      img->name) : 0;
	if (img->flags & TAPIMG_NO_IO)
		return 0;
	if (!o->data_file && (!q->data_name || !*q->data_name))
		return err_set(err, -EINVAL, "%s: needs a data file and does not name it", img->name);
	path = o->data_file ? strdup(o->data_file) : name_resolve(img->path, q->data_name);
	if (!path)
		return err_errno(err, -ENOMEM, "%s", img->name);
	if (!o->data_file) {
		ret = image_gate(&img->opts, TAPIMG_ROLE_DATA, img->path, path, err);
		if (!ret && target_unfinished(img->path))
			ret = data_file_made(img, &path, err);
	}
	if (!ret) {
		ret = file_open(img->loop, path, image_file_flags(img->flags), &q->data_file, err);
		if (ret)
			err_prefix(err, ret, "%s: data file", img->name);
	}
	free(path);
	if (!ret)
		q->data = q->data_file;
	return ret;
}

static int release_op(void *arg, uint64_t off, uint64_t len)
{
	return qcow2_release(arg, off, len);
}

static void failed_op(void *arg, int err, uint64_t off, const char *what)
{
	image_fail(arg, err, "%s at 0x%" PRIx64 ": %s", what, off, strerror(-err));
}

static int cache_open(struct tapimg *img, struct tapimg_err *err)
{
	static const struct meta_ops ops = { .release = release_op, .failed = failed_op };
	struct qcow2 *q = qcow2_of(img);
	uint32_t bsize = block_size(q);
	uint64_t l1 = q->h.l1_size * 8ULL;
	uint64_t l2 = div_up(q->h.size, q->cluster) << q->entry_bits;
	uint64_t counts = ((q->h.size >> q->cluster_bits) << q->rc_order) / 8;
	/* an L2 table that is copied, and its copy, have to fit in beside other things */
	uint64_t least = 6ULL * q->cluster + 1 * MiB;
	uint64_t want = image_cache_size(img, l1 + l2 + counts);
	int ret = meta_new(img->file, bsize, MAX(want, least), &ops, img, &img->meta);

	if (ret)
		return err_errno(err, ret, "%s: metadata cache", img->name);
	img->meta->free_align = q->cluster;
	img->meta->punch = img->flags & TAPIMG_UNMAP;
	if (q->data_file && meta_add_file(img->meta, q->data_file, false) < 0)
		return err_errno(err, -ENOMEM, "%s", img->name);
	return 0;
}

/* Opened for writing: what a writer has to put right before its first write. */
static int prepare_writing(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t autoclear = q->h.autoclear & QCOW2_AUTO_KNOWN;
	int ret = 0;

	if (q->h.incompat & QCOW2_INCOMPAT_DIRTY) {
		ret = qcow2_rebuild_refcounts(img, err);
		if (!ret)
			ret = qcow2_reload(img, err);
	}
	if (!ret && q->v3 && autoclear != q->h.autoclear)
		ret = qcow2_header_set_features(img, q->h.incompat, q->h.compat, autoclear, err);
	return ret;
}

static int qcow2_open(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	int ret = header_read(img, &q->h, err);

	if (ret)
		return ret;
	qcow2_geometry(q);
	ret = refuse_unknown(img, err);
	if (!ret)
		ret = check_header(img, err);
	if (!ret)
		ret = set_names(img, err);
	if (!ret)
		ret = data_file_open(img, o, err);
	if (!ret)
		ret = cache_open(img, err);
	if (ret)
		return ret;
	img->size = q->h.size;
	img->unit = img->cluster = q->cluster;
	img->corrupt = q->h.incompat & QCOW2_INCOMPAT_CORRUPT;
	img->writable = img->flags & TAPIMG_RDWR;
	qcow2_alloc_reset(img);
	if (o->snapshot) {
		img->writable = false;
		return qcow2_snap_open(img, o->snapshot, err);
	}
	if (img->writable && !(img->flags & TAPIMG_CHECK))
		ret = prepare_writing(img, err);
	if (!ret)
		qcow2_guard_load(img);
	return ret ? ret : qcow2_bitmaps_load(img, err);
}

int qcow2_reload(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	struct qcow2_header h;
	int ret = header_read(img, &h, err);

	if (ret)
		return ret;
	if (h.cluster_bits != q->h.cluster_bits) {
		qcow2_header_free(&h);
		return err_set(err, -EUCLEAN, "%s: the cluster size has changed underneath", img->name);
	}
	qcow2_header_free(&q->h);
	q->h = h;
	qcow2_geometry(q);
	meta_drop(img->meta);
	qcow2_alloc_reset(img);
	qcow2_guard_load(img);
	if (!q->snapshot)
		img->size = h.size;
	return 0;
}

/* ------------------------------------------------------------------- closing */

/* Damage that was met while writing is marked, so that nobody writes on before a repair. */
static int mark_corrupt(struct tapimg *img)
{
	struct qcow2 *q = qcow2_of(img);
	uint8_t b[8];
	int ret;

	if (!img->corrupt || !q->v3 || !(img->flags & TAPIMG_RDWR) || img->flags & TAPIMG_CHECK ||
	    q->h.incompat & QCOW2_INCOMPAT_CORRUPT)
		return 0;
	put_be64(b, q->h.incompat | QCOW2_INCOMPAT_CORRUPT);
	ret = file_pwrite(img->file, b, sizeof(b), QH_INCOMPAT);
	return ret ? ret : file_flush(img->file);
}

static int qcow2_close(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	int ret = 0, r;

	if (img->meta) {
		r = mark_corrupt(img);
		if (r)
			ret = err_errno(err, r, "%s: marking it corrupt", img->name);
		else if (img->writable && !img->failed)
			ret = qcow2_bitmaps_store(img, err);
	}
	qcow2_bitmaps_free(img);
	qcow2_guard_free(img);
	meta_destroy(img->meta);
	img->meta = NULL;
	file_close(q->data_file);
	q->data_file = NULL;
	free(q->data_name);
	qcow2_header_free(&q->h);
	return ret;
}

/* ---------------------------------------------------------------------- info */

static void fact_str(struct tapimg_fact *f, const char *key, const char *value)
{
	*f = (struct tapimg_fact){ .key = key, .type = TAPIMG_FACT_STR, .str = value };
}

static void fact_bool(struct tapimg_fact *f, const char *key, bool value)
{
	*f = (struct tapimg_fact){ .key = key, .type = TAPIMG_FACT_BOOL, .num = value };
}

static int qcow2_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	const struct qcow2_header *h = &q->h;
	struct tapimg_fact *f = info_alloc(img, 8 * sizeof(*f));
	unsigned n = 0;
	int ret;

	if (!f)
		return err_errno(err, -ENOMEM, "%s", img->name);
	out->dirty = h->incompat & QCOW2_INCOMPAT_DIRTY;
	out->corrupt |= !!(h->incompat & QCOW2_INCOMPAT_CORRUPT);
	fact_str(&f[n++], "compat", q->v3 ? "1.1" : "0.10");
	fact_str(&f[n++], "compression-type", h->compression ? "zstd" : "zlib");
	if (q->v3)
		fact_bool(&f[n++], "lazy-refcounts", h->compat & QCOW2_COMPAT_LAZY);
	f[n++] = (struct tapimg_fact){ .key = "refcount-bits", .type = TAPIMG_FACT_INT,
				       .num = 1LL << h->refcount_order };
	if (q->has_data) {
		out->data_file = q->data_name ? q->data_name : img->opts.data_file;
		if (out->data_file)
			fact_str(&f[n++], "data-file", out->data_file);
		fact_bool(&f[n++], "data-file-raw", q->raw_data);
	}
	if (q->v3) {
		fact_bool(&f[n++], "corrupt", out->corrupt);
		fact_bool(&f[n++], "extended-l2", q->extl2);
	}
	out->facts = f;
	out->nfacts = n;
	ret = qcow2_snap_info(img, out, err);
	return ret ? ret : qcow2_bitmaps_info(img, out, err);
}

const struct format qcow2_format = {
	.name		= "qcow2",
	.opts		= qcow2_opts,
	.state_size	= sizeof(struct qcow2),
	.probe		= qcow2_probe,
	.create		= qcow2_create,
	.measure	= qcow2_measure,
	.open		= qcow2_open,
	.close		= qcow2_close,
	.info		= qcow2_info,
	.check		= qcow2_check,
	.resize		= qcow2_resize,
	.set_backing	= qcow2_set_backing,
	.make_empty	= qcow2_make_empty,
	.amend		= qcow2_amend,
	.snap_create	= qcow2_snap_create,
	.snap_apply	= qcow2_snap_apply,
	.snap_delete	= qcow2_snap_delete,
	.bitmap_add	= qcow2_bitmap_add,
	.bitmap_remove	= qcow2_bitmap_remove,
	.bitmap_clear	= qcow2_bitmap_clear,
	.bitmap_enable	= qcow2_bitmap_enable,
	.bitmap_name	= qcow2_bitmap_name,
	.bitmap_next	= qcow2_bitmap_next,
	.bitmap_set	= qcow2_bitmap_set,
	.map		= qcow2_map,
	.reserve	= qcow2_reserve,
	.commit		= qcow2_commit,
	.abort		= qcow2_abort,
	.unmap		= qcow2_unmap,
	.release	= qcow2_release,
	.dirtied	= qcow2_bitmaps_dirtied,
	.decode		= qcow2_decode,
	.encode		= qcow2_encode,
};
