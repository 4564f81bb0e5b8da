/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz-nbd.c - what hostile NBD clients send
 *
 * The first byte says how the rest is cut into pieces and how the client ends; the rest are the
 * client's bytes, from its flags on.  Served are an image with a backing file and a bitmap, on the simulated
 * disk, and memory.  Afterwards the connection and all that it used must be gone.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "nbdwire.h"

struct world {
	struct server s;
	struct nbd_front *f;
};

static void add_disk(struct server *s, const char *text)
{
	struct disk_config c;
	struct disk *d;

	disk_config_init(&c);
	if (disk_config_parse(&c, text, NULL) || disk_open(s, &c, &d, NULL))
		abort();
	disk_config_clear(&c);
}

static void make_image(struct tapimg_loop *loop, const char *path)
{
	struct tapimg_create_opts o = { .format = "qcow2", .size = MiB };
	struct tapimg_open_opts oo = { .format = "qcow2", .flags = TAPIMG_RDWR };
	struct tapimg *img;
	uint8_t data[4096];

	memset(data, 1, sizeof(data));
	if (tapimg_create(loop, path, &o, NULL) || tapimg_open(loop, path, &oo, &img, NULL) ||
	    tapimg_bitmap_add(img, "b", 65536, false, NULL) ||
	    tapimg_pwrite(img, data, sizeof(data), 300000) || tapimg_close(img, NULL))
		abort();
}

static struct world *world(void)
{
	static struct world w;		/* libFuzzer hands nothing from input to input */
	char dir[] = "/tmp/tapimg-fuzz-XXXXXX", path[100], text[200];
	int here = w.f ? -1 : open(".", O_RDONLY | O_DIRECTORY);

	if (w.f)
		return &w;
	if (here < 0 || !mkdtemp(dir) || chdir(dir) || server_init(&w.s, NULL))
		abort();
	snprintf(path, sizeof(path), "%s/a.qcow2", dir);
	make_image(w.s.loop, path);
	snprintf(text, sizeof(text), "a=qcow2:%s", path);
	add_disk(&w.s, text);
	add_disk(&w.s, "m=ram:1M");
	add_disk(&w.s, "ro=null:64G,read-only=on");
	w.f = wire_front(&w.s, "max-requests=16,max-memory=1M", NULL);
	if (!w.f)
		abort();
	/* open files stay usable without their names */
	unlink(path);
	unlink("wire.sock");
	if (fchdir(here) || close(here) || rmdir(dir))
		abort();
	return &w;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = world();
	struct wire *wire;

	if (!size)
		return 0;
	wire = wire_open(w->f);
	wire->chunk = data[0] >> 2;
	wire->eof = data[0] & 1;
	if (data[0] & 2)
		wire->window = 100;
	wire_put(wire, data + 1, size - 1);
	FUZZ_ASSERT(!wire->c || wire->c->nreqs <= w->f->max_reqs);
	FUZZ_ASSERT(w->f->bytes <= w->f->max_bytes + 2 * NBD_MAX_PAYLOAD);
	wire_close(wire);
	FUZZ_ASSERT(!w->f->nconns && !w->f->bytes && list_empty(&w->f->hungry));
	return 0;
}
