/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk.c - the way of a request through a disk, users, pausing
 *
 * What every request costs here is two counters at each end and one test: whether anything can
 * hold it back.  Opening is in disk-config.c and disk-image.c, drivers without an image in
 * disk-mem.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cbt.h"
#include "checked.h"
#include "dirty.h"
#include "disk-impl.h"
#include "err.h"
#include "log.h"

#define NSEC 1000000000LL
#define BURST_NS (NSEC / 10)	/* what was not used for so long may be used at once */

/* ----------------------------------------------------------------- accounting */

static void page_submitted(struct stats_page *p, const struct tapimg_req *req)
{
	if (req->op == TAPIMG_READ) {
		p->read_reqs_submitted++;
		p->read_sectors += req->len >> 9;
	} else if (req->op == TAPIMG_WRITE) {
		p->write_reqs_submitted++;
		p->write_sectors += req->len >> 9;
	}
}

static void page_completed(struct stats_page *p, const struct tapimg_req *req, uint64_t ns)
{
	if (req->op == TAPIMG_READ) {
		p->read_reqs_completed++;
		p->read_total_ticks += ns / 1000;
	} else if (req->op == TAPIMG_WRITE) {
		p->write_reqs_completed++;
		p->write_total_ticks += ns / 1000;
	}
	if (req->ret)
		p->io_errors++;
}

void disk_complete(struct disk *d, struct disk_req *r, int ret)
{
	uint64_t ns = loop_now(d->loop) - r->start_ns;
	unsigned op = r->req.op;

	if (ret) {
		if (ret == -ENOSPC && d->catches_nospace && disk_nospace(d, r))
			return;
		d->st.op[op].failed++;
	}
	r->req.ret = ret;
	d->st.op[op].completed++;
	d->st.op[op].ns += ns;
	if (d->page)
		page_completed(d->page, &r->req, ns);
	d->inflight--;
	r->done(r);
}

/* ------------------------------------------------------------------- the way in */

/* A request that is not to be carried out. */
static void disk_refuse(struct disk *d, struct disk_req *r, int ret)
{
	r->req.ret = ret;
	d->st.op[r->req.op].failed++;
	r->done(r);
}

static void tell_followers(struct disk *d, const struct tapimg_req *req)
{
	if (d->dirty)
		dirty_mark(d->dirty, req->off, req->len);
	if (d->log)
		cbt_mark(d->log, req->off, req->len);
}

static void disk_start(struct disk *d, struct disk_req *r)
{
	struct tapimg_req *req = &r->req;

	r->start_ns = loop_now(d->loop);
	r->legs = 0;
	d->st.op[req->op].submitted++;
	d->st.op[req->op].bytes += req->len;
	if (d->page)
		page_submitted(d->page, req);
	d->inflight++;
	if (!d->props.writeback && (req->op == TAPIMG_WRITE || req->op == TAPIMG_ZERO))
		req->flags |= TAPIMG_REQ_FUA;
	if (d->followed && req->op != TAPIMG_READ && req->op != TAPIMG_FLUSH)
		tell_followers(d, req);
	d->drv->submit(d, r);
}

/* What may be done until now; never more than BURST_NS is worth, but one request always. */
static void bucket_fill(struct bucket *b, uint64_t ns)
{
	int64_t most = (int64_t)b->rate * BURST_NS;
	int64_t add;

	if (!b->rate)
		return;
	if (__builtin_mul_overflow((int64_t)b->rate, (int64_t)ns, &add) ||
	    __builtin_add_overflow(b->have, add, &b->have) || b->have > most)
		b->have = most;
}

static void bucket_take(struct bucket *b, uint64_t n)
{
	int64_t cost;

	if (!b->rate)
		return;
	if (__builtin_mul_overflow((int64_t)MIN(n, (uint64_t)INT64_MAX), NSEC, &cost) ||
	    __builtin_sub_overflow(b->have, cost, &b->have))
		b->have = INT64_MIN / 2;
}

/* ns until it is not empty any more */
static uint64_t bucket_wait(const struct bucket *b)
{
	return b->rate && b->have < 0 ? (uint64_t)(-b->have) / b->rate + 1 : 0;
}

/* Takes what a request needs from the buckets, or says that it has to wait. */
static bool limit_take(struct disk *d, const struct tapimg_req *req)
{
	uint64_t now = loop_now(d->loop), wait;

	bucket_fill(&d->bytes, now - d->refill_ns);
	bucket_fill(&d->reqs, now - d->refill_ns);
	d->refill_ns = now;
	wait = MAX(bucket_wait(&d->bytes), bucket_wait(&d->reqs));
	if (wait) {
		d->held |= HELD_RATE;
		loop_timer_cancel(&d->timer);
		loop_timer_arm(d->loop, &d->timer, now + wait);
		return false;
	}
	if (req->op == TAPIMG_READ || req->op == TAPIMG_WRITE)
		bucket_take(&d->bytes, req->len);
	if (req->op != TAPIMG_FLUSH)
		bucket_take(&d->reqs, 1);
	return true;
}

/* The less usual way: something may hold it back. */
static void disk_submit_slow(struct disk *d, struct disk_req *r)
{
	if (d->closed) {
		disk_refuse(d, r, -ESHUTDOWN);
		return;
	}
	if (d->held || !limit_take(d, &r->req)) {
		d->st.held++;
		list_append(&d->waiting, &r->node);
		return;
	}
	disk_start(d, r);
}

void disk_submit(struct disk *d, struct disk_req *r)
{
	r->disk = d;
	if (__builtin_expect(d->held || d->limited, false))
		disk_submit_slow(d, r);
	else
		disk_start(d, r);
}

/* ------------------------------------------------------------ holding, letting go */

void disk_bar(struct disk *d, unsigned why)
{
	d->held |= why;
}

void disk_unbar(struct disk *d, unsigned why)
{
	struct disk_req *r;

	d->held &= ~why;
	while (!d->held && !list_empty(&d->waiting)) {
		r = list_first(&d->waiting, struct disk_req, node);
		if (d->limited && !limit_take(d, &r->req))
			break;
		list_del(&r->node);
		d->held |= HELD_BEHIND;
		disk_start(d, r);
		d->held &= ~HELD_BEHIND;
	}
}

static void disk_timer(struct task *t)
{
	struct timer *timer = container_of(t, struct timer, task);

	disk_unbar(container_of(timer, struct disk, timer), HELD_RATE | HELD_NOSPACE);
}

void disk_drain(struct disk *d)
{
	while (d->inflight && tapimg_loop_run(d->loop, true) >= 0)
		;
}

void disk_quiesce(struct disk *d)
{
	d->quiesced++;
	disk_bar(d, HELD_QUIESCED);
	disk_drain(d);
}

void disk_unquiesce(struct disk *d)
{
	if (!--d->quiesced)
		disk_unbar(d, HELD_QUIESCED);
}

/* Requests that wait will not be carried out. */
static void disk_fail_waiting(struct disk *d, int ret)
{
	struct list *n;

	while ((n = list_pop(&d->waiting)))
		disk_refuse(d, list_entry(n, struct disk_req, node), ret);
}

/* ----------------------------------------------------------------------- users */

void disk_attach(struct disk *d, struct disk_user *u)
{
	u->disk = d;
	list_append(&d->users, &u->node);
}

void disk_detach(struct disk_user *u)
{
	list_del(&u->node);
	u->disk = NULL;
}

void disk_tell(struct disk *d, enum disk_event ev)
{
	struct list *pos, *next;

	for (pos = d->users.next; pos != &d->users; pos = next) {
		struct disk_user *u = list_entry(pos, struct disk_user, node);

		next = pos->next;
		if (u->ops->changed)
			u->ops->changed(u, ev);
	}
}

/* Everybody leaves, in their own time; each may take others with it. */
static void disk_send_away(struct disk *d)
{
	struct list leaving;
	struct list *n;

	list_init(&leaving);
	list_splice(&leaving, &d->users);
	while ((n = list_pop(&leaving))) {
		struct disk_user *u = list_entry(n, struct disk_user, node);

		list_append(&d->users, &u->node);
		u->ops->gone(u);
	}
	while (!list_empty(&d->users) && tapimg_loop_run(d->loop, true) >= 0)
		;
}

/* ---------------------------------------------------------- life, pausing, size */

const struct disk_props *disk_props(const struct disk *d)
{
	return &d->props;
}

const struct disk_config *disk_config(const struct disk *d)
{
	return &d->cfg;
}

const struct disk_stats *disk_stats(const struct disk *d)
{
	return &d->st;
}

struct tapimg *disk_image(struct disk *d)
{
	return d->held & HELD_PAUSED ? NULL : d->img;
}

bool disk_paused(const struct disk *d)
{
	return d->held & HELD_PAUSED;
}

bool disk_hold(struct disk *d)
{
	if (d->held & (HELD_PAUSED | HELD_QUIESCED) || d->closing)
		return false;
	d->inflight++;
	return true;
}

void disk_unhold(struct disk *d)
{
	d->inflight--;
}

struct tapimg_loop *disk_loop(const struct disk *d)
{
	return d->loop;
}

void disk_set_writeback(struct disk *d, bool on)
{
	d->props.writeback = on;
}

void disk_follow(struct disk *d, struct dirty *dirty)
{
	d->dirty = dirty;
	d->followed = d->dirty || d->log;
}

void disk_set_log(struct disk *d, struct cbt *log)
{
	d->log = log;
	d->followed = d->dirty || d->log;
}

void disk_set_page(struct disk *d, struct stats_page *page)
{
	d->page = page;
}

static void disk_free(struct disk *d)
{
	loop_timer_cancel(&d->timer);
	disk_image_exit(d);
	disk_config_clear(&d->cfg);
	free((char *)d->props.name);
	free((char *)d->props.id);
	free(d);
}

static void set_limits(struct disk *d)
{
	d->bytes = (struct bucket){ .rate = d->cfg.rate_bytes };
	d->reqs = (struct bucket){ .rate = d->cfg.rate_reqs };
	d->limited = d->bytes.rate || d->reqs.rate;
	d->refill_ns = loop_now(d->loop);
}

/* A name nobody has: "disk0", "disk1", ... */
static char *made_up_name(struct server *s)
{
	char *name;

	do {
		if (asprintf(&name, "disk%u", s->numbered++) < 0)
			return NULL;
	} while (server_disk(s, name) && (free(name), true));
	return name;
}

static struct disk *disk_new(struct server *s, const struct disk_config *c)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	list_init(&d->node);
	list_init(&d->waiting);
	list_init(&d->users);
	list_init(&d->copies);
	list_init(&d->timer.task.node);
	d->timer.task.fn = disk_timer;
	d->memfd = -1;
	d->server = s;
	d->loop = s->loop;
	d->drv = disk_driver(c->driver);
	d->props.name = c->name ? strdup(c->name) : made_up_name(s);
	d->props.id = strdup(c->serial ? c->serial : d->props.name ? d->props.name : "");
	d->props.block_size = c->block_size;
	d->props.read_only = c->read_only;
	d->props.discard = c->discard;
	d->props.writeback = !c->writethrough;
	if (!d->props.name || !d->props.id || disk_config_copy(&d->cfg, c)) {
		disk_free(d);
		return NULL;
	}
	set_limits(d);
	return d;
}

/* The end must not lie inside of a block that clients address as a whole. */
static int check_size(const struct disk *d, struct tapimg_err *err)
{
	if (d->props.block_size > 512 && !is_aligned(d->props.size, d->props.block_size))
		return err_set(err, -EINVAL, "%s: its size of %llu bytes is no multiple of the block size %u",
			       d->cfg.path, (unsigned long long)d->props.size, d->props.block_size);
	return 0;
}

int disk_open(struct server *s, const struct disk_config *c, struct disk **out, struct tapimg_err *err)
{
	struct disk *d;
	int ret;

	if (!c->driver || !disk_driver(c->driver))
		return err_set(err, -ENOENT, "%s: no such driver", c->driver ? c->driver : "(none)");
	if (c->name && server_disk(s, c->name))
		return err_set(err, -EEXIST, "%s: there is a disk of this name already", c->name);
	d = disk_new(s, c);
	if (!d)
		return err_errno(err, -ENOMEM, "%s", c->path);
	ret = d->drv->open(d, c, err);
	if (!ret) {
		ret = check_size(d, err);
		if (ret)
			d->drv->close(d, NULL);
	}
	if (ret) {
		disk_free(d);
		return ret;
	}
	list_append(&s->disks, &d->node);
	s->ndisks++;
	if (out)
		*out = d;
	server_disk_event(s, d, SERVER_DISK_ADDED);
	return 0;
}

void disk_give_up(struct disk *d)
{
	if (!(d->held & HELD_PAUSED))
		return;
	d->limited = true;		/* the slow way, which looks at closed */
	d->closed = true;
	disk_fail_waiting(d, -ESHUTDOWN);
}

int disk_close(struct disk *d, bool force, struct tapimg_err *err)
{
	int ret = 0;

	d->closing = true;
	if (force || d->held & HELD_PAUSED) {
		/* what waits will never be done; the rest ends by itself */
		d->limited = d->closed = true;
		disk_fail_waiting(d, -ESHUTDOWN);
	} else {
		d->limited = false;
		d->catches_nospace = false;
		disk_unbar(d, HELD_RATE | HELD_NOSPACE);
	}
	server_disk_event(d->server, d, SERVER_DISK_REMOVED);
	disk_send_away(d);
	disk_drain(d);
	if (!(d->held & HELD_PAUSED))
		ret = d->drv->close(d, err);
	list_del(&d->node);
	d->server->ndisks--;
	disk_free(d);
	return ret;
}

void disk_settled(struct disk *d)
{
	disk_tell(d, DISK_SETTLED);
}

int disk_pause(struct disk *d, struct tapimg_err *err)
{
	int ret;

	if (d->held & HELD_PAUSED)
		return 0;
	disk_quiesce(d);
	ret = d->drv->close(d, err);
	disk_bar(d, HELD_PAUSED);
	disk_unquiesce(d);
	disk_tell(d, DISK_PAUSED);
	if (ret)
		log_error("%s: %s", d->props.name, err && err->text[0] ? err->text : strerror(-ret));
	return ret;
}

/* Opens what @c says behind the same disk. */
static int open_other(struct disk *d, const struct disk_config *c, struct tapimg_err *err)
{
	const struct disk_driver *old = d->drv;
	uint64_t size = d->props.size;
	int ret;

	d->drv = disk_driver(c->driver);
	ret = d->drv->open(d, c, err);
	if (ret) {
		d->drv = old;
		return ret;
	}
	ret = check_size(d, err);
	if (!ret && c->keep_size && d->props.size != size)
		ret = err_set(err, -EMEDIUMTYPE, "%s: its size is %llu bytes, that of the disk %llu",
			      c->path, (unsigned long long)d->props.size, (unsigned long long)size);
	if (ret) {
		d->drv->close(d, NULL);
		d->props.size = size;
		d->drv = old;
	}
	return ret;
}

static int resume_config(struct disk_config *c, const struct disk *d, const char *target,
			 const char *secondary, struct tapimg_err *err)
{
	int ret = disk_config_copy(c, &d->cfg);

	if (ret)
		return err_errno(err, ret, "%s", d->props.name);
	if (secondary)
		ret = disk_config_opt(c, "secondary", secondary, err);
	if (!ret && target)
		ret = disk_config_target(c, target, err);
	return ret;
}

int disk_resume(struct disk *d, const char *target, const char *secondary, struct tapimg_err *err)
{
	struct disk_config c;
	uint64_t size = d->props.size;
	int ret;

	if (!(d->held & HELD_PAUSED))
		return err_set(err, -EINVAL, "%s: not paused", d->props.name);
	d->rdwr_layers = 0;
	disk_config_init(&c);
	ret = resume_config(&c, d, target, secondary, err);
	if (!ret)
		ret = open_other(d, &c, err);
	if (ret) {
		disk_config_clear(&c);
		return ret;
	}
	disk_config_clear(&d->cfg);
	d->cfg = c;
	if (d->props.size != size)
		disk_tell(d, DISK_RESIZED);
	disk_unbar(d, HELD_PAUSED);
	disk_tell(d, DISK_RESUMED);
	return 0;
}

int disk_reopen(struct disk *d, unsigned rdwr_layers, struct tapimg_err *err)
{
	unsigned before = d->rdwr_layers;
	int ret, again;

	if (d->held & HELD_PAUSED)
		return err_set(err, -EBUSY, "%s: paused", d->props.name);
	disk_quiesce(d);
	ret = d->drv->close(d, err);
	if (ret)
		log_error("%s: closing: %s", d->props.name, strerror(-ret));
	d->rdwr_layers = rdwr_layers;
	ret = d->drv->open(d, &d->cfg, err);
	if (ret) {
		d->rdwr_layers = before;
		again = d->drv->open(d, &d->cfg, NULL);
		if (again) {
			log_error("%s: cannot be opened again, it is paused: %s", d->props.name,
				  strerror(-again));
			d->rdwr_layers = 0;
			disk_bar(d, HELD_PAUSED);
		}
	}
	disk_unquiesce(d);
	if (d->held & HELD_PAUSED)
		disk_tell(d, DISK_PAUSED);
	return ret;
}

int disk_resize(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	uint64_t old = d->props.size;
	int ret;

	if (d->held & HELD_PAUSED)
		return err_set(err, -EBUSY, "%s: paused", d->props.name);
	if (!is_aligned(size, MAX(d->props.block_size, 512)))
		return err_set(err, -EINVAL, "%s: %llu is no multiple of the block size", d->props.name,
			       (unsigned long long)size);
	disk_quiesce(d);
	ret = d->drv->resize(d, size, err);
	disk_unquiesce(d);
	if (d->props.size != old)
		disk_tell(d, DISK_RESIZED);
	return ret;
}
