#!/bin/bash
# An ordinary library whose operations are made transactions from outside (examples/ordinary, linehome atomic), beside
# the same structures in memory, and written by hand for libpmemobj; on /dev/shm. One thread. Systems take turns within
# each repetition; figures are medians of thousand operations a second.
#
#     bench/run_atomic.sh      REPETITIONS=5 of SECONDS_EACH=0.4 each; QUICK=1: one short repetition
[ -z "${QUICK-}" ] || : "${REPETITIONS=1}" "${SECONDS_EACH=0.1}"
. "$(dirname "$0")/lib/bench.sh"
program=$build/bench/atomic linehome=$build/linehome
seconds=${SECONDS_EACH:-0.4}
brackets=make_map,map_insert,map_remove
[ -x "$program" ] || { echo "run_atomic.sh: $program is not there; write: make bench, or make $program" >&2; exit 1; }
shm=$(mktemp -d /dev/shm/linehome-bench.XXXXXX)
trap 'rm -rf "$shm"; cleanup' EXIT
results=$work/results
: >"$results"

under() { # under LOG BRACKETS WORD...: in a new pool
	local log=$1 names=$2
	shift 2
	rm -f "$shm/pool"
	"$linehome" pool create "$shm/pool" --size 256M --log-size 32M >/dev/null
	timeout 60 "$linehome" atomic --log "$log" --pool "$shm/pool" --begin "$names" --end "$names" -- "$program" "$@"
}
note() { # note WHAT KIND RESULT: one that gave none is no figure
	[ -n "${3#*=}" ] || { echo "run_atomic.sh: $1, $2: no result" >&2; missed=1; return; }
	echo "$1 $2 ${3#*=}" >>"$results"
}
for _ in $(seq "$repetitions"); do
	for kind in hash redblack btree; do
		note volatile $kind "$(timeout 60 "$program" $kind "$seconds")"
		for log in redo undo; do
			note $log $kind "$(under $log $brackets $kind "$seconds")"
		done
		rm -f "$shm/pm"
		if result=$(PMEM_IS_PMEM_FORCE=1 timeout 60 "$program" $kind "$seconds" "$shm/pm" 2>/dev/null); then
			note libpmemobj $kind "$result"
		fi
		rm -f "$shm/pm" "$shm/pool"
	done
	note plainly enter "$(timeout 60 "$program" enter "$seconds")"
	for log in redo undo; do
		note $log enter "$(under $log nothing enter "$seconds")"
	done
done

middle() { # middle WHAT KIND: the median
	awk -v what="$1" -v kind="$2" '$1 == what && $2 == kind { print $3 }' "$results" | sort -g |
		awk '{ a[NR] = $1 } END { if (NR) printf "%.6g", NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'
}
machine
echo "# thousand operations a second, one thread, /dev/shm; $repetitions repetitions of $seconds s, medians"
printf '%-12s %10s %10s %10s\n' '' hash redblack btree
for what in volatile redo undo libpmemobj; do
	printf '%-12s' $what
	for kind in hash redblack btree; do
		printf ' %10s' "$(awk -v rate="$(middle $what $kind)" 'BEGIN { print rate == "" ? "-" : sprintf("%.0f", rate / 1000) }')"
	done
	echo
done
echo "# a call that is a transaction and does nothing, ns of CPU time: redo $(middle redo enter), undo $(middle undo enter); plainly $(middle plainly enter)"
echo
for kind in hash redblack btree; do
	for log in redo undo; do
		[ -z "$(middle libpmemobj $kind)" ] || [ -z "$(middle $log $kind)" ] || aim "$kind: $log / libpmemobj" "$(ratio "$(middle $log $kind)" "$(middle libpmemobj $kind)")" '>=' 1
	done
done
for log in redo undo; do
	[ -z "$(middle $log enter)" ] || aim "entering and leaving a known transaction, $log, ns" "$(middle $log enter)" '<=' 200
done
