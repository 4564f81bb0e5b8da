/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-power.c - cuts the power, again and again; drive.c does one seed
 *
 *	test-power [--seeds A-B] [--cuts N] [--total CUTS] [--seconds N] [--cold] [--qemu] ...
 *
 * Without arguments: as many seeds as a bounded run allows, and with TAPIMG_LONG=1 in the
 * environment at least 100,000 cuts.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "checked.h"
#include "world.h"

struct plan {
	unsigned long long from, to;
	uint64_t total;			/* enough cuts; 0: no limit */
	unsigned seconds;		/* the same */
	bool keep_going;
};

static uint64_t campaign(const struct opts *o, const struct plan *p)
{
	struct totals t = { 0 };
	time_t start = time(NULL);
	uint64_t seed, bad = 0;

	for (seed = p->from; seed <= p->to; seed++) {
		if (!run_seed(seed, o, &t)) {
			bad++;
			if (!p->keep_going)
				break;
		}
		if ((p->total && t.cuts >= p->total) ||
		    (p->seconds && time(NULL) - start >= (time_t)p->seconds))
			break;
	}
	printf("power%s%s%s: %llu seeds, %llu cuts, %llu clean closes, %llu requests, %llu administrative "
	       "operations (%llu refused), %llu looks by qemu-img, %ld s: %llu violations\n",
	       o->format ? " " : "", o->format ? o->format : "", o->cold ? " (cold)" : "",
	       (unsigned long long)t.seeds, (unsigned long long)t.cuts,
	       (unsigned long long)t.clean, (unsigned long long)t.requests,
	       (unsigned long long)t.admin, (unsigned long long)t.refused,
	       (unsigned long long)t.qemu, (long)(time(NULL) - start), (unsigned long long)bad);
	if (t.journaled)
		printf("            with a journal: %llu operations, %llu of them found cut short\n",
		       (unsigned long long)t.journaled, (unsigned long long)t.undone);
	fflush(stdout);
	return bad;
}

/* What make check and make check-long run. */
static int standard(struct opts *o, struct plan *p)
{
	static const char *const others[] = { "vmdk", "qcow", "vhd" };
	/* a cut while a disk of several files grew, and the new one was opened */
	static const struct { const char *format; bool cold; unsigned seed; } found[] = {
		{ "vmdk", true, 600122 },
	};
	bool is_long = getenv("TAPIMG_LONG");
	unsigned bad = 0, i, k;

	p->to = UINT64_MAX;
	p->total = is_long ? 100000 : 2500;
	p->seconds = is_long ? 0 : 40;
	bad += campaign(o, p) != 0;
	o->cold = true;
	p->from = 5000000;
	p->total = is_long ? 10000 : 600;
	p->seconds = is_long ? 0 : 20;
	bad += campaign(o, p) != 0;
	for (i = 0; i < ARRAY_SIZE(others); i++) {
		o->format = others[i];
		o->cold = false;
		p->from = 1;
		p->total = is_long ? 30000 : 700;
		p->seconds = is_long ? 0 : 15;
		bad += campaign(o, p) != 0;
		o->cold = true;
		p->total = is_long ? 5000 : 150;
		p->seconds = is_long ? 0 : 5;
		bad += campaign(o, p) != 0;
	}
	for (k = 0; k < ARRAY_SIZE(found); k++) {
		o->format = found[k].format;
		o->cold = found[k].cold;
		p->from = p->to = found[k].seed;
		bad += campaign(o, p) != 0;
	}
	printf("%u passed, %u failed, 0 skipped\n", 2 + 2 * i + k - bad, bad);
	return bad != 0;
}

static int usage(void)
{
	fputs("usage: test-power [--seeds A-B] [--cuts GENERATIONS] [--total CUTS] [--seconds N]\n"
	      "                  [--mutant NUMBER] [--cold] [--qemu|--no-qemu] [--profile NAME]\n"
	      "                  [--format NAME] [--keep-going] [--tmp DIR] [--verbose]\n"
	      "profiles: mixed writes reuse flushes coded zeroes\n", stderr);
	return 2;
}

static bool seeds(const char *arg, struct plan *p)
{
	switch (sscanf(arg, "%llu-%llu", &p->from, &p->to)) {
	case 1:
		p->to = p->from;
		return true;
	case 2:
		return true;
	default:
		return false;
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seeds", 1, NULL, 's' }, { "cuts", 1, NULL, 'c' }, { "total", 1, NULL, 't' },
		{ "seconds", 1, NULL, 'S' }, { "mutant", 1, NULL, 'm' }, { "cold", 0, NULL, 'C' },
		{ "qemu", 0, NULL, 'q' }, { "no-qemu", 0, NULL, 'Q' },
		{ "profile", 1, NULL, 'p' }, { "format", 1, NULL, 'f' }, { "keep-going", 0, NULL, 'k' },
		{ "tmp", 1, NULL, 'T' }, { "verbose", 0, NULL, 'v' }, { 0 },
	};
	struct opts o = { .cuts = 5, .tmp = "/dev/shm" };
	struct plan p = { .from = 1, .to = UINT64_MAX };
	int opt;

	while ((opt = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
		switch (opt) {
		case 's':
			if (!seeds(optarg, &p))
				return usage();
			break;
		case 'c': o.cuts = atoi(optarg); break;
		case 't': p.total = strtoull(optarg, NULL, 10); break;
		case 'S': p.seconds = atoi(optarg); break;
		case 'm': o.mutant = atoi(optarg); break;
		case 'C': o.cold = true; break;
		case 'q': o.qemu = true; break;
		case 'Q': o.no_qemu = true; break;
		case 'p': o.profile = optarg; break;
		case 'f':
			if (!wformat_find(optarg))
				return usage();
			o.format = optarg;
			break;
		case 'k': p.keep_going = true; break;
		case 'T': o.tmp = optarg; break;
		case 'v': o.verbose = true; break;
		default: return usage();
		}
	}
	if (optind != argc)
		return usage();
	if (argc == 1)
		return standard(&o, &p);
	if (p.to == UINT64_MAX && !p.total && !p.seconds)
		p.to = p.from + 99;
	return campaign(&o, &p) != 0;
}
