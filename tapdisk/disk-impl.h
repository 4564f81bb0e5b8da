/* SPDX-License-Identifier: BSD-2-Clause */
/* disk-impl.h - what a disk consists of; for disk*.c only */
#ifndef DISK_IMPL_H
#define DISK_IMPL_H

#include "disk.h"
#include "server.h"
#include "stats.h"

/* Why requests wait. */
enum {
	HELD_PAUSED	= 1 << 0,
	HELD_QUIESCED	= 1 << 1,	/* somebody wants the disk to itself for a moment */
	HELD_RATE	= 1 << 2,	/* over the limit, until the timer */
	HELD_NOSPACE	= 1 << 3,	/* until the timer tries again */
	HELD_BEHIND	= 1 << 4,	/* earlier requests are being let go; keeps the order */
};

struct bucket {			/* what may still be done: bytes or requests, scaled by NSEC */
	uint64_t rate;		/* a second; 0: no limit */
	int64_t have;
};

struct disk_driver {
	const char *name;
	const char *format;	/* of the library; NULL: no image */
	int (*open)(struct disk *d, const struct disk_config *c, struct tapimg_err *err);
	void (*submit)(struct disk *d, struct disk_req *r);	/* ends with disk_complete() */
	int (*resize)(struct disk *d, uint64_t size, struct tapimg_err *err);
	int (*close)(struct disk *d, struct tapimg_err *err);
};

struct disk {
	/* hot first */
	unsigned held;			/* HELD_* */
	bool limited;			/* a bucket has a rate */
	bool mirrored;			/* changes go to img2 as well */
	bool catches_nospace;		/* -ENOSPC is not the end of a request */
	const struct disk_driver *drv;
	struct tapimg *img;
	uint8_t *mem;			/* ram */
	struct tapimg_loop *loop;
	unsigned inflight;
	struct disk_props props;
	struct disk_stats st;
	struct stats_page *page;	/* shared memory, or NULL */
	bool followed;			/* one of these is there: */
	struct dirty *dirty;		/* what is changed while a commit runs */
	struct cbt *log;		/* what is changed as long as the disk is open */

	/* cold */
	struct list node;		/* server.disks */
	struct server *server;
	struct list waiting;		/* requests held back */
	struct list users;
	struct disk_config cfg;
	unsigned quiesced;
	bool closing, closed;
	struct bucket bytes, reqs;
	uint64_t refill_ns;
	struct timer timer;		/* HELD_RATE, HELD_NOSPACE */
	int memfd;
	unsigned rdwr_layers;		/* so many below the top are open for writing */
	struct tapimg *img2;		/* secondary */
	struct list copies;		/* unused requests for it */
	bool mirror_failed;
	uint64_t nospace_ns;		/* when it was last said that requests wait for space; 0: never */
	bool standby_used;
	uint64_t redirected;		/* sectors written to the standby in place of the first image */
};

/* Ends a request: counts it and calls done(). */
void disk_complete(struct disk *d, struct disk_req *r, int ret);
/* disk-mem.c */
extern const struct disk_driver null_driver, ram_driver;
/* disk-image.c */
void image_submit(struct disk *d, struct disk_req *r);
int disk_image_open(struct disk *d, const struct disk_config *c, struct tapimg_err *err);
int disk_image_resize(struct disk *d, uint64_t size, struct tapimg_err *err);
int disk_image_close(struct disk *d, struct tapimg_err *err);
void disk_image_exit(struct disk *d);
/* true: the request is dealt with: it will be tried again, or went to the standby */
bool disk_nospace(struct disk *d, struct disk_req *r);
/* disk-config.c */
const struct disk_driver *disk_driver(const char *name);
/* disk.c */
void disk_bar(struct disk *d, unsigned why);
void disk_unbar(struct disk *d, unsigned why);
void disk_drain(struct disk *d);		/* blocking: until nothing is in flight */
void disk_tell(struct disk *d, enum disk_event ev);

#endif
