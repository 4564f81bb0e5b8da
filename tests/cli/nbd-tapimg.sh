#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Every command takes names of NBD exports, of our server and of others: reading with block status,
# writing in place, backing files, failures of the server told and not waited for.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"
need qemu-nbd nbdkit qemu-io qemu-img

qemu-img create -q -f raw data.raw 1G
io data.raw raw 'write -P 1 0 1M' 'write -P 2 700M 3M' 'write -P 3 1073676288 64k'
qemu-img convert -f raw -O qcow2 data.raw data.qcow2

# --- reading: contents and what is known of holes
from_server() { # what, name
	local name=$2

	is "$1: contents" "$(tapimg compare -f raw -F raw "$name" data.raw)" "Images are identical."
	is "$1: what is zero" \
		"$(tapimg map --output=json -f raw "$name" | jq -c '[.[] | select(.data) | [.start, .length]]')" \
		"[[0,1048576],[734003200,3145728],[1073676288,65536]]"
	works "$1: converting" tapimg convert -q -f raw -O qcow2 "$name" out.qcow2
	is "$1: the copy" "$(qemu-img compare data.raw out.qcow2)" "Images are identical."
	is "$1: holes stay holes" "$(($(stat -c %b out.qcow2) * 512 < 8 << 20))" 1
}
tapdisk s.sock --disk d=qcow2:data.qcow2 --read-only --nbd socket=s.sock
from_server tapdisk "$(uri s.sock d)"
is "QEMU's older spelling" "$(tapimg compare -f raw -F raw "nbd:unix:$PWD/s.sock:exportname=d" data.raw)" \
	"Images are identical."
node="{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"$PWD/s.sock\"},\"export\":\"d\"}"
is "a node of QEMU's" "$(tapimg compare -f raw -F raw "json:$node" data.raw 2>&1)" "Images are identical."
is "which QEMU reads the same" "$(qemu-img compare "json:$node" data.raw 2>&1)" "Images are identical."
works "a node as a backing file" tapimg create -q -f qcow2 -F raw -b "json:{\"driver\":\"raw\",\"file\":$node}" over.qcow2
is "read through" "$(tapimg compare -f qcow2 -F raw over.qcow2 data.raw 2>&1)" "Images are identical."
exits "read-only for writing" 1 "exports it read-only" tapimg dd -f raw -O raw if=data.raw "of=$(uri s.sock d)" bs=1M count=1
exits "an export that is not there" 1 "no export 'nobody'" tapimg info "$(uri s.sock nobody)"
exits "a name that is none" 1 "not the name of an NBD export" tapimg info "nbd+unix:///x"
exits "nobody listens" 1 "connecting to" tapimg info "$(uri missing.sock)"
stop "$server"
start q.sock qemu-nbd -t -r -f raw -x d -k "$PWD/q.sock" data.raw
from_server qemu-nbd "$(uri q.sock d)"
start k.sock nbdkit -f -r -U k.sock file data.raw
from_server nbdkit "$(uri k.sock)"

# a server without structured replies, and one that wants blocks of 4096 bytes
start n.sock nbdkit -f -r -U n.sock --no-sr file data.raw
is "simple replies" "$(tapimg compare -f raw -F raw "$(uri n.sock)" data.raw)" "Images are identical."
start b.sock nbdkit -f -U b.sock --filter=blocksize-policy memory 64M blocksize-minimum=4096 \
	blocksize-preferred=4096 blocksize-maximum=65536 blocksize-error-policy=error
works "unaligned writes to a server of large blocks" tapimg bench -q -w -f raw -c 200 -s 3000 -S 12345 "$(uri b.sock)" 
works "large ones to a server of small transfers" tapimg dd -f raw -O raw if=data.raw "of=$(uri b.sock)" bs=1M count=8

# --- writing in place
truncate -s 1G target.raw
truncate -s 64M q2.img
tapdisk w.sock --disk t=raw:target.raw --disk q=raw:q2.img --nbd socket=w.sock
works "convert -n into an export" tapimg convert -q -n -f qcow2 -O raw data.qcow2 "$(uri w.sock t)"
works "an image made inside an export" tapimg create -q -f qcow2 "$(uri w.sock q)" 10M
works "written there" tapimg dd -f raw -O qcow2 if=data.raw "of=$(uri w.sock q)" bs=1M count=1
like "described there" "$(tapimg info "$(uri w.sock q)" 2>&1)" 'file format: qcow2'
works "checked there" tapimg check -q -f qcow2 "$(uri w.sock q)"
exits "more than fits" 1 "" tapimg convert -q -n -f raw -O raw data.raw "$(uri w.sock q)"
stop "$server"
works "the server's file holds the contents" qemu-img compare -q -f raw -F raw target.raw data.raw
is "zeroes were not written" "$(($(stat -c %b target.raw) * 512 < 16 << 20))" 1

# --- as backing file, and as a disk of the server
tapdisk s.sock --disk d=qcow2:data.qcow2 --read-only --nbd socket=s.sock
works "a child of an export" tapimg create -q -f qcow2 -F raw -b "$(uri s.sock d)" child.qcow2
is "reads through" "$(tapimg compare -f qcow2 -F raw child.qcow2 data.raw)" "Images are identical."
is "and so does QEMU" "$(qemu-img compare -f qcow2 -F raw child.qcow2 data.raw)" "Images are identical."
backing=$server
tapdisk two.sock --disk "a=nbd:$(uri s.sock d)" --disk c=qcow2:child.qcow2 --read-only --nbd socket=two.sock
is "an export of an export" "$(qemu-img compare -f raw -F raw "$(uri two.sock a)" data.raw)" "Images are identical."
if command -v nbdinfo >/dev/null; then
	is "its map is passed on" "$(nbdinfo --map "$(uri two.sock a)" | grep -c data)" 3
	is "a child's as well" "$(nbdinfo --map "$(uri two.sock c)" | grep -c data)" 3
fi
kill -9 "$backing"
exits "the backing server dies: an error, at once" 1 "" timeout 20 qemu-io -f raw -c 'read 700M 64k' "$(uri two.sock a)"
works "the server in front lives" timeout 20 nbdinfo --size "$(uri two.sock a)"

# --- servers that fail
start e.sock nbdkit -f -U e.sock --filter=error pattern 16M error-pread=EIO error-pread-rate=1
exits "read errors are told" 1 "nput/output error" timeout 20 "$TAPIMG" convert -f raw -O raw "$(uri e.sock)" err.raw
is "and leave no half-made file" "$(ls err.raw* .err.raw* 2>/dev/null)" ""
start f.sock nbdkit -f -U f.sock --filter=error memory 16M error-pwrite=ENOSPC error-pwrite-rate=1 error-zero=ENOSPC \
	error-zero-rate=1
exits "no space is told" 1 "No space left" timeout 20 "$TAPIMG" convert -n -f raw -O raw data.qcow2 "$(uri f.sock)"
start h.sock nbdkit -f -U h.sock --filter=delay pattern 512M rdelay=1
timeout 30 "$TAPIMG" convert -f raw -O raw "$(uri h.sock)" hung.raw >out 2>err &
client=$!
sleep 0.7
kill -9 "$server"
wait $client
is "a server that dies in the middle" "$?" 1
done_testing
