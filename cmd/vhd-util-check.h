/* SPDX-License-Identifier: BSD-2-Clause */
/* vhd-util-check.h - between vhd-util-check.c and vhd-util-stats.c */
#ifndef VHD_UTIL_CHECK_H
#define VHD_UTIL_CHECK_H

#include "vhd-util.h"

#define VU_CLOCK_SLACK 1800	/* seconds that another machine's clock may be ahead */
#define VU_STATS_MAX 1024

/* Names of images found sound, leaf first. */
struct vu_stats {
	char *name[VU_STATS_MAX];
	unsigned n;
};

int vu_stats_add(struct vu_stats *s, const char *name);
/* One line for each, the last one first. */
int vu_stats_print(struct cli *c, struct vu_stats *s);
void vu_stats_free(struct vu_stats *s);

#endif
