/* SPDX-License-Identifier: BSD-2-Clause */
/* served.h - starting and stopping a tapdisk under test */
#ifndef SERVED_H
#define SERVED_H

#include <stdbool.h>
#include <sys/types.h>

struct served {
	pid_t pid;
	char socket[100];
	char log[100];		/* what it has printed */
	const char *preload;	/* LD_PRELOAD, or NULL */
	bool control;		/* tap-ctl can reach it */
	int fd;			/* inherited in place of a socket's path, or -1 */
};

/* Path of a program of this build. */
const char *served_tool(const char *name);
void served_init(struct served *s);
/* Starts it with "--disk @disk" and more options of the front end (",queues=1"); both lasting. */
void served_start(struct served *s, const char *disk, const char *more);
/* SIGTERM, and the exit code; 128 + signal if it died of one; -1: it did not end. */
int served_stop(struct served *s);
/* SIGKILL, and waits for it. */
void served_kill(struct served *s);
bool served_alive(const struct served *s);
/* Runs a command line that has to succeed. */
void served_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool served_log_has(const struct served *s, const char *text);

#endif
