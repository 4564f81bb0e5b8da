/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * snapshot-list.c - the table that info and snapshot -l print
 */
#include <inttypes.h>
#include <time.h>

#include "cmd.h"
#include "snapshot-list.h"

/* At least @width columns and a space. */
static void print_padded(const char *text, int width)
{
	int n = print_text(stdout, text);

	printf("%*s", n < width ? width - n + 1 : 1, "");
}

static void print_row(const struct tapimg_snapshot *s)
{
	char size[32], date[32] = "", clock[40], icount[24] = "";
	uint64_t ms = s->vm_clock_nsec / 1000000;
	time_t t = (time_t)s->date_sec;
	struct tm tm;

	if (localtime_r(&t, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02u:%02u.%03u", ms / 3600000,
		 (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60), (unsigned)(ms % 1000));
	if (s->icount != -1)
		snprintf(icount, sizeof(icount), "%" PRId64, s->icount);
	print_padded(s->id, 9);
	print_padded(s->name, 16);
	printf("%8s%20s%13s%11s\n", print_size(size, s->vm_state_size), date, clock, icount);
}

void print_snapshots(const struct tapimg_info *info)
{
	printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
	       "VM CLOCK", "ICOUNT");
	for (unsigned i = 0; i < info->nsnapshots; i++)
		print_row(info->snapshots + i);
}
