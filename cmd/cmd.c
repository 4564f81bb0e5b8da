/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cmd.c - options, operands, messages and numbers
 *
 * The getopt_long tables are made from a verb's own table for each run; getopt's own messages are
 * off, because it would print a file name where we print the program's.
 */
#include <ctype.h>
#include <stdarg.h>

#include "cmd.h"
#include "opt.h"
#include "secret.h"

#define VAL_HELP	(OPT_LONG + 98)
#define VAL_OBJECT	(OPT_LONG + 99)
#define VAL_UNTRUSTED	(OPT_LONG + 97)
#define VAL_ANY_EXTENT	(OPT_LONG + 96)
#define VAL_STALE	(OPT_LONG + 95)

/* ---------------------------------------------------------------- messages */

/* C0, DEL, and C1 as UTF-8 writes it. */
static bool is_control(const unsigned char *p)
{
	return *p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0);
}

int print_text(FILE *out, const char *text)
{
	int n = 0;

	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (is_control(p)) {
			n += fprintf(out, "\\x%02x", *p);
		} else {
			fputc(*p, out);
			n++;
		}
	}
	return n;
}

__attribute__((format(printf, 3, 0)))
static void message(const struct cli *c, const char *kind, const char *fmt, va_list ap)
{
	char *text;

	fflush(stdout);
	if (vasprintf(&text, fmt, ap) < 0)
		return;
	fprintf(stderr, "%s: %s", c->prog, kind);
	print_text(stderr, text);
	fputc('\n', stderr);
	free(text);
}

void cli_error(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(c, "", fmt, ap);
	va_end(ap);
}

void cli_warn(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(c, "warning: ", fmt, ap);
	va_end(ap);
}

static bool is_verb(const struct cli *c)
{
	return c->command && !program.single;
}

int cli_usage_error(const struct cli *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message(c, "", fmt, ap);
	va_end(ap);
	fprintf(stderr, "Try '%s%s%s --help' for more information\n", c->prog,
		is_verb(c) ? " " : "", is_verb(c) ? c->command->name : "");
	return 1;
}

/* "  -f, --format FORMAT" */
static int option_head(char *buf, size_t size, const struct option_desc *o)
{
	bool optional = o->arg && o->arg[0] == '[';
	int n = 0;

	if (o->val < OPT_LONG)
		n = snprintf(buf, size, "  -%c%s", o->val, o->name ? ", " : "");
	else
		n = snprintf(buf, size, "  ");
	if (o->name)
		n += snprintf(buf + n, size - n, "--%s", o->name);
	if (optional)		/* "[json]" is written "[=json]" */
		n += snprintf(buf + n, size - n, "[=%s", o->arg + 1);
	else if (o->arg)
		n += snprintf(buf + n, size - n, " %s", o->arg);
	return n;
}

static void help_command(const struct cli *c, FILE *out)
{
	char head[80];

	fprintf(out, "usage: %s%s%s %s\n%s\n", c->prog, is_verb(c) ? " " : "",
		is_verb(c) ? c->command->name : "", c->command->usage, c->command->summary);
	if (c->command->options->val)
		fputc('\n', out);
	for (const struct option_desc *o = c->command->options; o->val; o++) {
		if (!o->help)
			continue;
		if (option_head(head, sizeof(head), o) > 26)
			fprintf(out, "%s\n%28s%s\n", head, "", o->help);
		else
			fprintf(out, "%-28s%s\n", head, o->help);
	}
	fprintf(out, "%-28s%s\n%-28s%s\n", "  --any-extent",
		"open extents of a VMDK wherever it says", "  --stale-backing",
		"read above a backing file that has changed since (VMDK)");
	fprintf(out, "%-28s%s\n%-28s%s\n", "  --untrusted",
		"open no other file that an image names", "  -h, --help", "print this help");
	if (c->command->notes)
		fprintf(out, "\n%s\n", c->command->notes);
}

void cli_help(const struct cli *c, FILE *out)
{
	if (c->command) {
		help_command(c, out);
		return;
	}
	fprintf(out, "usage: %s [--help | --version] VERB [OPTION...] [FILE...]\n"
		"Virtual disk images: create, look at, check, convert and change them.\n\n", c->prog);
	for (const struct command *const *p = program.commands; *p; p++) {
		if (!((*p)->flags & CMD_HIDDEN))
			fprintf(out, "  %-12s%s\n", (*p)->name, (*p)->summary);
	}
	fprintf(out, "\n'%s VERB --help' explains a verb, 'man %s-VERB' all of it.\n"
		"Sizes take the suffixes k, M, G, T, P, E (powers of 1024).\nFormats:", c->prog, "tapimg");
	for (const char *const *f = tapimg_formats(); *f; f++)
		fprintf(out, " %s", *f);
	fputc('\n', out);
}

/* ----------------------------------------------------------------- options */

static void add_long(struct option **l, const char *name, int has_arg, int val)
{
	(*l)->name = name;
	(*l)->has_arg = has_arg;
	(*l)->flag = NULL;
	(*l)->val = val;
	(*l)++;
}

/* A leading ':' makes getopt tell a missing argument from an unknown option. */
static void make_tables(struct cli *c)
{
	struct option *l = c->longs;
	char *s = c->shorts;
	unsigned n = 0;

	*s++ = ':';
	*s++ = 'h';
	add_long(&l, "help", no_argument, VAL_HELP);
	add_long(&l, "object", required_argument, VAL_OBJECT);
	add_long(&l, "untrusted", no_argument, VAL_UNTRUSTED);
	add_long(&l, "any-extent", no_argument, VAL_ANY_EXTENT);
	add_long(&l, "stale-backing", no_argument, VAL_STALE);
	for (const struct option_desc *o = c->command->options; o->val && n < CLI_MAX_OPTS; o++, n++) {
		bool optional = o->arg && o->arg[0] == '[';

		if (o->name)
			add_long(&l, o->name, optional ? optional_argument :
				 o->arg ? required_argument : no_argument, o->val);
		if (o->val < OPT_LONG && !memchr(c->shorts, o->val, s - c->shorts)) {
			*s++ = o->val;
			if (o->arg && !optional)
				*s++ = ':';
		}
	}
	*s = 0;
	memset(l, 0, sizeof(*l));
	opterr = 0;
	optind = 0;
}

/* The text is not shown: it may be the secret itself. */
static int take_object(struct cli *c, const char *text)
{
	struct tapimg_err err = { 0 };

	return secrets_add(&c->secrets, text, &err) ? cli_usage_error(c, "--object: %s", err.text) : 0;
}

static int bad_option(struct cli *c, int kind)
{
	const char *arg = optind > 0 && optind <= c->argc ? c->argv[optind - 1] : "";

	if (kind == ':')
		return cli_usage_error(c, "option '%s' wants an argument", arg);
	if (optopt == '=')	/* behind the letter of an option without an argument */
		return cli_usage_error(c, "'=' and a value follow only the long name of an option");
	if (optopt && optopt < OPT_LONG && strncmp(arg, "--", 2) != 0)
		return cli_usage_error(c, "unrecognized option '-%c'", optopt);
	return cli_usage_error(c, "unrecognized option '%s'", arg);
}

int cli_getopt(struct cli *c)
{
	int val;

	if (!c->shorts[0])
		make_tables(c);
	for (;;) {
		val = getopt_long(c->argc, c->argv, c->shorts, c->longs, NULL);
		switch (val) {
		case -1:
			return 0;
		case 'h':
		case VAL_HELP:
			cli_help(c, stdout);
			c->status = 0;
			return -1;
		case VAL_ANY_EXTENT:
			c->any_extent = true;
			break;
		case VAL_STALE:
			c->stale_backing = true;
			break;
		case VAL_UNTRUSTED:
			c->untrusted = true;
			continue;
		case VAL_OBJECT:
			c->status = take_object(c, optarg);
			if (c->status)
				return -1;
			continue;
		case ':':
		case '?':
			c->status = bad_option(c, val);
			return -1;
		default:
			return val;
		}
	}
}

int cli_operands(const struct cli *c)
{
	return c->argc - optind;
}

const char *cli_operand(struct cli *c)
{
	return optind < c->argc ? c->argv[optind++] : NULL;
}

int cli_expect(struct cli *c, int min, int max)
{
	int n = cli_operands(c);

	if (n >= min && n <= max)
		return 0;
	if (n > max)
		cli_usage_error(c, "'%s' is one argument too many", c->argv[optind + max]);
	else if (min == 1)
		cli_usage_error(c, "Expecting one image file name");
	else
		cli_usage_error(c, "Expecting %d arguments, not %d: %s", min, n, c->command->usage);
	return -1;
}

struct tapimg_loop *cli_loop(struct cli *c)
{
	struct tapimg_err err = { 0 };

	if (!c->loop && tapimg_loop_new(0, &c->loop, &err)) {
		cli_error(c, "%s", err.text);
		c->loop = NULL;
	}
	return c->loop;
}

/* ----------------------------------------------------------- numbers, sizes */

static int in_limits(const struct cli *c, const char *what, const char *text, uint64_t v,
		     uint64_t min, uint64_t max)
{
	if (v >= min && v <= max)
		return 0;
	if (v < min)
		cli_error(c, "Invalid %s '%s': it must be at least %llu", what, text,
			  (unsigned long long)min);
	else
		cli_error(c, "Invalid %s '%s': it must be at most %llu", what, text,
			  (unsigned long long)max);
	return -1;
}

int cli_size(const struct cli *c, const char *what, const char *text, uint64_t min, uint64_t max,
	     uint64_t *out)
{
	int ret = opt_size(text, out);

	if (ret == -ERANGE) {
		cli_error(c, "Invalid %s '%s': it is too large", what, text);
		return -1;
	}
	if (ret) {
		cli_error(c, "Invalid %s '%s': a number of bytes with an optional suffix k, M, G, T, P "
			  "or E (powers of 1024) is wanted", what, text);
		return -1;
	}
	return in_limits(c, what, text, *out, min, max);
}

int cli_number(const struct cli *c, const char *what, const char *text, uint64_t min, uint64_t max,
	       uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 0);
	if (!isdigit((unsigned char)text[0]) || *end || errno) {
		cli_error(c, "Invalid %s '%s': a number is wanted", what, text);
		return -1;
	}
	return in_limits(c, what, text, *out, min, max);
}

/* The unit is the one that leaves less than 1000 before the point. */
char *print_size(char buf[32], uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned u = 0;
	double v;

	while (u < 6 && (double)bytes / (double)(1ULL << (10 * u)) >= 1000)
		u++;
	v = (double)bytes / (double)(1ULL << (10 * u));
	snprintf(buf, 32, v >= 999.5 ? "%.0f %s" : "%.3g %s", v, units[u]);
	return buf;
}
