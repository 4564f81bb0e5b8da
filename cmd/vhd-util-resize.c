/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-resize.c - vhd-util resize and revert
 *
 * With -f only the size changes, as far as the block table has room.  With a journal blocks are moved
 * out of the way of a larger table; what that overwrites is kept in the journal until all is done.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd-util.h"

static const struct option_desc resize_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 's', NULL, "MB", "new size in megabytes", NULL },
	{ 'j', NULL, "JOURNAL", "file to keep what is overwritten until all is done", "FILE" },
	{ 'f', NULL, NULL, "only within the room that was reserved", NULL },
	{ 0 }
};

static int failed(struct cli *c, const char *name, const struct tapimg_err *err, int ret)
{
	return ret ? vu_look_failed(c, name, err, ret) : 0;
}

static int check_creator(struct cli *c, const char *name)
{
	struct vu_file f;
	int ret = vu_look(c, name, 0, &f);

	if (ret) {
		printf("error opening %s: %d\n", name, ret);
	} else if (!vhd_footer_is_tap(&f.look.footer)) {
		printf("%s not created by xen; resize not supported\n", name);
		ret = -EINVAL;
	}
	vu_close(&f);
	return ret;
}

/* ---------------------------------------------------------- in the room there is */

static int grow_fast(struct cli *c, const char *name, struct tapimg *img, uint64_t size)
{
	const struct vhd_look *l = &vhd_of(img)->look;
	struct tapimg_err err = { 0 };

	if (vhd_of(img)->fixed)
		return -EINVAL;
	if (size < l->footer.cur_size) {
		printf("%s: size (%llu) < curr size (%llu)\n", name, (unsigned long long)size,
		       (unsigned long long)l->footer.cur_size);
		return -EINVAL;
	}
	if (size == l->footer.cur_size)
		return 0;
	if (div_up(size, l->header.block_size) > l->header.max_bat)
		return failed(c, name, &err, err_set(&err, -EINVAL, "%s: the block table has room for "
			      "%u blocks only", name, l->header.max_bat));
	return failed(c, name, &err, tapimg_resize(img, size, TAPIMG_PREALLOC_OFF, false, &err));
}

static int resize_fast(struct cli *c, const char *name, uint64_t size)
{
	struct tapimg *img;
	int ret = vu_open(c, name, TAPIMG_RDWR | VU_CHAIN, &img);

	if (!ret)
		ret = grow_fast(c, name, img, size);
	return vu_close_image(c, img, ret);
}

/* ------------------------------------------------------------- with a journal */

static enum vhd_stop stop_wanted(const char **name)
{
	static const struct { const char *name; enum vhd_stop stop; } stops[] = {
		{ "VHD_UTIL_TEST_FAIL_RESIZE_BEGIN", VHD_STOP_BEGIN },
		{ "VHD_UTIL_TEST_FAIL_RESIZE_DATA_MOVED", VHD_STOP_DATA },
		{ "VHD_UTIL_TEST_FAIL_RESIZE_METADATA_MOVED", VHD_STOP_METADATA },
		{ "VHD_UTIL_TEST_FAIL_RESIZE_END", VHD_STOP_END },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(stops); i++) {
		*name = stops[i].name;
		if (getenv(stops[i].name))
			return stops[i].stop;
	}
	return VHD_STOP_NONE;
}

/* Whether the journal can be made there: found out before anything is changed. */
static int try_journal(const char *journal)
{
	struct stat st;
	int fd;

	if (!stat(journal, &st))
		return S_ISBLK(st.st_mode) ? 0 : -EEXIST;
	fd = open(journal, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	return unlink(journal) ? -errno : 0;
}

static int grow_journaled(struct cli *c, const char *name, struct tapimg *img, uint64_t size,
			  const char *journal)
{
	struct tapimg_err err = { 0 };
	const char *where;
	enum vhd_stop stop = stop_wanted(&where);
	bool fixed = vhd_of(img)->fixed;
	int ret;

	/* what is cut off of it no journal could bring back */
	if (fixed && size < vhd_of(img)->look.footer.cur_size)
		return failed(c, name, &err, tapimg_resize(img, size, TAPIMG_PREALLOC_OFF, true, &err));
	if (!fixed)
		size = round_up(size, VHD_BLOCK_SIZE);
	if (size < vhd_of(img)->look.footer.cur_size) {
		printf("dynamic shrink not fully implemented\n");
		return -ENOSYS;
	}
	ret = vhd_resize_journal(img, size, journal, stop, &err);
	if (ret && stop) {
		printf("Failing at %s\n", where);
		return -ECANCELED;
	}
	return failed(c, name, &err, ret);
}

static int resize_journaled(struct cli *c, const char *name, uint64_t size, const char *journal)
{
	struct tapimg *img;
	int ret = try_journal(journal);

	if (!ret)
		ret = vu_open(c, name, TAPIMG_RDWR | VU_CHAIN, &img);
	if (ret) {
		printf("creating journal failed: %d\n", ret);
		return ret;
	}
	ret = grow_journaled(c, name, img, size, journal);
	if (ret == -ECANCELED) {
		vu_close_image(c, img, ret);
		return -EINVAL;
	}
	if (ret)
		printf("resize failed: %d\n", ret);
	return vu_close_image(c, img, ret);
}

static int run_resize(struct cli *c)
{
	const char *name = NULL, *journal = NULL;
	bool fast = false, sized = false;
	uint64_t mb = 0;
	int val, ret;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else if (val == 'j')
			journal = optarg;
		else if (val == 's')
			mb = strtoull(optarg, NULL, 10);
		fast |= val == 'f';
		sized |= val == 's';
	}
	if (val < 0)
		return c->status;
	if (!name || !sized || !journal == !fast || mb > INT64_MAX / MiB)
		return util_usage(c, EINVAL);
	ret = check_creator(c, name);
	if (!ret)
		ret = fast ? resize_fast(c, name, round_up(mb * MiB, VHD_BLOCK_SIZE))
			   : resize_journaled(c, name, mb * MiB, journal);
	return util_status(ret);
}

const struct command command_vhd_resize = {
	.name = "resize", .run = run_resize, .usage = "-n NAME -s MB (-j JOURNAL | -f) [-h]",
	.summary = "change the size of a disk", .options = resize_options,
};

/* ------------------------------------------------------------------ revert */

static const struct option_desc revert_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'j', NULL, "JOURNAL", "what the broken-off resize left", "FILE" },
	{ 0 }
};

static int revert(struct cli *c, const char *name, const char *journal)
{
	struct tapimg_err err = { 0 };
	struct file *file = NULL;
	int ret = access(journal, R_OK) ? -errno : 0;

	if (!ret && !cli_loop(c))
		return -ENOMEM;
	if (!ret)
		ret = file_open(c->loop, name, FILE_RDWR, &file, &err);
	if (ret) {
		ret = vu_look_failed(c, name, &err, ret);
		printf("opening journal failed: %d\n", ret);
		return ret;
	}
	ret = vhd_revert(file, name, journal, &err);
	file_close(file);
	if (ret) {
		ret = vu_look_failed(c, name, &err, ret);
		printf("reverting journal failed: %d\n", ret);
	}
	return ret;
}

static int run_revert(struct cli *c)
{
	const char *name = NULL, *journal = NULL;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else
			journal = optarg;
	}
	if (val < 0)
		return c->status;
	if (!name || !journal)
		return util_usage(c, EINVAL);
	return util_status(revert(c, name, journal));
}

const struct command command_vhd_revert = {
	.name = "revert", .run = run_revert, .usage = "-n NAME -j JOURNAL [-h]",
	.summary = "undo a resize that was broken off", .options = revert_options,
};
