#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Every way to convert: cluster sizes, compression, versions, extended L2, data files, -S, -m, -W.

Each program makes the image; both check it and both read it back, to a raw file that has to be the
source byte for byte.  Our image of the same source has to be the same file each time.
"""
import os
import random
import sys
import tempfile

from libinterop import LONG, QEMU, TAPIMG, Counter, Failed, have, sh, sha256

CLUSTERS = [512, 1024, 4096, 16384, 65536, 2 << 20] if not LONG else [1 << n for n in range(9, 22)]


def source(path):
    """Random, repetitive and empty stretches with boundaries everywhere; an odd number of sectors."""
    rng = random.Random(5)
    disk = bytearray(5 * (1 << 20) + 512)
    for i in range(200):
        n, off = rng.choice([1, 511, 512, 5000, 40000]), rng.randrange(len(disk) - 40000)
        disk[off:off + n] = rng.randbytes(n) if i % 2 else (b'text %d ' % i * n)[:n]
    disk[-700:] = rng.randbytes(700)
    with open(path, 'wb') as f:
        f.write(disk)


def rows():
    for size in CLUSTERS:
        yield {'cluster_size': size}, []
        for kind in ('zlib', 'zstd'):
            yield {'cluster_size': size, 'compression_type': kind}, ['-c', '-W', '-m', '16']
        if size >= 16384:
            yield {'cluster_size': size, 'extended_l2': 'on'}, ['-S', '4k']
            yield {'cluster_size': size, 'extended_l2': 'on', 'compression_type': 'zstd'}, ['-c']
    yield {'compat': '0.10'}, ['-c']
    yield {'compat': '0.10'}, ['-S', '0', '-m', '1']
    yield {'data_file': 'x'}, []
    yield {'data_file': 'x', 'data_file_raw': 'on'}, []
    yield {'preallocation': 'full'}, ['-t', 'none', '-T', 'none']
    yield {'preallocation': 'metadata', 'cluster_size': 4096}, []
    yield {'refcount_bits': 1}, ['-t', 'directsync']


def one(folder, raw, options, args):
    for tool in (TAPIMG, QEMU):
        img = os.path.join(folder, 'a.qcow2')
        opts = {k: img + '.data' if k == 'data_file' else v for k, v in options.items()}
        sh(tool, 'convert', '-f', 'raw', '-O', 'qcow2', '-o',
           ','.join(f'{k}={v}' for k, v in opts.items()), *args, raw, img)
        for reader in (TAPIMG, QEMU):
            out = os.path.join(folder, 'out.raw')
            sh(reader, 'check', '-q', img)
            sh(reader, 'convert', '-f', 'qcow2', '-O', 'raw', img, out)
            sh('cmp', raw, out)
            os.unlink(out)
        if tool == TAPIMG:
            first = sha256(img)
            sh(tool, 'convert', '-f', 'raw', '-O', 'qcow2', '-o',
               ','.join(f'{k}={v}' for k, v in opts.items()), *args, raw, img)
            if sha256(img) != first:
                raise Failed('the same source gave another file')
        for f in os.listdir(folder):
            if f.startswith('a.qcow2'):
                os.unlink(os.path.join(folder, f))


def main():
    c = Counter()
    if not have(QEMU):
        c.skip('convert', 'qemu-utils is not installed')
        return c.end()
    with tempfile.TemporaryDirectory(prefix='convert-', dir=os.environ.get('TMPDIR')) as folder:
        raw = os.path.join(folder, 'source.raw')
        source(raw)
        for options, args in rows():
            c.case(f"{options} {' '.join(args)}", one, folder, raw, options, args)
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
