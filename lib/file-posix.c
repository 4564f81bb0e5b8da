/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file-posix.c - the backend for regular files and block devices
 *
 * O_DIRECT files go through the kernel's asynchronous I/O.  Buffered ones are read and written at
 * once in submit() as far as that is a copy from or to the page cache, which is cheaper than any way
 * of doing it elsewhere; reads that have to wait for the disk go to helper threads.  On tmpfs O_DIRECT
 * changes nothing but one thing: its asynchronous I/O is the same copy inside io_submit, so that small
 * transfers asked for as direct share one system call a turn (4 KiB each by itself 2.5 us, 8 at once
 * 1.4 us where a system call costs 1.1).  What blocks in the kernel (fsync, fallocate, discard) runs on
 * helper threads; on tmpfs there is nothing to sync.
 * (IOCB_CMD_FDSYNC would save the thread, but the kernel's worker that runs it has to wait for its
 * turn on a busy machine: 4 KiB write and flush took 5 to 7 ms that way, 0.1 to 3 ms this way.)
 *
 * What a file or device has refused as unsupported is remembered and not tried again.  The flags for
 * that are set by helper threads, only ever to true, and cost a system call when seen late.
 *
 * A file that was created is durable only with its directory entry: the first flush syncs that too.
 *
 * Locks are in file-lock.c.
 */
#include <fcntl.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checked.h"
#include "file-posix.h"
#include "loop-impl.h"

#define BATCHED (32 * 1024)		/* transfers on tmpfs up to here share a system call */
#define HELPED_WRITE (128 * 1024)	/* buffered writes from here on run on helper threads */

struct posix {
	int fd;
	bool direct;			/* through the kernel's asynchronous I/O */
	bool tmpfs, created;
	bool batched;			/* tmpfs, opened as direct */
	bool no_nowait;			/* RWF_NOWAIT is not known here */
	bool no_zero_range, no_punch, no_discard;	/* atomic */
	/* status: the last answer, good as long as f->wseq is st_seq and nothing is in flight */
	uint64_t st_start, st_end, st_seq;
	bool st_data;
};

struct posix_op {			/* io->priv of an O_DIRECT transfer */
	struct aio_op aio;
};

struct posix_job {			/* io->priv of what runs on a helper thread */
	struct work work;
	uint64_t size;			/* of the file, at submission */
	int ret;
};

_Static_assert(sizeof(struct posix_op) <= sizeof(((struct io *)0)->priv), "struct io is too small");
_Static_assert(sizeof(struct posix_job) <= sizeof(((struct io *)0)->priv), "struct io is too small");

static struct io *op_io(struct posix_op *op)
{
	return (struct io *)((char *)op - offsetof(struct io, priv));
}

static struct io *job_io(struct posix_job *job)
{
	return (struct io *)((char *)job - offsetof(struct io, priv));
}

static bool flag_get(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static void flag_set(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_RELAXED);
}

static bool is_notsup(int ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENOTTY || ret == -EINVAL ||
	       ret == -ENODEV;
}

/* ------------------------------------------------------------------ reading and writing */

/*
 * The end of the file came before the end of a read.  Beyond the size the front knows of that is
 * as it should be; before it, somebody has cut the file.
 */
static int read_eof(struct io *io)
{
	int i;

	if (io->off < io->file->size)
		return -EIO;
	for (i = 0; i < io->iovcnt; i++)
		memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
	return 0;
}

/* Zeroes what lies behind the first n bytes. */
static void read_pad(struct io *io, uint64_t n)
{
	int i;

	for (i = 0; i < io->iovcnt; i++) {
		size_t len = io->iov[i].iov_len, keep = MIN(n, len);

		memset((char *)io->iov[i].iov_base + keep, 0, len - keep);
		n -= keep;
	}
}

/* What a transfer that moved `res` bytes is to the front. */
static int rw_result(struct io *io, int64_t res)
{
	if (res == (int64_t)io->len)
		return 0;
	if (res < 0)
		return res;
	if (io->op == IO_WRITE)
		return res ? res : -ENOSPC;
	if (!res)
		return read_eof(io);
	if (io->off + res < io->file->size)
		return res;
	read_pad(io, res);
	return 0;
}

static void direct_done(struct aio_op *aio, long res)
{
	struct io *io = op_io(container_of(aio, struct posix_op, aio));

	if (res == (long)io->len)
		io_complete_now(io, 0);
	else
		io_complete_now(io, rw_result(io, res));
}

static void direct_rw(struct posix *p, struct io *io)
{
	struct posix_op *op = (struct posix_op *)io->priv;
	struct iocb *cb = &op->aio.iocb;
	bool write = io->op == IO_WRITE;

	memset(cb, 0, sizeof(*cb));
	cb->aio_fildes = p->fd;
	cb->u.c.offset = io->off;
	if (io->iovcnt == 1) {
		cb->aio_lio_opcode = write ? IO_CMD_PWRITE : IO_CMD_PREAD;
		cb->u.c.buf = io->iov[0].iov_base;
		cb->u.c.nbytes = io->len;
	} else {
		cb->aio_lio_opcode = write ? IO_CMD_PWRITEV : IO_CMD_PREADV;
		cb->u.c.buf = (void *)io->iov;
		cb->u.c.nbytes = io->iovcnt;
	}
	op->aio.done = direct_done;
	loop_aio(io->file->loop, &op->aio);
}

static void submit_job(struct io *io);

/* One buffered system call. @flags: RWF_*. Bytes or negative errno. */
static int64_t buffered_call(struct posix *p, const struct io *io, int flags)
{
	ssize_t res;

	do {
		if (io->op == IO_WRITE)
			res = io->iovcnt == 1 ?
			      pwrite(p->fd, io->iov->iov_base, io->len, io->off) :
			      pwritev(p->fd, io->iov, io->iovcnt, io->off);
		else if (flags)
			res = preadv2(p->fd, io->iov, io->iovcnt, io->off, flags);
		else
			res = io->iovcnt == 1 ?
			      pread(p->fd, io->iov->iov_base, io->len, io->off) :
			      preadv(p->fd, io->iov, io->iovcnt, io->off);
	} while (res < 0 && errno == EINTR);
	return res < 0 ? -errno : res;
}

static int posix_read_now(struct file *f, void *buf, uint64_t len, uint64_t off)
{
	struct posix *p = f->priv;
	struct iovec iov = { buf, len };
	ssize_t res;

	if (p->direct || (p->no_nowait && !p->tmpfs))
		return -EAGAIN;
	res = p->tmpfs ? pread(p->fd, buf, len, off) : preadv2(p->fd, &iov, 1, off, RWF_NOWAIT);
	return res == (ssize_t)len ? 0 : -EAGAIN;
}

/*
 * Reads what is in the page cache.  What is not would stop the loop for as long as the disk takes,
 * so that goes to a helper thread, unless the kernel cannot tell.
 */
static void buffered_rw(struct posix *p, struct io *io)
{
	int64_t res;

	if (io->op == IO_READ && !p->no_nowait) {
		res = buffered_call(p, io, RWF_NOWAIT);
		if (res == (int64_t)io->len) {
			io_complete(io, 0);
			return;
		}
		if (res >= 0 || res == -EAGAIN) {
			submit_job(io);		/* all of it: what was read is cached */
			return;
		}
		p->no_nowait = true;
	}
	io_complete(io, rw_result(io, buffered_call(p, io, 0)));
}

/* ------------------------------------------------------------------ jobs of helper threads */

static int do_fallocate(int fd, int mode, uint64_t off, uint64_t len)
{
	int ret;

	do
		ret = fallocate(fd, mode, off, len);
	while (ret < 0 && errno == EINTR);
	return ret < 0 ? -errno : 0;
}

/* Punches a hole, and remembers if that cannot be done. */
static int punch(struct posix *p, uint64_t off, uint64_t len)
{
	int ret;

	if (flag_get(&p->no_punch))
		return -ENOTSUP;
	ret = do_fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
	if (!is_notsup(ret))
		return ret;
	flag_set(&p->no_punch);
	return -ENOTSUP;
}

static int zero_range(struct posix *p, int mode, uint64_t off, uint64_t len)
{
	int ret;

	if (flag_get(&p->no_zero_range))
		return -ENOTSUP;
	ret = do_fallocate(p->fd, FALLOC_FL_ZERO_RANGE | mode, off, len);
	if (!is_notsup(ret))
		return ret;
	flag_set(&p->no_zero_range);
	return -ENOTSUP;
}

/* A hole, and a longer file if the range lies beyond its end. */
static int zero_by_hole(struct posix *p, uint64_t off, uint64_t len, uint64_t size)
{
	uint64_t end = off + len;
	int ret = 0;

	if (off < size)
		ret = punch(p, off, MIN(end, size) - off);
	if (!ret && end > size && ftruncate(p->fd, end) < 0)
		ret = -errno;
	return ret;
}

static int file_do_zero(struct posix *p, const struct io *io, uint64_t size)
{
	int ret;

	if (io->flags & IO_MAY_UNMAP) {
		ret = zero_by_hole(p, io->off, io->len, size);
		if (ret != -ENOTSUP)
			return ret;
	}
	ret = zero_range(p, 0, io->off, io->len);
	if (ret != -ENOTSUP)
		return ret;
	/* tmpfs: the space is to stay, so it is allocated again */
	ret = zero_by_hole(p, io->off, io->len, size);
	if (!ret)
		do_fallocate(p->fd, 0, io->off, io->len);
	return ret;
}

/* For devices the kernel's two modes differ: only the hole never falls back to slow writing. */
static int dev_do_zero(struct posix *p, const struct io *io)
{
	int ret;

	if (io->flags & (IO_MAY_UNMAP | IO_NO_FALLBACK)) {
		ret = punch(p, io->off, io->len);
		if (ret != -ENOTSUP)
			return ret;
	}
	if (io->flags & IO_NO_FALLBACK)
		return -ENOTSUP;
	return zero_range(p, FALLOC_FL_KEEP_SIZE, io->off, io->len);
}

static int do_discard(struct posix *p, const struct io *io)
{
	uint64_t range[2] = { io->off, io->len };

	if (!io->file->block_dev)
		return punch(p, io->off, io->len);
	if (flag_get(&p->no_discard))
		return -ENOTSUP;
	if (ioctl(p->fd, BLKDISCARD, range) == 0)
		return 0;
	if (!is_notsup(-errno))
		return -errno;
	flag_set(&p->no_discard);
	return -ENOTSUP;
}

static int do_flush(struct posix *p, const struct file *f)
{
	char *copy;
	int dirfd;

	if (fdatasync(p->fd) < 0 && errno != EROFS)
		return -errno;
	if (!flag_get(&p->created))
		return 0;
	copy = strdup(f->name);
	dirfd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	free(copy);
	if (dirfd >= 0) {
		if (fsync(dirfd) == 0)
			__atomic_store_n(&p->created, false, __ATOMIC_RELAXED);
		close(dirfd);
	}
	return 0;
}

static void job_run(struct work *w)
{
	struct posix_job *job = container_of(w, struct posix_job, work);
	struct io *io = job_io(job);
	struct posix *p = io->file->priv;

	if (io->op == IO_READ || io->op == IO_WRITE)
		job->ret = rw_result(io, buffered_call(p, io, 0));
	else if (io->op == IO_FLUSH)
		job->ret = do_flush(p, io->file);
	else if (io->op == IO_DISCARD)
		job->ret = do_discard(p, io);
	else if (io->file->block_dev)
		job->ret = dev_do_zero(p, io);
	else
		job->ret = file_do_zero(p, io, job->size);
}

static void job_done(struct task *t)
{
	struct posix_job *job = container_of(t, struct posix_job, work.task);

	io_complete_now(job_io(job), job->ret);
}

static void submit_job(struct io *io)
{
	struct posix_job *job = (struct posix_job *)io->priv;

	job->size = io->file->size;
	job->work.run = job_run;
	job->work.task.fn = job_done;
	work_submit_blocking(io->file->loop, &job->work);
}

/* On a thread that computes rather than one that sleeps: more of them than processors only wait. */
static void submit_copy(struct io *io)
{
	struct posix_job *job = (struct posix_job *)io->priv;

	job->work.run = job_run;
	job->work.task.fn = job_done;
	work_submit(io->file->loop, &job->work);
}

/* Known in advance to be refused: no thread is needed to say so. */
static bool refused(const struct posix *p, const struct io *io)
{
	if (io->op == IO_DISCARD)
		return flag_get(io->file->block_dev ? &p->no_discard : &p->no_punch);
	return flag_get(&p->no_punch) && flag_get(&p->no_zero_range);
}

/* Copying so much takes long enough that the loop can do something else meanwhile. */
static bool worth_a_thread(const struct posix *p, const struct io *io)
{
	return !p->direct && io->op == IO_WRITE && io->len >= HELPED_WRITE &&
	       work_threads(io->file->loop) > 1;
}

static void posix_submit(struct io *io)
{
	struct posix *p = io->file->priv;

	if (io->op == IO_READ || io->op == IO_WRITE) {
		if (worth_a_thread(p, io)) {
			submit_copy(io);
			return;
		}
		if (p->direct || (p->batched && io->len <= BATCHED))
			direct_rw(p, io);
		else
			buffered_rw(p, io);
	} else if (io->op == IO_FLUSH && p->tmpfs) {
		io_complete(io, 0);
	} else if (io->op != IO_FLUSH && refused(p, io)) {
		io_complete(io, -ENOTSUP);
	} else {
		submit_job(io);
	}
}

/* ------------------------------------------------------------------ sizes and space */

static int posix_truncate(struct file *f, uint64_t size)
{
	struct posix *p = f->priv;

	p->st_end = 0;
	return ftruncate(p->fd, size) < 0 ? -errno : 0;
}

static int posix_refresh(struct file *f)
{
	struct posix *p = f->priv;
	uint64_t bytes;
	struct stat st;

	p->st_end = 0;
	if (f->block_dev) {
		if (ioctl(p->fd, BLKGETSIZE64, &bytes) < 0)
			return -errno;
		f->size = bytes;
		return 0;
	}
	if (fstat(p->fd, &st) < 0)
		return -errno;
	f->size = st.st_size;
	return 0;
}

static int posix_prealloc(struct file *f, uint64_t off, uint64_t len)
{
	struct posix *p = f->priv;
	int ret;

	if (f->block_dev)
		return -ENOTSUP;
	ret = do_fallocate(p->fd, 0, off, len);
	return is_notsup(ret) ? -ENOTSUP : ret;
}

/*
 * A write may land at any moment between its submission and its end, so an answer in between is of
 * use only to the one who asked.
 */
static bool status_known(const struct file *f, uint64_t off)
{
	const struct posix *p = f->priv;

	return off >= p->st_start && off < p->st_end && p->st_seq == f->wseq &&
	       list_empty(&f->writes) && !f->growing;
}

static int posix_status(struct file *f, uint64_t off, uint64_t *len, bool *data)
{
	struct posix *p = f->priv;
	off_t pos;

	if (f->block_dev) {
		*data = true;
		return 0;
	}
	if (!status_known(f, off)) {
		if (off >= f->size) {
			*data = false;
			return 0;
		}
		pos = lseek(p->fd, off, SEEK_DATA);
		if (pos < 0 && errno != ENXIO) {
			*data = true;		/* a file system that cannot tell */
			return 0;
		}
		p->st_data = pos == (off_t)off;
		if (p->st_data)
			pos = lseek(p->fd, off, SEEK_HOLE);
		p->st_start = off;
		p->st_end = pos > (off_t)off ? (uint64_t)pos : f->size;
		p->st_seq = f->wseq;
	}
	*data = p->st_data;
	*len = MIN(*len, p->st_end - off);
	return 0;
}

static uint64_t posix_allocated(struct file *f)
{
	struct posix *p = f->priv;
	struct stat st;

	return fstat(p->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static int posix_fd(struct file *f)
{
	struct posix *p = f->priv;

	return p->fd;
}

static void posix_tune(struct file *f, bool nocow, uint32_t extent_size)
{
	struct posix *p = f->priv;
	struct fsxattr fsx;
	int attr;

	if (nocow && ioctl(p->fd, FS_IOC_GETFLAGS, &attr) == 0) {
		attr |= FS_NOCOW_FL;
		ioctl(p->fd, FS_IOC_SETFLAGS, &attr);
	}
	if (extent_size && ioctl(p->fd, FS_IOC_FSGETXATTR, &fsx) == 0) {
		fsx.fsx_xflags |= FS_XFLAG_EXTSIZE;
		fsx.fsx_extsize = extent_size;
		ioctl(p->fd, FS_IOC_FSSETXATTR, &fsx);
	}
}

static int posix_lock(struct file *f, bool write, bool share, struct tapimg_err *err)
{
	struct posix *p = f->priv;

	return file_lock_fd(p->fd, f->name, write, share, err);
}

static void posix_close(struct file *f)
{
	struct posix *p = f->priv;

	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

static const struct file_ops posix_ops = {
	.name = "posix",
	.submit = posix_submit,
	.read_now = posix_read_now,
	.truncate = posix_truncate,
	.refresh = posix_refresh,
	.prealloc = posix_prealloc,
	.status = posix_status,
	.allocated = posix_allocated,
	.fd = posix_fd,
	.tune = posix_tune,
	.lock = posix_lock,
	.close = posix_close,
};

/* ------------------------------------------------------------------ opening */

/* The smallest length and offset that a direct read at the start of the file accepts. */
static uint32_t probe_align(int fd, uint64_t size)
{
	uint32_t align;
	void *buf;

	if (!size)
		return 4096;		/* nothing to read: what every device accepts */
	buf = file_buf(4096);
	if (!buf)
		return 4096;
	for (align = 1; align < 4096; align = align == 1 ? 512 : align * 2)
		if (pread(fd, buf, align, 0) >= 0 || errno != EINVAL)
			break;
	free(buf);
	return align;
}

static void direct_align(struct file *f, struct posix *p)
{
	int lbs;
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (statx(p->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN) && is_pow2(stx.stx_dio_offset_align) &&
	    is_pow2(stx.stx_dio_mem_align)) {
		f->align = stx.stx_dio_offset_align;
		f->mem_align = stx.stx_dio_mem_align;
		return;
	}
#endif
	if (f->block_dev && ioctl(p->fd, BLKSSZGET, &lbs) == 0 && lbs > 0 && is_pow2(lbs))
		f->align = lbs;
	else
		f->align = probe_align(p->fd, f->size);
	f->mem_align = f->align;
}

/* Everything about the open descriptor that file.h wants known. */
static int posix_examine(struct file *f, struct posix *p, struct tapimg_err *err)
{
	struct statfs fs;
	struct stat st;
	int lbs = 512, ret;

	if (fstat(p->fd, &st) < 0)
		return err_errno(err, -errno, "%s", f->name);
	if (S_ISDIR(st.st_mode))
		return err_errno(err, -EISDIR, "%s", f->name);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL, "%s: is neither a regular file nor a block device",
			       f->name);
	f->block_dev = S_ISBLK(st.st_mode);
	f->grows_clean = !f->block_dev;
	p->tmpfs = !f->block_dev && fstatfs(p->fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
	ret = posix_refresh(f);
	if (ret < 0)
		return err_errno(err, ret, "%s: size", f->name);
	if (f->block_dev)
		f->discard_align = ioctl(p->fd, BLKSSZGET, &lbs) == 0 && is_pow2(lbs) ? lbs : 512;
	else
		f->discard_align = is_pow2(st.st_blksize) && st.st_blksize <= 65536 ?
				   st.st_blksize : 4096;
	p->direct = (f->flags & FILE_DIRECT) && !p->tmpfs;
	f->copies = !p->direct;
	p->no_nowait = p->tmpfs;
	f->no_grow = f->block_dev || !p->direct;
	p->batched = (f->flags & FILE_DIRECT) && p->tmpfs && !aio_start(&f->loop->aio, NULL);
	if (!p->direct)
		return 0;
	direct_align(f, p);
	ret = aio_start(&f->loop->aio, err);
	return ret < 0 ? err_prefix(err, ret, "%s", f->name) : 0;
}

static int open_flags(unsigned flags)
{
	int o = O_CLOEXEC | O_NONBLOCK;	/* a FIFO must not hang us; it is refused later */

	o |= flags & FILE_RDWR ? O_RDWR : O_RDONLY;
	if (flags & FILE_DIRECT)
		o |= O_DIRECT;
	if (flags & FILE_CREATE)
		o |= O_CREAT;
	if (flags & FILE_EXCL)
		o |= O_EXCL;
	return o;
}

static int posix_open_fd(struct posix *p, const char *name, unsigned flags, struct tapimg_err *err)
{
	int o = open_flags(flags), ret;

	/* told apart from opening an existing file, because a new one needs its directory synced */
	p->fd = -1;
	if (flags & FILE_CREATE) {
		p->fd = open(name, o | O_EXCL, 0644);
		p->created = p->fd >= 0;
	}
	if (p->fd < 0 && (!(flags & FILE_CREATE) || (errno == EEXIST && !(flags & FILE_EXCL))))
		p->fd = open(name, o, 0644);
	if (p->fd >= 0)
		return 0;
	ret = -errno;
	if (ret == -EMFILE)
		return err_set(err, ret, "%s: this process may have no more files open (ulimit -n)", name);
	if (ret == -EINVAL && (flags & FILE_DIRECT))
		return err_set(err, ret, "%s: the file system does not support O_DIRECT", name);
	return err_errno(err, ret, "%s", name);
}

int file_open_posix(struct tapimg_loop *loop, const char *name, unsigned flags, struct file **out,
		    struct tapimg_err *err)
{
	struct posix *p = calloc(1, sizeof(*p));
	struct file *f = p ? file_alloc(loop, &posix_ops, name, flags) : NULL;
	int ret;

	if (!f) {
		free(p);
		return err_errno(err, -ENOMEM, "%s", name);
	}
	f->priv = p;
	ret = posix_open_fd(p, name, flags, err);
	if (!ret)
		ret = posix_examine(f, p, err);
	if (!ret && !(flags & FILE_NOLOCK))
		ret = posix_lock(f, flags & FILE_RDWR, flags & FILE_SHARE, err);
	/* only now: not a byte of a file in use is lost */
	if (!ret && (flags & FILE_TRUNC) && !f->block_dev && f->size) {
		ret = posix_truncate(f, 0);
		if (ret < 0)
			err_errno(err, ret, "%s: cannot be emptied", name);
		f->size = 0;
	}
	if (ret < 0) {
		if (p->created)
			unlink(name);
		file_close(f);
		return ret;
	}
	fcntl(p->fd, F_SETFL, fcntl(p->fd, F_GETFL) & ~O_NONBLOCK);
	*out = f;
	return 0;
}

void file_raise_limit(void)
{
	struct rlimit l;

	if (!getrlimit(RLIMIT_NOFILE, &l) && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}
