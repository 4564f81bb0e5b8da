#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# snapshot: the table is qemu-img's; snapshots made here are good there, and the other way round
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f qcow2 a.qcow2 10M
io a.qcow2 qcow2 'write -P 1 0 1M'
is "no snapshots: nothing is listed" "$(tapimg snapshot -l a.qcow2)" ""
works "-c" tapimg snapshot -c one a.qcow2
io a.qcow2 qcow2 'write -P 2 0 2M'
works "-c again" tapimg snapshot -c 'a rather long name for a snapshot' a.qcow2
io a.qcow2 qcow2 'write -P 3 512k 4M'
same "-l" snapshot -l a.qcow2
is "-l is what is done by default" "$(tapimg snapshot a.qcow2)" "$(tapimg snapshot -l a.qcow2)"
works "qemu-img finds it sound" qemu-img check a.qcow2
qemu-img convert -O raw -l one a.qcow2 one.raw
io one.raw raw 'read -P 1 0 1M' 'read -P 0 1M 9M'
is "qemu-img reads the first" "$?" 0
cp a.qcow2 b.qcow2
works "-a by name" tapimg snapshot -a one a.qcow2
works "the image reads as the snapshot" qemu-img compare a.qcow2 one.raw
works "and is sound" qemu-img check a.qcow2
works "-a by id" tapimg snapshot -a 2 a.qcow2
works "-d by name" tapimg snapshot -d one a.qcow2
works "and is sound" qemu-img check a.qcow2
same "-l after that" snapshot -l a.qcow2
works "-d by id" tapimg snapshot -d 2 a.qcow2
works "sound, with no leak" qemu-img check a.qcow2
works "qemu-img's own snapshots" qemu-img snapshot -c theirs b.qcow2
works "can be applied" tapimg snapshot -a theirs b.qcow2
works "and deleted" tapimg snapshot -d theirs b.qcow2
works "sound" qemu-img check b.qcow2

qemu-img create -q -f raw r.raw 1M
same "raw has none" snapshot -l r.raw
refuses "and cannot have one" r.raw "'x'" tapimg snapshot -f raw -c x r.raw
refuses "-a of a missing one" b.qcow2 "b.qcow2.*apply.*'nope'" tapimg snapshot -a nope b.qcow2
refuses "-d of a missing one" b.qcow2 "b.qcow2.*delete.*'nope'" tapimg snapshot -d nope b.qcow2
refuses "two actions" b.qcow2 'Cannot mix' tapimg snapshot -l -c x b.qcow2
refuses "no file" b.qcow2 'image file name' tapimg snapshot -c x

# sizes may differ: the snapshot's comes back
qemu-img create -q -f qcow2 s.qcow2 1M
works "a snapshot of 1 MiB" tapimg snapshot -c small s.qcow2
works "grown" tapimg resize s.qcow2 2M
works "back to it" tapimg snapshot -a small s.qcow2
like "has its size" "$(tapimg info --output=json s.qcow2)" '"virtual-size": 1048576'
works "and is sound" qemu-img check s.qcow2

# a large, fully mapped image: the peer rewrites every L2 table and needs tens of seconds
qemu-img create -q -f qcow2 -o preallocation=metadata large.qcow2 256G
start=$(date +%s%N)
works "a snapshot of a large mapped image" tapimg snapshot -c big large.qcow2
ours=$((($(date +%s%N) - start) / 1000000))
works "is sound" qemu-img check large.qcow2
cp --sparse=always large.qcow2 theirs.qcow2
start=$(date +%s%N)
qemu-img snapshot -c big theirs.qcow2
theirs=$((($(date +%s%N) - start) / 1000000))
works "in less time than the peer ($ours of $theirs ms)" test "$ours" -lt "$theirs"
rm -f theirs.qcow2
echo "note: snapshot of 256 GiB mapped took $ours ms"
rm -f large.qcow2
done_testing
