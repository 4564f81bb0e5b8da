/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crypt.c - ciphers of disk sectors, and digests, by a libcrypto that is loaded when first needed
 *
 * Every object holds its own table of libcrypto's functions: loading a library that is there already
 * is a look-up, and nothing global is needed.  The library is never unloaded, since it keeps
 * state for threads and for exit.
 *
 * A cipher context serves one thread at a time.  A cipher keeps those that are not in use in a list,
 * so that there are as many as threads ever used it at once, and the key is scheduled only once for
 * each of them.
 */
#include <dlfcn.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "crypt.h"
#include "endian.h"

#if OPENSSL_VERSION_NUMBER >= 0x30000000L
#define LIBCRYPTO "libcrypto.so.3"
#else
#define LIBCRYPTO "libcrypto.so.1.1"
#endif

#define IV_LEN 16
#define KEY_MAX 64

/* What is used of it; the types are those of its headers. */
#define LIBCRYPTO_FUNCTIONS(X) \
	X(EVP_CIPHER_CTX_new) X(EVP_CIPHER_CTX_free) X(EVP_CIPHER_CTX_set_padding) \
	X(EVP_CipherInit_ex) X(EVP_CipherUpdate) \
	X(EVP_aes_128_cbc) X(EVP_aes_192_cbc) X(EVP_aes_256_cbc) \
	X(EVP_aes_128_xts) X(EVP_aes_256_xts) \
	X(EVP_MD_CTX_new) X(EVP_MD_CTX_free) X(EVP_DigestInit_ex) X(EVP_DigestUpdate) \
	X(EVP_DigestFinal_ex) X(EVP_md5) X(EVP_sha1) X(EVP_sha256) X(EVP_sha512)

struct libcrypto {
#define X(name) __typeof__(name) *name;
	LIBCRYPTO_FUNCTIONS(X)
#undef X
};

static int libcrypto_load(struct libcrypto *l, struct tapimg_err *err)
{
	void *h = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	void *p;

	if (!h)
		return err_set(err, -ENOTSUP, "encryption and digests need OpenSSL's library: %s",
			       dlerror());
#define X(name) \
	p = dlsym(h, #name); \
	if (!p) \
		goto missing; \
	memcpy(&l->name, &p, sizeof(p));
	LIBCRYPTO_FUNCTIONS(X)
#undef X
	return 0;
missing:
	return err_set(err, -ENOTSUP, "encryption and digests: %s", dlerror());
}

void crypt_wipe(void *p, size_t len)
{
	explicit_bzero(p, len);
}

/* -------------------------------------------------------------------- ciphers */

struct context {
	struct context *next;
	EVP_CIPHER_CTX *dir[2];		/* deciphering, enciphering */
};

struct crypt {
	struct libcrypto l;
	enum crypt_cipher cipher;
	const EVP_CIPHER *evp;
	uint8_t key[KEY_MAX];
	pthread_mutex_t lock;
	struct context *idle;
};

static const EVP_CIPHER *evp_cipher(const struct libcrypto *l, enum crypt_cipher cipher,
				    size_t key_len)
{
	if (cipher == CRYPT_AES_XTS_PLAIN)
		return key_len == 32 ? l->EVP_aes_128_xts() :
		       key_len == 64 ? l->EVP_aes_256_xts() : NULL;
	return key_len == 16 ? l->EVP_aes_128_cbc() : key_len == 24 ? l->EVP_aes_192_cbc() :
	       key_len == 32 ? l->EVP_aes_256_cbc() : NULL;
}

static void context_free(struct crypt *c, struct context *x)
{
	for (int i = 0; x && i < 2; i++)
		c->l.EVP_CIPHER_CTX_free(x->dir[i]);
	free(x);
}

static struct context *context_new(struct crypt *c)
{
	struct context *x = calloc(1, sizeof(*x));
	const uint8_t iv[IV_LEN] = { 0 };

	for (int i = 0; x && i < 2; i++) {
		x->dir[i] = c->l.EVP_CIPHER_CTX_new();
		if (!x->dir[i] ||
		    !c->l.EVP_CipherInit_ex(x->dir[i], c->evp, NULL, c->key, iv, i) ||
		    !c->l.EVP_CIPHER_CTX_set_padding(x->dir[i], 0)) {
			context_free(c, x);
			return NULL;
		}
	}
	return x;
}

static struct context *context_take(struct crypt *c)
{
	struct context *x;

	pthread_mutex_lock(&c->lock);
	x = c->idle;
	if (x)
		c->idle = x->next;
	pthread_mutex_unlock(&c->lock);
	return x ? x : context_new(c);
}

static void context_put(struct crypt *c, struct context *x)
{
	pthread_mutex_lock(&c->lock);
	x->next = c->idle;
	c->idle = x;
	pthread_mutex_unlock(&c->lock);
}

int crypt_new(enum crypt_cipher cipher, const void *key, size_t key_len, const char *name,
	      struct crypt **out, struct tapimg_err *err)
{
	struct crypt *c = calloc(1, sizeof(*c));
	struct context *x;
	int ret;

	*out = NULL;
	if (!c)
		return err_set(err, -ENOMEM, "%s: no memory", name);
	pthread_mutex_init(&c->lock, NULL);
	ret = libcrypto_load(&c->l, err);
	if (ret) {
		ret = err_prefix(err, ret, "%s", name);
		goto fail;
	}
	c->cipher = cipher;
	c->evp = evp_cipher(&c->l, cipher, key_len);
	if (!c->evp) {
		ret = err_set(err, -EINVAL, "%s: a key of %zu bytes does not fit the cipher", name,
			      key_len);
		goto fail;
	}
	if (cipher == CRYPT_AES_XTS_PLAIN &&
	    !memcmp(key, (const uint8_t *)key + key_len / 2, key_len / 2)) {
		ret = err_set(err, -EINVAL, "%s: the two halves of the key are the same, which defeats "
			      "the cipher", name);
		goto fail;
	}
	memcpy(c->key, key, key_len);
	x = context_new(c);
	if (!x) {
		ret = err_set(err, -ENOTSUP, "%s: OpenSSL's library refuses the cipher", name);
		goto fail;
	}
	context_put(c, x);
	*out = c;
	return 0;
fail:
	crypt_free(c);
	return ret;
}

void crypt_free(struct crypt *c)
{
	struct context *x, *next;

	if (!c)
		return;
	for (x = c->idle; x; x = next) {
		next = x->next;
		context_free(c, x);
	}
	pthread_mutex_destroy(&c->lock);
	crypt_wipe(c->key, sizeof(c->key));
	free(c);
}

static int sectors_run(struct crypt *c, EVP_CIPHER_CTX *ctx, uint64_t sector, uint8_t *dst,
		       const uint8_t *src, size_t len)
{
	uint8_t iv[IV_LEN] = { 0 };
	int n;

	for (; len; sector++, dst += n, src += n, len -= n) {
		put_le64(iv, c->cipher == CRYPT_AES_XTS_PLAIN ? (uint32_t)sector : sector);
		if (!c->l.EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, -1) ||
		    !c->l.EVP_CipherUpdate(ctx, dst, &n, src, CRYPT_SECTOR) || n != CRYPT_SECTOR)
			return -EIO;
	}
	return 0;
}

int crypt_sectors(struct crypt *c, bool encrypt, uint64_t sector, void *dst, const void *src,
		  size_t len)
{
	struct context *x = context_take(c);
	int ret;

	if (!x)
		return -ENOMEM;
	ret = len % CRYPT_SECTOR ? -EINVAL : sectors_run(c, x->dir[encrypt], sector, dst, src, len);
	context_put(c, x);
	return ret;
}

/* -------------------------------------------------------------------- digests */

struct crypt_digest {
	struct libcrypto l;
	EVP_MD_CTX *ctx;
};

static void digest_free(struct crypt_digest *d)
{
	if (d->ctx)
		d->l.EVP_MD_CTX_free(d->ctx);
	free(d);
}

int crypt_digest_new(enum crypt_hash hash, struct crypt_digest **out, struct tapimg_err *err)
{
	struct crypt_digest *d = calloc(1, sizeof(*d));
	int ret;

	*out = NULL;
	if (!d)
		return err_set(err, -ENOMEM, "no memory");
	ret = libcrypto_load(&d->l, err);
	if (!ret) {
		const EVP_MD *md = hash == CRYPT_MD5 ? d->l.EVP_md5() :
				   hash == CRYPT_SHA1 ? d->l.EVP_sha1() :
				   hash == CRYPT_SHA256 ? d->l.EVP_sha256() : d->l.EVP_sha512();

		d->ctx = d->l.EVP_MD_CTX_new();
		if (!d->ctx || !d->l.EVP_DigestInit_ex(d->ctx, md, NULL))
			ret = err_set(err, -ENOTSUP, "OpenSSL's library refuses the digest");
	}
	if (ret)
		digest_free(d);
	else
		*out = d;
	return ret;
}

int crypt_digest_add(struct crypt_digest *d, const void *data, size_t len)
{
	return d->l.EVP_DigestUpdate(d->ctx, data, len) ? 0 : -EIO;
}

int crypt_digest_end(struct crypt_digest *d, uint8_t *out)
{
	unsigned len = 0;
	int ret = d->l.EVP_DigestFinal_ex(d->ctx, out, &len) ? (int)len : -EIO;

	digest_free(d);
	return ret;
}

int crypt_digest(enum crypt_hash hash, const void *data, size_t len, uint8_t *out,
		 struct tapimg_err *err)
{
	struct crypt_digest *d;
	int ret = crypt_digest_new(hash, &d, err), r;

	if (ret)
		return ret;
	ret = crypt_digest_add(d, data, len);
	r = crypt_digest_end(d, out);
	return ret ? err_set(err, ret, "OpenSSL's library cannot make the digest") : r;
}
