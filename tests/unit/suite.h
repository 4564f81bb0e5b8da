/* SPDX-License-Identifier: BSD-2-Clause */
/* suite.h - how a test program ends */
#ifndef SUITE_H
#define SUITE_H

#include <check.h>

/* Runs all of @s and frees it.  What main() returns: 0 if nothing has failed.  CK_VERBOSITY says how much is told. */
int suite_run(Suite *s);

#endif
