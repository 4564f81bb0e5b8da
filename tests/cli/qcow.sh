#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# QCOW version 1: every verb, damage found and mended, secrets, Xen's extension old and broken
. "$(dirname "$0")/lib.sh"

secret=(--object secret,id=s,file=pass)
printf 'correct horse battery' >pass
python3 - <<'END'
import random
random.seed(7)
disk = bytearray(6 << 20)
for i in range(60):
    n, off = random.choice([512, 5000, 40000, 150000]), random.randrange(5 << 20)
    disk[off:off + n] = random.randbytes(n) if i % 2 else (b'text %d ' % i * n)[:n]
open('s.raw', 'wb').write(disk)
END

poke() { # file, offset, hex bytes
	python3 - "$@" <<'END'
import sys
f = open(sys.argv[1], 'r+b')
f.seek(int(sys.argv[2], 0))
f.write(bytes.fromhex(sys.argv[3]))
END
}

peek() { # file, offset: a big-endian number of 8 bytes, in hex
	od -An -tx1 -j$(($2)) -N8 "$1" | tr -d ' '
}

same() { # what, image, options...
	local what=$1 image=$2

	shift 2
	works "$what" tapimg compare "$@" s.raw "$image"
}

# --- options
for o in cluster_size=512 cluster_size=64k l2_entries=64 l2_entries=8192,cluster_size=1k layout=xen \
	preallocation=metadata preallocation=falloc preallocation=full,layout=xen; do
	works "convert -o $o" tapimg convert -O qcow -o $o s.raw o.qcow
	same "$o: the same contents" o.qcow
	works "$o: clean" tapimg check o.qcow
done
exits "a wrong cluster size" 1 "cluster_size" tapimg create -f qcow -o cluster_size=3k x.qcow 1M
exits "too large a cluster" 1 "65536" tapimg create -f qcow -o cluster_size=1M x.qcow 1M
exits "no size" 1 "size" tapimg create -f qcow x.qcow 0
exits "too large a disk" 1 "too large" tapimg create -f qcow -o cluster_size=512,l2_entries=64 x.qcow 1E
exits "preallocated with a backing file" 1 "backing" tapimg create -f qcow -b s.raw -F raw \
	-o preallocation=full x.qcow
exits "Xen's layout enciphered" 1 "xen" tapimg create "${secret[@]}" -f qcow \
	-o layout=xen,encrypt.format=aes,encrypt.key-secret=s x.qcow 1M
exits "a cipher nobody knows" 1 "aes" tapimg create "${secret[@]}" -f qcow \
	-o encrypt.format=luks,encrypt.key-secret=s x.qcow 1M
tapimg convert -O qcow2 s.raw two.qcow2
exits "a backing file that looks like something else" 1 "looks like qcow2, not raw" \
	tapimg create -f qcow -b two.qcow2 -F raw x.qcow
works "and one that says what it is" tapimg create -q -f qcow -F raw x.qcow \
	-b 'json:{"driver":"raw","file.filename":"two.qcow2"}'
is "no half-made image" "$(ls x.qcow)" x.qcow

# --- info, map, measure
tapimg convert -O qcow s.raw a.qcow
like "info" "$(tapimg info a.qcow)" "file format: qcow
virtual size: 6 MiB"
is "measure says how large it gets" "$(tapimg measure -O qcow --output=json a.qcow | jq .required)" \
	"$(stat -c %s a.qcow)"
is "and with Xen's layout" "$(tapimg measure -O qcow -o layout=xen --output=json a.qcow | jq .required)" \
	"$(tapimg convert -O qcow -o layout=xen a.qcow m.qcow && stat -c %s m.qcow)"
full=$(tapimg measure -O qcow --output=json --size 6M | jq '."fully-allocated"')
is "and when it is full" "$full" \
	"$(tapimg convert -S 0 -O qcow s.raw m.qcow && stat -c %s m.qcow)"
works "map" tapimg map --output=json a.qcow
is "covers the disk" "$(jq 'map(.length) | add' out)" 6291456

# --- secrets
works "enciphered" tapimg convert "${secret[@]}" -O qcow -o encrypt.format=aes,encrypt.key-secret=s s.raw e.qcow
same "is read with the secret" e.qcow "${secret[@]}"
works "by descriptor" tapimg compare --object secret,id=s,fd=5 s.raw e.qcow 5<pass
works "as base64" tapimg compare --object "secret,id=s,format=base64,data=$(base64 -w0 pass)" s.raw e.qcow
exits "not without" 2 "no secret was given" tapimg compare s.raw e.qcow </dev/null
exits "not with a secret of another name" 2 "no secret 't'" tapimg compare "${secret[@]}" --image-opts \
	driver=raw,file.filename=s.raw driver=qcow,encrypt.key-secret=t,file.filename=e.qcow
exits "which of two is not guessed" 2 "which of the secrets" tapimg compare "${secret[@]}" \
	--object secret,id=t,data=x s.raw e.qcow
exits "a wrong one reads as noise" 1 "" tapimg compare --object secret,id=s,data=no s.raw e.qcow
works "info needs none" tapimg info e.qcow
like "and tells" "$(cat out)" "encrypted: yes"
works "nor does check" tapimg check e.qcow
exits "not together with compression" 1 "." tapimg convert -c "${secret[@]}" -O qcow \
	-o encrypt.format=aes,encrypt.key-secret=s s.raw x2.qcow
is "which leaves nothing" "$(ls x2.qcow 2>/dev/null)" ""
is "nothing of the plain text is in the file" "$(grep -c 'text 0 text 0' e.qcow)" 0
if command -v "$QEMU_IMG" >/dev/null; then
	works "qemu-img reads it" "$QEMU_IMG" compare "${secret[@]}" --image-opts driver=raw,file.filename=s.raw \
		driver=qcow,encrypt.key-secret=s,file.filename=e.qcow
fi

# --- resize
cp s.raw r.raw
for o in "" layout=xen l2_entries=64,cluster_size=512; do
	tapimg convert -O qcow ${o:+-o $o} s.raw r.qcow
	works "shrink ${o:-plain}" tapimg resize -q --shrink r.qcow 3145728
	truncate -s 3M r.raw
	works "the rest is the same" tapimg compare r.raw r.qcow
	works "grow again" tapimg resize -q r.qcow 20M
	truncate -s 20M r.raw
	works "with zeroes, not with what was there" tapimg compare r.raw r.qcow
	tapimg check -q r.qcow		# what was the table before belongs to nothing now
	like "and sound" $? "^[03]$"
	cp s.raw r.raw
done
for o in metadata falloc full; do
	tapimg convert -O qcow s.raw r.qcow
	works "grow with preallocation $o" tapimg resize -q --preallocation=$o r.qcow 20M
	truncate -s 20M r.raw
	works "the same contents" tapimg compare r.raw r.qcow
	works "and sound" tapimg check -q r.qcow
	[ "$(stat -c %s r.qcow)" -ge 14680064 ] && pass || fail "all new clusters have their place" "$(stat r.qcow)"
	[ $o = metadata ] || { [ "$(stat -c %b r.qcow)" -ge 28672 ] && pass || fail "and space" "$(stat r.qcow)"; }
done
cp s.raw r.raw
exits "not to nothing" 1 "0 bytes" tapimg resize --shrink r.qcow 0

# --- backing files
works "a child" tapimg create -q -f qcow -b a.qcow -F qcow child.qcow
same "reads as its parent" child.qcow
tapimg convert -O qcow -c s.raw other.qcow
works "rebase" tapimg rebase -b other.qcow -F qcow child.qcow
same "reads the same" child.qcow
works "a longer name" tapimg rebase -u -b ./././././././././other.qcow -F qcow child.qcow
same "is found" child.qcow
works "rebase onto nothing" tapimg rebase -b '' child.qcow
same "reads the same by itself" child.qcow
works "no backing file is left" tapimg check child.qcow
works "a child to commit" tapimg create -q -f qcow -b other.qcow -F qcow top.qcow
"$TAPIMG" convert -n -O qcow s.raw top.qcow
works "commit" tapimg commit -q top.qcow
same "is in the base" other.qcow

# --- damage: each is found; what it repairs is clean, and reads the same elsewhere
damage() { # what, offset, bytes, pattern
	tapimg convert -O qcow s.raw d.qcow
	poke d.qcow "$2" "$3"
	tapimg check d.qcow >out 2>&1
	is "$1: found" $? 2
	like "$1: named" "$(cat out)" "$4"
	tapimg check -r all d.qcow >out 2>&1
	is "$1: repaired" $? 0
	works "$1: clean afterwards" tapimg check d.qcow
}
l1=48
l2=$((16#$(peek a.qcow $l1)))
damage "a table beyond the end" $l1 0000000100000000 "L2 table of offset 0x0.*beyond the end"
damage "a crooked table" $l1 0000000000001003 "not aligned"
damage "a table in the header" $((l1 + 8)) 0000000000000010 "L2 table.*"
damage "a cluster beyond the end" $l2 0000000100000000 "cluster of offset 0x0.*beyond the end"
damage "a table twice" $((l1 + 8)) "$(peek a.qcow $l1)" "shares its space with another table"
damage "a cluster in a table" $l2 "$(peek a.qcow $l1)" "shares its space"
# two neighbours that both have data
read -r first second < <(python3 - "$l2" <<'END'
import struct, sys
f = open('a.qcow', 'rb')
f.seek(int(sys.argv[1]))
table = struct.unpack('>512Q', f.read(4096))
i = next(i for i in range(511) if table[i] and table[i + 1])
print(i, '%016x' % table[i + 1])
END
)
damage "a cluster twice" $((l2 + 8 * first)) "$second" "shares its space"
cluster() {
	tapimg dd if=d.qcow of=one.raw bs=4096 count=1 skip="$1" >dd.out && sha256sum <one.raw
}
is "both have a copy" "$(cluster "$first")" "$(cluster $((first + 1)))"
exits "a damaged image is not read as zeroes" 1 "beyond the end" bash -c "
	'$TAPIMG' convert -O qcow s.raw d.qcow && printf '\\0\\0\\0\\1\\0\\0\\0\\0' |
		dd of=d.qcow bs=1 seek=$l1 conv=notrunc status=none && '$TAPIMG' convert -O raw d.qcow d.raw"

# --- leaks
tapimg convert -O qcow s.raw k.qcow
truncate -s +0 k.qcow
head -c 300000 /dev/urandom >>k.qcow
tapimg check k.qcow >out 2>&1
is "leaked space is found" $? 3
tapimg check -r leaks k.qcow >out 2>&1
is "and given back" $? 0
works "all of it" tapimg check k.qcow
is "at the end by a shorter file" "$(stat -c %s k.qcow)" "$(stat -c %s a.qcow)"

# --- headers that cannot be
header() { # what, offset, bytes
	cp a.qcow h.qcow
	poke h.qcow "$2" "$3"
	exits "$1" 1 "." tapimg map h.qcow
}
header "cluster bits 8" 32 08
header "cluster bits 17" 32 11
header "L2 bits 5" 33 05
header "L2 bits 255" 33 ff
header "a size of 0" 24 0000000000000000
header "a size beyond all" 24 ffffffffffffffff
header "a cipher" 36 00000002
header "a table beyond the end" 40 0000000000ffffff
header "a crooked table" 40 0000000000000031
header "a name beyond the end" 8 00000000ffffff0000000010
header "a name too long" 8 000000000000100000000fff

# --- Xen's extension
tapimg convert -O qcow -o layout=xen s.raw x.qcow
sum() { # whether the checksum fits
	tapimg check x.qcow 2>&1 | grep -c "checksum"
}
is "the checksum fits" "$(sum)" 0
"$TAPIMG" convert -n -O qcow r.raw x.qcow
is "after writing, too" "$(sum)" 0
tapimg resize -q x.qcow 40M
is "after growing, too" "$(sum)" 0
tapimg resize -q --shrink x.qcow 6M
is "after shrinking, too" "$(sum)" 0
cp x.qcow be.qcow
# an old image: the table in little-endian order, not marked, the checksum of the big-endian one
python3 - <<'END'
f = open('x.qcow', 'r+b')
f.seek(63)
f.write(b'\1')
f.seek(40)
l1 = int.from_bytes(f.read(8), 'big')
f.seek(l1)
t = f.read(24)
f.seek(l1)
f.write(b''.join(t[i:i + 8][::-1] for i in range(0, 24, 8)))
END
same "a little-endian table" x.qcow
like "is told" "$(tapimg info x.qcow)" "xen l1 order: little-endian"
tapimg check -q x.qcow
like "and sound" $? "^[03]$"
is "with its checksum" "$(sum)" 0
works "can be emptied and filled" tapimg convert -n -O qcow s.raw x.qcow
same "and reads right" x.qcow
poke be.qcow 52 00000000
like "a wrong checksum" "$(tapimg check be.qcow 2>&1)" "checksum of the L1 table does not fit"
same "does not matter to a reader" be.qcow

# a person is asked twice for a new passphrase, and not again for the image that is being made
cat >ask.py <<'END'
import os, pty, sys
answers, asked, pid_fd = sys.argv[1].split(','), 0, pty.fork()
pid, fd = pid_fd
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
text = b''
while True:
    try:
        got = os.read(fd, 4096)
    except OSError:
        got = b''
    if not got:
        break
    text += got
    while text.count(b"': ") > asked:
        os.write(fd, (answers[asked] if asked < len(answers) else '').encode() + b'\n')
        asked += 1
print(asked, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
END
is "a new passphrase is asked for twice" \
	"$(python3 ask.py here,here "$TAPIMG" convert -q -O qcow -o encrypt.format=aes r.raw typed.qcow)" "2 0"
is "it is that of the image" "$(tapimg compare -q --object secret,id=s,data=here --image-opts \
	driver=qcow,file.filename=typed.qcow,encrypt.key-secret=s driver=raw,file.filename=r.raw; echo $?)" 0
is "asked for once to read it" "$(python3 ask.py here "$TAPIMG" compare -q typed.qcow r.raw)" "1 0"
is "two different ones" \
	"$(python3 ask.py here,there "$TAPIMG" convert -q -O qcow -o encrypt.format=aes r.raw differ.qcow)" "2 1"
is "two different ones: nothing is made" "$(ls -A | grep -c differ)" 0
done_testing
