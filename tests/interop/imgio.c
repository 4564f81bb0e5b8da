/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * imgio.c - does a list of operations on an image through the public interface, many at a time
 *
 *	imgio [-d DEPTH] [-f FORMAT] [-t MODE] [-p POOL] [-o ORACLE] [-k PASSPHRASE] IMAGE <list
 *
 * One operation a line, numbers in bytes:
 *	w OFF LEN AT	write LEN bytes of the pool file from AT on
 *	W OFF LEN AT	the same, durable on completion
 *	c OFF LEN AT	the same, as compressed clusters
 *	z OFF LEN	make zero            Z OFF LEN	the same, space may be given back
 *	d OFF LEN	discard              f		flush
 *	v OFF LEN	read, and compare with the same place of the oracle file
 * Operations that touch the same bytes are done in the order of the list; all others overlap.
 * MODE is a letter list: d O_DIRECT, w writethrough, u unsafe, r read-only, m discards free space.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tapimg.h>

#define MAX_DEPTH 256

struct slot {
	struct tapimg_req req;
	struct iovec iov[3];		/* buffers are handed over in pieces, as guests do */
	char *buf;
	unsigned line;
	char kind;
	bool busy;
};

struct run {
	struct tapimg_loop *loop;
	struct tapimg *img;
	struct slot slot[MAX_DEPTH];
	unsigned depth, busy, line, failed;
	char *pool, *oracle;
	size_t pool_len, oracle_len;
};

static void die(const char *what)
{
	fprintf(stderr, "imgio: %s: %s\n", what, strerror(errno));
	exit(2);
}

static char *map_file(const char *name, size_t *len)
{
	struct stat st;
	char *p;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		die(name);
	*len = st.st_size;
	p = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die(name);
	close(fd);
	return p;
}

static void verify(struct run *r, struct slot *s)
{
	for (uint64_t i = 0; i < s->req.len; i++) {
		if (s->buf[i] != r->oracle[s->req.off + i]) {
			fprintf(stderr, "imgio: line %u: byte %" PRIu64 " is 0x%02x, not 0x%02x\n",
				s->line, s->req.off + i, (unsigned char)s->buf[i],
				(unsigned char)r->oracle[s->req.off + i]);
			r->failed++;
			return;
		}
	}
}

static void done(struct tapimg_req *req)
{
	struct run *r = req->opaque;
	struct slot *s = (struct slot *)req;

	if (req->ret) {
		fprintf(stderr, "imgio: line %u: %c at %" PRIu64 "+%" PRIu64 ": %s\n", s->line, s->kind,
			req->off, req->len, strerror(-req->ret));
		r->failed++;
	} else if (s->kind == 'v') {
		verify(r, s);
	}
	free(s->buf);
	s->buf = NULL;
	s->busy = false;
	r->busy--;
}

static void turn(struct run *r)
{
	int n = tapimg_loop_run(r->loop, true);

	if (n < 0) {
		errno = -n;
		die("the loop");
	}
}

static bool conflicts(const struct run *r, uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < r->depth; i++) {
		const struct tapimg_req *q = &r->slot[i].req;

		if (r->slot[i].busy && off < q->off + q->len && q->off < off + len)
			return true;
	}
	return false;
}

static struct slot *take(struct run *r, uint64_t off, uint64_t len)
{
	while (r->busy == r->depth || conflicts(r, off, len))
		turn(r);
	for (unsigned i = 0; i < r->depth; i++) {
		if (!r->slot[i].busy)
			return &r->slot[i];
	}
	abort();
}

/* Three pieces of uneven length; buffers of direct I/O stay aligned only by luck, and that is meant. */
static void fill(struct run *r, struct slot *s, uint64_t len, uint64_t at)
{
	uint64_t a = len > 8192 ? 4096 : len / 3, b = len > 8192 ? 512 : len / 2 - len / 3;

	s->buf = aligned_alloc(4096, (len + 4095) / 4096 * 4096 + 4096);
	if (!s->buf)
		die("memory");
	if (s->kind == 'w' || s->kind == 'W' || s->kind == 'c') {
		if (at > r->pool_len || len > r->pool_len - at) {
			errno = ERANGE;
			die("the pool");
		}
		memcpy(s->buf, r->pool + at, len);
	}
	s->iov[0] = (struct iovec){ s->buf, a };
	s->iov[1] = (struct iovec){ s->buf + a, b };
	s->iov[2] = (struct iovec){ s->buf + a + b, len - a - b };
	s->req.iov = s->iov;
	s->req.iovcnt = 3;
}

static void start(struct run *r, char kind, uint64_t off, uint64_t len, uint64_t at)
{
	struct slot *s = take(r, off, len);
	struct tapimg_req *q = &s->req;

	*q = (struct tapimg_req){ .off = off, .len = len, .done = done, .opaque = r };
	s->kind = kind;
	s->line = r->line;
	switch (kind) {
	case 'W':
		q->flags = TAPIMG_REQ_FUA;
		/* fall through */
	case 'w':
		q->op = TAPIMG_WRITE;
		fill(r, s, len, at);
		break;
	case 'c':
		q->op = TAPIMG_WRITE_COMPRESSED;
		fill(r, s, len, at);
		break;
	case 'v':
		q->op = TAPIMG_READ;
		if (off > r->oracle_len || len > r->oracle_len - off) {
			errno = ERANGE;
			die("the oracle");
		}
		fill(r, s, len, 0);
		break;
	case 'Z':
		q->flags = TAPIMG_REQ_MAY_UNMAP;
		/* fall through */
	case 'z':
		q->op = TAPIMG_ZERO;
		break;
	case 'd':
		q->op = TAPIMG_DISCARD;
		break;
	case 'f':
		q->op = TAPIMG_FLUSH;
		break;
	default:
		errno = EINVAL;
		die("unknown operation");
	}
	s->busy = true;
	r->busy++;
	tapimg_submit(r->img, q);
}

static unsigned mode_flags(const char *mode)
{
	unsigned flags = TAPIMG_RDWR;

	for (; *mode; mode++)
		switch (*mode) {
		case 'd': flags |= TAPIMG_DIRECT; break;
		case 'w': flags |= TAPIMG_WRITETHROUGH; break;
		case 'u': flags |= TAPIMG_UNSAFE; break;
		case 'm': flags |= TAPIMG_UNMAP; break;
		case 'r': flags &= ~TAPIMG_RDWR; break;
		}
	return flags;
}

static void read_list(struct run *r)
{
	char line[200], kind;
	uint64_t off, len, at;

	while (fgets(line, sizeof(line), stdin)) {
		off = len = at = 0;
		r->line++;
		if (sscanf(line, "%c %" SCNu64 " %" SCNu64 " %" SCNu64, &kind, &off, &len, &at) < 1)
			continue;
		start(r, kind, off, len, at);
	}
	while (r->busy)
		turn(r);
}

/* A tapimg_secret: the text given with -k. */
static int passphrase(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	size_t len = strlen(arg);

	if (len > ask->size)
		return -E2BIG;
	memcpy(ask->buf, arg, len);
	return (int)len;
}

int main(int argc, char **argv)
{
	struct run *r = calloc(1, sizeof(*r));
	struct tapimg_open_opts opts = { .flags = TAPIMG_RDWR };
	struct tapimg_err err = { 0 };
	int c;

	if (!r)
		die("memory");
	r->depth = 8;
	while ((c = getopt(argc, argv, "d:f:t:p:o:k:")) != -1)
		switch (c) {
		case 'd': r->depth = atoi(optarg); break;
		case 'f': opts.format = optarg; break;
		case 't': opts.flags = mode_flags(optarg); break;
		case 'k':
			opts.secret = passphrase;
			opts.secret_arg = optarg;
			break;
		case 'p': r->pool = map_file(optarg, &r->pool_len); break;
		case 'o': r->oracle = map_file(optarg, &r->oracle_len); break;
		default: return 2;
		}
	if (optind + 1 != argc || r->depth < 1 || r->depth > MAX_DEPTH)
		return 2;
	if (tapimg_loop_new(0, &r->loop, &err) ||
	    tapimg_open(r->loop, argv[optind], &opts, &r->img, &err)) {
		fprintf(stderr, "imgio: %s\n", err.text);
		return 1;
	}
	read_list(r);
	if (tapimg_close(r->img, &err)) {
		fprintf(stderr, "imgio: %s\n", err.text);
		r->failed++;
	}
	tapimg_loop_free(r->loop);
	c = r->failed ? 1 : 0;
	free(r);
	return c;
}
