#!/bin/bash
# timeout: 400
# io_uring, and pages that are lent to the kernel beyond a call: a process changes its engine with its first
# ring, whatever its threads do meanwhile; and one that may not do so is refused a ring and nothing else.
engines="thread inline"
. "$(dirname "$0")/lib/run.sh"
begin

field() { sed -n "s/^ *\"$1\": \"*\([^\",]*\)\"*,*$/\1/p" "$work/stats"; }

# How often the engine changes is known: once in each of these processes, and not in their children.
for engine in $engines; do
	repeat=100
	[ "$engine" = thread ] && repeat=10
	launch "$engine" $((4 << 20)) --stats "$work/stats"
	timeout -k 5 150 "${launcher[@]}" "$programs/ring" --size 8 --repeat $repeat \
		>"$work/out" 2>"$work/err"
	is "$? $(cat "$work/out")" "0 ring ok" "$engine: $repeat processes make rings"
	note_file "$work/err"
	[ -n "${LINEHOME_RUN-}" ] && continue
	changes=$repeat
	[ "$engine" = thread ] && changes=0
	is "$(field engine) $(field engine_changes)" "$engine $changes" "$engine: the change is counted"
done

limit_seconds=100
compare lent "$programs/lent"

# Before anything is watched the change is only one of what will be.
launch inline $((512 << 20)) --stats "$work/stats"
"${launcher[@]}" "$programs/ring" --size 4 --repeat 3 >"$work/out" 2>"$work/err"
is "$? $(cat "$work/out")" "0 ring ok" "a program that fits makes rings"
note_file "$work/err"
counted="$(field engine_changes) $(field processes_paged)"
[ -n "${LINEHOME_RUN-}" ] || is "$counted" "3 0" "and is not watched for it"

# A user who may answer no faults of the kernel's.
cannot_change="a ring is refused where the engine cannot be changed, and all else is as always"
nobody=()
[ "$(id -u)" = 0 ] && nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
if [ -n "${LINEHOME_RUN-}" ]; then
	skip "$cannot_change" "a stand-in has no engine"
elif [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 1 ] || "${nobody[@]}" test -w /dev/userfaultfd; then
	skip "$cannot_change" "every user may answer faults of the kernel's here"
elif ! "${nobody[@]}" test -x "$linehome"; then
	skip "$cannot_change" "nobody else may run $linehome"
else
	launch inline $((4 << 20)) --stats -
	"${nobody[@]}" "${launcher[@]}" "$programs/ring" --size 8 --repeat 10 --refused \
		>"$work/out" 2>"$work/stats"
	is "$? $(cat "$work/out")" "0 ring ok" "$cannot_change"
	is "$(field engine_changes)" 0 "and no change is counted"
	sed -n 's/^[^ {}]/# &/p' "$work/stats"
fi
finish
