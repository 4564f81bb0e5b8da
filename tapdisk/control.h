/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * control.h - the control socket: who connects, which commands run, in which order
 *
 * C1 Commands that change something run one at a time, in the order in which they came; those that
 *    only look (PID, LIST, STATS, QUERY, ...) are answered at once, also while such a command waits.
 * C2 A commit runs beside commands.  One that needs its disk cancels it, and waits in the queue
 *    until it has ended; it never waits inside of a turn that the commit itself has started.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include "vbd.h"

#define CONTROL_CONNS 10
#define CONTROL_TIMEOUT_NS 10000000000ULL

struct conn {
	struct list node;		/* control.conns */
	struct list qnode;		/* control.queue */
	struct control *control;
	struct watch watch;
	struct timer timer;		/* for receiving, and for sending */
	struct proto_msg msg;
	uint8_t extra[PROTO_PATH + 1 + 255];	/* what follows a message */
	unsigned have;			/* bytes of both that are here */
	bool running;			/* its command is */
	bool gone;			/* the client is; free it when the command has ended */
	uint8_t *out;
	size_t out_len, out_done;
};

struct control {
	struct server *server;
	struct watch listener;
	char *path;			/* of the socket, or NULL: inherited */
	struct list conns, queue, vbds;
	unsigned nconns;
	bool busy;
	bool ends_when_empty;		/* no device left after the last detach: the process ends */
	struct task work;
	struct list jobs;		/* commits that wait for their turn */
	struct job *job;		/* the one that runs */
	struct task job_task;
	unsigned mutant;		/* tests: JOB_MUTANT_* */
};

/* Breaks of one rule of job.c each, to see that the tests notice. */
enum {
	JOB_MUTANT_NO_FOLLOW = 1,	/* J3: what changes meanwhile is not copied again */
	JOB_MUTANT_NO_FLUSH,		/* J1: the top is emptied before all is durable below */
	JOB_MUTANT_LINK_FIRST,		/* J2: the middle is left out before it is copied */
	JOB_MUTANTS
};

int control_open(struct server *s, struct tapimg_err *err);
void control_close(struct server *s);	/* no disk of its devices is open any more */
struct vbd *control_vbd(struct control *c, int minor);
void control_kick(struct control *c);	/* the queue may go on */

/* control-ops.c */
struct proto_op {
	/* fills in reply (type and cookie are set); *more: malloc'd bytes that follow it. 0 or -errno. */
	int (*run)(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len);
	uint16_t reply;
	bool looks;			/* C1: changes nothing, never blocks */
	bool wants_disk;		/* C2: not beside a commit of the same device */
};
const struct proto_op *proto_op_of(const struct proto_msg *m);	/* NULL: no such request */
unsigned proto_extra(const struct conn *conn);	/* bytes that follow the message, as far as known */

/* job.c */
int job_start(struct control *c, struct vbd *v, const char *path, struct tapimg_err *err);
void job_cancel(struct job *j);
bool job_active(const struct job *j);		/* waits or runs */
void job_query(struct vbd *v, uint64_t *done, uint64_t *total, const char **status, int *error);
void job_free(struct vbd *v);

#endif
