/* SPDX-License-Identifier: BSD-2-Clause */
/* fronts.c - the front ends that are built in */
#include <string.h>

#include "frontend.h"

/* one line here and one in the table */
extern const struct frontend nbd_frontend;
extern const struct frontend vhost_user_frontend;

static const struct frontend *const table[] = {
	&nbd_frontend,
	&vhost_user_frontend,
	NULL,
};

const struct frontend *const *frontends(void)
{
	return table;
}

const struct frontend *frontend_find(const char *name)
{
	for (const struct frontend *const *p = table; *p; p++)
		if (!strcmp((*p)->name, name))
			return *p;
	return NULL;
}
