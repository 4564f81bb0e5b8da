/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-text.c - changing the descriptor of an open image, so that no crash leaves a mixture
 *
 * A change inside one sector is written in place.  A larger one
 *  - of a descriptor in a file of its own: goes into a new file, which then takes the name;
 *  - of one inside a sparse extent: takes a detour over the end of the file.  The text is written
 *    there, the header points to it, the text is written to its old place, the header points
 *    there again; a flush between all of these, and the pointer lies inside one sector.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"
#include "vmdk.h"

/* Sectors in which two texts differ, the shorter one padded with NULs as on disk. */
static unsigned sectors_differ(const char *a, const char *b, size_t len)
{
	unsigned n = 0;

	for (size_t pos = 0; pos < len; pos += VMDK_SECTOR)
		n += memcmp(a + pos, b + pos, MIN(VMDK_SECTOR, len - pos)) != 0;
	return n;
}

static int write_flush(struct file *f, const void *buf, uint64_t len, uint64_t off)
{
	int ret = file_pwrite(f, buf, len, off);

	return ret ? ret : file_flush(f);
}

static int write_pointer(struct tapimg *img, uint64_t off)
{
	uint8_t b[8];

	put_le64(b, off / VMDK_SECTOR);
	return write_flush(img->file, b, sizeof(b), VH_DESC_OFF);
}

static int write_detour(struct tapimg *img, const char *buf, uint64_t len)
{
	struct vmdk *v = vmdk_of(img);
	uint64_t size = img->file->size, at = round_up(size, VMDK_SECTOR);
	int ret;

	for (unsigned i = 0; i < v->nx; i++)
		if (v->x[i].file == img->file && v->x[i].kind == &vmdk_sparse)
			at = MAX(at, vmdk_sparse_of(&v->x[i])->end);
	ret = write_flush(img->file, buf, len, at);
	if (!ret)
		ret = write_pointer(img, at);
	if (!ret)
		ret = write_flush(img->file, buf, len, v->desc_off);
	if (!ret)
		ret = write_pointer(img, v->desc_off);
	if (!ret && !img->file->block_dev)
		ret = file_truncate(img->file, size);
	return ret;
}

/* The new file is like the old one for all who look at it. */
static void take_after(struct file *from, struct file *to)
{
	int a = file_fd(from), b = file_fd(to);
	struct stat st;

	if (a < 0 || b < 0 || fstat(a, &st))
		return;
	if (fchown(b, st.st_uid, st.st_gid) || fchmod(b, st.st_mode & 07777))
		return;		/* who may not do that is its owner anyway */
}

static int write_renamed(struct tapimg *img, const char *buf, uint64_t len, struct tapimg_err *err)
{
	struct file *f;
	char *tmp, *name = strdup(img->file->name);
	int ret;

	if (!name || asprintf(&tmp, "%s.tapimg-new", img->path) < 0) {
		free(name);
		return -ENOMEM;
	}
	ret = file_open(img->loop, tmp, image_file_flags(img->flags) | FILE_CREATE | FILE_TRUNC, &f, err);
	if (ret)
		goto out;
	take_after(img->file, f);
	ret = write_flush(f, buf, len, 0);
	if (!ret)
		ret = file_rename(img->loop, tmp, img->path);
	if (ret) {
		file_close(f);
		file_remove(img->loop, tmp);
		goto out;
	}
	free(f->name);
	f->name = name;
	name = NULL;
	file_close(img->file);
	img->file = f;
	img->meta->files[0].file = f;
out:
	free(name);
	free(tmp);
	return ret;
}

static int write_text(struct tapimg *img, const char *old, const char *buf, uint64_t room,
		      struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	unsigned n = sectors_differ(old, buf, room);
	int ret;

	if (!n)
		return 0;
	if (n > 1 && v->desc_max)
		return write_detour(img, buf, room);
	if (n > 1 && !v->unfinished && !img->file->block_dev && file_renames(img->loop, img->path))
		return write_renamed(img, buf, v->desc.len, err);
	/* of a longer old text nothing must stay, should the cutting off not come to pass */
	ret = file_pwrite(img->file, buf, room, v->desc_off);
	if (!ret && !v->desc_max && room > v->desc.len && !img->file->block_dev)
		ret = file_truncate(img->file, v->desc.len);
	return ret ? ret : file_flush(img->file);
}

int vmdk_desc_again(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	char *text = malloc(v->desc.len + 1);
	struct vmdk_desc d;
	int ret;

	if (!text)
		return err_errno(err, -ENOMEM, "%s", img->name);
	memcpy(text, v->desc.text, v->desc.len + 1);
	ret = vmdk_desc_parse(&d, text, v->desc.len, img->name, err);
	if (ret)
		return ret;
	for (unsigned i = 0; i < v->nx; i++)
		v->x[i].line = v->x[i].line && i < d.nlines ? d.line + i : NULL;
	vmdk_desc_free(&v->desc);
	v->desc = d;
	return 0;
}

int vmdk_desc_truncate(struct tapimg *img, unsigned n)
{
	struct vmdk *v = vmdk_of(img);
	int ret = 0;

	for (unsigned i = v->desc.nlines; i-- > n && !ret;)
		ret = vmdk_desc_remove(&v->desc, v->desc.line[i].number);
	return ret ? ret : vmdk_desc_again(img, NULL);
}

/* What could not be written is forgotten: whoever writes next would put it there. */
static void text_back(struct tapimg *img, const char *old)
{
	struct vmdk *v = vmdk_of(img);
	char *text = strdup(old);

	if (!text)
		return;
	free(v->desc.text);
	v->desc.text = text;
	v->desc.len = strlen(text);
	vmdk_desc_again(img, NULL);
}

int vmdk_desc_write(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk *v = vmdk_of(img);
	uint64_t had = v->desc_max ? v->desc_max : img->file->size;
	uint64_t room = MAX(had, v->desc_max ? 0 : v->desc.len);
	char *old = calloc(1, room + 1), *buf = calloc(1, room + 1);
	int ret = old && buf ? file_pread(img->file, old, had, v->desc_off) : -ENOMEM;
	bool known = !ret;

	if (!ret && v->desc.len > room) {
		ret = err_set(err, -ENOSPC, "%s: its descriptor would have %zu bytes, and has room for %llu",
			      img->name, v->desc.len, (unsigned long long)room);
	} else {
		if (!ret) {
			memcpy(buf, v->desc.text, v->desc.len);
			ret = write_text(img, old, buf, room, err);
		}
		if (ret)
			err_errno(err, ret, "%s: writing the descriptor", img->name);
	}
	if (ret && known)
		text_back(img, old);
	free(old);
	free(buf);
	return ret ? ret : vmdk_desc_again(img, err);
}
