#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# the frame: help, version, names, unknown words; what the man pages say is man-pages.py's part
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

like "--version" "$(tapimg --version)" '^tapimg version [0-9]+\.[0-9]+\.[0-9]+'
like "-V" "$(tapimg -V)" '^tapimg version'
ln -s "$TAPIMG" qemu-img
like "under the other name" "$(./qemu-img --version)" '^qemu-img version [0-9]+\.[0-9]+\.[0-9]+ '
exits "it names itself so" 1 '^qemu-img: .*nope' ./qemu-img info nope
exits "and tapimg otherwise" 1 '^tapimg: .*nope' tapimg info nope

exits "no verb" 1 'Not enough arguments
--help' tapimg
exits "an unknown verb" 1 'nope
--help' tapimg nope
exits "an unknown option before the verb" 1 "'--nope'" tapimg --nope info x
like "--help lists the verbs" "$(tapimg --help)" '^  create +[a-z]'
is "help is help" "$(tapimg help)" "$(tapimg --help)"
is "help of a verb" "$(tapimg help map)" "$(tapimg map --help)"

man=$TAPIMG_SRC/man
for verb in $(tapimg --list-commands); do
	works "$verb --help" tapimg "$verb" --help
	like "$verb --help says how" "$(cat out)" "^usage: tapimg $verb "
	is "$verb -h is the same" "$(tapimg "$verb" -h)" "$(cat out)"
	like "--help names $verb" "$(tapimg --help)" "^  $verb "
	exits "$verb: an unknown option" 1 "'--no-such-option'" tapimg "$verb" --no-such-option
	like "bash completion knows $verb" "$(tapimg completion bash)" "$verb"
	page=$(find "$man" -name "tapimg-$verb.1" 2>/dev/null)
	if [ -n "$page" ]; then
		pass
	else
		fail "there is a man page for $verb"
	fi
done
works "--list-commands=json is JSON" python3 -c 'import json, subprocess, os
json.loads(subprocess.check_output([os.environ["TAPIMG"], "--list-commands=json"]))'
exits "--list-commands of another kind" 1 "'xml'" tapimg --list-commands=xml

works "-T is taken as qemu-img takes it" tapimg -T foo --help
truncate -s 1M x.raw
works "--object secret is taken" tapimg info --object secret,id=s0,data=abc x.raw
exits "another object is not" 1 'iothread' tapimg info --object iothread,id=t0 x.raw
exits "nor one without a name" 1 "'id'" tapimg info --object secret,data=abc x.raw
works "options may follow the file" tapimg info x.raw --output=json
export TAPIMG
# shellcheck disable=SC2016
works "a file that looks like an option" sh -c 'cp x.raw ./-x.raw && "$TAPIMG" info -f raw -- -x.raw'
if [ -c /dev/full ]; then
	# shellcheck disable=SC2016
	exits "a full disk below stdout is an error" 1 'standard output' sh -c '"$TAPIMG" info x.raw >/dev/full'
fi
done_testing
