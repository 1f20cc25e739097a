#!/bin/bash
# timeout: 60
# linehome serve as a person meets it: it says where it listens, keeps its socket to itself, replaces the socket of a node
# that has ended but not of one that runs, writes its statistics, and names what is wrong in one line.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=${LINEHOME_BUILD:-build}/linehome
files=$(mktemp -d)
count=0 failed=0 node=

ok() { # ok STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' "$files/err"
		failed=1
	fi
}

start() { # start OPTION...: runs a node in the background until it says that it listens
	: >"$files/err"
	"$linehome" serve "$@" >/dev/null 2>"$files/err" </dev/null &
	node=$!
	for _ in $(seq 100); do
		grep -q 'listening on' "$files/err" && return 0
		kill -0 $node 2>/dev/null || return 1
		sleep 0.05
	done
	return 1
}

end() { # end SIGNAL: the node's status in $status
	[ -n "$node" ] && kill "-$1" "$node"
	wait "$node" 2>/dev/null
	status=$?
	node=
}

trap '[ -n "$node" ] && kill -KILL $node; rm -rf "$files"' EXIT

fails() { # fails STATUS PATTERN OPTION...: ends with STATUS and one line that matches
	local wanted=$1 pattern=$2 line
	shift 2
	timeout 10 "$linehome" serve "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	line=$(cat "$files/err")
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = "$wanted" ] && [ ! -s "$files/out" ] && [ "$(wc -l <"$files/err")" = 1 ] && [[ $line == $pattern ]]
	ok $? "serve $* -> $pattern"
}

start --listen "unix:$files/node" --size 1M --stats "$files/stats"
ok $? 'a node starts'
[ "$(cat "$files/err")" = "linehome serve: listening on unix:$files/node" ]
ok $? 'and says where it listens, in one line'
[ "$(stat -c %a "$files/node")" = 600 ]
ok $? 'its socket is its owner'\''s alone'
fails 125 "linehome serve: unix:$files/node: somebody listens there already: *" --listen "unix:$files/node"
end TERM
[ $status = 0 ]
ok $? 'SIGTERM ends it, with status 0'
[ ! -e "$files/node" ]
ok $? 'and its socket goes with it'
python3 -c '
import json, sys
stats = json.load(open(sys.argv[1]))
assert stats["bytes_limit"] == 1 << 20 and stats["connections"] == 1 and stats["gets"] == 0, stats
' "$files/stats"
ok $? 'the statistics are JSON'

start --listen "unix:$files/node" && end KILL
start --listen "unix:$files/node" --listen tcp://127.0.0.1:0
ok $? 'the socket of a node that was killed is replaced'
port=$(sed -n 's/.*tcp:\/\/127.0.0.1:\([0-9]*\)$/\1/p' "$files/err")
[ -n "$port" ] && [ "$port" -gt 0 ]
ok $? 'of a port that the kernel has chosen the number is said'
fails 125 "linehome serve: tcp://127.0.0.1:$port: the port is in use: choose another, or 0" --listen "tcp://127.0.0.1:$port"
end INT
[ $status = 0 ]
ok $? 'SIGINT ends it too'

echo text >"$files/file"
printf '%064d\n' 1 >"$files/key"
chmod 644 "$files/key"
fails 125 "linehome serve: unix:$files/file: the path exists and is no socket: *" --listen "unix:$files/file"
[ "$(cat "$files/file")" = text ]
ok $? 'a file in the way is left alone'
fails 125 "linehome serve: unix:$files/none/x: cannot listen: No such file or directory" --listen "unix:$files/none/x"
fails 125 'linehome serve: tcp://0.0.0.0:0: not a loopback address, * give --key-file' --listen tcp://0.0.0.0:0
fails 125 "linehome serve: $files/key: others may use this key; make it yours alone with: chmod 600 $files/key" \
	--listen tcp://127.0.0.1:0 --key-file "$files/key"
fails 125 "linehome serve: $files/file: *" --listen tcp://127.0.0.1:0 --key-file "$files/file"
fails 125 "linehome serve: $files/none/key: No such file or directory" --listen tcp://127.0.0.1:0 --key-file "$files/none/key"
fails 125 "linehome serve: $files/none/stats: the statistics cannot be written: *" --listen "unix:$files/node" --stats "$files/none/stats"
fails 2 'linehome serve: --listen tcp://127.0.0.1: *' --listen tcp://127.0.0.1
fails 2 'linehome serve: nowhere to listen: *'
chmod 600 "$files/key"
start --listen tcp://0.0.0.0:0 --key-file "$files/key" --stats -
ok $? 'with a key it listens on a network'
end TERM
[ $status = 0 ] && grep -q '"bytes_used": 0' "$files/err"
ok $? 'statistics to stderr'

echo "1..$count"
exit $failed
