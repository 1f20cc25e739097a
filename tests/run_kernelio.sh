#!/bin/bash
# timeout: 400
# System calls of every kind whose buffers and structures are in memory that has left.
engines="thread inline"
. "$(dirname "$0")/lib/run.sh"
begin

compare kernelio "$programs/kernelio" --size 64 --rounds 60
for engine in $engines; do
	launch "$engine" 16777216
	"${launcher[@]}" "$programs/kernelio" --rounds 1 --plant >/dev/null 2>"$work/err"
	is $? 1 "$engine: a planted wrong bit is found"
	note_file "$work/err"
done
finish
