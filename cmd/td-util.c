/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * td-util.c - the program: images by type, with the command line of Xen's tool of that name
 *
 *	td-util COMMAND TYPE [OPTIONS] ...
 *
 * Usages go to stderr.  What is done to a VHD is what vhd-util does.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd-util.h"

#define NAME_MAX_LEN 1000
#define USAGE_STATUS 255	/* as exit(-1) gives it */

enum type { TYPE_VHD, TYPE_AIO };
static const char *const types[] = { "vhd", "aio", NULL };

/* c->argv[0] is the type from here on. */
static bool is_vhd(const struct cli *c)
{
	return !strcmp(c->argv[0], types[TYPE_VHD]);
}

static int usage(const struct cli *c, int status)
{
	fprintf(stderr, "usage: td-util %s %s [-h help] %s\n", c->command->name, c->argv[0],
		c->command->usage);
	return status;
}

/*
 * The next option, 0 when @operands are left, -1 for "return usage(c, c->status)".  -h counts as
 * @help_status.
 */
static int option(struct cli *c, int operands, int help_status)
{
	int val = util_getopt(c);

	if (val < 0)
		c->status = c->status ? EINVAL : help_status;
	if (val)
		return val;
	if (cli_operands(c) == operands)
		return 0;
	c->status = EINVAL;
	return -1;
}

static bool too_long(const char *name)
{
	if (strlen(name) < NAME_MAX_LEN)
		return false;
	fprintf(stderr, "Device name too long\n");
	return true;
}

/* ------------------------------------------------------------------ create */

static const struct option_desc create_options[] = {
	{ 'r', NULL, NULL, "take all the space at once", NULL },
	{ 'b', NULL, NULL, "the file is a device, whose size stays", NULL },
	{ 0 }
};

static int write_zeroes(int fd, uint64_t len)
{
	uint8_t *buf = file_buf(MiB);
	int ret = buf ? 0 : -ENOMEM;

	if (buf)
		memset(buf, 0, MiB);
	while (!ret && len) {
		ssize_t n = write(fd, buf, MIN(len, MiB));

		if (n < 0 && errno != EINTR)
			ret = -errno;
		if (n > 0)
			len -= n;
	}
	free(buf);
	return ret;
}

/* Zeroes from end to end. */
static int create_raw(struct cli *c, const char *name, uint64_t bytes)
{
	struct tapimg_err err = { 0 };
	struct tapimg_target *t;
	int fd, ret;

	if (!cli_loop(c))
		return -ENOMEM;
	ret = tapimg_target_begin(c->loop, name, 0, &t, &err);
	if (ret)
		return vu_look_failed(c, name, &err, ret);
	fd = open(tapimg_target_path(t), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	ret = fd < 0 ? -errno : write_zeroes(fd, bytes);
	if (!ret && fsync(fd))
		ret = -errno;
	if (fd >= 0 && close(fd) && !ret)
		ret = -errno;
	if (ret)
		tapimg_target_abort(t);
	else
		ret = tapimg_target_commit(t, &err);
	return ret ? vu_look_failed(c, name, &err, ret) : 0;
}

static int run_create(struct cli *c)
{
	bool reserve = false;
	const char *name;
	uint64_t mb;
	int val;

	while ((val = option(c, 2, EINVAL)) > 0)
		reserve |= val == 'r';
	if (val < 0)
		return usage(c, c->status);
	mb = strtoull(cli_operand(c), NULL, 10);
	name = cli_operand(c);
	if (too_long(name))
		return ENAMETOOLONG;
	if (is_vhd(c))
		return util_status(vu_create(c, name, mb, 0, reserve));
	if (!reserve) {
		fprintf(stderr, "Cannot create sparse %s image\n", c->argv[0]);
		return EINVAL;
	}
	if (mb > INT64_MAX / MiB)
		return EFBIG;
	return util_status(create_raw(c, name, mb * MiB));
}

static const struct command command_td_create = {
	.name = "create", .run = run_create, .flags = UTIL_OPERANDS | UTIL_OWN_USAGE | UTIL_HELP_OK,
	.usage = "[-r reserve] [-b file_is_fixed_size] <SIZE(MB)> <FILENAME>",
	.summary = "make an empty disk", .options = create_options,
};

/* ---------------------------------------------------------------- snapshot */

static const struct option_desc snapshot_options[] = {
	{ 'm', NULL, NULL, "what it is a snapshot of is a raw image", NULL },
	{ 'b', NULL, NULL, "the file is a device, whose size stays", NULL },
	{ 'l', NULL, "DEPTH", "refuse if the chain would be longer than this", NULL },
	{ 0 }
};

static int run_snapshot(struct cli *c)
{
	struct vu_snapshot s = { 0 };
	struct stat st;
	int val;

	if (!is_vhd(c)) {
		fprintf(stderr, "Cannot create snapshot of %s image type\n", c->argv[0]);
		return EINVAL;
	}
	while ((val = option(c, 2, 0)) > 0) {
		if (val == 'l')
			s.limit = (unsigned)MAX(strtol(optarg, NULL, 10), 0);
		s.raw |= val == 'm';
	}
	if (val < 0)
		return usage(c, c->status);
	s.name = cli_operand(c);
	s.parent = cli_operand(c);
	if (too_long(s.name) || too_long(s.parent))
		return ENAMETOOLONG;
	if (stat(s.parent, &st)) {
		val = errno;
		fprintf(stderr, "File %s not found\n", s.parent);
		return val;
	}
	return util_status(vu_snapshot(c, &s));
}

static const struct command command_td_snapshot = {
	.name = "snapshot", .run = run_snapshot,
	.flags = UTIL_OPERANDS | UTIL_OWN_USAGE | UTIL_HELP_OK,
	.usage = "[-m parent_raw] [-b file_is_fixed_size] [-l snapshot depth limit] "
		 "<FILENAME> <BACKING_FILENAME>",
	.summary = "make a disk that holds what changes from now on", .options = snapshot_options,
};

/* ------------------------------------------------------------------- query */

static const struct option_desc query_options[] = {
	{ 'v', NULL, NULL, "size of the disk in megabytes", NULL },
	{ 'p', NULL, NULL, "path of the parent", NULL },
	{ 'f', NULL, NULL, "whether it is hidden", NULL },
	{ 'd', NULL, NULL, "how many disks the chain has", NULL },
	{ 'b', NULL, NULL, "go by the copy of the footer at the beginning", NULL },
	{ 0 }
};

struct query {
	bool size, parent, fields, depth, backup;
};

static int print_parent(struct cli *c, const struct vu_file *f)
{
	char *path;
	int ret;

	if (f->look.footer.type != VHD_TYPE_DIFF) {
		printf("%s has no parent\n", f->name);
		return 0;
	}
	ret = vu_parent(c, f, &path);
	if (ret)
		printf("failed getting parent: %d\n", ret);
	else
		puts(path);
	free(path);
	return ret;
}

static int query_vhd(struct cli *c, const char *name, const struct query *q)
{
	unsigned depth;
	struct vu_file f;
	int failed, ret = vu_look(c, name, q->backup ? VHD_LOOK_BACKUP : 0, &f);

	if (ret)
		printf("failed opening %s: %d\n", name, ret);
	if (!ret && q->size)
		printf("%llu\n", (unsigned long long)(f.look.footer.cur_size >> 20));
	if (f.look.has_header || !ret) {
		if (!ret && q->parent)
			ret = print_parent(c, &f);
		if (q->fields)
			printf("hidden: %d\n", f.look.footer.hidden);
	}
	if (q->depth && f.file && (f.look.has_header || !ret)) {
		failed = vu_depth(c, &f, &depth);
		if (failed)
			printf("error checking chain depth: %d\n", failed);
		else
			printf("chain depth: %u\n", depth);
		ret = ret ? ret : failed;
	}
	vu_close(&f);
	return ret;
}

static int query_raw(struct cli *c, const char *name, const struct query *q)
{
	struct tapimg_err err = { 0 };
	struct file *file;
	int ret = 0;

	if (q->size && !cli_loop(c))
		return -ENOMEM;
	if (q->size) {
		ret = file_open(c->loop, name, FILE_SHARE, &file, &err);
		if (ret) {
			printf("failed opening %s: %d\n", name, -ret);
			return vu_look_failed(c, name, &err, ret);
		}
		printf("%llu\n", (unsigned long long)(file->size >> 20));
		file_close(file);
	}
	if (q->parent)
		printf("%s has no parent\n", name);
	if (q->fields)
		printf("hidden: 0\n");
	return 0;
}

static int run_query(struct cli *c)
{
	struct query q = { 0 };
	const char *name;
	int val;

	while ((val = option(c, 1, 0)) > 0) {
		q.size |= val == 'v';
		q.parent |= val == 'p';
		q.fields |= val == 'f';
		q.depth |= val == 'd';
		q.backup |= val == 'b';
	}
	if (val < 0)
		return usage(c, c->status);
	name = cli_operand(c);
	if (too_long(name))
		return ENAMETOOLONG;
	return util_status(is_vhd(c) ? query_vhd(c, name, &q) : query_raw(c, name, &q));
}

static const struct command command_td_query = {
	.name = "query", .run = run_query, .flags = UTIL_OPERANDS | UTIL_OWN_USAGE | UTIL_HELP_OK,
	.usage = "[-v virtsize] [-p parent] [-f fields] [-d depth] [-b backup footer] <FILENAME>",
	.summary = "print facts about a disk", .options = query_options,
};

/* --------------------------------------------------------------------- set */

static const struct option_desc set_options[] = {
	{ 0 }
};

static int set_usage(const struct cli *c)
{
	static const char *const fields[] = { "hidden", NULL };

	usage(c, EINVAL);
	util_print_set(stderr, "FIELD", fields);
	return EINVAL;
}

static int run_set(struct cli *c)
{
	const char *name, *field;
	long value;

	if (!is_vhd(c)) {
		fprintf(stderr, "Cannot set fields of %s images\n", c->argv[0]);
		return EINVAL;
	}
	if (option(c, 3, EINVAL))
		return set_usage(c);
	name = cli_operand(c);
	field = cli_operand(c);
	if (strcmp(field, "hidden") != 0) {
		fprintf(stderr, "Invalid field %s\n", field);
		return set_usage(c);
	}
	value = strtol(cli_operand(c), NULL, 10);
	if (value < 0 || value > 255) {
		printf("invalid value %ld\n", value);
		return EINVAL;
	}
	return util_status(vu_set_field(c, name, field, (uint8_t)value));
}

static const struct command command_td_set = {
	.name = "set", .run = run_set, .flags = UTIL_OPERANDS | UTIL_OWN_USAGE | UTIL_HELP_OK,
	.usage = "<FILENAME> <FIELD> <VALUE>", .summary = "change a field of a disk",
	.options = set_options,
};

/* ------------------------------------------------------------------- program */

static const struct command *const commands[] = {
	&command_td_create, &command_td_snapshot, &command_td_query, &command_td_set, NULL
};

const struct program program = { .name = "td-util", .commands = commands, .invalid = "invalid" };

static int banner(void)
{
	static const char *const names[] = { "create", "snapshot", "query", "set", NULL };

	fprintf(stderr, "Tapdisk Utilities: v1.0.0\nusage: td-util COMMAND [TYPE] [OPTIONS]\n");
	util_print_set(stderr, "COMMAND", names);
	util_print_set(stderr, "TYPE", types);
	return USAGE_STATUS;
}

static int no_type(void)
{
	util_print_set(stderr, "TYPE", types);
	return USAGE_STATUS;
}

int main(int argc, char **argv)
{
	const struct command *cmd;

	if (argc < 2)
		return banner();
	cmd = command_find(argv[1]);
	if (!cmd && (argv[1][0] == '-' || !strcmp(argv[1], "completion")))
		return util_main(argc, argv);
	if (!cmd) {
		fprintf(stderr, "invalid COMMAND %s\n", argv[1]);
		return banner();
	}
	if (argc < 3) {
		fprintf(stderr, "td-util %s requires a TYPE\n", cmd->name);
		return no_type();
	}
	if (strcmp(argv[2], types[TYPE_VHD]) != 0 && strcmp(argv[2], types[TYPE_AIO]) != 0) {
		fprintf(stderr, "invalid TYPE '%s'.\n", argv[2]);
		return no_type();
	}
	return util_run(cmd, argc - 2, argv + 2);
}
