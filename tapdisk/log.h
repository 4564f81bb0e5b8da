/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * log.h - what the server tells its operator: to stderr, or to syslog
 *
 * One line for each message.  Control characters, which may come from names in images or from
 * clients, are written as \xNN.  Nothing is logged for each request.
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>

enum log_level { LOG_LVL_NONE, LOG_LVL_ERROR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

/*
 * Where messages go and which ones: the only state of the process that is not reachable from
 * struct server, because a message may be due anywhere.
 */
void log_setup(const char *prog, bool to_syslog, enum log_level upto);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
