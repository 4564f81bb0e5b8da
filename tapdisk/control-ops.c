/* SPDX-License-Identifier: BSD-2-Clause */
/* control-ops.c - what each message of the control protocol does */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "control.h"
#include "log.h"

/* A string of a message: its field may be full to the last byte. */
static int field(const char *src, char dst[PROTO_PATH + 1])
{
	size_t n = strnlen(src, PROTO_PATH);

	memcpy(dst, src, n);
	dst[n] = 0;
	return n == PROTO_PATH ? -EINVAL : 0;
}

unsigned proto_extra(const struct conn *conn)
{
	unsigned flags = conn->msg.u.params.flags, n = 0;

	if (conn->msg.type != PROTO_OPEN && conn->msg.type != PROTO_RESUME)
		return 0;
	if (flags & PROTO_ADD_LOG)
		n += PROTO_PATH;
	if (conn->msg.type == PROTO_OPEN && flags & PROTO_ENCRYPTED) {
		n++;
		if (conn->have >= sizeof(conn->msg) + n)
			n += conn->extra[n - 1];
	}
	return n;
}

static struct vbd *its_vbd(struct control *c, const struct conn *conn)
{
	return control_vbd(c, conn->msg.cookie);
}

static void log_failure(const struct conn *conn, const struct tapimg_err *err, int ret)
{
	if (ret)
		log_error("minor %u: %s: %s", conn->msg.cookie, proto_name(conn->msg.type),
			  err->text[0] ? err->text : strerror(-ret));
}

/* ---------------------------------------------------------------------- looking */

static int op_pid(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	reply->u.pid = getpid();
	return 0;
}

/* A message for each device, then one whose count is 0: that one comes first in memory. */
static int op_list(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct proto_msg *list, *m;
	struct list *pos;
	int n = 0;

	list_for_each(pos, &c->vbds)
		n++;
	list = calloc((size_t)n + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	m = list;
	list_for_each(pos, &c->vbds) {
		struct vbd *v = list_entry(pos, struct vbd, node);

		m->u.list.count = n - (int)(m - list);
		m->u.list.minor = v->minor;
		m->u.list.state = (int)vbd_state(v);
		if (v->name)
			strncpy(m->u.list.path, v->name, PROTO_PATH - 1);
		m++;
	}
	m->u.list.minor = -1;
	for (m = list; m <= list + n; m++) {
		m->type = reply->type;
		m->cookie = reply->cookie;
	}
	*reply = *list;
	memmove(list, list + 1, (size_t)n * sizeof(*list));
	*more = list;
	*len = (size_t)n * sizeof(*list);
	return 0;
}

static int op_disk_info(struct control *c, struct conn *conn, struct proto_msg *reply, void **more,
			size_t *len)
{
	struct vbd *v = its_vbd(c, conn);

	if (!v || !v->disk)
		return -ENODEV;
	reply->u.image.sectors = disk_props(v->disk)->size / 512;
	reply->u.image.sector_size = 512;
	reply->u.image.info = 0;
	return 0;
}

/* One device, or with the number 65535 all of them as a list. */
static int op_stats(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);
	const char *before = "[ ";
	char *text = NULL, *one;
	struct list *pos;
	size_t n;
	FILE *f;

	if (conn->msg.cookie != UINT16_MAX) {
		if (!v)
			return -ENODEV;
		*more = vbd_stats(v, len);
		reply->u.stats.length = *len;
		return *more ? 0 : -ENOMEM;
	}
	f = open_memstream(&text, len);
	if (!f)
		return -ENOMEM;
	list_for_each(pos, &c->vbds) {
		one = vbd_stats(list_entry(pos, struct vbd, node), &n);
		fprintf(f, "%s%s", before, one ? one : "{ }");
		before = ", ";
		free(one);
	}
	fprintf(f, "%s ]", list_empty(&c->vbds) ? before : "");
	if (fclose(f)) {
		free(text);
		return -ENOMEM;
	}
	*more = text;
	reply->u.stats.length = *len;
	return 0;
}

static int op_query(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);
	const char *status;
	int error;

	if (!v)
		return -ENODEV;
	if (!v->disk || disk_paused(v->disk))
		return -EBADF;
	job_query(v, &reply->u.query.done, &reply->u.query.total, &status, &error);
	strncpy(reply->u.query.status, status, PROTO_PATH - 1);
	return error;
}

/* Xen's rings need a hypervisor, whose interfaces are not built in. */
static int op_xen(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	log_error("minor %u: there are no Xen rings in this build", conn->msg.cookie);
	return its_vbd(c, conn) ? -ENOTSUP : -ENODEV;
}

/* --------------------------------------------------------------------- changing */

static int op_attach(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	if (control_vbd(c, conn->msg.cookie))
		return -EEXIST;
	return vbd_attach(c, conn->msg.cookie, false, NULL);
}

static int op_detach(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);
	int ret = v ? vbd_detach(c, v) : -ENODEV;

	if (!ret && list_empty(&c->vbds) && c->ends_when_empty)
		server_stop(c->server);
	return ret;
}

static int op_open(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	char target[PROTO_PATH + 1], secondary[PROTO_PATH + 1], logpath[PROTO_PATH + 1];
	unsigned flags = conn->msg.u.params.flags;
	struct vbd_open o = { .target = target, .flags = flags };
	struct vbd *v = its_vbd(c, conn);
	struct tapimg_err err = { 0 };
	int ret;

	if (!v)
		return -EINVAL;
	if (v->disk)
		return -EALREADY;
	if (field(conn->msg.u.params.path, target) || field(conn->msg.u.params.secondary, secondary))
		return -EINVAL;
	if (flags & PROTO_SECONDARY)
		o.secondary = secondary;
	if (flags & PROTO_ADD_LOG) {
		if (field((char *)conn->extra, logpath))
			return -EINVAL;
		o.log = logpath;
	}
	if (flags & PROTO_ENCRYPTED) {		/* behind the log's path: its length, then the key */
		const uint8_t *p = (uint8_t *)conn->extra + (flags & PROTO_ADD_LOG ? PROTO_PATH : 0);

		o.key_len = *p;
		o.key = p + 1;
	}
	ret = vbd_open(v, &o, &err);
	log_failure(conn, &err, ret);
	if (ret)
		return ret;
	return op_disk_info(c, conn, reply, more, len);
}

static int op_close(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);
	struct tapimg_err err = { 0 };
	int ret;

	if (!v)
		return -ENODEV;
	if (!v->disk)
		return 0;
	ret = vbd_close(v, conn->msg.type == PROTO_FORCE_SHUTDOWN, &err);
	log_failure(conn, &err, ret);
	return ret;
}

static int op_pause(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);
	struct tapimg_err err = { 0 };
	int ret;

	if (!v)
		return -ENODEV;
	ret = vbd_pause(v, &err);
	log_failure(conn, &err, ret);
	return ret;
}

static int op_resume(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	char target[PROTO_PATH + 1], secondary[PROTO_PATH + 1], logpath[PROTO_PATH + 1];
	unsigned flags = conn->msg.u.params.flags;
	struct vbd *v = its_vbd(c, conn);
	struct tapimg_err err = { 0 };
	int ret;

	if (!v)
		return -ENODEV;
	if (field(conn->msg.u.params.path, target) || field(conn->msg.u.params.secondary, secondary) ||
	    (flags & PROTO_ADD_LOG && field((char *)conn->extra, logpath)))
		return -EINVAL;
	ret = vbd_resume(v, target[0] ? target : NULL, flags & PROTO_SECONDARY ? secondary : NULL,
			 flags & PROTO_ADD_LOG ? logpath : NULL, &err);
	log_failure(conn, &err, ret);
	return ret;
}

static int op_commit(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	char path[PROTO_PATH + 1];
	struct vbd *v = its_vbd(c, conn);
	struct tapimg_err err = { 0 };
	int ret;

	if (!v)
		return -ENODEV;
	if (field(conn->msg.u.params.path, path) || !path[0])
		return -EINVAL;
	if (!v->disk || disk_paused(v->disk))
		return -EBADF;
	ret = job_start(c, v, path, &err);
	log_failure(conn, &err, ret);
	return ret;
}

static int op_cancel(struct control *c, struct conn *conn, struct proto_msg *reply, void **more, size_t *len)
{
	struct vbd *v = its_vbd(c, conn);

	if (!v)
		return -ENODEV;
	if (v->job && job_active(v->job))
		job_cancel(v->job);
	return 0;
}

static const struct proto_op ops[PROTO_TYPES] = {
	[PROTO_PID] = { op_pid, PROTO_PID_RSP, true, false },
	[PROTO_LIST] = { op_list, PROTO_LIST_RSP, true, false },
	[PROTO_STATS] = { op_stats, PROTO_STATS_RSP, true, false },
	[PROTO_DISK_INFO] = { op_disk_info, PROTO_DISK_INFO_RSP, true, false },
	[PROTO_QUERY] = { op_query, PROTO_QUERY_RSP, true, false },
	[PROTO_CANCEL] = { op_cancel, PROTO_CANCEL_RSP, true, false },
	[PROTO_XENBLKIF_CONNECT] = { op_xen, PROTO_XENBLKIF_CONNECT_RSP, true, false },
	[PROTO_XENBLKIF_DISCONNECT] = { op_xen, PROTO_XENBLKIF_DISCONNECT_RSP, true, false },
	[PROTO_ATTACH] = { op_attach, PROTO_ATTACH_RSP, false, false },
	[PROTO_DETACH] = { op_detach, PROTO_DETACH_RSP, false, true },
	[PROTO_OPEN] = { op_open, PROTO_OPEN_RSP, false, false },
	[PROTO_CLOSE] = { op_close, PROTO_CLOSE_RSP, false, true },
	[PROTO_FORCE_SHUTDOWN] = { op_close, PROTO_CLOSE_RSP, false, true },
	[PROTO_PAUSE] = { op_pause, PROTO_PAUSE_RSP, false, true },
	[PROTO_RESUME] = { op_resume, PROTO_RESUME_RSP, false, true },
	[PROTO_COMMIT] = { op_commit, PROTO_COMMIT_RSP, false, false },
};

/* CANCEL with "wait" is answered when the commit has ended: that makes it a command like others. */
static const struct proto_op cancel_and_wait = { op_cancel, PROTO_CANCEL_RSP, false, true };

const struct proto_op *proto_op_of(const struct proto_msg *m)
{
	if (m->type == PROTO_CANCEL && m->u.params.flags)
		return &cancel_and_wait;
	return m->type < PROTO_TYPES && ops[m->type].run ? &ops[m->type] : NULL;
}
