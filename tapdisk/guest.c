/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guest.c - mapping, translating, and surviving what a front end does to its memory
 *
 * The rules G1 to G3 are in guest.h.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "checked.h"
#include "err.h"
#include "guest.h"

#define LOG_PAGE_SHIFT 12
#define HUGETLB_MAGIC 0x958458f6

/* ------------------------------------------------------------------ SIGBUS */

/*
 * A signal handler has nothing but what is global.  Slots are filled and emptied by the thread of the
 * loop; the handler may run on any thread.  @end is published last and withdrawn first.
 */
#define GUARDS 2048
static struct guard {
	uintptr_t start;
	uintptr_t end;			/* 0: unused */
	volatile bool *broken;
} guards[GUARDS];

static struct guard *guard_find(uintptr_t addr)
{
	unsigned i;

	for (i = 0; i < GUARDS; i++) {
		uintptr_t end = __atomic_load_n(&guards[i].end, __ATOMIC_ACQUIRE);

		if (addr < end && addr >= guards[i].start)
			return &guards[i];
	}
	return NULL;
}

/* The whole region goes: huge pages cannot be replaced in part, and the guest is lost anyway. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	struct guard *gd = guard_find((uintptr_t)info->si_addr);
	int saved = errno;

	if (!gd || mmap((void *)gd->start, gd->end - gd->start, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		signal(SIGBUS, SIG_DFL);	/* not ours: it happens again, and ends the process */
	else
		*gd->broken = true;
	errno = saved;
}

int guest_catch_sigbus(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&sa.sa_mask);
	return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}

int guest_protect(void *map, uint64_t len, volatile bool *broken)
{
	int i;

	for (i = 0; i < GUARDS; i++) {
		if (guards[i].end)
			continue;
		guards[i].start = (uintptr_t)map;
		guards[i].broken = broken;
		__atomic_store_n(&guards[i].end, (uintptr_t)map + len, __ATOMIC_RELEASE);
		return i;
	}
	return -ENOSPC;
}

void guest_unprotect(int slot)
{
	if (slot >= 0)
		__atomic_store_n(&guards[slot].end, 0, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------ regions */

void guest_init(struct guest *g)
{
	memset(g, 0, sizeof(*g));
	g->log_slot = -1;
}

/* The place of the first region that ends beyond @gpa; g->n: none. */
static unsigned guest_place(const struct guest *g, uint64_t gpa)
{
	unsigned lo = 0, hi = g->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (g->r[mid].gpa + (g->r[mid].size - 1) < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct guest_region *guest_find(const struct guest *g, uint64_t gpa)
{
	unsigned at = guest_place(g, gpa);

	return at < g->n && g->r[at].gpa <= gpa ? &g->r[at] : NULL;
}

/* Mappings of huge pages begin and end at one of them. */
static uint64_t map_granule(int fd)
{
	uint64_t page = sysconf(_SC_PAGESIZE);
	struct statfs fs;

	if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLB_MAGIC && is_pow2(fs.f_bsize))
		return MAX(page, (uint64_t)fs.f_bsize);
	return page;
}

/* Maps a part of what the other side has sent. *@map and *@map_len are what to unmap later. */
static int map_shared(int fd, uint64_t offset, uint64_t size, void **map, uint64_t *map_len,
		      uint8_t **host, struct tapimg_err *err)
{
	uint64_t end, granule = map_granule(fd);
	struct stat st;
	uint64_t skip = offset & (granule - 1);

	if (!size || !checked_add(offset, size, &end) || end > INT64_MAX - granule)
		return err_set(err, -EINVAL, "no such range: %#jx bytes at %#jx", (uintmax_t)size,
			       (uintmax_t)offset);
	if (fstat(fd, &st) < 0)
		return err_errno(err, -errno, "shared memory");
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < end)
		return err_set(err, -EINVAL, "%#jx bytes at %#jx end beyond the shared file's %#jx",
			       (uintmax_t)size, (uintmax_t)offset, (uintmax_t)st.st_size);
	*map_len = round_up(size + skip, granule);
	*map = mmap(NULL, *map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		    offset - skip);
	if (*map == MAP_FAILED)
		return err_errno(err, -errno, "mapping %#jx bytes at %#jx", (uintmax_t)size,
				 (uintmax_t)offset);
	madvise(*map, *map_len, MADV_DONTDUMP);
	*host = (uint8_t *)*map + skip;
	return 0;
}

static bool ranges_meet(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a <= b + (blen - 1) && b <= a + (alen - 1);
}

static int guest_check_new(const struct guest *g, uint64_t gpa, uint64_t size, uint64_t user,
			   struct tapimg_err *err)
{
	unsigned i;

	/* the last byte exists; so ends never wrap */
	if (!size || gpa + (size - 1) < gpa || user + (size - 1) < user)
		return err_set(err, -EINVAL, "memory region %#jx+%#jx wraps around or is empty",
			       (uintmax_t)gpa, (uintmax_t)size);
	if (g->n == GUEST_REGIONS)
		return err_set(err, -ENOSPC, "more than %u memory regions", GUEST_REGIONS);
	for (i = 0; i < g->n; i++)
		if (ranges_meet(gpa, size, g->r[i].gpa, g->r[i].size))
			return err_set(err, -EINVAL, "memory region %#jx+%#jx overlaps %#jx+%#jx",
				       (uintmax_t)gpa, (uintmax_t)size, (uintmax_t)g->r[i].gpa,
				       (uintmax_t)g->r[i].size);
	return 0;
}

int guest_map(struct guest *g, uint64_t gpa, uint64_t size, uint64_t user, uint64_t offset, int fd,
	      struct tapimg_err *err)
{
	struct guest_region r = { .gpa = gpa, .size = size, .user = user };
	struct guest_region *all;
	unsigned at;
	int ret;

	ret = guest_check_new(g, gpa, size, user, err);
	if (ret)
		return ret;
	all = realloc(g->r, (g->n + 1) * sizeof(*all));
	if (!all)
		return err_errno(err, -ENOMEM, "memory region");
	g->r = all;
	ret = map_shared(fd, offset, size, &r.map, &r.map_len, &r.host, err);
	if (ret)
		return ret;
	r.slot = guest_protect(r.map, r.map_len, &g->broken);
	if (r.slot < 0) {
		munmap(r.map, r.map_len);
		return err_set(err, r.slot, "too many memory regions in this process");
	}
	at = guest_place(g, gpa);
	memmove(&all[at + 1], &all[at], (g->n - at) * sizeof(*all));
	all[at] = r;
	g->n++;
	return 0;
}

static void region_unmap(struct guest_region *r)
{
	guest_unprotect(r->slot);
	munmap(r->map, r->map_len);
}

int guest_unmap(struct guest *g, uint64_t gpa, uint64_t size, uint64_t user)
{
	unsigned at = guest_place(g, gpa);
	struct guest_region *r = at < g->n ? &g->r[at] : NULL;

	if (!r || r->gpa != gpa || r->size != size || r->user != user)
		return -ENOENT;
	region_unmap(r);
	g->n--;
	memmove(r, r + 1, (g->n - at) * sizeof(*r));
	return 0;
}

void guest_unmap_all(struct guest *g)
{
	unsigned i;

	for (i = 0; i < g->n; i++)
		region_unmap(&g->r[i]);
	free(g->r);
	g->r = NULL;
	g->n = 0;
}

void guest_clear(struct guest *g)
{
	guest_unmap_all(g);
	guest_drop_log(g);
}

/* ------------------------------------------------------------------ translating */

void *guest_user(const struct guest *g, uint64_t user, uint64_t len)
{
	unsigned i;

	for (i = 0; i < g->n; i++)
		if (user >= g->r[i].user && checked_range(user - g->r[i].user, len, g->r[i].size))
			return g->r[i].host + (user - g->r[i].user);
	return NULL;
}

int guest_read(const struct guest *g, uint64_t gpa, void *buf, uint64_t len)
{
	while (len) {
		uint64_t run;
		const void *p = guest_at(g, gpa, len, &run);

		if (!p)
			return -EFAULT;
		memcpy(buf, p, run);
		buf = (uint8_t *)buf + run;
		gpa += run;
		len -= run;
	}
	__asm__ volatile("" ::: "memory");	/* G1: the copy is never made again */
	return 0;
}

/* ------------------------------------------------------------------ dirty log */

int guest_set_log(struct guest *g, int fd, uint64_t size, uint64_t offset, struct tapimg_err *err)
{
	uint64_t len;
	uint8_t *host;
	void *map;
	int slot, ret;

	ret = map_shared(fd, offset, size, &map, &len, &host, err);
	if (ret)
		return err_prefix(err, ret, "dirty log");
	slot = guest_protect(map, len, &g->broken);
	if (slot < 0) {
		munmap(map, len);
		return err_set(err, slot, "dirty log: too many mappings in this process");
	}
	guest_drop_log(g);
	g->log = host;
	g->log_pages = MIN(size, UINT64_MAX / 8) * 8;
	g->log_map = map;
	g->log_map_len = len;
	g->log_slot = slot;
	return 0;
}

void guest_drop_log(struct guest *g)
{
	if (!g->log)
		return;
	guest_unprotect(g->log_slot);
	munmap(g->log_map, g->log_map_len);
	g->log = NULL;
	g->log_slot = -1;
}

void guest_dirty_log(struct guest *g, uint64_t gpa, uint64_t len)
{
	uint64_t page = gpa >> LOG_PAGE_SHIFT;
	uint64_t last;

	if (!g->log || !g->log_on || !len)
		return;
	last = (gpa + (len - 1)) >> LOG_PAGE_SHIFT;
	for (; page <= last && page < g->log_pages; page++)
		__atomic_fetch_or(&g->log[page / 8], 1 << (page % 8), __ATOMIC_SEQ_CST);
}

void guest_dirty_host(struct guest *g, const void *host, uint64_t len)
{
	const uint8_t *p = host;
	unsigned i;

	if (!g->log || !g->log_on)
		return;
	for (i = 0; i < g->n; i++) {
		const struct guest_region *r = &g->r[i];

		if (p >= r->host && p < r->host + r->size) {
			guest_dirty_log(g, r->gpa + (p - r->host), len);
			return;
		}
	}
}
