#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# Formats have the names that other products know, whatever they are called on the command line
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f vpc -o force_size=on base.vhd 4M
qemu-io -f vpc -c 'write -q -P 0x5a 1M 64k' base.vhd
like "a VHD is 'vpc', as qemu-img has it" "$(tapimg info -f vhd base.vhd)" '^file format: vpc$'
is "in JSON as well" "$(tapimg info --output=json base.vhd | jq -r .format)" vpc

exits "an overlay over what was called vhd" 0 "" tapimg create -q -f qcow2 -b base.vhd -F vhd top.qcow2
is "names the format that others know" "$(qemu-img info --output=json top.qcow2 |
	jq -r '."backing-filename-format"')" vpc
exits "so that qemu reads through it" 0 "" qemu-io -f qcow2 -r -c 'read -q -P 0x5a 1M 64k' top.qcow2

cp base.vhd other.vhd
exits "rebase does the same" 0 "" tapimg rebase -q -u -f qcow2 -b other.vhd -F vhd top.qcow2
is "with the same name" "$(qemu-img info --output=json top.qcow2 |
	jq -r '."backing-filename-format"')" vpc
exits "and it is read there" 0 "" qemu-io -f qcow2 -r -c 'read -q -P 0x5a 1M 64k' top.qcow2
done_testing
