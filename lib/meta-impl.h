/* SPDX-License-Identifier: BSD-2-Clause */
/* meta-impl.h - what meta.c and meta-release.c share */
#ifndef META_IMPL_H
#define META_IMPL_H

#include "meta.h"

/* meta.c: looks at everything that may be waiting, from the loop */
void meta_kick(struct meta *m);

/* meta-release.c */
void meta_release_init(struct meta *m);
void meta_release_run(struct meta *m);	/* releases what may be released by now */
void meta_release_end(struct meta *m);	/* forgets what is still queued */

#endif
