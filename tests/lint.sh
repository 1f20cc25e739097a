#!/bin/bash
# timeout: 120
# What a compiler does not check: direction of inclusion, symbols, calls, global state, text, documentation.
# Each check is a function that is given a tree and prints one line for each breach. It is run on this tree, where
# it must print nothing, and on a small tree with a planted breach, where it must print something.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${LINEHOME_BUILD:-build}

# The layers, lowest first; those on one line may not include each other. A file may include what stands in its
# own layer or below. The longest folder that fits counts. That run stands above serve is for the node that it starts
# where it is given none.
layers='
sys
line
code
net/data
net
store
port
home
service/client
service/serve service/pool service/code service/launch
service/run service/count service/atomic service/migrate
cli
'
core='sys line code net/data store port home'

# The functions of libc and of the compiler that code without libc's thread-local storage may call: they compute and
# do nothing else.
pure='clock_gettime memcpy memmove memset memcmp memchr strlen strnlen strcmp strncmp strchr strrchr __popcountdi2'
# What no call of the library may do: end the process, or write to its standard streams.
banned='exit _exit _Exit abort __assert_fail __assert_perror_fail perror err errx warn warnx printf puts putchar vprintf stdout stderr __printf_chk'

# ---- the checks

check_layers() {
	(cd "$1/src" && grep -rnE '^[[:space:]]*#[[:space:]]*include "' --include='*.[chS]' .) |
		sed -E 's|^\./([^:]*):([0-9]+):[^"]*"([^"]*)".*|\1 \2 \3|' |
		layers=$layers awk '
		function layer(path, best, name) {
			for (name in rank)
				if (index(path, name "/") == 1 && length(name) > length(best))
					best = name
			return best
		}
		BEGIN {
			n = split(ENVIRON["layers"], line, "\n")
			for (i = 1; i <= n; i++) {
				m = split(line[i], word, " ")
				for (j = 1; j <= m; j++)
					rank[word[j]] = i
			}
		}
		$3 == "linehome.h" || $3 ~ /^linehome\// || $3 !~ "/" { next }
		{
			from = layer($1); to = layer($3)
			if (from == "" || to == "")
				print "src/" $1 ":" $2 ": " $3 " is in no layer"
			else if (from != to && rank[to] >= rank[from])
				print "src/" $1 ":" $2 ": " from " includes " $3 ", which is not below it"
		}'
}

# The shared library exports the functions that the public header declares and nothing else; the archive, which
# hides nothing from the linker, keeps to the prefix; the agents lend nothing, but for one that takes mmap's place.
check_symbols() {
	nm -D --defined-only "$2/liblinehome.so" | awk '$2 != "A" { sub("@.*", "", $3); print $3 }' |
		while read -r symbol; do
			[[ $symbol == lh_[a-z]* || $symbol == tx_@(begin|end|abort) ]] || echo "liblinehome.so: exports $symbol"
			grep -q -r "\<$symbol(" "$1/include" ||
				echo "liblinehome.so: exports $symbol, which linehome.h does not declare"
		done
	nm -g --defined-only "$2/liblinehome.a" 2>/dev/null | awk 'NF == 3 && $3 !~ /^(lh_|tx_(begin|end|abort)$)/ { print "liblinehome.a: defines " $3 }'
	nm -D --defined-only "$2/liblinehome-uffd.so" | awk '$3 != "mmap" && $3 != "mmap64" { print "liblinehome-uffd.so: exports " $3 }'
	for agent in run count atomic; do
		nm -D --defined-only "$2/liblinehome-$agent.so" | awk -v agent="$agent" '{ print "liblinehome-" agent ".so: exports " $3 }'
	done
}

objects() {
	local folder
	for folder in $2; do
		find "$1/obj/src/$folder" -name '*.o' 2>/dev/null
	done
}

# The default table itself is the one place that calls libc's allocator. What takes over the program's system calls
# decodes instructions, finds the bounds of a section of its own, and reads what the kernel told the process.
inside_objects() { [ ! -d "$1/inside" ] || find "$1/inside/obj/src/port/code" -name '*.o'; }
check_calls() {
	local object
	for object in $(objects "$2" "$core") $(inside_objects "$2"); do
		nm -u "$object" | awk -v object="${object#"$2/obj/"}" -v pure=" $pure " '
			/ lh_/ || / _GLOBAL_OFFSET_TABLE_$/ || index(pure, " " $2 " ") { next }
			object == "src/sys/sys.o" && ($2 == "posix_memalign" || $2 == "free") { next }
			(index(object, "src/code/") == 1 || index(object, "src/port/translate/") == 1 || index(object, "src/port/page/intercept/") == 1) && $2 ~ /^Zydis/ { next }
			index(object, "src/port/page/intercept/") == 1 && $2 ~ /^(Zydis.*|__(start|stop)_lh_syscall|getauxval)$/ { next }
			{ print object ": needs " $2 }'
	done
	for object in $(objects "$2" "net service/client service/serve service/pool service/code"); do
		nm -u "$object" | awk -v object="${object#"$2/obj/"}" -v banned=" $banned " '
			index(banned, " " $2 " ") { print object ": needs " $2 }'
	done
}

# What the translator executes between two instructions of a program leaves vector registers alone, but for what puts
# them aside.
check_vectors() {
	local object
	for object in $(objects "$2" 'port/translate service/count/agent' | grep -v '/translate/vectors.o$') "$2"/obj/src/sys/{lock,sys}.o; do
		[ ! -e "$object" ] || ! objdump -d "$object" | grep -q -E '%([xyz]mm|st)' || echo "${object#"$2/obj/"}: uses vector registers"
	done
}

# Variables that can change, outside of any handle. Tables of pointers are in .data.rel.ro, which cannot. These are
# known: the choice among variants for this processor, which is the same whoever makes it; the one through which
# rewritten system calls find their handle; the one through which a signal finds its pool; the pools that the process
# has open, and those that a thread's tx_begin has joined; its translator; and the inside agent, which has nothing but
# its handler; nobody hands those anything.
check_state() {
	local object name
	for object in $(objects "$2" "$core net service/client service/serve service/pool service/code" | sort -u) $(inside_objects "$2"); do
		name=${object#"$2/"} name=${name#inside/}
		size -A "$object" | awk -v object="${name#obj/}" '
			$1 ~ /^\.(t?data|t?bss)(\.|$)/ && $1 !~ /^\.data\.rel\.ro/ && $2 > 0 &&
			!(object ~ "^src/(line/variants|port/page/intercept/open).o$" && $2 == 8) &&
			!(object == "src/service/pool/signal.o" && $2 <= 1024) &&
			!(object ~ "^src/service/pool/(translated|leaving).o$" && $2 <= 1024) &&
			!(object == "src/service/pool/here.o" && $2 <= 32768) &&
			!(object == "src/service/pool/atomic.o" && $1 == ".tbss" && $2 <= 1024) &&
			!(object == "src/port/code/inside/memory.o" && $1 == ".bss") {
				print object ": " $2 " bytes of global state in " $1 }'
	done
}

# What is put into programs has nobody to link it: all its relocations are relative to where it lies, it needs no
# symbol and no thread-local storage, executes no data, and names its two entries only.
check_blob() {
	local blob=$2/linehome-inside
	readelf -rW "$blob" | awk '/R_X86_64_/ && $3 != "R_X86_64_RELATIVE" { print "linehome-inside: a relocation " $3 }'
	readelf --dyn-syms -W "$blob" | awk '$1 ~ /^[0-9]+:$/ && $1 != "0:" { print $7 == "UND" ? "linehome-inside: needs " $8 : "linehome-inside: exports " $8 }' |
		grep -v -E 'exports lh_inside_(start|stop)$'
	readelf -lW "$blob" | awk '
		$1 == "GNU_STACK" && $7 ~ /E/ { print "linehome-inside: an executable stack" }
		$1 == "LOAD" && $NF != "0x1000" { print "linehome-inside: a segment of other pages" }
		$1 == "TLS" || $1 == "INTERP" { print "linehome-inside: has " $1 }'
}

texts() {
	find "$1" \( -name .git -o -name build -o -name corpus \) -prune -o -type f \
		\( -name '*.[chS]' -o -name '*.sh' -o -name '*.md' -o -name '*.[0-9]' -o -name '*.map' -o -name '*.bash' \
		-o -name '*.py' -o -name '*.in' -o -name Makefile -o -path '*/scripts/*' -o -path '*/.ci/*' \) -print
}

check_text() {
	texts "$1" | xargs -d '\n' grep -nE $'[ \t]+$' /dev/null | sed 's/$/: blank at the end of a line/'
	texts "$1" | xargs -d '\n' grep -nE $'^\t* +\t' /dev/null | sed 's/$/: tab after a space/'
	texts "$1" | xargs -d '\n' grep -nE '\<(TO''DO|FIX''ME|XX''X)\>' /dev/null | sed 's/$/: unfinished/'
}

# A function that does not fit here does two things.
longest=80
check_length() {
	find "$1/src" -name '*.c' -exec awk -v longest="$longest" '
		/^{/ { start = FNR }
		/^}/ && start { if (FNR - start - 1 > longest) print FILENAME ":" start ": a function of " FNR - start - 1 " lines"; start = 0 }' {} +
}

# Columns of C, a tab being eight. Text that the assembler reads is let through.
widest=110
check_width() {
	find "$1" \( -name .git -o -name build \) -prune -o -name '*.[ch]' -exec awk -v widest="$widest" '
		/\\n"/ { next }
		{
			line = ""
			for (i = 1; i <= length($0); i++) {
				c = substr($0, i, 1)
				if (c == "\t")
					do line = line " "; while (length(line) % 8)
				else
					line = line c
			}
			if (length(line) > widest)
				print FILENAME ":" FNR ": " length(line) " columns"
		}' {} +
}

# Commands of linehome's --help, or of a command's.
commands() { "$1/linehome" ${2:+"$2"} --help | sed -n -E 's/^  ([a-z][a-z-]*) .*/\1/p'; }
# Options of the --help of a command, and of commands of it, with their dashes.
options() {
	local word
	for word in '' $(commands "$1" "$2"); do
		"$1/linehome" "$2" ${word:+"$word"} --help | sed -n -E 's/^  (--[a-z-]+).*/\1/p'
	done | sort -u
}
# A terminal's bold is a letter, a backspace and the letter again.
rendered() { mandoc -T ascii "$1" 2>/dev/null | sed $'s/.\b//g'; }

check_documents() {
	local command word option page
	for command in $(commands "$2"); do
		page=$1/docs/man/linehome-$command.1
		[ -e "$page" ] || echo "linehome $command: has no man page"
		rendered "$1/docs/man/linehome.1" | grep -q -E "linehome[ -]$command\>" || echo "linehome.1: does not name $command"
		grep -q "\<$command\>" "$1/src/cli/completion.bash" || echo "completion.bash: lacks $command"
		for word in $(commands "$2" "$command"); do
			rendered "$page" | grep -q -E "linehome $command $word\>" || echo "linehome-$command.1: does not name $word"
			grep -q -E "'$command $word'|\<$command\).*\<$word\>" "$1/src/cli/completion.bash" || echo "completion.bash: lacks $command $word"
		done
		for option in $(options "$2" "$command"); do
			# What all commands have may stand in linehome(1) alone.
			{ rendered "$page"; rendered "$1/docs/man/linehome.1" | grep -E -- '--(help|version)'; } |
				grep -q -E -- "^ +$option( |\$)" || echo "linehome-$command.1: lacks $option"
			grep -q -E -- "$option( |\$|\"|')" "$1/src/cli/completion.bash" || echo "completion.bash: lacks $option"
		done
		rendered "$page" | sed -n -E 's/^ {5,8}(--[a-z-]+).*/\1/p' | while read -r option; do
			options "$2" "$command" | grep -q -x -- "$option" || echo "linehome-$command.1: $option is no option"
		done
	done
}

# Files that the documents name, as links or as `paths/with.extension`. NAME stands for a name to be chosen.
check_links() {
	find "$1" \( -name .git -o -name build \) -prune -o -name '*.md' -print | while read -r document; do
		{
			grep -oE '\]\([^)#:]+' "$document" | cut -c 3-
			grep -oE '`(src|docs|tests|scripts|bench|include|examples)/[^` ]*\.[a-z0-9]+`' "$document" | tr -d '`'
		} | grep -vE 'NAME|\*' | while read -r path; do
			[ -e "$1/$path" ] || [ -e "$(dirname "$document")/$path" ] || echo "$document: names $path, which is not there"
		done
	done
}

check_manuals() { mandoc -T lint -W error "$1"/docs/man/*.[0-9]; }

# What is executed by a shell, by its first line or its name.
shells() { texts "$1" | xargs -d '\n' grep -l -E '^#!/bin/(ba)?sh|^# shellcheck shell' /dev/null; }
check_shells() { shells "$1" | xargs -d '\n' -r shellcheck -x --format=gcc; }

# ---- TAP

count=0 failed=0
report() { # report PASSED TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		failed=1
		echo "not ok $count - $2"
	fi
}

holds() { # holds CHECK TEXT: on this tree the check finds nothing
	local found
	found=$("check_$1" . "$build" 2>&1)
	[ -z "$found" ]
	report $? "$2"
	[ -z "$found" ] || printf '%s\n' "$found" | sed 's/^/# /' | head -n 40
}

catches() { # catches CHECK TEXT WORD: on the planted tree it finds something that has WORD in it
	"check_$1" "$tree" "$tree/build" 2>&1 | grep -q -e "$3"
	report $? "caught: $2"
	rm -rf "$tree"
}

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
plant() { # plant PATH: standard input becomes a file of the planted tree
	mkdir -p "$tree/$(dirname "$1")"
	cat >"$tree/$1"
}
compile() { # compile OBJECT: C from standard input becomes an object of the planted tree
	mkdir -p "$tree/build/obj/$(dirname "$1")"
	cc -fPIC -O1 -x c -c -o "$tree/build/obj/$1" -
}

holds layers 'no include points upward'
echo '#include "home/home.h"' | plant src/store/bad.c
catches layers 'a store that includes the home' 'bad.c:1: store includes home/home.h'
echo '#include "service/run/run.h"' | plant src/service/serve/bad.c
catches layers 'a service that includes one above' 'not below'
echo '#include "net/tls.h"' | plant src/net/data/bad.c
catches layers 'the data plane that includes connection set-up' 'not below'
echo '#include "misc/x.h"' | plant src/store/bad.c
catches layers 'a folder that is in no layer' 'in no layer'

symbols_tree() { # symbols_tree LIBRARY AGENT: C of the two
	mkdir -p "$tree/build" "$tree/include"
	echo 'int lh_known(void);' >"$tree/include/linehome.h"
	echo "$1" | cc -fPIC -shared -x c -o "$tree/build/liblinehome.so" -
	echo "$1" | cc -fPIC -c -x c -o "$tree/build/bad.o" -
	ar rcs "$tree/build/liblinehome.a" "$tree/build/bad.o"
	echo "$2" | cc -fPIC -shared -x c -o "$tree/build/liblinehome-run.so" -
	cp "$tree/build/liblinehome-run.so" "$tree/build/liblinehome-count.so"
	cp "$tree/build/liblinehome-run.so" "$tree/build/liblinehome-atomic.so"
	cp "$tree/build/liblinehome-run.so" "$tree/build/liblinehome-uffd.so"
}
holds symbols 'the library exports what its header declares, the agent nothing'
symbols_tree 'int oops(void) { return 0; }' ''
catches symbols 'a symbol without the prefix' 'liblinehome.so: exports oops'
symbols_tree 'int oops(void) { return 0; }' ''
catches symbols 'a symbol without the prefix in the archive' 'liblinehome.a: defines oops'
symbols_tree 'int lh_unknown(void) { return 0; }' ''
catches symbols 'a function that the header does not declare' 'lh_unknown, which'
symbols_tree '' 'int lh_known(void) { return 0; }'
catches symbols 'an agent that exports' 'liblinehome-run.so: exports lh_known'
symbols_tree '' 'void *munmap(void); void *munmap(void) { return 0; }'
catches symbols 'an agent that takes the place of more than mmap' 'liblinehome-uffd.so: exports munmap'

if [ -n "${SAN:-}" ]; then
	count=$((count + 1))
	echo "ok $count - calls, global state and vector registers # SKIP a sanitizer adds its own to every object"
else
	holds calls 'the core calls nothing but pure functions; the library never exits or prints'
	holds state 'the library has no global mutable state'
	holds vectors 'the translator uses no vector registers'
fi
echo 'double f(double x); double f(double x) { return x * 3; }' | compile src/port/translate/bad.o
catches vectors 'a multiplication in the translator' 'translate/bad.o: uses vector'
echo '#include <stdlib.h>
void *f(void); void *f(void) { return malloc(3); }' | compile src/store/bad.o
catches calls 'malloc in the core' 'src/store/bad.o: needs malloc'
echo '#include <errno.h>
int f(void); int f(void) { return errno; }' | compile src/net/data/bad.o
catches calls 'errno in the core' '__errno_location'
echo '#include <assert.h>
void f(int x); void f(int x) { assert(x); }' | compile src/service/serve/bad.o
catches calls 'assert in the library' '__assert_fail'
echo '#include <stdlib.h>
void f(void); void f(void) { exit(1); }' | compile src/net/bad.o
catches calls 'exit in the library' 'src/net/bad.o: needs exit'
echo 'int counter; int f(void); int f(void) { return counter++; }' | compile src/home/bad.o
catches state 'a global counter' 'src/home/bad.o: 4 bytes of global state'
echo 'int f(void); int f(void) { static int n = 3; return n++; }' | compile src/net/bad.o
catches state 'a static counter' 'global state in .data'

holds blob 'the inside agent needs no linker'
mkdir -p "$tree/build"
echo 'extern int elsewhere; int lh_inside_start(void); int lh_inside_start(void) { return elsewhere; }' |
	cc -fPIC -shared -nostdlib -x c -o "$tree/build/linehome-inside" -
catches blob 'an agent that needs a symbol' 'needs elsewhere'
mkdir -p "$tree/build"
echo 'int oops(void); int oops(void) { static __thread int n; return n++; }' |
	cc -fPIC -shared -nostdlib -x c -o "$tree/build/linehome-inside" -
catches blob 'an agent with thread-local storage' 'has TLS'
mkdir -p "$tree/build"
echo 'int oops(void); int *oops_at(void); int oops(void) { return 1; } int *oops_at(void) { return (int *)oops; }' |
	cc -fPIC -shared -nostdlib -x c -o "$tree/build/linehome-inside" -
catches blob 'an agent with a relocation to a symbol' 'a relocation R_X86_64_'

holds text 'no blanks at line ends, no tab after a space, nothing unfinished'
printf 'int x; \n' | plant src/bad.c
catches text 'a blank at the end of a line' 'blank at the end'
printf 'int f(void)\n{\n  \treturn 0;\n}\n' | plant src/bad.c
catches text 'a tab after a space' 'tab after'
printf '/* TO''DO: write */\n' | plant src/bad.c
catches text 'a note of unfinished work' 'unfinished'

holds length "no function is longer than $longest lines"
{ echo 'int f(void)'; echo '{'; yes ';' | head -n $((longest + 1)); echo '}'; } | plant src/bad.c
catches length 'a function that is too long' 'a function of'

holds width "no line of C is wider than $widest columns"
{ printf '\t/* '; yes x | head -n 101 | tr -d '\n'; echo ' */'; } | plant src/bad.h
catches width 'a comment that is too wide' 'bad.h:1: 11[0-9] columns'

# The --help of a command that has one option which is documented and one that is not.
documents_tree() {
	plant build/linehome <<-'END'
		#!/bin/sh
		[ "$1" = --help ] && echo '  run    run a program' && exit
		[ -n "$WORDS" ] && [ "$2" = --help ] && echo '  create    make one'
		echo '  --local SIZE   known'
		[ -n "$FEWER" ] || echo '  --lokal SIZE   not known'
	END
	chmod +x "$tree/build/linehome"
	printf '.Dd $Mdocdate$\n.Dt LINEHOME 1\n.Os\n.Sh OPTIONS\nlinehome run\n.Bl -tag -width x\n.It Fl -local Ar SIZE\nx\n%s.El\n' "$1" |
		tee "$tree/linehome.1" | plant docs/man/linehome-run.1
	mv "$tree/linehome.1" "$tree/docs/man/linehome.1"
	echo 'run) words="--local" ;;' | plant src/cli/completion.bash
}
holds documents 'every command and option of --help is in its man page and in the completion, and no other'
documents_tree ''
catches documents 'an option without documentation' 'linehome-run.1: lacks --lokal'
documents_tree ''
catches documents 'an option that is not completed' 'completion.bash: lacks --lokal'
documents_tree $'.It Fl -older Ar SIZE\nx\n'
catches documents 'a documented option that is not there' '--older is no option'
documents_tree ''
WORDS=1 catches documents 'a command of a command without documentation' 'linehome-run.1: does not name create'
documents_tree ''
WORDS=1 catches documents 'a command of a command that is not completed' 'completion.bash: lacks run create'
documents_tree ''
rm "$tree/docs/man/linehome-run.1"
catches documents 'a command without a man page' 'has no man page'

holds links 'the documents name files that are there'
echo 'Read [this](docs/gone.md).' | plant README.md
catches links 'a link to a file that is gone' 'README.md: names docs/gone.md'
echo 'It is in `src/gone.c`.' | plant docs/X.md
catches links 'the name of a file that is gone' 'X.md: names src/gone.c'

holds manuals 'the man pages have no errors'
printf '.Dd today\n.Dt X 1\n.Os\n.Sh NAME\n.Bl -tag\n' | plant docs/man/bad.1
catches manuals 'an error in a man page' 'bad.1'

holds shells 'shellcheck finds nothing'
printf '#!/bin/bash\nrm -rf $1/x\n' | plant scripts/bad
catches shells 'a variable without quotes' 'bad:2'

echo "1..$count"
exit $failed
