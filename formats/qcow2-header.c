/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-header.c - the first cluster: header, extensions, name of the backing file
 *
 *	0	header (72 bytes in version 2, header_length in version 3)
 *	..	extensions: type, length, data padded to 8; an end marker
 *	..	name of the backing file
 *
 * What is parsed can be written back without loss: unknown extensions and header bytes past those
 * known here are kept as they are, in their order.
 *
 * Left out: what the features mean, which is qcow2.c's, and how a header on the disk is replaced
 * without a moment of damage, which is qcow2-switch.c's.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2.h"

#define EXT_HEAD 8
#define FEATURE_LEN 48
#define FEATURE_NAME 46

/* --------------------------------------------------------------- extensions */

struct qcow2_ext *qcow2_ext_find(const struct qcow2_header *h, uint32_t type)
{
	unsigned i;

	for (i = 0; i < h->next; i++)
		if (h->ext[i].type == type)
			return &h->ext[i];
	return NULL;
}

/* Where a new extension goes among the others. Those unknown here come last. */
static int ext_order(uint32_t type)
{
	switch (type) {
	case QCOW2_EXT_BACKING_FMT:
		return 0;
	case QCOW2_EXT_DATA_FILE:
		return 1;
	case QCOW2_EXT_CRYPT:
		return 2;
	case QCOW2_EXT_FEATURES:
		return 3;
	case QCOW2_EXT_BITMAPS:
		return 4;
	default:
		return 5;
	}
}

static uint8_t *copy_bytes(const void *data, uint32_t len)
{
	uint8_t *p = malloc((size_t)len + 1);

	if (p) {
		memcpy(p, data, len);
		p[len] = 0;	/* strings among them can be used as such */
	}
	return p;
}

static int ext_insert(struct qcow2_header *h, unsigned at, uint32_t type, const void *data,
		      uint32_t len)
{
	struct qcow2_ext *v = realloc(h->ext, (h->next + 1) * sizeof(*v));
	uint8_t *copy;

	if (!v)
		return -ENOMEM;
	h->ext = v;
	copy = copy_bytes(data, len);
	if (!copy)
		return -ENOMEM;
	memmove(v + at + 1, v + at, (h->next - at) * sizeof(*v));
	v[at] = (struct qcow2_ext){ .type = type, .len = len, .data = copy };
	h->next++;
	return 0;
}

static void ext_remove(struct qcow2_header *h, struct qcow2_ext *e)
{
	free(e->data);
	h->next--;
	memmove(e, e + 1, (h->ext + h->next - e) * sizeof(*e));
}

int qcow2_ext_set(struct qcow2_header *h, uint32_t type, const void *data, uint32_t len)
{
	struct qcow2_ext *e = qcow2_ext_find(h, type);
	uint8_t *copy;
	unsigned at;

	if (!data) {
		if (e)
			ext_remove(h, e);
		return 0;
	}
	if (!e) {
		for (at = 0; at < h->next && ext_order(h->ext[at].type) <= ext_order(type); at++)
			;
		return ext_insert(h, at, type, data, len);
	}
	copy = copy_bytes(data, len);
	if (!copy)
		return -ENOMEM;
	free(e->data);
	e->data = copy;
	e->len = len;
	return 0;
}

char *qcow2_feature_name(const struct qcow2_header *h, unsigned set, unsigned bit)
{
	const struct qcow2_ext *e = qcow2_ext_find(h, QCOW2_EXT_FEATURES);
	uint32_t i;

	for (i = 0; e && i + FEATURE_LEN <= e->len; i += FEATURE_LEN)
		if (e->data[i] == set && e->data[i + 1] == bit)
			return strndup((const char *)e->data + i + 2, FEATURE_NAME);
	return NULL;
}

static const struct {
	uint8_t set, bit;
	const char *name;
} feature_names[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

int qcow2_features_add(struct qcow2_header *h)
{
	uint8_t tab[ARRAY_SIZE(feature_names)][FEATURE_LEN] = { 0 };
	unsigned i;

	if (h->version < 3 || h->cluster_bits <= 12)
		return 0;
	for (i = 0; i < ARRAY_SIZE(feature_names); i++) {
		tab[i][0] = feature_names[i].set;
		tab[i][1] = feature_names[i].bit;
		memcpy(tab[i] + 2, feature_names[i].name, strlen(feature_names[i].name));
	}
	return qcow2_ext_set(h, QCOW2_EXT_FEATURES, tab, sizeof(tab));
}

/* ------------------------------------------------------------------- parsing */

static const char *ext_bad(const struct qcow2_ext *e)
{
	switch (e->type) {
	case QCOW2_EXT_BACKING_FMT:
		return e->len > QCOW2_MAX_FORMAT ? "backing format name is too long" : NULL;
	case QCOW2_EXT_DATA_FILE:
		return e->len > QCOW2_MAX_NAME ? "data file name is too long" : NULL;
	case QCOW2_EXT_CRYPT:
		return e->len != 16 ? "encryption header extension is not 16 bytes long" : NULL;
	case QCOW2_EXT_BITMAPS:
		return e->len != 24 ? "bitmaps extension is not 24 bytes long" : NULL;
	default:
		return NULL;
	}
}

static int parse_exts(struct qcow2_header *h, const uint8_t *buf, size_t at, size_t end, bool lax,
		      const char *name, struct tapimg_err *err)
{
	while (at + EXT_HEAD <= end) {
		uint32_t type = get_be32(buf + at), len = get_be32(buf + at + 4);
		const char *bad;
		int ret;

		if (type == QCOW2_EXT_END)
			return 0;
		if (len > end - at - EXT_HEAD)
			return err_set(err, -EINVAL, "%s: header extension 0x%08x at %zu: length %u "
				       "reaches past the header", name, type, at, len);
		if (ext_order(type) < 5 && qcow2_ext_find(h, type) && !lax)
			return err_set(err, -EINVAL, "%s: header extension 0x%08x appears twice",
				       name, type);
		ret = ext_insert(h, h->next, type, buf + at + EXT_HEAD, len);
		if (ret)
			return err_errno(err, ret, "%s: header extensions", name);
		bad = ext_bad(&h->ext[h->next - 1]);
		if (bad)
			return err_set(err, -EINVAL, "%s: %s (%u)", name, bad, len);
		at += EXT_HEAD + round_up(len, 8);
	}
	return 0;
}

static int parse_backing(struct qcow2_header *h, const uint8_t *buf, size_t len, uint64_t off,
			 const char *name, struct tapimg_err *err)
{
	uint32_t n = get_be32(buf + QH_BACKING_LEN);

	if (!off || !n)
		return 0;
	if (n > QCOW2_MAX_NAME || !checked_range(off, n, MIN(len, 1ULL << h->cluster_bits)))
		return err_set(err, -EINVAL, "%s: name of the backing file (%u bytes at 0x%" PRIx64
			       ") is not inside the first cluster", name, n, off);
	h->backing = strndup((const char *)buf + off, n);
	return h->backing ? 0 : err_errno(err, -ENOMEM, "%s", name);
}

static int parse_v3(struct qcow2_header *h, const uint8_t *buf, size_t len, uint32_t *hlen,
		    const char *name, struct tapimg_err *err)
{
	if (len < QH_V3_MIN)
		return err_set(err, -EINVAL, "%s: the header is cut off at %zu bytes", name, len);
	h->incompat = get_be64(buf + QH_INCOMPAT);
	h->compat = get_be64(buf + QH_COMPAT);
	h->autoclear = get_be64(buf + QH_AUTOCLEAR);
	h->refcount_order = get_be32(buf + QH_REFCOUNT_ORDER);
	*hlen = get_be32(buf + QH_HEADER_LEN);
	if (*hlen < QH_V3_MIN || *hlen % 8 || *hlen > MIN(len, 1ULL << h->cluster_bits))
		return err_set(err, -EINVAL, "%s: header length %u is not valid", name, *hlen);
	if (h->refcount_order > 6)
		return err_set(err, -EINVAL, "%s: refcount order %u is more than 6 (64 bits)", name,
			       h->refcount_order);
	if (*hlen > QH_COMPRESSION)
		h->compression = buf[QH_COMPRESSION];
	if (*hlen > QH_V3_LEN) {
		h->nextra = *hlen - QH_V3_LEN;
		h->extra = copy_bytes(buf + QH_V3_LEN, h->nextra);
		if (!h->extra)
			return err_errno(err, -ENOMEM, "%s", name);
	}
	return 0;
}

/* a table of @bytes at @off can be where it says */
static bool table_ok(const struct qcow2_header *h, uint64_t off, uint64_t bytes)
{
	return is_aligned(off, 1ULL << h->cluster_bits) && checked_range(off, bytes, QCOW2_HOST_MAX);
}

static int check_tables(const struct qcow2_header *h, const char *name, struct tapimg_err *err)
{
	uint64_t cluster = 1ULL << h->cluster_bits;

	if (!table_ok(h, h->l1_off, h->l1_size * 8ULL) || (h->l1_size && !h->l1_off))
		return err_set(err, -EINVAL, "%s: L1 table offset 0x%" PRIx64 " is not valid", name,
			       h->l1_off);
	if (!h->rt_clusters)
		return err_set(err, -EINVAL, "%s: there is no refcount table", name);
	if (h->rt_clusters > QCOW2_MAX_RT / cluster)
		return err_set(err, -EINVAL, "%s: refcount table of %u clusters is too large", name,
			       h->rt_clusters);
	if (!h->rt_off || !table_ok(h, h->rt_off, h->rt_clusters * cluster))
		return err_set(err, -EINVAL, "%s: refcount table offset 0x%" PRIx64 " is not valid",
			       name, h->rt_off);
	if (h->nsnap > QCOW2_MAX_SNAPSHOTS)
		return err_set(err, -EINVAL, "%s: %u snapshots are too many", name, h->nsnap);
	if (h->nsnap && (!h->snap_off || !table_ok(h, h->snap_off, QCOW2_MAX_SNAP_TABLE)))
		return err_set(err, -EINVAL, "%s: snapshot table offset 0x%" PRIx64
			       " is not valid", name, h->snap_off);
	return 0;
}

static int check_features(const struct qcow2_header *h, const char *name, struct tapimg_err *err)
{
	bool comp = h->incompat & QCOW2_INCOMPAT_COMP;

	if (h->compression > 1)
		return err_set(err, -ENOTSUP, "%s: compression type %u is unknown", name,
			       h->compression);
	if (comp != (h->compression != 0))
		return err_set(err, -EINVAL, "%s: compression type %u, but its feature bit is %s",
			       name, h->compression, comp ? "set" : "not set");
	if ((h->incompat & QCOW2_INCOMPAT_EXTL2) && h->cluster_bits < 14)
		return err_set(err, -EINVAL, "%s: extended L2 entries need clusters of 16 KiB, "
			       "these have %llu bytes", name, 1ULL << h->cluster_bits);
	if ((h->autoclear & QCOW2_AUTO_RAW) && !(h->incompat & QCOW2_INCOMPAT_DATA))
		return err_set(err, -EINVAL, "%s: marked as having a raw data file, but has no data "
			       "file", name);
	return 0;
}

static int parse_fixed(struct qcow2_header *h, const uint8_t *buf, size_t len, const char *name,
		       struct tapimg_err *err)
{
	if (len < QH_V2_LEN || get_be32(buf) != QCOW2_MAGIC)
		return err_set(err, -EINVAL, "%s: not a qcow2 image", name);
	h->version = get_be32(buf + QH_VERSION);
	if (h->version != 2 && h->version != 3)
		return err_set(err, -ENOTSUP, "%s: qcow version %u is not supported", name,
			       h->version);
	h->cluster_bits = get_be32(buf + QH_CLUSTER_BITS);
	if (h->cluster_bits < QCOW2_MIN_BITS || h->cluster_bits > QCOW2_MAX_BITS)
		return err_set(err, -EINVAL, "%s: cluster size 2^%u is not between 2^9 and 2^21",
			       name, h->cluster_bits);
	h->size = get_be64(buf + QH_SIZE);
	h->crypt_method = get_be32(buf + QH_CRYPT);
	h->l1_size = get_be32(buf + QH_L1_SIZE);
	h->l1_off = get_be64(buf + QH_L1_OFF);
	h->rt_off = get_be64(buf + QH_RT_OFF);
	h->rt_clusters = get_be32(buf + QH_RT_CLUSTERS);
	h->nsnap = get_be32(buf + QH_NSNAP);
	h->snap_off = get_be64(buf + QH_SNAP_OFF);
	h->refcount_order = 4;
	if (h->size > INT64_MAX)
		return err_set(err, -EINVAL, "%s: virtual size 0x%" PRIx64 " is too large", name,
			       h->size);
	if (h->l1_size > QCOW2_MAX_L1 / 8)
		return err_set(err, -EFBIG, "%s: L1 table of %u entries is too large", name,
			       h->l1_size);
	return 0;
}

int qcow2_header_parse(struct qcow2_header *h, const uint8_t *buf, size_t len, bool lax,
		       const char *name, struct tapimg_err *err)
{
	uint32_t hlen = QH_V2_LEN;
	uint64_t back, end;
	int ret;

	memset(h, 0, sizeof(*h));
	ret = parse_fixed(h, buf, len, name, err);
	if (ret)
		return ret;
	if (h->version >= 3)
		ret = parse_v3(h, buf, len, &hlen, name, err);
	end = MIN(len, 1ULL << h->cluster_bits);
	back = get_be64(buf + QH_BACKING_OFF);
	if (!ret)
		ret = parse_backing(h, buf, len, back, name, err);
	if (!ret && back)
		end = MIN(end, back);
	if (!ret)
		ret = parse_exts(h, buf, hlen, end, lax, name, err);
	if (!ret)
		ret = check_features(h, name, err);
	if (!ret && !lax)
		ret = check_tables(h, name, err);
	if (ret)
		qcow2_header_free(h);
	return ret;
}

void qcow2_header_free(struct qcow2_header *h)
{
	while (h->next)
		ext_remove(h, &h->ext[h->next - 1]);
	free(h->ext);
	free(h->extra);
	free(h->backing);
	h->ext = NULL;
	h->extra = NULL;
	h->backing = NULL;
}

/* ------------------------------------------------------------------- writing */

static void build_fixed(const struct qcow2_header *h, uint8_t *buf)
{
	put_be32(buf + QH_MAGIC, QCOW2_MAGIC);
	put_be32(buf + QH_VERSION, h->version);
	put_be32(buf + QH_CLUSTER_BITS, h->cluster_bits);
	put_be64(buf + QH_SIZE, h->size);
	put_be32(buf + QH_CRYPT, h->crypt_method);
	put_be32(buf + QH_L1_SIZE, h->l1_size);
	put_be64(buf + QH_L1_OFF, h->l1_off);
	put_be64(buf + QH_RT_OFF, h->rt_off);
	put_be32(buf + QH_RT_CLUSTERS, h->rt_clusters);
	put_be32(buf + QH_NSNAP, h->nsnap);
	put_be64(buf + QH_SNAP_OFF, h->snap_off);
	if (h->version < 3)
		return;
	put_be64(buf + QH_INCOMPAT, h->incompat);
	put_be64(buf + QH_COMPAT, h->compat);
	put_be64(buf + QH_AUTOCLEAR, h->autoclear);
	put_be32(buf + QH_REFCOUNT_ORDER, h->refcount_order);
	put_be32(buf + QH_HEADER_LEN, QH_V3_LEN + h->nextra);
	buf[QH_COMPRESSION] = h->compression;
	if (h->nextra)
		memcpy(buf + QH_V3_LEN, h->extra, h->nextra);
}

static size_t header_length(const struct qcow2_header *h)
{
	return h->version < 3 ? QH_V2_LEN : QH_V3_LEN + (size_t)h->nextra;
}

int qcow2_header_build(const struct qcow2_header *h, uint8_t *buf, size_t len, const char *name,
		       struct tapimg_err *err)
{
	size_t at = header_length(h), need = at + EXT_HEAD, blen = 0;
	unsigned i;

	for (i = 0; i < h->next; i++)
		need += EXT_HEAD + round_up(h->ext[i].len, 8);
	if (h->backing)
		blen = strlen(h->backing);
	if (blen > QCOW2_MAX_NAME)
		return err_set(err, -EINVAL, "%s: name of the backing file is longer than %u bytes",
			       name, QCOW2_MAX_NAME);
	need += blen;
	if (need > len)
		return err_set(err, -ENOSPC, "%s: header, extensions and the name of the backing file "
			       "need %zu bytes, the first cluster has %zu", name, need, len);
	memset(buf, 0, len);
	build_fixed(h, buf);
	for (i = 0; i < h->next; i++) {
		put_be32(buf + at, h->ext[i].type);
		put_be32(buf + at + 4, h->ext[i].len);
		memcpy(buf + at + EXT_HEAD, h->ext[i].data, h->ext[i].len);
		at += EXT_HEAD + round_up(h->ext[i].len, 8);
	}
	at += EXT_HEAD;		/* the end marker is zeroes */
	if (blen) {
		put_be64(buf + QH_BACKING_OFF, at);
		put_be32(buf + QH_BACKING_LEN, blen);
		memcpy(buf + at, h->backing, blen);
	}
	return 0;
}

/* Nothing of the header may be in the cache while it is changed underneath. */
static int header_quiet(struct tapimg *img)
{
	int ret;

	if (!img->meta)
		return 0;
	ret = meta_settle(img->meta);
	if (!ret)
		meta_forget(img->meta, 0, img->meta->bsize);
	return ret;
}

static int header_poke(struct tapimg *img, const void *data, size_t len, uint64_t off,
		       struct tapimg_err *err)
{
	int ret = header_quiet(img);

	if (!ret)
		ret = file_pwrite(img->file, data, len, off);
	if (!ret)
		ret = file_flush(img->file);
	if (ret)
		return err_errno(err, ret, "%s: writing the header at %" PRIu64, img->name, off);
	return 0;
}

int qcow2_header_set_features(struct tapimg *img, uint64_t incompat, uint64_t compat,
			      uint64_t autoclear, struct tapimg_err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint8_t b[24];
	int ret;

	if (!q->v3)
		return err_set(err, -ENOTSUP, "%s: version 2 has no feature bits", img->name);
	put_be64(b, incompat);
	put_be64(b + 8, compat);
	put_be64(b + 16, autoclear);
	ret = header_poke(img, b, sizeof(b), QH_INCOMPAT, err);
	if (ret)
		return ret;
	q->h.incompat = incompat;
	q->h.compat = compat;
	q->h.autoclear = autoclear;
	return 0;
}
