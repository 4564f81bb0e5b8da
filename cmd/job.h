/* SPDX-License-Identifier: BSD-2-Clause */
/* job.h - what long operations share: progress that can be interrupted, and making a target */
#ifndef JOB_H
#define JOB_H

#include <signal.h>

#include "cmd.h"

/*
 * From job_start() on SIGINT, SIGTERM and SIGHUP wait: job_report() sees them and cancels, so that
 * the verb can tidy up; job_end() lets them through, and they end the program as they always do.
 */
struct job {
	struct progress progress;
	uint64_t looked_ns;
	sigset_t old;
};
void job_start(struct job *j, const struct cli *c, enum progress_mode mode);
int job_report(void *job, uint64_t done, uint64_t total);	/* a tapimg_progress */
void job_end(struct job *j, bool ok);

/* A target under construction: it has its final name only after output_finish(). */
struct output {
	struct tapimg_target *target;
	struct tapimg *img;
	bool zero;		/* reads as zeroes */
};
/*
 * Makes @name as @o says and opens it for writing with @flags (TAPIMG_*).  0 or -1 after a
 * message, with nothing left behind.
 */
int output_create(struct cli *c, const char *name, struct tapimg_create_opts *o, unsigned flags,
		  struct output *out);
/* Complains if @name is a file of @src or of a layer below it: 0 or -1. */
int output_apart(struct cli *c, const char *name, struct tapimg *src);
/* @ok: closes, gives it its name durably.  Otherwise it vanishes.  0 or -1 after a message. */
int output_finish(struct cli *c, const char *name, struct output *out, bool ok);

#endif
