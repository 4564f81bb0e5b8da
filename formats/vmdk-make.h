/* SPDX-License-Identifier: BSD-2-Clause */
/* vmdk-make.h - what the parts that make VMDKs share: options, and the descriptor's text */
#ifndef VMDK_MAKE_H
#define VMDK_MAKE_H

#include "vmdk.h"

#define VMDK_UUID_LEN 48

enum { VMDK_PREALLOC_OFF, VMDK_FALLOC, VMDK_FULL };

struct vmdk_subformat {
	const char *name;		/* createType */
	enum vmdk_type type;
	const char *suffix;		/* of the extents' names; NULL: the descriptor is inside */
	uint64_t split;			/* bytes of an extent; 0: one has all */
	bool esx, stream;
};

struct vmdk_params {
	const struct create *c;
	const struct vmdk_subformat *sub;
	uint64_t size, grain, split;	/* bytes; split 0: one extent has all */
	const char *adapter, *hw, *tools;
	bool geometry;			/* it was given */
	unsigned cylinders, heads, sectors;
	int prealloc;
	unsigned level;			/* of compression */
	bool zeroed;
	uint32_t cid, parent_cid;
	char uuid[VMDK_UUID_LEN], long_id[33];	/* "": none */
};

/* Options of create, without what depends on the sub-format. */
int vmdk_params_parse(const struct create *c, struct vmdk_params *p, struct tapimg_err *err);
/* What the adapter and the size give, unless a geometry was given. */
void vmdk_geometry(struct vmdk_params *p);
/* "cylinders/heads/sectors"; -EINVAL */
int vmdk_parse_geometry(const char *text, struct vmdk_params *p);
/* As descriptors have it: "60 00 c2 93 7b a0 3a 9f-22 56 29 93 b7 a9 2e 5f"; -EINVAL */
int vmdk_uuid_text(const char *text, char out[VMDK_UUID_LEN]);

struct vmdk_text {
	char *p;			/* malloc'd */
	size_t len;
	bool failed;			/* no memory */
};

/* The descriptor: head, the extents in order, tail. */
void vmdk_text_head(struct vmdk_text *t, const struct vmdk_params *p, const char *type);
void vmdk_text_extent(struct vmdk_text *t, uint64_t len, enum vmdk_type type, const char *file);
void vmdk_text_tail(struct vmdk_text *t, const struct vmdk_params *p);

#endif
