#!/bin/bash
# timeout: 120
# Every figure of --stats against a workload of which everything is known (tests/programs/phases.c), and against what
# the memory node counts by itself. tests/lib/stats.py knows what must hold; that it sees a wrong figure is tested too.
. "$(dirname "$0")/lib/run.sh"
begin
[ -z "${LINEHOME_RUN-}" ] || skip_all "a stand-in has no statistics"
need /usr/bin/python3

local_bytes=$((8 << 20)) pages=3000 ballast=3000

node_begin() { # node_begin URL: a node of this test's own; $url is where it listens
	rm -f "$work/node" "$work/node.json" "$work/node.err"
	"$linehome" serve --listen "$1" --size 1G --stats "$work/node.json" 2>"$work/node.err" &
	node=$!
	children+=("$node")
	for _ in $(seq 100); do
		url=$(sed -n 's/.*listening on //p' "$work/node.err")
		[ -n "$url" ] && return
		sleep 0.05
	done
}
node_end() {
	kill -TERM "$node"
	wait "$node"
}

# phases OPTION... -- MODE [TIMES]: runs the program; its statistics are in $work/stats
phases() {
	local options=()
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	mode=$2 times=${3:-1}
	watched "$work/report" "$programs/phases" timeout -k 2 40 "$linehome" run --store "$url" --local $local_bytes \
		--policy fifo --stats "$work/stats" "${options[@]}" -- "$programs/phases" "$mode" $pages $ballast "$times" \
		>"$work/out" 2>&1
	ok $? "$mode ${options[*]}: the program finds every byte right"
	note_file "$work/out"
}

# holds NODE.json|- WORD...: the statistics are what they must be
holds() {
	local node_json=$1
	shift
	python3 tests/lib/stats.py "$work/stats" "$node_json" mode="$mode" pages=$pages ballast=$ballast times="$times" \
		local=$local_bytes "$@" >"$work/broken" 2>&1
	ok $? "$mode: every figure is what it must be"
	note_file "$work/broken"
}
peak() { echo "peak_kib=$(reported "$work/report" main_peak_kib)"; }

one() { # one OPTION... -- MODE [TIMES]: with a node by itself
	node_begin "unix:$work/node"
	phases "$@"
	node_end
	holds "$work/node.json" "$(peak)" shared=1
}

node_begin tcp://127.0.0.1:0
phases --engine inline -- lines
node_end
holds "$work/node.json" "$(peak)"
python3 tests/lib/stats.py --planted "$work/stats" "$work/node.json" mode=lines pages=$pages ballast=$ballast times=1 \
	local=$local_bytes "$(peak)" >"$work/unseen" 2>&1
ok $? 'a wrong figure is seen, whichever it is'
note_file "$work/unseen"
python3 tests/lib/stats.py "$work/stats" "$work/node.json" mode=lines pages=$((pages + 1)) ballast=$ballast times=1 \
	local=$local_bytes >"$work/seen"
[ $? = 1 ] && grep -q 'bytes that were changed' "$work/seen"
ok $? 'so is a workload of one page more'

one --engine inline -- lines
one --engine thread -- lines
one --engine inline --prefetch next -- walk
one --engine thread --prefetch next -- walk
pages=600 # of which each is a meeting of two threads
one --engine inline -- both
pages=3000
one --engine inline -- fork
one --engine inline -- lines 3

# A connection that is cut in the middle of messages: what was carried out twice counts once.
node_begin tcp://127.0.0.1:0
python3 tests/lib/relay.py "${url##*:}" 5 75000 >"$work/relay" &
relay=$!
children+=("$relay")
for _ in $(seq 100); do
	[ -s "$work/relay" ] && break
	sleep 0.05
done
url=tcp://127.0.0.1:$(head -1 "$work/relay")
phases --engine inline -- lines
kill -TERM "$relay"
wait "$relay"
node_end
# Two connections to see whether the node is there, two for the program, and two more for each that was lost.
holds - reconnects=5
is "$(tail -1 "$work/relay")" $((2 + 2 + 2 * 5)) 'each connection that was cut was made again once'

finish
