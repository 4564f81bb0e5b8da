/* SPDX-License-Identifier: BSD-2-Clause */
/* formats.c - the formats built in, and how they are told apart */
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "format.h"

#define PROBE_LEN 4096
#define PROBE_TAIL 512

static const struct format *const formats[] = {
	&raw_format, &qcow_format, &qcow2_format,
	&vhd_format,
	&vmdk_format,
	&ova_format,
};

const char *tapimg_version(void)
{
	return TAPIMG_VERSION;
}

const char *const *tapimg_formats(void)
{
	static const char *const names[] = {
		"raw", "qcow", "qcow2",
		"vpc",
		"vmdk",
		"ova",
		NULL
	};

	return names;
}

const struct format *format_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i]->name, name) ||
		    (formats[i]->alias && !strcmp(formats[i]->alias, name)))
			return formats[i];
	return NULL;
}

const struct tapimg_opt_desc *tapimg_format_opts(const char *format)
{
	const struct format *fmt = format_find(format);

	return fmt ? fmt->opts : NULL;
}

const struct format *format_probe(struct file *f, struct tapimg_err *err)
{
	uint64_t len = MIN(f->size, (uint64_t)PROBE_LEN);
	const struct format *best = &raw_format;
	int best_bid = 0, ret;
	uint8_t *head;

	head = file_buf(PROBE_LEN);
	if (!head) {
		err_set(err, -ENOMEM, "no memory");
		return NULL;
	}
	ret = len ? file_pread(f, head, len, 0) : 0;
	if (ret) {
		err_errno(err, ret, "%s: reading the first %u bytes", f->name, (unsigned)len);
		free(head);
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		int bid = formats[i]->probe(head, len, f->size, f->name);

		if (bid > best_bid) {
			best_bid = bid;
			best = formats[i];
		}
	}
	if (best_bid <= 1 && f->size >= PROBE_TAIL) {
		ret = file_pread(f, head, PROBE_TAIL, f->size - PROBE_TAIL);
		for (size_t i = 0; i < ARRAY_SIZE(formats) && !ret; i++)
			if (formats[i]->probe_tail && formats[i]->probe_tail(head, f->size))
				best = formats[i];
		if (ret) {
			err_errno(err, ret, "%s: reading the last %u bytes", f->name, PROBE_TAIL);
			best = NULL;
		}
	}
	free(head);
	return best;
}
