#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-util resize and revert: within the room there is, and with a journal
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"

both vhd-util create -n room.vhd -s 10 -S 100
says "resize -f" 0 . vhd-util resize -n room.vhd -s 51 -f
says "to whole blocks" 0 "52
100
." vhd-util query -n room.vhd -v -S
says "sound" 0 "room.vhd is valid
." vhd-util check -n room.vhd
says "smaller" 22 "room.vhd: size (20971520) < curr size (54525952)
." vhd-util resize -n room.vhd -s 20 -f
says "beyond the room" 22 . vhd-util resize -n room.vhd -s 200 -f
says "nothing has changed" 0 "52
." vhd-util query -n room.vhd -v
says "nothing to do" 0 . vhd-util resize -n room.vhd -s 52 -f
both qemu-img create -q -f vpc other.vhd 10M
says "made by others" 22 "other.vhd not created by xen; resize not supported
." vhd-util resize -n other.vhd -s 20 -f
says "nothing" 2 "error opening none.vhd: -2
." vhd-util resize -n none.vhd -s 20 -f
vhd-util resize -n room.vhd -s 60 >../out
is "neither -f nor -j: exit code" $? 22

# Of a child, in the room there is and beyond it.
both vhd-util create -n parent.vhd -s 10
both vhd-util snapshot -n child.vhd -p parent.vhd -S 100 -e
says "a child" 0 . vhd-util resize -n child.vhd -s 20 -f
says "to that" 0 "20
100
." vhd-util query -n child.vhd -v -S
says "is sound" 0 "child.vhd is valid
." vhd-util check -n child.vhd
both vhd-util snapshot -n child2.vhd -p parent.vhd -e
says "a child, with a journal" 0 . vhd-util resize -n child2.vhd -s 300 -j journal
says "to that" 0 "300
." vhd-util query -n child2.vhd -v
says "is sound" 0 "child2.vhd is valid
." vhd-util check -n child2.vhd

# With a journal: the first blocks have to make room for a larger table.
truncate -s 600M data.raw
head -c 6M /dev/urandom | dd of=data.raw bs=1M conv=notrunc status=none
head -c 2M /dev/urandom | dd of=data.raw bs=1M seek=500 conv=notrunc status=none
vhd-util create -n a.vhd -s 600
tapimg convert -n -f raw -O vpc data.raw a.vhd
cp a.vhd keep.vhd
cp a.vhd ../peer/
says "resize -j" 0 . vhd-util resize -n a.vhd -s 20000 -j journal
says "the new size" 0 "20000
." vhd-util query -n a.vhd -v
says "sound" 0 "a.vhd is valid
." vhd-util check -n a.vhd
vhd-util read -n a.vhd -r 0 -c 1228800 | cmp - data.raw
is "the data are where they were" "${PIPESTATUS[*]}" "0 0"
is "no journal is left" "$(ls journal 2>/dev/null)" ""
says "shrinking" 38 "dynamic shrink not fully implemented
resize failed: -38
." vhd-util resize -n a.vhd -s 100 -j journal
is "no journal is left" "$(ls journal 2>/dev/null)" ""
: >exists
cp exists ../peer/
says "a journal that exists" 17 "creating journal failed: -17
." vhd-util resize -n a.vhd -s 30000 -j exists
says "one that cannot be made" 2 "creating journal failed: -2
." vhd-util resize -n a.vhd -s 30000 -j no/journal

for at in BEGIN DATA_MOVED METADATA_MOVED END; do
	cp keep.vhd b.vhd
	export VHD_UTIL_TEST_FAIL_RESIZE_$at=1
	only_ours "broken off at $at" 22 "Failing at VHD_UTIL_TEST_FAIL_RESIZE_$at
." vhd-util resize -n b.vhd -s 20000 -j journal
	unset VHD_UTIL_TEST_FAIL_RESIZE_$at
	only_ours "$at: the disk is disabled" 22 "error opening b.vhd: -22
." vhd-util set -n b.vhd -f hidden -v 1
	[ -z "$PEER" ] || {
		cp b.vhd c.vhd
		cp journal cjournal
		is "$at: blktap goes back with our journal" "$("$PEER/vhd-util" revert -n c.vhd -j cjournal; echo $?)" 0
		works "$at: to what was" "$OURS/tapimg" compare -f vhd -F vhd c.vhd keep.vhd -q
	}
	only_ours "$at: revert" 0 . vhd-util revert -n b.vhd -j journal
	works "$at: everything is as it was" cmp b.vhd keep.vhd
	is "$at: no journal is left" "$(ls journal 2>/dev/null)" ""
done
if [ -n "$PEER" ]; then
	for at in BEGIN DATA_MOVED METADATA_MOVED END; do
		cp keep.vhd b.vhd
		rm -f journal
		env VHD_UTIL_TEST_FAIL_RESIZE_$at=1 "$PEER/vhd-util" resize -n b.vhd -s 20000 -j journal >/dev/null
		only_ours "$at: going back with blktap's journal" 0 . vhd-util revert -n b.vhd -j journal
		works "$at: to what was" "$OURS/tapimg" compare -f vhd -F vhd b.vhd keep.vhd -q
	done
fi
says "revert without a journal" 2 "opening journal failed: -2
." vhd-util revert -n a.vhd -j none
head -c 4096 /dev/zero >zeroes
before=$(sha256sum keep.vhd)
vhd-util revert -n keep.vhd -j zeroes >../out
is "a journal that is none: exit code" $? 22
is "nothing is changed" "$(sha256sum keep.vhd)" "$before"

vhd-util create -n f.vhd -s 4 -r
only_ours "a fixed disk grows" 0 . vhd-util resize -n f.vhd -s 6 -j journal
only_ours "it has" 0 "6
6291968
." vhd-util query -n f.vhd -vs
only_ours "and shrinks" 0 . vhd-util resize -n f.vhd -s 2 -j journal
only_ours "it has" 0 "2
2097664
." vhd-util query -n f.vhd -vs
done_testing
