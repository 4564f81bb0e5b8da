#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Persistent bitmaps, used by us and by qemu in turn.

  bitmaps.py [--seed N] [--seeds N]

What is in the file after each step is read here, by a reader of its own, and compared bit by bit
with what the writes since a bitmap was made or cleared have touched.
"""
import argparse
import json
import os
import random
import struct
import sys
import tempfile

from libinterop import IMGIO, LONG, QEMU, TAPIMG, Counter, Failed, LOG, Pool, have, sh

KIB, MIB = 1 << 10, 1 << 20
ADDRESS = 0x00fffffffffffe00


def read_bitmaps(path):
    """{name: (flags, granularity, set of granules)} as stored."""
    with open(path, 'rb') as f:
        head = f.read(65536)
        cluster = 1 << struct.unpack('>I', head[20:24])[0]
        size = struct.unpack('>Q', head[24:32])[0]
        at = struct.unpack('>I', head[100:104])[0]
        consistent = struct.unpack('>Q', head[88:96])[0] & 1
        directory = None
        while True:
            kind, length = struct.unpack('>II', head[at:at + 8])
            if kind == 0:
                break
            if kind == 0x23852875:
                count, _, dir_len, dir_off = struct.unpack('>IIQQ', head[at + 8:at + 32])
                directory = dir_off
            at += 8 + (length + 7) // 8 * 8
        if directory is None:
            return {}
        if not consistent:
            raise Failed('a bitmaps extension without its autoclear bit')
        f.seek(directory)
        entries, found = f.read(dir_len), {}
        for _ in range(count):
            table, n, flags, kind, gran_bits, name_len, extra = \
                struct.unpack('>QIIBBHI', entries[:24])
            name = entries[24 + extra:24 + extra + name_len].decode()
            entries = entries[(24 + extra + name_len + 7) // 8 * 8:]
            if kind != 1 or extra:
                raise Failed(f'{name}: type {kind}, {extra} bytes of extra data')
            bits = set()
            granules = -(-size // (1 << gran_bits))
            for i in range(n):
                f.seek(table + 8 * i)
                entry = struct.unpack('>Q', f.read(8))[0]
                first = i * cluster * 8
                if not entry & ADDRESS:
                    if entry & 1:
                        bits.update(range(first, min(first + cluster * 8, granules)))
                    continue
                f.seek(entry & ADDRESS)
                for j, byte in enumerate(f.read(cluster)):
                    while byte:
                        low = byte & -byte
                        bits.add(first + j * 8 + low.bit_length() - 1)
                        byte ^= low
            if any(b >= granules for b in bits):
                raise Failed(f'{name}: bits beyond the end of the disk')
            found[name] = (flags, 1 << gran_bits, bits)
        return found


class Run:
    def __init__(self, folder, pool, seed):
        self.rng, self.folder, self.pool = random.Random(seed), folder, pool
        self.size = self.rng.randrange(4 * MIB, 64 * MIB) // 512 * 512
        self.cluster = 1 << self.rng.choice([9, 12, 16, 16, 20])
        if self.cluster == 512:
            self.size = min(self.size, 8 * MIB)
        self.path = os.path.join(folder, 'a.qcow2')
        self.maps = {}                  # name: [enabled, granularity, set of granules]
        LOG.add(f'# seed {seed}')
        sh(self.tool(), 'create', '-q', '-f', 'qcow2', '-o', f'cluster_size={self.cluster}',
           self.path, self.size)

    def tool(self):
        return self.rng.choice([TAPIMG, QEMU])

    def mark(self, off, length):
        for m in self.maps.values():
            if m[0]:
                m[2].update(range(off // m[1], (off + length - 1) // m[1] + 1))

    def writes(self):
        rng, ours, lines, args = self.rng, self.rng.random() < .5, [], []
        for _ in range(rng.choice([1, 5, 20])):
            off = rng.randrange(self.size)
            length = min(rng.choice([1, 512, 4096, 70000, 300000]), self.size - off)
            zero = rng.random() < .2
            self.mark(off, length)
            at = rng.randrange(self.pool.SIZE - length)
            lines.append(f'z {off} {length}' if zero else f'w {off} {length} {at}')
            args += ['-c', f'write {"-z" if zero else "-P 7"} {off} {length}']
        if ours:
            sh(IMGIO, '-f', 'qcow2', '-p', self.pool.path, self.path, stdin='\n'.join(lines) + '\n')
        else:
            out = sh('qemu-io', '-f', 'qcow2', *args, self.path, quiet=True)
            if 'failed' in out:
                raise Failed(out)

    def admin(self):
        rng, name = self.rng, f'b{self.rng.randrange(100)}'
        what = rng.choice(['add', 'add', 'remove', 'clear', 'enable', 'disable', 'merge'])
        if what == 'add':
            if name in self.maps or len(self.maps) >= 5:
                return
            gran = 1 << rng.randrange(12, 22)
            off = rng.random() < .3
            sh(self.tool(), 'bitmap', '--add', '-g', gran, *(['--disable'] if off else []),
               self.path, name)
            self.maps[name] = [not off, gran, set()]
            return
        if not self.maps:
            return
        name = rng.choice(sorted(self.maps))
        m = self.maps[name]
        if what == 'merge':
            other = rng.choice(sorted(self.maps))
            if other == name:
                return
            sh(self.tool(), 'bitmap', '--merge', other, self.path, name)
            _, gran, bits = self.maps[other]
            for b in bits:
                end = min((b + 1) * gran, self.size) - 1
                m[2].update(range(b * gran // m[1], end // m[1] + 1))
            return
        sh(self.tool(), 'bitmap', '--' + what, self.path, name)
        if what == 'remove':
            del self.maps[name]
        elif what == 'clear':
            m[2].clear()
        else:
            m[0] = what == 'enable'

    def verify(self, path, want):
        for tool in (QEMU, TAPIMG):
            sh(tool, 'check', '-q', path)
        got = read_bitmaps(path)
        if sorted(got) != sorted(want):
            raise Failed(f'bitmaps {sorted(got)}, not {sorted(want)}')
        for name, (enabled, gran, bits) in want.items():
            flags, g, b = got[name]
            if flags != (2 if enabled else 0) or g != gran:
                raise Failed(f'{name}: flags {flags}, granularity {g}; not {enabled}, {gran}')
            if b != bits:
                raise Failed(f'{name}: too much {sorted(b - bits)[:9]}, missing {sorted(bits - b)[:9]}')
        told = []
        for tool in (QEMU, TAPIMG):
            info = json.loads(sh(tool, 'info', '--output=json', path, quiet=True))
            told.append(sorted((b['name'], b['granularity'], sorted(b['flags']))
                               for b in info['format-specific']['data'].get('bitmaps', [])))
        if told[0] != told[1]:
            raise Failed(f'info differs: {told}')

    def copies(self):
        """convert --bitmaps by both programs."""
        for tool in (QEMU, TAPIMG):
            out = os.path.join(self.folder, 'copy.qcow2')
            sh(tool, 'convert', '--bitmaps', '-O', 'qcow2', self.path, out)
            self.verify(out, self.maps)
            sh(TAPIMG, 'compare', self.path, out)
            os.unlink(out)

    def grow(self):
        old = self.size
        self.size += self.rng.randrange(1, 2 * MIB) // 512 * 512 + 512
        sh(self.tool(), 'resize', '-q', self.path, self.size)
        # The rest of the last cluster may have been zeroed, which is a write.
        got = read_bitmaps(self.path)
        for name, m in self.maps.items():
            if m[0] and old // m[1] in got[name][2]:
                m[2].add(old // m[1])

    def all(self):
        for i in range(8):
            self.admin()
            self.verify(self.path, self.maps)
            self.writes()
            self.verify(self.path, self.maps)
            if i == 4:
                self.grow()
                self.verify(self.path, self.maps)
        self.copies()


def one(folder, pool, seed):
    with tempfile.TemporaryDirectory(dir=folder) as sub:
        Run(sub, pool, seed).all()


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int)
    p.add_argument('--seeds', type=int, default=300 if LONG else 8)
    opt = p.parse_args()
    c = Counter()
    if not have(QEMU) or not have('qemu-io'):
        c.skip('bitmaps', 'qemu-utils is not installed')
        return c.end()
    with tempfile.TemporaryDirectory(prefix='bitmaps-', dir=os.environ.get('TMPDIR')) as folder:
        pool = Pool(folder)
        for n in [opt.seed] if opt.seed is not None else range(opt.seeds):
            c.case(f'seed {n}', one, folder, pool, n)
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
