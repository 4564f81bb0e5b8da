#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# --untrusted opens no other file that an image names: backing files, data files
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

echo secret >secret.txt
truncate -s 1M secret.txt
qemu-img create -q -f qcow2 -b secret.txt -F raw backing.qcow2
qemu-img create -q -f qcow2 -o data_file=secret2.raw,data_file_raw=on data.qcow2 1M
qemu-img create -q -f qcow2 plain.qcow2 1M
exits "a backing file is named and refused" 1 "backing.qcow2
secret.txt" tapimg map --untrusted backing.qcow2
exits "a data file is named and refused" 1 "data.qcow2
secret2.raw" tapimg map --untrusted data.qcow2
exits "a raw file under a qcow2 one is not looked into" 1 'secret.txt' tapimg measure --untrusted backing.qcow2
works "an image that needs no other file" tapimg map --untrusted plain.qcow2
works "info looks at the image alone" tapimg info --untrusted backing.qcow2
works "without it all is open" tapimg map backing.qcow2
# a raw image that looks like qcow2 inside is probed only where no format was given
cp backing.qcow2 guest.raw
works "a format given is believed" tapimg info -f raw guest.raw
like "and the contents are not" "$(cat out)" '^file format: raw$'
qemu-img create -q -f qcow2 -u -b guest.raw -F raw over.qcow2 1M
works "nor in a chain" tapimg map --untrusted -f raw guest.raw
like "the layer below is raw, as it is said to be" "$(tapimg info --backing-chain over.qcow2)" '^file format: raw$'
done_testing
