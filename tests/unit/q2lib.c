/* SPDX-License-Identifier: BSD-2-Clause */
/* q2lib.c - qcow2 images made, looked into and damaged by hand, and judged by two programs */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "q2lib.h"

void q2_make(const char *name, uint64_t size, const char *opts)
{
	struct tapimg_opt list[16];
	struct tapimg_create_opts o = {.format = "qcow2", .size = size, .opts = list};
	struct tapimg_err err = {0};
	char *copy = strdup(opts ? opts : ""), *at = copy, *one;
	int ret;

	while ((one = strsep(&at, ",")) && *one) {
		list[o.nopts].name = strsep(&one, "=");
		list[o.nopts++].value = one;
	}
	ret = tapimg_create(loop, name, &o, &err);
	ck_assert_msg(!ret, "create %s: %s", name, err.text);
	free(copy);
}

static void keep_line(void *arg, char severity, const char *line)
{
	struct q2_result *r = arg;
	size_t at = strlen(r->text);

	snprintf(r->text + at, sizeof(r->text) - at, "%c %s\n", severity, line);
}

const struct q2_result *q2_check(const char *name, unsigned fix)
{
	static struct q2_result r;
	struct tapimg *img = open_image(name, "qcow2", TAPIMG_CHECK | TAPIMG_NO_BACKING |
					 (fix ? TAPIMG_RDWR : 0));
	struct tapimg_err err = {0};
	int ret;

	memset(&r, 0, sizeof(r));
	ret = tapimg_check(img, fix, &r.c, keep_line, &r, &err);
	ck_assert_msg(!ret, "check %s: %s", name, err.text);
	close_image(img);
	return &r;
}

bool q2_have_peer(void)
{
	static int have = -1;

	if (have < 0) {
		have = !system("qemu-img --version >/dev/null 2>&1");
		if (!have)
			printf("qemu-img is not installed: its opinion is left out\n");
	}
	return have;
}

int q2_peer_check(const char *name, int instead)
{
	char cmd[300];
	int st;

	if (!q2_have_peer())
		return instead;
	snprintf(cmd, sizeof(cmd), "qemu-img check -q -f qcow2 %s >peer.out 2>&1", name);
	st = system(cmd);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

const char *q2_shell(const char *fmt, ...)
{
	static char out[65536];
	char cmd[2000];
	size_t n;
	va_list ap;
	FILE *p;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	p = popen(cmd, "r");
	ck_assert_ptr_nonnull(p);
	n = fread(out, 1, sizeof(out) - 1, p);
	out[n] = 0;
	ck_assert_msg(pclose(p) == 0, "%s: %s", cmd, out);
	return out;
}

void q2_clean(const char *name)
{
	const struct q2_result *r = q2_check(name, 0);

	ck_assert_msg(!r->c.corruptions && !r->c.leaks && !r->c.check_errors, "%s: %.3000s", name, r->text);
	ck_assert_msg(q2_peer_check(name, 0) == 0, "%s: qemu-img check finds something: %s", name,
		      q2_have_peer() ? q2_shell("cat peer.out") : "");
}

uint64_t q2_peek(uint64_t off, unsigned bytes)
{
	uint8_t b[8] = {0};
	int fd = open(IMG, O_RDONLY);

	ck_assert_int_eq(pread(fd, b + 8 - bytes, bytes, off), bytes);
	close(fd);
	return get_be64(b);
}

void q2_poke(uint64_t off, uint64_t value, unsigned bytes)
{
	uint8_t b[8];
	int fd = open(IMG, O_WRONLY);

	put_be64(b, value);
	ck_assert_int_eq(pwrite(fd, b + 8 - bytes, bytes, off), bytes);
	close(fd);
}

uint64_t q2_file_size(const char *name)
{
	struct stat st;

	ck_assert_int_eq(stat(name, &st), 0);
	return st.st_size;
}

uint64_t q2_l1(unsigned i)
{
	return q2_peek(QH_L1_OFF, 8) + 8 * i;
}

uint64_t q2_l2(uint64_t guest)
{
	unsigned bits = q2_peek(QH_CLUSTER_BITS, 4);
	unsigned step = q2_peek(QH_VERSION, 4) == 3 && q2_peek(QH_INCOMPAT, 8) & QCOW2_INCOMPAT_EXTL2
			? 16 : 8;
	uint64_t per = (1ULL << bits) / step, c = guest >> bits;

	return (q2_peek(q2_l1(c / per), 8) & QCOW2_OFF_MASK) + c % per * step;
}

uint64_t q2_rc(uint64_t host)
{
	unsigned bits = q2_peek(QH_CLUSTER_BITS, 4);
	uint64_t c = host >> bits, per = 1ULL << (bits - 1);

	return q2_peek(q2_peek(QH_RT_OFF, 8) + c / per * 8, 8) + c % per * 2;
}

void q2_fill(struct tapimg *img, unsigned from, unsigned n, unsigned add)
{
	uint8_t *buf = malloc(CL);

	for (unsigned i = from; i < from + n; i++) {
		memset(buf, i + add, CL);
		ck_assert_int_eq(tapimg_pwrite(img, buf, CL, i * CL), 0);
	}
	free(buf);
}

void q2_fill_file(const char *name, unsigned from, unsigned n, unsigned add)
{
	struct tapimg *img = open_image(name, "qcow2", TAPIMG_RDWR);

	q2_fill(img, from, n, add);
	close_image(img);
}

void q2_expect(const char *name, unsigned i, uint8_t byte)
{
	struct tapimg *img = open_image(name, "qcow2", 0);
	uint8_t *buf = malloc(CL);

	ck_assert_int_eq(tapimg_pread(img, buf, CL, i * CL), 0);
	close_image(img);
	for (unsigned k = 0; k < CL; k++)
		if (buf[k] != byte)	/* each assertion writes to a pipe */
			ck_abort_msg("cluster %u, byte %u is %u, not %u", i, k, buf[k], byte);
	free(buf);
}
