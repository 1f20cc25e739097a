#!/bin/bash
# timeout: 400
# Many threads that check every word they wrote; and the check catches one wrong bit.
engines="inline thread"
. "$(dirname "$0")/lib/run.sh"
begin

compare words "$programs/words" --threads 8 --size 128 --rounds 3 --touches 5000
compare many-threads "$programs/words" --threads 64 --size 48 --rounds 2 --touches 200
for engine in $engines; do
	launch "$engine" 33554432
	"${launcher[@]}" "$programs/words" --size 64 --rounds 2 --touches 100 --plant >/dev/null 2>"$work/err"
	is $? 1 "$engine: a planted wrong bit is found"
	note_file "$work/err"
done
finish
