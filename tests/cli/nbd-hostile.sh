#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# Clients that break the rules, vanish at any moment or never read: the server serves the others on,
# keeps its memory within limits, and ends well.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"
need qemu-img

qemu-img create -q -f qcow2 a.qcow2 64M
truncate -s 64M b.raw
tapdisk s.sock --disk a=qcow2:a.qcow2 --disk b=raw:b.raw --nbd socket=s.sock,handshake-timeout=5,max-connections=40
cat >attack.py <<'PY'
import os, random, socket, struct, sys, time
pid, rounds = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(7)
OPT = 0x49484156454F5054

def opt(n, data=b'', length=None):
    return struct.pack('>QII', OPT, n, len(data) if length is None else length) + data

def go(name):
    return opt(7, struct.pack('>I', len(name)) + name + b'\0\0')

def request(kind, off, length, payload=b'', flags=0, magic=0x25609513):
    return struct.pack('>IHHQQI', magic, flags, kind, rng.getrandbits(64), off, length) + payload

def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    for _ in range(200):
        try:
            s.connect('s.sock')
            break
        except BlockingIOError:         # a busy machine: too many wait already
            time.sleep(.05)
    return s

def conversation():
    name = rng.choice([b'a', b'b', b'', b'nobody'])
    ctx = struct.pack('>I', len(name)) + name + struct.pack('>II', 1, 15) + b'base:allocation'
    parts = [struct.pack('>I', 3)]
    if rng.random() < .7:
        parts.append(opt(8))
    if rng.random() < .5:
        parts.append(opt(10, ctx))
    if rng.random() < .2:
        parts.append(opt(rng.getrandbits(5), os.urandom(rng.randrange(50))))
    parts.append(go(name))
    for _ in range(rng.randrange(30)):
        size = rng.choice([0, 1, 512, 4096, 65536, 1 << 20])
        kind = rng.choice([0, 0, 1, 1, 3, 4, 5, 6, 7, 9])
        off = rng.choice([0, 1, 12345, 63 << 20, (64 << 20) - 1, 1 << 62])
        parts.append(request(kind, off, size, bytes(size) if kind == 1 else b'',
                             rng.choice([0, 0, 0, 1, 2, 4, 8, 16, 255])))
    return b''.join(parts)

def vanish():
    s, data = connect(), conversation()
    try:
        s.sendall(data[:rng.randrange(len(data) + 1)])
        if rng.random() < .5:
            s.recv(rng.randrange(1, 100000))
    except OSError:
        pass
    s.close()

def garbage():
    s, data = connect(), bytearray(conversation())
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.getrandbits(8)
    try:
        s.sendall(data)
        s.settimeout(.05)
        while s.recv(1 << 20):
            pass
    except OSError:
        pass
    s.close()

for i in range(rounds):
    (vanish if i % 2 else garbage)()

# clients that ask for much and read nothing
lazy = []
for _ in range(8):
    s = connect()
    s.setblocking(False)
    try:
        s.send(struct.pack('>I', 3) + go(b'b') + b''.join(request(0, 0, 16 << 20) for _ in range(500)))
    except OSError:
        pass
    lazy.append(s)
time.sleep(1)
rss = int(next(l for l in open(f'/proc/{pid}/status') if l.startswith('VmRSS')).split()[1])
print('memory', 'bounded' if rss < 450 << 10 or 'asan' in os.environ.get('TAPIMG_BUILD', '') else rss)

# others are served meanwhile
s = connect()
s.sendall(struct.pack('>I', 3) + go(b'a') + request(3, 0, 0))
got = b''
while len(got) < 18 + 2 * 20 + 26 + 20 + 16 - 0 and b'\x67\x44\x66\x98' not in got:
    got += s.recv(4096)
print('served')
for x in lazy:
    x.close()

# a client that never chooses is sent away
s = connect()
start = time.time()
s.recv(18)
try:
    while s.recv(100):
        pass
except ConnectionResetError:
    pass
print('sent away', 3 < time.time() - start < 20)

# more connections than are allowed: the others stay
many = []
for _ in range(60):
    try:
        many.append(connect())
    except OSError:
        time.sleep(.01)
many = None
PY
is "hostile clients" "$(timeout 100 python3 attack.py "$server" "${ROUNDS:-150}" 2>&1)" "memory bounded
served
sent away True"
is "the server lives" "$(kill -0 "$server" && echo yes)" yes
like "and serves" "$(timeout 20 "$TAPIMG" info "$(uri s.sock a)" 2>&1)" "virtual size: 64 MiB"
kill "$server"
wait "$server"
is "it ends well" "$?" 0
unlike "and was not found out" "$(cat server.err)" 'Sanitizer|runtime error|Assert'
works "the image is clean" qemu-img check -q a.qcow2

# --- libnbd sending what it would not send by itself
if python=$(python_nbd); then
	tapdisk s.sock --disk a=qcow2:a.qcow2 --nbd socket=s.sock
	is "requests beyond the rules are answered" "$("$python" - <<'PY'
import errno, nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.add_meta_context('base:allocation')
h.connect_unix('s.sock')
def code(fn, *a):
    try:
        fn(*a)
        return 0
    except nbd.Error as e:
        return e.errnum
print(*(errno.errorcode.get(c, c) for c in (
    code(h.pread, 512, 64 << 20), code(h.pwrite, bytes(512), 64 << 20), code(h.trim, 512, 1 << 60),
    code(h.zero, 4096, (64 << 20) - 1), code(h.pread, 512, 0, 1 << 10),
    code(h.block_status, 0, 0, lambda *a: 0), code(h.pread, 40 << 20, 0),
    code(h.flush), code(h.pwrite, bytes(33 << 20), 0))))
h.pwrite(b'x' * 512, 1024)
print(h.pread(512, 1024) == b'x' * 512)
PY
)" "EINVAL ENOSPC EINVAL ENOSPC EINVAL EINVAL EINVAL 0 EINVAL
True"
	stop "$server"
	else
	skip "libnbd's own violations" "python3-libnbd is not installed"
fi
done_testing
