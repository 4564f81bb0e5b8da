#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""make-stream-seeds.py DIR - small compressed VMDKs, a seSparse extent and OVAs for fuzz-stream.

They are in corpus/ as stream-NAME; what the fuzzer finds from them is added there.
"""
import io
import os
import struct
import sys
import tarfile
import zlib

MAGIC, GRAIN = 0x564d444b, 8


def pad(data):
    return data + bytes(-len(data) % 512)


def header(capacity, gd, overhead, flags=0x30000, version=3, desc=0):
    head = struct.pack('<IIIQQQQIQQQ', MAGIC, version, flags | 1, capacity, GRAIN, desc, 1 if desc else 0, 512,
                       0, gd, overhead)
    return pad(head + b'\0' + b'\n \r\n' + struct.pack('<H', 1))


def grain(lba, data, marks=True):
    z = zlib.compress(data)
    return pad((struct.pack('<Q', lba) if marks else b'') + struct.pack('<I', len(z)) + z)


def marker(sectors, kind):
    return pad(struct.pack('<QII', sectors, 0, kind))


def text(i):
    return (b'grain %d ' % i * 700)[:4096]


def stream(empty=False):
    """With a footer: grains 0, 1, 9 and 600, which needs a second table."""
    desc = pad(b'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\n'
               b'RW 4808 SPARSE "x"\n')
    out = header(4808, (1 << 64) - 1, 2, desc=1) + desc
    gd = [0, 0]
    for table, grains in enumerate(((0, 1, 9), (600,))):
        gt = [0] * 512
        for g in grains if not empty else ():
            gt[g % 512] = len(out) // 512
            out += grain(g * GRAIN, text(g))
        if any(gt):
            out += marker(4, 1)
            gd[table] = len(out) // 512
            out += struct.pack('<512I', *gt)
    out += marker(1, 2)
    at = len(out) // 512
    out += pad(struct.pack('<2I', *gd))
    return out + marker(1, 3) + header(4808, at, 2, desc=1) + marker(0, 0)


def front(marks):
    """Tables in front, the last grain short."""
    grains, gt, body = {0: text(0), 2: text(2), 9: text(9)[:512]}, [0] * 512, b''
    for g, data in grains.items():
        gt[g] = 8 + len(body) // 512
        body += grain(g * GRAIN, data, marks)
    out = header(73, 1, 8, 0x30000 if marks else 0x10000, 1) + pad(struct.pack('<I', 2))
    return (out + struct.pack('<512I', *gt)).ljust(8 * 512, b'\0') + body + marker(0, 0)


def sesparse():
    head = [0xcafebabe, 0x200000001, 64, 8, 64, 0, 0, 0, 0, 0, 1, 1, 3, 1, 3, 1, 2, 1, 4, 64, 3, 1, 3, 1, 68, 24]
    entries = [3 << 60 | 1 << 48, 3 << 60 | 2 << 48, 1 << 60, 2 << 60, 0, 3 << 60]
    out = pad(struct.pack('<26Q', *head)) + pad(struct.pack('<Q', 0xcafecafe))
    out += pad(struct.pack('<Q', 0x1000000000000000)) + bytes(512)
    out += struct.pack('<6Q', *entries).ljust(64 * 512, b'\0')
    return out + b''.join(text(i) for i in range(3))


def ova(*disks, kind=tarfile.USTAR_FORMAT):
    files = ''.join(f'<File ovf:id="f{i}" ovf:href="d{i}.vmdk"/>' for i in range(len(disks)))
    refs = ''.join(f'<Disk ovf:diskId="{i}" ovf:fileRef="f{i}" ovf:capacity="1"/>' for i in range(len(disks)))
    envelope = ('<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/'
                f'envelope/1"><References>{files}</References><DiskSection>{refs}</DiskSection></Envelope>')
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode='w', format=kind) as tar:
        for name, data in [('m.ovf', envelope.encode())] + [(f'd{i}.vmdk', d) for i, d in enumerate(disks)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if kind == tarfile.PAX_FORMAT:
                info.pax_headers = {'comment': 'x'}
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue().rstrip(b'\0') + bytes(1024)


def main():
    folder = sys.argv[1]
    seeds = {
        'footer': stream(), 'empty': stream(True), 'front': front(True), 'plain-marks': front(False),
        'cut': stream()[:2600], 'sesparse': sesparse(), 'ova': ova(stream()),
        'ova-two': ova(front(True), front(False), kind=tarfile.PAX_FORMAT), 'ova-cut': ova(stream())[:5000],
    }
    for name, data in seeds.items():
        with open(os.path.join(folder, 'stream-' + name), 'wb') as f:
            f.write(data)


if __name__ == '__main__':
    main()
