#!/bin/bash
# timeout: 200
# Which lines of source ran: those of gcov, line for line, in programs that are not optimised; and those of the
# line table, as readelf shows it, in programs that are. The same for a record that is made of the instructions
# of which valgrind says that they ran, and for one of a run under watch.
# shellcheck source=tests/lib/cover.sh
. "$(dirname "$0")/lib/cover.sh"

same() { # same TEXT: the files wanted and got have lines, and the same ones
	[ -s "$work/wanted" ] && diff "$work/wanted" "$work/got" >"$work/diff"
	report $? "$1"
	sed 's/^/# /' "$work/diff" | head -n 20
}
differ() { # differ TEXT: they have not
	! diff "$work/wanted" "$work/got" >/dev/null
	report $? "caught: $1"
}
finish() {
	echo "1..$count"
	exit "$failed"
}
command -v valgrind gcov >/dev/null || { echo '1..0 # SKIP there is no valgrind or gcov'; exit 0; }

# record PROGRAM: runs it under valgrind; $work/ran and the record $work/record.
record() {
	valgrind --tool=callgrind --dump-instr=yes --callgrind-out-file="$work/callgrind" "$1" >/dev/null 2>"$work/errors" ||
		sed 's/^/# /' "$work/errors"
	cover ran "$work/callgrind" "$1" >"$work/ran"
	"$tools/record_blocks" "$work/record" <"$work/ran" 2>/dev/null
}

# watched PROGRAM: runs it under watch.
watched() {
	"$tools/record_run" "$work/record" block inside "$1" >"$work/output" 2>&1 || sed 's/^/# /' "$work/output"
}

# Lines of nothing but `case 1:` have no instruction, so only gcov knows them.
gcov_lines() { # gcov_lines NAME
	(cd "$work" && gcc -O0 --coverage -o counted "$1.c" && ./counted >/dev/null && gcov --json-format "counted-$1.gcda" >/dev/null)
	cover labels "$work/$1.c" >"$work/labels"
	cover gcov "$work/counted-$1.gcov.json.gz" | awk -v file="$work/labels" '
		BEGIN { while ((getline number < file) > 0) label[number] = 1 }
		!($1 in label)' >"$work/wanted"
}

for name in cover_flow cover_calls cover_jumps; do
	cp "tests/programs/$name.c" "$work/"
	gcov_lines "$name"
	for options in '-gdwarf-4' '-gdwarf-5 -fstack-protector-all -fcf-protection' '-gdwarf-5 -no-pie -ffunction-sections -Wl,--gc-sections'; do
		# shellcheck disable=SC2086
		gcc -O0 $options -o "$work/plain" "$work/$name.c"
		record "$work/plain"
		"$tools/record_report" "$work/record" lcov >"$work/lcov"
		cover lcov "$work/lcov" "$name.c" >"$work/got"
		same "$name, -O0 $options: the lines are gcov's"
	done
	watched "$work/plain"
	"$tools/record_report" "$work/record" lcov >"$work/lcov"
	cover lcov "$work/lcov" "$name.c" >"$work/got"
	same "$name, -O0, watched: the lines are gcov's"
	report "$([ "$(wc -l <"$work/labels")" = "$([ $name = cover_flow ] && echo 4 || echo 0)" ]; echo $?)" \
		"$name: of gcov's, only those with nothing but a label of a switch are left out"
done

# The comparison sees what it is for: a line too few, and one that did not run.
sed 1d "$work/lcov" | grep -v '^DA:5[0-9],' >"$work/worse"
cover lcov "$work/worse" cover_jumps.c >"$work/got"
differ 'lines that are not there'
sed '0,/^\(DA:.*\),1/s//\1,0/' "$work/lcov" >"$work/worse"
cover lcov "$work/worse" cover_jumps.c >"$work/got"
differ 'a line that ran and is said not to have'
head -n 60 "$work/ran" | "$tools/record_blocks" "$work/record" 2>/dev/null
"$tools/record_report" "$work/record" lcov >"$work/lcov"
cover lcov "$work/lcov" cover_jumps.c >"$work/got"
differ 'a record that lacks blocks'

for name in cover_flow cover_calls cover_jumps; do
	for options in '-O2' '-O3 -gdwarf-4 -flto' '-Os -ffunction-sections -Wl,--gc-sections'; do
		# shellcheck disable=SC2086
		gcc -g $options -o "$work/plain" "$work/$name.c"
		record "$work/plain"
		cover table "$work/plain" "$work/ran" >"$work/wanted"
		"$tools/record_report" "$work/record" lcov >"$work/lcov"
		cover lcovall "$work/lcov" >"$work/got"
		same "$name, $options: the lines are the line table's, for the instructions that ran"
	done
	watched "$work/plain"
	"$tools/record_report" "$work/record" lcov >"$work/lcov"
	cover lcovall "$work/lcov" >"$work/got"
	same "$name, optimised, watched: the same lines"
done
sed '0,/^\(DA:.*\),1/s//\1,0/' "$work/lcov" >"$work/worse"
cover lcovall "$work/worse" >"$work/got"
differ 'a line that ran and is said not to have, at -O2'

# By lines of code more lines of source are said to have run, and none is missed.
"$tools/record_blocks" "$work/record" --line <"$work/ran" 2>/dev/null
"$tools/record_report" "$work/record" lcov >"$work/lcov"
cover lcovall "$work/lcov" >"$work/got"
report "$([ -z "$(comm -23 <(grep ' 1$' "$work/wanted" | sort) <(sort "$work/got"))" ]; echo $?)" \
	'by line of code, no line of source is missed'
! cmp -s "$work/wanted" "$work/got"
report $? 'and some are too many'
finish
