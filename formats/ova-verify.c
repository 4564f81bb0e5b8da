/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ova-verify.c - whether the parts of an archive are what its manifest says
 *
 * A manifest (X.mf, DMTF DSP0243 section 6.1) has a line for each part, "SHA256(NAME)= DIGITS", blanks as
 * one likes.  Left out: the certificate (X.cert) that may sign the manifest.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "checked.h"
#include "ova.h"

#define HASH_PIECE (1u << 20)
#define LINES_MAX 4096

const struct ova_hash ova_digests[OVA_DIGESTS] = {
	[OVA_SHA256] = { "SHA256", CRYPT_SHA256, 32 },
	[OVA_SHA1] = { "SHA1", CRYPT_SHA1, 20 },
	[OVA_SHA512] = { "SHA512", CRYPT_SHA512, 64 },
};

int ova_digest(struct file *f, const struct ova_hash *h, const struct tar_member *m, uint64_t len,
	       char hex[OVA_HEX_MAX], struct tapimg_err *err)
{
	struct crypt_digest *ctx;
	uint8_t out[CRYPT_DIGEST_MAX], *buf = file_buf(HASH_PIECE);
	int ret = crypt_digest_new(h->hash, &ctx, err), r;

	if (ret) {
		free(buf);
		return ret;
	}
	ret = buf ? 0 : -ENOMEM;
	for (uint64_t off = 0, n; off < len && !ret; off += n) {
		n = MIN(len - off, HASH_PIECE);
		ret = file_pread(f, buf, n, m->off + off);
		if (!ret)
			ret = crypt_digest_add(ctx, buf, n);
	}
	r = crypt_digest_end(ctx, out);
	free(buf);
	if (ret || r < 0)
		return err_errno(err, ret ? ret : r, "%s: the digest of '%s'", f->name, m->name);
	for (unsigned i = 0; i < h->len; i++)
		sprintf(hex + 2 * i, "%02x", out[i]);
	return 0;
}

/* ------------------------------------------------------------------------ lines */

struct verify {
	struct file *f;
	struct tar tar;
	const char *manifest;		/* its name */
	void (*report)(void *arg, char severity, const char *line);
	void *arg;
	uint64_t *bad;
	struct tapimg_err *err;
};

__attribute__((format(printf, 3, 4)))
static void say(struct verify *v, char severity, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	*v->bad += severity == 'E';
	v->report(v->arg, severity, line);
}

static char *skip_blanks(char *p)
{
	return p + strspn(p, " \t");
}

/* "SHA1 (a name)= 0123": cut into its three parts.  False: it is something else. */
static bool line_parse(char *line, char **hash, char **name, char **hex)
{
	char *open = strchr(line, '('), *close = strrchr(line, ')'), *eq;

	if (!open || !close || close < open)
		return false;
	eq = skip_blanks(close + 1);
	if (*eq != '=')
		return false;
	*hash = skip_blanks(line);
	*name = open + 1;
	*hex = skip_blanks(eq + 1);
	*open = *close = 0;
	(*hash)[strcspn(*hash, " \t")] = 0;
	(*hex)[strcspn(*hex, " \t\r")] = 0;
	return true;
}

static int verify_line(struct verify *v, char *line, unsigned number)
{
	const struct ova_hash *h = NULL;
	const struct tar_member *m;
	char *hash, *name, *want, have[OVA_HEX_MAX];
	int ret;

	if (!*(line + strspn(line, " \t\r")))
		return 0;
	if (!line_parse(line, &hash, &name, &want)) {
		say(v, 'E', "%s: line %u of its manifest '%s' is not a digest", v->f->name, number, v->manifest);
		return 0;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(ova_digests) && !h; i++)
		if (!strcasecmp(ova_digests[i].name, hash))
			h = ova_digests + i;
	m = tar_find(&v->tar, name);
	if (!h)
		say(v, 'I', "%s: digests of the kind '%.20s' are not known here, so '%.200s' is not verified",
		    v->f->name, hash, name);
	else if (!m)
		say(v, 'E', "%s: its manifest names '%.200s', which is not in the archive", v->f->name, name);
	else if (m->there < m->size)
		say(v, 'E', "%s: of the %" PRIu64 " bytes of '%.200s' only %" PRIu64 " are there", v->f->name,
		    m->size, name, m->there);
	if (!h || !m || m->there < m->size)
		return 0;
	ret = ova_digest(v->f, h, m, m->size, have, v->err);
	if (!ret && strcasecmp(have, want) != 0)
		say(v, 'E', "%s: '%.200s' is not what the manifest says: its %s is %s, not %.200s", v->f->name,
		    name, h->name, have, want);
	return ret;
}

static int verify_text(struct verify *v, char *text)
{
	unsigned number = 0;
	int ret = 0;

	for (char *next, *line = text; line && !ret; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (++number > LINES_MAX)
			return err_set(v->err, -EFBIG, "%s: its manifest '%.200s' has more than %d lines", v->f->name,
				       v->manifest, LINES_MAX);
		ret = verify_line(v, line, number);
	}
	return ret;
}

int ova_verify(struct file *f, void (*report)(void *arg, char severity, const char *line), void *arg,
	       uint64_t *bad, struct tapimg_err *err)
{
	struct verify v = { .f = f, .report = report, .arg = arg, .bad = bad, .err = err };
	const struct tar_member *m = NULL;
	char *text;
	int ret = tar_read(f, &v.tar, err);

	for (unsigned i = 0; !ret && i < v.tar.n && !m; i++)
		if (ova_suffix(v.tar.member[i].name, ".mf") && v.tar.member[i].plain)
			m = v.tar.member + i;
	if (ret || !m) {
		tar_free(&v.tar);
		return ret;
	}
	v.manifest = m->name;
	if (m->there < m->size || m->size > OVF_MAX) {
		say(&v, 'E', "%s: its manifest '%.200s' of %" PRIu64 " bytes is %s", f->name, m->name, m->size,
		    m->there < m->size ? "cut off" : "too long");
		tar_free(&v.tar);
		return 0;
	}
	text = calloc(1, m->size + 1);
	ret = text ? file_pread(f, text, m->size, m->off) : -ENOMEM;
	if (ret)
		err_errno(err, ret, "%s: reading its manifest '%.200s'", f->name, m->name);
	else
		ret = verify_text(&v, text);
	free(text);
	tar_free(&v.tar);
	return ret;
}
