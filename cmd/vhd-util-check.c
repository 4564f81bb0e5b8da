/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-check.c - vhd-util check: is it sound? If not, the first thing that is wrong
 *
 * Nothing is repaired here.  The order of the tests is that in which structures depend on each other:
 * footers, header, batmap, block table, names of the parent.  With -s the counts of
 * vhd-util-stats.c come instead of "is valid".
 */
#include <libgen.h>
#include <sys/stat.h>

#include "pump.h"
#include "vhd-util-check.h"

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'i', NULL, NULL, "the footer at the end may be missing", NULL },
	{ 'I', NULL, NULL, "the parent may have another uuid", NULL },
	{ 't', NULL, NULL, "times may lie in the future", NULL },
	{ 'p', NULL, NULL, "check all parents as well", NULL },
	{ 'b', NULL, NULL, "read the data: sectors that are not here have to be zero", NULL },
	{ 'B', NULL, NULL, "do not look for blocks that overlap", NULL },
	{ 's', NULL, NULL, "count allocated and written sectors", NULL },
	{ 0 }
};

struct check {
	struct cli *c;
	bool no_trailer, any_uuid, any_time, data, no_overlap, stats;
	bool trailer_missing;		/* of the image being checked */
	struct vu_stats counted;
};

static uint32_t clock_of(const struct check *k)
{
	return k->any_time ? 0 : vhd_time_now();
}

static bool future(const struct check *k, uint32_t stamp)
{
	return !k->any_time && stamp > (uint64_t)vhd_time_now() + VU_CLOCK_SLACK;
}

/* ------------------------------------------------------------------- footers */

static const char *footer_bad(const struct check *k, const struct vhd_footer *f)
{
	const char *bad = vhd_footer_bad(f, clock_of(k));

	if (!bad && f->hidden > 1)
		bad = "invalid 'hidden' state";
	return bad;
}

/* Releases 0.1 and 1.1 of Xen's tools set the mark in the copy only. */
static bool old_hidden(const struct vhd_footer *primary, const struct vhd_footer *copy)
{
	struct vhd_footer plain = *copy;

	plain.hidden = 0;
	return copy->hidden && vhd_footer_is_tap(copy) && copy->creator_version <= VHD_TAP_BATMAP &&
	       vhd_footer_equal(primary, &plain);
}

/* *out: the footer to go by */
static int check_footers(struct check *k, const struct vhd_look *l, struct vhd_footer *out)
{
	const char *bad = footer_bad(k, &l->primary);

	k->trailer_missing = bad;
	if (bad && !k->no_trailer) {
		printf("primary footer invalid: %s\n", bad);
		return -EINVAL;
	}
	*out = l->primary;
	if (!bad && l->primary.type == VHD_TYPE_FIXED)
		return 0;
	bad = footer_bad(k, &l->copy);
	if (bad) {
		printf("backup footer invalid: %s\n", bad);
		return -EINVAL;
	}
	*out = l->copy;
	if (k->no_trailer || vhd_footer_equal(&l->primary, &l->copy) ||
	    old_hidden(&l->primary, &l->copy))
		return 0;
	printf("primary and backup footers do not match\n");
	return -EINVAL;
}

/* -------------------------------------------------------------------- header */

static int check_header(const struct vu_file *f, const struct vhd_footer *footer)
{
	uint64_t eof = f->file->size, off = footer->data_off;
	uint8_t *buf = file_buf(VHD_HEADER_SIZE);
	struct vhd_header h;
	const char *bad;
	int ret;

	if (!buf)
		return -ENOMEM;
	ret = checked_range(off, VHD_HEADER_SIZE, eof) ? file_pread(f->file, buf, VHD_HEADER_SIZE, off)
						       : -EIO;
	vhd_header_parse(&h, buf);
	free(buf);
	if (ret) {
		printf("error reading header: %d\n", ret);
		return ret;
	}
	bad = vhd_header_bad(&h, true);
	if (!bad && !checked_range(h.table_off, 4ULL * h.max_bat, eof - VHD_SECTOR + 1))
		bad = "invalid table offset";
	if (!bad)
		return 0;
	printf("header is invalid: %s\n", bad);
	return -EINVAL;
}

static bool all_zero(const void *p, size_t len)
{
	return pump_is_zero(p, len);
}

static int check_differencing(const struct check *k, const struct vhd_look *l)
{
	const struct vhd_header *h = &l->header;
	const char *bad = NULL;

	if (l->footer.type == VHD_TYPE_DIFF) {
		if (future(k, h->parent_time))
			bad = "parent creation time in future";
		else if (!l->parent_name)
			bad = "invalid parent name";
	} else if (!all_zero(h->parent_name, sizeof(h->parent_name))) {
		bad = "invalid non-null parent name";
	} else if (!all_zero(h->loc, sizeof(h->loc))) {
		bad = "invalid non-null parent locators";
	} else if (!vhd_uuid_zero(h->parent_uuid)) {
		bad = "invalid non-null parent uuid";
	} else if (h->parent_time) {
		bad = "invalid non-zero parent timestamp";
	}
	if (!bad)
		return 0;
	printf("differencing header is invalid: %s\n", bad);
	return -EINVAL;
}

/* -------------------------------------------------------------------- batmap */

/* Xen's tools always write one from version 1.2 on. */
static bool wants_batmap(const struct vhd_look *l)
{
	return l->has_batmap || (vhd_footer_is_tap(&l->footer) &&
				 l->footer.creator_version > VHD_TAP_BATMAP);
}

static const char *batmap_bad(const struct vu_file *f, uint8_t **map, uint64_t *len, int *ret)
{
	const struct vhd_look *l = &f->look;
	const struct vhd_batmap_header *b = &l->batmap;

	if (!l->has_batmap)
		return "invalid cookie";
	if (b->version > VHD_BATMAP_VERSION)
		return "unsupported batmap version";
	if (!b->sectors)
		return "invalid size zero";
	if ((uint64_t)b->sectors * VHD_SECTOR * 8 < l->header.max_bat)
		return "batmap-BAT size mismatch";
	if (!b->off || b->off % VHD_SECTOR)
		return "invalid batmap offset";
	if (!checked_range(b->off, (uint64_t)b->sectors * VHD_SECTOR, l->eof - VHD_SECTOR + 1))
		return "invalid batmap size";
	*ret = vu_batmap(f, map, len);
	if (*ret)
		return NULL;
	if (vhd_batmap_sum(*map, MIN(*len, vu_batmap_summed(f)), b->version) != b->checksum)
		return "invalid checksum";
	return NULL;
}

/* *map: malloc'd, if there is one */
static int check_batmap(const struct vu_file *f, uint8_t **map, uint64_t *len)
{
	const char *bad;
	int ret = 0;

	*map = NULL;
	if (!wants_batmap(&f->look))
		return 0;
	bad = batmap_bad(f, map, len, &ret);
	if (bad) {
		printf("batmap is invalid: %s\n", bad);
		return -EINVAL;
	}
	if (ret)
		printf("error reading batmap: %d\n", ret);
	return ret;
}

static int check_batmap_bits(const struct vu_file *f, const uint8_t *map, uint64_t len)
{
	for (uint32_t i = 0; map && i < f->entries && i < len * 8; i++) {
		if (f->bat[i] == VHD_UNUSED && vhd_bit(map, i)) {
			printf("batmap shows unallocated block %u full\n", i);
			return -EINVAL;
		}
	}
	return 0;
}

/* --------------------------------------------------------------- block table */

/* Where blocks may begin. */
static uint64_t headers_end(const struct vhd_look *l)
{
	const struct vhd_header *h = &l->header;
	uint64_t end = MAX(l->footer.data_off + VHD_HEADER_SIZE,
			   round_up(h->table_off + MAX(4ULL * h->max_bat, 1), VHD_SECTOR));

	if (l->has_batmap) {
		end = MAX(end, l->batmap_header_off + VHD_SECTOR);
		end = MAX(end, l->batmap.off + (uint64_t)l->batmap.sectors * VHD_SECTOR);
	}
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		uint64_t space = vhd_locator_space(&h->loc[i]);

		if (h->loc[i].code && checked_range(h->loc[i].off, space, l->eof))
			end = MAX(end, h->loc[i].off + space);
	}
	return end;
}

/* The first block that runs into the headers or the footer: its number, else UINT32_MAX. */
static uint32_t find_outside(const struct check *k, const struct vu_file *f, const char **what)
{
	const struct vhd_look *l = &f->look;
	uint64_t len = (l->header.block_size + vhd_bitmap_len(l->header.block_size)) / VHD_SECTOR;
	uint64_t first = headers_end(l) / VHD_SECTOR;
	uint64_t end = round_up(l->eof, VHD_SECTOR) / VHD_SECTOR - 1;

	if (k->trailer_missing)
		end++;			/* the last block may be where the footer was */
	for (uint32_t i = 0; i < f->entries; i++) {
		if (f->bat[i] == VHD_UNUSED)
			continue;
		*what = f->bat[i] < first ? "headers" : "footer";
		if (f->bat[i] < first || f->bat[i] + len > end)
			return i;
	}
	return UINT32_MAX;
}

static int check_places(const struct check *k, const struct vu_file *f)
{
	uint32_t bytes = f->look.header.block_size + vhd_bitmap_len(f->look.header.block_size);
	uint32_t block = UINT32_MAX, other = 0, outside;
	const char *what = NULL;
	int ret = 0;

	outside = find_outside(k, f, &what);
	if (!k->no_overlap)
		ret = vhd_overlap(f->bat, f->entries, bytes / VHD_SECTOR, &block, &other);
	if (ret < 0)
		return ret;
	if (outside != UINT32_MAX && (!ret || outside <= block)) {
		printf("block %u (offset 0x%x) clobbers %s\n", outside, f->bat[outside], what);
		return -EINVAL;
	}
	if (!ret)
		return 0;
	printf("block %u (offset 0x%x) clobbers block %u (offset 0x%x)\n", block, f->bat[block], other,
	       f->bat[other]);
	return -EINVAL;
}

static int check_table(const struct check *k, struct vu_file *f)
{
	const struct vhd_look *l = &f->look;
	uint64_t blocks = div_up(l->footer.cur_size, l->header.block_size);
	int ret;

	if (l->eof % VHD_SECTOR && l->eof % VHD_SECTOR != VHD_SECTOR - 1) {
		printf("invalid file size: 0x%llx\n", (unsigned long long)l->eof);
		return -EINVAL;
	}
	if (blocks > l->header.max_bat) {
		printf("VHD size (%llu blocks) exceeds BAT size (%u)\n", (unsigned long long)blocks,
		       l->header.max_bat);
		return -EINVAL;
	}
	ret = vu_bat(k->c, f);
	if (ret) {
		printf("error reading bat: %d\n", ret);
		return ret;
	}
	return check_places(k, f);
}

/* ---------------------------------------------------------------------- data */

static int check_block(const struct vu_file *f, uint32_t block, uint8_t *buf)
{
	uint32_t size = f->look.header.block_size, map = vhd_bitmap_len(size);
	int ret = file_pread(f->file, buf, (uint64_t)map + size, (uint64_t)f->bat[block] * VHD_SECTOR);

	if (ret) {
		printf("error reading data block 0x%x\n", block);
		return ret;
	}
	for (uint32_t i = 0; i < size / VHD_SECTOR; i++) {
		if (vhd_bit(buf, i) || all_zero(buf + map + i * VHD_SECTOR, VHD_SECTOR))
			continue;
		printf("sector 0x%x of block 0x%x has data where bitmap is clear\n", i, block);
		ret = -EINVAL;
	}
	return ret;
}

static int check_data(const struct vu_file *f)
{
	uint32_t size = f->look.header.block_size;
	uint8_t *buf = file_buf((uint64_t)size + vhd_bitmap_len(size));
	int ret = buf ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < f->entries && !ret; i++) {
		if (f->bat[i] != VHD_UNUSED)
			ret = check_block(f, i, buf);
	}
	free(buf);
	return ret;
}

/* ----------------------------------------------------------- names of the parent */

static const char *locator_bad(const struct vhd_look *l, const struct vhd_locator *loc)
{
	if (!vhd_locator_code_name(loc->code))
		return "invalid platform code";
	if (!loc->code)
		return loc->space || loc->len || loc->reserved || loc->off ? "non-zero locator" : NULL;
	if (!loc->off)
		return "invalid data offset";
	if (!loc->space)
		return "invalid data space";
	if (!loc->len)
		return "invalid data length";
	if (!checked_range(loc->off, vhd_locator_space(loc), l->eof - VHD_SECTOR + 1))
		return "invalid size";
	return loc->reserved ? "invalid reserved bits" : NULL;
}

static const char *parent_bad(struct check *k, const struct vu_file *f, const char *path)
{
	const char *bad = NULL;
	struct vu_file parent;

	if (vu_parent_raw(f) || k->any_uuid)
		return NULL;
	if (vu_look(k->c, path, VHD_LOOK_POISON, &parent))
		bad = "error opening parent";
	else if (memcmp(parent.look.footer.uuid, f->look.header.parent_uuid, 16))
		bad = "invalid parent uuid";
	vu_close(&parent);
	return bad;
}

/* One of the codes that hold a name we understand. */
static int check_name(struct check *k, const struct vu_file *f, unsigned i)
{
	const char *name = f->look.loc_name[i], *header = f->look.parent_name, *base, *bad;
	char *own, *full, *path = NULL;

	if (!name) {
		printf("error reading parent locator %u: %d\n", i, -EINVAL);
		return -EINVAL;
	}
	base = strrchr(name, '/');
	base = base ? base + 1 : name;
	if (strcmp(base, header) != 0) {
		printf("parent locator %u name (%s) does not match header name (%s)\n", i, base,
		       header);
		return -EINVAL;
	}
	own = vu_base(f->name);
	full = own ? name_resolve(own, name) : NULL;
	free(own);
	path = full ? vhd_device_path(full) : NULL;
	free(full);
	if (!path) {
		printf("error resolving %s: %d\n", name, -ENOENT);
		return -ENOENT;
	}
	bad = parent_bad(k, f, path);
	if (bad)
		printf("invalid parent %s: %s\n", path, bad);
	free(path);
	return bad ? -EINVAL : 0;
}

static bool seen_before(const struct vhd_look *l, unsigned i)
{
	for (unsigned j = 0; j < i; j++) {
		if (l->header.loc[j].code == l->header.loc[i].code)
			return true;
	}
	return false;
}

static int check_locator(struct check *k, const struct vu_file *f, unsigned i, unsigned *found)
{
	const struct vhd_locator *loc = &f->look.header.loc[i];
	const char *bad = locator_bad(&f->look, loc);
	int ret;

	if (bad) {
		printf("invalid parent locator %u: %s\n", i, bad);
		return -EINVAL;
	}
	if (!loc->code)
		return 0;
	if (seen_before(&f->look, i)) {
		printf("duplicate platform code in locator %u: 0x%x\n", i, loc->code);
		return -EINVAL;
	}
	if (loc->code != VHD_LOC_MACX && loc->code != VHD_LOC_W2RU && loc->code != VHD_LOC_W2KU)
		return 0;
	ret = check_name(k, f, i);
	*found += !ret;
	return ret;
}

static int check_locators(struct check *k, const struct vu_file *f)
{
	unsigned found = 0;
	int ret = 0;

	if (f->look.footer.type != VHD_TYPE_DIFF)
		return 0;
	for (unsigned i = 0; i < VHD_LOCATORS && !ret; i++)
		ret = check_locator(k, f, i, &found);
	if (!ret && !found) {
		printf("could not find parent %s\n", f->look.parent_name);
		ret = -EINVAL;
	}
	return ret;
}

/* ------------------------------------------------------------------ one image */

static int check_sparse(struct check *k, struct vu_file *f)
{
	uint8_t *map = NULL;
	uint64_t len = 0;
	int ret = check_differencing(k, &f->look);

	if (!ret)
		ret = check_batmap(f, &map, &len);
	if (!ret)
		ret = check_table(k, f);
	if (!ret)
		ret = check_batmap_bits(f, map, len);
	if (!ret && k->data)
		ret = check_data(f);
	if (!ret)
		ret = check_locators(k, f);
	free(map);
	return ret;
}

static int check_file(struct check *k, struct vu_file *f, int looked)
{
	struct vhd_footer footer;
	int ret;

	if (f->file->size < VHD_SECTOR) {
		printf("error reading primary footer: %d\n", -EIO);
		return -EIO;
	}
	ret = check_footers(k, &f->look, &footer);
	if (ret || footer.type == VHD_TYPE_FIXED)
		return ret;
	ret = check_header(f, &footer);
	if (!ret && looked) {
		printf("error opening %s: %d\n", f->name, looked);
		ret = looked;
	}
	return ret ? ret : check_sparse(k, f);
}

static int is_file(const char *name)
{
	struct stat st;

	if (stat(name, &st)) {
		printf("cannot stat %s: %d\n", name, errno);
		return -errno;
	}
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return 0;
	printf("%s is not a regular file or block device\n", name);
	return -EINVAL;
}

static int check_one(struct check *k, const char *name)
{
	unsigned flags = VHD_LOOK_POISON | (k->no_trailer ? VHD_LOOK_BACKUP : 0);
	struct vu_file f = { 0 };
	int ret = is_file(name), looked;

	if (ret)
		return ret;
	looked = vu_look(k->c, name, flags, &f);
	if (!f.file) {
		printf("error opening %s\n", name);
		vu_close(&f);
		return looked;
	}
	ret = check_file(k, &f, looked);
	if (!ret && k->stats)
		ret = vu_stats_add(&k->counted, name);
	if (!ret && !k->stats)
		printf("%s is valid\n", name);
	vu_close(&f);
	if (ret) {
		printf("%s appears invalid; dumping metadata\n", name);
		vu_read_headers(k->c, name);
	}
	return ret;
}

static int check_parents(struct check *k, const char *name)
{
	char *at = strdup(name), *below;
	struct vu_file f = { 0 };
	int ret = at ? 0 : -ENOMEM;

	while (!ret) {
		ret = vu_look(k->c, at, VHD_LOOK_POISON, &f);
		if (ret || f.look.footer.type != VHD_TYPE_DIFF || vu_parent_raw(&f))
			break;
		ret = vu_parent(k->c, &f, &below);
		if (ret) {
			printf("error getting parent: %d\n", ret);
			break;
		}
		vu_close(&f);
		free(at);
		at = below;
		ret = check_one(k, at);
	}
	vu_close(&f);
	free(at);
	if (ret)
		printf("error checking parents: %d\n", ret);
	return ret;
}

static int run(struct cli *c)
{
	struct check k = { .c = c };
	const char *name = NULL;
	bool parents = false;
	int val, ret;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		k.no_trailer |= val == 'i';
		k.any_uuid |= val == 'I';
		k.any_time |= val == 't';
		parents |= val == 'p';
		k.data |= val == 'b';
		k.no_overlap |= val == 'B';
		k.stats |= val == 's';
	}
	if (val < 0)
		return c->status;
	if (!name || ((k.stats || k.data) && k.no_overlap))
		return util_usage(c, EINVAL);
	if (!cli_loop(c))
		return ENOMEM;
	ret = check_one(&k, name);
	if (!ret && parents)
		ret = check_parents(&k, name);
	if (!ret && k.stats)
		ret = vu_stats_print(c, &k.counted);
	vu_stats_free(&k.counted);
	return util_status(ret);
}

const struct command command_vhd_check = {
	.name = "check", .run = run, .flags = UTIL_HELP_OK,
	.usage = "-n NAME [-i] [-I] [-t] [-p] [-b | -B] [-s] [-h]",
	.summary = "say whether a disk is sound, and what is wrong if not", .options = options,
};
