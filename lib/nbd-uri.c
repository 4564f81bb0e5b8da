/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-uri.c - names of exports taken apart
 *
 * The URI scheme of the NetworkBlockDevice project (doc/uri.md) with the query parameters of libnbd
 * (socket, tls-certificates, tls-psk-file, tls-verify-peer, tls-username, tls-hostname), and the two
 * spellings that QEMU had before.
 *
 * Left out: nbd+vsock and nbd+ssh.
 */
#include <stdlib.h>
#include <string.h>

#include "nbd-client.h"
#include "opt.h"

static int hex(char ch)
{
	const char *digits = "0123456789abcdef";
	const char *p = ch ? strchr(digits, ch >= 'A' && ch <= 'F' ? ch + 32 : ch) : NULL;

	return p ? (int)(p - digits) : -1;
}

/* [from, to) with %XX decoded, malloc'd. NULL: no memory, a bad escape or a NUL. */
static char *decode(const char *from, const char *to)
{
	char *out = malloc(to - from + 1), *w = out;

	while (out && from < to) {
		int hi, lo;

		if (*from != '%') {
			*w++ = *from++;
			continue;
		}
		hi = to - from >= 3 ? hex(from[1]) : -1;
		lo = hi >= 0 ? hex(from[2]) : -1;
		if (lo < 0 || !(hi << 4 | lo)) {
			free(out);
			return NULL;
		}
		*w++ = (char)(hi << 4 | lo);
		from += 3;
	}
	if (out)
		*w = 0;
	return out;
}

static bool set(char **to, const char *from, const char *end)
{
	free(*to);
	*to = decode(from, end);
	return *to;
}

void nbd_uri_free(struct nbd_uri *u)
{
	free(u->socket);
	free(u->host);
	free(u->port);
	free(u->export);
	free(u->certs);
	free(u->psk_file);
	free(u->user);
	free(u->tls_host);
	memset(u, 0, sizeof(*u));
}

/* "key=value" of the query. */
static bool take_param(struct nbd_uri *u, const char *from, const char *end)
{
	const char *eq = memchr(from, '=', end - from);
	size_t n = eq ? (size_t)(eq - from) : (size_t)(end - from);
	static const char *const names[] = {
		"socket", "tls-certificates", "tls-psk-file", "tls-username", "tls-hostname",
	};
	char **to[] = { &u->socket, &u->certs, &u->psk_file, &u->user, &u->tls_host };
	char *value = NULL;
	bool good;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (n == strlen(names[i]) && !memcmp(from, names[i], n))
			return eq && eq + 1 < end && set(to[i], eq + 1, end);
	if (n != strlen("tls-verify-peer") || memcmp(from, "tls-verify-peer", n) != 0 || !eq)
		return false;
	good = set(&value, eq + 1, end) && !opt_bool(value, &u->verify);
	free(value);
	return good;
}

static bool take_query(struct nbd_uri *u, const char *p)
{
	while (*p) {
		const char *end = p + strcspn(p, "&;");

		if (end > p && !take_param(u, p, end))
			return false;
		p = *end ? end + 1 : end;
	}
	return true;
}

/* "[user@]host[:port]" */
static bool take_authority(struct nbd_uri *u, const char *p, const char *end)
{
	const char *at = memchr(p, '@', end - p), *host_end = end, *colon;

	if (at) {
		if (!set(&u->user, p, at))
			return false;
		p = at + 1;
	}
	colon = memrchr(p, ':', end - p);
	if (p < end && *p == '[') {
		host_end = memchr(p, ']', end - p);
		if (!host_end)
			return false;
		p++;
		colon = host_end + 1 < end ? host_end + 1 : NULL;
		if (colon && *colon != ':')
			return false;
	} else if (colon) {
		host_end = colon;
	}
	if (!set(&u->host, p, host_end))
		return false;
	return colon && colon + 1 < end ? set(&u->port, colon + 1, end)
					: (u->port = strdup(NBD_PORT)) != NULL;
}

/* What follows "scheme://". */
static bool take_uri(struct nbd_uri *u, const char *p, bool over_unix)
{
	const char *query = strchr(p, '?'), *end = query ? query : p + strcspn(p, "#");
	const char *slash = memchr(p, '/', end - p), *host_end = slash ? slash : end;

	if (!set(&u->export, slash ? slash + 1 : end, end) || (query && !take_query(u, query + 1)))
		return false;
	if (over_unix) {
		const char *at = memchr(p, '@', host_end - p);

		return u->socket && (!at || set(&u->user, p, at));
	}
	return !u->socket && take_authority(u, p, host_end) && u->host[0];
}

/* "unix:path" or "host:port", then maybe ":exportname=name". */
static bool take_old(struct nbd_uri *u, const char *p)
{
	const char *name = strstr(p, ":exportname="), *end = name ? name : p + strlen(p), *colon;

	u->export = strdup(name ? name + strlen(":exportname=") : "");
	if (!u->export)
		return false;
	if (!strncmp(p, "unix:", 5)) {
		u->socket = strndup(p + 5, end - p - 5);
		return u->socket && u->socket[0];
	}
	colon = memrchr(p, ':', end - p);
	if (!colon || colon == p || colon + 1 == end)
		return false;
	u->host = strndup(p, colon - p);
	u->port = strndup(colon + 1, end - colon - 1);
	return u->host && u->port;
}

int nbd_uri_parse(const char *text, struct nbd_uri *u, struct tapimg_err *err)
{
	static const struct { const char *prefix; bool tls, over_unix; } schemes[] = {
		{ "nbd+unix://", false, true }, { "nbds+unix://", true, true },
		{ "nbd://", false, false }, { "nbds://", true, false },
	};
	const char *p = NULL;
	bool good;

	memset(u, 0, sizeof(*u));
	u->verify = true;
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]) && !p; i++) {
		if (strncmp(text, schemes[i].prefix, strlen(schemes[i].prefix)) != 0)
			continue;
		p = text + strlen(schemes[i].prefix);
		u->tls = schemes[i].tls;
		good = take_uri(u, p, schemes[i].over_unix);
	}
	if (!p)
		good = !strncmp(text, "nbd:", 4) && take_old(u, text + 4);
	if (good && strlen(u->export) <= NBD_STRING_MAX)
		return 0;
	nbd_uri_free(u);
	return err_set(err, -EINVAL, "%s: is not the name of an NBD export "
		       "(nbd://host[:port]/export, nbd+unix:///export?socket=path)", text);
}
