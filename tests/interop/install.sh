#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# make install puts everything where it belongs, a program builds and runs with nothing but what
# was installed, shared and static, and make uninstall leaves nothing behind.
set -u
passed=0 failed=0 skipped=0
dest=$TMPDIR/dest
check() { # name, command...
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		printf 'FAIL %s: %s\n' "$name" "$out"
	fi
}
finish() { printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"; exit $((failed != 0)); }

if [ ! -e "$TAPIMG_BUILD/libtapimg.so" ]; then
	echo "SKIP installation: this build has no shared library (sanitizers)"
	skipped=1
	finish
fi
# Command-line variables of the outer make are not ours.
run_make() { env -u MAKEFLAGS -u MAKEOVERRIDES -u MFLAGS make -C "$TAPIMG_SRC" --no-print-directory O="$TAPIMG_BUILD" CC="$cc" CFLAGS="$cflags" WERROR="$werror" DESTDIR="$dest" prefix=/usr "$@"; }
# The build folder remembers how it was made; asking for the same keeps it as it is.
read -r _ cc _ <"$TAPIMG_BUILD/.flags"
cflags=$(cat "$TAPIMG_BUILD/.cflags")
werror=$(grep -q -- -Werror\  "$TAPIMG_BUILD/.flags" && echo 1)

# Other tests run these very programs at the same time.
built() { stat -c '%n %y %i' "$TAPIMG_BUILD/tapimg" "$TAPIMG_BUILD/tapdisk" "$TAPIMG_BUILD/libtapimg.a"; }
before=$(built)
check "install" run_make install-qemu-img-link
check "nothing is built again to be installed" test "$(built)" = "$before"
for f in bin/tapimg bin/qemu-img include/tapimg.h lib/libtapimg.a lib/libtapimg.so lib/libtapimg.so.0 \
	lib/pkgconfig/tapimg.pc share/man/man1/tapimg.1 share/man/man1/tapimg-convert.1 \
	share/man/man3/libtapimg.3 share/bash-completion/completions/tapimg \
	bin/vhd-util bin/td-util bin/cbt-util share/man/man1/vhd-util.1 \
	share/bash-completion/completions/vhd-util share/zsh/site-functions/_vhd-util \
	share/fish/vendor_completions.d/vhd-util.fish; do
	check "$f is there" test -e "$dest/usr/$f"
done
check "soname" sh -c "readelf -d $dest/usr/lib/libtapimg.so | grep -q 'SONAME.*libtapimg.so.0'"
# Everything exported is public: declared in the header.
undeclared=$(nm -D --defined-only "$dest/usr/lib/libtapimg.so" | awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }' |
	while read -r s; do grep -q "\b$s(" "$dest/usr/include/tapimg.h" || echo "$s"; done)
check "exports only what the header declares ($undeclared)" test -z "$undeclared"
missing=$(grep -oE '\btapimg_[a-z_]+\(' "$dest/usr/include/tapimg.h" | tr -d '(' | sort -u | while read -r s; do
	nm -D --defined-only "$dest/usr/lib/libtapimg.so" | grep -q " T $s@" || echo "$s"; done)
missing=$(printf '%s\n' "$missing" | grep -vE '^(tapimg_loop_run|tapimg_progress|tapimg_secret)?$' || true)
check "exports all that the header declares ($missing)" test -z "$missing"
check "the link calls itself qemu-img" sh -c "$dest/usr/bin/qemu-img --version | grep -q '^qemu-img version'"

export PKG_CONFIG_PATH=$dest/usr/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest
for c in "$TAPIMG_SRC"/examples/*.c; do
	name=$(basename "$c" .c)
	# shellcheck disable=SC2046
	check "example $name, shared" "${cc:-gcc}" -Wall -Werror -o "$TMPDIR/$name" "$c" \
		$(pkg-config --cflags --libs tapimg)
	# shellcheck disable=SC2046
	check "example $name, static library" "${cc:-gcc}" -Wall -Werror -o "$TMPDIR/$name-static" "$c" \
		$(pkg-config --cflags tapimg) "$dest/usr/lib/libtapimg.a" \
		$(pkg-config --libs-only-l --static tapimg | sed 's/-ltapimg//')
done
echo '#include <tapimg.h>' >"$TMPDIR/cxx.cc"
if command -v g++ >/dev/null; then
	# shellcheck disable=SC2046
	check "the header is C++ too" g++ -Wall -Wextra -Werror -c -o /dev/null "$TMPDIR/cxx.cc" \
		$(pkg-config --cflags tapimg)
else
	echo "SKIP the header is C++ too: no g++"
	skipped=$((skipped + 1))
fi

# The installed library, used: an image is made, patched, and reads as it should.
export LD_LIBRARY_PATH=$dest/usr/lib
cd "$TMPDIR" || exit 1
check "create" "$dest/usr/bin/tapimg" create -q -f qcow2 a.qcow2 3M
head -c 1000000 /dev/urandom >want.raw && truncate -s 3M want.raw
check "patch" ./patch a.qcow2 want.raw
check "patched image" "$dest/usr/bin/tapimg" compare -f raw -F qcow2 want.raw a.qcow2
check "patched image, static" ./patch-static a.qcow2 want.raw
check "completion is bash" bash -n "$dest/usr/share/bash-completion/completions/tapimg"
check "vhd-util's too" bash -n "$dest/usr/share/bash-completion/completions/vhd-util"
check "vhd-util, installed" "$dest/usr/bin/vhd-util" create -n v.vhd -s 2
check "and its disk" "$dest/usr/bin/tapimg" info v.vhd

check "uninstall" run_make uninstall
left=$(find "$dest" ! -type d)
check "nothing is left ($left)" test -z "$left"
finish
