#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# measure: the sizes are qemu-img's, and true
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

both() { # arguments
	same "measure $*" measure "$@"
	same_json "measure --output=json $*" "" measure --output=json "$@"
}

qemu-img create -q -f raw a.raw 100M
io a.raw raw 'write -P 1 1M 5M' 'write -P 2 50M 64k'
qemu-img create -q -f qcow2 a.qcow2 100M
io a.qcow2 qcow2 'write -P 1 1M 5M' 'write -P 2 50M 64k'
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2
io o.qcow2 qcow2 'write -P 3 2M 2M' 'write -P 3 60M 1M'
qemu-img create -q -f qcow2 bits.qcow2 100M
qemu-img bitmap --add bits.qcow2 b0
qemu-img bitmap --add -g 64k bits.qcow2 b1

for size in 0 1 1M 10G 1T 1.5G 2097151; do
	both -O qcow2 --size $size
	both -O raw --size $size
done
for o in cluster_size=512 cluster_size=4k cluster_size=2M refcount_bits=1 refcount_bits=64 \
	 compat=0.10 extended_l2=on preallocation=metadata preallocation=falloc preallocation=full \
	 lazy_refcounts=on data_file=x.raw; do
	both -O qcow2 -o $o --size 10G
	both -O qcow2 -o $o a.raw
done
for f in a.raw a.qcow2 o.qcow2 bits.qcow2; do
	both -O qcow2 "$f"
	both -O raw "$f"
	both "$f"
done
both -O qcow2 -f raw a.raw
qemu-img snapshot -c s a.qcow2
both -O qcow2 -l s a.qcow2
both -O qcow2 -l snapshot.name=s a.qcow2

exits "nothing to measure" 1 'size' tapimg measure
exits "both" 1 'size' tapimg measure --size 1M a.raw
exits "two files" 1 'one filename' tapimg measure a.raw a.qcow2
exits "an unknown format" 1 "'foo'" tapimg measure -O foo --size 1M
exits "a bad size" 1 "'x'" tapimg measure --size x
exits "a bad option" 1 "'foo'" tapimg measure -O qcow2 -o foo=1 --size 1M
exits "a missing snapshot" 1 'nope' tapimg measure -l nope a.qcow2
exits "-f with --size" 1 'size' tapimg measure -f raw --size 1M
done_testing
