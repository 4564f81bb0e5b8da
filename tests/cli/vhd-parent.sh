#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# A differencing VHD is read above the parent that it was made over, and above no other
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tapimg create -q -f vpc parent.vhd 4M
tapimg create -q -f vpc other.vhd 4M
head -c 1M /dev/urandom >data.raw
truncate -s 4M data.raw
tapimg convert -n -f raw -O vpc data.raw parent.vhd
exits "a child" 0 "" tapimg create -q -f vpc -b parent.vhd -F vpc child.vhd
exits "reads as its parent does" 0 "" tapimg compare -q data.raw child.vhd

mv parent.vhd kept.vhd
cp other.vhd parent.vhd
exits "another disk in the parent's place: both identities are named" 1 "child.vhd': its parent '.*parent.vhd'
has the UUID [0-9a-f-]{36}, but it was made over [0-9a-f-]{36}" tapimg map child.vhd
exits "nor is it knowingly taken" 1 "made over" tapimg map --stale-backing child.vhd
exits "nor compared" 2 "made over" tapimg compare -q data.raw child.vhd
exits "a caller who names it gets it" 0 "" tapimg compare -q other.vhd \
	'json:{"driver":"vpc","file.filename":"child.vhd","backing":{"driver":"vpc","file.filename":"other.vhd"}}'

mv kept.vhd parent.vhd
exits "the right one is back" 0 "" tapimg compare -q data.raw child.vhd
done_testing
