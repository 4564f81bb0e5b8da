#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# info and map of a small image: little memory, no helper threads
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img "${CC:-cc}"

qemu-img create -q -f qcow2 a.qcow2 1G
qemu-img create -q -f raw a.raw 1G
${CC:-cc} -O1 -o rss "$TAPIMG_SRC/tests/cli/rss.c" || exit 1
if [ -n "$(find "${TAPIMG_BUILD:-$(dirname "$TAPIMG")}" -maxdepth 1 -name '.flags' -exec grep -l fsanitize {} +)" ]; then
	skip "resident memory and threads" "the sanitizers' own would be measured"
	done_testing
else
	for verb in info map; do
		for f in a.qcow2 a.raw; do
			kib=$(./rss "$TAPIMG" $verb $f)
			echo "note: $verb $f: $kib KiB resident"
			works "$verb $f stays within 4 MB" test "$kib" -le 4096
		done
	done
fi
if command -v strace >/dev/null && strace -o /dev/null true 2>/dev/null; then
	for verb in info map; do
		strace -f -e trace=clone,clone3 -o trace "$TAPIMG" $verb a.qcow2 >/dev/null
		is "$verb starts no thread" "$(grep -c clone trace)" 0
	done
else
	skip "no thread is started" "strace does not work here"
fi
done_testing
