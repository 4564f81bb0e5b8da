#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# tap-ctl: texts, numbers, paths and exit codes as storage managers know them from blktap
. "$(dirname "$0")/lib.sh"

bin=$(dirname "$TAPIMG")
TAPCTL=${TAPCTL:-$bin/tap-ctl}	# another one can be judged by the same texts
export TAPDISK_RUN_DIR=$PWD/run TAPDISK_SHM_DIR=$PWD/shm TAPDISK=$bin/tapdisk
mkdir shm

# out, err and rc of a command
ctl() {
	out=$(timeout 60 "$TAPCTL" "$@" 2>err)
	rc=$?
	err=$(cat err)
}

answers() { # what, wanted stdout, stderr, exit code
	is "$1: output" "$out" "$2"
	is "$1: errors" "$err" "$3"
	is "$1: exit code" "$rc" "$4"
}

commands="usage: tap-ctl COMMAND [OPTIONS]
COMMAND := { list | allocate | free | create | destroy | spawn | attach | detach | open | close | pause | unpause | stats | commit | query | cancel }"
ctl
answers "no command" "$commands" "" 0
ctl nonsense
answers "unknown command" "$commands" "" 0
ctl free
answers "an option is missing" "" "usage: free <-m minor>
Invalid argument" 22
ctl pause -h
answers "help" "usage: pause <-p pid> <-m minor> [-t timeout secs]" "" 0
ctl list -h
answers "help of list" "usage: list [-h] [-p pid] [-m minor] [-t type] [-f file]

Lists tapdisks in the following format:
     pid minor state       type file" "" 0

# ------------------------------------------------------------- numbers and processes
ctl list
answers "nothing to list" "" "" 0
ctl allocate
answers "allocate" "$PWD/run/tapdisk/tapdisk-0" "" 0
ctl allocate
is "the next number" "$out" "$PWD/run/tapdisk/tapdisk-1"
ctl free -m 1
answers "free" "" "" 0
ctl free -m 1
answers "free twice" "" "No such file or directory" 2
ctl list
answers "a number without process" "minor=0" "" 0
ctl attach -p 1 -m 0
is "no such process" "$rc" 2
ctl spawn
like "spawn prints the number" "$out" '^[0-9]+$'
pid=$out
is "its socket" "$(ls run)" "ctl$pid
tapdisk"
ctl list
answers "a process without numbers" "pid=$pid
minor=0" "" 0
ctl attach -p "$pid" -m 0
answers "attach" "" "" 0
ctl attach -p "$pid" -m 0
answers "attach twice" "got unexpected result 'error' from $pid" "Invalid argument" 22
ctl attach -p "$pid" -m 5
is "attach a number nobody gave out" "$rc" 22
ctl free -m 0
answers "free what is in use" "" "Resource temporarily unavailable" 11
ctl list
answers "attached" "pid=$pid minor=0 state=0x2" "" 0

# --------------------------------------------------------------------------- images
tapimg create -q -f qcow2 a.qcow2 64M
tapimg create -q -f qcow2 other.qcow2 65M
ctl open -p "$pid" -m 0 -a "qcow2:$PWD/missing.qcow2"
answers "open what is not there" "" "No such file or directory" 2
ctl open -p "$pid" -m 0 -a "nosuch:$PWD/a.qcow2"
is "open with an unknown type" "$rc" 2
ctl open -p "$pid" -m 0 -a "qcow2:/$(printf '%0300d' 0)"
is "a path too long" "$rc" 36
ctl open -p "$pid" -m 3 -a "qcow2:$PWD/a.qcow2"
is "open a number that is not attached" "$rc" 22
ctl pause -p "$pid" -m 0
is "pause without image" "$rc" 22
ctl open -p "$pid" -m 0 -a "qcow2:$PWD/a.qcow2"
answers "open" "" "" 0
ctl list
answers "running" "pid=$pid minor=0 state=0 args=qcow2:$PWD/a.qcow2" "" 0
ctl list -t aio
answers "filter by type" "" "" 0
ctl list -t qcow2 -f "$PWD/a.qcow2" -m 0 -p "$pid"
answers "filters that fit" "pid=$pid minor=0 state=0 args=qcow2:$PWD/a.qcow2" "" 0
ctl open -p "$pid" -m 0 -a "qcow2:$PWD/a.qcow2"
answers "open twice" "" "Operation already in progress" 114
ctl detach -p "$pid" -m 0
answers "detach an open one" "got unexpected result 'error' from $pid" "Invalid argument" 22
like "the image is locked" "$(tapimg resize a.qcow2 70M 2>&1)" 'in use'

# ------------------------------------------------------------------ pause and unpause
ctl unpause -p "$pid" -m 0
answers "unpause what runs" "" "Invalid argument" 22
ctl pause -p "$pid" -m 0
answers "pause" "" "" 0
ctl pause -p "$pid" -m 0
answers "pause again" "" "" 0
ctl list
answers "paused" "pid=$pid minor=0 state=0x2a args=qcow2:$PWD/a.qcow2" "" 0
tapimg create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2
ctl unpause -p "$pid" -m 0 -a "qcow2:$PWD/other.qcow2"
answers "another size" "" "Wrong medium type" 124
ctl list
answers "resume failed" "pid=$pid minor=0 state=0x22a args=qcow2:$PWD/a.qcow2" "" 0
ctl unpause -p "$pid" -m 0 -a "qcow2:$PWD/b.qcow2"
answers "unpause with another image" "" "" 0
ctl list
answers "running on it" "pid=$pid minor=0 state=0 args=qcow2:$PWD/b.qcow2" "" 0

# ------------------------------------------------------------------------- statistics
ctl stats -p "$pid" -m 0
image() {
	printf '{ "name": "%s", "hits": [ 0, 0 ], "fail": [ 0, 0 ], "driver": { "type": 17, "name": "qcow2", "status": null } }' "$1"
}
is "stats" "${out%%, \"ops\"*}" "{ \"name\": \"qcow2:$PWD/b.qcow2\", \"secs\": [ 0, 0 ], \"images\": [ $(image "$PWD/b.qcow2"), $(image "$PWD/a.qcow2") ], \"FIXME_enospc_redirect_count\": 0, \"nbd_mirror_failed\": 0, \"reqs_outstanding\": 0, \"read_caching\": \"false\""
is "stats is JSON" "$(python3 -c 'import json,sys; print(json.loads(sys.argv[1])["ops"]["read"]["failed"])' "$out" 2>&1)" 0
ctl stats -p "$pid" -m 7
is "stats of nothing" "$rc" 19
is "the page of counters" "$(od -An -tu4 -N4 "shm/td3-$pid/vdi-0" | tr -d ' ') $(stat -c %s "shm/td3-$pid/vdi-0")" "1 4096"

# ------------------------------------------------------------------------------ ending
ctl close -p "$pid" -m 0
answers "close" "" "" 0
ctl close -p "$pid" -m 0
is "close twice" "$rc" 0
ctl list
answers "closed" "pid=$pid minor=0 state=0x2" "" 0
ctl detach -p "$pid" -m 0
answers "detach" "" "" 0
for _ in $(seq 100); do
	[ -e "run/ctl$pid" ] || break
	sleep 0.05
done
is "the last detach ends it" "$(ls run shm)" "run:
tapdisk

shm:"
ctl list
answers "only the number is left" "minor=0" "" 0
ctl free -m 0
is "free at the end" "$rc" 0

# ----------------------------------------------------------------- all of it in one go
ctl create -a "qcow2:$PWD/b.qcow2" -R
answers "create" "$PWD/run/tapdisk/tapdisk-0" "" 0
ctl list
like "created" "$out" "^pid=[0-9]+ minor=0 state=0 args=qcow2:$PWD/b.qcow2$"
pid=${out%% *}
pid=${pid#pid=}
ctl destroy -p "$pid" -m 0
answers "destroy" "" "" 0
ctl create -a "qcow2:$PWD/missing"
answers "create what cannot be opened" "" "No such file or directory" 2
sleep 0.2
ctl list
answers "nothing is left of it" "" "" 0

# a dead process leaves files behind, the next one takes them away
mkdir shm/td3-999999999
: >run/ctl999999999
ctl spawn
pid=$out
is "leftovers" "$(ls shm run | grep 999999999)" ""
kill "$pid"

# ------------------------------------------------------------------------- completion
# shellcheck source=/dev/null
. "$TAPIMG_SRC/completion/tap-ctl"
complete_at() { # words; the last is being completed
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	COMPREPLY=()
	_tap_ctl
	echo "${COMPREPLY[*]}"
}
is "completes commands" "$(complete_at "$TAPCTL" un)" unpause
is "completes options" "$(complete_at "$TAPCTL" close -)" "-p -m -f -t"

done_testing
