/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-layout.c - footers, headers and batmap headers, from and to their bytes
 *
 * Pure functions.  Checksums are the one's complement of the sum of all bytes, their own field
 * taken as zero.  vhd-look.c decides which copy counts.
 */
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "vhd.h"

#define CLOCK_SLACK 1800	/* seconds that a creator's clock may be ahead */

static uint32_t byte_sum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	while (len--)
		sum += *p++;
	return sum;
}

/* -------------------------------------------------------------------- footer */

#define FOOTER_SUM 64

void vhd_footer_parse(struct vhd_footer *f, const uint8_t buf[VHD_SECTOR])
{
	uint32_t geo = get_be32(buf + 56);

	memcpy(f->cookie, buf, 8);
	f->features = get_be32(buf + 8);
	f->version = get_be32(buf + 12);
	f->data_off = get_be64(buf + 16);
	f->timestamp = get_be32(buf + 24);
	memcpy(f->creator, buf + 28, 4);
	f->creator_version = get_be32(buf + 32);
	memcpy(f->creator_os, buf + 36, 4);
	f->orig_size = get_be64(buf + 40);
	f->cur_size = get_be64(buf + 48);
	f->geo = (struct vhd_geometry){ geo >> 16, geo >> 8, geo };
	f->type = get_be32(buf + 60);
	f->checksum = get_be32(buf + FOOTER_SUM);
	memcpy(f->uuid, buf + 68, 16);
	f->saved = buf[84];
	f->hidden = buf[85];
	memcpy(f->reserved, buf + 86, sizeof(f->reserved));
}

static void footer_bytes(const struct vhd_footer *f, uint8_t *buf)
{
	memcpy(buf, f->cookie, 8);
	put_be32(buf + 8, f->features);
	put_be32(buf + 12, f->version);
	put_be64(buf + 16, f->data_off);
	put_be32(buf + 24, f->timestamp);
	memcpy(buf + 28, f->creator, 4);
	put_be32(buf + 32, f->creator_version);
	memcpy(buf + 36, f->creator_os, 4);
	put_be64(buf + 40, f->orig_size);
	put_be64(buf + 48, f->cur_size);
	put_be32(buf + 56, (uint32_t)f->geo.cyls << 16 | (uint32_t)f->geo.heads << 8 | f->geo.spt);
	put_be32(buf + 60, f->type);
	put_be32(buf + FOOTER_SUM, 0);
	memcpy(buf + 68, f->uuid, 16);
	buf[84] = f->saved;
	buf[85] = f->hidden;
	memcpy(buf + 86, f->reserved, sizeof(f->reserved));
}

uint32_t vhd_footer_sum(const struct vhd_footer *f)
{
	uint8_t buf[VHD_SECTOR];

	footer_bytes(f, buf);
	return ~byte_sum(buf, sizeof(buf));
}

void vhd_footer_build(struct vhd_footer *f, uint8_t buf[VHD_SECTOR])
{
	footer_bytes(f, buf);
	f->checksum = ~byte_sum(buf, VHD_SECTOR);
	put_be32(buf + FOOTER_SUM, f->checksum);
}

/* The first releases of Xen's tools summed before they set the hidden mark. */
static bool sum_good(const struct vhd_footer *f)
{
	struct vhd_footer plain = *f;

	if (vhd_footer_sum(f) == f->checksum)
		return true;
	if (!vhd_footer_is_tap(f) || f->creator_version > VHD_TAP_BATMAP)
		return false;
	plain.hidden = 0;
	return vhd_footer_sum(&plain) == f->checksum;
}

bool vhd_footer_plausible(const struct vhd_footer *f)
{
	return (!memcmp(f->cookie, VHD_COOKIE, 8) || !memcmp(f->cookie, VHD_COOKIE_POISON, 8)) &&
	       sum_good(f);
}

const char *vhd_footer_bad(const struct vhd_footer *f, uint32_t now)
{
	static const uint8_t zero[sizeof(f->reserved)];

	if (memcmp(f->cookie, VHD_COOKIE, 8))
		return "invalid cookie";
	if (!sum_good(f))
		return "invalid checksum";
	if (!(f->features & VHD_FEATURE_RESERVED))
		return "invalid 'reserved' feature";
	if (f->features & ~(VHD_FEATURE_TEMP | VHD_FEATURE_RESERVED))
		return "invalid extra features";
	if (f->version != VHD_VERSION)
		return "invalid file format version";
	if (f->type == VHD_TYPE_FIXED ? f->data_off != VHD_NO_OFFSET :
	    f->data_off % VHD_SECTOR || !f->data_off)
		return "invalid data offset";
	if (now && f->timestamp > (uint64_t)now + CLOCK_SLACK)
		return "creation time in future";
	if (vhd_footer_is_tap(f) &&
	    (f->creator_version < VHD_TAP_OLD || f->creator_version > VHD_TAP_VERSION))
		return "unsupported tap creator version";
	if (vhd_geometry_sectors(&f->geo) > f->cur_size >> 9)
		return "geometry too large";
	if (f->type != VHD_TYPE_FIXED && !vhd_type_sparse(f->type))
		return "invalid type";
	if (f->saved > 1)
		return "invalid 'saved' state";
	if (f->hidden > 1 && !vhd_footer_is_tap(f))
		return "invalid 'hidden' state";
	if (memcmp(f->reserved, zero, sizeof(zero)))
		return "invalid 'reserved' bits";
	if (vhd_uuid_zero(f->uuid))
		return "invalid (NULL) uuid";
	return NULL;
}

bool vhd_footer_equal(const struct vhd_footer *a, const struct vhd_footer *b)
{
	uint8_t x[VHD_SECTOR], y[VHD_SECTOR];

	footer_bytes(a, x);
	footer_bytes(b, y);
	return !memcmp(x, y, VHD_SECTOR);
}

/* ------------------------------------------------------------------ geometry */

struct vhd_geometry vhd_geometry(uint64_t sectors)
{
	uint64_t n = MIN(sectors, VHD_CHS_MAX), tracks;
	unsigned spt, heads;

	if (n >= 65535ULL * 16 * 63) {
		spt = 255;
		heads = 16;
	} else {
		spt = 17;
		tracks = n / spt;
		heads = MAX((tracks + 1023) / 1024, 4);
		if (tracks >= heads * 1024ULL || heads > 16) {
			spt = 31;
			heads = 16;
			tracks = n / spt;
		}
		if (tracks >= heads * 1024ULL) {
			spt = 63;
			heads = 16;
		}
	}
	return (struct vhd_geometry){ n / spt / heads, heads, spt };
}

uint64_t vhd_geometry_size(uint64_t size)
{
	uint64_t sectors = div_up(size, VHD_SECTOR), n = sectors;
	struct vhd_geometry g = vhd_geometry(n);

	if (sectors >= VHD_CHS_MAX)
		return sectors * VHD_SECTOR;
	while (vhd_geometry_sectors(&g) < sectors)
		g = vhd_geometry(++n);
	return vhd_geometry_sectors(&g) * VHD_SECTOR;
}

uint64_t vhd_footer_size(const struct vhd_footer *f)
{
	uint64_t chs = vhd_geometry_sectors(&f->geo);

	if ((memcmp(f->creator, "vpc ", 4) && memcmp(f->creator, "qemu", 4)) || !chs ||
	    chs >= VHD_CHS_MAX)
		return f->cur_size;
	return chs * VHD_SECTOR;
}

/* -------------------------------------------------------------------- header */

#define HEADER_SUM 36

void vhd_header_parse(struct vhd_header *h, const uint8_t buf[VHD_HEADER_SIZE])
{
	const uint8_t *p = buf + 576;

	memcpy(h->cookie, buf, 8);
	h->data_off = get_be64(buf + 8);
	h->table_off = get_be64(buf + 16);
	h->version = get_be32(buf + 24);
	h->max_bat = get_be32(buf + 28);
	h->block_size = get_be32(buf + 32);
	h->checksum = get_be32(buf + HEADER_SUM);
	memcpy(h->parent_uuid, buf + 40, 16);
	h->parent_time = get_be32(buf + 56);
	h->reserved1 = get_be32(buf + 60);
	memcpy(h->parent_name, buf + 64, sizeof(h->parent_name));
	for (unsigned i = 0; i < VHD_LOCATORS; i++, p += 24)
		h->loc[i] = (struct vhd_locator){ get_be32(p), get_be32(p + 4), get_be32(p + 8),
						  get_be32(p + 12), get_be64(p + 16) };
	memcpy(h->reserved, buf + 768, sizeof(h->reserved));
}

static void header_bytes(const struct vhd_header *h, uint8_t *buf)
{
	uint8_t *p = buf + 576;

	memcpy(buf, h->cookie, 8);
	put_be64(buf + 8, h->data_off);
	put_be64(buf + 16, h->table_off);
	put_be32(buf + 24, h->version);
	put_be32(buf + 28, h->max_bat);
	put_be32(buf + 32, h->block_size);
	put_be32(buf + HEADER_SUM, 0);
	memcpy(buf + 40, h->parent_uuid, 16);
	put_be32(buf + 56, h->parent_time);
	put_be32(buf + 60, h->reserved1);
	memcpy(buf + 64, h->parent_name, sizeof(h->parent_name));
	for (unsigned i = 0; i < VHD_LOCATORS; i++, p += 24) {
		put_be32(p, h->loc[i].code);
		put_be32(p + 4, h->loc[i].space);
		put_be32(p + 8, h->loc[i].len);
		put_be32(p + 12, h->loc[i].reserved);
		put_be64(p + 16, h->loc[i].off);
	}
	memcpy(buf + 768, h->reserved, sizeof(h->reserved));
}

uint32_t vhd_header_sum(const struct vhd_header *h)
{
	uint8_t buf[VHD_HEADER_SIZE];

	header_bytes(h, buf);
	return ~byte_sum(buf, sizeof(buf));
}

void vhd_header_build(struct vhd_header *h, uint8_t buf[VHD_HEADER_SIZE])
{
	header_bytes(h, buf);
	h->checksum = ~byte_sum(buf, VHD_HEADER_SIZE);
	put_be32(buf + HEADER_SUM, h->checksum);
}

const char *vhd_header_bad(const struct vhd_header *h, bool strict)
{
	static const uint8_t zero[sizeof(h->reserved)];

	if (memcmp(h->cookie, VHD_HEADER_COOKIE, 8))
		return "invalid cookie";
	if (vhd_header_sum(h) != h->checksum)
		return "invalid checksum";
	if (h->version >> 16 != VHD_HEADER_VERSION >> 16)
		return "invalid header version";
	if (strict && h->data_off != VHD_NO_OFFSET)
		return "invalid data offset";
	if (h->table_off % VHD_SECTOR || h->table_off < VHD_SECTOR || h->table_off > INT64_MAX)
		return "invalid table offset";
	if (!is_pow2(h->block_size) || h->block_size < VHD_BLOCK_MIN || h->block_size > VHD_BLOCK_MAX)
		return "invalid block size";
	if (strict && (h->reserved1 || memcmp(h->reserved, zero, sizeof(zero))))
		return "invalid reserved bits";
	return NULL;
}

/* -------------------------------------------------------------------- batmap */

void vhd_batmap_parse(struct vhd_batmap_header *b, const uint8_t buf[VHD_SECTOR])
{
	memcpy(b->cookie, buf, 8);
	b->off = get_be64(buf + 8);
	b->sectors = get_be32(buf + 16);
	b->version = get_be32(buf + 20);
	b->checksum = get_be32(buf + 24);
	b->marker = buf[28];
	b->has_key = buf[29];
	memcpy(b->nonce, buf + 30, 32);
	memcpy(b->hash, buf + 62, 32);
	memcpy(b->reserved, buf + 94, sizeof(b->reserved));
}

void vhd_batmap_build(const struct vhd_batmap_header *b, uint8_t buf[VHD_SECTOR])
{
	memcpy(buf, b->cookie, 8);
	put_be64(buf + 8, b->off);
	put_be32(buf + 16, b->sectors);
	put_be32(buf + 20, b->version);
	put_be32(buf + 24, b->checksum);
	buf[28] = b->marker;
	buf[29] = b->has_key;
	memcpy(buf + 30, b->nonce, 32);
	memcpy(buf + 62, b->hash, 32);
	memcpy(buf + 94, b->reserved, sizeof(b->reserved));
}

uint32_t vhd_batmap_sum(const uint8_t *map, uint64_t len, uint32_t version)
{
	uint32_t sum = 0;

	if (version != VHD_BATMAP_V1)
		return ~byte_sum(map, len);
	while (len--)
		sum += (uint32_t)(int8_t)*map++;
	return ~sum;
}

/* ------------------------------------------------------------ times and UUIDs */

uint32_t vhd_time_now(void)
{
	return (uint32_t)(time(NULL) - VHD_EPOCH);
}

void vhd_uuid_new(uint8_t uuid[16])
{
	while (getrandom(uuid, 16, 0) != 16)
		;
	uuid[6] = (uuid[6] & 0x0f) | 0x40;	/* RFC 4122, version 4 */
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
}

void vhd_uuid_text(const uint8_t uuid[16], char out[VHD_UUID_TEXT])
{
	static const char hex[] = "0123456789abcdef";
	unsigned i;

	for (i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = hex[uuid[i] >> 4];
		*out++ = hex[uuid[i] & 15];
	}
	*out = 0;
}
