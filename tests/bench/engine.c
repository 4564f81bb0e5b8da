/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * engine.c - what a cached 4 KiB request costs inside the library, without any I/O
 *
 *	engine [-n REQUESTS] [-r ROUNDS] [-s SIZE-IN-GIB]
 *
 * Three targets, random 4 KiB reads and overwrites at depth 32:
 *	seam	transfers straight at the null file: submission, queue and completion of the seam
 *	raw	requests on a raw image whose file is the null file
 *	qcow2	requests on a fully mapped qcow2 image: its metadata is real and cached before
 *		measuring, its data are answered like the null file
 * Prints nanoseconds a request (median, least, most of the rounds); "own" is what remains when the
 * seam's part is taken off.  Leaves out everything a kernel does.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image.h"

#define DEPTH 32
#define BLOCK 4096

struct bench;

struct lane {
	struct io io;			/* first: io_done() finds the lane by it */
	struct tapimg_req req;
	struct iovec iov;
	struct bench *bench;
};

struct bench {
	struct tapimg_loop *loop;
	struct tapimg *img;
	struct file *file;
	uint64_t blocks;		/* on the disk */
	uint64_t left, rnd;
	unsigned busy;
	enum tapimg_op op;
	struct lane lane[DEPTH];
	int error;
};

static uint64_t next_off(struct bench *b)
{
	b->rnd ^= b->rnd << 13;
	b->rnd ^= b->rnd >> 7;
	b->rnd ^= b->rnd << 17;
	return ((b->rnd >> 11) % b->blocks) * BLOCK;
}

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* -------------------------------------- a qcow2 file whose data cost nothing */

struct mapped {
	int fd;
	bool measuring;			/* from now on everything is data */
	uint64_t real;			/* transfers done while measuring: there must be none */
};

static void mapped_submit(struct io *io)
{
	struct mapped *m = io->file->priv;
	ssize_t n = io->len;

	if (m->measuring && io->len == BLOCK) {
		io_complete(io, 0);
		return;
	}
	m->real += m->measuring;
	if (io->op == IO_READ)
		n = preadv(m->fd, io->iov, io->iovcnt, io->off);
	else if (io->op == IO_WRITE)
		n = pwritev(m->fd, io->iov, io->iovcnt, io->off);
	io_complete(io, n < 0 ? -errno : n == (ssize_t)io->len ? 0 : -EIO);
}

static int mapped_truncate(struct file *f, uint64_t size)
{
	struct mapped *m = f->priv;

	return ftruncate(m->fd, size) ? -errno : 0;
}

static int mapped_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	*data = true;
	return 0;
}

static uint64_t mapped_allocated(struct file *f)
{
	return 0;
}

static void mapped_close(struct file *f)
{
	struct mapped *m = f->priv;

	close(m->fd);
}

static const struct file_ops mapped_ops = {
	.name = "mapped",
	.submit = mapped_submit,
	.truncate = mapped_truncate,
	.status = mapped_status,
	.allocated = mapped_allocated,
	.close = mapped_close,
};

/* --------------------------------------------------------------- measuring */

static void req_done(struct tapimg_req *req)
{
	struct bench *b = req->opaque;

	if (req->ret)
		b->error = req->ret;
	if (!b->left || b->error) {
		b->busy--;
		return;
	}
	b->left--;
	req->off = next_off(b);
	tapimg_submit(b->img, req);
}

static void io_done(struct io *io)
{
	struct lane *lane = (struct lane *)io;
	struct bench *b = lane->bench;

	if (io->ret)
		b->error = io->ret;
	if (!b->left || b->error) {
		b->busy--;
		return;
	}
	b->left--;
	io->off = next_off(b);
	file_submit(io);
}

static void start_lane(struct bench *b, struct lane *lane, bool seam)
{
	lane->bench = b;
	if (seam) {
		lane->io = (struct io){ .file = b->file, .op = IO_READ, .off = next_off(b), .len = BLOCK,
					.iov = &lane->iov, .iovcnt = 1, .done = io_done };
		if (b->op == TAPIMG_WRITE)
			lane->io.op = IO_WRITE;
		file_submit(&lane->io);
	} else {
		lane->req = (struct tapimg_req){ .op = b->op, .off = next_off(b), .len = BLOCK,
						 .iov = &lane->iov, .iovcnt = 1, .done = req_done,
						 .opaque = b };
		tapimg_submit(b->img, &lane->req);
	}
}

/* CPU nanoseconds a request, or a negative errno. */
static double measure(struct bench *b, uint64_t count, bool seam)
{
	double begin = now_ns();

	b->left = count - DEPTH;
	b->busy = DEPTH;
	b->error = 0;
	for (int i = 0; i < DEPTH; i++)
		start_lane(b, &b->lane[i], seam);
	while (b->busy && !b->error) {
		int n = tapimg_loop_run(b->loop, true);

		if (n < 0)
			return n;
	}
	return b->error ? b->error : (now_ns() - begin) / count;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Prints one line and returns the median; the process ends on an error. */
static double rounds(struct bench *b, const char *name, uint64_t count, int n, bool seam, double off)
{
	double took[64];

	measure(b, count / 10 + 2 * DEPTH, seam);
	for (int i = 0; i < n; i++) {
		took[i] = measure(b, count, seam);
		if (took[i] < 0) {
			fprintf(stderr, "engine: %s: %s\n", name, strerror((int)-took[i]));
			exit(1);
		}
	}
	qsort(took, n, sizeof(took[0]), compare_double);
	printf("%-6s %-6s %7.1f ns (%.1f to %.1f)", name, b->op == TAPIMG_READ ? "read" : "write",
	       took[n / 2], took[0], took[n - 1]);
	if (!seam)
		printf("  own %.1f ns", took[n / 2] - off);
	putchar('\n');
	return took[n / 2];
}

/* ------------------------------------------------------------------ targets */

static void check(int ret, const struct tapimg_err *err, const char *what)
{
	if (ret) {
		fprintf(stderr, "engine: %s: %s\n", what, err && err->text[0] ? err->text : strerror(-ret));
		exit(1);
	}
}

static void open_raw(struct bench *b, uint64_t size)
{
	const struct tapimg_open_opts opts = { .format = "raw", .flags = TAPIMG_RDWR };
	struct tapimg_err err = { 0 };
	struct file *f;

	check(file_open_null(b->loop, size, &f), NULL, "null file");
	check(image_open_file(b->loop, f, &opts, &b->img, &err), &err, "raw");
}

static void open_qcow2(struct bench *b, struct mapped *m, const char *path, uint64_t size)
{
	const struct tapimg_opt full = { "preallocation", "metadata" };
	const struct tapimg_create_opts create = { .format = "qcow2", .size = size, .opts = &full,
						   .nopts = 1 };
	const struct tapimg_open_opts opts = { .format = "qcow2", .flags = TAPIMG_RDWR };
	struct tapimg_err err = { 0 };
	struct stat st;
	struct file *f;
	char buf[BLOCK];

	check(tapimg_create(b->loop, path, &create, &err), &err, "create");
	m->fd = open(path, O_RDWR | O_CLOEXEC);
	if (m->fd < 0 || fstat(m->fd, &st))
		check(-errno, NULL, path);
	unlink(path);
	f = file_alloc(b->loop, &mapped_ops, path, FILE_RDWR);
	check(f ? 0 : -ENOMEM, NULL, "file");
	f->priv = m;
	f->size = f->logical_end = st.st_size;
	check(image_open_file(b->loop, f, &opts, &b->img, &err), &err, "qcow2");
	for (uint64_t off = 0; off < size; off += 1 << 16)
		check(tapimg_pread(b->img, buf, sizeof(buf), off), NULL, "warming up");
	m->measuring = true;
}

int main(int argc, char **argv)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct mapped m = { 0 };
	uint64_t count = 1000000, gib = 10;
	int n = 9, c;
	char path[200];
	double seam[2];

	while ((c = getopt(argc, argv, "n:r:s:")) != -1)
		switch (c) {
		case 'n': count = strtoull(optarg, NULL, 0); break;
		case 'r': n = atoi(optarg); break;
		case 's': gib = strtoull(optarg, NULL, 0); break;
		default: return 2;
		}
	if (!b || n < 1 || n > 64 || count < 100 || !gib)
		return 2;
	b->rnd = 88172645463325252ULL;
	b->blocks = (gib << 30) / BLOCK;
	check(tapimg_loop_new(1, &b->loop, NULL), NULL, "loop");
	for (int i = 0; i < DEPTH; i++)
		b->lane[i].iov = (struct iovec){ file_buf(BLOCK), BLOCK };

	check(file_open_null(b->loop, gib << 30, &b->file), NULL, "null file");
	for (int i = 0; i < 2; i++) {
		b->op = i ? TAPIMG_WRITE : TAPIMG_READ;
		seam[i] = rounds(b, "seam", count, n, true, 0);
	}
	file_close(b->file);
	open_raw(b, gib << 30);
	for (int i = 0; i < 2; i++) {
		b->op = i ? TAPIMG_WRITE : TAPIMG_READ;
		rounds(b, "raw", count, n, false, seam[i]);
	}
	check(tapimg_close(b->img, NULL), NULL, "close");
	snprintf(path, sizeof(path), "%s/tapimg-engine-%d.qcow2",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", getpid());
	open_qcow2(b, &m, path, gib << 30);
	for (int i = 0; i < 2; i++) {
		b->op = i ? TAPIMG_WRITE : TAPIMG_READ;
		rounds(b, "qcow2", count, n, false, seam[i]);
	}
	if (m.real) {
		fprintf(stderr, "engine: %" PRIu64 " transfers were not cached\n", m.real);
		return 1;
	}
	m.measuring = false;
	check(tapimg_close(b->img, NULL), NULL, "close");
	tapimg_loop_free(b->loop);
	for (int i = 0; i < DEPTH; i++)
		free(b->lane[i].iov.iov_base);
	free(b);
	return 0;
}
