/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * opt.c - values of options, as text
 *
 * One parser for what people write after -o and what drivers read: a format describes each of its
 * options (struct tapimg_opt_desc), the syntax of a value follows from the description.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "opt.h"

static int suffix_shift(char c)
{
	static const char letters[] = "bkmgtpe";
	const char *p = c ? strchr(letters, tolower((unsigned char)c)) : NULL;

	return p ? (int)(p - letters) * 10 : -1;
}

/* 0.ddd of a unit of 1 << shift, rounded down */
static uint64_t fraction(const char *digits, const char *end, int shift)
{
	long double f = 0, place = 0.1L;

	for (; digits < end; digits++, place /= 10)
		f += (*digits - '0') * place;
	return (uint64_t)(f * (long double)(1ULL << shift) + 1e-9L);
}

static int hex_size(const char *digits, uint64_t *out)
{
	uint64_t v = 0;

	if (!*digits)
		return -EINVAL;
	for (; *digits; digits++) {
		int c = tolower((unsigned char)*digits);

		if (!isxdigit(c))
			return -EINVAL;
		if (v >> 60)
			return -ERANGE;
		v = v << 4 | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*out = v;
	return 0;
}

int opt_size(const char *text, uint64_t *out)
{
	const char *p = text, *frac = NULL, *frac_end = NULL;
	uint64_t v = 0;
	int shift = 0;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X'))
		return hex_size(p + 2, out);
	for (; isdigit((unsigned char)*p); p++)
		if (!checked_mul(v, 10, &v) || !checked_add(v, *p - '0', &v))
			return -ERANGE;
	if (*p == '.') {
		frac = ++p;
		while (isdigit((unsigned char)*p))
			p++;
		frac_end = p;
		if (frac == frac_end)
			return -EINVAL;
	}
	if (*p) {
		shift = suffix_shift(*p++);
		if (shift < 0 || *p)
			return -EINVAL;
	}
	if (v > UINT64_MAX >> shift)
		return -ERANGE;
	v <<= shift;
	if (frac && shift == 0)
		return -EINVAL;		/* no fractions of a byte */
	if (frac && !checked_add(v, fraction(frac, frac_end, shift), &v))
		return -ERANGE;
	*out = v;
	return 0;
}

int opt_bool(const char *text, bool *out)
{
	static const char *const yes[] = { "on", "yes", "true", "y" };
	static const char *const no[] = { "off", "no", "false", "n" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcmp(text, yes[i]) || !strcmp(text, no[i])) {
			*out = !strcmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

int opt_enum(const char *text, const char *alternatives)
{
	size_t len = strlen(text);
	const char *p = alternatives;

	for (int i = 0;; i++) {
		size_t n = strcspn(p, "|");

		if (n == len && !strncmp(p, text, n))
			return i;
		if (!p[n])
			return -EINVAL;
		p += n + 1;
	}
}

/* ------------------------------------------------------------ a format's options */

static const struct tapimg_opt_desc *desc_find(const struct format *fmt, const char *name)
{
	for (const struct tapimg_opt_desc *d = fmt->opts; d && d->name; d++)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

static int check_value(const struct format *fmt, const struct tapimg_opt_desc *d,
		       const char *value, struct tapimg_err *err)
{
	uint64_t size;
	bool on;
	int ret;

	if (!value)
		return err_set(err, -EINVAL, "%s: option '%s' needs a value", fmt->name, d->name);
	if (!d->arg || !strcmp(d->arg, "str"))
		return 0;
	if (!strcmp(d->arg, "size")) {
		ret = opt_size(value, &size);
		if (ret)
			return err_set(err, -EINVAL, "%s: option '%s': '%s' is %s", fmt->name, d->name,
				       value, ret == -ERANGE ? "too large"
				       : "not a size: digits and one of b k M G T P E are wanted");
	} else if (!strcmp(d->arg, "on|off")) {
		if (opt_bool(value, &on))
			return err_set(err, -EINVAL, "%s: option '%s': '%s' is neither on nor off",
				       fmt->name, d->name, value);
	} else if (strchr(d->arg, '|')) {
		if (opt_enum(value, d->arg) < 0)
			return err_set(err, -EINVAL, "%s: option '%s': '%s' is not one of %s",
				       fmt->name, d->name, value, d->arg);
	}
	return 0;
}

int opts_check(const struct format *fmt, const struct tapimg_opt *opts, unsigned nopts,
	       unsigned where, struct tapimg_err *err)
{
	for (unsigned i = 0; i < nopts; i++) {
		const struct tapimg_opt_desc *d = desc_find(fmt, opts[i].name);
		int ret;

		if (!d)
			return err_set(err, -EINVAL, "the %s format has no option '%s'", fmt->name,
				       opts[i].name);
		if (!(d->where & where))
			return err_set(err, -ENOTSUP, where & TAPIMG_OPT_AMEND ?
				       "%s: option '%s' cannot be changed after creation" :
				       "%s: option '%s' cannot be given at creation",
				       fmt->name, d->name);
		ret = check_value(fmt, d, opts[i].value, err);
		if (ret)
			return ret;
	}
	return 0;
}

const char *opts_get(const struct tapimg_opt *opts, unsigned nopts, const char *name)
{
	for (unsigned i = nopts; i-- > 0;)
		if (!strcmp(opts[i].name, name))
			return opts[i].value;
	return NULL;
}

const char *create_opt(const struct create *c, const char *name)
{
	return opts_get(c->opts, c->nopts, name);
}

static const char *create_value(const struct create *c, const struct format *fmt, const char *name)
{
	const char *value = create_opt(c, name);
	const struct tapimg_opt_desc *d = desc_find(fmt, name);

	return value ? value : d ? d->def : NULL;
}

uint64_t create_opt_size(const struct create *c, const struct format *fmt, const char *name)
{
	const char *value = create_value(c, fmt, name);
	uint64_t size;

	return value && !opt_size(value, &size) ? size : 0;
}

bool create_opt_bool(const struct create *c, const struct format *fmt, const char *name)
{
	const char *value = create_value(c, fmt, name);
	bool on;

	return value && !opt_bool(value, &on) && on;
}

int create_opt_enum(const struct create *c, const struct format *fmt, const char *name)
{
	const char *value = create_value(c, fmt, name);
	const struct tapimg_opt_desc *d = desc_find(fmt, name);
	int i = value && d && d->arg ? opt_enum(value, d->arg) : 0;

	return i < 0 ? 0 : i;
}
