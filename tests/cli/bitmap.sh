#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# bitmap: every action leaves what qemu-img's does
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

mkdir start
qemu-img create -q -f qcow2 start/a.qcow2 10M
qemu-img bitmap --add start/a.qcow2 old
io start/a.qcow2 qcow2 'write 1M 1M'
qemu-img create -q -f qcow2 start/src.qcow2 10M
qemu-img bitmap --add -g 4k start/src.qcow2 s
io start/src.qcow2 qcow2 'write 5M 100k'

state() { # folder
	(cd "$1" && qemu-img info --output=json a.qcow2 | json_normal actual-size date-sec date-nsec)
}
# The bits themselves, read through the peer's NBD server.
bits() { # folder, bitmap
	qemu-nbd -r -f qcow2 -B "$2" -k "$PWD/$1.sock" -t "$1/a.qcow2" >/dev/null 2>&1 &
	local pid=$!
	for _ in $(seq 50); do
		[ -S "$1.sock" ] && break
		sleep 0.05
	done
	qemu-img map --output=json --image-opts \
		"driver=nbd,server.type=unix,server.path=$PWD/$1.sock,x-dirty-bitmap=qemu:dirty-bitmap:$2" 2>/dev/null |
		json_normal offset compressed
	kill "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	rm -f "$1.sock"
}

both() { # bitmap whose bits are compared or "", then arguments
	local which=$1

	shift
	twin_start
	twin "bitmap $*" bitmap "$@"
	is "bitmap $*: the list" "$(state twin-t)" "$(state twin-q)"
	works "bitmap $*: sound" qemu-img check twin-t/a.qcow2
	[ -z "$which" ] || is "bitmap $*: the bits" "$(bits twin-t "$which")" "$(bits twin-q "$which")"
}

both new --add a.qcow2 new
both "" --add --disable a.qcow2 new
both new --add -g 512 a.qcow2 new
both new --add -g 2M a.qcow2 new
both "" --remove a.qcow2 old
both old --clear a.qcow2 old
both "" --disable a.qcow2 old
both "" --enable a.qcow2 old
both old --merge s -b src.qcow2 -F qcow2 a.qcow2 old
both new --add --merge old a.qcow2 new
both new --add -g 4k --merge old --merge s -b src.qcow2 -F qcow2 a.qcow2 new 

# writes through us are recorded in a bitmap that is enabled: see the interoperability tests
cp start/a.qcow2 x.qcow2
qemu-img create -q -f raw r.raw 1M
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
refuses "--add of one that is there" x.qcow2 "x.qcow2.*add.*old" tapimg bitmap --add x.qcow2 old
refuses "--remove of one that is not" x.qcow2 "x.qcow2.*remove.*nope" tapimg bitmap --remove x.qcow2 nope
refuses "--merge of one that is not" x.qcow2 "x.qcow2.*merge" tapimg bitmap --merge nope x.qcow2 old
refuses "no action" x.qcow2 'at least one' tapimg bitmap x.qcow2 old
refuses "no name" x.qcow2 'bitmap name' tapimg bitmap --add x.qcow2
refuses "-g without --add" x.qcow2 'granularity' tapimg bitmap -g 4k --clear x.qcow2 old
refuses "a granularity that is none" x.qcow2 "1000|granularity" tapimg bitmap --add -g 1000 x.qcow2 new
refuses "-b without --merge" x.qcow2 'merge' tapimg bitmap -b start/src.qcow2 --clear x.qcow2 old
refuses "-F without -b" x.qcow2 'F' tapimg bitmap -F qcow2 --merge old x.qcow2 old
refuses "a missing source file" x.qcow2 "'nope'" tapimg bitmap -b nope -F qcow2 --merge s x.qcow2 old
refuses "raw has none" r.raw 'r.raw' tapimg bitmap -f raw --add r.raw b
refuses "version 2 has none" v2.qcow2 'v2.qcow2' tapimg bitmap --add v2.qcow2 b
done_testing
