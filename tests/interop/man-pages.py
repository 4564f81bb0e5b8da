#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""The man pages say what the program does.

  man-pages.py [--lint-only]

Each verb has a page; the options in it are those of the verb's table (tapimg --list-commands=json)
and no others; each option of a format is in the format's page; each function of the header exists
in libtapimg(3) or the header where the page promises it; tapdisk(8) has all that --list-options lists; mandoc and man find nothing to complain
about.
"""
import json
import os
import re
import subprocess
import sys

from libinterop import BUILD, SRC, TAPIMG, Counter, Failed, have, sh

COMMON = {'--untrusted', '--any-extent', '--stale-backing', '--object'}            # of every verb, in tapimg(1)


def page(name):
    path = os.path.join(SRC, 'man', name)
    if not os.path.exists(path):
        raise Failed(f'man/{name} is missing')
    with open(path) as f:
        return f.read()


def options_of(text):
    """The options that the .It lines of a page show."""
    found = set()
    for line in re.findall(r'^\.It (.*)$', text, re.M):
        for word in re.findall(r'\bFl (-?[A-Za-z][\w-]*)', line):
            found.add('-' + word)
    return found


def verb(command):
    text = page(f"tapimg-{command['name']}.1")
    here = options_of(text)
    table = {'-h', '--help'}
    for o in command['options']:
        if o.get('help'):
            table |= {o[k] if o[k].startswith('-') else '--' + o[k]
                      for k in ('short', 'long') if o.get(k)}
    if table - here:
        raise Failed('not in the page: ' + ' '.join(sorted(table - here)))
    hidden = {('--' + o['long']) for o in command['options'] if o.get('long')}
    hidden |= {o['short'] for o in command['options'] if o.get('short')}
    if here - table - COMMON - hidden:
        raise Failed('not in the table: ' + ' '.join(sorted(here - table - COMMON - hidden)))
    if command['summary'] not in text:
        raise Failed(f"the summary '{command['summary']}' is not in the page")
    if f"tapimg-{command['name']} 1" not in page('tapimg.1'):
        raise Failed('tapimg(1) does not name it')
    if '.Sh EXAMPLES' not in text:
        raise Failed('no examples')


def program(name):
    """The page of a program with commands of its own: a subsection for each, with its options."""
    text = page(f'{name}.1')
    parts = dict(re.findall(r'^\.Ss (\S+)\n(.*?)(?=^\.S[sh] |\Z)', text, re.M | re.S))
    commands = json.loads(sh(os.path.join(BUILD, name), '--list-commands=json'))
    for command in commands:
        if command['name'] not in parts:
            raise Failed(f"no subsection {command['name']}")
        here = options_of(parts[command['name']])
        table = {o['short'] for o in command['options']}
        if here != table:
            raise Failed(f"{command['name']}: " + ' '.join(sorted(here ^ table)))
        if command['summary'] not in parts[command['name']]:
            raise Failed(f"the summary '{command['summary']}' is not in the page")
    if set(parts) != {x['name'] for x in commands}:
        raise Failed('subsections that are no commands')
    if '.Sh EXAMPLES' not in text:
        raise Failed('no examples')


def single(name):
    """The page of a program that is one command."""
    text = page(f'{name}.1')
    command = json.loads(sh(os.path.join(BUILD, name), '--list-commands=json'))[0]
    table = {'-h', '--help'}
    for o in command['options']:
        table |= {o['short'], '--' + o['long']}
    if options_of(text) != table:
        raise Failed(' '.join(sorted(options_of(text) ^ table)))
    if command['summary'] not in text:
        raise Failed(f"the summary '{command['summary']}' is not in the page")
    if '.Sh EXAMPLES' not in text:
        raise Failed('no examples')


def format_options(name):
    out = sh(TAPIMG, 'create', '-f', name, '-o', 'help')
    known = set(re.findall(r'^ +([a-z][\w.-]*)=', out, re.M))
    here = set(re.findall(r'\bCm ([a-z][\w.-]*) Ns =', page(f'tapimg-{name}.5')))
    if not known:
        raise Failed('no options listed: ' + out)
    if known - here:
        raise Failed('not in the page: ' + ' '.join(sorted(known - here)))
    if here - known:
        raise Failed('not an option: ' + ' '.join(sorted(here - known)))


def server():
    """tapdisk(8): every option, and every key of disks and front ends, and no others."""
    program = os.path.join(os.path.dirname(TAPIMG), 'tapdisk')
    known = set(sh(program, '--list-options').split())
    text = page('tapdisk.8')
    options = {k for k in known if k.startswith('--')}
    here = {o for o in options_of(text) if o.startswith('--')}
    if options - here:
        raise Failed('not in the page: ' + ' '.join(sorted(options - here)))
    if here - options:
        raise Failed('not an option: ' + ' '.join(sorted(here - options)))
    keys = {k[:-1] for k in known if k.endswith('=')}
    described = set(re.findall(r'^\.It Cm ([a-z][\w-]*) Ns =', text, re.M))
    if keys - described:
        raise Failed('keys not in the page: ' + ' '.join(sorted(keys - described)))
    if described - keys:
        raise Failed('no such keys: ' + ' '.join(sorted(described - keys)))


def functions():
    with open(os.path.join(SRC, 'include', 'tapimg.h')) as f:
        header = f.read()
    for fn in re.findall(r'\.Fn (\w+)', page('libtapimg.3')):
        if not re.search(rf'\b{fn}\(', header):
            raise Failed(f'{fn} is not in tapimg.h')


def lint(name):
    path = os.path.join(SRC, 'man', name)
    r = subprocess.run(['mandoc', '-T', 'lint', '-W', 'warning', path], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, universal_newlines=True)
    if r.returncode:
        raise Failed(r.stdout.strip())


def main():
    c = Counter()
    pages = sorted(f for f in os.listdir(os.path.join(SRC, 'man')) if f[-2:-1] == '.')
    for name in pages:
        if have('mandoc'):
            c.case(f'lint {name}', lint, name)
        else:
            c.skip(f'lint {name}', 'mandoc is not installed')
    if '--lint-only' in sys.argv:
        return c.end()
    commands = json.loads(sh(TAPIMG, '--list-commands=json'))
    for command in commands:
        if not command.get('hidden'):
            c.case(f"tapimg-{command['name']}(1)", verb, command)
    for name in re.search(r'^Supported formats:(.*)$', sh(TAPIMG, '--version'), re.M).group(1).split():
        c.case(f'tapimg-{name}(5)', format_options, name)
    for name in ('vhd-util', 'td-util', 'cbt-util'):
        c.case(f'{name}(1)', program, name)
    for name in ('qcow-create', 'img2qcow', 'qcow2raw'):
        c.case(f'{name}(1)', single, name)
    c.case('libtapimg(3)', functions)
    c.case('tapdisk(8)', server)
    names = {f"tapimg-{x['name']}.1" for x in commands}
    for name in pages:
        if name.startswith('tapimg-') and name.endswith('.1') and name not in names:
            c.case(name, lambda: (_ for _ in ()).throw(Failed('there is no such verb')))
    return c.end()


if __name__ == '__main__':
    sys.exit(main())
