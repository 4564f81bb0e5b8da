/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * secret.c - where the programs get the secrets of enciphered images from
 *
 * What --object gave; where nothing was given, the person at the terminal. Nothing is asked of a
 * script: standard input has to be a terminal, too.
 */
#include <fcntl.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "cmd.h"
#include "crypt.h"
#include "secret.h"
#include "target.h"

/* One line without its end; its length or a negative errno. */
static int read_line(int fd, uint8_t *buf, size_t size)
{
	size_t n = 0;
	uint8_t c;

	for (;;) {
		ssize_t got = read(fd, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got || c == '\n')
			return got || n ? (int)n : -ENOKEY;
		if (n == size)
			return -E2BIG;
		buf[n++] = c;
	}
}

/* Asks on the terminal without showing what is typed; signals wait until the terminal is as it was. */
static int ask_line(int tty, const char *question, const char *filename, uint8_t *buf, size_t size)
{
	struct termios old, quiet;
	sigset_t all, mask;
	int ret;

	if (tcgetattr(tty, &old))
		return -errno;
	quiet = old;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &mask);
	tcsetattr(tty, TCSAFLUSH, &quiet);	/* drops what was typed before the question */
	ret = dprintf(tty, "%s '%s': ", question, filename) < 0 ? -errno : read_line(tty, buf, size);
	tcsetattr(tty, TCSAFLUSH, &old);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	dprintf(tty, "\n");
	/* an interrupt character is a character then */
	if (ret > 0 && old.c_cc[VINTR] && memchr(buf, old.c_cc[VINTR], ret))
		return -ECANCELED;
	return ret;
}

static int ask_person(int tty, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	uint8_t again[1024];
	int ret = ask_line(tty, "Passphrase of", ask->filename, ask->buf, ask->size), twice;

	if (ret >= 0 && ask->create) {
		twice = ask_line(tty, "Once more, of", ask->filename, again, MIN(sizeof(again), ask->size));
		if (twice != ret || memcmp(again, ask->buf, ret) != 0)
			ret = err_set(err, -EINVAL, "that was not the same passphrase twice");
		crypt_wipe(again, sizeof(again));
		return ret;
	}
	return ret < 0 ? err_errno(err, ret, "the passphrase could not be read") : ret;
}

/* What was typed for an image that is being made: it is opened next, and its name is not yet its own. */
struct typed {
	uint8_t buf[1024];
	int len;
};

static void typed_keep(struct cli *c, const uint8_t *buf, int len)
{
	if (!c->typed)
		c->typed = calloc(1, sizeof(*c->typed));
	if (!c->typed || len > (int)sizeof(c->typed->buf))
		return;
	memcpy(c->typed->buf, buf, len);
	c->typed->len = len;
}

void cli_secrets_end(struct cli *c)
{
	secrets_free(&c->secrets);
	if (c->typed)
		crypt_wipe(c->typed, sizeof(*c->typed));
	free(c->typed);
	c->typed = NULL;
}

int cli_secret(void *cli, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	struct cli *c = cli;
	int tty, ret;

	if (c->secrets || ask->id || !isatty(STDIN_FILENO))
		return secrets_give(&c->secrets, ask, err);
	if (c->typed && !ask->create && target_unfinished(ask->filename) &&
	    (size_t)c->typed->len <= ask->size) {
		memcpy(ask->buf, c->typed->buf, c->typed->len);
		return c->typed->len;
	}
	tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		return secrets_give(&c->secrets, ask, err);
	ret = ask_person(tty, ask, err);
	close(tty);
	if (ret > 0 && ask->create)
		typed_keep(c, ask->buf, ret);
	return ret;
}
