#!/bin/bash
# timeout: 90
# linehome patch as a person meets it: the example is patched and reverted while it serves, each command says what it
# did, everything that can be written wrong is one line, the audit log tells all, and what lies in the process is as
# docs/patch-format.md says.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
linehome=$build/linehome
files=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill -KILL $server; wait $server 2>/dev/null; }; rm -rf "$files"' EXIT
count=0 failed=0

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
patch() { # patch ARG...: the status in $status, what was said in out and err
	timeout 20 "$linehome" patch "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
}
fails() { # fails STATUS PATTERN ARG...: nothing but one line that matches
	local wanted=$1 pattern=$2
	shift 2
	patch "$@"
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = "$wanted" ] && [ ! -s "$files/out" ] && [ "$(wc -l <"$files/err")" = 1 ] && [[ $(cat "$files/err") == $pattern ]]
	ok $? "patch $* -> $pattern"
}
says() { # says PATTERN ARG...: status 0, and what is printed matches as a whole
	local pattern=$1
	shift
	patch "$@"
	[ $status = 0 ] && [ ! -s "$files/err" ] && [[ $(cat "$files/out") =~ ^$pattern$ ]]
	ok $? "patch $* -> $pattern"
}

# ---- the example

start() {
	"$build/examples/patch/server" >"$files/port" &
	server=$!
	for _ in $(seq 200); do
		port=$(cat "$files/port")
		[ -n "$port" ] && return
		sleep 0.02
	done
}
price() { # price THINGS
	exec 3<>/dev/tcp/127.0.0.1/"$port"
	echo "$1" >&3
	cat <&3
	exec 3>&-
}
start
did='1 place, 1 thread, stopped for at most [0-9.]+ ms, [0-9]+ attempts?'
fix=$build/examples/patch/fix.so
[ "$(price 9) $(price 10) $(price 11)" = '45 50 44' ]
ok $? 'the server has its mistake'
says "process $server has no patches" -p $server list
says "applied ten-is-many: $did" -p $server apply "$fix" --audit "$files/audit"
[ "$(price 9) $(price 10) $(price 11)" = '45 40 44' ]
ok $? 'it is mended'
says "1  ten-is-many  applied  20[-0-9T:]+Z  $fix"$'\n'"   price at 0x[0-9a-f]+: e9[0-9a-f]{8}, was [0-9a-f]{10}" -p $server list
patch --json list --pid $server
python3 -c '
import json, sys
one, = json.load(open(sys.argv[1]))
assert one["name"] == "ten-is-many" and one["state"] == "applied" and one["intact"] and one["order"] == 1
place, = one["places"]
assert place["symbol"] == "price" and len(place["before"]) == len(place["after"]) == 10 and place["address"] > 4096
' "$files/out"
ok $? 'patch list --json'

# ---- the format, by the document

python3 - $server >"$files/out" 2>"$files/err" <<'END'
import struct, sys
process = sys.argv[1]
lines = [line.split() for line in open(f'/proc/{process}/maps') if '/memfd:linehome-patch:ten-is-many (deleted)' in line]
ranges = [tuple(int(word, 16) for word in line[0].split('-')) for line in lines]
assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:])), 'a gap'
assert not any('w' in line[1] and 'x' in line[1] for line in lines), 'rights'
memory = open(f'/proc/{process}/mem', 'rb', 0)
def read(address, size):
    memory.seek(address)
    return memory.read(size)
start = ranges[0][0]
head = read(start, 4096)
magic, version, crc, size, places, order, state, applied, length, build_size, zero = struct.unpack_from('<8sIIIIIIQQII', head)
assert (magic, version, size, places, order, state, zero) == (b'LHPATCH\n', 1, 4096, 1, 1, 1, 0)
assert length == ranges[-1][1] - start and ranges[0][1] == start + size and lines[1][1] == 'r-xp'
table = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
    table.append(byte)
def crc32c(data):
    value = 0xffffffff
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 255]
    return value ^ 0xffffffff
assert crc32c(head[:12] + bytes(4) + head[16:512 + 272 * places]) == crc, 'the checksum'
assert 0 < build_size <= 64 and head[120:132] == b'ten-is-many\0' and head[184:440].rstrip(b'\0').endswith(b'fix.so')
assert not any(head[440:512]) and not any(head[512 + 272:])
symbol, address, bytes_, before, after = struct.unpack_from('<128sQQ64s64s', head, 512)
assert symbol.rstrip(b'\0') == b'price' and bytes_ == 5 and not any(before[5:]) and not any(after[5:])
assert read(address, 5) == after[:5]
# The original is the code of before, or begins as that does.
target = address + 5 + struct.unpack('<i', after[1:5])[0]
assert start + size < target < start + length
END
ok $? 'what lies in the process is as docs/patch-format.md says'

# ---- messages

fails 125 "linehome patch: ten-is-many: a patch of that name is there; *" -p $server apply "$fix"
fails 125 "linehome patch: no-such-patch: process $server has no patch of that name" -p $server revert no-such-patch
says "applied again: $did" -p $server apply "$fix" --name again
fails 125 'linehome patch: ten-is-many: price was patched later by again; revert that first' -p $server revert ten-is-many
says "reverted again: $did" -p $server revert again
says "reverted ten-is-many: $did" -p $server revert ten-is-many --audit "$files/audit"
[ "$(price 9) $(price 10) $(price 11)" = '45 50 44' ]
ok $? 'the server has its mistake again'
says "process $server has no patches" -p $server list

fails 2 'linehome patch: no process; *' list
fails 2 'linehome patch: no apply FILE *; write linehome patch *' -p $server
fails 2 'linehome patch: --pid x: not the number of a process; *' -p x list
fails 2 'linehome patch: --pid: needs an argument; *' list -p
fails 2 'linehome patch: --pid: given more than once; *' -p 1 --pid 2 list
fails 2 'linehome patch: aply: unknown word; did you mean apply?*' -p $server aply "$fix"
fails 2 'linehome patch: b.so: one word too many; *' -p $server apply a.so b.so
fails 2 'linehome patch: more: one word too many; *' -p $server list more
fails 2 'linehome patch: apply: needs a FILE, or --bytes; *' -p $server apply
fails 2 'linehome patch: revert: needs the NAME *' -p $server revert
for bytes in check check: check:7f check:7f: check:7f:7 check:7f:7f7f check+:7f:7f check+x:7f:7f :7f:7f +1:7f:7f; do
	fails 2 "linehome patch: --bytes $bytes: not a change; *" -p $server apply --bytes "$bytes"
done
fails 2 'linehome patch: --at: is for patches from a file; *' -p $server apply --bytes price:00:00 --at price+1
fails 125 'linehome patch: process 999999999: there is no such process' -p 999999999 list
fails 125 'linehome patch: /nowhere.so: cannot be opened (ENOENT)' -p $server apply /nowhere.so
fails 125 "linehome patch: $fix: --at needs a patch that is one LH_PATCH_AT and nothing else" -p $server apply "$fix" --at price+0
fails 125 'linehome patch: /nowhere/log: the audit log cannot be written (ENOENT); nothing was changed' \
	-p $server apply "$fix" --audit /nowhere/log

# ---- bytes

code=$(patch -p $server apply "$fix"; patch -p $server list; sed -n -E 's/.*was ([0-9a-f]{2}).*/\1/p' "$files/out"; patch -p $server revert ten-is-many)
fails 125 'linehome patch: price: other bytes are expected than stand there, *' -p $server apply --bytes price:0f0b:c3c3
says "applied price: $did" -p $server apply --bytes "price+0x0:$code:c3" --audit "$files/audit"
says "reverted price: $did" -p $server revert price --keep
[ "$(price 10)" = 50 ]
ok $? 'bytes are there and gone'
patch -p $server list
[[ $(cat "$files/out") == *'price  reverted  '* ]]
ok $? 'memory that was kept is listed'
says "reverted price: $did" -p $server revert price
says "process $server has no patches" -p $server list
patch -p $server revert price --audit "$files/audit"

# ---- the log

line='20[-0-9]+T[0-9:]+Z'
wanted="$line apply ten-is-many pid=$server program=server uid=[0-9]+ result=ok places=1 threads=1 attempts=[0-9]+ stopped_us=[0-9]+ file=$fix
$line revert ten-is-many pid=$server program=server uid=[0-9]+ result=ok places=1 .* file=$fix
$line apply price pid=$server .* result=ok places=1 .* file=-
$line revert price pid=$server program=server uid=[0-9]+ result=ENOENT places=0 threads=0 attempts=0 stopped_us=0 file=-"
[[ $(cat "$files/audit") =~ ^$wanted$ ]]
ok $? 'the audit log tells what was done and what failed'

# ---- what the documents show

display() { sed '1,/^.Sh EXAMPLES/d' docs/man/lh_patch.3 | sed -n '/^.Bd/,/^.Ed/p' | sed '1d;$d'; }
[ -n "$(display)" ] && [[ $(cat examples/patch/fix.c) == *"$(display)"* ]]
ok $? 'the example of lh_patch(3) is a part of examples/patch/fix.c'
says 'Usage: linehome patch .*' --help

echo "1..$count"
exit $failed
