/* SPDX-License-Identifier: BSD-2-Clause */
/* server.c - the life of the process: disks, front ends, signals, the end in order */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "checked.h"
#include "control.h"
#include "disk-impl.h"
#include "err.h"
#include "log.h"
#include "proto.h"
#include "server.h"

int server_init(struct server *s, struct tapimg_err *err)
{
	*s = (struct server){ .signals.fd = -1 };
	list_init(&s->disks);
	list_init(&s->fronts);
	return tapimg_loop_new(0, &s->loop, err);
}

void server_exit(struct server *s)
{
	if (s->watching_signals) {
		loop_unwatch(s->loop, &s->signals);
		close(s->signals.fd);
	}
	tapimg_loop_free(s->loop);
	free(s->passed_names);
}

/* --------------------------------------------------------------------- disks */

struct disk *server_disk(struct server *s, const char *name)
{
	struct list *pos;

	list_for_each(pos, &s->disks) {
		struct disk *d = list_entry(pos, struct disk, node);

		if (!d->closing && (!name || !*name || !strcmp(d->props.name, name)))
			return d;
	}
	return NULL;
}

struct disk *server_next_disk(struct server *s, struct disk *d)
{
	struct list *n = d ? d->node.next : s->disks.next;

	while (n != &s->disks && list_entry(n, struct disk, node)->closing)
		n = n->next;
	return n == &s->disks ? NULL : list_entry(n, struct disk, node);
}

void server_disk_event(struct server *s, struct disk *d, enum server_event ev)
{
	struct list *pos, *next;

	for (pos = s->fronts.next; pos != &s->fronts; pos = next) {
		struct front *f = list_entry(pos, struct front, node);

		next = pos->next;
		if (f->kind->disk_event)
			f->kind->disk_event(f, d, ev);
	}
}

/* ---------------------------------------------------------------- front ends */

static const struct tapimg_opt_desc *known_opt(const struct frontend *kind, const char *name)
{
	const struct tapimg_opt_desc *o = kind->opts;

	while (o && o->name && strcmp(o->name, name) != 0)
		o++;
	return o && o->name ? o : NULL;
}

/* "fd=@NAME" becomes the number of a descriptor that was passed. */
static int start_with_fds(struct server *s, const struct frontend *k, const struct tapimg_opt *opts,
			  unsigned n, struct front **out, struct tapimg_err *err)
{
	struct tapimg_opt *copy = calloc(n + 1, sizeof(*copy));
	char number[12];
	int ret = copy ? 0 : err_errno(err, -ENOMEM, "%s", k->name);

	for (unsigned i = 0; i < n && !ret; i++) {
		copy[i] = opts[i];
		if (strcmp(opts[i].name, "fd") != 0 || opts[i].value[0] != '@')
			continue;
		ret = server_passed_fd(s, opts[i].value + 1);
		if (ret < 0)
			err_set(err, ret, "%s: no descriptor '%s' was passed by a service manager", k->name,
				opts[i].value);
		snprintf(number, sizeof(number), "%d", ret);
		copy[i].value = number;
		ret = MIN(ret, 0);
	}
	if (!ret)
		ret = k->start(s, copy, n, out, err);
	free(copy);
	return ret;
}

int server_front_opts(struct server *s, const char *kind, const struct tapimg_opt *opts, unsigned n,
		      struct front **out, struct tapimg_err *err)
{
	const struct frontend *k = frontend_find(kind);
	struct front *f;
	int ret;

	if (!k)
		return err_set(err, -ENOENT, "there is no front end '%s'", kind);
	for (unsigned i = 0; i < n; i++)
		if (!known_opt(k, opts[i].name))
			return err_set(err, -EINVAL, "%s: there is no option '%s'", kind, opts[i].name);
	ret = start_with_fds(s, k, opts, n, &f, err);
	if (ret)
		return ret;
	f->kind = k;
	f->server = s;
	list_append(&s->fronts, &f->node);
	f->owner = out;
	if (out)
		*out = f;
	return 0;
}

int server_front(struct server *s, const char *kind, const char *text, struct front **out,
		 struct tapimg_err *err)
{
	struct tapimg_opt *opts;
	unsigned n;
	int ret = optlist_parse(text, &opts, &n, err);

	if (ret)
		return ret;
	ret = server_front_opts(s, kind, opts, n, out, err);
	optlist_free(opts, n);
	return ret;
}

void front_gone(struct front *f)
{
	list_del(&f->node);
	if (f->owner)
		*f->owner = NULL;
}

void front_stop(struct front *f)
{
	if (!f->stopping) {
		f->stopping = true;
		f->kind->stop(f);
	}
}

static void stop_fronts(struct server *s)
{
	struct list *pos, *next;

	for (pos = s->fronts.next; pos != &s->fronts; pos = next) {
		struct front *f = list_entry(pos, struct front, node);

		next = pos->next;
		front_stop(f);
	}
}

/* ------------------------------------------------------------------- running */

void server_stop(struct server *s)
{
	s->stopping = true;
}

/*
 * Front ends first, so that clients get the answers of what is running; then the disks.  What a
 * paused disk holds back would never be answered, so it fails.
 */
static void server_end(struct server *s)
{
	struct tapimg_err err = { 0 };
	struct list *pos;

	server_notify("STOPPING=1");
	list_for_each(pos, &s->disks)
		disk_give_up(list_entry(pos, struct disk, node));
	stop_fronts(s);
	while (!list_empty(&s->fronts) && tapimg_loop_run(s->loop, true) >= 0)
		;
	if (s->control && vbd_close_all(s->control))
		s->status = 1;
	while (!list_empty(&s->disks)) {
		struct disk *d = list_first(&s->disks, struct disk, node);
		int ret = disk_close(d, false, &err);

		if (ret) {
			log_error("%s", err.text[0] ? err.text : strerror(-ret));
			s->status = 1;
		}
	}
	control_close(s);
	s->stopped = true;
}

int server_run(struct server *s)
{
	int ret = 0;

	while (!s->stopping) {
		ret = tapimg_loop_run(s->loop, true);
		if (ret < 0) {
			log_error("event loop: %s", strerror(-ret));
			s->status = 1;
			break;
		}
	}
	server_end(s);
	return s->status;
}

static void on_signal(struct watch *w, uint32_t events)
{
	struct server *s = container_of(w, struct server, signals);
	struct signalfd_siginfo si;

	while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (!s->stopping)
			log_info("signal %u: stopping", si.ssi_signo);
		server_stop(s);
	}
}

int server_catch_signals(struct server *s, struct tapimg_err *err)
{
	sigset_t set;
	int ret;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_errno(err, -errno, "signals");
	s->signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (s->signals.fd < 0)
		return err_errno(err, -errno, "signals");
	s->signals.events = EPOLLIN;
	s->signals.fn = on_signal;
	ret = loop_watch(s->loop, &s->signals);
	if (ret)
		return err_errno(err, ret, "signals");
	s->watching_signals = true;
	return 0;
}

/* ----------------------------------------------------------- service managers */

#define FIRST_PASSED 3

int server_take_passed(struct server *s)
{
	const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
	int ret = 0;

	if (pid && n && proto_number(pid) == getpid() && proto_number(n) > 0 && proto_number(n) < 1000) {
		s->npassed = (unsigned)proto_number(n);
		s->passed_names = names ? strdup(names) : NULL;
		ret = names && !s->passed_names ? -ENOMEM : 0;
		for (unsigned i = 0; i < s->npassed; i++)
			fcntl(FIRST_PASSED + (int)i, F_SETFD, FD_CLOEXEC);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return ret;
}

int server_passed_fd(const struct server *s, const char *name)
{
	const char *p = s->passed_names ? s->passed_names : "";
	size_t len = strlen(name);

	for (unsigned i = 0; i < s->npassed; i++) {
		size_t n = strcspn(p, ":");

		if (!len || (n == len && !strncmp(p, name, n)))
			return FIRST_PASSED + (int)i;
		p += n + (p[n] == ':');
	}
	return -ENOENT;
}

void server_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(sa.sun_path))
		return;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	if (path[0] == '@')
		sa.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sa,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))) < 0)
		log_warn("%s: %s", path, strerror(errno));
	close(fd);
}

/* --------------------------------------------------------------- option lists */

char *optlist_item(const char **list)
{
	const char *p = *list;
	char *item = malloc(strlen(p) + 1), *o = item;

	if (!item)
		return NULL;
	for (; *p; p++) {
		if (*p == ',' && *++p != ',')
			break;
		*o++ = *p;
	}
	*o = 0;
	*list = p;
	return item;
}

void optlist_free(struct tapimg_opt *opts, unsigned n)
{
	/* name and value are one allocation */
	for (unsigned i = 0; i < n; i++)
		free((char *)opts[i].name);
	free(opts);
}

int optlist_parse(const char *text, struct tapimg_opt **out, unsigned *n, struct tapimg_err *err)
{
	struct tapimg_opt *opts = NULL;
	unsigned count = 0;

	while (*text) {
		struct tapimg_opt *more = realloc(opts, (count + 1) * sizeof(*opts));
		char *item = more ? optlist_item(&text) : NULL;
		char *eq = item ? strchr(item, '=') : NULL;

		if (more)
			opts = more;
		if (!item) {
			optlist_free(opts, count);
			return err_errno(err, -ENOMEM, "%s", text);
		}
		if (eq)
			*eq = 0;
		opts[count++] = (struct tapimg_opt){ item, eq ? eq + 1 : "on" };
	}
	*out = opts;
	*n = count;
	return 0;
}
