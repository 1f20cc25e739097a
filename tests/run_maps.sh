#!/bin/bash
# timeout: 400
# Random mmap, munmap, mremap, madvise, mprotect, brk and fork against a model of every page.
. "$(dirname "$0")/lib/run.sh"
begin

for seed in 1 2 3; do
	parts=30 compare "maps-$seed" "$programs/maps" --seed $seed --ops 1200 --size 96
done
compare maps-4 "$programs/maps" --seed 4 --ops 1200 --size 96
for engine in $engines; do
	launch "$engine" 16777216
	"${launcher[@]}" "$programs/maps" --ops 200 --size 64 --plant >/dev/null 2>"$work/err"
	is $? 1 "$engine: a planted wrong bit is found"
	note_file "$work/err"
done
finish
