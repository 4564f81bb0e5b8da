/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * progress.c - how far a long operation is
 *
 * On a terminal one line is repainted: percentage, amount, rate over the last seconds and the time
 * left at that rate.  Elsewhere the line is "    (12.34/100%)" and a carriage return.  For programs:
 * one JSON object a line on stderr, so that stdout stays the result's.  Without -p SIGUSR1 prints
 * one line; the signal is blocked and looked for between two reports, so no handler runs anywhere.
 */
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cmd.h"

#define NS_PER_S 1000000000ULL
#define REPAINT_NS (NS_PER_S / 10)
#define JSON_NS (NS_PER_S / 4)
#define SAMPLE_NS (NS_PER_S / 2)	/* 16 of them: the rate looks 8 s back */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int cli_progress_mode(const struct cli *c, const char *arg, enum progress_mode *mode)
{
	if (!arg || !strcmp(arg, "human")) {
		*mode = PROGRESS_HUMAN;
	} else if (!strcmp(arg, "json")) {
		*mode = PROGRESS_JSON;
	} else {
		cli_usage_error(c, "--progress=%s: only 'json' and 'human' are known", arg);
		return -1;
	}
	return 0;
}

void progress_start(struct progress *p, const struct cli *c, enum progress_mode mode)
{
	sigset_t set;

	memset(p, 0, sizeof(*p));
	p->mode = mode;
	p->verb = c->command->name;
	p->out = stdout;
	p->tty = isatty(STDOUT_FILENO);
	p->start_ns = now_ns();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void progress_to_stderr(struct progress *p)
{
	p->out = stderr;
	p->tty = isatty(STDERR_FILENO);
}

static double percent(const struct progress *p)
{
	return p->total ? 100.0 * (double)p->done / (double)p->total : 100.0;
}

/* Bytes a second since the oldest sample kept. */
static double rate(const struct progress *p, uint64_t now)
{
	unsigned oldest = p->npast > ARRAY_SIZE(p->past) ? p->npast % ARRAY_SIZE(p->past) : 0;
	uint64_t ns = p->npast ? p->past[oldest].ns : p->start_ns;
	uint64_t done = p->npast ? p->past[oldest].done : 0;

	if (now <= ns || p->done < done)
		return 0;
	return (double)(p->done - done) * (double)NS_PER_S / (double)(now - ns);
}

static void sample(struct progress *p, uint64_t now)
{
	unsigned last = (p->npast + ARRAY_SIZE(p->past) - 1) % ARRAY_SIZE(p->past);

	if (p->npast && now - p->past[last].ns < SAMPLE_NS)
		return;
	p->past[p->npast % ARRAY_SIZE(p->past)].ns = now;
	p->past[p->npast % ARRAY_SIZE(p->past)].done = p->done;
	/* stays between size and 2 * size once the ring is full, so that it never wraps */
	if (++p->npast == 2 * ARRAY_SIZE(p->past))
		p->npast = ARRAY_SIZE(p->past);
}

static void print_left(FILE *out, double seconds)
{
	unsigned long s = (unsigned long)(seconds + 0.5);

	if (s >= 360000)
		fprintf(out, ", days left");
	else if (s >= 3600)
		fprintf(out, ", %lu:%02lu:%02lu left", s / 3600, s / 60 % 60, s % 60);
	else
		fprintf(out, ", %lu:%02lu left", s / 60, s % 60);
}

static void paint(const struct progress *p, uint64_t now)
{
	char done[32], total[32], speed[32];
	double r = rate(p, now);

	fprintf(p->out, "    (%3.2f/100%%)", percent(p));
	if (p->tty) {
		fprintf(p->out, " %s of %s", print_size(done, p->done), print_size(total, p->total));
		if (r >= 1) {
			fprintf(p->out, ", %s/s", print_size(speed, (uint64_t)r));
			if (p->done < p->total)
				print_left(p->out, (double)(p->total - p->done) / r);
		}
		fputs("\033[K", p->out);
	}
	putc('\r', p->out);
	fflush(p->out);
}

static void paint_json(const struct progress *p, uint64_t now, const char *state)
{
	double r = rate(p, now);

	fprintf(stderr, "{ \"verb\": \"%s\", \"state\": \"%s\", \"done\": %llu, \"total\": %llu, "
		"\"percent\": %.2f, \"bytes-per-second\": %.0f, \"elapsed\": %.3f", p->verb, state,
		(unsigned long long)p->done, (unsigned long long)p->total, percent(p), r,
		(double)(now - p->start_ns) / NS_PER_S);
	if (r >= 1)
		fprintf(stderr, ", \"left\": %.1f", (double)(p->total - p->done) / r);
	fputs("}\n", stderr);
}

static bool asked(void)
{
	static const struct timespec none;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return sigtimedwait(&set, NULL, &none) == SIGUSR1;
}

int progress_report(void *arg, uint64_t done, uint64_t total)
{
	struct progress *p = arg;
	uint64_t now = now_ns();

	p->done = MIN(done, total);
	p->total = total;
	if (p->begun && now < p->next_ns)
		return 0;
	p->begun = true;
	sample(p, now);
	p->next_ns = now + (p->mode == PROGRESS_JSON ? JSON_NS : REPAINT_NS);
	if (p->mode == PROGRESS_JSON) {
		paint_json(p, now, "running");
	} else if (p->mode == PROGRESS_HUMAN) {
		paint(p, now);
	} else if (asked()) {
		fprintf(p->out, "    (%3.2f/100%%)\n", percent(p));
		fflush(p->out);
	}
	return 0;
}

void progress_end(struct progress *p, bool ok)
{
	uint64_t now = now_ns();

	if (ok)
		p->done = p->total;
	if (p->mode == PROGRESS_JSON) {
		paint_json(p, now, ok ? "done" : "failed");
	} else if (p->mode == PROGRESS_HUMAN) {
		if (ok || p->begun)
			paint(p, now);
		putc('\n', p->out);
		fflush(p->out);
	}
}
