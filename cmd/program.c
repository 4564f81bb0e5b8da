/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * program.c - the commands of a program: found by name, and listed for those who check them
 */
#include "cmd.h"

const struct command *command_find(const char *name)
{
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!strcmp((*p)->name, name))
			return *p;
	}
	return NULL;
}

static json_t *describe_option(const struct option_desc *o)
{
	char letter[3] = { '-', (char)o->val, 0 };
	json_t *obj = json_object();

	json_add_str(obj, "short", o->val < OPT_LONG ? letter : NULL);
	json_add_str(obj, "long", o->name);
	json_add_str(obj, "argument", o->arg);
	json_add_str(obj, "help", o->help);
	return obj;
}

static json_t *describe_command(const struct command *cmd)
{
	json_t *obj = json_object(), *list = json_array();

	json_add_str(obj, "name", cmd->name);
	json_add_str(obj, "usage", cmd->usage);
	json_add_str(obj, "summary", cmd->summary);
	for (const struct option_desc *o = cmd->options; o->val; o++)
		json_array_append_new(list, describe_option(o));
	json_object_set_new(obj, "options", list);
	return obj;
}

/* What the man pages, the completion and --help are compared with. */
int program_list_commands(const struct cli *c, const char *how)
{
	json_t *list;

	if (!strcmp(how, "=json")) {
		list = json_array();
		for (const struct command *const *p = program.commands; *p; p++) {
			if (!((*p)->flags & CMD_HIDDEN))
				json_array_append_new(list, describe_command(*p));
		}
		return json_print(c, list) ? 1 : 0;
	}
	if (*how)
		return cli_usage_error(c, "--list-commands: '%s' is not 'json'", how + 1);
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!((*p)->flags & CMD_HIDDEN))
			printf("%s\n", (*p)->name);
	}
	return 0;
}
