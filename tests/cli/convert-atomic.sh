#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert: a run that fails leaves no target, and an existing one as it was
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io python3

head -c 8M /dev/urandom >a.raw
echo precious >old

# a source that cannot be read to its end: a compressed cluster that is none
head -c 3M /dev/zero | tr '\0' x >x.raw
qemu-img convert -c -f raw -O qcow2 x.raw bad.qcow2
python3 - <<'PY'
import struct
with open('bad.qcow2', 'r+b') as f:
    f.seek(40)
    l1, = struct.unpack('>Q', f.read(8))
    f.seek(l1)
    l2 = struct.unpack('>Q', f.read(8))[0] & 0xfffffffffffe00
    f.seek(l2 + 8 * 40)
    entry, = struct.unpack('>Q', f.read(8))
    assert entry >> 62 & 1
    f.seek(entry & ((1 << 54) - 1))
    f.write(b'\xff' * 40)
PY
refuses "a bad source, no target" bad.qcow2 'reading at byte 2621440 of bad.qcow2' tapimg convert -O raw bad.qcow2 new.raw
refuses "a bad source, an old target" old 'bad.qcow2' tapimg convert -O qcow2 bad.qcow2 old
refuses "no source" old "'nope'" tapimg convert -O qcow2 nope old
refuses "no such format" old "'foo'" tapimg convert -O foo a.raw old
refuses "no such option" old "'foo'" tapimg convert -f raw -O qcow2 -o foo=1 a.raw old
refuses "a bad value" old "cluster.size" tapimg convert -f raw -O qcow2 -o cluster_size=7 a.raw old
refuses "a backing file that is not there" old "'none.raw'" \
	tapimg convert -f raw -O qcow2 -B none.raw -F raw a.raw old

# no space: a limit on the size of files
# shellcheck disable=SC2317
limited() {
	(ulimit -f 2048 && "$TAPIMG" "$@")
}
refuses "no space, no target" a.raw ' of full.raw' limited convert -f raw -O qcow2 a.raw full.raw
refuses "no space, an old target" old 'old: ' limited convert -f raw -O raw -S 0 a.raw old
refuses "no space, dd" old 'old' limited dd -f raw if=a.raw of=old

# a signal: the target goes away, and the program ends by the signal
for sig in INT TERM HUP; do
	timeout -s "$sig" 1 "$TAPIMG" convert -f raw -O qcow2 -r 1M a.raw old >out 2>err
	is "SIG$sig ends it" "$?" 124
	is "SIG$sig: the old target" "$(cat old)" precious
	is "SIG$sig: nothing is left" "$(find . -name '*tapimg-*')" ""
done

# also while it waits for a slow rate
timeout -s TERM -k 5 1 "$TAPIMG" convert -f raw -O qcow2 -r 1k a.raw old >out 2>err
is "SIGTERM while it waits" "$?" 124
is "nothing is left then" "$(find . -name '*tapimg-*')" ""

# a target that is being read
qemu-img create -q -f qcow2 -b a.raw -F raw top.qcow2
ln a.raw link.raw
refuses "onto itself" a.raw "'a.raw' is both source and target" tapimg convert -f raw -O qcow2 a.raw a.raw
refuses "by another name" a.raw "'link.raw' is both" tapimg convert -f raw -O raw a.raw link.raw
refuses "in place" a.raw "'a.raw' is both" tapimg convert -n -f raw -O raw a.raw a.raw
refuses "onto a layer" a.raw "'a.raw' is a layer of the source 'top.qcow2'" tapimg convert -O raw top.qcow2 a.raw
rm link.raw

# a data file is a part of the target: it comes, stays or goes with it
refuses "a data file that was not there" none 'bad.qcow2' \
	tapimg convert -O qcow2 -o data_file=data.raw bad.qcow2 split.qcow2
tapimg convert -f raw -O qcow2 -o data_file=data.raw a.raw split.qcow2
refuses "a data file with a disk" data.raw 'bad.qcow2' \
	tapimg convert -O qcow2 -o data_file=data.raw bad.qcow2 split.qcow2
works "a data file with a disk: it can still be read" tapimg compare -q a.raw split.qcow2
refuses "no space for a data file" data.raw 'data.raw' \
	limited create -f qcow2 -o data_file=data.raw,preallocation=full split.qcow2 12M
refuses "its own data file" split.qcow2 'own data file' tapimg create -f qcow2 -o data_file=./split.qcow2 split.qcow2 1M
refuses "its own data file, new" none 'own data file' tapimg create -f qcow2 -o data_file=./new.q new.q 1M
refuses "a data file below" a.raw "'a.raw' is in its backing chain" \
	tapimg create -f qcow2 -b a.raw -F raw -o data_file=a.raw new.q
mkdir there
echo old >there/data.raw
chmod 640 there/data.raw
ln -s there/data.raw d.raw
works "a data file through a link, elsewhere" tapimg convert -f raw -O qcow2 -o data_file=d.raw a.raw far.qcow2
works "a data file through a link, elsewhere: it is there" cmp there/data.raw a.raw
is "a data file through a link, elsewhere: link and mode are kept" "$(readlink d.raw) $(stat -c %a there/data.raw)" \
	"there/data.raw 640"
works "a data file through a link, elsewhere: the peer" qemu-img compare -q a.raw far.qcow2

# a folder where no file can be made: what may be written is, in place
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	mkdir shut
	chmod 755 . shut
	echo old >shut/disk
	chown 65534 shut/disk
	works "a folder that is shut" setpriv --reuid=65534 --regid=65534 --clear-groups \
		"$TAPIMG" create -q -f qcow2 shut/disk 5M
	is "a folder that is shut: the size" "$(qemu-img info shut/disk | sed -n 's/^virtual size: //p')" \
		"5 MiB (5242880 bytes)"
fi

# the other way round: success replaces it, with its mode
chmod 600 old
works "success" tapimg convert -f raw -O qcow2 a.raw old
works "success: the new contents" qemu-img compare -q -f raw -F qcow2 a.raw old
is "success: the mode is kept" "$(stat -c %a old)" 600
works "onto itself" tapimg convert -f qcow2 -O qcow2 -c old old2
is "no temporary files" "$(find . -name '*tapimg-*')" ""
done_testing
