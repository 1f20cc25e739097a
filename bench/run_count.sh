#!/bin/bash
# What counting costs: programs plain, translated and nothing more, under `linehome count`, with --lines, with
# --footprint; and under valgrind's none and lackey and qemu-user with a plugin that counts accesses. Processor time of
# all processes together; the variants take turns within each repetition. What counting adds is told for an access.
#
#     bench/run_count.sh      REPETITIONS=5, PROGRAMS="sequential random calls xz python cc1", VARIANTS="..." in the
#                             environment; SLOW=1, the repetitions of valgrind and qemu
. "$(dirname "$0")/lib/bench.sh"
chosen=${PROGRAMS:-sequential random calls xz python cc1}
variants=${VARIANTS:-plain translated count lines footprint none lackey qemu}
slow=${SLOW:-1}
agent=$build/tests/agents/whole.so
export LC_ALL=C PYTHONHASHSEED=0
[ -e "$agent" ] || make -s "$agent" || exit 1

# Loops that a compiler does not change: a load in 6 instructions; a load and a store far away; a call and a return.
cat >"$work/loops.c" <<'END'
#include <stdint.h>
static uint64_t array[1 << 17];
__attribute__((noinline)) static uint64_t sequential(int rounds)
{
	uint64_t sum = 0;
	for (int k = 0; k < rounds; k++)
		for (int i = 0; i < 1 << 17; i++) {
			sum += array[i] ^ k;
			__asm__ volatile("" : : "r"(sum));
		}
	return sum;
}
__attribute__((noinline)) static uint64_t randomly(int rounds)
{
	uint64_t x = 1;
	for (int k = 0; k < rounds; k++) {
		x = x * 6364136223846793005u + 1;
		array[x >> 47] += x;
	}
	return x;
}
__attribute__((noinline)) static int calls(int n) { return n < 2 ? n : calls(n - 1) + calls(n - 2); }
int main(int count, char **words)
{
	switch (words[1][0]) {
	case 's': return sequential(2000) == 1;
	case 'r': return randomly(100000000) == 3;
	default: return calls(36) == 4;
	}
}
END
gcc -O2 -fno-optimize-sibling-calls -o "$work/loops" "$work/loops.c" || exit 1
head -c 6000000 "$build/liblinehome.a" >"$work/input"
printf 's = 0\nfor i in range(3000000):\n    s += i * i %% 7\nprint(s)\n' >"$work/loop.py"
printf '#include <stdio.h>\n#include <stdlib.h>\n#include <math.h>\nint main(void) { return printf("%%f", sin(1)); }\n' >"$work/unit.c"
gcc -E "$work/unit.c" -o "$work/unit.i"
command_of() { # command_of PROGRAM: $command
	case $1 in
	sequential | random | calls) command=("$work/loops" "$1") ;;
	xz) command=(xz -1 -T1 -c "$work/input") ;;
	python) command=(/usr/bin/python3 "$work/loop.py") ;;
	cc1) command=("$(gcc -print-prog-name=cc1)" -quiet -fpreprocessed -O2 "$work/unit.i" -o /dev/stdout) ;;
	esac
}
plugin() {
	[ -e "$work/count.so" ] || gcc -O2 -fPIC -shared -o "$work/count.so" tests/qemu/count.c
}

run() { # run VARIANT: $command, under it
	case $1 in
	plain) "${command[@]}" ;;
	translated) LH_WHOLE=bare LD_PRELOAD=$agent "${command[@]}" ;;
	count) "$linehome" count --json "$work/json" -- "${command[@]}" ;;
	lines) "$linehome" count --lines --json "$work/json.lines" -- "${command[@]}" ;;
	footprint) "$linehome" count --footprint --json "$work/json.lines" -- "${command[@]}" ;;
	none) valgrind --tool=none "${command[@]}" ;;
	lackey) valgrind --tool=lackey --trace-mem=no --basic-counts=yes "${command[@]}" ;;
	qemu) plugin && qemu-x86_64 -plugin "$work/count.so,out=$work/qemu,module=/" "${command[@]}" ;;
	esac
}

# One run: its processor time to a file; what it prints is compared.
one() { # one PROGRAM VARIANT
	local user system
	command_of "$1"
	TIMEFORMAT='%U %S'
	{ time run "$2" >"$work/out" 2>"$work/err"; } 2>"$work/time"
	read -r user system <"$work/time"
	keep "$1.$2" "$(awk "BEGIN { print $user + $system }")"
	[ "$2" = plain ] && cp "$work/out" "$work/plain.$1"
	cmp -s "$work/out" "$work/plain.$1" || { echo "# $1 $2: another output"; failed=1; }
}
accesses() { python3 -c "import json; t = json.load(open('$work/accesses.$1'))['total']; print(t['loads'] + t['stores'])"; }
# What a variant adds to a plain translation, in ns an access.
added() { # added PROGRAM VARIANT
	awk "BEGIN { printf \"%.2f\", 1e9 * ($(median "$1.$2") - $(median "$1.translated")) / $(accesses "$1") }"
}

show() { # show PROGRAM
	local variant plain time
	plain=$(median "$1.plain")
	for variant in $variants; do
		time=$(median "$1.$variant")
		[ "$time" != - ] || continue
		printf '%-11s %-10s %8.2f s  %7.2fx' "$1" "$variant" "$time" "$(awk "BEGIN { print $time / $plain }")"
		case $variant in
		count | lines | footprint) printf '   %6s ns an access more than translated' "$(added "$1" "$variant")" ;;
		esac
		echo
	done
}

machine
failed=0
for program in $chosen; do
	for repetition in $(seq "$repetitions"); do
		for variant in $variants; do
			case $variant in none | lackey | qemu)
				[ "$repetition" -le "$slow" ] || continue
				command -v valgrind qemu-x86_64 >/dev/null || continue
				;;
			esac
			one "$program" "$variant"
			[ "$variant" != count ] || cp "$work/json" "$work/accesses.$program"
		done
	done
	show "$program"
	aim "$program: what counting adds, ns an access" "$(added "$program" count)" '<=' 1.5
done
[ "$failed" = 0 ]
