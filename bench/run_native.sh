#!/bin/bash
# What a program loses that fits in --local: four kernels of tests/programs/small.c, plainly and under linehome, in
# turn, pinned to one CPU. The aim is 2 % for the program as a whole; starting a run is shown by itself.
. "$(dirname "$0")/lib/bench.sh"
repetitions=${REPETITIONS:-9}
kernels='chase stream heap calls'
cpu=$(($(nproc) - 1))

one() { # one SYSTEM
	local line name sum=0 start
	system "$1" $((1024 * 1048576))
	start=$(date +%s%N)
	timeout 60 "${launcher[@]}" /bin/true
	keep "$1.start" $((($(date +%s%N) - start) / 1000))
	line=$(timeout 100 "${launcher[@]}" "$programs/small" --time --rounds 6 --cpu $cpu 2>&1 >/dev/null | grep ^chase)
	[ -n "$line" ] || { echo "# small failed under $1"; return; }
	read -r -a words <<<"$line"
	for name in 0 2 4 6; do
		keep "$1.${words[name]}" "${words[name + 1]}"
		sum=$((sum + words[name + 1]))
	done
	keep "$1.all" $sum
}

milli() { median "$1" | awk '{ print $1 / 1e6 }'; }

machine
for _ in $(seq "$repetitions"); do
	one plain
	one linehome
done
echo
printf '%-10s %12s %12s %8s   medians of %s, ms\n' kernel plain linehome ratio "$repetitions"
for kernel in $kernels all; do
	printf '%-10s %12.1f %12.1f %8s\n' "$kernel" "$(milli "plain.$kernel")" "$(milli "linehome.$kernel")" \
		"$(ratio "$(median "linehome.$kernel")" "$(median "plain.$kernel")")"
done
echo "starting and ending: plain $(median plain.start) us, under linehome $(median linehome.start) us"
echo
aim "a program that fits: time under linehome / plain" "$(ratio "$(median linehome.all)" "$(median plain.all)")" '<=' 1.02
exit 0
