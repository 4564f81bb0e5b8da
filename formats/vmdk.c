/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk.c - the VMDK driver: opening, finding the extent of an offset, closing
 *
 * An image begins in one of three ways: with a descriptor, in a file of its own or in the first
 * sparse extent; or with a sparse extent that has none, which then is all of the disk.
 *
 * Each extent is of a kind (vmdk.h) that answers for its part of the disk; the functions at the end
 * find the kind and move offsets from the disk's to the extent's.
 *
 * Order of writing (meta.h): the next free sector (COWD), grain tables in both copies, directories.
 * The content id and the marks of open extents go first of all (vmdk-gate.c).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "name.h"
#include "target.h"
#include "vmdk.h"

#define HEAD_LEN 4096
#define BLOCK_MAX 4096
#define CACHE_LEAST (5 * MiB)	/* so many operations as the engine lets run can gather what they need */

static int vmdk_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	if (len >= VMDK_SECTOR) {
		if (get_le32(head) == VMDK_MAGIC || get_le32(head) == VMDK_MAGIC_UNFINISHED)
			return 100;
		if (get_le32(head) == VMDK_COWD_MAGIC || get_le64(head) == VMDK_SE_MAGIC)
			return 95;
	}
	return vmdk_desc_probe(head, len) ? 100 : 0;
}

/* ---------------------------------------------------------------- descriptor */

int vmdk_desc_read(struct file *f, uint64_t off, uint64_t len, struct vmdk_desc *d,
		   const char *name, struct tapimg_err *err)
{
	char *text;
	int ret;

	if (len > VMDK_MAX_DESC)
		return err_set(err, -EINVAL, "%s: a descriptor of %" PRIu64 " bytes is too large", name,
			       len);
	text = malloc(len + 1);
	if (!text)
		return err_errno(err, -ENOMEM, "%s", name);
	ret = file_pread(f, text, len, off);
	if (ret) {
		free(text);
		return err_errno(err, ret, "%s: reading the descriptor", name);
	}
	text[len] = 0;
	return vmdk_desc_parse(d, text, strlen(text), name, err);
}

uint32_t vmdk_new_cid(uint32_t old)
{
	uint32_t cid = old;

	while (cid == old || cid >= VMDK_CID_NEVER)
		if (getrandom(&cid, sizeof(cid), 0) != sizeof(cid))
			cid = old * 1103515245U + 12345U;
	return cid;
}

/* -------------------------------------------------------------------- extents */

char *vmdk_name(struct tapimg_loop *loop, const char *name)
{
	char *out;

	if (!name_has_scheme(name) || file_provided(loop, name))
		return strdup(name);
	return asprintf(&out, "./%s", name) < 0 ? NULL : out;
}

char *vmdk_name_resolve(struct tapimg_loop *loop, const char *base, const char *name)
{
	char *plain = vmdk_name(loop, name), *path = plain ? name_resolve(base, plain) : NULL;

	free(plain);
	return path;
}

/* A file that the descriptor names; one that it names twice is opened once. */
static int file_add(struct tapimg *img, const struct vmdk_line *l, struct vmdk_extent *x,
		    struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	unsigned flags = img->flags;
	struct vmdk_file *files;
	char *made;
	int ret;

	if (!l->file || !*l->file)
		return err_set(err, -EINVAL, "%s: descriptor, line %u: the extent names no file", img->name,
			       l->number);
	x->path = vmdk_name_resolve(img->loop, img->path, l->file);
	if (!x->path)
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (unsigned i = 0; i < v->nfiles; i++) {
		if (strcmp(v->files[i].path, x->path) != 0)
			continue;
		x->file = v->files[i].file;
		return 0;
	}
	files = realloc(v->files, (v->nfiles + 1) * sizeof(*files));
	if (!files)
		return err_errno(err, -ENOMEM, "%s", img->name);
	v->files = files;
	ret = image_gate(&img->opts, TAPIMG_ROLE_EXTENT, img->path, x->path, err);
	if (ret)
		return ret;
	made = target_companion_found(img->loop, img->path, x->path);
	if (!made)
		return err_errno(err, -ENOMEM, "%s", img->name);
	if (l->access != VMDK_RW)
		flags &= ~(unsigned)TAPIMG_RDWR;
	ret = file_open(img->loop, made, image_file_flags(flags), &x->file, err);
	free(made);
	if (ret)
		return err_prefix(err, ret, "%s: extent in line %u", img->name, l->number);
	files[v->nfiles] = (struct vmdk_file){ .file = x->file, .path = strdup(x->path) };
	if (!files[v->nfiles].path) {
		file_close(x->file);
		return err_errno(err, -ENOMEM, "%s", img->name);
	}
	v->nfiles++;
	return 0;
}

/* What a sparse extent is, by the first bytes of its file. */
static int kind_by_magic(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	uint8_t head[VMDK_SECTOR];
	uint32_t magic, flags;
	int ret;

	if (x->file->size < sizeof(head))
		return err_set(err, -EINVAL, "%s: the sparse extent '%s' has only %" PRIu64 " bytes",
			       img->name, x->path, x->file->size);
	ret = file_pread(x->file, head, sizeof(head), 0);
	if (ret)
		return err_errno(err, ret, "%s: reading the header", x->path);
	magic = get_le32(head);
	flags = get_le32(head + VH_FLAGS);
	if (magic == VMDK_MAGIC_UNFINISHED)
		return err_set(err, -EINVAL, "%s: is unfinished: whoever wrote it did not come to the end",
			       x->path);
	if (magic == VMDK_MAGIC)
		x->kind = flags & VMDK_F_COMPRESSED ? &vmdk_stream : &vmdk_sparse;
	else if (get_le64(head) == VMDK_SE_MAGIC)
		x->kind = &vmdk_sesparse;
	else if (magic == VMDK_COWD_MAGIC)
		x->kind = &vmdk_cowd;
	else
		return err_set(err, -EINVAL, "%s: is no sparse extent: it begins with 0x%08x", x->path,
			       magic);
	return 0;
}

/* @own: the extent lies in the image's own file. */
static int extent_open(struct tapimg *img, struct vmdk_extent *x, bool own, struct tapimg_err *err)
{
	const struct vmdk_line *l = x->line;
	int ret = 0;

	if (l) {
		x->len = l->sectors * VMDK_SECTOR;
		x->access = l->access;
		x->offset = l->offset * VMDK_SECTOR;
	}
	if (x->access == VMDK_NOACCESS || (l && l->type == VMDK_ZERO)) {
		x->kind = &vmdk_zero;
	} else if (own) {
		x->file = img->file;
		x->path = strdup(img->path);
		if (!x->path)
			ret = err_errno(err, -ENOMEM, "%s", img->name);
	} else {
		ret = file_add(img, l, x, err);
	}
	if (ret)
		return ret;
	if (!x->kind && l && (l->type == VMDK_FLAT || l->type == VMDK_VMFS ||
			      l->type == VMDK_VMFSRDM || l->type == VMDK_VMFSRAW))
		x->kind = &vmdk_flat;
	if (!x->kind)
		ret = kind_by_magic(img, x, err);
	x->writable = img->flags & TAPIMG_RDWR && x->access == VMDK_RW;
	if (!ret)
		ret = x->kind->open(img, x, err);
	return ret;
}

/* Extents that share a file must not share bytes of it, if any of them is written. */
static int check_shared(struct tapimg *img, const struct vmdk_extent *x, struct tapimg_err *err)
{
	const struct vmdk *v = vmdk_of(img);

	if (!x->file || !(img->flags & TAPIMG_RDWR))
		return 0;
	for (const struct vmdk_extent *y = v->x; y < x; y++) {
		if (y->file != x->file || !(x->writable || y->writable))
			continue;
		if (x->kind == &vmdk_flat && y->kind == &vmdk_flat &&
		    (x->offset >= y->offset + y->len || y->offset >= x->offset + x->len))
			continue;
		return err_set(err, -EINVAL, "%s: two extents use the same part of '%s': it can be read, "
			       "but not written", img->name, x->path);
	}
	return 0;
}

static int extents_open(struct tapimg *img, bool embedded, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	unsigned n = v->desc.text ? v->desc.nlines : 0;
	uint64_t size = 0;
	int ret = 0;

	if (!n && !embedded)
		return err_set(err, -EINVAL, "%s: its descriptor has no extent", img->name);
	v->x = calloc(MAX(n, 1U), sizeof(*v->x));
	if (!v->x)
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (unsigned i = 0; i < MAX(n, 1U) && !ret; i++) {
		struct vmdk_extent *x = v->x + i;

		v->nx++;
		x->line = n ? v->desc.line + i : NULL;
		x->start = size;
		ret = extent_open(img, x, embedded && !i, err);
		if (!ret)
			ret = check_shared(img, x, err);
		if (!ret && (!checked_add(size, x->len, &size) || size > INT64_MAX))
			ret = err_set(err, -EFBIG, "%s: the extents are too large together", img->name);
	}
	img->size = size;
	return ret;
}

int vmdk_extent_append(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_extent *x = realloc(v->x, (v->nx + 1) * sizeof(*x));
	unsigned files = v->nfiles;
	int ret;

	if (!x)
		return err_errno(err, -ENOMEM, "%s", img->name);
	v->x = x;
	x += v->nx++;
	*x = (struct vmdk_extent){ .line = &v->desc.line[v->desc.nlines - 1],
				   .start = x[-1].start + x[-1].len };
	ret = extent_open(img, x, false, err);
	if (ret || v->nfiles == files)
		return ret;
	ret = meta_add_file(img->meta, x->file, true);
	if (ret < 0)
		return err_errno(err, ret, "%s", img->name);
	v->files[files].index = ret;
	x->meta = meta_addr(ret, 0);
	return 0;
}

/* ------------------------------------------------------------------- opening */

static int vmdk_release(struct tapimg *img, uint64_t off, uint64_t len)
{
	struct vmdk *v = vmdk_of(img);
	unsigned index = meta_index(img->meta, off);

	for (unsigned i = 0; i < v->nx; i++) {
		struct vmdk_extent *x = v->x + i;

		if (x->grain && meta_index(img->meta, x->meta) == index && x->kind->release)
			return x->kind->release(img, x, meta_offset(img->meta, off), len);
	}
	return 0;
}

static int release_op(void *arg, uint64_t off, uint64_t len)
{
	return vmdk_release(arg, off, len);
}

static void failed_op(void *arg, int err, uint64_t off, const char *what)
{
	struct tapimg *img = arg;
	struct meta *m = img->meta;

	image_fail(img, err, "%s in '%s' at 0x%" PRIx64 ": %s", what,
		   m->files[meta_index(m, off)].file->name, meta_offset(m, off), strerror(-err));
}

static int cache_open(struct tapimg *img, struct tapimg_err *err)
{
	static const struct meta_ops ops = { .release = release_op, .failed = failed_op };
	struct vmdk *v = vmdk_of(img);
	uint32_t block = BLOCK_MAX;
	uint64_t total = 0;
	int ret;

	for (unsigned i = 0; i < v->nx; i++) {
		struct vmdk_extent *x = v->x + i;

		if (x->block)
			block = MIN(block, x->block);
		if (x->grain)
			total += x->len / x->grain * 4;
	}
	ret = meta_new(img->file, block, MAX(image_cache_size(img, total), CACHE_LEAST), &ops, img,
		       &img->meta);
	for (unsigned i = 0; !ret && i < v->nfiles; i++) {
		ret = meta_add_file(img->meta, v->files[i].file, true);
		if (ret < 0)
			break;
		v->files[i].index = ret;
		ret = 0;
	}
	if (ret)
		return err_errno(err, ret, "%s: metadata cache", img->name);
	for (unsigned i = 0; i < v->nx; i++)
		for (unsigned k = 0; k < v->nfiles; k++)
			if (v->files[k].file == v->x[i].file)
				v->x[i].meta = meta_addr(v->files[k].index, 0);
	img->meta->punch = img->flags & TAPIMG_UNMAP;
	return 0;
}

void vmdk_geometry_changed(struct tapimg *img)
{
	struct vmdk *v = vmdk_of(img);
	uint32_t grain = 0;

	v->each = v->x[0].len;
	v->uniform = v->each;
	for (unsigned i = 0; i < v->nx; i++) {
		struct vmdk_extent *x = v->x + i;

		grain = MAX(grain, x->grain);
		if (x->len != v->each && i + 1 < v->nx)
			v->uniform = false;
	}
	/* the last one may be shorter, not longer */
	if (v->nx > 1 && v->x[v->nx - 1].len > v->each)
		v->uniform = false;
	img->cluster = grain;
	img->unit = MAX(grain, 1U);
}

static bool has_sectors(const struct vmdk_desc *d)
{
	for (unsigned i = 0; i < d->nlines; i++)
		if (d->line[i].sectors)
			return true;
	return false;
}

/*
 * The first sector says whether there is a sparse extent, and where its descriptor is.  @holder: of a capacity of 0
 * that is all there is in the file; unless the disk has none either.
 */
static int open_sparse(struct tapimg *img, const uint8_t *head, bool *holder, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	uint64_t off = get_le64(head + VH_DESC_OFF), len = get_le64(head + VH_DESC_SIZE);
	int ret;

	*holder = false;
	if (get_le32(head) != VMDK_MAGIC || !off)
		return 0;
	if (!len || !checked_mul(off, VMDK_SECTOR, &off) || !checked_mul(len, VMDK_SECTOR, &len) ||
	    !checked_range(off, len, img->file->size))
		return err_set(err, -EINVAL, "%s: the descriptor at sector %" PRIu64 " of %" PRIu64
			       " sectors is not inside the file", img->name,
			       get_le64(head + VH_DESC_OFF), get_le64(head + VH_DESC_SIZE));
	v->desc_off = off;
	v->desc_max = len;
	ret = vmdk_desc_read(img->file, off, len, &v->desc, img->name, err);
	*holder = !ret && !get_le64(head + VH_CAPACITY) && has_sectors(&v->desc);
	return ret;
}

static int open_parts(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	uint64_t size = img->file->size;
	uint8_t head[VMDK_SECTOR] = { 0 };
	bool holder = false;
	uint32_t magic;
	int ret;

	ret = file_pread(img->file, head, MIN(size, sizeof(head)), 0);
	if (ret)
		return err_errno(err, ret, "%s: reading the first sector", img->name);
	magic = get_le32(head);
	if (magic == VMDK_MAGIC || magic == VMDK_MAGIC_UNFINISHED || magic == VMDK_COWD_MAGIC ||
	    get_le64(head) == VMDK_SE_MAGIC) {
		ret = open_sparse(img, head, &holder, err);
		return ret ? ret : extents_open(img, !holder, err);
	}
	if (!vmdk_desc_probe(head, MIN(size, sizeof(head))))
		return err_set(err, -EINVAL, "%s: is neither a sparse extent nor the descriptor of a VMDK",
			       img->name);
	ret = vmdk_desc_read(img->file, 0, size, &v->desc, img->name, err);
	return ret ? ret : extents_open(img, false, err);
}

static int set_parent(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk_desc *d = &vmdk_of(img)->desc;
	const char *slash;

	if (!d->text || d->parent_cid == VMDK_CID_NONE)
		return 0;
	if (!d->parent)
		return img->flags & TAPIMG_CHECK ? 0 :
		       err_set(err, -EINVAL, "%s: is a child (parentCID %08x), but does not name its parent",
			       img->name, d->parent_cid);
	/* a path of Windows means nothing here, but the file may lie beside the child */
	slash = strrchr(d->parent, '\\');
	img->backing_name = slash && !strchr(d->parent, '/') ? strdup(slash + 1) :
			    vmdk_name(img->loop, d->parent);
	img->backing_fmt = strdup("vmdk");
	return img->backing_name && img->backing_fmt ? 0 : err_errno(err, -ENOMEM, "%s", img->name);
}

static int vmdk_open(struct tapimg *img, const struct tapimg_open_opts *o, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	bool any = false;
	int ret;

	vmdk_gate_init(img);
	v->unfinished = target_unfinished(img->path);
	ret = open_parts(img, err);
	if (!ret)
		ret = set_parent(img, err);
	if (!ret)
		ret = cache_open(img, err);
	if (ret)
		return ret;
	vmdk_geometry_changed(img);
	img->plain_only = !img->append_only;
	img->writable = img->flags & TAPIMG_RDWR;
	for (unsigned i = 0; i < v->nx; i++)
		any |= v->x[i].kind->reserve || v->x[i].kind == &vmdk_flat;
	if (img->writable && !any && !(img->flags & TAPIMG_CHECK))
		return err_set(err, -EROFS, "%s: extents of the type %s can only be read", img->name,
			       v->x[0].kind->name);
	return 0;
}

static int vmdk_close(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	int ret = 0;

	if (img->meta && !img->failed) {
		ret = vmdk_gate_close(img);
		if (ret)
			err_errno(err, ret, "%s: marking it as closed", img->name);
	}
	meta_destroy(img->meta);
	img->meta = NULL;
	for (unsigned i = 0; i < v->nx; i++) {
		if (v->x[i].kind && v->x[i].kind->close)
			v->x[i].kind->close(img, v->x + i);
		free(v->x[i].path);
	}
	free(v->x);
	for (unsigned i = 0; i < v->nfiles; i++) {
		file_close(v->files[i].file);
		free(v->files[i].path);
	}
	free(v->files);
	vmdk_desc_free(&v->desc);
	v->x = NULL;
	v->files = NULL;
	v->nx = v->nfiles = 0;
	return ret;
}

/* ------------------------------------------------------------------- by extent */

struct vmdk_extent *vmdk_extent_at(struct vmdk *v, uint64_t off)
{
	unsigned lo = 0, hi = v->nx;

	if (v->nx == 1)
		return v->x;
	if (v->uniform)
		return v->x + MIN(off / v->each, v->nx - 1ULL);
	while (hi - lo > 1) {
		unsigned mid = (lo + hi) / 2;

		if (v->x[mid].start <= off)
			lo = mid;
		else
			hi = mid;
	}
	return v->x + lo;
}

static void to_disk(const struct vmdk_extent *x, struct extent *ext)
{
	ext->off += x->start;
	ext->unit_off += x->start;
}

static int vmdk_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		    struct extent *ext)
{
	struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), off);
	int ret;

	if (flags & MAP_WRITE && x->writable) {
		ret = vmdk_gate(img, x);
		if (ret)
			return ret;
	}
	off -= x->start;
	ret = x->kind->map(img, x, off, MIN(len, x->len - off), flags, ext);
	if (ret)
		return ret;
	to_disk(x, ext);
	return 0;
}

static int vmdk_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
			struct extent *ext)
{
	struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), off);
	int ret;

	if (!x->writable || !x->kind->reserve)
		return -EROFS;
	ret = vmdk_gate(img, x);
	if (ret)
		return ret;
	off -= x->start;
	ret = x->kind->reserve(img, x, off, MIN(len, x->len - off), flags, ext);
	if (!ret)
		to_disk(x, ext);
	return ret;
}

/* @ext as the kind gave it */
static struct extent to_extent(const struct vmdk_extent *x, const struct extent *ext)
{
	struct extent e = *ext;

	e.off -= x->start;
	e.unit_off -= x->start;
	return e;
}

static int vmdk_commit(struct tapimg *img, const struct extent *ext)
{
	struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), ext->off);
	struct extent e = to_extent(x, ext);

	return x->kind->commit(img, x, &e);
}

static void vmdk_abort(struct tapimg *img, const struct extent *ext)
{
	struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), ext->off);
	struct extent e = to_extent(x, ext);

	x->kind->abort(img, x, &e);
}

static int vmdk_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags,
		      uint64_t *done)
{
	struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), off);
	int ret;

	*done = 0;
	if (!x->writable)
		return -EROFS;
	ret = vmdk_gate(img, x);
	if (ret)
		return ret;
	off -= x->start;
	return x->kind->unmap(img, x, off, MIN(len, x->len - off), flags, done);
}

static int vmdk_decode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		       void *dst, uint32_t dst_len)
{
	const struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), off);

	return x->kind->decode(img, x, off - x->start, src, src_len, dst, dst_len);
}

static int vmdk_encode(const struct tapimg *img, uint64_t off, const void *src, uint32_t src_len,
		       void *dst, uint32_t dst_max)
{
	const struct vmdk_extent *x = vmdk_extent_at(vmdk_of(img), off);

	return x->kind->encode ? x->kind->encode(img, x, off - x->start, src, src_len, dst, dst_max) : 0;
}

/* Grains are counted from the start of their extent, which may lie anywhere. */
static void vmdk_round(const struct tapimg *img, uint64_t *start, uint64_t *end)
{
	struct vmdk *v = img->fs;
	const struct vmdk_extent *x = vmdk_extent_at(v, *start), *y = vmdk_extent_at(v, *end - 1);

	if (x->grain)
		*start = x->start + round_down(*start - x->start, x->grain);
	if (y->grain)
		*end = y->start + MIN(round_up(*end - y->start, y->grain), y->len);
}

const struct format vmdk_format = {
	.name		= "vmdk",
	.opts		= vmdk_opts,
	.state_size	= sizeof(struct vmdk),
	.streams	= true,
	.probe		= vmdk_probe,
	.create		= vmdk_create,
	.measure	= vmdk_measure,
	.open		= vmdk_open,
	.close		= vmdk_close,
	.info		= vmdk_info,
	.resize		= vmdk_resize,
	.check		= vmdk_check,
	.set_backing	= vmdk_set_backing,
	.backing_check	= vmdk_backing_check,
	.backing_changed = vmdk_backing_changed,
	.make_empty	= vmdk_make_empty,
	.amend		= vmdk_amend,
	.map		= vmdk_map,
	.reserve	= vmdk_reserve,
	.commit		= vmdk_commit,
	.abort		= vmdk_abort,
	.unmap		= vmdk_unmap,
	.release	= vmdk_release,
	.round		= vmdk_round,
	.decode		= vmdk_decode,
	.encode		= vmdk_encode,
};
