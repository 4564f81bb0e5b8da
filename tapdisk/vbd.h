/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vbd.h - devices of the control protocol: a minor number, and the disk behind it when it is open
 *
 * A minor number is given out by a marker file, which the process that has attached it keeps
 * locked.  Opening a device also starts an NBD server for it alone, at RUNDIR/nbd<pid>.<minor>.
 */
#ifndef VBD_H
#define VBD_H

#include "proto.h"
#include "server.h"

struct cbt;
struct job;
struct control;

struct vbd {
	struct list node;		/* control.vbds */
	struct server *server;
	int minor;
	int marker;			/* locked */
	bool own_marker;		/* we take it away at the end */
	char *name;			/* "TYPE:PATH" while it is open or paused, else NULL */
	struct disk *disk;
	struct front *nbd;
	struct cbt *log;		/* changed blocks, or NULL */
	struct stats_page *page;	/* in shared memory, or NULL */
	unsigned state;			/* VBD_*, what disk does not tell */
	struct job *job;		/* commit: running or over, or NULL */
};

struct vbd_open {			/* what OPEN says */
	const char *target;		/* "TYPE:PATH" */
	const char *secondary, *log;	/* or NULL */
	unsigned flags;			/* PROTO_* */
	const uint8_t *key;		/* with PROTO_ENCRYPTED */
	unsigned key_len;
};

/* All of them 0 or a negative errno; @err explains. Those marked blocking: D4 in disk.h. */
int vbd_attach(struct control *c, int minor, bool own_marker, struct vbd **out);
int vbd_detach(struct control *c, struct vbd *v);
int vbd_open(struct vbd *v, const struct vbd_open *o, struct tapimg_err *err);	/* blocking */
/* A disk that the command line has opened. */
int vbd_adopt(struct vbd *v, struct disk *d);
int vbd_close(struct vbd *v, bool force, struct tapimg_err *err);		/* blocking */
int vbd_pause(struct vbd *v, struct tapimg_err *err);				/* blocking */
int vbd_resume(struct vbd *v, const char *target, const char *secondary, const char *log,
	       struct tapimg_err *err);						/* blocking */
int vbd_close_all(struct control *c);	/* at the end of the process; blocking; failures are logged */
unsigned vbd_state(const struct vbd *v);
/* One JSON object on one line, as blktap writes it; malloc'd. */
char *vbd_stats(const struct vbd *v, size_t *len);

#endif
