/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * check.c - tapimg check: is the image's own structure sound, and repair
 *
 * Findings go to stderr one by one as they are found (the library lists so many and counts the
 * rest); the summary, or the JSON object, goes to stdout.  Exit codes: 0 sound, 1 the check could not be made, 2 corrupt,
 * 3 leaks only, 63 the format has no check.
 */
#include <inttypes.h>

#include "cmd.h"

#define MAX_JSON_FINDINGS 100

enum { EXIT_CORRUPT = 2, EXIT_LEAKS = 3, EXIT_UNSUPPORTED = 63 };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ 'r', "repair", "leaks|all", "repair: leaks only, or everything", "leaks|all" },
	{ 'T', "cache", "MODE", "cache mode: none, writeback, writethrough, directsync, unsafe", "CACHE" },
	{ 'T', "source-cache", "MODE", NULL, "CACHE" },
	OPT_OUTPUT, OPT_QUIET, OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	unsigned fix, flags;
};

/* Where findings go. */
struct report {
	bool quiet;
	json_t *list;			/* JSON: the first ones */
};

static const struct {
	char severity;
	const char *before;		/* the line on stderr */
	const char *kind;		/* in JSON */
} kinds[] = {
	{ 'E', "", "corruption" }, { 'L', "", "leak" },
	{ 'R', "Repaired: ", "repaired" }, { 'I', "Note: ", "note" },
};

static void report(void *arg, char severity, const char *line)
{
	struct report *r = arg;
	unsigned kind = 0;
	json_t *obj;

	while (kind < ARRAY_SIZE(kinds) - 1 && kinds[kind].severity != severity)
		kind++;
	if (r->list && json_array_size(r->list) < MAX_JSON_FINDINGS) {
		obj = json_object();
		json_add_str(obj, "kind", kinds[kind].kind);
		json_add_str(obj, "text", line);
		json_array_append_new(r->list, obj);
	}
	if (!r->quiet || severity == 'E') {
		fputs(kinds[kind].before, stderr);
		print_text(stderr, line);
		fputc('\n', stderr);
	}
}

static void print_problems(const struct tapimg_check *r)
{
	if (!r->corruptions && !r->leaks && !r->check_errors)
		puts("No errors were found on the image.");
	if (r->corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n",
		       r->corruptions);
	if (r->leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n", r->leaks);
	if (r->check_errors)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
		       r->check_errors);
}

static void print_human(const struct tapimg_check *r)
{
	print_problems(r);
	if (r->total_clusters && r->allocated_clusters)
		printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
		       "%0.2f%% compressed clusters\n", r->allocated_clusters, r->total_clusters,
		       (double)r->allocated_clusters * 100.0 / (double)r->total_clusters,
		       (double)r->fragmented_clusters * 100.0 / (double)r->allocated_clusters,
		       (double)r->compressed_clusters * 100.0 / (double)r->allocated_clusters);
	if (r->image_end)
		printf("Image end offset: %" PRIu64 "\n", r->image_end);
}

static void add_nonzero(json_t *obj, const char *key, uint64_t num)
{
	if (num)
		json_add_int(obj, key, num);
}

static int print_json(const struct cli *c, const char *name, const char *format,
		      const struct tapimg_check *r, json_t *findings)
{
	json_t *obj = json_object();

	add_nonzero(obj, "image-end-offset", r->image_end);
	add_nonzero(obj, "total-clusters", r->total_clusters);
	add_nonzero(obj, "allocated-clusters", r->allocated_clusters);
	add_nonzero(obj, "fragmented-clusters", r->fragmented_clusters);
	add_nonzero(obj, "compressed-clusters", r->compressed_clusters);
	json_add_int(obj, "check-errors", r->check_errors);
	add_nonzero(obj, "corruptions", r->corruptions);
	add_nonzero(obj, "leaks", r->leaks);
	add_nonzero(obj, "corruptions-fixed", r->corruptions_fixed);
	add_nonzero(obj, "leaks-fixed", r->leaks_fixed);
	json_add_str(obj, "filename", name);
	json_add_str(obj, "format", format);
	if (json_array_size(findings))
		json_object_set(obj, "findings", findings);
	return json_print(c, obj);
}

/* One more look after a repair: what is said last is true of the image as it is now. */
static int check_again(struct tapimg *img, const struct args *a, struct tapimg_check *res,
		       struct report *r, struct tapimg_err *err)
{
	const struct tapimg_check first = *res;
	int ret;

	if (!a->common.json && !a->common.quiet) {
		printf("The following inconsistencies were found and repaired:\n\n"
		       "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
		       "Double checking the fixed image now...\n",
		       first.leaks_fixed, first.corruptions_fixed);
		fflush(stdout);
	}
	memset(res, 0, sizeof(*res));
	ret = tapimg_check(img, 0, res, report, r, err);
	res->leaks_fixed = first.leaks_fixed;
	res->corruptions_fixed = first.corruptions_fixed;
	return ret;
}

static int check(struct cli *c, const char *name, const struct args *a, struct tapimg *img,
		 struct report *r)
{
	struct tapimg_check res = { 0 };
	struct tapimg_err err = { 0 };
	int ret = tapimg_check(img, a->fix, &res, report, r, &err);

	if (!ret && (res.leaks_fixed || res.corruptions_fixed))
		ret = check_again(img, a, &res, r, &err);
	if (ret == -ENOTSUP) {
		cli_error(c, "%s: This image format (%s) does not support checks", name,
			  tapimg_format(img));
		return EXIT_UNSUPPORTED;
	}
	if (ret) {
		cli_error(c, "%s: Check failed: %s", name, cli_why(name, &err, ret));
		return 1;
	}
	if (a->common.json && !a->common.quiet)
		ret = print_json(c, name, tapimg_format(img), &res, r->list);
	else if (!a->common.quiet)
		print_human(&res);
	if (res.check_errors)
		cli_error(c, "%s: Check failed: %" PRIu64 " parts could not be looked at", name,
			  res.check_errors);
	return ret || res.check_errors ? 1 : res.corruptions ? EXIT_CORRUPT :
		res.leaks ? EXIT_LEAKS : 0;
}

static int take_repair(struct cli *c, const char *text, unsigned *fix)
{
	if (!strcmp(text, "leaks"))
		*fix = TAPIMG_FIX_LEAKS;
	else if (!strcmp(text, "all"))
		*fix = TAPIMG_FIX_LEAKS | TAPIMG_FIX_ERRORS;
	else
		return cli_usage_error(c, "-r wants 'leaks' or 'all', not '%s'", text);
	return 0;
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		c->status = 1;
		if (val == 'r' && take_repair(c, optarg, &a->fix))
			return -1;
		if (val == 'T' && cli_cache(c, "source cache", optarg, &a->flags))
			return -1;
		if (cli_common(c, val, &a->common) < 0)
			return -1;
	}
	return val;
}

static int run(struct cli *c)
{
	struct report r = { 0 };
	struct args a = { 0 };
	struct tapimg *img;
	const char *name;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (cli_expect(c, 1, 1))
		return 1;
	name = cli_operand(c);
	r.quiet = a.common.quiet;
	a.flags |= TAPIMG_CHECK | TAPIMG_NO_BACKING | (a.fix ? TAPIMG_RDWR : 0);
	if (cli_open(c, name, &a.common.how, a.flags, &img))
		return 1;
	if (a.common.json)
		r.list = json_array();
	ret = check(c, name, &a, img, &r);
	json_decref(r.list);
	if (cli_close(c, img))
		ret = 1;
	return ret;
}

const struct command command_check = {
	.name = "check",
	.run = run,
	.usage = "[-f FORMAT] [-r leaks|all] [-T MODE] [--output=KIND] [-q] [-U] FILE",
	.summary = "check an image for errors, and repair it",
	.options = options,
	.notes = "Exit codes: 0 sound, 1 the check could not be made, 2 corrupt, 3 leaks only,\n"
		 "63 the format has no check.",
};
