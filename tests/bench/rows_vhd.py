# SPDX-License-Identifier: BSD-2-Clause
"""VHD beside qemu-img's vpc driver, beside our own of a raw disk, and through a long chain."""
import os

from versus_raw import more_than_raw

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def reads(b, name, wanted):
    """Processor time of a 4 KiB read: beside qemu-img bench, and more than that of a raw disk."""
    raw, img = b.full(b.mem + '/full.raw', b.small(GIB, 256 * MIB)), b.mem + '/full.vhd'
    count = b.small(400000, 50000)
    b.once(img, b.tapimg, 'convert', '-f', 'raw', '-O', 'vpc', raw, img)
    args = ['bench', '-c', count, '-d', 32, '-s', 4096, '-S', MIB + 4096, '-t', 'none']
    ours, theirs = b.pair([b.tapimg, *args, '-f', 'vpc', img], [b.qemu, *args, '-f', 'vpc', img])
    b.ratio(name, '4 KiB reads, CPU', [r[1] for r in ours], [r[1] for r in theirs], wanted)
    more_than_raw(b, name, count, ['vpc', img], raw, 0.15)


def allocate(b, name, wanted):
    """Each write into a block of its own; and how much of the file they fill."""
    count, img = b.small(8000, 1000), b.disk + '/alloc.vhd'
    args = ['bench', '-w', '-c', count, '-d', 8, '-s', 4096, '-S', 2 * MIB + 4096, '-t', 'none',
            '-f', 'vpc', '--pattern', 7]

    def fresh(_who):
        if os.path.exists(img):
            os.unlink(img)
        b.run(b.qemu, 'create', '-q', '-f', 'vpc', '-o', 'force_size=on', img, 64 * GIB)
    ours, theirs = b.pair([b.tapimg, *args, img], [b.qemu, *args, img], fresh, reps=2)
    b.ratio(name, '4 KiB first writes, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    fresh('nobody')
    b.run(b.tapimg, *args, img)
    # a bitmap and the data, each in file system blocks of 4 KiB
    b.value(name, '4 KiB first writes, space', [os.stat(img).st_blocks * 512 / (count * 4096)],
            'of the data', 2.2)
    os.unlink(img)


def chain(b, name, wanted):
    """1 GiB spread over 26 layers beside the same in one image."""
    size, layers = b.small(GIB, 256 * MIB), 26
    raw = b.full(b.mem + '/full.raw', size)
    single, below = b.mem + '/one.vhd', None
    b.run(b.tapimg, 'convert', '-f', 'raw', '-O', 'vpc', raw, single)
    made = [single]
    for i in range(layers):
        path = f'{b.mem}/l{i}.vhd'
        back = ['-b', below, '-F', 'vpc'] if below else []
        b.run(b.tapimg, 'create', '-q', '-f', 'vpc', *back, path, size)
        # every layer has each 26th part of 64 KiB
        step = layers * 64 * KIB
        b.run(b.tapimg, 'bench', '-q', '-w', '-f', 'vpc', '-o', i * 64 * KIB, '-S', step, '-s', 64 * KIB,
              '-c', (size - i * 64 * KIB) // step, '--pattern', i + 1, path)
        made.append(path)
        below = path
    args = ['bench', '-f', 'vpc', '-t', 'none', '-d', 8, '-s', MIB, '-c', size // MIB]
    ours, theirs = b.pair([b.tapimg, *args, below], [b.tapimg, *args, single])
    b.ratio(name, 'reading through 26 layers, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    for path in made:
        os.unlink(path)


ROWS = [('vhd-reads', reads, 0.4), ('vhd-allocate', allocate, 0.15), ('vhd-chain', chain, 1.2)]
