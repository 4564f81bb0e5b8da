/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * job.c - live commit: the contents of one layer go to the layer below it, while the disk is in use
 *
 * J1 The layer that is committed keeps its contents until everything is durable below it, and so
 *    hides every change made there: whatever happens in between, the chain reads as before.
 * J2 A layer in the middle is then left out: the one above it gets the one below it as its
 *    backing file, in one durable change of its header.  Before and after, the chain reads the same.
 * J3 The top layer changes while it is copied.  What changes is noted and copied again, the last
 *    of it while requests wait; then the layer is emptied, not replaced, so that whoever opens it
 *    later has everything, whether or not they know of the commit.
 * J4 Readers go through the layer that is being written without being its requests: space that it
 *    frees is not used again until the commit is over and they have ended.
 *
 * One commit runs at a time in a process, from a task of the loop, in turns of its own.  It does not
 * survive its disk: who closes or pauses that cancels it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checked.h"
#include "control.h"
#include "dirty.h"
#include "err.h"
#include "image.h"
#include "log.h"

#define ROUNDS 10			/* over what has changed meanwhile, before requests have to wait */
#define FEW_BYTES (16 * MiB)		/* what may be left for that */
#define PIECE (1 * MiB)

struct job {
	struct list node;		/* control.jobs */
	struct control *control;
	struct vbd *vbd;		/* NULL: the device has gone, nobody will ask */
	char *path;
	unsigned layer;			/* number of the layer, from the top */
	uint64_t done, total;
	bool cancelled, running, over;
	int ret;
	struct dirty dirty;		/* layer 0 only */
	struct meta_user hold;		/* J4 */
	bool held;
};

/* ----------------------------------------------------------------- what to copy */

static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	return !strcmp(a, b) || (!stat(a, &sa) && !stat(b, &sb) && sa.st_dev == sb.st_dev &&
				 sa.st_ino == sb.st_ino);
}

static struct tapimg *layer_of(struct tapimg *img, unsigned n)
{
	while (n-- && img)
		img = img->backing;
	return img;
}

static int find_layer(struct vbd *v, const char *path, unsigned *n, struct tapimg_err *err)
{
	struct tapimg *l = disk_image(v->disk);

	*n = 0;
	if (!l)
		return err_set(err, -ENOTSUP, "%s: it is no image with layers", v->name);
	if (!(l->flags & TAPIMG_RDWR))
		return err_set(err, -EROFS, "%s: open for reading only", v->name);
	if (disk_config(v->disk)->secondary)
		return err_set(err, -EBUSY, "%s: it has a secondary image", v->name);
	for (; l && !same_file(l->path, path); l = l->backing)
		++*n;
	if (!l)
		return err_set(err, -EINVAL, "%s: no layer of %s", path, v->name);
	if (!l->backing)
		return err_set(err, -EINVAL, "%s: it has no backing file to commit to", path);
	if (!*n && !l->fmt->make_empty)
		return err_set(err, -ENOTSUP, "%s: the %s format cannot be emptied", path, l->fmt->name);
	l = *n ? layer_of(disk_image(v->disk), *n - 1) : NULL;
	if (l && !l->fmt->set_backing)
		return err_set(err, -ENOTSUP, "%s: the %s format cannot change its backing file", l->path,
			       l->fmt->name);
	return 0;
}

/* -------------------------------------------------------------------- the layers */

static struct tapimg *source(const struct job *j)
{
	return layer_of(disk_image(j->vbd->disk), j->layer);
}

/* --------------------------------------------------------- J2: the middle is left out */

/* The name as the layer has it, where both are in the same folder; else the whole path. */
static int relink(struct job *j, struct tapimg_err *err)
{
	struct tapimg *over = layer_of(disk_image(j->vbd->disk), j->layer - 1);
	struct tapimg *src = over->backing;
	const char *a = strrchr(over->path, '/'), *b = strrchr(src->path, '/');
	size_t na = a ? (size_t)(a - over->path) : 0, nb = b ? (size_t)(b - src->path) : 0;
	const char *name = src->backing_path ? src->backing_path : src->backing->path;
	char *real = NULL;
	int ret;

	if (na == nb && !strncmp(over->path, src->path, na) && src->backing_name)
		name = src->backing_name;
	else if (name[0] != '/' && !file_provided(src->loop, name))
		name = real = realpath(name, NULL);
	ret = name ? tapimg_set_backing(over, name, src->backing->fmt->name, err) :
		     err_errno(err, -errno, "%s", src->backing->path);
	free(real);
	return ret;
}

/* J4, and the size of the layer below; nothing is in flight. */
static int prepare(struct job *j, struct tapimg_err *err)
{
	struct tapimg *src = source(j), *dst = src->backing;
	int ret = 0;

	if (dst->size < src->size)
		ret = tapimg_resize(dst, src->size, TAPIMG_PREALLOC_OFF, false, err);
	if (!ret && !j->layer) {
		ret = dirty_init(&j->dirty, src->size);
		if (ret)
			err_errno(err, ret, "%s", src->path);
		else
			disk_follow(j->vbd->disk, &j->dirty);
	}
	if (!ret && j->control->mutant == JOB_MUTANT_LINK_FIRST && j->layer)
		ret = relink(j, err);
	if (!ret && dst->meta) {
		meta_enter(dst->meta, &j->hold);
		j->held = true;
	}
	return ret;
}

/* Nothing is in flight, so no reader is left either. */
static void let_go(struct job *j)
{
	if (j->held)
		meta_leave(source(j)->backing->meta, &j->hold);
	j->held = false;
	if (!j->layer) {
		disk_follow(j->vbd->disk, NULL);
		dirty_exit(&j->dirty);
	}
}

static int progress(void *arg, uint64_t done, uint64_t total)
{
	struct job *j = arg;

	j->done = done;
	j->total = total;
	return j->cancelled || j->control->server->stopping;
}

/* ---------------------------------------------------- J3: what has changed meanwhile */

static int copy_piece(struct tapimg *src, uint8_t *buf, uint64_t off, uint64_t len)
{
	int ret = tapimg_pread(src, buf, len, off);

	return ret ? ret : tapimg_pwrite(src->backing, buf, len, off);
}

/* Only what the layer holds itself: the rest is what is read below it already. */
static int copy_range(struct job *j, uint8_t *buf, uint64_t off, uint64_t len)
{
	struct tapimg *src = source(j);
	struct tapimg_status st;
	int ret = 0;

	while (len && !ret) {
		ret = tapimg_block_status(src, off, MIN(len, PIECE), 1, &st);
		if (ret)
			break;
		st.len = MIN(st.len, MIN(len, PIECE));
		if (!st.len)
			return -EIO;
		if (st.flags & TAPIMG_ST_ZERO && st.flags & TAPIMG_ST_ALLOCATED)
			ret = tapimg_zero(src->backing, off, st.len, TAPIMG_REQ_MAY_UNMAP);
		else if (st.flags & TAPIMG_ST_DATA)
			ret = copy_piece(src, buf, off, st.len);
		off += st.len;
		len -= st.len;
		if (!ret && progress(j, j->done, j->total))
			ret = -ECANCELED;
	}
	return ret;
}

static int copy_dirty(struct job *j, uint8_t *buf)
{
	uint64_t from = 0, off, len;
	int ret = 0;

	while (!ret && dirty_take(&j->dirty, from, PIECE, &off, &len)) {
		ret = copy_range(j, buf, off, len);
		from = off + len;
	}
	return ret;
}

/* Until little is left, or it does not become less. */
static int follow(struct job *j, uint8_t *buf)
{
	int ret = 0;

	for (unsigned i = 0; i < ROUNDS && !ret && j->dirty.nset << j->dirty.shift > FEW_BYTES; i++)
		ret = copy_dirty(j, buf);
	return ret;
}

static int empty_top(struct job *j, struct tapimg_err *err)
{
	struct tapimg *top = source(j);
	int ret = image_settle(top);

	if (!ret && j->control->mutant != JOB_MUTANT_NO_FLUSH)
		ret = tapimg_flush(top->backing);
	if (ret)
		return err_errno(err, ret, "%s: flushing", top->path);
	disk_settled(j->vbd->disk);
	ret = top->fmt->make_empty(top, err);
	chain_forget(top);
	return ret;
}

static int finish_top(struct job *j, struct tapimg_err *err)
{
	uint8_t *buf = malloc(PIECE);
	bool mutant = j->control->mutant == JOB_MUTANT_NO_FOLLOW;
	int ret = buf ? mutant ? 0 : follow(j, buf) : -ENOMEM;

	disk_quiesce(j->vbd->disk);
	if (!ret && !mutant)
		ret = copy_dirty(j, buf);
	if (ret)
		err_errno(err, ret, "%s", j->path);
	else
		ret = empty_top(j, err);
	let_go(j);
	free(buf);
	return ret;
}

static int finish_middle(struct job *j, struct tapimg_err *err)
{
	int ret;

	disk_quiesce(j->vbd->disk);
	ret = tapimg_flush(source(j)->backing);
	if (ret)
		err_errno(err, ret, "%s: flushing", source(j)->backing->path);
	let_go(j);
	return ret || j->control->mutant == JOB_MUTANT_LINK_FIRST ? ret : relink(j, err);
}

/* ------------------------------------------------------------------------ the job */

static int job_copy(struct job *j, struct tapimg_err *err)
{
	struct disk *d = j->vbd->disk;
	int ret;

	disk_quiesce(d);
	ret = prepare(j, err);
	if (ret) {
		let_go(j);
		return ret;
	}
	disk_unquiesce(d);
	ret = tapimg_commit(source(j), 1, false, 0, progress, j, err);
	if (!ret)
		return j->layer ? finish_middle(j, err) : finish_top(j, err);
	disk_quiesce(d);
	let_go(j);
	return ret;
}

static int job_run(struct job *j, struct tapimg_err *err)
{
	struct disk *d = j->vbd->disk;
	int ret, again;

	log_info("%s: committing %s", j->vbd->name, j->path);
	ret = disk_reopen(d, j->layer + 1, err);
	if (ret)
		return ret;
	ret = job_copy(j, err);		/* with requests held back on return */
	again = disk_reopen(d, 0, ret ? NULL : err);
	disk_unquiesce(d);
	return ret ? ret : again;
}

static void job_end(struct job *j, int ret, const struct tapimg_err *err)
{
	j->over = true;
	j->running = false;
	j->ret = ret;
	if (!ret)
		j->done = j->total;
	if (ret)
		log_error("%s: the commit has ended: %s", j->path,
			  err->text[0] ? err->text : strerror(-ret));
	else
		log_info("%s: committed", j->path);
}

static void job_task(struct task *t)
{
	struct control *c = container_of(t, struct control, job_task);
	struct list *n;

	if (c->job)
		return;		/* a turn of the one that runs; it looks for more when it is over */
	while ((n = list_pop(&c->jobs))) {
		struct job *j = list_entry(n, struct job, node);
		struct tapimg_err err = { 0 };
		int ret = -ECANCELED;

		c->job = j;
		j->running = true;
		if (!j->cancelled && !c->server->stopping)
			ret = job_run(j, &err);
		c->job = NULL;
		job_end(j, ret, &err);
		control_kick(c);
	}
}

int job_start(struct control *c, struct vbd *v, const char *path, struct tapimg_err *err)
{
	struct job *j;
	unsigned layer;
	int ret;

	if (v->job && job_active(v->job))
		return err_set(err, -EBUSY, "%s: a commit is running already", v->name);
	ret = find_layer(v, path, &layer, err);
	if (ret)
		return ret;
	j = calloc(1, sizeof(*j));
	if (!j || !(j->path = strdup(path))) {
		free(j);
		return err_errno(err, -ENOMEM, "%s", path);
	}
	j->control = c;
	j->vbd = v;
	j->layer = layer;
	j->total = layer_of(disk_image(v->disk), layer)->size;
	job_free(v);
	v->job = j;
	list_append(&c->jobs, &j->node);
	c->job_task.fn = job_task;
	if (list_empty(&c->job_task.node))
		loop_defer(c->server->loop, &c->job_task);
	return 0;
}

bool job_active(const struct job *j)
{
	return !j->over;
}

void job_cancel(struct job *j)
{
	j->cancelled = true;
}

/* A commit that is over is told of once. */
void job_query(struct vbd *v, uint64_t *done, uint64_t *total, const char **status, int *error)
{
	struct job *j = v->job;

	*done = *total = 0;
	*error = 0;
	*status = "undefined";
	if (!j)
		return;
	*done = j->done;
	*total = j->total;
	*status = j->over ? "concluded" : j->running ? "running" : "created";
	if (j->over) {
		*error = j->ret;
		job_free(v);
	}
}

void job_free(struct vbd *v)
{
	struct job *j = v->job;

	if (!j)
		return;
	v->job = NULL;
	list_del(&j->node);		/* it may wait for its turn */
	free(j->path);
	free(j);
}
