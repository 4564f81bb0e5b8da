/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util.h - what the commands of vhd-util and td-util share
 *
 * Commands that only look do it on the file (struct vu_file), whatever state it is in and whoever has
 * it open.  Those that change something open the image and leave the change to the driver.
 */
#ifndef VHD_UTIL_H
#define VHD_UTIL_H

#include "util.h"
#include "vhd.h"

extern const struct command command_vhd_create, command_vhd_snapshot, command_vhd_query,
	command_vhd_read, command_vhd_set, command_vhd_repair, command_vhd_resize,
	command_vhd_fill, command_vhd_coalesce, command_vhd_modify, command_vhd_scan,
	command_vhd_check, command_vhd_revert, command_vhd_key, command_vhd_copy;

/* The numbers clients know: whatever is wrong with an image itself is -EINVAL. */
int vu_errno(int ret);

/* ------------------------------------------------------------ looking at a file */

struct vu_file {
	const char *name;
	struct file *file;
	struct vhd_look look;
	uint32_t entries;		/* of the BAT that the size uses; set by vu_bat() */
	uint32_t *bat;			/* in host order; NULL: not read */
};

/*
 * Opens @name for reading and finds its structures. @flags: VHD_LOOK_*; without VHD_LOOK_BACKUP the
 * trailer counts before the copy, as it does for clients.  On failure @f holds what was found, and is to
 * be closed all the same.
 */
int vu_look(struct cli *c, const char *name, unsigned flags, struct vu_file *f);
void vu_close(struct vu_file *f);
int vu_bat(struct cli *c, struct vu_file *f);
/* "error opening NAME: -2", and why. */
int vu_look_failed(const struct cli *c, const char *name, const struct tapimg_err *err, int ret);

static inline bool vu_sparse(const struct vu_file *f)
{
	return vhd_type_sparse(f->look.footer.type);
}

/* The whole batmap as it is on the disk (malloc'd), and how many bytes of it are summed. */
int vu_batmap(const struct vu_file *f, uint8_t **map, uint64_t *len);
uint64_t vu_batmap_summed(const struct vu_file *f);

/* Bytes that the image takes of its file or device, the footer included. */
int vu_used(struct cli *c, const struct vu_file *f, uint64_t *bytes);
char *vu_base(const char *name);
/* The parent's path, absolute, of a file that exists: malloc'd in *@path; or -ENOENT and such. */
int vu_parent(struct cli *c, const struct vu_file *f, char **path);
static inline bool vu_parent_raw(const struct vu_file *f)
{
	return vhd_uuid_zero(f->look.header.parent_uuid);
}
/* How many disks the chain has, this one included. */
int vu_depth(struct cli *c, const struct vu_file *f, unsigned *depth);

/* --------------------------------------------------------------- whole images */

/*
 * Opens the image for requests or changes, without what lies below unless @flags say so:
 * TAPIMG_RDWR or 0, and VU_CHAIN.  Enciphered data are seen as they are stored.
 */
enum { VU_CHAIN = 1 << 30 };
int vu_open(struct cli *c, const char *name, unsigned flags, struct tapimg **out);
int vu_close_image(struct cli *c, struct tapimg *img, int ret);
/*
 * Makes an image: a file under another name first, @path, where @fill (may be NULL) puts the data.
 * "NAME: failed to create: -2" on stderr.
 */
int vu_make(struct cli *c, const char *name, const struct vhd_create *how,
	    int (*fill)(struct cli *c, const char *path, void *arg), void *arg);

/* ---------------------------------------------------------- what td-util uses too */

int vu_create(struct cli *c, const char *name, uint64_t mb, uint64_t reserve_mb, bool fixed);
struct vu_snapshot {
	const char *name, *parent;
	uint64_t reserve_mb;
	unsigned limit;			/* 0: none */
	bool raw;			/* the parent is */
	bool keep_empty;		/* link to it though it is empty */
};
int vu_snapshot(struct cli *c, const struct vu_snapshot *s);
int vu_set_field(struct cli *c, const char *name, const char *field, uint8_t value);

/* The dump of headers that read -p and a failed check show. @hex: numbers in hex. */
void vu_dump(const struct vu_file *f, bool hex);
/* What can be shown of a file that could not be opened. */
void vu_dump_broken(struct cli *c, const char *name, bool hex);

/* What read -p does, failures included. */
int vu_read_headers(struct cli *c, const char *name);

/* A number as read prints it: decimal, or with 0x. */
const char *vu_number(bool hex, uint64_t n, char buf[24]);

#endif
