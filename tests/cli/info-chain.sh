#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# a chain that loops, is too deep or names a missing file is explained layer by layer
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

qemu-img create -q -f qcow2 base.qcow2 1M
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2

# the base goes away
mv base.qcow2 gone.qcow2
works "info of the top alone" tapimg info top.qcow2
like "info of the layer above says what is wrong" "$(tapimg info mid.qcow2)" \
	"backing file 'base.qcow2' cannot be found: No such file"
like "JSON too" "$(tapimg info --output=json mid.qcow2)" '"problems"'
exits "info --backing-chain" 1 "base.qcow2.*No such file
breaks at layer 2" tapimg info --backing-chain top.qcow2
like "shows the layers there are" "$(tapimg info --backing-chain top.qcow2 2>/dev/null)" 'image: mid.qcow2'
exits "map names the missing file and who wants it" 1 "top.qcow2
base.qcow2
No such file" tapimg map top.qcow2
mv gone.qcow2 base.qcow2
works "all is well again" tapimg info --backing-chain top.qcow2

# a ring
qemu-img rebase -u -F qcow2 -b top.qcow2 base.qcow2
exits "info --backing-chain of a ring" 1 "top.qcow2
infinite loop" tapimg info --backing-chain top.qcow2
exits "map of a ring" 1 "top.qcow2
loop" tapimg map top.qcow2
works "info of one layer of the ring" tapimg info base.qcow2
ln -s base.qcow2 alias.qcow2
qemu-img rebase -u -F qcow2 -b alias.qcow2 base.qcow2
exits "a ring through a link" 1 "loop" tapimg map base.qcow2
exits "info --backing-chain of it" 1 "loop" tapimg info --backing-chain base.qcow2

# deep, but well: 64 layers
qemu-img create -q -f qcow2 l0.qcow2 1M
for i in $(seq 1 64); do
	qemu-img create -q -u -f qcow2 -b "l$((i - 1)).qcow2" -F qcow2 "l$i.qcow2" 1M
done
works "64 layers" tapimg info --backing-chain l64.qcow2
is "are all shown" "$(grep -c '^image: ' out)" 65
works "map of 64 layers" tapimg map l64.qcow2
# and too deep
for i in $(seq 65 260); do
	qemu-img create -q -u -f qcow2 -b "l$((i - 1)).qcow2" -F qcow2 "l$i.qcow2" 1M
done
exits "260 layers" 1 "l260.qcow2
deeper than" tapimg map l260.qcow2
exits "info of 260 layers" 1 "too deep" tapimg info --backing-chain l260.qcow2
done_testing
