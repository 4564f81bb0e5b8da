/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * main.c - runs a fuzz target over files and folders: the regression test of the corpus
 *
 * Besides not crashing, no input may need much memory: the process's peak is watched.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define MOST_INPUT (16u << 20)
#define MOST_RSS_KB (512 * 1024)

static unsigned run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *buf = malloc(MOST_INPUT);
	struct rusage ru;
	size_t n;

	if (!f || !buf) {
		perror(path);
		exit(1);
	}
	n = fread(buf, 1, MOST_INPUT, f);
	fclose(f);
	alarm(20);
	LLVMFuzzerTestOneInput(buf, n);
	alarm(0);
	free(buf);
	getrusage(RUSAGE_SELF, &ru);
	if (ru.ru_maxrss > MOST_RSS_KB && !getenv("ASAN_OPTIONS")) {
		fprintf(stderr, "%s: %ld KB of memory\n", path, ru.ru_maxrss);
		exit(1);
	}
	return 1;
}

static unsigned run_path(const char *path)
{
	struct dirent **list;
	struct stat st;
	unsigned done = 0;
	int n, i;

	if (stat(path, &st)) {
		perror(path);
		exit(1);
	}
	if (!S_ISDIR(st.st_mode))
		return run_file(path);
	n = scandir(path, &list, NULL, alphasort);
	for (i = 0; i < n; i++) {
		char sub[4096];

		snprintf(sub, sizeof(sub), "%s/%s", path, list[i]->d_name);
		if (list[i]->d_name[0] != '.')
			done += run_path(sub);
		free(list[i]);
	}
	free(list);
	return done;
}

int main(int argc, char **argv)
{
	unsigned done = 0;
	int i;

	for (i = 1; i < argc; i++)
		done += run_path(argv[i]);
	printf("%u inputs\n", done);
	return !done;
}
