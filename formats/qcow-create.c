/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow-create.c - new images in QEMU's layout and in Xen's, and how large they will be
 *
 * QEMU's: the header, the backing file's name, the L1 table at the next multiple of 8.  Xen's: the
 * extended header, the name, the L1 table at the next multiple of 4096, and zeroes up to another.
 * Clusters of 4 KiB with L2 tables of 512 entries; in images with a backing file sectors, with tables of 4096
 * entries, so that nothing has to be copied for a write of sectors.
 *
 * A preallocated image consists of regions in either layout: an L2 table, its clusters, the next one.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "crypt.h"
#include "name.h"
#include "opt.h"
#include "qcow.h"

const struct tapimg_opt_desc qcow_opts[] = {
	{ "size", "size", NULL, "virtual size", TAPIMG_OPT_CREATE },
	{ "backing_file", "str", NULL, "file that is read where nothing was written", TAPIMG_OPT_CREATE },
	{ "backing_fmt", "str", NULL, "its format; it has to be what its contents look like",
	  TAPIMG_OPT_CREATE },
	{ "cluster_size", "size", NULL, "512 to 65536 (default: 4096, with a backing file 512)",
	  TAPIMG_OPT_CREATE },
	{ "l2_entries", "size", NULL, "entries of an L2 table, 64 to 8192 (default: 512, with a backing "
	  "file 4096)", TAPIMG_OPT_CREATE },
	{ "layout", "qemu|xen", "qemu", "whose arrangement; xen: with its extended header",
	  TAPIMG_OPT_CREATE },
	{ "preallocation", "off|metadata|falloc|full", "off", "map all clusters in advance, and allocate "
	  "or write them", TAPIMG_OPT_CREATE },
	{ "encryption", "on|off", "off", "the older name of encrypt.format=aes", TAPIMG_OPT_CREATE },
	{ "encrypt.format", "aes", NULL, "encipher the data: AES-128-CBC, broken by today's standards",
	  TAPIMG_OPT_CREATE },
	{ "encrypt.key-secret", "str", NULL, "id of the passphrase (see --object)", TAPIMG_OPT_CREATE },
	{ 0 },
};

/* A new image, as its options say. */
struct plan {
	uint64_t size;			/* whole sectors */
	unsigned cluster_bits, l2_bits;
	bool xen, encrypted;
	enum tapimg_prealloc prealloc;
	uint64_t l1_off, l1_bytes, regions;
	uint64_t start;			/* the end of the L1 table, rounded up */
	uint64_t l2_bytes, region;	/* of one table; of a table and its clusters */
	size_t name_len;
};

static int log2_option(const struct create *c, const char *name, unsigned lo, unsigned hi,
		       unsigned def, unsigned *bits, struct tapimg_err *err)
{
	uint64_t v = create_opt_size(c, &qcow_format, name);

	*bits = def;
	if (!create_opt(c, name))
		return 0;
	if (!is_pow2(v) || v < 1ULL << lo || v > 1ULL << hi)
		return err_set(err, -EINVAL, "%s: %s has to be a power of two from %llu to %llu, not %" PRIu64,
			       c->name, name, 1ULL << lo, 1ULL << hi, v);
	*bits = (unsigned)__builtin_ctzll(v);
	return 0;
}

static int plan_options(const struct create *c, struct plan *p, struct tapimg_err *err)
{
	const char *format = create_opt(c, "encrypt.format");
	int ret;

	p->xen = create_opt_enum(c, &qcow_format, "layout") == 1;
	p->encrypted = create_opt_bool(c, &qcow_format, "encryption") || format;
	p->prealloc = (enum tapimg_prealloc)create_opt_enum(c, &qcow_format, "preallocation");
	p->name_len = c->backing ? strlen(c->backing) : 0;
	ret = log2_option(c, "cluster_size", 9, 16, c->backing ? 9 : 12, &p->cluster_bits, err);
	if (!ret)
		ret = log2_option(c, "l2_entries", 6, 13, c->backing ? 12 : 9, &p->l2_bits, err);
	if (ret)
		return ret;
	if (format && strcmp(format, "aes") != 0)
		return err_set(err, -ENOTSUP, "%s: encrypt.format '%s' is not known, only aes", c->name, format);
	if (create_opt(c, "encrypt.key-secret") && !p->encrypted)
		return err_set(err, -EINVAL, "%s: encrypt.key-secret without encrypt.format=aes", c->name);
	if (p->encrypted && p->xen)
		return err_set(err, -ENOTSUP, "%s: the layout xen cannot be enciphered", c->name);
	if (p->prealloc != TAPIMG_PREALLOC_OFF && p->encrypted)
		return err_set(err, -ENOTSUP, "%s: an enciphered image cannot be preallocated: its zeroes have "
			       "to be written with the key", c->name);
	if (p->prealloc != TAPIMG_PREALLOC_OFF && c->backing)
		return err_set(err, -ENOTSUP, "%s: with a backing file there is no preallocation, for it would "
			       "hide that", c->name);
	if (p->name_len > QCOW_NAME_MAX)
		return err_set(err, -EINVAL, "%s: the backing file's name has %zu bytes, more than %d", c->name,
			       p->name_len, QCOW_NAME_MAX);
	return 0;
}

static int plan_make(const struct create *c, struct plan *p, struct tapimg_err *err)
{
	unsigned shift;
	int ret = plan_options(c, p, err);

	if (ret)
		return ret;
	if (!c->size || c->size > INT64_MAX - 511)
		return err_set(err, c->size ? -EFBIG : -EINVAL, "%s: a size of %" PRIu64 " bytes cannot be",
			       c->name, c->size);
	p->size = round_up(c->size, 512);
	shift = p->cluster_bits + p->l2_bits;
	p->regions = qcow_l1_count(p->size, shift);
	p->l1_bytes = p->regions * 8;
	if (p->l1_bytes > QCOW_L1_MAX)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is too large for clusters of %u "
			       "bytes and L2 tables of %u entries", c->name, p->size, 1U << p->cluster_bits,
			       1U << p->l2_bits);
	p->l2_bytes = 8ULL << p->l2_bits;
	p->l1_off = QCOW_HEADER + (p->xen ? QCOW_XEN_HEADER : 0) + p->name_len;
	p->l1_off = round_up(p->l1_off, p->xen ? QCOW_XEN_ALIGN : 8);
	p->start = round_up(p->l1_off + p->l1_bytes, p->xen ? QCOW_XEN_ALIGN : 512);
	p->region = round_up(p->l2_bytes, 1ULL << p->cluster_bits) + (1ULL << shift);
	return 0;
}

/* ------------------------------------------------------------------- writing */

/* Where regions begin when they follow the L1 table. */
static uint64_t regions_at(const struct plan *p)
{
	return round_up(p->start, MAX(1ULL << p->cluster_bits, p->xen ? QCOW_XEN_ALIGN : 512ULL));
}

static void put_header(const struct create *c, const struct plan *p, uint32_t mtime, uint8_t *h)
{
	bool whole = !c->backing;

	put_be32(h + QH1_MAGIC, QCOW_MAGIC);
	put_be32(h + QH1_VERSION, 1);
	if (c->backing) {
		put_be64(h + QH1_BACKING_OFF, QCOW_HEADER + (p->xen ? QCOW_XEN_HEADER : 0));
		put_be32(h + QH1_BACKING_LEN, p->name_len);
		memcpy(h + get_be64(h + QH1_BACKING_OFF), c->backing, p->name_len);
	}
	put_be32(h + QH1_MTIME, mtime);
	put_be64(h + QH1_SIZE, p->size);
	h[QH1_CLUSTER_BITS] = p->cluster_bits;
	h[QH1_L2_BITS] = p->l2_bits;
	put_be32(h + QH1_CRYPT, p->encrypted);
	put_be64(h + QH1_L1_OFF, p->l1_off);
	if (!p->xen)
		return;
	put_be32(h + QH1_XEN_MAGIC, QCOW_XEN_MAGIC);
	put_be32(h + QH1_XEN_ALLOC, whole ? 1U << p->l2_bits : 1);
	put_be32(h + QH1_XEN_FLAGS, QCOW_XEN_L1_BE |
		 (p->prealloc == TAPIMG_PREALLOC_OFF ? QCOW_XEN_SPARSE : 0));
}

/* L1 entries in pieces, written and summed. */
static int write_l1(const struct create *c, const struct plan *p, uint32_t *sum,
		    struct tapimg_err *err)
{
	const unsigned chunk = 65536;
	uint64_t at = regions_at(p), done = 0;
	uint8_t *buf = calloc(1, chunk), out[CRYPT_DIGEST_MAX];
	struct crypt_digest *d = NULL;
	int ret = buf ? 0 : err_errno(err, -ENOMEM, "%s", c->name);

	if (!ret && p->xen)
		ret = crypt_digest_new(CRYPT_MD5, &d, err);
	while (!ret && done < p->l1_bytes) {
		uint64_t n = MIN(p->l1_bytes - done, chunk);

		for (uint64_t i = 0; p->prealloc != TAPIMG_PREALLOC_OFF && i < n; i += 8, at += p->region)
			put_be64(buf + i, at);
		if (p->prealloc != TAPIMG_PREALLOC_OFF)
			ret = file_pwrite(c->file, buf, n, p->l1_off + done);
		if (!ret && d)
			ret = crypt_digest_add(d, buf, n);
		if (ret)
			err_errno(err, ret, "%s: writing the L1 table", c->name);
		done += n;
	}
	free(buf);
	if (!d)
		return ret;
	if (crypt_digest_end(d, out) < 0 && !ret)
		ret = err_set(err, -EIO, "%s: the checksum cannot be made", c->name);
	*sum = get_le32(out);
	return ret;
}

/* A device holds old bytes where nothing was written. */
static bool grows_clean(const struct file *f)
{
	return f->grows_clean && !f->block_dev;
}

static int write_regions(const struct create *c, const struct plan *p, struct tapimg_err *err)
{
	uint64_t at = regions_at(p);
	int ret = 0;

	for (uint64_t r = 0; !ret && r < p->regions; r++, at += p->region)
		ret = qcow_make_region(c->file, at, p->cluster_bits, p->l2_bits, p->prealloc);
	if (!ret && !c->file->block_dev)
		ret = file_truncate(c->file, at);
	return ret ? err_errno(err, ret, "%s: preallocating", c->name) : 0;
}

/*
 * All up to the end of the L1 table; the header last, so that there is no image before.  If all of it is one
 * sector, then that is the only write, and what a device held before stays until it is done.
 */
static int write_image(const struct create *c, const struct plan *p, uint32_t mtime,
		       struct tapimg_err *err)
{
	struct file *f = c->file;
	uint64_t head = round_up(MAX(p->l1_off, 512ULL), 512);
	bool single = p->start <= QH1_SECTOR && p->prealloc == TAPIMG_PREALLOC_OFF;
	uint8_t *h = calloc(1, head);
	uint32_t sum = 0;
	int ret = h ? 0 : -ENOMEM;

	if (!ret)
		ret = grows_clean(f) ? file_truncate(f, p->start) :
		      single ? 0 : file_zero(f, 0, p->start, 0);
	if (ret)
		err_errno(err, ret, "%s: making the L1 table", c->name);
	if (!ret && p->prealloc != TAPIMG_PREALLOC_OFF)
		ret = write_regions(c, p, err);
	if (!ret)
		ret = write_l1(c, p, &sum, err);
	if (!ret) {
		put_header(c, p, mtime, h);
		if (p->xen)
			put_be32(h + QH1_XEN_SUM, sum);
		ret = file_pwrite(f, h, single ? QH1_SECTOR : p->l1_off, 0);
		if (ret)
			err_errno(err, ret, "%s: writing the header", c->name);
	}
	free(h);
	return ret;
}

/* ------------------------------------------------------------------- creating */

static int format_mismatch(const char *referrer, const char *name, const struct format *want,
			   struct file *f, struct tapimg_err *err)
{
	const struct format *looks = format_probe(f, err);

	if (!looks)
		return err->code;
	if (looks == want)
		return 0;
	return err_set(err, -EINVAL, "%s: a qcow image does not record its backing file's format; '%s' looks "
		       "like %s, not %s: give it as json:{\"driver\":\"%s\",\"file.filename\":\"...\"}",
		       referrer, name, looks->name, want->name, want->name);
}

int qcow_backing_format(struct tapimg_loop *loop, const char *referrer, const char *name,
			const char *format, struct tapimg_err *err)
{
	const struct format *want = format ? format_find(format) : NULL;
	struct tapimg_err e = { 0 };
	struct name n = { 0 };
	struct file *f;
	char *path;
	int ret;

	if (!want)
		return 0;
	path = name_resolve(referrer, name);
	if (!path || name_parse(path, &n, &e)) {
		free(path);
		return 0;		/* opening the image will say */
	}
	free(path);
	/* what is not there can be anything */
	ret = n.format ? -ENOENT : file_open(loop, n.path, FILE_SHARE, &f, &e);
	name_free(&n);
	if (ret)
		return 0;
	ret = format_mismatch(referrer, name, want, f, &e);
	file_close(f);
	return ret ? err_set(err, ret, "%s", e.text) : 0;
}

static int check_backing(const struct create *c, struct tapimg_err *err)
{
	struct tapimg *b = c->backing_img;

	if (!b)
		return 0;
	if (b->size < 512)
		return err_set(err, -EINVAL, "%s: the backing file '%s' is empty", c->name, c->backing);
	/* a name with a driver says it by itself */
	if (!strncmp(c->backing, "json:", 5))
		return 0;
	return format_mismatch(c->name, c->backing, b->fmt, b->file, err);
}

/* That there is a secret of that name: the image itself does not hold anything of it. */
static int check_secret(const struct create *c, struct tapimg_err *err)
{
	uint8_t secret[1024];
	int n = create_secret(c, "qcow", create_opt(c, "encrypt.key-secret"), secret, sizeof(secret), err);

	crypt_wipe(secret, sizeof(secret));
	return MIN(n, 0);
}

int qcow_create(const struct create *c, struct tapimg_err *err)
{
	struct plan p = { 0 };
	int ret = plan_make(c, &p, err);
	uint64_t need;

	if (!ret && c->backing)
		ret = check_backing(c, err);
	if (!ret && p.encrypted)
		ret = check_secret(c, err);
	if (ret)
		return ret;
	need = p.prealloc == TAPIMG_PREALLOC_OFF ? p.start : regions_at(&p) + p.regions * p.region;
	if (c->file->block_dev && need > c->file->size)
		return err_set(err, -ENOSPC, "%s: the device has %" PRIu64 " bytes, %" PRIu64 " are needed",
			       c->name, c->file->size, need);
	return write_image(c, &p, 0, err);
}

/* -------------------------------------------------------------------- measure */

struct tally {
	const struct plan *p;
	uint64_t cluster_next, region_next;	/* the first ones that have not been counted */
	uint64_t clusters, regions;
};

static void tally_range(struct tally *t, uint64_t off, uint64_t len)
{
	unsigned cb = t->p->cluster_bits, rb = cb + t->p->l2_bits;
	uint64_t first = MAX(off >> cb, t->cluster_next), end = ((off + len - 1) >> cb) + 1;
	uint64_t rfirst = MAX(off >> rb, t->region_next), rend = ((off + len - 1) >> rb) + 1;

	t->clusters += end > first ? end - first : 0;
	t->regions += rend > rfirst ? rend - rfirst : 0;
	t->cluster_next = MAX(t->cluster_next, end);
	t->region_next = MAX(t->region_next, rend);
}

static int tally_source(struct tally *t, struct tapimg *src)
{
	uint64_t off = 0;

	while (off < src->size) {
		struct tapimg_status st;
		int ret = tapimg_block_status(src, off, src->size - off, 0, &st);

		if (ret)
			return ret;
		if (st.flags & TAPIMG_ST_DATA && !(st.flags & TAPIMG_ST_ZERO))
			tally_range(t, off, st.len);
		off += st.len;
	}
	return 0;
}

int qcow_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		 struct tapimg_err *err)
{
	struct plan p = { 0 };
	struct tally t = { .p = &p };
	uint64_t clusters;
	bool whole;
	int ret = plan_make(c, &p, err);

	if (ret)
		return ret;
	whole = p.prealloc != TAPIMG_PREALLOC_OFF;
	clusters = div_up(p.size, 1ULL << p.cluster_bits);
	if (p.xen && !c->backing)
		whole = true;
	out->fully_allocated = regions_at(&p) + (whole ? p.regions * p.region :
		p.regions * round_up(p.l2_bytes, 1ULL << p.cluster_bits) + (clusters << p.cluster_bits));
	out->bitmaps = UINT64_MAX;
	if (p.prealloc != TAPIMG_PREALLOC_OFF || (src && c->backing)) {
		out->required = out->fully_allocated;
		return 0;
	}
	ret = src ? tally_source(&t, src) : 0;
	if (ret)
		return err_errno(err, ret, "%s: looking for data", src->name);
	out->required = t.regions ? regions_at(&p) : p.start;
	if (whole)
		out->required += t.regions * p.region;
	else
		out->required += t.regions * round_up(p.l2_bytes, 1ULL << p.cluster_bits) +
				 (t.clusters << p.cluster_bits);
	return 0;
}
