/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util.c - the program: VHD disks, with the command line of Xen's tool of that name
 */
#include "vhd-util.h"

static const struct command *const commands[] = {
	&command_vhd_create, &command_vhd_snapshot, &command_vhd_query, &command_vhd_read,
	&command_vhd_set, &command_vhd_repair, &command_vhd_resize, &command_vhd_fill,
	&command_vhd_coalesce, &command_vhd_modify, &command_vhd_scan, &command_vhd_check,
	&command_vhd_revert, &command_vhd_key, &command_vhd_copy, NULL
};

const struct program program = { .name = "vhd-util", .commands = commands, .invalid = "invalid" };

int main(int argc, char **argv)
{
	return util_main(argc, argv);
}
