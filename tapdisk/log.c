/* SPDX-License-Identifier: BSD-2-Clause */
/* log.c - messages of the server; see log.h */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "log.h"

static struct {
	const char *prog;
	enum log_level upto;
	bool syslog;
} out = { "tapdisk", LOG_LVL_INFO, false };

void log_setup(const char *prog, bool to_syslog, enum log_level upto)
{
	out.prog = prog;
	out.upto = upto;
	if (to_syslog && !out.syslog)
		openlog(prog, LOG_PID, LOG_DAEMON);
	out.syslog = to_syslog;
}

/* C0, DEL and what would break a line in two become \xNN. */
static void escape(const char *text, char *buf, size_t size)
{
	size_t n = 0;

	for (const unsigned char *p = (const unsigned char *)text; *p && n + 5 < size; p++) {
		if (*p < 0x20 || *p == 0x7f)
			n += (size_t)snprintf(buf + n, size - n, "\\x%02x", *p);
		else
			buf[n++] = (char)*p;
	}
	buf[n] = 0;
}

__attribute__((format(printf, 2, 0)))
static void message(enum log_level level, const char *fmt, va_list ap)
{
	static const int priority[] = { LOG_EMERG, LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	static const char *const kind[] = { "", "", "warning: ", "", "debug: " };
	char text[2048], line[4096];

	if (level > out.upto)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	escape(text, line, sizeof(line));
	if (out.syslog)
		syslog(priority[level], "%s", line);
	else
		fprintf(stderr, "%s: %s%s\n", out.prog, kind[level], line);
}

void log_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(LOG_LVL_ERROR, fmt, ap);
	va_end(ap);
}

void log_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(LOG_LVL_WARN, fmt, ap);
	va_end(ap);
}

void log_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(LOG_LVL_INFO, fmt, ap);
	va_end(ap);
}

void log_debug(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(LOG_LVL_DEBUG, fmt, ap);
	va_end(ap);
}
