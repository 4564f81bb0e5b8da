/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qtools.c - qcow-create, img2qcow and qcow2raw: see qtools.h
 *
 * A target that exists is asked about: on a terminal with a question, and a script may answer it on
 * standard input as it did in Xen's tools ("echo y | qcow2raw ..."), or say --force.
 */
#include <ctype.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "job.h"
#include "qtools.h"

#define EXIT_USAGE 255
#define BAR_WIDTH 50

#define OPT_FORCE { 'y', "force", NULL, "replace the target if it exists, without asking", NULL }

/* -------------------------------------------------------------- the existing target */

/* 0 to go on, -1 after a message. */
static int may_replace(struct cli *c, const char *name, bool force)
{
	struct stat st;
	int answer, next;

	if (force || stat(name, &st))
		return 0;
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "%s: '%s' exists and would be overwritten.\n"
			"Do you wish to continue? (y or n) ", c->prog, name);
	answer = next = getchar();
	while (next != EOF && next != '\n')
		next = getchar();
	if (answer == 'y' || answer == 'Y')
		return 0;
	if (isatty(STDIN_FILENO))
		cli_error(c, "'%s' was left as it is", name);
	else
		cli_error(c, "'%s' exists: it is replaced only with --force", name);
	return -1;
}

/* --------------------------------------------------------------------- progress */

struct bar {
	struct job job;		/* first: a job_report() argument */
	bool tty;
	int shown;		/* percent, -1: nothing yet */
};

/* "[=======>      ]  42%" */
static void bar_paint(struct bar *b, int percent)
{
	int full = percent * BAR_WIDTH / 100;
	char line[BAR_WIDTH + 1];

	memset(line, ' ', BAR_WIDTH);
	memset(line, '=', full);
	if (full < BAR_WIDTH)
		line[full] = '>';
	line[BAR_WIDTH] = 0;
	fprintf(stderr, "\r[%s] %3d%%", line, percent);
	b->shown = percent;
}

static int bar_report(void *arg, uint64_t done, uint64_t total)
{
	struct bar *b = arg;
	int percent = total ? (int)((double)done / (double)total * 100) : 100;

	if (b->tty && percent != b->shown)
		bar_paint(b, MIN(percent, 99));
	return job_report(&b->job, done, total);
}

static void bar_end(struct bar *b, bool ok)
{
	if (b->tty && ok)
		bar_paint(b, 100);
	if (b->tty && b->shown >= 0)
		fputc('\n', stderr);
	job_end(&b->job, ok);
}

/* ------------------------------------------------------------------ the copying */

/* All of @src becomes @target, made as @o says. */
static int copy_image(struct cli *c, struct tapimg *src, const char *target,
		      struct tapimg_create_opts *o)
{
	struct tapimg_copy_opts how = { .sparse_size = 4096, .progress = bar_report };
	struct bar bar = { .tty = isatty(STDERR_FILENO), .shown = -1 };
	struct tapimg_err err = { 0 };
	struct output out;
	int ret;

	o->size = tapimg_size(src);
	job_start(&bar.job, c, PROGRESS_OFF);
	how.arg = &bar;
	ret = output_apart(c, target, src);
	if (!ret)
		ret = output_create(c, target, o, 0, &out);
	if (!ret) {
		how.flags = out.zero ? TAPIMG_COPY_TARGET_ZERO : 0;
		ret = tapimg_copy(&src, 1, out.img, &how, &err);
		if (ret)
			cli_failed(c, target, &err, ret);
		if (output_finish(c, target, &out, !ret))
			ret = -1;
	}
	bar_end(&bar, !ret);
	return ret ? 1 : 0;
}

/* ---------------------------------------------------------------------- options */

struct args {
	const char *format;
	bool force, reserve;
};

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		switch (val) {
		case 'f':
			a->format = optarg;
			break;
		case 'r':
			a->reserve = true;
			break;
		case 'y':
			a->force = true;
			break;
		}
	}
	if (val < 0) {
		c->status = c->status ? EXIT_USAGE : 0;
		return -1;
	}
	if (a->format && strcmp(a->format, "qcow") != 0 && strcmp(a->format, "qcow2") != 0) {
		cli_usage_error(c, "-f %s: the formats are qcow and qcow2", a->format);
		c->status = EXIT_USAGE;
		return -1;
	}
	return 0;
}

static int expect(struct cli *c, int min, int max)
{
	int n = cli_operands(c);

	if (n >= min && n <= max)
		return 0;
	cli_usage_error(c, "%s: %s", n < min ? "arguments are missing" : "there are too many arguments",
			c->command->usage);
	return -1;
}

static const struct tapimg_opt layout_xen[] = { { "layout", "xen" }, { "preallocation", "falloc" } };

/* ------------------------------------------------------------------ qcow-create */

static bool is_number(const char *s)
{
	const char *p = s;

	while (isdigit((unsigned char)*p))
		p++;
	return p > s && !*p;
}

/* Format and size of the backing file, and the name under which it is stored: an absolute one. */
static int look_at_backing(struct cli *c, const char *name, struct tapimg_create_opts *o, char *path)
{
	const struct cli_image how = { .share = true };
	struct tapimg *img;

	if (!realpath(name, path)) {
		cli_error(c, "Could not open '%s': %s", name, strerror(errno));
		return -1;
	}
	if (cli_open(c, path, &how, TAPIMG_NO_IO, &img))
		return -1;
	o->backing = path;
	/* a name that the library keeps */
	for (const char *const *f = tapimg_formats(); *f; f++)
		if (!strcmp(*f, tapimg_format(img)))
			o->backing_format = *f;
	/* a child shorter than its parent would lose the rest of it */
	o->size = MAX(o->size, tapimg_size(img));
	return cli_close(c, img) ? -1 : 0;
}

static int qcow_create_run(struct cli *c)
{
	struct tapimg_create_opts o = { .secret = cli_secret, .secret_arg = c };
	struct args a = { 0 };
	struct tapimg_err err = { 0 };
	char path[PATH_MAX];
	const char *size, *name, *backing;
	bool qcow;
	int ret;

	if (parse(c, &a))
		return c->status;
	/* "-r reserve" stands like this in Xen's usage, where the word only explains the letter */
	if (a.reserve && cli_operands(c) >= 3 && is_number(c->argv[optind + 1]))
		cli_operand(c);
	if (expect(c, 2, 3))
		return EXIT_USAGE;
	size = cli_operand(c);
	name = cli_operand(c);
	backing = cli_operand(c);
	qcow = !a.format || !strcmp(a.format, "qcow");
	if (cli_number(c, "size in MB", size, 0, INT64_MAX / MiB, &o.size))
		return EXIT_USAGE;
	o.size *= MiB;
	if (a.reserve && backing) {
		cli_error(c, "-r: with a backing file no space is reserved, for it would hide that");
		return EXIT_USAGE;
	}
	if (!o.size && !backing) {
		cli_error(c, "A size of 0 MB is only for an image with a backing file, whose size it takes");
		return EXIT_USAGE;
	}
	if (may_replace(c, name, a.force) || !cli_loop(c) ||
	    (backing && look_at_backing(c, backing, &o, path)))
		return 1;
	o.format = qcow ? "qcow" : "qcow2";
	o.opts = qcow ? layout_xen : layout_xen + 1;
	o.nopts = (qcow ? 1 : 0) + (a.reserve ? 1 : 0);
	ret = tapimg_create(c->loop, name, &o, &err);
	return ret ? cli_failed(c, name, &err, ret) : 0;
}

static const struct option_desc qcow_create_options[] = {
	{ 'r', "reserve", NULL, "allocate all of its space now", NULL },
	{ 'f', "format", "FORMAT", "qcow (the default) or qcow2", "qcow|qcow2" },
	OPT_FORCE,
	{ 0 }
};

const struct command command_qcow_create = {
	.name = "qcow-create",
	.run = qcow_create_run,
	.usage = "[-r] [-f qcow|qcow2] [-y] SIZE_MB FILE [BACKING_FILE]",
	.summary = "make an empty QCOW image, perhaps over a backing file",
	.options = qcow_create_options,
};

/* --------------------------------------------------------------------- img2qcow */

static int img2qcow_run(struct cli *c)
{
	const struct cli_image raw = { .format = "raw" };
	struct tapimg_create_opts o = { 0 };
	struct args a = { 0 };
	const char *target, *source;
	struct tapimg *src;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (expect(c, 2, 2))
		return EXIT_USAGE;
	target = cli_operand(c);
	source = cli_operand(c);
	if (!cli_loop(c) || cli_open(c, source, &raw, 0, &src))
		return 1;
	o.format = a.format ? a.format : "qcow";
	o.opts = layout_xen;
	o.nopts = !strcmp(o.format, "qcow") ? 1 : 0;
	ret = may_replace(c, target, a.force) ? 1 : copy_image(c, src, target, &o);
	return cli_close(c, src) ? 1 : ret;
}

static const struct option_desc img2qcow_options[] = {
	{ 'f', "format", "FORMAT", "of the new image: qcow (the default) or qcow2", "qcow|qcow2" },
	OPT_FORCE,
	{ 0 }
};

const struct command command_img2qcow = {
	.name = "img2qcow",
	.run = img2qcow_run,
	.usage = "[-f qcow|qcow2] [-y] QCOW_FILE SOURCE",
	.summary = "copy a raw image or a device into a new QCOW image",
	.options = img2qcow_options,
};

/* --------------------------------------------------------------------- qcow2raw */

static int qcow2raw_run(struct cli *c)
{
	struct cli_image how = { 0 };
	struct tapimg_create_opts o = { .format = "raw" };
	struct args a = { 0 };
	const char *target, *source;
	struct tapimg *src;
	int ret = 1;

	if (parse(c, &a))
		return c->status;
	if (expect(c, 2, 2))
		return EXIT_USAGE;
	target = cli_operand(c);
	source = cli_operand(c);
	how.format = a.format;
	if (!cli_loop(c) || cli_open(c, source, &how, 0, &src))
		return 1;
	if (strncmp(tapimg_format(src), "qcow", 4) != 0)
		cli_error(c, "'%s' is no QCOW image but %s", source, tapimg_format(src));
	else if (!may_replace(c, target, a.force))
		ret = copy_image(c, src, target, &o);
	return cli_close(c, src) ? 1 : ret;
}

static const struct option_desc qcow2raw_options[] = {
	{ 'f', "format", "FORMAT", "of the source: qcow or qcow2 (default: look at it)", "qcow|qcow2" },
	OPT_FORCE,
	{ 0 }
};

const struct command command_qcow2raw = {
	.name = "qcow2raw",
	.run = qcow2raw_run,
	.usage = "[-f qcow|qcow2] [-y] TARGET QCOW_FILE",
	.summary = "copy what a QCOW image reads as into a raw file or to a device",
	.options = qcow2raw_options,
};

/* ------------------------------------------------------------------------- main */

int qtool_main(int argc, char **argv)
{
	struct cli c = {
		.prog = program.name, .command = program.commands[0], .argc = argc, .argv = argv,
	};
	int status;

	if (argc > 1 && !strncmp(argv[1], "--completion=", 13))
		return completion_print(argv[1] + 13) ? 0 : EXIT_USAGE;
	if (argc > 1 && !strncmp(argv[1], "--list-commands", 15))
		return program_list_commands(&c, argv[1] + 15) ? EXIT_USAGE : 0;
	if (argc == 2 && (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version"))) {
		printf("%s (tapimg) %s\n", c.prog, tapimg_version());
		return 0;
	}
	signal(SIGXFSZ, SIG_IGN);	/* the write fails instead, and what was begun is removed */
	status = c.command->run(&c);
	tapimg_loop_free(c.loop);
	cli_secrets_end(&c);
	return status;
}
