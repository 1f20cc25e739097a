#!/bin/bash
# Programs that execute, fork and die all the time under `linehome cover`, and a linehome that is killed: all
# ends as it does plain. LH_TEST_ROUNDS: how much of it (20).
#
# timeout: 300
. "$(dirname "$0")/lib/run.sh"
export LC_ALL=C XDG_CACHE_HOME=$work/cache
mkdir -p "$XDG_CACHE_HOME"
rounds=${LH_TEST_ROUNDS:-20}

# same WHAT ENGINE COMMAND...: as $work/plain.out and 0, which plain has left.
same() {
	local what=$1 engine=$2 status
	shift 2
	timeout $((40 + rounds)) "$linehome" cover --engine "$engine" --format summary -o "$work/report" -- "$@" \
		>"$work/out" 2>"$work/err"
	status=$?
	is "$status" 0 "$what, $engine: it ends"
	cmp -s "$work/out" "$work/plain.out"
	ok $? "$what, $engine: the same output"
	is "$(grep -a '^linehome' "$work/err")" '' "$what, $engine: nothing to be said"
}

program() { # WHAT COMMAND...
	local what=$1 engine
	shift
	"$@" >"$work/plain.out" 2>/dev/null
	for engine in inside outside; do same "$what" "$engine" "$@"; done
}

# ---- who is killed before, in and behind an execve: the shell is told of each
cat >"$work/kill.sh" <<'S'
for i in $(seq "$1"); do sleep 30 & kill $!; wait $!; echo $?; done
for i in $(seq "$1"); do sleep 30 & kill -9 $!; wait $!; echo $?; done
for i in $(seq "$1"); do sleep 30 & /bin/true; kill -9 $!; wait $!; echo $?; done
for i in $(seq "$1"); do /bin/echo $i | head -c 0; done
exit 0
S
program 'killed while executing' bash "$work/kill.sh" "$rounds"

# ---- subshells in subshells, pipes, and programs that become others
cat >"$work/nest.sh" <<'S'
set -e
f() { if [ "$1" -gt 0 ]; then echo "$(f $(($1 - 1)))x"; else echo in | cat | tr a-z A-Z; fi; }
for i in 1 2 3; do x=$(f 3 | sed s/x/y/g); (echo "$i $x") | cat; done
for i in 1 2 3 4 5 6; do v=$(/bin/echo "$i") & done
wait
bash -c 'exec bash -c "exec /bin/echo \$(exec /bin/echo deep)"'
exec bash -c 'exec env A=1 bash -c "echo done \$A; exit 0"'
S
program 'shells in shells' bash "$work/nest.sh"

# ---- what waits with all signals blocked when the program ends: let go of once
"${CC:-cc}" -O1 -o "$work/suspended" -xc - <<'C'
#define _GNU_SOURCE
#include <signal.h>
#include <unistd.h>
int main(void)
{
	sigset_t all;

	if (fork() > 0) {
		usleep(200000);
		return 0;
	}
	alarm(20);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, 0);
	sigdelset(&all, SIGUSR1);
	sigdelset(&all, SIGALRM);
	sigsuspend(&all);
}
C
timeout 30 "$linehome" cover --engine inside --include-libraries --format summary -o "$work/report" -- \
	"$work/suspended" 2>"$work/err"
is $? 0 'a child that sleeps in the agent: all ends'
is "$(grep -c 'the agent did not stop' "$work/err")" 0 'a child that sleeps in the agent: it is let go of once' ||
	note_file "$work/err"

# ---- a watcher that was started with SIGCHLD ignored hears of what its program executes
cat >"$work/loop.sh" <<'S'
trap 'exit 7' TERM
while :; do /bin/true; sleep 0.02; done
S
bash "$work/loop.sh" & loop=$!
children+=("$loop")
(trap '' CHLD; exec "$linehome" cover --engine inside --format json -o "$work/report" -p "$loop") \
	2>"$work/err" & watcher=$!
children+=("$watcher")
sleep 1.5
kill -TERM "$watcher"
wait "$watcher"
python3 -c 'import json, sys; sys.exit(not any(m["path"].endswith("true") and m["blocks"]["hit"] for m in
	json.load(open(sys.argv[1]))["modules"]))' "$work/report"
ok $? 'with SIGCHLD ignored: what the program executes is watched' || note_file "$work/err"
kill "$loop"
wait "$loop"
is $? 7 'with SIGCHLD ignored: the program goes on'

# ---- linehome is killed while it watches: the program goes on, can be watched again, and computes right
attach_killed() {
	local engine=$1 good=0 busy watcher
	for _ in $(seq $((rounds / 5))); do
		"$programs/busy" >"$work/busy.out" &
		busy=$!
		children+=("$busy")
		sleep 0.1
		"$linehome" cover --engine "$engine" --format summary -o "$work/report" -p "$busy" 2>/dev/null &
		watcher=$!
		sleep "0.$((RANDOM % 40 + 10))"
		kill -KILL "$watcher"
		wait "$watcher" 2>/dev/null
		kill -TERM "$busy"
		wait "$busy"
		[ $? = 7 ] && [ "$(cat "$work/busy.out")" = right ] && good=$((good + 1))
	done
	is $good $((rounds / 5)) "linehome, $engine, killed at any moment: programs end right"
}
attach_killed inside
attach_killed outside
# Those with a socket are the nodes of tests that run beside this one.
is "$(find /tmp /dev/shm -maxdepth 1 -user "$(id -un)" -newer "$work/kill.sh" -name 'linehome-??????' ! -exec test -e {}/node \; -print 2>/dev/null)" '' \
	'no temporary files are left'
finish
