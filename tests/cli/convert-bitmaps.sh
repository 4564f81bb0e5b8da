#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert --bitmaps: persistent bitmaps come along, broken ones do not
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f qcow2 a.qcow2 64M
qemu-img bitmap --add -g 32k a.qcow2 one
qemu-io -f qcow2 -c 'write -P 1 1M 100k' -c 'write -P 2 60M 1M' a.qcow2 >/dev/null
qemu-img bitmap --add --disable a.qcow2 two
works "--bitmaps" tapimg convert --bitmaps -O qcow2 a.qcow2 b.qcow2
qemu-img convert --bitmaps -O qcow2 a.qcow2 q.qcow2
names() {
	qemu-img info --output=json "$1" | python3 -c '
import json, sys
for b in json.load(sys.stdin)["format-specific"]["data"].get("bitmaps", []):
    print(b["name"], b["granularity"], sorted(b["flags"]))' | sort
}
is "as qemu-img does" "$(names b.qcow2)" "$(names q.qcow2)"
works "sound" qemu-img check -q b.qcow2
# the contents: merging one into the other changes nothing
bits() {
	tapimg info --output=json "$1" | grep -E '"(name|dirty|dirty-bytes)"' | sort
}
is "the contents" "$(bits b.qcow2)" "$(bits a.qcow2)"
works "without --bitmaps" tapimg convert -O qcow2 a.qcow2 c.qcow2
is "without --bitmaps: none" "$(names c.qcow2)" ""
refuses "raw has none" a.qcow2 'bitmap' tapimg convert --bitmaps -O raw a.qcow2 none.raw
refuses "not from several sources" a.qcow2 'single source' \
	tapimg convert --bitmaps -O qcow2 a.qcow2 a.qcow2 none.qcow2
done_testing
