#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# create: the line it prints is qemu-img's, and qemu-img agrees about the image made
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

mkdir start
qemu-img create -q -f raw start/base.raw 10M
qemu-img create -q -f qcow2 start/base.qcow2 6M
twin_start

# A data file's name is looked up from the current folder.
# shellcheck disable=SC2317
inside() {
	(cd twin-t && "$@")
}

n=0
both() { # arguments of create without the file, then size
	n=$((n + 1))
	local file=i$n.img size=${!#} args=("${@:1:$#-1}")

	# shellcheck disable=SC2086
	twin "create $* prints the same" create "${args[@]}" "$file" $size
	is "create $*: qemu-img info is the same" \
		"$(cd twin-t && qemu-img info --output=json "$file" | json_normal actual-size)" \
		"$(cd twin-q && qemu-img info --output=json "$file" | json_normal actual-size)"
	case " $* " in
	*nope*) return ;;
	*-f?qcow2*) works "create $*: qemu-img check" inside qemu-img check "$file" ;;
	esac
	works "create $*: reads as the peer's" inside qemu-img compare "$file" "../twin-q/$file"
}

both -f raw 1M
both -f raw 0
both 1000
both -f raw -o preallocation=falloc 1M
both -f raw -o preallocation=full 1M
both -f qcow2 1G
both -f qcow2 1.5M
both -f qcow2 0x100000
both -f qcow2 1000
both -f qcow2 2T
for cs in 512 4k 64k 2M; do
	both -f qcow2 -o cluster_size=$cs 100M
done
for bits in 1 8 32 64; do
	both -f qcow2 -o refcount_bits=$bits 10M
done
both -f qcow2 -o compat=0.10 10M
both -f qcow2 -o compat=v3 10M
both -f qcow2 -o lazy_refcounts=on 10M
both -f qcow2 -o lazy_refcounts 10M
both -f qcow2 -o extended_l2=on,cluster_size=128k 10M
both -f qcow2 -o compression_type=zstd 10M
both -f qcow2 -o preallocation=metadata 10M
both -f qcow2 -o preallocation=falloc 10M
both -f qcow2 -o preallocation=full 10M
both -f qcow2 -o preallocation=off 10M
both -f qcow2 -o cluster_size=4k -o lazy_refcounts=on 10M
both -f qcow2 -o data_file=d1.raw 10M
both -f qcow2 -o data_file=d2.raw,data_file_raw=on 10M
both -f qcow2 -b base.raw -F raw 20M
both -f qcow2 -b base.raw -F raw ''
both -f qcow2 -b base.qcow2 -F qcow2 ''
both -f qcow2 -o backing_file=base.raw,backing_fmt=raw ''
both -f qcow2 -u -b nope.raw -F raw 5M
both -f qcow2 -o size=5M ''
both -q -f qcow2 5M
twin "a comma in a file name" create -f qcow2 -o data_file=a,,b.raw,data_file_raw=on comma.qcow2 1M
works "which names the file" test -f "twin-t/a,b.raw"

works "a name without a newline of its own" tapimg create -q -f qcow2 x.qcow2 1M
is "-q is quiet" "$(tapimg create -q -f qcow2 x.qcow2 1M)" ""
like "-o help lists options" "$(tapimg create -f qcow2 -o help)" '^  cluster_size=<'
like "-o ? as well" "$(tapimg create -f raw -o '?')" '^  preallocation=<'
for o in $(qemu-img create -f qcow2 -o help | sed -n 's/^  \([a-z_]*\)=.*/\1/p'); do
	[ "$o" = encryption ] && continue
	like "-o help names $o" "$(tapimg create -f qcow2 -o help)" "^  $o=<"
done

# an existing file is replaced, as scripts expect
echo old >old.img
works "an existing file is replaced" tapimg create -f qcow2 old.img 1M
is "by the new image" "$(qemu-img info --output=json old.img | json_normal | grep '"format"')" \
	' "format": "qcow2",'
is "nothing else was left" "$(find . -maxdepth 1 -name '*old*' | wc -l)" 1
done_testing
