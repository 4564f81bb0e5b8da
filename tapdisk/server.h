/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * server.h - one process: its loop, its disks, its front ends, and how it ends
 *
 * There is one loop and one thread that matters.  Front ends register descriptors with loop_watch()
 * and ring polling with loop_add_idler(); main() runs turns until the server has stopped.
 */
#ifndef SERVER_H
#define SERVER_H

#include "disk.h"
#include "frontend.h"

struct control;

struct server {
	struct tapimg_loop *loop;
	struct list disks;		/* of struct disk, in the order they were opened */
	struct list fronts;		/* of struct front */
	unsigned ndisks;
	unsigned numbered;		/* names made up so far */
	struct control *control;	/* the control socket, or NULL */
	struct watch signals;
	bool stopping;			/* asked to end */
	bool stopped;			/* front ends and disks are gone */
	int status;			/* exit code */
	unsigned npassed;		/* descriptors 3, 4, ... from the service manager */
	char *passed_names;		/* "a:b:c", or NULL */
	bool watching_signals;
};

int server_init(struct server *s, struct tapimg_err *err);
/* Turns until somebody has called server_stop(), then ends everything in order: front ends, disks. */
int server_run(struct server *s);
void server_stop(struct server *s);
void server_exit(struct server *s);
/* SIGTERM, SIGINT, SIGHUP end the server: through the loop. */
int server_catch_signals(struct server *s, struct tapimg_err *err);

/* By name; NULL or "": the first one. NULL: there is none. */
struct disk *server_disk(struct server *s, const char *name);
/* The one after @d, the first for NULL; NULL: no more. */
struct disk *server_next_disk(struct server *s, struct disk *d);
/* disk.c tells that a disk has come or goes */
void server_disk_event(struct server *s, struct disk *d, enum server_event ev);

/*
 * The descriptor that the service manager has passed under @name ("": the first), or -ENOENT.  They
 * are taken over once, at the start; the environment is cleared of them.
 */
int server_take_passed(struct server *s);
int server_passed_fd(const struct server *s, const char *name);
/* Tells the service manager: "READY=1", "STOPPING=1". Nothing happens without one. */
void server_notify(const char *state);

/*
 * Starts a front end from a list "key=value,key=value"; "fd=@NAME" is a descriptor that was passed.  *@out (may be NULL) becomes NULL again when
 * the front end has ended, so it has to live as long.
 */
int server_front(struct server *s, const char *kind, const char *text, struct front **out,
		 struct tapimg_err *err);
/* The same from options already taken apart. */
int server_front_opts(struct server *s, const char *kind, const struct tapimg_opt *opts, unsigned n,
		      struct front **out, struct tapimg_err *err);

/* "a=b,c=d" taken apart, ",," is a comma; a word without "=" has the value "on".  Freed by optlist_free(). */
int optlist_parse(const char *text, struct tapimg_opt **opts, unsigned *n, struct tapimg_err *err);
/* The next item of such a list, malloc'd; *@list moves on.  NULL: no memory. */
char *optlist_item(const char **list);
void optlist_free(struct tapimg_opt *opts, unsigned n);

#endif
