#!/bin/bash
# timeout: 120
# The formats of reports: what the programs that read them say, and that all formats tell the same.
# shellcheck source=tests/lib/cover.sh
. "$(dirname "$0")/lib/cover.sh"

write() { "$tools/record_report" "$work/record" "$@"; }
cd "$work" || exit 1

# A program with names that formats have trouble with: commas, quotes, several functions of one name, a file in
# a folder with a blank, and one whose name is no UTF-8.
mkdir 'a folder'
odd=$'a folder/\xff<&".cc'
cat >"$odd" <<'END'
namespace name { int twice(int a) { return a + 1; } }
namespace { int again(int a)
{
	return a * 2;
}
int again(double a)
{
	return (int)a;
}
}
template <class T, class U> struct Pair {
	T t; U u;
	int sum();
};
template <class T, class U> int Pair<T, U>::sum()
{
	return (int)(t + u);
}
int outside(int a);
int outside(int a)
{
	Pair<int, char> one = { a, 1 };
	Pair<long, double> two = { 2, 3 };
	if (a > 10)
		return two.sum() + again(1.5);
	return one.sum() + again(a) + name::twice(a);
}
END
cat >main.cc <<'END'
#include <stdio.h>
int outside(int a);
int never_called(int a);
int never_called(int a)
{
	return a;
}
int main(int argc, char **)
{
	printf("%d\n", outside(argc));
	return 0;
}
END
g++ -O0 -g -o 'the program' "$odd" main.cc
ln -s 'the program' program
valgrind --tool=callgrind --dump-instr=yes --callgrind-out-file=callgrind ./program >/dev/null 2>&1
cover ran callgrind "$work/the program" | sed "s|^.*/the program|$work/program|" >ran
[ -s ran ]
report $? 'valgrind says what ran'
"$tools/record_blocks" record ./program x 'y "z"' <ran 2>/dev/null

# ---- summary
write summary >summary
grep -q 'never_called' summary && grep -q '  Pair<long int, double>::sum$' summary
report $? 'the summary names the functions that never ran'
for width in 60 80 132; do
	write summary width=$width >narrow
	write summary width=$width unicode >fine
	[ "$(awk 'length > most { most = length } END { print most + 0 }' narrow)" -le $width ] &&
		python3 -c 'import sys; sys.exit(max(len(line.rstrip("\n")) for line in open(sys.argv[1])) > int(sys.argv[2]))' fine $width
	report $? "no line is wider than $width columns"
done
write summary colour | grep -q $'\033' && ! grep -q $'\033' summary
report $? 'colours are there if they are asked for'
! LC_ALL=C grep -q -P '[^\x0a\x20-\x7e]' summary
report $? 'and nothing but ASCII without UTF-8'
grep -v -F '100.0 %' summary | grep -q -E '^  lines +[0-9]'
report $? 'what is not all is not 100 %'
write summary filter='!*' >empty && ! grep -q lines empty
report $? 'with a filter that leaves nothing there is a summary'

# ---- lcov
write lcov >lcov.info
if command -v lcov genhtml >/dev/null; then
	lcov --summary lcov.info >said 2>&1 && ! grep -q -i -E 'warn|error' said
	report $? 'lcov --summary reads it without a warning'
	# genhtml wants sources, so not the one with the odd name.
	write lcov filter=main.cc >plain.info
	genhtml -o html plain.info >said 2>&1 && ! grep -q -i -E 'warn|error' said && [ -e html/index.html ]
	report $? 'genhtml too'
	lcov -a lcov.info -a lcov.info -o sum.info >said 2>&1 && ! grep -q -i -E 'warn|error' said
	report $? 'and lcov adds it'
else
	skip 'lcov reads it' 'there is no lcov'
fi
grep -q '^FN:[0-9]*,Pair<int; char>::sum$' lcov.info && grep -q '^FNDA:0,Pair<long int; double>::sum' lcov.info
report $? 'commas in names are semicolons'
[ "$(grep -c -E '^FN:[0-9]+,\(anonymous namespace\)::again(:6)?$' lcov.info)" = 2 ]
report $? 'two functions of one name have different names'
python3 - lcov.info <<'END'
import sys, re
found = {}
for line in open(sys.argv[1], errors="replace"):
    key, _, value = line.strip().partition(":")
    found.setdefault(key, []).append(value)
    if line.strip() == "end_of_record":
        names = [v.split(",")[1] for v in found["FN"]] if "FN" in found else []
        assert len(set(names)) == len(names), names
        runs = dict(reversed(v.split(",")) for v in found.get("FNDA", []))
        assert set(runs) == set(names), (runs, names)
        lines = [tuple(map(int, v.split(","))) for v in found["DA"]]
        assert lines == sorted(set(lines)) and len({n for n, _ in lines}) == len(lines)
        assert [len(lines)] == [int(v) for v in found["LF"]]
        assert [sum(h for _, h in lines)] == [int(v) for v in found["LH"]]
        assert [len(names)] == [int(v) for v in found["FNF"]]
        assert [sum(int(v) for v in runs.values())] == [int(v) for v in found["FNH"]]
        found = {}
assert not found
END
report $? 'each record counts what it lists'

# ---- cobertura
write cobertura >cobertura.xml
cover cobertura cobertura.xml >said 2>&1
report $? "cobertura: what coverage-04.dtd says: $(head -n 1 said)"
if command -v xmllint >/dev/null; then
	xmllint --nonet --noout cobertura.xml >said 2>&1
	report $? 'xmllint reads it'
fi
sed 's/ complexity="0"//' cobertura.xml >worse.xml
! cover cobertura worse.xml >said 2>&1
report $? 'caught: an attribute too few'
sed 's/hits="1"/hits="0"/' cobertura.xml >worse.xml
! cover cobertura worse.xml >said 2>&1
report $? 'caught: sums that are wrong'
sed 's/<packages>/<classes>/; s/<.packages>/<\/classes>/' cobertura.xml >worse.xml
! cover cobertura worse.xml >said 2>&1
report $? 'caught: an element in the wrong place'

# ---- drcov: every block lies in code that ran, and main is among them
main=$(nm program | awk '$3 == "main" { print $1 }')
for options in '' drcov2; do
	# shellcheck disable=SC2086
	write drcov $options >log.drcov
	cover drcov log.drcov >blocks 2>said
	report $? "drcov $options: its grammar"
	grep -q "^$work/program 0x$(printf %x $((16#$main))) " blocks
	report $? 'main begins where the symbol table says'
	python3 - blocks ran <<'END'
import sys
covered = set()
for line in open(sys.argv[1]):
    _, start, size = line.rsplit(" ", 2)
    covered.update(range(int(start, 16), int(start, 16) + int(size)))
ran = {int(line.rsplit(" ", 1)[1], 16) for line in open(sys.argv[2])}
# Instructions in no function that .eh_frame knows are not watched.
missed = {a for a in ran if a not in covered}
assert len(missed) < 60, len(missed)
starts = {int(line.split(" ")[-2], 16) for line in open(sys.argv[1])}
assert starts <= ran, sorted(map(hex, starts - ran))
END
	report $? 'blocks begin where instructions ran'
	head -c -3 log.drcov >worse.drcov
	! cover drcov worse.drcov >said 2>&1
	report $? 'caught: a table that ends early'
	sed 's/, count [0-9]*/, count 9/' log.drcov >worse.drcov
	! cover drcov worse.drcov >said 2>&1
	report $? 'caught: a module too few'
done

# ---- JSON: the same as the others
write json >all.json
python3 - all.json lcov.info cobertura.xml <<'END'
import json, re, sys
import xml.etree.ElementTree
report = json.load(open(sys.argv[1]))
assert report["format"] == "linehome coverage" and report["version"] == 1
assert report["command"] == ["./program", "x", 'y "z"'], report["command"]
lines = sum(len(f["hit"]) + len(f["missed"]) for f in report["files"])
hit = sum(len(f["hit"]) for f in report["files"])
assert report["totals"]["lines"] == {"all": lines, "hit": hit}, report["totals"]
assert any("\ufffd" in f["path"] for f in report["files"])
text = open(sys.argv[2], errors="replace").read()
assert lines == len(re.findall(r"^DA:", text, re.M)) and hit == len(re.findall(r"^DA:\d+,1$", text, re.M))
assert report["totals"]["functions"]["all"] == len(re.findall(r"^FN:", text, re.M))
assert report["totals"]["functions"]["hit"] == len(re.findall(r"^FNDA:1,", text, re.M))
root = xml.etree.ElementTree.parse(sys.argv[3]).getroot()
assert (int(root.get("lines-valid")), int(root.get("lines-covered"))) == (lines, hit)
names = {f["name"]: f for f in report["functions"]}
assert names["never_called"]["hit"] is False and names["name::twice"]["hit"] is True
assert names["main"]["line"] == 8 and names["main"]["last"] in (11, 12), names["main"]
END
report $? 'JSON, lcov and cobertura say the same'

# ---- filters, and sources that are elsewhere
functions() { write json "$@" | python3 -c 'import json, sys; print(*sorted({f["name"] for f in json.load(sys.stdin)["functions"]}))'; }
[ "$(functions filter=main.cc)" = 'main never_called' ]
report $? 'a filter that names a file'
[ "$(functions filter='never_*')" = 'never_called' ]
report $? 'a function'
[ "$(functions filter='main.cc' filter='!main')" = 'never_called' ]
report $? 'one that leaves out a function'
[ "$(write lcov filter=main | grep -c '^DA:')" = 3 ]
report $? 'lines of a function alone'
mv main.cc moved.cc
mkdir elsewhere
cp moved.cc elsewhere/main.cc
write json filter=main.cc | grep -q '"found": null'
report $? 'a source that is not there'
write lcov filter=main.cc source="$work=$work/elsewhere" | grep -q "^SF:$work/elsewhere/main.cc$"
report $? 'is found where an option says'
write json filter=main.cc source="$work=$work/elsewhere" | grep -q '"stale": true'
report $? 'and is newer than the program'

# ---- what cannot be written
for format in summary lcov cobertura drcov json; do
	! write $format >/dev/full 2>&1
	report $? "$format: a full disk is an error"
done
echo "1..$count"
exit $failed
