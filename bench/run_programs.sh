#!/bin/bash
# How long real programs take with half and with a quarter of the memory that they use: under linehome, and over swap
# to zram in a control group of the same size. The output of every run is compared with the plain one's.
#
#     bench/run_programs.sh        REPETITIONS=3 LOCAL="50 25" PROGRAMS="sort redis python" in the environment
. "$(dirname "$0")/lib/bench.sh"
. tests/lib/redis.sh
repetitions=${REPETITIONS:-5}
parts=${LOCAL:-50 25}
chosen=${PROGRAMS:-sort redis python}
export LC_ALL=C PYTHONHASHSEED=0
declare -A peak_kib

# Each body_NAME runs the program behind "${launcher[@]}" and writes what must be the same each time to stdout.
body_sort() { "${launcher[@]}" /usr/bin/sort -S 1G --parallel=2 "$work/lines"; }
body_python() { "${launcher[@]}" /usr/bin/python3 tests/programs/dicts.py 200000; }
body_redis() { # load and random operations; starting and stopping the server count too
	redis_start "$work/redis" "${launcher[@]}" || return 1
	local pid=$redis_pid
	"$keys" "$work/redis/socket" load "$work/state" --keys 200000 &&
		"$keys" "$work/redis/socket" mix "$work/state" --ops 100000 --seed 5
	local status=$?
	redis-cli -s "$work/redis/socket" shutdown nosave >/dev/null 2>&1
	wait "$pid"
	rm -rf "$work/redis"
	return "$status"
}

prepare_sort() {
	openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 0 </dev/zero 2>/dev/null |
		base64 -w 999 | head -n 240000 >"$work/lines"
}

# The plain run gives the expected output and the peak.
first_run() {
	local path
	case $1 in
	sort) prepare_sort && path=/usr/bin/sort ;;
	python) path=/usr/bin/python3 ;;
	redis) path=$redis ;;
	esac
	launcher=("$programs/watch" --program "$path" --report "$work/$1.report" --)
	"body_$1" | md5sum >"$work/$1.expected"
	peak_kib[$1]=$(sed -n 's/^main_peak_kib=//p' "$work/$1.report")
}

one() { # one PROGRAM SYSTEM PART
	local name=$1.$2.$3 start spent
	system "$2" $((${peak_kib[$1]} * 1024 * $3 / 100))
	start=$(date +%s%N)
	"body_$1" 2>"$work/err" | md5sum >"$work/got"
	spent=$((($(date +%s%N) - start) / 1000000))
	if cmp -s "$work/got" "$work/$1.expected"; then
		keep "$name" $spent
		[ -s "$work/stats" ] && [ "$2" = linehome ] && amplification "$name"
	else
		echo "# $name: another output, or none: $(tail -n 1 "$work/err")"
	fi
	rm -f "$work/stats"
}

# Bytes of the messages that wrote lines back, each with 64 bytes before the lines (docs/wire.md), over the bytes of the
# lines that really changed; the same for whole pages; over the bytes that changed; and how long pages had stayed.
amplification() {
	/usr/bin/python3 -c '
import json, sys
s = json.load(open(sys.argv[1]))
w, a = s["written"], s["amplification"]
lines = max(w["lines"], 1)
print((w["lines"] + w["pages"]) / lines, 64 * w["pages"] / lines, a["64"], a["4096"], w["mean_residence_ms"])' \
		"$work/stats" >"$work/values"
	read -r lines pages of_bytes pages_of_bytes residence <"$work/values"
	keep "$1.lines" "$lines"
	keep "$1.pages" "$pages"
	keep "$1.of_bytes" "$of_bytes"
	keep "$1.pages_of_bytes" "$pages_of_bytes"
	keep "$1.residence" "$residence"
}

machine
swap_up
for program in $chosen; do
	first_run "$program"
	echo "# $program takes $((${peak_kib[$program]} / 1024)) MiB"
done
for _ in $(seq "$repetitions"); do
	for program in $chosen; do
		one "$program" plain 100
		for part in $parts; do
			for name in $(systems zram linehome); do one "$program" "$name" "$part"; done
		done
	done
done

echo
printf '%-8s %6s %10s %10s %10s %8s   medians of %s, ms; engine %s\n' program local plain zram linehome ratio \
	"$repetitions" "$engine"
worse=0 compared=0 worst=0
for program in $chosen; do
	for part in $parts; do
		ours=$(median "$program.linehome.$part")
		theirs=$(median "$program.zram.$part")
		times=$(ratio "$ours" "$theirs")
		printf '%-8s %4s %% %10s %10s %10s %8s\n' "$program" "$part" "$(median "$program.plain.100")" "$theirs" "$ours" "$times"
		[ "$times" = - ] && continue
		compared=$((compared + 1))
		awk "BEGIN { exit !($times > 1) }" && worse=$((worse + 1))
		worst=$(awk "BEGIN { print ($times > $worst) ? $times : $worst }")
	done
done
echo
if [ $compared != 0 ]; then
	aim "of $compared comparisons with zram, part that is at most equal" "$(ratio $((compared - worse)) $compared)" '>' 0.5
	aim "the worst of them" "$worst" '<=' 1.5
fi
for part in $parts; do
	[ "$(median "redis.linehome.$part.lines")" = - ] && continue
	aim "redis, $part %: bytes written back / bytes in changed lines" "$(median "redis.linehome.$part.lines")" '<=' 1.3
	echo "    whole pages would have been $(median "redis.linehome.$part.pages") x; a page stayed for" \
		"$(median "redis.linehome.$part.residence") ms on average"
	echo "    over the bytes that changed: lines $(median "redis.linehome.$part.of_bytes") x, whole pages" \
		"$(median "redis.linehome.$part.pages_of_bytes") x"
done
exit 0
