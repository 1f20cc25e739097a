#!/bin/bash
# timeout: 150
# `linehome atomic`: an ordinary library, never recompiled, keeps its maps in a pool; killed at any moment it has
# exactly what was acknowledged, and perhaps the operation under way. What is refused is refused in one line, and the
# program is otherwise what it would be without.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
linehome=$build/linehome keep=$build/examples/ordinary/keep
shm=$(mktemp -d /dev/shm/atomic.XXXXXX)
disk=$(mktemp -d)
trap 'rm -rf "$shm" "$disk"' EXIT

count=0 failed=0
report() { # report PASSED TEXT [OUTPUT]
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		[ -z "${3:-}" ] || printf '%s\n' "$3" | head -n 20 | sed 's/^/# /'
		failed=1
	fi
}
says() { # says STATUS PATTERN TEXT WORD...: what the command says, on both streams
	local status=$1 pattern=$2 text=$3 output
	shift 3
	output=$(timeout 30 "$@" 2>&1)
	[ $? = "$status" ] && [[ $output =~ ^$pattern$ ]]
	report $? "$text" "$output"
}

# ---- an ordinary library

brackets='make_map,map_insert,map_remove'
kept() { # kept SECONDS FOLDER LOG KIND COUNT
	local seconds=$1
	shift
	timeout -s KILL "$seconds" "$linehome" atomic --log "$2" --pool "$1/pool" --begin "$brackets" --end "$brackets" -- \
		"$keep" "$3" "$1/journal" "$4"
}

says 0 $'found 0 operations, 0 keys\nmade 500, [0-9]+ keys' 'the program by itself' "$keep" hash "$disk/plain" 500
says 0 $'found 0 operations, 0 keys\nmade 500, [0-9]+ keys' 'it keeps nothing' "$keep" hash "$disk/plain" 500
file "$build/examples/ordinary/libordinary.so" >/dev/null
nm -D "$build/examples/ordinary/libordinary.so" | grep -q -E '\<(lh_|tx_)'
[ $? = 1 ]
report $? 'the library knows nothing of Linehome'

rounds=${LH_TEST_ROUNDS:-5}
for where in "$shm" "$disk"; do
	for log in redo undo; do
		[ "$log-$where" != "undo-$disk" ] || continue # what is not memory has no undo log
		for kind in hash redblack btree; do
			"$linehome" pool create "$where/pool" --size 16M >/dev/null || exit 1
			good=0 killed=0
			for _ in $(seq "$rounds"); do
				output=$(kept 0.$((RANDOM % 15 + 5)) "$where" $log $kind 10000000 2>&1)
				status=$?
				if [ $status = 137 ]; then killed=$((killed + 1)); else good=1; fi
				"$linehome" pool check "$where/pool" >/dev/null || good=1
			done 2>/dev/null
			[ $good = 0 ] && [ $killed = "$rounds" ]
			report $? "$kind, $log, on $(stat -f -c %T "$where"): killed $killed times, it goes on" "$output"
			output=$(kept 60 "$where" $log $kind 100 2>&1)
			[[ $output =~ ^'found '[1-9][0-9]*' operations, '[0-9]+$' keys\nmade 100, '[0-9]+' keys'$ ]]
			report $? "$kind, $log: and has what was acknowledged" "$output"
			"$linehome" pool check "$where/pool" >/dev/null
			report $? "$kind, $log: its pool is whole"
			rm -f "$where/pool" "$where/journal"
		done
	done
done
# What checks has to notice when it is not so: an operation that the journal has and the pool has not.
"$linehome" pool create "$shm/pool" --size 16M >/dev/null
kept 60 "$shm" redo hash 50 >/dev/null
head -c 80 /dev/zero >>"$shm/journal"
says 1 'keep: the map is not what the journal says' 'caught: an operation that is not there' \
	"$linehome" atomic --pool "$shm/pool" --begin "$brackets" --end "$brackets" -- "$keep" hash "$shm/journal" 1
truncate -s 400 "$shm/journal"
says 1 $'(.*\n)?keep: an operation failed.*' 'caught: without transactions the pool does nothing' \
	"$linehome" atomic --pool "$shm/pool" -- "$keep" hash "$shm/journal" 1
rm -f "$shm/pool" "$shm/journal"

# ---- what is refused

says 2 'linehome atomic: no program: .*' 'no program' "$linehome" atomic
says 2 'linehome atomic: --begin: .* add --end' 'a beginning without an end' "$linehome" atomic --begin main -- true
says 2 'linehome atomic: --end: .* add --begin' 'an end without a beginning' "$linehome" atomic --end main -- true
says 2 '.*--log.*' 'a log that there is not' "$linehome" atomic --log maybe -- true
says 127 'linehome atomic: /nowhere: not found' 'a program that is not there' "$linehome" atomic -- /nowhere
says 126 'linehome atomic: ./Makefile: found, but it cannot be executed' 'one that cannot be executed' "$linehome" atomic -- ./Makefile
says 125 'linehome atomic: map_isnert: the program and the libraries.*did you mean map_insert\?' \
	'a function that is not there' "$linehome" atomic --begin map_isnert --end map_isnert -- "$keep" hash "$disk/j" 1
says 125 'linehome atomic: nowhere!map_insert: .*' 'one that is in another library' \
	"$linehome" atomic --begin 'nowhere!map_insert' --end 'nowhere!map_insert' -- "$keep" hash "$disk/j" 1
says 125 'linehome atomic: (__)?memcpy.*an ifunc.*' 'one that is chosen when it is loaded' \
	"$linehome" atomic --begin 'libc!memcpy' --end 'libc!memcpy' -- "$keep" hash "$disk/j" 1
printf 'int main(void) { return 0; }\n' | cc -static -x c -o "$disk/static" - 2>/dev/null &&
	says 125 'linehome atomic: .*/static: statically linked.*' 'a program without a dynamic linker' \
		"$linehome" atomic -- "$disk/static"
cp /bin/true "$disk/rights" && chown nobody "$disk/rights" && chmod u+s "$disk/rights" &&
	says 125 'linehome atomic: .*/rights: runs with more rights than you have.*' 'one that is setuid' \
		"$linehome" atomic -- "$disk/rights"
cp /bin/true "$disk/other" && printf '\267' | dd of="$disk/other" bs=1 seek=18 conv=notrunc status=none &&
	says 125 'linehome atomic: .*/other: not a program for x86-64' 'one for another processor' \
		"$linehome" atomic -- "$disk/other"
cp /bin/true "$disk/small" && printf '\001' | dd of="$disk/small" bs=1 seek=4 conv=notrunc status=none &&
	says 125 'linehome atomic: .*/small: not a program for x86-64' 'one of 32 bits' \
		"$linehome" atomic -- "$disk/small"
cat >"$disk/own.c" <<-'END'
	#include <linehome.h>
	int main(void) { return lh_pool_open("/nowhere", 0, &(struct lh_pool *){ 0 }, 0) == 0; }
END
cc -I include -o "$disk/own" "$disk/own.c" "$build/liblinehome.a" -lZydis -ldw -lelf -lssl -lcrypto -lpthread
strip "$disk/own"
says 125 'linehome atomic: the program has the library linked in statically.*' 'one with the library in it, stripped' \
	"$linehome" atomic -- "$disk/own"

# ---- the program is what it is without

says 7 '' 'its exit status' "$linehome" atomic --begin strtoull --end strtoull -- bash -c 'exit 7'
# shellcheck disable=SC2016 # the program's shell expands it
says 0 '-:-' 'what it starts is not meant' "$linehome" atomic --begin strtoull --end strtoull -- \
	bash -c 'echo "${LD_PRELOAD--}:${LINEHOME_ATOMIC--}"'
LD_PRELOAD=libm.so.6 says 0 'libm.so.6' 'what was preloaded stays' "$linehome" atomic -- printenv LD_PRELOAD
output=$(python3 -c '
import signal, subprocess, sys, time
program = subprocess.Popen(sys.argv[1:])
time.sleep(0.3)
program.send_signal(signal.SIGINT)
print(program.wait(10))' "$linehome" atomic -- sleep 20)
[ "$output" = -2 ]
report $? 'Ctrl-C' "$output"
"$linehome" pool create "$shm/pool" --size 16M >/dev/null
says 0 $'linehome atomic: map_create: runs without a transaction: no pool is open.*made 9, [0-9]+ keys' \
	'no pool is open: it is said, and the program runs' \
	"$linehome" atomic --begin map_insert,map_create --end map_insert,map_create -- "$keep" hash "$disk/j" 9
cat >"$disk/writes.c" <<-'END'
	#include <linehome/atomic.h>
	#include <stdio.h>
	#include <unistd.h>
	__attribute__((noinline)) void perform(long *at)
	{
		*at = 1;
		if (write(1, "no\n", 3) != 3)
			*at = 2;
	}
	int main(void)
	{
		struct lh_pool *pool = lh_atomic_pool(NULL);
		long *root = lh_pool_root(pool, 8, NULL);
		perform(root);
		puts(*root ? "not undone" : "went on");
		return 0;
	}
END
cc -O1 -I include -o "$disk/writes" "$disk/writes.c" -L "$build" -llinehome -Wl,-rpath,"$(realpath "$build")"
says 125 $'(.*\n)?linehome atomic: perform: its transaction was undone: one inside it.*' \
	'a program that goes no further than a transaction that was undone' \
	"$linehome" atomic --pool "$shm/pool" --syscalls abort --on-undo exit --begin perform --end perform -- \
	"$disk/writes" "$shm/pool"
says 0 $'(.*\n)?linehome atomic: perform: its transaction was undone: one inside it.*went on' 'or goes on' \
	"$linehome" atomic --pool "$shm/pool" --syscalls abort --begin perform --end perform -- \
	"$disk/writes" "$shm/pool"
echo "1..$count"
exit $failed
