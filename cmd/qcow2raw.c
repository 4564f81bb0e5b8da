/* SPDX-License-Identifier: BSD-2-Clause */
/* qcow2raw.c - the program; what it does is in qtools.c */
#include "qtools.h"

static const struct command *const commands[] = { &command_qcow2raw, NULL };

const struct program program = {
	.name = "qcow2raw", .commands = commands, .long_options = true, .single = true,
};

int main(int argc, char **argv)
{
	return qtool_main(argc, argv);
}
