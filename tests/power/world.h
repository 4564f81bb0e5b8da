/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * world.h - what the power and fault tests share: a random image on a simulated disk, the oracle of
 * its contents, a random load, administrative operations, and what must hold after a cut
 */
#ifndef WORLD_H
#define WORLD_H

#include "image.h"
#include "oracle.h"
#include "simdisk.h"

#define MAX_SNAPS 4
#define MAX_SLOTS 32
#define MAX_LAYERS 4

struct tapimg_opt;
struct world;

/* A format other than qcow2 for the top and all layers that are not raw: formats.c. */
struct wformat {
	const char *name;
	void (*draw)(struct world *w);	/* changes what was drawn for qcow2 */
	/* options of layer @i, the top if that is geo.below; their number */
	unsigned (*options)(const struct world *w, unsigned i, struct tapimg_opt *opts,
			    char text[4][16]);
	bool snapshots;
	bool (*undo)(struct world *w);	/* goes back with sim:journal; NULL: knows no journals */
	bool (*plain)(const struct world *w, unsigned i);	/* the bytes of its files are the guest's */
	bool (*leaks)(const struct world *w, bool repaired);	/* does it leave space unused without a cut? */
};
const struct wformat *wformat_find(const char *name);

/* Variants: kinds of VMDK; the L2 bits of QCOW and what else it is. */
enum { VMDK_SPARSE, VMDK_ZEROED, VMDK_SPLIT, VMDK_SPLIT_ZEROED, VMDK_COWD, VMDK_FLAT, VMDK_SPLIT_FLAT,
       VMDK_KINDS };
enum { QCOW_XEN_LAYOUT = 16, QCOW_ENCIPHERED = 32 };

/* How an image and its chain are made. */
struct geo {
	const struct wformat *format;	/* NULL: qcow2 */
	unsigned variant;		/* the format's own, of the top */
	unsigned cluster_bits, refcount_bits;
	bool v2, ext_l2, lazy, data_file, zstd, raw_top, prealloc_meta;
	bool block_dev;
	uint64_t size;
	uint32_t gran;
	unsigned below;			/* layers under the top */
	struct {
		bool raw;
		unsigned cluster_bits, variant;
		uint64_t size;
	} layer[MAX_LAYERS];
};

struct wsnap {
	bool used, maybe;		/* maybe: a cut came while it was made or deleted */
	char name[16];
	struct oracle o;
};

/* An administrative operation that was under way when the power went. */
enum pending { PEND_NONE, PEND_RESIZE, PEND_SNAP_CREATE, PEND_SNAP_APPLY, PEND_SNAP_DELETE,
	       PEND_OTHER };

struct world;

struct slot {
	struct world *w;
	struct tapimg_req req;
	struct iovec iov[3];
	uint8_t *buf;
	bool busy;
	uint64_t id;
	uint32_t kind;			/* OREC_* of the oracle's entry */
};

/* Weights of a random load. */
struct load {
	const char *name;
	unsigned read, write, zero, discard, flush, coded;
	unsigned fua_pct, whole_pct;	/* whole: of whole clusters */
	unsigned window;		/* clusters that are used most; 0: all */
	unsigned depth;
	unsigned count;			/* requests */
};

/* What the command line fixes; the rest is drawn. */
struct opts {
	bool cold, verbose, qemu, no_qemu;
	unsigned mutant;
	unsigned cuts;			/* generations for each seed */
	const char *profile;
	const char *format;		/* NULL: qcow2 */
	const char *tmp;		/* directory for images shown to qemu-img */
};

struct world {
	uint64_t seed;
	struct rng rng;
	const struct opts *o;
	struct sim *sim;
	struct sim_cfg cfg;
	struct geo geo;
	struct tapimg_loop *loop;
	struct tapimg *img;
	unsigned open_flags, rdwr_layers;
	uint64_t cache;
	bool cold;
	struct oracle now;
	struct wsnap snaps[MAX_SNAPS];
	enum pending pend;
	uint64_t pend_size;
	struct wsnap *pend_snap;
	bool exists;			/* the image has been made */
	bool leaky;			/* leaks are to be expected */
	bool stale;			/* a commit was cut: the base may look changed to its child */
	unsigned inflight;
	unsigned stalls;
	struct slot slot[MAX_SLOTS];
	uint64_t journaled, undone, requests, reads, admin, refused, errors, qemu_runs;
	unsigned generation;
	char fail[1400];		/* the violation, or empty */
};

/* Notes a violation; the first one stays.  Returns false. */
bool wfail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool wdead(const struct world *w);	/* no power, or a violation */
bool wexcused(const struct world *w);	/* no power, or a fault was injected: operations may fail */

void world_watch(unsigned seconds);	/* kills the process that takes longer; 0: never mind */
void world_init(struct world *w, uint64_t seed, const struct opts *o);
void world_exit(struct world *w);

/* Gives the secret of every enciphered image here. */
int world_secret(void *arg, const struct tapimg_secret_ask *ask, struct tapimg_err *err);
/* Draws geometry and disk. @profile: what the mutants need, or NULL. */
void world_draw(struct world *w);
bool world_create(struct world *w);	/* layers and top */
bool world_up(struct world *w);		/* a loop; the image stays closed */
void world_down(struct world *w);	/* closes all; power may be gone */
bool world_open(struct world *w);	/* for writing */
bool world_close(struct world *w);	/* closes the image and says whether that worked */

/* Reads all of it and compares; after a crash what was read is what is right from then on. */
bool world_verify(struct world *w, enum oracle_when when);
bool world_pin(struct world *w);	/* the same without a crash, by flushing first */
bool world_verify_snaps(struct world *w);
/* What must hold after a cut (@crash) or a clean close; the image is closed before and after. */
bool world_inspect(struct world *w, bool crash);
bool world_check(struct world *w, unsigned fix, bool leaks_allowed);
bool world_qemu(struct world *w, bool leaks_allowed);

/* load.c */
void load_draw(struct world *w, struct load *l);
bool load_run(struct world *w, const struct load *l);
void load_drain(struct world *w);

struct totals {
	uint64_t seeds, cuts, requests, admin, refused, qemu, clean, journaled, undone;
	char why[300];			/* the last violation */
};

/* drive.c: a whole seed; false: a violation, reported unless it is a mutant's. */
bool run_seed(uint64_t seed, const struct opts *o, struct totals *t);

/* admin.c: operations on the open, idle image. false: no power, a fault, or a violation */
enum admin { ADMIN_RESIZE, ADMIN_SNAP_CREATE, ADMIN_SNAP_APPLY, ADMIN_SNAP_DELETE, ADMIN_COMMIT,
	     ADMIN_BITMAP, ADMIN_AMEND, ADMIN_REBASE };
bool admin_do(struct world *w, enum admin what);
bool admin_run(struct world *w);	/* any */

#endif
