#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Random operations on qcow2 images by us and by qemu in turn, against an oracle raw file.

  random-ops.py [--seed N] [--seeds N] [--seconds N] [-v]

First every row of a matrix of options, then random options until the time is over (20 s; with
TAPIMG_LONG=1 or --seeds as many seeds as asked).  After each batch of operations both programs
check the image and both compare it with the oracle.  A failure names its seed; --seed repeats it.
"""
import argparse
import os
import random
import sys
import tempfile
import time

from libinterop import (BUILD, IMGIO, LONG, QEMU, TAPIMG, Counter, Failed, LOG, Oracle, Pool, have,
                        sh)

KIB, MIB = 1 << 10, 1 << 20

MATRIX = [
    {}, {'compat': '0.10'}, {'cluster_size': 512}, {'cluster_size': 4 * KIB},
    {'cluster_size': 2 * MIB}, {'cluster_size': 512, 'refcount_bits': 64},
    {'refcount_bits': 1}, {'refcount_bits': 2}, {'refcount_bits': 4}, {'refcount_bits': 8},
    {'refcount_bits': 32}, {'refcount_bits': 64}, {'lazy_refcounts': 'on'},
    {'extended_l2': 'on'}, {'extended_l2': 'on', 'cluster_size': 16 * KIB},
    {'extended_l2': 'on', 'cluster_size': 2 * MIB}, {'compression_type': 'zstd'},
    {'compression_type': 'zstd', 'cluster_size': 4 * KIB}, {'data_file': 'x'},
    {'data_file': 'x', 'data_file_raw': 'on'}, {'data_file': 'x', 'extended_l2': 'on'},
    {'preallocation': 'metadata'}, {'preallocation': 'falloc'}, {'preallocation': 'full'},
    {'preallocation': 'metadata', 'extended_l2': 'on'},
    {'preallocation': 'metadata', 'cluster_size': 1 * KIB},
    {'compat': '0.10', 'cluster_size': 128 * KIB},
]


def random_options(rng):
    o = {}
    if rng.random() < .15:
        o['compat'] = '0.10'
    o['cluster_size'] = 1 << rng.choice([9, 10, 11, 12, 13, 14, 15, 16, 16, 16, 17, 18, 20, 21])
    if 'compat' not in o:
        if rng.random() < .4:
            o['refcount_bits'] = 1 << rng.randrange(7)
        if rng.random() < .2:
            o['lazy_refcounts'] = 'on'
        if rng.random() < .3 and o['cluster_size'] >= 16 * KIB:
            o['extended_l2'] = 'on'
        if rng.random() < .4:
            o['compression_type'] = 'zstd'
        if rng.random() < .15:
            o['data_file'] = 'x'
            if rng.random() < .4:
                o['data_file_raw'] = 'on'
    if rng.random() < .2 and o.get('data_file_raw') != 'on':
        o['preallocation'] = rng.choice(['metadata', 'falloc', 'full'])
    return o


class Image:
    """One image under test, possibly the top of a chain."""

    def __init__(self, run, options, backing=None, size=None):
        self.run, self.options, self.backing = run, dict(options), backing
        self.path = run.name('qcow2')
        self.size = size
        self.cluster = int(options.get('cluster_size', 64 * KIB))
        self.snaps = {}
        self.touched = set()        # clusters that are or may be allocated
        if 'data_file' in self.options:
            self.options['data_file'] = self.path + '.data'
            self.touched = None     # compressed clusters are impossible
        if self.options.get('preallocation', 'off') != 'off':
            self.touched = None
        create = [run.tool(), 'create', '-q', '-f', 'qcow2']
        if self.options:
            create += ['-o', ','.join(f'{k}={v}' for k, v in self.options.items())]
        if backing:
            create += ['-b', backing.path, '-F', 'qcow2']
        sh(*create, self.path, size)

    def depth(self):
        return 1 + (self.backing.depth() if self.backing else 0)

    def v3(self):
        return self.options.get('compat') not in ('0.10', 'v2')

    def touch(self, off, length):
        if self.touched is not None and length:
            self.touched.update(range(off // self.cluster, (off + length - 1) // self.cluster + 1))

    def fresh_cluster(self, rng):
        """A whole cluster that nobody has touched, or None."""
        n = self.size // self.cluster
        if self.touched is None or not n:
            return None
        for _ in range(20):
            c = rng.randrange(n)
            if c not in self.touched:
                self.touched.add(c)
                return c * self.cluster
        return None


class Run:
    """One seed."""

    def __init__(self, folder, pool, seed, options, rounds):
        self.rng = random.Random(seed)
        self.folder, self.pool, self.rounds = folder, pool, rounds
        self.count = 0
        self.options = options if options is not None else random_options(self.rng)
        cluster = int(self.options.get('cluster_size', 64 * KIB))
        most = 4 * MIB if cluster < 4 * KIB else 16 * MIB if cluster < 64 * KIB else 48 * MIB
        self.size = self.rng.randrange(most // 2, most) // 512 * 512
        if self.rng.random() < .3:
            self.size = most
        LOG.add(f'# seed {seed} options {self.options} size {self.size}')

    def name(self, suffix):
        self.count += 1
        return os.path.join(self.folder, f'{self.count}.{suffix}')

    def tool(self):
        return self.rng.choice([TAPIMG, QEMU])

    def range(self):
        """A range with the boundaries that matter, or random ones."""
        rng, c = self.rng, self.image.cluster
        kind = rng.random()
        if kind < .3:
            off, length = rng.randrange(self.size), rng.randrange(1, 3 * c)
        elif kind < .6:
            off = rng.randrange(self.size) // c * c + rng.choice([0, 0, 512, c // 2, c - 512])
            length = rng.choice([512, 4096, c, 2 * c, c + 512, max(c // 32, 512)])
        elif kind < .7:
            off, length = self.size - rng.randrange(1, min(4 * c, self.size)), 4 * c
        elif kind < .75:
            off, length = 0, rng.randrange(1, 3 * c)
        else:
            off = rng.randrange(self.size) // 4096 * 4096
            length = rng.choice([4096, 8192, 65536, 300000])
        off = min(off, self.size - 1)
        return off, max(1, min(length, self.size - off, 2 * MIB))

    def data(self, length):
        at = self.rng.randrange(self.pool.SIZE - length)
        return at, self.pool.data[at:at + length]

    # --- batches of operations

    def batch_ours(self):
        rng, lines = self.rng, []
        for _ in range(rng.choice([3, 10, 30])):
            off, length = self.range()
            kind = rng.choices('wWzZdcf', [10, 2, 2, 2, 1, 3, 1])[0]
            if kind == 'c':
                off, length = self.image.fresh_cluster(rng), self.image.cluster
                if off is None:
                    continue
            elif kind != 'f':
                self.image.touch(off, length)
            if kind in 'wWc':
                at, data = self.data(length)
                self.oracle.write(off, data)
                lines.append(f'{kind} {off} {length} {at}')
            elif kind in 'zZ':
                self.oracle.write(off, bytes(length))
                lines.append(f'{kind} {off} {length}')
            elif kind == 'd':
                self.oracle.undefined(off, length)
                lines.append(f'd {off} {length}')
            else:
                lines.append('f')
        sh(IMGIO, '-d', rng.choice([1, 4, 32]), '-t', rng.choice(['', 'd', 'w', 'm', 'dm', 'um']),
           '-f', 'qcow2', '-p', self.pool.path, self.image.path, stdin='\n'.join(lines) + '\n')

    def batch_qemu(self):
        rng, args = self.rng, []
        for _ in range(rng.choice([3, 10, 30])):
            off, length = self.range()
            kind = rng.choices('wzZdcf', [10, 2, 2, 1, 3, 1])[0]
            if kind == 'c':
                off, length = self.image.fresh_cluster(rng), self.image.cluster
                if off is None:
                    continue
            elif kind != 'f':
                self.image.touch(off, length)
            byte = rng.randrange(1, 255)
            if kind in 'wc':
                self.oracle.write(off, bytes([byte]) * length)
                args += ['-c', f'write {"-c " if kind == "c" else ""}-P {byte} {off} {length}']
            elif kind in 'zZ':
                self.oracle.write(off, bytes(length))
                args += ['-c', f'write -z {"-u " if kind == "Z" else ""}{off} {length}']
            elif kind == 'd':
                self.oracle.undefined(off, length)
                args += ['-c', f'discard {off} {length}']
            else:
                args += ['-c', 'flush']
        if args:
            out = sh('qemu-io', '-d', rng.choice(['unmap', 'ignore']), '-t',
                     rng.choice(['writeback', 'none']), '-f', 'qcow2', *args, self.image.path,
                     quiet=True)
            if 'failed' in out or 'rror' in out:
                raise Failed('qemu-io: ' + out[-800:])

    # --- comparing

    def check_tool(self, tool, path):
        sh(tool, 'check', '-q', '-f', 'qcow2', path)

    def checkpoint(self):
        rng, img = self.rng, self.image
        for tool in (QEMU, TAPIMG):
            self.check_tool(tool, img.path)
        if self.oracle.open:
            out = self.name('raw')
            sh(self.tool(), 'convert', '-f', 'qcow2', '-O', 'raw', img.path, out)
            self.oracle.settle(out)
            os.unlink(out)
        for tool in (QEMU, TAPIMG):
            sh(tool, 'compare', '-f', 'raw', '-F', 'qcow2', self.oracle.path, img.path)
        if rng.random() < .5:
            lines = ['v %d %d' % self.range() for _ in range(40)]
            sh(IMGIO, '-t', rng.choice(['r', 'rd']), '-f', 'qcow2', '-o', self.oracle.path, img.path,
               stdin='\n'.join(lines) + '\n')

    def check_snapshots(self):
        for name, (path, size) in self.image.snaps.items():
            out = self.name('raw')
            sh(self.tool(), 'convert', '-l', f'snapshot.name={name}', '-f', 'qcow2', '-O', 'raw',
               self.image.path, out)
            if size == self.oracle.size:
                sh('cmp', path, out)
            os.unlink(out)

    # --- administration

    def admin(self):
        fn = self.rng.choice([self.do_snapshot, self.do_snapshot, self.do_resize, self.do_overlay,
                              self.do_commit, self.do_rebase, self.do_amend, self.do_convert,
                              self.do_repeat])
        LOG.add(f'# {fn.__name__}')
        fn()

    def can_snapshot(self):
        o = self.image.options
        return 'data_file' not in o and int(o.get('refcount_bits', 16)) >= 8

    def do_snapshot(self):
        rng, img = self.rng, self.image
        if not self.can_snapshot():
            return
        what = rng.choice(['create', 'create', 'apply', 'delete', 'read'])
        if what == 'create' and len(img.snaps) < 6:
            name = f's{self.count}'
            saved = self.name('saved')
            img.snaps[name] = (saved, self.oracle.save(saved))
            sh(self.tool(), 'snapshot', '-c', name, img.path)
        elif not img.snaps:
            return
        elif what == 'apply':
            name = rng.choice(sorted(img.snaps))
            path, size = img.snaps[name]
            if size != self.size and not img.v3():
                return
            sh(self.tool(), 'snapshot', '-a', name, img.path)
            self.oracle.load(path, size)
            self.size = img.size = size
            img.touched = None
        elif what == 'delete':
            name = rng.choice(sorted(img.snaps))
            sh(self.tool(), 'snapshot', '-d', name, img.path)
            os.unlink(img.snaps.pop(name)[0])
        self.check_snapshots()

    def do_resize(self):
        rng, img = self.rng, self.image
        if img.snaps and not img.v3():
            return
        grow = bool(img.snaps) or rng.random() < .6
        size = self.size + rng.randrange(1, 9 * MIB) // 512 * 512 if grow else \
            rng.randrange(MIB, max(self.size, MIB + 512)) // 512 * 512
        args = [self.tool(), 'resize', '-q', '-f', 'qcow2']
        if size < self.size:
            args.append('--shrink')
        sh(*args, img.path, size)
        self.oracle.open = [(a, min(b, size)) for a, b in self.oracle.open if a < size]
        self.oracle.resize(size)
        self.size = img.size = size

    def do_overlay(self):
        if self.image.depth() > 4:
            return
        rng = self.rng
        options = random_options(rng)
        options.pop('preallocation', None)
        options.pop('data_file_raw', None)
        size = rng.choice([self.size, self.size, self.size + 5 * MIB + 512])
        self.image = Image(self, options, self.image, size)
        self.oracle.resize(size)
        self.size = size

    def do_commit(self):
        img = self.image
        if not img.backing or img.backing.snaps and img.size > img.backing.size \
                and not img.backing.v3():
            return
        sh(self.tool(), 'commit', '-q', *(['-d'] if img.snaps else []), '-f', 'qcow2', img.path)
        base = img.backing
        self.size = base.size = max(img.size, base.size)
        base.touched = None
        self.image = base

    def do_rebase(self):
        img, rng = self.image, self.rng
        if not img.backing or img.snaps:
            return
        to = img.backing.backing if rng.random() < .5 else None
        sh(self.tool(), 'rebase', '-q', '-f', 'qcow2', '-b', to.path if to else '',
           *(['-F', 'qcow2'] if to else []), img.path)
        img.backing = to
        img.touched = None

    def do_amend(self):
        img, rng = self.image, self.rng
        o = img.options
        if not img.v3():
            change = {'compat': '1.1'}
        else:
            change = rng.choice([{'lazy_refcounts': 'on'}, {'lazy_refcounts': 'off'},
                                 {"refcount_bits": 64}, {"refcount_bits": 16},
                                 {'refcount_bits': 8}])
            plain = not set(o) & {'data_file', 'extended_l2', 'lazy_refcounts'} and \
                o.get('compression_type') != 'zstd' and int(o.get('refcount_bits', 16)) == 16
            if plain and not img.snaps and not img.backing and rng.random() < .5:
                change = {'compat': '0.10'}
        # qemu-img 7.2 can loop for ever when it changes the width of refcounts.
        tool = TAPIMG if 'refcount_bits' in change else self.tool()
        sh(tool, 'amend', '-q', '-f', 'qcow2', '-o',
           ','.join(f'{k}={v}' for k, v in change.items()), img.path)
        if change.get('lazy_refcounts') == 'off':
            o.pop('lazy_refcounts', None)
        else:
            o.update(change)
        img.touched = None

    def do_convert(self):
        """The whole disk into a new image, by either program, which then goes on."""
        rng, old = self.rng, self.image
        options = random_options(rng)
        compress = rng.random() < .4
        if compress:
            for k in ('data_file', 'data_file_raw', 'preallocation'):
                options.pop(k, None)
        new = Image.__new__(Image)
        new.run, new.backing, new.size, new.snaps, new.touched = self, None, self.size, {}, None
        new.path = self.name('qcow2')
        if 'data_file' in options:
            options['data_file'] = new.path + '.data'
        new.options, new.cluster = options, int(options['cluster_size'])
        args = [self.tool(), 'convert', '-f', 'qcow2', '-O', 'qcow2', '-o',
                ','.join(f'{k}={v}' for k, v in options.items())]
        args += ['-c'] if compress else []
        args += ['-W'] if rng.random() < .4 else []
        args += ['-m', str(rng.choice([1, 4, 16]))] if rng.random() < .4 else []
        args += ['-S', rng.choice(['0', '4k', '64k'])] if rng.random() < .3 and not compress else []
        args += ['-t', rng.choice(['none', 'writeback', 'unsafe'])] if rng.random() < .5 else []
        sh(*args, old.path, new.path)
        self.image = new

    def do_repeat(self):
        """raw in between: the formats agree about every byte."""
        out = self.name('raw')
        sh(self.tool(), 'convert', '-f', 'qcow2', '-O', 'raw', self.image.path, out)
        sh('cmp', self.oracle.path, out)
        os.unlink(out)

    def all(self):
        self.oracle = Oracle(self.name('oracle'), self.size)
        self.image = Image(self, self.options, None, self.size)
        self.checkpoint()
        for i in range(self.rounds):
            (self.batch_ours if (i + self.rng.randrange(2)) % 2 else self.batch_qemu)()
            self.checkpoint()
            if self.rng.random() < .6:
                self.admin()
                self.checkpoint()


def one(folder, pool, seed, options, rounds):
    with tempfile.TemporaryDirectory(dir=folder, prefix=f'seed{seed}-') as sub:
        Run(sub, pool, seed, options, rounds).all()


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, help='only this one')
    p.add_argument('--seeds', type=int, default=1000 if LONG else 0, help='so many random ones')
    p.add_argument('--seconds', type=int, default=20, help='random ones until then, without --seeds')
    p.add_argument('-v', action='store_true')
    opt = p.parse_args()
    c = Counter()
    if not have(QEMU) or not have('qemu-io'):
        c.skip('random operations', 'qemu-utils is not installed')
        return c.end()
    if opt.v:
        os.environ['VERBOSE'] = '1'
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='interop-', dir=os.environ.get('TMPDIR')) as folder:
        pool = Pool(folder)
        seeds = [opt.seed] if opt.seed is not None else range(len(MATRIX))
        for n in seeds:
            options = MATRIX[n] if n < len(MATRIX) else None
            c.case(f'seed {n} {options if options is not None else ""}', one, folder, pool, n, options, 5)
        n = len(MATRIX)
        while opt.seed is None and (n < len(MATRIX) + opt.seeds if opt.seeds else
                                    time.monotonic() - begin < opt.seconds):
            c.case(f'seed {n}', one, folder, pool, n, None, 8)
            n += 1
            if c.failed >= 5:
                print('stopping after five failures')
                break
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
