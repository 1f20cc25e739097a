#!/bin/bash
# timeout: 60
# linehome pool as a person meets it: what each command prints, as a table and as JSON; that looking changes nothing;
# that everything that can be wrong with a pool is one line; and that recovery may be interrupted.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
linehome=$build/linehome
hold=$build/tests/tools/hold_pool
files=$(mktemp -d)
memory=$(mktemp -d -p /dev/shm)
count=0 failed=0 holder='' node=''
trap '[ -n "$holder" ] && kill -KILL $holder; [ -n "$node" ] && kill -KILL $node; rm -rf "$files" "$memory"' EXIT

ok() { # ok STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		head -n 30 "$files/out" "$files/err" | sed 's/^/# /'
		failed=1
	fi
}

pool() { # pool ARG...: the status in $status, what was said in out and err
	timeout 20 "$linehome" pool "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
}

fails() { # fails STATUS PATTERN ARG...: nothing but one line that matches
	local wanted=$1 pattern=$2
	shift 2
	pool "$@"
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = "$wanted" ] && [ ! -s "$files/out" ] && [ "$(wc -l <"$files/err")" = 1 ] && [[ $(cat "$files/err") == $pattern ]]
	ok $? "pool $* -> $pattern"
}

prints() { # prints TEXT ARG...: status 0, and standard input is what is printed; what follows ~ is a pattern
	local text=$1
	shift
	pool "$@"
	[ $status = 0 ] && [ ! -s "$files/err" ] && python3 -c '
import re, sys
wanted = sys.stdin.read().splitlines()
got = open(sys.argv[1]).read().splitlines()
def same(want, got):
    if "~" not in want:
        return want == got
    head, tail = want.split("~", 1)
    return got.startswith(head) and re.fullmatch(tail, got[len(head):])
assert len(wanted) == len(got) and all(map(same, wanted, got)), "differs"
' "$files/out" 2>/dev/null
	ok $? "$text"
}

json() { # json TEXT PYTHON ARG...: what is printed is one JSON object, of which PYTHON, with it as o, holds
	local text=$1 claim=$2
	shift 2
	pool "$@"
	python3 -c '
import json, sys
with open(sys.argv[1]) as file:
    o = json.load(file)
assert type(o) is dict and eval("(" + sys.argv[2] + ")"), o' "$files/out" "$claim" 2>>"$files/err"
	ok $? "$text"
}

hold() { # hold WHERE KIND COMMITS [busy]: a program has the pool open
	: >"$files/ready"
	"$hold" "$@" >"$files/ready" 2>"$files/err" </dev/null &
	holder=$!
	until grep -q ready "$files/ready"; do
		kill -0 $holder 2>/dev/null || return 1
		sleep 0.02
	done
}

let_go() { # it is killed
	[ -n "$holder" ] || return
	kill -KILL $holder
	wait $holder 2>/dev/null
	holder=
}

same() { # same FILE ARG...: the pool command leaves the file as it was, to the time of its last change
	local file=$1 before after
	shift
	before=$(sha256sum <"$file" && stat -c '%y %s %i' "$file")
	pool "$@"
	after=$(sha256sum <"$file" && stat -c '%y %s %i' "$file")
	[ "$before" = "$after" ]
}

as_it_was() { # as_it_was FILE ARG...
	same "$@" && [ "$status" -le 1 ]
	ok $? "pool ${*:2} changes nothing"
}

# Changes bytes of a copy. damage COPY FROM WHAT: the structures are drawn in docs/pool-format.md.
damage() {
	cp "$2" "$1"
	python3 -c '
import struct, sys
path, what = sys.argv[1:]
data = bytearray(open(path, "rb").read())
def crc32c(block):
    crc = 0xffffffff
    for byte in block:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
def seal(page):
    at = 4096 * page
    data[at + 12:at + 16] = bytes(4)
    data[at + 12:at + 16] = struct.pack("<I", crc32c(data[at:at + 1024]))
headers = [page for page in (0, 1) if data[4096 * page:4096 * page + 8] == b"LINEJRNL"]
log, log_pages, home = struct.unpack_from("<QQQ", data, 4096 * headers[0] + 32)
if what == "headers":
    for page in headers:
        data[4096 * page + 100] ^= 1
elif what == "older header":
    generation = {page: struct.unpack_from("<Q", data, 4096 * page + 16)[0] for page in headers}
    data[4096 * min(generation, key=generation.get) + 100] ^= 1
elif what == "journal version" or what == "pool version":
    for page in headers:
        struct.pack_into("<I", data, 4096 * page + (8 if what == "journal version" else 136), 7)
        seal(page)
elif what == "no pool":
    for page in headers:
        data[4096 * page + 128:4096 * page + 136] = b"SOMEDATA"
        seal(page)
elif what == "impossible size":
    for page in headers:
        struct.pack_into("<Q", data, 4096 * page + 168, 12345)
        seal(page)
elif what == "strange layout":
    for page in headers:
        data[4096 * page + 192:4096 * page + 200] = b"a\x1b[2J\xff\n\0"
        seal(page)
elif what.startswith("record"):
    at = 4096 * log
    while struct.unpack_from("<Q", data, at + 8)[0] != int(what.split()[1]):
        at += struct.unpack_from("<I", data, at + 32)[0] + 63 & ~63
    data[at + 50] ^= 1
elif what == "heap":
    data[4096 * home + 0x30] ^= 1
elif what == "heap gone":
    data[4096 * home:4096 * home + 4096] = bytes(4096)
else:
    sys.exit("what?")
open(path, "wb").write(data)' "$1" "$3" || echo "Bail out! damage $3"
}

# ---- a pool that is well

a=$files/a
pool create "$a" --size 1M --layout notes --address 0x300000000000 --log-size 128K --reach 2G
[ $status = 0 ] && [ ! -s "$files/out" ] && [ ! -s "$files/err" ]
ok $? 'create makes a pool and says nothing'
prints 'info' info "$a" <<-END
	Pool          $a
	Layout        notes
	Version       1
	Id            ~[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}
	Size          1M
	Reach         2G
	Log           128K
	Address       0x300000000000
	Created       ~20[0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9] UTC
	Closed        yes
END
json 'info --json' 'list(o) == ["where", "layout", "version", "id", "size", "reach", "log_size", "address", "created", "clean"]
	and o["layout"] == "notes" and o["version"] == 1 and len(o["id"]) == 36 and o["size"] == 1 << 20 and o["reach"] == 2 << 30
	and o["log_size"] == 1 << 17 and o["address"] == "0x300000000000" and o["clean"] is True
	and abs(__import__("calendar").timegm(__import__("time").strptime(o["created"], "%Y-%m-%dT%H:%M:%SZ")) - __import__("time").time()) < 600
	' info --json "$a"
prints 'check' check "$a" <<-END
	Pool          $a
	Closed        yes
	Log           0 records
	Objects       0, 0 bytes
	Free          1012.0 KiB
	Damage        none
END
json 'check --json' 'list(o) == ["where", "good", "problem", "clean", "records", "rolled_back", "waits_for", "kept", "objects", "object_bytes",
	"free_bytes"]
	and o["where"].endswith("/a") and o["good"] is True and o["problem"] is None and o["clean"] is True and o["records"] == 0
	and o["objects"] == 0 and o["free_bytes"] == 1012 << 10' check "$a" --json
prints 'recover' recover "$a" <<-END
	Pool          $a
	Closed        yes: there was nothing to recover
END
prints 'log' log "$a" <<<'There are no records in the log.'
json 'log --json' 'list(o) == ["where", "records", "problem"] and o["records"] == [] and o["problem"] is None' log --json "$a"
pool create "file:$files/b" && pool info "file:$files/b" && [ $status = 0 ] && grep -q '^Size  *64M$' "$files/out"
ok $? 'file:PATH, and a size for whoever names none'
for command in info check log; do
	as_it_was "$a" $command "$a"
	as_it_was "$a" $command --json "$a"
done

# ---- a pool that is open, and then was left by a program that was killed

c=$files/c
hold "$c" redo 3
ok $? 'a program has a pool open'
pool info "$c"
[ $status = 0 ] && grep -q '^Closed  *no: it is open now, or opening it recovers it$' "$files/out"
ok $? 'info works while the pool is open'
json 'and so does log' 'len(o["records"]) == 5 and o["problem"] is None' log --json "$c"
fails 125 "linehome pool check: $c: another process has it open for writing" check "$c"
fails 125 "linehome pool recover: $c: another process has it open for writing" recover "$c"
let_go
prints 'log prints records' log "$c" <<-END
	  Sequence  Kind      Transaction       Bytes
	         1  redo                1         456
	    page 0          lines 0, 6, 13, 16
	    page 1          lines 0, 63
	         2  redo                2         456
	    page 1          lines 0, 61-63
	    page 0          lines 0, 6
	         3  redo                3        2248
	    page 248        lines 0, 3
	    page 250        lines 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
	                          30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54,
	                          56, 58, 60, 62
	         4  redo                4         184
	    page 248        lines 0
	    page 249        lines 0
	         5  redo                5         184
	    page 248        lines 0
	    page 249        lines 0
END
pool log --content "$c"
grep -q -F '00000f8000  74 72 61 6e 73 61 63 74  69 6f 6e 20 32 00 00 00  |transaction 2...|' "$files/out"
ok $? 'and with --content the bytes'
json 'log --json' '[list(r) for r in o["records"]] == [["sequence", "kind", "transaction", "durable", "bytes", "sets"]] * 5
	and [r["sequence"] for r in o["records"]] == [1, 2, 3, 4, 5] and {r["kind"] for r in o["records"]} == {"redo"}
	and o["records"][3] == {"sequence": 4, "kind": "redo", "transaction": 4, "durable": 3, "bytes": 184,
	"sets": [{"page": 248, "lines": [0], "replace": False}, {"page": 249, "lines": [0], "replace": False}]}' log --json "$c"
json 'log --json --content' 'all(len(s["content"]) == len(s["lines"]) and all(len(c) == 128 for c in s["content"])
	for r in o["records"] for s in r["sets"])
	and bytes.fromhex(o["records"][4]["sets"][0]["content"][0]).startswith(b"transaction 2\0")' log --json --content "$c"
prints 'check says what recovery will do' check "$c" <<-END
	Pool          $c
	Closed        no: opening it recovers it
	Log           5 records
	Objects       1, 32.0 KiB
	Free          980.0 KiB
	Damage        none
END
for command in info check log; do
	as_it_was "$c" $command "$c"
done
cp "$c" "$files/unclean"
cp "$c" "$files/planted"
! same "$files/planted" recover "$files/planted"
ok $? 'a change would be seen'
prints 'recover says what it did' recover "$c" <<-END
	Pool          $c
	Closed        no: it has been recovered
	Log           5 records, 3.6 KiB
	Kept          5 transactions
	Rolled back   0 transactions
END
prints 'and a second time has nothing to do' recover "$c" <<-END
	Pool          $c
	Closed        yes: there was nothing to recover
END
cp "$files/unclean" "$c"
json 'recover --json' 'list(o) == ["where", "clean", "records", "log_bytes", "transactions", "rolled_back"] and o["clean"] is False
	and o["records"] == 5 and o["transactions"] == 5 and o["rolled_back"] == 0 and o["log_bytes"] == 3712' recover --json "$c"
json 'and a second time' 'o["clean"] is True and o["records"] == 0' recover --json "$c"
json 'check finds it well' 'o["good"] and o["clean"] and o["objects"] == 1 and o["object_bytes"] == 32768' check --json "$c"

# Recovery that is interrupted is begun again by the next, with the same result.
home() { python3 -c '
import struct, sys
data = open(sys.argv[1], "rb").read()
print(hash(data[4096 * struct.unpack_from("<Q", data, 48)[0]:]))' "$1"; }
export PYTHONHASHSEED=0
wanted=$(home "$c")
wrong=0
for delay in 0.001 0.002 0.003 0.004 0.005 0.006 0.008 0.01; do
	cp "$files/unclean" "$c"
	timeout -s INT $delay "$linehome" pool recover "$c" >/dev/null 2>&1 </dev/null
	pool check "$c"
	[ $status = 0 ] || wrong=1
	pool recover "$c"
	[ $status = 0 ] && [ "$(home "$c")" = "$wanted" ] || wrong=1
done
ok $wrong 'recovery that is interrupted from the keyboard is harmless'

# ---- an undo log, in memory

d=$memory/d
hold "$d" undo 3
let_go
json 'an undo log: what was there before, and ends' '[r["kind"] for r in o["records"]].count("end") == 5
	and o["records"][-1]["kind"] == "undo" and o["records"][-1]["transaction"] == o["records"][-1]["sequence"]
	and o["records"][0]["kind"] == "undo"' log --json "$d"
pool check "$d"
[ $status = 0 ] && grep -q '^Unfinished  *1 transaction, to be rolled back$' "$files/out"
ok $? 'check says that a transaction will be rolled back'
json 'also as JSON' 'o["rolled_back"] == 1 and o["clean"] is False and o["good"] is True' check --json "$d"
as_it_was "$d" check "$d"
as_it_was "$d" log "$d"
pool recover "$d"
[ $status = 0 ] && grep -q '^Rolled back  *1 transaction$' "$files/out" && grep -q '^Kept  *5 transactions$' "$files/out"
ok $? 'recover rolls it back'
grep -q 'transaction 2' "$d" && ! grep -q 'never committed' "$d"
ok $? 'and what was never committed is gone'
rm "$d"
wrong=0
hold "$d" undo 1 busy || wrong=1
for _ in $(seq 60); do
	pool log --json "$d"
	[ $status = 0 ] || { wrong=1 && break; }
done
ok $wrong 'a log that is being written to all the time can be looked at'
let_go

# ---- rows

wrong=0
for command in info check log 'log --content'; do
	# shellcheck disable=SC2086 # two words
	(cd "$files" && timeout 20 "$linehome" pool $command unclean) >"$files/out" 2>"$files/err"
	[ "$(wc -L <"$files/out")" -le 80 ] || wrong=1
done
ok $wrong 'what is printed fits into 80 columns'
for command in '' create info check recover decide log; do
	# shellcheck disable=SC2086 # perhaps none
	pool $command --help
	[ $status = 0 ] && grep -q "^Usage: linehome pool $command" "$files/out" && [ "$(wc -L <"$files/out")" -le 80 ]
	ok $? "pool $command --help"
done
"$linehome" pool info "$a" >/dev/full 2>"$files/err"
[ $? = 125 ] && grep -q '^linehome: standard output cannot be written' "$files/err"
ok $? 'output that cannot be written is a failure'

# ---- what can be wrong with the words

fails 2 'linehome pool: no command; write for instance linehome pool create FILE, or see linehome pool --help'
fails 2 'linehome pool decide: one of --ask, --commit, --drop and --forget is needed' decide x
fails 2 'linehome pool decide: one of --ask, --commit, --drop and --forget is needed' decide --commit --drop x
fails 2 'linehome pool: chekc: unknown command; did you mean check?' chekc x
fails 2 'linehome pool: frobnicate: unknown command; see linehome pool --help' frobnicate
fails 2 'linehome pool: --json: unknown option; see linehome pool --help' --json
for command in create info check recover log; do
	fails 2 "linehome pool $command: no WHERE; write linehome pool $command WHERE, or see linehome pool $command --help" $command
	fails 2 "linehome pool $command: b: not an option; see linehome pool $command --help" $command a b
	fails 2 "linehome pool $command: --nonsense: unknown option; see linehome pool $command --help" $command a --nonsense
done
fails 2 'linehome pool info: --jsno: unknown option; did you mean --json?' info --jsno a
n=$files/new
for option in size reach log-size; do
	fails 2 "linehome pool create: --$option 12Q: not a size; write for instance 512M*" create "$n" --$option 12Q
	fails 2 "linehome pool create: --$option 0: a size of nothing; *" create "$n" --$option 0
	fails 2 "linehome pool create: --$option 1K: less than a page; write at least 4K" create "$n" --$option 1K
done
fails 2 "linehome pool create: $n: a pool has at least 65536 bytes" create "$n" --size 4K
fails 2 "linehome pool create: $n: a log has at least 65536 bytes" create "$n" --log-size 4K
fails 2 "linehome pool create: $n: a pool can be no larger than its reach, *" create "$n" --size 1M --reach 64K
fails 2 "linehome pool create: $n: a pool can be no larger than its reach, *" create "$n" --size 33554432G
fails 2 "linehome pool create: $n: a layout's name has at most 63 bytes" create "$n" --layout "$(printf %064d 1)"
for address in '' zz 0 0x 0x1001 -1000 0x12345678901234567; do
	fails 2 "linehome pool create: --address $address: not the address of a page; write for instance 0x300000000000" \
		create "$n" --address "$address"
done
fails 2 "linehome pool create: $n: 0xfffffffffffff000 cannot be a pool's address" create "$n" --address fffffffffffff000
[ ! -e "$n" ]
ok $? 'of all these nothing is left behind'

# ---- what can be wrong with a pool

for command in info check recover log; do
	fails 125 "linehome pool $command: $files/none: there is no such file or folder" $command "$files/none"
	fails 125 "linehome pool $command: $files: it is neither a plain file nor a block device" $command "$files"
done
echo 'some text' >"$files/text"
: >"$files/empty"
damage "$files/headers" "$files/unclean" headers
damage "$files/journal" "$files/unclean" 'journal version'
damage "$files/version" "$files/unclean" 'pool version'
damage "$files/nopool" "$files/unclean" 'no pool'
damage "$files/size" "$files/unclean" 'impossible size'
for command in info check recover log; do
	fails 1 "linehome pool $command: $files/text: not a pool" $command "$files/text"
	fails 1 "linehome pool $command: $files/empty: not a pool" $command "$files/empty"
	fails 1 "linehome pool $command: $files/headers: both copies of its header are damaged" $command "$files/headers"
	fails 125 "linehome pool $command: $files/journal: format version 7, and this program knows version 2; use a newer linehome" \
		$command "$files/journal"
done
for command in info check recover; do
	fails 125 "linehome pool $command: $files/version: a pool of version 7, and this program knows version 1; use a newer linehome" \
		$command "$files/version"
	fails 1 "linehome pool $command: $files/nopool: a journal, but not a pool" $command "$files/nopool"
	fails 1 "linehome pool $command: $files/size: its header has values that cannot be" $command "$files/size"
done
damage "$files/one" "$files/unclean" 'older header'
json 'one damaged copy of the header does no harm' 'o["good"] and o["records"] == 5' check --json "$files/one"
damage "$files/layout" "$a" 'strange layout'
pool info "$files/layout"
[ $status = 0 ] && grep -q -F 'Layout        a\x1b[2J\xff\x0a' "$files/out"
ok $? 'a layout does nothing to the terminal'
json 'and is text in JSON' 'o["layout"] == r"a\x1b[2J\xff\x0a"' info --json "$files/layout"

damage "$files/hole" "$files/unclean" 'record 3'
hole="$files/hole: log record 3, at byte 1024 of the log, is damaged: it had been durable, as record 4 was; those before it are whole"
fails 1 "linehome pool check: $hole" check "$files/hole"
fails 1 "linehome pool recover: $hole" recover "$files/hole"
as_it_was "$files/hole" check "$files/hole"
as_it_was "$files/hole" recover "$files/hole"
pool log "$files/hole"
[ $status = 1 ] && [ "$(cat "$files/err")" = "linehome pool log: $hole" ] && [ "$(wc -l <"$files/out")" = 7 ]
ok $? 'log prints the records before a damaged one, and says which it is'
json 'also as JSON' 'len(o["records"]) == 2 and "log record 3" in o["problem"]' log --json "$files/hole"
json 'check --json says that a pool is not good' 'list(o) == ["where", "good", "problem"] and o["good"] is False
	and "log record 3" in o["problem"]' check --json "$files/hole"
damage "$files/torn" "$files/unclean" 'record 5'
json 'a last record that was not finished is none' 'o["good"] and o["records"] == 4' check --json "$files/torn"
damage "$files/heap" "$c" heap
fails 1 "linehome pool check: $files/heap: heap, at offset 0x*" check "$files/heap"
damage "$files/gone" "$c" 'heap gone'
fails 1 "linehome pool check: $files/gone: heap, at offset 0x0: *" check "$files/gone"

fails 125 "linehome pool create: $a: there is something of that name already, which is left alone" create "$a"
fails 125 "linehome pool create: $files/none/x: there is no such file or folder" create "$files/none/x"
(
	ulimit -f 1000
	pool create "$n" --size 1M
	exit $status
)
[ $? = 125 ] && [ "$(cat "$files/err")" = "linehome pool create: $n: there is no room for it: ENOSPC" ] && [ ! -e "$n" ]
ok $? 'a file that may not become so large: a message, and nothing is left'

chmod 755 "$files"
chmod 444 "$files/unclean"
other=()
[ "$(id -u)" != 0 ] || other=(setpriv --reuid=65534 --clear-groups)
if "${other[@]}" "$linehome" --version >/dev/null 2>&1; then
	"${other[@]}" "$linehome" pool recover "$files/unclean" >"$files/out" 2>"$files/err"
	[ $? = 125 ] && [ "$(cat "$files/err")" = "linehome pool recover: $files/unclean: no permission to write to it" ]
	ok $? 'a file that may not be written to is not recovered'
	"${other[@]}" "$linehome" pool check "$files/unclean" >"$files/out" 2>"$files/err"
	ok $? 'and can be looked at'
	chmod 000 "$files/unclean"
	"${other[@]}" "$linehome" pool info "$files/unclean" >"$files/out" 2>"$files/err"
	[ $? = 125 ] && [ "$(cat "$files/err")" = "linehome pool info: $files/unclean: no permission to read it" ]
	ok $? 'one that may not be read is an error too'
else
	count=$((count + 1))
	echo "ok $count - files without permission # SKIP no other user can execute $linehome"
fi

# ---- on a memory node

: >"$files/served"
"$linehome" serve --listen "unix:$files/node" >/dev/null 2>"$files/served" </dev/null &
node=$!
until grep -q listening "$files/served"; do
	kill -0 $node || break
	sleep 0.02
done
w=unix:$files/node/notes
pool create "$w" --size 1M
ok $status 'a pool on a memory node'
fails 125 "linehome pool create: $w: the node has that name already" create "$w"
fails 125 "linehome pool info: unix:$files/node/none: the node has nothing of that name" info "unix:$files/node/none"
fails 125 "linehome pool info: unix:$files/none/x: no memory node listens there: *" info "unix:$files/none/x"
hold "unix:$files/node/held" redo 3
fails 125 "linehome pool info: unix:$files/node/held: another client has it open" info "unix:$files/node/held"
let_go
json 'is left by who was killed' 'o["good"] and o["records"] == 5' check --json "unix:$files/node/held"
json 'is recovered' 'o["transactions"] == 5' recover --json "unix:$files/node/held"
json 'and is clean' 'o["clean"]' info --json "unix:$files/node/held"
fails 125 'linehome pool info: tcp://localhost:1: no name; *' info tcp://localhost:1
kill -TERM $node
wait $node
node=

echo "1..$count"
exit $failed
