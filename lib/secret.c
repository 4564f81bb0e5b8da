/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * secret.c - secrets by name, for programs (secret.h)
 *
 * Left out: values that are enciphered with another secret (keyid=, iv=).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checked.h"
#include "crypt.h"
#include "opt.h"
#include "secret.h"

#define SECRET_MAX (64 * 1024)

struct secrets {
	struct secrets *next;
	char *id;
	uint8_t *data;
	size_t len;
};

/* What the text says; pointers into a copy of it. */
struct words {
	const char *id, *file, *fd, *data, *format;
};

static void secret_free(struct secrets *s)
{
	if (!s)
		return;
	if (s->data)
		crypt_wipe(s->data, s->len);
	free(s->data);
	free(s->id);
	free(s);
}

void secrets_free(struct secrets **list)
{
	while (*list) {
		struct secrets *s = *list;

		*list = s->next;
		secret_free(s);
	}
}

/* The next "key=value" of a list, with doubled commas made single, in place. */
static char *next_word(char **at)
{
	char *word = *at, *r = word, *w = word;

	if (!*word)
		return NULL;
	for (; *r && (*r != ',' || r[1] == ','); r++) {
		if (*r == ',')
			r++;
		*w++ = *r;
	}
	*at = *r ? r + 1 : r;
	*w = 0;
	return word;
}

static int word_take(struct words *w, char *word, struct tapimg_err *err)
{
	static const char *const keys[] = { "id", "file", "fd", "data", "format" };
	const char **to[] = { &w->id, &w->file, &w->fd, &w->data, &w->format };
	char *eq = strchr(word, '=');

	for (size_t i = 0; eq && i < ARRAY_SIZE(keys); i++) {
		if (strlen(keys[i]) != (size_t)(eq - word) || strncmp(keys[i], word, eq - word) != 0)
			continue;
		if (*to[i])
			return err_set(err, -EINVAL, "secret: '%s' is given twice", keys[i]);
		*to[i] = eq + 1;
		return 0;
	}
	if (eq && (!strncmp(word, "keyid=", 6) || !strncmp(word, "iv=", 3)))
		return err_set(err, -ENOTSUP, "secret: values that are enciphered with another secret "
			       "(keyid, iv) are not known");
	/* the value may be the secret itself */
	return err_set(err, -EINVAL, "secret: '%.*s' is not known", eq ? (int)(eq - word) : 20, word);
}

static int words_parse(char *text, struct words *w, struct tapimg_err *err)
{
	static const char kind[] = "qom-type=";
	char *at = text, *word = next_word(&at);
	int ret = 0;

	if (word && !strncmp(word, kind, strlen(kind)))
		word += strlen(kind);
	if (!word || strcmp(word, "secret") != 0)
		return err_set(err, -EINVAL, "objects of type '%.40s' are not known, only 'secret'",
			       word ? word : "");
	while (!ret && (word = next_word(&at)))
		ret = word_take(w, word, err);
	if (ret)
		return ret;
	if (!w->id || !*w->id)
		return err_set(err, -EINVAL, "secret: it has no 'id'");
	if (!!w->file + !!w->fd + !!w->data != 1)
		return err_set(err, -EINVAL, "secret '%s': one of 'file', 'fd' and 'data' is wanted", w->id);
	if (w->format && strcmp(w->format, "raw") != 0 && strcmp(w->format, "base64") != 0)
		return err_set(err, -EINVAL, "secret '%s': the format is raw or base64, not '%s'", w->id,
			       w->format);
	return 0;
}

/* All that a descriptor has to give. */
static int read_all(int fd, const char *what, struct secrets *s, struct tapimg_err *err)
{
	s->data = malloc(SECRET_MAX + 1);
	if (!s->data)
		return err_set(err, -ENOMEM, "no memory");
	while (s->len <= SECRET_MAX) {
		ssize_t n = read(fd, s->data + s->len, SECRET_MAX + 1 - s->len);

		if (!n)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, -errno, "secret '%s': reading %s", s->id, what);
		s->len += n;
	}
	return err_set(err, -E2BIG, "secret '%s': %s holds more than %d bytes", s->id, what, SECRET_MAX);
}

static int read_file(const char *path, struct secrets *s, struct tapimg_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), ret;

	if (fd < 0)
		return err_errno(err, -errno, "secret '%s': %s", s->id, path);
	ret = read_all(fd, path, s, err);
	close(fd);
	return ret;
}

static int read_fd(const char *text, struct secrets *s, struct tapimg_err *err)
{
	uint64_t fd;
	char what[40];

	if (opt_size(text, &fd) || fd > INT32_MAX)
		return err_set(err, -EINVAL, "secret '%s': '%s' is not a descriptor", s->id, text);
	snprintf(what, sizeof(what), "descriptor %u", (unsigned)fd);
	return read_all((int)fd, what, s, err);
}

static int base64_digit(uint8_t c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

/* In place; white space counts for nothing. */
static int base64_decode(struct secrets *s)
{
	uint32_t bits = 0;
	unsigned have = 0, pad = 0, digits = 0;
	size_t out = 0;

	for (size_t i = 0; i < s->len; i++) {
		uint8_t c = s->data[i];
		int v = base64_digit(c);

		if (c == '\n' || c == '\r' || c == ' ' || c == '\t')
			continue;
		if (c == '=') {
			pad++;
			continue;
		}
		if (v < 0 || pad)
			return -EINVAL;
		digits++;
		bits = bits << 6 | (unsigned)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			s->data[out++] = bits >> have;
		}
	}
	if ((digits + pad) % 4 || pad > 2)
		return -EINVAL;
	crypt_wipe(s->data + out, s->len - out);
	s->len = out;
	return 0;
}

static int secret_read(const struct words *w, struct secrets *s, struct tapimg_err *err)
{
	int ret = 0;

	s->id = strdup(w->id);
	if (!s->id)
		return err_set(err, -ENOMEM, "no memory");
	if (w->file) {
		ret = read_file(w->file, s, err);
	} else if (w->fd) {
		ret = read_fd(w->fd, s, err);
	} else {
		s->data = (uint8_t *)strdup(w->data);
		s->len = s->data ? strlen(w->data) : 0;
		if (!s->data)
			ret = err_set(err, -ENOMEM, "no memory");
	}
	if (!ret && w->format && !strcmp(w->format, "base64") && base64_decode(s))
		ret = err_set(err, -EINVAL, "secret '%s': it is not base64", s->id);
	return ret;
}

static struct secrets *secret_find(struct secrets *list, const char *id)
{
	while (list && strcmp(list->id, id) != 0)
		list = list->next;
	return list;
}

int secrets_add(struct secrets **list, const char *text, struct tapimg_err *err)
{
	size_t len = strlen(text);
	char *copy = strdup(text);
	struct secrets *s = calloc(1, sizeof(*s));
	struct words w = { 0 };
	int ret = copy && s ? words_parse(copy, &w, err) : err_set(err, -ENOMEM, "no memory");

	if (!ret && secret_find(*list, w.id))
		ret = err_set(err, -EEXIST, "secret '%s' is given twice", w.id);
	if (!ret)
		ret = secret_read(&w, s, err);
	if (copy)
		crypt_wipe(copy, len);
	free(copy);
	if (ret) {
		secret_free(s);
		return ret;
	}
	s->next = *list;
	*list = s;
	return 0;
}

int secrets_give(void *list, const struct tapimg_secret_ask *ask, struct tapimg_err *err)
{
	struct secrets *all = *(struct secrets **)list, *s = all;

	if (ask->id)
		s = secret_find(all, ask->id);
	if (!s)
		return ask->id ? err_set(err, -ENOKEY, "there is no secret '%s'", ask->id)
			       : err_set(err, -ENOKEY, "it is enciphered, and no secret was given");
	if (!ask->id && all->next)
		return err_set(err, -ENOKEY, "it is enciphered, and which of the secrets is meant was not "
			       "said: encrypt.key-secret=ID");
	if (s->len > ask->size)
		return err_set(err, -E2BIG, "secret '%s' has %zu bytes, more than %zu", s->id, s->len,
			       ask->size);
	memcpy(ask->buf, s->data, s->len);
	return (int)s->len;
}
