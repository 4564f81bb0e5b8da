/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-admin.c - describing an image, and its place in a chain
 *
 * C1 A child names the content id of its parent as of when it was made.  If the parent has another one
 *    now, somebody wrote to it, and what the child reads may be wrong: opening says so.
 * C2 Who changes the parent through the child (a commit) brings the child's record up to date, after
 *    the parent's new id and contents are durable.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opt.h"
#include "vmdk-make.h"

/* ------------------------------------------------------------------------ info */

static void fact_str(struct tapimg *img, struct tapimg_fact *f, unsigned *n, const char *key,
		     const char *desc_key)
{
	char *value = vmdk_desc_get(&vmdk_of(img)->desc, desc_key);

	if (value && *value)
		f[(*n)++] = (struct tapimg_fact){ .key = key, .type = TAPIMG_FACT_STR,
						  .str = info_printf(img, "%s", value) };
	free(value);
}

static void fact_geometry(struct tapimg *img, struct tapimg_fact *f, unsigned *n)
{
	const struct vmdk_desc *d = &vmdk_of(img)->desc;
	char *c = vmdk_desc_get(d, "ddb.geometry.cylinders");
	char *h = vmdk_desc_get(d, "ddb.geometry.heads"), *s = vmdk_desc_get(d, "ddb.geometry.sectors");

	if (c && h && s)
		f[(*n)++] = (struct tapimg_fact){ .key = "geometry", .type = TAPIMG_FACT_STR,
						  .str = info_printf(img, "%s/%s/%s", c, h, s) };
	free(c);
	free(h);
	free(s);
}

static int info_facts(struct tapimg *img, struct tapimg_info *out)
{
	const struct vmdk_desc *d = &vmdk_of(img)->desc;
	struct tapimg_fact *f = info_alloc(img, 12 * sizeof(*f));
	unsigned n = 0;

	if (!f)
		return -ENOMEM;
	if (d->text) {
		f[n++] = (struct tapimg_fact){ .key = "cid", .type = TAPIMG_FACT_HEX, .num = d->cid };
		f[n++] = (struct tapimg_fact){ .key = "parent-cid", .type = TAPIMG_FACT_HEX,
					       .num = d->parent_cid };
		fact_str(img, f, &n, "create-type", "createType");
		fact_str(img, f, &n, "adapter-type", "ddb.adapterType");
		fact_geometry(img, f, &n);
		fact_str(img, f, &n, "hw-version", "ddb.virtualHWVersion");
		fact_str(img, f, &n, "tools-version", "ddb.toolsVersion");
		fact_str(img, f, &n, "uuid", "ddb.uuid");
		fact_str(img, f, &n, "long-content-id", "ddb.longContentID");
		fact_str(img, f, &n, "change-track-file", "changeTrackPath");
	}
	out->facts = f;
	out->nfacts = n;
	return 0;
}

int vmdk_info(struct tapimg *img, struct tapimg_info *out, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct tapimg_extent_info *e = info_alloc(img, v->nx * sizeof(*e));

	if (!e || info_facts(img, out))
		return err_errno(err, -ENOMEM, "%s", img->name);
	for (unsigned i = 0; i < v->nfiles; i++)
		out->actual_size += file_allocated(v->files[i].file);
	for (unsigned i = 0; i < v->nx; i++) {
		const struct vmdk_extent *x = v->x + i;

		e[i] = (struct tapimg_extent_info){
			.filename = x->path, .format = x->kind->name, .virtual_size = x->len,
			.cluster_size = x->grain, .compressed = x->kind->compressed,
		};
		out->dirty |= x->dirty_found;
		out->compressed |= x->kind->compressed;
	}
	out->extents = e;
	out->nextents = v->nx;
	return 0;
}

/* ---------------------------------------------------------------------- chains */

int vmdk_backing_check(struct tapimg *img, struct tapimg_err *err)
{
	const struct vmdk_desc *d = &vmdk_of(img)->desc, *b;

	if (img->flags & TAPIMG_STALE_BACKING || !d->text || img->backing->fmt != &vmdk_format)
		return 0;
	b = &vmdk_of(img->backing)->desc;
	if (b->text && b->has_cid && b->cid == d->parent_cid)
		return 0;
	if (!b->text || !b->has_cid)
		return err_set(err, -ESTALE, "%s: its parent '%s' has no content id, so nobody knows whether "
			       "it has changed since", img->name, img->backing->name);
	return err_set(err, -ESTALE, "%s: was made when its parent '%s' had the content id %08x, which now "
		       "is %08x: somebody has written to the parent since, and what is read through "
		       "the child may be wrong", img->name, img->backing->name, d->parent_cid, b->cid);
}

static int set_parent_cid(struct tapimg *img, uint32_t cid)
{
	struct vmdk_desc *d = &vmdk_of(img)->desc;
	char text[16];

	snprintf(text, sizeof(text), "%08x", cid);
	return vmdk_desc_set(d, "parentCID", text, false, "CID");
}

int vmdk_backing_changed(struct tapimg *img, struct tapimg_err *err)
{
	const struct vmdk_desc *d = &vmdk_of(img)->desc, *b;
	int ret;

	if (!d->text || !img->backing || img->backing->fmt != &vmdk_format)
		return 0;
	b = &vmdk_of(img->backing)->desc;
	if (!b->text || b->cid == d->parent_cid)
		return 0;
	ret = set_parent_cid(img, b->cid);
	return ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_write(img, err);
}

/* The content id of a file that is to be the parent. */
static int read_cid(struct tapimg *img, const char *name, uint32_t *cid, struct tapimg_err *err)
{
	struct tapimg_open_opts o = {
		.format = "vmdk", .flags = TAPIMG_SHARE | TAPIMG_NO_IO | TAPIMG_NO_BACKING,
		.gate = img->opts.gate, .gate_arg = img->opts.gate_arg,
	};
	char *path = name_resolve(img->path, name);
	struct tapimg *parent = NULL;
	int ret;

	if (!path)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = image_gate(&img->opts, TAPIMG_ROLE_BACKING, img->path, path, err);
	if (!ret)
		ret = tapimg_open(img->loop, path, &o, &parent, err);
	free(path);
	if (ret)
		return err_prefix(err, ret, "%s: the content id of the new parent is needed", img->name);
	if (!vmdk_of(parent)->desc.text || !vmdk_of(parent)->desc.has_cid)
		ret = err_set(err, -EINVAL, "%s: '%s' has no descriptor with a content id", img->name, name);
	*cid = vmdk_of(parent)->desc.cid;
	tapimg_close(parent, NULL);
	return ret;
}

int vmdk_set_backing(struct tapimg *img, const char *name, const char *format,
		     struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	char *stored = name ? strdup(name) : NULL, *fmt = name ? strdup("vmdk") : NULL, *text = NULL;
	uint32_t cid = VMDK_CID_NONE;
	int ret = 0;

	if (!v->desc.text)
		ret = err_set(err, -ENOTSUP, "%s: has no descriptor, where its parent could be named",
			      img->name);
	for (unsigned i = 0; i < v->nx && !ret; i++)
		if (!v->x[i].grain)
			ret = err_set(err, -ENOTSUP, "%s: only images of sparse extents can have a parent",
				      img->name);
	if (!ret && format && strcmp(format, "vmdk") != 0)
		ret = err_set(err, -ENOTSUP, "%s: the parent of a VMDK has to be one as well, not %s", img->name,
			      format);
	if (!ret && name && strpbrk(name, "\"\r\n"))
		ret = err_set(err, -EINVAL, "%s: the name of the parent has a quote or a line break in it",
			      img->name);
	if (!ret && name && (!stored || !fmt))
		ret = err_errno(err, -ENOMEM, "%s", img->name);
	if (!ret && name && vmdk_desc_name(&v->desc, name, &text, err))
		ret = err_prefix(err, -EILSEQ, "%s", img->name);
	if (!ret && name)
		ret = read_cid(img, name, &cid, err);
	if (!ret) {
		ret = set_parent_cid(img, cid);
		if (!ret)
			ret = vmdk_desc_set(&v->desc, "parentFileNameHint", text, true, "createType");
		ret = ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_write(img, err);
	}
	free(text);
	if (ret) {
		free(stored);
		free(fmt);
		return ret;
	}
	free(img->backing_name);
	free(img->backing_fmt);
	img->backing_name = stored;
	img->backing_fmt = fmt;
	return 0;
}

/* ---------------------------------------------------------------------- amend */

static int set_ddb(struct vmdk_desc *d, const char *key, const char *value)
{
	return vmdk_desc_set(d, key, value, true, NULL);
}

static int set_geometry(struct vmdk_desc *d, const char *value)
{
	struct vmdk_params p = { 0 };
	char c[16], h[16], s[16];
	int ret;

	if (vmdk_parse_geometry(value, &p))
		return -EINVAL;
	snprintf(c, sizeof(c), "%u", p.cylinders);
	snprintf(h, sizeof(h), "%u", p.heads);
	snprintf(s, sizeof(s), "%u", p.sectors);
	ret = set_ddb(d, "ddb.geometry.cylinders", c);
	if (!ret)
		ret = set_ddb(d, "ddb.geometry.heads", h);
	return ret ? ret : set_ddb(d, "ddb.geometry.sectors", s);
}

static int set_option(struct vmdk_desc *d, const struct tapimg_opt *o)
{
	char uuid[VMDK_UUID_LEN];

	if (!strcmp(o->name, "adapter_type"))
		return set_ddb(d, "ddb.adapterType", o->value);
	if (!strcmp(o->name, "geometry"))
		return set_geometry(d, o->value);
	if (!strcmp(o->name, "uuid"))
		return vmdk_uuid_text(o->value, uuid) ? -EINVAL : set_ddb(d, "ddb.uuid", uuid);
	if (!o->value[0] || strspn(o->value, "0123456789") != strlen(o->value) || strlen(o->value) > 10)
		return -EINVAL;
	return set_ddb(d, !strcmp(o->name, "hwversion") ? "ddb.virtualHWVersion" : "ddb.toolsVersion",
		       o->value);
}

int vmdk_amend(struct tapimg *img, const struct tapimg_opt *opts, unsigned nopts,
	       struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_desc d;
	char *text;
	int ret = 0;

	if (!v->desc.text)
		return err_set(err, -ENOTSUP, "%s: has no descriptor that could be changed", img->name);
	/* in a copy: a wrong value leaves all as it was */
	text = strdup(v->desc.text);
	if (!text)
		return err_errno(err, -ENOMEM, "%s", img->name);
	ret = vmdk_desc_parse(&d, text, v->desc.len, img->name, err);
	for (unsigned i = 0; i < nopts && !ret; i++) {
		ret = set_option(&d, &opts[i]);
		if (ret)
			err_set(err, ret, "%s: %s is not a value for %s", img->name, opts[i].value,
				opts[i].name);
	}
	if (!ret) {
		char *old = v->desc.text;

		v->desc.text = d.text;
		v->desc.len = d.len;
		d.text = old;
		ret = vmdk_desc_write(img, err);
	}
	vmdk_desc_free(&d);
	return ret;
}

/* --------------------------------------------------------------------- emptying */

/* All tables say that nothing is here; they are still where they were. */
static int extent_empty(struct vmdk_extent *x)
{
	struct vmdk_sparse *s = x->priv;
	uint32_t len = 4U << s->gt_bits;
	int ret = 0;

	for (unsigned copy = 0; copy < 2 && !ret; copy++) {
		const uint32_t *gd = copy ? s->gd : s->rgd;

		for (uint32_t i = 0; gd && i < s->ngd && !ret; i++)
			if (gd[i] > VMDK_GTE_ZERO)
				ret = file_zero(x->file, gd[i] * VMDK_SECTOR, len, 0);
		if (!ret)
			ret = file_flush(x->file);
	}
	return ret;
}

/* Tables lie in front: what follows them is not used any more. */
static int extent_cut(struct vmdk_extent *x)
{
	struct vmdk_sparse *s = x->priv;
	uint64_t end = s->overhead;

	if (s->cowd || x->file->block_dev || !end)
		return 0;
	for (uint32_t i = 0; i < s->ngd; i++)
		if (s->gd[i] * VMDK_SECTOR >= end || (s->rgd && s->rgd[i] * VMDK_SECTOR >= end))
			return 0;
	return file_truncate(x->file, end);
}

int vmdk_make_empty(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	int ret = 0;

	for (unsigned i = 0; i < v->nx && !ret; i++) {
		struct vmdk_extent *x = v->x + i;

		if (x->kind != &vmdk_sparse && x->kind != &vmdk_cowd)
			return err_set(err, -ENOTSUP, "%s: extents of the type %s cannot be emptied", img->name,
				       x->kind->name);
		ret = extent_empty(x);
		if (!ret)
			ret = extent_cut(x);
		if (ret)
			return err_errno(err, ret, "%s: emptying the tables", x->path);
		ret = vmdk_sparse_load(img, x, err);
	}
	meta_drop(img->meta);
	return ret;
}
