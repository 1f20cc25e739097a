#!/bin/bash
# timeout: 30
# The manual names the statistics that are written: each field of the JSON is in linehome-run(1), and no other.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=${LINEHOME_BUILD:-build}/linehome
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

count=0 failed=0
report() {
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		failed=1
	fi
}
same() { # same TEXT: the two lists are the same
	diff -u "$work/written" "$work/manual" >"$work/diff"
	report $? "$1"
	sed 's/^/# /' "$work/diff"
}

# The names that stand as .It Cm or .Cm in the section, each a word of its own.
manual() {
	sed -n '/^\.Sh STATISTICS/,/^\.Sh ENVIRONMENT/p' "$1" | sed -n -E 's/^\.(It )?Cm //p' | tr -s ' ,;' '\n' | grep -v '^\.$' | sort -u
}

timeout 20 "$linehome" run --local 1G --stats "$work/stats" -- true
report $? 'a program is run with --stats'
python3 - "$work/stats" >"$work/written" <<'END'
import json, sys
def names(value):
    for name, inner in value.items():
        print(name)
        if isinstance(inner, dict):
            names(inner)
names(json.load(open(sys.argv[1])))
END
report $? 'what it writes is JSON'
sort -u -o "$work/written" "$work/written"
manual docs/man/linehome-run.1 >"$work/manual"
same 'the manual names every field, and no other'
sed 's/^\.It Cm reconnects/.It Cm reconnections/' docs/man/linehome-run.1 >"$work/bad.1"
manual "$work/bad.1" | cmp -s - "$work/written"
[ $? = 1 ]
report $? 'caught: a field under another name'

timeout 20 "$linehome" run --stats - -- true 2>"$work/stats"
report $? '--stats - goes to standard error'
python3 -m json.tool "$work/stats" >/dev/null
report $? 'and is JSON there'
timeout 20 "$linehome" run --stats "$work/none/stats" -- true 2>"$work/error"
[ $? = 125 ] && grep -q 'stats' "$work/error" && [ "$(wc -l <"$work/error")" = 1 ]
report $? 'a file that cannot be written is a failure'

echo "1..$count"
exit $failed
