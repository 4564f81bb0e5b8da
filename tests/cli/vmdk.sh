#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# VMDK: every verb on every kind of it, content ids, damage found and mended, what is refused changes nothing
. "$(dirname "$0")/lib.sh"
need python3 jq

python3 - <<'PY'
import random
rng = random.Random(11)
disk = bytearray((6 << 20) + 3 * 512)
for i in range(60):
    off, n = rng.randrange(len(disk) - 200000), rng.choice([512, 5000, 40000, 150000])
    disk[off:off + n] = rng.randbytes(n) if i % 2 else (b'some text %d ' % i * n)[:n]
open('s.raw', 'wb').write(disk)
PY
size=$(stat -c %s s.raw)

poke() { # file, offset, hex bytes
	python3 - "$@" <<'PY'
import sys
with open(sys.argv[1], 'r+b') as f:
    f.seek(int(sys.argv[2], 0))
    f.write(bytes.fromhex(sys.argv[3]))
PY
}

cid() { # file: as it is in the descriptor
	grep -a -m1 '^CID=' "$1" | cut -d= -f2 | tr -d '\r\n'
}

# --- every verb on every type that is written to
for t in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat vmfs vmfsSparse; do
	rm -rf d && mkdir d
	o="subformat=$t"
	case $t in twoGb*) o="$o,extent_size=2M" ;; esac
	works "$t: convert" tapimg convert -f raw -O vmdk -o "$o" s.raw d/a.vmdk
	works "$t: compare" tapimg compare -f raw s.raw d/a.vmdk
	works "$t: check" tapimg check -q d/a.vmdk
	like "$t: info" "$(tapimg info d/a.vmdk)" "file format: vmdk
virtual size: 6 MiB \\($size bytes\\)
    create type: $t
    cid: $(cid d/a.vmdk)
    parent cid: ffffffff"
	is "$t: the id as a number in JSON" \
		"$(tapimg info --output=json d/a.vmdk | jq '."format-specific".data.cid')" "$((16#$(cid d/a.vmdk)))"
	is "$t: map covers the disk" "$(tapimg map --output=json d/a.vmdk | jq 'map(.length) | add')" "$size"
	took=$(cat d/* | wc -c)
	[[ $t != *Flat && $t != vmfs ]] || took=$(cat d/a-f* | wc -c)		# the text beside it does not count
	is "$t: measure is enough" "$(($(tapimg measure -f raw -O vmdk -o "$o" --output=json s.raw |
		jq .required) >= took))" 1
	was=$(cid d/a.vmdk)
	works "$t: write" tapimg convert -n -f raw -O vmdk s.raw d/a.vmdk
	[ "$(cid d/a.vmdk)" != "$was" ] && pass || fail "$t: a writer changes the content id" "$was"
	works "$t: grow" tapimg resize -q d/a.vmdk 9M
	cp s.raw r.raw && truncate -s 9M r.raw
	works "$t: with zeroes" tapimg compare -f raw r.raw d/a.vmdk
	works "$t: shrink" tapimg resize -q --shrink d/a.vmdk 3M
	truncate -s 3M r.raw
	works "$t: the rest stays" tapimg compare -f raw r.raw d/a.vmdk
	tapimg check -q d/a.vmdk		# space of what was cut off may stay behind
	like "$t: still sound" $? "^[03]$"
	works "$t: grow again" tapimg resize -q d/a.vmdk 9M
	truncate -s 9M r.raw
	works "$t: nothing comes back" tapimg compare -f raw r.raw d/a.vmdk
	works "$t: dd" tapimg dd -f vmdk -O vmdk bs=64k count=16 if=d/a.vmdk of=d/b.vmdk
	# a child of it
	works "$t: a child" tapimg create -q -f vmdk -b a.vmdk -F vmdk d/c.vmdk
	is "$t: knows its parent's id" "$(grep -a -m1 ^parentCID= d/c.vmdk | cut -d= -f2 | tr -d '\r')" "$(cid d/a.vmdk)"
	works "$t: an ESX delta of it" tapimg create -q -f vmdk -o subformat=vmfsSparse -b c.vmdk -F vmdk d/e.vmdk
	works "$t: reads through both" tapimg compare -f raw r.raw d/e.vmdk
	cp s.raw w.raw && truncate -s 9M w.raw
	works "$t: written on top" tapimg convert -n -f raw -O vmdk w.raw d/e.vmdk
	works "$t: the parents stay" tapimg compare -f raw r.raw d/c.vmdk
	works "$t: commit" tapimg commit -q d/e.vmdk
	works "$t: is in the parent" tapimg compare -f raw w.raw d/c.vmdk
	works "$t: whose child is right all the same" tapimg compare -f raw w.raw d/e.vmdk
	works "$t: rebase onto the grandparent" tapimg rebase -q -b a.vmdk -F vmdk d/e.vmdk
	works "$t: reads the same" tapimg compare -f raw w.raw d/e.vmdk
	works "$t: rebase onto nothing" tapimg rebase -q -b '' d/e.vmdk
	works "$t: reads the same by itself" tapimg compare -f raw w.raw d/e.vmdk
	if command -v "$QEMU_IMG" >/dev/null; then
		works "$t: qemu-img reads it" "$QEMU_IMG" compare -f raw -F vmdk r.raw d/a.vmdk
	fi
done

# --- content ids
tapimg convert -f raw -O vmdk s.raw p.vmdk
tapimg create -q -f vmdk -b p.vmdk -F vmdk c.vmdk
tapimg convert -n -f raw -O vmdk r.raw p.vmdk 2>err ||
	tapimg convert -n -f raw -O vmdk s.raw p.vmdk
exits "a parent that was changed" 1 "content id
$(cid p.vmdk)" tapimg convert -f vmdk -O raw c.vmdk x.raw
is "leaves no target" "$(ls x.raw 2>/dev/null)" ""
works "is used knowingly" tapimg compare --stale-backing -f raw s.raw c.vmdk
exits "check of the child looks at itself" 0 "" tapimg check c.vmdk
works "an unsafe rebase takes the new id" tapimg rebase -u -b p.vmdk -F vmdk c.vmdk
works "and it is right again" tapimg compare -f raw s.raw c.vmdk

# --- options of creation
works "options" tapimg create -q -f vmdk -o adapter_type=pvscsi,hwversion=13,toolsversion=12345,zeroed_grain=on o.vmdk 100M
like "are in the descriptor" "$(head -c 4096 o.vmdk | tr -d '\0')" 'ddb.adapterType = "pvscsi"
ddb.virtualHWVersion = "13"
ddb.toolsVersion = "12345"
ddb.longContentID = "[0-9a-f]{32}"
ddb.geometry.heads = "255"'
exits "no such type" 1 "subformat" tapimg create -f vmdk -o subformat=floppy x.vmdk 1M
exits "no such adapter" 1 "adapter" tapimg create -f vmdk -o adapter_type=nvram x.vmdk 1M
exits "a grain of no power of two" 1 "grain" tapimg create -f vmdk -o grain_size=3k x.vmdk 1M
exits "a disk larger than its type" 1 "too large|at most|larger" tapimg create -f vmdk x.vmdk 300T
is "nothing is left of them" "$(ls x* 2>/dev/null)" ""

# --- files beside it
cp s.raw u-flat.vmdk
works "what is copied has the name of the extent" \
	tapimg convert -f raw -O vmdk -o subformat=monolithicFlat u-flat.vmdk u.vmdk
works "and is that now" tapimg compare -f raw s.raw u.vmdk
works "a colon in the name" tapimg convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse s.raw ./old:disk.vmdk
is "is one of the extent's as well" "$(ls old*)" "old:disk-s001.vmdk
old:disk.vmdk"
works "and found again" tapimg compare -f raw s.raw ./old:disk.vmdk

# --- a disk of no size, which can grow
for t in monolithicSparse monolithicFlat twoGbMaxExtentSparse vmfsSparse; do
	works "$t: nothing" tapimg create -q -f vmdk -o "subformat=$t" z.vmdk 0
	like "$t: nothing, info" "$(tapimg info z.vmdk)" 'virtual size: 0'
	works "$t: nothing, check" tapimg check -q z.vmdk
	works "$t: nothing grows" tapimg resize -q z.vmdk "$size"
	works "$t: and is written" tapimg convert -n -f raw -O vmdk s.raw z.vmdk
	works "$t: and read" tapimg compare -f raw s.raw z.vmdk
	rm z*.vmdk
done

# --- damage: found, named, mended, and then the same contents
tapimg convert -f raw -O vmdk s.raw good.vmdk
gd=0 rgd=0 gt=0 rgt=0 at=0 next='' table=''
eval "$(python3 - <<'PY'
import struct
f = open('good.vmdk', 'rb')
h = f.read(512)
grain, = struct.unpack_from('<Q', h, 20)
rgd, gd = struct.unpack_from('<QQ', h, 48)
def entry(off):
    f.seek(off)
    return struct.unpack('<I', f.read(4))[0]
gt, rgt = entry(gd * 512), entry(rgd * 512)
k = next(i for i in range(90) if entry(gt * 512 + 4 * i) and entry(gt * 512 + 4 * i + 4))
print(f'gd={gd * 512} rgd={rgd * 512} gt={gt * 512} rgt={rgt * 512} at={4 * k}')
print('next=%08x' % struct.unpack('>I', struct.pack('<I', entry(gt * 512 + 4 * k + 4)))[0])
print('table=%08x' % struct.unpack('>I', struct.pack('<I', gt))[0])
PY
)"
damage() { # what, what check says, "same" if nothing is lost, then offset and bytes...
	local what=$1 says=$2 same=$3

	shift 3
	cp good.vmdk bad.vmdk
	while [ $# -gt 0 ]; do
		poke bad.vmdk "$1" "$2"
		shift 2
	done
	sum=$(sha256sum bad.vmdk)
	exits "$what: found" 2 "$says" tapimg check bad.vmdk
	is "$what: looking changes nothing" "$(sha256sum bad.vmdk)" "$sum"
	tapimg check -q -r all bad.vmdk >out 2>err
	is "$what: mended" $? 0
	works "$what: clean afterwards" tapimg check -q bad.vmdk
	[ "$same" != same ] || works "$what: nothing is lost" tapimg compare -f raw s.raw bad.vmdk
}
damage "the directory" "entry 0 of the grain directory is no table" same "$gd" ffffff7f
damage "the redundant directory" "entry 0 of the redundant grain directory is no table" same "$rgd" ffffff7f
damage "an empty directory" "only one of the directories" same "$gd" 00000000
damage "an entry beyond the end" "entry of offset .* sector 0x7fffff00" same $((gt + at)) 00ffff7f
damage "a redundant entry beyond the end" "redundant entry of offset .* sector 0x7fffff00" same $((rgt + at)) 00ffff7f
damage "both beyond the end" "entry of offset .* sector 0x7fffff00" lost $((gt + at)) 00ffff7f $((rgt + at)) 00ffff7f
damage "an entry in the metadata" "entry of offset" same $((gt + at)) "$table"
damage "copies that differ" "the entries of offset .* differ" lost $((rgt + at)) 00000000
damage "a grain used twice" "is used for something else as well" lost $((gt + at)) "$next" $((rgt + at)) "$next"
cp good.vmdk bad.vmdk
poke bad.vmdk 72 01
tapimg check -r all bad.vmdk >out 2>&1
is "a writer that did not close it" $? 0
is "the mark is gone" "$(od -An -tx1 -j72 -N1 bad.vmdk)" " 00"
works "nothing is lost" tapimg compare -f raw s.raw bad.vmdk

# --- headers and descriptors that cannot be: each its own words, and no change
broken() { # what, pattern, offset, bytes
	cp good.vmdk bad.vmdk
	poke bad.vmdk "$3" "$4"
	refuses "$1" bad.vmdk "$2" tapimg convert -n -f raw -O vmdk s.raw bad.vmdk
}
broken "version 9" "version 9" 4 09000000
broken "a flag nobody knows" "flag" 8 03000400
broken "a grain of 3 sectors" "grain" 20 0300000000000000
broken "tables of 100 entries" "100" 44 64000000
broken "a directory beyond the end" "directory" 56 ffffffff00000000
broken "mangled line ends" "text|line ends|newline" 73 0d0a0d0a
broken "a descriptor beyond the end" "descriptor" 28 ffffffff00000000
cp good.vmdk bad.vmdk
poke bad.vmdk 8 01000300
poke bad.vmdk 77 0700
refuses "a stream of another compression" bad.vmdk "compress" tapimg convert -f vmdk -O raw bad.vmdk x.raw
desc() { # what, pattern, lines of the descriptor...
	local what=$1 pattern=$2

	shift 2
	printf '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="custom"\n' >t.vmdk
	printf '%s\n' "$@" >>t.vmdk
	refuses "$what" t.vmdk "$pattern" tapimg convert -n -f raw -O vmdk s.raw t.vmdk
}
truncate -s 8M x-flat
desc "an extent without a file" "line 6|names no file" 'RW 100 FLAT'
desc "an access nobody knows" "line 7.*unknown access" 'RW 10 FLAT "x-flat" 0' 'WO 100 FLAT "x-flat" 0'
desc "a type nobody knows" "line 6" 'RW 100 ROUND "x-flat" 0'
desc "a size that is no number" "line 6" 'RW many FLAT "x-flat" 0'
desc "a file that is not there" "none-flat" 'RW 100 FLAT "none-flat" 0'
desc "a file too short" "x-flat" 'RW 100000000 FLAT "x-flat" 0'
desc "a name outside of the folder" "any-extent|folder" 'RW 100 FLAT "../../etc/passwd" 0'
desc "an absolute name" "any-extent|folder" 'RW 100 FLAT "/etc/passwd" 0'
desc "no extent at all" "extent" '# nothing'

# --- a disk of more extents than a process may have files open at first
python3 - <<'PY'
n = 1500
with open('many.vmdk', 'w') as f:
    f.write('# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n')
    for i in range(n):
        name = f'many-f{i:04}.vmdk'
        f.write(f'RW 1 FLAT "{name}" 0\n')
        open(name, 'wb').write(bytes([i % 251]) * 512)
open('many.raw', 'wb').write(b''.join(bytes([i % 251]) * 512 for i in range(n)))
PY
if [ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -gt 1600 ]; then
	works "many extents" bash -c "ulimit -Sn 256; '$TAPIMG' compare -f raw many.raw many.vmdk"
else
	skip "many extents" "this process may not have so many files open"
fi
exits "more than the system allows" 2 "many-f.*vmdk
no more files open" bash -c "ulimit -n 256; '$TAPIMG' compare -f raw many.raw many.vmdk"
done_testing
