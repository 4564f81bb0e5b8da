/* SPDX-License-Identifier: BSD-2-Clause */
/* q2lib.h - qcow2 images made, looked into and damaged by hand, and judged by two programs */
#ifndef Q2LIB_H
#define Q2LIB_H

#include "checked.h"
#include "endian.h"
#include "qcow2.h"
#include "scratch.h"

#define IMG "t.qcow2"
#define DISK (4 * MiB)
#define CL 65536ULL

/* Options as "name=value,name=value"; NULL: none. */
void q2_make(const char *name, uint64_t size, const char *opts);
/* What tapimg_check() found; lines of its report, each with its severity, one after the other. */
struct q2_result {
	struct tapimg_check c;
	char text[65536];
};
const struct q2_result *q2_check(const char *name, unsigned fix);
void q2_clean(const char *name);	/* no findings here, none by qemu-img if there is one */
/* Exit status of "qemu-img check -q"; @instead if there is no qemu-img, which is said once. */
int q2_peer_check(const char *name, int instead);
/* Output of a shell command; the test fails if it does. */
const char *q2_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool q2_have_peer(void);

uint64_t q2_peek(uint64_t off, unsigned bytes);		/* of IMG, big-endian */
void q2_poke(uint64_t off, uint64_t value, unsigned bytes);
uint64_t q2_file_size(const char *name);
uint64_t q2_l1(unsigned i);		/* file offset of the active L1's entry */
uint64_t q2_l2(uint64_t guest);		/* of the L2 entry */
uint64_t q2_rc(uint64_t host);		/* of the 16-bit count of a cluster */

/* A disk of 4 MiB: @n clusters from @from, each full of its number plus @add. */
void q2_fill(struct tapimg *img, unsigned from, unsigned n, unsigned add);
void q2_fill_file(const char *name, unsigned from, unsigned n, unsigned add);
/* Whether cluster @i of IMG is full of @byte. */
void q2_expect(const char *name, unsigned i, uint8_t byte);

#endif
