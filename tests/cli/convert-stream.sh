#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# streamOptimized VMDKs: to files, to pipes, the same each time; cut off, salvaged; failures leave nothing
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3

python3 - <<'PY'
import random
rng = random.Random(3)
disk = bytearray(40 * (1 << 20) + 3 * 512)
for i in range(60):
    off, n = rng.randrange(len(disk) - 200000), rng.choice([1, 700, 40000, 150000])
    disk[off:off + n] = rng.randbytes(n) if i % 4 == 0 else (b'some text %d ' % i * n)[:n]
disk[-20:] = b'the last of the disk'
open('a.raw', 'wb').write(disk)
PY
S="-O vmdk -o subformat=streamOptimized"

# shellcheck disable=SC2086
works "to a file" tapimg convert -f raw $S a.raw a.vmdk
works "it reads the same" tapimg compare -f raw -F vmdk a.raw a.vmdk
like "info" "$(tapimg info a.vmdk)" 'create type: streamOptimized'
like "compressed" "$(tapimg map --output=json a.vmdk)" '"compressed": true'
works "check" tapimg check -q a.vmdk
# shellcheck disable=SC2086
tapimg convert -f raw $S a.raw - >b.vmdk
works "to stdout, redirected" cmp a.vmdk b.vmdk
# shellcheck disable=SC2086
tapimg convert -f raw $S a.raw /dev/stdout | cat >b.vmdk
works "to a pipe" cmp a.vmdk b.vmdk
mkfifo pipe
cat pipe >b.vmdk &
# shellcheck disable=SC2086
works "to a named pipe" tapimg convert -f raw $S a.raw pipe
wait
works "that has all of it" cmp a.vmdk b.vmdk
# shellcheck disable=SC2086
works "however many are under way" tapimg convert -f raw -m 1 $S a.raw b.vmdk
works "the same file" cmp a.vmdk b.vmdk
# shellcheck disable=SC2086
tapimg convert -p -f raw $S a.raw - 2>progress >b.vmdk
works "progress does not get into the stream" cmp a.vmdk b.vmdk
like "progress is on stderr" "$(tr '\r' '\n' <progress)" '100.00/100%'

tapimg convert -f raw -O vmdk -o subformat=streamOptimized,compression_level=1 a.raw fast.vmdk
tapimg convert -f raw -O vmdk -o subformat=streamOptimized,compression_level=12 a.raw small.vmdk
works "level 1" tapimg compare -f raw a.raw fast.vmdk
works "level 12" tapimg compare -f raw a.raw small.vmdk
is "levels make a difference" "$(($(stat -c %s fast.vmdk) > $(stat -c %s small.vmdk)))" 1
works "sparse -S 0 is fine too" tapimg convert -S 0 -f raw -O vmdk -o subformat=streamOptimized a.raw b.vmdk
works "and reads the same" tapimg compare -f raw a.raw b.vmdk
measured=$(tapimg measure -O vmdk -o subformat=streamOptimized -f raw --output=json a.raw | sed -n 's/.*"required": \([0-9]*\).*/\1/p')
is "measure is an upper bound" "$((measured >= $(stat -c %s a.vmdk)))" 1

# sources that end inside a grain: what is joined there is put together
head -c 100352 a.raw >j1
tail -c +100353 a.raw | head -c 512 >j2
tail -c +100865 a.raw >j3
# shellcheck disable=SC2086
works "sources that meet inside a grain" tapimg convert -f raw $S j1 j2 j3 j.vmdk
works "the file of the whole" cmp a.vmdk j.vmdk
# shellcheck disable=SC2086
tapimg convert -f raw $S j1 j2 j3 - >j.vmdk
works "to a pipe, too" cmp a.vmdk j.vmdk
tapimg convert -f raw -O qcow2 -c a.raw j.qcow2
works "compressed clusters of two sources" tapimg convert -f raw -O qcow2 -c j1 j2 j3 k.qcow2
works "the same image" cmp j.qcow2 k.qcow2
# shellcheck disable=SC2086
works "as it is with zeroes written" tapimg convert -S 0 -f raw $S j1 j2 j3 j.vmdk
works "and reads the same" tapimg compare -f raw a.raw j.vmdk

exits "raw into a pipe" 1 'pipe takes only' bash -c "'$TAPIMG' convert -f raw -O raw a.raw /dev/stdout | cat >pout; exit \${PIPESTATUS[0]}"
is "not a byte of it" "$(stat -c %s pout)" 0
exits "a sparse VMDK into a pipe" 1 'only streamOptimized' bash -c "'$TAPIMG' convert -f raw -O vmdk a.raw /dev/stdout | cat >pout; exit \${PIPESTATUS[0]}"
exits "a reader that goes away" 1 'Broken pipe' bash -c "'$TAPIMG' convert -f raw $S a.raw /dev/stdout | head -c 1000 >pout; exit \${PIPESTATUS[0]}"
exits "writing to a finished one" 1 'can only be read' tapimg convert -n -f raw -O vmdk a.raw a.vmdk
exits "with a backing file" 1 'backing file' tapimg create -f vmdk -o subformat=streamOptimized -b a.vmdk -F vmdk c.vmdk
exits "compress where there is none" 1 'cannot hold compressed' tapimg convert -c -f raw -O vmdk a.raw c.vmdk

# --- cut off
size=$(stat -c %s a.vmdk)
head -c $((size / 2)) a.vmdk >cut.vmdk
exits "a cut one is refused" 1 'cut off
the first [0-9]+ are there
--salvage' tapimg info cut.vmdk
there=$(tapimg info cut.vmdk 2>&1 | sed -n 's/.*the first \([0-9]*\) are there.*/\1/p')
exits "salvage" 0 "bytes $there to 41944575 could not be read
$((41944576 - there)) bytes in all" tapimg convert --salvage -O raw cut.vmdk out.raw
is "the beginning is right" "$(cmp -n "$there" a.raw out.raw && echo yes)" yes
is "the rest is zeroes" "$(tail -c +$((there + 1)) out.raw | tr -d '\0' | wc -c)" 0
exits "salvage into a stream" 0 "could not be read" tapimg convert --salvage -O vmdk -o subformat=streamOptimized cut.vmdk out.vmdk
works "which has the same" tapimg compare -f raw out.raw out.vmdk

# --- a source that cannot be read: no target, and no end in the pipe
cp a.vmdk bad.vmdk
dd if=/dev/zero of=bad.vmdk bs=1 seek=$((size / 2)) count=3000 conv=notrunc status=none
rm -f out.vmdk
exits "a damaged source" 1 'error while reading' tapimg convert -O vmdk -o subformat=streamOptimized bad.vmdk out.vmdk
is "no target" "$(ls out.vmdk 2>/dev/null)" ""
"$TAPIMG" convert -O vmdk -o subformat=streamOptimized bad.vmdk - 2>/dev/null | cat >pout
exits "no end in the pipe" 1 'cut off' tapimg info pout
exits "check finds it" 2 'damaged' tapimg check bad.vmdk
done_testing
