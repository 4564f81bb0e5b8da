/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-device.c - the paths that chains of volumes go by
 *
 * Parents are named relative to the folder of the child.  A logical volume has two names, /dev/VG/LV
 * and /dev/mapper/VG-LV (dashes within VG and LV doubled); Xen's tools always take the second, so
 * that all volumes lie in one folder.  It is a link too, and stays one.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vhd.h"

#define DEV "/dev/"
#define MAPPER "/dev/mapper/"

/* /dev/VG/LV as /dev/mapper has it, malloc'd; NULL: it is no such path */
static char *mapper_twin(const char *path)
{
	const char *p = path + strlen(DEV), *slash;
	char *out, *o;

	if (strncmp(path, DEV, strlen(DEV)))
		return NULL;
	slash = strchr(p, '/');
	if (!slash || strchr(slash + 1, '/') || !slash[1] || slash == p)
		return NULL;
	out = malloc(sizeof(MAPPER) + 2 * strlen(p));
	if (!out)
		return NULL;
	o = stpcpy(out, MAPPER);
	for (; *p; p++) {
		if (*p == '-')
			*o++ = '-';
		*o++ = *p == '/' ? '-' : *p;
	}
	*o = 0;
	return out;
}

/* "/dev/mapper/./LV" without detours, though the last part is a link; NULL: it is not there */
static char *mapper_path(const char *path)
{
	const char *base = strrchr(path, '/') + 1;
	char *out = NULL;

	if (!*base || asprintf(&out, MAPPER "%s", base) < 0)
		return NULL;
	if (!access(out, F_OK))
		return out;
	free(out);
	return NULL;
}

char *vhd_device_path(const char *path)
{
	char *twin;

	if (!strncmp(path, MAPPER, strlen(MAPPER)))
		return mapper_path(path);
	twin = mapper_twin(path);
	if (twin && !access(twin, F_OK))
		return twin;
	free(twin);
	return realpath(path, NULL);
}
