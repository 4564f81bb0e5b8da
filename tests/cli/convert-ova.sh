#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# OVA: made, opened as the disk it holds, one disk of several, cut off, hostile
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3 tar sha256sum sha1sum

python3 - <<'PY'
import random
rng = random.Random(4)
disk = bytearray(20 << 20)
for i in range(30):
    off, n = rng.randrange(len(disk) - 200000), rng.choice([1, 700, 40000, 150000])
    disk[off:off + n] = rng.randbytes(n) if i % 4 == 0 else (b'some text %d ' % i * n)[:n]
open('a.raw', 'wb').write(disk)
PY

works "made" tapimg convert -f raw -O ova a.raw 'my disk.ova'
is "its members" "$(tar tf 'my disk.ova')" "my-disk.ovf
my-disk.mf
my-disk-disk1.vmdk"
mkdir x && tar xf 'my disk.ova' -C x
is "the manifest is right" "$(cat x/my-disk.mf)" "$(cd x && sha256sum my-disk.ovf my-disk-disk1.vmdk |
	sed 's/\(.*\)  \(.*\)/SHA256(\2)= \1/')"
works "the envelope is XML" python3 -c '
import xml.etree.ElementTree as T
t = T.parse("x/my-disk.ovf")
ns = "{http://schemas.dmtf.org/ovf/envelope/1}"
f, d = t.find(f".//{ns}File"), t.find(f".//{ns}Disk")
import os
assert f.get(ns + "href") == "my-disk-disk1.vmdk" and int(f.get(ns + "size")) == os.stat("x/my-disk-disk1.vmdk").st_size
assert d.get(ns + "capacity") == str(20 << 20) and d.get(ns + "fileRef") == f.get(ns + "id")
assert "streamOptimized" in d.get(ns + "format")
'
works "the disk by itself" tapimg compare -f raw -F vmdk a.raw x/my-disk-disk1.vmdk
works "the disk in it" tapimg compare -f raw a.raw 'my disk.ova'
works "by its format" tapimg convert -f ova -O raw 'my disk.ova' b.raw
works "all of it" cmp a.raw b.raw
like "info" "$(tapimg info 'my disk.ova')" 'file format: ova'
works "check" tapimg check -q 'my disk.ova'
works "another option" tapimg convert -f raw -O ova -o manifest=sha1,vm_name=Machine,cpus=2 a.raw c.ova
rm -r x && mkdir x && tar xf c.ova -C x
is "sha1" "$(grep vmdk x/c.mf)" "SHA1(c-disk1.vmdk)= $(sha1sum <x/c-disk1.vmdk | cut -c1-40)"
like "the machine" "$(cat x/c.ovf)" '<Name>Machine</Name>'
cp 'my disk.ova' first
works "again" tapimg convert -f raw -O ova a.raw 'my disk.ova'
works "the same, to the byte" cmp first 'my disk.ova'
exits "to a pipe" 1 'regular file' bash -c "'$TAPIMG' convert -f raw -O ova a.raw /dev/stdout | cat >pout; exit \${PIPESTATUS[0]}"
exits "with a backing file" 1 'backing file' tapimg create -f ova -b a.raw -F raw d.ova
exits "writing to one" 1 'can only be read' tapimg convert -n -f raw -O ova a.raw c.ova
works "an empty one" tapimg create -q -f ova e.ova 1G
like "an empty one" "$(tapimg info e.ova)" '1 GiB'
is "a failing one leaves nothing" "$(tapimg convert -f raw -O ova -o cpus=0 a.raw none.ova 2>/dev/null; ls none.ova 2>/dev/null)" ""

# --- several disks
tapimg convert -f raw -O qcow2 a.raw two.qcow2
python3 - <<'PY'
head = '<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">'
open('m.ovf', 'w').write(head + '<References><File ovf:id="a" ovf:href="x/c-disk1.vmdk"/><File ovf:id="b" ovf:href="two.qcow2"/>'
    '</References><DiskSection><Disk ovf:diskId="one" ovf:fileRef="a" ovf:capacity="20"/>'
    '<Disk ovf:diskId="second" ovf:fileRef="b" ovf:format="http://www.gnome.org/~markmc/qcow-image-format.html"/></DiskSection></Envelope>')
PY
for kind in gnu ustar pax v7; do
	tar --format=$kind -cf m.ova m.ovf x/c-disk1.vmdk two.qcow2
	exits "two disks ($kind)" 1 "has 2 disks
'x/c-disk1.vmdk', 'two.qcow2'" tapimg info m.ova
	works "the first ($kind)" tapimg convert --image-opts -O raw driver=ova,disk=1,file.filename=m.ova b.raw
	works "is it ($kind)" cmp a.raw b.raw
	works "the second ($kind)" tapimg convert --image-opts -O raw driver=ova,disk=two.qcow2,file.filename=m.ova b.raw
	works "is it too ($kind)" cmp a.raw b.raw
done
exits "no such disk" 1 "no disk '3'" tapimg info --image-opts driver=ova,disk=3,file.filename=m.ova

# --- the manifest
works "its digests are verified" tapimg check c.ova
cp c.ova changed.ova
python3 - <<'PY'
data = bytearray(open('changed.ova', 'rb').read())
at = data.index(b'KDMV')		# the stream begins; a byte of its descriptor's padding
data[at + 10000] ^= 1
open('changed.ova', 'wb').write(data)
PY
exits "a part that has changed" 2 "'c-disk1.vmdk' is not what the manifest says: its SHA1 is [0-9a-f]{40}, not [0-9a-f]{40}" \
	tapimg check changed.ova
exits "convert warns of it" 0 "'c-disk1.vmdk' is not what the manifest says" tapimg convert -O raw changed.ova b.raw
works "and goes on" cmp a.raw b.raw
mkdir -p man
tar -C man -xf c.ova
digest() { # name of the digest, program: an archive with such a manifest
	(cd man && { printf '%s (c.ovf) = %s\r\n' "$1" "$($2 <c.ovf | cut -d' ' -f1 | tr a-f A-F)"
		printf '%s(c-disk1.vmdk)=%s\n\n' "$1" "$($2 <c-disk1.vmdk | cut -d' ' -f1)"; } >c.mf &&
		tar -cf ../man.ova c.ovf c.mf c-disk1.vmdk)
	tapimg check man.ova 2>&1
}
for h in SHA1 sha256 SHA512; do
	out=$(digest "$h" "${h,,}sum")
	is "a manifest of $h" $? 0
	like "which says nothing" "$out" "No errors were found"
done
like "of a digest nobody knows" "$(digest MD6 sha1sum)" "'MD6' are not known here, so 'c.ovf' is not verified"
(cd man && echo 'SHA1(gone.vmdk)= 00' >c.mf && echo 'lost' >>c.mf && tar -cf ../man.ova c.ovf c.mf c-disk1.vmdk)
exits "of a part that is not there, and no digest" 2 "names 'gone.vmdk', which is not in the archive
line 2 of its manifest 'c.mf' is not a digest" tapimg check man.ova
rm -rf man

# --- cut off
size=$(stat -c %s c.ova)
head -c $((size / 2)) c.ova >cut.ova
exits "cut" 1 'archive is cut off
--salvage' tapimg info cut.ova
exits "salvaged" 0 'could not be read' tapimg convert --salvage -O raw cut.ova b.raw
is "the beginning is right" "$(cmp -n 1000000 a.raw b.raw && echo yes)" yes

# --- what is in an archive leads nowhere
echo secret >secret
tapimg create -q -f qcow2 -b secret -F raw evil.qcow2
sed -i 's/two.qcow2/evil.qcow2/; s/<Disk ovf:diskId="one"[^>]*>//' m.ovf
tar -cf evil.ova m.ovf evil.qcow2
exits "a backing file outside" 1 'in an archive' tapimg convert -O raw evil.ova b.raw
done_testing
