#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# images on block devices: made in place, right whatever was on the device before, never outgrown
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io losetup

python3 -c 'open("disk", "wb").write(b"\xee" * (32 << 20))'
if ! dev=$(losetup -f --show disk 2>/dev/null); then
	skip "the whole script" "no loop device can be set up here"
	done_testing
fi
trap 'losetup -d "$dev"' EXIT

qemu-img create -q -f raw src.raw 16M
io src.raw raw 'write -P 5 0 5' 'write -P 6 3M 1M' 'write -P 7 15M 1M'

works "create qcow2 on a device" tapimg create -q -f qcow2 "$dev" 64M
works "it is one" qemu-img check -f qcow2 "$dev"
qemu-img create -q -f raw zero.raw 64M
works "all of it" qemu-img compare -f qcow2 -F raw "$dev" zero.raw
works "the device is still a device" test -b "$dev"

losetup -d "$dev"
python3 -c 'open("disk", "wb").write(b"\xee" * (32 << 20))'
dev=$(losetup -f --show disk)
works "convert to qcow2 on a device" tapimg convert -O qcow2 src.raw "$dev"
works "is right whatever was there" qemu-img compare -f raw -F qcow2 src.raw "$dev"
works "by our own reading too" tapimg compare -f raw -F qcow2 src.raw "$dev"
works "is sound" qemu-img check -f qcow2 "$dev"
works "info" tapimg info -f qcow2 "$dev"
works "map" tapimg map -f qcow2 "$dev"

losetup -d "$dev"
python3 -c 'open("disk", "wb").write(b"\xee" * (32 << 20))'
dev=$(losetup -f --show disk)
works "convert to raw on a device" tapimg convert -O raw src.raw "$dev"
is "writes every byte of the disk" "$(cmp -n 16777216 src.raw "$dev" 2>&1)" ""
exits "a raw image does not fit" 1 "$dev" tapimg create -f raw "$dev" 64M
exits "a device does not grow" 1 "$dev" tapimg resize -f raw "$dev" 64M
exits "nor does it shrink" 1 "$dev" tapimg resize -f raw --shrink "$dev" 1M
works "the device is still a device" test -b "$dev"
losetup -d "$dev"
trap - EXIT
done_testing
