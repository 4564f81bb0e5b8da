/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.c - results as JSON, over jansson: four spaces of indent, members in the order added, plain
 * ASCII
 */
#include "cmd.h"

int json_print(const struct cli *c, json_t *v)
{
	int ret = v ? json_dumpf(v, stdout, JSON_INDENT(4) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII) : -1;

	json_decref(v);
	if (ret) {
		cli_error(c, "the result could not be written as JSON");
		return -1;
	}
	putchar('\n');
	return 0;
}

/* File names need not be UTF-8; JSON must be: every byte that is not becomes '?'. */
static json_t *lossy_string(const char *text)
{
	char *copy = strdup(text);
	json_t *v = NULL;

	for (char *p = copy; p && *p; p++) {
		if (*p & 0x80)
			*p = '?';
	}
	if (copy)
		v = json_string(copy);
	free(copy);
	return v;
}

void json_add_str(json_t *obj, const char *key, const char *text)
{
	json_t *v;

	if (!text)
		return;
	v = json_string(text);
	json_object_set_new(obj, key, v ? v : lossy_string(text));
}

void json_add_int(json_t *obj, const char *key, uint64_t num)
{
	json_object_set_new(obj, key, json_integer((json_int_t)num));
}

void json_add_bool(json_t *obj, const char *key, bool on)
{
	json_object_set_new(obj, key, json_boolean(on));
}
