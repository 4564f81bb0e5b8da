#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Runs tests and counts them.

  tests/run.py [options] --kind NAME PROGRAM... [--kind NAME PROGRAM...]

A test is any program.  How it is counted, the first rule that fits:
  1. a line "N passed, N failed, N skipped" of its output counts so many;
  2. lines of the Check library, "80%: Checks: 5, Failures: 1, Errors: 0", count each check;
  3. exit status 77 is one skipped, 0 one passed unless it is a script: those end with rule 1's line,
     and one that was cut short does not; anything else is one failed.
An exit status other than 0 and 77 is at least one failure, whatever was printed.
Lines that begin with SKIP are shown, so that nothing is skipped in silence.

What a test finds in its environment:
  TAPIMG         the program under test, absolute
  TAPIMG_BUILD   the build folder, absolute         TAPIMG_SRC  the source tree, absolute
  TAPIMG_CORPUS  folder with MANIFEST.tsv and images.tar.zst, or unset
  TAPIMG_LONG    1 with --long, else unset
  TMPDIR         an empty folder of its own, removed afterwards
It runs with TMPDIR as its current folder and has to leave everything else alone.
"""
import argparse
import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SUM = re.compile(r'^(\d+) passed, (\d+) failed, (\d+) skipped\b', re.M)
CHECK = re.compile(r'^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)', re.M)
LIMIT, LIMIT_LONG = 600, 7200           # seconds for one test


def options():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument('--build', default='build')
    p.add_argument('--jobs', type=int, default=os.cpu_count())
    p.add_argument('--only', help='run only tests whose name contains this')
    p.add_argument('--long', action='store_true')
    p.add_argument('--valgrind', action='store_true')
    p.add_argument('--fuzz', type=int, metavar='SECONDS', help='fuzz each target so long')
    p.add_argument('--kind', nargs='+', action='append', metavar=('NAME', 'PROGRAM'), default=[])
    return p.parse_args()


def corpus(src):
    """Where the corpus of real images lies, or None."""
    for path in (os.environ.get('TAPIMG_CORPUS'), os.path.join(src, '..', 'shared', 'corpus')):
        if path and os.path.exists(os.path.join(path, 'MANIFEST.tsv')):
            return os.path.abspath(path)
    return None


def sanitized(build):
    try:
        with open(os.path.join(build, '.flags')) as f:
            return '-fsanitize' in f.read()
    except OSError:
        return False


def environment(opt, src):
    env = dict(os.environ)
    build = os.path.abspath(opt.build)
    env.update(TAPIMG=os.path.join(build, 'tapimg'), TAPIMG_BUILD=build, TAPIMG_SRC=src,
               LC_ALL='C.UTF-8')
    env.setdefault('CK_DEFAULT_TIMEOUT', '60')      # 4 s are short on a busy machine
    if sanitized(build):
        env.setdefault('ASAN_OPTIONS', 'abort_on_error=0:detect_leaks=1')
        env.setdefault('UBSAN_OPTIONS', 'print_stacktrace=1')
    else:
        env.pop('ASAN_OPTIONS', None)   # tests tell by it
    env.pop('TAPIMG_CORPUS', None)
    env.pop('MAKEFLAGS', None)
    env.pop('TAPIMG_LONG', None)
    where = corpus(src)
    if where:
        env['TAPIMG_CORPUS'] = where
    if opt.long:
        env['TAPIMG_LONG'] = '1'
    return env


def inputs(src, tmp):
    """Folders with inputs for the fuzz targets: what was found once, and images of all kinds."""
    found = []
    kept = os.path.join(src, 'tests', 'fuzz', 'corpus')
    if os.path.isdir(kept):
        found.append(kept)
    if shutil.which('qemu-img') and shutil.which('qemu-io'):
        seeds = os.path.join(tmp, 'seeds')
        subprocess.run(['bash', os.path.join(src, 'tests', 'fuzz', 'make-seeds.sh'), seeds],
                       stdout=subprocess.DEVNULL, check=True)
        found.append(seeds)
    return found


def command(opt, kind, prog, src, tmp):
    prog = os.path.abspath(prog)
    if prog.endswith('.py'):
        return [sys.executable, prog]
    if prog.endswith('.sh'):
        return ['bash', prog]
    if opt.valgrind:
        return ['valgrind', '-q', '--error-exitcode=9', '--leak-check=full',
                '--errors-for-leak-kinds=definite', '--trace-children=no',
                '--suppressions=' + os.path.join(src, 'tests', 'valgrind.supp'), prog]
    if kind == 'fuzz':
        seeds = inputs(src, tmp)
        if opt.fuzz:
            return [prog, f'-max_total_time={opt.fuzz}', '-rss_limit_mb=2048', '-malloc_limit_mb=512',
                    '-timeout=20', '-max_len=65536',
                    '-print_final_stats=1', 'new', *seeds]
        return [prog, *seeds]
    return [prog]


RUNNING = set()         # sessions of the tests under way


def end_session(session):
    """Kills what is left of a test; the Check library gives each test a process group of its own."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            if os.getsid(int(pid)) == session:
                os.kill(int(pid), signal.SIGKILL)


def stop(number, _):
    """Ends with all that was begun: the tests have sessions of their own, and would stay."""
    for session in list(RUNNING):
        end_session(session)
    os._exit(128 + number)


def wait(pid, until):
    """(exit status or -signal, seconds of CPU, whether it had to be stopped)."""
    late = False
    while True:
        got, status, usage = os.wait4(pid, os.WNOHANG)
        if got:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, late
        if not late and time.monotonic() > until:
            late = True
            end_session(pid)
        time.sleep(0.05)


def run(opt, kind, prog, src, env):
    """One test: (name, passed, failed, skipped, seconds, seconds of CPU, output)."""
    name = kind + '/' + os.path.basename(prog)
    tmp = tempfile.mkdtemp(prefix='tapimg-test-')
    os.mkdir(os.path.join(tmp, 'new'))
    env = dict(env, TMPDIR=tmp)
    if opt.valgrind:
        env['CK_FORK'] = 'no'
        env['CK_TIMEOUT_MULTIPLIER'] = '50'
    limit = (opt.fuzz + 300) if opt.fuzz else LIMIT_LONG if opt.long else LIMIT
    begin = time.monotonic()
    with tempfile.TemporaryFile() as f:
        child = subprocess.Popen(command(opt, kind, prog, src, tmp), cwd=tmp, env=env,
                                 stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT,
                                 start_new_session=True)
        RUNNING.add(child.pid)
        status, cpu, late = wait(child.pid, begin + limit)
        RUNNING.discard(child.pid)
        end_session(child.pid)
        child.returncode = status
        f.seek(0)
        out = f.read().decode(errors='replace')
    if late:
        out += f'\nstopped after {limit} s\n'
    elif status < 0:
        out += f'\nended by signal {-status}\n'
    took = time.monotonic() - begin
    if opt.fuzz and status:
        keep_findings(opt, name, tmp)
    shutil.rmtree(tmp, ignore_errors=True)
    return (name, *count(status, out, prog.endswith(('.sh', '.py'))), took, cpu, out)


def keep_findings(opt, name, tmp):
    where = os.path.join(opt.build, 'findings', os.path.basename(name))
    os.makedirs(where, exist_ok=True)
    for f in os.listdir(tmp):
        if f.startswith(('crash-', 'leak-', 'oom-', 'timeout-')):
            shutil.copy(os.path.join(tmp, f), where)
            print(f'kept {where}/{f}')


def count(status, out, script):
    sums, checks = SUM.findall(out), CHECK.findall(out)
    if sums:
        passed, failed, skipped = (int(n) for n in sums[-1])
    elif checks:
        total, bad = (sum(int(c[0]) for c in checks), sum(int(c[1]) + int(c[2]) for c in checks))
        passed, failed, skipped = total - bad, bad, 0
    else:
        good = status == 0 and not script
        return (int(good), int(not good and status != 77), int(status == 77))
    if status not in (0, 77) and not failed:
        failed = 1
    return passed, failed, skipped


def show(result):
    name, passed, failed, skipped, took, cpu, out = result
    word = 'FAIL' if failed else 'ok' if passed else 'SKIP' if skipped else 'ok'
    detail = f'{passed} passed' + (f', {failed} failed' if failed else '') \
        + (f', {skipped} skipped' if skipped else '')
    print(f'  {word:4} {name:40} {detail}, {took:.1f} s ({cpu:.1f} s CPU)', flush=True)
    if failed:
        tail = out.splitlines()[-60:]
        print('\n'.join('       | ' + line for line in tail), flush=True)
    else:
        for line in out.splitlines():
            if line.lstrip().startswith('SKIP'):
                print('       | ' + line.strip(), flush=True)


def main():
    opt = options()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    src = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = environment(opt, src)
    total = [0, 0, 0]
    kinds = {}
    # One pool for all kinds, so that no processor idles while the last of a kind ends.
    with concurrent.futures.ThreadPoolExecutor(max(opt.jobs, 1)) as pool:
        jobs = []
        for kind, *progs in opt.kind:
            progs = [p for p in progs if not opt.only or opt.only in os.path.basename(p)]
            kinds[kind] = [0, 0, 0]
            print(f'{kind}: {len(progs)} tests' if progs else f'{kind}: no tests here', flush=True)
            jobs += [pool.submit(run, opt, kind, p, src, env) for p in progs]
        for job in concurrent.futures.as_completed(jobs):
            result = job.result()
            show(result)
            for i in range(3):
                kinds[result[0].split('/')[0]][i] += result[1 + i]
    for kind, mine in kinds.items():
        print(f'{kind}: {mine[0]} passed, {mine[1]} failed, {mine[2]} skipped', flush=True)
        total = [a + b for a, b in zip(total, mine)]
    print(f'{total[0]} passed, {total[1]} failed, {total[2]} skipped', flush=True)
    return 1 if total[1] or not sum(total) else 0


if __name__ == '__main__':
    sys.exit(main())
