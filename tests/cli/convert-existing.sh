#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert -n: writes into what is there, and does not believe that it is empty
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

qemu-img create -q -f raw a.raw 4M
io a.raw raw 'write -P 1 1M 64k' 'write -P 2 3000000 1000'
full() { # file, format
	qemu-img create -q -f "$2" "$1" 4M
	io "$1" "$2" 'write -P 238 0 4M'
}
full t.raw raw
works "over a full raw image" tapimg convert -n -f raw -O raw a.raw t.raw
works "over a full raw image: the same" cmp a.raw t.raw
full t.qcow2 qcow2
works "over a full qcow2 image" tapimg convert -n -f raw -O qcow2 a.raw t.qcow2
works "over a full qcow2 image: the same" qemu-img compare -q -f raw a.raw t.qcow2
works "over a full qcow2 image: sound" qemu-img check -q t.qcow2
for opts in -c "-S 0" "-t none -T none" "-o compat=0.10"; do
	# shellcheck disable=SC2086
	case $opts in
	-o*) qemu-img create -q -f qcow2 $opts t.qcow2 4M; io t.qcow2 qcow2 'write -P 238 0 4M' ;;
	*) full t.qcow2 qcow2 ;;
	esac
	case $opts in -o*) opts= ;; esac
	# shellcheck disable=SC2086
	works "over a full qcow2 image ($opts)" tapimg convert -n $opts -f raw -O qcow2 a.raw t.qcow2
	works "over a full qcow2 image ($opts): the same" qemu-img compare -q -f raw a.raw t.qcow2
done
qemu-img create -q -f raw base.raw 4M
io base.raw raw 'write -P 204 0 4M'
qemu-img create -q -f qcow2 -b base.raw -F raw over.qcow2
works "over an overlay" tapimg convert -n -f raw -O qcow2 a.raw over.qcow2
works "over an overlay: the backing file does not show" qemu-img compare -q -f raw a.raw over.qcow2
full t.raw raw
works "--target-is-zero is believed" tapimg convert -n --target-is-zero -f raw -O raw a.raw t.raw
like "--target-is-zero: the rest stays" "$(tapimg compare -f raw -F raw a.raw t.raw)" 'offset 0!'
qemu-img create -q -f raw large.raw 8M
io large.raw raw 'write -P 5 4M 4M'
works "a larger target" tapimg convert -n -f raw -O raw a.raw large.raw
works "a larger target: the rest stays" qemu-io -f raw -c 'read -P 5 4M 4M' large.raw
like "a larger target: pattern" "$(qemu-io -f raw -c 'read -P 5 4M 4M' large.raw)" 'read 4194304'
works "--target-image-opts" tapimg convert -n --target-image-opts -f raw a.raw driver=raw,file.filename=t.raw
works "--target-image-opts: the same" cmp a.raw t.raw

# a large empty image is seen to be empty
qemu-img create -q -f raw huge.raw 8T
qemu-img create -q -f qcow2 huge.qcow2 8T
start=$(date +%s%N)
works "8 TiB of nothing over 8 TiB of nothing" tapimg convert -n -f raw -O qcow2 huge.raw huge.qcow2
is "8 TiB of nothing: in a moment" "$((($(date +%s%N) - start) / 1000000 < 3000))" 1
is "8 TiB of nothing: nothing is written" "$(($(stat -c %b huge.qcow2) < 2000))" 1
done_testing
