/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * create.c - tapimg create: a new image
 *
 * An existing file is replaced only once the new image is complete, and never while somebody has
 * it open: both are the library's doing.
 */
#include "cmd.h"
#include "opt.h"

static const struct option_desc options[] = {
	{ 'f', "format", "FORMAT", "the new image's format (default: raw)", "FORMAT" },
	{ 'o', "options", "LIST", "format options: name=value,...; 'help' lists them", NULL },
	{ 'b', "backing", "FILE", "what is not written to the new image is read from FILE", "FILE" },
	{ 'F', "backing-format", "FORMAT", "the backing file's format; wanted with -b", "FORMAT" },
	{ 'B', NULL, "FORMAT", NULL, "FORMAT" },
	{ 'u', "backing-unsafe", NULL, "do not open the backing file; SIZE is wanted then", NULL },
	OPT_QUIET,
	{ 0 }
};

struct args {
	struct tapimg_create_opts opts;
	struct cli_opts list;
	bool quiet;
	char *backing, *backing_format, *size;	/* taken out of the list */
};

/*
 * What "Formatting ..." names, in this order.  It is shown when given, and by those that are
 * always shown with their default otherwise.
 */
static const struct shown {
	const char *name, *always;
} shown_qcow2[] = {
	{ "cluster_size", "65536" }, { "extended_l2", "off" }, { "preallocation", NULL },
	{ "compression_type", "zlib" }, { "size", NULL }, { "compat", NULL },
	{ "data_file", NULL }, { "data_file_raw", NULL }, { "backing_file", NULL },
	{ "backing_fmt", NULL }, { "lazy_refcounts", "off" }, { "refcount_bits", "16" },
	{ "nocow", NULL }, { NULL, NULL }
}, shown_other[] = {
	{ "size", NULL }, { "extent_size_hint", NULL }, { "nocow", NULL },
	{ "preallocation", NULL }, { NULL, NULL }
};

/* A comma is doubled, as in the list that it can be given in. */
static void print_value(const char *name, const char *value)
{
	printf(" %s=", name);
	for (; *value; value++)
		fputs(*value == ',' ? ",," : (char[]){ *value, 0 }, stdout);
}

static void show_option(const struct args *a, const struct shown *s, uint64_t size)
{
	const char *value = cli_opts_get(&a->list, s->name);
	uint64_t num;

	if (!strcmp(s->name, "size")) {
		printf(" size=%llu", (unsigned long long)size);
		return;
	}
	if (!strcmp(s->name, "backing_file"))
		value = a->opts.backing;
	if (!strcmp(s->name, "backing_fmt"))
		value = a->opts.backing_format;
	if (!value)
		value = s->always;
	if (!value)
		return;
	if (!strcmp(s->name, "cluster_size") && !opt_size(value, &num))
		printf(" %s=%llu", s->name, (unsigned long long)num);
	else
		print_value(s->name, value);
}

/* The size may have come from the backing file: ask the image that there is now. */
static int show(struct cli *c, const char *name, const struct args *a)
{
	const struct cli_image how = { .format = a->opts.format };
	const struct shown *s = strcmp(a->opts.format, "qcow2") ? shown_other : shown_qcow2;
	uint64_t size = a->opts.size;
	struct tapimg *img;

	if (size == TAPIMG_SIZE_BACKING) {
		if (cli_open(c, name, &how, TAPIMG_NO_BACKING | TAPIMG_NO_IO, &img))
			return 1;
		size = tapimg_size(img);
		cli_close(c, img);
	}
	printf("Formatting '%s', fmt=%s", name, a->opts.format);
	for (; s->name; s++)
		show_option(a, s, size);
	putchar('\n');
	return 0;
}

/* backing_file, backing_fmt and size may stand in the list as well as in places of their own. */
static int take_from_list(struct cli *c, struct args *a)
{
	a->backing = cli_opts_take(&a->list, "backing_file");
	a->backing_format = cli_opts_take(&a->list, "backing_fmt");
	a->size = cli_opts_take(&a->list, "size");
	if (a->backing && !a->opts.backing)
		a->opts.backing = a->backing;
	if (a->backing_format && !a->opts.backing_format)
		a->opts.backing_format = a->backing_format;
	if (a->opts.backing && !*a->opts.backing)
		a->opts.backing = NULL;
	return 0;
}

static int take_size(struct cli *c, const char *name, const char *operand, struct args *a)
{
	const char *text = operand ? operand : a->size;

	if (operand && a->size) {
		cli_error(c, "%s: The image size must be specified only once", name);
		return -1;
	}
	if (text)
		return cli_size(c, "image size", text, 0, INT64_MAX, &a->opts.size);
	if (!a->opts.backing || a->opts.no_backing_check) {
		cli_error(c, "%s: Image creation needs a size parameter", name);
		return -1;
	}
	a->opts.size = TAPIMG_SIZE_BACKING;
	return 0;
}

/* The rules that hold before any file is touched. */
static int verify(struct cli *c, const char *name, struct args *a)
{
	if (a->opts.backing && !a->opts.backing_format) {
		cli_error(c, "%s: Backing file '%s' specified without backing format (-F)", name,
			  a->opts.backing);
		return -1;
	}
	if (!a->opts.backing && a->opts.backing_format) {
		cli_error(c, "%s: Backing format '%s' cannot be used without backing file (-b)", name,
			  a->opts.backing_format);
		return -1;
	}
	if (a->opts.backing_format && cli_known_format(c, a->opts.backing_format))
		return -1;
	if (a->opts.backing && !strcmp(a->opts.backing, name)) {
		cli_error(c, "%s: Trying to create an image with the same filename as the backing "
			  "file", name);
		return -1;
	}
	return cli_opts_verify(c, &a->list, a->opts.format, TAPIMG_OPT_CREATE);
}

static int create(struct cli *c, const char *name, struct args *a)
{
	struct tapimg_err err = { 0 };
	int ret;

	if (verify(c, name, a) || !cli_loop(c))
		return 1;
	a->opts.opts = a->list.v;
	a->opts.nopts = a->list.n;
	a->opts.secret = cli_secret;
	a->opts.secret_arg = c;
	ret = tapimg_create(c->loop, name, &a->opts, &err);
	if (ret)
		return cli_failed(c, name, &err, ret);
	return a->quiet ? 0 : show(c, name, a);
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		switch (val) {
		case 'f':
			a->opts.format = optarg;
			break;
		case 'o':
			if (cli_opts_add(c, &a->list, optarg)) {
				c->status = 1;
				return -1;
			}
			break;
		case 'b':
			a->opts.backing = optarg;
			break;
		case 'F':
		case 'B':
			a->opts.backing_format = optarg;
			break;
		case 'u':
			a->opts.no_backing_check = true;
			break;
		case 'q':
			a->quiet = true;
			break;
		}
	}
	return val;
}

static int run(struct cli *c)
{
	struct args a = { .opts.format = "raw" };
	const char *name;
	int ret = 1;

	if (parse(c, &a)) {
		ret = c->status;
		goto out;
	}
	if (cli_known_format(c, a.opts.format))
		goto out;
	if (a.list.help) {
		cli_opts_print_help(a.opts.format, TAPIMG_OPT_CREATE);
		ret = 0;
		goto out;
	}
	if (cli_expect(c, 1, 2))
		goto out;
	name = cli_operand(c);
	if (take_from_list(c, &a) || take_size(c, name, cli_operand(c), &a))
		goto out;
	ret = create(c, name, &a);
out:
	cli_opts_free(&a.list);
	free(a.backing);
	free(a.backing_format);
	free(a.size);
	return ret;
}

const struct command command_create = {
	.name = "create",
	.run = run,
	.usage = "[-f FORMAT] [-o LIST] [-b FILE -F FORMAT [-u]] [-q] FILE [SIZE]",
	.summary = "make a new image",
	.options = options,
};
