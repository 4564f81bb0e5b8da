/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tapimg.c - the program: finds the verb and runs it
 *
 * Called under the name qemu-img it calls itself so in every message and begins --version with
 * the version of that program whose command line it follows.
 */
#include <signal.h>

#include "cmd.h"
#include "file.h"

#define QEMU_IMG_VERSION "7.2.0"

static const struct command *const commands[] = {
	&command_amend, &command_bench, &command_bitmap, &command_check, &command_commit,
	&command_compare, &command_completion, &command_convert, &command_create, &command_dd,
	&command_info, &command_map, &command_measure, &command_rebase, &command_resize,
	&command_snapshot, NULL
};

const struct program program = {
	.name = "tapimg", .also = "qemu-img", .commands = commands, .long_options = true,
};

static void print_version(const struct cli *c)
{
	if (c->as_qemu)
		printf("qemu-img version %s (tapimg %s)\n", QEMU_IMG_VERSION, tapimg_version());
	else
		printf("tapimg version %s\n", tapimg_version());
	printf("Supported formats:");
	for (const char *const *f = tapimg_formats(); *f; f++)
		printf(" %s", *f);
	putchar('\n');
}

static int run_verb(struct cli *c, const char *verb)
{
	bool help = !strcmp(verb, "help");

	if (help && c->argc > 1)
		verb = c->argv[1];
	c->command = command_find(verb);
	if (help && (c->command || c->argc == 1)) {
		cli_help(c, stdout);
		return 0;
	}
	if (!c->command)
		return cli_usage_error(c, "Command not found: %s", verb);
	return c->command->run(c);
}

/* What stands before the verb. -T PATTERN is qemu-img's tracing: taken, and without effect. */
static int run(struct cli *c)
{
	while (c->argc > 1 && c->argv[1][0] == '-') {
		const char *arg = c->argv[1];

		if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) {
			cli_help(c, stdout);
			return 0;
		}
		if (!strcmp(arg, "-V") || !strcmp(arg, "--version")) {
			print_version(c);
			return 0;
		}
		if (!strncmp(arg, "--list-commands", 15))
			return program_list_commands(c, arg + 15);
		if (!strcmp(arg, "-T") || !strcmp(arg, "--trace")) {
			if (c->argc < 3)
				return cli_usage_error(c, "%s wants an argument", arg);
			c->argc--;
			c->argv++;
		} else if (strncmp(arg, "--trace=", 8) != 0) {
			return cli_usage_error(c, "unrecognized option '%s'", arg);
		}
		c->argc--;
		c->argv++;
	}
	if (c->argc < 2)
		return cli_usage_error(c, "Not enough arguments");
	c->argc--;
	c->argv++;
	return run_verb(c, c->argv[0]);
}

int main(int argc, char **argv)
{
	const char *slash = argv[0] ? strrchr(argv[0], '/') : NULL;
	const char *base = slash ? slash + 1 : argv[0] ? argv[0] : "tapimg";
	struct cli c = { .argc = argc, .argv = argv };
	int status;

	file_raise_limit();
	signal(SIGXFSZ, SIG_IGN);	/* the write fails instead, and what was begun is removed */
	c.as_qemu = !strcmp(base, "qemu-img");
	c.prog = c.as_qemu ? "qemu-img" : "tapimg";
	status = run(&c);
	tapimg_loop_free(c.loop);
	cli_secrets_end(&c);
	if (fflush(stdout) || ferror(stdout)) {
		cli_error(&c, "standard output could not be written: %s", strerror(errno));
		return status ? status : 1;
	}
	return status;
}
