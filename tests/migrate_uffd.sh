#!/bin/bash
# timeout: 120
# linehome serve-uffd and machines that hand their memory over as Firecracker does: every page of theirs is right, also
# what a balloon has given back; with each policy; one after another and several at once; beside machines that are
# killed and peers that talk nonsense. And handlers with a fault are found out.
set -u
cd "$(dirname "$0")/.." || exit 1
build=$(realpath "${LINEHOME_BUILD:-build}")
linehome=$build/linehome
here=$PWD
machine=$(realpath "${LINEHOME_BUILD:-build}")/tests/programs/firecracker_like
# Programs under test are never sanitized.
[ -x "$machine" ] || machine=$(dirname "$build")/tests/programs/firecracker_like
work=$(mktemp -d)
children=()
finish() {
	for child in "${children[@]}"; do
		kill "$child" 2>/dev/null
	done
	rm -rf "$work"
}
trap finish EXIT

count=0 failed=0
report() { # report STATUS TEXT: STATUS 0 passes
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' "$work/err" "$work/out" 2>/dev/null | tail -n 15
		failed=1
	fi
}
skip() { # skip TEXT WHY
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}
json() { python3 -c 'import json, sys; print(eval(sys.argv[2], {"s": json.load(open(sys.argv[1]))}))' "$work/stats" "$1"; }

# 24 MiB, each page different, a fifth of them holes.
python3 - "$work/memory" <<'END'
import random, sys
random.seed(7)
with open(sys.argv[1], 'wb') as file:
    for page in range(6144):
        if random.randrange(5) == 0:
            file.seek(4096, 1)
        else:
            file.write(page.to_bytes(8, 'little') + random.randbytes(504) + bytes(3584))
    file.truncate(6144 * 4096)
END

memory=$work/memory
serve() { # serve OPTION...: in the background, until it listens
	: >"$work/err"
	timeout 60 "$linehome" serve-uffd --socket "$work/socket" --memory "$memory" --stats "$work/stats" "$@" 2>"$work/err" &
	handler=$!
	children+=("$handler")
	for _ in $(seq 200); do
		grep -q listening "$work/err" && return
		kill -0 $handler 2>/dev/null || return
		sleep 0.05
	done
}
run() { timeout 50 "$machine" "$work/socket" "$work/memory" "$@" >"$work/out" 2>&1; }
end() { # ends the handler; its status
	kill "$handler" 2>/dev/null
	wait "$handler"
}

if run threads=1 turns=0; [ $? != 2 ] || grep -q userfaultfd "$work/out"; then
	echo "1..0 # SKIP this user may not watch memory"
	exit 0
fi

for policy in linear around none; do
	serve --policy $policy --once
	run threads=3 turns=8000 seed=3
	report $? "policy $policy: all pages are right"
	wait "$handler"
	report $? "policy $policy: the handler has ended with its machine"
done
[ "$(json 's["machine"][0]["bytes"]["background"]')" = 0 ]
report $? 'policy none: nothing came that was not missed'

serve --policy none --record "$work/record" --once
run threads=1 turns=300 && wait "$handler" && [ -s "$work/record" ]
report $? 'what was missed is recorded'
serve --recorded "$work/record" --once
run threads=1 turns=300
report $? 'and brought first'
wait "$handler"
: >"$work/damaged"
serve --recorded "$work/damaged" --once
timeout 50 "$machine" "$work/socket" "$work/memory" idle >"$work/out" 2>&1 &
other=$!
children+=("$other")
for _ in $(seq 100); do
	grep -q refused "$work/err" && break
	sleep 0.05
done
grep -q 'refused: .*damaged' "$work/err"
report $? 'no machine is taken where the recording is none'
end
kill "$other"
wait "$other" 2>/dev/null

# Several, one of which is killed, and talk that is no handshake.
serve
pids=()
for seed in 1 2 3; do
	timeout 50 "$machine" "$work/socket" "$work/memory" threads=1 turns=8000 seed=$seed >"$work/out.$seed" 2>&1 &
	pids+=($!)
done
{ timeout -s KILL 0.3 "$machine" "$work/socket" "$work/memory" idle; } >/dev/null 2>&1
python3 -c '
import socket, sys
for text in b"nonsense", b"[]", b"":
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
    peer.sendall(text)
    peer.close()' "$work/socket"
status=0
for pid in "${pids[@]}"; do
	wait "$pid" || status=1
done
report $status 'three at once, beside one that is killed and peers that talk nonsense'
run threads=2 turns=2000
report $? 'and one after that'
[ "$(grep -c refused "$work/err")" = 3 ]
report $? 'each refusal is one line'
end
report $? 'a signal ends the handler'
[ "$(json 's["machines"]') $(json 's["refused"]') $(json 'len(s["machine"])')" = '5 3 5' ]
report $? 'the statistics have them all'
[ ! -e "$work/socket" ]
report $? 'the socket has been removed'

# Ends while a machine still needs it, and while the file is too short for a machine.
serve --policy none
timeout 20 "$machine" "$work/socket" "$work/memory" idle >/dev/null 2>&1 &
other=$!
children+=("$other")
sleep 0.5
end
report $? 'it ends though a machine still needs it'
grep -q 'stands still' "$work/err"
report $? 'and says so'
kill "$other"
wait "$other" 2>/dev/null
head -c 4194304 "$work/memory" >"$work/short"
memory=$work/short
serve
timeout 1 "$machine" "$work/socket" "$work/memory" idle >"$work/out" 2>&1
grep -q "refused: .*is it this memory's machine" "$work/err"
report $? 'a machine with more memory than the file has is refused'
end
memory=$work/memory

serve
free=$(sed -n 's/^HugePages_Free: *//p' /proc/meminfo)
if [ "${free:-0}" -lt 12 ]; then
	skip 'huge pages' 'there are none: /proc/sys/vm/nr_hugepages'
else
	run huge threads=2 turns=500
	report $? 'huge pages'
fi
end

naive() { # naive FAULT
	rm -f "$work/socket"
	timeout 50 python3 "$here/tests/lib/naive_uffd.py" "$work/socket" "$work/memory" "$1" >"$work/err" 2>&1 &
	handler=$!
	children+=("$handler")
	for _ in $(seq 200); do
		[ -S "$work/socket" ] && break
		sleep 0.05
	done
	sleep 0.1
	run threads=2 turns=1500
}
naive none
report $? 'a handler in Python passes'
wait "$handler"
naive removed
[ $? = 1 ] && grep -q 'must be zero, as given back' "$work/out"
report $? 'caught: one that brings what was given back out of the file'
wait "$handler"
naive offset
[ $? = 1 ] && grep -q 'must be as in the file' "$work/out"
report $? 'caught: one that takes all regions to begin where the file does'
wait "$handler"

echo "1..$count"
exit $failed
