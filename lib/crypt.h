/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crypt.h - ciphers of disk sectors, and digests: OpenSSL's libcrypto, loaded when first needed
 *
 * Most programs that use images never meet an enciphered one, and libcrypto takes longer to load
 * than "tapimg info" takes altogether.  So it is loaded by the first call that needs it; where it is
 * missing that call fails with -ENOTSUP and says so.
 *
 * A driver of a format with enciphered data makes a struct crypt at open and puts it into img->crypt:
 * all plainly stored bytes of that layer (EXT_DATA, EXT_NEW) are then deciphered and enciphered by
 * the engine (engine-cipher.c), in sectors counted from the start of the disk.  Compressed units and
 * metadata are not.
 */
#ifndef CRYPT_H
#define CRYPT_H

#include "err.h"

#define CRYPT_SECTOR 512

enum crypt_cipher {
	/* AES-CBC; IV: the sector number, 64 bits little-endian, then zeroes ("plain64") */
	CRYPT_AES_CBC_PLAIN64,		/* key: 16, 24 or 32 bytes */
	/* AES-XTS; tweak: the low 32 bits of the sector number, little-endian, then zeroes ("plain") */
	CRYPT_AES_XTS_PLAIN,		/* key: 32 or 64 bytes, the halves must differ */
};

struct crypt;

/*
 * -ENOTSUP: no libcrypto, or it refuses the cipher; -EINVAL: not such a key; -ENOMEM.  Explained, the
 * text begins with @name (a file's).  The key need not stay.
 */
int crypt_new(enum crypt_cipher cipher, const void *key, size_t key_len, const char *name,
	      struct crypt **out, struct tapimg_err *err);
void crypt_free(struct crypt *c);	/* wipes the key; NULL is accepted */

/*
 * Whole sectors from number @sector on, @len bytes; dst may be src, else they do not overlap.  On any
 * thread, several at once.  0, -ENOMEM or -EIO.
 */
int crypt_sectors(struct crypt *c, bool encrypt, uint64_t sector, void *dst, const void *src,
		  size_t len);

/* Overwrites memory that held a secret, also where a compiler thinks that nobody will look. */
void crypt_wipe(void *p, size_t len);

/* ------------------------------------------------------------------- digests */

enum crypt_hash { CRYPT_MD5, CRYPT_SHA1, CRYPT_SHA256, CRYPT_SHA512 };
#define CRYPT_DIGEST_MAX 64	/* 16, 20, 32 and 64 bytes are used */

struct crypt_digest;

int crypt_digest_new(enum crypt_hash hash, struct crypt_digest **out, struct tapimg_err *err);
int crypt_digest_add(struct crypt_digest *d, const void *data, size_t len);
/* The digest in @out (as many bytes as it has) and its length as return value, or a negative errno; @d is gone. */
int crypt_digest_end(struct crypt_digest *d, uint8_t *out);
/* The same for bytes in memory. */
int crypt_digest(enum crypt_hash hash, const void *data, size_t len, uint8_t *out,
		 struct tapimg_err *err);

#endif
