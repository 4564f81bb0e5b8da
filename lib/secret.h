/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * secret.h - secrets by name, as programs are told of them: QEMU's "--object secret,id=..."
 *
 * The value comes from a file (file=), a descriptor (fd=) or, seen by everybody who may list
 * processes, the text itself (data=); format=base64 decodes it. It is read when the text is taken, kept
 * in memory, and wiped by secrets_free().
 */
#ifndef SECRET_H
#define SECRET_H

#include "err.h"

struct secrets;		/* starts as NULL */

/* @text: "secret,id=NAME,file=PATH" or the like, ",," is a comma.  0 or a negative errno, explained. */
int secrets_add(struct secrets **list, const char *text, struct tapimg_err *err);
void secrets_free(struct secrets **list);

/*
 * A tapimg_secret with &list as its argument. The one that ask->id names; without an id the only
 * one there is.  -ENOKEY: none such.
 */
int secrets_give(void *list, const struct tapimg_secret_ask *ask, struct tapimg_err *err);

#endif
