#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# info and map of a small image: little memory, no helper threads
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

qemu-img create -q -f qcow2 a.qcow2 1G
qemu-img create -q -f raw a.raw 1G
cat >rss.py <<'PY'
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
                     file_actions=[(os.POSIX_SPAWN_OPEN, 1, '/dev/null', os.O_WRONLY, 0)])
print(os.wait4(pid, 0)[2].ru_maxrss)
PY
if [ -n "$(find "${TAPIMG_BUILD:-$(dirname "$TAPIMG")}" -maxdepth 1 -name '.flags' -exec grep -l fsanitize {} +)" ]; then
	skip "resident memory" "the sanitizers' own memory would be measured"
else
	for verb in info map; do
		for f in a.qcow2 a.raw; do
			kib=$(python3 rss.py "$TAPIMG" $verb $f)
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
