/* SPDX-License-Identifier: BSD-2-Clause */
/* disk-config.c - what a disk can be told: "NAME=DRIVER:PATH,key=value..." */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "disk-impl.h"
#include "err.h"
#include "opt.h"

/* Names of tapdisk's drivers, and what the library calls the format. */
static const struct disk_driver drivers[] = {
	{ "aio", "raw", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "raw", "raw", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "qcow", "qcow", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "qcow2", "qcow2", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "vhd", "vpc", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "vmdk", "vmdk", disk_image_open, image_submit, disk_image_resize, disk_image_close },
	{ "nbd", "raw", disk_image_open, image_submit, disk_image_resize, disk_image_close },
};

const struct tapimg_opt_desc disk_opt_descs[] = {
	{ "name", "str", NULL, "name of the disk: NBD export, control commands", 0 },
	{ "read-only", "on|off", "off", "refuse to change it", 0 },
	{ "cache", "writeback|writethrough|none|directsync|unsafe", "writeback",
	  "when a write is durable: after a flush, at once, never; none and directsync: past the host's cache", 0 },
	{ "direct", "on|off", "off", "O_DIRECT, past the host's page cache", 0 },
	{ "discard", "on|off", "on", "give space back that a client discards", 0 },
	{ "bps", "size", NULL, "limit in bytes a second", 0 },
	{ "iops", "size", NULL, "limit in requests a second", 0 },
	{ "metadata-cache", "size", NULL, "bytes of metadata cache for each layer", 0 },
	{ "block-size", "512|4096", "512", "logical block size shown to clients", 0 },
	{ "serial", "str", NULL, "serial number shown to clients (default: the name)", 0 },
	{ "size", "size", NULL, "size of a ram or null disk", 0 },
	{ "on-enospc", "report|stop", "report", "no space: fail the request, or let it wait for space", 0 },
	{ "secondary", "str", NULL, "DRIVER:PATH of a second image that gets every change", 0 },
	{ "standby", "on|off", "off", "the secondary takes over when the first has no space", 0 },
	{ NULL, NULL, NULL, NULL, 0 }
};

const char *const *disk_drivers(void)
{
	static const char *const names[] = { "aio", "raw", "qcow", "qcow2", "vhd", "vmdk", "nbd", "ram",
					     "null", NULL };

	return names;
}

const struct disk_driver *disk_driver(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
		if (!strcmp(drivers[i].name, name))
			return &drivers[i];
	if (!strcmp(name, ram_driver.name))
		return &ram_driver;
	return strcmp(name, null_driver.name) ? NULL : &null_driver;
}

/* --------------------------------------------------------------- the structure */

void disk_config_init(struct disk_config *c)
{
	*c = (struct disk_config){ .discard = true, .block_size = 512 };
}

void disk_config_clear(struct disk_config *c)
{
	free(c->name);
	free(c->driver);
	free(c->path);
	free(c->serial);
	free(c->secondary);
	free(c->signal_file);
	explicit_bzero(c->key, sizeof(c->key));
	disk_config_init(c);
}

static int copy_str(char **dst, const char *src)
{
	*dst = src ? strdup(src) : NULL;
	return src && !*dst ? -ENOMEM : 0;
}

int disk_config_copy(struct disk_config *dst, const struct disk_config *src)
{
	*dst = *src;
	dst->name = dst->driver = dst->path = dst->serial = NULL;
	dst->secondary = dst->signal_file = NULL;
	if (copy_str(&dst->name, src->name) || copy_str(&dst->driver, src->driver) ||
	    copy_str(&dst->path, src->path) || copy_str(&dst->serial, src->serial) ||
	    copy_str(&dst->secondary, src->secondary) ||
	    copy_str(&dst->signal_file, src->signal_file)) {
		disk_config_clear(dst);
		return -ENOMEM;
	}
	return 0;
}

static int set_str(char **dst, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*dst);
	*dst = copy;
	return 0;
}

int disk_config_target(struct disk_config *c, const char *text, struct tapimg_err *err)
{
	const char *colon;
	char *driver;
	int ret;

	if (!strncmp(text, "tap:", 4))
		text += 4;
	colon = strchr(text, ':');
	if (!colon || colon == text || !colon[1])
		return err_set(err, -EINVAL, "'%s' is not DRIVER:PATH", text);
	driver = strndup(text, colon - text);
	if (!driver)
		return err_errno(err, -ENOMEM, "%s", text);
	if (!disk_driver(driver)) {
		ret = err_set(err, -ENOENT, "'%s': there is no driver of this name", driver);
		free(driver);
		return ret;
	}
	free(c->driver);
	c->driver = driver;
	ret = set_str(&c->path, colon + 1);
	return ret ? err_errno(err, ret, "%s", text) : 0;
}

/* ------------------------------------------------------------------- one option */

static int bad_value(const char *name, const char *value, const char *wanted, struct tapimg_err *err)
{
	return err_set(err, -EINVAL, "option '%s': '%s' is not %s", name, value, wanted);
}

static int set_bool(bool *dst, const char *name, const char *value, struct tapimg_err *err)
{
	return opt_bool(value, dst) ? bad_value(name, value, "on or off", err) : 0;
}

/* Sizes and rates; rates are multiplied with nanoseconds, so they are bounded. */
static int set_size(uint64_t *dst, const char *name, const char *value, uint64_t max,
		    struct tapimg_err *err)
{
	if (opt_size(value, dst) || *dst > max)
		return bad_value(name, value, "a number with an optional suffix k, M, G, T", err);
	return 0;
}

static int set_cache(struct disk_config *c, const char *value, struct tapimg_err *err)
{
	int i = opt_enum(value, "writeback|writethrough|none|directsync|unsafe");

	if (i < 0)
		return bad_value("cache", value, "writeback, writethrough, none, directsync or unsafe", err);
	c->writethrough = i == 1 || i == 3;
	c->unsafe = i == 4;
	if (i == 2 || i == 3)
		c->direct = true;
	return 0;
}

#define RATE_MAX (1ULL << 32)		/* times BURST_NS stays below 2^63 */

int disk_config_opt(struct disk_config *c, const char *name, const char *value, struct tapimg_err *err)
{
	int i;

	if (!strcmp(name, "name"))
		return set_str(&c->name, value);
	if (!strcmp(name, "serial"))
		return set_str(&c->serial, value);
	if (!strcmp(name, "read-only"))
		return set_bool(&c->read_only, name, value, err);
	if (!strcmp(name, "cache"))
		return set_cache(c, value, err);
	if (!strcmp(name, "direct"))
		return set_bool(&c->direct, name, value, err);
	if (!strcmp(name, "discard"))
		return set_bool(&c->discard, name, value, err);
	if (!strcmp(name, "bps"))
		return set_size(&c->rate_bytes, name, value, RATE_MAX * 16, err);
	if (!strcmp(name, "iops"))
		return set_size(&c->rate_reqs, name, value, RATE_MAX, err);
	if (!strcmp(name, "metadata-cache"))
		return set_size(&c->cache_size, name, value, 64 * GiB, err);
	if (!strcmp(name, "size"))
		return set_size(&c->size, name, value, INT64_MAX, err);
	if (!strcmp(name, "block-size")) {
		i = opt_enum(value, "512|4096");
		c->block_size = i == 1 ? 4096 : 512;
		return i < 0 ? bad_value(name, value, "512 or 4096", err) : 0;
	}
	if (!strcmp(name, "on-enospc")) {
		i = opt_enum(value, "report|stop");
		c->stop_on_enospc = i == 1;
		return i < 0 ? bad_value(name, value, "report or stop", err) : 0;
	}
	if (!strcmp(name, "secondary"))
		return set_str(&c->secondary, value);
	if (!strcmp(name, "standby"))
		return set_bool(&c->standby, name, value, err);
	return err_set(err, -EINVAL, "there is no option '%s' of disks", name);
}

/* A name before the driver: "vda=qcow2:/a". What follows the first ':' belongs to the path. */
static int take_name(struct disk_config *c, const char **text)
{
	size_t n = strcspn(*text, "=:,");
	int ret;

	if ((*text)[n] != '=')
		return 0;
	free(c->name);
	c->name = strndup(*text, n);
	ret = c->name ? 0 : -ENOMEM;
	*text += n + 1;
	return ret;
}

int disk_config_parse(struct disk_config *c, const char *text, struct tapimg_err *err)
{
	struct tapimg_opt *opts;
	char *target;
	unsigned n;
	int ret = take_name(c, &text);

	target = ret ? NULL : optlist_item(&text);
	if (!target)
		return err_errno(err, -ENOMEM, "%s", text);
	ret = disk_config_target(c, target, err);
	free(target);
	if (!ret)
		ret = optlist_parse(text, &opts, &n, err);
	if (ret)
		return ret;
	for (unsigned i = 0; i < n && !ret; i++)
		ret = disk_config_opt(c, opts[i].name, opts[i].value, err);
	optlist_free(opts, n);
	return ret;
}
