/* SPDX-License-Identifier: BSD-2-Clause */
/* snapshot-list.h - the table that info and snapshot -l print */
#ifndef SNAPSHOT_LIST_H
#define SNAPSHOT_LIST_H

#include "tapimg.h"

/* With its heading. */
void print_snapshots(const struct tapimg_info *info);

#endif
