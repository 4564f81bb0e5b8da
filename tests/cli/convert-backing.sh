#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert -B: only what differs from the backing file is copied, and it reads the same
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw base.raw 8M
io base.raw raw 'write -P 1 0 8M'
qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2 9M
io mid.qcow2 qcow2 'write -P 2 1M 100k' 'write -z 2M 64k'
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
io top.qcow2 qcow2 'write -P 3 5M 1000' 'write -P 4 8900000 100' 'write -z 1M 64k'
qemu-img convert -O raw base.raw copy.raw
qemu-img convert -O qcow2 base.raw copy.qcow2
qemu-img create -q -f raw other.raw 20M
io other.raw raw 'write -P 7 0 20M'

for backing in "mid.qcow2 qcow2" "base.raw raw" "copy.raw raw" "copy.qcow2 qcow2" "top.qcow2 qcow2" "other.raw raw"; do
	for opts in "" "-c" "-o cluster_size=4k" "-S 0" "-o compat=0.10"; do
		file=${backing% *} format=${backing#* }
		# shellcheck disable=SC2086
		works "$file $opts" tapimg convert -O qcow2 $opts -B "$file" -F "$format" top.qcow2 out.qcow2
		works "$file $opts: the same" qemu-img compare -q top.qcow2 out.qcow2
		works "$file $opts: sound" qemu-img check -q out.qcow2
		like "$file $opts: it is named" "$(qemu-img info out.qcow2)" "backing file: $file"
		case $file in
		other.raw) ;;
		*) is "$file $opts: little is copied" "$(($(stat -c %b out.qcow2) / 2 < 3000))" 1 ;;
		esac
	done
done
works "-o backing_file" tapimg convert -O qcow2 -o backing_file=base.raw,backing_fmt=raw top.qcow2 out.qcow2
works "-o backing_file: the same" qemu-img compare -q top.qcow2 out.qcow2
done_testing
