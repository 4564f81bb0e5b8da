/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-coalesce.c - vhd-util coalesce: what a disk holds goes into its parent
 *
 * Safe at any point: the disk itself is only read, and hides whatever of the parent is changed already
 * from those who read through it.  Cut short, it is run again.
 */
#include "vhd-util.h"

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 's', NULL, NULL, "write no zeroes where nothing is", NULL },
	{ 'p', NULL, NULL, "show progress", NULL },
	{ 0 }
};

/* The moved part in hundredths of a percent, as far as it was shown. */
static int show(void *arg, uint64_t done, uint64_t total)
{
	double part = total ? (double)done / (double)total : 0;
	int *shown = arg, now = (int)(MIN(part, 0.9999) * 10000);

	if (now > *shown) {
		printf("\r%6.2f%%", now / 100.0);
		fflush(stdout);
		*shown = now;
	}
	return 0;
}

static int open_parent(struct cli *c, const char *path, bool raw, struct tapimg **out)
{
	struct tapimg_open_opts opts = { .format = raw ? "raw" : "vhd",
					 .flags = TAPIMG_RDWR | TAPIMG_CIPHERTEXT };
	struct tapimg_err err = { 0 };
	int ret = tapimg_open(c->loop, path, &opts, out, &err);

	if (!ret)
		return 0;
	ret = vu_look_failed(c, path, &err, ret);
	printf(raw ? "failed to open parent %s: %d\n" : "error opening %s: %d\n", path, ret);
	return ret;
}

/* The parent is not just any disk that happens to have the name. */
static int check_identity(const struct vu_file *f, struct tapimg *parent, struct tapimg_err *err)
{
	if (vu_parent_raw(f) ||
	    !memcmp(vhd_of(parent)->look.footer.uuid, f->look.header.parent_uuid, 16))
		return 0;
	return err_set(err, -EINVAL, "%s: is not the parent: it has another uuid", parent->name);
}

/* What is stored goes over as it is, so both have to be enciphered in the same way, or neither. */
static int check_key(const struct vu_file *f, struct tapimg *parent, struct tapimg_err *err)
{
	const struct vhd_batmap_header *a = &f->look.batmap, *b = NULL;
	bool secret = f->look.has_batmap && a->has_key;

	if (!vu_parent_raw(f) && vhd_enciphered(vhd_of(parent)))
		b = &vhd_of(parent)->look.batmap;
	if (secret == !!b && (!b || (!memcmp(a->nonce, b->nonce, sizeof(a->nonce)) &&
				     !memcmp(a->hash, b->hash, sizeof(a->hash)))))
		return 0;
	return err_set(err, -EINVAL, "%s: is not enciphered as its parent '%s' is", f->name,
		       parent->name);
}

static int move(struct cli *c, const struct vu_file *f, struct tapimg *child,
		struct tapimg *parent, bool progress, int64_t *sectors)
{
	struct tapimg_err err = { 0 };
	int shown = -1, ret;

	ret = check_identity(f, parent, &err);
	if (!ret)
		ret = check_key(f, parent, &err);
	child->backing = parent;
	if (!ret)
		ret = tapimg_commit(child, 1, false, 0, progress ? show : NULL, &shown, &err);
	if (ret)
		return vu_look_failed(c, f->name, &err, ret);
	if (progress)
		printf("\r100.00%%\n");
	*sectors = (int64_t)(tapimg_committed(child) / VHD_SECTOR);
	return 0;
}

/* The child is opened for reading: others may go on using it, and the parent through it. */
static int coalesce_into(struct cli *c, const struct vu_file *f, const char *path, bool sparse,
			 bool progress, int64_t *sectors)
{
	struct tapimg *child, *parent;
	bool raw = vu_parent_raw(f);
	int ret;

	if (sparse && !raw)
		printf("opening for sparse writes\n");
	ret = open_parent(c, path, raw, &parent);
	if (ret)
		return ret;
	ret = vu_open(c, f->name, 0, &child);
	if (ret) {
		printf("error opening %s: %d\n", f->name, ret);
		return vu_close_image(c, parent, ret);
	}
	ret = move(c, f, child, parent, progress, sectors);
	return vu_close_image(c, child, ret);		/* the parent with it */
}

static int coalesce(struct cli *c, const char *name, bool sparse, bool progress, int64_t *sectors)
{
	char *path = NULL;
	struct vu_file f;
	int ret = vu_look(c, name, 0, &f);

	if (ret) {
		printf("error opening %s: %d\n", name, ret);
	} else if (f.look.footer.type != VHD_TYPE_DIFF) {
		printf("coalescing of non-differencing disks is not supported\n");
		ret = -EINVAL;
	} else {
		ret = vu_parent(c, &f, &path);
		if (ret)
			printf("error finding %s parent: %d\n", name, ret);
		else
			ret = coalesce_into(c, &f, path, sparse, progress, sectors);
	}
	free(path);
	vu_close(&f);
	return ret;
}

static int run(struct cli *c)
{
	bool sparse = false, progress = false;
	const char *name = NULL;
	int64_t sectors = 0;
	int val, ret;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		sparse |= val == 's';
		progress |= val == 'p';
	}
	if (val < 0)
		return c->status;
	if (!name)
		return util_usage(c, EINVAL);
	ret = coalesce(c, name, sparse, progress, &sectors);
	if (ret)
		printf("error coalescing: %d\n", ret);
	else
		printf("Coalesced %lld sectors", (long long)sectors);
	return util_status(ret);
}

const struct command command_vhd_coalesce = {
	.name = "coalesce", .run = run, .usage = "-n NAME [-s] [-p] [-h]",
	.summary = "move what a disk holds into its parent", .options = options,
};
