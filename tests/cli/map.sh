#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# map: the table and the JSON are qemu-img's
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

both() { # arguments
	same "map $*" map "$@"
	same_json "map --output=json $*" "compressed" map --output=json "$@"
}

qemu-img create -q -f raw a.raw 10M
io a.raw raw 'write -P 1 0 64k' 'write -P 2 4M 1M' 'write -P 3 9M 4k'
qemu-img create -q -f raw hole.raw 1M
qemu-img create -q -f raw empty.raw 0
qemu-img create -q -f qcow2 b.qcow2 4M
io b.qcow2 qcow2 'write 0 64k' 'write -z 128k 64k' 'write 256k 64k' 'write -z 256k 64k'
qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 m.qcow2 6M
io m.qcow2 qcow2 'write 1M 200k' 'write -z 64k 64k'
qemu-img create -q -f qcow2 -b m.qcow2 -F qcow2 t.qcow2 8M
io t.qcow2 qcow2 'write 5M 2M'
qemu-img create -q -f qcow2 -b a.raw -F raw o.qcow2 20M
io o.qcow2 qcow2 'write 0 64k' 'write 1M 200k' 'write 12M 4k'
qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 4M
qemu-img create -q -f qcow2 -o extended_l2=on ext.qcow2 4M
io ext.qcow2 qcow2 'write 0 2k' 'write 8k 2k' 'write -z 20k 4k' 'write 1M 100k'
qemu-img create -q -f qcow2 -o data_file=d.raw df.qcow2 4M
io df.qcow2 qcow2 'write 1M 1M'
qemu-img create -q -f qcow2 -o cluster_size=512 tiny.qcow2 100k
io tiny.qcow2 qcow2 'write 1k 3k' 'write 50k 1k'
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
io v2.qcow2 qcow2 'write 64k 64k'
qemu-img convert -c -O qcow2 a.raw c.qcow2

for f in a.raw hole.raw b.qcow2 m.qcow2 t.qcow2 o.qcow2 df.qcow2 tiny.qcow2 v2.qcow2; do
	both "$f"
done
both -f raw b.qcow2
# Of subclusters that hold nothing the peer says where they would be; we do not.
without_offsets() {
	python3 -c '
import json, sys
rows = []
for r in json.load(sys.stdin):
    r.pop("compressed", 0)
    if not r["data"]:
        r.pop("offset", 0)
    last = rows[-1] if rows else None
    if last and not r["data"] and {**last, "start": 0, "length": 0} == {**r, "start": 0, "length": 0}:
        last["length"] += r["length"]
    else:
        rows.append(r)
print("\n".join(map(str, rows)))'
}
same "subclusters" map ext.qcow2
is "subclusters in JSON" "$(tapimg map --output=json ext.qcow2 | without_offsets)" \
	"$(qemu-img map --output=json ext.qcow2 | without_offsets)"
# Preallocated clusters read as zeroes as long as the file has a hole there.
is "preallocated clusters" "$(tapimg map --output=json pre.qcow2 | json_normal compressed)" \
	"$(qemu-img map --output=json pre.qcow2 | json_normal compressed)"
is "and measure" "$(tapimg measure -O qcow2 pre.qcow2)" "$(qemu-img measure -O qcow2 pre.qcow2)"
both --start-offset=64k --max-length=100k t.qcow2
both --start-offset=4M t.qcow2
both --max-length=1M o.qcow2
both --image-opts driver=qcow2,file.filename=b.qcow2
same_json "compressed clusters in JSON" "compressed" map --output=json c.qcow2
like "are marked" "$(tapimg map --output=json c.qcow2)" '"compressed": true'
exits "for people they fail as in qemu-img" 1 'compressed' tapimg map c.qcow2
is "an empty image" "$(tapimg map --output=json empty.raw)" '[]'
is "beyond the end" "$(tapimg map --output=json --start-offset=1G a.raw)" '[]'

exits "a bad offset" 1 "'x'" tapimg map --start-offset=x a.raw
exits "a bad length" 1 "'-1'" tapimg map --max-length=-1 a.raw
exits "a missing file" 1 "'nope'" tapimg map nope
exits "no file" 1 'image file name' tapimg map

# damage is found where it is
qemu-img create -q -f qcow2 bad.qcow2 1M
io bad.qcow2 qcow2 'write 0 64k'
poke bad.qcow2 0x40003 '\xff'
exits "an L2 entry outside the file" 1 'bad.qcow2' tapimg map bad.qcow2
done_testing
