/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-gate.c - what has to be on the disk before the first write
 *
 * G1 The content id changes, durably, before any byte of the disk can: whoever was made on the old
 *    contents (a child, by its parentCID) notices, whenever the power is cut.  An image that is only
 *    opened keeps its id.
 * G2 An extent is marked as open, durably, before its tables change, and the mark goes when all is
 *    durable at close: other products then look at the tables before they trust them.
 * G3 An unfinished target keeps its id: nobody has seen it yet.
 * G4 A descriptor that names a file in which changes are tracked names none from then on: what is written here
 *    would be missing in it, and in every backup made by it.  Whoever tracks begins anew.
 *
 * Operations that come meanwhile are parked; afterwards this costs one look at a flag.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmdk.h"

enum { STEP_CID, STEP_CID_FLUSH, STEP_MARK, STEP_MARK_FLUSH, STEP_DONE };

static void gate_step(struct tapimg *img);

static void gate_end(struct tapimg *img, int ret)
{
	struct vmdk_gate *g = &vmdk_of(img)->gate;
	struct list waiters = LIST_INIT(waiters);
	struct vmdk_extent *x = g->x;

	free(g->buf);
	g->buf = NULL;
	g->x = NULL;
	if (ret)
		image_fail(img, ret, "%s: marking it as changed: %s", x->path ? x->path : img->path,
			   strerror(-ret));
	else
		x->marked = true;
	list_splice(&waiters, &g->waiters);
	waiters_wake(&waiters, ret);
}

static void gate_done(struct io *io)
{
	struct vmdk_gate *g = container_of(io, struct vmdk_gate, io);

	if (io->ret) {
		gate_end(g->img, io->ret);
		return;
	}
	if (g->step == STEP_CID_FLUSH)
		g->cid_done = true;
	g->step++;
	gate_step(g->img);
}

static void submit(struct vmdk_gate *g, struct file *f, enum io_op op, uint64_t off, uint64_t len)
{
	g->io = (struct io){ .file = f, .op = op, .off = off, .len = len, .done = gate_done };
	g->io.iov1 = (struct iovec){ g->buf, len };
	g->io.iov = &g->io.iov1;
	g->io.iovcnt = op == IO_WRITE;
	file_submit(&g->io);
}

/* New ids in the text.  The long one belongs to the same contents, and ends as the short one. */
static int change_ids(struct vmdk *v)
{
	uint32_t cid = vmdk_new_cid(v->desc.cid);
	char text[40], *old = vmdk_desc_get(&v->desc, "ddb.longContentID");
	int ret = 0;

	snprintf(text, sizeof(text), "%08x", cid);
	ret = vmdk_desc_set(&v->desc, "CID", text, false, NULL);
	if (!ret && old && strlen(old) == 32) {
		snprintf(text, sizeof(text), "%08x%08x%08x%08x", vmdk_new_cid(0), vmdk_new_cid(0),
			 vmdk_new_cid(0), cid);
		ret = vmdk_desc_set(&v->desc, "ddb.longContentID", text, false, NULL);
	}
	free(old);
	if (ret)
		return ret;
	v->desc.cid = cid;
	vmdk_desc_end_tracking(&v->desc);	/* G4 */
	return 0;
}

static int cid_write(struct tapimg *img)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_gate *g = &v->gate;
	uint64_t len;
	int ret = change_ids(v);

	if (ret)
		return ret;
	len = v->desc_max ? v->desc_max : v->desc.len;
	if (v->desc.len > len)
		return -ENOSPC;
	g->buf = file_buf(len + 1);
	if (!g->buf)
		return -ENOMEM;
	memset(g->buf, 0, len);
	memcpy(g->buf, v->desc.text, v->desc.len);
	submit(g, img->file, IO_WRITE, v->desc_off, len);
	return 0;
}

static int mark_write(struct vmdk_gate *g)
{
	free(g->buf);
	g->buf = file_buf(1);
	if (!g->buf)
		return -ENOMEM;
	g->buf[0] = 1;
	submit(g, g->x->file, IO_WRITE, g->x->kind->unclean_at, 1);
	return 0;
}

static void gate_step(struct tapimg *img)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_gate *g = &v->gate;
	int ret = 0;

	if (g->step == STEP_CID && g->cid_done)
		g->step = STEP_MARK;
	if (g->step == STEP_MARK && !g->x->kind->unclean_at)
		g->step = STEP_DONE;
	switch (g->step) {
	case STEP_CID:
		ret = cid_write(img);
		break;
	case STEP_CID_FLUSH:
		submit(g, img->file, IO_FLUSH, 0, 0);
		break;
	case STEP_MARK:
		ret = mark_write(g);
		break;
	case STEP_MARK_FLUSH:
		submit(g, g->x->file, IO_FLUSH, 0, 0);
		break;
	default:
		gate_end(img, 0);
		return;
	}
	if (ret)
		gate_end(img, ret);
}

/* There is nobody who could notice, or nothing that could change. */
static bool keeps_cid(const struct tapimg *img)
{
	const struct vmdk *v = vmdk_of(img);

	return !v->desc.text || !v->desc.has_cid || v->unfinished || img->flags & TAPIMG_CHECK;	/* G3 */
}

int vmdk_gate_cid(struct tapimg *img, struct tapimg_err *err)
{
	struct vmdk_gate *g = &vmdk_of(img)->gate;
	int ret = 0;

	if (!g->cid_done && !keeps_cid(img)) {
		ret = change_ids(vmdk_of(img));
		ret = ret ? err_errno(err, ret, "%s", img->name) : vmdk_desc_write(img, err);
	}
	g->cid_done |= !ret;
	return ret;
}

int vmdk_gate_start(struct tapimg *img, struct vmdk_extent *x)
{
	struct vmdk_gate *g = &vmdk_of(img)->gate;

	if (img->failed)
		return img->failed;
	if (!g->x) {
		g->cid_done |= keeps_cid(img);
		g->x = x;
		g->step = STEP_CID;
		gate_step(img);
		if (x->marked)
			return 0;
		if (img->failed)
			return img->failed;
	}
	loop_set_park(img->loop, &g->waiters);
	return -EAGAIN;
}

void vmdk_gate_init(struct tapimg *img)
{
	struct vmdk_gate *g = &vmdk_of(img)->gate;

	g->img = img;
	list_init(&g->waiters);
	list_init(&g->io.task.node);
}

int vmdk_gate_close(struct tapimg *img)
{
	struct vmdk *v = vmdk_of(img);
	static const uint8_t clean;
	int ret = 0, r;

	for (unsigned i = 0; i < v->nx; i++) {
		struct vmdk_extent *x = v->x + i;

		if (!x->marked)
			continue;
		r = x->kind->finish ? x->kind->finish(img, x) : 0;
		/* a mark that was there before stays until a check has looked at the tables */
		if (!r && x->kind->unclean_at && !x->dirty_found)
			r = file_pwrite(x->file, &clean, 1, x->kind->unclean_at);
		if (!r && x->file)	/* ZERO extents have none */
			r = file_flush(x->file);
		x->marked = false;
		ret = ret ? ret : r;
	}
	return ret;
}
