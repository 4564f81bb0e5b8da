#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# names inside an image cannot drive the terminal that they are shown on
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

esc=$'\033]0;owned\007'
c1=$'\xc2\x9b31m'
qemu-img create -q -f qcow2 -u -b "nope$esc" -F raw back.qcow2 1M
qemu-img create -q -f qcow2 s.qcow2 1M
qemu-img snapshot -c "one$esc" s.qcow2
qemu-img snapshot -c "two$c1" s.qcow2
qemu-img bitmap --add s.qcow2 "bit$esc"

for cmd in "info back.qcow2" "map back.qcow2" "info --backing-chain back.qcow2" "info s.qcow2" \
	   "snapshot -l s.qcow2" "check s.qcow2" "info --output=json s.qcow2"; do
	# shellcheck disable=SC2086
	all=$(tapimg $cmd 2>&1)
	unlike "$cmd: no escape" "$all" $'\033'
	unlike "$cmd: no bell" "$all" $'\007'
	unlike "$cmd: no C1 control" "$all" $'\xc2\x9b'
done
like "they are shown as what they are" "$(tapimg info back.qcow2)" 'backing file: nope\\x1b\]0;owned\\x07'
like "in the table too" "$(tapimg snapshot -l s.qcow2)" 'one\\x1b'
refuses "and in errors" s.qcow2 'nope\\x1b' tapimg snapshot -d "nope$esc" s.qcow2
qemu-img create -q -f qcow2 ünïcödé.qcow2 1M
like "other characters stay" "$(tapimg info ünïcödé.qcow2)" '^image: ünïcödé.qcow2$'
done_testing
