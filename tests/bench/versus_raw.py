# SPDX-License-Identifier: BSD-2-Clause
"""What a format costs beside our own raw disk, for the rows of several formats."""


def more_than_raw(b, name, count, image, raw, wanted):
    """Processor time that each of @count 4 KiB reads of @image, [format, file], takes more than one of a raw disk."""
    args = [b.tapimg, 'bench', '-c', count, '-d', 32, '-s', 4096, '-S', (1 << 20) + 4096, '-t', 'none', '-f']
    got, base = b.pair([*args, *image], [*args, 'raw', raw])
    base = sorted(r[1] * 1e6 / count for r in base)
    more = [r[1] * 1e6 / count - base[len(base) // 2] for r in got]
    b.value(name, '4 KiB reads, more than raw', more, 'us', wanted, base)
