# SPDX-License-Identifier: BSD-2-Clause
"""Rows of bench.py: tapdisk beside nbdkit and qemu-nbd over NBD, on Unix sockets.

All are driven in turn by the same clients: fio's nbd engine, which keeps 32 (16) requests in flight on
one connection, and nbdcopy.  Numbers are the server's processor time for each request, threads that have
ended included, and the best of the two peers is the one to compare with.
"""
import json
import os
import shutil
import subprocess
import time

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Server:
    """A server of one export at a socket."""

    def __init__(self, b, who, args, export=''):
        self.who, self.socket = who, os.path.join(b.mem, f'{who}.sock')
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.log = open(os.path.join(b.mem, f'{who}.log'), 'w+')
        self.process = subprocess.Popen([str(a).replace('SOCKET', self.socket) for a in args],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self.uri = f'nbd+unix:///{export}?socket={self.socket}'
        end = time.monotonic() + 20
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise RuntimeError(f'{args[0]} does not start: {self.log.read()[-500:]}')
            time.sleep(0.01)

    def cpu(self):
        """Seconds of all its threads so far."""
        # the clock that clock_getcpuclockid() names: /proc/PID/stat counts ticks, and who sleeps and wakes
        # a hundred thousand times a second is not seen as it is by those
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def resident(self):
        with open(f'/proc/{self.process.pid}/status') as f:
            return next(int(line.split()[1]) for line in f if line.startswith('VmRSS'))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def null_servers(b):
    out = [Server(b, 'tapdisk', [os.path.join(b.build, 'tapdisk'), '-q', '--disk', 'null:1G', '--nbd',
                                 'socket=SOCKET'])]
    if shutil.which('nbdkit'):
        out.append(Server(b, 'nbdkit', ['nbdkit', '-f', '-U', 'SOCKET', 'null', 'size=1G']))
    if shutil.which('qemu-nbd'):
        out.append(Server(b, 'qemu-nbd', ['qemu-nbd', '-t', '-e', '8', '-k', 'SOCKET', '--image-opts',
                                          'driver=raw,file.driver=null-co,file.size=1G']))
    return out


def file_servers(b):
    """A raw file with every byte written, on tmpfs; to be read only, for it is open in all of them at once."""
    path = b.full(b.mem + '/full.raw', b.small(GIB, 256 * MIB))
    out = [Server(b, 'tapdisk', [os.path.join(b.build, 'tapdisk'), '-q', '--disk', f'raw:{path},read-only=on', '--nbd',
                                 'socket=SOCKET'])]
    if shutil.which('nbdkit'):
        out.append(Server(b, 'nbdkit', ['nbdkit', '-f', '-r', '-U', 'SOCKET', 'file', path]))
    if shutil.which('qemu-nbd'):
        out.append(Server(b, 'qemu-nbd', ['qemu-nbd', '-t', '-r', '-e', '8', '-f', 'raw', '-k', 'SOCKET', path]))
    return out


def fio(b, server, block, depth, count, rw='randread'):
    """(CPU microseconds of the server for each request, requests a second)"""
    before = server.cpu()
    r = subprocess.run(['fio', '--name=x', '--ioengine=nbd', f'--uri={server.uri}', f'--rw={rw}', f'--bs={block}',
                        f'--iodepth={depth}', f'--size={256 * MIB}', f'--io_size={block * count}', '--norandommap',
                        '--thread', '--output-format=json'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       universal_newlines=True, cwd=b.mem, check=True, timeout=300)
    job = json.loads(r.stdout[r.stdout.index('{'):])['jobs'][0]
    return (server.cpu() - before) * 1e6 / count, job['read' if 'read' in rw else 'write']['iops']


def compare(b, name, what, servers, block, depth, count, limit, rw='randread', iops=True):
    if not shutil.which('fio'):
        raise RuntimeError('fio is not installed')
    got = {s.who: [] for s in servers}
    try:
        for i in range(b.opt.reps):
            for s in servers if i % 2 == 0 else reversed(servers):
                got[s.who].append(fio(b, s, block, depth, count, rw))
    finally:
        for s in servers:
            s.stop()
    ours = got.pop('tapdisk')
    b.value(name, f'{what}, CPU', [x[0] for x in ours], 'us', limit)
    for who, runs in got.items():
        b.ratio(name, f'{what} / {who}', [x[0] for x in ours], [x[0] for x in runs], 1.0, 'us')
        if iops:
            b.ratio(name, f'time for each / {who}', [1e6 / x[1] for x in ours], [1e6 / x[1] for x in runs], 1.0,
                    'us')


def small_reads(b, name, wanted):
    compare(b, name, '4 KiB reads, depth 32', null_servers(b), 4 * KIB, 32, b.small(200000, 50000), wanted)


def large_reads(b, name, wanted):
    compare(b, name, '256 KiB reads, depth 16', null_servers(b), 256 * KIB, 16, b.small(20000, 5000), wanted)


def small_writes(b, name, wanted):
    compare(b, name, '4 KiB writes, depth 32', null_servers(b), 4 * KIB, 32, b.small(200000, 50000), wanted,
            'randwrite')


def file_reads(b, name, wanted):
    compare(b, name, 'raw 4 KiB reads', file_servers(b), 4 * KIB, 32, b.small(200000, 50000), wanted)


def copy(b, name, wanted):
    """nbdcopy of everything to nowhere: the server's time for each MiB."""
    servers, got = file_servers(b), {}
    size = b.small(GIB, 256 * MIB) / MIB
    try:
        for i in range(b.opt.reps):
            for s in servers if i % 2 == 0 else reversed(servers):
                before, start = s.cpu(), time.monotonic()
                subprocess.run(['nbdcopy', s.uri, 'null:'], check=True, timeout=300)
                got.setdefault(s.who, []).append((s.cpu() - before, time.monotonic() - start))
    finally:
        for s in servers:
            s.stop()
    ours = got.pop('tapdisk')
    for who, runs in got.items():
        b.ratio(name, f'nbdcopy, CPU / {who}', [x[0] for x in ours], [x[0] for x in runs], wanted, 'us', 1e6 / size)
        b.ratio(name, f'nbdcopy, wall / {who}', [x[1] for x in ours], [x[1] for x in runs], wanted, 's')


def idle(b, name, wanted):
    """Memory of a server with one disk that nobody uses."""
    kib = []
    for _ in range(3):
        s = Server(b, 'tapdisk', [os.path.join(b.build, 'tapdisk'), '-q', '--disk', 'null:1G', '--nbd',
                                  'socket=SOCKET'])
        time.sleep(0.3)
        kib.append(s.resident())
        s.stop()
    b.value(name, 'resident, one disk', [k / KIB for k in kib], 'MiB', wanted)


ROWS = [('nbd-read-4k', small_reads, 5.0), ('nbd-read-256k', large_reads, 45.0), ('nbd-write-4k', small_writes, 6.0),
        ('nbd-file-4k', file_reads, 7.0), ('nbd-copy', copy, 1.0), ('nbd-idle', idle, 3e6 / MIB)]
