/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runner.c - runs one program and says what it took
 *
 *	runner RESULT PROGRAM [ARGUMENT]...
 *
 * Writes "status wall-seconds cpu-seconds max-resident-kilobytes" to the file RESULT.  A small
 * program of its own, because the memory that the kernel reports for a child includes what its
 * parent had before exec: measured from Python it would be Python's.
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	extern char **environ;
	struct rusage use;
	double begin, wall, cpu;
	int status, err;
	pid_t pid;
	FILE *f;

	if (argc < 3)
		return 2;
	begin = now();
	err = posix_spawnp(&pid, argv[2], NULL, NULL, argv + 2, environ);
	if (err) {
		fprintf(stderr, "runner: %s: %s\n", argv[2], strerror(err));
		return 2;
	}
	if (wait4(pid, &status, 0, &use) != pid)
		return 2;
	wall = now() - begin;
	cpu = use.ru_utime.tv_sec + use.ru_stime.tv_sec +
	      (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
	f = fopen(argv[1], "w");
	if (!f)
		return 2;
	fprintf(f, "%d %.6f %.6f %ld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 255, wall, cpu,
		use.ru_maxrss);
	return fclose(f) ? 2 : 0;
}
