/* SPDX-License-Identifier: BSD-2-Clause */
/* ova.h - what the files of the OVA driver share: digests of an archive's parts */
#ifndef TAPIMG_OVA_H
#define TAPIMG_OVA_H

#include "crypt.h"
#include "ovf.h"
#include "tar.h"

struct ova_hash {
	const char *name;	/* in manifests */
	enum crypt_hash hash;
	unsigned len;
};
/* As the values of the option "manifest", then the one after them; then those that are only read. */
enum { OVA_SHA256, OVA_SHA1, OVA_NO_DIGEST, OVA_SHA512 = OVA_NO_DIGEST, OVA_DIGESTS };
extern const struct ova_hash ova_digests[OVA_DIGESTS];
#define OVA_HEX_MAX (2 * CRYPT_DIGEST_MAX + 1)

bool ova_suffix(const char *name, const char *suffix);	/* in any case, after at least one other character */
/* Of the first @len bytes of @m, in lower-case digits. */
int ova_digest(struct file *f, const struct ova_hash *h, const struct tar_member *m, uint64_t len,
	       char hex[OVA_HEX_MAX], struct tapimg_err *err);
/* format.verify */
int ova_verify(struct file *f, void (*report)(void *arg, char severity, const char *line), void *arg,
	       uint64_t *bad, struct tapimg_err *err);

#endif
