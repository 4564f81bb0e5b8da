/* SPDX-License-Identifier: BSD-2-Clause */
/* rss.c - runs a program with its output thrown away and prints its peak resident KiB */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct rusage use;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &use) != pid || status)
		return 1;
	printf("%ld\n", use.ru_maxrss);
	return 0;
}
