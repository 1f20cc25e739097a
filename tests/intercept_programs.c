/*
 * Programs of the distribution with every call seen, and with the hook in the way of none: the same output,
 * the same status.
 */
/* timeout: 240 */
#include <sys/stat.h>

#include "intercept.h"

static const char *const ways[] = { "hostile", "none", NULL };

static void shell(const char *what, const char *program, const char *script)
{
	if (access(program, X_OK) != 0)
		return skip(what, "the program is not installed");
	compare(what, (char *[]){ "/bin/bash", "-c", (char *)script, NULL }, ways);
}

int main(int argc, char **argv)
{
	find_folder(argv[0]);
	shell("python3", "/usr/bin/python3",
	      "/usr/bin/python3 -c 'import hashlib, json, subprocess, threading, sqlite3, ctypes\n"
	      "t = [threading.Thread(target=lambda: hashlib.sha256(bytes(100000)).hexdigest()) for i in "
	      "range(50)]\n"
	      "[x.start() for x in t]; [x.join() for x in t]\n"
	      "print(subprocess.run([\"echo\", \"hello\"], capture_output=True).stdout)\n"
	      "print(json.dumps(sorted({str(i): i for i in range(1000)}.items()))[:200])'");
	shell("xz", "/usr/bin/xz",
	      "seq 1 1500000 | /usr/bin/xz -0 -T2 --block-size=1MiB -c | tee >(xz -dc | md5sum >&2) 2>&1 | "
	      "md5sum");
	shell("sort", "/usr/bin/sort",
	      "seq 1 600000 | /usr/bin/sort -R --random-source=/bin/ls | "
	      "sort --parallel=2 -S 8M -n | md5sum");
	shell("sqlite3", "/usr/bin/sqlite3",
	      "/usr/bin/sqlite3 :memory: 'create table t(a, b); with recursive c(x) as (select 1 union all "
	      "select x + 1 "
	      "from c where x < 100000) insert into t select x, x * 7919 % 100003 from c; create index i on "
	      "t(b); "
	      "select count(*), sum(a), max(b) from t where b > 50000;'");
	shell("git", "/usr/bin/git",
	      "d=$(mktemp -d) && cd $d && git init -q . && git config user.email a@b && git config user.name "
	      "n && "
	      "for i in 1 2 3; do seq $i 5000 >f$i; git add f$i; GIT_AUTHOR_DATE='100000000 +0000' "
	      "GIT_COMMITTER_DATE='100000000 +0000' "
	      "git commit -q -m $i; done; git gc -q; git fsck 2>&1; git log --format=%H; cd /; rm -rf $d");
	shell("redis-server", "/usr/bin/redis-server",
	      "d=$(mktemp -d) && cd $d && /usr/bin/redis-server --port 0 --unixsocket $d/s --save '' "
	      "--daemonize yes "
	      "--io-threads 2 --pidfile $d/pid >/dev/null && for i in $(seq 100); do [ -S s ] && break; "
	      "sleep 0.05; done; "
	      "/usr/bin/redis-benchmark -s $d/s -n 20000 -c 20 -P 4 -q -t set,get,lpush,incr 2>&1 | tr '\\r' "
	      "'\\n' | "
	      "grep -c 'requests per second, p50' >$d/n; [ $(cat n) = 4 ] && echo four; redis-cli -s $d/s "
	      "get counter:__rand_int__ | wc -l; "
	      "redis-cli -s $d/s bgsave; sleep 0.3; redis-cli -s $d/s lastsave | wc -l; redis-cli -s $d/s "
	      "shutdown nosave; cd /; "
	      "rm -rf $d");
	return done();
}
