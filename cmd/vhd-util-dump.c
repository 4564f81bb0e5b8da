/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-util-dump.c - the headers of a VHD as text, byte for byte what clients match
 */
#include <time.h>

#include "vhd-util.h"

#define NUM(hex, n) vu_number(hex, n, (char[24]){ 0 })

/* Fixed-width text of a file, which may be anything. */
static void print_cookie(const char *text, size_t len)
{
	char buf[9];

	snprintf(buf, MIN(len + 1, sizeof(buf)), "%s", text);
	print_text(stdout, buf);
}

static const char *time_text(uint32_t stamp, char buf[32])
{
	time_t t = (time_t)stamp + VHD_EPOCH;
	struct tm tm;

	if (!localtime_r(&t, &tm) || !strftime(buf, 32, "%a %b %e %H:%M:%S %Y", &tm))
		snprintf(buf, 32, "%u", stamp);
	return buf;
}

static void print_sum(uint32_t stored, uint32_t computed)
{
	printf("Checksum            : 0x%x|0x%x (%s)\n", stored, computed,
	       stored == computed ? "Good!" : "Bad!");
}

static const char *creator_os(const char os[4])
{
	if (!memcmp(os, "Wi2k", 4))
		return "Windows";
	return memcmp(os, "Mac ", 4) ? "Unknown!" : "Macintosh";
}

static const char *type_text(uint32_t type)
{
	static const char *const names[] = {
		"None", "Reserved (deprecated)", "Fixed hard disk", "Dynamic hard disk",
		"Differencing hard disk", "Reserved (deprecated)", "Reserved (deprecated)",
	};

	return type < ARRAY_SIZE(names) ? names[type] : "Unknown type!\n";
}

static void print_mb(const char *label, uint64_t bytes, bool hex)
{
	printf("%-20s: %s MB (%s Bytes)\n", label, NUM(hex, bytes >> 20), NUM(hex, bytes));
}

static void print_geometry(const struct vhd_geometry *g, bool hex)
{
	uint64_t sectors = vhd_geometry_sectors(g);

	printf("Geometry            : Cyl: %s, Hds: %s, Sctrs: %s\n", NUM(hex, g->cyls),
	       NUM(hex, g->heads), NUM(hex, g->spt));
	printf("                    : = %s MB (%s Bytes)\n", NUM(hex, sectors >> 11),
	       NUM(hex, sectors << 9));
}

static void print_footer(const struct vhd_footer *f, bool hex)
{
	char buf[40];

	printf("VHD Footer Summary:\n-------------------\nCookie              : ");
	print_cookie(f->cookie, 8);
	printf("\nFeatures            : (0x%08x) %s%s\n", f->features,
	       f->features & VHD_FEATURE_TEMP ? "<TEMP>" : "",
	       f->features & VHD_FEATURE_RESERVED ? "<RESV>" : "");
	printf("File format version : Major: %d, Minor: %d\n", f->version >> 16,
	       f->version & 0xffff);
	printf("Data offset         : %s\n", NUM(hex, f->data_off));
	printf("Timestamp           : %s\n", time_text(f->timestamp, buf));
	printf("Creator Application : '");
	print_cookie(f->creator, 4);
	printf("'\nCreator version     : Major: %d, Minor: %d\n", f->creator_version >> 16,
	       f->creator_version & 0xffff);
	printf("Creator OS          : %s\n", creator_os(f->creator_os));
	print_mb("Original disk size", f->orig_size, hex);
	print_mb("Current disk size", f->cur_size, hex);
	print_geometry(&f->geo, hex);
	printf("Disk type           : %s\n", type_text(f->type));
	print_sum(f->checksum, vhd_footer_sum(f));
	vhd_uuid_text(f->uuid, buf);
	printf("UUID                : %s\n", buf);
	printf("Saved state         : %s\n", f->saved ? "Yes" : "No");
	printf("Hidden              : %d\n\n", f->hidden);
}

static void print_header(const struct vhd_header *h, bool hex)
{
	char *name = vhd_utf16_decode(h->parent_name, sizeof(h->parent_name), true);
	char buf[40];

	printf("VHD Header Summary:\n-------------------\nCookie              : ");
	print_cookie(h->cookie, 8);
	printf("\nData offset (unusd) : %s\n", NUM(hex, h->data_off));
	printf("Table offset        : %s\n", NUM(hex, h->table_off));
	printf("Header version      : 0x%08x\n", h->version);
	printf("Max BAT size        : %s\n", NUM(hex, h->max_bat));
	printf("Block size          : %s (%s MB)\n", NUM(hex, h->block_size),
	       NUM(hex, h->block_size >> 20));
	printf("Parent name         : ");
	print_text(stdout, name ? name : "failed to read name");
	vhd_uuid_text(h->parent_uuid, buf);
	printf("\nParent UUID         : %s\n", buf);
	printf("Parent timestamp    : %s\n", time_text(h->parent_time, buf));
	print_sum(h->checksum, vhd_header_sum(h));
	putchar('\n');
	free(name);
}

static void print_locators(const struct vhd_look *l, bool hex)
{
	printf("VHD Parent Locators:\n--------------------\n");
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct vhd_locator *loc = &l->header.loc[i];
		const char *code = vhd_locator_code_name(loc->code);

		if (!loc->code)
			continue;
		printf("locator:            : %u\n", i);
		printf("       code         : %s\n", code ? code : "UNKOWN");	/* sic */
		printf("       data_space   : %s\n", NUM(hex, loc->space));
		printf("       data_length  : %s\n", NUM(hex, loc->len));
		printf("       data_offset  : %s\n", NUM(hex, loc->off));
		if (l->loc_name[i]) {
			printf("       decoded name : ");
			print_text(stdout, l->loc_name[i]);
			putchar('\n');
		} else {
			printf("failed to read parent name\n");
		}
		putchar('\n');
	}
}

static void print_hex(const char *label, const uint8_t *p, size_t len)
{
	printf("%s", label);
	while (len--)
		printf("%02x", *p++);
	putchar('\n');
}

static void print_batmap(const struct vu_file *f, bool hex)
{
	const struct vhd_batmap_header *b = &f->look.batmap;
	uint8_t *map = NULL;
	uint64_t len;

	printf("VHD Batmap Summary:\n-------------------\n");
	printf("Batmap offset       : %s\n", NUM(hex, b->off));
	printf("Batmap size (secs)  : %s\n", NUM(hex, b->sectors));
	printf("Batmap version      : 0x%08x\n", b->version);
	if (b->has_key == 1) {
		print_hex("Batmap keyhash nonce: ", b->nonce, sizeof(b->nonce));
		print_hex("Batmap keyhash hash : ", b->hash, sizeof(b->hash));
	}
	if (vu_batmap(f, &map, &len))
		printf("Checksum            : 0x%x|unreadable (Bad!)\n", b->checksum);
	else
		print_sum(b->checksum, vhd_batmap_sum(map, MIN(len, vu_batmap_summed(f)),
						      b->version));
	putchar('\n');
	free(map);
}

void vu_dump(const struct vu_file *f, bool hex)
{
	const struct vhd_look *l = &f->look;

	print_footer(&l->footer, hex);
	if (!vu_sparse(f))
		return;
	print_header(&l->header, hex);
	if (l->footer.type == VHD_TYPE_DIFF)
		print_locators(l, hex);
	if (l->has_batmap)
		print_batmap(f, hex);
}

void vu_dump_broken(struct cli *c, const char *name, bool hex)
{
	struct vu_file f;

	printf("\n%s appears invalid; dumping headers\n\n", name);
	if (vu_look(c, name, VHD_LOOK_POISON, &f) && !f.look.footer.cookie[0])
		f.look.footer = f.look.copy;
	if (f.file) {
		print_footer(&f.look.footer, hex);
		print_header(&f.look.header, hex);
	}
	vu_close(&f);
}
