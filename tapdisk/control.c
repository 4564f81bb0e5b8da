/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * control.c - connections of the control socket, and the queue of commands
 *
 * A connection carries one command.  What arrives is hostile until it is checked: a message is
 * looked at when all 544 bytes are here, strings in it are cut off at their field's end, and
 * whoever does not send or take its bytes within ten seconds is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checked.h"
#include "control.h"
#include "err.h"
#include "log.h"
#include "sock.h"

static void conn_input(struct watch *w, uint32_t events);

static void conn_free(struct conn *c)
{
	loop_timer_cancel(&c->timer);
	list_del(&c->node);
	list_del(&c->qnode);
	if (c->watch.fd >= 0) {
		loop_unwatch(c->control->server->loop, &c->watch);
		close(c->watch.fd);
	}
	if (c->control->nconns-- == CONTROL_CONNS && c->control->listener.fd >= 0)
		loop_watch_events(c->control->server->loop, &c->control->listener, EPOLLIN);
	explicit_bzero(c->extra, sizeof(c->extra));	/* it may have been a key */
	free(c->out);
	free(c);
}

/* The client has gone, or has to go.  A running command ends first. */
static void conn_drop(struct conn *c)
{
	if (!c->running) {
		conn_free(c);
		return;
	}
	c->gone = true;
	loop_timer_cancel(&c->timer);
	loop_unwatch(c->control->server->loop, &c->watch);
	close(c->watch.fd);
	c->watch.fd = -1;
}

static void conn_deadline(struct conn *c)
{
	struct tapimg_loop *loop = c->control->server->loop;

	loop_timer_cancel(&c->timer);
	loop_timer_arm(loop, &c->timer, loop_now(loop) + CONTROL_TIMEOUT_NS);
}

static void conn_timeout(struct task *t)
{
	struct timer *timer = container_of(t, struct timer, task);
	struct conn *c = container_of(timer, struct conn, timer);

	log_warn("control: a client has taken too long");
	conn_drop(c);
}

/* --------------------------------------------------------------------- answers */

static void conn_send(struct conn *c)
{
	while (c->out_done < c->out_len) {
		ssize_t n = send(c->watch.fd, c->out + c->out_done, c->out_len - c->out_done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			loop_watch_events(c->control->server->loop, &c->watch, EPOLLOUT);
			return;
		}
		if (n <= 0)
			break;
		c->out_done += (size_t)n;
	}
	conn_drop(c);
}

static void conn_output(struct watch *w, uint32_t events)
{
	conn_send(container_of(w, struct conn, watch));
}

/* Answers with what proto_op.run() has given, and hangs up once it is out. */
static void conn_answer(struct conn *c, int ret, struct proto_msg *reply, void *more, size_t len)
{
	if (ret) {
		memset(reply, 0, sizeof(*reply));
		reply->type = PROTO_ERROR;
		reply->cookie = c->msg.cookie;
		reply->u.response.error = -ret;
		len = 0;
	}
	if (!c->gone)
		c->out = malloc(sizeof(*reply) + len);
	if (c->gone || !c->out) {
		free(more);
		conn_drop(c);
		return;
	}
	memcpy(c->out, reply, sizeof(*reply));
	if (len)
		memcpy(c->out + sizeof(*reply), more, len);
	c->out_len = sizeof(*reply) + len;
	free(more);
	c->watch.fn = conn_output;
	conn_deadline(c);
	conn_send(c);
}

/* -------------------------------------------------------------------- commands */

static void conn_run(struct conn *c, const struct proto_op *op)
{
	struct proto_msg reply = { .type = op->reply, .cookie = c->msg.cookie };
	void *more = NULL;
	size_t len = 0;
	int ret;

	c->running = true;
	loop_timer_cancel(&c->timer);
	ret = !op->looks && c->control->server->stopping ? -ESHUTDOWN :
	      op->run(c->control, c, &reply, &more, &len);
	c->running = false;
	if (ret)
		log_debug("control: '%s' of minor %u: %s", proto_name(c->msg.type), c->msg.cookie,
			  strerror(-ret));
	conn_answer(c, ret, &reply, more, len);
}

/* C2: true when it has to wait for a commit to end. */
static bool waits_for_job(struct control *c, const struct conn *conn, const struct proto_op *op)
{
	struct vbd *v = op->wants_disk ? control_vbd(c, conn->msg.cookie) : NULL;

	if (!v || !v->job || !job_active(v->job))
		return false;
	job_cancel(v->job);
	return true;
}

static void control_work(struct task *t)
{
	struct control *c = container_of(t, struct control, work);

	while (!c->busy && !list_empty(&c->queue)) {
		struct conn *conn = list_first(&c->queue, struct conn, qnode);
		const struct proto_op *op = proto_op_of(&conn->msg);

		if (waits_for_job(c, conn, op))
			return;
		list_del(&conn->qnode);
		c->busy = true;
		conn_run(conn, op);
		c->busy = false;
	}
}

void control_kick(struct control *c)
{
	if (list_empty(&c->work.node))
		loop_defer(c->server->loop, &c->work);
}

/* ----------------------------------------------------------------------- input */

static void conn_dispatch(struct conn *c)
{
	const struct proto_op *op = proto_op_of(&c->msg);

	/* the rest of this connection is of no interest, but its end is */
	loop_watch_events(c->control->server->loop, &c->watch, 0);
	if (!op) {
		struct proto_msg reply;

		log_warn("control: unsupported message '%s' (%u)", proto_name(c->msg.type), c->msg.type);
		conn_answer(c, -EINVAL, &reply, NULL, 0);
	} else if (op->looks) {
		conn_run(c, op);
	} else {
		loop_timer_cancel(&c->timer);
		c->running = false;
		list_append(&c->control->queue, &c->qnode);
		control_kick(c->control);
	}
}

/* 1: all of it is here, 0: not yet, -1: it ends here */
static int conn_read(struct conn *c)
{
	for (;;) {
		unsigned want = sizeof(c->msg);
		uint8_t *to = (uint8_t *)&c->msg + c->have;
		ssize_t n;

		if (c->have >= sizeof(c->msg)) {
			want += proto_extra(c);
			to = c->extra + (c->have - sizeof(c->msg));
		}
		if (c->have == want)
			return 1;
		n = recv(c->watch.fd, to, want - c->have, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return -1;
		c->have += (unsigned)n;
	}
}

static void conn_input(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, watch);
	int ret;

	if (c->running || !list_empty(&c->qnode)) {	/* EPOLLHUP */
		conn_drop(c);
		return;
	}
	ret = conn_read(c);
	if (ret < 0)
		conn_drop(c);
	else if (ret)
		conn_dispatch(c);
}

static void control_accept(struct watch *w, uint32_t events)
{
	struct control *c = container_of(w, struct control, listener);
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct conn *conn;

	if (fd < 0)
		return;
	conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return;
	}
	list_init(&conn->node);
	list_init(&conn->qnode);
	list_init(&conn->timer.task.node);
	conn->control = c;
	conn->timer.task.fn = conn_timeout;
	conn->watch = (struct watch){ .fd = fd, .events = EPOLLIN, .fn = conn_input };
	if (loop_watch(c->server->loop, &conn->watch)) {
		close(fd);
		free(conn);
		return;
	}
	list_append(&c->conns, &conn->node);
	conn_deadline(conn);
	if (++c->nconns == CONTROL_CONNS)
		loop_watch_events(c->server->loop, w, 0);
}

/* ------------------------------------------------------------------------ life */

struct vbd *control_vbd(struct control *c, int minor)
{
	struct list *pos;

	list_for_each(pos, &c->vbds) {
		struct vbd *v = list_entry(pos, struct vbd, node);

		if (v->minor == minor)
			return v;
	}
	return NULL;
}

int control_open(struct server *s, struct tapimg_err *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return err_errno(err, -ENOMEM, "control socket");
	list_init(&c->conns);
	list_init(&c->queue);
	list_init(&c->vbds);
	list_init(&c->jobs);
	list_init(&c->work.node);
	list_init(&c->job_task.node);
	c->server = s;
	c->work.fn = control_work;
	c->path = run_socket(getpid());
	ret = c->path ? run_prepare() : -ENOMEM;
	if (ret)
		ret = err_errno(err, ret, "%s", run_dir());
	else
		ret = sock_listen_unix(c->path, err);
	if (ret >= 0) {
		c->listener = (struct watch){ .fd = ret, .events = EPOLLIN, .fn = control_accept };
		ret = loop_watch(s->loop, &c->listener);
		if (ret) {
			err_errno(err, ret, "%s", c->path);
			close(c->listener.fd);
			unlink(c->path);
		}
	}
	if (ret) {
		free(c->path);
		free(c);
		return ret;
	}
	s->control = c;
	return 0;
}

/* Answers that are ready go out, for a moment; the last one is that of the command that ended it all. */
static void send_what_is_left(struct control *c)
{
	uint64_t until = loop_now(c->server->loop) + CONTROL_TIMEOUT_NS / 10;
	struct list *pos, *next;

	list_for_each_safe(pos, next, &c->conns) {
		struct conn *conn = list_entry(pos, struct conn, node);

		if (!conn->out)
			conn_drop(conn);
	}
	while (!list_empty(&c->conns) && loop_now(c->server->loop) < until)
		tapimg_loop_run(c->server->loop, true);
}

void control_close(struct server *s)
{
	struct control *c = s->control;

	if (!c)
		return;
	loop_unwatch(s->loop, &c->listener);
	close(c->listener.fd);
	c->listener.fd = -1;
	send_what_is_left(c);
	while (!list_empty(&c->conns))
		conn_free(list_first(&c->conns, struct conn, node));
	if (!list_empty(&c->work.node))
		list_del(&c->work.node);
	while (!list_empty(&c->vbds))
		vbd_detach(c, list_first(&c->vbds, struct vbd, node));
	unlink(c->path);
	free(c->path);
	free(c);
	s->control = NULL;
}
