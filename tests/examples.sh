#!/bin/bash
# timeout: 120
# The examples do what they say, again in a pool that is there already, and on tmpfs; they use the public interface
# alone; what the documents show of them is what they are; and the key-value shell loses nothing when it is killed.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
dir=$(mktemp -d)
shm=
[ "$(stat -f -c %T /dev/shm 2>/dev/null)" = tmpfs ] && shm=$(mktemp -d /dev/shm/examples.XXXXXX)
trap 'rm -rf "$dir" "$shm"' EXIT

count=0 failed=0
report() { # report PASSED TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		[ -z "${3:-}" ] || printf '%s\n' "$3" | head -n 20 | sed 's/^/# /'
		failed=1
	fi
}

# ---- each by itself

says() { # says NAME PATTERN: it succeeds, and its output is that (of any address)
	local output
	for place in "$dir" ${shm:+"$shm"}; do
		output=$(timeout 30 "$build/examples/$1" "$place/$1.pool" 2>&1) && [[ $output =~ ^$2$ ]]
		report $? "$1 in $place" "$output"
	done
}
says version 'linehome [0-9.]+'
says counter 'run 1'
says counter 'run 2'
says pool 'visit 1'
says pool 'visit 2'
for _ in 1 2; do
	says pool_declared $'found: transaction 3: 0x[0-9a-f]+ \\(offset 0x[0-9a-f]+\\) was changed by transfer\\+0x[0-9a-f]+ \\(pool_declared.c:[0-9]+\\) without lh_tx_add\n-15 and 15'
	says pool_group '450, in 45[0-9] commits'
	says pool_grow 'grown 3 times, to 1024 KiB'
	says pool_objects $'leaked: an object of 4096 bytes\nshort, and then long'
	says pool_io '20000 bytes in, 20000 bytes out'
done
# What checks results itself has to notice that a file is not what it takes it for.
echo 'no pool' >"$dir/other"
for name in counter pool; do
	output=$("$build/examples/$name" "$dir/other" 2>&1)
	[ $? = 1 ] && [ "$(cat "$dir/other")" = 'no pool' ]
	report $? "$name says that another file is no pool, and leaves it alone" "$output"
done

private=$(nm -u "$build"/examples/* | grep -o 'lh__.*')
[ -z "$private" ]
report $? 'only the public interface is used' "$private"

# ---- what the documents show

shown() { # shown EXAMPLE TEXT: it is a part of the example, as it is
	[ -n "$2" ] && [[ $(cat "examples/$1") == *"$2"* ]]
}
literal() { # literal PAGE N: the Nth display of its EXAMPLES
	sed '1,/^.Sh EXAMPLES/d' "docs/man/$1" | awk -v n="$2" '/^\.Ed/ { on = 0 } on; /^\.Bd -literal/ { on = ++k == n }' |
		sed 's/\\e/\\/g'
}
for display in lh_pool.3:1:pool.c lh_tx.3:1:pool.c lh_tx.3:2:pool_declared.c lh_tx.3:3:pool_group.c \
	lh_tx.3:4:pool_io.c lh_pool_alloc.3:1:pool_objects.c lh_cover.3:1:fuzz_parser.c; do
	IFS=: read -r page n file <<<"$display"
	shown "$file" "$(literal "$page" "$n")"
	report $? "display $n of $page is a part of examples/$file"
done
readme() { sed -n '/^    struct lh_error/,/lh_pool_close/p' README.md | sed 's/^    /\t/; s/^\t        /\t\t/'; }
shown counter.c "$(readme)"
report $? 'the example of README.md is a part of examples/counter.c'
! shown counter.c 'nothing of the kind'
report $? 'caught: an example that is not in the file'

# ---- the fuzzer

fuzzer=$build/examples/fuzz_parser target=$build/examples/fuzz_target runs=8000
output=$(timeout 100 "$fuzzer" -s 1 -n $runs "$target" 2>&1) && [[ $output =~ ^'run '[0-9]+': it dies of signal 11, by CFG1\x0a'.*'lat '[0-9]+: ]]
report $? "fuzz_parser: finds the mistake of a parser ($output)" "$output"
input=${output#*, by }
printf '%b' "$input" >"$dir/input"
{ "$target" <"$dir/input" >"$dir/died"; } 2>/dev/null
[ $? = 139 ]
report $? 'fuzz_parser: the parser dies of that input by itself too'
output=$(timeout 100 "$fuzzer" -b -s 1 -n $runs "$target" 2>&1)
[ $? = 1 ] && [[ $output == "$runs runs,"*'nothing found' ]]
report $? 'fuzz_parser: in as many runs without coverage it does not' "$output"
printf 'CFG1\na=yes\n[group\nb="text"\nc=12\n]\n' | "$target" | grep -q '^3 settings$' && [ "$(echo x | "$target")" = 'byte 1: not a setting' ]
report $? 'fuzz_target: reads what is right, and says where something is not'

# ---- the key-value shell

kv=$build/examples/kv
pool=$dir/kv.pool
session=$(printf '%s\n' 'put apple green and red' 'put pear yellow' 'get apple' begin 'put plum blue' 'del apple' \
	'list' abort 'list' 'bulk 2' 'list b c' 'del pear' 'get pear' 'bulk x' commit nonsense \
	'put 12345678901234567890123456789012 x' begin 'put kiwi green' commit quit | "$kv" "$pool" 2>&1)
wanted='0 pairs
1 pair
2 pairs
green and red
3 pairs, not committed
2 pairs, not committed
pear yellow
plum blue
2 pairs
apple green and red
pear yellow
4 pairs
bulk-00000001 the value of bulk-00000001
bulk-00000002 the value of bulk-00000002
3 pairs
there is no pear
x is not a number
there is no transaction
put KEY VALUE   get KEY   del KEY   list [FROM [TO]]   count   bulk NUMBER
begin   commit   abort   quit
a key has at most 31 characters
4 pairs, not committed
4 pairs'
[ "$session" = "$wanted" ]
report $? 'kv: a session' "$session"
output=$(printf 'bulk 200000\ncount\nbulk 30000\n' | timeout 60 "$kv" "$pool" 2>&1)
wanted=$'^4 pairs\nfailed: .* more than the log.*\n4 pairs\n30004 pairs$'
[[ $output =~ $wanted ]]
report $? 'kv: a transaction that is too large is refused as a whole; a pool that is full grows' "$output"

lines() { grep -c '' "$1"; }
started() { # started FILE N: waits until there are N lines
	for _ in $(seq 500); do
		[ "$(lines "$1")" -ge "$2" ] && return
		sleep 0.02
	done
	return 1
}
pool=$dir/killed.pool
mkfifo "$dir/in"
"$kv" "$pool" <"$dir/in" >"$dir/out" 2>&1 &
pid=$!
exec 3>"$dir/in"
printf 'bulk 3\nbegin\nbulk 10\n' >&3
started "$dir/out" 3 && [ "$(tail -n 1 "$dir/out")" = '13 pairs, not committed' ]
report $? 'kv: a transaction is under way'
output=$("$kv" "$pool" </dev/null 2>&1)
[ $? = 1 ] && [[ $output == *"$pool"* ]]
report $? 'kv: another one is told that the pool is in use' "$output"
kill -KILL $pid
wait $pid 2>/dev/null
exec 3>&-
[ "$(echo count | "$kv" "$pool" | tail -n 1)" = '3 pairs' ]
report $? 'kv: killed, nothing of it is there'

# What the Nth command adds.
adds() { sed -n "$1{s/^bulk //p;s/^put .*/1/p}" "$dir/commands"; }
right='{ want = $1 ~ /^bulk-/ ? "the value of " $1 : "is " $1; if (substr($0, length($1) + 2) != want) print }'
rounds=20 bad='' cut=0
for round in $(seq $rounds); do
	for i in $(seq 1000); do
		echo "bulk $((i % 9 + 1))"
		echo "put key-$round-$i is key-$round-$i"
	done >"$dir/commands"
	"$kv" "$pool" <"$dir/commands" >"$dir/out" 2>&1 &
	pid=$!
	started "$dir/out" $((1 + RANDOM % 300))
	kill -KILL $pid
	wait $pid 2>/dev/null
	"$kv" "$pool" </dev/null >"$dir/after" 2>&1 || bad+="round $round: $(cat "$dir/after")"$'\n'
	done=$(lines "$dir/out")
	[ "$done" -le 2000 ] && cut=$((cut + 1))
	said=$(sed -n "$done{s/ pair.*//p}" "$dir/out")
	is=$(sed -n '1{s/ pair.*//p}' "$dir/after")
	[ "$is" = "$said" ] || [ "$is" = $((said + $(adds "$done"))) ] ||
		bad+="round $round: said $said, then $is"$'\n'
	echo list | "$kv" "$pool" | tail -n +2 >"$dir/list"
	[ "$(lines "$dir/list")" = "$is" ] || bad+="round $round: lists $(lines "$dir/list") of $is"$'\n'
	bad+=$(awk "$right" "$dir/list" | head -n 3)
done
[ -z "$bad" ]
report $? "kv: killed $rounds times, it has what the last command said, or the one that was under way, and the right values" "$bad"
[ $cut -gt 0 ]
report $? "kv: $cut times it was in the middle"
[ -n "$(echo 'key-1-1 is key-1-2' | awk "$right")" ] && [ -n "$(echo 'bulk-1 the value' | awk "$right")" ]
report $? 'caught: a wrong value'

echo "1..$count"
exit $failed
