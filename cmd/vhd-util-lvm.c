/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-lvm.c - scan -l: VHDs on logical volumes, whether active or not
 *
 * The programs vgs and lvs say where a volume begins on which physical volume; there the headers
 * are read.  Only what lies in a first segment of type linear can be looked at this way.  The
 * programs are run without a shell, so a group's name is nothing but a name.
 */
#include <ctype.h>
#include <fnmatch.h>
#include <spawn.h>
#include <sys/wait.h>

#include "vhd-util-scan.h"

extern char **environ;

#define DEVICE_MIN 4096
#define MAX_LINE 4096

struct pv {
	char *name;
	uint64_t start;			/* of the first extent */
};

struct lvm {
	uint64_t extent;		/* bytes */
	struct pv *pv;
	size_t pvs;
	struct scan_target *lv;		/* error: it is not linear */
	size_t lvs;
};

/* ------------------------------------------------------------ reading reports */

/* Runs @argv with its output in *out; -errno. */
static int start(char *const *argv, FILE **out, pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	int fd[2], ret;

	if (pipe(fd))
		return -errno;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, fd[1], 1);
	posix_spawn_file_actions_addclose(&fa, fd[0]);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", 1, 0);
	ret = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(fd[1]);
	*out = ret ? NULL : fdopen(fd[0], "r");
	if (!*out)
		close(fd[0]);
	return ret ? -ret : *out ? 0 : -ENOMEM;
}

/* Each line, in words, goes to @take.  At least one line, or it is -EINVAL. */
static int report(struct lvm *l, char *const *argv, unsigned words,
		  int (*take)(struct lvm *l, char *const *word))
{
	char line[MAX_LINE], *word[8], *save, *p;
	unsigned n, lines = 0;
	int ret, status;
	pid_t pid;
	FILE *f = NULL;

	ret = start(argv, &f, &pid);
	if (ret)
		return ret;
	while (!ret && fgets(line, sizeof(line), f)) {
		for (n = 0, p = strtok_r(line, " \t\n", &save); p && n < ARRAY_SIZE(word);
		     p = strtok_r(NULL, " \t\n", &save))
			word[n++] = p;
		if (!n)
			continue;
		lines++;
		ret = n == words ? take(l, word) : -EINVAL;
	}
	fclose(f);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return ret ? ret : lines && !status ? 0 : -EINVAL;
}

static int number(const char *text, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return isdigit((unsigned char)*text) && !*end && !errno ? 0 : -EINVAL;
}

/* size of an extent, device, offset of its first extent */
static int take_pv(struct lvm *l, char *const *word)
{
	struct pv *v = realloc(l->pv, (l->pvs + 1) * sizeof(*v));
	int ret;

	if (!v)
		return -ENOMEM;
	l->pv = v;
	ret = number(word[0], &l->extent);
	if (!ret)
		ret = number(word[2], &v[l->pvs].start);
	if (ret)
		return ret;
	v[l->pvs].name = strdup(word[1]);
	return v[l->pvs++].name ? 0 : -ENOMEM;
}

/* "/dev/sdb(12)": the first device, and the extent there */
static int place(const struct lvm *l, const char *text, struct scan_target *t)
{
	const char *open = strchr(text, '(');
	uint64_t extent;
	char digits[24];
	size_t n;

	if (!open)
		return -EINVAL;
	n = strspn(open + 1, "0123456789");
	snprintf(digits, sizeof(digits), "%.*s", (int)MIN(n, 20), open + 1);
	if (open[1 + n] != ')' || number(digits, &extent) ||
	    !checked_mul(extent, l->extent, &t->start))
		return -EINVAL;
	for (size_t i = 0; i < l->pvs; i++) {
		if (strlen(l->pv[i].name) != (size_t)(open - text) ||
		    strncmp(l->pv[i].name, text, open - text))
			continue;
		t->device = strdup(l->pv[i].name);
		return t->device && checked_add(t->start, l->pv[i].start, &t->start) ? 0 : -ENOMEM;
	}
	return -EINVAL;
}

/* name, size, type of the segment, its start in the volume, its size, devices */
static int take_lv(struct lvm *l, char *const *word)
{
	struct scan_target *v, t = { 0 };
	uint64_t seg;
	int ret = number(word[3], &seg);

	if (ret || seg)
		return ret;		/* not the first one */
	ret = number(word[1], &t.size);
	if (!ret)
		ret = number(word[4], &t.len);
	if (strcmp(word[2], "linear") != 0)
		t.error = -ENOSYS;
	else if (!ret)
		ret = place(l, word[5], &t);
	v = ret ? NULL : realloc(l->lv, (l->lvs + 1) * sizeof(*v));
	t.name = v ? strdup(word[0]) : NULL;
	if (v)
		l->lv = v;
	if (!t.name) {
		free(t.device);
		return ret ? ret : -ENOMEM;
	}
	l->lv[l->lvs++] = t;
	return 0;
}

static void lvm_free(struct lvm *l)
{
	for (size_t i = 0; i < l->pvs; i++)
		free(l->pv[i].name);
	for (size_t i = 0; i < l->lvs; i++) {
		free(l->lv[i].name);
		free(l->lv[i].device);
	}
	free(l->pv);
	free(l->lv);
	memset(l, 0, sizeof(*l));
}

static int lvm_read(struct lvm *l, const char *group)
{
	char *vgs[] = { "vgs", "--noheadings", "--nosuffix", "--units=b",
			"--options=vg_extent_size,pv_name,pe_start", "--unbuffered", "--",
			(char *)group, NULL };
	char *lvs[] = { "lvs", "--noheadings", "--nosuffix", "--units=b",
			"--options=lv_name,lv_size,segtype,seg_start,seg_size,devices", "--unbuffered",
			"--", (char *)group, NULL };
	int ret = report(l, vgs, 3, take_pv);

	if (!ret)
		ret = report(l, lvs, 6, take_lv);
	return ret;
}

/* ------------------------------------------------------------------- targets */

/* A copy of @lv is added to the scan. */
static int add(struct scan *s, const struct scan_target *lv, bool raw)
{
	struct scan_target t = *lv;
	int ret;

	t.raw = raw;
	t.name = strdup(lv->name);
	t.device = lv->device ? strdup(lv->device) : NULL;
	ret = t.name && (t.device || !lv->device) ? scan_add(s, &t) : -ENOMEM;
	if (ret) {
		free(t.name);
		free(t.device);
	}
	return ret;
}

static bool have(const struct scan *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++) {
		if (!strcmp(s->target[i].name, name))
			return true;
	}
	return false;
}

static int add_matching(struct scan *s, const struct lvm *l, const char *pattern)
{
	int ret = 0;

	for (size_t i = 0; i < l->lvs && !ret; i++) {
		const struct scan_target *lv = &l->lv[i];

		if (fnmatch(pattern, lv->name, FNM_PATHNAME | FNM_EXTMATCH) || have(s, lv->name))
			continue;
		if (!lv->error)
			ret = add(s, lv, false);
		else if (scan_failed(s, lv->name, lv->error) && !s->go_on)
			ret = lv->error;
	}
	return ret;
}

int scan_volumes(struct scan *s, const char *filter, char *const *names)
{
	struct lvm l = { 0 };
	int ret = lvm_read(&l, s->group);

	if (ret)
		fprintf(stderr, "lvm_scan_vg failed %d\n", ret);
	else if (filter)
		ret = add_matching(s, &l, filter);
	for (; *names && !ret; names++)
		ret = add_matching(s, &l, *names);
	lvm_free(&l);
	return ret;
}

int scan_volume(struct scan *s, const char *name, bool raw)
{
	struct lvm l = { 0 };
	int ret = lvm_read(&l, s->group), found = -ENOENT;

	for (size_t i = 0; i < l.lvs && !ret && found; i++) {
		if (!strcmp(l.lv[i].name, name))
			found = l.lv[i].error ? l.lv[i].error : add(s, &l.lv[i], raw);
	}
	lvm_free(&l);
	return ret ? ret : found;
}

/* Single dashes separate, double ones stand for one: what follows the last separator is the name. */
char *scan_volume_name(const char *path)
{
	const char *slash = strrchr(path, '/'), *p = slash ? slash + 1 : path;
	char *out = malloc(strlen(p) + 1), *o = out, *name = out;

	if (!out)
		return NULL;
	for (; *p; p++) {
		if (*p != '-') {
			*o++ = *p;
		} else if (p[1] == '-') {
			*o++ = *p++;
		} else {
			*o++ = 0;
			name = o;
		}
	}
	*o = 0;
	if (name != out)
		memmove(out, name, strlen(name) + 1);
	return out;
}

int scan_look_volume(struct scan *s, const struct scan_target *t, struct vu_file *f,
		     const char **message)
{
	struct tapimg_err err = { 0 };
	struct file *device;
	int ret;

	*message = NULL;
	f->name = t->name;
	if (t->len < DEVICE_MIN) {
		*message = "device too small";
		return -EINVAL;
	}
	*message = "opening device";
	ret = file_open(s->c->loop, t->device, FILE_DIRECT | FILE_NOLOCK, &device, &err);
	if (ret)
		return vu_look_failed(s->c, t->device, &err, ret);
	ret = file_open_window(device, t->start, t->len, NULL, NULL, &f->file);
	if (ret) {
		file_close(device);
		return ret;
	}
	*message = "reading headers";
	ret = vhd_look(f->file, VHD_LOOK_POISON | VHD_LOOK_HEAD, &f->look, &err);
	if (ret && !f->look.has_copy)
		*message = "invalid footer";
	else if (ret && !f->look.has_header)
		*message = "reading header";
	return ret ? vu_look_failed(s->c, t->name, &err, ret) : 0;
}
