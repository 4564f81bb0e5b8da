#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Compressed VMDKs and OVAs between us and others, both ways, byte for byte.

qemu-img reads what we write and writes what we read.  libvmdk's vmdkinfo and open-vmdk's
vmdk-convert do so where they are found: the latter where TAPIMG_VMDK_CONVERT says, or in PATH.  Of what
open-vmdk makes of our streams the contents are compared as well, so it is a judge of each grain.
"""
import os
import random
import sys
import tarfile
import tempfile

from libinterop import LONG, QEMU, TAPIMG, Counter, Failed, have, libvmdk_same, sh, sha256, vmdk_convert

STREAM = ('-O', 'vmdk', '-o', 'subformat=streamOptimized')


def source(path, size, seed):
    """Noise, text and nothing, with borders anywhere; some grains wholly empty."""
    rng = random.Random(seed)
    with open(path, 'wb') as f:
        f.truncate(size)
        for i in range(rng.randrange(1, 80)):
            n = rng.choice([1, 511, 512, 5000, 65536, 300000])
            if n > size:
                continue
            f.seek(rng.randrange(size - n + 1))
            f.write(rng.randbytes(n) if i % 2 else (b'text %d ' % i * n)[:n])


def written(folder, raw, level):
    """Ours, read by others."""
    img, out = os.path.join(folder, 'ours.vmdk'), os.path.join(folder, 'out.raw')
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'vmdk', '-o',
       f'subformat=streamOptimized,compression_level={level}', raw, img)
    sh(TAPIMG, 'check', '-q', img)
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vmdk', raw, img)
    if have(QEMU):
        sh(QEMU, 'check', '-q', img)
        sh(QEMU, 'convert', '-f', 'vmdk', '-O', 'raw', img, out)
        sh('cmp', raw, out)
    if have('vmdkinfo'):
        info = sh('vmdkinfo', img)
        if 'Stream optimized' not in info or f'({os.stat(raw).st_size} bytes)' not in info:
            raise Failed('vmdkinfo says ' + info)
    link = os.path.join(folder, 'generated-stream.vmdk')    # where libvmdk looks for what is in the file itself
    os.symlink(img, link)
    libvmdk_same(raw, link)
    if vmdk_convert():
        again = os.path.join(folder, 'again.vmdk')
        sh(vmdk_convert(), img, again)
        sh(TAPIMG, 'convert', '-f', 'vmdk', '-O', 'raw', again, out)
        sh('cmp', raw, out)
    with open(img, 'rb') as f:
        pipe = os.path.join(folder, 'pipe.vmdk')
        sh('sh', '-c', '"$1" convert -f raw -O vmdk -o subformat=streamOptimized,compression_level="$2" "$3" - '
           '| cat >"$4"', 'sh', TAPIMG, level, raw, pipe)
        if f.read() != open(pipe, 'rb').read():
            raise Failed('a pipe gets something else')


def read(folder, raw, tool):
    """Theirs, read by us; and cut to half, salvaged."""
    img, out = os.path.join(folder, 'theirs.vmdk'), os.path.join(folder, 'out.raw')
    if tool == QEMU:
        sh(QEMU, 'convert', '-f', 'raw', *STREAM, raw, img)
    else:
        sh(tool, raw, img)
    sh(TAPIMG, 'check', '-q', img)
    sh(TAPIMG, 'convert', '-f', 'vmdk', '-O', 'raw', img, out)
    sh('cmp', raw, out)
    size = os.stat(img).st_size
    if size < 400000:
        return
    os.truncate(img, size // 2)
    said = sh(TAPIMG, 'info', img, ok=(1,))
    there = int(said.split('the first ')[1].split()[0])
    sh(TAPIMG, 'convert', '--salvage', '-O', 'raw', img, out)
    sh('cmp', '-n', there, raw, out)


def ova(folder, raw):
    img = os.path.join(folder, 'a.ova')
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'ova', raw, img)
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'ova', raw, img)
    with tarfile.open(img) as tar:
        names = tar.getnames()
        tar.extractall(folder)
    if names != ['a.ovf', 'a.mf', 'a-disk1.vmdk']:
        raise Failed(f'members {names}')
    with open(os.path.join(folder, 'a.mf')) as f:
        for line in f:
            name, digest = line.strip().removeprefix('SHA256(').split(')= ')
            if sha256(os.path.join(folder, name)) != digest:
                raise Failed(f'the digest of {name} is wrong')
    if have(QEMU):
        sh(QEMU, 'compare', '-f', 'raw', '-F', 'vmdk', raw, os.path.join(folder, 'a-disk1.vmdk'))


def main():
    c = Counter()
    if not have(QEMU):
        c.skip('streams', 'qemu-utils is not installed')
    if not vmdk_convert():
        c.skip('streams by open-vmdk', 'no vmdk-convert: TAPIMG_VMDK_CONVERT is not set')
    sizes = [512, 65536, 65536 + 512, 33 * 1048576, 70 * 1048576 + 1024]
    for i, size in enumerate(sizes * (5 if LONG else 1)):
        with tempfile.TemporaryDirectory(prefix='streams-', dir=os.environ.get('TMPDIR')) as folder:
            raw = os.path.join(folder, 'source.raw')
            source(raw, size, 100 + i)
            c.case(f'ours, {size} bytes', written, folder, raw, 1 + i % 9)
            if have(QEMU):
                c.case(f'by qemu-img, {size} bytes', read, folder, raw, QEMU)
            if vmdk_convert():
                c.case(f'by vmdk-convert, {size} bytes', read, folder, raw, vmdk_convert())
            c.case(f'OVA, {size} bytes', ova, folder, raw)
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
