/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * patch.c - makes a disk image read like a raw file, by writing only what differs
 *
 *	patch IMAGE RAW-FILE
 *
 * Useful where some tool can only edit a raw disk and the result belongs into an overlay: the
 * overlay then holds the changes and nothing else.  Leaves out resizing: sizes must be equal.
 * Uses nothing but the installed header and library.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tapimg.h>

#define STEP (1 << 20)		/* read at a time */
#define GRAIN 4096		/* compared and written at a time */

struct patch {
	struct tapimg *image, *raw;
	unsigned char *ours, *theirs;	/* STEP bytes of each */
	uint64_t written;
};

/* Reads both at @off and writes the runs of grains that differ. */
static int patch_step(struct patch *p, uint64_t off, size_t len)
{
	int ret = tapimg_pread(p->image, p->ours, len, off);

	if (!ret)
		ret = tapimg_pread(p->raw, p->theirs, len, off);
	for (size_t at = 0; !ret && at < len;) {
		size_t end = at, n;

		while (end < len) {
			n = len - end < GRAIN ? len - end : GRAIN;
			if (!memcmp(p->ours + end, p->theirs + end, n))
				break;
			end += n;
		}
		if (end > at) {
			ret = tapimg_pwrite(p->image, p->theirs + at, end - at, off + at);
			p->written += end - at;
		}
		at = end + GRAIN;
	}
	return ret;
}

static int patch_all(struct patch *p)
{
	uint64_t size = tapimg_size(p->raw);
	int ret = 0;

	for (uint64_t off = 0; !ret && off < size; off += STEP)
		ret = patch_step(p, off, size - off < STEP ? size - off : STEP);
	return ret ? ret : tapimg_flush(p->image);
}

static int run(struct tapimg_loop *loop, struct patch *p, char **argv, struct tapimg_err *err)
{
	const struct tapimg_open_opts rw = { .flags = TAPIMG_RDWR }, ro = { .format = "raw" };
	int ret;

	ret = tapimg_open(loop, argv[1], &rw, &p->image, err);
	if (!ret)
		ret = tapimg_open(loop, argv[2], &ro, &p->raw, err);
	if (ret)
		return ret;
	if (tapimg_size(p->image) != tapimg_size(p->raw)) {
		snprintf(err->text, sizeof(err->text), "%s and %s differ in size", argv[1], argv[2]);
		return -1;
	}
	ret = patch_all(p);
	if (ret)
		snprintf(err->text, sizeof(err->text), "%s: %s", argv[1], strerror(-ret));
	return ret;
}

int main(int argc, char **argv)
{
	struct patch p = { .ours = malloc(STEP), .theirs = malloc(STEP) };
	struct tapimg_loop *loop = NULL;
	struct tapimg_err err = { 0 }, late;
	int ret;

	if (argc != 3 || !p.ours || !p.theirs) {
		fprintf(stderr, "usage: patch IMAGE RAW-FILE\n");
		return 2;
	}
	ret = tapimg_loop_new(0, &loop, &err);
	if (!ret)
		ret = run(loop, &p, argv, &err);
	if (p.raw)
		tapimg_close(p.raw, NULL);
	if (p.image && tapimg_close(p.image, &late) && !ret) {
		err = late;
		ret = late.code;
	}
	tapimg_loop_free(loop);
	free(p.ours);
	free(p.theirs);
	if (ret)
		fprintf(stderr, "patch: %s\n", err.text);
	else
		printf("%" PRIu64 " bytes written\n", p.written);
	return ret ? 1 : 0;
}
