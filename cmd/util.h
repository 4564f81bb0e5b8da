/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * util.h - programs that follow blktap's command lines: vhd-util, td-util, cbt-util
 *
 * Their callers are programs that compare output byte by byte and look at exit codes, so a command
 * here prints exactly what it has to and nothing else: results and failures on stdout, options of
 * one letter only, the exit code the errno of the result.  The reasons behind a number go to
 * syslog with --debug, and to stderr where a person is watching.
 */
#ifndef UTIL_H
#define UTIL_H

#include "cmd.h"

/* Flags of a struct command, beside CMD_HIDDEN. */
enum {
	UTIL_HELP_OK	= 1 << 4,	/* -h is no failure: exit code 0 */
	UTIL_OPERANDS	= 1 << 5,	/* takes operands; else one is a wrong option */
	UTIL_LENIENT	= 1 << 6,	/* ignores operands */
	UTIL_OWN_USAGE	= 1 << 8,	/* prints its own usage when util_getopt() says -1 */
	UTIL_LONG_USAGE	= 1 << 7,	/* usage shows each option on a line of its own */
};

/* The whole of main() for a program with "PROG COMMAND [OPTIONS]": runs the command. */
int util_main(int argc, char **argv);
/* The same where the command is known: argv[0] is what its options follow. */
int util_run(const struct command *cmd, int argc, char **argv);

/*
 * The next option's letter (its argument in optarg), 0 when there are no more, -1 when the
 * command is to return c->status at once: the usage was printed.
 */
int util_getopt(struct cli *c);
/* Prints the usage.  Returns @status. */
int util_usage(const struct cli *c, int status);

/* The exit code for a result: 0, or a negative errno made positive. */
int util_status(int ret);

/* Why a call failed, in words, for syslog (--debug) and people. @err may be empty. */
void util_why(const struct cli *c, const char *name, const struct tapimg_err *err, int ret);

/* "COMMAND := { create | snapshot }", as the usages show it. */
void util_print_set(FILE *out, const char *what, const char *const *words);

#endif
