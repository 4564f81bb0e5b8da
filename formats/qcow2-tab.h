/* SPDX-License-Identifier: BSD-2-Clause */
/* qcow2-tab.h - L1 and L2 look-ups, shared by qcow2-map.c and qcow2-write.c */
#ifndef QCOW2_TAB_H
#define QCOW2_TAB_H

#include "qcow2.h"

/* An L1 entry in its cached block. */
struct qcow2_l1ref {
	struct mblk *b;
	uint64_t at;		/* host offset of the entry */
	uint64_t entry;
	uint64_t l2;		/* host offset of the table; 0: none */
};

/* The entry for guest offset @off; -EAGAIN, -EUCLEAN. */
int qcow2_l1_get(struct tapimg *img, uint64_t off, struct qcow2_l1ref *r);
/* Says what is wrong with an L2 entry; returns -EUCLEAN. */
int qcow2_entry_bad(struct tapimg *img, uint64_t guest, uint64_t entry, const char *bad);

#endif
