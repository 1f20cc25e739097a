#!/bin/bash
# redis-server under load by redis-benchmark: for how long it is stopped when linehome cover comes and goes, and by a
# patch and its revert. ROUNDS (50).
set -u
top=$(cd "$(dirname "$0")/.." && pwd)
for program in redis-server redis-benchmark redis-cli; do
	command -v "$program" >/dev/null || { echo "no $program here: left out"; exit 0; }
done
rounds=${ROUNDS:-50}
folder=$(mktemp -d)
redis-server --port 0 --unixsocket "$folder/socket" --save '' --dir "$folder" >/dev/null &
server=$!
load=
trap 'kill $load $server 2>/dev/null; wait 2>/dev/null; rm -rf "$folder"' EXIT
until redis-cli -s "$folder/socket" ping >/dev/null 2>&1; do sleep 0.1; done
redis-benchmark -s "$folder/socket" -t get,set -c 8 -l >/dev/null 2>&1 &
load=$!
"$top/build/bench/attach" "$server" "$rounds" || exit 1
