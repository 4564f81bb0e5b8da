/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vu.h - a front end for vhost-user-blk: what a virtual machine monitor does, and its guest's driver
 *
 * For the load generator, the fuzzers and the tests.  Memory is one memfd, mapped here at user
 * addresses that are our own; guest addresses begin at VU_GPA.  Failures end the program with a
 * message, unless a function says that it answers them.
 */
#ifndef VU_H
#define VU_H

#include <stddef.h>

#include "dring.h"

#define VU_GPA 0x100000000ull
#define VU_QUEUES 16

enum { VU_GET_FEATURES = 1, VU_SET_FEATURES, VU_SET_OWNER, VU_RESET_OWNER, VU_SET_MEM_TABLE,
       VU_SET_LOG_BASE, VU_SET_LOG_FD, VU_SET_VRING_NUM, VU_SET_VRING_ADDR, VU_SET_VRING_BASE,
       VU_GET_VRING_BASE, VU_SET_VRING_KICK, VU_SET_VRING_CALL, VU_SET_VRING_ERR,
       VU_GET_PROTOCOL_FEATURES, VU_SET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM, VU_SET_VRING_ENABLE,
       VU_SET_BACKEND_REQ_FD = 21, VU_GET_CONFIG = 24, VU_SET_CONFIG, VU_GET_INFLIGHT_FD = 31,
       VU_SET_INFLIGHT_FD, VU_RESET_DEVICE = 34, VU_GET_MAX_MEM_SLOTS = 36, VU_ADD_MEM_REG,
       VU_REM_MEM_REG, VU_SET_STATUS, VU_GET_STATUS };
enum { VU_IN = 0, VU_OUT = 1, VU_FLUSH = 4, VU_GET_ID = 8, VU_DISCARD = 11, VU_WRITE_ZEROES = 13 };

#define VU_BIT(n) (1ull << (n))
#define VU_F_EVENT_IDX VU_BIT(29)
#define VU_F_INDIRECT VU_BIT(28)
#define VU_F_PROTOCOL VU_BIT(30)
#define VU_F_PACKED VU_BIT(34)
#define VU_F_LOG_ALL VU_BIT(26)

struct vu_msg {
	uint32_t request, flags, size;
	uint8_t payload[512];
	int fd;			/* of an answer, or -1 */
};

/* One request. The memory that the device sees (header, status) is the queue's. */
struct vu_req {
	unsigned slot;
	uint32_t type;
	uint64_t sector;
	uint64_t data;		/* offset in memory */
	uint32_t len;
	void *opaque;
	uint8_t status;		/* when done; 0 is good */
	uint32_t used_len;
	bool busy;
};

struct vu_queue {
	struct dring ring;
	unsigned num;
	uint64_t ring_off, slots_off;	/* in memory */
	int kick, call;			/* eventfds */
	struct vu_req *req;
	unsigned *free, nfree;
	bool started;
};

struct vu {
	const char *path;
	int fd, memfd, inflight_fd;
	int backend_fd;			/* our end of the channel towards us, or -1 */
	uint64_t inflight_size;
	uint8_t *mem;
	uint64_t size, top;		/* of memory; used so far */
	uint64_t want;			/* features to use if offered */
	uint64_t want_protocol;
	uint64_t features, protocol;	/* in use */
	uint64_t offered;
	uint8_t config[60];
	unsigned nq, num;
	bool poll;			/* do not ask for calls */
	struct vu_queue q[VU_QUEUES];
};

void vu_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Memory and settings, nothing is sent. want: all of VU_F_*; nq queues of num entries. */
void vu_init(struct vu *v, const char *path, uint64_t mem, unsigned nq, unsigned num);
void vu_exit(struct vu *v);
uint64_t vu_alloc(struct vu *v, uint64_t len);	/* page-aligned, zeroed; offset in memory */
/* Connects, waiting at most @ms for somebody to listen. 0 or -errno. */
int vu_dial(struct vu *v, unsigned ms);
/* The whole way from a fresh socket to running queues. */
void vu_start(struct vu *v);
/* The parts of it. */
void vu_negotiate(struct vu *v);
void vu_share_memory(struct vu *v);
void vu_start_queue(struct vu *v, unsigned i, uint32_t base);
uint32_t vu_stop_queue(struct vu *v, unsigned i);
/* The server has died: the same guest goes on with another one. -errno if none comes within @ms. */
int vu_reconnect(struct vu *v, unsigned ms);

/* Messages.  Sending answers -errno; need_reply reads the acknowledgement as well: its value in *@ack. */
int vu_send(struct vu *v, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	    const int *fds, unsigned nfds);
int vu_recv(struct vu *v, struct vu_msg *m);	/* -errno; -EPIPE: closed */
uint64_t vu_ask64(struct vu *v, uint32_t request);
void vu_tell(struct vu *v, uint32_t request, const void *payload, uint32_t size, int fd);
/* With need_reply: the acknowledgement, 0 is good; -EPIPE: the connection was closed instead. */
int64_t vu_tell_ack(struct vu *v, uint32_t request, const void *payload, uint32_t size, int fd);
int vu_get_config(struct vu *v, uint32_t offset, uint32_t size, uint8_t *out);
int64_t vu_set_wce(struct vu *v, uint8_t on);

/* Requests.  NULL: no room.  Visible after vu_kick(). */
struct vu_req *vu_submit(struct vu *v, unsigned q, uint32_t type, uint64_t sector, uint64_t data,
			 uint32_t len, void *opaque);
void vu_kick(struct vu *v, unsigned q);
/* The next finished one, which is free again afterwards; NULL: none. */
struct vu_req *vu_poll(struct vu *v, unsigned q);
/* The same, waiting up to @ms for the call. NULL: time is over. */
struct vu_req *vu_wait(struct vu *v, unsigned q, int ms);
/* One request from start to end; its status, or -ETIMEDOUT. */
int vu_do(struct vu *v, unsigned q, uint32_t type, uint64_t sector, uint64_t data, uint32_t len);

#endif
