/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-locator.c - names of parents: UTF-16 and UTF-8, Windows paths and ours
 *
 * A decoded name is a path with slashes: one that is not absolute begins with "./" or "../".  Names of
 * providers ("nbd://...") are taken as they are; a Windows drive is none, nor is "json:".
 */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "name.h"
#include "vhd.h"

/* --------------------------------------------------------------------- UTF-16 */

/* Appends a code point; returns the bytes used. */
static unsigned utf8_put(char *out, uint32_t c)
{
	if (c < 0x80) {
		out[0] = c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = 0xc0 | c >> 6;
		out[1] = 0x80 | (c & 0x3f);
		return 2;
	}
	if (c < 0x10000) {
		out[0] = 0xe0 | c >> 12;
		out[1] = 0x80 | (c >> 6 & 0x3f);
		out[2] = 0x80 | (c & 0x3f);
		return 3;
	}
	out[0] = 0xf0 | c >> 18;
	out[1] = 0x80 | (c >> 12 & 0x3f);
	out[2] = 0x80 | (c >> 6 & 0x3f);
	out[3] = 0x80 | (c & 0x3f);
	return 4;
}

char *vhd_utf16_decode(const uint8_t *p, size_t bytes, bool big)
{
	size_t n = bytes / 2, i, len = 0;
	char *out = malloc(3 * n + 1);

	if (!out)
		return NULL;
	for (i = 0; i < n; i++) {
		uint32_t c = big ? get_be16(p + 2 * i) : get_le16(p + 2 * i);

		if (!c)
			break;
		if (c >= 0xd800 && c < 0xe000) {	/* 2 units make 4 bytes */
			uint32_t low = i + 1 < n ? big ? get_be16(p + 2 * i + 2) : get_le16(p + 2 * i + 2) : 0;

			if (c >= 0xdc00 || low < 0xdc00 || low >= 0xe000) {
				free(out);
				return NULL;
			}
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			i++;
		}
		len += utf8_put(out + len, c);
	}
	out[len] = 0;
	return out;
}

/* The code point at *p, which is moved on; UINT32_MAX: not UTF-8. */
static uint32_t utf8_get(const unsigned char **p)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const unsigned char *s = *p;
	unsigned more = *s < 0x80 ? 0 : *s >= 0xc2 && *s < 0xe0 ? 1 : *s >= 0xe0 && *s < 0xf0 ? 2 :
			*s >= 0xf0 && *s < 0xf5 ? 3 : 4;
	uint32_t c;

	if (more == 4)
		return UINT32_MAX;
	c = more ? *s & (0x3f >> more) : *s;
	for (unsigned i = 1; i <= more; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return UINT32_MAX;
		c = c << 6 | (s[i] & 0x3f);
	}
	*p = s + 1 + more;
	if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return UINT32_MAX;
	return c;
}

static void unit_put(uint8_t *p, uint16_t v, bool big)
{
	if (big)
		put_be16(p, v);
	else
		put_le16(p, v);
}

uint8_t *vhd_utf16_encode(const char *text, bool big, size_t *bytes)
{
	const unsigned char *p = (const unsigned char *)text;
	uint8_t *out = malloc(2 * strlen(text) + 2);
	size_t n = 0;

	if (!out)
		return NULL;
	while (*p) {
		uint32_t c = utf8_get(&p);

		if (c == UINT32_MAX) {
			free(out);
			return NULL;
		}
		if (c >= 0x10000) {
			unit_put(out + n, 0xd800 + ((c - 0x10000) >> 10), big);
			n += 2;
			c = 0xdc00 + ((c - 0x10000) & 0x3ff);
		}
		unit_put(out + n, c, big);
		n += 2;
	}
	*bytes = n;
	return out;
}

/* ------------------------------------------------------------------- locators */

static void swap_chars(char *s, char from, char to)
{
	for (; *s; s++)
		if (*s == from)
			*s = to;
}

char *vhd_stored_path(const char *path)
{
	bool scheme = name_has_scheme(path) && path[1] != ':' && strncmp(path, "json:", 5);
	char *out = NULL;

	if (*path == '/' || !strncmp(path, "./", 2) || !strncmp(path, "../", 3) || scheme)
		return strdup(path);
	return asprintf(&out, "./%s", path) < 0 ? NULL : out;
}

/* Takes @s over. */
static char *plain_path(char *s)
{
	char *out = s && *s ? vhd_stored_path(s) : NULL;

	free(s);
	return out;
}

static bool is_windows(uint32_t code)
{
	return code == VHD_LOC_W2KU || code == VHD_LOC_W2RU;
}

char *vhd_locator_decode(uint32_t code, const uint8_t *p, size_t len)
{
	static const char scheme[] = "file://";
	const size_t skip = sizeof(scheme) - 1;
	char *s;

	if (is_windows(code)) {
		s = vhd_utf16_decode(p, len, false);
		if (s)
			swap_chars(s, '\\', '/');
		return plain_path(s);
	}
	if (code != VHD_LOC_MACX || len <= skip || memcmp(p, scheme, skip))
		return NULL;
	return plain_path(strndup((const char *)p + skip, len - skip));
}

uint8_t *vhd_locator_encode(uint32_t code, const char *path, size_t *len)
{
	uint8_t *out = NULL;
	char *s = NULL;
	int n;

	if (is_windows(code)) {
		s = strdup(path);
		if (s) {
			swap_chars(s, '/', '\\');
			out = vhd_utf16_encode(s, false, len);
		}
		free(s);
		return out;
	}
	n = asprintf(&s, "file://%s", path);
	if (n < 0)
		return NULL;
	*len = n;
	return (uint8_t *)s;
}

uint64_t vhd_locator_space(const struct vhd_locator *l)
{
	if (l->code == VHD_LOC_NONE)
		return 0;
	return l->space < VHD_SECTOR ? (uint64_t)l->space * VHD_SECTOR : l->space;
}

const char *vhd_locator_code_name(uint32_t code)
{
	switch (code) {
	case VHD_LOC_NONE:
		return "PLAT_CODE_NONE";
	case VHD_LOC_WI2R:
		return "PLAT_CODE_WI2R";
	case VHD_LOC_WI2K:
		return "PLAT_CODE_WI2K";
	case VHD_LOC_W2RU:
		return "PLAT_CODE_W2RU";
	case VHD_LOC_W2KU:
		return "PLAT_CODE_W2KU";
	case VHD_LOC_MAC:
		return "PLAT_CODE_MAC";
	case VHD_LOC_MACX:
		return "PLAT_CODE_MACX";
	default:
		return NULL;
	}
}

/* --------------------------------------------------------------- relative paths */

/* The folder of @path without links and dots, ends with a slash. */
static char *real_folder(const char *path)
{
	char *copy = strdup(path), *real, *out = NULL;

	if (!copy)
		return NULL;
	real = realpath(dirname(copy), NULL);
	free(copy);
	if (real && asprintf(&out, "%s%s", real, strcmp(real, "/") ? "/" : "") < 0)
		out = NULL;
	free(real);
	return out;
}

/* From folder @a to folder @b, both with their last slash. */
static char *folder_steps(const char *a, const char *b)
{
	size_t same = 0, up = 0, len;
	char *out;

	for (size_t i = 0; a[i] && a[i] == b[i]; i++)
		if (a[i] == '/')
			same = i + 1;
	for (const char *p = a + same; *p; p++)
		up += *p == '/';
	len = 3 * up + strlen(b + same) + 3;
	out = malloc(len);
	if (!out)
		return NULL;
	*out = 0;
	if (!up)
		strcat(out, "./");
	while (up--)
		strcat(out, "../");
	return strcat(out, b + same);
}

char *vhd_relative_path(const char *from, const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	char *a = real_folder(from), *b = real_folder(path), *steps = NULL, *out = NULL;

	if (a && b)
		steps = folder_steps(a, b);
	if (b && asprintf(&out, "%s%s", steps ? steps : b, base) < 0)
		out = NULL;
	free(a);
	free(b);
	free(steps);
	return out ? out : strdup(path);
}
