/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * proto.h - blktap's control protocol and its names at run time, for both ends of the socket
 *
 * A client connects to RUNDIR/ctl<pid>, sends one message and gets one back (several for LIST); both
 * are the same 544 bytes in the machine's own byte order.  With PROTO_ADD_LOG 256 bytes of path
 * follow a request, with PROTO_ENCRYPTED a byte of length and the key.
 * Source: xapi-project/blktap, tapdisk-message.h; COMMIT, QUERY and CANCEL as XCP-ng has them.
 */
#ifndef PROTO_H
#define PROTO_H

#include <stddef.h>
#include <stdint.h>

#define PROTO_PATH 256
#define PROTO_MAX_MINOR 16384

enum proto_type {
	PROTO_ERROR = 1, PROTO_RUNTIME_ERROR, PROTO_PID, PROTO_PID_RSP, PROTO_ATTACH, PROTO_ATTACH_RSP,
	PROTO_OPEN, PROTO_OPEN_RSP, PROTO_PAUSE, PROTO_PAUSE_RSP, PROTO_RESUME, PROTO_RESUME_RSP,
	PROTO_CLOSE, PROTO_CLOSE_RSP, PROTO_DETACH, PROTO_DETACH_RSP, PROTO_LIST_MINORS,
	PROTO_LIST_MINORS_RSP, PROTO_LIST, PROTO_LIST_RSP, PROTO_STATS, PROTO_STATS_RSP,
	PROTO_FORCE_SHUTDOWN, PROTO_XENBLKIF_CONNECT, PROTO_XENBLKIF_CONNECT_RSP,
	PROTO_XENBLKIF_DISCONNECT, PROTO_XENBLKIF_DISCONNECT_RSP, PROTO_DISK_INFO, PROTO_DISK_INFO_RSP,
	PROTO_EXIT, PROTO_COMMIT, PROTO_COMMIT_RSP, PROTO_QUERY, PROTO_QUERY_RSP, PROTO_CANCEL,
	PROTO_CANCEL_RSP, PROTO_TYPES
};

enum {
	PROTO_SHARED		= 0x001,
	PROTO_RDONLY		= 0x002,
	PROTO_ADD_CACHE		= 0x004,
	PROTO_VHD_INDEX		= 0x008,
	PROTO_ADD_LOG		= 0x010,
	PROTO_ADD_LCACHE	= 0x020,
	PROTO_REUSE_PARENT	= 0x040,
	PROTO_SECONDARY		= 0x080,
	PROTO_STANDBY		= 0x100,
	PROTO_NO_O_DIRECT	= 0x200,
	PROTO_ENCRYPTED		= 0x400,
};

/* States of a device, in LIST. */
enum {
	VBD_DEAD		= 0x001,
	VBD_CLOSED		= 0x002,
	VBD_QUIESCE_REQUESTED	= 0x004,
	VBD_QUIESCED		= 0x008,
	VBD_PAUSE_REQUESTED	= 0x010,
	VBD_PAUSED		= 0x020,
	VBD_SHUTDOWN_REQUESTED	= 0x040,
	VBD_RESUME_FAILED	= 0x200,
};

struct proto_msg {
	uint16_t type;
	uint16_t cookie;		/* the minor number */
	union {
		int32_t pid;
		struct {
			uint64_t sectors;
			uint32_t sector_size, info;
		} image;
		struct {
			uint32_t flags, devnum, domid;
			char path[PROTO_PATH];	/* "TYPE:PATH"; COMMIT: the layer's path */
			uint32_t parent;
			uint16_t timeout;
			char secondary[PROTO_PATH];
		} params;
		struct {
			int32_t error;
			char message[PROTO_PATH];
		} response;
		struct {
			int32_t count, minor, state;
			char path[PROTO_PATH];
		} list;
		struct {
			uint16_t type, cookie;
			uint64_t length;
		} stats;
		struct {
			uint64_t done, total;
			char status[PROTO_PATH];
		} query;
		uint8_t size[536];
	} u;
};
_Static_assert(sizeof(struct proto_msg) == 544, "the message");
_Static_assert(offsetof(struct proto_msg, u) == 8, "its union");
_Static_assert(offsetof(struct proto_msg, u.params.parent) == 8 + 268, "params");
_Static_assert(offsetof(struct proto_msg, u.params.secondary) == 8 + 274, "params");
_Static_assert(offsetof(struct proto_msg, u.stats.length) == 8 + 8, "stats");

/* "attach response", "unknown"; as tap-ctl writes it. */
const char *proto_name(unsigned type);

/* The number a text begins with, as blktap's tools read it: 0 if there is none. */
int proto_number(const char *text);

/* ----------------------------------------------------------------- run time names */

/* /run/blktap-control, or what TAPDISK_RUN_DIR says (for tests and for users without that folder). */
const char *run_dir(void);
/* RUNDIR/ctl<pid>; malloc'd, NULL: no memory. */
char *run_socket(int pid);
/* RUNDIR/tapdisk/tapdisk-<minor>, the marker file of a minor number. */
char *run_marker(int minor);
/* Makes the folders.  0 or a negative errno. */
int run_prepare(void);
/* Takes the first free minor number and makes its marker. 0 or a negative errno (-ENOSPC: none). */
int run_allocate(int *minor);
/* Removes a marker; -EAGAIN: somebody has it locked, -ENOENT. */
int run_free(int minor);
/* Opens and locks a marker; the descriptor, or -EBUSY, -ENOENT, ... */
int run_lock(int minor);

#endif
