/* SPDX-License-Identifier: BSD-2-Clause */
/* vhd-util-scan.h - between vhd-util-scan.c, vhd-util-forest.c and vhd-util-lvm.c */
#ifndef VHD_UTIL_SCAN_H
#define VHD_UTIL_SCAN_H

#include "vhd-util.h"

/* Something to be looked at. */
struct scan_target {
	char *name;			/* as it was named, or the logical volume's */
	bool raw;			/* a raw parent: only its size is known */
	/* of a logical volume: where it begins on which device; NULL: a file */
	char *device;
	uint64_t start, len;
	uint64_t size;			/* bytes of the file or volume */
	int error;			/* it cannot be looked at, and why */
};

/* What one line says. */
struct scan_image {
	char *name, *parent;		/* malloc'd; parent NULL: none */
	uint64_t capacity, size;
	uint8_t hidden, marker;
	bool has_key;
	uint8_t hash[32];
	int error;			/* not 0: only it and the message count */
	const char *message;
	/* vhd-util-forest.c */
	struct scan_image *above, *child, **last_child, *next;
};

struct scan {
	struct cli *c;
	bool fast, pretty, go_on, verbose, parents, markers;
	const char *group;		/* -l */
	struct scan_target *target;
	size_t n, size;
	void *seen;			/* with -a: base names of the targets, a tsearch() tree */
	struct scan_image *image;	/* with -p: those to be drawn */
	size_t images, images_size;
};

/* One line, indented by @tab blanks. @lost: its parent was not found in the scan. */
void scan_print(const struct scan *s, const struct scan_image *i, unsigned tab, bool lost);
void scan_image_free(struct scan_image *i);

/* The line for a target that could not even be looked at.  Returns @ret. */
int scan_failed(const struct scan *s, const char *name, int ret);

/* The images found, as trees. */
void scan_draw(struct scan *s);

/* Takes @t (its strings as well) into the list; 0 or -ENOMEM. */
int scan_add(struct scan *s, const struct scan_target *t);
/*
 * Adds the volumes of group s->group that match the glob @filter or one of @names.  Needs the
 * programs vgs and lvs.
 */
int scan_volumes(struct scan *s, const char *filter, char *const *names);
/* Adds the volume called @name; -ENOENT. */
int scan_volume(struct scan *s, const char *name, bool raw);
/* Like vu_look() for a volume, by its place on the device; *message says what failed. */
int scan_look_volume(struct scan *s, const struct scan_target *t, struct vu_file *f,
		     const char **message);
/* The volume's name in a parent's path: "/dev/mapper/VG--x-LV" or "./VG-LV". malloc'd. */
char *scan_volume_name(const char *path);

#endif
