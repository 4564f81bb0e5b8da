/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guest-io.c - what a guest does with its disks; static, and the first process of a test's kernel
 *
 *	/init			loads the modules of /modules, works on vda, vdb, ... in turn, then on
 *				nbd0, which the kernel's own NBD client serves, powers off
 *	guest-io model FILE	makes the file that each disk has to equal afterwards
 *
 * The work on a disk: patterns in large and small writes past the page cache, overwrites, discards and
 * zeroed ranges, flushes, everything read back and compared with a copy in memory.  Every write
 * depends on the position in the row only, so all disks end the same.  A line for each
 * disk tells PASS or what went wrong.  The disk called "grow" is then waited for to become twice as large.
 *
 * The NBD client has no network: /dev/vport0p1 is a wire to the server, and two processes carry bytes
 * between it and the socket that the kernel wants.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <endian.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIZE (24u << 20)
#define BIG (256u << 10)
#define STEPS 400

static uint8_t *model, *buf;
static int fd = -1;		/* -1: only the model is made */
static uint64_t rnd;
static unsigned flushes;

static unsigned below(unsigned n)
{
	rnd ^= rnd << 13;
	rnd ^= rnd >> 7;
	rnd ^= rnd << 17;
	return (rnd >> 11) % n;
}

static int fail(const char *fmt, ...)
{
	va_list ap;

	printf("guest: FAIL ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(": %s\n", strerror(errno));
	return -1;
}

static int put(unsigned off, unsigned len, unsigned seed)
{
	unsigned i;

	for (i = 0; i < len; i += 4) {
		uint32_t w = seed * 2654435761u + off + i;

		memcpy(buf + i, &w, 4);
	}
	memcpy(model + off, buf, len);
	if (fd >= 0 && pwrite(fd, buf, len, off) != (ssize_t)len)
		return fail("write of %u at %u", len, off);
	return 0;
}

static int check(unsigned off, unsigned len)
{
	if (fd < 0)
		return 0;
	memset(buf, 0xa5, len);
	if (pread(fd, buf, len, off) != (ssize_t)len)
		return fail("read of %u at %u", len, off);
	errno = 0;
	return memcmp(buf, model + off, len) ? fail("contents at %u+%u", off, len) : 0;
}

static int ranged(unsigned long request, unsigned off, unsigned len)
{
	uint64_t range[2] = { off, len };

	if (fd >= 0 && ioctl(fd, request, range))
		return fail("ioctl %lx at %u+%u", request, off, len);
	return 0;
}

static int flush(void)
{
	flushes++;
	return fd >= 0 && fsync(fd) ? fail("fsync") : 0;
}

static int step(unsigned i)
{
	unsigned len = 4096 * (1 + below(16)), off = 4096 * below((SIZE - len) / 4096);

	switch (below(12)) {
	case 0:
		memset(model + off, 0, len);
		return ranged(BLKZEROOUT, off, len);
	case 1:		/* contents are anything afterwards: written again at once */
		return ranged(BLKDISCARD, off, len) || put(off, len, i);
	case 2:
		return flush();
	case 3:
	case 4:
	case 5:
		return check(off, len);
	default:
		return put(off, len, i);
	}
}

static int work(void)
{
	unsigned i;

	rnd = 88172645463325252ull;
	memset(model, 0, SIZE);
	for (i = 0; i < SIZE / 2 / BIG; i++)
		if (put(i * BIG, BIG, i))
			return -1;
	if (flush())
		return -1;
	for (i = 0; i < STEPS; i++)
		if (step(i))
			return -1;
	if (flush())
		return -1;
	for (i = 0; i < SIZE / BIG; i++)
		if (check(i * BIG, BIG))
			return -1;
	return 0;
}

/* ------------------------------------------------------------------ being the first process */

static void read_line(const char *path, char *out, size_t len)
{
	int f = open(path, O_RDONLY);
	ssize_t n = f < 0 ? 0 : read(f, out, len - 1);

	out[n > 0 ? n : 0] = 0;
	out[strcspn(out, "\n")] = 0;
	if (f >= 0)
		close(f);
}

/* Which needs which differs between kernels: again and again until none can be added. */
static void load_modules(void)
{
	char path[300], line[200];
	int round;

	for (round = 0; round < 6; round++) {
		FILE *list = fopen("/modules/order", "r");

		while (list && fgets(line, sizeof(line), list)) {
			int m;

			line[strcspn(line, "\n")] = 0;
			snprintf(path, sizeof(path), "/modules/%s", line);
			m = open(path, O_RDONLY);
			if (m < 0 || (syscall(SYS_finit_module, m, "", 0) && errno != EEXIST && round == 5))
				fail("module %s", line);
			close(m);
		}
		if (list)
			fclose(list);
	}
}

/* The device says that it is larger, and is. */
static void wait_for_growth(const char *dev)
{
	uint64_t size = 0, want = 2ull * SIZE;
	int i;

	printf("guest: %s waits for another size\n", dev);
	for (i = 0; i < 1000 && !ioctl(fd, BLKGETSIZE64, &size) && size != want; i++)
		usleep(20000);
	memset(buf, 0x5a, 4096);
	if (size != want || pwrite(fd, buf, 4096, want - 4096) != 4096 || fsync(fd)) {
		fail("%s has %llu bytes", dev, (unsigned long long)size);
		return;
	}
	memset(buf, 0, 4096);
	if (pread(fd, buf, 4096, want - 4096) != 4096 || buf[0] != 0x5a || buf[4095] != 0x5a)
		fail("%s: what was written at the new end", dev);
	else if (!ranged(BLKZEROOUT, want - 4096, 4096))
		printf("guest: GROWN %s\n", dev);
}

static void try_disk(char letter)
{
	char dev[40], path[120], cache[40], serial[40], discard[40];
	uint64_t size = 0;
	int i;

	snprintf(dev, sizeof(dev), "/dev/vd%c", letter);
	for (i = 0; i < 100 && (fd = open(dev, O_RDWR | O_DIRECT)) < 0; i++)
		usleep(20000);
	if (fd < 0)
		return;
	snprintf(path, sizeof(path), "/sys/block/vd%c/queue/write_cache", letter);
	read_line(path, cache, sizeof(cache));
	snprintf(path, sizeof(path), "/sys/block/vd%c/queue/discard_max_bytes", letter);
	read_line(path, discard, sizeof(discard));
	snprintf(path, sizeof(path), "/sys/block/vd%c/serial", letter);
	read_line(path, serial, sizeof(serial));
	if (ioctl(fd, BLKGETSIZE64, &size) || size != SIZE)
		fail("vd%c: size %llu", letter, (unsigned long long)size);
	printf("guest: vd%c serial=%s cache=%s discard=%s\n", letter, serial, cache, discard);
	flushes = 0;
	if (work() == 0)
		printf("guest: PASS vd%c serial=%s flushes=%u\n", letter, serial, flushes);
	if (!strcmp(serial, "grow"))
		wait_for_growth(dev + 5);
	close(fd);
}

/* ------------------------------------------------------------------ the kernel's NBD client */

static int all(int f, void *p, size_t len, int out)
{
	uint8_t *at = p;

	while (len) {
		ssize_t n = out ? write(f, at, len) : read(f, at, len);

		if (n <= 0)
			return -1;
		at += n;
		len -= n;
	}
	return 0;
}

static void carry(int from, int to)
{
	static uint8_t bytes[65536];
	ssize_t n;

	if (fork())
		return;
	for (;;) {
		n = read(from, bytes, sizeof(bytes));
		if (n > 0 && !all(to, bytes, n, 1))
			continue;
		if (n < 0 && errno != EINTR)
			_exit(1);
		usleep(10000);		/* nobody at the other end of the wire yet */
	}
}

/* Fixed newstyle, GO for the default export. */
static int shake_hands(int s, uint64_t *size, uint16_t *flags)
{
	struct { uint32_t client; uint64_t magic; uint32_t opt, len; uint8_t none[6]; }
		__attribute__((packed)) go = { htobe32(3), htobe64(0x49484156454F5054), htobe32(7),
					       htobe32(6), { 0 } };
	struct { uint64_t magic; uint32_t opt, type, len; } __attribute__((packed)) r;
	struct { uint16_t type; uint64_t size; uint16_t flags; } __attribute__((packed)) info;
	uint8_t hello[18], rest[256];

	if (all(s, hello, sizeof(hello), 0) || memcmp(hello, "NBDMAGICIHAVEOPT", 16) ||
	    all(s, &go, sizeof(go), 1))
		return fail("NBD: no greeting");
	*size = 0;
	for (;;) {
		if (all(s, &r, sizeof(r), 0) || be32toh(r.len) > sizeof(rest) ||
		    all(s, rest, be32toh(r.len), 0) || be32toh(r.type) >> 31)
			return fail("NBD: option refused");
		if (be32toh(r.type) == 1)
			return *size ? 0 : fail("NBD: no size");
		memcpy(&info, rest, sizeof(info));
		if (be32toh(r.type) == 3 && be32toh(r.len) == sizeof(info) && !info.type) {
			*size = be64toh(info.size);
			*flags = be16toh(info.flags);
		}
	}
}

static int connect_nbd(int dev, int s)
{
	uint64_t size = 0;
	uint16_t flags = 0;

	if (shake_hands(s, &size, &flags))
		return -1;
	printf("guest: nbd0 size=%llu flags=%x\n", (unsigned long long)size, flags);
	if (ioctl(dev, NBD_SET_BLKSIZE, 4096ul) || ioctl(dev, NBD_SET_SIZE_BLOCKS, size / 4096) ||
	    ioctl(dev, NBD_SET_FLAGS, (unsigned long)flags) || ioctl(dev, NBD_SET_TIMEOUT, 60ul) ||
	    ioctl(dev, NBD_SET_SOCK, s))
		return fail("nbd0: set up");
	if (!fork()) {
		ioctl(dev, NBD_DO_IT);		/* until the end */
		_exit(0);
	}
	return 0;
}

static void try_nbd(void)
{
	int wire = open("/dev/vport0p1", O_RDWR), dev = open("/dev/nbd0", O_RDWR), pair[2], i;
	uint64_t size = 0;

	if (wire < 0)
		return;
	if (dev < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) {
		fail("nbd0");
		return;
	}
	carry(wire, pair[1]);
	carry(pair[1], wire);
	if (connect_nbd(dev, pair[0]))
		return;
	fd = open("/dev/nbd0", O_RDWR | O_DIRECT);
	for (i = 0; i < 250 && !ioctl(fd, BLKGETSIZE64, &size) && size != SIZE; i++)
		usleep(20000);
	flushes = 0;
	if (size != SIZE)
		fail("nbd0: size %llu", (unsigned long long)size);
	else if (work() == 0)
		printf("guest: PASS nbd0 flushes=%u\n", flushes);
	close(fd);
	ioctl(dev, NBD_DISCONNECT);
	usleep(300000);		/* the last words are on their way */
}

static int first_process(void)
{
	char letter;

	mount("none", "/dev", "devtmpfs", 0, NULL);
	mount("none", "/sys", "sysfs", 0, NULL);
	mount("none", "/proc", "proc", 0, NULL);
	if (!freopen("/dev/console", "w", stdout))
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	load_modules();
	printf("guest: up\n");
	for (letter = 'a'; letter <= 'j'; letter++) {
		struct stat st;
		char dev[20];

		snprintf(dev, sizeof(dev), "/dev/vd%c", letter);
		if (letter != 'a' && stat(dev, &st))
			break;
		try_disk(letter);
	}
	try_nbd();
	printf("guest: end\n");
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}

int main(int argc, char **argv)
{
	int out;

	if (posix_memalign((void **)&buf, 4096, BIG) || !(model = malloc(SIZE)))
		return 1;
	if (getpid() == 1)
		return first_process();
	if (argc != 3 || strcmp(argv[1], "model"))
		return 2;
	if (work())
		return 1;
	out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	return out < 0 || write(out, model, SIZE) != (ssize_t)SIZE;
}
