#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# cbt-util: logs of changed blocks, as blktap makes and reads them
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"
NULL=00000000-0000-0000-0000-000000000000
A=7f1c2a3e-0b5d-4a51-9a0e-1d1f6d3c9b10

usage='usage: cbt-util COMMAND [OPTIONS]
COMMAND := { create | set | get | coalesce }
.'
says "no command" 22 "$usage" cbt-util
says "a wrong command" 0 "$usage" cbt-util nope
stderr "is named" "Invalid COMMAND nope
."
for cmd in create set get coalesce; do
	"$OURS/cbt-util" $cmd -h >../out 2>../err
	is "$cmd -h: exit code" $? 22
	like "$cmd -h names the command" "$(head -1 ../out)" "^cbt-util $cmd: "
	"$OURS/cbt-util" $cmd >../out 2>../err
	is "$cmd without options: exit code" $? 22
done

says "create" 0 . cbt-util create -n a.log -s 100000000
is "create: length" "$(stat -c %s a.log)" $((48 + 191))
is "create: bytes" "$(xxd -p a.log | tr -d '\n')" \
	"$(printf '0%.0s' {1..80})00e1f50500000000$(printf '0%.0s' {1..382})"
[ -z "$PEER" ] || works "create: the peer's bytes" cmp a.log ../peer/a.log
says "get -p" 0 "UUID
." cbt-util get -n a.log -p
is "no parent" "$(cbt-util get -n a.log -p)" $NULL
says "get -f" 0 "0
." cbt-util get -n a.log -f
says "get -s" 0 "100000000
." cbt-util get -n a.log -s
says "set -c, -p, -f together" 0 . cbt-util set -n a.log -p $A -c $NULL -f 1
is "the parent" "$(cbt-util get -n a.log -p)" $A
is "the child" "$(cbt-util get -n a.log -c)" $NULL
says "get -f" 0 "1
." cbt-util get -n a.log -f
[ -z "$PEER" ] || works "set: the peer's bytes" cmp a.log ../peer/a.log
is "get -b" "$(cbt-util get -n a.log -b | wc -c)" 191

# bits: byte 1 of the parent's map, some of the child's
mark() { printf "$2" | dd of="$1" bs=1 seek="$3" conv=notrunc status=none; }
both cp a.log b.log
both mark a.log '\x81\x01' 49
both mark b.log '\x02\x01' 49
says "coalesce" 0 . cbt-util coalesce -p a.log -c b.log
is "bits of both" "$(cbt-util get -n b.log -b | xxd -p | head -c 8)" 00830100
[ -z "$PEER" ] || works "coalesce: the peer's bytes" cmp b.log ../peer/b.log
is "the parent is as it was" "$(cbt-util get -n a.log -b | xxd -p | head -c 8)" 00810100
says "create a smaller one" 0 . cbt-util create -n small.log -s 1
says "a parent that is larger" 22 . cbt-util coalesce -p a.log -c small.log
stderr "says so, without a newline" "Parent bitmap larger than child bitmap,can't coalesce."
says "a child that is larger" 0 . cbt-util coalesce -p small.log -c a.log

says "grow" 0 . cbt-util set -n b.log -s 300000000
is "new length" "$(stat -c %s b.log)" $((48 + 573))
is "the bits stay" "$(cbt-util get -n b.log -b | xxd -p | head -c 8)" 00830100
[ -z "$PEER" ] || works "grow: the peer's bytes" cmp b.log ../peer/b.log
says "shrink" 22 . cbt-util set -n b.log -s 1
stderr "is refused by name" "Size smaller than current file size (300000000)
."

# A volume has bytes behind the log: they are not its bits.
both cbt-util create -n v.log -s 65536
head -c 4096 /dev/zero | tr '\0' '\377' >>v.log
printf '\x01' | dd of=v.log bs=1 seek=48 conv=notrunc status=none
works "grow over old bytes" cbt-util set -n v.log -s 10000000
is "they were cleared" "$(cbt-util get -n v.log -b | xxd -p)" "01$(printf '00%.0s' {2..20})"

says "no such file" 2 . cbt-util get -n none.log -p
stderr "is named" "Failed to open log file none.log. No such file or directory
."
both truncate -s 40 short.log
says "a file that is too short" 5 . cbt-util get -n short.log -p
stderr "is named" "Failed to read CBT metadata from file short.log
."
both cp b.log cut.log
both truncate -s 60 cut.log
says "a bitmap that is too short" 5 . cbt-util get -n cut.log -b
only_ours "it is not written to" 5 . cbt-util coalesce -p cut.log -c b.log
only_ours "or grown" 5 . cbt-util set -n cut.log -s 900000000
is "the size stays" "$(cbt-util get -n cut.log -s)" 300000000
before=$(sha256sum a.log)
only_ours "a uuid that is none" 22 . cbt-util set -n a.log -p nonsense
stderr "is named" "Invalid UUID nonsense
."
is "nothing was changed" "$(sha256sum a.log)" "$before"
only_ours "a folder that is not there" 2 . cbt-util create -n no/where.log -s 1000
cbt-util get -n a.log -p -c >../out
is "two fields at once: exit code" $? 22
cbt-util create -n x.log -s 12x >../out
is "a size that is none: exit code" $? 22
done_testing
