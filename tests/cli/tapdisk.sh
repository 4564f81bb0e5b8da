#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# tapdisk: its command line, errors before anything is ready, background, service managers, control
. "$(dirname "$0")/lib.sh"

bin=$(dirname "$TAPIMG")
export TAPDISK_RUN_DIR=$PWD/run TAPDISK_SHM_DIR=$PWD/shm
mkdir shm
tapdisk() {
	timeout 60 "$bin/tapdisk" "$@"
}
tapctl() {
	timeout 60 "$bin/tap-ctl" "$@"
}
# Until a file is there.
await() {
	for _ in $(seq 200); do
		[ -e "$1" ] && return
		sleep 0.05
	done
	fail "$1 has not come"
}
gone() { # pid
	for _ in $(seq 200); do
		kill -0 "$1" 2>/dev/null || return 0
		sleep 0.05
	done
	return 1
}

tapimg create -q -f qcow2 a.qcow2 64M
tapimg create -q -f raw b.raw 8M

# ------------------------------------------------------------------- the command line
works "help" tapdisk --help
like "help names the drivers" "$(cat out)" '^Drivers: aio raw qcow qcow2 vhd vmdk nbd ram null$'
works "version" tapdisk --version
works "capabilities" tapdisk --print-capabilities
is "capabilities are JSON" "$(python3 -c 'import json; d = json.load(open("out")); print(d["type"], *d["features"])')" \
	"block read-only blk-file"
exits "unknown option" 1 "unrecognized option '--nonsense'" tapdisk --nonsense
exits "option without argument" 1 "'--disk' wants an argument" tapdisk --disk
exits "no driver" 1 "'a.qcow2' is not DRIVER:PATH" tapdisk --control a.qcow2
exits "unknown driver" 1 "'nosuch': there is no driver" tapdisk --control nosuch:a.qcow2
exits "unknown disk option" 1 "no option 'colour'" tapdisk --control --disk qcow2:a.qcow2,colour=red
exits "bad value" 1 "'cache': 'maybe' is not" tapdisk --control --disk qcow2:a.qcow2,cache=maybe
exits "nothing to reach it by" 1 "no front end" tapdisk qcow2:a.qcow2
exits "a front end and no disk" 1 "no disk" tapdisk --socket-path "$PWD/s"

# ------------------------------------------------- nobody is told before all is in order
exits "missing image" 1 'qcow2:missing.qcow2 cannot be served: missing.qcow2.*No such file' \
	tapdisk --socket-path "$PWD/s" qcow2:missing.qcow2
exits "the wrong format" 1 'qcow2:b.raw cannot be served' tapdisk --socket-path "$PWD/s" qcow2:b.raw
exits "two disks of one name" 1 "x: there is a disk" \
	tapdisk --control --disk x=null:1M --disk x=null:1M
exits "in the background as well" 1 'missing.qcow2' tapdisk --fork --control qcow2:missing.qcow2
is "no socket was made" "$(ls s run/ctl* 2>/dev/null)" ""

# --------------------------------------------------------- background, and a clean end
works "into the background" tapdisk --fork --pid-file "$PWD/pid" --control \
	--disk vda=qcow2:a.qcow2,cache=writethrough --disk raw:b.raw,read-only ram:4M
pid=$(cat pid)
is "the disks are devices" "$(tapctl list)" "pid=$pid minor=0 state=0 args=qcow2:a.qcow2
pid=$pid minor=1 state=0 args=raw:b.raw
pid=$pid minor=2 state=0 args=ram:4M"
works "pause by number" tapctl pause -p "$pid" -m 0
works "a snapshot meanwhile" tapimg snapshot -c s1 a.qcow2
works "unpause" tapctl unpause -p "$pid" -m 0
works "counters of all" tapctl stats -p "$pid" -m 65535
is "they are a list" "$(python3 -c 'import json; print(*[v["name"] for v in json.load(open("out"))])')" \
	"qcow2:a.qcow2 raw:b.raw ram:4M"
kill "$pid"
gone "$pid" || fail "SIGTERM does not end it"
is "nothing is left" "$(ls pid run run/tapdisk shm 2>&1)" "ls: cannot access 'pid': No such file or directory
run:
tapdisk

run/tapdisk:

shm:"
works "the image is clean and free" tapimg check a.qcow2
works "killed while paused" tapdisk --fork --pid-file "$PWD/pid" --control qcow2:a.qcow2
pid=$(cat pid)
tapctl pause -p "$pid" -m 0
kill "$pid"
gone "$pid" || fail "SIGTERM does not end a paused one"

# ------------------------------------------------------------------- service managers
cat >activate.py <<'PY'
import os, socket, sys
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind('notify')
s = socket.socket(socket.AF_UNIX)
s.bind('activated')
s.listen()
pid = os.fork()
if not pid:
    os.dup2(os.open('/dev/null', os.O_RDONLY), 3)
    os.dup2(s.fileno(), 4)
    os.set_inheritable(3, True)
    os.set_inheritable(4, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='other:blk',
                      NOTIFY_SOCKET=os.path.abspath('notify'))
    os.execv(sys.argv[1], ['tapdisk', '-q', '--vhost-user-blk', 'fd=' + sys.argv[2], 'null:1M'])
notify.settimeout(20)
try:
    print(notify.recv(100).decode())
    c = socket.socket(socket.AF_UNIX)
    c.connect('activated')
    c.settimeout(20)
    c.send(b'\x01\0\0\0\x01\0\0\0\0\0\0\0')         # GET_FEATURES
    print(len(c.recv(100)))
    os.kill(pid, 15)
    print(notify.recv(100).decode())
except socket.timeout:
    print('timeout')
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PY
if tapdisk --help | grep -q -- --vhost-user-blk; then
	is "socket activation" "$(timeout 60 python3 activate.py "$bin/tapdisk" @blk 2>&1)" "READY=1
20
STOPPING=1
0"
	rm -f notify activated
	exits "nothing was passed" 1 "no descriptor '@blk'" tapdisk --vhost-user-blk fd=@blk null:1M
fi

# ------------------------------------------------------------- hostile control messages
tapdisk --fork --pid-file "$PWD/pid" --control null:1M
pid=$(cat pid)
cat >hostile.py <<'PY'
import glob, os, random, socket, struct, sys
path = glob.glob('run/ctl*')[0]

def talk(data, wait=True):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    try:
        s.sendall(data)
        return s.recv(544, socket.MSG_WAITALL) if wait else b''
    except OSError:
        return b''
    finally:
        s.close()

def error(r):
    return struct.unpack_from('<Hxxxxxxi', r) if len(r) == 544 else r

def msg(kind, minor=0, body=b''):
    return struct.pack('<HHxxxx', kind, minor) + body.ljust(536, b'\0')

def params(flags, path, secondary=b''):
    return struct.pack('<III256sIH256s', flags, 0, 0, path, 0, 0, secondary)

for kind in (0, 1, 2, 4, 17, 30, 37, 65535):
    assert error(talk(msg(kind))) == (1, 22), kind
assert error(talk(msg(26, 9))) == (1, 19)                      # Xen's rings: no such device
assert error(talk(msg(24, 0)))[0] == 1
full = b'x' * 256                                              # strings without an end
assert error(talk(msg(5, 60000))) == (1, 22)
assert error(talk(msg(11, 0, params(0x80, full, full))))[0] == 1
assert error(talk(msg(31, 0, params(0, full)))) == (1, 22)
assert error(talk(msg(31, 0, params(0, b'/nowhere')))) == (1, 95)
assert error(talk(msg(9, 7))) == (1, 19)
for n in (1, 7, 8, 543):                                       # hang up in the middle
    talk(msg(19)[:n], wait=False)
talk(msg(7, 0, params(0x10, b'null:1M')) + b'y' * 100, wait=False)
assert error(talk(msg(7, 0, params(0x410, b'null:1M')) + full + b'\xff' + b'k' * 255)) == (1, 114)
byte = socket.socket(socket.AF_UNIX)                           # one byte at a time
byte.connect(path)
for b in msg(3):
    byte.send(bytes([b]))
assert struct.unpack_from('<Hxxxxxxi', byte.recv(544, socket.MSG_WAITALL)) == (4, int(sys.argv[1]))
idle = [socket.socket(socket.AF_UNIX) for _ in range(9)]       # nine that say nothing
for s in idle:
    s.connect(path)
assert struct.unpack_from('<H', talk(msg(3)))[0] == 4
for s in idle:
    s.close()
r = random.Random(1)
for i in range(300):
    m = bytearray(msg(r.choice((3, 5, 7, 9, 11, 13, 15, 19, 21, 28, 33, 35)), r.choice((0, 1, 2, 9)),
                      bytes(r.randrange(256) for _ in range(536))))
    m[8:12] = struct.pack('<I', r.getrandbits(11) & ~0x410)
    talk(bytes(m))
print('ok')
PY
is "hostile messages" "$(timeout 120 python3 hostile.py "$pid" 2>&1)" ok
like "it still serves" "$(tapctl list -p "$pid")" "pid=$pid"
kill "$pid"
gone "$pid" || fail "SIGTERM does not end it after all that"

# ------------------------------------------------------------------------- completion
# shellcheck source=/dev/null
. "$TAPIMG_SRC/completion/tapdisk"
complete_at() { # words; the last is being completed
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	COMPREPLY=()
	_tapdisk 2>/dev/null
	echo "${COMPREPLY[*]}"
}
is "completes options" "$(complete_at "$bin/tapdisk" --pid)" --pid-file
is "completes drivers" "$(complete_at "$bin/tapdisk" --disk qco)" "qcow: qcow2:"
is "completes files" "$(complete_at "$bin/tapdisk" qcow2:a.)" a.qcow2

done_testing
