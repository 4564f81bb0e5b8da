/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * completion.c - tapimg completion: shell completion, made from a program's command tables
 */
#include "cmd.h"

static const struct option_desc options[] = {
	{ 0 }
};

static bool shown(const struct command *cmd)
{
	return !(cmd->flags & CMD_HIDDEN);
}

/* The name of the shell function: "_vhd_util" */
static const char *function_name(char buf[64])
{
	snprintf(buf, 64, "_%s", program.name);
	for (char *p = buf; *p; p++) {
		if (*p == '-')
			*p = '_';
	}
	return buf;
}

static bool optional(const struct option_desc *o)
{
	return o->arg && o->arg[0] == '[';
}

/* The words an argument may be, separated by spaces; "" for anything, NULL for file names. */
static const char *words_of(const struct option_desc *o, char buf[256])
{
	size_t n = 0;

	buf[0] = 0;
	if (!o->values)
		return buf;
	if (!strcmp(o->values, "FILE"))
		return NULL;
	if (!strcmp(o->values, "CACHE"))
		return "none writeback writethrough directsync unsafe";
	if (!strcmp(o->values, "FORMAT")) {
		for (const char *const *f = tapimg_formats(); *f; f++)
			n += snprintf(buf + n, 256 - n, "%s%s", n ? " " : "", *f);
		return buf;
	}
	snprintf(buf, 256, "%s", o->values);
	for (char *p = buf; *p; p++) {
		if (*p == '|')
			*p = ' ';
	}
	return buf;
}

/* -------------------------------------------------------------------- bash */

static void bash_option_names(const struct command *cmd)
{
	for (const struct option_desc *o = cmd->options; o->val; o++) {
		if (!o->help)
			continue;
		if (o->val < OPT_LONG)
			printf(" -%c", o->val);
		if (o->name)
			printf(" --%s", o->name);
	}
	fputs(program.long_options ? " --any-extent --stale-backing --untrusted -h --help" : " -h", stdout);
}

static void bash_command(const struct command *cmd)
{
	char buf[256];

	printf("\t%s)\n\t\twords='", program.single ? "*" : cmd->name);
	bash_option_names(cmd);
	printf("'\n\t\tcase $prev in\n");
	for (const struct option_desc *o = cmd->options; o->val; o++) {
		const char *words;

		if (!o->arg || optional(o))
			continue;
		words = words_of(o, buf);
		printf("\t\t");
		if (o->val < OPT_LONG && (o->help || !o->name))
			printf("-%c%s", o->val, o->name ? "|" : "");
		if (o->name)
			printf("--%s", o->name);
		if (words)
			printf(") values='%s'; kind=words;;\n", words);
		else
			printf(") kind=files;;\n");
	}
	printf("\t\tesac;;\n");
}

static void bash_verbs(void)
{
	printf("\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\tmapfile -t COMPREPLY < <(compgen -W '");
	for (const struct command *const *p = program.commands; *p; p++) {
		if (shown(*p))
			printf("%s ", (*p)->name);
	}
	printf("%s' -- \"$cur\")\n\t\treturn\n\tfi\n",
	       program.long_options ? "--help --version" : "");
}

static void bash(void)
{
	char function[64];

	printf("# bash completion for %s, made by '%s completion bash'\n%s()\n{\n", program.name,
	       program.name, function_name(function));
	printf("\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	       "\tlocal words='' values='' kind=''\n\n\tCOMPREPLY=()\n");
	if (!program.single)
		bash_verbs();
	printf("\tif [ \"$cur\" = = ]; then\n\t\tcur=''\n"
	       "\telif [ \"$prev\" = = ]; then\n\t\tprev=${COMP_WORDS[COMP_CWORD-2]}\n\tfi\n"
	       "\tcase ${COMP_WORDS[1]} in\n");
	for (const struct command *const *p = program.commands; *p; p++) {
		if (shown(*p))
			bash_command(*p);
	}
	printf("\tesac\n"
	       "\tif [ \"$kind\" = words ]; then\n"
	       "\t\tmapfile -t COMPREPLY < <(compgen -W \"$values\" -- \"$cur\")\n"
	       "\telif [ \"$kind\" != files ] && [[ $cur == -* ]]; then\n"
	       "\t\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
	       "\telse\n\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n\tfi\n}\n"
	       "complete -o filenames -F %s %s%s%s\n", function, program.name,
	       program.also ? " " : "", program.also ? program.also : "");
}

/* --------------------------------------------------------------------- zsh */

/* Within single quotes and brackets. */
static void zsh_text(const char *text)
{
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else if (strchr("[]:\\", *text))
			printf("\\%c", *text);
		else
			putchar(*text);
	}
}

static void zsh_argument(const struct option_desc *o)
{
	char buf[256];
	const char *words = words_of(o, buf);

	if (!o->arg || optional(o))
		return;
	printf(":%s:", o->arg);
	if (!words)
		printf("_files");
	else if (*words)
		printf("(%s)", words);
	else
		putchar(' ');
}

static void zsh_spec(const struct option_desc *o, bool letter)
{
	printf("\t\t\t'*");
	if (letter)
		printf("-%c", o->val);
	else
		printf("--%s%s", o->name, o->arg && !optional(o) ? "=" : "");
	putchar('[');
	zsh_text(o->help);
	putchar(']');
	zsh_argument(o);
	printf("' \\\n");
}

static void zsh_verbs(void)
{
	printf("\tlocal -a verbs\n\tverbs=(\n");
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!shown(*p))
			continue;
		printf("\t\t'%s:", (*p)->name);
		zsh_text((*p)->summary);
		printf("'\n");
	}
	printf("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe verb verbs\n\t\treturn\n\tfi\n"
	       "\tlocal verb=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n");
}

static void zsh(void)
{
	char function[64];

	printf("#compdef %s\n# made by '%s completion zsh'\n\n%s() {\n", program.name, program.name,
	       function_name(function));
	if (!program.single)
		zsh_verbs();
	printf("\tcase ${verb:-} in\n");
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!shown(*p))
			continue;
		printf("\t(%s)\n\t\t_arguments -s \\\n", program.single ? "*" : (*p)->name);
		for (const struct option_desc *o = (*p)->options; o->val; o++) {
			if (o->help && o->val < OPT_LONG)
				zsh_spec(o, true);
			if (o->help && o->name)
				zsh_spec(o, false);
		}
		if (program.long_options)
			printf("\t\t\t'--any-extent[open extents of a VMDK wherever it says]' \\\n"
			       "\t\t\t'--stale-backing[read above a changed backing file]' \\\n"
			       "\t\t\t'--untrusted[open no other file that an image names]' \\\n"
			       "\t\t\t'(-h --help)'{-h,--help}'[print this help]' '*:file:_files';;\n");
		else
			printf("\t\t\t'-h[print this help]' '*:file:_files';;\n");
	}
	printf("\tesac\n}\n\n%s \"$@\"\n", function);
}

/* -------------------------------------------------------------------- fish */

static void fish_text(const char *text)
{
	for (; *text; text++) {
		if (*text == '\'' || *text == '\\')
			putchar('\\');
		putchar(*text);
	}
}

static void fish_option(const struct command *cmd, const struct option_desc *o)
{
	char buf[256];
	const char *words = words_of(o, buf);

	printf("complete -c %s", program.name);
	if (!program.single)
		printf(" -n '__fish_seen_subcommand_from %s'", cmd->name);
	if (o->val < OPT_LONG)
		printf(" -s %c", o->val);
	if (o->name)
		printf(" -l %s", o->name);
	if (o->arg && !optional(o)) {
		if (!words)
			printf(" -r -F");
		else if (*words)
			printf(" -x -a '%s'", words);
		else
			printf(" -x");
	}
	printf(" -d '");
	fish_text(o->help);
	printf("'\n");
}

static void fish(void)
{
	printf("# fish completion for %s, made by '%s completion fish'\n", program.name, program.name);
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!shown(*p) || program.single)
			continue;
		printf("complete -c %s -f -n __fish_use_subcommand -a %s -d '", program.name,
		       (*p)->name);
		fish_text((*p)->summary);
		printf("'\n");
	}
	for (const struct command *const *p = program.commands; *p; p++) {
		for (const struct option_desc *o = (*p)->options; shown(*p) && o->val; o++) {
			if (o->help)
				fish_option(*p, o);
		}
	}
}

bool completion_print(const char *shell)
{
	if (!strcmp(shell, "bash"))
		bash();
	else if (!strcmp(shell, "zsh"))
		zsh();
	else if (!strcmp(shell, "fish"))
		fish();
	else
		return false;
	return true;
}

static int run(struct cli *c)
{
	const char *shell;

	if (cli_getopt(c))
		return c->status;
	if (cli_operands(c) != 1)
		return cli_usage_error(c, "Expecting the name of a shell: bash, zsh or fish");
	shell = cli_operand(c);
	if (!completion_print(shell))
		return cli_usage_error(c, "'%s' is not bash, zsh or fish", shell);
	return 0;
}

const struct command command_completion = {
	.name = "completion",
	.run = run,
	.usage = "bash|zsh|fish",
	.summary = "print a completion script for a shell",
	.options = options,
	.flags = CMD_HIDDEN,
};
