# SPDX-License-Identifier: BSD-2-Clause
"""QCOW version 1 beside qemu-img, its reads beside our own of a raw disk, img2qcow beside cp."""
import os

from versus_raw import more_than_raw

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def gone(*paths):
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def data_disk(b):
    return b.sparse(b.disk + '/data.raw', b.small(4 * GIB, GIB), b.small(1536 * MIB, 128 * MIB))


def convert(b, name, wanted):
    """With the whole 1.5 GiB qemu-img takes minutes, so it runs once."""
    src, dst = data_disk(b), b.disk + '/out.qcow'
    args = ['convert', '-t', 'none', '-T', 'none', '-f', 'raw', '-O', 'qcow', src, dst]

    def clean(_who):
        gone(dst)
        os.sync()
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean, reps=1)
    for _ in range(b.opt.reps - 1):
        clean('ours')
        ours.append(b.run(b.tapimg, *args))
    b.ratio(name, 'convert, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    gone(dst)


def allocate(b, name, wanted):
    count, img = b.small(16384, 4096), b.disk + '/alloc.qcow'
    args = ['bench', '-w', '-c', count, '-d', 8, '-s', 4096, '-S', 37 * 65536 + 4096, '-t', 'none',
            '-f', 'qcow']

    def fresh(_who):
        gone(img)
        b.run(b.qemu, 'create', '-q', '-f', 'qcow', img, 16 * GIB)
    ours, theirs = b.pair([b.tapimg, *args, img], [b.qemu, *args, img], fresh, reps=3)
    b.ratio(name, '4 KiB first writes, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    gone(img)


def reads(b, name, wanted):
    """Processor time of a 4 KiB read more than that of a raw disk."""
    raw, img = b.full(b.mem + '/full.raw', b.small(GIB, 256 * MIB)), b.mem + '/full.qcow'
    count = b.small(200000, 50000)
    b.once(img, b.tapimg, 'convert', '-f', 'raw', '-O', 'qcow', raw, img)
    more_than_raw(b, name, count, ['qcow', img], raw, wanted)


def img2qcow(b, name, wanted):
    """Both through the page cache and to the disk: cp and the sync that img2qcow does by itself."""
    src, dst = b.full(b.disk + '/full.raw', b.small(1536 * MIB, 256 * MIB)), b.disk + '/copy'
    tool = os.path.join(b.build, 'img2qcow')

    def clean(_who):
        gone(dst)
        os.sync()
    ours, theirs = b.pair([tool, dst, src], ['sh', '-c', f'cp --reflink=never {src} {dst} && sync {dst}'],
                          clean, warm=True)
    b.ratio(name, 'img2qcow, cp and sync', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    gone(dst, b.disk + '/full.raw')
    b.made.pop(b.disk + '/full.raw', None)


def enciphered(b, name, wanted):
    src, dst, key = b.full(b.mem + '/full.raw', b.small(GIB, 256 * MIB)), b.mem + '/e.qcow', b.mem + '/key'
    with open(key, 'w') as f:
        f.write('passphrase')
    args = ['convert', '--object', f'secret,id=s,file={key}', '-f', 'raw', '-O', 'qcow', '-o',
            'encrypt.format=aes,encrypt.key-secret=s', src, dst]
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], lambda _who: gone(dst), reps=1)
    b.ratio(name, 'enciphered, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    gone(dst)


ROWS = [('qcow-convert', convert, 0.03), ('qcow-allocate', allocate, 0.2), ('qcow-reads', reads, 0.2),
        ('qcow-img2qcow', img2qcow, 1.1), ('qcow-enciphered', enciphered, 0.2)]
