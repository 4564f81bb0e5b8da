/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qtools.h - the programs that Xen's manual names: qcow-create, img2qcow, qcow2raw
 *
 * Their command lines are those of Xen's blktap.  What differs is what hurt there: nothing is
 * printed in scripts, failures have exit codes, an old file stays until the new one is complete, and is
 * replaced only if that was asked for.
 */
#ifndef QTOOLS_H
#define QTOOLS_H

#include "cmd.h"

extern const struct command command_qcow_create, command_img2qcow, command_qcow2raw;

/*
 * main() of a program that is one command (program.single); 255: a wrong command line.  Knows
 * --version, --completion=SHELL and --list-commands[=json] beside the command's own options.
 */
int qtool_main(int argc, char **argv);

#endif
