#!/bin/bash
# timeout: 30
# The command line as a person meets it: help, and for every mistake one line on stderr that says what is wrong and how
# to mend it, with exit status 2, before anything is done.
set -u
cd "$(dirname "$0")/.." || exit 1
linehome=${LINEHOME_BUILD:-build}/linehome

count=0 failed=0
report() { # report PASSED TEXT
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		printf '%s\n' "status $status" "$out" "$err" | sed 's/^/# /'
		failed=1
	fi
}

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
run() {
	timeout 5 "$linehome" "$@" >"$files/out" 2>"$files/err" </dev/null
	status=$?
	out=$(cat "$files/out") err=$(cat "$files/err")
}

# refused MESSAGE ARG...: status 2, nothing on stdout, the one line on stderr is MESSAGE, which may be a pattern.
refused() {
	local message=$1
	shift
	run "$@"
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = 2 ] && [ -z "$out" ] && [[ $err == $message ]] && [ "$(wc -l <"$files/err")" = 1 ]
	report $? "linehome $* -> $message"
}

# shows PATTERN ARG...: status 0, the pattern on stdout, nothing on stderr.
shows() {
	local pattern=$1
	shift
	run "$@"
	# shellcheck disable=SC2053 # a pattern is meant
	[ $status = 0 ] && [[ $out == $pattern ]] && [ -z "$err" ]
	report $? "linehome $*"
}

version=$(sed -n 's/^.define LH_VERSION "\(.*\)"/\1/p' include/linehome.h)
shows 'Usage: linehome COMMAND*' --help
shows "linehome $version" --version
for command in run serve; do
	shows "Usage: linehome $command *" $command --help
	shows "linehome $version" $command --version
	shows "Usage: linehome $command *" $command --hel
	refused "linehome $command: --nonsense: unknown option; see linehome $command --help" $command --nonsense
	refused "linehome $command: --nonsense: unknown option; see linehome $command --help" $command --nonsense=3
	refused "linehome $command: -x: unknown option; see linehome $command --help" $command -x
	refused "linehome $command: --stast: unknown option; did you mean --stats?" $command --stast x
	refused "linehome $command: --help: takes no argument; write --help alone" $command --help=3
	refused "linehome $command: --stats: needs an argument; write --stats FILE" $command --stats
	refused "linehome $command: --stats: given more than once; write it once" $command --stats a --stats b
	refused "linehome $command: --stats : is empty; *" $command --stats ''
	refused "linehome $command: --key-file: given more than once; *" $command --key-file a --key-file=b
done
refused 'linehome: no command; write for instance linehome run *'
refused 'linehome: frobnicate: unknown command; see linehome --help' frobnicate
refused 'linehome: serv: unknown command; did you mean serve?' serv
refused 'linehome: --nonsense: unknown option; see linehome --help' --nonsense
refused 'linehome: : unknown command; see linehome --help' ''

# Sizes, wherever one is taken.
sizes() { # sizes OPTION ARG...
	local option=$1
	shift
	for size in 12Q '' -1 1.5G 0x10 ' 5M'; do
		refused "linehome $1: $option $size: not a size; write for instance 512M*" "$@" "$option" "$size"
	done
	refused "linehome $1: $option 0: a size of nothing; *" "$@" "$option" 0
	refused "linehome $1: $option 1K: less than a page; write at least 4K" "$@" "$option" 1K
	refused "linehome $1: $option 99999999999999999999G: larger than any memory; *" "$@" "$option" 99999999999999999999G
	refused "linehome $1: $option 9999999G: more than this machine's memory; write at most *" "$@" "$option" 9999999G
}
sizes --local run
sizes --size serve

# Durations, choices, URLs.
for word in '' -1 3x 1e3 .5; do
	refused "linehome run: --timeout $word: not a duration; write seconds, *" run --timeout "$word"
	refused "linehome serve: --grace $word: not a duration; write seconds, *" serve --grace "$word"
done
refused 'linehome run: --engine fast: not one of the choices; write thread|inline' run --engine fast true
refused 'linehome run: --prefetch all: not one of the choices; write none|next*' run --prefetch all true
refused 'linehome run: --progress: takes no argument; *' run --progress=yes true
for url in '' http://x tcp: unix mem; do
	refused "linehome run: --store $url: not the URL of a memory node; write unix:PATH or tcp://HOST:PORT" run --store "$url" true
	refused "linehome serve: --listen $url: not the URL of a memory node; write unix:PATH or tcp://HOST:PORT" serve --listen "$url"
done
refused 'linehome run: --store unix:: no path; *' run --store unix: true
refused 'linehome run: --store tcp://x: not a host and a port; *' run --store tcp://x true
refused 'linehome run: --store tcp://x:0: not a port; *' run --store tcp://x:0 true
refused 'linehome run: --store tcp://x:70000: not a port; *' run --store tcp://x:70000 true
refused 'linehome run: --store file:/x: stores in files are not part of this version; *' run --store file:/x true
refused 'linehome serve: --listen mem:: nothing to listen on; *' serve --listen mem:
refused 'linehome serve: stray: not an option; see linehome serve --help' serve stray

refused 'linehome run: --store takes one URL*' run --store unix:a,unix:b true
refused 'linehome run: --policy best: no such policy*' run --policy best true

# What a command needs and did not get.
refused 'linehome run: no program: write for instance *' run
refused 'linehome run: no program: write for instance *' run --local 5M --
refused 'linehome serve: nowhere to listen: give --listen *' serve

"$linehome" --help >/dev/full 2>"$files/err"
status=$? out='' err=$(cat "$files/err")
[ $status = 125 ] && [[ $err == 'linehome: standard output cannot be written; '* ]]
report $? 'help that cannot be printed is a failure'

echo "1..$count"
exit $failed
