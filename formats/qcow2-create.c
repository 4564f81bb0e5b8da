/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-create.c - making images, preallocating, measuring
 *
 *	header | refcount table | refcount blocks | L1 | L2 tables | data
 *
 * The last two only with preallocation: then the disk lies in the file in one piece, in guest order,
 * behind all metadata.  Nothing of a new image is visible before its file is complete, so the order
 * of the writes does not matter.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "name.h"
#include "open.h"
#include "opt.h"
#include "qcow2.h"
#include "target.h"

#define CHUNK (1 * MiB)		/* written at a time */

#define CRYPT_OPT(name, arg) { name, arg, NULL, "not supported: images are not encrypted",	\
			       TAPIMG_OPT_CREATE }

const struct tapimg_opt_desc qcow2_opts[] = {
	{ "size", "size", NULL, "virtual size", TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "compat", "0.10|1.1|v2|v3", "1.1", "version of the format",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "backing_file", "str", NULL, "name of the backing file",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "backing_fmt", "str", NULL, "format of the backing file",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "cluster_size", "size", "65536", "unit of allocation: 512 to 2M", TAPIMG_OPT_CREATE },
	{ "preallocation", "off|metadata|falloc|full", "off", "what is allocated in advance",
	  TAPIMG_OPT_CREATE },
	{ "lazy_refcounts", "on|off", "off", "allow refcounts to be written late",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "refcount_bits", "size", "16", "width of a reference count: 1 to 64",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "compression_type", "zlib|zstd", "zlib", "of compressed clusters", TAPIMG_OPT_CREATE },
	{ "extended_l2", "on|off", "off", "32 subclusters in each cluster", TAPIMG_OPT_CREATE },
	{ "data_file", "str", NULL, "file that holds the guest's data",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "data_file_raw", "on|off", "off", "keep the data file readable as a raw image",
	  TAPIMG_OPT_CREATE | TAPIMG_OPT_AMEND },
	{ "nocow", "on|off", "off", "no copy-on-write in the file system (btrfs)",
	  TAPIMG_OPT_CREATE },
	CRYPT_OPT("encryption", "on|off"),
	CRYPT_OPT("encrypt.format", "str"),
	CRYPT_OPT("encrypt.key-secret", "str"),
	CRYPT_OPT("encrypt.cipher-alg", "str"),
	CRYPT_OPT("encrypt.cipher-mode", "str"),
	CRYPT_OPT("encrypt.hash-alg", "str"),
	CRYPT_OPT("encrypt.ivgen-alg", "str"),
	CRYPT_OPT("encrypt.ivgen-hash-alg", "str"),
	CRYPT_OPT("encrypt.iter-time", "str"),
	{ 0 },
};

/* ------------------------------------------------------------------- options */

struct params {
	const struct create *c;
	struct qcow2_header h;
	enum tapimg_prealloc prealloc;
	const char *data_file;
	bool raw_data;
	uint64_t size;
};

static int refuse_encryption(const struct create *c, struct tapimg_err *err)
{
	unsigned i;
	bool on;

	for (i = 0; i < c->nopts; i++) {
		const struct tapimg_opt *o = &c->opts[i];

		if (!strcmp(o->name, "encryption") && !opt_bool(o->value, &on) && !on)
			continue;
		if (!strncmp(o->name, "encrypt", 7))
			return err_set(err, -ENOTSUP, "%s: encryption is not supported (option '%s')",
				       c->name, o->name);
	}
	return 0;
}

static int parse_sizes(const struct create *c, struct qcow2_header *h, struct tapimg_err *err)
{
	uint64_t cluster = create_opt_size(c, &qcow2_format, "cluster_size");
	uint64_t bits = create_opt_size(c, &qcow2_format, "refcount_bits");

	if (!is_pow2(cluster) || cluster < 1U << QCOW2_MIN_BITS || cluster > 1U << QCOW2_MAX_BITS)
		return err_set(err, -EINVAL, "%s: cluster size %" PRIu64 " is not a power of two between "
			       "512 and 2M", c->name, cluster);
	if (!is_pow2(bits) || bits > 64)
		return err_set(err, -EINVAL, "%s: refcount width %" PRIu64 " is not a power of two of at "
			       "most 64 bits", c->name, bits);
	h->cluster_bits = __builtin_ctzll(cluster);
	h->refcount_order = __builtin_ctzll(bits);
	return 0;
}

/* Features that version 2 has no place for. */
static int check_v2(const struct params *p, struct tapimg_err *err)
{
	const struct qcow2_header *h = &p->h;
	const char *what = NULL;

	if (h->version >= 3)
		return 0;
	if (h->refcount_order != 4)
		what = "refcounts of other than 16 bits";
	else if (h->compat)
		what = "lazy refcounts";
	else if (h->compression)
		what = "zstd compression";
	else if (h->incompat & QCOW2_INCOMPAT_EXTL2)
		what = "extended L2 entries";
	else if (p->data_file)
		what = "a data file";
	if (what)
		return err_set(err, -ENOTSUP, "%s: version 2 (compat=0.10) cannot have %s", p->c->name,
			       what);
	return 0;
}

static int check_combination(const struct params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	bool extl2 = p->h.incompat & QCOW2_INCOMPAT_EXTL2;

	if (extl2 && p->h.cluster_bits < 14)
		return err_set(err, -EINVAL, "%s: extended L2 entries need clusters of at least 16 KiB",
			       c->name);
	if (p->raw_data && !p->data_file)
		return err_set(err, -EINVAL, "%s: data_file_raw needs a data_file", c->name);
	if (p->raw_data && c->backing)
		return err_set(err, -EINVAL, "%s: a raw data file and a backing file exclude each other",
			       c->name);
	if (c->backing && p->prealloc != TAPIMG_PREALLOC_OFF && !extl2)
		return err_set(err, -EINVAL, "%s: preallocation under a backing file needs extended_l2",
			       c->name);
	if (c->backing_format && strlen(c->backing_format) > QCOW2_MAX_FORMAT)
		return err_set(err, -EINVAL, "%s: format name '%s' is too long", c->name,
			       c->backing_format);
	if (p->data_file && (!*p->data_file || strlen(p->data_file) > QCOW2_MAX_NAME))
		return err_set(err, -EINVAL, "%s: name of the data file is empty or longer than %u bytes",
			       c->name, QCOW2_MAX_NAME);
	return check_v2(p, err);
}

static int parse_options(const struct create *c, struct params *p, struct tapimg_err *err)
{
	struct qcow2_header *h = &p->h;
	int ret = refuse_encryption(c, err);

	memset(p, 0, sizeof(*p));
	p->c = c;
	if (!ret)
		ret = parse_sizes(c, h, err);
	if (ret)
		return ret;
	p->size = h->size = round_up(c->size, 512);
	h->version = create_opt_enum(c, &qcow2_format, "compat") % 2 ? 3 : 2;
	p->prealloc = create_opt_enum(c, &qcow2_format, "preallocation");
	p->data_file = create_opt(c, "data_file");
	p->raw_data = create_opt_bool(c, &qcow2_format, "data_file_raw");
	h->compression = create_opt_enum(c, &qcow2_format, "compression_type");
	if (h->compression)
		h->incompat |= QCOW2_INCOMPAT_COMP;
	if (create_opt_bool(c, &qcow2_format, "lazy_refcounts"))
		h->compat |= QCOW2_COMPAT_LAZY;
	if (create_opt_bool(c, &qcow2_format, "extended_l2"))
		h->incompat |= QCOW2_INCOMPAT_EXTL2;
	if (p->data_file)
		h->incompat |= QCOW2_INCOMPAT_DATA;
	if (p->raw_data) {
		h->autoclear |= QCOW2_AUTO_RAW;
		if (p->prealloc == TAPIMG_PREALLOC_OFF)
			p->prealloc = TAPIMG_PREALLOC_METADATA;
	}
	return check_combination(p, err);
}

/* -------------------------------------------------------------------- layout */

/* All in clusters. */
struct layout {
	uint64_t rt, blocks, l1, l2, data;	/* how many of each */
	uint64_t rt_at, blocks_at, l1_at, l2_at, data_at, end;
	uint64_t l1_entries, guest;		/* guest clusters */
};

/* Refcount blocks and table for @n clusters besides themselves. */
static void refcount_size(const struct qcow2_header *h, uint64_t n, uint64_t *blocks, uint64_t *table)
{
	uint64_t counts = 1ULL << (h->cluster_bits + 3 - h->refcount_order), was;

	*blocks = *table = 0;
	do {
		was = *blocks + *table;
		*blocks = div_up(n + was, counts);
		*table = div_up(*blocks * 8, 1ULL << h->cluster_bits);
	} while (*blocks + *table != was);
}

static int layout_make(const struct params *p, struct layout *l, struct tapimg_err *err)
{
	const struct qcow2_header *h = &p->h;
	unsigned entry_bits = h->incompat & QCOW2_INCOMPAT_EXTL2 ? 4 : 3;
	unsigned l2_bits = h->cluster_bits - entry_bits;
	uint64_t cluster = 1ULL << h->cluster_bits;

	memset(l, 0, sizeof(*l));
	l->guest = div_up(p->size, cluster);
	l->l1_entries = div_up(l->guest, 1ULL << l2_bits);
	if (l->l1_entries > QCOW2_MAX_L1 / 8)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes is too large for clusters of "
			       "%" PRIu64 " bytes", p->c->name, p->size, cluster);
	l->l1 = MAX(div_up(l->l1_entries * 8, cluster), 1);
	if (p->prealloc != TAPIMG_PREALLOC_OFF) {
		l->l2 = l->l1_entries;
		l->data = p->data_file ? 0 : l->guest;
	}
	refcount_size(h, 1 + l->l1 + l->l2 + l->data, &l->blocks, &l->rt);
	if (l->rt > QCOW2_MAX_RT >> h->cluster_bits)
		return err_set(err, -EFBIG, "%s: a size of %" PRIu64 " bytes needs more refcounts than the "
			       "format can hold", p->c->name, p->size);
	l->rt_at = 1;
	l->blocks_at = l->rt_at + l->rt;
	l->l1_at = l->blocks_at + l->blocks;
	l->l2_at = l->l1_at + l->l1;
	l->data_at = l->l2_at + l->l2;
	l->end = l->data_at + l->data;
	return 0;
}

/* ------------------------------------------------------------------- writing */

/* A part of the file that is generated and written chunk by chunk. */
struct gen {
	const struct params *p;
	const struct layout *l;
	/* fills @n bytes that belong at @off of the part */
	void (*fill)(const struct gen *g, uint8_t *buf, uint64_t off, uint64_t n);
};

static int gen_write(const struct gen *g, uint64_t at, uint64_t clusters)
{
	unsigned bits = g->p->h.cluster_bits;
	uint64_t len = clusters << bits, off = 0;
	uint8_t *buf = file_buf(MIN(len, CHUNK));
	int ret = buf ? 0 : -ENOMEM;

	while (!ret && off < len) {
		uint64_t n = MIN(len - off, CHUNK);

		memset(buf, 0, n);
		g->fill(g, buf, off, n);
		ret = file_pwrite(g->p->c->file, buf, n, (at << bits) + off);
		off += n;
	}
	free(buf);
	return ret;
}

static void fill_rt(const struct gen *g, uint8_t *buf, uint64_t off, uint64_t n)
{
	uint64_t i = off / 8, end = MIN((off + n) / 8, g->l->blocks);

	for (; i < end; i++, buf += 8)
		put_be64(buf, (g->l->blocks_at + i) << g->p->h.cluster_bits);
}

static void fill_blocks(const struct gen *g, uint8_t *buf, uint64_t off, uint64_t n)
{
	unsigned order = g->p->h.refcount_order;
	uint64_t first = (off * 8) >> order, i, count = (n * 8) >> order;

	if (first >= g->l->end)
		return;
	count = MIN(count, g->l->end - first);
	for (i = 0; i < count; i++)
		qcow2_rc_set(buf, i, order, 1);
}

static void fill_l1(const struct gen *g, uint8_t *buf, uint64_t off, uint64_t n)
{
	uint64_t i = off / 8, end = MIN((off + n) / 8, g->l->l2);

	for (; i < end; i++, buf += 8)
		put_be64(buf, (g->l->l2_at + i) << g->p->h.cluster_bits | QCOW2_COPIED);
}

static void fill_l2(const struct gen *g, uint8_t *buf, uint64_t off, uint64_t n)
{
	bool extl2 = g->p->h.incompat & QCOW2_INCOMPAT_EXTL2;
	unsigned bits = extl2 ? 4 : 3;
	uint64_t i = off >> bits, end = MIN((off + n) >> bits, g->l->guest);
	uint64_t base = g->p->data_file ? 0 : g->l->data_at;

	for (; i < end; i++, buf += 1U << bits) {
		put_be64(buf, (base + i) << g->p->h.cluster_bits | QCOW2_COPIED);
		/* under a backing file only the space is there, not the data */
		if (extl2 && !g->p->c->backing)
			put_be64(buf + 8, QCOW2_SUB_ALLOC);
	}
}

/* What has not been written yet reads as zeroes. */
static bool reads_zero(const struct file *f)
{
	return !f->block_dev && f->grows_clean;
}

static int write_tables(const struct params *p, const struct layout *l)
{
	int ret = gen_write(&(struct gen){ p, l, fill_rt }, l->rt_at, l->rt);

	if (!ret)
		ret = gen_write(&(struct gen){ p, l, fill_blocks }, l->blocks_at, l->blocks);
	/* a regular file has zeroes there already */
	if (!ret && (l->l2 || !reads_zero(p->c->file)))
		ret = gen_write(&(struct gen){ p, l, fill_l1 }, l->l1_at, l->l1);
	if (!ret && l->l2)
		ret = gen_write(&(struct gen){ p, l, fill_l2 }, l->l2_at, l->l2);
	return ret;
}

static int fill_zeroes(struct file *f, uint64_t off, uint64_t len)
{
	uint8_t *buf = file_buf(CHUNK);
	int ret = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, 0, CHUNK);
	while (!ret && len) {
		uint64_t n = MIN(len, CHUNK);

		ret = file_pwrite(f, buf, n, off);
		off += n;
		len -= n;
	}
	free(buf);
	return ret;
}

/* Space for guest data at [off, off+len) of a new file, or of an old device. */
static int data_space(struct file *f, uint64_t off, uint64_t len, enum tapimg_prealloc how)
{
	int ret;

	if (!len)
		return 0;
	if (how == TAPIMG_PREALLOC_FULL)
		return fill_zeroes(f, off, len);
	if (!reads_zero(f))
		return file_zero(f, off, len, 0);
	if (how == TAPIMG_PREALLOC_FALLOC) {
		ret = file_prealloc(f, off, len);
		if (ret == -ENOTSUP)
			return fill_zeroes(f, off, len);
		if (ret)
			return ret;
	}
	return f->size < off + len ? file_truncate(f, off + len) : 0;
}

static int write_header(struct params *p, const struct layout *l, struct tapimg_err *err)
{
	const struct create *c = p->c;
	struct qcow2_header *h = &p->h;
	size_t len = 1UL << h->cluster_bits;
	uint8_t *buf = NULL;
	int ret = 0;

	h->l1_size = MAX(l->l1_entries, (uint64_t)1);	/* its cluster is there anyway */
	h->l1_off = l->l1_at << h->cluster_bits;
	h->rt_off = l->rt_at << h->cluster_bits;
	h->rt_clusters = l->rt;
	if (c->backing) {
		h->backing = strdup(c->backing);
		if (!h->backing)
			ret = -ENOMEM;
		else if (c->backing_format)
			ret = qcow2_ext_set(h, QCOW2_EXT_BACKING_FMT, c->backing_format,
					    strlen(c->backing_format));
	}
	if (!ret && p->data_file)
		ret = qcow2_ext_set(h, QCOW2_EXT_DATA_FILE, p->data_file, strlen(p->data_file));
	if (!ret)
		ret = qcow2_features_add(h);
	buf = file_buf(len);
	if (ret || !buf) {
		free(buf);
		return err_errno(err, -ENOMEM, "%s", c->name);
	}
	ret = qcow2_header_build(h, buf, len, c->name, err);
	if (!ret) {
		ret = file_pwrite(c->file, buf, len, 0);
		if (ret)
			err_errno(err, ret, "%s: writing the header", c->name);
	}
	free(buf);
	return ret;
}

/* ----------------------------------------------------------------- data file */

static int data_file_size(struct params *p, struct file *f, const char *path,
			  struct tapimg_err *err)
{
	int ret;

	if (f->block_dev) {
		if (f->size < p->size)
			return err_set(err, -ENOSPC, "%s: data file '%s' has only %" PRIu64 " bytes",
				       p->c->name, path, f->size);
	} else {
		ret = file_truncate(f, 0);
		if (!ret)
			ret = file_truncate(f, p->size);
		if (ret)
			return err_errno(err, ret, "%s: setting the size of the data file '%s'",
					 p->c->name, path);
	}
	ret = p->prealloc == TAPIMG_PREALLOC_OFF ? 0 : data_space(f, 0, p->size, p->prealloc);
	if (!ret)
		ret = file_flush(f);
	return ret ? err_errno(err, ret, "%s: space in the data file '%s'", p->c->name, path) : 0;
}

/* Whether two paths are one, though nothing may be there yet: a name in one folder. */
static bool same_place(const char *a, const char *b)
{
	const char *as = strrchr(a, '/'), *bs = strrchr(b, '/');
	char *ad = as ? strndup(a, as + 1 - a) : strdup("."), *bd = bs ? strndup(b, bs + 1 - b) : strdup(".");
	struct file_id ai = file_id_path(ad ? ad : a), bi = file_id_path(bd ? bd : b);
	bool same = !strcmp(as ? as + 1 : a, bs ? bs + 1 : b) && ad && bd &&
		    file_id_same(&ai, ad, &bi, bd);

	free(ad);
	free(bd);
	return same;
}

/* Neither the image itself nor what is below it can hold its data. */
static int data_file_judge(struct params *p, const char *path, struct tapimg_err *err)
{
	const struct create *c = p->c;
	struct file_id data = file_id_path(path), old = file_id_path(c->name);
	struct tapimg *below = c->backing_img;

	if (file_id_same(&data, path, &old, c->name) || same_place(path, c->name))
		return err_set(err, -EINVAL, "%s: an image cannot be its own data file", c->name);
	if (below && chain_find_file(below, &data, path))
		return err_set(err, -EINVAL, "%s: the data file '%s' is in its backing chain", c->name,
			       path);
	return 0;
}

/* Opens @path, or what will be it; *@made, malloc'd, is the name of that, and *@fresh whether it is new. */
static int data_file_open(struct params *p, const char *path, char **made, bool *fresh,
			  struct file **f, struct tapimg_err *err)
{
	const struct create *c = p->c;
	int existed = file_exists(c->loop, path), ret;

	if (existed < 0 || (existed && c->exclusive))
		return err_errno(err, existed < 0 ? existed : -EEXIST, "%s: data file '%s'", c->name, path);
	if (existed) {			/* nobody may be using it */
		ret = file_open(c->loop, path, FILE_RDWR, f, err);
		if (ret)
			return err_prefix(err, ret, "%s: data file", c->name);
		if (target_keeps_file(c->loop, path)) {
			*made = strdup(path);
			return *made ? 0 : -ENOMEM;
		}
		file_close(*f);
		*f = NULL;
	}
	*made = target_companion(c->loop, c->file->name, path);
	if (!*made)
		return err_errno(err, -ENOMEM, "%s", c->name);
	*fresh = !existed || strcmp(*made, path) != 0;
	ret = file_open(c->loop, *made, FILE_RDWR | FILE_CREATE, f, err);
	return ret ? err_prefix(err, ret, "%s: data file", c->name) : 0;
}

static int data_file_create(struct params *p, struct tapimg_err *err)
{
	const struct create *c = p->c;
	char *path = name_resolve(c->name, p->data_file), *made = NULL;
	struct file *f = NULL;
	bool fresh = false;
	int ret;

	ret = path ? target_follow_links(&path) : -ENOMEM;
	if (ret) {
		free(path);
		return err_errno(err, ret, "%s: data file '%s'", c->name, p->data_file);
	}
	ret = data_file_judge(p, path, err);
	if (!ret)
		ret = data_file_open(p, path, &made, &fresh, &f, err);
	if (!ret)
		ret = data_file_size(p, f, path, err);
	file_close(f);
	if (ret && fresh)
		file_remove(c->loop, made);
	free(made);
	free(path);
	return ret;
}

/* -------------------------------------------------------------------- create */

static int create_space(const struct params *p, const struct layout *l)
{
	struct file *f = p->c->file;
	unsigned bits = p->h.cluster_bits;
	uint64_t end = l->l2 ? l->data_at << bits : (l->l1_at << bits) + l->l1_entries * 8;

	if (!f->block_dev)
		return file_truncate(f, MAX(end, (l->l1_at << bits) + 8));
	return l->end << bits > f->size ? -ENOSPC : 0;
}

int qcow2_create(const struct create *c, struct tapimg_err *err)
{
	struct params p;
	struct layout l;
	int ret = parse_options(c, &p, err);

	if (!ret)
		ret = layout_make(&p, &l, err);
	if (ret)
		return ret;
	file_tune(c->file, create_opt_bool(c, &qcow2_format, "nocow"), 0);
	ret = create_space(&p, &l);
	if (!ret)
		ret = write_tables(&p, &l);
	if (!ret)
		ret = data_space(c->file, l.data_at << p.h.cluster_bits, l.data << p.h.cluster_bits,
				 p.prealloc);
	if (ret)
		err_errno(err, ret, "%s: writing the tables", c->name);
	if (!ret)
		ret = write_header(&p, &l, err);
	if (!ret && p.data_file)
		ret = data_file_create(&p, err);
	qcow2_header_free(&p.h);
	return ret;
}

/* --------------------------------------------------------------- preallocate */

struct prealloc_call {
	struct tapimg *img;
	uint64_t off, len;
	struct extent ext;
};

static int call_map(void *arg)
{
	struct prealloc_call *c = arg;

	return qcow2_map(c->img, c->off, c->len, MAP_WRITE, &c->ext);
}

static int call_reserve(void *arg)
{
	struct prealloc_call *c = arg;

	return qcow2_reserve(c->img, c->off, c->len, 0, &c->ext);
}

static int call_commit(void *arg)
{
	struct prealloc_call *c = arg;

	return qcow2_commit(c->img, &c->ext);
}

/* One extent: what is not mapped yet gets space that reads as zeroes. */
static int preallocate_step(struct prealloc_call *c, enum tapimg_prealloc how)
{
	int ret = sync_retry(c->img, call_map, c);

	if (ret)
		return ret;
	c->len = MIN(c->len, c->ext.len);
	if (c->ext.type == EXT_DATA && c->ext.flags & EXT_WRITABLE)
		return 0;
	memset(&c->ext, 0, sizeof(c->ext));
	ret = sync_retry(c->img, call_reserve, c);
	if (ret)
		return ret;
	if (how == TAPIMG_PREALLOC_METADATA && c->ext.flags & EXT_CLEAN)
		ret = 0;
	else if (how == TAPIMG_PREALLOC_FULL)
		ret = fill_zeroes(c->ext.file, c->ext.host, c->ext.len);
	else if (how == TAPIMG_PREALLOC_FALLOC && c->ext.flags & EXT_CLEAN)
		ret = file_prealloc(c->ext.file, c->ext.host, c->ext.len);
	else
		ret = file_zero(c->ext.file, c->ext.host, c->ext.len, 0);
	if (ret == -ENOTSUP)
		ret = fill_zeroes(c->ext.file, c->ext.host, c->ext.len);
	/*
	 * No cluster that is referred to may lie beyond the end of the file, after a power cut or the
	 * trimming at close either: space that was only grown ahead counts as written from now on.
	 */
	if (!ret && !c->ext.file->block_dev && c->ext.file->size < c->ext.host + c->ext.len)
		ret = file_truncate(c->ext.file, c->ext.host + c->ext.len);
	else if (!ret)
		file_written(c->ext.file, c->ext.host, c->ext.len);
	if (ret) {
		qcow2_abort(c->img, &c->ext);
		return ret;
	}
	ret = sync_retry(c->img, call_commit, c);
	c->len = MIN(c->len, c->ext.off + c->ext.len - c->off);
	return ret;
}

int qcow2_preallocate(struct tapimg *img, uint64_t off, uint64_t len, enum tapimg_prealloc how,
		      struct tapimg_err *err)
{
	uint64_t end = off + len;
	/* the cluster around the old end is the disk's already: it holds what is read there now */
	struct prealloc_call c = { .img = img, .off = round_up(off, img->cluster) };
	int ret = 0;

	if (how == TAPIMG_PREALLOC_OFF)
		return 0;
	while (!ret && c.off < end) {
		c.len = end - c.off;
		ret = preallocate_step(&c, how);
		c.off += c.len;
	}
	if (!ret)
		ret = meta_settle(img->meta);
	if (!ret)
		ret = file_flush(img->file);
	return ret ? err_errno(err, ret, "%s: preallocating", img->name) : 0;
}

/* ------------------------------------------------------------------- measure */

/* Bytes of clusters that hold data. */
static int measure_data(struct tapimg *src, uint64_t cluster, uint64_t *bytes)
{
	uint64_t off = 0, counted = 0, n = 0;

	while (off < src->size) {
		struct tapimg_status st;
		uint64_t first, last;
		int ret = tapimg_block_status(src, off, src->size - off, 0, &st);

		if (ret)
			return ret;
		if (st.flags & TAPIMG_ST_DATA && !(st.flags & TAPIMG_ST_ZERO)) {
			first = MAX(off / cluster, counted);
			last = div_up(off + st.len, cluster);
			if (last > first)
				n += last - first;
			counted = MAX(counted, last);
		}
		off += st.len;
	}
	*bytes = n * cluster;
	return 0;
}

/* Space that the persistent bitmaps of @src would take. */
static int measure_bitmaps(struct tapimg *src, uint64_t cluster, uint64_t *bytes,
			   struct tapimg_err *err)
{
	const struct tapimg_info *info;
	uint64_t dir = 0, total = 0;
	unsigned i;
	int ret = tapimg_info(src, &info, err);

	if (ret)
		return ret;
	for (i = 0; i < info->nbitmaps; i++) {
		const struct tapimg_bitmap *b = &info->bitmaps[i];
		uint64_t bits, clusters;

		if (b->dirty == UINT64_MAX || !b->granularity)
			continue;
		bits = div_up(src->size, b->granularity);
		clusters = div_up(div_up(bits, 8), cluster);
		total += (clusters + div_up(clusters * 8, cluster)) * cluster;
		dir += round_up(24 + strlen(b->name), 8);
	}
	*bytes = total + round_up(dir, cluster);
	return 0;
}

int qcow2_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		  struct tapimg_err *err)
{
	struct params p;
	uint64_t cluster, entries, l2, meta, blocks, table, data, disk;
	unsigned entry;
	int ret = parse_options(c, &p, err);

	if (ret)
		return ret;
	cluster = 1ULL << p.h.cluster_bits;
	entry = p.h.incompat & QCOW2_INCOMPAT_EXTL2 ? 16 : 8;
	disk = round_up(p.size, cluster);
	entries = round_up(disk / cluster, cluster / entry);
	l2 = entries * entry / cluster;
	if (l2 > QCOW2_MAX_L1 / 8)
		return err_set(err, -EFBIG, "a size of %" PRIu64 " bytes is too large for clusters of %"
			       PRIu64 " bytes", p.size, cluster);
	meta = cluster + l2 * cluster + round_up(l2, cluster / 8) * 8;
	refcount_size(&p.h, (meta + disk) / cluster, &blocks, &table);
	meta += (blocks + table) * cluster;
	out->fully_allocated = meta + disk;
	data = disk;
	if (!src)
		data = 0;
	else if (!c->backing)
		ret = measure_data(src, cluster, &data);
	if (ret)
		return err_errno(err, ret, "%s: looking for data", src->name);
	if (p.prealloc == TAPIMG_PREALLOC_FULL || p.prealloc == TAPIMG_PREALLOC_FALLOC)
		data = disk;
	out->required = meta + data;
	out->bitmaps = UINT64_MAX;
	if (src && p.h.version >= 3 && src->fmt == &qcow2_format &&
	    ((const struct qcow2 *)src->fs)->v3)
		ret = measure_bitmaps(src, cluster, &out->bitmaps, err);
	return ret;
}
