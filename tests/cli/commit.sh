#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# commit: the base reads what the top read, and the top is emptied unless it shall not be
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

chain() { # format of the base, its size
	rm -f base top mid want.raw
	qemu-img create -q -f "$1" base "$2"
	io base "$1" 'write -P 1 0 2M' 'write -P 2 6M 100k'
	qemu-img create -q -f qcow2 -b base -F "$1" mid 9M
	io mid qcow2 'write -P 3 1M 1000' 'write -z 1280k 128k' 'write -P 4 8500000 5000'
	qemu-img create -q -f qcow2 -b mid -F qcow2 top
	io top qcow2 'write -P 5 500k 64k' 'write -z 6M 64k' 'write -P 6 9436672 512'
}
want() { # image
	qemu-img convert -O raw "$1" want.raw
}

for format in raw qcow2; do
	for size in 8M 9M; do
		what="$format, $size"
		chain $format $size
		want mid
		is "$what" "$(tapimg commit mid)" "Image committed."
		works "$what: the base has it" qemu-img compare -q -f raw -F $format want.raw base
		works "$what: the top still reads it" qemu-img compare -q -f raw want.raw mid
		unlike "$what: the top is empty" "$(qemu-img map mid)" ' mid$'
		works "$what: sound" qemu-img check -q mid
		[ $format = raw ] || works "$what: the base is sound" qemu-img check -q base

		chain $format $size
		want mid
		cp mid mid.old
		works "$what, -d" tapimg commit -d mid
		works "$what, -d: the base has it" qemu-img compare -q -f raw -F $format want.raw base
		works "$what, -d: the top is untouched" cmp mid mid.old

		chain $format $size
		want top
		cp top top.old
		works "$what, -b" tapimg commit -b base top
		works "$what, -b: the base has it" qemu-img compare -q -f raw -F $format want.raw base
		works "$what, -b: the top is untouched" cmp top top.old
		[ $format = raw ] || works "$what, -b: the base is sound" qemu-img check -q base
	done
done

# a larger base keeps its end; as qemu-img does
chain qcow2 12M
io base qcow2 'write -P 7 11M 1M'
mkdir start
cp base mid top start
twin_start
twin "a larger base" commit mid
works "a larger base: as qemu-img does" qemu-img compare -q twin-t/base twin-q/base
rm -r start

chain qcow2 8M
mkdir sub
want mid
works "-b as a path" tapimg commit -b ./base top
chain qcow2 8M
is "-q" "$(tapimg commit -q mid)" ""
chain qcow2 8M
like "--output=json" "$(tapimg commit --output=json mid)" '"bytes-committed": (1|2)[0-9]{5}[,}]'
chain qcow2 8M
works "--progress=json" tapimg commit -q --progress=human mid
chain qcow2 8M
want mid
works "O_DIRECT" tapimg commit -t none mid
works "O_DIRECT: the base has it" qemu-img compare -q -f raw want.raw base
chain qcow2 8M
want mid
works "a rate" tapimg commit -r 10M mid
works "a rate: the base has it" qemu-img compare -q -f raw want.raw base

# compressed, and with an internal snapshot in the base
chain qcow2 9M
qemu-img convert -c -O qcow2 base c && mv c base
qemu-img snapshot -c keep base
want mid
works "a compressed base with a snapshot" tapimg commit mid
works "a compressed base with a snapshot: it has it" qemu-img compare -q -f raw want.raw base
works "a compressed base with a snapshot: sound" qemu-img check -q base

chain qcow2 8M
refuses "no backing file" base 'backing file' tapimg commit base
refuses "not in the chain" top "'other'" tapimg commit -b other top
refuses "no such file" top "'nope'" tapimg commit nope
chmod a-w base
if [ "$(id -u)" = 0 ]; then
	skip "a base that may not be written" "root may write anything"
else
	refuses "a base that may not be written" mid 'base' tapimg commit mid
fi
done_testing
