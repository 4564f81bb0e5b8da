#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# A client stays connected while its disk is paused, continued on another image, committed, and gets
# its answers; a killed server leaves images that hold what was flushed.
. "$(dirname "$0")/lib.sh"
need qemu-io

bin=$(dirname "$TAPIMG")
export TAPDISK_RUN_DIR=$PWD/run TAPDISK_SHM_DIR=$PWD/shm TAPDISK=$bin/tapdisk
mkdir shm
tapctl() {
	timeout 60 "$bin/tap-ctl" "$@"
}
# A client of its own; what it says is in a file.
client() { # output, commands joined by newlines
	local args=() c
	while IFS= read -r c; do
		args+=(-c "$c")
	done <<<"$2"
	timeout 100 qemu-io -f raw "${args[@]}" "nbd+unix:///?socket=$sock" >"$1" 2>&1
}
concluded() {
	for _ in $(seq 200); do
		status=$(tapctl query -p "$pid" -m 0) || return 1
		[[ $status == *"'concluded'"* ]] && return 0
		sleep 0.05
	done
	return 1
}

tapimg create -q -f qcow2 base.qcow2 64M
tapimg create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
tapimg create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
pid=$(tapctl spawn)
tapctl allocate >out
tapctl attach -p "$pid" -m 0
works "open" tapctl open -p "$pid" -m 0 -a "qcow2:$PWD/mid.qcow2"
sock=$PWD/run/nbd$pid.0
works "a client writes" client c1 "write -P 1 0 4M
write -P 2 8M 1M
flush"
unlike "without errors" "$(cat c1)" 'error|failed'

# ------------------------------------------------------- pause, another image, unpause
client c2 "write -P 3 1M 1M
sleep 1500
read -P 3 1M 1M
write -P 4 2M 1M
flush
read -P 1 0 1M
read -P 4 2M 1M" &
sleep 0.5
works "pause under a client" tapctl pause -p "$pid" -m 0
sleep 1.5
works "unpause on a new top" tapctl unpause -p "$pid" -m 0 -a "qcow2:$PWD/top.qcow2"
wait
unlike "the client has noticed nothing" "$(cat c2)" 'error|failed|verif'
is "all its commands were answered" "$(grep -c '^[rw].* bytes at' c2)" 5
like "the new top has the rest" "$(tapimg map -U top.qcow2 2>&1)" '0x200000 .*top.qcow2'

# ------------------------------------------------------------------------------ commit
for _ in $(seq 40); do
	echo "write -P 5 $((RANDOM % 30))M 64k"
done >w
client c3 "$(cat w)
write -P 9 40M 1M
flush
read -P 9 40M 1M" &
works "commit the middle under load" tapctl commit -p "$pid" -m 0 -a "$PWD/mid.qcow2"
concluded || fail "it never ends: $status"
like "it is told once" "$(tapctl query -p "$pid" -m 0)" "'undefined' \(0/0\)"
works "commit the top under load" tapctl commit -p "$pid" -m 0 -a "$PWD/top.qcow2"
concluded || fail "it never ends: $status"
wait
unlike "the client has noticed nothing of that" "$(cat c3)" 'error|failed|verif'
like "the middle was left out" "$(tapimg info -U top.qcow2)" 'backing file: base.qcow2'
exits "commit what is no layer" 22 "Invalid argument" tapctl commit -p "$pid" -m 0 -a "$PWD/mid.qcow2"
exits "commit the last layer" 22 "Invalid argument" tapctl commit -p "$pid" -m 0 -a "$PWD/base.qcow2"
works "commit and pause" tapctl commit -p "$pid" -m 0 -a "$PWD/top.qcow2"
works "which cancels it" tapctl pause -p "$pid" -m 0
works "and goes on" tapctl unpause -p "$pid" -m 0
works "commit and cancel" tapctl commit -p "$pid" -m 0 -a "$PWD/top.qcow2"
works "cancel and wait" tapctl cancel -p "$pid" -m 0 -w
works "the top is writable after that" client c4 "write -P 6 50M 1M
flush"
works "close" tapctl close -p "$pid" -m 0
for i in base mid top; do
	works "$i is in order" tapimg check -q $i.qcow2
done
tapimg convert -q top.qcow2 whole.raw
works "all is there" qemu-io -f raw -c 'read -P 9 40M 1M' -c 'read -P 6 50M 1M' whole.raw
unlike "and right" "$(cat out)" 'verif'

# ------------------------------------------------- another program merges layers below it
vhdutil() { timeout 60 "$bin/vhd-util" "$@"; }
vhdutil create -n base.vhd -s 20
vhdutil snapshot -n mid.vhd -p base.vhd
"$bin/tapimg" bench -w -f vhd -c 30 -s 65536 -o 1M mid.vhd >out
tapimg convert -q -f vhd mid.vhd before.raw
vhdutil snapshot -n top.vhd -p mid.vhd
works "open a chain" tapctl open -p "$pid" -m 0 -a "vhd:$PWD/top.vhd"
works "the middle is merged into its parent below a served top" vhdutil coalesce -n mid.vhd
works "which reads as before" tapimg compare -f raw before.raw "nbd+unix:///?socket=$sock"
exits "the served layer itself is nobody else's" 16 "" vhdutil set -n top.vhd -f hidden -v 1
works "pause it" tapctl pause -p "$pid" -m 0
works "leave the middle out" vhdutil modify -n top.vhd -p base.vhd
works "and go on" tapctl unpause -p "$pid" -m 0
works "which reads as ever" tapimg compare -f raw before.raw "nbd+unix:///?socket=$sock"
works "close the chain" tapctl close -p "$pid" -m 0

# ------------------------------------------------------------------- an enciphered disk
head -c 64 /dev/urandom >a.key
head -c 64 /dev/urandom >b.key
vhdutil create -n plain.vhd -s 20
vhdutil copy -n plain.vhd -N a.vhd -k a.key 2>/dev/null
exits "no key" 126 "Required key not available" tapctl open -p "$pid" -m 0 -a "vhd:$PWD/a.vhd"
exits "another key" 13 "Permission denied" tapctl open -p "$pid" -m 0 -a "vhd:$PWD/a.vhd" -E <b.key
works "its key" tapctl open -p "$pid" -m 0 -a "vhd:$PWD/a.vhd" -E <a.key
works "written through the server" client c6 "write -P 7 3M 1M
flush"
works "paused" tapctl pause -p "$pid" -m 0
works "opened again without being asked" tapctl unpause -p "$pid" -m 0
works "read again" client c7 "read -P 7 3M 1M"
unlike "as it was" "$(cat c6 c7)" 'error|failed|verif'
works "close it" tapctl close -p "$pid" -m 0
is "on the disk it is something else" "$(grep -c "$(printf '\007%.0s' $(seq 64))" a.vhd)" 0
works "its key opens it elsewhere" tapimg dd --object secret,id=k,file=a.key -O raw \
	"if=json:{\"driver\":\"vpc\",\"encrypt.key-secret\":\"k\",\"file.filename\":\"a.vhd\"}" of=a.raw
is "with the bytes that were written" "$(dd if=a.raw bs=1M skip=3 count=1 status=none | tr -d '\007' | wc -c)" 0

# --------------------------------------------------------------------- killed, and again
for n in 1 2 3 4 5; do
	works "open, $n" tapctl open -p "$pid" -m 0 -a "qcow2:$PWD/top.qcow2"
	sock=$PWD/run/nbd$pid.0
	client c5 "write -P $n $((n * 2))M 1M
flush
write -P 99 20M 8M
write -P 98 30M 8M" &
	for _ in $(seq 100); do
		grep -q 'wrote 1048576' c5 2>/dev/null && break
		sleep 0.02
	done
	sleep 0.0$n
	kill -9 "$pid"
	wait
	for _ in $(seq 100); do
		tapimg check -q top.qcow2 >err 2>&1
		rc=$?
		grep -q "in use" err || break	# the killed server has its lock until the kernel is done with it
		sleep 0.05
	done
	[ $rc = 0 ] || [ $rc = 3 ] && pass || fail "image after kill -9: exit $rc" "$(cat err)"
	qemu-io -U -f qcow2 -c "read -P $n $((n * 2))M 1M" top.qcow2 >r 2>&1
	if grep -q 'wrote 1048576' c5; then
		unlike "what was flushed is there" "$(cat r)" 'verif|error'
	fi
	pid=$(tapctl spawn)
	tapctl attach -p "$pid" -m 0
done
is "no leftovers of the dead" "$(ls run | grep -c '^ctl')" 1
kill "$pid"

done_testing
