/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vmdk-desc.c - the text that describes a VMDK
 *
 * Lines end in LF, CR LF or CR.  A line is a comment, "key = value", or an extent:
 *	ACCESS SECTORS TYPE ["FILE" [OFFSET ...]]
 * Keywords and keys are the same in any case; blanks do not matter; of a key that is there twice the
 * first one counts.  What is not understood is kept as it is when the text is changed.
 *
 * The text is in the encoding that it names.  Names of files are turned into UTF-8 unless they are
 * that already: several writers name an encoding and write UTF-8.
 */
#include <ctype.h>
#include <iconv.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "vmdk.h"

const char *const vmdk_access_names[] = { "RW", "RDONLY", "NOACCESS" };
const char *const vmdk_type_names[] = {
	"FLAT", "SPARSE", "ZERO", "VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW", "SESPARSE",
};

/* ------------------------------------------------------------------- lines */

/* A line without blanks around it; @next: where the next one begins. */
struct line {
	const char *p, *end, *next;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\v' || c == '\f';
}

static bool line_next(const char **at, const char *end, struct line *l)
{
	const char *p = *at;

	if (p >= end)
		return false;
	l->p = p;
	while (p < end && *p != '\n' && *p != '\r')
		p++;
	l->end = p;
	if (p < end && *p == '\r' && p + 1 < end && p[1] == '\n')
		p++;
	*at = l->next = p < end ? p + 1 : p;
	while (l->p < l->end && is_blank(*l->p))
		l->p++;
	while (l->p < l->end && is_blank(l->end[-1]))
		l->end--;
	return true;
}

/* "key = value": the value without blanks and quotes around it; false: the line is something else */
static bool line_pair(const struct line *l, struct line *key, struct line *value)
{
	const char *eq;

	if (l->p == l->end || *l->p == '#')
		return false;
	eq = memchr(l->p, '=', l->end - l->p);
	if (!eq)
		return false;
	key->p = l->p;
	key->end = eq;
	while (key->end > key->p && is_blank(key->end[-1]))
		key->end--;
	value->p = eq + 1;
	value->end = l->end;
	while (value->p < value->end && is_blank(*value->p))
		value->p++;
	if (value->end - value->p >= 2 && *value->p == '"' && value->end[-1] == '"') {
		value->p++;
		value->end--;
	}
	return key->p < key->end;
}

static bool same_word(const char *p, const char *end, const char *word)
{
	return (size_t)(end - p) == strlen(word) && !strncasecmp(p, word, end - p);
}

static int find_word(const char *p, const char *end, const char *const *names, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (same_word(p, end, names[i]))
			return (int)i;
	return -1;
}

/* ---------------------------------------------------------------- detection */

static const char *skip_bom(const char *p, const char *end)
{
	return end - p >= 3 && !memcmp(p, "\xef\xbb\xbf", 3) ? p + 3 : p;
}

bool vmdk_desc_probe(const uint8_t *head, size_t len)
{
	const char *end = (const char *)head + len, *at = skip_bom((const char *)head, end);
	struct line l, key, value;

	while (line_next(&at, end, &l)) {
		if (l.p == l.end)
			continue;
		if (*l.p == '#') {
			for (l.p++; l.p < l.end && is_blank(*l.p); l.p++)
				;
			if (same_word(l.p, l.end, "Disk DescriptorFile"))
				return true;
			continue;
		}
		return line_pair(&l, &key, &value) && same_word(key.p, key.end, "version") &&
		       value.end - value.p == 1 && isdigit((unsigned char)*value.p);
	}
	return false;
}

/* ----------------------------------------------------------------- encodings */

static bool is_utf8(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;

	while (*p) {
		unsigned n = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 :
			     *p >= 0xf0 && *p < 0xf5 ? 3 : 9;

		if (n == 9)
			return false;
		for (p++; n; n--, p++)
			if ((*p & 0xc0) != 0x80)
				return false;
	}
	return true;
}

/* @s in another encoding, malloc'd; NULL: it cannot be, or there is no such encoding. */
static char *recode(const char *s, const char *from, const char *to)
{
	size_t left = strlen(s), room = 4 * left;
	char *in = (char *)s, *out, *o;
	iconv_t cd = iconv_open(to, from);
	bool ok;

	if (cd == (iconv_t)-1)
		return NULL;
	out = o = malloc(room + 1);
	ok = out && iconv(cd, &in, &left, &o, &room) != (size_t)-1 &&
	     iconv(cd, NULL, NULL, &o, &room) != (size_t)-1;
	iconv_close(cd);
	if (!ok) {
		free(out);
		return NULL;
	}
	*o = 0;
	return out;
}

/* @s (malloc'd, taken over) as UTF-8; bytes that cannot be are left as they are. */
static char *to_utf8(const struct vmdk_desc *d, char *s)
{
	char *encoding, *out;

	if (!s || is_utf8(s))
		return s;
	encoding = vmdk_desc_get(d, "encoding");
	out = recode(s, encoding && *encoding ? encoding : "windows-1252", "UTF-8");
	free(encoding);
	if (!out)
		return s;
	free(s);
	return out;
}

static bool is_ascii(const char *s)
{
	while (*s && !(*s & 0x80))
		s++;
	return !*s;
}

int vmdk_desc_name(const struct vmdk_desc *d, const char *name, char **out, struct tapimg_err *err)
{
	char *encoding = NULL;
	int ret = 0;

	/* a text with UTF-8 in it goes on so, whatever it says */
	*out = NULL;
	if (!is_ascii(name) && (is_ascii(d->text) || !is_utf8(d->text)))
		encoding = vmdk_desc_get(d, "encoding");
	*out = encoding && *encoding ? recode(name, "UTF-8", encoding) : strdup(name);
	if (!*out && encoding)
		ret = err_set(err, -EILSEQ, "the name '%s' cannot be written in the descriptor's encoding, %s",
			      name, encoding);
	else if (!*out)
		ret = err_errno(err, -ENOMEM, "%s", name);
	free(encoding);
	return ret;
}

/* ------------------------------------------------------------------- parsing */

struct parse {
	struct vmdk_desc *d;
	const char *name;
	unsigned number;		/* of the line */
	struct tapimg_err *err;
};

static int bad(const struct parse *p, const char *what, const struct line *l)
{
	return err_set(p->err, -EINVAL, "%s: descriptor, line %u: %s: '%.*s'", p->name, p->number, what,
		       (int)MIN(l->end - l->p, 120), l->p);
}

static bool token(const char **at, const char *end, struct line *t)
{
	const char *p = *at;

	while (p < end && is_blank(*p))
		p++;
	t->p = p;
	while (p < end && !is_blank(*p))
		p++;
	t->end = *at = p;
	return t->p < t->end;
}

/* a decimal number that fills the whole token */
static bool number(const struct line *t, uint64_t max, uint64_t *out)
{
	const char *p;

	*out = 0;
	for (p = t->p; p < t->end; p++) {
		if (!isdigit((unsigned char)*p) || *out > (max - (*p - '0')) / 10)
			return false;
		*out = *out * 10 + (*p - '0');
	}
	return t->p < t->end;
}

/* The name of an extent's file: in quotes, or a word.  Of an extent with the descriptor in it it may be empty. */
static int extent_file(struct parse *p, const char **at, const struct line *l, struct vmdk_line *x)
{
	const char *s = *at, *end;
	struct line t;

	while (s < l->end && is_blank(*s))
		s++;
	if (s == l->end)
		return 0;
	if (*s == '"') {
		end = memchr(s + 1, '"', l->end - s - 1);
		if (!end)
			return bad(p, "a quote is missing", l);
		t.p = s + 1;
		t.end = end;
		*at = end + 1;
	} else {
		token(at, l->end, &t);
	}
	x->file = to_utf8(p->d, strndup(t.p, t.end - t.p));
	return x->file ? 0 : -ENOMEM;
}

/* What reads like an extent but for its first word would be missed, and all that follows would shift. */
static bool like_extent(const struct line *l)
{
	const char *at = l->p;
	struct line t;
	uint64_t n;

	return token(&at, l->end, &t) && token(&at, l->end, &t) && number(&t, UINT64_MAX, &n) &&
	       token(&at, l->end, &t) &&
	       find_word(t.p, t.end, vmdk_type_names, ARRAY_SIZE(vmdk_type_names)) >= 0;
}

/* @l is an extent line if its first word is an access. 1: it was, 0: it is not. */
static int parse_extent(struct parse *p, const struct line *l)
{
	struct vmdk_desc *d = p->d;
	struct vmdk_line x = { .number = p->number }, *v;
	const char *at = l->p;
	struct line t;
	int i, ret;

	if (!token(&at, l->end, &t))
		return 0;
	i = find_word(t.p, t.end, vmdk_access_names, ARRAY_SIZE(vmdk_access_names));
	if (i < 0)
		return like_extent(l) ? bad(p, "unknown access to an extent", l) : 0;
	x.access = i;
	if (!token(&at, l->end, &t) || !number(&t, INT64_MAX / VMDK_SECTOR, &x.sectors))
		return bad(p, "the number of sectors is wrong", l);
	if (!token(&at, l->end, &t))
		return bad(p, "the type of the extent is missing", l);
	i = find_word(t.p, t.end, vmdk_type_names, ARRAY_SIZE(vmdk_type_names));
	if (i < 0)
		return bad(p, "unknown type of extent", l);
	x.type = i;
	if (d->nlines == VMDK_MAX_EXTENTS)
		return bad(p, "too many extents", l);
	if (x.type != VMDK_ZERO) {
		ret = extent_file(p, &at, l, &x);
		if (!ret && token(&at, l->end, &t) && !number(&t, INT64_MAX / VMDK_SECTOR, &x.offset))
			ret = bad(p, "the offset in the file is wrong", l);
		if (ret) {
			free(x.file);
			return ret;
		}
	}
	/* by powers of two */
	v = d->nlines & (d->nlines - 1) ? d->line : realloc(d->line, MAX(2 * d->nlines, 1U) * sizeof(*v));
	if (!v) {
		free(x.file);
		return -ENOMEM;
	}
	d->line = v;
	v[d->nlines++] = x;
	return 1;
}

static int parse_cid(struct parse *p, const struct line *l, const struct line *value, uint32_t *out)
{
	uint64_t v = 0;

	if (value->p == value->end || value->end - value->p > 8)
		return bad(p, "a content id has 8 hexadecimal digits", l);
	for (const char *s = value->p; s < value->end; s++) {
		if (!isxdigit((unsigned char)*s))
			return bad(p, "a content id has 8 hexadecimal digits", l);
		v = v << 4 | (isdigit((unsigned char)*s) ? *s - '0' : tolower((unsigned char)*s) - 'a' + 10);
	}
	*out = v;
	return 0;
}

static int parse_line(struct parse *p, const struct line *l)
{
	struct vmdk_desc *d = p->d;
	struct line key, value;
	bool parent_cid;
	int ret;

	if (l->p == l->end || *l->p == '#')
		return 0;
	ret = parse_extent(p, l);
	if (ret || !line_pair(l, &key, &value))
		return MIN(ret, 0);
	if (same_word(key.p, key.end, "CID") && !d->has_cid) {
		d->has_cid = true;
		return parse_cid(p, l, &value, &d->cid);
	}
	parent_cid = same_word(key.p, key.end, "parentCID");
	if (parent_cid)
		return parse_cid(p, l, &value, &d->parent_cid);
	return 0;
}

int vmdk_desc_parse(struct vmdk_desc *d, char *text, size_t len, const char *name,
		    struct tapimg_err *err)
{
	struct parse p = { .d = d, .name = name, .err = err };
	const char *at = skip_bom(text, text + len);
	struct line l;
	int ret = 0;

	memset(d, 0, sizeof(*d));
	d->text = text;
	d->len = len;
	d->parent_cid = VMDK_CID_NONE;
	while (!ret && line_next(&at, text + len, &l)) {
		p.number++;
		ret = parse_line(&p, &l);
	}
	if (!ret) {
		d->create_type = vmdk_desc_get(d, "createType");
		d->parent = to_utf8(d, vmdk_desc_get(d, "parentFileNameHint"));
		if (!d->create_type)
			d->create_type = strdup("");
		if (!d->create_type)
			ret = -ENOMEM;
		if (d->parent && !*d->parent) {
			free(d->parent);
			d->parent = NULL;
		}
	}
	if (ret) {
		if (ret == -ENOMEM)
			err_errno(err, ret, "%s", name);
		vmdk_desc_free(d);
	}
	return ret;
}

void vmdk_desc_free(struct vmdk_desc *d)
{
	for (unsigned i = 0; i < d->nlines; i++)
		free(d->line[i].file);
	free(d->line);
	free(d->create_type);
	free(d->parent);
	free(d->text);
	memset(d, 0, sizeof(*d));
}

/* ----------------------------------------------------------- looking and changing */

static bool find_key(const struct vmdk_desc *d, const char *key, struct line *l, struct line *value)
{
	const char *at = skip_bom(d->text, d->text + d->len);
	struct line k;

	while (line_next(&at, d->text + d->len, l))
		if (line_pair(l, &k, value) && same_word(k.p, k.end, key))
			return true;
	return false;
}

char *vmdk_desc_get(const struct vmdk_desc *d, const char *key)
{
	struct line l, value;

	return d->text && find_key(d, key, &l, &value) ? strndup(value.p, value.end - value.p) : NULL;
}

/* Replaces [from, to) of the text. */
static int splice(struct vmdk_desc *d, size_t from, size_t to, const char *with)
{
	size_t n = strlen(with), len = d->len - (to - from) + n;
	char *text = malloc(len + 1);

	if (!text)
		return -ENOMEM;
	memcpy(text, d->text, from);
	memcpy(text + from, with, n);
	memcpy(text + from + n, d->text + to, d->len - to);
	text[len] = 0;
	free(d->text);
	d->text = text;
	d->len = len;
	return 0;
}

/* as the text's first line ends */
static const char *newline(const struct vmdk_desc *d)
{
	const char *p = memchr(d->text, '\n', d->len);

	if (p)
		return p > d->text && p[-1] == '\r' ? "\r\n" : "\n";
	return memchr(d->text, '\r', d->len) ? "\r" : "\n";
}

static int insert_line(struct vmdk_desc *d, const char *key, const char *value, bool quote,
		       const char *after)
{
	struct line l, v;
	size_t at = after && find_key(d, after, &l, &v) ? (size_t)(l.next - d->text) : d->len;
	const char *nl = newline(d), *q = quote ? "\"" : "";
	bool open = at && d->text[at - 1] != '\n' && d->text[at - 1] != '\r';
	char *line;
	int ret;

	if (asprintf(&line, "%s%s%s%s%s%s%s", open ? nl : "", key,
		     strncasecmp(key, "ddb.", 4) ? "=" : " = ", q, value, q, nl) < 0)
		return -ENOMEM;
	ret = splice(d, at, at, line);
	free(line);
	return ret;
}

int vmdk_desc_set(struct vmdk_desc *d, const char *key, const char *value, bool quote,
		  const char *after)
{
	struct line l, v;

	if (!find_key(d, key, &l, &v))
		return value ? insert_line(d, key, value, quote, after) : 0;
	if (!value)
		return splice(d, l.p - d->text, l.next - d->text, "");
	return splice(d, v.p - d->text, v.end - d->text, value);
}

void vmdk_desc_end_tracking(struct vmdk_desc *d)
{
	static const char key[] = "changeTrackPath", comment[] = "#tracking ended";
	struct line l, v;

	while (find_key(d, key, &l, &v))
		memcpy(d->text + (l.p - d->text), comment, sizeof(comment) - 1);
}

/* The line of that number. */
static bool line_find(const struct vmdk_desc *d, unsigned line, struct line *l)
{
	const char *at = skip_bom(d->text, d->text + d->len);
	unsigned number = 0;

	while (line_next(&at, d->text + d->len, l))
		if (++number == line)
			return true;
	return false;
}

int vmdk_desc_set_sectors(struct vmdk_desc *d, unsigned line, uint64_t sectors)
{
	struct line l, t;
	const char *p;
	char text[24];

	if (!line_find(d, line, &l))
		return -EINVAL;
	p = l.p;
	if (!token(&p, l.end, &t) || !token(&p, l.end, &t))
		return -EINVAL;
	snprintf(text, sizeof(text), "%" PRIu64, sectors);
	return splice(d, t.p - d->text, t.end - d->text, text);
}

int vmdk_desc_add_extent(struct vmdk_desc *d, unsigned after, const char *line)
{
	const char *nl = newline(d);
	struct line l;
	char *text;
	int ret;

	if (!line_find(d, after, &l))
		return -EINVAL;
	if (asprintf(&text, "%s%s%s", l.next == l.end ? nl : "", line, nl) < 0)
		return -ENOMEM;
	ret = splice(d, l.next - d->text, l.next - d->text, text);
	free(text);
	return ret;
}

int vmdk_desc_remove(struct vmdk_desc *d, unsigned line)
{
	struct line l;
	const char *start;

	if (!line_find(d, line, &l))
		return -EINVAL;
	for (start = l.p; start > d->text && is_blank(start[-1]); start--)
		;
	return splice(d, start - d->text, l.next - d->text, "");
}
