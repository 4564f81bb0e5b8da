#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# make-seeds.sh DIR - small qcow2 images of all kinds for the fuzzers to begin with.
# Made by qemu-img and qemu-io; what the fuzzers found from there is in corpus/.
set -e
dir=${1:?a folder}
mkdir -p "$dir"
cd "$dir"

image() {	# image NAME OPTIONS [SIZE]: with some data in it
	qemu-img create -q -f qcow2 -o "$2" "$1" "${3:-64k}"
	qemu-io -f qcow2 -c 'write -P 1 0 1k' -c 'write -P 2 5000 3000' -c 'write -z 20k 4k' \
		-c 'write -P 3 40k 512' "$1" >/dev/null
}

image v3-512 cluster_size=512
image v2-512 cluster_size=512,compat=0.10
image v3-rc1 cluster_size=512,refcount_bits=1
image v3-rc64 cluster_size=512,refcount_bits=64
image v3-lazy cluster_size=512,lazy_refcounts=on
image v3-1k cluster_size=1k
image v3-meta cluster_size=512,preallocation=metadata
image v3-extl2 cluster_size=16k,extended_l2=on 128k
image v3-big cluster_size=512 8M

image v3-snap cluster_size=512
qemu-img snapshot -c one v3-snap
qemu-io -f qcow2 -c 'write -P 9 0 8k' -c 'discard 40k 4k' v3-snap >/dev/null
qemu-img snapshot -c two v3-snap
image v2-snap cluster_size=512,compat=0.10
qemu-img snapshot -c one v2-snap

image v3-bitmap cluster_size=512
qemu-img bitmap --add -g 512 v3-bitmap b0
qemu-img bitmap --add -g 64k v3-bitmap b1
qemu-io -f qcow2 -c 'write -P 5 1k 9k' v3-bitmap >/dev/null
qemu-img bitmap --add --disable v3-bitmap b2

image plain cluster_size=512
qemu-img convert -q -c -O qcow2 -o cluster_size=1k plain v3-zlib
qemu-img convert -q -c -O qcow2 -o cluster_size=1k,compression_type=zstd plain v3-zstd
rm plain

qemu-img create -q -f raw base 64k
qemu-img create -q -f qcow2 -F raw -b base -o cluster_size=512 v3-backing
rm base
qemu-img create -q -f qcow2 -o cluster_size=512,data_file=sim:data v3-data 16k 2>/dev/null || {
	qemu-img create -q -f qcow2 -o cluster_size=512,data_file=xxx:data v3-data 16k 2>/dev/null ||
	qemu-img create -q -f qcow2 -o cluster_size=512,data_file=sim_data v3-data 16k
	sed -i 's/sim_data/sim:data/' v3-data
	rm -f sim_data
}
# a refcount table that is not where it should be, a dirty image, a truncated one
cp v3-512 dirty
printf '\001' | dd of=dirty bs=1 seek=79 conv=notrunc status=none
head -c 2000 v3-512 >short
cp v3-512 no-refcounts
printf '\0\0\0\0\0\0\0\0' | dd of=no-refcounts bs=1 seek=48 conv=notrunc status=none
