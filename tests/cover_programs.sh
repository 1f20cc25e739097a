#!/bin/bash
# Real programs and awkward ones under `linehome cover`: the output and the exit status are the plain run's, and
# something was seen to run.
#
# timeout: 240
. "$(dirname "$0")/lib/run.sh"
. tests/lib/redis.sh
export LC_ALL=C PYTHONHASHSEED=0 XDG_CACHE_HOME=$work/cache
mkdir -p "$XDG_CACHE_HOME"
engines=${LINEHOME_COVER_ENGINES:-inside}

# covered NAME ENGINE OPTION... -- COMMAND...: runs it under cover, and compares with what `plain` has left.
covered() {
	local name=$1 engine=$2 status options=()
	shift 2
	while [ "$1" != -- ]; do options+=("$1"); shift; done
	shift
	timeout 100 "$linehome" cover --engine "$engine" "${options[@]}" --format json -o "$work/report" -- "$@" \
		>"$work/out" 2>"$work/err"
	status=$?
	is "$status" "$(cat "$work/$name.status")" "$name, $engine${options:+ ${options[*]}}: ends as it does plain"
	cmp -s "$work/out" "$work/$name.out"
	ok $? "$name, $engine${options:+ ${options[*]}}: the same output" || true
	cmp -s "$work/out" "$work/$name.out" || { diff -a "$work/$name.out" "$work/out" | head -n 5 | sed 's/^/# /'; note_file "$work/err"; }
	python3 - "$work/report" <<-'PY'
		import json, sys
		report = json.load(open(sys.argv[1]))
		sys.exit(0 if sum(m["blocks"]["hit"] for m in report["modules"]) > 0 else 1)
	PY
	ok $? "$name, $engine${options:+ ${options[*]}}: blocks were seen"
	rm -f "$work/report"
}

# program NAME COMMAND...: plain, then with each engine.
program() {
	local name=$1 engine
	shift
	timeout 100 "$@" >"$work/$name.out" 2>"$work/plain.err"
	echo $? >"$work/$name.status"
	for engine in $engines; do covered "$name" "$engine" -- "$@"; done
}

# ---- awkward ones, by both engines, with the libraries watched too
for part in threads jumps blocked ignored traps suspend load; do
	program "awkward-$part" "$programs/awkward" "$part"
	covered "awkward-$part" inside --include-libraries -- "$programs/awkward" "$part"
	covered "awkward-$part" outside -- "$programs/awkward" "$part"
done
program awkward-spawn "$programs/awkward" spawn /bin/true
covered awkward-spawn inside --include-libraries -- "$programs/awkward" spawn /bin/true
covered awkward-spawn outside -- "$programs/awkward" spawn /bin/true
program awkward-inherit "$programs/awkward" inherit "$programs/awkward"
[ ! -x "$programs/exceptions" ] || {
	program exceptions "$programs/exceptions"
	covered exceptions inside --include-libraries -- "$programs/exceptions"
	covered exceptions outside -- "$programs/exceptions"
}

# One process cannot watch a library, since it has no room for its plan; another can, and its lines are taken away
# again and again: not in the first.
"$programs/awkward" digest >"$work/one"
cat "$work/one" "$work/one" >"$work/two"
timeout 60 "$linehome" trace --interval 0.02 --include-libraries -o "$work/report" -- \
	bash -c "'$programs/awkward' limited >'$work/limited' & '$programs/awkward' digest >'$work/digest'; wait \$!" 2>"$work/err"
is $? 0 'a library that cannot be watched in one of two processes: both end well' || note_file "$work/err"
cat "$work/limited" "$work/digest" | cmp -s - "$work/two"
ok $? 'and compute right'

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
seq 100 | awk '{ s += $1 } END { print s }' | sed 's/^/sum /'
x=$(printf '%s' "$(echo nested)"); echo "${x^^}"
exit 5
S
cat >"$work/work.py" <<'P'
import hashlib, json, re, subprocess, threading, zlib
sums = []
def work(n):
    sums.append(hashlib.sha256(json.dumps([n] * 500).encode()).hexdigest())
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(sums), len(re.findall(r"\b\w+ing\b", "running jumping " * 1000)))
print(zlib.crc32(zlib.compress(bytes(range(256)) * 500)), subprocess.run(["/bin/echo", "child"], capture_output=True).stdout)
try:
    1 / 0
except ZeroDivisionError as e:
    print(e)
P
head -c 3000000 /usr/lib/x86_64-linux-gnu/libcrypto.so.3 >"$work/data"
program sqlite3 sqlite3 :memory: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
	SELECT sum(i * i % 17), count(DISTINCT i % 97), group_concat(DISTINCT i % 5), hex(md) FROM (SELECT i, 0 AS md FROM n);"
program python3 python3 "$work/work.py"
covered python3 inside --include-libraries -- python3 "$work/work.py"
program xz bash -c "exec xz -T2 -1 -c '$work/data'"
program digests bash -c "for d in md5 sha1 sha256 sha512 blake2b512; do openssl dgst -\$d -r '$work/data' | cut -d' ' -f1; done"
covered digests inside --include-libraries -- bash -c "for d in md5 sha1 sha256 sha512 blake2b512; do openssl dgst -\$d -r '$work/data' | cut -d' ' -f1; done"
program speed bash -c 'openssl speed -seconds 1 -bytes 1024 sha256 2>/dev/null | grep -c sha256'
program gcc bash -c "gcc -O2 -o '$work/sum' '$work/sum.c' && '$work/sum'"
program bash bash "$work/script.sh"
program gzip gzip -9 -c "$work/data"
program sort sort -R --random-source="$work/data" "$work/script.sh"

# ---- servers under load
if [ -n "$redis" ]; then
	redis_start "$work/redis" "$linehome" cover --format json -o "$work/report" --
	ok $? 'redis-server starts under cover'
	"$keys" "$work/redis/socket" load "$work/state" --keys 20000 >"$work/out" 2>&1
	ok $? 'redis-server: keys are loaded' || note_file "$work/out"
	redis-cli -s "$work/redis/socket" bgsave >/dev/null
	"$keys" "$work/redis/socket" mix "$work/state" --ops 20000 --seed 5 >"$work/out" 2>&1
	ok $? 'redis-server: right answers under load, while it saves' || note_file "$work/out"
	for _ in $(seq 100); do
		redis-cli -s "$work/redis/socket" info persistence | grep -q 'rdb_bgsave_in_progress:0' && break
		sleep 0.1
	done
	is "$(redis-cli -s "$work/redis/socket" info persistence | tr -d '\r' | sed -n 's/^rdb_last_bgsave_status://p')" ok \
		'redis-server: the child that saves ends well'
	redis_stop "$work/redis" "$redis_pid"
	is $? 0 'redis-server ends well'
	grep -q '"rdbSave' "$work/report"
	ok $? 'redis-server: what only the child ran is in the report'
else
	skip 'redis-server under load' 'no redis-server'
fi

# nginx with two workers on a Unix socket is out of wrk's reach, so on loopback; started under watch.
PATH=$PATH:/usr/sbin
if command -v nginx >/dev/null && command -v wrk >/dev/null && command -v curl >/dev/null; then
	chmod 755 "$work"
	mkdir "$work/files"
	head -c 20000 "$work/data" >"$work/files/page"
	port=$((20000 + RANDOM % 10000))
	cat >"$work/nginx.conf" <<-END
		daemon off; worker_processes 2; pid $work/nginx.pid; error_log $work/errors;
		events { worker_connections 256; }
		http {
			access_log off; gzip on; gzip_types *;
			client_body_temp_path $work/1; proxy_temp_path $work/2; fastcgi_temp_path $work/3;
			uwsgi_temp_path $work/4; scgi_temp_path $work/5;
			server { listen 127.0.0.1:$port; root $work/files; }
		}
	END
	for engine in inside outside; do
		"$linehome" cover --engine "$engine" --format json -o "$work/report" -- nginx -p "$work" -c "$work/nginx.conf" \
			>"$work/out" 2>"$work/err" &
		nginx=$!
		children+=("$nginx")
		for _ in $(seq 100); do
			curl -s -o "$work/got" "http://127.0.0.1:$port/page" && break
			sleep 0.1
		done
		cmp -s "$work/got" "$work/files/page"
		ok $? "nginx, $engine: the file is served right"
		wrk -t 2 -c 20 -d 2 -H 'Accept-Encoding: gzip' "http://127.0.0.1:$port/page" >"$work/wrk" 2>&1
		! grep -qE 'Socket errors|Non-2xx' "$work/wrk" && grep -qE '^ *[1-9][0-9]* requests in' "$work/wrk"
		ok $? "nginx, $engine: no request of wrk fails" || note_file "$work/wrk"
		kill -QUIT "$(cat "$work/nginx.pid")"
		wait "$nginx"
		is $? 0 "nginx, $engine: ends well"
		grep -q '"hit": true' "$work/report"
		ok $? "nginx, $engine: functions were seen"
		rm -f "$work/report"
	done
else
	skip 'nginx under wrk' 'nginx, wrk or curl is not there; write scripts/deps --bench'
fi
finish
