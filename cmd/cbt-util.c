/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cbt-util.c - the program: logs of changed blocks, as the storage managers of Xen keep them
 *
 * A log is a header of 48 bytes and a bitmap, all of it in the machine's own byte order:
 *
 *	0 parent uuid, 16 child uuid, 32 consistent (int), 36 padding, 40 size of the disk in bytes
 *	48 one bit for each 64 KiB of the disk, least significant bit first
 *
 * It lies in a file or on a volume; on a volume there may be space behind it.  A log that grows
 * gets its new bits before its new size, and a failed command leaves the log as it was.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "util.h"

#define CBT_HEADER 48
#define CBT_BLOCK (64 * KiB)
#define CBT_CHUNK (1 * MiB)

struct cbt {
	int fd;
	const char *name;
	uint8_t head[CBT_HEADER];
	uint64_t size;			/* of the disk */
	uint64_t map_len;		/* bytes of bitmap */
};

enum { OFF_PARENT = 0, OFF_CHILD = 16, OFF_CONSISTENT = 32, OFF_SIZE = 40 };

static uint64_t map_len(uint64_t disk_size)
{
	return div_up(div_up(disk_size, CBT_BLOCK), 8);
}

/* --------------------------------------------------------------------- I/O */

/* All of it: 0, or a negative errno; -EIO if the file ends before. */
static int read_all(int fd, void *buf, uint64_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf = (char *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

static int write_all(int fd, const void *buf, uint64_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf = (const char *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

static int write_zeroes(int fd, uint64_t len, uint64_t off)
{
	static const uint8_t zeroes[65536];
	int ret = 0;

	while (len && !ret) {
		uint64_t n = MIN(len, sizeof(zeroes));

		ret = write_all(fd, zeroes, n, off);
		off += n;
		len -= n;
	}
	return ret;
}

static int sync_fd(int fd)
{
	return fsync(fd) && errno != EINVAL ? -errno : 0;
}

static int failed(const char *what, const char *name, int ret)
{
	fprintf(stderr, "Failed to %s log file %s. %s\n", what, name, strerror(-ret));
	return ret;
}

/* ------------------------------------------------------------- opening logs */

static int cbt_open(struct cbt *l, const char *name, int mode)
{
	int ret;

	memset(l, 0, sizeof(*l));
	l->name = name;
	l->fd = open(name, mode | O_CLOEXEC);
	if (l->fd < 0)
		return failed("open", name, -errno);
	ret = read_all(l->fd, l->head, CBT_HEADER, 0);
	if (ret) {
		fprintf(stderr, "Failed to read CBT metadata from file %s\n", name);
		return ret;
	}
	memcpy(&l->size, l->head + OFF_SIZE, sizeof(l->size));
	l->map_len = map_len(l->size);
	return 0;
}

/* Whether the whole bitmap is there; said before anything is changed or printed. */
static int cbt_complete(const struct cbt *l)
{
	off_t end = lseek(l->fd, 0, SEEK_END);

	if (end >= 0 && checked_range(CBT_HEADER, l->map_len, (uint64_t)end))
		return 0;
	fprintf(stderr, "Failed to read bitmap from file %s\n", l->name);
	return -EIO;
}

static int cbt_close(struct cbt *l, int ret)
{
	if (l->fd >= 0 && close(l->fd) && !ret)
		ret = failed("write", l->name, -errno);
	l->fd = -1;
	return ret;
}

/* A number of bytes in decimal digits, nothing else. */
static bool parse_size(const char *text, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno;
}

/* ------------------------------------------------------------------ create */

static const struct option_desc create_options[] = {
	{ 'n', NULL, "FILE", "the log file", "FILE" },
	{ 's', NULL, "BYTES", "size of the disk in bytes", NULL },
	{ 0 }
};

static int write_new(const char *name, uint64_t size)
{
	uint8_t head[CBT_HEADER] = { 0 };
	int fd = open(name, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return failed("open", name, -errno);
	memcpy(head + OFF_SIZE, &size, sizeof(size));
	ret = write_zeroes(fd, map_len(size), CBT_HEADER);
	if (!ret)
		ret = write_all(fd, head, CBT_HEADER, 0);
	if (!ret)
		ret = sync_fd(fd);
	if (close(fd) && !ret)
		ret = -errno;
	return ret ? failed("write", name, ret) : 0;
}

/* A file is made beside its name and then renamed: the old one stays if that fails. */
static int create(struct cli *c, const char *name, uint64_t size)
{
	struct tapimg_err err = { 0 };
	struct tapimg_target *t;
	const char *path;
	int ret, fd;

	if (!cli_loop(c))
		return -ENOMEM;
	ret = tapimg_target_begin(c->loop, name, 0, &t, &err);
	if (ret) {
		util_why(c, name, &err, ret);
		return failed("open", name, ret);
	}
	path = tapimg_target_path(t);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	ret = fd < 0 ? failed("open", name, -errno) : 0;
	if (fd >= 0)
		close(fd);
	if (!ret)
		ret = write_new(path, size);
	if (ret) {
		tapimg_target_abort(t);
		return ret;
	}
	ret = tapimg_target_commit(t, &err);
	return ret ? failed("write", name, ret) : 0;
}

static int run_create(struct cli *c)
{
	const char *name = NULL;
	uint64_t size = 0;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else if (!parse_size(optarg, &size))
			return util_usage(c, EINVAL);
	}
	if (val < 0)
		return c->status;
	if (!name || !size)
		return util_usage(c, EINVAL);
	return util_status(create(c, name, size));
}

static const struct command command_cbt_create = {
	.name = "create", .run = run_create, .usage = "-n FILE -s BYTES", .options = create_options,
	.summary = "make a log in which nothing has changed", .flags = UTIL_LENIENT | UTIL_LONG_USAGE,
};

/* --------------------------------------------------------------------- set */

static const struct option_desc set_options[] = {
	{ 'n', NULL, "FILE", "the log file", "FILE" },
	{ 'p', NULL, "UUID", "the parent's uuid", NULL },
	{ 'c', NULL, "UUID", "the child's uuid", NULL },
	{ 'f', NULL, "0|1", "whether the log is consistent", "0|1" },
	{ 's', NULL, "BYTES", "size of the disk: it can only grow", NULL },
	{ 0 }
};

struct set_args {
	const char *name, *parent, *child, *flag;
	uint64_t size;
};

/* Puts what was asked for into the header; @l is as it is on disk. */
static int set_header(struct cbt *l, const struct set_args *a)
{
	int consistent = a->flag ? atoi(a->flag) : 0;

	if (a->parent && uuid_parse(a->parent, l->head + OFF_PARENT)) {
		fprintf(stderr, "Invalid UUID %s\n", a->parent);
		return -EINVAL;
	}
	if (a->child && uuid_parse(a->child, l->head + OFF_CHILD)) {
		fprintf(stderr, "Invalid UUID %s\n", a->child);
		return -EINVAL;
	}
	if (a->flag)
		memcpy(l->head + OFF_CONSISTENT, &consistent, sizeof(consistent));
	if (!a->size)
		return 0;
	if (a->size < l->size) {
		fprintf(stderr, "Size smaller than current file size (%llu)\n",
			(unsigned long long)l->size);
		return -EINVAL;
	}
	memcpy(l->head + OFF_SIZE, &a->size, sizeof(a->size));
	return cbt_complete(l);
}

/* Bits behind the old end of the disk, in the last byte there was, have to be clear as well. */
static int grow_map(struct cbt *l, uint64_t size)
{
	uint64_t blocks = div_up(l->size, CBT_BLOCK), last = blocks / 8;
	uint8_t byte;
	int ret = 0;

	if (blocks % 8) {
		ret = read_all(l->fd, &byte, 1, CBT_HEADER + last);
		byte &= (1u << (blocks % 8)) - 1;
		if (!ret)
			ret = write_all(l->fd, &byte, 1, CBT_HEADER + last);
	}
	if (!ret)
		ret = write_zeroes(l->fd, map_len(size) - l->map_len, CBT_HEADER + l->map_len);
	return ret ? ret : sync_fd(l->fd);
}

static int set(const struct set_args *a)
{
	struct cbt l;
	int ret = cbt_open(&l, a->name, O_RDWR);

	if (!ret)
		ret = set_header(&l, a);
	if (ret)
		return cbt_close(&l, ret);
	if (a->size > l.size)
		ret = grow_map(&l, a->size);
	if (!ret)
		ret = write_all(l.fd, l.head, CBT_HEADER, 0);
	if (!ret)
		ret = sync_fd(l.fd);
	if (ret)
		failed("write", a->name, ret);
	return cbt_close(&l, ret);
}

static int run_set(struct cli *c)
{
	struct set_args a = { 0 };
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			a.name = optarg;
		else if (val == 'p')
			a.parent = optarg;
		else if (val == 'c')
			a.child = optarg;
		else if (val == 'f')
			a.flag = optarg;
		else if (!parse_size(optarg, &a.size))
			return util_usage(c, EINVAL);
	}
	if (val < 0)
		return c->status;
	if (!a.name || !(a.parent || a.child || a.flag || a.size))
		return util_usage(c, EINVAL);
	if (a.flag && strcmp(a.flag, "0") != 0 && strcmp(a.flag, "1") != 0)
		return util_usage(c, EINVAL);
	return util_status(set(&a));
}

static const struct command command_cbt_set = {
	.name = "set", .run = run_set, .usage = "-n FILE [-p UUID] [-c UUID] [-f 0|1] [-s BYTES]",
	.options = set_options, .summary = "change fields of a log",
	.flags = UTIL_LENIENT | UTIL_LONG_USAGE,
};

/* --------------------------------------------------------------------- get */

static const struct option_desc get_options[] = {
	{ 'n', NULL, "FILE", "the log file", "FILE" },
	{ 'p', NULL, NULL, "print the parent's uuid", NULL },
	{ 'c', NULL, NULL, "print the child's uuid", NULL },
	{ 'f', NULL, NULL, "print whether the log is consistent: 0 or 1", NULL },
	{ 's', NULL, NULL, "print the size of the disk in bytes", NULL },
	{ 'b', NULL, NULL, "print the bitmap, as bytes", NULL },
	{ 0 }
};

static int print_bitmap(const struct cbt *l)
{
	uint8_t *buf = malloc(CBT_CHUNK);
	uint64_t at = 0;
	int ret = cbt_complete(l);

	if (!ret && !buf)
		ret = -ENOMEM;
	while (!ret && at < l->map_len) {
		uint64_t n = MIN(l->map_len - at, CBT_CHUNK);

		ret = read_all(l->fd, buf, n, CBT_HEADER + at);
		if (!ret && fwrite(buf, 1, n, stdout) != n)
			ret = -EIO;
		at += n;
	}
	free(buf);
	return ret;
}

static int get(const char *name, int what)
{
	char text[37];
	int consistent, ret;
	struct cbt l;

	ret = cbt_open(&l, name, O_RDONLY);
	if (ret)
		return cbt_close(&l, ret);
	if (what == 'p' || what == 'c') {
		uuid_unparse(l.head + (what == 'p' ? OFF_PARENT : OFF_CHILD), text);
		puts(text);
	} else if (what == 'f') {
		memcpy(&consistent, l.head + OFF_CONSISTENT, sizeof(consistent));
		printf("%d\n", consistent);
	} else if (what == 's') {
		printf("%llu\n", (unsigned long long)l.size);
	} else {
		ret = print_bitmap(&l);
	}
	return cbt_close(&l, ret);
}

static int run_get(struct cli *c)
{
	const char *name = NULL;
	int val, what = 0;
	bool many = false;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n') {
			name = optarg;
			continue;
		}
		many |= what && what != val;
		what = val;
	}
	if (val < 0)
		return c->status;
	if (!name || !what || many)
		return util_usage(c, EINVAL);
	return util_status(get(name, what));
}

static const struct command command_cbt_get = {
	.name = "get", .run = run_get, .usage = "-n FILE -p | -c | -f | -s | -b",
	.options = get_options, .summary = "print one field of a log",
	.flags = UTIL_LENIENT | UTIL_LONG_USAGE,
};

/* ---------------------------------------------------------------- coalesce */

static const struct option_desc coalesce_options[] = {
	{ 'p', NULL, "FILE", "the parent's log", "FILE" },
	{ 'c', NULL, "FILE", "the child's log, which gets the parent's bits as well", "FILE" },
	{ 0 }
};

/* Setting bits again does no harm, so a coalesce that was cut short is simply run again. */
static int merge_maps(const struct cbt *parent, const struct cbt *child)
{
	uint8_t *p = malloc(2 * CBT_CHUNK), *q = p + CBT_CHUNK;
	uint64_t at = 0;
	int ret = p ? 0 : -ENOMEM;

	while (!ret && at < parent->map_len) {
		uint64_t n = MIN(parent->map_len - at, CBT_CHUNK);

		ret = read_all(parent->fd, p, n, CBT_HEADER + at);
		if (!ret)
			ret = read_all(child->fd, q, n, CBT_HEADER + at);
		for (uint64_t i = 0; !ret && i < n; i++)
			q[i] |= p[i];
		if (!ret)
			ret = write_all(child->fd, q, n, CBT_HEADER + at);
		at += n;
	}
	free(p);
	if (!ret)
		ret = sync_fd(child->fd);
	if (ret)
		failed("write", child->name, ret);
	return ret;
}

static int coalesce(const char *parent_name, const char *child_name)
{
	struct cbt parent, child = { .fd = -1 };
	int ret = cbt_open(&parent, parent_name, O_RDONLY);

	if (!ret)
		ret = cbt_open(&child, child_name, O_RDWR);
	if (!ret && parent.map_len > child.map_len) {
		fprintf(stderr, "Parent bitmap larger than child bitmap,can't coalesce");
		ret = -EINVAL;
	}
	if (!ret)
		ret = cbt_complete(&parent);
	if (!ret)
		ret = cbt_complete(&child);
	if (!ret)
		ret = merge_maps(&parent, &child);
	ret = cbt_close(&child, ret);
	return cbt_close(&parent, ret);
}

static int run_coalesce(struct cli *c)
{
	const char *parent = NULL, *child = NULL;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'p')
			parent = optarg;
		else
			child = optarg;
	}
	if (val < 0)
		return c->status;
	if (!parent || !child)
		return util_usage(c, EINVAL);
	return util_status(coalesce(parent, child));
}

static const struct command command_cbt_coalesce = {
	.name = "coalesce", .run = run_coalesce, .usage = "-p PARENT -c CHILD",
	.options = coalesce_options, .summary = "add the parent's changed blocks to the child's log",
	.flags = UTIL_LENIENT | UTIL_LONG_USAGE,
};

static const struct command *const commands[] = {
	&command_cbt_create, &command_cbt_set, &command_cbt_get, &command_cbt_coalesce, NULL
};

const struct program program = {
	.name = "cbt-util", .commands = commands, .bare_status = EINVAL, .invalid = "Invalid",
};

int main(int argc, char **argv)
{
	return util_main(argc, argv);
}
