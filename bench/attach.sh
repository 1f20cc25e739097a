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

# A patch that changes nothing but the way there, in the function that every command goes through.
cat >"$folder/lookup.c" <<'END'
#include <linehome/patch.h>
LH_PATCH_ORIGINAL(old_lookup, lookupKey, void *(void *database, void *key, int flags));
static void *new_lookup(void *database, void *key, int flags)
{
	return old_lookup(database, key, flags);
}
LH_PATCH_REPLACE(lookupKey, new_lookup);
END
"${CC:-cc}" -shared -fPIC -O2 -I"$top/include" -o "$folder/lookup.so" "$folder/lookup.c" || exit 1
for _ in $(seq "$rounds"); do
	"$top/build/linehome" patch --pid "$server" apply "$folder/lookup.so" || exit 1
	"$top/build/linehome" patch --pid "$server" revert lookup || exit 1
done >"$folder/said"
for what in applied reverted; do
	grep -i "^$what" "$folder/said" | sed 's/.*at most \([0-9.]*\) ms.*/\1/' | sort -n | awk -v what="$what" '
		{ all[NR] = $1 }
		END { printf "%-33s %4d rounds  median %7.2f ms  worst %7.2f ms\n", "patch " what, NR,
			all[int((NR + 1) / 2)], all[NR] }'
done
redis-cli -s "$folder/socket" ping >/dev/null || { echo "redis-server has ended"; exit 1; }
