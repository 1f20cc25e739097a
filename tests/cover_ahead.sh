#!/bin/bash
# timeout: 240
# Looking ahead is exact: real programs have run the same instructions, one by one, whether traps brought what was
# foreseen or not. Programs that do the same thing each time, at the same addresses each time (setarch -R).
set -u
cd "$(dirname "$0")/.." || exit 1
build=$(realpath "${LINEHOME_BUILD:-build}")
linehome=$build/linehome equal=$build/tests/tools/record_equal
export PYTHONHASHSEED=0 PERL_HASH_SEED=0 LC_ALL=C

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

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
if ! setarch -R true 2>/dev/null; then
	echo '1..0 # SKIP addresses cannot be kept the same here'
	exit 0
fi

collect() { # collect RECORD OPTION... -- COMMAND...
	local record=$1
	shift
	timeout 100 setarch -R "$linehome" cover --collect-only --record "$files/$record" "$@" \
		>"$files/$record.out" 2>"$files/$record.err" <"$files/input"
}
control() { # control RECORD PLACE: one of its counters
	od -A n -t u8 -j $((4096 + $2)) -N 8 "$files/$1" | tr -d ' '
}

# same NAME OPTIONS COMMAND...: collected twice without to see that it does the same each time, then with.
same() {
	local name=$1 without with options
	read -ra options <<<"$2"
	shift 2
	if ! command -v "$1" >/dev/null; then
		count=$((count + 1))
		echo "ok $count - $name # SKIP $1 is not installed"
		return
	fi
	collect first "${options[@]}" --no-look-ahead -- "$@" # plans are made now, and kept
	collect without "${options[@]}" --no-look-ahead -- "$@"
	if ! "$equal" "$files/first" "$files/without" >"$files/log"; then
		collect first "${options[@]}" --no-look-ahead -- "$@"
		if ! "$equal" "$files/first" "$files/without" >"$files/log"; then
			count=$((count + 1))
			echo "ok $count - $name # SKIP it does another thing each time"
			return
		fi
	fi
	collect with "${options[@]}" -- "$@"
	"$equal" "$files/with" "$files/without" >"$files/log" && cmp -s "$files/with.out" "$files/without.out"
	report $? "$name: the same instructions, the same output"
	without=$(control without 8) with=$(control with 8)
	echo "# traps: $without, and $with with looking ahead"
	grep -q ' [1-9][0-9]* of them alone' "$files/log" && sed 's/^/# /' "$files/log"
}

seq 1 20000 >"$files/input"
python='import json, re, zlib, decimal, struct
print(json.dumps({"a": [1, 2.5, None], "b": sorted("linehome")}), re.sub("[aeiou]", "", "a line of code"))
print(zlib.crc32(b"x" * 1000), sum(i * i for i in range(1000)), decimal.Decimal(1) / 7, 3 ** 200, hash("a"))'
sql='create table t(a integer primary key, b text); with recursive n(i) as (select 1 union all select i + 1 from n
where i < 500) insert into t select i, hex(i * 77) from n; create index x on t(b); select count(*), max(b), avg(a)
from t where b like "%3%"; select group_concat(a) from (select a from t order by b desc limit 20);'
cat >"$files/unit.c" <<'END'
struct node { struct node *next; double weight; int kind : 5; };
static int sum(struct node *n) { int s = 0; for (; n; n = n->next) s += n->kind * (int)n->weight; return s; }
int twice(struct node *n) { switch (n->kind) { case 1: return sum(n); case 2: return 2 * sum(n); case 9: return 7; } return 0; }
END
cc1=$(gcc -print-prog-name=cc1 2>/dev/null)

same 'python3' '' /usr/bin/python3 -S -c "$python"
same 'python3 by the line' '--granularity line' /usr/bin/python3 -S -c "$python"
same 'python3 and its libraries' --include-libraries /usr/bin/python3 -S -c "$python"
same 'sqlite3 and its libraries' --include-libraries sqlite3 :memory: "$sql"
same 'cc1' '' "$cc1" -quiet -O2 -frandom-seed=1 "$files/unit.c" -o /dev/stdout
same 'bash' --include-libraries bash -c 'for i in {1..200}; do x=$((i * i)); y=${x/1/2}; [[ $y =~ 4+ ]] && echo "$y"; done'
same 'xz' --include-libraries xz -T1 -3 -c
same 'gzip' --include-libraries gzip -n -c
same 'sort' --include-libraries sort --parallel=1 -rn
same 'awk' --include-libraries awk '{ s += $1; n[$1 % 7]++ } END { printf "%d %s %.3f\n", s, n[3], log(s) }'
same 'sed' --include-libraries sed -n -E 's/([0-9])\1/<&>/gp'
same 'perl' --include-libraries perl -e '$_ = join ",", map { $_ * 3 } 1..300; s/(\d)(\d)/$2$1/g; print length, " ", substr($_, 0, 40), "\n"'
same 'openssl' --include-libraries openssl dgst -sha256
same 'redis-cli' --include-libraries redis-cli --version

"$equal" --plant "$files/without"
! "$equal" "$files/without" "$files/with" >"$files/log"
report $? 'planted: a record with one instruction more is noticed'

echo "1..$count"
exit $failed
