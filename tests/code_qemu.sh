#!/bin/bash
# timeout: 120
# What qemu's own translator sees real programs access, compared with what the library says of their instructions.
set -u
. "$(dirname "$0")/lib/qemu.sh"
plugin accesses
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
