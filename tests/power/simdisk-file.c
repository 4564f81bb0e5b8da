/* SPDX-License-Identifier: BSD-2-Clause */
/* simdisk-file.c - the simulated disk as a backend: transfers, faults, names */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simdisk-impl.h"

/* ------------------------------------------------------------------- transfers */

static uint8_t *io_data(const struct io *io)
{
	uint8_t *buf, *p;
	int i;

	if (io->op != IO_WRITE || !io->len)
		return NULL;
	p = buf = malloc(io->len);
	if (!buf)
		abort();
	for (i = 0; i < io->iovcnt; i++) {
		memcpy(p, io->iov[i].iov_base, io->iov[i].iov_len);
		p += io->iov[i].iov_len;
	}
	return buf;
}

static bool fault_hits(struct sim *s, unsigned kind, const struct sim_node *n, uint64_t off,
		       uint64_t len)
{
	struct sim_fault *f = &s->fault;

	if (s->dead || !(f->kinds & kind))
		return false;
	f->seen++;
	if (f->seen < f->nth || (f->seen > f->nth && !f->sticky))
		return false;
	if (!f->hits++) {
		f->kind = kind;
		f->off = off;
		f->len = len;
		snprintf(f->file, sizeof(f->file), "%s", n ? n->name : "");
	}
	return true;
}

static void breach(struct sim *s, const struct io *io, const char *what)
{
	if (!s->breach[0])
		snprintf(s->breach, sizeof(s->breach), "%s: op %d of %s at 0x%llx length 0x%llx",
			 what, io->op, io->file->name, (unsigned long long)io->off,
			 (unsigned long long)io->len);
}

static int io_breaches(struct sim *s, const struct sim_node *n, const struct io *io)
{
	const struct file *f = io->file;
	uint64_t sum = 0;
	int i;

	if (io->op == IO_FLUSH)
		return 0;
	if (io->op == IO_ZERO || io->op == IO_DISCARD) {
		/* the last unit of a file may be a part of one, and the file grow meanwhile */
		if (!is_aligned(io->off, f->discard_align) ||
		    (!is_aligned(io->len, f->discard_align) && n->block_dev))
			breach(s, io, "not aligned to discard_align");
	} else if (!is_aligned(io->off, f->align) || !is_aligned(io->len, f->align)) {
		breach(s, io, "not aligned");
	}
	if (io->op == IO_READ && io->off + io->len > round_up(MAX(n->vsize, f->size), f->align))
		breach(s, io, "read beyond the end");
	if (io->off + io->len > SPAN || io->off + io->len < io->off)
		return -EFBIG;
	if (io->op != IO_READ && !(f->flags & FILE_RDWR))
		breach(s, io, "change of a file opened for reading");
	if (n->block_dev && io->off + io->len > n->vsize) {
		breach(s, io, "beyond the end of the device");
		return -ENOSPC;
	}
	if (io->op == IO_READ || io->op == IO_WRITE) {
		for (i = 0; i < io->iovcnt; i++) {
			sum += io->iov[i].iov_len;
			if ((uintptr_t)io->iov[i].iov_base & (f->mem_align - 1))
				breach(s, io, "buffer not aligned");
		}
		if (sum != io->len)
			breach(s, io, "vectors do not add up");
		if (io->len > f->max_io)
			breach(s, io, "too long");
	}
	return 0;
}

static void read_fill(struct sim_node *n, struct io *io, uint64_t len)
{
	uint64_t o = io->off;
	int i;

	node_touch(n, o, n->stale && o < n->vsize ? MIN(len, n->vsize - o) : 0);
	for (i = 0; i < io->iovcnt && len; i++) {
		uint64_t part = MIN(io->iov[i].iov_len, len);
		uint64_t have = o < n->vsize ? MIN(part, n->vsize - o) : 0;

		memcpy(io->iov[i].iov_base, n->vol + o, have);
		memset((uint8_t *)io->iov[i].iov_base + have, 0, part - have);
		o += part;
		len -= part;
	}
}

/* A discard leaves zeroes in a file; on a device or with stale bytes nobody knows. */
static struct sim_ev *discard_effect(struct sim *s, struct sim_node *n, struct io *io)
{
	uint8_t *junk = NULL;
	uint64_t i, len = io->off < n->vsize ? MIN(io->len, n->vsize - io->off) : 0;

	if (!len)
		return NULL;
	if (n->block_dev || n->stale) {
		if (rng_pct(&s->rng, 30))
			return NULL;
		if (rng_pct(&s->rng, 50)) {
			junk = malloc(len);
			for (i = 0; junk && i < len; i++)
				junk[i] = 0xa5 ^ i;
		}
	}
	return node_effect(n, io->off, len, junk, 0, false);
}

/* What a transfer does, at some time before it completes. */
void op_effect(struct sim *s, struct sim_op *op)
{
	struct io *io = op->io;
	struct sim_node *n = op->n;
	unsigned kind = 1U << io->op;
	uint64_t len = io->len;

	op->effected = true;
	if (s->dead) {
		op->ret = -EIO;
		return;
	}
	if (fault_hits(s, kind, n, io->off, len)) {
		op->ret = s->fault.err;
		if (io->op == IO_FLUSH || (op->ret < 0 && io->op == IO_READ))
			op->ret = MIN(op->ret, 0) ? op->ret : -EIO;
		if (op->ret == -ENOSPC || op->ret == -EIO)
			len = rng_below(&s->rng, len + 1);	/* a part has arrived */
		if (op->ret == SIM_SHORT)
			len = len / 2;
		/* whole sectors, like everything that a disk does */
		len = round_down(io->off + len, s->cfg.sector);
		len = round_down(len > io->off ? len - io->off : 0, io->file->align);
		if (op->ret == SIM_SHORT)
			op->ret = io->op > IO_WRITE || !len ? -EIO : (int)MIN(len, INT32_MAX);
		if (!len || io->op == IO_READ || io->op == IO_FLUSH || io->op == IO_DISCARD) {
			if (io->op == IO_READ && op->ret >= 0)
				read_fill(n, io, len);
			return;
		}
	}
	switch (io->op) {
	case IO_READ:
		read_fill(n, io, len);
		break;
	case IO_WRITE:
		op->ev = node_effect(n, io->off, len, io_data(io), 0, false);
		break;
	case IO_ZERO:
		op->ev = node_effect(n, io->off, len, NULL, 0, false);
		break;
	case IO_DISCARD:
		op->ev = discard_effect(s, n, io);
		break;
	case IO_FLUSH:
		break;
	}
}

static void op_finish(struct sim *s, struct sim_op *op)
{
	struct io *io = op->io;
	int ret = op->ret;

	list_del(&op->node);
	if (!op->effected)
		op_effect(s, op);
	if (op->ev) {
		if (list_empty(&op->ev->node))
			ev_free(op->ev);	/* made durable by a flush that passed it */
		else
			op->ev->done = ++s->seq;
	}
	ret = op->ret;
	sim_step(s);
	if (s->dead)
		ret = -EIO;
	else if (io->op == IO_FLUSH && !ret)
		node_flush(op->n, op->flush_seq);
	s->busy--;
	free(op);
	io_complete(io, ret);
}

static void tick_arm(struct sim *s)
{
	if (s->busy && list_empty(&s->tick.node))
		loop_defer(s->loop, &s->tick);
}

void sim_tick(struct task *t)
{
	struct sim *s = container_of(t, struct sim, tick);
	struct list *l, *tmp;

	s->now++;
	s->fake.now += s->cfg.tick_ns;
	s->stats.ticks++;
	list_for_each_safe(l, tmp, &s->ops) {
		struct sim_op *op = list_entry(l, struct sim_op, node);

		if (!op->effected && op->effect <= s->now && !s->dead) {
			op_effect(s, op);
			sim_step(s);
		}
		if (op->due <= s->now || s->dead) {
			list_del(&op->node);
			if (rng_next(&s->rng) & 1)
				list_append(&s->due, &op->node);
			else
				list_push(&s->due, &op->node);
		}
	}
	while (!list_empty(&s->due))
		op_finish(s, list_first(&s->due, struct sim_op, node));
	tick_arm(s);
}

static uint64_t delay(struct sim *s)
{
	uint64_t most = s->cfg.delay;

	if (rng_pct(&s->rng, s->cfg.slow_pct))
		most = s->cfg.slow_delay;
	return most ? rng_below(&s->rng, most + 1) : 0;
}

static void simf_submit(struct io *io)
{
	struct sim_node *n = io->file->priv;
	struct sim *s = n->sim;
	struct sim_op *op;
	int ret;

	s->stats.ios++;
	sim_step(s);
	ret = s->dead ? -EIO : io_breaches(s, n, io);
	if (!ret && io->op == IO_ZERO && s->cfg.no_zero)
		ret = -ENOTSUP;
	if (ret) {
		io_complete(io, ret);
		return;
	}
	op = calloc(1, sizeof(*op));
	if (!op)
		abort();
	op->n = n;
	op->io = io;
	op->due = s->now + delay(s);
	op->effect = s->now + rng_below(&s->rng, op->due - s->now + 1);
	if (rng_pct(&s->rng, 40) || io->op == IO_FLUSH || (io->op == IO_READ && s->cfg.late_reads))
		op->effect = op->due;
	op->flush_seq = s->seq;
	s->busy++;
	list_append(&s->ops, &op->node);
	tick_arm(s);
}

/* ---------------------------------------------------------------- the other ops */

/* Returns 0, or what a blocking operation fails with. */
static int blocking(struct sim_node *n, unsigned kind, uint64_t off, uint64_t len)
{
	struct sim *s = n->sim;

	s->stats.ios++;
	sim_step(s);
	if (s->dead)
		return -EIO;
	if (fault_hits(s, kind, n, off, len))
		return s->fault.err < 0 ? s->fault.err : -EIO;
	return 0;
}

static int simf_truncate(struct file *f, uint64_t size)
{
	struct sim_node *n = f->priv;
	int ret = blocking(n, SIM_TRUNCATE, size, 0);

	if (ret)
		return ret;
	if (n->block_dev)
		return size <= n->vsize ? 0 : -ENOSPC;
	if (size > SPAN)
		return -EFBIG;
	node_effect(n, size, 0, NULL, size, true)->done = ++n->sim->seq;
	sim_step(n->sim);
	return n->sim->dead ? -EIO : 0;
}

static int simf_refresh(struct file *f)
{
	struct sim_node *n = f->priv;

	f->size = n->vsize;
	return 0;
}

static int simf_prealloc(struct file *f, uint64_t off, uint64_t len)
{
	struct sim_node *n = f->priv;
	int ret;

	if (!n->sim->cfg.prealloc)
		return -ENOTSUP;
	ret = blocking(n, SIM_PREALLOC, off, len);
	if (ret)
		return ret;
	if (off + len > SPAN)
		return -EFBIG;
	if (off + len > n->vsize)
		node_effect(n, off + len, 0, NULL, off + len, true)->done = ++n->sim->seq;
	return 0;
}

static int simf_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	struct sim_node *n = f->priv;
	uint64_t end = off + *len, o = round_down(off, PAGE) + PAGE;

	*data = n->stale || page_touched(n, off / PAGE);
	while (o < end && o < n->hi && page_touched(n, o / PAGE) == *data) {
		bool word = !(o / PAGE % 64) && o / PAGE < n->touched_pages;

		o += word && n->touched[o / PAGE / 64] == (*data ? UINT64_MAX : 0) ? 64 * PAGE : PAGE;
	}
	if (o >= n->hi && (n->stale || !*data))
		o = end;	/* all alike from here on */
	*len = MIN(o, end) - off;
	return 0;
}

static uint64_t simf_allocated(struct file *f)
{
	struct sim_node *n = f->priv;
	uint64_t p, sum = 0;

	for (p = 0; p < n->touched_pages / 64; p++)
		sum += __builtin_popcountll(n->touched[p]) * PAGE;
	return sum;
}

static void simf_close(struct file *f)
{
	struct sim_node *n = f->priv;

	if (!--n->opens && n->gone)
		node_free(n);
}

static const struct file_ops sim_file_ops = {
	.name = "sim",
	.submit = simf_submit,
	.truncate = simf_truncate,
	.refresh = simf_refresh,
	.prealloc = simf_prealloc,
	.status = simf_status,
	.allocated = simf_allocated,
	.close = simf_close,
};

/* -------------------------------------------------------------------- provider */

static const char *bare(const char *name)
{
	return strncmp(name, "sim:", 4) ? name : name + 4;
}

int sim_prov_open(struct file_provider *p, struct tapimg_loop *loop, const char *name,
		     unsigned flags, struct file **out, struct tapimg_err *err)
{
	struct sim *s = container_of(p, struct sim, prov);
	struct sim_node *n = node_find(s, bare(name));
	struct file *f;

	if (s->dead || fault_hits(s, SIM_OPEN, n, 0, 0))
		return err_errno(err, -EIO, "%s: cannot open", name);
	if (!n && !(flags & FILE_CREATE))
		return err_errno(err, -ENOENT, "%s: cannot open", name);
	if (n && (flags & FILE_CREATE) && (flags & FILE_EXCL))
		return err_errno(err, -EEXIST, "%s: cannot create", name);
	if (!n)
		n = node_new(s, bare(name));
	f = file_alloc(loop, &sim_file_ops, name, flags);
	if (!f)
		return err_errno(err, -ENOMEM, "%s: cannot open", name);
	f->priv = n;
	n->opens++;
	f->align = s->cfg.align;
	f->mem_align = s->cfg.align > 1 ? 16 : 1;	/* what malloc gives: the same every time */
	f->discard_align = s->cfg.align;
	f->max_io = s->cfg.max_io ? s->cfg.max_io : MiB;
	f->block_dev = n->block_dev;
	f->grows_clean = !n->stale && !n->block_dev;
	f->size = n->vsize;
	if ((flags & FILE_TRUNC) && !n->block_dev && n->vsize) {
		node_effect(n, 0, 0, NULL, 0, true)->done = ++s->seq;
		f->size = 0;
	}
	*out = f;
	return 0;
}

int sim_prov_remove(struct file_provider *p, const char *name)
{
	struct sim *s = container_of(p, struct sim, prov);

	sim_step(s);
	return s->dead ? -EIO : sim_delete(s, bare(name));
}

int sim_prov_rename(struct file_provider *p, const char *from, const char *to)
{
	struct sim *s = container_of(p, struct sim, prov);
	struct sim_node *n = node_find(s, bare(from)), *old = node_find(s, bare(to));
	char *name;

	sim_step(s);
	if (s->dead)
		return -EIO;
	if (!n)
		return -ENOENT;
	if (fault_hits(s, SIM_RENAME, n, 0, 0))
		return s->fault.err < 0 ? s->fault.err : -EIO;
	name = strdup(bare(to));
	if (!name)
		return -ENOMEM;
	if (old && old != n && old->opens) {	/* lives on for those who have it open */
		old->gone = true;
		free(old->name);
		old->name = strdup("");
		if (!old->name)
			abort();
	} else if (old && old != n) {
		node_free(old);
	}
	free(n->name);
	n->name = name;
	sim_step(s);
	return s->dead ? -EIO : 0;
}
