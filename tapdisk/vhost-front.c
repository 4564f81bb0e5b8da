/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-front.c - the vhost-user-blk front end: options, the socket, the life of a connection
 *
 * One connection at a time.  When it ends, requests that run are waited for, since they use its
 * memory; then everything of it is forgotten and the next one is accepted.  What has to outlive it
 * lies in the in-flight area, which the other side keeps.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "log.h"
#include "server.h"
#include "sock.h"
#include "vhost.h"

static void vhost_cleanup(struct task *t);
static int vhost_connect(struct vhost *vh, int fd);

/* ------------------------------------------------------------------ queues */

/* Edge-triggered: the counter need not be read. */
static void on_kick(struct watch *w, uint32_t events)
{
	vqueue_run(container_of(w, struct vqueue, kick));
}

struct vqueue *vhost_queue(struct vhost *vh, uint32_t index)
{
	struct vqueue *q;

	if (index >= vh->max_queues)
		return NULL;
	q = vh->q[index];
	if (q)
		return q;
	q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	q->vh = vh;
	q->index = index;
	q->kick_fd = q->call_fd = q->err_fd = -1;
	q->enabled = vh->features && !(vh->features & BIT(VHOST_USER_F_PROTOCOL_FEATURES));
	q->kick.fn = on_kick;
	q->kick.events = EPOLLIN | EPOLLET;
	list_init(&q->node);
	list_init(&q->publish.node);
	vring_init(&q->ring, &vh->guest);
	vh->q[index] = q;
	return q;
}

static int vqueue_start(struct vqueue *q)
{
	struct vhost *vh = q->vh;
	struct vring *v = &q->ring;
	struct tapimg_err err;
	void *mem = NULL;
	int ret;

	v->packed = vh->features & BIT(VIRTIO_F_RING_PACKED);
	v->event_idx = vh->features & BIT(VIRTIO_F_EVENT_IDX);
	v->indirect = vh->features & BIT(VIRTIO_F_INDIRECT_DESC);
	if (vh->inf && q->index < vh->inf_queues && q->num <= vh->inf_num)
		mem = vh->inf + q->index * round_up(inflight_size(vh->inf_num), 64);
	ret = inflight_start(&v->inf, mem, q->num, v->packed);
	if (!ret)
		ret = vring_start(v, q->num, &q->addr, q->base, &err);
	else
		err_errno(&err, ret, "requests in flight");
	if (ret) {
		vring_stop(v);
		log_warn("%s: queue %u: %s", vh->name, q->index, err.text);
		return ret;
	}
	log_debug("%s: queue %u: %s ring of %u, from %#x, %u requests to be done again", vh->name,
		  q->index, v->packed ? "packed" : "split", q->num, vring_base(v), v->nagain);
	return 0;
}

void vqueue_activate(struct vqueue *q)
{
	struct vhost *vh = q->vh;
	bool want;

	if (!q->ring.up && q->kicked && q->have_addr && q->num)
		vqueue_start(q);
	want = q->ring.up && q->enabled && !q->ring.why;
	if (want == q->active)
		return;
	q->active = want;
	if (want)
		list_append(&vh->active, &q->node);
	else
		list_del(&q->node);
	if (list_empty(&vh->active))
		loop_remove_idler(&vh->idler);
	else if (list_empty(&vh->idler.node))
		loop_add_idler(vh->loop, &vh->idler);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void vqueue_reset(struct vqueue *q)
{
	q->kicked = q->have_addr = q->poll = false;
	q->num = q->base = 0;
	if (!list_empty(&q->publish.node))
		list_del(&q->publish.node);
	vring_stop(&q->ring);
	q->ring.why = NULL;
	vqueue_activate(q);
	if (q->kick_fd >= 0)
		loop_unwatch(q->vh->loop, &q->kick);
	close_fd(&q->kick_fd);
	close_fd(&q->call_fd);
	vqueue_free_requests(q);
}

void vqueue_fail(struct vqueue *q)
{
	static const uint64_t one = 1;
	struct vhost *vh = q->vh;

	if (vh->guest.broken) {
		vhost_disconnect(vh, "the front end has truncated memory that it shares");
		return;
	}
	if (!q->active)
		return;
	log_warn("%s: queue %u is stopped: %s", vh->name, q->index, q->ring.why);
	vqueue_activate(q);
	if (q->err_fd >= 0 && write(q->err_fd, &one, sizeof(one)) < 0)
		log_debug("%s: queue %u: err: %s", vh->name, q->index, strerror(errno));
}

unsigned vhost_busy(const struct vhost *vh)
{
	unsigned i, n = vh->syncing;

	for (i = 0; i < vh->max_queues; i++)
		if (vh->q[i])
			n += vh->q[i]->busy + vh->q[i]->ring.pushed;
	return n;
}

/* V4.  Any queue may end the connection. */
static bool on_idle(struct idler *idler, bool sleeping)
{
	struct vhost *vh = container_of(idler, struct vhost, idler);
	struct list *pos, *next;
	bool found = false;

	list_for_each_safe(pos, next, &vh->active) {
		struct vqueue *q = list_entry(pos, struct vqueue, node);

		found |= vqueue_run(q) || q->poll;
		if (!vh->connected)
			break;
		if (sleeping && q->active && !vh->held && vring_arm(&q->ring))
			found |= vqueue_run(q);
		if (!vh->connected)
			break;
	}
	return found;
}

/* ------------------------------------------------------------------ a connection */

void vhost_go_on(struct vhost *vh)
{
	if (!vh->connected) {
		if (!vhost_busy(vh) && list_empty(&vh->cleanup.node))
			loop_defer(vh->loop, &vh->cleanup);
	} else if (vhost_drained(vh) < 0) {
		vhost_disconnect(vh, "a message cannot be obeyed");
	}
}

/* Takes nothing any more; the rest when what runs has come back. */
void vhost_disconnect(struct vhost *vh, const char *why)
{
	if (!vh->connected)
		return;
	if (why)
		log_warn("%s: the connection is closed: %s", vh->name, why);
	else
		log_info("%s: disconnected", vh->name);
	vh->connected = vh->waiting = false;
	vh->held = true;
	loop_remove_idler(&vh->idler);
	loop_unwatch(vh->loop, &vh->sock);
	close_fd(&vh->fd);
	vhost_msg_clear(&vh->msg);
	vhost_go_on(vh);
}

static void on_message(struct watch *w, uint32_t events)
{
	struct vhost *vh = container_of(w, struct vhost, sock);
	int ret = vhost_receive(vh);

	if (ret == -EPIPE || ret == -ECONNRESET)
		vhost_disconnect(vh, NULL);
	else if (ret < 0)
		vhost_disconnect(vh, strerror(-ret));
	else if (vh->waiting && events & (EPOLLHUP | EPOLLERR))
		vhost_disconnect(vh, NULL);
}

static void forget_queues(struct vhost *vh)
{
	unsigned i;

	for (i = 0; i < vh->max_queues; i++) {
		struct vqueue *q = vh->q[i];

		if (!q)
			continue;
		vqueue_reset(q);
		close_fd(&q->err_fd);
		vring_exit(&q->ring);
		free(q);
		vh->q[i] = NULL;
	}
}

/* The front end is of no more use, or there is nothing it could serve. */
static void vhost_end(struct vhost *vh)
{
	if (vh->attached)
		disk_detach(&vh->user);
	if (vh->listen_fd >= 0) {
		loop_unwatch(vh->loop, &vh->listener);
		close_fd(&vh->listen_fd);
	}
	if (vh->path)
		unlink(vh->path);
	front_gone(&vh->front);
	free(vh->path);
	free(vh->name);
	free(vh);
}

/* A task of its own: whoever noticed the end may be in the middle of a queue. */
static void vhost_cleanup(struct task *t)
{
	struct vhost *vh = container_of(t, struct vhost, cleanup);

	if (vhost_busy(vh))
		return;
	if (!journal_empty(vh)) {	/* nobody shall have to do again what an orderly end can finish */
		vhost_sync(vh);
		return;
	}
	forget_queues(vh);
	vhost_forget_inflight(vh);
	guest_clear(&vh->guest);
	close_fd(&vh->backend_fd);
	if (vh->leaving || vh->listen_fd < 0)
		vhost_end(vh);
	else
		loop_watch_events(vh->loop, &vh->listener, EPOLLIN);
}

static int vhost_connect(struct vhost *vh, int fd)
{
	int ret;

	vh->fd = vh->sock.fd = fd;
	vh->sock.events = EPOLLIN;
	vh->sock.fn = on_message;
	vh->backend_fd = -1;
	vh->features = vh->protocol = 0;
	vh->status = 0;
	vh->wce = true;
	vh->waiting = vh->held = false;
	vh->msg.got = vh->msg.nfds = 0;
	guest_init(&vh->guest);
	vh->offered = vhost_features(vh) & ~vh->masked;
	vhost_update_stable(vh);
	ret = loop_watch(vh->loop, &vh->sock);
	if (ret)
		return ret;
	vh->connected = true;
	log_info("%s: connected", vh->name);
	return 0;
}

static void on_connection(struct watch *w, uint32_t events)
{
	struct vhost *vh = container_of(w, struct vhost, listener);
	int ret, fd = sock_accept(vh->listen_fd);

	if (fd < 0) {
		if (fd != -EAGAIN)
			log_warn("%s: accept: %s", vh->name, strerror(-fd));
		return;
	}
	ret = vhost_connect(vh, fd);
	if (ret) {
		log_warn("%s: %s", vh->name, strerror(-ret));
		close_fd(&vh->fd);
		return;
	}
	loop_watch_events(vh->loop, &vh->listener, 0);	/* one at a time; others wait */
}

/* ------------------------------------------------------------------ the disk */

static void on_disk(struct disk_user *u, enum disk_event ev)
{
	struct vhost *vh = container_of(u, struct vhost, user);

	if (ev == DISK_RESIZED && vh->connected)
		vhost_config_changed(vh);
	else if (ev == DISK_PAUSED || ev == DISK_SETTLED)	/* all of it is durable */
		journal_drop(vh, journal_mark(vh));
}

static void vhost_leave(struct vhost *vh)
{
	vh->leaving = true;
	if (vh->listen_fd >= 0)
		loop_watch_events(vh->loop, &vh->listener, 0);
	if (vh->connected)
		vhost_disconnect(vh, NULL);
	else if (list_empty(&vh->cleanup.node))
		loop_defer(vh->loop, &vh->cleanup);
}

static void on_disk_gone(struct disk_user *u)
{
	vhost_leave(container_of(u, struct vhost, user));
}

static const struct disk_user_ops user_ops = {
	.changed = on_disk,
	.gone = on_disk_gone,
};

/* ------------------------------------------------------------------ starting */

static const struct tapimg_opt_desc options[] = {
	{ "socket", "path", NULL, "listen at this Unix socket", 0 },
	{ "fd", "number", NULL, "inherited socket, listening or connected, in place of a path", 0 },
	{ "disk", "name", NULL, "which disk; default: the first", 0 },
	{ "queues", "1-128", "128", "most queues that a front end may use", 0 },
	{ "seg-max", "1-1022", "126", "most buffers of a request, two below the queue's size", 0 },
	{ "packed", "on|off", "on", "offer packed rings", 0 },
	{ "poll", "0-1000", "10", "look at the rings for so many microseconds before sleeping, less or not at all where "
	  "that does not help", 0 },
	{ NULL, NULL, NULL, NULL, 0 },
};

struct settings {
	const char *socket, *disk;
	uint64_t fd, queues, seg_max, poll;
	bool has_fd, packed;
};

static int number(const struct tapimg_opt *o, uint64_t min, uint64_t max, uint64_t *out,
		  struct tapimg_err *err)
{
	char *end;

	errno = 0;
	*out = strtoull(o->value, &end, 10);
	if (errno || *end || end == o->value || o->value[0] == '-' || *out < min || *out > max)
		return err_set(err, -EINVAL, "%s=%s: a number from %ju to %ju is wanted", o->name,
			       o->value, (uintmax_t)min, (uintmax_t)max);
	return 0;
}

static int on_off(const struct tapimg_opt *o, bool *out, struct tapimg_err *err)
{
	*out = !strcmp(o->value, "on");
	if (*out || !strcmp(o->value, "off"))
		return 0;
	return err_set(err, -EINVAL, "%s=%s: 'on' or 'off' is wanted", o->name, o->value);
}

static int take_setting(struct settings *s, const struct tapimg_opt *o, struct tapimg_err *err)
{
	if (!strcmp(o->name, "socket"))
		s->socket = o->value;
	else if (!strcmp(o->name, "disk"))
		s->disk = o->value;
	else if (!strcmp(o->name, "queues"))
		return number(o, 1, VHOST_QUEUES, &s->queues, err);
	else if (!strcmp(o->name, "seg-max"))
		return number(o, 1, VRING_DESCS - 2, &s->seg_max, err);
	else if (!strcmp(o->name, "poll"))
		return number(o, 0, 1000, &s->poll, err);
	else if (!strcmp(o->name, "packed"))
		return on_off(o, &s->packed, err);
	else if (!strcmp(o->name, "fd")) {
		s->has_fd = true;
		return number(o, 0, INT32_MAX, &s->fd, err);
	}
	return 0;
}

static int inherit(struct vhost *vh, int fd, struct tapimg_err *err)
{
	socklen_t len = sizeof(int);
	int listening, flags = fcntl(fd, F_GETFL);

	if (flags < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_errno(err, -errno, "fd=%d", fd);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (listening) {
		vh->listen_fd = fd;
		return 0;
	}
	return vhost_connect(vh, fd);
}

static int open_socket(struct vhost *vh, const struct settings *s, struct tapimg_err *err)
{
	int ret;

	if (s->has_fd)
		ret = inherit(vh, s->fd, err);
	else
		ret = vh->listen_fd = sock_listen_unix(s->socket, err);
	if (ret < 0 || vh->listen_fd < 0)
		return ret;
	if (!s->has_fd)
		vh->path = strdup(s->socket);
	vh->listener.fd = vh->listen_fd;
	vh->listener.events = EPOLLIN;
	vh->listener.fn = on_connection;
	ret = loop_watch(vh->loop, &vh->listener);
	return ret ? err_errno(err, ret, "%s", vh->name) : 0;
}

static struct vhost *vhost_new(struct server *srv, const struct settings *s)
{
	struct vhost *vh = calloc(1, sizeof(*vh));

	if (!vh)
		return NULL;
	vh->loop = srv->loop;
	vh->listen_fd = vh->fd = vh->backend_fd = -1;
	vh->max_queues = s->queues;
	vh->seg_max = s->seg_max;
	vh->masked = s->packed ? 0 : BIT(VIRTIO_F_RING_PACKED);
	vh->name = s->has_fd ? strdup("inherited socket") : strdup(s->socket);
	vh->cleanup.fn = vhost_cleanup;
	vh->idler.fn = on_idle;
	list_init(&vh->cleanup.node);
	list_init(&vh->idler.node);
	list_init(&vh->active);
	guest_init(&vh->guest);
	if (vh->name && getrandom(&vh->owner, sizeof(vh->owner), 0) == sizeof(vh->owner))
		return vh;
	free(vh->name);
	free(vh);
	return NULL;
}

static int vhost_start(struct server *srv, const struct tapimg_opt *opts, unsigned n,
		       struct front **out, struct tapimg_err *err)
{
	struct settings s = { .queues = VHOST_QUEUES, .seg_max = 126, .packed = true,
			      .poll = 10 };
	struct vhost *vh;
	unsigned i;
	int ret = 0;

	for (i = 0; i < n && !ret; i++)
		ret = take_setting(&s, &opts[i], err);
	if (ret)
		return ret;
	if (!s.socket == !s.has_fd)
		return err_set(err, -EINVAL, "one of socket=PATH and fd=NUMBER is wanted");
	ret = guest_catch_sigbus();
	if (ret)
		return err_errno(err, ret, "SIGBUS");
	vh = vhost_new(srv, &s);
	if (!vh)
		return err_errno(err, -ENOMEM, "vhost-user-blk");
	vh->disk = server_disk(srv, s.disk);
	if (!vh->disk) {
		ret = err_set(err, -ENOENT, "there is no disk%s%s", s.disk ? " named " : " to serve",
			      s.disk ? s.disk : "");
		goto fail;
	}
	ret = open_socket(vh, &s, err);
	if (ret < 0)
		goto fail;
	vh->user.ops = &user_ops;
	disk_attach(vh->disk, &vh->user);
	vh->attached = true;
	/* one loop for all: whoever wants most */
	loop_set_spin(vh->loop, MAX(loop_spin(vh->loop), (uint64_t)s.poll * 1000));
	*out = &vh->front;
	return 0;
fail:
	if (vh->listen_fd >= 0)
		close(vh->listen_fd);
	free(vh->path);
	free(vh->name);
	free(vh);
	return ret;
}

static void vhost_stop(struct front *f)
{
	vhost_leave(container_of(f, struct vhost, front));
}

static void vhost_stats(struct front *f, json_t *into)
{
	const struct vhost *vh = container_of(f, struct vhost, front);
	const struct list *pos;
	unsigned queues = 0;

	list_for_each(pos, &vh->active)
		queues++;
	json_object_set_new(into, "socket", json_string(vh->name));
	json_object_set_new(into, "connected", json_boolean(vh->connected));
	json_object_set_new(into, "queues", json_integer(queues));
	json_object_set_new(into, "requests", json_integer(vh->nreqs));
	json_object_set_new(into, "interrupts", json_integer(vh->ncalls));
}

const struct frontend vhost_user_frontend = {
	.name = "vhost-user-blk",
	.summary = "serve a disk to a virtual machine at a vhost-user socket",
	.opts = options,
	.start = vhost_start,
	.stop = vhost_stop,
	.stats = vhost_stats,
};
