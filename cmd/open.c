/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * open.c - opening images as the options common to most verbs say, and lists of -o options
 */
#include "cmd.h"

/* ----------------------------------------------- driver options for a name */

/* The next "key=value" of a list where a comma is doubled to stand for itself; malloc'd. */
static char *next_item(const char **list)
{
	const char *p = *list;
	char *item = malloc(strlen(p) + 1), *o = item;

	if (!item)
		return NULL;
	for (; *p; p++) {
		if (*p == ',') {
			if (p[1] != ',')
				break;
			p++;
		}
		*o++ = *p;
	}
	*o = 0;
	*list = *p ? p + 1 : p;
	return item;
}

char *cli_image_opts(const struct cli *c, const char *text)
{
	struct tapimg_err err = { 0 };
	char *name;

	if (tapimg_name_from_opts(text, &name, &err))
		cli_error(c, "Could not open '%s': %s", text, err.text);
	return name;
}

/* ------------------------------------------------------------ opening, closing */

int cli_known_format(const struct cli *c, const char *format)
{
	if (tapimg_format_opts(format))
		return 0;
	cli_error(c, "Unknown file format '%s'", format);
	return -1;
}

const char *cli_why(const char *name, const struct tapimg_err *err, int ret)
{
	size_t n = strlen(name);

	if (!err->text[0])
		return strerror(-ret);
	if (!strncmp(err->text, name, n) && !strncmp(err->text + n, ": ", 2))
		return err->text + n + 2;
	return err->text;
}

int cli_failed(const struct cli *c, const char *name, const struct tapimg_err *err, int ret)
{
	cli_error(c, "%s: %s", name, cli_why(name, err, ret));
	return 1;
}

static bool refuse_all(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	return role == TAPIMG_ROLE_IMAGE;
}

static bool allow_all(void *arg, enum tapimg_role role, const char *referrer, const char *path)
{
	return true;
}

int cli_open(struct cli *c, const char *name, const struct cli_image *how, unsigned flags,
	     struct tapimg **out)
{
	struct tapimg_open_opts opts = {
		.flags = flags | (c->stale_backing ? TAPIMG_STALE_BACKING : 0),
		.gate = c->untrusted ? refuse_all : c->any_extent ? allow_all : NULL,
		.secret = cli_secret, .secret_arg = c,
	};
	struct tapimg_err err = { 0 };
	char *listed = NULL;
	int ret;

	if (how) {
		opts.format = how->format;
		opts.snapshot = how->snapshot;
		opts.rdwr_layers = how->rdwr_layers;
		if (how->share)
			opts.flags |= TAPIMG_SHARE;
		if (how->image_opts && how->format) {
			cli_error(c, "--image-opts and --format are mutually exclusive");
			return -EINVAL;
		}
		if (how->format && cli_known_format(c, how->format))
			return -EINVAL;
		if (how->image_opts) {
			listed = cli_image_opts(c, name);
			if (!listed)
				return -EINVAL;
		}
	}
	if (!cli_loop(c)) {
		free(listed);
		return -ENOMEM;
	}
	ret = tapimg_open(c->loop, listed ? listed : name, &opts, out, &err);
	if (ret)
		cli_error(c, "Could not open '%s': %s", name, cli_why(name, &err, ret));
	free(listed);
	return ret;
}

int cli_close(struct cli *c, struct tapimg *img)
{
	struct tapimg_err err = { 0 };
	int ret = img ? tapimg_close(img, &err) : 0;

	if (ret)
		cli_error(c, "%s", err.text[0] ? err.text : strerror(-ret));
	return ret;
}

int cli_cache(const struct cli *c, const char *what, const char *mode, unsigned *flags)
{
	static const struct { const char *name; unsigned flags; } modes[] = {
		{ "none", TAPIMG_DIRECT }, { "off", TAPIMG_DIRECT }, { "writeback", 0 },
		{ "writethrough", TAPIMG_WRITETHROUGH },
		{ "directsync", TAPIMG_DIRECT | TAPIMG_WRITETHROUGH }, { "unsafe", TAPIMG_UNSAFE },
	};

	*flags &= ~(TAPIMG_DIRECT | TAPIMG_WRITETHROUGH | TAPIMG_UNSAFE);
	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!strcmp(modes[i].name, mode)) {
			*flags |= modes[i].flags;
			return 0;
		}
	}
	cli_error(c, "Invalid %s option: %s (one of none, writeback, writethrough, directsync, unsafe)",
		  what, mode);
	return -1;
}

int cli_common(struct cli *c, int val, struct cli_common *o)
{
	switch (val) {
	case 'f':
		o->how.format = optarg;
		return 1;
	case 'U':
		o->how.share = true;
		return 1;
	case 'q':
		o->quiet = true;
		return 1;
	case OPT_IMAGE_OPTS_VAL:
		o->how.image_opts = true;
		return 1;
	case OPT_OUTPUT_VAL:
		return cli_output(c, optarg, &o->json) ? -1 : 1;
	default:
		return 0;
	}
}

char *cli_snapshot_param(const struct cli *c, const char *text)
{
	char *found = NULL;
	const char *p = text;

	if (strncmp(text, "snapshot.", 9) != 0)
		found = strdup(text);
	while (!found && *p) {
		char *item = next_item(&p);

		if (item && !strncmp(item, "snapshot.id=", 12))
			found = strdup(item + 12);
		else if (item && !strncmp(item, "snapshot.name=", 14))
			found = strdup(item + 14);
		free(item);
	}
	if (!found || !*found) {
		cli_error(c, "Failed in parsing snapshot param '%s'", text);
		free(found);
		return NULL;
	}
	return found;
}

int cli_output(const struct cli *c, const char *text, bool *json)
{
	*json = !strcmp(text, "json");
	if (*json || !strcmp(text, "human"))
		return 0;
	cli_usage_error(c, "--output must be used with human or json as argument, not '%s'", text);
	return -1;
}

/* --------------------------------------------------------------- -o a=b,c=d */

static int opts_set(struct cli_opts *o, char *name, const char *value)
{
	struct tapimg_opt *v;

	free(cli_opts_take(o, name));
	v = realloc(o->v, (o->n + 1) * sizeof(*v));
	if (!v)
		return -1;
	o->v = v;
	v[o->n].name = name;
	v[o->n].value = strdup(value);
	if (!v[o->n].value)
		return -1;
	o->n++;
	return 0;
}

/* A name without a value is a switch turned on. */
int cli_opts_add(const struct cli *c, struct cli_opts *o, const char *text)
{
	const char *p = text;

	while (*p) {
		char *item = next_item(&p), *eq;

		if (item && (!strcmp(item, "help") || !strcmp(item, "?"))) {
			o->help = true;
			free(item);
			continue;
		}
		eq = item ? strchr(item, '=') : NULL;
		if (eq)
			*eq = 0;
		if (!item || !*item || opts_set(o, item, eq ? eq + 1 : "on")) {
			cli_error(c, "Invalid option list: %s", text);
			free(item);
			return -1;
		}
	}
	return 0;
}

char *cli_opts_take(struct cli_opts *o, const char *name)
{
	for (unsigned i = 0; i < o->n; i++) {
		char *value = (char *)o->v[i].value;

		if (strcmp(o->v[i].name, name) != 0)
			continue;
		free((char *)o->v[i].name);
		memmove(o->v + i, o->v + i + 1, (o->n - i - 1) * sizeof(*o->v));
		o->n--;
		return value;
	}
	return NULL;
}

const char *cli_opts_get(const struct cli_opts *o, const char *name)
{
	for (unsigned i = 0; i < o->n; i++) {
		if (!strcmp(o->v[i].name, name))
			return o->v[i].value;
	}
	return NULL;
}

bool cli_opts_any(const char *format, unsigned where)
{
	const struct tapimg_opt_desc *d = tapimg_format_opts(format);

	while (d && d->name && !(d->where & where))
		d++;
	return d && d->name;
}

static const struct tapimg_opt_desc *find_desc(const char *format, const char *name, unsigned where)
{
	const struct tapimg_opt_desc *d = tapimg_format_opts(format);

	for (; d && d->name; d++) {
		if ((d->where & where) && !strcmp(d->name, name))
			return d;
	}
	return NULL;
}

int cli_opts_verify(const struct cli *c, const struct cli_opts *o, const char *format, unsigned where)
{
	for (unsigned i = 0; i < o->n; i++) {
		const char *name = o->v[i].name;

		if (find_desc(format, name, where))
			continue;
		if (!strncmp(name, "encrypt", 7))
			cli_error(c, "Option '%s': encrypted images of format '%s' cannot be made or "
				  "changed", name, format);
		else if (where == TAPIMG_OPT_AMEND && find_desc(format, name, TAPIMG_OPT_CREATE))
			cli_error(c, "Option '%s' can only be given when an image is created", name);
		else
			cli_error(c, "Invalid parameter '%s': format '%s' has no such option; "
				  "-o help lists them", name, format);
		return -1;
	}
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct tapimg_opt_desc *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

void cli_opts_print_help(const char *format, unsigned where)
{
	const struct tapimg_opt_desc *sorted[64] = { NULL }, *d = tapimg_format_opts(format);
	char head[80];
	unsigned n = 0;

	for (; d && d->name && n < ARRAY_SIZE(sorted); d++) {
		if (d->where & where)
			sorted[n++] = d;
	}
	qsort(sorted, n, sizeof(*sorted), by_name);
	if (where == TAPIMG_OPT_AMEND)
		printf("Amend options for '%s':\n", format);
	else
		printf("Supported %s options:\n", format);
	for (unsigned i = 0; i < n; i++) {
		snprintf(head, sizeof(head), "%s=<%s>", sorted[i]->name, sorted[i]->arg);
		printf("  %-22s - %s", head, sorted[i]->help);
		if (sorted[i]->def)
			printf(" (default: %s)", sorted[i]->def);
		putchar('\n');
	}
}

void cli_opts_free(struct cli_opts *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		free((char *)o->v[i].name);
		free((char *)o->v[i].value);
	}
	free(o->v);
	memset(o, 0, sizeof(*o));
}
