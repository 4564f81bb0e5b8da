# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
#
# lib-nbd.sh - what the tests of NBD share: starting servers and waiting for their sockets

TAPDISK=${TAPDISK:-$(dirname "$TAPIMG")/tapdisk}

# Whatever still runs of what this script started.
stop_all() {
	local p

	for p in $(jobs -pr); do
		kill "$p" 2>/dev/null
	done
	wait
}
trap stop_all EXIT

wait_for() { # socket, process
	local i

	for ((i = 0; i < 300; i++)); do
		[ -S "$1" ] && return
		kill -0 "$2" 2>/dev/null || break
		sleep 0.05
	done
	fail "the server of $1 does not come up" "$(cat server.err 2>/dev/null)"
	return 1
}

# A server in the background; its process is in $server.
start() { # socket, command...
	local sock=$1

	shift
	rm -f "$sock"
	"$@" 2>server.err &
	server=$!
	wait_for "$sock" "$server"
}

tapdisk() { # socket, arguments...
	local sock=$1

	shift
	start "$sock" "$TAPDISK" -q "$@"
}

# Ends a server and looks that it did so in good order.
stop() { # process
	kill "$1"
	wait "$1"
	is "the server ends well" "$?" 0
	is "and says nothing" "$(cat server.err)" ""
}

uri() { # socket, export
	echo "nbd+unix:///${2:-}?socket=$PWD/$1"
}

# A Python that has libnbd.
python_nbd() {
	local p

	for p in python3 /usr/bin/python3; do
		"$p" -c 'import nbd' 2>/dev/null && echo "$p" && return
	done
	return 1
}
