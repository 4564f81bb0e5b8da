#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Random operations on QCOW images of version 1 by us and by qemu in turn, against an oracle raw file.

  qcow-random.py [--seed N] [--seconds N] [-v]

Both layouts, all sizes of clusters and tables, compressed, enciphered and backed images.  After
each batch we check the image and both programs compare it with the oracle; qemu has no check, resize and
rebase for this format, so these are ours alone.  A failure names its seed.
"""
import argparse
import os
import random
import sys
import tempfile
import time

from libinterop import IMGIO, LONG, QEMU, TAPIMG, Counter, Failed, LOG, Oracle, Pool, have, sh

MIB = 1 << 20
SECRET = 'secret,id=s,data=correct horse battery'
KEY = 'correct horse battery'


class Image:
    def __init__(self, run, size, backing=None):
        rng = run.rng
        self.run, self.size, self.backing = run, size, backing
        self.path = run.name('qcow')
        self.secret = rng.random() < .3
        self.xen = not self.secret and rng.random() < .35
        self.bits, self.entries = (12, 512) if rng.random() < .4 else \
            (rng.randrange(9, 17), 1 << rng.randrange(6, 14))
        if backing and rng.random() < .5:
            self.bits, self.entries = 9, 4096
        self.touched = set()
        tool = rng.choice([TAPIMG, QEMU])
        options = []
        if tool == TAPIMG:
            options = [f'cluster_size={1 << self.bits}', f'l2_entries={self.entries}']
            if self.xen:
                options.append('layout=xen')
            if not backing and not self.secret and rng.random() < .2:
                options.append('preallocation=' + rng.choice(['metadata', 'falloc', 'full']))
                self.touched = None
        else:
            self.xen = False
            self.bits = 9 if backing else 12
        if self.secret:
            options += ['encrypt.format=aes', 'encrypt.key-secret=s']
            self.touched = None
        if self.xen:
            self.touched = None
        self.cluster = 1 << self.bits
        sh(tool, 'create', '-q', '-f', 'qcow', '--object', SECRET,
           *(['-o', ','.join(options)] if options else []),
           *(['-b', backing.spec(), '-F', 'qcow'] if backing else []), self.path, size)

    def spec(self):
        """The name under which either program finds the image, with its secret."""
        if not self.secret and not self.backing:
            return self.path
        below = ''
        if self.backing:
            spec = self.backing.spec()
            below = ',"backing":' + (spec[5:] if spec.startswith('json:') else
                                     '{"driver":"qcow","file.filename":"%s"}' % spec)
        return 'json:{"driver":"qcow","file.filename":"%s"%s%s}' % (
            self.path, ',"encrypt.key-secret":"s"' if self.secret else '', below)

    def depth(self):
        return 1 + (self.backing.depth() if self.backing else 0)


class Run:
    def __init__(self, folder, pool, seed, rounds):
        self.rng = random.Random(seed)
        self.folder, self.pool, self.rounds, self.count = folder, pool, rounds, 0
        self.size = self.rng.randrange(MIB, 12 * MIB) // 512 * 512
        self.oracle = Oracle(self.name('oracle'), self.size)
        self.image = Image(self, self.size)
        LOG.add(f'# seed {seed} size {self.size}')

    def name(self, suffix):
        self.count += 1
        return os.path.join(self.folder, f'{self.count}.{suffix}')

    def range(self):
        rng, c = self.rng, self.image.cluster
        kind = rng.random()
        if kind < .4:
            off, length = rng.randrange(self.size), rng.randrange(1, 4 * c)
        elif kind < .8:
            off = rng.randrange(self.size) // c * c + rng.choice([0, 0, 512, c - 512])
            length = rng.choice([512, 4096, c, 2 * c, c + 512, 70000])
        else:
            off, length = self.size - rng.randrange(1, min(4 * c, self.size)), 4 * c
        off = min(off, self.size - 1)
        return off, max(1, min(length, self.size - off, MIB))

    def fresh_cluster(self):
        img = self.image
        n = img.size // img.cluster
        for _ in range(20 if img.touched is not None and n else 0):
            c = self.rng.randrange(n)
            if c not in img.touched:
                img.touched.add(c)
                return c * img.cluster, img.cluster
        return None, 0

    def touch(self, off, length):
        img = self.image
        if img.touched is not None:
            img.touched.update(range(off // img.cluster, (off + length - 1) // img.cluster + 1))

    def operations(self, kinds, weights):
        """Kind, offset, length; what is written is in the oracle afterwards."""
        for _ in range(self.rng.choice([3, 10, 40])):
            kind = self.rng.choices(kinds, weights)[0]
            off, length = self.fresh_cluster() if kind == 'c' else self.range()
            if not length:
                continue
            if kind != 'f':
                self.touch(off, length)
            yield kind, off, length

    def batch_ours(self):
        lines = []
        for kind, off, length in self.operations('wWzZdcf', [10, 2, 2, 2, 1, 3, 1]):
            if kind in 'wWc':
                at = self.rng.randrange(self.pool.SIZE - length)
                self.oracle.write(off, self.pool.data[at:at + length])
                lines.append(f'{kind} {off} {length} {at}')
            elif kind in 'zZ':
                self.oracle.write(off, bytes(length))
                lines.append(f'{kind} {off} {length}')
            elif kind == 'd':
                self.oracle.undefined(off, length)
                lines.append(f'd {off} {length}')
            else:
                lines.append('f')
        sh(IMGIO, '-d', self.rng.choice([1, 4, 32]), '-t',
           self.rng.choice(['', 'd', 'w', 'm', 'dm', 'um']), '-k', KEY, '-p', self.pool.path,
           self.image.spec(), stdin='\n'.join(lines) + '\n')

    def batch_qemu(self):
        args = []
        for kind, off, length in self.operations('wzcf', [10, 2, 3, 1]):
            byte = self.rng.randrange(1, 255)
            if kind in 'wc':
                self.oracle.write(off, bytes([byte]) * length)
                args += ['-c', f'write {"-c " if kind == "c" else ""}-P {byte} {off} {length}']
            elif kind == 'z':
                self.oracle.write(off, bytes(length))
                args += ['-c', f'write -z {off} {length}']
            else:
                args += ['-c', 'flush']
        if args:
            out = sh('qemu-io', '--object', SECRET, *args, self.image.spec(), quiet=True)
            if 'failed' in out or 'rror' in out:
                raise Failed('qemu-io: ' + out[-800:])

    def checkpoint(self):
        img = self.image
        sh(TAPIMG, 'check', '-q', '-f', 'qcow', img.path, ok=(0, 3))
        if self.oracle.open:
            out = self.name('raw')
            sh(self.rng.choice([TAPIMG, QEMU]), 'convert', '--object', SECRET, '-O', 'raw', img.spec(), out)
            self.oracle.settle(out)
            os.unlink(out)
        for tool in (QEMU, TAPIMG):
            sh(tool, 'compare', '--object', SECRET, 'json:{"driver":"raw","file.filename":"%s"}' %
               self.oracle.path, img.spec())
        if self.rng.random() < .5:
            lines = ['v %d %d' % self.range() for _ in range(40)]
            sh(IMGIO, '-t', self.rng.choice(['r', 'rd']), '-k', KEY, '-o', self.oracle.path, img.spec(),
               stdin='\n'.join(lines) + '\n')

    def admin(self):
        fn = self.rng.choice([self.do_resize, self.do_overlay, self.do_commit, self.do_convert,
                              self.do_flatten, self.do_leaks])
        LOG.add(f'# {fn.__name__}')
        fn()

    def do_resize(self):
        size = max(MIB, self.size + self.rng.randrange(-4 * MIB, 4 * MIB) // 512 * 512)
        sh(TAPIMG, 'resize', '-q', '--object', SECRET, *(['--shrink'] if size < self.size else []),
           '--image-opts', self.opts(), size)
        self.oracle.open = [(a, min(b, size)) for a, b in self.oracle.open if a < size]
        self.oracle.resize(size)
        self.size = self.image.size = size

    def opts(self):
        """The same as spec() for --image-opts."""
        img, text, prefix = self.image, [], ''
        while img:
            text += [f'{prefix}driver=qcow', f'{prefix}file.filename={img.path}']
            if img.secret:
                text.append(f'{prefix}encrypt.key-secret=s')
            img, prefix = img.backing, prefix + 'backing.'
        return ','.join(text)

    def do_overlay(self):
        if self.image.depth() > 2:
            return
        size = self.rng.choice([self.size, self.size + MIB + 512])
        self.image = Image(self, size, self.image)
        self.oracle.resize(size)
        self.size = size

    def do_commit(self):
        img = self.image
        # a disk that a resize made shorter than its base would show the base's end after it
        if not img.backing or img.size != img.backing.size:
            return
        sh(TAPIMG, 'commit', '-q', '--object', SECRET, '--image-opts', self.opts())
        self.image = img.backing
        if self.image.touched is not None:
            self.image.touched = None

    def do_flatten(self):
        """Rebases onto nothing."""
        if not self.image.backing:
            return
        sh(TAPIMG, 'rebase', '-q', '--object', SECRET, '--image-opts', '-b', '', self.opts())
        self.image.backing = None
        self.image.touched = None

    def do_convert(self):
        old, rng = self.image, self.rng
        compress = rng.random() < .4
        new = Image.__new__(Image)
        new.run, new.size, new.backing, new.path = self, self.size, None, self.name('qcow')
        new.bits, new.cluster, new.touched = 12, 4096, None
        new.secret = not compress and rng.random() < .3
        tool = rng.choice([TAPIMG, QEMU])
        options = ['encrypt.format=aes', 'encrypt.key-secret=s'] if new.secret else []
        new.xen = tool == TAPIMG and not new.secret and rng.random() < .4
        if new.xen:
            options.append('layout=xen')
        # with both, qemu-img puts clusters on top of each other: its own compare says so
        unordered = rng.random() < .3 and not (compress and tool == QEMU)
        sh(tool, 'convert', '--object', SECRET, '-O', 'qcow', *(['-c'] if compress else []),
           *(['-W'] if unordered else []), *(['-o', ','.join(options)] if options else []),
           old.spec(), new.path,
           # qemu-img is done, and exits with 1 and no message: what it wrote is compared below
           ok=(0, 1) if compress and tool == QEMU else (0,))
        self.image = new

    def do_leaks(self):
        """After the repair of leaks a second check finds none."""
        sh(TAPIMG, 'check', '-q', '-r', 'leaks', '-f', 'qcow', self.image.path, ok=(0, 3))
        sh(TAPIMG, 'check', '-q', '-f', 'qcow', self.image.path)

    def all(self):
        self.checkpoint()
        for i in range(self.rounds):
            (self.batch_ours if (i + self.rng.randrange(2)) % 2 else self.batch_qemu)()
            self.checkpoint()
            if self.rng.random() < .6:
                self.admin()
                self.checkpoint()


def one(folder, pool, seed):
    with tempfile.TemporaryDirectory(dir=folder, prefix=f'seed{seed}-') as sub:
        Run(sub, pool, seed, 6).all()


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, help='only this one')
    p.add_argument('--seconds', type=int, default=1200 if LONG else 25)
    p.add_argument('-v', action='store_true')
    opt = p.parse_args()
    c = Counter()
    if not have(QEMU) or not have('qemu-io'):
        c.skip('random operations', 'qemu-utils is not installed')
        return c.end()
    if opt.v:
        os.environ['VERBOSE'] = '1'
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='qcow-', dir=os.environ.get('TMPDIR')) as folder:
        pool = Pool(folder)
        n = 0 if opt.seed is None else opt.seed
        while True:
            c.case(f'seed {n}', one, folder, pool, n)
            n += 1
            if opt.seed is not None or c.failed >= 5 or time.monotonic() - begin > opt.seconds:
                break
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
