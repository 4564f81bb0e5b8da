#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# compare: texts and exit codes as qemu-img has them
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io python3

qemu-img create -q -f raw a.raw 10M
io a.raw raw 'write -P 1 0 1M' 'write -P 2 5M 64k'
qemu-img convert -f raw -O qcow2 a.raw a.qcow2
qemu-img convert -c -f raw -O qcow2 a.raw c.qcow2
cp a.raw b.raw
printf 'x' | dd of=b.raw bs=1 seek=5000 conv=notrunc status=none
cp a.raw early.raw
printf 'x' | dd of=early.raw bs=1 seek=0 conv=notrunc status=none
cp a.raw late.raw
printf 'x' | dd of=late.raw bs=1 seek=10485759 conv=notrunc status=none
cp a.raw longer.raw
truncate -s 12M longer.raw
cp longer.raw longer-data.raw
printf 'x' | dd of=longer-data.raw bs=1 seek=11000000 conv=notrunc status=none
cp a.raw allocated.raw
io allocated.raw raw 'write -P 0 8M 1M'
qemu-img create -q -f qcow2 -b a.raw -F raw over.qcow2

for other in a.qcow2 c.qcow2 b.raw early.raw late.raw longer.raw longer-data.raw allocated.raw over.qcow2 nope; do
	case $other in *.qcow2) f=qcow2 ;; *) f=raw ;; esac
	same "a.raw and $other" compare -f raw -F "$f" a.raw "$other"
	same "$other and a.raw" compare -f "$f" -F raw "$other" a.raw
	same "a.raw and $other, quiet" compare -q -f raw -F "$f" a.raw "$other"
done
for other in b.raw longer.raw longer-data.raw; do
	same "strict: a.raw and $other" compare -s -f raw -F raw a.raw "$other"
done
for args in "a.raw" "" "a.raw a.raw a.raw" "--foo a.raw a.raw" "-f" "-T foo a.raw a.raw" \
	"--object foo a.raw a.raw" "-f foo a.raw a.raw"; do
	# shellcheck disable=SC2086
	same "a wrong command line: $args" compare $args
done
same "strict: a file and itself" compare -s -f raw -F raw a.raw a.raw
# qemu-img names the start of the extent, we the first byte
for other in allocated.raw:8388608 late.raw:10481664; do
	is "strict: allocation of ${other%:*}" "$(tapimg compare -s -f raw -F raw a.raw "${other%:*}"; echo $?)" \
		"Strict mode: Offset ${other#*:} block status mismatch!
1"
	exits "strict: allocation of ${other%:*}, the peer" 1 '' qemu-img compare -s -f raw -F raw a.raw "${other%:*}"
done
# a hole of a raw file is the disk's own, an unallocated cluster is nobody's
truncate -s 1M hole.raw
qemu-img create -q -f qcow2 hole.qcow2 1M
same "strict: a hole and nothing" compare -s -f raw -F qcow2 hole.raw hole.qcow2
same "a hole and nothing" compare -f raw -F qcow2 hole.raw hole.qcow2
is "json" "$(tapimg compare --output=json -f raw -F raw a.raw b.raw | json_normal)" "$(json_normal <<'JSON'
{ "identical": false, "same-size": true, "virtual-size-a": 10485760, "virtual-size-b": 10485760,
  "difference": "content", "offset": 5000 }
JSON
)"
exits "no such file" 2 "'nope'" tapimg compare a.raw nope
exits "one name only" 1 'two' tapimg compare a.raw
exits "no such option" 1 '--foo' tapimg compare --foo a.raw a.raw
exits "no such format" 2 "'foo'" tapimg compare -f foo a.raw a.raw

# an entry that points nowhere, and a cluster that does not unpack
cp a.qcow2 bad-l2.qcow2
cp c.qcow2 bad-data.qcow2
python3 - <<'PY'
import struct
def l2_of(f):
    f.seek(40)
    l1, = struct.unpack('>Q', f.read(8))
    f.seek(l1)
    return struct.unpack('>Q', f.read(8))[0] & 0xfffffffffffe00
with open('bad-l2.qcow2', 'r+b') as f:
    f.seek(l2_of(f) + 8 * 3)
    f.write(struct.pack('>Q', 1 << 63 | 0x10200))
with open('bad-data.qcow2', 'r+b') as f:
    f.seek(l2_of(f) + 8 * 80)
    entry, = struct.unpack('>Q', f.read(8))
    f.seek(entry & ((1 << 54) - 1))
    f.write(b'\xff' * 40)
PY
exits "allocation that cannot be read" 3 'bad-l2.qcow2' tapimg compare -f raw a.raw bad-l2.qcow2
exits "contents that cannot be read" 4 'bad-data.qcow2' tapimg compare -f raw a.raw bad-data.qcow2
exits "contents differ before that" 1 '' tapimg compare -f raw early.raw bad-data.qcow2
done_testing
