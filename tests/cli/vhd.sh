#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# VHD: every verb of tapimg, damage found and mended, enciphered images; what fails changes nothing
. "$(dirname "$0")/lib.sh"

python3 - <<'END'
import random
random.seed(9)
disk = bytearray(7 << 20)
for i in range(60):
    n, off = random.choice([512, 5000, 40000, 150000]), random.randrange(6 << 20)
    disk[off:off + n] = random.randbytes(n) if i % 2 else (b'text %d ' % i * n)[:n]
open('s.raw', 'wb').write(disk)
END

# Bytes at an offset; then all checksums put right, so that what they guard is met.
hurt() { # file, offset, hex bytes, ["sums"]
	python3 - "$@" <<'END'
import struct, sys
f = open(sys.argv[1], 'r+b')
data = bytearray(f.read())
at, new = int(sys.argv[2], 0), bytes.fromhex(sys.argv[3])
at += len(data) if at < 0 else 0
data[at:at + len(new)] = new
if len(sys.argv) > 4:
    for at, n, sum_at in ((0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)):
        data[at + sum_at:at + sum_at + 4] = bytes(4)
        data[at + sum_at:at + sum_at + 4] = struct.pack('>I', ~sum(data[at:at + n]) & 0xffffffff)
f.seek(0)
f.write(data)
END
}

entry() { # file, block: its number in the table
	echo $((16#$(od -An -tx1 -j$((1536 + 4 * $2)) -N4 "$1" | tr -d ' ')))
}

same_as() { # what, image, options...
	works "$1" tapimg compare "${@:3}" s.raw "$2"
}

field() { # image, filter
	tapimg info --output=json "$1" | jq -r "$2"
}

# --- create, convert, info
for o in subformat=dynamic subformat=fixed block_size=4k block_size=512k,batmap=off force_size=off \
	subformat=fixed,preallocation=full reserve_size=1G; do
	works "convert -o $o" tapimg convert -O vpc -o $o s.raw o.vhd
	same_as "$o: the same contents" o.vhd
	works "$o: clean" tapimg check o.vhd
	works "$o: back" tapimg convert -f vpc -O raw o.vhd back.raw
	is "$o: byte for byte" "$(head -c 7M back.raw | sha256sum)" "$(sha256sum <s.raw)"
done
for name in vpc vhd; do
	works "by the name $name" tapimg create -q -f $name n.vhd 10M
	is "is called vpc" "$(field n.vhd .format)" vpc
done
works "a size that no geometry has" tapimg create -q -f vpc -o force_size=off n.vhd 10000001
is "is rounded up to one that has" "$(field n.vhd '."virtual-size"')" $((288 * 17 * 4 * 512))
works "fixed" tapimg create -q -f vpc -o subformat=fixed f.vhd 4M
is "is recognised as what it is" "$(field f.vhd '.format + " " + ."format-specific".data.subformat')" "vpc fixed"
is "is as long as disk and footer" "$(stat -c %s f.vhd)" $((4194304 + 512))
exits "a block that is no power of two" 1 "block size" tapimg create -f vpc -o block_size=3M x.vhd 10M
exits "too large a disk" 1 "2040 GiB" tapimg create -f vpc x.vhd 3T
exits "a subformat nobody knows" 1 "subformat" tapimg create -f vpc -o subformat=x x.vhd 3M
exits "a fixed child" 1 "fixed" tapimg create -f vpc -o subformat=fixed -b o.vhd -F vpc x.vhd
is "nothing is left of them" "$(ls x.vhd 2>/dev/null)" ""

tapimg convert -O vpc s.raw base.vhd
works "a child" tapimg create -q -f vpc -b base.vhd -F vpc top.vhd
works "of the child" tapimg create -q -f vpc -b top.vhd -F vpc leaf.vhd
same_as "the chain reads the same" leaf.vhd
info=$(tapimg info leaf.vhd)
for what in 'file format: vpc' 'virtual size: 7 MiB \(7340032 bytes\)' 'backing file: \./top.vhd' \
	'subformat: differencing' 'creator: tap' 'geometry: [0-9]+/[0-9]+/[0-9]+' 'block size: 2097152' \
	"parent uuid: $(field top.vhd '."format-specific".data.uuid')"; do
	like "info says $what" "$info" "$what"
done
is "info: all layers" "$(tapimg info --backing-chain --output=json leaf.vhd | jq -c '[.[].filename]')" \
	'["leaf.vhd","./top.vhd","././base.vhd"]'
is "info: locators" "$(field leaf.vhd '."format-specific".data | to_entries | map(select(.key | startswith("locator"))) |
	map(.key + "=" + .value) | join(" ")')" \
	"locator-0-MACX=./top.vhd locator-1-W2KU=./top.vhd locator-2-W2RU=./top.vhd"

# --- map, measure
tapimg create -q -f vpc -o block_size=64k m.vhd 256k
printf 'x%.0s' $(seq 4096) >x.bin
"$(dirname "$TAPIMG")/examples/patch" m.vhd x.bin >/dev/null 2>&1 && {
	at=$(($(entry m.vhd 0) * 512 + 512))
	is "map" "$(tapimg map --output=json m.vhd | jq -c '[.[] | [.start, .length, .data, .offset]]')" \
		"[[0,4096,true,$at],[4096,258048,false,null]]"
	is "data begin at 4096 bytes" $((at % 4096)) 0
}
for o in subformat=dynamic subformat=fixed block_size=64k; do
	tapimg convert -O vpc -S 0 -o $o s.raw o.vhd
	want=$(tapimg measure -O vpc -o $o --output=json o.vhd | jq .required)
	is "measure -o $o" "$want" "$(stat -c %s o.vhd)"
done

# --- resize
cp base.vhd r.vhd
cp s.raw r.raw
for size in 3000M 9M 2M; do
	works "to $size" tapimg resize -q --shrink r.vhd $size
	truncate -s $size r.raw
	works "the same contents" tapimg compare -f raw r.raw r.vhd
	works "clean" tapimg check r.vhd
done
refuses "smaller without a word" base.vhd "shrink" tapimg resize base.vhd 1M
refuses "larger than a VHD can be" base.vhd "2040 GiB" tapimg resize base.vhd 3T
cp f.vhd f2.vhd
works "a fixed one" tapimg resize -q f2.vhd 6M
is "stays one" "$(stat -c %s f2.vhd) $(field f2.vhd '."format-specific".data.subformat')" "6291968 fixed"

# --- rebase, commit
cp leaf.vhd re.vhd
works "rebase onto the base" tapimg rebase -f vpc -b base.vhd -F vpc re.vhd
is "is its parent" "$(field re.vhd '."backing-filename"')" ./base.vhd
same_as "the same contents" re.vhd
works "rebase onto nothing" tapimg rebase -f vpc -b "" re.vhd
is "stands alone" "$(field re.vhd '."backing-filename"')" null
same_as "the same contents" re.vhd
works "clean" tapimg check re.vhd
refuses "a parent that is not there" leaf.vhd "none.vhd" tapimg rebase -f vpc -b none.vhd -F vpc leaf.vhd
printf 'changed' | dd of=s.raw bs=1 seek=3000000 conv=notrunc status=none
works "into the leaf" tapimg convert -n -O vpc s.raw leaf.vhd
works "commit one layer" tapimg commit -q -d leaf.vhd
same_as "reads through it" leaf.vhd
same_as "and without it" top.vhd
works "commit to the base" tapimg commit -q -d -b base.vhd leaf.vhd
same_as "the base has it" base.vhd
works "clean" tapimg check base.vhd

# --- a parent that is another one
cp base.vhd keep.vhd
tapimg create -q -f vpc base.vhd 7M
exits "another parent of the same name" 1 "UUID" tapimg map top.vhd
refuses "is not written over" top.vhd "UUID" tapimg resize top.vhd 9M
mv keep.vhd base.vhd
works "the right one is taken" tapimg check top.vhd

# --- damage: told by name, changed by nothing but -r, mended by that
mended() { # what, pattern, [-r what]
	exits "$1: check" "${4:-2}" "$2" tapimg check d.vhd
	before=$(sha256sum d.vhd)
	tapimg check d.vhd >/dev/null 2>&1
	tapimg info d.vhd >/dev/null 2>&1
	tapimg map d.vhd >/dev/null 2>&1
	is "$1: looking at it changes nothing" "$(sha256sum d.vhd)" "$before"
	exits "$1: repair" 0 "" tapimg check -r "${3:-all}" d.vhd
	works "$1: clean" tapimg check d.vhd
}
fresh() {
	cp base.vhd d.vhd
}
size=$(stat -c %s base.vhd)
fresh; hurt d.vhd -512 00
mended "no footer at the end" "no footer at the end" leaks 3
same_as "nothing is lost" d.vhd
is "it is there again" "$(tail -c 512 d.vhd | sha256sum)" "$(head -c 512 d.vhd | sha256sum)"
fresh; hurt d.vhd 0 00
mended "no copy at the beginning" "copy of the footer at 0 is damaged"
same_as "nothing is lost" d.vhd
fresh; hurt d.vhd -427 01 sums
mended "footers that differ" "primary and backup footers do not match" leaks 3
fresh; hurt d.vhd 2560 ff
mended "the batmap's sum" "batmap is invalid: invalid checksum" leaks 3
same_as "nothing is lost" d.vhd
fresh; hurt d.vhd 2056 0000000000000200
exits "a batmap over the header: check" 3 "batmap is invalid" tapimg check d.vhd
works "a batmap over the header: written to" tapimg convert -n -O vpc s.raw d.vhd
same_as "it is not used" d.vhd
fresh; hurt d.vhd 1540 "$(printf %08x "$(entry d.vhd 0)")"
mended "two blocks in one place" "clobbers block"
fresh; hurt d.vhd 1540 00000002
mended "a block in the headers" "the block lies over the header"
fresh; hurt d.vhd 1540 7fffffff
mended "a block far away" "beyond the end"
fresh; truncate -s $((size - 1000000)) d.vhd
mended "a lost tail" "has lost"
fresh; head -c 5000 /dev/zero >>d.vhd
mended "bytes behind the end" "not in use|no footer" leaks 3

# --- what nobody can read is refused by name, by all verbs, and stays as it is
unreadable() { # what, pattern, offset, bytes
	fresh
	hurt d.vhd "$3" "$4" sums
	for verb in "info d.vhd" "check -f vpc -r all d.vhd" "resize -f vpc d.vhd 8M" "map -f vpc d.vhd" \
		"convert -f vpc -O raw d.vhd x.raw" "compare -f vpc -F raw d.vhd s.raw" "commit -f vpc d.vhd" \
		"rebase -u -f vpc -b base.vhd -F vpc d.vhd"; do
		before=$(sha256sum d.vhd base.vhd s.raw)
		# shellcheck disable=SC2086
		tapimg $verb >out 2>err && fail "$1: ${verb%% *} takes it"
		like "$1: ${verb%% *}" "$(cat out err)" "d\.vhd.*$2"
		is "$1: ${verb%% *} changes nothing" "$(sha256sum d.vhd base.vhd s.raw)" "$before"
	done
	is "$1: no target is left" "$(ls x.raw 2>/dev/null)" ""
}
unreadable "header's cookie" "header is invalid: invalid cookie" 512 00
unreadable "header's version" "header is invalid: invalid header version" 536 00020000
unreadable "table in the header" "header is invalid: invalid table offset" 528 0000000000000200
unreadable "block size" "header is invalid: invalid block size" 544 00300000
unreadable "too small a table" "VHD size .* exceeds BAT size" 540 00000001
unreadable "a table beyond the end" "not inside the file" 540 7fffffff

# --- enciphered
python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(64)))' >k.key
head -c 32 k.key >short.key
for key in k.key short.key; do
	secret=(--object "secret,id=s,file=$key")
	works "$key: convert" tapimg convert "${secret[@]}" -O vpc -o encrypt.key-secret=s s.raw e.vhd
	is "$key: says so" "$(field e.vhd .encrypted)" true
	works "$key: clean" tapimg check e.vhd
	works "$key: read back" tapimg convert "${secret[@]}" --image-opts \
		driver=vpc,file.filename=e.vhd,encrypt.key-secret=s -O raw e.raw
	works "$key: the same" cmp s.raw e.raw
	refuses "$key: without it" e.vhd "no secret was given" tapimg convert -O raw e.vhd x.raw
	printf 'another one of 32 bytes length..' >wrong.key
	refuses "$key: with another" e.vhd "the key is not the one" tapimg convert --object \
		secret,id=s,file=wrong.key --image-opts driver=vpc,file.filename=e.vhd,encrypt.key-secret=s \
		-O raw x.raw
	# each sector by itself, its number (not its place in the file) the tweak
	works "$key: AES-XTS as dm-crypt's plain" python3 - e.vhd s.raw "$key" <<'END'
import ctypes, struct, sys
vhd, raw, key = (open(n, 'rb').read() for n in sys.argv[1:])
c = ctypes.CDLL('libcrypto.so.3')
cipher = 'EVP_aes_256_xts' if len(key) == 64 else 'EVP_aes_128_xts'
for f in (cipher, 'EVP_CIPHER_CTX_new'):
    getattr(c, f).restype = ctypes.c_void_p
done = 0
for block in range(4):
    entry = struct.unpack_from('>I', vhd, 1536 + 4 * block)[0]
    here = [s for s in range(4096) if entry != 0xffffffff and vhd[entry * 512 + s // 8] >> 7 - s % 8 & 1]
    for s in here[::100]:
        n = block * 4096 + s
        ctx = ctypes.c_void_p(c.EVP_CIPHER_CTX_new())
        out, got = ctypes.create_string_buffer(512), ctypes.c_int()
        c.EVP_DecryptInit_ex(ctx, ctypes.c_void_p(getattr(c, cipher)()), None, key,
                             struct.pack('<IIII', n, 0, 0, 0))
        c.EVP_DecryptUpdate(ctx, out, ctypes.byref(got), vhd[entry * 512 + 512 + s * 512:][:512], 512)
        assert out.raw == raw[n * 512:n * 512 + 512], n
        done += 1
assert done > 20, done
END
done
done_testing
