/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * test-mutants.c - the power tests' own test: the metadata cache with one rule broken
 *
 *	test-mutants [NAME] [--format FORMAT] [--verbose]
 *
 * Each mutant (META_MUTANT_* of meta.h) must be found out within a bounded number of seeds, by the
 * same driver and oracle that the real thing has to pass. A mutant that survives is a failure: then
 * the tests would not notice that mistake.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "world.h"

#define MOST_SEEDS 3000

static const char *const mutants[META_MUTANTS] = {
	[META_MUTANT_NO_FIRST_FLUSH] = "no-first-flush",
	[META_MUTANT_NO_RANK_FLUSH] = "no-rank-flush",
	[META_MUTANT_REVERSED] = "reversed",
	[META_MUTANT_EARLY_RELEASE] = "early-release",
	[META_MUTANT_NO_GENERATION] = "no-generation",
	[META_MUTANT_NO_FROZEN] = "no-frozen",
	[META_MUTANT_EARLY_COMMIT] = "early-commit",
	[META_MUTANT_JOIN_EPOCH] = "join-epoch",
};

/* Formats in which each mistake would show. */
static const char *const formats[] = { NULL, "vmdk", "qcow", "vhd" };

/*
 * Where a hunt would be long, a seed that is known to find it comes first. Only time is won by it:
 * should that seed miss once the drivers or the load have changed, the hunt begins at 1 as ever.
 */
static const struct {
	const char *format;
	unsigned mutant;
	uint64_t seed;
} known[] = {
	{ NULL, META_MUTANT_NO_GENERATION, 206 },
	{ "vmdk", META_MUTANT_NO_GENERATION, 2081 },
	{ "vmdk", META_MUTANT_NO_FROZEN, 79 },
	{ "qcow", META_MUTANT_NO_GENERATION, 530 },
	{ "qcow", META_MUTANT_REVERSED, 106 },
	{ "vhd", META_MUTANT_NO_GENERATION, 1159 },
	{ "vhd", META_MUTANT_REVERSED, 79 },
};

static bool same_format(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static uint64_t first_seed(const struct opts *o)
{
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].mutant == o->mutant && same_format(known[i].format, o->format))
			return known[i].seed;
	return 1;
}

static bool hunt(struct opts *o, unsigned mutant)
{
	struct totals t = { 0 };
	uint64_t seed, n;

	o->mutant = mutant;
	for (n = 0, seed = first_seed(o); n <= MOST_SEEDS; seed = ++n)
		if (!run_seed(seed, o, &t)) {
			printf("%s%s%-15s caught by seed %llu after %llu cuts: %s\n", o->format ? o->format : "",
			       o->format ? " " : "", mutants[mutant], (unsigned long long)seed,
			       (unsigned long long)t.cuts, t.why);
			fflush(stdout);
			return true;
		}
	printf("%-15s SURVIVED %llu seeds, %llu cuts\n", mutants[mutant],
	       (unsigned long long)t.seeds, (unsigned long long)t.cuts);
	return false;
}

int main(int argc, char **argv)
{
	struct opts o = { .cuts = 5, .tmp = "/dev/shm", .no_qemu = true };
	const char *only = NULL, *format = NULL;
	unsigned m, f, caught = 0, missed = 0;
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--verbose"))
			o.verbose = true;
		else if (!strcmp(argv[i], "--format") && i + 1 < argc)
			format = argv[++i];
		else
			only = argv[i];
	}
	for (f = 0; f < ARRAY_SIZE(formats); f++)
		for (m = 1; m < META_MUTANTS; m++) {
			o.format = formats[f];
			if ((only && strcmp(only, mutants[m])) ||
			    (format && strcmp(format, o.format ? o.format : "qcow2")))
				continue;
			if (hunt(&o, m))
				caught++;
			else
				missed++;
		}
	printf("%u passed, %u failed, 0 skipped\n", caught, missed);
	return missed || !caught;
}
