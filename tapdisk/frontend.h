/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * frontend.h - what a front end is: a protocol by which clients reach disks
 *
 * A front end is one const struct frontend at the end of its file and one line in fronts.c.  An
 * instance is started from a list of options ("socket=/run/a.sock,disk=vda") and ends with
 * front_gone().  It watches its descriptors with loop_watch() and turns what arrives into
 * disk_submit(), attached to the disk as a user for each connection or device.
 *
 * Callbacks of a front end do not block (D4 in disk.h).
 */
#ifndef FRONTEND_H
#define FRONTEND_H

#include <jansson.h>

#include "disk.h"

struct front;

enum server_event { SERVER_DISK_ADDED, SERVER_DISK_REMOVED };

struct frontend {
	const char *name;			/* "nbd": --nbd key=value,... */
	const char *summary;
	const struct tapimg_opt_desc *opts;	/* its keys; ends with a NULL name */
	/*
	 * Listens.  Every name in @opts is one of ours, values are not checked.  0 and the instance in
	 * *@out, or a negative errno and in @err what could not be done and why.
	 */
	int (*start)(struct server *s, const struct tapimg_opt *opts, unsigned n, struct front **out,
		     struct tapimg_err *err);
	void (*disk_event)(struct front *f, struct disk *d, enum server_event ev);	/* may be NULL */
	/* Accept nobody any more, answer what is running, end the connections, then front_gone(). */
	void (*stop)(struct front *f);
	void (*stats)(struct front *f, json_t *into);	/* may be NULL */
};

/* The beginning of every instance. */
struct front {
	struct list node;
	const struct frontend *kind;
	struct server *server;
	struct front **owner;		/* set to NULL by front_gone(); or NULL */
	bool stopping;
};

/* fronts.c: NULL-terminated */
const struct frontend *const *frontends(void);
const struct frontend *frontend_find(const char *name);

/* Calls stop(), once. */
void front_stop(struct front *f);
/* Takes it out of the server's list; the front end frees it afterwards. */
void front_gone(struct front *f);

#endif
