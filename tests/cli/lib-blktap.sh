# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
#
# lib-blktap.sh - for the programs with blktap's command lines; source it after lib.sh
#
# Everything runs in ours/.  With BLKTAP_BIN=folder (of blktap's own vhd-util, td-util, cbt-util) the
# same commands also run there in peer/, and have to print the same and exit alike: so the
# texts written down in the tests are proved to be the peer's.

OURS=$(dirname "$TAPIMG")
PEER=
[ -z "${BLKTAP_BIN:-}" ] || [ ! -x "$BLKTAP_BIN/vhd-util" ] || PEER=$BLKTAP_BIN
mkdir -p ours peer
ours=$PWD/ours peer=$PWD/peer
if [ -z "$PEER" ]; then
	skip "$(basename "$0"): the same with blktap's own" "BLKTAP_BIN names no folder with its programs"
fi

vhd-util() { "$OURS/vhd-util" "$@"; }
cbt-util() { "$OURS/cbt-util" "$@"; }
td-util() { "$OURS/td-util" "$@"; }
cd ours || exit 1

# What of an output changes from run to run.
plain() {
	sed -E "s#$ours|$peer#DIR#g; s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/UUID/g
		s/[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} 20(1[0-9]|2[1-9]|[3-9][0-9])/TIME/
		s/^(Checksum +: )0x[0-9a-f]+\|0x[0-9a-f]+/\1SUM/"
}

only_ours() { # what, exit code, stdout, program, arguments...
	local what=$1 code=$2 want=$3 rc

	shift 3
	"$OURS/$1" "${@:2}" >"$ours/../out" 2>"$ours/../err" </dev/null
	rc=$?
	is "$what: exit code" "$rc" "$code"
	is "$what" "$(plain <"$ours/../out"; echo .)" "$want"
}

only_peer() { # what, exit code, stdout, program, arguments...
	local what=$1 code=$2 want=$3 rc

	shift 3
	[ -n "$PEER" ] || return 0
	cd "$peer" || exit 1
	LD_LIBRARY_PATH=$PEER "$PEER/$1" "${@:2}" >"$peer/../out" 2>"$peer/../err" </dev/null
	rc=$?
	is "blktap: $what: exit code" "$rc" "$code"
	is "blktap: $what" "$(plain <"$peer/../out"; echo .)" "$want"
	cd "$ours" || exit 1
}

# Prints exactly that (end it with a line "." in place of the final newline: text without one ends in
# "TEXT.").
says() { # what, exit code, stdout, program, arguments...
	only_ours "$@"
	only_peer "$@"
}

# The same for what stands on stderr, of the last command.
stderr() { # what, text
	is "$1" "$(plain <"$ours/../err"; echo .)" "$2"
}

# Something done to both folders alike.
both() { # command...
	(cd "$ours" && "$@")
	(cd "$peer" && "$@")
}
