/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * job.c - what long operations share: progress that can be interrupted, and making a target
 *
 * A target is made without a single flush, because nobody sees it until it is complete: the rename
 * that publishes it comes after the one sync of everything.  Only what has to be written in
 * place (a block device) is flushed as it goes.
 */
#include <time.h>

#include "job.h"
#include "name.h"
#include "open.h"

#define LOOK_NS 50000000ULL	/* how often signals are looked for */

/* ------------------------------------------------------------------ interruption */

void job_start(struct job *j, const struct cli *c, enum progress_mode mode)
{
	sigset_t set;

	progress_start(&j->progress, c, mode);
	j->looked_ns = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, &j->old);
}

static bool interrupted(void)
{
	sigset_t set;

	return !sigpending(&set) && (sigismember(&set, SIGINT) || sigismember(&set, SIGTERM) ||
				     sigismember(&set, SIGHUP));
}

int job_report(void *arg, uint64_t done, uint64_t total)
{
	struct job *j = arg;
	struct timespec ts;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
	if (now - j->looked_ns >= LOOK_NS) {
		j->looked_ns = now;
		if (interrupted())
			return 1;
	}
	return progress_report(&j->progress, done, total);
}

void job_end(struct job *j, bool ok)
{
	progress_end(&j->progress, ok);
	pthread_sigmask(SIG_SETMASK, &j->old, NULL);
}

/* ------------------------------------------------------------------------ targets */

static const char *opt_value(const struct tapimg_create_opts *o, const char *name)
{
	const char *value = NULL;

	for (unsigned i = 0; i < o->nopts; i++)
		if (!strcmp(o->opts[i].name, name))
			value = o->opts[i].value;
	return value;
}

/* Whether the image just made reads as zeroes everywhere. */
static bool reads_zero(const struct output *out, const struct tapimg_create_opts *o)
{
	const char *prealloc = opt_value(o, "preallocation");

	if (o->backing)
		return false;
	if (!tapimg_target_in_place(out->target))
		return true;
	/* a device keeps what was on it, wherever the image maps it */
	return strcmp(o->format, "raw") && !opt_value(o, "data_file") &&
	       (!prealloc || !strcmp(prealloc, "off"));
}

int output_apart(struct cli *c, const char *name, struct tapimg *src)
{
	struct tapimg *layer;
	struct file_id id;
	struct name n;

	if (name_parse(name, &n, NULL))
		return 0;	/* opening it says why */
	id = file_id_path(n.path);
	layer = chain_find_file(src, &id, n.path);
	name_free(&n);
	if (!layer)
		return 0;
	if (layer == src)
		cli_error(c, "'%s' is both source and target", name);
	else
		cli_error(c, "target '%s' is a layer of the source '%s'", name,
			  tapimg_filename(src));
	return -1;
}

int output_create(struct cli *c, const char *name, struct tapimg_create_opts *o, unsigned flags,
		  struct output *out)
{
	struct tapimg_open_opts how = {
		.format = o->format, .secret = cli_secret, .secret_arg = c,
		.key_secret = opt_value(o, "encrypt.key-secret"),
	};
	struct tapimg_err err = { 0 };
	int ret = tapimg_target_begin(c->loop, name, 0, &out->target, &err);

	if (ret) {
		cli_failed(c, name, &err, ret);
		return -1;
	}
	o->in_place = true;
	o->final_name = tapimg_target_name(out->target);
	o->secret = cli_secret;
	o->secret_arg = c;
	how.flags = flags | TAPIMG_RDWR;
	if (!tapimg_target_in_place(out->target))
		how.flags = (how.flags & ~(unsigned)TAPIMG_WRITETHROUGH) | TAPIMG_UNSAFE;
	ret = tapimg_create_open(c->loop, tapimg_target_path(out->target), o, &how, &out->img, &err);
	if (ret) {
		cli_error(c, "%s: error while creating the target: %s", name,
			  cli_why(tapimg_target_path(out->target), &err, ret));
		tapimg_target_abort(out->target);
		return -1;
	}
	out->zero = reads_zero(out, o);
	return 0;
}

int output_finish(struct cli *c, const char *name, struct output *out, bool ok)
{
	struct tapimg_err err = { 0 };
	int ret = tapimg_close(out->img, &err);

	if (ok && ret)
		cli_failed(c, name, &err, ret);
	if (!ok || ret) {
		tapimg_target_abort(out->target);
		return -1;
	}
	ret = tapimg_target_commit(out->target, &err);
	if (ret)
		cli_failed(c, name, &err, ret);
	return ret ? -1 : 0;
}
