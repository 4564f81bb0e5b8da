/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow.c - QCOW version 1, QEMU's and Xen's: the header, opening, closing, info, the driver
 *
 * The layout is in qcow.h, the mapping in qcow-map.c and qcow-write.c.
 *
 * The L1 table and the L2 tables are looked at through cached blocks of at most 4 KiB, which
 * never hold anything but metadata, since tables begin at a multiple of them. Old images of Xen, whose
 * L1 table is in the order of the machine that wrote them, are read and written as they are.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "deflate.h"
#include "qcow.h"

#define BLOCK_MAX 4096			/* of the metadata cache */
#define KEY_LEN 16

static int qcow_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	if (len < QCOW_HEADER || get_be32(head) != QCOW_MAGIC)
		return 0;
	return get_be32(head + QH1_VERSION) == 1 ? 100 : 0;
}

/* --------------------------------------------------------------------- header */

static int bad_header(const struct tapimg *img, struct tapimg_err *err, const char *what,
		      uint64_t value)
{
	return err_set(err, -EUCLEAN, "%s: %s %" PRIu64 " in the header cannot be", img->name, what,
		       value);
}

static int check_header(const struct tapimg *img, const struct qcow *q, uint32_t crypt,
			struct tapimg_err *err)
{
	uint64_t end;

	if (q->cluster_bits < 9 || q->cluster_bits > 16)
		return bad_header(img, err, "cluster bits", q->cluster_bits);
	if (q->l2_bits < 6 || q->l2_bits > 13)
		return bad_header(img, err, "L2 bits", q->l2_bits);
	if (crypt > 1)
		return err_set(err, -ENOTSUP, "%s: encryption method %u is not known", img->name, crypt);
	if (q->size < 512 || q->size > INT64_MAX)
		return bad_header(img, err, "size", q->size);
	if (q->l1_entries > QCOW_L1_MAX / 8)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes with clusters of %u bytes is too "
			       "large", img->name, q->size, q->cluster);
	if (!is_aligned(q->l1_off, 8) || q->l1_off < QCOW_HEADER)
		return bad_header(img, err, "L1 offset", q->l1_off);
	if (!checked_add(q->l1_off, q->l1_entries * 8, &end) || end > img->file->size)
		return err_set(err, -EUCLEAN, "%s: the L1 table at 0x%" PRIx64 ", of %" PRIu64 " entries, "
			       "reaches beyond the end of the file (%" PRIu64 ")", img->name, q->l1_off,
			       q->l1_entries, img->file->size);
	return 0;
}

static int read_backing_name(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	int ret;

	if (!q->backing_off || !q->backing_len)
		return 0;
	if (q->backing_len > QCOW_NAME_MAX)
		return bad_header(img, err, "length of the backing file's name", q->backing_len);
	if (!checked_range(q->backing_off, q->backing_len, img->file->size))
		return bad_header(img, err, "offset of the backing file's name", q->backing_off);
	img->backing_name = calloc(1, q->backing_len + 1);
	if (!img->backing_name)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = file_pread(img->file, img->backing_name, q->backing_len, q->backing_off);
	if (ret)
		return err_errno(err, ret, "%s: reading the name of the backing file", img->name);
	if (!*img->backing_name) {
		free(img->backing_name);
		img->backing_name = NULL;
	}
	return 0;
}

static void parse(struct qcow *q, const uint8_t *h)
{
	q->backing_off = get_be64(h + QH1_BACKING_OFF);
	q->backing_len = get_be32(h + QH1_BACKING_LEN);
	q->mtime = get_be32(h + QH1_MTIME);
	/* whole sectors: the rest of one cannot be reached in other readers either */
	q->size = round_down(get_be64(h + QH1_SIZE), 512);
	q->cluster_bits = h[QH1_CLUSTER_BITS];
	q->l2_bits = h[QH1_L2_BITS];
	q->l1_off = get_be64(h + QH1_L1_OFF);
	q->encrypted = get_be32(h + QH1_CRYPT);
	q->xen = is_aligned(q->l1_off, QCOW_XEN_ALIGN) && get_be32(h + QH1_XEN_MAGIC) == QCOW_XEN_MAGIC;
	q->xen_sum = get_be32(h + QH1_XEN_SUM);
	q->xen_alloc = get_be32(h + QH1_XEN_ALLOC);
	q->xen_flags = get_be32(h + QH1_XEN_FLAGS);
}

int qcow_read_header(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint8_t h[QCOW_HEADER + QCOW_XEN_HEADER] = { 0 };
	int ret;

	if (img->file->size < QCOW_HEADER)
		return err_set(err, -EINVAL, "%s: is too short for a QCOW image", img->name);
	ret = file_pread(img->file, h, sizeof(h), 0);
	if (ret)
		return err_errno(err, ret, "%s: reading the header", img->name);
	if (get_be32(h) != QCOW_MAGIC || get_be32(h + QH1_VERSION) != 1)
		return err_set(err, -EINVAL, "%s: is not a QCOW image of version 1", img->name);
	parse(q, h);
	if (q->cluster_bits < 32 && q->l2_bits < 32) {
		q->cluster = 1U << q->cluster_bits;
		q->l2_bytes = 8U << q->l2_bits;
		q->l1_shift = q->cluster_bits + q->l2_bits;
		q->l1_entries = q->l1_shift < 64 ? qcow_l1_count(q->size, q->l1_shift) : 0;
	}
	return check_header(img, q, get_be32(h + QH1_CRYPT), err);
}

int qcow_write_header(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint8_t h[QH1_SECTOR];
	int ret = file_pread(img->file, h, sizeof(h), 0);

	put_be64(h + QH1_BACKING_OFF, q->backing_off);
	put_be32(h + QH1_BACKING_LEN, q->backing_len);
	put_be32(h + QH1_MTIME, q->mtime);
	put_be64(h + QH1_SIZE, q->size);
	put_be64(h + QH1_L1_OFF, q->l1_off);
	if (q->xen) {
		put_be32(h + QH1_XEN_SUM, q->xen_sum);
		put_be32(h + QH1_XEN_ALLOC, q->xen_alloc);
		put_be32(h + QH1_XEN_FLAGS, q->xen_flags);
	}
	if (!ret)
		ret = file_pwrite(img->file, h, sizeof(h), 0);
	if (!ret)
		ret = file_flush(img->file);
	if (img->meta)
		meta_drop(img->meta);
	return ret ? err_errno(err, ret, "%s: writing the header", img->name) : 0;
}

/* ---------------------------------------------------------- Xen's extension */

#define SUM_CHUNK 4096

/*
 * The checksum, by the table as it is (be) or by the other order. *fits: how many entries would be
 * good offsets in big-endian [0] and in little-endian order [1].
 */
static int sum_table(struct tapimg *img, bool swap, uint32_t *sum, uint64_t fits[2],
		     struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint64_t left = q->l1_entries * 8, off = q->l1_off;
	uint8_t *buf = malloc(SUM_CHUNK), out[CRYPT_DIGEST_MAX];
	struct crypt_digest *d = NULL;
	int ret = buf ? crypt_digest_new(CRYPT_MD5, &d, err) : err_errno(err, -ENOMEM, "%s", img->name);

	while (!ret && left) {
		uint64_t n = MIN(left, SUM_CHUNK);

		ret = file_pread(img->file, buf, n, off);
		for (uint64_t i = 0; !ret && i < n; i += 8) {
			uint64_t be = get_be64(buf + i), le = get_le64(buf + i);

			fits[0] += be && be < img->file->size;
			fits[1] += le && le < img->file->size;
			if (swap)
				put_be64(buf + i, le);
		}
		if (!ret)
			ret = crypt_digest_add(d, buf, n);
		if (ret)
			err_errno(err, ret, "%s: reading the L1 table", img->name);
		left -= n;
		off += n;
	}
	free(buf);
	if (!d)
		return ret;
	if (crypt_digest_end(d, out) < 0 && !ret)
		ret = err_set(err, -EIO, "%s: the checksum cannot be made", img->name);
	*sum = get_le32(out);
	return ret;
}

int qcow_l1_sum(struct tapimg *img, uint32_t *sum, struct tapimg_err *err)
{
	uint64_t fits[2] = { 0 };

	return sum_table(img, qcow_of(img)->l1_le, sum, fits, err);
}

/*
 * Whether the extension can be believed, and in which order the L1 table is: what the flag says, but an
 * old image that is not marked as big-endian may have been written by QEMU since.
 */
static int xen_look(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	bool old = !(q->xen_flags & QCOW_XEN_L1_BE);
	uint64_t fits[2] = { 0 }, none[2];
	uint32_t sum = 0;
	int ret;

	if (!q->xen)
		return 0;
	if (!old && !(img->flags & (TAPIMG_RDWR | TAPIMG_CHECK)) && img->flags & TAPIMG_NO_IO)
		return 0;		/* nobody will ask */
	ret = sum_table(img, false, &sum, fits, err);
	q->xen_valid = !ret && sum == q->xen_sum;
	if (ret || q->xen_valid || !old)
		return ret;
	ret = sum_table(img, true, &sum, none, err);
	if (!ret && sum == q->xen_sum)
		q->xen_valid = q->l1_le = true;
	else
		q->l1_le = fits[1] > fits[0];
	return ret;
}

/* ----------------------------------------------------------------- the cache */

static int release_op(void *arg, uint64_t off, uint64_t len)
{
	return qcow_release(arg, off, len);
}

static void failed_op(void *arg, int err, uint64_t off, const char *what)
{
	image_fail(arg, err, "%s at 0x%" PRIx64 ": %s", what, off, strerror(-err));
}

static int cache_open(struct tapimg *img, struct tapimg_err *err)
{
	static const struct meta_ops ops = { .release = release_op, .failed = failed_op };
	struct qcow *q = qcow_of(img);
	uint32_t bsize = MIN(MIN(q->cluster, q->l2_bytes), BLOCK_MAX);
	uint64_t tables = q->l1_entries * 8 + (q->size >> q->cluster_bits) * 8 + q->l2_bytes;
	uint64_t want = image_cache_size(img, tables);
	/* several new tables have to fit in beside other things */
	int ret = meta_new(img->file, bsize, MAX(want, 8ULL * q->l2_bytes + 512 * KiB), &ops, img,
			   &img->meta);

	if (ret)
		return err_errno(err, ret, "%s: metadata cache", img->name);
	img->meta->free_align = q->cluster;
	img->meta->punch = img->flags & TAPIMG_UNMAP;
	return 0;
}

/* ------------------------------------------------------------------- opening */

/*
 * A passphrase of up to 16 bytes is the key as it is; nothing in the image tells whether it is right.
 * Of a longer one the beginning counts.
 */
static int set_key(struct tapimg *img, struct tapimg_err *err)
{
	uint8_t secret[1024], key[KEY_LEN] = { 0 };
	int ret = image_secret(img, secret, sizeof(secret), err);

	if (ret < 0)
		return ret;
	memcpy(key, secret, MIN((size_t)ret, sizeof(key)));
	ret = crypt_new(CRYPT_AES_CBC_PLAIN64, key, sizeof(key), img->name, &img->crypt, err);
	crypt_wipe(secret, sizeof(secret));
	crypt_wipe(key, sizeof(key));
	return ret;
}

/* Regions are kept up where they are; the engine zeroes at most so much at once. */
static bool keeps_regions(const struct qcow *q)
{
	return q->xen_valid && q->xen_alloc == 1U << q->l2_bits && !q->encrypted &&
	       q->l1_shift <= 21 && is_aligned(q->l2_bytes, q->cluster) &&
	       is_aligned(q->l2_bytes, QCOW_XEN_ALIGN);
}

int qcow_set_end(struct tapimg *img, uint64_t end, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct file *f = img->file;
	int ret = 0;

	qcow_space_free(&q->space);
	end = round_up(end, q->cluster);
	if (!f->block_dev && f->size != end)
		ret = file_truncate(f, end);
	if (ret)
		return err_errno(err, ret, "%s: setting the file's size to %" PRIu64, img->name, end);
	q->end = end;
	q->limit = round_up(MAX(f->size, end), q->cluster);
	q->clean = f->grows_clean && !f->block_dev ? end : UINT64_MAX;
	return 0;
}

static int prepare_writing(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct file *f = img->file;
	int ret;

	/* Xen's driver would look for clusters at places that we do not keep to */
	if (q->xen_valid && !q->regions && q->xen_alloc != 1) {
		q->xen_alloc = 1;
		ret = qcow_write_header(img, err);
		if (ret)
			return ret;
	}
	if (f->block_dev)
		return qcow_find_end(img, &q->end, err);
	/* the last cluster may have been written only in part, and be longer than the file */
	q->end = round_up(f->size, q->cluster);
	q->clean = f->grows_clean ? q->end : UINT64_MAX;
	return 0;
}

static int qcow_open(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	int ret = qcow_read_header(img, err);

	q->end = q->clean = UINT64_MAX;
	if (!ret)
		ret = read_backing_name(img, err);
	if (!ret)
		ret = xen_look(img, err);
	if (!ret)
		ret = cache_open(img, err);
	if (!ret && q->encrypted && !(img->flags & (TAPIMG_NO_IO | TAPIMG_CHECK | TAPIMG_CIPHERTEXT)))
		ret = set_key(img, err);
	if (ret)
		return ret;
	q->regions = keeps_regions(q);
	q->limit = round_up(img->file->size, q->cluster);
	img->size = q->size;
	img->cluster = q->cluster;
	img->unit = q->regions ? 1U << q->l1_shift : q->cluster;
	img->writable = img->flags & TAPIMG_RDWR;
	q->wseq = img->file->wseq;
	if (img->writable && !(img->flags & TAPIMG_CHECK))
		ret = prepare_writing(img, err);
	return ret;
}

/* The L1 table has changed: its checksum is written last, when all else is on stable storage. */
static int store_sum(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	uint8_t b[4];
	int ret;

	if (!q->xen_valid || !q->l1_changed || !img->writable || img->failed)
		return 0;
	ret = qcow_l1_sum(img, &q->xen_sum, err);
	if (ret)
		return ret;
	put_be32(b, q->xen_sum);
	ret = file_pwrite(img->file, b, sizeof(b), QH1_XEN_SUM);
	return ret ? err_errno(err, ret, "%s: writing the checksum", img->name) : 0;
}

/*
 * The file holds all of the last cluster, also where nothing was written of it: QEMU would put
 * compressed data behind the end that it finds.
 */
static int whole_file(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct file *f = img->file;
	int ret;

	if (q->end == UINT64_MAX || f->block_dev || !img->writable || img->failed ||
	    f->logical_end >= q->end || f->wseq == q->wseq)
		return 0;
	ret = file_truncate(f, q->end);
	return ret ? err_errno(err, ret, "%s: setting the file's size to %" PRIu64, img->name, q->end) : 0;
}

static int qcow_close(struct tapimg *img, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	int ret = 0;

	if (img->meta)
		ret = whole_file(img, err);
	if (img->meta && !ret)
		ret = store_sum(img, err);
	meta_destroy(img->meta);
	img->meta = NULL;
	qcow_space_free(&q->space);
	return ret;
}

/* ---------------------------------------------------------------------- info */

static int qcow_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct qcow *q = qcow_of(img);
	struct tapimg_fact *f;
	unsigned n = 0;

	out->encrypted = q->encrypted;
	if (!q->xen)
		return 0;
	f = info_alloc(img, 3 * sizeof(*f));
	if (!f)
		return err_errno(err, -ENOMEM, "%s", img->name);
	f[n++] = (struct tapimg_fact){ .key = "xen-minimum-allocation", .type = TAPIMG_FACT_INT,
				       .num = q->xen_alloc };
	f[n++] = (struct tapimg_fact){ .key = "xen-sparse", .type = TAPIMG_FACT_BOOL,
				       .num = q->xen_flags & QCOW_XEN_SPARSE };
	f[n++] = (struct tapimg_fact){ .key = "xen-l1-order", .type = TAPIMG_FACT_STR,
				       .str = q->l1_le ? "little-endian" : "big-endian" };
	out->facts = f;
	out->nfacts = n;
	return 0;
}

/* ------------------------------------------------------------- compression */

static int qcow_decode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		       void *dst, uint32_t dst_len)
{
	return deflate_decode(src, src_len, dst, dst_len);
}

/* In regions nothing is packed; the length has to fit into its bits. */
static int qcow_encode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		       void *dst, uint32_t dst_max)
{
	if (qcow_of(img)->regions)
		return 0;
	return deflate_encode(src, src_len, dst, MIN(dst_max, src_len - 1));
}

const struct format qcow_format = {
	.name		= "qcow",
	.opts		= qcow_opts,
	.state_size	= sizeof(struct qcow),
	.probe		= qcow_probe,
	.create		= qcow_create,
	.measure	= qcow_measure,
	.open		= qcow_open,
	.close		= qcow_close,
	.info		= qcow_info,
	.check		= qcow_check,
	.resize		= qcow_resize,
	.set_backing	= qcow_set_backing,
	.make_empty	= qcow_make_empty,
	.map		= qcow_map,
	.reserve	= qcow_reserve,
	.commit		= qcow_commit,
	.abort		= qcow_abort,
	.unmap		= qcow_unmap,
	.release	= qcow_release,
	.decode		= qcow_decode,
	.encode		= qcow_encode,
};
