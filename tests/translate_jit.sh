#!/bin/bash
# timeout: 300
# Programs that make their code while they run do the same translated as natively.
. "$(dirname "$0")/lib/run.sh"

agent=$build/tests/agents/whole.so
sources=$root/tests/programs

same() { # same NAME COMMAND...: the same output and end
	local name=$1 native translated
	shift
	timeout 100 "$@" >"$work/native" 2>"$work/native.err"
	native=$?
	LD_PRELOAD=$agent LH_WHOLE='bare tell' timeout 200 "$@" >"$work/translated" 2>"$work/translated.err"
	translated=$?
	[ $native = $translated ] && grep -q '^whole: begins 1' "$work/translated.err" && cmp -s "$work/native" "$work/translated"
	ok $? "$name"
	[ -s "$work/native.err" ] && note "$name: natively $(tail -n1 "$work/native.err"), translated $(grep -v ^whole "$work/translated.err" | tail -n1)"
}
unless() { # unless COMMAND NAME: whether it has to be left out
	command -v "$1" >/dev/null && return 1
	skip "$2" "no $1"
}

unless node "V8" || same "V8" node "$sources/jit.js"
unless javac "a JVM" || { javac -d "$work" "$sources/Jit.java" && same "a JVM" java -cp "$work" Jit; }
unless python3 "callbacks of libffi" || same "callbacks of libffi" python3 "$sources/callbacks.py"
seq 1 20000 | sed 's/$/-abc/' >"$work/lines"
same "regular expressions that are compiled" grep -cP '^(\d)(\d)?\1+-a(b|c)+$' "$work/lines"
finish
