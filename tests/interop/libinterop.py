# SPDX-License-Identifier: BSD-2-Clause
"""What the interoperability tests share: running tools, images with an oracle, counting."""
import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
import time

try:
    import pyvmdk
except ImportError:
    pyvmdk = None

TAPIMG = os.environ.get('TAPIMG', 'build/tapimg')
BUILD = os.environ.get('TAPIMG_BUILD', 'build')
SRC = os.environ.get('TAPIMG_SRC', os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
IMGIO = os.path.join(BUILD, 'tests/interop/imgio')
QEMU = 'qemu-img'
LONG = os.environ.get('TAPIMG_LONG') == '1'


class Failed(Exception):
    pass


class Log:
    """Commands as run, to be shown when something fails."""

    def __init__(self):
        self.lines = []

    def add(self, text):
        self.lines.append(text)


LOG = Log()


def sh(*args, stdin=None, ok=(0,), quiet=False):
    """Runs a program; Failed with everything it said unless its status is among ok."""
    args = [str(a) for a in args]
    LOG.add('$ ' + ' '.join("'" + a + "'" if ' ' in a or not a else a for a in args)
            + (' <<< ' + repr(stdin[:2000]) if stdin else ''))
    try:
        r = subprocess.run(args, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           universal_newlines=True, errors='replace', timeout=300)
    except subprocess.TimeoutExpired as e:
        raise Failed(f'{os.path.basename(args[0])} {args[1]}: still running after 300 s') from e
    if r.returncode not in ok:
        raise Failed(f'{os.path.basename(args[0])} {args[1] if len(args) > 1 else ""}: '
                     f'status {r.returncode}: {r.stdout.strip()[-1500:]}')
    if not quiet and r.stdout.strip():
        LOG.add('  ' + r.stdout.strip()[-400:])
    return r.stdout


def have(prog):
    return shutil.which(prog) is not None or os.access(prog, os.X_OK)


def sha256(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        for block in iter(lambda: f.read(1 << 20), b''):
            h.update(block)
    return h.hexdigest()


def vmdk_convert():
    """open-vmdk's vmdk-convert, or None."""
    return os.environ.get('TAPIMG_VMDK_CONVERT') or shutil.which('vmdk-convert')


def libvmdk_same(raw, image):
    """What libvmdk reads of an image is what the raw file has.  Looks at nothing where it is not installed."""
    if not pyvmdk:
        return
    LOG.add(f'libvmdk reads {image}')
    vmdk = pyvmdk.handle()
    vmdk.open(image)
    vmdk.open_extent_data_files()
    size = os.stat(raw).st_size
    if vmdk.get_media_size() != size:
        raise Failed(f'libvmdk sees {vmdk.get_media_size()} bytes, not {size}')
    with open(raw, 'rb') as f:
        at = 0
        while at < size:
            want = os.pread(f.fileno(), 1 << 20, at)
            if vmdk.read_buffer_at_offset(len(want), at) != want:
                raise Failed(f'libvmdk reads something else in the MiB at {at}')
            at += len(want)
            try:        # of holes only what is next to data
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
    vmdk.close()


class Counter:
    """Runs cases, counts them, prints the last line."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def case(self, name, fn, *args):
        LOG.lines.clear()
        begin = time.monotonic()
        try:
            fn(*args)
        except (Failed, OSError, ValueError, KeyError, struct.error) as e:
            self.failed += 1
            print(f'FAIL {name}: {e if isinstance(e, Failed) else repr(e)}')
            for line in LOG.lines[-60:]:
                print('    ' + line)
            sys.stdout.flush()
            return False
        self.passed += 1
        if os.environ.get('VERBOSE'):
            print(f'ok   {name} ({time.monotonic() - begin:.2f} s)', flush=True)
        return True

    def skip(self, name, why):
        self.skipped += 1
        print(f'SKIP {name}: {why}')

    def end(self):
        print(f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped')
        return 1 if self.failed else 0


class Pool:
    """Random bytes that writes take their data from: half of it compresses."""
    SIZE = 4 << 20

    def __init__(self, folder):
        self.path = os.path.join(folder, 'pool')
        rng = random.Random(1)
        half = rng.randbytes(self.SIZE // 2)
        soft = b''.join(bytes([rng.randrange(1, 255)]) * 64 for _ in range(self.SIZE // 128))
        self.data = half + soft
        with open(self.path, 'wb') as f:
            f.write(self.data)


class Oracle:
    """What the image has to read like: a raw file, and ranges whose contents are open."""

    def __init__(self, path, size):
        self.path, self.size, self.open = path, size, []
        with open(path, 'wb') as f:
            f.truncate(size)

    def write(self, off, data):
        with open(self.path, 'r+b') as f:
            f.seek(off)
            f.write(data)
        end = off + len(data)
        rest = []
        for a, b in self.open:
            if a < off:
                rest.append((a, min(b, off)))
            if b > end:
                rest.append((max(a, end), b))
        self.open = [(a, b) for a, b in rest if a < b]

    def undefined(self, off, length):
        self.open.append((off, off + length))

    def settle(self, raw):
        """Takes what is open from a raw copy of the image."""
        if not self.open:
            return
        with open(self.path, 'r+b') as f, open(raw, 'rb') as g:
            for a, b in self.open:
                f.seek(a)
                g.seek(a)
                f.write(g.read(b - a))
        self.open = []

    def resize(self, size):
        os.truncate(self.path, size)
        self.size = size

    def save(self, path):
        sh('cp', '--sparse=always', self.path, path)
        return self.size

    def load(self, path, size):
        sh('cp', '--sparse=always', path, self.path)
        self.size = size
