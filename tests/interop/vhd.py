#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""VHDs by us and by others, each read, written and checked by the other side.

qemu-img for fixed and dynamic images in both directions; libvhdi's vhdiinfo and vhdimount (where
FUSE is there) for chains of differencing images, which qemu does not read; blktap's vhd-util, where
BLKTAP_BIN names the folder of it, for check, query, read and coalesce in both directions.
"""
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

from libinterop import BUILD, IMGIO, LOG, QEMU, TAPIMG, Counter, Failed, Pool, have, sh, sha256

MIB = 1 << 20
VHD_UTIL = os.path.join(BUILD, 'vhd-util')
UNMOUNT = next((c for c in (['fusermount', '-u'], ['fusermount3', '-u'],
                             *([['umount']] if os.geteuid() == 0 else [])) if have(c[0])), None)
BLKTAP = os.path.join(os.environ.get('BLKTAP_BIN', '/nowhere'), 'vhd-util')

# sizes at which products differ: odd ones, below and at steps of the geometry
SIZES = [512, 4096 + 512, MIB, 5 * MIB + 512, 10 * MIB, 17 * 4 * 512, 511 * MIB + 1024,
         (136 << 30) + MIB]
OURS = ['subformat=fixed', 'subformat=dynamic', 'subformat=fixed,force_size=on',
        'subformat=dynamic,force_size=on', 'block_size=2M,force_size=off', 'block_size=512k',
        'block_size=4096']


def source(path, size, seed):
    """Sparse data with a known pattern; some of it at the borders of blocks and of the disk."""
    rnd = random.Random(seed)
    with open(path, 'wb') as f:
        f.truncate(size)
        for at in [0, 2 * MIB - 700, size - 512] + [rnd.randrange(size) for _ in range(25)]:
            if 0 <= at < size:
                f.seek(at)
                f.write(rnd.randbytes(min(rnd.choice([512, 5000, 100000]), size - at)))


def writes(image, count, size, seed):
    rnd = random.Random(seed)
    args = []
    for _ in range(count):
        at = rnd.randrange(size // 512) * 512
        n = min(rnd.choice([1, 8, 128, 300]) * 512, size - at)
        args += ['-c', f'write -P {rnd.randrange(1, 256)} {at} {n}']
    sh('qemu-io', '-f', 'raw' if image.endswith('.raw') else 'vpc', *args, image)


def same(raw, image):
    """As far as the raw file goes; what an image is longer for its geometry's sake is zero."""
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vpc', raw, image)
    sh(QEMU, 'compare', '-f', 'raw', '-F', 'vpc', raw, image)


def facts(tool, image):
    # nobody but us knows a fixed image without being told
    named = ['-f', 'vpc'] if tool == QEMU else []
    info = json.loads(sh(tool, 'info', *named, '--output=json', image))
    return {k: info.get(k) for k in ('virtual-size', 'format', 'cluster-size')}


def agree(image):
    mine, peer = facts(TAPIMG, image), facts(QEMU, image)
    if mine != peer:
        raise Failed(f'we say {mine}, qemu-img {peer}')
    return mine['virtual-size']


def ours(tmp, options):
    """We make it, qemu reads it, writes to it, and we read that."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vhd')
    size = 5 * MIB + 512
    source(raw, size, options)
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'vpc', '-o', options, raw, image)
    if 'block_size=5' in options or 'block_size=4' in options:  # qemu refuses other blocks
        sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vpc', raw, image)
        sh(TAPIMG, 'check', image)
        return
    if agree(image) != size and 'force_size=off' not in options:
        raise Failed(f'the image has {agree(image)} bytes instead of {size}')
    same(raw, image)
    writes(image, 25, size, options)
    writes(raw, 25, size, options)
    same(raw, image)
    sh(TAPIMG, 'check', image)
    sh(QEMU, 'convert', '-f', 'vpc', '-O', 'raw', image, raw + '2')
    sh(TAPIMG, 'convert', '-f', 'vpc', '-O', 'raw', image, raw + '3')
    sh('cmp', raw + '2', raw + '3')


def theirs(tmp, sub, force):
    """qemu makes it, we write into it, then qemu, then we again; all of it is there."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vhd')
    size = 5 * MIB + 512
    source(raw, size, sub)
    sh(QEMU, 'convert', '-f', 'raw', '-O', 'vpc', '-o', f'subformat={sub},force_size={force}', raw,
       image)
    got = agree(image)
    if (got != size) != (force == 'off'):
        raise Failed(f'the image has {got} bytes')
    sh(TAPIMG, 'check', image)
    os.truncate(raw, got)
    same(raw, image)
    source(raw, got, 'again')
    sh(TAPIMG, 'convert', '-n', '-f', 'raw', '-O', 'vpc', raw, image)
    same(raw, image)
    writes(image, 20, got, 5)
    writes(raw, 20, got, 5)
    same(raw, image)
    sh(TAPIMG, 'check', image)


def sizes(tmp, size):
    """What either makes of a size, the other sees as the same; nobody makes a disk shorter."""
    for by in (TAPIMG, QEMU):
        for force in ('on', 'off'):
            image = os.path.join(tmp, 'a.vhd')
            sh(by, 'create', '-q', '-f', 'vpc', '-o', f'force_size={force}', image, str(size))
            got = agree(image)
            if got < size or (force == 'on' and got != size):
                raise Failed(f'{by}: force_size={force} made {got} bytes of {size}')
            sh(TAPIMG, 'check', image)


def grown(tmp):
    """What we have made larger and smaller, qemu reads and writes."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vhd')
    size = 5 * MIB
    source(raw, size, 3)
    sh(QEMU, 'convert', '-f', 'raw', '-O', 'vpc', '-o', 'force_size=on', raw, image)
    for size in (2500 * MIB, 40 * MIB, 3 * MIB):
        sh(TAPIMG, 'resize', '--shrink', '-f', 'vpc', image, str(size))
        os.truncate(raw, size)
        if agree(image) != size:
            raise Failed(f'resized to {size}, but it has {agree(image)}')
        same(raw, image)
        writes(image, 10, size, size)
        writes(raw, 10, size, size)
        same(raw, image)
        sh(TAPIMG, 'check', image)


# ----------------------------------------------------------------------- chains

class Chain:
    """Layers, each with some writes of its own; self.raw is what the top has to read."""

    def __init__(self, tmp, seed, util=None, base='vpc', size=9 * MIB + 4096, unit=512):
        self.unit = unit
        self.tmp, self.rnd, self.util, self.pool = tmp, random.Random(seed), util, Pool(tmp)
        self.size = -(-size // (2 * MIB)) * 2 * MIB if util else size
        self.layers, self.raw = [], os.path.join(tmp, 'want.raw')
        with open(self.raw, 'wb') as f:
            f.truncate(self.size)
        self.add(base)

    def add(self, fmt='vpc'):
        name = os.path.join(self.tmp, f'l{len(self.layers)}.' + ('raw' if fmt == 'raw' else 'vhd'))
        below = self.layers[-1] if self.layers else None
        raw_below = below and below.endswith('.raw')
        if fmt == 'raw':
            with open(name, 'wb') as f:
                f.truncate(self.size)
        elif self.util and below:
            sh(self.util, 'snapshot', '-n', name, '-p', below, '-e', *(['-m'] if raw_below else []))
        elif self.util:
            sh(self.util, 'create', '-n', name, '-s', self.size // MIB)
        elif below:
            sh(TAPIMG, 'create', '-q', '-f', 'vpc', '-b', below, '-F',
               'raw' if raw_below else 'vpc', name)
        else:
            sh(TAPIMG, 'create', '-q', '-f', 'vpc', '-o', 'force_size=on', name, str(self.size))
        self.layers.append(name)
        self.write()

    def write(self, count=25):
        """To the top, by us."""
        ops = []
        with open(self.raw, 'r+b') as f:
            for _ in range(count):
                off = self.rnd.randrange(self.size // self.unit) * self.unit
                n = -(-self.rnd.choice([1, 3, 8, 64, 900]) * 512 // self.unit) * self.unit
                n = min(n, self.size - off)
                at = self.rnd.randrange(Pool.SIZE - n)
                ops.append(f'w {off} {n} {at}')
                f.seek(off)
                f.write(self.pool.data[at:at + n])
        fmt = 'raw' if self.layers[-1].endswith('.raw') else 'vpc'
        sh(IMGIO, '-f', fmt, '-p', self.pool.path, self.layers[-1], stdin='\n'.join(ops) + '\n')

    def top(self):
        return self.layers[-1]


def mounted(chain):
    """What libvhdi reads of the top."""
    folder = os.path.join(chain.tmp, 'mnt')
    os.mkdir(folder)
    sh('vhdimount', chain.top(), folder)
    try:
        return sha256(os.path.join(folder, f'vhdi{len(chain.layers)}'))
    finally:
        for _ in range(50):
            if not subprocess.run([*UNMOUNT, folder], stderr=subprocess.DEVNULL,
                                  check=False).returncode:
                break
            time.sleep(0.1)


def libvhdi_chain(tmp, depth, fuse):
    # libvhdi (20210425) takes sectors for zero that share a byte of the bitmap with ones that are here
    chain = Chain(tmp, depth, unit=4096)
    for _ in range(depth - 1):
        chain.add()
    for i, layer in enumerate(chain.layers):
        text = sh('vhdiinfo', layer)
        mine = json.loads(sh(TAPIMG, 'info', '--output=json', layer))
        data = mine['format-specific']['data']
        for what, want in (('Identifier', data['uuid']),
                           ('Disk type', 'Differential' if i else 'Dynamic'),
                           ('Media size', mine['virtual-size'])):
            found = re.search(rf'\t{what}\s*: (.*)', text)
            if not found or str(want).lower() not in found.group(1).lower():
                raise Failed(f"vhdiinfo says {what} is {found and found.group(1)}, we say {want}")
        if i and f'Parent filename\t\t: {os.path.basename(chain.layers[i - 1])}' not in text:
            raise Failed(f'vhdiinfo finds another parent: {text}')
    if not fuse:
        return
    if mounted(chain) != sha256(chain.raw):
        raise Failed('libvhdi reads other bytes than were written')


def libvhdi_single(tmp, sub):
    """One image by us, all types."""
    raw, image = os.path.join(tmp, 'a.raw'), os.path.join(tmp, 'a.vhd')
    source(raw, 5 * MIB + 512, sub)
    sh(TAPIMG, 'convert', '-f', 'raw', '-O', 'vpc', '-o', sub + ',force_size=on', raw, image)
    one = type('one', (), {'tmp': tmp, 'layers': [image], 'top': lambda self: image})()
    if mounted(one) != sha256(raw):
        raise Failed('libvhdi reads other bytes than were written')


# ----------------------------------------------------------------------- blktap

def read_all(util, image, size):
    """The guest's bytes, as the util's read prints them."""
    args = [util, 'read', '-n', image, '-R', '0', '-c', str(size)]
    LOG.add('$ ' + ' '.join(args))
    env = dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(util)) if util == BLKTAP else None
    return hashlib.sha256(subprocess.run(args, stdout=subprocess.PIPE, check=False, timeout=300,
                                         env=env).stdout).hexdigest()


def read_right(chain):
    want = sha256(chain.raw)
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vpc', chain.raw, chain.top())
    # (blktap itself reads garbage above a raw parent as soon as there are two layers or a block)
    for util in (VHD_UTIL,) if chain.layers[0].endswith('.raw') else (VHD_UTIL, BLKTAP):
        if read_all(util, chain.top(), chain.size) != want:
            raise Failed(f'{util} read: other bytes than were written')


def both_say(*args):
    mine, peer = sh(VHD_UTIL, *args), sh(BLKTAP, *args)
    if mine != peer:
        raise Failed(f'vhd-util {args[0]}: {mine!r}, blktap says {peer!r}')
    return mine


def checked(chain):
    for layer in chain.layers:
        if layer.endswith('.raw'):
            continue
        both_say('check', '-n', layer)
        both_say('query', '-n', layer, '-v', '-s', '-p', '-f', '-d', '-a', '-S')
        both_say('read', '-n', layer, '-p')
        sh(TAPIMG, 'check', layer)
    both_say('check', '-n', chain.top(), '-p')
    if chain.size % (2 * MIB) == 0:     # blktap leaves the last block out otherwise
        both_say('check', '-n', chain.top(), '-s')


def blktap_chain(tmp, made, merger, base):
    """Layers made by one side, merged down by the other until one is left; read by both."""
    chain = Chain(tmp, 4, util=made, base=base)
    for _ in range(3):
        chain.add()
    checked(chain)
    read_right(chain)
    while len(chain.layers) > (2 if base == 'raw' else 1):
        text = sh(merger, 'coalesce', '-n', chain.top())
        if not re.match(r'Coalesced \d+ sectors$', text):
            raise Failed(f'coalesce says {text!r}')
        os.unlink(chain.layers.pop())
        checked(chain)
        read_right(chain)
    if base == 'raw':
        sh(merger, 'coalesce', '-n', chain.top())
        sh('cmp', chain.layers[0], chain.raw)


def blktap_grown(tmp, made, grower):
    """Made by one, resized with a journal by the other."""
    chain = Chain(tmp, 5, util=made)
    for mb in (40, 3000):
        sh(grower, 'resize', '-n', chain.top(), '-s', mb, '-j', os.path.join(tmp, 'journal'))
        chain.size = mb * MIB
        os.truncate(chain.raw, chain.size)
        chain.write()
        checked(chain)
    sh(TAPIMG, 'compare', '-f', 'raw', '-F', 'vpc', chain.raw, chain.top())


def blktap_batmap(tmp, mb):
    """Sizes whose last block's bit blktap leaves out of the batmap's sum."""
    image = os.path.join(tmp, 'a.vhd')
    pool = Pool(tmp)
    sh(VHD_UTIL, 'create', '-n', image, '-s', mb)
    sh(IMGIO, '-f', 'vpc', '-p', pool.path, image, stdin=f'w {(mb - 2) * MIB} {2 * MIB} 0\n')
    if not sh(VHD_UTIL, 'read', '-n', image, '-j', mb // 2 - 1).endswith(': 1\n'):
        raise Failed('the batmap does not show the last block full')
    both_say('check', '-n', image)
    both_say('read', '-n', image, '-p')
    sh(TAPIMG, 'check', image)


def blktap_filled(tmp):
    """What blktap's fill allocates, we read; what ours does, blktap checks."""
    for util in (VHD_UTIL, BLKTAP):
        chain = Chain(os.path.join(tmp), 6, util=VHD_UTIL)
        sh(util, 'fill', '-n', chain.top())
        checked(chain)
        read_right(chain)


def main():
    c = Counter()

    def case(name, fn, *args):
        with tempfile.TemporaryDirectory(prefix='vhd-', dir=os.environ.get('TMPDIR')) as tmp:
            c.case(name, fn, tmp, *args)

    if have(QEMU) and have('qemu-io'):
        for options in OURS:
            case(f'ours {options}', ours, options)
        for sub in ('fixed', 'dynamic'):
            for force in ('on', 'off'):
                case(f'theirs {sub} force_size={force}', theirs, sub, force)
        for size in SIZES:
            case(f'size {size}', sizes, size)
        case('grown', grown)
    else:
        c.skip('vhd', 'qemu-img or qemu-io is not installed')
    if have('vhdiinfo'):
        fuse = have('vhdimount') and UNMOUNT and os.access('/dev/fuse', os.R_OK | os.W_OK)
        if not fuse:
            c.skip('vhd contents through libvhdi', 'no vhdimount, or /dev/fuse cannot be used')
        for depth in (1, 2, 3):
            case(f'libvhdi chain of {depth}', libvhdi_chain, depth, fuse)
        for sub in ('subformat=fixed', 'subformat=dynamic', 'block_size=512k') if fuse else ():
            case(f'libvhdi {sub}', libvhdi_single, sub)
    else:
        c.skip('vhd libvhdi', 'vhdiinfo (libvhdi-utils) is not installed')
    if have(BLKTAP):
        os.environ['LD_LIBRARY_PATH'] = os.path.dirname(BLKTAP)
        for made, by in ((VHD_UTIL, BLKTAP), (BLKTAP, VHD_UTIL), (None, BLKTAP)):
            who = ['tapimg', 'vhd-util', 'blktap'][(made or '') and 1 + (made == BLKTAP)] \
                if made else 'tapimg'
            for base in ('vpc', 'raw'):
                case(f'made by {who} over {base}, merged by {"blktap" if by == BLKTAP else "us"}',
                     blktap_chain, made, by, base)
            if made:
                case(f'made by {who}, resized by the other', blktap_grown, made, by)
        for mb in (4, 16384 + 2, 16384 + 16, 65536 + 2):
            case(f'batmap of {mb} MiB', blktap_batmap, mb)
        case('filled', blktap_filled)
    else:
        c.skip('vhd blktap', 'BLKTAP_BIN names no folder with its vhd-util')
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
