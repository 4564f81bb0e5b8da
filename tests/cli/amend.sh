#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# amend: the image afterwards is what qemu-img makes of it
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

mkdir start
qemu-img create -q -f qcow2 start/a.qcow2 10M
io start/a.qcow2 qcow2 'write -P 1 0 1M' 'write -z 2M 1M'
qemu-img create -q -f qcow2 -o compat=0.10 start/v2.qcow2 10M
io start/v2.qcow2 qcow2 'write -P 1 0 1M'
qemu-img create -q -f qcow2 -o lazy_refcounts=on start/lazy.qcow2 10M
qemu-img create -q -f raw start/base.raw 10M
io start/base.raw raw 'write -P 7 0 10M'
qemu-img create -q -f qcow2 -b base.raw -F raw start/over.qcow2
io start/over.qcow2 qcow2 'write -z 0 1M' 'write -P 1 1M 1M'

both() { # file, options
	twin_start
	twin "amend -o $2 $1" amend -o "$2" "$1"
	is "amend -o $2 $1: info" "$(cd twin-t && qemu-img info --output=json "$1" | json_normal actual-size)" \
		"$(cd twin-q && qemu-img info --output=json "$1" | json_normal actual-size)"
	works "amend -o $2 $1: contents" qemu-img compare "twin-t/$1" "start/$1"
	works "amend -o $2 $1: sound" qemu-img check "twin-t/$1"
}

both a.qcow2 compat=0.10
both a.qcow2 compat=v2
both a.qcow2 lazy_refcounts=on
both a.qcow2 refcount_bits=64
both a.qcow2 refcount_bits=1
both v2.qcow2 compat=1.1
both v2.qcow2 compat=1.1,lazy_refcounts=on
both lazy.qcow2 lazy_refcounts=off
both lazy.qcow2 compat=0.10,lazy_refcounts=off
both over.qcow2 compat=0.10
both over.qcow2 backing_file=base.raw,backing_fmt=raw
twin_start
twin "amend -o size" amend -o size=20M a.qcow2
works "the size" qemu-img compare twin-t/a.qcow2 twin-q/a.qcow2

cp start/a.qcow2 x.qcow2
cp start/v2.qcow2 v2.qcow2
cp start/base.raw r.raw
qemu-img create -q -f raw under.raw 1M
qemu-img create -q -f qcow2 -b under.raw -F raw over.qcow2
qemu-img create -q -f qcow2 other.qcow2 1M
refuses "another backing file" over.qcow2 'Cannot amend the backing file' \
	tapimg amend -o backing_file=other.qcow2,backing_fmt=qcow2 over.qcow2
exits "another backing file: the peer" 1 'backing file' qemu-img amend -o backing_file=other.qcow2,backing_fmt=qcow2 over.qcow2
refuses "no options" x.qcow2 '-o' tapimg amend x.qcow2
refuses "an unknown option" x.qcow2 "'foo'" tapimg amend -o foo=1 x.qcow2
refuses "one that cannot be changed" x.qcow2 "'cluster_size' can only be given when .* created" tapimg amend -o cluster_size=4k x.qcow2
refuses "a wrong value" x.qcow2 '3' tapimg amend -o refcount_bits=3 x.qcow2
refuses "lazy refcounts in version 2" v2.qcow2 'v2.qcow2' tapimg amend -o lazy_refcounts=on v2.qcow2
refuses "a compat that is none" x.qcow2 'x.qcow2' tapimg amend -o compat=9 x.qcow2
refuses "raw has nothing to amend" r.raw 'r.raw|raw' tapimg amend -f raw -o compat=1.1 r.raw
refuses "encryption" x.qcow2 'ncrypt' tapimg amend -o encrypt.state=active x.qcow2
exits "a missing file" 1 "'nope'" tapimg amend -o compat=1.1 nope
like "-o help with a format" "$(tapimg amend -f qcow2 -o help)" '^  lazy_refcounts=<'
like "-o help with an image" "$(tapimg amend -o help x.qcow2)" '^  refcount_bits=<'
exits "-o help with a format that has none" 1 'the raw format has no options to amend' tapimg amend -o help -f raw
exits "-o help with an image of it" 1 'the raw format has no options to amend' tapimg amend -o help r.raw
like "-p shows progress" "$(tapimg amend -p -o compat=0.10 x.qcow2)" '100\.00/100%'
done_testing
