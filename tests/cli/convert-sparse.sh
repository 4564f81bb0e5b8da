#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert: what is empty costs next to nothing, and -S decides what becomes a hole
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

blocks() { # in KiB
	echo $(($(stat -c %b "$1") / 2))
}

qemu-img create -q -f raw big.raw 1T
io big.raw raw 'write -P 1 0 64k' 'write -P 2 512G 64k' 'write -P 3 1048575M 64k'
for format in raw qcow2; do
	start=$(date +%s%N)
	works "1 TiB to $format" tapimg convert -f raw -O "$format" big.raw "big.$format.out"
	is "1 TiB to $format: in a moment" "$((($(date +%s%N) - start) / 1000000 < 3000))" 1
	works "1 TiB to $format: the same" tapimg compare -f raw -F "$format" big.raw "big.$format.out"
	is "1 TiB to $format: small" "$(($(blocks "big.$format.out") < 2000))" 1
done
works "1 TiB qcow2 to raw" tapimg convert -O raw big.qcow2.out again.raw
is "1 TiB qcow2 to raw: small" "$(($(blocks again.raw) < 2000))" 1

# stored zeroes are found
head -c 4M /dev/zero >zero.raw
printf 'x' | dd of=zero.raw bs=1 seek=1M conv=notrunc status=none
works "stored zeroes" tapimg convert -f raw -O raw zero.raw z.raw
is "stored zeroes: one block is left" "$(blocks z.raw)" 4
works "stored zeroes to qcow2" tapimg convert -f raw -O qcow2 zero.raw z.qcow2
like "stored zeroes to qcow2: one cluster" "$(tapimg check z.qcow2)" '1/64 = '
works "stored zeroes, compressed" tapimg convert -c -f raw -O qcow2 zero.raw z.qcow2
like "stored zeroes, compressed: one cluster" "$(tapimg check z.qcow2)" '1/64 = '
works "-S 0" tapimg convert -S 0 -f raw -O raw zero.raw z.raw
is "-S 0: all of it" "$(($(blocks z.raw) >= 4096))" 1
works "-S 0 of a hole" tapimg convert -S 0 -f raw -O qcow2 z.raw z.qcow2
like "-S 0 of a hole: all of it" "$(tapimg check z.qcow2)" '64/64 = '
works "-S 1M" tapimg convert -S 1M -f raw -O raw zero.raw z.raw
is "-S 1M: the MiB with the byte" "$(blocks z.raw)" 1024
works "-S 1M: the same" cmp zero.raw z.raw
done_testing
