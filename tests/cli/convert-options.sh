#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert: options that do not go together, or make no sense, are refused before anything is touched
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

qemu-img create -q -f raw a.raw 1M
qemu-img create -q -f raw small.raw 512k
echo precious >old
bad() { # patterns, arguments: qemu-img refuses it as well
	local patterns=$1

	shift
	refuses "convert $*" old "$patterns" tapimg convert "$@"
	is "convert $*: old" "$(cat old)" precious
	"$QEMU_IMG" convert "$@" >/dev/null 2>&1 && fail "qemu-img accepts convert $*"
	echo precious >old		# qemu-img does not care
	truncate -s 512k small.raw
}
bad 'multiples of 512' -S 100 a.raw old
bad '16777216' -S 17M a.raw old
bad 'between 1 and 16' -m 17 a.raw old
bad 'between 1 and 16' -m 0 a.raw old
bad 'copy offloading.*-c' -c -C a.raw old
bad 'copy offloading.*-S' -C -S 4k a.raw old
bad 'salvaging' -C --salvage a.raw old
bad '-n' --target-is-zero a.raw old
bad '-n' --target-image-opts a.raw old
refuses "--target-is-zero and -B" old 'backing file' tapimg convert -n --target-is-zero -B a.raw -F raw -O qcow2 a.raw old
bad '--bitmaps' --skip-broken-bitmaps a.raw old
bad 'preallocation' -c -O qcow2 -o preallocation=full a.raw old
bad 'explicit backing format' -O qcow2 -B a.raw a.raw old
bad 'raw' -O raw -B a.raw -F raw a.raw old
bad 'multiple' -O qcow2 -B a.raw -F raw a.raw a.raw old
bad 'rate' -r x a.raw old
bad 'cache' -t fast a.raw old
bad 'cache' -T fast a.raw old
bad 'smaller' -n -f raw -O raw a.raw small.raw
bad '-o has no effect' -n -f raw -O raw -o size=2M a.raw small.raw
bad "'nope'" -n -f raw -O raw a.raw nope
bad 'compressed|Compression' -c -f raw -O raw a.raw old
bad 'image file name' a.raw
bad 'format|bitmap' --bitmaps -f raw -O qcow2 a.raw old
like "-o help" "$(tapimg convert -O qcow2 -o help a.raw old)" 'cluster_size'
done_testing
