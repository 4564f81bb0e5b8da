/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cmd.h - what the verbs of the command share: tables, options, names, sizes, progress, JSON
 *
 * A verb is one file with one const struct command at its end and one function.  The function gets
 * a struct cli with the arguments; it takes options with cli_getopt() until that answers 0, then
 * the operands from cli_operand().  Usage texts, shell completion and the check of the man pages
 * are made from the tables, so an option exists nowhere but in its table.
 *
 * Results go to stdout, everything else to stderr.  Messages are "tapimg: text".
 */
#ifndef CMD_H
#define CMD_H

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "tapimg.h"

/* ------------------------------------------------------------------ tables */

/* Options without a letter are numbered from here, each file for itself. */
#define OPT_LONG 256

/*
 * One row of an option table; a table ends with a row whose val is 0.  Several rows may share
 * one val: the first is shown, those without help are other spellings.
 */
struct option_desc {
	int val;		/* the letter, or OPT_LONG + n when there is none */
	const char *name;	/* long name without dashes, or NULL */
	const char *arg;	/* its argument's name, NULL: none, "[json]": optional and of the long one only */
	const char *help;	/* one line; NULL: hidden */
	const char *values;	/* words to complete, "a|b|c"; "FILE", "FORMAT", "CACHE"; or NULL */
};

struct cli;

enum { CMD_HIDDEN = 1 };	/* not shown in lists meant for people */

struct command {
	const char *name;
	int (*run)(struct cli *c);	/* returns the exit code */
	const char *usage;		/* what follows the name: "[-q] FILE [SIZE]" */
	const char *summary;		/* one line, lower case, no full stop */
	const struct option_desc *options;
	unsigned flags;
	const char *notes;		/* further lines for --help, or NULL */
};

/* Rows that many tables have. */
#define OPT_FORMAT	{ 'f', "format", "FORMAT", "the image's format (default: look at it)", "FORMAT" }
#define OPT_IMAGE_OPTS	{ OPT_LONG + 90, "image-opts", NULL, "FILE is a list of driver options, not a name", NULL }
#define OPT_QUIET	{ 'q', "quiet", NULL, "print nothing but errors", NULL }
#define OPT_SHARE	{ 'U', "force-share", NULL, "read even if another process is writing to the image", NULL }
#define OPT_PROGRESS	{ 'p', "progress", "[json]", "show progress; =json: one object a line on stderr", "json" }
#define OPT_OUTPUT	{ OPT_LONG + 91, "output", "KIND", "human or json", "human|json" }
#define OPT_CACHE(letter, text) { letter, "cache", "MODE", text, "CACHE" }
enum { OPT_IMAGE_OPTS_VAL = OPT_LONG + 90, OPT_OUTPUT_VAL = OPT_LONG + 91 };

/* The verbs.  A new one has a line here and one in the table of tapimg.c. */
extern const struct command command_amend;
extern const struct command command_bench;
extern const struct command command_bitmap;
extern const struct command command_check;
extern const struct command command_commit;
extern const struct command command_compare;
extern const struct command command_completion;
extern const struct command command_convert;
extern const struct command command_create;
extern const struct command command_dd;
extern const struct command command_info;
extern const struct command command_map;
extern const struct command command_measure;
extern const struct command command_rebase;
extern const struct command command_resize;
extern const struct command command_snapshot;

/*
 * What a program is made of; each file with a main() defines one.  Completion and the lists of
 * commands are made from it.
 */
struct program {
	const char *name;
	const char *also;			/* another name it goes by, or NULL */
	const struct command *const *commands;	/* NULL-terminated, in the order they are shown in */
	bool long_options;			/* every command knows --help and --untrusted as well */
	bool single;				/* it is one command, which is not named on the command line */
	/* util.c: the exit code without a command, and the word for a wrong one */
	int bare_status;
	const char *invalid;
};
extern const struct program program;

/* program.c */
const struct command *command_find(const char *name);
/* --list-commands, @how is what follows: "" or "=json". What man pages and completion are checked with. */
int program_list_commands(const struct cli *c, const char *how);
/* completion.c: prints the script for "bash", "zsh" or "fish"; false: not one of them */
bool completion_print(const char *shell);

/* ----------------------------------------------------------------- one run */

#define CLI_MAX_OPTS 64

struct cli {
	const char *prog;		/* "tapimg", or "qemu-img" when called so: begins every message */
	bool as_qemu;
	const struct command *command;
	int argc;			/* argv[0] is the verb */
	char **argv;
	int status;			/* exit code once cli_getopt() has answered -1 */
	bool debug;			/* util.c: --debug was given */
	bool any_extent;		/* --any-extent: cli_open() opens extents outside the image's folder too */
	bool stale_backing;		/* --stale-backing: TAPIMG_STALE_BACKING */
	struct secrets *secrets;	/* of --object (secret.h) */
	struct typed *typed;		/* a passphrase that was asked for (secret.c) */
	bool untrusted;			/* --untrusted: cli_open() opens no other file an image names */
	struct tapimg_loop *loop;	/* made by cli_loop() */
	char shorts[2 * CLI_MAX_OPTS + 3];
	struct option longs[CLI_MAX_OPTS + 4];
};

/*
 * The next option's val (its argument in optarg), 0 when only operands are left, -1 when the verb
 * shall return c->status at once: --help was printed, or an error.  -h, --help, --object and
 * --untrusted are taken care of here.
 */
int cli_getopt(struct cli *c);
int cli_operands(const struct cli *c);			/* how many are left */
const char *cli_operand(struct cli *c);			/* the next one, or NULL */
/* Complains unless between @min and @max operands are left: 0 or -1, for "return 1". */
int cli_expect(struct cli *c, int min, int max);

/* The loop, made on first use; NULL after an error message. */
struct tapimg_loop *cli_loop(struct cli *c);

/* ---------------------------------------------------------------- messages */

void cli_error(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_warn(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same as cli_error, with "Try 'tapimg VERB --help'" after it. Returns 1. */
int cli_usage_error(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_help(const struct cli *c, FILE *out);		/* of c->command, or of the whole program */

/*
 * Prints a name that comes from an image: control characters, which could drive a terminal, as
 * \xNN.  Returns the number of bytes printed.
 */
int print_text(FILE *out, const char *text);

/* ----------------------------------------------------------- numbers, sizes */

/*
 * "64k", "1.5G", "0x200" with a message that names @what: 0 or -1. @min and @max are inclusive.
 */
int cli_size(const struct cli *c, const char *what, const char *text, uint64_t min, uint64_t max,
	     uint64_t *out);
/* A plain number without suffix. */
int cli_number(const struct cli *c, const char *what, const char *text, uint64_t min, uint64_t max,
	       uint64_t *out);
/* "1.5 GiB", three significant digits, as people read it; buf holds 32 bytes */
char *print_size(char buf[32], uint64_t bytes);

/* ------------------------------------------------------------ opening images */

/* How an image is opened, as the common options say. */
struct cli_image {
	const char *format;		/* -f */
	const char *snapshot;		/* -l, through cli_snapshot_param() */
	bool image_opts;
	bool share;			/* -U */
	unsigned rdwr_layers;		/* as in struct tapimg_open_opts */
};

/*
 * A tapimg_secret with the struct cli as its argument: what --object gave, else the person at the
 * terminal is asked.
 */
int cli_secret(void *cli, const struct tapimg_secret_ask *ask, struct tapimg_err *err);
void cli_secrets_end(struct cli *c);	/* wipes and frees what is kept */
/* "Could not open 'x': why", 0 or negative errno. @flags: TAPIMG_*. */
int cli_open(struct cli *c, const char *name, const struct cli_image *how, unsigned flags,
	     struct tapimg **out);
/* Closes; complains if what was written may not have arrived: 0 or negative errno.  NULL is fine. */
int cli_close(struct cli *c, struct tapimg *img);
/* An error's text without the "name: " before it, or the errno's own when there is none. */
const char *cli_why(const char *name, const struct tapimg_err *err, int ret);
/* "name: why", whether or not the library's text begins with the name. Returns 1. */
int cli_failed(const struct cli *c, const char *name, const struct tapimg_err *err, int ret);
/*
 * Adds the flags of a cache mode: none, writeback, writethrough, directsync, unsafe.  @what: "cache"
 * or "source cache", for the message. 0 or -1.
 */
int cli_cache(const struct cli *c, const char *what, const char *mode, unsigned *flags);
/* "snapshot.id=1", "snapshot.name=x" or a plain id or name; malloc'd, NULL after a message. */
char *cli_snapshot_param(const struct cli *c, const char *text);
/* Complains about a format nobody knows: 0 or -1. */
int cli_known_format(const struct cli *c, const char *format);
/*
 * The options that many verbs share: -f, --image-opts, -U, -q, --output. 1 if @val was one of them
 * and is dealt with, 0 if not, -1 after a message.
 */
struct cli_common {
	struct cli_image how;
	bool quiet, json;
};
int cli_common(struct cli *c, int val, struct cli_common *o);
/* --output=human|json: 0 or -1. */
int cli_output(const struct cli *c, const char *text, bool *json);
/* The name that tapimg_open() takes for a list of driver options; malloc'd, NULL after a message. */
char *cli_image_opts(const struct cli *c, const char *text);

/* --------------------------------------------------------------- -o a=b,c=d */

struct cli_opts {
	struct tapimg_opt *v;
	unsigned n;
	bool help;			/* "help" or "?" was among them */
};

/* Adds one -o argument; may be called often, later values win.  0 or -1 after a message. */
int cli_opts_add(const struct cli *c, struct cli_opts *o, const char *text);
/* Takes an option out of the list: its value (malloc'd) or NULL. */
char *cli_opts_take(struct cli_opts *o, const char *name);
const char *cli_opts_get(const struct cli_opts *o, const char *name);
/* Complains about those that @format does not know: 0 or -1. @where: TAPIMG_OPT_*. */
int cli_opts_verify(const struct cli *c, const struct cli_opts *o, const char *format, unsigned where);
bool cli_opts_any(const char *format, unsigned where);	/* whether it has options there at all */
void cli_opts_print_help(const char *format, unsigned where);
void cli_opts_free(struct cli_opts *o);

/* ---------------------------------------------------------------- progress.c */

enum progress_mode { PROGRESS_OFF, PROGRESS_HUMAN, PROGRESS_JSON };

/*
 * Shows how far a long operation is.  Off: SIGUSR1 prints one line.  Human: repaints one line on
 * a terminal with rate and time left, elsewhere plain "(12.34/100%)".  JSON: one object a line on
 * stderr.  Hand progress_report and the struct to the library.  Start before the first I/O: signals
 * are blocked here so that helper threads inherit it.
 */
struct progress {
	enum progress_mode mode;
	const char *verb;
	FILE *out;			/* for people */
	bool tty, begun;
	uint64_t start_ns, next_ns;	/* CLOCK_MONOTONIC */
	uint64_t done, total;
	/* rate over the last seconds: a ring of (time, done) */
	struct { uint64_t ns, done; } past[16];
	unsigned npast;
};

/* For an OPT_PROGRESS argument: 0 or -1 after a message. */
int cli_progress_mode(const struct cli *c, const char *arg, enum progress_mode *mode);
void progress_start(struct progress *p, const struct cli *c, enum progress_mode mode);
void progress_to_stderr(struct progress *p);	/* stdout is the result's */
int progress_report(void *p, uint64_t done, uint64_t total);	/* a tapimg_progress */
/* The last line. @ok: it went to the end (100 %). */
void progress_end(struct progress *p, bool ok);

/* -------------------------------------------------------------------- json.c */

/* Prints and drops @v (may be NULL: no memory): 0, or -1 after a message. */
int json_print(const struct cli *c, json_t *v);
/* Adds members; NULL text is left out. */
void json_add_str(json_t *obj, const char *key, const char *text);
void json_add_int(json_t *obj, const char *key, uint64_t num);
void json_add_bool(json_t *obj, const char *key, bool on);

#endif
