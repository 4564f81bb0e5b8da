/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream.c - writes what a machine would see on a disk image to standard output
 *
 *	stream IMAGE [FORMAT] | sha256sum
 *
 * Shows the asynchronous interface: DEPTH reads are in flight at any time, each with a buffer of its
 * own.  They complete in any order; the output has to be in order, so a slot is written and used again
 * only when it is its turn.  While the output is slow the reads go on behind it.
 * Uses nothing but the installed header and library.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tapimg.h>

#define DEPTH 8
#define CHUNK (256 * 1024)
#define OUTPUT_FAILED 1			/* beside 0 and negative errno */

struct slot {
	struct tapimg_req req;		/* the library's until done() has run */
	struct iovec iov;
	bool done;
};

struct stream {
	struct tapimg_loop *loop;
	struct tapimg *img;
	struct slot slot[DEPTH];
	uint64_t next;			/* offset of the next read to be submitted */
};

/* Runs from inside tapimg_loop_run(). */
static void slot_done(struct tapimg_req *req)
{
	struct slot *s = req->opaque;

	s->done = true;
}

static void slot_start(struct stream *st, struct slot *s)
{
	uint64_t left = tapimg_size(st->img) - st->next;

	s->done = false;
	s->iov.iov_len = left < CHUNK ? left : CHUNK;
	s->req.op = TAPIMG_READ;
	s->req.off = st->next;
	s->req.len = s->iov.iov_len;
	s->req.iov = &s->iov;
	s->req.iovcnt = 1;
	s->req.done = slot_done;
	s->req.opaque = s;
	st->next += s->req.len;
	tapimg_submit(st->img, &s->req);
}

static int stream_all(struct stream *st)
{
	uint64_t size = tapimg_size(st->img);
	unsigned started = 0, turn = 0;
	int ret = 0;

	for (; started < DEPTH && st->next < size; started++)
		slot_start(st, &st->slot[started]);
	for (; turn < started; turn++) {
		struct slot *s = &st->slot[turn % DEPTH];

		while (!s->done && ret >= 0)
			ret = tapimg_loop_run(st->loop, true);
		if (ret >= 0)
			ret = s->req.ret;
		if (ret < 0)
			break;
		if (fwrite(s->iov.iov_base, 1, s->iov.iov_len, stdout) != s->iov.iov_len)
			return OUTPUT_FAILED;
		if (st->next < size) {
			slot_start(st, s);
			started++;
		}
	}
	if (ret >= 0)
		ret = fflush(stdout) ? OUTPUT_FAILED : 0;
	return ret;
}

/* Buffers of requests in flight may not go away before them. */
static void stream_drain(struct stream *st)
{
	while (tapimg_inflight(st->img) && tapimg_loop_run(st->loop, true) >= 0)
		;
}

int main(int argc, char **argv)
{
	struct tapimg_open_opts opts = { .format = argc > 2 ? argv[2] : NULL };
	static struct stream st;
	struct tapimg_err err;
	int ret;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: stream IMAGE [FORMAT]\n");
		return 2;
	}
	if (tapimg_loop_new(0, &st.loop, &err) ||
	    tapimg_open(st.loop, argv[1], &opts, &st.img, &err)) {
		fprintf(stderr, "stream: %s\n", err.text);
		tapimg_loop_free(st.loop);
		return 1;
	}
	for (int i = 0; i < DEPTH; i++) {
		st.slot[i].iov.iov_base = aligned_alloc(4096, CHUNK);
		if (!st.slot[i].iov.iov_base)
			abort();
	}
	ret = stream_all(&st);
	stream_drain(&st);
	if (ret)
		fprintf(stderr, "stream: %s: %s\n", argv[1], ret == OUTPUT_FAILED ? "writing the output" : strerror(-ret));
	for (int i = 0; i < DEPTH; i++)
		free(st.slot[i].iov.iov_base);
	tapimg_close(st.img, NULL);
	tapimg_loop_free(st.loop);
	return ret ? 1 : 0;
}
