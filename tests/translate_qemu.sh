#!/bin/bash
# timeout: 120
# Per instruction of a program, by its place in its file: the loads, stores and bytes that the translator's client sees are
# those of qemu's own translator. Numbers are compared where every access is at most 8 plain bytes, bytes always: qemu
# tells of larger accesses, of repeated ones and of areas in parts.
set -u
. "$(dirname "$0")/lib/qemu.sh"
[ -f "$build/tests/agents/profile.so" ] || build=$build/..
plugin profile
cat >"$work/compare.py" <<'END'
import sys
def read(path, part):
    maps, found = [], {}
    for line in open(path, errors='replace'):
        words = line.split()
        if words[0] != 'A':
            if len(words) >= 6 and '/' + part in words[5]:
                start, end = (int(x, 16) for x in words[0].split('-'))
                maps.append((start, end, int(words[2], 16)))
            continue
        address, numbers = int(words[1], 16), [int(x) for x in words[2:]]
        for start, end, offset in maps:
            if start <= address < end:
                entry = found.setdefault(address - start + offset, [1, 0, 0, 0, 0])
                entry[0] &= numbers[0]
                for i in range(1, 5):
                    entry[i] += numbers[i]
    return {at: entry for at, entry in found.items() if any(entry[1:])}
ours, theirs = read(sys.argv[1], sys.argv[3]), read(sys.argv[2], sys.argv[3])
wrong = 0
for at in sorted(ours.keys() | theirs.keys()):
    a, b = ours.get(at, [1, 0, 0, 0, 0]), theirs.get(at, [1, 0, 0, 0, 0])
    columns = (1, 2, 3, 4) if a[0] else (2, 4)
    if any(a[i] != b[i] for i in columns):
        wrong += 1
        if wrong <= 10:
            print(f'# {at:#x}: loads, bytes, stores, bytes: {a[1:]}, by qemu {b[1:]}')
print(f'# {len(ours)} instructions, {sum(e[1] + e[3] for e in ours.values())} accesses, {wrong} not the same')
sys.exit(wrong > 0 or len(ours) == 0)
END
# watch MODULE COMMAND...: their file names begin with MODULE
watch() {
	local module=$1
	shift
	timeout 60 qemu-x86_64 -plugin "$work/profile.so,out=$work/theirs" "$@" >"$work/output" 2>"$work/errors"
	timeout 60 env LH_PROFILE="$work/ours" LD_PRELOAD="$build/tests/agents/profile.so" "$@" >"$work/output2" 2>>"$work/errors"
	cmp -s "$work/output" "$work/output2" && python3 "$work/compare.py" "$work/ours" "$work/theirs" "$module"
}
compare() { # compare MODULE COMMAND...
	watch "$@"
	result $? "$1: $(basename "$2") ${*:3}"
}

for name in load1 load_across store8 read_modify_write locked push_memory push_flags enter_leave call_memory jump_memory string \
	cmpxchg_stores cmpxchg_does_not bit translate sse x87 cmpxchg16b avx_gather rep_movsb rep_compare rep_scan; do
	compare counted "$build/tests/programs/counted" $name 500
done
head -c 20000 "$here/code_access_oracle.c" >"$work/text"
cd "$work" || exit 1
compare liblzma.so "$(command -v xz)" -T1 -9 -c text
! LH_PROFILE_LESS=1 watch counted "$build/tests/programs/counted" push_memory 500 >"$work/less" && grep -q '[1-9][0-9]* not the same' "$work/less"
result $? 'found out: pushes that one side does not tell of'
echo "1..$count"
[ $failures = 0 ]
