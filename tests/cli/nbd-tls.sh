#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# TLS with certificates and with pre-shared keys: our server and client, against GnuTLS's of libnbd,
# QEMU and nbdkit.  Who may not in, stays out.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"
need openssl nbdinfo nbdcopy qemu-io nbdkit

mkdir pki psk
{
	openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca-key.pem -out pki/ca-cert.pem -subj /CN=ca -days 3
	for who in server client; do
		openssl req -newkey rsa:2048 -nodes -keyout pki/$who-key.pem -out $who.csr -subj /CN=$who
		openssl x509 -req -in $who.csr -CA pki/ca-cert.pem -CAkey pki/ca-key.pem -CAcreateserial -days 3 \
			-out pki/$who-cert.pem -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
	done
} >/dev/null 2>&1
mkdir nocert && cp pki/ca-cert.pem nocert
echo "alice:$(openssl rand -hex 32)" >psk/keys.psk
echo "alice:$(openssl rand -hex 32)" >wrong.psk
head -c 8M /dev/urandom >data
key="tls-psk-file=$PWD/psk/keys.psk" crt="tls-certificates=$PWD/pki"

truncate -s 8M copy.raw
tapdisk s.sock --disk d=raw:data --disk w=raw:copy.raw --nbd "socket=p.sock,$key" \
	--nbd "socket=x.sock,$crt" --nbd "socket=m.sock,$crt,tls-verify-peer=on" --nbd "socket=o.sock,$crt,tls=on" \
	--nbd socket=s.sock
p="nbds+unix://alice@/d?socket=$PWD/p.sock&$key"
x="nbds+unix:///d?socket=$PWD/x.sock&$crt"
m="nbds+unix:///d?socket=$PWD/m.sock&$crt"

# --- libnbd and QEMU as clients
is "libnbd, key" "$(nbdinfo --size "$p" 2>&1)" 8388608
is "libnbd, certificates" "$(nbdinfo --size "$x&tls-verify-peer=false" 2>&1)" 8388608
is "libnbd, certificates of both" "$(nbdinfo --size "$m&tls-verify-peer=false" 2>&1)" 8388608
is "TLS where it is optional" \
	"$(nbdinfo --size "nbds+unix:///d?socket=$PWD/o.sock&$crt&tls-verify-peer=false" 2>&1)" 8388608
is "and without" "$(nbdinfo --size "$(uri o.sock d)" 2>&1)" 8388608
exits "no TLS where it is required" 1 "TLS|not supported" nbdinfo "$(uri p.sock d)"
exits "another key" 1 "" nbdinfo "nbds+unix://alice@/d?socket=$PWD/p.sock&tls-psk-file=$PWD/wrong.psk"
works "nbdcopy through TLS and back" nbdcopy "$p" "nbds+unix://alice@/w?socket=$PWD/p.sock&$key"
works "what was copied is the same" cmp data copy.raw
qemu_psk=(--object "tls-creds-psk,id=t,dir=$PWD/psk,endpoint=client,username=alice"
	--image-opts "driver=nbd,server.type=unix,server.path=$PWD/p.sock,export=w,tls-creds=t")
unlike "QEMU, key" "$(qemu-io "${qemu_psk[@]}" -c 'write -P 5 100 3M' -c 'read -P 5 100 3M' 2>&1)" 'failed|rror|not'
unlike "QEMU, certificates" "$(qemu-io --object "tls-creds-x509,id=t,dir=$PWD/pki,endpoint=client" --image-opts \
	"driver=nbd,server.type=unix,server.path=$PWD/m.sock,export=w,tls-creds=t,tls-hostname=localhost" \
	-c 'read -P 5 100 3M' 2>&1)" 'failed|rror|not'

# --- our client
like "ours, key" "$(tapimg info "$p" 2>&1)" '8 MiB'
like "ours, certificates of both" "$(tapimg info "$m" 2>&1)" '8 MiB'
works "ours reads what is there" tapimg convert -q -f raw -O raw "$m" got.raw
works "byte for byte" cmp data got.raw
exits "ours: another key" 1 "Could not open" tapimg info "nbds+unix://alice@/d?socket=$PWD/p.sock&tls-psk-file=wrong.psk"
exits "ours: no such user" 1 "no key for user 'bob'" tapimg info "nbds+unix://bob@/d?socket=$PWD/p.sock&$key"
exits "ours: the server is another one" 1 "hostname mismatch" tapimg info "$m&tls-hostname=elsewhere"
exits "ours: no certificate where one is wanted" 1 "Could not open" \
	tapimg info "nbds+unix:///d?socket=$PWD/m.sock&tls-certificates=nocert"
exits "ours: a server without TLS" 1 "does not do TLS" tapimg info "nbds+unix:///d?socket=$PWD/s.sock&$crt"
exits "ours: a server that requires it" 1 "wants TLS" tapimg info "$(uri p.sock d)"

# --- what comes in clear behind STARTTLS is never taken for protected
is "injection behind STARTTLS ends the connection" "$(python3 - <<'PY'
import socket, struct
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect('o.sock')
s.recv(18)
opt = lambda n, data=b'': struct.pack('>QII', 0x49484156454F5054, n, len(data)) + data
s.sendall(struct.pack('>I', 3) + opt(5) + opt(3))
got = b''
try:
    while True:
        d = s.recv(4096)
        if not d:
            break
        got += d
except ConnectionResetError:
    pass
print('closed', len(got) <= 20)
PY
)" "closed True"
stop "$server"

# --- our client with servers of others
start k.sock nbdkit -f --tls=require "--$crt" -U k.sock file data
works "certificates: nbdkit" tapimg compare -q -f raw -F raw "nbds+unix:///?socket=$PWD/k.sock&$crt" data
start l.sock nbdkit -f --tls=require --tls-psk=psk/keys.psk -U l.sock file data
works "key: nbdkit" tapimg compare -q -f raw -F raw "nbds+unix://alice@/?socket=$PWD/l.sock&$key" data
start q.sock qemu-nbd -t -r -f raw --object "tls-creds-psk,id=t,dir=$PWD/psk,endpoint=server" --tls-creds t \
	-k "$PWD/q.sock" -x e data
works "key: qemu-nbd" tapimg compare -q -f raw -F raw "nbds+unix://alice@/e?socket=$PWD/q.sock&$key" data
done_testing
