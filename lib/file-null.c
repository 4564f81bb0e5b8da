/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-null.c - a file that answers without doing anything
 *
 * For measuring what the layers above cost: a read leaves its buffer as it is (the contents count as
 * zeroes "that are not even stored"), a write is forgotten.
 */
#include "err.h"
#include "file.h"

static void null_submit(struct io *io)
{
	io_complete(io, 0);
}

static int null_truncate(struct file *f, uint64_t size)
{
	return 0;
}

static int null_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t null_allocated(struct file *f)
{
	return 0;
}

static void null_close(struct file *f)
{
}

static const struct file_ops null_ops = {
	.name = "null",
	.submit = null_submit,
	.truncate = null_truncate,
	.status = null_status,
	.allocated = null_allocated,
	.close = null_close,
};

int file_open_null(struct tapimg_loop *loop, uint64_t size, struct file **out)
{
	struct file *f = file_alloc(loop, &null_ops, "null", FILE_RDWR);

	if (!f)
		return -ENOMEM;
	f->size = f->logical_end = size;
	f->no_grow = true;
	*out = f;
	return 0;
}
