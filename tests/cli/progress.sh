#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# progress: for people on a terminal, for programs as JSON lines, on SIGUSR1 without either
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw a.raw 64M
io a.raw raw 'write -P 1 0 32M'
out=$(tapimg convert -p -O qcow2 a.raw b.qcow2)
like "-p ends at 100 %" "$out" '\(100\.00/100%\)'
like "in qemu-img's form" "$out" '^    \([0-9.]+/100%\)'
unlike "no escape sequences into a pipe" "$out" $'\033'
tapimg convert --progress=json -O qcow2 a.raw b.qcow2 >out 2>progress.json
is "--progress=json leaves stdout alone" "$(cat out)" ""
works "every line is JSON, and it grows to its end" python3 -c '
import json
last = -1
lines = [json.loads(l) for l in open("progress.json")]
assert lines
for l in lines:
    assert l["verb"] == "convert" and 0 <= l["percent"] <= 100 and l["done"] >= last
    last = l["done"]
assert lines[-1]["state"] == "done" and lines[-1]["percent"] == 100
assert lines[-1]["done"] == lines[-1]["total"] > 0'
exits "a failed run ends so" 1 '' tapimg convert --progress=json -O qcow2 a.raw none/b.qcow2
exits "a kind that is none" 1 "progress.*'json'|xml" tapimg convert --progress=xml -O qcow2 a.raw b.qcow2
if command -v script >/dev/null; then
	TERM=xterm script -qec "'$TAPIMG' convert -p -r 32M -O qcow2 a.raw b.qcow2" /dev/null >tty.out </dev/null
	like "a terminal gets the rate" "$(cat tty.out)" 'B/s'
	like "and the time left" "$(cat tty.out)" 'left'
else
	skip "a terminal gets the rate" "script(1) is not installed"
fi
"$TAPIMG" convert -r 16M -O qcow2 a.raw b.qcow2 >usr1.out 2>&1 &
pid=$!
sleep 0.8
kill -USR1 "$pid"
wait "$pid"
is "SIGUSR1 does not end it" "$?" 0
like "and prints a line" "$(cat usr1.out)" '\([0-9.]+/100%\)'
exits "a value behind a letter" 1 "only the long name" tapimg convert -p=json -O qcow2 a.raw b.qcow2
done_testing
