#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""make-nbd-seeds.py DIR - conversations of NBD clients for fuzz-nbd to begin with: every option, command and style."""
import os
import struct
import sys

OPT = 0x49484156454F5054


def opt(n, data=b''):
    return struct.pack('>QII', OPT, n, len(data)) + data


def text(s):
    return struct.pack('>I', len(s)) + s


def go(name, n=7):
    return opt(n, text(name) + struct.pack('>HHH', 2, 3, 1))


def meta(n, name, *queries):
    return opt(n, text(name) + struct.pack('>I', len(queries)) + b''.join(text(q) for q in queries))


def request(ext, flags, kind, off, length, payload=b''):
    if ext:
        return struct.pack('>IHHQQQ', 0x21e41c71, flags | (32 if payload else 0), kind, 7, off, length) + payload
    return struct.pack('>IHHQQI', 0x25609513, flags, kind, 7, off, length) + payload


def commands(ext):
    out = [request(ext, 0, 1, 1000, 600, b'x' * 600), request(ext, 0, 0, 0, 5000), request(ext, 1, 3, 0, 0),
           request(ext, 1, 4, 0, 65536), request(ext, 0, 5, 0, 65536), request(ext, 2, 6, 100, 70000),
           request(ext, 16, 6, 0, 65536), request(ext, 0, 7, 0, 1 << 20), request(ext, 8, 7, 300000, 4096),
           request(ext, 0, 8, 4096, 0), request(ext, 0, 0, 1 << 20, 1), request(ext, 0, 1, 1 << 40, 3, b'abc')]
    if ext:
        out.append(request(1, 0, 7, 0, 16, struct.pack('>QII', 1 << 20, 0, 2)))
    return b''.join(out) + request(ext, 0, 2, 0, 0)


both = (b'base:allocation', b'qemu:allocation-depth', b'qemu:dirty-bitmap:b')
flags = struct.pack('>I', 3)
seeds = {
    'simple': flags + go(b'a') + commands(0),
    'structured': flags + opt(8) + meta(10, b'a', *both) + go(b'a') + commands(0),
    'extended': flags + opt(11) + meta(10, b'a', *both) + go(b'a') + commands(1),
    'memory': flags + opt(8) + go(b'm') + commands(0),
    'readonly': flags + opt(8) + meta(10, b'ro', both[0]) + go(b'ro') + commands(0),
    'exportname': flags + opt(1, b'm') + commands(0),
    'old': struct.pack('>I', 0) + opt(1, b''),
    'asking': flags + opt(3) + go(b'a', 6) + go(b'x', 6) + meta(9, b'a') + meta(9, b'a', b'base:', b'qemu:') +
              meta(9, b'', b'qemu:dirty-bitmap:') + opt(5) + opt(4, b'a') + opt(99, b'zz') + opt(2),
    'long': flags + opt(3, bytes(40000)) + opt(3),
}
os.makedirs(sys.argv[1], exist_ok=True)
for name, data in seeds.items():
    for how in (0, 5, 2):
        with open(os.path.join(sys.argv[1], f'nbd-{name}-{how}'), 'wb') as f:
            f.write(bytes([how]) + data)
