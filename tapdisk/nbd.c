/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd.c - the NBD front end: options, exports, listening, accepting, its end
 *
 * One instance serves all disks of the process, or one, on a Unix socket, on TCP, or on a descriptor
 * that was handed over (listening, as systemd does, or a connection).  A disk is an export
 * of its own name; the empty name stands for the first one.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "err.h"
#include "log.h"
#include "nbd.h"
#include "opt.h"
#include "sock.h"
#include "tls.h"

#define SOCKET_BUFFER (1 << 20)
#define IDLE_NS 2000000000ULL
#define STOP_NS 6000000000ULL		/* longer than a connection's own grace */

/* ------------------------------------------------------------------ exports */

static const char *export_name(const struct nbd_front *f, const struct disk *d)
{
	return f->export_name ? f->export_name : disk_props(d)->name;
}

bool nbd_export_nth(struct nbd_front *f, unsigned i, struct nbd_export *out)
{
	struct server *s = f->front.server;
	struct disk *d = NULL;

	if (f->disk_name)
		d = i ? NULL : server_disk(s, f->disk_name);
	else
		for (d = server_next_disk(s, NULL); d && i && !f->export_name; i--)
			d = server_next_disk(s, d);
	if (!d || (f->export_name && i))
		return false;
	*out = (struct nbd_export){ d, export_name(f, d), f->description };
	return true;
}

bool nbd_export_find(struct nbd_front *f, const char *name, size_t len, struct nbd_export *out)
{
	for (unsigned i = 0; nbd_export_nth(f, i, out); i++)
		if (!len || (strlen(out->name) == len && !memcmp(out->name, name, len)))
			return true;
	return false;
}

/* ------------------------------------------------------------------ its memory */

static void free_reqs(struct nbd_front *f)
{
	struct nbd_req *r;

	while ((r = f->free_reqs)) {
		f->free_reqs = r->next;
		free(r);
	}
	f->nfree_reqs = 0;
}

/* When nothing has been asked for a while, what was kept for the next request goes back. */
static void idle_check(struct task *t)
{
	struct nbd_front *f = container_of(t, struct nbd_front, idle.task);
	struct tapimg_loop *loop = f->front.server->loop;
	uint64_t now = loop_now(loop);

	if (now - f->active_ns < IDLE_NS) {
		loop_timer_arm(loop, &f->idle, f->active_ns + IDLE_NS);
		return;
	}
	nbd_pool_trim(&f->pool);
	free_reqs(f);
	malloc_trim(0);
	f->idling = false;
}

void nbd_front_active(struct nbd_front *f)
{
	struct tapimg_loop *loop = f->front.server->loop;

	f->active_ns = loop_now(loop);
	if (f->idling)
		return;
	f->idling = true;
	f->idle.task.fn = idle_check;
	loop_timer_arm(loop, &f->idle, f->active_ns + IDLE_NS);
}

/* ------------------------------------------------------------------ its end */

static void stop_listening(struct nbd_front *f)
{
	for (unsigned i = 0; i < f->nlisteners; i++) {
		loop_unwatch(f->front.server->loop, &f->listeners[i].watch);
		close(f->listeners[i].watch.fd);
	}
	f->nlisteners = 0;
	if (f->unix_path)
		unlink(f->unix_path);
	free(f->unix_path);
	f->unix_path = NULL;
}

static void front_free(struct nbd_front *f)
{
	stop_listening(f);
	loop_timer_cancel(&f->idle);
	loop_timer_cancel(&f->stop);
	nbd_pool_trim(&f->pool);
	free_reqs(f);
	if (f->zeroes)
		munmap(f->zeroes, NBD_MAX_PAYLOAD);
	tls_ctx_free(f->tls);
	free(f->disk_name);
	free(f->export_name);
	free(f->description);
	free(f);
}

static void front_end(struct nbd_front *f)
{
	if (f->nconns || !f->front.stopping)
		return;
	front_gone(&f->front);
	front_free(f);
}

static void accept_some(struct watch *w, uint32_t events);

void nbd_front_conn_gone(struct nbd_front *f)
{
	f->nconns--;
	if (f->once)
		f->front.stopping = true;
	/* there is a descriptor again for those who could not be accepted */
	for (unsigned i = 0; i < f->nlisteners && f->accept_failed; i++)
		accept_some(&f->listeners[i].watch, 0);
	front_end(f);
}

/* Looks at each connection whether it can go, and may end the front end with the last one. */
static void put_all(struct nbd_front *f)
{
	struct list *pos, *tmp;

	f->nconns++;			/* not while we look at its list */
	list_for_each_safe(pos, tmp, &f->conns)
		nbd_conn_put(list_entry(pos, struct nbd_conn, node));
	nbd_front_conn_gone(f);
}

static void stop_late(struct task *t)
{
	struct nbd_front *f = container_of(t, struct nbd_front, stop.task);
	struct list *pos, *tmp;

	log_warn("nbd: %u connections do not end: closed", f->nconns);
	list_for_each_safe(pos, tmp, &f->conns)
		nbd_conn_kill(list_entry(pos, struct nbd_conn, node));
	put_all(f);
}

static void nbd_stop(struct front *front)
{
	struct nbd_front *f = container_of(front, struct nbd_front, front);
	struct tapimg_loop *loop = front->server->loop;
	struct list *pos, *tmp;

	front->stopping = true;
	stop_listening(f);
	if (!f->nconns) {
		front_end(f);
		return;
	}
	f->stop.task.fn = stop_late;
	loop_timer_cancel(&f->stop);
	loop_timer_arm(loop, &f->stop, loop_now(loop) + STOP_NS);
	list_for_each_safe(pos, tmp, &f->conns)
		nbd_conn_shutdown(list_entry(pos, struct nbd_conn, node));
	put_all(f);
}

/* ------------------------------------------------------------------ connections */

static void socket_tune(int fd)
{
	const int one = 1, size = SOCKET_BUFFER;

	/* of no use on some sockets, and no failure there */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static void peer_name(int fd, unsigned number, char *out, size_t size)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getpeername(fd, (struct sockaddr *)&a, &len) == 0 &&
	    (a.ss_family == AF_INET || a.ss_family == AF_INET6) &&
	    getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(out, size, "%.45s:%.6s", host, port);
	else
		snprintf(out, size, "client %u", number);
}

int nbd_front_adopt(struct nbd_front *f, int fd)
{
	struct nbd_conn *c;

	if (f->nconns >= f->max_conns) {
		f->refused++;
		log_debug("nbd: more than %u connections: one is refused", f->max_conns);
		close(fd);
		return -EUSERS;
	}
	socket_tune(fd);
	c = nbd_conn_new(f, fd, &nbd_io_socket);
	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	f->accepted++;
	peer_name(fd, (unsigned)f->accepted, c->peer, sizeof(c->peer));
	nbd_front_active(f);
	return 0;
}

static void accept_some(struct watch *w, uint32_t events)
{
	struct nbd_front *f = container_of(w, struct nbd_listener, watch)->front;

	/* edge-triggered: until there is none, or no descriptor to be had for one */
	for (;;) {
		int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			f->accept_failed = false;
			nbd_front_adopt(f, fd);
		} else if (errno != EINTR && errno != ECONNABORTED) {
			break;
		}
	}
	if (errno == EAGAIN)
		return;
	if (!f->accept_failed)
		log_warn("nbd: accepting a connection: %s", strerror(errno));
	f->accept_failed = true;
}

/* ------------------------------------------------------------------ listening */

static int listen_on(struct nbd_front *f, int fd, struct tapimg_err *err)
{
	struct nbd_listener *l = &f->listeners[f->nlisteners];
	int ret;

	l->front = f;
	l->watch = (struct watch){ .fd = fd, .events = EPOLLIN | EPOLLET, .fn = accept_some };
	ret = loop_watch(f->front.server->loop, &l->watch);
	if (ret < 0) {
		close(fd);
		return err_errno(err, ret, "nbd: listening");
	}
	f->nlisteners++;
	return 0;
}

static int listen_addr(const struct addrinfo *a)
{
	const int one = 1;
	int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
	int ret;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 128) == 0)
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

/* "HOST:PORT", "HOST", ":PORT", "[::1]:PORT" to its parts, in @text itself. */
static void split_address(char *text, const char **host, const char **port)
{
	char *colon = strrchr(text, ':'), *end = strchr(text, ']');

	*port = NBD_PORT;
	if (text[0] == '[' && end) {
		*end = 0;
		text++;
		colon = end[1] == ':' ? end + 1 : NULL;
	} else if (colon && strchr(text, ':') != colon) {
		colon = NULL;		/* a bare IPv6 address */
	}
	if (colon) {
		*colon = 0;
		*port = colon + 1;
	}
	*host = *text ? text : NULL;
}

static int listen_tcp(struct nbd_front *f, const char *text, struct tapimg_err *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE };
	struct addrinfo *list = NULL;
	const char *host, *port;
	char *copy = strdup(text);
	int ret = -EADDRNOTAVAIL;

	if (!copy)
		return err_errno(err, -ENOMEM, "nbd");
	split_address(copy, &host, &port);
	ret = getaddrinfo(host, port, &hints, &list);
	if (ret) {
		ret = err_set(err, -EINVAL, "nbd: listen=%s: %s", text, gai_strerror(ret));
		free(copy);
		return ret;
	}
	for (struct addrinfo *a = list; a && f->nlisteners < ARRAY_SIZE(f->listeners); a = a->ai_next) {
		int fd = listen_addr(a);

		ret = fd < 0 ? fd : listen_on(f, fd, NULL);
		/* a machine without IPv6 still has IPv4 */
		if (ret && ret != -EAFNOSUPPORT && ret != -EADDRNOTAVAIL)
			break;
	}
	freeaddrinfo(list);
	free(copy);
	if (f->nlisteners && (ret == -EAFNOSUPPORT || ret == -EADDRNOTAVAIL))
		ret = 0;
	return ret ? err_errno(err, ret, "nbd: listen=%s", text) : 0;
}

static int listen_unix(struct nbd_front *f, const char *path, struct tapimg_err *err)
{
	int fd = sock_listen_unix(path, err);

	if (fd < 0)
		return err_prefix(err, fd, "nbd");
	f->unix_path = strdup(path);
	if (!f->unix_path) {
		close(fd);
		unlink(path);
		return err_errno(err, -ENOMEM, "nbd");
	}
	return listen_on(f, fd, err);
}

/* A descriptor from outside: it listens, or is a connection already. */
static int listen_fd(struct nbd_front *f, const char *text, struct tapimg_err *err)
{
	uint64_t fd;
	int listening = 0;
	socklen_t len = sizeof(listening);

	if (opt_size(text, &fd) || fd > INT32_MAX)
		return err_set(err, -EINVAL, "nbd: fd=%s: not the number of a descriptor", text);
	if (getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return err_errno(err, -errno, "nbd: fd=%s", text);
	if (fcntl((int)fd, F_SETFL, fcntl((int)fd, F_GETFL) | O_NONBLOCK) < 0 ||
	    fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_errno(err, -errno, "nbd: fd=%s", text);
	if (listening)
		return listen_on(f, (int)fd, err);
	f->once = true;
	if (nbd_front_adopt(f, (int)fd))
		return err_set(err, -ENOMEM, "nbd: fd=%s: no memory", text);
	return 0;
}

/* ------------------------------------------------------------------ options */

static const struct tapimg_opt_desc nbd_opts[] = {
	{ "socket", "path", NULL, "listen on this Unix socket", 0 },
	{ "listen", "host:port", NULL, "listen on TCP; without a host everywhere, port 10809", 0 },
	{ "fd", "number", NULL, "serve on this descriptor: a listening socket, or a connection", 0 },
	{ "disk", "name", NULL, "only this disk; without, every disk of the server", 0 },
	{ "export", "name", NULL, "name of the export, instead of the disk's", 0 },
	{ "description", "text", NULL, "description of the export", 0 },
	{ "read-only", "on|off", "off", "refuse writes, though the disk could be written", 0 },
	{ "tls", "off|on|require", NULL, "require, or allow, TLS; require if there are keys", 0 },
	{ "tls-certificates", "folder", NULL, "server-cert.pem, server-key.pem, ca-cert.pem", 0 },
	{ "tls-psk-file", "path", NULL, "lines of the form user:key, the key in hexadecimal", 0 },
	{ "tls-verify-peer", "on|off", "off", "clients must have a certificate of our authority", 0 },
	{ "max-connections", "number", "100", "connections at the same time", 0 },
	{ "max-requests", "number", "256", "requests in flight on each connection", 0 },
	{ "max-memory", "size", "64M", "buffers of a connection; all together four times that", 0 },
	{ "handshake-timeout", "seconds", "10", "how long a client may take to choose", 0 },
	{ 0 },
};

struct nbd_settings {
	const char *socket, *listen, *fd;
	struct tls_params tls;
};

static int take_number(const char *name, const char *value, uint64_t least, uint64_t most, uint64_t *out,
		       struct tapimg_err *err)
{
	if (!opt_size(value, out) && *out >= least && *out <= most)
		return 0;
	return err_set(err, -EINVAL, "nbd: %s=%s: from %llu to %llu is possible", name, value,
		       (unsigned long long)least, (unsigned long long)most);
}

static int take_unsigned(const char *name, const char *value, unsigned most, unsigned *out,
			 struct tapimg_err *err)
{
	uint64_t v;
	int ret = take_number(name, value, 1, most, &v, err);

	if (!ret)
		*out = (unsigned)v;
	return ret;
}

static int take_bool(const char *name, const char *value, bool *out, struct tapimg_err *err)
{
	return opt_bool(value, out) ? err_set(err, -EINVAL, "nbd: %s=%s: on or off is wanted", name,
					      value) : 0;
}

static int take_text(const char *value, size_t most, char **out, struct tapimg_err *err)
{
	if (strlen(value) > most)
		return err_set(err, -EINVAL, "nbd: '%.40s...' is longer than %zu bytes", value, most);
	free(*out);
	*out = strdup(value);
	return *out ? 0 : err_errno(err, -ENOMEM, "nbd");
}

static int take_tls_mode(struct nbd_front *f, const char *value, struct tapimg_err *err)
{
	int mode = opt_enum(value, "off|on|require");

	if (mode < 0)
		return err_set(err, -EINVAL, "nbd: tls=%s: off, on or require is wanted", value);
	f->tls_mode = mode;
	return 0;
}

static int take(struct nbd_front *f, struct nbd_settings *s, const char *name, const char *value,
		struct tapimg_err *err)
{
	uint64_t seconds;
	int ret;

	if (!strcmp(name, "socket"))
		s->socket = value;
	else if (!strcmp(name, "listen"))
		s->listen = value;
	else if (!strcmp(name, "fd"))
		s->fd = value;
	else if (!strcmp(name, "tls-certificates"))
		s->tls.certs = value;
	else if (!strcmp(name, "tls-psk-file"))
		s->tls.psk_file = value;
	else if (!strcmp(name, "tls-verify-peer"))
		return take_bool(name, value, &s->tls.verify, err);
	else if (!strcmp(name, "tls"))
		return take_tls_mode(f, value, err);
	else if (!strcmp(name, "read-only"))
		return take_bool(name, value, &f->read_only, err);
	else if (!strcmp(name, "disk"))
		return take_text(value, NBD_STRING_MAX, &f->disk_name, err);
	else if (!strcmp(name, "export"))
		return take_text(value, NBD_STRING_MAX, &f->export_name, err);
	else if (!strcmp(name, "description"))
		return take_text(value, NBD_STRING_MAX, &f->description, err);
	else if (!strcmp(name, "max-connections"))
		return take_unsigned(name, value, 65536, &f->max_conns, err);
	else if (!strcmp(name, "max-requests"))
		return take_unsigned(name, value, 65536, &f->max_reqs, err);
	else if (!strcmp(name, "max-memory"))
		return take_number(name, value, MiB, 64 * GiB, &f->max_bytes, err);
	else {
		ret = take_number(name, value, 1, 86400, &seconds, err);
		f->handshake_ns = ret ? 0 : seconds * 1000000000;
		return ret;
	}
	return 0;
}

static int take_all(struct nbd_front *f, struct nbd_settings *s, const struct tapimg_opt *opts,
		    unsigned n, struct tapimg_err *err)
{
	bool mode_given = false;
	int ret = 0;

	for (unsigned i = 0; i < n && !ret; i++) {
		ret = take(f, s, opts[i].name, opts[i].value, err);
		mode_given |= !strcmp(opts[i].name, "tls");
	}
	if (ret)
		return ret;
	if (!s->socket + !s->listen + !s->fd != 2)
		return err_set(err, -EINVAL, "nbd: one of socket=, listen= and fd= is wanted");
	if (f->disk_name && !server_disk(f->front.server, f->disk_name))
		return err_set(err, -ENOENT, "nbd: there is no disk '%s'", f->disk_name);
	s->tls.server = true;
	if (!mode_given && (s->tls.certs || s->tls.psk_file))
		f->tls_mode = NBD_TLS_REQUIRE;
	if (f->tls_mode == NBD_TLS_OFF)
		return 0;
	if (!s->tls.certs && !s->tls.psk_file)
		return err_set(err, -EINVAL, "nbd: TLS wants tls-certificates= or tls-psk-file=");
	if (s->tls.verify && !s->tls.certs)
		return err_set(err, -EINVAL, "nbd: tls-verify-peer=on wants tls-certificates=");
	ret = tls_ctx_new(&s->tls, &f->tls, err);
	return ret ? err_prefix(err, ret, "nbd") : 0;
}

static int nbd_start(struct server *server, const struct tapimg_opt *opts, unsigned n,
		     struct front **out, struct tapimg_err *err)
{
	struct nbd_front *f = calloc(1, sizeof(*f));
	struct nbd_settings s = { 0 };
	int ret;

	if (!f)
		return err_errno(err, -ENOMEM, "nbd");
	f->front.server = server;
	f->max_conns = 100;
	f->max_reqs = 256;
	f->max_bytes = 64 * MiB;
	f->handshake_ns = 10 * 1000000000ULL;
	list_init(&f->conns);
	list_init(&f->hungry);
	ret = take_all(f, &s, opts, n, err);
	if (!ret) {
		f->zeroes = mmap(NULL, NBD_MAX_PAYLOAD, PROT_READ,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (f->zeroes == MAP_FAILED) {
			f->zeroes = NULL;
			ret = err_errno(err, -ENOMEM, "nbd");
		}
	}
	if (!ret)
		ret = s.socket ? listen_unix(f, s.socket, err) :
		      s.listen ? listen_tcp(f, s.listen, err) : listen_fd(f, s.fd, err);
	if (ret) {
		front_free(f);
		return ret;
	}
	*out = &f->front;
	return 0;
}

static void nbd_stats(struct front *front, json_t *into)
{
	const struct nbd_front *f = container_of(front, struct nbd_front, front);

	json_object_set_new(into, "connections", json_integer(f->nconns));
	json_object_set_new(into, "accepted", json_integer(f->accepted));
	json_object_set_new(into, "refused", json_integer(f->refused));
	json_object_set_new(into, "handshakes-failed", json_integer(f->handshakes_failed));
	json_object_set_new(into, "buffer-bytes", json_integer(f->bytes));
}

const struct frontend nbd_frontend = {
	.name = "nbd",
	.summary = "Network Block Device, over Unix sockets, TCP and TLS",
	.opts = nbd_opts,
	.start = nbd_start,
	.stop = nbd_stop,
	.stats = nbd_stats,
};
