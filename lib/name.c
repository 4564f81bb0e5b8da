/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * name.c - names of images as people and images write them
 *
 * Three kinds: a path; a scheme, a colon and what its provider understands ("file:" is a path
 * again); "json:" and an object.  The object describes one layer as a tree of drivers (a format
 * over a file), either nested or with dotted keys ("file.filename"), and possibly what lies below.
 * Keys that only tune how a file is used are accepted and ignored, since images store them in
 * their backing names; a key that could change what is read and is not understood is refused.
 *
 * Left out: trees with filters or with more than one format over a file, and references to nodes by
 * name, for there are none here: a string where a node could be stands for a file's name.
 */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "image.h"
#include "name.h"
#include "name-nbd.h"
#include "opt.h"

#define NAME_JSON_MAX (64 * 1024)
#define NAME_NEST_MAX 64

bool name_has_scheme(const char *name)
{
	const char *p = name;

	if (!isalpha((unsigned char)*p))
		return false;
	while (isalnum((unsigned char)*p) || *p == '+' || *p == '-' || *p == '.')
		p++;
	return *p == ':';
}

static const char *strip_file(const char *name)
{
	return strncmp(name, "file:", 5) ? name : name + 5;
}

char *name_resolve(const char *base, const char *rel)
{
	const char *slash, *start = base;
	size_t len;
	char *out;

	if (rel[0] == '/' || name_has_scheme(rel))
		return strdup(rel);
	base = strip_file(base);
	if (name_has_scheme(base))
		start = strchr(base, ':') + 1;
	else
		start = base;
	slash = strrchr(start, '/');
	len = (slash ? slash + 1 : start) - base;
	out = malloc(len + strlen(rel) + 1);
	if (!out)
		return NULL;
	memcpy(out, base, len);
	memcpy(out + len, rel, strlen(rel) + 1);
	return out;
}

/* ---------------------------------------------------------------- json: names */

/* Where the value of "a.b.c" belongs: makes the objects a and b inside @obj. */
static json_t *dotted_parent(json_t *obj, const char **key)
{
	const char *dot;
	unsigned depth = 0;

	while ((dot = strchr(*key, '.'))) {
		char *head = strndup(*key, dot - *key);
		json_t *sub = head ? json_object_get(obj, head) : NULL;

		if (!head || ++depth > NAME_NEST_MAX) {
			free(head);
			return NULL;
		}
		if (!sub) {
			sub = json_object();
			if (json_object_set_new(obj, head, sub))
				sub = NULL;
		}
		free(head);
		if (!json_is_object(sub))
			return NULL;
		obj = sub;
		*key = dot + 1;
	}
	return obj;
}

/* A copy of @in with dotted keys spread out into objects; NULL: no memory, too deep, or a clash. */
static json_t *undot(json_t *in, unsigned depth)
{
	json_t *out = json_object(), *val;
	const char *whole;

	if (!out || depth > NAME_NEST_MAX)
		goto bad;
	json_object_foreach(in, whole, val) {
		const char *key = whole;
		json_t *copy = json_is_object(val) ? undot(val, depth + 1) : json_incref(val);
		json_t *parent = dotted_parent(out, &key);
		json_t *old = parent ? json_object_get(parent, key) : NULL;

		if (!copy || !parent || (old && !(json_is_object(old) && json_is_object(copy)))) {
			json_decref(copy);
			goto bad;
		}
		if (old) {
			size_t both = json_object_size(old) + json_object_size(copy);
			int ret = json_object_update_missing(old, copy);

			json_decref(copy);
			if (ret || json_object_size(old) != both)
				goto bad;
		} else if (json_object_set_new(parent, key, copy)) {
			goto bad;
		}
	}
	return out;
bad:
	json_decref(out);
	return NULL;
}

/* Keys that change how, not what: no part in finding the bytes. */
static const char *const tuning[] = {
	"node-name", "read-only", "auto-read-only", "force-share", "cache", "discard",
	"detect-zeroes", "locking", "aio", "aio-max-batch", "drop-cache", "x-check-cache-dropped",
	"pr-manager", "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot",
	"pass-discard-other", "discard-no-unref", "overlap-check", "cache-size", "l2-cache-size",
	"l2-cache-entry-size", "refcount-cache-size", "cache-clean-interval",
};

static bool is_tuning(const char *key)
{
	for (size_t i = 0; i < sizeof(tuning) / sizeof(tuning[0]); i++)
		if (!strcmp(key, tuning[i]))
			return true;
	return false;
}

static bool is_file_driver(const char *driver)
{
	return !strcmp(driver, "file") || !strcmp(driver, "host_device");
}

static int set_string(char **to, const char *key, json_t *val, struct tapimg_err *err)
{
	if (!json_is_string(val))
		return err_set(err, -EINVAL, "key '%s' wants a string", key);
	if (!json_string_value(val)[0])
		return err_set(err, -EINVAL, "key '%s' is empty", key);
	if (*to)
		return err_set(err, -EINVAL, "key '%s' is given twice", key);
	*to = strdup(json_string_value(val));
	return *to ? 0 : err_set(err, -ENOMEM, "no memory");
}

static int set_size(uint64_t *to, const char *key, json_t *val, struct tapimg_err *err)
{
	if (json_is_integer(val) && json_integer_value(val) >= 0) {
		*to = json_integer_value(val);
		return 0;
	}
	if (json_is_string(val) && !opt_size(json_string_value(val), to))
		return 0;
	return err_set(err, -EINVAL, "key '%s' wants a size", key);
}

static bool is_nbd(json_t *node)
{
	const char *driver = json_string_value(json_object_get(node, "driver"));

	return driver && !strcmp(driver, "nbd");
}

/*
 * The file's name out of the node under @key: {"driver":"file","filename":"x"} or just "x"; of an
 * NBD server its URI.
 */
static int file_node(json_t *node, const char *where, char **path, struct tapimg_err *err)
{
	const char *key, *driver = NULL;
	json_t *val;
	int ret;

	if (json_is_string(node))
		return set_string(path, where, node, err);
	if (!json_is_object(node))
		return err_set(err, -EINVAL, "key '%s' wants an object or a name", where);
	if (is_nbd(node))
		return name_nbd_node(node, is_tuning, path, err);
	json_object_foreach(node, key, val) {
		if (!strcmp(key, "filename")) {
			ret = set_string(path, key, val, err);
			if (ret)
				return ret;
		} else if (!strcmp(key, "driver")) {
			driver = json_string_value(val);
			if (!driver || !is_file_driver(driver))
				return err_set(err, -ENOTSUP, "driver '%s' under '%s' is not supported",
					       driver ? driver : "?", where);
		} else if (!is_tuning(key)) {
			return err_set(err, -EINVAL, "key '%s.%s' is not known", where, key);
		}
	}
	return *path ? 0 : err_set(err, -EINVAL, "key '%s.filename' is missing", where);
}

/* What lies below: null, a name, or an object, which becomes a json: name of its own. */
static int backing_node(json_t *node, struct name *n, struct tapimg_err *err)
{
	char *text;

	if (json_is_null(node) || (json_is_string(node) && !json_string_value(node)[0])) {
		n->backing_kind = NAME_BACKING_NONE;
		return 0;
	}
	n->backing_kind = NAME_BACKING_GIVEN;
	if (json_is_string(node))
		return set_string(&n->backing, "backing", node, err);
	if (!json_is_object(node))
		return err_set(err, -EINVAL, "key 'backing' wants an object, a name or null");
	text = json_dumps(node, JSON_COMPACT);
	if (!text)
		return err_set(err, -ENOMEM, "no memory");
	if (asprintf(&n->backing, "json:%s", text) < 0)
		n->backing = NULL;
	free(text);
	return n->backing ? 0 : err_set(err, -ENOMEM, "no memory");
}

/* {"format":"aes","key-secret":"id"}: the format is the image's to know. */
static int encrypt_node(json_t *node, struct name *n, struct tapimg_err *err)
{
	const char *key;
	json_t *val;
	int ret = 0;

	if (!json_is_object(node))
		return err_set(err, -EINVAL, "key 'encrypt' wants an object");
	json_object_foreach(node, key, val) {
		if (!strcmp(key, "key-secret"))
			ret = set_string(&n->key_secret, "encrypt.key-secret", val, err);
		else if (strcmp(key, "format") != 0)
			ret = err_set(err, -EINVAL, "key 'encrypt.%s' is not known", key);
		else if (!json_is_string(val) || strcmp(json_string_value(val), "aes") != 0)
			ret = err_set(err, -ENOTSUP, "key 'encrypt.format': only aes is known");
		if (ret)
			return ret;
	}
	return 0;
}

static int layer_key(const char *key, json_t *val, struct name *n, struct tapimg_err *err)
{
	if (!strcmp(key, "driver"))
		return set_string(&n->format, key, val, err);
	if (!strcmp(key, "file"))
		return file_node(val, key, &n->path, err);
	if (!strcmp(key, "filename"))
		return set_string(&n->path, key, val, err);
	if (!strcmp(key, "offset"))
		return set_size(&n->offset, key, val, err);
	if (!strcmp(key, "size"))
		return set_size(&n->size, key, val, err);
	if (!strcmp(key, "data-file"))
		return file_node(val, key, &n->data_file, err);
	if (!strcmp(key, "disk"))
		return set_string(&n->disk, key, val, err);
	if (!strcmp(key, "backing"))
		return backing_node(val, n, err);
	if (is_tuning(key))
		return 0;
	if (!strcmp(key, "encrypt"))
		return encrypt_node(val, n, err);
	if (!strcmp(key, "key-secret"))
		return set_string(&n->key_secret, key, val, err);
	return err_set(err, -EINVAL, "key '%s' is not known", key);
}

static int layer_node(json_t *node, struct name *n, struct tapimg_err *err)
{
	const char *key;
	json_t *val;
	char *path;
	int ret;

	if (is_nbd(node)) {
		/* a bare server: its bytes as they are */
		n->format = strdup("raw");
		return n->format ? name_nbd_node(node, is_tuning, &n->path, err) :
				   err_set(err, -ENOMEM, "no memory");
	}
	json_object_foreach(node, key, val) {
		ret = layer_key(key, val, n, err);
		if (ret)
			return ret;
	}
	if (!n->path)
		return err_set(err, -EINVAL, "it names no file");
	if (n->format && is_file_driver(n->format)) {
		/* a bare file: its bytes as they are */
		free(n->format);
		n->format = strdup("raw");
		if (!n->format)
			return err_set(err, -ENOMEM, "no memory");
	}
	if ((n->offset || n->size) && (!n->format || strcmp(n->format, "raw") != 0))
		return err_set(err, -EINVAL, "offset and size need the driver raw");
	if (strncmp(n->path, "json:", 5) == 0)
		return err_set(err, -EINVAL, "a file's name cannot be a json: name");
	path = strdup(strip_file(n->path));
	if (!path)
		return err_set(err, -ENOMEM, "no memory");
	free(n->path);
	n->path = path;
	return 0;
}

static int parse_json(const char *text, struct name *out, struct tapimg_err *err)
{
	json_error_t jerr;
	json_t *raw, *root;
	int ret;

	if (strlen(text) > NAME_JSON_MAX)
		return err_set(err, -EINVAL, "json: name is too long");
	raw = json_loads(text, JSON_REJECT_DUPLICATES, &jerr);
	if (!raw)
		return err_set(err, -EINVAL, "json: name, at character %d: %s", jerr.position,
			       jerr.text);
	root = json_is_object(raw) ? undot(raw, 0) : NULL;
	ret = root ? layer_node(root, out, err)
		   : err_set(err, -EINVAL, json_is_object(raw) ? "its dotted keys contradict each other"
								: "an object is wanted");
	json_decref(root);
	json_decref(raw);
	return ret ? err_prefix(err, ret, "name 'json:%.200s'", text) : 0;
}

int name_parse(const char *text, struct name *out, struct tapimg_err *err)
{
	int ret = 0;

	memset(out, 0, sizeof(*out));
	if (!strncmp(text, "json:", 5)) {
		ret = parse_json(text + 5, out, err);
	} else {
		text = strip_file(text);
		if (!*text)
			return err_set(err, -EINVAL, "the name of the image is empty");
		out->path = strdup(text);
		if (!out->path)
			ret = err_set(err, -ENOMEM, "no memory");
	}
	if (ret)
		name_free(out);
	return ret;
}

void name_free(struct name *n)
{
	free(n->path);
	free(n->format);
	free(n->data_file);
	free(n->disk);
	free(n->key_secret);
	free(n->backing);
	memset(n, 0, sizeof(*n));
}

/* ------------------------------------------------------ "key=value,key=value" */

/* The next item up to a comma; ",," is a comma. malloc'd; *@text moves on. */
static char *next_item(const char **text)
{
	char *item = malloc(strlen(*text) + 1), *w = item;
	const char *p = *text;

	if (!item)
		return NULL;
	while (*p) {
		if (*p == ',') {
			if (p[1] != ',')
				break;
			p++;
		}
		*w++ = *p++;
	}
	*w = 0;
	*text = *p ? p + 1 : p;
	return item;
}

static int add_item(json_t *obj, char *item, bool first, struct tapimg_err *err)
{
	char *eq = strchr(item, '=');
	const char *key = item, *value;

	if (eq) {
		*eq = 0;
		value = eq + 1;
	} else if (first) {
		key = "file";		/* a bare first word names the file */
		value = item;
	} else {
		return err_set(err, -EINVAL, "'%.200s' wants a value: key=value", item);
	}
	if (!*key)
		return err_set(err, -EINVAL, "a key is missing before '=%.200s'", value);
	if (json_object_get(obj, key))
		return err_set(err, -EINVAL, "key '%.200s' is given twice", key);
	if (json_object_set_new(obj, key, json_string(value)))
		return err_set(err, -EINVAL, "value of '%.200s' is not UTF-8", key);
	return 0;
}

int tapimg_name_from_opts(const char *text, char **out, struct tapimg_err *err)
{
	json_t *obj = json_object();
	char *dump = NULL;
	bool first = true;
	int ret = 0;

	*out = NULL;
	while (obj && !ret && *text) {
		char *item = next_item(&text);

		ret = item ? add_item(obj, item, first, err) : err_set(err, -ENOMEM, "no memory");
		free(item);
		first = false;
	}
	if (!ret && obj)
		dump = json_dumps(obj, JSON_COMPACT);
	if (!ret && (!dump || asprintf(out, "json:%s", dump) < 0)) {
		*out = NULL;
		ret = err_set(err, -ENOMEM, "no memory");
	}
	free(dump);
	json_decref(obj);
	return ret;
}
