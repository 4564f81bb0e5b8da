/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-copy.c - vhd-util copy: a disk as another file, perhaps enciphered
 *
 * A source that is enciphered itself is copied as it is, with the digest of its key: for that the key
 * is not needed.
 */
#include <fcntl.h>
#include <unistd.h>

#include "vhd-util-key.h"

#define KEY_INPUT 1024

static const struct option_desc options[] = {
	{ 'n', NULL, "NAME", "the image", "FILE" },
	{ 'N', NULL, "NEW", "the copy", "FILE" },
	{ 'k', NULL, "KEYFILE", "encipher the copy with this key", "FILE" },
	{ 'E', NULL, NULL, "with the key on standard input", NULL },
	{ 0 }
};

struct copying {
	const char *name, *new;
	uint8_t key[VU_KEY_MAX];
	size_t key_len;			/* 0: none */
	struct tapimg *src;
};

static int read_key(struct copying *k, int fd)
{
	uint8_t buf[KEY_INPUT];
	ssize_t n, len = 0;

	while (len < KEY_INPUT && (n = read(fd, buf + len, KEY_INPUT - len)) > 0)
		len += n;
	if (len != 32 && len != 64) {
		fprintf(stderr, "Unsupported keysize, use either 256 bit or 512 bit key\n");
		crypt_wipe(buf, sizeof(buf));
		return 1;
	}
	memcpy(k->key, buf, len);
	k->key_len = len;
	crypt_wipe(buf, sizeof(buf));
	return 0;
}

static int read_key_file(struct copying *k, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0) {
		ret = errno;
		printf("Failed to open key file %s: %d\n", path, ret);
		return ret;
	}
	ret = read_key(k, fd);
	close(fd);
	return ret;
}

/* Puts the data of the source into the new image. */
static int fill(struct cli *c, const char *path, void *arg)
{
	const struct tapimg_copy_opts how = {
		.flags = TAPIMG_COPY_TARGET_ZERO | TAPIMG_COPY_OFFLOAD, .sparse_size = 4096,
	};
	struct copying *k = arg;
	struct tapimg_err err = { 0 };
	struct tapimg *dst;
	int ret = vu_open(c, path, TAPIMG_RDWR | TAPIMG_NO_IO, &dst);

	if (!ret && k->key_len)
		ret = crypt_new(CRYPT_AES_XTS_PLAIN, k->key, k->key_len, k->new, &dst->crypt, &err);
	if (!ret)
		ret = tapimg_copy(&k->src, 1, dst, &how, &err);
	if (!ret)
		ret = tapimg_flush(dst);
	if (ret)
		ret = vu_look_failed(c, k->new, &err, ret);
	return vu_close_image(c, dst, ret);
}

static int copy_to(struct cli *c, struct copying *k, const struct vhd_look *l)
{
	static const uint8_t nonce[32];
	struct vhd_create how = { .size = l->footer.cur_size, .type = l->footer.type };
	struct tapimg_err err = { 0 };
	uint8_t hash[32];
	int ret = 0;

	if (l->has_batmap && l->batmap.has_key) {
		how.nonce = l->batmap.nonce;
		how.hash = l->batmap.hash;
	}
	if (k->key_len && (how.hash || l->footer.type == VHD_TYPE_FIXED)) {
		printf("failed to set keyhash %d\n", -EINVAL);
		return -EINVAL;
	}
	if (k->key_len) {
		ret = vu_key_hash(nonce, k->key, k->key_len, hash, &err);
		if (ret) {
			printf("Failed to calculate keyhash %d\n", ret);
			return vu_look_failed(c, k->new, &err, ret);
		}
		how.nonce = nonce;
		how.hash = hash;
	}
	ret = l->footer.type == VHD_TYPE_DIFF ? -EINVAL : vu_make(c, k->new, &how, fill, k);
	if (ret)
		printf("error creating %s: %d\n", k->new, ret);
	return ret;
}

static int copy(struct cli *c, struct copying *k)
{
	int ret = vu_open(c, k->name, TAPIMG_NO_IO, &k->src);

	if (ret) {
		printf("error opening %s: %d\n", k->name, ret);
		return ret;
	}
	if (!access(k->new, F_OK)) {
		printf("VHD file %s already exists, chose a different name\n", k->new);
		ret = -EINVAL;
	} else {
		ret = copy_to(c, k, &vhd_of(k->src)->look);
	}
	return vu_close_image(c, k->src, ret);
}

static int run(struct cli *c)
{
	struct copying k = { 0 };
	int val, ret = 0;

	while ((val = util_getopt(c)) > 0 && !ret) {
		if (val == 'n')
			k.name = optarg;
		else if (val == 'N')
			k.new = optarg;
		else if (k.key_len) {
			fprintf(stderr, "Only supply -E or -k once\n");
			ret = 1;
		} else if (val == 'k') {
			ret = read_key_file(&k, optarg);
		} else {
			ret = read_key(&k, STDIN_FILENO);
		}
	}
	if (val < 0)
		return c->status;
	if (!ret && (!k.name || !k.new)) {
		fprintf(stderr, "Must supply both existing and new VHD names\n");
		return util_usage(c, EINVAL);
	}
	if (!ret)
		ret = copy(c, &k);
	crypt_wipe(&k, sizeof(k));
	return util_status(ret);
}

const struct command command_vhd_copy = {
	.name = "copy", .run = run, .flags = UTIL_LENIENT,
	.usage = "-n NAME -N NEW [-k KEYFILE | -E] [-h]",
	.summary = "copy a disk, perhaps enciphered", .options = options,
};
