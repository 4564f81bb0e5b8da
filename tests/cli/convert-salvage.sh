#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert --salvage: what cannot be read becomes zeroes, is named, and the rest is copied
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io python3

qemu-img create -q -f raw a.raw 4M
io a.raw raw 'write -P 120 0 4M'
qemu-img convert -c -f raw -O qcow2 a.raw bad.qcow2
python3 - <<'PY'
import struct
with open('bad.qcow2', 'r+b') as f:
    f.seek(40)
    l1, = struct.unpack('>Q', f.read(8))
    f.seek(l1)
    l2 = struct.unpack('>Q', f.read(8))[0] & 0xfffffffffffe00
    for cluster in (3, 4, 40):
        f.seek(l2 + 8 * cluster)
        entry, = struct.unpack('>Q', f.read(8))
        f.seek(entry & ((1 << 54) - 1))
        f.write(b'\xff' * 40)
PY
io a.raw raw 'write -z 196608 128k' 'write -z 2621440 64k'
exits "without it" 1 'reading at byte' tapimg convert -O raw bad.qcow2 none.raw
is "without it: nothing is left" "$(ls none.raw 2>/dev/null)" ""
for opts in "-O raw" "-O qcow2" "-O qcow2 -c"; do
	# shellcheck disable=SC2086
	exits "salvage $opts" 0 'bytes 196608 to 327679
bytes 2621440 to 2686975
196608 bytes in all' tapimg convert --salvage $opts bad.qcow2 rescued
	works "salvage $opts: the rest" tapimg compare -f raw a.raw rescued
done
works "nothing to salvage, nothing said" tapimg convert --salvage -f raw -O raw a.raw rescued
done_testing
