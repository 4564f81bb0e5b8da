#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# convert: what comes out is what went in, whatever the formats, and sound for qemu-img
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img qemu-io

# runs of all lengths at odd places, zeroes that are stored, and an end that fills no sector
python3 - <<'PY'
import os, random
random.seed(5)
with open('a.raw', 'wb') as f:
    f.truncate(24 << 20)
    for n in (1, 511, 512, 513, 4096, 65535, 65536, 200000, 700, 1 << 20):
        for _ in range(3):
            f.seek(random.randrange(0, (24 << 20) - n))
            f.write(random.choice([os.urandom(n), bytes(n), b'A' * n]))
    f.truncate((24 << 20) - 100000)
    f.seek(0, 2)
    f.write(b'end')
PY

round_trip() { # what, options for tapimg's target...
	local what=$1

	shift
	works "$what: to qcow2" tapimg convert -f raw -O qcow2 "$@" a.raw a.qcow2
	works "$what: sound" qemu-img check -q a.qcow2
	works "$what: qemu-img reads the same" qemu-img compare -q -f raw -F qcow2 a.raw a.qcow2
	works "$what: back" tapimg convert -f qcow2 -O raw a.qcow2 b.raw
	works "$what: back, the same" qemu-img compare -q -f raw -F raw a.raw b.raw
	works "$what: a second time" tapimg convert -f raw -O qcow2 "$@" -m 1 a.raw again.qcow2
	is "$what: reproducible" "$(cmp a.qcow2 again.qcow2 2>&1)" ""
}

round_trip "defaults"
for size in 512 4k 2M; do
	round_trip "cluster_size=$size" -o "cluster_size=$size"
done
round_trip "version 2" -o compat=0.10
round_trip "extended L2" -o extended_l2=on
round_trip "compressed" -c
round_trip "compressed by zstd, one at a time" -c -m 1 -o compression_type=zstd
round_trip "compressed, 2M" -c -W -o cluster_size=2M
round_trip "compressed, 512" -c -o cluster_size=512
round_trip "O_DIRECT" -t none -T none
round_trip "writethrough" -t writethrough
round_trip "unsafe" -t unsafe
round_trip "all of it" -S 0
round_trip "large holes only" -S 1M
round_trip "holes of an odd size" -S 1536
round_trip "preallocated" -o preallocation=metadata
round_trip "rate limit" -r 1G
works "external data file" tapimg convert -O qcow2 -o data_file=d.raw a.raw x.qcow2
works "external data file: the same" qemu-img compare -q -f raw a.raw x.qcow2

for opts in "" "-c" "-o compat=0.10" "-c -o compression_type=zstd" "-o extended_l2=on"; do
	# shellcheck disable=SC2086
	qemu-img convert -f raw -O qcow2 $opts a.raw q.qcow2
	works "from qemu-img's ($opts)" tapimg convert -O raw q.qcow2 b.raw
	works "from qemu-img's ($opts): the same" qemu-img compare -q -f raw -F raw a.raw b.raw
	works "qcow2 to qcow2 ($opts)" tapimg convert -O qcow2 q.qcow2 b.qcow2
	works "qcow2 to qcow2 ($opts): the same" qemu-img compare -q -f raw a.raw b.qcow2
done

works "raw to raw" tapimg convert -f raw a.raw b.raw
works "raw to raw: the same" qemu-img compare -q -f raw -F raw a.raw b.raw
works "raw to raw by the kernel" tapimg convert -C -f raw -O raw a.raw b.raw
works "raw to raw by the kernel: the same" qemu-img compare -q -f raw -F raw a.raw b.raw
is "holes stay holes" "$(($(stat -c %b b.raw) <= $(stat -c %b a.raw) + 16))" 1
is "it prints nothing" "$(tapimg convert -f raw -O qcow2 a.raw a.qcow2 2>&1)" ""
works "long names" tapimg convert --source-format raw --target-format qcow2 --source-cache none \
	--target-cache none --target-format-options cluster_size=4k --sparse-size 4k --parallel 4 \
	--oob-writes --compress --quiet a.raw a.qcow2
works "long names: the same" qemu-img compare -q -f raw a.raw a.qcow2
works "--image-opts" tapimg convert --image-opts -O raw driver=qcow2,file.filename=a.qcow2 b.raw
works "--image-opts: the same" qemu-img compare -q -f raw -F raw a.raw b.raw
: >empty
works "an empty image" tapimg convert -f raw -O qcow2 empty e.qcow2
works "an empty image: sound" qemu-img check -q e.qcow2

# several sources, none of which ends with a cluster
head -c 70000 a.raw | tail -c 66048 >1.raw
head -c 512 a.raw >2.raw
for opts in "" -c "-c -o cluster_size=512" "-S 0"; do
	# shellcheck disable=SC2086
	{
		works "concatenation ($opts)" tapimg convert -f raw -O qcow2 $opts 1.raw 2.raw a.raw c.qcow2
		qemu-img convert -f raw -O raw 1.raw 2.raw a.raw c.raw
	}
	works "concatenation ($opts): the same" qemu-img compare -q -f raw c.raw c.qcow2
	works "concatenation ($opts): sound" qemu-img check -q c.qcow2
done

# an internal snapshot
qemu-img convert -f raw -O qcow2 a.raw s.qcow2
qemu-img snapshot -c before s.qcow2
qemu-io -f qcow2 -c 'write -P 9 0 3M' s.qcow2 >/dev/null
for param in before 1 snapshot.id=1 snapshot.name=before; do
	works "-l $param" tapimg convert -l "$param" -O raw s.qcow2 b.raw
	works "-l $param: the same" qemu-img compare -q -f raw -F raw a.raw b.raw
done
refuses "no such snapshot" s.qcow2 "after" tapimg convert -l after -O raw s.qcow2 none.raw
done_testing
