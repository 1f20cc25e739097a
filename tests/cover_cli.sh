#!/bin/bash
# timeout: 120
# linehome cover as a person meets it: real programs give the same output and exit status covered and plain; reports,
# signals, markers, what is excluded, merging; and what goes wrong is said in one line.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=$(realpath "${LINEHOME_BUILD:-build}/linehome")
build=$(realpath "${LINEHOME_BUILD:-build}")
[ -x "$build/tests/programs/marked" ] || build=$build/..

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
skip() { # skip TEXT WHY
	count=$((count + 1))
	echo "ok $count - $1 # SKIP $2"
}

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT

# covered COMMAND...: the same on stdout, stderr and as exit status, and a report.
covered() {
	local plain status
	if ! command -v "$1" >/dev/null; then
		skip "$*" "not installed"
		return
	fi
	timeout 60 "$@" >"$files/plain.out" 2>"$files/plain.err" </dev/null
	plain=$?
	rm -f "$files/report.txt"
	timeout 100 "$linehome" cover -o "$files/report.txt" "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	[ $status = $plain ] && cmp -s "$files/plain.out" "$files/out" && cmp -s "$files/plain.err" "$files/err" &&
		[ -s "$files/report.txt" ]
	report $? "the same covered: $*"
	[ $status = $plain ] || echo "# status $status, plain $plain"
	diff "$files/plain.err" "$files/err" | sed 's/^/# /' | head -n 5
}

# refused STATUS PATTERN ARG...: one line on stderr.
refused() {
	local wanted=$1 message=$2 status
	shift 2
	timeout 20 "$linehome" cover "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = "$wanted" ] && [[ $(cat "$files/err") == $message ]] && [ "$(wc -l <"$files/err")" = 1 ]
	report $? "cover $* -> $message"
	[ $status = "$wanted" ] || echo "# status $status: $(cat "$files/err")"
}

# ---- programs

covered sqlite3 :memory: 'create table t(a); insert into t values(1),(2); select sum(a) from t; select nothing;'
covered /usr/bin/python3 -c 'import os; print(sum(range(100))); os._exit(3)'
# shellcheck disable=SC2016 # the inner shell's
covered bash -c 'for i in 1 2 3; do /bin/echo $i | cat; done; (exit 4) || exit 5'
printf '#!/bin/sh\nexec /bin/echo "$0 $1"\n' >"$files/script"
chmod +x "$files/script"
covered "$files/script" 'an argument'
printf 'int main(void) { return 6; }\n' >"$files/six.c"
covered gcc -O1 -c -o "$files/six.o" "$files/six.c"
gcc -static -o "$files/six" "$files/six.c" 2>/dev/null && covered "$files/six"
head -c 200000 /dev/urandom >"$files/random"
covered xz -T2 -c "$files/random"
# shellcheck disable=SC2016
covered sh -c 'kill -TERM $$'
covered env -i A=b env

# ---- reports

marked=$build/tests/programs/marked
for name in r.info r.xml r.drcov r.json r.txt; do
	"$linehome" cover -o "$files/$name" "$marked" >/dev/null && [ -s "$files/$name" ]
	report $? "a report's format by its name: $name"
done
"$linehome" cover "$marked" | grep -q 'lines'
report $? 'a summary on standard output'
line() { grep -n "/\\* $1 \\*/" tests/programs/marked.c | cut -d : -f 1; }
# ran INFO WORD: whether the line with that comment ran: 1, 0
ran() { sed -n "/SF:.*marked.c/,/end_of_record/ s/^DA:$(line "$2"),//p" "$1"; }
ran_all() { echo "$(ran "$1" early)$(ran "$1" both)$(ran "$1" late)"; }
"$linehome" cover -o "$files/all.info" "$marked" >/dev/null
[ "$(ran_all "$files/all.info")" = 111 ]
report $? 'which lines ran'
"$linehome" cover -o "$files/between.info" --from begin_it --until end_it "$marked" >/dev/null
[ "$(ran_all "$files/between.info")" = 010 ]
report $? "with --from and --until only what ran between them ($(ran_all "$files/between.info"))"
"$linehome" cover -o "$files/from.info" --from begin_it "$marked" >/dev/null
[ "$(ran_all "$files/from.info")" = 011 ]
report $? "with --from what ran behind it ($(ran_all "$files/from.info"))"
"$linehome" cover -o "$files/until.info" --until begin_it "$marked" >/dev/null
[ "$(ran_all "$files/until.info")" = 110 ]
report $? "with --until what ran before ($(ran_all "$files/until.info"))"
"$linehome" cover -o "$files/line.info" --granularity line --from begin_it --until end_it "$marked" a >/dev/null
[ "$(ran "$files/line.info" late)" = 1 ]
report $? 'the same by lines of code'
[ "$("$linehome" cover -o "$files/x.txt" "$marked")" = '1 changed' ]
report $? 'a program that reads its code sees the breakpoint'
[ "$("$linehome" cover -o "$files/x.txt" --exclude summed "$marked")" = '1 whole' ]
report $? 'not where it is excluded'
"$linehome" cover -o "$files/x.txt" --exclude nothing_like_it "$marked" 2>&1 >/dev/null | grep -q 'nothing_like_it: no such function'
report $? 'what is excluded and not there is named'

# ---- exit status, merging

"$linehome" cover -o "$files/x.txt" --fail-under 100 "$marked" >/dev/null 2>"$files/err"
[ $? = 1 ] && grep -q 'less than --fail-under 100.0' "$files/err"
report $? '--fail-under: 1'
"$linehome" cover --collect-only --record "$files/only.cover" "$marked" >/dev/null 2>"$files/err" &&
	[ ! -s "$files/err" ] && [ -s "$files/only.cover" ]
report $? '--collect-only: a record, and no report'
"$linehome" cover --collect-only "$marked" >/dev/null 2>"$files/err"
[ $? = 2 ] && grep -q 'say where to keep' "$files/err"
report $? '--collect-only without --record: one line says what is missing'
"$linehome" cover -o "$files/x.txt" --fail-under 1.5 "$marked" >/dev/null
report $? '--fail-under that is reached: 0'
"$linehome" cover -o "$files/x.txt" --fail-under 100 "$marked" a b >/dev/null 2>&1
[ $? = 3 ]
report $? "--fail-under: the program's own failure comes first"
"$linehome" cover -o "$files/x.txt" --record "$files/1.cover" --from begin_it --until end_it "$marked" >/dev/null
"$linehome" cover -o "$files/x.txt" --record "$files/2.cover" --until begin_it "$marked" >/dev/null
"$linehome" cover merge -o "$files/merged.info" --record "$files/3.cover" "$files/1.cover" "$files/2.cover"
[ "$(ran_all "$files/merged.info")" = 110 ] && [ -s "$files/3.cover" ]
report $? 'records are merged'
"$linehome" cover merge "$files/3.cover" | grep -q marked
report $? 'what was merged is a record'
echo precious >"$files/text"
refused 125 '*text: is there and is no record*' --record "$files/text" "$marked"
refused 125 '*text: not a record*' merge "$files/text"

# ---- signals

busy=$build/tests/programs/busy
# Waits until a file is there and is not empty.
await() {
	for _ in $(seq 200); do
		[ -s "$1" ] && return 0
		sleep 0.05
	done
	return 1
}
"$busy" >"$files/busy.out" &
program=$!
"$linehome" cover -p $program -o "$files/live.txt" 2>"$files/err" &
watcher=$!
sleep 0.5
kill -USR1 $watcher
await "$files/live.txt"
report $? 'SIGUSR1 writes the report'
rm -f "$files/live.txt"
kill -INT $watcher
# A background job of a shell without job control ignores SIGINT.
kill -TERM $watcher
wait $watcher && [ -s "$files/live.txt" ]
report $? 'SIGTERM ends the watch of a process and writes the report'
kill -TERM $program
wait $program
[ $? = 7 ] && [ "$(cat "$files/busy.out")" = right ]
report $? 'which goes on'
"$linehome" cover -o "$files/live2.txt" "$busy" >"$files/busy.out" 2>"$files/err" &
watcher=$!
sleep 0.7
kill -TERM $watcher
wait $watcher
[ $? = 7 ] && [ "$(cat "$files/busy.out")" = right ] && [ -s "$files/live2.txt" ]
report $? 'SIGTERM is passed on to a program that was started'
"$linehome" cover -o "$files/x.txt" --record "$files/kept.cover" "$busy" >"$files/busy.out" 2>"$files/err" &
watcher=$!
await "$files/kept.cover"
sleep 0.5
program=$(pgrep -P $watcher)
kill -KILL $watcher
wait $watcher 2>/dev/null
kill -TERM "$program"
await "$files/busy.out"
[ "$(cat "$files/busy.out")" = right ]
report $? 'linehome is killed: the program goes on'
"$linehome" cover merge "$files/kept.cover" | grep -q busy
report $? 'and what it ran is there'

# ---- what goes wrong

refused 127 '*not found' "$files/nothing"
refused 126 '*cannot be executed' "$files/random"
refused 2 '*no program*' -o "$files/x.txt"
refused 2 '*--pid watches a process*' -p $$ ls
refused 2 '*--pid abc: not the number of a process*' -p abc
refused 2 '*its name does not tell the format*' -o "$files/x.unknown" "$marked"
refused 2 '*--source x: not two folders*' --source x "$marked"
refused 2 '*--fail-under 101: not a percentage*' --fail-under 101 "$marked"
refused 2 '*--pid: needs an argument*' -p
refused 125 '*there is none*' -p 2000000000
refused 125 '*need the inside engine*' --engine outside --from begin_it "$marked"
refused 125 '*--output *nowhere/x.txt: cannot be written*' -o "$files/nowhere/x.txt" "$marked"
refused 125 '*--output *cannot be written: Is a directory*' -o "$files" --format lcov "$marked"
refused 125 '*--output /dev/full: cannot be written*' -o /dev/full --format lcov "$marked"

echo "1..$count"
exit $failed
