#!/bin/bash
# What coverage costs: programs plain, under `linehome cover` (by block and by line; the record alone), built with gcov's counters,
# and under valgrind's none and callgrind; wall time and processor time, all of its processes together. The variants
# take turns within each repetition. The output of every run is compared with the plain one's.
#
#     bench/run_cover.sh      REPETITIONS=5, PROGRAMS="sqlite bzip2 cc1 python true", VARIANTS="plain block line gcov
#                             none callgrind" in the environment; CALLGRIND=1 (the repetitions of that slow one)
#
# sqlite and bzip2 are built from Debian's sources at -O2; sqlite's amalgamation needs tclsh.
. "$(dirname "$0")/lib/bench.sh"
. bench/lib/sources.sh
chosen=${PROGRAMS:-sqlite bzip2 cc1 python true}
variants=${VARIANTS:-plain block line gcov none callgrind}
slow=${CALLGRIND:-1}
built=$build/bench/cover
export LC_ALL=C PYTHONHASHSEED=0 XDG_CACHE_HOME=$work/cache
mkdir -p "$built" "$XDG_CACHE_HOME"
cc1=$(gcc -print-prog-name=cc1)

# ---- the programs: build_NAME makes what is missing; command_NAME PLAIN|GCOV sets $command, its output is compared

build_sqlite() {
	[ ! -x "$built/speedtest1.gcov" ] || return 0
	source_of sqlite3 || return 1
	command -v tclsh >/dev/null || { echo '# no tclsh to make the amalgamation with'; return 1; }
	mkdir -p "$built/sqlite"
	if ! (cd "$built/sqlite" && "$source/configure" --disable-tcl && make sqlite3.c) >"$work/log" 2>&1; then
		tail -n 3 "$work/log"
		return 1
	fi
	local way
	for way in '' gcov; do
		(cd "$built/sqlite" && gcc -g -O2 ${way:+--coverage} -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_LOAD_EXTENSION -I. \
			-o "../speedtest1${way:+.$way}" "$source/test/speedtest1.c" sqlite3.c) >"$work/log" 2>&1 || return 1
	done
}
command_sqlite() { command=("$built/speedtest1$1" --memdb --size 60 --testset main); }

build_bzip2() {
	[ -s "$work/input" ] || openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 0 </dev/zero \
		2>/dev/null | base64 -w 99 | head -c 12000000 >"$work/input"
	[ ! -x "$built/bzip2.gcov" ] || return 0
	source_of bzip2 || return 1
	local way
	for way in '' gcov; do
		mkdir -p "$built/bzip2.objects$way"
		(cd "$built/bzip2.objects$way" && gcc -g -O2 ${way:+--coverage} -D_FILE_OFFSET_BITS=64 -o "../bzip2${way:+.$way}" \
			"$source"/{bzip2,bzlib,blocksort,compress,crctable,decompress,huffman,randtable}.c) >"$work/log" 2>&1 || return 1
	done
}
command_bzip2() { command=("$built/bzip2$1" -9 -c "$work/input"); }

build_cc1() {
	source_of bzip2 || return 1
	[ -s "$work/unit.i" ] || gcc -E -O2 "$source/blocksort.c" -o "$work/unit.i"
}
command_cc1() { command=("$cc1" -quiet -fpreprocessed -O2 "$work/unit.i" -o /dev/stdout); }
build_python() { :; }
command_python() { command=(/usr/bin/python3 -c pass); }
build_true() { :; }
command_true() { command=(/bin/true); }

# ---- the variants: $launcher becomes what stands before the command; false: not to be had
launch() { # launch VARIANT PROGRAM
	local way=
	case $1 in
	plain) launcher=() ;;
	block | line) launcher=("$linehome" cover --granularity "$1" --collect-only --record "$work/$2.record" --) ;;
	gcov) [ -x "$built/$3.gcov" ] || return 1; launcher=() way=.gcov ;;
	none | callgrind)
		command -v valgrind >/dev/null || return 1
		launcher=(valgrind -q "--tool=$1")
		[ "$1" = none ] || launcher+=("--callgrind-out-file=$work/callgrind")
		;;
	esac
	"command_$2" "$way"
}

TIMEFORMAT='%3R %3U %3S'
one() { # one PROGRAM VARIANT
	local binary=$1 spent
	[ "$1" != sqlite ] || binary=speedtest1
	launch "$2" "$1" "$binary" || return 0
	rm -f "$built"/*/*.gcda "$built"/*.gcda
	if ! spent=$({ time "${launcher[@]}" "${command[@]}" 2>"$work/err" | grep -av '[0-9]s$' | md5sum >"$work/out"
		[ "${PIPESTATUS[0]}" = 0 ]; } 2>&1); then
		echo "# $1 $2 failed: $(tail -n 1 "$work/err")"
		failed=1
		return
	fi
	[ -s "$work/$1.expected" ] || cp "$work/out" "$work/$1.expected"
	cmp -s "$work/out" "$work/$1.expected" || { echo "# $1 $2: another output than plain"; failed=1; }
	read -r wall user system <<<"$spent"
	keep "$1.$2.wall" "$wall"
	keep "$1.$2.cpu" "$(awk "BEGIN { print $user + $system }")"
}

spread() { # spread NAME: the least and the greatest
	sort -g "$work/figure.$1" | awk 'NR == 1 { least = $1 } { last = $1 } END { printf "%.3f..%.3f", least, last }'
}

show() { # show PROGRAM
	local variant base_wall base_cpu wall cpu
	base_wall=$(median "$1.plain.wall") base_cpu=$(median "$1.plain.cpu")
	for variant in $variants; do
		wall=$(median "$1.$variant.wall") cpu=$(median "$1.$variant.cpu")
		[ "$wall" != - ] || continue
		printf '%-8s %-10s wall %8.3f s %6s   cpu %8.3f s %6s   %s\n' "$1" "$variant" "$wall" \
			"$(ratio "$wall" "$base_wall")" "$cpu" "$(ratio "$cpu" "$base_cpu")" "$(spread "$1.$variant.cpu")"
	done
}

machine
failed=0
for program in $chosen; do
	"build_$program" || { echo "# SKIP $program"; continue; }
	one "$program" plain && rm -f "$work/figure.$program."* # the caches are warm, and plans are made, from here on
	for variant in block line; do one "$program" "$variant"; done
	rm -f "$work/figure.$program."*
	for repetition in $(seq "$repetitions"); do
		for variant in $variants; do
			[ "$variant" = callgrind ] && [ "$repetition" -gt "$slow" ] && continue
			one "$program" "$variant"
		done
	done
	show "$program"
	reported=$({ time "$linehome" cover merge --format summary -o "$work/report" "$work/$program.record" 2>"$work/err"; } 2>&1)
	echo "# $program: its summary report is apart from that; wall, user and system seconds: $reported"
done

block() { ratio "$(median "$1.block.$2")" "$(median "$1.plain.$2")"; }
aim 'sqlite speedtest1 by block, cpu over plain' "$(block sqlite cpu)" '<=' 1.03
aim 'bzip2 -9 by block, cpu over plain' "$(block bzip2 cpu)" '<=' 1.03
aim 'a short cc1 by block, cpu over plain' "$(block cc1 cpu)" '<=' 1.8
added=-
[ "$(median python.block.cpu)" = - ] ||
	added=$(awk "BEGIN { printf \"%.0f\", 1000 * ($(median python.block.cpu) - $(median python.plain.cpu)) }")
aim 'python3 -c pass by block, ms of cpu more than plain' "$added" '<=' 40
[ "$failed" = 0 ]
