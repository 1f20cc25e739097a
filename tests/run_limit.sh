#!/bin/bash
# timeout: 200
# --local holds against programs that take memory as fast as they can; and the watcher sees one that does not.
. "$(dirname "$0")/lib/run.sh"
begin

size=256
watched "$work/report" "$programs/alloc" "$programs/alloc" --pattern mmap --size $size >/dev/null
peak=$(reported "$work/report" main_peak_kib)
[ "$peak" -gt "$(allowed_kib $((64 << 20)))" ]
ok $? "the watcher sees that a program without a limit breaks it ($peak KiB)"
samples=$(reported "$work/report" samples)
[ "$samples" -gt 5 ]
ok $? "the watcher took $samples samples"

for engine in $engines; do
	for pattern in mmap malloc pieces brk threads; do
		for mib in 64 24; do
			launch "$engine" $((mib << 20))
			watched "$work/report" "$programs/alloc" timeout -k 5 60 "${launcher[@]}" \
				"$programs/alloc" --pattern $pattern --size $size >"$work/out" 2>"$work/err"
			is "$? $(cat "$work/out")" "0 alloc $pattern $size ok" "$engine, $pattern, $mib MiB: all marks are right"
			note_file "$work/err"
			held "$work/report" $((mib << 20)) "$engine, $pattern, $mib MiB: the limit holds"
		done
	done
done
finish
