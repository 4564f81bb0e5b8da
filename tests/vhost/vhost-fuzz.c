/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhost-fuzz.c - a hostile front end: messages and rings that no driver would make
 *
 *	vhost-fuzz [-s SEED] [-n COUNT] [-v] message|ring SOCKET
 *
 * message: COUNT connections, each with a random row of messages: valid ones in any order, fields and
 *	lengths changed, descriptors that are missing, of the wrong kind or too many, headers cut off.
 * ring: COUNT connections with working queues whose guest then writes nonsense: indices, links,
 *	loops, wild addresses, tables inside tables, sizes; it cuts its memory off, changes it while
 *	requests run, and spoils the in-flight area before it comes back.
 *
 * After every few connections a well-behaved one has to be served as ever: a request is read within
 * 20 s, else the program fails and names the seed.  Each iteration depends on SEED + its number only.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vu.h"

#define MEM (4ull << 20)
#define EVERY 8			/* iterations between two proofs of health */
#define SECTORS 2048

static uint64_t rnd;
static bool verbose;

static uint64_t next(void)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	rnd ^= rnd << 17;
	return rnd;
}

static unsigned below(unsigned n)
{
	return (next() >> 11) % n;
}

static bool one_in(unsigned n)
{
	return below(n) == 0;
}

static void seed_with(uint64_t seed)
{
	rnd = (seed + 1) * 0x9e3779b97f4a7c15ull;
	next();
	next();
}

/* A number that might hurt. */
static uint64_t number(void)
{
	static const uint64_t hard[] = { 0, 1, 15, 16, 127, 128, 255, 256, 512, 4095, 4096, 32768, 65535,
					 65536, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32,
					 VU_GPA - 1, VU_GPA + MEM - 1, VU_GPA + MEM, 1ull << 63,
					 ~0ull, ~0ull - 15, ~0ull / 512, 0x8000800080008000ull };

	switch (below(4)) {
	case 0: return hard[below(sizeof(hard) / sizeof(hard[0]))];
	case 1: return below(300);
	case 2: return VU_GPA + below(MEM);
	default: return next();
	}
}

static uint64_t address(void)
{
	return one_in(8) ? number() : VU_GPA + below(MEM);
}

/* ------------------------------------------------------------------ messages */

/* A descriptor of some kind. */
static int some_fd(struct vu *v)
{
	int pair[2], fd;

	switch (below(7)) {
	case 0: return dup(v->memfd);
	case 1: return eventfd(0, EFD_CLOEXEC);
	case 2: return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 3: return open("/", O_RDONLY | O_CLOEXEC);
	case 4:
		if (pipe2(pair, O_CLOEXEC))
			return -1;
		close(pair[0]);
		return pair[1];
	case 5:
		fd = memfd_create("small", MFD_CLOEXEC);
		if (ftruncate(fd, below(8192)) < 0)
			return fd;
		return fd;
	default: return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	}
}

static unsigned usual_size(uint32_t request)
{
	static const uint8_t size[] = { [5] = 40, [6] = 16, [9] = 40, [24] = 72, [25] = 13, [31] = 24,
					[32] = 24, [37] = 40, [38] = 40 };

	if (request < sizeof(size) && size[request])
		return size[request];
	return one_in(3) ? 0 : 8;
}

static void fill_payload(struct vu *v, uint32_t request, uint8_t *p, unsigned size)
{
	const uint64_t region[5] = { 1, VU_GPA, v->size, (uintptr_t)v->mem, 0 };
	unsigned i;

	memset(p, 0, size);
	if ((request == VU_SET_MEM_TABLE || request == VU_ADD_MEM_REG || request == VU_REM_MEM_REG) &&
	    size >= 40)
		memcpy(p, region, 40);
	if (request == VU_SET_VRING_ADDR && size >= 40) {
		const uint64_t a[5] = { below(2), (uintptr_t)v->mem, (uintptr_t)v->mem + 8192,
					(uintptr_t)v->mem + 4096, VU_GPA };

		memcpy(p, a, 40);
	}
	if (request == VU_SET_VRING_NUM && size >= 8)
		p[4] = 1 << below(8);
	if (request == VU_SET_VRING_ENABLE && size >= 8)
		p[4] = 1;
	if (request == VU_SET_FEATURES && size >= 8)
		memcpy(p, &v->features, 8);
	if (request == VU_SET_PROTOCOL_FEATURES && size >= 8)
		memcpy(p, &(uint64_t){ 0x1b22b }, 8);
	while (one_in(2) && size >= 8) {
		uint64_t n = number();

		i = below(size / 8) * 8 + (one_in(2) ? 4 : 0);
		memcpy(p + i, &n, size - i >= 8 && one_in(2) ? 8 : 4);
	}
}

static void random_message(struct vu *v)
{
	static const uint8_t usual[] = { 1, 2, 2, 3, 5, 5, 8, 8, 9, 9, 10, 11, 11, 12, 12, 12, 13, 14, 15,
					 16, 16, 17, 18, 18, 18, 21, 24, 25, 31, 32, 34, 36, 37, 38, 39,
					 40, 6, 7, 4 };
	uint32_t request = one_in(20) ? number() : usual[below(sizeof(usual))];
	uint32_t size = one_in(12) ? below(512) : usual_size(request);
	uint32_t head[3] = { request, 1 | (one_in(2) ? 8 : 0), size };
	uint8_t raw[12 + 520], *p = raw + 12;
	int fds[20];
	unsigned i, nfds = 0;
	struct iovec iov = { raw, 12 + size };
	union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(fds))]; } control;
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (one_in(30))
		head[1] = number();
	if (one_in(30))
		head[2] = number();
	memcpy(raw, head, 12);
	fill_payload(v, request, p, size);
	if (request == 5 || request == 6 || request == 32 || request == 37 || request == 21 ||
	    (request >= 12 && request <= 14) || one_in(15))
		nfds = one_in(10) ? below(20) : 1;
	for (i = 0; i < nfds; i++) {
		fds[i] = request == 5 || request == 37 ? dup(v->memfd) : some_fd(v);
		if (fds[i] < 0)
			break;
	}
	nfds = i;
	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	if (one_in(40))
		iov.iov_len = below(12 + size) + 1;	/* cut off: what follows is taken for the rest */
	if (verbose)
		fprintf(stderr, "message %u flags %#x size %u of %u, %u descriptors\n", head[0], head[1],
			head[2], size, nfds);
	if (sendmsg(v->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && verbose)
		fprintf(stderr, "not taken: %s\n", strerror(errno));
	for (i = 0; i < nfds; i++)
		close(fds[i]);
}

/* Answers are thrown away. */
static bool drain(struct vu *v)
{
	char buf[4096];
	ssize_t n;

	while ((n = recv(v->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		;
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void dial(struct vu *v, const char *path, unsigned nq)
{
	int ret;

	vu_init(v, path, MEM, nq, 64);
	ret = vu_dial(v, 20000);
	if (ret)
		vu_die("%s: %s", path, strerror(-ret));
}

static void fuzz_messages(const char *path)
{
	static struct vu v;
	unsigned i, n = 5 + below(60);

	dial(&v, path, 2);
	v.want &= one_in(2) ? ~VU_F_PACKED : ~0ull;
	if (one_in(3)) {
		vu_start(&v);		/* from a working state */
	} else {
		v.features = vu_ask64(&v, VU_GET_FEATURES);
	}
	for (i = 0; i < n; i++) {
		random_message(&v);
		if (one_in(4) && !drain(&v))
			break;
		if (one_in(16)) {
			static const uint64_t one = 1;

			next();
			memset(v.mem, next(), 4096 * below(4));
			if (write(v.q[0].kick, &one, 8) < 0)
				break;
		}
	}
	vu_exit(&v);
}

/* ------------------------------------------------------------------ rings */

/* A request that looks right, mostly. */
static void plausible(struct vu *v, unsigned q)
{
	static const uint32_t types[] = { 0, 0, 0, 4, 8, 11, 13, 1, 7, ~0u };
	uint32_t type = types[below(10)];
	uint64_t data = v->top + below(MEM - v->top - 65536);
	uint32_t len = one_in(4) ? below(60000) : 512 * (1 + below(64));

	vu_submit(v, q, type, one_in(5) ? number() : below(SECTORS), data, len, NULL);
}

static void spoil_desc(struct ddesc *d, unsigned num)
{
	switch (below(5)) {
	case 0: d->addr = address(); break;
	case 1: d->len = number(); break;
	case 2: d->flags = one_in(2) ? below(8) : number(); break;
	case 3: d->next = one_in(2) ? below(num) : number(); break;
	default:
		d->addr = address();
		d->len = below(70000);
		d->flags = below(8);
		d->next = below(num);
	}
}

static void spoil_ring(struct vu *v, unsigned qi)
{
	struct dring *d = &v->q[qi].ring;

	switch (below(7)) {
	case 0: spoil_desc(&d->desc[below(d->num)], d->num); break;
	case 1: spoil_desc(&d->tables[below(d->num) * DRING_INDIRECT + below(4)], 8); break;
	case 2: d->driver[1] += one_in(2) ? 1 + below(3) : number(); break;
	case 3: d->driver[2 + below(d->num)] = one_in(2) ? below(d->num) : number(); break;
	case 4: d->device[below(8)] = number(); break;
	case 5: v->mem[v->q[qi].slots_off + below(4096)] = number(); break;
	default: v->mem[v->q[qi].ring_off + below(dring_bytes(d->num))] = number();
	}
}

static void spoil_inflight(struct vu *v)
{
	uint8_t *p;
	unsigned i;

	if (v->inflight_fd < 0)
		return;
	p = mmap(NULL, v->inflight_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->inflight_fd, 0);
	if (p == MAP_FAILED)
		return;
	for (i = below(30); i; i--)
		p[below(v->inflight_size)] = number();
	p[8] = 1;		/* so that it is looked at */
	p[0] |= 4;
	munmap(p, v->inflight_size);
}

static void kick(struct vu *v, unsigned q)
{
	static const uint64_t one = 1;

	dring_publish(&v->q[q].ring);
	if (write(v->q[q].kick, &one, 8) < 0)
		return;
}

static void misbehave(struct vu *v)
{
	unsigned i, k, n = 1 + below(25);

	for (i = 0; i < n; i++) {
		unsigned q = below(v->nq);

		for (k = below(6); k; k--)
			plausible(v, q);
		for (k = below(4); k; k--)
			spoil_ring(v, q);
		kick(v, q);
		if (one_in(3))
			usleep(below(500));
		if (one_in(5))		/* while requests may be running */
			spoil_ring(v, q);
		if (one_in(40) && ftruncate(v->memfd, below(MEM)) == 0)
			return;		/* our own mapping is gone as well */
	}
}

/* The same guest comes back; step by step, for any of it may be refused. */
static void come_back(struct vu *v)
{
	struct { uint64_t size, offset; uint16_t queues, num; uint32_t pad; } area = {
		v->inflight_size, 0, v->nq, v->num, 0 };
	const uint64_t table[5] = { 1, VU_GPA, MEM, (uintptr_t)v->mem, 0 };
	const struct dring *d = &v->q[0].ring;
	const uint64_t addr[5] = { 0, (uintptr_t)d->desc, (uintptr_t)d->device, (uintptr_t)d->driver, 0 };
	const uint64_t zero = 0;
	uint32_t pair[2] = { 0, v->num };

	close(v->fd);
	if (vu_dial(v, 20000))
		_exit(1);
	v->features = vu_ask64(v, VU_GET_FEATURES) & v->want;
	v->protocol = 0x1b22b;
	vu_send(v, VU_SET_PROTOCOL_FEATURES, 0, &v->protocol, 8, NULL, 0);
	vu_send(v, VU_SET_FEATURES, 0, &v->features, 8, NULL, 0);
	vu_send(v, VU_SET_INFLIGHT_FD, 0, &area, sizeof(area), &v->inflight_fd, 1);
	vu_send(v, VU_SET_MEM_TABLE, 0, table, 40, &v->memfd, 1);
	vu_send(v, VU_SET_VRING_NUM, 0, pair, 8, NULL, 0);
	vu_send(v, VU_SET_VRING_ADDR, 0, addr, 40, NULL, 0);
	vu_send(v, VU_SET_VRING_KICK, 0, &zero, 8, &v->q[0].kick, 1);
	pair[1] = 1;
	vu_send(v, VU_SET_VRING_ENABLE, 0, pair, 8, NULL, 0);
}

static void fuzz_ring(const char *path)
{
	static struct vu v;

	dial(&v, path, 2);
	v.want = next() | VU_F_PROTOCOL | VU_BIT(32);
	v.want &= ~(one_in(2) ? VU_F_PACKED : 0);
	vu_start(&v);
	misbehave(&v);
	if (one_in(3) && lseek(v.memfd, 0, SEEK_END) == (off_t)MEM) {
		spoil_inflight(&v);
		come_back(&v);
		misbehave(&v);
	}
	vu_exit(&v);
}

/* ------------------------------------------------------------------ health */

static void health(const char *path, uint64_t seed)
{
	static struct vu v;
	uint64_t at;
	int ret;

	vu_init(&v, path, MEM, 1, 16);
	ret = vu_dial(&v, 20000);
	if (ret)
		vu_die("seed %llu: nobody listens any more: %s", (unsigned long long)seed, strerror(-ret));
	at = vu_alloc(&v, 4096);
	vu_start(&v);
	ret = vu_do(&v, 0, VU_IN, 0, at, 4096);
	if (ret)
		vu_die("seed %llu: a read is answered with %d", (unsigned long long)seed, ret);
	vu_exit(&v);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, count = 100, i;
	bool rings;
	int c;

	while ((c = getopt(argc, argv, "s:n:v")) != -1) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'n')
			count = strtoull(optarg, NULL, 0);
		else
			verbose = c == 'v';
	}
	if (optind + 2 != argc)
		vu_die("usage: vhost-fuzz [-s SEED] [-n COUNT] [-v] message|ring SOCKET");
	rings = !strcmp(argv[optind], "ring");
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < count; i++) {
		pid_t child;
		int status;

		/* a process of its own: it may break its own memory, or be refused */
		fflush(NULL);
		child = fork();
		if (child == 0) {
			seed_with(seed + i);
			signal(SIGBUS, SIG_DFL);
			alarm(60);
			if (!verbose && !freopen("/dev/null", "w", stderr))
				_exit(1);
			(rings ? fuzz_ring : fuzz_messages)(argv[optind + 1]);
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0)
			vu_die("fork: %s", strerror(errno));
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
			vu_die("seed %llu: the server does not answer", (unsigned long long)(seed + i));
		if (i % EVERY == EVERY - 1 || i + 1 == count)
			health(argv[optind + 1], seed + i);
	}
	printf("%llu %s iterations from seed %llu\n", (unsigned long long)count,
	       rings ? "ring" : "message", (unsigned long long)seed);
	return 0;
}
