#!/bin/bash
# timeout: 200
# Debug information: where it is found, and that what is missing, of another build or damaged is told and is
# never a crash.
# shellcheck source=tests/lib/cover.sh
. "$(dirname "$0")/lib/cover.sh"

lines() { # lines RECORD: what a report says of lines, all and hit
	"$tools/record_report" "$1" json | python3 -c '
import json, sys
report = json.load(sys.stdin)
print(report["totals"]["lines"]["all"], report["totals"]["lines"]["hit"])'
}
why() { "$tools/record_report" "$work/record" json | python3 -c '
import json, sys
print(json.load(sys.stdin)["modules"][0]["why_not"])'; }
says() { # says PATTERN TEXT: why the program has no lines
	local text
	text=$(why)
	[[ $text == *$1* ]]
	report $? "$2"
	[[ $text == *$1* ]] || echo "# $text"
}
# record PROGRAM: all of main ran.
record() {
	local from size
	read -r from size < <(nm -S "$1.full" | awk '/ main$/ { print $1, $2 }')
	objdump -d --no-show-raw-insn --start-address="0x$from" --stop-address="$((0x$from + 0x$size))" "$1.full" |
		sed -n -E "s|^ +([0-9a-f]+):\t.*|$1 0x\1|p" | "$tools/record_blocks" "$work/record"
}
cd "$work" || exit 1

cat >two.c <<'END'
int other(int a);
int other(int a)
{
	return a + 1;
}
END
cp "$root/tests/programs/cover_flow.c" one.c
sed -i 's/^static int total;/int other(int a); static int total;/; s/^	return 0;$/	return other(-1);/' one.c
gcc -O0 -g -Wl,--build-id -o program one.c two.c
cp program program.full
record "$work/program"
expected=$(lines "$work/record")
[ "${expected%% *}" -gt 60 ]
report $? "two units: $expected lines"
"$tools/record_report" "$work/record" lcov | grep -c '^SF:' | grep -q '^2$'
report $? 'both have a file'

# Separate files.
objcopy --only-keep-debug program.full side.debug
objcopy --strip-all program.full program
record "$work/program"
says 'no debug information' 'a stripped program says that it has no debug information'
"$tools/record_report" "$work/record" lcov | cmp -s - /dev/null
report $? 'and has no lines'
"$tools/record_report" "$work/record" summary | grep -q 'no debug information'
report $? 'the summary says why'
objcopy --strip-all --add-gnu-debuglink=side.debug program.full program
[ "$(lines "$work/record")" = "$expected" ]
report $? 'a file that .gnu_debuglink names, beside the program'
mkdir .debug
mv side.debug .debug/
[ "$(lines "$work/record")" = "$expected" ]
report $? 'in .debug/'
gcc -O0 -g -DOTHER -Wl,--build-id -o strange two.c one.c
objcopy --only-keep-debug strange .debug/side.debug
says 'no debug information' 'one of another build is not believed'
gcc -O0 -g -Wl,--build-id=none -o program.full one.c two.c
objcopy --only-keep-debug program.full .debug/side.debug
objcopy --strip-all --add-gnu-debuglink=.debug/side.debug program.full program
record "$work/program"
[ "$(lines "$work/record")" = "$expected" ]
report $? 'without a build id its checksum counts'
printf x >>.debug/side.debug
says 'no debug information' 'and one with another checksum is not believed'

# By build id: only root may put a file there.
gcc -O0 -g -Wl,--build-id -o program.full one.c two.c
id=$(readelf -n program.full | sed -n 's/.*Build ID: //p')
objcopy --strip-all program.full program
record "$work/program"
place=/usr/lib/debug/.build-id/${id:0:2}
if mkdir -p "$place" 2>/dev/null && objcopy --only-keep-debug program.full "$place/${id:2}.debug" 2>/dev/null; then
	[ "$(lines "$work/record")" = "$expected" ]
	report $? 'by build id'
	rm -f "$place/${id:2}.debug"
	rmdir --ignore-fail-on-non-empty "$place"
else
	count=$((count + 1))
	echo "ok $count - by build id # SKIP not root"
fi

# Compressed, in units of DWARF 4 and 5 together, of types apart, of many units in one with -flto.
for options in '-gz' '-gdwarf-4 -fdebug-types-section' '-g3' '-ggdb3 -flto' '-gsplit-dwarf'; do
	# shellcheck disable=SC2086
	gcc -O0 -g $options -o program.full one.c two.c
	cp program.full program
	record "$work/program"
	[ "$(lines "$work/record")" = "$expected" ]
	report $? "$options"
done
gcc -O0 -gdwarf-4 -c one.c
gcc -O0 -gdwarf-5 -c two.c
gcc -o program.full one.o two.o
cp program.full program
record "$work/program"
[ "$(lines "$work/record")" = "$expected" ]
report $? 'units of DWARF 4 and of DWARF 5'
if command -v dwz >/dev/null; then
	gcc -O0 -g -o other one.c two.c
	cp program.full other2
	dwz -m "$work/common" program other2 2>/dev/null
	record "$work/program"
	[ "$(lines "$work/record")" = "$expected" ]
	report $? 'with what dwz has taken out'
	printf 'namespace n { struct S { int f(int); }; int S::f(int a) { return a; } }\nint main() { return n::S().f(0); }\n' >three.cc
	g++ -O0 -g -o program.full three.cc
	cp program.full program
	cp program other2
	dwz -m "$work/common" program other2 2>/dev/null
	record "$work/program"
	readelf -SW program | grep -q gnu_debugaltlink && "$tools/record_report" "$work/record" lcov | grep -q '^FN:1,n::S::f$'
	report $? 'names stay whole'
else
	count=$((count + 1))
	echo "ok $count - with what dwz has taken out # SKIP there is no dwz"
fi

# Functions by symbols alone: two of one name are two; what gcc has split off or copied is of the function.
cat >four.c <<'END'
extern void stop(void) __attribute__((cold, noreturn));
static __attribute__((noinline)) int same(int a) { if (a > 100) stop(); return a * 3; }
int four(int a);
int four(int a) { return same(a); }
END
sed 's/\<four\>/five/g; s/a \* 3/a * 5/' four.c >five.c
cat >six.c <<'END'
#include <stdlib.h>
int four(int a), five(int a);
void stop(void);
void stop(void) { exit(1); }
static inline int inlined(int a) { return a * a + 7; }
static inline int not_reached(int a) { return a * a + 9; }
int main(int argc, char **argv)
{
	if (argc > 1)
		return not_reached(argc + (argv[1] == NULL));
	return inlined(argc) + four(argc) + five(argc);
}
END
functions() { # functions: name, whether it ran, and whether it is inlined
	"$tools/record_report" "$work/record" json | python3 -c '
import json, sys
for f in json.load(sys.stdin)["functions"]:
    print(f["name"], f["hit"], f["inlined"])' | sort
}
gcc -O2 -g -o program.full four.c five.c six.c
cp program.full program
# The first instructions of main, up to the branch: not what is taken with an argument.
printf '%s 0x%s\n' "$work/program" "$(nm program | awk '$3 == "main" { print $1 }')" | "$tools/record_blocks" record
[ "$(functions)" = "five False False
four False False
inlined False True
main True False
not_reached False True
same False False
same False False
stop False False" ]
report $? 'functions that are inlined everywhere are there, and did not run where they did not'
record "$work/program"
[ "$(functions | grep -c -E '^(inlined|not_reached) True True$')" = 2 ]
report $? 'and ran where they did'
objcopy --strip-debug program.full program
[ "$(functions | grep -c '^same ')" = 2 ] && ! functions | grep -q '\.cold\|\.part'
report $? 'by symbols, two functions of one name are two, and their cold parts are none'

# A long function that the linker has thrown away lies at address 0, to its rows, and reaches over code that is
# there.
python3 -c '
print("int total; int dead(int a);\nint dead(int a)\n{")
for i in range(3000): print("total += a * %d;" % i)
print("return a;\n}\nint main(int argc, char **argv)\n{\n\tif (argc > 1)\n\t\ttotal = 7;\n\treturn total;\n}")' >seven.c
gcc -O0 -g -ffunction-sections -Wl,--gc-sections -o program.full seven.c
cp program.full program
record "$work/program"
[ "$("$tools/record_report" "$work/record" lcov | grep -c '^DA:')" = 4 ]
report $? 'what the linker has thrown away has no lines'

# The file is gone, or another.
cp program.full program
record "$work/program"
mv program gone
says 'gone' 'a file that is gone'
gcc -O1 -g -o program one.c two.c
says 'changed' 'a file that is another one now'
printf 'not a program' >program
says 'no longer' 'a file that is no program any more'
mkfifo pipe
mv pipe program 2>/dev/null || { rm program && mkfifo program; }
timeout 10 true
[ -n "$(timeout 10 "$tools/record_report" "$work/record" json | head -c 1)" ]
report $? 'a file that would block is not waited for'
rm -f program

# Damage: the debug information has bytes changed, or ends early. Whatever it says, nothing crashes.
cat >damage.py <<'END'
import random, subprocess, sys
full, program, record, tool = sys.argv[1:5]
data = open(full, "rb").read()
sections = subprocess.run(["readelf", "-SW", full], capture_output=True, text=True).stdout
places = []
for line in sections.splitlines():
    words = line.replace("[", " ").replace("]", " ").split()
    if len(words) > 5 and words[1].startswith(".debug"):
        places.append((int(words[4], 16), int(words[5], 16)))
worst = 0
for seed in range(int(sys.argv[5])):
    rng = random.Random(seed)
    copy = bytearray(data)
    for _ in range(rng.choice((1, 3, 20, 200))):
        start, size = rng.choice(places)
        copy[start + rng.randrange(size)] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
    with open(program, "wb") as file:
        file.write(copy)
    for form in ("json", "summary"):
        done = subprocess.run([tool, record, form], capture_output=True, timeout=60)
        if done.returncode not in (0, 1) or (done.returncode == 1 and not done.stderr):
            print("seed", seed, form, done.returncode, done.stderr[-2000:].decode(errors="replace"))
            worst = 1
sys.exit(worst)
END
cat >cut.py <<'END'
import struct, subprocess, sys
data = bytearray(open(sys.argv[1], "rb").read())
sections = subprocess.run(["readelf", "-SW", sys.argv[1]], capture_output=True, text=True).stdout
line = next(line for line in sections.splitlines() if ".debug_info" in line).split("]")[1].split()
start = int(line[3], 16)
second = start + 4 + struct.unpack_from("<I", data, start)[0]
struct.pack_into("<I", data, second, 0x7fffffff)
open(sys.argv[2], "wb").write(data)
END
gcc -O0 -g -o program.full one.c two.c
cp program.full program
record "$work/program"
python3 cut.py program.full program
says 'a part of its debug information is damaged' 'a unit that cannot be read is told'
"$tools/record_report" "$work/record" lcov | grep -q "^SF:$work/one.c"
report $? 'and the one before it is read'
cp program.full program
record "$work/program"
python3 damage.py "$work/program.full" "$work/program" "$work/record" "$tools/record_report" "${LH_TEST_DAMAGE:-60}" >damage.txt 2>&1
report $? 'damaged debug information is read without a crash'
sed 's/^/# /' damage.txt | head
objcopy --remove-section=.debug_abbrev program.full program
why >/dev/null
report $? 'without .debug_abbrev there is a report'
objcopy --remove-section=.debug_line program.full program
says 'no lines' 'without .debug_line it says that there are no lines'
for size in 0 1 63 64 1000 5000 10000; do
	head -c "$size" program.full >program
	"$tools/record_report" "$work/record" summary >/dev/null 2>errors || break
done
[ ! -s errors ]
report $? 'a file that ends early'

echo "1..$count"
exit $failed
