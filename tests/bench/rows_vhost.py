# SPDX-License-Identifier: BSD-2-Clause
"""Rows of bench.py: tapdisk beside qemu-storage-daemon over vhost-user-blk.

Both are driven in turn by the same load generator (tests/vhost/vhost-load: buffers aligned to 4096, its
rings looked at without end), on the same files.  Numbers are processor time of the server for each
request, by the kernel's count of it, and requests a second.
"""
import json
import os
import shutil
import signal
import subprocess
import time

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
THEIRS = 'qemu-storage-daemon'
FORMATS = {'raw': 'raw', 'qcow2': 'qcow2', 'vhd': 'vpc', 'vmdk': 'vmdk'}


class Server:
    """A server with one disk at a socket."""

    def __init__(self, b, who, args):
        self.socket = os.path.join(b.mem, f'{who}.sock')
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.log = open(os.path.join(b.mem, f'{who}.log'), 'w+')
        self.process = subprocess.Popen([a.replace('SOCKET', self.socket) for a in args],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 10
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise RuntimeError(f'{args[0]} does not start: {self.log.read()[-500:]}')
            time.sleep(0.01)

    def load(self, b, *args):
        cmd = [os.path.join(b.build, 'tests/vhost/vhost-load'), '-p', str(self.process.pid),
               *[str(a) for a in args], self.socket]
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=120)
        if r.returncode:
            raise RuntimeError(f"{' '.join(cmd)}: {r.stderr.strip()}")
        return json.loads(r.stdout)

    def resident(self):
        with open(f'/proc/{self.process.pid}/status') as f:
            return next(int(line.split()[1]) for line in f if line.startswith('VmRSS'))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()


def ours(b, disk):
    return [os.path.join(b.build, 'tapdisk'), '-q', '--disk', disk, '--vhost-user-blk',
            'socket=SOCKET,queues=1']


def theirs(driver, path):
    if driver == 'null':
        nodes = ['--blockdev', f'driver=null-co,node-name=d0,size={GIB},read-zeroes=off']
    else:
        nodes = ['--blockdev', f'driver=file,node-name=f0,filename={path},cache.direct=on,aio=native,'
                 'cache.no-flush=off', '--blockdev', f'driver={driver},node-name=d0,file=f0']
    return [THEIRS, *nodes, '--export', 'type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,'
            'addr.path=SOCKET,writable=on,num-queues=1']


def need(b):
    if not shutil.which(THEIRS):
        raise RuntimeError(f'{THEIRS} is not installed')
    if not os.path.exists(os.path.join(b.build, 'tapdisk')):
        raise RuntimeError('tapdisk is not built')


def measure(b, our_args, their_args, *load):
    """Both in turn, each time in the other order: two lists of what vhost-load prints."""
    need(b)
    got = {'ours': [], 'theirs': []}
    args = {'ours': our_args, 'theirs': their_args}
    for i in range(b.opt.reps):
        for who in ('ours', 'theirs') if i % 2 == 0 else ('theirs', 'ours'):
            s = Server(b, who, args[who])       # one at a time: images are locked
            try:
                got[who].append(s.load(b, '-t', b.small(1.0, 0.4), *load))
            finally:
                s.stop()
    return got['ours'], got['theirs']


def cpu(results):
    return [r['cpu_us'] for r in results]


def median(values):
    return sorted(values)[len(values) // 2]


def null(b, name, wanted):
    a, t = measure(b, ours(b, 'null:1G'), theirs('null', None))
    b.ratio(name, '4 KiB reads, CPU per I/O', cpu(a), cpu(t), wanted, 'us')
    b.value(name, '4 KiB reads, CPU per I/O', cpu(a), 'us', 0.15)
    a, t = measure(b, ours(b, 'null:1G'), theirs('null', None), '-d', 128)
    b.ratio(name, 'depth 128, CPU per I/O', cpu(a), cpu(t), wanted, 'us')


def disk_size(b):
    return b.small(GIB, 256 * MIB)


def image(b, fmt):
    """A fully written image of that format on tmpfs."""
    raw = b.full(b.mem + '/full.raw', disk_size(b))
    if fmt == 'raw':
        return raw
    path = f'{b.mem}/vhost.{fmt}'
    return b.once(path, b.tapimg, 'convert', '-f', 'raw', '-O', fmt, raw, path)


def chain(b):
    below, fmt = image(b, 'qcow2'), 'qcow2'
    for i in range(1, 10):
        path = f'{b.mem}/vhost-layer{i}.qcow2'
        b.once(path, b.tapimg, 'create', '-q', '-f', 'qcow2', '-b', below, '-F', fmt, path)
        if path + ' written' not in b.made:
            b.run(b.tapimg, 'bench', '-w', '-f', 'qcow2', '-c', disk_size(b) // (640 * KIB), '-s', 65536,
                  '-S', 640 * KIB, '-o', i * 65536, path)
            b.made[path + ' written'] = True
        below = path
    return below


def direct(fmt, path):
    return f'{fmt}:{path},direct=on'


def raw(b, name, wanted):
    path = image(b, 'raw')
    for what, load in (('4 KiB reads', ()), ('overwrites', ('-w', 100))):
        a, t = measure(b, ours(b, direct('raw', path)), theirs('raw', path), *load)
        b.ratio(name, f'{what}, CPU per I/O', cpu(a), cpu(t), wanted, 'us')
        b.value(name, f'{what}, CPU per I/O', cpu(a), 'us', 1.4)


def above_raw(b, name, what, fmt, path, wanted, load=()):
    """What a format costs more than raw, both measured now, in turn."""
    a, base = measure(b, ours(b, direct(fmt, path)), ours(b, direct('raw', image(b, 'raw'))), *load)
    got, plain = median(cpu(a)), median(cpu(base))
    b.add(name, f'{what}, CPU above raw', f'{got:.3f} us, raw {plain:.3f} us', '-', got - plain, wanted)


def formats(b, name, wanted):
    for fmt in ('qcow2', 'vhd', 'vmdk'):
        try:
            path = image(b, fmt)
        except RuntimeError as e:
            print(f'{name:17} {fmt}: {e}')
            continue
        above_raw(b, name, f'{fmt} reads', fmt, path, wanted)
        above_raw(b, name, f'{fmt} overwrites', fmt, path, wanted, ('-w', 100))
        if fmt != 'vmdk':
            a, t = measure(b, ours(b, direct(fmt, path)), theirs(FORMATS[fmt], path))
            b.ratio(name, f'{fmt} reads, CPU per I/O', cpu(a), cpu(t), 0.65, 'us')


def deep(b, name, wanted):
    above_raw(b, name, 'chain of 10, reads', 'qcow2', chain(b), wanted)


def single(b, name, wanted):
    path = image(b, 'raw')
    for what, load in (('reads', ()), ('overwrites', ('-w', 100))):
        a, t = measure(b, ours(b, direct('raw', path)), theirs('raw', path), '-d', 1, *load)
        b.value(name, f'depth 1, {what}, CPU', cpu(a), 'us', wanted, cpu(t))


def allocate(b, name, wanted):
    """First writes: each 64 KiB cluster's first 4 KiB, random order is the disk's own."""
    need(b)
    iops = {'ours': [], 'theirs': []}
    path = b.mem + '/vhost-new.qcow2'
    size = b.small(8 * GIB, 2 * GIB)
    for i in range(b.opt.reps):
        for who in ('ours', 'theirs') if i % 2 == 0 else ('theirs', 'ours'):
            if os.path.exists(path):
                os.unlink(path)
            b.run(b.tapimg, 'create', '-q', '-f', 'qcow2', path, size)
            args = ours(b, direct('qcow2', path)) if who == 'ours' else theirs('qcow2', path)
            s = Server(b, who, args)
            try:
                iops[who].append(s.load(b, '-w', 100, '-n', b.small(30000, 8000), '-t', 60)['iops'])
            finally:
                s.stop()
    os.unlink(path)
    b.ratio(name, 'first writes, time each', [1e6 / x for x in iops['ours']],
            [1e6 / x for x in iops['theirs']], wanted, 'us')


def memory(b, name, wanted):
    need(b)
    got = []
    for args in (ours(b, direct('raw', image(b, 'raw'))),
                 theirs('raw', image(b, 'raw'))):
        s = Server(b, 'one', args)
        try:
            time.sleep(0.3)
            got.append(s.resident() / KIB)
        finally:
            s.stop()
    b.value(name, 'idle, one disk, resident', [got[0]], 'MiB', wanted, [got[1]])


ROWS = [
    ('vhost-null', null, 0.5),
    ('vhost-raw', raw, 0.65),
    ('vhost-formats', formats, 0.2),
    ('vhost-chain', deep, 0.2),
    ('vhost-depth1', single, 5.0),
    ('vhost-allocate', allocate, 1 / 3),
    ('vhost-memory', memory, 3e6 / MIB),
]
