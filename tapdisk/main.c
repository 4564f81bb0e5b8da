/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * main.c - the program: its command line, and getting into the background
 *
 * Nobody is told that the server is ready before every disk is open and every front end listens:
 * in the background the parent process stays until then and exits with the child's status.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "checked.h"
#include "control.h"
#include "err.h"
#include "file.h"
#include "log.h"
#include "metrics.h"

/* ---------------------------------------------------------------- the options */

struct option_row {
	int val;		/* the letter, or OPT_LONG + n */
	const char *name, *arg, *help;
};

enum {
	OPT_LONG = 256, OPT_DISK = OPT_LONG, OPT_SOCKET_PATH, OPT_FD, OPT_BLK_FILE, OPT_READ_ONLY,
	OPT_CAPS, OPT_CONTROL, OPT_PIDFILE, OPT_SYSLOG, OPT_VERSION, OPT_LIST,
	OPT_FRONT,		/* one for each front end */
};

static const struct option_row rows[] = {
	{ OPT_DISK, "disk", "[NAME=]DRIVER:PATH[,OPTION=VALUE...]", "serve this disk; see 'Options of disks'" },
	{ 'r', "read-only", NULL, "serve all disks read-only" },
	{ OPT_SOCKET_PATH, "socket-path", "PATH", "the first disk as vhost-user-blk at this socket" },
	{ OPT_FD, "fd", "N", "the same on a socket that is inherited" },
	{ OPT_BLK_FILE, "blk-file", "PATH", "serve this raw file or device" },
	{ OPT_CAPS, "print-capabilities", NULL, "what vhost-user management tools want to know, as JSON" },
	{ OPT_CONTROL, "control", NULL, "listen for tap-ctl; each disk gets a minor number" },
	{ 'f', "fork", NULL, "go into the background once everything is ready" },
	{ 'D', "foreground", NULL, "with no disk: wait for tap-ctl, but not in the background" },
	{ OPT_PIDFILE, "pid-file", "PATH", "write the process's number there" },
	{ OPT_SYSLOG, "syslog", NULL, "messages go to syslog, not to stderr" },
	{ 'v', "verbose", NULL, "more messages" },
	{ 'q', "quiet", NULL, "only warnings and errors" },
	{ OPT_LIST, "list-options", NULL, NULL },
	{ 'h', "help", NULL, "print this help" },
	{ 'V', "version", NULL, "print the version" },
};

struct wanted {			/* a front end to be started */
	const char *kind, *text;
	char *made;		/* text, if it is ours */
};

struct args {
	struct disk_config *disks;
	unsigned ndisks;
	struct wanted *fronts;
	unsigned nfronts;
	const char *pidfile;
	bool read_only, fork, syslog, control;
	bool blktap;		/* started by tap-ctl: no disk yet, the control socket's name on stdout */
	bool foreground;
	enum log_level level;
};

static void print_opts(const char *title, const struct tapimg_opt_desc *o)
{
	printf("\n%s\n", title);
	for (; o->name; o++)
		printf("  %-16s %s%s%s%s\n", o->name, o->help, o->def ? " (default: " : "",
		       o->def ? o->def : "", o->def ? ")" : "");
}

static void print_row(const struct option_row *r)
{
	char head[100];
	int n;

	if (r->val < OPT_LONG)
		n = snprintf(head, sizeof(head), "  -%c, --%s", r->val, r->name);
	else
		n = snprintf(head, sizeof(head), "  --%s", r->name);
	if (r->arg)
		n += snprintf(head + n, sizeof(head) - (size_t)n, " %s", r->arg);
	if (n > 30)
		printf("%s\n%32s%s\n", head, "", r->help);
	else
		printf("%-32s%s\n", head, r->help);
}

static void help(void)
{
	char head[100];

	printf("usage: tapdisk [OPTION...] [[tap:]DRIVER:PATH...]\n"
	       "Serve disk images to virtual machines and to NBD clients.\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].help)
			print_row(&rows[i]);
	for (const struct frontend *const *f = frontends(); *f; f++)
		printf("  --%s OPTION=VALUE,...\n%32s%s\n", (*f)->name, "", (*f)->summary);
	printf("\nDrivers:");
	for (const char *const *d = disk_drivers(); *d; d++)
		printf(" %s", *d);
	printf("\n");
	print_opts("Options of disks:", disk_opt_descs);
	for (const struct frontend *const *f = frontends(); *f; f++) {
		snprintf(head, sizeof(head), "Options of --%s:", (*f)->name);
		print_opts(head, (*f)->opts);
	}
}

/* What the manual is compared with. */
static void list_options(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].help)
			printf("--%s\n", rows[i].name);
	for (const struct frontend *const *f = frontends(); *f; f++) {
		printf("--%s\n", (*f)->name);
		for (const struct tapimg_opt_desc *o = (*f)->opts; o->name; o++)
			printf("%s=\n", o->name);
	}
	for (const struct tapimg_opt_desc *o = disk_opt_descs; o->name; o++)
		printf("%s=\n", o->name);
}

static void *more(void *list, unsigned n, size_t size)
{
	void *p = realloc(list, (n + 1) * size);

	if (!p) {
		log_error("no memory");
		exit(1);
	}
	return p;
}

static void add_front(struct args *a, const char *kind, const char *text, char *made)
{
	a->fronts = more(a->fronts, a->nfronts, sizeof(*a->fronts));
	a->fronts[a->nfronts++] = (struct wanted){ kind, made ? made : text, made };
}

static struct disk_config *add_disk(struct args *a)
{
	a->disks = more(a->disks, a->ndisks, sizeof(*a->disks));
	disk_config_init(&a->disks[a->ndisks]);
	return &a->disks[a->ndisks++];
}

/* "key=" and the text with its commas doubled, as a list of options wants it */
static char *one_opt(const char *key, const char *text)
{
	char *s = malloc(strlen(key) + 2 * strlen(text) + 2), *o;

	if (!s)
		return NULL;
	o = stpcpy(s, key);
	*o++ = '=';
	for (; *text; text++) {
		if (*text == ',')
			*o++ = ',';
		*o++ = *text;
	}
	*o = 0;
	return s;
}

static int usage_error(void)
{
	fprintf(stderr, "Try 'tapdisk --help' for more information\n");
	return 1;
}

static int take_disk(struct args *a, int kind, const char *text)
{
	struct tapimg_err err = { 0 };
	struct disk_config *c = add_disk(a);
	char *whole = NULL;
	int ret;

	if (kind == OPT_DISK) {
		ret = disk_config_parse(c, text, &err);
	} else if (kind == OPT_BLK_FILE) {
		ret = asprintf(&whole, "raw:%s", text) < 0 ? -ENOMEM : disk_config_target(c, whole, &err);
		free(whole);
	} else {
		ret = disk_config_target(c, text, &err);
	}
	if (!ret)
		return 0;
	log_error("%s", err.text[0] ? err.text : strerror(-ret));
	return usage_error();
}

static int take_option(struct args *a, int val, const char *arg)
{
	switch (val) {
	case OPT_DISK:
	case OPT_BLK_FILE:
		return take_disk(a, val, arg);
	case OPT_SOCKET_PATH:
		add_front(a, "vhost-user-blk", arg, one_opt("socket", arg));
		return 0;
	case OPT_FD:
		add_front(a, "vhost-user-blk", arg, one_opt("fd", arg));
		return 0;
	case 'r':
		a->read_only = true;
		return 0;
	case 'f':
		a->fork = true;
		return 0;
	case 'D':
		a->foreground = true;
		return 0;
	case OPT_CONTROL:
		a->control = true;
		return 0;
	case OPT_PIDFILE:
		a->pidfile = arg;
		return 0;
	case OPT_SYSLOG:
		a->syslog = true;
		return 0;
	case 'v':
		a->level = LOG_LVL_DEBUG;
		return 0;
	case 'q':
		a->level = LOG_LVL_WARN;
		return 0;
	default:
		add_front(a, frontends()[val - OPT_FRONT]->name, arg, NULL);
		return 0;
	}
}

/* getopt's tables, from ours */
static void make_tables(struct option *l, char *s, size_t max)
{
	size_t n = 0;

	*s++ = ':';
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		l[n++] = (struct option){ rows[i].name, rows[i].arg ? required_argument : no_argument,
					  NULL, rows[i].val };
		if (rows[i].val < OPT_LONG)
			*s++ = (char)rows[i].val;
	}
	for (unsigned i = 0; frontends()[i] && n + 1 < max; i++)
		l[n++] = (struct option){ frontends()[i]->name, required_argument, NULL,
					  OPT_FRONT + (int)i };
	*s = 0;
	l[n] = (struct option){ NULL, 0, NULL, 0 };
}

/* -1: go on; else the exit code */
static int parse(struct args *a, int argc, char **argv)
{
	struct option longs[ARRAY_SIZE(rows) + 16];
	char shorts[2 * ARRAY_SIZE(rows) + 2];
	int val;

	make_tables(longs, shorts, ARRAY_SIZE(longs));
	opterr = 0;
	while ((val = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		switch (val) {
		case 'h':
			help();
			return 0;
		case 'V':
			printf("tapdisk version %s\n", tapimg_version());
			return 0;
		case OPT_CAPS:
			printf("{\n  \"type\": \"block\",\n  \"features\": [\n    \"read-only\",\n"
			       "    \"blk-file\"\n  ]\n}\n");
			return 0;
		case OPT_LIST:
			list_options();
			return 0;
		case ':':
			log_error("option '%s' wants an argument", argv[optind - 1]);
			return usage_error();
		case '?':
			log_error("unrecognized option '%s'", argv[optind - 1]);
			return usage_error();
		default:
			if (take_option(a, val, optarg))
				return 1;
		}
	}
	for (; optind < argc; optind++)
		if (take_disk(a, 0, argv[optind]))
			return 1;
	return -1;
}

/* ---------------------------------------------------------------- background */

/*
 * Forks; the parent waits for one byte, which is the exit code.  Returns the descriptor on which
 * the child reports, or a negative errno.
 */
static int background(void)
{
	unsigned char status = 1;
	int p[2];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid) {
		close(p[1]);
		if (read(p[0], &status, 1) != 1)
			status = 1;	/* it has died; what it said is on stderr */
		_exit(status);
	}
	close(p[0]);
	setsid();
	return p[1];
}

/* Leaves the terminal and tells the parent that all is well. */
static void detach(int report)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		close(null);
	}
	if (write(report, "", 1) != 1)
		log_warn("the starting process has gone");
	close(report);
}

static int write_pidfile(const char *path)
{
	FILE *f = fopen(path, "we");
	bool bad;

	if (!f) {
		log_error("%s: %s", path, strerror(errno));
		return -1;
	}
	fprintf(f, "%d\n", getpid());
	bad = ferror(f);
	bad |= fclose(f) != 0;
	if (bad)
		log_error("%s: cannot be written", path);
	return bad ? -1 : 0;
}

/* ----------------------------------------------------------------------- start */

/* Each disk becomes a device of the first number that is free. */
static int adopt_all(struct server *s, struct tapimg_err *err)
{
	struct disk *d = NULL;
	struct vbd *v;
	int ret = 0;

	while (!ret && (d = server_next_disk(s, d))) {
		int minor;

		ret = run_allocate(&minor);
		if (!ret)
			ret = vbd_attach(s->control, minor, true, &v);
		if (!ret)
			ret = vbd_adopt(v, d);
		if (ret)
			err_errno(err, ret, "%s: minor number", disk_props(d)->name);
	}
	return ret;
}

static int start_control(struct server *s, const struct args *a, struct tapimg_err *err)
{
	int ret = control_open(s, err);

	if (ret)
		return ret;
	metrics_clean();
	if (!a->blktap)
		return adopt_all(s, err);
	s->control->ends_when_empty = true;
	printf("%s\n", s->control->path);
	return fflush(stdout) ? err_errno(err, -errno, "standard output") : 0;
}

static int start(struct server *s, struct args *a)
{
	struct tapimg_err err = { 0 };

	for (unsigned i = 0; i < a->ndisks; i++) {
		struct disk_config *c = &a->disks[i];

		c->read_only |= a->read_only;
		if (disk_open(s, c, NULL, &err)) {
			log_error("%s:%s cannot be served: %s", c->driver, c->path, err.text);
			return -1;
		}
	}
	for (unsigned i = 0; i < a->nfronts; i++) {
		if (server_front(s, a->fronts[i].kind, a->fronts[i].text, NULL, &err)) {
			log_error("%s: %s", a->fronts[i].kind, err.text);
			return -1;
		}
	}
	if (a->control && start_control(s, a, &err)) {
		log_error("%s", err.text);
		return -1;
	}
	return a->pidfile ? write_pidfile(a->pidfile) : 0;
}

/* Fork comes first: threads and asynchronous I/O do not survive it. */
static int serve(struct args *a)
{
	struct server s;
	struct tapimg_err err = { 0 };
	int report = -1, status;

	if (a->fork) {
		report = background();
		if (report < 0) {
			log_error("fork: %s", strerror(-report));
			return 1;
		}
	}
	if (server_init(&s, &err) || server_take_passed(&s) || server_catch_signals(&s, &err)) {
		log_error("%s", err.text);
		return 1;
	}
	if (start(&s, a)) {
		s.status = 1;
		server_stop(&s);
	} else {
		server_notify("READY=1");
		if (a->fork) {
			log_setup("tapdisk", true, a->level);
			detach(report);
		}
	}
	status = server_run(&s);
	if (a->control)
		metrics_exit();
	server_exit(&s);
	if (a->pidfile)
		unlink(a->pidfile);
	return status;
}

int main(int argc, char **argv)
{
	struct args a = { .level = LOG_LVL_INFO };
	int status;

	file_raise_limit();
	status = parse(&a, argc, argv);
	if (status < 0) {
		log_setup("tapdisk", a.syslog, a.level);
		if (!a.ndisks && !a.nfronts) {
			a.control = a.blktap = true;
			a.fork = !a.foreground;
			status = serve(&a);
		} else if (!a.ndisks) {
			log_error("no disk to serve");
			status = usage_error();
		} else if (!a.nfronts && !a.control) {
			log_error("no front end to serve it through");
			status = usage_error();
		} else {
			status = serve(&a);
		}
	}
	for (unsigned i = 0; i < a.ndisks; i++)
		disk_config_clear(&a.disks[i]);
	for (unsigned i = 0; i < a.nfronts; i++)
		free(a.fronts[i].made);
	free(a.disks);
	free(a.fronts);
	return status;
}
