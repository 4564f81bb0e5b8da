#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# td-util: images by type, as blktap's program of that name does it
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"

says "no command" 255 . td-util
stderr "the banner" "Tapdisk Utilities: v1.0.0
usage: td-util COMMAND [TYPE] [OPTIONS]
COMMAND := { create | snapshot | query | set }
TYPE := { vhd | aio }
."
says "a wrong command" 255 . td-util nope
like "is named" "$(cat ../err)" '^(invalid COMMAND nope|TYPE)'
says "no type" 255 . td-util create
stderr "is wanted" "td-util create requires a TYPE
TYPE := { vhd | aio }
."
says "a wrong type" 255 . td-util create qcow 10 x.vhd
stderr "is named" "invalid TYPE 'qcow'.
TYPE := { vhd | aio }
."

says "create" 0 . td-util create vhd 10 a.vhd
says "it is what vhd-util makes" 0 "a.vhd is valid
." vhd-util check -n a.vhd
says "create, fixed" 0 . td-util create vhd -r 2 f.vhd
is "length" "$(stat -c %s f.vhd)" $((2 * 1048576 + 512))
says "too few operands" 22 . td-util create vhd 10
says "a sparse raw one" 22 . td-util create aio 10 r.img
stderr "is refused" "Cannot create sparse aio image
."
only_ours "a raw one" 0 . td-util create aio -r 3 r.img
is "length" "$(stat -c %s r.img)" $((3 * 1048576))
both truncate -s 3M r.img
both mkdir sub
says "snapshot" 0 . td-util snapshot vhd sub/b.vhd a.vhd
says "the parent is relative to the child" 0 "../a.vhd
." vhd-util query -n sub/b.vhd -p -u
says "of a raw one" 0 . td-util snapshot vhd -m c.vhd r.img
says "of nothing" 2 . td-util snapshot vhd x.vhd none.vhd
stderr "is named" "File none.vhd not found
."
says "too deep" 28 "snapshot depth exceeded: current depth: 1, limit: 1
." td-util snapshot vhd -l 1 x.vhd a.vhd
says "of a raw type" 22 . td-util snapshot aio x.img r.img

says "query, in the fixed order" 0 "10
DIR/a.vhd
hidden: 0
chain depth: 2
." td-util query vhd -d -f -p -v sub/b.vhd
says "no parent" 0 "a.vhd has no parent
." td-util query vhd -p a.vhd
says "nothing asked" 0 . td-util query vhd a.vhd
says "set" 0 . td-util set vhd a.vhd hidden 1
says "it is" 0 "hidden: 1
." td-util query vhd -f a.vhd
says "by the copy" 0 "hidden: 1
." td-util query vhd -f -b a.vhd
says "another field" 22 . td-util set vhd a.vhd marker 1
like "is named" "$(cat ../err)" '^(Invalid field marker|usage|FIELD)'
says "of a raw type" 22 . td-util set aio r.img hidden 1
only_ours "raw" 0 "3
r.img has no parent
hidden: 0
." td-util query aio -vpfd r.img
says "a file that is missing" 2 "failed opening none.vhd: -2
." td-util query vhd -v none.vhd
says "a raw one that is missing" 2 "failed opening none.img: 2
." td-util query aio -v none.img
for cmd in create snapshot query set; do
	td-util $cmd vhd -h >../out 2>../err
	rc=$?
	case $cmd in snapshot | query) is "$cmd -h" $rc 0 ;; *) is "$cmd -h" $rc 22 ;; esac
	like "$cmd -h: usage on stderr" "$(cat ../err)" "^usage: td-util $cmd vhd "
done
done_testing
