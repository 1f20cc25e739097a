#!/bin/bash
# timeout: 20
# What bash offers where a word of the command line is begun.
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=src/cli/completion.bash
. src/cli/completion.bash

count=0 failed=0
# offers TEXT WORD...: the last WORD is the one that is begun; TEXT must be among what is offered.
offers() {
	local wanted=$1
	shift
	COMP_WORDS=(linehome "$@") COMP_CWORD=$#
	COMPREPLY=()
	_linehome
	count=$((count + 1))
	if [[ " ${COMPREPLY[*]} " == *" $wanted "* ]]; then
		echo "ok $count - linehome $* -> $wanted"
	else
		echo "not ok $count - linehome $* -> $wanted"
		echo "# offered: ${COMPREPLY[*]}"
		failed=1
	fi
}

offers run r
offers serve ''
offers --version --v
offers --local run --lo
offers '--prefetch' run --progress --pre
offers next run --prefetch n
offers inline run --engine ''
offers recorded serve-uffd --policy r
offers --memory incoming --m
offers tcp:// serve --listen t
offers --grace serve --size 3G --g
offers mem: run --store m
offers bash run --local 5M bas
offers pool p
offers recover pool r
offers --log-size pool create --l
offers --json pool info --j
offers --content pool log x --
offers LICENSE pool check LICEN
offers apply patch -p 1 ap
offers --audit patch list --a
offers LICENSE patch -p 1 apply LICEN
offers $$ patch --pid $$
offers --calls trace --c
offers json trace --format j
offers bash trace --calls f bas

COMP_WORDS=(linehome run --local '') COMP_CWORD=3
COMPREPLY=(left over)
_linehome
count=$((count + 1))
if [ ${#COMPREPLY[@]} = 0 ]; then
	echo "ok $count - a size is not guessed"
else
	echo "not ok $count - a size is not guessed"
	failed=1
fi
is_program() {
	local wanted=$1
	shift
	COMP_WORDS=(linehome "$@") COMP_CWORD=$#
	count=$((count + 1))
	if [ "$(_linehome_program)" = "$wanted" ]; then
		echo "ok $count - linehome $*: the program is word ${wanted:-none}"
	else
		echo "not ok $count - linehome $*: the program is word ${wanted:-none}"
		failed=1
	fi
}
is_program 2 run sort -
is_program 4 run --local 3M sort -
is_program 4 run --progress -- sort x
is_program '' run --local sort
is_program 7 trace --include-libraries -o x --calls f sort -
is_program '' serve --listen x
echo "1..$count"
exit $failed
