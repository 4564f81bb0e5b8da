/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-flat.c - extents without tables: plain bytes of a file or device, and none at all
 *
 * Which of a plain file's bytes are holes is asked only for block status, as for raw images.
 */
#include <inttypes.h>
#include <stdio.h>

#include "vmdk.h"

static int flat_open(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	if (!checked_range(x->offset, x->len, x->file->size) && !(img->flags & TAPIMG_CHECK))
		return err_set(err, -EINVAL, "%s: extent '%s' has %" PRIu64 " bytes, of which the "
			       "descriptor wants %" PRIu64 " from %" PRIu64 " on", img->name, x->path,
			       x->file->size, x->len, x->offset);
	return 0;
}

static int flat_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		    unsigned flags, struct extent *ext)
{
	bool data;
	int ret;

	ext->off = off;
	ext->len = len;
	ext->file = x->file;
	ext->host = x->offset + off;
	ext->type = EXT_DATA;
	ext->flags = x->writable ? EXT_WRITABLE : 0;
	if (!(flags & MAP_STATUS))
		return 0;
	ret = file_status(x->file, ext->host, &ext->len, &data);
	if (!ret && !data) {
		ext->type = EXT_ZERO;
		ext->flags = EXT_KEPT;
	}
	return ret;
}

/* The bytes are there: it is the file that zeroes and discards. */
static int flat_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done)
{
	return UNMAP_PLAIN;
}

static int flat_check(struct tapimg *img, struct vmdk_extent *x, unsigned fix,
		      struct tapimg_check *out,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err)
{
	char line[600];

	if (checked_range(x->offset, x->len, x->file->size))
		return 0;
	snprintf(line, sizeof(line), "extent '%s' has %" PRIu64 " bytes, but %" PRIu64 " from %" PRIu64
		 " on are wanted", x->path, x->file->size, x->len, x->offset);
	report(arg, 'E', line);
	out->corruptions++;
	return 0;
}

const struct vmdk_kind vmdk_flat = {
	.name	= "FLAT",
	.open	= flat_open,
	.map	= flat_map,
	.unmap	= flat_unmap,
	.check	= flat_check,
};

static int zero_open(struct tapimg *img, struct vmdk_extent *x, struct tapimg_err *err)
{
	return 0;
}

static int zero_map(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		    unsigned flags, struct extent *ext)
{
	ext->off = off;
	ext->len = len;
	ext->file = NULL;
	ext->type = EXT_ZERO;
	ext->flags = 0;
	return 0;
}

static int zero_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done)
{
	*done = len;
	return 0;
}

const struct vmdk_kind vmdk_zero = {
	.name	= "ZERO",
	.open	= zero_open,
	.map	= zero_map,
	.unmap	= zero_unmap,
};
