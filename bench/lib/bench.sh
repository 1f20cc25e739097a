# bench.sh - what the bench/run_*.sh share: repetitions that take turns, medians, a table with the aim beside each figure.
#
# All systems are measured in the same run, one repetition of each in turn, so that a machine that is busy for a
# minute is busy for all. $REPETITIONS (5), $LINEHOME_RUN and $build as in tests/lib/run.sh.
# shellcheck shell=bash disable=SC2034 # who sources this uses the variables
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
build=${LINEHOME_BUILD:-$PWD/build}
programs=$build/tests/programs
linehome=$build/linehome
repetitions=${REPETITIONS:-5}
engine=${LINEHOME_ENGINE:-inline}
work=$(mktemp -d "${TMPDIR:-/tmp}/linehome-bench.XXXXXX")
children=()
swap=
missed=0

cleanup() {
	local pid
	trap - EXIT
	for pid in "${children[@]}"; do kill -TERM "$pid" 2>/dev/null; done
	for pid in "${children[@]}"; do wait "$pid" 2>/dev/null; done
	[ -z "$swap" ] || bench/zram down
	rm -rf "$work"
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT TERM

# The yardstick is optional: without it the figures are printed and nothing is compared.
swap_up() {
	local why
	if why=$(bench/zram check 2>&1) && why=$(bench/zram up 2>&1); then
		swap=yes
	else
		echo "# SKIP the comparison: $why"
	fi
}

machine() {
	local quiet
	read -r quiet _ </proc/loadavg
	echo "# $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, Linux $(uname -r); load $quiet; $(date -u +%F)"
}

# $launcher becomes what stands before a program: for SYSTEM with BYTES of memory.
# Systems: plain, zram, linehome (a node of its own, over the ring), next (that, with --prefetch next), tcp and tls
# (loopback).
system() { # system SYSTEM BYTES
	case $1 in
	plain) launcher=() ;;
	zram) launcher=(bench/zram run "$2") ;;
	linehome) launcher=("$linehome" run --engine "$engine" --local "$2" --stats "$work/stats" --) ;;
	thread) launcher=("$linehome" run --engine thread --local "$2" --stats "$work/stats" --) ;;
	next) launcher=("$linehome" run --engine "$engine" --local "$2" --prefetch next --stats "$work/stats" --) ;;
	tcp) launcher=("$linehome" run --engine "$engine" --store "$tcp_url" --local "$2" --stats "$work/stats" --) ;;
	tls) launcher=("$linehome" run --engine "$engine" --store "$tls_url" --key-file "$work/key" --local "$2" --stats "$work/stats" --) ;;
	esac
	if [ -n "${LINEHOME_RUN-}" ] && [ "$1" != zram ] && [ "$1" != plain ]; then
		read -ra launcher <<<"${LINEHOME_RUN//LOCAL/$2}"
	fi
}
systems() { # systems NAME...: those of them that can be measured here
	local name
	for name; do
		[ "$name" = zram ] && [ -z "$swap" ] && continue
		echo "$name"
	done
}

# node PORT OPTION...: starts a node on loopback, and waits until it listens.
node() {
	local port=$1
	shift
	[ -n "${LINEHOME_RUN-}" ] && return
	"$linehome" serve --listen "tcp://127.0.0.1:$port" "$@" 2>"$work/node.$port.err" &
	children+=("$!")
	for _ in $(seq 100); do
		grep -q 'listening on' "$work/node.$port.err" && return
		sleep 0.05
	done
	echo "# no node on port $port: $(cat "$work/node.$port.err")"
}
tcp_url=tcp://127.0.0.1:$((20000 + $$ % 10000))
tls_url=tcp://127.0.0.1:$((30000 + $$ % 2000))
tcp_node() { node "${tcp_url##*:}"; }
tls_node() {
	(umask 077 && openssl rand -hex 32 >"$work/key")
	node "${tls_url##*:}" --key-file "$work/key"
}

keep() { echo "$2" >>"$work/figure.$1"; } # keep NAME VALUE: one more repetition of a figure
median() {                                # median NAME: '-' where there is none
	[ -s "$work/figure.$1" ] || { echo -; return; }
	sort -g "$work/figure.$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
ratio() { # ratio A B, with two digits
	case $1$2 in *-*) echo - ;; *) awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b ? a / b : 0 }' ;; esac
}
# aim WHAT RATIO RELATION LIMIT: says whether a figure that was aimed at is reached
aim() {
	local verdict=reached
	if [ "$2" = - ]; then
		verdict="not measured"
	elif ! awk -v a="$2" -v b="$4" "BEGIN { exit !(a $3 b) }"; then
		verdict="NOT REACHED"
		missed=$((missed + 1))
	fi
	printf '%-62s %6s   aim %s %-5s %s\n' "$1" "$2" "$3" "$4" "$verdict"
}
