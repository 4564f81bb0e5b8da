/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-overlap.c - do two blocks of a table share sectors?
 *
 * All blocks are of one length, so a block overlaps any other only if it overlaps a neighbour in the
 * order of their places: one sort, and none where the blocks lie in the order of the table.
 */
#include <stdlib.h>

#include "vhd.h"

static int by_place(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Places in ascending order, each with its block in the low half; @n: how many. malloc'd. */
static uint64_t *places(const uint32_t *bat, uint32_t entries, uint32_t *n)
{
	uint64_t *v = malloc(sizeof(*v) * MAX(entries, 1));
	bool sorted = true;

	*n = 0;
	for (uint32_t i = 0; v && i < entries; i++) {
		if (bat[i] == VHD_UNUSED)
			continue;
		v[*n] = (uint64_t)bat[i] << 32 | i;
		sorted &= !*n || v[*n - 1] < v[*n];
		++*n;
	}
	if (v && !sorted)
		qsort(v, *n, sizeof(*v), by_place);
	return v;
}

static bool overlap(uint64_t a, uint64_t b, uint64_t sectors)
{
	return a < b + sectors && b < a + sectors;
}

int vhd_overlap(const uint32_t *bat, uint32_t entries, uint64_t sectors, uint32_t *block,
		uint32_t *other)
{
	uint32_t n, first = UINT32_MAX;
	uint64_t *v = places(bat, entries, &n);

	if (!v)
		return -ENOMEM;
	for (uint32_t i = 1; i < n; i++) {
		if (overlap(v[i - 1] >> 32, v[i] >> 32, sectors))
			first = MIN(first, MIN((uint32_t)v[i - 1], (uint32_t)v[i]));
	}
	free(v);
	if (first == UINT32_MAX)
		return 0;
	*block = first;
	for (uint32_t j = 0; j < entries; j++) {
		if (j == first || bat[j] == VHD_UNUSED || !overlap(bat[first], bat[j], sectors))
			continue;
		*other = j;
		break;
	}
	return 1;
}
