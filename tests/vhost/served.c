/* SPDX-License-Identifier: BSD-2-Clause */
/* served.c - starting and stopping a tapdisk under test */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "served.h"
#include "vu.h"

const char *served_tool(const char *name)
{
	static char path[4][512];
	static unsigned turn;
	const char *build = getenv("TAPIMG_BUILD");
	char *p = path[turn++ % 4];

	if (!build)
		vu_die("TAPIMG_BUILD is not set: run this with make vhost");
	snprintf(p, sizeof(path[0]), "%s/%s", build, name);
	return p;
}

void served_init(struct served *s)
{
	static unsigned n;

	memset(s, 0, sizeof(*s));
	s->fd = -1;
	snprintf(s->socket, sizeof(s->socket), "s%u.%d", n, getpid());
	snprintf(s->log, sizeof(s->log), "log%u.%d", n++, getpid());
}

static void child(struct served *s, const char *disk, const char *front)
{
	int fd = open(s->log, O_WRONLY | O_CREAT | O_APPEND, 0600);

	dup2(fd, 1);
	dup2(fd, 2);
	if (s->preload)
		setenv("LD_PRELOAD", s->preload, 1);
	if (s->fd >= 0)
		fcntl(s->fd, F_SETFD, 0);
	execl(served_tool("tapdisk"), "tapdisk", "-v", "--disk", disk, "--vhost-user-blk", front,
	      s->control ? "--control" : NULL, NULL);
	_exit(127);
}

void served_start(struct served *s, const char *disk, const char *more)
{
	char front[300];

	if (s->fd >= 0)
		snprintf(front, sizeof(front), "fd=%d%s", s->fd, more);
	else
		snprintf(front, sizeof(front), "socket=%s%s", s->socket, more);
	s->pid = fork();
	if (s->pid < 0)
		vu_die("fork: %s", strerror(errno));
	if (s->pid == 0)
		child(s, disk, front);
}

static int wait_for(struct served *s, unsigned ms)
{
	const struct timespec tick = { .tv_nsec = 1000000 };
	int status;

	do {
		pid_t got = waitpid(s->pid, &status, WNOHANG);

		if (got == s->pid) {
			s->pid = 0;
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		nanosleep(&tick, NULL);
	} while (ms--);
	return -1;
}

int served_stop(struct served *s)
{
	int ret;

	if (!s->pid)
		return -1;
	kill(s->pid, SIGTERM);
	ret = wait_for(s, 20000);
	if (ret < 0)
		served_kill(s);
	return ret;
}

void served_kill(struct served *s)
{
	int status;

	kill(s->pid, SIGKILL);
	waitpid(s->pid, &status, 0);
	s->pid = 0;
}

bool served_alive(const struct served *s)
{
	siginfo_t info = { 0 };

	return s->pid && waitid(P_PID, s->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

void served_run(const char *fmt, ...)
{
	char cmd[2000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd))
		vu_die("failed: %s", cmd);
}

bool served_log_has(const struct served *s, const char *text)
{
	char line[2000];
	bool found = false;
	FILE *f = fopen(s->log, "r");

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, text);
	if (f)
		fclose(f);
	return found;
}
