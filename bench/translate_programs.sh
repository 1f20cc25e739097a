#!/usr/bin/env bash
# Whole programs natively, under the translator, and under what else translates: processor time, user and
# system together, medians of runs that take turns. ROUNDS says how many; WAYS and PROGRAMS which.
set -u

build=${LINEHOME_BUILD:-$(dirname "$0")/../build}
agent=$build/tests/agents/translate.so
rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -e "$agent" ] || { echo "no $agent: make bench builds it" >&2; exit 1; }

# What there is to run: one that is not installed is left out.
declare -A command
cc1=$(gcc -print-prog-name=cc1 2>/dev/null)
python=/usr/bin/python3
head -c 6000000 "$build/liblinehome.a" >"$work/in" # code and its symbols
for i in $(seq 8); do
	cat <<-END
	struct node$i { struct node$i *next; int key; char text[20]; };
	static int compare$i(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
	int count$i(struct node$i *n, int k)
	{
		int c = 0;
		for (; n; n = n->next)
			if (n->key % k == 0)
				c += __builtin_strlen(n->text);
		return c;
	}
	void qsort(void *, unsigned long, unsigned long, int (*)(const void *, const void *));
	int main$i(int argc, struct node$i *all)
	{
		int v[100];
		for (int i = 0; i < 100; i++) {
			struct node$i *n = all + i;
			n->key = i * argc;
			n->next = all + i / 2;
			v[i] = i * 7919 % 101;
			switch (i % 7) {
			case 0: n->text[0] = v[i]; break;
			case 1: n->text[i % 20] = 'b'; break;
			case 4: v[i / 2] ^= n->key; break;
			default: n->text[2]++;
			}
		}
		qsort(v, 100, sizeof *v, compare$i);
		for (int i = 0; i < 100; i++)
			__builtin_printf("%d %d\n", v[i], count$i(all, i + 1));
		return 0;
	}
	END
done >"$work/short.c"
cat >"$work/loop.py" <<'END'
class Point:
    def __init__(self, value):
        self.value = value
    def add(self, other):
        return Point(self.value + other.value)

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def work(n):
    counts, total = {}, 0
    for i in range(n):
        key = i % 1009
        counts[key] = counts.get(key, 0) + i
        total += counts[key] & 7
    squares = [x * x for x in range(n // 4)]
    squares.sort(key=lambda v: v % 1013)
    point = Point(0)
    for i in range(n // 4):
        point = point.add(Point(i))
    text = ''.join(chr(97 + i % 26) for i in range(n // 4))
    return total, squares[5], point.value, text.count('abc'), fib(20)

for _ in range(8):
    result = work(300000)
END
cat >"$work/queries.sql" <<'END'
CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, c TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
INSERT INTO t SELECT i, i * 7919 % 10007, 'row ' || i FROM n;
CREATE INDEX tb ON t(b);
SELECT sum(a), count(DISTINCT b), max(length(c)) FROM t;
SELECT count(*) FROM t x JOIN t y ON x.b = y.b WHERE x.a < 20000;
SELECT b, count(*) FROM t GROUP BY b % 100 ORDER BY 2, 1 LIMIT 3;
END
command -v xz >"$work/null" && command[xz]="$(command -v xz) -1 -k -c -T1 $work/in"
[ -x "$python" ] && command[python]="$python $work/loop.py"
[ -x "$cc1" ] && command[cc1]="$cc1 -quiet -O2 $work/short.c -o $work/short.s"
command -v sqlite3 >"$work/null" && command[sqlite3]="$(command -v sqlite3) :memory: -init $work/queries.sql .exit"
command -v openssl >"$work/null" && command[openssl]="$(command -v openssl) speed -seconds 1 -bytes 1024 sha256"
[ -x "$python" ] && command[start]="$python -c pass"

declare -A before=([native]="" [translated]="env LH_TRANSLATE=on LD_PRELOAD=$agent"
	[counted]="env LH_TRANSLATE=count LD_PRELOAD=$agent")
command -v qemu-x86_64 >"$work/null" && before[qemu]=qemu-x86_64
command -v valgrind >"$work/null" && before[valgrind]="valgrind -q --tool=none"
ways=${WAYS:-native translated counted qemu valgrind}

# Milliseconds of user and system time.
spend()
{
	local TIMEFORMAT='%3U %3S'
	{ time "$@" >"$work/out" 2>"$work/err" </dev/null; } 2>&1 | awk '{ print ($1 + $2) * 1000 }'
}

median()
{
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

printf '%-10s' ''
for way in $ways; do [ -n "${before[$way]+x}" ] && printf '%12s' "$way"; done
echo
for program in ${PROGRAMS:-xz python cc1 sqlite3 start}; do
	[ -n "${command[$program]:-}" ] || continue
	for round in $(seq "$rounds"); do
		for way in $ways; do
			[ -n "${before[$way]+x}" ] && spend ${before[$way]} ${command[$program]} >>"$work/$program.$way"
		done
	done
	printf '%-10s' "$program"
	for way in $ways; do
		[ -n "${before[$way]+x}" ] || continue
		took=$(median <"$work/$program.$way")
		[ "$way" = native ] && native=$took && printf '%9.0f ms' "$took"
		[ "$way" = native ] || awk -v a="$took" -v b="$native" 'BEGIN { printf "%11.2fx", a / b }'
	done
	echo
done
