#!/bin/bash
# timeout: 300
# redis-server: load, random reads and writes, BGSAVE while writes go on; every value is verified, the saved file
# is loaded into a plain redis-server and must hold exactly what was there when the server forked.
. "$(dirname "$0")/lib/run.sh"
. tests/lib/redis.sh
need redis-server redis-cli
begin

count=250000
ops=60000
redis_start "$work/plain" || exit 1
"$keys" "$work/plain/socket" load "$work/plain/state" --keys $count >/dev/null
peak=$(redis_anonymous_kib "$redis_pid")
redis_stop "$work/plain" "$redis_pid"
note "redis-server with $count keys: $peak KiB"

step() { # step WHAT ARGUMENT...: of keys, which says what is wrong
	local text=$1
	shift
	timeout 100 "$keys" "$@" >"$work/out" 2>"$work/err"
	ok $? "$what: $text"
	note_file "$work/err"
}

# A plain server takes what was saved; its keys are compared with a state, or with another server.
loaded() { # loaded WHAT ARGUMENT-AFTER-SOCKET...
	local text=$1 pid
	shift
	mkdir -p "$work/second"
	cp "$work/first/dump.rdb" "$work/second/"
	redis_start "$work/second" || return
	pid=$redis_pid
	step "$text" "$work/second/socket" "$@"
	redis_stop "$work/second" "$pid"
	rm -rf "$work/second"
}

one_redis() { # one_redis ENGINE PART
	local bytes=$((peak * 1024 * $2 / 100)) pid status started=$SECONDS
	what="redis, $1, $((bytes >> 20)) MiB"
	launch "$1" "$bytes"
	redis_start "$work/first" watched "$work/report" "$redis" "${launcher[@]}"
	ok $? "$what: starts"
	pid=$redis_pid
	step "$count keys loaded" "$work/first/socket" load "$work/state" --keys $count
	step "random reads and writes" "$work/first/socket" mix "$work/state" --ops $ops --seed 2
	step "BGSAVE while writes go on" "$work/first/socket" save "$work/state" --snapshot "$work/snapshot" --ops $ops --seed 3
	note "$(cat "$work/out")"
	loaded "the saved file holds the moment of the fork, key by key" verify "$work/snapshot"
	step "all keys as last written" "$work/first/socket" verify "$work/state"
	timeout 20 "$keys" "$work/first/socket" verify "$work/state" --plant >/dev/null 2>&1
	is $? 1 "$what: a planted wrong value is found"
	redis-cli -s "$work/first/socket" save >/dev/null
	loaded "a quiet SAVE gives a server with the same keys" compare "$work/first/socket"
	redis_stop "$work/first" "$pid"
	status=$?
	is $status 0 "$what: ends well"
	note_file "$work/first/err"
	held "$work/report" "$bytes" "$what: memory stays below the limit, the saving child's too"
	note "$((SECONDS - started)) s"
	rm -rf "$work/first"
}

for engine in $engines; do
	for part in $parts; do
		one_redis "$engine" "$part"
	done
done
finish
