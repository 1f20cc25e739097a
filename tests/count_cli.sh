#!/bin/bash
# timeout: 120
# linehome count as a person meets it: programs give the same output and exit status counted and plain; threads,
# children, programs that are executed, and what is killed are counted; what cannot be is named; and what goes wrong is
# said in one line.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=$(realpath "${LINEHOME_BUILD:-build}/linehome")
build=$(realpath "${LINEHOME_BUILD:-build}")
[ -x "$build/tests/programs/counted" ] || build=$build/..
programs=$build/tests/programs

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

# Sums over modules, threads and processes are the total; nothing was lost. Then the expression, on the report r.
holds() { # holds EXPRESSION
	python3 - "$files/report.json" "$1" <<'END'
import json, os, sys
r = json.load(open(sys.argv[1]))
for kind in 'modules', 'threads', 'processes':
    for key, value in r['total'].items():
        assert value == sum(row[key] for row in r[kind]), (kind, key)
for key in 'uncorrected_blocks', 'lost_threads', 'lost_processes', 'lost_execs', 'lost_footprints':
    assert r[key] == 0, key
def named(kind, name):
    return [row for row in r[kind] if os.path.basename(row['name']) == name]
assert eval('(' + sys.argv[2] + ')'), sys.argv[2]
END
}

# counted EXPRESSION COMMAND...: the same on stdout, stderr and as exit status, and a report.
counted() {
	local expression=$1 plain status
	shift
	if ! command -v "$1" >/dev/null; then
		skip "$*" "not installed"
		return
	fi
	# One that a signal kills is told of by its shell, elsewhere.
	bash -c 'timeout 60 "$@" 2>&3; exit $?' - "$@" >"$files/plain.out" 3>"$files/plain.err" 2>/dev/null </dev/null
	plain=$?
	rm -f "$files/report.json"
	timeout 100 "$linehome" count --json "$files/report.json" -- "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	[ $status = $plain ] && cmp -s "$files/plain.out" "$files/out" && cmp -s "$files/plain.err" "$files/err"
	report $? "the same counted: $*"
	[ $status = $plain ] || echo "# status $status, plain $plain"
	diff "$files/plain.err" "$files/err" | sed 's/^/# /' | head -n 5
	holds "$expression" 2>"$files/why"
	report $? "and counted right: $*"
	sed 's/^/# /' "$files/why" | tail -n 1
}

# refused STATUS PATTERN ARG...: one line on stderr.
refused() {
	local wanted=$1 message=$2 status
	shift 2
	timeout 30 "$linehome" count "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	[ $status = "$wanted" ] && [ "$(wc -l <"$files/err")" = 1 ] && grep -q -- "^linehome count: .*$message" "$files/err"
	report $? "refused with $wanted: ${*:-nothing}"
	[ $status = "$wanted" ] || sed 's/^/# /' "$files/err"
}

# ---- programs

head -c 300000 "$linehome" >"$files/data"
counted 'r["total"]["loads"] > 1000' ls /usr/include
counted 'all(len(named("processes", name)) == 1 for name in ("ls", "sort", "wc"))' sh -c 'ls / | sort | wc -l; exit 3'
counted 'len(named("modules", "liblzma.so.5.4.1")) <= 1' xz -T2 -c "$files/data"
counted 'r["total"]["blocks"] > 1000' python3 -c 'import re; print(sum(i * i for i in range(9999)), re.findall("a+", "aab"))'

# ---- threads: each a row, with its name

counted 'all(len(named("threads", "worker-%d" % i)) == 1 for i in range(8))' "$programs/counted_tree" threads 8
# A round is a store: what tells two workers apart is a thousand of them, and a lock that one of them had to wait for. The
# first one binds symbols.
holds 'all(abs(sum(t["stores"] for t in named("threads", "worker-%d" % (i + 1))) -
	sum(t["stores"] for t in named("threads", "worker-%d" % i)) - 1000) < 200 for i in range(1, 7))' 2>"$files/why"
report $? 'a thread counts its own stores'
sed 's/^/# /' "$files/why" | tail -n 1

# ---- processes

counted 'len(r["processes"]) == 2 and sum(p["stores"] >= 5000 for p in r["processes"]) == 1 and
	min(p["stores"] for p in r["processes"]) < 5000' "$programs/counted_tree" fork
counted 'len(r["processes"]) == 2 and len(named("processes", "echo")) == 1' "$programs/counted_tree" exec /bin/echo
counted 'len(r["processes"]) == 2 and len(named("processes", "echo")) == 1 and not r["uncounted"]' \
	"$programs/counted_tree" spawn /bin/echo
counted 'named("modules", "counted_tree")[0]["stores"] > 7000' "$programs/counted_tree" kill
counted 'named("modules", "counted_tree")[0]["stores"] > 7000' "$programs/counted_tree" abort

if echo 'int main(void) { return 4; }' | "${CC:-cc}" -static -o "$files/static" -x c - 2>/dev/null; then
	counted '[u["name"] for u in r["uncounted"]] == [sys.argv[1].replace("report.json", "static")]' sh -c "$files/static; exit 5"
	refused 125 'statically linked' -- "$files/static"
else
	skip 'a static child' 'no static libc'
fi

# ---- an instruction that no processor has

printf 'int main(void) { __asm__ volatile("ud2"); return 0; }' | "${CC:-cc}" -o "$files/illegal" -x c -
counted 'r["exit_status"] == 132' "$files/illegal"

# ---- the table

"$linehome" count -o "$files/table" -- true
grep -q '^  loads  *[0-9,]*   0\.[0-9]* an instruction$' "$files/table" && grep -q ' libc.so.6$' "$files/table" &&
	! grep -q 'lines loaded' "$files/table"
report $? 'the table: totals, ratios, modules'
"$linehome" count --by thread -o "$files/table" -- true
grep -q ' true [0-9]*/[0-9]*$' "$files/table" && ! grep -q libc "$files/table"
report $? '--by thread has threads, with their ids, and nothing else'
"$linehome" count --footprint --by process -o "$files/table" -- true
grep -q '^  lines stored' "$files/table" && grep -q 'footprint of' "$files/table" && grep -q ' true [0-9]*, 1 thread$' "$files/table"
report $? '--footprint has lines too'
# The larger what is written, the larger the footprint: 8 MiB are 131,072 lines and 2,048 pages.
footprint() { "$linehome" count --footprint --json "$files/report.json" -- python3 -c "x = bytearray(b'a') * ($1 << 20)"; }
footprint 8 && cp "$files/report.json" "$files/less.json" && footprint 16 && python3 - "$files" <<'END'
import json, sys
a, b = (json.load(open(sys.argv[1] + name))["processes"][0]["footprint"] for name in ('/less.json', '/report.json'))
lines, pages = b["lines_stored"] - a["lines_stored"], b["pages_stored"] - a["pages_stored"]
assert abs(lines - 131072) < 2000 and abs(pages - 2048) < 100, (lines, pages)
END
report $? 'a footprint is as large as what was written'

# ---- Ctrl-C is the program's; the report comes

cat >"$files/interrupt" <<END
"$linehome" count -o "$files/table" -- sh -c 'trap "echo got it; exit 7" INT; kill -INT 0; sleep 5'
echo \$? >"$files/status"
END
timeout 20 setsid bash -c "trap : INT; . '$files/interrupt'" >"$files/out" 2>&1
[ "$(cat "$files/out")" = 'got it' ] && [ "$(cat "$files/status")" = 7 ] && grep -q instructions "$files/table"
report $? 'Ctrl-C: the program gets it, the report is written'

# ---- what goes wrong

refused 2 'no program'
refused 2 'did you mean' --liness -- true
refused 2 '' --by nobody -- true
refused 127 'not found' -- no-such-program
refused 126 'cannot be executed' -- /etc/passwd
refused 125 'cannot be written' -o /no/such/folder/file -- true
printf '\177ELF\1\1\1%060d' 0 >"$files/narrow"
chmod +x "$files/narrow"
refused 125 'not a program for x86-64' -- "$files/narrow"
echo hello >"$files/text"
chmod +x "$files/text"
timeout 20 "$linehome" count -- "$files/text" >"$files/out" 2>&1
report $((127 - $?)) 'what is neither a program nor a script a shell tries to execute'
(
	ulimit -v 4000000
	"$linehome" count -o "$files/table" -- true
) >"$files/out" 2>&1
grep -q 'address space' "$files/out"
report $? 'a limit to the address space is told of'

echo "1..$count"
exit $failed
