#!/bin/bash
# timeout: 120
# What qemu's own translator says that code executes, loads and stores, compared with linehome count, exactly. Known
# differences: qemu tells of a repeated string instruction once for each repetition, and of an access in parts of at
# most 8 bytes; so bytes are always the same, and numbers of accesses where there are neither.
set -u
. "$(dirname "$0")/lib/qemu.sh"
linehome=$build/linehome
[ -x "$build/tests/programs/counted" ] || build=$build/..
plugin count

# Instructions, bytes loaded and stored, loads and stores of a module, to files; then which of them are compared.
watch() { # watch MODULE COLUMNS COMMAND...
	local module=$1 columns=$2
	shift 2
	timeout 60 qemu-x86_64 -plugin "$work/count.so,out=$work/qemu,module=/$module" "$@" >/dev/null 2>"$work/errors"
	timeout 60 "$linehome" count --json "$work/json" -- "$@" >/dev/null 2>>"$work/errors"
	python3 - "$work/json" "$module" >"$work/ours" <<'END'
import json, sys
for module in json.load(open(sys.argv[1]))['modules']:
    if '/' + sys.argv[2] in module['name']:
        print(*(module[key] for key in ('instructions', 'bytes_loaded', 'bytes_stored', 'loads', 'stores')))
END
	cut -d ' ' -f "$columns" "$work/qemu" >"$work/theirs"
	cut -d ' ' -f "$columns" "$work/ours" | cmp -s - "$work/theirs" && [ -s "$work/theirs" ]
}
compare() { # compare MODULE COLUMNS COMMAND...
	watch "$@"
	result $? "${*:3}: columns $2 of $1"
	paste "$work/qemu" "$work/ours" | sed 's/^/# /'
}

for name in load1 load_across store8 read_modify_write locked push_memory push_flags enter_leave call_memory jump_memory \
	string cmpxchg_stores cmpxchg_does_not bit translate; do
	compare counted 1-5 "$build/tests/programs/counted" $name 500
done
for name in sse x87 cmpxchg16b avx_gather; do
	compare counted 1-3 "$build/tests/programs/counted" $name 500
done
for name in rep_movsb rep_compare rep_scan; do
	compare counted 2-3 "$build/tests/programs/counted" $name 500
done
head -c 20000 "$here/code_access_oracle.c" >"$work/text"
compare liblzma.so 2-3 "$(command -v xz)" -T1 -9 -c "$work/text"
! watch counted 1-5 "$build/tests/programs/counted" sse 500
result $? 'found out: loads that one side tells of in two parts'
echo "1..$count"
[ $failures = 0 ]
