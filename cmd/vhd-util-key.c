/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-key.c - vhd-util key: which key a disk is enciphered with
 *
 * The disk holds no key but the digest of one: SHA-256 over a nonce of 32 bytes and the key.  Messages go
 * to stderr here, the usage too.
 */
#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd-util-key.h"

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'k', NULL, "KEYFILE", "file of the key", "FILE" },
	{ 'N', NULL, "NONCE", "64 hex digits; zeroes by default", NULL },
	{ 'H', NULL, "HASH", "with -s: the digest itself, 64 hex digits", NULL },
	{ 's', NULL, NULL, "set the digest of a disk that is empty", NULL },
	{ 'c', NULL, NULL, "check that this is the key", NULL },
	{ 'C', NULL, NULL, "compute the digest and print it", NULL },
	{ 'p', NULL, NULL, "print nonce and digest", NULL },
	{ 0 }
};

static int key_usage(int status)
{
	fprintf(stderr,
		"usage:\n"
		"-C -k KEYFILE [-N NONCE]: print the digest of a key\n"
		"-s -n NAME (-k KEYFILE | -H HASH) [-N NONCE]: set the digest\n"
		"-c -n NAME -k KEYFILE: check a key\n"
		"-p -n NAME: print nonce and digest\n"
		"-h: this help\n");
	return status;
}

/* ---------------------------------------------------------------- key files */

int vu_key_hash(const uint8_t nonce[32], const uint8_t *key, size_t len, uint8_t hash[32],
		struct tapimg_err *err)
{
	uint8_t buf[32 + VU_KEY_MAX];
	int ret;

	memcpy(buf, nonce, 32);
	memcpy(buf + 32, key, len);
	ret = crypt_digest(CRYPT_SHA256, buf, 32 + len, hash, err);
	crypt_wipe(buf, sizeof(buf));
	return ret < 0 ? ret : 0;
}

/*
 * A key belongs to "<image without .vhd>,aes-xts-plain,256.key" or "...,512.key": its length in bytes,
 * 0 for another name.
 */
static size_t expected_len(const char *image, const char *path)
{
	const char *slash = strrchr(image, '/'), *base = slash ? slash + 1 : image, *end, *key;
	size_t n, found = 0;

	end = strstr(base, ".vhd");
	n = end ? (size_t)(end - base) : strlen(base);
	slash = strrchr(path, '/');
	key = slash ? slash + 1 : path;
	if (strncmp(key, base, n) != 0)
		return 0;
	if (!strcmp(key + n, ",aes-xts-plain,512.key"))
		found = 64;
	else if (!strcmp(key + n, ",aes-xts-plain,256.key"))
		found = 32;
	return found;
}

static int read_key(const char *path, uint8_t key[VU_KEY_MAX], size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0) {
		ret = -errno;
		fprintf(stderr, "failed to open %s: %d\n", path, -ret);
		return ret;
	}
	n = read(fd, key, VU_KEY_MAX);
	if (n < 0 || fstat(fd, &st)) {
		ret = -errno;
		fprintf(stderr, "failed to read key: %d\n", -ret);
	} else if (n != st.st_size) {
		ret = -EIO;
		fprintf(stderr, "short read of key\n");
	} else {
		*len = (size_t)n;
		fprintf(stderr, "using keyfile %s, Size (bytes) %zu\n", path, *len);
	}
	close(fd);
	return ret;
}

/* @want: the key's length; 0: any. */
static int hash_file(const char *path, size_t want, const uint8_t nonce[32], uint8_t hash[32])
{
	uint8_t key[VU_KEY_MAX];
	struct tapimg_err err = { 0 };
	size_t len = 0;
	int ret = read_key(path, key, &len);

	if (!ret && want && len != want) {
		fprintf(stderr, "incorrect key size: %zu != %zu\n", want, len);
		ret = -EINVAL;
	}
	if (!ret) {
		ret = vu_key_hash(nonce, key, len, hash, &err);
		if (ret) {
			fprintf(stderr, "failed to calculate keyhash: %s\n", err.text);
			ret = -EINVAL;
		}
	}
	crypt_wipe(key, sizeof(key));
	return ret;
}

static int parse_hex(const char *text, uint8_t out[32])
{
	if (strlen(text) != 64) {
		fprintf(stderr, "invalid size for hex string\n");
		return -EINVAL;
	}
	for (unsigned i = 0; i < 64; i++) {
		int ch = tolower((unsigned char)text[i]);

		if (!isxdigit(ch)) {
			fprintf(stderr, "invalid hex digit\n");
			return -EINVAL;
		}
		ch = isdigit(ch) ? ch - '0' : ch - 'a' + 10;
		out[i / 2] = i & 1 ? out[i / 2] | ch : ch << 4;
	}
	return 0;
}

static void print_hex(const uint8_t *p, const char *end)
{
	for (unsigned i = 0; i < 32; i++)
		printf("%02x", p[i]);
	printf("%s", end);
}

/* ------------------------------------------------------------------- actions */

struct key_args {
	const char *name, *path, *nonce, *hash;
	bool set, check, compute, print;
};

static int compute(const struct key_args *a)
{
	uint8_t nonce[32] = { 0 }, hash[32];
	int ret = a->nonce ? parse_hex(a->nonce, nonce) : 0;

	if (!ret)
		ret = hash_file(a->path, 0, nonce, hash);
	if (ret)
		fprintf(stderr, "calculating keyhash failed: %d\n", ret);
	else
		print_hex(hash, "\n");
	return ret;
}

static int given_hash(const struct key_args *a, uint8_t nonce[32], uint8_t hash[32])
{
	size_t len;
	int ret = a->nonce ? parse_hex(a->nonce, nonce) : 0;

	if (ret || a->hash)
		return ret ? ret : parse_hex(a->hash, hash);
	len = expected_len(a->name, a->path);
	if (len)
		return hash_file(a->path, len, nonce, hash);
	fprintf(stderr, "Invalid key name %s\n", a->path);
	return -EINVAL;
}

/* Data that are there already would not fit the key. */
static int check_empty(struct cli *c, struct vu_file *f)
{
	int ret = 0;

	if (!vu_sparse(f)) {
		fprintf(stderr, "can't save key hashes for fixed vhds\n");
		return -EINVAL;
	}
	ret = vu_bat(c, f);
	for (uint32_t i = 0; !ret && i < f->entries; i++) {
		if (f->bat[i] != VHD_UNUSED) {
			fprintf(stderr, "can't save key hashes for non-empty vhds\n");
			ret = -EINVAL;
		}
	}
	return ret;
}

static int set(struct cli *c, struct vu_file *f, const struct key_args *a)
{
	uint8_t nonce[32] = { 0 }, hash[32] = { 0 };
	struct tapimg_err err = { 0 };
	struct tapimg *img;
	int ret = check_empty(c, f);

	if (!ret)
		ret = given_hash(a, nonce, hash);
	if (!ret)
		ret = vu_open(c, a->name, TAPIMG_RDWR | TAPIMG_NO_IO, &img);
	if (ret)
		return ret;
	ret = vhd_set_key_hash(img, nonce, hash, &err);
	if (ret) {
		ret = vu_look_failed(c, a->name, &err, ret);
		fprintf(stderr, "failed to set keyhash: %d\n", ret);
	}
	return vu_close_image(c, img, ret);
}

static int check(const struct vu_file *f, const struct key_args *a)
{
	const struct vhd_batmap_header *b = &f->look.batmap;
	uint8_t hash[32];
	size_t len = expected_len(a->name, a->path);
	int ret;

	if (!f->look.has_batmap || !b->has_key) {
		fprintf(stderr, "this vhd has no keyhash\n");
		return -EINVAL;
	}
	if (!len) {
		fprintf(stderr, "Invalid key name %s\n", a->path);
		return -EINVAL;
	}
	ret = hash_file(a->path, len, b->nonce, hash);
	if (!ret && memcmp(hash, b->hash, 32)) {
		fprintf(stderr, "vhd hash doesn't match key hash\n");
		ret = -EINVAL;
	}
	return ret;
}

static void print_key(const struct vu_file *f)
{
	const struct vhd_batmap_header *b = &f->look.batmap;

	if (!f->look.has_batmap || b->has_key != 1) {
		puts("none");
		return;
	}
	print_hex(b->nonce, " ");
	print_hex(b->hash, "\n");
}

static int act(struct cli *c, struct vu_file *f, const struct key_args *a)
{
	int ret = 0;

	if (a->set) {
		ret = set(c, f, a);
		if (ret)
			fprintf(stderr, "setting key failed: %d\n", ret);
	} else if (a->check) {
		ret = check(f, a);
		if (ret)
			fprintf(stderr, "key check failed: %d\n", ret);
	}
	if (!a->print)
		return ret;
	if (a->set && !ret) {		/* what it has now */
		const char *name = f->name;

		vu_close(f);
		ret = vu_look(c, name, 0, f);
	}
	print_key(f);
	return ret;
}

static bool sensible(const struct key_args *a)
{
	if (a->compute)
		return a->path;
	if (!a->name)
		return false;
	if (a->set)
		return !a->check && !a->path != !a->hash;
	if (a->check)
		return a->path && !a->nonce && !a->hash;
	return a->print;
}

static int parse(struct cli *c, struct key_args *a)
{
	int val;

	while ((val = util_getopt(c)) > 0) {
		if (val == 'n')
			a->name = optarg;
		else if (val == 'k')
			a->path = optarg;
		else if (val == 'N')
			a->nonce = optarg;
		else if (val == 'H')
			a->hash = optarg;
		a->set |= val == 's';
		a->check |= val == 'c';
		a->compute |= val == 'C';
		a->print |= val == 'p';
	}
	return val;
}

static int run(struct cli *c)
{
	struct key_args a = { 0 };
	struct vu_file f;
	int ret;

	if (parse(c, &a))
		return key_usage(c->status);
	if (!sensible(&a))
		return key_usage(EINVAL);
	if (a.compute)
		return util_status(compute(&a));
	ret = vu_look(c, a.name, 0, &f);
	if (ret)
		fprintf(stderr, "failed to open %s: %d\n", a.name, ret);
	else
		ret = act(c, &f, &a);
	vu_close(&f);
	return util_status(ret);
}

const struct command command_vhd_key = {
	.name = "key", .run = run, .flags = UTIL_HELP_OK | UTIL_OWN_USAGE,
	.usage = "-C -k KEYFILE [-N NONCE] | -s -n NAME (-k KEYFILE | -H HASH) [-N NONCE] | "
		 "-c -n NAME -k KEYFILE | -p -n NAME",
	.summary = "set, check and print the digest of a disk's key", .options = options,
};
