#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-util: what is in the blocks - read, check, fill, coalesce, modify
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"
patch() { "$OURS/examples/patch" "$@" >/dev/null; }
[ -x "$OURS/examples/patch" ] || { skip "vhd-util-data.sh" "this build has no examples (sanitizers)"; done_testing; }

# a disk of 10 MiB with data in blocks 1 and 3, its child with 4 KiB at 5 MiB and 12 KiB at 7 MiB
truncate -s 10M base.raw
head -c 2M /dev/urandom | dd of=base.raw bs=1M seek=2 conv=notrunc status=none
head -c 8K /dev/urandom | dd of=base.raw bs=4K seek=1600 conv=notrunc status=none
cp base.raw child.raw
head -c 4K /dev/urandom | dd of=child.raw bs=1M seek=5 conv=notrunc status=none
head -c 12K /dev/urandom | dd of=child.raw bs=1M seek=7 conv=notrunc status=none
vhd-util create -n base.vhd -s 10
works "data of the base" patch base.vhd base.raw
vhd-util snapshot -n child.vhd -p base.vhd
works "data of the child" patch child.vhd child.raw
cp -- * ../peer/

# --- read
says "places" 0 "logical sector 4095: block number: 0, sector offset: 4095, file offset: not allocated
logical sector 4096: block number: 1, sector offset: 0, file offset: 4096
." vhd-util read -n base.vhd -t 4095 -c 2
says "table" 0 "block: 0: offset: not allocated
block: 1: offset: 3584
block: 2: offset: not allocated
." vhd-util read -n base.vhd -b 0 -c 3
says "in hex" 0 "block: 0x1: offset: 0xe00
." vhd-util read -n base.vhd -b 1 -x
says "past the table" 34 . vhd-util read -n base.vhd -b 5
stderr "is said" "block 6 past end of file
."
says "past the disk" 34 . vhd-util read -n base.vhd -t 20480
stderr "is said" "sector 20481 past end of file
."
says "one sector" 0 "block 2: sec: 2048: 1
." vhd-util read -n child.vhd -i 10240
says "its neighbour" 0 "block 2: sec: 2047: 0
block 2: sec: 2048: 1
." vhd-util read -n child.vhd -i 10239 -c 2
says "past the disk, on stdout" 34 "sector 20480 past end of file
." vhd-util read -n child.vhd -i 20480
says "runs" 0 "10240 8
14336 24
." vhd-util read -n child.vhd -e 0 -c 20480
says "the order is fixed" 0 "block: 0: offset: not allocated
block 0: sec: 0: 0
." vhd-util read -n child.vhd -i 0 -b 0
for opt in "-B" "-m 1" "-a" "-d 1" "-r 4096 -c 8" "-R 2097153 -c 1000" "-r 14330 -c 100" "-m 0" "-d 0"; do
	# shellcheck disable=SC2086
	vhd-util read -n child.vhd $opt >../one
	is "read $opt: exit code" $? 0
	[ -z "$PEER" ] || [[ $opt == -R* ]] || {	# blktap reads whole sectors only
		# shellcheck disable=SC2086
		(cd ../peer && "$PEER/vhd-util" read -n child.vhd $opt) >../two
		works "read $opt: the peer's bytes" cmp ../one ../two
	}
done
vhd-util read -n child.vhd -r 0 -c 20480 >../one
works "the whole disk, through the chain" cmp ../one child.raw
is "the table as bits" "$(vhd-util read -n child.vhd -B | xxd -p)" 30
is "the batmap of a base with a full block" "$(vhd-util read -n base.vhd -a | head -c 1 | xxd -p)" 40
vhd-util read -n base.vhd -j 1 2>../err
is "a batmap bit is on stderr" "$(cat ../err)" "batmap for block 1: 1"
says "bytes past the disk" 34 . vhd-util read -n base.vhd -R 10485760
says "a file that is missing" 2 "Failed to open none.vhd: -2

none.vhd appears invalid; dumping headers

." vhd-util read -n none.vhd -p
only_ours "a fixed disk has headers too" 0 "$(vhd-util create -n fixed.vhd -s 2 -r; vhd-util read -n fixed.vhd -p | plain; echo .)" \
	vhd-util read -n fixed.vhd -p
like "which say so" "$(vhd-util read -n fixed.vhd -p)" 'Disk type           : Fixed hard disk'

# --- check
says "sound" 0 "child.vhd is valid
." vhd-util check -n child.vhd
says "with its parents" 0 "child.vhd is valid
DIR/base.vhd is valid
." vhd-util check -n child.vhd -p
says "and the data" 0 "child.vhd is valid
." vhd-util check -n child.vhd -b
says "counted" 0 "child.vhd: secs allocated: 0x2000 secs written: 0x20 (0.39%)
." vhd-util check -n child.vhd -s
says "counted along the chain" 0 "base.vhd: secs allocated: 0x2000 secs written: 0x1010 (50.20%)
child.vhd: secs allocated: 0x2000 secs written: 0x20 (0.39%) secs not in parent: 0x20 (100.00%) secs not in ancestors: 0x20 (100.00%)
." vhd-util check -n child.vhd -s -p
vhd-util check -n child.vhd -B -s >../out
is "-B with -s: exit code" $? 22
says "a file that is missing" 2 "cannot stat none.vhd: 2
." vhd-util check -n none.vhd

put() { # file, offset, bytes
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# The sum of a footer or header in a file, made right again.
resum() { # file, offset, length, offset of the sum
	python3 - "$@" <<'EOF'
import struct, sys
name, off, length, at = sys.argv[1], *map(int, sys.argv[2:])
with open(name, 'r+b') as f:
    f.seek(off)
    b = bytearray(f.read(length))
    b[at:at + 4] = bytes(4)
    b[at:at + 4] = struct.pack('>I', ~sum(b) & 0xffffffff)
    f.seek(off)
    f.write(b)
EOF
}
size=$(stat -c %s child.vhd)
broken() { # what, reason, options of check, command that breaks x.vhd
	local what=$1 reason=$2 opts=$3 before
	shift 3
	cp child.vhd x.vhd
	"$@"
	before=$(sha256sum x.vhd)
	# shellcheck disable=SC2086
	vhd-util check -n x.vhd $opts >../out 2>../err
	is "$what: exit code" $? 22
	is "$what" "$(head -1 ../out)" "$reason"
	like "$what: headers follow" "$(cat ../out)" '^x.vhd appears invalid; dumping metadata$'
	is "$what: nothing is changed" "$(sha256sum x.vhd)" "$before"
	[ -z "$PEER" ] || [ -n "${OWN:-}" ] || {
		cp x.vhd ../peer/
		# shellcheck disable=SC2086
		is "blktap: $what" "$(cd ../peer && "$PEER/vhd-util" check -n x.vhd $opts 2>&1 | head -1)" "$reason"
	}
}
footers() { # offset in it, bytes: changes both footers
	put x.vhd "$1" "$2"
	put x.vhd $((size - 512 + $1)) "$2"
	resum x.vhd 0 512 64
	resum x.vhd $((size - 512)) 512 64
}
header() {
	put x.vhd $((512 + $1)) "$2"
	resum x.vhd 512 1024 36
}
broken "no trailer" "primary footer invalid: invalid cookie" "" put x.vhd $((size - 512)) XX
broken "a sum" "primary footer invalid: invalid checksum" "" put x.vhd $((size - 500)) X
broken "reserved feature" "primary footer invalid: invalid 'reserved' feature" "" footers 8 '\0\0\0\0'
broken "other features" "primary footer invalid: invalid extra features" "" footers 8 '\0\0\0\7'
broken "version" "primary footer invalid: invalid file format version" "" footers 13 '\7'
broken "the future" "primary footer invalid: creation time in future" "" footers 24 '\377\377'
broken "creator version" "primary footer invalid: unsupported tap creator version" "" footers 32 '\0\7'
broken "geometry" "primary footer invalid: geometry too large" "" footers 56 '\7'
broken "saved state" "primary footer invalid: invalid 'saved' state" "" footers 84 '\2'
broken "hidden state" "primary footer invalid: invalid 'hidden' state" "" footers 85 '\2'
broken "reserved bits" "primary footer invalid: invalid 'reserved' bits" "" footers 300 '\2'
broken "no uuid" "primary footer invalid: invalid (NULL) uuid" "" footers 68 '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
broken "the copy" "backup footer invalid: invalid cookie" "" put x.vhd 0 XX
different() { put x.vhd 85 '\1'; resum x.vhd 0 512 64; }
broken "two footers" "primary and backup footers do not match" "" different
broken "header's sum" "header is invalid: invalid checksum" "" put x.vhd 600 X
broken "header's cookie" "header is invalid: invalid cookie" "" put x.vhd 512 X
broken "header's version" "header is invalid: invalid header version" "" header 24 '\7'
broken "header's data offset" "header is invalid: invalid data offset" "" header 8 '\7'
broken "table offset" "header is invalid: invalid table offset" "" header 16 '\7'
broken "block size" "header is invalid: invalid block size" "" header 32 '\0\41'
broken "reserved bits of the header" "header is invalid: invalid reserved bits" "" header 1000 '\7'
broken "parent's time" "differencing header is invalid: parent creation time in future" "" header 56 '\377'
broken "a block in the headers" "block 2 (offset 0x3) clobbers headers" "" put x.vhd $((1536 + 8)) '\0\0\0\3'
broken "a block beyond the end" "block 2 (offset 0xffff) clobbers footer" "" put x.vhd $((1536 + 8)) '\0\0\377\377'
overlapping() { dd if=x.vhd of=x.vhd bs=1 skip=$((1536 + 12)) seek=$((1536 + 4)) count=4 conv=notrunc status=none; }
at=$(printf '0x%x' $(($(vhd-util read -n child.vhd -b 3 | sed 's/.*offset: //') / 512)))
broken "blocks in one place" "block 1 (offset $at) clobbers block 3 (offset $at)" "" overlapping
OWN=1 broken "batmap's sum" "batmap is invalid: invalid checksum" "" put x.vhd 2560 '\1'
OWN=1 broken "batmap's cookie" "batmap is invalid: invalid cookie" "" put x.vhd 2048 X
OWN=1 broken "batmap's version" "batmap is invalid: unsupported batmap version" "" put x.vhd 2068 '\7'
OWN=1 broken "batmap's size" "batmap is invalid: invalid size zero" "" put x.vhd $((2048 + 19)) '\0'
OWN=1 broken "batmap's place" "batmap is invalid: invalid batmap offset" "" put x.vhd $((2048 + 15)) '\7'
full() { put x.vhd 2560 '\200'; put x.vhd $((2048 + 24)) '\377\377\377\177'; }
broken "a full block that is not there" "batmap shows unallocated block 0 full" "" full
data=$(($(vhd-util read -n child.vhd -b 2 | sed 's/.*offset: //') + 512))
OWN=1 broken "data without a bit" "sector 0x5 of block 0x2 has data where bitmap is clear" -b put x.vhd $((data + 5 * 512)) X
broken "a code twice" "duplicate platform code in locator 1: 0x4d616358" "" header 600 MacX
broken "no length" "invalid parent locator 1: invalid data length" "" header 608 '\0\0\0\0'
broken "no space" "invalid parent locator 1: invalid data space" "" header 604 '\0\0\0\0'
broken "no offset" "invalid parent locator 1: invalid data offset" "" header 622 '\0\0'
broken "reserved bits of a locator" "invalid parent locator 1: invalid reserved bits" "" header 612 X
broken "a locator that is none" "invalid parent locator 5: non-zero locator" "" header $((576 + 5 * 24 + 8)) X
broken "another name" "parent locator 0 name (base.vhd) does not match header name (Xase.vhd)" "" header 65 X
uuid() { header 40 XX; }
cp child.vhd x.vhd
uuid
vhd-util check -n x.vhd >../out
is "another uuid" "$(head -1 ../out | plain)" "invalid parent DIR/base.vhd: invalid parent uuid"
only_ours "-I" 0 "x.vhd is valid
." vhd-util check -n x.vhd -I
cp child.vhd x.vhd
footers 24 '\377\377'
only_ours "-t" 0 "x.vhd is valid
." vhd-util check -n x.vhd -t
cp child.vhd x.vhd
put x.vhd $((size - 512)) XX
only_ours "-i" 0 "x.vhd is valid
." vhd-util check -n x.vhd -i
rm -f x.vhd ../peer/x.vhd
both mv base.vhd base.away
says "the parent is missing" 2 "$(vhd-util check -n child.vhd | plain; echo .)" vhd-util check -n child.vhd
is "the parent is missing" "$(vhd-util check -n child.vhd | head -1)" "error resolving ./base.vhd: -2"
both mv base.away base.vhd
rm -f x.vhd

# --- fill, coalesce, modify
both cp base.vhd fill.vhd
says "fill" 0 . vhd-util fill -n fill.vhd
says "all blocks are there" 0 "5
." vhd-util query -n fill.vhd -a
says "sound" 0 "fill.vhd is valid
." vhd-util check -n fill.vhd -b
vhd-util read -n fill.vhd -r 0 -c 20480 >../one
works "the data are the same" cmp ../one base.raw
vhd-util create -n quick.vhd -s 10
only_ours "fill -b" 0 . vhd-util fill -n quick.vhd -b
only_ours "all blocks are there" 0 "5
." vhd-util query -n quick.vhd -a
only_ours "and the footer too" 0 "quick.vhd is valid
." vhd-util check -n quick.vhd
[ -z "$PEER" ] || is "blktap finds it sound" "$("$PEER/vhd-util" check -n quick.vhd)" "quick.vhd is valid"
vhd-util fill -n quick.vhd -f 3 >../out
is "-f without -b: exit code" $? 22
is "-f without -b" "$(head -1 ../out)" "-f/-t can only be used with -b"
vhd-util fill -n quick.vhd -b -f 30 -t 20 >../out
is "a range that is none" "$(head -1 ../out)" "invalid sector range 30-20"

says "coalesce" 0 "Coalesced 32 sectors." vhd-util coalesce -n child.vhd
vhd-util read -n base.vhd -r 0 -c 20480 >../one
works "the base reads as the child did" cmp ../one child.raw
says "the base is sound" 0 "base.vhd is valid
." vhd-util check -n base.vhd -b
vhd-util coalesce -n child.vhd -p >../out
like "progress" "$(tr '\r' '\n' <../out)" '^100\.00%$'
is "ends with the count, without a newline" "$(tail -c 20 ../out)" "Coalesced 32 sectors"
says "-s" 0 "opening for sparse writes
Coalesced 32 sectors." vhd-util coalesce -n child.vhd -s
says "of a disk without a parent" 22 "coalescing of non-differencing disks is not supported
error coalescing: -22
." vhd-util coalesce -n base.vhd
says "of nothing" 2 "error opening none.vhd: -2
error coalescing: -2
." vhd-util coalesce -n none.vhd
both cp base.raw under.raw
both vhd-util snapshot -n over.vhd -p under.raw -m
patch over.vhd child.raw
cp over.vhd ../peer/
says "into a raw parent" 0 "Coalesced 32 sectors." vhd-util coalesce -n over.vhd
works "it reads as the child did" cmp under.raw child.raw

both cp base.vhd other.vhd
both vhd-util snapshot -n moved.vhd -p base.vhd
says "modify -p" 0 . vhd-util modify -n moved.vhd -p other.vhd
says "another parent" 0 "DIR/other.vhd
." vhd-util query -n moved.vhd -p
says "sound" 0 "moved.vhd is valid
." vhd-util check -n moved.vhd
says "a raw one" 0 . vhd-util modify -n moved.vhd -p base.raw -m
says "is now" 0 "DIR/base.raw
chain depth: 2
." vhd-util query -n moved.vhd -pd
says "none that is there" 2 "failed to set parent to 'none.vhd': -2
." vhd-util modify -n moved.vhd -p none.vhd
says "of a disk that has none" 22 "failed to set parent to 'base.vhd': -22
." vhd-util modify -n other.vhd -p base.vhd
for at in BEGIN LOCATOR; do
	export VHD_UTIL_TEST_FAIL_REPARENT_$at=1
	only_ours "broken off at $at" 22 "Failing at VHD_UTIL_TEST_FAIL_REPARENT_$at
." vhd-util modify -n moved.vhd -p other.vhd
	unset VHD_UTIL_TEST_FAIL_REPARENT_$at
	is "the parent is the old one" "$(vhd-util query -n moved.vhd -pu)" ./base.raw
done
size=$(stat -c %s other.vhd)
says "modify -s" 0 . vhd-util modify -n other.vhd -s $((size + 1048576))
is "longer" "$(stat -c %s other.vhd)" $((size + 1048576))
says "its footer is there" 0 "10
." vhd-util query -n other.vhd -v
says "too short" 22 "failed to set physical size to 4096: -22
." vhd-util modify -n other.vhd -s 4096
says "modify -z" 0 . vhd-util modify -n other.vhd -z
says "no blocks" 0 "0
." vhd-util query -n other.vhd -a
says "sound" 0 "other.vhd is valid
." vhd-util check -n other.vhd
vhd-util modify -n fixed.vhd -z >../out
is "a fixed disk: exit code" $? 38
is "a fixed disk" "$(cat ../out)" "failed to zero VHD: -38"
done_testing
