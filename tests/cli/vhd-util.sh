#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-util: commands, options, texts and exit codes that its callers know
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"

# --- the program
vhd-util >../out 2>../err
is "no command: exit code" $? 0
is "no command" "$(head -1 ../out)" "usage: vhd-util COMMAND [OPTIONS]"
like "the commands" "$(sed -n 2p ../out)" '^COMMAND := \{ create \| snapshot \| .* \}$'
vhd-util nope >../out 2>../err
is "a wrong command: exit code" $? 0
is "is named" "$(cat ../err)" "invalid COMMAND nope"
is "and the usage follows" "$(head -1 ../out)" "usage: vhd-util COMMAND [OPTIONS]"
for cmd in $(vhd-util --list-commands); do
	[ "$cmd" = key ] && continue
	vhd-util "$cmd" >../out 2>../err
	is "$cmd without options: exit code" $? 22
	like "$cmd without options" "$(cat ../out)" '^options: .*\[-h\]'
	vhd-util "$cmd" -h >../out 2>../err
	rc=$?
	case $cmd in
	snapshot | query | scan | check) is "$cmd -h: exit code" $rc 0 ;;
	*) is "$cmd -h: exit code" $rc 22 ;;
	esac
	vhd-util "$cmd" -Q >../out 2>../err
	is "$cmd with a wrong option: exit code" $? 22
	is "is named" "$(cat ../err)" "$cmd: invalid option -- 'Q'"
done

# --- create
says "create" 0 . vhd-util create -n a.vhd -s 10
is "length" "$(stat -c %s a.vhd)" 3584
says "an odd size is rounded up to whole blocks" 0 . vhd-util create -n odd.vhd -s 3
says "it is" 0 "4
." vhd-util query -n odd.vhd -v
says "with room to grow" 0 . vhd-util create -n room.vhd -s 10 -S 100
says "room" 0 "10
100
." vhd-util query -n room.vhd -v -S
says "less room than the disk" 22 "Error: <-S size> must be greater than <-s size>
." vhd-util create -n bad.vhd -s 10 -S 4
says "fixed" 0 . vhd-util create -n f.vhd -s 4 -r
is "fixed: length" "$(stat -c %s f.vhd)" $((4 * 1048576 + 512))
says "where nothing can be made" 2 . vhd-util create -n no/where.vhd -s 10
stderr "is said" "no/where.vhd: failed to create: -2
."
says "--debug is no option" 0 . vhd-util create --debug -n dbg.vhd -s 10

# --- headers
dump() { # type, name of the parent
	cat <<EOF
VHD Footer Summary:
-------------------
Cookie              : conectix
Features            : (0x00000002) <RESV>
File format version : Major: 1, Minor: 0
Data offset         : 512
Timestamp           : TIME
Creator Application : 'tap'
Creator version     : Major: 1, Minor: 3
Creator OS          : Unknown!
Original disk size  : 10 MB (10485760 Bytes)
Current disk size   : 10 MB (10485760 Bytes)
Geometry            : Cyl: 301, Hds: 4, Sctrs: 17
                    : = 9 MB (10479616 Bytes)
Disk type           : $1 hard disk
Checksum            : SUM (Good!)
UUID                : UUID
Saved state         : No
Hidden              : 0

VHD Header Summary:
-------------------
Cookie              : cxsparse
Data offset (unusd) : 18446744073709551615
Table offset        : 1536
Header version      : 0x00010000
Max BAT size        : 5
Block size          : 2097152 (2 MB)
Parent name         : $2
Parent UUID         : UUID
Parent timestamp    : $3
Checksum            : SUM (Good!)

EOF
	[ -z "$2" ] || echo "VHD Parent Locators:
--------------------"
	for i in ${2:+0:MACX:3072 1:W2KU:3584 2:W2RU:4096}; do
		IFS=: read -r n code off <<<"$i"
		cat <<EOF
locator:            : $n
       code         : PLAT_CODE_$code
       data_space   : 512
       data_length  : 14
       data_offset  : $off
       decoded name : ./$2

EOF
	done
	cat <<EOF
VHD Batmap Summary:
-------------------
Batmap offset       : 2560
Batmap size (secs)  : 1
Batmap version      : 0x00010002
Checksum            : SUM (Good!)

.
EOF
}
says "read -p" 0 "$(dump Dynamic '' 'Sat Jan  1 00:00:00 2000')" vhd-util read -n a.vhd -p

# --- snapshot
says "snapshot of an empty disk" 0 . vhd-util snapshot -n b.vhd -p a.vhd
says "read -p" 0 "$(dump Differencing a.vhd TIME)" vhd-util read -p -n b.vhd
says "query, in the fixed order" 0 "10
5120
DIR/a.vhd
hidden: 0
marker: 0
chain depth: 2
0
10
." vhd-util query -n b.vhd -S -a -d -m -f -p -s -v
says "as stored" 0 "./a.vhd
." vhd-util query -n b.vhd -p -u
says "an empty snapshot is passed over" 0 . vhd-util snapshot -n c.vhd -p b.vhd
says "so its child has the same parent" 0 "DIR/a.vhd
chain depth: 2
." vhd-util query -n c.vhd -p -d
says "unless -e" 0 . vhd-util snapshot -n d.vhd -p b.vhd -e
says "then not" 0 "DIR/b.vhd
chain depth: 3
." vhd-util query -n d.vhd -pd
says "-l" 28 "snapshot depth exceeded: current depth: 3, limit: 3
." vhd-util snapshot -n x.vhd -p d.vhd -l 3 -e
says "-l is met" 0 . vhd-util snapshot -n e.vhd -p d.vhd -l 4 -e
both mkdir sub
says "in another folder" 0 . vhd-util snapshot -n sub/f.vhd -p a.vhd
says "relative" 0 "../a.vhd
." vhd-util query -n sub/f.vhd -pu
says "resolved" 0 "DIR/a.vhd
." vhd-util query -n sub/f.vhd -p
both truncate -s 6M raw.img
both ln -s sub/f.vhd link.vhd
says "through a link: relative to where it is" 0 "DIR/a.vhd
chain depth: 2
." vhd-util query -n link.vhd -pd
says "of a raw disk" 0 . vhd-util snapshot -n r.vhd -p raw.img -m
says "has its size" 0 "6
DIR/raw.img
chain depth: 2
." vhd-util query -n r.vhd -vpd
says "of nothing" 2 . vhd-util snapshot -n x.vhd -p none.vhd
says "no parent" 0 "a.vhd has no parent
." vhd-util query -n a.vhd -p
both rm -f c.vhd
both cp b.vhd lost.vhd
both vhd-util create -n gone.vhd -s 10
both vhd-util snapshot -n orphan.vhd -p gone.vhd -e
both rm gone.vhd
says "a parent that is missing" 2 "query failed
." vhd-util query -n orphan.vhd -p
says "and for the depth" 2 "error checking chain depth: -2
." vhd-util query -n orphan.vhd -d

# --- query, set, repair
says "a file that is missing" 2 "error opening none.vhd: -2
." vhd-util query -n none.vhd -v
both truncate -s 1M zero.vhd
says "one that is none" 22 "error opening zero.vhd: -22
." vhd-util query -n zero.vhd -v
says "fixed" 22 "4
4194816
f.vhd has no parent
hidden: 0
marker: 0
chain depth: 1
error reading bat: -22
0
." vhd-util query -n f.vhd -vspfmdaS
says "set hidden" 0 . vhd-util set -n a.vhd -f hidden -v 1
says "set marker" 0 . vhd-util set -n a.vhd -f marker -v 7
says "they are" 0 "hidden: 1
marker: 7
." vhd-util query -n a.vhd -f -m
only_ours "-b: by the copy" 0 "hidden: 1
." vhd-util query -n a.vhd -f -b
for v in -1 256; do
	vhd-util set -n a.vhd -f hidden -v $v >../out
	is "value $v: exit code" $? 22
	is "value $v" "$(head -1 ../out)" "invalid value $v"
done
says "of a file that is missing" 2 "error opening none.vhd: -2
." vhd-util set -n none.vhd -f hidden -v 1
both truncate -s -512 a.vhd
says "the trailer is lost: the copy counts" 0 "hidden: 1
." vhd-util query -n a.vhd -f
says "repair" 0 . vhd-util repair -n a.vhd
is "both footers" "$(tail -c 512 a.vhd | sha256sum)" "$(head -c 512 a.vhd | sha256sum)"
is "length" "$(stat -c %s a.vhd)" 3584
says "repair of nothing" 2 "error opening none.vhd: -2
." vhd-util repair -n none.vhd
both dd if=/dev/zero of=a.vhd bs=512 count=1 conv=notrunc status=none
says "the copy is lost" 0 "hidden: 1
." vhd-util query -n a.vhd -f
says "repair from the trailer" 0 . vhd-util repair -n a.vhd
is "both footers again" "$(tail -c 512 a.vhd | sha256sum)" "$(head -c 512 a.vhd | sha256sum)"
says "sound" 0 "a.vhd is valid
." vhd-util check -n a.vhd
done_testing
