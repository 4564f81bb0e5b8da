/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * util.c - what the programs with blktap's command lines share: commands, options, usages
 *
 * getopt's own messages for unknown options are left on, under the command's name.
 */
#include <syslog.h>
#include <unistd.h>

#include "util.h"

void util_print_set(FILE *out, const char *what, const char *const *words)
{
	fprintf(out, "%s := {", what);
	for (unsigned i = 0; words[i]; i++)
		fprintf(out, "%s %s", i ? " |" : "", words[i]);
	fprintf(out, " }\n");
}

static void print_usage(FILE *out)
{
	const char *words[32] = { NULL };
	unsigned n = 0;

	for (const struct command *const *p = program.commands; *p && n < 31; p++) {
		if (!((*p)->flags & CMD_HIDDEN))
			words[n++] = (*p)->name;
	}
	fprintf(out, "usage: %s COMMAND [OPTIONS]\n", program.name);
	util_print_set(out, "COMMAND", words);
}

static int print_help(void)
{
	print_usage(stdout);
	putchar('\n');
	for (const struct command *const *p = program.commands; *p; p++)
		printf("  %-12s%s\n", (*p)->name, (*p)->summary);
	printf("\n'%s COMMAND -h' shows the options of a command, 'man %s' explains them.\n",
	       program.name, program.name);
	return 0;
}

int util_usage(const struct cli *c, int status)
{
	const struct command *cmd = c->command;

	if (cmd->flags & UTIL_OWN_USAGE)
		return status;
	if (!(cmd->flags & UTIL_LONG_USAGE)) {
		printf("options: %s\n", cmd->usage);
		return status;
	}
	printf("%s %s: %s\n\nOptions:\n", program.name, cmd->name, cmd->summary);
	for (const struct option_desc *o = cmd->options; o->val; o++)
		printf(" -%c %-8s%s\n", o->val, o->arg ? o->arg : "", o->help);
	printf(" -h %-8s%s\n", "", "print this help");
	return status;
}

int util_status(int ret)
{
	return ret < 0 ? -ret : ret;
}

void util_why(const struct cli *c, const char *name, const struct tapimg_err *err, int ret)
{
	const char *why = err->text[0] ? err->text : strerror(-ret);
	bool named = !strncmp(why, name, strlen(name));

	if (c->debug)
		syslog(LOG_INFO, "%s %s: %s%s%s", program.name, c->command->name, named ? "" : name,
		       named ? "" : ": ", why);
	if (!isatty(STDERR_FILENO))
		return;
	fflush(stdout);
	fprintf(stderr, "%s: ", program.name);
	if (!named) {
		print_text(stderr, name);
		fputs(": ", stderr);
	}
	print_text(stderr, why);
	fputc('\n', stderr);
}

static void make_shorts(struct cli *c)
{
	char *s = c->shorts;

	for (const struct option_desc *o = c->command->options; o->val; o++) {
		*s++ = (char)o->val;
		if (o->arg)
			*s++ = ':';
	}
	*s++ = 'h';
	*s = 0;
	opterr = 1;
	optind = 0;
}

int util_getopt(struct cli *c)
{
	unsigned flags = c->command->flags;
	int val;

	if (!c->shorts[0])
		make_shorts(c);
	val = getopt(c->argc, c->argv, c->shorts);
	if (val == 'h' || val == '?') {
		c->status = util_usage(c, val == 'h' && (flags & UTIL_HELP_OK) ? 0 : EINVAL);
		return -1;
	}
	if (val != -1)
		return val;
	if (optind < c->argc && !(flags & (UTIL_OPERANDS | UTIL_LENIENT))) {
		c->status = util_usage(c, EINVAL);
		return -1;
	}
	return 0;
}

/* What is asked of the program itself: 0 or more is the exit code, -1: it was a command. */
static int run_special(struct cli *c)
{
	const char *arg = c->argv[1];

	if (!strncmp(arg, "--list-commands", 15))
		return program_list_commands(c, arg + 15);
	if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
		return print_help();
	if (!strcmp(arg, "--version")) {
		printf("%s (tapimg) %s\n", program.name, tapimg_version());
		return 0;
	}
	if (!strcmp(arg, "completion") && c->argc == 3)
		return completion_print(c->argv[2]) ? 0 : EINVAL;
	return -1;
}

/* --debug is for us, wherever it stands. */
static int run_command(struct cli *c)
{
	int n = 1;

	for (int i = 1; i < c->argc; i++) {
		if (!strcmp(c->argv[i], "--debug"))
			c->debug = true;
		else
			c->argv[n++] = c->argv[i];
	}
	c->argv[n] = NULL;
	c->argc = n;
	return c->command->run(c);
}

static int run(struct cli *c)
{
	int status;

	if (c->argc < 2) {
		print_usage(stdout);
		return program.bare_status;
	}
	status = run_special(c);
	if (status >= 0)
		return status;
	c->command = command_find(c->argv[1]);
	if (!c->command) {
		fprintf(stderr, "%s COMMAND %s\n", program.invalid, c->argv[1]);
		print_usage(stdout);
		return 0;
	}
	c->argc--;
	c->argv++;
	return run_command(c);
}

static int finish(struct cli *c, int status)
{
	tapimg_loop_free(c->loop);
	if (fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "%s: standard output could not be written: %s\n", program.name,
			strerror(errno));
		return status ? status : EIO;
	}
	return status;
}

int util_main(int argc, char **argv)
{
	struct cli c = { .prog = program.name, .argc = argc, .argv = argv };

	return finish(&c, run(&c));
}

int util_run(const struct command *cmd, int argc, char **argv)
{
	struct cli c = { .prog = program.name, .argc = argc, .argv = argv, .command = cmd };

	return finish(&c, run_command(&c));
}
