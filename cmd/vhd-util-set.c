/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-set.c - vhd-util set and repair
 */
#include "vhd-util.h"

/* --------------------------------------------------------------------- set */

static const struct option_desc set_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'f', NULL, "FIELD", "hidden or marker", "hidden|marker" },
	{ 'v', NULL, "VALUE", "0 to 255", NULL },
	{ 0 }
};

static int open_failed(const char *name, int ret)
{
	printf("error opening %s: %d\n", name, ret);
	return ret;
}

int vu_set_field(struct cli *c, const char *name, const char *field, uint8_t value)
{
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	int ret = vu_open(c, name, TAPIMG_RDWR, &img);

	if (ret)
		return open_failed(name, ret);
	if (!strcmp(field, "hidden"))
		ret = vhd_set_hidden(img, value, &err);
	else
		ret = vhd_set_marker(img, value, &err);
	if (ret)
		ret = vu_look_failed(c, name, &err, ret);
	return vu_close_image(c, img, ret);
}

static int run_set(struct cli *c)
{
	const char *name = NULL, *field = NULL, *value = NULL;
	long number = 0;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else if (val == 'f')
			field = optarg;
		else
			value = optarg;
	}
	if (val < 0)
		return c->status;
	if (!name || !field || !value)
		return util_usage(c, EINVAL);
	if (strcmp(field, "hidden") != 0 && strcmp(field, "marker") != 0) {
		printf("invalid field %s\n", field);
		return util_usage(c, EINVAL);
	}
	number = strtol(value, NULL, 10);
	if (number < 0 || number > 255) {
		printf("invalid value %ld\n", number);
		return util_usage(c, EINVAL);
	}
	return util_status(vu_set_field(c, name, field, (uint8_t)number));
}

const struct command command_vhd_set = {
	.name = "set", .run = run_set, .usage = "-n NAME -f hidden|marker -v VALUE [-h]",
	.summary = "change a field of a disk", .options = set_options,
};

/* ------------------------------------------------------------------ repair */

static const struct option_desc repair_options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'b', NULL, NULL, "from the copy of the footer at the beginning", NULL },
	{ 0 }
};

/* Which of the two footers is to be in both places. */
static void choose(struct vhd_look *l, bool backup)
{
	if (!backup && l->has_primary && l->primary.type == l->footer.type &&
	    l->primary.cur_size == l->footer.cur_size &&
	    l->primary.data_off == l->footer.data_off &&
	    !memcmp(l->primary.cookie, VHD_COOKIE, 8))
		l->footer = l->primary;
}

static int repair(struct cli *c, const char *name, bool backup)
{
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	int ret = vu_open(c, name, TAPIMG_RDWR, &img);

	if (ret)
		return open_failed(name, ret);
	choose(&vhd_of(img)->look, backup);
	ret = vhd_write_footers(img, &err);
	if (ret) {
		ret = vu_look_failed(c, name, &err, ret);
		printf("error writing footer: %d\n", ret);
	}
	return vu_close_image(c, img, ret);
}

static int run_repair(struct cli *c)
{
	const char *name = NULL;
	bool backup = false;
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			name = optarg;
		else
			backup = true;
	}
	if (val < 0)
		return c->status;
	if (!name)
		return util_usage(c, EINVAL);
	return util_status(repair(c, name, backup));
}

const struct command command_vhd_repair = {
	.name = "repair", .run = run_repair, .usage = "-n NAME [-b] [-h]",
	.summary = "write both footers anew", .options = repair_options,
};
