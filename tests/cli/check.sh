#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# check: text, JSON, exit codes and repairs are those of qemu-img
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

both() { # arguments
	same "check $*" check "$@"
	same_json "check --output=json $*" "findings" check --output=json "$@"
}

qemu-img create -q -f qcow2 a.qcow2 1G
qemu-img create -q -f qcow2 b.qcow2 4M
io b.qcow2 qcow2 'write 0 1M' 'write 3M 64k' 'write 2M 64k'
qemu-img create -q -f qcow2 -o preallocation=metadata p.qcow2 1.5M
qemu-img create -q -f raw r.raw 1M
io r.raw raw 'write -P 5 0 512k'
qemu-img convert -c -O qcow2 r.raw c.qcow2
for f in a.qcow2 b.qcow2 p.qcow2 c.qcow2; do
	both "$f"
done
is "-q prints nothing" "$(tapimg check -q a.qcow2)" ""
is "-q prints nothing, JSON neither" "$(tapimg check -q --output=json a.qcow2)" ""
exits "raw has no check" 63 'does not support checks' tapimg check r.raw
exits "nor in JSON" 63 'does not support checks' tapimg check --output=json r.raw

# a leak: the refcount of a cluster nobody uses.  Refcount block at 0x20000, two bytes each.
cp b.qcow2 leak.qcow2
end=$(stat -c %s leak.qcow2)
truncate -s $((end + 65536)) leak.qcow2
poke leak.qcow2 $((0x20000 + end / 32768 + 1)) '\x01'
same "check of a leak" check leak.qcow2
same_json "check --output=json of a leak" "findings" check --output=json leak.qcow2
exits "exit code 3 for leaks, and where" 3 'Leaked' tapimg check leak.qcow2
like "JSON lists it" "$(tapimg check --output=json leak.qcow2)" '"kind": "leak"'
cp leak.qcow2 fix.qcow2
exits "-r leaks repairs" 0 '' tapimg check -r leaks fix.qcow2
like "and says so" "$(cat out)" '^    1 leaked clusters$'
works "afterwards it is sound" qemu-img check fix.qcow2
works "and reads the same" qemu-img compare fix.qcow2 b.qcow2

# corruption: a cluster in use whose refcount is 0
cp b.qcow2 bad.qcow2
poke bad.qcow2 $((0x20000 + 5 * 2)) '\x00\x00'
# the peer counts the cluster's COPIED mark as a second error
is "the exit code is the peer's" "$(tapimg check bad.qcow2 >out 2>err; echo $?)" \
	"$(qemu-img check bad.qcow2 >out 2>err; echo $?)"
same_json "in JSON" "findings corruptions" check --output=json bad.qcow2
like "which counts it" "$(tapimg check --output=json bad.qcow2 2>err)" '"corruptions": 1,'
exits "exit code 2 for corruption, and where" 2 'ERROR' tapimg check bad.qcow2
exits "-q still names errors" 2 'ERROR' tapimg check -q bad.qcow2
is "on stderr only" "$(cat out)" ""
cp bad.qcow2 fix.qcow2
exits "-r leaks is not enough" 2 '' tapimg check -r leaks fix.qcow2
cp bad.qcow2 fix.qcow2
exits "-r all repairs" 0 '' tapimg check -r all fix.qcow2
works "afterwards it is sound" qemu-img check fix.qcow2
works "and reads the same" qemu-img compare fix.qcow2 b.qcow2
cp bad.qcow2 fix.qcow2
like "JSON counts repairs" "$(tapimg check -r all --output=json fix.qcow2)" '"corruptions-fixed": 1'

# an unaligned data pointer: the data is not thrown away without a word
cp b.qcow2 unaligned.qcow2
poke unaligned.qcow2 0x40006 '\x02'
exits "an unaligned entry is corruption" 2 'ERROR.*aligned' tapimg check unaligned.qcow2
exits "it is repaired" 0 'Repaired' tapimg check -r all unaligned.qcow2
works "afterwards the image is sound" qemu-img check unaligned.qcow2
# the bytes that the entry pointed at, 512 into the cluster: still the pattern of the first megabyte
works "and its data is there" tapimg compare unaligned.qcow2 b.qcow2

# the dirty bit is cleared by a repair
cp a.qcow2 dirty.qcow2
poke dirty.qcow2 79 '\x01'
tapimg check -r all dirty.qcow2 >out 2>err
like "a repair clears the dirty bit" "$(qemu-img info --output=json dirty.qcow2)" '"dirty-flag": false'

cp b.qcow2 same.qcow2
before=$(sha256sum <same.qcow2)
tapimg check same.qcow2 >out 2>err
is "a check changes nothing" "$(sha256sum <same.qcow2)" "$before"

exits "an unknown repair" 1 "'some'" tapimg check -r some a.qcow2
exits "an unknown cache mode" 1 'foo' tapimg check -T foo a.qcow2
exits "a missing file" 1 "'nope'" tapimg check nope
done_testing
