#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# info: text and JSON are qemu-img's for all kinds of images
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

both() { # arguments
	same "info $*" info "$@"
	same_json "info --output=json $*" "problems" info --output=json "$@"
}

q() {
	qemu-img create -q "$@"
}

q -f raw a.raw 10M
q -f raw empty.raw 0
q -f qcow2 a.qcow2 1G
q -f qcow2 -o compat=0.10 v2.qcow2 10M
q -f qcow2 -o cluster_size=512,refcount_bits=64,lazy_refcounts=on small.qcow2 1000
q -f qcow2 -o extended_l2=on,compression_type=zstd ext.qcow2 10M
q -f qcow2 -o data_file=d.raw,data_file_raw=on df.qcow2 1M
mkdir sub
q -f qcow2 -b ../a.raw -F raw sub/over.qcow2
q -f qcow2 -b sub/over.qcow2 -F qcow2 top.qcow2 20M
q -f qcow2 snaps.qcow2 10M
for s in one 'a rather long name of a snapshot' ünï; do
	qemu-img snapshot -c "$s" snaps.qcow2
done
q -f qcow2 bits.qcow2 10M
qemu-img bitmap --add bits.qcow2 b0
qemu-img bitmap --add -g 4k bits.qcow2 b1
qemu-img bitmap --add --disable bits.qcow2 b2
q -f raw "odd name,with=things.raw" 1M

for f in a.raw empty.raw a.qcow2 v2.qcow2 small.qcow2 ext.qcow2 df.qcow2 sub/over.qcow2 top.qcow2 \
	 snaps.qcow2 bits.qcow2 "odd name,with=things.raw"; do
	both "$f"
done
both -f raw a.qcow2
both -f qcow2 a.qcow2
both --image-opts driver=qcow2,file.driver=file,file.filename=a.qcow2
both --backing-chain top.qcow2
both --backing-chain a.raw
both 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'

exits "a missing file" 1 "'nope.img'.*No such file" tapimg info nope.img
exits "not that format" 1 'a.raw' tapimg info -f qcow2 a.raw
exits "an unknown format" 1 "'foo'" tapimg info -f foo a.raw
exits "two files" 1 "'v2.qcow2'" tapimg info a.raw v2.qcow2
exits "no file" 1 'image file name' tapimg info
exits "an unknown kind of output" 1 "'xml'" tapimg info --output=xml a.raw
exits "-f with --image-opts" 1 'image-opts' tapimg info --image-opts -f raw file.filename=a.raw
exits "a folder" 1 'sub' tapimg info sub
exits "wrong JSON" 1 'json' tapimg info 'json:{"driver":'
done_testing
