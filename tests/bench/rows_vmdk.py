# SPDX-License-Identifier: BSD-2-Clause
"""VMDK beside qemu-img: reading, first writes, converting into a sparse image."""
import os

from versus_raw import more_than_raw

MIB = 1 << 20
GIB = 1 << 30
GRAIN = 64 << 10


def reads(b, name, wanted):
    size, count = b.small(GIB, 256 * MIB), b.small(200000, 50000)
    raw, img = b.full(b.mem + '/full.raw', size), b.mem + '/full.vmdk'
    b.once(img, b.tapimg, 'convert', '-f', 'raw', '-O', 'vmdk', raw, img)
    args = ['bench', '-c', count, '-d', 32, '-s', 4096, '-S', MIB + 4096, '-t', 'none', '-f', 'vmdk', img]
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args, '-i', 'native'])
    b.ratio(name, '4 KiB reads, CPU per I/O', [r[1] for r in ours], [r[1] for r in theirs], wanted,
            'us', 1e6 / count)
    more_than_raw(b, name, count, ['vmdk', img], raw, 0.2)


def allocate(b, name, wanted):
    count, img = b.small(8192, 2048), b.disk + '/alloc.vmdk'
    args = ['bench', '-w', '-c', count, '-d', 8, '-s', 4096, '-S', 37 * GRAIN + 4096, '-t', 'none',
            '-f', 'vmdk', img]

    def fresh(_who):
        if os.path.exists(img):
            os.unlink(img)
        b.run(b.qemu, 'create', '-q', '-f', 'vmdk', img, 16 * GIB)
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args, '-i', 'native'], fresh)
    b.ratio(name, '4 KiB first writes, time', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    os.unlink(img)


def convert(b, name, wanted):
    src = b.sparse(b.disk + '/data.raw', b.small(4 * GIB, GIB), b.small(1536 * MIB, 256 * MIB))
    dst = b.disk + '/out.vmdk'
    args = ['convert', '-t', 'none', '-T', 'none', '-f', 'raw', '-O', 'vmdk', src, dst]

    def clean(_who):
        if os.path.exists(dst):
            os.unlink(dst)
        os.sync()
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean, warm=True, reps=min(b.opt.reps, 3))
    b.ratio(name, 'convert raw -> vmdk, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    os.unlink(dst)


ROWS = [('vmdk-reads', reads, 0.7), ('vmdk-allocate', allocate, 0.2), ('vmdk-convert', convert, 0.15)]
