/* SPDX-License-Identifier: BSD-2-Clause */
/* vbd.c - devices of the control protocol; see vbd.h */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cbt.h"
#include "checked.h"
#include "control.h"
#include "err.h"
#include "log.h"
#include "metrics.h"

/* ------------------------------------------------------------- attach, detach */

int vbd_attach(struct control *c, int minor, bool own_marker, struct vbd **out)
{
	struct vbd *v;
	int fd;

	if (minor < 0 || minor >= PROTO_MAX_MINOR)
		return -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	fd = run_lock(minor);
	if (fd < 0) {
		free(v);
		return fd;
	}
	list_init(&v->node);
	v->server = c->server;
	v->minor = minor;
	v->marker = fd;
	v->own_marker = own_marker;
	list_append(&c->vbds, &v->node);
	if (out)
		*out = v;
	return 0;
}

int vbd_detach(struct control *c, struct vbd *v)
{
	if (v->name)
		return -EBUSY;
	list_del(&v->node);
	close(v->marker);
	if (v->own_marker)
		run_free(v->minor);
	job_free(v);
	free(v);
	return 0;
}

/* ------------------------------------------------------------------ open, close */

static int set_name(struct vbd *v, const char *target)
{
	char *name = strdup(strncmp(target, "tap:", 4) ? target : target + 4);

	if (!name)
		return -ENOMEM;
	free(v->name);
	v->name = name;
	return 0;
}

/* Local caches of blktap are VHDs, whatever else they do. */
static int set_target(struct disk_config *c, const char *target, struct tapimg_err *err)
{
	char *vhd;
	int ret;

	if (strncmp(target, "lle:", 4) && strncmp(target, "llp:", 4))
		return disk_config_target(c, target, err);
	if (asprintf(&vhd, "vhd:%s", target + 4) < 0)
		return err_errno(err, -ENOMEM, "%s", target);
	ret = disk_config_target(c, vhd, err);
	free(vhd);
	return ret;
}

static int open_config(struct disk_config *c, const struct vbd *v, const struct vbd_open *o,
		       struct tapimg_err *err)
{
	int ret;

	disk_config_init(c);
	if (o->flags & PROTO_ENCRYPTED) {
		if (o->key_len != 32 && o->key_len != 64)
			return err_set(err, -EINVAL, "%s: a key has 32 or 64 bytes, not %u", o->target,
				       o->key_len);
		memcpy(c->key, o->key, o->key_len);
		c->key_len = o->key_len;
	}
	ret = set_target(c, o->target, err);
	if (!ret && o->secondary)
		ret = disk_config_opt(c, "secondary", o->secondary, err);
	if (!ret && asprintf(&c->name, "%d", v->minor) < 0) {
		c->name = NULL;
		ret = err_errno(err, -ENOMEM, "%s", o->target);
	}
	if (!ret && asprintf(&c->signal_file, "%s/tapdisk-enospc%d", getenv("TAPDISK_RUN_DIR") ?
			     run_dir() : "/run", v->minor) < 0) {
		c->signal_file = NULL;
		ret = err_errno(err, -ENOMEM, "%s", o->target);
	}
	c->read_only = o->flags & PROTO_RDONLY;
	/* a read cache is the host's page cache */
	c->direct = !(o->flags & (PROTO_NO_O_DIRECT | PROTO_ADD_LCACHE | PROTO_ADD_CACHE));
	c->standby = o->flags & PROTO_STANDBY;
	c->keep_size = true;
	/*
	 * Managers merge a layer in the middle into the one below it while the top is served: what is
	 * written there is hidden by the layer it comes from, until they pause this disk to leave that out.
	 */
	c->share_backing = true;
	return ret;
}

static int start_log(struct vbd *v, const char *path, struct tapimg_err *err)
{
	int ret = path ? cbt_open(path, disk_props(v->disk)->size, &v->log, err) : 0;

	if (!ret)
		disk_set_log(v->disk, v->log);
	return ret;
}

static void stop_log(struct vbd *v)
{
	if (v->disk)
		disk_set_log(v->disk, NULL);
	cbt_close(v->log);
	v->log = NULL;
}

/* Only where that front end is built in. */
static int start_nbd(struct vbd *v, struct tapimg_err *err)
{
	struct tapimg_opt opts[2] = { { "disk", disk_props(v->disk)->name } };
	char *path;
	int ret;

	if (!frontend_find("nbd"))
		return 0;
	if (asprintf(&path, "%s/nbd%d.%d", run_dir(), getpid(), v->minor) < 0)
		return err_errno(err, -ENOMEM, "NBD socket");
	opts[1] = (struct tapimg_opt){ "socket", path };
	ret = server_front_opts(v->server, "nbd", opts, 2, &v->nbd, err);
	free(path);
	return ret;
}

static void stop_nbd(struct vbd *v)
{
	if (v->nbd)
		front_stop(v->nbd);
	while (v->nbd && tapimg_loop_run(v->server->loop, true) >= 0)
		;
}

int vbd_open(struct vbd *v, const struct vbd_open *o, struct tapimg_err *err)
{
	struct disk_config c;
	int ret = open_config(&c, v, o, err);

	if (!ret)
		ret = disk_open(v->server, &c, &v->disk, err);
	disk_config_clear(&c);
	if (ret)
		return ret;
	ret = set_name(v, o->target);
	if (!ret)
		ret = start_log(v, o->log, err);
	if (!ret)
		ret = start_nbd(v, err);
	if (ret) {
		vbd_close(v, true, NULL);
		return ret;
	}
	metrics_start(v);
	v->state = 0;
	return 0;
}

int vbd_adopt(struct vbd *v, struct disk *d)
{
	const struct disk_config *c = disk_config(d);

	if (asprintf(&v->name, "%s:%s", c->driver, c->path) < 0) {
		v->name = NULL;
		return -ENOMEM;
	}
	v->disk = d;
	metrics_start(v);
	return 0;
}

int vbd_close(struct vbd *v, bool force, struct tapimg_err *err)
{
	struct disk *d = v->disk;
	int ret;

	metrics_stop(v);
	stop_log(v);
	v->disk = NULL;
	ret = disk_close(d, force, err);
	stop_nbd(v);
	job_free(v);
	free(v->name);
	v->name = NULL;
	v->state = 0;
	return ret;
}

int vbd_close_all(struct control *c)
{
	struct list *pos;
	int ret = 0;

	list_for_each(pos, &c->vbds) {
		struct vbd *v = list_entry(pos, struct vbd, node);
		struct tapimg_err err = { 0 };
		int r = v->disk ? vbd_close(v, false, &err) : 0;

		if (r)
			log_error("minor %d: %s", v->minor, err.text[0] ? err.text : strerror(-r));
		ret = ret ? ret : r;
	}
	return ret;
}

/* -------------------------------------------------------------- pause, resume */

int vbd_pause(struct vbd *v, struct tapimg_err *err)
{
	int ret;

	if (!v->disk)
		return err_set(err, -EINVAL, "minor %d: no image is open", v->minor);
	if (disk_paused(v->disk))
		return 0;
	v->state |= VBD_PAUSE_REQUESTED | VBD_QUIESCE_REQUESTED;
	ret = disk_pause(v->disk, err);
	v->state &= ~(unsigned)(VBD_PAUSE_REQUESTED | VBD_QUIESCE_REQUESTED);
	job_free(v);
	return ret;
}

int vbd_resume(struct vbd *v, const char *target, const char *secondary, const char *log,
	       struct tapimg_err *err)
{
	int ret;

	if (!v->disk)
		return err_set(err, -EINVAL, "minor %d: no image is open", v->minor);
	if (!disk_paused(v->disk))
		return err_set(err, -EINVAL, "minor %d: not paused", v->minor);
	stop_log(v);
	ret = start_log(v, log, err);
	if (!ret)
		ret = disk_resume(v->disk, target, secondary, err);
	if (!ret && target)
		ret = set_name(v, target);
	if (ret)
		v->state |= VBD_RESUME_FAILED;
	else
		v->state &= ~(unsigned)VBD_RESUME_FAILED;
	return ret;
}

unsigned vbd_state(const struct vbd *v)
{
	if (!v->disk)
		return v->state | VBD_CLOSED;
	if (disk_paused(v->disk))
		return v->state | VBD_PAUSED | VBD_QUIESCED | VBD_CLOSED;
	return v->state;
}
