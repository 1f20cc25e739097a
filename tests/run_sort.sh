#!/bin/bash
# timeout: 200
# sort(1) of 240 MB of lines in memory, two threads.
. "$(dirname "$0")/lib/run.sh"
need sort openssl
begin

export LC_ALL=C
# Lines of 1000 characters in random order: a stream cipher's output is the same everywhere and at once.
openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 0 </dev/zero 2>/dev/null |
	base64 -w 999 | head -n 240000 >"$work/lines"
is "$(wc -c <"$work/lines")" 240000000 "the input is as long as planned"
compare sort /usr/bin/sort -S 1G --parallel=2 "$work/lines"
finish
