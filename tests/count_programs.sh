#!/bin/bash
# timeout: 240
# Real programs, and ones that go astray, under `linehome count`: the output and the exit status are the plain run's, byte
# for byte, and something was counted. LH_TEST_LONG=1 adds heavier ones, which take minutes more: without timeout-test.
. "$(dirname "$0")/lib/run.sh"
. tests/lib/redis.sh
export LC_ALL=C PYTHONHASHSEED=0
long=${LH_TEST_LONG-}

# as_plain COMMAND...: plain, then counted; with the command in $other, if any, in its place.
status='' plain='' other=()
as_plain() {
	# One that a signal kills is told of by its shell, elsewhere.
	bash -c 'timeout 100 "$@" 2>&3; exit $?' - "$@" >"$work/plain" 3>"$work/plain.err" 2>/dev/null </dev/null
	plain=$?
	rm -f "$work/report"
	bash -c 'timeout 200 "$@" 2>&3; exit $?' - "$linehome" count --json "$work/report" -- "${other[@]:-$@}" \
		>"$work/out" 3>"$work/err" 2>/dev/null </dev/null
	status=$?
	[ $status = $plain ] && cmp -s "$work/plain" "$work/out" && grep -q '"loads": [1-9]' "$work/report"
}
counted() { # counted NAME COMMAND...
	local name=$1
	shift
	command -v "$1" >/dev/null || { skip "$name" "$1 is not installed"; return; }
	as_plain "$@"
	ok $? "$name"
	[ $status = $plain ] || { note "ends with $status, plainly with $plain"; note_file "$work/err"; }
	diff -a "$work/plain" "$work/out" | head -n 5 | sed 's/^/# /'
}

# Planted: a program that says or ends with something else, and one that is not counted.
for said in 'echo here' 'echo there; exit 3'; do
	other=(bash -c "$said")
	! as_plain bash -c 'echo there'
	ok $? "found out: $said is not echo there"
done
other=(bash -c 'echo there')
as_plain bash -c 'echo there'
ok $? '... and echo there is'
other=()

# ---- what programs do that is hard to rewrite, and where they go that there is no code

"$programs/accepted" >"$work/out"
is $? 7 'the program that has it all ends well plainly'
for _ in 1 2 3; do
	counted 'atomics, faults, alarms, fork, spawn, code that is rewritten, system()' "$programs/accepted"
done
for way in ud2 undecodable privileged port int3 int80 locked foreign divide noncanonical noncanonical-data unmapped past \
	across data stack unexecutable none; do
	counted "astray: $way, not handled" "$programs/astray" $way
	# A jump to what is no address is said to have happened: the fault is at its target, not at the jump.
	[ $way = noncanonical ] || counted "astray: $way, handled" "$programs/astray" $way handled
done
[ ! -x "$programs/exceptions" ] || counted 'exceptions of C++' "$programs/exceptions"
for part in threads jumps blocked ignored traps load; do counted "awkward: $part" "$programs/awkward" $part; done

# ---- what cannot be counted is said in one line

echo text >"$work/text"
cp "$work/text" "$work/program" && chmod 755 "$work/program"
head -c 4000 /bin/true >"$work/cut" && chmod 755 "$work/cut"
refused() { # refused STATUS FILE WHAT
	timeout 30 "$linehome" count -- "$2" >"$work/out" 2>"$work/err"
	local status=$?
	[ $status = "$1" ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" = 1 ]
	ok $? "refused with $1: $3"
	[ $status = "$1" ] || { note "ends with $status"; note_file "$work/err"; }
}
refused 126 "$work/text" 'a file that is not executable'
refused 126 "$work" 'a folder'
# Whose rights are the caller's own anyway is counted.
cp /bin/true "$work/setuid" && chmod 4755 "$work/setuid"
counted 'a setuid program of the account itself' "$work/setuid"
if [ "$(id -u)" = 0 ]; then
	chown 65534 "$work/setuid" && chmod 4755 "$work/setuid"
	refused 125 "$work/setuid" 'a setuid program of another account'
elif [ -u "$(command -v su)" ]; then
	refused 125 "$(command -v su)" 'a setuid program of another account'
else
	skip 'a setuid program of another account' 'there is none'
fi
refused 127 "$work/absent" 'a file that is not there'
if echo 'int main(void) { return 4; }' | gcc -m32 -o "$work/narrow" -x c - 2>/dev/null; then
	refused 125 "$work/narrow" 'a program of 32 bits'
else
	# The head of one: it is never executed.
	printf '\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0' >"$work/narrow"
	head -c 200 /dev/zero >>"$work/narrow"
	chmod 755 "$work/narrow"
	refused 125 "$work/narrow" 'a program of 32 bits'
fi

# ---- real ones

cat >"$work/sum.c" <<'C'
#include <stdio.h>
int main(void) { long s = 0; for (int i = 0; i < 1000; i++) s += i * i % 7; printf("%ld\n", s); return 3; }
C
cat >"$work/script.sh" <<'S'
set -u
trap 'echo ended' EXIT
trap 'echo usr1' USR1
kill -USR1 $$
for i in 1 2 3; do (echo "sub $i"; exit "$i"); echo $?; done
seq 1000 | awk '{ s += $1 } END { print s }' | sed 's/^/sum /'
x=$(printf '%s' "$(echo nested)"); echo "${x^^}"
(sleep 30 & echo $! >"$1"; wait) & wait_for=$!
until [ -s "$1" ]; do :; done
kill -TERM "$(cat "$1")"; wait $wait_for; echo "waited $?"
(kill -SEGV $BASHPID); echo "segv $?"
read -r -t 0.05 x < <(sleep 1); echo "read $?"
exit 5
S
cat >"$work/work.py" <<'P'
import asyncio, ctypes, decimal, hashlib, json, os, random, re, signal, sqlite3, subprocess, threading, time, zlib
sums = []
def work(n):
    sums.append(hashlib.sha256(json.dumps([n] * 500).encode()).hexdigest())
threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(sums), len(re.findall(r"\b\w+ing\b", "running jumping " * 1000)))
print(zlib.crc32(zlib.compress(bytes(range(256)) * 500)), subprocess.run(["/bin/echo", "child"], capture_output=True).stdout)
got = []
signal.signal(signal.SIGALRM, lambda *a: got.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while len(got) < 30: sum(range(1000))
signal.setitimer(signal.ITIMER_REAL, 0)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))(lambda a, b: a[0] - b[0])
numbers = (ctypes.c_int * 100)(*[i * 37 % 101 for i in range(100)])
ctypes.CDLL(None).qsort(numbers, 100, 4, compare)
print(list(numbers))
async def many():
    return sum(await asyncio.gather(*[asyncio.sleep(0.001 * (i % 3), i) for i in range(50)]))
print(asyncio.run(many()), decimal.Decimal(2).sqrt() ** 9)
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGABRT)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
random.seed(1)
print(sorted(random.random() for _ in range(1000))[500], sum(float(i) ** 0.5 for i in range(20000)))
try:
    1 / 0
except ZeroDivisionError as e:
    print(e)
P
cat >"$work/work.pl" <<'P'
use strict; my %h; $h{$_ % 97} .= chr(65 + $_ % 26) for 1 .. 20000;
print join(",", map { "$_=" . length $h{$_} } sort { $a <=> $b } keys %h), "\n";
local $SIG{ALRM} = sub { die "late\n" }; alarm 1; eval { select(undef, undef, undef, 5); }; print $@;
my $pid = open(my $pipe, "-|") // die; if (!$pid) { print "from a child\n"; exit 0 } print <$pipe>; close $pipe; exit 4;
P
cat >"$work/work.js" <<'J'
function f(n) { let s = 0; for (let i = 0; i < n; i++) s = (s + i * i) % 1000003; return s; }
let t = 0; for (let i = 0; i < 300; i++) t += f(1000);
console.log(t, "abcabc".replace(/b(c)/g, "$1"), [..."zyx"].sort().join(), JSON.stringify({ a: [1, { b: 2 }] }));
setTimeout(() => process.exit(6), 5);
J
head -c 1000000 /usr/lib/x86_64-linux-gnu/libcrypto.so.3 >"$work/data"
seq 60000 | awk '{ print ($1 * 7919) % 60013, $1 }' >"$work/lines"
xz -1 -k -c "$work/data" >"$work/data.xz"

counted sqlite3 sqlite3 :memory: "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX i ON t(b);
	WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT INTO t SELECT i, hex(i * 7919 % 9973) FROM n;
	SELECT count(DISTINCT b), max(b), sum(a * 1.5) FROM t WHERE b > '3' ORDER BY b; PRAGMA integrity_check;"
counted 'python3: threads, signals, children, callbacks' python3 "$work/work.py"
counted perl perl "$work/work.pl"
counted node node "$work/work.js"
counted bash bash "$work/script.sh" "$work/pid"
counted 'xz -T2' bash -c "xz -T2 -1 --block-size=200000 -c '$work/data' | tee >(cksum >&2) | xz -T2 -dc | cksum"
counted 'xz -d' xz -T2 -dc "$work/data.xz"
counted 'gcc: the same object' bash -c "cd '$work' && gcc -O2 -g -c -o sum.o sum.c && cksum sum.o && gcc -o sum sum.o && cksum sum && ./sum"
counted 'g++' bash -c "echo '#include <algorithm>
int f(int *a, int n) { std::sort(a, a + n); return a[0]; }' | g++ -O2 -S -x c++ -o - - | cksum"
counted 'openssl: digests and ciphers' bash -c "for d in md5 sha1 sha256 sha512 sha3-256 blake2b512; do openssl dgst -\$d -r <'$work/data'; done
	for c in aes-128-cbc aes-256-ctr chacha20; do openssl enc -\$c -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff \
		-iv 00112233445566778899aabbccddeeff -in '$work/data' | cksum; done 2>/dev/null"
counted 'openssl speed' bash -c 'openssl speed -seconds 1 -bytes 1024 -evp aes-128-gcm 2>/dev/null | grep -ci "^aes-128-gcm"'
counted 'git' bash -c "rm -rf '$work/git' && mkdir '$work/git' && cd '$work/git' && export HOME=. GIT_AUTHOR_DATE=@1 GIT_COMMITTER_DATE=@1 &&
	git init -q . && git config user.email a@b && git config user.name a && cp ../lines ../sum.c . && git add . && git commit -qm one &&
	seq 9 >>lines && git commit -qam two && git gc -q && git log --stat --format=%H && git fsck && git diff HEAD~ | cksum"
counted 'tar and gzip' bash -c "cd '$work' && tar --mtime=@1 --owner=0 --group=0 -c data lines | gzip -n -9 | tee >(gzip -dc | tar -xO | cksum >&2) | cksum"
counted 'sort --parallel' bash -c "sort --parallel=4 -S 2M -n '$work/lines' | cksum"
counted awk awk '{ n[$1 % 97] += $2; s = s substr($1, 1, 1) } END { for (i = 0; i < 97; i++) print i, n[i]; print length(s) }' "$work/lines"
counted grep grep -cE '(1|2)+3.*[4-6]$' "$work/lines"
[ -z "$long" ] || {
	python=$(python3 -c 'import sys; print(sys.executable)')
	for module in test_re test_json test_threading test_signal test_subprocess test_struct test_ctypes; do
		"$python" -c "import test.$module" 2>/dev/null || { skip "python3 -m test $module" 'not installed'; continue; }
		counted "python3 -m test $module" bash -c "cd '$work' && '$python' -m test -q $module 2>/dev/null | grep -a '^Result'"
	done
	counted 'gdb' gdb -q -batch -nx -ex 'break main' -ex run -ex 'info line' -ex continue "$work/sum"
}

# ---- a server and a client on loopback

if command -v openssl >/dev/null && command -v curl >/dev/null; then
	port=$((20000 + RANDOM % 10000))
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/key" -out "$work/cert" -days 2 -subj /CN=localhost 2>/dev/null
	(cd "$work" && exec "$linehome" count -o "$work/table" -- openssl s_server -quiet -accept "127.0.0.1:$port" -key key -cert cert -WWW) \
		>"$work/server" 2>&1 </dev/null &
	server=$!
	children+=("$server")
	for _ in $(seq 100); do
		"$linehome" count -o "$work/table2" -- curl -sk -o "$work/got" "https://127.0.0.1:$port/data" && break
		sleep 0.1
	done
	cmp -s "$work/got" "$work/data"
	ok $? 'curl from openssl s_server, both counted' || note_file "$work/server"
	read -ra served <"/proc/$server/task/$server/children"
	kill -TERM "${served[@]}" 2>/dev/null
	kill -TERM "$server" 2>/dev/null
	wait "$server" 2>/dev/null
else
	skip 'curl from openssl s_server' 'not installed'
fi

if [ -n "$redis" ]; then
	redis_start "$work/redis" "$linehome" count --json "$work/report" --
	ok $? 'redis-server starts counted'
	"$keys" "$work/redis/socket" load "$work/state" --keys 10000 >"$work/out" 2>&1
	ok $? 'redis-server: keys are loaded' || note_file "$work/out"
	redis-cli -s "$work/redis/socket" bgsave >/dev/null
	"$keys" "$work/redis/socket" mix "$work/state" --ops 10000 --seed 5 >"$work/out" 2>&1
	ok $? 'redis-server: right answers under load, while it saves' || note_file "$work/out"
	timeout 60 redis-benchmark -s "$work/redis/socket" -n 5000 -q >"$work/out" 2>&1
	ok $? 'redis-server: redis-benchmark ends well' || note_file "$work/out"
	redis_stop "$work/redis" "$redis_pid"
	is $? 0 'redis-server ends well'
	grep -q '"loads": [1-9]' "$work/report"
	ok $? 'redis-server: it was counted'
else
	skip 'redis-server under load' 'no redis-server'
fi
finish
