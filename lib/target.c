/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * target.c - a file that takes its final name only once it is complete
 *
 * T1 An old file is not touched before the rename, and after it the new one is complete: the new
 *    file is synced before the rename, the directory after it.
 * T2 The old file is locked for writing from begin to end, so that no running machine loses its
 *    disk to a new one of the same name.
 * T3 Of a symbolic link the file it points to is replaced, not the link.
 * T4 Companions (target.h) get their names before the file that names them: it never names files that
 *    are not there yet.  Between the first and the last of these renames an old image of several
 *    files is neither the old one nor the new one; that is short, and all of them are synced before.
 *
 * Left out: extended attributes and further hard links of the old file; they stay with the old
 * contents.
 */
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "file.h"
#include "loop-impl.h"
#include "name.h"
#include "target.h"

#define MARK ".tapimg-"
#define MARK_LEN (sizeof(MARK) - 1 + 6)
#define LINKS_MAX 40
#define NAME_TRIES 100

struct tapimg_target {
	struct tapimg_loop *loop;
	char *name;		/* final; symbolic links resolved */
	char *path;		/* where it is made: temporary, or the same text */
	unsigned flags;
	bool provided;		/* not a path: a provider's */
	bool in_place;
	bool existed;
	struct stat old;
	struct file *lock;	/* the old file, held open */
};

const char *tapimg_target_path(const struct tapimg_target *t)
{
	return t->path;
}

const char *tapimg_target_name(const struct tapimg_target *t)
{
	return t->name;
}

bool tapimg_target_in_place(const struct tapimg_target *t)
{
	return t->in_place;
}

static void target_free(struct tapimg_target *t)
{
	if (t->path)
		target_forget(t->loop, t->path);
	file_close(t->lock);
	free(t->name);
	free(t->path);
	free(t);
}

/* Names of open descriptors: what they lead to has a name of its own, which is not meant. */
static bool is_descriptor(const char *path)
{
	return !strncmp(path, "/dev/fd/", 8) || !strncmp(path, "/dev/std", 8) ||
	       !strncmp(path, "/proc/", 6);
}

/* T3 */
int target_follow_links(char **path)
{
	for (int i = 0; i < LINKS_MAX; i++) {
		char to[PATH_MAX], *next;
		ssize_t n = readlink(*path, to, sizeof(to) - 1);

		if (n < 0)
			return 0;	/* not a link; whatever else is wrong shows later */
		to[n] = 0;
		if (to[0] == '/') {
			next = strdup(to);
		} else {
			const char *slash = strrchr(*path, '/');
			int dir = slash ? (int)(slash + 1 - *path) : 0;

			if (asprintf(&next, "%.*s%s", dir, *path, to) < 0)
				next = NULL;
		}
		if (!next)
			return -ENOMEM;
		free(*path);
		*path = next;
	}
	return -ELOOP;
}

static int random_suffix(char out[7])
{
	static const char set[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	uint8_t r[6];

	if (getrandom(r, sizeof(r), 0) != sizeof(r))
		return -EIO;
	for (size_t i = 0; i < sizeof(r); i++)
		out[i] = set[r[i] % (sizeof(set) - 1)];
	out[6] = 0;
	return 0;
}

/* What ENOENT means when a file is made. */
static int err_no_folder(const struct tapimg_target *t, struct tapimg_err *err)
{
	const char *slash = strrchr(t->name, '/');
	int len = slash ? MAX((int)(slash - t->name), 1) : 1;

	return err_set(err, -ENOENT, "%s: folder '%.*s' does not exist", t->name, len,
		       slash ? t->name : ".");
}

/* The temporary file is there from now on, so that a directory that forbids it shows early. */
static int make_temporary(struct tapimg_target *t, struct tapimg_err *err)
{
	const char *slash = strrchr(t->name, '/');
	const char *base = slash ? slash + 1 : t->name;
	int dir = (int)(base - t->name), fd = -1, ret = 0;

	for (int i = 0; i < NAME_TRIES && fd < 0; i++) {
		char suffix[7];

		free(t->path);
		t->path = NULL;
		ret = random_suffix(suffix);
		/* the base may be as long as a name can be */
		if (!ret && asprintf(&t->path, "%.*s.%.200s" MARK "%s", dir, t->name, base,
				     suffix) < 0) {
			t->path = NULL;
			ret = -ENOMEM;
		}
		if (ret)
			break;
		fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
			  t->existed ? 0600 : 0666);
		if (fd < 0 && errno != EEXIST) {
			ret = -errno;
			break;
		}
	}
	if (fd < 0) {
		free(t->path);
		t->path = NULL;
		if (ret == -ENOENT)
			return err_no_folder(t, err);
		return err_errno(err, ret ? ret : -EEXIST,
				 "%s: making a temporary file beside it", t->name);
	}
	if (t->existed && (t->old.st_uid != geteuid() || t->old.st_gid != getegid()) &&
	    fchown(fd, t->old.st_uid, t->old.st_gid))
		ret = err_errno(err, -errno, "%s: keeping the owner of the old file", t->name);
	if (!ret && t->existed && fchmod(fd, t->old.st_mode & 07777))
		ret = err_errno(err, -errno, "%s: keeping the mode of the old file", t->name);
	close(fd);
	return ret;
}

/* A file that is a mount of its own, as containers get them, keeps its name whatever is renamed. */
static bool is_mount(const char *path)
{
	struct statx stx;

	return !statx(AT_FDCWD, path, 0, STATX_TYPE, &stx) &&
	       stx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

bool target_keeps_file(struct tapimg_loop *loop, const char *path)
{
	struct stat st;

	if (file_provided(loop, path) || is_descriptor(path))
		return true;
	return !stat(path, &st) && (!S_ISREG(st.st_mode) || is_mount(path));
}

static int begin_path(struct tapimg_target *t, struct tapimg_err *err)
{
	int ret = is_descriptor(t->name) ? 0 : target_follow_links(&t->name);

	if (ret)
		return err_errno(err, ret, "%s", t->name);
	if (!stat(t->name, &t->old))
		t->existed = true;
	else if (errno != ENOENT)
		return err_errno(err, -errno, "%s", t->name);
	if (t->existed && t->flags & TAPIMG_TARGET_EXCLUSIVE)
		return err_errno(err, -EEXIST, "%s", t->name);
	if (t->existed && S_ISDIR(t->old.st_mode))
		return err_errno(err, -EISDIR, "%s", t->name);
	if (t->flags & TAPIMG_TARGET_IN_PLACE || target_keeps_file(t->loop, t->name)) {
		t->in_place = true;
		return 0;
	}
	if (t->existed) {
		ret = file_open(t->loop, t->name, FILE_RDWR, &t->lock, err);	/* T2 */
		if (ret)
			return ret;
	}
	ret = make_temporary(t, err);
	/* in a folder where no file can be made, as volumes are handed out: what may be written is */
	if (t->existed && !t->path && (ret == -EACCES || ret == -EPERM || ret == -EROFS)) {
		file_close(t->lock);
		t->lock = NULL;
		t->in_place = true;
		ret = 0;
	}
	return ret;
}

/* A provider that can rename serves like a file system; in others things are made in place. */
static int begin_provided(struct tapimg_target *t, struct tapimg_err *err)
{
	int ret = file_exists(t->loop, t->name);
	char suffix[7];

	t->existed = ret;
	if (ret < 0 && t->flags & TAPIMG_TARGET_EXCLUSIVE)
		return err_errno(err, ret, "%s", t->name);
	if (t->existed && t->flags & TAPIMG_TARGET_EXCLUSIVE)
		return err_errno(err, -EEXIST, "%s", t->name);
	t->in_place = t->flags & TAPIMG_TARGET_IN_PLACE || !file_renames(t->loop, t->name);
	if (t->in_place)
		return 0;
	if (random_suffix(suffix) || asprintf(&t->path, "%s" MARK "%s", t->name, suffix) < 0) {
		t->path = NULL;
		return err_set(err, -ENOMEM, "%s: no temporary name", t->name);
	}
	return 0;
}

/* In place: what is not there yet is made, so that exclusive is exclusive. */
static int begin_in_place(struct tapimg_target *t, struct tapimg_err *err)
{
	int fd;

	t->path = strdup(t->name);
	if (!t->path)
		return err_set(err, -ENOMEM, "no memory");
	if (t->provided || t->existed)
		return 0;
	fd = open(t->name, O_WRONLY | O_CREAT | O_CLOEXEC |
		  (t->flags & TAPIMG_TARGET_EXCLUSIVE ? O_EXCL : 0), 0666);
	if (fd < 0)
		return err_errno(err, -errno, "%s", t->name);
	close(fd);
	return 0;
}

int tapimg_target_begin(struct tapimg_loop *loop, const char *name, unsigned flags,
			struct tapimg_target **out, struct tapimg_err *err)
{
	struct tapimg_target *t = calloc(1, sizeof(*t));
	struct name n;
	int ret;

	*out = NULL;
	if (!t)
		return err_set(err, -ENOMEM, "no memory");
	ret = name_parse(name, &n, err);
	if (ret) {
		free(t);
		return ret;
	}
	t->loop = loop;
	t->flags = flags;
	t->name = n.path;
	n.path = NULL;
	name_free(&n);
	t->provided = file_provided(loop, t->name);
	if (t->provided) {
		ret = begin_provided(t, err);
	} else {
		ret = begin_path(t, err);
	}
	if (!ret && t->in_place)
		ret = begin_in_place(t, err);
	if (ret) {
		if (t->path && !t->in_place)
			file_remove(loop, t->path);
		target_free(t);
		return ret;
	}
	*out = t;
	return 0;
}

/* ------------------------------------------------------------------------ companions */

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The mark at the end of a name, or NULL. */
static const char *mark_of(const char *path)
{
	size_t len = strlen(path);

	if (len <= MARK_LEN || memcmp(path + len - MARK_LEN, MARK, sizeof(MARK) - 1) != 0)
		return NULL;
	return path + len - MARK_LEN;
}

bool target_unfinished(const char *path)
{
	return base_of(path)[0] == '.' && mark_of(path);
}

/* One file that belongs to a target. */
struct companion {
	struct list node;	/* in the loop's */
	char *from, *to;	/* malloc'd */
};

static void companion_free(struct companion *c)
{
	list_del(&c->node);
	free(c->from);
	free(c->to);
	free(c);
}

static bool companion_of(const struct companion *c, const char *path)
{
	const char *mark = mark_of(path), *its = mark_of(c->from);

	return mark && its && !strcmp(mark, its);
}

static struct companion *companion_next(struct tapimg_loop *loop, struct list *n, const char *path)
{
	for (; n != &loop->companions; n = n->next) {
		struct companion *c = list_entry(n, struct companion, node);

		if (!path || companion_of(c, path))
			return c;
	}
	return NULL;
}

void target_forget(struct tapimg_loop *loop, const char *path)
{
	struct companion *c;

	while ((c = companion_next(loop, loop->companions.next, path)))
		companion_free(c);
}

static bool companion_note(struct tapimg_loop *loop, const char *from, const char *to)
{
	struct companion *c;

	for (struct list *n = loop->companions.next; n != &loop->companions; n = n->next)
		if (!strcmp(list_entry(n, struct companion, node)->from, from))
			return true;
	c = calloc(1, sizeof(*c));
	if (!c)
		return false;
	list_append(&loop->companions, &c->node);
	c->from = strdup(from);
	c->to = strdup(to);
	if (c->from && c->to)
		return true;
	companion_free(c);
	return false;
}

char *target_companion(struct tapimg_loop *loop, const char *path, const char *companion)
{
	const char *base = base_of(companion);
	char *out;

	if (!target_unfinished(path))
		return strdup(companion);
	if (asprintf(&out, "%.*s.%.200s%s", (int)(base - companion), companion, base, mark_of(path)) < 0)
		return NULL;
	if (!companion_note(loop, out, companion)) {
		free(out);
		return NULL;
	}
	return out;
}

char *target_companion_found(struct tapimg_loop *loop, const char *path, const char *companion)
{
	char *made = target_companion(loop, path, companion);

	if (!made || file_exists(loop, made) > 0)
		return made;
	free(made);
	return strdup(companion);
}

/* Calls @fn with the names, temporary and final, of each companion of @t that has been made. */
static int each_companion(const struct tapimg_target *t,
			  int (*fn)(const struct tapimg_target *t, const char *from, const char *to))
{
	struct companion *c;
	int ret = 0;

	if (t->provided || t->in_place || !t->path)
		return 0;
	for (struct list *n = t->loop->companions.next; !ret && (c = companion_next(t->loop, n, t->path));
	     n = c->node.next)
		if (!access(c->from, F_OK))
			ret = fn(t, c->from, c->to);
	return ret;
}

/* ------------------------------------------------------------------- the end of it */

static int sync_path(const char *path, int flags)
{
	int fd = open(path, flags | O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) && errno != EINVAL)	/* a pipe has nothing to sync */
		ret = -errno;
	close(fd);
	return ret;
}

static int sync_directory(const char *path)
{
	char *copy = strdup(path);
	int ret = copy ? sync_path(dirname(copy), O_DIRECTORY) : -ENOMEM;

	free(copy);
	return ret == -EACCES ? 0 : ret;	/* one may be allowed to write there and not to look */
}

static int rename_new(const char *from, const char *to)
{
	if (!syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* a file system without that: a link fails as well if the name exists */
	if (link(from, to))
		return -errno;
	unlink(from);
	return 0;
}

static int companion_sync(const struct tapimg_target *t, const char *from, const char *to)
{
	return sync_path(from, 0);
}

/* One that takes the place of another keeps its owner and mode, as the target itself does. */
static int companion_rename(const struct tapimg_target *t, const char *from, const char *to)
{
	struct stat old;

	if (!stat(to, &old) && (old.st_uid != geteuid() || old.st_gid != getegid()) &&
	    chown(from, old.st_uid, old.st_gid))
		return -errno;
	if (!stat(to, &old) && chmod(from, old.st_mode & 07777))
		return -errno;
	if (t->flags & TAPIMG_TARGET_EXCLUSIVE)
		return rename_new(from, to);	/* in a folder that is synced with the image */
	if (rename(from, to))
		return -errno;
	return sync_directory(to);
}

static int companion_remove(const struct tapimg_target *t, const char *from, const char *to)
{
	unlink(from);
	return 0;
}

static int put_in_place(struct tapimg_target *t)
{
	int ret = each_companion(t, companion_sync);	/* T4 */

	if (!ret)
		ret = each_companion(t, companion_rename);
	if (ret)
		return ret;
	if (t->provided)
		ret = file_rename(t->loop, t->path, t->name);
	else if (t->flags & TAPIMG_TARGET_EXCLUSIVE)
		ret = rename_new(t->path, t->name);
	else
		ret = rename(t->path, t->name) ? -errno : 0;
	if (ret)
		return ret;
	/* the name is taken: from here on there is nothing to remove any more */
	t->in_place = t->existed = true;
	return t->provided ? 0 : sync_directory(t->name);
}

int tapimg_target_commit(struct tapimg_target *t, struct tapimg_err *err)
{
	int ret = 0;

	if (!t->provided && (!t->in_place || !t->existed || S_ISREG(t->old.st_mode)) &&
	    !is_descriptor(t->name))
		ret = sync_path(t->path, 0);	/* T1 */
	if (!ret && !t->in_place)
		ret = put_in_place(t);
	else if (!ret && !t->provided && !t->existed)
		ret = sync_directory(t->name);
	if (ret) {
		err_errno(err, ret, "%s: putting the finished file in its place", t->name);
		tapimg_target_abort(t);
		return ret;
	}
	target_free(t);
	return 0;
}

void tapimg_target_abort(struct tapimg_target *t)
{
	if (!t)
		return;
	each_companion(t, companion_remove);
	if (!t->in_place || !t->existed)
		file_remove(t->loop, t->path);
	target_free(t);
}
