#!/bin/bash
# timeout: 90
# linehome migrate, incoming and serve-uffd as a person meets them: options that do not go together, wrong words, what
# is not there, and how they end.
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
command=migrate
fails() { # fails STATUS PATTERN TEXT WORD...
	local wanted=$1 pattern=$2 text=$3 status lines
	shift 3
	timeout 20 "$linehome" "$command" "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	lines=$(wc -l <"$files/err")
	if [ $status = "$wanted" ] && [ "$lines" = 1 ] && grep -q -- "^linehome $command: .*$pattern" "$files/err" && [ ! -s "$files/out" ]; then
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

# Each option with a word that it cannot have.
long=$files/$(printf 'x%.0s' $(seq 110))
mkdir "$files/folder"
: >"$files/file"
echo 1234 >"$files/short-key"
chmod 600 "$files/short-key"
printf '%064d\n' 1 >"$files/open-key"
chmod 644 "$files/open-key"
sender=(--source "$files/a" --to unix:"$files/s")
for word in x 0 -5 99999999999999999999; do
	fails 2 "--bandwidth $word" "a bandwidth of $word" "${sender[@]}" --bandwidth $word
done
for word in x -1 1e9; do
	fails 2 "--downtime-limit $word" "a downtime of $word" "${sender[@]}" --downtime-limit $word
done
for word in x 0 -1; do
	fails 2 "--parallel $word" "$word connections" "${sender[@]}" --parallel $word
done
fails 2 'needs an argument' 'an option without its word' "${sender[@]}" --bandwidth
fails 2 'more than once' 'an option twice' "${sender[@]}" --parallel 2 --parallel 3
fails 2 'unknown option' 'an option that there is not' "${sender[@]}" --speed 3
for option in source to destination uffd accept to-snapshot from-snapshot; do
	fails 2 "--$option .*is empty" "an empty --$option" --$option ''
done
for word in unix: tcp:// tcp://host tcp://host:99999 http://host:1; do
	fails 125 "$word.*write unix:PATH or tcp" "$word for the receiver" --source "$files/a" --to $word
	fails 125 "$word.*write unix:PATH or tcp" "$word to be listened at" --accept $word --destination "$files/b" --uffd "$files/u"
done
fails 125 'at most 107 bytes' 'a path that is too long' --source "$files/a" --to "unix:$long"
fails 125 'longer than the path of a socket' 'a monitor with one' --source "$long" --to unix:"$files/s"
for word in file folder; do
	fails 125 "$files/$word: no QEMU listens there" "a $word for a monitor" --source "$files/$word" --to unix:"$files/s"
	fails 125 "$files/$word: .*is no socket" "a $word for the handover" --accept unix:"$files/s" --destination "$files/b" --uffd "$files/$word"
done
receiver=(--accept unix:"$files/s" --destination "$files/b" --uffd "$files/u")
for way in sender receiver; do
	declare -n words=$way
	fails 125 "$files/none: " "$way: no key" "${words[@]}" --key-file "$files/none"
	fails 125 'not a file' "$way: a folder for a key" "${words[@]}" --key-file "$files/folder"
	fails 125 'not a key\|64' "$way: a key that is none" "${words[@]}" --key-file "$files/short-key"
	fails 125 'chmod 600' "$way: a key that others can read" "${words[@]}" --key-file "$files/open-key"
	fails 125 'cannot be written' "$way: a folder for statistics" "${words[@]}" --stats "$files/folder"
done
fails 125 "$files/u/u: " 'a handover in no folder' --accept unix:"$files/s" --destination "$files/b" --uffd "$files/u/u"
fails 125 "at most 107 bytes" 'a handover whose path is too long' --accept unix:"$files/s" --destination "$files/b" --uffd "$long"
fails 2 '--policy x' 'a policy that there is not' "${receiver[@]}" --policy x
fails 125 "$files/none: " 'a recording that is not there' "${receiver[@]}" --recorded "$files/none"
fails 125 'not a recording' 'one that is none' "${receiver[@]}" --recorded "$files/file"
fails 125 'cannot be written' 'no folder for a recording' "${receiver[@]}" --record "$files/none/record"
fails 125 'cannot be written' 'a folder for one' "${receiver[@]}" --record "$files/folder"
fails 125 'no snapshot' 'a folder that is no snapshot' --from-snapshot "$files/folder" --destination "$files/b" --uffd "$files/u"
[ ! -e "$files/u" ] && [ -z "$(ls -A "$files/folder")" ]
report $? 'nothing of that is left'

command=incoming
memory=/dev/shm/linehome-cli.$$
fails 2 'give --uffd' 'nobody who brings memory' --memory $memory true
fails 2 'give --memory' 'no memory' --uffd "$files/u" true
fails 2 'no program' 'no program' --uffd "$files/u" --memory $memory
fails 2 'add -incoming defer' 'a QEMU that does not wait' --uffd "$files/u" --memory $memory -- qemu-system-x86_64
fails 2 'no argument of the program names it' 'a QEMU without that memory' --uffd "$files/u" --memory $memory -- qemu-system-x86_64 -incoming defer
fails 2 'empty word' 'no name of a file' --uffd "$files/u" --memory , true
for word in file folder; do
	fails 125 'is no socket' "a $word for the handover" --uffd "$files/$word" --memory $memory true
done
fails 125 'its folder cannot be reached' 'a handover in no folder' --uffd "$files/none/u" --memory $memory true
fails 125 'too long' 'one whose path is too long' --uffd "$long" --memory $memory true
fails 125 'is no file' 'a folder for memory' --uffd "$files/u" --memory /dev/shm true
fails 125 'colon' 'a colon in its path' --uffd "$files/u" --memory /dev/shm/a:b true
fails 127 'not found' 'a program that is not there' --uffd "$files/u" --memory $memory "$files/none"
fails 126 'cannot be executed' 'a file that is no program' --uffd "$files/u" --memory $memory "$files/file"

command=serve-uffd
fails 2 'give --socket' 'nowhere to listen' --memory "$files/file"
fails 2 'give --memory' 'no memory' --socket "$files/q"
fails 2 '--policy x' 'a policy that there is not' --socket "$files/q" --memory "$files/file" --policy x
fails 2 'give --recorded' 'recorded without a recording' --socket "$files/q" --memory "$files/file" --policy recorded
fails 2 'alone' 'a recording for another policy' --socket "$files/q" --memory "$files/file" --policy linear --recorded "$files/file"
fails 2 'not an option' 'a word too many' --socket "$files/q" --memory "$files/file" --once x
fails 125 "$files/none: " 'memory that is not there' --socket "$files/q" --memory "$files/none"
fails 125 'is no file' 'a folder for memory' --socket "$files/q" --memory "$files/folder"
for word in file folder; do
	fails 125 'is no socket' "a $word to listen at" --socket "$files/$word" --memory "$files/file"
done
fails 125 'cannot listen' 'a socket in no folder' --socket "$files/none/q" --memory "$files/file"
fails 125 'cannot be written' 'no folder for a recording' --socket "$files/q" --memory "$files/file" --record "$files/none/r"
fails 125 'cannot be written' 'no folder for statistics' --socket "$files/q" --memory "$files/file" --stats "$files/none/s"
command=migrate

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
	if ! grep -q 'waiting for QEMU to hand its memory over' "$files/err" || [ $status != 130 ] || [ -e "$files/u" ]; then
		sed 's/^/# /' "$files/err"
		echo "# status $status"
		return 1
	fi
}
ends INT
report $? 'a receiver that waits is interrupted'
ends TERM
report $? 'and told to end'
ends HUP
report $? 'and loses its terminal'

# A peer that listens and says nothing keeps nobody: a monitor, a receiver.
mute() { # mute WHAT WORD...
	local what=$1 waiting
	shift
	timeout 30 python3 - "$files/mute" "$linehome" migrate "$@" <<'END'
import signal, socket, subprocess, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
peer = subprocess.Popen(sys.argv[2:], stderr=subprocess.PIPE, text=True,
                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
accepted = listener.accept()
peer.send_signal(signal.SIGINT)
text = peer.communicate(timeout=25)[1]
print('#', peer.returncode, text.strip())
sys.exit(peer.returncode not in (125, 130) or text.count('\n') != 1)
END
	report $? "$what"
	rm -f "$files/mute"
}
mute 'a monitor that says nothing' --source "$files/mute" --to unix:"$files/s"

# Whose reader has gone is not killed by that.
timeout 20 python3 - "$linehome" migrate --source "$files/a" --to unix:"$files/s" --stats - <<'END'
import os, signal, subprocess, sys
reader, writer = os.pipe()
os.close(reader)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
sys.exit(subprocess.run(sys.argv[1:], stderr=writer, restore_signals=True).returncode != 125)
END
report $? 'nobody reads what it says'

echo "1..$count"
exit $failed
