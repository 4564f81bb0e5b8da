#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# resize: grows and shrinks raw and qcow2 as qemu-img does
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

mkdir start
qemu-img create -q -f raw start/a.raw 10M
io start/a.raw raw 'write -P 1 0 64k' 'write -P 2 9M 1M'
qemu-img create -q -f qcow2 start/a.qcow2 10M
io start/a.qcow2 qcow2 'write -P 1 0 64k' 'write -P 2 9M 1M'
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=512 start/v2.qcow2 10M
io start/v2.qcow2 qcow2 'write -P 1 0 64k' 'write -P 2 9M 1M'
qemu-img create -q -f raw start/base.raw 20M
io start/base.raw raw 'write -P 9 0 20M'
qemu-img create -q -f qcow2 -b base.raw -F raw start/over.qcow2 10M

for f in a.raw a.qcow2 v2.qcow2 over.qcow2; do
	for args in "20M" "+5M" "+1000" "1.5G" "--preallocation=metadata 20M" "--preallocation=falloc 20M" \
		    "--preallocation=full 20M" "--shrink 5M" "--shrink -5M" "--shrink 1000" "10M"; do
		twin_start
		opts=() size=${args##* }
		[ "$args" = "$size" ] || opts=("${args% *}")
		case $f,$args in
		*.raw,*metadata* | v2*,*falloc* | v2*,*full*) continue ;;
		esac
		twin "resize ${opts[*]} $f $size" resize -f "${f##*.}" "${opts[@]}" "$f" "$size"
		is "resize ${opts[*]} $f $size: the size" \
			"$(cd twin-t && qemu-img info --output=json "$f" | grep virtual-size)" \
			"$(cd twin-q && qemu-img info --output=json "$f" | grep virtual-size)"
		works "resize ${opts[*]} $f $size: the contents" qemu-img compare "twin-t/$f" "twin-q/$f"
		[ "$f" = a.raw ] || works "resize ${opts[*]} $f $size: sound" qemu-img check "twin-t/$f"
	done
done

cp start/a.qcow2 x.qcow2
cp start/a.raw x.raw
is "-q is quiet" "$(tapimg resize -q x.qcow2 11M)" ""
refuses "shrinking wants --shrink" x.qcow2 'x.qcow2.*--shrink' tapimg resize x.qcow2 1M
refuses "shrinking raw too" x.raw 'x.raw.*--shrink' tapimg resize -f raw x.raw -- -1M
refuses "to nothing" x.qcow2 'positive' tapimg resize x.qcow2 0
refuses "below nothing" x.qcow2 "'-100G'" tapimg resize x.qcow2 -100G
refuses "not a size" x.qcow2 "'foo'" tapimg resize x.qcow2 foo
refuses "no size" x.qcow2 'size' tapimg resize x.qcow2
refuses "a bad preallocation" x.qcow2 "'foo'" tapimg resize --preallocation=foo x.qcow2 20M
refuses "preallocation while shrinking" x.qcow2 'x.qcow2' \
	tapimg resize --shrink --preallocation=full x.qcow2 1M
refuses "raw has no metadata to allocate" x.raw 'x.raw' tapimg resize -f raw --preallocation=metadata x.raw 20M
refuses "too large" x.qcow2 'x.qcow2' tapimg resize x.qcow2 +8191P
exits "a missing file" 1 "'nope'" tapimg resize nope 1M
done_testing
