/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd.h - the VHD driver's parts as they see each other, and what vhd-util uses of them
 *
 * vhd-layout.c parses and builds what is on the disk, vhd-locator.c names of parents, vhd-look.c finds
 * the structures of a file, vhd.c opens and describes, vhd-map.c looks up, vhd-write.c allocates and
 * publishes, vhd-batmap.c keeps the batmap, vhd-create.c makes images.  vhd-admin.c, vhd-resize.c,
 * vhd-journal.c and vhd-check.c are administrative.
 *
 * Sources of the facts: Microsoft's Virtual Hard Disk Image Format Specification (2006); what Xen
 * added (creator "tap": batmap, hidden, marker, key hash, journal) is known from files of its tools.
 * All integers are big-endian.  A sector is 512 bytes.
 */
#ifndef VHD_H
#define VHD_H

#include "checked.h"
#include "endian.h"
#include "image.h"

/* --------------------------------------------------------------- on the disk */

#define VHD_SECTOR		512
#define VHD_EPOCH		946684800	/* timestamps count from 2000-01-01 00:00 UTC */

#define VHD_COOKIE		"conectix"
#define VHD_COOKIE_POISON	"v_poison"	/* an operation with a journal was broken off */
#define VHD_FEATURE_TEMP	1U
#define VHD_FEATURE_RESERVED	2U
#define VHD_VERSION		0x00010000U
#define VHD_TYPE_NONE		0U
#define VHD_TYPE_FIXED		2U
#define VHD_TYPE_DYNAMIC	3U
#define VHD_TYPE_DIFF		4U
#define VHD_NO_OFFSET		UINT64_MAX

#define VHD_CREATOR_TAP		"tap"		/* with its NUL four bytes */
#define VHD_TAP_VERSION		0x00010003U	/* what is written */
#define VHD_TAP_BATMAP		0x00010001U	/* from here on there may be a batmap */
#define VHD_TAP_OLD		0x00000001U	/* little-endian bitmaps: refused */

#define VHD_HEADER_COOKIE	"cxsparse"
#define VHD_HEADER_SIZE		1024
#define VHD_HEADER_VERSION	0x00010000U
#define VHD_NAME_UNITS		256		/* UTF-16 units of the parent's name */
#define VHD_LOCATORS		8
#define VHD_UNUSED		0xffffffffU	/* BAT: no such block */

#define VHD_LOC_NONE		0U
#define VHD_LOC_MACX		0x4d616358U	/* UTF-8 URL */
#define VHD_LOC_MAC		0x4d616320U	/* Mac alias, opaque */
#define VHD_LOC_W2KU		0x57326b75U	/* UTF-16LE, absolute (or as Xen writes it, relative) */
#define VHD_LOC_W2RU		0x57327275U	/* UTF-16LE, relative */
#define VHD_LOC_WI2K		0x5769326bU	/* deprecated */
#define VHD_LOC_WI2R		0x57693272U	/* deprecated */

#define VHD_BATMAP_COOKIE	"tdbatmap"
#define VHD_BATMAP_VERSION	0x00010002U
#define VHD_BATMAP_V1		0x00010001U	/* summed signed characters */

#define VHD_BLOCK_SIZE		(2 * MiB)	/* of new images */
#define VHD_BLOCK_MIN		4096U
#define VHD_BLOCK_MAX		(64 * MiB)
#define VHD_MAX_SIZE		(2040 * GiB)	/* of new images, as all products have it */
#define VHD_CHS_MAX		(65535ULL * 16 * 255)	/* sectors that the geometry can express */
#define VHD_ALIGN		4096		/* where data of new blocks begin */

/* The ranks of meta.h: a bit says that data are there, a BAT entry that a bitmap is. */
enum { VHD_RANK_BITMAP = 1, VHD_RANK_BAT = 2 };

/* ----------------------------------------------------------- host structures */

struct vhd_geometry {
	uint16_t cyls;
	uint8_t heads, spt;
};

struct vhd_footer {
	char cookie[8];
	uint32_t features, version;
	uint64_t data_off;		/* of the header; VHD_NO_OFFSET: fixed */
	uint32_t timestamp;		/* seconds since VHD_EPOCH */
	char creator[4];
	uint32_t creator_version;
	char creator_os[4];
	uint64_t orig_size, cur_size;	/* bytes */
	struct vhd_geometry geo;
	uint32_t type, checksum;
	uint8_t uuid[16];
	uint8_t saved, hidden;
	uint8_t reserved[426];
};

struct vhd_locator {
	uint32_t code;			/* VHD_LOC_* */
	uint32_t space, len;		/* space as stored: bytes, or sectors if below 512; len in bytes */
	uint32_t reserved;
	uint64_t off;
};

struct vhd_header {
	char cookie[8];
	uint64_t data_off;		/* unused */
	uint64_t table_off;
	uint32_t version, max_bat, block_size, checksum;
	uint8_t parent_uuid[16];	/* zero: the parent is a raw image */
	uint32_t parent_time;
	uint32_t reserved1;
	uint8_t parent_name[VHD_NAME_UNITS * 2];	/* UTF-16BE */
	struct vhd_locator loc[VHD_LOCATORS];
	uint8_t reserved[256];
};

struct vhd_batmap_header {
	char cookie[8];
	uint64_t off;			/* of the batmap */
	uint32_t sectors, version, checksum;
	uint8_t marker, has_key;
	uint8_t nonce[32], hash[32];
	uint8_t reserved[418];
};

/* vhd-layout.c: pure.  Parsing judges nothing; what is written gives back what was read. */
void vhd_footer_parse(struct vhd_footer *f, const uint8_t buf[VHD_SECTOR]);
/* sets f->checksum as well */
void vhd_footer_build(struct vhd_footer *f, uint8_t buf[VHD_SECTOR]);
uint32_t vhd_footer_sum(const struct vhd_footer *f);
void vhd_header_parse(struct vhd_header *h, const uint8_t buf[VHD_HEADER_SIZE]);
void vhd_header_build(struct vhd_header *h, uint8_t buf[VHD_HEADER_SIZE]);
uint32_t vhd_header_sum(const struct vhd_header *h);
void vhd_batmap_parse(struct vhd_batmap_header *b, const uint8_t buf[VHD_SECTOR]);
void vhd_batmap_build(const struct vhd_batmap_header *b, uint8_t buf[VHD_SECTOR]);
/* over the map's first @len bytes, as @version sums */
uint32_t vhd_batmap_sum(const uint8_t *map, uint64_t len, uint32_t version);

/*
 * NULL, or what is wrong, in the words that vhd-util has for it ("invalid checksum").  @now: seconds
 * since VHD_EPOCH, for times in the future; 0: any time will do.
 */
const char *vhd_footer_bad(const struct vhd_footer *f, uint32_t now);
const char *vhd_header_bad(const struct vhd_header *h, bool strict);	/* lax: only what bars reading */
/* Cookie and checksum alone: enough to take it for one. */
bool vhd_footer_plausible(const struct vhd_footer *f);
/* The same disk, whatever was rounded or stamped differently in the two copies. */
bool vhd_footer_equal(const struct vhd_footer *a, const struct vhd_footer *b);

static inline bool vhd_footer_is_tap(const struct vhd_footer *f)
{
	return !memcmp(f->creator, VHD_CREATOR_TAP, 4);
}

static inline bool vhd_type_sparse(uint32_t type)
{
	return type == VHD_TYPE_DYNAMIC || type == VHD_TYPE_DIFF;
}

/* The geometry that the specification computes for a disk of @sectors. */
struct vhd_geometry vhd_geometry(uint64_t sectors);
static inline uint64_t vhd_geometry_sectors(const struct vhd_geometry *g)
{
	return (uint64_t)g->cyls * g->heads * g->spt;
}
/* The smallest size of at least @size bytes that a geometry expresses exactly; beyond all: @size */
uint64_t vhd_geometry_size(uint64_t size);
/*
 * The disk's size in bytes: products that go by the geometry ("vpc ", "qemu") get it from there unless
 * it is at its maximum; all others from the current size.
 */
uint64_t vhd_footer_size(const struct vhd_footer *f);

/* Bytes of a block's bitmap on the disk: whole sectors. */
static inline uint32_t vhd_bitmap_len(uint32_t block_size)
{
	return MAX(block_size / VHD_SECTOR / 8 / VHD_SECTOR, 1U) * VHD_SECTOR;
}

uint32_t vhd_time_now(void);			/* seconds since VHD_EPOCH */
void vhd_uuid_new(uint8_t uuid[16]);
static inline bool vhd_uuid_zero(const uint8_t uuid[16])
{
	static const uint8_t zero[16];

	return !memcmp(uuid, zero, 16);
}
#define VHD_UUID_TEXT 37
void vhd_uuid_text(const uint8_t uuid[16], char out[VHD_UUID_TEXT]);

/* --------------------------------------------------- names (vhd-locator.c), pure */

/* UTF-16 of either byte order from and to UTF-8; malloc'd.  NULL: not valid, or no memory. */
char *vhd_utf16_decode(const uint8_t *p, size_t bytes, bool big);
uint8_t *vhd_utf16_encode(const char *text, bool big, size_t *bytes);
/*
 * The path that a locator's bytes stand for, with slashes ("./a.vhd", "/x/a.vhd", "C:/x/a.vhd"), malloc'd.
 * NULL: the code is unknown or the bytes are no name.
 */
char *vhd_locator_decode(uint32_t code, const uint8_t *p, size_t len);
/* The bytes for a path that is relative or absolute; malloc'd, NULL: no memory or not UTF-8. */
uint8_t *vhd_locator_encode(uint32_t code, const char *path, size_t *len);
/* Space of a locator in bytes, whichever unit its writer meant; 0: unused. */
uint64_t vhd_locator_space(const struct vhd_locator *l);
/* "MACX" and so on as vhd-util prints them; NULL: unknown */
const char *vhd_locator_code_name(uint32_t code);
/* @path relative to the folder of @from ("./a.vhd", "../x/a.vhd"); absolute where that fails. malloc'd. */
char *vhd_relative_path(const char *from, const char *path);
/* The path as locators have it, absolute or with "./" or "../" in front; malloc'd, NULL: no memory. */
char *vhd_stored_path(const char *path);

/*
 * vhd-device.c: the one path that a file or volume goes by in chains: /dev/mapper's for logical volumes,
 * else without links.  malloc'd; NULL with errno: there is no such file.
 */
char *vhd_device_path(const char *path);

/* ------------------------------------- finding the structures (vhd-look.c) */

enum {
	VHD_LOOK_BACKUP	= 1 << 0,	/* take the copy at 0, though the trailer may be sound */
	VHD_LOOK_PRIMARY = 1 << 1,	/* take the trailer, whatever the copy says */
	VHD_LOOK_HEAD	= 1 << 2,	/* read nothing beyond the first 1536 bytes and the batmap header */
	VHD_LOOK_POISON	= 1 << 3,	/* a disabled file will do */
};

/*
 * What a file holds, each part as it was read: for tools that describe or mend.  Opening is built
 * on it.  Nothing to be freed but by vhd_look_free().
 */
struct vhd_look {
	struct file *file;		/* the caller's */
	uint64_t eof;			/* where the file ends, or the device */
	struct vhd_footer footer;	/* the one that was chosen */
	struct vhd_footer copy, primary;	/* both as found */
	bool has_copy, has_primary;	/* plausible: cookie and checksum */
	uint64_t primary_off;		/* where the trailer is, or should be: eof - 512 (or - 511) */
	struct vhd_header header;	/* of sparse types */
	bool has_header;
	struct vhd_batmap_header batmap;
	bool has_batmap;		/* its header is there and names a place */
	uint64_t batmap_header_off;
	char *loc_name[VHD_LOCATORS];	/* decoded paths; NULL: none */
	char *parent_name;		/* of the header, UTF-8; NULL */
};

/*
 * 0; -EINVAL not a VHD; -EUCLEAN a damaged one; -errno of reading.  @out holds what was found in each
 * case, and is to be freed in each.
 */
int vhd_look(struct file *file, unsigned flags, struct vhd_look *out, struct tapimg_err *err);
void vhd_look_free(struct vhd_look *l);
/* The end of what is not a block. */
uint64_t vhd_look_tables_end(const struct vhd_look *l);
/* Whether the copy of the footer, header or table has bytes there. */
bool vhd_look_heads(const struct vhd_look *l, uint64_t off, uint64_t len);
/* Whether header, table, batmap or a name of the parent has bytes there. */
bool vhd_look_overlaps(const struct vhd_look *l, uint64_t off, uint64_t len);
/* The same for the batmap and its header alone. */
bool vhd_look_batmap(const struct vhd_look *l, uint64_t off, uint64_t len);
/* The table in host order; entry is to be freed, also on failure. */
struct vhd_table {
	uint32_t *entry, n;
};
int vhd_table_read(const struct vhd_look *l, struct vhd_table *t, struct tapimg_err *err);
/* Sparse types: the end of blocks and all else, where the footer belongs in a file.  Reads the BAT. */
int vhd_look_end(const struct vhd_look *l, uint64_t *end, struct tapimg_err *err);

/*
 * The file that the locators name, for a child called @path: the first that decodes and exists, else
 * the first that decodes.  As the image stores it ("./a.vhd"), malloc'd; NULL: none.  @opts: whose gate
 * is asked before a file is looked for; may be NULL.
 */
char *vhd_look_parent(const struct vhd_look *l, const char *path,
		      const struct tapimg_open_opts *opts, struct tapimg_loop *loop);
/* "raw", "vpc" or another format: by the parent's UUID.  NULL: it has no parent. */
const char *vhd_look_parent_format(const struct vhd_look *l);

/* -------------------------------------------------------------- the open image */

struct vhd_pending;			/* vhd-write.c: blocks with space, not yet in the BAT */

struct vhd {
	/* mapping */
	uint64_t table_off, table_end;
	uint64_t header_off;
	uint32_t block;			/* bytes */
	uint32_t bitmap_len;		/* bytes of a block's bitmap on disk, whole sectors */
	uint32_t entries;		/* of the BAT that the size uses */
	uint8_t block_bits;
	bool fixed, diff;
	uint8_t *batmap;		/* one bit a block, or NULL: none, or not trusted */

	/* allocation (vhd-write.c) */
	uint64_t end;			/* no block from here on */
	uint64_t clean;			/* the file from here on was never used: it reads as zeroes */
	uint64_t limit;			/* blocks must end at or before this */
	uint64_t *free;			/* places of blocks that nobody uses, a stack */
	uint32_t nfree, free_size;
	uint32_t last_blk;		/* the last one that took new space: a stream is recognised */
	struct list pending;

	bool poisoned;			/* a resize with a journal is under way */
	unsigned stop;			/* enum vhd_stop, for tests */
	unsigned mutant;		/* enum vhd_mutant, for tests */
	bool batmap_dirty;
	bool footer_moved;		/* the trailer is to be written at close */
	struct vhd_look look;		/* footer, header, batmap header: as on the disk */
};

static inline struct vhd *vhd_of(const struct tapimg *img)
{
	return img->fs;
}

static inline bool vhd_enciphered(const struct vhd *v)
{
	return v->look.has_batmap && v->look.batmap.has_key;
}

/* Everything in struct vhd that follows from v->look, and img->size.  For open and after changes. */
int vhd_geometry_set(struct tapimg *img, struct tapimg_err *err);
/* Looks at the file anew, the cache is dropped. Admin. */
int vhd_reload(struct tapimg *img, struct tapimg_err *err);

/*
 * vhd-overlap.c: whether two blocks of a BAT (in host order) share sectors, each with its bitmap @sectors
 * long.  1: the first one that does, in the table's order, and the first that it does with; 0; -ENOMEM.
 */
int vhd_overlap(const uint32_t *bat, uint32_t entries, uint64_t sectors, uint32_t *block,
		uint32_t *other);

/* ------------------------------------------------------------ mapping (vhd-map.c) */

/*
 * The one check of BAT entries: NULL, or what is wrong.  A block overlaps no table, and its bitmap is
 * inside of [0, limit).
 */
const char *vhd_entry_check(const struct vhd *v, uint32_t entry, uint64_t limit);
int vhd_map(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext);
/* How many bits from @bit on, at most @max, are as the first one; *set: what that is. */
unsigned vhd_bits_run(const uint8_t *map, unsigned bit, unsigned max, bool *set);

static inline bool vhd_bit(const uint8_t *map, uint64_t bit)
{
	return map[bit >> 3] >> (7 - (bit & 7)) & 1;
}

static inline void vhd_bit_set(uint8_t *map, uint64_t bit, bool on)
{
	uint8_t m = 0x80 >> (bit & 7);

	map[bit >> 3] = on ? map[bit >> 3] | m : map[bit >> 3] & ~m;
}

/* ------------------------------------------------------- changing (vhd-write.c) */

int vhd_reserve(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, struct extent *ext);
int vhd_commit(struct tapimg *img, const struct extent *ext);
void vhd_abort(struct tapimg *img, const struct extent *ext);
int vhd_unmap(struct tapimg *img, uint64_t off, uint64_t len, unsigned flags, uint64_t *done);
int vhd_release(struct tapimg *img, uint64_t host, uint64_t len);
void vhd_pending_end(struct tapimg *img);
/* The lowest place at or after @from where a block's data are aligned. */
uint64_t vhd_place(const struct vhd *v, uint64_t from);
bool vhd_place_push(struct vhd *v, uint64_t host);	/* it is free; false: no memory to note that */

/* vhd-space.c, on an idle image: finds free space; puts the trailer behind the blocks, cuts there */
int vhd_space_scan(struct tapimg *img, struct tapimg_err *err);
int vhd_space_end(struct tapimg *img, struct tapimg_err *err);
uint64_t vhd_space_limit(const struct file *f);		/* blocks end at or before this */

/* ---------------------------------------------------------- batmap (vhd-batmap.c) */

/* Reads it; v->batmap stays NULL where there is none or it cannot be trusted. */
int vhd_batmap_load(struct tapimg *img, struct tapimg_err *err);
/* What is summed: as Xen's tools count it, in whole sectors, for blocks of 2 MiB. */
uint64_t vhd_batmap_summed(const struct vhd_footer *f, const struct vhd_batmap_header *b);
/* The block has gone, or lost sectors. */
void vhd_batmap_clear(struct vhd *v, uint32_t blk);
/* An empty map in place of one that cannot be trusted, to be stored.  False: it has no place. */
bool vhd_batmap_renew(struct tapimg *img);
/* It is neither believed nor written any more. */
void vhd_batmap_drop(struct vhd *v);
/* NULL, or what is wrong with it although its header is there, in the words of vhd-util. */
const char *vhd_batmap_bad(const struct vhd *v);
/* Writes map and header, if anything has changed. */
int vhd_batmap_store(struct tapimg *img, struct tapimg_err *err);

/* ---------------------------------------------------------------- creating */

struct vhd_create {
	uint64_t size;			/* bytes, multiple of 512 */
	uint64_t reserve;		/* BAT and batmap room for growth up to this size; 0: none */
	uint32_t block_size;		/* 0: VHD_BLOCK_SIZE */
	uint32_t type;			/* VHD_TYPE_* */
	bool zero;			/* fixed: write zeroes rather than leave a hole */
	bool falloc;			/* fixed: allocate its space */
	bool no_batmap;
	bool chs;			/* the geometry is exact: creator "qemu", for products that go by it */
	/* differencing */
	const char *parent;		/* as stored: "./a.vhd", relative to the child, or absolute */
	uint8_t parent_uuid[16];
	uint32_t parent_time;
	/* key hash for the batmap header; NULL: none */
	const uint8_t *nonce, *hash;	/* 32 bytes each */
};
/*
 * Writes a new image into @file, which is open for writing: empty, or a device with whatever bytes.
 * @name: for messages.  Does not flush.
 */
int vhd_write_new(struct file *file, const char *name, const struct vhd_create *c,
		  struct tapimg_err *err);
/* The parent UUID that stands for a parent of that format which is not a VHD; zero for raw. */
int vhd_parent_uuid_of(const char *format, uint8_t uuid[16]);
/*
 * UUID and time (of its file) of a parent that is to be named by @name.  @parent: open; NULL: not known,
 * which only a raw one may be.
 */
int vhd_parent_identity(const char *name, const char *format, struct tapimg *parent,
			uint8_t uuid[16], uint32_t *time, struct tapimg_err *err);
/* Slots 0 and up that are written: MacX, W2ku, W2ru. */
#define VHD_LOCATORS_WRITTEN 3
/*
 * Parent's name and locators of a header, their bytes to be written from @off on, one behind the
 * other (loc[i].space each): malloc'd, freed by the caller also on failure.
 */
int vhd_locators_build(struct vhd_header *h, const char *path, uint64_t off, const char *name,
		       uint8_t *bytes[VHD_LOCATORS_WRITTEN], struct tapimg_err *err);

/* the driver's own */
extern const struct tapimg_opt_desc vhd_opts[];
int vhd_create(const struct create *c, struct tapimg_err *err);
int vhd_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		struct tapimg_err *err);

/* ----------------------------------------------- administrative, on an open image */
/* All find the image idle (image_settle() first), explain failures, and are durable on return. */

/* hidden and saved-state marks live in both footers, marker and key hash in the batmap header */
int vhd_set_hidden(struct tapimg *img, uint8_t value, struct tapimg_err *err);
int vhd_set_marker(struct tapimg *img, uint8_t value, struct tapimg_err *err);
int vhd_set_key_hash(struct tapimg *img, const uint8_t nonce[32], const uint8_t hash[32],
		     struct tapimg_err *err);
/*
 * Another parent: locators, name, UUID, time.  @path as stored; crash-safe: what is read stays
 * either the old or the new.  NULL: none any more, it becomes a plain dynamic image.
 */
int vhd_set_parent(struct tapimg *img, const char *path, const uint8_t uuid[16], uint32_t time,
		   struct tapimg_err *err);
#define VHD_KEY_MAX 64		/* a key has 32 or 64 bytes */
/* SHA-256 of nonce and key. */
int vhd_key_hash(const uint8_t nonce[32], const uint8_t *key, size_t len, uint8_t hash[32],
		 struct tapimg_err *err);
/* Drops all blocks. */
int vhd_make_empty(struct tapimg *img, struct tapimg_err *err);
/* Writes both footers anew, at 0 and at the end (a null UUID is replaced). */
int vhd_write_footers(struct tapimg *img, struct tapimg_err *err);
/* The number of blocks that are allocated. */
int vhd_count_blocks(struct tapimg *img, uint32_t *n, struct tapimg_err *err);
/*
 * Allocates every block: @bitmaps: sets their bits as well, without writing the data (which then are
 * whatever the place holds: zeroes in a file); else copies what is read there now.
 */
int vhd_fill(struct tapimg *img, bool bitmaps, uint32_t first, uint32_t count,
	     struct tapimg_err *err);

/* The driver's own: the parent's file is looked at for its UUID. */
int vhd_set_backing(struct tapimg *img, const char *name, const char *format,
		    struct tapimg_err *err);

/* vhd-check.c */
int vhd_check(struct tapimg *img, unsigned fix, struct tapimg_check *out,
	      void (*report)(void *arg, char severity, const char *line), void *arg,
	      struct tapimg_err *err);

/* ------------------------------------------- other tables (vhd-switch.c) */

/*
 * Each breaks one rule of vhd-switch.c or vhd-journal.c; tests/power/test-vhd-cuts.c has to catch
 * every one of them.
 */
enum vhd_mutant {
	VHD_MUTANT_NONE,
	VHD_MUTANT_MOVE,		/* S1: the table names copies that are not durable */
	VHD_MUTANT_DETOUR,		/* S2: the footer names tables that are not durable */
	VHD_MUTANT_HOME,		/* S3: tables are overwritten while the footer may name them */
	VHD_MUTANT_BACK,		/* S4: the footer names tables at home that are not durable */
	VHD_MUTANT_JOURNAL,		/* J1: the image is touched before the journal is durable */
	VHD_MUTANT_REVERT,		/* J3: the footers are put back first */
	VHD_MUTANTS
};
/* file_flush(), unless that is what is broken. */
int vhd_barrier(struct tapimg *img, enum vhd_mutant unless);

/* What the image's tables are to be: loaded as they are, changed, switched to. */
struct vhd_next {
	struct vhd_footer footer;
	struct vhd_header header;	/* offsets in it are set by the switch */
	struct vhd_batmap_header batmap;
	bool has_batmap;
	struct vhd_table table;		/* may have fewer entries than header.max_bat */
	uint8_t *map;			/* batmap.sectors of it */
	uint8_t *bytes[VHD_LOCATORS];	/* of locators, header.loc[i].space each; NULL: none */
};
int vhd_next_load(struct tapimg *img, struct vhd_next *n, struct tapimg_err *err);
void vhd_next_free(struct vhd_next *n);		/* also after a failed load */
/* Crash-safe.  Moves blocks that are in the way (n->table follows).  Reloads the image. */
int vhd_switch(struct tapimg *img, struct vhd_next *n, struct tapimg_err *err);
/* Copies blocks to the end of the file and points the table, on the disk and in @t, to them. */
int vhd_move_blocks(struct tapimg *img, struct vhd_table *t, const uint32_t *blk, uint32_t n,
		    struct tapimg_err *err);

/* ----------------------------------------------------------- resize, journal */

/* The driver's own (vhd-resize.c): crash-safe without a journal. */
int vhd_resize(struct tapimg *img, uint64_t size, enum tapimg_prealloc prealloc,
	       struct tapimg_err *err);
int vhd_zero_fill(struct file *f, uint64_t off, uint64_t end);	/* writes zeroes */

/* Where a resize that has to move things stops, for tests of what is done about it afterwards. */
enum vhd_stop { VHD_STOP_NONE, VHD_STOP_BEGIN, VHD_STOP_DATA, VHD_STOP_METADATA, VHD_STOP_END };
/* Ends the operation with -EINVAL if it is to stop here. */
int vhd_stop_here(struct tapimg *img, enum vhd_stop at, struct tapimg_err *err);
/*
 * vhd_resize() with the image disabled meanwhile, and a journal (a path, or a device) that can undo it, as
 * Xen's storage managers expect it.  NULL: without one.  It is gone afterwards, unless this was stopped or
 * broken off.  -EEXIST: there is a file of that name.
 */
int vhd_resize_journal(struct tapimg *img, uint64_t size, const char *journal, enum vhd_stop stop,
		       struct tapimg_err *err);
/* Puts back what the journal kept.  @file is open for writing. */
int vhd_revert(struct file *file, const char *name, const char *journal, struct tapimg_err *err);
int vhd_revert_mutant(struct file *file, const char *name, const char *journal,
		      enum vhd_mutant mutant, struct tapimg_err *err);	/* for tests */

#endif
