#!/bin/bash
# timeout: 400
# fork, grandchildren, orphans, vfork, posix_spawn, exec: every page known on both sides.
engines="inline thread"
. "$(dirname "$0")/lib/run.sh"
begin

for scene in snapshot descent orphan many threads exec last; do
	parts=40 compare "fork-$scene" "$programs/fork_words" --size 48 --scene $scene
done
compare fork-all "$programs/fork_words" --size 32
finish
