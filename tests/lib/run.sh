# run.sh - what the tests/run_*.sh share: TAP, a work folder, a plain run beside runs under linehome.
#
# A test says `compare sort /usr/bin/sort ...` and gets, for each engine of $LINEHOME_ENGINES (the test's own choice, or inline) and
# each part of $parts (50 20): the program ends like the plain run, its output is the same byte for byte, and
# its anonymous memory stayed below that part of the plain run's peak, plus 5 %, plus 16 MiB.
#
# LINEHOME_RUN replaces the launcher: LINEHOME_RUN=env runs every program plainly (to work on the tests
# themselves), and LINEHOME_RUN='bench/zram run LOCAL' under a control group; LOCAL becomes the bytes. A
# stand-in need not hold the limit, so those checks are skipped.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
root=$PWD
build=${LINEHOME_BUILD:-$root/build}
programs=$build/tests/programs
linehome=$build/linehome
engines=${LINEHOME_ENGINES:-${engines:-inline}}
parts=${LINEHOME_PARTS:-50 20}
tests=0 failures=0
children=()
work=$(mktemp -d "${TMPDIR:-/tmp}/linehome-test.XXXXXX")

# Ends what the test has started, by number only, and waits until it is gone.
cleanup() {
	local pid
	trap - EXIT
	for pid in "${children[@]}"; do kill -TERM "$pid" 2>/dev/null; done
	for pid in "${children[@]}"; do
		for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null
	done
	rm -rf "$work"
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT TERM

ok() { # ok STATUS WHAT: STATUS 0 passes
	tests=$((tests + 1))
	if [ "$1" = 0 ]; then echo "ok $tests - $2"; else
		failures=$((failures + 1))
		echo "not ok $tests - $2"
	fi
}
note() { sed 's/^/# /' <<<"$*"; }
note_file() { [ -s "$1" ] && head -c 4000 "$1" | sed 's/^/# /'; }
is() { # is GOT WANTED WHAT
	[ "$1" = "$2" ]
	ok $? "$3"
	[ "$1" = "$2" ] || note "got: $1, wanted: $2"
}
skip() { tests=$((tests + 1)); echo "ok $tests - $1 # SKIP $2"; }
skip_all() { echo "1..0 # SKIP $*"; exit 0; }
finish() {
	echo "1..$tests"
	[ $failures = 0 ]
	exit
}

need() { # need PROGRAM...: the real programs that a test is about
	local program
	for program; do
		[ -x "$program" ] || command -v "$program" >/dev/null || skip_all "$program is not installed (scripts/deps)"
	done
}

kernel_fits() {
	local release major minor
	release=$(uname -r)
	major=${release%%.*}
	minor=${release#*.}
	minor=${minor%%[!0-9]*}
	[ "$major" -gt 6 ] || { [ "$major" = 6 ] && [ "$minor" -ge 8 ]; } || skip_all "Linux 6.8 is needed, this is $release"
	[ -e /proc/sys/vm/unprivileged_userfaultfd ] || skip_all "this kernel has no userfaultfd"
}

begin() {
	make -s programs >&2 || exit 1
	[ -n "${LINEHOME_RUN-}" ] && return
	kernel_fits
	[ -x "$linehome" ] || { echo "Bail out! $linehome is not built"; exit 1; }
}

# launch ENGINE BYTES [OPTION...]: the words that stand before the program, in $launcher
launch() {
	local engine=$1 bytes=$2
	shift 2
	if [ -n "${LINEHOME_RUN-}" ]; then
		read -ra launcher <<<"${LINEHOME_RUN//LOCAL/$bytes}"
	else
		launcher=("$linehome" run --engine "$engine" --local "$bytes" "$@" --)
	fi
}

watched() { # watched REPORT PROGRAM COMMAND...: runs COMMAND, measures the processes that execute PROGRAM
	local report=$1 program
	program=$(command -v "$2")
	shift 2
	"$programs/watch" --program "$program" --report "$report" -- "$@"
}
reported() { sed -n "s/^$2=//p" "$1"; } # reported REPORT KEY

allowed_kib() { echo $(($1 / 1024 * 105 / 100 + 16 * 1024)); } # what may be resident with --local BYTES

held() { # held REPORT BYTES WHAT: main's anonymous and shared memory, and any child's, stayed below
	local anonymous shared other limit
	if [ -n "${LINEHOME_RUN-}" ]; then
		skip "$3" "a stand-in need not hold the limit"
		return
	fi
	anonymous=$(reported "$1" main_peak_kib)
	shared=$(reported "$1" main_shared_kib)
	other=$(reported "$1" other_peak_kib)
	limit=$(allowed_kib "$2")
	[ $((anonymous + shared)) -le "$limit" ] && [ "$other" -le "$limit" ] && [ "$anonymous" -gt 0 ]
	ok $? "$3"
	note "peak $anonymous KiB anonymous + $shared KiB shared, children $other KiB, allowed $limit KiB"
}

# one_run NAME ENGINE BYTES COMMAND...: against $work/NAME.plain.out and .status
one_run() {
	local name=$1 engine=$2 bytes=$3 what status started=$SECONDS
	shift 3
	what="$name, $engine, $((bytes >> 20)) MiB"
	launch "$engine" "$bytes"
	watched "$work/report" "$1" timeout -k 5 "${limit_seconds:-150}" "${launcher[@]}" "$@" \
		>"$work/$name.out" 2>"$work/$name.err"
	status=$?
	is $status "$(cat "$work/$name.plain.status")" "$what: ends like the plain run"
	[ $status = "$(cat "$work/$name.plain.status")" ] || note_file "$work/$name.err"
	cmp "$work/$name.plain.out" "$work/$name.out" >"$work/cmp" 2>&1
	ok $? "$what: the same output, byte for byte"
	note_file "$work/cmp"
	held "$work/report" "$bytes" "$what: memory stays below the limit"
	note "$((SECONDS - started)) s"
	rm -f "$work/$name.out"
}

# compare NAME COMMAND...: a plain run, then each engine with each part of the plain run's peak.
compare() {
	local name=$1 peak engine part
	shift
	watched "$work/$name.plain.report" "$1" timeout -k 5 100 "$@" >"$work/$name.plain.out" 2>"$work/$name.plain.err"
	echo $? >"$work/$name.plain.status"
	peak=$(reported "$work/$name.plain.report" main_peak_kib)
	note "$name: plain run ends with $(cat "$work/$name.plain.status"), peak $peak KiB"
	for engine in $engines; do
		for part in $parts; do
			one_run "$name" "$engine" $((peak * 1024 / 100 * part)) "$@"
		done
	done
	rm -f "$work/$name.plain.out"
}
