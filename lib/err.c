/* SPDX-License-Identifier: BSD-2-Clause */
/* err.c - explaining failures: one line of text beside the code */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "err.h"

/* Names from images and command lines may hold anything; a message stays one printable line. */
static void err_clean(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
}

int err_set(struct tapimg_err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	err_clean(e->text);
	return code;
}

int err_errno(struct tapimg_err *e, int code, const char *fmt, ...)
{
	char msg[128];
	size_t used;
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s",
		 strerror_r(-code, msg, sizeof(msg)));
	err_clean(e->text);
	return code;
}

int err_prefix(struct tapimg_err *e, int code, const char *fmt, ...)
{
	char old[sizeof(e->text)];
	size_t used;
	va_list ap;

	if (!e)
		return code;
	memcpy(old, e->text, sizeof(old));
	old[sizeof(old) - 1] = 0;
	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", old);
	err_clean(e->text);
	return e->code;
}
