#!/bin/bash
# timeout: 120
# What qemu's own translator sees real programs access, compared with what the library says of their instructions.
set -u
build=$(realpath "${LINEHOME_BUILD:-build}")
here=$(cd "$(dirname "$0")" && pwd)

if ! command -v qemu-x86_64 >/dev/null; then
	echo "1..0 # SKIP qemu-x86_64 is not here: scripts/deps --bench"
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! "${CC:-cc}" -O2 -fPIC -shared -o "$work/accesses.so" "$here/qemu/accesses.c"; then
	echo "Bail out! the plugin does not compile"
	exit 1
fi

count=0 failures=0
result() { # result STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		failures=$((failures + 1))
		echo "not ok $count - $2"
	fi
}
watch() { # watch NAME COMMAND...
	local name=$1
	shift
	timeout 60 qemu-x86_64 -plugin "$work/accesses.so,out=$work/trace" "$@" >"$work/output" 2>"$work/errors"
	"$build/tests/tools/access_compare" "$work/trace"
	result $? "$name"
}

head -c 20000 "$here/code_access_oracle.c" >"$work/text"
watch xz "$(command -v xz)" -9 -c "$work/text"
! "$build/tests/tools/access_compare" "$work/trace" lie >"$work/lies" && grep -q 'reads' "$work/lies"
result $? 'found out: loads that are a byte longer'
watch sqlite3 "$(command -v sqlite3)" :memory: 'create table t(x); insert into t values(1.5),(2); select avg(x) from t;'
watch perl "$(command -v perl)" -e 'print sqrt(2) * sin(3), sort map { $_ * 7 % 31 } 1 .. 30'
echo "1..$count"
[ $failures = 0 ]
