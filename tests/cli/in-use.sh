#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# an image that another process has open for writing is not touched; -U reads it all the same
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f qcow2 x.qcow2 1M
qemu-img create -q -f raw x.raw 1M

# qemu-io keeps the image open while it waits for its next command.
hold() { # file, format
	coproc HOLD { exec qemu-io -f "$2" "$1" 2>&1; }
	sleep 0.3
}
release() {
	local pid=$HOLD_PID

	echo quit >&"${HOLD[1]}"
	wait "$pid" 2>/dev/null
}

for f in qcow2 raw; do
	hold "x.$f" "$f"
	refuses "create over x.$f in use" "x.$f" "x.$f" tapimg create -f "$f" "x.$f" 2M
	refuses "resize of x.$f in use" "x.$f" "x.$f" tapimg resize -f "$f" "x.$f" 2M
	refuses "info of x.$f in use" "x.$f" "x.$f" tapimg info -f "$f" "x.$f"
	refuses "map of x.$f in use" "x.$f" "x.$f" tapimg map -f "$f" "x.$f"
	works "info -U of x.$f" tapimg info -U -f "$f" "x.$f"
	works "map -U of x.$f" tapimg map --force-share -f "$f" "x.$f"
	release
	works "info of x.$f afterwards" tapimg info -f "$f" "x.$f"
done

hold x.qcow2 qcow2
refuses "snapshot" x.qcow2 'x.qcow2' tapimg snapshot -c s x.qcow2
refuses "amend" x.qcow2 'x.qcow2' tapimg amend -o lazy_refcounts=on x.qcow2
refuses "bitmap" x.qcow2 'x.qcow2' tapimg bitmap --add x.qcow2 b
refuses "check -r" x.qcow2 'x.qcow2' tapimg check -r all x.qcow2
refuses "check" x.qcow2 'x.qcow2' tapimg check x.qcow2
works "check -U" tapimg check -U x.qcow2
works "snapshot -l -U" tapimg snapshot -l -U x.qcow2
release
works "and it is free afterwards" tapimg snapshot -c s x.qcow2
done_testing
