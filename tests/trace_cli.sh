#!/bin/bash
# timeout: 120
# linehome trace as a person meets it: calls of a program that is started and of one that runs, what ends it, what it
# says, exit statuses; windows.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
linehome=$build/linehome
programs=$build/tests/programs
[ -d "$programs" ] || programs=$build/../tests/programs

count=0 failed=0
report() { # report PASSED TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		failed=1
		echo "not ok $count - $2"
		head -c 2000 "$files/out" "$files/err" "$files/report" 2>/dev/null | sed 's/^/# /'
	fi
}
files=$(mktemp -d)
child=
trap '[ -z "$child" ] || kill -KILL $child 2>/dev/null; rm -rf "$files"' EXIT

run() {
	timeout 30 "$linehome" trace "$@" >"$files/out" 2>"$files/err"
	status=$?
}
refused() { # refused STATUS PATTERN ARG...: the status, and one line on stderr that matches
	local wanted=$1 pattern=$2
	shift 2
	run "$@" </dev/null
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = "$wanted" ] && [[ $(cat "$files/err") == $pattern ]] && [ "$(wc -l <"$files/err")" = 1 ]
	report $? "trace $* -> $pattern"
}
own() { sed -n -E "s/.*\<$1=([0-9]+) .*/\1/p" "$files/out"; } # what the program counted itself
json() { # json FUNCTION KEY: of the report
	python3 -c 'import json, sys
for f in json.load(open(sys.argv[1]))["functions"]:
    if f["name"] == sys.argv[2]: print(f.get(sys.argv[3], ""))' "$files/report" "$1" "$2"
}

# ---- what is wrong in the command line, or with the process

refused 2 'linehome trace: no program; *'
refused 2 'linehome trace: --pid 1 and a program, true; write one of them' -p 1 true
refused 2 'linehome trace: --pid x: not the number of a process*' -p x
refused 2 'linehome trace: --calls has no windows; *' --calls f --interval 1 true
refused 2 'linehome trace: --format html: is for windows; *' --calls f --format html true
refused 2 'linehome trace: --windows 0: not a number*' --windows 0 true
refused 2 'linehome trace: --calls ,: names no function' --calls , true
refused 2 'linehome trace: --output: needs an argument; write --output FILE' -o
refused 127 'linehome trace: /nowhere/x: there is no such program' --calls main /nowhere/x
refused 126 'linehome trace: /etc: may not be executed' --calls main /etc
refused 125 'linehome trace: process 4194303: there is none' -p 4194303 --calls main
refused 125 'linehome trace: leef: no such function; did you mean leaf?' --calls leef "$programs/probe_target"
refused 125 'linehome trace: too_short: cannot be probed: it is too short for a jump' --calls leaf,too_short \
	"$programs/probe_target"
refused 125 'linehome trace: entered_inside: cannot be probed: a jump leads into its first bytes' \
	--calls entered_inside "$programs/probe_target"
refused 125 'linehome trace: --output /nowhere/x: cannot be written*' --calls exit -o /nowhere/x true

# ---- a program that is started

run --calls leaf,recurse,exit_is_tight,write --format json -o "$files/report" -- "$programs/probe_target" <<<'work 300 2'
[ $status = 0 ] && [ "$(json leaf calls)" = "$(own leaf)" ] && [ "$(json recurse calls)" = "$(own recurse)" ] &&
	[ "$(json leaf returns)" = "$(own leaf)" ] && [ ! -s "$files/err" ]
report $? 'JSON: calls as the program counts them itself'
[ "$(json exit_is_tight timed)" = False ] && [[ $(json exit_is_tight why_not) == *'no room for a jump' ]] &&
	[ "$(json exit_is_tight calls)" = 600 ]
report $? 'JSON: a function that is not timed says why'
[ "$(json write module)" = libc.so.6 ] && [ "$(json write calls)" -ge 2 ]
report $? 'a function of a library, from the first call on'

run --calls leaf,exit_is_tight -- "$programs/probe_target" <<<'work 300 2'
grep -q "^leaf  *$(own leaf)  *[0-9.]* [mun]*s " "$files/err" && grep -q ' |@@@@' "$files/err" &&
	grep -q '^exit_is_tight  *600  not timed: its exit' "$files/err"
report $? 'the table, on standard error'
run --calls main -- bash -c 'exit 7' </dev/null
[ $status = 7 ]
report $? "the program's exit status"
run --calls main -- bash -c 'kill -9 $$' </dev/null
[ $status = 137 ]
report $? 'the status of a program that a signal has ended'
run --calls main --format json -o "$files/report" -- bash -c 'exec true' </dev/null
[ $status = 0 ] && [ "$(json main calls)" = 1 ] && [ ! -s "$files/err" ]
report $? 'a program that executes another'
run --calls leaf --duration 0.2 -o "$files/report" -- "$programs/probe_target" < <(
	echo 'spin 2'
	sleep 0.6
	echo stop
)
[ $status = 0 ] && [ "$(own leaf)" -gt 1000 ] && grep -q '^leaf ' "$files/report"
report $? '--duration: the report comes, and the program goes on to its end'

# ---- one that runs already

start() { # start COMMAND: a program that runs in threads; its input is descriptor 5
	mkfifo "$files/in" 2>/dev/null
	"$programs/probe_target" <"$files/in" >"$files/program" &
	child=$!
	exec 5>"$files/in"
	echo "$1" >&5
	until grep -q ready "$files/program"; do sleep 0.05; done
}
finish() { # the program found nothing wrong
	exec 5>&-
	wait "$child"
	report $? "$1"
	child=
}

start 'spin 2'
run -p "$child" --calls leaf,tail --duration 0.3 </dev/null
[ $status = 0 ] && [ ! -s "$files/err" ] && grep -q '^leaf  *[0-9]' "$files/out" && grep -q '^tail in probe_target' "$files/out"
report $? 'a process that runs'
# Ctrl-C ends the trace, not the process. bash has background commands ignore SIGINT; python does not.
python3 - "$linehome" "$child" >"$files/out" 2>"$files/err" <<'PYTHON'
import os, signal, subprocess, sys, time
trace = subprocess.Popen([sys.argv[1], "trace", "-p", sys.argv[2], "--calls", "leaf"], stdout=subprocess.PIPE)
while "linehome-probe" not in open("/proc/%s/maps" % sys.argv[2]).read():
    time.sleep(0.01)
time.sleep(0.1)
trace.send_signal(signal.SIGINT)
out = trace.communicate()[0].decode()
sys.exit(0 if trace.returncode == 0 and "leaf" in out else 1)
PYTHON
report $? 'Ctrl-C ends it with a report'
! grep -q linehome-probe "/proc/$child/maps"
report $? 'and nothing is left in the process'
echo stop >&5
finish 'the process found nothing wrong'

start 'spin 2'
{ sleep 0.5; echo exit >&5; } &
run -p "$child" --calls leaf </dev/null
[ $status = 0 ] && grep -q '^leaf  *[0-9]' "$files/out"
report $? 'a process that ends meanwhile: its counts are told'
finish 'and it had found nothing wrong'

# ---- windows

run --interval 0.1 --format json -o "$files/report" -- "$programs/probe_target" <<<'work 20000 2'
[ $status = 0 ] && [ ! -s "$files/err" ] && python3 -c 'import json, sys
t = json.load(open(sys.argv[1]))
names = {f["name"] for f in t["functions"]}
sys.exit(0 if t["windows"] and {"leaf", "recurse", "switches", "main"} <= names and "cannot" not in names else 1)
' "$files/report"
report $? 'windows: functions that were live, and none that were not'
run --interval 0.05 --windows 3 -o "$files/report" -- sleep 0.5 </dev/null
[ $status = 0 ] && [ "$(grep -c -E '^ +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+$' "$files/report")" = 3 ]
report $? '--windows 3'
run --interval 0.1 --format html -o "$files/report" -- "$programs/probe_target" <<<'work 2000 2'
[ $status = 0 ] && grep -q '<html' "$files/report" && grep -q '"name":"leaf"' "$files/report"
report $? 'windows as a page of HTML'
start 'spin 2'
run -p "$child" --interval 0.1 --windows 4 </dev/null
[ $status = 0 ] && grep -q '^leaf ' "$files/out"
report $? 'windows of a process that runs'
echo stop >&5
finish 'the process found nothing wrong'

echo "1..$count"
exit $failed
