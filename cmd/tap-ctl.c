/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tap-ctl.c - the program: commands for running tapdisks, with blktap's command line
 *
 * Its texts and exit codes are what storage managers match: results on stdout, an errno's text on
 * stderr, that errno as exit code.  The protocol is in tapdisk/proto.h.
 */
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../tapdisk/proto.h"
#include "cmd.h"

#define KEY_MAX 128
#define LIST_TIMEOUT 10		/* seconds */

struct args {
	int pid, minor, parent, timeout;	/* -1: not given; timeout 0: none */
	const char *target, *secondary, *log, *type, *file;
	unsigned flags;				/* PROTO_* */
	bool force, wait;
	uint8_t key[KEY_MAX];
	int key_len;
};

struct verb {
	const char *name, *opts;
	int (*run)(struct args *a);		/* 0, or an errno with either sign */
	const char *usage;
	const char *needs;			/* letters of options that have to be there */
	bool help_on_stderr;
};

static bool debug;

/* ------------------------------------------------------------------- messages */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* All of it, or a negative errno. @until: ms; 0: as long as it takes. */
static int transfer(int fd, void *buf, size_t len, bool out, uint64_t until)
{
	while (len) {
		struct pollfd p = { .fd = fd, .events = out ? POLLOUT : POLLIN };
		uint64_t now = now_ms();
		int ret = poll(&p, 1, !until ? -1 : now >= until ? 0 : (int)(until - now));
		ssize_t n;

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret <= 0)
			return ret ? -errno : -ETIMEDOUT;
		n = out ? send(fd, buf, len, MSG_NOSIGNAL) : recv(fd, buf, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf = (char *)buf + n;
		len -= (size_t)n;
	}
	return 0;
}

static int connect_to(int pid)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char *path;
	int fd, ret = 0;

	if (pid < 0)
		return -EINVAL;
	path = run_socket(pid);
	if (!path || strlen(path) >= sizeof(sa.sun_path)) {
		free(path);
		return path ? -ENAMETOOLONG : -ENOMEM;
	}
	memcpy(sa.sun_path, path, strlen(path) + 1);
	free(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		ret = -errno;
		close(fd);
	}
	return ret ? ret : fd;
}

static void tell(const char *what, const struct proto_msg *m)
{
	if (debug)
		printf("%s '%s' message (uuid = %u)\n", what, proto_name(m->type), m->cookie);
}

/* Sends, and gets the first answer; the connection stays open for more: its descriptor. */
static int ask(int pid, struct proto_msg *m, const struct args *a, int timeout)
{
	uint64_t until = timeout > 0 ? now_ms() + (uint64_t)timeout * 1000 : 0;
	char log[PROTO_PATH] = "";
	uint8_t len = a ? (uint8_t)a->key_len : 0;
	int fd = connect_to(pid), ret;

	if (fd < 0)
		return fd;
	tell("sending", m);
	ret = transfer(fd, m, sizeof(*m), true, until);
	if (!ret && a && a->log) {
		memcpy(log, a->log, MIN(strlen(a->log), sizeof(log) - 1));
		ret = transfer(fd, log, sizeof(log), true, until);
	}
	if (!ret && len) {
		ret = transfer(fd, &len, 1, true, until);
		ret = ret ? ret : transfer(fd, (void *)a->key, len, true, until);
	}
	ret = ret ? ret : transfer(fd, m, sizeof(*m), false, until);
	if (ret) {
		close(fd);
		return ret;
	}
	tell("received", m);
	return fd;
}

static int ask_once(int pid, struct proto_msg *m, const struct args *a, int timeout)
{
	int fd = ask(pid, m, a, timeout);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int unexpected(const struct proto_msg *m, int pid)
{
	printf("got unexpected result '%s' from %d\n", proto_name(m->type), pid);
	return EINVAL;
}

/* A command whose answer is "done" or an error. */
static int command(int pid, int minor, unsigned type, int timeout)
{
	struct proto_msg m = { .type = (uint16_t)type, .cookie = (uint16_t)minor };
	int ret = ask_once(pid, &m, NULL, timeout);

	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	return m.type == type + 1 || (type == PROTO_FORCE_SHUTDOWN && m.type == PROTO_CLOSE_RSP) ?
	       0 : unexpected(&m, pid);
}

/* ------------------------------------------------------------------------- list */

struct entry {
	int pid, minor, state;
	char target[PROTO_PATH];	/* "" or "TYPE:PATH" */
};

struct entries {
	struct entry *v;
	unsigned n;
};

static int add_entry(struct entries *l, int pid, int minor, int state, const char *target)
{
	struct entry *v = realloc(l->v, (l->n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	l->v = v;
	v[l->n] = (struct entry){ .pid = pid, .minor = minor, .state = state };
	memcpy(v[l->n].target, target, strnlen(target, PROTO_PATH - 1));
	l->n++;
	return 0;
}

static void print_entry(const struct entry *e, bool tty)
{
	char pid[12] = "-", minor[12] = "-", state[12] = "-";
	const char *colon = strchr(e->target, ':'), *gap = "";

	if (tty) {
		if (e->pid >= 0)
			snprintf(pid, sizeof(pid), "%d", e->pid);
		if (e->minor >= 0)
			snprintf(minor, sizeof(minor), "%d", e->minor);
		if (e->state >= 0)
			snprintf(state, sizeof(state), "%#x", (unsigned)e->state);
		printf("%8s %4s %4s ", pid, minor, state);
		if (colon)
			printf("%10.*s %s\n", (int)(colon - e->target), e->target, colon + 1);
		else
			printf("%10s %s\n", "-", "-");
		return;
	}
	if (e->pid >= 0)
		gap = (printf("pid=%d", e->pid), " ");
	if (e->minor >= 0)
		gap = (printf("%sminor=%d", gap, e->minor), " ");
	if (e->state >= 0)
		gap = (printf("%sstate=%#x", gap, (unsigned)e->state), " ");
	if (colon)
		printf("%sargs=%s", gap, e->target);
	putchar('\n');
}

static bool is_wanted(const struct entry *e, const struct args *a)
{
	const char *colon = strchr(e->target, ':');
	size_t n = colon ? (size_t)(colon - e->target) : 0;

	if (a->minor >= 0 && e->minor != a->minor)
		return false;
	if (a->pid >= 0 && e->pid != a->pid)
		return false;
	if (a->type && (!colon || strlen(a->type) != n || strncmp(e->target, a->type, n)))
		return false;
	return !a->file || (colon && !strcmp(colon + 1, a->file));
}

/* What one process serves; just its number if that is nothing. */
static int list_process(int pid, struct entries *l)
{
	struct proto_msg m = { .type = PROTO_LIST, .cookie = UINT16_MAX };
	unsigned before = l->n;
	int fd = ask(pid, &m, NULL, LIST_TIMEOUT), ret = 0;

	while (fd >= 0 && !ret && m.type == PROTO_LIST_RSP && m.u.list.count > 0) {
		ret = add_entry(l, pid, m.u.list.minor, m.u.list.state, m.u.list.path);
		if (!ret)
			ret = transfer(fd, &m, sizeof(m), false, now_ms() + LIST_TIMEOUT * 1000);
	}
	if (fd >= 0)
		close(fd);
	return l->n == before ? add_entry(l, pid, -1, -1, "") : 0;
}

static int pid_of(int id)
{
	struct proto_msg m = { .type = PROTO_PID };
	int ret = ask_once(id, &m, NULL, LIST_TIMEOUT);

	return ret ? ret : m.type == PROTO_PID_RSP ? m.u.pid : -EPROTO;
}

/* Calls @fn with the number at the end of each file RUNDIR/<prefix><number>. */
static int for_files(const char *prefix, int (*fn)(int n, struct entries *l), struct entries *l)
{
	char *pattern;
	glob_t g = { 0 };
	int ret;

	if (asprintf(&pattern, "%s/%s*", run_dir(), prefix) < 0)
		return -ENOMEM;
	ret = glob(pattern, 0, NULL, &g);
	ret = ret == GLOB_NOSPACE ? -ENOMEM : 0;
	for (size_t i = 0; i < g.gl_pathc && !ret; i++) {
		const char *digits = g.gl_pathv[i] + strlen(pattern) - 1;

		if (*digits >= '0' && *digits <= '9')
			ret = fn(proto_number(digits), l);
	}
	globfree(&g);
	free(pattern);
	return ret;
}

static int list_one(int id, struct entries *l)
{
	int pid = pid_of(id);

	return pid < 0 ? 0 : list_process(pid, l);
}

/* A number that was given out, and that no process serves. */
static int list_orphan(int minor, struct entries *l)
{
	for (unsigned i = 0; i < l->n; i++)
		if (l->v[i].minor == minor)
			return 0;
	return add_entry(l, -1, minor, -1, "");
}

static int run_list(struct args *a)
{
	struct entries l = { NULL, 0 };
	bool tty = isatty(STDOUT_FILENO);
	int ret;

	if (a->pid >= 0) {
		ret = list_one(a->pid, &l);
	} else {
		ret = for_files("ctl", list_one, &l);
		ret = ret ? ret : for_files("tapdisk/tapdisk-", list_orphan, &l);
	}
	for (unsigned i = 0; i < l.n && !ret; i++)
		if (is_wanted(&l.v[i], a))
			print_entry(&l.v[i], tty);
	free(l.v);
	return ret;
}

/* ---------------------------------------------------------------- minors, processes */

static int print_marker(int minor)
{
	char *path = run_marker(minor);

	if (!path)
		return -ENOMEM;
	printf("%s\n", path);
	free(path);
	return 0;
}

static int run_allocate_verb(struct args *a)
{
	int minor, ret = run_allocate(&minor);

	return ret ? ret : print_marker(minor);
}

static int run_free_verb(struct args *a)
{
	return run_free(a->minor);
}

/* The server beside this program, or that of PATH; TAPDISK names another one. */
static void exec_tapdisk(void)
{
	const char *env = getenv("TAPDISK");
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - sizeof("tapdisk"));
	char *slash;

	if (env && *env)
		execl(env, "tapdisk", (char *)NULL);
	if (n > 0) {
		self[n] = 0;
		slash = strrchr(self, '/');
		memcpy(slash ? slash + 1 : self, "tapdisk", sizeof("tapdisk"));
		execl(self, "tapdisk", (char *)NULL);
	}
	execlp("tapdisk", "tapdisk", (char *)NULL);
	_exit(errno == ENOENT ? ENOENT : EIO);
}

/* What it prints is the name of its socket, which ends with its number. */
static int child_pid(int fd)
{
	const char *digits;
	char text[4096];
	size_t have = 0;
	ssize_t n;

	while (have < sizeof(text) - 1 && (n = read(fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)n;
	text[have] = 0;
	digits = strstr(text, "/ctl");
	for (const char *next = digits; next; next = strstr(next + 1, "/ctl"))
		digits = next;
	return digits && digits[4] >= '0' && digits[4] <= '9' ? proto_number(digits + 4) : -EINVAL;
}

static int spawn(void)
{
	int p[2], status, pid;
	pid_t child;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0) {
		close(p[0]);
		close(p[1]);
		return -errno;
	}
	if (!child) {
		dup2(p[1], STDOUT_FILENO);
		exec_tapdisk();
	}
	close(p[1]);
	pid = child_pid(p[0]);
	close(p[0]);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status))
		return WEXITSTATUS(status) ? -WEXITSTATUS(status) : pid;
	return -EINTR;
}

static int run_spawn(struct args *a)
{
	int pid = spawn();

	if (pid < 0)
		return pid;
	printf(isatty(STDOUT_FILENO) ? "tapdisk spawned with pid %d\n" : "%d\n", pid);
	return 0;
}

/* ------------------------------------------------------------------------ devices */

/* Whatever goes wrong here is EINVAL to the caller. */
static int attach_or_detach(int pid, int minor, unsigned type)
{
	struct proto_msg m = { .type = (uint16_t)type, .cookie = (uint16_t)minor };
	int ret = ask_once(pid, &m, NULL, 0);

	if (ret)
		return ret;
	return m.type == type + 1 ? m.u.response.error : unexpected(&m, pid);
}

static int run_attach(struct args *a)
{
	return attach_or_detach(a->pid, a->minor, PROTO_ATTACH);
}

static int run_detach(struct args *a)
{
	return attach_or_detach(a->pid, a->minor, PROTO_DETACH);
}

static int put_path(char field[PROTO_PATH], const char *text)
{
	size_t n = text ? strlen(text) : 0;

	if (n >= PROTO_PATH)
		return -ENAMETOOLONG;
	if (n)
		memcpy(field, text, n);
	return 0;
}

static int open_image(const struct args *a, int pid, int minor)
{
	struct proto_msg m = { .type = PROTO_OPEN, .cookie = (uint16_t)minor };
	int ret;

	m.u.params.devnum = (uint32_t)minor;
	m.u.params.parent = (uint32_t)a->parent;
	m.u.params.timeout = (uint16_t)a->timeout;
	m.u.params.flags = a->flags;
	if (put_path(m.u.params.path, a->target) || put_path(m.u.params.secondary, a->secondary))
		return ENAMETOOLONG;
	ret = ask_once(pid, &m, a, 0);
	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	return m.type == PROTO_OPEN_RSP ? 0 : unexpected(&m, pid);
}

static int run_open(struct args *a)
{
	return open_image(a, a->pid, a->minor);
}

static int run_close(struct args *a)
{
	return command(a->pid, a->minor, a->force ? PROTO_FORCE_SHUTDOWN : PROTO_CLOSE, a->timeout);
}

static int run_create(struct args *a)
{
	int minor, pid, ret = run_allocate(&minor);

	if (ret)
		return ret;
	pid = spawn();
	ret = pid < 0 ? pid : attach_or_detach(pid, minor, PROTO_ATTACH);
	if (!ret) {
		ret = open_image(a, pid, minor);
		if (!ret)
			return print_marker(minor);
		attach_or_detach(pid, minor, PROTO_DETACH);
	}
	run_free(minor);
	return ret;
}

static int run_destroy(struct args *a)
{
	int ret = command(a->pid, a->minor, PROTO_CLOSE, a->timeout);

	if (!ret)
		ret = attach_or_detach(a->pid, a->minor, PROTO_DETACH);
	return ret ? ret : run_free(a->minor);
}

static int run_pause(struct args *a)
{
	return command(a->pid, a->minor, PROTO_PAUSE, a->timeout);
}

static int run_unpause(struct args *a)
{
	struct proto_msg m = { .type = PROTO_RESUME, .cookie = (uint16_t)a->minor };
	int ret;

	m.u.params.flags = a->flags;
	if (put_path(m.u.params.path, a->target) || put_path(m.u.params.secondary, a->secondary))
		return -ENAMETOOLONG;
	ret = ask_once(a->pid, &m, a, 0);
	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	return m.type == PROTO_RESUME_RSP ? 0 : unexpected(&m, a->pid);
}

static int run_stats(struct args *a)
{
	struct proto_msg m = { .type = PROTO_STATS, .cookie = (uint16_t)a->minor };
	int fd = ask(a->pid, &m, NULL, LIST_TIMEOUT), ret = 0;
	uint64_t left;
	char buf[4096];

	if (fd < 0)
		return fd;
	if (m.type != PROTO_STATS_RSP)
		ret = m.type == PROTO_ERROR ? -m.u.response.error : unexpected(&m, a->pid);
	for (left = ret ? 0 : m.u.stats.length; left && !ret;) {
		size_t n = MIN(left, sizeof(buf));

		ret = transfer(fd, buf, n, false, now_ms() + LIST_TIMEOUT * 1000);
		if (!ret && fwrite(buf, 1, n, stdout) != n)
			ret = -EIO;
		left -= n;
	}
	close(fd);
	if (!ret)
		printf("\n\n");
	return ret;
}

/* ------------------------------------------------------------------------- commit */

static int run_commit(struct args *a)
{
	struct proto_msg m = { .type = PROTO_COMMIT, .cookie = (uint16_t)a->minor };
	int ret;

	if (put_path(m.u.params.path, a->target))
		return -ENAMETOOLONG;
	ret = ask_once(a->pid, &m, NULL, 0);
	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	return m.type == PROTO_COMMIT_RSP ? 0 : unexpected(&m, a->pid);
}

static int run_query(struct args *a)
{
	struct proto_msg m = { .type = PROTO_QUERY, .cookie = (uint16_t)a->minor };
	int ret = ask_once(a->pid, &m, NULL, 0);

	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	if (m.type != PROTO_QUERY_RSP)
		return unexpected(&m, a->pid);
	m.u.query.status[PROTO_PATH - 1] = 0;
	printf("Commit status '%s' (%llu/%llu)\n", m.u.query.status, (unsigned long long)m.u.query.done,
	       (unsigned long long)m.u.query.total);
	return 0;
}

static int run_cancel(struct args *a)
{
	struct proto_msg m = { .type = PROTO_CANCEL, .cookie = (uint16_t)a->minor };
	int ret;

	m.u.params.flags = a->wait;
	ret = ask_once(a->pid, &m, NULL, 0);
	if (ret)
		return ret;
	if (m.type == PROTO_ERROR)
		return -m.u.response.error;
	return m.type == PROTO_CANCEL_RSP ? 0 : unexpected(&m, a->pid);
}

/* ------------------------------------------------------------------------ the table */

#define OPEN_OPTIONS \
	"[-e <minor> stack on existing tapdisk for the parent chain] " \
	"[-r turn on read caching into leaf node] [-2 <path> " \
	"use secondary image (in mirror mode if no -s)] [-s " \
	"fail over to the secondary image on ENOSPC] " \
	"[-t request timeout in seconds] [-D no O_DIRECT] "

static const struct verb verbs[] = {
	{ "list", "m:p:t:f:h", run_list,
	  "usage: list [-h] [-p pid] [-m minor] [-t type] [-f file]\n\n"
	  "Lists tapdisks in the following format:\n"
	  "     pid minor state       type file\n", "", false },
	{ "allocate", "h", run_allocate_verb, "usage: allocate\n", "", false },
	{ "free", "m:h", run_free_verb, "usage: free <-m minor>\n", "m", false },
	{ "create", "a:RDd:e:r2:st:C:h", run_create,
	  "usage: create <-a type:/path/to/file> [-d device name] [-R readonly] " OPEN_OPTIONS
	  "[-C <path/to/logfile> insert log layer to track changed blocks]\n", "a", false },
	{ "destroy", "p:m:t:h", run_destroy,
	  "usage: destroy <-p pid> <-m minor> [-t timeout secs]\n", "pm", false },
	{ "spawn", "h", run_spawn, "usage: spawn\n", "", false },
	{ "attach", "p:m:h", run_attach, "usage: attach <-p pid> <-m minor>\n", "pm", true },
	{ "detach", "p:m:h", run_detach, "usage: detach <-p pid> <-m minor>\n", "pm", false },
	{ "open", "a:RDm:p:e:r2:st:C:Eh", run_open,
	  "usage: open <-p pid> <-m minor> <-a type:/path/to/file> [-R readonly] " OPEN_OPTIONS
	  "[-C </path/to/logfile> insert log layer to track changed blocks] "
	  "[-E read encryption key from stdin]\n", "pma", false },
	{ "close", "p:m:ft:h", run_close,
	  "usage: close <-p pid> <-m minor> [-f force] [-t timeout secs]\n", "pm", false },
	{ "pause", "p:m:t:h", run_pause,
	  "usage: pause <-p pid> <-m minor> [-t timeout secs]\n", "pm", false },
	{ "unpause", "p:m:a:2:c:h", run_unpause,
	  "usage: unpause <-p pid> <-m minor> [-a type:/path/to/file] [-2 secondary] "
	  "[-c </path/to/logfile> insert log layer to track changed blocks]\n", "pm", false },
	{ "stats", "p:m:h", run_stats,
	  "usage: stats <-p pid> <-m minor>\n\n"
	  "Prints a Python dictionary with the VBD stats. The images are "
	  "listed in reverse order (leaf to root)\n", "pm", false },
	{ "commit", "p:m:a:h", run_commit,
	  "usage: commit <-p pid> <-m minor> <-a /path/to/file>\n", "pma", false },
	{ "query", "p:m:h", run_query, "usage: query <-p pid> <-m minor>\n", "pm", false },
	{ "cancel", "p:m:wh", run_cancel, "usage: cancel <-p pid> <-m minor> [-w]\n", "pm", false },
};

static int read_key(struct args *a)
{
	ssize_t n = read(STDIN_FILENO, a->key, sizeof(a->key));

	if (a->key_len || (n != 32 && n != 64)) {
		fprintf(stderr, a->key_len ? "Only supply -E once\n" :
			"Unsupported keysize, use either 256 bit or 512 bit key\n");
		return -1;
	}
	a->key_len = (int)n;
	a->flags |= PROTO_ENCRYPTED;
	return 0;
}

static void set_log(struct args *a, const char *path)
{
	a->log = path;
	a->flags |= PROTO_ADD_LOG;
}

/* -t and -f are a timeout and force, but type and file of "list". */
static int take_option(struct args *a, const struct verb *v, int c, const char *arg)
{
	bool lists = v->run == run_list;

	switch (c) {
	case 'p': a->pid = proto_number(arg); break;
	case 'm': a->minor = proto_number(arg); break;
	case 'a': a->target = arg; break;
	case 'd': break;
	case 'e': a->parent = proto_number(arg); a->flags |= PROTO_REUSE_PARENT; break;
	case 'R': a->flags |= PROTO_RDONLY; break;
	case 'D': a->flags |= PROTO_NO_O_DIRECT; break;
	case 'r': a->flags |= PROTO_ADD_LCACHE; break;
	case 's': a->flags |= PROTO_STANDBY; break;
	case '2': a->secondary = arg; a->flags |= PROTO_SECONDARY; break;
	case 'C': case 'c': set_log(a, arg); break;
	case 'w': a->wait = true; break;
	case 'E': return read_key(a);
	case 't':
		if (lists)
			a->type = arg;
		else
			a->timeout = proto_number(arg);
		break;
	case 'f':
		if (lists)
			a->file = arg;
		else
			a->force = true;
		break;
	default: break;
	}
	return 0;
}

static bool complete(const struct args *a, const char *needs)
{
	return !(strchr(needs, 'p') && a->pid == -1) && !(strchr(needs, 'm') && a->minor == -1) &&
	       !(strchr(needs, 'a') && !a->target);
}

static int run_verb(const struct verb *v, int argc, char **argv)
{
	struct args a = { .pid = -1, .minor = -1, .parent = -1 };
	int c;

	optind = 0;
	while ((c = getopt(argc, argv, v->opts)) != -1) {
		if (c == 'h') {
			fputs(v->usage, v->help_on_stderr ? stderr : stdout);
			return 0;
		}
		if (c == '?') {
			fputs(v->usage, stderr);
			return EINVAL;
		}
		if (take_option(&a, v, c, optarg))
			exit(1);
	}
	if (complete(&a, v->needs))
		return v->run(&a);
	fputs(v->usage, stderr);
	return EINVAL;
}

static int usage(void)
{
	printf("usage: tap-ctl COMMAND [OPTIONS]\nCOMMAND := { ");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("%s%s", i ? " | " : "", verbs[i].name);
	printf(" }\n");
	return 0;
}

int main(int argc, char **argv)
{
	const struct verb *v = NULL;
	int n = 1, ret;

	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(verbs) && argc > 1; i++)
		if (!strcmp(argv[1], verbs[i].name))
			v = &verbs[i];
	if (!v)
		return usage();
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--debug"))
			debug = true;
		else
			argv[++n] = argv[i];
	}
	argv[n + 1] = NULL;
	ret = run_verb(v, n, argv + 1);
	if (ret)
		fprintf(stderr, "%s\n", strerror(abs(ret)));
	if (fflush(stdout))
		return EIO;
	return abs(ret);
}
