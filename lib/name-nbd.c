/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * name-nbd.c - the node of an NBD server in a "json:" name, made a URI
 *
 * {"driver":"nbd","server":{"type":"unix","path":P},"export":E}, {"type":"inet","host":H,"port":N},
 * and as older programs wrote it, with path, or host and port, in the node itself.
 *
 * Left out: credentials by the names of QEMU's objects (a URI names files), x-dirty-bitmap.
 */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "name.h"
#include "name-nbd.h"

struct nbd_keys {
	const char *type, *path, *host, *port, *export;
	char number[24];		/* a port that is no string */
};

static int want_string(json_t *val, const char *key, const char **to, struct tapimg_err *err)
{
	if (*to)
		return err_set(err, -EINVAL, "key '%s' is given twice", key);
	*to = json_string_value(val);
	return *to ? 0 : err_set(err, -EINVAL, "key '%s' wants a string", key);
}

/* 1: no key of an address. */
static int address_key(const char *key, json_t *val, struct nbd_keys *k, struct tapimg_err *err)
{
	if (!strcmp(key, "path"))
		return want_string(val, key, &k->path, err);
	if (!strcmp(key, "host"))
		return want_string(val, key, &k->host, err);
	if (strcmp(key, "port") != 0)
		return 1;
	if (!json_is_integer(val))
		return want_string(val, key, &k->port, err);
	snprintf(k->number, sizeof(k->number), "%lld", (long long)json_integer_value(val));
	k->port = k->number;
	return 0;
}

static int server_node(json_t *node, struct nbd_keys *k, struct tapimg_err *err)
{
	const char *key;
	json_t *val;
	int ret;

	if (!json_is_object(node))
		return err_set(err, -EINVAL, "key 'server' wants an object");
	json_object_foreach(node, key, val) {
		ret = strcmp(key, "type") ? address_key(key, val, k, err) :
					    want_string(val, key, &k->type, err);
		if (ret)
			return ret < 0 ? ret : err_set(err, -EINVAL, "key 'server.%s' is not known", key);
	}
	if (!k->type)
		return err_set(err, -EINVAL, "key 'server.type' is missing");
	if (strcmp(k->type, "unix") != 0 && strcmp(k->type, "inet") != 0)
		return err_set(err, -ENOTSUP, "server.type '%s' is not supported", k->type);
	if (strcmp(k->type, "unix") ? !k->host : !k->path)
		return err_set(err, -EINVAL, "key 'server.%s' is missing", strcmp(k->type, "unix") ? "host" :
			       "path");
	return 0;
}

static void put_escaped(FILE *f, const char *s)
{
	for (; *s; s++)
		fprintf(f, isalnum((unsigned char)*s) || strchr("-._~/", *s) ? "%c" : "%%%02X",
			(unsigned char)*s);
}

static int make_uri(const struct nbd_keys *k, char **out, struct tapimg_err *err)
{
	size_t len;
	FILE *f = open_memstream(out, &len);

	if (!f)
		return err_set(err, -ENOMEM, "no memory");
	if (k->path)
		fputs("nbd+unix:///", f);
	else	/* an IPv6 address in brackets */
		fprintf(f, strchr(k->host, ':') ? "nbd://[%s]:%s/" : "nbd://%s:%s/", k->host,
			k->port ? k->port : "10809");
	if (k->export)
		put_escaped(f, k->export);
	if (k->path) {
		fputs("?socket=", f);
		put_escaped(f, k->path);
	}
	if (!fclose(f))
		return 0;
	free(*out);
	*out = NULL;
	return err_set(err, -ENOMEM, "no memory");
}

int name_nbd_node(json_t *node, bool (*is_tuning)(const char *key), char **path, struct tapimg_err *err)
{
	struct nbd_keys k = { 0 };
	const char *key;
	json_t *val;
	int ret = 0;

	if (*path)
		return err_set(err, -EINVAL, "the file is named twice");
	json_object_foreach(node, key, val) {
		if (!strcmp(key, "server"))
			ret = server_node(val, &k, err);
		else if (!strcmp(key, "export"))
			ret = want_string(val, key, &k.export, err);
		else if (strcmp(key, "driver") && strcmp(key, "reconnect-delay") &&
			 strcmp(key, "open-timeout") && !is_tuning(key))
			ret = address_key(key, val, &k, err);
		if (ret)
			return ret < 0 ? ret : err_set(err, -EINVAL, "key '%s' is not known", key);
	}
	if (!k.path == !k.host)
		return err_set(err, -EINVAL, "an NBD server is named by a path or by host and port");
	return make_uri(&k, path, err);
}
