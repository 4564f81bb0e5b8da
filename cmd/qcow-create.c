/* SPDX-License-Identifier: BSD-2-Clause */
/* qcow-create.c - the program; what it does is in qtools.c */
#include "qtools.h"

static const struct command *const commands[] = { &command_qcow_create, NULL };

const struct program program = {
	.name = "qcow-create", .commands = commands, .long_options = true, .single = true,
};

int main(int argc, char **argv)
{
	return qtool_main(argc, argv);
}
