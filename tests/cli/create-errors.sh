#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# create: every error names file and value, and leaves what was there before
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img

echo precious >x.img
qemu-img create -q -f qcow2 loop.qcow2 1M
c=(tapimg create)

refuses "no file" x.img 'image file name' "${c[@]}"
refuses "no size" x.img "x.img.*size" "${c[@]}" -f qcow2 x.img
refuses "not a size" x.img "image size '1X'" "${c[@]}" -f qcow2 x.img 1X
refuses "a negative size" x.img "image size '-1'" "${c[@]}" -f qcow2 x.img -- -1
refuses "a size with too many letters" x.img "'1GB'" "${c[@]}" x.img 1GB
refuses "an empty size" x.img "image size ''" "${c[@]}" x.img ''
refuses "a size beyond 63 bits" x.img "'9E'" "${c[@]}" x.img 9E
refuses "a size beyond 64 bits" x.img "'99999999999999999999'" "${c[@]}" x.img 99999999999999999999
refuses "size twice" x.img 'x.img.*only once' "${c[@]}" -o size=1M x.img 2M
refuses "an unknown format" x.img "'foo'" "${c[@]}" -f foo x.img 1M
refuses "an unknown option" x.img "'foo'" "${c[@]}" -f qcow2 -o foo=1 x.img 1M
refuses "an option of another format" x.img "'cluster_size'" "${c[@]}" -f raw -o cluster_size=4k x.img 1M
refuses "one argument too many" x.img "'more'" "${c[@]}" x.img 1M more
refuses "an unknown switch" x.img "'--foo'" "${c[@]}" --foo x.img 1M
refuses "a switch without its argument" x.img "'-o'" "${c[@]}" x.img 1M -o
refuses "a backing file without its format" x.img "x.img.*loop.qcow2.*without backing format" \
	"${c[@]}" -f qcow2 -b loop.qcow2 x.img
refuses "a backing format without a file" x.img 'raw.*without backing file' \
	"${c[@]}" -f qcow2 -F raw x.img 1M
refuses "an unknown backing format" x.img "'foo'" "${c[@]}" -f qcow2 -b loop.qcow2 -F foo x.img
refuses "a backing file that is missing" x.img 'nope.*No such file' \
	"${c[@]}" -f qcow2 -b nope -F raw x.img 1M
refuses "-u without a size" x.img 'x.img.*size' "${c[@]}" -f qcow2 -u -b nope -F raw x.img
refuses "an image that is its own backing file" loop.qcow2 'loop.qcow2' \
	"${c[@]}" -f qcow2 -b loop.qcow2 -F qcow2 loop.qcow2 1M
refuses "the same under another name" loop.qcow2 'loop.qcow2' \
	"${c[@]}" -f qcow2 -b ./loop.qcow2 -F qcow2 loop.qcow2 1M
refuses "a raw image with a backing file" x.img 'x.img' "${c[@]}" -f raw -b loop.qcow2 -F qcow2 x.img 1M
refuses "a backing file that is not of that format" x.img 'x.img' \
	"${c[@]}" -f qcow2 -b x.img -F qcow2 y.img 1M

for bad in cluster_size=1000 cluster_size=256 cluster_size=4M cluster_size=x refcount_bits=3 \
	   refcount_bits=128 compat=2.0 compression_type=lzma preallocation=some lazy_refcounts=maybe \
	   extended_l2=on,cluster_size=4k extended_l2=on,compat=0.10 compat=0.10,refcount_bits=8 \
	   compat=0.10,lazy_refcounts=on data_file_raw=on compat=0.10,compression_type=zstd; do
	value=${bad##*=}
	refuses "-o $bad" x.img "x.img" "${c[@]}" -f qcow2 -o "$bad" x.img 1M
	case $bad in
	*,* | data_file_raw* | *4M) ;;
	*) like "-o $bad names the value" "$(tapimg create -f qcow2 -o "$bad" x.img 1M 2>&1)" "$value" ;;
	esac
done
refuses "encryption is refused clearly" x.img 'ncrypt' "${c[@]}" --object secret,id=s0,data=abc \
	-f qcow2 -o encrypt.format=luks,encrypt.key-secret=s0 x.img 1M
refuses "so is the old option" x.img 'ncrypt' "${c[@]}" -f qcow2 -o encryption=on x.img 1M
refuses "a size too large for its clusters" x.img 'x.img' "${c[@]}" -f qcow2 -o cluster_size=512 x.img 1P

mkdir dir ro
refuses "a folder as target" x.img 'dir.*[Dd]irectory' "${c[@]}" dir 1M
refuses "a folder that is missing" x.img "folder 'none' does not exist" "${c[@]}" none/y.img 1M
refuses "one at the root" x.img "folder '/none' does not exist" "${c[@]}" /none/y.img 1M
chmod 755 . ro
echo precious >ro/y.img
chmod 644 ro/y.img
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
[ "$(id -u)" = 0 ] || chmod 500 ro
if "${as[@]}" "$TAPIMG" --version >out 2>err && "${as[@]}" test -r ro/y.img; then
	refuses "a folder that cannot be written" x.img 'ro/z.img.*Permission' \
		"${as[@]}" "$TAPIMG" create ro/z.img 1M
	refuses "a file that cannot be written" ro/y.img 'ro/y.img.*Permission' \
		"${as[@]}" "$TAPIMG" resize -f raw ro/y.img 1M
	chmod 600 ro/y.img
	[ "$(id -u)" != 0 ] ||
		refuses "a file that cannot be read" ro/y.img 'ro/y.img.*Permission' \
			"${as[@]}" "$TAPIMG" info ro/y.img
else
	skip "folders and files without permission" "no user without rights can be had here"
fi

# no space left: the old file stays, and nothing else does
mkdir small
if mount -t tmpfs -o size=2M none small 2>/dev/null; then
	trap 'umount small' EXIT
	echo precious >small/x.img
	for args in "-f raw -o preallocation=full" "-f raw -o preallocation=falloc" \
		    "-f qcow2 -o preallocation=full" "-f qcow2 -o preallocation=falloc"; do
		# shellcheck disable=SC2086
		refuses "no space: $args" small/x.img 'small/x.img.*space' "${c[@]}" $args small/x.img 10M
		is "no space: $args: nothing is left" "$(ls -A small)" x.img
	done
	umount small
	trap - EXIT
else
	skip "no space left" "a tmpfs cannot be mounted here"
fi
done_testing
