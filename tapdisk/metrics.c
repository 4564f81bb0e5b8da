/* SPDX-License-Identifier: BSD-2-Clause */
/* metrics.c - pages of counters, and the statistics as JSON in blktap's form */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checked.h"
#include "disk-impl.h"
#include "log.h"
#include "metrics.h"

static const char *shm_dir(void)
{
	const char *dir = getenv("TAPDISK_SHM_DIR");

	return dir && *dir ? dir : "/dev/shm";
}

static int page_path(char *buf, size_t size, const struct vbd *v)
{
	int n;

	if (v)
		n = snprintf(buf, size, "%s/td3-%d/vdi-%d", shm_dir(), getpid(), v->minor);
	else
		n = snprintf(buf, size, "%s/td3-%d", shm_dir(), getpid());
	return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

void metrics_start(struct vbd *v)
{
	long page = sysconf(_SC_PAGESIZE);
	char path[4096];
	void *map = MAP_FAILED;
	int fd = -1;

	if (!page_path(path, sizeof(path), NULL) && (!mkdir(path, 0700) || errno == EEXIST) &&
	    !page_path(path, sizeof(path), v))
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && !ftruncate(fd, page))
		map = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		log_warn("%s: no statistics: %s", path, strerror(errno));
	} else {
		v->page = map;
		v->page->version = 1;
		disk_set_page(v->disk, v->page);
	}
	if (fd >= 0)
		close(fd);
}

void metrics_stop(struct vbd *v)
{
	char path[4096];

	if (!v->page)
		return;
	disk_set_page(v->disk, NULL);
	munmap(v->page, (size_t)sysconf(_SC_PAGESIZE));
	v->page = NULL;
	if (!page_path(path, sizeof(path), v))
		unlink(path);
}

/* ---------------------------------------------------------------- what is left */

/* A process that nobody has waited for yet is dead as well: it has no program any more. */
static bool is_dead(int pid)
{
	char path[32], exe[1];

	if (pid <= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	return (kill(pid, 0) < 0 && errno == ESRCH) ||
	       (readlink(path, exe, sizeof(exe)) < 0 && errno == ENOENT);
}

static void remove_dir(const char *path)
{
	char file[4096];
	DIR *d = opendir(path);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		int n = snprintf(file, sizeof(file), "%s/%s", path, e->d_name);

		if (e->d_name[0] != '.' && n > 0 && (size_t)n < sizeof(file))
			unlink(file);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

void metrics_exit(void)
{
	char path[4096];

	if (!page_path(path, sizeof(path), NULL))
		remove_dir(path);
}

/* Calls @fn with the path of what @dir holds for processes that are dead: "<prefix><pid>...". */
static void for_dead(const char *dir, const char *prefix, void (*fn)(const char *path))
{
	char path[4096];
	DIR *d = opendir(dir);
	struct dirent *e;
	size_t len = strlen(prefix);

	while (d && (e = readdir(d))) {
		int n = snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);

		if (!strncmp(e->d_name, prefix, len) && is_dead(proto_number(e->d_name + len)) && n > 0 &&
		    (size_t)n < sizeof(path))
			fn(path);
	}
	if (d)
		closedir(d);
}

static void remove_file(const char *path)
{
	unlink(path);
}

void metrics_clean(void)
{
	for_dead(shm_dir(), "td3-", remove_dir);
	for_dead(run_dir(), "ctl", remove_file);
	for_dead(run_dir(), "nbd", remove_file);
}

/* ------------------------------------------------------------------------- JSON */

static void put_text(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
	fputc('"', f);
}

/* blktap's numbers of drivers, and their titles. */
static void put_driver(FILE *f, const char *driver)
{
	static const struct {
		const char *name, *blktap;
		int type;
	} known[] = {
		{ "raw", "aio", 0 }, { "aio", "aio", 0 }, { "vmdk", "vmdk", 2 }, { "vhd", "vhd", 4 },
		{ "vpc", "vhd", 4 }, { "ram", "ram", 5 }, { "qcow", "qcow", 6 }, { "nbd", "nbd", 15 },
		{ "qcow2", "qcow2", 17 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (strcmp(known[i].name, driver) != 0)
			continue;
		fprintf(f, "\"driver\": { \"type\": %d, \"name\": \"%s\", \"status\": null }",
			known[i].type, known[i].blktap);
		return;
	}
	fprintf(f, "\"driver\": { \"type\": -1, \"name\": \"%s\", \"status\": null }", driver);
}

static void put_image(FILE *f, const char *name, const char *driver, const struct disk_stats *st)
{
	static const struct disk_stats nothing;

	st = st ? st : &nothing;
	fprintf(f, "{ \"name\": ");
	put_text(f, name);
	fprintf(f, ", \"hits\": [ %llu, %llu ], \"fail\": [ %llu, %llu ], ",
		(unsigned long long)st->op[TAPIMG_READ].bytes / 512,
		(unsigned long long)st->op[TAPIMG_WRITE].bytes / 512,
		(unsigned long long)st->op[TAPIMG_READ].failed,
		(unsigned long long)st->op[TAPIMG_WRITE].failed);
	put_driver(f, driver);
	fprintf(f, " }");
}

/* The chain, leaf first.  While it is paused nothing is open. */
static void put_images(FILE *f, const struct vbd *v)
{
	const struct disk_config *c = disk_config(v->disk);
	struct tapimg *img = disk_image(v->disk);

	fprintf(f, "\"images\": [ ");
	if (!img && !disk_paused(v->disk))
		put_image(f, c->path, c->driver, disk_stats(v->disk));
	for (struct tapimg *l = img; l; l = tapimg_backing(l)) {
		fprintf(f, "%s", l == img ? "" : ", ");
		put_image(f, tapimg_filename(l), l == img ? c->driver : tapimg_format(l),
			  l == img ? disk_stats(v->disk) : NULL);
	}
	fprintf(f, " ]");
}

/* What blktap does not have: all kinds of requests, and how long they took. */
static void put_ops(FILE *f, const struct disk_stats *st)
{
	static const char *const names[STATS_OPS] = { "read", "write", "zero", "discard", "flush", NULL };

	fprintf(f, "\"ops\": { ");
	for (unsigned i = 0; names[i]; i++)
		fprintf(f, "%s\"%s\": { \"submitted\": %llu, \"completed\": %llu, \"failed\": %llu, "
			"\"bytes\": %llu, \"ns\": %llu }", i ? ", " : "", names[i],
			(unsigned long long)st->op[i].submitted, (unsigned long long)st->op[i].completed,
			(unsigned long long)st->op[i].failed, (unsigned long long)st->op[i].bytes,
			(unsigned long long)st->op[i].ns);
	fprintf(f, " }, \"held\": %llu", (unsigned long long)st->held);
}

static unsigned long long outstanding(const struct disk_stats *st)
{
	unsigned long long n = 0;

	for (unsigned i = 0; i < STATS_OPS; i++)
		n += st->op[i].submitted - st->op[i].completed;
	return n;
}

char *vbd_stats(const struct vbd *v, size_t *len)
{
	static const struct disk_stats nothing;
	const struct disk_stats *st = v->disk ? disk_stats(v->disk) : &nothing;
	char *text = NULL;
	FILE *f = open_memstream(&text, len);

	if (!f)
		return NULL;
	fprintf(f, "{ \"name\": ");
	put_text(f, v->name ? v->name : "(null)");
	fprintf(f, ", \"secs\": [ %llu, %llu ], ", (unsigned long long)st->op[TAPIMG_READ].bytes / 512,
		(unsigned long long)st->op[TAPIMG_WRITE].bytes / 512);
	if (v->disk)
		put_images(f, v);
	else
		fprintf(f, "\"images\": [  ]");
	fprintf(f, ", \"FIXME_enospc_redirect_count\": %llu, \"nbd_mirror_failed\": %d, "
		"\"reqs_outstanding\": %llu, \"read_caching\": \"%s\", ",
		v->disk ? (unsigned long long)v->disk->redirected : 0,
		v->disk ? v->disk->mirror_failed : 0, outstanding(st),
		v->disk && !disk_config(v->disk)->direct ? "true" : "false");
	put_ops(f, st);
	fprintf(f, " }");
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}
