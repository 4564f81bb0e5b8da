#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# dd: a part of an image, with skip and count together as dd(1) has them
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

head -c 1500000 /dev/urandom >a.raw
truncate -s 2M a.raw
qemu-img convert -f raw -O qcow2 a.raw a.qcow2
for in in a.raw a.qcow2; do
	for args in "" "bs=64k" "bs=64k count=3" "bs=64k skip=5" "bs=64k skip=5 count=8" "bs=64k skip=8 count=3" \
		    "bs=1k count=1M" "bs=1M skip=1 count=7" "bs=512 skip=3 count=0x2"; do
		# shellcheck disable=SC2086
		{
			works "$in $args" tapimg dd -f "${in##*.}" $args if=$in of=x.raw
			case $args in
			*0x2*) dd bs=512 skip=3 count=2 if=a.raw of=want status=none ;;
			*) dd ${args:-bs=1M} if=a.raw of=want status=none ;;
			esac
		}
		works "$in $args: the same as dd(1)" cmp x.raw want
	done
done
works "an odd block" tapimg dd -f raw bs=1000 skip=7 count=11 if=a.raw of=x.raw
dd bs=1000 skip=7 count=11 if=a.raw of=want status=none
truncate -s 11264 want
works "an odd block: filled up with zeroes" cmp x.raw want
works "to qcow2" tapimg dd -O qcow2 -f raw bs=64k skip=1 count=4 if=a.raw of=x.qcow2
dd bs=64k skip=1 count=4 if=a.raw of=want status=none
works "to qcow2: the same" qemu-img compare -q -f raw -F qcow2 want x.qcow2
exits "beyond the end" 0 'cannot skip' tapimg dd -f raw bs=1M skip=9 if=a.raw of=x.raw
is "beyond the end: nothing" "$(stat -c %s x.raw)" 0
echo precious >old
for bad in "bs=0" "bs=x" "count=-1" "skip=x" "obs=1" "foo"; do
	refuses "$bad" old "${bad%%=*}" tapimg dd -f raw "$bad" if=a.raw of=old
done
refuses "onto itself" a.raw 'both source and target' tapimg dd -f raw if=a.raw of=a.raw
refuses "no input" old 'both' tapimg dd of=old
refuses "no such input" old "'nope'" tapimg dd if=nope of=old
refuses "no such format" old "'foo'" tapimg dd -O foo -f raw if=a.raw of=old
done_testing
