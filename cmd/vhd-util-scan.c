/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-scan.c - vhd-util scan: a line for each of many images
 *
 * Broken images get a line of their own; the first one ends the scan unless -c was given.  Files are
 * looked at one after the other, each with a handful of small reads.
 */
#include <glob.h>
#include <search.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vhd-util-scan.h"

static const struct option_desc options[] = {
	{ 'm', NULL, "GLOB", "files that match a pattern as well", NULL },
	{ 'f', NULL, NULL, "fast: read only the beginning of each", NULL },
	{ 'c', NULL, NULL, "go on after a failure", NULL },
	{ 'l', NULL, "GROUP", "logical volumes of a volume group", NULL },
	{ 'p', NULL, NULL, "draw trees of parents and children", NULL },
	{ 'a', NULL, NULL, "parents of what was found as well", NULL },
	{ 'v', NULL, NULL, "whole paths", NULL },
	{ 'M', NULL, NULL, "markers and key hashes as well", NULL },
	{ 0 }
};

/* ------------------------------------------------------------------ printing */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void scan_print(const struct scan *s, const struct scan_image *i, unsigned tab, bool lost)
{
	const char *name = s->verbose ? i->name : base_name(i->name);
	const char *parent = !i->parent ? "none" : s->verbose ? i->parent : base_name(i->parent);

	printf("%*s", (int)tab, "");
	if (i->error) {
		printf("vhd=%s scan-error=%d error-message='%s'\n", i->name, i->error, i->message);
		return;
	}
	printf("vhd=%s capacity=%llu size=%llu hidden=%u ", name, (unsigned long long)i->capacity,
	       (unsigned long long)i->size, i->hidden);
	if (s->markers) {
		printf("marker=%u keyhash=", i->marker);
		for (unsigned k = 0; i->has_key && k < sizeof(i->hash); k++)
			printf("%02x", i->hash[k]);
		putchar(' ');
	}
	printf("parent=%s%s\n", parent, lost ? " (not found in scan)" : "");
}

void scan_image_free(struct scan_image *i)
{
	free(i->name);
	free(i->parent);
	i->name = i->parent = NULL;
}

int scan_failed(const struct scan *s, const char *name, int ret)
{
	struct tapimg_err err = { 0 };
	struct scan_image i = { .name = (char *)name, .error = ret,
				.message = "failure scanning target" };

	scan_print(s, &i, 0, false);
	util_why(s->c, name, &err, ret);
	return ret;
}

/* ------------------------------------------------------------------- targets */

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

int scan_add(struct scan *s, const struct scan_target *t)
{
	size_t size = s->size ? 2 * s->size : 64;
	struct scan_target *v = s->target;

	if (s->n == s->size) {
		v = realloc(v, size * sizeof(*v));
		if (!v)
			return -ENOMEM;
		s->target = v;
		s->size = size;
	}
	v[s->n] = *t;
	if (s->parents && !tsearch(base_name(t->name), &s->seen, compare_names))
		return -ENOMEM;
	s->n++;
	return 0;
}

static bool seen(struct scan *s, const char *name)
{
	return tfind(name, &s->seen, compare_names);
}

static int add_file(struct scan *s, const char *name, bool raw)
{
	struct scan_target t = { .raw = raw };
	struct stat st;
	int ret;

	if (stat(name, &st))
		return -errno;
	t.size = st.st_size;
	t.name = strdup(name);
	ret = t.name ? scan_add(s, &t) : -ENOMEM;
	if (ret)
		free(t.name);
	return ret;
}

static int find_named(struct scan *s, const char *name)
{
	int ret = add_file(s, name, false);

	if (!ret)
		return 0;
	scan_failed(s, name, ret);
	return s->go_on ? 0 : ret;
}

static int find_matching(struct scan *s, const char *filter)
{
	glob_t g;
	int ret = 0, found;

	found = glob(filter, GLOB_BRACE | (s->fast ? GLOB_NOSORT : 0), NULL, &g);
	if (found == GLOB_NOSPACE)
		ret = -ENOMEM;
	else if (found == GLOB_ABORTED)
		ret = -EIO;
	if (ret)
		scan_failed(s, filter, ret);
	for (size_t i = 0; !found && i < g.gl_pathc && !ret; i++)
		ret = find_named(s, g.gl_pathv[i]);
	globfree(&g);
	return ret;
}

static int find_targets(struct scan *s, const char *filter, char *const *names)
{
	int ret = 0;

	if (s->group)
		return scan_volumes(s, filter, names);
	if (filter)
		ret = find_matching(s, filter);
	for (; *names && !ret; names++)
		ret = find_named(s, *names);
	return ret;
}

/* ----------------------------------------------------------------- one image */

static int failed(struct scan_image *i, const char *message, int ret)
{
	i->error = ret;
	i->message = message;
	return ret;
}

/* The name of the parent in the order of what is most likely to be understood. */
static const char *any_locator(const struct vhd_look *l)
{
	static const uint32_t codes[] = { VHD_LOC_MACX, VHD_LOC_W2RU, VHD_LOC_W2KU };

	for (unsigned k = 0; k < ARRAY_SIZE(codes); k++) {
		for (unsigned i = 0; i < VHD_LOCATORS; i++) {
			if (l->header.loc[i].code == codes[k] && l->loc_name[i])
				return l->loc_name[i];
		}
	}
	return NULL;
}

static char *stored_name(const struct scan *s, const struct vhd_look *l)
{
	const char *name = any_locator(l);

	if (l->parent_name && (s->fast || !name))
		name = l->parent_name;
	return name ? strdup(name) : NULL;
}

/* A parent that is missing is named as it is stored. */
static int find_parent(struct scan *s, const struct scan_target *t, const struct vu_file *f,
		       struct scan_image *i)
{
	char *stored;

	if (f->look.footer.type != VHD_TYPE_DIFF)
		return 0;
	if (!t->device && !s->fast && !vu_parent(s->c, f, &i->parent))
		return 0;
	stored = stored_name(s, &f->look);
	i->parent = stored;
	if (stored && t->device) {
		i->parent = scan_volume_name(stored);
		free(stored);
	}
	return i->parent ? 0 : failed(i, "getting parent", -EINVAL);
}

static void find_markers(const struct scan_target *t, const struct vu_file *f,
			 struct scan_image *i)
{
	const struct vhd_batmap_header *b = &f->look.batmap;
	uint8_t key[65] = { 0 };	/* cookie, nonce, hash */

	if (f->look.has_batmap) {
		i->marker = b->marker;
		i->has_key = b->has_key;
		memcpy(i->hash, b->hash, sizeof(i->hash));
	} else if (!t->device) {
		if (getxattr(t->name, "user.com.citrix.xenclient.backend.marker", &i->marker, 1) != 1)
			i->marker = 0;
		i->has_key = getxattr(t->name, "user.com.citrix.xenclient.backend.keyhash", key,
				      sizeof(key)) == sizeof(key) && key[0];
		memcpy(i->hash, key + 33, sizeof(i->hash));
	}
}

/* What the file says. @f is closed by the caller, whatever comes out. */
static int look_at(struct scan *s, const struct scan_target *t, struct vu_file *f,
		   struct scan_image *i)
{
	unsigned flags = VHD_LOOK_POISON | (s->fast || t->device ? VHD_LOOK_HEAD : 0);
	int ret;

	if (t->raw) {
		i->capacity = t->size;
		i->hidden = 1;
		return 0;
	}
	if (t->device)
		ret = scan_look_volume(s, t, f, &i->message);
	else
		ret = vu_look(s->c, t->name, flags, f);
	if (ret)
		return failed(i, i->message ? i->message : "opening file", ret);
	i->capacity = f->look.footer.cur_size;
	i->hidden = f->look.footer.hidden;
	if (s->markers)
		find_markers(t, f, i);
	return find_parent(s, t, f, i);
}

/* Paths decide who is whose parent, so with -p they are whole ones. */
static int name_image(const struct scan *s, const struct scan_target *t, struct scan_image *i)
{
	i->size = t->size;
	i->name = s->pretty && !t->device ? vhd_device_path(t->name) : strdup(t->name);
	if (i->name)
		return 0;
	i->name = strdup(t->name);
	return i->name ? failed(i, "resolving name", -errno) : -ENOMEM;
}

static int add_parent(struct scan *s, const struct scan_target *t, const struct vu_file *f,
		      const struct scan_image *i)
{
	bool raw = vu_parent_raw(f);
	char *path = NULL;
	int ret;

	if (seen(s, base_name(i->parent)))
		return 0;
	if (t->device) {
		ret = scan_volume(s, i->parent, raw);
	} else {
		ret = vu_parent(s->c, f, &path);
		if (!ret)
			ret = add_file(s, path, raw);
	}
	if (ret)
		scan_failed(s, path ? path : i->parent, ret);
	free(path);
	return ret == -ENOMEM ? ret : 0;
}

/* Takes @i over. */
static int keep_image(struct scan *s, struct scan_image *i)
{
	size_t size = s->images_size ? 2 * s->images_size : 64;
	struct scan_image *v = s->image;

	if (s->images == s->images_size) {
		v = realloc(v, size * sizeof(*v));
		if (!v)
			return -ENOMEM;
		s->image = v;
		s->images_size = size;
	}
	v[s->images++] = *i;
	memset(i, 0, sizeof(*i));
	return 0;
}

static int scan_one(struct scan *s, size_t n)
{
	struct scan_target t = s->target[n];	/* the list moves when parents are added */
	struct vu_file f = { 0 };
	struct scan_image i = { 0 };
	int ret = name_image(s, &t, &i), more = 0;

	if (!ret)
		ret = look_at(s, &t, &f, &i);
	if (s->parents && i.parent && !i.error)
		more = add_parent(s, &t, &f, &i);
	if (!s->pretty || i.error || keep_image(s, &i))
		scan_print(s, &i, 0, false);
	vu_close(&f);
	scan_image_free(&i);
	return ret ? ret : more;
}

/* ------------------------------------------------------------------- command */

static void scan_free(struct scan *s)
{
	for (size_t i = 0; i < s->n && s->seen; i++)
		tdelete(base_name(s->target[i].name), &s->seen, compare_names);
	for (size_t i = 0; i < s->n; i++) {
		free(s->target[i].name);
		free(s->target[i].device);
	}
	for (size_t i = 0; i < s->images; i++)
		scan_image_free(&s->image[i]);
	free(s->image);
	free(s->target);
}

static int scan(struct scan *s, const char *filter, char *const *names)
{
	int ret = find_targets(s, filter, names);

	if (ret) {
		fflush(stdout);
		fprintf(stderr, "scan failed: %d. Check syslog for details\n", ret);
		return ret;
	}
	for (size_t i = 0; i < s->n; i++) {
		int now = scan_one(s, i);

		if (!now)
			continue;
		if (!s->go_on) {
			ret = now;
			break;
		}
	}
	if (s->pretty)
		scan_draw(s);
	return ret;
}

static int run(struct cli *c)
{
	struct scan s = { .c = c };
	const char *filter = NULL;
	int val, ret;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'm')
			filter = optarg;
		if (val == 'l')
			s.group = optarg;
		s.fast |= val == 'f';
		s.go_on |= val == 'c';
		s.pretty |= val == 'p';
		s.parents |= val == 'a';
		s.verbose |= val == 'v';
		s.markers |= val == 'M';
	}
	if (val < 0)
		return c->status;
	if (!filter && !cli_operands(c))
		return util_usage(c, EINVAL);
	s.fast &= !s.pretty;
	if (!cli_loop(c))
		return ENOMEM;
	ret = scan(&s, filter, c->argv + optind);
	scan_free(&s);
	return util_status(ret);
}

const struct command command_vhd_scan = {
	.name = "scan", .run = run, .flags = UTIL_HELP_OK | UTIL_OPERANDS,
	.usage = "[-m GLOB] [-f] [-c] [-l GROUP] [-p] [-a] [-v] [-M] [-h] FILE...",
	.summary = "print a line for each of many disks", .options = options,
};
