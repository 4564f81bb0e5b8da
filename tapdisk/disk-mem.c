/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk-mem.c - disks without an image: null and ram
 *
 * null:SIZE answers without doing anything: reads leave the buffer as it is.
 *
 * ram:SIZE is memory of this process.  ram:NAME is the shared memory object of that name, which is
 * made if the option size says how large: several processes, and so several guests, may have it at
 * once and see each other's writes.  ram:/PATH begins with what the file holds; changes stay in memory.
 *
 * A flush of memory has nothing to do.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "disk-impl.h"
#include "err.h"
#include "opt.h"

static int check_range(const struct disk *d, const struct tapimg_req *req)
{
	if (req->op == TAPIMG_FLUSH)
		return 0;
	if (!checked_range(req->off, req->len, d->props.size))
		return -EINVAL;
	return req->op != TAPIMG_READ && d->props.read_only ? -EROFS : 0;
}

/* ------------------------------------------------------------------------ null */

static void null_submit(struct disk *d, struct disk_req *r)
{
	disk_complete(d, r, check_range(d, &r->req));
}

static int null_open(struct disk *d, const struct disk_config *c, struct tapimg_err *err)
{
	uint64_t size = c->size;

	if (!size && (opt_size(c->path, &size) || !size || size > INT64_MAX))
		return err_set(err, -EINVAL, "null:%s: a size is wanted, as in null:10G", c->path);
	d->props.size = size;
	d->props.opt_size = 4096;
	d->props.blank_reads = true;
	return 0;
}

static int null_resize(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	d->props.size = size;
	return 0;
}

static int null_close(struct disk *d, struct tapimg_err *err)
{
	d->props.blank_reads = false;
	return 0;
}

const struct disk_driver null_driver = {
	.name = "null",
	.open = null_open,
	.submit = null_submit,
	.resize = null_resize,
	.close = null_close,
};

/* ------------------------------------------------------------------------- ram */

static void ram_copy(uint8_t *mem, const struct tapimg_req *req)
{
	const struct iovec *v = req->iov;

	for (int i = 0; i < req->iovcnt; i++, v++) {
		if (req->op == TAPIMG_READ)
			memcpy(v->iov_base, mem, v->iov_len);
		else
			memcpy(mem, v->iov_base, v->iov_len);
		mem += v->iov_len;
	}
}

/* Whole pages are given back; the ends are overwritten. */
static int ram_zero(struct disk *d, const struct tapimg_req *req)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t end = req->off + req->len;
	uint64_t from = MIN(round_up(req->off, page), end), to = MAX(round_down(end, page), from);

	memset(d->mem + req->off, 0, from - req->off);
	memset(d->mem + to, 0, end - to);
	if (to > from && fallocate(d->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
				   (off_t)(to - from)) < 0)
		memset(d->mem + from, 0, to - from);
	return 0;
}

static int ram_do(struct disk *d, const struct tapimg_req *req)
{
	uint64_t sum = 0;
	int ret = check_range(d, req);

	if (ret)
		return ret;
	switch (req->op) {
	case TAPIMG_READ:
	case TAPIMG_WRITE:
		for (int i = 0; i < req->iovcnt; i++)
			sum += req->iov[i].iov_len;
		if (sum != req->len)
			return -EINVAL;
		ram_copy(d->mem + req->off, req);
		return 0;
	case TAPIMG_DISCARD:
		return d->props.discard ? ram_zero(d, req) : 0;
	case TAPIMG_ZERO:
		return ram_zero(d, req);
	case TAPIMG_FLUSH:
		return 0;
	default:
		return -ENOTSUP;
	}
}

static void ram_submit(struct disk *d, struct disk_req *r)
{
	disk_complete(d, r, ram_do(d, &r->req));
}

/* Copies the file at @path into the memory. */
static int ram_load(int fd, int memfd, uint64_t size, const char *path, struct tapimg_err *err)
{
	uint64_t done = 0;

	while (done < size) {
		ssize_t n = sendfile(memfd, fd, NULL, MIN(size - done, GiB));

		if (n <= 0)
			return err_errno(err, n < 0 ? -errno : -EIO, "%s: reading", path);
		done += (uint64_t)n;
	}
	return 0;
}

static int ram_from_file(struct disk *d, const char *path, uint64_t *size, struct tapimg_err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return err_errno(err, -errno, "%s", path);
	d->memfd = memfd_create("tapdisk", MFD_CLOEXEC);
	if (fstat(fd, &st) < 0 || d->memfd < 0 ||
	    ftruncate(d->memfd, (off_t)MAX((uint64_t)st.st_size, *size)) < 0) {
		ret = err_errno(err, -errno, "%s", path);
	} else {
		*size = MAX((uint64_t)st.st_size, *size);
		ret = ram_load(fd, d->memfd, (uint64_t)st.st_size, path, err);
	}
	close(fd);
	return ret;
}

/* A shared object: as it is, or made @size bytes long. */
static int ram_shared(struct disk *d, const char *path, uint64_t *size, struct tapimg_err *err)
{
	int flags = d->props.read_only && !*size ? O_RDONLY : O_RDWR | (*size ? O_CREAT : 0);
	char name[256];
	struct stat st;

	if (strchr(path, '/') || (size_t)snprintf(name, sizeof(name), "/%s", path) >= sizeof(name))
		return err_set(err, -EINVAL, "ram:%s: no name of a shared memory object", path);
	d->memfd = shm_open(name, flags | O_CLOEXEC, 0600);
	if (d->memfd < 0)
		return err_errno(err, -errno, "shared memory %s%s", name,
				 errno == ENOENT ? " (the option size makes it)" : "");
	if (fstat(d->memfd, &st) < 0)
		return err_errno(err, -errno, "shared memory %s", name);
	if (!st.st_size && *size && ftruncate(d->memfd, (off_t)*size) < 0)
		return err_errno(err, -errno, "shared memory %s", name);
	if (st.st_size && *size && (uint64_t)st.st_size != *size)
		return err_set(err, -EEXIST, "shared memory %s has %llu bytes", name,
			       (unsigned long long)st.st_size);
	*size = st.st_size ? (uint64_t)st.st_size : *size;
	return 0;
}

static int ram_anonymous(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	d->memfd = memfd_create("tapdisk", MFD_CLOEXEC);
	if (d->memfd < 0 || ftruncate(d->memfd, (off_t)size) < 0)
		return err_errno(err, -errno, "%llu bytes of memory", (unsigned long long)size);
	return 0;
}

static int ram_map(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	int prot = PROT_READ | (d->props.read_only ? 0 : PROT_WRITE);
	void *mem;

	if (!size)
		return err_set(err, -EINVAL, "ram:%s: it is empty", d->cfg.path);
	mem = mmap(NULL, size, prot, MAP_SHARED | MAP_NORESERVE, d->memfd, 0);
	if (mem == MAP_FAILED)
		return err_errno(err, -errno, "%llu bytes of memory", (unsigned long long)size);
	d->mem = mem;
	d->props.size = size;
	d->props.opt_size = 4096;
	return 0;
}

static int ram_close(struct disk *d, struct tapimg_err *err)
{
	if (d->mem)
		munmap(d->mem, d->props.size);
	d->mem = NULL;
	if (d->memfd >= 0)
		close(d->memfd);
	d->memfd = -1;
	return 0;
}

static int ram_open(struct disk *d, const struct disk_config *c, struct tapimg_err *err)
{
	uint64_t size = c->size;
	int ret;

	if (strchr(c->path, '/'))
		ret = ram_from_file(d, c->path, &size, err);
	else if (!size && !opt_size(c->path, &size) && size && size <= INT64_MAX)
		ret = ram_anonymous(d, size, err);
	else
		ret = ram_shared(d, c->path, &size, err);
	if (!ret)
		ret = ram_map(d, size, err);
	if (ret)
		ram_close(d, NULL);
	return ret;
}

static int ram_resize(struct disk *d, uint64_t size, struct tapimg_err *err)
{
	void *mem;

	if (!size || size > INT64_MAX)
		return err_set(err, -EINVAL, "a size of %llu bytes", (unsigned long long)size);
	if (ftruncate(d->memfd, (off_t)size) < 0)
		return err_errno(err, -errno, "%llu bytes of memory", (unsigned long long)size);
	mem = mremap(d->mem, d->props.size, size, MREMAP_MAYMOVE);
	if (mem == MAP_FAILED)
		return err_errno(err, -errno, "%llu bytes of memory", (unsigned long long)size);
	d->mem = mem;
	d->props.size = size;
	return 0;
}

const struct disk_driver ram_driver = {
	.name = "ram",
	.open = ram_open,
	.submit = ram_submit,
	.resize = ram_resize,
	.close = ram_close,
};
