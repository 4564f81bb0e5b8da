/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2-switch.c - changing the first cluster as a whole without a moment of damage
 *
 * The header proper fits one sector, which a disk writes or does not write.  Extensions and the
 * name of the backing file may reach over several, and a power cut may write any subset of those.
 * When old and new contents differ in one sector only, that sector is written and all is said.
 * Otherwise the change makes a detour over a place behind both:
 *
 *	old:		| header | old extensions, old name .....|			 |
 *	step 1		| header | old extensions, old name .....|	new ext., new name |
 *	step 2		| header'| filler ......................> |	new ext., new name |
 *	step 3		| header'| filler: new ext., new name ..> |	new ext., new name |
 *	step 4		| header | new extensions, new name .....|	(no longer read)    |
 *
 * Steps 1 and 3 write only what nobody reads: behind the end of the old area, and inside the filler,
 * an extension of a type that nobody knows and whose length leads to the new place.  Steps 2 and 4
 * write the first sector alone.  Each step is flushed.  So a cut leaves the old header, the new one
 * by way of the filler (every reader skips extensions it does not know; the next change here
 * drops it), or the new one.
 */
#include <stdlib.h>

#include "qcow2-adm.h"

#define EXT_FILLER 0x746a6d70U
#define SECTOR 512u

int q2_header_get(struct q2 *q, struct qcow2_header *h)
{
	int ret = qcow2_header_parse(h, q->head, q->csize, true, q->img->name, q->err);

	if (!ret)
		qcow2_ext_set(h, EXT_FILLER, NULL, 0);
	return ret;
}

static int write_part(struct q2 *q, const uint8_t *buf, uint64_t from, uint64_t to)
{
	int ret = from < to ? q2_write(q, buf + from, to - from, from, "the header") : 0;

	return ret ? ret : q2_flush(q);
}

static uint64_t used(const uint8_t *buf, uint64_t len)
{
	while (len && !buf[len - 1])
		len--;
	return len;
}

/* @tmp: the new header by way of a filler, its area at @place instead of @area */
static void build_detour(uint8_t *tmp, const uint8_t *new, uint64_t csize, uint64_t area,
			 uint64_t place, uint64_t len)
{
	uint64_t name = get_be64(new + QH_BACKING_OFF);

	memset(tmp, 0, csize);
	memcpy(tmp, new, area);
	put_be32(tmp + area, EXT_FILLER);
	put_be32(tmp + area + 4, place - area - 8);
	memcpy(tmp + place, new + area, len);
	if (name)
		put_be64(tmp + QH_BACKING_OFF, name + (place - area));
}

static int detour(struct q2 *q, const uint8_t *new, uint8_t *tmp)
{
	uint64_t area = get_be32(new + QH_VERSION) >= 3 ? get_be32(new + QH_HEADER_LEN) : QH_V2_LEN;
	uint64_t end = MAX(used(new, q->csize), area + 8), len = round_up(end - area, 8) + 8;
	uint64_t place = MAX(round_up(MAX(used(q->head, q->csize), end), SECTOR), SECTOR);
	uint64_t last;
	int ret;

	if (area + 8 > SECTOR || !checked_range(place, len, q->csize))
		return err_set(q->err, -ENOSPC,
			       "%s: the header is to change from %llu to %llu bytes, and the first cluster of %llu bytes has no room for both",
			       q->img->name, (unsigned long long)used(q->head, q->csize),
			       (unsigned long long)end, (unsigned long long)q->csize);
	build_detour(tmp, new, q->csize, area, place, MIN(len, q->csize - area));
	last = round_up(place + len, SECTOR);
	ret = write_part(q, tmp, place, last);
	if (!ret)
		ret = write_part(q, tmp, 0, SECTOR);
	if (!ret)
		ret = write_part(q, new, SECTOR, place);
	if (!ret)
		ret = write_part(q, new, 0, SECTOR);
	memset(tmp, 0, q->csize);
	return ret ? ret : write_part(q, tmp, place, last);
}

int q2_header_put(struct q2 *q, struct qcow2_header *h)
{
	uint8_t *new = file_buf(q->csize), *tmp = file_buf(q->csize);
	uint64_t first = UINT64_MAX, last = 0;
	int ret = new && tmp ? 0 : err_errno(q->err, -ENOMEM, "%s", q->img->name);

	if (!ret)
		ret = qcow2_header_build(h, new, q->csize, q->img->name, q->err);
	for (uint64_t s = 0; !ret && s < q->csize; s += SECTOR)
		if (memcmp(new + s, q->head + s, SECTOR)) {
			first = MIN(first, s);
			last = s;
		}
	if (!ret && first != UINT64_MAX) {
		ret = q2_flush(q);
		if (!ret)
			ret = first == last ? write_part(q, new, first, first + SECTOR)
					    : detour(q, new, tmp);
	}
	if (!ret) {
		memcpy(q->head, new, q->csize);
		ret = q2_parse(q);
	}
	free(new);
	free(tmp);
	return ret;
}
