/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tls.c - TLS with OpenSSL, loaded when it is first wanted
 *
 * TLS 1.2 and later.  Records are written and read through a BIO of our own, because OpenSSL's
 * would raise SIGPIPE when the peer has gone.  Small pieces are put together to full records: a
 * reply's header and its data cost one.
 *
 * Pre-shared keys work with GnuTLS peers in both versions.  In 1.3 the key belongs to SHA-256, as
 * both sides assume for keys from a file.
 */
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "checked.h"
#include "tls.h"

#define RECORD 16384

/* What is taken out of the two libraries. */
#define SSL_NAMES(X)                                                                               \
	X(TLS_method) X(SSL_CTX_new) X(SSL_CTX_free) X(SSL_CTX_ctrl) X(SSL_CTX_set_options)       \
	X(SSL_CTX_set_verify) X(SSL_CTX_load_verify_locations)                                     \
	X(SSL_CTX_use_certificate_chain_file) X(SSL_CTX_use_PrivateKey_file)                       \
	X(SSL_CTX_check_private_key) X(SSL_CTX_set_default_verify_paths)                           \
	X(SSL_CTX_set_psk_server_callback) X(SSL_CTX_set_psk_client_callback)                      \
	X(SSL_CTX_set_ex_data) X(SSL_CTX_get_ex_data) X(SSL_get_SSL_CTX) X(SSL_new) X(SSL_free)    \
	X(SSL_set_bio) X(SSL_set_accept_state) X(SSL_set_connect_state) X(SSL_read) X(SSL_write)   \
	X(SSL_get_error) X(SSL_shutdown) X(SSL_set1_host) X(SSL_ctrl) X(SSL_get_verify_result)     \
	X(SSL_CTX_set_cipher_list) X(SSL_get_shutdown)
#define CRYPTO_NAMES(X)                                                                            \
	X(BIO_meth_new) X(BIO_meth_free) X(BIO_meth_set_read) X(BIO_meth_set_write)                \
	X(BIO_meth_set_ctrl) X(BIO_new) X(BIO_set_data) X(BIO_get_data) X(BIO_set_init)            \
	X(BIO_set_flags) X(BIO_clear_flags) X(ERR_get_error) X(ERR_clear_error)                    \
	X(ERR_reason_error_string) X(X509_verify_cert_error_string) X(OPENSSL_cleanse)

#define MEMBER(name) __typeof__(name) *name;
struct ssl_lib {
	void *ssl, *crypto;
	bool complete;
	SSL_NAMES(MEMBER)
	CRYPTO_NAMES(MEMBER)
};
#undef MEMBER

struct psk {
	char *user;
	uint8_t *key;
	size_t len;
};

/*
 * The one state of the process that is not reachable from a context: OpenSSL's callbacks bring nothing
 * but OpenSSL's own objects.  Filled once, never changed after.
 */
static struct ssl_lib lib;
static pthread_once_t lib_once = PTHREAD_ONCE_INIT;

struct tls_ctx {
	SSL_CTX *ctx;
	BIO_METHOD *method;
	bool server, psk_only;
	char *user;
	struct psk *psks;
	unsigned npsks;
};

struct tls {
	struct tls_ctx *ctx;
	SSL *ssl;
	int fd;
	bool wants_write;
	bool broken;			/* no goodbye is possible any more */
	char error[200];
	uint8_t stage[RECORD];
};

/* ------------------------------------------------------------------ the libraries */

/* They stay loaded: OpenSSL leaves handlers behind that run when the process ends. */
static void lib_load(void)
{
	bool all = true;

	lib.crypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
	lib.ssl = lib.crypto ? dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL) : NULL;
	if (!lib.ssl)
		return;
#define TAKE(from, name) all &= (lib.name = (__typeof__(lib.name))dlsym(from, #name)) != NULL;
#define TAKE_SSL(name) TAKE(lib.ssl, name)
#define TAKE_CRYPTO(name) TAKE(lib.crypto, name)
	SSL_NAMES(TAKE_SSL)
	CRYPTO_NAMES(TAKE_CRYPTO)
	lib.complete = all;
}

static const char *last_reason(void)
{
	const char *first = NULL, *reason;
	unsigned long code;

	while ((code = lib.ERR_get_error())) {
		reason = lib.ERR_reason_error_string(code);
		first = first ? first : reason;
	}
	return first ? first : "unknown failure";
}

/* ------------------------------------------------------------------ pre-shared keys */

static int hex_digit(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	if (ch >= 'a' && ch <= 'f')
		return ch - 'a' + 10;
	if (ch >= 'A' && ch <= 'F')
		return ch - 'A' + 10;
	return -1;
}

/* "user:hex" to @psk. False: it is not that. */
static bool psk_parse(char *line, struct psk *psk)
{
	char *colon = strchr(line, ':');
	size_t n = colon ? strlen(colon + 1) : 0;

	if (!n || n % 2 || colon == line || n > 2 * (size_t)PSK_MAX_PSK_LEN)
		return false;
	*colon = 0;
	psk->user = strdup(line);
	psk->key = malloc(n / 2);
	psk->len = n / 2;
	if (!psk->user || !psk->key)
		return false;
	for (size_t i = 0; i < n / 2; i++) {
		int hi = hex_digit(colon[1 + 2 * i]), lo = hex_digit(colon[2 + 2 * i]);

		if (hi < 0 || lo < 0)
			return false;
		psk->key[i] = hi << 4 | lo;
	}
	return true;
}

static int psk_add(struct tls_ctx *ctx, char *line)
{
	struct psk *more = realloc(ctx->psks, (ctx->npsks + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	ctx->psks = more;
	more[ctx->npsks] = (struct psk){ 0 };
	return psk_parse(line, &more[ctx->npsks++]) ? 0 : -EINVAL;
}

static int psk_load(struct tls_ctx *ctx, const char *path, struct tapimg_err *err)
{
	FILE *f = fopen(path, "re");
	unsigned number = 0;
	char *line = NULL;
	size_t size = 0;
	ssize_t n;
	int ret = 0;

	if (!f)
		return err_errno(err, -errno, "%s", path);
	while (!ret && (n = getline(&line, &size, f)) >= 0) {
		number++;
		while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
			line[--n] = 0;
		if (n && line[0] != '#')
			ret = psk_add(ctx, line);
	}
	if (line)
		lib.OPENSSL_cleanse(line, size);
	free(line);
	fclose(f);
	if (ret == -EINVAL)
		return err_set(err, ret, "%s: line %u is not \"user:key in hexadecimal\"", path, number);
	if (!ret && !ctx->npsks)
		return err_set(err, -EINVAL, "%s: holds no key", path);
	return ret ? err_errno(err, ret, "%s", path) : 0;
}

static const struct psk *psk_find(const struct tls_ctx *ctx, const char *user)
{
	for (unsigned i = 0; i < ctx->npsks; i++)
		if (!strcmp(ctx->psks[i].user, user))
			return &ctx->psks[i];
	return NULL;
}

static unsigned psk_server(SSL *ssl, const char *user, unsigned char *key, unsigned max)
{
	const struct tls_ctx *ctx = lib.SSL_CTX_get_ex_data(lib.SSL_get_SSL_CTX(ssl), 0);
	const struct psk *psk = user ? psk_find(ctx, user) : NULL;

	if (!psk || psk->len > max)
		return 0;
	memcpy(key, psk->key, psk->len);
	return psk->len;
}

static unsigned psk_client(SSL *ssl, const char *hint, char *user, unsigned user_max,
			   unsigned char *key, unsigned max)
{
	const struct tls_ctx *ctx = lib.SSL_CTX_get_ex_data(lib.SSL_get_SSL_CTX(ssl), 0);
	const struct psk *psk = psk_find(ctx, ctx->user);

	if (!psk || psk->len > max || strlen(psk->user) >= user_max)
		return 0;
	strcpy(user, psk->user);
	memcpy(key, psk->key, psk->len);
	return psk->len;
}

/* ------------------------------------------------------------------ the socket */

static int bio_read(BIO *b, char *buf, int len)
{
	struct tls *t = lib.BIO_get_data(b);
	ssize_t n = recv(t->fd, buf, len, MSG_DONTWAIT);

	lib.BIO_clear_flags(b, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		lib.BIO_set_flags(b, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
	return n;
}

static int bio_write(BIO *b, const char *buf, int len)
{
	struct tls *t = lib.BIO_get_data(b);
	ssize_t n = send(t->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	lib.BIO_clear_flags(b, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		lib.BIO_set_flags(b, BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY);
	return n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	return cmd == BIO_CTRL_FLUSH;
}

/* ------------------------------------------------------------------ contexts */

static char *in_folder(const char *folder, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static int load_failed(const char *path, struct tapimg_err *err)
{
	if (access(path, R_OK))
		return err_errno(err, -errno, "%s", path);
	return err_set(err, -EINVAL, "%s: %s", path, last_reason());
}

/* Our own certificate and its key: a server needs them, a client may have them. */
static int load_own(struct tls_ctx *ctx, const char *folder, struct tapimg_err *err)
{
	const char *who = ctx->server ? "server" : "client";
	char *cert = NULL, *key = NULL;
	int ret = 0;

	if (asprintf(&cert, "%s/%s-cert.pem", folder, who) < 0)
		cert = NULL;
	if (asprintf(&key, "%s/%s-key.pem", folder, who) < 0)
		key = NULL;
	if (!cert || !key)
		ret = err_set(err, -ENOMEM, "no memory");
	else if (!ctx->server && access(cert, F_OK))
		ret = 0;
	else if (lib.SSL_CTX_use_certificate_chain_file(ctx->ctx, cert) != 1)
		ret = load_failed(cert, err);
	else if (lib.SSL_CTX_use_PrivateKey_file(ctx->ctx, key, SSL_FILETYPE_PEM) != 1)
		ret = load_failed(key, err);
	free(cert);
	free(key);
	return ret;
}

static int load_certs(struct tls_ctx *ctx, const struct tls_params *p, struct tapimg_err *err)
{
	char *ca = in_folder(p->certs, "ca-cert.pem");
	int ret = 0;

	if (!ca)
		return err_set(err, -ENOMEM, "no memory");
	if (p->verify && lib.SSL_CTX_load_verify_locations(ctx->ctx, ca, NULL) != 1)
		ret = load_failed(ca, err);
	free(ca);
	return ret ? ret : load_own(ctx, p->certs, err);
}

static int ctx_setup(struct tls_ctx *ctx, const struct tls_params *p, struct tapimg_err *err)
{
	int ret = 0;

	lib.SSL_CTX_set_ex_data(ctx->ctx, 0, ctx);
	lib.SSL_CTX_ctrl(ctx->ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
	lib.SSL_CTX_ctrl(ctx->ctx, SSL_CTRL_SET_DH_AUTO, 1, NULL);
	lib.SSL_CTX_ctrl(ctx->ctx, SSL_CTRL_MODE, SSL_MODE_ENABLE_PARTIAL_WRITE |
			 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS, NULL);
	/* connections live long: nothing is gained by remembering them */
	lib.SSL_CTX_ctrl(ctx->ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
	lib.SSL_CTX_set_options(ctx->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
				SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
				SSL_OP_IGNORE_UNEXPECTED_EOF);
	if (p->psk_file) {
		ret = psk_load(ctx, p->psk_file, err);
		if (!ret && !p->server && (!p->psk_user || !psk_find(ctx, p->psk_user)))
			ret = err_set(err, -EINVAL, "%s: holds no key for user '%s'", p->psk_file,
				      p->psk_user ? p->psk_user : "");
		if (ret)
			return ret;
		if (p->server)
			lib.SSL_CTX_set_psk_server_callback(ctx->ctx, psk_server);
		else
			lib.SSL_CTX_set_psk_client_callback(ctx->ctx, psk_client);
	}
	if (p->certs)
		ret = load_certs(ctx, p, err);
	else if (p->verify && !p->psk_file)
		lib.SSL_CTX_set_default_verify_paths(ctx->ctx);
	if (p->verify)
		lib.SSL_CTX_set_verify(ctx->ctx, SSL_VERIFY_PEER |
				       (p->server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
	return ret;
}

void tls_ctx_free(struct tls_ctx *ctx)
{
	if (!ctx)
		return;
	for (unsigned i = 0; i < ctx->npsks; i++) {
		free(ctx->psks[i].user);
		if (ctx->psks[i].key)
			lib.OPENSSL_cleanse(ctx->psks[i].key, ctx->psks[i].len);
		free(ctx->psks[i].key);
	}
	free(ctx->psks);
	free(ctx->user);
	if (ctx->ctx)
		lib.SSL_CTX_free(ctx->ctx);
	if (ctx->method)
		lib.BIO_meth_free(ctx->method);
	free(ctx);
}

int tls_ctx_new(const struct tls_params *p, struct tls_ctx **out, struct tapimg_err *err)
{
	struct tls_ctx *ctx;
	int ret;

	*out = NULL;
	pthread_once(&lib_once, lib_load);
	if (!lib.complete)
		return err_set(err, -ENOSYS, "TLS needs OpenSSL 3 (libssl.so.3), which cannot be loaded");
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return err_set(err, -ENOMEM, "no memory");
	ctx->server = p->server;
	ctx->user = p->psk_user ? strdup(p->psk_user) : NULL;
	ctx->ctx = lib.SSL_CTX_new(lib.TLS_method());
	ctx->method = lib.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "tapimg");
	if (!ctx->ctx || !ctx->method || (p->psk_user && !ctx->user)) {
		tls_ctx_free(ctx);
		return err_set(err, -ENOMEM, "TLS: no memory");
	}
	lib.BIO_meth_set_read(ctx->method, bio_read);
	lib.BIO_meth_set_write(ctx->method, bio_write);
	lib.BIO_meth_set_ctrl(ctx->method, bio_ctrl);
	ret = ctx_setup(ctx, p, err);
	lib.ERR_clear_error();
	if (ret) {
		tls_ctx_free(ctx);
		return ret;
	}
	*out = ctx;
	return 0;
}

/* ------------------------------------------------------------------ connections */

static bool name_the_host(struct tls *t, const char *host)
{
	/* the names of certificates are checked by OpenSSL; numbers are not sent as names */
	if (lib.SSL_set1_host(t->ssl, host) != 1)
		return false;
	if (host[strspn(host, "0123456789.")] && !strchr(host, ':'))
		lib.SSL_ctrl(t->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
			     (void *)host);
	return true;
}

int tls_new(struct tls_ctx *ctx, int fd, const char *host, struct tls **out, struct tapimg_err *err)
{
	struct tls *t = calloc(1, sizeof(*t));
	BIO *bio;

	*out = NULL;
	if (!t)
		return err_set(err, -ENOMEM, "TLS: no memory");
	t->ctx = ctx;
	t->fd = fd;
	t->ssl = lib.SSL_new(ctx->ctx);
	bio = t->ssl ? lib.BIO_new(ctx->method) : NULL;
	if (!bio || (host && !name_the_host(t, host))) {
		if (t->ssl)
			lib.SSL_free(t->ssl);
		free(t);
		return err_set(err, -ENOMEM, "TLS: no memory");
	}
	lib.BIO_set_data(bio, t);
	lib.BIO_set_init(bio, 1);
	lib.SSL_set_bio(t->ssl, bio, bio);
	if (ctx->server)
		lib.SSL_set_accept_state(t->ssl);
	else
		lib.SSL_set_connect_state(t->ssl);
	*out = t;
	return 0;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	if (!t->broken)
		lib.SSL_shutdown(t->ssl);
	lib.SSL_free(t->ssl);
	lib.ERR_clear_error();
	free(t);
}

bool tls_wants_write(const struct tls *t)
{
	return t->wants_write;
}

const char *tls_error(const struct tls *t)
{
	return t->error[0] ? t->error : "connection lost";
}

static ssize_t tls_result(struct tls *t, int res)
{
	int e = lib.SSL_get_error(t->ssl, res);
	long verify;

	t->wants_write = e == SSL_ERROR_WANT_WRITE;
	if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
		return -EAGAIN;
	if (e == SSL_ERROR_ZERO_RETURN)
		return 0;
	t->broken = true;
	verify = lib.SSL_get_verify_result(t->ssl);
	if (e == SSL_ERROR_SSL)
		snprintf(t->error, sizeof(t->error), "TLS: %s%s%s", last_reason(),
			 verify ? ": " : "",
			 verify ? lib.X509_verify_cert_error_string(verify) : "");
	return -EIO;
}

ssize_t tls_recv(struct tls *t, void *buf, size_t len)
{
	int res;

	lib.ERR_clear_error();
	res = lib.SSL_read(t->ssl, buf, MIN(len, (size_t)INT32_MAX));
	if (res > 0)
		return res;
	return tls_result(t, res);
}

/* Bytes from offset @skip on: a full record, or all there are; in place where they lie together. */
static size_t stage(struct tls *t, const struct iovec *iov, int n, size_t skip, const uint8_t **p)
{
	size_t got = 0;

	while (n && skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		n--;
	}
	if (!n)
		return 0;
	*p = (const uint8_t *)iov->iov_base + skip;
	if (iov->iov_len - skip >= RECORD || n == 1)
		return MIN(iov->iov_len - skip, (size_t)RECORD);
	for (; n && got < RECORD; n--, iov++) {
		size_t here = MIN(iov->iov_len - skip, RECORD - got);

		memcpy(t->stage + got, (const uint8_t *)iov->iov_base + skip, here);
		got += here;
		skip = 0;
	}
	*p = t->stage;
	return got;
}

ssize_t tls_sendv(struct tls *t, const struct iovec *iov, int n)
{
	const uint8_t *p = NULL;
	size_t done = 0, len;

	while ((len = stage(t, iov, n, done, &p))) {
		int res;

		lib.ERR_clear_error();
		res = lib.SSL_write(t->ssl, p, len);
		if (res <= 0) {
			ssize_t ret = tls_result(t, res);

			if (done && ret == -EAGAIN)
				break;
			return ret == 0 ? -EPIPE : ret;
		}
		done += res;
	}
	return done;
}
