#!/bin/bash
# timeout: 200
# xz with two threads, whose blocks of input and output are most of its memory.
. "$(dirname "$0")/lib/run.sh"
need /usr/bin/xz openssl
begin

openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 7 </dev/zero 2>/dev/null |
	head -c 24000000 | od -An -v -tx2 -w32 | head -c 48000000 >"$work/text"
compare xz /usr/bin/xz -0 -T2 --block-size=16MiB -c "$work/text"
finish
