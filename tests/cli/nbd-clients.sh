#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Clients of others with our server: libnbd's tools, qemu-io, qemu-img and fio; maps and dirty bitmaps
# are those that qemu-nbd tells of the same image.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"
need nbdinfo nbdcopy qemu-img qemu-io qemu-nbd

# an image with everything that block status can tell, on another one
qemu-img create -q -f qcow2 base.qcow2 24M
io base.qcow2 qcow2 'write -P 1 0 1M' 'write -P 2 10M 128k' 'write -z 12M 1M'
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 32M
io top.qcow2 qcow2 'write -P 3 64k 64k' 'write -z 256k 128k' 'write -P 4 30M 1M' 'write -z -u 31M 64k'
qemu-img bitmap --add top.qcow2 one
qemu-img bitmap --add -g 512k top.qcow2 wide
qemu-img bitmap --add --disable top.qcow2 off
io top.qcow2 qcow2 'write -P 5 5M 64k' 'write -P 6 20M 128k'
qemu-img convert -q -c -f qcow2 -O qcow2 base.qcow2 packed.qcow2
qemu-img create -q -f raw sparse.raw 16M
io sparse.raw raw 'write -P 7 1M 64k' 'write -P 8 16252928 65536'

# --- maps
tapdisk s.sock --disk top=qcow2:top.qcow2 --disk packed=qcow2:packed.qcow2 --disk raw=raw:sparse.raw --read-only \
	--nbd socket=s.sock,description=text
first=$server
for img in top packed raw; do
	file=$img.qcow2 format=qcow2 bitmaps=()
	[ $img != raw ] || file=sparse.raw format=raw
	[ $img != top ] || bitmaps=(-B one -B wide -B off)
	start q.sock qemu-nbd -t -r -f $format -A "${bitmaps[@]}" -k "$PWD/q.sock" -x $img $file
	for ctx in base:allocation qemu:allocation-depth qemu:dirty-bitmap:one qemu:dirty-bitmap:wide \
		qemu:dirty-bitmap:off; do
		[ $img = top ] || [ "${ctx%%bitmap*}" = "$ctx" ] || continue
		is "map of $img, $ctx" "$(nbdinfo --map=$ctx "$(uri s.sock $img)" 2>&1)" \
			"$(nbdinfo --map=$ctx "$(uri q.sock $img)" 2>&1)"
	done
	kill "$server"
	wait "$server" 2>/dev/null
	is "contents of $img" "$(qemu-img compare -f raw -F $format "$(uri s.sock $img)" $file)" \
		"Images are identical."
done
list=$(nbdinfo --list "$(uri s.sock)")
like "exports are listed" "$list" 'export="packed"'
like "with their description" "$list" 'description: text'
like "with their bitmaps" "$list" 'qemu:dirty-bitmap:wide'
like "read-only is told" "$(nbdinfo "$(uri s.sock top)")" 'is_read_only: true'
exits "an export that is not there" 1 "export: nobody" nbdinfo "$(uri s.sock nobody)"
like "writes are refused" "$(qemu-io -f raw -c 'write 0 512' "$(uri s.sock top)" 2>&1)" 'read.only|Permission|permitted'
stop "$first"

# --- writing
qemu-img create -q -f qcow2 out.qcow2 32M
head -c 32M /dev/urandom >random
tapdisk w.sock --disk out=qcow2:out.qcow2 --disk other=raw:random --nbd socket=w.sock
works "nbdcopy into an image, four connections" nbdcopy -C 4 -R 64 random "$(uri w.sock out)"
works "and out of it" nbdcopy -C 4 "$(uri w.sock out)" copy
works "nothing has changed on the way" cmp random copy
works "between two of our exports" nbdcopy --flush "$(uri w.sock other)" "$(uri w.sock out)"
qemu-io -f raw -c 'write -P 9 1000001 77777' -c 'write -f -P 10 5M 1' -c 'write -z 8M 1M' \
	-c 'write -z -u 10M 3M' -c 'discard 20M 2M' -c flush "$(uri w.sock out)" >out 2>&1
unlike "qemu-io writes, zeroes, trims and flushes" "$(cat out)" 'failed|rror'
qemu-io -f raw -c 'read -P 9 1000001 77777' -c 'read -P 10 5M 1' -c 'read -P 0 8M 1M' \
	-c 'read -P 0 10M 3M' -c 'read 20M 2M' "$(uri w.sock out)" >out 2>&1
unlike "and reads it back" "$(cat out)" 'failed|rror'
works "qemu-img converts from us" qemu-img convert -f raw -O raw "$(uri w.sock out)" seen.raw
stop "$server"
is "the image holds what the clients saw" "$(qemu-img compare -f raw -F qcow2 seen.raw out.qcow2)" \
	"Images are identical."
works "and is clean" qemu-img check -q out.qcow2

# --- TCP, one disk only, a connection that was handed over
port=$((20000 + $$ % 20000))
tapdisk t.sock --disk a=raw:random --disk b=raw:sparse.raw --nbd listen=127.0.0.1:$port,disk=b,export=named \
	--nbd socket=t.sock
is "TCP, by export name" "$(nbdinfo --size nbd://127.0.0.1:$port/named)" 16777216
is "TCP, the default export" "$(nbdinfo --size nbd://127.0.0.1:$port)" 16777216
exits "other disks are not there" 1 "export: a" nbdinfo nbd://127.0.0.1:$port/a
stop "$server"
if python=$(python_nbd); then
	is "a connected socket as descriptor" "$("$python" - "$TAPDISK" <<'PY'
import socket, subprocess, sys, nbd
a, b = socket.socketpair()
b.set_inheritable(True)
p = subprocess.Popen([sys.argv[1], '-q', '--disk', 'raw:random', '--nbd', f'fd={b.fileno()}'], pass_fds=[b.fileno()])
b.close()
h = nbd.NBD()
h.connect_socket(a.detach())
print(h.get_size(), h.pread(512, 512) == open('random', 'rb').read(1024)[512:])
h.shutdown()
p.terminate()
sys.exit(p.wait())
PY
)" "33554432 True"
else
	skip "handing over a connection" "python3-libnbd is not installed"
fi

# --- fio, verifying what it wrote
if command -v fio >/dev/null && fio --enghelp | grep -qw nbd; then
	qemu-img create -q -f qcow2 fio.qcow2 64M
	tapdisk f.sock --disk f=qcow2:fio.qcow2 --nbd socket=f.sock
	works "fio verifies its writes, 64 at once" fio --name=v --ioengine=nbd "--uri=$(uri f.sock f)" --rw=randrw \
		--bsrange=512-64k --blockalign=512 --iodepth=64 --size=64m --io_size=48m --verify=crc32c --thread \
		--output=fio.out
	stop "$server"
	works "the image is clean" qemu-img check -q fio.qcow2
else
	skip "fio over NBD" "fio with its nbd engine is not installed"
fi
done_testing
