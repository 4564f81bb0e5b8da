#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A Linux guest under QEMU (no KVM) works on images of each format over vhost-user-blk.

One boot, one disk for each format and one with a packed ring and several queues.  The guest (guest-io.c
is its first process) writes, discards, flushes and reads back.  While it works the server is killed
with SIGKILL and started again; QEMU reconnects, and the guest must not notice.  Afterwards:
  * the guest has found no wrong byte, on any disk;
  * each image is clean, and equals what guest-io makes by itself on the host;
  * the guest knew of the write cache, and each of its flushes was an fdatasync here;
  * one disk that was made larger meanwhile is larger in the guest as well.
The kernel's own NBD client then does the same work on an image of another server, through a wire that
QEMU connects to its socket.

The kernel is the distribution's (apt-get download), kept below TAPIMG_GUEST_CACHE (default
~/.cache/tapimg-guest).  What cannot be had is said in a SKIP line.
"""
import glob
import lzma
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

SRC, BUILD, TAPIMG = (os.environ[v] for v in ('TAPIMG_SRC', 'TAPIMG_BUILD', 'TAPIMG'))
CACHE = os.environ.get('TAPIMG_GUEST_CACHE') or os.path.join(
    os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'tapimg-guest')
MODULES = ('virtio', 'virtio_ring', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci',
           'virtio_blk', 'virtio_console', 'nbd')
SIZE = '24M'
LIMIT = 240


def skip(why):
    print('SKIP', why)
    print('0 passed, 0 failed, 1 skipped')
    sys.exit(77)


# ---------------------------------------------------------------- the kernel


def fetch(where):
    """Unpacks the newest cloud kernel's package there."""
    deps = subprocess.run(['apt-cache', 'depends', 'linux-image-cloud-amd64'], capture_output=True,
                          text=True)
    found = re.search(r'Depends: (linux-image-\S+)', deps.stdout)
    if not found:
        skip('no kernel: apt-cache knows no linux-image-cloud-amd64')
    tmp = where + '.tmp'
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    got = subprocess.run(['apt-get', 'download', found[1]], cwd=tmp, capture_output=True, text=True)
    debs = glob.glob(tmp + '/*.deb')
    if got.returncode or not debs:
        skip('no kernel: apt-get download %s: %s' % (found[1], got.stderr.strip()[-200:]))
    subprocess.run(['dpkg-deb', '-x', debs[0], tmp + '/root'], check=True)
    with open(tmp + '/vmlinux', 'wb') as f:
        f.write(vmlinux(glob.glob(tmp + '/root/boot/vmlinuz-*')[0]))
    for name in MODULES:
        for path in glob.glob(f'{tmp}/root/lib/modules/*/kernel/**/{name}.ko*', recursive=True):
            with open(path, 'rb') as f:
                data = f.read()
            with open(f'{tmp}/{name}.ko', 'wb') as f:
                f.write(lzma.decompress(data) if path.endswith('.xz') else data)
    shutil.rmtree(tmp + '/root')
    os.remove(debs[0])
    try:
        os.rename(tmp, where)
    except OSError:         # another test was faster
        shutil.rmtree(tmp)


def vmlinux(path):
    """The kernel inside a bzImage, uncompressed where that can be done: it boots in half the time."""
    with open(path, 'rb') as f:
        image = f.read()
    setup = (image[0x1f1] or 4) + 1
    off, length = struct.unpack_from('<II', image, 0x248)
    payload = image[setup * 512 + off:setup * 512 + off + length]
    if payload[:6] != b'\xfd7zXZ\0':
        return image
    return lzma.LZMADecompressor().decompress(payload)


def kernel():
    where = os.path.join(CACHE, 'kernel')
    missing = [m for m in MODULES if not os.path.exists(f'{where}/{m}.ko')]
    if missing or not os.path.exists(where + '/vmlinux'):
        os.makedirs(CACHE, exist_ok=True)
        shutil.rmtree(where, ignore_errors=True)    # of a test that wanted fewer
        fetch(where)
    return where


# ---------------------------------------------------------------- the initial file system


def newc(files):
    """A cpio archive of (name, mode, data)."""
    out = bytearray()
    for i, (name, mode, data) in enumerate(files + [('TRAILER!!!', 0, b'')]):
        raw = name.encode() + b'\0'
        major = (5, 1) if name == 'dev/console' else (0, 0)
        fields = (i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *major, len(raw), 0)
        out += b'070701' + b''.join(b'%08x' % f for f in fields) + raw
        out += b'\0' * (-len(out) % 4) + data
        out += b'\0' * (-len(out) % 4)
    return bytes(out)


def initrd(where, init):
    files = [('dev', 0o40755, b''), ('sys', 0o40755, b''), ('proc', 0o40755, b''),
             ('dev/console', 0o20600, b''), ('modules', 0o40755, b'')]
    with open(init, 'rb') as f:
        files.append(('init', 0o100755, f.read()))
    order = [m + '.ko' for m in MODULES if os.path.exists(f'{where}/{m}.ko')]
    for m in order:
        with open(f'{where}/{m}', 'rb') as f:
            files.append(('modules/' + m, 0o100644, f.read()))
    files.append(('modules/order', 0o100644, ('\n'.join(order) + '\n').encode()))
    with open('initrd', 'wb') as f:
        f.write(newc(files))


# ---------------------------------------------------------------- server and guest


class Disk:
    def __init__(self, number, fmt, serial, device=''):
        self.fmt, self.serial, self.device = fmt, serial, device
        self.file, self.socket = f'{serial}.img', f's{number}'

    def create(self):
        return subprocess.run([TAPIMG, 'create', '-q', '-f', self.fmt, self.file, SIZE],
                              capture_output=True).returncode == 0


def disks():
    wanted = [('raw', 'raw', ''), ('qcow2', 'grow', ''), ('qcow2', 'packed', ',packed=on,num-queues=2'),
              ('vhd', 'vhd', ''), ('vmdk', 'vmdk', ''), ('qcow', 'qcow', '')]
    made = []
    for fmt, serial, device in wanted:
        d = Disk(len(made), fmt, serial, device)
        if d.create():
            made.append(d)
        else:
            print(f'no format {fmt} in this build')
    return made


def serve(all_disks):
    args = [os.path.join(BUILD, 'tapdisk'), '--control']
    for d in all_disks:
        args += ['--disk', f'{d.serial}={d.fmt}:{d.file}',
                 '--vhost-user-blk', f'socket={d.socket},disk={d.serial}']
    return start(args, '.')


def serve_nbd():
    """The image of the kernel's NBD client; its flushes are counted in its own folder."""
    os.makedirs('nbd', exist_ok=True)
    open('nbd/syncs', 'w').close()
    subprocess.run([TAPIMG, 'create', '-q', '-f', 'qcow2', 'nbd/nbd.img', SIZE], check=True)
    return start([os.path.join(BUILD, 'tapdisk'), '--disk', 'qcow2:nbd.img',
                  '--nbd', 'socket=s,handshake-timeout=600'], 'nbd')


def start(args, folder):
    env = dict(os.environ, LD_PRELOAD=os.path.join(BUILD, 'tests/vhost/count-syncs.so'),
               TAPDISK_RUN_DIR=os.path.abspath('run'), TAPDISK_SHM_DIR=os.path.abspath('run'))
    with open('server.log', 'a') as log:
        return subprocess.Popen(args, stdout=log, stderr=log, env=env, cwd=folder)


def grow(server, name):
    """Makes an image twice as large while the guest has it; its requests wait for a moment."""
    def ctl(*args):
        return subprocess.run([os.path.join(BUILD, 'tap-ctl'), *args], check=True, stdout=subprocess.PIPE,
                              text=True, env=dict(os.environ, TAPDISK_RUN_DIR=os.path.abspath('run'))).stdout
    pid = str(server.pid)
    minor = re.search(rf'minor=(\d+) .*{name}', ctl('list', '-p', pid))[1]
    ctl('pause', '-p', pid, '-m', minor)
    subprocess.run([TAPIMG, 'resize', '-q', '-f', 'qcow2', name, '48M'], check=True)
    ctl('unpause', '-p', pid, '-m', minor)


def boot(where, all_disks):
    args = ['qemu-system-x86_64', '-accel', 'tcg', '-cpu', 'qemu64,+rdrand', '-smp', '1', '-m', '192',
            '-nodefaults', '-nographic', '-no-reboot', '-serial', 'stdio',
            '-object', 'memory-backend-memfd,id=mem,size=192M,share=on',
            '-machine', 'q35,memory-backend=mem',
            '-kernel', where + '/vmlinux', '-initrd', 'initrd',
            '-append', 'console=ttyS0 quiet loglevel=4 panic=-1']
    args += ['-device', 'virtio-serial-pci', '-chardev', 'socket,id=wire,path=nbd/s',
             '-device', 'virtserialport,chardev=wire,name=nbd']
    for i, d in enumerate(all_disks):
        queues = d.device if 'num-queues' in d.device else d.device + ',num-queues=1'
        args += ['-chardev', f'socket,id=c{i},path={d.socket},reconnect=1',
                 '-device', f'vhost-user-blk-pci,chardev=c{i}{queues}']
    return subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors='replace')


def wait_for(test, what):
    end = time.monotonic() + 30
    while not test():
        if time.monotonic() > end:
            raise SystemExit('no ' + what)
        time.sleep(0.02)


def run(where, all_disks):
    """Lets the guest work; its lines, the server's exit status, how often it was killed."""
    server = serve(all_disks)
    nbd = serve_nbd()
    wait_for(lambda: all(os.path.exists(s) for s in ['nbd/s', *(d.socket for d in all_disks)]), 'sockets')
    guest = boot(where, all_disks)
    signal.alarm(LIMIT)
    lines, kills = [], 0
    try:
        for line in guest.stdout:
            lines.append(line.rstrip())
            # the first two disks undisturbed; then in the middle of the work on each other one
            if re.search(r'guest: vd[c-z] serial', line):
                time.sleep(0.05)
                server.kill()
                server.wait()
                kills += 1
                server = serve(all_disks)
            if 'waits for another size' in line:
                grow(server, 'grow.img')
        guest.wait()
    finally:
        guest.kill()
        for s in server, nbd:
            s.send_signal(signal.SIGTERM)
        status = server.wait() or nbd.wait()
    return lines, status, kills


# ---------------------------------------------------------------- judging


def judge_nbd(text, expect):
    found = re.search(r'guest: PASS nbd0 flushes=(\d+)', text)
    expect(found, 'nbd0 has not passed')
    syncs = os.path.getsize('nbd/syncs')
    expect(found and syncs >= int(found[1]) > 10, f'nbd0: {syncs} syncs')
    rc = subprocess.run([TAPIMG, 'check', '-q', 'nbd/nbd.img'], capture_output=True)
    expect(rc.returncode == 0, f'nbd0: check says {rc.returncode}: {rc.stderr}')
    rc = subprocess.run([TAPIMG, 'compare', '-f', 'qcow2', '-F', 'raw', 'nbd/nbd.img', 'model'],
                        capture_output=True, text=True)
    expect(rc.returncode == 0, f'nbd0 differs from the model: {rc.stdout}')


def judge(all_disks, lines, status, kills):
    text = '\n'.join(lines)
    bad = []

    def expect(good, what):
        if not good:
            bad.append(what)

    expect(status == 0, f'the server ends with {status}')
    expect(kills >= len(all_disks) - 2, f'{kills} kills only')
    expect('FAIL' not in text, 'the guest has found errors')
    flushes = 0
    for i, d in enumerate(all_disks):
        name = 'vd' + chr(ord('a') + i)
        found = re.search(f'guest: PASS {name} serial={d.serial} flushes=(\\d+)', text)
        expect(found, f'{name} ({d.serial}) has not passed')
        expect(f'{name} serial={d.serial} cache=write back' in text, f'{name}: no write cache is seen')
        if i < 2 and found:
            flushes += int(found[1])
        if d.fmt != 'raw':
            rc = subprocess.run([TAPIMG, 'check', '-q', '-f', d.fmt, d.file], capture_output=True)
            expect(rc.returncode in (0, 3, 63), f'{d.serial}: check says {rc.returncode}: {rc.stderr}')
        rc = subprocess.run([TAPIMG, 'compare', '-f', d.fmt, '-F', 'raw', d.file, 'model'],
                            capture_output=True, text=True)
        expect(rc.returncode == 0, f'{d.serial} differs from the model: {rc.stdout}')
    judge_nbd(text, expect)
    expect('GROWN' in text, 'the guest has seen no other size')
    expect(os.path.getsize('syncs') >= flushes > 20,
           f'{flushes} flushes of the guest, {os.path.getsize("syncs")} syncs here')
    return bad


def main():
    if not shutil.which('qemu-system-x86_64'):
        skip('qemu-system-x86_64 is not installed')
    where = kernel()
    built = subprocess.run(['gcc', '-O2', '-static', '-D_GNU_SOURCE', '-o', 'guest-io',
                            SRC + '/tests/guest/guest-io.c'], capture_output=True, text=True)
    if built.returncode:
        skip('guest-io cannot be linked statically: ' + built.stderr[-200:])
    subprocess.run(['./guest-io', 'model', 'model'], check=True)
    initrd(where, 'guest-io')
    open('syncs', 'w').close()
    all_disks = disks()
    began = time.monotonic()
    lines, status, kills = run(where, all_disks)
    bad = judge(all_disks, lines, status, kills)
    for line in lines:
        if 'guest:' in line or bad:
            print(line)
    print('%d disks and NBD, %d kills, %.0f s' % (len(all_disks), kills, time.monotonic() - began))
    if bad:
        with open('server.log') as f:
            print('\n'.join(bad), '\nserver:\n' + f.read()[-3000:])
    parts = len(all_disks) + 2      # the other size, NBD
    print(f'{parts - min(len(bad), parts)} passed, {len(bad)} failed, 0 skipped')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
