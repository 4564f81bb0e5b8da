#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# info says in plain words what is wrong with an image and where
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f qcow2 x.qcow2 1M
unlike "a sound image has no problems" "$(tapimg info x.qcow2)" 'roblem'
unlike "nor in JSON" "$(tapimg info --output=json x.qcow2)" 'problem'

cp x.qcow2 dirty.qcow2
poke dirty.qcow2 79 '\x01'
like "the dirty bit" "$(tapimg info dirty.qcow2)" 'in use \(dirty\)'
like "is shown as qemu-img does" "$(tapimg info dirty.qcow2)" '^cleanly shut down: no$'
like "and in JSON" "$(tapimg info --output=json dirty.qcow2)" '"dirty-flag": true'

cp x.qcow2 corrupt.qcow2
poke corrupt.qcow2 79 '\x02'
like "the corrupt bit" "$(tapimg info corrupt.qcow2)" 'marked as corrupt'
like "as qemu-img shows it" "$(tapimg info corrupt.qcow2)" '^    corrupt: true$'
like "and in JSON" "$(tapimg info --output=json corrupt.qcow2)" '"corrupt": true'

cp x.qcow2 feature.qcow2
poke feature.qcow2 72 '\x80'
exits "an unknown feature is named" 1 "feature.qcow2
feature" tapimg info feature.qcow2

cp x.qcow2 version.qcow2
poke version.qcow2 7 '\x09'
exits "an unknown version is named" 1 "version.qcow2
version.*9" tapimg info version.qcow2

cp x.qcow2 bits.qcow2
poke bits.qcow2 23 '\x3f'
exits "a cluster size that cannot be" 1 "bits.qcow2
63" tapimg info bits.qcow2

cp x.qcow2 l1.qcow2
poke l1.qcow2 47 '\x01'
exits "an L1 table that is not aligned: where" 1 "l1.qcow2
L1" tapimg map l1.qcow2

head -c 60 x.qcow2 >short.qcow2
exits "a header cut short" 1 "short.qcow2" tapimg info -f qcow2 short.qcow2

# the header extension with the format's name, right behind a header of 112 bytes, becomes unknown
qemu-img create -q -f qcow2 -u -b x.qcow2 -F qcow2 nofmt.qcow2 1M
poke nofmt.qcow2 112 '\x12\x34\x56\x78'
like "no format for the backing file" "$(tapimg info nofmt.qcow2)" 'does not say the format'

# made by hand: qemu-img measures its processor first, and gives up where that is not steady
cp x.qcow2 luks.qcow2
poke luks.qcow2 35 '\x02'
exits "LUKS encryption is refused clearly" 1 "luks.qcow2
ncrypt" tapimg map luks.qcow2
cp x.qcow2 aes.qcow2
poke aes.qcow2 35 '\x01'
exits "so is AES" 1 "aes.qcow2
ncrypt" tapimg map aes.qcow2
done_testing
