#!/bin/bash
# timeout: 120
# nginx as Debian builds it (stripped, optimized), under load by wrk: patched and reverted ROUNDS times. Each time the
# change is seen in a response, and so is its end; no request fails, and in the end its code is what it was.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=$(realpath "${LINEHOME_BUILD:-build}/linehome")
rounds=${ROUNDS:-10}
count=0 failed=0
ok() { # ok STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		failed=1
	fi
}
PATH=$PATH:/usr/sbin
for program in nginx wrk; do
	command -v $program >/dev/null || {
		echo "1..0 # SKIP $program is not there; write scripts/deps --bench"
		exit 0
	}
done

dir=$(mktemp -d)
chmod 755 "$dir"
load=
trap '[ -z "$load" ] || kill $load 2>/dev/null; [ ! -s "$dir/pid" ] || kill "$(cat "$dir/pid")"; rm -rf "$dir"' EXIT
mkdir "$dir/files"
echo hello >"$dir/files/index.html"

start() { # start PORT
	cat >"$dir/nginx.conf" <<-END
		worker_processes 1;
		pid $dir/pid;
		error_log $dir/errors;
		events { worker_connections 256; }
		http {
			access_log off;
			keepalive_requests 1000000000;
			client_body_temp_path $dir/1; proxy_temp_path $dir/2; fastcgi_temp_path $dir/3;
			uwsgi_temp_path $dir/4; scgi_temp_path $dir/5;
			server { listen 127.0.0.1:$1; root $dir/files; }
		}
	END
	nginx -p "$dir" -c "$dir/nginx.conf" >"$dir/out" 2>&1
}
for _ in 1 2 3 4 5; do
	port=$((20000 + RANDOM % 10000))
	start $port && break
done
for _ in $(seq 100); do
	[ -s "$dir/pid" ] && worker=$(pgrep -P "$(cat "$dir/pid")") && break
	sleep 0.05
done
[ -n "${worker:-}" ]
ok $? "nginx runs"

# What its function for times in headers says is another year, and all else as it was.
cat >"$dir/year.c" <<'END'
#include <string.h>
#include <time.h>
#include <linehome/patch.h>
LH_PATCH_ORIGINAL(old_time, ngx_http_time, unsigned char *(unsigned char *to, time_t when));
static unsigned char *new_time(unsigned char *to, time_t when)
{
	unsigned char *end = old_time(to, when);

	memcpy(end - strlen("2026 00:00:00 GMT"), "1843", 4);
	return end;
}
LH_PATCH_REPLACE(ngx_http_time, new_time);
END
${CC:-cc} -shared -fPIC -O2 -Iinclude -o "$dir/year.so" "$dir/year.c"
ok $? 'a patch for it is built'

code() { # a checksum of all that the worker can execute
	python3 - "$worker" <<-'END'
		import sys, zlib
		process, crc = sys.argv[1], 0
		with open(f'/proc/{process}/mem', 'rb', 0) as memory:
		    for line in open(f'/proc/{process}/maps'):
		        words = line.split()
		        if 'x' in words[1] and '[v' not in line:
		            start, end = (int(word, 16) for word in words[0].split('-'))
		            memory.seek(start)
		            crc = zlib.crc32(memory.read(end - start), crc)
		print(crc)
	END
}
year() { # that of Last-Modified
	exec 3<>/dev/tcp/127.0.0.1/"$port"
	printf 'HEAD / HTTP/1.0\r\n\r\n' >&3
	sed -n -E 's/^Last-Modified: .* ([0-9]{4}) .*/\1/p' <&3
	exec 3>&-
}
plain=$(year)
before=$(code)
[[ $plain == 20?? ]]
ok $? "it says $plain"

wrk -t1 -c8 -d$((rounds + 60)) "http://127.0.0.1:$port/" >"$dir/load" 2>&1 &
load=$!
sleep 0.3
seen=0 kept=0 bad=
for round in $(seq "$rounds"); do
	timeout 30 "$linehome" patch -p "$worker" apply "$dir/year.so" >>"$dir/applied" 2>>"$dir/messages" || bad+=" $round:apply"
	new=$(year)
	timeout 30 "$linehome" patch -p "$worker" revert year >>"$dir/reverted" 2>>"$dir/messages" || bad+=" $round:revert"
	[ "$new" = 1843 ] && [ "$(year)" = "$plain" ] && seen=$((seen + 1))
	tail -n 1 "$dir/reverted" | grep -q 'stays mapped' && kept=$((kept + 1))
done
kill -INT $load
wait $load
load=
[ -z "$bad" ]
ok $? "patched and reverted $rounds times${bad:+, but not in$bad}"
[ ! -s "$dir/messages" ] || sed 's/^/# /' "$dir/messages" | head -n 5
[ $seen = "$rounds" ]
ok $? "$seen of $rounds times the change was seen, and its end"
requests=$(sed -n -E 's/^ *([0-9]+) requests in .*/\1/p' "$dir/load")
[ "${requests:-0}" -gt 100 ] && ! grep -q -E 'Socket errors|Non-2xx' "$dir/load"
ok $? "none of ${requests:-0} requests has failed"
[ "$kept" = 0 ]
ok $? "each time all memory came back"
[ "$(code)" = "$before" ]
ok $? "its code is what it was"
[ "$("$linehome" patch -p "$worker" list)" = "process $worker has no patches" ]
ok $? "no patch is left"
sed -n -E 's/.* at most ([0-9.]+) ms.*/\1/p' "$dir/applied" "$dir/reverted" | sort -n |
	awk '{ a[NR] = $1 } END { if (NR) printf "# stopped for %s ms (median), %s ms (9 of 10), %s ms (longest)\n", a[int((NR + 1) / 2)], a[int(NR * 0.9 + 0.5)], a[NR] }'

echo "1..$count"
exit $failed
