#!/bin/bash
# What a touch of absent memory costs: Linehome over its shared-memory ring, over TCP loopback and over TLS beside the
# kernel's swap to zram, with the same memory allowed. Medians of interleaved repetitions; pinned to one CPU.
#
#     bench/run_touch.sh        REPETITIONS=5 SIZE=512 TOUCHES=60000 LOCAL="25 50" in the environment, and
#                               CASES="random-read random-write" SYSTEMS="zram tcp" THREADS= to measure these alone
. "$(dirname "$0")/lib/bench.sh"
size=${SIZE:-512}
touches=${TOUCHES:-60000}
parts=${LOCAL:-25 50}
last_cpu=$(($(nproc) - 1))

# one CASE SYSTEM PART OPTION...: one repetition; keeps each figure under CASE.SYSTEM.PART.FIGURE
one() {
	local name=$1.$2.$3 line word
	system "$2" $((size * 1048576 * $3 / 100))
	shift 3
	line=$(timeout 150 "${launcher[@]}" "$build/bench/touch" --size "$size" --touches "$touches" "$@" 2>"$work/err")
	if [ -z "$line" ]; then
		echo "# $name failed: $(tail -n 1 "$work/err")"
		return
	fi
	for word in $line; do keep "$name.${word%%=*}" "${word#*=}"; done
}

fault_rate() {
	echo "$(median "$1.rate") $(median "$1.faults") $(median "$1.touches")" |
		awk '{ if ($1 == "-") print "-"; else printf "%.0f", $1 * $2 / $3 }'
}

row() { # row CASE SYSTEM PART
	local name=$1.$2.$3 figure
	printf '%-18s %-9s %3s %%' "$1" "$2" "$3"
	for figure in p50_ns p99_ns mean_ns trimmed_ns; do
		median "$name.$figure" | awk '{ if ($1 == "-") printf "%10s", "-"; else printf "%10.2f", $1 / 1000 }'
	done
	printf '%12s%12s\n' "$(median "$name.rate")" "$(fault_rate "$name")"
}

declare -A options=(
	[random-read]='--pattern random --access read' [random-write]='--pattern random --access write'
	[random-mixed]='--pattern random --access mixed' [sequential-read]='--pattern sequential --access read'
	[sequential-write]='--pattern sequential --access write'
)
cases=${CASES-random-read random-write random-mixed sequential-read sequential-write}
thread_counts=${THREADS-1 2 16}
in_case() { # the systems that a case is measured with
	case $1 in
	sequential-*) wanted zram linehome next ;;
	random-mixed | threads-*) wanted zram linehome ;;
	*) wanted zram linehome thread tcp tls ;;
	esac
}
wanted() { # wanted NAME...: those that can be measured here and were asked for
	local name
	for name in $(systems "$@"); do
		case " ${SYSTEMS-$*} " in *" $name "*) echo "$name" ;; esac
	done
}

machine
swap_up
tcp_node
tls_node
for _ in $(seq "$repetitions"); do
	for part in $parts; do
		for case in $cases; do
			for name in $(in_case "$case"); do
				# shellcheck disable=SC2086 # options are words
				one "$case" "$name" "$part" --cpu "$last_cpu" ${options[$case]}
			done
		done
	done
	for threads in $thread_counts; do
		for name in $(in_case "threads-$threads"); do
			one "threads-$threads" "$name" 25 --threads "$threads"
		done
	done
done

echo
echo "Microseconds for a touch that faults, $size MiB, engine $engine, medians of $repetitions; all touches and faults a second"
printf '%-18s %-9s %5s%10s%10s%10s%10s%12s%12s\n' touches system local p50 p99 mean '<1 ms' touches/s faults/s
for part in $parts; do
	for case in $cases; do
		for name in $(in_case "$case"); do row "$case" "$name" "$part"; done
	done
done
for threads in $thread_counts; do
	for name in $(in_case "threads-$threads"); do row "threads-$threads" "$name" 25; done
done

mean_ratio() { ratio "$(median "$1.$2.$4.mean_ns")" "$(median "$1.$3.$4.mean_ns")"; }
rate_ratio() { ratio "$(median "$1.rate")" "$(median "$2.rate")"; }
echo
for part in $parts; do
	for case in random-read random-write; do
		aim "$case, $part %: mean fault, ring / zram" "$(mean_ratio $case linehome zram "$part")" '<=' 0.75
		aim "$case, $part %: mean fault, TCP / zram" "$(mean_ratio $case tcp zram "$part")" '<=' 1.3
	done
	aim "sequential with next, $part %: rate / random rate" \
		"$(rate_ratio "sequential-read.next.$part" "random-read.linehome.$part")" '>=' 3
	aim "sequential with next, $part %: rate / zram's" \
		"$(rate_ratio "sequential-read.next.$part" "sequential-read.zram.$part")" '>' 1
done
for threads in $thread_counts; do
	[ "$threads" = 1 ] && continue
	aim "$threads threads: throughput / one thread's" \
		"$(rate_ratio "threads-$threads.linehome.25" "threads-1.linehome.25")" '>=' 1
done
[ $missed = 0 ] || echo "$missed aims were not reached; docs/performance.md says why."
exit 0
