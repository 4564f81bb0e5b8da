#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# what changes an image has it on stable storage before it reports success
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img strace
if ! strace -o /dev/null true 2>/dev/null; then
	skip "the whole script" "strace does not work here"
	done_testing
fi
if [ "$(stat -f -c %T .)" = tmpfs ]; then
	skip "the whole script" "the folder is on tmpfs, which has no storage to sync"
	done_testing
fi
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0

# After the last write to a file comes a sync of it, and only then success on stdout and the end.
synced() { # what, command...
	local what=$1 order

	shift
	strace -f -o trace -e trace=pwrite64,pwritev,pwritev2,write,io_submit,fallocate,ftruncate,rename,renameat2,linkat,fsync,fdatasync,exit_group \
		"$@" >/dev/null || fail "$what: it runs"
	order=$(sed -n -E 's/^[0-9]+ +(<... )?//; /resumed/d
		/^(pwrite64|pwritev2?|io_submit|fallocate|ftruncate)\(/ { s/.*/W/p; d }
		/^write\(1,/ { s/.*/R/p; d }
		/^(rename|renameat2|linkat)\(/ { s/.*/N/p; d }
		/^(fsync|fdatasync)\(/ s/.*/S/p' trace | tr -d '\n')
	like "$what: synced after the last write ($order)" "$order" 'S[^W]*$'
	unlike "$what: success is not reported before" "$order" 'R.*[WN]'
	case $order in
	*N*) like "$what: synced before and after the new name" "$order" 'S[^W]*N+S' ;;
	esac
}

synced "create raw" "$TAPIMG" create -f raw a.raw 1M
synced "create qcow2" "$TAPIMG" create -f qcow2 a.qcow2 1M
synced "create over an old file" "$TAPIMG" create -f qcow2 a.qcow2 2M
synced "resize raw" "$TAPIMG" resize -f raw a.raw 2M
synced "resize qcow2" "$TAPIMG" resize a.qcow2 1G
synced "snapshot -c" "$TAPIMG" snapshot -c s a.qcow2
synced "snapshot -a" "$TAPIMG" snapshot -a s a.qcow2
synced "snapshot -d" "$TAPIMG" snapshot -d s a.qcow2
synced "bitmap --add" "$TAPIMG" bitmap --add a.qcow2 b
synced "bitmap --remove" "$TAPIMG" bitmap --remove a.qcow2 b
synced "amend" "$TAPIMG" amend -o lazy_refcounts=on a.qcow2
qemu-io -f raw -c 'write -P 1 0 1M' a.raw >/dev/null
synced "convert" "$TAPIMG" convert -O qcow2 a.raw b.qcow2
synced "convert to raw" "$TAPIMG" convert -O raw a.raw b.raw
qemu-img create -q -f qcow2 -b b.raw -F raw over.qcow2
qemu-io -c 'write -P 2 64k 64k' over.qcow2 >/dev/null
synced "commit" "$TAPIMG" commit over.qcow2
qemu-img create -q -f qcow2 -b b.raw -F raw over.qcow2
synced "rebase" "$TAPIMG" rebase -b '' over.qcow2
poke a.qcow2 79 '\x01'
synced "check -r all" "$TAPIMG" check -r all a.qcow2
done_testing
