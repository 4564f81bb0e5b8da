# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
#
# lib.sh - what the tests of the command line share.  Source it first; end with "done_testing".
#
# A test script is about one behaviour and holds many checks, each counted.  It runs in an empty
# folder.  TAPIMG is the program under test, QEMU_IMG the peer it is compared with.

set -u
export LC_ALL=C.UTF-8 TZ=UTC
unset NO_COLOR
if [ -z "${TAPIMG:-}" ]; then
	TAPIMG=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/tapimg
	cd "$(mktemp -d)" || exit 1
	trap 'rm -rf "$PWD"' EXIT
fi
TAPIMG_SRC=${TAPIMG_SRC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
QEMU_IMG=${QEMU_IMG:-qemu-img}
passed=0 failed=0 skipped=0

# tapimg under its own name, so that tests read like what a user types
tapimg() {
	"$TAPIMG" "$@"
}

pass() {
	passed=$((passed + 1))
}

fail() { # what, details
	failed=$((failed + 1))
	echo "FAIL: $1"
	[ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/    /'
}

skip() { # what, why
	skipped=$((skipped + 1))
	echo "SKIP $1: $2"
}

done_testing() {
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" = 0 ]
	exit
}

# The whole script needs a program that is not here.
need() {
	local p

	for p; do
		command -v "$p" >/dev/null && continue
		echo "SKIP $(basename "$0"): $p is not installed"
		echo "0 passed, 0 failed, 1 skipped"
		exit 77
	done
}

is() { # what, got, wanted
	if [ "$2" = "$3" ]; then
		pass
	else
		fail "$1" "$(diff <(printf '%s\n' "$3") <(printf '%s\n' "$2") | head -30)"
	fi
}

like() { # what, text, extended regular expression
	if grep -Eq -- "$3" <<<"$2"; then
		pass
	else
		fail "$1" "no match for: $3
in: $2"
	fi
}

unlike() { # what, text, extended regular expression
	if grep -Eq -- "$3" <<<"$2"; then
		fail "$1" "a match for: $3
in: $2"
	else
		pass
	fi
}

# Succeeds, and prints nothing on stderr.
works() { # what, command...
	local what=$1 rc

	shift
	"$@" >out 2>err
	rc=$?
	if [ "$rc" = 0 ] && [ ! -s err ]; then
		pass
	else
		fail "$what" "$* -> exit $rc: $(head -5 err)"
	fi
}

# Exits with that code; every pattern is found on stderr.
exits() { # what, code, patterns joined by newlines, command...
	local what=$1 code=$2 patterns=$3 rc p bad=''

	shift 3
	"$@" >out 2>err
	rc=$?
	[ "$rc" = "$code" ] || bad="exit $rc, not $code. "
	while IFS= read -r p; do
		[ -z "$p" ] || grep -Eq -- "$p" err || bad="${bad}no '$p' on stderr. "
	done <<<"$patterns"
	if [ -z "$bad" ]; then
		pass
	else
		fail "$what" "$* -> $bad
stderr: $(head -5 err)"
	fi
}

# The same for code 1, and neither the named file nor the folder's list of files has changed.
refuses() { # what, file, patterns, command...
	local what=$1 file=$2 patterns=$3 before after

	shift 3
	before=$(snapshot_of "$file")
	: >out
	: >err
	exits "$what" 1 "$patterns" "$@"
	after=$(snapshot_of "$file")
	is "$what: files are as they were" "$after" "$before"
}

snapshot_of() { # file
	: >>out
	: >>err
	ls -A
	[ ! -f "$1" ] || { sha256sum "$1"; stat -c '%s %a %i' "$1"; }
}

# The same arguments give the same output and exit code as qemu-img.
same() { # what, arguments...
	local what=$1 got wanted

	shift
	wanted=$("$QEMU_IMG" "$@" 2>/dev/null; echo "exit $?")
	got=$(tapimg "$@" 2>/dev/null; echo "exit $?")
	is "$what" "$got" "$wanted"
}

# Each works on its own copy of what the folder "start" holds; the outputs are compared.
twin() { # what, arguments...
	local what=$1 got wanted

	shift
	wanted=$(cd twin-q && "$QEMU_IMG" "$@" 2>/dev/null; echo "exit $?")
	got=$(cd twin-t && tapimg "$@" 2>/dev/null; echo "exit $?")
	is "$what" "$got" "$wanted"
}

twin_start() {
	rm -rf twin-q twin-t
	mkdir twin-q twin-t
	[ ! -d start ] || cp -a --sparse=always start/. twin-q/
	[ ! -d start ] || cp -a --sparse=always start/. twin-t/
}

# JSON compared as values; keys that the peer's version does not have are dropped.
# shellcheck disable=SC2120
json_normal() { # keys to drop...
	python3 -c '
import json, sys
drop = set(sys.argv[1:])
def walk(v):
    if isinstance(v, dict):
        return {k: walk(x) for k, x in sorted(v.items()) if k not in drop}
    return [walk(x) for x in v] if isinstance(v, list) else v
print(json.dumps(walk(json.load(sys.stdin)), indent=1, sort_keys=True))' "$@"
}

same_json() { # what, keys to drop, arguments...
	local what=$1 drop=$2 got wanted

	shift 2
	# shellcheck disable=SC2086
	{
		wanted=$("$QEMU_IMG" "$@" 2>/dev/null | json_normal $drop; echo "exit ${PIPESTATUS[0]}")
		got=$(tapimg "$@" 2>/dev/null | json_normal $drop; echo "exit ${PIPESTATUS[0]}")
	}
	is "$what" "$got" "$wanted"
}

# One byte or more at an offset, given as \xNN.
poke() { # file, offset, bytes
	printf '%b' "$3" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc status=none
}

io() { # file, format, qemu-io commands...
	local file=$1 format=$2 c args=()

	shift 2
	for c; do
		args+=(-c "$c")
	done
	qemu-io -f "$format" "${args[@]}" "$file" >/dev/null
}
