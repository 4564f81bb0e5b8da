/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-stream.h - compressed extents ("streamOptimized"), as their parts see each other
 *
 *	header | descriptor | grains, behind those of each table that table | directory | footer | end
 *
 * Everything begins on a sector.  A grain is u64 its sector on the disk, u32 length, and so many bytes
 * of a zlib stream (RFC 1950), in ascending order of the disk.  Tables, directory and footer have a
 * sector in front, the marker: u64 sectors that follow, u32 0, u32 kind.  The footer repeats the header
 * with the place of the directory, which the header itself gives as "at the end".  An older layout
 * has the directory and all tables in front, and behind the grains only the end marker, or nothing.
 * Extents without VMDK_F_MARKERS have only u32 length in front of a grain.
 *
 * Sources: VMware "Virtual Disk Format 5.0"; files of ovftool, VirtualBox, vmdk-convert, qemu-img.
 */
#ifndef VMDK_STREAM_H
#define VMDK_STREAM_H

#include "vmdk.h"

enum vmdk_marker { VMDK_MARK_EOS, VMDK_MARK_GT, VMDK_MARK_GD, VMDK_MARK_FOOTER };

#define VMDK_GRAIN_MARK		12U	/* bytes in front of a grain's */
#define VMDK_STREAM_GTES	512U
#define VMDK_STREAM_GRAIN	(64 * KiB)	/* of the extents that we make */
#define VMDK_STREAM_DATA	128ULL		/* and where in them the grains begin, in sectors, at least */
#define VMDK_STREAM_LEVEL	6

/* A grain that was found by looking for it.  Sector 0: from it up to the next one nothing is known. */
struct vmdk_found {
	uint32_t grain, sector;
};

struct vmdk_stream_writer;

/* x->priv */
struct vmdk_stream {
	uint8_t grain_bits, gt_bits;	/* log2 of bytes, of entries */
	bool markers, zeroed;
	uint32_t mark;			/* bytes in front of a compressed grain */
	uint64_t capacity;		/* bytes */
	uint64_t gd_off;		/* bytes; UINT64_MAX: nobody knows */
	uint64_t data_min;		/* bytes: grains begin behind what is in front */
	uint32_t ngd, *gd;
	/* salvaged: */
	struct vmdk_found *found;	/* by grain; NULL: the tables are used */
	uint32_t nfound;
	uint64_t known;			/* guest bytes: what lies behind is lost */
	bool salvage;
	struct vmdk_stream_writer *w;	/* it is being written */
};

/* The largest length of a coded grain that is believed, its mark included. */
static inline uint32_t vmdk_coded_most(const struct vmdk_stream *s)
{
	return (2U << s->grain_bits) + VMDK_SECTOR;
}

/* vmdk-salvage.c */
/*
 * Looks for grains from the first on, as far as the file goes: s->found, s->known.  -ENOMEM, -EIO ...
 */
int vmdk_stream_scan(struct vmdk_extent *x, struct vmdk_stream *s, struct tapimg_err *err);
/* What of the disk is there, by its tables: s->known is the end of the last grain that is. */
int vmdk_stream_measure(struct vmdk_extent *x, struct vmdk_stream *s, struct tapimg_err *err);
const struct vmdk_found *vmdk_stream_find(const struct vmdk_stream *s, uint32_t grain);

/* vmdk-stream-check.c */
int vmdk_stream_check(struct tapimg *img, struct vmdk_extent *x, unsigned fix,
		      struct tapimg_check *out,
		      void (*report)(void *arg, char severity, const char *line), void *arg,
		      struct tapimg_err *err);

/* vmdk-stream-write.c */
/*
 * Header and descriptor of an extent of @size bytes, for @text of @len bytes.  With c->unfinished grains
 * can follow (vmdk_stream_write_open); else it is complete, and empty.
 */
int vmdk_stream_create(const struct create *c, uint64_t size, const char *text, size_t len);
/* Goes on with an extent that has no grain yet.  @s knows the header.  @level: 0 chooses. */
int vmdk_stream_write_open(struct tapimg *img, struct vmdk_extent *x, struct vmdk_stream *s,
			   unsigned level, struct tapimg_err *err);
void vmdk_stream_write_close(struct vmdk_stream *s);
int vmdk_stream_reserve(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
			unsigned flags, struct extent *ext);
int vmdk_stream_commit(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
void vmdk_stream_abort(struct tapimg *img, struct vmdk_extent *x, const struct extent *ext);
int vmdk_stream_unmap(struct tapimg *img, struct vmdk_extent *x, uint64_t off, uint64_t len,
		      unsigned flags, uint64_t *done);
int vmdk_stream_finish(struct tapimg *img, struct vmdk_extent *x);
int vmdk_stream_encode(const struct tapimg *img, const struct vmdk_extent *x, uint64_t off,
		       const void *src, uint32_t src_len, void *dst, uint32_t dst_max);
/* Bytes of the file at most, for @size bytes of disk of which @grains grains hold data. */
uint64_t vmdk_stream_size(uint64_t size, uint64_t grains);

#endif
