#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Hostile front ends: whatever they send or write into their rings ends their connection at worst.
# A server of each kind lives through all of them, and ends in order afterwards.
set -u
count=120 seed=1
[ -n "${TAPIMG_LONG:-}" ] && { count=20000; seed=$((RANDOM * 100000 + 7)); }
tool=$TAPIMG_BUILD/tests/vhost/vhost-fuzz
passed=0 failed=0

"$TAPIMG" create -q -f qcow2 disk.qcow2 1M || exit 1
for disk in null:1M qcow2:disk.qcow2; do
	for kind in message ring; do
		"$TAPIMG_BUILD/tapdisk" -q --disk "$disk" --vhost-user-blk socket=s,queues=4 >log 2>&1 &
		pid=$!
		ok=1
		"$tool" -s "$seed" -n "$count" "$kind" s || ok=0
		kill -0 $pid 2>/dev/null || { echo "the server has ended"; ok=0; }
		kill -TERM $pid 2>/dev/null
		wait $pid || { echo "exit status $?"; ok=0; }
		grep -E 'ERROR|runtime error|Sanitizer' log && ok=0
		if [ $ok = 1 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); tail -5 log; fi
	done
done
"$TAPIMG" check -q disk.qcow2 >check 2>&1
rc=$?
if [ $rc = 0 ] || [ $rc = 3 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); cat check; fi
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
