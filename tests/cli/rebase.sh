#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# rebase: the image reads the same afterwards, whatever the old and the new backing file hold
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw old.raw 8M
io old.raw raw 'write -P 1 0 4M'
cp --sparse=always old.raw like.raw
io like.raw raw 'write -P 9 3M 64k' 'write -P 8 5M 1M' 'write -z 1M 64k'
qemu-img convert -f raw -O qcow2 old.raw old.qcow2
qemu-img convert -c -f raw -O qcow2 like.raw like.qcow2
qemu-img create -q -f raw full.raw 12M
io full.raw raw 'write -P 7 0 12M'
qemu-img create -q -f raw short.raw 1M
io short.raw raw 'write -P 1 0 1M'
qemu-img create -q -f qcow2 -b like.qcow2 -F qcow2 deep.qcow2 9M
io deep.qcow2 qcow2 'write -P 3 2M 100k'

make() { # options
	rm -f x
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $1 x 10M
	io x qcow2 'write -P 5 1M 100000' 'write -P 6 10485000 700'
	[ "${2:-}" = v2 ] || io x qcow2 'write -z 2M 256k'
}

# Each old file with each kind, each with each new file; all three together in the long run only.
n=0
for from in "-b old.raw -F raw" "-b old.qcow2 -F qcow2" ""; do
	n=$((n + 2))
	for kind in "" "-o compat=0.10" "-o extended_l2=on" "-o cluster_size=4k" "-o cluster_size=2M"; do
		n=$((n + 1))
		for to in like.raw like.qcow2 full.raw short.raw deep.qcow2 ''; do
			n=$((n + 1))
			[ -n "${TAPIMG_LONG:-}" ] || [ $((n % 3)) = 0 ] || continue
			case $to in *.raw) f=raw ;; *) f=qcow2 ;; esac
			what="from '$from' $kind to '$to'"
			case $kind in *0.10) make "$from $kind" v2 ;; *) make "$from $kind" ;; esac
			qemu-img convert -O raw x want.raw
			opts=(-b "$to")
			[ -z "$to" ] || opts+=(-F "$f")
			[ "$to" != like.raw ] || opts+=(-c)
			works "$what" tapimg rebase "${opts[@]}" x
			works "$what: the same" qemu-img compare -q -f raw -F qcow2 want.raw x
			works "$what: sound" qemu-img check -q x
			is "$what: the name" "$(qemu-img info x | sed -n 's/^backing file: //p')" "$to"
		done
	done
done

# little is copied where little differs
make "-b old.raw -F raw"
works "to a backing file with the same contents" tapimg rebase -b old.qcow2 -F qcow2 x
is "to a backing file with the same contents: nothing is copied" "$(($(stat -c %s x) < 1000000))" 1
make "-b old.raw -F raw"
cp x y
works "-u" tapimg rebase -u -b full.raw -F raw x
is "-u: nothing is copied" "$(stat -c %s x)" "$(stat -c %s y)"
is "-u: the name" "$(qemu-img info x | sed -n 's/^backing file: //p')" full.raw
works "-u to a file that is not there" tapimg rebase -u -b gone.raw -F raw x
works "-u ''" tapimg rebase -u -b '' x
unlike "-u '': no name" "$(qemu-img info x)" 'backing file'
mkdir sub
make "-b old.raw -F raw"
mv x sub/x
qemu-img rebase -u -b ../old.raw -F raw sub/x
works "names are looked up from the image's folder" tapimg rebase -b ../like.raw -F raw sub/x
make "-b old.raw -F raw"
is "it prints nothing" "$(tapimg rebase -b like.raw -F raw x 2>&1)" ""

refuses "no such file" x "'?gone.raw" tapimg rebase -b gone.raw -F raw x
refuses "no format" x 'format' tapimg rebase -b like.raw x
refuses "a bad format" x "'foo'" tapimg rebase -b like.raw -F foo x
refuses "no -b" x '-b' tapimg rebase x
refuses "onto itself" x 'own backing file' tapimg rebase -b x -F qcow2 x
qemu-img create -q -f qcow2 -b x -F qcow2 child
refuses "onto its own child" x 'x' tapimg rebase -b child -F qcow2 x
cp old.raw r.raw
refuses "raw has none" r.raw 'raw' tapimg rebase -f raw -b like.raw -F raw r.raw
done_testing
