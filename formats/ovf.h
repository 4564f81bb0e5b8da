/* SPDX-License-Identifier: BSD-2-Clause */
/* ovf.h - the OVF envelope: which disks it names, and one of our own (DMTF DSP0243) */
#ifndef TAPIMG_OVF_H
#define TAPIMG_OVF_H

#include "err.h"

#define OVF_MAX (16u << 20)	/* bytes of text that are looked at */

struct ovf_disk {
	char *id;		/* diskId */
	char *file;		/* href of the file it refers to */
	char *format;		/* a URI; "" if there is none */
	char *compression;	/* of the file; "" if there is none */
	bool chunked;		/* the file is stored in pieces */
	uint64_t capacity;	/* bytes; 0: not known */
};

struct ovf {
	struct ovf_disk *disk;	/* those that have a file, in their order */
	unsigned n;
};

/* @text: need not end with a NUL.  @name: for messages.  -EINVAL, -ENOTSUP (no parser), -ENOMEM. */
int ovf_parse(const char *text, size_t len, const char *name, struct ovf *out, struct tapimg_err *err);
void ovf_free(struct ovf *o);

/* A machine with one disk. */
struct ovf_machine {
	const char *name;	/* UTF-8, as all texts */
	const char *os;		/* VMware's name of the guest's system */
	const char *file;	/* the disk's, in the archive */
	const char *adapter;	/* as in VMDK descriptors */
	unsigned hw;		/* version of the virtual hardware */
	unsigned cpus;
	uint64_t memory;	/* MiB */
	uint64_t capacity;	/* of the disk, bytes */
};

/* The text, malloc'd; NULL: no memory.  The file's size in it is that of ovf_set_size(text, 0). */
char *ovf_text(const struct ovf_machine *m);
/* Puts the size of the disk's file in; the length of the text stays the same.  False: no place for it. */
bool ovf_set_size(char *text, uint64_t size);

#endif
