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

# ---- linehome is killed while it attaches and watches: the program goes on and computes right
# Starts a program, in $busy, and goes on when all its threads are there; so its handler is there, too.
start_busy() {
	"$programs/busy" >"$work/busy.out" &
	busy=$!
	children+=("$busy")
	for _ in $(seq 1000); do
		[ "$(find "/proc/$busy/task" -mindepth 1 -maxdepth 1 | wc -l)" = 7 ] && return
		sleep 0.01
	done
}

# start_watching ENGINE [NAME=VALUE...]: in $watcher. Who reads what it says ends when all that works for it has.
start_watching() {
	local engine=$1
	shift
	rm -f "$work/report"
	exec 9> >(exec cat >"$work/err")
	reader=$!
	env "$@" "$linehome" cover --engine "$engine" --format summary -o "$work/report" -p "$busy" 2>&9 9>&- &
	watcher=$!
	exec 9>&-
	children+=("$watcher")
}

lives() { [ -e "/proc/$1/exe" ]; }

# The program, once linehome is dead: why it has ended wrong is said, and counted in $wrong.
judge() { # WHEN
	local status
	wait "$watcher" 2>/dev/null
	kill -TERM "$busy" 2>/dev/null
	wait "$busy" 2>/dev/null
	status=$?
	wait "$reader"
	if [ "$status" != 7 ] || [ "$(cat "$work/busy.out")" != right ]; then
		wrong=$((wrong + 1))
		note "killed $1: the program's status is $status, not 7, and it has said: $(head -c 200 "$work/busy.out")"
		note_file "$work/err"
	fi
}

attach_killed() { # ENGINE
	local wrong=0 at
	for _ in $(seq $((rounds / 2))); do
		start_busy
		start_watching "$1"
		at=0.$(printf %03d $((RANDOM % 150)))
		sleep "$at"
		kill -KILL "$watcher"
		judge "after $at s"
	done
	is $wrong 0 "linehome, $1, killed at any moment: programs end right"
}
attach_killed inside
attach_killed outside

# Of each step by which it, or its guard, stops and changes the program: linehome is killed just before it.
cat >"$work/step.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>
static pid_t shield;
static int steps;
static void step(void)
{
	const char *at = getenv("STEP"), *in = getenv("STEP_IN");
	char name[16] = "";

	prctl(PR_GET_NAME, name);
	if (!strcmp(name, "linehome-worker") && !shield)
		shield = getppid();
	if (!at || !in || strcmp(name, in) || ++steps != atoi(at))
		return;
	if (getenv("STEP_ENDS_IT"))
		raise(SIGKILL);
	kill(shield, SIGKILL);
	while (getppid() == shield)
		usleep(1000);
}
long ptrace(enum __ptrace_request request, ...)
{
	long (*real)(enum __ptrace_request, ...) = dlsym(RTLD_NEXT, "ptrace");
	va_list list;
	va_start(list, request);
	pid_t thread = va_arg(list, pid_t);
	void *address = va_arg(list, void *), *data = va_arg(list, void *);
	va_end(list);
	step();
	return real(request, thread, address, data);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at)
{
	ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
	step();
	return real(file, from, size, at);
}
C
"${CC:-cc}" -O1 -shared -fPIC -o "$work/step.so" "$work/step.c"

# The test's own test: without the second process programs die.
step_dies() {
	local wrong=0 step
	for step in 45 60 75; do
		start_busy
		start_watching inside LD_PRELOAD="$work/step.so" STEP=$step STEP_IN=linehome-worker STEP_ENDS_IT=1
		judge "with who works, at step $step" >"$work/judged"
	done
	[ $wrong -gt 0 ]
	ok $? 'a worker that is killed itself: such an end would be seen'
}

# A program that the outside engine has started is held by SIGSTOP for a moment: nobody else would end that.
# All stay in this test's process group: of one that becomes an orphan the kernel ends who is stopped, by SIGHUP.
start_killed() {
	local wrong=0 step program
	cp "$programs/busy" "$work/busy-$$"
	for step in 2 3 4 5 6; do
		LD_PRELOAD=$work/step.so STEP=$step STEP_IN=linehome STEP_ENDS_IT=1 "$linehome" cover \
			--engine outside --format summary -o "$work/report" "$work/busy-$$" >"$work/busy.out" 2>"$work/err" &
		watcher=$!
		children+=("$watcher")
		for _ in $(seq 100); do lives "$watcher" && sleep 0.02; done 2>/dev/null
		for _ in $(seq 200); do
			program=$(pgrep -x "busy-$$") &&
				[ "$(find "/proc/$program/task" -mindepth 1 -maxdepth 1 | wc -l)" = 7 ] && break
			sleep 0.02
		done 2>/dev/null
		kill -TERM "$program" 2>/dev/null
		wait "$watcher" 2>/dev/null
		for _ in $(seq 200); do lives "$program" && sleep 0.02; done
		[ "$(cat "$work/busy.out")" = right ] && continue
		wrong=$((wrong + 1))
		note "killed at step $step: process '$program' is $(cut -d ' ' -f 3 "/proc/${program:-none}/stat" 2>&1)"
		note_file "$work/err"
		kill -KILL "$program" 2>/dev/null
	done
	is $wrong 0 'linehome, outside, killed while it starts a program: that ends right'
}

# step_killed ENGINE PROCESS EACH MOST: steps 1, 1 + EACH ... that PROCESS makes, up to MOST.
step_killed() {
	local wrong=0 killed=0 step
	for step in $(seq 1 "$3" "$4"); do
		start_busy
		start_watching "$1" LD_PRELOAD="$work/step.so" STEP="$step" STEP_IN="$2"
		for _ in $(seq 20); do lives "$watcher" && sleep 0.05; done 2>/dev/null
		if lives "$watcher"; then
			kill -TERM "$watcher"
			judge "never: $2 has fewer steps than $step"
			break
		fi
		killed=$((killed + 1))
		judge "at step $step of $2"
	done
	[ $killed -gt 5 ]
	ok $? "linehome, $1, is killed at steps of $2 ($killed of them)"
	is $wrong 0 "linehome, $1, killed at steps of $2: programs end right"
}
if ldd "$linehome" | grep -q -e libasan -e libtsan -e libclang_rt; then
	skip 'linehome is killed at each step' 'sanitizers want to be loaded first'
else
	step_dies
	start_killed
	step_killed inside linehome-worker $((1 + 140 / rounds)) 300
	step_killed outside linehome-worker $((1 + 60 / rounds)) 300
	step_killed outside linehome-guard $((1 + 400 / rounds)) 400
fi

# Killed, it has ended in order all the same.
start_busy
start_watching auto
for _ in $(seq 100); do grep -q linehome "/proc/$busy/maps" && break; sleep 0.05; done
{ kill -KILL "$watcher"; wait "$watcher" "$reader"; } 2>/dev/null
[ -s "$work/report" ]
ok $? 'linehome is killed: what has run till then is reported'
is "$(cat "$work/err")" '' 'and it has nothing to say'
is "$(grep -c linehome "/proc/$busy/maps")" 0 'and nothing of it is left in the program'
kill -TERM "$busy"
wait "$busy"
is $? 7 'which ends right'

# Folders are those of nodes and guests, in tests that run beside this one.
is "$(find /tmp /dev/shm -maxdepth 1 -type f -user "$(id -un)" -newer "$work/kill.sh" -name 'linehome-??????')" '' \
	'no temporary files are left'
finish
