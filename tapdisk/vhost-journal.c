/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-journal.c - completed changes that a kill would lose
 *
 * A write that allocates completes when its data are written and the new mapping stands in our metadata
 * cache.  The mapping reaches the image with the next flush, in the order that a power cut
 * demands.  When power fails the guest is gone as well; but when only this process is killed the guest goes
 * on, and believes what it was told.  So each such change is noted here before it is answered: guest
 * range and the place of its bytes in the image's file, where they are already, for what the kernel
 * was given survives us.
 *
 * J1 A record is complete before head covers it, and head covers it before the guest is answered.
 * J2 Records are dropped in order, when a flush that was submitted after them has succeeded.
 * J3 Whole units are noted (engine: what is reserved at once), for later writes into the same unit
 *    change bytes and no mapping.
 * J4 After a kill nothing may have been allocated before the records are done again: first all their
 *    bytes are read, then they are written in order, as the guest did.  If the disk was changed by
 *    another client already, the guest is not let in.
 * J5 Space that was given back and taken again within the journal is right nevertheless: each change
 *    since has a record of its own, later.
 *
 * The memory is the front end's, so numbers in it are checked; places are read inside the
 * image's own file only, and what is read goes to the same guest's disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "image.h"
#include "log.h"
#include "stats.h"
#include "vhost.h"

#define JOURNAL_MAGIC 0x314c4e524a445054ull
#define RECORDS 4096
#define BYTES_LONG (32 * MiB)	/* so much of data: flush */
#define BYTES_MAX (96 * MiB)	/* no more than that, for all of it is read at once */
#define PIECE_MAX (64 * MiB)

enum { R_DATA = 1, R_ZERO = 2, R_DISCARD = 3 };

struct record {			/* 32 bytes */
	uint64_t off, host;
	uint64_t len;
	uint32_t kind, pad;
};

struct journal {
	uint64_t magic;
	uint64_t owner;		/* the server that writes it */
	uint64_t head, tail;	/* records ever made, dropped */
	uint8_t pad[32];
	struct record rec[RECORDS];
};

struct replay {
	struct record rec[RECORDS];
	void *data[RECORDS];
	unsigned n, at;
	struct iovec iov;
	struct disk_req req;
	struct vhost *vh;
	struct journal *journal;
};

uint64_t journal_size(void)
{
	return sizeof(struct journal);
}

/* ------------------------------------------------------------------ noting */

uint64_t journal_mark(const struct vhost *vh)
{
	return vh->journal_head;
}

bool journal_empty(const struct vhost *vh)
{
	return vh->journal_head == vh->journal_tail;
}

bool journal_is_long(const struct vhost *vh)
{
	return vh->journal_head - vh->journal_tail > RECORDS / 2 || vh->journal_bytes > BYTES_LONG;
}

static bool append(struct vhost *vh, const struct record *r)
{
	uint64_t bytes = r->kind == R_DATA ? r->len : 0;

	if (vh->journal_head - vh->journal_tail == RECORDS || vh->journal_bytes + bytes > BYTES_MAX)
		return false;
	vh->journal->rec[vh->journal_head % RECORDS] = *r;
	vh->journal_bytes += bytes;
	__atomic_store_n(&vh->journal->head, ++vh->journal_head, __ATOMIC_RELEASE);	/* J1 */
	return true;
}

/* The mapping as it is now; parts without bytes of their own have nothing to lose. */
static bool note_data(struct vhost *vh, struct tapimg *img, uint64_t off, uint64_t end)
{
	struct record r = { .kind = R_DATA };
	uint64_t run;

	for (; off < end; off += run) {
		switch (image_place(img, off, end - off, &r.host, &run)) {
		case PLACE_PLAIN:
			r.off = off;
			r.len = run = MIN(run, PIECE_MAX);
			if (!append(vh, &r))
				return false;
			break;
		case PLACE_NONE:
			break;
		default:
			return false;
		}
	}
	return true;
}

bool journal_note(struct vhost *vh, const struct tapimg_req *req)
{
	struct tapimg *img = disk_image(vh->disk);
	struct record r = { .off = req->off, .len = req->len };
	uint64_t start = req->off, end = req->off + req->len;

	if (!vh->journal || !(req->flags & REQ_REMAPPED) || req->flags & TAPIMG_REQ_FUA)
		return true;
	if (!img)
		return false;
	if (req->op == TAPIMG_WRITE) {		/* J3 */
		image_round_out(img, &start, &end);
		return note_data(vh, img, start, MIN(end, img->size));
	}
	r.kind = req->op == TAPIMG_ZERO ? R_ZERO : R_DISCARD;
	return append(vh, &r);
}

void journal_drop(struct vhost *vh, uint64_t mark)
{
	if (!vh->journal || mark <= vh->journal_tail)
		return;
	for (; vh->journal_tail < mark; vh->journal_tail++) {
		const struct record *r = &vh->journal->rec[vh->journal_tail % RECORDS];

		if (r->kind == R_DATA)
			vh->journal_bytes -= MIN(r->len, vh->journal_bytes);
	}
	if (journal_empty(vh))
		vh->journal_bytes = 0;
	__atomic_store_n(&vh->journal->tail, vh->journal_tail, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------ doing it again */

static void replay_free(struct vhost *vh)
{
	struct replay *p = vh->replay;
	unsigned i;

	if (!p)
		return;
	for (i = 0; i < p->n; i++)
		free(p->data[i]);
	free(p);
	vh->replay = NULL;
}

static void journal_use(struct vhost *vh, struct journal *j)
{
	j->tail = j->head = vh->journal_head = vh->journal_tail = 0;
	vh->journal_bytes = 0;
	j->owner = vh->owner;
	__atomic_store_n(&j->magic, JOURNAL_MAGIC, __ATOMIC_RELEASE);
	vh->journal = j;
}

static void replay_next(struct vhost *vh);

static void replay_done(struct disk_req *r)
{
	struct vhost *vh = container_of(r, struct replay, req)->vh;

	vh->syncing = false;
	if (r->req.ret) {
		log_error("%s: changes of a killed server cannot be done again: %s", vh->name,
			  strerror(-r->req.ret));
		vhost_disconnect(vh, "the guest's disk is not what the guest knows");
		vhost_go_on(vh);
		return;
	}
	/* goes on to the end even if the connection has ended meanwhile: half of it is no good */
	if (r->req.op != TAPIMG_FLUSH) {
		vh->replay->at++;
		replay_next(vh);
		return;
	}
	log_info("%s: %u changes of a killed server are done again", vh->name, vh->replay->n);
	journal_use(vh, vh->replay->journal);
	replay_free(vh);
	vhost_go_on(vh);
}

static void replay_next(struct vhost *vh)
{
	static const uint8_t op[] = { [R_DATA] = TAPIMG_WRITE, [R_ZERO] = TAPIMG_ZERO,
				      [R_DISCARD] = TAPIMG_DISCARD };
	struct replay *p = vh->replay;
	struct tapimg_req *req = &p->req.req;

	memset(&p->req, 0, sizeof(p->req));
	req->op = TAPIMG_FLUSH;
	if (p->at < p->n) {
		const struct record *r = &p->rec[p->at];

		req->op = op[r->kind];
		req->off = r->off;
		req->len = r->len;
		p->iov = (struct iovec){ p->data[p->at], r->len };
		req->iov = &p->iov;
		req->iovcnt = r->kind == R_DATA;
	}
	p->req.done = replay_done;
	vh->syncing = true;
	disk_submit(vh->disk, &p->req);
}

/* All of a range, or zeroes beyond the end of the file. */
static int read_host(int fd, uint8_t *buf, uint64_t len, uint64_t host)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, host);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : 0;
		buf += n;
		len -= n;
		host += n;
	}
	return 0;
}

static int replay_gather(struct vhost *vh, struct replay *p, const struct journal *j, int fd)
{
	uint64_t size = disk_props(vh->disk)->size, bytes = 0, tail = j->tail, i;

	for (i = 0; i < p->n; i++) {
		struct record *r = &p->rec[i];
		int ret;

		*r = j->rec[(tail + i) % RECORDS];
		if (r->kind < R_DATA || r->kind > R_DISCARD || !checked_range(r->off, r->len, size))
			return -EUCLEAN;
		if (r->kind != R_DATA)
			continue;
		bytes += r->len;
		if (r->len > PIECE_MAX || bytes > 2 * BYTES_MAX || r->host > INT64_MAX)
			return -EUCLEAN;
		p->data[i] = calloc(1, r->len);
		if (!p->data[i])
			return -ENOMEM;
		ret = read_host(fd, p->data[i], r->len, r->host);
		if (ret)
			return ret;
	}
	return 0;
}

static bool disk_touched(const struct disk *d)
{
	const struct disk_stats *st = disk_stats(d);

	return st->op[TAPIMG_WRITE].submitted || st->op[TAPIMG_ZERO].submitted ||
	       st->op[TAPIMG_DISCARD].submitted;
}

/* J4 */
static int replay_start(struct vhost *vh, struct journal *j, unsigned n)
{
	struct tapimg *img = disk_image(vh->disk);
	struct replay *p;
	int fd, ret;

	if (!img || disk_touched(vh->disk)) {
		log_error("%s: the disk was changed by others since a server was killed, and %u changes "
			  "that its guest was told of are lost", vh->name, n);
		return -ESTALE;
	}
	p = calloc(1, sizeof(*p));
	fd = open(img->file->name, O_RDONLY | O_CLOEXEC);
	if (!p || fd < 0) {
		ret = p ? -errno : -ENOMEM;
		free(p);
		if (fd >= 0)
			close(fd);
		return ret;
	}
	p->vh = vh;
	p->n = n;
	p->journal = j;
	vh->replay = p;
	ret = replay_gather(vh, p, j, fd);
	close(fd);
	if (ret)
		return ret;
	vh->held = true;
	replay_next(vh);
	return 0;
}

int journal_open(struct vhost *vh, void *mem)
{
	struct journal *j = mem;
	uint64_t n = j->head - j->tail;

	if (disk_props(vh->disk)->read_only)
		return 0;
	if (j->magic != JOURNAL_MAGIC || !n || j->owner == vh->owner) {
		journal_use(vh, j);
		return 0;
	}
	return n > RECORDS ? -EUCLEAN : replay_start(vh, j, n);
}

void journal_close(struct vhost *vh)
{
	replay_free(vh);
	vh->journal = NULL;
	vh->journal_head = vh->journal_tail = vh->journal_bytes = 0;
}
