/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * convert.c - tapimg convert: copies images into one of another format
 *
 * The target is made under a temporary name and takes its own only when it is complete and on
 * stable storage; a run that fails leaves what was there before.  With -n, and on block devices, it
 * is written in place.
 *
 * With a backing file (-B) only what differs from it is written: if it is a layer of the source's
 * own chain, metadata tells; otherwise contents are compared.
 */
#include "image.h"
#include "job.h"
#include "open.h"
#include "opt.h"

enum { VAL_TARGET_OPTS = OPT_LONG, VAL_TARGET_ZERO, VAL_BITMAPS, VAL_SKIP_BROKEN, VAL_SALVAGE };

static const struct option_desc options[] = {
	{ 'f', "source-format", "FORMAT", "the sources' format (default: look at them)", "FORMAT" },
	{ 'f', "format", "FORMAT", NULL, "FORMAT" },
	OPT_IMAGE_OPTS,
	{ OPT_IMAGE_OPTS_VAL, "source-image-opts", NULL, NULL, NULL },
	{ 'T', "source-cache", "MODE", "cache mode for reading (default: writeback)", "CACHE" },
	{ 'l', "snapshot", "SNAPSHOT", "copy this internal snapshot: ID, NAME or snapshot.id=ID,...",
	  NULL },
	{ 'O', "target-format", "FORMAT", "the target's format (default: raw)", "FORMAT" },
	{ VAL_TARGET_OPTS, "target-image-opts", NULL,
	  "the target is a list of driver options, not a name (with -n)", NULL },
	{ 'o', "target-format-options", "LIST",
	  "format options of the target: name=value,...; 'help' lists them", NULL },
	{ 'o', "options", "LIST", NULL, NULL },
	{ 't', "target-cache", "MODE", "cache mode for writing; all is synced at the end anyway",
	  "CACHE" },
	{ 'B', "backing", "FILE", "the target's backing file: what it holds is not copied", "FILE" },
	{ 'b', NULL, "FILE", NULL, "FILE" },
	{ 'F', "backing-format", "FORMAT", "the backing file's format; wanted with -B", "FORMAT" },
	{ 'c', "compress", NULL, "write compressed clusters", NULL },
	{ 'S', "sparse-size", "SIZE", "zeroes in a row that become a hole (default 4k); 0: none do",
	  NULL },
	{ 'm', "parallel", "N", "requests in flight, 1 to 16 (default: 8)", NULL },
	{ 'W', "oob-writes", NULL, "accepted; several writes are in flight in any case", NULL },
	{ 'r', "rate-limit", "RATE", "bytes a second at most", NULL },
	{ 'C', "copy-range-offloading", NULL, "let the kernel copy between plain files", NULL },
	{ 'n', "no-create", NULL, "write into an existing target", NULL },
	{ VAL_TARGET_ZERO, "target-is-zero", NULL, "with -n: the target reads as zeroes already", NULL },
	{ VAL_BITMAPS, "bitmaps", NULL, "copy persistent bitmaps too", NULL },
	{ VAL_SKIP_BROKEN, "skip-broken-bitmaps", NULL, "with --bitmaps: leave out inconsistent ones",
	  NULL },
	{ VAL_SALVAGE, "salvage", NULL, "sectors that cannot be read become zeroes", NULL },
	OPT_PROGRESS, OPT_QUIET, OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	struct cli_image target;	/* with -n */
	struct tapimg_copy_opts copy;
	struct tapimg_create_opts create;
	struct cli_opts list;
	enum progress_mode progress;
	unsigned src_flags, dst_flags;
	bool no_create, bitmaps, skip_broken, sparse_given, rate_given;
	char *snapshot, *backing, *backing_format, *size;
	const char *name;		/* of the target */
	struct tapimg **srcs;
	unsigned nsrcs;
	struct job job;
	struct cli *cli;
	uint64_t exact_size;		/* of the sources, not rounded to sectors */
	uint64_t lost;			/* bytes that --salvage gave up */
};

/* ------------------------------------------------------------------------ options */

static int take_sparse(struct cli *c, const char *text, struct args *a)
{
	uint64_t v;

	if (opt_size(text, &v) || v % 512 || v > 16 * MiB) {
		cli_error(c, "Invalid buffer size for sparse output specified: '%s'. Valid sizes are "
			  "multiples of 512 up to 16777216. Select 0 to disable sparse detection "
			  "(fully allocates output).", text);
		return -1;
	}
	a->copy.sparse_size = v;
	a->sparse_given = true;
	return 0;
}

static int take_depth(struct cli *c, const char *text, struct args *a)
{
	uint64_t v;

	if (opt_size(text, &v) || v < 1 || v > 16) {
		cli_error(c, "Invalid number of coroutines '%s'. Allowed number of coroutines is "
			  "between 1 and 16", text);
		return -1;
	}
	a->copy.depth = (unsigned)v;
	return 0;
}

static int take_snapshot(struct cli *c, const char *text, struct args *a)
{
	free(a->snapshot);
	a->snapshot = cli_snapshot_param(c, text);
	a->common.how.snapshot = a->snapshot;
	return a->snapshot ? 0 : -1;
}

/* Options without an effect of their own kind: only a mark. */
static bool take_mark(int val, struct args *a)
{
	switch (val) {
	case 'c':
		a->copy.flags |= TAPIMG_COPY_COMPRESS;
		return true;
	case 'W':
		a->copy.flags |= TAPIMG_COPY_UNORDERED;
		return true;
	case 'C':
		a->copy.flags |= TAPIMG_COPY_OFFLOAD;
		return true;
	case 'n':
		a->no_create = true;
		return true;
	case VAL_TARGET_OPTS:
		a->target.image_opts = true;
		return true;
	case VAL_TARGET_ZERO:
		a->copy.flags |= TAPIMG_COPY_TARGET_ZERO;
		return true;
	case VAL_BITMAPS:
		a->bitmaps = true;
		return true;
	case VAL_SKIP_BROKEN:
		a->skip_broken = true;
		return true;
	case VAL_SALVAGE:
		a->copy.flags |= TAPIMG_COPY_SALVAGE;
		a->src_flags |= TAPIMG_SALVAGE;
		return true;
	}
	return false;
}

static int take(struct cli *c, int val, struct args *a)
{
	if (take_mark(val, a))
		return 0;
	switch (val) {
	case 'O':
		a->create.format = optarg;
		return 0;
	case 'o':
		return cli_opts_add(c, &a->list, optarg);
	case 'B':
	case 'b':
		a->create.backing = optarg;
		return 0;
	case 'F':
		a->create.backing_format = optarg;
		return 0;
	case 'T':
		return cli_cache(c, "source cache", optarg, &a->src_flags);
	case 't':
		return cli_cache(c, "cache", optarg, &a->dst_flags);
	case 'S':
		return take_sparse(c, optarg, a);
	case 'm':
		return take_depth(c, optarg, a);
	case 'l':
		return take_snapshot(c, optarg, a);
	case 'r':
		return cli_size(c, "rate limit", optarg, 1, INT64_MAX, &a->copy.rate);
	case 'p':
		return cli_progress_mode(c, optarg, &a->progress);
	default:
		return MIN(cli_common(c, val, &a->common), 0);
	}
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (take(c, val, a)) {
			c->status = 1;
			return -1;
		}
	}
	return val;
}

/* backing_file and backing_fmt may stand in the list as well as in places of their own. */
static void take_from_list(struct args *a)
{
	a->backing = cli_opts_take(&a->list, "backing_file");
	a->backing_format = cli_opts_take(&a->list, "backing_fmt");
	a->size = cli_opts_take(&a->list, "size");
	if (a->backing && !a->create.backing)
		a->create.backing = a->backing;
	if (a->backing_format && !a->create.backing_format)
		a->create.backing_format = a->backing_format;
	if (a->create.backing && !*a->create.backing)
		a->create.backing = NULL;
}

/* What does not go together, before any file is touched; NULL if all does. */
static const char *conflict(const struct args *a)
{
	const char *prealloc = cli_opts_get(&a->list, "preallocation");
	unsigned f = a->copy.flags;

	if (a->skip_broken && !a->bitmaps)
		return "Use of --skip-broken-bitmaps requires --bitmaps";
	if (a->target.image_opts && !a->no_create)
		return "--target-image-opts requires use of -n flag";
	if (f & TAPIMG_COPY_TARGET_ZERO && !a->no_create)
		return "--target-is-zero requires use of -n flag";
	if (f & TAPIMG_COPY_TARGET_ZERO && a->create.backing)
		return "Cannot use --target-is-zero when the destination image has a backing file";
	if (f & TAPIMG_COPY_OFFLOAD && f & TAPIMG_COPY_COMPRESS)
		return "Cannot enable copy offloading when -c is used";
	if (f & TAPIMG_COPY_OFFLOAD && a->sparse_given)
		return "Cannot enable copy offloading when -S is used";
	if (f & TAPIMG_COPY_OFFLOAD && f & TAPIMG_COPY_SALVAGE)
		return "Cannot use copy offloading in salvaging mode";
	if (a->no_create && (a->list.n || a->size))
		return "-o has no effect when skipping image creation";
	if (f & TAPIMG_COPY_COMPRESS && prealloc && strcmp(prealloc, "off"))
		return "Compression and preallocation not supported at the same time";
	if (a->create.backing && !a->create.backing_format && !a->no_create)
		return "Use of backing file requires explicit backing format";
	if (!a->create.backing && a->create.backing_format)
		return "A backing format cannot be used without backing file (-B)";
	return NULL;
}

static int verify(struct cli *c, struct args *a)
{
	const char *why;

	take_from_list(a);
	why = conflict(a);
	if (why) {
		cli_error(c, "%s", why);
		return -1;
	}
	if (a->create.backing_format && cli_known_format(c, a->create.backing_format))
		return -1;
	return cli_opts_verify(c, &a->list, a->create.format, TAPIMG_OPT_CREATE);
}

/* ------------------------------------------------------------------------ sources */

static bool is_stdout(const char *name)
{
	return !strcmp(name, "/dev/stdout") || !strcmp(name, "/dev/fd/1") ||
	       !strcmp(name, "/proc/self/fd/1");
}

static void not_as_said(void *arg, char severity, const char *line)
{
	if (severity == 'E')
		cli_warn(arg, "%s", line);
}

/* What is in an archive that has changed since is copied all the same, for there is nothing better. */
static void verify_source(struct cli *c, struct tapimg *img)
{
	struct tapimg_err err = { 0 };
	uint64_t bad;

	if (tapimg_verify(img, not_as_said, c, &bad, &err))
		cli_warn(c, "%s", err.text);
}

static int open_sources(struct cli *c, struct args *a)
{
	unsigned n = (unsigned)cli_operands(c) - 1;

	a->srcs = calloc(n, sizeof(*a->srcs));
	if (!a->srcs) {
		cli_error(c, "no memory");
		return -1;
	}
	for (; a->nsrcs < n; a->nsrcs++) {
		if (cli_open(c, cli_operand(c), &a->common.how, a->src_flags, &a->srcs[a->nsrcs]))
			return -1;
		if (!(a->src_flags & TAPIMG_SALVAGE))
			verify_source(c, a->srcs[a->nsrcs]);
	}
	a->name = cli_operand(c);
	if (!strcmp(a->name, "-"))
		a->name = "/dev/stdout";
	if (is_stdout(a->name))
		progress_to_stderr(&a->job.progress);
	if (n > 1 && a->create.backing) {
		cli_error(c, "Having a backing file for the target makes no sense when concatenating "
			  "multiple input images");
		return -1;
	}
	if (n > 1 && a->bitmaps) {
		cli_error(c, "Copying bitmaps only possible with single source");
		return -1;
	}
	return 0;
}

static int total_size(struct cli *c, struct args *a)
{
	uint64_t total = 0, want;

	for (unsigned i = 0; i < a->nsrcs; i++)
		if (!checked_add(total, tapimg_size(a->srcs[i]), &total))
			total = UINT64_MAX;
	if (total > INT64_MAX - 512) {
		cli_error(c, "%s: the sources are too large together", a->name);
		return -1;
	}
	a->exact_size = total;
	total = round_up(total, 512);
	if (a->size) {
		if (cli_size(c, "image size", a->size, total, INT64_MAX, &want))
			return -1;
		total = want;
	}
	a->create.size = total;
	return 0;
}

/* ------------------------------------------------------------------------ bitmaps */

/* The names are copied: describing another image, or this one again, invalidates them. */
static int copy_bitmap(struct cli *c, struct tapimg *src, struct tapimg *dst,
		       const struct tapimg_bitmap *b)
{
	struct tapimg_err err = { 0 };
	char *name = strdup(b->name);
	int ret = name ? 0 : -ENOMEM;

	if (!ret)
		ret = tapimg_bitmap_add(dst, name, b->granularity, !(b->flags & TAPIMG_BITMAP_AUTO),
					&err);
	if (!ret)
		ret = tapimg_bitmap_merge(dst, name, src, name, &err);
	if (ret)
		cli_error(c, "Failed to copy bitmap '%s': %s", b->name,
			  err.text[0] ? err.text : strerror(-ret));
	free(name);
	return ret;
}

/* Before any data is copied: 0, or -1 after a message. */
static int check_bitmaps(struct cli *c, struct args *a, const struct tapimg_info *info)
{
	for (unsigned i = 0; i < info->nbitmaps; i++) {
		if (!(info->bitmaps[i].flags & TAPIMG_BITMAP_IN_USE) || a->skip_broken)
			continue;
		cli_error(c, "Cannot copy inconsistent bitmap '%s'", info->bitmaps[i].name);
		fputs("Try --skip-broken-bitmaps, or use 'bitmap --remove'\n", stderr);
		return -1;
	}
	return 0;
}

static int copy_bitmaps(struct cli *c, struct args *a, struct tapimg *dst, bool only_check)
{
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	int ret = tapimg_info(a->srcs[0], &info, &err);

	if (ret) {
		cli_failed(c, tapimg_filename(a->srcs[0]), &err, ret);
		return -1;
	}
	if (only_check)
		return check_bitmaps(c, a, info);
	for (unsigned i = 0; i < info->nbitmaps; i++) {
		const struct tapimg_bitmap *b = &info->bitmaps[i];

		if (b->flags & TAPIMG_BITMAP_IN_USE)
			cli_warn(c, "Skipping inconsistent bitmap '%s'", b->name);
		else if (copy_bitmap(c, a->srcs[0], dst, b))
			return -1;
	}
	return 0;
}

static bool has_bitmaps(const struct tapimg *img)
{
	return img->fmt->bitmap_add;
}

/* ------------------------------------------------------------------------ copying */

/* Where the target's backing file lies in the source's chain; 0: nowhere below its top. */
static unsigned shared_layer(const struct tapimg *src, const struct tapimg *backing)
{
	struct file_id id = file_id_path(backing->path);
	struct tapimg *found = chain_find_file((struct tapimg *)src, &id, backing->path);
	unsigned depth = 0;

	if (!found || found->fmt != backing->fmt || found->opts.offset != backing->opts.offset)
		return 0;
	for (; src != found; src = src->backing)
		depth++;
	return depth;
}

static void salvaged(void *arg, uint64_t off, uint64_t len)
{
	struct args *a = container_of(arg, struct args, job);

	cli_warn(a->cli, "bytes %llu to %llu could not be read, zeroes are written instead",
		 (unsigned long long)off, (unsigned long long)(off + len - 1));
	a->lost += len;
}

static int copy(struct cli *c, struct args *a, struct tapimg *dst, bool zero)
{
	struct tapimg_err err = { 0 };
	struct tapimg *backing = tapimg_backing(dst);
	int ret;

	if (zero)
		a->copy.flags |= TAPIMG_COPY_TARGET_ZERO;
	if (a->create.backing && backing) {
		if (!a->no_create)
			a->copy.skip_layers = shared_layer(a->srcs[0], backing);
		if (!a->copy.skip_layers)
			a->copy.flags |= TAPIMG_COPY_CHANGED;
	}
	if (a->bitmaps && (!has_bitmaps(a->srcs[0]) || !has_bitmaps(dst))) {
		cli_error(c, "%s: this format has no bitmaps to copy", has_bitmaps(dst) ?
			  tapimg_filename(a->srcs[0]) : a->name);
		return -1;
	}
	if (a->bitmaps && copy_bitmaps(c, a, dst, true))
		return -1;
	ret = tapimg_copy(a->srcs, a->nsrcs, dst, &a->copy, &err);
	if (ret) {
		cli_failed(c, a->name, &err, ret);
		return -1;
	}
	return a->bitmaps ? copy_bitmaps(c, a, dst, false) : 0;
}

/* Into an image that is there. */
static int convert_existing(struct cli *c, struct args *a)
{
	struct tapimg *dst;
	int ret;

	a->target.format = a->target.image_opts ? NULL : a->create.format;
	if (cli_open(c, a->name, &a->target, a->dst_flags | TAPIMG_RDWR, &dst))
		return -1;
	if (tapimg_size(dst) < a->exact_size) {
		cli_error(c, "output file is smaller than input file: %s has %llu bytes, %llu are needed",
			  a->name, (unsigned long long)tapimg_size(dst),
			  (unsigned long long)a->exact_size);
		ret = -1;
	} else {
		ret = copy(c, a, dst, false);
	}
	if (cli_close(c, dst))
		ret = -1;
	return ret;
}

static int convert_new(struct cli *c, struct args *a)
{
	struct output out;
	int ret;

	a->create.opts = a->list.v;
	a->create.nopts = a->list.n;
	if (output_create(c, a->name, &a->create, a->dst_flags, &out))
		return -1;
	ret = copy(c, a, out.img, out.zero);
	return output_finish(c, a->name, &out, !ret);
}

static int convert(struct cli *c, struct args *a)
{
	int ret;

	a->cli = c;
	a->copy.progress = job_report;
	a->copy.salvaged = salvaged;
	a->copy.arg = &a->job;
	job_start(&a->job, c, a->common.quiet ? PROGRESS_OFF : a->progress);
	ret = open_sources(c, a);
	for (unsigned i = 0; !ret && !a->target.image_opts && i < a->nsrcs; i++)
		ret = output_apart(c, a->name, a->srcs[i]);
	if (!ret)
		ret = total_size(c, a);
	if (!ret)
		ret = a->no_create ? convert_existing(c, a) : convert_new(c, a);
	if (a->lost)
		cli_warn(c, "%s: %llu bytes in all could not be read", a->name,
			 (unsigned long long)a->lost);
	for (unsigned i = 0; i < a->nsrcs; i++)
		if (cli_close(c, a->srcs[i]))
			ret = -1;
	job_end(&a->job, !ret);
	return ret ? 1 : 0;
}

static int run(struct cli *c)
{
	struct args a = { .create.format = "raw", .copy.sparse_size = 4096 };
	int ret = 1;

	if (parse(c, &a)) {
		ret = c->status;
	} else if (cli_known_format(c, a.create.format)) {
		ret = 1;
	} else if (a.list.help) {
		cli_opts_print_help(a.create.format, TAPIMG_OPT_CREATE);
		ret = 0;
	} else if (cli_operands(c) < 2) {
		ret = cli_usage_error(c, "Must specify image file name: the sources and the target");
	} else if (!verify(c, &a) && cli_loop(c)) {
		ret = convert(c, &a);
	}
	cli_opts_free(&a.list);
	free(a.srcs);
	free(a.snapshot);
	free(a.backing);
	free(a.backing_format);
	free(a.size);
	return ret;
}

const struct command command_convert = {
	.name = "convert",
	.run = run,
	.usage = "[-f FORMAT] [-O FORMAT] [-o LIST] [-c] [-p] [OPTION...] FILE [FILE...] TARGET",
	.summary = "copy an image into one of another format",
	.options = options,
};
