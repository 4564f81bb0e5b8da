/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ova.c - OVA: a tar archive of an OVF envelope and its disks
 *
 * An image in an OVA is opened as what it is: the driver here only finds it, and hands on a window of
 * the archive (format.enter).  The envelope says which members are disks, in which order, and of which
 * format.  Nothing is unpacked, and no name of the archive ever becomes that of a file.
 *
 * One that we make has, like those of other products,
 *
 *	X.ovf | X.mf, the digests of the others | X-disk1.vmdk, a stream | two empty blocks
 *
 * The stream's length is known only at its end.  So envelope and manifest get their place first, and
 * their final contents, which have the same length, when the image is closed.
 *
 * Left out: disks stored in pieces or packed by gzip, which no product writes into an OVA.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "checked.h"
#include "image.h"
#include "opt.h"
#include "ova.h"

#define BASE_MAX 80		/* bytes of the names of members, without what is added */
#define NAMED_MAX 8		/* disks that a message names */
#define UNFINISHED (1ULL << 62)	/* bytes of the disk, says its header until they are known */

bool ova_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), k = strlen(suffix);

	return n > k && !strcasecmp(name + n - k, suffix);
}

/* -------------------------------------------------------------------- probing */

/*
 * The envelope comes first; in front of it there may be an extended header.  Archivers know nothing of that order, so of
 * what is called an OVA any archive is taken for one.
 */
static int ova_probe(const uint8_t *head, size_t len, uint64_t file_size, const char *name)
{
	char member[257], type;
	uint64_t size, off = 0;

	while (checked_range(off, TAR_BLOCK, len)) {
		if (!tar_header_get(head + off, member, &size, &type))
			return 0;
		if (type != 'x' && type != 'g' && type != 'L')
			return ova_suffix(member, ".ovf") ? 90 : ova_suffix(name, ".ova") ? 80 : 0;
		off += TAR_BLOCK + round_up(MIN(size, (uint64_t)len), TAR_BLOCK);
	}
	return 0;
}

/* -------------------------------------------------------------------- reading */

static int read_envelope(struct file *f, const struct tar *t, struct ovf *ovf, struct tapimg_err *err)
{
	const struct tar_member *m = NULL;
	char *text, *name = NULL;
	int ret;

	for (unsigned i = 0; i < t->n && !m; i++)
		if (ova_suffix(t->member[i].name, ".ovf") && t->member[i].plain)
			m = t->member + i;
	if (!m)
		return err_set(err, -EINVAL, "%s: has no OVF envelope in it", f->name);
	if (m->there < m->size || m->size > OVF_MAX)
		return err_set(err, -EINVAL, "%s: its envelope '%.100s' of %" PRIu64 " bytes is %s", f->name,
			       m->name, m->size, m->there < m->size ? "cut off" : "too long");
	text = malloc(m->size + 1);
	if (asprintf(&name, "%s: its envelope '%.100s'", f->name, m->name) < 0)
		name = NULL;
	ret = text && name ? file_pread(f, text, m->size, m->off) : -ENOMEM;
	if (ret)
		err_errno(err, ret, "%s: reading its envelope", f->name);
	else
		ret = ovf_parse(text, m->size, name, ovf, err);
	free(text);
	free(name);
	return ret;
}

/* Those there are, for a message. */
static void list_disks(const struct ovf *ovf, char *buf, size_t size)
{
	size_t at = 0;

	buf[0] = 0;
	for (unsigned i = 0; i < ovf->n && at < size; i++) {
		if (i == NAMED_MAX) {
			snprintf(buf + at, size - at, ", ...");
			break;
		}
		at += snprintf(buf + at, size - at, "%s'%.60s'", i ? ", " : "", ovf->disk[i].file);
	}
}

/* By file name, by id, or by number from 1. */
static const struct ovf_disk *disk_named(const struct ovf *ovf, const char *which)
{
	char *end;
	unsigned long n = strtoul(which, &end, 10);

	for (unsigned i = 0; i < ovf->n; i++)
		if (!strcmp(ovf->disk[i].file, which) || !strcmp(ovf->disk[i].id, which))
			return ovf->disk + i;
	return *which >= '1' && *which <= '9' && !*end && n <= ovf->n ? ovf->disk + n - 1 : NULL;
}

static const struct ovf_disk *disk_choose(struct file *f, const struct ovf *ovf, const char *which,
					  struct tapimg_err *err)
{
	const struct ovf_disk *d = NULL;
	char list[800];

	list_disks(ovf, list, sizeof(list));
	if (!ovf->n)
		err_set(err, -EINVAL, "%s: there is no disk in it", f->name);
	else if (which)
		d = disk_named(ovf, which);
	else if (ovf->n == 1)
		d = ovf->disk;
	else
		err_set(err, -EINVAL, "%s: has %u disks: choose one, by name or number, with "
			"--image-opts driver=ova,disk=...,file.filename=... (%s)", f->name, ovf->n, list);
	if (ovf->n && which && !d)
		err_set(err, -ENOENT, "%s: has no disk '%.200s', but %s", f->name, which, list);
	return d;
}

/* What the envelope says; only where it says nothing the contents are looked at. */
static int disk_format(struct file *part, const struct ovf_disk *d, const struct format **format,
		       struct tapimg_err *err)
{
	static const struct { const char *in, *name; } known[] = {
		{ "vmdk", "vmdk" }, { "qcow", "qcow2" }, { "vhd", "vpc" },
	};

	*format = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(known) && !*format; i++)
		if (strcasestr(d->format, known[i].in))
			*format = format_find(known[i].name);
	if (!*format && ova_suffix(d->file, ".vmdk"))
		*format = format_find("vmdk");
	if (!*format)
		*format = format_probe(part, err);
	if (!*format)
		return err && err->code ? err->code : -EINVAL;
	if ((*format)->enter)
		return err_set(err, -EINVAL, "%s: its disk '%.100s' is an archive again", part->name, d->file);
	return 0;
}

static int disk_member(struct file *f, const struct tar *t, const struct ovf_disk *d, bool salvage,
		       const struct tar_member **out, struct tapimg_err *err)
{
	const struct tar_member *m = tar_find(t, d->file);

	*out = m;
	if (d->chunked || *d->compression)
		return err_set(err, -ENOTSUP, "%s: its disk '%.100s' is stored %s%.40s, which is not known here",
			       f->name, d->file, d->chunked ? "in pieces" : "packed by ",
			       d->chunked ? "" : d->compression);
	if (!m)
		return err_set(err, -EINVAL, "%s: its disk '%.100s' is not in the archive", f->name, d->file);
	if (!m->plain)
		return err_set(err, -EINVAL, "%s: its disk '%.100s' is not a plain file in the archive",
			       f->name, d->file);
	if (m->there < m->size && !salvage)
		return err_set(err, -EUCLEAN, "%s: the archive is cut off: of the %" PRIu64 " bytes of its disk "
			       "'%.100s' only %" PRIu64 " are there (convert --salvage gets out what they hold)",
			       f->name, m->size, d->file, m->there);
	return 0;
}

static int open_part(struct file *f, const struct tapimg_open_opts *o, const struct tar *t,
		     const struct ovf *ovf, struct file **inner, const struct format **format,
		     struct tapimg_err *err)
{
	const struct ovf_disk *d = disk_choose(f, ovf, o->disk, err);
	const struct tar_member *m;
	struct file *part;
	int ret;

	if (!d)
		return err ? err->code : -EINVAL;
	ret = disk_member(f, t, d, o->flags & TAPIMG_SALVAGE, &m, err);
	if (ret)
		return ret;
	if (file_open_window(f, m->off, m->there, NULL, NULL, &part))
		return err_errno(err, -ENOMEM, "%s", f->name);
	ret = disk_format(part, d, format, err);
	if (ret)
		file_window_leave(part);
	else
		*inner = part;
	return ret;
}

/* -------------------------------------------------------------------- writing */

static const struct tapimg_opt_desc ova_opts[] = {
	{ "size", "size", NULL, "virtual size of the disk", TAPIMG_OPT_CREATE },
	{ "vm_name", "str", NULL, "the machine's name: as the file's", TAPIMG_OPT_CREATE },
	{ "os_type", "str", "otherGuest64", "the guest's system, as VMware calls it", TAPIMG_OPT_CREATE },
	{ "cpus", "str", "1", "processors of the machine", TAPIMG_OPT_CREATE },
	{ "memory", "size", "1G", "memory of the machine", TAPIMG_OPT_CREATE },
	{ "adapter_type", "lsilogic|buslogic|pvscsi|ide", "lsilogic", "what the disk is attached to",
	  TAPIMG_OPT_CREATE },
	{ "hwversion", "str", "10", "version of the virtual hardware: vmx-10", TAPIMG_OPT_CREATE },
	{ "manifest", "sha256|sha1|none", "sha256", "digests of the parts", TAPIMG_OPT_CREATE },
	{ "compression_level", "str", "6", "1 (fast) to 12 (small)", TAPIMG_OPT_CREATE },
	{ 0 },
};

/* The parts of an archive of ours, found again when it is finished. */
struct parts {
	struct tar tar;
	const struct tar_member *ovf, *mf, *disk;	/* mf may be NULL */
};

/* Length of a line of the manifest: "SHA256(NAME)= DIGITS\n". */
static size_t manifest_line(unsigned d, const char *name)
{
	return strlen(ova_digests[d].name) + strlen(name) + 5 + 2 * ova_digests[d].len;
}

static int manifest_put(struct file *f, unsigned d, const struct tar_member *m, uint64_t len, char *line,
			struct tapimg_err *err)
{
	char hex[OVA_HEX_MAX];
	int ret = ova_digest(f, &ova_digests[d], m, len, hex, err);

	if (!ret)
		sprintf(line, "%s(%s)= %s\n", ova_digests[d].name, m->name, hex);
	return ret;
}

static int finish_manifest(struct file *f, const struct parts *p, uint64_t len, struct tapimg_err *err)
{
	char *text = malloc(p->mf->size + 1);
	size_t first;
	unsigned d = 0;
	int ret;

	if (!text)
		return err_errno(err, -ENOMEM, "%s", f->name);
	while (d < OVA_NO_DIGEST - 1 &&
	       manifest_line(d, p->ovf->name) + manifest_line(d, p->disk->name) != p->mf->size)
		d++;
	first = manifest_line(d, p->ovf->name);
	ret = manifest_put(f, d, p->ovf, p->ovf->size, text, err);
	if (!ret)
		ret = manifest_put(f, d, p->disk, len, text + first, err);
	if (!ret) {
		ret = file_pwrite(f, text, p->mf->size, p->mf->off);
		if (ret)
			err_errno(err, ret, "%s: writing the manifest", f->name);
	}
	free(text);
	return ret;
}

static int finish_envelope(struct file *f, const struct parts *p, uint64_t len)
{
	char *text = malloc(p->ovf->size + 1);
	int ret = text ? file_pread(f, text, p->ovf->size, p->ovf->off) : -ENOMEM;

	if (!ret) {
		text[p->ovf->size] = 0;
		ret = ovf_set_size(text, len) ? file_pwrite(f, text, p->ovf->size, p->ovf->off) : -EUCLEAN;
	}
	free(text);
	return ret;
}

/* The disk's header, and what the archive ends with. */
static int finish_archive(struct file *f, const struct parts *p, uint64_t len)
{
	uint8_t block[3 * TAR_BLOCK] = { 0 };
	uint64_t end = p->disk->off + len;
	int ret;

	ret = file_pwrite(f, block, round_up(len, TAR_BLOCK) - len + 2 * TAR_BLOCK, end);
	if (ret)
		return ret;
	tar_header_put(block, p->disk->name, len);
	return file_pwrite(f, block, TAR_BLOCK, p->disk->off - TAR_BLOCK);
}

static int ova_finish(void *arg, struct file *f, uint64_t len, struct tapimg_err *err)
{
	struct parts *p = arg;
	int ret = finish_archive(f, p, len);

	if (!ret)
		ret = finish_envelope(f, p, len);
	if (ret)
		return err_errno(err, ret, "%s: writing the envelope", f->name);
	if (p->mf)
		ret = finish_manifest(f, p, len, err);
	if (ret)
		return ret;
	ret = file_flush(f);
	return ret ? err_errno(err, ret, "%s: flushing", f->name) : 0;
}

static void parts_free(void *arg)
{
	struct parts *p = arg;

	tar_free(&p->tar);
	free(p);
}

static const struct window_owner owner = { ova_finish, parts_free };

/* An archive that ova_create has begun. */
static int parts_find(struct file *f, struct tar *t, struct parts **out)
{
	const struct tar_member *last = t->n ? t->member + t->n - 1 : NULL;
	struct parts *p;

	if (t->n < 2 || t->n > 3 || last->size != UNFINISHED || !ova_suffix(last->name, ".vmdk") ||
	    !ova_suffix(t->member[0].name, ".ovf") ||
	    (t->n == 3 && !ova_suffix(t->member[1].name, ".mf")))
		return -EROFS;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->tar = *t;
	memset(t, 0, sizeof(*t));
	p->ovf = p->tar.member;
	p->mf = p->tar.n == 3 ? p->tar.member + 1 : NULL;
	p->disk = p->tar.member + p->tar.n - 1;
	*out = p;
	return 0;
}

/* The disk of an archive just begun, for writing. */
static int begin_part(struct file *f, struct tar *t, struct file **inner, struct tapimg_err *err)
{
	struct parts *p = NULL;
	int ret = parts_find(f, t, &p);

	if (ret == -EROFS)
		return err_set(err, ret, "%s: an archive is written from begin to end, once: it can only be "
			       "read", f->name);
	if (!ret) {
		ret = file_open_window(f, p->disk->off, p->disk->there, &owner, p, inner);
		if (ret)
			parts_free(p);
	}
	return ret ? err_errno(err, ret, "%s", f->name) : 0;
}

static int ova_enter(struct file *f, const struct tapimg_open_opts *o, struct file **inner,
		     const struct format **format, struct tapimg_err *err)
{
	struct ovf ovf = { 0 };
	struct tar t;
	int ret = tar_read(f, &t, err);

	if (ret)
		return ret;
	if (o->flags & TAPIMG_RDWR) {
		*format = format_find("vmdk");
		ret = begin_part(f, &t, inner, err);
	} else {
		ret = read_envelope(f, &t, &ovf, err);
		if (!ret)
			ret = open_part(f, o, &t, &ovf, inner, format, err);
	}
	ovf_free(&ovf);
	tar_free(&t);
	return ret;
}

/* ------------------------------------------------------------------- creating */

struct plan {
	struct ovf_machine m;
	char base[BASE_MAX + 1], ovf[BASE_MAX + 16], mf[BASE_MAX + 16], disk[BASE_MAX + 16];
	char *text;			/* the envelope */
	int digest;			/* into ova_digests[]; OVA_NO_DIGEST: none */
};

static bool is_utf8(const char *text)
{
	json_t *j = json_string(text);

	json_decref(j);
	return j;
}

/* What every archiver, manifest and importer takes. */
static void plan_names(struct plan *p, const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t n = strlen(base);
	bool utf8 = is_utf8(base) && n <= BASE_MAX;

	n -= ova_suffix(base, ".ova") ? 4 : 0;
	n = MIN(n, (size_t)BASE_MAX);
	for (size_t i = 0; i < n; i++) {
		unsigned char b = base[i];
		bool fine = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') ||
			    b == '.' || b == '_' || b == '-' || (b >= 0x80 && utf8);

		p->base[i] = fine ? b : '-';
	}
	if (!n)
		strcpy(p->base, "disk");
	snprintf(p->ovf, sizeof(p->ovf), "%s.ovf", p->base);
	snprintf(p->mf, sizeof(p->mf), "%s.mf", p->base);
	snprintf(p->disk, sizeof(p->disk), "%s-disk1.vmdk", p->base);
}

static int small_number(const struct create *c, const char *name, unsigned most, unsigned *out,
			struct tapimg_err *err)
{
	const char *text = create_opt(c, name);
	uint64_t v;

	for (const struct tapimg_opt_desc *d = ova_opts; !text; d++)
		if (!strcmp(d->name, name))
			text = d->def;
	if (opt_size(text, &v) || v < 1 || v > most)
		return err_set(err, -EINVAL, "%s: %s '%s' is not a number from 1 to %u", c->name, name, text,
			       most);
	*out = v;
	return 0;
}

static int plan_make(const struct create *c, struct plan *p, struct tapimg_err *err)
{
	static const char *const adapters[] = { "lsilogic", "buslogic", "pvscsi", "ide" };
	const char *name = create_opt(c, "vm_name"), *os = create_opt(c, "os_type");
	unsigned level;
	int ret;

	memset(p, 0, sizeof(*p));
	if (c->backing)
		return err_set(err, -ENOTSUP, "%s: a disk in an OVA cannot have a backing file", c->name);
	plan_names(p, c->name);
	p->digest = create_opt_enum(c, &ova_format, "manifest");
	p->m.name = name ? name : p->base;
	p->m.os = os ? os : "otherGuest64";
	p->m.file = p->disk;
	p->m.adapter = adapters[create_opt_enum(c, &ova_format, "adapter_type")];
	p->m.memory = div_up(create_opt_size(c, &ova_format, "memory"), MiB);
	p->m.capacity = round_up(c->size, 512);
	if (!is_utf8(p->m.name) || !is_utf8(p->m.os))
		return err_set(err, -EINVAL, "%s: vm_name or os_type is not UTF-8", c->name);
	ret = small_number(c, "cpus", 4096, &p->m.cpus, err);
	if (!ret)
		ret = small_number(c, "hwversion", 99, &p->m.hw, err);
	if (!ret)
		ret = small_number(c, "compression_level", 12, &level, err);
	if (ret)
		return ret;
	p->text = ovf_text(&p->m);
	return p->text ? 0 : err_errno(err, -ENOMEM, "%s", c->name);
}

static size_t plan_manifest(const struct plan *p)
{
	if (p->digest == OVA_NO_DIGEST)
		return 0;
	return manifest_line(p->digest, p->ovf) + manifest_line(p->digest, p->disk);
}

/* Bytes before the disk. */
static uint64_t plan_front(const struct plan *p)
{
	uint64_t mf = plan_manifest(p);

	return TAR_BLOCK + round_up(strlen(p->text), TAR_BLOCK) +
	       (mf ? TAR_BLOCK + round_up(mf, TAR_BLOCK) : 0) + TAR_BLOCK;
}

static int write_front(const struct create *c, const struct plan *p)
{
	uint64_t len = plan_front(p), text = strlen(p->text), mf = plan_manifest(p);
	uint8_t *buf = file_buf(len), *at = buf;
	int ret;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, len);
	tar_header_put(at, p->ovf, text);
	memcpy(at + TAR_BLOCK, p->text, text);
	at += TAR_BLOCK + round_up(text, TAR_BLOCK);
	if (mf) {
		tar_header_put(at, p->mf, mf);
		memset(at + TAR_BLOCK, ' ', mf);
		at += TAR_BLOCK + round_up(mf, TAR_BLOCK);
	}
	tar_header_put(at, p->disk, UNFINISHED);
	ret = file_pwrite(c->file, buf, len, 0);
	free(buf);
	return ret;
}

/* The options of the disk itself. */
static unsigned disk_opts(const struct create *c, const struct plan *p, char hw[16],
			  struct tapimg_opt out[5])
{
	const char *level = create_opt(c, "compression_level");
	unsigned n = 0;

	snprintf(hw, 16, "%u", p->m.hw);
	out[n++] = (struct tapimg_opt){ "subformat", "streamOptimized" };
	out[n++] = (struct tapimg_opt){ "adapter_type", p->m.adapter };
	out[n++] = (struct tapimg_opt){ "hwversion", hw };
	if (level)
		out[n++] = (struct tapimg_opt){ "compression_level", level };
	return n;
}

static int create_disk(const struct create *c, const struct plan *p, struct tapimg_err *err)
{
	struct create disk = *c;
	struct tapimg_opt opts[5];
	struct file *part;
	struct tar t;
	char hw[16];
	int ret;

	disk.nopts = disk_opts(c, p, hw, opts);
	disk.opts = opts;
	disk.name = p->disk;
	ret = tar_read(c->file, &t, err);
	if (ret)
		return ret;
	ret = begin_part(c->file, &t, &part, err);
	tar_free(&t);
	if (ret)
		return ret;
	disk.file = part;
	ret = format_find("vmdk")->create(&disk, err);
	if (!ret && !c->unfinished)
		ret = file_finish(part, err);
	file_window_leave(part);
	return ret;
}

static int ova_create(const struct create *c, struct tapimg_err *err)
{
	struct plan p;
	int ret;

	if (c->file->block_dev)
		return err_set(err, -ENOTSUP, "%s: an OVA has the sizes of its parts in front, so it can be "
			       "written only to a regular file", c->name);
	ret = plan_make(c, &p, err);
	if (ret)
		return ret;
	ret = write_front(c, &p);
	if (ret)
		err_errno(err, ret, "%s: writing the envelope", c->name);
	else
		ret = create_disk(c, &p, err);
	free(p.text);
	return ret;
}

static int ova_measure(const struct create *c, struct tapimg *src, struct tapimg_measure *out,
		       struct tapimg_err *err)
{
	struct create disk = *c;
	struct tapimg_opt opts[5];
	struct plan p;
	char hw[16];
	int ret = plan_make(c, &p, err);

	if (ret)
		return ret;
	disk.nopts = disk_opts(c, &p, hw, opts);
	disk.opts = opts;
	ret = format_find("vmdk")->measure(&disk, src, out, err);
	out->required += plan_front(&p) + 2 * TAR_BLOCK;
	out->fully_allocated += plan_front(&p) + 2 * TAR_BLOCK;
	free(p.text);
	return ret;
}

const struct format ova_format = {
	.name		= "ova",
	.opts		= ova_opts,
	.probe		= ova_probe,
	.create		= ova_create,
	.measure	= ova_measure,
	.enter		= ova_enter,
	.verify		= ova_verify,
};
