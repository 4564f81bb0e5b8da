/* SPDX-License-Identifier: BSD-2-Clause */
/* cbt.c - keeping a log of changed blocks; see cbt.h */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbt.h"
#include "checked.h"
#include "err.h"

#define CBT_HEADER 48
#define CBT_SIZE 40		/* u64, in the machine's order */
#define CBT_SHIFT 16

struct cbt {
	uint8_t *map;		/* header and bits */
	uint64_t len;
	uint64_t size;		/* of the disk */
};

static int cbt_map(struct cbt *log, int fd, const char *path, uint64_t size, struct tapimg_err *err)
{
	uint64_t end = CBT_HEADER + div_up(div_up(size, 1ULL << CBT_SHIFT), 8);
	uint64_t logged;
	struct stat st;
	void *map;

	if (fstat(fd, &st) < 0)
		return err_errno(err, -errno, "%s", path);
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < end)
		return err_set(err, -EINVAL, "%s: %llu bytes are too few for a log of %llu bytes", path,
			       (unsigned long long)st.st_size, (unsigned long long)size);
	map = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return err_errno(err, -errno, "%s", path);
	memcpy(&logged, (uint8_t *)map + CBT_SIZE, sizeof(logged));
	if (logged < size) {
		munmap(map, end);
		return err_set(err, -EINVAL, "%s: it is the log of a disk of %llu bytes, not %llu", path,
			       (unsigned long long)logged, (unsigned long long)size);
	}
	*log = (struct cbt){ map, end, size };
	return 0;
}

int cbt_open(const char *path, uint64_t size, struct cbt **out, struct tapimg_err *err)
{
	struct cbt *log = malloc(sizeof(*log));
	int fd = log ? open(path, O_RDWR | O_CLOEXEC) : -1;
	int ret;

	if (fd < 0) {
		ret = err_errno(err, log ? -errno : -ENOMEM, "%s", path);
	} else {
		ret = cbt_map(log, fd, path, size, err);
		close(fd);
	}
	if (ret)
		free(log);
	else
		*out = log;
	return ret;
}

void cbt_mark(struct cbt *log, uint64_t off, uint64_t len)
{
	uint64_t bit;

	if (!len || !checked_range(off, len, log->size))
		return;
	for (bit = off >> CBT_SHIFT; bit <= (off + len - 1) >> CBT_SHIFT; bit++)
		log->map[CBT_HEADER + bit / 8] |= (uint8_t)(1 << (bit % 8));
}

void cbt_close(struct cbt *log)
{
	if (!log)
		return;
	msync(log->map, log->len, MS_SYNC);
	munmap(log->map, log->len);
	free(log);
}
