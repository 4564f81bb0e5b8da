/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost.h - the vhost-user-blk front end, seen from its own files
 *
 *	vhost-front.c	sockets, the connection's life, options
 *	vhost-user.c	messages
 *	vhost-journal.c	what survives a kill beside the requests in flight
 *	vhost-blk.c	virtio-blk requests, from a ring to the disk and back; configuration
 *	vring*.c inflight.c guest.c	rings, what is in flight, memory
 *
 * V1 Nothing of a front end is trusted.  A message that cannot be obeyed is answered with an error where
 *    the front end asked for an answer, else the connection ends.  A ring that breaks the rules
 *    stops, and the others go on.  Other connections never notice.
 * V2 Before memory, rings or the in-flight area change, the queues concerned are drained: they take
 *    nothing, and the message waits until their requests have come back.  The same before a
 *    connection is forgotten; the next one is accepted after that.
 * V3 Requests are answered where they are known to be done: completed ones are pushed as they come
 *    and published once a turn (or sooner, when they are many), with one call.
 * V4 Kicks are only asked for before the loop sleeps; while there is work, rings are looked at.
 * V5 A guest does not notice that a server was killed and another one took over.  So what was answered has to
 *    be there: running requests are in the in-flight area, and completed ones whose place only our
 *    metadata cache knows are in the journal behind it (vhost-journal.c).
 */
#ifndef VHOST_H
#define VHOST_H

#include "disk.h"
#include "frontend.h"
#include "vring.h"

#define VHOST_QUEUES 128	/* at most */
#define VHOST_PAYLOAD 512	/* of a message, at most */
#define VHOST_FDS 8		/* of a message, at most */
#define VHOST_SEGS 32		/* ranges of one discard or write-zeroes request */
#define VREQ_IOV 4		/* buffers kept in the request itself */

enum {				/* bits of the feature words */
	VIRTIO_BLK_F_SEG_MAX = 2, VIRTIO_BLK_F_RO = 5, VIRTIO_BLK_F_BLK_SIZE = 6,
	VIRTIO_BLK_F_FLUSH = 9, VIRTIO_BLK_F_TOPOLOGY = 10, VIRTIO_BLK_F_CONFIG_WCE = 11,
	VIRTIO_BLK_F_MQ = 12, VIRTIO_BLK_F_DISCARD = 13, VIRTIO_BLK_F_WRITE_ZEROES = 14,
	VHOST_F_LOG_ALL = 26, VIRTIO_F_INDIRECT_DESC = 28, VIRTIO_F_EVENT_IDX = 29,
	VHOST_USER_F_PROTOCOL_FEATURES = 30, VIRTIO_F_VERSION_1 = 32, VIRTIO_F_RING_PACKED = 34,
};

enum {				/* protocol features */
	VHOST_PF_MQ = 0, VHOST_PF_LOG_SHMFD = 1, VHOST_PF_REPLY_ACK = 3, VHOST_PF_BACKEND_REQ = 5,
	VHOST_PF_CONFIG = 9, VHOST_PF_INFLIGHT_SHMFD = 12, VHOST_PF_RESET_DEVICE = 13,
	VHOST_PF_CONFIGURE_MEM_SLOTS = 15, VHOST_PF_STATUS = 16,
};

#define BIT(n) (1ull << (n))

struct vhost;

struct vseg {
	uint64_t off, len;
	unsigned flags;
};

/* One request of a guest. */
struct vreq {
	struct disk_req dr;		/* first: found by it */
	struct vqueue *q;
	struct vreq *next;		/* unused ones */
	struct vchain c;
	volatile uint8_t *status;
	uint32_t written;		/* into the guest's buffers if it goes well */
	uint64_t mark;			/* FLUSH: what of the journal it covers */
	struct vseg *segs;		/* discard, write zeroes of several ranges: malloc'd */
	unsigned nsegs, seg;
	bool reads_guest;		/* a write: the guest's buffers stay as they are */
	bool unnoted;			/* a range was changed that the journal could not take */
	struct iovec *viov;		/* malloc'd, when iov does not suffice */
	struct iovec iov[VREQ_IOV];
};

struct vqueue {
	struct vhost *vh;
	unsigned index;
	uint32_t num, base;
	struct vring_addr addr;
	bool have_addr, kicked, enabled;	/* kicked: SET_VRING_KICK has come */
	bool poll;			/* and without a descriptor: it is looked at without end */
	bool active;			/* up, enabled: in vh->active */
	int kick_fd, call_fd, err_fd;
	struct watch kick;
	unsigned busy;			/* requests at the disk */
	struct list node;		/* vh->active */
	struct task publish;
	struct vreq *free;
	struct vreq_block *blocks;
	struct vring ring;
};

struct vhost_msg {
	uint32_t request, flags, size;
	uint8_t payload[VHOST_PAYLOAD];
	int fds[VHOST_FDS];
	unsigned nfds, got;		/* bytes read so far, header included */
};

struct vhost {
	struct front front;		/* first */
	struct disk *disk;
	struct disk_user user;
	struct tapimg_loop *loop;
	char *name;			/* for messages: the socket's path */
	char *path;			/* listened at, to be removed; NULL: inherited */
	/* options */
	unsigned max_queues, seg_max;
	uint64_t masked;		/* features not to be offered */
	uint64_t offered;

	int listen_fd;			/* -1: none */
	struct watch listener;
	bool attached, leaving;		/* leaving: the disk goes or the front end stops */

	/* one connection */
	int fd;				/* -1: none, or it has ended and is being drained */
	bool connected;
	struct watch sock;
	struct vhost_msg msg;
	bool waiting;			/* msg is complete, and queues are being drained for it */
	bool held;			/* nothing is taken from any ring */
	uint64_t features, protocol;
	uint8_t status;
	bool wce;			/* the guest takes care of flushing */
	bool stable;			/* writes must be durable when they complete */
	int backend_fd;
	struct guest guest;
	struct vqueue *q[VHOST_QUEUES];
	struct list active;
	struct idler idler;
	struct task cleanup;
	/* in-flight areas that the front end keeps */
	uint8_t *inf;
	void *inf_map;
	uint64_t inf_map_len;
	unsigned inf_queues, inf_num;
	int inf_slot;
	struct disk_req sync;		/* a flush of our own */
	bool syncing;
	uint64_t sync_mark;
	struct journal *journal;	/* in the in-flight area; NULL: none */
	uint64_t journal_head, journal_tail, journal_bytes;	/* our own copies; bytes of data noted */
	struct replay *replay;		/* what a former server had not yet made durable */
	uint64_t owner;			/* a number nobody else has */
	uint64_t nreqs, ncalls;		/* since the start, of all connections */
};

/* vhost-user.c */
/* Reads and obeys what has arrived. Negative errno: the connection has to end. */
int vhost_receive(struct vhost *vh);
/* A queue has become empty: goes on with a message that waits for it. */
int vhost_drained(struct vhost *vh);
void vhost_config_changed(struct vhost *vh);
void vhost_msg_clear(struct vhost_msg *m);
void vhost_forget_inflight(struct vhost *vh);

/* vhost-blk.c */
uint64_t vhost_features(const struct vhost *vh);	/* to offer */
#define VHOST_CONFIG_SIZE 60
void vhost_config(const struct vhost *vh, uint8_t out[VHOST_CONFIG_SIZE]);
void vhost_set_wce(struct vhost *vh, bool on);
void vhost_update_stable(struct vhost *vh);
void vhost_sync(struct vhost *vh);		/* flushes by itself, unless that is running */
/* Takes what is in the ring, up to a fair number. True: there was something. */
bool vqueue_run(struct vqueue *q);
void vqueue_free_requests(struct vqueue *q);
void vqueue_publish(struct vqueue *q);

/* vhost-journal.c: remapped data that are not durable yet, for a server that starts after a kill */
uint64_t journal_size(void);		/* bytes in the area */
/*
 * Takes the journal at @mem into use.  What another server has left there is done again first: rings
 * are held until then, and the connection ends if that cannot be.
 */
int journal_open(struct vhost *vh, void *mem);
void journal_close(struct vhost *vh);
/* After a request that succeeded. False: there is no room, or no way; make it durable instead. */
bool journal_note(struct vhost *vh, const struct tapimg_req *req);
uint64_t journal_mark(const struct vhost *vh);
void journal_drop(struct vhost *vh, uint64_t mark);	/* durable up to there */
bool journal_empty(const struct vhost *vh);
bool journal_is_long(const struct vhost *vh);		/* time to flush */

/* vhost-front.c */
struct vqueue *vhost_queue(struct vhost *vh, uint32_t index);	/* NULL: out of range, no memory */
void vqueue_activate(struct vqueue *q);		/* enters or leaves vh->active as its state says */
void vqueue_reset(struct vqueue *q);		/* as if it had never been set up; nothing in flight */
/* A ring is broken, or memory is: tells whoever should know. */
void vqueue_fail(struct vqueue *q);
unsigned vhost_busy(const struct vhost *vh);
/* A queue, or all, may have come to rest: a message or the end of the connection waits for that. */
void vhost_go_on(struct vhost *vh);
void vhost_disconnect(struct vhost *vh, const char *why);

#endif
