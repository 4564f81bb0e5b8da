#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Measures tapimg beside qemu-img, in turn, on the same files, in the same run.

  bench.py [--build DIR] [--rows a,b] [--list] [--quick] [--reps N] [--disk DIR] [--tmpfs DIR]
           [--json FILE]

Each row is run A B, B A, A B, ... and its medians are compared.  CPU is what wait4() reports for
the child.  "wanted" is the most that the ratio (ours / qemu-img's) or the value may be.
--quick makes the images smaller and does three repetitions.  Rows that need a slow disk use --disk
(default: TMPDIR or /var/tmp), the others --tmpfs (/dev/shm), always with O_DIRECT where both can.
"""
import argparse
import glob
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
ROWS = []


class Bench:
    """Folders, programs and options of one run."""

    def __init__(self, opt):
        self.opt = opt
        self.build = os.path.abspath(opt.build)
        self.tapimg = os.environ.get('TAPIMG', os.path.join(self.build, 'tapimg'))
        self.qemu = 'qemu-img'
        self.runner = os.path.join(self.build, 'tests/bench/runner')
        self.results = []
        self.mem = tempfile.mkdtemp(prefix='tapimg-bench-', dir=opt.tmpfs)
        self.disk = tempfile.mkdtemp(prefix='tapimg-bench-', dir=opt.disk)
        self.made = {}

    def close(self):
        shutil.rmtree(self.mem, ignore_errors=True)
        shutil.rmtree(self.disk, ignore_errors=True)

    def small(self, full, quick):
        return quick if self.opt.quick else full

    def run(self, *args):
        """Runs a program: (wall, cpu, kib)."""
        args = [str(a) for a in args]
        result = os.path.join(self.mem, 'result')
        r = subprocess.run([self.runner, result, *args], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, universal_newlines=True)
        with open(result) as f:
            status, wall, cpu, kib = f.read().split()
        if r.returncode or status != '0':
            raise RuntimeError(f"{' '.join(args)}: status {status}: {r.stdout.strip()[-500:]}")
        return float(wall), float(cpu), float(kib)

    def pair(self, ours, theirs, before=None, reps=None, warm=False):
        """Both command lines in turn; before(who) prepares each run.  Two lists of results."""
        got = {'ours': [], 'theirs': []}
        cmds = {'ours': ours, 'theirs': theirs}
        reps = reps or self.opt.reps
        for i in range(-1 if warm else 0, reps):
            for who in ('ours', 'theirs') if i % 2 == 0 else ('theirs', 'ours'):
                if before:
                    before(who)
                r = self.run(*cmds[who])
                if i >= 0:
                    got[who].append(r)
        return got['ours'], got['theirs']

    # --- results

    def ratio(self, name, what, ours, theirs, wanted, unit='s', scale=1.0):
        a, b = sorted(x * scale for x in ours), sorted(x * scale for x in theirs)
        ma, mb = a[len(a) // 2], b[len(b) // 2]
        self.add(name, what, f'{ma:.4g} {unit} ({a[0]:.4g} to {a[-1]:.4g})',
                 f'{mb:.4g} {unit} ({b[0]:.4g} to {b[-1]:.4g})', ma / mb if mb else float('inf'),
                 wanted)

    def value(self, name, what, ours, unit, wanted, theirs=None):
        a = sorted(ours)
        m = a[len(a) // 2]
        b = sorted(theirs or [])
        self.add(name, what, f'{m:.4g} {unit} ({a[0]:.4g} to {a[-1]:.4g})',
                 f'{b[len(b) // 2]:.4g} {unit}' if b else '-', m, wanted)

    def add(self, name, what, ours, theirs, number, wanted, low=None):
        good = number <= wanted and (low is None or number >= low)
        self.results.append(dict(row=name, what=what, ours=ours, theirs=theirs,
                                 number=round(number, 4), wanted=wanted, met=good))
        print(f'{name:17} {what:24} {ours:32} {theirs:32} {number:8.3g} {wanted:8.3g}  '
              f'{"pass" if good else "MISS"}', flush=True)

    # --- files

    def data(self, size):
        """Bytes of the system's own programs and texts, which compress as real disks do."""
        got = bytearray()
        for top in ('/usr/lib', '/usr/bin', '/usr/share', '/usr/include'):
            for folder, dirs, files in os.walk(top):
                dirs.sort()
                for name in sorted(files):
                    path = os.path.join(folder, name)
                    if not os.path.islink(path) and os.path.isfile(path):
                        try:
                            with open(path, 'rb') as f:
                                got += f.read(size - len(got))
                        except OSError:
                            continue
                    if len(got) >= size:
                        return bytes(got)
        while len(got) < size:
            got += got[:size - len(got)]
        return bytes(got)

    def sparse(self, path, size, data, pieces=96):
        """A raw disk of @size with @data bytes in @pieces runs with holes between."""
        if path in self.made:
            return path
        blob, rng = self.data(data), random.Random(7)
        run = data // pieces // 4096 * 4096
        slots = sorted(rng.sample(range(size // (run + 65536)), pieces))
        with open(path, 'wb') as f:
            f.truncate(size)
            for i, slot in enumerate(slots):
                f.seek(slot * (run + 65536) // 65536 * 65536)
                f.write(blob[i * run:(i + 1) * run])
            f.flush()
            os.fsync(f.fileno())
        self.made[path] = True
        return path

    def full(self, path, size):
        """A raw disk, every byte written."""
        if path not in self.made:
            block = random.Random(3).randbytes(MIB)
            with open(path, 'wb') as f:
                for _ in range(size // MIB):
                    f.write(block)
            self.made[path] = True
        return path

    def once(self, path, *cmd):
        """Makes @path by a command unless that has been done."""
        if path not in self.made:
            self.run(*cmd)
            self.made[path] = True
        return path


def row(wanted):
    """Registers a function as a row of the table."""
    def wrap(fn):
        ROWS.append((fn.__name__.replace('_', '-'), fn, wanted))
        return fn
    return wrap


# ------------------------------------------------------------------ requests

def reads(b, name, fmt, img, wanted):
    count = b.small(200000, 50000)
    args = ['bench', '-c', count, '-d', 32, '-s', 4096, '-S', MIB + 4096, '-t', 'none', '-f', fmt]
    ours, theirs = b.pair([b.tapimg, *args, img], [b.qemu, *args, '-i', 'native', img])
    b.ratio(name, '4 KiB reads, CPU per I/O', [r[1] for r in ours], [r[1] for r in theirs], wanted,
            'us', 1e6 / count)


def disk_size(b):
    return b.small(GIB, 256 * MIB)


@row(0.6)
def reads_raw(b, name, wanted):
    reads(b, name, 'raw', b.full(b.mem + '/full.raw', disk_size(b)), wanted)


def full_qcow2(b):
    raw = b.full(b.mem + '/full.raw', disk_size(b))
    return b.once(b.mem + '/full.qcow2', b.qemu, 'convert', '-O', 'qcow2', raw,
                  b.mem + '/full.qcow2')


@row(0.6)
def reads_qcow2(b, name, wanted):
    reads(b, name, 'qcow2', full_qcow2(b), wanted)


@row(0.6)
def reads_chain(b, name, wanted):
    below, size = full_qcow2(b), disk_size(b)
    for i in range(1, 10):
        img = f'{b.mem}/layer{i}.qcow2'
        b.once(img, b.qemu, 'create', '-q', '-f', 'qcow2', '-b', below, '-F', 'qcow2', img)
        if img + ' written' not in b.made:
            b.run(b.qemu, 'bench', '-w', '-f', 'qcow2', '-c', size // (640 * KIB), '-s', 65536,
                  '-S', 640 * KIB, '-o', i * 65536, img)
            b.made[img + ' written'] = True
        below = img
    reads(b, name, 'qcow2', below, wanted)


def allocate(b, name, folder, wanted):
    count, img = b.small(32768, 8192), folder + '/alloc.qcow2'
    args = ['bench', '-w', '-c', count, '-d', 8, '-s', 4096, '-S', 37 * 65536 + 4096, '-t', 'none',
            '-f', 'qcow2']

    def fresh(_who):
        if os.path.exists(img):
            os.unlink(img)
        b.run(b.qemu, 'create', '-q', '-f', 'qcow2', img, 16 * GIB)
    ours, theirs = b.pair([b.tapimg, *args, img], [b.qemu, *args, '-i', 'native', img], fresh)
    b.ratio(name, '4 KiB first writes, time', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    os.unlink(img)


@row(0.7)
def allocate_tmpfs(b, name, wanted):
    allocate(b, name, b.mem, wanted)


@row(0.7)
def allocate_disk(b, name, wanted):
    allocate(b, name, b.disk, wanted)


# ---------------------------------------------------------------- converting

def convert(b, name, src, src_fmt, dst_fmt, wanted):
    dst = b.disk + '/out'
    args = ['convert', '-t', 'none', '-T', 'none', '-W', '-m', 16, '-f', src_fmt, '-O', dst_fmt, src,
            dst]

    def clean(_who):
        if os.path.exists(dst):
            os.unlink(dst)
        os.sync()
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean, warm=True)
    b.ratio(name, 'convert, CPU', [r[1] for r in ours], [r[1] for r in theirs], wanted)
    b.ratio(name, 'convert, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    os.unlink(dst)


def data_disk(b):
    return b.sparse(b.disk + '/data.raw', b.small(4 * GIB, GIB), b.small(1536 * MIB, 256 * MIB))


@row(1.0)
def convert_raw_qcow2(b, name, wanted):
    convert(b, name, data_disk(b), 'raw', 'qcow2', wanted)


@row(1.0)
def convert_qcow2_raw(b, name, wanted):
    raw = data_disk(b)
    img = b.once(b.disk + '/data.qcow2', b.qemu, 'convert', '-t', 'none', '-T', 'none', '-f', 'raw',
                 '-O', 'qcow2', raw, b.disk + '/data.qcow2')
    convert(b, name, img, 'qcow2', 'raw', wanted)


def huge(b, name, src, src_fmt, dst_fmt, wanted):
    dst = b.mem + '/huge.out'
    args = ['convert', '-f', src_fmt, '-O', dst_fmt, src, dst]

    def clean(_who):
        if os.path.exists(dst):
            os.unlink(dst)
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean)
    b.ratio(name, '1 TiB, 64 MiB data, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    os.unlink(dst)


def huge_raw(b):
    return b.sparse(b.mem + '/huge.raw', TIB, 64 * MIB, 256)


@row(0.5)
def huge_raw_qcow2(b, name, wanted):
    huge(b, name, huge_raw(b), 'raw', 'qcow2', wanted)


@row(0.5)
def huge_qcow2_raw(b, name, wanted):
    img = b.once(b.mem + '/huge.qcow2', b.qemu, 'convert', '-f', 'raw', '-O', 'qcow2', huge_raw(b),
                 b.mem + '/huge.qcow2')
    huge(b, name, img, 'qcow2', 'raw', wanted)


@row(0.5)
def huge_qcow2_qcow2(b, name, wanted):
    img = b.once(b.mem + '/huge.qcow2', b.qemu, 'convert', '-f', 'raw', '-O', 'qcow2', huge_raw(b),
                 b.mem + '/huge.qcow2')
    huge(b, name, img, 'qcow2', 'qcow2', wanted)


def compressible(b):
    size = b.small(512 * MIB, 128 * MIB)
    return b.sparse(b.mem + '/files.raw', size + size // 4, size, 16)


def compress(b, name, kind, wanted):
    src, dst = compressible(b), b.mem + '/compressed'
    args = ['convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', f'compression_type={kind}', src]
    sizes = {}

    def clean(_who):
        for who in ('ours', 'theirs'):
            if os.path.exists(dst + who):
                sizes[who] = os.stat(dst + who).st_size
                os.unlink(dst + who)
    ours, theirs = b.pair([b.tapimg, *args, dst + 'ours'], [b.qemu, *args, dst + 'theirs'], clean,
                          reps=min(b.opt.reps, 5))
    clean('')
    b.ratio(name, 'convert -c, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    b.ratio(name, 'convert -c, file size', [sizes['ours']], [sizes['theirs']], 1.02, 'MiB', 1 / MIB)


@row(0.5)
def compress_zlib(b, name, wanted):
    compress(b, name, 'zlib', wanted)


@row(0.5)
def compress_zstd(b, name, wanted):
    compress(b, name, 'zstd', wanted)


def expand(b, name, kind, wanted):
    img, dst = f'{b.mem}/{kind}.qcow2', b.mem + '/expanded'
    b.once(img, b.qemu, 'convert', '-c', '-W', '-f', 'raw', '-O', 'qcow2', '-o',
           f'compression_type={kind}', compressible(b), img)
    args = ['convert', '-f', 'qcow2', '-O', 'raw', img, dst]

    def clean(_who):
        if os.path.exists(dst):
            os.unlink(dst)
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean)
    b.ratio(name, 'read compressed, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    b.ratio(name, 'read compressed, CPU', [r[1] for r in ours], [r[1] for r in theirs], 1.0)
    os.unlink(dst)


@row(0.5)
def expand_zlib(b, name, wanted):
    expand(b, name, 'zlib', wanted)


@row(0.5)
def expand_zstd(b, name, wanted):
    expand(b, name, 'zstd', wanted)


# ------------------------------------------------------------ administration

def mapped(b):
    size = b.small(2 * TIB, 256 * GIB)
    img = b.mem + '/mapped.qcow2'
    return b.once(img, b.qemu, 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', img,
                  size)


@row(0.6)
def check(b, name, wanted):
    args = ['check', '-f', 'qcow2', mapped(b)]
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], warm=True)
    b.ratio(name, 'check 2 TiB, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    b.ratio(name, 'check 2 TiB, memory', [r[2] for r in ours], [r[2] for r in theirs], 0.5, 'MiB',
            1 / KIB)


@row(0.1)
def snapshot(b, name, wanted):
    img = mapped(b)
    made = {'ours': [], 'theirs': []}
    gone = {'ours': [], 'theirs': []}
    for i in range(b.small(5, 1)):
        for who in ('ours', 'theirs') if i % 2 == 0 else ('theirs', 'ours'):
            prog = b.tapimg if who == 'ours' else b.qemu
            made[who].append(b.run(prog, 'snapshot', '-c', 'one', img)[0])
            gone[who].append(b.run(prog, 'snapshot', '-d', 'one', img)[0])
    b.ratio(name, 'snapshot -c 2 TiB, wall', made['ours'], made['theirs'], wanted)
    b.ratio(name, 'snapshot -d 2 TiB, wall', gone['ours'], gone['theirs'], wanted)


def brief(b, name, verb):
    img = b.mem + '/small.qcow2'
    b.once(img, b.qemu, 'create', '-q', '-f', 'qcow2', img, GIB)
    if img + ' written' not in b.made:
        b.run(b.qemu, 'bench', '-w', '-f', 'qcow2', '-c', 100, '-s', 65536, '-S', 3 * 65536, img)
        b.made[img + ' written'] = True
    ours, theirs = b.pair([b.tapimg, verb, img], [b.qemu, verb, img], reps=51, warm=True)
    empty = sorted(b.run('/bin/true')[0] * 1e3 for _ in range(51))
    b.value(name, f'{verb}, wall', [r[0] * 1e3 for r in ours], 'ms', 2.0,
            [r[0] * 1e3 for r in theirs])
    b.value(name, f'{verb}, resident', [r[2] / KIB for r in ours], 'MiB', 4e6 / MIB,
            [r[2] / KIB for r in theirs])
    # how long this machine takes to start anything
    print(f'{"":18}an empty program, wall   {empty[25]:.4g} ms ({empty[0]:.4g} to {empty[-1]:.4g})')


@row(2.0)
def info(b, name, wanted):
    brief(b, name, 'info')


@row(2.0)
def map(b, name, wanted):
    brief(b, name, 'map')


@row(120.0)
def engine(b, name, wanted):
    """The library's own share of a request, by tests/bench/engine."""
    out = subprocess.run([os.path.join(b.build, 'tests/bench/engine'), '-n',
                          str(b.small(1000000, 300000))], stdout=subprocess.PIPE, check=True,
                         universal_newlines=True, env=dict(os.environ, TMPDIR=b.mem)).stdout
    for kind, op, total, least, most, own in re.findall(
            r'^(\w+) +(\w+) +([\d.]+) ns \(([\d.]+) to ([\d.]+)\)  own ([\d.-]+) ns$', out, re.M):
        b.add(name, f'{kind} {op}, own share', f'{own} ns (of {total}, {least} to {most})', '-',
              float(own), wanted)
    for line in out.splitlines():
        if line.startswith('seam'):
            print(' ' * 18 + line)


def more_rows():
    """Rows of the modules beside this one: each rows_NAME.py has ROWS, of (name, function, wanted)."""
    here = os.path.dirname(os.path.abspath(__file__))
    for path in sorted(glob.glob(here + '/rows_*.py')):
        ROWS.extend(importlib.import_module(os.path.basename(path)[:-3]).ROWS)


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument('--build', default='build')
    p.add_argument('--rows', help='only those whose name begins so, comma between')
    p.add_argument('--list', action='store_true')
    p.add_argument('--quick', action='store_true')
    p.add_argument('--reps', type=int)
    p.add_argument('--disk', default=os.environ.get('TMPDIR', '/var/tmp'))
    p.add_argument('--tmpfs', default='/dev/shm')
    p.add_argument('--json')
    opt = p.parse_args()
    more_rows()
    opt.reps = opt.reps or (3 if opt.quick else 5)
    wanted = [w for w in (opt.rows or '').split(',') if w]
    rows = [r for r in ROWS if not wanted or any(r[0].startswith(w) for w in wanted)]
    if opt.list:
        for name, _, limit in rows:
            print(f'{name:20} {limit}')
        return 0
    if not shutil.which('qemu-img'):
        print('bench: qemu-img is not installed: nothing to compare with', file=sys.stderr)
        return 1
    print(f"{'row':17} {'what':24} {'tapimg: median (spread)':32} {'qemu-img: median (spread)':32} "
          f"{'ratio':>8} {'wanted':>8}")
    b = Bench(opt)
    failed = 0
    try:
        for name, fn, limit in rows:
            try:
                fn(b, name, limit)
            except (RuntimeError, subprocess.CalledProcessError, OSError) as e:
                failed += 1
                print(f'{name:14} could not be measured: {e}', flush=True)
    finally:
        b.close()
    met = sum(r['met'] for r in b.results)
    print(f'{met} of {len(b.results)} values as wanted' + (f', {failed} rows failed' if failed else ''))
    if opt.json:
        with open(opt.json, 'w') as f:
            json.dump(b.results, f, indent=1)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
