#!/bin/bash
# timeout: 90
# Plans of code: instruction starts against objdump's, heads and ends and what is never armed in assembly that says
# itself what is to be found, numbers of system calls, and the cache. More of the cache: tests/code_cache.c.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}
show=$build/tests/tools/plan_show
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export LC_ALL=C XDG_CACHE_HOME=$work/cache
plans=$XDG_CACHE_HOME/linehome/code
count=0 failed=0

ok() { # ok STATUS TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then echo "ok $count - $2"; else
		failed=1
		echo "not ok $count - $2"
	fi
}
is() { # is GOT WANTED TEXT
	[ "$1" = "$2" ]
	ok $? "$3"
	[ "$1" = "$2" ] || diff <(echo "$1") <(echo "$2") | head -n 20 | sed 's/^/# /'
}

# ---- against objdump: every start is one of its, and of its starts so many per thousand are known

# Sorted as comm wants it. What follows the operands of a jump is its target.
listing() { objdump -d -w --no-show-raw-insn "$1" | sed -n -E 's/^ +([0-9a-f]+):\t(.*)/\1 \2/p' >"$work/listing"; }
strays() { comm -23 "$1" "$2" | wc -l; }

compare() { # compare FILE LEAST [STRAYS]: at least LEAST per thousand of objdump's starts
	local kept found
	listing "$1"
	cut -d ' ' -f 1 "$work/listing" | sort >"$work/theirs"
	"$show" "$1" starts | sort >"$work/ours"
	found=$(strays "$work/ours" "$work/theirs")
	kept=$((1000 * $(wc -l <"$work/ours") / $(wc -l <"$work/theirs")))
	echo "# $1: $(wc -l <"$work/ours") starts, $kept per thousand of objdump's, $found not among these"
	[ "$found" -le "${3:-0}" ]
	ok $? "$1: what is taken for a start is one"
	[ $kept -ge "$2" ]
	ok $? "$1: at least $2 of 1000 starts are known"
}

library=$(ldconfig -p | sed -n -E 's|.*libcrypto\.so\.3 \(.*x86-64.*=> (.*)|\1|p' | head -n 1)
compare "$(readlink -f /usr/bin/python3)" 980
# objdump takes data for instructions and comes out of step, some few times.
compare "$(readlink -f "$library")" 850 20
compare "$(readlink -f "$(command -v redis-server)")" 970
compare "$(command -v sqlite3)" 980
awk 'NR == 1000 { $1 = $1 "f" } { print }' "$work/ours" | sort >"$work/planted"
is "$(strays "$work/planted" "$work/theirs")" 1 'caught: a start that is none'

# The last one's ends and heads, by the words of objdump; jumps of code that is in no function are not seen.
awk 'NR == FNR { ours[$1] = 1; next } $1 in ours' "$work/ours" "$work/listing" >"$work/known"
grep -E '^[0-9a-f]+ (bnd |notrack |repz )*(j[a-z]+|call|ret|loop[a-z]*|ud[0-2]|hlt|int3|iret[a-z]*)( |$)' "$work/known" |
	cut -d ' ' -f 1 | sort >"$work/ends"
is "$("$show" "$(command -v sqlite3)" ends | sort)" "$(cat "$work/ends")" 'sqlite3: ends are as objdump has them'
{
	sed -n -E 's/^[0-9a-f]+ (bnd )?(j[a-z]+|call|loop[a-z]*) +([0-9a-f]+)( <.*)?$/\3/p' "$work/known"
	awk 'NR == FNR { end[$1] = 1; next } ends { print $1 } { ends = $1 in end }' "$work/ends" "$work/known"
	objdump --dwarf=frames "$(command -v sqlite3)" | sed -n -E 's/.* FDE .*pc=0*([0-9a-f]+)\..*/\1/p'
} | sort -u | comm -12 - "$work/ours" >"$work/heads"
is "$("$show" "$(command -v sqlite3)" heads | sort)" "$(cat "$work/heads")" 'sqlite3: heads are as objdump has them'
is "$("$show" "$(command -v sqlite3)" check)" whole 'sqlite3: the image is the original with INT3 at what is armed'

# ---- assembly whose labels say what is to be found: H heads, E ends, U starts that are not armed

cat >"$work/marks.S" <<'END'
	.macro mark letter
	.local \letter\@
\letter\@:
	.endm
	.text
f:	.cfi_startproc
	mark H
	xor %eax, %eax
	test %rdi, %rdi
	mark E
	je 3f
	mark H
	inc %rax
3:	mark H
	dec %rax
	mark E
	call g
	mark H
	syscall
	nop
	mark E
	jmp 6f
	mark H
	mark E
	ud2
6:	mark H
	mark E
	loop 3b
	mark H
	mark E
	jrcxz 8f
8:	mark H
	mark E
	hlt
	mark H
	mark E
	mark U
	int3
	mark H
	mark E
	jmp *%rax
	mark H
	mark E
	call *%rax
	mark H
	mark E
	jmp *slot(%rip)
	mark H
	mark E
	xbegin 9f
9:	mark H
	mark E
	iretq
	mark H
	mark E
	sysretq
	mark H
	mark E
	ret
	.cfi_endproc
	nop
	nop
g:	.cfi_startproc
	mark H
	mark E
	bnd ret
	.cfi_endproc
# Jumps into the middle: past a prefix, into a constant, and to an instruction that hides four others.
hidden:	.cfi_startproc
	mark H
	mark E
	.byte 0x74, 0x01
	mark H
	mark U
	lock incl (%rdi)
	nop
	mark E
	.byte 0x74, 0x01
	mark H
	mark U
	.byte 0xb0, 0xb8
	mark U
	nop
	mark U
	nop
	mark U
	nop
	mark U
	nop
	mark E
	ret
	.cfi_endproc
frame:	.cfi_startproc
	.cfi_signal_frame
	mark H
	mark U
	mov $15, %eax
	mark U
	syscall
	.cfi_endproc
broken:	.cfi_startproc
	mark H
	nop
	.byte 0x06
	nop
	ret
	.cfi_endproc
calls:	.cfi_startproc
	mark H
	mov $39, %eax
	mov %rsi, %rdx
	syscall
	syscall
	xor %eax, %eax
	mov $-1, %r10
	syscall
	mov $1, %eax
	mov %ecx, %eax
	syscall
	mov $60, %rax
	mark E
	je 1f
1:	mark H
	syscall
	mov $231, %eax
	cpuid
	syscall
	mov $0x7fff0000, %eax
	syscall
	mov $7, %al
	syscall
	mark E
	ret
	.cfi_endproc
undescribed:
	nop
	ret
	.data
slot:	.quad 0
END
gcc -nostdlib -shared -Wl,--build-id -o "$work/marks.so" "$work/marks.S"
marks() { nm "$work/marks.so" | sed -n -E "s/^0*([0-9a-f]+) t $1[0-9]+\$/\\1/p" | sort -u; }
marks E >"$work/wanted"
is "$("$show" "$work/marks.so" ends | sort)" "$(cat "$work/wanted")" 'ends are where the assembly says'
is "$("$show" "$work/marks.so" heads | sort)" "$(marks H)" 'heads are where the assembly says'
is "$(comm -23 <("$show" "$work/marks.so" starts | sort) <("$show" "$work/marks.so" armed | sort))" "$(marks U)" \
	'not armed: INT3, what hides others and what is hidden, the return trampoline of signals'
is "$("$show" "$work/marks.so" check)" whole 'the image is the original with INT3 at what is armed'
is "$("$show" "$work/marks.so" sites | cut -d ' ' -f 2 | xargs)" '-1 15 39 -1 0 -1 -1 -1 -1 -1' 'numbers of system calls'
is "$("$show" "$work/marks.so" | grep undecoded)" 'undecoded 3' 'what follows bytes that are no instruction is left alone'
[ "$("$show" "$work/marks.so" heads | sort)" != "$(marks E)" ]
ok $? 'caught: heads that are not where the assembly says'

sites=$("$show" "$(ldconfig -p | sed -n -E 's|.*libc\.so\.6 \(.*x86-64.*=> (.*)|\1|p' | head -n 1)" sites)
for nr in 9 10 11 13 14 59; do
	grep -q " $nr\$" <<<"$sites"
	ok $? "the C library: a site of system call $nr"
done

# ---- the cache

cached() { "$show" "$1" | sed -n 's/^cached //p'; }
rm -rf "$XDG_CACHE_HOME"
is "$(cached "$work/marks.so")" 0 'a new plan is made'
is "$(cached "$work/marks.so")" 1 'and is kept'
is "$(stat -c %a "$XDG_CACHE_HOME" "$plans" "$plans"/*.plan | xargs)" '700 700 600' 'for this user alone'
is "$(find "$plans" -type f | wc -l)" 1 'nothing else stays there'
# A plan of a file that has just changed does not know its time of change; when it is opened later, it does.
stamp() { stat -c %i "$plans"/*.plan; }
first=$(stamp)
for _ in 1 2 3 4 5 6 7 8 9 10; do
	[ "$(stamp)" = "$first" ] || break
	sleep 0.5
	cached "$work/marks.so" >/dev/null
done
[ "$(stamp)" != "$first" ]
ok $? 'it learns the time of change when that has settled'
first=$(stamp)
is "$(cached "$work/marks.so") $(stamp)" "1 $first" 'once'
touch -d '1 hour ago' "$work/marks.so"
is "$(cached "$work/marks.so")" 1 'the same code with another time of change: it serves'
cp "$work/marks.so" "$work/copy.so"
is "$(cached "$work/copy.so")" 1 'and for a copy'

# The same build id with other code: the immediate of the first mov of calls.
at=$(($(grep -obUaP '\xb8\x27\x00\x00\x00' "$work/marks.so" | head -n 1 | cut -d : -f 1) + 1))
printf '\x28' | dd of="$work/copy.so" bs=1 seek=$at conv=notrunc status=none
is "$(cached "$work/copy.so") $("$show" "$work/copy.so" sites | sed -n '3s/.* //p')" '0 40' 'a changed file has a new plan'
is "$(cached "$work/marks.so") $("$show" "$work/marks.so" sites | sed -n '3s/.* //p')" '0 39' 'and so has the old one after that'

touch -r "$work/marks.so" "$work/stamp"
printf '\x29' | dd of="$work/marks.so" bs=1 seek=$at conv=notrunc status=none
touch -r "$work/stamp" "$work/marks.so"
is "$(cached "$work/marks.so") $("$show" "$work/marks.so" sites | sed -n '3s/.* //p')" '0 41' \
	'changed in its place, its time put back: a new plan'
printf '\x27' | dd of="$work/marks.so" bs=1 seek=$at conv=notrunc status=none

plan=$(echo "$plans"/*.plan)
damage() { # damage TEXT SHELL: what is done to $plan
	cached "$work/marks.so" >/dev/null
	eval "$2"
	is "$(cached "$work/marks.so") $(cached "$work/marks.so")" '0 1' "replaced: $1"
}
damage 'a plan whose code is damaged' 'printf x | dd of="$plan" bs=1 seek=5000 conv=notrunc status=none'
damage 'a plan whose head is damaged' 'printf x | dd of="$plan" bs=1 seek=130 conv=notrunc status=none'
damage 'a plan that is cut off' 'truncate -s 8192 "$plan"'
damage 'a plan that is empty' ': >"$plan"'
damage 'a plan of another version' 'printf "\x63" | dd of="$plan" bs=1 seek=8 conv=notrunc status=none'
damage 'a link in place of a plan' 'mv "$plan" "$work/moved"; ln -s "$work/moved" "$plan"'
damage 'another plan under its name' '"$show" "$(command -v sqlite3)" >/dev/null; mv "$(ls "$plans"/*.plan | grep -v "$plan")" "$plan"'
if [ "$(id -u)" = 0 ]; then
	damage 'a plan that belongs to somebody else' 'chown 12345 "$plan"'
	mkdir "$work/small"
	if mount -t tmpfs -o size=8k tmpfs "$work/small" 2>/dev/null; then
		is "$(XDG_CACHE_HOME=$work/small "$show" "$work/marks.so" check)" whole 'no room in the cache: the plan is in memory'
		is "$(find "$work/small" -type f)" '' 'and no half of it stays'
		umount "$work/small"
	else
		ok 0 'no room in the cache # SKIP nothing can be mounted here'
	fi
fi
ln -s /dev/null/none "$work/none"
is "$(XDG_CACHE_HOME=$work/none/cache "$show" "$work/marks.so" check)" whole 'a cache that cannot be: the plan is in memory'
is "$(env -u XDG_CACHE_HOME -u HOME "$show" "$work/marks.so" check)" whole 'no home: likewise'
is "$(env -u XDG_CACHE_HOME HOME="$work" "$show" "$work/marks.so" check; find "$work/.cache/linehome/code" -type f | wc -l)" $'whole\n1' \
	'without XDG_CACHE_HOME it is ~/.cache'

# One that is left behind by who was killed, and one that somebody is writing.
fresh=${plan%.plan}.new
rm -f "$plan" && touch "$fresh"
is "$(cached "$work/marks.so") $(cached "$work/marks.so")" '0 0' 'somebody else writes it: the plan is in memory'
touch -d '1 hour ago' "$fresh"
is "$(cached "$work/marks.so") $(cached "$work/marks.so")" '0 1' 'what was left behind is replaced'

race() {
	local i
	rm -f "$plans"/*
	for i in 1 2 3 4 5 6; do "$show" "$library" check >"$work/race.$i" & done
	wait
	[ "$(cat "$work"/race.?)" = "$(yes whole | head -n 6)" ] && [ "$(cached "$library")" = 1 ] &&
		[ "$(find "$plans" -type f | wc -l)" = 1 ]
}
race
ok $? 'six at once: each has a plan, one is kept'

# ---- what has none

: >"$work/empty"
is "$("$show" "$work/empty")" "ENOEXEC $work/empty: it is no ELF file for x86-64" 'an empty file'
is "$("$show" tests/code_plan.sh)" "ENOEXEC tests/code_plan.sh: it is no ELF file for x86-64" 'a script'
is "$("$show" "$work")" "ENOEXEC $work: it is no file with code" 'a folder'
echo 'int x;' | gcc -x c -c -o "$work/x.o" -
is "$("$show" "$work/x.o" | cut -d ' ' -f 1)" ENOEXEC 'an object'
printf '.globl _start\n_start: ret\n' | gcc -nostdlib -static -x assembler -o "$work/bare" -
is "$("$show" "$work/bare" 2>&1)" "ENODATA $work/bare: nothing in it tells where its functions are" 'code without .eh_frame'
echo "1..$count"
exit $failed
