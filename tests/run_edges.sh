#!/bin/bash
# timeout: 400
# Calls about memory that fail, advice about forks, children of a child of vfork, and threads that die with
# robust mutexes.
engines="thread inline"
. "$(dirname "$0")/lib/run.sh"
begin
limit_seconds=100
compare edges "$programs/edges" --size 24

# More separate stacks than the agent can tell apart.
for engine in $engines; do
	[ -n "${LINEHOME_RUN-}" ] && break
	launch "$engine" $((12 << 20))
	"${launcher[@]}" "$programs/edges" --scene stacks >"$work/out" 2>"$work/err"
	is "$? $(wc -l <"$work/err")" "125 1" "$engine: too many stacks end the program, with one line"
	grep -q 'too many stacks' "$work/err"
	ok $? "$engine: which says so"
	note_file "$work/err"
done
finish
