/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * commit.c - moving what the upper layers of a chain hold into a lower one
 *
 * The order that makes it safe at any crash: the base grows, takes the data and is flushed; only
 * then the top layer is emptied.  Until then the chain above the base hides every change made
 * to it, because what is written there is what is read through the chain already.
 *
 * It leaves out the layers between: they are of no use on their own once the base has changed.
 */
#include "checked.h"
#include "image.h"
#include "pump.h"

static struct tapimg *layer(struct tapimg *img, unsigned n)
{
	while (n-- && img)
		img = img->backing;
	return img;
}

static int commit_check(struct tapimg *img, struct tapimg *base, unsigned n, bool empty,
			struct tapimg_err *err)
{
	if (!n || !base)
		return err_set(err, -EINVAL, "%s: there is no layer %u to commit to", img->name, n);
	if (img->rechained)
		return image_rechained(img, err);
	if (!base->writable || (empty && !img->writable))
		return err_set(err, -EROFS, "%s: not open for writing",
			       base->writable ? img->name : base->name);
	if (empty && n > 1)
		return err_set(err, -EINVAL, "%s: only a commit to the next layer can empty the top",
			       img->name);
	if (empty && !img->fmt->make_empty)
		return err_set(err, -ENOTSUP, "%s: the %s format cannot be emptied", img->name,
			       img->fmt->name);
	return 0;
}

static int commit_empty(struct tapimg *img, struct tapimg_err *err)
{
	int ret = image_settle(img);

	if (ret)
		return err_errno(err, ret, "%s: flushing", img->name);
	ret = img->fmt->make_empty(img, err);
	chain_forget(img);
	return ret;
}

int tapimg_commit(struct tapimg *img, unsigned base, bool empty, uint64_t rate,
		  tapimg_progress *progress, void *arg, struct tapimg_err *err)
{
	struct tapimg *dst = layer(img, base), *above;
	struct tapimg_copy_opts opts = {
		.flags = COPY_EXACT, .sparse_size = 4096, .rate = rate, .skip_layers = base,
		.progress = progress, .arg = arg
	};
	int ret = commit_check(img, dst, base, empty, err);

	if (ret)
		return ret;
	if (dst->size < img->size) {
		ret = tapimg_resize(dst, img->size, TAPIMG_PREALLOC_OFF, false, err);
		if (ret)
			return ret;
	}
	ret = copy_images(&img, 1, dst, &opts, &img->committed, err);
	for (struct tapimg *l = img; l != dst; l = l->backing)
		chain_forget(l);
	if (ret)
		return ret;
	ret = tapimg_flush(dst);
	if (ret)
		return err_errno(err, ret, "%s: flushing", dst->name);
	above = layer(img, base - 1);
	if (above->fmt->backing_changed && above->writable) {
		ret = image_settle(above);
		ret = ret ? err_errno(err, ret, "%s: flushing", above->name)
			  : above->fmt->backing_changed(above, err);
		if (ret)
			return ret;
	}
	return empty ? commit_empty(img, err) : 0;
}

uint64_t tapimg_committed(const struct tapimg *img)
{
	return img->committed;
}
