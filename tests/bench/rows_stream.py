# SPDX-License-Identifier: BSD-2-Clause
"""Rows of bench.py: compressed VMDKs (streamOptimized), written and read, on tmpfs.

qemu-img compresses at zlib's level 6, which is our default as well.
"""
import os

MIB = 1 << 20


def source(b):
    size = b.small(512 * MIB, 128 * MIB)
    return b.sparse(b.mem + '/files.raw', size + size // 4, size, 16)


def stream_write(b, name, wanted):
    args = ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', source(b)]
    dst, sizes = b.mem + '/stream.', {}

    def clean(_who):
        for who in ('ours', 'theirs'):
            if os.path.exists(dst + who):
                sizes[who] = os.stat(dst + who).st_size
                os.unlink(dst + who)
    ours, theirs = b.pair([b.tapimg, *args, dst + 'ours'], [b.qemu, *args, dst + 'theirs'], clean,
                          reps=min(b.opt.reps, 5))
    clean('')
    b.ratio(name, 'raw -> stream, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    b.ratio(name, 'raw -> stream, CPU', [r[1] for r in ours], [r[1] for r in theirs], 1.0)
    b.ratio(name, 'raw -> stream, file size', [sizes['ours']], [sizes['theirs']], 1.0, 'MiB', 1 / MIB)


def stream_read(b, name, wanted):
    img, dst = b.mem + '/theirs.vmdk', b.mem + '/stream.raw'
    b.once(img, b.qemu, 'convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized',
           source(b), img)
    args = ['convert', '-f', 'vmdk', '-O', 'raw', img, dst]

    def clean(_who):
        if os.path.exists(dst):
            os.unlink(dst)
    ours, theirs = b.pair([b.tapimg, *args], [b.qemu, *args], clean)
    os.unlink(dst)
    b.ratio(name, 'stream -> raw, wall', [r[0] for r in ours], [r[0] for r in theirs], wanted)
    b.ratio(name, 'stream -> raw, CPU', [r[1] for r in ours], [r[1] for r in theirs], 1.0)


ROWS = [('stream-write', stream_write, 0.5), ('stream-read', stream_read, 0.5)]
