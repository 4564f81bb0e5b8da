/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * metrics.h - counters of devices in shared memory: /dev/shm/td3-<pid>/vdi-<minor>
 *
 * Each file is one page with a struct stats_page.  TAPDISK_SHM_DIR stands for /dev/shm in tests.
 */
#ifndef METRICS_H
#define METRICS_H

#include "vbd.h"

/* Failing is no reason not to serve: it is logged. */
void metrics_start(struct vbd *v);
void metrics_stop(struct vbd *v);
/* What processes left behind that are dead, and sockets of theirs. */
void metrics_clean(void);
void metrics_exit(void);	/* removes the process's own folder */

#endif
