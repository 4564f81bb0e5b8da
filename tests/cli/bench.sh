#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# bench: the text of qemu-img, and numbers for programs
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw a.raw 16M
normal() {
	sed 's/in [0-9.]* seconds/in N seconds/'
}
for args in "-c 100" "-c 100 -d 1 -s 512 -S 1000" "-c 10 -o 64k -s 64k" "-c 100 -w" "-w -c 100 --pattern=7 -d 4" \
	    "-w -c 100 -d 4 --flush-interval=10" "-w -c 100 -d 4 --flush-interval=10 --no-drain" \
	    "-c 100 -t none -i native" "-c 5000 -S 1052672"; do
	# shellcheck disable=SC2086
	is "bench $args" "$(tapimg bench -f raw $args a.raw 2>&1 | normal)" "$(qemu-img bench -f raw $args a.raw 2>&1 | normal)"
done
works "a pattern is written" tapimg bench -q -f raw -w --pattern=0x5a -c 4096 a.raw
unlike "a pattern: it is there" "$(qemu-io -f raw -c 'read -P 0x5a 0 16M' a.raw 2>&1)" failed
qemu-img create -q -f qcow2 a.qcow2 16M
works "qcow2" tapimg bench -q -w -c 1000 -d 8 a.qcow2
works "qcow2: sound" qemu-img check -q a.qcow2
works "random" tapimg bench -q -w --random=3 -c 1000 a.qcow2
works "random: sound" qemu-img check -q a.qcow2
like "json" "$(tapimg bench --output=json -c 100 a.qcow2)" '"cpu-microseconds-per-request": [0-9.]+'
refuses "a bad engine" a.raw "foo" tapimg bench -f raw -i foo a.raw
refuses "flushing reads" a.raw 'write tests' tapimg bench -f raw --flush-interval=9 a.raw
refuses "flushing too often" a.raw 'depth' tapimg bench -f raw -w --flush-interval=9 a.raw
refuses "a bad pattern" a.raw 'pattern' tapimg bench -f raw -w --pattern=300 a.raw
refuses "beyond the end" a.raw 'a.raw' tapimg bench -f raw -o 16M a.raw
refuses "no requests in flight" a.raw 'depth' tapimg bench -f raw -d 0 a.raw
done_testing
