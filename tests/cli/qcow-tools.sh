#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
#
# qcow-create, img2qcow, qcow2raw: Xen's command lines, layout, questions and exit codes
. "$(dirname "$0")/lib.sh"

bin=$(dirname "$TAPIMG")
create=$bin/qcow-create to=$bin/img2qcow from=$bin/qcow2raw

# The extended header as Xen's tools write it, with its checksum made anew: "flags alloc l1 ok"
header() { # file
	python3 - "$1" <<'END'
import hashlib, struct, sys
f = open(sys.argv[1], 'rb')
head = f.read(64)
size, cb, lb, l1 = struct.unpack('>24xQBB6xQ', head[:48])
magic, stored, alloc, flags = struct.unpack('>4s4sII', head[48:])
assert magic == b'XEN\xfb', magic
n = -(-size // (1 << (cb + lb)))
f.seek(l1)
table = f.read(8 * n)
digest = hashlib.md5(table).digest()
print('flags', flags, 'alloc', alloc, 'size', size, 'bits', cb, lb,
      'l1', ' '.join('%x' % v for v in struct.unpack('>%dQ' % n, table)),
      'sum', 'ok' if stored == digest[3::-1] else 'bad')
END
}

random() { # file, bytes
	head -c "$2" /dev/urandom >"$1"
}

# --- qcow-create
works "an empty image" "$create" 10 a.qcow
is "nothing is printed" "$(cat out)" ""
is "its header is Xen's" "$(header a.qcow)" "flags 3 alloc 512 size 10485760 bits 12 9 l1 0 0 0 0 0 sum ok"
is "as is its length" "$(stat -c %s a.qcow)" 8192
is "the checksum of the tools" "$(od -An -tx1 -j52 -N4 a.qcow)" " e9 38 4b fd"
random parent.raw $((4 << 20))
works "a child" "$create" 8 child.qcow parent.raw
like "is as large as it was asked for" "$(header child.qcow)" "flags 3 alloc 1 size 8388608 bits 9 12"
works "a child of size 0" "$create" 0 child0.qcow parent.raw
like "takes its parent's" "$(header child0.qcow)" "size 4194304 "
works "a smaller child" "$create" 1 child1.qcow parent.raw
like "does not lose the rest" "$(header child1.qcow)" "size 4194304 "
works "which reads as its parent" tapimg compare child0.qcow parent.raw
is "the stored name is absolute" "$(tapimg info --output=json child.qcow | jq -r '."backing-filename"')" \
	"$(realpath parent.raw)"
works "reserved" "$create" -r 4 r.qcow
like "all regions are mapped" "$(header r.qcow)" "flags 2 alloc 512 .* l1 2000 203000 sum ok"
works "and checked" tapimg check r.qcow
[ "$(stat -c %b r.qcow)" -ge 8192 ] && pass || fail "-r: space is allocated" "$(stat r.qcow)"
works "as the usage of Xen's tool writes it" "$create" -r reserve 4 r2.qcow
is "the same" "$(cmp r.qcow r2.qcow && echo same)" same
works "qcow2" "$create" -f qcow2 10 b.qcow2
like "is made by -f" "$(tapimg info b.qcow2)" "file format: qcow2"

# --- existing files
sum=$(sha256sum a.qcow)
exits "an existing file stays" 1 "force" "$create" 20 a.qcow </dev/null
is "as it was" "$(sha256sum a.qcow)" "$sum"
echo n | "$create" 20 a.qcow 2>/dev/null
is "with the answer n as well" "$? $(sha256sum a.qcow)" "1 $sum"
echo y | "$create" 20 a.qcow
like "y replaces it" "$? $(header a.qcow)" "^0 .*size 20971520"
works "--force does not ask" "$create" --force 10 a.qcow
like "and replaces" "$(header a.qcow)" "size 10485760"

# --- exit codes
exits "no arguments" 255 "usage|missing" "$create"
exits "too many" 255 "too many" "$create" 1 2 3 4
exits "no number" 255 "size" "$create" ten x.qcow
exits "no size" 255 "0 MB" "$create" 0 x.qcow
exits "no such letter" 255 "unrecognized" "$create" -q 1 x.qcow
exits "no such format" 255 "qcow2" "$create" -f vhd 1 x.qcow
exits "reserved with a backing file" 255 "backing" "$create" -r 1 x.qcow parent.raw
exits "no such backing file" 1 "none" "$create" 1 x.qcow none
exits "no such folder" 1 "none/x" "$create" 1 none/x.qcow
exits "a source that is not there" 1 "none" "$to" x.qcow none
exits "a source that is not QCOW" 1 "no QCOW" "$from" x.raw parent.raw
is "nothing was made" "$(ls -d x.* 2>/dev/null)" ""
for p in "$create" "$to" "$from"; do
	works "--help" "$p" --help
	like "says how" "$(cat out)" "usage: $(basename "$p") "
	works "--version" "$p" --version
done

# --- img2qcow, qcow2raw
works "img2qcow" "$to" t.qcow parent.raw
is "is silent in a script" "$(cat out err)" ""
is "in regions" "$(header t.qcow)" "flags 3 alloc 512 size 4194304 bits 12 9 l1 2000 203000 sum ok"
is "which readers find by their place" "$(tail -c +$((0x3001)) t.qcow | head -c 2097152 | sha256sum)" \
	"$(head -c 2097152 parent.raw | sha256sum)"
works "the same contents" tapimg compare -f raw parent.raw t.qcow
works "and back" "$from" t.raw t.qcow
is "the same bytes" "$(cmp parent.raw t.raw && echo same)" same
works "a child as well" "$from" c.raw child0.qcow
is "with its parent's bytes" "$(cmp parent.raw c.raw && echo same)" same
exits "qcow2raw asks" 1 "force" "$from" t.raw child.qcow </dev/null
echo y | "$from" t.raw child.qcow && is "and goes on" "$(stat -c %s t.raw)" 8388608
exits "img2qcow asks" 1 "force" "$to" t.qcow t.raw </dev/null
works "img2qcow -f qcow2" "$to" -y -f qcow2 t.qcow t.raw
works "is read by qcow2raw" "$from" -y u.raw t.qcow
is "with the same bytes" "$(cmp u.raw t.raw && echo same)" same
cp t.raw same.raw
exits "a file onto itself" 1 "both source and target" "$to" -y same.raw same.raw
is "is left alone" "$(cmp same.raw t.raw && echo same)" same
truncate -s 1G big.raw
random hole.part 65536
dd if=hole.part of=big.raw bs=64k seek=9000 conv=notrunc status=none
works "a sparse disk" "$to" sparse.qcow big.raw
[ "$(stat -c %s sparse.qcow)" -lt 4300000 ] && pass || fail "stays small" "$(stat sparse.qcow)"
works "a raw disk whose bytes look like an image" "$to" nested.qcow b.qcow2
works "is taken as bytes" "$from" nested.raw nested.qcow
is "exactly" "$(head -c "$(stat -c %s b.qcow2)" nested.raw | cmp - b.qcow2 && echo same)" same
if command -v script >/dev/null; then
	script -qec "$to -y bar.qcow parent.raw" /dev/null </dev/null >bar 2>&1
	like "a bar on a terminal" "$(tr '\r' '\n' <bar)" '\[=+\] 100%'
else
	skip "the bar" "script(1) is not installed"
fi
if command -v "$QEMU_IMG" >/dev/null; then
	works "qemu-img reads what img2qcow makes" "$QEMU_IMG" compare -f raw -F qcow parent.raw bar.qcow
	works "and what qcow-create -r makes" "$QEMU_IMG" convert -f qcow -O raw r.qcow r.raw
	is "as zeroes" "$(tr -d '\0' <r.raw | head -c 1)" ""
fi
ln -s "$bin" bin
for s in bash zsh fish; do
	works "completion for $s" "$to" --completion=$s
	like "knows -f" "$(cat out)" "force"
done
bash -c '. <("$0" --completion=bash); COMP_WORDS=(qcow-create --f); COMP_CWORD=1; _qcow_create
	echo "${COMPREPLY[*]}"' "$create" >comp
like "it completes" "$(cat comp)" "^--format --force$"
done_testing
