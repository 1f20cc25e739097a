#!/bin/bash
# timeout: 200
# What `linehome run` does when something is wrong: programs that cannot be run, nodes that are none, or full, or die
# or hang in mid-run; and what it must leave alone: exit statuses, signals, standard input and output.
# (Mistakes of the command line itself are in cli_usage.sh.)
# shellcheck disable=SC2016,SC2094 # what stands in single quotes is for another shell
. "$(dirname "$0")/lib/run.sh"
begin
[ -z "${LINEHOME_RUN-}" ] || skip_all "a stand-in has no errors of its own"
need /usr/bin/python3 cc

# refuses STATUS PATTERN WHAT COMMAND...: that status, nothing on stdout, one line on stderr that matches
refuses() {
	local status=$1 pattern=$2 what=$3 got
	shift 3
	timeout -k 2 30 "$@" >"$work/out" 2>"$work/err" </dev/null
	got=$?
	[ $got = "$status" ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" = 1 ] &&
		grep -q -i -E -- "$pattern" "$work/err"
	ok $? "$what: $status, one line"
	note "status $got"
	note_file "$work/err"
}

# ---- programs that cannot be run

refuses 127 'no-such-program' "a program that does not exist" "$linehome" run -- no-such-program
refuses 127 '/no/such/program' "a path that does not exist" "$linehome" run -- /no/such/program
echo data >"$work/data"
refuses 126 'data' "a file that is not executable" "$linehome" run -- "$work/data"
refuses 126 "$work" "a folder" "$linehome" run -- "$work"
echo 'int main(void) { return 0; }' >"$work/static.c"
if cc -static -o "$work/static" "$work/static.c" 2>/dev/null; then
	refuses 125 'static' "a statically linked program" "$linehome" run -- "$work/static"
else
	skip "a statically linked program" "no static libc here"
fi
# One that would change who runs it; root running a program of root's changes nothing and is no such case.
cp /bin/true "$work/setuid"
chmod 755 "$work"
if chown 65534 "$work/setuid" 2>/dev/null && chmod 4755 "$work/setuid"; then
	refuses 125 'set-?(user|group|uid)|setuid' "a setuid program" "$linehome" run -- "$work/setuid"
else
	skip "a setuid program" "only root can make a setuid program of somebody else's"
fi

# ---- nodes that are none

refuses 125 "$work/nobody" "nobody listens on a Unix socket" \
	"$linehome" run --timeout 2 --store "unix:$work/nobody" -- true
refuses 125 'tcp://127.0.0.1:1' "nobody listens on a port" \
	"$linehome" run --timeout 2 --store tcp://127.0.0.1:1 -- true
refuses 125 'tcp://192.0.2.1:7|key' "TCP to another machine without a key" \
	"$linehome" run --timeout 2 --store tcp://192.0.2.1:7 -- true

# A peer that answers with the bytes of a file, or not at all.
fake_node() { # fake_node SOCKET ANSWER
	/usr/bin/python3 - "$1" "$2" <<-'END' &
		import socket, sys, threading
		s = socket.socket(socket.AF_UNIX)
		s.bind(sys.argv[1])
		s.listen(8)
		answer = open(sys.argv[2], "rb").read()
		held = []
		while True:
		    c, _ = s.accept()
		    held.append(c)
		    if answer:
		        try:
		            c.recv(64)
		            c.sendall(answer)
		        except OSError:
		            pass
	END
	children+=("$!")
	for _ in $(seq 100); do
		[ -S "$1" ] && break
		sleep 0.05
	done
}

printf 'HTTP/1.0 400 Bad Request\r\nServer: something else\r\nContent-Type: text/plain\r\n\r\nno no no' >"$work/http"
fake_node "$work/web" "$work/http"
refuses 125 "unix:$work/web" "a node that speaks something else" \
	"$linehome" run --timeout 2 --store "unix:$work/web" -- true
# The hello of net/data/wire.h: the name, the version, and a checksum over the 64 bytes.
/usr/bin/python3 - >"$work/later" <<'END'
import struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
hello = bytearray(64)
hello[0:8] = b"LINEHOME"
struct.pack_into("<HH", hello, 8, 77, 3)
struct.pack_into("<I", hello, 12, crc32c(hello))
sys.stdout.buffer.write(hello)
END
fake_node "$work/newer" "$work/later"
refuses 125 'version.*77|77.*version' "a node of another version" \
	"$linehome" run --timeout 2 --store "unix:$work/newer" -- true
: >"$work/nothing"
fake_node "$work/silent" "$work/nothing"
started=$SECONDS
refuses 125 "unix:$work/silent" "a node that does not answer" \
	"$linehome" run --timeout 2 --store "unix:$work/silent" -- true
[ $((SECONDS - started)) -lt 8 ]
ok $? "and is not waited for much longer than --timeout"

# ---- nodes that fail in mid-run

node_pid=
start_node() { # start_node SOCKET [OPTION...]
	local socket=$1
	shift
	"$linehome" serve --listen "unix:$socket" "$@" 2>"$work/node.err" &
	node_pid=$!
	children+=("$node_pid")
	for _ in $(seq 100); do
		[ -S "$socket" ] && break
		sleep 0.05
	done
}

# ends_with_node WHAT SIGNAL: a program in full swing while its node gets SIGNAL
ends_with_node() {
	local what=$1 number=$2 engine=$3 status started
	start_node "$work/node"
	timeout -k 2 60 "$linehome" run --engine "$engine" --store "unix:$work/node" --local 16M --timeout 3 -- \
		"$programs/words" --size 64 --rounds 100000 >"$work/out" 2>"$work/err" &
	local program=$!
	children+=("$program")
	sleep 1.5
	kill -0 $program 2>/dev/null
	ok $? "$engine, $what: the program runs"
	kill -"$number" $node_pid
	started=$SECONDS
	wait $program
	status=$?
	is $status 125 "$engine, $what: the program ends with 125"
	[ $((SECONDS - started)) -le 10 ]
	ok $? "$engine, $what: soon after --timeout ($((SECONDS - started)) s)"
	grep -q -F "unix:$work/node" "$work/err" && grep -q -i -E 'page' "$work/err" && ! grep -q '^wrong' "$work/err"
	ok $? "$engine, $what: the message names node and page"
	is "$(wc -l <"$work/err")" 1 "$engine, $what: and is one line"
	note_file "$work/err"
	kill -KILL $node_pid 2>/dev/null
	wait $node_pid 2>/dev/null
	rm -f "$work/node"
}

for engine in $engines; do
	ends_with_node "a node that is killed" KILL "$engine"
	ends_with_node "a node that is stopped" STOP "$engine"

	start_node "$work/small" --size 8M
	refuses 125 "unix:$work/small.*(full|room|space)|(full|room|space).*unix:$work/small" "$engine, a full node" \
		"$linehome" run --engine "$engine" --store "unix:$work/small" --local 16M -- \
		"$programs/words" --size 64 --rounds 2
	launch "$engine" $((16 << 20)) --store "unix:$work/small"
	timeout 30 "${launcher[@]}" "$programs/words" --size 8 --rounds 2 --touches 10 >"$work/out" 2>&1
	is $? 0 "$engine, a full node serves the next program"
	note_file "$work/out"
	kill -TERM $node_pid
	wait $node_pid
	is $? 0 "$engine, the node ends when it is told to"
	rm -f "$work/small"
done

# ---- what must be left alone

for engine in $engines; do
	launch "$engine" $((32 << 20))
	for status in 0 3 125 255; do
		"${launcher[@]}" /bin/sh -c "exit $status"
		is $? $status "$engine, exit status $status is passed on"
	done
	for number in 9 11 15; do
		"${launcher[@]}" /bin/bash -c "kill -$number \$\$" 2>/dev/null
		is $? $((128 + number)) "$engine, death by signal $number becomes $((128 + number))"
	done

	head -c 3000000 /dev/urandom >"$work/random"
	"${launcher[@]}" /bin/cat <"$work/random" 2>"$work/err" | cmp -s - "$work/random"
	ok $? "$engine, standard input and output are the program's"
	[ ! -s "$work/err" ]
	ok $? "$engine, and nothing of linehome's is on standard error"
	"${launcher[@]}" /bin/sh -c 'echo oops >&2' 2>"$work/err" >"$work/out"
	is "$(cat "$work/err" "$work/out")" oops "$engine, standard error is the program's"
	is "$(cd / && SOME=thing "${launcher[@]}" /bin/sh -c 'echo "$SOME $PWD $1"' x 'a b')" \
		'thing / a b' "$engine, environment, folder and arguments are the program's"

	# Ctrl-C: the signal goes to the whole group in the foreground. 130 = 128 + SIGINT.
	set -m
	"${launcher[@]}" "$programs/words" --size 64 --rounds 100000 >"$work/out" 2>"$work/err" &
	group=$!
	set +m
	children+=("$group")
	sleep 1
	kill -INT -- "-$group"
	wait $group
	is $? 130 "$engine, Ctrl-C ends the program"
	[ ! -s "$work/err" ]
	ok $? "$engine, without a word"
	note_file "$work/err"
	set -m
	"${launcher[@]}" /bin/bash -c 'trap "echo caught; exit 7" INT; for i in $(seq 100); do sleep 0.1; done' \
		>"$work/out" 2>"$work/err" &
	group=$!
	set +m
	children+=("$group")
	sleep 1
	kill -INT -- "-$group"
	wait $group
	is "$? $(cat "$work/out")" "7 caught" "$engine, a program that handles Ctrl-C goes its own way"
	"${launcher[@]}" "$programs/words" --size 64 --rounds 100000 >"$work/out" 2>"$work/err" &
	program=$!
	children+=("$program")
	sleep 0.7
	kill -TERM $program
	wait $program
	is $? 143 "$engine, SIGTERM to linehome reaches the program"
done
# In a /tmp of its own, so that what other tests leave there for a moment is not counted.
if unshare -m true 2>/dev/null; then
	unshare -m bash -c '
		mount -t tmpfs none /tmp || exit 1
		"$0" run -- true
		"$0" run -- /bin/sh -c "exit 3"
		"$0" run -- no-such-program
		"$0" run -- sleep 20 & sleep 0.5; kill -TERM $!; wait $!
		ls -A /tmp' "$linehome" >"$work/out" 2>"$work/err"
	is "$(cat "$work/out")" "" "no embedded node's folder is left behind"
else
	skip "no embedded node's folder is left behind" "needs a mount namespace"
fi
finish
