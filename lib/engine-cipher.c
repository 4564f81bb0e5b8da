/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine-cipher.c - data of layers with a cipher (img->crypt), for all formats
 *
 * What such a layer stores plainly is enciphered in sectors (crypt.h), so all transfers here are of
 * whole sectors; an extent never ends inside of one.
 *
 * Reading: the transfer goes into the caller's buffers if these hold whole sectors, and is deciphered
 * there; else into a buffer of its own.
 *
 * Writing: data are gathered and enciphered in a buffer of their own, for the caller's must not change.
 * A write into space that is there already first locks its sectors (E1), and what it leaves of
 * the first and the last one is filled like the rest of a new unit (COPYUP): so no write can bring
 * back an older state of what another one has written beside it.
 *
 * Little is worked on at once, what is larger on a helper thread.
 */
#include <assert.h>
#include <stdlib.h>

#include "checked.h"
#include "crypt.h"
#include "engine.h"

/* Up to here a helper thread would take longer to wake up than the work takes. */
#define AT_ONCE (16 * KiB)

uint64_t cipher_limit(const struct piece *p, uint64_t len)
{
	return MIN(len, LOOP_ZEROES - p->off % CRYPT_SECTOR);
}

/* ------------------------------------------------------------------- reading */

/* Deciphers where it was read to: the caller's buffers or ours. */
static int decipher(const struct piece *p)
{
	struct crypt *c = p->ext.layer->crypt;
	uint64_t sector = p->off / CRYPT_SECTOR;
	int ret = 0;

	for (int i = 0; !ret && i < p->io.iovcnt; i++) {
		const struct iovec *v = p->io.iov + i;

		ret = crypt_sectors(c, false, sector, v->iov_base, v->iov_base, v->iov_len);
		sector += v->iov_len / CRYPT_SECTOR;
	}
	return ret;
}

static void read_end(struct piece *p, int ret)
{
	if (!ret && p->out)
		piece_copy_out(p, (char *)p->out + p->off % CRYPT_SECTOR);
	piece_done(p, ret);
}

static void decipher_run(struct work *w)
{
	struct piece *p = container_of(w, struct piece, work);

	p->work_ret = decipher(p);
}

static void deciphered(struct task *t)
{
	struct piece *p = container_of(t, struct piece, work.task);

	read_end(p, p->work_ret);
}

static void cipher_read_done(struct io *io)
{
	struct piece *p = container_of(io, struct piece, io);

	if (io->ret) {
		read_end(p, io->ret);
	} else if (io->len <= AT_ONCE) {
		read_end(p, decipher(p));
	} else {
		p->state = PS_CIPHER;
		p->work.task.fn = deciphered;
		p->work.run = decipher_run;
		work_submit(p->img->loop, &p->work);
	}
}

static bool whole_sectors(const struct piece *p, const struct iovec *iov, int n)
{
	uint64_t bits = p->off | p->len;

	for (int i = 0; i < n; i++)
		bits |= iov[i].iov_len;
	return is_aligned(bits, CRYPT_SECTOR);
}

/* Makes p->iov a buffer of our own, for as much of the piece as one may have: its length, 0 without memory. */
static uint64_t read_apart(struct piece *p)
{
	uint64_t take = cipher_limit(p, p->len), len;
	struct piece *rest;

	if (take < p->len) {
		rest = piece_split(p, take);
		if (!rest)
			return 0;
		piece_ready(rest);
	}
	len = round_up(p->off % CRYPT_SECTOR + take, CRYPT_SECTOR);
	p->out = file_buf(len);
	p->iov[0] = (struct iovec){ p->out, len };
	return p->out ? len : 0;
}

void cipher_read(struct piece *p)
{
	uint64_t skip = p->off % CRYPT_SECTOR, len = round_up(skip + p->len, CRYPT_SECTOR);
	const struct iovec *iov;
	int n = piece_buffers(p, &iov);

	if (n < 0) {
		piece_done(p, n);
		return;
	}
	if (!whole_sectors(p, iov, n)) {
		len = read_apart(p);
		if (!len) {
			piece_done(p, -ENOMEM);
			return;
		}
		iov = p->iov;
		n = 1;
	}
	piece_io(p, IO_READ, p->ext.file, p->ext.host - skip, len, iov, n, cipher_read_done);
}

/* ------------------------------------------------------------------- writing */

/* All of the range that ext says, sides and data, enciphered in p->out. */
static int encipher(struct piece *p)
{
	const struct side *side = p->up ? p->up->side : NULL;
	uint64_t head = p->off - p->ext.off, end = head + p->len;
	uint8_t *out = p->out;

	if (side && head)
		memcpy(out, side[0].iov.iov_base, head);
	if (p->zero)
		memset(out + head, 0, p->len);
	else
		piece_copy_in(p, out + head);
	if (side && end < p->ext.len)
		memcpy(out + end, side[1].iov.iov_base, p->ext.len - end);
	return crypt_sectors(p->img->crypt, true, p->ext.off / CRYPT_SECTOR, out, out, p->ext.len);
}

static void write_end(struct piece *p, int ret)
{
	struct tapimg *img = p->img;

	if (ret) {
		piece_abort(p, ret);
		engine_pump(img);
		return;
	}
	p->iov[0] = (struct iovec){ p->out, p->ext.len };
	piece_io(p, IO_WRITE, p->ext.file, p->ext.host, p->ext.len, p->iov, 1,
		 p->reserved || p->early ? piece_new_done : piece_inplace_done);
}

static void encipher_run(struct work *w)
{
	struct piece *p = container_of(w, struct piece, work);

	p->work_ret = encipher(p);
}

static void enciphered(struct task *t)
{
	struct piece *p = container_of(t, struct piece, work.task);

	write_end(p, p->work_ret);
}

void cipher_write(struct piece *p)
{
	assert(is_aligned(p->ext.off | p->ext.len, CRYPT_SECTOR));
	p->out = file_buf(p->ext.len);
	if (!p->out) {
		piece_abort(p, -ENOMEM);
	} else if (p->ext.len <= AT_ONCE) {
		write_end(p, encipher(p));
	} else {
		p->state = PS_CIPHER;
		p->work.task.fn = enciphered;
		p->work.run = encipher_run;
		work_submit(p->img->loop, &p->work);
	}
}
