#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""VMDKs by us and by qemu-img, each read, written and checked by the other, in all layouts both know;
libvmdk as a second reader, and open-vmdk's vmdk-convert as a third (where TAPIMG_VMDK_CONVERT says, or in PATH)."""
import json
import os
import random
import sys
import tempfile

from libinterop import QEMU, TAPIMG, Counter, Failed, have, libvmdk_same, pyvmdk, sh, vmdk_convert

FORMATS = {
    'monolithicSparse': {}, 'monolithicFlat': {}, 'twoGbMaxExtentSparse': {}, 'twoGbMaxExtentFlat': {},
}
OURS = [('monolithicSparse', 'grain_size=64k'), ('monolithicSparse', 'grain_size=8k,zeroed_grain=on'),
        ('monolithicFlat', ''), ('twoGbMaxExtentSparse', ''), ('twoGbMaxExtentFlat', ''), ('vmfs', ''),
        ('vmfsSparse', 'grain_size=64k')]


def options(sub, more=''):
    return ','.join(x for x in (f'subformat={sub}', more) if x)


def source(path, size, seed):
    """Sparse data with a known pattern; some of it at the borders of grains, extents and the disk."""
    rnd = random.Random(seed)
    with open(path, 'wb') as f:
        f.truncate(size)
        for at in [0, 65535, 2 ** 31 - 700, size - 512] + [rnd.randrange(size) for _ in range(30)]:
            if at < size:
                f.seek(at)
                f.write(rnd.randbytes(min(rnd.choice([512, 5000, 100000]), size - at)))


def writes(image, count, size, seed):
    rnd = random.Random(seed)
    args = []
    for _ in range(count):
        at = rnd.randrange(size // 512) * 512
        n = min(rnd.choice([1, 8, 128, 300]) * 512, size - at)
        args += ['-c', f'write -P {rnd.randrange(1, 256)} {at} {n}']
    sh('qemu-io', '-f', 'raw' if image.endswith('.raw') else 'vmdk', *args, image)


def same(raw, image):
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vmdk', raw, image)
    sh(QEMU, 'compare', '-f', 'raw', '-F', 'vmdk', raw, image)


def ours(tmp, sub, more):
    """We make it, qemu reads it, writes to it, and we read that."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vmdk')
    size = 2 ** 31 + 37 * 512 if 'twoGb' in sub else 5 * 2 ** 20 + 512
    source(raw, size, sub)
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'vmdk', '-o', options(sub, more), raw, image)
    same(raw, image)
    sh(TAPIMG, 'check', image)
    if sub not in ('vmfs', 'vmfsSparse'):
        if have('vmdkinfo'):
            sh('vmdkinfo', image)
        libvmdk_same(raw, image)
    if vmdk_convert() and sub == 'monolithicSparse':
        stream = os.path.join(tmp, 'stream.vmdk')
        sh(vmdk_convert(), image, stream)
        same(raw, stream)
    if sub in FORMATS and 'zeroed' not in more:
        writes(image, 20, size, sub)
        writes(raw, 20, size, sub)
        same(raw, image)
        sh(TAPIMG, 'check', image)


def theirs(tmp, sub):
    """qemu makes it, we convert into it, and qemu reads that; what we say of it is what qemu says."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vmdk')
    size = 2 ** 31 + 37 * 512 if 'twoGb' in sub else 5 * 2 ** 20 + 512
    source(raw, size, sub)
    sh(QEMU, 'create', '-q', '-f', 'vmdk', '-o', options(sub), image, str(size))
    mine = json.loads(sh(TAPIMG, 'info', '--output=json', image))
    peer = json.loads(sh(QEMU, 'info', '--output=json', image))
    for key in ('virtual-size', 'format', 'cluster-size'):
        if mine.get(key) != peer.get(key):
            raise Failed(f'{key}: {mine.get(key)}, qemu-img says {peer.get(key)}')
    a, b = mine['format-specific']['data'], peer['format-specific']['data']
    for key in ('cid', 'parent-cid', 'create-type'):
        if a[key] != b[key]:
            raise Failed(f'{key}: {a[key]}, qemu-img says {b[key]}')
    if [(x['virtual-size'], os.path.basename(x['filename'])) for x in a['extents']] != \
       [(x['virtual-size'], os.path.basename(x['filename'])) for x in b['extents']]:
        raise Failed(f"extents: {a['extents']}, qemu-img says {b['extents']}")
    sh(TAPIMG, 'convert', '-n', '-f', 'raw', '-O', 'vmdk', raw, image)
    same(raw, image)
    sh(TAPIMG, 'check', image)
    sh(QEMU, 'check', '-q', image)


def chains(tmp):
    """A child by qemu over a base by us, and the other way round; commits by us keep both readable."""
    for base_by, child_by in ((TAPIMG, QEMU), (QEMU, TAPIMG)):
        raw, base, child = (os.path.join(tmp, n) for n in ('a.raw', 'base.vmdk', 'child.vmdk'))
        size = 4 * 2 ** 20
        source(raw, size, 7)
        sh(base_by, 'create', '-q', '-f', 'vmdk', base, str(size))
        sh(TAPIMG, 'convert', '-n', '-f', 'raw', '-O', 'vmdk', raw, base)
        sh(child_by, 'create', '-q', '-f', 'vmdk', '-b', base, '-F', 'vmdk', child)
        writes(child, 15, size, 8)
        writes(raw, 15, size, 8)
        same(raw, child)
        sh(TAPIMG, 'commit', '-d', child)
        same(raw, child)
        same(raw, base)
        os.unlink(base)
        os.unlink(child)


def grown(tmp, sub):
    """What we have made larger and smaller, qemu reads and writes."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vmdk')
    size = 5 * 2 ** 20
    source(raw, size, sub)
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'vmdk', '-o', options(sub), raw, image)
    for size in (300 * 2 ** 20, 40 * 2 ** 20):
        sh(TAPIMG, 'resize', '--shrink', '-f', 'vmdk', image, str(size))
        os.truncate(raw, size)
        same(raw, image)
        writes(image, 10, size, size)
        writes(raw, 10, size, size)
        same(raw, image)


def main():
    c = Counter()
    if not have(QEMU) or not have('qemu-io'):
        c.skip('vmdk', 'qemu-img or qemu-io is not installed')
        return c.end()

    def case(name, fn, *args):
        with tempfile.TemporaryDirectory(prefix='vmdk-', dir=os.environ.get('TMPDIR')) as tmp:
            c.case(name, fn, tmp, *args)

    for sub, more in OURS:
        case(f'ours {sub} {more}', ours, sub, more)
    for sub in FORMATS:
        case(f'theirs {sub}', theirs, sub)
    case('chains', chains)
    for sub in ('monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse'):
        case(f'grown {sub}', grown, sub)
    if not have('vmdkinfo'):
        c.skip('vmdk vmdkinfo', 'vmdkinfo (libvmdk-utils) is not installed')
    if not pyvmdk:
        c.skip('vmdk libvmdk', 'python3-libvmdk is not installed')
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
