/* SPDX-License-Identifier: BSD-2-Clause */
/* img2qcow.c - the program; what it does is in qtools.c */
#include "qtools.h"

static const struct command *const commands[] = { &command_img2qcow, NULL };

const struct program program = {
	.name = "img2qcow", .commands = commands, .long_options = true, .single = true,
};

int main(int argc, char **argv)
{
	return qtool_main(argc, argv);
}
