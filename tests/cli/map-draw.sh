#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# map --draw and --svg show which layer holds what
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw base.raw 16M
io base.raw raw 'write -P 1 0 4M' 'write -P 1 12M 1M'
qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2
io mid.qcow2 qcow2 'write -P 2 2M 4M'
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
io top.qcow2 qcow2 'write -P 3 5M 2M' 'write -z 8M 1M'

# 16 columns of 64 KiB, 16 rows of 1 MiB
is "the drawing without colours" "$(tapimg map --draw --width=30 top.qcow2)" \
'top.qcow2: 16 MiB in 3 layers, 64 KiB a character

       0 B 2222222222222222
     1 MiB 2222222222222222
     2 MiB 1111111111111111
     3 MiB 1111111111111111
     4 MiB 1111111111111111
     5 MiB 0000000000000000
     6 MiB 0000000000000000
     7 MiB ................
     8 MiB ----------------
     9 MiB ................
    10 MiB ................
    11 MiB ................
    12 MiB 2222222222222222
    13 MiB ................
    14 MiB ................
    15 MiB ................

  0     top.qcow2                         2 MiB  12.5%, 1 MiB of zeroes
  1     mid.qcow2                         3 MiB  18.8%
  2     base.raw                          3 MiB  18.8%
  .     in no layer: reads as zeroes      7 MiB  43.8%'
unlike "no escape sequences into a pipe" "$(tapimg map --draw top.qcow2)" $'\033'
like "colours when asked for" "$(tapimg map --draw --color=always top.qcow2)" $'\033\[38;5;'
unlike "and never when not" "$(tapimg map --draw --color=never top.qcow2)" $'\033'
exits "a colour mode that is none" 1 "'green'" tapimg map --draw --color=green top.qcow2
exits "a width that is none" 1 "'3'" tapimg map --draw --width=3 top.qcow2
longest=$(tapimg map --draw --width=200 top.qcow2 | awk '{ if (length > n) n = length } END { print n }')
works "a wide drawing stays within its width" test "$longest" -le 200
qemu-img create -q -f qcow2 big.qcow2 1T
like "a large disk is as many rows" "$(tapimg map --draw --width=80 big.qcow2 | wc -l)" '^2[0-9]$'
qemu-img create -q -f raw empty.raw 0
works "an empty disk" tapimg map --draw empty.raw
works "a part" tapimg map --draw --start-offset=1M --max-length=100k top.qcow2

if command -v script >/dev/null; then
	LANG=C.UTF-8 TERM=xterm script -qec "'$TAPIMG' map --draw top.qcow2" /dev/null >tty.out </dev/null
	like "a terminal gets blocks" "$(cat tty.out)" '█'
	like "in colours" "$(cat tty.out)" $'\033\[38;5;'
	NO_COLOR=1 LANG=C.UTF-8 TERM=xterm script -qec "'$TAPIMG' map --draw top.qcow2" /dev/null >tty.out </dev/null
	unlike "NO_COLOR is heeded" "$(cat tty.out)" $'\033\[38;5;'
else
	skip "a terminal gets blocks" "script(1) is not installed"
fi

works "--svg writes a file" tapimg map --svg=map.svg top.qcow2
works "which is XML" python3 -c 'import sys, xml.dom.minidom as m; m.parse("map.svg")'
is "--svg=- writes the same" "$(tapimg map --svg=- top.qcow2)" "$(cat map.svg)"
for name in top.qcow2 mid.qcow2 base.raw '2 MiB (12.5 %)' '3 MiB (18.8 %)'; do
	like "the picture names $name" "$(cat map.svg)" "${name//[().]/.}"
done
# what the guest sees at 5..7 MiB of 16: columns 312..437 of 1000 from x=20, in the top's colour
like "the top layer lies where it should" "$(cat map.svg)" 'x="33[23]" y="64" width="12[456]"'
# its zeroes at 8..9 MiB: columns 500..562, a line at the foot of the lane
like "zeroes that hide something are a line" "$(cat map.svg)" 'x="520" y="94" width="6[23]" height="4"'
cp top.qcow2 'a<&>".qcow2'
works "a name with marks of its own" tapimg map --svg=odd.svg 'a<&>".qcow2'
works "is escaped" python3 -c 'import xml.dom.minidom as m; m.parse("odd.svg")'
echo old >old.svg
refuses "a picture of a missing image leaves the file" old.svg 'nope' tapimg map --svg=old.svg nope
works "a picture replaces a picture" tapimg map --svg=map.svg top.qcow2
refuses "but not another file" old.svg 'not a picture' tapimg map --svg=old.svg top.qcow2
refuses "nor a device" top.qcow2 'not a picture' tapimg map --svg=/dev/null top.qcow2
ln top.qcow2 other-name
refuses "nor the image" top.qcow2 'the image itself' tapimg map --svg=top.qcow2 top.qcow2
refuses "by another name" other-name 'the image itself' tapimg map --svg=other-name top.qcow2
printf '<svg' >layer.raw
truncate -s 1M layer.raw
qemu-img create -q -f qcow2 -b layer.raw -F raw over.qcow2
refuses "nor a layer that looks like one" layer.raw 'the image itself' tapimg map --svg=layer.raw over.qcow2
mkdir sub
qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on sub/d.qcow2 1M 2>err ||
	(cd sub && qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on d.qcow2 1M)
[ -e sub/data.raw ] || mv data.raw sub/
poke sub/data.raw 0 '<svg'
refuses "nor a data file" sub/data.raw 'the image itself' tapimg map --svg=sub/data.raw sub/d.qcow2
refuses "a picture into a missing folder" old.svg 'none/x.svg' tapimg map --svg=none/x.svg top.qcow2
done_testing
