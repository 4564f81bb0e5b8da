/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tar.c - the members of a tar archive
 *
 * Reads what is about: the old format, ustar, GNU's long names and large sizes, and of pax's records
 * "path" and "size".  Writes ustar, with GNU's large sizes from 8 GiB on.
 *
 * Names are only compared with, never opened.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "tar.h"

#define MEMBERS_MAX 4096
#define EXTRA_MAX (64 * KiB)		/* of a long name, of pax records */

#define T_NAME		0
#define T_MODE		100
#define T_UID		108
#define T_GID		116
#define T_SIZE		124
#define T_MTIME		136
#define T_SUM		148
#define T_TYPE		156
#define T_MAGIC		257
#define T_PREFIX	345

/* --------------------------------------------------------------------- headers */

/* Octal digits, or GNU's binary numbers: the first byte has its highest bit set. */
static bool get_number(const uint8_t *p, unsigned len, uint64_t *out)
{
	uint64_t v = 0;
	unsigned i = 0;

	if (p[0] & 0x80) {
		for (v = p[0] & 0x7f, i = 1; i < len; i++) {
			if (v >> 55)
				return false;
			v = v << 8 | p[i];
		}
		*out = v;
		return true;
	}
	while (i < len && p[i] == ' ')
		i++;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++)
		v = v << 3 | (p[i] - '0');	/* 12 digits are 36 bits */
	*out = v;
	return i == len || p[i] == ' ' || !p[i];
}

static uint64_t checksum(const uint8_t *b)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < TAR_BLOCK; i++)
		sum += i >= T_SUM && i < T_SUM + 8 ? ' ' : b[i];
	return sum;
}

bool tar_header_get(const uint8_t *block, char name[257], uint64_t *size, char *type)
{
	const char *p = (const char *)block;
	const uint8_t *b = block;
	uint64_t sum;

	if (!get_number(b + T_SUM, 8, &sum) || sum != checksum(b) || !get_number(b + T_SIZE, 12, size) ||
	    *size > INT64_MAX)
		return false;
	*type = b[T_TYPE];
	if (!memcmp(b + T_MAGIC, "ustar\0", 6) && b[T_PREFIX])
		snprintf(name, 257, "%.155s/%.100s", p + T_PREFIX, p + T_NAME);
	else
		snprintf(name, 257, "%.100s", p + T_NAME);
	return true;
}

static void put_octal(uint8_t *p, unsigned len, uint64_t v)
{
	p[--len] = 0;
	while (len--) {
		p[len] = '0' + (v & 7);
		v >>= 3;
	}
}

void tar_header_put(uint8_t *block, const char *name, uint64_t size)
{
	uint8_t *b = block;

	memset(b, 0, TAR_BLOCK);
	memcpy(b + T_NAME, name, MIN(strlen(name), (size_t)TAR_NAME_MAX));
	put_octal(b + T_MODE, 8, 0644);
	put_octal(b + T_UID, 8, 0);
	put_octal(b + T_GID, 8, 0);
	if (size >> 33) {
		for (unsigned i = 0; i < 8; i++)
			b[T_SIZE + 4 + i] = size >> (56 - 8 * i);
		b[T_SIZE] = 0x80;
	} else {
		put_octal(b + T_SIZE, 12, size);
	}
	put_octal(b + T_MTIME, 12, 0);		/* the same contents make the same archive */
	b[T_TYPE] = '0';
	memcpy(b + T_MAGIC, "ustar\00000", 8);
	put_octal(b + T_SUM, 7, checksum(b));
	b[T_SUM + 7] = ' ';
}

/* --------------------------------------------------------------------- members */

/* What extended headers say of the next member. */
struct extra {
	char *name;
	uint64_t size;
	bool has_size, sparse;
};

/* Records of pax: "LENGTH KEY=VALUE\n", the length being that of all of it. */
static bool pax_records(const char *p, size_t left, struct extra *x)
{
	while (left) {
		char *end;
		unsigned long len = strtoul(p, &end, 10);
		const char *key = end + 1, *eq;
		size_t vlen;

		if (end == p || *end != ' ' || len > left || len < (size_t)(key - p) + 2 ||
		    p[len - 1] != '\n')
			return false;
		eq = memchr(key, '=', p + len - key);
		if (!eq)
			return false;
		vlen = p + len - 1 - (eq + 1);
		if (!strncmp(key, "path=", 5)) {
			free(x->name);
			x->name = strndup(eq + 1, vlen);
			if (!x->name)
				return false;
		} else if (!strncmp(key, "size=", 5)) {
			x->size = strtoull(eq + 1, NULL, 10);
			x->has_size = true;
		} else if (!strncmp(key, "GNU.sparse.", 11)) {
			x->sparse = true;
		}
		p += len;
		left -= len;
	}
	return true;
}

/* The contents of an extended header; @global: they are not about the next member. */
static int read_extra(struct file *f, const struct tar_member *m, char type, struct extra *x,
		      struct tapimg_err *err)
{
	char *buf;
	int ret;

	if (m->size > EXTRA_MAX || m->there < m->size)
		return err_set(err, -EINVAL, "%s: the extended tar header at 0x%" PRIx64 " of %" PRIu64
			       " bytes is not valid", f->name, m->off - TAR_BLOCK, m->size);
	buf = file_buf(m->size + 1);
	ret = buf ? file_pread(f, buf, m->size, m->off) : -ENOMEM;
	if (ret) {
		free(buf);
		return err_errno(err, ret, "%s: reading the extended tar header at 0x%" PRIx64, f->name,
				 m->off - TAR_BLOCK);
	}
	buf[m->size] = 0;
	if (type == 'L') {
		free(x->name);
		x->name = strdup(buf);
		ret = x->name ? 0 : -ENOMEM;
	} else if (type == 'x' && !pax_records(buf, m->size, x)) {
		ret = err_set(err, -EINVAL, "%s: the extended tar header at 0x%" PRIx64 " is damaged", f->name,
			      m->off - TAR_BLOCK);
	}
	free(buf);
	return ret;
}

static int member_add(struct tar *t, const struct tar_member *m)
{
	struct tar_member *v = realloc(t->member, (t->n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	t->member = v;
	v[t->n] = *m;
	t->n++;
	return 0;
}

static bool is_zero_block(const uint8_t *b)
{
	for (unsigned i = 0; i < TAR_BLOCK; i++)
		if (b[i])
			return false;
	return true;
}

/* One header at *@off, which moves on to the next.  1; 0 at the end. */
static int read_one(struct file *f, uint64_t *off, struct tar *t, struct extra *x,
		    struct tapimg_err *err)
{
	struct tar_member m = { 0 };
	uint8_t block[TAR_BLOCK];
	char name[257], type;
	int ret;

	if (!checked_range(*off, TAR_BLOCK, f->size))
		return 0;		/* an end that is missing is the smallest of worries */
	ret = file_pread(f, block, TAR_BLOCK, *off);
	if (ret)
		return err_errno(err, ret, "%s: reading the tar header at 0x%" PRIx64, f->name, *off);
	if (is_zero_block(block))
		return 0;
	if (!tar_header_get(block, name, &m.size, &type))
		return err_set(err, -EINVAL, "%s: the tar header at 0x%" PRIx64 " is damaged", f->name, *off);
	m.off = *off + TAR_BLOCK;
	if (x->has_size && type != 'x' && type != 'L' && type != 'g' && type != 'K')
		m.size = x->size;
	if (m.size > INT64_MAX - m.off - TAR_BLOCK)
		return err_set(err, -EINVAL, "%s: the tar member at 0x%" PRIx64 " is too large", f->name, *off);
	m.there = m.off < f->size ? MIN(m.size, f->size - m.off) : 0;
	*off = m.off + round_up(m.size, TAR_BLOCK);
	if (type == 'x' || type == 'L' || type == 'g' || type == 'K') {
		ret = read_extra(f, &m, type, x, err);
		return ret ? ret : 1;
	}
	m.plain = (type == '0' || !type || type == '7') && !x->sparse;
	m.name = x->name ? x->name : strdup(name);
	memset(x, 0, sizeof(*x));
	ret = m.name ? member_add(t, &m) : -ENOMEM;
	if (ret)
		free(m.name);
	return ret ? ret : 1;
}

int tar_read(struct file *f, struct tar *out, struct tapimg_err *err)
{
	struct extra x = { 0 };
	uint64_t off = 0;
	unsigned headers = 0;
	int ret;

	memset(out, 0, sizeof(*out));
	do {
		if (headers++ > MEMBERS_MAX)
			ret = err_set(err, -EFBIG, "%s: has more than %u members", f->name, MEMBERS_MAX);
		else
			ret = read_one(f, &off, out, &x, err);
	} while (ret > 0);
	free(x.name);
	if (ret) {
		tar_free(out);
		if (ret == -ENOMEM)
			err_errno(err, ret, "%s", f->name);
	}
	return ret;
}

void tar_free(struct tar *t)
{
	for (unsigned i = 0; i < t->n; i++)
		free(t->member[i].name);
	free(t->member);
	memset(t, 0, sizeof(*t));
}

/* "./" in front is what some archivers put there. */
static const char *bare(const char *name)
{
	return strncmp(name, "./", 2) ? name : name + 2;
}

const struct tar_member *tar_find(const struct tar *t, const char *name)
{
	for (unsigned i = 0; i < t->n; i++)
		if (!strcmp(bare(t->member[i].name), bare(name)))
			return t->member + i;
	return NULL;
}
