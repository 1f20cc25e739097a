#!/bin/bash
# linehome migrate as a person meets it: options that do not go together, what is not there, and how it ends.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=$(realpath "${LINEHOME_BUILD:-build}/linehome")

count=0 failed=0
report() { # report PASSED TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		failed=1
	fi
}

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT

# The command fails with a status, and says one line in which a pattern is.
fails() { # fails STATUS PATTERN TEXT WORD...
	local wanted=$1 pattern=$2 text=$3 status lines
	shift 3
	timeout 20 "$linehome" migrate "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	lines=$(wc -l <"$files/err")
	if [ $status = "$wanted" ] && [ "$lines" = 1 ] && grep -q -- "^linehome migrate: .*$pattern" "$files/err" && [ ! -s "$files/out" ]; then
		report 0 "$text"
	else
		sed 's/^/# /' "$files/err"
		echo "# status $status, wanted $wanted and \"$pattern\""
		report 1 "$text"
	fi
}

fails 2 'nothing to move' 'without options'
fails 2 'a move on one machine needs --destination' 'a source alone' --source "$files/a"
fails 2 'a move on one machine needs --source' 'a destination alone' --destination "$files/b" --uffd "$files/u"
fails 2 'needs --uffd SOCKET' 'no handover' --source "$files/a" --destination "$files/b"
fails 2 '--destination does not go with --to' 'both sides and --to' --source "$files/a" --destination "$files/b" --to unix:"$files/s"
fails 2 '--mode does not go with --accept' "the sender's option for a receiver" --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u" --mode postcopy
fails 2 '--policy does not go with --to' "the home's option for a sender" --to unix:"$files/s" --source "$files/a" --policy none
fails 2 '--key-file does not go with a move on one machine' 'a key on one machine' --source "$files/a" --destination "$files/b" --uffd "$files/u" --key-file "$files/k"
fails 2 '--from-snapshot does not go with --accept' 'two ways' --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u" --from-snapshot "$files"
fails 2 '--to-snapshot needs --source' 'a snapshot of nothing' --to-snapshot "$files/snapshot" --destination "$files/b"
fails 2 '--stats does not go with --to-snapshot' 'statistics of a snapshot' --to-snapshot "$files/snapshot" --source "$files/a" --stats -
fails 2 'needs --recorded FILE' 'recorded without a recording' --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u" --policy recorded
fails 2 'for --policy recorded alone' 'a recording for another policy' --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u" --policy none --recorded "$files/r"
fails 2 'more than 16' 'too many connections' --to unix:"$files/s" --source "$files/a" --parallel 17
fails 2 'not one of the choices' 'a mode that there is not' --to unix:"$files/s" --source "$files/a" --mode precopy
fails 2 'longer than 10 seconds' 'no downtime' --to unix:"$files/s" --source "$files/a" --downtime-limit 11
fails 2 'not an option' 'a word too many' --to unix:"$files/s" --source "$files/a" more
fails 125 'cannot be written' 'statistics where none can be' --to unix:"$files/s" --source "$files/a" --stats "$files/gone/stats"
fails 125 "$files/a" 'a source that is not there' --to unix:"$files/s" --source "$files/a"
fails 125 'tcp' 'no URL' --to nowhere --source "$files/a"
fails 125 "$files/a" 'a snapshot of a source that is not there' --to-snapshot "$files/snapshot" --source "$files/a"
fails 125 'no snapshot\|snapshot' 'from a snapshot that is not there' --from-snapshot "$files/none" --destination "$files/b" --uffd "$files/u"

# Statistics are written where it has failed, too.
timeout 20 "$linehome" migrate --to unix:"$files/s" --source "$files/a" --stats "$files/stats" 2>/dev/null
python3 - "$files/stats" <<'END'
import json, sys
stats = json.load(open(sys.argv[1]))
assert stats['result'] == 'failed' and stats['error'] and stats['rounds'] == [], stats
assert set(stats['stop_ms']) == {'save', 'device', 'scan', 'sets', 'answer', 'load', 'total'}, stats
END
report $? 'statistics of what has failed'

# A receiver that waits ends when it is told to, says that it was cancelled, and leaves no socket.
ends() { # ends SIGNAL
	# Commands in the background of a script ignore interrupts.
	timeout 20 python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' \
		"$linehome" migrate --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u" 2>"$files/err" &
	local waiting=$! status
	for _ in $(seq 200); do
		[ -S "$files/u" ] && grep -q 'waiting for QEMU' "$files/err" && break
		sleep 0.05
	done
	kill -s "$1" $waiting
	wait $waiting
	status=$?
	if ! grep -q 'waiting for QEMU to hand its memory over' "$files/err" || [ $status != 130 ]; then
		sed 's/^/# /' "$files/err"
		echo "# status $status"
		return 1
	fi
}
ends INT
report $? 'a receiver that waits is interrupted'
ends TERM
report $? 'and told to end'

echo "1..$count"
exit $failed
