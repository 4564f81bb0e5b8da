#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-util key and copy: digests of keys, and enciphered copies
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"
[ -z "$PEER" ] || { PEER=''; skip "key, copy: the same with blktap's own" "they need its cipher library"; }
ZERO=0000000000000000000000000000000000000000000000000000000000000000
ONE=${ZERO%0}1
SUM0=dc7a48014fc1fac8b52af39bc7ea5cafafabf8bb81fb8f880fdf3b4a4566795c
SUM1=d30a6cb4cbfe213df7ad4d88df26af2be69c523341c0c56528b5dd19e5e017c0
python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(64)))' >k.key
cp k.key a,aes-xts-plain,512.key
head -c 32 k.key >a,aes-xts-plain,256.key

says "-C" 0 "$SUM0
." vhd-util key -C -k k.key
stderr "names the file" "using keyfile k.key, Size (bytes) 64
."
says "-C with a nonce" 0 "$SUM1
." vhd-util key -C -k k.key -N $ONE
says "a nonce of the wrong length" 22 . vhd-util key -C -k k.key -N 12
says "no such file" 2 . vhd-util key -C -k none.key
vhd-util create -n a.vhd -s 4
says "a new disk has none" 0 "none
." vhd-util key -p -n a.vhd
says "-c without one" 22 . vhd-util key -c -n a.vhd -k a,aes-xts-plain,512.key
says "a file of another name" 22 . vhd-util key -s -n a.vhd -k k.key
says "-s" 0 . vhd-util key -s -n a.vhd -k a,aes-xts-plain,512.key -N $ONE
says "-p" 0 "$ONE $SUM1
." vhd-util key -p -n a.vhd
says "-c" 0 . vhd-util key -c -n a.vhd -k a,aes-xts-plain,512.key
says "-c with another" 22 . vhd-util key -c -n a.vhd -k a,aes-xts-plain,256.key
stderr "says so" "using keyfile a,aes-xts-plain,256.key, Size (bytes) 32
vhd hash doesn't match key hash
key check failed: -22
."
says "-s -H" 0 . vhd-util key -s -n a.vhd -H $SUM0
says "-p" 0 "$ZERO $SUM0
." vhd-util key -p -n a.vhd
says "it is still sound" 0 "a.vhd is valid
." vhd-util check -n a.vhd
says "a snapshot has the same" 0 . vhd-util snapshot -n b.vhd -p a.vhd -e
says "it has" 0 "$ZERO $SUM0
." vhd-util key -p -n b.vhd
like "scan -M shows it" "$(vhd-util scan -M a.vhd)" " keyhash=$SUM0 "
like "read -p too" "$(vhd-util read -p -n a.vhd)" "^Batmap keyhash hash : $SUM0\$"
vhd-util create -n f.vhd -s 2 -r
says "fixed disks cannot" 22 . vhd-util key -s -n f.vhd -H $SUM0
for args in "" "-s -n a.vhd" "-c -n a.vhd" "-s -c -n a.vhd -k k.key" "-n a.vhd"; do
	# shellcheck disable=SC2086
	vhd-util key $args >../out 2>../err
	is "key $args: exit code" $? 22
	is "key $args: the usage is on stderr" "$(head -1 ../err)" "usage:"
done

# --- what does not care for the data, and what moves them as they are, needs no key
says "hidden" 0 . vhd-util set -n b.vhd -f hidden -v 1
says "modify" 0 . vhd-util modify -n b.vhd -p a.vhd
says "repair" 0 . vhd-util repair -n b.vhd
says "resize" 0 . vhd-util resize -n b.vhd -s 3000 -j journal
head -c 1M /dev/urandom >cipher.bin
vhd-util snapshot -n c.vhd -p b.vhd -e
python3 - <<'END'
# a block of "ciphertext", as a guest's server would leave it
import struct
f = open('c.vhd', 'r+b')
f.seek(0, 2)
footer_at = f.tell() - 512
f.seek(footer_at)
footer = f.read(512)
at = (footer_at + 512 + 4095) // 4096 * 4096 - 512
f.seek(at)
f.write(b'\xff' * 512 + open('cipher.bin', 'rb').read() * 2 + footer)
f.seek(1536 + 4)
f.write(struct.pack('>I', at // 512))
END
says "sound" 0 "c.vhd is valid
." vhd-util check -n c.vhd
says "coalesce" 0 "Coalesced 4096 sectors." vhd-util coalesce -n c.vhd
works "the bytes are the same" cmp -n 1048576 <(vhd-util read -d 1 -n b.vhd) cipher.bin
works "and read as they are stored" cmp -n 1048576 <(vhd-util read -r 4096 -c 2048 -n c.vhd) cipher.bin
says "fill would need it" 22 . vhd-util fill -n c.vhd
vhd-util create -n open.vhd -s 3000
vhd-util snapshot -n d.vhd -p open.vhd -e
vhd-util key -s -n d.vhd -H $SUM0
before=$(sha256sum open.vhd)
says "never into one that is not enciphered" 22 "error coalescing: -22
." vhd-util coalesce -n d.vhd
is "which stays as it is" "$(sha256sum open.vhd)" "$before"

# --- copy
truncate -s 4M data.raw
head -c 3M /dev/urandom | dd of=data.raw conv=notrunc status=none
vhd-util create -n plain.vhd -s 4
"$OURS/examples/patch" plain.vhd data.raw >/dev/null || { skip "copy" "no examples in this build"; done_testing; }
says "copy" 0 . vhd-util copy -n plain.vhd -N two.vhd
works "reads the same" "$OURS/tapimg" compare -f vhd -F raw two.vhd data.raw -q
says "onto itself" 22 "VHD file two.vhd already exists, chose a different name
." vhd-util copy -n plain.vhd -N two.vhd
says "copy -k" 0 . vhd-util copy -n plain.vhd -N secret.vhd -k k.key
says "its digest" 0 "$ZERO $SUM0
." vhd-util key -p -n secret.vhd
says "sound" 0 "secret.vhd is valid
." vhd-util check -n secret.vhd
if command -v openssl >/dev/null; then
	off=$(($(vhd-util read -n secret.vhd -b 0 | sed 's/.*offset: //') + 512))
	plain=$(dd if=secret.vhd bs=1 skip=$off count=512 status=none |
		python3 -c 'import ctypes, sys
c = ctypes.CDLL("libcrypto.so.3")
for f in ("EVP_aes_256_xts", "EVP_CIPHER_CTX_new"):
    getattr(c, f).restype = ctypes.c_void_p
ctx = ctypes.c_void_p(c.EVP_CIPHER_CTX_new())
out, n = ctypes.create_string_buffer(512), ctypes.c_int()
c.EVP_DecryptInit_ex(ctx, ctypes.c_void_p(c.EVP_aes_256_xts()), None, bytes(range(64)), bytes(16))
c.EVP_DecryptUpdate(ctx, out, ctypes.byref(n), sys.stdin.buffer.read(), 512)
sys.stdout.buffer.write(out.raw)' | sha256sum)
	is "AES-XTS, sector 0" "$plain" "$(head -c 512 data.raw | sha256sum)"
fi
"$OURS/vhd-util" copy -n plain.vhd -N stdin.vhd -E <k.key
is "-E: exit code" $? 0
is "-E: the same digest" "$(vhd-util key -p -n stdin.vhd)" "$ZERO $SUM0"
works "-E: the same bytes" cmp <(vhd-util read -d 0 -n stdin.vhd) <(vhd-util read -d 0 -n secret.vhd)
head -c 33 k.key >odd.key
vhd-util copy -n plain.vhd -N odd.vhd -k odd.key >../out 2>../err
is "a key of 33 bytes: exit code" $? 1
is "is named" "$(tail -1 ../err)" "Unsupported keysize, use either 256 bit or 512 bit key"
is "no copy is left" "$(ls odd.vhd 2>/dev/null)" ""
says "copy of nothing" 2 "error opening none.vhd: -2
." vhd-util copy -n none.vhd -N x.vhd
says "a copy of the enciphered" 0 . vhd-util copy -n secret.vhd -N again.vhd
works "has the same bytes" cmp <(vhd-util read -d 0 -n again.vhd) <(vhd-util read -d 0 -n secret.vhd)
is "and digest" "$(vhd-util key -p -n again.vhd)" "$ZERO $SUM0"
done_testing
