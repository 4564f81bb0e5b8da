#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Servers that say what no server may say: our client tells it, in time, and reads nothing it was not sent.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"

cat >bad.py <<'PY'
import random, socket, struct, sys, threading
SIZE = 1 << 20
OPT = 0x49484156454F5054

def opt_reply(opt, kind, data=b''):
    return struct.pack('>QIII', 0x3e889045565a9, opt, kind, len(data)) + data

def chunk(cookie, kind, data, done=1, length=None):
    return struct.pack('>IHHQI', 0x668e33ef, done, kind, cookie, len(data) if length is None else length) + data

def exactly(s, n):
    data = b''
    while len(data) < n:
        d = s.recv(n - len(data))
        if not d:
            raise EOFError
        data += d
    return data

def reply(how, kind, cookie, off, length):
    good = chunk(cookie, 1, struct.pack('>Q', off) + b'g' * length)
    if kind == 7:
        status = struct.pack('>I', 1) + {'status-zero': struct.pack('>II', 0, 0), 'status-short': b'abc',
                 'status-none': b''}.get(how, struct.pack('>II', length, 0))
        return chunk(cookie, 5, status)
    if kind != 0:
        return struct.pack('>IIQ', 0x67446698, 0, cookie)
    return {
        'cookie': chunk(cookie + 1, 1, struct.pack('>Q', off) + b'g' * length),
        'beyond': chunk(cookie, 1, struct.pack('>Q', off + 1) + b'g' * length),
        'before': chunk(cookie, 1, struct.pack('>Q', off - 1 & (1 << 64) - 1) + b'g' * length),
        'too-long': chunk(cookie, 1, struct.pack('>Q', off) + b'g' * (length + 4096)),
        'too-short': chunk(cookie, 1, struct.pack('>Q', off) + b'g' * (length - 1)),
        'nothing': chunk(cookie, 0, b''),
        'hole': chunk(cookie, 2, struct.pack('>QI', off, length + 1)),
        'simple': struct.pack('>IIQ', 0x67446698, 0, cookie) + b'g' * length,
        'magic': b'\0' * 64,
        'huge': chunk(cookie, 1, struct.pack('>Q', off), 1, 0xffffffff),
        'unknown': chunk(cookie, 77, b'abc'),
        'twice': good + good,
        'hang-up': good[:30],
    }.get(how, good)

def serve(s, how):
    s.sendall(struct.pack('>QQH', 0x4e42444d41474943 + (how == 'greeting'), OPT, 3))
    exactly(s, 4)
    while True:
        _, opt, n = struct.unpack('>QII', exactly(s, 16))
        exactly(s, n)
        if how == 'option-long':
            s.sendall(struct.pack('>QIII', 0x3e889045565a9, opt, 1, 1 << 31))
        elif how == 'option-other':
            s.sendall(opt_reply(opt + 1, 1))
        elif opt == 8:
            s.sendall(opt_reply(8, 1))
        elif opt == 10:
            s.sendall(opt_reply(10, 4, struct.pack('>I', 1) + b'base:allocation') + opt_reply(10, 1))
        elif opt == 7:
            size = 1 << 63 if how == 'size' else SIZE
            block = struct.pack('>HIII', 3, 3 if how == 'block' else 1, 4096, 1 << 25)
            s.sendall(opt_reply(7, 3, struct.pack('>HQH', 0, size, 1 | 4)[:5 if how == 'info-short' else 12]) +
                      opt_reply(7, 3, block) + opt_reply(7, 1))
            break
        else:
            s.sendall(opt_reply(opt, 0x80000001))
    while True:
        magic, flags, kind, cookie, off, length = struct.unpack('>IHHQQI', exactly(s, 28))
        if kind == 2:
            return
        s.sendall(reply(how, kind, cookie, off, length))
        if how == 'hang-up' and kind == 0:
            return

def client(s, how):
    try:
        serve(s, how)
    except (EOFError, OSError):
        pass
    s.close()

l = socket.socket(socket.AF_UNIX)
l.bind(sys.argv[1])
l.listen(20)
while True:
    threading.Thread(target=client, args=(l.accept()[0], sys.argv[2]), daemon=True).start()
PY
try() { # how, exit code of a client that reads everything
	local name=$1 code=$2

	start "$name.sock" python3 bad.py "$name.sock" "$name" || return
	timeout 20 "$TAPIMG" dd -f raw -O raw bs=64k "if=$(uri "$name.sock")" of=got.raw >out 2>err
	is "a server's $name" "$?" "$code"
	[ "$code" = 0 ] || like "$name is told" "$(cat err)" '^tapimg: .'
	kill "$server"
	wait "$server" 2>/dev/null
}
try good 0
is "the model server is a good one" "$(tr -d g <got.raw | wc -c) $(wc -c <got.raw)" "0 1048576"
for how in greeting option-long option-other size block info-short cookie beyond before too-long too-short nothing hole \
	simple magic huge unknown hang-up; do
	try "$how" 1
done
for how in status-zero status-short status-none; do
	start "$how.sock" python3 bad.py "$how.sock" "$how"
	timeout 20 "$TAPIMG" map -f raw "$(uri "$how.sock")" >out 2>err
	is "$how ends" "$(($? < 2))" 1
	kill "$server"
	wait "$server" 2>/dev/null
done
done_testing
