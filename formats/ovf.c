/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ovf.c - the OVF envelope
 *
 * Reading is expat's, which is loaded when the first envelope is met: other programs need not carry
 * it.  Of all there is only the files and disks matter here.  Document types are refused: no envelope has one,
 * and entities are only good for attacks.
 *
 * What we write has what importers insist on: a file, a disk, and a machine with processor, memory,
 * a controller and that disk.
 */
#include <dlfcn.h>
#include <expat.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checked.h"
#include "ovf.h"

#define ITEMS_MAX 1024		/* files, disks */

/* ---------------------------------------------------------------------- expat */

#define EXPAT_CALLS(X)                                                                             \
	X(XML_ParserCreateNS) X(XML_ParserFree) X(XML_SetUserData) X(XML_SetStartElementHandler)   \
	X(XML_SetStartDoctypeDeclHandler) X(XML_Parse) X(XML_StopParser) X(XML_GetErrorCode)       \
	X(XML_ErrorString) X(XML_GetCurrentLineNumber)

struct expat {
	void *so;
#define X(call) __typeof__(&call) call;
	EXPAT_CALLS(X)
#undef X
};

static int expat_load(struct expat *e, const char *name, struct tapimg_err *err)
{
	bool all = true;

	e->so = dlopen("libexpat.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!e->so)
		return err_set(err, -ENOTSUP, "%s: reading it needs libexpat, which is not installed: %s", name,
			       dlerror());
#define X(call)                                                                                    \
	*(void **)&e->call = dlsym(e->so, #call);                                                  \
	all &= !!e->call;
	EXPAT_CALLS(X)
#undef X
	if (all)
		return 0;
	dlclose(e->so);
	return err_set(err, -ENOTSUP, "%s: this libexpat is too old", name);
}

/* --------------------------------------------------------------------- reading */

struct ovf_file {
	char *id, *href, *compression;
	bool chunked;
};

struct reader {
	struct expat *e;
	XML_Parser parser;
	struct ovf_file *file;
	unsigned nfiles;
	struct ovf *out;
	const char *why;		/* it was stopped for */
	bool envelope;			/* seen */
};

/* The name without its name space, which comes before a blank. */
static const char *local(const char *name)
{
	const char *sep = strrchr(name, ' ');

	return sep ? sep + 1 : name;
}

static const char *attr(const XML_Char **attrs, const char *name)
{
	for (; attrs[0]; attrs += 2)
		if (!strcmp(local(attrs[0]), name))
			return attrs[1];
	return "";
}

/* "byte", "byte * 2^30", "byte*10^6"; the default is bytes.  0: not understood. */
static uint64_t allocation_unit(const char *text)
{
	unsigned base = 0, exp = 0;
	uint64_t v = 1;
	char end;

	if (!*text || !strcmp(text, "byte"))
		return 1;
	if (sscanf(text, "byte * %u ^ %u%c", &base, &exp, &end) != 2 || base > 1024 || exp > 63)
		return 0;
	while (exp--)
		if (!checked_mul(v, base, &v))
			return 0;
	return v;
}

static void stop(struct reader *r, const char *why)
{
	r->why = why;
	r->e->XML_StopParser(r->parser, XML_FALSE);
}

static void on_file(struct reader *r, const XML_Char **attrs)
{
	struct ovf_file *v = r->nfiles < ITEMS_MAX ?
			     realloc(r->file, (r->nfiles + 1) * sizeof(*v)) : NULL;
	struct ovf_file f = {
		.id = strdup(attr(attrs, "id")), .href = strdup(attr(attrs, "href")),
		.compression = strdup(attr(attrs, "compression")),
		.chunked = *attr(attrs, "chunkSize"),
	};

	if (v)
		r->file = v;
	if (v && f.id && f.href && f.compression) {
		v[r->nfiles++] = f;
		return;
	}
	free(f.id);
	free(f.href);
	free(f.compression);
	stop(r, v ? "no memory" : "it names too many files");
}

static void on_disk(struct reader *r, const XML_Char **attrs)
{
	const char *ref = attr(attrs, "fileRef");
	struct ovf_disk *v, d = { 0 };
	uint64_t n = strtoull(attr(attrs, "capacity"), NULL, 10), unit;
	const struct ovf_file *f = NULL;

	for (unsigned i = 0; i < r->nfiles && !f; i++)
		if (!strcmp(r->file[i].id, ref))
			f = r->file + i;
	if (!f)
		return;		/* a disk that is empty, or made from another one */
	unit = allocation_unit(attr(attrs, "capacityAllocationUnits"));
	if (!checked_mul(n, unit, &d.capacity))
		d.capacity = 0;
	d.id = strdup(attr(attrs, "diskId"));
	d.file = strdup(f->href);
	d.format = strdup(attr(attrs, "format"));
	d.compression = strdup(f->compression);
	d.chunked = f->chunked;
	v = r->out->n < ITEMS_MAX ? realloc(r->out->disk, (r->out->n + 1) * sizeof(*v)) : NULL;
	if (!v) {
		free(d.id);
		free(d.file);
		free(d.format);
		free(d.compression);
		stop(r, "it names too many disks");
		return;
	}
	r->out->disk = v;
	v[r->out->n++] = d;
	if (!d.id || !d.file || !d.format || !d.compression)
		stop(r, "no memory");
}

static void XMLCALL on_element(void *arg, const XML_Char *name, const XML_Char **attrs)
{
	struct reader *r = arg;
	const char *what = local(name);

	if (!r->envelope && strcmp(what, "Envelope") != 0)
		stop(r, "it is no OVF envelope");
	r->envelope = true;
	if (!strcmp(what, "File"))
		on_file(r, attrs);
	else if (!strcmp(what, "Disk"))
		on_disk(r, attrs);
}

static void XMLCALL on_doctype(void *arg, const XML_Char *name, const XML_Char *sysid,
			       const XML_Char *pubid, int internal)
{
	stop(arg, "it has a document type, which no envelope has");
}

int ovf_parse(const char *text, size_t len, const char *name, struct ovf *out, struct tapimg_err *err)
{
	struct expat e;
	struct reader r = { .e = &e, .out = out };
	int ret;

	memset(out, 0, sizeof(*out));
	ret = expat_load(&e, name, err);
	if (ret)
		return ret;
	r.parser = e.XML_ParserCreateNS(NULL, ' ');
	if (!r.parser) {
		ret = err_errno(err, -ENOMEM, "%s", name);
	} else {
		e.XML_SetUserData(r.parser, &r);
		e.XML_SetStartElementHandler(r.parser, on_element);
		e.XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
		if (len > OVF_MAX || e.XML_Parse(r.parser, text, (int)len, 1) != XML_STATUS_OK)
			ret = err_set(err, -EINVAL, "%s, line %lu: %s", name,
				      (unsigned long)e.XML_GetCurrentLineNumber(r.parser),
				      r.why ? r.why : len > OVF_MAX ? "it is too long" :
				      e.XML_ErrorString(e.XML_GetErrorCode(r.parser)));
		e.XML_ParserFree(r.parser);
	}
	dlclose(e.so);
	for (unsigned i = 0; i < r.nfiles; i++) {
		free(r.file[i].id);
		free(r.file[i].href);
		free(r.file[i].compression);
	}
	free(r.file);
	if (ret)
		ovf_free(out);
	return ret;
}

void ovf_free(struct ovf *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		free(o->disk[i].id);
		free(o->disk[i].file);
		free(o->disk[i].format);
		free(o->disk[i].compression);
	}
	free(o->disk);
	memset(o, 0, sizeof(*o));
}

/* --------------------------------------------------------------------- writing */

#define SIZE_MARK "ovf:size=\""
#define SIZE_ROOM 22		/* the digits, a quote, and blanks up to this */

/* For texts and attributes; control characters have no place in either.  malloc'd. */
static char *escaped(const char *text)
{
	char *out = malloc(6 * strlen(text) + 1), *w = out;

	for (; out && *text; text++) {
		switch (*text) {
		case '&':
			w = stpcpy(w, "&amp;");
			break;
		case '<':
			w = stpcpy(w, "&lt;");
			break;
		case '>':
			w = stpcpy(w, "&gt;");
			break;
		case '"':
			w = stpcpy(w, "&quot;");
			break;
		default:
			*w++ = (unsigned char)*text < ' ' ? ' ' : *text;
		}
	}
	if (out)
		*w = 0;
	return out;
}

/* What the disk hangs on: its type, and how VMware calls the sort. */
static const char *controller(const char *adapter, unsigned *type)
{
	*type = strcmp(adapter, "ide") ? 6 : 5;
	if (!strcmp(adapter, "pvscsi"))
		return "VirtualSCSI";
	return *type == 5 ? "PIIX4" : adapter;
}

static const char envelope[] =
	"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	"<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\""
	" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\""
	" xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\""
	" xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\""
	" xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n"
	"  <References>\n"
	"    <File ovf:href=\"%s\" ovf:id=\"file1\" " SIZE_MARK "%*s/>\n"
	"  </References>\n"
	"  <DiskSection>\n"
	"    <Info>Virtual disks</Info>\n"
	"    <Disk ovf:capacity=\"%" PRIu64 "\" ovf:capacityAllocationUnits=\"byte\" ovf:diskId=\"vmdisk1\""
	" ovf:fileRef=\"file1\""
	" ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>\n"
	"  </DiskSection>\n";

static const char machine[] =
	"  <VirtualSystem ovf:id=\"%s\">\n"
	"    <Info>A virtual machine</Info>\n"
	"    <Name>%s</Name>\n"
	"    <OperatingSystemSection ovf:id=\"102\" vmw:osType=\"%s\">\n"
	"      <Info>The guest's operating system</Info>\n"
	"    </OperatingSystemSection>\n"
	"    <VirtualHardwareSection>\n"
	"      <Info>Virtual hardware</Info>\n"
	"      <System>\n"
	"        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>\n"
	"        <vssd:InstanceID>0</vssd:InstanceID>\n"
	"        <vssd:VirtualSystemIdentifier>%s</vssd:VirtualSystemIdentifier>\n"
	"        <vssd:VirtualSystemType>vmx-%02u</vssd:VirtualSystemType>\n"
	"      </System>\n";

static const char items[] =
	"      <Item>\n"
	"        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>\n"
	"        <rasd:ElementName>%u virtual CPU(s)</rasd:ElementName>\n"
	"        <rasd:InstanceID>1</rasd:InstanceID>\n"
	"        <rasd:ResourceType>3</rasd:ResourceType>\n"
	"        <rasd:VirtualQuantity>%u</rasd:VirtualQuantity>\n"
	"      </Item>\n"
	"      <Item>\n"
	"        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>\n"
	"        <rasd:ElementName>%" PRIu64 "MB of memory</rasd:ElementName>\n"
	"        <rasd:InstanceID>2</rasd:InstanceID>\n"
	"        <rasd:ResourceType>4</rasd:ResourceType>\n"
	"        <rasd:VirtualQuantity>%" PRIu64 "</rasd:VirtualQuantity>\n"
	"      </Item>\n"
	"      <Item>\n"
	"        <rasd:Address>0</rasd:Address>\n"
	"        <rasd:ElementName>Disk Controller 0</rasd:ElementName>\n"
	"        <rasd:InstanceID>3</rasd:InstanceID>\n"
	"        <rasd:ResourceSubType>%s</rasd:ResourceSubType>\n"
	"        <rasd:ResourceType>%u</rasd:ResourceType>\n"
	"      </Item>\n"
	"      <Item>\n"
	"        <rasd:AddressOnParent>0</rasd:AddressOnParent>\n"
	"        <rasd:ElementName>Hard Disk 1</rasd:ElementName>\n"
	"        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>\n"
	"        <rasd:InstanceID>4</rasd:InstanceID>\n"
	"        <rasd:Parent>3</rasd:Parent>\n"
	"        <rasd:ResourceType>17</rasd:ResourceType>\n"
	"      </Item>\n"
	"    </VirtualHardwareSection>\n"
	"  </VirtualSystem>\n"
	"</Envelope>\n";

char *ovf_text(const struct ovf_machine *m)
{
	char *name = escaped(m->name), *os = escaped(m->os), *file = escaped(m->file), *text = NULL;
	char *sub, *one = NULL, *two = NULL, *three = NULL;
	unsigned type;

	sub = escaped(controller(m->adapter, &type));
	if (name && os && file && sub &&
	    asprintf(&one, envelope, file, SIZE_ROOM, "", m->capacity) >= 0 &&
	    asprintf(&two, machine, name, name, os, name, m->hw) >= 0 &&
	    asprintf(&three, items, m->cpus, m->cpus, m->memory, m->memory, sub, type) >= 0 &&
	    asprintf(&text, "%s%s%s", one, two, three) < 0)
		text = NULL;
	free(name);
	free(os);
	free(file);
	free(sub);
	free(one);
	free(two);
	free(three);
	if (text)
		ovf_set_size(text, 0);
	return text;
}

bool ovf_set_size(char *text, uint64_t size)
{
	char *at = strstr(text, SIZE_MARK), digits[SIZE_ROOM + 1];
	int n = snprintf(digits, sizeof(digits), "%" PRIu64 "\"", size);

	if (!at || strnlen(at, strlen(SIZE_MARK) + SIZE_ROOM) < strlen(SIZE_MARK) + SIZE_ROOM)
		return false;
	at += strlen(SIZE_MARK);
	memset(at, ' ', SIZE_ROOM);
	memcpy(at, digits, n);
	return true;
}
