# SPDX-License-Identifier: BSD-2-Clause
"""vhd-util: coalescing scattered extents, checking a full table, scanning many files.

With BLKTAP_BIN=folder blktap's own vhd-util is measured in the same run.
"""
import os
import shutil
import struct

MIB = 1 << 20
BLOCK = 2 * MIB


def ours(b):
    return os.path.join(b.build, 'vhd-util')


def peer(b):
    path = os.path.join(os.environ.get('BLKTAP_BIN', ''), 'vhd-util')
    return path if 'BLKTAP_BIN' in os.environ and os.access(path, os.X_OK) else None


def coalesce(b, name, wanted):
    """64 MiB in 16,000 extents of 4 KiB, 128 KiB apart, into an empty parent."""
    n = b.small(16000, 4000)
    base, child = b.mem + '/base.vhd', b.mem + '/child.vhd'
    b.run(ours(b), 'create', '-n', base, '-s', 2048)
    b.run(ours(b), 'snapshot', '-n', child, '-p', base, '-e')
    b.run(b.tapimg, 'bench', '-w', '-f', 'vhd', '-c', n, '-s', 4096, '-S', 131072, '--pattern', 90,
          child)
    shutil.copyfile(base, base + '.empty')

    def before(who):
        shutil.copyfile(base + '.empty', base)

    walls, theirs = [], []
    for _ in range(b.opt.reps):
        before('ours')
        walls.append(b.run(ours(b), 'coalesce', '-n', child)[0] * 16000 / n)
    if peer(b):
        before('theirs')
        theirs = [b.run(peer(b), 'coalesce', '-n', child)[0] * 16000 / n]
    b.value(name, '16,000 extents of 4 KiB', walls, 's', wanted, theirs)
    for path in (base, child, base + '.empty'):
        os.unlink(path)


def full_table(path, vhd_util, b, blocks):
    """Every block has its place, one behind the other; nothing else is written."""
    b.run(vhd_util, 'create', '-n', path, '-s', blocks * 2)
    with open(path, 'r+b') as f:
        footer = f.read(512)
        f.seek(0, 2)
        first = (f.tell() + 4095) // 4096 * 8 - 1
        f.seek(1536)
        f.write(struct.pack(f'>{blocks}I', *range(first, first + blocks * 4104, 4104)))
        f.seek((first + blocks * 4104) * 512)
        f.write(footer)


def check(b, name, wanted):
    blocks = b.small(1044480, 1044480)
    path = b.mem + '/full.vhd'
    full_table(path, ours(b), b, blocks)
    runs = [b.run(ours(b), 'check', '-n', path) for _ in range(b.opt.reps)]
    b.value(name, '2 TiB, every block, wall', [r[0] for r in runs], 's', wanted)
    b.value(name, '2 TiB, every block, memory', [r[2] / 1024 for r in runs], 'MiB', 32)
    os.unlink(path)


def scan(b, name, wanted):
    n = b.small(10000, 2000)
    folder = b.mem + '/scan'
    os.mkdir(folder)
    b.run(ours(b), 'create', '-n', folder + '/0.vhd', '-s', 1024)
    for i in range(1, n):
        shutil.copyfile(folder + '/0.vhd', f'{folder}/{i}.vhd')
    walls, theirs = [], []
    for _ in range(b.opt.reps):
        walls.append(b.run(ours(b), 'scan', '-m', folder + '/*.vhd')[0] * 10000 / n)
        if peer(b):
            theirs.append(b.run(peer(b), 'scan', '-m', folder + '/*.vhd')[0] * 10000 / n)
    b.value(name, '10,000 files, wall', walls, 's', wanted, theirs)
    shutil.rmtree(folder)


ROWS = [('vhd-coalesce', coalesce, 0.3), ('vhd-check', check, 1.0), ('vhd-scan', scan, 1.0)]
