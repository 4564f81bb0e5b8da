/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * info.c - tapimg info: what an image is, layer by layer, and what is wrong with it
 *
 * Each layer is opened alone, so that a chain which cannot be opened as a whole (a file is missing,
 * it loops) is still shown as far as it goes, and the place where it breaks is named.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "cmd.h"
#include "snapshot-list.h"

#define MAX_LAYERS 200
#define MAX_PROBLEMS 8

enum { VAL_CHAIN = OPT_LONG };

static const struct option_desc options[] = {
	OPT_FORMAT, OPT_IMAGE_OPTS,
	{ VAL_CHAIN, "backing-chain", NULL, "go on with the backing files", NULL },
	OPT_OUTPUT, OPT_SHARE,
	{ 0 }
};

struct args {
	struct cli_common common;
	bool chain;
};

/* What the chain was made of so far. */
struct seen {
	dev_t dev;
	ino_t ino;
};

struct problems {
	char *text[MAX_PROBLEMS];
	unsigned n;
};

/* ---------------------------------------------------------------- problems */

static void __attribute__((format(printf, 2, 3))) problem(struct problems *p, const char *fmt, ...)
{
	va_list ap;

	if (p->n == MAX_PROBLEMS)
		return;
	va_start(ap, fmt);
	if (vasprintf(&p->text[p->n], fmt, ap) >= 0)
		p->n++;
	va_end(ap);
}

/* A plain path, not "json:..." or "nbd:...", names a file that can be looked for. */
static bool plain_path(const char *name)
{
	const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

	return !colon || (slash && slash < colon);
}

static void find_problems(const struct tapimg_info *info, struct problems *p)
{
	struct stat st;

	if (info->corrupt)
		problem(p, "marked as corrupt: a program found damage in its tables while writing. It "
			"can only be read until 'check -r all' has repaired it.");
	if (info->dirty)
		problem(p, "marked as in use (dirty): the last writer did not close it, or has it open "
			"now. The contents are right; its counts or tables may lag until 'check -r all'.");
	for (unsigned i = 0; i < info->nbitmaps; i++) {
		if (info->bitmaps[i].flags & TAPIMG_BITMAP_IN_USE)
			problem(p, "bitmap '%s' was not saved by its last writer: what it says is not "
				"to be relied on. Remove it.", info->bitmaps[i].name);
	}
	if (info->backing && info->backing_full && plain_path(info->backing_full) &&
	    stat(info->backing_full, &st))
		problem(p, "its backing file '%s' cannot be found: %s.", info->backing_full,
			strerror(errno));
	if (info->backing && !info->backing_format)
		problem(p, "it does not say the format of its backing file '%s': whoever writes to that "
			"file can make it look like another format.", info->backing);
}

static void free_problems(struct problems *p)
{
	while (p->n)
		free(p->text[--p->n]);
}

/* ------------------------------------------------------------------- human */

static void print_field(const char *before, const char *text)
{
	fputs(before, stdout);
	print_text(stdout, text);
	putchar('\n');
}

/* "refcount-bits" is written "refcount bits" for people. */
static void print_key(const char *key)
{
	printf("    ");
	for (; *key; key++)
		putchar(*key == '-' ? ' ' : *key);
	printf(": ");
}

static void print_bitmaps(const struct tapimg_info *info)
{
	printf("    bitmaps:\n");
	for (unsigned i = 0; i < info->nbitmaps; i++) {
		const struct tapimg_bitmap *b = info->bitmaps + i;
		unsigned n = 0;

		printf("        [%u]:\n            flags:\n", i);
		if (b->flags & TAPIMG_BITMAP_IN_USE)
			printf("                [%u]: in-use\n", n++);
		if (b->flags & TAPIMG_BITMAP_AUTO)
			printf("                [%u]: auto\n", n++);
		print_field("            name: ", b->name);
		printf("            granularity: %" PRIu64 "\n", b->granularity);
	}
}

static void print_extents(const struct tapimg_info *info)
{
	printf("    extents:\n");
	for (unsigned i = 0; i < info->nextents; i++) {
		const struct tapimg_extent_info *e = info->extents + i;

		printf("        [%u]:\n", i);
		if (e->compressed)
			printf("            compressed: true\n");
		printf("            virtual size: %" PRIu64 "\n", e->virtual_size);
		if (e->filename)
			print_field("            filename: ", e->filename);
		if (e->cluster_size)
			printf("            cluster size: %" PRIu64 "\n", e->cluster_size);
		print_field("            format: ", e->format);
	}
}

static void print_facts(const struct tapimg_info *info)
{
	bool bitmaps = info->nbitmaps;

	if (!info->nfacts && !bitmaps && !info->nextents)
		return;
	printf("Format specific information:\n");
	for (unsigned i = 0; i < info->nfacts; i++) {
		const struct tapimg_fact *f = info->facts + i;

		if (bitmaps && !strcmp(f->key, "refcount-bits")) {
			print_bitmaps(info);
			bitmaps = false;
		}
		print_key(f->key);
		if (f->type == TAPIMG_FACT_STR)
			print_field("", f->str);
		else if (f->type == TAPIMG_FACT_BOOL)
			printf("%s\n", f->num ? "true" : "false");
		else if (f->type == TAPIMG_FACT_HEX)
			printf("%08" PRIx64 "\n", (uint64_t)f->num);
		else
			printf("%" PRId64 "\n", f->num);
	}
	if (bitmaps)
		print_bitmaps(info);
	if (info->nextents)
		print_extents(info);
}

static void print_backing(const struct tapimg_info *info)
{
	if (!info->backing)
		return;
	printf("backing file: ");
	print_text(stdout, info->backing);
	if (!info->backing_full) {
		printf(" (cannot determine actual path)");
	} else if (strcmp(info->backing, info->backing_full) != 0) {
		printf(" (actual path: ");
		print_text(stdout, info->backing_full);
		putchar(')');
	}
	putchar('\n');
	if (info->backing_format)
		print_field("backing file format: ", info->backing_format);
}

static void print_human(const struct tapimg_info *info, const struct problems *p)
{
	char size[32];

	print_field("image: ", info->filename);
	printf("file format: %s\nvirtual size: %s (%" PRIu64 " bytes)\n", info->format, print_size(size, info->virtual_size), info->virtual_size);
	printf("disk size: %s\n", print_size(size, info->actual_size));
	if (info->encrypted)
		printf("encrypted: yes\n");
	if (info->cluster_size)
		printf("cluster_size: %" PRIu64 "\n", info->cluster_size);
	if (info->dirty)
		printf("cleanly shut down: no\n");
	print_backing(info);
	if (info->nsnapshots)
		print_snapshots(info);
	print_facts(info);
	for (unsigned i = 0; i < p->n; i++)
		print_field(i ? "    " : "Problems:\n    ", p->text[i]);
}

/* -------------------------------------------------------------------- JSON */

static json_t *snapshots_json(const struct tapimg_info *info)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < info->nsnapshots; i++) {
		const struct tapimg_snapshot *s = info->snapshots + i;
		json_t *obj = json_object();

		if (s->icount != -1)
			json_add_int(obj, "icount", (uint64_t)s->icount);
		json_add_int(obj, "vm-clock-nsec", s->vm_clock_nsec % 1000000000);
		json_add_str(obj, "name", s->name);
		json_add_int(obj, "date-sec", s->date_sec);
		json_add_int(obj, "date-nsec", s->date_nsec);
		json_add_int(obj, "vm-clock-sec", s->vm_clock_nsec / 1000000000);
		json_add_str(obj, "id", s->id);
		json_add_int(obj, "vm-state-size", s->vm_state_size);
		json_array_append_new(list, obj);
	}
	return list;
}

static json_t *bitmaps_json(const struct tapimg_info *info)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < info->nbitmaps; i++) {
		const struct tapimg_bitmap *b = info->bitmaps + i;
		json_t *obj = json_object(), *flags = json_array();

		if (b->flags & TAPIMG_BITMAP_IN_USE)
			json_array_append_new(flags, json_string("in-use"));
		if (b->flags & TAPIMG_BITMAP_AUTO)
			json_array_append_new(flags, json_string("auto"));
		json_object_set_new(obj, "flags", flags);
		json_add_str(obj, "name", b->name);
		json_add_int(obj, "granularity", b->granularity);
		json_array_append_new(list, obj);
	}
	return list;
}

static json_t *extents_json(const struct tapimg_info *info)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < info->nextents; i++) {
		const struct tapimg_extent_info *e = info->extents + i;
		json_t *obj = json_object();

		if (e->compressed)
			json_add_bool(obj, "compressed", true);
		json_add_int(obj, "virtual-size", e->virtual_size);
		json_add_str(obj, "filename", e->filename);
		if (e->cluster_size)
			json_add_int(obj, "cluster-size", e->cluster_size);
		json_add_str(obj, "format", e->format);
		json_array_append_new(list, obj);
	}
	return list;
}

static void add_facts(json_t *obj, const struct tapimg_info *info)
{
	json_t *specific = json_object(), *data = json_object();

	for (unsigned i = 0; i < info->nfacts; i++) {
		const struct tapimg_fact *f = info->facts + i;

		if (f->type == TAPIMG_FACT_STR)
			json_add_str(data, f->key, f->str);
		else if (f->type == TAPIMG_FACT_BOOL)
			json_add_bool(data, f->key, f->num);
		else
			json_object_set_new(data, f->key, json_integer(f->num));
	}
	if (info->nbitmaps)
		json_object_set_new(data, "bitmaps", bitmaps_json(info));
	if (info->nextents)
		json_object_set_new(data, "extents", extents_json(info));
	if (!json_object_size(data)) {
		json_decref(data);
		json_decref(specific);
		return;
	}
	json_add_str(specific, "type", info->format);
	json_object_set_new(specific, "data", data);
	json_object_set_new(obj, "format-specific", specific);
}

static json_t *info_json(const struct tapimg_info *info, const struct problems *p)
{
	json_t *obj = json_object(), *list;

	if (info->nsnapshots)
		json_object_set_new(obj, "snapshots", snapshots_json(info));
	json_add_str(obj, "backing-filename-format", info->backing_format);
	json_add_int(obj, "virtual-size", info->virtual_size);
	json_add_str(obj, "filename", info->filename);
	if (info->cluster_size)
		json_add_int(obj, "cluster-size", info->cluster_size);
	json_add_str(obj, "format", info->format);
	json_add_int(obj, "actual-size", info->actual_size);
	if (info->encrypted)
		json_add_bool(obj, "encrypted", true);
	if (info->compressed)
		json_add_bool(obj, "compressed", true);
	add_facts(obj, info);
	if (info->backing)
		json_add_str(obj, "full-backing-filename", info->backing_full);
	json_add_str(obj, "backing-filename", info->backing);
	json_add_bool(obj, "dirty-flag", info->dirty);
	if (p->n) {
		list = json_array();
		for (unsigned i = 0; i < p->n; i++)
			json_array_append_new(list, json_string(p->text[i]));
		json_object_set_new(obj, "problems", list);
	}
	return obj;
}

/* ------------------------------------------------------------------- chain */

/* A file met before closes a ring. */
static int met_before(struct cli *c, const char *name, struct seen *seen, unsigned layer)
{
	struct stat st;

	if (layer == MAX_LAYERS) {
		cli_error(c, "'%s' would be layer %u: the chain is too deep (at most %u layers)", name,
			  layer, MAX_LAYERS);
		return -1;
	}
	if (stat(name, &st))
		return 0;
	for (unsigned i = 0; i < layer; i++) {
		if (seen[i].dev == st.st_dev && seen[i].ino == st.st_ino) {
			cli_error(c, "Backing file '%s' of layer %u is layer %u again: the chain is an "
				  "infinite loop", name, layer - 1, i);
			return -1;
		}
	}
	seen[layer].dev = st.st_dev;
	seen[layer].ino = st.st_ino;
	return 0;
}

/* One layer; *@next is the name of what lies below it, malloc'd, with its format in *@format. */
static int show_layer(struct cli *c, const char *name, const struct args *a,
		      const struct cli_image *how, json_t *list, char **next, char **format)
{
	const struct tapimg_info *info;
	struct tapimg_err err = { 0 };
	struct problems p = { 0 };
	struct tapimg *img;
	int ret;

	if (cli_open(c, name, how, TAPIMG_NO_BACKING | TAPIMG_NO_IO, &img))
		return -1;
	ret = tapimg_info(img, &info, &err);
	if (ret) {
		cli_failed(c, name, &err, ret);
	} else {
		find_problems(info, &p);
		if (a->common.json)
			json_array_append_new(list, info_json(info, &p));
		else
			print_human(info, &p);
		free_problems(&p);
		*next = info->backing && info->backing_full ? strdup(info->backing_full) : NULL;
		*format = info->backing && info->backing_format ? strdup(info->backing_format) : NULL;
	}
	return cli_close(c, img) || ret ? -1 : 0;
}

static int show_all(struct cli *c, const char *name, const struct args *a, json_t *list)
{
	struct cli_image how = a->common.how;
	struct seen seen[MAX_LAYERS] = { { 0 } };
	char *next = strdup(name), *format = NULL;
	int ret = 0;

	for (unsigned layer = 0; next && !ret; layer++) {
		char *here = next, *here_format = format;

		next = format = NULL;
		if (layer) {
			how.format = here_format;
			how.image_opts = false;
		}
		if (a->chain)
			ret = met_before(c, here, seen, layer);
		if (!ret && layer && !a->common.json)
			putchar('\n');
		if (!ret)
			ret = show_layer(c, here, a, &how, list, &next, &format);
		if (ret && layer)
			cli_error(c, "'%s': the chain breaks at layer %u", name, layer);
		free(here);
		free(here_format);
		if (!a->chain)
			break;
	}
	free(next);
	free(format);
	return ret ? 1 : 0;
}

static int parse(struct cli *c, struct args *a)
{
	int val;

	while ((val = cli_getopt(c)) > 0) {
		if (val == VAL_CHAIN)
			a->chain = true;
		else if (cli_common(c, val, &a->common) < 0) {
			c->status = 1;
			return -1;
		}
	}
	return val;
}

static int run(struct cli *c)
{
	struct args a = { 0 };
	json_t *list = NULL;
	int ret;

	if (parse(c, &a))
		return c->status;
	if (cli_expect(c, 1, 1))
		return 1;
	if (a.common.json)
		list = json_array();
	ret = show_all(c, cli_operand(c), &a, list);
	if (!ret && list)
		ret = json_print(c, json_incref(a.chain ? list : json_array_get(list, 0))) ? 1 : 0;
	json_decref(list);
	return ret;
}

const struct command command_info = {
	.name = "info",
	.run = run,
	.usage = "[-f FORMAT] [--backing-chain] [--output=KIND] [-U] FILE",
	.summary = "say what an image is, and what is wrong with it",
	.options = options,
};
