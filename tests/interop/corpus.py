#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Images that other products wrote: their contents come out of `tapimg convert` as recorded.

The corpus (MANIFEST.tsv and images.tar.zst) is where TAPIMG_CORPUS says; without it the test is
skipped.  Only images of formats that tapimg knows are counted, and only those with a hash or, for
raw ones, those that are files of the corpus themselves.
"""
import csv
import json
import os
import re
import sys
import tempfile

from libinterop import LONG, QEMU, TAPIMG, Counter, Failed, have, sh, sha256

LARGE = 16 << 30
NAMES = {'vhd': 'vpc'}          # the manifest's names of formats that have several


def formats():
    found = re.search(r'^Supported formats:(.*)$', sh(TAPIMG, '--version'), re.M)
    return found.group(1).split() if found else []


def content(folder, row):
    path, fmt = os.path.join(folder, row['file']), NAMES.get(row['format'], row['format'])
    if fmt != 'raw':
        info = json.loads(sh(TAPIMG, 'info', '--output=json', path))
        if info['format'] != fmt:
            raise Failed(f"probed as {info['format']}, not {fmt}")
        if row['virtual_size'] and info['virtual-size'] != int(row['virtual_size']):
            raise Failed(f"size {info['virtual-size']}, not {row['virtual_size']}")
        if info.get('encrypted'):       # nobody has its key: it must not be read as if it were plain
            text = sh(TAPIMG, 'convert', '-f', fmt, '-O', 'raw', path, '/dev/null', ok=(1,))
            if 'it is enciphered, and no secret was given' not in text:
                raise Failed(f'without a key: {text}')
            return
    with tempfile.TemporaryDirectory(dir=os.environ.get('TMPDIR')) as tmp:
        out = os.path.join(tmp, 'out.raw')
        sh(TAPIMG, 'convert', '-f', fmt, '-O', 'raw', path, out)
        want = row['sha256_of_content'] or sha256(path)
        got = sha256(out)
        if got != want:
            raise Failed(f'content {got}, not {want}')
        if fmt in ('qcow2', 'vpc'):
            sh(TAPIMG, 'check', path)
        if fmt == 'qcow2':
            again(tmp, path, out)


def again(tmp, path, raw):
    """What we make of it reads the same through both programs."""
    copy = os.path.join(tmp, 'copy.qcow2')
    sh(TAPIMG, 'convert', '-O', 'qcow2', path, copy)
    sh(TAPIMG, 'compare', '-f', 'raw', raw, copy)
    if have(QEMU):
        sh(QEMU, 'check', '-q', copy)
        sh(QEMU, 'compare', '-f', 'raw', raw, copy)


def main():
    c = Counter()
    where = os.environ.get('TAPIMG_CORPUS')
    if not where:
        c.skip('corpus', 'no corpus: TAPIMG_CORPUS is not set and ../shared/corpus does not exist')
        return c.end()
    known = formats()
    with open(os.path.join(where, 'MANIFEST.tsv'), newline='') as f:
        rows = list(csv.DictReader(f, delimiter='\t'))
    mine = [r for r in rows if NAMES.get(r['format'], r['format']) in known and
            (r['sha256_of_content'] or r['format'] == 'raw')]
    with tempfile.TemporaryDirectory(prefix='corpus-', dir=os.environ.get('TMPDIR')) as folder:
        sh('tar', '--zstd', '-xf', os.path.join(where, 'images.tar.zst'), '-C', folder)
        for row in mine:
            if int(row['virtual_size'] or 0) > LARGE and not LONG:
                c.skip(row['file'], 'hashing so large a disk takes too long: only in check-long')
            else:
                c.case(row['file'], content, folder, row)
    if not mine:
        print('FAIL no image of the formats', *known)
        c.failed += 1
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
