#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# vhd-util scan: lines, trees, broken files, logical volumes
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lib-blktap.sh"

both vhd-util create -n base.vhd -s 10
both vhd-util set -n base.vhd -f hidden -v 1
both vhd-util snapshot -n leaf1.vhd -p base.vhd -e
both vhd-util snapshot -n leaf2.vhd -p base.vhd -e
both vhd-util snapshot -n top.vhd -p leaf1.vhd -e
both vhd-util create -n lone.vhd -s 2
both vhd-util set -n lone.vhd -f marker -v 9

line() { # name, megabytes, size, hidden, parent
	echo "vhd=$1 capacity=$(($2 << 20)) size=$3 hidden=$4 parent=$5"
}
all="$(line base.vhd 10 3584 1 none)
$(line leaf1.vhd 10 5120 0 base.vhd)
$(line leaf2.vhd 10 5120 0 base.vhd)
$(line lone.vhd 2 3584 0 none)
$(line top.vhd 10 5120 0 leaf1.vhd)
."
says "-m" 0 "$all" vhd-util scan -m '*.vhd'
says "in the order of the names given" 0 "$(line top.vhd 10 5120 0 leaf1.vhd)
$(line lone.vhd 2 3584 0 none)
." vhd-util scan top.vhd lone.vhd
says "-f" 0 "$(line top.vhd 10 5120 0 leaf1.vhd)
." vhd-util scan -f top.vhd
says "-v" 0 "vhd=top.vhd capacity=10485760 size=5120 hidden=0 parent=DIR/leaf1.vhd
." vhd-util scan -v top.vhd
says "-M" 0 "vhd=lone.vhd capacity=2097152 size=3584 hidden=0 marker=9 keyhash= parent=none
." vhd-util scan -M lone.vhd
says "-a" 0 "$(line top.vhd 10 5120 0 leaf1.vhd)
$(line leaf1.vhd 10 5120 0 base.vhd)
$(line base.vhd 10 3584 1 none)
." vhd-util scan -a top.vhd
says "-p" 0 "$(line base.vhd 10 3584 1 none)
   $(line leaf1.vhd 10 5120 0 base.vhd)
      $(line top.vhd 10 5120 0 leaf1.vhd)
   $(line leaf2.vhd 10 5120 0 base.vhd)
$(line lone.vhd 2 3584 0 none)
." vhd-util scan -p -m '*.vhd'
says "-p without the parent" 0 "$(line top.vhd 10 5120 0 leaf1.vhd) (not found in scan)
." vhd-util scan -p top.vhd
says "nothing matches" 0 . vhd-util scan -m 'x*.vhd'
vhd-util scan >../out
is "nothing named: exit code" $? 22
like "nothing named" "$(cat ../out)" '^options: '

says "a file that is missing" 2 "vhd=none.vhd scan-error=-2 error-message='failure scanning target'
." vhd-util scan base.vhd none.vhd
stderr "is said" "scan failed: -2. Check syslog for details
."
only_ours "-c goes on, with no line for what is not there" 0 "vhd=none.vhd scan-error=-2 error-message='failure scanning target'
$(line base.vhd 10 3584 1 none)
." vhd-util scan -c base.vhd none.vhd
both truncate -s 1M broken.vhd
says "a broken one ends it" 22 "$(line base.vhd 10 3584 1 none)
vhd=broken.vhd scan-error=-22 error-message='opening file'
." vhd-util scan -m '*.vhd'
says "unless -c" 0 "$(line base.vhd 10 3584 1 none)
vhd=broken.vhd scan-error=-22 error-message='opening file'
$(line leaf1.vhd 10 5120 0 base.vhd)
$(line leaf2.vhd 10 5120 0 base.vhd)
$(line lone.vhd 2 3584 0 none)
$(line top.vhd 10 5120 0 leaf1.vhd)
." vhd-util scan -c -m '*.vhd'
both rm broken.vhd
both mv leaf2.vhd gone
says "raw parents with -a" 0 "$(truncate -s 3M r.img; cp r.img ../peer/; both vhd-util snapshot -n onraw.vhd -p r.img -m
line onraw.vhd 3 5120 0 r.img)
$(line r.img 3 3145728 1 none)
." vhd-util scan -a onraw.vhd

# A chain as deep as nobody should have one.
for i in $(seq 1 60); do
	vhd-util snapshot -n deep$i.vhd -p "$([ "$i" = 1 ] && echo base.vhd || echo deep$((i - 1)).vhd)" -e
done
is "a deep tree" "$(vhd-util scan -p -m 'deep*.vhd' | sed -n '$s/vhd=.*//p' | wc -c)" 178

# Logical volumes: the programs that know them are made up here; the volumes lie in one file.
mkdir ../bin ../vols
cat >../bin/vgs <<EOF
#!/bin/sh
echo "  4194304 $PWD/pv 1048576"
EOF
cat >../bin/lvs <<EOF
#!/bin/sh
cat <<END
  VHD-base 12582912 linear 0 12582912 $PWD/pv(0)
  VHD-leaf 12582912 linear 0 8388608 $PWD/pv(3)
  VHD-leaf 12582912 linear 8388608 4194304 $PWD/pv(9)
  VHD-striped 8388608 striped 0 8388608 $PWD/pv(7),$PWD/pv(8)
END
EOF
chmod +x ../bin/vgs ../bin/lvs
(
	cd ../vols || exit
	vhd-util create -n VG-VHD--base -s 8
	vhd-util snapshot -n VG-VHD--leaf -p VG-VHD--base -e
)
truncate -s 64M pv
dd if=../vols/VG-VHD--base of=pv bs=1M seek=1 conv=notrunc status=none
dd if=../vols/VG-VHD--leaf of=pv bs=1M seek=13 conv=notrunc status=none
export PATH=$PWD/../bin:$PATH
only_ours "volumes that match" 0 "vhd=VHD-base capacity=8388608 size=12582912 hidden=0 parent=none
vhd=VHD-leaf capacity=8388608 size=12582912 hidden=0 parent=VHD-base
." vhd-util scan -l VG -m 'VHD-[bl]*'
only_ours "parents as well" 0 "vhd=VHD-leaf capacity=8388608 size=12582912 hidden=0 parent=VHD-base
vhd=VHD-base capacity=8388608 size=12582912 hidden=0 parent=none
." vhd-util scan -l VG -a VHD-leaf
only_ours "as a tree" 0 "vhd=VHD-base capacity=8388608 size=12582912 hidden=0 parent=none
   vhd=VHD-leaf capacity=8388608 size=12582912 hidden=0 parent=VHD-base
." vhd-util scan -l VG -p -m 'VHD-[bl]*'
only_ours "only linear ones" 0 "vhd=VHD-striped scan-error=-38 error-message='failure scanning target'
vhd=VHD-base capacity=8388608 size=12582912 hidden=0 parent=none
vhd=VHD-leaf capacity=8388608 size=12582912 hidden=0 parent=VHD-base
." vhd-util scan -l VG -c -m 'VHD-*'
rm ../bin/lvs
PATH=$PWD/../bin vhd-util scan -l VG -m '*' >../out 2>../err
is "without lvs: exit code" $? 2
like "without lvs" "$(cat ../err)" '^lvm_scan_vg failed -2$'
done_testing
