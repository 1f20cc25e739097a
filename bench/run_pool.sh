#!/bin/bash
# Failure-atomic memory: Linehome's pools beside libpmemobj, LMDB, SQLite and RocksDB, and beside what the medium costs
# by itself; on /dev/shm and on the disk. One durable transaction each that changes 1, 4 or 32 random records, 8 to 64
# bytes of each, among a million of 64 bytes; or puts one new key into a map. One thread and two. Contents are compared
# with a model after every run. Systems take turns within each repetition; figures are medians.
#
#     bench/run_pool.sh      REPETITIONS=5 and DISK_REPETITIONS=3 of SECONDS_EACH=0.3 each, MEDIA="shm disk",
#                            THREADS=1,2, WORKS=1,4,32,insert, SYSTEMS="names" to measure these alone, COUNT= to
#                            leave out counting, DISK=FOLDER on the disk in question; QUICK=1: one short repetition;
#                            FIFO=1 (as root): before all other programs, on a machine that is busy
#
# The peers are those that were there to build with (scripts/deps --bench, then make).
[ -z "${QUICK-}" ] || : "${REPETITIONS=1}" "${DISK_REPETITIONS=1}" "${SECONDS_EACH=0.05}" "${COUNT=}"
. "$(dirname "$0")/lib/bench.sh"
pool=$build/bench/pool
seconds=${SECONDS_EACH:-0.3}
threads=${THREADS:-1,2}
works=${WORKS:-1,4,32,insert}
counted=${COUNT-libpmemobj clwb+sfence append+sfence lh-page lh-declared lh-page-undo lh-declared-undo}
[ -x "$pool" ] || { echo "run_pool.sh: $pool is not there; write: make bench, or make $pool" >&2; exit 1; }
shm=$(mktemp -d /dev/shm/linehome-bench.XXXXXX)
disk=$(mktemp -d "${DISK:-$build}/pool-bench.XXXXXX")
trap 'rm -rf "$shm" "$disk"; cleanup' EXIT
failed=0
results=$work/results
: >"$results"

# libpmemobj flushes cache lines on tmpfs as it does on persistent memory; on a disk it finds out that it cannot.
pool() { # pool MEDIUM ARGUMENT...
	local medium=$1
	shift
	if [ "$medium" = shm ]; then
		PMEM_IS_PMEM_FORCE=1 timeout 120 "$pool" "$@"
	else
		timeout 120 env -u PMEM_IS_PMEM_FORCE "$pool" "$@"
	fi >"$work/out" 2>"$work/err"
	local status=$?
	sed "s/^/medium=$medium /" "$work/out" >>"$results"
	[ $status = 0 ] && return
	failed=1
	echo "# $medium: $1 $2 failed ($status): $(tail -n 1 "$work/err")"
	return 1
}

listed() { # listed MEDIUM: the systems to be measured there
	local name
	while IFS=$'\t' read -r name _; do
		[[ " ${SYSTEMS:-$name} " == *" $name "* ]] && echo "$name"
	done < <("$pool" list "$1")
}

measure() { # measure MEDIUM FOLDER REPETITIONS
	local system repetition names=()
	for system in $(listed "$1"); do
		pool "$1" fill "$system" "$2/$system" && names+=("$system")
	done
	for repetition in $(seq "$3"); do
		for system in "${names[@]}"; do
			pool "$1" run "$system" "$2/$system" --seconds "$seconds" --works "$works" \
				--threads "$threads" --repetition "$repetition" --fifo "${FIFO:-0}"
		done
	done
	for system in "${names[@]}"; do
		[[ $1 = shm && " $counted " == *" $system "* ]] &&
			pool "$1" count "$system" "$2/$system" --works "$works"
		rm -rf "${2:?}/$system"
	done
}

# Lines of WORD=VALUE in; the functions of all tables: a word's median, lowest and highest over the repetitions.
# shellcheck disable=SC2016 # it is awk's
common='
function note(name, value) { n[name]++; all[name, n[name]] = value + 0 }
function sorted(name, i, j, v) {
	for (i = 2; i <= n[name]; i++) {
		v = all[name, i]
		for (j = i - 1; j >= 1 && all[name, j] > v; j--) all[name, j + 1] = all[name, j]
		all[name, j + 1] = v
	}
}
function median(name, h) { sorted(name); h = int((n[name] + 1) / 2); return n[name] % 2 ? all[name, h] : (all[name, h] + all[name, h + 1]) / 2 }
function figure(name, format) { return n[name] ? sprintf(format, median(name)) : "-" }
{
	delete word
	for (i = 1; i <= NF; i++) { at = index($i, "="); word[substr($i, 1, at - 1)] = substr($i, at + 1) }
	if (word["medium"] != medium) next
	what = word["count"] != "" ? "count " word["count"] : word["threads"] " " word["work"]
	if (!(word["system"] in seen) && word["system"] != "") { seen[word["system"]] = 1; order[++systems] = word["system"] }
	for (name in word) note(word["system"] " " what " " name, word[name])
}'

rates() { # rates MEDIUM THREADS
	echo
	echo "$1, $2 thread(s): thousand transactions a second, median [lowest..highest], ratio to libpmemobj's"
	awk -v medium="$1" -v threads="$2" -v works="$works" "$common"'
	function short(x) { return sprintf(x >= 100 ? "%.0f" : x >= 10 ? "%.1f" : x >= 1 ? "%.2f" : "%.3f", x) }
	function cell(of, work, name, peer, text) {
		name = of " " threads " " work " rate"
		peer = "libpmemobj " threads " " work " rate"
		if (!n[name]) return "-"
		text = short(median(name) / 1000) " [" short(all[name, 1] / 1000) ".." short(all[name, n[name]] / 1000) "]"
		return text sprintf(" %6s", n[peer] && median(peer) ? short(median(name) / median(peer)) : "-")
	}
	END {
		w = split(works, work, ",")
		printf "%-17s", ""
		for (i = 1; i <= w; i++) printf "%30s", work[i] == "insert" ? "insert" : work[i] " changed"
		print ""
		for (s = 1; s <= systems; s++) {
			printf "%-17s", order[s]
			for (i = 1; i <= w; i++) printf "%30s", cell(order[s], work[i])
			print ""
		}
	}' "$results"
}

costs() { # costs MEDIUM: for one thread
	echo
	echo "$1, 1 thread, for each transaction: CPU time of the whole process; bytes that the device was given (by anybody);"
	echo "and what lh_pool_info counts"
	awk -v medium="$1" -v works="$works" "$common"'
	END {
		w = split(works, work, ",")
		printf "%-17s %8s %9s %11s %7s %8s %9s %9s %9s %7s\n", "", "changed", "CPU us", "device B", "fences", "flushes", "log B", "changed B", "home B", "faults"
		for (s = 1; s <= systems; s++)
			for (i = 1; i <= w; i++) {
				name = order[s] " 1 " work[i] " "
				if (!n[name "rate"]) continue
				printf "%-17s %8s %9s %11s %7s %8s %9s %9s %9s %7s\n", i == 1 ? order[s] : "", work[i],
					figure(name "cpu_us", "%.2f"), medium == "shm" ? "-" : figure(name "device", "%.0f"),
					figure(name "fences", "%.2f"), figure(name "flushes", "%.2f"), figure(name "log", "%.0f"),
					figure(name "changed", "%.0f"), figure(name "home", "%.0f"), figure(name "faults", "%.2f")
			}
	}' "$results"
}

counts() {
	grep -q ' count=' "$results" || return
	echo
	echo "shm, for each transaction, counted: the thread that commits is single-stepped (ptrace) and each instruction decoded"
	echo "before it runs. fences: sfence, mfence; flushes: lines by clwb, clflushopt, clflush; stores: to mapped files of the"
	echo "system; streamed: the non-temporal ones among their bytes. A system's own threads are not in it."
	awk -v medium=shm -v works="$works" "$common"'
	END {
		w = split(works, work, ",")
		printf "%-17s %8s %8s %8s %8s %8s %9s %12s %9s\n", "", "changed", "fences", "flushes", "stores", "bytes", "streamed", "instructions", "syscalls"
		for (s = 1; s <= systems; s++)
			for (i = 1; i <= w; i++) {
				name = order[s] " count " work[i] " "
				if (!n[name "fences"]) continue
				printf "%-17s %8s %8s %8s %8s %8s %9s %12s %9s\n", order[s], work[i],
					figure(name "fences", "%.1f"), figure(name "flushes", "%.1f"), figure(name "stores", "%.1f"),
					figure(name "bytes", "%.0f"), figure(name "streamed", "%.0f"),
					figure(name "instructions", "%.0f"), figure(name "syscalls", "%.1f")
			}
	}' "$results"
}

value() { # value MEDIUM SYSTEM THREADS WORK WORD: the median
	awk -v medium="$1" -v wanted="$2 $3 $4 $5" "$common"'END { print figure(wanted, "%.6g") }' "$results"
}
better() { # better MEDIUM A B [WORK]: A's rate over B's, one thread
	ratio "$(value "$1" "$2" 1 "${4:-1}" rate)" "$(value "$1" "$3" 1 "${4:-1}" rate)"
}
life() { # life WHAT WORD: a figure of Linehome's alone
	sed -n "s/.*life=$1 .*\<$2=\([0-9.]*\).*/\1/p" "$results" | tail -n 1
}

machine
echo "# disk: $(df --output=source,fstype "$disk" | tail -n 1 | xargs); $seconds s a work and repetition; one pinned CPU a thread"
missing=$("$pool" missing | xargs)
[ -z "$missing" ] || echo "# missing, so not measured: $missing (peers: scripts/deps --bench, then make bench)"
for medium in ${MEDIA:-shm disk}; do
	echo
	"$pool" list "$medium" | awk -F '\t' -v m="$medium" '{ printf "# %s: %-17s %s%s\n", m, $1, $2 == "yardstick" ? "(yardstick) " : "", $3 }'
	if [ "$medium" = shm ]; then
		measure shm "$shm" "$repetitions"
	else
		measure disk "$disk" "${DISK_REPETITIONS:-3}"
	fi
	for number in ${threads//,/ }; do rates "$medium" "$number"; done
	costs "$medium"
	[ "$medium" = disk ] || counts
done
if "$pool" list disk | grep -q '^lh-' && [ -z "${SYSTEMS-}" ]; then
	echo
	pool disk life "$disk/life"
	grep life= "$results" | sed 's/^medium=disk //'
	echo
	aim "shm, 1 changed: lh-declared / libpmemobj" "$(better shm lh-declared libpmemobj)" '>=' 2
	aim "shm, 1 changed: lh-page / libpmemobj" "$(better shm lh-page libpmemobj)" '>=' 0.4
	aim "shm, 1 changed: lh-page / LMDB" "$(better shm lh-page LMDB)" '>=' 2
	aim "shm, 32 changed: lh-page / libpmemobj" "$(better shm lh-page libpmemobj 32)" '>=' 1
	for changed in 1 4 32; do
		for log in "" -undo; do
			aim "shm, $changed changed: lh-translated$log / libpmemobj" "$(better shm lh-translated$log libpmemobj $changed)" '>=' 1
			aim "shm, $changed changed: lh-translated$log / lh-page$log" "$(better shm lh-translated$log lh-page$log $changed)" '>=' 1
		done
	done
	aim "shm, 1 changed: fences of lh-declared" "$(value shm lh-declared 1 1 fences)" '<=' 3
	aim "shm, 1 changed: fences of lh-declared-undo" "$(value shm lh-declared-undo 1 1 fences)" '<=' 3
	aim "shm, 32 changed: lh-page, log bytes / bytes of changed lines" \
		"$(ratio "$(value shm lh-page 1 32 log)" "$(value shm lh-page 1 32 changed)")" '<=' 1.25
	aim "disk, 1 changed: lh-declared / pwrite+fdatasync" "$(better disk lh-declared pwrite+fdatasync)" '>=' 0.87
	for peer in RocksDB SQLite LMDB; do
		aim "disk, 1 changed: lh-declared / $peer" "$(better disk lh-declared $peer)" '>=' 1
	done
	aim "disk, 1 changed: lh-declared, two threads / one" \
		"$(ratio "$(value disk lh-declared 2 1 rate)" "$(value disk lh-declared 1 1 rate)")" '>=' 1
	aim "opening 10 GiB that was closed, ms" "$(life open ms)" '<=' 50
	aim "recovery, rate / the disk's reading rate" "$(ratio "$(life recover mib_per_s)" "$(life recover disk_reads_mib_per_s)")" '>=' 0.5
fi
echo
echo "# load at the end: $(cut -d ' ' -f 1 /proc/loadavg); ${SECONDS} s in all"
exit $failed
