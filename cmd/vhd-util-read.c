/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-read.c - vhd-util read: headers, tables, bitmaps and data, as text or as they are
 *
 * What was asked for comes in a fixed order.  The first item that fails ends it.  Bytes that are
 * printed raw go to stdout in their place among the text.
 */
#include <inttypes.h>

#include "vhd-util.h"

#define CHUNK (2 * MiB)
#define NUM(r, n) vu_number((r)->hex, n, (char[24]){ 0 })

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'p', NULL, NULL, "the headers", NULL },
	{ 't', NULL, "SECTOR", "where in the file a sector of the disk is", NULL },
	{ 'b', NULL, "BLOCK", "entry of the block table", NULL },
	{ 'B', NULL, NULL, "the block table as a bitmap, raw", NULL },
	{ 'm', NULL, "BLOCK", "bitmap of a block, raw", NULL },
	{ 'i', NULL, "SECTOR", "whether a sector is here", NULL },
	{ 'e', NULL, "SECTOR", "runs of sectors that are here", NULL },
	{ 'a', NULL, NULL, "the batmap, raw", NULL },
	{ 'j', NULL, "BLOCK", "whether the batmap says that a block is full", NULL },
	{ 'd', NULL, "BLOCK", "data of a block, raw", NULL },
	{ 'c', NULL, "COUNT", "so many units instead of one", NULL },
	{ 'r', NULL, "SECTOR", "sectors of the disk, through the chain", NULL },
	{ 'R', NULL, "BYTE", "bytes of the disk, through the chain", NULL },
	{ 'x', NULL, NULL, "numbers in hex", NULL },
	{ 'C', NULL, NULL, "read through the page cache", NULL },
	{ 0 }
};

struct item {
	bool wanted;
	uint64_t at;
};

struct reading {
	struct cli *c;
	struct vu_file f;
	const char *name;
	bool hex, headers, table;
	bool batmap;
	uint64_t count;
	struct item sector, entry, bitmap, bit, runs, map_bit, data, sectors, bytes;
	/* the bitmap read last */
	uint8_t *bits;
	uint32_t bits_of;
};

static uint32_t block_size(const struct reading *r)
{
	return r->f.look.header.block_size;
}

static uint64_t block_sectors(const struct reading *r)
{
	return block_size(r) / VHD_SECTOR;
}

static uint32_t entry(const struct reading *r, uint64_t block)
{
	return block < r->f.entries ? r->f.bat[block] : VHD_UNUSED;
}

static bool sectors_inside(const struct reading *r, uint64_t sector)
{
	return checked_range(sector, r->count, r->f.look.footer.cur_size / VHD_SECTOR);
}

static int blocks_inside(const struct reading *r, uint64_t block)
{
	if (checked_range(block, r->count, r->f.look.header.max_bat))
		return 0;
	fflush(stdout);
	fprintf(stderr, "block %s past end of file\n", NUM(r, block + r->count));
	return -ERANGE;
}

static int put(const void *p, uint64_t len)
{
	return fwrite(p, 1, len, stdout) == len ? 0 : -EIO;
}

/* ------------------------------------------------------------ tables as text */

static int print_places(struct reading *r)
{
	uint32_t bitmap = vhd_bitmap_len(block_size(r));

	if (!sectors_inside(r, r->sector.at)) {
		fflush(stdout);
		fprintf(stderr, "sector %s past end of file\n", NUM(r, r->sector.at + r->count));
		return -ERANGE;
	}
	for (uint64_t s = r->sector.at; s < r->sector.at + r->count; s++) {
		uint64_t block = s / block_sectors(r), in = s % block_sectors(r);
		uint32_t e = entry(r, block);

		printf("logical sector %s: block number: %s, sector offset: %s, file offset: %s\n",
		       NUM(r, s), NUM(r, block), NUM(r, in), e == VHD_UNUSED ? "not allocated" :
		       NUM(r, ((uint64_t)e + in) * VHD_SECTOR + bitmap));
	}
	return 0;
}

static int print_entries(struct reading *r)
{
	int ret = blocks_inside(r, r->entry.at);

	for (uint64_t i = 0; !ret && i < r->count && i < r->f.entries; i++) {
		uint32_t e = entry(r, r->entry.at + i);

		printf("block: %s: offset: %s\n", NUM(r, r->entry.at + i), e == VHD_UNUSED ?
		       "not allocated" : NUM(r, (uint64_t)e * VHD_SECTOR));
	}
	return ret;
}

static int print_table(struct reading *r)
{
	uint64_t blocks = r->f.look.footer.cur_size / block_size(r), len = div_up(blocks, 8);
	uint8_t *map = calloc(1, len + 1);
	int ret;

	if (!map)
		return -ENOMEM;
	for (uint64_t i = 0; i < blocks; i++)
		vhd_bit_set(map, i, entry(r, i) != VHD_UNUSED);
	ret = put(map, len);
	free(map);
	return ret;
}

/* ------------------------------------------------------------------- bitmaps */

/* The bitmap of a block that has a place. */
static int read_bits(struct reading *r, uint32_t block)
{
	uint32_t len = vhd_bitmap_len(block_size(r));
	uint64_t off = (uint64_t)entry(r, block) * VHD_SECTOR;

	if (r->bits && r->bits_of == block)
		return 0;
	if (!r->bits)
		r->bits = file_buf(len);
	if (!r->bits)
		return -ENOMEM;
	r->bits_of = block;
	if (!checked_range(off, len, r->f.look.eof))
		return -EIO;
	return file_pread(r->f.file, r->bits, len, off);
}

static int print_bitmaps(struct reading *r)
{
	int ret = blocks_inside(r, r->bitmap.at);

	for (uint64_t b = r->bitmap.at; !ret && b < r->bitmap.at + r->count; b++) {
		if (entry(r, b) == VHD_UNUSED) {
			printf("block %s not allocated\n", NUM(r, b));
			continue;
		}
		ret = read_bits(r, b);
		if (!ret)
			ret = put(r->bits, vhd_bitmap_len(block_size(r)));
	}
	return ret;
}

/* Whether a sector is in this image: 0 or 1, or a negative errno. */
static int sector_here(struct reading *r, uint64_t sector)
{
	uint64_t block = sector / block_sectors(r);
	int ret;

	if (entry(r, block) == VHD_UNUSED)
		return 0;
	ret = read_bits(r, block);
	return ret ? ret : vhd_bit(r->bits, sector % block_sectors(r));
}

static int past_end(const struct reading *r, uint64_t sector)
{
	printf("sector %s past end of file\n", NUM(r, sector));
	return -ERANGE;
}

static int print_bits(struct reading *r)
{
	int here = 0;

	if (!sectors_inside(r, r->bit.at))
		return past_end(r, r->bit.at);
	for (uint64_t s = r->bit.at; s < r->bit.at + r->count; s++) {
		here = sector_here(r, s);
		if (here < 0)
			return here;
		printf("block %s: sec: %s: %d\n", NUM(r, s / block_sectors(r)),
		       NUM(r, s % block_sectors(r)), here);
	}
	return 0;
}

static int print_runs(struct reading *r)
{
	uint64_t end = r->runs.at + r->count, begin = 0, n = 0;

	if (!sectors_inside(r, r->runs.at))
		return past_end(r, r->runs.at);
	for (uint64_t s = r->runs.at; s <= end; s++) {
		int here = s < end ? sector_here(r, s) : 0;

		if (here < 0)
			return here;
		if (here && !n++)
			begin = s;
		if (!here && n) {
			printf("%s %s\n", NUM(r, begin), NUM(r, n));
			n = 0;
		}
	}
	return 0;
}

/* -------------------------------------------------------------------- batmap */

static int print_batmap(struct reading *r)
{
	uint64_t len;
	uint8_t *map;
	int ret = vu_batmap(&r->f, &map, &len);

	if (ret)
		printf("failed to read batmap: %d\n", ret);
	else
		ret = put(map, len);
	free(map);
	return ret;
}

static int print_batmap_bits(struct reading *r)
{
	uint8_t *map = NULL;
	uint64_t len = 0;
	int ret = blocks_inside(r, r->map_bit.at);

	if (ret)
		return ret;
	ret = vu_batmap(&r->f, &map, &len);
	fflush(stdout);
	if (ret)
		fprintf(stderr, "failed to get batmap\n");
	for (uint64_t b = r->map_bit.at; !ret && b < r->map_bit.at + r->count; b++)
		fprintf(stderr, "batmap for block %s: %d\n", NUM(r, b),
			b < len * 8 && vhd_bit(map, b));
	free(map);
	return ret;
}

/* ---------------------------------------------------------------------- data */

static int print_blocks(struct reading *r)
{
	uint32_t len = block_size(r);
	uint8_t *buf = file_buf(len);
	int ret = buf ? blocks_inside(r, r->data.at) : -ENOMEM;

	for (uint64_t b = r->data.at; !ret && b < r->data.at + r->count; b++) {
		uint64_t off = (uint64_t)entry(r, b) * VHD_SECTOR + vhd_bitmap_len(len);

		if (entry(r, b) == VHD_UNUSED) {
			printf("block %s not allocated\n", NUM(r, b));
			continue;
		}
		ret = checked_range(off, len, r->f.look.eof) ? file_pread(r->f.file, buf, len, off)
							     : -EIO;
		if (!ret)
			ret = put(buf, len);
	}
	free(buf);
	return ret;
}

/* Through the chain, as the guest reads it. */
static int print_disk(struct reading *r, uint64_t at, uint64_t len)
{
	struct tapimg *img;
	uint8_t *buf;
	int ret;

	if (!checked_range(at, len, r->f.look.footer.cur_size))
		return -ERANGE;
	ret = vu_open(r->c, r->name, VU_CHAIN, &img);
	if (ret)
		return ret;
	buf = file_buf(CHUNK);
	ret = buf ? 0 : -ENOMEM;
	while (!ret && len) {
		uint64_t n = MIN(len, CHUNK);

		ret = tapimg_pread(img, buf, n, at);
		if (!ret)
			ret = put(buf, n);
		at += n;
		len -= n;
	}
	free(buf);
	return vu_close_image(r->c, img, ret);
}

static int print_sectors(struct reading *r, const struct item *i, uint64_t unit)
{
	uint64_t at, len;

	if (!checked_mul(i->at, unit, &at) || !checked_mul(r->count, unit, &len))
		return -ERANGE;
	return print_disk(r, at, len);
}

/* ------------------------------------------------------------------- command */

static int read_tables(struct reading *r)
{
	int ret = 0;

	if (r->sector.wanted)
		ret = print_places(r);
	if (!ret && r->entry.wanted)
		ret = print_entries(r);
	if (!ret && r->table)
		ret = print_table(r);
	if (!ret && r->bitmap.wanted)
		ret = print_bitmaps(r);
	if (!ret && r->bit.wanted)
		ret = print_bits(r);
	if (!ret && r->runs.wanted)
		ret = print_runs(r);
	if (!ret && r->batmap)
		ret = print_batmap(r);
	if (!ret && r->map_bit.wanted)
		ret = print_batmap_bits(r);
	if (!ret && r->data.wanted)
		ret = print_blocks(r);
	return ret;
}

static bool wants_tables(const struct reading *r)
{
	return r->sector.wanted || r->entry.wanted || r->table || r->bitmap.wanted ||
	       r->bit.wanted || r->runs.wanted || r->batmap || r->map_bit.wanted || r->data.wanted;
}

/* Fixed disks have headers and data, but no tables. */
static int read_all(struct reading *r)
{
	int ret = 0;

	if (vu_sparse(&r->f) || wants_tables(r)) {
		ret = vu_bat(r->c, &r->f);
		if (ret) {
			printf("Failed to get bat for %s: %d\n", r->name, ret);
			return ret;
		}
	}
	if (r->headers)
		vu_dump(&r->f, r->hex);
	ret = wants_tables(r) ? read_tables(r) : 0;
	if (!ret && r->sectors.wanted)
		ret = print_sectors(r, &r->sectors, VHD_SECTOR);
	if (!ret && r->bytes.wanted)
		ret = print_sectors(r, &r->bytes, 1);
	return ret;
}

static struct item *item_of(struct reading *r, int val)
{
	switch (val) {
	case 't':
		return &r->sector;
	case 'b':
		return &r->entry;
	case 'm':
		return &r->bitmap;
	case 'i':
		return &r->bit;
	case 'e':
		return &r->runs;
	case 'j':
		return &r->map_bit;
	case 'd':
		return &r->data;
	case 'r':
		return &r->sectors;
	default:
		return &r->bytes;
	}
}

static int parse(struct cli *c, struct reading *r)
{
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n') {
			r->name = optarg;
		} else if (val == 'c') {
			r->count = strtoull(optarg, NULL, 10);
		} else if (strchr("tbmiejdrR", val)) {
			*item_of(r, val) = (struct item){ true, strtoull(optarg, NULL, 10) };
		}
		r->hex |= val == 'x';
		r->headers |= val == 'p';
		r->table |= val == 'B';
		r->batmap |= val == 'a';
	}
	return val;
}

static int read_file(struct reading *r)
{
	int ret = vu_look(r->c, r->name, VHD_LOOK_POISON, &r->f);

	if (ret) {
		printf("Failed to open %s: %d\n", r->name, ret);
		vu_dump_broken(r->c, r->name, r->hex);
	} else {
		ret = read_all(r);
	}
	vu_close(&r->f);
	free(r->bits);
	return ret;
}

int vu_read_headers(struct cli *c, const char *name)
{
	struct reading r = { .c = c, .name = name, .count = 1, .headers = true };

	return read_file(&r);
}

static int run(struct cli *c)
{
	struct reading r = { .c = c, .count = 1 };

	if (parse(c, &r))
		return c->status;
	if (!r.name)
		return util_usage(c, EINVAL);
	return util_status(read_file(&r));
}

const struct command command_vhd_read = {
	.name = "read", .run = run,
	.usage = "-n NAME [-p] [-t SECTOR] [-b BLOCK] [-B] [-m BLOCK] [-i SECTOR] [-e SECTOR] [-a] "
		 "[-j BLOCK] [-d BLOCK] [-r SECTOR] [-R BYTE] [-c COUNT] [-x] [-C] [-h]",
	.summary = "print what is inside a disk", .options = options,
};
